"""The linear model and its direct solution."""

import numpy as np
import pytest
from scipy.optimize import minimize

import fdforce
from fdforce.config import config_from_dict
from fdforce.descriptors import Chebyshev
from fdforce.errors import ConfigError
from fdforce.examples import example_files
from fdforce.gradient import loss_gradient
from fdforce.least_squares import RowWeights, solve, weighted_rows
from fdforce.losses import Target, make_loss
from fdforce.models import LinearModel
from fdforce.structure_files import read_file
from tests.checks import batch_of, relative, symmetric
from tests.systems import SYSTEMS

NAMES = ["left_handed", "dimer", "single_atom", "thin_triclinic"]


@pytest.fixture(scope="module")
def model_and_batch():
    model = LinearModel(Chebyshev(("Ti", "O"), 4.5, 5, 3.5, 3))
    batch = batch_of([SYSTEMS[name]() for name in NAMES], ("Ti", "O"), model.cutoff)
    model.standardise([batch])
    model.scale = 0.7
    return model, batch


def test_energies_forces_and_virials_are_the_design_times_theta(model_and_batch):
    model, batch = model_and_batch
    energy, forces, virial = model.design(batch)
    state = model.forward(batch)
    expected_forces, expected_virial = model.forces(state)
    # a product of a few dozen terms in float64
    np.testing.assert_allclose(energy @ model.theta, state.energy, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(forces @ model.theta, expected_forces, atol=1e-11)
    voigt = expected_virial[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    np.testing.assert_allclose(virial @ model.theta, voigt, atol=1e-10)
    gradient = model.gradient(state, np.ones(len(batch)))
    np.testing.assert_allclose(energy.sum(axis=0), gradient, rtol=1e-12, atol=1e-12)


def test_coefficients_of_plain_features(model_and_batch):
    model, batch = model_and_batch
    model.reference_energies = np.array([-3.0, -5.0])
    try:
        coefficients = model.coefficients()
        atoms = SYSTEMS["left_handed"]()
        features = model.descriptor.compute(atoms)
        species = [model.elements.index(symbol) for symbol in atoms.symbols]
        energy = sum(coefficients[z] @ [1, *g] for z, g in zip(species, features, strict=True))
        assert energy == pytest.approx(model.forward(batch).energy[0], rel=1e-11)
    finally:
        model.reference_energies = np.zeros(2)


def problem(batch, seed=0):
    rng = np.random.default_rng(seed)
    n, s = batch.n_atoms, len(batch)
    target = Target(
        rng.normal(size=s), rng.normal(size=(n, 3)), symmetric(rng, s), rng.uniform(0.5, 2, size=s)
    )
    target.energy[1] = np.nan
    target.forces[batch.structure == 2] = np.nan
    target.virial[~np.isfinite(batch.volumes)] = np.nan
    return target


def row_weights(loss, batch, target):
    energy, forces, virial = loss.factors(len(batch), target)
    return RowWeights(energy / batch.counts**2, forces, virial / batch.counts**2)


@pytest.fixture(scope="module")
def solved(model_and_batch):
    model, batch = model_and_batch
    target = problem(batch)
    loss = make_loss("squared", energy_weight=2.0, stress_weight=0.5, mean_atoms=4.0)
    rows = weighted_rows(model, batch, target, row_weights(loss, batch, target))
    return loss, target, rows


def test_rows_are_the_loss(model_and_batch, solved):
    model, batch = model_and_batch
    loss, target, rows = solved
    state = model.forward(batch)
    terms = loss(batch, state.energy, *model.forces(state), target)
    errors = rows[:, :-1] @ model.theta - rows[:, -1]
    assert errors @ errors == pytest.approx(terms.value, rel=1e-11)


def test_the_solution_is_the_minimum_of_the_loss(model_and_batch, solved):
    model, batch = model_and_batch
    loss, target, rows = solved
    before = model.theta
    try:
        found = solve([rows])
        model.theta = found.theta
        step = loss_gradient(model, batch, lambda *r: loss(*r, target), stencil="complex")
        assert step.loss == pytest.approx(found.residual, rel=1e-9)
        size = np.linalg.norm(rows[:, :-1], 2) * np.linalg.norm(rows[:, -1])
        assert np.linalg.norm(step.gradient) < 1e-9 * size
    finally:
        model.theta = before


def test_blocks_of_any_size_and_order_give_one_result(solved):
    _, _, rows = solved
    whole = solve([rows])
    rng = np.random.default_rng(1)
    for size in (1, 7, len(rows)):
        mixed = rows[rng.permutation(len(rows))]
        found = solve([mixed[k : k + size] for k in range(0, len(rows), size)])
        assert found.residual == pytest.approx(whole.residual, rel=1e-9)
        assert found.rank == whole.rank
        predicted = rows[:, :-1] @ found.theta
        assert relative(predicted, rows[:, :-1] @ whole.theta) < 1e-7


def test_against_numpy_and_the_ridge():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(40, 6)), rng.normal(size=40)
    rows = np.column_stack([a, b])
    expected, residual, *_ = np.linalg.lstsq(a, b, rcond=None)
    found = solve([rows[:3], rows[3:20], rows[20:]])
    np.testing.assert_allclose(found.theta, expected, rtol=1e-12)
    assert found.residual == pytest.approx(residual[0], rel=1e-12)
    mean_square = np.mean(np.linalg.svd(a)[1] ** 2)
    ridged = np.linalg.solve(a.T @ a + 0.1 * mean_square * np.eye(6), a.T @ b)
    np.testing.assert_allclose(solve([rows], ridge=0.1).theta, ridged, rtol=1e-12)
    with pytest.raises(ValueError, match="no labels"):
        solve([])


def test_directions_without_data_stay_zero():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(30, 4)), rng.normal(size=30)
    rows = np.column_stack([a, np.zeros(30), b])
    found = solve([rows])
    assert found.rank == 4
    assert found.theta[4] == 0


def settings(**optimizer):
    train, _ = example_files("diamond")
    return {
        "data": {"train": str(train), "valid": 0.1},
        "model": {"kind": "linear", "radial_cutoff": 4.0, "angular_cutoff": 3.0,
                  "radial_order": 4, "angular_order": 2},
        "optimizer": optimizer,
        "training": {"threads": 1},
    }  # fmt: skip


def quiet(_):
    pass


def test_fit_by_least_squares(tmp_path):
    result = fdforce.fit(settings(name="least_squares"), out=tmp_path / "run", log=quiet)
    assert result.history["epoch"].tolist() == [1]
    assert result.metrics["valid"]["force_rmse"] < 0.6
    again = fdforce.load_model(tmp_path / "run" / "model.npz")
    assert isinstance(again, LinearModel)
    assert np.array_equal(again.theta, result.model.theta)
    resumed = fdforce.fit(resume=tmp_path / "run", log=quiet)
    assert np.array_equal(resumed.model.theta, again.theta)
    smaller = fdforce.fit(
        settings(name="least_squares", ridge=1.0), out=tmp_path / "ridge", log=quiet
    )
    assert np.linalg.norm(smaller.model.theta) < np.linalg.norm(again.theta)


def test_finite_difference_gradients_reach_the_same_minimum():
    """Forces of 40 crystals: L-BFGS on the gradients of Eq. 7 against least squares."""
    frames = read_file(example_files("diamond")[0])[:40]
    model = LinearModel(Chebyshev(("C",), 4.0, 4, 3.0, 2))
    batch = batch_of(frames, ("C",), model.cutoff)
    model.standardise([batch])
    target = Target(
        np.full(len(batch), np.nan), np.concatenate([atoms.get_forces() for atoms in frames]),
        np.full((len(batch), 3, 3), np.nan), np.ones(len(batch)),
    )  # fmt: skip
    loss = make_loss("squared", mean_atoms=16.0)
    direct = solve([weighted_rows(model, batch, target, row_weights(loss, batch, target))])

    def loss_and_gradient(theta):
        model.theta = theta
        step = loss_gradient(model, batch, lambda *r: loss(*r, target), epsilon=2e-6)
        return step.loss, step.gradient

    trained = minimize(
        loss_and_gradient, np.zeros_like(model.theta), jac=True, method="L-BFGS-B",
        options={"maxiter": 200, "ftol": 1e-14, "gtol": 1e-9},
    )  # fmt: skip
    assert trained.fun == pytest.approx(direct.residual, rel=1e-9)


def test_what_least_squares_cannot_solve(tmp_path):
    wrong = settings(name="least_squares")
    wrong["model"]["kind"] = "elemental_networks"
    with pytest.raises(ConfigError, match=r'take model\.kind = "linear"'):
        fdforce.fit(wrong, out=tmp_path / "run", log=quiet)
    with pytest.raises(ConfigError, match=r"choose one of adam, .*least_squares"):
        fdforce.fit(settings(name="nonsense"), out=tmp_path / "run", log=quiet)
    assert config_from_dict({"optimizer": {"ridge": 1}}).optimizer.ridge == 1.0

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms

from fdforce.errors import ConfigError
from fdforce.losses import (
    LOSSES,
    HuberLoss,
    L1Loss,
    RMSELoss,
    SquaredLoss,
    Target,
    make_loss,
)
from tests.checks import batch_of, check_directional, symmetric
from tests.systems import SYSTEMS

NAMES = ["two_species", "dimer", "left_handed", "thin_triclinic"]
LOSS = SquaredLoss(
    energy_weight=0.7,
    force_weight=1.9,
    stress_weight=0.4,
    energy_unit=0.3,
    force_unit=1.2,
    virial_unit=2.1,
    mean_atoms=4.5,
)
KINDS = [
    LOSS,
    HuberLoss(**vars(LOSS), huber_delta=0.8),  # errors lie on both sides
    L1Loss(**vars(LOSS)),
    replace(LOSS, energy_normalisation="per_structure", element_weights=(0.5, 2.0)),
    replace(HuberLoss(**vars(LOSS)), element_weights=(3.0, 0.2)),
]
RMSE = RMSELoss(alpha=0.3, stress_weight=0.4)


def example():
    """A batch, predictions, and labels of which some are missing."""
    batch = batch_of([SYSTEMS[name]() for name in NAMES], ["Ti", "O"], 4.0)
    rng = np.random.default_rng(0)
    n_structures, n_atoms = len(batch), batch.n_atoms

    def draw():
        forces = rng.normal(size=(n_atoms, 3))
        return rng.normal(-20, 5, n_structures), forces, symmetric(rng, n_structures)

    prediction, (energy, forces, virial) = draw(), draw()
    energy[2] = np.nan
    forces[batch.structure == 3] = np.nan
    virial[[1, 3]] = np.nan  # the dimer has none, the last one no label
    return batch, prediction, Target(energy, forces, virial, np.array([1.0, 2.5, 0.5, 3.0]))


def penalty(loss, x):
    """rho of an error in units of what there is to learn."""
    if isinstance(loss, HuberLoss):
        delta = loss.huber_delta
        return x**2 if abs(x) <= delta else delta * (2 * abs(x) - delta)
    if isinstance(loss, L1Loss):
        return np.sqrt(x**2 + 1e-6) - 1e-3
    return x**2


def by_hand(loss, batch, energy, forces, virial, target):
    """The formula of weighted_loss.py, structure by structure."""
    total, shares = 0.0, []
    elements = loss.element_weights or (1, 1)
    for s in range(len(batch)):
        atoms = [i for i in range(batch.n_atoms) if batch.structure[i] == s]
        n, force_part = len(atoms), 0.0
        weight = target.weight[s] / len(batch)
        if not np.isnan(target.energy[s]):
            error = energy[s] - target.energy[s]
            error /= n if loss.energy_normalisation == "per_atom" else 1
            total += weight * loss.energy_weight * penalty(loss, error / loss.energy_unit)
        for i in atoms:
            if not np.isnan(target.forces[i]).any():
                error = np.linalg.norm(forces[i] - target.forces[i]) / 3**0.5 / loss.force_unit
                force_part += (
                    loss.force_weight
                    * elements[batch.species[i]] * penalty(loss, error) / loss.mean_atoms
                )  # fmt: skip
        if not np.isnan(target.virial[s]).any():
            error = np.linalg.norm(virial[s] - target.virial[s]) / n / 3 / loss.virial_unit
            force_part += loss.stress_weight * penalty(loss, error)
        shares.append(weight * force_part)
    return total + sum(shares), shares


@pytest.mark.parametrize("loss", KINDS, ids=lambda loss: type(loss).__name__)
def test_value_is_that_of_the_loops(loss):
    batch, prediction, target = example()
    terms = loss(batch, *prediction, target)
    value, shares = by_hand(loss, batch, *prediction, target)
    # about a hundred terms of one sign
    assert terms.value == pytest.approx(value, rel=1e-13)
    assert isinstance(terms.value, float)
    assert 0 < terms.force_loss.sum() < terms.value
    assert terms.force_loss[3] == 0
    assert loss.total(terms) == terms.value
    if isinstance(loss, SquaredLoss):
        assert terms.force_loss == pytest.approx(shares, rel=1e-13)


def test_root_mean_squares_are_those_of_aenet():
    batch, prediction, target = example()
    target = replace(target, weight=np.ones(len(batch)))
    energy = [(prediction[0][s] - target.energy[s]) / batch.counts[s] for s in (0, 1, 3)]
    forces = (prediction[1] - target.forces)[batch.structure != 3]
    virial = [np.linalg.norm((prediction[2] - target.virial)[s] / batch.counts[s]) for s in (0, 2)]
    rmse = [np.sqrt(np.mean(np.square(errors))) for errors in (energy, virial)]
    of_forces = np.sqrt(np.sum(forces**2) / len(forces))
    expected = 0.7 * rmse[0] + 0.3 * of_forces + 0.4 * rmse[1]
    # a root of some thirty terms of one sign
    assert RMSE(batch, *prediction, target).value == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("loss", [*KINDS, RMSE], ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("which", [0, 1, 2], ids=["energy", "forces", "virial"])
def test_derivatives(loss, which):
    batch, prediction, target = example()

    def value(x):
        return loss(batch, *prediction[:which], x, *prediction[which + 1 :], target).value

    def derivative(x):
        terms = loss(batch, *prediction[:which], x, *prediction[which + 1 :], target)
        return (terms.d_energy, terms.d_forces, terms.d_virial)[which]

    # squares: exact over any step but for round-off, 1e-16 L / step. Others: errors are of order 1
    # and their fifth derivatives too, so 1e-12 from truncation and 1e-13 from round-off
    step = 1.0 if isinstance(loss, SquaredLoss) else 1e-3
    check_directional(value, derivative, prediction[which], step=step, tolerance=1e-9)


@pytest.mark.parametrize("loss", [*KINDS, RMSE], ids=lambda loss: type(loss).__name__)
def test_force_loss_is_half_the_work_along_the_direction(loss):
    batch, prediction, target = example()
    terms = loss(batch, *prediction, target)
    d_forces = np.nan_to_num(prediction[1] - target.forces)
    d_virial = np.nan_to_num(prediction[2] - target.virial)
    work = np.bincount(batch.structure, np.sum(terms.d_forces * d_forces, axis=1))
    work += np.sum(terms.d_virial * d_virial, axis=(1, 2))
    # sums of some thirty terms of one sign
    assert terms.force_loss == pytest.approx(work / 2, rel=1e-13)


@pytest.mark.parametrize("loss", [*KINDS, RMSE], ids=lambda loss: type(loss).__name__)
def test_a_perfect_prediction_has_no_derivative(loss):
    batch, (energy, forces, virial), _ = example()
    target = Target(energy, forces, virial, np.ones(len(batch)))
    terms = loss(batch, energy, forces, virial, target)
    assert terms.value == 0
    for derivative in (terms.d_energy, terms.d_forces, terms.d_virial):
        assert not derivative.any()


@pytest.mark.parametrize("loss", [*KINDS, RMSE], ids=lambda loss: type(loss).__name__)
def test_losses_do_not_depend_on_the_axes(loss):
    batch, (energy, forces, virial), target = example()
    rotation, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))

    def turned(tensor):
        return np.einsum("ai,sij,bj->sab", rotation, tensor, rotation)

    other = replace(target, forces=target.forces @ rotation.T, virial=turned(target.virial))
    terms = loss(batch, energy, forces, virial, target)
    after = loss(batch, energy, forces @ rotation.T, turned(virial), other)
    # round-off of a rotation, a few 1e-16, squared and summed
    assert after.value == pytest.approx(terms.value, rel=1e-13)
    np.testing.assert_allclose(after.d_forces, terms.d_forces @ rotation.T, atol=1e-13)


def test_huber_is_squared_below_and_linear_beyond():
    batch, prediction, target = example()
    squared = LOSS(batch, *prediction, target)
    wide = HuberLoss(**vars(LOSS), huber_delta=100.0)(batch, *prediction, target)
    assert wide.value == pytest.approx(squared.value, rel=1e-14)
    np.testing.assert_allclose(wide.d_forces, squared.d_forces, rtol=1e-14)
    narrow = HuberLoss(**vars(LOSS), huber_delta=1e-3)(batch, *prediction, target)
    lengths = np.linalg.norm(narrow.d_forces, axis=1)[batch.structure == 0]
    assert np.ptp(lengths) < 1e-14 * lengths[0]  # the pull does not grow with the error


@pytest.mark.parametrize("loss", [*KINDS, RMSE], ids=lambda loss: type(loss).__name__)
def test_error_threshold_takes_small_errors_out_of_the_direction(loss):
    batch, prediction, target = example()
    terms = loss(batch, *prediction, target)
    errors = np.linalg.norm(np.nan_to_num(prediction[1] - target.forces), axis=1)
    rmse = np.sqrt(np.sum(errors**2) / np.count_nonzero(batch.structure != 3))
    some = replace(loss, error_threshold=0.9)(batch, *prediction, target)
    large = errors > 0.9 * rmse
    assert 2 < large.sum() < len(large) - 2
    np.testing.assert_array_equal(some.d_forces, np.where(large[:, None], terms.d_forces, 0))
    assert some.value == terms.value
    np.testing.assert_array_equal(some.d_energy, terms.d_energy)
    assert (some.force_loss <= terms.force_loss).all()


def test_ramps_lie_on_a_line():
    loss = replace(LOSS, start_weights=(2.7, 0.0, 0.4))
    assert loss.at(0.0).weights.tolist() == [2.7, 0.0, 0.4]
    half = loss.at(0.5)
    assert half.weights == pytest.approx([1.7, 0.95, 0.4], rel=1e-15)
    assert loss.at(1.0) == loss.at(1.5) == LOSS
    assert LOSS.at(0.3) is LOSS
    batch, prediction, target = example()
    # taken with other weights, judged by those of the end
    terms = half(batch, *prediction, target)
    assert loss.total(terms) == pytest.approx(LOSS(batch, *prediction, target).value, rel=1e-14)
    assert not loss.at(0.0)(batch, *prediction, target).d_forces.any()


def test_missing_labels_have_no_derivative():
    batch, prediction, target = example()
    terms = LOSS(batch, *prediction, target)
    assert terms.d_energy[2] == 0
    assert not terms.d_forces[batch.structure == 3].any()
    assert not terms.d_virial[[1, 3]].any()
    assert np.isfinite(terms.d_energy).all()
    assert (terms.d_forces[batch.structure != 3] != 0).all()
    # what is predicted there does not matter
    prediction[1][batch.structure == 3] += 1.0
    prediction[0][2] += 1.0
    prediction[2][[1, 3]] += 1.0
    assert LOSS(batch, *prediction, target).value == terms.value


def test_prediction_that_is_not_finite_stays_visible():
    batch, prediction, target = example()
    prediction[1][0, 0] = np.nan
    assert np.isnan(LOSS(batch, *prediction, target).value)


def test_model_that_predicts_nothing_has_terms_of_one():
    batch, _, target = example()
    rng = np.random.default_rng(3)
    counts = batch.counts
    energy = rng.normal(size=len(batch))
    energy *= counts / np.sqrt(np.mean(energy**2))
    forces, virial = rng.normal(size=(batch.n_atoms, 3)), symmetric(rng, len(batch))
    target = Target(energy, forces, virial * counts[:, None, None], np.ones(len(batch)))
    zero = (np.zeros(len(batch)), np.zeros((batch.n_atoms, 3)), np.zeros((len(batch), 3, 3)))
    units = dict(
        force_unit=np.sqrt(np.mean(forces**2)),
        virial_unit=np.sqrt(np.mean(virial**2)),
        mean_atoms=counts.mean(),
    )
    for name in ("energy", "force", "stress"):
        weights = {f"{k}_weight": float(k == name) for k in ("energy", "force", "stress")}
        assert SquaredLoss(**weights, **units)(batch, *zero, target).value == pytest.approx(
            1, rel=1e-12
        )


def test_structure_weights_are_factors():
    batch, prediction, target = example()
    one = LOSS(batch, *prediction, target)
    twice = LOSS(batch, *prediction, replace(target, weight=2 * target.weight))
    assert twice.value == pytest.approx(2 * one.value, rel=1e-14)
    assert twice.d_forces == pytest.approx(2 * one.d_forces, rel=1e-14)


def test_error_sums():
    batch, prediction, target = example()
    errors = LOSS(batch, *prediction, target).errors
    energy = [(prediction[0][s] - target.energy[s]) / batch.counts[s] for s in (0, 1, 3)]
    kept = batch.structure != 3
    forces = (prediction[1] - target.forces)[kept].ravel()
    stress = [
        (prediction[2][s] - target.virial[s])[a, b] / batch.volumes[s]
        for s in (0, 2)
        for a, b in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
    ]
    for name, expected in (("energy", energy), ("force", forces), ("stress", stress)):
        expected = np.array(expected)
        sums = [np.sum(expected**2), np.abs(expected).sum(), expected.size]
        assert errors[name] == pytest.approx(sums, rel=1e-12), name


def test_error_sums_without_labels_are_zero():
    batch = batch_of([Atoms("Ti2", [[0, 0, 0], [0, 0, 2.5]])], ["Ti"], 4.0)
    nothing = Target(
        np.array([np.nan]), np.full((2, 3), np.nan), np.full((1, 3, 3), np.nan), np.ones(1)
    )
    terms = SquaredLoss()(batch, np.ones(1), np.ones((2, 3)), np.ones((1, 3, 3)), nothing)
    assert terms.value == 0
    for name in ("energy", "force", "stress"):
        assert terms.errors[name].tolist() == [0, 0, 0]


def test_losses_by_name():
    loss = make_loss("squared", force_weight=3.0)
    assert loss == SquaredLoss(force_weight=3.0)
    assert LOSSES["squared"] is SquaredLoss
    assert make_loss("huber", huber_delta=2.0) == HuberLoss(huber_delta=2.0)
    with pytest.raises(
        ConfigError, match=r"loss\.kind = 'cubed': choose one of squared, huber, l1, rmse"
    ):
        make_loss("cubed")


def test_weights_of_groups():
    batch, prediction, target = example()
    split = replace(target, weight=np.repeat(target.weight[:, None], 3, axis=1))
    assert LOSS(batch, *prediction, split).value == pytest.approx(
        LOSS(batch, *prediction, target).value, rel=1e-14
    )
    forces_alone = split.weight * [0, 1, 0]
    terms = LOSS(batch, *prediction, replace(split, weight=forces_alone))
    assert not terms.d_energy.any()
    assert not terms.d_virial.any()
    expected = LOSS(batch, *prediction, target).d_forces
    np.testing.assert_allclose(terms.d_forces, expected, rtol=1e-14)


def test_groups_are_config_types():
    from fdforce.problem import weigh_groups
    from fdforce.structures import read_structures

    frames = []
    for group in ("bulk", "liquid", "liquid"):
        atoms = Atoms("H2", [[0, 0, 0], [0, 0, 1.0]])
        atoms.info = {"config_type": group, "energy": 1.0, "weight": 2.0}
        frames.append(atoms)
    structures, _ = read_structures(frames)
    target = Target(structures.energies, structures.forces, structures.stresses, structures.weights)
    found = weigh_groups(target, structures, {"liquid": [100.0, 1.0, 1e-8]})
    assert found.weight.tolist() == [[2, 2, 2], [200, 2, 2e-8], [200, 2, 2e-8]]
    assert weigh_groups(target, structures, {}) is target
    with pytest.raises(ConfigError, match=r"no training structure .* there are: bulk, liquid"):
        weigh_groups(target, structures, {"solid": [1.0, 1.0, 1.0]})

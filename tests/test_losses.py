from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms

from fdforce.errors import ConfigError
from fdforce.losses import LOSSES, SquaredLoss, Target, make_loss
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


def by_hand(loss, batch, energy, forces, virial, target):
    """The module's formula, structure by structure."""
    total, shares = 0.0, []
    for s in range(len(batch)):
        atoms = [i for i in range(batch.n_atoms) if batch.structure[i] == s]
        n, force_part = len(atoms), 0.0
        weight = target.weight[s] / len(batch)
        if not np.isnan(target.energy[s]):
            error = (energy[s] - target.energy[s]) / n
            total += weight * loss.energy_weight * error**2 / loss.energy_unit**2
        for i in atoms:
            for k in range(3):
                if not np.isnan(target.forces[i, k]):
                    force_part += (
                        loss.force_weight
                        * (forces[i, k] - target.forces[i, k]) ** 2
                        / (3 * loss.mean_atoms * loss.force_unit**2)
                    )
        for a in range(3):
            for b in range(3):
                if not np.isnan(target.virial[s, a, b]):
                    error = (virial[s, a, b] - target.virial[s, a, b]) / n
                    force_part += loss.stress_weight * error**2 / (9 * loss.virial_unit**2)
        shares.append(weight * force_part)
    return total + sum(shares), shares


def test_value_is_that_of_the_loops():
    batch, prediction, target = example()
    terms = LOSS(batch, *prediction, target)
    value, shares = by_hand(LOSS, batch, *prediction, target)
    # about a hundred terms of one sign
    assert terms.value == pytest.approx(value, rel=1e-13)
    assert terms.force_loss == pytest.approx(shares, rel=1e-13)
    assert isinstance(terms.value, float)
    assert 0 < terms.force_loss.sum() < terms.value
    assert terms.force_loss[3] == 0


@pytest.mark.parametrize("which", [0, 1, 2], ids=["energy", "forces", "virial"])
def test_derivatives(which):
    batch, prediction, target = example()

    def value(x):
        return LOSS(batch, *prediction[:which], x, *prediction[which + 1 :], target).value

    def derivative(x):
        terms = LOSS(batch, *prediction[:which], x, *prediction[which + 1 :], target)
        return (terms.d_energy, terms.d_forces, terms.d_virial)[which]

    # the loss is quadratic, so differences over any step are exact but for round-off
    check_directional(value, derivative, prediction[which], step=1.0, tolerance=1e-10)


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
    with pytest.raises(ConfigError, match=r"loss\.kind = 'cubed': choose one of squared"):
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

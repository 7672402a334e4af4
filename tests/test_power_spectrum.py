"""Power spectrum of the neighbour density: the loops, backward, physics, models."""

import json
from functools import cache

import numpy as np
import pytest
from ase import Atoms

from fdforce.descriptors.power_spectrum import PowerSpectrum
from fdforce.devices import HOST
from fdforce.errors import ConfigError, DataError
from tests.checks import (
    COMPLEX_STEP,
    ELEMENTS,
    EPS,
    EPS_32,
    batch_of,
    bent_oxide,
    check_backward,
    check_backward_in_float32,
    check_chunks,
    check_forces,
    check_keeping_nothing,
    check_loss_gradient,
    check_nan,
    check_permutation,
    check_replicas,
    check_rotation_and_translation,
    check_standardisation,
    check_supercell,
    cluster,
    elements_of,
    every_system,
    networks_and_batch,
    of_first_atom,
    plain,
    setting_of,
)
from tests.naive import power_spectrum as naive
from tests.systems import SYSTEMS

CASES = {
    "all": dict(cutoff=4.0, radial_order=3, angular_order=4),
    "diagonal": dict(cutoff=4.5, radial_order=4, angular_order=2, element_pairs="diagonal"),
    "weighted": dict(cutoff=4.5, radial_order=2, angular_order=3, element_pairs="weighted"),
    "four body": dict(cutoff=4.2, radial_order=2, angular_order=2, four_body=2),
    "degree": dict(cutoff=4.2, radial_order=4, angular_order=3, max_degree=5, distance_damping=0.0),
}

every_case = pytest.mark.parametrize("case", CASES)


@cache
def oracle(system, case):
    atoms = SYSTEMS[system]()
    return naive.features(atoms, elements_of(atoms), **CASES[case])


def setting(system, case, **options):
    return setting_of(lambda elements: PowerSpectrum(elements, **CASES[case]), system, **options)


def worst(features, expected):
    """Error relative to the largest feature of the atom: the others are sums that cancel."""
    size = 1 + np.abs(expected).max(axis=1, keepdims=True)
    return np.max(np.abs(features - expected) / size)


# Against the oracle


@every_case
@every_system
def test_features_are_those_of_the_loops(system, case):
    atoms, expected = SYSTEMS[system](), oracle(system, case)
    descriptor = PowerSpectrum(elements_of(atoms), **CASES[case])
    assert expected.shape[1] == descriptor.n_features == len(descriptor.labels)
    features = descriptor.compute(atoms)
    assert features.dtype == np.float64
    assert worst(features, expected) < 100 * EPS


@every_case
@every_system
def test_float32_differs_by_its_round_off(system, case):
    atoms, expected = SYSTEMS[system](), oracle(system, case)
    descriptor = PowerSpectrum(elements_of(atoms), **CASES[case])
    batch = batch_of([atoms], descriptor.elements, descriptor.cutoff)
    features, density = descriptor.forward(batch, *plain(descriptor, np.float32))
    assert features.dtype == density.dtype == np.float32
    assert worst(features[batch.place], expected) < 100 * EPS_32


def test_standardisation_is_a_shift_and_a_scale_per_element():
    check_standardisation(*setting("three_species", "all"), oracle("three_species", "all"))


@pytest.mark.parametrize("radial_order", range(11))
def test_every_order(radial_order):
    """Radial orders 0 to 10 and, once or twice each, angular orders 0 to 8."""
    atoms = SYSTEMS["wire"]()
    options = dict(cutoff=4.3, radial_order=radial_order, angular_order=radial_order % 9)
    descriptor = PowerSpectrum(elements_of(atoms), **options)
    expected = naive.features(atoms, elements_of(atoms), **options)
    assert worst(descriptor.compute(atoms), expected) < 1000 * EPS
    batch = batch_of([atoms], descriptor.elements, descriptor.cutoff)
    check_backward(descriptor, batch, *plain(descriptor), slope_limit)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 111, 112, 113, 121, 225])
def test_any_number_of_neighbours(n):
    """Vectors of 8 and tiles of 112 neighbours, both species in one."""
    options = CASES["all"] | {"cutoff": 4.5}
    atoms = cluster(n, reach=4.4, symbols=("Cu", "O"))
    descriptor = PowerSpectrum(["Cu", "O"], **options)
    expected = naive.atom_features(atoms, 0, ["Cu", "O"], **options)[None]
    assert worst(descriptor.compute(atoms)[:1], expected) < 100 * EPS
    batch = batch_of([atoms], ["Cu", "O"], descriptor.cutoff)
    check_backward(descriptor, batch, *plain(descriptor), slope_limit)


def test_density_is_that_of_the_docstring():
    """Its scalars, and lengths of its multipoles by the addition theorem."""
    descriptor, batch, _, _ = setting("molecule", "all")
    _, density = descriptor.forward(batch, *plain(descriptor))
    atoms, elements = SYSTEMS["molecule"](), descriptor.elements
    norm = descriptor._tables.on(HOST, np.float64)["norm"]
    d = atoms.positions - atoms.positions[0]
    r = np.linalg.norm(d[1:], axis=1)
    u = d[1:] / r[:, None]
    for a, (element, n) in enumerate(descriptor._columns):
        of_element = np.array([symbol == element for symbol in atoms.symbols[1:]])
        values = of_element * np.array([naive.radial_functions(x, 4.0, 3)[n] for x in r])
        assert density[0, 0, a] == pytest.approx(values.sum(), rel=1e-12, abs=1e-14)
        # l = 1: z, x, y
        assert density[0, 1:4, a] == pytest.approx(values @ u[:, [2, 0, 1]], rel=0, abs=1e-13)
        for l in range(5):
            legendre = np.polynomial.legendre.legval(u @ u.T, np.eye(l + 1)[l])
            q = slice(l * l, (l + 1) ** 2)
            length = norm[q] @ density[0, q, a] ** 2
            assert length == pytest.approx(values @ legendre @ values, rel=1e-10, abs=1e-13)
    assert len(elements) == 3


# Backward


def slope_limit(back, forth):
    """Largest difference of slopes: round-off of their terms."""
    return 500 * EPS * np.abs(back).sum() + EPS


@every_case
@every_system
def test_backward_is_the_complex_step_of_forward(system, case):
    slopes, _ = check_backward(*setting(system, case), slope_limit)
    # nothing to see: no pair, or one that is too far or almost
    if system not in ("single_atom", "atom_on_cutoff"):
        assert slopes.max() > 1e-2


@every_case
@every_system
def test_backward_in_float32(system, case):
    check_backward_in_float32(*setting(system, case), 200 * EPS_32)


def test_the_kernels_of_the_density_are_adjoint():
    """What other invariants build on: <dE/dA, dA> = <dE/dr, dr> for any dE/dA."""
    from fdforce.kernels.cpu.density import density_backward

    descriptor, batch, mean, scale = setting("two_species", "all")
    _, density = descriptor.forward(batch, mean, scale)
    rng = np.random.default_rng(2)
    d_density, direction = rng.normal(size=density.shape), rng.normal(size=batch.positions.shape)
    moved = batch.displaced(direction, np.array([1j * COMPLEX_STEP]))
    _, along = descriptor.forward(moved, mean, scale)
    slope = np.sum(d_density * along.imag) / COMPLEX_STEP
    d_positions, d_strain = np.zeros((1, batch.n_atoms, 3)), np.zeros((batch.n_atoms, 6))
    arguments = descriptor._density_arguments(descriptor._tables.on(HOST, np.float64))
    for times in (1, 2):  # it adds
        density_backward(d_density, *batch.pair_arguments[:-1], *arguments, d_positions, d_strain)
        assert np.sum(d_positions[0] * direction) == pytest.approx(times * slope, rel=1e-11)


# Physics


@pytest.mark.parametrize("system", ["molecule", "thin_triclinic", "slab", "three_species"])
@every_case
def test_rotation_reflection_and_translation(case, system):
    atoms = SYSTEMS[system]()
    descriptor = PowerSpectrum(elements_of(atoms), **CASES[case])
    check_rotation_and_translation(descriptor, atoms, worst, 1000 * EPS, mirrored=True)


@pytest.mark.parametrize("system", ["molecule", "left_handed", "two_species"])
def test_permutation_of_atoms(system):
    atoms = SYSTEMS[system]()
    check_permutation(PowerSpectrum(elements_of(atoms), **CASES["all"]), atoms, worst, 100 * EPS)


@pytest.mark.parametrize("system", ["thin_triclinic", "left_handed", "bulk", "wire"])
def test_supercell(system):
    atoms = SYSTEMS[system]()
    descriptor = PowerSpectrum(elements_of(atoms), **CASES["four body"])
    check_supercell(descriptor, atoms, worst, 100 * EPS)


def test_lonely_atom_has_no_features():
    assert not PowerSpectrum(["Ti", "O"], four_body=2).compute(SYSTEMS["single_atom"]()).any()


@every_case
def test_features_fade_out_with_the_fourth_power_of_the_gap(case):
    """Three continuous derivatives at the cutoff: features go as gap^4, slopes as gap^3."""
    atoms, direction = bent_oxide(4.0)
    descriptor = PowerSpectrum(["Ti", "O"], **{**CASES[case], "cutoff": 4.0})
    batch = batch_of([atoms], descriptor.elements, 4.0, skin=0.3)
    outside, nothing, _ = of_first_atom(descriptor, batch, direction, 1e-2)
    assert not nothing[2].any()
    sizes, slopes = [], []
    column = descriptor._columns.index((descriptor.channels[-1], 0))
    for gap in (0.02, 0.01, 0.005):
        features, d_positions, _ = of_first_atom(descriptor, batch, direction, -gap)
        sizes.append(abs(features[column] - outside[column]))
        slopes.append(np.linalg.norm(d_positions[2]))
    # R_0 = 35 (gap / R)^4
    assert sizes[0] == pytest.approx(
        35 * (0.02 / 4) ** 4 / (1 + descriptor.distance_damping), rel=0.05
    )
    assert np.array(sizes[:-1]) / sizes[1:] == pytest.approx(16, rel=0.02)
    assert np.array(slopes[:-1]) / slopes[1:] == pytest.approx(8, rel=0.1)


# Batches, chunks and replicas


@pytest.mark.parametrize("n_chunks", [2, 3, 50])
def test_chunks_change_nothing(n_chunks):
    check_chunks(PowerSpectrum(ELEMENTS, **CASES["four body"]), n_chunks, (10 * EPS,) * 3)


@pytest.mark.parametrize("n_replicas", [2, 4])
def test_replicas_equal_separate_batches(n_replicas):
    descriptor = PowerSpectrum(ELEMENTS, **CASES["four body"])
    check_replicas(descriptor, n_replicas, of_features=10 * EPS, of_derivatives=100 * EPS)


def test_features_without_keeping_the_density_are_the_same():
    check_keeping_nothing(*setting("two_species", "all"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_position_makes_nan_features(dtype):
    check_nan(PowerSpectrum(ELEMENTS, **CASES["all"]), dtype)


# Models


def model_and_batch(case):
    frames = [SYSTEMS[name]() for name in ("two_species", "left_handed")]
    return networks_and_batch(PowerSpectrum(ELEMENTS, **CASES[case]), (9, 7), frames, seed=2)


@every_case
def test_forces_and_virials_are_slopes_of_the_energy(case):
    check_forces(*model_and_batch(case), rel=1e-9)


def test_stencils_agree_on_the_gradient_of_the_loss():
    check_loss_gradient(*model_and_batch("four body"))


# Settings


def test_numbers_of_features_and_labels():
    one = PowerSpectrum(["Cu"], radial_order=1, angular_order=1)
    assert one.labels == [
        "radial Cu 0", "radial Cu 1",
        "power 0 Cu 0 Cu 0", "power 0 Cu 0 Cu 1", "power 0 Cu 1 Cu 1",
        "power 1 Cu 0 Cu 0", "power 1 Cu 0 Cu 1", "power 1 Cu 1 Cu 1",
    ]  # fmt: skip
    orders = dict(radial_order=2, angular_order=3)
    pairs = {
        pairs: PowerSpectrum(["H", "C", "N", "O"], element_pairs=pairs, **orders).n_features
        for pairs in ("all", "diagonal", "weighted")
    }
    # columns and, for each of 4 l, pairs of columns
    assert pairs == {"all": 12 + 4 * 78, "diagonal": 12 + 4 * 4 * 6, "weighted": 6 + 4 * 2 * 6}
    cubic = PowerSpectrum(["H", "C"], radial_order=0, angular_order=2, four_body=2)
    assert cubic.labels[-4:] == ["cubic 112 H 0", "cubic 112 C 0", "cubic 222 H 0", "cubic 222 C 0"]
    weighted = PowerSpectrum(["O", "H", "C", "N"], element_pairs="weighted")
    assert weighted.channels == ("all", "spin")
    assert weighted.channel_weights.tolist() == [[1, 1, 1, 1], [-2, -1, 1, 2]]
    assert PowerSpectrum(["O"], element_pairs="weighted").channels == ("all",)
    auto = [PowerSpectrum(["O", "H", "C", "N"][:n]).element_pairs for n in range(1, 5)]
    assert auto == ["all", "all", "all", "weighted"]


def test_settings():
    two = PowerSpectrum(["Ti", "O"], 5.0, 3, 2, "diagonal", 2, 0.5, 4, 3.0)
    again = PowerSpectrum(**json.loads(json.dumps(two.settings)))
    assert again.settings == two.settings
    assert set(two.settings) == {"elements", *two.setting_help}


def test_damping_weighs_features_by_their_degree():
    assert (PowerSpectrum(["Ti", "O"], damping=0).feature_weight == 1).all()
    options = dict(radial_order=2, angular_order=2, four_body=2, damping=1.5)
    descriptor = PowerSpectrum(["Ti"], **options)
    weight = dict(zip(descriptor.labels, descriptor.feature_weight))
    assert weight["radial Ti 0"] == weight["power 0 Ti 0 Ti 0"] == 1
    assert weight["radial Ti 2"] == weight["power 1 Ti 0 Ti 0"] == pytest.approx(3**-1.5)
    assert weight["power 2 Ti 1 Ti 2"] == pytest.approx(8**-1.5)
    assert weight["cubic 112 Ti 1"] == pytest.approx(8**-1.5)
    assert weight["cubic 222 Ti 0"] == pytest.approx(7**-1.5)
    assert descriptor.feature_weight.shape == (descriptor.n_features,)
    # features themselves are not damped
    undamped = PowerSpectrum(["Ti"], **{**options, "damping": 0})
    atoms = Atoms("Ti4", np.random.default_rng(0).uniform(0, 4, size=(4, 3)))
    assert (descriptor.compute(atoms) == undamped.compute(atoms)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(elements=[]), r"elements = \[\]: name every element once"),
        (dict(elements=["O", "O"]), r"elements = \['O', 'O'\]: name every element once"),
        (dict(cutoff=0), r"cutoff = 0.0: must be above 0 Å"),
        (dict(cutoff=float("nan")), r"cutoff = nan: must be above 0 Å"),
        (dict(radial_order=-1), r"radial_order = -1: must be at least 0"),
        (dict(angular_order=1.5), r"angular_order = 1.5: must be a whole number"),
        (dict(damping=-1), r"damping = -1.0: must be at least 0"),
        (dict(element_pairs="some"), r"element_pairs = 'some': choose one of auto, all, diagonal"),
        (dict(four_body=1), r"four_body = 1: must be 0 or 2"),
        (dict(four_body=2, angular_order=1), r"four_body = 2: needs an angular_order of at least"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PowerSpectrum(**{"elements": ["Ti", "O"], **options})


def test_unknown_element_is_refused():
    with pytest.raises(DataError, match="Cu"):
        PowerSpectrum(["Ti", "O"]).compute(SYSTEMS["bulk"]())

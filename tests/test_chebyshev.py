from functools import cache

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from fdforce.descriptors import DESCRIPTORS, Chebyshev
from fdforce.errors import ConfigError, DataError
from tests.checks import (
    ELEMENTS,
    EPS,
    EPS_32,
    batch_of,
    check_backward,
    check_backward_in_float32,
    check_chunks,
    check_keeping_nothing,
    check_nan,
    check_permutation,
    check_replicas,
    check_rotation_and_translation,
    check_standardisation,
    check_supercell,
    check_wrapping,
    cluster,
    elements_of,
    every_system,
    plain,
    setting_of,
)
from tests.naive import chebyshev as naive
from tests.systems import SYSTEMS

LONG_RADIAL = dict(radial_cutoff=5.0, radial_order=9, angular_cutoff=4.0, angular_order=4)
LONG_ANGULAR = dict(radial_cutoff=4.0, radial_order=5, angular_cutoff=4.6, angular_order=7)
CASES = {"long radial": LONG_RADIAL, "long angular": LONG_ANGULAR}

every_case = pytest.mark.parametrize("case", CASES)


@cache
def oracle(system, case):
    atoms = SYSTEMS[system]()
    return naive.features(atoms, elements_of(atoms), **CASES[case])


def size_of(features, descriptor):
    """What round-off is measured by: the sum of the absolute terms of each feature.

    With T_0 = 1 the first radial feature is sum_j f_j and the first angular one the sum of f_j f_k
    over pairs. The density trick goes through (sum_j f_j)^2 and subtracts sum_j f_j^2, which is at
    most the number of neighbours; spins multiply by at most (n_elements / 2)^2.
    """
    n, m = descriptor.radial_order + 1, descriptor.angular_order + 1
    size = np.ones_like(features)
    size[:, :n] = 1 + features[:, :1]
    size[:, n : n + m] = 10 + 2 * features[:, n : n + 1] + features[:, :1]
    if len(descriptor.elements) > 1:
        size[:, n + m :] = size[:, : n + m] * max(1, len(descriptor.elements) // 2) ** 2
    return size


def amplification(descriptor):
    """|dT_n/dx| <= n^2: what a relative error of one unit in a distance becomes."""
    return max(descriptor.radial_order, descriptor.angular_order, 1) ** 2


def worst(features, expected, descriptor):
    return np.max(np.abs(features - expected) / size_of(expected, descriptor))


def error_of(descriptor):
    return lambda features, expected: worst(features, expected, descriptor)


def setting(system, case, **options):
    return setting_of(lambda elements: Chebyshev(elements, **CASES[case]), system, **options)


# Against the oracle


@every_case
@every_system
def test_features_are_those_of_the_loops(system, case):
    atoms, expected = SYSTEMS[system](), oracle(system, case)
    descriptor = Chebyshev(elements_of(atoms), **CASES[case])
    assert expected.shape[1] == descriptor.n_features == len(descriptor.labels)
    features = descriptor.compute(atoms)
    assert features.dtype == np.float64
    # a few units of round-off in each distance, amplified
    assert worst(features, expected, descriptor) < 4 * EPS * amplification(descriptor)


@every_system
def test_float32_differs_by_its_round_off(system):
    atoms, expected = SYSTEMS[system](), oracle(system, "long radial")
    descriptor = Chebyshev(elements_of(atoms), **LONG_RADIAL)
    batch = batch_of([atoms], descriptor.elements, descriptor.cutoff)
    features, densities = descriptor.forward(batch, *plain(descriptor, np.float32))
    assert features.dtype == densities.dtype == np.float32
    # distances are rounded once (half a unit), then as in float64
    assert worst(features[batch.place], expected, descriptor) < EPS_32 * amplification(descriptor)


def test_standardisation_is_a_shift_and_a_scale_per_element():
    check_standardisation(
        *setting("three_species", "long radial"), oracle("three_species", "long radial")
    )


@cache
def oracle_of_all_orders(system):
    atoms = SYSTEMS[system]()
    elements = elements_of(atoms)
    n, m = 26, 13
    full = naive.features(
        atoms, elements, radial_cutoff=4.4, radial_order=25, angular_cutoff=3.7, angular_order=12
    )
    return full, n, m


@pytest.mark.parametrize("radial_order", range(26))
def test_every_order(radial_order):
    """Radial orders 0 to 25 and, twice each, angular orders 0 to 12."""
    angular_order = radial_order % 13
    for system in ("left_handed", "bulk"):
        full, n, m = oracle_of_all_orders(system)
        atoms = SYSTEMS[system]()
        descriptor = Chebyshev(elements_of(atoms), 4.4, radial_order, 3.7, angular_order)
        chosen = [*range(radial_order + 1), *range(n, n + angular_order + 1)]
        if len(descriptor.elements) > 1:
            chosen += [n + m + k for k in chosen]
        error = worst(descriptor.compute(atoms), full[:, chosen], descriptor)
        assert error < 4 * EPS * amplification(descriptor), system


@pytest.mark.parametrize("n", [1, 7, 8, 9, 127, 128, 129, 256, 257])
def test_any_number_of_neighbours(n):
    """Vectors of 8 and tiles of 128 neighbours."""
    options = dict(radial_cutoff=5.0, radial_order=7, angular_cutoff=4.9, angular_order=5)
    atoms = cluster(n)
    descriptor = Chebyshev(["Cu"], **options)
    expected = naive.atom_features(atoms, 0, ["Cu"], **options)[None]
    features = descriptor.compute(atoms)[:1]
    assert worst(features, expected, descriptor) < 4 * EPS * amplification(descriptor)


def test_dense_crystal_with_hundreds_of_neighbours():
    options = dict(radial_cutoff=9.0, radial_order=6, angular_cutoff=7.5, angular_order=4)
    atoms = bulk("Cu", "fcc", a=3.6)
    atoms.set_cell(atoms.cell @ (np.eye(3) + 0.02 * np.arange(9).reshape(3, 3) / 9))
    descriptor = Chebyshev(["Cu"], **options)
    assert len(naive.neighbours(atoms, 0, 9.0)) > 200  # more than one tile
    error = worst(descriptor.compute(atoms), naive.features(atoms, ["Cu"], **options), descriptor)
    assert error < 4 * EPS * amplification(descriptor)


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 5),
    periodic=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    n_elements=st.integers(1, 4),
)
def test_random_structures(seed, n, periodic, n_elements):
    rng = np.random.default_rng(seed)
    elements = ["O", "H", "Ti", "C"][:n_elements]
    cell = 3.5 * np.eye(3) + rng.uniform(-0.8, 0.8, size=(3, 3))
    scaled = np.arange(n)[:, None] * [0.2, 0.4, 0.6] + rng.uniform(-0.05, 0.05, size=(n, 3))
    atoms = Atoms(rng.choice(elements, n), scaled_positions=scaled, cell=cell, pbc=periodic)
    options = dict(
        radial_cutoff=rng.uniform(3, 4.5),
        radial_order=int(rng.integers(0, 12)),
        angular_cutoff=rng.uniform(2.5, 4),
        angular_order=int(rng.integers(0, 8)),
    )
    descriptor = Chebyshev(elements, **options)
    expected = naive.features(atoms, elements, **options)
    error = worst(descriptor.compute(atoms), expected, descriptor)
    assert error < 4 * EPS * amplification(descriptor)


# Backward


def slope_limit(descriptor):
    """Largest difference of slopes.

    Derivatives of order n amplify round-off by n^2 once more than the features, and the terms of a
    sum are larger than the sum.
    """
    tolerance = 20 * EPS * amplification(descriptor)
    return lambda back, forth: max(tolerance * np.abs(back).sum(), EPS)


@every_case
@every_system
def test_backward_is_the_complex_step_of_forward(system, case):
    setup = setting(system, case)
    slopes, limits = check_backward(*setup, slope_limit(setup[0]))
    # nothing to see: no pair, or the only one ends at the radial cutoff of 4 Å
    if system != "single_atom" and (system, case) != ("atom_on_cutoff", "long angular"):
        assert (slopes > 1e3 * limits).all()


@pytest.mark.parametrize("n", [8, 128, 129, 257])
def test_backward_over_several_tiles(n):
    descriptor = Chebyshev(["Cu"], 5.0, 7, 4.9, 5)
    batch = batch_of([cluster(n)], ["Cu"], 5.0)
    check_backward(
        descriptor, batch, *plain(descriptor), lambda back, forth: 1e-13 * np.abs(back).sum(),
        seed=0, atom=0,
    )  # fmt: skip


@pytest.mark.parametrize("radial_order", range(26))
def test_backward_of_every_order(radial_order):
    descriptor = Chebyshev(["Ti", "O"], 4.4, radial_order, 3.7, radial_order % 13)
    batch = batch_of([SYSTEMS["left_handed"]()], descriptor.elements, descriptor.cutoff)
    check_backward(
        descriptor, batch, *plain(descriptor), slope_limit(descriptor), seed=radial_order
    )


@every_system
def test_backward_in_float32(system):
    setup = setting(system, "long radial")
    # second derivatives of T_n: n^2 once more than the first, most of it averages out
    check_backward_in_float32(*setup, 0.2 * EPS_32 * amplification(setup[0]) ** 2)


# Physics


@pytest.mark.parametrize("system", ["molecule", "thin_triclinic", "slab", "three_species"])
def test_rotation_and_translation(system):
    atoms = SYSTEMS[system]()
    descriptor = Chebyshev(elements_of(atoms), **LONG_RADIAL)
    # positions of 20 Å carry ten times the round-off of a distance of 2 Å
    tolerance = 20 * EPS * amplification(descriptor)
    check_rotation_and_translation(descriptor, atoms, error_of(descriptor), tolerance)


@pytest.mark.parametrize("system", ["molecule", "left_handed", "two_species"])
def test_permutation_of_atoms(system):
    atoms = SYSTEMS[system]()
    descriptor = Chebyshev(elements_of(atoms), **LONG_RADIAL)
    # sums over neighbours in another order
    tolerance = 4 * EPS * amplification(descriptor)
    check_permutation(descriptor, atoms, error_of(descriptor), tolerance)


@pytest.mark.parametrize("system", ["thin_triclinic", "left_handed", "bulk", "wire"])
def test_supercell(system):
    atoms = SYSTEMS[system]()
    descriptor = Chebyshev(elements_of(atoms), **LONG_ANGULAR)
    tolerance = 10 * EPS * amplification(descriptor)
    check_supercell(descriptor, atoms, error_of(descriptor), tolerance)


def test_wrapping_atoms_into_the_cell_changes_nothing():
    descriptor = Chebyshev(["Ti", "O"], **LONG_RADIAL)
    check_wrapping(descriptor, error_of(descriptor), 10 * EPS * amplification(descriptor))


def test_lonely_atom_has_no_features():
    assert not Chebyshev(["Ti", "O"]).compute(SYSTEMS["single_atom"]()).any()


@pytest.mark.parametrize("gap", [1e-2, 1e-3])
def test_pair_fades_out_at_the_cutoff(gap):
    """f = sin^2(pi gap / 2 R) and df/dr = -(pi / 2 R) sin(pi gap / R) inside, nothing outside."""
    cutoff = 4.0
    descriptor = Chebyshev(["Ti", "O"], cutoff, 6, cutoff, 2)
    batch = batch_of([SYSTEMS["atom_on_cutoff"]()], descriptor.elements, cutoff)
    mean, scale = plain(descriptor)
    direction = np.array([[0, 0, 0], [0, 0, 1.0]])
    for eta in (-gap, 0.0, gap):
        moved = batch.displaced(direction, np.array([eta]))
        features, densities = descriptor.forward(moved, mean, scale)
        d_features = np.zeros_like(features)
        d_features[moved.place[0], :7] = 1.0  # radial features of Ti
        d_positions, d_strain = descriptor.backward(moved, d_features, densities, scale)
        if eta >= 0:
            # The last bit of r / R - 1/2 decides at the cutoff itself.
            assert np.abs(features).max() < EPS
            assert np.abs(d_positions).max() < 1e-7 if eta == 0 else not d_positions.any()
            assert np.abs(d_strain).max() < 1e-6 if eta == 0 else not d_strain.any()
            continue
        x = 2 * (cutoff - gap) / cutoff - 1
        chebyshev = np.cos(np.arange(7) * np.arccos(x))
        f = np.sin(np.pi * gap / (2 * cutoff)) ** 2
        # f is a difference of numbers of order 1: absolute error of round-off
        assert features[moved.place[0], :7] == pytest.approx(f * chebyshev, abs=4 * EPS)
        assert features[moved.place[0], 10:17] == pytest.approx(
            f * chebyshev, abs=4 * EPS
        )  # spin of O: 1
        slope = -(np.pi / (2 * cutoff)) * np.sin(np.pi * gap / cutoff) * chebyshev.sum()
        step = 1e-5
        above, below = (np.cos(np.arange(7) * np.arccos(x + s * step)).sum() for s in (1, -1))
        slope += f * (above - below) / (2 * step) * 2 / cutoff
        # f T_n': T_6'' ~ 420 makes the numeric slope wrong by f step^2 times 1e4
        assert d_positions[1, 2] == pytest.approx(slope, rel=1e-6)


def test_angular_features_have_no_jump_at_the_cutoff():
    atoms = Atoms("TiO2", [[0, 0, 0], [1.6, 0.3, 0], [-0.4, 0.2, 4.0]])
    descriptor = Chebyshev(["Ti", "O"], 6.0, 0, np.linalg.norm(atoms.positions[2]), 4)
    batch = batch_of([atoms], descriptor.elements, 6.0)
    direction = np.zeros((3, 3))
    direction[2] = atoms.positions[2] / np.linalg.norm(atoms.positions[2])
    gaps = np.array([1e-2, 5e-3, 2.5e-3])

    def angular_of_titanium(eta):
        moved = batch.displaced(direction, eta[:, None])
        features, _ = descriptor.forward(moved, *plain(descriptor))
        return features[moved.place[::3], 1:6]

    # the sum over pairs is a difference of two sums
    assert np.abs(angular_of_titanium(gaps)).max() < 10 * EPS
    inside = angular_of_titanium(-gaps)
    assert (np.abs(inside) > 1e-8).all()
    # quadratic in the gap: ratios of 4 up to the next order, (pi gap / R)^2 / 12 = 5e-6
    assert inside[:-1] / inside[1:] == pytest.approx(4, rel=1e-4)


# Batches, chunks and replicas


@pytest.mark.parametrize("n_chunks", [2, 3, 50])
def test_chunks_change_nothing(n_chunks):
    check_chunks(Chebyshev(ELEMENTS, **LONG_RADIAL), n_chunks)


@pytest.mark.parametrize("n_replicas", [2, 4])
def test_replicas_equal_separate_batches(n_replicas):
    check_replicas(Chebyshev(ELEMENTS, **LONG_RADIAL), n_replicas)


def test_features_without_keeping_densities_are_the_same():
    check_keeping_nothing(*setting("two_species", "long radial"))


@pytest.mark.parametrize("orders", [(9, 4), (0, 0)])
def test_nan_position_makes_nan_features(orders):
    check_nan(Chebyshev(ELEMENTS, 5.0, orders[0], 4.0, orders[1]))


# Settings


def test_spins_and_labels_and_settings():
    assert Chebyshev(["Ti"]).spins.tolist() == [0]
    assert Chebyshev(["Ti", "O"]).spins.tolist() == [-1, 1]
    assert Chebyshev(["O", "H", "C"]).spins.tolist() == [-1, 0, 1]
    assert Chebyshev(["O", "H", "C", "N"]).spins.tolist() == [-2, -1, 1, 2]
    one = Chebyshev(["Ti"], radial_order=1, angular_order=0)
    assert one.labels == ["radial 0", "radial 1", "angular 0"]
    two = Chebyshev(["Ti", "O"], 5.5, 1, 6.5, 0)
    assert two.labels[3:] == ["radial 0, spin", "radial 1, spin", "angular 0, spin"]
    assert two.cutoff == 6.5
    assert Chebyshev(**two.settings).settings == two.settings
    assert DESCRIPTORS["chebyshev"] is Chebyshev


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(elements=[]), r"elements = \[\]: name every element once"),
        (dict(elements=["O", "O"]), r"elements = \['O', 'O'\]: name every element once"),
        (dict(radial_cutoff=0), r"radial_cutoff = 0.0: must be above 0 Å"),
        (dict(angular_cutoff=-2), r"angular_cutoff = -2.0: must be above 0 Å"),
        (dict(radial_cutoff=float("nan")), r"radial_cutoff = nan: must be above 0 Å"),
        (dict(radial_order=-1), r"radial_order = -1: must be at least 0"),
        (dict(angular_order=-3), r"angular_order = -3: must be at least 0"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Chebyshev(**{"elements": ["Ti", "O"], **options})


def test_unknown_element_is_refused():
    with pytest.raises(DataError, match="Cu"):
        Chebyshev(["Ti", "O"]).compute(SYSTEMS["bulk"]())

import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from fdforce.descriptors.symmetry_functions import SymmetryFunctions, scale_lengths
from fdforce.errors import ConfigError, DataError
from tests.checks import (
    ELEMENTS,
    EPS_32,
    batch_of,
    check_backward,
    check_backward_in_float32,
    check_chunks,
    check_forces,
    check_keeping_nothing,
    check_loss_gradient,
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
    random_standardisation,
    setting_of,
)
from tests.naive import symmetry_functions as naive
from tests.systems import SYSTEMS
from tests.test_golden_aenet import Network

OWN = Path(__file__).parent / "golden" / "own"
SHARED = Path(__file__).parents[1].parent / "shared" / "golden" / "n2p2"

RADIAL = [
    "2 {0} 0.3 0 4",
    "2 {0} 1.1 1.5 3.6",
    "2 {0} 0 0 3.6",
    "cos {0} 0.9 4",
    "20 {0} -1.5 3.5 p2a",
    "20 {0} 0.5 4 e",
]
ANGULAR = [
    "3 {0} {1} 0.05 1 4 4",
    "3 {0} {1} 0.05 -1 3 4 0.7",
    "3 {0} {1} 0.05 -1 1 3.8",
    "9 {0} {1} 0.1 1 2.5 3.7",
    "9 {0} {1} 0.05 -1 16 4",
    "9 {0} {1} 0.05 0.5 7 4 0.4",
]
WINDOWS = [
    "21 {0} {1} 0.3 3.8 20 160 p2",
    "22 {0} {1} 0.3 3.8 90 270 p1",
    "22 {0} {1} 0.3 3.8 -100 100 p3a",
    "22 {0} {1} -1 3.8 0 360 p4",
]
WEIGHTED = [
    "12 0.4 0.9 3.9",
    "13 0.03 0.2 1 2 4",
    "23 0.1 4 p4",
    "24 0.1 3.9 60 300 p1a",
    "25 0.1 3.9 -120 120 e",
]
CASES = {"radial": RADIAL, "angular": ANGULAR, "windows": WINDOWS, "weighted": WEIGHTED}
CUTOFFS = [(1, 0), (2, 0), (3, 0), (4, 0.3), (5, 0), (6, 0.2), (7, 0), (8, 0.1), (1, 0.3)]

every_case = pytest.mark.parametrize("case", CASES)


def lines_of(elements, case):
    """Every form of a case for every central element and neighbours."""
    lines = []
    for centre in elements:
        for form in CASES[case]:
            for k, one in enumerate(elements):
                others = elements[k:] if "{1}" in form else elements[:1]
                lines += [f"{centre} {form.format(one, other)}" for other in others]
    return list(dict.fromkeys(lines))


def descriptor_of(elements, cases, kind=1, alpha=0.0):
    lines = [line for case in cases for line in lines_of(elements, case)]
    return SymmetryFunctions(elements, lines, kind, alpha)


def oracle(atoms, descriptor):
    lists = {
        element: [str(function) for function in own]
        for element, own in zip(descriptor.elements, descriptor._functions)
    }
    return naive.features(
        atoms, lists, descriptor.cutoff, descriptor.cutoff_type, descriptor.cutoff_alpha
    )


@cache
def computed_by_loops(system, case):
    atoms = SYSTEMS[system]()
    return oracle(atoms, descriptor_of(elements_of(atoms), [case]))


def setting(system, cases):
    return setting_of(lambda elements: descriptor_of(elements, cases), system)


def worst(features, expected):
    """Largest error relative to the size of a feature, which is a sum of terms of one sign."""
    return np.max(np.abs(features - expected) / (1e-2 + np.abs(expected)), initial=0.0)


# Against the oracle


@every_case
@every_system
def test_features_are_those_of_the_loops(system, case):
    atoms, expected = SYSTEMS[system](), computed_by_loops(system, case)
    descriptor = descriptor_of(elements_of(atoms), [case])
    features = descriptor.compute(atoms)
    assert features.dtype == np.float64
    assert expected.shape[1] == descriptor.n_features == len(descriptor.labels)
    assert system in ("single_atom", "dimer", "atom_on_cutoff") or expected.any()
    # An angle of nearly 0 or 180 degrees is known to eps / sin(angle) from its cosine.
    assert worst(features, expected) < (1e-9 if case in ("windows", "weighted") else 1e-12)


@pytest.mark.parametrize(("kind", "alpha"), [(0, 0), *CUTOFFS])
def test_every_cutoff_function(kind, alpha):
    atoms = SYSTEMS["left_handed"]()
    descriptor = descriptor_of(["Ti", "O"], ["radial", "angular"], kind, alpha)
    # the loops take the polynomials as they are usually written, with coefficients of 540
    tolerance = 1e-12 if kind < 7 else 1e-10
    assert worst(descriptor.compute(atoms), oracle(atoms, descriptor)) < tolerance


@pytest.mark.parametrize("core", ["e", "p1", "p2", "p3", "p4", "p1a", "p2a", "p3a", "p4a"])
def test_every_core(core):
    atoms = SYSTEMS["left_handed"]()
    lines = [f"20 O -2 4 {core}", f"20 Ti 1 4 {core}", f"23 0.5 4.2 {core}"]
    for ends in ("20 160", "-90 90", "60 300"):
        lines += [f"{form} 0.2 4 {ends} {core}" for form in ("21 O O", "22 Ti O", "24", "25")]
    lines = [f"{centre} {line}" for centre in ("Ti", "O") for line in lines]
    descriptor = SymmetryFunctions(["Ti", "O"], lines)
    assert worst(descriptor.compute(atoms), oracle(atoms, descriptor)) < 1e-9


WAYS = ["pairs", "densities", "fastest"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("zeta", [*range(1, 18), 31, 32, 33, 64, 1.5, 2.25, 17.5, 2000])
def test_every_zeta(zeta, way):
    atoms = SYSTEMS["left_handed"]()
    lines = [f"{c} 9 O {e} 0.02 {sign} {zeta} 4" for c in ("Ti", "O") for sign in (-1, 1, 0.5)
             for e in ("Ti", "O")]  # fmt: skip
    descriptor = SymmetryFunctions(["Ti", "O"], lines)
    descriptor._program.way = way
    # A relative error of cos theta, zeta times over; sums over pairs as small differences.
    error = worst(descriptor.compute(atoms), oracle(atoms, descriptor))
    assert error < 1e-13 * max(zeta, 10) + (0 if way == "pairs" else 1e-10)
    assert check_slope(descriptor, atoms) > (0 if zeta > 1000 else 1e-3)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("zetas", [(1,), (1, 2, 4), (3, 16, 2.5)])
@pytest.mark.parametrize("n", [1, 8, 65, 130])
def test_both_ways_of_wide_functions(n, zetas, way):
    """Tiles of 128 neighbours for densities, of 256 pairs."""
    atoms = cluster(n)
    lines = [f"Cu 9 Cu Cu {eta} {sign} {zeta} {rc}" for eta, rc in ((0.01, 5), (0.1, 4.5))
             for zeta in zetas for sign in (-1, 1)]  # fmt: skip
    descriptor = SymmetryFunctions(["Cu"], [*lines, "Cu 2 Cu 1 1 5"])
    descriptor._program.way = way
    near = naive.neighbours(atoms, 0, 5.0)
    expected = [
        naive.value_of(str(f), near, atoms.get_chemical_symbols(), 1, 0)
        for f in descriptor._functions[0]
    ]
    # the difference of (sum f)^2 and sum f^2
    assert worst(descriptor.compute(atoms)[0], np.array(expected)) < 1e-12 * max(n, 10)
    check_slope(descriptor, atoms)


def test_number_of_neighbours_decides_between_densities_and_pairs():
    lines = [f"Cu 9 Cu Cu 0.01 1 {zeta} 5" for zeta in (1, 16)]
    features = {}
    for n in (3, 100):
        for way in WAYS:
            descriptor = SymmetryFunctions(["Cu"], lines)
            descriptor._program.way = way
            features[n, way] = descriptor.compute(cluster(n))[0]
        assert (features[n, "pairs"] != features[n, "densities"]).any()
        assert features[n, "pairs"] == pytest.approx(features[n, "densities"], rel=1e-10)
    assert (features[3, "fastest"] == features[3, "pairs"]).all()
    assert (features[100, "fastest"] == features[100, "densities"]).all()


def test_angulars_share_their_powers():
    """Powers 1, 2, 4, 8 and 16 of both signs are all that zetas 1, 4 and 16 need."""
    lines = [f"Cu 9 Cu Cu 0 {sign} {zeta} 5" for sign in (-1, 1) for zeta in (1, 4, 16)]
    tables = SymmetryFunctions(["Cu"], lines)._program._tables
    largest = tables[-1][1]
    assert largest.tolist() == [1, 10, 1, 16, 6, 0]


@every_system
def test_float32_differs_by_its_round_off(system):
    atoms = SYSTEMS[system]()
    descriptor = descriptor_of(elements_of(atoms), ["radial", "angular"])
    batch = batch_of([atoms], descriptor.elements, descriptor.cutoff)
    features, kept = descriptor.forward(batch, *plain(descriptor, np.float32))
    assert features.dtype == kept.dtype == np.float32
    double, _ = descriptor.forward(batch, *plain(descriptor))
    # zeta = 16 and up to a thousand terms
    error = np.abs(features - double) / (0.1 + np.abs(double))
    assert error.max() < 100 * EPS_32


def test_standardisation_is_a_shift_and_a_scale_per_element():
    check_standardisation(
        *setting("three_species", ["angular"]), computed_by_loops("three_species", "angular")
    )


LONG = [
    "Cu 2 Cu 0.1 2 5", "Cu 3 Cu Cu 0.01 1 2 5", "Cu 9 Cu Cu 0.01 -1 2 5", "Cu 13 0.01 0 1 1 5",
]  # fmt: skip


@pytest.mark.parametrize("n", [1, 7, 8, 9, 22, 23, 24, 63, 64, 65, 66, 130])
def test_any_number_of_neighbours(n):
    """Vectors of 8 pairs, runs of 64 and tiles of 256."""
    atoms = cluster(n)
    descriptor = SymmetryFunctions(["Cu"], LONG)
    near = naive.neighbours(atoms, 0, 5.0)
    expected = [
        naive.value_of(str(f), near, atoms.get_chemical_symbols(), 1, 0)
        for f in descriptor._functions[0]
    ]
    assert worst(descriptor.compute(atoms)[0], np.array(expected)) < 1e-12
    check_slope(descriptor, atoms)


# Backward


def slope_limit(back, forth):
    """Largest difference of slopes: d_positions are sums whose larger terms cancel."""
    return 1e-12 * (1 + np.abs(back).sum())


def check_slope(descriptor, atoms):
    """Backward against the complex step of forward; returns the size of the slopes."""
    batch = batch_of([atoms], descriptor.elements, descriptor.cutoff)
    slopes, _ = check_backward(descriptor, batch, *random_standardisation(descriptor), slope_limit)
    return slopes.sum()


@every_case
@every_system
def test_backward_is_the_complex_step_of_forward(system, case):
    atoms = SYSTEMS[system]()
    size = check_slope(descriptor_of(elements_of(atoms), [case]), atoms)
    assert size > 1e-3 or system in ("single_atom", "dimer", "atom_on_cutoff")


@pytest.mark.parametrize(("kind", "alpha"), CUTOFFS)
def test_backward_with_every_cutoff_function(kind, alpha):
    atoms = SYSTEMS["left_handed"]()
    descriptor = descriptor_of(["Ti", "O"], ["radial", "angular", "weighted"], kind, alpha)
    assert check_slope(descriptor, atoms) > 1


@pytest.mark.parametrize("core", ["e", "p1", "p2", "p3", "p4", "p1a", "p2a", "p3a", "p4a"])
def test_backward_with_every_core(core):
    lines = [f"20 O -2 4 {core}", f"23 0.5 4.2 {core}"]
    for ends in ("20 160", "-90 90", "60 300"):
        lines += [f"{form} 0.2 4 {ends} {core}" for form in ("21 O O", "22 Ti O", "24")]
    lines = [f"{centre} {line}" for centre in ("Ti", "O") for line in lines]
    for system in ("left_handed", "thin_triclinic"):
        assert check_slope(SymmetryFunctions(["Ti", "O"], lines), SYSTEMS[system]()) > 1


@every_system
def test_backward_in_float32(system):
    check_backward_in_float32(*setting(system, ["radial", "angular"]), 300 * EPS_32)


@pytest.mark.parametrize("end", [0, 180])
@pytest.mark.parametrize("core", ["e", "p1", "p2", "p4"])
def test_windows_are_smooth_where_they_are_centred(core, end):
    """Through the angle at which acos has an infinite slope, exactly collinear atoms included."""
    descriptor = SymmetryFunctions(["Cu"], [f"Cu 22 Cu Cu 0 5 {end - 100} {end + 100} {core}"])
    second = 1.5 if end == 0 else -1.5

    def value_and_slope(y):
        atoms = Atoms("Cu3", [[0, 0, 0], [2.2, 0, 0], [second, y, 0]])
        batch = batch_of([atoms], ["Cu"], 5.0)
        features, d_positions, _ = of_first_atom(descriptor, batch, np.zeros((3, 3)), 0.0)
        return features[0], d_positions[2, 1]

    top, level = value_and_slope(0.0)
    # The core is 1 there, and the slope vanishes by symmetry.
    assert abs(level) < 1e-12
    ys = np.concatenate([10.0 ** np.arange(-9, -1), [3e-4, 7e-4]])
    for y in ys:
        value, slope = value_and_slope(y)
        near, mirrored = value_and_slope(-y)
        assert (value, slope) == pytest.approx((near, -mirrored), rel=1e-9, abs=1e-15)
        # quadratic at first, whatever the power of the core
        assert abs(value - top) < 3 * y**2
        assert abs(slope) < 6 * y
    check_slope(descriptor, Atoms("Cu3", [[0, 0, 0], [2.2, 0, 0], [second, 1e-5, 2e-5]]))


# Physics


SOME = ["radial", "angular", "weighted"]


@pytest.mark.parametrize("system", ["molecule", "thin_triclinic", "slab", "three_species"])
def test_rotation_and_translation(system):
    atoms = SYSTEMS[system]()
    # positions of 20 Å carry ten times the round-off of a distance of 2 Å
    check_rotation_and_translation(descriptor_of(elements_of(atoms), SOME), atoms, worst, 1e-10)


@pytest.mark.parametrize("system", ["molecule", "left_handed", "two_species"])
def test_permutation_of_atoms(system):
    atoms = SYSTEMS[system]()
    check_permutation(descriptor_of(elements_of(atoms), SOME), atoms, worst, 1e-12)


@pytest.mark.parametrize("system", ["thin_triclinic", "left_handed", "bulk", "wire"])
def test_supercell(system):
    atoms = SYSTEMS[system]()
    check_supercell(descriptor_of(elements_of(atoms), SOME), atoms, worst, 1e-9)


def test_lonely_atom_has_no_features():
    assert not descriptor_of(["Ti", "O"], SOME).compute(SYSTEMS["single_atom"]()).any()


@pytest.mark.parametrize(
    ("kind", "order"), [(1, 2), (2, 3), (3, 3), (5, 2), (6, 3), (7, 4), (8, 5)]
)
def test_pair_fades_out_at_the_cutoff(kind, order):
    """Values of order gap^order, slopes of one order less, nothing outside."""
    lines = ["2 O 0.1 0.5 4", "cos O 0.5 4", "12 0.1 0.5 4"]
    lines = [f"{centre} {line}" for centre in ("Ti", "O") for line in lines]
    descriptor = SymmetryFunctions(["Ti", "O"], lines, kind, 0.2)
    batch = batch_of([SYSTEMS["atom_on_cutoff"]()], descriptor.elements, 4.0)
    direction = np.array([[0, 0, 0], [0, 0, 1.0]])
    values, slopes = [], []
    for eta in (-2e-2, -1e-2, 0.0, 1e-3):
        features, d_positions, d_strain = of_first_atom(descriptor, batch, direction, eta)
        if eta < 0:
            values.append(features[0])
            slopes.append(d_positions[1, 2])
        else:
            assert not features.any()
            assert not d_positions.any()
            assert not d_strain.any()
    assert np.log2(values[0] / values[1]) == pytest.approx(order, abs=0.05)
    assert np.log2(slopes[0] / slopes[1]) == pytest.approx(order - 1, abs=0.05)


@pytest.mark.parametrize("form", ["3 O O 0.05 1 2 4", "13 0.05 0 -1 1 4", "21 O O 0 4 0 360 p2"])
def test_narrow_functions_fade_out_at_the_third_side(form):
    descriptor = SymmetryFunctions(["Ti", "O"], [f"Ti {form}", "O 2 O 0 0 4"], 6)
    atoms = Atoms("TiO2", [[0, 0, 0], [2.0, 0.3, 0], [-2.0, 0.3, 0.0]])
    batch = batch_of([atoms], ["Ti", "O"], 4.0)
    direction = np.array([[0, 0, 0], [1.0, 0, 0], [0, 0, 0]])
    values, slopes = [], []
    for eta in (-2e-2, -1e-2, 0.0, 1e-2):
        features, d_positions, _ = of_first_atom(descriptor, batch, direction, eta)
        values.append(features[0])
        slopes.append(np.abs(d_positions).max())
    # at the cutoff the last bit of a distance decides
    assert max(map(abs, values[2:] + slopes[2:])) < 1e-25
    assert values[3] == slopes[3] == 0
    assert np.log2(values[0] / values[1]) == pytest.approx(3, abs=0.05)
    assert np.log2(slopes[0] / slopes[1]) == pytest.approx(2, abs=0.05)


# Batches, chunks and replicas


@pytest.mark.parametrize("n_chunks", [2, 3, 50])
def test_chunks_change_nothing(n_chunks):
    check_chunks(descriptor_of(ELEMENTS, CASES), n_chunks)


def test_replicas_equal_separate_batches():
    check_replicas(descriptor_of(ELEMENTS, CASES), 2)


def test_features_without_keeping_anything_are_the_same():
    check_keeping_nothing(*setting("two_species", SOME))


@every_case
def test_nan_position_makes_nan_features(case):
    descriptor = descriptor_of(ELEMENTS, [case])
    atoms = SYSTEMS["two_species"]()
    batch = batch_of([atoms], ELEMENTS, descriptor.cutoff)
    batch.positions[3, 1] = np.nan
    features, _ = descriptor.forward(batch, *plain(descriptor))
    near = [naive.neighbours(atoms, i, 3.5) for i in range(len(atoms))]
    sees = np.array([i == 3 or any(j == 3 for j, _, _ in near[i]) for i in range(len(atoms))])
    assert sees.sum() > 6
    assert np.isnan(features[batch.place[sees]]).any(axis=1).all()


# With networks


@cache
def model_and_batch(dtype=np.float64):
    lines = ["2 {0} 0.1 0 4.5", "2 {0} 1 1.5 4.5", "12 0.3 1 4.5"]
    lines += ["3 O {0} 0.02 1 2 4.5", "9 Ti {0} 0.02 -1 4 4"]
    lines = [f"{c} {form.format(e)}" for c in ELEMENTS for form in lines for e in ELEMENTS]
    descriptor = SymmetryFunctions(ELEMENTS, list(dict.fromkeys(lines))[1:], 6)
    frames = [SYSTEMS[name]() for name in ("left_handed", "two_species", "single_atom", "dimer")]
    return networks_and_batch(descriptor, (6, 5), frames, dtype=dtype)


def test_forces_are_the_slopes_of_the_energy():
    check_forces(*model_and_batch(), rel=1e-11)


def test_stencils_agree_on_the_gradient_of_the_loss():
    check_loss_gradient(*model_and_batch())


# Against n2p2 and ænet


def read_input(text):
    """keyword -> list of arguments, of an input.nn."""
    found = {}
    for line in text.split("\n"):
        words = line.split("#")[0].split()
        if words:
            found.setdefault(words[0], []).append(words[1:])
    return found


def descriptor_of_input(text, unit=1.0):
    found = read_input(text)
    kind, alpha = [*map(float, found["cutoff_type"][0]), 0.0][:2]
    lines = scale_lengths([" ".join(words) for words in found["symfunction_short"]], unit)
    return SymmetryFunctions(found["elements"][0], lines, int(kind), alpha)


def n2p2_cases():
    return sorted(str(path.parent.relative_to(OWN)) for path in OWN.glob("n2p2/**/golden.npz"))


BOHR = 0.52917721
each_case = pytest.mark.parametrize("case", n2p2_cases())


@cache
def n2p2_case(case):
    unit = BOHR if "bohr" in case else 1.0
    text = (OWN / case / "input.nn").read_text()
    return dict(np.load(OWN / case / "golden.npz")), descriptor_of_input(text, unit), unit, text


def structures_of(golden, unit):
    for name in golden["names"]:
        cell = golden[f"{name}/cell"] * unit
        symbols = list(golden[f"{name}/symbols"])
        periodic = dict(cell=cell, pbc=True) if len(cell) else {}
        positions = golden[f"{name}/positions"] * unit
        yield name, np.array(symbols), Atoms(symbols, positions, **periodic)


def test_every_n2p2_case_is_here():
    assert len(n2p2_cases()) == 21


@each_case
def test_n2p2_features(case):
    golden, descriptor, unit, _ = n2p2_case(case)
    for name, symbols, atoms in structures_of(golden, unit):
        features = descriptor.compute(atoms)
        for element in sorted(set(symbols)):
            expected = golden[f"{name}/G_raw_{element}"]
            n = expected.shape[1]
            assert descriptor.n_functions[descriptor.elements.index(element)] == n
            rows = features[symbols == element]
            assert not rows[:, n:].any()
            # angles near 0 and 180 degrees are known from their cosine to 1e-8
            error = np.abs(rows[:, :n] - expected) / (1e-3 + np.abs(expected))
            assert error.max() < (1e-9 if "compact" in case else 1e-11)


@each_case
def test_n2p2_order(case):
    """The columns that the README of a case lists."""
    _, descriptor, unit, _ = n2p2_case(case)
    lines = (OWN / case / "README").read_text().split("\n")
    columns = [re.match(r"(\w+) \d+ : (.*)", line) for line in lines]
    for element, own in zip(descriptor.elements, descriptor._functions):
        expected = [m.group(2) for m in columns if m and m.group(1) == element]
        expected = SymmetryFunctions(
            [element, *(e for e in descriptor.elements if e != element)],
            [*scale_lengths(expected, unit), *(f"{e} 23 0 1 e" for e in descriptor.elements)],
            order="given",
        )
        assert list(map(str, own)) == expected.functions[: len(own)]


@each_case
def test_n2p2_forces(case):
    """n2p2's slopes of the energies pulled back to the atoms."""
    golden, descriptor, unit, text = n2p2_case(case)
    found = read_input(text)
    low, high = (float(found[f"scale_{end}_short"][0][0]) for end in ("min", "max"))
    by_number = sorted(descriptor.elements, key=["H", "C", "O", "Ti"].index)
    table = np.loadtxt(OWN / case / "scaling.data")
    for name, symbols, atoms in structures_of(golden, unit):
        batch = batch_of([atoms], descriptor.elements, descriptor.cutoff)
        mean, scale = plain(descriptor)
        features, kept = descriptor.forward(batch, mean, scale)
        d_features = np.zeros_like(features)
        for element in sorted(set(symbols)):
            smallest, largest, _, sigma = table[table[:, 0] == by_number.index(element) + 1, 2:].T
            if "scale_symmetry_functions" in found:
                slope = (high - low) / (largest - smallest)
            elif "scale_symmetry_functions_sigma" in found:
                slope = (high - low) / sigma
            else:
                slope = np.ones_like(sigma)
            rows = np.zeros((sum(symbols == element), descriptor.n_features))
            rows[:, : len(slope)] = golden[f"{name}/dEdG_scaled_{element}"] * slope
            d_features[batch.place[symbols == element]] = rows
        d_positions, _ = descriptor.backward(batch, d_features, kept, scale)
        expected = golden[f"{name}/forces"]
        size = np.sqrt(np.mean(expected**2))
        assert size > 1e-4
        # golden slopes and scalings have 17 digits, some functions slopes of 1e3
        assert -d_positions * unit == pytest.approx(expected, rel=0, abs=1e-8 * max(1, size))


def test_behler_functions_of_aenet():
    folder = OWN / "aenet" / "water_behler"
    golden = np.load(folder / "golden.npz")
    descriptor = SymmetryFunctions.from_aenet([(folder / f"{e}.stp").read_text() for e in "HO"])
    assert descriptor.elements == ("H", "O")
    assert descriptor.n_functions == [17, 17]
    networks = {element: Network(folder / f"{element}.nn.ascii") for element in "HO"}
    for name, symbols, atoms in structures_of(golden, 1.0):
        batch = batch_of([atoms], descriptor.elements, descriptor.cutoff)
        features, kept = descriptor.forward(batch, *plain(descriptor))
        d_features, energies = np.zeros_like(features), np.zeros(len(atoms))
        for element in "HO":
            rows = batch.place[symbols == element]
            expected = golden[f"{name}/G_{element}"]
            error = np.abs(features[rows] - expected) / (1e-3 + np.abs(expected))
            assert error.max() < 1e-11
            energies[symbols == element], d_features[rows] = networks[element](
                features[rows], element
            )
        forces = -descriptor.backward(batch, d_features, kept, plain(descriptor)[1])[0]
        assert energies == pytest.approx(golden[f"{name}/atom_energy"], rel=0, abs=1e-9)
        assert forces == pytest.approx(golden[f"{name}/forces"], rel=0, abs=1e-9)


def shared_cases():
    zoo = ["compact_e", "compact_p1a", "compact_p2"]
    zoo += ["cutoff_1_alpha_0", "cutoff_2_alpha_0", "cutoff_6_alpha_0.3"]
    return ["H2O_RPBE-D3", *(f"sf_zoo/{name}" for name in zoo)]


def read_data(path, unit):
    """Structures of an input.data."""
    for part in path.read_text().split("begin")[1:]:
        lines = [line.split() for line in part.split("\n") if line.strip()]
        cell = unit * np.array([w[1:4] for w in lines if w[0] == "lattice"], float)
        atoms = [w for w in lines if w[0] == "atom"]
        periodic = dict(cell=cell, pbc=True) if len(cell) else {}
        positions = unit * np.array([w[1:4] for w in atoms], float)
        yield Atoms([w[4] for w in atoms], positions, **periodic)


@pytest.mark.parametrize("case", shared_cases())
def test_features_of_published_inputs(case):
    folder = SHARED / case
    if not folder.is_dir():
        pytest.skip("../shared is absent")
    descriptor = descriptor_of_input((folder / "input.nn").read_text(), BOHR)
    expected = [[]]
    for line in (folder / "golden.txt").read_text().split("\n"):
        if line.startswith("STRUCTURE"):
            expected.append([])
        elif line.startswith("G_RAW"):
            expected[-1].append(np.array(line.split()[2:], float))
    frames = list(read_data(folder / "input.data", BOHR))
    assert len(frames) == len(expected) - 1 >= 3
    for atoms, rows in zip(frames, expected[1:]):
        features = descriptor.compute(atoms)
        for row, values in zip(features, rows, strict=True):
            error = np.abs(row[: len(values)] - values) / (1e-3 + np.abs(values))
            assert error.max() < 1e-9


# Settings


def test_settings_make_an_equal_descriptor():
    for descriptor in (
        descriptor_of(["O", "Ti"], CASES, 6, 0.2),
        SymmetryFunctions(["H", "O"], n_radial=4, n_angular=1, radial_cutoff=5, angular_cutoff=4),
        SymmetryFunctions(["H"], ["H 2 H 0.123456789012345678 0 4"], order="given"),
    ):
        settings = json.loads(json.dumps(descriptor.settings))
        assert set(settings) == {"elements", *descriptor.setting_help}
        again = SymmetryFunctions(**settings)
        assert again.settings == descriptor.settings
        assert again.labels == descriptor.labels
        assert again._functions == descriptor._functions


def test_lines_and_dictionaries_are_the_same():
    lines = [
        "symfunction_short H 2 O 0.1 0 6  # a comment",
        "H 3 O H 0.01 -1 4.0 6",
        "H 3 O H 0.01 -1 4.0 6 1.5",
        "H 25 0.5 5 -90 90 p1",
        "O 12 0.1 0.0 6.0",
    ]
    dictionaries = [
        dict(element="H", type=2, neighbors=["O"], eta=0.1, shift=0, cutoff=6),
        {"element": "H", "type": 3, "neighbors": ["O", "H"], "eta": 0.01, "lambda": -1, "zeta": 4,
         "cutoff": 6},
        {"element": "H", "type": 3, "neighbors": ["O", "H"], "eta": 0.01, "lambda": -1, "zeta": 4,
         "cutoff": 6, "shift": 1.5},
        dict(element="H", type=25, inner=0.5, cutoff=5, left=-90, right=90, core="p1"),
        dict(element="O", type="12", eta=0.1, shift=0, cutoff=6),
    ]  # fmt: skip
    one = SymmetryFunctions(["H", "O"], lines)
    assert one.settings == SymmetryFunctions(["H", "O"], dictionaries).settings
    assert one.functions == [
        "H 2 O 0.1 0 6", "H 3 O H 0.01 -1 4 6", "H 3 O H 0.01 -1 4 6 1.5", "H 25 0.5 5 -90 90 p1",
        "O 12 0.1 0 6",
    ]  # fmt: skip
    assert one.cutoff == 6
    # O has a single function, and what follows is zero
    assert one.n_functions == [4, 1]
    assert one.labels[0] == "H: 2 O 0.1 0 6; O: 12 0.1 0 6"
    assert one.labels[1] == "H: 3 O H 0.01 -1 4 6; O: none"
    features = one.compute(SYSTEMS["three_species"]()[[4, 6, 7, 8]])
    symbols = np.array(SYSTEMS["three_species"]().get_chemical_symbols())[[4, 6, 7, 8]]
    assert not features[symbols == "O", 1:].any()
    assert features[symbols == "H"].any()
    # the same functions for all elements need no names of elements
    both = SymmetryFunctions(["H", "O"], ["H 12 0.1 0 6", "O 12 0.1 0 6"])
    assert both.labels == ["12 0.1 0 6"]


def test_order_given_is_kept():
    lines = ["Cu 9 Cu Cu 0.1 1 1 4", "Cu 2 Cu 0.5 0 4", "Cu 2 Cu 0.1 0 4"]
    sorted_ = SymmetryFunctions(["Cu"], lines)
    given = SymmetryFunctions(["Cu"], lines, order="given")
    assert given.labels == [line[3:] for line in lines]
    assert sorted_.labels == [given.labels[k] for k in (2, 1, 0)]
    atoms = SYSTEMS["bulk"]()
    assert (given.compute(atoms)[:, [2, 1, 0]] == sorted_.compute(atoms)).all()


def test_lengths_can_be_scaled():
    atoms = bulk("Cu", "fcc", a=3.6).repeat((2, 1, 1))
    atoms.rattle(0.1, seed=1)
    descriptor = descriptor_of(["Cu"], CASES, 6, 0.2)
    lines = scale_lengths(descriptor.functions, 2.0)
    large = atoms.copy()
    large.set_cell(2 * atoms.cell, scale_atoms=True)
    features = SymmetryFunctions(["Cu"], lines, 6, 0.2).compute(large)
    assert worst(features, descriptor.compute(atoms)) < 1e-10


@pytest.mark.parametrize("elements", [["Si"], ["O", "H"], ["Ti", "O", "H"]])
def test_automatic_set(elements):
    descriptor = SymmetryFunctions(elements, n_radial=5, n_angular=2)
    n = len(elements)
    assert descriptor.n_functions == [5 * n + 16 * n * (n + 1) // 2] * n
    assert descriptor.cutoff == 6
    assert SymmetryFunctions(elements, ["auto"], n_radial=5).settings == descriptor.settings
    assert SymmetryFunctions(elements, n_radial=1, n_angular=0).n_features == n
    rng = np.random.default_rng(0)
    atoms = Atoms(rng.choice(elements, 12), rng.uniform(0, 6, size=(12, 3)), cell=[6, 6, 6], pbc=1)
    features = descriptor.compute(atoms)
    assert np.isfinite(features).all()
    # every feature sees something, none repeats another
    used = features[:, features.any(axis=0)]
    assert len(np.unique(used.round(12), axis=1).T) == used.shape[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(elements=[]), r"elements = \[\]: name every element once"),
        (dict(elements=["O", "O"]), r"elements = \['O', 'O'\]: name every element once"),
        (dict(elements=["O", "Qq"]), r"elements: 'Qq' is no chemical element"),
        (dict(functions="all"), r"functions = 'all': give a list of lines, or \"auto\""),
        (dict(functions=["O 12 0.1 0 6"]), r"none has Ti as its central element"),
        (dict(functions=["O 2 Cu 0.1 0 6"]), r"'Cu' is not among the elements Ti, O"),
        (dict(functions=["O 7 O 0.1 0 6"]), r"expected a central element and one of the types 2,"),
        (dict(functions=["O"]), r"expected a central element"),
        (dict(functions=["O 2 O 0.1 0"]), r"expected O 2 element1 eta shift cutoff"),
        (dict(functions=["O 2 O 0.1 0 6 7"]), r"expected O 2 element1 eta shift cutoff"),
        (dict(functions=["O 2 O 0.1 0 six"]), r"cutoff = 'six' is not a number"),
        (dict(functions=["O 2 O -0.1 0 6"]), r"eta = -0.1 must be at least 0"),
        (dict(functions=["O 2 O 0.1 0 -6"]), r"cutoff = -6.0 must be above 0 Å"),
        (dict(functions=["O 2 O 0.1 nan 6"]), r"shift = nan must be finite"),
        (dict(functions=["O 3 O O 0.1 2 1 6"]), r"lambda = 2.0 must be between -1 and 1"),
        (dict(functions=["O 3 O O 0.1 1 0.5 6"]), r"zeta = 0.5 must be at least 1"),
        (dict(functions=["O 20 O 7 6 p1"]), r"inner = 7.0 must be below the cutoff"),
        (dict(functions=["O 20 O 0 6 p5"]), r"core = p5 must be one of e, p1"),
        (dict(functions=["O 22 O O 0 6 90 80 e"]), r"left = 90.0 must be below the right end"),
        (dict(functions=["O 22 O O 0 6 -20 80 e"]), r"in a window within 0 to 180, or centred"),
        (dict(functions=[dict(element="O", type=2, eta=1)]), r"type 2 has the keys element, type"),
        (dict(functions=[dict(type=2)]), r"needs an element and a type"),
        (dict(cutoff_type=9), r"cutoff_type = 9: choose one of 0 to 8"),
        (dict(cutoff_alpha=1), r"cutoff_alpha = 1.0: must be at least 0 and below 1"),
        (dict(radial_cutoff=0), r"radial_cutoff = 0.0: must be above 0 Å"),
        (dict(n_radial=0), r"n_radial = 0: must be a whole number, at least 1"),
        (dict(n_angular=1.5), r"n_angular = 1.5: must be a whole number"),
        (dict(order="random"), r"order = 'random': choose one of n2p2, given"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        SymmetryFunctions(**{"elements": ["Ti", "O"], **options})


SETUP = "ATOM H\nENV 2\nH\nO\nRMIN 0.4d0\nFUNCTIONS type=Behler2011\n2\nG=1 type2=H Rc = 4.5\n{}\n"


def test_aenet_setups():
    text = SETUP.format("G=2 type2=O eta=0.35d0 Rs=1 Rc=5")
    other = text.replace("ATOM H", "ATOM O")
    descriptor = SymmetryFunctions.from_aenet([text, other])
    assert descriptor.labels == ["2 H 0 0 4.5", "2 O 0.35 1 5"]
    for wrong, message in (
        (SETUP.format("G=6 type2=H Rc=5"), "expected G=1 to G=5"),
        (SETUP.format("G=2 type2=H Rc=5 Rs=0"), "has no eta"),
        (text.replace("Behler2011", "Chebyshev"), "expected FUNCTIONS type=Behler2011"),
        (text.replace("ENV 2", "ENV"), "setup cannot be read: list index"),
        (text.replace("ENV 2", ""), "no line begins with ENV"),
        (text.replace("eta=0.35d0", "eta=much"), "setup cannot be read: could not convert"),
        (text.replace("type2=O", "type2=C"), "'C' is not"),
    ):
        with pytest.raises(ConfigError, match=message):
            SymmetryFunctions.from_aenet([wrong, other])
    with pytest.raises(ConfigError, match="all setups must have the same"):
        SymmetryFunctions.from_aenet([text, other.replace("H\nO\n", "O\nH\n")])


def test_functions_of_one_neighbour_are_in_the_order_of_their_g():
    """As ænet evaluates them: all G1 before G2, G4 before G5, whatever the setup's order."""
    angular = "type2=O type3=H eta=0.1 lambda=1 zeta=1 Rc=5"
    lines = [f"G=5 {angular}", "G=2 type2=H eta=1 Rs=0 Rc=5", f"G=4 {angular}"]
    text = SETUP.format("\n".join(lines)).replace("\n2\nG=1", "\n4\nG=1")
    # G=1 last
    first = "G=1 type2=H Rc = 4.5\n"
    text = text.replace(first, "") + first
    descriptor = SymmetryFunctions.from_aenet([text, text.replace("ATOM H", "ATOM O")])
    assert descriptor.labels == ["2 H 0 0 4.5", "2 H 1 0 5", "3 H O 0.1 1 1 5", "9 H O 0.1 1 1 5"]


def test_unknown_element_is_refused():
    with pytest.raises(DataError, match="Cu"):
        SymmetryFunctions(["Ti", "O"]).compute(SYSTEMS["bulk"]())


# -- DScribe ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("periodic", [False, True], ids=["molecule", "crystal"])
def test_against_dscribe(periodic):
    """Types 2, 3 and 9 are DScribe's G2, G4 and G5; its first function is the bare cutoff."""
    pytest.importorskip("dscribe", reason="needs dscribe")
    from ase.build import bulk, molecule
    from dscribe.descriptors import ACSF

    if periodic:
        atoms, species = bulk("MgO", "rocksalt", a=4.2, cubic=True), ["O", "Mg"]
    else:
        atoms, species = molecule("CH3CH2OH"), ["H", "C", "O"]  # by atomic number
    atoms.rattle(0.1, seed=1)
    radial, narrow, wide = [(1.0, 0.0), (0.5, 2.0)], [(0.1, 4, 1), (0.05, 2, -1)], [(0.1, 4, -1)]
    theirs = ACSF(
        species=species, r_cut=4.5, g2_params=radial, g4_params=narrow, g5_params=wide,
        periodic=periodic,
    ).create(atoms)  # fmt: skip
    lines, columns = [], []
    for centre in species:
        columns = []
        for k, element in enumerate(species):
            lines += [f"{centre} 2 {element} {eta} {shift} 4.5" for eta, shift in radial]
            columns += [3 * k + 1, 3 * k + 2]  # 3 k is the bare cutoff
        first = 3 * len(species)
        for i, one in enumerate(species):
            for other in species[: i + 1]:
                for kind, functions in ((3, narrow), (9, wide)):
                    lines += [f"{centre} {kind} {other} {one} {eta} {sign} {zeta} 4.5"
                              for eta, zeta, sign in functions]  # fmt: skip
                columns += [first, first + 1, first + 2]
                first += 3
    ours = SymmetryFunctions(species, lines, order="given").compute(atoms)
    np.testing.assert_allclose(ours, theirs[:, columns], rtol=1e-9, atol=1e-12)

"""Symmetry functions of the device against those of the processor, and against loops."""

import numpy as np
import pytest
from ase import Atoms

from fdforce.descriptors import SymmetryFunctions, WeightedSymmetryFunctions
from tests.checks import EPS, EPS_32, elements_of, plain
from tests.cuda.on_device import both, check_close, check_descriptor, put
from tests.naive import symmetry_functions as naive
from tests.systems import SYSTEMS

# Of a feature: sums over up to 500 pairs of a few roundings each, zeta up to 16. Of a derivative:
# zeta times that, and windows know an angle to eps / sin(angle) from its cosine.
TOLERANCES = {np.float64: (1e2 * EPS, 1e3 * EPS), np.float32: (1e2 * EPS_32, 1e3 * EPS_32)}

RADIAL = ["2 {0} 0.3 0 4", "cos {0} 0.9 3", "20 {0} -1.5 3.1 p2a", "12 0.4 0.9 2.9"]
CASES = {
    "wide": ["9 {0} {1} 0.1 1 2.5 2.6", "9 {0} {1} 0.05 -1 7 2.7"],
    "narrow": ["3 {0} {1} 0.05 1 4 2.6", "21 {0} {1} 0.3 2.7 20 160 p2"],
    "weighted": ["13 0.03 0.2 1 2 2.5", "25 0.1 2.6 -120 120 e", "22 {0} {1} -1 2.6 0 360 p4"],
}

every_type = pytest.mark.parametrize("dtype", TOLERANCES)
every_case = pytest.mark.parametrize("case", CASES)


def descriptor_of(elements, forms):
    """Every form for all neighbours of the first element; one function of each of the others."""
    lines = [f"{other} 2 {elements[0]} 0.3 0 4" for other in elements[1:]]
    for form in forms:
        for k, one in enumerate(elements):
            others = elements[k:] if "{1}" in form else elements[:1]
            lines += [f"{elements[0]} {form.format(one, other)}" for other in others]
    return SymmetryFunctions(elements, list(dict.fromkeys(lines)))


def water_and_lithium():
    """Three elements and no cell: every kind of pair of neighbours, and few of them."""
    return Atoms("OH2Li", [[0, 0, 0], [0.8, 0.6, 0.1], [-0.7, 0.7, 0], [0.2, -1.8, 0.4]])


@every_type
@pytest.mark.parametrize("system", ["single_atom", "dimer", "atom_on_cutoff"])
def test_few_neighbours_or_none(system, dtype):
    atoms = SYSTEMS[system]()
    descriptor = descriptor_of(elements_of(atoms), ["2 {0} 0.3 0 4", "9 {0} {1} 0.1 1 2 4"])
    check_descriptor(descriptor, [atoms], dtype, TOLERANCES[dtype])


@every_case
def test_more_neighbours_than_threads(case, threads):
    """18 neighbours of an atom within 2.7 Å: tiles are full, and the last one is not."""
    dtype = np.float64 if threads % 3 == 2 else np.float32  # 8 and 32, 16 and 128 threads
    atoms = SYSTEMS["thin_triclinic"]()
    descriptor = descriptor_of(elements_of(atoms), CASES[case])
    check_descriptor(descriptor, [atoms], dtype, TOLERANCES[dtype])


@pytest.mark.parametrize("case", ["wide", "weighted"])
def test_three_elements(case):
    descriptor = descriptor_of(["O", "H", "Li"], [*RADIAL, *CASES[case]])
    check_descriptor(descriptor, [water_and_lithium()], np.float64, TOLERANCES[np.float64])


def test_slab():
    atoms = SYSTEMS["slab"]()
    descriptor = SymmetryFunctions(["Cu"], ["Cu 2 Cu 0.5 1 2.7", "Cu 9 Cu Cu 0.1 -1 4 2.7"])
    check_descriptor(descriptor, [atoms], np.float32, TOLERANCES[np.float32])


def test_features_are_those_of_the_loops():
    atoms = water_and_lithium()
    descriptor = descriptor_of(
        ["O", "H", "Li"], RADIAL + [f for own in CASES.values() for f in own]
    )
    _, batch = both([atoms], descriptor.elements, descriptor.cutoff)
    features, _ = descriptor.forward(batch, *map(put, plain(descriptor)))
    lists = {e: [str(f) for f in descriptor.functions_of(e)] for e in descriptor.elements}
    expected = naive.features(atoms, lists, descriptor.cutoff)
    assert np.count_nonzero(expected[0]) > 15
    # the loops take angles and polynomials as they are usually written
    check_close(features.copy_to_host()[batch.place.copy_to_host()], expected, 1e3 * EPS)


@every_type
def test_replicas_of_several_structures(dtype):
    """Features alone: replicas are displaced for energies."""
    frames = [SYSTEMS["dimer"](), Atoms("TiO2", [[0, 0, 0], [1.7, 0.2, 0], [-0.5, 1.6, 0.3]])]
    descriptor = descriptor_of(["Ti", "O"], ["2 {0} 0.3 0 4", "9 {0} {1} 0.1 1 2 4"])
    host, device = both(frames, ["Ti", "O"], descriptor.cutoff, indices=[1, 0, 1], n_replicas=2)
    mean, scale = plain(descriptor, dtype)
    expected, _ = descriptor.forward(host, mean, scale, keep=False)
    features, _ = descriptor.forward(device, put(mean), put(scale), keep=False)
    check_close(features.copy_to_host(), expected, TOLERANCES[dtype][0])


def test_several_structures():
    frames = [SYSTEMS["dimer"](), Atoms("TiO2", [[0, 0, 0], [1.7, 0.2, 0], [-0.5, 1.6, 0.3]])]
    descriptor = descriptor_of(["Ti", "O"], ["3 {0} {1} 0.1 1 2 4"])
    tolerance = TOLERANCES[np.float64]
    check_descriptor(descriptor, frames, np.float64, tolerance, indices=[1, 0, 1])


@pytest.mark.parametrize(
    ("kind", "alpha"),
    [(0, 0), (1, 0.3), (2, 0), (3, 0), (4, 0.3), (5, 0), (6, 0.2), (7, 0), (8, 0)],
)
def test_every_cutoff_function(kind, alpha):
    lines = ["O 2 O 0.3 0 4", "O 2 O 1.1 1.5 1.8", "O 3 O O 0.05 1 2 3"]
    check_trimer(SymmetryFunctions(["O"], lines, kind, alpha))


@pytest.mark.parametrize("cores", [["e", "p1", "p2", "p3", "p4"], ["p1a", "p2a", "p3a", "p4a"]])
def test_every_core(cores):
    lines = [f"O {form} {core}" for form in ("20 O -2 4", "23 0.5 2") for core in cores]
    for ends in ("20 160", "-90 90", "60 300"):
        lines += [f"O 22 O O 0.2 4 {ends} {core}" for core in cores]
    check_trimer(SymmetryFunctions(["O"], lines))


def check_trimer(descriptor):
    atoms = Atoms("O3", [[0, 0, 0], [1.4, 0.5, 0.2], [-1.1, 1.2, 0.3]])
    check_descriptor(descriptor, [atoms], np.float64, TOLERANCES[np.float64])


@every_type
@pytest.mark.parametrize("height", [0.0, 1e-9, 1e-3])
def test_atoms_in_a_line(height, dtype):
    """Windows centred on 0 and 180 degrees, where the arc cosine has an infinite slope."""
    atoms = Atoms("O3", [[0, 0, 0], [1.4, 0, 0], [-1.6, height, 0]])
    lines = [f"O 22 O O 0.2 4 {ends} p1" for ends in ("-90 90", "60 300", "80 280")]
    check_descriptor(SymmetryFunctions(["O"], lines), [atoms], dtype, TOLERANCES[dtype])


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        (dict(zetas=[1, 4]), np.float32),
        (dict(centered=True, crossterms=True), np.float64),
        (dict(mode="elements", n_angular=1), np.float64),
    ],
    ids=["weighted", "crossterms", "elements"],
)
def test_weighted_symmetry_functions(options, dtype):
    atoms = Atoms("OH2", [[0, 0, 0], [0.8, 0.6, 0.1], [-0.7, 0.7, 0]])
    settings = dict(cutoff=2.6, n_radial=3, n_angular=2, zetas=[2.5]) | options
    descriptor = WeightedSymmetryFunctions(elements_of(atoms), **settings)
    check_descriptor(descriptor, [atoms], dtype, TOLERANCES[dtype])


def test_a_position_that_is_no_number_gives_features_that_are_none():
    descriptor = descriptor_of(["O"], [RADIAL[0], *CASES["narrow"]])
    atoms = Atoms("O3", [[0, 0, 0], [1.4, 0.5, 0.2], [-1.1, 1.2, 0.3]])
    _, batch = both([atoms], ["O"], descriptor.cutoff)
    positions = batch.positions.copy_to_host()
    positions[2, 1] = np.nan
    batch.positions.copy_to_device(positions)
    mean, scale = map(put, plain(descriptor))
    features, kept = descriptor.forward(batch, mean, scale)
    assert np.isnan(features.copy_to_host()).all()
    d_positions, _ = descriptor.backward(batch, put(features.copy_to_host()), kept, scale)
    assert np.isnan(d_positions.copy_to_host()).any()

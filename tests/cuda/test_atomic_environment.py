"""Atomic environment vectors of the device against those of the processor and the plain loops."""

import numpy as np
import pytest
from ase import Atoms

from fdforce.descriptors.atomic_environment import ANI1X, AtomicEnvironmentVector
from tests.checks import EPS, EPS_32, cluster, elements_of, plain
from tests.cuda.conftest import set_threads
from tests.cuda.on_device import both, check_close, check_descriptor, put
from tests.naive import atomic_environment as naive
from tests.systems import SYSTEMS

# an error of one unit in an argument is amplified by eta r^2 or zeta, up to 400, and in slopes by
# the sharpness of the functions, up to 2 eta, once more
TOLERANCES = {np.float64: (100 * EPS, 1000 * EPS), np.float32: (100 * EPS_32, 1000 * EPS_32)}
SMALL = dict(
    radial_cutoff=4.0,
    radial_eta=3.0,
    radial_shifts=[0.5, 1.5, 2.5],
    angular_cutoff=4.6,
    angular_eta=2.0,
    zeta=9.0,
    angle_shifts=[0.3, 1.7, 3.1],
    angular_shifts=[1.8, 2.9],
)

every_type = pytest.mark.parametrize("dtype", TOLERANCES)


@pytest.mark.parametrize(
    ("system", "dtype"),
    [
        ("dimer", np.float32), ("atom_on_cutoff", np.float64), ("slab", np.float32),
        ("thin_triclinic", np.float64),
    ],
)  # fmt: skip
def test_descriptor_is_that_of_the_processor(system, dtype):
    atoms = SYSTEMS[system]()
    # both cutoffs within the spread of the neighbours, those of the slab few
    options = dict(SMALL, angular_cutoff=2.9 if system == "slab" else 3.4)
    options["radial_cutoff"] = 2.7 if system == "slab" else 4.0
    descriptor = AtomicEnvironmentVector(elements_of(atoms), **options)
    check_descriptor(descriptor, [atoms], dtype, TOLERANCES[dtype])


def test_ani_of_molecules():
    """Several structures of a data set, all four elements, one atom alone."""
    frames = [SYSTEMS["molecule"](), SYSTEMS["three_species"](), SYSTEMS["single_atom"]()]
    frames[2].symbols[:] = ["N"]
    frames[1].pbc = False
    descriptor = AtomicEnvironmentVector(["H", "C", "N", "O"], **ANI1X)
    check_descriptor(descriptor, frames, np.float32, TOLERANCES[np.float32], indices=[2, 1])


@pytest.mark.parametrize("zeta", [1.0, 2.0, 31.0, 32.0, 33.0, 14.1])
def test_any_zeta(zeta):
    atoms = SYSTEMS["dimer"]() + Atoms("O", [[0.4, -1.5, 0.9]])
    descriptor = AtomicEnvironmentVector(elements_of(atoms), **SMALL | {"zeta": zeta})
    for dtype, tolerance in TOLERANCES.items():
        check_descriptor(descriptor, [atoms], dtype, tolerance)


@pytest.mark.parametrize(
    ("n", "n_threads"), [(1, 8), (2, 8), (7, 8), (8, 8), (9, 8), (17, 8), (9, 16)]
)
def test_any_number_of_neighbours(n, n_threads, monkeypatch):
    """Tiles of neighbours and triplets that are full, or not, and pairs of tiles."""
    set_threads(monkeypatch, n_threads)
    atoms = cluster(n, reach=3.9, symbols=("Cu", "O"))
    descriptor = AtomicEnvironmentVector(["O", "Cu"], **SMALL)
    host, device = both([atoms], descriptor.elements, descriptor.cutoff)
    mean, scale = plain(descriptor)
    features, _ = descriptor.forward(device, put(mean), put(scale))
    found = features.copy_to_host()[host.place[0]]
    expected = naive.atom_features(atoms, 0, descriptor.elements, **SMALL)
    check_close(found, expected, TOLERANCES[np.float64][0])
    # of the atom in the middle alone: others have as many neighbours and take as long
    d_features = np.zeros(features.shape)
    d_features[host.place[0]] = np.random.default_rng(1).normal(size=descriptor.n_features)
    slopes = descriptor.backward(host, d_features, None, scale)
    there = descriptor.backward(device, put(d_features), None, put(scale))
    for one, other in zip(there, slopes):
        check_close(one.copy_to_host(), other, TOLERANCES[np.float64][1])


@every_type
def test_replicas(dtype):
    frames = [SYSTEMS["dimer"](), SYSTEMS["left_handed"]()]
    options = dict(SMALL, radial_cutoff=2.6, angular_cutoff=3.0)
    descriptor = AtomicEnvironmentVector(["Ti", "O"], **options)
    host, device = both(frames, descriptor.elements, descriptor.cutoff, n_replicas=2)
    mean, scale = (table + dtype(0.5) for table in plain(descriptor, dtype))
    expected, _ = descriptor.forward(host, mean, scale)
    features, _ = descriptor.forward(device, put(mean), put(scale))
    check_close(features.copy_to_host(), expected, TOLERANCES[dtype][0])


@pytest.mark.parametrize("what", ["features", "slopes"])
def test_position_that_is_no_number(what):
    descriptor = AtomicEnvironmentVector(["Ti", "O"], **SMALL)
    _, device = both([SYSTEMS["dimer"]()], descriptor.elements, descriptor.cutoff)
    positions = device.positions.copy_to_host()
    positions[1, 1] = np.nan
    device.positions.copy_to_device(positions)
    mean, scale = map(put, plain(descriptor))
    features, kept = descriptor.forward(device, mean, scale)
    if what == "features":
        assert np.isnan(features.copy_to_host()).any(axis=1).all()
    else:
        slopes, _ = descriptor.backward(device, put(np.ones(features.shape)), kept, scale)
        assert np.isnan(slopes.copy_to_host()).any()

"""Chebyshev descriptors of the device against those of the processor, and the oracle."""

import numpy as np
import pytest

from fdforce.descriptors import Chebyshev
from fdforce.kernels.cuda import runtime
from tests.checks import EPS, EPS_32, cluster, elements_of, plain
from tests.cuda.on_device import both, check_close, check_descriptor, put
from tests.naive.chebyshev import features as oracle
from tests.systems import SYSTEMS

# of a feature: sums over up to 60 neighbours; of a derivative: orders squared times that
TOLERANCES = {np.float64: (1e2 * EPS, 1e3 * EPS), np.float32: (1e2 * EPS_32, 1e3 * EPS_32)}
NAMES = ["dimer", "atom_on_cutoff", "slab", "thin_triclinic", "three_species"]

every_type = pytest.mark.parametrize("dtype", TOLERANCES)

SETTINGS = dict(radial_cutoff=4.0, radial_order=4, angular_cutoff=3.3, angular_order=3)


def descriptor_of(elements, **options):
    return Chebyshev(elements, **SETTINGS | options)


@every_type
@pytest.mark.parametrize("system", NAMES)
def test_descriptor_is_that_of_the_processor(system, dtype):
    atoms = SYSTEMS[system]()
    check_descriptor(descriptor_of(elements_of(atoms)), [atoms], dtype, TOLERANCES[dtype])


@pytest.mark.parametrize("system", NAMES)
def test_features_are_those_of_the_oracle(system):
    atoms = SYSTEMS[system]()
    descriptor = descriptor_of(elements_of(atoms))
    batch = both([atoms], descriptor.elements, descriptor.cutoff)[1]
    features, _ = descriptor.forward(batch, *map(put, plain(descriptor)))
    expected = oracle(atoms, descriptor.elements, **SETTINGS)
    check_close(
        features.copy_to_host()[batch.place.copy_to_host()], expected, TOLERANCES[np.float64][0]
    )


@pytest.mark.parametrize("orders", [(0, 0), (1, 0), (0, 1), (3, 6)])
def test_any_orders(orders):
    atoms = SYSTEMS["left_handed"]()
    radial, angular = orders
    descriptor = descriptor_of(elements_of(atoms), radial_order=radial, angular_order=angular)
    check_descriptor(descriptor, [atoms], np.float64, TOLERANCES[np.float64])


@pytest.mark.parametrize("n", [7, 8, 9, 17])
def test_neighbours_in_several_tiles(n, threads):
    check_descriptor(
        Chebyshev(["Cu"], 5.0, 3, 4.0, 2), [cluster(n)], np.float64, TOLERANCES[np.float64]
    )


@every_type
def test_structures_in_any_order_and_replicas(dtype):
    frames = [SYSTEMS[name]() for name in ("dimer", "left_handed", "thin_triclinic", "single_atom")]
    descriptor = descriptor_of(["Ti", "O"])
    for n_replicas in (1, 2):
        options = dict(indices=[2, 0, 3], n_replicas=n_replicas)
        check_descriptor(descriptor, frames, dtype, TOLERANCES[dtype], **options)


def test_features_do_not_depend_on_the_threads(monkeypatch):
    found = []
    for threads in (4, 16):
        monkeypatch.setattr(runtime, "THREADS", threads)
        batch = both([cluster(9)], ["Cu"], 4.0)[1]
        descriptor = Chebyshev(["Cu"], 4.0, 3, 4.0, 2)
        features, _ = descriptor.forward(batch, *map(put, plain(descriptor)))
        found.append(features.copy_to_host())
    assert np.array_equal(*found)

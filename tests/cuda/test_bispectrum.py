"""Bispectrum components of the device against those of the processor, and the oracle."""

import numpy as np
import pytest

from fdforce.descriptors import Bispectrum
from fdforce.kernels.cuda import bispectrum as kernels
from fdforce.kernels.cuda import runtime
from tests.checks import EPS, EPS_32, cluster, elements_of, plain
from tests.cuda.on_device import both, check_close, check_descriptor, put
from tests.systems import SYSTEMS
from tests.test_bispectrum import CASES, options_of, oracle, worst

# components are cubes of sums over up to 20 neighbours; derivatives have hundreds of terms
TOLERANCES = {np.float64: (1e2 * EPS, 1e3 * EPS), np.float32: (1e2 * EPS_32, 1e3 * EPS_32)}
NAMES = ["dimer", "atom_on_cutoff", "thin_triclinic", "three_species"]

every_type = pytest.mark.parametrize("dtype", TOLERANCES)
every_case = pytest.mark.parametrize("case", CASES)


def descriptor_of(elements, case, **options):
    """A case with few angular momenta and neighbours."""
    twojmax = 2 if "chemflag" in CASES[case] else 4
    return Bispectrum(**options_of(elements, case) | dict(twojmax=twojmax, rcutfac=3.2) | options)


@every_type
@every_case
@pytest.mark.parametrize("system", NAMES)
def test_descriptor_is_that_of_the_processor(system, case, dtype):
    atoms = SYSTEMS[system]()
    reach = 4.0 if system == "atom_on_cutoff" else 3.2
    descriptor = descriptor_of(elements_of(atoms), case, rcutfac=reach)
    check_descriptor(descriptor, [atoms], dtype, TOLERANCES[dtype])


@every_case
def test_features_are_those_of_the_oracle(case):
    atoms = SYSTEMS["three_species"]()
    descriptor = descriptor_of(elements_of(atoms), case)
    batch = both([atoms], descriptor.elements, descriptor.cutoff)[1]
    features, _ = descriptor.forward(batch, *map(put, plain(descriptor)))
    found = features.copy_to_host()[batch.place.copy_to_host()]
    assert worst(found, oracle(descriptor, atoms)) < 1e-13


@pytest.mark.parametrize("twojmax", [*range(7), 8])
def test_every_angular_momentum(twojmax):
    atoms = SYSTEMS["dimer"]()
    descriptor = Bispectrum(elements_of(atoms), twojmax, 4.0, wj=[1.0, 0.6])
    check_descriptor(descriptor, [atoms], np.float64, TOLERANCES[np.float64])


def test_without_a_switching_function():
    atoms = SYSTEMS["three_species"]()
    descriptor = descriptor_of(elements_of(atoms), "plain", switchflag=0)
    check_descriptor(descriptor, [atoms], np.float64, TOLERANCES[np.float64])


@pytest.mark.parametrize("n", [7, 8, 9, 17])
def test_neighbours_in_several_tiles(n, threads):
    descriptor = Bispectrum(["Cu"], 3, 5.0)
    check_descriptor(descriptor, [cluster(n)], np.float64, TOLERANCES[np.float64])


def several():
    return [SYSTEMS[name]() for name in ("dimer", "left_handed", "thin_triclinic", "single_atom")]


@every_type
@pytest.mark.parametrize("case", ["plain", "chemical, own"])
def test_replicas_and_atoms_in_groups(case, dtype, monkeypatch):
    """Two replicas of six atoms in blocks of up to eight."""
    monkeypatch.setattr(kernels, "MANY_BLOCKS", 1)
    descriptor = descriptor_of(["Ti", "O"], case)
    options = dict(indices=[1, 0, 3], n_replicas=2)
    check_descriptor(descriptor, several(), dtype, TOLERANCES[dtype], **options)


def test_results_do_not_depend_on_the_launch(monkeypatch):
    """Sums are in the order of the pair list, whatever the groups, threads and memory of blocks."""
    results = []
    for blocks, threads, shared in ((512, 4, 2**15), (1, 16, 2**15), (3, 16, 2**13)):
        monkeypatch.setattr(kernels, "MANY_BLOCKS", blocks)
        monkeypatch.setattr(kernels, "SHARED_BYTES", shared)
        monkeypatch.setattr(runtime, "SHARED_BYTES", shared)
        monkeypatch.setattr(runtime, "THREADS", threads)
        descriptor = descriptor_of(["Ti", "O"], "plain")
        batch = both(several(), descriptor.elements, descriptor.cutoff)[1]
        mean, scale = map(put, plain(descriptor))
        features, kept = descriptor.forward(batch, mean, scale)
        d_features = np.random.default_rng(1).normal(size=features.shape)
        slopes = descriptor.backward(batch, put(d_features), kept, scale)
        results.append([array.copy_to_host() for array in (features, *slopes)])
    for other in results[1:]:
        for one, two in zip(results[0], other):
            assert np.array_equal(one, two)


def test_too_little_shared_memory_is_said(monkeypatch):
    monkeypatch.setattr(runtime, "SHARED_BYTES", 1000)
    descriptor = descriptor_of(["Ti", "O"], "plain")
    batch = both(several(), descriptor.elements, descriptor.cutoff)[1]
    with pytest.raises(MemoryError, match="take fewer features"):
        descriptor.forward(batch, *map(put, plain(descriptor)))


def test_nan_stays_visible():
    descriptor = descriptor_of(["Ti", "O"], "plain")
    batch = both([SYSTEMS["thin_triclinic"]()], descriptor.elements, descriptor.cutoff)[1]
    positions = batch.positions.copy_to_host()
    positions[1, 0] = np.nan
    batch.positions.copy_to_device(positions)
    mean, scale = map(put, plain(descriptor))
    features, kept = descriptor.forward(batch, mean, scale)
    assert np.isnan(features.copy_to_host()).any(axis=1).all()
    slopes, _ = descriptor.backward(batch, put(np.ones(features.shape)), kept, scale)
    assert np.isnan(slopes.copy_to_host()).any()


def test_mean_is_rounded_after_the_isolated_atom_is_added():
    """As on the processor: the sum of both in double precision, then in single."""
    descriptor = descriptor_of(["Ti", "O"], "plain", bzeroflag=1)
    host, device = both([SYSTEMS["single_atom"]()], descriptor.elements, descriptor.cutoff)
    mean = np.full((2, descriptor.n_features), 1e-3, np.float32)
    scale = np.ones_like(mean)
    found, _ = descriptor.forward(device, put(mean), put(scale))
    expected, _ = descriptor.forward(host, mean, scale)
    check_close(found.copy_to_host(), expected, 0)

"""Power spectra of the device against those of the processor and the plain loops."""

import numpy as np
import pytest

from fdforce.descriptors import PowerSpectrum
from fdforce.kernels.cuda import density, power_spectrum, runtime
from fdforce.losses import make_loss
from fdforce.mixed_batches import force_aware_gradient
from fdforce.models.elemental_networks import ElementalNetworks
from tests.checks import EPS, EPS_32, cluster, elements_of, plain
from tests.cuda.on_device import (
    DEVICE,
    both,
    check_close,
    check_descriptor,
    data_of,
    gradient_on_device,
    put,
)
from tests.naive import power_spectrum as naive
from tests.systems import SYSTEMS

# sums over up to 100 neighbours, then over components; slopes have orders squared before them
TOLERANCES = {np.float64: (1e2 * EPS, 1e3 * EPS), np.float32: (1e2 * EPS_32, 1e3 * EPS_32)}
CASES = {
    "all": dict(cutoff=4.0, radial_order=3, angular_order=2),
    "diagonal": dict(cutoff=3.6, radial_order=4, angular_order=2, element_pairs="diagonal"),
    "weighted": dict(cutoff=3.0, radial_order=2, angular_order=3, element_pairs="weighted"),
    "four body": dict(cutoff=3.2, radial_order=1, angular_order=2, four_body=2),
    "degree": dict(cutoff=3.6, radial_order=4, angular_order=3, max_degree=5, distance_damping=0),
}

every_type = pytest.mark.parametrize("dtype", TOLERANCES)


@every_type
@pytest.mark.parametrize(
    ("system", "case"),
    [
        ("dimer", "four body"), ("atom_on_cutoff", "all"), ("slab", "degree"),
        ("thin_triclinic", "diagonal"), ("three_species", "weighted"),
    ],
)  # fmt: skip
def test_descriptor_is_that_of_the_processor(system, case, dtype):
    atoms = SYSTEMS[system]()
    if system == "slab":
        atoms = atoms[:6]
    descriptor = PowerSpectrum(elements_of(atoms), **CASES[case])
    check_descriptor(descriptor, [atoms], dtype, TOLERANCES[dtype])


@every_type
def test_four_body_and_structures(dtype):
    """Several structures, of which some; an atom that sees nothing, and pairs beyond the cutoff."""
    names = ("dimer", "left_handed", "single_atom", "thin_triclinic")
    frames = [SYSTEMS[name]() for name in names]
    descriptor = PowerSpectrum(["O", "Cu", "Ti"], **CASES["four body"])
    options = dict(indices=[3, 0, 2], skin=0.5)
    check_descriptor(descriptor, frames, dtype, TOLERANCES[dtype], **options)


@pytest.mark.parametrize("n", [1, 8, 9, 17])
def test_any_number_of_neighbours(n, threads):
    """Tiles that are full, or not; features against the loops."""
    atoms = cluster(n, reach=3.9, symbols=("Cu", "O"))
    descriptor = PowerSpectrum(["O", "Cu"], **CASES["all"])
    host, device = both([atoms], descriptor.elements, descriptor.cutoff)
    mean, scale = plain(descriptor)
    features, kept_there = descriptor.forward(device, put(mean), put(scale))
    found = features.copy_to_host()[host.place[0]]
    expected = naive.atom_features(atoms, 0, descriptor.elements, **CASES["all"])
    check_close(found, expected, TOLERANCES[np.float64][0])
    _, kept = descriptor.forward(host, mean, scale)
    d_features = np.random.default_rng(1).normal(size=features.shape)
    slopes = descriptor.backward(host, d_features, kept, scale)
    there = descriptor.backward(device, put(d_features), kept_there, put(scale))
    for one, other in zip(there, slopes):
        check_close(one.copy_to_host(), other, TOLERANCES[np.float64][1])


@pytest.mark.parametrize(
    ("radial_order", "angular_order"), [(0, 0), (1, 5), (8, 1), (9, 2), (18, 0)]
)
def test_every_order(radial_order, angular_order):
    """Parts of threads that are not full; series longer than what a thread holds at once."""
    atoms = SYSTEMS["wire"]()
    options = dict(radial_order=radial_order, angular_order=angular_order, max_degree=9)
    descriptor = PowerSpectrum(elements_of(atoms), cutoff=3.5, **options)
    # dT_n/dx grows as n^2
    tolerance = np.array(TOLERANCES[np.float64]) * (1, 1 + radial_order)
    check_descriptor(descriptor, [atoms], np.float64, tolerance)


def test_little_shared_memory(monkeypatch):
    """Species one by one, degrees one by one, and fewer threads than asked for."""
    atoms = SYSTEMS["three_species"]()
    descriptor = PowerSpectrum(elements_of(atoms), cutoff=2.2, radial_order=1, angular_order=2)
    n_columns, n_components = 3 * 2, 9
    enough = 8 * (n_columns * n_components + n_columns**2)
    monkeypatch.setattr(runtime, "SHARED_BYTES", enough)
    monkeypatch.setattr(power_spectrum, "SHARED_BYTES", enough)
    monkeypatch.setattr(density, "SHARED_BYTES", 8 * 3 * n_components)
    check_descriptor(descriptor, [atoms], np.float64, TOLERANCES[np.float64])


@every_type
def test_replicas(dtype):
    frames = [SYSTEMS["dimer"](), SYSTEMS["left_handed"]()]
    descriptor = PowerSpectrum(["Ti", "O"], **CASES["four body"])
    host, device = both(frames, descriptor.elements, descriptor.cutoff, n_replicas=2)
    mean, scale = (table + dtype(0.5) for table in plain(descriptor, dtype))
    expected, _ = descriptor.forward(host, mean, scale)
    features, _ = descriptor.forward(device, put(mean), put(scale))
    check_close(features.copy_to_host(), expected, TOLERANCES[dtype][0])


@pytest.mark.parametrize("what", ["features", "slopes"])
def test_position_that_is_no_number(what):
    descriptor = PowerSpectrum(["Ti", "O"], **CASES["all"])
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


def test_gradient_of_the_loss_is_that_of_the_processor():
    """A whole step: forces, replicas and their gradient."""
    elements = ("Ti", "O")
    descriptor = PowerSpectrum(elements, **CASES["four body"])
    model = ElementalNetworks(descriptor, (3,), "tanh", seed=1)
    data = data_of([SYSTEMS["dimer"](), SYSTEMS["thin_triclinic"]()], elements, descriptor.cutoff)
    loss = make_loss("squared", mean_atoms=2.0)
    expected = force_aware_gradient(model, data, [0, 1], loss, epsilon=1e-3)
    found = gradient_on_device(model, data)([0, 1], loss, epsilon=1e-3)
    # energies of replicas differ by round-off, which is divided by epsilon
    size = np.abs(expected.gradient).max()
    assert np.abs(found.gradient - expected.gradient).max() < 1e3 * EPS / 1e-3 * size


def test_kernels_of_the_invariants_add():
    """What other invariants of the density give stays."""
    descriptor = PowerSpectrum(["Ti", "O"], **CASES["four body"])
    _, device = both([SYSTEMS["dimer"]()], descriptor.elements, descriptor.cutoff)
    mean, scale = map(put, plain(descriptor))
    features, kept = descriptor.forward(device, mean, scale)
    tables = descriptor._tables.on(DEVICE, np.float64)
    d_density, found = put(np.zeros(kept.shape)), []
    for _ in range(2):
        power_spectrum.power_spectrum_backward(
            put(np.ones(features.shape)), kept, device.species, device.pair_offset, device.place,
            1.0, tables["norm"], tables["pairs"], tables["pair_start"], True, scale, d_density,
        )  # fmt: skip
        found.append(d_density.copy_to_host())
    check_close(found[1], 2 * found[0], 10 * EPS)
    assert found[0].any()

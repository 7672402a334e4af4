"""Chebyshev descriptors with settings of their own for every element, on the device."""

from dataclasses import replace

import numpy as np
import pytest

from fdforce.descriptors import Chebyshev, ElementalChebyshev, Quadratic
from fdforce.models import ElementalNetworks
from tests.checks import EPS, EPS_32, plain, relative
from tests.cuda.on_device import both, check_descriptor, data_of, gradient_on_device, put
from tests.systems import SYSTEMS
from tests.test_elemental_chebyshev import ATOMS, SETUPS
from tests.test_mixed_batches import loss_of_kind

# as in test_chebyshev.py
TOLERANCES = {np.float64: (1e2 * EPS, 1e3 * EPS), np.float32: (1e2 * EPS_32, 1e3 * EPS_32)}
ELEMENTS = ("H", "C", "O")
FRAMES = [ATOMS[[3, 1, 4, 0]], ATOMS, ATOMS[[1, 3]]]

every_type = pytest.mark.parametrize("dtype", TOLERANCES)


@every_type
def test_descriptor_is_that_of_the_processor(dtype, threads):
    descriptor = ElementalChebyshev(ELEMENTS, SETUPS)
    check_descriptor(descriptor, FRAMES[:2], dtype, TOLERANCES[dtype])


@every_type
@pytest.mark.parametrize("indices", [[2, 0], [2]], ids=["all species", "two of them"])
def test_structures_in_any_order_and_replicas(indices, dtype):
    descriptor = ElementalChebyshev(ELEMENTS, SETUPS)
    for n_replicas in (1, 2):
        options = dict(indices=indices, n_replicas=n_replicas)
        check_descriptor(descriptor, FRAMES, dtype, TOLERANCES[dtype], **options)


def test_products_of_its_features():
    descriptor = Quadratic(ElementalChebyshev(ELEMENTS, SETUPS))
    check_descriptor(descriptor, FRAMES[:1], np.float64, (1e3 * EPS, 1e4 * EPS))


def test_equal_settings_give_the_features_of_chebyshev():
    setups = [f"{element} radial_cutoff=4 radial_order=2 angular_cutoff=3 angular_order=1"
              for element in ("Ti", "O")]  # fmt: skip
    descriptors = ElementalChebyshev(("Ti", "O"), setups), Chebyshev(("Ti", "O"), 4.0, 2, 3.0, 1)
    frames = [SYSTEMS[name]() for name in ("left_handed", "single_atom")]
    batch = both(frames, ("Ti", "O"), 4.0)[1]
    found = [
        descriptor.forward(batch, *map(put, plain(descriptor)))[0].copy_to_host()
        for descriptor in descriptors
    ]
    assert np.array_equal(*found)


def test_gradient_of_a_model():
    from fdforce.computation import HostComputation

    model = ElementalNetworks(ElementalChebyshev(ELEMENTS, SETUPS), (3,), "tanh")
    data, loss = data_of(FRAMES, model.elements, model.cutoff), loss_of_kind("squared")
    rng, target = np.random.default_rng(3), data.target
    labels = dict(energy=rng.normal(size=3), forces=rng.normal(size=target.forces.shape))
    data = replace(data, target=replace(target, **labels))
    expected = HostComputation(model).gradient(data, [0, 1, 2], loss, epsilon=1e-3)
    found = gradient_on_device(model, data)([0, 1, 2], loss, epsilon=1e-3)
    # differences of energies at 1e-3
    assert relative(found.gradient, expected.gradient) < 1e-10

"""Which descriptors have kernels for the GPU, and what is said of the others."""

import pickle

import numpy as np
import pytest

from fdforce.cuda.networks import DESCRIPTORS_THERE, DeviceNetworks
from fdforce.descriptors import DESCRIPTORS, Chebyshev, ElementalChebyshev
from fdforce.descriptors.quadratic import Quadratic
from fdforce.descriptors.reduced import Reduced
from fdforce.errors import ConfigError
from fdforce.models.elemental_networks import ElementalNetworks
from tests.cuda.on_device import DEVICE, both
from tests.systems import SYSTEMS

SMALL = Chebyshev(["Cu"], radial_order=1, angular_order=1)


def test_names_are_those_of_descriptors():
    assert set(DESCRIPTORS_THERE) <= set(DESCRIPTORS)


@pytest.mark.parametrize(
    "descriptor",
    [ElementalChebyshev(["Cu"]), Quadratic(SMALL), Reduced(SMALL, np.eye(4)[:, :2])],
    ids=lambda descriptor: descriptor.name,
)
def test_without_kernels(descriptor):
    """Also where the features they are made of have kernels."""
    model = ElementalNetworks(descriptor, (2,), "tanh")
    message = f"model.descriptor = '{descriptor.name}' has no kernels for a GPU yet: take one of"
    with pytest.raises(ConfigError, match=message):
        DeviceNetworks(DEVICE, model)


@pytest.mark.parametrize("name", DESCRIPTORS_THERE)
def test_a_model_is_copied_without_what_is_on_the_device(name):
    model = ElementalNetworks(DESCRIPTORS[name](["Ti", "O"]), (2,), "tanh")
    _, batch = both([SYSTEMS["dimer"]()], ["Ti", "O"], model.cutoff)
    expected = DeviceNetworks(DEVICE, model).forward(batch).energy.copy_to_host()
    packed = pickle.dumps(model)
    assert b"devicearray" not in packed
    copied = DeviceNetworks(DEVICE, pickle.loads(packed))
    assert np.array_equal(copied.forward(batch).energy.copy_to_host(), expected)

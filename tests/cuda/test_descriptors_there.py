"""Which descriptors have kernels for the GPU, and what is said of the others."""

import numpy as np
import pytest

from fdforce.cuda.networks import DESCRIPTORS_THERE, DeviceNetworks
from fdforce.descriptors import DESCRIPTORS, Chebyshev, ElementalChebyshev
from fdforce.descriptors.quadratic import Quadratic
from fdforce.descriptors.reduced import Reduced
from fdforce.errors import ConfigError
from fdforce.models.elemental_networks import ElementalNetworks
from tests.cuda.on_device import DEVICE

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

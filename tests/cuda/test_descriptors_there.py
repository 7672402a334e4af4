"""Every descriptor has kernels for the GPU, and maps of features can be put on top of any."""

import pickle

import numpy as np
import pytest

from fdforce.cuda.networks import DeviceNetworks
from fdforce.descriptors import DESCRIPTORS, Chebyshev, Quadratic, Reduced
from fdforce.errors import ConfigError
from fdforce.models import ElementalNetworks
from tests.cuda.on_device import DEVICE, both
from tests.systems import SYSTEMS

ELEMENTS = ("Ti", "O")
SMALL = Chebyshev(ELEMENTS, radial_order=1, angular_order=1)
ALL = [descriptor(ELEMENTS) for descriptor in DESCRIPTORS.values()]


@pytest.mark.parametrize(
    "descriptor",
    [*ALL, Quadratic(SMALL), Reduced.choice(SMALL, [2, 0])],
    ids=lambda descriptor: descriptor.name,
)
def test_a_model_is_copied_without_what_is_on_the_device(descriptor):
    model = ElementalNetworks(descriptor, (2,), "tanh")
    host, batch = both([SYSTEMS["dimer"]()], ELEMENTS, model.cutoff)
    found = DeviceNetworks(DEVICE, model).forward(batch).energy.copy_to_host()
    np.testing.assert_allclose(found, model.forward(host).energy, rtol=1e-11)
    packed = pickle.dumps(model)
    assert b"devicearray" not in packed
    copied = DeviceNetworks(DEVICE, pickle.loads(packed))
    assert np.array_equal(copied.forward(batch).energy.copy_to_host(), found)


def test_a_descriptor_without_kernels_is_refused(monkeypatch):
    monkeypatch.delattr(Chebyshev, "on_gpu")
    for descriptor in (SMALL, Quadratic(SMALL), Reduced.choice(Quadratic(SMALL), [0])):
        model = ElementalNetworks(descriptor, (2,), "tanh")
        with pytest.raises(ConfigError, match='no kernels for a GPU: take device = "cpu"'):
            DeviceNetworks(DEVICE, model)

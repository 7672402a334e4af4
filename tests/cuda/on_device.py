"""The same batch on the processor and on the device, and descriptors compared on both."""

import numpy as np

from fdforce.cuda.data import DeviceData
from fdforce.cuda.device import CudaDevice
from fdforce.cuda.gradient import DeviceGradient
from fdforce.cuda.networks import DeviceNetworks
from fdforce.data_set import DataSet
from fdforce.evaluation import labels_of
from fdforce.neighbors import build_pairs
from fdforce.structures import read_structures
from tests.checks import random_standardisation, symmetric


class UnsetDevice(CudaDevice):
    """The device with NaN in new arrays, or a far-off integer: what a kernel leaves out shows."""

    def empty(self, shape, dtype):
        dtype = np.dtype(dtype)
        nothing = np.nan if dtype.kind == "f" else np.iinfo(dtype).min // 2
        return self.table(np.full(shape, nothing, dtype), dtype)


DEVICE = UnsetDevice()


def put(array, dtype=None):
    """A copy of an array on the device."""
    return DEVICE.table(array, np.asarray(array).dtype if dtype is None else dtype)


def unset(shape, dtype=np.float64):
    """An array of the device of which nothing has been written."""
    return DEVICE.empty(shape, dtype)


def data_of(frames, elements, cutoff, *, skin=0.05) -> DataSet:
    """A data set of `ase.Atoms` frames, isolated atoms included."""
    structures, _ = read_structures(frames, elements=elements, keep_isolated=True)
    pairs = build_pairs(structures, cutoff, skin=skin)
    return DataSet(structures, labels_of(structures), pairs)


def both(frames, elements, cutoff, *, indices=None, skin=0.05, n_replicas=1):
    """The same batch on the processor and on the device.

    More than one replica is displaced at random, with strains.
    """
    data = data_of(frames, elements, cutoff, skin=skin)
    indices = np.arange(len(data)) if indices is None else np.asarray(indices)
    host, there = data.batch(indices, 1)[0], DeviceData(DEVICE, data)
    device = there.batch(indices)
    there.fill(device)
    if n_replicas > 1:
        rng = np.random.default_rng(5)
        direction, strain = rng.normal(size=host.positions.shape), symmetric(rng, len(indices))
        # a length for every structure: on the device that times a node for every replica
        eta, nodes = rng.uniform(1e-3, 2e-3, size=len(indices)), np.linspace(-1, 1, n_replicas)
        host = host.displaced(direction, nodes[:, None] * eta, strain)
        device = device.displaced(put(direction), put(eta), device.layout(nodes), put(strain))
    return host, device


def gradient_on_device(model, data) -> DeviceGradient:
    """Gradients of a model on the device."""
    return DeviceGradient(DeviceNetworks(DEVICE, model), DeviceData(DEVICE, data))


def check_descriptor(descriptor, frames, dtype, tolerance, **options):
    """Compare features, and derivatives by positions and strain, with those of the processor.

    Of more than one replica features alone: forces are those of one, and have a row for each pair.

    Parameters
    ----------
    tolerance : float, or pair of float
        Largest difference, of features and of derivatives, relative to the largest entry (or to 1,
        where that is larger: features of atoms that see nothing are zero).
    options
        Of `both`.
    """
    of_features, of_slopes = np.broadcast_to(tolerance, 2)
    host, device = both(frames, descriptor.elements, descriptor.cutoff, **options)
    mean, scale = (table.astype(dtype) for table in random_standardisation(descriptor))
    expected, kept = descriptor.forward(host, mean, scale)
    features, kept_there = descriptor.forward(device, put(mean), put(scale))
    assert features.dtype == dtype
    check_close(features.copy_to_host(), expected, of_features)
    alone, nothing = descriptor.forward(device, put(mean), put(scale), keep=False)
    assert np.array_equal(alone.copy_to_host(), features.copy_to_host())
    assert len(nothing) == 0
    if device.n_replicas > 1:
        return
    d_features = np.random.default_rng(6).normal(size=expected.shape).astype(dtype)
    slopes = descriptor.backward(host, d_features, kept, scale)
    found = descriptor.backward(device, put(d_features), kept_there, put(scale))
    for one, other in zip(found, slopes):
        check_close(one.copy_to_host(), other, of_slopes)
    again = descriptor.backward(device, put(d_features), kept_there, put(scale))
    for one, other in zip(again, found):
        assert np.array_equal(one.copy_to_host(), other.copy_to_host())


def check_close(found, expected, tolerance):
    """Equal to a tolerance relative to the largest entry, or to 1 where all are smaller."""
    assert found.shape == expected.shape
    size = max(np.abs(expected).max(initial=0), 1.0)
    # written so that NaN fails
    worst = np.max(np.abs(found - expected), initial=0) / size
    assert worst <= tolerance, f"differ by {worst:.1e} of {size:.3g}, more than {tolerance:.1e}"

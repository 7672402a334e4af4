"""What descriptors share: elements and settings, features of a structure, kernel arguments."""

from __future__ import annotations

import numpy as np

from fdforce.errors import ConfigError


def check_elements(elements) -> None:
    """Raise ConfigError unless every element is named once."""
    if not elements or len(set(elements)) != len(elements):
        raise ConfigError(f"elements = {list(elements)}: name every element once")


def settings_of(descriptor) -> dict:
    """Arguments that make an equal descriptor, ready for JSON."""
    settings = {"elements": list(descriptor.elements)}
    for name in descriptor.setting_help:
        value = getattr(descriptor, name)
        settings[name] = list(value) if isinstance(value, tuple) else value
    return settings


def element_spins(n: int) -> np.ndarray:
    """ænet's weights that tell n elements apart: -n/2 .. n/2, without 0 when n is even."""
    return np.array([s for s in range(-(n // 2), n // 2 + 1) if s or n % 2], dtype=np.float64)


def compute_features(descriptor, atoms) -> np.ndarray:
    """Features of every atom of a structure, not standardised.

    Parameters
    ----------
    descriptor : Descriptor
    atoms : ase.Atoms

    Returns
    -------
    ndarray, shape (n_atoms, n_features), float64

    Raises
    ------
    DataError
        An element that the descriptor does not know, or positions that are not finite.
    """
    from fdforce.batch import make_batch
    from fdforce.neighbors import build_pairs
    from fdforce.structures import read_structures

    structures, _ = read_structures([atoms], elements=descriptor.elements, keep_isolated=True)
    batch = make_batch(structures, build_pairs(structures, descriptor.cutoff, skin=0.0))
    plain = np.zeros((len(descriptor.elements), descriptor.n_features))
    features, _ = descriptor.forward(batch, plain, plain + 1)
    return features[batch.place]


def working_dtype(batch, mean) -> np.dtype:
    """Of the features: that of their mean, or complex128 for complex positions."""
    complex_step = batch.positions.dtype.kind == "c"
    return np.dtype(np.complex128) if complex_step else np.dtype(mean.dtype)


def numbers_of(descriptor) -> int:
    """Numbers computed for an atom on the way to its features, about."""
    return getattr(descriptor, "n_computed", descriptor.n_features)


def plain_standardisation(descriptor) -> dict:
    """Mean and scale, ``zero`` and ``one``, with which features are what they are, for `Tables`."""
    shape = len(descriptor.elements), descriptor.n_features
    return {"zero": np.zeros(shape), "one": np.ones(shape)}


class Tables:
    """Constants of a descriptor, made once and kept for every dtype and device they are asked in.

    Parameters
    ----------
    make : callable
        Returns a dict of arrays in float64. Those whose names are in `double` stay so, integers
        stay integers, and the others take the dtype asked for.
    double : tuple of str
    short : tuple of str
        Names of indices that fit into 16 bits, which they take on a GPU, where they are read often.
    """

    def __init__(self, make, double: tuple[str, ...] = (), short: tuple[str, ...] = ()):
        self.make, self.double, self.short, self._kept = make, double, short, {}

    def __getstate__(self):
        # what is kept is made again: arrays of a device cannot be copied into another process
        return {**vars(self), "_kept": {}}

    def on(self, device, dtype) -> dict:
        """The tables on a device and in a working dtype."""
        key = device.name, np.dtype(dtype)
        if key not in self._kept:
            self._kept[key] = {
                name: device.table(table, self._dtype(name, np.asarray(table), *key))
                for name, table in self.make().items()
            }
        return self._kept[key]

    def _dtype(self, name, table, device, dtype):
        if table.dtype.kind in "iub":
            return np.dtype(np.uint16) if name in self.short and device != "cpu" else table.dtype
        return np.dtype(np.float64) if name in self.double else dtype

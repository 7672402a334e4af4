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


def pair_arguments(batch) -> tuple:
    """The arguments that every descriptor kernel begins with (kernels/README.md)."""
    return (
        batch.positions, batch.cells, batch.structure, batch.species, batch.offsets,
        batch.row_begin, batch.row_end, batch.neighbor, batch.shift, batch.chunks, batch.place,
    )  # fmt: skip

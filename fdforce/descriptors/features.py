"""What all descriptors share: the features of one structure, the arguments of their kernels."""

from __future__ import annotations

import numpy as np


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

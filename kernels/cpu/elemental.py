"""A descriptor of its own for every element, in NumPy: `fdforce.descriptors.ElementalChebyshev`.

Atoms of species z have the features of its descriptor; where others have more, these are zero.

=============  ======================  ==========================================================
plain          (n_atoms, n)            features of the descriptor of species z; rows sorted by
                                       species, as all others here
z              int
species_start  (n_species + 1,) int64  first row of each species
mean, scale    (n_species, n_features)
features       (n_atoms, n_features)   ``(G - mean) * scale``
=============  ======================  ==========================================================
"""

import numpy as np


def rows_around(species, row_begin, row_end, z, own_end):
    """``row_end`` without the neighbours of atoms that are not of species z.

    Such atoms cost next to nothing, and what is computed for them is not used.
    """
    shape = len(species), -1
    own_end[...] = row_begin
    own = (species == z)[:, None]
    np.copyto(own_end.reshape(shape), row_end.reshape(shape), where=own)


def elemental_forward(plain, z, species_start, mean, scale, features):
    """Features of the atoms of species z; rows of others are left alone."""
    n, rows = plain.shape[1], slice(species_start[z], species_start[z + 1])
    np.subtract(plain[rows], mean[z, :n], out=features[rows, :n])
    features[rows, n:] = -mean[z, n:]
    features[rows] *= scale[z]


def elemental_backward(d_features, z, scale, d_plain):
    """Overwrites d_plain; what it holds for other species meets no neighbours (`rows_around`)."""
    n = d_plain.shape[1]
    np.multiply(d_features[:, :n], scale[z, :n], out=d_plain)

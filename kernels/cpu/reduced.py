"""Linear combinations of features, in NumPy: `fdforce.descriptors.Reduced`.

=============  ======================  ==========================================================
plain          (n_atoms, n)            features G; rows sorted by species, as all others here
matrix         (n, n_features)
species_start  (n_species + 1,) int64  first row of each species
mean, scale    (n_species, n_features)
features       (n_atoms, n_features)   ``(G matrix - mean) * scale``
=============  ======================  ==========================================================
"""

import numpy as np

from .species_rows import scale_rows, standardise_rows


def reduced_forward(plain, matrix, species_start, mean, scale, features):
    """Combinations of the features of each atom."""
    np.matmul(plain, matrix, out=features)
    standardise_rows(species_start, mean, scale, features)


def reduced_backward(d_features, matrix, species_start, scale, scaled, d_plain):
    """Overwrites d_plain, and `scaled`, which is scratch of the size of d_features."""
    scaled[...] = d_features
    scale_rows(species_start, scale, scaled)
    np.matmul(scaled, matrix.T, out=d_plain)

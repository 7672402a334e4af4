"""Products of features, in NumPy: `fdforce.descriptors.Quadratic`.

=============  ======================  ==========================================================
plain          (n_atoms, n)            features G; rows sorted by species, as all others here
first, second  (n (n + 1) / 2,) int64  which two of them a product is made of, k <= l in order
factor         (n (n + 1) / 2,)        1/2 for squares, otherwise 1
species_start  (n_species + 1,) int64  first row of each species
mean, scale    (n_species, n_features)
features       (n_atoms, n_features)   G and its products, ``(x - mean) * scale``
=============  ======================  ==========================================================
"""

import numpy as np

from .species_rows import scale_rows, standardise_rows


def quadratic_forward(plain, first, second, factor, species_start, mean, scale, features):
    """Features and products of each atom."""
    n = plain.shape[1]
    features[:, :n] = plain
    products = plain[:, first] * plain[:, second]
    np.multiply(products, factor, out=features[:, n:])
    standardise_rows(species_start, mean, scale, features)


def quadratic_backward(d_features, plain, first, second, factor, species_start, scale, d_plain):
    """Overwrites d_plain."""
    n = plain.shape[1]
    d_features = d_features.copy()
    scale_rows(species_start, scale, d_features)
    matrix = np.zeros((len(plain), n, n), d_features.dtype)
    matrix[:, first, second] = d_features[:, n:] * factor
    np.add(d_features[:, :n], np.einsum("akl,al->ak", matrix, plain), out=d_plain)
    d_plain += np.einsum("akl,ak->al", matrix, plain)

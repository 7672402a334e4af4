"""Invariants of a neighbour density: its scalars, the power spectrum, some of third order.

With the density A[a, q] of density.py, a = (channel, radial function), the features of an atom are

    A[a, 0]                                                    for every a
    p[l, a, b] = sum_q norm_q A[a, q] A[b, q], q of degree l   for every l and its pairs a <= b
    v.Qv and Tr Q^3                                            for every a, if four_body

p is sum_jk R_a(r_ij) R_b(r_ik) P_l(cos theta_jik) over all neighbours j and k, j = k included.  The
vector v = sum_j R u and the traceless tensor Q = sum_j R (u u - 1/3) are the densities of l = 1 and
2, so the invariants of third order run over four atoms.

Arguments common to both directions:

==============  ===========================  =====================================================
density         (n_atoms_in_all,             A, see density.py; in the order of the batch
                n_components, n_columns)
species         (n_atoms,)
chunks, place                                see kernels/README.md
one             scalar                       1 in the dtype of the density
norm            (n_components,)              norm_q of the addition theorem
pairs           (n_pairs, 2) integer         a and b of every p, l after l
pair_start      (n_degrees + 1,)             first pair of every l
four_body       bool
mean, scale     (n_species, n_features)      standardisation of an atom of that species
features        (n_atoms_in_all, n_features) ``(G - mean) * scale``; row ``place[i]`` is atom i; p
                                             by the order of pairs; v.Qv of all a before Tr Q^3
==============  ===========================  =====================================================
"""

import math

import numpy as np
from numba import njit, prange

from .chebyshev import FLAGS


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _third_order(density, one, out):
    """v.Qv and Tr Q^3 of every column."""
    n = density.shape[1]
    half = one / (one + one)
    quarter = half * half
    z, x, y = density[1], density[2], density[3]
    # Q_zz, Q_xz, Q_yz, Q_xx - Q_yy, 2 Q_xy
    qa, qb, qc, qd, qe = density[4], density[5], density[6], density[7], density[8]
    for k in range(n):
        a, b, c, d, e = qa[k], qb[k], qc[k], qd[k], qe[k]
        u, v, w = x[k], y[k], z[k]
        across = b * u + c * v
        out[k] = (
            half * (u * u * (d - a) - v * v * (d + a)) + a * w * w + e * u * v + (w + w) * across
        )
        det = quarter * a * (a * a - d * d - e * e) + half * ((a + d) * b * b + (a - d) * c * c)
        det += e * b * c
        out[n + k] = det + det + det


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _third_order_slopes(density, d_out, one, d_density):
    """Add the pullback of `_third_order` to d_density."""
    n = density.shape[1]
    half = one / (one + one)
    quarter = half * half
    for k in range(n):
        w, u, v = density[1, k], density[2, k], density[3, k]
        a, b, c, d, e = density[4, k], density[5, k], density[6, k], density[7, k], density[8, k]
        g, h = d_out[k], d_out[n + k]
        h = h + h + h
        g2 = g + g
        d_density[1, k] += g2 * (a * w + b * u + c * v)
        d_density[2, k] += g * (u * (d - a) + e * v) + g2 * w * b
        d_density[3, k] += g * (e * u - v * (d + a)) + g2 * w * c
        d_density[4, k] += g * (w * w - half * (u * u + v * v)) + h * (
            half * (a * a + b * b + c * c) + quarter * (a * a - d * d - e * e)
        )
        d_density[5, k] += g2 * w * u + h * ((a + d) * b + e * c)
        d_density[6, k] += g2 * w * v + h * ((a - d) * c + e * b)
        d_density[7, k] += g * half * (u * u - v * v) + h * half * (b * b - c * c - a * d)
        d_density[8, k] += g * u * v + h * (b * c - half * a * e)


@njit(cache=True, parallel=True, fastmath=FLAGS, error_model="numpy")
def power_spectrum_forward(
    density, species, chunks, place, one, norm, pairs, pair_start, four_body, mean, scale, features
):
    """Features of every atom of every replica."""
    n_atoms = len(species)
    n_replicas = len(density) // n_atoms
    n_components, n_columns = density.shape[1], density.shape[2]
    n_degrees = int(math.sqrt(n_components) + 0.5)
    for chunk in prange(len(chunks) - 1):
        weighted = np.empty((2 * n_degrees - 1) * n_columns, features.dtype)
        products = np.empty((n_columns, n_columns), features.dtype)
        g = np.empty(features.shape[1], features.dtype)
        for i in range(chunks[chunk], chunks[chunk + 1]):
            for replica in range(n_replicas):
                atom = replica * n_atoms + i
                own = density[atom]
                for a in range(n_columns):
                    g[a] = own[0, a]
                for l in range(n_degrees):
                    first, number = l * l, 2 * l + 1
                    left = weighted[: number * n_columns].reshape(number, n_columns)
                    for q in range(number):
                        for a in range(n_columns):
                            left[q, a] = norm[first + q] * own[first + q, a]
                    np.dot(left.T, own[first : first + number], products)
                    for k in range(pair_start[l], pair_start[l + 1]):
                        g[n_columns + k] = products[pairs[k, 0], pairs[k, 1]]
                if four_body:
                    _third_order(own, one, g[n_columns + len(pairs) :])
                out = features[place[atom]]
                shift_by, scale_by = mean[species[i]], scale[species[i]]
                for n in range(len(g)):
                    out[n] = (g[n] - shift_by[n]) * scale_by[n]


@njit(cache=True, parallel=True, fastmath=FLAGS, error_model="numpy")
def power_spectrum_backward(
    d_features, density, species, chunks, place, one, norm, pairs, pair_start, four_body, scale,
    d_density,
):  # fmt: skip
    """Add dE/dA to d_density."""
    n_atoms = len(species)
    n_replicas = len(density) // n_atoms
    n_components, n_columns = density.shape[1], density.shape[2]
    n_degrees = int(math.sqrt(n_components) + 0.5)
    for chunk in prange(len(chunks) - 1):
        pulled = np.empty((2 * n_degrees - 1) * n_columns, d_features.dtype)
        symmetric = np.empty((n_columns, n_columns), d_features.dtype)
        g = np.empty(d_features.shape[1], d_features.dtype)
        for i in range(chunks[chunk], chunks[chunk + 1]):
            for replica in range(n_replicas):
                atom = replica * n_atoms + i
                own, d_own = density[atom], d_density[atom]
                for n in range(len(g)):
                    g[n] = d_features[place[atom], n] * scale[species[i], n]
                for a in range(n_columns):
                    d_own[0, a] += g[a]
                for l in range(n_degrees):
                    first, number = l * l, 2 * l + 1
                    symmetric[:] = one - one
                    for k in range(pair_start[l], pair_start[l + 1]):
                        symmetric[pairs[k, 0], pairs[k, 1]] += g[n_columns + k]
                        symmetric[pairs[k, 1], pairs[k, 0]] += g[n_columns + k]
                    right = pulled[: number * n_columns].reshape(number, n_columns)
                    np.dot(own[first : first + number], symmetric, right)
                    for q in range(number):
                        for a in range(n_columns):
                            d_own[first + q, a] += norm[first + q] * right[q, a]
                if four_body:
                    _third_order_slopes(own, g[n_columns + len(pairs) :], one, d_own)

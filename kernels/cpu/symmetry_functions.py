"""Behler's symmetry functions: forward and backward, by sums over neighbours and pairs of them.

Every function of the family is a sum over neighbours ``sum_j w_j phi(r_ij)`` or over pairs of
neighbours ``sum_{j<k} w_j w_k A(cos theta_jik) phi(r_ij) phi(r_ik)``, "wide", or that times
``phi(r_jk)``, "narrow". A *factor* phi is a Gaussian, a cosine or a compact function of a distance,
with its cutoff. An *angular* A is ``((1 + lambda cos theta) / 2)^zeta`` or a window in the angle.
What several functions have in common is computed once: the cutoff for all factors with the same
one, a factor once per neighbour, an angular once per pair. Powers of an integer zeta are products
of lower powers.

An atom of species s works through the *blocks* of its species. A block is a pair of neighbour
species, or all pairs of neighbours with the weights of their species, wide or narrow; its *groups*
have a factor each, and the *members* of a group an angular and a feature. Pairs of neighbours are
gathered in tiles, narrow ones only if the third side is within reach, and a tile is filled up to
whole vectors with a neighbour whose factors are zero (symmetry_function_pairs.py).

Wide functions with an integer zeta need no loop over pairs. Their angulars are polynomials
``sum_l c_l P_l``, so the sum over pairs is that of products of densities, ``D_ml = sum_j phi_j
Q_ml(z_j) (x_j + i y_j)^m`` (kernels/cpu/chebyshev.py), for each factor and neighbour species
(symmetry_function_densities.py). Sums over pairs are small differences there, so densities are in
the dtype of the positions. The same functions are in blocks as well, and the number of neighbours
decides which way an atom takes.

Arguments common to both directions are those of every descriptor kernel (kernels/README.md); then,
"row" being ``s * n_species + z`` for a neighbour of species z and floating tables in the dtype of
the features unless float64 is said (tables of kernels/cpu/cutoffs.py first),

===============  ==================  ==============================================================
cutoff_kind      integer             type of all cutoffs
series, cores                        of the sweeps
cutoffs          (n_cutoffs, 4)      cutoff rows
factors          (n_factors, 3)      factor rows, those of one species after those of another and
                                     those with one cutoff together
factor_kinds     (n_factors, 2)      kind; cutoff or -1
factor_start     (n_species + 1,)    first factor of each central species
row_reach        (n_rows,) float64   neighbours at or beyond it do not count
row_start        (n_rows + 1,)
row_factors      (.,)                factors needed of the neighbours of a row
radial_start     (n_rows + 1,)
radials          (., 2)              factor and feature
radial_weights   (.,)
numbers          (n_species,)        weight of a neighbour where weights count
block_start      (n_species + 1,)    first block of each central species
blocks           (n_blocks, 8)       z1, z2 (>= z1; z1 = -1: all pairs, weighted), narrow,
                                     whether densities give the same, first angular, last, first
                                     group, last
block_reach      (n_blocks,) float64 pairs with a side at or beyond it do not count
angulars         (n_angulars, 3)     how it is made: POWER, WINDOW, or PRODUCT and the places in
                                     the block of two angulars before it
angular_table    (n_angulars, 4)     POWER: lambda / 2, zeta; WINDOW: centre and inverse half width
                                     (rad), core, and -1, 1 if centred on 0, pi, otherwise 0
groups           (n_groups, 3)       factor, first member, last
members          (n_members, 2)      angular (its place in the block) and feature
member_weights   (n_members,)
densities        (n_densities, 4)    factor, degree, first member, last
density_start    (n_species + 1,)    first density of each central species
density_uses     (n_densities,       whether neighbours of a species count
                 n_species)
density_members  (., 4)              z1, z2 as in blocks, feature, row of legendre; those with the
                                     same z1 and z2 together
density_weights  (.,) float64
legendre         (., degree + 2)     c_l and, last, sum_l c_l; float64
recursion, norm  float64             as of the Chebyshev kernels, of the highest degree
costs            (n_species, 5)      time of the densities of an atom, and more for each neighbour;
                 float64             of the blocks that give the same, and more for each pair;
                                     neighbours closer than the last number count
largest          (6,)                factors of a species, angulars and groups of a block, degree,
                                     members of a block, radials of a row
mean, scale      (n_species,         standardisation of an atom of that species
                 n_features)
features         (n_atoms_in_all,    ``(G - mean) * scale``; row ``place[i]`` is atom i
                 n_features)
===============  ==================  ==============================================================
"""

import numpy as np
from numba import njit, prange

from . import chebyshev as angular
from .symmetry_function_densities import (
    _densities_are_faster,
    _density_features,
    _density_gradient,
    _density_slopes,
    _sum_densities,
)
from .symmetry_function_pairs import (
    ALONG,
    ANGULARS,
    COSINE,
    DX,
    DY,
    DZ,
    FACTORS,
    FLAGS,
    GX,
    GY,
    GZ,
    LANES,
    RUN,
    SIDE,
    TILE,
    WEIGHT,
    X,
    Y,
    Z,
    _close_pairs,
    _most_neighbours,
    _neighbours,
    _row_tables,
    _tile_backward,
    _tile_forward,
    _within,
)  # fmt: skip


@njit(cache=True, parallel=True, fastmath=FLAGS, error_model="numpy")
def symmetry_functions_forward(
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    chunks, place,
    cutoff_kind, series, cores, cutoffs, factors, factor_kinds, factor_start, row_reach, row_start,
    row_factors, radial_start, radials, radial_weights, numbers, block_start, blocks, block_reach,
    angulars, angular_table, groups, members, member_weights, densities, density_start,
    density_uses, density_members, density_weights, legendre, recursion, norm, costs, largest, mean,
    scale,
    features,
):  # fmt: skip
    """Features of every atom of every replica."""
    n_atoms = len(species)
    n_replicas = len(positions) // n_atoms
    n_species = len(numbers)
    n_features = features.shape[1]
    for chunk in prange(len(chunks) - 1):
        most = _most_neighbours(chunks, chunk, species, row_begin, row_end, n_species) + 1
        n_factors, n_angulars = largest[0], largest[1]
        zero = cores[0, 0] - cores[0, 0]
        raw = np.empty(n_features, features.dtype)
        index = np.empty(most, np.int64)
        segment = np.empty(n_species + 1, np.int64)
        far = np.empty((8, most), positions.dtype)
        near = np.empty((FACTORS + 2 * n_factors, most), features.dtype)
        tile = np.empty((ANGULARS + 2 * n_angulars, TILE + RUN + LANES), features.dtype)
        cosines, sides = tile[COSINE], tile[SIDE]
        first_of = np.empty(TILE + RUN + LANES, np.int32)
        second_of = np.empty(TILE + RUN + LANES, np.int32)
        nothing = 0.0 * positions[0, 0]
        scratch = np.empty(angular.N_SLOTS * angular.TILE, positions.dtype)
        n_density = (largest[3] + 1) * (largest[3] + 2)
        density = np.empty((n_species + 1, n_density), positions.dtype)
        squares = np.empty(n_species + 1, positions.dtype)
        power = np.empty(largest[3] + 1, positions.dtype)
        for i in range(chunks[chunk], chunks[chunk + 1]):
            s = species[i]
            factor_first = factor_start[s]
            for replica in range(n_replicas):
                atom = replica * n_atoms + i
                base = offsets[structure[atom]]
                raw[:] = zero
                n = 0
                for z in range(n_species):
                    segment[z] = n
                    row, list_row = s * n_species + z, i * n_species + z
                    n = _neighbours(
                        positions, cells[structure[atom]], neighbor, shift, row_begin[list_row],
                        row_end[list_row], atom, base, row_reach[row], n, index, far, near,
                    )  # fmt: skip
                    first, count = segment[z], n - segment[z]
                    own = near[:, first:]
                    for k in range(count):
                        own[WEIGHT, k] = numbers[z]
                    _row_tables(
                        own, count, cutoff_kind, series, cores, cutoffs, factors, factor_kinds,
                        row_factors, row_start[row], row_start[row + 1], factor_first, n_factors,
                    )  # fmt: skip
                    for e in range(radial_start[row], radial_start[row + 1]):
                        total = zero
                        at = FACTORS + radials[e, 0] - factor_first
                        for k in range(count):
                            total += own[at, k]
                        raw[radials[e, 1]] += radial_weights[e] * total
                segment[n_species] = n
                near[WEIGHT:, n] = zero
                by_density = _densities_are_faster(costs, s, far, n)
                for b in range(block_start[s], block_start[s + 1]):
                    if by_density and blocks[b, 3] == 1:
                        continue
                    if blocks[b, 0] < 0:
                        j0, j1, k0, k1 = 0, n, 0, n
                    else:
                        j0, j1 = segment[blocks[b, 0]], segment[blocks[b, 0] + 1]
                        k0, k1 = segment[blocks[b, 1]], segment[blocks[b, 1] + 1]
                    reach, narrow = block_reach[b], blocks[b, 2] == 1
                    j1, k1 = _within(far, j0, j1, reach), _within(far, k0, k1, reach)
                    q, j, first = 0, j0, max(k0, j0 + 1)
                    while q > 0 or j < j1:
                        if j < j1:
                            last = min(first + RUN, k1)
                            q = _close_pairs(
                                j, first, last, reach, narrow, far, q, cosines, sides, first_of,
                                second_of,
                            )  # fmt: skip
                            first = last
                            if last >= k1:
                                j += 1
                                first = max(k0, j + 1)
                            if q < TILE and j < j1:
                                continue
                        if q > 0:
                            _tile_forward(
                                blocks, b, q, n, cutoff_kind, series, cores, cutoffs, factors,
                                factor_kinds, factor_first, angulars, angular_table, n_angulars,
                                groups, members, member_weights, near, tile, first_of, second_of,
                                raw,
                            )  # fmt: skip
                        q = 0
                for g in range(density_start[s], density_start[s + 1]):
                    if not by_density:
                        break
                    _sum_densities(
                        densities, density_uses, g, factor_first, segment, recursion, far, near,
                        scratch, nothing, density, squares,
                    )  # fmt: skip
                    _density_features(
                        densities, density_uses, g, density_members, density_weights, legendre,
                        norm, numbers, density, squares, power, nothing, raw,
                    )  # fmt: skip
                out = features[place[atom]]
                shift_by, scale_by = mean[s], scale[s]
                for f in range(n_features):
                    out[f] = (raw[f] - shift_by[f]) * scale_by[f]


@njit(cache=True, parallel=True, fastmath=FLAGS, error_model="numpy")
def symmetry_functions_backward(
    d_features,
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    chunks, place,
    cutoff_kind, series, cores, cutoffs, factors, factor_kinds, factor_start, row_reach, row_start,
    row_factors, radial_start, radials, radial_weights, numbers, block_start, blocks, block_reach,
    angulars, angular_table, groups, members, member_weights, densities, density_start,
    density_uses, density_members, density_weights, legendre, recursion, norm, costs, largest,
    scale,
    d_positions, d_strain,
):  # fmt: skip
    """Add dE/dr to d_positions (n_chunks, n_atoms_in_all, 3), dE/ds to d_strain (.., 6) per atom.

    ``d_strain`` is in Voigt order xx yy zz yz xz xy; every chunk of atoms adds into its own
    slice of ``d_positions``.
    """
    n_atoms = len(species)
    n_replicas = len(positions) // n_atoms
    n_species = len(numbers)
    n_features = d_features.shape[1]
    for chunk in prange(len(chunks) - 1):
        most = _most_neighbours(chunks, chunk, species, row_begin, row_end, n_species) + 1
        n_factors, n_angulars = largest[0], largest[1]
        zero = cores[0, 0] - cores[0, 0]
        d_raw = np.empty(n_features, d_features.dtype)
        index = np.empty(most, np.int64)
        segment = np.empty(n_species + 1, np.int64)
        far = np.empty((8, most), positions.dtype)
        near = np.empty((FACTORS + 2 * n_factors, most), d_features.dtype)
        tile = np.empty((ANGULARS + 2 * n_angulars, TILE + RUN + LANES), d_features.dtype)
        cosines, sides = tile[COSINE], tile[SIDE]
        first_of = np.empty(TILE + RUN + LANES, np.int32)
        second_of = np.empty(TILE + RUN + LANES, np.int32)
        nothing = 0.0 * positions[0, 0]
        scratch = np.empty(angular.N_SLOTS * angular.TILE, positions.dtype)
        n_density = (largest[3] + 1) * (largest[3] + 2)
        density = np.empty((n_species + 1, n_density), positions.dtype)
        squares = np.empty(n_species + 1, positions.dtype)
        power = np.empty(largest[3] + 1, positions.dtype)
        d_density = np.empty((n_species + 1, n_density), positions.dtype)
        dz_density = np.zeros(n_density, positions.dtype)
        kappa = np.empty(n_species + 1, positions.dtype)
        for i in range(chunks[chunk], chunks[chunk + 1]):
            s = species[i]
            factor_first = factor_start[s]
            for replica in range(n_replicas):
                atom = replica * n_atoms + i
                base = offsets[structure[atom]]
                for f in range(n_features):
                    d_raw[f] = d_features[place[atom], f] * scale[s, f]
                n = 0
                for z in range(n_species):
                    segment[z] = n
                    row, list_row = s * n_species + z, i * n_species + z
                    n = _neighbours(
                        positions, cells[structure[atom]], neighbor, shift, row_begin[list_row],
                        row_end[list_row], atom, base, row_reach[row], n, index, far, near,
                    )  # fmt: skip
                    first, count = segment[z], n - segment[z]
                    own = near[:, first:]
                    for k in range(count):
                        own[WEIGHT, k] = numbers[z]
                    _row_tables(
                        own, count, cutoff_kind, series, cores, cutoffs, factors, factor_kinds,
                        row_factors, row_start[row], row_start[row + 1], factor_first, n_factors,
                    )  # fmt: skip
                    for k in range(count):
                        own[ALONG, k] = zero
                    for e in range(radial_start[row], radial_start[row + 1]):
                        g = radial_weights[e] * d_raw[radials[e, 1]]
                        at = FACTORS + n_factors + radials[e, 0] - factor_first
                        for k in range(count):
                            own[ALONG, k] += g * own[at, k]
                segment[n_species] = n
                near[WEIGHT:, n] = zero
                near[GX : GZ + 1, :n] = zero
                by_density = _densities_are_faster(costs, s, far, n)
                for b in range(block_start[s], block_start[s + 1]):
                    if by_density and blocks[b, 3] == 1:
                        continue
                    if blocks[b, 0] < 0:
                        j0, j1, k0, k1 = 0, n, 0, n
                    else:
                        j0, j1 = segment[blocks[b, 0]], segment[blocks[b, 0] + 1]
                        k0, k1 = segment[blocks[b, 1]], segment[blocks[b, 1] + 1]
                    reach, narrow = block_reach[b], blocks[b, 2] == 1
                    j1, k1 = _within(far, j0, j1, reach), _within(far, k0, k1, reach)
                    q, j, first = 0, j0, max(k0, j0 + 1)
                    while q > 0 or j < j1:
                        if j < j1:
                            last = min(first + RUN, k1)
                            q = _close_pairs(
                                j, first, last, reach, narrow, far, q, cosines, sides, first_of,
                                second_of,
                            )  # fmt: skip
                            first = last
                            if last >= k1:
                                j += 1
                                first = max(k0, j + 1)
                            if q < TILE and j < j1:
                                continue
                        if q > 0:
                            _tile_backward(
                                blocks, b, q, n, cutoff_kind, series, cores, cutoffs, factors,
                                factor_kinds, factor_first, n_factors, angulars, angular_table,
                                n_angulars, groups, members, member_weights, near, tile, first_of,
                                second_of, d_raw,
                            )  # fmt: skip
                        q = 0
                for g in range(density_start[s], density_start[s + 1]):
                    if not by_density:
                        break
                    _sum_densities(
                        densities, density_uses, g, factor_first, segment, recursion, far, near,
                        scratch, nothing, density, squares,
                    )  # fmt: skip
                    _density_slopes(
                        densities, density_uses, g, density_members, density_weights, legendre,
                        norm, numbers, density, squares, power, nothing, d_raw, d_density, kappa,
                    )  # fmt: skip
                    _density_gradient(
                        densities, density_uses, g, factor_first, n_factors, segment, recursion,
                        far, near, scratch, nothing + 1.0, d_density, dz_density, kappa,
                    )  # fmt: skip
                fx, fy, fz = nothing, nothing, nothing
                sxx, syy, szz, syz, sxz, sxy = fx, fx, fx, fx, fx, fx
                for k in range(n):
                    gx = near[ALONG, k] * near[X, k] + near[GX, k]
                    gy = near[ALONG, k] * near[Y, k] + near[GY, k]
                    gz = near[ALONG, k] * near[Z, k] + near[GZ, k]
                    fx += gx
                    fy += gy
                    fz += gz
                    dx, dy, dz = far[DX, k], far[DY, k], far[DZ, k]
                    sxx += dx * gx
                    syy += dy * gy
                    szz += dz * gz
                    syz += dy * gz
                    sxz += dx * gz
                    sxy += dx * gy
                    j = index[k]
                    d_positions[chunk, j, 0] += gx
                    d_positions[chunk, j, 1] += gy
                    d_positions[chunk, j, 2] += gz
                d_positions[chunk, atom, 0] -= fx
                d_positions[chunk, atom, 1] -= fy
                d_positions[chunk, atom, 2] -= fz
                d_strain[atom, 0] += sxx
                d_strain[atom, 1] += syy
                d_strain[atom, 2] += szz
                d_strain[atom, 3] += syz
                d_strain[atom, 4] += sxz
                d_strain[atom, 5] += sxy

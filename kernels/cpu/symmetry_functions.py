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
whole vectors with a neighbour whose factors are zero.

Wide functions with an integer zeta need no loop over pairs. Their angulars are polynomials
``sum_l c_l P_l``, so the sum over pairs is that of products of densities, ``D_ml = sum_j phi_j
Q_ml(z_j) (x_j + i y_j)^m`` (kernels/cpu/chebyshev.py), for each factor and neighbour species. Sums
over pairs are small differences there, so densities are in the dtype of the positions. The same
functions are in blocks as well, and the number of neighbours decides which way an atom takes.

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

import cmath
import math

import numpy as np
from numba import njit, prange, types
from numba.extending import overload

from . import chebyshev as angular
from .chebyshev import _density, _density_series, _derivative_coefficients, _first
from .cutoffs import core_sweep, cutoff_sweep, exponential, factor_sweep

# Sums may be reordered; NaN and infinity must survive.
FLAGS = {"contract", "reassoc", "nsz", "arcp"}
LANES = 8
TILE = 256  # pairs of neighbours
RUN = 64  # pairs of one neighbour that are looked at together

POWER, WINDOW, PRODUCT, REAL_POWER = range(4)

# Rows of the arrays of neighbours, first in the dtype of the positions, then in that of features.
# From FACTORS on the factors and their slopes.
DX, DY, DZ, UX, UY, UZ, LENGTH, INVERSE = range(8)
X, Y, Z, RADIUS, WEIGHT, INVERSE_RADIUS, NEIGHBOUR_Y, NEIGHBOUR_F, NEIGHBOUR_DF = range(9)
ALONG, GX, GY, GZ, FACTORS = range(9, 14)
# Rows of a tile; from ANGULARS on the angulars and their slopes.
COSINE, SIDE, PAIR, F, DF, SCRATCH, VALUE, SLOPE, PHI, D_PHI = range(10)
D_COSINE, D_SIDE, D_FIRST, D_SECOND = range(10, 14)
ANGULARS = 14


def _arc_cosine(x):
    raise NotImplementedError("compiled by the overload below")


@overload(_arc_cosine, inline="always")
def _arc_cosine_overload(x):
    if isinstance(x, types.Complex):
        return lambda x: cmath.acos(x)
    return lambda x: math.acos(x)


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _most_neighbours(chunks, chunk, species, row_begin, row_end, n_species):
    most = 0
    for i in range(chunks[chunk], chunks[chunk + 1]):
        n = 0
        for z in range(n_species):
            n += row_end[i * n_species + z] - row_begin[i * n_species + z]
        most = max(most, n)
    return most


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _neighbours(
    positions, cell, neighbor, shift, first, last, atom, base, reach, n, index, far, near
):  # fmt: skip
    """Append the neighbours within reach: separations to ``far``, unit vectors to ``near``."""
    x0, y0, z0 = positions[atom, 0], positions[atom, 1], positions[atom, 2]
    begin = n
    for p in range(first, last):
        j = base + neighbor[p]
        a, b, c = float(shift[0, p]), float(shift[1, p]), float(shift[2, p])
        x = positions[j, 0] - x0 + (a * cell[0, 0] + b * cell[1, 0] + c * cell[2, 0])
        y = positions[j, 1] - y0 + (a * cell[0, 1] + b * cell[1, 1] + c * cell[2, 1])
        z = positions[j, 2] - z0 + (a * cell[0, 2] + b * cell[1, 2] + c * cell[2, 2])
        far[DX, n] = x
        far[DY, n] = y
        far[DZ, n] = z
        index[n] = j
        square = (x * x + y * y + z * z).real
        # written so that NaN is not taken for far away
        n += 0 if square >= reach * reach else 1
    for k in range(begin, n):
        x, y, z = far[DX, k], far[DY, k], far[DZ, k]
        r = np.sqrt(x * x + y * y + z * z)
        inverse = 1.0 / r
        far[LENGTH, k] = r
        far[INVERSE, k] = inverse
        x, y, z = x * inverse, y * inverse, z * inverse
        far[UX, k] = x
        far[UY, k] = y
        far[UZ, k] = z
        near[X, k] = x
        near[Y, k] = y
        near[Z, k] = z
        near[RADIUS, k] = r
        near[INVERSE_RADIUS, k] = inverse
    return n


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _row_tables(
    near, count, cutoff_kind, series, cores, cutoffs, factors, factor_kinds, row_factors, begin,
    end, factor_first, n_factors,
):  # fmt: skip
    """Factors of the neighbours of one row, the first columns of ``near``."""
    last = -1
    for e in range(begin, end):
        a = row_factors[e]
        kind, cutoff = factor_kinds[a, 0], factor_kinds[a, 1]
        if cutoff >= 0 and cutoff != last:
            cutoff_sweep(
                cutoff_kind, cutoffs, cutoff, series, cores, near, count,
                RADIUS, NEIGHBOUR_Y, NEIGHBOUR_F, NEIGHBOUR_DF,
            )  # fmt: skip
            last = cutoff
        row = FACTORS + a - factor_first
        factor_sweep(
            kind, factors, a, cores, near, count,
            RADIUS, NEIGHBOUR_Y, NEIGHBOUR_F, NEIGHBOUR_DF, row, row + n_factors,
        )  # fmt: skip


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _within(far, first, last, reach):
    """The last of neighbours ``first .. last`` that is within reach."""
    while last > first and far[LENGTH, last - 1].real >= reach:
        last -= 1
    return last


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _close_pairs(j, first, last, reach, narrow, far, q, cosines, sides, first_of, second_of):
    """Append the pairs of neighbour j with ``first .. last`` to the tile.

    Third sides, squared, by the law of cosines: exact to a few units of round-off of the other two.
    """
    ux, uy, uz, r = far[UX, j], far[UY, j], far[UZ, j], far[LENGTH, j]
    if not narrow:
        for k in range(first, last):
            cosines[q] = ux * far[UX, k] + uy * far[UY, k] + uz * far[UZ, k]
            first_of[q] = j
            second_of[q] = k
            q += 1
        return q
    limit, square, twice = reach * reach, r * r, r + r
    for k in range(first, last):
        c = ux * far[UX, k] + uy * far[UY, k] + uz * far[UZ, k]
        r = far[LENGTH, k]
        side = square + r * (r - twice * c)
        cosines[q] = c
        sides[q] = side
        first_of[q] = j
        second_of[q] = k
        # written so that NaN is not taken for far away
        q += 0 if side.real >= limit else 1
    return q


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _window_sweep(table, m, cores, s, count, a, da):
    """Compact window of the angle with cosine c, and its slope in c."""
    one = cores[0, 0]
    zero = one - one
    centre, inverse, end = table[m, 0], table[m, 1], table[m, 3]
    core = int(table[m, 2].real)
    if end.real == zero.real:
        for k in range(count):
            x = s[COSINE, k]
            out = (x * x).real >= one.real
            x = (_arc_cosine(zero if out else x) - centre) * inverse
            x = one if out else x
            s[SCRATCH, k] = x if x.real >= zero.real else -x
        core_sweep(core, cores, s, count, SCRATCH, a, da)
        for k in range(count):
            x = s[COSINE, k]
            out = (x * x).real >= one.real
            x = zero if out else x
            u = (_arc_cosine(x) - centre) * inverse
            s[da, k] = zero if out else -s[da, k] * u * inverse / np.sqrt(one - x * x)
        return
    # Centred on 0 (c = 1) or pi: even and smooth in the angle delta from there,
    # delta^2 = 2 v + v^2 / 3 + 4 v^3 / 45 + ... with v = 1 - c or 1 + c.
    two = one + one
    three = two + one
    for k in range(count):
        v = one + end * s[COSINE, k]
        flat = v.real <= cores[0, 2].real
        w = zero if v.real <= zero.real else v
        near = np.sqrt((w + w) * (one + w / (three + three)))
        if flat:
            # the slope of a square root of zero is infinite, but only its square matters
            s[SCRATCH, k] = near if w.real > zero.real else zero
        else:
            x = -end * s[COSINE, k]
            s[SCRATCH, k] = _arc_cosine(x if x.real > -one.real else -one)
        s[SCRATCH, k] = s[SCRATCH, k] * inverse
    core_sweep(core, cores, s, count, SCRATCH, a, da)
    for k in range(count):
        v = one + end * s[COSINE, k]
        if v.real <= cores[0, 2].real:
            ratio = one + v / three
        elif (two - v).real <= cores[0, 2].real:
            ratio = one  # the other end: not in the window, or on a slope that ends there
        else:
            ratio = s[SCRATCH, k] / (inverse * np.sqrt(one - s[COSINE, k] * s[COSINE, k]))
        # d(delta^2 / 2)/dc = end * delta / sin delta
        s[da, k] = s[da, k] * inverse * inverse * end * ratio


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _power_sweep(table, m, s, count, one, a, da):
    """((1 + lambda c) / 2)^zeta for any zeta >= 1, and its slope."""
    zero = one - one
    half_lambda, zeta = table[m, 0], table[m, 1]
    half = one / (one + one)
    for k in range(count):
        base = half + half_lambda * s[COSINE, k]
        flat = base.real <= zero.real
        base = one if flat else base
        p = exponential((zeta - one) * np.log(base))
        s[a, k] = zero if flat else p * base
        s[da, k] = zero if flat else zeta * half_lambda * p


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _angular_tables(angulars, table, begin, end, n_angulars, cores, slopes, s, count):
    """Angulars of a tile in the order of a block, with their slopes if asked."""
    one = cores[0, 0]
    half = one / (one + one)
    for m in range(begin, end):
        how = angulars[m, 0]
        a = ANGULARS + m - begin
        da = a + n_angulars
        if how == POWER:
            g = table[m, 0]
            for k in range(count):
                s[a, k] = half + g * s[COSINE, k]
            if slopes:
                for k in range(count):
                    s[da, k] = g
        elif how == PRODUCT:
            a1, a2 = ANGULARS + angulars[m, 1], ANGULARS + angulars[m, 2]
            d1, d2 = a1 + n_angulars, a2 + n_angulars
            if not slopes:
                for k in range(count):
                    s[a, k] = s[a1, k] * s[a2, k]
            elif a1 == a2:
                for k in range(count):
                    x = s[a1, k]
                    y = x * s[d1, k]
                    s[a, k] = x * x
                    s[da, k] = y + y
            else:
                for k in range(count):
                    x, y = s[a1, k], s[a2, k]
                    dx, dy = s[d1, k], s[d2, k]
                    s[a, k] = x * y
                    s[da, k] = x * dy + y * dx
        elif how == REAL_POWER:
            _power_sweep(table, m, s, count, one, a, da)
        else:
            _window_sweep(table, m, cores, s, count, a, da)


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _fill_up(count, dummy, one, narrow, weighted, near, s, first_of, second_of):
    """Fill a tile up to whole vectors; third sides and weights of its pairs."""
    full = (count + LANES - 1) // LANES * LANES
    for q in range(count, full):
        s[COSINE, q] = one - one
        s[SIDE, q] = one
        first_of[q] = dummy
        second_of[q] = dummy
    if narrow:
        for q in range(full):
            s[SIDE, q] = np.sqrt(s[SIDE, q])
    if weighted:
        for q in range(full):
            j, k = np.uintp(first_of[q]), np.uintp(second_of[q])
            s[PAIR, q] = near[WEIGHT, j] * near[WEIGHT, k]
    return full


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _side_factor(a, last, count, cutoff_kind, series, cores, cutoffs, factors, factor_kinds, s):
    """VALUE and SLOPE of a factor of the third side; returns the cutoff now in F and DF."""
    kind, cutoff = factor_kinds[a, 0], factor_kinds[a, 1]
    if cutoff >= 0 and cutoff != last:
        cutoff_sweep(
            cutoff_kind, cutoffs, cutoff, series, cores, s, count, SIDE, SCRATCH, F, DF
        )
        last = cutoff
    factor_sweep(kind, factors, a, cores, s, count, SIDE, SCRATCH, F, DF, VALUE, SLOPE)
    return last


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _dot(s, a, b, count, zero):
    total = zero
    for k in range(count):
        total += s[a, k] * s[b, k]
    return total


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _dot3(s, a1, a2, a3, b, count, zero):
    s1, s2, s3 = zero, zero, zero
    for k in range(count):
        p = s[b, k]
        s1 += s[a1, k] * p
        s2 += s[a2, k] * p
        s3 += s[a3, k] * p
    return s1, s2, s3


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _pair_product(near, row, count, first_of, second_of, narrow, weighted, s):
    """PHI = product of the factors of the sides (and of the weights)."""
    if narrow:
        for q in range(count):
            j, k = np.uintp(first_of[q]), np.uintp(second_of[q])
            s[PHI, q] = near[row, j] * near[row, k] * s[VALUE, q]
    else:
        for q in range(count):
            s[PHI, q] = near[row, np.uintp(first_of[q])] * near[row, np.uintp(second_of[q])]
    if weighted:
        for q in range(count):
            s[PHI, q] *= s[PAIR, q]


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _tile_forward(
    blocks, b, count, dummy, cutoff_kind, series, cores, cutoffs, factors, factor_kinds,
    factor_first, angulars, angular_table, n_angulars, groups, members, member_weights, near, s,
    first_of, second_of, raw,
):  # fmt: skip
    """Add the pairs of a tile to the features."""
    one = cores[0, 0]
    zero = one - one
    weighted, narrow = blocks[b, 0] < 0, blocks[b, 2] == 1
    full = _fill_up(count, dummy, one, narrow, weighted, near, s, first_of, second_of)
    _angular_tables(
        angulars, angular_table, blocks[b, 4], blocks[b, 5], n_angulars, cores, False, s, full
    )
    last = -1
    for g in range(blocks[b, 6], blocks[b, 7]):
        factor, m, end = groups[g, 0], groups[g, 1], groups[g, 2]
        if narrow:
            last = _side_factor(
                factor, last, full, cutoff_kind, series, cores, cutoffs, factors, factor_kinds, s
            )
        row = FACTORS + factor - factor_first
        _pair_product(near, row, full, first_of, second_of, narrow, weighted, s)
        while m + 2 < end:
            s1, s2, s3 = _dot3(
                s, ANGULARS + members[m, 0], ANGULARS + members[m + 1, 0],
                ANGULARS + members[m + 2, 0], PHI, full, zero,
            )  # fmt: skip
            raw[members[m, 1]] += member_weights[m] * s1
            raw[members[m + 1, 1]] += member_weights[m + 1] * s2
            raw[members[m + 2, 1]] += member_weights[m + 2] * s3
            m += 3
        while m < end:
            dot = _dot(s, ANGULARS + members[m, 0], PHI, full, zero)
            raw[members[m, 1]] += member_weights[m] * dot
            m += 1


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _densities_are_faster(costs, s, far, n):
    """Which way an atom with n neighbours takes."""
    count = 0
    for k in range(n):
        count += 1 if far[LENGTH, k].real < costs[s, 4] else 0
    pairs = 0.5 * count * (count - 1)
    return costs[s, 0] + costs[s, 1] * count < costs[s, 2] + costs[s, 3] * pairs


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _direction_tile(first, count, row, far, near, s):
    """Unit vectors and a factor of some neighbours; returns the count up to whole vectors."""
    full = (count + LANES - 1) // LANES * LANES
    for k in range(count):
        s[angular.X + k] = far[UX, first + k]
        s[angular.Y + k] = far[UY, first + k]
        s[angular.Z + k] = far[UZ, first + k]
        s[angular.F + k] = near[row, first + k]
    nothing = 0.0 * far[0, 0]
    for k in range(count, full):
        s[angular.X + k] = nothing
        s[angular.Y + k] = nothing
        s[angular.Z + k] = nothing
        s[angular.F + k] = nothing
    return full


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _sum_densities(
    densities, uses, g, factor_first, segment, recursion, far, near, s, zero, density, squares
):  # fmt: skip
    """Densities of every neighbour species, and the sums of squares of the factor."""
    degree = densities[g, 1]
    row = FACTORS + densities[g, 0] - factor_first
    for z in range(uses.shape[1]):
        own = density[z]
        for q in range((degree + 1) * (degree + 2)):
            own[q] = zero
        squares[z] = zero
        if uses[g, z]:
            for first in range(segment[z], segment[z + 1], angular.TILE):
                count = min(angular.TILE, segment[z + 1] - first)
                full = _direction_tile(first, count, row, far, near, s)
                squares[z] += _density(s, full, degree, recursion, zero, own)


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _mix_densities(densities, uses, g, numbers, density, squares, zero):
    """The last density: of all species, weighted; the last square too."""
    n_density = (densities[g, 1] + 1) * (densities[g, 1] + 2)
    mixed = len(numbers)
    for q in range(n_density):
        density[mixed, q] = zero
    squares[mixed] = zero
    for z in range(mixed):
        if uses[g, z]:
            w = numbers[z]
            squares[mixed] += w * w * squares[z]
            for q in range(n_density):
                density[mixed, q] += w * density[z, q]


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _density_features(
    densities, uses, g, members, weights, legendre, norm, numbers, density, squares, power, zero,
    raw,
):  # fmt: skip
    """Add products of densities to the features."""
    degree = densities[g, 1]
    before, other, square = -2, -2, zero
    for e in range(densities[g, 2], densities[g, 3]):
        z1, z2 = members[e, 0], members[e, 1]
        if z1 != before or z2 != other:
            before, other = z1, z2
            if z1 < 0:
                _mix_densities(densities, uses, g, numbers, density, squares, zero)
                z1, z2 = len(numbers), len(numbers)
            half = 0.5 if z1 == z2 else 1.0
            square = half * squares[z1] if z1 == z2 else zero
            for l in range(degree + 1):
                power[l] = zero
            for m in range(degree + 1):
                q = _first(m, degree) - 2 * m
                for l in range(m, degree + 1):
                    p = density[z1, q + 2 * l] * density[z2, q + 2 * l]
                    p += density[z1, q + 2 * l + 1] * density[z2, q + 2 * l + 1]
                    power[l] += half * norm[m, l] * p
        row = members[e, 3]
        total = -legendre[row, legendre.shape[1] - 1] * square
        for l in range(degree + 1):
            total += legendre[row, l] * power[l]
        raw[members[e, 2]] += weights[e] * total


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _density_slopes(
    densities, uses, g, members, weights, legendre, norm, numbers, density, squares, power, zero,
    d_raw, d_density, kappa,
):  # fmt: skip
    """Slopes of the energy in the densities, and kappa of its part -kappa/2 sum_j phi_j^2."""
    degree = densities[g, 1]
    n_species = len(numbers)
    n_density = (degree + 1) * (degree + 2)
    for z in range(n_species + 1):
        kappa[z] = zero
        for q in range(n_density):
            d_density[z, q] = zero
    e, end = densities[g, 2], densities[g, 3]
    while e < end:
        z1, z2 = members[e, 0], members[e, 1]
        own = zero
        for l in range(degree + 1):
            power[l] = zero
        while e < end and members[e, 0] == z1 and members[e, 1] == z2:
            row = members[e, 3]
            d = weights[e] * d_raw[members[e, 2]]
            own += d * legendre[row, legendre.shape[1] - 1]
            for l in range(degree + 1):
                power[l] += d * legendre[row, l]
            e += 1
        if z1 < 0:
            _mix_densities(densities, uses, g, numbers, density, squares, zero)
            z1, z2 = n_species, n_species
        if z1 == z2:
            kappa[z1] += own
        for m in range(degree + 1):
            q = _first(m, degree)
            for l in range(m, degree + 1):
                d = norm[m, l] * power[l]
                for _ in range(2):
                    d_density[z1, q] += d * density[z2, q]
                    if z1 != z2:
                        d_density[z2, q] += d * density[z1, q]
                    q += 1
    for z in range(n_species):
        w = numbers[z]
        kappa[z] += w * w * kappa[n_species]
        for q in range(n_density):
            d_density[z, q] += w * d_density[n_species, q]


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _density_gradient(
    densities, uses, g, factor_first, n_factors, segment, recursion, far, near, s, one, d_density,
    dz_density, kappa,
):  # fmt: skip
    """Slopes of the densities to the neighbours."""
    degree = densities[g, 1]
    row = FACTORS + densities[g, 0] - factor_first
    for z in range(uses.shape[1]):
        if not uses[g, z]:
            continue
        _derivative_coefficients(d_density[z], degree, one, dz_density)
        for first in range(segment[z], segment[z + 1], angular.TILE):
            count = min(angular.TILE, segment[z + 1] - first)
            full = _direction_tile(first, count, row, far, near, s)
            _density_series(s, full, degree, recursion, d_density[z], dz_density, one)
            for k in range(count):
                n = first + k
                x, y, t = s[angular.X + k], s[angular.Y + k], s[angular.Z + k]
                gx, gy, gz = s[angular.GX + k], s[angular.GY + k], s[angular.GZ + k]
                f = s[angular.F + k]
                ratio = f * far[INVERSE, n]
                along = near[row + n_factors, n] * (s[angular.VALUE + k] - kappa[z] * f)
                near[ALONG, n] += along - ratio * (x * gx + y * gy + t * gz)
                near[GX, n] += ratio * gx
                near[GY, n] += ratio * gy
                near[GZ, n] += ratio * gz


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


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _add(s, g, a, n_angulars, count, begin):
    """PHI = or += g times angular a, D_PHI the same of its slope."""
    da = a + n_angulars
    if begin:
        for k in range(count):
            s[PHI, k] = g * s[a, k]
            s[D_PHI, k] = g * s[da, k]
    else:
        for k in range(count):
            s[PHI, k] += g * s[a, k]
            s[D_PHI, k] += g * s[da, k]


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _add3(s, g1, g2, g3, a1, a2, a3, n_angulars, count, begin):
    d1, d2, d3 = a1 + n_angulars, a2 + n_angulars, a3 + n_angulars
    if begin:
        for k in range(count):
            s[PHI, k] = g1 * s[a1, k] + g2 * s[a2, k] + g3 * s[a3, k]
        for k in range(count):
            s[D_PHI, k] = g1 * s[d1, k] + g2 * s[d2, k] + g3 * s[d3, k]
    else:
        for k in range(count):
            s[PHI, k] += g1 * s[a1, k] + g2 * s[a2, k] + g3 * s[a3, k]
        for k in range(count):
            s[D_PHI, k] += g1 * s[d1, k] + g2 * s[d2, k] + g3 * s[d3, k]


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _pair_slopes(near, row, d_row, count, narrow, first_of, second_of, s):
    """Add a group of energy phi_j phi_k (phi_jk) PHI(cos) per pair to the slopes of the pair."""
    if narrow:
        for q in range(count):
            j, k = np.uintp(first_of[q]), np.uintp(second_of[q])
            pj, pk, v, value = near[row, j], near[row, k], s[PHI, q], s[VALUE, q]
            both, w = pj * pk, value * v
            s[D_COSINE, q] += both * value * s[D_PHI, q]
            s[D_SIDE, q] += both * s[SLOPE, q] * v
            s[D_FIRST, q] += near[d_row, j] * pk * w
            s[D_SECOND, q] += pj * near[d_row, k] * w
    else:
        for q in range(count):
            j, k = np.uintp(first_of[q]), np.uintp(second_of[q])
            pj, pk, v = near[row, j], near[row, k], s[PHI, q]
            s[D_COSINE, q] += pj * pk * s[D_PHI, q]
            s[D_FIRST, q] += near[d_row, j] * pk * v
            s[D_SECOND, q] += pj * near[d_row, k] * v


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _scatter(count, narrow, weighted, first_of, second_of, near, s):
    """Slopes of pairs to their neighbours: ALONG the direction of a neighbour, and as vectors."""
    if weighted:
        for row in range(D_COSINE, D_SECOND + 1):
            for q in range(count):
                s[row, q] *= s[PAIR, q]
    if narrow:
        for q in range(count):
            s[D_SIDE, q] = s[D_SIDE, q] / s[SIDE, q]
    for q in range(count):
        j, k = np.uintp(first_of[q]), np.uintp(second_of[q])
        c, dc = s[COSINE, q], s[D_COSINE, q]
        bj, bk = dc * near[INVERSE_RADIUS, j], dc * near[INVERSE_RADIUS, k]
        aj, ak = s[D_FIRST, q] - c * bj, s[D_SECOND, q] - c * bk
        if narrow:
            w, rj, rk = s[D_SIDE, q], near[RADIUS, j], near[RADIUS, k]
            aj += w * rj
            ak += w * rk
            bj -= w * rk
            bk -= w * rj
        near[ALONG, j] += aj
        near[ALONG, k] += ak
        near[GX, j] += bj * near[X, k]
        near[GY, j] += bj * near[Y, k]
        near[GZ, j] += bj * near[Z, k]
        near[GX, k] += bk * near[X, j]
        near[GY, k] += bk * near[Y, j]
        near[GZ, k] += bk * near[Z, j]


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _tile_backward(
    blocks, b, count, dummy, cutoff_kind, series, cores, cutoffs, factors, factor_kinds,
    factor_first, n_factors, angulars, angular_table, n_angulars, groups, members, member_weights,
    near, s, first_of, second_of, d_raw,
):  # fmt: skip
    """Slopes of the pairs of a tile."""
    one = cores[0, 0]
    zero = one - one
    weighted, narrow = blocks[b, 0] < 0, blocks[b, 2] == 1
    full = _fill_up(count, dummy, one, narrow, weighted, near, s, first_of, second_of)
    _angular_tables(
        angulars, angular_table, blocks[b, 4], blocks[b, 5], n_angulars, cores, True, s, full
    )
    for row in range(D_COSINE, D_SECOND + 1):
        for q in range(full):
            s[row, q] = zero
    last = -1
    for g in range(blocks[b, 6], blocks[b, 7]):
        factor, begin, end = groups[g, 0], groups[g, 1], groups[g, 2]
        m = begin
        while m + 2 < end:
            _add3(
                s,
                member_weights[m] * d_raw[members[m, 1]],
                member_weights[m + 1] * d_raw[members[m + 1, 1]],
                member_weights[m + 2] * d_raw[members[m + 2, 1]],
                ANGULARS + members[m, 0],
                ANGULARS + members[m + 1, 0],
                ANGULARS + members[m + 2, 0],
                n_angulars,
                full,
                m == begin,
            )
            m += 3
        while m < end:
            weight = member_weights[m] * d_raw[members[m, 1]]
            _add(s, weight, ANGULARS + members[m, 0], n_angulars, full, m == begin)
            m += 1
        if narrow:
            last = _side_factor(
                factor, last, full, cutoff_kind, series, cores, cutoffs, factors, factor_kinds, s
            )
        row = FACTORS + factor - factor_first
        _pair_slopes(near, row, row + n_factors, full, narrow, first_of, second_of, s)
    _scatter(count, narrow, weighted, first_of, second_of, near, s)


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

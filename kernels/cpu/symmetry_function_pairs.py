"""Neighbours of an atom, their factors, and sums over pairs of them in tiles.

Tables and words are those of kernels/cpu/symmetry_functions.py. Rows of ``far`` are in the dtype
of the positions, those of ``near`` and of a tile in that of the features.
"""

import cmath
import math

import numpy as np
from numba import njit, types
from numba.extending import overload

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

"""Behler's symmetry functions; formulas, arguments and tables as in the CPU twin.

All functions of two neighbours are sums over pairs of them here. Densities, which give some of
them without pairs where neighbours are many, are a matter of speed on one core: their tables and
``costs`` are taken and ignored.

A block of threads works on one atom, on one of its blocks of functions after the other. For sums
over neighbours a thread takes every n-th neighbour. For sums over pairs the neighbours (j, k) are
taken in tiles of as many as there are threads: unit vectors and distances, in double precision,
and factors of two tiles are in shared memory, and each neighbour j has the same number of threads,
which share out its partners k. In one tile j meets the half of the others that follows it on a
ring, so that threads have equal numbers of pairs. A thread makes the angulars of its pair in its
own row of shared memory and adds to its own sums there, one for each member of the block; then
threads add up the rows of others in their order. On the way back every neighbour j meets all
others, and its threads add up its slope alone: twice the arithmetic, and no two threads write to
the same place. Pairs within reach come first in a row of the list, but for those that moved:
``ends`` holds the end of the last of them, anew where a block has another reach.

A pair costs some 10 operations in double precision, then on the way forward two for each angular
and member, and three (narrow ones 40) for each group; twice that or so on the way back, and both
orders of each pair. The neighbours are read from the device's memory once for each block.

Threads own members and radial functions when they add up: a block, and a row of radial functions,
must not have the same feature twice. ``largest`` stays on the host, where it says how much shared
memory a launch needs.
"""

import math

import numpy as np

from ..cpu.symmetry_function_pairs import POWER, PRODUCT, REAL_POWER
from .cutoffs import core_function, cutoff_function, factor_function
from .pairs import separation
from .runtime import cuda, launch

# Columns of the tiles of geometry; odd, so that rows begin in different banks
UX, UY, UZ, LENGTH, INVERSE, GEOMETRY = range(6)


@cuda.jit(device=True)
def _window(table, m, cores, c):
    """Compact window of the angle with cosine c, and its slope in c."""
    one = cores[0, 0]
    zero = one - one
    three = one + one + one
    centre, inverse, end = table[m, 0], table[m, 1], table[m, 3]
    core = int(table[m, 2])
    if end == zero:
        if c * c >= one:
            return zero, zero
        u = (math.acos(c) - centre) * inverse
        value, slope = core_function(core, cores, -u if u < zero else u)
        return value, -slope * u * inverse / math.sqrt(one - c * c)
    # Centred on 0 (c = 1) or pi: even and smooth in the angle delta from there,
    # delta^2 = 2 v + v^2 / 3 + 4 v^3 / 45 + ... with v = 1 - c or 1 + c.
    v = one + end * c
    if v <= cores[0, 2]:
        w = zero if v <= zero else v
        delta = math.sqrt((w + w) * (one + w / (three + three)))
        ratio = one + v / three
    else:
        x = -end * c
        delta = math.acos(x if x > -one else -one)
        ratio = one  # the other end: not in the window, or on a slope that ends there
        if one + one - v > cores[0, 2]:
            ratio = delta / math.sqrt(one - c * c)
    value, slope = core_function(core, cores, delta * inverse)
    # d(delta^2 / 2)/dc = end * delta / sin delta
    return value, slope * inverse * inverse * end * ratio


@cuda.jit(device=True)
def _power(table, m, one, c):
    """((1 + lambda c) / 2)^zeta for any zeta >= 1, and its slope."""
    zero = one - one
    half_lambda, zeta = table[m, 0], table[m, 1]
    base = one / (one + one) + half_lambda * c
    if base <= zero:
        return zero, zero
    p = math.exp((zeta - one) * math.log(base))
    return p * base, zeta * half_lambda * p


@cuda.jit(device=True)
def _angulars(angulars, table, begin, end, cores, c, slopes, row):
    """Angulars of a pair in the order of a block, then if asked their slopes."""
    one = cores[0, 0]
    n = end - begin
    for at in range(n):
        m = np.uintp(begin + at)
        how = angulars[m, 0]
        if how == POWER:
            value, slope = one / (one + one) + table[m, 0] * c, table[m, 0]
        elif how == PRODUCT:
            a, b = angulars[m, 1], angulars[m, 2]
            first, second = row[np.uintp(a)], row[np.uintp(b)]
            value = slope = first * second
            if slopes:
                slope = first * row[np.uintp(n + b)] + second * row[np.uintp(n + a)]
        elif how == REAL_POWER:
            value, slope = _power(table, m, one, c)
        else:
            value, slope = _window(table, m, cores, c)
        row[np.uintp(at)] = value
        if slopes:
            row[np.uintp(n + at)] = slope


@cuda.jit(device=True)
def _side_factor(
    a, last, f, df, side, cutoff_kind, series, cores, cutoffs, factors, factor_kinds
):  # fmt: skip
    """Factor a of a distance, its slope, and its cutoff; f and df are those of cutoff `last`."""
    kind, cutoff = factor_kinds[a, 0], factor_kinds[a, 1]
    if cutoff >= 0 and cutoff != last:
        f, df = cutoff_function(cutoff_kind, cutoffs, cutoff, series, cores, side)
        last = cutoff
    value, slope = factor_function(kind, factors, a, cores, side, f, df)
    return value, slope, last, f, df


@cuda.jit(device=True)
def _find_ends(
    positions, cells, offsets, row_begin, row_end, neighbor, shift, atom, structure, row, reach,
    slots, ends,
):  # fmt: skip
    """Ends of the pairs within reach, of the rows of an atom, of which `row` is the first."""
    t, n_threads = cuda.threadIdx.x, cuda.blockDim.x
    for z in range(ends.size):
        end = row_begin[row + z]
        for pair in range(row_begin[row + z] + t, row_end[row + z], n_threads):
            x, y, h = separation(
                positions, cells, offsets, neighbor, shift, atom, structure, pair
            )
            # written so that NaN is not taken for far away
            if not x * x + y * y + h * h >= reach * reach:
                end = pair + 1
        slots[t] = end
        cuda.syncthreads()
        half = n_threads // 2
        while half > 0:
            if t < half:
                slots[t] = max(slots[t], slots[t + half])
            cuda.syncthreads()
            half //= 2
        if t == 0:
            ends[z] = slots[0]
        cuda.syncthreads()


@cuda.jit(device=True)
def _count(low, high, row, row_begin, ends):
    """Neighbours of species low .. high - 1 within reach."""
    n = 0
    for z in range(low, high):
        n += ends[z] - row_begin[row + z]
    return n


@cuda.jit(device=True)
def _find(number, low, high, row, row_begin, ends):
    """Pair and species of one of those neighbours."""
    z = low
    while z < high - 1 and number >= ends[z] - row_begin[row + z]:
        number -= ends[z] - row_begin[row + z]
        z += 1
    return row_begin[row + z] + number, z


@cuda.jit(device=True)
def _stage(
    pair, z, positions, cells, offsets, neighbor, shift, atom, structure, numbers, weighted,
    cutoff_kind, series, cores, cutoffs, factors, factor_kinds, groups, begin, end, slopes, far,
    near,
):  # fmt: skip
    """Geometry of a neighbour, and its factors of some groups, then if asked their slopes.

    Factors are times the weight of the neighbour where weights count.
    """
    one = cores[0, 0]
    x, y, h = separation(positions, cells, offsets, neighbor, shift, atom, structure, pair)
    length = math.sqrt(x * x + y * y + h * h)
    inverse = 1.0 / length
    far[UX] = x * inverse
    far[UY] = y * inverse
    far[UZ] = h * inverse
    far[LENGTH] = length
    far[INVERSE] = inverse
    w = numbers[z] if weighted else one
    r = cores.dtype.type(length)
    last, f, df = -1, one, one - one
    for g in range(begin, end):
        value, slope, last, f, df = _side_factor(
            groups[g, 0], last, f, df, r, cutoff_kind, series, cores, cutoffs, factors, factor_kinds
        )
        near[g - begin] = w * value
        if slopes:
            near[end - begin + g - begin] = w * slope


@cuda.jit(device=True)
def _between(far_j, at_j, far_k, at_k):
    """Cosine of the angle between two neighbours, and the square of their distance."""
    cosine = (
        far_j[at_j + UX] * far_k[at_k + UX]
        + far_j[at_j + UY] * far_k[at_k + UY]
        + far_j[at_j + UZ] * far_k[at_k + UZ]
    )
    # by the law of cosines, exact to a few units of round-off of both lengths
    a, c = far_j[at_j + LENGTH], far_k[at_k + LENGTH]
    return cosine, a * a + c * (c - (a + a) * cosine)


@cuda.jit
def _forward_kernel(
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    place,
    cutoff_kind, series, cores, cutoffs, factors, factor_kinds, row_reach,
    radial_start, radials, radial_weights, numbers, block_start, blocks, block_reach,
    angulars, angular_table, groups, members, member_weights, mean, scale,
    in_double, n_groups, width,
    features,
):  # fmt: skip
    # all of it is the same memory, counted in 8 bytes and, from `raw` on, in the working dtype
    integers = cuda.shared.array(0, row_begin.dtype)
    doubles = cuda.shared.array(0, positions.dtype)
    buffer = cuda.shared.array(0, features.dtype)
    atom, t, n_threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    n_atoms, n_species, n_features = species.size, numbers.size, features.shape[1]
    i, s = atom % n_atoms, structure[atom]
    centre, list_row = species[i], i * n_species
    ends, slots = integers[:n_species], integers[n_species : n_species + n_threads]
    at = n_species + n_threads
    far_j = doubles[at : at + n_threads * GEOMETRY]
    at += n_threads * GEOMETRY
    far_k = doubles[at : at + n_threads * GEOMETRY]
    at = (at + n_threads * GEOMETRY) * in_double
    raw = buffer[at : at + n_features]
    at += n_features
    near_j = buffer[at : at + n_threads * n_groups]
    at += n_threads * n_groups
    near_k = buffer[at : at + n_threads * n_groups]
    at += n_threads * n_groups
    rows = buffer[at : at + n_threads * width]
    own = rows[t * width : (t + 1) * width]
    one = cores[0, 0]
    zero = one - one
    kind = features.dtype.type
    for k in range(t, n_features, n_threads):
        raw[k] = zero
    for z in range(n_species):
        row = centre * n_species + z
        begin, end = radial_start[row], radial_start[row + 1]
        for e in range(end - begin):
            own[e] = zero
        for pair in range(row_begin[list_row + z] + t, row_end[list_row + z], n_threads):
            x, y, h = separation(positions, cells, offsets, neighbor, shift, atom, s, pair)
            length = math.sqrt(x * x + y * y + h * h)
            # written so that NaN is not taken for far away
            if not length >= row_reach[row]:
                r = kind(length)
                last, f, df = -1, one, zero
                for e in range(begin, end):
                    value, _, last, f, df = _side_factor(
                        radials[e, 0], last, f, df, r, cutoff_kind, series, cores, cutoffs,
                        factors, factor_kinds,
                    )  # fmt: skip
                    own[e - begin] += value
        cuda.syncthreads()
        for e in range(begin + t, end, n_threads):
            total = zero
            for other in range(n_threads):
                total += rows[other * width + e - begin]
            raw[radials[e, 1]] += radial_weights[e] * total
        cuda.syncthreads()
    near_reach = -1.0
    for b in range(block_start[centre], block_start[centre + 1]):
        z1, z2, narrow = blocks[b, 0], blocks[b, 1], blocks[b, 2] == 1
        weighted, same, reach = z1 < 0, z1 == z2, block_reach[b]
        low1, high1 = (0, n_species) if weighted else (z1, z1 + 1)
        low2, high2 = (0, n_species) if weighted else (z2, z2 + 1)
        if reach != near_reach:
            near_reach = reach
            _find_ends(
                positions, cells, offsets, row_begin, row_end, neighbor, shift, atom, s, list_row,
                reach, slots, ends,
            )  # fmt: skip
        n1 = _count(low1, high1, list_row, row_begin, ends)
        n2 = _count(low2, high2, list_row, row_begin, ends)
        first_angular, last_angular = blocks[b, 4], blocks[b, 5]
        begin, end = blocks[b, 6], blocks[b, 7]
        first_member, last_member = groups[begin, 1], groups[end - 1, 2]
        sums = last_angular - first_angular - first_member
        for m in range(first_member, last_member):
            own[sums + m] = zero
        for first in range(0, n1, n_threads):
            count1 = min(n_threads, n1 - first)
            if t < count1:
                pair, z = _find(first + t, low1, high1, list_row, row_begin, ends)
                _stage(
                    pair, z, positions, cells, offsets, neighbor, shift, atom, s, numbers,
                    weighted, cutoff_kind, series, cores, cutoffs, factors, factor_kinds, groups,
                    begin, end, False, far_j[t * GEOMETRY : (t + 1) * GEOMETRY],
                    near_j[t * n_groups : (t + 1) * n_groups],
                )  # fmt: skip
            parts = n_threads // count1
            j, part = t % count1, t // count1
            for second in range(first if same else 0, n2, n_threads):
                count2 = min(n_threads, n2 - second)
                if t < count2:
                    pair, z = _find(second + t, low2, high2, list_row, row_begin, ends)
                    _stage(
                        pair, z, positions, cells, offsets, neighbor, shift, atom, s, numbers,
                        weighted, cutoff_kind, series, cores, cutoffs, factors, factor_kinds,
                        groups, begin, end, False, far_k[t * GEOMETRY : (t + 1) * GEOMETRY],
                        near_k[t * n_groups : (t + 1) * n_groups],
                    )  # fmt: skip
                cuda.syncthreads()
                ring = same and first == second
                steps = count1 // 2 if ring else count2
                if part >= parts:
                    steps = 0
                elif ring and count1 % 2 == 0 and j >= steps:
                    steps -= 1  # opposite on the ring: the other one has this pair
                at_j = j * GEOMETRY
                for step in range(part, steps, parts):
                    k = step
                    if ring:
                        k += j + 1
                        k -= count1 if k >= count1 else 0
                    at_k = k * GEOMETRY
                    cosine, square = _between(far_j, at_j, far_k, at_k)
                    side = one
                    if narrow:
                        if square >= reach * reach:
                            continue
                        side = math.sqrt(kind(square))
                    _angulars(
                        angulars, angular_table, first_angular, last_angular, cores, kind(cosine),
                        False, own,
                    )  # fmt: skip
                    last, f, df = -1, one, zero
                    for g in range(begin, end):
                        column = g - begin
                        phi = near_j[j * n_groups + column] * near_k[k * n_groups + column]
                        if narrow:
                            value, _, last, f, df = _side_factor(
                                groups[g, 0], last, f, df, side, cutoff_kind, series, cores,
                                cutoffs, factors, factor_kinds,
                            )  # fmt: skip
                            phi *= value
                        for m in range(groups[g, 1], groups[g, 2]):
                            angular = own[np.uintp(members[np.uintp(m), 0])]
                            own[np.uintp(sums + m)] += phi * angular
                cuda.syncthreads()
        cuda.syncthreads()  # there may have been no tile
        for m in range(first_member + t, last_member, n_threads):
            total = zero
            for other in range(n_threads):
                total += rows[other * width + sums + m]
            raw[members[m, 1]] += member_weights[m] * total
        cuda.syncthreads()
    out = place[atom]
    for k in range(t, n_features, n_threads):
        features[out, k] = (raw[k] - mean[centre, k]) * scale[centre, k]


def symmetry_functions_forward(
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    pair_offset, place,
    cutoff_kind, series, cores, cutoffs, factors, factor_kinds, factor_start, row_reach, row_start,
    row_factors, radial_start, radials, radial_weights, numbers, block_start, blocks, block_reach,
    angulars, angular_table, groups, members, member_weights, densities, density_start,
    density_uses, density_members, density_weights, legendre, recursion, norm, costs, largest, mean,
    scale,
    features,
):  # fmt: skip
    """Features of every atom of every replica."""
    size = features.dtype.itemsize
    n_angulars, n_groups, n_members, n_radials = map(int, largest[[1, 2, 4, 5]])
    width = max(n_angulars + n_members, n_radials) | 1
    n_groups |= 1
    per_thread = 8 * (1 + 2 * GEOMETRY) + size * (2 * n_groups + width)
    in_all = 8 * numbers.size + size * features.shape[1]
    launch(_forward_kernel, structure.size, per_thread, in_all)(
        positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
        place,
        cutoff_kind, series, cores, cutoffs, factors, factor_kinds, row_reach,
        radial_start, radials, radial_weights, numbers, block_start, blocks, block_reach,
        angulars, angular_table, groups, members, member_weights, mean, scale,
        8 // size, n_groups, width,
        features,
    )  # fmt: skip


@cuda.jit
def _backward_kernel(
    d_features,
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    pair_offset, place,
    cutoff_kind, series, cores, cutoffs, factors, factor_kinds, row_reach,
    radial_start, radials, radial_weights, numbers, block_start, blocks, block_reach,
    angulars, angular_table, groups, members, member_weights, scale,
    in_double, n_members, n_groups, width,
    d_separations,
):  # fmt: skip
    integers = cuda.shared.array(0, row_begin.dtype)
    doubles = cuda.shared.array(0, positions.dtype)
    buffer = cuda.shared.array(0, d_features.dtype)
    atom, t, n_threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    n_atoms, n_species, n_features = species.size, numbers.size, d_features.shape[1]
    i, s = atom % n_atoms, structure[atom]
    centre, list_row, to_batch = species[i], i * n_species, pair_offset[s]
    ends, slots = integers[:n_species], integers[n_species : n_species + n_threads]
    at = n_species + n_threads
    far_j = doubles[at : at + n_threads * GEOMETRY]
    at += n_threads * GEOMETRY
    far_k = doubles[at : at + n_threads * GEOMETRY]
    at = (at + n_threads * GEOMETRY) * in_double
    d_raw = buffer[at : at + n_features]
    at += n_features
    d_sums = buffer[at : at + n_members]
    at += n_members
    width_j = 2 * n_groups + 1
    near_j = buffer[at : at + n_threads * width_j]
    at += n_threads * width_j
    near_k = buffer[at : at + n_threads * n_groups]
    at += n_threads * n_groups
    rows = buffer[at : at + n_threads * width]
    own = rows[t * width : (t + 1) * width]
    one = cores[0, 0]
    zero = one - one
    kind = d_features.dtype.type
    for k in range(t, n_features, n_threads):
        d_raw[k] = d_features[place[atom], k] * scale[centre, k]
    cuda.syncthreads()
    for z in range(n_species):
        row = centre * n_species + z
        for pair in range(row_begin[list_row + z] + t, row_end[list_row + z], n_threads):
            x, y, h = separation(positions, cells, offsets, neighbor, shift, atom, s, pair)
            length = math.sqrt(x * x + y * y + h * h)
            along, inverse = zero, 0.0
            # written so that NaN is not taken for far away
            if not length >= row_reach[row]:
                inverse = 1.0 / length
                r = kind(length)
                last, f, df = -1, one, zero
                for e in range(radial_start[row], radial_start[row + 1]):
                    _, slope, last, f, df = _side_factor(
                        radials[e, 0], last, f, df, r, cutoff_kind, series, cores, cutoffs,
                        factors, factor_kinds,
                    )  # fmt: skip
                    along += radial_weights[e] * d_raw[radials[e, 1]] * slope
            out = pair + to_batch
            d_separations[out, 0] = along * kind(x * inverse)
            d_separations[out, 1] = along * kind(y * inverse)
            d_separations[out, 2] = along * kind(h * inverse)
    cuda.syncthreads()
    near_reach = -1.0
    for b in range(block_start[centre], block_start[centre + 1]):
        z1, z2, narrow = blocks[b, 0], blocks[b, 1], blocks[b, 2] == 1
        weighted, same, reach = z1 < 0, z1 == z2, block_reach[b]
        first_angular, last_angular = blocks[b, 4], blocks[b, 5]
        n_angulars = last_angular - first_angular
        begin, end = blocks[b, 6], blocks[b, 7]
        first_member, last_member = groups[begin, 1], groups[end - 1, 2]
        for m in range(first_member + t, last_member, n_threads):
            d_sums[m - first_member] = member_weights[m] * d_raw[members[m, 1]]
        if reach != near_reach:
            near_reach = reach
            _find_ends(
                positions, cells, offsets, row_begin, row_end, neighbor, shift, atom, s, list_row,
                reach, slots, ends,
            )  # fmt: skip
        for turn in range(1 if same else 2):
            # neighbours j of one species and k of the other, then the other way round
            low1, high1 = (z2, z2 + 1) if turn == 1 else (z1, z1 + 1)
            low2, high2 = (z1, z1 + 1) if turn == 1 else (z2, z2 + 1)
            if weighted:
                low1, high1, low2, high2 = 0, n_species, 0, n_species
            n1 = _count(low1, high1, list_row, row_begin, ends)
            n2 = _count(low2, high2, list_row, row_begin, ends)
            for first in range(0, n1, n_threads):
                count1 = min(n_threads, n1 - first)
                if t < count1:
                    pair, z = _find(first + t, low1, high1, list_row, row_begin, ends)
                    _stage(
                        pair, z, positions, cells, offsets, neighbor, shift, atom, s, numbers,
                        weighted, cutoff_kind, series, cores, cutoffs, factors, factor_kinds,
                        groups, begin, end, True, far_j[t * GEOMETRY : (t + 1) * GEOMETRY],
                        near_j[t * width_j : (t + 1) * width_j],
                    )  # fmt: skip
                parts = n_threads // count1
                j, part = t % count1, t // count1
                at_j = j * GEOMETRY
                along, gx, gy, gz = zero, zero, zero, zero
                for second in range(0, n2, n_threads):
                    count2 = min(n_threads, n2 - second)
                    if t < count2:
                        pair, z = _find(second + t, low2, high2, list_row, row_begin, ends)
                        _stage(
                            pair, z, positions, cells, offsets, neighbor, shift, atom, s, numbers,
                            weighted, cutoff_kind, series, cores, cutoffs, factors, factor_kinds,
                            groups, begin, end, False, far_k[t * GEOMETRY : (t + 1) * GEOMETRY],
                            near_k[t * n_groups : (t + 1) * n_groups],
                        )  # fmt: skip
                    cuda.syncthreads()
                    ring = same and first == second
                    steps = count1 - 1 if ring else count2
                    if part >= parts:
                        steps = 0
                    for step in range(part, steps, parts):
                        k = step
                        if ring:
                            k += j + 1
                            k -= count1 if k >= count1 else 0
                        at_k = k * GEOMETRY
                        cosine, square = _between(far_j, at_j, far_k, at_k)
                        side = one
                        if narrow:
                            if square >= reach * reach:
                                continue
                            side = math.sqrt(kind(square))
                        _angulars(
                            angulars, angular_table, first_angular, last_angular, cores,
                            kind(cosine), True, own,
                        )  # fmt: skip
                        d_cosine, d_side, d_length = zero, zero, zero
                        last, f, df = -1, one, zero
                        for g in range(begin, end):
                            sum_, slope = zero, zero
                            for m in range(groups[g, 1], groups[g, 2]):
                                d = d_sums[np.uintp(m - first_member)]
                                at = members[np.uintp(m), 0]
                                sum_ += d * own[np.uintp(at)]
                                slope += d * own[np.uintp(n_angulars + at)]
                            column = g - begin
                            phi_j = near_j[j * width_j + column]
                            d_phi_j = near_j[j * width_j + end - begin + column]
                            phi_k = near_k[k * n_groups + column]
                            both = phi_j * phi_k
                            if narrow:
                                value, d_value, last, f, df = _side_factor(
                                    groups[g, 0], last, f, df, side, cutoff_kind, series, cores,
                                    cutoffs, factors, factor_kinds,
                                )  # fmt: skip
                                d_side += both * d_value * sum_
                                both *= value
                                phi_k *= value
                            d_cosine += both * slope
                            d_length += d_phi_j * phi_k * sum_
                        # slope in r_j: along u_j and along u_k
                        to_k = d_cosine * kind(far_j[at_j + INVERSE])
                        along += d_length - kind(cosine) * to_k
                        if narrow:
                            w = d_side / side
                            along += w * kind(far_j[at_j + LENGTH])
                            to_k -= w * kind(far_k[at_k + LENGTH])
                        gx += to_k * kind(far_k[at_k + UX])
                        gy += to_k * kind(far_k[at_k + UY])
                        gz += to_k * kind(far_k[at_k + UZ])
                    cuda.syncthreads()
                own[0] = along
                own[1] = gx
                own[2] = gy
                own[3] = gz
                cuda.syncthreads()
                if t < count1:
                    for other in range(t + count1, parts * count1, count1):
                        along += rows[other * width]
                        gx += rows[other * width + 1]
                        gy += rows[other * width + 2]
                        gz += rows[other * width + 3]
                    pair, _ = _find(first + t, low1, high1, list_row, row_begin, ends)
                    out = pair + to_batch
                    d_separations[out, 0] += along * kind(far_j[at_j + UX]) + gx
                    d_separations[out, 1] += along * kind(far_j[at_j + UY]) + gy
                    d_separations[out, 2] += along * kind(far_j[at_j + UZ]) + gz
                cuda.syncthreads()
        cuda.syncthreads()


def symmetry_functions_backward(
    d_features,
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    pair_offset, place,
    cutoff_kind, series, cores, cutoffs, factors, factor_kinds, factor_start, row_reach, row_start,
    row_factors, radial_start, radials, radial_weights, numbers, block_start, blocks, block_reach,
    angulars, angular_table, groups, members, member_weights, densities, density_start,
    density_uses, density_members, density_weights, legendre, recursion, norm, costs, largest,
    scale,
    d_separations,
):  # fmt: skip
    """dE/dd of every pair (kernels/cuda/pairs.py)."""
    size = d_features.dtype.itemsize
    n_angulars, n_groups, n_members = map(int, largest[[1, 2, 4]])
    width = max(2 * n_angulars, 4) | 1
    n_groups |= 1
    per_thread = 8 * (1 + 2 * GEOMETRY) + size * (3 * n_groups + 1 + width)
    in_all = 8 * numbers.size + size * (d_features.shape[1] + n_members)
    launch(_backward_kernel, structure.size, per_thread, in_all)(
        d_features,
        positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
        pair_offset, place,
        cutoff_kind, series, cores, cutoffs, factors, factor_kinds, row_reach,
        radial_start, radials, radial_weights, numbers, block_start, blocks, block_reach,
        angulars, angular_table, groups, members, member_weights, scale,
        8 // size, n_members, n_groups, width,
        d_separations,
    )  # fmt: skip

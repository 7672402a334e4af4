"""Bispectrum components of SNAP; formulas, arguments and tables as in the CPU twin.

A block works on a group of atoms, as many as fit into a third of its shared memory. It takes their
neighbours one atom after the other, a thread for each neighbour, and then all products for the
whole group: what a product multiplies is in a table of some 10^4 entries (2J = 8), which a block
reads once for all of its atoms. With real and imaginary parts as numbers of their own:

- Forward, neighbours: a thread makes the column p of all P_j, j = 2p .. J, in its row of shared
  memory, which is all that column p + 1 needs; columns follow each other in the same place. After
  each the threads add up the elements of the tile, one thread for each element, in the order of the
  pair list.
- Forward, products: a thread makes one element of Z and its share of B for one atom of the group,
  and a thread for each component then adds up the shares, as many elements at a time as there is
  room for.
- Backward, products: triples (j1, j2, j) that follow each other with rising j have no element of Y
  in common, so that all their elements are added to Y at once.
- Backward, neighbours: the coefficients of the series are in shared memory, the same for all
  threads; a thread holds one level of one column, and the first level of the next.

Instructions (a multiplication with an addition is one) for an atom with 50 neighbours, accesses to
shared memory, and what a block reads of tables for its group in float32, for one density:

==================  =======  =======  ============  =================
part                2J = 6   2J = 8   accesses      tables
==================  =======  =======  ============  =================
sum u               3.9e4    7.8e4    6 for 10      none
Z and B             1.6e4    8.1e4    4 for 6       22 kB, 107 kB
Y                   3.5e4    1.8e5    4 for 6       46 kB, 240 kB
dE/da and dE/db     7.0e4    1.6e5    8 for 24      none
==================  =======  =======  ============  =================

So shared memory bounds all parts. A block has at most 64 threads, since the neighbours of an atom
rarely are more. Not measured on a GPU.
"""

import math

import numpy as np

from .pairs import separation
from .runtime import NEXT, SHARED_BYTES, TWO, cuda, launch

GROUP = 8
"""Atoms of a block at most. A power of two."""

MANY_BLOCKS = 512
"""Atoms are grouped only as far as so many blocks are left, to keep the whole device at work."""

MOST_THREADS = 64

FOUR = np.uintp(4)


@cuda.jit(device=True)
def _sine(v, sine):
    """sin(pi v) to rounding for |v| < 0.9."""
    w = v * v
    value = sine[sine.size - 1]
    for k in range(sine.size - 2, -1, -1):
        value = value * w + sine[k]
    return v * value


@cuda.jit(device=True)
def _cosine(v, cosine):
    """cos(pi v) to rounding for |v| < 0.9."""
    w = v * v
    value = cosine[cosine.size - 1]
    for k in range(cosine.size - 2, -1, -1):
        value = value * w + cosine[k]
    return value


@cuda.jit(device=True)
def _strength(r, constants, sine, cosine, parameters, switches):
    """Weight of a neighbour times its switching functions, and the derivative by r."""
    half, rmin0, pi = constants[1], constants[3], constants[4]
    one = constants[0]
    zero = one - one
    inverse, value, slope = parameters[0], parameters[1], zero
    if switches[0] != 0:
        # (1 + cos(pi x)) / 2 with x = v + 1/2, 1 at x < 0
        v = (r - rmin0) * inverse - half
        if v >= half:
            value, slope = zero, zero
        elif not v <= -half:
            f = half - half * _sine(v, sine)
            slope = -value * (half * pi * inverse * _cosine(v, cosine))
            value = value * f
    if switches[1] != 0:
        # (1 + sin(pi v)) / 2 with v = (r - sinner) / (2 dinner), 0 below -1/2 and 1 above 1/2
        inner_inverse = parameters[3]
        v = (r - parameters[2]) * inner_inverse
        if v <= -half:
            value, slope = zero, zero
        elif not v >= half:
            f = half + half * _sine(v, sine)
            g = half * pi * inner_inverse * _cosine(v, cosine)
            slope = slope * f + value * g
            value = value * f
    return value, slope


@cuda.jit(device=True)
def _angle(r, inverse, constants, sine, cosine):
    """cos(t) and sin(t) of the place on the 3-sphere, t = pi (v + 1/2)."""
    v = constants[2] * (r - constants[3]) * inverse - constants[1]
    return -_sine(v, sine), _cosine(v, cosine)


@cuda.jit(device=True)
def _widen(row, source, target, last, ar, ai, br, bi, zero):
    """Numbers from ``source`` on times (a, b): one more of them, from ``target`` to ``last``."""
    pr, pi = zero, zero
    while target < last:
        qr, qi = row[source], row[source + NEXT]
        row[target] = ar * pr - ai * pi + br * qr - bi * qi
        row[target + NEXT] = ar * pi + ai * pr + br * qi + bi * qr
        pr, pi = qr, qi
        source += TWO
        target += TWO
    row[target] = ar * pr - ai * pi
    row[target + NEXT] = ar * pi + ai * pr


@cuda.jit(device=True)
def _grow(row, p, two_j_max, ar, ai, br, bi, strength, zero):
    """Column p of S P_j, j = 2p .. J, level after level, over column p - 1 in the same row."""
    source, target = np.uintp(0), np.uintp(0)
    if p == 0:
        row[target], row[target + NEXT] = strength, zero
        target += TWO
    else:
        # column p - 1 began with level 2p - 2; what is read is always ahead of what is written
        last = np.uintp(4 * p)
        _widen(row, np.uintp(2 * (2 * p - 1)), target, last, ar, ai, br, bi, zero)
        target = last + TWO
    for j in range(2 * p + 1, two_j_max + 1):
        pr, pi = zero, zero
        last = target + np.uintp(2 * j)
        while target < last:
            qr, qi = row[source], row[source + NEXT]
            row[target] = ar * qr + ai * qi - br * pr - bi * pi
            row[target + NEXT] = ar * qi - ai * qr - br * pi + bi * pr
            pr, pi = qr, qi
            source += TWO
            target += TWO
        row[target] = -(br * pr) - bi * pi
        row[target + NEXT] = bi * pr - br * pi
        target += TWO


@cuda.jit(device=True)
def _split(n):
    """j, p and k of element n of the half."""
    j = 0
    while n >= (j + 1) * (j // 2 + 1):
        n -= (j + 1) * (j // 2 + 1)
        j += 1
    return j, n // (j + 1), n % (j + 1)


@cuda.jit(device=True)
def _in_columns(j, p, k, n_column):
    """Place of an element of the half, which is sorted by (j, p, k), when sorted by (p, j, k)."""
    place = k + (j * (j + 1)) // 2 - p * (2 * p + 1)
    for q in range(p):
        place += n_column - q * (2 * q + 1)
    return place


@cuda.jit(device=True)
def _product(o, term_start, first, second, coefficient, u, one, other, group, zero):
    """Element o of Z of the densities that begin at `one` and `other`."""
    rr, ii, ri, ir = zero, zero, zero, zero
    step, part = np.uint32(2 * group), np.uintp(group)
    one, other = np.uintp(one), np.uintp(other)
    term, last = np.uintp(term_start[o]), np.uintp(term_start[o + 1])
    while term < last:
        f = coefficient[term]
        p, q = one + first[term] * step, other + second[term] * step
        xr, xi = f * u[p], f * u[p + part]
        yr, yi = u[q], u[q + part]
        rr += xr * yr
        ii += xi * yi
        ri += xr * yi
        ir += xi * yr
        term += NEXT
    return rr - ii, ri + ir


@cuda.jit
def _forward_kernel(
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    place,
    constants, sine, cosine, reach, pair_table, switches, own, two_j_max,
    norm, diagonal, full, mirror, sign,
    out_start, out, term_start, first, second, coefficient, mean, scale, bits,
    features, kept,
):  # fmt: skip
    # u of the group; B of the group; sums of an atom and rows of neighbours, later elements of Z
    buffer = cuda.shared.array(0, features.dtype)
    t, n_threads = cuda.threadIdx.x, cuda.blockDim.x
    n_all, n_atoms = structure.size, species.size
    n_species, n_channels = own.shape[0], own.shape[1]
    n_half, n_triples = norm.size, out_start.size - 1
    n_full = (two_j_max + 1) * (two_j_max + 2) * (2 * two_j_max + 3) // 6
    n_column = (two_j_max + 1) * (two_j_max + 2) // 2
    width = 2 * n_column + 1  # odd: rows begin in different banks
    group = 1 << bits
    step = 2 * group
    one = constants[0]
    zero = one - one
    kind = features.dtype.type
    in_b = n_channels * n_full * step
    in_sums = in_b + n_channels * n_triples * group
    in_rows = in_sums + max(2 * n_channels * n_half, n_channels * group)
    b, sums, rows = buffer[in_b:], buffer[in_sums:], buffer[in_rows:]
    row = rows[t * width : (t + 1) * width]
    first_atom = cuda.blockIdx.x * group
    filled = min(group, n_all - first_atom)
    for a in range(filled):
        atom = first_atom + a
        i, s = atom % n_atoms, structure[atom]
        centre = species[i]
        begin, end = row_begin[i * n_species], row_end[i * n_species + n_species - 1]
        for k in range(t, 2 * n_channels * n_half, n_threads):
            sums[k] = zero
        for begin_tile in range(begin, end, n_threads):
            pair = begin_tile + t
            near = False
            ar, ai, br, bi, strength = zero, zero, zero, zero, zero
            if pair < end:
                z = 0
                while pair >= row_end[i * n_species + z]:
                    z += 1
                dx, dy, dz = separation(positions, cells, offsets, neighbor, shift, atom, s, pair)
                square = dx * dx + dy * dy + dz * dz
                # written so that NaN is not taken for far away
                near = not square >= reach[centre, z] * reach[centre, z]
                if near:
                    r = kind(math.sqrt(square))
                    parameters = pair_table[centre, z]
                    strength, _ = _strength(r, constants, sine, cosine, parameters, switches)
                    ar, sin_t = _angle(r, parameters[0], constants, sine, cosine)
                    q = sin_t / r
                    ai, br, bi = -(kind(dz) * q), kind(dy) * q, -(kind(dx) * q)
                else:
                    for k in range(2 * n_column):
                        row[k] = zero
            end_tile = min(end, begin_tile + n_threads)
            base = 0
            for p in range(two_j_max // 2 + 1):
                if near:
                    _grow(row, p, two_j_max, ar, ai, br, bi, strength, zero)
                cuda.syncthreads()
                size = 2 * (n_column - p * (2 * p + 1))
                for k in range(t, n_channels * size, n_threads):
                    channel = k // size if n_channels > 1 else 0
                    column = k - channel * size
                    low, high = begin_tile, end_tile
                    if n_channels > 1:
                        low = max(low, row_begin[i * n_species + channel])
                        high = min(high, row_end[i * n_species + channel])
                    at = 2 * channel * n_half + base + column
                    other = np.uintp((low - begin_tile) * width + column)
                    last = other + np.uintp(max(high - low, 0) * width)
                    total = sums[at]
                    while other < last:
                        total += rows[other]
                        other += np.uintp(width)
                    sums[at] = total
                cuda.syncthreads()
                base += size
        cuda.syncthreads()
        for k in range(t, n_channels * n_half, n_threads):
            channel, n = k // n_half, k % n_half
            j, p, m = _split(n)
            at = 2 * (channel * n_half + _in_columns(j, p, m, n_column))
            re = norm[n] * sums[at] + own[centre, channel] * diagonal[n]
            im = norm[n] * sums[at + 1]
            if kept.shape[0] > 0:
                kept[atom, channel, 2 * n] = re
                kept[atom, channel, 2 * n + 1] = im
            at = (channel * n_full + full[n]) * step + a
            buffer[at] = re
            buffer[at + group] = im
            if 2 * p < j:
                at = (channel * n_full + mirror[n]) * step + a
                buffer[at] = sign[n] * re
                buffer[at + group] = -(sign[n] * im)
        cuda.syncthreads()
    # sums and rows are free
    n_rows = in_rows - in_sums + n_threads * width
    room = n_rows // (n_channels * group)  # elements of Z at a time
    n_out = out_start[n_triples]
    for e1 in range(n_channels):
        for e2 in range(n_channels):
            for k in range(t, n_channels * n_triples * group, n_threads):
                b[k] = zero
            for low in range(0, n_out, room):
                high = min(low + room, n_out)
                for k in range(t, (high - low) * group, n_threads):
                    o, a = low + (k >> bits), k & (group - 1)
                    if a >= filled:
                        continue
                    re, im = _product(
                        o, term_start, first, second, coefficient, buffer,
                        e1 * n_full * step + a, e2 * n_full * step + a, group, zero,
                    )  # fmt: skip
                    for channel in range(n_channels):
                        at = (channel * n_full + out[o]) * step + a
                        value = buffer[at] * re + buffer[at + group] * im
                        sums[((k >> bits) * n_channels + channel) * group + a] = value
                cuda.syncthreads()
                # the thread that sets b[k] to zero, adds to it and writes it is the same
                for k in range(t, n_channels * n_triples * group, n_threads):
                    m, a = k >> bits, k & (group - 1)
                    triple, channel = m // n_channels, m % n_channels
                    if a >= filled:
                        continue
                    total = b[k]
                    for o in range(
                        max(low, out_start[triple]), min(high, out_start[triple + 1])
                    ):
                        total += sums[((o - low) * n_channels + channel) * group + a]
                    b[k] = total
                cuda.syncthreads()
            for k in range(t, n_channels * n_triples * group, n_threads):
                m, a = k >> bits, k & (group - 1)
                triple, channel = m // n_channels, m % n_channels
                if a >= filled:
                    continue
                atom = first_atom + a
                centre = species[atom % n_atoms]
                n = ((e1 * n_channels + e2) * n_channels + channel) * n_triples + triple
                features[place[atom], n] = (b[k] - mean[centre, n]) * scale[centre, n]


def bispectrum_forward(
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    pair_offset, place,
    constants, sine, cosine, reach, pair_table, switches, own, two_j_max,
    norm, diagonal, full, mirror, sign,
    out_start, out, term_start, first, second, coefficient, mean, scale,
    features, kept,
):  # fmt: skip
    """Features of every atom of every replica, and the sums u that backward needs."""
    n_channels, n_triples, n_half = own.shape[1], out_start.size - 1, norm.size
    n_full = (two_j_max + 1) * (two_j_max + 2) * (2 * two_j_max + 3) // 6
    size = features.dtype.itemsize
    of_atom = n_channels * (2 * n_full + n_triples)
    group = _group(structure.size, of_atom * size)
    of_block = n_channels * max(2 * n_half, group)
    width = (two_j_max + 1) * (two_j_max + 2) + 1
    launch(
        _forward_kernel, -(-structure.size // group), width * size,
        (group * of_atom + of_block) * size, MOST_THREADS,
    )(
        positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
        place,
        constants, sine, cosine, reach, pair_table, switches, own, two_j_max,
        norm, diagonal, full, mirror, sign,
        out_start, out, term_start, first, second, coefficient, mean, scale, group.bit_length() - 1,
        features, kept,
    )  # fmt: skip


def _group(n_atoms, bytes_of_atom):
    """Atoms of a block."""
    group = GROUP
    while group > 1 and (
        group * bytes_of_atom > SHARED_BYTES // 3 or n_atoms < MANY_BLOCKS * group
    ):
        group //= 2
    return group


@cuda.jit(device=True)
def _sum_series(
    row, two_j_max, ar, ai, br, bi, one, inverse, series, start, energy
):
    """E(a, b), and the real and imaginary parts of dE/da and dE/db.

    The coefficients begin at `start`; `energy` is the element of Y of level 0.
    """
    zero = one - one
    tar, tai, tbr, tbi = zero, zero, zero, zero
    below, above = np.uintp(0), np.uintp(2 * two_j_max)  # a level, and the first of the next column
    row[below], row[below + NEXT] = one, zero
    first = start
    for p in range((two_j_max + 1) // 2):
        at_level = first
        for j in range(2 * p, two_j_max):
            at = np.uintp(at_level + 4 * p * (j + 2))
            to = below
            gar, gai, gbr, gbi = zero, zero, zero, zero
            pr, pi = zero, zero
            xr, xi = series[at], series[at + NEXT]
            rr, ri = series[at + TWO], series[at + TWO + NEXT]
            last = below + np.uintp(2 * j)
            while to <= last:
                at += FOUR
                re, im = row[to], row[to + NEXT]
                if j > 2 * p:
                    qr, qi = (re, im) if to < last else (zero, zero)
                    re = ar * qr + ai * qi - br * pr - bi * pi
                    im = ar * qi - ai * qr - br * pi + bi * pr
                    row[to], row[to + NEXT] = re, im
                    pr, pi = qr, qi
                to += TWO
                nxr, nxi = series[at], series[at + NEXT]
                nrr, nri = series[at + TWO], series[at + TWO + NEXT]
                gar += (nxr * re - nxi * im) + (rr * re + ri * im)
                gai += (nxr * im + nxi * re) + (ri * re - rr * im)
                gbr += (xr * re - xi * im) - (nrr * re + nri * im)
                gbi += (xr * im + xi * re) - (nri * re - nrr * im)
                xr, xi, rr, ri = nxr, nxi, nrr, nri
            # Euler: the part of E of degree j + 1 is 2 Re (a dE/da + b dE/db) / (j + 1)
            energy += inverse[j] * ((ar * gar - ai * gai) + (br * gbr - bi * gbi))
            tar, tai, tbr, tbi = tar + gar, tai + gai, tbr + gbr, tbi + gbi
            if j == 2 * p + 1 and j + 1 < two_j_max:
                last = above + np.uintp(2 * j + 2)
                _widen(row, below, above, last, ar, ai, br, bi, zero)
            at_level += 4 * (j // 2 + 1) * (j + 2)
        first += 4 * (p + 1) * (4 * p + 5)
        below, above = above, below
    return energy, tar, tai, tbr, tbi


@cuda.jit
def _backward_kernel(
    d_features, kept,
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    pair_offset, place,
    constants, sine, cosine, reach, pair_table, switches, n_channels, two_j_max,
    full, mirror, sign,
    out_start, out, term_start, first, second, coefficient,
    n_out, slope_start, slope_feature, slope_factor, series_out, series_factor, inverse, scale,
    bits,
    d_separations,
):  # fmt: skip
    # Y of the group; u of the group and slopes of its Z, later the series of an atom; rows
    buffer = cuda.shared.array(0, d_features.dtype)
    t, n_threads = cuda.threadIdx.x, cuda.blockDim.x
    n_all, n_atoms, n_species = structure.size, species.size, reach.shape[0]
    n_half, n_triples, n_series = full.size, out_start.size - 1, series_out.shape[0]
    n_full = (two_j_max + 1) * (two_j_max + 2) * (2 * two_j_max + 3) // 6
    group = 1 << bits
    step = 2 * group
    one = constants[0]
    zero = one - one
    kind = d_features.dtype.type
    in_u = n_channels * n_out * step
    in_slopes = in_u + n_channels * n_full * step
    in_rows = in_u + n_channels * max(n_full * step + n_triples * group, 4 * n_series)
    slopes, series, rows = buffer[in_slopes:], buffer[in_u:], buffer[in_rows:]
    first_atom = cuda.blockIdx.x * group
    filled = min(group, n_all - first_atom)
    for k in range(t, filled * n_channels * n_half, n_threads):
        n, channel, a = k % n_half, k // n_half % n_channels, k // n_half // n_channels
        re = kept[first_atom + a, channel, 2 * n]
        im = kept[first_atom + a, channel, 2 * n + 1]
        at = in_u + (channel * n_full + full[n]) * step + a
        buffer[at] = re
        buffer[at + group] = im
        j, p, _ = _split(n)
        if 2 * p < j:
            at = in_u + (channel * n_full + mirror[n]) * step + a
            buffer[at] = sign[n] * re
            buffer[at + group] = -(sign[n] * im)
    for k in range(t, in_u, n_threads):
        buffer[k] = zero
    for e1 in range(n_channels):
        for e2 in range(n_channels):
            z_start = (e1 * n_channels + e2) * n_triples
            for k in range(t, n_channels * n_triples * group, n_threads):
                m, a = k >> bits, k & (group - 1)
                triple, channel = m // n_channels, m % n_channels
                total = zero
                if a < filled:
                    atom = first_atom + a
                    centre, out_row = species[atom % n_atoms], place[atom]
                    at = (z_start + triple) * n_channels + channel
                    for n in range(slope_start[at], slope_start[at + 1]):
                        f = slope_feature[n]
                        total += slope_factor[n] * (d_features[out_row, f] * scale[centre, f])
                slopes[k] = total
            cuda.syncthreads()
            begin = 0
            while begin < n_triples:
                # elements of one triple all differ, and those of rising j do as well
                end = begin + 1
                while end < n_triples and out[out_start[end]] > out[out_start[end - 1]]:
                    end += 1
                low, high = out_start[begin], out_start[end]
                for k in range(t, (high - low) * group, n_threads):
                    o, a = low + (k >> bits), k & (group - 1)
                    triple = begin
                    while o >= out_start[triple + 1]:
                        triple += 1
                    at = (z_start + triple) * n_channels
                    if a >= filled or slope_start[at] == slope_start[at + n_channels]:
                        continue
                    re, im = _product(
                        o, term_start, first, second, coefficient, buffer,
                        in_u + e1 * n_full * step + a, in_u + e2 * n_full * step + a, group, zero,
                    )  # fmt: skip
                    for channel in range(n_channels):
                        at = (channel * n_out + out[o]) * step + a
                        slope = slopes[(triple * n_channels + channel) * group + a]
                        buffer[at] += slope * re
                        buffer[at + group] += slope * im
                cuda.syncthreads()
                begin = end
    # u and slopes are free
    width = 4 * two_j_max + 3  # odd: rows begin in different banks
    row = rows[t * width : (t + 1) * width]
    turn = constants[5]
    for a in range(filled):
        atom = first_atom + a
        i, s = atom % n_atoms, structure[atom]
        centre = species[i]
        cuda.syncthreads()
        for k in range(t, n_channels * n_series, n_threads):
            channel, n = k // n_series, k % n_series
            p = (channel * n_out + series_out[n, 0]) * step + a
            q = (channel * n_out + series_out[n, 1]) * step + a
            series[4 * k] = series_factor[n, 0] * buffer[p]
            series[4 * k + 1] = series_factor[n, 1] * buffer[p + group]
            series[4 * k + 2] = series_factor[n, 2] * buffer[q]
            series[4 * k + 3] = series_factor[n, 3] * buffer[q + group]
        cuda.syncthreads()
        begin, end = row_begin[i * n_species], row_end[i * n_species + n_species - 1]
        z = 0
        for pair in range(begin + t, end, n_threads):
            while pair >= row_end[i * n_species + z]:
                z += 1
            to = pair + pair_offset[s]
            dx, dy, dz = separation(positions, cells, offsets, neighbor, shift, atom, s, pair)
            square = dx * dx + dy * dy + dz * dz
            if square >= reach[centre, z] * reach[centre, z]:
                d_separations[to, 0] = zero
                d_separations[to, 1] = zero
                d_separations[to, 2] = zero
                continue
            x, y, h, r = kind(dx), kind(dy), kind(dz), kind(math.sqrt(square))
            parameters = pair_table[centre, z]
            strength, slope = _strength(r, constants, sine, cosine, parameters, switches)
            cos_t, sin_t = _angle(r, parameters[0], constants, sine, cosine)
            q = sin_t / r
            channel = z if n_channels > 1 else 0
            energy, gar, gai, gbr, gbi = _sum_series(
                row, two_j_max, cos_t, -(h * q), y * q, -(x * q), one, inverse, series,
                4 * channel * n_series, buffer[channel * n_out * step + a],
            )  # fmt: skip
            # gradient of S E(a, b): dE = 2 Re (dE/da da + dE/db db)
            strength += strength
            gar, gai, gbr, gbi = strength * gar, strength * gai, strength * gbr, strength * gbi
            turning = turn * parameters[0]
            dq = (cos_t * turning - q) / r
            radial = slope * energy - gar * sin_t * turning
            radial = (radial + dq * (h * gai + y * gbr + x * gbi)) / r
            d_separations[to, 0] = q * gbi + radial * x
            d_separations[to, 1] = q * gbr + radial * y
            d_separations[to, 2] = q * gai + radial * h


def bispectrum_backward(
    d_features, kept,
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    pair_offset, place,
    constants, sine, cosine, reach, pair_table, switches, n_channels, two_j_max,
    full, mirror, sign,
    out_start, out, term_start, first, second, coefficient,
    n_out, slope_start, slope_feature, slope_factor, series_out, series_factor, inverse, scale,
    d_separations,
):  # fmt: skip
    """dE/dd of every pair (kernels/cuda/pairs.py)."""
    n_full = (two_j_max + 1) * (two_j_max + 2) * (2 * two_j_max + 3) // 6
    n_triples, n_series = out_start.size - 1, series_out.shape[0]
    size = d_features.dtype.itemsize
    of_products = n_channels * (2 * n_full + n_triples)
    group = _group(structure.size, (2 * n_channels * n_out + of_products) * size)
    of_block = group * 2 * n_channels * n_out
    of_block += max(group * of_products, 4 * n_channels * n_series)
    launch(
        _backward_kernel, -(-structure.size // group), (4 * two_j_max + 3) * size,
        of_block * size, MOST_THREADS,
    )(
        d_features, kept,
        positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
        pair_offset, place,
        constants, sine, cosine, reach, pair_table, switches, n_channels, two_j_max,
        full, mirror, sign,
        out_start, out, term_start, first, second, coefficient,
        n_out, slope_start, slope_feature, slope_factor, series_out, series_factor, inverse,
        scale, group.bit_length() - 1,
        d_separations,
    )  # fmt: skip

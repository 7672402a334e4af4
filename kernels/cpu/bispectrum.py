"""Bispectrum components of SNAP: forward and backward, many atoms at a time.

A neighbour at distance r is put on the 3-sphere: ``a = cos(t) - i (z / r) sin(t)`` and
``b = (y - i x) / r sin(t)`` with ``t = rfac0 pi (r - rmin0) / (rcut - rmin0)`` (Thompson et al.,
J. Comput. Phys. 285, 316 (2015)).  Angular momenta count in halves, j = 0 .. J.  With P_j[k, p]
the coefficient of x^k y^(j - k) in ``(a x + b y)^p (a* y - b* x)^(j - p)``, Wigner's matrices are
``U_j[k, p] = P_j[k, p] n_jk / n_jp``, ``n_jk = sqrt(k! (j - k)!)``, and an atom has
``u_j = 1 + sum S U_j`` over its neighbours with strengths S, products of weight and switching
functions.  Because ``U_j[j - k, j - p] = (-1)^(k + p) conj(U_j[k, p])``, the half 2 p <= j is
enough, and without the factors n the recursion over the neighbours is a plain one:

    P_j[k, p] = a* P_{j-1}[k, p] - b* P_{j-1}[k - 1, p]            for 2 p < j,
    P_j[k, p] = a P_{j-1}[k - 1, p - 1] + b P_{j-1}[k, p - 1]      for 2 p = j.

Forward sums u and contracts it:  ``B = sum_kp Re conj(u_j) Z``, ``Z = sum C C u_j1 u_j2`` with
Clebsch-Gordan coefficients C, over lists of the products that count.  Backward is the adjoint: one
matrix ``Y_j = sum (dE/dB) Z`` per atom, where the other two factors of B follow from its symmetry,
so that a neighbour has the energy ``S E(a, b)``, ``E = sum_jkp Re conj(Y_j) U_j``.  The derivatives
of P_j are elements of P_{j-1} (``dP_j[k, p]/da = p P_{j-1}[k - 1, p - 1]``,
``dP_j[k, p]/db = p P_{j-1}[k, p - 1]``), hence dE/da and dE/db are series in P with coefficients
made once per atom, and E itself follows from Euler's theorem, degree by degree.  No derivative of B
or of u is ever formed.

Arithmetic, in instructions (a multiplication with an addition is one), for one density:

======================  =========  ======  ======
part                    of each    2J = 6  2J = 8
======================  =========  ======  ======
sum u                   neighbour     780    1550
dE/da and dE/db         neighbour    1400    3100
Z of forward            atom        1.8e4   8.6e4
Y of backward           atom        3.8e4   1.9e5
======================  =========  ======  ======

All of this is the same for every atom, so atoms stand side by side in the lanes of a vector: 8 in
float64, 16 in float32, 8 in complex128.  Vectors are those of lanes.py, with ``+ - *``; sums stay
in registers, which loops over arrays would send through memory.  A block is the atoms (or replicas
of an atom) in the lanes; slot n holds the n-th neighbour of each.  Distances and angles are taken
for a tile of several slots in one scratch array, as in chebyshev.py.

Arguments common to both directions are those of every descriptor kernel (kernels/README.md); then
(elements of u and P as pairs re, im; "half" counts the elements with 2 p <= j)

=============  ==============================  ====================================================
constants      (6,)                            1, 1/2, rfac0, rmin0, pi, pi rfac0
sine, cosine   (13,), (14,)                    Taylor coefficients of sin(pi v)/v, cos(pi v) in v^2
reach          (n_species, n_species) float64  cutoff of a pair
pair_table     (n_species, n_species, 4)       of atom, neighbour: 1/(rcut - rmin0), weight, and of
                                               the inner switching sinner, 1/(2 dinner)
switches       (2,) integer                    whether to switch at the cutoff, at the inner radius
own            (n_species, n_channels)         1 where an atom counts itself, else 0
norm           (n_half,)                       n_jk / n_jp
diagonal       (n_half,)                       1 where k = p, else 0
full, mirror   (n_half,) integer               place of (k, p), of (j - k, j - p) among all elements
sign           (n_half,)                       (-1)^(k + p)
out_start      (n_triples + 1,) integer        elements of Z for every triple (j1, j2, j)
out            (n_out,) integer                where such an element belongs
term_start     (n_out + 1,) integer            products for every element
first, second  (n_terms,) integer              elements of u_j1, u_j2 to multiply
coefficient    (n_terms,)                      and the factor
mean, scale    (n_species, n_features)         standardisation of an atom of that species
features       (n_atoms_in_all, n_features)    ``(B - mean) * scale``; row ``place[i]`` is atom i
kept           (n_atoms_in_all, n_channels,    u, half; filled by forward, read by backward; may
               2 n_half)                       be empty for forward alone
=============  ==============================  ====================================================

With more than one channel every species of neighbours has its own u, features are
``B[(e1 n + e2) n + e3, triple]`` with u_j of e3, and Z is made for every pair of channels.
"""

import numpy as np
from numba import njit, prange

from .lanes import fill, load, n_lanes, scratch, store

# Sums over neighbours may be reordered; NaN and infinity must survive.
FLAGS = {"contract", "reassoc", "nsz", "arcp"}
TILE = 128  # entries (slot, lane) of a tile, a multiple of every number of lanes

# Slots of the scratch array.
X, Y, Z, LENGTH = 0, TILE, 2 * TILE, 3 * TILE
INVERSE, WEIGHT, INNER, INNER_INVERSE = 4 * TILE, 5 * TILE, 6 * TILE, 7 * TILE
V, SINE, COSINE = 8 * TILE, 9 * TILE, 10 * TILE
AR, AI, BR, BI = 11 * TILE, 12 * TILE, 13 * TILE, 14 * TILE
STRENGTH, SLOPE, Q = 15 * TILE, 16 * TILE, 17 * TILE
ENERGY, GAR, GAI, GBR, GBI = 18 * TILE, 19 * TILE, 20 * TILE, 21 * TILE, 22 * TILE
GX, GY, GZ = 23 * TILE, 24 * TILE, 25 * TILE
F, DF = 26 * TILE, 27 * TILE
N_SLOTS = 28


@njit(cache=True, error_model="numpy")
def _most_pairs(low, high, n_species, row_begin, row_end):
    """Longest list of an atom of a chunk."""
    most = 0
    for i in range(low, high):
        count = 0
        for row in range(i * n_species, (i + 1) * n_species):
            count += row_end[row] - row_begin[row]
        most = max(most, count)
    return most


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _separation(positions, cell, neighbor, shift, pair, atom, base):
    """r_j + shift . cell - r_i of a pair, in the dtype of the positions."""
    j = base + neighbor[pair]
    a, b, c = float(shift[0, pair]), float(shift[1, pair]), float(shift[2, pair])
    x = positions[j, 0] - positions[atom, 0]
    y = positions[j, 1] - positions[atom, 1]
    z = positions[j, 2] - positions[atom, 2]
    x += a * cell[0, 0] + b * cell[1, 0] + c * cell[2, 0]
    y += a * cell[0, 1] + b * cell[1, 1] + c * cell[2, 1]
    z += a * cell[0, 2] + b * cell[1, 2] + c * cell[2, 2]
    return x, y, z


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _near_pairs(
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    reach, atom, channel, n_channels, lane, pairs, kinds,
):  # fmt: skip
    """Pairs of an atom within their cutoffs and their species, column `lane`; returns how many."""
    n_species = len(reach)
    i = atom % len(species)
    base = offsets[structure[atom]]
    low, high = (0, n_species) if n_channels == 1 else (channel, channel + 1)
    count = 0
    for z in range(low, high):
        limit = reach[species[i], z] * reach[species[i], z]
        for pair in range(row_begin[i * n_species + z], row_end[i * n_species + z]):
            x, y, t = _separation(
                positions, cells[structure[atom]], neighbor, shift, pair, atom, base
            )
            square = x * x + y * y + t * t
            # written so that NaN is not taken for far away
            if square.real >= limit:
                continue
            pairs[count, lane] = pair
            kinds[count, lane] = z
            count += 1
    return count


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _gather(
    positions, cells, structure, species, offsets, neighbor, shift, pair_table, constants,
    atoms, counts, pairs, kinds, first, last, d, s,
):  # fmt: skip
    """Separations and parameters of slots first .. last; lanes without one get strength 0."""
    one = constants[0]
    zero = one - one
    width = len(atoms)
    for lane in range(width):
        atom = atoms[lane]
        end = min(last, counts[lane])
        for n in range(first, end):
            k = (n - first) * width + lane
            x, y, z = _separation(
                positions, cells[structure[atom]], neighbor, shift, pairs[n, lane], atom,
                offsets[structure[atom]],
            )  # fmt: skip
            d[k] = x
            d[TILE + k] = y
            d[2 * TILE + k] = z
            row = pair_table[species[atom % len(species)], kinds[n, lane]]
            s[INVERSE + k] = row[0]
            s[WEIGHT + k] = row[1]
            s[INNER + k] = row[2]
            s[INNER_INVERSE + k] = row[3]
        for n in range(max(end, first), last):
            k = (n - first) * width + lane
            d[k] = 1.0
            d[TILE + k] = 0.0
            d[2 * TILE + k] = 0.0
            s[INVERSE + k] = one
            s[WEIGHT + k] = zero
            s[INNER + k] = zero
            s[INNER_INVERSE + k] = one
    for k in range((last - first) * width):
        x, y, z = d[k], d[TILE + k], d[2 * TILE + k]
        s[X + k] = x
        s[Y + k] = y
        s[Z + k] = z
        s[LENGTH + k] = np.sqrt(x * x + y * y + z * z)


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _trigonometry(v, count, sine, cosine, s):
    """SINE = sin(pi v) and COSINE = cos(pi v), to rounding for |v| < 0.9."""
    a0, a1, a2, a3, a4, a5, a6 = sine[0], sine[1], sine[2], sine[3], sine[4], sine[5], sine[6]
    a7, a8, a9, a10, a11, a12 = sine[7], sine[8], sine[9], sine[10], sine[11], sine[12]
    b0, b1, b2, b3, b4, b5 = cosine[0], cosine[1], cosine[2], cosine[3], cosine[4], cosine[5]
    b6, b7, b8, b9, b10 = cosine[6], cosine[7], cosine[8], cosine[9], cosine[10]
    b11, b12, b13 = cosine[11], cosine[12], cosine[13]
    for k in range(count):
        t = s[v + k]
        w = t * t
        p = (((((a12 * w + a11) * w + a10) * w + a9) * w + a8) * w + a7) * w + a6
        p = (((((p * w + a5) * w + a4) * w + a3) * w + a2) * w + a1) * w + a0
        q = ((((((b13 * w + b12) * w + b11) * w + b10) * w + b9) * w + b8) * w + b7) * w + b6
        q = (((((q * w + b5) * w + b4) * w + b3) * w + b2) * w + b1) * w + b0
        s[SINE + k] = t * p
        s[COSINE + k] = q


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _geometry(count, constants, sine, cosine, switches, s):
    """Strength, its slope, a, b and sin(t)/r of a tile from separations and parameters.

    Leaves sin(t) in GX and cos(t) in GY for backward.
    """
    one, half, rfac0 = constants[0], constants[1], constants[2]
    rmin0, pi = constants[3], constants[4]
    zero = one - one
    for k in range(count):
        s[STRENGTH + k] = s[WEIGHT + k]
        s[SLOPE + k] = zero
    if switches[0]:
        # (1 + cos(pi x)) / 2 with x = v + 1/2, 1 at x < 0
        for k in range(count):
            s[V + k] = (s[LENGTH + k] - rmin0) * s[INVERSE + k] - half
        _trigonometry(V, count, sine, cosine, s)
        for k in range(count):
            v = s[V + k]
            w = s[WEIGHT + k]
            f = half - half * s[SINE + k]
            g = half * pi * s[INVERSE + k] * s[COSINE + k]
            inside = v.real <= -half.real
            outside = v.real >= half.real
            f = one if inside else f
            f = zero if outside else f
            g = zero if inside else g
            g = zero if outside else g
            s[STRENGTH + k] = w * f
            s[SLOPE + k] = -w * g
    if switches[1]:
        # (1 + sin(pi v)) / 2 with v = (r - sinner) / (2 dinner), 0 below -1/2 and 1 above 1/2
        for k in range(count):
            v = (s[LENGTH + k] - s[INNER + k]) * s[INNER_INVERSE + k]
            v = half if v.real > half.real else v
            s[V + k] = -half if v.real < -half.real else v
        _trigonometry(V, count, sine, cosine, s)
        for k in range(count):
            v = s[V + k]
            f = half + half * s[SINE + k]
            g = half * pi * s[INNER_INVERSE + k] * s[COSINE + k]
            below = v.real <= -half.real
            above = v.real >= half.real
            f = zero if below else f
            f = one if above else f
            g = zero if below else g
            g = zero if above else g
            strength = s[STRENGTH + k]
            s[STRENGTH + k] = strength * f
            s[SLOPE + k] = s[SLOPE + k] * f + strength * g
    # t = pi (v + 1/2)
    for k in range(count):
        s[V + k] = rfac0 * (s[LENGTH + k] - rmin0) * s[INVERSE + k] - half
    _trigonometry(V, count, sine, cosine, s)
    for k in range(count):
        cos_t, sin_t = -s[SINE + k], s[COSINE + k]
        q = sin_t / s[LENGTH + k]
        s[Q + k] = q
        s[GX + k] = sin_t
        s[GY + k] = cos_t
        s[AR + k] = cos_t
        s[AI + k] = -s[Z + k] * q
        s[BR + k] = s[Y + k] * q
        s[BI + k] = -s[X + k] * q


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _add_powers(s, slots, two_j_max, zero, level, total):
    """total[half] += sum over slots of S P_j[k, p], in all lanes.

    Columns of a level follow each other; a column holds k = 0 .. j.  `level` has room for two.
    """
    w = n_lanes(s)
    step = 2 * w
    nothing = fill(zero)
    size = len(level) // 2
    for slot in range(slots):
        at = slot * w
        ar, ai = load(s, AR + at), load(s, AI + at)
        br, bi = load(s, BR + at), load(s, BI + at)
        strength = load(s, STRENGTH + at)
        store(level, 0, strength)
        store(level, w, nothing)
        store(total, 0, load(total, 0) + strength)
        to = step
        for j in range(1, two_j_max + 1):
            source, target = ((j - 1) % 2) * size, (j % 2) * size
            for _ in range((j + 1) // 2):
                pr, pi = nothing, nothing
                for _ in range(j):
                    qr, qi = load(level, source), load(level, source + w)
                    re = ar * qr + ai * qi - br * pr - bi * pi
                    im = ar * qi - ai * qr - br * pi + bi * pr
                    store(level, target, re)
                    store(level, target + w, im)
                    store(total, to, load(total, to) + re)
                    store(total, to + w, load(total, to + w) + im)
                    pr, pi = qr, qi
                    source += step
                    target += step
                    to += step
                re = nothing - br * pr - bi * pi
                im = bi * pr - br * pi
                store(level, target, re)
                store(level, target + w, im)
                store(total, to, load(total, to) + re)
                store(total, to + w, load(total, to + w) + im)
                target += step
                to += step
            if j % 2 == 0:
                source -= j * step
                pr, pi = nothing, nothing
                for k in range(j + 1):
                    qr, qi = nothing, nothing
                    if k < j:
                        qr, qi = load(level, source), load(level, source + w)
                    re = ar * pr - ai * pi + br * qr - bi * qi
                    im = ar * pi + ai * pr + br * qi + bi * qr
                    store(level, target, re)
                    store(level, target + w, im)
                    store(total, to, load(total, to) + re)
                    store(total, to + w, load(total, to + w) + im)
                    pr, pi = qr, qi
                    source += step
                    target += step
                    to += step


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _complete(half, full, mirror, sign, zero, u):
    """All elements of u from those with 2 p <= j."""
    w = n_lanes(u)
    nothing = fill(zero)
    for n in range(len(full)):
        re, im = load(half, 2 * w * n), load(half, 2 * w * n + w)
        factor = fill(sign[n])
        store(u, 2 * w * mirror[n], factor * re)
        store(u, 2 * w * mirror[n] + w, nothing - factor * im)
        store(u, 2 * w * full[n], re)
        store(u, 2 * w * full[n] + w, im)


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _contract(
    triple, out_start, out, term_start, first, second, coefficient, u1, u2, u3, n_channels, zero,
    result,
):  # fmt: skip
    """result[channel] = sum Re conj(u3[channel]) Z(u1, u2) of a triple."""
    w = n_lanes(u1)
    step = 2 * w
    nothing = fill(zero)
    for c in range(n_channels):
        store(result, c * w, nothing)
    for o in range(out_start[triple], out_start[triple + 1]):
        rr, ii, ri, ir = nothing, nothing, nothing, nothing
        for t in range(term_start[o], term_start[o + 1]):
            p, q = np.uintp(first[t]) * step, np.uintp(second[t]) * step
            f = fill(coefficient[t])
            xr, xi = f * load(u1, p), f * load(u1, p + w)
            yr, yi = load(u2, q), load(u2, q + w)
            rr = rr + xr * yr
            ii = ii + xi * yi
            ri = ri + xr * yi
            ir = ir + xi * yr
        re, im = rr - ii, ri + ir
        for c in range(n_channels):
            q = out[o] * step
            value = load(u3[c], q) * re + load(u3[c], q + w) * im
            store(result, c * w, load(result, c * w) + value)


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _contract_back(
    triple, out_start, out, term_start, first, second, coefficient, u1, u2, slopes, n_channels,
    zero, y,
):  # fmt: skip
    """y[channel] += slopes[channel] Z(u1, u2) of a triple."""
    w = n_lanes(u1)
    step = 2 * w
    nothing = fill(zero)
    for o in range(out_start[triple], out_start[triple + 1]):
        rr, ii, ri, ir = nothing, nothing, nothing, nothing
        for t in range(term_start[o], term_start[o + 1]):
            p, q = np.uintp(first[t]) * step, np.uintp(second[t]) * step
            f = fill(coefficient[t])
            xr, xi = f * load(u1, p), f * load(u1, p + w)
            yr, yi = load(u2, q), load(u2, q + w)
            rr = rr + xr * yr
            ii = ii + xi * yi
            ri = ri + xr * yi
            ir = ir + xi * yr
        re, im = rr - ii, ri + ir
        for c in range(n_channels):
            q = out[o] * step
            slope = load(slopes, c * w)
            store(y[c], q, load(y[c], q) + slope * re)
            store(y[c], q + w, load(y[c], q + w) + slope * im)


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _forward_chunk(
    low, high,
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift, place,
    constants, sine, cosine, reach, pair_table, switches, own, two_j_max,
    norm, diagonal, full, mirror, sign,
    out_start, out, term_start, first, second, coefficient, mean, scale, features, kept,
):  # fmt: skip
    """`bispectrum_forward` of the atoms low .. high."""
    n_atoms = len(species)
    n_replicas = len(positions) // n_atoms
    n_species, n_channels = own.shape
    n_half, n_triples = len(norm), len(out_start) - 1
    one = constants[0]
    zero = one - one
    s = scratch(N_SLOTS * TILE, constants)
    d = np.empty(3 * TILE, positions.dtype)
    w = n_lanes(s)
    n_full = (two_j_max + 1) * (two_j_max + 2) * (2 * two_j_max + 3) // 6
    level = scratch(2 * w * 2 * (two_j_max + 1) * (two_j_max // 2 + 1), constants)
    total = scratch(2 * w * n_half, constants)
    u = scratch(n_channels * 2 * w * n_full, constants).reshape(n_channels, 2 * w * n_full)
    result = scratch(n_channels * w, constants)
    b = scratch(n_channels**3 * n_triples * w, constants)
    most = _most_pairs(low, high, n_species, row_begin, row_end)
    pairs, kinds = np.empty((most, w), np.int64), np.empty((most, w), np.int32)
    atoms, counts = np.empty(w, np.int64), np.empty(w, np.int64)
    n_all = (high - low) * n_replicas
    for start in range(0, n_all, w):
        filled = min(w, n_all - start)
        for lane in range(w):
            q = start + min(lane, filled - 1)
            atoms[lane] = q % n_replicas * n_atoms + low + q // n_replicas
        for channel in range(n_channels):
            total[:] = zero
            slots = 0
            for lane in range(w):
                counts[lane] = 0
                if lane < filled:
                    counts[lane] = _near_pairs(
                        positions, cells, structure, species, offsets, row_begin, row_end,
                        neighbor, shift, reach, atoms[lane], channel, n_channels, lane, pairs,
                        kinds,
                    )  # fmt: skip
                slots = max(slots, counts[lane])
            for begin in range(0, slots, TILE // w):
                end = min(begin + TILE // w, slots)
                _gather(
                    positions, cells, structure, species, offsets, neighbor, shift, pair_table,
                    constants, atoms, counts, pairs, kinds, begin, end, d, s,
                )  # fmt: skip
                _geometry((end - begin) * w, constants, sine, cosine, switches, s)
                _add_powers(s, end - begin, two_j_max, zero, level, total)
            for n in range(n_half):
                for lane in range(w):
                    itself = own[species[atoms[lane] % n_atoms], channel] * diagonal[n]
                    total[2 * w * n + lane] = norm[n] * total[2 * w * n + lane] + itself
                    total[2 * w * n + w + lane] = norm[n] * total[2 * w * n + w + lane]
            if len(kept) > 0:
                for lane in range(filled):
                    row = kept[atoms[lane], channel]
                    for n in range(2 * n_half):
                        row[n] = total[n * w + lane]
            _complete(total, full, mirror, sign, zero, u[channel])
        for e1 in range(n_channels):
            for e2 in range(n_channels):
                for triple in range(n_triples):
                    _contract(
                        triple, out_start, out, term_start, first, second, coefficient,
                        u[e1], u[e2], u, n_channels, zero, result,
                    )  # fmt: skip
                    for e3 in range(n_channels):
                        feature = ((e1 * n_channels + e2) * n_channels + e3) * n_triples + triple
                        for lane in range(w):
                            b[feature * w + lane] = result[e3 * w + lane]
        for lane in range(filled):
            row = features[place[atoms[lane]]]
            z = species[atoms[lane] % n_atoms]
            for n in range(len(row)):
                row[n] = (b[n * w + lane] - mean[z, n]) * scale[z, n]


@njit(cache=True, parallel=True, fastmath=FLAGS, error_model="numpy")
def bispectrum_forward(
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    chunks, place,
    constants, sine, cosine, reach, pair_table, switches, own, two_j_max,
    norm, diagonal, full, mirror, sign,
    out_start, out, term_start, first, second, coefficient, mean, scale,
    features, kept,
):  # fmt: skip
    """Features of every atom of every replica, and the sums u that backward needs.

    The list of products has j >= j1 >= j2, ``out`` are places among all elements, and the
    coefficients hold the weight of an element in the sum over the half.
    """
    for chunk in prange(len(chunks) - 1):
        _forward_chunk(
            chunks[chunk], chunks[chunk + 1],
            positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
            place, constants, sine, cosine, reach, pair_table, switches, own, two_j_max,
            norm, diagonal, full, mirror, sign,
            out_start, out, term_start, first, second, coefficient, mean, scale, features, kept,
        )  # fmt: skip


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _series(y, series_out, series_factor, zero, series):
    """Coefficients of dE/da and dE/db from Y: four numbers for each, in all lanes."""
    w = n_lanes(y)
    nothing = fill(zero)
    for n in range(len(series_out)):
        p, q = 2 * w * series_out[n, 0], 2 * w * series_out[n, 1]
        at = 4 * w * n
        store(series, at, nothing + fill(series_factor[n, 0]) * load(y, p))
        store(series, at + w, nothing + fill(series_factor[n, 1]) * load(y, p + w))
        store(series, at + 2 * w, nothing + fill(series_factor[n, 2]) * load(y, q))
        store(series, at + 3 * w, nothing + fill(series_factor[n, 3]) * load(y, q + w))


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _sum_series(s, slots, two_j_max, constants, inverse, y, series, level):
    """ENERGY = E(a, b) and GAR .. GBI, the real and imaginary parts of dE/da and dE/db.

    ``dE/da = sum_jkp X[k + 1] P[k] + R[k] conj(P[k])`` and ``dE/db = sum_jkp X[k] P[k] -
    R[k + 1] conj(P[k])`` over the columns p of level j, with k + 2 coefficients X, R for each.
    """
    w = n_lanes(s)
    step, four = 2 * w, 4 * w
    one = fill(constants[0])
    nothing = one - one
    size = len(level) // 2
    for slot in range(slots):
        place = slot * w
        ar, ai = load(s, AR + place), load(s, AI + place)
        br, bi = load(s, BR + place), load(s, BI + place)
        energy = load(y, 0)
        tar, tai, tbr, tbi = nothing, nothing, nothing, nothing
        at = 0
        for j in range(two_j_max):
            source, target = ((j - 1) % 2) * size, (j % 2) * size
            gar, gai, gbr, gbi = nothing, nothing, nothing, nothing
            for p in range(j // 2 + 1):
                # pr, pi is the element of the level below at k - 1
                middle = 2 * p == j and j > 0
                if middle:
                    source -= j * step
                pr, pi = nothing, nothing
                xr, xi = load(series, at), load(series, at + w)
                rr, ri = load(series, at + 2 * w), load(series, at + 3 * w)
                at += four
                for k in range(j + 1):
                    qr, qi = nothing, nothing
                    if k < j:
                        qr, qi = load(level, source), load(level, source + w)
                        source += step
                    if j == 0:
                        re, im = one, nothing
                    elif middle:
                        re = ar * pr - ai * pi + br * qr - bi * qi
                        im = ar * pi + ai * pr + br * qi + bi * qr
                    else:
                        re = ar * qr + ai * qi - br * pr - bi * pi
                        im = ar * qi - ai * qr - br * pi + bi * pr
                    store(level, target, re)
                    store(level, target + w, im)
                    target += step
                    pr, pi = qr, qi
                    nxr, nxi = load(series, at), load(series, at + w)
                    nrr, nri = load(series, at + 2 * w), load(series, at + 3 * w)
                    at += four
                    gar = gar + ((nxr * re - nxi * im) + (rr * re + ri * im))
                    gai = gai + ((nxr * im + nxi * re) + (ri * re - rr * im))
                    gbr = gbr + ((xr * re - xi * im) - (nrr * re + nri * im))
                    gbi = gbi + ((xr * im + xi * re) - (nri * re - nrr * im))
                    xr, xi, rr, ri = nxr, nxi, nrr, nri
            # Euler: the part of E of degree j + 1 is 2 Re (a dE/da + b dE/db) / (j + 1)
            part = (ar * gar - ai * gai) + (br * gbr - bi * gbi)
            energy = energy + fill(inverse[j]) * part
            tar, tai = tar + gar, tai + gai
            tbr, tbi = tbr + gbr, tbi + gbi
        store(s, ENERGY + place, energy)
        store(s, GAR + place, tar)
        store(s, GAI + place, tai)
        store(s, GBR + place, tbr)
        store(s, GBI + place, tbi)


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _pull_back(count, constants, s):
    """GX, GY, GZ = gradient of S E(a, b) with respect to the separation."""
    turn = constants[5]
    for k in range(count):
        x, y, z, r = s[X + k], s[Y + k], s[Z + k], s[LENGTH + k]
        sin_t, cos_t, q = s[GX + k], s[GY + k], s[Q + k]
        strength = s[STRENGTH + k] + s[STRENGTH + k]
        # dE = 2 Re (dE/da da + dE/db db)
        gar, gai = strength * s[GAR + k], strength * s[GAI + k]
        gbr, gbi = strength * s[GBR + k], strength * s[GBI + k]
        slope = turn * s[INVERSE + k]
        dq = (cos_t * slope - q) / r
        radial = s[SLOPE + k] * s[ENERGY + k] - gar * sin_t * slope
        radial = (radial + dq * (z * gai + y * gbr + x * gbi)) / r
        s[GX + k] = q * gbi + radial * x
        s[GY + k] = q * gbr + radial * y
        s[GZ + k] = q * gai + radial * z


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _backward_chunk(
    chunk, low, high,
    d_features, kept,
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift, place,
    constants, sine, cosine, reach, pair_table, switches, n_channels, two_j_max,
    full, mirror, sign,
    out_start, out, term_start, first, second, coefficient,
    n_out, slope_start, slope_feature, slope_factor, series_out, series_factor, inverse, scale,
    d_positions, d_strain,
):  # fmt: skip
    """`bispectrum_backward` of the atoms low .. high."""
    n_atoms = len(species)
    n_replicas = len(positions) // n_atoms
    n_species = len(reach)
    n_half, n_triples, n_features = len(full), len(out_start) - 1, d_features.shape[1]
    zero = constants[0] - constants[0]
    s = scratch(N_SLOTS * TILE, constants)
    d = np.empty(3 * TILE, positions.dtype)
    w = n_lanes(s)
    n_full = (two_j_max + 1) * (two_j_max + 2) * (2 * two_j_max + 3) // 6
    level = scratch(2 * w * 2 * (two_j_max + 1) * (two_j_max // 2 + 1), constants)
    half = scratch(2 * w * n_half, constants)
    u = scratch(n_channels * 2 * w * n_full, constants).reshape(n_channels, 2 * w * n_full)
    y = scratch(n_channels * 2 * w * n_out, constants).reshape(n_channels, 2 * w * n_out)
    series = scratch(4 * w * len(series_out), constants)
    slopes = scratch(n_channels * w, constants)
    d_b = scratch(n_features * w, constants)
    most = _most_pairs(low, high, n_species, row_begin, row_end)
    pairs, kinds = np.empty((most, w), np.int64), np.empty((most, w), np.int32)
    atoms, counts = np.empty(w, np.int64), np.empty(w, np.int64)
    n_all = (high - low) * n_replicas
    for start in range(0, n_all, w):
        filled = min(w, n_all - start)
        for lane in range(w):
            q = start + min(lane, filled - 1)
            atom = q % n_replicas * n_atoms + low + q // n_replicas
            atoms[lane] = atom
            z = species[atom % n_atoms]
            for n in range(n_features):
                d_b[n * w + lane] = d_features[place[atom], n] * scale[z, n]
        for channel in range(n_channels):
            for lane in range(w):
                row = kept[atoms[lane], channel]
                for n in range(2 * n_half):
                    half[n * w + lane] = row[n]
            _complete(half, full, mirror, sign, zero, u[channel])
        y[:] = zero
        for e1 in range(n_channels):
            for e2 in range(n_channels):
                for triple in range(n_triples):
                    at = ((e1 * n_channels + e2) * n_triples + triple) * n_channels
                    if slope_start[at] == slope_start[at + n_channels]:
                        continue
                    slopes[:] = zero
                    for e3 in range(n_channels):
                        for n in range(slope_start[at + e3], slope_start[at + e3 + 1]):
                            for lane in range(w):
                                slopes[e3 * w + lane] += (
                                    slope_factor[n] * d_b[slope_feature[n] * w + lane]
                                )
                    _contract_back(
                        triple, out_start, out, term_start, first, second, coefficient,
                        u[e1], u[e2], slopes, n_channels, zero, y,
                    )  # fmt: skip
        for channel in range(n_channels):
            slots = 0
            for lane in range(w):
                counts[lane] = 0
                if lane < filled:
                    counts[lane] = _near_pairs(
                        positions, cells, structure, species, offsets, row_begin, row_end,
                        neighbor, shift, reach, atoms[lane], channel, n_channels, lane, pairs,
                        kinds,
                    )  # fmt: skip
                slots = max(slots, counts[lane])
            _series(y[channel], series_out, series_factor, zero, series)
            for begin in range(0, slots, TILE // w):
                end = min(begin + TILE // w, slots)
                _gather(
                    positions, cells, structure, species, offsets, neighbor, shift, pair_table,
                    constants, atoms, counts, pairs, kinds, begin, end, d, s,
                )  # fmt: skip
                _geometry((end - begin) * w, constants, sine, cosine, switches, s)
                _sum_series(
                    s, end - begin, two_j_max, constants, inverse, y[channel], series, level
                )
                _pull_back((end - begin) * w, constants, s)
                for lane in range(filled):
                    atom = atoms[lane]
                    base = offsets[structure[atom]]
                    for n in range(begin, min(end, counts[lane])):
                        k = (n - begin) * w + lane
                        gx, gy, gz = s[GX + k], s[GY + k], s[GZ + k]
                        j = base + neighbor[pairs[n, lane]]
                        d_positions[chunk, j, 0] += gx
                        d_positions[chunk, j, 1] += gy
                        d_positions[chunk, j, 2] += gz
                        d_positions[chunk, atom, 0] -= gx
                        d_positions[chunk, atom, 1] -= gy
                        d_positions[chunk, atom, 2] -= gz
                        d_strain[atom, 0] += d[k] * gx
                        d_strain[atom, 1] += d[TILE + k] * gy
                        d_strain[atom, 2] += d[2 * TILE + k] * gz
                        d_strain[atom, 3] += d[TILE + k] * gz
                        d_strain[atom, 4] += d[k] * gz
                        d_strain[atom, 5] += d[k] * gy


@njit(cache=True, parallel=True, fastmath=FLAGS, error_model="numpy")
def bispectrum_backward(
    d_features, kept,
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    chunks, place,
    constants, sine, cosine, reach, pair_table, switches, n_channels, two_j_max,
    full, mirror, sign,
    out_start, out, term_start, first, second, coefficient,
    n_out, slope_start, slope_feature, slope_factor, series_out, series_factor, inverse, scale,
    d_positions, d_strain,
):  # fmt: skip
    """Add dE/dr to d_positions (n_chunks, n_atoms_in_all, 3), dE/ds to d_strain (.., 6) per atom.

    ``d_strain`` is in Voigt order xx yy zz yz xz xy; every chunk of atoms adds into its own
    slice of ``d_positions``.

    The list of products has j1 >= j2 and any j.  ``out`` counts the ``n_out`` elements of Y that
    are made, those with 2 p < j or k <= p; the others follow from them.  Then

    =============  ===================================  ==========================================
    slope_start    (n_channels^2 n_triples n_channels   of (e1, e2, triple, e3): which dE/dB, and
                   + 1,) integer                        with what factors, make the weight of
    slope_feature  (n_slopes,) integer                  Z(u of e1, u of e2) in Y of e3
    slope_factor   (n_slopes,)
    series_out     (n_series, 2) integer                elements of Y that X and R are made of
    series_factor  (n_series, 4)                        factors of re, im of X and re, im of R
    inverse        (2J,)                                2 / (j + 1)
    =============  ===================================  ==========================================
    """
    for chunk in prange(len(chunks) - 1):
        _backward_chunk(
            chunk, chunks[chunk], chunks[chunk + 1], d_features, kept,
            positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
            place, constants, sine, cosine, reach, pair_table, switches, n_channels, two_j_max,
            full, mirror, sign,
            out_start, out, term_start, first, second, coefficient,
            n_out, slope_start, slope_feature, slope_factor, series_out, series_factor, inverse,
            scale, d_positions, d_strain,
        )  # fmt: skip

"""ANI atomic environment vectors: forward and backward by a loop over pairs of neighbours.

Features of an atom i (Smith, Isayev and Roitberg, Chem. Sci. 8, 3192 (2017), with the constants and
the layout of TorchANI) are, for every species s, the radial sums over its neighbours j

    1/4 sum_j exp(-eta_R (r_ij - s_m)^2) f(r_ij; R)

and, for every pair of species s <= t, the angular sums over pairs of neighbours j, k of s and t

    2 sum_jk [(1 + cos(theta - w_z)) / 2]^zeta exp(-eta_A ((r_ij + r_ik)/2 - s_a)^2) f_j f_k

with the half-cosine cutoff f and theta = arccos(0.95 cos theta_jik).  No angle is formed:
cos(theta - w) = cos theta cos w + sin theta sin w with sin theta = sqrt(1 - cos^2 theta) >= 0.31.

An angular term is a product of a function of the distances, one for every a, and a function of the
angle, one for every z.  Triplets of all pairs of species are collected in a tile, which is filled
up to whole vectors after every pair of species with triplets of weight 0.  The functions of a and z
are evaluated for the whole tile; then every pair of species sums its outer products.  Backward sums
the coefficients of its pair of species over a and z instead, and spreads the slopes over the
neighbours.

Arguments common to both directions are those of every descriptor kernel (kernels/README.md); then

==============  ===========================  =====================================================
constants       (8,)                         1, 1/2, 1/R, 1/A, eta_R, eta_A, zeta, 0.95 in the
                                             dtype of the features
inverse_cutoff  (2,) float64                 1/R, 1/A for the scaled distances
sine, cosine    (11,), (12,)                 Taylor coefficients of the cutoff, see chebyshev.py
radial_shifts   (n_radial,)                  s_m
angular_shifts  (n_angular,)                 s_a
angle_cosine    (n_angle,)                   cos w_z
angle_sine      (n_angle,)                   sin w_z
power           integer                      zeta if that is a whole number, else 0
mean, scale     (n_species, n_features)      standardisation of an atom of that species
features        (n_atoms_in_all, n_features) ``(G - mean) * scale``; row ``place[i]`` is atom i;
                                             species-major and then m, then pairs of species in the
                                             order (0, 0), (0, 1) .. (1, 1) .., a and z
==============  ===========================  =====================================================
"""

import numpy as np
from numba import njit, prange, types
from numba.extending import intrinsic, overload

from .activations import _as_double, _exp
from .chebyshev import (
    DF,
    FLAGS,
    LANES,
    LENGTH,
    N_SLOTS,
    RADIAL_SLOPE,
    TILE,
    V_ANGULAR,
    V_RADIAL,
    F,
    X,
    Y,
    Z,
    _cutoff,
    _cutoff_slope,
    _geometry,
)

# A tile of triplets and the slots of its scratch array; the functions of a follow, and those of z
# in turn with their slopes.
TRIPLETS = 256
COSINE, MEAN, WEIGHT, SINE = 0, TRIPLETS, 2 * TRIPLETS, 3 * TRIPLETS
H0, H1, DH0, DH1 = 4 * TRIPLETS, 5 * TRIPLETS, 6 * TRIPLETS, 7 * TRIPLETS
VALUE, BY_MEAN, BY_COSINE = 8 * TRIPLETS, 9 * TRIPLETS, 10 * TRIPLETS
SPARE, SQUARE = 11 * TRIPLETS, 12 * TRIPLETS
N_TRIPLET_SLOTS = 13

# Rows of the array of angular neighbours: unit vector, length, cutoff and slope of it, derivatives
# in the length, in the direction and the sum of cosine times derivative in the cosine.
NX, NY, NZ, NR, NF, NDF, DR, DX, DY, DZ, DC, NV = range(12)

LN2_HIGH_32, LN2_LOW_32 = 0.693359375, -2.12194440e-4
SQRT_HALF_BITS_32, SQRT_HALF_BITS_64 = 0x3F3504F3, 0x3FE6A09E667F3BCD


# Numba's integers are of 64 bits once they are added, which halves the vectors of float32.


@intrinsic
def _power_of_two(typing_context, k):
    """2^k as float32 of a whole number k in float32, -126 <= k <= 127."""

    def generate(context, builder, signature, arguments):
        bits, single = (context.get_value_type(t) for t in (types.int32, types.float32))
        k = builder.fptosi(arguments[0], bits)
        k = builder.shl(builder.add(k, bits(127)), bits(23))
        return builder.bitcast(k, single)

    return types.float32(types.float32), generate


def _binary_exponent(context, builder, x):
    """Bits of x and of k, for x = 2^k m with sqrt(1/2) <= m < sqrt(2)."""
    bits = context.get_value_type(types.int32)
    x = builder.bitcast(x, bits)
    return bits, x, builder.ashr(builder.sub(x, bits(SQRT_HALF_BITS_32)), bits(23))


@intrinsic
def _exponent(typing_context, x):
    def generate(context, builder, signature, arguments):
        _, _, k = _binary_exponent(context, builder, arguments[0])
        return builder.sitofp(k, context.get_value_type(types.float32))

    return types.float32(types.float32), generate


@intrinsic
def _mantissa(typing_context, x):
    def generate(context, builder, signature, arguments):
        bits, x, k = _binary_exponent(context, builder, arguments[0])
        m = builder.sub(x, builder.shl(k, bits(23)))
        return builder.bitcast(m, context.get_value_type(types.float32))

    return types.float32(types.float32), generate


@intrinsic
def _bits(typing_context, x):
    """The bits of a float64."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.int64))

    return types.int64(types.float64), generate


def _decay(x):
    """e^x for x <= 0 in the dtype of x, or any complex x.

    In float32 what is below 1e-15 is 0: products of such numbers would be subnormal, and slow.
    """
    raise NotImplementedError("compiled by the overload below")


@overload(_decay, inline="always")
def _decay_overload(x):
    if x != types.float32:
        return lambda x: _exp(x)

    def single(x):
        # x = k ln 2 + t with |t| <= ln 2 / 2, Taylor series of e^t to 7th order: 5e-9
        near = np.float32(x >= np.float32(-34.5))
        x = max(x, np.float32(-34.5))
        k = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
        t = (x - k * np.float32(LN2_HIGH_32)) - k * np.float32(LN2_LOW_32)
        one = np.float32(1.0)
        p = one + t * np.float32(1 / 7)
        p = one + t * np.float32(1 / 6) * p
        p = one + t * np.float32(1 / 5) * p
        p = one + t * np.float32(1 / 4) * p
        p = one + t * np.float32(1 / 3) * p
        p = one + t * np.float32(1 / 2) * p
        p = one + t * p
        return near * p * _power_of_two(k)

    return single


def _logarithm(x):
    """ln x of a positive normal number in its dtype, or of a complex one."""
    raise NotImplementedError("compiled by the overload below")


@overload(_logarithm, inline="always")
def _logarithm_overload(x):
    if isinstance(x, types.Complex):
        return lambda x: np.log(x)

    # x = 2^k m with sqrt(1/2) <= m < sqrt(2); ln m = 2 artanh w, w = (m - 1) / (m + 1) <= 0.172
    if x == types.float32:

        def single(x):
            n, m = _exponent(x), _mantissa(x)
            one = np.float32(1.0)
            w = (m - one) / (m + one)
            v = w * w
            p = np.float32(1 / 7) + v * np.float32(1 / 9)
            p = np.float32(1 / 5) + v * p
            p = np.float32(1 / 3) + v * p
            small = n * np.float32(LN2_LOW_32) + (w + w) * v * p
            return n * np.float32(LN2_HIGH_32) + ((w + w) + small)

        return single

    def double(x):
        bits = _bits(x)
        k = (bits - SQRT_HALF_BITS_64) >> 52
        m = _as_double(bits - (k << 52))
        w = (m - 1.0) / (m + 1.0)
        v = w * w
        p = 1 / 21 + v * (1 / 23)
        p = 1 / 19 + v * p
        p = 1 / 17 + v * p
        p = 1 / 15 + v * p
        p = 1 / 13 + v * p
        p = 1 / 11 + v * p
        p = 1 / 9 + v * p
        p = 1 / 7 + v * p
        p = 1 / 5 + v * p
        p = 1 / 3 + v * p
        n = np.float64(k)
        return n * 0.6931471805599453 + ((w + w) + (w + w) * v * p)

    return double


def _flush(x):
    """x; in float32, 0 in place of less than 1e-15, see `_decay`."""
    raise NotImplementedError("compiled by the overload below")


@overload(_flush, inline="always")
def _flush_overload(x):
    if x != types.float32:
        return lambda x: x
    return lambda x: x * np.float32(x >= np.float32(1e-15))


@njit(cache=True)
def _most_pairs(begin, end, n_species, row_begin, row_end):
    """Largest number of pairs of the atoms begin .. end - 1."""
    most = 0
    for i in range(begin, end):
        pairs = 0
        for row in range(i * n_species, (i + 1) * n_species):
            pairs += row_end[row] - row_begin[row]
        most = max(most, pairs)
    return most


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _radial_sums(s, count, eta, quarter, shifts, sums):
    """sums[m] += sum_k f_k exp(-eta (r_k - s_m)^2) / 4."""
    zero = eta - eta
    last = len(shifts) - 1
    for m in range(0, len(shifts), 2):
        s0, s1 = shifts[m], shifts[min(m + 1, last)]
        a, b = zero, zero
        for k in range(count):
            f, r = s[F + k], s[LENGTH + k]
            x, y = r - s0, r - s1
            a += f * _decay(-eta * (x * x))
            b += f * _decay(-eta * (y * y))
        sums[m] += quarter * a
        if m < last:
            sums[m + 1] += quarter * b


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _radial_slopes(s, count, constants, quarter, shifts, d_out):
    """RADIAL_SLOPE = d/dr of sum_m d_out[m] f exp(-eta (r - s_m)^2) / 4."""
    to_radial, eta = constants[2], constants[4]
    zero = eta - eta
    two_eta = eta + eta
    for k in range(count):
        s[RADIAL_SLOPE + k] = zero
    for m in range(len(shifts)):
        shift, g = shifts[m], quarter * d_out[m]
        for k in range(count):
            x = s[LENGTH + k] - shift
            e = g * _decay(-eta * (x * x))
            s[RADIAL_SLOPE + k] += e * (to_radial * s[DF + k] - two_eta * x * s[F + k])


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _near_neighbours(s, near, half, nb, at):
    """Append the neighbours of a tile within the angular cutoff; returns the new number."""
    for k in range(near):
        v = s[V_ANGULAR + k]
        # written so that NaN is not taken for far away
        if not v.real >= half.real:
            nb[NX, at] = s[X + k]
            nb[NY, at] = s[Y + k]
            nb[NZ, at] = s[Z + k]
            nb[NR, at] = s[LENGTH + k]
            nb[NV, at] = v
            at += 1
    return at


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _fill(nb, j, first, count, half, t, at):
    """Triplets of neighbour j with count others from ``first`` on, at place ``at`` of the tile."""
    x, y, z = nb[NX, j], nb[NY, j], nb[NZ, j]
    mean, weight = half * nb[NR, j], nb[NF, j] + nb[NF, j]
    xs, ys, zs = nb[NX, first:], nb[NY, first:], nb[NZ, first:]
    rs, fs = nb[NR, first:], nb[NF, first:]
    cosines, means, weights = t[COSINE + at :], t[MEAN + at :], t[WEIGHT + at :]
    for k in range(count):
        cosines[k] = x * xs[k] + y * ys[k] + z * zs[k]
        means[k] = mean + half * rs[k]
        weights[k] = weight * fs[k]


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _pad(t, at, lanes, zero):
    """Fill the tile up to a multiple of lanes with triplets that count for nothing."""
    end = (at + lanes - 1) // lanes * lanes
    for k in range(at, end):
        t[COSINE + k] = zero
        t[MEAN + k] = zero
        t[WEIGHT + k] = zero
    return end


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _powers(x, out, square, count, power, exponent, one):
    """out = x ** exponent; by repeated squaring if power, the same number, is above 0."""
    if power == 0:
        # far below the smallest 1 + cos that matters, far above underflow
        least = 1e-30
        for k in range(count):
            y = x[k]
            y = one * least if y.real < least else y
            out[k] = _decay(exponent * _logarithm(y))
        return
    if power == 32:
        for k in range(count):
            y = x[k]
            y = y * y
            y = y * y
            y = y * y
            y = y * y
            out[k] = _flush(y * y)
        return
    # four bits at a time
    first = True
    while power > 0:
        b0, b1, b2, b3 = power & 1, power & 2, power & 4, power & 8
        for k in range(count):
            y = x[k] if first else square[k]
            p = one if first else out[k]
            p = p * y if b0 else p
            y = y * y
            p = p * y if b1 else p
            y = y * y
            p = p * y if b2 else p
            y = y * y
            p = p * y if b3 else p
            out[k] = p
            square[k] = _flush(y * y)
        power >>= 4
        first = False


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _distance_functions(t, count, eta, shifts, radial):
    """exp(-eta (mean - s_a)^2) for all a."""
    for a in range(len(shifts)):
        shift = shifts[a]
        out = t[radial + a * TRIPLETS :]
        for k in range(count):
            x = t[MEAN + k] - shift
            out[k] = _decay(-eta * (x * x))


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _sines(t, count, one, squeeze):
    for k in range(count):
        c = squeeze * t[COSINE + k]
        t[SINE + k] = np.sqrt(one - c * c)


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _outer_sums(t, begin, end, zero, n_angular, n_angle, radial, angle, sums):
    """sums[a * n_angle + z] += sum_k radial_a angle_z over the triplets begin .. end - 1."""
    count = end - begin
    for a in range(0, n_angular, 2):
        p = t[radial + a * TRIPLETS + begin :]
        for z in range(0, n_angle, 4):
            q = t[angle + 2 * z * TRIPLETS + begin :]
            a0, a1, a2, a3, b0, b1, b2, b3 = zero, zero, zero, zero, zero, zero, zero, zero
            for k in range(count):
                x, y = p[k], p[TRIPLETS + k]
                u, v = q[k], q[2 * TRIPLETS + k]
                w, h = q[4 * TRIPLETS + k], q[6 * TRIPLETS + k]
                a0 += x * u
                a1 += x * v
                a2 += x * w
                a3 += x * h
                b0 += y * u
                b1 += y * v
                b2 += y * w
                b3 += y * h
            at, left = a * n_angle + z, n_angle - z
            sums[at] += a0
            if left > 1:
                sums[at + 1] += a1
            if left > 2:
                sums[at + 2] += a2
            if left > 3:
                sums[at + 3] += a3
            if a + 1 < n_angular:
                at += n_angle
                sums[at] += b0
                if left > 1:
                    sums[at + 1] += b1
                if left > 2:
                    sums[at + 2] += b2
                if left > 3:
                    sums[at + 3] += b3


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _sum_tile(
    t, total, segments, n_segments, constants, angular_shifts, angle_cosine, angle_sine, power,
    radial, angle, sums,
):  # fmt: skip
    """Add a tile of triplets to the angular sums of its segments."""
    one, half, eta, zeta, squeeze = (
        constants[0], constants[1], constants[5], constants[6], constants[7],
    )  # fmt: skip
    n_angular, n_angle = len(angular_shifts), len(angle_cosine)
    total = _pad(t, total, 4 * LANES, one - one)
    _sines(t, total, one, squeeze)
    _distance_functions(t, total, eta, angular_shifts, radial)
    for a in range(n_angular):
        out = t[radial + a * TRIPLETS :]
        for k in range(total):
            out[k] = out[k] * t[WEIGHT + k]
    for z in range(n_angle):
        along, across = half * squeeze * angle_cosine[z], half * angle_sine[z]
        for k in range(total):
            t[SPARE + k] = half + along * t[COSINE + k] + across * t[SINE + k]
        _powers(t[SPARE:], t[angle + 2 * z * TRIPLETS :], t[SQUARE:], total, power, zeta, one)
    for n in range(n_segments):
        _outer_sums(
            t, segments[n, 1], segments[n, 2], one - one, n_angular, n_angle, radial, angle,
            sums[segments[n, 0] * n_angular * n_angle :],
        )  # fmt: skip


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _close_segment(t, total, opened, pair, zero, segments, n_segments):
    """End the triplets of a pair of species; returns the new number of triplets and segments."""
    if total == opened:
        return total, n_segments
    total = _pad(t, total, LANES, zero)
    segments[n_segments, 0] = pair
    segments[n_segments, 1] = opened
    segments[n_segments, 2] = total
    return total, n_segments + 1


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _angular_sums(
    nb, start, t, segments, constants, angular_shifts, angle_cosine, angle_sine, power,
    radial, angle, sums,
):  # fmt: skip
    """Angular sums of one atom; neighbours of species z are start[z] .. start[z + 1] - 1."""
    half = constants[1]
    zero = half - half
    n_species = len(start) - 1
    total, n_segments, pair = 0, 0, -1
    for y in range(n_species):
        for z in range(y, n_species):
            pair += 1
            opened = total
            for j in range(start[y], start[y + 1]):
                first = max(start[z], j + 1)
                while first < start[z + 1]:
                    if total == TRIPLETS:
                        total, n_segments = _close_segment(
                            t, total, opened, pair, zero, segments, n_segments
                        )
                        _sum_tile(
                            t, total, segments, n_segments, constants, angular_shifts,
                            angle_cosine, angle_sine, power, radial, angle, sums,
                        )  # fmt: skip
                        total, n_segments, opened = 0, 0, 0
                    count = min(start[z + 1] - first, TRIPLETS - total)
                    _fill(nb, j, first, count, half, t, total)
                    total += count
                    first += count
            total, n_segments = _close_segment(t, total, opened, pair, zero, segments, n_segments)
    if total > 0:
        _sum_tile(
            t, total, segments, n_segments, constants, angular_shifts, angle_cosine, angle_sine,
            power, radial, angle, sums,
        )  # fmt: skip


@njit(cache=True, parallel=True, fastmath=FLAGS, error_model="numpy")
def atomic_environment_forward(
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    chunks, place,
    constants, inverse_cutoff, sine, radial_shifts, angular_shifts, angle_cosine, angle_sine,
    power, mean, scale,
    features,
):  # fmt: skip
    """Features of every atom of every replica."""
    n_atoms, n_species = len(species), len(mean)
    n_replicas = len(positions) // n_atoms
    n_radial, n_angular, n_angle = len(radial_shifts), len(angular_shifts), len(angle_cosine)
    n_angular_even, n_angle_round = (n_angular + 1) // 2 * 2, (n_angle + 3) // 4 * 4
    radial = N_TRIPLET_SLOTS * TRIPLETS
    angle = radial + n_angular_even * TRIPLETS
    for chunk in prange(len(chunks) - 1):
        most = _most_pairs(chunks[chunk], chunks[chunk + 1], n_species, row_begin, row_end)
        s = np.empty(N_SLOTS * TILE, features.dtype)
        d = np.empty(3 * TILE, positions.dtype)
        nb = np.empty((12, most + 1), features.dtype)
        start = np.zeros(n_species + 1, np.int64)
        # zeros, for the functions that fill up a and z are read
        t = np.zeros(angle + 2 * n_angle_round * TRIPLETS, features.dtype)
        segments = np.empty((TRIPLETS // LANES + 1, 3), np.int64)
        sums = np.empty(features.shape[1], features.dtype)
        angular_sums = sums[n_species * n_radial :]
        one, half = constants[0], constants[1]
        zero = one - one
        for i in range(chunks[chunk], chunks[chunk + 1]):
            for replica in range(n_replicas):
                atom = replica * n_atoms + i
                base = offsets[structure[atom]]
                sums[:] = zero
                found = 0
                for z in range(n_species):
                    end = row_end[i * n_species + z]
                    for first in range(row_begin[i * n_species + z], end, TILE):
                        count = min(TILE, end - first)
                        padded = (count + LANES - 1) // LANES * LANES
                        near = _geometry(
                            positions, cells[structure[atom]], neighbor, shift, first, count,
                            padded, atom, base, inverse_cutoff, d, s,
                        )  # fmt: skip
                        _cutoff(s[V_RADIAL:], padded, constants, sine, s[F:])
                        _radial_sums(
                            s, padded, constants[4], half * half, radial_shifts,
                            sums[z * n_radial :],
                        )  # fmt: skip
                        found = _near_neighbours(s, min(near, count), half, nb, found)
                    start[z + 1] = found
                _cutoff(nb[NV], found, constants, sine, nb[NF])
                _angular_sums(
                    nb, start, t, segments, constants, angular_shifts, angle_cosine, angle_sine,
                    power, radial, angle, angular_sums,
                )  # fmt: skip
                out = features[place[atom]]
                shift_by, scale_by = mean[species[i]], scale[species[i]]
                for n in range(len(sums)):
                    out[n] = (sums[n] - shift_by[n]) * scale_by[n]


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _coefficient_sums(t, begin, end, eta, shifts, n_angle, coefficients, radial, angle):
    """VALUE, BY_MEAN, BY_COSINE of sum_az c_az radial_a angle_z for the triplets of a segment."""
    zero = eta - eta
    two_eta = eta + eta
    n_angular, count = len(shifts), end - begin
    s = t[begin:]
    for a in range(0, n_angular, 2):
        for z in range(0, n_angle, 4):
            at, left = a * n_angle + z, n_angle - z
            g0 = coefficients[at]
            g1 = coefficients[at + 1] if left > 1 else zero
            g2 = coefficients[at + 2] if left > 2 else zero
            g3 = coefficients[at + 3] if left > 3 else zero
            h0, h1, h2, h3 = zero, zero, zero, zero
            if a + 1 < n_angular:
                at += n_angle
                h0 = coefficients[at]
                h1 = coefficients[at + 1] if left > 1 else zero
                h2 = coefficients[at + 2] if left > 2 else zero
                h3 = coefficients[at + 3] if left > 3 else zero
            q = t[angle + 2 * z * TRIPLETS + begin :]
            first = z == 0
            for k in range(count):
                q0, q1 = q[k], q[2 * TRIPLETS + k]
                q2, q3 = q[4 * TRIPLETS + k], q[6 * TRIPLETS + k]
                d0, d1 = q[TRIPLETS + k], q[3 * TRIPLETS + k]
                d2, d3 = q[5 * TRIPLETS + k], q[7 * TRIPLETS + k]
                u = g0 * q0 + g1 * q1 + g2 * q2 + g3 * q3
                v = h0 * q0 + h1 * q1 + h2 * q2 + h3 * q3
                du = g0 * d0 + g1 * d1 + g2 * d2 + g3 * d3
                dv = h0 * d0 + h1 * d1 + h2 * d2 + h3 * d3
                s[H0 + k] = u + (zero if first else s[H0 + k])
                s[H1 + k] = v + (zero if first else s[H1 + k])
                s[DH0 + k] = du + (zero if first else s[DH0 + k])
                s[DH1 + k] = dv + (zero if first else s[DH1 + k])
        shift0, shift1 = shifts[a], shifts[min(a + 1, n_angular - 1)]
        p = t[radial + a * TRIPLETS + begin :]
        first = a == 0
        for k in range(count):
            e0, e1 = p[k], p[TRIPLETS + k]
            mean = s[MEAN + k]
            u, v = e0 * s[H0 + k], e1 * s[H1 + k]
            value = u + v
            by_mean = two_eta * ((shift0 - mean) * u + (shift1 - mean) * v)
            by_cosine = e0 * s[DH0 + k] + e1 * s[DH1 + k]
            s[VALUE + k] = value + (zero if first else s[VALUE + k])
            s[BY_MEAN + k] = by_mean + (zero if first else s[BY_MEAN + k])
            s[BY_COSINE + k] = by_cosine + (zero if first else s[BY_COSINE + k])


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _spread_run(t, at, count, nb, j, first, half):
    """Add the slopes of the triplets of j with count others to those of the neighbours."""
    f, df, x, y, z = nb[NF, j], nb[NDF, j], nb[NX, j], nb[NY, j], nb[NZ, j]
    f, df = f + f, df + df
    zero = half - half
    r, gx, gy, gz, gc = zero, zero, zero, zero, zero
    for k in range(count):
        p, q = at + k, first + k
        w, value = t[WEIGHT + p], t[VALUE + p]
        e = half * w * t[BY_MEAN + p]
        c = w * t[BY_COSINE + p]
        cc = c * t[COSINE + p]
        r += value * nb[NF, q] * df + e
        gx += c * nb[NX, q]
        gy += c * nb[NY, q]
        gz += c * nb[NZ, q]
        gc += cc
        nb[DR, q] += value * nb[NDF, q] * f + e
        nb[DX, q] += c * x
        nb[DY, q] += c * y
        nb[DZ, q] += c * z
        nb[DC, q] += cc
    nb[DR, j] += r
    nb[DX, j] += gx
    nb[DY, j] += gy
    nb[DZ, j] += gz
    nb[DC, j] += gc


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _spread_tile(
    t, total, segments, n_segments, runs, n_runs, constants, angular_shifts, angle_cosine,
    angle_sine, power, radial, angle, coefficients, nb,
):  # fmt: skip
    """Pull the coefficients of the angular sums back to the neighbours of a tile of triplets."""
    one, half, eta, zeta, squeeze = (
        constants[0], constants[1], constants[5], constants[6], constants[7],
    )  # fmt: skip
    n_angular, n_angle = len(angular_shifts), len(angle_cosine)
    total = _pad(t, total, 4 * LANES, one - one)
    _sines(t, total, one, squeeze)
    _distance_functions(t, total, eta, angular_shifts, radial)
    for z in range(n_angle):
        along, across = half * squeeze * angle_cosine[z], half * angle_sine[z]
        out = t[angle + 2 * z * TRIPLETS :]
        slope = out[TRIPLETS:]
        for k in range(total):
            t[SPARE + k] = half + along * t[COSINE + k] + across * t[SINE + k]
        if power == 1:
            for k in range(total):
                slope[k] = one
        else:
            _powers(t[SPARE:], slope, t[SQUARE:], total, max(power - 1, 0), zeta - one, one)
        across = across * squeeze * squeeze
        for k in range(total):
            p = slope[k]
            out[k] = p * t[SPARE + k]
            slope[k] = zeta * p * (along - across * t[COSINE + k] / t[SINE + k])
    for n in range(n_segments):
        _coefficient_sums(
            t, segments[n, 1], segments[n, 2], eta, angular_shifts, n_angle,
            coefficients[segments[n, 0] * n_angular * n_angle :], radial, angle,
        )  # fmt: skip
    for n in range(n_runs):
        _spread_run(t, runs[n, 0], runs[n, 1], nb, runs[n, 2], runs[n, 3], half)


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _angular_slopes(
    coefficients, nb, start, t, segments, runs, constants, angular_shifts, angle_cosine,
    angle_sine, power, radial, angle,
):  # fmt: skip
    """Slopes of the angular sums of one atom, times coefficients, added to its neighbours'."""
    half = constants[1]
    zero = half - half
    n_species = len(start) - 1
    total, n_segments, n_runs, pair = 0, 0, 0, -1
    for y in range(n_species):
        for z in range(y, n_species):
            pair += 1
            opened = total
            for j in range(start[y], start[y + 1]):
                first = max(start[z], j + 1)
                while first < start[z + 1]:
                    if total == TRIPLETS:
                        total, n_segments = _close_segment(
                            t, total, opened, pair, zero, segments, n_segments
                        )
                        _spread_tile(
                            t, total, segments, n_segments, runs, n_runs, constants,
                            angular_shifts, angle_cosine, angle_sine, power, radial, angle,
                            coefficients, nb,
                        )  # fmt: skip
                        total, n_segments, n_runs, opened = 0, 0, 0, 0
                    count = min(start[z + 1] - first, TRIPLETS - total)
                    _fill(nb, j, first, count, half, t, total)
                    runs[n_runs, 0] = total
                    runs[n_runs, 1] = count
                    runs[n_runs, 2] = j
                    runs[n_runs, 3] = first
                    n_runs += 1
                    total += count
                    first += count
            total, n_segments = _close_segment(t, total, opened, pair, zero, segments, n_segments)
    if total > 0:
        _spread_tile(
            t, total, segments, n_segments, runs, n_runs, constants, angular_shifts,
            angle_cosine, angle_sine, power, radial, angle, coefficients, nb,
        )  # fmt: skip


@njit(cache=True, parallel=True, fastmath=FLAGS, error_model="numpy")
def atomic_environment_backward(
    d_features,
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    chunks, place,
    constants, inverse_cutoff, sine, cosine, radial_shifts, angular_shifts, angle_cosine,
    angle_sine, power, scale,
    d_positions, d_strain,
):  # fmt: skip
    """Add dE/dr to d_positions (n_chunks, n_atoms_in_all, 3), dE/ds to d_strain (.., 6) per atom.

    ``d_strain`` is in Voigt order xx yy zz yz xz xy; every chunk of atoms adds into its own
    slice of ``d_positions``.
    """
    n_atoms, n_species = len(species), len(scale)
    n_replicas = len(positions) // n_atoms
    n_radial, n_angular, n_angle = len(radial_shifts), len(angular_shifts), len(angle_cosine)
    n_angle_round = (n_angle + 3) // 4 * 4
    radial = N_TRIPLET_SLOTS * TRIPLETS
    angle = radial + (n_angular + 1) // 2 * 2 * TRIPLETS
    for chunk in prange(len(chunks) - 1):
        most = _most_pairs(chunks[chunk], chunks[chunk + 1], n_species, row_begin, row_end)
        s = np.empty(N_SLOTS * TILE, d_features.dtype)
        d = np.empty(3 * TILE, positions.dtype)
        nb = np.empty((12, most + 1), d_features.dtype)
        separation = np.empty((3, most + 1), positions.dtype)
        atom_of = np.empty(most + 1, np.int64)
        start = np.zeros(n_species + 1, np.int64)
        t = np.zeros(angle + 2 * n_angle_round * TRIPLETS, d_features.dtype)
        segments = np.empty((TRIPLETS // LANES + 1, 3), np.int64)
        runs = np.empty((TRIPLETS, 4), np.int64)
        d_out = np.empty(d_features.shape[1], d_features.dtype)
        coefficients = d_out[n_species * n_radial :]
        one, half, to_angular = constants[0], constants[1], constants[3]
        zero = one - one
        nothing = 0.0 * positions[0, 0]
        for i in range(chunks[chunk], chunks[chunk + 1]):
            for replica in range(n_replicas):
                atom = replica * n_atoms + i
                base = offsets[structure[atom]]
                for n in range(len(d_out)):
                    d_out[n] = d_features[place[atom], n] * scale[species[i], n]
                fx, fy, fz = nothing, nothing, nothing
                sxx, syy, szz, syz, sxz, sxy = fx, fx, fx, fx, fx, fx
                found = 0
                for z in range(n_species):
                    end = row_end[i * n_species + z]
                    for first in range(row_begin[i * n_species + z], end, TILE):
                        count = min(TILE, end - first)
                        padded = (count + LANES - 1) // LANES * LANES
                        near = _geometry(
                            positions, cells[structure[atom]], neighbor, shift, first, count,
                            padded, atom, base, inverse_cutoff, d, s,
                        )  # fmt: skip
                        _cutoff(s[V_RADIAL:], padded, constants, sine, s[F:])
                        _cutoff_slope(s[V_RADIAL:], padded, constants, cosine, s[DF:])
                        _radial_slopes(
                            s, padded, constants, half * half, radial_shifts,
                            d_out[z * n_radial :],
                        )  # fmt: skip
                        for k in range(padded):
                            g = s[RADIAL_SLOPE + k]
                            gx, gy, gz = g * s[X + k], g * s[Y + k], g * s[Z + k]
                            fx += gx
                            fy += gy
                            fz += gz
                            sxx += d[k] * gx
                            syy += d[TILE + k] * gy
                            szz += d[2 * TILE + k] * gz
                            syz += d[TILE + k] * gz
                            sxz += d[k] * gz
                            sxy += d[k] * gy
                        for k in range(count):
                            j = base + neighbor[first + k]
                            g = s[RADIAL_SLOPE + k]
                            d_positions[chunk, j, 0] += g * s[X + k]
                            d_positions[chunk, j, 1] += g * s[Y + k]
                            d_positions[chunk, j, 2] += g * s[Z + k]
                        at = found
                        for k in range(min(near, count)):
                            # the neighbours that _near_neighbours takes
                            if not s[V_ANGULAR + k].real >= half.real:
                                separation[0, at] = d[k]
                                separation[1, at] = d[TILE + k]
                                separation[2, at] = d[2 * TILE + k]
                                atom_of[at] = base + neighbor[first + k]
                                at += 1
                        found = _near_neighbours(s, min(near, count), half, nb, found)
                    start[z + 1] = found
                _cutoff(nb[NV], found, constants, sine, nb[NF])
                _cutoff_slope(nb[NV], found, constants, cosine, nb[NDF])
                for k in range(found):
                    nb[NDF, k] = to_angular * nb[NDF, k]
                    nb[DR, k] = zero
                    nb[DX, k] = zero
                    nb[DY, k] = zero
                    nb[DZ, k] = zero
                    nb[DC, k] = zero
                _angular_slopes(
                    coefficients, nb, start, t, segments, runs, constants, angular_shifts,
                    angle_cosine, angle_sine, power, radial, angle,
                )  # fmt: skip
                for k in range(found):
                    x, y, z = nb[NX, k], nb[NY, k], nb[NZ, k]
                    inverse = one / nb[NR, k]
                    g = nb[DR, k] - inverse * nb[DC, k]
                    gx = g * x + inverse * nb[DX, k]
                    gy = g * y + inverse * nb[DY, k]
                    gz = g * z + inverse * nb[DZ, k]
                    fx += gx
                    fy += gy
                    fz += gz
                    sxx += separation[0, k] * gx
                    syy += separation[1, k] * gy
                    szz += separation[2, k] * gz
                    syz += separation[1, k] * gz
                    sxz += separation[0, k] * gz
                    sxy += separation[0, k] * gy
                    j = atom_of[k]
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

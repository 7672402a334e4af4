"""The density of an atom's neighbours and its adjoint; formulas and arguments as in the CPU twin.

A block works on one atom. Forward, every thread writes the radial functions and harmonics of one
neighbour of a tile to shared memory. The tile is then a pair of matrices, and a thread sums
`RADIAL` x `ANGULAR` numbers of their product in registers: 7 loads serve 12 multiplications. A
neighbour counts only in channels that give its species a weight: with a channel for every element a
thread runs over the neighbours of one, and the work does not grow with the number of elements.

Backward, d_density is summed over channels into coefficients D[z, q, n] in shared memory, for as
many species at once as find room. A thread then evaluates for its neighbour ``sum_n D R_n`` and
``sum_n D dR_n/dx`` of every q, with `SERIES` radial functions and their slopes in registers, along
with the harmonics and their gradient. Threads whose neighbours are of one species read the same D.

A neighbour takes 2 n_radial n_components flops forward, for every channel that it counts in, and
twice that backward, whatever the channels: 648 and 1296 by default, beside some 150 and 500 for the
basis. Read are 34 bytes for every pair, most of them positions in the cache, and written forward,
read backward, 1.3 kB of density by default in float32 for every atom and channel.
"""

import math

import numpy as np

from .pairs import separation
from .runtime import SHARED_BYTES, cuda, launch

# sums and triples of these numbers are written out in the kernels, to stay in registers
RADIAL, ANGULAR = 3, 4
"""Radial functions and components of the harmonics of which a thread sums the products."""
N_SUMS = RADIAL * ANGULAR

SERIES = 9
"""Radial functions that a thread holds at once on the way back, in triples."""


@cuda.jit(device=True)
def _parts(n, size):
    """How many parts of so many numbers hold n of them."""
    return (n + size - 1) // size


@cuda.jit(device=True)
def _fade(x, constants):
    """The cutoff f(x) over 1 + b x^2, and its derivative with respect to x, below x = 1."""
    one, b = constants[0], constants[3]
    two = one + one
    four = two + two
    ten = four + four + two
    t = one - x
    cube = t * t * t
    weight = one / (one + b * x * x)
    f = cube * t * (one + x * (four + x * (ten + (ten + ten) * x))) * weight
    slope = -(ten * (ten + four) * x * x * x * cube + f * b * (x + x)) * weight
    return f, slope


@cuda.jit
def _forward_kernel(
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    constants, inverse_cutoff, recursion, weights, n_radial,
    density,
):  # fmt: skip
    buffer = cuda.shared.array(0, density.dtype)
    sums = cuda.local.array(N_SUMS, density.dtype)
    atom, t, n_threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    n_channels, n_species = weights.shape
    i, s = atom % species.size, structure[atom]
    degree, n_components, n_columns = recursion.shape[0] - 1, density.shape[1], density.shape[2]
    one, half = constants[0], constants[1]
    zero = one - one
    # indices of type place are not checked for being negative, which takes longer than the sums
    kind, place = density.dtype.type, np.uint64
    # a thread takes functions h, h + n_left, .. and components g, g + n_right, ..
    n_left, n_right = _parts(n_radial, RADIAL), _parts(n_components, ANGULAR)
    # a row for every function and component, odd so that they begin in different banks
    length = n_threads + 1
    left, right, step = place(n_left * length), place(n_right * length), place(1)
    harmonics = RADIAL * n_left * length
    begin, end = row_begin[i * n_species], row_end[i * n_species + n_species - 1]
    if begin == end:
        for k in range(t, n_components * n_columns, n_threads):
            density[atom, k // n_columns, k % n_columns] = zero
    for first in range(begin, end, n_threads):
        pair = first + t
        if pair < end:
            dx, dy, dz = separation(positions, cells, offsets, neighbor, shift, atom, s, pair)
            square = dx * dx + dy * dy + dz * dz
            inverse = 1.0 / math.sqrt(square)
            v = kind(square * inverse * inverse_cutoff[0] - 0.5)
            x, y, z = kind(dx * inverse), kind(dy * inverse), kind(dz * inverse)
            f, _ = _fade(half + v, constants)
            if v >= half:  # so that NaN is not taken for far away
                f = zero
            c = v + v
            u0, u1 = f, c * f
            for n in range(n_radial):
                buffer[place(n * length + t)] = u0
                u0, u1 = u1, (c + c) * u1 - u0
            a, b = one, zero
            for m in range(degree + 1):
                p0, p1 = one, z
                for l in range(m, degree + 1):
                    at = harmonics + (l * l + max(2 * m - 1, 0)) * length + t
                    buffer[place(at)] = a * p0
                    if m > 0:
                        buffer[place(at + length)] = b * p0
                    p0, p1 = p1, z * p1 - recursion[m, l + 1] * p0
                a, b = a * x - b * y, a * y + b * x
        cuda.syncthreads()
        for k in range(t, n_channels * n_left * n_right, n_threads):
            h, rest = k % n_left, k // n_left
            g, channel = rest % n_right, rest // n_right
            for u in range(N_SUMS):
                sums[u] = zero
            for near in range(n_species):
                weight = weights[channel, near]
                if weight == zero:
                    continue
                low = max(row_begin[i * n_species + near], first) - first
                high = min(row_end[i * n_species + near], first + n_threads) - first
                r0, y0 = place(h * length + low), place(harmonics + g * length + low)
                r1, y1 = r0 + left, y0 + right
                r2, y2 = r1 + left, y1 + right
                y3 = y2 + right
                for _ in range(low, high):
                    a, b, c = weight * buffer[r0], weight * buffer[r1], weight * buffer[r2]
                    d = buffer[y0]
                    sums[0] += a * d
                    sums[1] += b * d
                    sums[2] += c * d
                    d = buffer[y1]
                    sums[3] += a * d
                    sums[4] += b * d
                    sums[5] += c * d
                    d = buffer[y2]
                    sums[6] += a * d
                    sums[7] += b * d
                    sums[8] += c * d
                    d = buffer[y3]
                    sums[9] += a * d
                    sums[10] += b * d
                    sums[11] += c * d
                    r0, r1, r2 = r0 + step, r1 + step, r2 + step
                    y0, y1, y2, y3 = y0 + step, y1 + step, y2 + step, y3 + step
            for u in range(N_SUMS):
                n, q = h + n_left * (u % RADIAL), g + n_right * (u // RADIAL)
                if n < n_radial and q < n_components:
                    column = channel * n_radial + n
                    if first == begin:
                        density[atom, q, column] = sums[u]
                    else:
                        density[atom, q, column] += sums[u]
        cuda.syncthreads()


def density_forward(
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    pair_offset,
    constants, inverse_cutoff, recursion, weights, n_radial,
    density,
):  # fmt: skip
    """Densities of every atom of every replica."""
    n_rows = RADIAL * -(-n_radial // RADIAL) + ANGULAR * -(-density.shape[1] // ANGULAR)
    size = n_rows * density.dtype.itemsize
    launch(_forward_kernel, structure.size, size, size)(
        positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
        constants, inverse_cutoff, recursion, weights, n_radial, density,
    )  # fmt: skip


@cuda.jit(device=True)
def _two_sums(buffer, first, n_triples, values, slopes):
    """Sums of coefficients from ``first`` on times values, and times slopes."""
    one = np.uint64(1)
    at = np.uint64(first)
    a, b, c = buffer[at], buffer[at + one], buffer[at + one + one]
    value = a * values[0] + b * values[1] + c * values[2]
    slope = a * slopes[0] + b * slopes[1] + c * slopes[2]
    if n_triples > 1:
        at += one + one + one
        a, b, c = buffer[at], buffer[at + one], buffer[at + one + one]
        value += a * values[3] + b * values[4] + c * values[5]
        slope += a * slopes[3] + b * slopes[4] + c * slopes[5]
    if n_triples > 2:
        at += one + one + one
        a, b, c = buffer[at], buffer[at + one], buffer[at + one + one]
        value += a * values[6] + b * values[7] + c * values[8]
        slope += a * slopes[6] + b * slopes[7] + c * slopes[8]
    return value, slope


@cuda.jit
def _backward_kernel(
    d_density,
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    pair_offset,
    constants, inverse_cutoff, recursion, weights, n_radial, n_at_once,
    d_separations,
):  # fmt: skip
    buffer = cuda.shared.array(0, d_density.dtype)
    values = cuda.local.array(SERIES, d_density.dtype)
    slopes = cuda.local.array(SERIES, d_density.dtype)
    atom, t, n_threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    n_channels, n_species = weights.shape
    i, s = atom % species.size, structure[atom]
    degree, n_components = recursion.shape[0] - 1, d_density.shape[1]
    one, half, to_radial = constants[0], constants[1], constants[2]
    zero = one - one
    kind = d_density.dtype.type
    padded = 3 * _parts(n_radial, 3)
    n_series = n_components * padded
    ahead, beside = n_threads // padded, n_threads % padded
    for start in range(0, n_species, n_at_once):
        stop = min(start + n_at_once, n_species)
        cuda.syncthreads()
        for z in range(start, stop):
            q, n = t // padded, t % padded
            for k in range(t, n_series, n_threads):
                total = zero
                if n < n_radial:
                    for channel in range(n_channels):
                        weight = weights[channel, z]
                        if weight != zero:
                            total += weight * d_density[atom, q, channel * n_radial + n]
                buffer[(z - start) * n_series + k] = total
                # division takes long
                q, n = q + ahead, n + beside
                if n >= padded:
                    q, n = q + 1, n - padded
        cuda.syncthreads()
        z = start
        for pair in range(
            row_begin[i * n_species + start] + t, row_end[i * n_species + stop - 1], n_threads
        ):
            while pair >= row_end[i * n_species + z]:
                z += 1
            dx, dy, dz = separation(positions, cells, offsets, neighbor, shift, atom, s, pair)
            square = dx * dx + dy * dy + dz * dz
            inverse = 1.0 / math.sqrt(square)
            v = kind(square * inverse * inverse_cutoff[0] - 0.5)
            x, y, h = kind(dx * inverse), kind(dy * inverse), kind(dz * inverse)
            f, df = _fade(half + v, constants)
            if v >= half:  # so that NaN is not taken for far away
                f, df = zero, zero
            f2 = f + f
            c = v + v
            c2 = c + c
            t0, t1, d0, d1 = one, c, zero, one
            g, gx, gy, gz = zero, zero, zero, zero
            for first in range(0, padded, SERIES):
                n_triples = (padded - first) // 3
                for u in range(SERIES):
                    values[u] = t0 * f
                    slopes[u] = t0 * df + d0 * f2
                    t2, d2 = c2 * t1 - t0, t1 + t1 + c2 * d1 - d0
                    t0, t1, d0, d1 = t1, t2, d1, d2
                # harmonics, their gradient and the series times both
                a, b, above_a, above_b, power = one, zero, zero, zero, zero
                for m in range(degree + 1):
                    p0, p1, e0, e1 = one, h, zero, one
                    re, im, d_re, d_im, s_re, s_im = zero, zero, zero, zero, zero, zero
                    for l in range(m, degree + 1):
                        q = l * l + max(2 * m - 1, 0)
                        at = (z - start) * n_series + q * padded + first
                        value, slope = _two_sums(buffer, at, n_triples, values, slopes)
                        re += value * p0
                        d_re += value * e0
                        s_re += slope * p0
                        if m > 0:
                            value, slope = _two_sums(
                                buffer, at + padded, n_triples, values, slopes
                            )
                            im += value * p0
                            d_im += value * e0
                            s_im += slope * p0
                        # of the monic recursion, and of its derivative
                        back = recursion[m, l + 1]
                        p2, e2 = h * p1 - back * p0, p1 + h * e1 - back * e0
                        p0, p1, e0, e1 = p1, p2, e1, e2
                    g += a * s_re + b * s_im
                    gz += a * d_re + b * d_im
                    gx += power * (above_a * re + above_b * im)
                    gy += power * (above_a * im - above_b * re)
                    above_a, above_b = a, b
                    a, b = a * x - b * y, a * y + b * x
                    power += one
            across = kind(inverse)
            g = to_radial * g - across * (x * gx + y * gy + h * gz)
            out = pair + pair_offset[s]
            d_separations[out, 0] = g * x + across * gx
            d_separations[out, 1] = g * y + across * gy
            d_separations[out, 2] = g * h + across * gz


def density_backward(
    d_density,
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    pair_offset,
    constants, inverse_cutoff, recursion, weights, n_radial,
    d_separations,
):  # fmt: skip
    """dE/dd of every pair (kernels/cuda/pairs.py)."""
    n_species = weights.shape[1]
    size = d_density.shape[1] * 3 * -(-n_radial // 3) * d_density.dtype.itemsize
    n_at_once = max(min(SHARED_BYTES // size, n_species), 1)
    launch(_backward_kernel, structure.size, 0, n_at_once * size)(
        d_density, positions, cells, structure, species, offsets, row_begin, row_end, neighbor,
        shift, pair_offset, constants, inverse_cutoff, recursion, weights, n_radial, n_at_once,
        d_separations,
    )  # fmt: skip

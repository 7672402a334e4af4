"""Chebyshev descriptors; formulas and arguments as in the CPU twin.

A block works on one atom, a thread on one neighbour of a tile of so many. On the way forward every
thread writes the basis functions of its neighbour into a row of shared memory, and then every
thread adds up some columns: no two threads add to the same number, and the order is that of the
pair list. On the way back the threads first combine d_features and densities into the coefficients
of two series for each species, and then every thread evaluates them for its neighbours.
"""

import math

import numpy as np

from .pairs import separation
from .runtime import NEXT, NONE, TWO, cuda, launch


@cuda.jit(device=True)
def _first(m, degree):
    """Place of the first order l = m in a density."""
    return m * (2 * degree + 3 - m)


@cuda.jit(device=True)
def _polynomial(w, coefficients):
    k = np.uintp(coefficients.size - 1)
    p = coefficients[k]
    while k > NONE:
        k -= NEXT
        p = p * w + coefficients[k]
    return p


@cuda.jit(device=True)
def _cutoff(v, constants, sine):
    """Half-cosine cutoff f = (1 - sin(pi v)) / 2 for v = r/R - 1/2, zero beyond v = 1/2."""
    half = constants[1]
    if v >= half:
        return half - half
    return half - _polynomial(v * v, sine) * v


@cuda.jit(device=True)
def _cutoff_slope(v, constants, cosine):
    """df/dv = -pi/2 cos(pi v), zero beyond v = 1/2."""
    half = constants[1]
    if v >= half:
        return half - half
    return _polynomial(v * v, cosine)


@cuda.jit
def _forward_kernel(
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    place,
    constants, inverse_cutoff, sine, recursion, norm, legendre, spins, mean, scale, radial_order,
    features, densities,
):  # fmt: skip
    buffer = cuda.shared.array(0, features.dtype)
    atom, t, n_threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    n_atoms, n_species = species.size, spins.shape[1]
    i, s = atom % n_atoms, structure[atom]
    degree, n_radial, n_angular = norm.shape[0] - 1, radial_order + 1, legendre.shape[1]
    n_block = n_radial + n_angular
    n_blocks = features.shape[1] // n_block
    n_density = (degree + 1) * (degree + 2)
    # of a neighbour and of a species: radial functions, harmonics, square of the cutoff
    n_basis = n_radial + n_density + 1
    width = n_basis + (n_basis + 1) % 2  # odd: rows begin in different banks
    gap, radial_end, above_end = np.uintp(width), np.uintp(n_radial), np.uintp(degree + 2)
    sums = buffer[n_threads * width :]
    row = buffer[t * width : (t + 1) * width]
    one = constants[0]
    zero = one - one
    kind = features.dtype.type
    for k in range(t, n_species * n_basis, n_threads):
        sums[k] = zero
    begin, end = row_begin[i * n_species], row_end[i * n_species + n_species - 1]
    for first in range(begin, end, n_threads):
        pair = first + t
        if pair < end:
            dx, dy, dz = separation(positions, cells, offsets, neighbor, shift, atom, s, pair)
            square = dx * dx + dy * dy + dz * dz
            inverse = 1.0 / math.sqrt(square)
            r = square * inverse
            x, y, z = kind(dx * inverse), kind(dy * inverse), kind(dz * inverse)
            v = kind(r * inverse_cutoff[0] - 0.5)
            f = _cutoff(v, constants, sine)
            c = v + v
            u0, u1 = f, c * f
            row[0] = u0
            n = NEXT
            while n < radial_end:
                row[n] = u1
                u0, u1 = u1, (c + c) * u1 - u0
                n += NEXT
            f = _cutoff(kind(r * inverse_cutoff[1] - 0.5), constants, sine)
            row[n_basis - 1] = f * f
            a, b = f, zero
            q = radial_end
            for m in range(degree + 1):
                p0, p1 = one, z
                factors, above = recursion[m], np.uintp(m + 1)
                while above < above_end:
                    row[q] = a * p0
                    row[q + NEXT] = b * p0
                    q += TWO
                    p0, p1 = p1, z * p1 - factors[above] * p0
                    above += NEXT
                a, b = a * x - b * y, a * y + b * x
        cuda.syncthreads()
        for k in range(t, n_species * n_basis, n_threads):
            z, column = k // n_basis, k % n_basis
            low = max(row_begin[i * n_species + z], first) - first
            high = min(row_end[i * n_species + z], first + n_threads) - first
            # a species may end before the tile begins
            at, last = np.uintp(low * width + column), np.uintp(max(low, high) * width + column)
            total = sums[k]
            while at < last:
                total += buffer[at]
                at += gap
            sums[k] = total
        cuda.syncthreads()
    cuda.syncthreads()
    if densities.shape[0] > 0:
        for k in range(t, n_species * n_density, n_threads):
            z, q = k // n_density, k % n_density
            densities[atom, z, q] = sums[z * n_basis + n_radial + q]
    # the rows of neighbours are free: powers of every l, plain and with spins
    centre = species[i]
    for k in range(t, n_blocks * (degree + 1), n_threads):
        spun, l = k // (degree + 1), k % (degree + 1)
        total = zero
        for z in range(n_species):
            w = spins[centre, z] * spins[centre, z] if spun == 1 else one
            total -= w * sums[z * n_basis + n_basis - 1]
        for m in range(l + 1):
            q = n_radial + _first(m, degree) + 2 * (l - m)
            re, im = zero, zero
            for z in range(n_species):
                w = spins[centre, z] if spun == 1 else one
                re += w * sums[z * n_basis + q]
                im += w * sums[z * n_basis + q + 1]
            total += norm[m, l] * (re * re + im * im)
        buffer[k] = total
    cuda.syncthreads()
    out = place[atom]
    for k in range(t, n_blocks * n_block, n_threads):
        spun, n = k // n_block, k % n_block
        value = zero
        if n < n_radial:
            for z in range(n_species):
                w = spins[centre, z] if spun == 1 else one
                value += w * sums[z * n_basis + n]
        else:
            n -= n_radial
            for l in range(n % 2, degree + 1, 2):
                value += legendre[l, n] * buffer[spun * (degree + 1) + l]
        features[out, k] = (value - mean[centre, k]) * scale[centre, k]


def chebyshev_forward(
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    pair_offset, place,
    constants, inverse_cutoff, sine, recursion, norm, legendre, spins, mean, scale, radial_order,
    features, densities,
):  # fmt: skip
    """Features of every atom of every replica, and the densities that backward needs."""
    degree, n_species = norm.shape[0] - 1, spins.shape[1]
    n_basis = radial_order + 1 + (degree + 1) * (degree + 2) + 1
    size = features.dtype.itemsize
    width, rest = n_basis + (n_basis + 1) % 2, n_species * n_basis
    launch(_forward_kernel, structure.size, width * size, rest * size)(
        positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
        place,
        constants, inverse_cutoff, sine, recursion, norm, legendre, spins, mean, scale,
        radial_order, features, densities,
    )  # fmt: skip


@cuda.jit
def _backward_kernel(
    d_features, densities,
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    pair_offset, place,
    constants, inverse_cutoff, sine, cosine, recursion, norm, legendre, spins, scale, radial_order,
    d_separations,
):  # fmt: skip
    buffer = cuda.shared.array(0, d_features.dtype)
    atom, t, n_threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    n_atoms, n_species = species.size, spins.shape[1]
    i, s = atom % n_atoms, structure[atom]
    centre, row = species[i], place[atom]
    degree, n_radial, n_angular = norm.shape[0] - 1, radial_order + 1, legendre.shape[1]
    n_block = n_radial + n_angular
    n_blocks = d_features.shape[1] // n_block
    n_density = (degree + 1) * (degree + 2)
    one, half, to_radial, to_angular = constants[0], constants[1], constants[2], constants[3]
    zero = one - one
    kind = d_features.dtype.type
    # of every species: Chebyshev series, coefficients of the density, self term
    n_series = n_radial + n_density + 1
    radial_end, above_end = np.uintp(n_radial), np.uintp(degree + 2)
    d_power = buffer[n_species * n_series :]
    for k in range(t, n_blocks * (degree + 1), n_threads):
        spun, l = k // (degree + 1), k % (degree + 1)
        total = zero
        for n in range(l % 2, n_angular, 2):
            column = spun * n_block + n_radial + n
            total += (
                (legendre[l, n] + legendre[l, n]) * d_features[row, column] * scale[centre, column]
            )
        d_power[k] = total
    cuda.syncthreads()
    for k in range(t, n_species * n_series, n_threads):
        z, q = k // n_series, k % n_series
        spin = spins[centre, z] if n_blocks == 2 else zero
        if q < n_radial:
            value = d_features[row, q] * scale[centre, q]
            if n_blocks == 2:
                column = n_block + q
                value += spin * d_features[row, column] * scale[centre, column]
        elif q == n_series - 1:
            value = zero
            for l in range(degree + 1):
                value += d_power[l]
                if n_blocks == 2:
                    value += spin * spin * d_power[degree + 1 + l]
        else:
            q -= n_radial
            m = 0
            while m < degree and q >= _first(m + 1, degree):
                m += 1
            l = m + (q - _first(m, degree)) // 2
            plain, spun = zero, zero
            for y in range(n_species):
                plain += densities[atom, y, q]
                spun += spins[centre, y] * densities[atom, y, q]
            value = d_power[l] * plain
            if n_blocks == 2:
                value += spin * d_power[degree + 1 + l] * spun
            value *= norm[m, l]
        buffer[k] = value
    cuda.syncthreads()
    begin, end = row_begin[i * n_species], row_end[i * n_species + n_species - 1]
    z = 0
    for pair in range(begin + t, end, n_threads):
        while pair >= row_end[i * n_species + z]:
            z += 1
        series = buffer[z * n_series : (z + 1) * n_series]
        dx, dy, dz = separation(positions, cells, offsets, neighbor, shift, atom, s, pair)
        square = dx * dx + dy * dy + dz * dz
        inverse = 1.0 / math.sqrt(square)
        r = square * inverse
        x, y, h = kind(dx * inverse), kind(dy * inverse), kind(dz * inverse)
        # radial part: e = f(r) P(c) with dT_n/dc = n U_(n - 1)
        v = kind(r * inverse_cutoff[0] - 0.5)
        f, df = _cutoff(v, constants, sine), _cutoff_slope(v, constants, cosine)
        c = v + v
        value, slope = series[0], zero
        t0, t1, u0, u1, order = one, c, zero, one, one
        n = NEXT
        while n < radial_end:
            value += series[n] * t1
            slope += series[n] * order * u1
            t0, t1 = t1, (c + c) * t1 - t0
            u0, u1 = u1, (c + c) * u1 - u0
            order += one
            n += NEXT
        g = to_radial * (df * value + (f + f) * slope)
        # angular part: e = f(r) V(x, y, h) - kappa f^2 / 2 on the unit sphere
        v = kind(r * inverse_cutoff[1] - 0.5)
        gx, gy, gz = zero, zero, zero
        if v < half:
            f, df = _cutoff(v, constants, sine), _cutoff_slope(v, constants, cosine)
            value = zero
            a, b, above_a, above_b, power = one, zero, zero, zero, zero
            q = radial_end
            for m in range(degree + 1):
                p0, p1, d0, d1 = one, h, zero, one
                re, im, d_re, d_im = zero, zero, zero, zero
                factors, above = recursion[m], np.uintp(m + 1)
                while above < above_end:
                    c_re, c_im = series[q], series[q + NEXT]
                    re += c_re * p0
                    im += c_im * p0
                    d_re += c_re * d0
                    d_im += c_im * d0
                    q += TWO
                    # of the monic recursion, and of its derivative
                    back = factors[above]
                    p2, d2 = h * p1 - back * p0, p1 + h * d1 - back * d0
                    p0, p1, d0, d1 = p1, p2, d1, d2
                    above += NEXT
                value += a * re + b * im
                gz += a * d_re + b * d_im
                gx += power * (above_a * re + above_b * im)
                gy += power * (above_a * im - above_b * re)
                above_a, above_b = a, b
                a, b = a * x - b * y, a * y + b * x
                power += one
            ratio = f * kind(inverse)
            g += to_angular * df * (value - series[n_series - 1] * f)
            g -= ratio * (x * gx + y * gy + h * gz)
            gx, gy, gz = ratio * gx, ratio * gy, ratio * gz
        out = pair + pair_offset[s]
        d_separations[out, 0] = g * x + gx
        d_separations[out, 1] = g * y + gy
        d_separations[out, 2] = g * h + gz


def chebyshev_backward(
    d_features, densities,
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    pair_offset, place,
    constants, inverse_cutoff, sine, cosine, recursion, norm, legendre, spins, scale, radial_order,
    d_separations,
):  # fmt: skip
    """dE/dd of every pair (kernels/cuda/pairs.py)."""
    degree, n_species = norm.shape[0] - 1, spins.shape[1]
    n_series = radial_order + 1 + (degree + 1) * (degree + 2) + 1
    shared = (n_species * n_series + 2 * (degree + 1)) * d_features.dtype.itemsize
    launch(_backward_kernel, structure.size, 0, shared)(
        d_features, densities,
        positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
        pair_offset, place,
        constants, inverse_cutoff, sine, cosine, recursion, norm, legendre, spins, scale,
        radial_order, d_separations,
    )  # fmt: skip

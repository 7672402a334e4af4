"""ANI atomic environment vectors; formulas and arguments as in the CPU twin.

A block works on one atom.  Its neighbours come in tiles, one for each thread, and those within the
angular cutoff are moved together in shared memory, where they stay sorted by species.

Forward: threads own radial features and go through the neighbours of their species; every
Gaussian is needed by one feature alone.  Then a thread takes a triplet, of a tile of so many that
are numbered by pairs of species, and writes its functions of the distances and of the angle into a
row of shared memory.  Last, threads own angular features and add up products of two numbers of the
rows of their pair of species, in the order of the triplets: 32 features of ANI-1x are those of one
pair of species, so that a warp reads one row at a time.

Backward: a thread takes a triplet, contracts its functions with the coefficients of its pair of
species and writes three numbers into its row: the sum, and its slopes in mean distance and cosine.
Then a thread owns a neighbour and gathers from the rows of the triplets that it is part of, so that
no two threads add to the same slope.

Triplets of one tile of neighbours are taken once.  Of n neighbours, number m is the pair (j, k)
with j = m mod n and k = j + m // n + 1 mod n: m < n (n - 1) / 2 runs through all of them.  If there
are more neighbours than threads, all pairs of tiles are taken, forward once, backward twice.

Loops over what threads share out are written with while: a range with a step that is not constant
divides, and keeps more numbers.

Of ANI-1x, an atom with 16 neighbours, 10 of them in 45 triplets, costs about 10 kflop and 1.5 KB
written on the way forward, 20 kflop and 1.5 KB read on the way back, in 7 KB of shared memory: by
these counts 5 and 10 % of what its network costs.
"""

import math

import numpy as np

from .chebyshev import _cutoff, _cutoff_slope
from .pairs import separation
from .runtime import cuda, launch

THREADS = 64
"""Threads of a block at most: atoms of molecules have few neighbours."""

# Rows of a tile of neighbours: unit vector, length, cutoff
NX, NY, NZ, NR, NF, N_NEAR = range(6)


@cuda.jit(device=True)
def _odd(n):
    """n or n + 1: rows of odd length begin in different banks."""
    return n + (n + 1) % 2


@cuda.jit(device=True)
def _stage(
    positions, cells, offsets, neighbor, shift, atom, s, first, end, constants, inverse_cutoff,
    sine, near, flags,
):  # fmt: skip
    """Move the near neighbours of a tile together in ``near``; all threads call it.

    Returns unit vector, r, 1/r and the scaled distances r/R - 1/2 and r/A - 1/2 of the neighbour of
    the thread, its place in ``near`` or -1, and the number of those there.
    """
    t, n_threads = cuda.threadIdx.x, cuda.blockDim.x
    kind = constants.dtype.type
    half = constants[1]
    x = y = z = r = inverse = v_radial = v_angular = constants[0]
    pair = first + t
    flag = 0
    if pair < end:
        dx, dy, dz = separation(positions, cells, offsets, neighbor, shift, atom, s, pair)
        square = dx * dx + dy * dy + dz * dz
        exact = 1.0 / math.sqrt(square)
        x, y, z = kind(dx * exact), kind(dy * exact), kind(dz * exact)
        r, inverse = kind(square * exact), kind(exact)
        v_radial = kind(square * exact * inverse_cutoff[0] - 0.5)
        v_angular = kind(square * exact * inverse_cutoff[1] - 0.5)
        # written so that NaN is not taken for far away
        flag = 0 if v_angular >= half else 1
    flags[t] = flag
    cuda.syncthreads()
    place, count = 0, 0
    for other in range(min(n_threads, end - first)):
        place += flags[np.uintp(other)] if other < t else 0
        count += flags[np.uintp(other)]
    if flag == 0:
        place = -1
    else:
        near[NX * n_threads + place] = x
        near[NY * n_threads + place] = y
        near[NZ * n_threads + place] = z
        near[NR * n_threads + place] = r
        near[NF * n_threads + place] = _cutoff(v_angular, constants, sine)
    return x, y, z, r, inverse, v_radial, v_angular, place, count


@cuda.jit(device=True)
def _starts(flags, row_begin, i, n_species, first, end, start):
    """Where the species begin in a tile of near neighbours, n_species + 1 numbers."""
    t, n_threads = cuda.threadIdx.x, cuda.blockDim.x
    z = t
    while z < n_species + 1:
        bound = row_begin[i * n_species + z] if z < n_species else end
        total = 0
        for other in range(min(max(bound - first, 0), n_threads)):
            total += flags[np.uintp(other)]
        start[z] = total
        z += n_threads


@cuda.jit(device=True)
def _raised(y, power, exponent, one):
    """y ** exponent; by multiplications if power, the same number, is not negative."""
    if power < 0:
        # far below the smallest 1 + cos that matters, far above underflow; NaN stays
        least = one * np.float32(1e-30)
        return math.exp(exponent * math.log(least if y < least else y))
    if power in (31, 32):
        y2 = y * y
        y4 = y2 * y2
        y8 = y4 * y4
        y16 = y8 * y8
        return y16 * y16 if power == 32 else (y16 * y8) * (y4 * y2) * y
    result = one
    while power > 0:
        if power & 1:
            result *= y
        y *= y
        power >>= 1
    return result


@cuda.jit(device=True)
def _triplet(near_a, near_b, j, k, half):
    """Cosine, mean distance and product of the cutoffs of two near neighbours."""
    n_threads = cuda.blockDim.x
    # indices of integers that may be negative would cost as much as the sums
    x = near_a[np.uintp(NX * n_threads + j)] * near_b[np.uintp(NX * n_threads + k)]
    y = near_a[np.uintp(NY * n_threads + j)] * near_b[np.uintp(NY * n_threads + k)]
    z = near_a[np.uintp(NZ * n_threads + j)] * near_b[np.uintp(NZ * n_threads + k)]
    r = near_a[np.uintp(NR * n_threads + j)] + near_b[np.uintp(NR * n_threads + k)]
    f = near_a[np.uintp(NF * n_threads + j)] * near_b[np.uintp(NF * n_threads + k)]
    return x + y + z, half * r, f


@cuda.jit
def _forward_kernel(
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    place,
    constants, inverse_cutoff, sine, radial_shifts, angular_shifts, angle_cosine, angle_sine,
    power, mean, scale,
    features,
):  # fmt: skip
    buffer = cuda.shared.array(0, features.dtype)
    numbers = cuda.shared.array(0, neighbor.dtype)  # int32
    atom, t, n_threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    n_atoms, n_species, n_features = species.size, mean.shape[0], mean.shape[1]
    i, s = atom % n_atoms, structure[atom]
    n_radial, n_angular, n_angle = radial_shifts.size, angular_shifts.size, angle_cosine.size
    n_of_pair = n_angular * n_angle
    n_kinds = n_species * (n_species + 1) // 2
    first_angular = n_species * n_radial
    width = _odd(n_angular + n_angle)
    # in shared memory: sums, two tiles of near neighbours, a row for each thread; then integers
    at = n_features + 2 * N_NEAR * n_threads
    near_a = buffer[n_features : n_features + N_NEAR * n_threads]
    rows = buffer[at : at + width * n_threads]
    flags = numbers[(at + width * n_threads) * features.itemsize // 4 :]
    start_a = flags[n_threads:]
    begins = flags[n_threads + 2 * (n_species + 1) :]
    one, half = constants[0], constants[1]
    eta_radial, eta, zeta, squeeze = constants[4], constants[5], constants[6], constants[7]
    zero = one - one
    quarter = half * half
    k = t
    while k < n_features:
        buffer[k] = zero
        k += n_threads
    begin, end = row_begin[i * n_species], row_end[i * n_species + n_species - 1]
    first = begin
    while first < end:
        _, _, _, r, _, v, _, _, _ = _stage(
            positions, cells, offsets, neighbor, shift, atom, s, first, end, constants,
            inverse_cutoff, sine, near_a, flags,
        )  # fmt: skip
        _starts(flags, row_begin, i, n_species, first, end, start_a)
        rows[t] = r
        rows[n_threads + t] = _cutoff(v, constants, sine)
        cuda.syncthreads()
        k = t
        while k < first_angular:
            z = k // n_radial
            low = max(row_begin[i * n_species + z], first) - first
            high = min(row_end[i * n_species + z], first + n_threads) - first
            shift_m = radial_shifts[k - z * n_radial]
            total = buffer[k]
            for other in range(low, high):
                x = rows[other] - shift_m
                total += quarter * rows[n_threads + other] * math.exp(-eta_radial * (x * x))
            buffer[k] = total
            k += n_threads
        second = first
        while second < end:
            near_b, start_b = near_a, start_a
            cuda.syncthreads()
            if second > first:
                near_b = buffer[n_features + N_NEAR * n_threads : at]
                start_b = flags[n_threads + n_species + 1 :]
                _stage(
                    positions, cells, offsets, neighbor, shift, atom, s, second, end, constants,
                    inverse_cutoff, sine, near_b, flags,
                )  # fmt: skip
                _starts(flags, row_begin, i, n_species, second, end, start_b)
                cuda.syncthreads()
            # number of the first triplet of every pair of species
            q = t
            while q < n_kinds + 1:
                total, y, z = 0, 0, 0
                for _ in range(q):
                    n, n_other = start_a[y + 1] - start_a[y], start_b[z + 1] - start_b[z]
                    total += n * (n - 1) // 2 if y == z and second == first else n * n_other
                    z += 1
                    if z == n_species:
                        y += 1
                        z = y
                begins[q] = total
                q += n_threads
            cuda.syncthreads()
            n_triplets = begins[n_kinds]
            low = 0
            while low < n_triplets:
                m = low + t
                if m < n_triplets:
                    q, y, z = 0, 0, 0
                    while m >= begins[q + 1]:
                        q += 1
                        z += 1
                        if z == n_species:
                            y += 1
                            z = y
                    m -= begins[q]
                    n = start_a[y + 1] - start_a[y]
                    k, j = m // n, m % n
                    if y == z and second == first:
                        k = (j + k + 1) % n
                    j += start_a[y]
                    k += start_b[z]
                    c, middle, weight = _triplet(near_a, near_b, j, k, half)
                    weight += weight
                    for a in range(n_angular):
                        x = middle - angular_shifts[a]
                        rows[np.uintp(t * width + a)] = weight * math.exp(-eta * (x * x))
                    c *= squeeze
                    sine_of = math.sqrt(one - c * c)
                    for w in range(n_angle):
                        y_w = half + half * (angle_cosine[w] * c + angle_sine[w] * sine_of)
                        value = _raised(y_w, power if power > 0 else -1, zeta, one)
                        rows[np.uintp(t * width + n_angular + w)] = value
                cuda.syncthreads()
                column = t
                while column < n_kinds * n_of_pair:
                    q = column // n_of_pair
                    w = column % n_angle
                    a = (column - q * n_of_pair) // n_angle
                    total = buffer[first_angular + column]
                    last = min(begins[q + 1] - low, n_threads)
                    for other in range(max(begins[q] - low, 0), last):
                        row = other * width
                        total += rows[np.uintp(row + a)] * rows[np.uintp(row + n_angular + w)]
                    buffer[first_angular + column] = total
                    column += n_threads
                cuda.syncthreads()
                low += n_threads
            second += n_threads
        cuda.syncthreads()
        first += n_threads
    out, centre = place[atom], species[i]
    k = t
    while k < n_features:
        features[out, k] = (buffer[k] - mean[centre, k]) * scale[centre, k]
        k += n_threads


def atomic_environment_forward(
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    pair_offset, place,
    constants, inverse_cutoff, sine, radial_shifts, angular_shifts, angle_cosine, angle_sine,
    power, mean, scale,
    features,
):  # fmt: skip
    """Features of every atom of every replica."""
    size, (n_species, n_features) = features.dtype.itemsize, mean.shape
    width = angular_shifts.size + angle_cosine.size + 1
    n_integers = 2 * (n_species + 1) + n_species * (n_species + 1) // 2 + 1
    launch(
        _forward_kernel, structure.size, (2 * N_NEAR + width) * size + 4,
        n_features * size + 4 * n_integers, most_threads=THREADS,
    )(
        positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
        place,
        constants, inverse_cutoff, sine, radial_shifts, angular_shifts, angle_cosine, angle_sine,
        power, mean, scale,
        features,
    )  # fmt: skip


@cuda.jit(device=True)
def _contract(
    near_a, near_b, j, k, coefficients, at, constants, angular_shifts, angle_cosine, angle_sine,
    power, rows, row,
):  # fmt: skip
    """sum_az c_az radial_a angle_z of one triplet; three numbers from rows[row] on.

    They are 2 V, f f dV/d(mean distance) and 2 f f dV/d(cosine).
    """
    n_angular, n_angle = angular_shifts.size, angle_cosine.size
    one, half = constants[0], constants[1]
    eta, zeta, squeeze = constants[5], constants[6], constants[7]
    zero = one - one
    c, middle, weight = _triplet(near_a, near_b, j, k, half)
    for a in range(n_angular):
        x = middle - angular_shifts[a]
        e = math.exp(-eta * (x * x))
        rows[np.uintp(row + a)] = e
        rows[np.uintp(row + n_angular + a)] = x * e
    c *= squeeze
    sine_of = math.sqrt(one - c * c)
    ratio = c / sine_of
    value, by_middle, by_cosine = zero, zero, zero
    for w in range(n_angle):
        u, v = zero, zero
        for a in range(n_angular):
            g = coefficients[np.uintp(at + a * n_angle + w)]
            u += g * rows[np.uintp(row + a)]
            v += g * rows[np.uintp(row + n_angular + a)]
        y = half + half * (angle_cosine[w] * c + angle_sine[w] * sine_of)
        p = _raised(y, power - 1 if power > 0 else -1, zeta - one, one)
        value += u * (p * y)
        by_middle += v * (p * y)
        by_cosine += u * (p * (angle_cosine[w] - angle_sine[w] * ratio))
    rows[np.uintp(row)] = value + value
    rows[np.uintp(row + 1)] = -(eta + eta) * weight * by_middle
    rows[np.uintp(row + 2)] = zeta * squeeze * weight * by_cosine


@cuda.jit
def _backward_kernel(
    d_features,
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    pair_offset, place,
    constants, inverse_cutoff, sine, cosine, radial_shifts, angular_shifts, angle_cosine,
    angle_sine, power, scale,
    d_separations,
):  # fmt: skip
    buffer = cuda.shared.array(0, d_features.dtype)
    numbers = cuda.shared.array(0, neighbor.dtype)  # int32
    atom, t, n_threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    n_atoms, n_species, n_features = species.size, scale.shape[0], scale.shape[1]
    i, s = atom % n_atoms, structure[atom]
    n_radial, n_angular = radial_shifts.size, angular_shifts.size
    n_of_pair = n_angular * angle_cosine.size
    n_kinds = n_species * (n_species + 1) // 2
    first_angular = n_species * n_radial
    gap = _odd(n_of_pair)
    width = _odd(max(2 * n_angular, 3))
    # in shared memory: coefficients, two tiles of near neighbours, a row for each thread; integers
    n_coefficients = first_angular + n_kinds * gap
    at = n_coefficients + 2 * N_NEAR * n_threads
    near_a = buffer[n_coefficients : n_coefficients + N_NEAR * n_threads]
    rows = buffer[at : at + width * n_threads]
    flags = numbers[(at + width * n_threads) * d_features.itemsize // 4 :]
    kinds_a = flags[n_threads:]
    one, half, to_radial, to_angular = constants[0], constants[1], constants[2], constants[3]
    eta_radial = constants[4]
    zero = one - one
    row, centre = place[atom], species[i]
    k = t
    while k < n_features:
        q = max(k - first_angular, 0) // n_of_pair
        buffer[k + q * (gap - n_of_pair)] = d_features[row, k] * scale[centre, k]
        k += n_threads
    begin, end = row_begin[i * n_species], row_end[i * n_species + n_species - 1]
    first = begin
    while first < end:
        pair = first + t
        x, y, z, r, inverse, v, v_angular, own, count = _stage(
            positions, cells, offsets, neighbor, shift, atom, s, first, end, constants,
            inverse_cutoff, sine, near_a, flags,
        )  # fmt: skip
        g = zero
        if pair < end:
            kind = 0
            while pair >= row_end[i * n_species + kind]:
                kind += 1
            if own >= 0:
                kinds_a[own] = kind
            f, df = _cutoff(v, constants, sine), to_radial * _cutoff_slope(v, constants, cosine)
            for m in range(n_radial):
                x_m = r - radial_shifts[m]
                e = half * half * buffer[kind * n_radial + m] * math.exp(-eta_radial * (x_m * x_m))
                g += e * (df - (eta_radial + eta_radial) * x_m * f)
        df = to_angular * _cutoff_slope(v_angular, constants, cosine)
        gx, gy, gz = zero, zero, zero
        second = begin
        while second < end:
            same = second == first
            near_b, kinds_b, n_others = near_a, kinds_a, count
            cuda.syncthreads()
            if not same:
                near_b = buffer[n_coefficients + N_NEAR * n_threads : at]
                kinds_b = flags[2 * n_threads :]
                _, _, _, _, _, _, _, other, n_others = _stage(
                    positions, cells, offsets, neighbor, shift, atom, s, second, end, constants,
                    inverse_cutoff, sine, near_b, flags,
                )  # fmt: skip
                if other >= 0:
                    kind = 0
                    while second + t >= row_end[i * n_species + kind]:
                        kind += 1
                    kinds_b[other] = kind
                cuda.syncthreads()
            n_triplets = count * (count - 1) // 2 if same else count * n_others
            low = 0
            while low < n_triplets:
                high = min(low + n_threads, n_triplets)
                m = low + t
                if m < high:
                    k, j = m // count, m % count
                    if same:
                        k = (j + k + 1) % count
                    a, b = min(kinds_a[j], kinds_b[k]), max(kinds_a[j], kinds_b[k])
                    q = a * n_species - a * (a - 1) // 2 + b - a
                    _contract(
                        near_a, near_b, j, k, buffer, first_angular + q * gap, constants,
                        angular_shifts, angle_cosine, angle_sine, power,
                        rows, t * width,
                    )  # fmt: skip
                cuda.syncthreads()
                if own >= 0:
                    for d in range(low // count, (high - 1) // count + 1):
                        # as the first of a triplet, and as the second of one of the same tile
                        for side in range(2 if same else 1):
                            k = d
                            if same:
                                k = (own + (d + 1 if side == 0 else count - d - 1)) % count
                            m = d * count + (own if side == 0 else k)
                            if low <= m < high:
                                at_row = (m - low) * width
                                by_cosine = rows[np.uintp(at_row + 2)]
                                f = near_b[np.uintp(NF * n_threads + k)]
                                g += rows[np.uintp(at_row)] * df * f + rows[np.uintp(at_row + 1)]
                                gx += by_cosine * near_b[np.uintp(NX * n_threads + k)]
                                gy += by_cosine * near_b[np.uintp(NY * n_threads + k)]
                                gz += by_cosine * near_b[np.uintp(NZ * n_threads + k)]
                cuda.syncthreads()
                low += n_threads
            second += n_threads
        if pair < end:
            # d cos / d(separation) = (other unit vector - cos * own) / r
            g -= inverse * (gx * x + gy * y + gz * z)
            out = pair + pair_offset[s]
            d_separations[out, 0] = g * x + inverse * gx
            d_separations[out, 1] = g * y + inverse * gy
            d_separations[out, 2] = g * z + inverse * gz
        cuda.syncthreads()
        first += n_threads


def atomic_environment_backward(
    d_features,
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    pair_offset, place,
    constants, inverse_cutoff, sine, cosine, radial_shifts, angular_shifts, angle_cosine,
    angle_sine, power, scale,
    d_separations,
):  # fmt: skip
    """Write dE/dd of every pair of the batch, see pairs.py."""
    size, (n_species, n_features) = d_features.dtype.itemsize, scale.shape
    width = max(2 * angular_shifts.size, 3) + 1
    n_coefficients = n_features + n_species * (n_species + 1) // 2
    launch(
        _backward_kernel, structure.size, (2 * N_NEAR + width) * size + 3 * 4,
        n_coefficients * size, most_threads=THREADS,
    )(
        d_features,
        positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
        pair_offset, place,
        constants, inverse_cutoff, sine, cosine, radial_shifts, angular_shifts, angle_cosine,
        angle_sine, power, scale,
        d_separations,
    )  # fmt: skip

"""Invariants of a neighbour density; formulas and arguments as in the CPU twin.

A block works on one atom, whose density it holds in shared memory. Forward, a thread sums the
2l + 1 terms of one pair of columns, in 2 loads from shared memory each; features are written in
their order.

Backward, d_features become, for every l, the symmetric matrix of the CPU twin, and its product with
the density is summed by threads that own `ROWS` columns x `COMPONENTS` numbers of it in registers,
so that 7 loads serve 12 multiplications. As many l go at once as their matrices find room for;
pairs that are left out count as zeros.

An atom of the default descriptor takes, with one and three elements, 1.5 and 12 kflop forward and 6
and 52 kflop backward. Read are 1.3 and 3.9 kB of its density in float32 and written 0.5 and 4.3 kB
of features; backward both are read, and d_density is read and written.
"""

import numpy as np

from .runtime import SHARED_BYTES, cuda, launch

ROWS, COMPONENTS = 3, 4
"""Columns and components of d_density of which a thread sums the products."""
N_SUMS = ROWS * COMPONENTS


@cuda.jit(device=True)
def _vector_and_tensor(density, n, k):
    """x, y, z of the vector of column k; Q_zz, Q_xz, Q_yz, Q_xx - Q_yy, 2 Q_xy of its tensor."""
    return (
        density[2 * n + k], density[3 * n + k], density[n + k], density[4 * n + k],
        density[5 * n + k], density[6 * n + k], density[7 * n + k], density[8 * n + k],
    )  # fmt: skip


@cuda.jit
def _forward_kernel(
    density, n_columns, species, place, one, norm, pairs, pair_start, four_body, mean, scale,
    features,
):  # fmt: skip
    buffer = cuda.shared.array(0, features.dtype)
    atom, t, n_threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    for k in range(t, density.shape[1], n_threads):
        buffer[k] = density[atom, k]
    cuda.syncthreads()
    centre, out = species[atom % species.size], place[atom]
    zero = one - one
    for k in range(t, n_columns, n_threads):
        features[out, k] = (buffer[k] - mean[centre, k]) * scale[centre, k]
    l, step = 0, np.uint64(n_columns)
    for k in range(t, pairs.shape[0], n_threads):
        while k >= pair_start[l + 1]:
            l += 1
        first = l * l * n_columns
        a, b = np.uint64(first + pairs[k, 0]), np.uint64(first + pairs[k, 1])
        total = zero
        for q in range(l * l, (l + 1) * (l + 1)):
            total += norm[np.uint64(q)] * buffer[a] * buffer[b]
            a, b = a + step, b + step
        n = n_columns + k
        features[out, n] = (total - mean[centre, n]) * scale[centre, n]
    if four_body:
        half = one / (one + one)
        quarter = half * half
        for k in range(t, n_columns, n_threads):
            u, v, w, a, b, c, d, e = _vector_and_tensor(buffer, n_columns, k)
            across = b * u + c * v
            value = half * (u * u * (d - a) - v * v * (d + a)) + a * w * w + e * u * v
            value += (w + w) * across
            n = n_columns + pairs.shape[0] + k
            features[out, n] = (value - mean[centre, n]) * scale[centre, n]
            det = quarter * a * (a * a - d * d - e * e)
            det += half * ((a + d) * b * b + (a - d) * c * c) + e * b * c
            n += n_columns
            features[out, n] = (det + det + det - mean[centre, n]) * scale[centre, n]


def power_spectrum_forward(
    density, species, pair_offset, place, one, norm, pairs, pair_start, four_body, mean, scale,
    features,
):  # fmt: skip
    """Features of every atom of every replica."""
    n_atoms, n_components, n_columns = density.shape
    n_numbers = n_components * n_columns
    launch(_forward_kernel, n_atoms, 0, n_numbers * density.dtype.itemsize)(
        density.reshape(n_atoms, n_numbers), n_columns, species, place, one, norm, pairs,
        pair_start, four_body, mean, scale, features,
    )  # fmt: skip


@cuda.jit
def _backward_kernel(
    d_features, density, n_columns, species, place, one, norm, pairs, pair_start, four_body, scale,
    n_at_once,
    d_density,
):  # fmt: skip
    buffer = cuda.shared.array(0, d_features.dtype)
    sums = cuda.local.array(N_SUMS, d_features.dtype)
    atom, t, n_threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    n_degrees, size, square = pair_start.size - 1, density.shape[1], n_columns * n_columns
    centre, row = species[atom % species.size], place[atom]
    zero = one - one
    offset = np.uint64  # indices of this type are not checked for being negative
    step = offset(1)
    for k in range(t, size, n_threads):
        buffer[k] = density[atom, k]
    # a thread takes columns h, h + n_left, .. and, of 2l + 1 components, g, g + n_right, ..
    n_left = (n_columns + ROWS - 1) // ROWS
    for start in range(0, n_degrees, n_at_once):
        stop = min(start + n_at_once, n_degrees)
        cuda.syncthreads()
        for k in range(t, (stop - start) * square, n_threads):
            buffer[size + k] = zero
        cuda.syncthreads()
        l = start
        for k in range(pair_start[start] + t, pair_start[stop], n_threads):
            while k >= pair_start[l + 1]:
                l += 1
            a, b, n = pairs[k, 0], pairs[k, 1], n_columns + k
            d = d_features[row, n] * scale[centre, n]
            if a == b:
                d += d
            matrix = size + (l - start) * square
            buffer[matrix + a * n_columns + b] = d
            buffer[matrix + b * n_columns + a] = d
        cuda.syncthreads()
        before = 0  # what the l up to here share out
        for l in range(start, stop):
            number = 2 * l + 1
            n_right = (number + COMPONENTS - 1) // COMPONENTS
            for k in range((t - before) % n_threads, n_left * n_right, n_threads):
                h, g = k % n_left, k // n_left
                for u in range(N_SUMS):
                    sums[u] = zero
                # what is beyond the last is that of the last, and not written
                matrix = size + (l - start) * square
                a0 = offset(matrix + h * n_columns)
                a1 = offset(matrix + min(h + n_left, n_columns - 1) * n_columns)
                a2 = offset(matrix + min(h + 2 * n_left, n_columns - 1) * n_columns)
                q0 = offset((l * l + g) * n_columns)
                q1 = offset((l * l + min(g + n_right, 2 * l)) * n_columns)
                q2 = offset((l * l + min(g + 2 * n_right, 2 * l)) * n_columns)
                q3 = offset((l * l + min(g + 3 * n_right, 2 * l)) * n_columns)
                for _ in range(n_columns):
                    a, b, c = buffer[a0], buffer[a1], buffer[a2]
                    d = buffer[q0]
                    sums[0] += a * d
                    sums[1] += b * d
                    sums[2] += c * d
                    d = buffer[q1]
                    sums[3] += a * d
                    sums[4] += b * d
                    sums[5] += c * d
                    d = buffer[q2]
                    sums[6] += a * d
                    sums[7] += b * d
                    sums[8] += c * d
                    d = buffer[q3]
                    sums[9] += a * d
                    sums[10] += b * d
                    sums[11] += c * d
                    a0, a1, a2 = a0 + step, a1 + step, a2 + step
                    q0, q1, q2, q3 = q0 + step, q1 + step, q2 + step, q3 + step
                for u in range(N_SUMS):
                    column, q = h + n_left * (u % ROWS), g + n_right * (u // ROWS)
                    if column < n_columns and q < number:
                        q += l * l
                        value = norm[q] * sums[u]
                        if l == 0:
                            value += d_features[row, column] * scale[centre, column]
                        d_density[atom, q * n_columns + column] += value
            before += n_left * n_right
    if not four_body:
        return
    cuda.syncthreads()
    half = one / (one + one)
    quarter = half * half
    for k in range(t, n_columns, n_threads):
        u, v, w, a, b, c, d, e = _vector_and_tensor(buffer, n_columns, k)
        n = n_columns + pairs.shape[0] + k
        g = d_features[row, n] * scale[centre, n]
        n += n_columns
        h = d_features[row, n] * scale[centre, n]
        h = h + h + h
        g2 = g + g
        out = d_density[atom]
        out[n_columns + k] += g2 * (a * w + b * u + c * v)
        out[2 * n_columns + k] += g * (u * (d - a) + e * v) + g2 * w * b
        out[3 * n_columns + k] += g * (e * u - v * (d + a)) + g2 * w * c
        out[4 * n_columns + k] += g * (w * w - half * (u * u + v * v)) + h * (
            half * (a * a + b * b + c * c) + quarter * (a * a - d * d - e * e)
        )
        out[5 * n_columns + k] += g2 * w * u + h * ((a + d) * b + e * c)
        out[6 * n_columns + k] += g2 * w * v + h * ((a - d) * c + e * b)
        out[7 * n_columns + k] += half * (g * (u * u - v * v) + h * (b * b - c * c - a * d))
        out[8 * n_columns + k] += g * u * v + h * (b * c - half * a * e)


def power_spectrum_backward(
    d_features, density, species, pair_offset, place, one, norm, pairs, pair_start, four_body,
    scale,
    d_density,
):  # fmt: skip
    """Add dE/dA to d_density."""
    n_atoms, n_components, n_columns = density.shape
    n_numbers = n_components * n_columns
    own, square = n_numbers * density.dtype.itemsize, n_columns**2 * density.dtype.itemsize
    n_at_once = max(min((SHARED_BYTES - own) // square, pair_start.size - 1), 1)
    launch(_backward_kernel, n_atoms, 0, own + n_at_once * square)(
        d_features, density.reshape(n_atoms, n_numbers), n_columns, species, place, one, norm,
        pairs, pair_start, four_body, scale, n_at_once, d_density.reshape(n_atoms, n_numbers),
    )  # fmt: skip

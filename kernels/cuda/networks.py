"""Elemental networks; layout and arguments as in the CPU twin.

Forward and backward give a block to every tile and replica, the gradient one to every chunk of
tiles. A thread computes four rows of one unit at a time: the weight it reads serves four rows.
Deltas of a layer stay in shared memory, as many rows at a time as fit.
"""

import numpy as np

from .activations import activate
from .runtime import SHARED_BYTES, cuda, launch

ROWS = 4
"""Rows that a thread computes together."""


@cuda.jit(device=True)
def _starts(widths, species_start, z):
    """First number of species z in theta and in hidden, and its hidden units."""
    in_theta, in_hidden, n_units = 0, 0, 0
    for y in range(z + 1):
        n_parameters, n_units = 0, -1  # the output is no hidden unit
        for layer in range(widths.shape[1] - 1):
            n_parameters += (widths[y, layer] + 1) * widths[y, layer + 1]
            n_units += widths[y, layer + 1]
        if y < z:
            in_theta += n_parameters
            in_hidden += n_units * (species_start[y + 1] - species_start[y])
    return in_theta, in_hidden, n_units


@cuda.jit(device=True)
def _layers(widths, z):
    """Layers of one species, the output included."""
    n = widths.shape[1] - 1
    while widths[z, n] == 0:
        n -= 1
    return n


@cuda.jit
def _forward_kernel(
    features, theta, widths, activations, species_start, n_replicas, tiles,
    hidden, slopes, output,
):  # fmt: skip
    t, n_threads = cuda.threadIdx.x, cuda.blockDim.x
    tile, replica = cuda.blockIdx.x, cuda.blockIdx.y
    z = tiles[tile, 0]
    start, end = species_start[z], species_start[z + 1]
    n_rows = end - start
    at, in_hidden, n_units = _starts(widths, species_start, z)
    in_slopes = in_hidden + start
    first_row = replica * (n_rows // n_replicas) + tiles[tile, 1]
    count = tiles[tile, 2] - tiles[tile, 1]
    n_layers = _layers(widths, z)
    zero = theta.dtype.type(0)
    before, source = 0, 0
    for layer in range(n_layers - 1):
        n_in, n_out = widths[z, layer], widths[z, layer + 1]
        n_groups = (count + ROWS - 1) // ROWS
        for k in range(t, n_groups * n_out, n_threads):
            o, row = k % n_out, first_row + (k // n_out) * ROWS
            last = first_row + count - 1
            row1, row2, row3 = min(row + 1, last), min(row + 2, last), min(row + 3, last)
            s0, s1, s2, s3 = zero, zero, zero, zero
            if layer == 0:
                for i in range(n_in):
                    w = theta[at + i * n_out + o]
                    s0 += features[start + row, i] * w
                    s1 += features[start + row1, i] * w
                    s2 += features[start + row2, i] * w
                    s3 += features[start + row3, i] * w
            else:
                x = in_hidden + source
                for i in range(n_in):
                    w = theta[at + i * n_out + o]
                    s0 += hidden[x + row * n_in + i] * w
                    s1 += hidden[x + row1 * n_in + i] * w
                    s2 += hidden[x + row2 * n_in + i] * w
                    s3 += hidden[x + row3 * n_in + i] * w
            bias = theta[at + n_in * n_out + o]
            for r in range(ROWS):
                if row + r > last:
                    break
                total = s0 if r == 0 else (s1 if r == 1 else (s2 if r == 2 else s3))
                h, slope = activate(activations[z, layer], total + bias)
                unit = before + (row + r) * n_out + o
                hidden[in_hidden + unit] = h
                slopes[in_slopes + unit] = slope
        cuda.syncthreads()
        at += (n_in + 1) * n_out
        source = before
        before += n_rows * n_out
    # the energy is the small difference of replicas: last sum in double precision
    n_in = widths[z, n_layers - 1]
    for k in range(t, count, n_threads):
        row = first_row + k
        y = np.float64(theta[at + n_in])
        for i in range(n_in):
            if n_layers == 1:
                x = features[start + row, i]
            else:
                x = hidden[in_hidden + source + row * n_in + i]
            y += np.float64(x) * np.float64(theta[at + i])
        y, slope = activate(activations[z, n_layers - 1], y)
        output[start + row] = y
        slopes[in_slopes + n_rows * n_units + row] = slope


def networks_forward(
    features, theta, widths, activations, species_start, n_replicas, tiles, chunks,
    hidden, slopes, output,
):  # fmt: skip
    """Outputs of every atom, and the layers that the backward passes need."""
    launch(_forward_kernel, (tiles.shape[0], n_replicas))(
        features, theta, widths, activations, species_start, n_replicas, tiles,
        hidden, slopes, output,
    )  # fmt: skip


@cuda.jit(device=True)
def _back(
    slopes, theta, n_in, n_out, weights, units, row, count, above, below, above_first, below_first
):
    """delta of a layer of ``n_in`` units from that of the ``n_out`` above it, for some rows.

    ``units`` is where the slopes of row 0 of the layer stand.
    """
    t, n_threads = cuda.threadIdx.x, cuda.blockDim.x
    for k in range(t, count * n_in, n_threads):
        r, i = k // n_in, k % n_in
        total = theta.dtype.type(0)
        for o in range(n_out):
            total += above[above_first + r * n_out + o] * theta[weights + i * n_out + o]
        below[below_first + k] = total * slopes[units + (row + r) * n_in + i]


@cuda.jit
def _backward_kernel(
    slopes, theta, widths, species_start, n_replicas, tiles, n_deltas,
    d_features,
):  # fmt: skip
    buffer = cuda.shared.array(0, d_features.dtype)
    t, n_threads = cuda.threadIdx.x, cuda.blockDim.x
    tile, replica = cuda.blockIdx.x, cuda.blockIdx.y
    z = tiles[tile, 0]
    start, end = species_start[z], species_start[z + 1]
    n_rows = end - start
    in_theta, in_hidden, n_units = _starts(widths, species_start, z)
    in_slopes = in_hidden + start
    first_row = replica * (n_rows // n_replicas) + tiles[tile, 1]
    end_row = first_row + tiles[tile, 2] - tiles[tile, 1]
    n_layers = _layers(widths, z)
    n_parameters = 0
    widest = 1
    for layer in range(n_layers):
        n_parameters += (widths[z, layer] + 1) * widths[z, layer + 1]
        widest = max(widest, widths[z, layer + 1])
    rows_at_once = n_deltas // widest
    for row in range(first_row, end_row, rows_at_once):
        count = min(rows_at_once, end_row - row)
        at, before = in_theta + n_parameters, in_slopes + n_rows * n_units
        low, high = 0, n_deltas  # where the delta of the layer above stands, and the next goes
        for k in range(t, count, n_threads):
            buffer[k] = slopes[before + row + k]
        cuda.syncthreads()
        for layer in range(n_layers - 1, 0, -1):
            n_in, n_out = widths[z, layer], widths[z, layer + 1]
            at -= (n_in + 1) * n_out
            before -= n_rows * n_in
            _back(slopes, theta, n_in, n_out, at, before, row, count, buffer, buffer, low, high)
            low, high = high, low
            cuda.syncthreads()
        n_in, n_out = widths[z, 0], widths[z, 1]
        for k in range(t, count * n_in, n_threads):
            r, i = k // n_in, k % n_in
            total = theta.dtype.type(0)
            for o in range(n_out):
                total += buffer[low + r * n_out + o] * theta[in_theta + i * n_out + o]
            d_features[start + row + r, i] = total
        cuda.syncthreads()


def networks_backward(
    slopes, theta, widths, species_start, n_replicas, tiles, chunks,
    d_features,
):  # fmt: skip
    """d_features = dy/d features of every atom (overwritten: nothing else adds to it)."""
    size = d_features.dtype.itemsize
    n_deltas = SHARED_BYTES // (2 * size)
    launch(_backward_kernel, (tiles.shape[0], n_replicas), 0, 2 * n_deltas * size)(
        slopes, theta, widths, species_start, n_replicas, tiles, n_deltas, d_features
    )


@cuda.jit
def _gradient_kernel(
    features, hidden, slopes, row_weights, theta, widths, species_start, n_replicas, paired,
    tiles, chunks, n_deltas,
    d_theta,
):  # fmt: skip
    buffer = cuda.shared.array(0, features.dtype)
    t, n_threads, chunk = cuda.threadIdx.x, cuda.blockDim.x, cuda.blockIdx.x
    kind = features.dtype.type
    half = kind(0.5)
    sides = 2 if paired else 1
    for tile in range(chunks[chunk], chunks[chunk + 1]):
        z = tiles[tile, 0]
        start, end = species_start[z], species_start[z + 1]
        n_rows = end - start
        of_replica = n_rows // n_replicas
        in_theta, in_hidden, n_units = _starts(widths, species_start, z)
        in_slopes = in_hidden + start
        n_layers = _layers(widths, z)
        n_parameters, widest = 0, 1
        for layer in range(n_layers):
            n_parameters += (widths[z, layer] + 1) * widths[z, layer + 1]
            widest = max(widest, widths[z, layer + 1])
        rows_at_once = n_deltas // widest
        for replica in range(0, n_replicas, sides):
            first_row = replica * of_replica + tiles[tile, 1]
            end_row = replica * of_replica + tiles[tile, 2]
            gap_rows = (sides - 1) * of_replica  # to the same atom in the opposite replica
            for row in range(first_row, end_row, rows_at_once):
                count = min(rows_at_once, end_row - row)
                at, before = in_theta + n_parameters, n_rows * n_units
                low, high = 0, 2 * n_deltas
                for layer in range(n_layers - 1, -1, -1):
                    n_in, n_out = widths[z, layer], widths[z, layer + 1]
                    above = at  # weights of the layer above
                    at -= (n_in + 1) * n_out
                    for side in range(sides):
                        side_row = row + side * gap_rows
                        to = high + side * n_deltas
                        if layer == n_layers - 1:
                            for k in range(t, count, n_threads):
                                buffer[to + k] = slopes[in_slopes + before + side_row + k]
                        else:
                            _back(
                                slopes, theta, n_out, widths[z, layer + 2], above,
                                in_slopes + before, side_row, count, buffer, buffer,
                                low + side * n_deltas, to,
                            )  # fmt: skip
                    cuda.syncthreads()
                    # what multiplies mean and difference of the inputs, over the deltas above
                    left, right = low, low + n_deltas
                    for k in range(t, count * n_out, n_threads):
                        r = start + row + k // n_out
                        d = np.float64(buffer[high + k])
                        if paired:
                            gap = d - np.float64(buffer[high + n_deltas + k])
                            d -= 0.5 * gap
                            total = row_weights[r] + row_weights[r + gap_rows]
                            odd = 0.5 * (row_weights[r] - row_weights[r + gap_rows])
                            buffer[left + k] = total * d + odd * gap
                            buffer[right + k] = 0.25 * total * gap + odd * d
                        else:
                            buffer[left + k] = row_weights[r] * d
                    cuda.syncthreads()
                    below = before - n_rows * n_in
                    for k in range(t, (n_in + 1) * n_out, n_threads):
                        i, o = k // n_out, k % n_out
                        if i == n_in:  # biases
                            sums = 0.0
                            for r in range(count):
                                sums += np.float64(buffer[left + r * n_out + o])
                            d_theta[chunk, at + k] += sums
                            continue
                        total = kind(0)
                        for r in range(count):
                            if layer == 0:
                                x = features[start + row + r, i]
                                y = features[start + row + r + gap_rows, i]
                            else:
                                place = in_hidden + below + (row + r) * n_in + i
                                x = hidden[place]
                                y = hidden[place + gap_rows * n_in]
                            if paired:
                                total += half * (x + y) * buffer[left + r * n_out + o]
                                total += (x - y) * buffer[right + r * n_out + o]
                            else:
                                total += x * buffer[left + r * n_out + o]
                        d_theta[chunk, at + k] += np.float64(total)
                    cuda.syncthreads()
                    before = below
                    low, high = high, low


def networks_gradient(
    features, hidden, slopes, row_weights, theta, widths, species_start, n_replicas, paired,
    tiles, chunks,
    d_theta,
):  # fmt: skip
    """Add ``sum_rows row_weights dy/d theta`` to d_theta (n_chunks, n_parameters), float64.

    With ``paired``, replicas (+, -, +, -, ..) are combined as in the CPU twin.
    """
    size = features.dtype.itemsize
    n_deltas = SHARED_BYTES // (4 * size)
    launch(_gradient_kernel, chunks.size - 1, 0, 4 * n_deltas * size)(
        features, hidden, slopes, row_weights, theta, widths, species_start, n_replicas, paired,
        tiles, chunks, n_deltas, d_theta,
    )  # fmt: skip

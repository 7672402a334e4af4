"""Elemental networks; layout and arguments as in the CPU twin.

All is products of matrices: rows times weights forward, deltas times transposed weights backward,
and transposed inputs times deltas for the gradient.  A block computes `COLUMNS` times `SIDE` (32)
columns of some rows (64 with 128 threads) at a time: it stages `DEPTH` terms of the sums of both
factors in shared memory, and every thread adds them up for 4 x 4 numbers, which stay in registers:
8 reads of shared memory for 16 multiplications and additions, without bank conflicts.

Forward and backward give a block to every tile of rows and replica, which goes from layer to layer
by itself.  The gradient gives blocks to chunks of tiles of rows and, within a chunk, to parts of
the parameters.  So no two blocks write to the same place.

With 384-160-128-96-1 units (ANI) an atom costs 0.19 Mflop on each way forward and backward; in the
gradient, a pair of replicas costs 0.07 Mflop on each side for deltas and 0.38 Mflop for the sums.
A tile of 64 x 32 numbers does 43 flop for every number that is staged, 11 for every byte in
float32.  Forward and backward read or write 384 units and slopes, 3 KB of each atom.  Deltas go
through an array of the size of slopes: the gradient needs those of all layers, and in shared memory
few rows would fit.
"""

import numpy as np

from .activations import activate
from .runtime import cuda, launch

SIDE, SUMS = 4, 16
"""Rows and columns that a thread computes together; their product."""
COLUMNS = 8
"""Threads that share a row."""
DEPTH = 32
"""Terms of the sums that are staged together; even, for pairs of replicas."""
PARTS = 32
"""Blocks that share out the parameters in a chunk of the gradient."""


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


@cuda.jit(device=True)
def _places():
    """Row and column of the thread, and rows and columns of the block, in numbers to compute."""
    t, n_threads = cuda.threadIdx.x, cuda.blockDim.x
    across = min(COLUMNS, n_threads)
    return SIDE * (t // across), SIDE * (t % across), SIDE * (n_threads // across), SIDE * across


@cuda.jit(device=True)
def _lanes(length):
    """How the threads go through a matrix with rows of a length, a power of two.

    First row and number in it, and how far on the next are.  Loops are written with while: a range
    with such steps divides.
    """
    t, n_threads = cuda.threadIdx.x, cuda.blockDim.x
    width = min(length, n_threads)
    return t // width, t % width, n_threads // width, width


@cuda.jit(device=True)
def _stage(source, first, stride, count, depth, to, items, buffer):
    """buffer[to + k * (items + 1) + m] = source[first + k * stride + m]; 0 for m >= count."""
    zero = source.dtype.type(0)
    k, first_m, step, width = _lanes(items)
    while k < depth:
        m = first_m
        while m < items:
            value = source[np.uintp(first + k * stride + m)] if m < count else zero
            buffer[np.uintp(to + k * (items + 1) + m)] = value
            m += width
        k += step


@cuda.jit(device=True)
def _stage_turned(source, first, stride, count, depth, to, items, buffer):
    """buffer[to + k * (items + 1) + m] = source[first + m * stride + k]; 0 for m >= count."""
    zero = source.dtype.type(0)
    m, first_k, step, width = _lanes(DEPTH)
    while m < items:
        k = first_k
        while k < depth:
            value = source[np.uintp(first + m * stride + k)] if m < count else zero
            buffer[np.uintp(to + k * (items + 1) + m)] = value
            k += width
        m += step


@cuda.jit(device=True)
def _multiply(buffer, left, left_gap, right, right_gap, depth, sums):
    """sums[r, u] += sum_k buffer[left + k * left_gap + r] * buffer[right + k * right_gap + u]."""
    for _ in range(depth):
        for r in range(SIDE):
            x = buffer[np.uintp(left + r)]
            for u in range(SIDE):
                # indices of integers that may be negative would cost as much as the sums
                sums[r * SIDE + u] += x * buffer[np.uintp(right + u)]
        left += left_gap
        right += right_gap


@cuda.jit(device=True)
def _product(
    source, first, count, n_terms, theta, weights, stride, n_columns, turned, buffer, sums
):
    """Some columns of rows times weights, left in shared memory as (rows, columns + 1).

    Row r begins at ``source[first + r * n_terms]``.  The weight of term k and column c is
    ``theta[weights + k * stride + c]`` or, if turned, ``theta[weights + c * stride + k]``.
    All threads of a block call it, and all of them may read what it leaves.
    """
    row, column, n_rows, most_columns = _places()
    zero = theta.dtype.type(0)
    for k in range(SUMS):
        sums[k] = zero
    to = (n_rows + 1) * DEPTH
    for k in range(0, n_terms, DEPTH):
        depth = min(DEPTH, n_terms - k)
        cuda.syncthreads()
        _stage_turned(source, first + k, n_terms, count, depth, 0, n_rows, buffer)
        if turned:
            _stage_turned(theta, weights + k, stride, n_columns, depth, to, most_columns, buffer)
        else:
            _stage(
                theta, weights + k * stride, stride, n_columns, depth, to, most_columns, buffer
            )
        cuda.syncthreads()
        _multiply(buffer, row, n_rows + 1, to + column, most_columns + 1, depth, sums)
    cuda.syncthreads()
    for r in range(SIDE):
        for u in range(SIDE):
            place = (row + r) * (most_columns + 1) + column + u
            buffer[np.uintp(place)] = sums[r * SIDE + u]
    cuda.syncthreads()


@cuda.jit
def _forward_kernel(
    features, theta, widths, activations, species_start, n_replicas, tiles,
    hidden, slopes, output,
):  # fmt: skip
    buffer = cuda.shared.array(0, theta.dtype)
    sums = cuda.local.array(SUMS, theta.dtype)
    t, n_threads = cuda.threadIdx.x, cuda.blockDim.x
    tile, replica = cuda.blockIdx.x, cuda.blockIdx.y
    _, _, rows_at_once, columns = _places()
    z = tiles[tile, 0]
    start, end = species_start[z], species_start[z + 1]
    n_rows = end - start
    in_theta, in_hidden, n_units = _starts(widths, species_start, z)
    in_slopes = in_hidden + start
    first_row = replica * (n_rows // n_replicas) + tiles[tile, 1]
    end_row = first_row + tiles[tile, 2] - tiles[tile, 1]
    n_layers = _layers(widths, z)
    at, before, source = in_theta, 0, 0
    for layer in range(n_layers - 1):
        n_in, n_out = widths[z, layer], widths[z, layer + 1]
        inputs, first = hidden, in_hidden + source
        if layer == 0:
            inputs, first = features, start * n_in
        for row in range(first_row, end_row, rows_at_once):
            count = min(rows_at_once, end_row - row)
            for o in range(0, n_out, columns):
                n_columns = min(columns, n_out - o)
                _product(
                    inputs, first + row * n_in, count, n_in, theta, at + o, n_out, n_columns,
                    False, buffer, sums,
                )  # fmt: skip
                r, first_u, step, width = _lanes(columns)
                while r < count:
                    u = first_u
                    while u < n_columns:
                        total = buffer[r * (columns + 1) + u] + theta[at + n_in * n_out + o + u]
                        h, slope = activate(activations[z, layer], total)
                        unit = before + (row + r) * n_out + o + u
                        hidden[in_hidden + unit] = h
                        slopes[in_slopes + unit] = slope
                        u += width
                    r += step
        cuda.syncthreads()
        at += (n_in + 1) * n_out
        source = before
        before += n_rows * n_out
    # the energy is the small difference of replicas: last sum in double precision
    n_in = widths[z, n_layers - 1]
    inputs, first = hidden, in_hidden + source
    if n_layers == 1:
        inputs, first = features, start * n_in
    for row in range(first_row + t, end_row, n_threads):
        y = np.float64(theta[at + n_in])
        for i in range(n_in):
            y += np.float64(inputs[first + row * n_in + i]) * np.float64(theta[at + i])
        y, slope = activate(activations[z, n_layers - 1], y)
        output[start + row] = y
        slopes[in_slopes + n_rows * n_units + row] = slope


def networks_forward(
    features, theta, widths, activations, species_start, n_replicas, tiles, chunks,
    hidden, slopes, output,
):  # fmt: skip
    """Outputs of every atom, and the layers that the backward passes need."""
    launch(_forward_kernel, (tiles.shape[0], n_replicas), *_shared(theta))(
        features.reshape(features.size), theta, widths, activations, species_start, n_replicas,
        tiles, hidden, slopes, output,
    )  # fmt: skip


def _shared(theta):
    """Bytes of shared memory for each thread and in all: `DEPTH` terms of rows and columns."""
    size = DEPTH * theta.dtype.itemsize
    return SIDE * size // COLUMNS, (COLUMNS * SIDE + 2) * size


@cuda.jit
def _backward_kernel(
    slopes, theta, widths, species_start, n_replicas, tiles, lowest,
    deltas, d_features,
):  # fmt: skip
    """deltas = dy/da of all units, laid out as slopes; d_features too if the lowest layer is 0."""
    buffer = cuda.shared.array(0, theta.dtype)
    sums = cuda.local.array(SUMS, theta.dtype)
    t, n_threads = cuda.threadIdx.x, cuda.blockDim.x
    tile, replica = cuda.blockIdx.x, cuda.blockIdx.y
    _, _, rows_at_once, columns = _places()
    z = tiles[tile, 0]
    start, end = species_start[z], species_start[z + 1]
    n_rows = end - start
    in_theta, in_hidden, n_units = _starts(widths, species_start, z)
    first_row = replica * (n_rows // n_replicas) + tiles[tile, 1]
    end_row = first_row + tiles[tile, 2] - tiles[tile, 1]
    n_layers = _layers(widths, z)
    at, above = in_theta, in_hidden + start + n_rows * n_units
    for layer in range(n_layers):
        at += (widths[z, layer] + 1) * widths[z, layer + 1]
    for row in range(first_row + t, end_row, n_threads):
        deltas[above + row] = slopes[above + row]
    cuda.syncthreads()
    for layer in range(n_layers - 1, lowest - 1, -1):
        n_in, n_out = widths[z, layer], widths[z, layer + 1]
        at -= (n_in + 1) * n_out
        below = above - n_rows * n_in
        for row in range(first_row, end_row, rows_at_once):
            count = min(rows_at_once, end_row - row)
            for i in range(0, n_in, columns):
                n_columns = min(columns, n_in - i)
                _product(
                    deltas, above + row * n_out, count, n_out, theta, at + i * n_out, n_out,
                    n_columns, True, buffer, sums,
                )  # fmt: skip
                r, first_u, step, width = _lanes(columns)
                while r < count:
                    u = first_u
                    while u < n_columns:
                        value = buffer[r * (columns + 1) + u]
                        unit = (row + r) * n_in + i + u
                        if layer == 0:
                            d_features[start * n_in + unit] = value
                        else:
                            deltas[below + unit] = value * slopes[below + unit]
                        u += width
                    r += step
        cuda.syncthreads()
        above = below


def networks_backward(
    slopes, theta, widths, species_start, n_replicas, tiles, chunks,
    deltas, d_features,
):  # fmt: skip
    """d_features = dy/d features of every atom (overwritten: nothing else adds to it)."""
    launch(_backward_kernel, (tiles.shape[0], n_replicas), *_shared(theta))(
        slopes, theta, widths, species_start, n_replicas, tiles, 0, deltas,
        d_features.reshape(d_features.size),
    )  # fmt: skip


@cuda.jit(device=True)
def _stage_inputs(source, first, stride, count, depth, gap, items, buffer):
    """As `_stage`, of a number and that ``gap`` further: their mean, then their difference."""
    half = source.dtype.type(0.5)
    k, first_m, step, width = _lanes(items)
    while k < depth:
        m = first_m
        while m < items:
            x = y = half - half
            if m < count:
                place = first + k * stride + m
                x, y = source[np.uintp(place)], source[np.uintp(place + gap)]
            buffer[np.uintp(k * (items + 1) + m)] = half * (x + y)
            buffer[np.uintp((depth + k) * (items + 1) + m)] = x - y
            m += width
        k += step


@cuda.jit(device=True)
def _stage_deltas(deltas, first, stride, count, depth, gap, row_weights, row, to, items, buffer):
    """Weighted deltas of rows; with a gap, what multiplies mean and difference of the inputs.

    ``gap`` is the distance to the same row of the opposite replica, in rows.
    """
    kind = deltas.dtype.type
    half = kind(0.5)
    k, first_m, step, width = _lanes(items)
    while k < depth:
        weight = row_weights[np.uintp(row + k)]
        other = row_weights[np.uintp(row + gap + k)]
        total, odd = kind(weight + other), kind(0.5 * (weight - other))
        m = first_m
        while m < items:
            left = right = half - half
            if m < count:
                place = first + k * stride + m
                d = deltas[np.uintp(place)]
                if gap == 0:
                    left = kind(weight) * d
                else:
                    difference = d - deltas[np.uintp(place + gap * stride)]
                    d -= half * difference
                    left = total * d + odd * difference
                    right = half * half * total * difference + odd * d
            buffer[np.uintp(to + k * (items + 1) + m)] = left
            if gap > 0:
                buffer[np.uintp(to + (depth + k) * (items + 1) + m)] = right
            m += width
        k += step


@cuda.jit
def _gradient_kernel(
    features, hidden, deltas, row_weights, theta, widths, species_start, n_replicas, paired,
    tiles, chunks,
    d_theta,
):  # fmt: skip
    buffer = cuda.shared.array(0, theta.dtype)
    sums = cuda.local.array(SUMS, theta.dtype)
    totals = cuda.local.array(SUMS, row_weights.dtype)
    biases = cuda.local.array(SIDE, row_weights.dtype)
    chunk, part, n_parts = cuda.blockIdx.x, cuda.blockIdx.y, cuda.gridDim.y
    place_in, place_out, inputs_at_once, columns = _places()
    zero = theta.dtype.type(0)
    sides = 2 if paired else 1
    rows_at_once = DEPTH // sides
    to = (inputs_at_once + 1) * DEPTH
    tile, last_tile = chunks[chunk], chunks[chunk + 1]
    while tile < last_tile:
        z, begin = tiles[tile, 0], tile
        while tile < last_tile and tiles[tile, 0] == z:
            tile += 1
        start, end = species_start[z], species_start[z + 1]
        n_rows = end - start
        of_replica = n_rows // n_replicas
        gap = (sides - 1) * of_replica
        at, in_hidden, _ = _starts(widths, species_start, z)
        above = in_hidden + start
        source, source_first = features, 0
        number = 0  # of blocks of the parameters, layer after layer
        for layer in range(_layers(widths, z)):
            n_in, n_out = widths[z, layer], widths[z, layer + 1]
            if layer == 0:
                source_first = start * n_in
            blocks_across = (n_out + columns - 1) // columns
            blocks = (n_in + inputs_at_once - 1) // inputs_at_once * blocks_across
            for block in range((part - number) % n_parts, blocks, n_parts):
                i, o = block // blocks_across * inputs_at_once, block % blocks_across * columns
                for k in range(SUMS):
                    totals[k] = 0.0
                for u in range(SIDE):
                    biases[u] = 0.0
                work = begin * n_replicas
                while work < tile * n_replicas:
                    in_replica = (work % n_replicas) * of_replica
                    row = in_replica + tiles[work // n_replicas, 1]
                    end_row = in_replica + tiles[work // n_replicas, 2]
                    work += sides
                    for k in range(SUMS):
                        sums[k] = zero
                    while row < end_row:
                        depth = min(rows_at_once, end_row - row)
                        cuda.syncthreads()
                        x = source_first + row * n_in + i
                        if paired:
                            _stage_inputs(
                                source, x, n_in, n_in - i, depth, gap * n_in, inputs_at_once, buffer
                            )
                        else:
                            _stage(source, x, n_in, n_in - i, depth, 0, inputs_at_once, buffer)
                        _stage_deltas(
                            deltas, above + row * n_out + o, n_out, n_out - o, depth, gap,
                            row_weights, start + row, to, columns, buffer,
                        )  # fmt: skip
                        cuda.syncthreads()
                        _multiply(
                            buffer, place_in, inputs_at_once + 1, to + place_out, columns + 1,
                            sides * depth, sums,
                        )  # fmt: skip
                        if i == 0 and place_in == 0:
                            for k in range(depth):
                                right = to + k * (columns + 1) + place_out
                                for u in range(SIDE):
                                    biases[u] += np.float64(buffer[np.uintp(right + u)])
                        row += rows_at_once
                    for k in range(SUMS):
                        totals[k] += np.float64(sums[k])
                for r in range(SIDE):
                    for u in range(SIDE):
                        own, to_unit = i + place_in + r, o + place_out + u
                        if own < n_in and to_unit < n_out:
                            d_theta[chunk, at + own * n_out + to_unit] += totals[r * SIDE + u]
                if i == 0 and place_in == 0:
                    for u in range(SIDE):
                        if o + place_out + u < n_out:
                            d_theta[chunk, at + n_in * n_out + o + place_out + u] += biases[u]
            number += blocks
            at += (n_in + 1) * n_out
            source, source_first = hidden, above - start
            above += n_rows * n_out


def networks_gradient(
    features, hidden, slopes, row_weights, theta, widths, species_start, n_replicas, paired,
    tiles, chunks,
    deltas, d_theta,
):  # fmt: skip
    """Add ``sum_rows row_weights dy/d theta`` to d_theta (n_chunks, n_parameters), float64.

    With ``paired``, replicas (+, -, +, -, ..) are combined as in the CPU twin.
    """
    features = features.reshape(features.size)
    launch(_backward_kernel, (tiles.shape[0], n_replicas), *_shared(theta))(
        slopes, theta, widths, species_start, n_replicas, tiles, 1, deltas, features
    )
    launch(_gradient_kernel, (chunks.size - 1, PARTS), *_shared(theta))(
        features, hidden, deltas, row_weights, theta, widths, species_start, n_replicas, paired,
        tiles, chunks, d_theta,
    )  # fmt: skip

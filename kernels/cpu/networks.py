"""Elemental networks: energy of every atom, its gradient in the features and in the parameters.

Elements have networks of their own widths, depths and activations; ``theta`` holds, for each
element and each layer, the weights (n_in, n_out) and then the biases (n_out,). Atoms come in rows
sorted by species and, within a species, by replica. Threads share out tiles of rows:

=============  =======================  =========================================================
features       (n_rows, n_features)     input of the networks
theta          (n_parameters,)          in the dtype of the features
widths         (n_species,              n_features, hidden widths, 1; 0 beyond the last layer of a
               n_layers + 1)            network with fewer layers
activations    (n_species, n_layers)    codes of kernels/cpu/activations.py, the output's the last
species_start  (n_species + 1,)         first row of each species
n_replicas     integer
tiles          (n_tiles, 3)             species, and first and last atom of a replica's rows
chunks         (n_chunks + 1,)          tiles of each thread
hidden         (sum over species of     values of the hidden layers, species after species, layer
               rows * hidden units,)    after layer, (rows of the species, width)
slopes         (len(hidden) + n_rows,)  slopes of the activations there, and of the output after
                                        those of the hidden layers of a species
output         (n_rows,) float64        y; complex128 for complex features
=============  =======================  =========================================================
"""

import numpy as np
from numba import njit, prange

from .activations import LINEAR, activate

FLAGS = {"contract", "reassoc", "nsz", "arcp"}


@njit(cache=True)
def _starts(widths, species_start):
    """First number of each species in theta and in hidden, with their ends."""
    n_species = len(widths)
    in_theta, in_hidden = np.zeros((2, n_species + 1), np.int64)
    for z in range(n_species):
        n_parameters, n_units = 0, 0
        for layer in range(widths.shape[1] - 1):
            n_parameters += (widths[z, layer] + 1) * widths[z, layer + 1]
            n_units += widths[z, layer + 1]
        n_units -= 1  # the output
        in_theta[z + 1] = in_theta[z] + n_parameters
        in_hidden[z + 1] = in_hidden[z] + n_units * (species_start[z + 1] - species_start[z])
    return in_theta, in_hidden


@njit(cache=True)
def _own_widths(widths):
    """Widths of one species without the zeros at their end."""
    n = len(widths)
    while widths[n - 1] == 0:
        n -= 1
    return widths[:n]


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _forward_tile(features, theta, widths, activations, row, count, hidden, slopes, output):
    """Layers of one tile of rows; rows and parameters are those of one species."""
    n_rows, n_layers = len(features), len(widths) - 1
    x = features[row : row + count]
    at, before = 0, 0
    for layer in range(n_layers - 1):
        n_in, n_out = widths[layer], widths[layer + 1]
        weights = theta[at : at + n_in * n_out].reshape(n_in, n_out)
        bias = theta[at + n_in * n_out : at + (n_in + 1) * n_out]
        first = before + row * n_out
        h = hidden[first : first + count * n_out]
        square = h.reshape(count, n_out)
        np.dot(x, weights, square)
        for k in range(count):
            for o in range(n_out):
                square[k, o] += bias[o]
        activate(activations[layer], h, slopes[first : first + count * n_out])
        x = square
        at += (n_in + 1) * n_out
        before += n_rows * n_out
    # the energy is the small difference of replicas: last sum in double precision
    n_in = widths[n_layers - 1]
    for k in range(count):
        y = np.float64(1.0) * theta[at + n_in]
        for i in range(n_in):
            y += np.float64(1.0) * x[k, i] * theta[at + i]
        output[row + k] = y
        slopes[before + row + k] = 1
    if activations[n_layers - 1] != LINEAR:
        outputs = output[row : row + count]
        slope = np.empty_like(outputs)
        activate(activations[n_layers - 1], outputs, slope)
        for k in range(count):
            slopes[before + row + k] = slope[k]


@njit(cache=True, parallel=True, error_model="numpy")
def networks_forward(
    features, theta, widths, activations, species_start, n_replicas, tiles, chunks,
    hidden, slopes, output,
):  # fmt: skip
    """Outputs of every atom, and the layers that the backward passes need."""
    in_theta, in_hidden = _starts(widths, species_start)
    for chunk in prange(len(chunks) - 1):
        for tile in range(chunks[chunk], chunks[chunk + 1]):
            z = tiles[tile, 0]
            start, end = species_start[z], species_start[z + 1]
            of_replica = (end - start) // n_replicas
            for replica in range(n_replicas):
                _forward_tile(
                    features[start:end], theta[in_theta[z] : in_theta[z + 1]],
                    _own_widths(widths[z]), activations[z],
                    replica * of_replica + tiles[tile, 1], tiles[tile, 2] - tiles[tile, 1],
                    hidden[in_hidden[z] : in_hidden[z + 1]],
                    slopes[in_hidden[z] + start : in_hidden[z + 1] + end], output[start:end],
                )  # fmt: skip


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _deltas(slopes, theta, widths, row, count, n_rows, delta, spare):
    """delta = dy/da of the first hidden layer of one tile (n_layers > 1)."""
    n_layers = len(widths) - 1
    n_in = widths[n_layers - 1]
    at, last = len(theta) - (n_in + 1), len(slopes) - n_rows
    before = last - n_rows * n_in
    for k in range(count):
        slope = slopes[last + row + k]
        for i in range(n_in):
            delta[k * n_in + i] = slope * theta[at + i] * slopes[before + (row + k) * n_in + i]
    for layer in range(n_layers - 2, 0, -1):
        n_in, n_out = widths[layer], widths[layer + 1]
        at -= (n_in + 1) * n_out
        before -= n_rows * n_in
        weights = theta[at : at + n_in * n_out].reshape(n_in, n_out)
        back = spare[: count * n_in].reshape(count, n_in)
        np.dot(delta[: count * n_out].reshape(count, n_out), weights.T, back)
        for k in range(count * n_in):
            delta[k] = spare[k] * slopes[before + row * n_in + k]


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _backward_tile(slopes, theta, widths, row, count, d_features):
    n_rows, n_in, n_out = len(d_features), widths[0], widths[1]
    out = d_features[row : row + count]
    if len(widths) == 2:
        for k in range(count):
            for i in range(n_in):
                out[k, i] = theta[i] * slopes[row + k]
        return
    size = count * widths.max()
    delta, spare = np.empty(size, out.dtype), np.empty(size, out.dtype)
    _deltas(slopes, theta, widths, row, count, n_rows, delta, spare)
    weights = theta[: n_in * n_out].reshape(n_in, n_out)
    np.dot(delta[: count * n_out].reshape(count, n_out), weights.T, out)


@njit(cache=True, parallel=True, error_model="numpy")
def networks_backward(
    slopes, theta, widths, species_start, n_replicas, tiles, chunks,
    d_features,
):  # fmt: skip
    """d_features = dy/d features of every atom (overwritten: nothing else adds to it)."""
    in_theta, in_hidden = _starts(widths, species_start)
    for chunk in prange(len(chunks) - 1):
        for tile in range(chunks[chunk], chunks[chunk + 1]):
            z = tiles[tile, 0]
            start, end = species_start[z], species_start[z + 1]
            of_replica = (end - start) // n_replicas
            for replica in range(n_replicas):
                _backward_tile(
                    slopes[in_hidden[z] + start : in_hidden[z + 1] + end],
                    theta[in_theta[z] : in_theta[z + 1]], _own_widths(widths[z]),
                    replica * of_replica + tiles[tile, 1], tiles[tile, 2] - tiles[tile, 1],
                    d_features[start:end],
                )  # fmt: skip


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _gradient_tile(
    features, hidden, slopes, row_weights, theta, widths, row, other, count,
    d_theta,
):  # fmt: skip
    """One tile; rows and parameters are those of one species.

    ``other`` is the first row of the opposite replica, or ``row`` itself for no pairing.
    """
    n_rows, n_layers = len(features), len(widths) - 1
    paired = other != row
    size = count * widths.max()
    delta = np.empty((2, size), features.dtype)
    spare, difference = np.empty(size, features.dtype), np.empty(size, features.dtype)
    mean = np.empty(size, features.dtype)
    product = np.empty(widths.max() ** 2, features.dtype)
    end, before = len(theta), len(hidden)
    for layer in range(n_layers - 1, -1, -1):
        n_in, n_out = widths[layer], widths[layer + 1]
        at = end - (n_in + 1) * n_out
        n_delta, n_weights = count * n_out, n_in * n_out
        for side in range(2 if paired else 1):
            first = before + (row if side == 0 else other) * n_out
            if layer == n_layers - 1:
                for k in range(count):
                    delta[side, k] = slopes[first + k]
            else:
                above = widths[layer + 2]
                weights = theta[end : end + n_out * above].reshape(n_out, above)
                back = spare[:n_delta].reshape(count, n_out)
                np.dot(delta[side, : count * above].reshape(count, above), weights.T, back)
                for k in range(n_delta):
                    delta[side, k] = spare[k] * slopes[first + k]
        if layer == 0:
            x, y = features[row : row + count], features[other : other + count]
        else:
            before -= n_rows * n_in
            first = before + row * n_in
            x = hidden[first : first + count * n_in].reshape(count, n_in)
            first = before + other * n_in
            y = hidden[first : first + count * n_in].reshape(count, n_in)
        out = product[:n_weights].reshape(n_in, n_out)
        left = spare[:n_delta].reshape(count, n_out)
        right = difference[:n_delta].reshape(count, n_out)
        for k in range(count):
            s, t = row_weights[row + k], row_weights[row + k] * 0
            if paired:
                s = row_weights[row + k] + row_weights[other + k]
                t = 0.5 * (row_weights[row + k] - row_weights[other + k])
            for o in range(n_out):
                d = delta[0, k * n_out + o] * np.float64(1.0)
                gap = d * 0
                if paired:
                    gap = d - delta[1, k * n_out + o]
                    d -= 0.5 * gap
                value = s * d + t * gap
                left[k, o] = value
                right[k, o] = 0.25 * s * gap + t * d
                d_theta[at + n_weights + o] += value
        if not paired:
            np.dot(x.T, left, out)
            for q in range(n_weights):
                d_theta[at + q] += product[q]
        else:
            half = mean[: count * n_in].reshape(count, n_in)
            for k in range(count):
                for i in range(n_in):
                    half[k, i] = 0.5 * (x[k, i] + y[k, i])
            np.dot(half.T, left, out)
            for q in range(n_weights):
                d_theta[at + q] += product[q]
            for k in range(count):
                for i in range(n_in):
                    half[k, i] = x[k, i] - y[k, i]
            np.dot(half.T, right, out)
            for q in range(n_weights):
                d_theta[at + q] += product[q]
        end = at


@njit(cache=True, parallel=True, error_model="numpy")
def networks_gradient(
    features, hidden, slopes, row_weights, theta, widths, species_start, n_replicas, paired,
    tiles, chunks,
    d_theta,
):  # fmt: skip
    """Add ``sum_rows row_weights dy/d theta`` to d_theta (n_chunks, n_parameters), float64.

    With ``paired``, replicas (+, -, +, -, ..) are combined as
    ``x' (s d + t D) + X' (s D / 4 + t d)`` with means x, d and differences X, D of inputs and
    deltas, s the sum of both weights and t half their difference: the products of float32 numbers
    then do not lose the digits of the small difference.
    """
    in_theta, in_hidden = _starts(widths, species_start)
    group = 2 if paired else 1
    for chunk in prange(len(chunks) - 1):
        for tile in range(chunks[chunk], chunks[chunk + 1]):
            z = tiles[tile, 0]
            start, end = species_start[z], species_start[z + 1]
            of_replica = (end - start) // n_replicas
            for replica in range(0, n_replicas, group):
                row = replica * of_replica + tiles[tile, 1]
                _gradient_tile(
                    features[start:end], hidden[in_hidden[z] : in_hidden[z + 1]],
                    slopes[in_hidden[z] + start : in_hidden[z + 1] + end], row_weights[start:end],
                    theta[in_theta[z] : in_theta[z + 1]], _own_widths(widths[z]),
                    row, row + (group - 1) * of_replica, tiles[tile, 2] - tiles[tile, 1],
                    d_theta[chunk, in_theta[z] : in_theta[z + 1]],
                )  # fmt: skip

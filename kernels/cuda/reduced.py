"""Linear combinations of features; arguments as in the CPU twin.

Products of matrices as in `networks`: a block computes `ROWS` rows, 32 columns at a time, and
stages both factors in shared memory. A number of the matrix is read once for 64 atoms.
"""

from .networks import SUMS, _lanes, _places, _product, _shared
from .runtime import cuda, launch
from .species_rows import species_of

ROWS = 64
"""Rows of a block: those that 128 threads compute at once."""


@cuda.jit
def _forward_kernel(plain, n, matrix, species_start, mean, scale, features):
    buffer = cuda.shared.array(0, matrix.dtype)
    sums = cuda.local.array(SUMS, matrix.dtype)
    n_rows, n_features = features.shape
    _, _, rows_at_once, columns = _places()
    first = ROWS * cuda.blockIdx.x
    end = min(first + ROWS, n_rows)
    for row in range(first, end, rows_at_once):
        count = min(rows_at_once, end - row)
        for o in range(0, n_features, columns):
            n_columns = min(columns, n_features - o)
            _product(
                plain, row * n, count, n, matrix, o, n_features, n_columns, False, buffer, sums
            )
            r, first_u, step, width = _lanes(columns)
            while r < count:
                z = species_of(species_start, row + r)
                u = first_u
                while u < n_columns:
                    value = buffer[r * (columns + 1) + u] - mean[z, o + u]
                    features[row + r, o + u] = value * scale[z, o + u]
                    u += width
                r += step


def reduced_forward(plain, matrix, species_start, mean, scale, features):
    """Combinations of the features of each atom."""
    n_rows, n = plain.shape
    launch(_forward_kernel, -(-n_rows // ROWS), *_shared(matrix))(
        plain.reshape(plain.size), n, matrix.reshape(matrix.size), species_start, mean, scale,
        features,
    )  # fmt: skip


@cuda.jit
def _backward_kernel(d_features, matrix, species_start, scale, scaled, d_plain):
    buffer = cuda.shared.array(0, matrix.dtype)
    sums = cuda.local.array(SUMS, matrix.dtype)
    n_rows, n_features = d_features.shape
    n = d_plain.shape[1]
    _, _, rows_at_once, columns = _places()
    first = ROWS * cuda.blockIdx.x
    end = min(first + ROWS, n_rows)
    r, first_u, step, width = _lanes(columns)
    row = first + r
    while row < end:
        z = species_of(species_start, row)
        for k in range(first_u, n_features, width):
            scaled[row * n_features + k] = d_features[row, k] * scale[z, k]
        row += step
    cuda.syncthreads()
    for row in range(first, end, rows_at_once):
        count = min(rows_at_once, end - row)
        for k in range(0, n, columns):
            n_columns = min(columns, n - k)
            _product(
                scaled, row * n_features, count, n_features, matrix, k * n_features, n_features,
                n_columns, True, buffer, sums,
            )  # fmt: skip
            r, first_u, step, width = _lanes(columns)
            while r < count:
                u = first_u
                while u < n_columns:
                    d_plain[row + r, k + u] = buffer[r * (columns + 1) + u]
                    u += width
                r += step


def reduced_backward(d_features, matrix, species_start, scale, scaled, d_plain):
    """Overwrites d_plain, and `scaled`, which is scratch of the size of d_features."""
    launch(_backward_kernel, -(-d_features.shape[0] // ROWS), *_shared(matrix))(
        d_features, matrix.reshape(matrix.size), species_start, scale,
        scaled.reshape(scaled.size), d_plain,
    )  # fmt: skip

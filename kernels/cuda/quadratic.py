"""Products of features; formulas and arguments as in the CPU twin.

A block works on the row of an atom, a thread on some of its numbers. On the way back the thread of
feature k walks through its products with l = 0, 1, .., which stand at ``n + k``, then ``n - 1``
further, ``n - 2`` further, .. up to its square, and then one after another. An atom costs
n (n + 1) multiplications forward and 2 n^2 additions and multiplications back; with many features,
what is read and written of it counts more: n (n + 3) / 2 numbers each way.
"""

import numpy as np

from .runtime import NEXT, NONE, cuda, launch
from .species_rows import species_of


@cuda.jit
def _forward_kernel(plain, first, second, factor, species_start, mean, scale, features):
    row, n = cuda.blockIdx.x, plain.shape[1]
    z = species_of(species_start, row)
    for k in range(cuda.threadIdx.x, features.shape[1], cuda.blockDim.x):
        if k < n:
            value = plain[row, k]
        else:
            value = factor[k - n] * plain[row, first[k - n]] * plain[row, second[k - n]]
        features[row, k] = (value - mean[z, k]) * scale[z, k]


def quadratic_forward(plain, first, second, factor, species_start, mean, scale, features):
    """Features and products of each atom."""
    launch(_forward_kernel, plain.shape[0])(
        plain, first, second, factor, species_start, mean, scale, features
    )


@cuda.jit
def _backward_kernel(d_features, plain, species_start, scale, d_plain):
    row, n = cuda.blockIdx.x, plain.shape[1]
    z = species_of(species_start, row)
    for k in range(cuda.threadIdx.x, n, cuda.blockDim.x):
        total = d_features[row, k] * scale[z, k]
        at, gap, own, end = np.uintp(n + k), np.uintp(n - 1), np.uintp(k), np.uintp(n)
        l = NONE
        while l < end:
            # the factor 1/2 of the square is gone: both of its features are this one
            total += d_features[row, at] * scale[z, at] * plain[row, l]
            if l < own:
                at += gap
                gap -= NEXT
            else:
                at += NEXT
            l += NEXT
        d_plain[row, k] = total


def quadratic_backward(d_features, plain, first, second, factor, species_start, scale, d_plain):
    """Overwrites d_plain."""
    n_rows, n = plain.shape
    launch(_backward_kernel, n_rows, most_threads=_power_of_two(n))(
        d_features, plain, species_start, scale, d_plain
    )


def _power_of_two(n):
    """The first that is no less, at least that of a warp."""
    return max(1 << (n - 1).bit_length(), 32)

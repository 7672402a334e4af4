"""Sums over atoms, structures and chunks in a fixed order, in double precision.

A block adds up what one structure has: thread t takes every n-th number from t on, and then the
threads' sums are added in pairs, in the same way in every run.
"""

import numpy as np

from .runtime import cuda, launch, launch_over


@cuda.jit(device=True)
def block_sum(buffer, value):
    """Sum of a value of every thread of a block; all threads call it, and all get the sum.

    ``buffer`` holds a float64 for every thread, whose number is a power of two.
    """
    t, half = cuda.threadIdx.x, cuda.blockDim.x // 2
    cuda.syncthreads()  # what it held may still be read
    buffer[t] = value
    cuda.syncthreads()
    while half > 0:
        if t < half:
            buffer[t] += buffer[t + half]
        cuda.syncthreads()
        half //= 2
    return buffer[0]


@cuda.jit
def _fill_kernel(array, value):
    k = cuda.grid(1)
    if k < array.size:
        array[k] = value


def fill(array, value):
    """Set all numbers of a flat array."""
    launch_over(_fill_kernel, array.size)(array, value)


@cuda.jit
def _energies_kernel(output, place, species, offsets, scale, reference, n_atoms, energy):
    buffer = cuda.shared.array(0, energy.dtype)
    s = cuda.blockIdx.x
    total = 0.0
    for atom in range(offsets[s] + cuda.threadIdx.x, offsets[s + 1], cuda.blockDim.x):
        total += scale * output[place[atom]] + reference[species[atom % n_atoms]]
    total = block_sum(buffer, total)
    if cuda.threadIdx.x == 0:
        energy[s] = total


def sum_energies(output, place, species, offsets, scale, reference, n_atoms, energy):
    """Energy of every structure and replica from the outputs of its atoms' networks."""
    launch(_energies_kernel, energy.size, 8)(
        output, place, species, offsets, scale, reference, n_atoms, energy
    )


@cuda.jit
def _rows_kernel(weights, structure, place, scale, row_weights):
    atom = cuda.grid(1)
    if atom < structure.size:
        row_weights[place[atom]] = scale * weights[structure[atom]]


def weigh_rows(weights, structure, place, scale, row_weights):
    """Weights of structures for their atoms, in the rows of the networks."""
    launch_over(_rows_kernel, structure.size)(
        weights, structure, place, scale, row_weights
    )


@cuda.jit
def _chunks_kernel(parts, total):
    k = cuda.grid(1)
    if k < total.size:
        value = 0.0
        for chunk in range(parts.shape[0]):
            value += parts[chunk, k]
        total[k] = value


def sum_chunks(parts, total):
    """Sum over the first axis of (n_chunks, n)."""
    launch_over(_chunks_kernel, total.size)(parts, total)


@cuda.jit
def _forces_kernel(d_positions, d_strain, offsets, virial):
    buffer = cuda.shared.array(0, virial.dtype)
    s = cuda.blockIdx.x
    for atom in range(offsets[s] + cuda.threadIdx.x, offsets[s + 1], cuda.blockDim.x):
        for axis in range(3):
            d_positions[atom, axis] = -d_positions[atom, axis]
    for component in range(6):
        total = 0.0
        for atom in range(offsets[s] + cuda.threadIdx.x, offsets[s + 1], cuda.blockDim.x):
            total -= d_strain[atom, component]
        total = block_sum(buffer, total)
        if cuda.threadIdx.x == 0:
            # Voigt: xx yy zz yz xz xy
            row = component if component < 3 else (1 if component == 3 else 0)
            column = component if component < 3 else (1 if component == 5 else 2)
            virial[s, row, column] = total
            virial[s, column, row] = total


def forces_and_virials(d_positions, d_strain, offsets, virial):
    """Turn dE/dr into forces, and sum W = -dE/ds (S, 3, 3) of every structure over its atoms."""
    launch(_forces_kernel, offsets.size - 1, 8)(d_positions, d_strain, offsets, virial)


@cuda.jit
def _add_kernel(a, b, total):
    k = cuda.grid(1)
    if k < total.size:
        total[k] = np.float64(a[k]) + np.float64(b[k])


def add(a, b, total):
    """Sum of two flat arrays, in double precision."""
    launch_over(_add_kernel, total.size)(a, b, total)

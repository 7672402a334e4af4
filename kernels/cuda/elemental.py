"""A descriptor of its own for every element; arguments as in the CPU twin.

A thread works on one row of pairs, or one feature. The kernels of the descriptors have a block for
every atom, also for those of other species: without neighbours it is done at once.
"""

from .runtime import cuda, launch, launch_over


@cuda.jit
def _around_kernel(species, row_begin, row_end, z, own_end):
    row = cuda.grid(1)
    if row < row_end.size:
        n_species = row_end.size // species.size
        atom = row // n_species
        # all rows of another atom end where its first begins: kernels go through them in one
        own_end[row] = row_end[row] if species[atom] == z else row_begin[atom * n_species]


def rows_around(species, row_begin, row_end, z, own_end):
    """``row_end`` without the neighbours of atoms that are not of species z."""
    launch_over(_around_kernel, row_end.size)(species, row_begin, row_end, z, own_end)


@cuda.jit
def _forward_kernel(plain, z, species_start, mean, scale, features):
    row = cuda.blockIdx.x
    if row < species_start[z] or row >= species_start[z + 1]:
        return
    n = plain.shape[1]
    for k in range(cuda.threadIdx.x, features.shape[1], cuda.blockDim.x):
        value = plain[row, k] if k < n else features.dtype.type(0)
        features[row, k] = (value - mean[z, k]) * scale[z, k]


def elemental_forward(plain, z, species_start, mean, scale, features):
    """Features of the atoms of species z; rows of others are left alone."""
    launch(_forward_kernel, plain.shape[0])(plain, z, species_start, mean, scale, features)


@cuda.jit
def _backward_kernel(d_features, z, scale, d_plain):
    row = cuda.blockIdx.x
    for k in range(cuda.threadIdx.x, d_plain.shape[1], cuda.blockDim.x):
        d_plain[row, k] = d_features[row, k] * scale[z, k]


def elemental_backward(d_features, z, scale, d_plain):
    """Overwrites d_plain; what it holds for other species meets no neighbours (`rows_around`)."""
    launch(_backward_kernel, d_plain.shape[0])(d_features, z, scale, d_plain)

"""Structures of a data set on the device, laid end to end as a batch.

Everything of a data set stays on the device; a batch is chosen by the numbers of its structures.

==============  ====================  ============================================================
chosen          (S,) int64            structures of the data set
offsets         (S + 1,) int64        first atom of each of them in the batch
species_before  (S, n_species) int64  atoms of a species in the structures before, in the batch
rank            (n_atoms of the       place of an atom among those of its species in its structure
                data set,) int64
==============  ====================  ============================================================
"""

from .runtime import cuda, launch


@cuda.jit
def _gather_kernel(
    chosen, offsets, species_before, species_start,
    all_offsets, all_positions, all_cells, all_species, rank, row_start,
    positions, cells, structure, species, row_begin, row_end, place,
):  # fmt: skip
    s, t = cuda.blockIdx.x, cuda.threadIdx.x
    source, n_species = chosen[s], species_before.shape[1]
    for k in range(t, 9, cuda.blockDim.x):
        cells[s, k // 3, k % 3] = all_cells[source, k // 3, k % 3]
    for k in range(t, offsets[s + 1] - offsets[s], cuda.blockDim.x):
        atom, old = offsets[s] + k, all_offsets[source] + k
        z = all_species[old]
        for axis in range(3):
            positions[atom, axis] = all_positions[old, axis]
        structure[atom] = s
        species[atom] = z
        place[atom] = species_start[z] + species_before[s, z] + rank[old]
        for y in range(n_species):
            row_begin[atom * n_species + y] = row_start[old * n_species + y]
            row_end[atom * n_species + y] = row_start[old * n_species + y + 1]


def gather_structures(
    chosen, offsets, species_before, species_start,
    all_offsets, all_positions, all_cells, all_species, rank, row_start,
    positions, cells, structure, species, row_begin, row_end, place,
):  # fmt: skip
    """Atoms, cells and rows of pairs of some structures."""
    launch(_gather_kernel, chosen.size)(
        chosen, offsets, species_before, species_start,
        all_offsets, all_positions, all_cells, all_species, rank, row_start,
        positions, cells, structure, species, row_begin, row_end, place,
    )  # fmt: skip


@cuda.jit
def _gather_rows_kernel(chosen, offsets, all_offsets, values, out):
    s, width = cuda.blockIdx.x, values.shape[1]
    first, count = all_offsets[chosen[s]], offsets[s + 1] - offsets[s]
    for k in range(cuda.threadIdx.x, count * width, cuda.blockDim.x):
        out[offsets[s] + k // width, k % width] = values[first + k // width, k % width]


def gather_rows(chosen, offsets, all_offsets, values, out):
    """Rows of atoms (n_atoms of the data set, width) of some structures."""
    launch(_gather_rows_kernel, chosen.size)(chosen, offsets, all_offsets, values, out)

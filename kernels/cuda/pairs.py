"""What all pair kernels share: separations, and forces and strain from slopes along them.

A backward kernel of a descriptor writes the slope of the energy with respect to the separation of
every pair, ``d_separations``. Row ``p + pair_offset[s]`` is pair p of the data set's list, in a
batch that holds structure s. `sum_separations` then adds for each atom, in the order of its row,
what its own pairs give and what the opposite pairs of its neighbours give: no atomics, so the same
forces in every run.

=============  ====================  ==============================================================
pair_offset    (S,) int64            from the place of a pair in the data set to that in the batch
opposite       (n_pairs,) int64      the pair (j, i, -shift) of every pair (i, j, shift)
d_separations  (n_pairs of the       dE/dd of every pair, in the working dtype
               batch, 3)
=============  ====================  ==============================================================
"""

import numpy as np

from .runtime import NEXT, cuda, launch_over


@cuda.jit(device=True)
def separation(positions, cells, offsets, neighbor, shift, atom, structure, pair):
    """d = r_j + shift . cell - r_i of one pair, in float64."""
    pair, structure, atom = np.uintp(pair), np.uintp(structure), np.uintp(atom)
    j = np.uintp(offsets[structure] + neighbor[pair])
    a, b, c = np.float64(shift[0, pair]), np.float64(shift[1, pair]), np.float64(shift[2, pair])
    x = positions[j, 0] - positions[atom, 0]
    y = positions[j, 1] - positions[atom, 1]
    z = positions[j, 2] - positions[atom, 2]
    x += a * cells[structure, 0, 0] + b * cells[structure, 1, 0] + c * cells[structure, 2, 0]
    y += a * cells[structure, 0, 1] + b * cells[structure, 1, 1] + c * cells[structure, 2, 1]
    z += a * cells[structure, 0, 2] + b * cells[structure, 1, 2] + c * cells[structure, 2, 2]
    return x, y, z


@cuda.jit
def _opposite_kernel(
    species, structure, first_atom, row_start, neighbor, shift, n_species, opposite
):
    atom = cuda.grid(1)
    if atom >= species.size:
        return
    first = first_atom[structure[atom]]
    z = species[atom]
    for pair in range(row_start[atom * n_species], row_start[(atom + 1) * n_species]):
        j = first + neighbor[pair]
        i = atom - first
        found = -1
        for other in range(row_start[j * n_species + z], row_start[j * n_species + z + 1]):
            if (
                neighbor[other] == i
                and shift[0, other] == -shift[0, pair]
                and shift[1, other] == -shift[1, pair]
                and shift[2, other] == -shift[2, pair]
            ):
                found = other
                break
        opposite[pair] = found


def opposite_pairs(species, structure, first_atom, row_start, neighbor, shift, n_species, opposite):
    """Find the opposite of every pair of a data set; -1 where the list lacks it."""
    launch_over(_opposite_kernel, species.size)(
        species, structure, first_atom, row_start, neighbor, shift, n_species, opposite
    )


@cuda.jit
def _sum_kernel(
    d_separations, positions, cells, structure, offsets, row_begin, row_end, neighbor, shift,
    pair_offset, opposite, d_positions, d_strain,
):  # fmt: skip
    atom = cuda.grid(1)
    if atom >= structure.size:
        return
    s, n_species = structure[atom], row_begin.size // structure.size
    to_batch = pair_offset[s]
    gx, gy, gz = 0.0, 0.0, 0.0
    xx, yy, zz, yz, xz, xy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    pair = np.uintp(row_begin[atom * n_species])
    end = np.uintp(row_end[(atom + 1) * n_species - 1])
    while pair < end:
        x, y, z = separation(positions, cells, offsets, neighbor, shift, atom, s, pair)
        own = np.uintp(np.int64(pair) + to_batch)
        other = np.uintp(opposite[pair] + to_batch)
        dx = np.float64(d_separations[own, 0])
        dy = np.float64(d_separations[own, 1])
        dz = np.float64(d_separations[own, 2])
        gx += np.float64(d_separations[other, 0]) - dx
        gy += np.float64(d_separations[other, 1]) - dy
        gz += np.float64(d_separations[other, 2]) - dz
        xx += x * dx
        yy += y * dy
        zz += z * dz
        yz += y * dz
        xz += x * dz
        xy += x * dy
        pair += NEXT
    d_positions[atom, 0], d_positions[atom, 1], d_positions[atom, 2] = gx, gy, gz
    d_strain[atom, 0], d_strain[atom, 1], d_strain[atom, 2] = xx, yy, zz
    d_strain[atom, 3], d_strain[atom, 4], d_strain[atom, 5] = yz, xz, xy


def sum_separations(
    d_separations, positions, cells, structure, offsets, row_begin, row_end, neighbor, shift,
    pair_offset, opposite, d_positions, d_strain,
):  # fmt: skip
    """dE/dr (N, 3) and, in Voigt order xx yy zz yz xz xy, dE/ds (N, 6) of every atom."""
    launch_over(_sum_kernel, structure.size)(
        d_separations, positions, cells, structure, offsets, row_begin, row_end, neighbor, shift,
        pair_offset, opposite, d_positions, d_strain,
    )  # fmt: skip

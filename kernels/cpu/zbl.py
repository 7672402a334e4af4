"""Ziegler-Biersack-Littmark repulsion, switched or shifted to zero at an outer radius."""

import numpy as np
from numba import njit


@njit(cache=True, error_model="numpy")
def zbl_forward(
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift, n_replicas,
    prefactor, inverse_length, inner, outer, shift_cubic, shift_quartic, shift_constant, margin,
    atom_energy, forces, strain,
):  # fmt: skip
    """Energy of every atom, forces and -dE/d strain (xx yy zz yz xz xy), all added.

    Between ``inner`` and ``outer`` the repulsion is multiplied by a quintic switch, or, where the
    arrays ``shift_…`` are not empty, the polynomial ``constant + cubic u^3 + quartic u^4`` in
    ``u = r - inner`` is added to it (the constant alone below ``inner``), as in LAMMPS.

    Rows are sorted by the distance at which they were listed, so a row ends where that distance is
    certain to be beyond ``outer`` (by ``margin``, the skin). ``prefactor`` (eV Å),
    ``inverse_length`` (1/Å), ``inner`` and ``outer`` (Å) are indexed by the species of both atoms.
    """
    n_atoms = len(species)
    n_species = len(outer)
    shifted = len(shift_constant) > 0
    for atom in range(n_replicas * n_atoms):
        i = atom % n_atoms
        base = offsets[structure[atom]]
        cell = cells[structure[atom]]
        for z in range(n_species):
            limit = outer[species[i], z]
            for p in range(row_begin[i * n_species + z], row_end[i * n_species + z]):
                j = base + neighbor[p]
                a, b, c = float(shift[0, p]), float(shift[1, p]), float(shift[2, p])
                x = positions[j, 0] - positions[atom, 0]
                y = positions[j, 1] - positions[atom, 1]
                t = positions[j, 2] - positions[atom, 2]
                x += a * cell[0, 0] + b * cell[1, 0] + c * cell[2, 0]
                y += a * cell[0, 1] + b * cell[1, 1] + c * cell[2, 1]
                t += a * cell[0, 2] + b * cell[1, 2] + c * cell[2, 2]
                r = np.sqrt(x * x + y * y + t * t)
                if r.real > limit + 2.0 * margin:
                    break
                if r.real >= limit:
                    continue
                k = inverse_length[species[i], z]
                e1 = 0.18175 * np.exp(-3.1998 * k * r)
                e2 = 0.50986 * np.exp(-0.94229 * k * r)
                e3 = 0.28022 * np.exp(-0.4029 * k * r)
                e4 = 0.02817 * np.exp(-0.20162 * k * r)
                screening = e1 + e2 + e3 + e4
                slope = -k * (3.1998 * e1 + 0.94229 * e2 + 0.4029 * e3 + 0.20162 * e4)
                energy = prefactor[species[i], z] * screening / r
                slope = prefactor[species[i], z] * slope / r - energy / r
                start = inner[species[i], z]
                if shifted:
                    energy += shift_constant[species[i], z]
                    if r.real > start:
                        u = r - start
                        third, fourth = shift_cubic[species[i], z], shift_quartic[species[i], z]
                        energy += u * u * u * (third + fourth * u)
                        slope += u * u * (3.0 * third + 4.0 * fourth * u)
                elif r.real > start:
                    # quintic switch from 1 to 0
                    width = limit - start
                    u = (r - start) / width
                    switch = 1.0 - u * u * u * (10.0 - 15.0 * u + 6.0 * u * u)
                    d_switch = -30.0 * u * u * (1.0 - u) * (1.0 - u) / width
                    slope = slope * switch + energy * d_switch
                    energy = energy * switch
                # every pair is listed twice: half of it here
                atom_energy[atom] += 0.5 * energy
                g = 0.5 * slope / r
                forces[atom, 0] += g * x
                forces[atom, 1] += g * y
                forces[atom, 2] += g * t
                forces[j, 0] -= g * x
                forces[j, 1] -= g * y
                forces[j, 2] -= g * t
                strain[atom, 0] -= g * x * x
                strain[atom, 1] -= g * y * y
                strain[atom, 2] -= g * t * t
                strain[atom, 3] -= g * y * t
                strain[atom, 4] -= g * x * t
                strain[atom, 5] -= g * x * y

"""Ziegler-Biersack-Littmark repulsion; formulas and arguments as in the CPU twin.

A thread works on one atom and takes its close pairs in the order of the list. The opposite pair of
every pair gives the atom the same force, so the thread counts its own pairs in full and adds to
nothing but its own atom: all tables must be symmetric. Everything is in double precision; few
pairs are close enough to count.
"""

import math

from .pairs import separation
from .runtime import cuda, launch_over


@cuda.jit
def _forward_kernel(
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    prefactor, inverse_length, inner, outer, shift_cubic, shift_quartic, shift_constant, margin,
    atom_energy, forces, strain,
):  # fmt: skip
    atom = cuda.grid(1)
    if atom >= structure.size:
        return
    n_species = outer.shape[0]
    i, s = atom % species.size, structure[atom]
    centre = species[i]
    shifted = shift_constant.shape[0] > 0
    total, fx, fy, fz = 0.0, 0.0, 0.0, 0.0
    xx, yy, zz, yz, xz, xy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for z in range(n_species):
        start, limit = inner[centre, z], outer[centre, z]
        for pair in range(row_begin[i * n_species + z], row_end[i * n_species + z]):
            x, y, t = separation(positions, cells, offsets, neighbor, shift, atom, s, pair)
            r = math.sqrt(x * x + y * y + t * t)
            if r > limit + 2.0 * margin:
                break
            if r >= limit:
                continue
            k = inverse_length[centre, z]
            e1 = 0.18175 * math.exp(-3.1998 * k * r)
            e2 = 0.50986 * math.exp(-0.94229 * k * r)
            e3 = 0.28022 * math.exp(-0.4029 * k * r)
            e4 = 0.02817 * math.exp(-0.20162 * k * r)
            slope = -k * (3.1998 * e1 + 0.94229 * e2 + 0.4029 * e3 + 0.20162 * e4)
            energy = prefactor[centre, z] * (e1 + e2 + e3 + e4) / r
            slope = prefactor[centre, z] * slope / r - energy / r
            if shifted:
                energy += shift_constant[centre, z]
                if r > start:
                    u = r - start
                    third, fourth = shift_cubic[centre, z], shift_quartic[centre, z]
                    energy += u * u * u * (third + fourth * u)
                    slope += u * u * (3.0 * third + 4.0 * fourth * u)
            elif r > start:
                # quintic switch from 1 to 0
                width = limit - start
                u = (r - start) / width
                switch = 1.0 - u * u * u * (10.0 - 15.0 * u + 6.0 * u * u)
                d_switch = -30.0 * u * u * (1.0 - u) * (1.0 - u) / width
                slope = slope * switch + energy * d_switch
                energy = energy * switch
            # every pair is listed twice: half of its energy and of its virial here
            total += 0.5 * energy
            g = slope / r
            fx += g * x
            fy += g * y
            fz += g * t
            g *= 0.5
            xx -= g * x * x
            yy -= g * y * y
            zz -= g * t * t
            yz -= g * y * t
            xz -= g * x * t
            xy -= g * x * y
    atom_energy[atom] += total
    forces[atom, 0] += fx
    forces[atom, 1] += fy
    forces[atom, 2] += fz
    strain[atom, 0] += xx
    strain[atom, 1] += yy
    strain[atom, 2] += zz
    strain[atom, 3] += yz
    strain[atom, 4] += xz
    strain[atom, 5] += xy


def zbl_forward(
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift, n_replicas,
    prefactor, inverse_length, inner, outer, shift_cubic, shift_quartic, shift_constant, margin,
    atom_energy, forces, strain,
):  # fmt: skip
    """Energy of every atom, forces and -dE/d strain (xx yy zz yz xz xy), all added."""
    launch_over(_forward_kernel, structure.size)(
        positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
        prefactor, inverse_length, inner, outer, shift_cubic, shift_quartic, shift_constant, margin,
        atom_energy, forces, strain,
    )  # fmt: skip

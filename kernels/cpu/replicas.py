"""Displaced replicas of a batch."""

import numpy as np
from numba import njit


@njit(cache=True, error_model="numpy")
def displace(
    positions, direction, strained, structure, species, place, species_start, eta,
    replica_positions, replica_structure, replica_place,
):  # fmt: skip
    """Positions, structures and rows of replicas at ``r + eta (g + H r)``.

    ``strained`` holds H r, or has no rows where there is no strain. ``eta`` (n_replicas, S) may be
    complex. Returns the largest ``|eta| |g|``.
    """
    n_atoms, n_structures = len(positions), eta.shape[1]
    largest = 0.0
    for replica in range(len(eta)):
        for i in range(n_atoms):
            atom = replica * n_atoms + i
            z = species[i]
            step = eta[replica, structure[i]]
            square = 0.0
            for axis in range(3):
                g = direction[i, axis]
                square += g * g
                if len(strained):
                    g += strained[i, axis]
                replica_positions[atom, axis] = positions[i, axis] + step * g
            largest = max(largest, np.abs(step) * np.sqrt(square))
            replica_structure[atom] = replica * n_structures + structure[i]
            in_species = species_start[z + 1] - species_start[z]
            earlier = (len(eta) - 1) * species_start[z] + replica * in_species
            replica_place[atom] = place[i] + earlier
    return largest

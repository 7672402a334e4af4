"""ANI atomic environment vectors by loops over neighbours and triplets.

Smith, Isayev and Roitberg, Chem. Sci. 8, 3192 (2017), Eqs. 3 and 4, with the factors 1/4, 2 and
0.95 of TorchANI and in its layout: elements and then radial shifts; pairs of elements (0, 0),
(0, 1) .. (1, 1) .., shifts of the distance, shifts of the angle.
"""

import itertools

import numpy as np

from tests.naive.chebyshev import half_cosine, neighbours


def atom_features(
    atoms, i, elements, radial_cutoff, radial_eta, radial_shifts, angular_cutoff, angular_eta, zeta,
    angle_shifts, angular_shifts,
):  # fmt: skip
    """Features of atom i, shape (n_features,)."""
    elements = list(elements)
    shift_r, shift_a, shift_z = map(np.array, (radial_shifts, angular_shifts, angle_shifts))
    pairs = list(itertools.combinations_with_replacement(range(len(elements)), 2))
    radial = np.zeros((len(elements), len(shift_r)))
    angular = np.zeros((len(pairs), len(shift_a), len(shift_z)))
    near = []
    for j, _, d in neighbours(atoms, i, max(radial_cutoff, angular_cutoff)):
        near.append((elements.index(atoms.symbols[j]), np.sqrt(d @ d), d))
    for z, r, _ in near:
        radial[z] += 0.25 * np.exp(-radial_eta * (r - shift_r) ** 2) * half_cosine(r, radial_cutoff)
    for (z_j, r_j, d_j), (z_k, r_k, d_k) in itertools.combinations(near, 2):
        weight = 2 * half_cosine(r_j, angular_cutoff) * half_cosine(r_k, angular_cutoff)
        theta = np.arccos(0.95 * (d_j @ d_k) / (r_j * r_k))
        of_angle = ((1 + np.cos(theta - shift_z)) / 2) ** zeta
        of_distance = np.exp(-angular_eta * ((r_j + r_k) / 2 - shift_a) ** 2)
        pair = pairs.index((min(z_j, z_k), max(z_j, z_k)))
        angular[pair] += weight * np.outer(of_distance, of_angle)
    return np.concatenate([radial.ravel(), angular.ravel()])


def features(atoms, elements, **settings):
    """Features of every atom, shape (n_atoms, n_features)."""
    return np.array([atom_features(atoms, i, elements, **settings) for i in range(len(atoms))])

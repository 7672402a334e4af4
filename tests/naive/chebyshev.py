"""Chebyshev descriptors by loops over neighbours and triplets.

Artrith, Urban and Ceder, Phys. Rev. B 96, 014112 (2017), Eqs. 4-9, in the layout of ænet:
[radial, angular, radial weighted by spin, angular weighted by spin].
"""

import itertools

import numpy as np
from numpy.polynomial import chebyshev


def neighbours(atoms, i, cutoff):
    """(atom, shift, separation) of every image closer to atom i than `cutoff`, by brute force."""
    cell, count = np.array(atoms.cell), np.zeros(3, dtype=int)
    if atoms.pbc.any():
        cell = np.array(atoms.cell.complete())
        # images of atoms anywhere: as far as the cutoff and the spread of the atoms reach
        reach = cutoff + np.ptp(atoms.positions, axis=0).max() * np.sqrt(3)
        heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
        count = np.where(atoms.pbc, np.ceil(reach / heights).astype(int), 0)
    found = []
    for shift in itertools.product(*[range(-n, n + 1) for n in count]):
        moved = atoms.positions + shift @ cell - atoms.positions[i]
        for j in np.flatnonzero(np.linalg.norm(moved, axis=1) < cutoff):
            if j != i or any(shift):
                found.append((int(j), shift, moved[j]))
    return found


def spin_of(element, elements):
    """..., -1, (0,) 1, ... in the order of `elements`, without 0 for an even number."""
    n = len(elements)
    half = n // 2
    values = range(-half, half + 1) if n % 2 else [*range(-half, 0), *range(1, half + 1)]
    return list(values)[list(elements).index(element)]


def half_cosine(r, cutoff):
    return 0.5 * (1 + np.cos(np.pi * r / cutoff)) if r < cutoff else 0.0


def atom_features(atoms, i, elements, radial_cutoff, radial_order, angular_cutoff, angular_order):
    """Features of atom i, shape (n_features,)."""
    symbols = atoms.get_chemical_symbols()
    radial, angular = np.zeros((2, radial_order + 1)), np.zeros((2, angular_order + 1))
    near = neighbours(atoms, i, max(radial_cutoff, angular_cutoff))
    for j, _, d in near:
        r = np.sqrt(d @ d)
        values = chebyshev.chebvander([2 * r / radial_cutoff - 1], radial_order)[0]
        term = half_cosine(r, radial_cutoff) * values
        radial[0] += term
        radial[1] += spin_of(symbols[j], elements) * term
    inside = []
    for j, _, d in near:
        r = np.sqrt(d @ d)
        if r < angular_cutoff:
            inside.append((spin_of(symbols[j], elements), d / r, half_cosine(r, angular_cutoff)))
    for (spin_j, u_j, f_j), (spin_k, u_k, f_k) in itertools.combinations(inside, 2):
        term = f_j * f_k * chebyshev.chebvander([u_j @ u_k], angular_order)[0]
        angular[0] += term
        angular[1] += spin_j * spin_k * term
    if len(elements) == 1:
        return np.concatenate([radial[0], angular[0]])
    return np.concatenate([radial[0], angular[0], radial[1], angular[1]])


def features(atoms, elements, **settings):
    """Features of every atom, shape (n_atoms, n_features)."""
    return np.array([atom_features(atoms, i, elements, **settings) for i in range(len(atoms))])

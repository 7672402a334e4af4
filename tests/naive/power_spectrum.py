"""Power spectrum of the neighbour density by loops over neighbours and pairs of neighbours."""

import itertools
import math

import numpy as np
from numpy.polynomial import chebyshev, legendre

from tests.naive.chebyshev import neighbours, spin_of


def radial_functions(r, cutoff, radial_order, distance_damping=10.0):
    x = r / cutoff
    if x >= 1:
        return np.zeros(radial_order + 1)
    # 1 - (35 x^4 - 84 x^5 + 70 x^6 - 20 x^7) without cancellation, as Bernstein polynomials
    fade = sum(math.comb(7, k) * x**k * (1 - x) ** (7 - k) for k in range(4))
    fade /= 1 + distance_damping * x**2
    return fade * chebyshev.chebvander([2 * x - 1], radial_order)[0]


def atom_features(
    atoms, i, elements, cutoff, radial_order, angular_order,
    element_pairs="all", four_body=0, max_degree=12, distance_damping=10.0,
):  # fmt: skip
    """Features of atom i, shape (n_features,)."""
    elements = list(elements)
    near = []  # direction and, for every (channel, n), the weight times the radial function
    for j, _, d in neighbours(atoms, i, cutoff):
        r = np.sqrt(d @ d)
        element = atoms.symbols[j]
        if element_pairs == "weighted":
            weights = np.array([1, spin_of(element, elements)][: len(elements)])
        else:
            weights = np.array([float(element == e) for e in elements])
        near.append(
            (
                d / r,
                np.outer(
                    weights, radial_functions(r, cutoff, radial_order, distance_damping)
                ).ravel(),
            )
        )
    n_channels = min(len(elements), 2) if element_pairs == "weighted" else len(elements)
    n = n_channels * (radial_order + 1)
    scalars, vector, tensor = np.zeros(n), np.zeros((n, 3)), np.zeros((n, 3, 3))
    for u, values in near:
        scalars += values
        vector += np.outer(values, u)
        tensor += np.einsum("a,ij->aij", values, np.outer(u, u) - np.eye(3) / 3)
    power = np.zeros((angular_order + 1, n, n))
    for (u, a), (v, b) in itertools.product(near, near):
        for l in range(angular_order + 1):
            power[l] += legendre.legval(u @ v, np.eye(l + 1)[l]) * np.outer(a, b)
    pairs = [
        (a, b)
        for a, b in itertools.combinations_with_replacement(range(n), 2)
        if element_pairs == "all" or a // (radial_order + 1) == b // (radial_order + 1)
    ]
    order = np.arange(n) % (radial_order + 1)
    found = list(scalars)
    for l in range(angular_order + 1):
        for a, b in pairs:
            if not max_degree or order[a] + order[b] + 2 * l <= max_degree:
                found.append(power[l, a, b])
    if four_body:
        found += [vector[a] @ tensor[a] @ vector[a] for a in range(n)]
        found += [np.trace(tensor[a] @ tensor[a] @ tensor[a]) for a in range(n)]
    return np.array(found)


def features(atoms, elements, **settings):
    """Features of every atom, shape (n_atoms, n_features)."""
    return np.array([atom_features(atoms, i, elements, **settings) for i in range(len(atoms))])

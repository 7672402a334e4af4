"""Bispectrum components of SNAP, vectorised over pairs.

Thompson, Swiler, Trott, Foiles and Tucker, J. Comput. Phys. 285, 316 (2015). A neighbour at
distance r is put on the 3-sphere at the angle theta0 = rfac0 pi (r - rmin0) / (rcut - rmin0) and
becomes the unitary matrix (a, b; -b*, a*) with a = cos(theta0) - i (z / r) sin(theta0) and
b = (y - i x) / r sin(theta0). Every angular momentum j counts in halves: j = 0, 1, ... twojmax.

Complex numbers are kept as pairs (real, imaginary) of arrays, so that every result is an analytic
function of the positions, which may then be complex (complex step).
"""

from functools import cache
from itertools import product
from math import factorial, sqrt

import numpy as np

CUTOFFS = {
    "cosine": lambda x: 0.5 * (1 + np.cos(np.pi * x)),
    # all derivatives vanish at x = 1, and the odd ones at 0
    "smooth": lambda x: np.exp(1 - 1 / (1 - x * x)),
}


def bispectrum(
    positions,
    cell,
    periodic,
    *,
    twojmax,
    rcut,
    rfac0=0.99363,
    rmin0=0.0,
    species=None,
    radius=None,
    weight=None,
    cutoff="cosine",
    inner=None,
    bzero=False,
    chem=None,
    bnorm=False,
    wselfall=False,
):
    """Components of every atom, shape (n_atoms, K); the order is that of `components`.

    With `chem` all of them come for every triplet of channels of j1, j2 and j, that of j1 slowest.

    Parameters
    ----------
    positions : array (n_atoms, 3), real or complex
    cell : array (3, 3), real or complex
        Rows are vectors; those of directions that do not repeat may vanish.
    periodic : sequence of 3 bool
    twojmax : int
    rcut : float
        The cutoff. With `radius`, that of a pair is ``rcut * (radius_i + radius_j)``.
    rfac0, rmin0 : float
    species : sequence, optional
        Keys into `radius` and `weight`, one for each atom.
    radius, weight : dict or sequence, optional
        Of every species; 0.5 and 1 by default. The central atom counts with 1.
    cutoff : str or callable
        A key of `CUTOFFS`, or a function of x = (r - rmin0) / (rcut - rmin0).
    inner : dict or sequence, optional
        (sinner, dinner) of every species: weights rise from 0 to 1 over dinner on either side of
        sinner, both averaged over the pair.
    bzero : bool
        Subtract the components of an isolated atom.
    chem : sequence, optional
        Species whose neighbours make densities (channels) of their own.
    bnorm : bool
        Divide by j + 1.
    wselfall : bool
        With `chem`, the central atom counts in all channels and not in its own alone.
    """
    positions, cell = np.asarray(positions), np.asarray(cell)
    n_atoms = len(positions)
    switch = CUTOFFS[cutoff] if isinstance(cutoff, str) else cutoff
    species = [None] * n_atoms if species is None else species
    radius = np.array([0.5 if radius is None else radius[s] for s in species])
    weight = np.array([1.0 if weight is None else weight[s] for s in species])

    i, j, shift = pairs(positions.real, cell.real, periodic, 2 * rcut * radius.max(initial=0))
    d = (positions[j] - positions[i] + shift @ cell).T
    r = np.sqrt((d * d).sum(axis=0))
    reach = rcut * (radius[i] + radius[j])
    near = r.real < reach
    i, j, d, r, reach = i[near], j[near], d[:, near], r[near], reach[near]
    if (r.real < rmin0).any():
        raise ValueError(f"rmin0 = {rmin0}: two atoms are closer")
    x = (r - rmin0) / (reach - rmin0)
    strength = switch(x) * weight[j]
    if inner is not None:
        sinner, dinner = np.array([inner[s] for s in species]).T
        t = (r - (sinner[i] + sinner[j]) / 2) / (dinner[i] + dinner[j])
        rise = 0.5 * (1 + np.sin(np.pi * t))
        strength = strength * np.where(t.real <= -0.5, 0, np.where(t.real >= 0.5, 1, rise))

    theta = rfac0 * np.pi * x
    along = np.sin(theta) / r
    a = np.cos(theta), -along * d[2]
    b = along * d[1], -along * d[0]
    centres, first = np.unique(i, return_index=True)  # pairs are in the order of i
    channels, u = [None] if chem is None else chem, []
    alike = np.array([[chem is None or s == channel for s in species] for channel in channels])
    for in_channel in alike:
        u.append([])
        of_channel = strength * in_channel[j]
        itself = in_channel | wselfall
        for k, (real, imaginary) in enumerate(powers(a, b, of_channel, twojmax)):
            scale = normalisation(k)[:, :, None]
            total = np.zeros((2, k + 1, k + 1, n_atoms), r.dtype)
            for part, of_pairs in zip(total, (real, imaginary)):
                if len(centres):
                    part[..., centres] = np.add.reduceat(of_pairs, first, axis=2) * scale
            total[0] += np.eye(k + 1)[:, :, None] * itself  # the central atom
            u[-1].append(total)
    values = []
    for e1, e2, e3 in product(range(len(channels)), repeat=3):
        alone = (alike[e1] | wselfall) & (alike[e2] | wselfall) & (alike[e3] | wselfall)
        for j1, j2, j in components(twojmax):
            value = coupled(u[e1], u[e2], u[e3], j1, j2, j)
            if bzero:
                value = value - (j + 1) * alone
            values.append(value / (j + 1) if bnorm else value)
    return np.stack(values, axis=1)


@cache
def components(twojmax):
    """Triples (j1, j2, j) in doubled angular momenta with j2 <= j1 <= j."""
    return tuple(
        (j1, j2, j)
        for j1 in range(twojmax + 1)
        for j2 in range(j1 + 1)
        for j in range(j1 - j2, min(twojmax, j1 + j2) + 1, 2)
        if j >= j1
    )


def pairs(positions, cell, periodic, cutoff):
    """i, j and the shift of j in cells for all pairs closer than `cutoff`, in the order of i."""
    periodic = np.asarray(periodic, bool)
    cell = np.where(periodic[:, None], cell, 0.0)
    n_atoms = len(positions)
    home, count = np.zeros((n_atoms, 3)), np.zeros(3, int)
    if periodic.any():
        # unit vectors normal to the others stand in for those that do not repeat
        full = cell.copy()
        full[~periodic] = np.linalg.svd(cell)[2][periodic.sum() :]
        inverse = np.linalg.inv(full)
        home[:, periodic] = np.floor(positions @ inverse)[:, periodic]
        count[periodic] = np.ceil(cutoff * np.linalg.norm(inverse, axis=0))[periodic]
    shifts = np.array(list(product(*[range(-n, n + 1) for n in count])), float)
    inside = positions - home @ cell
    images = inside[:, None] + shifts @ cell
    square = sum((images[..., k] - inside[:, None, None, k]) ** 2 for k in range(3))
    here = np.flatnonzero((shifts == 0).all(axis=1))[0]
    square[np.arange(n_atoms), np.arange(n_atoms), here] = np.inf
    i, j, s = np.nonzero(square < cutoff**2)
    return i, j, shifts[s] - home[j] + home[i]


def powers(a, b, strength, twojmax):
    """For each j the coefficients of x^k y^(j-k) in (a x + b y)^p (a* y - b* x)^(j-p).

    Yields (real, imaginary), each of shape (k, p, n_pairs), times `strength`.
    """
    (ar, ai), (br, bi) = a, b
    real, imaginary = strength[None, None] + 0, np.zeros_like(strength)[None, None]
    yield real, imaginary
    for j in range(1, twojmax + 1):
        new_real, new_imaginary = np.zeros((2, j + 1, j + 1, len(strength)), strength.dtype)
        # one more factor a x + b y for p > 0
        new_real[1:, 1:] = ar * real - ai * imaginary
        new_real[:-1, 1:] += br * real - bi * imaginary
        new_imaginary[1:, 1:] = ar * imaginary + ai * real
        new_imaginary[:-1, 1:] += br * imaginary + bi * real
        # p = 0 follows from p = j: the conjugate with x -> y, y -> -x
        sign = (-1.0) ** np.arange(j + 1)[:, None]
        new_real[:, 0] = sign * new_real[::-1, j]
        new_imaginary[:, 0] = -sign * new_imaginary[::-1, j]
        real, imaginary = new_real, new_imaginary
        yield real, imaginary


@cache
def normalisation(j):
    """From coefficients of monomials to those of the orthonormal x^k y^(j-k) / sqrt(k! (j-k)!)."""
    norm = np.array([sqrt(factorial(k) * factorial(j - k)) for k in range(j + 1)])
    return norm[:, None] / norm


def coupled(u1, u2, u3, j1, j2, j):
    """B = sum of conj(U3_j) C C U1_j1 U2_j2, real part, of every atom."""
    c, m1, m2, m = clebsch_gordan(j1, j2, j)
    # (m', m) and (-m', -m) contribute the same: half of the columns
    half = 2 * m <= j
    weights = np.where(2 * m == j, 1, 2)[half] * c[half]
    (r1, i1), (r2, i2), (r, i) = (
        [part[k[:, None], k[half]] for part in u[n]]
        for u, n, k in ((u1, j1, m1), (u2, j2, m2), (u3, j, m))
    )
    terms = r * (r1 * r2 - i1 * i2) + i * (r1 * i2 + i1 * r2)
    return np.tensordot(np.outer(c, weights), terms, 2)


@cache
def clebsch_gordan(j1, j2, j):
    """Coefficients that do not vanish and their indices j1 + m1, j2 + m2 and j + m (doubled j)."""
    excess = (j1 + j2 - j) // 2
    triangle = (j + 1) * factorial(excess) / factorial((j1 + j2 + j) // 2 + 1)
    triangle *= factorial((j + j1 - j2) // 2) * factorial((j - j1 + j2) // 2)
    found = []
    for m1, m2 in product(range(j1 + 1), range(j2 + 1)):
        m = m1 + m2 - excess
        if not 0 <= m <= j:
            continue
        total = 0.0
        for k in range(excess + 1):
            below = k, excess - k, j1 - m1 - k, m2 - k, m1 - excess + k, j2 - m2 - excess + k
            if min(below) >= 0:
                total += (-1) ** k / np.prod([float(factorial(n)) for n in below])
        size = [factorial(n) for n in (m, j - m, m1, j1 - m1, m2, j2 - m2)]
        found.append((total * sqrt(triangle * np.prod([float(n) for n in size])), m1, m2, m))
    c, *indices = zip(*found)
    return np.array(c), *[np.array(index) for index in indices]

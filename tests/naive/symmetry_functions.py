"""Symmetry functions by loops over neighbours and pairs of them, from the lines of n2p2."""

import itertools
import math

import numpy as np
from ase.data import atomic_numbers

from tests.naive.chebyshev import neighbours


def polynomial_core(name, y):
    return {
        "p1": (2 * y - 3) * y**2 + 1,
        "p2": ((15 - 6 * y) * y - 10) * y**3 + 1,
        "p3": (y * (y * (20 * y - 70) + 84) - 35) * y**4 + 1,
        "p4": (y * (y * ((315 - 70 * y) * y - 540) + 420) - 126) * y**5 + 1,
    }[name]


def core(name, y):
    if y >= 1:
        return 0.0
    return math.exp(1 - 1 / (1 - y * y)) if name == "e" else polynomial_core(name, y)


def compact(name, x, low, high, radial=True):
    y = abs(x - (low + high) / 2) / ((high - low) / 2)
    if y >= 1:
        return 0.0
    if name.endswith("a"):
        return core(name[:2], (2 - y) * y if radial else y)
    return core(name, y)


def cutoff_function(kind, alpha, r, cutoff):
    if r >= cutoff:
        return 0.0
    if kind in (2, 3):
        return math.tanh(1 - r / cutoff) ** 3 / (math.tanh(1) ** 3 if kind == 3 else 1)
    x = max((r - alpha * cutoff) / (cutoff - alpha * cutoff), 0.0)
    if kind == 0:
        return 1.0
    if kind == 1:
        return (math.cos(math.pi * x) + 1) / 2
    return core({4: "e", 5: "p1", 6: "p2", 7: "p3", 8: "p4"}[kind], x)


def angle(u, v):
    """Degrees between unit vectors, precise near 0 and 180."""
    return math.degrees(math.atan2(np.linalg.norm(np.cross(u, v)), u @ v))


def value_of(line, near, symbols, kind, alpha):
    """One function of an atom with the neighbours (atom, shift, separation)."""
    words = line.split()
    form, rest = words[1], words[2:]
    n_elements = {"2": 1, "3": 2, "9": 2, "20": 1, "21": 2, "22": 2, "cos": 1}.get(form, 0)
    wanted, values = rest[:n_elements], rest[n_elements:]
    weighted = form in ("12", "13", "23", "24", "25")

    def gauss(r, eta, shift, cutoff):
        return math.exp(-eta * (r - shift) ** 2) * cutoff_function(kind, alpha, r, cutoff)

    subtype = values[-1]
    numbers = [float(v) for v in values if v != subtype or form not in map(str, range(20, 26))]
    if form in ("2", "12"):
        eta, shift, cutoff = numbers

        def factor(r):
            return gauss(r, eta, shift, cutoff)

    elif form == "cos":
        kappa, cutoff = numbers

        def factor(r):
            return math.cos(kappa * r) * cutoff_function(kind, alpha, r, cutoff)

    elif form in ("3", "9", "13"):
        if form == "13":
            eta, shift, sign, zeta, cutoff = numbers
        else:
            eta, sign, zeta, cutoff, shift = [*numbers, 0.0][:5]

        def factor(r):
            return gauss(r, eta, shift, cutoff)

        def angular(u, v):
            return 2 * max((1 + sign * (u @ v)) / 2, 0.0) ** zeta

    else:
        low, high = numbers[:2]

        def factor(r):
            return compact(subtype, r, low, high)

        def angular(u, v):
            return compact(subtype, angle(u, v), *numbers[2:4], radial=False)

    if form in ("2", "12", "cos", "20", "23"):
        total = 0.0
        for j, _, d in near:
            if weighted or symbols[j] == wanted[0]:
                weight = atomic_numbers[symbols[j]] if weighted else 1
                total += weight * factor(np.linalg.norm(d))
        return total
    total = 0.0
    for (j, _, dj), (k, _, dk) in itertools.combinations(near, 2):
        if not weighted and sorted((symbols[j], symbols[k])) != sorted(wanted):
            continue
        rj, rk = np.linalg.norm(dj), np.linalg.norm(dk)
        term = factor(rj) * factor(rk)
        if term and form in ("3", "13", "21", "24"):
            term *= factor(np.linalg.norm(dj - dk))
        if term:
            weight = atomic_numbers[symbols[j]] * atomic_numbers[symbols[k]] if weighted else 1
            total += weight * term * angular(dj / rj, dk / rk)
    return total


def features(atoms, lists, cutoff, kind=1, alpha=0.0):
    """Features of every atom; `lists` maps an element to its lines, in order."""
    symbols = atoms.get_chemical_symbols()
    result = np.zeros((len(atoms), max(map(len, lists.values()))))
    for i, symbol in enumerate(symbols):
        near = neighbours(atoms, i, cutoff)
        for k, line in enumerate(lists[symbol]):
            result[i, k] = value_of(line, near, symbols, kind, alpha)
    return result

"""Energies from ænet's network files, item by item; shares no code with fdforce.

Artrith and Urban, Comput. Mater. Sci. 114, 135 (2016). Lines of a ``.nn.ascii`` are counted, and
records of a ``.nn`` read by SciPy.
"""

import itertools
import math

import numpy as np
from scipy.io import FortranFile

from tests.naive.chebyshev import atom_features, half_cosine, neighbours

ACTIVATIONS = [
    lambda z: z,
    np.tanh,
    lambda z: 1 / (1 + np.exp(-z)),
    lambda z: 1.7159 * np.tanh(0.666666666666667 * z),
    lambda z: 1.7159 * np.tanh(0.666666666666667 * z) + 0.1 * z,
]


def read_text(path):
    lines = path.read_text().split("\n")

    def numbers(k, kind=float):
        return np.array(lines[k].split(), kind)

    return {
        "nodes": numbers(4, int), "activations": numbers(5, int), "ends": numbers(6, int),
        "weights": numbers(8), "element": lines[10].strip(), "env": lines[12].split(),
        "kind": lines[15].strip(), "sf": numbers(18, int), "sfparam": numbers(19),
        "sfenv": numbers(20, int), "avg": numbers(24), "cov": numbers(25),
        "scaling": float(lines[28]), "shift": float(lines[29]), "types": lines[31].split(),
        "atom_energies": numbers(32),
    }  # fmt: skip


def read_records(path):
    with FortranFile(path, "r") as file:

        def integers():
            return file.read_record("<i4")

        def reals():
            return file.read_record("<f8")

        def characters(width):
            record = file.read_record(f"S{width}")
            return [item.decode().strip() for item in np.atleast_1d(record)]

        for _ in range(4):
            integers()
        found = {"nodes": integers(), "activations": integers(), "ends": integers()}
        integers()
        found["weights"] = reals()
        characters(1024)
        found["element"] = characters(2)[0]
        integers()
        found["env"] = characters(2)
        reals(), reals()
        found["kind"] = characters(100)[0]
        integers(), integers()
        found |= {"sf": integers(), "sfparam": reals(), "sfenv": integers()}
        integers()
        reals(), reals()
        found |= {"avg": reals(), "cov": reals()}
        characters(1024)
        assert integers()[0] in (0, 1)
        found |= {"scaling": reals()[0], "shift": reals()[0]}
        integers()
        found |= {"types": characters(2), "atom_energies": reals()}
        integers(), integers()
        assert len(reals()) == 3
    return found


def order_of(network):
    """Behler's functions of a setup in the order in which ænet evaluates them."""

    def key(k):
        g, (first, second) = network["sf"][k], np.reshape(network["sfenv"], (-1, 2))[k]
        if g < 4:
            return first, 0, 0, g, k
        return min(first, second), 1, max(first, second), g, k

    return sorted(range(len(network["sf"])), key=key)


def behler(atoms, i, network):
    parameters = np.reshape(network["sfparam"], (len(network["sf"]), -1))
    env = np.reshape(network["sfenv"], (-1, 2))
    species = [1 + network["env"].index(symbol) for symbol in atoms.get_chemical_symbols()]
    near = [(species[j], d) for j, _, d in neighbours(atoms, i, parameters[:, 0].max())]
    values = []
    for k in order_of(network):
        g, p, cutoff = network["sf"][k], parameters[k], parameters[k][0]
        value = 0.0
        if g < 4:
            for z, d in near:
                r = np.linalg.norm(d)
                shape = {
                    1: lambda r, p: 1.0,
                    2: lambda r, p: math.exp(-p[2] * (r - p[1]) ** 2),
                    3: lambda r, p: math.cos(p[1] * r),
                }[g]
                value += (z == env[k][0]) * shape(r, p) * half_cosine(r, cutoff)
        else:
            for (z1, d1), (z2, d2) in itertools.combinations(near, 2):
                if sorted((z1, z2)) == sorted(env[k]):
                    sides = [np.linalg.norm(d1), np.linalg.norm(d2), np.linalg.norm(d1 - d2)]
                    cosine = d1 @ d2 / sides[0] / sides[1]
                    term = 2 * (0.5 * (1 + p[1] * cosine)) ** p[2]
                    for r in sides[: 3 if g == 4 else 2]:
                        term *= math.exp(-p[3] * r * r) * half_cosine(r, cutoff)
                    value += term
        values.append(value)
    return np.array(values)


def features(atoms, i, network):
    if network["kind"] == "Behler2011":
        return behler(atoms, i, network)
    radial_cutoff, radial_order, angular_cutoff, angular_order = network["sfparam"][:4]
    return atom_features(
        atoms, i, network["env"], radial_cutoff, int(radial_order), angular_cutoff,
        int(angular_order),
    )  # fmt: skip


def energies(atoms, folder, suffix=".nn.ascii"):
    """Energy of every atom, with E_shift and E_atom."""
    read = read_text if suffix.endswith(".ascii") else read_records
    result = []
    for i, symbol in enumerate(atoms.get_chemical_symbols()):
        network = read(folder / f"{symbol}{suffix}")
        assert network["element"] == symbol
        deviation = np.sqrt(network["cov"] - network["avg"] ** 2)
        assert (deviation > 1e-10).all()  # ænet would warn, or find no number
        h = (features(atoms, i, network) - network["avg"]) / deviation
        nodes, ends = network["nodes"], network["ends"]
        for k, code in enumerate(network["activations"]):
            block = network["weights"][ends[k] : ends[k + 1]]
            matrix = block.reshape(nodes[k + 1], nodes[k] + 1, order="F")
            h = ACTIVATIONS[code](matrix @ np.append(h, 1.0))
        atom_energy = network["atom_energies"][network["types"].index(symbol)]
        result.append(h[0] / network["scaling"] + network["shift"] + atom_energy)
    return np.array(result)

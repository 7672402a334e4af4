"""A reader of n2p2 potentials, written from its formats alone: energies by loops.

It follows n2p2 2.2 to the letter: only the first column of weights counts, element_nodes_short does
not change the last hidden layer, element_activation_short not the output.
"""

import numpy as np
from ase.data import atomic_numbers

from tests.naive import symmetry_functions

ACTIVATIONS = {
    "l": lambda x: x,
    "t": np.tanh,
    "s": lambda x: 1 / (1 + np.exp(-x)),
    "p": lambda x: np.log(1 + np.exp(x)),
    "r": lambda x: np.maximum(x, 0),
    "g": lambda x: np.exp(-(x**2) / 2),
    "c": np.cos,
    "S": lambda x: 1 - 1 / (1 + np.exp(-x)),
    "e": lambda x: np.exp(-x),
    "h": lambda x: x**2,
}


def sort_key(words, index):
    """n2p2's order among the functions of an element; `words` begin with the type."""
    kind = int(words[0])

    def numbers(*places):
        return tuple(float(words[place]) for place in places)

    if kind == 2:
        return (kind, *numbers(4, 2, 3), index[words[1]])
    if kind in (3, 9):
        shift = float(words[7]) if len(words) > 7 else 0.0
        pair = sorted((index[words[1]], index[words[2]]))
        return (kind, *numbers(6, 3), shift, *numbers(5, 4), *pair)
    if kind == 12:
        return (kind, *numbers(3, 1, 2))
    if kind == 13:
        return (kind, *numbers(5, 1, 2, 4, 3))
    if kind == 20:
        return (kind, words[4], index[words[1]], *numbers(3, 2))
    if kind in (21, 22):
        pair = sorted((index[words[1]], index[words[2]]))
        return (kind, words[7], *pair, *numbers(4, 3, 5, 6))
    if kind == 23:
        return (kind, words[3], *numbers(2, 1))
    return (kind, words[5], *numbers(2, 1, 3, 4))


def table_of(path):
    """Words of the lines that are no comments."""
    return [line.split() for line in path.read_text().splitlines() if line[:1] != "#"]


class Potential:
    """The files of a folder, in the units that they have."""

    def __init__(self, folder):
        single, self.lines, energies, nodes, letters = {}, [], {}, {}, {}
        for line in (folder / "input.nn").read_text().split("\n"):
            words = line.partition("#")[0].partition("!")[0].split()
            if not words:
                continue
            key, *values = words
            if key == "symfunction_short":
                self.lines.append(values)
            elif key == "atom_energy":
                energies[values[0]] = float(values[1])
            elif key == "element_nodes_short":
                nodes[values[0]] = list(map(int, values[1:]))
            elif key == "element_activation_short":
                letters[values[0]] = values[1:]
            else:
                assert key not in single, f"{key} is repeated"
                single[key] = values
        self.single, self.energies = single, energies
        self.elements = sorted(single["elements"], key=atomic_numbers.get)
        assert len(self.elements) == int(single["number_of_elements"][0])
        index = {element: k for k, element in enumerate(self.elements)}
        self.functions = {
            e: sorted((v[1:] for v in self.lines if v[0] == e), key=lambda w: sort_key(w, index))
            for e in self.elements
        }
        shared = list(map(int, single["global_nodes_short"]))
        assert len(shared) == int(single["global_hidden_layers_short"][0])
        output = single["global_activation_short"]
        assert len(output) == len(shared) + 1
        self.networks, self.letters = {}, {}
        for element in self.elements:
            hidden = [*nodes.get(element, shared)[:-1], shared[-1]]
            own = letters.get(element, output)
            assert len(own) == len(output)
            self.letters[element] = [*own[:-1], output[-1]]
            table = table_of(folder / f"weights.{atomic_numbers[element]:03d}.data")
            values = [float(row[0]) for row in table]
            n_in, layers = len(self.functions[element]), []
            for n_out in [*hidden, 1]:
                weights = np.array(values[: n_in * n_out]).reshape(n_in, n_out)
                biases = np.array(values[n_in * n_out : (n_in + 1) * n_out])
                layers.append((weights, biases))
                values, n_in = values[(n_in + 1) * n_out :], n_out
            assert not values
            self.networks[element] = layers
        rows, self.table, at = table_of(folder / "scaling.data"), {}, 0
        for z, element in enumerate(self.elements, 1):
            n = len(self.functions[element])
            own = rows[at : at + n]
            assert [row[:2] for row in own] == [[str(z), str(k)] for k in range(1, n + 1)]
            self.table[element], at = np.array([row[2:] for row in own], float).T, at + n
        assert at == len(rows)

    def number(self, key, default):
        return float(self.single[key][0]) if key in self.single else default

    def features(self, atoms):
        """G of every atom."""
        lists = {e: [" ".join([e, *w]) for w in own] for e, own in self.functions.items()}
        cutoffs = {"2": 4, "3": 6, "9": 6, "12": 3, "13": 5, "20": 3, "21": 4, "22": 4}
        reach = max(
            float(words[cutoffs.get(words[0], 2)])
            for own in self.functions.values() for words in own
        )  # fmt: skip
        kind, *alpha = self.single["cutoff_type"]
        rows = symmetry_functions.features(
            atoms, lists, reach, int(kind), float(alpha[0]) if alpha else 0.0
        )
        symbols = atoms.get_chemical_symbols()
        return [row[: len(self.functions[s])] for row, s in zip(rows, symbols)]

    def scaled(self, element, g):
        least, largest, mean, sigma = self.table[element]
        low, high = self.number("scale_min_short", 0.0), self.number("scale_max_short", 1.0)
        if "scale_symmetry_functions" in self.single:
            origin = mean if "center_symmetry_functions" in self.single else least
            return low + (high - low) * (g - origin) / (largest - least)
        if "center_symmetry_functions" in self.single:
            return g - mean
        if "scale_symmetry_functions_sigma" in self.single:
            return low + (high - low) * (g - mean) / sigma
        return g

    def extrapolations(self, atoms):
        """Features outside the range of scaling.data, which n2p2 would warn of."""
        count = 0
        for element, g in zip(atoms.get_chemical_symbols(), self.features(atoms)):
            least, largest, *_ = self.table[element]
            count += int(np.sum((g < least) | (g > largest)))
        return count

    def energy(self, atoms):
        total = 0.0
        for element, g in zip(atoms.get_chemical_symbols(), self.features(atoms)):
            x = self.scaled(element, g)
            for (weights, biases), letter in zip(self.networks[element], self.letters[element]):
                x = x @ weights + biases
                if "normalize_nodes" in self.single:
                    x = x / len(weights)
                x = ACTIVATIONS[letter](x)
            total += x[0] / self.number("conv_energy", 1.0)
            total += self.number("mean_energy", 0.0) + self.energies.get(element, 0.0)
        return total

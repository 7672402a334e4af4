"""What input.nn says of a potential: elements, symmetry functions, networks and units."""

from __future__ import annotations

from dataclasses import dataclass

from ase.data import atomic_numbers

from fdforce.descriptors import SymmetryFunctions
from fdforce.descriptors.symmetry_functions import scale_lengths
from fdforce.errors import ConfigError, ModelFileError
from fdforce.formats.n2p2.settings import Settings
from fdforce.formats.n2p2.text import check_element
from fdforce.formats.numbers import NUMBER, to_integer, to_number

LETTERS = {
    "l": "linear", "t": "tanh", "s": "sigmoid", "p": "softplus", "r": "relu", "g": "gaussian",
    "c": "cosine", "S": "reverse_sigmoid", "e": "exponential", "h": "harmonic",
}  # fmt: skip

WIDEST = 10_000
"""Nodes of a layer beyond which a number is taken for a mistake."""


@dataclass(frozen=True)
class Normalisation:
    """E = E* / conv_energy + N mean_energy, r* = r conv_length, in units of the file."""

    mean_energy: float = 0.0
    conv_energy: float = 1.0
    conv_length: float = 1.0


def read_elements(settings: Settings) -> list[str]:
    """Elements by atomic number, n2p2's order whatever that of the file.

    Raises
    ------
    ModelFileError
        Also where the potential is not one of short range alone (nnp_type).
    """
    if "nnp_type" in settings:
        kind = settings.words("nnp_type", 1)[0]
        if kind not in ("2", "2G", "2G-HDNNP"):
            line = settings.all("nnp_type")[0][0]
            raise settings.problem(
                line, f"nnp_type {kind}: fdforce has no charges; only 2G is read"
            )
    names = settings.words("elements")
    line = settings.all("elements")[0][0]
    elements = [settings.convert(check_element, "elements", name) for name in names]
    if len(set(elements)) < len(elements) or not elements:
        raise settings.problem(line, f"elements {' '.join(names)}: name every element once")
    if settings.integer("number_of_elements", len(elements)) != len(elements):
        line = settings.all("number_of_elements")[0][0]
        raise settings.problem(line, f"number_of_elements, but elements has {len(elements)}")
    return sorted(elements, key=atomic_numbers.get)


def read_atom_energies(settings: Settings, elements: list[str]) -> dict[str, float]:
    """Energies of free atoms in units of the file; 0 where none is given."""
    energies: dict[str, float] = {}
    for line, values in settings.all("atom_energy"):
        element = _element(settings, "atom_energy", line, values, elements, 1)
        if element in energies:
            raise settings.problem(line, f"atom_energy of {element} is given twice")
        energies[element] = settings.convert(to_number, "atom_energy", values[1], line)
    return {element: energies.get(element, 0.0) for element in elements}


def read_normalisation(settings: Settings) -> Normalisation:
    """The normalisation of the data; all three keywords or none."""
    names = ("mean_energy", "conv_energy", "conv_length")
    given = [name for name in names if name in settings]
    if not given:
        return Normalisation()
    values = [settings.number(name) for name in names]
    for name, value in zip(names[1:], values[1:]):
        if not value > 0:
            line = settings.all(name)[0][0]
            raise settings.problem(line, f"{name} = {value:g}: must be above 0")
    return Normalisation(*values)


def read_descriptor(settings: Settings, elements: list[str], length: float) -> SymmetryFunctions:
    """Symmetry functions in Å.

    Parameters
    ----------
    settings : Settings
    elements : list of str
    length : float, Å
        Unit of the file.
    """
    lines = []
    for line, values in settings.all("symfunction_short"):
        values = [
            word.replace("D", "e").replace("d", "e") if NUMBER.fullmatch(word) else word
            for word in values
        ]
        # what n2p2 has no name for
        if values[1:2] == ["cos"]:
            raise settings.problem(line, "symfunction_short of type cos, which n2p2 has not")
        try:
            lines += scale_lengths([" ".join(values)], length)
            SymmetryFunctions(elements, [*lines[-1:], *(f"{e} 23 0 1 e" for e in elements)])
        except ConfigError as problem:
            raise settings.problem(line, f"symfunction_short: {problem}") from None
    values = settings.words("cutoff_type")
    line = settings.all("cutoff_type")[0][0]
    if len(values) not in (1, 2):
        raise settings.problem(line, f"cutoff_type has {len(values)} values instead of 1 or 2")
    kind, *alpha = values
    try:
        return SymmetryFunctions(
            elements, lines, to_integer(kind), to_number(alpha[0]) if alpha else 0.0
        )
    except ValueError as problem:
        raise settings.problem(line, f"cutoff_type: {problem}") from None
    except ConfigError as problem:
        where = f", line {line}" if "cutoff_" in str(problem) else ""
        raise ModelFileError(f"{settings.path}{where}: {problem}") from None


def read_widths(settings: Settings, elements: list[str]) -> dict[str, list[list[int]]]:
    """Possible widths of the hidden layers of each element, the one that is written first.

    The numbers of ``element_nodes_short`` are the widths of all hidden layers (n2p2 from 2.2 on) or
    one layer and its width (n2p2 before, and RuNNer); and n2p2 2.2 takes the last hidden layer from
    ``global_nodes_short`` all the same. Files of weights tell.
    """
    depths, shared = read_depths(settings, elements), None
    if "global_nodes_short" in settings:
        line, values = settings.all("global_nodes_short")[0]
        shared = _widths(settings, "global_nodes_short", line, values)
    own: dict[str, list] = {element: [] for element in elements}
    for line, values in settings.all("element_nodes_short"):
        element = _element(settings, "element_nodes_short", line, values, elements)
        own[element].append(_widths(settings, "element_nodes_short", line, values[1:]))
    return {
        element: _options(settings, element, depths[element], shared, own[element])
        for element in elements
    }


def _options(settings, element, depth, shared, own):
    """Possible widths of the hidden layers of an element."""
    base = shared if shared is not None and len(shared) == depth else None
    options = []
    if not own and base is not None:
        return [base]
    if base and all(len(pair) == 2 and 1 <= pair[0] <= depth for pair in own):
        widths = list(base)
        for layer, width in own:
            widths[layer - 1] = width
        options.append(widths)
    if len(own) == 1 and len(own[0]) == depth:
        options.append(own[0])
        if base:
            options.append([*own[0][:-1], base[-1]])
    if not options:
        keyword = "element_nodes_short" if own else "global_nodes_short"
        settings.words(keyword)  # or it is missing
        line = settings.all(keyword)[0][0]
        raise settings.problem(
            line,
            f"{keyword}: the network of {element} has {depth} hidden layers; give their widths",
        )
    return options


def read_depths(settings: Settings, elements: list[str]) -> dict[str, int]:
    """Number of hidden layers of each element."""
    depths = {}
    for line, values in settings.all("element_hidden_layers_short"):
        keyword = "element_hidden_layers_short"
        element = _element(settings, keyword, line, values, elements, 1)
        depths[element] = settings.convert(to_integer, keyword, values[1], line)
    if len(depths) < len(elements):
        shared = settings.integer("global_hidden_layers_short")
        depths = {element: depths.get(element, shared) for element in elements}
    return depths


def read_activations(settings: Settings, elements: list[str]) -> dict[str, list[str]]:
    """Names of the activations of each element, that of the output last."""
    depths = read_depths(settings, elements)
    shared, shared_line = None, None
    if "global_activation_short" in settings:
        shared_line, letters = settings.all("global_activation_short")[0]
        shared = _activations(settings, "global_activation_short", shared_line, letters)
    own = {}
    for line, values in settings.all("element_activation_short"):
        keyword = "element_activation_short"
        element = _element(settings, keyword, line, values, elements)
        if any(value.isdecimal() for value in values[1:]):
            raise settings.problem(
                line, f"{keyword} of single nodes (RuNNer): fdforce has one activation for a layer"
            )
        own[element] = _activations(settings, keyword, line, values[1:])
        if len(own[element]) != depths[element] + 1:
            raise settings.problem(
                line,
                f"{keyword} has {len(own[element])} letters instead of {depths[element] + 1}: "
                "one for each hidden layer and the output",
            )
        # n2p2 2.2 reads the hidden layers of this line alone
        if shared and len(shared) == len(own[element]) and shared[-1] != own[element][-1]:
            raise settings.problem(
                line,
                f"{keyword}: the output of {element} differs from that of "
                "global_activation_short, which n2p2 takes for every element; give both the same",
            )
    for element in elements:
        if element in own:
            continue
        if shared is None:
            settings.words("global_activation_short")  # is missing
        if len(shared) != depths[element] + 1:
            raise settings.problem(
                shared_line,
                f"global_activation_short has {len(shared)} letters instead of "
                f"{depths[element] + 1}: one for each hidden layer and the output",
            )
        own[element] = shared
    return own


def _element(settings, keyword, line, values, elements, n=None):
    """The element that a line begins with, checked; `n` is the number of values after it."""
    if not values or values[0] not in elements:
        found = repr(values[0])[:40] if values else "nothing"
        raise settings.problem(
            line, f"{keyword} of {found}, which is not among the elements {' '.join(elements)}"
        )
    if n is not None and len(values) != 1 + n:
        raise settings.problem(line, f"{keyword} has {len(values)} values instead of {1 + n}")
    return values[0]


def _widths(settings, keyword, line, words):
    widths = [settings.convert(to_integer, keyword, word, line) for word in words]
    if any(not 1 <= width <= WIDEST for width in widths):
        raise settings.problem(line, f"{keyword}: widths are 1 to {WIDEST}")
    return widths


def _activations(settings, keyword, line, letters):
    for letter in letters:
        if letter not in LETTERS:
            known = ", ".join(f"{key} {name}" for key, name in LETTERS.items())
            raise settings.problem(
                line, f"{keyword}: no activation {letter!r:.40}; there are {known}"
            )
    return [LETTERS[letter] for letter in letters]

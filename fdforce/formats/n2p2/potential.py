"""n2p2 potentials: a folder with input.nn, scaling.data and a weights.ZZZ.data for each element.

Behler and Parrinello, Phys. Rev. Lett. 98, 146401 (2007); Singraber, Behler and Dellago, J. Chem.
Theory Comput. 15, 1827 (2019).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from fdforce import archive
from fdforce.descriptors import SymmetryFunctions
from fdforce.errors import ModelFileError
from fdforce.formats.n2p2 import scaling as scaling_file
from fdforce.formats.n2p2 import settings as settings_file
from fdforce.formats.n2p2 import weights as weights_file
from fdforce.formats.n2p2.architecture import (
    LETTERS,
    read_activations,
    read_atom_energies,
    read_descriptor,
    read_elements,
    read_normalisation,
    read_widths,
)
from fdforce.formats.n2p2.text import split_path, units_of
from fdforce.formats.numbers import check_finite
from fdforce.models import ElementalNetworks
from fdforce.models.ensemble import Ensemble

UNKNOWN_RANGE = 1e300
"""Of features whose range a model does not know: n2p2 warns of nothing then."""


def read_potential(path: Path, *, units: str = "ev-angstrom") -> ElementalNetworks:
    """A potential as a model in eV and Å, with the energies and forces of nnp-predict.

    Parameters
    ----------
    path : path
        The folder, or its input.nn.
    units : str
        "ev-angstrom" or "hartree-bohr": of the physical units of input.nn, those before
        normalisation.

    Raises
    ------
    ModelFileError
        With file and line, for what is missing, damaged, or not in fdforce.
    """
    path, options = split_path(path)
    folder = path.parent if path.is_file() else path
    energy, length = units_of(options.get("units", units))
    settings = settings_file.read_settings(folder / settings_file.NAME)
    elements = read_elements(settings)
    descriptor = read_descriptor(settings, elements, length)
    counts = descriptor.n_functions
    scalings = scaling_file.read_scaling(folder / scaling_file.NAME, settings, counts)
    options = read_widths(settings, elements)
    networks = [
        weights_file.read_weights(
            folder / weights_file.file_name(atomic_numbers[element]),
            [[n, *widths, 1] for widths in options[element]],
        )
        for element, n in zip(elements, counts)
    ]
    hidden = {e: [len(b) for _, b in layers[:-1]] for e, layers in zip(elements, networks)}
    model = ElementalNetworks(descriptor, hidden, read_activations(settings, elements))
    model.theta = np.zeros_like(model.theta)
    for matrices, layers in zip(model.matrices(), networks):
        for matrix, (weights, biases) in zip(matrices, layers):
            # features that other elements alone have keep the weight 0
            factor = 1 / len(weights) if "normalize_nodes" in settings else 1.0
            matrix[: len(weights)] = weights * factor
            matrix[-1] = biases * factor
    _set_scaling(model, scalings)
    normalisation = read_normalisation(settings)
    of_atoms = read_atom_energies(settings, elements)
    offsets = [of_atoms[element] + normalisation.mean_energy for element in elements]
    model.reference_energies = np.array(offsets) * energy
    model.scale = energy / normalisation.conv_energy
    return check_finite(model, folder)


def _set_scaling(model, scalings):
    """Standardisation and range of the features."""
    if scalings is None:
        return
    shape = model.feature_mean.shape
    model.feature_scale = np.zeros(shape)
    model.feature_min, model.feature_max = np.zeros(shape), np.zeros(shape)
    for z, (n, of_element) in enumerate(zip(model.descriptor.n_functions, scalings)):
        model.feature_mean[z, :n] = of_element.mean
        model.feature_scale[z, :n] = of_element.scale
        model.feature_min[z, :n] = of_element.least
        model.feature_max[z, :n] = of_element.largest


def write_potential(model, path: Path) -> str:
    """Write a model for nnp-predict and LAMMPS' pair style hdnnp, in eV and Å.

    The energies are those of the model to rounding. Networks of different shape are brought to one:
    n2p2 2.2 does not read element_nodes_short as written, so narrower layers get nodes that do
    nothing and missing layers linear ones.

    Parameters
    ----------
    model : ElementalNetworks
        On `SymmetryFunctions`, without a baseline.
    path : path
        A folder; made if need be.

    Returns
    -------
    str
        Lines for LAMMPS.

    Raises
    ------
    ModelFileError
        What n2p2 has no form for, or a folder that holds a potential already.
    """
    path = Path(path)
    _check(model, path)
    elements = sorted(model.elements, key=atomic_numbers.get)
    index = {element: k for k, element in enumerate(elements)}
    functions, tables, networks, offsets = {}, [], {}, {}
    for z, element in enumerate(model.elements):
        own = model.descriptor._functions[z]
        order = sorted(range(len(own)), key=lambda k: own[k].sort_key(index))
        functions[element] = [str(own[k]) for k in order]
        networks[element] = _network(model, z, order)
        offsets[element] = float(model.reference_energies[z])
    for element in elements:
        tables.append(_scaling_table(model, model.elements.index(element), index))
    conv_energy = _take_scale(model, networks, offsets)
    _make_equal(networks)
    text = _input_text(model, elements, functions, networks, offsets, conv_energy)
    files = {settings_file.NAME: text, scaling_file.NAME: scaling_file.format_scaling(tables)}
    for element in elements:
        name = weights_file.file_name(atomic_numbers[element])
        files[name] = weights_file.format_weights(networks[element][0])
    for name, content in files.items():
        archive.write_bytes(path / name, content.encode())
    return _lammps_lines(model, path)


def _check(model, path):
    def refuse(what):
        raise ModelFileError(f"{path}: not written: {what}")

    if isinstance(model, Ensemble):
        refuse(
            "an ensemble; export one member, member-0/model.npz in the directory of its run "
            "(in Python, model.member(0))"
        )
    if type(model.descriptor) is not SymmetryFunctions:
        refuse(
            f"n2p2 has symmetry functions, not {model.descriptor.name}; train with "
            'model.descriptor = "symmetry_functions"'
        )
    if model.baseline is not None:
        refuse(f'n2p2 has no baseline {model.baseline.name}; train with model.baseline = "none"')
    for own in model.descriptor._functions:
        for function in own:
            if function.type == "cos":
                refuse(f"n2p2 has no symmetry function {str(function)!r}")
    for names in model.activation:
        for name in names:
            if name not in (*LETTERS.values(), "shifted_softplus"):
                known = ", ".join(LETTERS.values())
                refuse(f"n2p2 has no activation {name}; train with one of {known}")
    if len({names[-1] for names in model.activation}) > 1:
        refuse("the outputs of its elements differ in their activations, which n2p2 cannot read")
    check_finite(model, path)
    if path.is_file():
        refuse("is a file; name a folder")
    if (path / settings_file.NAME).exists():
        refuse("there is a potential already; name another folder")


def _network(model, z, order):
    """Layers and activations of an element, its features in the order of n2p2."""
    layers = [(matrix[:-1].copy(), matrix[-1].copy()) for matrix in model.matrices()[z]]
    names = list(model.activation[z])
    weights, biases = layers[0]
    mean, scale = model.feature_mean[z], model.feature_scale[z]
    absent = slice(len(order), None)  # features of other elements alone, which are 0
    biases = biases - (mean * scale)[absent] @ weights[absent]
    # n2p2 divides by the spread, and where a feature is switched off there is none
    layers[0] = (weights * (scale != 0)[:, None])[order], biases
    if len(layers) == 1:  # n2p2 wants a hidden layer
        layers.append((np.ones((1, 1)), np.zeros(1)))
        names.insert(0, "linear")
    for k, name in enumerate(names[:-1]):
        if name == "shifted_softplus":
            weights, biases = layers[k + 1]
            layers[k + 1] = weights, biases - math.log(2) * weights.sum(axis=0)
            names[k] = "softplus"
    return layers, names


def _scaling_table(model, z, index):
    """min, max, mean and sigma of the functions of an element, in the order of n2p2."""
    own = model.descriptor._functions[z]
    order = sorted(range(len(own)), key=lambda k: own[k].sort_key(index))
    scale = model.feature_scale[z]
    sigma = np.where(scale == 0, 1, 1 / np.where(scale == 0, 1, scale))
    least, largest = model.feature_min, model.feature_max
    if least is None:
        least = np.full_like(model.feature_mean, -UNKNOWN_RANGE)
        largest = -least
    return np.column_stack([least[z], largest[z], model.feature_mean[z], sigma])[order]


def _take_scale(model, networks, offsets):
    """Bring the unit of the outputs into the last layers, or return the conv_energy it takes."""
    output = model.activation[0][-1]
    if output == "linear":
        for layers, _ in networks.values():
            weights, biases = layers[-1]
            layers[-1] = weights * model.scale, biases * model.scale
        return 1.0
    if output == "shifted_softplus":
        for element, (_, names) in networks.items():
            names[-1] = "softplus"
            offsets[element] -= math.log(2) * model.scale
    return float(1 / model.scale)


def _make_equal(networks):
    """Give all networks the same number of layers and of nodes without changing what they do."""
    depth = max(len(layers) for layers, _ in networks.values())
    for layers, names in networks.values():
        while len(layers) < depth:
            n = len(layers[-1][0])
            layers.insert(-1, (np.eye(n), np.zeros(n)))
            names.insert(-1, "linear")
    for k in range(depth - 1):
        width = max(len(layers[k][1]) for layers, _ in networks.values())
        for layers, _ in networks.values():
            more = width - len(layers[k][1])
            weights, biases = layers[k]
            layers[k] = np.pad(weights, ((0, 0), (0, more))), np.pad(biases, (0, more))
            weights, biases = layers[k + 1]
            layers[k + 1] = np.pad(weights, ((0, more), (0, 0))), biases


def _input_text(model, elements, functions, networks, offsets, conv_energy):
    letter_of = {name: letter for letter, name in LETTERS.items()}
    letters = {e: " ".join(letter_of[name] for name in networks[e][1]) for e in elements}
    shared = letters[elements[0]]
    layers = networks[elements[0]][0]
    lines = [
        "# A potential of fdforce in eV and Angstrom.",
        f"number_of_elements {len(elements)}",
        f"elements {' '.join(elements)}",
        *(f"atom_energy {element} {offsets[element]!r}" for element in elements),
        f"cutoff_type {model.descriptor.cutoff_type} {model.descriptor.cutoff_alpha!r}",
        "# In scaling.data, sigma is what the network inputs are divided by.",
        "scale_symmetry_functions_sigma",
        "scale_min_short 0.0",
        "scale_max_short 1.0",
        f"global_hidden_layers_short {len(layers) - 1}",
        f"global_nodes_short {' '.join(str(len(biases)) for _, biases in layers[:-1])}",
        f"global_activation_short {shared}",
    ]
    lines += [
        f"element_activation_short {e} {letters[e]}" for e in elements if letters[e] != shared
    ]
    if conv_energy != 1:
        lines += ["mean_energy 0.0", f"conv_energy {conv_energy!r}", "conv_length 1.0"]
    lines.append("use_short_forces")
    for element in elements:
        lines += [f"symfunction_short {function}" for function in functions[element]]
    return "\n".join(lines) + "\n"


def _lammps_lines(model, path):
    lines = [
        f"{path}: input.nn, scaling.data and {len(model.elements)} files of weights, in eV and Å.",
        "LAMMPS (units metal; elements in the order of the atom types):",
        f'pair_style hdnnp {model.descriptor.cutoff!r} dir "{path}" showew no showewsum 1000 '
        "resetew no maxew 1000000 cflength 1.0 cfenergy 1.0",
        f"pair_coeff * * {' '.join(model.elements)}",
    ]
    if len(set(model.activation)) > 1:
        lines.append("The networks differ in their activations: this needs n2p2 2.2 or newer.")
    if model.feature_min is None:
        lines.append("The model does not know the range of its features: n2p2 warns of nothing.")
    if mixed := _mixed_cores(model.descriptor):
        lines.append(
            f"Warning: n2p2 2.2 gives wrong values for {mixed[0]!r} and {mixed[1]!r}, of the same "
            "range with different cores, unless it is built with N2P2_NO_SF_GROUPS."
        )
    return "\n".join(lines)


def _mixed_cores(descriptor):
    """Two narrow compact functions of which n2p2 2.2 computes the second with the first's core."""
    for own in descriptor._functions:
        seen = {}
        for function in own:
            if function.type in (21, 24):
                p = function.numbers
                key = function.type, frozenset(function.neighbors), p["inner"], p["cutoff"]
                first = seen.setdefault(key, function)
                if first.numbers["core"] != p["core"]:
                    return str(first), str(function)
    return None

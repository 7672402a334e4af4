"""A potential of ænet: network files as a model, and a model as network files.

The energy of an atom is ``y / E_scaling + E_shift + E_atom``, y the output of the network of its
element on ``(G - avg) / sqrt(cov - avg^2)``, where features with a root of at most 1e-10 count as
0. A model holds ``1 / E_scaling`` as its scale and ``E_shift + E_atom`` as reference energies.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fdforce.archive import write_bytes
from fdforce.descriptors import Chebyshev, ElementalChebyshev, SymmetryFunctions
from fdforce.errors import ConfigError, ModelFileError
from fdforce.formats.aenet.network_file import (
    ACTIVATIONS,
    NetworkFile,
    read_network,
    records_of,
    text_of,
)
from fdforce.formats.aenet.setups import (
    BEHLER,
    CHEBYSHEV,
    CHEBYSHEV_KEYS,
    PARAMETERS,
    Setup,
    descriptor_of,
    function_line,
    stale_spins,
)
from fdforce.formats.numbers import check_finite
from fdforce.models import ElementalNetworks

SUFFIXES = (".nn", ".nn.ascii")

SHORTEST = 0.4
"""Å. What we write as RMIN: from it ænet reckons how many neighbours an atom can have."""

LARGEST_RATIO = 32.0
"""Of the mean of a feature to its deviation. ænet finds the deviation as the root of a difference
of squares, in which the square of this ratio is lost: 1e-13 of it here."""


def read_potential(path, *, units: str = "ev-angstrom"):
    """A model from network files.

    Parameters
    ----------
    path : path
        A folder with one file for every element, ``.nn`` or ``.nn.ascii``; or one of the files,
        the others beside it being named alike with their element in place of its own.
    units : str
        "ev-angstrom", which ænet's files are always in.

    Returns
    -------
    ElementalNetworks

    Raises
    ------
    ModelFileError
        A file is missing or damaged, or asks for what ænet computes wrongly.
    """
    if units != "ev-angstrom":
        raise ConfigError(f"units = {units!r}: potentials of ænet are in eV and Å")
    path = Path(path)
    found = _in_folder(path) if path.is_dir() else _named_alike(path)
    types = next(iter(found.values()))[1].types
    missing = [element for element in types if element not in found]
    if missing or len(found) > len(types):
        raise ModelFileError(
            f"{path}: networks of {', '.join(found)}, but the potential has the types "
            f"{', '.join(types)}; give one file for each of these"
        )
    files = [found[element] for element in types]
    setups = [_setup_of(file, network) for file, network in files]
    try:
        descriptor = descriptor_of(setups, types)
    except ConfigError as problem:
        raise ModelFileError(f"{path}: {problem}") from None
    by_element = {network.element: (file, network) for file, network in files}
    return _model(descriptor, [by_element[element] for element in descriptor.elements])


def _in_folder(folder):
    """Element -> file and network; the binary one where both forms are there."""
    found = {}
    for file in sorted(folder.iterdir()):
        if not file.name.endswith(SUFFIXES) or file.name.startswith("."):
            continue
        network = read_network(file)
        if network.element in found:
            other = found[network.element][0]
            if file.name != other.name + ".ascii":
                raise ModelFileError(
                    f"{folder}: {other.name} and {file.name} are both networks of "
                    f"{network.element}; name one of the files in place of the folder"
                )
        else:
            found[network.element] = file, network
    if not found:
        raise ModelFileError(f"{folder}: no file {' or '.join('*' + s for s in SUFFIXES)}")
    return found


def _named_alike(file):
    """Element -> file and network, of a file and those beside it."""
    first = read_network(file)
    found = {first.element: (file, first)}
    if len(first.types) > 1 and not file.name.startswith(first.element):
        raise ModelFileError(
            f"{file}: the names of the files of {', '.join(first.types)} should begin with the "
            f"element, as {first.element}.nn does; or give their folder"
        )
    for element in first.types:
        if element != first.element:
            other = file.with_name(element + file.name.removeprefix(first.element))
            if not other.exists():
                raise ModelFileError(
                    f"{file}: the potential has {', '.join(first.types)}, but {other.name} is not "
                    "beside it"
                )
            network = read_network(other)
            if network.element != element:
                raise ModelFileError(f"{other}: the network of {network.element}, not {element}")
            found[element] = other, network
    return found


def _setup_of(file, network) -> Setup:
    """The fingerprint of a network file; ModelFileError for one that ænet computes wrongly."""
    kinds = {kind.lower(): kind for kind in (CHEBYSHEV, BEHLER)}
    kind = kinds.get(network.fingerprint.lower())
    if kind is None:
        raise ModelFileError(
            f"{file}: fingerprint {network.fingerprint!r}, expected {CHEBYSHEV} or {BEHLER}"
        )
    numbers, functions = {}, ()
    if kind == CHEBYSHEV:
        numbers = _chebyshev_numbers(file, network)
    else:
        functions = tuple(_behler_line(file, network, k) for k in range(len(network.functions)))
    setup = Setup(network.element, tuple(network.environment), kind, numbers, functions)
    if stale_spins(setup):
        raise ModelFileError(f"{file}: {_stale(setup)}")
    return setup


def _stale(setup):
    return (
        f"angular_Rc = {setup.numbers['angular_cutoff']} is beyond radial_Rc = "
        f"{setup.numbers['radial_cutoff']}, where ænet's weighted angular features depend on the "
        "order of the atoms"
    )


def _chebyshev_numbers(file, network):
    row = network.parameters[0]
    if len(row) < len(CHEBYSHEV_KEYS):
        raise ModelFileError(f"{file}: {len(row)} parameters of a feature, expected 4")
    numbers = dict(zip(CHEBYSHEV_KEYS.values(), map(float, row)))
    for name in ("radial_order", "angular_order"):
        if numbers[name] != int(numbers[name]) or numbers[name] < 0:
            raise ModelFileError(f"{file}: {name} = {numbers[name]} is not a whole number")
        numbers[name] = int(numbers[name])
    n = numbers["radial_order"] + numbers["angular_order"] + 2
    expected = n * (2 if len(network.environment) > 1 else 1)
    if expected != len(network.mean):
        raise ModelFileError(
            f"{file}: {len(network.mean)} features, but orders {numbers['radial_order']} and "
            f"{numbers['angular_order']} with {len(network.environment)} elements make {expected}"
        )
    return numbers


def _behler_line(file, network, k):
    g = network.functions[k]
    if g not in PARAMETERS:
        raise ModelFileError(f"{file}: function {k + 1} is G{g}, expected G1 to G5")
    values = network.parameters[k][: len(PARAMETERS[g])]
    if len(values) < len(PARAMETERS[g]):
        raise ModelFileError(f"{file}: function {k + 1} (G{g}) has {len(values)} parameters only")
    numbers = network.neighbors[k][: 1 if g < 4 else 2]
    if not all(1 <= number <= len(network.environment) for number in numbers):
        raise ModelFileError(
            f"{file}: function {k + 1} has the neighbours {numbers.tolist()}, but ENV "
            f"{len(network.environment)} elements"
        )
    return function_line(g, [network.environment[number - 1] for number in numbers], values)


def _model(descriptor, files):
    networks = [network for _, network in files]
    for (file, network), n in zip(files, _n_features(descriptor)):
        if len(network.mean) != n:
            raise ModelFileError(f"{file}: {len(network.mean)} features instead of {n}")
    elements = descriptor.elements
    model = ElementalNetworks(
        descriptor,
        {element: network.widths[1:-1] for element, network in zip(elements, networks)},
        {
            element: [ACTIVATIONS[code] for code in network.activations]
            for element, network in zip(elements, networks)
        },
    )
    theta = np.zeros_like(model.theta)
    model.theta, model.scale = theta, 1 / networks[0].energy_scaling
    least, largest = np.zeros((2, len(elements), descriptor.n_features))
    for z, ((file, network), matrices) in enumerate(zip(files, model.matrices())):
        n = len(network.mean)
        for matrix, own in zip(matrices, network.matrices):
            matrix[: own.shape[1] - 1] = own[:, :-1].T
            matrix[-1] = own[:, -1]
        ratio = networks[0].energy_scaling / network.energy_scaling
        if ratio != 1:
            if network.activations[-1] != 0:
                raise ModelFileError(
                    f"{file}: E_scaling = {network.energy_scaling} differs from that of "
                    f"{elements[0]}, {networks[0].energy_scaling}, and the output is not linear"
                )
            matrices[-1][:] *= ratio
        model.feature_mean[z, :n] = network.mean
        model.feature_scale[z, :n] = _scale(network.mean, network.mean_square)
        least[z, :n], largest[z, :n] = network.least, network.largest
        atom_energy = network.atom_energies[network.types.index(network.element)]
        model.reference_energies[z] = network.energy_shift + atom_energy
    if all(network.n_evaluations > 0 for network in networks):
        model.feature_min, model.feature_max = least, largest
    return check_finite(model, files[0][0])


def _n_features(descriptor):
    """Features of each element."""
    if isinstance(descriptor, SymmetryFunctions):
        return descriptor.n_functions
    if isinstance(descriptor, ElementalChebyshev):
        return [own.n_features for own in descriptor.descriptors]
    return [descriptor.n_features] * len(descriptor.elements)


def _scale(mean, mean_square):
    deviation = np.sqrt(np.maximum(mean_square - mean * mean, 0))
    off = deviation <= 1e-10
    return np.where(off, 0, 1 / np.where(off, 1, deviation))


# -- writing ---------------------------------------------------------------------------------------


def write_potential(model, path) -> str:
    """Write ``El.nn`` and ``El.nn.ascii`` of every element.

    Parameters
    ----------
    model : ElementalNetworks
        Or a `LinearModel`, which is a network without hidden layers.
    path : path
        A folder, made where it does not exist.

    Returns
    -------
    str
        An input for ``predict.x``.

    Raises
    ------
    ModelFileError
        ænet cannot hold the model, or computes its descriptor wrongly; nothing is written.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ModelFileError(f"{path}: give a folder for the files of all elements")
    networks = [_network_file(model, z) for z in range(len(_checked(model).elements))]
    for network in networks:
        write_bytes(path / f"{network.element}.nn", records_of(network))
        write_bytes(path / f"{network.element}.nn.ascii", text_of(network))
    elements = model.elements
    lines = ["TYPES", str(len(elements)), *elements, "", "NETWORKS"]
    lines += [f"{element} {element}.nn" for element in elements]
    lines += ["", "FORCES", "", "FILES", "1", "structure.xsf"]
    return "\n".join(lines)


def _checked(model):
    """The model; ModelFileError where ænet cannot hold it."""

    def refuse(reason):
        raise ModelFileError(f"ænet: {reason}")

    if np.ndim(model.theta) == 2:
        refuse("holds one network per element, not an ensemble; export the members one by one")
    if not isinstance(model, ElementalNetworks):
        refuse(f"holds neural networks, not a model of the kind {model.kind}")
    if model.baseline is not None:
        refuse(
            f"has no baseline, and the model has {model.baseline.name}; "
            'train with model.baseline = "none"'
        )
    descriptor = model.descriptor
    if not isinstance(descriptor, Chebyshev | ElementalChebyshev | SymmetryFunctions):
        refuse(
            f"does not know the descriptor {descriptor.name}; it has chebyshev, "
            "elemental_chebyshev and symmetry_functions"
        )
    for element, names in zip(model.elements, model.activation):
        for name in names:
            if name not in ACTIVATIONS:
                refuse(
                    f"does not know the activation {name} ({element}); it has "
                    f"{', '.join(ACTIVATIONS)}"
                )
    numbers = (
        model.theta, model.reference_energies, model.feature_mean, model.feature_scale, model.scale
    )  # fmt: skip
    if not all(np.isfinite(values).all() for values in numbers) or model.scale == 0:
        refuse("the model holds numbers that are not finite, or a scale of 0")
    return model


def _network_file(model, z) -> NetworkFile:
    element = model.elements[z]
    described, order = _described(model.descriptor, z)
    if order is not None:
        n = len(order)
    else:
        n = _n_features(model.descriptor)[z]
        order = np.arange(n)
    matrices = [matrix.T.copy() for matrix in model.matrices()[z]]
    mean, scale = model.feature_mean[z], model.feature_scale[z]
    first = matrices[0]
    # features that the element does not have are 0
    bias = first[:, -1] - first[:, n:-1] @ (mean[n:] * scale[n:])
    mean, scale = mean[order], scale[order]
    mean_square, deviation = _statistics(mean, scale)
    weights = first[:, order] * (scale * deviation)
    matrices[0] = np.column_stack([weights, bias])
    known = model.feature_min is not None and np.all(model.feature_min[z] <= model.feature_max[z])
    return NetworkFile(
        matrices=matrices,
        activations=[ACTIVATIONS.index(name) for name in model.activation[z]],
        # one word: list-directed input ends at a blank
        description="fdforce",
        element=element,
        shortest=SHORTEST,
        n_evaluations=1 if known else 0,
        least=model.feature_min[z, order] if known else mean,
        largest=model.feature_max[z, order] if known else mean,
        mean=mean,
        mean_square=mean_square,
        data_name="fdforce",
        normalized=True,
        energy_scaling=1 / model.scale,
        energy_shift=0.0,
        types=list(model.elements),
        atom_energies=model.reference_energies,
        n_atoms=0,
        n_structures=0,
        # of which E_scaling = 2 / (largest - least) and E_shift = (least + largest) / 2
        energy_range=np.array([-1.0, 1.0, 0.0]) * abs(model.scale),
        **described,
    )


def _statistics(mean, scale):
    """Mean square of every feature, and its deviation as ænet finds it.

    The deviation is 1 / scale, or larger beside a mean from which that would not be told; it is
    any number of this size for a feature that does not count, whose weight will be 0.
    """
    off = scale == 0
    wanted = np.where(off, 1, 1 / np.where(off, 1, np.abs(scale)))
    wanted = np.maximum(wanted, np.abs(mean) / LARGEST_RATIO)
    mean_square = mean * mean + wanted**2
    if not np.isfinite(mean_square).all():
        raise ModelFileError("ænet: features whose mean square is too large for a number")
    return mean_square, np.sqrt(mean_square - mean * mean)


def _described(descriptor, z):
    """Entries of `NetworkFile` on the fingerprint; the order of its features where it changes."""
    if isinstance(descriptor, SymmetryFunctions):
        return _behler(descriptor, z)
    own, environment = descriptor, descriptor.elements
    if isinstance(descriptor, ElementalChebyshev):
        own = descriptor.descriptors[z]
        environment = own.environment
    numbers = {name: getattr(own, name) for name in CHEBYSHEV_KEYS.values()}
    setup = Setup(descriptor.elements[z], tuple(environment), CHEBYSHEV, numbers, ())
    if stale_spins(setup):
        raise ModelFileError(f"ænet: {setup.element}: {_stale(setup)}")
    n = own.n_features
    parameters = np.zeros((n, len(CHEBYSHEV_KEYS)))
    parameters[0] = list(numbers.values())
    return {
        "environment": list(environment),
        "cutoff": own.cutoff,
        "fingerprint": CHEBYSHEV,
        "functions": [0] * n,
        "parameters": parameters,
        "neighbors": np.zeros((n, 2), dtype=int),
    }, None


def _behler(descriptor, z):
    if (descriptor.cutoff_type, descriptor.cutoff_alpha) != (1, 0.0):
        raise ModelFileError(
            f"ænet: cutoff_type = {descriptor.cutoff_type} with cutoff_alpha = "
            f"{descriptor.cutoff_alpha}: its only cutoff is the cosine, type 1 with 0"
        )
    functions = descriptor.functions_of(descriptor.elements[z])
    rows = [_behler_function(function, descriptor.elements) for function in functions]
    # ænet's order: neighbour by neighbour, radial before angular, then by G
    order = sorted(range(len(rows)), key=lambda k: (*_sort_key(rows[k]), k))
    rows = [rows[k] for k in order]
    parameters, neighbors = np.zeros((len(rows), 4)), np.zeros((len(rows), 2), dtype=int)
    for k, (_, numbers, values) in enumerate(rows):
        parameters[k, : len(values)] = values
        neighbors[k, : len(numbers)] = numbers
    return {
        "environment": list(descriptor.elements),
        "cutoff": float(parameters[:, 0].max()),
        "fingerprint": BEHLER,
        "functions": [g for g, _, _ in rows],
        "parameters": parameters,
        "neighbors": neighbors,
    }, np.array(order)


def _behler_function(function, elements):
    """G, numbers of the neighbours from 1, and parameters of a function."""
    p, kind = function.numbers, function.type
    g = {2: 2, "cos": 3, 3: 4, 9: 5}.get(kind)
    if g is None:
        raise ModelFileError(
            f"ænet: does not know functions of type {kind} ({function}); it has 2, 3, 9 and cos"
        )
    if g > 3 and p["shift"] and p["eta"]:
        raise ModelFileError(f"ænet: has no shift of angular functions ({function})")
    if g == 2 and p["eta"] == 0:
        g = 1
    names = {"Rc": "cutoff", "Rs": "shift"}
    values = [p[names.get(key, key)] for key in PARAMETERS[g]]
    return g, sorted(elements.index(name) + 1 for name in function.neighbors), values


def _sort_key(row):
    g, numbers, _ = row
    return tuple(numbers), g

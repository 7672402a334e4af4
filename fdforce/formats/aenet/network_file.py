"""The network file of one element, ``.nn.ascii`` or ``.nn``: what it holds, and both its forms.

Both forms hold the same items in the same order, in lines or in records.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from fdforce.errors import ModelFileError
from fdforce.formats.aenet.fortran import RecordReader, RecordWriter, TextReader, TextWriter

NAME, LONG, TYPE = 2, 1024, 100
"""Characters of an element, of a description or file name, and of the type of a fingerprint."""

MOST = 10**6
"""Layers, units or features beyond this number are no network of ænet's."""

ACTIVATIONS = ("linear", "tanh", "sigmoid", "modified_tanh", "twist")
"""Our names of ænet's codes 0 to 4: linear, tanh, sigmoid, mtanh, twist."""


@dataclass
class NetworkFile:
    """Network, fingerprint and scaling of one element.

    Attributes
    ----------
    matrices : list of ndarray, shape (n_out, n_in + 1)
        Of every layer, the biases in the last column.
    activations : list of int
        Of every layer, numbers of `ACTIVATIONS`.
    description : str
    element : str
    environment : list of str
        ``ENV``.
    shortest, cutoff : float, Å
        ``RMIN`` and the largest cutoff.
    fingerprint : str
        "Chebyshev" or "Behler2011".
    functions : list of int, length n
        G of Behler's functions; 0 otherwise.
    parameters : ndarray, shape (n, n_parameters)
        Those of Behler's functions in the order of the setup; the first row of Chebyshev's holds
        radial cutoff and order, angular cutoff and order.
    neighbors : ndarray of int, shape (n, 2)
        Numbers in `environment`, from 1, of the neighbours of Behler's functions.
    n_evaluations : int
    least, largest, mean, mean_square : ndarray, shape (n,)
        Of the features over the training atoms, in the order of the network's input.
    data_name : str
    normalized : bool
    energy_scaling : float, 1/eV
    energy_shift : float, eV
    types : list of str
    atom_energies : ndarray, eV
        Of `types`.
    n_atoms, n_structures : int
    energy_range : ndarray, shape (3,)
        Least, largest and mean energy per atom of the training set.
    """

    matrices: list[np.ndarray]
    activations: list[int]
    description: str
    element: str
    environment: list[str]
    shortest: float
    cutoff: float
    fingerprint: str
    functions: list[int]
    parameters: np.ndarray
    neighbors: np.ndarray
    n_evaluations: int
    least: np.ndarray
    largest: np.ndarray
    mean: np.ndarray
    mean_square: np.ndarray
    data_name: str
    normalized: bool
    energy_scaling: float
    energy_shift: float
    types: list[str]
    atom_energies: np.ndarray
    n_atoms: int
    n_structures: int
    energy_range: np.ndarray

    @property
    def widths(self) -> list[int]:
        """Of every layer, input and output included."""
        return [self.matrices[0].shape[1] - 1, *(len(matrix) for matrix in self.matrices)]


def read_network(path) -> NetworkFile:
    """Read a network file of either form.

    Raises
    ------
    ModelFileError
        The file is missing, ends early, or holds what does not fit together; with line or record.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as problem:
        raise ModelFileError(f"{path}: cannot be read: {problem.strerror}") from problem
    reader = RecordReader if RecordReader.recognises(content) else TextReader
    return _read(reader(path, content))


def text_of(network: NetworkFile) -> bytes:
    """Content of a ``.nn.ascii``."""
    return _written(network, TextWriter())


def records_of(network: NetworkFile) -> bytes:
    """Content of a ``.nn``."""
    return _written(network, RecordWriter())


def _read(file) -> NetworkFile:
    def number(what, least=0):
        (value,) = file.integers(1, what)
        if not least <= value <= MOST:
            file.fail(what, f"{value}, expected {least} to {MOST}")
        return value

    n_layers = number("number of layers", 2)
    widest = number("largest number of nodes", 1)
    n_weights, n_values = number("number of weights", 1), number("number of values", 1)
    widths = file.integers(n_layers, "nodes of each layer")
    if min(widths) < 1 or widths[-1] != 1:
        file.fail("nodes of each layer", f"{widths}, expected numbers above 0, the last of them 1")
    if max(widths) != widest:
        file.fail("nodes of each layer", f"{widths}, but the largest is said to be {widest}")
    activations = file.integers(n_layers - 1, "activations")
    if not all(0 <= code < len(ACTIVATIONS) for code in activations):
        file.fail("activations", f"{activations}, expected codes 0 to {len(ACTIVATIONS) - 1}")
    begins, values = _places(widths)
    for expected, what in ((begins, "ends of the weights"), (values, "ends of the values")):
        found = file.integers(n_layers, what)
        if found != expected:
            file.fail(what, f"{found}, expected {expected} for layers of {widths} nodes")
    if (n_weights, n_values) != (begins[-1], values[-1] + 1):
        file.fail(
            "layers", f"said to have {n_weights} weights and {n_values} values, but layers of "
            f"{widths} nodes have {begins[-1]} and {values[-1] + 1}"
        )  # fmt: skip
    weights = file.reals(n_weights, "weights")
    matrices = [
        weights[a:b].reshape(n_out, n_in + 1, order="F")
        for (a, b), (n_in, n_out) in zip(itertools.pairwise(begins), itertools.pairwise(widths))
    ]

    description = file.text(LONG, "description")
    (element,) = file.names(1, NAME, "element")
    environment = file.names(number("size of ENV", 1), NAME, "ENV")
    (shortest,), (cutoff,) = file.reals(1, "shortest distance"), file.reals(1, "cutoff")
    fingerprint = file.text(TYPE, "type of the fingerprint")
    n = number("number of features", 1)
    if n != widths[0]:
        file.fail("number of features", f"{n}, but the network has {widths[0]} inputs")
    n_parameters = number("number of parameters of a feature", 1)
    functions = file.integers(n, "functions")
    parameters = file.reals(n_parameters * n, "parameters").reshape(n, n_parameters)
    neighbors = np.array(file.integers(2 * n, "neighbours of functions")).reshape(n, 2)
    (n_evaluations,) = file.integers(1, "number of evaluations")
    statistics = [
        file.reals(n, f"{name} of the features")
        for name in ("least value", "largest value", "average", "mean square")
    ]

    data_name = file.text(LONG, "name of the training set")
    normalized = file.logical("normalized")
    (scaling,) = file.reals(1, "energy scaling")
    if scaling == 0:
        file.fail("energy scaling", "0, expected another number")
    (shift,) = file.reals(1, "energy shift")
    types = file.names(number("number of types", 1), NAME, "types")
    atom_energies = file.reals(len(types), "atomic energies")
    (n_atoms,), (n_structures,) = (
        file.integers(1, f"number of {what}") for what in ("atoms", "structures")
    )
    energy_range = file.reals(3, "least, largest and mean energy")
    if element not in types:
        file.fail("types", f"{' '.join(types)}, but the network is that of {element}")
    for names, what in ((environment, "ENV"), (types, "types")):
        if len(set(names)) < len(names):
            file.fail(what, f"{' '.join(names)}: an element is named twice")
        for name in names:
            if atomic_numbers.get(name, 0) < 1:
                file.fail(what, f"{name!r} is no chemical element")
    file.end()
    return NetworkFile(
        matrices, activations, description, element, environment, float(shortest), float(cutoff),
        fingerprint, functions, parameters, neighbors, n_evaluations, *statistics, data_name,
        normalized, float(scaling), float(shift), types, atom_energies, n_atoms, n_structures,
        energy_range,
    )  # fmt: skip


def _written(network, file):
    begins, values = _places(network.widths)
    for one in (len(network.widths), max(network.widths), begins[-1], values[-1] + 1):
        file.integers([one])
    for many in (network.widths, network.activations, begins, values):
        file.integers(many)
    file.reals(np.concatenate([matrix.ravel(order="F") for matrix in network.matrices]))

    file.text(network.description, LONG)
    file.names([network.element], NAME)
    file.integers([len(network.environment)])
    file.names(network.environment, NAME)
    file.reals([network.shortest])
    file.reals([network.cutoff])
    file.text(network.fingerprint, TYPE)
    n, n_parameters = network.parameters.shape
    file.integers([n])
    file.integers([n_parameters])
    file.integers(network.functions)
    file.reals(network.parameters.ravel())
    file.integers(network.neighbors.ravel())
    file.integers([network.n_evaluations])
    for values in (network.least, network.largest, network.mean, network.mean_square):
        file.reals(values)

    file.text(network.data_name, LONG)
    file.logical(network.normalized)
    file.reals([network.energy_scaling])
    file.reals([network.energy_shift])
    file.integers([len(network.types)])
    file.names(network.types, NAME)
    file.reals(network.atom_energies)
    file.integers([network.n_atoms])
    file.integers([network.n_structures])
    file.reals(network.energy_range)
    return file.content()


def _places(widths):
    """Ends of the weights, and of the values with their constant 1, of each layer."""
    sizes = [(n_in + 1) * n_out for n_in, n_out in itertools.pairwise(widths)]
    values = [width + 1 for width in widths[:-1]]
    return [list(itertools.accumulate(list_, initial=0)) for list_ in (sizes, values)]

"""Descriptors, energies and forces that ænet computed (tests/golden/aenet/README.md)."""

import re
from functools import cache
from pathlib import Path

import ase.io
import numpy as np
import pytest

from fdforce.descriptors import Chebyshev
from fdforce.models import ElementalNetworks
from tests.checks import batch_of

GOLDEN = Path(__file__).parent / "golden" / "aenet"
SHARED = Path(__file__).parents[1].parent / "shared" / "golden" / "aenet" / "TiO2_cheb"

# value and slope
ACTIVATIONS = {
    0: (lambda z: z, lambda z: np.ones_like(z)),
    1: (np.tanh, lambda z: np.cosh(z) ** -2),
    2: (lambda z: 1 / (1 + np.exp(-z)), lambda z: 1 / (2 + np.exp(z) + np.exp(-z))),
    3: (
        lambda z: 1.7159 * np.tanh(0.666666666666667 * z),
        lambda z: 1.7159 * 0.666666666666667 * np.cosh(0.666666666666667 * z) ** -2,
    ),
    4: (
        lambda z: 1.7159 * np.tanh(0.666666666666667 * z) + 0.1 * z,
        lambda z: 1.7159 * 0.666666666666667 * np.cosh(0.666666666666667 * z) ** -2 + 0.1,
    ),
}


def read_setup(path):
    """The descriptor of an ænet fingerprint setup."""
    text = path.read_text()
    lines = text.split("\n")
    at = next(k for k, line in enumerate(lines) if line.startswith("ENV"))
    count = int(lines[at].split()[1])
    number = dict(re.findall(r"(radial_Rc|radial_N|angular_Rc|angular_N)\s*=\s*(\S+)", text))
    return Chebyshev(
        [line.strip() for line in lines[at + 1 : at + 1 + count]],
        radial_cutoff=float(number["radial_Rc"]),
        radial_order=int(number["radial_N"]),
        angular_cutoff=float(number["angular_Rc"]),
        angular_order=int(number["angular_N"]),
    )


class Network:
    """An ænet network in plain NumPy, with the slope of its energy."""

    def __init__(self, path):
        lines = path.read_text().split("\n")

        def numbers(k, kind=float):
            return np.array(lines[k].split(), kind)

        nodes, self.activations, start = (numbers(k, int) for k in (4, 5, 6))
        weights = numbers(8)
        # the last column multiplies a constant 1
        self.layers = [
            weights[a:b].reshape(n_out, n_in + 1, order="F")
            for a, b, n_in, n_out in zip(start[:-1], start[1:], nodes[:-1], nodes[1:])
        ]
        self.mean = numbers(24)
        deviation = np.sqrt(np.maximum(numbers(25) - self.mean**2, 0))
        self.scale = np.where(deviation > 1e-10, 1 / np.maximum(deviation, 1e-10), 0)
        self.energy_scaling, self.energy_shift = float(lines[28]), float(lines[29])
        self.atom_energy = dict(zip(lines[31].split(), numbers(32)))

    def __call__(self, features, element):
        h, zs = (features - self.mean) * self.scale, []
        for w, kind in zip(self.layers, self.activations):
            zs.append(h @ w[:, :-1].T + w[:, -1])
            h = ACTIVATIONS[kind][0](zs[-1])
        energy = h[:, 0] / self.energy_scaling + self.energy_shift + self.atom_energy[element]
        d = np.full((len(features), 1), 1 / self.energy_scaling)
        for w, kind, z in zip(self.layers[::-1], self.activations[::-1], zs[::-1]):
            d = (d * ACTIVATIONS[kind][1](z)) @ w[:, :-1]
        return energy, d * self.scale


def structures():
    for path in sorted(GOLDEN.glob("*/golden.npz")):
        for name in np.load(path)["names"]:
            yield path.parent.name, str(name)


each_structure = pytest.mark.parametrize(("case", "name"), list(structures()))


@cache
def computed(case, name):
    """Features by element, atomic energies, forces and their reference."""
    folder = GOLDEN / case
    golden = np.load(folder / "golden.npz")
    atoms = ase.io.read(folder / f"{name}.xsf")
    symbols = np.array(atoms.get_chemical_symbols())
    assert (symbols == golden[f"{name}/symbols"]).all()
    assert atoms.positions == pytest.approx(golden[f"{name}/positions"], abs=0)
    rows, energies, forces = {}, np.zeros(len(atoms)), np.zeros((len(atoms), 3))
    for element in sorted(set(symbols)):
        centres = symbols == element
        descriptor = read_setup(folder / f"{element}.stp")
        batch = batch_of([atoms], descriptor.elements, descriptor.cutoff)
        mean = np.zeros((len(descriptor.elements), descriptor.n_features))
        features, densities = descriptor.forward(batch, mean, mean + 1)
        rows[element] = features[batch.place[centres]]
        # without a skin, equal distances may come in another order
        assert rows[element] == pytest.approx(descriptor.compute(atoms)[centres], abs=1e-11)
        network = Network(folder / f"{element}.nn.ascii")
        energies[centres], slope = network(rows[element], element)
        d_features = np.zeros_like(features)
        d_features[batch.place[centres]] = slope
        forces -= descriptor.backward(batch, d_features, densities, mean + 1)[0]
    return golden, rows, energies, forces


def test_every_case_is_here():
    assert len(list(structures())) == 12


@each_structure
def test_descriptors(case, name):
    golden, rows, _, _ = computed(case, name)
    for element, features in rows.items():
        expected = golden[f"{name}/G_{element}"]
        assert features.shape == expected.shape
        # Sums of up to 100 neighbours or 4000 pairs in another order, with the self term
        # subtracted: 1e-16 times sqrt(1e4) times the size of the sum, of which the features,
        # down to 1e-2, are a small rest.
        error = np.abs(features - expected) / (1e-3 + np.abs(expected))
        assert error.max() < 1e-10, f"{element}: {error.max():.1e}"


@each_structure
def test_energies(case, name):
    golden, _, energies, _ = computed(case, name)
    # features to 1e-12 in units of their deviation, energies of order 1 to 10 eV
    assert energies == pytest.approx(golden[f"{name}/atom_energy"], rel=0, abs=1e-10)
    assert energies.sum() == pytest.approx(float(golden[f"{name}/energy"]), rel=0, abs=1e-9)


@each_structure
def test_forces(case, name):
    golden, _, _, forces = computed(case, name)
    expected = golden[f"{name}/forces"]
    assert np.abs(expected).max() > 1e-3
    # slopes of T_n lose n^2 more than T_n
    assert forces == pytest.approx(expected, rel=0, abs=1e-9)


def shared_file(name):
    if not SHARED.is_dir():
        pytest.skip("../shared is absent")
    return SHARED / name


NAMES = ["structure0001.xsf", "structure0019.xsf", "tri_small.xsf"]


def section(name, structure):
    """Lines of one structure in a file of several."""
    parts = shared_file(name).read_text().split("STRUCT ")
    return next(part.split("\n") for part in parts if part.startswith(structure))


@cache
def shared_model():
    """ænet's TiO2 potential: both elements have the same fingerprint and network shape."""
    networks = [Network(shared_file(f"{element}.pytorch.nn.ascii")) for element in ("Ti", "O")]
    descriptor = read_setup(shared_file("Ti.fingerprint.stp"))
    assert descriptor.settings == read_setup(shared_file("O.fingerprint.stp")).settings
    model = ElementalNetworks(descriptor, [w.shape[0] for w in networks[0].layers[:-1]], "tanh")
    parts = []
    for z, network in enumerate(networks):
        assert network.activations.tolist() == [1, 1, 0]
        for w in network.layers:
            parts += [w[:, :-1].T.ravel(), w[:, -1]]
        model.feature_mean[z], model.feature_scale[z] = network.mean, network.scale
        model.reference_energies[z] = network.energy_shift + network.atom_energy[model.elements[z]]
    model.theta = np.concatenate(parts)
    model.scale = 1 / networks[0].energy_scaling
    return model


@pytest.mark.parametrize("name", NAMES)
def test_descriptors_of_tio2(name):
    lines = section("gold.descriptors.txt", name)
    expected = np.array([line.split()[1:] for line in lines if line.startswith("G ")], float)
    atoms = ase.io.read(shared_file(name))
    features = read_setup(shared_file("Ti.fingerprint.stp")).compute(atoms)
    error = np.abs(features - expected) / (1e-3 + np.abs(expected))
    # as above, with radial order 20
    assert error.max() < 1e-10


@pytest.mark.parametrize("name", NAMES)
def test_energies_and_forces_of_tio2(name):
    lines = section("predict_fullprec.txt", name)
    rows = [line.split() for line in lines if line.startswith("ATOM")]
    model = shared_model()
    batch = batch_of([ase.io.read(shared_file(name))], model.elements, model.cutoff)
    state = model.forward(batch)
    # 15 printed digits of -1600 and -20000 eV
    assert state.atom_energy == pytest.approx([float(r[4]) for r in rows], rel=0, abs=1e-9)
    assert state.energy[0] == pytest.approx(float(lines[0].split()[2]), rel=0, abs=1e-8)
    expected = np.array([r[6:9] for r in rows], float)
    forces, _ = model.forces(state)
    # networks with weights up to 100 on features good to 1e-12
    assert forces == pytest.approx(expected, rel=0, abs=1e-8)

"""n2p2 potentials: read as n2p2 evaluates them, written for a reader that is not ours."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st

from fdforce.descriptors import PowerSpectrum, SymmetryFunctions
from fdforce.errors import FdforceError, ModelFileError
from fdforce.formats import POTENTIALS, find_module
from fdforce.formats.n2p2.text import UNITS
from fdforce.models import ElementalNetworks, Ensemble, LinearModel
from fdforce.models.zbl import ZBL
from tests.checks import batch_of
from tests.naive.n2p2 import Potential
from tests.systems import SYSTEMS

OWN = Path(__file__).parent / "golden" / "own" / "n2p2"
SHARED = Path(__file__).parents[1].parent / "shared" / "golden" / "n2p2"

n2p2 = find_module(POTENTIALS, "n2p2")
CASES = sorted(str(path.parent.relative_to(OWN)) for path in OWN.glob("**/golden.npz"))


def energy_and_forces(model, atoms):
    batch = batch_of([atoms], model.elements, model.cutoff)
    state = model.forward(batch)
    return state.energy[0], model.forces(state)[0]


def golden_structures(golden, length):
    for name in golden["names"]:
        cell = golden[f"{name}/cell"] * length
        periodic = dict(cell=cell, pbc=True) if len(cell) else {}
        symbols = list(golden[f"{name}/symbols"])
        yield name, Atoms(symbols, golden[f"{name}/positions"] * length, **periodic)


# Reading


def check_against(model, atoms, energy, offset, forces, length, unit):
    """Energies less the offset to 1e-9, forces to 1e-8 eV/Å.

    Features near 0 and 180 degrees are known to 1e-9, and steep networks have slopes of 1e3.
    """
    found, found_forces = energy_and_forces(model, atoms)
    assert abs(found - energy * unit) < 1e-9 * max(1.0, abs(energy - offset) * unit)
    size = np.sqrt(np.mean(forces**2)) * unit / length
    assert size > 1e-4
    assert np.abs(found_forces - forces * unit / length).max() < 1e-8 * max(1.0, size)


@pytest.mark.parametrize("case", CASES)
def test_energies_and_forces_of_n2p2(case):
    units = "hartree-bohr" if "bohr" in case else "ev-angstrom"
    unit, length = UNITS[units]
    golden = np.load(OWN / case / "golden.npz")
    model = n2p2.read_potential(OWN / case, units=units)
    for name, atoms in golden_structures(golden, length):
        energy = golden[f"{name}/energy"]
        offset = energy - np.sum(golden[f"{name}/atom_energy"])
        check_against(model, atoms, energy, offset, golden[f"{name}/forces"], length, unit)


def test_every_case_is_here():
    assert len(CASES) == 21


PUBLISHED = ["act_zoo/act_pp_scalecenter", "act_zoo/act_tp_scalecenter_datanorm",
             "act_zoo/act_tp_sigma", "H2O_RPBE-D3"]  # fmt: skip


@pytest.mark.parametrize("case", PUBLISHED)
def test_published_potentials(case):
    if not (SHARED / case).is_dir():
        pytest.skip("../shared is absent")
    unit, length = UNITS["hartree-bohr"]
    model = n2p2.read_potential(SHARED / case, units="hartree-bohr")
    energies, forces = [], []
    for line in (SHARED / case / "golden.txt").read_text().split("\n"):
        words = line.split()
        if words[:1] == ["ENERGY"]:
            energies.append((float(words[2]), float(words[-1])))
            forces.append([])
        elif words[:1] == ["F_NNP"]:
            forces[-1].append([float(word) for word in words[1:4]])
    frames = list(n2p2.read_structures(SHARED / case, units="hartree-bohr"))
    assert len(frames) == len(energies) >= 3
    for atoms, (energy, offset), expected in zip(frames, energies, forces):
        check_against(model, atoms, energy, offset, np.array(expected), length, unit)


def test_ranges_are_those_of_the_file():
    model = n2p2.read_potential(OWN / "tio2")
    table = np.loadtxt(OWN / "tio2" / "scaling.data")
    for z, n in enumerate(model.descriptor.n_functions):
        rows = table[table[:, 0] == z + 1]
        assert np.array_equal(model.feature_min[z, :n], rows[:, 2])
        assert np.array_equal(model.feature_max[z, :n], rows[:, 3])
    assert model.elements == ("O", "Ti")
    assert model.hidden == ((8, 8), (12, 8))
    assert n2p2.read_potential(OWN / "tio2" / "input.nn").theta.tolist() == model.theta.tolist()


@pytest.mark.parametrize("case", ["tio2", "zoo/ct7_a0", "zoo/ct1_a0.3", "water_bohr_norm"])
def test_the_reader_of_these_tests(case):
    """The judge of what is written has to agree with n2p2 itself."""
    golden, judge = np.load(OWN / case / "golden.npz"), Potential(OWN / case)
    name, atoms = min(golden_structures(golden, 1.0), key=lambda pair: len(pair[1]))
    assert judge.energy(atoms) == pytest.approx(float(golden[f"{name}/energy"]), rel=1e-12)


# A small potential, for what can be said in more than one way

LINES = """\
number_of_elements 2
elements O H            # any order
atom_energy O -430.25
atom_energy H -13.5   ! another comment
cutoff_type 6 0.1
scale_symmetry_functions
scale_min_short -0.5
global_hidden_layers_short 2
global_nodes_short 3 2
global_activation_short t p l
symfunction_short H 2 O 0.3 0.5 4.0
symfunction_short H 2 H 0.2 0.0 4.5
symfunction_short O 9 H H 0.05 1 2 4.0
"""
STATISTICS = [[0.1, 0.9, 0.4, 0.2], [0.0, 1.5, 0.6, 0.3], [0.01, 0.5, 0.2, 0.1]]


def small_folder(folder, *, lines=LINES, widths=(3, 2), columns=True, seed=1):
    """A potential of H (two functions) and O (one)."""
    folder.mkdir(exist_ok=True)
    (folder / "input.nn").write_text(lines)
    rows = [f"{z} {k} {' '.join(map(str, v))}" for z, k, v in zip((1, 1, 2), (1, 2, 1), STATISTICS)]
    (folder / "scaling.data").write_text("# a comment\n" + "\n".join(rows) + "\n")
    rng = np.random.default_rng(seed)
    for number, n_in in ((1, 2), (8, 1)):
        text = []
        for layer, n_out in enumerate([*widths, 1]):
            for i in range(1, n_in + 1):
                text += [f"a 0 {layer} {i} {layer + 1} {j}" for j in range(1, n_out + 1)]
            text += [f"b 0 {layer + 1} {j}" for j in range(1, n_out + 1)]
            n_in = n_out
        values = rng.normal(size=len(text))
        text = [f"{v!r} {t if columns else ''}" for v, t in zip(values.tolist(), text)]
        (folder / f"weights.{number:03d}.data").write_text("\n".join(text) + "\n")
    return folder


def water():
    atoms = Atoms("OHHOHH", np.random.default_rng(0).normal(size=(6, 3)) * 2, cell=[7, 7, 7], pbc=1)
    atoms.positions += np.arange(6)[:, None]
    return atoms


def agrees(folder):
    """Whether the model read from a folder has the energy that the judge finds."""
    model, judge = n2p2.read_potential(folder), Potential(folder)
    energy = energy_and_forces(model, water())[0]
    expected = judge.energy(water())
    # sums of 6 atoms with networks of order 1 beside offsets of 1e3
    assert energy == pytest.approx(expected, abs=1e-12 * 1e3)
    assert abs(expected + 2 * 430.25 + 4 * 13.5) > 0.1
    return model


def test_words_are_read_as_n2p2_reads_them(tmp_path):
    expected = agrees(small_folder(tmp_path / "a"))
    fortran = small_folder(tmp_path / "b", lines=LINES.replace("-13.5", "-1.35D1"))
    for file in fortran.iterdir():
        content = file.read_text().replace("e-0", "D-0").replace("\n", "\r\n")
        file.write_bytes(b"# no UTF-8: \xe9\xff\r\n" + content.encode())
    model = n2p2.read_potential(fortran)
    for name in ("theta", "reference_energies", "feature_mean", "feature_scale", "feature_min"):
        assert np.array_equal(getattr(model, name), getattr(expected, name)), name
    assert model.descriptor.settings == expected.descriptor.settings
    assert model.elements == ("H", "O")


@pytest.mark.parametrize(
    "scaling",
    ["", "center_symmetry_functions", "scale_symmetry_functions_sigma",
     "scale_symmetry_functions\ncenter_symmetry_functions",
     "scale_symmetry_functions\nscale_symmetry_functions_sigma",
     "normalize_nodes", "mean_energy -3.5\nconv_energy 0.4\nconv_length 2.5"],
)  # fmt: skip
def test_scaling(tmp_path, scaling):
    agrees(small_folder(tmp_path / "p", lines=LINES.replace("scale_symmetry_functions", scaling)))


def test_runner_scaling_has_no_sigma(tmp_path):
    folder = small_folder(tmp_path / "p")
    expected = n2p2.read_potential(folder)
    path = folder / "scaling.data"
    rows = [" ".join(line.split()[:5]) for line in path.read_text().split("\n")[1:-1]]
    path.write_text("\n".join([*rows, "-10.5 -9.5"]))
    model = n2p2.read_potential(folder)
    assert np.array_equal(model.feature_scale, expected.feature_scale)


def test_no_scaling_needs_no_file(tmp_path):
    folder = small_folder(tmp_path / "p", lines=LINES.replace("scale_symmetry_functions\n", ""))
    expected = agrees(folder)
    (folder / "scaling.data").unlink()
    model = n2p2.read_potential(folder)
    assert model.feature_min is None
    assert np.array_equal(model.theta, expected.theta)


@pytest.mark.parametrize(
    ("nodes", "widths", "columns"),
    [
        ("element_nodes_short O 3 2\nelement_nodes_short H 3 2", (3, 2), True),  # n2p2 2.2
        ("element_nodes_short O 2 4\nelement_nodes_short H 2 4", (3, 4), True),  # RuNNer
        ("element_nodes_short O 1 5\nelement_nodes_short H 1 5", (5, 2), True),
        ("element_nodes_short O 4 9\nelement_nodes_short H 4 9", (4, 2), False),  # n2p2 2.2 ...
        ("element_nodes_short O 4 9\nelement_nodes_short H 4 9", (4, 9), False),  # ... and meant
    ],
)
def test_widths_of_elements(tmp_path, nodes, widths, columns):
    folder = small_folder(
        tmp_path / "p", lines=LINES + nodes + "\n", widths=widths, columns=columns
    )
    assert n2p2.read_potential(folder).hidden == (widths, widths)
    if widths == (4, 2):
        agrees(folder)


def test_activations_of_elements(tmp_path):
    folder = small_folder(tmp_path / "p", lines=LINES + "element_activation_short O s h l\n")
    assert agrees(folder).activation == (
        ("tanh", "softplus", "linear"), ("sigmoid", "harmonic", "linear")
    )  # fmt: skip


def replaced(old, new):
    assert old in LINES
    return ("input.nn", lambda text: text.replace(old, new))


def scaled(old, new):
    return ("scaling.data", lambda text: text.replace(old, new, 1))


WRONG = [
    (replaced("elements O H  ", "elements O Qq "), r"input.nn, line 2: elements: 'Qq' is no"),
    (replaced("elements O H  ", "elements O O "), r"line 2: elements O O: name every element once"),
    (replaced("_elements 2", "_elements 3"), r"line 1: number_of_elements, but elements has 2"),
    (replaced("atom_energy O", "atom_energy C"), r"line 3: atom_energy of 'C', which is not among"),
    (replaced("-430.25", "-430,25"), r"line 3: atom_energy: '-430,25' is not a number"),
    (replaced("-430.25", "nan"), r"line 3: atom_energy: 'nan' is not a number"),
    (replaced("-430.25", "-1e999"), r"line 3: atom_energy: -1e999 is too large"),
    (replaced("atom_energy H", "atom_energy O"), r"line 4: atom_energy of O is given twice"),
    (replaced("cutoff_type 6", "cutoff_type 11"), r"line 5: cutoff_type = 11: choose one of 0"),
    (replaced("cutoff_type 6", "cutoff_type x"), r"line 5: cutoff_type: 'x' is not a whole"),
    (replaced("6 0.1", "6 0.1 3"), r"line 5: cutoff_type has 3 values instead of 1 or 2"),
    (replaced("cutoff_type 6 0.1", "cutoff_type"), r"line 5: cutoff_type has 0 values"),
    (replaced("cutoff_type 6 0.1", ""), r"input.nn: the keyword cutoff_type is missing"),
    (replaced("-0.5", "1.0"), r"scale_min_short equals scale_max_short"),
    (replaced("global_nodes_short 3 2", "global_nodes_short 3"),
     r"line 9: global_nodes_short: the network of H has 2 hidden layers; give their widths"),
    (replaced("short 3 2", "short 3 0"), r"line 9: global_nodes_short: widths are 1 to 10000"),
    (replaced("short 3 2", "short 3 3"),
     r"weights.001.data: has 20 weights; input.nn asks for 25 \(2-3-3-1\)"),
    (replaced("t p l", "t p"), r"line 10: global_activation_short has 2 letters instead of 3"),
    (replaced("t p l", "t x l"), r"line 10: global_activation_short: no activation 'x'"),
    (replaced("global_activation_short t p l", "element_activation_short H t p l"),
     r"the keyword global_activation_short is missing"),
    (replaced("H 2 O 0.3 0.5 4.0", "H 2 C 0.3 0.5 4.0"), r"line 11: symfunction_short: .*'C' is"),
    (replaced("H 2 O 0.3 0.5 4.0", "H 2 O 0.3 0.5"), r"line 11: symfunction_short: .*expected H 2"),
    (replaced("H 2 O 0.3 0.5 4.0", "H cos O 0.3 4"), r"line 11: .*cos, which n2p2 has not"),
    (replaced("O 9 H H 0.05 1 2 4.0", "H 2 O 1 1 4"), r"none has O as its central element"),
    (replaced("scale_min_short -0.5", "cutoff_type 2"), r"line 7: cutoff_type is given twice"),
    (replaced("scale_min_short -0.5", "nnp_gen 4"), r"line 7: nnp_type 4: fdforce has no charges"),
    (replaced("scale_min_short -0.5", "use_electrostatics"), r"line 7: use_electrostatics: adds"),
    (replaced("scale_min_short -0.5", "conv_energy 1"), r"the keyword mean_energy is missing"),
    (replaced("scale_min_short -0.5", "conv_energy 0\nmean_energy 0\nconv_length 1"),
     r"line 7: conv_energy = 0: must be above 0"),
    (replaced("scale_min_short -0.5", "element_activation_short O t p h"),
     r"line 7: .*: the output of O differs from that of global_activation_short"),
    (replaced("scale_min_short -0.5", "element_activation_short O 1 2 t"),
     r"line 7: element_activation_short of single nodes"),
    (replaced("scale_symmetry_functions\n", "scale_symmetry_function\n"),
     r"line 6: scale_symmetry_function: is scale_symmetry_functions meant\? Else leave it out"),
    (replaced("scale_min_short -0.5", "conv_energy 1e-320\nmean_energy 0\nconv_length 1"),
     r"p: scale of the model is not finite"),
    (replaced("H 2 O 0.3", "H 2 O 1_0"), r"line 11: .*eta = '1_0' is not a number"),
    (replaced("H 2 O 0.3", f"H {'2' * 5000} O 0.3"), r"line 11: symfunction_short: function"),
    (scaled("0.1 0.9 0.4", "0.1 0.1 0.4"), r"scaling.data, line 2: min equals max, by which n2p2"),
    (scaled("0.4 0.2\n", "0.4 0.2 7\n"), r"scaling.data, line 2: 7 values instead of 6"),
    (scaled("2 1 0.01 0.5 0.2 0.1\n", ""), r"ends after 2 functions; input.nn has 3 .*\(2 \+ 1\)"),
    (scaled("1 2 ", "2 1 "), r"line 3: element 2, function 1, where element 1, function 2"),
    (scaled("0.2 0.1\n", "0.2 0.1\n2 2 0 1 0 1\n"), r"line 5: more functions than the 3"),
    (scaled("0.9", "0.9.1"), r"scaling.data, line 2: '0.9.1' is not a number"),
    (("weights.008.data", lambda text: text[: len(text) // 2].rsplit("\n", 1)[0]),
     r"weights.008.data: has \d+ weights; input.nn asks for 17"),
    (("weights.008.data", lambda text: text.replace("a 0 0 1 1 1", "a 0 0 1 1 2", 1)),
     r"weights.008.data, line 1: is a 0 1 1 2, where n2p2 reads a 0 1 1 1"),
    (("weights.008.data", lambda text: "x" + text), r"weights.008.data, line 1: 'x"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_wrong_files_are_refused_with_their_line(tmp_path, change, message):
    folder = small_folder(tmp_path / "p")
    name, edit = change
    path = folder / name
    path.write_text(edit(path.read_text()))
    with pytest.raises(ModelFileError, match=message):
        n2p2.read_potential(folder)


@pytest.mark.parametrize("name", ["input.nn", "scaling.data", "weights.008.data"])
def test_missing_files(tmp_path, name):
    folder = small_folder(tmp_path / "p")
    (folder / name).unlink()
    with pytest.raises(ModelFileError, match=f"{name}: no such file"):
        n2p2.read_potential(folder)
    (folder / name).mkdir()
    with pytest.raises(ModelFileError, match=f"{name}: cannot be read"):
        n2p2.read_potential(folder)


def test_places_of_weights_that_are_no_numbers_are_not_read(tmp_path):
    """Beyond the first column n2p2 reads nothing, so what is no place there says nothing."""
    folder = small_folder(tmp_path / "p")
    expected = n2p2.read_potential(folder)
    path = folder / "weights.008.data"
    path.write_text(path.read_text().replace("a 0 0 1 1 1", f"a 0 {'9' * 5000} ² 1 1", 1))
    assert np.array_equal(n2p2.read_potential(folder).theta, expected.theta)


DAMAGE = st.lists(
    st.tuples(
        st.integers(0, 700), st.integers(0, 9), st.sampled_from(["", "\n", " ", "1", "e", "-", "#"])
    ),
    min_size=1,
    max_size=3,
)


@given(st.sampled_from(["input.nn", "scaling.data", "weights.001.data"]), DAMAGE)
@settings(max_examples=150)
def test_damaged_files_raise_nothing_else(tmp_path_factory, name, damage):
    folder = small_folder(tmp_path_factory.getbasetemp() / "damaged")
    text = (folder / name).read_text()
    for at, length, filling in damage:
        text = text[:at] + filling + text[at + length :]
    (folder / name).write_text(text)
    try:
        model = n2p2.read_potential(folder)
    except FdforceError as problem:
        said = str(problem)
    else:
        assert np.isfinite(model.theta).all()
        assert np.isfinite(model.feature_mean).all()
        assert np.isfinite(model.feature_scale).all()
        return
    assert str(folder) in said
    assert "\n" not in said


# Writing

ELEMENTS = ["O", "C", "H"]
FUNCTIONS = [
    "{0} 9 {1} {2} 0.05 -1 2 4.2 0.5", "{0} 2 {1} 0.4 0.7 4.4", "{0} 3 {1} {2} 0.02 1 3.5 4",
    "{0} 12 0.3 0 4", "{0} 13 0.02 0.3 -1 2 4", "{0} 20 {1} -1 4 p3a",
    "{0} 22 {1} {2} 0.2 4 20 160 e", "{0} 21 {1} {2} 0.3 4 30 150 p2", "{0} 25 0.2 4 -100 100 p1",
]  # fmt: skip


def functions():
    """Of three elements, with different numbers of functions, in no order."""
    lines = [
        form.format(centre, one, other)
        for k, centre in enumerate(ELEMENTS)
        for form in FUNCTIONS[: len(FUNCTIONS) - 2 * k]
        for one, other in (("H", "O"), ("C", "H"))
    ]
    return list(dict.fromkeys(lines))


def model_of(hidden, activation, *, order="n2p2", kind=1, alpha=0.2, known=True, seed=0):
    """A random model with every number away from its default."""
    descriptor = SymmetryFunctions(ELEMENTS, functions(), kind, alpha, order=order)
    if hidden is None:
        model = LinearModel(descriptor, seed=seed)
    else:
        model = ElementalNetworks(descriptor, hidden, activation, seed=seed)
    rng = np.random.default_rng(seed)
    model.theta = rng.normal(size=model.theta.shape) * 0.4
    model.scale = 1.7
    model.reference_energies = rng.normal(size=3) * 100
    shape = model.feature_mean.shape
    model.feature_mean, model.feature_scale = rng.normal(size=shape), rng.uniform(0.5, 2, shape)
    model.feature_scale[:, 1] = 0.0  # a feature that did not vary
    model.feature_mean[:, 1] = 0.3
    if known:
        model.feature_min = np.full(shape, -0.5)
        model.feature_max = rng.uniform(0, 2, shape)
    return model


MODELS = {
    "one shape": dict(hidden=[5, 4], activation="tanh"),
    "sorted by n2p2": dict(hidden=[4], activation="softplus", order="given", kind=5, alpha=0.0),
    "widths of elements": dict(
        hidden={"O": [5, 3], "C": [2, 6], "H": [4, 4]}, activation="sigmoid"
    ),
    "depths of elements": dict(hidden={"O": [3], "C": [2, 5, 3], "H": []}, activation="tanh"),
    "activations": dict(
        hidden={"O": [3, 2], "C": [2], "H": [3, 3]},
        activation={"O": ["gaussian", "cosine"], "C": ["harmonic"], "H": ["exponential", "relu"]},
    ),
    "shifted": dict(hidden=[4, 3], activation="shifted_softplus"),
    "output": dict(hidden=[4], activation=["reverse_sigmoid", "sigmoid"]),
    "shifted output": dict(hidden=[4], activation=["tanh", "shifted_softplus"]),
    "linear": dict(hidden=None, activation=None),
    "no range": dict(hidden=[3], activation="linear", known=False),
}


def frames():
    atoms = SYSTEMS["three_species"]()
    moved = atoms.copy()
    moved.rattle(0.2, seed=3)
    return [atoms, moved]


@pytest.mark.parametrize("name", MODELS)
def test_written_potentials_are_the_model(tmp_path, name):
    """To another reader, and read again."""
    model = model_of(**MODELS[name])
    n2p2.write_potential(model, tmp_path / "p")
    again, judge = n2p2.read_potential(tmp_path / "p"), Potential(tmp_path / "p")
    assert judge.elements == ["H", "C", "O"]
    for atoms in frames():
        energy, forces = energy_and_forces(model, atoms)
        read, read_forces = energy_and_forces(again, atoms)
        # the offsets are the largest terms; sums of some tens of terms of order 1
        size = np.abs(model.reference_energies).max() * len(atoms)
        assert abs(read - energy) < 1e-12 * size
        assert abs(judge.energy(atoms) - energy) < 1e-12 * size
        assert np.abs(read_forces - forces).max() < 1e-12 * max(1, np.abs(forces).max())
        assert np.abs(forces).max() > 0.01
    order = [model.elements.index(element) for element in again.elements]
    if model.feature_min is None:
        assert judge.extrapolations(frames()[0]) == 0
        return
    for z, k in enumerate(order):
        n = model.descriptor.n_functions[k]
        for bound in ("feature_min", "feature_max"):
            assert sorted(getattr(again, bound)[z, :n]) == sorted(getattr(model, bound)[k, :n])


def test_only_what_every_version_reads(tmp_path):
    """element_nodes_short means two things, and n2p2 2.2 does not do either."""
    n2p2.write_potential(model_of(**MODELS["depths of elements"]), tmp_path / "p")
    text = (tmp_path / "p" / "input.nn").read_text()
    assert "element_nodes_short" not in text
    assert "element_hidden_layers_short" not in text
    assert "global_nodes_short 3 5 3\n" in text


def test_extrapolation_warnings(tmp_path):
    model = model_of(**MODELS["one shape"])
    atoms = frames()[0]
    features = model.descriptor.compute(atoms)
    for z, element in enumerate(model.elements):
        rows = features[[symbol == element for symbol in atoms.symbols]]
        model.feature_min[z], model.feature_max[z] = rows.min(axis=0), rows.max(axis=0)
    n2p2.write_potential(model, tmp_path / "p")
    judge = Potential(tmp_path / "p")
    # the loops round differently, so the extremes themselves may be an ulp outside
    for element, g in zip(atoms.symbols, judge.features(atoms)):
        least, largest, *_ = judge.table[element]
        assert (g > least - 1e-9).all()
        assert (g < largest + 1e-9).all()
    assert judge.extrapolations(frames()[1]) > 10


def test_lines_for_lammps(tmp_path):
    said = n2p2.write_potential(model_of(**MODELS["one shape"]), tmp_path / "p")
    assert f'\npair_style hdnnp 4.4 dir "{tmp_path / "p"}" showew no ' in said
    assert said.endswith("cflength 1.0 cfenergy 1.0\npair_coeff * * O C H")
    said = n2p2.write_potential(model_of(**MODELS["activations"]), tmp_path / "q")
    assert "this needs n2p2 2.2 or newer" in said
    said = n2p2.write_potential(model_of(**MODELS["no range"]), tmp_path / "r")
    assert "does not know the range" in said


def test_functions_that_n2p2_confuses_are_named(tmp_path):
    lines = ["H 21 H H 0.3 4 30 150 p2", "H 21 H H 0.3 4 20 140 p1", "H 24 0.3 4 20 140 p3"]
    model = ElementalNetworks(SymmetryFunctions(["H"], lines), [2], "tanh")
    assert "Warning: n2p2 2.2 gives wrong values for 'H 21" in n2p2.write_potential(
        model, tmp_path / "p"
    )


def refused():
    plain = dict(hidden=[3], activation="tanh")
    baseline = model_of(**plain)
    baseline.baseline = ZBL(ELEMENTS, np.full((3, 3), 0.5), np.full((3, 3), 0.9))
    model = model_of(**plain)
    cos = SymmetryFunctions(["H"], ["H cos H 0.5 4"])
    return {
        "silu": (model_of([3], "silu"), "n2p2 has no activation silu; train with one of linear"),
        "outputs": (
            model_of([3], {"O": ["tanh", "tanh"], "C": "tanh", "H": "tanh"}), "outputs of its"
        ),
        "baseline": (baseline, 'n2p2 has no baseline zbl; train with model.baseline = "none"'),
        "ensemble": (Ensemble(model, [model.theta] * 2), "an ensemble; export one member"),
        "descriptor": (
            ElementalNetworks(PowerSpectrum(["H"], 4.0), [2], "tanh"),
            "n2p2 has symmetry functions, not power_spectrum",
        ),
        "cos": (ElementalNetworks(cos, [2], "tanh"), "n2p2 has no symmetry function 'H cos"),
    }  # fmt: skip


@pytest.mark.parametrize("name", refused())
def test_refusals_leave_nothing_behind(tmp_path, name):
    model, message = refused()[name]
    with pytest.raises(ModelFileError, match=f"not written: .*{message}"):
        n2p2.write_potential(model, tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_an_existing_potential_is_kept(tmp_path):
    model = model_of(**MODELS["one shape"])
    n2p2.write_potential(model, tmp_path / "p")
    with pytest.raises(ModelFileError, match="there is a potential already; name another folder"):
        n2p2.write_potential(model, tmp_path / "p")

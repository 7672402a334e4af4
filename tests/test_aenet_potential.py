"""ænet's network files: golden values, exports judged by a naive evaluator, malformed files."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st

from fdforce.descriptors import Chebyshev, ElementalChebyshev, PowerSpectrum, SymmetryFunctions
from fdforce.errors import ConfigError, FdforceError, ModelFileError
from fdforce.formats import POTENTIALS, find_module
from fdforce.formats.aenet.network_file import read_network, records_of, text_of
from fdforce.model_file import load_model, save_model
from fdforce.models import ElementalNetworks, Ensemble, LinearModel
from fdforce.models.zbl import LammpsZBL
from tests.checks import batch_of
from tests.naive import aenet as naive

HERE = Path(__file__).parent / "golden"
SHARED = Path(__file__).parents[1].parent / "shared" / "golden" / "aenet" / "TiO2_cheb"
CASES = [*sorted((HERE / "aenet").glob("*_cheb")), HERE / "own" / "aenet" / "water_behler"]
AENET = find_module(POTENTIALS, "aenet")


def structures_of(case):
    golden = np.load(case / "golden.npz")
    for name in golden["names"]:
        cell = golden[f"{name}/cell"]
        atoms = Atoms(
            golden[f"{name}/symbols"], golden[f"{name}/positions"],
            cell=cell if len(cell) else None, pbc=bool(len(cell)),
        )  # fmt: skip
        yield atoms, {key: golden[f"{name}/{key}"] for key in ("energy", "forces", "atom_energy")}


def computed(model, atoms):
    state = model.forward(batch_of([atoms], model.elements, model.cutoff))
    return state.atom_energy, model.forces(state)[0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden_values_before_and_after_an_export(case, tmp_path):
    model = AENET.read_potential(case)
    AENET.write_potential(model, tmp_path)
    save_model(tmp_path / "model.npz", model)
    others = AENET.read_potential(tmp_path), load_model(tmp_path / "model.npz")
    seen = 0
    for atoms, golden in structures_of(case):
        energies, forces = computed(model, atoms)
        assert energies.sum() == pytest.approx(float(golden["energy"]), rel=1e-12)
        assert energies == pytest.approx(golden["atom_energy"], rel=1e-12)
        # slopes of T_n lose n^2 more than T_n
        assert forces == pytest.approx(golden["forces"], rel=0, abs=1e-9)
        for other in others:
            again = computed(other, atoms)
            # numbers are written with 17 digits or whole; 1 / (1 / scale) may miss the last bit
            assert again[0] == pytest.approx(energies, rel=1e-13)
            assert again[1] == pytest.approx(forces, rel=0, abs=1e-12)
        seen += 1
    assert seen >= 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_files_are_written_byte_for_byte(case):
    for text in case.glob("*.nn.ascii"):
        records = text.with_suffix("")
        assert text_of(read_network(text)) == text_of(read_network(records)) == text.read_bytes()
        assert records_of(read_network(text)) == records.read_bytes()


def test_any_form_and_any_file_of_a_potential(tmp_path):
    case = CASES[0]
    thetas = [AENET.read_potential(case).theta]
    thetas += [AENET.read_potential(case / name).theta for name in ("H.nn", "C.nn.ascii")]
    assert len(thetas) == 3
    assert all(np.array_equal(theta, thetas[0]) for theta in thetas)
    (tmp_path / "C.nn").write_bytes((case / "C.nn").read_bytes())
    with pytest.raises(ModelFileError, match=r"networks of C, but .* has the types H, C, O"):
        AENET.read_potential(tmp_path)
    with pytest.raises(ModelFileError, match=r"H\.nn is not beside it"):
        AENET.read_potential(tmp_path / "C.nn")
    (tmp_path / "C.old.nn").write_bytes((case / "C.nn").read_bytes())
    with pytest.raises(ModelFileError, match=r"C\.nn and C\.old\.nn are both networks of C"):
        AENET.read_potential(tmp_path)
    with pytest.raises(ConfigError, match="hartree-bohr"):
        AENET.read_potential(case, units="hartree-bohr")
    with pytest.raises(ModelFileError, match="no file"):
        AENET.read_potential(tmp_path.parent)


def test_the_tio2_example():
    """Files of ænet-PyTorch: fixed-point numbers, a description with blanks."""
    if not SHARED.is_dir():
        pytest.skip("../shared is absent")
    import ase.io

    model = AENET.read_potential(SHARED)
    assert isinstance(model.descriptor, Chebyshev)
    assert model.elements == ("Ti", "O")
    part = (SHARED / "predict_fullprec.txt").read_text().split("STRUCT ")
    lines = next(p for p in part if p.startswith("tri_small.xsf")).split("\n")
    rows = [line.split() for line in lines if line.startswith("ATOM")]
    energies, forces = computed(model, ase.io.read(SHARED / "tri_small.xsf"))
    assert energies == pytest.approx([float(row[4]) for row in rows], rel=1e-12)
    # weights up to 100 on features good to 1e-12
    expected = np.array([row[6:9] for row in rows], float)
    assert forces == pytest.approx(expected, rel=0, abs=1e-8)


# -- exports ---------------------------------------------------------------------------------------

WATER = Atoms(
    "H2OHOH",
    [[0, 0, 0], [1.5, 0.1, 0], [0.7, 0.6, 0.2], [2.2, 1.9, 0.9], [2.8, 1.2, 0.3], [3.1, 0.4, 0.9]],
    cell=[[4.1, 0.2, 0.1], [0.3, 4.3, -0.2], [0.1, 0.5, 3.9]],
    pbc=True,
)

INTERLEAVED = [
    "O 9 O H 0.1 1 2 3.2", "O 2 O 0.3 0.5 3.0", "O cos H 0.8 3.1", "O 3 H O 0.05 -1 1 3.3",
    "O 2 H 0 0 2.9", "O 2 H 0.7 1 3.1", "O 2 O 0 0 3.4", "O 9 H H 0.02 -1 4 3.0",
    "H 2 O 0.2 0 3.0", "H 3 O O 0.03 1 1 3.2", "H 2 H 0 1 3.1",
]  # fmt: skip


def make(kind):
    if kind in ("chebyshev", "linear"):
        descriptor = Chebyshev(["O", "H"], 3.4, 3, 3.0, 2)
    elif kind == "elemental":
        descriptor = ElementalChebyshev(
            ["H", "O"],
            [
                "H radial_cutoff=3.3 radial_order=2 angular_cutoff=3 angular_order=1",
                "O radial_cutoff=3.1 radial_order=3 angular_cutoff=2.9 angular_order=2 "
                "environment=O,H",
            ],
        )
    else:
        descriptor = SymmetryFunctions(["H", "O"], INTERLEAVED, order=kind)
    if kind == "linear":
        return LinearModel(descriptor)
    model = ElementalNetworks(
        descriptor, {"O": [4, 3], "H": [3]}, {"O": ["twist", "sigmoid"], "H": "modified_tanh"}
    )
    rng = np.random.default_rng(3)
    model.theta = rng.normal(size=len(model.theta)) * 0.5
    model.scale, model.reference_energies = 1.7, np.array([-3.5, -432.25])
    shape = model.feature_mean.shape
    model.feature_mean = rng.normal(size=shape) * 2
    model.feature_scale = rng.uniform(0.5, 2, size=shape)
    # hardly any deviation beside the mean, none at all, and a feature that does not count
    model.feature_mean[:, 0], model.feature_scale[:, 0] = 3.0, 1e4
    model.feature_scale[:, 1] = 0
    # the input is then of order 1e4
    for matrices in model.matrices():
        matrices[0][0] *= 1e-4
    return model


@pytest.mark.parametrize("suffix", [".nn", ".nn.ascii"])
@pytest.mark.parametrize("kind", ["chebyshev", "elemental", "n2p2", "given", "linear"])
def test_an_export_is_what_the_model_computes(kind, suffix, tmp_path):
    model = make(kind)
    said = AENET.write_potential(model, tmp_path / "potential")
    energies, forces = computed(model, WATER)
    found = naive.energies(WATER, tmp_path / "potential", suffix)
    # the first feature, of order 1e4, has 1e-16 times its mean of 3 times its scale of 1e4
    assert found == pytest.approx(energies, rel=0, abs=1e-11)
    assert np.ptp(found[np.array(WATER.get_chemical_symbols()) == "O"]) > 1e-3
    again = computed(AENET.read_potential(tmp_path / "potential"), WATER)
    assert again[0] == pytest.approx(energies, rel=1e-12)
    assert again[1] == pytest.approx(forces, rel=0, abs=1e-11)
    words = said.split()
    assert words[:4] == ["TYPES", "2", *model.elements]
    assert "FORCES" in words
    assert f"{model.elements[0]} {model.elements[0]}.nn" in said


def test_the_range_of_features_goes_along(tmp_path):
    model = make("n2p2")
    AENET.write_potential(model, tmp_path / "unknown")
    assert AENET.read_potential(tmp_path / "unknown").feature_min is None
    rng = np.random.default_rng(0)
    low, high = np.sort(rng.normal(size=(2, *model.feature_mean.shape)), axis=0)
    model.feature_min, model.feature_max = low, high
    AENET.write_potential(model, tmp_path / "known")
    again = AENET.read_potential(tmp_path / "known")
    for z, element in enumerate(model.elements):
        ours, theirs = (
            [sort_neighbours(str(f)) for f in m.descriptor.functions_of(element)]
            for m in (model, again)
        )
        assert ours != theirs
        assert sorted(ours) == sorted(theirs)
        for k, name in enumerate(theirs):
            assert again.feature_min[z, k] == low[z, ours.index(name)]
            assert again.feature_max[z, k] == high[z, ours.index(name)]


def sort_neighbours(name):
    words = name.replace("H 2 H 0 1 ", "H 2 H 0 0 ").split()
    if words[1] in ("3", "9"):
        words[2:4] = sorted(words[2:4])
    return " ".join(words)


def test_energy_scalings_of_their_own(tmp_path):
    """Every network of ænet has a scaling; ours share one."""
    case = CASES[0]
    for name in "HCO":
        network = read_network(case / f"{name}.nn")
        network.energy_scaling *= 1 + ord(name) / 100
        network.energy_shift -= ord(name) / 50
        (tmp_path / f"{name}.nn").write_bytes(records_of(network))
    atoms = next(structures_of(case))[0]
    expected = naive.energies(atoms, tmp_path, ".nn")
    assert computed(AENET.read_potential(tmp_path), atoms)[0] == pytest.approx(expected, rel=1e-12)
    network.activations[-1] = 1
    (tmp_path / "O.nn").write_bytes(records_of(network))
    with pytest.raises(ModelFileError, match="the output is not linear"):
        AENET.read_potential(tmp_path)


def refused(model, match, folder):
    with pytest.raises(ModelFileError, match=match):
        AENET.write_potential(model, folder / "none")
    assert not (folder / "none").exists()


def test_what_aenet_cannot_hold_is_refused(tmp_path):
    model = make("chebyshev")
    member = ElementalNetworks(model.descriptor, [2], "tanh")
    refused(Ensemble(member, np.stack([member.theta] * 2)), "not an ensemble", tmp_path)
    refused(ElementalNetworks(model.descriptor, [2], "silu"), "activation silu", tmp_path)
    refused(ElementalNetworks(PowerSpectrum(["H"]), [2], "tanh"), "power_spectrum", tmp_path)
    far = Chebyshev(["O", "H"], 3.0, 2, 4.0, 2)
    refused(ElementalNetworks(far, [2], "tanh"), "angular_Rc = 4.0 is beyond", tmp_path)
    alone = Chebyshev(["O"], 3.0, 2, 4.0, 2)
    AENET.write_potential(ElementalNetworks(alone, [2], "tanh"), tmp_path / "alone")  # no spins
    for options, match in (
        ({"functions": ["H 12 0.1 0 4"]}, "type 12"),
        ({"functions": ["H 3 H H 0.1 1 1 4 0.5"]}, "no shift"),
        ({"cutoff_type": 2}, "cutoff_type = 2"),
        ({"cutoff_alpha": 0.1}, "cutoff_alpha = 0.1"),
    ):
        descriptor = SymmetryFunctions(["H"], **options)
        refused(ElementalNetworks(descriptor, [2], "tanh"), match, tmp_path)
    model.baseline = LammpsZBL(model.elements, 2.0, 1.0)
    refused(model, r'model\.baseline = "none"', tmp_path)
    model.baseline = None
    model.theta[0] = np.nan
    refused(model, "not finite", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelFileError, match="give a folder"):
        AENET.write_potential(make("chebyshev"), tmp_path / "file")


# -- malformed files -------------------------------------------------------------------------------


def test_what_aenet_computes_wrongly_is_refused(tmp_path):
    def changed(case, **changes):
        for file in case.glob("*.nn"):
            network = read_network(file)
            for name, value in changes.items():
                old = getattr(network, name)
                setattr(network, name, value(old) if callable(value) else value)
            (tmp_path / file.name).write_bytes(records_of(network))
        with pytest.raises(ModelFileError) as problem:
            AENET.read_potential(tmp_path)
        for file in tmp_path.glob("*.nn"):
            file.unlink()
        return str(problem.value)

    hco, behler = CASES[0], CASES[-1]
    assert "beyond radial_Rc" in changed(hco, parameters=lambda p: p * [[1, 1, 2, 1]])
    assert "fdforce needs all of them" in changed(hco, environment=["H", "C"])
    assert "expected Chebyshev or Behler2011" in changed(hco, fingerprint="Magic")
    assert "is not a whole number" in changed(hco, parameters=lambda p: p * [[1, 1.1, 1, 1]])
    assert "features, but orders" in changed(hco, parameters=lambda p: p - [[0, 0, 0, 1]])
    assert "evaluates Behler2011 wrongly" in changed(behler, environment=["O", "H"])
    assert "is G7, expected G1 to G5" in changed(behler, functions=lambda f: [7, *f[1:]])
    assert "has the neighbours" in changed(behler, neighbors=lambda n: n + 2)


@pytest.mark.parametrize("form", [text_of, records_of])
def test_files_that_end_early(form, tmp_path):
    content = form(read_network(CASES[1] / "Ti.nn"))
    path = tmp_path / "Ti.nn"
    path.write_bytes(content.replace(b"\n", b"\r\n") if form is text_of else content)
    AENET.read_potential(tmp_path)
    path.write_bytes(content + b"\n1 2\n")
    with pytest.raises(ModelFileError, match="behind the last number"):
        AENET.read_potential(tmp_path)
    ends = np.linspace(0, len(content) - 8, 60).astype(int)
    for end in ends:
        path.write_bytes(content[:end])
        with pytest.raises(ModelFileError, match=r"Ti\.nn, (line|record) \d+: "):
            AENET.read_potential(tmp_path)


def test_wrong_counts_are_named(tmp_path):
    lines = (CASES[1] / "Ti.nn.ascii").read_text().split("\n")

    def problem(k, text):
        path = tmp_path / "Ti.nn.ascii"
        path.write_text("\n".join([*lines[:k], text, *lines[k + 1 :]]))
        with pytest.raises(ModelFileError) as raised:
            read_network(path)
        return str(raised.value).split("Ti.nn.ascii, ")[1]

    assert problem(0, "four") == "line 1: number of layers: 'four' is not a whole number"
    assert problem(1, "13").startswith("line 5: nodes of each layer: ")
    assert problem(4, "12 6 6 2").startswith("line 5: nodes of each layer: [12, 6, 6, 2]")
    assert problem(5, "1 0 9") == "line 6: activations: [1, 0, 9], expected codes 0 to 4"
    assert problem(6, "0 1 2 3").startswith("line 7: ends of the weights: [0, 1, 2, 3], expected")
    assert problem(2, "128").startswith("line 8: layers: said to have 128 weights")
    assert problem(8, lines[8] + " 1.0") == "line 9: weights: more than the expected 127"
    assert problem(8, "nan " + lines[8][4:].split(" ", 1)[1]).endswith("'nan' is not a number")
    assert problem(16, "11").startswith("line 17: number of features: 11, but the network has 12")
    assert problem(28, "0") == "line 29: energy scaling: 0, expected another number"
    for letters in ("scaling in Å", "…", "à la carte"):  # with line ends of Latin-1 in UTF-8
        path = tmp_path / "Ti.nn.ascii"
        path.write_text("\n".join([*lines[:9], letters, *lines[10:]]), encoding="utf-8")
        assert np.array_equal(read_network(path).mean, read_network(CASES[1] / "Ti.nn").mean)
    assert problem(31, "Zr") == "line 36: types: Zr, but the network is that of Ti"


def test_numbers_that_are_finite_alone(tmp_path):
    lines = (CASES[1] / "Ti.nn.ascii").read_text().split("\n")
    lines[28] = "1e-320"
    for element in read_network(CASES[1] / "Ti.nn").types:
        content = (CASES[1] / f"{element}.nn.ascii").read_bytes()
        (tmp_path / f"{element}.nn.ascii").write_bytes(content)
    (tmp_path / "Ti.nn.ascii").write_text("\n".join(lines))
    with pytest.raises(ModelFileError, match=r"nn\.ascii: \w+ of the model is not finite"):
        AENET.read_potential(tmp_path)


def test_numbers_of_fortran(tmp_path):
    """Exponents with D or without a letter, repeated items, several lines for one item."""
    network = read_network(CASES[1] / "Ti.nn")
    lines = text_of(network).decode().split("\n")
    lines[8] = lines[8].replace(" ", "\n", 5)
    lines[13] = " 0.5D+00"
    lines[14] = "55.0-1"
    lines[18] = "12*0"
    path = tmp_path / "Ti.nn.ascii"
    path.write_text("\n".join(lines))
    again = read_network(path)
    assert (again.shortest, again.cutoff) == (0.5, 5.5)
    assert records_of(again) == records_of(network)


GOOD = {form: form(read_network(CASES[1] / "Ti.nn")) for form in (text_of, records_of)}


@settings(max_examples=300)
@given(data=st.data(), form=st.sampled_from([text_of, records_of]))
def test_damaged_files_raise_nothing_else(tmp_path_factory, data, form):
    content = bytearray(GOOD[form])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        length = data.draw(st.sampled_from([0, 1, 1, 4, 40]))
        content[at : at + length] = data.draw(st.binary(max_size=6))
    path = tmp_path_factory.getbasetemp() / "Ti.nn"
    path.write_bytes(content)
    try:
        network = read_network(path)
        AENET.read_potential(path)
    except FdforceError:
        return
    # what was read is whole: written again, it says the same
    path.write_bytes(records_of(network))
    again = read_network(path)
    for name in ("parameters", "mean", "mean_square", "atom_energies", "least"):
        assert np.array_equal(getattr(again, name), getattr(network, name))
    assert all(map(np.array_equal, again.matrices, network.matrices))

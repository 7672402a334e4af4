"""Training directories of n2p2 as `fdforce fit DIRECTORY` takes them."""

import shutil

import numpy as np
import pytest
from ase import Atoms

import fdforce
from fdforce.config import load_config
from fdforce.errors import ConfigError, DataError, ModelFileError
from fdforce.formats import TRAINING, find_module, recognised_training
from fdforce.formats.n2p2.settings import KNOWN, MODEL, SCALING, UNUSED
from fdforce.formats.n2p2.settings import TRAINING as USED
from fdforce.model_file import load_model
from fdforce.units import BOHR, HARTREE
from tests.test_cli import run, succeed
from tests.test_n2p2_potential import energy_and_forces, small_folder

pytestmark = pytest.mark.usefixtures("empty_figures")
n2p2 = find_module(TRAINING, "n2p2")

INPUT = """\
number_of_elements 2
elements O H
atom_energy O -75.0
atom_energy H -0.5
cutoff_type 1
global_hidden_layers_short 2
global_nodes_short 3 2
global_activation_short t p l
symfunction_short H 2 O 0.3 0.5 4.0
symfunction_short H 2 H 0.2 0.0 4.5
symfunction_short O 9 H H 0.05 1 2 4.0
epochs 2
random_seed 7
test_fraction 0.25
updater_type 1
use_short_forces
"""


def waters(number):
    """Blocks of an input.data with energies near -76.4."""
    rng, blocks = np.random.default_rng(0), []
    for k in range(number):
        positions = np.array([[0, 0, 0], [1.8, 0, 0], [-0.4, 1.7, 0]]) + 0.1 * rng.normal(
            size=(3, 3)
        )
        forces = rng.normal(size=(3, 3)) * 0.1
        atoms = [
            f"atom {' '.join(map(str, p))} {s} 0 0 {' '.join(map(str, f))}"
            for s, p, f in zip("OHH", positions, forces)
        ]
        blocks.append("\n".join(["begin", *atoms, f"energy {-76.4 + 0.01 * k}", "charge 0", "end"]))
    return blocks


def directory(path, text=INPUT, *, marks=None):
    path.mkdir()
    (path / "input.nn").write_text(text)
    blocks = waters(8)
    for k, mark in (marks or {}).items():
        blocks[k] = blocks[k].replace("begin", f"begin set={mark}")
    (path / "input.data").write_text("\n".join(blocks) + "\n")
    return path


def read(tmp_path, text=INPUT, units="ev-angstrom", **options):
    return n2p2.read_training(directory(tmp_path / "d", text, **options), units=units)


def test_tables(tmp_path):
    training = read(tmp_path, units="hartree-bohr")
    path = tmp_path / "d"
    mean = (-76.4 + 0.035 + 76.0) / 3  # of what is left per atom
    assert training.tables["data"] == {
        "train": [f"{path / 'input.data'}#units=hartree-bohr"],
        "valid": 0.25,
        "reference_energies": {
            "H": pytest.approx((mean - 0.5) * HARTREE), "O": pytest.approx((mean - 75) * HARTREE)
        },
    }  # fmt: skip
    model = dict(training.tables["model"])
    functions = [line.split() for line in model.pop("functions")]
    assert functions[0][:3] == ["H", "2", "O"]
    assert np.array(functions[0][3:], float) == pytest.approx([0.3 / BOHR**2, 0.5 * BOHR, 4 * BOHR])
    assert functions[2] == ["O", "9", "H", "H", str(0.05 / BOHR**2), "1", "2", str(4 * BOHR)]
    assert model == {
        "descriptor": "symmetry_functions", "cutoff_type": 1, "cutoff_alpha": 0.0,
        "elements": ["H", "O"], "baseline": "none", "hidden": [3, 2],
        "activation": ["tanh", "softplus"],
    }  # fmt: skip
    assert training.tables["training"] == {"epochs": 2, "seed": 7}
    assert training.tables["optimizer"] == {"name": "kalman"}
    assert training.tables["loss"] == {}
    notes = " ".join(training.notes)
    assert "test_fraction 0.25: this part is validated on" in notes


def test_normalisation_keeps_physical_units(tmp_path):
    text = INPUT + "mean_energy -0.2\nconv_energy 3.0\nconv_length 2.0\n"
    tables = read(tmp_path, text).tables
    assert tables["data"]["reference_energies"] == pytest.approx({"H": -0.7, "O": -75.2})
    assert tables["model"]["functions"][0] == "H 2 O 0.3 0.5 4"


@pytest.mark.parametrize(("nodes", "widths"), [("O 5 4", [5, 4]), ("O 1 7", [7, 2])])
def test_widths_of_elements(tmp_path, nodes, widths):
    training = read(tmp_path, INPUT + f"element_nodes_short {nodes}\n")
    assert training.tables["model"]["hidden"] == {"H": [3, 2], "O": widths}
    note = (
        f"element_nodes_short of O is read as hidden layers of {widths[0]}, {widths[1]}; versions"
    )
    assert any(note in line for line in training.notes)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("updater_type 0", {"name": "sgd"}),
        ("updater_type 0\ngradient_type 1\ngradient_adam_eta 2.0E-3\ngradient_adam_beta1 0.8",
         {"name": "adam", "learning_rate": 0.002, "beta1": 0.8}),
        ("", {"name": "kalman"}),
    ],
)  # fmt: skip
def test_optimizers(tmp_path, lines, expected):
    training = read(tmp_path, INPUT.replace("updater_type 1", lines))
    assert training.tables["optimizer"] == expected
    assert not any("gradient_adam" in note for note in training.notes)


def test_energies_alone(tmp_path):
    training = read(tmp_path, INPUT.replace("use_short_forces", ""))
    assert training.tables["loss"] == {"force_weight": 0.0, "stress_weight": 0.0}
    assert any("forces are not learnt" in note for note in training.notes)


def test_marks(tmp_path):
    training = read(tmp_path, marks={0: "train", 3: "test", 5: "test"})
    data = training.tables["data"]
    file = tmp_path / "d" / "input.data"
    assert data["train"] == [f"{file}#units=ev-angstrom,set=train"]
    assert data["valid"] == [f"{file}#units=ev-angstrom,set=test"]
    assert (
        "set=test: 2 structures are validated on, 1 marked set=train and 5 without a mark are "
        "trained on"
    ) in training.notes
    assert "test_fraction (line 14) is not used: structures are marked" in training.notes


def test_every_keyword_is_used_or_named(tmp_path):
    """Nothing is ignored in silence: what a note does not name changes the tables."""
    told = {keyword for keywords in UNUSED.values() for keyword in keywords} | {*SCALING}
    values = {"gradient_type": "0"}
    extra = sorted(told | {"colour", "Epochs"})
    text = INPUT + "".join(f"{keyword} {values.get(keyword, '1')}\n" for keyword in extra)
    notes = "\n".join(read(tmp_path, text).notes)
    first = len(INPUT.split("\n"))
    for k, keyword in enumerate(extra):
        assert f"{keyword} (line {first + k})" in notes
    assert "unknown keyword colour (line" in notes
    assert told | {*MODEL, *USED, "use_old_weights_short"} == KNOWN
    assert not told & {*MODEL, *USED}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("updater_type 1", "updater_type 2", r"input.nn, line 15: updater_type 2: 0 .gradient"),
        ("epochs 2", "epochs 2.5", r"line 12: epochs: '2.5' is not a whole number"),
        ("0.25", "1.5", r"line 14: test_fraction = 1.5: at least 0 and below 1"),
        ("random_seed 7", "random_seed", r"line 13: random_seed has 0 values instead of 1"),
        ("random_seed 7", "epochs 7", r"line 13: epochs is given twice, first in line 12"),
    ],
)
def test_wrong_values_are_refused_with_their_line(tmp_path, old, new, message):
    with pytest.raises(ModelFileError, match=message):
        read(tmp_path, INPUT.replace(old, new))


def test_what_is_recognised(tmp_path):
    path = directory(tmp_path / "d")
    assert recognised_training(path) is n2p2
    assert not n2p2.recognises_training(path / "input.data")
    (path / "input.nn").unlink()
    assert recognised_training(path) is None


# Fits


def fitted(path, tmp_path, **settings):
    lines = []
    result = fdforce.fit(train=path, out=tmp_path / "run", log=lines.append, threads=1, **settings)
    return result, lines


def test_a_fit_from_python(tmp_path):
    path = directory(tmp_path / "d", marks={3: "test"})
    result, lines = fitted(str(path), tmp_path, units="hartree-bohr", epochs=1, hidden=[4])
    assert result.model.hidden == ((4,), (4,))
    assert len(result.history["epoch"]) == 1
    assert any("line 14" in line for line in lines)
    config = load_config(tmp_path / "run" / "config.toml")
    assert config.training.seed == 7
    assert [part["n_structures"] for part in result.metrics.values()] == [7, 1]
    # that configuration is the run again, without the input.nn
    (path / "input.nn").unlink()
    again = fdforce.fit(tmp_path / "run" / "config.toml", out=tmp_path / "again", log=str)
    assert np.array_equal(again.model.theta, result.model.theta)
    # and the potential goes back
    n2p2.write_potential(result.model, tmp_path / "back")
    atoms = next(n2p2.read_structures(path, units="hartree-bohr"))
    energy = energy_and_forces(result.model, atoms)[0]
    again = energy_and_forces(n2p2.read_potential(tmp_path / "back"), atoms)[0]
    assert again == pytest.approx(energy, rel=1e-14)
    assert abs(energy - atoms.get_potential_energy()) < 50  # of 2079: one epoch on eV


def test_a_fit_on_the_command_line(tmp_path):
    path = directory(tmp_path / "d")
    out = succeed(
        "fit", path, "--units", "hartree-bohr", "--out", tmp_path / "run", "--threads=1",
        "--set=training.epochs=1", "--set=data.valid=0.5",
    )  # fmt: skip
    assert "taken to be in hartree-bohr" in out
    assert "structures: 4 train, 4 valid" in out
    data = f"{path / 'input.data'}#units=hartree-bohr"
    assert "data             8" in succeed("evaluate", tmp_path / "run" / "model.npz", data)


UNITS_LINE = (
    "{file}: lengths and energies are taken to be in {assumed}; n2p2's files do not say "
    "(input.data#units={other} does)"
)


def test_every_command_says_the_units_that_it_assumes(tmp_path, monkeypatch):
    """The same line everywhere, on stderr where stdout is a result, once for a file."""
    monkeypatch.chdir(tmp_path)
    path = directory(tmp_path / "d")
    file, model = path / "input.data", tmp_path / "run" / "model.npz"
    in_ev = UNITS_LINE.format(file=file, assumed="ev-angstrom", other="hartree-bohr")
    in_hartree = UNITS_LINE.format(file=file, assumed="hartree-bohr", other="ev-angstrom")
    fitted = run("fit", path, "--units=hartree-bohr", "--out=run", "--threads=1", "--epochs=1")
    assert fitted.output.count("taken to be") == fitted.output.count(in_hartree) == 1
    once = {"--epochs": 1, "--threads": 1, "--valid": file, "--out": "file"}
    fitted = run("fit", file, *(f"{key}={value}" for key, value in once.items()))
    assert fitted.output.count("taken to be") == fitted.output.count(in_ev) == 1
    marked = f"{file}#units=hartree-bohr"
    for arguments in (
        ("evaluate", model, "DATA", "--json"), ("info", "DATA", "--json"),
        ("info", "--features", model, "DATA"), ("predict", model, "DATA", "-o", "out.extxyz"),
        ("epsilon", model, "DATA"), ("benchmark", model, "DATA"),
        ("modes", model, "DATA"), ("md", model, "DATA", "--steps=1", "--out=md"),
        ("convert", "DATA", "out.xyz"),
    ):  # fmt: skip
        for name, line in ((file, in_ev), (marked, in_hartree)):
            shutil.rmtree("md", ignore_errors=True)
            said = run(*(name if each == "DATA" else each for each in arguments))
            assert said.exit_code == 0, said.output
            assert said.stderr.count(line) == 1, arguments
            assert "taken to be" not in said.stdout


def test_old_weights_are_where_a_fit_starts(tmp_path):
    text = INPUT.replace("atom_energy O -75.0", "use_old_weights_short\natom_energy O -75.0")
    path = directory(tmp_path / "d", text)
    small_folder(path, lines=text)
    start = n2p2.read_potential(path, units="hartree-bohr")
    result, lines = fitted(path, tmp_path, units="hartree-bohr", epochs=1, frozen_layers=2)
    for own, others in zip(result.model.matrices(), start.matrices()):
        assert np.array_equal(own[0], others[0])
        assert np.array_equal(own[1], others[1])
        assert not np.array_equal(own[2], others[2])
    assert np.array_equal(result.model.feature_scale, start.feature_scale)
    assert result.model.scale == start.scale == HARTREE
    assert result.model.reference_energies == pytest.approx([-0.5 * HARTREE, -75 * HARTREE])
    assert any("starts from the weights and scaling.data" in line for line in lines)


def test_units_are_for_training_directories(tmp_path):
    path = directory(tmp_path / "d")
    with pytest.raises(ConfigError, match=r"units = hartree-bohr: .* input.data#units=hartree"):
        fdforce.fit(train=path / "input.data", units="hartree-bohr", log=str)
    with pytest.raises(ConfigError, match="absent: no such training directory"):
        fdforce.fit(train=tmp_path / "absent", units="hartree-bohr", log=str)
    with pytest.raises(ConfigError, match="a training directory stands alone"):
        fdforce.fit(train=[path, path / "input.data"], log=str)
    with pytest.raises(ConfigError, match="units = 'eV': choose one of ev-angstrom"):
        fdforce.fit(train=path, units="eV", log=str)
    assert run("fit", "--example", "--units", "hartree-bohr").exit_code == 2
    (path / "input.data").write_text("begin\n")
    with pytest.raises(DataError, match="truncated"):
        fdforce.fit(train=path, log=str)


def test_import_and_export(tmp_path):
    folder = small_folder(tmp_path / "p")
    succeed("import", "n2p2", folder, "--units", "hartree-bohr", "-o", tmp_path / "m.npz")
    succeed("import", "n2p2", f"{folder}#units=hartree-bohr", "-o", tmp_path / "same.npz")
    models = [load_model(tmp_path / name) for name in ("m.npz", "same.npz")]
    assert models[0].scale == models[1].scale == HARTREE
    said = succeed("export", tmp_path / "m.npz", "n2p2", tmp_path / "back")
    assert "pair_coeff * * H O" in said
    atoms = Atoms("OHH", [[0, 0, 0], [1, 0, 0], [0, 1, 0.2]])
    one = energy_and_forces(n2p2.read_potential(folder, units="hartree-bohr"), atoms)
    other = energy_and_forces(n2p2.read_potential(tmp_path / "back"), atoms)
    assert one[0] == pytest.approx(other[0], rel=1e-14)
    assert np.abs(one[1]).max() > 0.1
    assert one[1] == pytest.approx(other[1], rel=0, abs=1e-12 * np.abs(one[1]).max())

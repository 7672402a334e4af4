"""The commands: what they print and write, and how they fail."""

import csv
import inspect
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from click.testing import CliRunner

import fdforce
from fdforce.cli import COMMANDS, main
from fdforce.config import default_config, load_config
from fdforce.examples import example_files
from fdforce.structure_files import read_file

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("empty_figures")
SMALL = (
    "--set=model.hidden=[6]", "--set=model.radial_order=4", "--set=model.angular_order=2",
    "--set=optimizer.batch_size=8", "--threads=1",
)  # fmt: skip
FILES = {
    "model.npz", "checkpoint.npz", "history.csv", "metrics.json", "config.toml", "log.txt",
    "report.html", "predictions.npz", "provenance.json", "epsilon_scans.json",
}  # fmt: skip
ERRORS = {
    "n_structures", "n_atoms", "energy_rmse", "energy_mae", "force_rmse", "force_mae",
    "stress_rmse", "stress_mae",
}  # fmt: skip


def run(*arguments):
    # click 8.1 mixes the streams unless told not to; 8.2 has no such argument
    separate = (
        {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
    )
    return CliRunner(**separate).invoke(main, [str(a) for a in arguments], prog_name="fdforce")


def succeed(*arguments) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def fail(*arguments) -> str:
    """The message of a command that fails as it should: one or two lines on stderr, status 1."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    assert "internal error" not in result.stderr
    lines = result.stderr.splitlines()
    assert lines[0].startswith("Error: ")
    assert len(lines) <= 2
    return result.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "ethanol.extxyz"
    ase.io.write(path, read_file(example_files("ethanol")[1])[::15])
    return path


@pytest.fixture(scope="module")
def crystal(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "diamond.extxyz"
    ase.io.write(path, read_file(example_files("diamond")[1])[::12])
    return path


@pytest.fixture(scope="module")
def fitted(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "first"
    text = succeed("fit", data, "--test", data, "--out", out, "--epochs", 4, *SMALL)
    assert "valid" in text
    assert "fdforce evaluate" in text
    return out


@pytest.fixture(scope="module")
def model(fitted) -> Path:
    return fitted / "model.npz"


# -- help ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name):
    text = succeed(name, "--help")
    assert f"Example:\n    fdforce {name}" in text
    assert main.get_command(None, name).short_help in succeed("--help")


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)], ids=lambda a: a or "-")
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys; from fdforce.cli import main\n"
        f"main([*{arguments}, '--help'], standalone_mode=False)\n"
        "heavy = {'numpy', 'numba', 'ase', 'scipy', 'matplotlib', 'vesin'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_version():
    assert succeed("--version") == f"fdforce, version {fdforce.__version__}\n"


def test_config_prints_a_configuration(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(succeed("config"))
    assert load_config(path) == default_config()


# -- fit -------------------------------------------------------------------------------------------


def test_fit_makes_the_files_of_the_contract(fitted):
    assert {path.name for path in fitted.iterdir()} == FILES
    metrics = json.loads((fitted / "metrics.json").read_text())
    assert list(metrics) == ["train", "valid", "test"]
    assert all(set(errors) == ERRORS for errors in metrics.values())
    rows = list(csv.DictReader((fitted / "history.csv").read_text().splitlines()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    promised = {"seconds", "learning_rate", "epsilon", "err_loss", "train_loss"}
    promised |= {
        f"{part}_{quantity}_{kind}" for part in ("train", "valid")
        for quantity in ("energy", "force", "stress") for kind in ("rmse", "mae")
    }  # fmt: skip
    assert promised <= set(rows[0])


def test_the_written_configuration_reproduces_the_run(fitted, tmp_path):
    succeed("fit", fitted / "config.toml", "--out", tmp_path / "again")
    first, second = (fdforce.load_model(d / "model.npz") for d in (fitted, tmp_path / "again"))
    np.testing.assert_array_equal(first.theta, second.theta)


def test_fit_with_fractions_time_budget_and_stencil(data, tmp_path):
    text = succeed(
        "fit", data, "--valid", 0.2, "--test", 0.2, "--max-time", 1.5, "--stencil", "forward",
        "--seed", 3, "--out", tmp_path / "run", *SMALL,
    )  # fmt: skip
    assert "12 train, 4 valid, 4 test" in text
    config = load_config(tmp_path / "run" / "config.toml")
    assert (config.training.epochs, config.training.max_time) == (0, 1.5)
    assert (config.training.seed, config.finite_difference.stencil) == (3, "forward")


def test_a_budget_shorter_than_an_epoch_gives_one(data, tmp_path):
    text = succeed("fit", data, "--max-time", 1e-3, "--out", tmp_path / "run", *SMALL)
    assert "\n1 epochs in" in text
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES


def test_example_needs_no_name(tmp_path, monkeypatch):
    seen = {}

    def stop(config, **options):
        seen.update(config=config, **options)
        raise fdforce.FdforceError("stopped by the test")

    monkeypatch.setattr("fdforce.fitting.fit", stop)
    for arguments, name in ((["--example"], "ethanol"), (["--example", "diamond"], "diamond")):
        assert "stopped by the test" in fail("fit", *arguments, "--epochs", 7)
        train, test = example_files(name)
        assert seen["config"]["data"] == {"train": [str(train)], "test": str(test)}
        assert seen["training"] == {"epochs": 7}


def test_fit_without_matplotlib_says_so(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = succeed("fit", data, "--out", tmp_path / "run", "--epochs", 1, *SMALL)
    assert "report.html has no figures: they need matplotlib" in text
    assert "<svg" not in (tmp_path / "run" / "report.html").read_text()
    text = succeed("report", tmp_path / "run")
    assert "without figures: they need matplotlib" in text


def test_a_figure_that_cannot_be_drawn_loses_no_run(data, tmp_path, monkeypatch):
    def broken(*_):
        raise ValueError("no\nfont")

    monkeypatch.setattr("fdforce.report.run_figures._svg", broken)
    text = succeed("fit", data, "--out", tmp_path / "run", "--epochs", 1, *SMALL)
    assert not (tmp_path / "run" / "report.html").exists()
    assert "\nno report.html (ValueError: no font); `fdforce report" in text
    monkeypatch.undo()
    succeed("report", tmp_path / "run")
    assert (tmp_path / "run" / "report.html").is_file()


def test_report_is_rebuilt(fitted, tmp_path):
    path = tmp_path / "again.html"
    assert succeed("report", fitted, "-o", path) == f"{path}\n"
    assert path.read_text() == (fitted / "report.html").read_text()
    assert "no such directory" in fail("report", tmp_path / "absent")
    assert "holds no run" in fail("report", tmp_path)
    assert str(tmp_path) in fail("report", fitted, "-o", tmp_path)


def test_termination_leaves_a_checkpoint(data, tmp_path, monkeypatch):
    def terminate(printer, progress, row):
        if progress.epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("fdforce.cli.progress.EpochPrinter.__call__", terminate)
    before = signal.getsignal(signal.SIGTERM)
    message = fail("fit", data, "--out", tmp_path / "run", "--epochs", 50, *SMALL)
    assert "interrupted" in message
    assert "2 of 50 epochs" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.undo()
    text = succeed("fit", "--resume", tmp_path / "run", "--epochs", 3)
    assert "resumed after epoch 2" in text


# -- evaluate, predict, epsilon, benchmark, info ---------------------------------------------------


def test_evaluate_json_has_the_keys_of_the_contract(model, fitted, data):
    errors = json.loads(succeed("evaluate", model, data, "--json", "--threads", 1))
    assert set(errors) == ERRORS | {"by_config_type", "by_element", "extrapolating"}
    assert errors["stress_rmse"] is None
    stored = json.loads((fitted / "metrics.json").read_text())["test"]
    # another number of threads sums in another order
    assert errors["force_rmse"] == pytest.approx(stored["force_rmse"], rel=1e-10)
    assert set(errors["by_config_type"][""]) == ERRORS
    assert list(errors["by_element"]) == ["H", "C", "O"]
    text = succeed("evaluate", model, data, data)
    assert "meV/atom" in text
    assert "by element" in text
    assert "by config_type" not in text  # there is one


@pytest.fixture
def stretched(data, tmp_path) -> Path:
    """Two groups of structures; in the last structure every atom is out of place."""
    frames = ase.io.read(data, ":4")
    for atoms in frames[::2]:
        atoms.info["config_type"] = "even"
    results = dict(frames[3].calc.results)
    frames[3].positions *= 1.4
    frames[3].calc = SinglePointCalculator(frames[3], **results)
    ase.io.write(tmp_path / "stretched.extxyz", frames)
    return tmp_path / "stretched.extxyz"


def test_evaluate_names_groups_and_atoms_that_extrapolate(model, stretched):
    text = succeed("evaluate", model, stretched)
    assert "by config_type" in text
    assert "(none)" in text
    line = next(line for line in text.splitlines() if line.startswith("extrapolation"))
    assert "of 36 atoms" in line
    found = json.loads(succeed("evaluate", model, stretched, "--json"))
    assert set(found["by_config_type"]) == {"even", ""}
    worst = found["extrapolating"][0]
    assert worst["structure"] == "stretched.extxyz[3]"
    assert f"extrapolation: {len(found['extrapolating'])} of" in line
    named = [(entry["structure"], entry["atom"]) for entry in found["extrapolating"][:10]]
    shown = text.splitlines()[text.splitlines().index(line) + 2 :][: len(named)]
    assert [(row.split()[0], int(row.split()[1])) for row in shown] == named
    assert worst["feature"] in shown[0]


def test_predict_counts_and_marks_atoms_that_extrapolate(model, stretched, tmp_path):
    out = tmp_path / "out.extxyz"
    found = json.loads(succeed("evaluate", model, stretched, "--json"))["extrapolating"]
    for source in (stretched, out):  # marks of an earlier prediction are replaced
        result = run("predict", model, source, "-o", out)
        assert result.exit_code == 0
        assert f"warning: {source.name}: {len(found)} of 36 atoms" in result.stderr
        marks = [frame.arrays.get("features_outside") for frame in ase.io.read(out, ":")]
        for entry in found:
            assert marks[entry["index"]][entry["atom"]] == entry["n_features"]
        total = sum(np.count_nonzero(mark) for mark in marks if mark is not None)
        assert total == len(found)


def test_models_without_ranges(model, stretched, tmp_path):
    old = fdforce.load_model(model)
    old.feature_min = old.feature_max = None
    fdforce.save_model(tmp_path / "old.npz", old)
    assert "extrapolation: not known" in succeed("evaluate", tmp_path / "old.npz", stretched)
    found = json.loads(succeed("evaluate", tmp_path / "old.npz", stretched, "--json"))
    assert found["extrapolating"] is None
    out = tmp_path / "out.extxyz"
    assert run("predict", tmp_path / "old.npz", stretched, "-o", out).stderr == ""


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_evaluate_plots(model, data, tmp_path, suffix):
    succeed("evaluate", model, data, "--plot", tmp_path / f"parity.{suffix}")
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert (tmp_path / f"parity.{suffix}").read_bytes().startswith(start)


def test_predictions_read_again_equal_evaluate(model, data, tmp_path):
    out = tmp_path / "new" / "out.extxyz"
    succeed("predict", model, data, "-o", out)
    assert [path.name for path in out.parent.iterdir()] == ["out.extxyz"]
    predicted, labelled = ase.io.read(out, ":"), ase.io.read(data, ":")
    forces = [a.get_forces() - b.get_forces() for a, b in zip(predicted, labelled, strict=True)]
    errors = json.loads(succeed("evaluate", model, data, "--json"))
    # extended xyz holds eight decimals
    assert np.sqrt(np.mean(np.square(forces))) == pytest.approx(errors["force_rmse"], abs=1e-7)
    for atoms, old in zip(predicted, labelled, strict=True):
        assert atoms.info["trajectory"] == old.info["trajectory"]
        assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy())
        assert "stress" not in atoms.calc.results


def test_predict_writes_stress_and_replaces_files(crystal, tmp_path):
    run_dir, out = tmp_path / "run", tmp_path / "out.extxyz.gz"
    succeed("fit", crystal, "--out", run_dir, "--epochs", 1, *SMALL)
    for _ in range(2):
        succeed("predict", run_dir / "model.npz", crystal, "-o", out)
    structures, _ = fdforce.read_structures(crystal)
    expected = fdforce.predict(fdforce.load_model(run_dir / "model.npz"), structures)
    predicted, _ = fdforce.read_structures(out)
    # the stress is written with at least eight digits; those of the forces count here
    np.testing.assert_allclose(predicted.stresses, expected.stresses, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(predicted.forces, expected.forces, atol=1e-8)


def test_epsilon_json_and_plot(model, data, tmp_path):
    figure = tmp_path / "epsilon.png"
    scan = json.loads(
        succeed("epsilon", model, data, "--json", "--structures", 3, "--plot", figure)
    )
    keys = {"epsilon", "err_loss", "err_gradient", "recommended", "precision", "stencil"}
    assert keys < set(scan)
    assert scan["reference"] == "exact"
    kinds = [(row["precision"], row["stencil"]) for row in scan["recommendations"]]
    assert kinds == [
        (p, s) for p in ("float64", "float32") for s in ("forward", "central", "central4")
    ]
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert len(scan["epsilon"]) == len(scan["err_loss"]) == len(scan["err_gradient"])
    assert 1e-8 < scan["recommended"] < 1e-4
    assert min(scan["err_gradient"]) < 1e-7


def test_epsilon_table(model, data):
    text = succeed("epsilon", model, data, "--structures", 2, "--fixed-g0", 0.7)
    for word in ("round-off", "truncation", "<- best", "recommended ε", "0.7 eV/Å for all"):
        assert word in text


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        "from tests.morse import THETA, morse\n"
        "theta = THETA.copy()\n"
        "def energy_gradient(r):\n"
        "    energy, _, _, gradient = morse(r, None, theta)\n"
        "    return energy, gradient\n"
        "def make_model(atoms):\n"
        "    return lambda r: morse(r, None, theta)[:2], energy_gradient\n"
        "def wrong(atoms):\n"
        "    return lambda r: (morse(r, None, theta)[0], 1.001 * morse(r, None, theta)[1]), "
        "energy_gradient\n"
    )
    return tmp_path / "own.py"


def test_epsilon_of_a_code_of_ones_own(own_code, data, tmp_path):
    text = succeed("epsilon", f"{own_code}:make_model", data, "--structures", 2)
    assert "consistent with the energies: forces, dE/dtheta" in text
    assert "no true gradient is available: the reference is a Richardson extrapolation" in text
    assert "central4" in text
    found = json.loads(
        succeed("epsilon", "own:make_model", data, "--structures", 2, "--json",
                "--stencil", "central", "--plot", tmp_path / "e.svg", "--fixed-g0", 3)
    )  # fmt: skip
    assert found["reference"] == "richardson"
    assert found["checked"] == ["forces", "dE/dtheta"]
    assert found["slopes"][1] == pytest.approx(2, abs=0.3)
    assert found["scaled_g0"]["recommended"] > 0
    assert "<svg" in (tmp_path / "e.svg").read_text()
    message = fail("epsilon", "own:wrong", data, "--structures", 2)
    assert "forces inconsistent with the energies" in message
    assert "1.001 times" in message
    assert "leave --precision out" in fail(
        "epsilon", "own:make_model", data, "--precision", "float32"
    )


def test_epsilon_watches_a_run(fitted, model, data, tmp_path):
    text = succeed("epsilon", "--watch", fitted, "--plot", tmp_path / "monitor.png")
    assert "Err[L̃]" in text
    assert "drift" in text
    assert (tmp_path / "monitor.png").is_file()
    found = json.loads(succeed("epsilon", "--watch", fitted, "--json"))
    assert set(found) == {"epoch", "epsilon", "err_loss", "drift"}
    both = json.loads(
        succeed("epsilon", model, data, "--structures", 1, "--stencil", "central",
                "--watch", fitted, "--json", "--plot", tmp_path / "both.png")
    )  # fmt: skip
    assert both["monitor"] == found
    assert "no history.csv there" in fail("epsilon", "--watch", tmp_path)


def test_benchmark_json(data):
    keys = {
        "n_atoms", "mean_neighbors", "device", "precision", "threads", "energy_us_per_atom",
        "forces_us_per_atom", "gradient_us_per_atom", "gradient_over_forces", "peak_memory_mb",
    }  # fmt: skip
    found = json.loads(succeed("benchmark", data, "--json", *SMALL))
    assert set(found) == keys
    assert found["n_atoms"] == 180


def test_info_on_data_model_checkpoint_and_devices(data, model, fitted):
    text = succeed("info", data, model, fitted / "checkpoint.npz", "--devices")
    for words in (
        "structures            20",
        "nothing suspicious",
        "parameters",
        "epochs done",
        "gpu",
    ):
        assert words in text
    found = json.loads(succeed("info", data, model, "--json"))
    assert [item["kind"] for item in found["files"]] == ["data", "model"]
    assert found["files"][0]["elements"] == {"H": 120, "C": 40, "O": 20}


# -- failures --------------------------------------------------------------------------------------


def test_failures_of_fit_write_nothing(data, tmp_path):
    out = tmp_path / "run"
    broken = tmp_path / "broken.extxyz"
    absent = tmp_path / "absent.extxyz"
    assert "no such file" in fail("fit", absent, "--out", out)
    assert "no such file" in fail("fit", tmp_path / "absent.toml", "--out", out)
    assert "unknown key training.epoch" in fail(
        "fit", data, "--set", "training.epoch=3", "--out", out
    )
    frames = ase.io.read(data, ":")
    frames[3].calc.results["forces"][2, 1] = np.nan
    ase.io.write(broken, frames)
    assert "broken.extxyz[3]" in fail("fit", broken, "--out", out)
    assert not out.exists()


def test_an_existing_run_is_kept(fitted, data):
    before = (fitted / "model.npz").read_bytes()
    assert "already holds a run" in fail("fit", data, "--out", fitted)
    assert (fitted / "model.npz").read_bytes() == before


def test_files_that_are_no_models(model, data, tmp_path, fitted):
    foreign, short = tmp_path / "foreign.npz", tmp_path / "short.npz"
    np.savez(foreign, x=np.zeros(3))
    short.write_bytes(model.read_bytes()[:-200])
    for path in (foreign, short, data, tmp_path / "absent.npz", fitted / "checkpoint.npz"):
        for command in ("evaluate", "epsilon"):
            assert str(path) in fail(command, path, data)
        fail("predict", path, data, "-o", tmp_path / "out.extxyz")
    assert {path.name for path in tmp_path.iterdir()} == {"foreign.npz", "short.npz"}
    assert str(foreign) in fail("info", foreign)


def test_unknown_element(model, tmp_path):
    other = tmp_path / "other.extxyz"
    atoms = Atoms("HTi", [[0, 0, 0], [0, 0, 1.7]])
    ase.io.write(other, [Atoms("H"), atoms])
    message = fail("predict", model, other, "-o", tmp_path / "out.extxyz")
    assert "other.extxyz[1]: atom 1 is Ti" in message
    assert not (tmp_path / "out.extxyz").exists()


def test_unlabelled_data(model, tmp_path):
    bare = tmp_path / "bare.extxyz"
    ase.io.write(bare, Atoms("H2", [[0, 0, 0], [0, 0, 0.8]]))
    assert "bare.extxyz" in fail("evaluate", model, bare)
    assert "bare.extxyz" in fail("epsilon", model, bare)
    succeed("predict", model, bare, "-o", tmp_path / "out.extxyz")


def test_figures_that_cannot_be_drawn(model, data, tmp_path, monkeypatch):
    assert ".svg" in fail("evaluate", model, data, "--plot", tmp_path / "parity.doc")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for command in ("evaluate", "epsilon"):
        message = fail(command, model, data, "--plot", tmp_path / "figure.png")
        assert "need matplotlib: pip install 'fdforce[plot]'" in message
    assert list(tmp_path.iterdir()) == []


def test_formats_that_cannot_be_written(model, data, tmp_path):
    assert "ASE writes no such format" in fail("predict", model, data, "-o", tmp_path / "out.nope")
    assert "take .extxyz" in fail("predict", model, data, "-o", tmp_path / "out.cube")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif("NUMBA_ENABLE_CUDASIM" in os.environ, reason="GPU: one is simulated")
def test_without_a_gpu_one_line_says_what_to_do(model, data, tmp_path):
    from fdforce.cuda.device import list_devices
    from fdforce.errors import ConfigError

    try:
        if list_devices():
            pytest.skip("GPU: there is one")
    except ConfigError:
        pass  # numba-cuda is not installed, as is usual
    out = tmp_path / "out"
    for command in (
        ("fit", data, "--out", out), ("evaluate", model, data), ("benchmark", data),
        ("predict", model, data, "-o", tmp_path / "out.extxyz"),
    ):  # fmt: skip
        message = fail(*command, "--device", "cuda")
        assert "numba-cuda" in message or "no GPU found" in message
        assert 'device = "cpu"' in message
    assert list(tmp_path.iterdir()) == []
    assert "gpu" in succeed("info", "--devices")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["fit"],
        ["fit", "a.extxyz", "--example"],
        ["fit", "--example", "water"],
        ["fit", "a.toml", "b.extxyz"],
        ["fit", "--resume", "run", "--out", "other"],
        ["fit", "a.extxyz", "--valid", "1.5"],
        ["fit", "a.extxyz", "--epochs", "many"],
        ["fit", "a.extxyz", "--log", "paper"],
        ["report"],
        ["evaluate"],
        ["evaluate", "model.npz"],
        ["predict", "model.npz", "a.extxyz"],
        ["epsilon"],
        ["epsilon", "model.npz"],
        ["epsilon", "model.npz", "a.extxyz", "--stencil", "complex"],
        ["info"],
        ["benchmark", "a.extxyz", "b.extxyz"],
        ["benchmark", "model.npz", "--set", "model.hidden=[3]"],
    ],
    ids=" ".join,
)
def test_wrong_usage(arguments):
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output


def test_unexpected_errors(monkeypatch, data):
    def broken(*_, **__):
        raise ZeroDivisionError("one over\nzero")

    monkeypatch.setattr("fdforce.structures.describe_structures", broken)
    expected = (
        "Error: internal error: ZeroDivisionError: one over zero "
        "(run with --debug for the traceback)\n"
    )
    result = run("info", data)
    assert (result.exit_code, result.stderr) == (1, expected)
    for arguments in (["--debug", "info", data], ["info", data, "--debug"]):
        result = run(*arguments)
        assert result.exit_code == 1
        assert "Traceback" in result.stderr


def test_a_full_disk(monkeypatch, model, data, tmp_path):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "out.extxyz")

    monkeypatch.setattr("ase.io.write", full)
    message = fail("predict", model, data, "-o", tmp_path / "out.extxyz")
    assert message == "Error: out.extxyz: No space left on device\n"
    assert list(tmp_path.iterdir()) == []


def test_a_closed_pipe():
    code = "from fdforce.cli import main; main(['config'])"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr == ""

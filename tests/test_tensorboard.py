"""Scalars of a run for TensorBoard, and the line that shows how a run goes."""

import csv
import sys
import types
from types import SimpleNamespace

import ase.io
import pytest
from click.testing import CliRunner

from fdforce.cli import main
from fdforce.cli.progress import EpochPrinter
from fdforce.examples import example_files
from fdforce.structure_files import read_file
from fdforce.tensorboard import TensorBoardLog

pytestmark = pytest.mark.usefixtures("empty_figures")
SMALL = ("--set=model.hidden=[4]", "--set=model.radial_order=3", "--set=model.angular_order=1",
         "--threads=1")  # fmt: skip


class Writer:
    made = []

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.scalars, self.closed = folder, purge_step, {}, False
        Writer.made.append(self)

    def add_scalar(self, tag, value, step):
        assert not self.closed
        self.scalars[tag, step] = value

    def flush(self):
        pass

    def close(self):
        self.closed = True


@pytest.fixture
def writers(monkeypatch):
    monkeypatch.setattr(Writer, "made", [])
    module = types.ModuleType("tensorboardX")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    return Writer.made


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "ethanol.extxyz"
    ase.io.write(path, read_file(example_files("ethanol")[1])[::30])
    return path


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_the_scalars_are_those_of_the_history(writers, data, tmp_path):
    out = tmp_path / "run"
    result = run("fit", data, "--out", out, "--epochs", 2, "--log", "tensorboard", *SMALL)
    assert result.exit_code == 0, result.output
    result = run("fit", "--resume", out, "--epochs", 3, "--log", "tensorboard")
    assert result.exit_code == 0, result.output
    assert [(w.folder, w.purge_step, w.closed) for w in writers] == [
        (str(out / "tensorboard"), 1, True), (str(out / "tensorboard"), 3, True)
    ]  # fmt: skip
    found = {**writers[0].scalars, **writers[1].scalars}
    tags = {"train_force_rmse": "train/force_rmse", "valid_loss": "valid/loss",
            "learning_rate": "run/learning_rate", "err_loss": "run/err_loss"}  # fmt: skip
    for row in csv.DictReader((out / "history.csv").read_text().splitlines()):
        for column, tag in tags.items():
            # history.csv has ten digits
            value = found[tag, int(row["epoch"])]
            assert value == pytest.approx(float(row[column]), rel=1e-9)
        assert row["train_stress_rmse"] == ""
        assert ("train/stress_rmse", int(row["epoch"])) not in found


def test_a_directory_by_default(writers, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("fit", data, "--epochs", 1, "--log", "tensorboard", *SMALL).exit_code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "model.npz").is_file()
    assert writers[0].folder.endswith(f"{folder.name}/tensorboard")


def test_members_of_an_ensemble_have_folders_of_their_own(writers, data, tmp_path):
    out = tmp_path / "run"
    more = ("--ensemble", 2, "--epochs", 2, "--log", "tensorboard", *SMALL)
    result = run("fit", data, "--out", out, *more, "--processes", 2)
    assert result.exit_code == 2
    assert "drop --processes" in result.output
    result = run("fit", data, "--out", out, *more)
    assert result.exit_code == 0, result.output
    folders = [str(out / "tensorboard" / f"member-{k}") for k in range(2)]
    assert [(w.folder, w.closed) for w in writers] == [(folder, True) for folder in folders]
    for row in csv.DictReader((out / "history.csv").read_text().splitlines()):
        found = writers[int(row["member"])].scalars["train/loss", int(row["epoch"])]
        # history.csv has ten digits
        assert found == pytest.approx(float(row["train_loss"]), rel=1e-9)


def test_without_tensorboardx_nothing_is_begun(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    out = tmp_path / "run"
    result = run("fit", data, "--out", out, "--log", "tensorboard", *SMALL)
    assert result.exit_code == 1
    assert "Error: --log tensorboard needs tensorboardX: pip install" in result.output
    assert not out.exists()


def test_a_run_that_is_there_is_kept(writers, data, tmp_path):
    out = tmp_path / "run"
    assert run("fit", data, "--out", out, "--epochs", 1, *SMALL).exit_code == 0
    result = run("fit", data, "--out", out, "--log", "tensorboard", *SMALL)
    assert "already holds a run" in result.output
    assert writers == []


def test_a_log_that_never_began_can_be_finished(tmp_path):
    TensorBoardLog(tmp_path).finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("err_loss", "shown"), [(2.3e-9, True), (0.0, False), (None, False)])
def test_the_progress_line(capsys, err_loss, shown):
    printer = EpochPrinter(1, 0.0)
    row = {"train_loss": 0.1, "valid_loss": 0.2, "train_force_rmse": 0.05, "epsilon": 1e-5,
           "err_loss": err_loss}  # fmt: skip
    printer(SimpleNamespace(epoch=1, elapsed=1.0), row)
    line = capsys.readouterr().out
    assert "force rmse 50.0 meV/Å  ε 1.0e-05" in line
    assert ("Err[L̃] 2e-09" in line) == shown
    assert ("Err" in line) == shown

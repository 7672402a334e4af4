"""A run that was stopped and resumed ends where the whole run ends, bit for bit."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest

import fdforce
from fdforce.checkpoint import load_checkpoint
from fdforce.errors import CheckpointError
from fdforce.examples import example_files
from fdforce.optimizers import AUTO
from fdforce.structure_files import read_file

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 6


def silent(line):
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "ethanol.extxyz"
    ase.io.write(path, read_file(example_files("ethanol")[1])[::15])
    return path


@pytest.fixture(scope="module")
def settings(data) -> dict:
    # one thread: sums of several depend on how atoms are shared out, not on the run
    return {
        "train": [str(data)], "valid": 0.2, "hidden": [6], "radial_order": 4, "angular_order": 2,
        "batch_size": 5, "epochs": EPOCHS, "threads": 1, "checkpoint_every": 1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    fdforce.fit(out=out, log=silent, **settings)
    return out


def assert_same_end(directory: Path, whole: Path):
    np.testing.assert_array_equal(
        fdforce.load_model(directory / "model.npz").theta,
        fdforce.load_model(whole / "model.npz").theta,
    )
    header, expected_header = assert_same_arrays(directory, whole)
    for name in ("epoch", "epsilon", "reference", "best_loss", "best_epoch"):
        assert header["progress"][name] == expected_header["progress"][name]
    assert epochs_in_history(directory) == list(range(1, EPOCHS + 1))


def assert_same_arrays(directory: Path, whole: Path):
    """Everything in the checkpoints but times; returns their headers."""
    (header, arrays), (expected_header, expected) = (
        load_checkpoint(path / "checkpoint.npz") for path in (directory, whole)
    )
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        if name != "rows":  # they hold times
            np.testing.assert_array_equal(array, expected[name], err_msg=name)
    return header, expected_header


def epochs_in_history(directory: Path) -> list[int]:
    lines = (directory / "history.csv").read_text().splitlines()
    return [int(row["epoch"]) for row in csv.DictReader(lines)]


@pytest.mark.parametrize("checkpoint_every", [1, 100])
def test_interrupted_and_resumed(settings, whole, tmp_path, checkpoint_every):
    def interrupt(progress, row):
        if progress.epoch == 3:
            raise KeyboardInterrupt

    run = {**settings, "checkpoint_every": checkpoint_every}
    with pytest.raises(KeyboardInterrupt):
        fdforce.fit(out=tmp_path / "run", log=silent, on_epoch=interrupt, **run)
    assert epochs_in_history(tmp_path / "run") == [1, 2, 3]
    fdforce.fit(resume=tmp_path / "run", log=silent)
    assert_same_end(tmp_path / "run", whole)


@pytest.mark.parametrize(
    "name", [*(name for name in AUTO if name != "least_squares"), "kalman full"]
)
def test_every_optimizer_resumes(settings, tmp_path, name):
    """Average and dropout too: whatever decides the next step is in the checkpoint."""

    def interrupt(progress, row):
        if progress.epoch == 2:
            raise KeyboardInterrupt

    name, _, covariance = name.partition(" ")
    run = {**settings, "epochs": 4, "average": 0.3, "dropout": 0.2}
    run["optimizer"] = {"name": name, "batch_size": run.pop("batch_size")}
    if name == "kalman":
        run["optimizer"]["covariance"] = covariance or "shared"
    elif name == "lbfgs":
        run |= {"average": 0.0, "dropout": 0.0}
    else:
        run["optimizer"]["gradient_clip"] = 1.0
    fdforce.fit(out=tmp_path / "whole", log=silent, **run)
    with pytest.raises(KeyboardInterrupt):
        fdforce.fit(out=tmp_path / "run", log=silent, on_epoch=interrupt, **run)
    fdforce.fit(resume=tmp_path / "run", log=silent)
    assert_same_arrays(tmp_path / "run", tmp_path / "whole")


def test_killed_and_resumed(settings, whole, tmp_path):
    out = tmp_path / "run"
    code = (
        "import fdforce, time\n"
        f"fdforce.fit(out={str(out)!r}, on_epoch=lambda *_: time.sleep(0.3), **{settings!r})"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 300
        while not (out / "checkpoint.npz").exists():
            assert process.poll() is None, "the run ended before its first checkpoint"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert load_checkpoint(out / "checkpoint.npz")[0]["progress"]["epoch"] < EPOCHS
    fdforce.fit(resume=out, log=silent)
    assert_same_end(out, whole)


def test_a_finished_run_resumed_stays_as_it_is(settings, whole, tmp_path):
    fdforce.fit(out=tmp_path / "run", log=silent, **settings)
    fdforce.fit(resume=tmp_path / "run", log=silent)
    assert_same_end(tmp_path / "run", whole)


def test_other_data_is_refused(settings, data, tmp_path):
    copy = tmp_path / "data.extxyz"
    frames = ase.io.read(data, ":")
    ase.io.write(copy, frames)
    run = {**settings, "train": [str(copy)], "epochs": 1}
    fdforce.fit(out=tmp_path / "run", log=silent, **run)
    frames[4].positions[0, 0] += 1e-3
    ase.io.write(copy, frames)
    with pytest.raises(CheckpointError, match=r"belongs to other data than .*data\.extxyz"):
        fdforce.fit(resume=tmp_path / "run", log=silent)


def test_nothing_to_resume(tmp_path):
    with pytest.raises(CheckpointError, match="holds no run to resume"):
        fdforce.fit(resume=tmp_path, log=silent)

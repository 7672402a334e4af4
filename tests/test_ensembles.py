"""Training the members of an ensemble: shares, resumption, processes, and the commands."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms

import fdforce
from fdforce.checkpoint import load_checkpoint
from fdforce.config import config_from_dict, load_config
from fdforce.ensembles import member_config
from fdforce.errors import CheckpointError, ConfigError, TrainingError
from fdforce.examples import example_files
from fdforce.models import ElementalNetworks, Ensemble
from fdforce.problem import read_parts
from fdforce.structure_files import read_file
from fdforce.training import Trainer
from fdforce.worker_processes import WorkerProcesses
from tests.test_cli import ERRORS, fail, run, succeed

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 12
pytestmark = pytest.mark.usefixtures("empty_figures")


def silent(line):
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "ethanol.extxyz"
    ase.io.write(path, read_file(example_files("ethanol")[1])[::12])
    return path


@pytest.fixture(scope="module")
def settings(data) -> dict:
    return {
        "train": [str(data)], "valid": 0.2, "test": 0.2, "hidden": [6], "radial_order": 4,
        "angular_order": 2, "batch_size": 5, "epochs": EPOCHS, "threads": 1,
        "checkpoint_every": 1, "seed": 5, "ensemble": 3,
    }  # fmt: skip


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    return fdforce.fit(out=tmp_path_factory.mktemp("runs") / "whole", log=silent, **settings)


def assert_same_end(directory, whole):
    np.testing.assert_array_equal(
        fdforce.load_model(directory / "model.npz").theta, whole.model.theta
    )
    found, expected = (json.loads((d / "metrics.json").read_text())
                       for d in (directory, whole.directory))  # fmt: skip
    assert found == expected
    columns = ("member", "epoch", "train_loss", "valid_loss", "epsilon")
    assert [[row[c] for c in columns] for row in history(directory)] == [
        [row[c] for c in columns] for row in history(whole.directory)
    ]


def history(directory):
    return list(csv.DictReader((directory / "history.csv").read_text().splitlines()))


# What members have in common


def test_files_and_results(whole):
    out = whole.directory
    assert {path.name for path in out.iterdir()} == {
        "model.npz", "checkpoint.npz", "history.csv", "metrics.json", "config.toml", "log.txt",
        "predictions.npz", "provenance.json", "member-0", "member-1", "member-2",
    }  # fmt: skip
    rows = history(out)
    expected = [(k, e) for k in range(3) for e in range(1, EPOCHS + 1)]
    assert [(int(row["member"]), int(row["epoch"])) for row in rows] == expected
    np.testing.assert_array_equal(whole.history["member"], [k for k, _ in expected])
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics == whole.metrics
    assert list(metrics) == ["train", "test"]
    for errors in metrics.values():
        assert set(errors) == ERRORS | {"members", "calibration"}
        assert len(errors["members"]) == 3
    for k in range(3):
        member = fdforce.load_model(out / f"member-{k}" / "model.npz")
        np.testing.assert_array_equal(whole.model.theta[k], member.theta)
        of_member = json.loads((out / f"member-{k}" / "metrics.json").read_text())["test"]
        of_ensemble = metrics["test"]["members"][k]
        # the same structures, evaluated in the same way
        for name, value in of_ensemble.items():
            assert of_member[name] == (None if value is None else pytest.approx(value, rel=1e-12))


def test_members_share_the_test_part_and_differ_in_validation(settings, data):
    tables = {
        "data": {"train": [str(data)], "valid": 0.2, "test": 0.2},
        "training": {"seed": 5, "ensemble": 3},
    }
    config = config_from_dict(tables)
    parts = [read_parts(member_config(config, k)) for k in range(3)]
    first = parts[0]
    validation = set()
    for part in parts:
        assert part.test.labels == first.test.labels
        assert part.common.labels == first.common.labels
        assert sorted(part.train.labels + part.valid.labels) == sorted(first.common.labels)
        validation.add(part.valid.labels)
    assert len(validation) == 3
    assert not set(first.test.labels) & set(first.common.labels)
    # an ordinary run divides as ever
    ordinary = read_parts(config_from_dict({**tables, "training": {"seed": 5}}))
    assert ordinary.common is None
    assert ordinary.test.labels == first.test.labels
    assert ordinary.valid.labels == first.valid.labels


def test_seeds_follow_each_other(whole):
    for k in range(3):
        config = load_config(whole.directory / f"member-{k}" / "config.toml")
        assert (config.training.seed, config.training.member) == (5 + k, k)
    assert load_config(whole.directory / "config.toml").training.seed == 5


def test_a_member_alone_is_the_same_run(whole, tmp_path):
    result = fdforce.fit(
        whole.directory / "member-1" / "config.toml", out=tmp_path / "run", log=silent
    )
    np.testing.assert_array_equal(result.model.theta, whole.model.theta[1])


def test_the_written_configuration_reproduces_the_ensemble(whole, tmp_path):
    fdforce.fit(whole.directory / "config.toml", out=tmp_path / "again", log=silent)
    assert_same_end(tmp_path / "again", whole)


def test_one_member_is_an_ordinary_run(settings, tmp_path):
    ordinary = {key: value for key, value in settings.items() if key != "ensemble"}
    first = fdforce.fit(out=tmp_path / "a", log=silent, **ordinary)
    second = fdforce.fit(out=tmp_path / "b", log=silent, **ordinary, ensemble=1)
    assert isinstance(second.model, ElementalNetworks)
    np.testing.assert_array_equal(first.model.theta, second.model.theta)
    assert first.metrics == second.metrics
    files = [{path.name for path in (tmp_path / name).iterdir()} for name in "ab"]
    assert files[0] == files[1]
    with pytest.raises(ConfigError, match="processes = 2: they train the members"):
        fdforce.fit(out=tmp_path / "c", log=silent, processes=2, **ordinary)


def test_validation_in_a_file(settings, data, tmp_path):
    run = {**settings, "valid": str(data), "epochs": 1, "ensemble": 2}
    result = fdforce.fit(out=tmp_path / "run", log=silent, **run)
    assert list(result.metrics) == ["train", "valid", "test"]


def test_wrong_members():
    for member, seed in ((3, 9), (1, 0)):
        with pytest.raises(ConfigError, match=rf"training\.member = {member}"):
            config_from_dict({"training": {"ensemble": 3, "member": member, "seed": seed}})


# Interruption and failure


@pytest.mark.parametrize("at", [(0, 1), (1, 5)])
def test_interrupted_and_resumed(settings, whole, tmp_path, at):
    seen = []

    def interrupt(progress, row):
        seen.append(progress.epoch)
        if (seen.count(1) - 1, progress.epoch) == at:
            raise KeyboardInterrupt

    lines = []
    with pytest.raises(KeyboardInterrupt):
        fdforce.fit(out=tmp_path / "run", log=lines.append, on_epoch=interrupt, **settings)
    assert lines[-1] == f"stopped; go on with --resume {tmp_path / 'run'}"
    before = {}
    for k in range(at[0]):
        before[k] = (tmp_path / "run" / f"member-{k}" / "model.npz").read_bytes()
    fdforce.fit(resume=tmp_path / "run", log=silent)
    assert_same_end(tmp_path / "run", whole)
    for k, content in before.items():  # it says when it was written
        assert (tmp_path / "run" / f"member-{k}" / "model.npz").read_bytes() == content


def test_a_member_that_fails_leaves_the_others(settings, whole, tmp_path, monkeypatch):
    epoch = Trainer._epoch

    def explode(trainer):
        if trainer.config.training.member == 1 and trainer.progress.epoch == 3:
            raise TrainingError("the loss is nan")
        return epoch(trainer)

    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_epoch", explode)
        with pytest.raises(TrainingError, match=r"1 of 3 members failed: 1: the loss is nan"):
            fdforce.fit(out=out, log=silent, **settings)
    assert not (out / "model.npz").exists()
    assert (out / "member-2" / "metrics.json").exists()
    fdforce.fit(resume=out, log=silent)
    assert_same_end(out, whole)


def test_a_run_that_cannot_begin_writes_nothing(settings, tmp_path):
    for wrong in ({"train": ["absent.extxyz"]}, {"descriptor": "none"}):
        with pytest.raises(fdforce.FdforceError):
            fdforce.fit(out=tmp_path / "run", log=silent, **{**settings, **wrong})
        assert not (tmp_path / "run").exists()
    # found by the first member, and no reason to occupy the folder
    with pytest.raises(ConfigError, match=r"optimizer\.name = 'none'"):
        fdforce.fit(out=tmp_path / "run", log=silent, optimizer={"name": "none"}, **settings)
    fdforce.fit(out=tmp_path / "run", log=silent, **{**settings, "epochs": 1})


def test_a_held_directory_is_kept(settings, whole):
    with pytest.raises(ConfigError, match="already holds a run"):
        fdforce.fit(out=whole.directory, log=silent, **settings)


def test_more_epochs_and_other_data(settings, data, tmp_path):
    copy, out = tmp_path / "data.extxyz", tmp_path / "run"
    frames = ase.io.read(data, ":")
    ase.io.write(copy, frames)
    run = {**settings, "train": [str(copy)], "epochs": 2, "ensemble": 2}
    fdforce.fit(out=out, log=silent, **run)
    result = fdforce.fit(resume=out, log=silent, epochs=3)
    assert result.history["epoch"].tolist() == [1, 2, 3, 1, 2, 3]
    with pytest.raises(ConfigError, match=r"training\.ensemble = 4: the run has 2"):
        fdforce.fit(resume=out, log=silent, ensemble=4)
    frames[4].positions[0, 0] += 1e-3
    ase.io.write(copy, frames)
    with pytest.raises(CheckpointError, match="belongs to other data"):
        fdforce.fit(resume=out, log=silent)


def test_the_budget_is_shared_out(settings, tmp_path):
    budget = 3.0
    result = fdforce.fit(out=tmp_path / "run", log=silent, **{**settings, "epochs": 0},
                         max_time=budget)  # fmt: skip
    shares, used = [], 0.0
    for k in range(3):
        home = result.directory / f"member-{k}"
        shares.append(load_config(home / "config.toml").training.max_time)
        used += load_checkpoint(home / "checkpoint.npz")[0]["progress"]["elapsed"]
    # a third at most for the first one, which includes reading the data; half of the rest for the
    # second one
    assert 0 < shares[0] <= budget / 3
    assert 0 < shares[1] <= (budget - shares[0]) / 2 + 1e-9
    assert used > 0.5 * budget
    # an epoch, which ends the run, takes milliseconds
    assert used < budget + 1.0


# Processes


def test_two_processes_give_the_same_members(settings, whole, tmp_path):
    lines = []
    fdforce.fit(out=tmp_path / "run", log=lines.append, processes=2, **settings)
    assert_same_end(tmp_path / "run", whole)
    assert any(line.startswith("member 2: epsilon = ") for line in lines)


def test_a_killed_process_leaves_the_others(settings, whole, tmp_path, monkeypatch):
    start, started, out = WorkerProcesses._start, [], tmp_path / "run"

    def start_and_kill(workers):
        started.append(start(workers))
        if len(started) == 2:  # that of member 1
            started[1].kill()
        return started[-1]

    with monkeypatch.context() as patched:
        patched.setattr(WorkerProcesses, "_start", start_and_kill)
        with pytest.raises(TrainingError, match="1 of 3 members failed: 1: killed by SIGKILL"):
            fdforce.fit(out=out, log=silent, processes=2, **settings)
    fdforce.fit(resume=out, log=silent)
    assert_same_end(out, whole)


def test_a_failing_process_says_why(settings, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"2 of 2 members failed: .*the loss is .*\n.*--resume"):
        fdforce.fit(out=out, log=silent, processes=2,
                    **{**settings, "ensemble": 2, "learning_rate": 1e9})  # fmt: skip


def children(pid) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found.append(int(stat.parent.name))
    return found


def alive(pid) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def epochs_of(home) -> int:
    try:
        return load_checkpoint(home / "checkpoint.npz")[0]["progress"]["epoch"]
    except CheckpointError:
        return 0


@pytest.mark.parametrize("with_signal", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_the_command(settings, data, tmp_path, with_signal):
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "fdforce", "fit", str(data), "--out", str(out), "--epochs", "100000",
        "--ensemble", "2", "--processes", "2", "--threads", "1", "--set=model.hidden=[6]",
        "--set=model.radial_order=4", "--set=model.angular_order=2", "--set=optimizer.batch_size=5",
        "--set=training.checkpoint_every=5",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    homes = [out / "member-0", out / "member-1"]
    members = []
    try:
        wait_for(lambda: process.poll() is not None or all(epochs_of(home) for home in homes))
        assert process.poll() is None, process.stderr.read()
        members = children(process.pid)
        assert len(members) == 2
        process.send_signal(with_signal)
        _, errors = process.communicate(timeout=60)
        wait_for(lambda: not any(alive(pid) for pid in members), 60)
    finally:
        process.kill()
        process.communicate()
        for pid in members:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
    if with_signal != signal.SIGKILL:
        assert (process.returncode, errors) == (
            1, "Error: the run was interrupted before its end\n",
        )  # fmt: skip
        assert (out / "report.html").is_file()
    for home in homes:  # stopped with a checkpoint of the last epoch, not killed
        assert "stopped; go on with --resume" in (home / "log.txt").read_text()
        assert epochs_of(home) == len(history(home))
    result = fdforce.fit(resume=out, log=silent, epochs=max(epochs_of(home) for home in homes) + 1)
    assert isinstance(result.model, Ensemble)


# Commands


@pytest.fixture(scope="module")
def model(whole) -> Path:
    return whole.directory / "model.npz"


def test_fit_reports_an_ensemble(data, tmp_path):
    out = tmp_path / "run"
    arguments = ["--ensemble", 2, "--epochs", 2, "--threads", 1, "--set=model.hidden=[6]",
                 "--set=model.radial_order=4", "--set=model.angular_order=2"]  # fmt: skip
    text = succeed("fit", data, "--out", out, *arguments)
    assert text.count("epoch 2/2") == 2
    assert "within 1 std" in text
    assert "fdforce epsilon" not in text
    assert "Disagreement of the members" in (out / "report.html").read_text(encoding="utf-8")
    assert "2 of them finished" in succeed("fit", "--resume", out)
    assert "processes = 2" in fail("fit", data, "--processes", 2, "--out", tmp_path / "other")
    assert run("fit", data, "--ensemble", 0).exit_code == 2


def test_evaluate(model, data):
    found = json.loads(succeed("evaluate", model, data, "--json"))
    more = {"by_config_type", "by_element", "extrapolating"}
    assert set(found) == ERRORS | more | {"members", "calibration"}
    assert found["extrapolating"] is not None
    assert len(found["members"]) == 3
    assert set(found["calibration"]) == {"energy", "force"}
    mean = np.mean([member["force_rmse"] for member in found["members"]])
    assert found["force_rmse"] <= mean  # of a mean: the triangle inequality
    text = succeed("evaluate", model, data)
    for word in (
        "mean",
        "members",
        "least",
        "most",
        "rmse / rms std",
        "by element",
        "extrapolation: ",
    ):
        assert word in text
    assert f"{1e3 * mean:.4g}" in text


def test_predict(model, data, tmp_path):
    out = tmp_path / "out.extxyz"
    succeed("predict", model, data, "-o", out)
    ensemble = fdforce.load_model(model)
    for atoms in ase.io.read(out, ":"):
        other = Atoms(atoms.numbers, atoms.positions)
        other.calc = fdforce.Calculator(ensemble, threads=1)
        # eight decimals in extended xyz
        assert atoms.get_forces() == pytest.approx(other.get_forces(), abs=2e-7)
        deviations = other.calc.get_property("forces_std", other)
        assert atoms.arrays["forces_std"] == pytest.approx(deviations, abs=2e-7)
        energy_std = other.calc.get_property("energy_std", other)
        assert atoms.info["energy_std"] == pytest.approx(energy_std, abs=2e-7)
    # an ordinary model leaves no deviations of another one behind
    succeed("predict", model.parent / "member-0" / "model.npz", out, "-o", out)
    atoms = ase.io.read(out)
    assert "energy_std" not in atoms.info
    assert "forces_std" not in atoms.arrays


def test_info(model, whole):
    text = succeed("info", model, whole.directory / "checkpoint.npz")
    for words in ("members               3", "seeds                 5 6 7", "ensemble of"):
        assert words in text
    found = json.loads(succeed("info", model, "--json"))["files"][0]
    assert (found["members"], found["n_parameters"]) == whole.model.theta.shape


def test_what_takes_one_member(model, data, whole):
    for arguments in (["benchmark", model, data], ["epsilon", model, data, "--structures", 2]):
        assert "take one member" in fail(*arguments)
    assert "watch one of its runs" in fail("epsilon", "--watch", whole.directory)
    succeed("epsilon", "--watch", whole.directory / "member-1")

"""`fdforce search`: halving, ranges, trials that fail, searches that are stopped."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from click.testing import CliRunner

import fdforce
import fdforce.search
import fdforce.trials
from fdforce.cli import main
from fdforce.config import config_from_dict, default_config, load_config, to_toml
from fdforce.errors import CheckpointError, ConfigError, TrainingError
from fdforce.examples import example_files
from fdforce.search import Round, plan_rounds, search
from fdforce.search_ranges import Interval, draw_trials, read_ranges
from fdforce.search_settings import SearchConfig
from fdforce.structure_files import read_file
from fdforce.trials import run_trials
from fdforce.worker_processes import WorkerProcesses

ROOT = Path(__file__).resolve().parents[1]


def silent(line):
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "ethanol.extxyz"
    ase.io.write(path, read_file(example_files("ethanol")[1])[::15])
    return path


@pytest.fixture
def tables(data) -> dict:
    """Five trials, then two, then one; one thread, so that runs agree bit for bit."""
    return {
        "data": {"train": [str(data)], "valid": 0.2},
        "model": {"hidden": [6], "radial_order": 4, "angular_order": 2},
        "optimizer": {"batch_size": 5},
        "training": {"threads": 1, "checkpoint_every": 1},
        "search": {
            "trials": 5, "factor": 2, "budget_epochs": 4,
            "ranges": {
                "optimizer.learning_rate": {"low": 1e-3, "high": 3e-2, "log": True},
                "model.hidden": [[6], [4, 4]],
            },
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What `tables` give when nothing stops them."""
    found = {}

    def run(tables):
        if not found:
            found["result"] = search(tables, out=tmp_path_factory.mktemp("whole"), log=silent)
        return found["result"]

    return run


def without_times(result) -> list[dict]:
    return [{key: v for key, v in row.items() if key != "seconds"} for row in result.trials]


# -- rounds and ranges -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "rounds"),
    [
        (dict(trials=27, factor=3, budget=270.0), [(27, 10), (9, 30), (3, 90), (1, 270)]),
        (dict(trials=27, factor=3, budget=270.0, rounds=2), [(27, 90), (9, 270)]),
        (dict(trials=10, factor=2, budget_epochs=80), [(10, 10), (5, 20), (2, 40), (1, 80)]),
        (dict(trials=11, factor=3, budget_epochs=2), [(11, 1), (3, 1), (1, 2)]),
        (dict(trials=2, factor=3, budget=5.0), [(2, 5)]),
        (dict(trials=4, factor=2, budget_epochs=8, rounds=9), [(4, 2), (2, 4), (1, 8)]),
    ],
)
def test_trials_and_budgets_of_the_rounds(settings, rounds):
    assert plan_rounds(SearchConfig(**settings)) == [Round(*pair) for pair in rounds]


def test_logarithmic_ranges_are_uniform_in_the_logarithm():
    interval = Interval("optimizer.learning_rate", 1e-4, 1e-1, log=True)
    rng, n = np.random.default_rng(0), 3000
    values = np.array([interval.draw(rng) for _ in range(n)])
    assert values.min() >= 1e-4
    assert values.max() <= 1e-1
    shares = np.histogram(np.log10(values), bins=3, range=(-4, -1))[0] / n
    # a share of a third is binomial: five standard deviations
    np.testing.assert_allclose(shares, 1 / 3, atol=5 * math.sqrt(2 / 9 / n))


@pytest.mark.parametrize("log", [False, True])
def test_integers_reach_both_ends(log):
    interval = Interval("model.radial_order", 1, 4, log=log, integer=True)
    rng, n = np.random.default_rng(0), 3000
    values = [interval.draw(rng) for _ in range(n)]
    assert all(type(value) is int for value in values)
    edges = np.array([0.5, 1.5, 2.5, 3.5, 4.5])
    expected = np.diff(np.log(edges)) / math.log(9) if log else np.full(4, 0.25)
    shares = np.bincount(values, minlength=5)[1:] / n
    # binomial with a standard deviation of at most sqrt(1 / 4 / n): five of them
    np.testing.assert_allclose(shares, expected, atol=2.5 / math.sqrt(n))


def test_all_combinations_of_choices_once():
    table = {"model.hidden": [[4], [8]], "optimizer.batch_size": {"low": 1, "high": 3}}
    ranges = read_ranges(table, default_config(), "here")
    trials = draw_trials(ranges, 6, 1, default_config())
    assert sorted(str(t) for t in trials) == sorted(
        str({"model.hidden": h, "optimizer.batch_size": b}) for h in ([4], [8]) for b in (1, 2, 3)
    )
    with pytest.raises(ConfigError, match=r"search\.trials = 7: the ranges have 6 combinations"):
        draw_trials(ranges, 7, 1, default_config())


@pytest.mark.parametrize(("high", "first"), [(0.1, True), (0.004, False)])
def test_the_first_trial_is_the_configuration_itself(high, first):
    config = config_from_dict({"optimizer": {"learning_rate": 0.005}})
    table = {
        "optimizer.learning_rate": {"low": 1e-3, "high": high},
        "model.hidden": [[5], config.model.hidden],
    }
    trials = draw_trials(read_ranges(table, config, "here"), 4, 0, config)
    own = {"optimizer.learning_rate": 0.005, "model.hidden": config.model.hidden}
    assert [trial == own for trial in trials] == [first, False, False, False]


def test_names_of_keys_without_quotes():
    table = {"optimizer": {"learning_rate": {"low": 0.1, "high": 0.2}, "batch_size": [1, 2]}}
    keys = [r.key for r in read_ranges(table, default_config(), "here")]
    assert keys == ["optimizer.learning_rate", "optimizer.batch_size"]


LOW_HIGH = {"low": 1, "high": 2}


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({}, r"\[search\.ranges\] is empty"),
        ({"optimizer.rate": LOW_HIGH}, r"unknown key optimizer\.rate"),
        ({"optimiser": {"learning_rate": LOW_HIGH}}, r"unknown table \[optimiser\]; did you mean"),
        ({"learning_rate": LOW_HIGH}, "learning_rate: give table and key"),
        ({"optimizer.learning_rate": {"low": -1, "high": 1}}, "learning_rate = -1: must be more"),
        ({"optimizer.beta1": {"low": 0.5, "high": 1}}, r"beta1 = 1: must be .*less than 1"),
        ({"optimizer.learning_rate": {"low": 2, "high": 1}}, "low = 2 must be less than high = 1"),
        ({"optimizer.weight_decay": {"low": 0, "high": 1, "log": True}}, "needs low above 0"),
        ({"optimizer.learning_rate": {"low": 1}}, "learning_rate: a range has low, high"),
        ({"optimizer.beta1": {"low": 0.1, "high": 0.2, "lgo": True}}, "unknown key lgo"),
        ({"optimizer.learning_rate": {"low": "a", "high": 1}}, "low and high must be numbers"),
        ({"optimizer.learning_rate": 0.1}, "expected a list of choices or"),
        ({"optimizer.batch_size": {"low": 1.5, "high": 3}}, "batch_size = 1.5: expected an int"),
        ({"optimizer.batch_size": [2, "many"]}, r'batch_size = "many": expected an integer'),
        ({"model.hidden": {"low": 1, "high": 2}}, r"model\.hidden = 1: expected a list"),
        ({"model.hidden": [4, 8]}, r"model\.hidden = 4: expected a list of integers"),
        ({"model.hidden": []}, r"model\.hidden: lists no choice"),
        ({"model.hidden": [[4], [4]]}, r"model\.hidden: lists a choice twice"),
        ({"training.seed": [1, 2]}, r"training\.seed cannot be searched: .*same split"),
        ({"training.epochs": [1, 2]}, r"epochs cannot be searched: the budget"),
        ({"data.valid": [0.1, 0.2]}, r"data\.valid cannot be searched"),
        (
            {"model.descriptor": ["chebyshev", "bispectrum"], "model.radial_order": LOW_HIGH},
            r"model\.radial_order belongs to one descriptor",
        ),
    ],
)
def test_ranges_that_are_refused(ranges, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_ranges(ranges, default_config(), "s.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 3}, r"search\.budget = 3\.0 and search\.budget_epochs = 4: give one"),
        ({"budget_epochs": 0}, "give one of them"),
        ({"factor": 1}, r"search\.factor = 1: must be at least 2"),
        ({"trails": 1}, r"unknown key search\.trails; did you mean search\.trials"),
        ({"objective": "loss"}, r'search\.objective = "loss": expected one of "valid_loss"'),
        ({"objective": {"force": 1.0}}, r"search\.objective: force; give factors of energy_rmse"),
        ({"objective": {"force_rmse": 0}}, "all factors are 0"),
        ({"ranges": {"loss.energy_weight": LOW_HIGH}}, r"units that loss\.energy_weight changes"),
    ],
)
def test_settings_that_are_refused(tables, tmp_path, changes, message):
    tables["search"] |= changes
    with pytest.raises(ConfigError, match=message):
        search(tables, out=tmp_path / "out", log=silent)
    assert not (tmp_path / "out").exists()


def test_overrides_leave_the_tables_of_the_caller(tables, tmp_path):
    changes = ["search.trials=1", "search.budget_epochs=2", "model.hidden=[3]"]
    result = search(tables, out=tmp_path / "out", overrides=changes, log=silent)
    assert result.rounds == [Round(1, 2)]
    assert tables["search"]["trials"] == 5
    assert load_config(result.directory / "best.toml").optimizer.batch_size == 5
    with pytest.raises(ConfigError, match=r"--set: unknown key model\.hiden"):
        search(tables, out=tmp_path / "b", overrides=["model.hiden=[3]"], log=silent)


def test_no_search_with_ensembles(tables, tmp_path):
    tables["training"]["ensemble"] = 2
    with pytest.raises(ConfigError, match=r"training\.ensemble = 2: search with one network"):
        search(tables, out=tmp_path / "out", log=silent)


def test_nothing_to_search():
    with pytest.raises(ConfigError, match="give a configuration"):
        search()


def test_no_validation_data_no_search(tables, tmp_path):
    tables["data"]["valid"] = 0
    with pytest.raises(ConfigError, match="needs validation data"):
        search(tables, out=tmp_path / "out", log=silent)


# -- searches --------------------------------------------------------------------------------------


def test_a_search_and_its_files(tables, whole):
    result = whole(tables)
    directory = result.directory
    assert [(r.trials, r.budget) for r in result.rounds] == [(5, 1), (2, 2), (1, 4)]
    assert sorted(path.name for path in directory.iterdir()) == [
        "best.toml", "round-0", "round-1", "round-2", "search.csv", "search.json", "search.toml",
    ]  # fmt: skip
    assert [len(list((directory / f"round-{k}").iterdir())) for k in range(3)] == [5, 2, 1]
    assert [row["round"] for row in result.trials] == [2, 1, 0, 0, 0]
    assert [row["epochs"] for row in result.trials] == [4, 2, 1, 1, 1]
    for row in result.trials:
        history = directory / f"round-{row['round']}" / f"trial-{row['trial']:03}" / "history.csv"
        losses = [float(r["valid_loss"]) for r in csv.DictReader(history.read_text().splitlines())]
        assert row["objective"] == pytest.approx(min(losses), rel=1e-9)  # ten digits in the file
    # the two best of the first round went on
    state = json.loads((directory / "search.json").read_text())
    first = sorted((r for r in state["results"] if r["round"] == 0), key=lambda r: r["objective"])
    assert {r["trial"] for r in first[:2]} == {row["trial"] for row in result.trials[:2]}
    table = list(csv.DictReader((directory / "search.csv").read_text().splitlines()))
    assert [int(row["trial"]) for row in table] == [row["trial"] for row in result.trials]
    assert json.loads(table[0]["model.hidden"]) == result.trials[0]["values"]["model.hidden"]


def test_the_best_configuration_repeats_the_best_trial(tables, whole, tmp_path):
    result = whole(tables)
    config = load_config(result.best_config)
    assert config.training.epochs == 4
    assert config.optimizer.learning_rate == result.trials[0]["values"]["optimizer.learning_rate"]
    again = fdforce.fit(result.best_config, out=tmp_path / "again", log=silent)
    np.testing.assert_array_equal(again.model.theta, fdforce.load_model(result.best_model).theta)


def test_the_written_configuration_repeats_the_search(tables, whole, tmp_path):
    first = whole(tables)
    again = search(first.directory / "search.toml", out=tmp_path / "again", log=silent)
    assert without_times(again) == without_times(first)


class Stop(BaseException):
    """What no trial may swallow."""


@pytest.mark.parametrize(
    ("stopped", "where"),
    [(1, "before the record"), (4, "first epoch"), (6, "before the record"), (8, "first epoch")],
)
def test_stopped_at_any_trial_and_resumed(tables, whole, tmp_path, monkeypatch, stopped, where):
    runs = []

    def fit(*args, **options):
        runs.append(args)
        if len(runs) != stopped:
            return fdforce.fit(*args, **options)

        def stop(*_):
            raise Stop

        after_epoch = stop if where == "first epoch" else None
        fdforce.fit(*args, **{**options, "on_epoch": after_epoch})
        raise Stop

    monkeypatch.setattr(fdforce.trials, "fit", fit)
    with pytest.raises(Stop):
        search(tables, out=tmp_path / "out", log=silent)
    lines = []
    result = search(resume=tmp_path / "out", log=lines.append)
    assert len(runs) == 8 + 1  # all trials once, and the one that was stopped again
    assert without_times(result) == without_times(whole(tables))
    if stopped > 1:
        assert f"resumed: {stopped - 1} of 8 runs are done" in lines


def test_two_processes_terminated_and_resumed(tables, whole, tmp_path):
    expected, out = without_times(whole(tables)), tmp_path / "out"
    config = whole(tables).directory / "search.toml"
    command = [sys.executable, "-m", "fdforce", "search", config, "--out", out, "--processes", "2"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300
    while not (out / "search.json").exists() or not json.loads(
        (out / "search.json").read_text()
    )["results"]:  # fmt: skip
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    printed, complaint = process.communicate(timeout=60)  # ends once its processes have
    if process.returncode:  # else it was done already
        assert f"go on with --resume {out}" in printed
        assert complaint == "Error: the search was interrupted before its end\n"
    assert without_times(search(resume=out, log=silent)) == expected


def test_seconds_as_budget(tables, tmp_path):
    tables["search"] |= {"budget_epochs": 0, "budget": 0.5, "trials": 2}
    lines = []
    result = search(tables, out=tmp_path / "out", log=lines.append)
    assert "in all 0:01, and the time to compile" in lines
    config = load_config(result.best_config)
    assert (config.training.epochs, config.training.max_time) == (0, 0.5)
    best = load_config(tmp_path / "out/round-0/trial-001/config.toml")
    assert best.training.max_time == 0.25


# -- trials that fail ------------------------------------------------------------------------------


def test_failing_trials_end_nothing(tables, tmp_path):
    tables["search"] |= {"trials": 3}
    tables["search"]["ranges"] = {"optimizer.name": ["adam", "no such", "least_squares"]}
    lines = []
    result = search(tables, out=tmp_path / "out", log=lines.append)
    assert [bool(row["failure"]) for row in result.trials] == [False, True, True]
    best, *failed = result.trials
    assert best["values"] == {"optimizer.name": "adam"}
    assert best["round"] == 1
    reasons = {row["values"]["optimizer.name"]: row["failure"] for row in failed}
    assert "choose one of" in reasons["no such"]
    assert "solves linear models" in reasons["least_squares"]
    assert all(row["objective"] is None for row in failed)
    assert sum("failed: optimizer.name" in line for line in lines) == 2


def test_only_failing_trials(tables, tmp_path):
    tables["search"] |= {"trials": 2, "ranges": {"optimizer.learning_rate": [1e9, 1e10]}}
    with pytest.raises(TrainingError, match=r"every trial failed.*: epoch \d: the loss is"):
        search(tables, out=tmp_path / "out", log=silent)
    assert (tmp_path / "out" / "search.csv").read_text().count("the loss is") == 2


def test_an_objective_without_labels(tables, tmp_path):
    tables["search"] |= {"trials": 2, "objective": "stress_rmse"}
    with pytest.raises(TrainingError, match="the validation data have no stress"):
        search(tables, out=tmp_path / "out", log=silent)


def test_a_process_that_dies(tables, tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text("import os\ndef calculator():\n    os._exit(3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    tables.pop("search")
    tables["training"] |= {"epochs": 1}
    good = to_toml(config_from_dict(tables))
    tables["model"] |= {"baseline": "calculator", "baseline_calculator": "deadly:calculator"}
    bad = to_toml(config_from_dict(tables))
    jobs = [(text, tmp_path / str(k)) for k, text in enumerate((bad, good))]
    with WorkerProcesses("fdforce.trials:run_trial", 2) as workers:
        records = dict(run_trials(jobs, workers))
    assert records[1]["failure"] == ""
    assert records[1]["force_rmse"] > 0
    assert records[0]["failure"] == "its process ended (exit status 3)"
    assert records[0]["valid_loss"] is None


# -- directories and commands ----------------------------------------------------------------------


def test_directories_that_hold_something_else(tables, whole, tmp_path):
    done = whole(tables).directory
    with pytest.raises(ConfigError, match=r"already holds search\.json; .*--resume"):
        search(tables, out=done, log=silent)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file"):
        search(tables, out=tmp_path / "file", log=silent)
    with pytest.raises(CheckpointError, match="holds no search to resume"):
        search(resume=tmp_path, log=silent)
    (tmp_path / "search.json").write_text('{"format": "other"}')
    with pytest.raises(CheckpointError, match="no state of a search"):
        search(resume=tmp_path, log=silent)


def test_a_search_is_not_resumed_on_other_data(tables, tmp_path):
    copy = tmp_path / "data.extxyz"
    frames = ase.io.read(tables["data"]["train"][0], ":")
    ase.io.write(copy, frames)
    tables["data"]["train"] = [str(copy)]
    tables["search"] |= {"trials": 1, "budget_epochs": 1}
    search(tables, out=tmp_path / "out", log=silent)
    frames[0].positions[0, 0] += 1e-3
    ase.io.write(copy, frames)
    with pytest.raises(CheckpointError, match=r"belongs to other data than .*data\.extxyz"):
        search(resume=tmp_path / "out", log=silent)


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="fdforce")


def test_the_command(tables, whole, tmp_path):
    config = whole(tables).directory / "search.toml"
    out = tmp_path / "out"
    result = run("search", config, "--out", out, "--set", "search.trials=2")
    assert result.exit_code == 0, result.output
    assert "round 1  1/1  trial 00" in result.output
    assert f"next:\n  fdforce fit {out / 'best.toml'}" in result.output
    lines = result.output.splitlines()
    head = next(k for k, line in enumerate(lines) if line.startswith("rank"))
    assert lines[head].split()[:5] == ["rank", "trial", "rate", "hidden", "objective"]
    assert lines[head - 1].split() == ["learning", "energy", "force"]
    assert [line.split()[0] for line in lines[head + 1 : head + 3]] == ["1", "2"]
    result = run("search", "--resume", out, "--json")
    found = json.loads(result.stdout[result.stdout.index("{") :])
    assert [row["rank"] for row in found["trials"]] == [1, 2]
    assert found["rounds"] == [{"trials": 2, "budget": 2}, {"trials": 1, "budget": 4}]
    assert Path(found["best_model"]).exists()


def test_wrong_usage(tables, whole, tmp_path):
    assert run("search").exit_code == 2
    assert run("search", "a.toml", "--resume", tmp_path).exit_code == 2
    assert run("search", "--resume", tmp_path, "--out", "b").exit_code == 2
    result = run("fit", whole(tables).directory / "search.toml")
    assert result.exit_code == 1
    assert "[search] belongs to `fdforce search`" in result.output
    result = run("search", whole(tables).best_config)
    assert result.exit_code == 1
    assert "has no table [search]" in result.output

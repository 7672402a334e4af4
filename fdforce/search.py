"""Search for hyper-parameters by successive halving.

Many combinations of values are trained with a small budget; the best share 1/factor of them is
trained anew with a budget factor times as large, and so on until one is left. Jamieson and
Talwalkar, AISTATS 2016, arXiv:1502.07943; numbers and budgets of the rounds as in a bracket of
Hyperband (Li et al., J. Mach. Learn. Res. 18, 185 (2018), algorithm 1). Every trial of every round
starts from scratch, so that its learning-rate schedule is complete.
"""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from fdforce import archive
from fdforce.config import Config, override, to_toml
from fdforce.errors import CheckpointError, ConfigError, TrainingError
from fdforce.optimizers import with_numbers
from fdforce.problem import fingerprint, read_parts
from fdforce.search_ranges import draw_trials, with_values
from fdforce.search_settings import SearchConfig, read_search
from fdforce.threads import available_cores
from fdforce.trials import ERRORS, run_trials
from fdforce.worker_processes import WorkerProcesses

FORMAT = "fdforce search"
VERSION = 1


@dataclass(frozen=True)
class Round:
    """Number of trials, and the budget of each in seconds or epochs."""

    trials: int
    budget: float


@dataclass(frozen=True)
class SearchResult:
    """What `search` returns.

    Attributes
    ----------
    directory : Path
    rounds : list of Round
    trials : list of dict
        Best first: ``rank``, ``trial``, ``round`` (the last one it was in, from 0), ``values`` of
        the searched keys, ``objective``, the errors of `fdforce.trials.ERRORS` on the validation
        data (eV/atom, eV/Å, eV/Å³), ``epochs`` and ``seconds`` of its last run, ``failure``.
    best_config : Path
        A configuration for `fdforce.fit`.
    best_model : Path
        The model of the best trial.
    """

    directory: Path
    rounds: list[Round]
    trials: list[dict]
    best_config: Path
    best_model: Path


def plan_rounds(settings: SearchConfig) -> list[Round]:
    """Rounds of a search: ``floor(trials / factor**k)`` trials, ``budget / factor**(last - k)``."""
    numbers = [settings.trials]
    while numbers[-1] >= settings.factor and len(numbers) != settings.rounds:
        numbers.append(numbers[-1] // settings.factor)
    shares = [settings.factor ** (len(numbers) - 1 - k) for k in range(len(numbers))]
    if settings.budget_epochs:
        budgets = [max(round(settings.budget_epochs / share), 1) for share in shares]
    else:
        budgets = [settings.budget / share for share in shares]
    return [Round(*pair) for pair in zip(numbers, budgets, strict=True)]


def search(
    config=None,
    *,
    out=None,
    resume=None,
    processes: int = 1,
    overrides: Iterable[str] = (),
    log: Callable = print,
) -> SearchResult:
    """Search for the values of settings that give the least validation error.

    Parameters
    ----------
    config : path or dict
        A configuration with a table [search] (docs/search.md).
    out : path, optional
        Directory of the search; ``runs/search-NAME-DATE`` by default.
    resume : path, optional
        A directory to go on with; `config`, `out` and `overrides` must then be absent.
    processes : int
        Trials at a time. The cores are shared out among them unless training.threads says how many
        each takes.
    overrides : iterable of str
        ``"table.key=value"``, also of [search].
    log : callable
        Takes lines of text: the plan, and a line for each trial.

    Returns
    -------
    SearchResult

    Raises
    ------
    FdforceError
        Bad settings, ranges or data, before any work; a file that cannot be written; no trial that
        succeeds. A trial that fails is part of the result.
    KeyboardInterrupt
        Passed on; `resume` goes on from there.
    """
    if resume is not None:
        if config is not None or out is not None or overrides:
            raise ConfigError("resume takes configuration and directory from the search itself")
        directory = Path(resume)
        state = _read_state(directory)
        config = directory / "search.toml"
    elif config is None:
        raise ConfigError("give a configuration with a table [search], or a search to resume")
    base, settings, ranges, text = read_search(config, overrides)
    if base.training.ensemble > 1:
        raise ConfigError(
            f"training.ensemble = {base.training.ensemble}: search with one network, and train an "
            "ensemble with what is found"
        )
    if not base.data.valid:
        raise ConfigError("data.valid = 0: a search needs validation data; give a fraction or file")
    parts = read_parts(base, log)
    if parts.valid is None:
        raise ConfigError("one structure leaves none for validation, which a search needs")
    found = fingerprint(parts.train, parts.valid)
    if resume is None:
        own = replace(base, optimizer=with_numbers(base.optimizer))
        drawn = draw_trials(ranges, settings.trials, settings.seed, own)
        directory = _new_directory(out, base)
        state = {"fingerprint": found, "trials": drawn, "results": []}
    elif state["fingerprint"] != found:
        raise CheckpointError(
            f"{directory}: belongs to other data than {', '.join(base.data.train)} now hold; "
            "search anew with another --out"
        )
    archive.write_bytes(directory / "search.toml", text.encode())
    try:
        with WorkerProcesses("fdforce.trials:run_trial", processes) as workers:
            return _Search(base, settings, directory, state, workers, log).run()
    except KeyboardInterrupt:
        log(f"stopped; go on with --resume {directory}")
        raise


def _new_directory(out, config: Config) -> Path:
    if out is None:
        name = Path(config.data.train[0]).name.split(".")[0]
        out = Path("runs") / f"search-{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    out = Path(out)
    if out.is_file():
        raise ConfigError(f"{out}: is a file; name a directory for the search")
    held = [name for name in ("search.json", "round-0", "checkpoint.npz") if (out / name).exists()]
    if held:
        raise ConfigError(
            f"{out}: already holds {held[0]}; choose another --out"
            + (f", or go on with --resume {out}" if held[0] == "search.json" else "")
        )
    return out


def _read_state(directory: Path) -> dict:
    path = directory / "search.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        if state["format"] != FORMAT or state["version"] > VERSION:
            raise ValueError(f"{state['format']}, version {state['version']}")
        return {name: state[name] for name in ("fingerprint", "trials", "results")}
    except FileNotFoundError:
        raise CheckpointError(f"{directory}: holds no search to resume (no search.json)") from None
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise CheckpointError(f"{path}: no state of a search ({problem})") from problem


class _Search:
    """A search and the files that it writes."""

    def __init__(self, base, settings, directory, state, workers, log):
        self.base, self.settings, self.directory = base, settings, directory
        self.state, self.workers, self.log = state, workers, log
        self.rounds = plan_rounds(settings)

    def run(self) -> SearchResult:
        self._log_plan()
        self._write_state()
        chosen = list(range(len(self.state["trials"])))
        for k, this in enumerate(self.rounds):
            chosen = self._best(k - 1, this.trials) if k else chosen
            self._run_round(k, chosen)
        return self._result()

    def _run_round(self, k, chosen):
        done = {record["trial"] for record in self._results(k)}
        left = [trial for trial in chosen if trial not in done]
        jobs = [
            (to_toml(self._shared(self._configuration(k, trial))), self._folder(k, trial))
            for trial in left
        ]
        for number, outcome in run_trials(jobs, self.workers):
            record = {"round": k, "trial": left[number], **outcome}
            record["objective"] = self._objective(record)
            self.state["results"].append(record)
            self._write_state()
            self._log_trial(record, len(chosen))

    def _configuration(self, k, trial) -> Config:
        """What a trial is trained with in a round."""
        if self.settings.budget_epochs:
            budget = {"epochs": self.rounds[k].budget, "max_time": 0.0}
        else:
            budget = {"epochs": 0, "max_time": self.rounds[k].budget}
        config = override(self.base, {"training": budget})
        return with_values(config, self.state["trials"][trial])

    def _shared(self, config) -> Config:
        """With the share of the cores that one of several processes has."""
        if config.training.threads or self.workers.number == 1:
            return config
        threads = max(available_cores() // self.workers.number, 1)
        return override(config, {"training": {"threads": threads}})

    def _folder(self, k, trial) -> Path:
        return self.directory / f"round-{k}" / f"trial-{trial:03}"

    def _objective(self, record) -> float | None:
        """None for a trial that failed."""
        if record["failure"]:
            return None
        asked = self.settings.objective
        factors = asked if isinstance(asked, dict) else {asked: 1.0}
        missing = [name for name, factor in factors.items() if factor and record[name] is None]
        if missing:
            record["failure"] = f"the validation data have no {missing[0].split('_')[0]}"
            return None
        return sum(factor * record[name] for name, factor in factors.items() if factor)

    def _results(self, k) -> list[dict]:
        return [record for record in self.state["results"] if record["round"] == k]

    def _best(self, k, number) -> list[int]:
        """The best trials of a round, those that failed left out."""
        good = [record for record in self._results(k) if not record["failure"]]
        good.sort(key=lambda record: (record["objective"], record["trial"]))
        return sorted(record["trial"] for record in good[:number])

    # -- files -------------------------------------------------------------------------------------

    def _write_state(self):
        content = {"format": FORMAT, "version": VERSION, **self.state}
        archive.write_bytes(self.directory / "search.json", json.dumps(content, indent=1).encode())

    def _result(self) -> SearchResult:
        """Rank the trials, and write search.csv and best.toml."""
        last = {record["trial"]: record for record in self.state["results"]}
        order = sorted(
            last.values(),
            key=lambda r: (bool(r["failure"]), -r["round"], r["objective"] or 0.0, r["trial"]),
        )
        rows = [
            {"rank": rank, **record, "values": self.state["trials"][record["trial"]]}
            for rank, record in enumerate(order, start=1)
        ]
        archive.write_bytes(self.directory / "search.csv", _csv(rows).encode())
        best = order[0]
        if best["failure"]:
            raise TrainingError(
                f"every trial failed, the first of them because: {best['failure']}\n"
                f"all reasons are in {self.directory / 'search.csv'}"
            )
        text = to_toml(self._configuration(best["round"], best["trial"]))
        archive.write_bytes(self.directory / "best.toml", text.encode())
        model = self._folder(best["round"], best["trial"]) / "model.npz"
        return SearchResult(self.directory, self.rounds, rows, self.directory / "best.toml", model)

    # -- lines -------------------------------------------------------------------------------------

    def _log_plan(self):
        unit = "epochs" if self.settings.budget_epochs else "seconds"
        keys = ", ".join(key.split(".")[1] for key in self.state["trials"][0])
        self.log(f"minimises {_objective_text(self.settings.objective)} over {keys}")
        for k, this in enumerate(self.rounds):
            self.log(f"round {k}: trials {this.trials:4}, {unit} each {this.budget:.4g}")
        if self.settings.budget_epochs:
            self.log(f"in all {sum(r.trials * r.budget for r in self.rounds)} epochs")
        else:
            at_a_time = f", {self.workers.number} at a time" * (self.workers.number > 1)
            self.log(f"in all {_clock(self._left([]))}{at_a_time}, and the time to compile")
        if self.state["results"]:
            runs = sum(this.trials for this in self.rounds)
            self.log(f"resumed: {len(self.state['results'])} of {runs} runs are done")

    def _log_trial(self, record, number):
        k = record["round"]
        start = f"round {k}  {len(self._results(k)):{len(str(number))}}/{number}"
        end = f"trial {record['trial']:03}  "
        if record["failure"]:
            end += f"failed: {record['failure']}"
        else:
            end += f"objective {record['objective']:.4g}  {_errors(record)}"
            if self.settings.budget:
                end += f"  epochs {record['epochs']}"
        left = self._left(self.state["results"])
        self.log(f"{start}  {end}" + ("" if left is None else f"  {_clock(left)} left"))

    def _left(self, results) -> float | None:
        """Seconds that the rest of the search takes; None: not known yet."""
        pace = 1.0
        if self.settings.budget_epochs:
            good = [record for record in results if not record["failure"]]
            if not good:
                return None
            pace = statistics.median(r["seconds"] / r["epochs"] for r in good)
        left = 0.0
        for k, this in enumerate(self.rounds):
            trials = this.trials - sum(record["round"] == k for record in results)
            left += math.ceil(trials / self.workers.number) * this.budget * pace
        return left


def _objective_text(objective) -> str:
    if isinstance(objective, dict):
        return " + ".join(f"{factor:g} {name}" for name, factor in objective.items())
    return objective


def _errors(record) -> str:
    units = {"energy_rmse": "meV/atom", "force_rmse": "meV/Å"}
    return "  ".join(
        f"{name.split('_')[0]} {1e3 * record[name]:.4g} {unit}"
        for name, unit in units.items()
        if record[name] is not None
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _csv(rows) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    numbers = ("objective", *ERRORS, "epochs", "seconds", "failure")
    writer.writerow(["rank", "trial", "round", *rows[0]["values"], *numbers])
    for row in rows:
        values = [
            json.dumps(v) if isinstance(v, list | dict) else v for v in row["values"].values()
        ]
        writer.writerow(
            [row["rank"], row["trial"], row["round"], *values, *(row[name] for name in numbers)]
        )
    return text.getvalue()

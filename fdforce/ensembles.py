"""Ensembles: the same fit with other seeds, member after member or side by side.

A member is an ordinary run in ``OUT/member-K``, with checkpoint, history and model of its own, that
`fit` makes or resumes. Side by side, members are trained by worker processes: one that fails or is
killed leaves the others alone, and all stop with a checkpoint when the calling process ends.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from fdforce import archive
from fdforce.assessment import evaluate_run
from fdforce.cached_structures import kept_pairs
from fdforce.checkpoint import load_checkpoint, save_checkpoint
from fdforce.config import Config, load_config, to_toml
from fdforce.data_set import training_skin
from fdforce.errors import CheckpointError, ConfigError, DataError, FdforceError, TrainingError
from fdforce.fitting import FitResult, fit, never_began
from fdforce.model_file import load_model, save_model
from fdforce.models import Ensemble
from fdforce.problem import fingerprint, new_model, read_parts, summary
from fdforce.provenance import Session
from fdforce.threads import limit_threads
from fdforce.training import COLUMNS
from fdforce.worker_processes import WorkerProcesses, one_line

ENDS = ("epochs", "max_time", "patience")
"""Keys of [training] that say when a member is finished."""
LINE_SECONDS = 10.0
"""Between lines on the epochs of a member that is trained beside others."""


def fit_ensemble(
    config: Config, directory: Path, checkpoint=None, *, processes=1, log=print, on_epoch=None,
    progress=None, started=None,
) -> FitResult:  # fmt: skip
    """Train the members that are not finished, and put all of them into one model.

    Parameters
    ----------
    config : Config
        With ``training.ensemble`` members.
    directory : Path
        Of the run; members have ``member-0``, ``member-1`` … in it.
    checkpoint : tuple, optional
        That of the ensemble, where it is resumed.
    processes : int
        Members trained at a time.
    log, on_epoch, progress : callable
        As in `fit`; the latter two of the member in training, where members come one by one, its
        number in the row of `on_epoch` as ``member``.
    started : float
        ``time.monotonic()`` at which the time budget began.

    Returns
    -------
    FitResult
        Its history has a column ``member``; ``train`` in its metrics is all that members divide
        into training and validation.

    Raises
    ------
    TrainingError
        Members failed; the others are finished, and the run can be resumed.
    FdforceError
        As `fit`.
    """
    run = _EnsembleRun(config, directory, processes, log, started)
    run.begin(checkpoint)
    try:
        if processes > 1:
            failed = run.train_side_by_side()
        else:
            failed = run.train_in_turn(on_epoch, progress)
    except KeyboardInterrupt:
        run.log(f"stopped; go on with --resume {directory}")
        run.end("interrupted")
        raise
    if failed:
        run.end("failed")
        raise TrainingError(
            f"{len(failed)} of {config.training.ensemble} members failed: "
            + "; ".join(f"{number}: {reason}" for number, reason in failed.items())
            + f"\nthe others are finished; go on with --resume {directory}"
        )
    return run.gather()


class _EnsembleRun:
    """An ensemble in its run directory."""

    def __init__(self, config, directory, processes, log, started):
        self.config, self.directory = config, directory
        self.processes = min(max(processes, 1), config.training.ensemble)
        self.log_line = log
        self.parts = read_parts(_undivided(config), log)
        log(summary(self.parts))
        new_model(config, self.parts.train.elements)  # settings of the model are checked first
        self.fingerprint = fingerprint(*self.parts.by_name().values())
        self.began = time.monotonic() if started is None else started
        self.used = 0.0
        self.waiting = []

    def log(self, line):
        """Show a line and keep it."""
        self.log_line(line)
        archive.append_text(self.directory / "log.txt", f"{line}\n")

    def begin(self, checkpoint) -> None:
        """Write what a resumed run needs, and find the members that are not finished."""
        numbers = range(self.config.training.ensemble)
        homes = [member_directory(self.directory, number) for number in numbers]
        if checkpoint is not None:
            if checkpoint[0].get("fingerprint") != self.fingerprint:
                raise CheckpointError(
                    f"{self.directory / 'checkpoint.npz'}: belongs to other data than "
                    f"{', '.join(self.config.data.train)} now hold; train anew with another --out"
                )
            before = load_config(self.directory / "config.toml").training
            if any(getattr(before, key) != getattr(self.config.training, key) for key in ENDS):
                for home in homes:
                    (home / "metrics.json").unlink(missing_ok=True)
        archive.write_bytes(self.directory / "config.toml", to_toml(self.config).encode())
        save_checkpoint(
            self.directory / "checkpoint.npz",
            {"members": len(homes), "fingerprint": self.fingerprint}, {},
        )  # fmt: skip
        resumed = checkpoint is not None
        with limit_threads(self.config.training.threads) as threads:
            self.session = Session(self.directory, threads, resumed=resumed)
        self.session.write(members=len(homes), processes=self.processes)
        if resumed:
            self.used = sum(_elapsed(home) for home in homes) / self.processes
        self.waiting = [
            number for number, home in enumerate(homes)
            if not resumed or not (home / "metrics.json").is_file()
        ]  # fmt: skip
        done = len(homes) - len(self.waiting)
        self.log(f"ensemble of {len(homes)} members{f', {done} of them finished' if done else ''}")

    def next_member(self) -> tuple[int, float]:
        """The next member, and its time budget (s, 0: none).

        What is left of the budget is divided evenly between the rounds of members still to come.
        """
        budget, share = self.config.training.max_time, 0.0
        if budget:
            left = budget - self.used - (time.monotonic() - self.began)
            share = max(left / math.ceil(len(self.waiting) / self.processes), 1e-3)
            share += _elapsed(member_directory(self.directory, self.waiting[0]))
        return self.waiting.pop(0), share

    def train_in_turn(self, on_epoch, progress) -> dict:
        """Train the members one by one in this process; numbers and reasons of failures."""
        failed, settings = {}, self.config.training

        def after_epoch(of_member, row):
            if on_epoch is not None:
                on_epoch(of_member, {"member": number, **row})

        while self.waiting:
            number, max_time = self.next_member()
            self.log(f"member {number}: seed {settings.seed + number}")
            try:
                train_member(
                    self.directory, self.config, number, threads=settings.threads,
                    max_time=max_time, log=self.log_line, on_epoch=after_epoch, progress=progress,
                )  # fmt: skip
            except (ConfigError, DataError):
                raise  # no other member would fare better
            except FdforceError as problem:
                failed[number] = one_line(problem)
                self.log(f"member {number} failed: {failed[number]}")
        return failed

    def train_side_by_side(self) -> dict:
        """Train the members by processes of their own; numbers and reasons of failures."""
        with limit_threads(self.config.training.threads) as threads:
            threads = max(threads // self.processes, 1)
        numbers, failed = [], {}

        def jobs():
            while self.waiting:
                number, max_time = self.next_member()
                self.log(f"member {number}: seed {self.config.training.seed + number}")
                numbers.append(number)
                yield self.directory, number, threads, max_time

        def log(job, line):
            self.log_line(f"member {numbers[job]}: {line}")

        with WorkerProcesses("fdforce.ensembles:train_member_by_worker", self.processes) as workers:
            for job, _, failure in workers.run(jobs(), log):
                if failure:
                    failed[numbers[job]] = failure
                    self.log(f"member {numbers[job]} failed: {failure}")
        return failed

    def gather(self) -> FitResult:
        """The ensemble of the best models of all members, its files and its errors."""
        config, directory = self.config, self.directory
        numbers = range(config.training.ensemble)
        homes = [member_directory(directory, number) for number in numbers]
        ensemble = Ensemble.of([load_model(home / "model.npz") for home in homes])
        checkpoints = [load_checkpoint(home / "checkpoint.npz") for home in homes]
        states = [header["progress"] for header, _ in checkpoints]
        save_model(
            directory / "model.npz", ensemble,
            seeds=[config.training.seed + number for number in numbers],
            epochs=[state["best_epoch"] for state in states],
            epsilon=states[-1]["epsilon"], stencil=config.finite_difference.stencil,
            train=[Path(name).name for name in config.data.train],
            n_train=len(self.parts.train), energy_weight=config.loss.energy_weight,
            force_weight=config.loss.force_weight, stress_weight=config.loss.stress_weight,
        )  # fmt: skip
        parts = self.parts.by_name()
        with limit_threads(config.training.threads) as threads:
            pairs = kept_pairs(
                parts, ensemble.cutoff, skin=training_skin(config.finite_difference),
                threads=threads, log=self.log,
            )  # fmt: skip
        metrics = evaluate_run(
            directory, ensemble, parts, pairs=pairs, threads=config.training.threads,
            log=self.log, device=config.training.device,
        )  # fmt: skip
        self._write_history(homes)
        rows = np.concatenate([
            np.insert(arrays["rows"].reshape(-1, len(COLUMNS)), 0, number, axis=1)
            for number, (_, arrays) in enumerate(checkpoints)
        ])  # fmt: skip
        history = dict(zip(("member", *COLUMNS), rows.T, strict=True))
        self.log(
            f"{len(homes)} members of {', '.join(str(state['epoch']) for state in states)} epochs"
        )
        self.end("finished")
        return FitResult(ensemble, metrics, directory, history, states[-1]["epsilon"])

    def end(self, outcome) -> None:
        """Write when and how the session ended."""
        self.session.finish(outcome, self.used + time.monotonic() - self.began)

    def _write_history(self, homes):
        lines = []
        for number, home in enumerate(homes):
            title, *rows = (home / "history.csv").read_text().splitlines()
            lines += [f"member,{title}"] if not number else []
            lines += [f"{number},{row}" for row in rows]
        text = "".join(f"{line}\r\n" for line in lines)
        archive.write_bytes(self.directory / "history.csv", text.encode())


def member_directory(directory, number: int) -> Path:
    """The run directory of a member."""
    return Path(directory) / f"member-{number}"


def member_config(config: Config, number: int, **changes) -> Config:
    """The configuration of a member's run, with changes of [training]."""
    training = replace(
        config.training, member=number, seed=config.training.seed + number, **changes
    )
    return replace(config, training=training)


def train_member(
    directory: Path, config: Config, number: int, *, threads, max_time, **callbacks
) -> FitResult:
    """Train one member, or go on with it.

    Parameters
    ----------
    directory : Path
        Of the ensemble.
    config : Config
        Of the ensemble.
    number : int
    threads : int
    max_time : float, s
        Budget of the member, its earlier runs included; 0 for none.
    **callbacks
        `log`, `on_epoch` and `progress` of `fit`.

    Returns
    -------
    FitResult
    """
    home = member_directory(directory, number)
    if not (home / "checkpoint.npz").exists() or never_began(home):
        config = member_config(config, number, threads=threads, max_time=max_time)
        return fit(config, out=home, **callbacks)
    (home / "metrics.json").unlink(missing_ok=True)  # it says that a member is finished
    kept = {
        key: getattr(config.training, key) for key in ("epochs", "patience", "checkpoint_every")
    }
    return fit(resume=home, threads=threads, max_time=max_time, **kept, **callbacks)


def train_member_by_worker(directory: str, number: int, threads: int, max_time: float) -> None:
    """`train_member`, with the configuration of the directory; prints lines on its epochs."""
    shown = time.monotonic()

    def log(line):
        with contextlib.suppress(OSError):  # nobody listens any more; the checkpoint matters
            print(line, flush=True)

    def on_epoch(progress, row):
        nonlocal shown
        if time.monotonic() - shown > LINE_SECONDS:
            shown = time.monotonic()
            loss = row["valid_loss"] if "valid_loss" in row else row["train_loss"]
            log(f"epoch {progress.epoch}, loss {loss:.3g}")

    train_member(
        Path(directory), load_config(Path(directory) / "config.toml"), number,
        threads=threads, max_time=max_time, log=log, on_epoch=on_epoch,
    )  # fmt: skip


def _undivided(config: Config) -> Config:
    """The configuration without a fraction for validation, which every member takes by itself."""
    if not isinstance(config.data.valid, float):
        return config
    return replace(config, data=replace(config.data, valid=0.0))


def _elapsed(home: Path) -> float:
    try:
        return load_checkpoint(home / "checkpoint.npz")[0]["progress"]["elapsed"]
    except CheckpointError:
        return 0.0

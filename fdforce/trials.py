"""Trials of a search: fits whose end, good or bad, is a record; here or in other processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import tempfile
import tomllib
import warnings
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np

from fdforce.config import Config, config_from_dict, override
from fdforce.errors import CheckpointError, ConfigError, FdforceError
from fdforce.fitting import fit

ERRORS = ("energy_rmse", "force_rmse", "stress_rmse")

_compiled: set = set()


def run_trial(text: str, directory, on_epoch=None) -> dict:
    """Fit, or go on with a fit that was stopped.

    Parameters
    ----------
    text : str
        The configuration as TOML.
    directory : path
        Of the run. With a checkpoint in it, the run goes on from there.
    on_epoch : callable, optional
        Of `fdforce.fit`.

    Returns
    -------
    dict
        ``valid_loss`` and the errors of `ERRORS` (validation data, best epoch; None where there is
        none), ``epochs``, ``seconds``, and ``failure``, why there are no such numbers, or "".
    """
    config, directory = config_from_dict(tomllib.loads(text)), Path(directory)
    try:
        if config.training.max_time:
            _compile(config)
        result = _fit(config, directory, on_epoch)
    except FdforceError as problem:
        return _failed(str(problem))
    except Exception as problem:  # whatever a combination of settings leads to
        return _failed(f"{type(problem).__name__}: {problem}")
    losses = result.history["valid_loss"]
    if not np.isfinite(losses).any():
        return _failed("the validation loss is not finite")
    errors = result.metrics["valid"]
    return {
        "valid_loss": float(np.nanmin(losses)),
        **{name: errors[name] for name in ERRORS},
        "epochs": len(result.history["epoch"]),
        "seconds": float(result.history["elapsed"][-1]),
        "failure": "",
    }


def _failed(reason: str) -> dict:
    numbers = dict.fromkeys(("valid_loss", *ERRORS, "epochs", "seconds"))
    return {**numbers, "failure": " ".join(reason.split())}


def _silent(line: str) -> None:
    pass


def _fit(config, directory, on_epoch):
    if (directory / "checkpoint.npz").exists():
        with contextlib.suppress(CheckpointError):
            return fit(resume=directory, log=_silent, on_epoch=on_epoch)
    if directory.exists():  # killed before its first checkpoint, or damaged
        shutil.rmtree(directory)
    return fit(config, out=directory, log=_silent, on_epoch=on_epoch)


def _compile(config: Config) -> None:
    """Let Numba compile what a fit needs, so that a budget in seconds pays for training alone."""
    model = config.model
    kernels = (
        model.kind, model.descriptor, model.quadratic, model.baseline, config.optimizer.name,
        config.training.precision, config.finite_difference.stencil,
    )  # fmt: skip
    if kernels in _compiled:
        return
    _compiled.add(kernels)
    one_batch = override(config, {"training": {"epochs": 1, "max_time": 1e-3}})
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(FdforceError):
        fit(one_batch, out=Path(folder) / "run", log=_silent)


class Processes:
    """Runs trials, in this process or in several others, each of which takes one after the other.

    Parameters
    ----------
    number : int
        1: in this process.
    """

    def __init__(self, number: int):
        if number < 1:
            raise ConfigError(f"processes = {number}: at least one")
        self.number = number
        self._idle: list = []
        self._busy: dict = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_) -> None:
        """Stop the processes; their trials keep a checkpoint."""
        for process, _ in (*self._idle, *(worker for worker, _ in self._busy.values())):
            process.terminate()
            process.join()

    def run(self, jobs: list[tuple]) -> Iterator[tuple[int, dict]]:
        """Yield position in `jobs` and record of each trial when it has ended.

        Parameters
        ----------
        jobs : list of tuple
            Arguments of `run_trial`.
        """
        if self.number == 1:
            yield from ((k, run_trial(*job)) for k, job in enumerate(jobs))
            return
        waiting = deque(enumerate(jobs))
        while waiting or self._busy:
            while waiting and len(self._busy) < self.number:
                self._start(*waiting.popleft())
            for pipe in wait(list(self._busy)):
                yield self._finish(pipe)

    def _start(self, k, job):
        if self._idle:
            process, pipe = self._idle.pop()
        else:
            context = multiprocessing.get_context("spawn")
            pipe, other = context.Pipe()
            process = context.Process(target=_work, args=(other, os.getpid()), daemon=True)
            process.start()
            other.close()
        pipe.send(job)
        self._busy[pipe] = ((process, pipe), k)

    def _finish(self, pipe):
        (process, _), k = self._busy.pop(pipe)
        try:
            record = pipe.recv()
        except (EOFError, OSError):
            process.join()
            return k, _failed(f"its process ended (exit status {process.exitcode})")
        self._idle.append((process, pipe))
        return k, record


def _work(pipe, parent: int) -> None:
    """Run trials that come through a pipe, until it is closed or SIGTERM.

    Ctrl-C reaches every process of a terminal: the parent answers it, with a SIGTERM to each.
    """

    def interrupt(*_):
        raise KeyboardInterrupt

    def stop_with_parent(*_):
        if os.getppid() != parent:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, interrupt)
    warnings.simplefilter("ignore")
    with contextlib.suppress(KeyboardInterrupt, EOFError, BrokenPipeError):
        while True:
            pipe.send(run_trial(*pipe.recv(), stop_with_parent))

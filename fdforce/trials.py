"""Trials of a search: fits whose end, good or bad, is a record; here or by other processes."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fdforce.config import Config, config_from_dict, override
from fdforce.errors import CheckpointError, FdforceError
from fdforce.fitting import fit
from fdforce.worker_processes import WorkerProcesses

ERRORS = ("energy_rmse", "force_rmse", "stress_rmse")

_compiled: set = set()


def run_trial(text: str, directory) -> dict:
    """Fit, or go on with a fit that was stopped.

    Parameters
    ----------
    text : str
        The configuration as TOML.
    directory : path
        Of the run. With a checkpoint in it, the run goes on from there.

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
        result = _fit(config, directory)
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


def run_trials(jobs: list[tuple], workers: WorkerProcesses) -> Iterator[tuple[int, dict]]:
    """Yield position in `jobs` and record of each trial when it has ended.

    Parameters
    ----------
    jobs : list of tuple
        Arguments of `run_trial`.
    workers : WorkerProcesses
        Of `run_trial`. If it is one, trials run in this process.
    """
    if workers.number == 1:
        yield from ((k, run_trial(*job)) for k, job in enumerate(jobs))
        return
    for k, record, failure in workers.run(jobs):
        yield k, _failed(failure) if failure else record


def _failed(reason: str) -> dict:
    numbers = dict.fromkeys(("valid_loss", *ERRORS, "epochs", "seconds"))
    return {**numbers, "failure": " ".join(reason.split())}


def _silent(line: str) -> None:
    pass


def _fit(config, directory):
    if (directory / "checkpoint.npz").exists():
        with contextlib.suppress(CheckpointError):
            return fit(resume=directory, log=_silent)
    if directory.exists():  # killed before its first checkpoint, or damaged
        shutil.rmtree(directory)
    return fit(config, out=directory, log=_silent)


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

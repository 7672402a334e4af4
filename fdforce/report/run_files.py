"""What the directory of a run holds, as far as it got."""

from __future__ import annotations

import csv
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fdforce.comparison import Comparison, read_predictions
from fdforce.epsilon_scans import read_scans
from fdforce.errors import FdforceError
from fdforce.provenance import read_sessions
from fdforce.training import COLUMNS


@dataclass(frozen=True)
class RunFiles:
    """Contents of a run directory; what is absent or damaged is empty.

    Attributes
    ----------
    directory : Path
    histories : list of dict of str to ndarray
        Columns of history.csv, one value per epoch; of an ensemble, those of every member.
    metrics : dict
    predictions : dict of str to Comparison
    scans, sessions : list of dict
        epsilon_scans.json and provenance.json.
    config, log : str
    settings : dict
        Tables of config.toml.
    """

    directory: Path
    histories: list[dict[str, np.ndarray]]
    metrics: dict
    predictions: dict[str, Comparison]
    scans: list[dict]
    sessions: list[dict]
    config: str
    log: str
    settings: dict

    @property
    def n_epochs(self) -> list[int]:
        """Epochs that are complete, of every member."""
        return [len(history["epoch"]) for history in self.histories]

    @property
    def n_members(self) -> int:
        """Of an ensemble; 1 for an ordinary run, which the run of a member is."""
        training = self.settings.get("training", {})
        return training.get("ensemble", 1) if training.get("member", -1) < 0 else 1

    @property
    def finished(self) -> bool:
        """Whether the last session came to its end, so that the predictions are its own."""
        ended = bool(self.sessions) and self.sessions[-1].get("outcome") == "finished"
        return ended and bool(self.predictions)


def read_run(directory) -> RunFiles:
    """Read a run directory.

    Raises
    ------
    FdforceError
        There is no such directory, or it holds no run.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FdforceError(f"{directory}: no such directory; give the folder of a run")
    config = _text(directory / "config.toml")
    if not config and not (directory / "history.csv").is_file():
        raise FdforceError(f"{directory}: holds no run (neither config.toml nor history.csv)")
    try:
        predictions = read_predictions(directory / "predictions.npz")
    except FdforceError:
        predictions = {}
    try:
        settings = tomllib.loads(config)
    except ValueError:
        settings = {}
    return RunFiles(
        directory=directory,
        histories=_histories(directory),
        metrics=_metrics(_text(directory / "metrics.json")),
        predictions=predictions,
        scans=read_scans(directory),
        sessions=read_sessions(directory),
        config=config,
        log=_text(directory / "log.txt"),
        settings=settings,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _metrics(text) -> dict:
    try:
        metrics = json.loads(text)
        return {part: dict(errors) for part, errors in metrics.items()}
    except (ValueError, AttributeError, TypeError):
        return {}


def _histories(directory) -> list[dict]:
    """Those of members from their own folders: the run of all writes its history when it ends."""
    members = [path for path in directory.glob("member-*/history.csv") if _number(path) >= 0]
    if members:
        return [_columns(_rows(_text(path))) for path in sorted(members, key=_number)]
    rows = _rows(_text(directory / "history.csv"))
    numbers = dict.fromkeys(member for member, _ in rows) or [None]
    return [_columns(row for row in rows if row[0] == number) for number in numbers]


def _number(path) -> int:
    digits = path.parent.name.removeprefix("member-")
    return int(digits) if digits.isdecimal() else -1


def _rows(text) -> list:
    """(member, values) of every line; a last one that is being written, or cut off, is left out."""
    rows = []
    for row in csv.DictReader(text.rpartition("\n")[0].splitlines()):
        try:
            values = [float(row[name] or "nan") for name in COLUMNS]
        except (KeyError, TypeError, ValueError):
            continue
        if np.isfinite(values[0]):
            rows.append((row.get("member"), values))
    return rows


def _columns(rows) -> dict:
    table = np.array([values for _, values in rows]).reshape(-1, len(COLUMNS))
    return dict(zip(COLUMNS, table.T, strict=True))

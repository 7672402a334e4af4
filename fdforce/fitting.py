"""`fit`: from files to a trained model in a run directory."""

from __future__ import annotations

import copy
import csv
import difflib
import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fdforce import archive
from fdforce.assessment import evaluate_run
from fdforce.cached_structures import kept_pairs, list_pairs
from fdforce.checkpoint import load_checkpoint, save_checkpoint
from fdforce.computation import check_device
from fdforce.config import (
    Config,
    absolute_paths,
    config_from_dict,
    default_config,
    descriptor_of,
    keys_of,
    known_keys,
    load_config,
    model_config,
    override,
    read_toml,
    to_toml,
)
from fdforce.data_set import DataSet, less_offsets, residual_target, training_skin
from fdforce.direct_fit import DirectFit
from fdforce.epsilon_scans import read_scans, write_scans
from fdforce.errors import CheckpointError, ConfigError, TrainingError
from fdforce.evaluation import batches_of
from fdforce.full_batch import FullBatchTrainer
from fdforce.kalman import KalmanTrainer
from fdforce.model_file import damaged, make_model, model_contents, save_model
from fdforce.optimizers import with_numbers
from fdforce.pretraining import pretrained
from fdforce.problem import (
    add_baseline,
    fingerprint,
    loss_of,
    moderate,
    new_model,
    output_scale,
    read_parts,
    summary,
    weigh_groups,
    without_offsets,
)
from fdforce.provenance import Session
from fdforce.reference_energies import fit_by_composition, reference_energies
from fdforce.selection import ForceDraw
from fdforce.threads import limit_threads
from fdforce.training import COLUMNS, Progress, Trainer
from fdforce.training_directory import with_training_directory
from fdforce.transfer import (
    begin_unseen_elements,
    set_on_purpose,
    shifted_references,
    start_model,
    with_model_of_start,
)

RESUMABLE = (
    "training.epochs", "training.max_time", "training.patience", "training.threads",
    "training.checkpoint_every", "data.cache",
)  # fmt: skip
"""Keys that a resumed run may change."""


FEW_ATOMS = 1000
"""Of a batch: below, launching a step is expected to take longer than computing it."""

TRAINERS = {"kalman": KalmanTrainer, "lbfgs": FullBatchTrainer, "least_squares": DirectFit}
"""optimizer.name -> class, for methods that take more than one gradient per batch."""


def trainer_for(config: Config) -> type[Trainer]:
    """The class that takes the steps a configuration asks for."""
    if config.training.device == "cuda":
        from fdforce.cuda.training import DeviceTrainer, steps_there

        if steps_there(config):
            return DeviceTrainer
    return TRAINERS.get(config.optimizer.name, Trainer)


@dataclass(frozen=True)
class FitResult:
    """What `fit` returns.

    Attributes
    ----------
    model : EnergyModel
        The best one (least validation loss); an `Ensemble` of the best of every member.
    metrics : dict
        ``{"train": {...}, "valid": {...}, "test": {...}}``, keys of `fdforce.evaluation.errors`.
    directory : Path
        The run directory (docs/tutorial.md).
    history : dict of str to ndarray
        Columns of history.csv.
    epsilon : float
        Last used.
    """

    model: object
    metrics: dict
    directory: Path
    history: dict
    epsilon: float


def fit(
    config=None,
    *,
    out=None,
    resume=None,
    log: Callable = print,
    on_epoch: Callable | None = None,
    progress: Callable | None = None,
    processes: int = 1,
    **settings,
) -> FitResult:
    """Train a potential.

    The report of the run is drawn on request: ``fdforce.report.write_report(result.directory)``.

    Parameters
    ----------
    config : path, dict or Config, optional
        TOML file or its contents; defaults otherwise.
    out : path, optional
        Run directory; ``runs/NAME-DATE`` by default.
    resume : path, optional
        A run directory to go on with; `config` and `out` must then be absent.
    log : callable
        Takes lines of text.
    on_epoch : callable, optional
        ``on_epoch(progress, row)`` after every epoch.
    progress : callable, optional
        Wraps the iterator over structures while pairs are listed: ``progress(iterator, total)``.
    processes : int
        Members of an ensemble (``training.ensemble``) trained at a time, each by a process of its
        own with its share of the threads; `on_epoch` and `progress` are not called then.
    **settings
        Overrides: keys of the configuration (``train=[...]``, ``epochs=100``) or whole tables
        (``optimizer={"learning_rate": 1e-3}``). ``train`` may be a training directory of another
        program, and ``units`` says its units (`fdforce.training_directory`).

    Returns
    -------
    FitResult

    Raises
    ------
    FdforceError
        Bad settings, data, checkpoints or a loss that explodes; one or two lines that say what,
        where and what to do.
    KeyboardInterrupt
        Passed on after a checkpoint of the last whole epoch is written.

    Examples
    --------
    >>> result = fdforce.fit(train="water.extxyz", epochs=200, hidden=[20, 20])  # doctest: +SKIP
    >>> result.metrics["valid"]["force_rmse"]  # doctest: +SKIP
    """
    started = time.monotonic()
    if resume is not None:
        if config is not None or out is not None:
            raise ConfigError("resume takes configuration and directory from the run itself")
        directory = Path(resume)
        config = configure_resumed(directory, settings)
        checkpoint = load_checkpoint(directory / "checkpoint.npz")
    else:
        config, settings, notes = with_training_directory(config, settings)
        for note in notes:
            log(note)
        config = configure(config, settings)
        directory, checkpoint = new_directory(out, config), None
    check_device(config)
    if config.finite_difference.stencil == "complex" and config.training.precision != "float64":
        raise ConfigError(
            "finite_difference.stencil = 'complex' needs training.precision = 'float64'"
        )
    if config.training.ensemble > 1 and config.training.member < 0:
        from fdforce.ensembles import fit_ensemble

        return fit_ensemble(
            config, directory, checkpoint, processes=processes, log=log,
            on_epoch=on_epoch, progress=progress, started=started,
        )  # fmt: skip
    if processes > 1:
        raise ConfigError(
            f"processes = {processes}: they train the members of an ensemble; set "
            "training.ensemble to their number, or leave processes out"
        )
    with limit_threads(config.training.threads) as threads:
        run = _Run(config, directory, checkpoint, threads, log, progress, started)
        return run.train(on_epoch)


class _Run:
    """Set-up of a fit and the files it writes."""

    def __init__(self, config, directory, checkpoint, threads, log, progress, started):
        self.directory, self.threads = directory, threads
        self._log, self._events = log, []
        self.parts = read_parts(config, self.log)
        train = self.parts.train
        config = replace(config, optimizer=with_numbers(config.optimizer, train))
        self.config = config
        self.log(summary(self.parts))
        self.fingerprint = fingerprint(train, self.parts.valid)
        if checkpoint is not None and checkpoint[0].get("fingerprint") != self.fingerprint:
            raise CheckpointError(
                f"{directory / 'checkpoint.npz'}: belongs to other data than "
                f"{', '.join(config.data.train)} now hold; train anew with another --out"
            )
        self.model = self._model(train, checkpoint)
        pairs = self._pairs(train, progress)
        self.pairs = {"train": pairs}
        common, common_pairs = train, pairs
        if checkpoint is None:
            if self.parts.common is not None:
                common = self.parts.common
                common_pairs = self._pairs(common, progress)
            self._prepare_model(common, common_pairs)
        train_set = common_set = self._less_baseline(train, pairs)
        self.reference_energies = self.model.reference_energies
        if checkpoint is None:
            if common is not train:
                common_set = self._less_baseline(common, common_pairs)
            self._take_off_constants(common_set)
        train_set = self._less_references(train_set)
        target = weigh_groups(train_set.target, train, config.loss.group_weights)
        train_set = replace(train_set, target=target)
        chosen = ForceDraw(train_set, config)(0)
        valid, valid_set = self.parts.valid, None
        if valid is not None:
            self.pairs["valid"] = self._pairs(valid, progress)
            valid_set = self._less_references(self._less_baseline(valid, self.pairs["valid"]))
        bare = without_offsets(self.model)
        if checkpoint is None and not config.training.start_from:
            bare.scale = self.model.scale = output_scale(
                chosen if common is train else self._less_references(common_set)
            )
            moderate(bare, chosen, config)
            self.model.theta = bare.theta.copy()
        trainer = trainer_for(config)
        self._mind_small_batches(config, train_set.structures)
        if checkpoint is None and config.training.pretraining:
            self.model.theta = bare.theta = pretrained(
                trainer, bare, train_set, config, threads=threads, log=self.log
            )
        self.trainer = trainer(
            bare, train_set, valid_set, loss_of(config, chosen), config,
            threads=threads, log=self.log, started=started,
        )  # fmt: skip
        if checkpoint is not None:
            self._resume(checkpoint)

    def _mind_small_batches(self, config, structures):
        batch_size = config.optimizer.batch_size
        atoms = batch_size * structures.n_atoms / len(structures)
        if config.training.device == "cuda" and atoms < FEW_ATOMS and batch_size < len(structures):
            self.log(
                f"batches of {atoms:.0f} atoms are small for a GPU: it would rather have a larger "
                'optimizer.batch_size and optimizer.name = "adamw" (docs/gpu.md)'
            )

    def log(self, line: str) -> None:
        """Show a line, and keep it for log.txt once the run directory exists."""
        self._log(line)
        self._events.append(line)

    def _pairs(self, structures, progress):
        options = self._listing()
        return list_pairs(structures, self.model.cutoff, progress=progress, **options)

    def _listing(self) -> dict:
        skin = training_skin(self.config.finite_difference)
        return {"skin": skin, "threads": self.threads, "log": self.log}

    def _less_baseline(self, structures, pairs):
        target = residual_target(structures, None, self.model.baseline, pairs)
        return DataSet(structures, target, pairs)

    def _less_references(self, data):
        offsets = self.model.reference_energies
        return replace(data, target=less_offsets(data.target, data.structures, offsets))

    def _take_off_constants(self, data):
        """Let `model.reference_energies` explain all that a constant per element can.

        Given ones leave the cohesive energy, which would outweigh what there is to learn and which
        weight decay would pull at. A new model begins with this constant; one that the fit starts
        from has learnt its own, and predicts what it did. The model files have it in the constants
        of the outputs beside `self.reference_energies`, those that were asked for (`best_model`).

        Parameters
        ----------
        data : DataSet
            With labels less the baseline.
        """
        compositions = data.structures.compositions
        constants = fit_by_composition(compositions, self._less_references(data).target.energy)
        occurs = compositions.any(axis=0)
        offsets = self.reference_energies + np.where(occurs, constants, 0.0)
        if self.config.training.start_from:
            self.model = self.model.referred_to(offsets)
        else:
            self.model.reference_energies = offsets

    def _model(self, train, checkpoint):
        if checkpoint is not None:
            header, arrays = checkpoint
            arrays = {
                key.removeprefix("model_"): value
                for key, value in arrays.items() if key.startswith("model_")
            }  # fmt: skip
            with damaged(self.directory / "checkpoint.npz", CheckpointError):
                return make_model(header["model"], arrays)
        settings = self.config.training
        if settings.start_from:
            return start_model(settings.start_from, settings.precision)
        return new_model(self.config, train.elements)

    def _prepare_model(self, train, pairs):
        """Reference energies, baseline and feature statistics of the training set.

        All members of an ensemble have those of what they divide into training and validation.
        """
        config, model = self.config, self.model
        kind = config.data.reference_energies
        batches = batches_of(train, pairs, self.threads)
        if config.training.start_from:
            begin_unseen_elements(model, batches, config.training.seed)
            self._refer_start(train, pairs, kind)
            return
        model.reference_energies = reference_energies(train, kind, self.parts.isolated)
        add_baseline(config, model, train, pairs)
        model.standardise(batches)

    def _refer_start(self, train, pairs, kind):
        """Reference energies of the new data for the model that the fit starts from."""
        model = self.model
        before = model.reference_energies
        if kind == "fit":
            model.reference_energies = shifted_references(model, train, pairs, self.threads)
        else:
            model.reference_energies = reference_energies(train, kind, self.parts.isolated)
        shifts = zip(model.elements, model.reference_energies - before, strict=True)
        self.log(
            f"starts from {self.config.training.start_from}; reference energies of the new data, "
            f"shifts: {', '.join(f'{element} {shift:+.4f}' for element, shift in shifts)} eV"
        )

    def _resume(self, checkpoint):
        config, (header, arrays) = self.config, checkpoint
        arrays = {key: value for key, value in arrays.items() if not key.startswith("model_")}
        if "reference_energies" in arrays:
            self.reference_energies = arrays["reference_energies"]
        elif config.training.start_from or config.data.reference_energies != "fit":
            raise CheckpointError(
                f"{self.directory / 'checkpoint.npz'}: of an earlier version, which counted "
                "energies otherwise; train anew, from its model with --start-from"
            )
        with damaged(self.directory / "checkpoint.npz", CheckpointError):
            self.trainer.resume(Progress.restore(header["progress"], arrays))
        self.trainer.scans = read_scans(self.directory, self.trainer.progress.epoch)
        self.log(f"resumed after epoch {self.trainer.progress.epoch}")

    def train(self, on_epoch) -> FitResult:
        """Train, write the files of the run directory, and evaluate."""
        every = self.config.training.checkpoint_every
        self.directory.mkdir(parents=True, exist_ok=True)
        archive.write_bytes(self.directory / "config.toml", to_toml(self.config).encode())
        self._write_history()
        self._write_log()
        before = self.trainer.progress.epoch
        session = Session(self.directory, self.threads, resumed=before > 0)
        session.write(first_epoch=before + 1)
        if not self.trainer.progress.epoch:
            self.checkpoint()  # so that a run can be resumed from its first second on

        def after_epoch(progress, row):
            line = ",".join(_formatted(progress.rows[-1]))
            archive.append_text(self.directory / "history.csv", f"{line}\r\n")
            if progress.epoch % every == 0:
                self.checkpoint()
            if on_epoch is not None:
                on_epoch(progress, row)

        try:
            progress = self.trainer.run(after_epoch)
        except TrainingError:
            self.checkpoint()
            self._end(session, "failed")
            raise
        except KeyboardInterrupt:
            self.log(f"stopped; go on with --resume {self.directory}")
            self.checkpoint()
            self._end(session, "interrupted")
            raise
        self.checkpoint()
        model = self.best_model()
        parts = self.parts.by_name()
        kept = kept_pairs(parts, model.cutoff, **self._listing())
        metrics = evaluate_run(
            self.directory, model, parts, pairs=kept | self.pairs, threads=self.threads,
            log=self.log, device=self.config.training.device,
        )  # fmt: skip
        self.log(
            f"{progress.epoch} epochs in {progress.elapsed:.1f} s; best epoch {progress.best_epoch}"
        )
        self._write_log()
        self._end(session, "finished")
        rows = np.array(progress.rows).reshape(-1, len(COLUMNS))
        history = dict(zip(COLUMNS, rows.T, strict=True))
        return FitResult(model, metrics, self.directory, history, progress.epsilon)

    def _end(self, session, outcome) -> None:
        progress = self.trainer.progress
        session.finish(
            outcome, progress.elapsed, last_epoch=progress.epoch, best_epoch=progress.best_epoch
        )

    def best_model(self):
        """The full model with the best parameters so far."""
        model = copy.copy(self.model)
        model.theta = self.trainer.progress.best_theta
        return model.referred_to(self.reference_energies)

    def checkpoint(self) -> None:
        """Write checkpoint.npz and the best model so far."""
        progress = self.trainer.progress
        header, arrays = model_contents(self.model)
        arrays = {f"model_{key}": value for key, value in arrays.items()}
        save_checkpoint(
            self.directory / "checkpoint.npz",
            {"progress": progress.numbers(), "model": header, "fingerprint": self.fingerprint},
            {**arrays, **progress.arrays(), "reference_energies": self.reference_energies},
        )
        write_scans(self.directory, self.trainer.scans)
        if not progress.epoch:
            return
        save_model(
            self.directory / "model.npz", self.best_model(),
            epoch=progress.best_epoch, epsilon=progress.epsilon,
            stencil=self.config.finite_difference.stencil,
            train=[Path(name).name for name in self.config.data.train],
            n_train=len(self.parts.train), energy_weight=self.config.loss.energy_weight,
            force_weight=self.config.loss.force_weight,
            stress_weight=self.config.loss.stress_weight,
        )  # fmt: skip
        self._write_log()

    def _write_history(self):
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        writer.writerows(_formatted(row) for row in self.trainer.progress.rows)
        archive.write_bytes(self.directory / "history.csv", text.getvalue().encode())

    def _write_log(self):
        text = "".join(f"{line}\n" for line in self._events)
        self._events.clear()
        archive.append_text(self.directory / "log.txt", text)


def configure(config, settings: dict) -> Config:
    """The resolved configuration of `fit`: defaults, a file or tables, and overrides.

    With a time budget and no number of epochs from any of them, epochs are as many as it allows.

    Parameters
    ----------
    config : path, dict, Config or None
    settings : dict
        As the keyword arguments of `fit`.

    Raises
    ------
    ConfigError
    """
    names_epochs, given = _names_epochs(config), _given_model(config)
    if config is None:
        config = default_config()
    elif isinstance(config, str | os.PathLike):
        config = load_config(config)
    elif isinstance(config, dict):
        config = config_from_dict(config)
    changes = _tables(settings, config)
    epochs_given = "epochs" in changes.get("training", {}) or names_epochs
    config = override(config, changes, where="fit")
    if config.training.max_time and not epochs_given:
        # a budget in seconds alone: as many epochs as it allows
        config = override(config, {"training": {"epochs": 0}})
    config = replace(config, optimizer=with_numbers(config.optimizer))
    return with_model_of_start(absolute_paths(config), {**given, **changes.get("model", {})})


def _given_model(config) -> dict:
    """The keys of [model] that a configuration sets."""
    if isinstance(config, Config):
        return set_on_purpose(config)
    tables = read_toml(config) if isinstance(config, str | os.PathLike) else config or {}
    return tables.get("model", {})


def _names_epochs(config) -> bool:
    """Whether a configuration says how many epochs, rather than leave the default."""
    if isinstance(config, str | os.PathLike):
        config = read_toml(config)
    if isinstance(config, dict):
        return "epochs" in config.get("training", {})
    return isinstance(config, Config)


def configure_resumed(directory: Path, settings) -> Config:
    """Configuration of a run with the few changes that a resumed run can take."""
    before = load_config(_existing_config(directory))
    after = override(before, _tables(settings, before), where="fit")
    for table, keys in known_keys(after).items():
        for key in keys:
            old, new = (getattr(getattr(c, table), key, None) for c in (before, after))
            if old != new and f"{table}.{key}" not in RESUMABLE:
                raise ConfigError(
                    f"{table}.{key} = {new!r}: the run has {old!r}, and a resumed run can change "
                    f"{', '.join(RESUMABLE)} alone; train anew with another --out"
                )
    return after


def _tables(settings: dict, config: Config) -> dict:
    """Sort keyword arguments into tables."""
    descriptor = settings.get("descriptor", descriptor_of(settings, config.model))
    descriptor = (settings.get("model") or {}).get("descriptor", descriptor)
    tables = known_keys(config)
    if isinstance(descriptor, str):
        tables["model"] = keys_of(model_config(descriptor))
    changes: dict = {}
    for key, value in settings.items():
        if key in tables and isinstance(value, dict):
            changes.setdefault(key, {}).update(value)
            continue
        homes = [table for table, keys in tables.items() if key in keys]
        if len(homes) > 1:
            raise ConfigError(
                f"fit: {key} is a key of {' and '.join(homes)}: give the table, as in "
                f"{homes[0]}={{{key!r}: ...}}"
            )
        if not homes:
            known = [name for keys in tables.values() for name in keys] + list(tables)
            nearest = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise ConfigError(f"fit: no such setting: {key}{hint}")
        changes.setdefault(homes[0], {})[key] = value
    return changes


def _existing_config(directory: Path) -> Path:
    if not (directory / "config.toml").is_file():
        raise CheckpointError(f"{directory}: holds no run to resume (no config.toml)")
    if not (directory / "checkpoint.npz").is_file():
        raise CheckpointError(
            f"{directory}: holds no checkpoint; the run stopped before its first one, start it anew"
        )
    return directory / "config.toml"


def new_directory(out, config: Config) -> Path:
    """The directory of a new run; raises ConfigError where it holds one already."""
    if out is None:
        name = Path(config.data.train[0]).name.split(".")[0] if config.data.train else "run"
        stem = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        out, count = stem, 1
        while out.exists():
            count += 1
            out = stem.with_name(f"{stem.name}-{count}")
    out = Path(out)
    if out.is_file():
        raise ConfigError(f"{out}: is a file; name a directory for the run")
    held = [name for name in ("checkpoint.npz", "model.npz") if (out / name).exists()]
    if held and not never_began(out):
        raise ConfigError(
            f"{out}: already holds a run ({', '.join(held)}); choose another --out, or go on with "
            f"--resume {out}"
        )
    return out


def never_began(out: Path) -> bool:
    """Whether a run failed before its first epoch was complete, so that nothing can be lost."""
    try:
        header = load_checkpoint(out / "checkpoint.npz")[0]
        if "members" in header:  # of an ensemble
            return all(never_began(home) for home in out.glob("member-*"))
        return header["progress"]["epoch"] == 0
    except (CheckpointError, KeyError, TypeError):
        return False


def _formatted(row):
    return ["" if np.isnan(v) else f"{v:.10g}" for v in row]

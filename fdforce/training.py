"""Training: mini-batch descent on energies, forces and stress with finite-difference gradients."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from fdforce.computation import computation_for
from fdforce.config import Config, keys_of
from fdforce.data_set import DataSet
from fdforce.epsilon import Monitor, default_epsilons, scan
from fdforce.epsilon_scans import scan_entry
from fdforce.errors import ConfigError, TrainingError
from fdforce.evaluation import accumulate, summarise
from fdforce.mixed_batches import with_force_labels
from fdforce.optimizers import AUTO, OPTIMIZERS, with_numbers
from fdforce.schedules import SCHEDULES
from fdforce.selection import ForceDraw
from fdforce.transfer import frozen

EXPLODED = 1e6
"""A loss so many times the first one (or 1) stops the run."""

SCAN_STRUCTURES = 32
SCAN_RANGE = (1e-8, 8e-3)
"""Structures and epsilons of the scan that chooses epsilon; the skin of the training pairs holds
the outer nodes of central4, under strain, up to the last one."""

COLUMNS = (
    "epoch", "seconds", "elapsed", "learning_rate", "epsilon", "err_loss", "monitor",
    "train_loss", "valid_loss",
    *(f"{part}_{quantity}_{kind}" for part in ("train", "valid")
      for quantity in ("energy", "force", "stress") for kind in ("rmse", "mae")),
)  # fmt: skip
"""Of history.csv. ``seconds`` is one epoch's, ``elapsed`` the run's; ``err_loss`` is Err[L~] and
``monitor`` the normalised defect that controls epsilon (docs/method.md)."""


@dataclass
class Progress:
    """State of a run between two epochs; all of it goes into a checkpoint."""

    theta: np.ndarray
    optimizer: dict
    average: np.ndarray | None = None
    steps: int = 0
    epoch: int = 0
    elapsed: float = 0.0
    epsilon: float = 0.0
    reference: float = 0.0
    best_theta: np.ndarray | None = None
    best_loss: float = np.inf
    best_epoch: int = 0
    rows: list = field(default_factory=list)

    def numbers(self) -> dict:
        """What is not an array."""
        names = ("epoch", "steps", "elapsed", "epsilon", "reference", "best_loss", "best_epoch")
        return {name: getattr(self, name) for name in names}

    def arrays(self) -> dict:
        """The arrays, by name."""
        return {
            "theta": self.theta,
            "average": self.average,
            "best_theta": self.best_theta,
            "rows": np.array(self.rows, dtype=np.float64).reshape(-1, len(COLUMNS)),
            **{f"optimizer_{key}": value for key, value in self.optimizer.items()},
        }

    @classmethod
    def restore(cls, numbers: dict, arrays: dict) -> Progress:
        """The state that `numbers` and `arrays` were taken from."""
        optimizer = {
            key.removeprefix("optimizer_"): value
            for key, value in arrays.items()
            if key.startswith("optimizer_")
        }
        return cls(
            theta=arrays["theta"], average=arrays["average"], optimizer=optimizer,
            best_theta=arrays["best_theta"],
            rows=[list(row) for row in arrays["rows"]], **numbers,
        )  # fmt: skip


class Trainer:
    """Trains a model; `progress` holds its state, `run` goes on from there.

    `scans` lists the scans that chose epsilon (`fdforce.epsilon_scans`).

    Parameters
    ----------
    model : EnergyModel
        Without fixed offsets (`residual_target`); `theta` is replaced as it learns.
    train : DataSet
    valid : DataSet or None
        The best model is that of the least validation loss (training loss without it).
    loss : WeightedLoss
    config : Config
    threads : int
    log : callable
        Takes a line of text: choices of epsilon, early stops.
    started : float
        ``time.monotonic()`` at which the time budget began.

    Raises
    ------
    ConfigError
        An unknown optimizer, or neither epochs nor a time budget.
    """

    unused: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Keys, by table, that must be 0 because a kind of trainer has no use for them."""

    def __init__(
        self, model, train, valid, loss, config: Config, *, threads=1, log=print, started=None
    ):
        if not config.training.epochs and not config.training.max_time:
            raise ConfigError("training.epochs = 0 needs training.max_time, or the run never ends")
        self._draw = ForceDraw(train, config)
        self.model, self.train, self.valid, self.loss = model, self._draw(0), valid, loss
        self.config, self.threads, self.log = config, threads, log
        self.computation = computation_for(config.training, model, threads, log)
        self.settings = with_numbers(config.optimizer, train.structures)
        self._refuse_unused()
        self.schedule = SCHEDULES[config.training.schedule]
        start = model.theta.copy()
        self.progress = Progress(start, self._initial_state(), average=start, best_theta=start)
        self.frozen = frozen(model, config.training.frozen_layers)
        self.scans: list[dict] = []
        self._started = time.monotonic() if started is None else started
        self._first_loss = 0.0

    def _refuse_unused(self):
        """Raise ConfigError for settings that would change nothing."""
        for table, keys in self.unused.items():
            values = self.settings if table == "optimizer" else getattr(self.config, table)
            for key in keys:
                if getattr(values, key) not in (0, keys_of(values)[key].default):
                    raise ConfigError(
                        f"{table}.{key} = {getattr(values, key)}: does not apply to optimizer.name "
                        f"= {self.settings.name!r}; leave it at 0"
                    )

    def _initial_state(self) -> dict:
        """State of the optimizer before its first step."""
        if self.settings.name not in OPTIMIZERS:
            raise ConfigError(
                f"optimizer.name = {self.settings.name!r}: choose one of {', '.join(AUTO)}"
            )
        self.optimizer = OPTIMIZERS[self.settings.name]
        return self.optimizer.init(self.model.theta, self.model.layers)

    def resume(self, progress: Progress) -> None:
        """Go on from a state; its elapsed time counts against the budget."""
        self.progress = progress
        self._started -= progress.elapsed

    @property
    def elapsed(self) -> float:
        """Seconds of the run so far, earlier parts included."""
        return time.monotonic() - self._started

    def run(self, on_epoch: Callable | None = None) -> Progress:
        """Train until the epochs, the time or the patience are used up.

        Parameters
        ----------
        on_epoch : callable, optional
            Called as ``on_epoch(progress, row)`` after every epoch, `row` a dict.

        Returns
        -------
        Progress
            That of the last whole epoch, also when an exception ends the run.

        Raises
        ------
        TrainingError
            The loss is not finite or has exploded.
        """
        settings = self.config.training
        if not self.progress.epsilon:
            self.progress.epsilon = self._first_epsilon()
        while not settings.epochs or self.progress.epoch < settings.epochs:
            over = settings.max_time and self.elapsed >= settings.max_time
            if over and self.progress.epoch:  # the first epoch runs even if compiling took longer
                break
            row = self._epoch()
            if on_epoch is not None:
                on_epoch(self.progress, row)
            waited = self.progress.epoch - self.progress.best_epoch
            if settings.patience and waited >= settings.patience:
                self.log(f"no improvement for {waited} epochs: stopped early")
                break
        return self.progress

    def _epoch(self) -> dict:
        """One pass over the training set; `progress` changes only when it is complete."""
        begun, old = time.monotonic(), self.progress
        new = copy.copy(old)
        new.optimizer = {key: value.copy() for key, value in old.optimizer.items()}
        self.model.theta, monitor = old.theta, Monitor(old.reference)
        self.train = self._draw(old.epoch)
        row = self._learn(new, monitor)
        new.theta, new.epoch = self.model.theta, old.epoch + 1
        self.model.theta = new.average
        if self.valid is not None:
            row |= self._errors(self.valid, "valid")
        self._keep_best(new, row)
        row.update(
            epoch=new.epoch, epsilon=old.epsilon,
            err_loss=monitor.err_loss, monitor=monitor.normalised,
        )  # fmt: skip
        self._watch_epsilon(new, monitor)
        new.elapsed = self.elapsed
        row.update(seconds=time.monotonic() - begun, elapsed=new.elapsed)
        new.rows = [*old.rows, [np.nan if row.get(c) is None else row[c] for c in COLUMNS]]
        self.progress = new
        return row

    def _learn(self, new: Progress, monitor: Monitor) -> dict:
        """Take the steps of an epoch: `model.theta`, optimizer and average of `new` change.

        Returns
        -------
        dict
            Training errors, the loss before each step, and the last learning rate.
        """
        training, sums, total, seen, rate = self.config.training, {}, 0.0, 0, 0.0
        batches, factor = self._batches(new.epoch), self._schedule()
        for number, indices in enumerate(self.train.in_turn(batches)):
            self.computation.expect(batches[number + 1] if number + 1 < len(batches) else None)
            share = self._share(number / len(batches))
            rate = self.settings.learning_rate * factor(share)
            step = self._advance(indices, self.loss.at(share), new, rate)
            monitor.add(step)
            terms = step.details["terms"]
            total, seen = total + self.loss.total(terms) * len(indices), seen + len(indices)
            accumulate(sums, terms.errors)
            if training.max_time and self.elapsed > training.max_time:
                break
        return {"train_loss": total / seen, "learning_rate": rate, **named("train", sums)}

    def _advance(self, indices, loss, new: Progress, rate: float):
        """A step, with what holds for every optimizer; returns the `GradientStep`."""
        before = self.model.theta
        step = self._step(indices, loss, new, rate)
        self.model.theta = theta = np.where(self.frozen, before, self.model.theta)
        new.steps += 1
        memory = self._memory_of_average(new)
        new.average = theta if memory == 1 else new.average + (theta - new.average) / memory
        return step

    def _memory_of_average(self, new: Progress) -> float:
        """Steps that the average is over: about the last share ``training.average`` of them."""
        return 1 + self.config.training.average * new.steps

    def _step(self, indices, loss, new: Progress, rate: float):
        """Change `model.theta` by one step on some structures; returns the `GradientStep`."""
        model, settings = self.model, self.settings
        kept = self._kept_units(new.steps)
        theta, model.theta = model.theta, model.theta * kept
        step = self._gradient(indices, loss)
        gradient = self._clipped(kept * step.gradient + settings.l2 * theta)
        decayed = theta * (1 - rate * settings.weight_decay)
        model.theta = self.optimizer.update(decayed, gradient, new.optimizer, rate, settings)
        return step

    def _gradient(self, indices, loss):
        """Loss and gradient at the current parameters, checked to be sound."""
        step = self._evaluate(indices, loss)
        self._check(step, indices)
        return replace(step, gradient=np.where(self.frozen, 0.0, step.gradient))

    def _evaluate(self, indices, loss, **options):
        differences = self.config.finite_difference
        return self.computation.gradient(
            self.train, indices, loss, epsilon=self.progress.epsilon,
            stencil=differences.stencil, length_scale=differences.length_scale, **options,
        )  # fmt: skip

    def _kept_units(self, step: int):
        """Factors of theta that leave hidden units out, one choice for a whole step.

        r, r+ and r- see the same network, or their difference would be that of two networks.
        """
        share = self.config.training.dropout
        if not share:
            return 1.0
        rng = np.random.default_rng([self.config.training.seed, 1, step])
        return self.model.thinned(share, rng)

    def _watch_epsilon(self, new: Progress, monitor: Monitor) -> None:
        """Choose epsilon again when the normalised defect has drifted."""
        drifted, differences = monitor.drifted(), self.config.finite_difference
        new.reference = monitor.reference
        if not drifted or differences.epsilon != "auto" or differences.stencil == "complex":
            return
        before, new.epsilon, new.reference = new.epsilon, self._choose_epsilon(new.epoch), 0.0
        self.log(
            f"epoch {new.epoch}: the normalised defect went from {monitor.reference:.1e} to "
            f"{monitor.normalised:.1e}; epsilon chosen again: {before:.1e} -> {new.epsilon:.1e}"
        )

    def _batches(self, epoch: int) -> list[np.ndarray]:
        """A new order every epoch, a function of seed and epoch alone."""
        rng = np.random.default_rng([self.config.training.seed, epoch])
        order = rng.permutation(len(self.train))
        return np.array_split(order, -(-len(order) // self.settings.batch_size))

    def _schedule(self) -> Callable:
        column = COLUMNS.index("valid_loss" if self.valid else "train_loss")
        return self.schedule([row[column] for row in self.progress.rows], self.config.training)

    def _share(self, of_epoch: float) -> float:
        """Share of the run that has passed, at this share of the current epoch."""
        settings, share = self.config.training, 0.0
        if settings.epochs:
            share = (self.progress.epoch + of_epoch) / settings.epochs
        if settings.max_time:
            share = max(share, self.elapsed / settings.max_time)
        return share

    def _clipped(self, gradient):
        limit, norm = self.settings.gradient_clip, np.linalg.norm(gradient)
        return gradient * (limit / norm) if limit and norm > limit else gradient

    def _check(self, step, indices) -> None:
        """Stop, and say on which structures, when the loss is not finite or has exploded."""
        self._first_loss = self._first_loss or step.loss
        bound = EXPLODED * max(1.0, self._first_loss)
        if np.isfinite(step.loss) and step.loss < bound and self._is_finite(step):
            return
        terms = step.details["terms"]
        share = terms.force_loss + np.abs(terms.d_energy)
        worst = np.argsort(np.where(np.isfinite(share), -share, -np.inf))[:3]
        names = ", ".join(self.train.structures.labels[indices[s]] for s in worst)
        raise TrainingError(
            f"epoch {self.progress.epoch + 1}: the loss is {step.loss:.3g}; largest in {names}. "
            "Earlier checkpoints are kept; lower optimizer.learning_rate or check these structures"
        )

    def _is_finite(self, step):
        return np.all(np.isfinite(step.gradient))

    def _errors(self, part: DataSet, name: str) -> dict:
        """Loss and errors of the current parameters on a data set."""
        sums, total = {}, 0.0
        for indices in part.in_turn(self.computation.groups(part)):
            terms = self.computation.terms(part, indices, self.loss)
            total += terms.value * len(indices)
            accumulate(sums, terms.errors)
        return {f"{name}_loss": total / len(part), **named(name, sums)}

    def _keep_best(self, new: Progress, row: dict) -> None:
        loss = row["valid_loss"] if self.valid else row["train_loss"]
        if loss < new.best_loss:
            new.best_theta, new.best_loss, new.best_epoch = new.average, loss, new.epoch

    def _first_epsilon(self) -> float:
        given = self.config.finite_difference.epsilon
        if self.config.finite_difference.stencil == "complex":
            return 1e-20
        if given != "auto":
            return float(given)
        epsilon = self._choose_epsilon(self.progress.epoch)
        self.log(f"epsilon = {epsilon:.1e}")
        return epsilon

    def _choose_epsilon(self, epoch: int) -> float:
        """Scan Err[L~] on some training structures with the current parameters."""
        displaced = with_force_labels(self.train.target, self.train.structures.counts)
        if not displaced.any():  # nothing to displace, any value serves
            return 1e-5
        indices = np.flatnonzero(displaced)
        if len(indices) > SCAN_STRUCTURES:
            rng = np.random.default_rng(self.config.training.seed)
            indices = rng.choice(indices, SCAN_STRUCTURES, replace=False)
        settings = self.config.finite_difference

        def evaluate(epsilon):
            return [
                self.computation.gradient(
                    self.train, indices, self.loss, epsilon=epsilon, stencil=settings.stencil,
                    length_scale=settings.length_scale,
                )
            ]  # fmt: skip

        try:
            found = scan(
                evaluate,
                default_epsilons(*(end / settings.length_scale for end in SCAN_RANGE)),
                stencil=settings.stencil, precision=str(self.model.dtype),
            )  # fmt: skip
        except ValueError:
            return 1e-5  # no force errors
        self.scans.append(scan_entry(epoch, found))
        return found.recommended


def named(part: str, sums: dict) -> dict:
    """Errors from sums, under the names of `COLUMNS`."""
    return {f"{part}_{name}": value for name, value in summarise(sums).items()}

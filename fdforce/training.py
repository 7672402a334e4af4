"""Training: mini-batch descent on energies, forces and stress with finite-difference gradients."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from fdforce.batch import make_batch
from fdforce.config import Config
from fdforce.epsilon import Monitor, default_epsilons, scan_model
from fdforce.epsilon_scans import scan_entry
from fdforce.errors import ConfigError, TrainingError
from fdforce.evaluation import groups, labels_of, summarise, take
from fdforce.gradient import loss_gradient
from fdforce.losses import Target
from fdforce.neighbors import TRAINING_SKIN, PairList
from fdforce.optimizers import OPTIMIZERS
from fdforce.schedules import SCHEDULES
from fdforce.structures import Structures

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


@dataclass(frozen=True)
class DataSet:
    """Structures with what is to be learnt of them and their pair list."""

    structures: Structures
    target: Target
    pairs: PairList

    def __len__(self) -> int:
        return len(self.structures)

    def batch(self, indices, n_chunks: int):
        """Batch of some structures and their labels."""
        batch = make_batch(self.structures, self.pairs, indices, n_chunks=n_chunks)
        return batch, take(self.target, self.structures, indices)


def training_skin(differences) -> float:
    """Skin (Å) that holds every displacement of a run: 6 epsilon a0, and that of the scan."""
    if differences.epsilon == "auto":
        return TRAINING_SKIN
    return max(TRAINING_SKIN, 6.1 * differences.epsilon * differences.length_scale)


def residual_target(structures: Structures, offsets=None, baseline=None, pairs=None) -> Target:
    """Labels less what is fixed in the model: reference energies and baseline.

    Differences of energies are small; without the large constant they keep their digits.

    Parameters
    ----------
    structures : Structures
    offsets : ndarray, shape (n_elements,), eV, optional
        Reference energies.
    baseline : object, optional
        With ``forward(batch)``.
    pairs : PairList, optional
        Needed with a baseline.

    Returns
    -------
    Target
    """
    target = labels_of(structures)
    energy, forces, virial = target.energy.copy(), target.forces.copy(), target.virial.copy()
    if offsets is not None:
        energy -= structures.compositions @ offsets
    if baseline is not None:
        fixed = baseline.forward(make_batch(structures, pairs))
        energy -= fixed.energy
        forces -= fixed.forces
        virial -= fixed.virial
    return Target(energy, forces, virial, target.weight)


@dataclass
class Progress:
    """State of a run between two epochs; all of it goes into a checkpoint."""

    theta: np.ndarray
    optimizer: dict
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
        names = ("epoch", "elapsed", "epsilon", "reference", "best_loss", "best_epoch")
        return {name: getattr(self, name) for name in names}

    def arrays(self) -> dict:
        """The arrays, by name."""
        return {
            "theta": self.theta,
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
            theta=arrays["theta"], optimizer=optimizer, best_theta=arrays["best_theta"],
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
    loss : callable
        ``loss(batch, energy, forces, virial, target)``.
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

    def __init__(
        self, model, train, valid, loss, config: Config, *, threads=1, log=print, started=None
    ):
        if not config.training.epochs and not config.training.max_time:
            raise ConfigError("training.epochs = 0 needs training.max_time, or the run never ends")
        self.model, self.train, self.valid, self.loss = model, train, valid, loss
        self.config, self.threads, self.log = config, threads, log
        self.optimizer = self._find_optimizer()
        self.schedule = SCHEDULES[config.training.schedule]
        self.progress = Progress(model.theta.copy(), self._initial_state())
        self.progress.best_theta = model.theta.copy()
        self.scans: list[dict] = []
        self._started = time.monotonic() if started is None else started
        self._first_loss = 0.0

    def _find_optimizer(self):
        name = self.config.optimizer.name
        if name not in OPTIMIZERS:
            choices = ", ".join([*OPTIMIZERS, "least_squares"])
            raise ConfigError(f"optimizer.name = {name!r}: choose one of {choices}")
        return OPTIMIZERS[name]

    def _initial_state(self) -> dict:
        return self.optimizer.init(self.model.theta)

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
        begun, config, old = time.monotonic(), self.config, self.progress
        new = copy.copy(old)
        new.optimizer = {key: value.copy() for key, value in old.optimizer.items()}
        self.model.theta, monitor = old.theta, Monitor(old.reference)
        sums, total, seen, rate = {}, 0.0, 0, 0.0
        batches, factor = self._batches(old.epoch), self._schedule()
        for number, indices in enumerate(batches):
            batch, target = self.train.batch(indices, self.threads)
            step = loss_gradient(
                self.model, batch, lambda *result, t=target: self.loss(*result, t),
                epsilon=old.epsilon, stencil=config.finite_difference.stencil,
                length_scale=config.finite_difference.length_scale,
            )  # fmt: skip
            self._check(step, indices)
            rate = config.optimizer.learning_rate * factor(self._share(number / len(batches)))
            self.model.theta = self.optimizer.update(
                self.model.theta,
                self._clipped(step.gradient),
                new.optimizer,
                rate,
                config.optimizer,
            )
            monitor.add(step)
            total, seen = total + step.loss * len(indices), seen + len(indices)
            _accumulate(sums, step.details["terms"].errors)
            if config.training.max_time and self.elapsed > config.training.max_time:
                break
        new.theta, new.epoch = self.model.theta, old.epoch + 1
        row = {"train_loss": total / seen, **_named("train", sums)}
        row.update(self._validate())
        self._keep_best(new, row)
        drifted = monitor.drifted()
        new.reference = monitor.reference
        row.update(
            epoch=new.epoch, learning_rate=rate, epsilon=old.epsilon,
            err_loss=monitor.err_loss, monitor=monitor.normalised,
        )  # fmt: skip
        differences = config.finite_difference
        if drifted and differences.epsilon == "auto" and differences.stencil != "complex":
            new.epsilon, new.reference = self._choose_epsilon(new.epoch), 0.0
            self.log(
                f"epoch {new.epoch}: the normalised defect went from {monitor.reference:.1e} to "
                f"{monitor.normalised:.1e}; epsilon chosen again: {old.epsilon:.1e} -> "
                f"{new.epsilon:.1e}"
            )
        new.elapsed = self.elapsed
        row.update(seconds=time.monotonic() - begun, elapsed=new.elapsed)
        new.rows = [*old.rows, [np.nan if row.get(c) is None else row[c] for c in COLUMNS]]
        self.progress = new
        return row

    def _batches(self, epoch: int) -> list[np.ndarray]:
        """A new order every epoch, a function of seed and epoch alone."""
        rng = np.random.default_rng([self.config.training.seed, epoch])
        order = rng.permutation(len(self.train))
        return np.array_split(order, -(-len(order) // self.config.optimizer.batch_size))

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
        limit, norm = self.config.optimizer.gradient_clip, np.linalg.norm(gradient)
        return gradient * (limit / norm) if limit and norm > limit else gradient

    def _check(self, step, indices) -> None:
        """Stop, and say on which structures, when the loss is not finite or has exploded."""
        self._first_loss = self._first_loss or step.loss
        bound = EXPLODED * max(1.0, self._first_loss)
        if np.isfinite(step.loss) and step.loss < bound and np.all(np.isfinite(step.gradient)):
            return
        terms = step.details["terms"]
        share = terms.force_loss + np.abs(terms.d_energy)
        worst = np.argsort(np.where(np.isfinite(share), -share, -np.inf))[:3]
        names = ", ".join(self.train.structures.labels[indices[s]] for s in worst)
        raise TrainingError(
            f"epoch {self.progress.epoch + 1}: the loss is {step.loss:.3g}; largest in {names}. "
            "Earlier checkpoints are kept; lower optimizer.learning_rate or check these structures"
        )

    def _validate(self) -> dict:
        """Validation loss and errors of the current parameters."""
        return {} if self.valid is None else self._errors(self.valid, "valid")

    def _errors(self, part: DataSet, name: str) -> dict:
        """Loss and errors of the current parameters on a data set."""
        sums, total = {}, 0.0
        for indices in groups(part.structures):
            batch, target = part.batch(indices, self.threads)
            state = self.model.forward(batch)
            terms = self.loss(batch, state.energy, *self.model.forces(state), target)
            total += terms.value * len(indices)
            _accumulate(sums, terms.errors)
        return {f"{name}_loss": total / len(part), **_named(name, sums)}

    def _keep_best(self, new: Progress, row: dict) -> None:
        loss = row["valid_loss"] if self.valid else row["train_loss"]
        if loss < new.best_loss:
            new.best_theta, new.best_loss, new.best_epoch = new.theta, loss, new.epoch

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
        indices = np.arange(len(self.train))
        if len(indices) > SCAN_STRUCTURES:
            rng = np.random.default_rng(self.config.training.seed)
            indices = rng.choice(len(indices), SCAN_STRUCTURES, replace=False)
        batch, target = self.train.batch(indices, self.threads)
        settings = self.config.finite_difference
        try:
            scan = scan_model(
                self.model, [batch], [lambda *result: self.loss(*result, target)],
                default_epsilons(*(end / settings.length_scale for end in SCAN_RANGE)),
                stencil=settings.stencil, length_scale=settings.length_scale,
            )  # fmt: skip
        except ValueError:
            # no forces among the labels: nothing to displace, any value serves
            return 1e-5
        self.scans.append(scan_entry(epoch, scan))
        return scan.recommended


def _accumulate(sums: dict, errors: dict) -> None:
    for quantity, values in errors.items():
        sums[quantity] = sums.get(quantity, 0) + values


def _named(part: str, sums: dict) -> dict:
    return {f"{part}_{name}": value for name, value in summarise(sums).items()}

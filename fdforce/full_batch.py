"""L-BFGS on the loss of the whole training set, one step an epoch."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fdforce.epsilon import Monitor
from fdforce.errors import TrainingError
from fdforce.evaluation import accumulate
from fdforce.line_search import step_length
from fdforce.optimizers import lbfgs
from fdforce.training import Trainer, named


class _AtMinimum(Exception):
    """The loss falls no further."""


class FullBatchTrainer(Trainer):
    """Full-batch training: every epoch is a line search along the direction of L-BFGS.

    Gradients are finite differences, with errors far below what a line search notices. It takes
    what `Trainer` takes. Batches, schedule, dropout and average do not apply; batch_size is the
    number of structures that are in memory together.
    """

    unused: ClassVar = {
        "optimizer": ("weight_decay", "gradient_clip"), "training": ("dropout", "average"),
    }  # fmt: skip

    _last = (None, 0.0, b"", None)

    def run(self, on_epoch=None):
        """As `Trainer.run`; also ends after an epoch in which no step lowers the loss."""

        def after_epoch(progress, row):
            if on_epoch is not None:
                on_epoch(progress, row)
            if row["learning_rate"] == 0:
                raise _AtMinimum

        try:
            return super().run(after_epoch)
        except _AtMinimum:
            self.log(
                f"epoch {self.progress.epoch}: no step along the gradient lowers the loss: stopped "
                "early"
            )
            return self.progress

    def _initial_state(self):
        return lbfgs.init(self.model.theta)

    def _learn(self, new, monitor):
        begin, seen, epsilon = self.model.theta, {}, self.progress.epsilon

        def whole(theta):
            """Loss, gradient and training errors."""
            key = theta.tobytes()
            if key not in seen:
                seen[key] = self._whole(theta, monitor)
                new.steps += 1
            return seen[key]

        # known from the epoch before, unless it is the first of a session or something has changed;
        # the monitor leaves it out, so that a resumed run decides as a whole one
        if self._last[0] is not self.train or self._last[1:3] != (epsilon, begin.tobytes()):
            self._last = self.train, epsilon, begin.tobytes(), self._whole(begin, Monitor())
        seen[begin.tobytes()] = self._last[3]
        step, direction = self._step_from(begin, whole, new.optimizer)
        end = begin + step * direction
        loss, end_gradient, errors = whole(end)
        lbfgs.remember(end - begin, end_gradient - whole(begin)[1], new.optimizer)
        self.model.theta = new.average = end
        self._last = self.train, epsilon, end.tobytes(), whole(end)
        return {"train_loss": loss, "learning_rate": step, **named("train", errors)}

    def _step_from(self, begin, whole, state):
        """Length and direction of the step of an epoch.

        Where the curvature that is remembered misleads, `state` begins again along the gradient.
        """
        loss, gradient, _ = whole(begin)

        def search(direction):
            def evaluate(length):
                try:
                    value, slope, _ = whole(begin + length * direction)
                except TrainingError:  # far too long; the loss where the epoch begins is sound
                    return np.inf, np.nan
                return value, slope @ direction

            slope = gradient @ direction
            return step_length(evaluate, loss, slope) if slope < 0 else 0.0

        if len(state["steps"]):
            direction = lbfgs.direction(gradient, state)
            step = search(direction)
            if step:
                return step, direction
            state |= lbfgs.init(begin)
        direction = -_first_length(loss, gradient) * gradient
        return search(direction), direction

    def _whole(self, theta, monitor):
        """Loss, gradient and sums of errors over the training set."""
        self.model.theta = theta
        n, sums = len(self.train), {}
        loss, gradient = 0.5 * self.settings.l2 * theta @ theta, self.settings.l2 * theta
        batches = np.array_split(np.arange(n), -(-n // self.settings.batch_size))
        for indices in self.train.in_turn(batches):
            step = self._gradient(indices, self.loss.at(1.0))
            monitor.add(step)
            loss += step.loss * len(indices) / n
            gradient = gradient + step.gradient * (len(indices) / n)
            accumulate(sums, step.details["terms"].errors)
        return loss, np.where(self.frozen, 0.0, gradient), sums


def _first_length(loss: float, gradient: np.ndarray) -> float:
    """Length of a step along minus the gradient where no curvature is known.

    The minimum of a parabola that stays above zero is no farther than where its tangent at the
    start has fallen by twice the loss; where features vary little over the data, and are scaled up
    by much, this is far less than 1 in theta.
    """
    norm = np.linalg.norm(gradient)
    return min(1.0, 1.0 / norm, 2.0 * loss / norm**2) if norm else 0.0

"""L-BFGS on the loss of the whole training set, one step an epoch."""

from __future__ import annotations

import warnings
from typing import ClassVar

import numpy as np

from fdforce.epsilon import Monitor
from fdforce.evaluation import accumulate
from fdforce.optimizers import lbfgs
from fdforce.training import Trainer, named

EVALUATIONS = 10
"""Of a line search, at most."""


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
        gradient = whole(begin)[1]
        direction = lbfgs.direction(gradient, new.optimizer)
        if not len(new.optimizer["steps"]):  # no curvature known yet
            direction /= max(np.linalg.norm(gradient), 1.0)
        step = _search(lambda x: whole(x)[0], lambda x: whole(x)[1], begin, direction, gradient)
        if step is None:  # the remembered curvature misleads: begin again along the gradient
            new.optimizer |= lbfgs.init(begin)
            step = 0.0
        end = begin + step * direction
        loss, end_gradient, errors = whole(end)
        lbfgs.remember(end - begin, end_gradient - gradient, new.optimizer)
        self.model.theta = new.average = end
        self._last = self.train, epsilon, end.tobytes(), whole(end)
        return {"train_loss": loss, "learning_rate": step, **named("train", errors)}

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


def _search(value, slope, begin, direction, gradient):
    """Length of a step under the strong Wolfe conditions, or None."""
    from scipy.optimize import line_search

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it did not converge; the result says so
        found = line_search(
            value, slope, begin, direction, gradient, value(begin), maxiter=EVALUATIONS
        )
    return found[0]

"""Training with an extended Kalman filter fed by finite differences.

The measurement of a batch is its loss as a norm of the errors, m = L^(1/p) with p the degree of the
loss, and its label is 0. For a squared loss H = dm/dtheta is the projection of all errors of
energies, forces and stresses on their own direction, e / |e| (error-weighted), for the l1 loss on
their signs. Either way an update costs one gradient, two evaluations of dE/dtheta, where a filter
of single force components takes two for each.
"""

from __future__ import annotations

from typing import ClassVar

from fdforce.optimizers import kalman
from fdforce.training import Trainer


class KalmanTrainer(Trainer):
    """Trainer whose steps are updates of a filter; the learning rate is a factor of its gain.

    The schedule lowers the gain as it lowers other rates.
    """

    unused: ClassVar = {"optimizer": ("gradient_clip",)}

    def _initial_state(self):
        return kalman.init(self.model.theta, self.model.layers, self.settings)

    def _step(self, indices, loss, new, rate):
        model, kept = self.model, self._kept_units(new.steps)
        theta, model.theta = model.theta, model.theta * kept
        step = self._gradient(indices, loss)
        model.theta = theta
        value = step.loss + 0.5 * self.settings.l2 * theta @ theta
        if value > 0:
            measured = value ** (1 / loss.degree)
            slope = kept * step.gradient + self.settings.l2 * theta
            slope *= measured / (loss.degree * value)
            decayed = theta * (1 - rate * self.settings.weight_decay)
            model.theta = kalman.update(
                decayed, slope, -measured, new.optimizer, rate, self.settings
            )
        return step

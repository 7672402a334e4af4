"""Training with an extended Kalman filter fed by finite differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fdforce.optimizers import kalman
from fdforce.training import Trainer


class KalmanTrainer(Trainer):
    """Trainer with several updates of a filter for every batch."""

    def _initial_state(self):
        return kalman.init(self.model.theta, self.model.layers, self.settings)

    def _step(self, batch, target, new, rate, indices):
        model = self.model
        if self.settings.projection == "error":
            step = self._gradient(batch, target)
            self._check(step, indices)
            size = np.sqrt(step.loss)
            model.theta = kalman.update(
                model.theta, step.gradient / (2 * size), -size, new.optimizer, rate, self.settings
            )
            return step
        rng = np.random.default_rng([self.config.training.seed, 2, new.steps])
        first = None
        for group in range(-1, self.settings.force_groups):
            found = {}

            def loss(*result, group=group, found=found):
                terms = self.loss(*result, target)
                by_energy, by_forces, _ = self.loss.factors(len(batch), target)
                if group < 0:
                    r = terms.d_energy / (2 * np.sqrt(by_energy)) * batch.counts
                    w = (
                        np.sign(r)
                        if self.settings.projection == "sign"
                        else r / max(np.linalg.norm(r), 1e-30) * np.sqrt(len(r))
                    )
                    w = w / np.sqrt(len(r))
                    found["innovation"] = -(w @ r)
                    return replace(
                        terms,
                        d_energy=w * np.sqrt(by_energy) / batch.counts,
                        d_forces=0 * terms.d_forces,
                        d_virial=None,
                    )
                s = np.sqrt(by_forces)[batch.structure][:, None]
                r = terms.d_forces / (2 * s)
                mask = rng.integers(self.settings.force_groups, size=(batch.n_atoms, 1)) == group
                r = r * mask
                if self.settings.projection == "sign":
                    w = np.sign(r) / np.sqrt(max(np.count_nonzero(r), 1))
                elif self.settings.projection == "random":
                    w = (
                        np.where(rng.random(r.shape) < 0.5, -1, 1)
                        * mask
                        / np.sqrt(max(np.count_nonzero(r), 1))
                    )
                else:
                    w = r / max(np.linalg.norm(r), 1e-30)
                found["innovation"] = -np.sum(w * r)
                return replace(terms, d_energy=None, d_forces=w * s, d_virial=None)

            from fdforce.gradient import loss_gradient

            differences = self.config.finite_difference
            step = loss_gradient(
                model,
                batch,
                loss,
                epsilon=self.progress.epsilon,
                stencil=differences.stencil,
                length_scale=differences.length_scale,
            )
            first = first or step
            model.theta = kalman.update(
                model.theta, step.gradient, found["innovation"], new.optimizer, rate, self.settings
            )
        self._check(first, indices)
        return first

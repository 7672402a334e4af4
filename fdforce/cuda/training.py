"""Training whose parameters stay on the device."""

from __future__ import annotations

from fdforce.cuda.adam import DeviceAdam
from fdforce.training import Trainer

THERE = ("adam", "adamw")
"""Optimizers whose steps are taken on the device."""


def steps_there(config) -> bool:
    """Whether `DeviceTrainer` can do what a configuration asks for."""
    return config.optimizer.name in THERE and not config.training.dropout


class DeviceTrainer(Trainer):
    """Trainer that takes Adam's steps where the gradients are.

    Parameters, moments and average are copied to the device at the beginning of an epoch and back
    at its end; neither they nor gradients leave it in between.
    """

    def _learn(self, new, monitor):
        self._adam = DeviceAdam(
            self.computation.device, new.theta, new.average, new.optimizer, frozen=self.frozen,
            settings=self.settings, dtype=self.model.dtype,
        )  # fmt: skip
        row = super()._learn(new, monitor)
        self.model.theta, new.average, state = self._adam.to_host()
        new.optimizer.update(state)
        return row

    def _advance(self, indices, loss, new, rate):
        self._adam.forget()
        step = self._evaluate(indices, loss, keep=self._adam)
        self._check(step, indices)
        new.steps += 1
        self._adam.update(rate, self._memory_of_average(new))
        return step

    def _is_finite(self, step):
        return self._adam.is_finite

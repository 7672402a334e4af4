"""Huber's loss: squared up to a threshold, linear beyond it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fdforce.losses.weighted_loss import WeightedLoss


@dataclass(frozen=True)
class HuberLoss(WeightedLoss):
    """rho(x) = x^2 for x <= delta, 2 delta x - delta^2 beyond.

    Huber, Ann. Math. Stat. 35, 73 (1964). x is the error of a force vector, not of a component, so
    the loss does not depend on the choice of axes. For small errors it is the squared loss, without
    the factor 1/2 of Huber's paper.

    Parameters
    ----------
    huber_delta : float
        Threshold in units of what there is to learn.
    """

    huber_delta: float = 0.1

    def measure(self, squares, factors):
        delta = self.huber_delta
        far = squares > delta**2
        size = np.sqrt(np.where(far, squares, delta**2))
        rho = np.where(far, delta * (2 * size - delta), squares)
        return factors @ rho, 2 * delta * factors / size

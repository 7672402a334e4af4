"""Absolute errors, smooth at zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fdforce.losses.weighted_loss import WeightedLoss

SMOOTHING = 1e-3
"""Error, in units of what there is to learn, below which the loss is quadratic."""


@dataclass(frozen=True)
class L1Loss(WeightedLoss):
    """rho(x) = sqrt(x^2 + d^2) - d with d = `SMOOTHING`: |dE|/n and the lengths |dF_i|.

    The direction g is a unit vector on every atom, and defined where the error vanishes.
    """

    degree: ClassVar[int] = 1

    def measure(self, squares, factors):
        size = np.sqrt(squares + SMOOTHING**2)
        return factors @ (size - SMOOTHING), factors / size

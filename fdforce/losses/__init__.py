"""Losses: how far predictions are from labels, and the direction g = dL/df that follows.

The finite difference knows a loss by its derivatives alone, so one module per form is all that a
form needs; what they share is `fdforce.losses.weighted_loss`. docs/losses.md compares them.
"""

from __future__ import annotations

from fdforce.errors import ConfigError
from fdforce.losses.huber import HuberLoss
from fdforce.losses.l1 import L1Loss
from fdforce.losses.labels import LossTerms, Target, error_sums
from fdforce.losses.rmse import RMSELoss
from fdforce.losses.squared import SquaredLoss
from fdforce.losses.weighted_loss import WeightedLoss

__all__ = [
    "LOSSES", "HuberLoss", "L1Loss", "LossTerms", "RMSELoss", "SquaredLoss", "Target",
    "WeightedLoss", "error_sums", "find_loss", "make_loss",
]  # fmt: skip

LOSSES = {"squared": SquaredLoss, "huber": HuberLoss, "l1": L1Loss, "rmse": RMSELoss}
"""loss.kind -> dataclass; its own fields are keys of [loss]."""


def find_loss(kind: str) -> type[WeightedLoss]:
    """Look a loss up by name; raises ConfigError for an unknown one."""
    if kind not in LOSSES:
        raise ConfigError(f"loss.kind = {kind!r}: choose one of {', '.join(LOSSES)}")
    return LOSSES[kind]


def make_loss(kind: str, **settings) -> WeightedLoss:
    """A loss by name with its fields; raises ConfigError for an unknown one."""
    return find_loss(kind)(**settings)

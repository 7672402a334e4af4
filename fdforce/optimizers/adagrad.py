"""Adagrad: Duchi, Hazan and Singer, J. Mach. Learn. Res. 12, 2121 (2011), diagonal form."""

from __future__ import annotations

import numpy as np

STABILITY = 1e-10


def init(theta, layers) -> dict:
    """State for parameters of shape (P,)."""
    return {"sum": np.zeros_like(theta)}


def update(theta, gradient, state, learning_rate, settings):
    """One step; see `fdforce.optimizers.adam.update`."""
    state["sum"] += gradient**2
    return theta - learning_rate * gradient / (np.sqrt(state["sum"]) + STABILITY)

"""Adadelta: Zeiler, arXiv:1212.5701, algorithm 1, with a learning rate as a factor.

The memory of both means is ``beta1``, Zeiler's rho.
"""

from __future__ import annotations

import numpy as np

STABILITY = 1e-6


def init(theta, layers) -> dict:
    """State for parameters of shape (P,)."""
    return {"square": np.zeros_like(theta), "moved": np.zeros_like(theta)}


def update(theta, gradient, state, learning_rate, settings):
    """One step; see `fdforce.optimizers.adam.update`."""
    square, moved, rho = state["square"], state["moved"], settings.beta1
    square += (1 - rho) * (gradient**2 - square)
    step = gradient * np.sqrt((moved + STABILITY) / (square + STABILITY))
    moved += (1 - rho) * (step**2 - moved)
    return theta - learning_rate * step

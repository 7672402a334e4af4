"""Adam: Kingma and Ba, arXiv:1412.6980, algorithm 1.

With decoupled weight decay it is AdamW: Loshchilov and Hutter, arXiv:1711.05101, algorithm 2.
"""

from __future__ import annotations

import numpy as np

STABILITY = 1e-8


def init(theta, layers) -> dict:
    """State for parameters of shape (P,)."""
    return {"step": np.zeros(1), "mean": np.zeros_like(theta), "square": np.zeros_like(theta)}


def update(theta, gradient, state, learning_rate, settings):
    """One step.

    Parameters
    ----------
    theta, gradient : ndarray, shape (P,)
    state : dict
        Of `init`; changed.
    learning_rate : float
    settings : OptimizerConfig
        ``beta1`` and ``beta2``.

    Returns
    -------
    ndarray, shape (P,)
    """
    step = remember(gradient, state, settings)
    unbiased = state["mean"] / (1 - settings.beta1**step)
    root = np.sqrt(state["square"] / (1 - settings.beta2**step))
    return theta - learning_rate * unbiased / (root + STABILITY)


def remember(gradient, state, settings) -> float:
    """Add a gradient to the two moments; returns the number of steps."""
    state["step"] += 1
    state["mean"] += (1 - settings.beta1) * (gradient - state["mean"])
    state["square"] += (1 - settings.beta2) * (gradient**2 - state["square"])
    return state["step"][0]

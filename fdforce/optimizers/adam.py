"""Adam: Kingma and Ba, arXiv:1412.6980, algorithm 1, with decoupled weight decay."""

from __future__ import annotations

import numpy as np

STABILITY = 1e-8


def init(theta) -> dict:
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
        ``beta1``, ``beta2``, ``weight_decay``.

    Returns
    -------
    ndarray, shape (P,)
    """
    state["step"] += 1
    step = state["step"][0]
    mean, square = state["mean"], state["square"]
    mean += (1 - settings.beta1) * (gradient - mean)
    square += (1 - settings.beta2) * (gradient**2 - square)
    unbiased = mean / (1 - settings.beta1**step)
    root = np.sqrt(square / (1 - settings.beta2**step))
    decayed = theta * (1 - learning_rate * settings.weight_decay)
    return decayed - learning_rate * unbiased / (root + STABILITY)

"""Adamax: Adam with the largest gradient in place of the mean square.

Kingma and Ba, arXiv:1412.6980, algorithm 2.
"""

from __future__ import annotations

import numpy as np

from fdforce.optimizers.adam import STABILITY


def init(theta, layers) -> dict:
    """State for parameters of shape (P,)."""
    return {"step": np.zeros(1), "mean": np.zeros_like(theta), "largest": np.zeros_like(theta)}


def update(theta, gradient, state, learning_rate, settings):
    """One step; see `fdforce.optimizers.adam.update`."""
    state["step"] += 1
    state["mean"] += (1 - settings.beta1) * (gradient - state["mean"])
    np.maximum(settings.beta2 * state["largest"], np.abs(gradient), out=state["largest"])
    rate = learning_rate / (1 - settings.beta1 ** state["step"][0])
    return theta - rate * state["mean"] / (state["largest"] + STABILITY)

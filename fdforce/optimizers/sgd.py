"""Stochastic gradient descent with momentum ``beta1``.

Sutskever, Martens, Dahl and Hinton, ICML 2013, Eqs. 1 and 2, with the momentum as a mean of
gradients: the effective rate does not depend on beta1.
"""

from __future__ import annotations

import numpy as np


def init(theta, layers) -> dict:
    """State for parameters of shape (P,)."""
    return {"mean": np.zeros_like(theta)}


def update(theta, gradient, state, learning_rate, settings):
    """One step; see `fdforce.optimizers.adam.update`."""
    state["mean"] += (1 - settings.beta1) * (gradient - state["mean"])
    return theta - learning_rate * state["mean"]

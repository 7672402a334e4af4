"""Limited-memory BFGS: Nocedal and Wright, Numerical Optimization, algorithm 7.4."""

from __future__ import annotations

import numpy as np

MEMORY = 20
"""Pairs of steps and changes of the gradient that are kept."""


def init(theta) -> dict:
    """State for parameters of shape (P,), without any pair."""
    return {"steps": np.zeros((0, len(theta))), "changes": np.zeros((0, len(theta)))}


def direction(gradient, state) -> np.ndarray:
    """Descent direction: minus the inverse Hessian of the pairs times the gradient.

    Parameters
    ----------
    gradient : ndarray, shape (P,)
    state : dict

    Returns
    -------
    ndarray, shape (P,)
    """
    q = gradient.copy()
    pairs = list(zip(state["steps"], state["changes"], strict=True))
    factors = []
    for s, y in reversed(pairs):
        factors.append((s @ q) / (s @ y))
        q -= factors[-1] * y
    if pairs:
        s, y = pairs[-1]
        q *= (s @ y) / (y @ y)
    for (s, y), factor in zip(pairs, reversed(factors), strict=True):
        q += (factor - (y @ q) / (s @ y)) * s
    return -q


def remember(step, change, state) -> None:
    """Add a pair; one without positive curvature would make the Hessian indefinite and is left out.

    Parameters
    ----------
    step, change : ndarray, shape (P,)
        Differences of theta and of the gradient.
    state : dict
        Changed.
    """
    curvature = step @ change
    if curvature <= np.finfo(float).eps * np.linalg.norm(step) * np.linalg.norm(change):
        return
    for name, value in (("steps", step), ("changes", change)):
        state[name] = np.concatenate([state[name], value[None]])[-MEMORY:]

"""Extended Kalman filter for the parameters, with fading memory.

One update per scalar measurement m(theta) with slope H = dm/dtheta and innovation a, what m lacks
(Shah, Palmieri and Datum, Neural Networks 5, 779 (1992); Hu et al., arXiv:2212.06989):

    K = P H / (lambda noise + H' P H),   theta <- theta + K a,   P <- (P - K H' P) / lambda,

with lambda rising from ``forgetting`` to 1. P is one block or block-diagonal; each block is one
triangle of a symmetric matrix times a factor, so that it stays symmetric and dividing by lambda
costs nothing.
"""

from __future__ import annotations

import numpy as np

RISE = 0.9987
"""lambda <- RISE lambda + 1 - RISE after every update (arXiv:2212.06989, table 1)."""


def init(theta, layers, settings) -> dict:
    """State for parameters of shape (P,) that hold matrices of these shapes.

    Parameters
    ----------
    theta : ndarray, shape (P,)
    layers : list of (int, int)
    settings : OptimizerConfig
        ``covariance`` and ``forgetting``.

    Returns
    -------
    dict
        ``ends`` of the blocks, their covariances in units of ``factor``, and lambda.
    """
    order, sizes, begin = [], [], 0
    for rows, columns in layers:
        own = np.arange(begin, begin + rows * columns).reshape(rows, columns)
        order.append(own.T.ravel())  # unit after unit
        sizes += [rows] * columns if settings.covariance == "unit" else [rows * columns]
        begin += rows * columns
    if settings.covariance == "full":
        sizes = [begin]
    return {
        **{f"block_{k}": np.eye(size) for k, size in enumerate(sizes)},
        "order": np.concatenate(order), "ends": np.cumsum(sizes), "factor": np.ones(len(sizes)),
        "forgetting": np.array([settings.forgetting]),
    }  # fmt: skip


def update(theta, slope, innovation, state, rate, settings):
    """One update.

    Parameters
    ----------
    theta, slope : ndarray, shape (P,)
        Parameters and H.
    innovation : float
        Label less prediction of the measurement.
    state : dict
        Of `init`; changed.
    rate : float
        Factor of the correction, 1 for the filter itself.
    settings : OptimizerConfig
        ``noise``, the variance of a measurement.

    Returns
    -------
    ndarray, shape (P,)
    """
    from scipy.linalg.blas import dsymv

    ends, factor, forgetting = state["ends"], state["factor"], state["forgetting"]
    parts = [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    slope = slope[state["order"]]
    projected = [
        factor[k] * dsymv(1.0, state[f"block_{k}"].T, slope[part])
        for k, part in enumerate(parts)
    ]  # fmt: skip
    gain = np.concatenate(projected)
    total = forgetting[0] * settings.noise + slope @ gain
    for k, v in enumerate(projected):
        _downdate(state[f"block_{k}"], v, 1 / (total * factor[k]))
        factor[k] /= forgetting[0]
    forgetting[0] = RISE * forgetting[0] + 1 - RISE
    theta = theta.copy()
    theta[state["order"]] += (rate * innovation / total) * gain
    return theta


def covariance(state, k: int) -> np.ndarray:
    """Block k of P."""
    upper = np.triu(state[f"block_{k}"].T)
    return state["factor"][k] * (upper + np.triu(upper, 1).T)


def _downdate(block, v, weight):
    """``block -= weight v v'`` in its triangle."""
    from scipy.linalg.blas import dsyr

    result = dsyr(-weight, v, a=block.T, overwrite_a=1)
    if not np.shares_memory(result, block):
        block.T[:] = result

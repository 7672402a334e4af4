"""Extended Kalman filter for the parameters, with fading memory.

One update per scalar measurement m(theta) with slope H = dm/dtheta and innovation a, what m lacks
(Shah, Palmieri and Datum, Neural Networks 5, 779 (1992); Hu et al., arXiv:2212.06989):

    K = P H / (lambda noise + H' P H),   theta <- theta + K a,   P <- (P - K H' P) / lambda,

with lambda rising from ``forgetting`` to 1. P is one block (``full``), a block for every layer
(``layer``), or, for layers of any width, a matrix A over the inputs of each layer that all its
units have in common (``shared``). With the slope of a layer as a matrix G (inputs, units), K is A G
and the update ``A <- (A - A G G' A / (lambda noise + H' P H)) / lambda``: what the filter of one
unit would learn from its own column of G, summed over the units. It takes matrix products of the
size of the layer, where a block of the layer's parameters takes the square of their number.
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
        ``shapes`` of G for every block of theta, its covariance in units of ``factor``, and lambda.
    """
    if settings.covariance == "full":
        layers = [(len(theta), 1)]
    elif settings.covariance == "layer":
        layers = [(rows * columns, 1) for rows, columns in layers]
    return {
        **{f"block_{k}": np.eye(rows) for k, (rows, _) in enumerate(layers)},
        "shapes": np.array(layers),
        "factor": np.array(1.0),
        "forgetting": np.array(settings.forgetting),
    }


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
    from scipy.linalg.blas import dsymm

    factor, forgetting = state["factor"], state["forgetting"]
    ends = np.cumsum([rows * columns for rows, columns in state["shapes"]])
    slopes = [
        part.reshape(shape)
        for part, shape in zip(np.split(slope, ends[:-1]), state["shapes"], strict=True)
    ]
    # .T: BLAS reads and writes one triangle, of arrays that Fortran would have made
    gains = [dsymm(factor, state[f"block_{k}"].T, g) for k, g in enumerate(slopes)]
    total = forgetting * settings.noise
    total += sum(np.vdot(g, gain) for g, gain in zip(slopes, gains, strict=True))
    for k, gain in enumerate(gains):
        _downdate(state[f"block_{k}"], gain, 1 / (total * factor))
    factor /= forgetting
    forgetting[...] = RISE * forgetting + 1 - RISE
    gain = np.concatenate([gain.ravel() for gain in gains])
    return theta + (rate * innovation / total) * gain


def covariance(state, k: int) -> np.ndarray:
    """Block k of P."""
    upper = np.triu(state[f"block_{k}"].T)
    return state["factor"] * (upper + np.triu(upper, 1).T)


def _downdate(block, gain, weight):
    """``block -= weight gain gain'`` in its triangle."""
    from scipy.linalg.blas import dsyrk

    result = dsyrk(-weight, gain, beta=1.0, c=block.T, overwrite_c=1)
    if not np.shares_memory(result, block):
        block.T[:] = result

"""Linear models by weighted least squares, block by block.

The rows of energies, forces and virials are never held together: a triangular factor R of what has
been read is updated with every block (sequential QR), so memory does not grow with the data and no
digits are lost to normal equations. The singular values of R then give a ridge or truncated
solution.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import qr, svd

VOIGT = ([0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1])
MULTIPLICITY = np.array([1, 1, 1, 2, 2, 2])
"""How often each Voigt component stands in the 3x3 tensor."""


@dataclass(frozen=True)
class RowWeights:
    """Factors of the squared errors of one batch; 0 leaves a row out.

    Attributes
    ----------
    energy, forces, virial : ndarray, shape (S,)
        For the energy of a structure (eV), each component of its forces (eV/Å) and each of the nine
        components of its virial (eV).
    """

    energy: np.ndarray
    forces: np.ndarray
    virial: np.ndarray


@dataclass(frozen=True)
class Solution:
    """Result of `solve`.

    Attributes
    ----------
    theta : ndarray, shape (P,)
    residual : float
        Weighted sum of squared errors, without the ridge.
    rank : int
        Directions of theta that the data determine.
    """

    theta: np.ndarray
    residual: float
    rank: int


def weighted_rows(model, batch, target, weights: RowWeights) -> np.ndarray:
    """Rows (m, P + 1) of one batch, the labels in the last column, both times sqrt(weight).

    Parameters
    ----------
    model : LinearModel
        Without reference energies and baseline (`fdforce.problem.without_offsets`).
    batch : Batch
    target : Target
        Missing labels are NaN and left out.
    weights : RowWeights
    """
    energy, forces, virial = model.design(batch)
    n = energy.shape[1]
    blocks = []
    for rows, labels, weight in (
        (energy, target.energy, weights.energy),
        (forces.reshape(-1, n), target.forces.ravel(),
         np.repeat(weights.forces[batch.structure], 3)),
        (virial.reshape(-1, n), target.virial[:, *VOIGT].ravel(),
         (weights.virial[:, None] * MULTIPLICITY).ravel()),
    ):  # fmt: skip
        used = ~np.isnan(labels) & (weight > 0)
        root = np.sqrt(weight[used])[:, None]
        blocks.append(root * np.column_stack([rows[used], labels[used]]))
    return np.concatenate(blocks)


def solve(blocks: Iterable[np.ndarray], *, ridge: float = 0.0, cutoff: float = 1e-13) -> Solution:
    """Minimise ``|A theta - b|^2 + ridge |theta|^2`` over blocks of rows (A | b).

    Parameters
    ----------
    blocks : iterable of ndarray, shape (m, P + 1)
    ridge : float
        In units of the mean squared column of A, so that 1e-6 means the same for any weights.
    cutoff : float
        Singular values below this share of the largest are left out.

    Returns
    -------
    Solution

    Raises
    ------
    ValueError
        No rows.
    """
    factor = None
    for block in blocks:
        rows = block if factor is None else np.concatenate([factor, block])
        if len(rows) > rows.shape[1]:
            rows = qr(rows, mode="r", overwrite_a=True, check_finite=False)[0][: rows.shape[1]]
        factor = rows
    if factor is None or not len(factor):
        raise ValueError("no labels to fit")
    u, s, vt = svd(factor[:, :-1], full_matrices=False)
    labels = factor[:, -1]
    projected = u.T @ labels
    kept = s > cutoff * s[0]
    damping = ridge * np.mean(s**2)
    gain = np.where(kept, s / np.where(kept, s**2 + damping, 1.0), 0.0)
    theta = vt.T @ (gain * projected)
    error = factor[:, :-1] @ theta - labels
    return Solution(theta, float(error @ error), int(kept.sum()))

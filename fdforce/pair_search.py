"""Pairs of a structure by vesin, kept away from the boxes that it cannot search."""

from __future__ import annotations

import numpy as np
from vesin import NeighborList


def search_pairs(points, cell, periodic, cutoff: float, *, full_list: bool):
    """Pairs within a cutoff.

    Parameters
    ----------
    points : ndarray, shape (n_atoms, 3), Å
    cell : ndarray, shape (3, 3), Å
        Not singular where a direction is periodic.
    periodic : ndarray, shape (3,), bool
    cutoff : float, Å
    full_list : bool
        Each pair from both ends.

    Returns
    -------
    i, j : ndarray of int
    shift : ndarray, shape (n_pairs, 3), int32
        ``d_ij = r_j + shift @ cell - r_i``.
    distance : ndarray, Å
    """
    box, wider = cell, cutoff
    if periodic.any() and not periodic.all():
        box, periodic = _closed_box(points, cell, periodic, 2.0 * cutoff), np.ones(3, bool)
    if periodic.all():
        wider = _safe_cutoff(box, cutoff)
    # one thread: structures of a training set are too small to share
    search = NeighborList(cutoff=wider, full_list=full_list, n_threads=1)
    pairs = search.compute(points=points, box=box, periodic=periodic, quantities="ijSd")
    if wider > cutoff:
        near = pairs[3] <= cutoff
        pairs = [column[near] for column in pairs]
    return tuple(pairs)


def _safe_cutoff(box: np.ndarray, cutoff: float) -> float:
    """Return a cutoff that makes no more than 10^5 grid cells in a periodic box.

    vesin merges cells beyond that number and divides by zero where a box is a single cell thick.
    """
    heights = 1.0 / np.linalg.norm(np.linalg.inv(box), axis=0)
    while np.maximum(heights / cutoff, 1.0).prod() > 1e5:
        cutoff *= 1.5
    return cutoff


def _closed_box(points, cell, periodic, gap: float) -> np.ndarray:
    """Lengthen the vectors of open directions so that images there stay `gap` Å apart.

    vesin is made for boxes that are all periodic or all open: with a wire of 100 Å it takes a
    hundred times longer, and beyond that it can divide by zero, which ends the process.
    """
    extents = np.ptp(points @ np.linalg.inv(cell), axis=0)
    heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    stretch = np.where(periodic, 1.0, np.maximum(extents + gap / heights, 1.0))
    return cell * stretch[:, None]

"""Slopes by central differences extrapolated to a vanishing step (Richardson), with their error.

Serves where nothing exact is known: as the reference of Err[grad L~] for outside codes, and in the
checks of `fdforce.consistency`.
"""

from __future__ import annotations

import numpy as np

RATIO = 2.0
"""Of one step to the next smaller one."""


def extrapolate(differences) -> tuple:
    """Best entry of the Romberg table of central differences, and an estimate of its error.

    The error of an entry is its largest distance from the two it was made of; the entry of least
    error is taken, so that neither truncation at large steps nor noise at small ones spoils the
    result (Ridders, Adv. Eng. Softw. 4, 75 (1982)).

    Parameters
    ----------
    differences : sequence of float or ndarray
        Central differences of one function at steps h, h / 2, h / 4, ...; at least two.

    Returns
    -------
    slope : float or ndarray
    error : float
        A norm where the slope is an array.
    """
    above: list = []
    best, least = differences[0], np.inf
    for difference in differences:
        row = [difference]
        for order, coarser in enumerate(above, start=1):
            factor = RATIO ** (2 * order)
            entry = (factor * row[-1] - coarser) / (factor - 1)
            error = max(np.linalg.norm(entry - row[-1]), np.linalg.norm(entry - coarser))
            if error < least:
                best, least = entry, float(error)
            row.append(entry)
        above = row
    return best, least


def slope_at_zero(f, step: float, levels: int = 8) -> tuple[float, float]:
    """df/dt at t = 0 and its error, from f at plus and minus step, step / 2, ..."""
    steps = step / RATIO ** np.arange(levels)
    return extrapolate([(f(h) - f(-h)) / (2 * h) for h in steps])

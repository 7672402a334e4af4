"""A step length along a descent direction, under the Wolfe conditions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

DECREASE, CURVATURE = 1e-4, 0.9
"""Of the decrease that the slope promises, the share that a step must bring (Armijo); of the slope,
the share that may be left at its end. Nocedal and Wright, Numerical Optimization, section 3.1."""

EVALUATIONS = 20
"""Of a search, at most; a length may shrink by ten in each."""


def step_length(evaluate: Callable, value: float, slope: float) -> float:
    """Length of a step that lowers a function, with 1 as the first trial.

    A length is too long where the decrease is too small or the value not finite, and too short
    where the function still falls as steeply as at the start. Between two such lengths the minimum
    of a parabola is tried, no nearer to either than a tenth of their distance.

    Parameters
    ----------
    evaluate : callable
        Takes a length; returns value and slope there, or a value that is not finite.
    value, slope : float
        At length 0; the slope must be negative.

    Returns
    -------
    float
        Where both conditions hold. If none is found in `EVALUATIONS`, the longest that brings
        enough decrease; 0 if there is none.
    """
    short, short_value, short_slope, long, length = 0.0, value, slope, np.inf, 1.0
    for _ in range(EVALUATIONS):
        here, here_slope = evaluate(length)
        # below the rounding of the value, a decrease that is asked for is none
        enough = here < value and here <= value + DECREASE * length * slope
        if not (np.isfinite(here) and enough):
            long = length
            width = long - short
            # positive: the line of the decrease lies above that of the slope at `short`
            above = here - short_value - short_slope * width
            share = -0.5 * short_slope * width / above if np.isfinite(above) else 0.0
            length = short + width * min(max(share, 0.1), 0.9)
        elif here_slope >= CURVATURE * slope:
            return length
        else:
            short, short_value, short_slope = length, here, here_slope
            length = 2 * short if np.isinf(long) else 0.5 * (short + long)
    return short

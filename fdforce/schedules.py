"""Learning-rate schedules.

``schedule(history, settings)`` is called once an epoch with the validation losses so far and
returns a function of the share of the run that has passed (of its epochs or its time, whichever is
further), whose value is a factor of the initial learning rate.
"""

from __future__ import annotations

import math

WARM_UP = 0.01
"""Share of the run over which the cosine schedule rises."""
FLOOR = 1e-3
"""Last factor of the cosine schedule."""


def cosine(history, settings):
    """Linear warm-up, then half a cosine down to `FLOOR`."""

    def factor(progress):
        progress = min(progress, 1.0)
        if progress < WARM_UP:
            return max(progress / WARM_UP, 0.1)
        fall = (progress - WARM_UP) / (1 - WARM_UP)
        return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * fall))

    return factor


def plateau(history, settings):
    """A reduction each time the validation loss has not improved for a while."""
    value, best, since = 1.0, math.inf, 0
    for loss in history:
        since += 1
        if loss < best:
            best, since = loss, 0
        elif since >= settings.plateau_patience:
            value, since = value * settings.plateau_factor, 0
    return lambda progress: value


def constant(history, settings):
    """No change."""
    return lambda progress: 1.0


SCHEDULES = {"cosine": cosine, "plateau": plateau, "constant": constant}

"""Learning-rate schedules.

``rate(progress, history, settings)``: a factor of the initial learning rate, from the share of the
run that has passed (of its epochs or of its time, whichever is further) and the validation losses
of the epochs so far.
"""

from __future__ import annotations

import math

WARM_UP = 0.01
"""Share of the run over which the cosine schedule rises."""
FLOOR = 1e-3
"""Last factor of the cosine schedule."""


def cosine(progress, history, settings):
    """Linear warm-up, then half a cosine down to `FLOOR`."""
    progress = min(progress, 1.0)
    if progress < WARM_UP:
        return max(progress / WARM_UP, 0.1)
    fall = (progress - WARM_UP) / (1 - WARM_UP)
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * fall))


def plateau(progress, history, settings):
    """A reduction each time the validation loss has not improved for a while."""
    factor, best, since = 1.0, math.inf, 0
    for loss in history:
        since += 1
        if loss < best:
            best, since = loss, 0
        elif since >= settings.plateau_patience:
            factor, since = factor * settings.plateau_factor, 0
    return factor


def constant(progress, history, settings):
    """No change."""
    return 1.0


SCHEDULES = {"cosine": cosine, "plateau": plateau, "constant": constant}

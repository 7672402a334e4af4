"""Learning-rate schedules.

``schedule(history, settings)`` is called once an epoch with the validation losses so far and
returns a function of the share of the run that has passed (of its epochs or its time, whichever is
further), whose value is a factor of the initial learning rate. Every schedule begins with a linear
rise over the share ``training.warm_up``.
"""

from __future__ import annotations

import math

LEAST = 0.1
"""Factor at which the rise begins."""


def cosine(history, settings):
    """Half a cosine down to ``final_rate``, begun again after every restart.

    Loshchilov and Hutter, arXiv:1608.03983, Eq. 5, with cycles of equal length.
    """
    cycles = settings.restarts + 1
    low = settings.final_rate

    def factor(fall):
        within = fall * cycles % 1.0 if fall < 1 else 1.0
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * within))

    return _after_warm_up(factor, settings)


def exponential(history, settings):
    """A fall by the same factor in the same time, down to ``final_rate``."""
    return _after_warm_up(lambda fall: settings.final_rate**fall, settings)


def plateau(history, settings):
    """A reduction each time the validation loss has not improved for a while."""
    value, best, since = 1.0, math.inf, 0
    for loss in history:
        since += 1
        if loss < best:
            best, since = loss, 0
        elif since >= settings.plateau_patience:
            value, since = value * settings.plateau_factor, 0
    return _after_warm_up(lambda fall: value, settings)


def constant(history, settings):
    """No change after the rise."""
    return _after_warm_up(lambda fall: 1.0, settings)


def _after_warm_up(factor, settings):
    """A linear rise, then `factor` of the share of what is left."""
    rise = settings.warm_up

    def of_share(share):
        if share < rise:
            return max(share / rise, LEAST) * factor(0.0)
        return factor(min((share - rise) / (1 - rise), 1.0))

    return of_share


SCHEDULES = {
    "cosine": cosine,
    "exponential": exponential,
    "plateau": plateau,
    "constant": constant,
}

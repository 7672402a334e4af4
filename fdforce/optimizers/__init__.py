"""Optimizers: each a pair of plain functions with a dict of arrays as state.

``init(theta, layers) -> state`` and ``update(theta, gradient, state, learning_rate, settings) ->
theta``. `layers` are the shapes of the matrices that theta holds one after the other, for methods
that use them; `state` is changed in place, so that saving its arrays saves the optimizer. Decay,
clipping and schedules are the trainer's. ``kalman``, ``lbfgs`` and ``least_squares`` want more than
one gradient per batch and have trainers of their own (`fdforce.fitting.TRAINERS`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from fdforce.optimizers import adadelta, adagrad, adam, adamax, nadam, sgd, soap


class Optimizer(NamedTuple):
    """One step of a method that takes a gradient per batch."""

    init: Callable
    update: Callable


OPTIMIZERS = {
    "adam": Optimizer(adam.init, adam.update),
    "adamw": Optimizer(adam.init, adam.update),
    "adamax": Optimizer(adamax.init, adamax.update),
    "nadam": Optimizer(adam.init, nadam.update),
    "adagrad": Optimizer(adagrad.init, adagrad.update),
    "adadelta": Optimizer(adadelta.init, adadelta.update),
    "sgd": Optimizer(sgd.init, sgd.update),
    "soap": Optimizer(soap.init, soap.update),
}
"""name -> method; ``adamw`` differs from ``adam`` by its weight decay alone."""

AUTO = {
    "adam": {"learning_rate": 0.006, "weight_decay": 0.0},
    "adamw": {"learning_rate": 0.006, "weight_decay": 0.03},
    "adamax": {"learning_rate": 0.01, "weight_decay": 0.03},
    "nadam": {"learning_rate": 0.006, "weight_decay": 0.03},
    "adagrad": {"learning_rate": 0.03, "weight_decay": 0.03},
    "adadelta": {"learning_rate": 1.0, "weight_decay": 0.0},
    "sgd": {"learning_rate": 0.03, "weight_decay": 0.03},
    "soap": {"learning_rate": 0.006, "weight_decay": 0.03},
    "kalman": {"learning_rate": 1.0, "weight_decay": 0.0},
    "lbfgs": {"learning_rate": 1.0, "weight_decay": 0.0},
    "least_squares": {"learning_rate": 1.0, "weight_decay": 0.0},
}
"""What ``auto`` means for each."""


BATCH_ATOMS, BATCH_STRUCTURES = 160, 8
"""What a batch holds with ``batch_size = "auto"``: about so many atoms, structures at most.

A step takes one direction from a batch, and a large structure alone holds enough of them: in the
same time, liquid water of 192 atoms ends at 0.035 eV/Å with one structure and 0.086 with eight.
"""


def with_numbers(settings, structures=None):
    """Optimizer settings with numbers in place of ``auto``.

    Parameters
    ----------
    settings : OptimizerConfig
    structures : Structures, optional
        Those to train on; without them ``batch_size`` stays as it is.
    """
    auto = {
        name: value
        for name, value in AUTO.get(settings.name, {}).items()
        if getattr(settings, name) == "auto"
    }
    if settings.batch_size == "auto" and structures is not None:
        number = round(BATCH_ATOMS * len(structures) / structures.n_atoms)
        auto["batch_size"] = min(max(number, 1), BATCH_STRUCTURES)
    return dataclasses.replace(settings, **auto)

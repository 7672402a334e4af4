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


def with_numbers(settings):
    """Optimizer settings with numbers in place of ``auto``."""
    auto = {
        name: value
        for name, value in AUTO.get(settings.name, {}).items()
        if getattr(settings, name) == "auto"
    }
    return dataclasses.replace(settings, **auto)

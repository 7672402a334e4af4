"""Ranges of a search: which keys vary, between what, and how values are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, get_args

import numpy as np

from fdforce.config import AnyModelConfig, Config, keys_of, known_keys, override
from fdforce.errors import ConfigError

FIXED = {
    "training.epochs": "the budget of [search] sets it",
    "training.max_time": "the budget of [search] sets it",
    "training.seed": "trials are compared on the same split",
    "training.ensemble": "a trial is one network",
    "training.member": "a trial is one network",
}
"""Keys of [training] that are the same in all trials, with the reason."""


@dataclass(frozen=True)
class Choice:
    """One of a list of values."""

    key: str
    values: tuple

    @property
    def size(self) -> int:
        """Number of different values."""
        return len(self.values)

    def __contains__(self, value) -> bool:
        return value in self.values

    def draw(self, rng: np.random.Generator):
        """A value, all equally likely."""
        return self.values[rng.integers(len(self.values))]


@dataclass(frozen=True)
class Interval:
    """Numbers between two ends, both included; uniform in the number or in its logarithm.

    Integers are numbers rounded, drawn from half a unit beyond the ends, so that the ends are as
    likely as their neighbours.
    """

    key: str
    low: float
    high: float
    log: bool = False
    integer: bool = False

    @property
    def size(self) -> float:
        """Number of different values."""
        return self.high - self.low + 1 if self.integer else math.inf

    def __contains__(self, value) -> bool:
        return not isinstance(value, str) and self.low <= value <= self.high

    def draw(self, rng: np.random.Generator) -> float | int:
        """A value."""
        margin = 0.5 if self.integer else 0.0
        ends = np.array([self.low - margin, self.high + margin])
        value = np.exp(rng.uniform(*np.log(ends))) if self.log else rng.uniform(*ends)
        value = min(max(value, self.low), self.high)
        return round(value) if self.integer else float(value)


def read_ranges(table: Any, config: Config, where: str) -> list[Choice | Interval]:
    """The ranges of ``[search.ranges]``, checked against the keys of the configuration.

    Parameters
    ----------
    table : dict
        ``"table.key"`` (or tables of keys) to a list of choices or ``{low, high, log}``.
    config : Config
        What the search starts from.
    where : str
        Where the ranges come from, for error messages.

    Raises
    ------
    ConfigError
        No ranges; a key that is unknown or not to be searched; a value out of its range or of the
        wrong type.
    """
    if not isinstance(table, Mapping) or not table:
        raise ConfigError(
            f'{where}: [search.ranges] is empty; give keys, e.g. "optimizer.learning_rate" = '
            "{ low = 1e-3, high = 3e-2, log = true }"
        )
    flat = {}
    for name, value in table.items():  # optimizer.learning_rate without quotes is a table of tables
        nested = "." not in name and isinstance(value, Mapping) and "low" not in value
        flat |= {f"{name}.{key}": item for key, item in value.items()} if nested else {name: value}
    ranges = [_read_range(name, value, config, where) for name, value in flat.items()]
    if "model.descriptor" in flat:
        common = keys_of(AnyModelConfig)
        own = [n for n in flat if n.startswith("model.") and n.split(".", 1)[1] not in common]
        if own:
            raise ConfigError(
                f"{where}: search.ranges: {own[0]} belongs to one descriptor, and model.descriptor "
                "is searched too; search the keys of each descriptor by themselves"
            )
    return ranges


def draw_trials(
    ranges: list[Choice | Interval], number: int, seed: int, config: Config
) -> list[dict]:
    """So many different combinations of values, a dict of key to value each.

    The first one is that of the configuration itself, if it lies within the ranges.

    Raises
    ------
    ConfigError
        There are fewer combinations.
    """
    most = math.prod(r.size for r in ranges)
    if number > most:
        raise ConfigError(
            f"search.trials = {number}: the ranges have {most:.0f} combinations; "
            "ask for fewer trials or give more choices"
        )
    own = {r.key: _value(config, r.key) for r in ranges}
    trials = [own] if all(own[r.key] in r for r in ranges) else []
    rng = np.random.default_rng(seed)
    while len(trials) < number:
        values = {r.key: r.draw(rng) for r in ranges}
        if values not in trials:
            trials.append(values)
    return trials


def with_values(config: Config, values: Mapping[str, Any], where: str = "search") -> Config:
    """A configuration with values of ``"table.key"`` changed; raises ConfigError."""
    changes: dict = {}
    for name, value in values.items():
        table, key = name.split(".", 1)
        changes.setdefault(table, {})[key] = value
    return override(config, changes, where=where)


def _value(config, name):
    table, key = name.split(".", 1)
    return getattr(getattr(config, table), key)


def _read_range(name, value, config, where):
    where = f"{where}: search.ranges"
    if "." not in name:
        raise ConfigError(f'{where}: {name}: give table and key, e.g. "optimizer.learning_rate"')
    reason = FIXED.get(name)
    if name.startswith("data."):
        reason = "trials are compared on the same data"
    if reason:
        raise ConfigError(f"{where}: {name} cannot be searched: {reason}")
    if isinstance(value, list):
        found = _choice(name, value, where)
        tried = found.values
    elif isinstance(value, Mapping):
        found = _interval(name, value, config, where)
        tried = (found.low, found.high)
    else:
        raise ConfigError(
            f"{where}: {name} = {value!r}: expected a list of choices or {{ low = …, high = … }}"
        )
    for item in tried:
        with_values(config, {name: item}, where)
    return found


def _choice(name, values, where):
    if not values or any(values.count(item) > 1 for item in values):
        raise ConfigError(
            f"{where}: {name}: {'lists no choice' if not values else 'lists a choice twice'}"
        )
    return Choice(name, tuple(values))


def _interval(name, value, config, where):
    unknown = sorted(set(value) - {"low", "high", "log"})
    if unknown or not {"low", "high"} <= set(value):
        raise ConfigError(
            f"{where}: {name}: {f'unknown key {unknown[0]}; ' if unknown else ''}"
            "a range has low, high and, where wanted, log = true"
        )
    low, high, log = value["low"], value["high"], value.get("log", False)
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    if not numbers or not isinstance(log, bool):
        raise ConfigError(f"{where}: {name}: low and high must be numbers, log true or false")
    with_values(config, {name: low}, where)  # an unknown key, before its type is asked for
    table, key = name.split(".", 1)
    kind = known_keys(config)[table][key].type
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if not {int, float} & set(kinds):
        raise ConfigError(f"{where}: {name} is no number; give a list of choices")
    if not low < high:
        raise ConfigError(f"{where}: {name}: low = {low} must be less than high = {high}")
    if log and low <= 0:
        raise ConfigError(f"{where}: {name}: low = {low}: log = true needs low above 0")
    return Interval(name, low, high, log, integer=float not in kinds)

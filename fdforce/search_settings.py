"""What a search is asked for: the table [search] and the configuration that it varies."""

# ruff: noqa: RUF009 -- key() is called for dataclass defaults: it returns dataclasses.field()

import os
from dataclasses import dataclass

from fdforce.config import (
    Config,
    absolute_paths,
    checked_values,
    config_from_dict,
    key,
    keys_of,
    merge_overrides,
    override,
    read_toml,
    to_toml,
    toml_table,
)
from fdforce.errors import ConfigError
from fdforce.search_ranges import Choice, Interval, read_ranges
from fdforce.transfer import with_model_of_start
from fdforce.trials import ERRORS

LOSS_KEYS = ("loss.", "model.baseline")
"""Keys that change what a loss of 1 means, so that losses of trials cannot be compared."""


@dataclass(frozen=True)
class SearchConfig:
    """A search (`fdforce search`): the table [search] besides its ranges."""

    trials: int = key(27, "combinations of values in the first round", minimum=1)
    factor: int = key(
        3, "a share 1/factor goes on to the next round, with factor times the budget", minimum=2
    )
    rounds: int = key(0, "rounds; 0 = until one trial is left", minimum=0)
    budget: float = key(0.0, "seconds of a trial of the last round", minimum=0)
    budget_epochs: int = key(0, "epochs of a trial of the last round, instead", minimum=0)
    objective: str | dict[str, float] = key(
        "valid_loss",
        "what is minimised on the validation data, or a table of factors of such errors",
        choices=("valid_loss", "energy_rmse", "force_rmse", "stress_rmse"),
        minimum=0,
    )
    seed: int = key(0, "seed of the values that are tried", minimum=0)


def read_search(config, overrides) -> tuple[Config, SearchConfig, list[Choice | Interval], str]:
    """Base configuration, settings, ranges, and all of it as TOML.

    Parameters
    ----------
    config : path or dict
        A configuration with a table [search].
    overrides : iterable of str
        ``"table.key=value"``, also of [search].

    Raises
    ------
    FdforceError
        A table, key, value or range is not valid, or the model to start from cannot be read.
    """
    where, folder = "configuration", ""
    if not isinstance(config, dict):
        where = os.fspath(config)
        folder = os.path.dirname(os.path.abspath(where))
        config = read_toml(where)
    tables = dict(config)
    if not isinstance(tables.get("search"), dict):
        raise ConfigError(f"{where}: has no table [search]; `fdforce search --help` shows one")
    changes = merge_overrides(overrides)
    own = {**tables.pop("search"), **changes.pop("search", {})}
    base = absolute_paths(config_from_dict(tables, where=where), folder)
    if changes:
        base = absolute_paths(override(base, changes, where="--set"))
    given = {**tables.get("model", {}), **changes.get("model", {})}
    base = with_model_of_start(base, given)
    given = {k: v for k, v in own.items() if k != "ranges"}
    settings = SearchConfig(**checked_values("search", keys_of(SearchConfig), given, where))
    _check_together(settings, where)
    ranges = read_ranges(own.get("ranges"), base, where)
    _check_objective(settings, ranges, where)
    model = [r.key for r in ranges if r.key.startswith("model.")]
    if base.training.start_from and model:
        raise ConfigError(
            f"{where}: search.ranges: {model[0]} is that of training.start_from; leave one out"
        )
    tables = {"search": vars(settings), "search.ranges": own["ranges"]}
    text = "\n".join([to_toml(base), *(toml_table(*table) for table in tables.items())])
    return base, settings, ranges, text


def _check_together(settings, where):
    if bool(settings.budget) == bool(settings.budget_epochs):
        raise ConfigError(
            f"{where}: search.budget = {settings.budget} and search.budget_epochs = "
            f"{settings.budget_epochs}: give one of them, in seconds or in epochs"
        )
    if isinstance(settings.objective, dict):
        unknown = sorted(set(settings.objective) - set(ERRORS))
        if unknown or not any(settings.objective.values()):
            raise ConfigError(
                f"{where}: search.objective: {unknown[0] if unknown else 'all factors are 0'}; "
                f"give factors of {', '.join(ERRORS)}"
            )


def _check_objective(settings, ranges, where):
    changed = [r.key for r in ranges if r.key.startswith(LOSS_KEYS)]
    if settings.objective == "valid_loss" and changed:
        raise ConfigError(
            f'{where}: search.objective = "valid_loss" is measured in units that {changed[0]} '
            "changes; take force_rmse or e.g. { energy_rmse = 1.0, force_rmse = 0.1 }"
        )

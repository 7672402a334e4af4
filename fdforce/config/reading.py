"""A configuration from a TOML file, a dict and overrides, checked."""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any

from fdforce.config.tables import (
    TABLES,
    AnyModelConfig,
    Config,
    default_config,
    descriptor_of,
    end_weight,
    keys_of,
    model_config,
)
from fdforce.config.toml import parse_value, read_toml
from fdforce.config.values import checked_value, nearest, show
from fdforce.errors import ConfigError


def load_config(path: str | os.PathLike, overrides: Iterable[str] = ()) -> Config:
    """Read a TOML file.

    Parameters
    ----------
    path : str or path
        The file. Relative paths inside it are taken from its own folder.
    overrides : iterable of str
        ``"table.key=value"``, applied in order after the file. Relative paths in these stay
        relative to the working directory. See `parse_override`.

    Returns
    -------
    Config
        Keys that appear in neither have their defaults.

    Raises
    ------
    ConfigError
        The file is missing, unreadable or not TOML, or a table, key or value is not valid.
    """
    where = os.fspath(path)
    config = config_from_dict(read_toml(where), where=where)
    config = absolute_paths(config, os.path.dirname(os.path.abspath(where)))
    return _with_overrides(config, overrides)


def config_from_dict(
    mapping: Mapping[str, Mapping[str, Any]],
    overrides: Iterable[str] = (),
    where: str = "configuration",
) -> Config:
    """Check a dict of tables and complete it with the defaults.

    Parameters
    ----------
    mapping : dict of dicts
        ``{"training": {"epochs": 5}}``.
    overrides : iterable of str
        ``"table.key=value"``, applied in order after the mapping.
    where : str
        Where the mapping comes from, for error messages.

    Raises
    ------
    ConfigError
        A table, key or value is not valid.

    Examples
    --------
    >>> config_from_dict({"training": {"epochs": 5}}, ["model.hidden=[15, 15]"]).model.hidden
    [15, 15]
    """
    return _with_overrides(override(default_config(), mapping, where=where), overrides)


def override(
    config: Config, changes: Mapping[str, Mapping[str, Any]], where: str = "configuration"
) -> Config:
    """A copy of a configuration with some keys changed.

    Parameters
    ----------
    config : Config
    changes : dict of dicts
        ``{"training": {"epochs": 5}}``.
    where : str
        Where the changes come from, for error messages.

    Raises
    ------
    ConfigError
        A table, key or value is not valid.

    Examples
    --------
    >>> override(default_config(), {"training": {"epochs": 5}}).training.epochs
    5
    """
    tables = {}
    for table, values in changes.items():
        if table not in TABLES:
            raise ConfigError(f"{where}: {_unknown_table(table)}")
        if not isinstance(values, Mapping):
            raise ConfigError(
                f"{where}: {table} = {show(values)}: expected a table, "
                f"[{table}] with key = value lines below it"
            )
        settings = getattr(config, table)
        if table == "model":
            named = values.get("descriptor", descriptor_of(values, settings))
            settings = _with_keys_of(settings, named)
        keys = keys_of(settings)
        tables[table] = dataclasses.replace(settings, **checked_values(table, keys, values, where))
    config = dataclasses.replace(config, **tables)
    _check_together(config, where)
    return config


def checked_values(
    table: str, keys: Mapping[str, Any], values: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Values of some keys of a table, as the keys store them.

    Parameters
    ----------
    table : str
        Its name, for error messages.
    keys : dict
        Key name -> dataclasses.Field (`keys_of`).
    values : dict
    where : str
        Where the values come from, for error messages.

    Raises
    ------
    ConfigError
        A key or value is not valid.
    """
    result = {}
    for key, value in values.items():
        if key not in keys:
            raise ConfigError(f"{where}: {_unknown_key(table, keys, key)}")
        result[key] = checked_value(value, keys[key], f"{where}: {table}.{key}")
    return result


def _with_keys_of(settings, descriptor):
    """The table [model] for a descriptor, with what all descriptors have in common kept."""
    table = model_config(descriptor) if isinstance(descriptor, str) else type(settings)
    if isinstance(settings, table) and type(settings) is table:
        return settings
    common = {name: getattr(settings, name) for name in keys_of(AnyModelConfig)}
    return table(**{**common, "descriptor": descriptor})


def parse_override(text: str) -> dict[str, dict[str, Any]]:
    """The change that ``table.key=value`` asks for, as `override` takes it.

    The value is read as TOML. What is not TOML is a bare string, so quotes may be left out,
    also inside a flat list.

    Raises
    ------
    ConfigError
        The text is not of the form ``table.key=value``.

    Examples
    --------
    >>> parse_override("training.epochs=5")
    {'training': {'epochs': 5}}
    >>> parse_override("model.elements=[Ti, O]")
    {'model': {'elements': ['Ti', 'O']}}
    """
    name, equals, value = text.partition("=")
    table, dot, key = name.strip().partition(".")
    if not (equals and dot and table and key):
        homes = [home for home in TABLES if name.strip() in TABLES[home]]
        example = f"{homes[0]}.{name.strip()}=VALUE" if homes else "training.epochs=100"
        raise ConfigError(f"--set {text}: expected table.key=value, e.g. {example}")
    return {table: {key: parse_value(value.strip(), text)}}


def merge_overrides(overrides: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The changes that ``table.key=value`` texts ask for together; a later one wins."""
    changes: dict[str, dict[str, Any]] = {}
    for text in overrides:
        for table, values in parse_override(text).items():
            changes.setdefault(table, {}).update(values)
    return changes


def _with_overrides(config, overrides):
    changes = merge_overrides(overrides)
    return override(config, changes, where="--set") if changes else config


def absolute_paths(config: Config, folder: str | os.PathLike = "") -> Config:
    """A copy in which every file is an absolute path.

    Parameters
    ----------
    config : Config
    folder : str or path
        Where relative paths start; the working directory unless given.

    Examples
    --------
    >>> config = config_from_dict({"data": {"train": "a.xyz"}})
    >>> absolute_paths(config, "/data").data.train
    ['/data/a.xyz']
    """

    def absolute(value):
        if isinstance(value, list):
            return [absolute(item) for item in value]
        if isinstance(value, str) and value:
            return os.path.abspath(os.path.join(folder, os.path.expanduser(value)))
        return value

    names = [name for name, key in TABLES["data"].items() if key.metadata.get("files")] + ["cache"]
    changes = {name: absolute(getattr(config.data, name)) for name in names}
    start = absolute(config.training.start_from)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, **changes),
        training=dataclasses.replace(config.training, start_from=start),
    )


def _check_together(config, where):
    """Rules between keys."""
    data, loss = config.data, config.loss
    for group, factors in loss.group_weights.items():
        if len(factors) != 3:
            raise ConfigError(
                f"{where}: loss.group_weights.{group} = {factors}: give three numbers, for "
                "energies, forces and stresses"
            )
    weights = {
        name: getattr(loss, name) for name in ("energy_weight", "force_weight", "stress_weight")
    }
    for name, weight in weights.items():
        if isinstance(weight, list) and len(weight) != 2:
            raise ConfigError(
                f"{where}: loss.{name} = {weight}: give one number, or two, for the start and the "
                "end of the run"
            )
    fractions = [part for part in (data.valid, data.test) if isinstance(part, float)]
    if sum(fractions) >= 1:
        raise ConfigError(
            f"{where}: data.valid = {data.valid} and data.test = {data.test}: "
            "their sum must be less than 1, or nothing is left to train on"
        )
    training = config.training
    if not -1 <= training.member < min(training.ensemble, training.seed + 1):
        raise ConfigError(
            f"{where}: training.member = {training.member}: below training.ensemble = "
            f"{training.ensemble} and at most training.seed = {training.seed}, which is that of "
            "the ensemble plus the number of the member"
        )
    if not any(end_weight(weight) for weight in weights.values()):
        raise ConfigError(
            f"{where}: loss.energy_weight, loss.force_weight and loss.stress_weight are all 0: "
            "at least one must be more than 0"
        )


def _unknown_table(table):
    homes = [home for home in TABLES if table in TABLES[home]]
    if homes:
        return f"{table} is outside its table; it belongs below [{homes[0]}]"
    if table == "search":
        return "[search] belongs to `fdforce search`; run that, or take the table out"
    return f"unknown table [{table}]{nearest(table, TABLES, '[{}]') or _list('tables', TABLES)}"


def _unknown_key(table, names, key):
    homes = [f"{home}.{key}" for home in TABLES if home != table and key in TABLES[home]]
    if homes:
        return f"unknown key {table}.{key}; did you mean {' or '.join(homes)}?"
    if table == "model" and key in TABLES["model"]:
        return f"model.{key} belongs to another descriptor{_list('keys of [model]', names)}"
    near = nearest(key, names, table + ".{}")
    return f"unknown key {table}.{key}{near or _list(f'keys of [{table}]', names)}"


def _list(what, names):
    return f"; the {what} are {', '.join(names)}"

"""Training directories of other programs, as `fdforce fit DIRECTORY` takes them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from fdforce.errors import ConfigError
from fdforce.formats import Training, recognised_training

UNITS = "ev-angstrom"
"""Of a directory that does not say."""


def read_training_directory(train, units: str | None = None) -> Training | None:
    """What a training directory asks for.

    Parameters
    ----------
    train : path or sequence of path
        Names of training data.
    units : str, optional
        "ev-angstrom" (the default) or "hartree-bohr", for formats that do not say.

    Returns
    -------
    Training or None
        None where `train` is anything else than one training directory.

    Raises
    ------
    ConfigError
        Units for files that say theirs, or a training directory among other files.
    """
    sources = [train] if isinstance(train, str | os.PathLike) else list(train or ())
    paths = [Path(source) for source in sources if isinstance(source, str | os.PathLike)]
    directories = [path for path in paths if recognised_training(path) is not None]
    if directories and len(sources) > 1:
        raise ConfigError(f"{directories[0]}: a training directory stands alone")
    if directories:
        module = recognised_training(directories[0])
        return module.read_training(directories[0], units=units or UNITS)
    if units is not None:
        if paths and not paths[0].exists():
            raise ConfigError(f"{paths[0]}: no such training directory")
        if paths and paths[0].is_dir():
            raise ConfigError(
                f"{paths[0]}: no training directory of n2p2, which has input.nn and input.data; "
                "other data say their units, so leave units out"
            )
        raise ConfigError(
            f"units = {units}: are for a training directory that does not say them; of one file, "
            "they may follow its name, as in input.data#units=hartree-bohr"
        )
    return None


def with_training_directory(config, settings: dict) -> tuple[object, dict, list[str]]:
    """Configuration and overrides of `fdforce.fit`, with a training directory read in.

    Parameters
    ----------
    config : path, dict, Config or None
        A directory is looked for in None or a dict.
    settings : dict
        Overrides, keys or whole tables, and perhaps ``units``. They win over the directory.

    Returns
    -------
    config, settings
        With the tables of the directory below what was given, and without ``units``.
    notes : list of str
        What the directory says that is read differently or not at all.
    """
    settings = dict(settings)
    units = settings.pop("units", None)
    tables = {} if config is None else config
    if not isinstance(tables, Mapping):
        if units is not None:
            raise ConfigError("units: give them with the training directory, not a configuration")
        return config, settings, []
    holders = [settings, settings.get("data"), tables.get("data")]
    holder = next((h for h in holders if isinstance(h, Mapping) and "train" in h), {})
    training = read_training_directory(holder.get("train"), units)
    if training is None:
        return config, settings, []
    merged = {table: dict(values) for table, values in training.tables.items()}
    for table, values in tables.items():
        kept = {key: v for key, v in values.items() if (table, key) != ("data", "train")}
        merged.setdefault(table, {}).update(kept)
    settings.pop("train", None)
    if isinstance(settings.get("data"), Mapping):
        settings["data"] = {k: v for k, v in settings["data"].items() if k != "train"}
    return merged, settings, training.notes

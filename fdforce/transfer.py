"""Starting a fit from an existing model, and keeping its first layers as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from fdforce import archive
from fdforce.config import Config, default_config, keys_of, override
from fdforce.errors import ConfigError, ModelFileError
from fdforce.evaluation import batches_of
from fdforce.formats import recognised_training
from fdforce.model_file import (
    FORMAT,
    VERSION,
    damaged,
    in_precision,
    make_model,
    model_contents,
)
from fdforce.models.network_settings import shorten, spell_out
from fdforce.reference_energies import reference_energies
from fdforce.training_directory import UNITS


def frozen(model, n_layers: int) -> np.ndarray:
    """Which parameters belong to the first layers of the networks.

    Parameters
    ----------
    model : ElementalNetworks
    n_layers : int
        0 for none.

    Returns
    -------
    ndarray, shape (P,), bool
        A mask over ``model.theta``.

    Raises
    ------
    ConfigError
        No layer is left to train.
    """
    if not n_layers:
        return np.zeros(len(model.theta), dtype=bool)
    fewest, most = (of(map(len, model.element_layers)) for of in (min, max))
    if n_layers >= fewest:
        layers = f"{fewest} to {most}" if fewest < most else fewest
        raise ConfigError(
            f"training.frozen_layers = {n_layers}: the networks have {layers} layers with that "
            "of the output, and one at least must be trained"
        )
    return np.concatenate(
        [
            np.full(rows * columns, k < n_layers)
            for shapes in model.element_layers
            for k, (rows, columns) in enumerate(shapes)
        ]
    )


def with_model_of_start(config: Config, given: Mapping) -> Config:
    """A configuration whose table [model] describes the model that training.start_from names.

    Parameters
    ----------
    config : Config
    given : dict
        The keys of [model] that were set on purpose.

    Returns
    -------
    Config
        Unchanged without training.start_from.

    Raises
    ------
    ConfigError
        A key that was set contradicts the model.
    ModelFileError
        The model file is missing, damaged, foreign or of a newer version.
    """
    path = config.training.start_from
    if not path:
        return config
    described = override(config, {"model": _table(path)}, where=path)
    given = {key: getattr(config.model, key) for key in given if key != "elements" or given[key]}
    if given.get("descriptor", described.model.descriptor) != described.model.descriptor:
        given = {"descriptor": given["descriptor"]}
        changed = config
    else:
        changed = override(described, {"model": given}, where=f"training.start_from = {path}")
    mine, theirs = _resolved(changed, described), _resolved(described, described)
    for key, value in given.items():
        if mine[key] != theirs[key]:
            raise ConfigError(
                f"model.{key} = {value!r:.60}: training.start_from = {path} has "
                f"{theirs[key]!r:.60}; leave model.{key} out, or train a new model"
            )
    return described


def _resolved(config: Config, described: Config) -> dict:
    """The table [model] as a model understands it: "auto" and one value for all spelt out."""
    from fdforce.descriptors import DESCRIPTORS

    table, elements = vars(config.model), described.model.elements
    family = DESCRIPTORS[config.model.descriptor]
    own = {key: table[key] for key in family.setting_help}
    spelt_out = family(elements=elements, **own).settings
    networks = shorten(elements, *spell_out(elements, table["hidden"], table["activation"]))
    return {**spelt_out, **table, **{key: spelt_out[key] for key in own}, **networks}


def set_on_purpose(config: Config) -> dict:
    """Keys of [model] that differ from what a configuration without them would have."""
    plain, own = default_config().model, type(config.model)()
    values = {key: getattr(config.model, key) for key in keys_of(own)}
    return {
        key: value for key, value in values.items()
        if value != getattr(plain if key == "descriptor" else own, key)
    }  # fmt: skip


def start_contents(path) -> tuple[dict, dict]:
    """Header and arrays of what training.start_from names.

    Parameters
    ----------
    path : str
        A model file, or a training directory of another program with its potential.

    Raises
    ------
    ModelFileError
    """
    directory = recognised_training(Path(path))
    if directory is None:
        return archive.read_archive(path, FORMAT, VERSION, ModelFileError)
    return model_contents(directory.read_potential(Path(path), units=UNITS))


def start_model(path, precision: str):
    """The model that training.start_from names, with kernels in a precision."""
    header, arrays = start_contents(path)
    with damaged(path, ModelFileError):
        return in_precision(make_model(header, arrays), precision)


def _table(path) -> dict:
    """The table [model] that the model to start from corresponds to."""
    header, arrays = start_contents(path)
    if "members" in header:
        raise ConfigError(
            f"training.start_from = {path}: is an ensemble; name the model of one member, "
            "member-0/model.npz in the directory of its run"
        )
    with damaged(path, ModelFileError):
        descriptor, quadratic = header["descriptor"], False
        while "of" in descriptor:
            quadratic |= descriptor["name"] == "quadratic"
            descriptor = descriptor["of"]
        settings = {key: v for key, v in descriptor.items() if key not in ("name", "elements")}
        table = {
            "kind": header["kind"], "descriptor": descriptor["name"], "quadratic": quadratic,
            "elements": header["elements"], **settings, **header["network"],
            "baseline": header["baseline"] or "none",
        }  # fmt: skip
        if table["baseline"] == "calculator":
            table["baseline_calculator"] = header["baseline_calculator"]
        elif table["baseline"] == "zbl_lammps":
            for radius in ("baseline_inner", "baseline_outer"):
                table[radius] = float(arrays[radius].flat[0])
    return table


def shifted_references(model, structures, pairs, threads: int) -> np.ndarray:
    """Reference energies with which a model's energies fit those of a data set best.

    What its networks predict stays as it is, so they are fitted to the differences from it.
    Elements that do not occur keep theirs.

    Parameters
    ----------
    model : ElementalNetworks
    structures : Structures
    pairs : PairList
    threads : int

    Returns
    -------
    ndarray, shape (n_elements,), eV
    """
    batches = batches_of(structures, pairs, threads)
    predicted = np.concatenate([model.forward(batch).energy for batch in batches])
    missed = replace(structures, energies=structures.energies - predicted)
    occurs = structures.compositions.any(axis=0)
    return model.reference_energies + np.where(occurs, reference_energies(missed), 0.0)


def begin_unseen_elements(model, batches, seed: int) -> None:
    """Give elements that the model has by name alone a random network and features of mean 0.

    They are those of ``model.elements`` that the data of the model did not have. Their parameters
    have seen nothing but weight decay, and their features are not standardised. The range of the
    features, outside which atoms extrapolate, grows by that of the new data for all elements.

    Parameters
    ----------
    model : ElementalNetworks
        `theta`, `feature_mean`, `feature_scale`, `feature_min` and `feature_max` are replaced.
    batches : iterable of Batch
        The new data.
    seed : int
        Of the parameters.
    """
    mean, scale = model.feature_mean, model.feature_scale
    least, largest = model.feature_min, model.feature_max
    # a model without ranges comes from another program and knows all its elements
    seen = np.ones(len(mean), bool) if least is None else least[:, 0] <= largest[:, 0]
    model.standardise(batches)
    if least is not None:
        model.feature_min = np.minimum(least, model.feature_min)
        model.feature_max = np.maximum(largest, model.feature_max)
    model.feature_mean = np.where(seen[:, None], mean, model.feature_mean)
    model.feature_scale = np.where(seen[:, None], scale, model.feature_scale)
    fresh = type(model)(model.descriptor, seed=seed, **model.settings).theta
    sizes = [sum(rows * columns for rows, columns in shapes) for shapes in model.element_layers]
    model.theta = np.where(np.repeat(seen, sizes), model.theta, fresh)

"""The configuration of a fit: its tables, their defaults, and reading and writing them as TOML.

The six dataclasses below are the one place where keys, defaults, help lines, choices and ranges
are written; reading, checking, writing and ``fdforce config`` all follow from them. Values are
checked here, once, where they enter. Names that a registry knows (``model.descriptor``,
``optimizer.name`` and the like) are only checked to be strings: the registry lists its choices.
"""

# ruff: noqa: RUF009 -- _key() is called for dataclass defaults: it returns dataclasses.field()

import dataclasses
import difflib
import functools
import inspect
import json
import math
import numbers
import os
import re
import textwrap
import tomllib
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from fdforce.errors import ConfigError


def _key(default, help, **rules):
    """A key: default, help line and rules (choices, minimum, above, maximum, below, files)."""
    metadata = {"help": help, "choices": (), **rules}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Structures to learn from, and how to read them."""

    train: list[str] = _key([], "files to train on", files=True)
    valid: float | str | list[str] = _key(
        0.1, "fraction of train held out for validation, or file(s)", minimum=0, below=1, files=True
    )
    test: float | str | list[str] = _key(
        0.0,
        "fraction of train held out for the final test, or file(s)",
        minimum=0,
        below=1,
        files=True,
    )
    energy_key: str = _key("", 'name of the energies (eV) in the files; "" = the usual names')
    forces_key: str = _key("", 'name of the forces (eV/Å) in the files; "" = the usual names')
    stress_key: str = _key("", 'name of the stresses (eV/Å³) in the files; "" = the usual names')
    split: str = _key(
        "random", "how fractions are taken out of train", choices=("random", "trajectory")
    )
    reference_energies: str | dict[str, float] = _key(
        "fit", "energy of an atom by itself, or a table element = eV", choices=("fit", "isolated")
    )


@dataclasses.dataclass(frozen=True)
class AnyModelConfig:
    """What an atom sees, and the function from there to its energy."""

    kind: str = _key("elemental_networks", "family of models")
    descriptor: str = _key("power_spectrum", "family of descriptors; else that of the other keys")
    quadratic: bool = _key(False, "add all products of two features, as for quadratic SNAP")
    hidden: list[int] = _key([32, 16], "widths of the hidden layers", minimum=1)
    activation: str = _key(
        "silu",
        "activation function of the hidden layers",
        choices=(
            "tanh",
            "sigmoid",
            "softplus",
            "shifted_softplus",
            "silu",
            "celu",
            "relu",
            "linear",
        ),
    )
    elements: list[str] = _key([], "elements of the model, in order; [] = those of the data")
    baseline: str = _key(
        "zbl",
        "fixed part that is added; zbl is a repulsion below the distances of the training data",
        choices=("zbl", "zbl_lammps", "calculator", "none"),
    )
    baseline_calculator: str = _key(
        "", "calculator: MODULE:FUNCTION, a function that returns an ASE calculator"
    )
    baseline_inner: float = _key(4.0, "zbl_lammps: inner radius of LAMMPS' pair style (Å)", above=0)
    baseline_outer: float = _key(4.8, "zbl_lammps: outer radius of LAMMPS' pair style (Å)", above=0)


@dataclasses.dataclass(frozen=True)
class ModelConfig(AnyModelConfig):
    """What an atom sees, and the function from there to its energy."""

    cutoff: float = _key(6.0, "reach of the density (Å)", above=0)
    radial_order: int = _key(8, "highest order n of the radial functions", minimum=0)
    angular_order: int = _key(5, "highest order l of the spherical harmonics", minimum=0)
    element_pairs: str = _key(
        "auto",
        "pairs of neighbour elements; auto: all, weighted beyond 3 elements",
        choices=("auto", "all", "diagonal", "weighted"),
    )
    four_body: int = _key(0, "2: invariants of third order too; 0: none", minimum=0)
    damping: float = _key(
        2.0, "features of order d = n + n' + 2 l weigh (1 + d)^-damping", minimum=0
    )
    max_degree: int = _key(12, "keeps features with n + n' + 2 l up to this; 0 = all", minimum=0)
    distance_damping: float = _key(
        10.0, "a neighbour weighs 1 / (1 + distance_damping (r / cutoff)^2)", minimum=0
    )


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """What the fit minimizes."""

    energy_weight: float | list[float] = _key(
        [0.1, 1.0],
        "relative weight of the energies, or [at the start, at the end] of the run",
        minimum=0,
    )
    force_weight: float | list[float] = _key(
        1.0, "relative weight of the forces, or [at the start, at the end]", minimum=0
    )
    stress_weight: float | list[float] = _key(
        1.0, "relative weight of the stresses, or [at the start, at the end]", minimum=0
    )
    force_fraction: float = _key(
        1.0, "fraction of the structures, or atoms, whose forces are used", minimum=0, maximum=1
    )
    force_selection: str = _key(
        "structures", "what force_fraction counts", choices=("structures", "atoms")
    )
    force_redraw: int = _key(
        0, "epochs after which force_fraction is drawn anew; 0 = never", minimum=0
    )
    error_threshold: float = _key(
        0.0, "atoms with smaller force errors, in units of the RMSE, do not pull; 0 = all do",
        minimum=0,
    )  # fmt: skip
    group_weights: dict[str, list[float]] = _key(
        {},
        "config_type = [energy, force, stress], factors of these squared errors of a group",
        minimum=0,
    )
    element_weights: dict[str, float] = _key(
        {}, "element = factor of the squared force errors of its atoms", minimum=0
    )
    energy_normalisation: str = _key(
        "per_atom", "errors of energies that count", choices=("per_atom", "per_structure")
    )
    kind: str = _key("squared", "form of the loss: squared, huber, l1 or rmse")
    huber_delta: float = _key(
        0.1, "kind huber: error beyond which it is linear, in units of the data's spread", above=0
    )
    alpha: float = _key(
        0.1, "kind rmse: share of the forces, as in ænet-PyTorch", minimum=0, maximum=1
    )


@dataclasses.dataclass(frozen=True)
class FiniteDifferenceConfig:
    """How the gradient of the force loss is differenced."""

    epsilon: float | str = _key(
        "auto", "displacement in units of length_scale", above=0, choices=("auto",)
    )
    stencil: str = _key(
        "central",
        "where the displaced replicas lie",
        choices=("central", "forward", "central4", "complex"),
    )
    length_scale: float = _key(1.0, "length a0 that epsilon multiplies (Å)", above=0)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How parameters follow from gradients."""

    name: str = _key("kalman", "optimizer; least_squares solves model.kind linear at once")
    ridge: float = _key(
        0.0, "least_squares: penalty of large coefficients, relative to the data", minimum=0
    )
    learning_rate: float | str = _key(
        "auto", "learning rate at the start of the schedule", above=0, choices=("auto",)
    )
    batch_size: int = _key(8, "structures in a batch", minimum=1)
    weight_decay: float | str = _key(
        "auto",
        "decoupled decay: a step takes learning rate * decay of theta",
        minimum=0,
        choices=("auto",),
    )
    l2: float = _key(0.0, "penalty l2/2 |theta|^2 added to the loss", minimum=0)
    beta1: float = _key(0.9, "memory of the mean gradient", minimum=0, below=1)
    beta2: float = _key(0.999, "memory of the mean squared gradient", minimum=0, below=1)
    covariance: str = _key(
        "shared",
        "kalman: one for all units of a layer, a block of each layer, or all parameters",
        choices=("shared", "layer", "full"),
    )
    forgetting: float = _key(
        0.98, "kalman: memory at the start, which rises to 1", above=0, maximum=1
    )
    noise: float = _key(0.1, "kalman: variance of a measurement, in units of the loss", above=0)
    gradient_clip: float = _key(0.0, "largest norm of the gradient; 0 = no limit", minimum=0)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long, on what, and how exactly the fit runs."""

    epochs: int = _key(
        1000, "passes over the training structures; 0 = as many as max_time allows", minimum=0
    )
    max_time: float = _key(0.0, "wall-clock budget (s); 0 = no limit", minimum=0)
    patience: int = _key(
        0, "epochs without improvement before stopping; 0 = never stop early", minimum=0
    )
    schedule: str = _key(
        "cosine",
        "course of the learning rate",
        choices=("cosine", "exponential", "plateau", "constant"),
    )
    warm_up: float = _key(
        0.01, "share of the run over which the learning rate rises", minimum=0, below=1
    )
    final_rate: float = _key(
        1e-3, "cosine, exponential: last factor of the learning rate", above=0, maximum=1
    )
    restarts: int = _key(0, "cosine: how often it begins again", minimum=0)
    average: float = _key(
        0.1, "share of the steps so far that validated parameters are a mean over", minimum=0
    )
    dropout: float = _key(
        0.0, "share of the hidden units that a step leaves out", minimum=0, below=1
    )
    plateau_patience: int = _key(
        20, "plateau: epochs without improvement before a reduction", minimum=1
    )
    plateau_factor: float = _key(0.5, "plateau: factor of a reduction", above=0, below=1)
    start_from: str = _key("", 'model file to start from, whose [model] is kept; "" = a new model')
    frozen_layers: int = _key(
        0, "first layers of the networks that keep their parameters", minimum=0
    )
    seed: int = _key(0, "seed of every random choice", minimum=0)
    threads: int = _key(0, "CPU threads; 0 = all cores", minimum=0)
    device: str = _key("cpu", "where kernels run", choices=("cpu", "cuda"))
    precision: str = _key(
        "float64", "floating-point type of the kernels", choices=("float32", "float64")
    )
    checkpoint_every: int = _key(10, "epochs between checkpoints", minimum=1)
    ensemble: int = _key(1, "networks trained with seed, seed + 1, ...; 1 = no ensemble", minimum=1)
    member: int = _key(
        -1, "number of the member that a run of an ensemble is, its seed included; -1 = none",
        minimum=-1,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a fit, one attribute per TOML table."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    finite_difference: FiniteDifferenceConfig = dataclasses.field(
        default_factory=FiniteDifferenceConfig
    )
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """A search (`fdforce search`): the table [search] besides its ranges."""

    trials: int = _key(27, "combinations of values in the first round", minimum=1)
    factor: int = _key(
        3, "a share 1/factor goes on to the next round, with factor times the budget", minimum=2
    )
    rounds: int = _key(0, "rounds; 0 = until one trial is left", minimum=0)
    budget: float = _key(0.0, "seconds of a trial of the last round", minimum=0)
    budget_epochs: int = _key(0, "epochs of a trial of the last round, instead", minimum=0)
    objective: str | dict[str, float] = _key(
        "valid_loss",
        "what is minimised on the validation data, or a table of factors of such errors",
        choices=("valid_loss", "energy_rmse", "force_rmse", "stress_rmse"),
        minimum=0,
    )
    seed: int = _key(0, "seed of the values that are tried", minimum=0)


#: table name -> {key name -> dataclasses.Field}; a field's metadata holds help, choices and range.
#: [model] has the keys of the default descriptor here; see `model_config`.
TABLES = {
    table.name: {key.name: key for key in dataclasses.fields(table.type)}
    for table in dataclasses.fields(Config)
}


@functools.cache
def model_config(descriptor: str) -> type[AnyModelConfig]:
    """The table [model] with the keys of a family of descriptors.

    They are the arguments of its class: names and help from `setting_help`, defaults and types from
    the signature. A family that is not known has those of the default one; what makes the model
    says which there are.
    """
    if descriptor == ModelConfig().descriptor:
        return ModelConfig
    from fdforce.descriptors import DESCRIPTORS

    if descriptor not in DESCRIPTORS:
        return ModelConfig
    family = DESCRIPTORS[descriptor]
    parameters = inspect.signature(family.__init__).parameters
    types = get_type_hints(family.__init__)
    fields = [
        (name, types[name], _key(_converted(parameters[name].default, types[name]), help))
        for name, help in family.setting_help.items()
    ]
    default = ("descriptor", str, _key(descriptor, "family of descriptors"))
    made = dataclasses.make_dataclass(
        f"{family.__name__}ModelConfig", [default, *fields], bases=(AnyModelConfig,), frozen=True
    )
    made.__doc__ = AnyModelConfig.__doc__
    return made


def descriptor_of(keys: Iterable[str], settings: AnyModelConfig) -> str:
    """The family of descriptors that some keys of [model] ask for.

    That of `settings` if it has them all. If not, and `settings` are the defaults still, the first
    family that has: ``radial_cutoff`` belongs to chebyshev, ``twojmax`` to bispectrum.

    Parameters
    ----------
    keys : iterable of str
        Those that no family has are left out.
    settings : AnyModelConfig
    """
    keys = set(keys) - keys_of(settings).keys()
    if not keys or settings != ModelConfig():
        return settings.descriptor
    from fdforce.descriptors import DESCRIPTORS

    families = {name: keys_of(model_config(name)).keys() for name in ("chebyshev", *DESCRIPTORS)}
    keys &= set().union(*families.values())
    found = (name for name, known in families.items() if keys and keys <= known)
    return next(found, settings.descriptor)


def keys_of(settings) -> dict:
    """Key name -> dataclasses.Field of one table of a configuration."""
    return {key.name: key for key in dataclasses.fields(settings)}


def known_keys(config: Config) -> dict[str, dict]:
    """`TABLES` with the keys of the descriptor that a configuration has."""
    return {table: keys_of(getattr(config, table)) for table in TABLES}


# -- reading ---------------------------------------------------------------------------------------


def default_config() -> Config:
    """The configuration in which every key has its default.

    Examples
    --------
    >>> default_config().finite_difference.stencil
    'central'
    """
    return Config()


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
                f"{where}: {table} = {_show(values)}: expected a table, "
                f"[{table}] with key = value lines below it"
            )
        settings = getattr(config, table)
        if table == "model":
            named = values.get("descriptor", descriptor_of(values, settings))
            settings = _with_keys_of(settings, named)
        keys = keys_of(settings)
        checked = {key: _checked(table, keys, key, value, where) for key, value in values.items()}
        tables[table] = dataclasses.replace(settings, **checked)
    config = dataclasses.replace(config, **tables)
    _check_together(config, where)
    return config


def search_config(values: Mapping[str, Any], where: str = "configuration") -> SearchConfig:
    """The table [search], without its ranges, checked and completed with the defaults.

    Raises
    ------
    ConfigError
        A key or value is not valid.
    """
    keys = keys_of(SearchConfig)
    return SearchConfig(
        **{key: _checked("search", keys, key, value, where) for key, value in values.items()}
    )


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
    return {table: {key: _parse_value(value.strip(), text)}}


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

    names = [name for name, key in TABLES["data"].items() if key.metadata.get("files")]
    changes = {name: absolute(getattr(config.data, name)) for name in names}
    start = absolute(config.training.start_from)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, **changes),
        training=dataclasses.replace(config.training, start_from=start),
    )


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


def read_toml(where):
    """Tables of a TOML file, unchecked; raises ConfigError where it is none."""
    try:
        with open(where, encoding="utf-8-sig") as file:
            text = file.read()
    except FileNotFoundError:
        raise ConfigError(
            f"{where}: no such file; `fdforce config > {where}` writes a template"
        ) from None
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: not a TOML file: not UTF-8 text") from error
    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or an integer of thousands of digits
        raise ConfigError(f"{where}, {_toml_problem(str(error), text)}") from error


def _toml_problem(message, text):
    """``line N: what``, out of a message of tomllib."""
    found = re.search(r" \(at line (\d+), column \d+\)", message)
    line = found.group(1) if found else len(text.splitlines())
    what = re.sub(r" \(at [^)]*\)$", "", message)
    return f"line {line}: not valid TOML: {what[:1].lower()}{what[1:]}"


def _parse_value(value, text):
    """A TOML value, a flat list of bare words, or a bare string."""
    try:
        parsed = tomllib.loads(f"value = {value}")
    except ValueError:
        parsed = {}
    if parsed.keys() == {"value"}:
        return parsed["value"]
    words = re.fullmatch(r"\[([^][{}\"']*)\]", value)
    if words:
        return [_parse_value(word.strip(), text) for word in words.group(1).split(",")]
    if value[:1] in ("{", '"', "'") or re.fullmatch(r"\[.*\]", value):
        raise ConfigError(f"--set {text}: {value} is not valid TOML; check brackets and quotes")
    return value


# -- checking --------------------------------------------------------------------------------------

_NO = object()


def _checked(table, keys, key, value, where):
    """The value as the key stores it; ConfigError if it is not valid."""
    if key not in keys:
        raise ConfigError(f"{where}: {_unknown_key(table, keys, key)}")
    field = keys[key]
    result = _converted(value, field.type)
    if result is _NO or not _is_choice(result, field):
        problem = f"expected {_expected(field)}{_nearest(value, field.metadata['choices'])}"
    else:
        problem = _value_problem(result, field)
    if problem:
        raise ConfigError(f"{where}: {table}.{key} = {_show(value)}: {problem}")
    return result


def _converted(value, kind):
    """The value as the type (int to float, a string to a list of one), or _NO."""
    if isinstance(kind, UnionType):
        results = (_converted(value, option) for option in get_args(kind))
        return next((result for result in results if result is not _NO), _NO)
    if get_origin(kind) is list:
        return _converted_list(value, get_args(kind)[0])
    if get_origin(kind) is dict:
        return _converted_dict(value, *get_args(kind))
    if kind is str and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if kind in (str, bool):
        return value if isinstance(value, kind) else _NO
    number = numbers.Integral if kind is int else numbers.Real
    if isinstance(value, bool) or not isinstance(value, number):
        return _NO
    try:
        return kind(value)
    except OverflowError:
        return math.inf


def _converted_list(value, kind):
    if kind is str and isinstance(value, str | os.PathLike):
        value = [value]
    if not isinstance(value, list | tuple):
        return _NO
    items = [_converted(item, kind) for item in value]
    return _NO if any(item is _NO for item in items) else items


def _converted_dict(value, key_kind, value_kind):
    if not isinstance(value, Mapping):
        return _NO
    items = {_converted(k, key_kind): _converted(v, value_kind) for k, v in value.items()}
    return _NO if _NO in items or any(item is _NO for item in items.values()) else items


def _is_choice(value, field):
    choices = field.metadata["choices"]
    return not (choices and isinstance(value, str)) or value in choices


def _value_problem(value, field):
    """What is wrong with a value of the right type, or None."""
    items = value if isinstance(value, list) else [value]
    items = list(value.values()) if isinstance(value, dict) else items
    items = [part for item in items for part in (item if isinstance(item, list) else [item])]
    if any(isinstance(item, float) and not math.isfinite(item) for item in items):
        return "must be finite"
    if not all(_in_range(item, field.metadata) for item in items if not isinstance(item, str)):
        return f"{'every item ' if isinstance(value, list) else ''}must be {_range_text(field)}"
    needs_name = isinstance(value, list) or field.metadata.get("files")
    if needs_name and "" in items:
        return "must not be empty" if isinstance(value, str) else "no item may be empty"
    return None


def _in_range(number, rules):
    return (
        number >= rules.get("minimum", -math.inf)
        and number <= rules.get("maximum", math.inf)
        and number > rules.get("above", -math.inf)
        and number < rules.get("below", math.inf)
    )


def _range_text(field):
    words = {
        "minimum": "at least",
        "above": "more than",
        "maximum": "at most",
        "below": "less than",
    }
    rules = field.metadata
    return " and ".join(f"{words[rule]} {rules[rule]}" for rule in words if rule in rules)


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


def end_weight(weight: float | list[float]) -> float:
    """The weight at the end of a run, of one number or of [start, end]."""
    return weight[-1] if isinstance(weight, list) else weight


def start_weight(weight: float | list[float]) -> float:
    """The weight at the start of a run, of one number or of [start, end]."""
    return weight[0] if isinstance(weight, list) else weight


# -- messages --------------------------------------------------------------------------------------


def _unknown_table(table):
    homes = [home for home in TABLES if table in TABLES[home]]
    if homes:
        return f"{table} is outside its table; it belongs below [{homes[0]}]"
    if table == "search":
        return "[search] belongs to `fdforce search`; run that, or take the table out"
    return f"unknown table [{table}]{_nearest(table, TABLES, '[{}]') or _list('tables', TABLES)}"


def _unknown_key(table, names, key):
    homes = [f"{home}.{key}" for home in TABLES if home != table and key in TABLES[home]]
    if homes:
        return f"unknown key {table}.{key}; did you mean {' or '.join(homes)}?"
    if table == "model" and key in TABLES["model"]:
        return f"model.{key} belongs to another descriptor{_list('keys of [model]', names)}"
    near = _nearest(key, names, table + ".{}")
    return f"unknown key {table}.{key}{near or _list(f'keys of [{table}]', names)}"


def _nearest(value, names, form='"{}"'):
    """``; did you mean …?`` with the most similar name, or nothing."""
    near = difflib.get_close_matches(value.lower() if isinstance(value, str) else "", names, n=1)
    return f"; did you mean {form.format(near[0])}?" if near else ""


def _list(what, names):
    return f"; the {what} are {', '.join(names)}"


def _expected(field):
    """The types and choices of a key in words."""
    names = {
        float: "a number",
        int: "an integer",
        bool: "true or false",
        str: "a string",
        list[str]: "a list of strings",
        list[int]: "a list of integers",
        list[float]: "a list of numbers",
        dict[str, float]: "a table of numbers",
        dict[str, list[float]]: "a table of lists of numbers",
    }
    if field.metadata.get("files"):
        names |= {float: "a fraction", str: "a file", list[str]: "a list of files"}
    choices = ", ".join(f'"{choice}"' for choice in field.metadata["choices"])
    if choices:
        names[str] = f"one of {choices}" if len(field.metadata["choices"]) > 1 else choices
    options = get_args(field.type) if isinstance(field.type, UnionType) else (field.type,)
    return ", or ".join(names[option] for option in options)


def _show(value):
    """The value as TOML where it has such a form, cut to a readable length."""
    try:
        text = _toml_value(value)
    except TypeError:
        text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


# -- writing ---------------------------------------------------------------------------------------


def to_toml(config: Config, comments: bool = False) -> str:
    """A configuration as TOML text, every key written out.

    Files are written as absolute paths, so the text means the same in whichever folder it is
    saved; `load_config` reads it back to ``absolute_paths(config)``.

    Parameters
    ----------
    config : Config
    comments : bool
        Put the help line, the choices, the range and the default above every key.

    Examples
    --------
    >>> print(to_toml(default_config()).splitlines()[1])
    train = []
    """
    config = absolute_paths(config)
    blocks = []
    for table, keys in known_keys(config).items():
        settings = getattr(config, table)
        lines = [f"[{table}]"]
        if comments:
            lines.insert(0, f"# {type(settings).__doc__}")
        for name, field in keys.items():
            if comments:
                lines += ["", _comment(field)]
            lines.append(f"{name} = {_toml_value(getattr(settings, name))}")
        blocks.append("\n".join(lines) + "\n")
    title = "# Settings of `fdforce fit`. Every key may be left out.\n\n" if comments else ""
    return title + "\n".join(blocks)


def toml_table(name: str, values: Mapping[str, Any]) -> str:
    """A table of TOML with a line for each key."""
    lines = [f"{_toml_key(key)} = {_toml_value(value)}" for key, value in values.items()]
    return "\n".join([f"[{name}]", *lines]) + "\n"


def _comment(field):
    """The line above a key of the commented template."""
    default = field.default
    if default is dataclasses.MISSING:
        default = field.default_factory()
    parts = [field.metadata["help"]]
    if field.metadata["choices"]:
        parts.append(" | ".join(f'"{choice}"' for choice in field.metadata["choices"]))
    if _range_text(field):
        parts.append(_range_text(field))
    text = f"{'; '.join(parts)} (default {_toml_value(default)})"
    return textwrap.fill(text, width=100, initial_indent="# ", subsequent_indent="#   ")


def _toml_value(value):
    """One value in TOML; TypeError if it has no such form."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, os.PathLike):
        return _toml_string(os.fspath(value))
    if isinstance(value, str):
        return _toml_string(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    if isinstance(value, Mapping):
        items = [f"{_toml_key(key)} = {_toml_value(item)}" for key, item in value.items()]
        return f"{{ {', '.join(items)} }}" if items else "{}"
    raise TypeError(f"{type(value).__name__} has no TOML form")


def _toml_string(text):
    """A basic string; JSON's escapes are TOML's, which also wants DEL escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml_key(key):
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml_string(key)

"""The tables of a configuration and their keys.

The six dataclasses below are the one place where keys, defaults, help lines, choices and ranges
are written; reading, checking, writing and ``fdforce config`` all follow from them. Names that a
registry knows (``model.descriptor``, ``optimizer.name`` and the like) are only checked to be
strings: the registry lists its choices.
"""

# ruff: noqa: RUF009 -- key() is called for dataclass defaults: it returns dataclasses.field()

import dataclasses
import functools
import inspect
from collections.abc import Iterable
from typing import get_type_hints

from fdforce.config.values import converted


def key(default, help, **rules):
    """A key: default, help line and rules (choices, minimum, above, maximum, below, files)."""
    metadata = {"help": help, "choices": (), **rules}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Structures to learn from, and how to read them."""

    train: list[str] = key([], "files to train on", files=True)
    valid: float | str | list[str] = key(
        0.1, "fraction of train held out for validation, or file(s)", minimum=0, below=1, files=True
    )
    test: float | str | list[str] = key(
        0.0,
        "fraction of train held out for the final test, or file(s)",
        minimum=0,
        below=1,
        files=True,
    )
    energy_key: str = key("", 'name of the energies (eV) in the files; "" = the usual names')
    forces_key: str = key("", 'name of the forces (eV/Å) in the files; "" = the usual names')
    stress_key: str = key("", 'name of the stresses (eV/Å³) in the files; "" = the usual names')
    split: str = key(
        "random", "how fractions are taken out of train", choices=("random", "trajectory")
    )
    reference_energies: str | dict[str, float] = key(
        "fit", "energy of an atom by itself, or a table element = eV", choices=("fit", "isolated")
    )
    cache: str = key("", 'folder for packed data, for sets too large for memory; "" = in memory')


@dataclasses.dataclass(frozen=True)
class AnyModelConfig:
    """What an atom sees, and the function from there to its energy."""

    kind: str = key("elemental_networks", "family of models")
    descriptor: str = key("power_spectrum", "family of descriptors; else that of the other keys")
    quadratic: bool = key(False, "add all products of two features, as for quadratic SNAP")
    hidden: list[int] | dict[str, list[int]] = key(
        [32, 16], "widths of the hidden layers, or a table element = widths", minimum=1
    )
    activation: str | list[str] | dict[str, str | list[str]] = key(
        "silu",
        "activation function of the hidden layers; or a list, one for each layer, that of the "
        "output last if it is not linear; or a table of either by element",
        choices=(
            "tanh",
            "sigmoid",
            "softplus",
            "shifted_softplus",
            "silu",
            "celu",
            "relu",
            "linear",
            "gaussian",
            "cosine",
            "reverse_sigmoid",
            "exponential",
            "harmonic",
            "modified_tanh",
            "twist",
        ),
    )
    elements: list[str] = key([], "elements of the model, in order; [] = those of the data")
    baseline: str = key(
        "zbl",
        "fixed part that is added; zbl is a repulsion below the distances of the training data",
        choices=("zbl", "zbl_lammps", "calculator", "none"),
    )
    baseline_calculator: str = key(
        "", "calculator: MODULE:FUNCTION, a function that returns an ASE calculator"
    )
    baseline_inner: float = key(4.0, "zbl_lammps: inner radius of LAMMPS' pair style (Å)", above=0)
    baseline_outer: float = key(4.8, "zbl_lammps: outer radius of LAMMPS' pair style (Å)", above=0)


@dataclasses.dataclass(frozen=True)
class ModelConfig(AnyModelConfig):
    """What an atom sees, and the function from there to its energy."""

    cutoff: float = key(6.0, "reach of the density (Å)", above=0)
    radial_order: int = key(8, "highest order n of the radial functions", minimum=0)
    angular_order: int = key(5, "highest order l of the spherical harmonics", minimum=0)
    element_pairs: str = key(
        "auto",
        "pairs of neighbour elements; auto: all, weighted beyond 3 elements",
        choices=("auto", "all", "diagonal", "weighted"),
    )
    four_body: int = key(0, "2: invariants of third order too; 0: none", minimum=0)
    damping: float = key(
        2.0, "features of order d = n + n' + 2 l weigh (1 + d)^-damping", minimum=0
    )
    max_degree: int = key(12, "keeps features with n + n' + 2 l up to this; 0 = all", minimum=0)
    distance_damping: float = key(
        10.0, "a neighbour weighs 1 / (1 + distance_damping (r / cutoff)^2)", minimum=0
    )


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """What the fit minimizes."""

    energy_weight: float | list[float] = key(
        [0.1, 1.0],
        "relative weight of the energies, or [at the start, at the end] of the run",
        minimum=0,
    )
    force_weight: float | list[float] = key(
        1.0, "relative weight of the forces, or [at the start, at the end]", minimum=0
    )
    stress_weight: float | list[float] = key(
        1.0, "relative weight of the stresses, or [at the start, at the end]", minimum=0
    )
    force_fraction: float = key(
        1.0, "fraction of the structures, or atoms, whose forces are used", minimum=0, maximum=1
    )
    force_selection: str = key(
        "structures", "what force_fraction counts", choices=("structures", "atoms")
    )
    force_redraw: int = key(
        0, "epochs after which force_fraction is drawn anew; 0 = never", minimum=0
    )
    error_threshold: float = key(
        0.0, "atoms with smaller force errors, in units of the RMSE, do not pull; 0 = all do",
        minimum=0,
    )  # fmt: skip
    group_weights: dict[str, list[float]] = key(
        {},
        "config_type = [energy, force, stress], factors of these squared errors of a group",
        minimum=0,
    )
    element_weights: dict[str, float] = key(
        {}, "element = factor of the squared force errors of its atoms", minimum=0
    )
    energy_normalisation: str = key(
        "per_atom", "errors of energies that count", choices=("per_atom", "per_structure")
    )
    normalise: bool = key(
        True, "errors count in units of the data's spread; false: in eV/atom, eV/Å and eV/atom"
    )
    kind: str = key("squared", "form of the loss: squared, huber, l1 or rmse")
    huber_delta: float = key(
        0.1, "kind huber: error beyond which it is linear, in units of the data's spread", above=0
    )
    alpha: float = key(
        0.1, "kind rmse: share of the forces, as in ænet-PyTorch", minimum=0, maximum=1
    )


@dataclasses.dataclass(frozen=True)
class FiniteDifferenceConfig:
    """How the gradient of the force loss is differenced."""

    epsilon: float | str = key(
        "auto", "displacement in units of length_scale", above=0, choices=("auto",)
    )
    stencil: str = key(
        "central",
        "where the displaced replicas lie",
        choices=("central", "forward", "central4", "complex"),
    )
    length_scale: float = key(1.0, "length a0 that epsilon multiplies (Å)", above=0)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How parameters follow from gradients."""

    name: str = key("kalman", "optimizer; least_squares solves model.kind linear at once")
    ridge: float = key(
        0.0, "least_squares: penalty of large coefficients, relative to the data", minimum=0
    )
    learning_rate: float | str = key(
        "auto", "learning rate at the start of the schedule", above=0, choices=("auto",)
    )
    batch_size: int | str = key(
        "auto",
        "structures in a batch; auto: as many as hold 160 atoms, 8 at most",
        minimum=1,
        choices=("auto",),
    )
    weight_decay: float | str = key(
        "auto",
        "decoupled decay: a step takes learning rate * decay of theta",
        minimum=0,
        choices=("auto",),
    )
    l2: float = key(0.0, "penalty l2/2 |theta|^2 added to the loss", minimum=0)
    beta1: float = key(0.9, "memory of the mean gradient", minimum=0, below=1)
    beta2: float = key(0.999, "memory of the mean squared gradient", minimum=0, below=1)
    covariance: str = key(
        "shared",
        "kalman: one for all units of a layer, a block of each layer, or all parameters",
        choices=("shared", "layer", "full"),
    )
    forgetting: float = key(
        0.98, "kalman: memory at the start, which rises to 1", above=0, maximum=1
    )
    noise: float = key(0.1, "kalman: variance of a measurement, in units of the loss", above=0)
    gradient_clip: float = key(0.0, "largest norm of the gradient; 0 = no limit", minimum=0)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long, on what, and how exactly the fit runs."""

    epochs: int = key(
        1000, "passes over the training structures; 0 = as many as max_time allows", minimum=0
    )
    max_time: float = key(0.0, "wall-clock budget (s); 0 = no limit", minimum=0)
    patience: int = key(
        0, "epochs without improvement before stopping; 0 = never stop early", minimum=0
    )
    schedule: str = key(
        "cosine",
        "course of the learning rate",
        choices=("cosine", "exponential", "plateau", "constant"),
    )
    warm_up: float = key(
        0.01, "share of the run over which the learning rate rises", minimum=0, below=1
    )
    final_rate: float = key(
        1e-3, "cosine, exponential: last factor of the learning rate", above=0, maximum=1
    )
    restarts: int = key(0, "cosine: how often it begins again", minimum=0)
    average: float = key(
        0.1, "share of the steps so far that validated parameters are a mean over", minimum=0
    )
    pretraining: int = key(
        0, "epochs on energies alone and on forces alone; the fit begins at their mean", minimum=0
    )
    dropout: float = key(
        0.0, "share of the hidden units that a step leaves out", minimum=0, below=1
    )
    plateau_patience: int = key(
        20, "plateau: epochs without improvement before a reduction", minimum=1
    )
    plateau_factor: float = key(0.5, "plateau: factor of a reduction", above=0, below=1)
    start_from: str = key("", 'model file to start from, whose [model] is kept; "" = a new model')
    frozen_layers: int = key(
        0, "first layers of the networks that keep their parameters", minimum=0
    )
    seed: int = key(0, "seed of every random choice", minimum=0)
    threads: int = key(0, "CPU threads; 0 = all cores", minimum=0)
    device: str = key("cpu", "where kernels run", choices=("cpu", "cuda"))
    device_memory: float = key(
        0.8, "share of a GPU's free memory that may be used", above=0, maximum=1
    )
    precision: str = key(
        "float64", "floating-point type of the kernels", choices=("float32", "float64")
    )
    checkpoint_every: int = key(10, "epochs between checkpoints", minimum=1)
    ensemble: int = key(1, "networks trained with seed, seed + 1, ...; 1 = no ensemble", minimum=1)
    member: int = key(
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
        (name, types[name], key(converted(parameters[name].default, types[name]), help))
        for name, help in family.setting_help.items()
    ]
    default = ("descriptor", str, key(descriptor, "family of descriptors"))
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


def default_config() -> Config:
    """The configuration in which every key has its default.

    Examples
    --------
    >>> default_config().finite_difference.stencil
    'central'
    """
    return Config()


def end_weight(weight: float | list[float]) -> float:
    """The weight at the end of a run, of one number or of [start, end]."""
    return weight[-1] if isinstance(weight, list) else weight


def start_weight(weight: float | list[float]) -> float:
    """The weight at the start of a run, of one number or of [start, end]."""
    return weight[0] if isinstance(weight, list) else weight

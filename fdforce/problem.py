"""What a configuration asks for: data, an untrained model, and the loss."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from fdforce.config import Config, end_weight, keys_of, start_weight
from fdforce.data_cache import read_set
from fdforce.data_set import DataSet
from fdforce.errors import ConfigError, DataError
from fdforce.losses import Target, WeightedLoss, find_loss
from fdforce.mapped import pieces
from fdforce.models.calculator_baseline import CalculatorBaseline
from fdforce.models.zbl import ZBL, LammpsZBL
from fdforce.reference_energies import fit_by_composition
from fdforce.structure_files import tell_units
from fdforce.structures import Structures, split_structures


@dataclass(frozen=True)
class Parts:
    """The data of a fit: training structures and, where asked for, validation and test ones.

    Members of an ensemble have the same test part, and in `common` what each of them divides into
    training and validation in its own way.
    """

    train: Structures
    valid: Structures | None
    test: Structures | None
    isolated: dict
    common: Structures | None = None

    def by_name(self) -> dict[str, Structures]:
        """The parts that there are, of training, validation and test."""
        parts = {name: getattr(self, name) for name in ("train", "valid", "test")}
        return {name: part for name, part in parts.items() if part is not None}


def read_parts(config: Config, log: Callable = print) -> Parts:
    """Read and split the data of a configuration, through a cache where it names one.

    Parameters
    ----------
    config : Config
    log : callable
        Takes a line of text: units that files do not say, what is written into the cache.

    Raises
    ------
    ConfigError, DataError
        No training files, or what `read_structures` and `split_structures` refuse.
    """
    data, model = config.data, config.model
    if not data.train:
        raise ConfigError("data.train names no file; give training data or --example")
    keys = {name: getattr(data, name) for name in ("energy_key", "forces_key", "stress_key")}
    files = list(data.train)
    for asked in (data.valid, data.test):
        if isinstance(asked, str | list):
            files += [asked] if isinstance(asked, str) else asked
    tell_units(files, log)

    def read(sources, elements=None):
        return read_set(sources, data.cache, elements=elements, log=log, **keys)

    whole, isolated = read(data.train, model.elements or None)
    indices = {"train": np.arange(len(whole))}
    parts, common = {}, None
    seed, member = config.training.seed, config.training.member
    # members of an ensemble, with seeds of their own, hold out the same test part
    seeds = {"test": seed - max(member, 0), "valid": seed + 1}
    for name in ("test", "valid"):
        asked = getattr(data, name)
        if name == "valid" and member >= 0:
            common = whole.select(indices["train"])
        if isinstance(asked, str | list):
            parts[name] = read(asked, whole.elements)[0]
        elif asked and len(indices["train"]) > 1:
            left = indices["train"]
            share = max(asked * len(whole), 1) / len(left)  # one structure at least
            kept, held = split_structures(
                whole.select(left), share, how=data.split, seed=seeds[name]
            )
            indices["train"], parts[name] = left[kept], whole.select(left[held])
    train = whole.select(indices["train"])
    return Parts(train, parts.get("valid"), parts.get("test"), isolated, common)


def new_model(config: Config, elements):
    """A model of a configuration with random initial parameters."""
    from fdforce.descriptors import DESCRIPTORS, Quadratic
    from fdforce.models import MODELS

    settings = config.model
    for key, registry in (("descriptor", DESCRIPTORS), ("kind", MODELS)):
        if getattr(settings, key) not in registry:
            raise ConfigError(
                f"model.{key} = {getattr(settings, key)!r}: choose one of {', '.join(registry)}"
            )
    family = DESCRIPTORS[settings.descriptor]
    descriptor = family(
        elements=elements, **{key: getattr(settings, key) for key in family.setting_help}
    )
    if settings.quadratic:
        descriptor = Quadratic(descriptor)
    kind = MODELS[settings.kind]
    model = kind(
        descriptor, **{name: getattr(settings, name) for name in kind.setting_names},
        seed=config.training.seed, dtype=config.training.precision,
    )  # fmt: skip
    if settings.baseline == "zbl_lammps":  # its range is known before the data
        model.baseline = LammpsZBL(elements, settings.baseline_outer, settings.baseline_inner)
    elif settings.baseline == "calculator":
        model.baseline = CalculatorBaseline(elements, settings.baseline_calculator)
    return model


def add_baseline(config: Config, model, structures: Structures, pairs) -> None:
    """The baseline that depends on the data, where the configuration asks for it."""
    if config.model.baseline == "zbl":
        model.baseline = ZBL.below(structures, pairs)


def without_offsets(model):
    """The model without reference energies and baseline, sharing its other arrays."""
    bare = copy.copy(model)
    bare.reference_energies = np.zeros_like(model.reference_energies)
    bare.baseline = None
    return bare


def weigh_groups(target: Target, structures: Structures, factors: dict) -> Target:
    """Labels with the weights of groups of structures, energy, forces and virial apart.

    Parameters
    ----------
    target : Target
    structures : Structures
        Groups are told apart by their ``config_types``.
    factors : dict of str to list of float
        Name of a group to the factors of its squared errors.

    Raises
    ------
    ConfigError
        A group that no structure belongs to.
    """
    if not factors:
        return target
    groups = np.array(structures.config_types)
    unknown = sorted(set(factors) - set(groups.tolist()))
    if unknown:
        present = ", ".join(sorted(set(groups.tolist()) - {""})) or "none"
        raise ConfigError(
            f"loss.group_weights.{unknown[0]}: no training structure has this config_type; "
            f"there are: {present}"
        )
    weight = np.repeat(target.weight[:, None], 3, axis=1)
    for group, values in factors.items():
        weight[groups == group] *= values
    return replace(target, weight=weight)


def loss_of(config: Config, train: DataSet, kind: str | None = None):
    """The loss of a configuration, in units of what the training labels hold.

    Parameters
    ----------
    config : Config
    train : DataSet
    kind : str, optional
        In place of ``loss.kind``.

    Raises
    ------
    ConfigError
        An unknown kind, or a weight of an element that the data do not have.
    """
    settings, kind = config.loss, kind or config.loss.kind
    form = find_loss(kind)
    units = dict.fromkeys(("energy", "forces", "virial"), 1.0)
    if settings.normalise:
        units = _units(train, settings.energy_normalisation)
    given = [settings.energy_weight, settings.force_weight, settings.stress_weight]
    ramped = any(isinstance(weight, list) for weight in given)
    # what a form of the loss has of its own: loss.huber_delta, loss.alpha
    own = (keys_of(settings).keys() & keys_of(form)) - keys_of(WeightedLoss).keys()
    return form(
        *map(end_weight, given),
        energy_unit=units["energy"],
        force_unit=units["forces"],
        virial_unit=units["virial"],
        mean_atoms=train.structures.n_atoms / len(train),
        energy_normalisation=settings.energy_normalisation,
        element_weights=_of_elements(settings.element_weights, train.structures.elements),
        error_threshold=settings.error_threshold,
        start_weights=tuple(map(start_weight, given)) if ramped else None,
        **{name: getattr(settings, name) for name in own},
    )


def _of_elements(factors: dict, elements) -> tuple[float, ...]:
    """loss.element_weights in the order of the data's elements; empty where none is given."""
    unknown = [name for name in factors if name not in elements]
    if unknown:
        raise ConfigError(
            f"loss.element_weights.{unknown[0]}: no training structure has this element; there "
            f"are: {', '.join(elements)}"
        )
    return tuple(factors.get(name, 1.0) for name in elements) if factors else ()


LEAST_UNITS = {"energy": 1e-6, "forces": 1e-8, "virial": 1e-8}
"""Root mean squares up to which there is nothing to learn. Energies of one geometry or of as many
structures as elements are a constant per element, but for the digits that files have of them."""


def _units(train: DataSet, energy_normalisation: str = "per_atom") -> dict:
    """Root mean squares of what there is to learn; 1 where there is nothing.

    A constant per element is not for the networks to learn, and reference energies that were given
    leave one as large as the cohesive energy, beside which all other differences would be small.
    """
    counts, target = train.structures.counts, train.target
    compositions = train.structures.compositions
    energy = target.energy - compositions @ fit_by_composition(compositions, target.energy)
    sizes = {
        "energy": _root_mean_square(
            pieces(energy / (counts if energy_normalisation == "per_atom" else 1))
        ),
        "forces": _root_mean_square(pieces(target.forces)),
        "virial": _root_mean_square(
            virial / n[:, None, None] for virial, n in zip(pieces(target.virial), pieces(counts))
        ),
    }
    train.release()
    return {name: size if size > LEAST_UNITS[name] else 1.0 for name, size in sizes.items()}


def _root_mean_square(parts) -> float:
    """Of what is not NaN in some arrays; 0 where there is nothing."""
    total, count = 0.0, 0
    for part in parts:
        present = part[~np.isnan(part)]
        total, count = total + np.sum(present**2), count + present.size
    return float(np.sqrt(total / max(count, 1)))


def output_scale(train: DataSet) -> float:
    """Unit of the network outputs: a force times a length of 1 Å, or an energy per atom."""
    units = _units(train)
    has_forces = any(not np.isnan(forces).all() for forces in pieces(train.target.forces))
    return units["forces"] if has_forces else units["energy"]


def moderate(model, train: DataSet, config: Config) -> None:
    """Shrink the last layers until the first loss is no larger than that of predicting nothing.

    The loss is the squared one of the weights at the end of the run, whatever ``loss.kind`` is.

    Features that vary little over the data, but would under strain, are scaled up by their
    standardisation; stresses of a random network may then be thousands of times too large.
    """
    loss = loss_of(config, train, kind="squared")
    most = loss.weights.sum()
    indices = np.arange(len(train))[:: -(-len(train) // 32)]
    batch, target = train.batch(indices, 1)
    state = model.forward(batch)
    first = loss(batch, state.energy, *model.forces(state), target).value
    if first > most:
        model.scale_outputs(np.sqrt(most / first))


def summary(parts: Parts) -> str:
    """One line on the data; raises DataError where there is nothing to learn."""
    counts = [f"{len(part)} {name}" for name, part in parts.by_name().items()]
    train = parts.train
    if not (train.has_energy.any() or train.has_forces.any() or train.has_stress.any()):
        raise DataError("the training structures have neither energies nor forces nor stress")
    return (
        f"structures: {', '.join(counts)}; training atoms: {train.n_atoms}; elements: "
        f"{' '.join(train.elements)}; with energy {train.has_energy.sum()}, forces "
        f"{train.has_forces.sum()}, stress {train.has_stress.sum()}"
    )


def fingerprint(*parts) -> str:
    """Hash of geometries and labels, so that a run is not resumed on other data."""
    digest = hashlib.sha256()
    for part in parts:
        if part is not None:
            digest.update(" ".join(part.elements).encode())
            for array in (
                part.offsets, part.species, part.positions, part.cells, part.periodic,
                part.energies, part.forces, part.stresses, part.weights,
            ):  # fmt: skip
                for rows in pieces(array):
                    digest.update(np.ascontiguousarray(rows).tobytes())
    return digest.hexdigest()[:16]

"""A training directory of n2p2 (input.nn and input.data) as a configuration of fdforce."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from fdforce.errors import DataError
from fdforce.formats import Training
from fdforce.formats.n2p2 import data, scaling, settings
from fdforce.formats.n2p2.architecture import (
    read_activations,
    read_atom_energies,
    read_descriptor,
    read_elements,
    read_normalisation,
    read_widths,
)
from fdforce.formats.n2p2.settings import KNOWN, SCALING, UNUSED
from fdforce.formats.n2p2.text import split_path, units_of
from fdforce.models.network_settings import shorten, spell_out

OPTIMIZERS = {0: "sgd", 1: "kalman"}
"""updater_type -> optimizer.name; gradient_type 1 makes it adam."""

ADAM = {
    "gradient_adam_eta": "learning_rate",
    "gradient_adam_beta1": "beta1",
    "gradient_adam_beta2": "beta2",
}


def recognises_training(path: Path) -> bool:
    """Whether a folder holds an input.nn and structures."""
    path, _ = split_path(path)
    return (path / settings.NAME).is_file() and data.find_file(path).is_file()


def read_training(path: Path, *, units: str = "ev-angstrom") -> Training:
    """What a training directory asks for.

    Structures marked set=test are validated on. With use_old_weights_short the run starts from the
    potential in the directory.

    Parameters
    ----------
    path : path
    units : str
        "ev-angstrom" or "hartree-bohr": of the physical units, those before normalisation.

    Raises
    ------
    ModelFileError, DataError
        With file and line.
    """
    path, options = split_path(path)
    units = options.get("units", units)
    energy, length = units_of(units)
    asked = settings.read_settings(path / settings.NAME)
    elements = read_elements(asked)
    used, notes = set(settings.MODEL), []
    starts = "use_old_weights_short" in asked
    normalisation, of_atoms = read_normalisation(asked), read_atom_energies(asked, elements)
    marks, mean = _scan(data.find_file(path), of_atoms)
    if "mean_energy" in asked or starts:
        mean = normalisation.mean_energy
    references = {e: (of_atoms[e] + mean) * energy for e in elements}
    if not np.isfinite(list(references.values())).all():
        raise DataError(f"{path}: energies so large that their differences are not finite")
    tables = {
        "data": {
            "reference_energies": references,
            **_parts(asked, path, units, marks, notes),
        },
        "loss": {},
        "optimizer": _optimizer(asked, used),
        "training": {},
    }
    notes.append(
        f"reference energies are atom_energy + {mean * energy:.6g} eV, "
        + ("mean_energy" if "mean_energy" in asked or starts
           else "the mean per atom of what is left, as nnp-norm would have it")
    )  # fmt: skip
    if "mean_energy" in asked:
        notes.append("conv_energy and conv_length: fdforce finds its own units of the labels")
    for keyword, name in (("epochs", "epochs"), ("random_seed", "seed")):
        if keyword in asked:
            tables["training"][name] = asked.integer(keyword)
    if "use_short_forces" not in asked:
        tables["loss"] = {"force_weight": 0.0, "stress_weight": 0.0}
        notes.append("no use_short_forces: forces are not learnt")
    if starts:
        used |= {*SCALING, "use_old_weights_short"}
        tables["training"]["start_from"] = f"{path}#units={units}"
        notes.append("use_old_weights_short: the run starts from the weights and scaling.data here")
    else:
        tables["model"] = _model(asked, elements, length, notes)
        _note_files(path, elements, notes)
    used |= {"epochs", "random_seed", "test_fraction", "updater_type", "use_short_forces"}
    return Training(tables, notes + _unused(asked, used))


def _scan(file, of_atoms):
    """Number of structures with each mark, and the mean of their energies per atom (file units)."""
    marks, energies = Counter(), []
    for record in data.read_records(file):
        marks[record.set] += 1
        if record.energy is not None:
            fixed = sum(of_atoms.get(symbol, 0.0) for symbol in record.symbols)
            energies.append((record.energy - fixed) / len(record.symbols))
    return marks, float(np.mean(energies)) if energies else 0.0


def _parts(asked, path, units, marks, notes):
    """Which structures are trained and which are validated on."""
    file = f"{data.find_file(path)}#units={units}"
    if marks["test"]:
        notes.append(
            f"set=test: {marks['test']} structures are validated on, {marks['train']} marked "
            f"set=train and {marks['']} without a mark are trained on"
        )
        if "test_fraction" in asked:
            line = asked.all("test_fraction")[0][0]
            notes.append(f"test_fraction (line {line}) is not used: structures are marked")
        return {"train": [f"{file},set=train"], "valid": [f"{file},set=test"]}
    parts = {"train": [file]}
    if "test_fraction" in asked:
        fraction = asked.number("test_fraction")
        if not 0 <= fraction < 1:
            line = asked.all("test_fraction")[0][0]
            raise asked.problem(line, f"test_fraction = {fraction:g}: at least 0 and below 1")
        parts["valid"] = fraction
        notes.append(
            f"test_fraction {fraction:g}: this part is validated on, and the best epoch is kept; "
            "--test sets data apart until the end"
        )
    return parts


def _optimizer(asked, used):
    updater = asked.integer("updater_type", 1)
    if updater not in OPTIMIZERS:
        line = asked.all("updater_type")[0][0]
        raise asked.problem(line, f"updater_type {updater}: 0 (gradient descent) or 1 (Kalman)")
    if updater == 1 or asked.integer("gradient_type", 0) != 1:
        return {"name": OPTIMIZERS[updater]}
    used |= {"gradient_type", *ADAM}
    given = {name: asked.number(keyword) for keyword, name in ADAM.items() if keyword in asked}
    return {"name": "adam", **given}


def _model(asked, elements, length, notes):
    """The table [model]; without a baseline, as n2p2 has it."""
    descriptor = read_descriptor(asked, elements, length)
    options = read_widths(asked, elements)
    hidden = {element: widths[0] for element, widths in options.items()}
    for element, widths in options.items():
        if any(other != widths[0] for other in widths):
            notes.append(
                f"element_nodes_short of {element} is read as hidden layers of "
                f"{', '.join(map(str, widths[0]))}; versions of n2p2 differ"
            )
    networks = spell_out(elements, hidden, read_activations(asked, elements))
    return {
        "descriptor": "symmetry_functions",
        "functions": descriptor.functions,
        "cutoff_type": descriptor.cutoff_type,
        "cutoff_alpha": descriptor.cutoff_alpha,
        "elements": elements,
        "baseline": "none",
        **shorten(elements, *networks),
    }


def _note_files(path, elements, notes):
    present = [name for name in (scaling.NAME,) if (path / name).is_file()]
    present += sorted(file.name for file in path.glob("weights.???.data"))
    if present:
        notes.append(f"not used: {', '.join(present)}; there is no use_old_weights_short")


def _unused(asked, used):
    """A line for each reason why keywords are not used, and for each that nobody knows."""
    reasons = {
        **UNUSED,
        "features get mean 0 and the same spread over the training set": SCALING,
    }
    lines = []
    for reason, keywords in reasons.items():
        found = [
            f"{name} (line {line})"
            for keyword in keywords
            if keyword not in used
            for line, name, _ in asked.entries.get(keyword, [])
        ]
        if found:
            lines.append(f"not used: {', '.join(found)}: {reason}")
    for keyword, entries in asked.entries.items():
        if keyword not in KNOWN:
            where = ", ".join(str(line) for line, *_ in entries)
            lines.append(f"unknown keyword {keyword} (line {where}) is not used")
    return lines

"""ASE's SQLite databases (.db), also those of ISO17 and SchNetPack with labels in ``row.data``.

ASE's own reader leaves ``key_value_pairs`` and ``data`` out. Here they become ``info``, and labels
are taken from wherever they are:

calculator results
    energy, forces, stress in ASE's units.
ISO17
    ``total_energy`` (eV) and ``data["atomic_forces"]`` (eV/Å); the file names no units.
SchNetPack 2
    properties in ``data``, with units in the metadata ``_property_unit_dict`` and
    ``_distance_unit``. Labels in ``data`` without units there (SchNetPack 1) are refused.

Schütt et al., NeurIPS 2017 (ISO17); SchNetPack 2, ``schnetpack.data.atoms``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.db import connect

from fdforce.errors import DataError
from fdforce.formats.labelled import CHUNK, first_bytes, labelled
from fdforce.units import BOHR, HARTREE, KCAL_PER_MOL

UNITS = {
    "eV": 1.0, "meV": 1e-3, "Hartree": HARTREE, "hartree": HARTREE, "Ha": HARTREE,
    "Ry": HARTREE / 2, "Rydberg": HARTREE / 2, "kcal": KCAL_PER_MOL, "kJ": KCAL_PER_MOL / 4.184,
    "mol": 1.0, "Ang": 1.0, "Angstrom": 1.0, "Å": 1.0, "Bohr": BOHR, "a0": BOHR, "nm": 10.0,
    "1": 1.0,
}  # fmt: skip
"""eV or Å in a unit; kcal and kJ are those of a mole, so that "mol" is 1."""

NAMES = {
    "energy": ("energy", "total_energy", "energy_U0"),
    "forces": ("forces", "atomic_forces"),
    "stress": ("stress",),
}
"""Under which names of ``data`` a label is looked for, the first first."""

KEEPS_INFO = True
"""`write_structures` keeps config_type, weight and all other ``info``."""


def recognises(path: Path) -> bool:
    """An SQLite file called .db."""
    return path.suffix == ".db" and first_bytes(path, 16) == b"SQLite format 3\x00"


def read_structures(path: Path) -> Iterator[Atoms]:
    """The rows in the order of their numbers, in eV and Å.

    Raises
    ------
    DataError
        If the database is damaged, or labels have no unit or an unknown one; the row is named.
    """
    try:
        database = connect(str(path), type="db", use_lock_file=False)
        metadata = database.metadata
        units = metadata.get("_property_unit_dict", {}) or {}
        length = _unit(metadata.get("_distance_unit", "Ang"), f"{path}: _distance_unit")
        last = 0
        # ASE fetches all that it selects at once
        while rows := list(database.select(f"id>{last}", limit=CHUNK, sort="id")):
            for row in rows:
                yield _structure(row, units, length, f"{path}, row {row.id}")
            last = rows[-1].id
    except DataError:
        raise
    except Exception as problem:  # sqlite3's, json's and whatever ASE trips over
        reason = f"{type(problem).__name__}: {problem}".splitlines()[0]
        raise DataError(f"{path}: not a database of ASE, or a damaged one ({reason:.150})") from (
            problem
        )


def _structure(row, units: dict, length: float, where: str) -> Atoms:
    atoms = row.toatoms()
    atoms.set_constraint()
    labels = dict(atoms.calc.results) if atoms.calc is not None else {}
    atoms.calc = None
    if length != 1.0:
        if labels:
            raise DataError(f"{where}: has results of a calculator and lengths that are not in Å")
        atoms.set_cell(atoms.cell * length)
        atoms.positions *= length
    data = dict(row.data)
    pairs = dict(row.key_value_pairs)
    for kind, names in NAMES.items():
        name = next((each for each in names if each in data), None)
        if kind in labels:
            continue
        if name is not None:
            labels[kind] = _label(data.pop(name), name, units, where)
        elif kind == "energy" and "total_energy" in pairs:
            labels["energy"] = float(pairs.pop("total_energy"))
    for name, value in data.items():
        if not isinstance(value, str) and _is_energy(units.get(name)):
            data[name] = _label(value, name, units, where)
    atoms.info = {**pairs, **{k: v for k, v in data.items() if not _is_per_atom(v, atoms)}}
    return labelled(atoms, **_shaped(labels, len(atoms), where))


def _label(value, name, units, where):
    numbers = np.asarray(value, dtype=np.float64)
    if name in units:
        return numbers * _unit(units[name], f"{where}: {name}")
    if name in ("total_energy", "atomic_forces"):
        return numbers  # ISO17
    raise DataError(
        f"{where}: data holds {name}, but the metadata of the file name no unit for it; "
        "add them with SchNetPack's spkconvert"
    )


def _unit(name, where: str) -> float:
    """The factor of a unit such as "kcal/mol/Ang" or "eV/Ang**3", or a number."""
    if isinstance(name, int | float):
        return float(name)
    factor, divide = 1.0, False
    for part in re.split("([/*])", str(name).replace(" ", "").replace("**", "^")):
        base, _, power = part.partition("^")
        if part in ("/", "*"):
            divide = part == "/"
        elif base in UNITS and (not power or power in ("2", "3")):
            factor *= UNITS[base] ** (int(power or 1) * (-1 if divide else 1))
        else:
            raise DataError(f"{where}: unit '{name}' is not known")
    return factor


def _is_energy(unit) -> bool:
    return str(unit).replace(" ", "") in (
        "eV", "meV", "Hartree", "hartree", "Ha", "Ry", "Rydberg", "kcal/mol", "kJ/mol",
    )  # fmt: skip


def _is_per_atom(value, atoms) -> bool:
    return np.ndim(value) > 1 or (np.ndim(value) == 1 and len(value) == len(atoms) > 1)


def _shaped(labels: dict, n_atoms: int, where: str) -> dict:
    """Energy, forces and stress as a calculator has them."""
    shaped = {k: labels[k] for k in ("free_energy",) if k in labels}
    for name, size in (("energy", (1,)), ("forces", (3 * n_atoms,)), ("stress", (6, 9))):
        if name not in labels or labels[name] is None:
            continue
        value = np.asarray(labels[name], dtype=np.float64)
        if value.size not in size:
            raise DataError(f"{where}: {name} has shape {value.shape}")
        if name == "energy":
            value = float(value.item())
        elif name == "forces":
            value = value.reshape(n_atoms, 3)
        elif value.size == 9:
            value = value.reshape(3, 3)
            value = 0.5 * (value + value.T)[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        shaped[name] = value
    return shaped


def write_structures(path: Path, frames: Iterable[Atoms]) -> int:
    """Write structures with their labels, and ``info`` as ``data``, which holds any text."""
    number = 0
    with connect(str(path), type="db", append=False, use_lock_file=False) as database:
        for atoms in frames:
            number += 1
            database.write(atoms, data=dict(atoms.info))
    return number

"""Structures of FitSNAP: a .json file for each, in a folder for each group.

A first line that does not begin with ``{`` is a comment. Forces and energies are in eV and Å;
``Stress`` is a pressure, positive under compression, in bar unless ``StressStyle`` says otherwise.
All cells are periodic. The group becomes ``config_type``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers

from fdforce.errors import DataError
from fdforce.structure_checks import completed_cell
from fdforce.units import BOHR, GPA

BAR = 1e-4 * GPA
STYLES = {
    "Lattice": {"angstrom": 1.0, "metal": 1.0, "bohr": BOHR},
    "Positions": {"angstrom": 1.0, "metal": 1.0, "bohr": BOHR},
    "Energy": {"electronvolt": 1.0, "ev": 1.0, "metal": 1.0},
    "Forces": {"electronvoltperangstrom": 1.0, "ev/angstrom": 1.0, "metal": 1.0},
    "Stress": {"bar": BAR, "metal": BAR, "kb": 1e3 * BAR, "kbar": 1e3 * BAR, "gpa": GPA},
    "AtomType": {"chemicalsymbol": 1.0},
}
"""Units by the names that ``LatticeStyle`` and so on give; the first is that of a file that gives
none."""

_HEAD = re.compile(rb'\s*\{\s*"Dataset"')


def recognises(path: Path) -> bool:
    """Whether a file, or the first .json file of a folder or its subfolders, is one of FitSNAP."""
    if path.is_dir():
        first = next((file for _, files in _groups(path) for file in files), None)
        return first is not None and recognises(first)
    if path.suffix != ".json":
        return False
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    return bool(_HEAD.match(head if head.startswith(b"{") else head.partition(b"\n")[2]))


def read_structures(path: Path) -> Iterator[Atoms]:
    """Structures with energy, forces and stress, one after another.

    Parameters
    ----------
    path : Path
        A .json file, a group (a folder of them), or a folder of groups.

    Raises
    ------
    DataError
        A file is damaged, or in units that are not known.
    """
    for group, files in [(path.resolve().parent.name, [path])] if path.is_file() else _groups(path):
        for file in files:
            yield from _read_file(file, group)


def json_files(folder: Path) -> list[Path]:
    """The .json files of a group, in the order of their numbers."""

    def by_number(file):
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)]

    return sorted((file for file in folder.glob("*.json") if file.is_file()), key=by_number)


def _groups(folder):
    """(group, files) of a folder that is a group or holds some."""
    groups = [(folder.resolve().name, json_files(folder))]
    inner = sorted(sub for sub in folder.iterdir() if sub.is_dir())
    return [(name, files) for name, files in groups if files] + [
        (sub.name, files) for sub in inner if (files := json_files(sub))
    ]


def _read_file(path, group):
    try:
        text = path.read_text(encoding="utf-8")
        text = text if text.startswith("{") else text.partition("\n")[2]
        entry = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file of FitSNAP ({error})") from None
    dataset = entry.get("Dataset") if isinstance(entry, dict) else None
    frames = dataset.get("Data") if isinstance(dataset, dict) else None
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise DataError(f"{path}: no Dataset with a list Data in it")
    units = {name: _unit(path, dataset, name) for name in STYLES}
    for frame in frames:
        atoms = _atoms(path, frame, units)
        atoms.info.update(config_type=group, source_file=path.name)
        yield atoms


def _unit(path, dataset, name):
    """Of a quantity, in eV and Å."""
    known = STYLES[name]
    style = dataset.get(f"{name}Style", next(iter(known)))
    if not isinstance(style, str) or style.lower() not in known:
        raise DataError(f"{path}: {name}Style {style!r:.40} is none of {', '.join(known)}")
    return known[style.lower()]


def _atoms(path, frame, units):
    symbols = frame.get("AtomTypes")
    if not isinstance(symbols, list) or not symbols:
        raise DataError(f"{path}: AtomTypes is not a list of elements")
    unknown = [symbol for symbol in symbols if symbol not in list(atomic_numbers)[1:]]
    if unknown:
        raise DataError(f"{path}: AtomTypes holds {unknown[0]!r:.40}, which is no element")
    n = len(symbols)
    if frame.get("NumAtoms", n) != n:
        raise DataError(f"{path}: NumAtoms is {frame['NumAtoms']!r:.40}, AtomTypes has {n}")
    cell = _numbers(path, frame, "Lattice", (3, 3), units)
    completed_cell(cell, np.ones(3, bool), str(path))  # refuses a singular one
    atoms = Atoms(
        symbols, positions=_numbers(path, frame, "Positions", (n, 3), units), cell=cell, pbc=True
    )
    labels = {}
    if "Energy" in frame:
        labels["energy"] = float(_numbers(path, frame, "Energy", (), units))
    if "Forces" in frame:
        labels["forces"] = _numbers(path, frame, "Forces", (n, 3), units)
    if "Stress" in frame:
        pressure = _numbers(path, frame, "Stress", (3, 3), units)
        pressure = (pressure + pressure.T) / 2
        labels["stress"] = -pressure[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


def _numbers(path, frame, name, shape, units):
    """A quantity in eV and Å, of the shape that it must have."""
    try:
        numbers = np.asarray(frame.get(name))
    except (ValueError, OverflowError):  # lists of unequal lengths
        numbers = np.array(None)
    if numbers.dtype.kind not in "fiu" or numbers.shape != shape:
        expected = " x ".join(map(str, shape)) + " numbers" if shape else "one number"
        raise DataError(f"{path}: {name} is not {expected}")
    numbers = numbers.astype(np.float64) * units[name]
    if not np.isfinite(numbers).all():
        raise DataError(f"{path}: {name} holds {numbers[~np.isfinite(numbers)][0]}")
    return numbers

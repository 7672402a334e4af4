"""MD17, MD22 and revised MD17: one molecule's structures in an .npz file.

=================  =====================  =====================================
MD17, MD22, sGDML  revised MD17
=================  =====================  =====================================
``z`` (N,)         ``nuclear_charges``    atomic numbers
``R`` (M, N, 3)    ``coords``             Å
``E`` (M,)         ``energies``           kcal/mol
``F`` (M, N, 3)    ``forces``             kcal/(mol Å)
=================  =====================  =====================================

sGDML's files may name other units in ``r_unit`` and ``e_unit``. The ``old_energies`` and
``old_forces`` of the revised set, which are MD17's, are not read.
"""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.lib import format as npy

from fdforce.errors import DataError
from fdforce.formats.labelled import CHUNK, atomic_numbers_of, first_bytes, labelled
from fdforce.formats.npy_rows import NpyRows
from fdforce.units import BOHR, HARTREE, KCAL_PER_MOL

LAYOUTS = (
    {"numbers": "z", "positions": "R", "energy": "E", "forces": "F"},
    {
        "numbers": "nuclear_charges",
        "positions": "coords",
        "energy": "energies",
        "forces": "forces",
    },
)

LENGTHS = {"Ang": 1.0, "Angstrom": 1.0, "A": 1.0, "Å": 1.0, "Bohr": BOHR, "bohr": BOHR}
ENERGIES = {
    "kcal/mol": KCAL_PER_MOL,
    "eV": 1.0,
    "Hartree": HARTREE,
    "hartree": HARTREE,
    "Ha": HARTREE,
}


def recognises(path: Path) -> bool:
    """An .npz file that is no model or checkpoint of fdforce."""
    if path.suffix != ".npz" or first_bytes(path, 2) != b"PK":
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return "header.npy" not in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return True  # for the message that it is damaged


def read_structures(path: Path) -> Iterator[Atoms]:
    """The structures in the order of the file, in eV and Å.

    Raises
    ------
    DataError
        If the file is damaged, or has other arrays or shapes; the array is named.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            yield from _structures(archive, path)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as problem:
        raise DataError(f"{path}: a damaged .npz file ({problem})") from problem


def _structures(archive, path) -> Iterator[Atoms]:
    names = {name.removesuffix(".npy") for name in archive.namelist()}
    layout = next((each for each in LAYOUTS if {each["numbers"], each["positions"]} <= names), None)
    if layout is None:
        raise DataError(
            f"{path}: holds {', '.join(sorted(names)) or 'nothing'}; expected z, R, E, F (MD17) or "
            "nuclear_charges, coords, energies, forces (revised MD17)"
        )
    if "lattice" in names:
        raise DataError(f"{path}: has a lattice; periodic files of sGDML are not read")
    length = _unit(archive, names, "r_unit", LENGTHS, "Ang", path)
    energy = _unit(archive, names, "e_unit", ENERGIES, "kcal/mol", path)
    units = {"positions": length, "energy": energy, "forces": energy / length}
    numbers = _small_array(archive, layout["numbers"], path)
    numbers = atomic_numbers_of(numbers, f"{path}: {layout['numbers']}")
    with contextlib.ExitStack() as opened:
        rows = {}
        for kind in units:
            name = layout[kind]
            if name in names:
                member = opened.enter_context(archive.open(f"{name}.npy"))
                rows[kind] = NpyRows(member, f"{path}: {name}")
        n_structures = rows["positions"].shape[0]
        for kind, array in rows.items():
            where = f"{path}: {layout[kind]}"
            _check_shape(array.shape, kind, n_structures, len(numbers), where)
        for _ in range(0, n_structures, CHUNK):
            parts = {kind: array.read(CHUNK) * units[kind] for kind, array in rows.items()}
            for k, points in enumerate(parts["positions"]):
                yield labelled(
                    Atoms(numbers, positions=points),
                    energy=float(parts["energy"][k].item()) if "energy" in parts else None,
                    forces=parts["forces"][k] if "forces" in parts else None,
                )


def _check_shape(shape, kind, n_structures, n_atoms, where):
    if kind == "energy":
        allowed = [(n_structures,), (n_structures, 1)]
    else:
        allowed = [(n_structures, n_atoms, 3)]
    if shape not in allowed:
        raise DataError(f"{where} has shape {shape}; expected {allowed[0]}")


def _small_array(archive, name, path) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        try:
            return npy.read_array(file, allow_pickle=False)
        except ValueError as problem:
            raise DataError(f"{path}: {name} is not an array of NumPy ({problem})") from problem


def _unit(archive, names, name, factors, usual, path) -> float:
    unit = str(_small_array(archive, name, path).item()) if name in names else usual
    if unit not in factors:
        raise DataError(f"{path}: {name} is '{unit}'; known are {', '.join(factors)}")
    return factors[unit]

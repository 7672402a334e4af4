"""DeePMD-kit's systems: folders with type.raw, type_map.raw and set.*/coord.npy and the like.

In every set, with F structures of N atoms: ``coord`` (F, 3N) and ``box`` (F, 9) in Å, rows of the
box being lattice vectors, ``energy`` (F,) in eV, ``force`` (F, 3N) in eV/Å, ``virial`` (F, 9) in
eV with the sign of -volume * stress. A file ``nopbc`` says that nothing is periodic. In the
"mixed type" format ``real_atom_types`` (F, N) replaces the types of type.raw; -1 are atoms that
only fill up.

https://docs.deepmodeling.com/projects/deepmd/en/stable/data; the sign of the virial is that of
dpdata's conversion from ASE.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from fdforce.errors import DataError, FdforceError
from fdforce.formats.labelled import labelled
from fdforce.formats.numbers import to_integer

SET_SIZE = 1000
"""Structures in a set.* that is written ..."""
HELD_ATOMS = 200_000
"""... and atoms held while sets are filled: beyond that the fullest is written as it is."""


def recognises(path: Path) -> bool:
    """A system, or a folder of systems up to two levels below."""
    return path.is_dir() and next(_systems(path), None) is not None


def _systems(path: Path) -> Iterator[Path]:
    for pattern in ("type.raw", "*/type.raw", "*/*/type.raw"):
        yield from (file.parent for file in sorted(path.glob(pattern)))


def read_structures(path: Path) -> Iterator[Atoms]:
    """The structures of every system, by name of the system and set, in eV and Å.

    Raises
    ------
    DataError
        If an array is missing, damaged or of another shape; the file is named.
    """
    for system in _systems(path):
        symbols = _element_names(system)
        types = _atom_types(system / "type.raw")
        sets = sorted(folder for folder in system.glob("set.*") if folder.is_dir())
        if not sets:
            raise DataError(f"{system}: has no folder set.*; text files (.raw) alone are not read")
        periodic = not (system / "nopbc").exists()
        for folder in sets:
            yield from _of_set(folder, symbols, types, periodic)


def _element_names(system: Path) -> list[str]:
    file = system / "type_map.raw"
    if not file.is_file():
        raise DataError(f"{file}: no such file; without it the elements are not known")
    names = file.read_text(encoding="utf-8", errors="replace").split()
    if unknown := [name for name in names if not atomic_numbers.get(name)]:
        raise DataError(f"{file}: '{unknown[0]:.20}' is not a chemical symbol")
    return names


def _atom_types(file: Path) -> np.ndarray:
    words = file.read_text(encoding="utf-8", errors="replace").split()
    try:
        types = np.array([to_integer(word) for word in words], dtype=int)
    except ValueError:
        raise DataError(f"{file}: expected the type of every atom, an integer") from None
    if not len(types):
        raise DataError(f"{file}: names no atoms")
    return types


def _of_set(folder, symbols, types, periodic) -> Iterator[Atoms]:
    n_atoms = len(types)
    coordinates = _array(folder / "coord.npy", None, 3 * n_atoms)
    n = len(coordinates)
    boxes = _array(folder / "box.npy", n, 9, required=periodic)
    energies = _array(folder / "energy.npy", n, 1, required=False)
    forces = _array(folder / "force.npy", n, 3 * n_atoms, required=False)
    virials = _array(folder / "virial.npy", n, 9, required=False)
    mixed = _array(folder / "real_atom_types.npy", n, n_atoms, required=False)
    for k in range(n):
        where = f"{folder}, structure {k}"
        of_structure = types if mixed is None else np.ravel(mixed[k])
        if mixed is not None and (of_structure % 1 != 0).any():
            raise DataError(f"{where}: real_atom_types are not whole numbers")
        of_structure = of_structure.astype(int)
        real = of_structure >= 0 if mixed is not None else np.ones(n_atoms, dtype=bool)
        named = (-1 if mixed is not None else 0) <= of_structure.min()
        if not (named and real.any() and of_structure.max() < len(symbols)):
            raise DataError(f"{where}: has atom types that type_map.raw does not name")
        atoms = Atoms(
            [symbols[t] for t in of_structure[real]],
            positions=_row(coordinates, k).reshape(-1, 3)[real],
            cell=_row(boxes, k).reshape(3, 3) if periodic else None,
            pbc=periodic,
        )
        yield labelled(
            atoms,
            energy=None if energies is None else float(_row(energies, k).item()),
            forces=None if forces is None else _row(forces, k).reshape(-1, 3)[real],
            stress=_stress(_row(virials, k), atoms) if periodic and virials is not None else None,
        )


def _row(array, k) -> np.ndarray:
    return np.array(array[k], dtype=np.float64)


def _stress(virial, atoms) -> np.ndarray:
    virial = virial.reshape(3, 3)
    full = -0.5 * (virial + virial.T) / atoms.get_volume()
    return full[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def _array(file: Path, rows: int | None, width: int, *, required: bool = True):
    """A memory-mapped array with `width` numbers in a row, None where absent."""
    if not file.is_file():
        if required:
            said = "; an empty file nopbc beside type.raw says that there is none"
            raise DataError(f"{file}: no such file{said if file.name == 'box.npy' else ''}")
        return None
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as problem:
        reason = f"{problem}".partition("\n")[0]
        raise DataError(f"{file}: not an array of NumPy, or a damaged one ({reason:.100})") from (
            problem
        )
    wanted = f"({'F' if rows is None else rows}, {width})"
    if not isinstance(array, np.ndarray) or array.ndim == 0 or array.dtype.kind not in "iuf":
        raise DataError(f"{file}: expected an array of numbers, {wanted}")
    if (rows is not None and len(array) != rows) or array.size != len(array) * width:
        raise DataError(f"{file}: has shape {array.shape}; expected {wanted}")
    return array


def write_structures(path: Path, frames: Iterable[Atoms]) -> int:
    """Write structures as systems: one for each list of symbols, periodicity and set of labels.

    The folders are named by formula, so structures of several formulas change their order. Neither
    config_type nor weights have a place in this format.

    Raises
    ------
    FdforceError
        For structures that are periodic in one or two directions only.
    """
    systems: dict[tuple, _System] = {}
    names: dict[str, int] = {}
    number = held = 0
    for number, atoms in enumerate(frames, start=1):
        periodic = bool(atoms.pbc.all())
        if atoms.pbc.any() and not periodic:
            raise FdforceError(
                f"structure {number - 1} is periodic in some directions only, which DeePMD's "
                "format cannot say; make its pbc 'T T T' with a wide cell, or leave it out"
            )
        results = atoms.calc.results if atoms.calc is not None else {}
        labels = tuple(name for name in ("energy", "forces", "stress") if name in results)
        key = (tuple(atoms.symbols), periodic, labels)
        if key not in systems:
            formula = atoms.get_chemical_formula()
            names[formula] = names.get(formula, 0) + 1
            name = formula if names[formula] == 1 else f"{formula}_{names[formula]}"
            systems[key] = _System(path / name, atoms, periodic)
        system = systems[key]
        system.add(atoms, results)
        held += len(atoms)
        if len(system.rows) == SET_SIZE:
            held -= system.write_set()
        while held > HELD_ATOMS:
            held -= max(systems.values(), key=lambda each: each.held).write_set()
    for system in systems.values():
        system.write_set()
    return number


class _System:
    """A system on disk, and the structures of the set to be written next."""

    def __init__(self, folder: Path, atoms: Atoms, periodic: bool):
        self.folder, self.n_atoms, self.n_sets = folder, len(atoms), 0
        self.rows: list[dict] = []
        symbols = sorted(set(atoms.symbols), key=atomic_numbers.get)
        folder.mkdir(parents=True)
        (folder / "type_map.raw").write_text("\n".join(symbols) + "\n")
        (folder / "type.raw").write_text("\n".join(str(symbols.index(s)) for s in atoms.symbols))
        if not periodic:
            (folder / "nopbc").touch()

    @property
    def held(self) -> int:
        return len(self.rows) * self.n_atoms

    def add(self, atoms: Atoms, results: dict) -> None:
        row = {"coord": atoms.positions.ravel()}
        if atoms.pbc.all():
            row["box"] = np.array(atoms.cell).ravel()
        if "energy" in results:
            row["energy"] = float(results["energy"])
        if "forces" in results:
            row["force"] = np.asarray(results["forces"]).ravel()
        if "stress" in results:
            stress = np.asarray(results["stress"])[[0, 5, 4, 5, 1, 3, 4, 3, 2]]
            row["virial"] = -stress * atoms.get_volume()
        self.rows.append({name: np.array(value, dtype=np.float64) for name, value in row.items()})

    def write_set(self) -> int:
        """Write what is held as a set; the number of atoms that are held no more."""
        if not self.rows:
            return 0
        held, folder = self.held, self.folder / f"set.{self.n_sets:03d}"
        folder.mkdir()
        for name in self.rows[0]:
            np.save(folder / f"{name}.npy", np.array([row[name] for row in self.rows]))
        self.n_sets, self.rows = self.n_sets + 1, []
        return held

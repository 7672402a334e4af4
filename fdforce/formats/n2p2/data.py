"""n2p2's input.data: structures with energies and forces.

::

    begin [set=train|set=test]
    comment ...
    lattice x y z                            (three lines, or none: not periodic)
    atom x y z element charge unused fx fy fz
    energy E
    charge Q
    end
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from fdforce import labels
from fdforce.errors import DataError, FdforceError
from fdforce.formats.n2p2.text import (
    UNITS,
    check_element,
    open_text,
    read_lines,
    readable,
    split_path,
    units_of,
)
from fdforce.formats.numbers import to_number

NAME = "input.data"
VALUES = {"lattice": 3, "atom": 9, "energy": 1, "charge": 1, "end": 0}
"""keyword -> number of values."""


@dataclass
class Record:
    """One structure in the units of the file."""

    line: int
    """Of its ``begin``."""
    set: str = ""
    comment: str = ""
    lattice: list = field(default_factory=list)
    symbols: list[str] = field(default_factory=list)
    atoms: list = field(default_factory=list)
    """x y z charge fx fy fz"""
    energy: float | None = None
    charge: float | None = None


def find_file(path: Path) -> Path:
    """The file itself, or that in a folder."""
    if not path.is_dir():
        return path
    packed = path / f"{NAME}.gz"
    return packed if packed.is_file() and not (path / NAME).is_file() else path / NAME


def recognises(path: Path) -> bool:
    """Whether a file, or the input.data of a folder, begins like one."""
    try:
        file = find_file(split_path(path)[0])
    except FdforceError:  # said when it is read
        return True
    if not (file.is_file() and file.name.removesuffix(".gz").endswith(".data")):
        return False
    with suppress(DataError):
        for _, words in read_lines(file, DataError):
            return words[0] == "begin"
    return False


def assumed_units(path: Path) -> str:
    """Which units a file is taken to be in, by its name or by default."""
    file, options = split_path(path)
    file, units = find_file(file), options.get("units", "ev-angstrom")
    other = next(name for name in UNITS if name != units)
    return (
        f"{file}: lengths and energies are taken to be in {units}; n2p2's files do not say "
        f"({file.name}#units={other} does)"
    )


def read_structures(path: Path, *, units: str = "ev-angstrom") -> Iterator[Atoms]:
    """Structures one at a time, in Å and eV, with energies and forces.

    Parameters
    ----------
    path : path
        A file, perhaps .gz, or a folder with an input.data; ``#units=hartree-bohr`` and
        ``#set=train`` or ``#set=test`` may follow. Structures without a mark belong to "train".
    units : str
        Of a file whose name does not say.

    Raises
    ------
    DataError
        With the line, for what is not n2p2's format.
    """
    file, options = split_path(path)
    energy, length = units_of(options.get("units", units))
    wanted = options.get("set")
    for record in read_records(find_file(file)):
        if wanted and (record.set or "train") != wanted:
            continue
        yield _to_atoms(record, energy, length)


def read_records(file: Path) -> Iterator[Record]:
    """Structures of a file as they stand there.

    Raises
    ------
    DataError
    """
    record = None
    with readable(file, DataError), open_text(file) as lines:
        for number, line in enumerate(lines, 1):
            words = line.split()
            if not words:
                continue
            try:
                if record is None or words[0] == "begin":
                    record = _begin(words, number, record)
                    continue
                if words[0] == "comment":
                    record.comment = line.strip()[len("comment") :].strip()
                    continue
                _add(record, words)
                if words[0] == "end":
                    _check_complete(record)
                    yield record
                    record = None
            except ValueError as problem:
                raise DataError(f"{file}, line {number}: {problem}") from None
    if record is not None:
        raise DataError(
            f"{file}: the structure that begins in line {record.line} has no 'end'; the file is "
            "truncated"
        )


def _begin(words, number, before):
    if words[0] != "begin":
        raise ValueError(f"expected 'begin', found {words[0]!r:.40}")
    if before is not None:
        raise ValueError(f"'begin', but the structure of line {before.line} has no 'end'")
    mark = words[1].removeprefix("set=") if len(words) > 1 else ""
    if len(words) > 2 or (len(words) == 2 and mark not in ("train", "test")):
        raise ValueError(f"{' '.join(words)!r:.60}: expected begin, begin set=train or set=test")
    return Record(number, mark)


def _add(record, words):
    keyword, values = words[0], words[1:]
    if keyword not in VALUES:
        known = ", ".join(["comment", *VALUES])
        raise ValueError(f"unknown keyword {keyword!r:.40}; expected one of {known}")
    if len(values) != VALUES[keyword]:
        raise ValueError(f"{keyword} has {len(values)} values instead of {VALUES[keyword]}")
    if keyword == "lattice":
        record.lattice.append([to_number(word) for word in values])
    elif keyword == "atom":
        record.symbols.append(check_element(values[3]))
        chosen = values[:3] + values[4:5] + values[6:]
        record.atoms.append([to_number(word) for word in chosen])
    elif keyword in ("energy", "charge"):
        if getattr(record, keyword) is not None:
            raise ValueError(f"{keyword} is given twice")
        setattr(record, keyword, to_number(values[0]))


def _check_complete(record):
    where = f"the structure of line {record.line}"
    if len(record.lattice) not in (0, 3):
        raise ValueError(f"{where} has {len(record.lattice)} lattice lines; there are 3 or none")
    if not record.atoms:
        raise ValueError(f"{where} has no atoms")


def _to_atoms(record, energy, length):
    values = np.array(record.atoms)
    periodic = bool(record.lattice)
    atoms = Atoms(
        record.symbols,
        positions=values[:, :3] * length,
        cell=np.array(record.lattice) * length if periodic else None,
        pbc=periodic,
    )
    if values[:, 3].any():
        atoms.set_initial_charges(values[:, 3])
    results = {"forces": values[:, 4:] * (energy / length)}
    if record.energy is not None:
        results["energy"] = record.energy * energy
    atoms.calc = SinglePointCalculator(atoms, **results)
    for key in ("set", "comment", "charge"):
        value = getattr(record, key)
        if value not in ("", None):
            atoms.info[key] = value
    return atoms


def write_structures(path: Path, frames: Iterable[Atoms]) -> int:
    """Write structures with energies and forces in Å and eV.

    Stresses are left out: the format has none. The mark ``info["set"]`` (train or test),
    ``info["comment"]``, ``info["charge"]`` and initial charges are kept.

    Parameters
    ----------
    path : path
        A file, compressed if it ends in .gz, or a folder for its input.data.
    frames : iterable of ase.Atoms

    Returns
    -------
    int
        The number of structures.

    Raises
    ------
    DataError
        A structure without energy or forces, or periodic in one or two directions; no file is
        written then.
    """
    path = Path(path)
    file = path / NAME if path.is_dir() else path
    count = 0
    # beside its final place first, so that a structure that is refused leaves an earlier file
    part = file.with_name(f".{file.name}.part")
    opener = gzip.open if file.suffix == ".gz" else open
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with opener(part, "wt", encoding="utf-8", newline="\n") as out:
            for count, atoms in enumerate(frames, 1):
                out.write(_block(atoms, f"structure {count - 1}"))
        os.replace(part, file)
    except OSError as problem:
        raise DataError(f"{file}: cannot be written ({problem.strerror or problem})") from problem
    finally:
        with suppress(OSError):
            part.unlink()
    return count


def _block(atoms, label):
    values = labels.named_values(atoms)
    keys = {q: labels.choose_key(q, "", [values]) for q in ("energy", "forces")}
    energy = labels.read_energy(values, keys["energy"], label)
    forces = labels.read_forces(values, keys["forces"], label, len(atoms))
    for name, value in (("energy", energy), ("forces", forces)):
        if np.isnan(value).any():
            raise DataError(f"{label}: has no {name}; n2p2's input.data needs them")
    if atoms.pbc.any() and not atoms.pbc.all():
        raise DataError(
            f"{label}: is periodic in some directions alone; n2p2 knows three or none, so give it "
            "a cell with vacuum and pbc=True"
        )
    if atoms.pbc.all() and not abs(atoms.cell.volume) > 0:
        raise DataError(f"{label}: its cell is singular")
    mark = atoms.info.get("set")
    lines = [f"begin set={mark}" if mark in ("train", "test") else "begin"]
    if atoms.info.get("comment"):
        lines.append(f"comment {' '.join(str(atoms.info['comment']).split())}")
    if atoms.pbc.all():
        lines += [f"lattice {_numbers(row)}" for row in atoms.cell]
    charges = atoms.get_initial_charges()
    for symbol, position, charge, force in zip(
        atoms.get_chemical_symbols(), atoms.positions, charges, forces
    ):
        check_element(symbol)
        lines.append(
            f"atom {_numbers(position)} {symbol} {_numbers([charge, 0])} {_numbers(force)}"
        )
    lines += [
        f"energy {_numbers([energy])}",
        f"charge {_numbers([atoms.info.get('charge', 0.0)])}",
        "end\n",
    ]
    return "\n".join(lines)


def _numbers(values):
    return " ".join(repr(float(value)) for value in values)

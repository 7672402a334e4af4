"""Structures of LAMMPS' text dumps, in units metal, frame by frame.

Elements come from the column ``element`` (``dump_modify ID element Ta W``); atom types alone do not
say what they are. Columns ``fx fy fz`` become forces. Atoms are sorted by ``id``. Positions may be
``x``, ``xu``, ``xs`` or ``xsu``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers

from fdforce.errors import DataError
from fdforce.formats.numbers import to_number

_COORDINATES = (
    (("x", "y", "z"), False), (("xu", "yu", "zu"), False),
    (("xs", "ys", "zs"), True), (("xsu", "ysu", "zsu"), True),
)  # fmt: skip

_BOUNDARY = re.compile("[pfsm]{2}")


def recognises(path: Path) -> bool:
    """Whether the first line of a file is that of a dump."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(15).startswith((b"ITEM: TIMESTEP", b"ITEM: UNITS", b"ITEM: TIME"))
    except OSError:
        return False


def read_structures(path: Path) -> Iterator[Atoms]:
    """Structures, with forces where the dump has them; ``info["timestep"]`` tells the step.

    Parameters
    ----------
    path : Path

    Raises
    ------
    DataError
        The file is damaged, in other units than metal, or does not tell the elements.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from _Frames(path, file)


class _Frames:
    """An iterator over the frames of an open dump that counts lines."""

    def __init__(self, path, file):
        self.path, self.file, self.number = path, file, 0
        self.units = "metal"

    def __iter__(self):
        items = {}
        while (line := self._line()) is not None:
            if not line:
                continue
            if not line.startswith("ITEM:"):
                raise self._error("a line that begins with ITEM: is expected")
            name = line[5:].strip()
            if name.startswith("ATOMS"):
                yield self._atoms(items, name.split()[1:])
                items = {}
            elif name.startswith("BOX BOUNDS"):
                items["box"] = name.split()[2:], [self._numbers() for _ in range(3)]
            elif name in ("TIMESTEP", "NUMBER OF ATOMS"):
                items[name] = self._count()
            elif name == "UNITS":
                self.units = self._line()
                if self.units != "metal":
                    raise self._error(
                        f"units {self.units}; dumps in units metal (eV, Å) can be read"
                    )
            elif name == "TIME":
                self._line()
            else:
                raise self._error(f"ITEM: {name} is not known")
        if items:
            raise self._error("the last frame ends too early")

    def _line(self):
        """The next line without its end, None at the end of the file."""
        self.number += 1
        line = self.file.readline()
        return line.strip() if line else None

    def _numbers(self):
        try:
            return [to_number(word) for word in (self._line() or "").split()]
        except ValueError as problem:
            raise self._error(f"{problem}") from None

    def _count(self):
        word = self._line() or ""
        if not (word.isascii() and word.isdigit() and len(word) < 19):
            raise self._error(f"{word!r:.40}: a whole number is expected")
        return int(word)

    def _atoms(self, items, columns):
        if missing := {"TIMESTEP", "NUMBER OF ATOMS", "box"} - items.keys():
            raise self._error(f"a frame without {', '.join(sorted(missing))}")
        cell, origin, periodic = self._cell(*items["box"])
        if "element" not in columns:
            raise self._error(
                "the dump does not tell the elements of the atom types; write it with the column "
                "element and, for example, dump_modify ID element Ta W"
            )
        if len(set(columns)) < len(columns):
            raise self._error("a column is there twice")
        rows = []
        for _ in range(items["NUMBER OF ATOMS"]):
            rows.append((self._line() or "").split())
            if len(rows[-1]) != len(columns):
                raise self._error(f"{len(columns)} columns are expected, {len(rows[-1])} found")
        table = dict(zip(columns, zip(*rows))) if rows else dict.fromkeys(columns, ())
        first = self.number - len(rows) + 1
        if "id" in columns:
            order = np.argsort(self._column(table, "id", first), kind="stable")
            table = {name: [values[k] for k in order] for name, values in table.items()}
        unknown = set(table["element"]) - set(list(atomic_numbers)[1:])
        if unknown:
            raise self._error(
                f"{min(unknown)!r:.40} is no element; see dump_modify ID element of LAMMPS"
            )
        names, scaled = next(
            (found for found in _COORDINATES if set(found[0]) <= set(columns)), ((), False)
        )
        if not names:
            raise self._error("no columns x y z, xu yu zu, xs ys zs or xsu ysu zsu")
        positions = self._columns(table, names, first)
        positions = positions @ cell if scaled else positions - origin
        atoms = Atoms(list(table["element"]), positions=positions, cell=cell, pbc=periodic)
        atoms.info["timestep"] = items["TIMESTEP"]
        forces = {"fx", "fy", "fz"} & set(columns)
        if forces and len(forces) < 3:
            raise self._error("columns fx fy fz are expected together")
        if forces:
            forces = self._columns(table, ("fx", "fy", "fz"), first)
            atoms.calc = SinglePointCalculator(atoms, forces=forces)
        return atoms

    def _columns(self, table, names, first):
        return np.stack([self._column(table, name, first) for name in names], axis=-1)

    def _column(self, table, name, first):
        values = np.empty(len(table[name]))
        for k, word in enumerate(table[name]):
            try:
                # to_number would take most of the time
                values[k] = float(word) if word.isascii() and "_" not in word else np.nan
            except ValueError:
                values[k] = np.nan
        if not np.isfinite(values).all():
            word = table[name][int(np.argmin(np.isfinite(values)))]
            raise DataError(
                f"{self.path}, lines {first} to {self.number}: {name} is {word:.40}; a finite "
                "number is expected"
            )
        return values

    def _cell(self, words, rows):
        """Cell, origin and periodic directions of a BOX BOUNDS section."""
        rows = [np.array(row) for row in rows]
        if words[:1] == ["abc"]:
            words, vectors = words[2:], rows
            if {len(row) for row in rows} != {4}:
                raise self._error("three lattice vectors with an origin are expected")
            cell, origin = np.array([row[:3] for row in vectors]), np.array([r[3] for r in rows])
        else:
            tilted = words[:3] == ["xy", "xz", "yz"]
            words = words[3:] if tilted else words
            if {len(row) for row in rows} != {3 if tilted else 2}:
                raise self._error("bounds of three directions are expected, with xy xz yz or not")
            xy, xz, yz = (row[2] if tilted else 0.0 for row in rows)
            # the bounds are those of a box around the tilted one
            low = np.array([row[0] for row in rows])
            high = np.array([row[1] for row in rows])
            low -= [min(0, xy, xz, xy + xz), min(0, yz), 0]
            high -= [max(0, xy, xz, xy + xz), max(0, yz), 0]
            edges = high - low
            cell = np.array([[edges[0], 0, 0], [xy, edges[1], 0], [xz, yz, edges[2]]])
            origin = low
        if len(words) != 3 or not all(_BOUNDARY.fullmatch(word) for word in words):
            raise self._error("the boundaries of three directions are expected, such as pp pp pp")
        return cell, origin, [word == "pp" for word in words]

    def _error(self, reason):
        return DataError(f"{self.path}, line {self.number}: {reason}")

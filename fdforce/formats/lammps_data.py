"""The structure of a LAMMPS data file (read_data, write_data), in units metal.

Elements come from ``Atom Type Labels``, from a comment behind the mass (``1 180.95 # Ta``), or from
the mass itself where one element alone has it. All directions are taken as periodic: these files do
not say.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

from ase import Atoms
from ase.data import atomic_masses, atomic_numbers, chemical_symbols
from ase.io.lammpsdata import read_lammps_data

from fdforce.errors import DataError
from fdforce.formats.numbers import to_number

MASS_TOLERANCE = 1e-3
"""Relative: masses of neighbouring elements that occur in models differ by 2e-3 and more, and the
mass 1.0, which stands for no element, is not that of hydrogen."""
STYLES = ("atomic", "charge", "molecular", "bond", "angle", "full")

_COUNT = re.compile(r"^[ \t]*(\d+)[ \t]+atoms[ \t\r]*(#.*)?$", re.MULTILINE)
_TYPES = re.compile(r"^[ \t]*(\d+)[ \t]+atom[ \t]+types", re.MULTILINE)
_BOX = re.compile(r"\bxlo[ \t]+xhi|\bavec\b")
_UNITS = re.compile(r"units = (\w+)")


def recognises(path: Path) -> bool:
    """Whether the head of a file counts atoms and atom types and gives a box."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(8192).decode("utf-8", "replace")
    except OSError:
        return False
    return all(pattern.search(head) for pattern in (_COUNT, _TYPES, _BOX))


def read_structures(path: Path) -> Iterator[Atoms]:
    """The one structure of the file.

    Parameters
    ----------
    path : Path

    Raises
    ------
    DataError
        The file is damaged, in other units than metal, or does not tell elements or atom style.
    """
    # comments may have any encoding
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    units = _UNITS.search(lines[0])
    if units and units[1] != "metal":
        raise DataError(f"{path}, line 1: units {units[1]}; files in units metal can be read")
    sections = _sections(lines)
    for name in ("Atoms", "Masses"):
        if name not in sections and (name == "Atoms" or "Atom Type Labels" not in sections):
            raise DataError(f"{path}: there is no section {name}")
    numbers = _elements(path, sections)
    style, rows = _style(path, sections)
    count = _COUNT.search("\n".join(lines))[1]
    if count.lstrip("0") != str(len(rows)):
        raise DataError(f"{path}: {count:.40} atoms are announced, {len(rows)} lines follow Atoms")
    _check_numbers(path, _box(path, sections) + rows)
    try:
        text = io.StringIO("\n".join(lines))
        atoms = read_lammps_data(text, Z_of_type=numbers, units="metal", atom_style=style)
    # ASE's reader raises whatever the parsing happened to trip over
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{path}: not a LAMMPS data file ({reason:.200})") from error
    plain = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
    yield plain


def _sections(lines):
    """Name -> (comment, [(line number, words, comment)]); "" is the head."""
    sections, current = {"": ("", [])}, ""
    names = re.compile(r"^(Atoms|Masses|Atom Type Labels|[A-Z][A-Za-z0-9 ]*)$")
    for number, line in enumerate(lines[1:], 2):
        text, _, comment = line.partition("#")
        if names.match(text.strip()):
            current = text.strip()
            sections[current] = comment.strip(), []
        elif text.strip():
            sections[current][1].append((number, text.split(), comment.strip()))
    return sections


def _box(path, sections):
    """Lines of the head that give the box."""
    head = [row for row in sections[""][1] if len(row[1]) > 3]
    names = {" ".join(words[2:]) for _, words, _ in head} | {words[3] for _, words, _ in head}
    for wanted in ({"xlo xhi", "ylo yhi", "zlo zhi"}, {"avec", "bvec", "cvec"}):
        if wanted & names and not wanted <= names:
            raise DataError(f"{path}: the box has no {min(wanted - names)}")
    for number, words, _ in head:
        if len(words) == 6 and words[3:] != ["xy", "xz", "yz"]:
            raise DataError(f"{path}, line {number}: {' '.join(words)!r:.60} is not known")
    return head


def _check_numbers(path, rows):
    """That words which begin like numbers are finite ones."""
    for number, words, _ in rows:
        for word in words:
            if word[0].isalpha() and word.lower() not in ("nan", "inf", "infinity"):
                continue  # a label of a type, or what the numbers of the head are
            try:
                to_number(word)
            except ValueError as problem:
                raise DataError(f"{path}, line {number}: {problem}") from None


def _elements(path, sections):
    """Atomic number of each atom type."""
    known = set(chemical_symbols[1:])
    labels = {
        words[0]: words[1]
        for _, words, _ in sections.get("Atom Type Labels", ("", []))[1]
        if len(words) == 2
    }
    found = {}
    for name, label in labels.items():
        if name.isdecimal() and label in known:
            found[int(name)] = atomic_numbers[label]
    for number, words, comment in sections.get("Masses", ("", []))[1]:
        kind = next((key for key, label in labels.items() if label == words[0]), words[0])
        if not (kind.isascii() and kind.isdecimal() and len(kind) < 10) or len(words) != 2:
            raise DataError(f"{path}, line {number}: an atom type and a mass are expected")
        if int(kind) in found:
            continue
        symbol = comment.split()[0] if comment else ""
        found[int(kind)] = atomic_numbers[
            symbol if symbol in known else _of_mass(path, number, words)
        ]
    return found


def _of_mass(path, number, words):
    """The only element of a mass."""
    try:
        mass = to_number(words[1])
    except ValueError:
        mass = float("nan")
    near = [
        symbol
        for symbol, known in zip(chemical_symbols[1:], atomic_masses[1:])
        if abs(mass - known) <= MASS_TOLERANCE * known
    ]
    if len(near) != 1:
        what = f"may be {' or '.join(near)}" if near else "is that of no element"
        raise DataError(
            f"{path}, line {number}: the mass {words[1]:.40} of atom type {words[0]:.40} {what}; "
            f"name it behind the mass: {words[0]:.40} {words[1]:.40} # {near[0] if near else 'Ta'}"
        )
    return near[0]


def _style(path, sections):
    """The atom style and the lines of the atoms."""
    style, rows = sections["Atoms"]
    lengths = {len(words) for _, words, _ in rows}
    style = style.split()[0] if style else ""
    if not style and lengths <= {5, 8}:
        style = "atomic"
    if style not in STYLES:
        raise DataError(
            f"{path}: the atom style {style or 'is not said'}; write one of {', '.join(STYLES)} "
            "behind the word Atoms: Atoms # charge"
        )
    length = {"atomic": 5, "full": 7}.get(style, 6)
    wrong = next((row for row in rows if len(row[1]) not in (length, length + 3)), None)
    if wrong or len(lengths) > 1:
        number = (wrong or rows[-1])[0]
        raise DataError(
            f"{path}, line {number}: atom style {style} has {length} columns, or {length + 3} "
            "with image flags, the same for all atoms"
        )
    return style, rows

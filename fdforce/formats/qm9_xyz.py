"""QM9: molecules of the GDB-9 set as raw .xyz files, single, in a folder, or in their .tar.bz2.

Not plain xyz: the comment line is ``gdb NUMBER`` with 15 properties, atoms have a charge in a fifth
column, exponents are written ``1.2*^-5``, and three lines follow the atoms (frequencies, SMILES,
InChI). Columns are separated by tabs. Ramakrishnan et al., Sci. Data 1, 140022 (2014), table 2.

``energy`` is U0, the internal energy at 0 K, which holds the zero-point vibration;
``electronic_energy``, U0 - zpve, is the energy of the nuclei at rest. Both are in eV. There are no
forces: every molecule is at its minimum.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from fdforce.errors import DataError
from fdforce.formats.labelled import first_bytes, labelled
from fdforce.formats.numbers import to_integer, to_number
from fdforce.units import HARTREE

PROPERTIES = (
    "tag", "index", "A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "U0", "U",
    "H", "G", "Cv",
)  # fmt: skip

_NAME = re.compile(r"ds\w*nsd_\d+\.xyz")
_TARS = (".tar", ".tgz", ".tbz2", ".tar.gz", ".tar.bz2", ".tar.xz")


def recognises(path: Path) -> bool:
    """A file or a folder with the comment line of QM9, or an archive of such files."""
    if path.is_dir():
        return next(path.glob("ds*nsd_*.xyz"), None) is not None
    if path.name.endswith(_TARS):
        return _first_member(path) is not None
    if path.suffix != ".xyz":
        return False
    lines = first_bytes(path, 500).decode(errors="replace").splitlines()
    return len(lines) > 1 and _is_comment(lines[1])


def _is_comment(line: str) -> bool:
    words = line.split()
    return len(words) >= len(PROPERTIES) and words[0] == "gdb"


def _first_member(path):
    try:
        with tarfile.open(path, "r|*") as archive:
            return next((m.name for m in archive if _NAME.fullmatch(Path(m.name).name)), None)
    except (OSError, tarfile.TarError, EOFError):
        return None


def read_structures(path: Path) -> Iterator[Atoms]:
    """The molecules, those of a folder by name, in eV and Å.

    Raises
    ------
    DataError
        If a line is not what the format asks for; file and line are named.
    """
    if path.is_dir():
        for file in sorted(path.glob("ds*nsd_*.xyz")):
            with open(file, encoding="utf-8", errors="replace") as text:
                yield from _molecules(text, str(file))
    elif path.name.endswith(_TARS):
        yield from _of_archive(path)
    else:
        with open(path, encoding="utf-8", errors="replace") as text:
            yield from _molecules(text, str(path))


def _of_archive(path) -> Iterator[Atoms]:
    # one pass, front to back: a compressed archive cannot be searched
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if member.isfile() and member.name.endswith(".xyz"):
                    text = archive.extractfile(member).read().decode(errors="replace")
                    yield from _molecules(StringIO(text), f"{path}, {member.name}")
    except (OSError, tarfile.TarError, EOFError) as problem:
        raise DataError(f"{path}: a damaged archive ({problem})") from problem


def _molecules(text, where: str) -> Iterator[Atoms]:
    number = 0
    while line := text.readline():
        number += 1
        if not line.strip():
            continue
        n_atoms = _count(line, f"{where}, line {number}")
        lines = [text.readline() for _ in range(n_atoms + 4)]
        if not lines[-1].strip():
            raise DataError(f"{where}, line {number}: the file ends within {n_atoms} atoms")
        yield _molecule(lines, n_atoms, where, number + 1)
        number += n_atoms + 4


def _count(line: str, where: str) -> int:
    try:
        number = to_integer(line.strip())
    except ValueError as problem:
        raise DataError(f"{where}: number of atoms: {problem}") from None
    if not 0 < number < 10**6:
        raise DataError(f"{where}: {number} is no number of atoms")
    return number


def _molecule(lines, n_atoms, where, number) -> Atoms:
    """A molecule of its comment line, which has the given number in the file, and its atoms."""
    if not _is_comment(lines[0]):
        raise DataError(
            f"{where}, line {number}: expected 'gdb', a number and 15 properties, found "
            f"'{lines[0].strip():.40}'"
        )
    words = lines[0].split()
    values = dict(zip(PROPERTIES, words, strict=False))
    u0, zpve = (
        _number(values[name], f"{where}, line {number}: {name}") * HARTREE
        for name in ("U0", "zpve")
    )
    symbols, positions = [], np.empty((n_atoms, 3))
    for k, line in enumerate(lines[1 : n_atoms + 1]):
        at = f"{where}, line {number + 1 + k}"
        words = line.split()
        if len(words) != 5 or not atomic_numbers.get(words[0]):
            raise DataError(
                f"{at}: expected symbol, x, y, z and charge, found '{line.strip():.40}'"
            )
        symbols.append(words[0])
        positions[k] = [_number(word, at) for word in words[1:4]]
    info = {"gdb": values["index"], "electronic_energy": u0 - zpve}
    return labelled(Atoms(symbols, positions=positions, info=info), energy=u0)


def _number(word: str, where: str) -> float:
    try:
        return to_number(word.replace("*^", "e"))
    except ValueError as problem:
        raise DataError(f"{where}: {problem}") from None

"""XSF structures with ænet's energy comment: a file, or a folder or tar archive of them.

``# total energy = X eV`` (or ``# cohesive energy``) is ænet's addition to XCrysDen's format; with
it forces are in eV/Å. Files without are XCrysDen's, with forces in Hartree/Å, and left to ASE.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers, chemical_symbols

from fdforce.errors import DataError, FdforceError
from fdforce.formats.aenet.fortran import integer, lines_of, real
from fdforce.labels import choose_key, named_values, read_energy, read_forces

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

_ENERGY = re.compile(r"(total|cohesive) energy\s*=\s*(\S*)")
_MARKS = (b"total energy", b"cohesive energy")


def recognises(path) -> bool:
    """Whether it is an XSF file with ænet's energy comment, or a folder or archive of .xsf."""
    path = Path(path)
    try:
        if path.is_file() and path.name.lower().endswith(".xsf"):
            return _has_energy(path.read_bytes())
        if path.is_dir() or path.name.lower().endswith(ARCHIVES):
            return any(True for _ in _files(path))
    except (OSError, FdforceError):
        pass
    return False


def _has_energy(content):
    return any(mark in content for mark in _MARKS)


def read_structures(path) -> Iterator[Atoms]:
    """The structures of a file, a folder (by name) or a tar archive, in eV and eV/Å.

    Cohesive energies are taken as they are: against those of the separate atoms.

    Raises
    ------
    DataError
        A file that cannot be read, with file and line; total energies beside cohesive ones.
    """
    path = Path(path)
    if path.is_file() and not path.name.lower().endswith(ARCHIVES):
        files = [(str(path), path.read_bytes())]
    else:
        files = _files(path)
    first = None
    for name, content in files:
        atoms, kind = parse(name, content)
        if kind is not None:
            first = first or (kind, name)
            if kind != first[0]:
                raise DataError(
                    f"{name}: has a {kind} energy, but {first[1]} a {first[0]} one; keep them apart"
                )
        yield atoms


def _files(path):
    """(name, content) of the .xsf in a folder or archive."""
    if path.is_dir():
        for file in sorted(path.iterdir()):
            if _is_structure(file.name) and file.is_file():
                yield str(file), file.read_bytes()
        return
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if member.isfile() and _is_structure(Path(member.name).name):
                    yield f"{path}: {member.name}", archive.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError) as problem:
        raise DataError(f"{path}: damaged archive ({problem})") from problem


def _is_structure(name):
    return name.lower().endswith(".xsf") and not name.startswith(".")


def parse(name: str, content: bytes) -> tuple[Atoms, str | None]:
    """A structure, and whether its energy is "total" or "cohesive" (None where it has none).

    Parameters
    ----------
    name : str
        For messages.
    content : bytes
        Comments may have any encoding.
    """
    return _Reader(name, lines_of(content)).structure()


class _Reader:
    def __init__(self, name, lines):
        self.name, self.lines, self.at = name, lines, 0

    def fail(self, reason):
        raise DataError(f"{self.name}, line {max(self.at, 1)}: {reason}")

    def line(self, what):
        if self.at >= len(self.lines):
            self.fail(f"the file ends before {what}")
        self.at += 1
        return self.lines[self.at - 1]

    def numbers(self, words, what):
        try:
            return [real(word) for word in words]
        except ValueError as problem:
            self.fail(f"{what}: {problem}")

    def structure(self):
        energies, cell, rows = {}, None, None
        while self.at < len(self.lines):
            line = self.line("").strip()
            found = _ENERGY.search(line)
            if found:
                if found[1] in energies:
                    self.fail(f"a second {found[1]} energy")
                energies[found[1]] = self.numbers([found[2]], "energy")[0]
            elif not line or line.startswith("#"):
                continue
            elif line.split()[0] == "PRIMVEC":
                cell = [self.vector() for _ in range(3)]
            elif line.split()[0] in ("PRIMCOORD", "ATOMS"):
                if rows is not None:
                    self.fail("a second list of atoms; ænet has one structure in a file")
                rows = self.atoms(line.split()[0])
                with_cell = line.split()[0] == "PRIMCOORD"
            elif line.split()[0] == "CONVVEC":
                for _ in range(3):
                    self.vector()
            elif line.split()[0] not in ("CRYSTAL", "MOLECULE", "CONVCOORD"):
                self.fail(f"{line[:60]!r}: ænet reads CRYSTAL, PRIMVEC, PRIMCOORD and ATOMS")
        if rows is None:
            self.fail("no PRIMCOORD or ATOMS")
        if with_cell and cell is None:
            self.fail("PRIMCOORD without PRIMVEC")
        return self.finished(energies, cell, rows)

    def vector(self):
        words = self.line("the last lattice vector").split()
        if len(words) != 3:
            self.fail(f"{len(words)} numbers in a lattice vector")
        return self.numbers(words, "lattice vector")

    def atoms(self, keyword):
        expected = None
        if keyword == "PRIMCOORD":
            words = self.line("the number of atoms").split()
            try:
                expected = integer(words[0] if words else "")
            except ValueError as problem:
                self.fail(f"number of atoms: {problem}")
        rows = []
        while self.at < len(self.lines) and self.lines[self.at].strip():
            if expected is None and self.lines[self.at].lstrip().startswith("#"):
                break
            if len(rows) == expected:
                break
            words = self.line("").split()
            if len(words) not in (4, 7):
                self.fail(f"{len(words)} columns; expected El x y z, or these and three forces")
            if rows and len(words) != len(rows[0]):
                self.fail(f"{len(words)} columns, but the first atom has {len(rows[0])}")
            if re.fullmatch("[0-9]{1,3}", words[0]) and 0 < int(words[0]) < len(chemical_symbols):
                words[0] = chemical_symbols[int(words[0])]
            if atomic_numbers.get(words[0], 0) < 1:
                self.fail(f"{words[0][:20]!r} is no chemical element")
            rows.append([words[0], *self.numbers(words[1:], "atom")])
        if expected is not None and len(rows) != expected:
            self.fail(f"{len(rows)} atoms, but the file says {expected}")
        if not rows:
            self.fail("no atoms")
        return rows

    def finished(self, energies, cell, rows):
        numbers = np.array([row[1:] for row in rows])
        atoms = Atoms(
            [row[0] for row in rows], positions=numbers[:, :3], cell=cell, pbc=cell is not None
        )
        # as generate.x chooses: the total energy counts where the other is missing or 0
        kind = "cohesive" if energies.get("cohesive") else "total"
        if kind not in energies:
            kind = next(iter(energies), None)
        has_forces = numbers.shape[1] == 6
        if kind is None:
            if has_forces and numbers[:, 3:].any():
                self.fail(
                    "forces without a comment '# total energy = X eV': whether they are in eV/Å, "
                    "as ænet's, or in Hartree/Å, as XCrysDen's, is not known"
                )
            return atoms, None
        results = {"energy": energies[kind]}
        if has_forces:
            results["forces"] = numbers[:, 3:]
        atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms, kind


def write_structures(path, frames) -> int:
    """Write structures, each as a file of its own; the number of them.

    Parameters
    ----------
    path : path
        ``NAME.xsf`` for one structure; a tar archive (``.tar``, ``.tar.gz`` …) or a folder, in
        which files are called structure00001.xsf and so on, for any number.
    frames : iterable of ase.Atoms
        With ``energy`` and ``forces`` as ASE has them, where known. Stresses have no place.

    Raises
    ------
    DataError
        A structure that ænet cannot hold: periodic in one or two directions, or with forces but no
        energy; more than one for a single file.
    """
    path, count = Path(path), 0
    if path.name.lower().endswith(ARCHIVES):
        return _write_archive(path, frames)
    single = path.name.lower().endswith(".xsf")
    for count, atoms in enumerate(frames, 1):
        if single and count > 1:
            raise DataError(
                f"{path}: ænet has one structure in a file; name a folder or an archive (.tar.gz)"
            )
        content = format_structure(atoms, f"structure {count}")
        file = path if single else path / f"structure{count:05d}.xsf"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return count


def _write_archive(path, frames):
    kind = {"gz": "gz", "tgz": "gz", "bz2": "bz2", "xz": "xz"}.get(path.suffix[1:].lower(), "")
    count, part = 0, path.with_name(f".{path.name}.part")
    try:
        with tarfile.open(part, f"w:{kind}") as archive:
            for count, atoms in enumerate(frames, 1):
                content = format_structure(atoms, f"structure {count}")
                member = tarfile.TarInfo(f"structure{count:05d}.xsf")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return count


def format_structure(atoms: Atoms, name: str = "structure") -> bytes:
    """Text of one XSF file, every number with the digits that tell it apart."""
    if atoms.pbc.any() and not atoms.pbc.all():
        raise DataError(
            f"{name}: periodic in {atoms.pbc.sum()} direction(s); ænet knows none or three, so "
            "make the cell wide and periodic there"
        )
    values = named_values(atoms)
    keys = {quantity: choose_key(quantity, "", [values]) for quantity in ("energy", "forces")}
    energy = read_energy(values, keys["energy"], name)
    lines, rows = [], atoms.positions
    if not np.isnan(energy):
        lines += [f"# total energy = {energy!r} eV", ""]
    if keys["forces"] in values:
        if np.isnan(energy):
            raise DataError(f"{name}: forces without an energy, which ænet does not take")
        rows = np.hstack([rows, read_forces(values, keys["forces"], name, len(atoms))])
    if not (np.isfinite(rows).all() and np.isfinite(atoms.cell).all()):
        raise DataError(f"{name}: holds numbers that are not finite")
    if atoms.pbc.all():
        lines += ["CRYSTAL", "PRIMVEC", *map(_numbers, atoms.cell)]
        lines += ["PRIMCOORD", f"{len(atoms)} 1"]
    else:
        lines += ["ATOMS"]
    lines += [
        f"{symbol:<2} {_numbers(row)}" for symbol, row in zip(atoms.get_chemical_symbols(), rows)
    ]
    return ("\n".join(lines) + "\n").encode()


def _numbers(values):
    return " ".join(f"{value:24.16e}" for value in values)

"""Reading structures from files: of other programs by `fdforce.formats`, others through ASE."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from ase import Atoms
from ase.io import iread
from ase.io.formats import UnknownFileTypeError, filetype

from fdforce.errors import DataError, FdforceError
from fdforce.formats import recognised

Source = str | Path | Atoms | Sequence[str | Path | Atoms]

OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}

LEFT_TO_US = {
    "runnerdata": "begins neither like n2p2's input.data (begin) nor like a data file of LAMMPS "
    "(numbers of atoms and of atom types, box)",
    "lammps-data": "does not begin like a data file of LAMMPS (numbers of atoms and of atom types, "
    "box)",
    "lammps-dump-text": "does not begin like a dump of LAMMPS (ITEM: TIMESTEP); unpack it if it is "
    "compressed",
    "lammps-dump-binary": "a binary dump of LAMMPS does not tell the elements; write it as text",
}
"""Formats that ASE reads in other units than `fdforce.formats`, or with elements made up from atom
types: what `fdforce.formats` has not recognised is refused."""

CHUNK_ATOMS = 20_000
"""Atoms of a large file that are worked on together."""

PIECE = 2**20
"""Characters of a compressed file that are unpacked together."""


def load_sources(sources: Source) -> list[tuple[str, list[Atoms]]]:
    """Return (name, structures) of every source, in order.

    The name is the file's, without its folder unless two files share a name; structures given as
    `ase.Atoms` are called "atoms" together.

    Raises
    ------
    DataError
        If a file is missing, damaged or of an unknown format, or if there are no structures.
    """
    if isinstance(sources, str | Path | Atoms):
        sources = [sources]
    in_memory = [source for source in sources if isinstance(source, Atoms)]
    paths = [Path(source) for source in sources if not isinstance(source, Atoms)]
    loaded = [(name, read_file(path)) for name, path in named_files(paths)]
    if in_memory:
        loaded.append(("atoms", in_memory))
    if not any(frames for _, frames in loaded):
        raise DataError(f"{', '.join(map(str, paths)) or 'sources'}: no structures found")
    return loaded


def named_files(paths: Sequence[str | Path]) -> list[tuple[str, Path]]:
    """Names of files for messages, without the folder unless two files share a name."""
    paths = [Path(path) for path in paths]
    names = [path.name for path in paths]
    return [(path.name if names.count(path.name) == 1 else str(path), path) for path in paths]


def tell_units(paths: Iterable[str | Path], log: Callable) -> None:
    """Tell `log`, once for each, of files that do not say their units which they are taken to have.

    Parameters
    ----------
    paths : iterable of path
        Of `read_file`.
    log : callable
        Takes a line of text.
    """
    lines = []
    for path in map(Path, paths):
        module = recognised(path)
        if hasattr(module, "assumed_units"):
            lines.append(module.assumed_units(path))
    for line in dict.fromkeys(lines):
        log(line)


def read_file(path: str | Path) -> list[Atoms]:
    """Read every structure of a file.

    Parameters
    ----------
    path : str or Path
        A file or folder of a format in `fdforce.formats.STRUCTURES`, or anything ASE reads;
        extended xyz may be compressed (.gz, .bz2, .xz).

    Returns
    -------
    list of ase.Atoms

    Raises
    ------
    DataError
        If the file is missing, damaged or of an unknown format.
    """
    return list(iterate_file(path))


def read_one(path: str | Path, index: int = -1) -> Atoms:
    """One structure of a file to compute with: geometry, masses, momenta and constraints alone.

    Parameters
    ----------
    path : str or Path
        As for `read_file`.
    index : int
        Which one, from 0; negative numbers count from the end.

    Raises
    ------
    DataError
        If the file cannot be read, or holds no such structure.
    """
    frames = read_file(path)
    if not -len(frames) <= index < len(frames):
        raise DataError(f"{path}: there is no structure {index}; the file holds {len(frames)}")
    found = frames[index]
    atoms = Atoms(
        found.numbers, positions=found.positions, cell=found.cell, pbc=found.pbc,
        masses=found.get_masses(), constraint=found.constraints,
    )  # fmt: skip
    if found.has("momenta"):
        atoms.set_momenta(found.get_momenta(), apply_constraint=False)
    return atoms


def iterate_file(path: str | Path) -> Iterator[Atoms]:
    """The structures of a file one after another, as `read_file` reads them."""
    path = Path(path)
    module = recognised(path)  # first: a format may read options behind the name of a file
    if module is None and not path.exists():
        hint = "; `fdforce convert` fetches public sets" if "public:" in path.name else ""
        raise DataError(f"{path}: no such file{hint}")
    if module is None and path.is_dir():
        raise DataError(
            f"{path}: is a folder, not a data file, and "
            "holds none of input.data, .xsf, FitSNAP's .json, set.*/coord.npy (docs/data.md)"
        )
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")
    try:
        if module is not None:
            yield from module.read_structures(path)
        elif _is_compressed_xyz(path):
            yield from _compressed_xyz(path)
        else:
            format = filetype(str(path))
            if format in LEFT_TO_US:
                raise DataError(f"{path}: {LEFT_TO_US[format]}")
            yield from iread(str(path), index=":", format=format, do_not_split_by_at_sign=True)
    except FdforceError:
        raise
    except UnknownFileTypeError:
        raise DataError(f"{path}: ASE does not know this file format") from None
    # ASE's readers raise whatever the parsing happened to trip over.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(f"{path}: damaged or of an unknown format ({reason:.200})") from error


def chunks_of(frames: Iterable[Atoms], atoms: int) -> Iterator[tuple[int, list[Atoms]]]:
    """Structures in lists of about so many atoms, each with the index of its first structure."""
    first, chunk, size = 0, [], 0
    for frame in frames:
        chunk.append(frame)
        size += len(frame)
        if size >= atoms:
            yield first, chunk
            first, chunk, size = first + len(chunk), [], 0
    if chunk:
        yield first, chunk


def _is_compressed_xyz(path: Path) -> bool:
    return path.suffix in OPENERS and path.stem.endswith("xyz")


def _compressed_xyz(path: Path) -> Iterator[Atoms]:
    # ASE jumps from structure to structure, and every jump back in a compressed file starts again
    # at its beginning: the time would grow with the square of the length.
    with OPENERS[path.suffix](path, "rt", encoding="utf-8") as file:
        for text in _whole_structures(file):
            yield from iread(io.StringIO(text), index=":", format="extxyz")


def _whole_structures(file: TextIO) -> Iterator[str]:
    """Pieces of an xyz file that hold whole structures, about `PIECE` characters each.

    As for ASE, a blank line in place of the number of atoms is the end. From anything else there
    on, the rest is one piece, for ASE to complain of.
    """
    lines: list[str] = []
    size = 0
    while (first := file.readline()).strip():
        of_cell = first.lstrip().startswith("VEC")  # belongs to the structure before
        if size > PIECE and not of_cell:
            yield "".join(lines)
            lines, size = [], 0
        lines.append(first)
        if of_cell:
            continue
        try:
            of_structure = list(itertools.islice(file, int(first) + 1))
        except ValueError:
            of_structure = list(file)
        lines += of_structure
        size += sum(map(len, of_structure))
    if lines:
        yield "".join(lines)

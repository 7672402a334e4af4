"""A cache of packed structures and pairs: a set larger than memory, read once from its files.

A folder of the cache holds one .npy file for each array of `Structures`, and a header.json with
where it all comes from. It is written whole or not at all, and read again when a file of the data
or a setting of the reading has changed. Pair lists are in folders inside it, one for each cutoff.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from fdforce import labels as label_values
from fdforce.archive import umask
from fdforce.cached_structures import CachedStructures, Labels, Texts
from fdforce.errors import DataError
from fdforce.mapped import GrowingFile, blocks, no_room, open_array, release
from fdforce.neighbors import PairList, build_pairs
from fdforce.structure_checks import check_distances, check_positions
from fdforce.structure_files import CHUNK_ATOMS, chunks_of, iterate_file, named_files
from fdforce.structures import is_isolated, note_isolated, pack, read_structures, row_of

VERSION = 1
"""To be raised when the format changes, or what is read from the same files."""

ABANDONED = 24 * 3600.0
"""Seconds after which an unfinished folder is taken for that of a process that was killed."""

ARRAYS = {
    "positions": (np.float64, (3,)),
    "species": (np.int32, ()),
    "forces": (np.float64, (3,)),
    "offsets": (np.int64, ()),
    "cells": (np.float64, (3, 3)),
    "periodic": (np.bool_, (3,)),
    "energies": (np.float64, ()),
    "stresses": (np.float64, (3, 3)),
    "weights": (np.float64, ()),
    "files": (np.int32, ()),
    "places": (np.int64, ()),
    "config_types": (np.int32, ()),
    "trajectories": (np.int32, ()),
}
"""Files of a folder: dtype and shape of a row."""

ALL_ELEMENTS = tuple(chemical_symbols[1:])


def read_cached(
    sources: str | Sequence[str],
    folder,
    *,
    elements: Sequence[str] | None = None,
    energy_key: str = "",
    forces_key: str = "",
    stress_key: str = "",
    require_labels: bool = True,
    log: Callable = print,
) -> tuple[CachedStructures, dict[str, float]]:
    """As `fdforce.structures.read_structures`, through a cache.

    Parameters
    ----------
    sources : path, or sequence of paths
    folder : path
        Of the cache; it may hold several sets.
    elements, energy_key, forces_key, stress_key, require_labels
        As for `read_structures`, but that labels are required.
    log : callable
        Takes a line of text: that files are packed, and why.

    Returns
    -------
    structures : CachedStructures
    isolated : dict of str to float

    Raises
    ------
    DataError
        What `read_structures` refuses; a folder that cannot be written.
    """
    sources = [sources] if isinstance(sources, str | Path) else list(sources)
    for source in sources:  # a folder that is data as a whole, of some formats
        if Path(source).is_dir() and Path(folder).resolve().is_relative_to(Path(source).resolve()):
            raise DataError(
                f"data.cache = {folder}: lies among the data of {source}; choose another"
            )
    settings = {
        "version": VERSION,
        "sources": [os.path.abspath(source) for source in sources],
        "keys": {"energy": energy_key, "forces": forces_key, "stress": stress_key},
        "elements": list(elements) if elements else None,
    }
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    home = Path(folder) / f"{Path(sources[0]).name.split('.')[0]}-{digest[:12]}"
    reason = _stale(home, settings)
    if reason is None and require_labels and not _is_labelled(home):
        reason = f"{home}: has no labels; "
    if reason is not None:
        log(f"{reason}packing {', '.join(n for n, _ in named_files(sources))} into {home}")
        with (
            _new_folder(home) as unfinished,
            contextlib.closing(_Packer(unfinished, settings)) as packer,
        ):
            packer.pack(require_labels)
    return open_cached(home)


def read_set(sources, folder, *, require_labels: bool = True, log: Callable = print, **options):
    """`read_cached` where a folder is named, else `fdforce.structures.read_structures`.

    Parameters
    ----------
    sources : path, or sequence of paths
    folder : path or None
        Of the cache.
    require_labels : bool
    log : callable
    **options
        Of both.
    """
    if folder:
        return read_cached(sources, folder, require_labels=require_labels, log=log, **options)
    return read_structures(sources, require_labels=require_labels, **options)


def open_cached(home: Path) -> tuple[CachedStructures, dict[str, float]]:
    """Map the structures of a folder that is known to be valid, and its isolated atoms."""
    header = json.loads((home / "header.json").read_text(encoding="utf-8"))
    arrays = {name: open_array(home / f"{name}.npy") for name in ARRAYS}
    texts = {
        name: Texts(header["texts"][name], arrays.pop(name))
        for name in ("files", "config_types", "trajectories")
    }
    offsets = np.array(arrays.pop("offsets"))
    structures = CachedStructures(
        elements=tuple(header["elements"]),
        offsets=offsets,
        labels=Labels(texts.pop("files"), arrays.pop("places")),
        folder=home,
        first_atom=offsets[:-1],
        **arrays,
        **texts,
    )
    return structures, header["isolated"]


def cached_pairs(
    home: Path,
    cutoff: float,
    skin: float,
    *,
    threads: int = 1,
    progress: Callable | None = None,
    log: Callable = print,
) -> PairList:
    """Pairs of all structures of a folder, listed now or before; see `build_pairs`."""
    cutoff, skin = float(cutoff), float(skin)
    folder = home / f"pairs-{cutoff!r}-{skin!r}"
    names = ("row_start", "neighbor", "shift")
    structures, _ = open_cached(home)
    try:
        shapes = json.loads((folder / "header.json").read_text(encoding="utf-8"))
        valid = all(_shape(folder, name) == tuple(shapes[name]) for name in names)
    except (OSError, ValueError, KeyError, TypeError):
        valid = False
    if not valid:
        log(f"listing the pairs within {cutoff:g} Å into {folder}")
        with _new_folder(folder) as unfinished:
            _list_pairs(unfinished, structures, cutoff, skin, threads, progress)
    arrays = {name: open_array(folder / f"{name}.npy") for name in names}
    return PairList(cutoff=cutoff, skin=skin, n_species=len(structures.elements), **arrays)


# -- is it valid -----------------------------------------------------------------------------------


def _stale(home: Path, settings: dict) -> str | None:
    """None for a folder that may be used; else why not, "" where it is new."""
    if not home.exists():
        return ""
    try:
        header = json.loads((home / "header.json").read_text(encoding="utf-8"))
        known = [(entry["state"], entry["sha256"]) for entry in header["contents"]]
        shapes = header["shapes"]
        same = header["settings"] == settings and len(known) == len(settings["sources"])
        whole = all(_shape(home, name) == tuple(shapes[name]) for name in ARRAYS)
    except (OSError, ValueError, KeyError, TypeError):
        same = whole = False
    if not (same and whole):
        return f"{home}: is damaged; "
    for source, (before, content) in zip(settings["sources"], known, strict=True):
        state = _state(source)
        if state == before:
            continue
        sizes, sizes_before = ([size for _, size, _ in files] for files in (state, before))
        if sizes != sizes_before or _content(source) != content:
            return f"{source}: has changed; "
    return None


def _is_labelled(home: Path) -> bool:
    header = json.loads((home / "header.json").read_text(encoding="utf-8"))
    return header.get("labelled", True)  # caches of old are


def _shape(folder: Path, name: str) -> tuple[int, ...]:
    """Shape of the array in a file of a folder; ValueError where the file is cut short."""
    return open_array(folder / f"{name}.npy").shape


def _files_of(source) -> list[Path]:
    """The files of a source, which may be a folder."""
    path = Path(source)
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _state(source) -> list[list]:
    """Name, size and time of change of the files of a source."""
    if not Path(source).exists():
        raise DataError(f"{source}: no such file")
    found = [(path, path.stat()) for path in _files_of(source)]
    return [[path.name, stat.st_size, stat.st_mtime_ns] for path, stat in found]


def _content(source) -> str:
    """SHA-256 of the files of a source, one after another."""
    digest = hashlib.sha256()
    try:
        for path in _files_of(source):
            with open(path, "rb") as file:
                while piece := file.read(2**20):
                    digest.update(piece)
    except OSError as problem:
        raise DataError(f"{source}: cannot be read ({problem.strerror or problem})") from problem
    return digest.hexdigest()


# -- writing ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its place when all in it is written."""
    begun, unfinished = f".unfinished-{target.name}-", None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target.parent, begun)
        unfinished = Path(tempfile.mkdtemp(prefix=begun, dir=target.parent))
        os.chmod(unfinished, 0o777 & ~umask())
        if target.exists():
            target.rename(unfinished / "old")
            shutil.rmtree(unfinished / "old", ignore_errors=True)
        yield unfinished
        _rename(unfinished, target)
    except OSError as problem:
        written = 0 if unfinished is None else _size(unfinished)
        raise no_room(target.parent, written, problem) from problem
    finally:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)


def _rename(unfinished: Path, target: Path) -> None:
    try:
        unfinished.rename(target)
    except OSError:
        if not (target / "header.json").exists():  # another process was quicker
            raise


def _remove_abandoned(folder: Path, begun: str) -> None:
    """Remove what killed processes have left."""
    for path in folder.glob(f"{begun}*"):
        with contextlib.suppress(OSError):
            changed = max(p.stat().st_mtime for p in (path, *path.iterdir()))
            if time.time() - changed > ABANDONED:
                shutil.rmtree(path, ignore_errors=True)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _write_header(folder: Path, header: dict) -> None:
    with open(folder / "header.json", "w", encoding="utf-8") as file:
        json.dump(header, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


class _Packer:
    """Writes the structures of some files into a folder, a chunk at a time."""

    def __init__(self, folder: Path, settings: dict):
        self.folder, self.settings = folder, settings
        self.arrays = {
            name: GrowingFile(folder / f"{name}.npy", *of_array)
            for name, of_array in ARRAYS.items()
        }
        self.tables: dict[str, dict[str, int]] = {
            name: {} for name in ("files", "config_types", "trajectories")
        }
        self.isolated: dict[str, float] = {}
        self.present: set[str] = set()
        self.labelled = False

    def pack(self, require_labels: bool) -> None:
        """Read all sources; the header is written last."""
        sources = named_files(self.settings["sources"])
        where, contents = ", ".join(name for name, _ in sources), []
        self.arrays["offsets"].append(np.zeros(1))
        for name, path in sources:
            before = _state(path)
            self._pack_file(name, path)
            contents.append({"state": before, "sha256": _content(path)})
            if _state(path) != before:
                raise DataError(f"{path}: changed while it was read; read it again")
        n_structures = self.arrays["energies"].rows
        given = self.settings["keys"]
        label_values.check_given_keys(given, [dict.fromkeys(self.present)], where)
        if not n_structures:
            besides = "besides isolated atoms" if self.present else "found"
            raise DataError(f"{where}: no structures {besides}")
        if require_labels and not self.labelled:
            nothing, keys = np.full(1, np.nan), [dict.fromkeys(self.present)]
            label_values.check_any_label(nothing, nothing, keys, where)
        for array in self.arrays.values():
            array.close()
        header = {
            "settings": self.settings,
            "contents": contents,
            "shapes": {name: [array.rows, *array.row] for name, array in self.arrays.items()},
            "elements": self._number_species(),
            "isolated": self.isolated,
            "labelled": self.labelled,
            "texts": {name: list(table) for name, table in self.tables.items()},
        }
        _write_header(self.folder, header)

    def close(self) -> None:
        """Close what is still open after an error."""
        for array in self.arrays.values():
            array.abandon()

    def _pack_file(self, name: str, path: Path) -> None:
        """Append a file; begin it again where a better name of a label turns up late."""
        rows = {column: array.rows for column, array in self.arrays.items()}
        isolated, present = self.isolated.copy(), set()
        while True:
            keys: dict[str, str] = {}
            for first, frames in chunks_of(iterate_file(path), CHUNK_ATOMS):
                values = [label_values.named_values(atoms) for atoms in frames]
                present = present.union(*values)
                chosen = {
                    quantity: label_values.choose_key(quantity, given, [dict.fromkeys(present)])
                    for quantity, given in self.settings["keys"].items()
                }
                if any(
                    keys.get(quantity) not in (None, "", key) for quantity, key in chosen.items()
                ):
                    break
                keys = chosen
                self._pack_chunk(frames, values, keys, name, first)
            else:
                break
            for column, array in self.arrays.items():
                array.truncate(rows[column])
            self.isolated = isolated.copy()
        self.present |= present

    def _pack_chunk(self, frames, values, keys, name, first) -> None:
        """Check and append some structures, of which the first is structure `first` of its file."""
        rows = []
        for index, (atoms, entry) in enumerate(zip(frames, values, strict=True), start=first):
            row = row_of(atoms, entry, keys, f"{name}[{index}]")
            if is_isolated(row):
                note_isolated(self.isolated, row)
                continue
            rows.append(row | {"files": name, "places": index})
        if not rows:
            return
        structures = pack(rows, self.settings["elements"] or ALL_ELEMENTS)
        check_positions(structures)
        check_distances(structures)
        labelled = structures.has_energy.any() or structures.has_forces.any()
        self.labelled = self.labelled or bool(labelled)
        last = self.arrays["positions"].rows
        for column, array in self.arrays.items():
            if column in self.tables:
                table = self.tables[column]
                array.append([table.setdefault(row[column], len(table)) for row in rows])
            elif column == "places":
                array.append([row["places"] for row in rows])
            elif column == "offsets":
                array.append(last + structures.offsets[1:])
            else:
                array.append(getattr(structures, column))

    def _number_species(self) -> list[str]:
        """The elements; species that were written as atomic numbers less 1 now index them."""
        if self.settings["elements"]:
            return self.settings["elements"]
        species = np.load(self.folder / "species.npy", mmap_mode="r+")
        found = np.unique(np.concatenate([np.unique(species[b]) for b in blocks(len(species))]))
        for rows in blocks(len(species)):
            species[rows] = np.searchsorted(found, species[rows])
        species.flush()
        return [ALL_ELEMENTS[z] for z in found]


def _list_pairs(folder: Path, structures, cutoff, skin, threads, progress) -> None:
    """Write the pairs of all structures, some structures at a time."""
    row_start = GrowingFile(folder / "row_start.npy", np.int64)
    neighbor = GrowingFile(folder / "neighbor.npy", np.int32)
    shift = GrowingFile(folder / "columns.npy", np.int16, (3,))
    row_start.append(np.zeros(1))

    def listed():
        for part in _parts(structures.offsets):
            pairs = build_pairs(structures.select(part), cutoff, skin=skin, threads=threads)
            row_start.append(neighbor.rows + pairs.row_start[1:])
            neighbor.append(pairs.neighbor)
            shift.append(pairs.shift.T)
            release(*vars(structures).values())
            yield from range(part.start, part.stop)

    try:
        found = listed()
        for _ in found if progress is None else progress(found, len(structures)):
            pass
        for array in (row_start, neighbor, shift):
            array.close()
    finally:
        for array in (row_start, neighbor, shift):
            array.abandon()
    _transpose(folder)
    shapes = {"row_start": [row_start.rows], "neighbor": [neighbor.rows]}
    _write_header(folder, {**shapes, "shift": [3, shift.rows]})


def _parts(offsets: np.ndarray) -> Iterator[slice]:
    """Slices of structures with about `CHUNK_ATOMS` atoms each, a structure at least."""
    first, last = 0, len(offsets) - 1
    while first < last:
        stop = int(np.searchsorted(offsets, offsets[first] + CHUNK_ATOMS))
        stop = min(max(stop, first + 1), last)
        yield slice(first, stop)
        first = stop


def _transpose(folder: Path) -> None:
    """Make shift.npy, shape (3, n), of columns.npy, shape (n, 3), as kernels want it."""
    columns = open_array(folder / "columns.npy")
    shift = GrowingFile(folder / "shift.npy", np.int16)
    try:
        for axis in range(3):
            for rows in blocks(len(columns)):
                shift.append(columns[rows, axis])
            release(columns)
        shift.close((3, len(columns)))
    finally:
        shift.abandon()
    del columns  # Windows removes no mapped file
    (folder / "columns.npy").unlink()

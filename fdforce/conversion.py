"""Data files of any format into one file, or folder, of another format, structure by structure."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict, write_xyz
from ase.stress import full_3x3_to_voigt_6_stress

from fdforce import labels
from fdforce.errors import DataError, FdforceError
from fdforce.formats import STRUCTURES, WRITTEN, find_module
from fdforce.formats.labelled import labelled
from fdforce.structure_files import OPENERS, iterate_file

SUFFIXES = {".extxyz": "extxyz", ".xyz": "extxyz", ".db": "ase-db", ".data": "n2p2"}
"""Ends of a name, and the format that is written where none is asked for."""

_QUANTITIES = ("energy", "forces", "stress")


@dataclass
class Counts:
    """What was written: structures in all, and those with each label.

    `weights` counts structures with a weight, `config_types` those with a config_type. `left_out`
    are the counts, by name, of what the format has no place for.
    """

    format: str
    structures: int = 0
    atoms: int = 0
    energy: int = 0
    forces: int = 0
    stress: int = 0
    weights: int = 0
    config_types: int = 0
    left_out: dict[str, int] = field(default_factory=dict)


def convert(
    sources: Sequence[str | Path],
    output: str | Path,
    *,
    format: str = "",
    energy_key: str = "",
    forces_key: str = "",
    stress_key: str = "",
    n_structures: int | None = None,
    on_structures: Callable[[int], None] = lambda number: None,
) -> Counts:
    """Write the structures of all sources, in order, as one file or folder.

    Nothing is in memory but the structure at hand and what the formats hold. The output appears
    when it is complete; until then an earlier file of that name stays.

    Parameters
    ----------
    sources : sequence of paths
        Anything that `fdforce.structure_files` reads.
    output : path
        A file; it is replaced if it exists. For formats that are folders, a name that is free.
    format : str
        A name in `fdforce.formats.WRITTEN`; by the suffix of `output` if empty.
    energy_key, forces_key, stress_key : str
        Names of the labels, as in `fdforce.structures.read_structures`. Without them, the first
        usual name in a file counts; a file in which a preferred one turns up later is refused.
    n_structures : int, optional
        How many structures there have to be.
    on_structures : callable
        Called with the number of structures so far, now and then.

    Returns
    -------
    Counts

    Raises
    ------
    DataError
        For what `fdforce.structures.read_structures` refuses of single structures, and if there
        are no structures or not as many as there should be.
    FdforceError
        If the format cannot be written, or cannot hold a structure.
    """
    output = Path(output)
    name = format or _format_of(output)
    write, no_place = _writer(name)
    _check_free(output, name)
    given = {"energy": energy_key, "forces": forces_key, "stress": stress_key}
    counts = Counts(name)
    frames = _frames(sources, given, counts, on_structures)
    with _appearing(output) as temporary:
        try:
            write(temporary, frames)
        except (FdforceError, OSError):
            raise
        except Exception as problem:  # ASE's writers raise whatever they trip over
            reason = f"{type(problem).__name__}: {problem}".splitlines()[0]
            raise FdforceError(
                f"{output}: structure {counts.structures - 1} cannot be written as {name} "
                f"({reason:.200})"
            ) from problem
        if not counts.structures:
            raise DataError(f"{', '.join(map(str, sources))}: no structures found")
        if n_structures is not None and counts.structures != n_structures:
            raise DataError(
                f"{', '.join(map(str, sources))}: {counts.structures} structures, where "
                f"{n_structures} are known to be; the file is not the one that is meant"
            )
    left_out = {quantity: getattr(counts, quantity) for quantity in no_place}
    counts.left_out = {quantity: number for quantity, number in left_out.items() if number}
    if "stress" in no_place:
        counts.stress = 0
    return counts


def _format_of(output: Path) -> str:
    end = Path(output.stem).suffix if output.suffix in OPENERS else output.suffix
    if end not in SUFFIXES:
        raise FdforceError(
            f"{output}: the name does not tell the format; name it with --format, "
            f"or end in {', '.join(SUFFIXES)}"
        )
    return SUFFIXES[end]


def _writer(name: str):
    """The function that writes a format, and the counts of what it has no place for."""
    if name == "extxyz":
        return _write_extxyz, ()
    if name not in WRITTEN:
        raise FdforceError(f"format '{name}' is not written; take one of {', '.join(WRITTEN)}")
    module = find_module(STRUCTURES, name)
    no_place = () if getattr(module, "KEEPS_INFO", False) else ("weights", "config_types")
    if not getattr(module, "KEEPS_STRESS", True):
        no_place = ("stress", *no_place)
    return module.write_structures, no_place


def _write_extxyz(path: Path, frames: Iterable[Atoms]) -> int:
    number = 0
    opener = OPENERS.get(path.suffix, open)
    with opener(path, "wt", encoding="utf-8") as file:
        for atoms in frames:
            number += 1
            for key, value in atoms.info.items():
                if isinstance(value, str):
                    atoms.info[key] = _readable(key, value)
            write_xyz(file, [atoms])
    return number


def _readable(key: str, text: str) -> str:
    """Text as it has to be written to come back: "001" would be the number 1, "T" true."""
    for written in (text, f"_JSON {json.dumps(text, ensure_ascii=False)}"):
        with contextlib.suppress(ValueError):  # JSON with a backslash in it is not read
            line = key_val_dict_to_str({key: written})
            found = key_val_str_to_dict(line).get(key)
            if isinstance(found, str) and found == text and line.isprintable():
                return written
    raise FdforceError(
        f"extended xyz cannot hold {key} = {text!r:.60}; take the format ase-db, or change the text"
    )


def _check_free(output: Path, name: str) -> None:
    if output.is_dir() and any(output.iterdir()):
        raise FdforceError(f"{output}: is a folder with files in it; name another one for {name}")


@contextlib.contextmanager
def _appearing(output: Path) -> Iterator[Path]:
    """A path to write to; what is there in the end becomes the output, at once."""
    folder = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
        yield folder / output.name
        (folder / output.name).replace(output)
    except OSError as problem:
        raise FdforceError(f"{output}: cannot be written ({problem.strerror or problem})") from (
            problem
        )
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _frames(sources, given, counts: Counts, on_structures) -> Iterator[Atoms]:
    for source in sources:
        keys = _Keys(given)
        for index, atoms in enumerate(iterate_file(source)):
            frame = _frame(atoms, keys, f"{source}[{index}]")
            _count(frame, counts)
            if counts.structures % 1000 == 0:
                on_structures(counts.structures)
            yield frame
        keys.check(str(source))


class _Keys:
    """The name of every label in a file, settled by its first structure that has the label."""

    def __init__(self, given: dict[str, str]):
        self.given, self.chosen, self.seen = given, {}, set()

    def of(self, values: dict, label: str) -> dict[str, str]:
        self.seen.update(values)
        for quantity in _QUANTITIES:
            usual = labels.USUAL_KEYS[quantity]
            found = labels.choose_key(quantity, self.given[quantity], [values])
            chosen = self.chosen.setdefault(quantity, found) or found
            if found and not self.given[quantity] and usual.index(found) < usual.index(chosen):
                raise DataError(
                    f"{label}: has {found}, structures before it {chosen} alone; "
                    f"say with --{quantity}-key which one to read"
                )
            self.chosen[quantity] = chosen
        return self.chosen

    def check(self, where: str) -> None:
        labels.check_given_keys(self.given, [dict.fromkeys(self.seen)], where)


def _frame(atoms: Atoms, keys: _Keys, label: str) -> Atoms:
    """The structure with its labels in a calculator, and what else it carries beside them."""
    if len(atoms) == 0:
        raise DataError(f"{label}: the structure has no atoms")
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        raise DataError(f"{label}: a position or the cell is not finite; correct or remove it")
    values = labels.named_values(atoms)
    names = keys.of(values, label)
    volume = abs(np.linalg.det(atoms.cell.array)) if atoms.pbc.all() else np.nan
    energy = labels.read_energy(values, names["energy"], label)
    forces = labels.read_forces(values, names["forces"], label, len(atoms))
    stress = labels.read_stress(values, names["stress"], label, volume)
    labels.read_weight(values, label)
    free = values.get("free_energy") if names["energy"] != "free_energy" else None
    every = {*names.values(), *(key for usual in labels.USUAL_KEYS.values() for key in usual)}
    bare = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    bare.info = {key: value for key, value in atoms.info.items() if key not in every}
    for key, value in atoms.arrays.items():
        if key not in every and key not in bare.arrays:
            bare.set_array(key, value)
    return labelled(
        bare,
        energy=None if np.isnan(energy) else energy,
        free_energy=None if free is None else labels.read_energy(values, "free_energy", label),
        forces=None if np.isnan(forces[0, 0]) else forces,
        stress=None if np.isnan(stress[0, 0]) else full_3x3_to_voigt_6_stress(stress),
    )


def _count(atoms: Atoms, counts: Counts) -> None:
    results = atoms.calc.results if atoms.calc is not None else {}
    counts.structures += 1
    counts.atoms += len(atoms)
    for name in _QUANTITIES:
        setattr(counts, name, getattr(counts, name) + (name in results))
    counts.weights += float(atoms.info.get("weight", 1.0)) != 1.0
    counts.config_types += bool(str(atoms.info.get("config_type", "")))

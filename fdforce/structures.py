"""Structures laid end to end: reading them through ASE, checking and packing them.

Å, eV, eV/Å and eV/Å^3 throughout (`fdforce.units`). Everything is checked here, once; the rest of
the package takes these arrays as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers, chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress

from fdforce import labels as label_values
from fdforce.errors import DataError
from fdforce.mapped import release
from fdforce.splitting import find_duplicates, split_structures
from fdforce.structure_checks import check_distances, check_positions, completed_cell
from fdforce.structure_files import Source, load_sources
from fdforce.structure_report import describe_structures

__all__ = [
    "Structures",
    "describe_structures",
    "find_duplicates",
    "read_structures",
    "split_structures",
    "to_atoms",
]


PER_ATOM = ("positions", "species", "forces")
"""Arrays of `Structures` with a row for each atom."""


@dataclass(frozen=True, eq=False)
class Structures:
    """A data set laid end to end: S structures with N atoms in all.

    Attributes
    ----------
    elements : tuple of str
        Species labels; `species` indexes it.
    offsets : ndarray, shape (S + 1,), int64
        The atoms of structure s are ``offsets[s]:offsets[s + 1]``.
    positions : ndarray, shape (N, 3), Å
        As given, never wrapped into the cell.
    species : ndarray, shape (N,), int32
    cells : ndarray, shape (S, 3, 3), Å
        Rows are lattice vectors. Not singular where any direction is periodic (missing vectors
        are completed), zero where none is.
    periodic : ndarray, shape (S, 3), bool
    energies : ndarray, shape (S,), eV
        NaN where absent.
    forces : ndarray, shape (N, 3), eV/Å
        NaN for whole structures where absent.
    stresses : ndarray, shape (S, 3, 3), eV/Å^3
        Symmetric, ASE's sign; NaN where absent or not periodic in three directions.
    weights : ndarray, shape (S,)
        ``info["weight"]``, else 1.
    labels : sequence of str
        "file.extxyz[12]", counted within the file; for messages.
    config_types, trajectories : sequence of str
        ``info["config_type"]`` and ``info["trajectory"]``, else "". All three are tuples, or
        tables of `fdforce.cached_structures` that hold less.
    """

    elements: tuple[str, ...]
    offsets: np.ndarray
    positions: np.ndarray
    species: np.ndarray
    cells: np.ndarray
    periodic: np.ndarray
    energies: np.ndarray
    forces: np.ndarray
    stresses: np.ndarray
    weights: np.ndarray
    labels: Sequence[str]
    config_types: Sequence[str]
    trajectories: Sequence[str]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_atoms(self) -> int:
        """Atoms in all structures together."""
        return int(self.offsets[-1])

    @property
    def counts(self) -> np.ndarray:
        """Atoms of each structure, shape (S,)."""
        return np.diff(self.offsets)

    @cached_property
    def volumes(self) -> np.ndarray:
        """Cell volumes, shape (S,), Å^3; NaN where not periodic in three directions."""
        volumes = np.where(self.periodic.all(axis=1), np.abs(np.linalg.det(self.cells)), np.nan)
        release(self.cells)
        return volumes

    @property
    def compositions(self) -> np.ndarray:
        """Atoms of each element in each structure, shape (S, n_elements), int64."""
        starts, kinds = self.offsets[:-1], range(len(self.elements))
        found = np.stack(
            [np.add.reduceat(self.species == z, starts, dtype=np.int64) for z in kinds], axis=1
        )
        release(self.species)
        return found

    @property
    def has_energy(self) -> np.ndarray:
        """Which structures have an energy, shape (S,), bool."""
        return ~np.isnan(self.energies)

    @property
    def has_forces(self) -> np.ndarray:
        """Which structures have forces, shape (S,), bool."""
        found = ~np.isnan(self.forces[self.offsets[:-1], 0])
        release(self.forces)
        return found

    @property
    def has_stress(self) -> np.ndarray:
        """Which structures have a stress, shape (S,), bool."""
        return ~np.isnan(self.stresses[:, 0, 0])

    def select(self, indices) -> Structures:
        """Return the structures with the given indices (or slice, or mask), in that order."""
        indices = np.arange(len(self))[indices]
        counts = self.counts[indices]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        shift = self.offsets[:-1][indices] - offsets[:-1]
        atoms = np.arange(offsets[-1]) + np.repeat(shift, counts)
        chosen = {}
        for field in fields(Structures):
            value = getattr(self, field.name)
            if field.name == "elements":
                chosen[field.name] = value
            elif field.name == "offsets":
                chosen[field.name] = offsets
            elif isinstance(value, tuple):
                chosen[field.name] = tuple(value[s] for s in indices)
            else:
                chosen[field.name] = value[atoms if field.name in PER_ATOM else indices]
        return Structures(**chosen)


def read_structures(
    sources: Source,
    *,
    elements: Sequence[str] | None = None,
    energy_key: str = "",
    forces_key: str = "",
    stress_key: str = "",
    require_labels: bool = False,
    keep_isolated: bool = False,
) -> tuple[Structures, dict[str, float]]:
    """Read, check and pack structures.

    Parameters
    ----------
    sources : path, ase.Atoms, or a sequence of them
        Files may be anything ASE reads.
    elements : sequence of str, optional
        Species labels in the order wanted; otherwise the elements found, by atomic number.
    energy_key, forces_key, stress_key : str
        Where to find the labels. By default, per file, the first present of REF_energy, energy,
        free_energy; of REF_forces, forces; of REF_stress, REF_virial, stress, virial.
    require_labels : bool
        Raise unless there is at least one energy or one set of forces.
    keep_isolated : bool
        Leave isolated atoms in the set as well (for predictions on every structure of a file).

    Returns
    -------
    structures : Structures
        Without the isolated atoms (one atom, ``config_type=IsolatedAtom``).
    isolated : dict of str to float
        Energies of the isolated atoms by element, eV.

    Raises
    ------
    DataError
        For missing or damaged files, unknown elements, keys that no structure has, values that
        are not finite or have the wrong shape, singular cells and atoms that almost coincide;
        the message names file, structure index, and key or atom.

    Examples
    --------
    >>> from ase.build import bulk
    >>> structures, isolated = read_structures([bulk("NaCl", "rocksalt", a=5.6)])
    >>> structures.elements, structures.counts.tolist(), structures.has_energy.tolist()
    (('Na', 'Cl'), [2], [False])
    """
    loaded = load_sources(sources)
    where = ", ".join(name for name, _ in loaded)
    values = [[label_values.named_values(atoms) for atoms in frames] for _, frames in loaded]
    every_value = [entry for of_file in values for entry in of_file]
    given = {"energy": energy_key, "forces": forces_key, "stress": stress_key}
    label_values.check_given_keys(given, every_value, where)

    rows: list[dict] = []
    isolated: dict[str, float] = {}
    for (name, frames), of_file in zip(loaded, values, strict=True):
        keys = {q: label_values.choose_key(q, key, of_file) for q, key in given.items()}
        for index, (atoms, entry) in enumerate(zip(frames, of_file, strict=True)):
            row = row_of(atoms, entry, keys, f"{name}[{index}]")
            if not is_isolated(row):
                rows.append(row)
                continue
            note_isolated(isolated, row)
            if keep_isolated:
                rows.append(row)
    if not rows:
        raise DataError(f"{where}: no structures besides isolated atoms")

    structures = pack(rows, elements)
    check_positions(structures)
    check_distances(structures)
    if require_labels:
        label_values.check_any_label(structures.energies, structures.forces, every_value, where)
    return structures, isolated


def row_of(atoms: Atoms, values: dict, keys: dict[str, str], label: str) -> dict:
    """Collect the numbers of one structure under the names of `Structures`."""
    if len(atoms) == 0:
        raise DataError(f"{label}: the structure has no atoms")
    periodic = np.array(atoms.pbc, dtype=bool)
    cell = completed_cell(np.array(atoms.cell), periodic, label)
    volume = abs(np.linalg.det(cell)) if periodic.all() else np.nan
    return {
        "numbers": atoms.numbers,
        "positions": atoms.positions,
        "cells": cell,
        "periodic": periodic,
        "energies": label_values.read_energy(values, keys["energy"], label),
        "forces": label_values.read_forces(values, keys["forces"], label, len(atoms)),
        "stresses": label_values.read_stress(values, keys["stress"], label, volume),
        "weights": label_values.read_weight(values, label),
        "labels": label,
        "config_types": str(values.get("config_type", "")),
        "trajectories": str(values.get("trajectory", "")),
    }


def is_isolated(row: dict) -> bool:
    """Whether a row of `row_of` is an isolated atom, for its reference energy."""
    name = row["config_types"].replace("_", "").lower()
    return name == "isolatedatom" and len(row["numbers"]) == 1


def note_isolated(isolated: dict[str, float], row: dict) -> None:
    """Enter the energy of an isolated atom; DataError where another one differs."""
    element, energy = chemical_symbols[row["numbers"][0]], row["energies"]
    if np.isnan(energy):
        return
    known = isolated.setdefault(element, energy)
    # Files print energies with few digits, so exact equality is too much to ask.
    if abs(known - energy) > 1e-4:
        raise DataError(
            f"{row['labels']}: the isolated {element} atom has the energy {energy:.6g} eV, "
            f"another one {known:.6g} eV; keep the right one"
        )


def pack(rows: list[dict], elements: Sequence[str] | None) -> Structures:
    """Lay rows of `row_of` end to end; the elements found where none are given."""
    counts = [len(row["numbers"]) for row in rows]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    labels = tuple(row["labels"] for row in rows)
    elements, species = _species(
        np.concatenate([row["numbers"] for row in rows]), elements, offsets, labels
    )
    return Structures(
        elements=elements,
        offsets=offsets,
        positions=np.concatenate([row["positions"] for row in rows]).astype(np.float64),
        species=species,
        cells=np.array([row["cells"] for row in rows], dtype=np.float64),
        periodic=np.array([row["periodic"] for row in rows]),
        energies=np.array([row["energies"] for row in rows], dtype=np.float64),
        forces=np.concatenate([row["forces"] for row in rows]),
        stresses=np.array([row["stresses"] for row in rows], dtype=np.float64),
        weights=np.array([row["weights"] for row in rows], dtype=np.float64),
        labels=labels,
        config_types=tuple(row["config_types"] for row in rows),
        trajectories=tuple(row["trajectories"] for row in rows),
    )


def _species(numbers, elements, offsets, labels) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the elements and, per atom, an index (int32) into them."""
    if elements is None:
        elements = [chemical_symbols[z] for z in np.unique(numbers)]
    elements = tuple(elements)
    if unknown := [e for e in elements if e not in atomic_numbers]:
        raise DataError(f"model.elements: '{unknown[0]}' is not a chemical symbol")
    if len(set(elements)) < len(elements):
        raise DataError(f"model.elements: {', '.join(elements)} names an element twice")
    table = np.full(len(chemical_symbols), -1, dtype=np.int32)
    table[[atomic_numbers[element] for element in elements]] = np.arange(len(elements))
    species = table[numbers]
    if (species < 0).any():
        atom = int(np.argmax(species < 0))
        s = int(np.searchsorted(offsets, atom, side="right") - 1)
        raise DataError(
            f"{labels[s]}: atom {atom - offsets[s]} is {chemical_symbols[numbers[atom]]}, which "
            f"is not among the elements {', '.join(elements)} that the model knows"
        )
    return elements, species


def to_atoms(structures: Structures, s: int) -> Atoms:
    """Return structure `s` as `ase.Atoms`, its labels in a single-point calculator."""
    one = structures.select([s])
    atoms = Atoms(
        [one.elements[k] for k in one.species],
        positions=one.positions,
        cell=one.cells[0],
        pbc=one.periodic[0],
    )
    results = {}
    if one.has_energy[0]:
        results["energy"] = float(one.energies[0])
    if one.has_forces[0]:
        results["forces"] = one.forces
    if one.has_stress[0]:
        results["stress"] = full_3x3_to_voigt_6_stress(one.stresses[0])
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    info = {"config_type": one.config_types[0], "trajectory": one.trajectories[0]}
    atoms.info.update({key: value for key, value in info.items() if value})
    if one.weights[0] != 1.0:
        atoms.info["weight"] = float(one.weights[0])
    return atoms

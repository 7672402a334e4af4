"""A data set in the files of a cache (`fdforce.data_cache`), mapped into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from fdforce.batch import atoms_of
from fdforce.errors import DataError
from fdforce.mapped import BLOCK, blocks, new_array, release
from fdforce.neighbors import PairList, build_pairs
from fdforce.structures import PER_ATOM, Structures

FEW_ATOMS = 2 * BLOCK
"""A selection of fewer atoms is an ordinary `Structures` in memory."""

LARGE = (*PER_ATOM, "cells", "stresses")
"""Arrays of which a large selection lies in files."""

SELECTED = 1000
"""Structures that are copied at a time. Where they lie scattered, Linux maps 64 kB around each."""


class Texts(Sequence):
    """Texts of which many are equal, as numbers into a table.

    Parameters
    ----------
    table : sequence of str
    codes : ndarray of int, shape (S,)
    """

    def __init__(self, table: Sequence[str], codes: np.ndarray):
        self.table, self.codes = tuple(table), codes

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index):
        if isinstance(index, np.ndarray | slice):
            return Texts(self.table, self.codes[index])
        return self.table[self.codes[index]]

    def __array__(self, dtype=None, copy=None):
        return np.array(self.table, dtype)[self.codes]


class Labels(Sequence):
    """Labels of structures, "file.extxyz[12]", from the file and the place in it.

    Parameters
    ----------
    files : Texts
    places : ndarray of int, shape (S,)
    """

    def __init__(self, files: Texts, places: np.ndarray):
        self.files, self.places = files, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index):
        if isinstance(index, np.ndarray | slice):
            return Labels(self.files[index], self.places[index])
        return f"{self.files[index]}[{self.places[index]}]"


@dataclass(frozen=True, eq=False)
class CachedStructures(Structures):
    """`Structures` whose arrays lie in files, of which a part is in memory at a time.

    Attributes
    ----------
    folder : Path
        Of the cache that holds the whole set.
    first_atom : ndarray, shape (S,), int64
        Place in the whole set of the first atom of each structure.
    """

    folder: Path
    first_atom: np.ndarray

    def select(self, indices) -> Structures:
        """As `Structures.select`; a large selection lies in temporary files beside the cache."""
        indices = np.arange(len(self))[indices]
        counts = self.counts[indices]
        few = counts.sum() < FEW_ATOMS
        if not few and len(indices) == len(self) and (np.diff(indices) == 1).all():
            return self
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        chosen = {
            field.name: getattr(self, field.name)[indices]
            for field in fields(Structures if few else self)
            if field.name not in ("elements", "offsets", "folder", *LARGE)
        }
        release(*vars(self).values())
        for name in LARGE:
            values, of_atoms = getattr(self, name), name in PER_ATOM
            shape = offsets[-1] if of_atoms else len(indices), *values.shape[1:]
            copy = np.empty(shape, values.dtype) if few else new_array(values, shape, values.dtype)
            chosen[name] = copy
            for part in blocks(len(indices), SELECTED):
                if of_atoms:
                    _, atoms = atoms_of(self.offsets, indices[part])
                    copy[offsets[part.start] : offsets[part.stop]] = values[atoms]
                else:
                    copy[part] = values[indices[part]]
                release(values, copy)
        if few:
            return Structures(elements=self.elements, offsets=offsets, **chosen)
        return CachedStructures(
            elements=self.elements, offsets=offsets, folder=self.folder, **chosen
        )


def list_pairs(structures: Structures, cutoff: float, *, skin: float, **options) -> PairList:
    """`build_pairs`; those of a cached set are kept with it, and listed once.

    Parameters
    ----------
    structures : Structures
    cutoff, skin : float, Å
    **options
        Of `build_pairs`, and ``log``, a callable that takes a line of text.
    """
    log = options.pop("log", print)
    if not isinstance(structures, CachedStructures):
        return build_pairs(structures, cutoff, skin=skin, **options)
    from fdforce.data_cache import cached_pairs

    pairs = cached_pairs(structures.folder, cutoff, skin, log=log, **options)
    return replace(pairs, first_atom=structures.first_atom)


def kept_pairs(parts: dict, cutoff: float, **options) -> dict:
    """`list_pairs` of those parts of the data that are cached sets, where there is room for them.

    Parameters
    ----------
    parts : dict of str to Structures
    cutoff : float, Å
    **options
        Of `list_pairs`; ``log`` is told what failed.

    Returns
    -------
    dict of str to PairList
    """
    log, found = options["log"], {}
    for name, part in parts.items():
        if isinstance(part, CachedStructures):
            try:
                found[name] = list_pairs(part, cutoff, **options)
            except DataError as problem:  # a run that has ended can list them in memory
                log(str(problem))
    return found

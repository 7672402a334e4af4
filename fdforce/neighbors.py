"""Neighbour lists with a skin, built once per structure.

Training positions never move, so a list serves every epoch and, through its skin, the replicas
r+ and r- of the finite difference. Only integers are kept; distances are recomputed.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from fdforce.errors import DataError
from fdforce.pair_search import search_pairs
from fdforce.structures import Structures

TRAINING_SKIN = 0.05
"""Å. Room for strained replicas up to epsilon = 0.05 / 6 (central4) or 0.05 / 3 (central)."""


@dataclass(frozen=True, eq=False)
class PairList:
    """Neighbours of N atoms, one row for each atom and neighbour species, nearest first.

    Attributes
    ----------
    cutoff, skin : float, Å
        Pairs closer than ``cutoff + skin`` are listed.
    n_species : int
    row_start : ndarray, shape (N * n_species + 1,), int64
        Row ``i * n_species + z`` holds the neighbours of species z of atom i.
    neighbor : ndarray, shape (n_pairs,), int32
        Counted within the structure of the atom.
    shift : ndarray, shape (3, n_pairs), int16
        Lattice translation of the neighbour: ``d_ij = r_j + shift @ cell - r_i``.
    first_atom : ndarray, shape (S,), int64, or None
        Where the list of a larger set serves a part of it: the place in that set of the first atom
        of each structure. None: the list is that of the set itself.
    """

    cutoff: float
    skin: float
    n_species: int
    row_start: np.ndarray
    neighbor: np.ndarray
    shift: np.ndarray
    first_atom: np.ndarray | None = None

    @property
    def n_atoms(self) -> int:
        return (len(self.row_start) - 1) // self.n_species

    @property
    def nbytes(self) -> int:
        return self.row_start.nbytes + self.neighbor.nbytes + self.shift.nbytes

    @property
    def mean_neighbors(self) -> float:
        """Listed pairs per atom, skin included."""
        return len(self.neighbor) / max(self.n_atoms, 1)

    def of_some(self, structures: Structures, indices) -> PairList:
        """The list as that of ``structures.select(indices)``; nothing is copied.

        Parameters
        ----------
        structures : Structures
            Those that this list is of.
        indices : slice or sequence of int
        """
        first = structures.offsets[:-1] if self.first_atom is None else self.first_atom
        return replace(self, first_atom=np.asarray(first)[indices])


def build_pairs(
    structures: Structures,
    cutoff: float,
    *,
    skin: float = TRAINING_SKIN,
    threads: int = 1,
    progress: Callable | None = None,
) -> PairList:
    """List the neighbours of every atom of a data set.

    Parameters
    ----------
    structures : Structures
    cutoff, skin : float, Å
    threads : int
        Structures are shared out among so many threads.
    progress : callable, optional
        Wraps the iterator over structures, for a progress bar: ``progress(iterator, total)``.

    Returns
    -------
    PairList

    Raises
    ------
    DataError
        A neighbour is further away than 32767 lattice vectors.
    """
    n_species = len(structures.elements)
    reach = cutoff + skin

    def of_structure(s):
        atoms = slice(structures.offsets[s], structures.offsets[s + 1])
        i, j, shift, distance = search_pairs(
            structures.positions[atoms], structures.cells[s], structures.periodic[s], reach,
            full_list=True,
        )  # fmt: skip
        if len(shift) and np.abs(shift).max() > np.iinfo(np.int16).max:
            raise DataError(
                f"{structures.labels[s]}: an atom lies more than 32767 cells away from another; "
                "wrap the positions into the cell"
            )
        species = structures.species[atoms]
        row = i.astype(np.int64) * n_species + species[j]
        order = np.argsort(row + distance / (2 * reach))
        counts = np.bincount(row, minlength=len(species) * n_species)
        return counts, j[order].astype(np.int32), shift[order].astype(np.int16)

    with ThreadPoolExecutor(max(threads, 1)) as pool:
        lists = pool.map(of_structure, range(len(structures)))
        if progress is not None:
            lists = progress(lists, len(structures))
        counts, neighbors, shifts = zip(*lists, strict=True)
    return PairList(
        cutoff=float(cutoff),
        skin=float(skin),
        n_species=n_species,
        row_start=np.concatenate(([0], np.cumsum(np.concatenate(counts)))).astype(np.int64),
        neighbor=np.concatenate(neighbors),
        shift=np.ascontiguousarray(np.concatenate(shifts).T),
    )

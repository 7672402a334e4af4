"""A batch: structures laid end to end with their pair list, and its displaced replicas."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from fdforce.devices import HOST
from fdforce.errors import FdforceError
from fdforce.neighbors import PairList
from fdforce.structures import Structures

TILE_ATOMS = 64
"""Atoms in a tile of the network kernels: its layers stay in the first-level cache."""


@dataclass(frozen=True, eq=False)
class Batch:
    """S structures of N atoms in all; replicas are further structures on the same pair list.

    With ``n_replicas`` > 1 every per-structure and per-atom array except those of the pair list and
    ``species`` holds replica after replica, so a model that knows nothing of replicas sees
    ``n_replicas * S`` ordinary structures.

    Attributes
    ----------
    positions : ndarray, shape (n_replicas * N, 3), Å, float64 or complex128
    cells : ndarray, shape (n_replicas * S, 3, 3), Å
    volumes : ndarray, shape (n_replicas * S,), Å^3
        Of the undisplaced cell; NaN where not periodic in three directions.
    periodic : ndarray, shape (n_replicas * S, 3), bool
    species : ndarray, shape (N,), int32
    structure : ndarray, shape (n_replicas * N,), int64
        Structure of each atom.
    offsets : ndarray, shape (n_replicas * S + 1,), int64
    row_begin, row_end : ndarray, shape (N * n_species,), int64
        Pairs of row ``i * n_species + z``, the neighbours of species z of atom i.
    neighbor, shift : ndarray
        Those of the data set (`PairList`), not copied; neighbours are counted within their
        structure.
    place : ndarray, shape (n_replicas * N,), int64
        Row of each atom when the atoms are sorted by species, and then by replica.
    species_start : ndarray, shape (n_species + 1,), int64
        Rows of species z in that order: ``species_start[z]:species_start[z + 1]``.
    chunks : ndarray, shape (n_chunks + 1,), int64
        Bounds of the groups of atoms that threads work on, equal in pairs.
    tiles, tile_chunks : ndarray, shape (n_tiles, 3) and (n_chunks + 1,), int64
        Tiles of atoms of one species (species, first, last within a replica) and those of each
        thread.
    cutoff, skin : float, Å
        Of the pair list.
    n_replicas : int
    displacement : bool
        Whether `displaced` made it; forces are not expected then.
    device
        Where it is computed (`fdforce.devices`).
    """

    device: ClassVar = HOST

    positions: np.ndarray
    cells: np.ndarray
    volumes: np.ndarray
    periodic: np.ndarray
    species: np.ndarray
    structure: np.ndarray
    offsets: np.ndarray
    row_begin: np.ndarray
    row_end: np.ndarray
    neighbor: np.ndarray
    shift: np.ndarray
    place: np.ndarray
    species_start: np.ndarray
    chunks: np.ndarray
    tiles: np.ndarray
    tile_chunks: np.ndarray
    cutoff: float
    skin: float
    n_replicas: int = 1
    displacement: bool = False

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def n_atoms(self) -> int:
        """Atoms of all structures and replicas."""
        return len(self.positions)

    @property
    def counts(self) -> np.ndarray:
        """Atoms of each structure, shape (n_replicas * S,)."""
        return np.diff(self.offsets)

    @property
    def pair_arguments(self) -> tuple:
        """The arguments that every descriptor kernel begins with (kernels/README.md)."""
        return (
            self.positions, self.cells, self.structure, self.species, self.offsets,
            self.row_begin, self.row_end, self.neighbor, self.shift, self.chunks, self.place,
        )  # fmt: skip

    @property
    def species_rows(self) -> list[slice]:
        """Rows of each species in arrays that are sorted by it."""
        return [slice(a, b) for a, b in itertools.pairwise(self.species_start)]

    def displaced(self, direction, eta, strain=None) -> Batch:
        """Replicas at r + eta g, with the cell strained by eta H.

        Parameters
        ----------
        direction : ndarray, shape (N, 3)
            g, a displacement of every atom per unit of eta.
        eta : ndarray, shape (n_replicas, S) or (S,)
            Step of every structure in every replica; complex for the complex step.
        strain : ndarray, shape (S, 3, 3), optional
            H, a symmetric strain per unit of eta: r -> (1 + eta H) r + eta g.

        Returns
        -------
        Batch

        Raises
        ------
        FdforceError
            The displacement exceeds the skin of the pair list.
        """
        if self.displacement:
            raise FdforceError("only an undisplaced batch can be displaced")
        from fdforce.kernels.cpu.replicas import displace

        eta = np.atleast_2d(eta)
        n_replicas, n_atoms = len(eta), len(self.species)
        dtype = np.result_type(eta, np.float64)
        strained, cells = np.empty((0, 3)), np.concatenate([self.cells] * n_replicas)
        if strain is not None:
            strained = np.einsum("aij,aj->ai", strain[self.structure], self.positions)
            cells = cells + (eta[:, :, None, None] * (self.cells @ strain)).reshape(cells.shape)
        positions = np.empty((n_replicas * n_atoms, 3), dtype)
        structure, place = np.empty((2, n_replicas * n_atoms), np.int64)
        largest = displace(
            self.positions, direction, strained, self.structure, self.species, self.place,
            self.species_start, eta, positions, structure, place,
        )  # fmt: skip
        self._check_skin(largest, strain, eta)
        first = n_atoms * np.arange(n_replicas)[:, None]
        return replace(
            self,
            positions=positions,
            cells=cells.astype(dtype, copy=False),
            volumes=np.concatenate([self.volumes] * n_replicas),
            periodic=np.concatenate([self.periodic] * n_replicas),
            structure=structure,
            offsets=np.concatenate(((self.offsets[:-1] + first).ravel(), [len(positions)])),
            place=place,
            species_start=n_replicas * self.species_start,
            n_replicas=n_replicas,
            displacement=True,
        )

    def _check_skin(self, largest, strain, eta):
        """Both atoms of a pair may move, and the strain moves a pair by its distance.

        What is not finite passes, and surfaces in the results.
        """
        change = 2 * largest
        if strain is not None and np.isfinite(eta).all():
            change += self.cutoff * np.max(np.abs(eta) * np.linalg.norm(strain, 2, axis=(1, 2)))
        if change > self.skin:
            raise FdforceError(
                f"a displacement changes distances by up to {change:.3g} Å, but the pair list "
                f"has a skin of {self.skin:.3g} Å: take a smaller epsilon"
            )


def make_batch(
    structures: Structures, pairs: PairList, indices=None, *, n_chunks: int = 1
) -> Batch:
    """Gather structures of a data set into a batch.

    Parameters
    ----------
    structures : Structures
    pairs : PairList
        Of these structures.
    indices : sequence of int, optional
        Structures to take; all when absent.
    n_chunks : int
        Groups of atoms for the threads.

    Returns
    -------
    Batch
    """
    indices = np.arange(len(structures)) if indices is None else np.asarray(indices, dtype=np.int64)
    offsets, atoms = atoms_of(structures.offsets, indices)
    species = structures.species[atoms]
    n_species = pairs.n_species
    listed = atoms
    if pairs.first_atom is not None:
        first = pairs.first_atom[indices] - structures.offsets[indices]
        listed = atoms + np.repeat(first, np.diff(offsets))
    rows = (listed[:, None] * n_species + np.arange(n_species)).ravel()
    row_begin, row_end = pairs.row_start[rows], pairs.row_start[rows + 1]

    order = np.argsort(species, kind="stable")
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    # an atom costs its pairs and, roughly, ten more
    work = np.concatenate(([0], np.cumsum(row_end - row_begin)[n_species - 1 :: n_species]))
    work += 10 * np.arange(len(work))
    goals = np.linspace(0, work[-1], n_chunks + 1)
    species_start = np.searchsorted(species[order], np.arange(n_species + 1))
    tiles, tile_chunks = tiles_of(species_start, n_chunks)
    return Batch(
        positions=np.ascontiguousarray(structures.positions[atoms]),
        cells=np.ascontiguousarray(structures.cells[indices]),
        volumes=structures.volumes[indices],
        periodic=structures.periodic[indices],
        species=species,
        structure=np.repeat(np.arange(len(indices)), np.diff(offsets)),
        offsets=offsets,
        row_begin=row_begin,
        row_end=row_end,
        neighbor=np.asarray(pairs.neighbor),  # of mapped arrays, kernels take the plain view
        shift=np.asarray(pairs.shift),
        place=place,
        species_start=species_start,
        chunks=np.searchsorted(work, goals).astype(np.int64),
        tiles=tiles,
        tile_chunks=tile_chunks,
        cutoff=pairs.cutoff,
        skin=pairs.skin,
    )


def tiles_of(species_start, n_chunks):
    """Tiles of at most `TILE_ATOMS` atoms of one species, and where the threads divide them."""
    counts = np.diff(species_start)
    parts = -(-counts // TILE_ATOMS)
    species = np.repeat(np.arange(len(counts)), parts)
    part = np.arange(len(species)) - np.repeat(np.cumsum(parts) - parts, parts)
    first, last = (counts[species] * p // parts[species] for p in (part, part + 1))
    tiles = np.stack([species, first, last], axis=1).astype(np.int64)
    before = np.concatenate(([0], np.cumsum(tiles[:, 2] - tiles[:, 1])))
    goals = np.linspace(0, before[-1], n_chunks + 1)
    chunks = np.searchsorted(before, goals - TILE_ATOMS / 4)
    chunks[0], chunks[-1] = 0, len(tiles)
    return tiles, chunks.astype(np.int64)


def atoms_of(offsets, indices):
    """Offsets of chosen structures laid end to end, and the atoms they take from the data set."""
    counts = offsets[1:][indices] - offsets[:-1][indices]
    chosen = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    return chosen, np.arange(chosen[-1]) + np.repeat(offsets[:-1][indices] - chosen[:-1], counts)

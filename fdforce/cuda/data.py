"""A data set on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fdforce.batch import TILE_ATOMS, tiles_of
from fdforce.cuda.batch import DeviceBatch
from fdforce.errors import DataError

PARTIAL_GRADIENTS = 2**26
"""Bytes of the sums of the blocks that share out the tiles of the networks, at most."""


@dataclass(frozen=True, eq=False)
class DeviceTarget:
    """Labels of a batch on the device: energy (S,), forces (N, 3), virial and weight (S, 3)."""

    energy: Any
    forces: Any
    virial: Any
    weight: Any


class DeviceData:
    """Structures, pairs and labels of a `DataSet`, copied to the device.

    Parameters
    ----------
    device : CudaDevice
    data : DataSet
    memory : Memory, optional
        Where they are until it is reset; without it they stay for good.
    known : bool
        Whether the pair list is known to be complete, which costs a wait for the device to see.

    Raises
    ------
    DataError
        The pair list lacks the opposite of a pair.
    """

    def __init__(self, device, data, memory=None, known=False):
        self.device, self.data = device, data
        structures, pairs = data.structures, data.pairs
        self.n_species = pairs.n_species
        self._species_counts = structures.compositions
        table, empty = (device.table, device.empty) if memory is None else (
            memory.upload, memory.empty
        )  # fmt: skip
        self._offsets = table(structures.offsets, np.int64)
        self._positions = table(structures.positions, np.float64)
        self._cells = table(structures.cells, np.float64)
        self._species = table(structures.species, np.int32)
        self._rank = table(_ranks(structures, self.n_species), np.int64)
        row_start, neighbor, shift, self._first_pair = _own_pairs(structures, pairs)
        self._row_start = table(row_start, np.int64)
        self._neighbor, self._shift = table(neighbor, np.int32), table(shift, np.int16)
        self._forces = table(data.target.forces, np.float64)
        of_atom = np.repeat(np.arange(len(structures)), structures.counts)
        of_atom, self._opposite = table(of_atom, np.int64), empty(len(neighbor), np.int64)
        if memory is not None:
            memory.send()
        device.kernels("pairs").opposite_pairs(
            self._species, of_atom, self._offsets, self._row_start, self._neighbor, self._shift,
            self.n_species, self._opposite,
        )  # fmt: skip
        if len(neighbor) and not known and self._opposite.copy_to_host().min() < 0:
            raise DataError("the pair list holds a pair without its opposite; build it anew")

    @staticmethod
    def bytes_of(data) -> int:
        """Memory that a data set would take on the device."""
        atoms, pairs = data.structures.n_atoms, data.pairs
        n_pairs = pairs.mean_neighbors * atoms
        return int(atoms * (24 + 24 + 20 + 8 * pairs.n_species) + n_pairs * (4 + 6 + 8))

    def relabel(self, data) -> None:
        """Take the labels of a data set of the same structures."""
        if data.target is not self.data.target:
            self._forces = self.device.table(data.target.forces, np.float64)
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices, n_parameters: int = 1) -> DeviceBatch:
        """Some structures, which `fill` puts there.

        Parameters
        ----------
        indices : sequence of int
        n_parameters : int
            Of the model, which bounds how many blocks share out its gradient.
        """
        device, structures = self.device, self.data.structures
        indices = np.asarray(indices, dtype=np.int64)
        upload, empty = device.upload, device.empty
        counts = structures.counts[indices]
        offsets = np.concatenate(([0], np.cumsum(counts)))
        of_species = self._species_counts[indices]
        before = np.cumsum(of_species, axis=0) - of_species
        species_counts = of_species.sum(axis=0)
        species_start = np.concatenate(([0], np.cumsum(species_counts)))
        n_atoms, n_rows = int(offsets[-1]), int(offsets[-1]) * self.n_species
        of_pairs = self._first_pair[indices + 1] - self._first_pair[indices]
        pair_offset = np.cumsum(of_pairs) - of_pairs - self._first_pair[indices]
        n_chunks = min(
            (-(-species_counts // TILE_ATOMS)).sum(), 4 * device.multiprocessors,
            PARTIAL_GRADIENTS // (8 * n_parameters),
        )  # fmt: skip
        tiles, tile_chunks = tiles_of(species_start, max(int(n_chunks), 1))
        return DeviceBatch(
            device=device,
            chosen=upload(indices, np.int64),
            positions=empty((n_atoms, 3), np.float64),
            cells=empty((len(indices), 3, 3), np.float64),
            volumes=upload(structures.volumes[indices], np.float64),
            species=empty(n_atoms, np.int32),
            species_before=upload(before, np.int64),
            structure=empty(n_atoms, np.int64),
            offsets=upload(offsets, np.int64),
            row_begin=empty(n_rows, np.int64),
            row_end=empty(n_rows, np.int64),
            neighbor=self._neighbor,
            shift=self._shift,
            opposite=self._opposite,
            pair_offset=upload(pair_offset, np.int64),
            n_pairs=int(of_pairs.sum()),
            place=empty(n_atoms, np.int64),
            species_start=upload(species_start, np.int64),
            tiles=upload(tiles, np.int64),
            tile_chunks=upload(tile_chunks, np.int64),
            cutoff=self.data.pairs.cutoff,
            skin=self.data.pairs.skin,
            counts=counts,
            species_counts=species_counts,
        )

    def target(self, batch: DeviceBatch, indices) -> DeviceTarget:
        """Labels of the structures of a batch, which `fill` puts there."""
        upload, target = self.device.upload, self.data.target
        indices = np.asarray(indices, dtype=np.int64)
        weight = target.weight[indices]
        weight = weight if weight.ndim == 2 else np.repeat(weight[:, None], 3, axis=1)
        return DeviceTarget(
            upload(target.energy[indices], np.float64),
            self.device.empty((batch.n_atoms, 3), np.float64),
            upload(target.virial[indices], np.float64),
            upload(weight, np.float64),
        )

    def fill(self, batch: DeviceBatch, target: DeviceTarget | None = None) -> None:
        """Send all that was uploaded for a step, and lay out its structures on the device."""
        self.device.send()
        kernels = self.device.kernels("batches")
        kernels.gather_structures(
            batch.chosen, batch.offsets, batch.species_before, batch.species_start,
            self._offsets, self._positions, self._cells, self._species, self._rank,
            self._row_start, batch.positions, batch.cells, batch.structure, batch.species,
            batch.row_begin, batch.row_end, batch.place,
        )  # fmt: skip
        if target is not None:
            kernels.gather_rows(
                batch.chosen, batch.offsets, self._offsets, self._forces, target.forces
            )


def _ranks(structures, n_species):
    """Place of every atom among those of its species in its structure."""
    of_atom = np.repeat(np.arange(len(structures)), structures.counts)
    group = of_atom * n_species + structures.species
    order = np.argsort(group, kind="stable")
    counts = np.bincount(group, minlength=len(structures) * n_species)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order)) - first
    return ranks


def _own_pairs(structures, pairs):
    """The list of exactly these structures, without what else a larger set's list holds.

    Returns
    -------
    row_start, neighbor, shift : ndarray
        As in `PairList`.
    first_pair : ndarray, shape (S + 1,)
    """
    n_species = pairs.n_species
    if pairs.first_atom is None:
        row_start, neighbor, shift = pairs.row_start, pairs.neighbor, pairs.shift
    else:
        listed = pairs.first_atom
        last = listed + structures.counts
        ends = np.stack([listed, last])
        first, end = pairs.row_start[ends * n_species]
        of_structures = np.stack([first, end], axis=1)
        rows = [pairs.row_start[a * n_species : b * n_species] for a, b in ends.T]
        counts = np.cumsum(end - first)
        moved = [row + (n - b) for row, n, (_, b) in zip(rows, counts, of_structures)]
        row_start = np.concatenate([*moved, [counts[-1] if len(counts) else 0]])
        neighbor = np.concatenate([pairs.neighbor[a:b] for a, b in of_structures])
        shift = np.concatenate([pairs.shift[:, a:b] for a, b in of_structures], axis=1)
    return row_start, neighbor, shift, np.asarray(row_start)[structures.offsets * n_species]

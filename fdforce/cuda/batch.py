"""A batch on the device: `fdforce.batch.Batch` with arrays of the GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Layout:
    """Nodes of replicas, first atoms of their structures, and first rows of their species."""

    nodes: Any
    offsets: Any
    species_start: Any


@dataclass(frozen=True, eq=False)
class DeviceBatch:
    """S structures of N atoms in all, or replicas of them, on the device.

    Attributes are those of `Batch`, in device arrays, but for these:

    Attributes
    ----------
    chosen : (S,) int64
        Structures of the data set.
    species_before : (S, n_species) int64
        Atoms of a species in the structures before.
    pair_offset : (S,) int64
        From the place of a pair in the data set to its row in ``d_separations``
        (kernels/cuda/pairs.py).
    opposite : (n_pairs of the data set,) int64
    n_pairs : int
        Pairs of the batch.
    counts : ndarray, shape (S,)
        Atoms of each structure of one replica, on the host.
    species_counts : ndarray, shape (n_species,)
        Atoms of each species of one replica, on the host.
    """

    device: Any
    chosen: Any
    positions: Any
    cells: Any
    volumes: Any
    species: Any
    species_before: Any
    structure: Any
    offsets: Any
    row_begin: Any
    row_end: Any
    neighbor: Any
    shift: Any
    opposite: Any
    pair_offset: Any
    n_pairs: int
    place: Any
    species_start: Any
    tiles: Any
    tile_chunks: Any
    cutoff: float
    skin: float
    counts: np.ndarray
    species_counts: np.ndarray
    n_replicas: int = 1
    displacement: bool = False

    @property
    def n_structures(self) -> int:
        """Structures of all replicas."""
        return self.n_replicas * len(self.counts)

    @property
    def n_atoms(self) -> int:
        """Atoms of all replicas."""
        return len(self.positions)

    @property
    def pair_arguments(self) -> tuple:
        """The arguments that every descriptor kernel begins with (kernels/README.md)."""
        return (
            self.positions, self.cells, self.structure, self.species, self.offsets,
            self.row_begin, self.row_end, self.neighbor, self.shift, self.pair_offset, self.place,
        )  # fmt: skip

    def layout(self, nodes) -> Layout:
        """What replicas at these nodes, ndarray (n_replicas,), need from the host."""
        upload, n_replicas = self.device.upload, len(nodes)
        offsets = np.concatenate(([0], np.cumsum(np.tile(self.counts, n_replicas))))
        first = np.concatenate(([0], np.cumsum(n_replicas * self.species_counts)))
        return Layout(upload(nodes, np.float64), upload(offsets, np.int64), upload(first, np.int64))

    def displaced(self, direction, eta, layout: Layout, strain) -> DeviceBatch:
        """Replicas at r + node eta (g + H r), with the cell strained alike.

        Parameters
        ----------
        direction : (N, 3), Å per unit of eta
        eta : (S,)
        layout : Layout
            Of `layout`, with the nodes.
        strain : (S, 3, 3)
        """
        device, n_replicas = self.device, layout.nodes.size
        n_atoms, n_structures = self.n_atoms, len(self.counts)
        positions = device.empty((n_replicas * n_atoms, 3), np.float64)
        cells = device.empty((n_replicas * n_structures, 3, 3), np.float64)
        structure = device.empty(n_replicas * n_atoms, np.int64)
        place = device.empty(n_replicas * n_atoms, np.int64)
        device.kernels("replicas").displace(
            self.positions, direction, strain, self.cells, self.structure, self.species,
            self.place, self.species_start, eta, layout.nodes,
            positions, cells, structure, place,
        )  # fmt: skip
        return replace(
            self, positions=positions, cells=cells, structure=structure, place=place,
            offsets=layout.offsets, species_start=layout.species_start,
            n_replicas=n_replicas, displacement=True,
        )  # fmt: skip

"""Where a batch is computed: what descriptors ask of the processor, or of a GPU (fdforce.cuda).

A descriptor allocates, looks up its kernels and uploads its tables through ``batch.device``, so
that it is written once for both.
"""

from __future__ import annotations

from functools import reduce
from importlib import import_module

import numpy as np


class HostSlopes:
    """Where the backward kernels of the processor add dE/dr and dE/ds of a batch.

    Attributes
    ----------
    arrays : tuple
        The last arguments of such a kernel.
    parts : list of tuple
        The same for each of several kernels, of which no two see the same pair.
    """

    def __init__(self, batch, n_parts=1):
        dtype, n_atoms = batch.positions.dtype, batch.n_atoms
        shape = len(batch.chunks) - 1, n_atoms, 3
        self.parts = [
            (np.zeros(shape, dtype), np.zeros((n_atoms, 6), dtype)) for _ in range(n_parts)
        ]
        self.arrays = self.parts[0]

    def totals(self):
        """Derivatives with respect to positions (n_atoms, 3) and strain (n_atoms, 6)."""
        d_positions, d_strain = zip(*self.parts)
        totals = [chunks.sum(axis=0) for chunks in d_positions]
        return reduce(np.add, totals), reduce(np.add, d_strain)


class Host:
    """The processor: NumPy arrays and the kernels of `fdforce.kernels.cpu`."""

    name = "cpu"

    @staticmethod
    def kernels(name: str):
        """The module of kernels of this name."""
        return import_module(f"fdforce.kernels.cpu.{name}")

    empty = staticmethod(np.empty)
    zeros = staticmethod(np.zeros)

    @staticmethod
    def table(array, dtype):
        """An array of constants, contiguous and of this dtype."""
        return np.ascontiguousarray(array, dtype)

    @staticmethod
    def cast(array, dtype):
        """An array of this device in this dtype."""
        return array.astype(dtype, copy=False)

    @staticmethod
    def sum(a, b, dtype):
        """a + b in double precision, or complex128, and then in this dtype."""
        return (a + b).astype(dtype)

    @staticmethod
    def slopes(batch, dtype, n_parts=1) -> HostSlopes:
        """Where a backward kernel in this dtype writes, or several, each for pairs of its own."""
        return HostSlopes(batch, n_parts)


HOST = Host()

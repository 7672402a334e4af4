"""Memory of one training step: taken from one block, and all given back at its end.

Allocating and freeing on the device costs more than a small kernel, and freeing waits for all that
runs. The arrays of a step are therefore parts of one block, which the next step uses again;
launches run in order, so none still needs the old contents by then.
"""

from __future__ import annotations

import numpy as np

ALIGNMENT = 256
"""Bytes. What an allocation of its own would have, and what wide loads need."""


class Arena:
    """A block of device memory that grows to what a step needs.

    Parameters
    ----------
    allocate : callable
        ``allocate(n_bytes)`` returns a device array of so many uint8.
    """

    def __init__(self, allocate):
        self._allocate, self._blocks, self._used, self._total = allocate, [], 0, 0

    @property
    def size(self) -> int:
        """Bytes that it has taken from the device."""
        return sum(block.size for block in self._blocks)

    def take(self, shape, dtype):
        """An array that is valid until `reset`, not initialised."""
        dtype = np.dtype(dtype)
        n_bytes = int(np.prod(shape)) * dtype.itemsize
        room = -(-n_bytes // ALIGNMENT) * ALIGNMENT
        if not self._blocks or self._used + room > self._blocks[-1].size:
            self._blocks.append(self._allocate(max(room, self.size, ALIGNMENT)))
            self._used = 0
        first = self._used
        self._used += room
        self._total += room
        flat = self._blocks[-1][first : first + n_bytes].view(dtype)
        return flat.reshape(*np.atleast_1d(shape).tolist())

    def reset(self) -> None:
        """Begin a step: all of it is free. What was several blocks becomes one."""
        room = min(self._total + self._total // 8, self.size)
        # first of all, so that an allocation that fails does not count in the next step
        self._used = self._total = 0
        if len(self._blocks) > 1:
            self._blocks.clear()
            self._blocks.append(self._allocate(room))

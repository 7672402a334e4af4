"""Memory of one training step: taken from one block, and all given back at its end.

Allocating and freeing on the device costs more than a small kernel, and freeing waits for all that
runs. The arrays of a step are therefore parts of one block, which the next step uses again;
launches run in order, so none still needs the old contents by then.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any, NamedTuple

import numpy as np

ALIGNMENT = 256
"""Bytes. What an allocation of its own would have, and what wide loads need."""


def cut(block, first: int, shape: tuple, dtype):
    """Some bytes of a block as an array; any array of uint8 can be cut so."""
    n_bytes = math.prod(shape) * dtype.itemsize
    return block[first : first + n_bytes].view(dtype).reshape(*shape)


class Arena:
    """A block of device memory that grows to what a step needs.

    Parameters
    ----------
    allocate : callable
        ``allocate(n_bytes)`` returns an array of so many uint8.
    part : callable
        A quicker `cut` for these blocks.
    """

    def __init__(self, allocate, part=cut):
        self._allocate, self._part = allocate, part
        self._blocks, self._used, self._total = [], 0, 0

    @property
    def size(self) -> int:
        """Bytes that it has taken from the device."""
        return sum(block.size for block in self._blocks)

    def take(self, shape, dtype):
        """An array that is valid until `reset`, not initialised."""
        shape, dtype = _tuple(shape), np.dtype(dtype)
        block, first = self._place(math.prod(shape) * dtype.itemsize)
        return self._part(block, first, shape, dtype)

    def _place(self, n_bytes):
        """A block with room for so many bytes, and where that begins."""
        room = -(-n_bytes // ALIGNMENT) * ALIGNMENT
        if not self._blocks or self._used + room > self._blocks[-1].size:
            self._blocks.append(self._grow(max(room, ALIGNMENT)))
            self._used = 0
        first = self._used
        self._used += room
        self._total += room
        return self._blocks[-1], first

    def _grow(self, room):
        """As much again as there is, so that few steps allocate; or what is needed."""
        if self.size > room:
            with contextlib.suppress(Exception):  # most likely it is too much
                return self._allocate(self.size)
        return self._allocate(room)

    def reset(self) -> None:
        """Begin a step: all of it is free. What was several blocks becomes one."""
        room = min(self._total + self._total // 8, self.size)
        # first of all, so that an allocation that fails does not count in the next step
        self._used = self._total = 0
        if len(self._blocks) > 1:
            self._blocks.clear()
            self._blocks.append(self._allocate(room))


class Mirrored(NamedTuple):
    """A block on the device and one of the same size on the host."""

    there: Any
    here: np.ndarray

    @property
    def size(self) -> int:
        """Bytes of one of them."""
        return self.here.size


class Staging(Arena):
    """Arrays on their way to the device, side by side, so that one copy takes them all.

    The blocks on the host are page-locked: a copy from there is only queued, and runs while the
    host goes on. They may be written to again once something that was queued later has ended.

    Parameters
    ----------
    allocate : callable
        ``allocate(n_bytes)`` returns a block, `Mirrored`.
    copy : callable
        ``copy(there, here)`` queues a copy to the device.
    part : callable
        As for `Arena`, of a block on the device.
    """

    def __init__(self, allocate, copy, part=cut):
        super().__init__(allocate, part)
        self._copy, self._waiting = copy, []

    def add(self, array, dtype):
        """An array of the device that has these contents after the next `send`."""
        array, dtype = np.asarray(array), np.dtype(dtype)
        block, first = self._place(array.size * dtype.itemsize)
        cut(block.here, first, array.shape, dtype)[...] = array
        if not self._waiting or self._waiting[-1][0] is not block:
            self._waiting.append([block, first, first])
        self._waiting[-1][2] = self._used
        return self._part(block.there, first, array.shape, dtype)

    def send(self) -> None:
        """Queue the copies of all that was added since the last call."""
        for block, first, end in self._waiting:
            self._copy(block.there[first:end], block.here[first:end])
        self._waiting.clear()

    @property
    def waiting(self) -> bool:
        """Whether something that was added has not been sent."""
        return bool(self._waiting)

    def reset(self) -> None:
        """Begin anew; what was not sent is forgotten."""
        self._waiting.clear()
        super().reset()


def _tuple(shape) -> tuple:
    return (int(shape),) if np.ndim(shape) == 0 else tuple(map(int, shape))

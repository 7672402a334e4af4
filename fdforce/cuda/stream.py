"""A data set that stays on the host: every batch is copied to the device when its turn comes.

The copy goes through page-locked memory and is only queued. Where the next batch is known, the host
puts it together and queues its copy while the device computes the present one.
"""

from __future__ import annotations

import numpy as np

from fdforce.cuda.data import DeviceData
from fdforce.cuda.device import Memory, out_of_memory
from fdforce.data_set import DataSet
from fdforce.evaluation import take


class Stream:
    """Batches of structures that are known by their numbers.

    Parameters
    ----------
    device : CudaDevice
    n_structures : int
        Of the data set.
    """

    def __init__(self, device, n_structures: int):
        self.device = device
        # the present batch and the next; each is used again when the host has waited for its step
        self._memories = [Memory(device), Memory(device)]
        self._complete = np.zeros(n_structures, dtype=bool)
        self._next = None

    def batch(self, data, indices) -> DeviceData:
        """Some structures of the data set as one of their own, on the device."""
        expected, self._next = self._next, None
        if expected is not None:
            target, numbers, found = expected
            if target is data.target and np.array_equal(numbers, indices):
                return found
        return self._copy(data, indices)

    def prepare(self, data, indices) -> None:
        """Begin to copy the batch that will be asked for next, if there is memory for it."""
        try:
            self._next = data.target, indices, self._copy(data, indices)
        except Exception as error:
            if not out_of_memory(error):
                raise

    def _copy(self, data, indices):
        memory = self._memories.pop(0)
        self._memories.append(memory)
        memory.reset()
        known = self._complete[indices].all()
        found = DeviceData(self.device, part_of(data, indices), memory, known)
        self._complete[indices] = True
        return found


def part_of(data, indices) -> DataSet:
    """Some structures of a data set as one of its own, with the list of the whole."""
    structures = data.structures
    return DataSet(
        structures.select(indices),
        take(data.target, structures, indices),
        data.pairs.of_some(structures, indices),
    )

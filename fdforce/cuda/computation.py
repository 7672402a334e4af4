"""Losses and gradients on the device, in batches that its memory holds.

A data set that fits stays on the device for the whole run; of one that does not, every batch is
copied when its turn comes. A batch that does not fit is cut, and its parts are put together by
`fdforce.gradient.reduce_gradient`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fdforce.cuda.data import DeviceData
from fdforce.cuda.device import find_device, out_of_memory
from fdforce.cuda.gradient import DeviceGradient
from fdforce.cuda.networks import DeviceNetworks
from fdforce.data_set import DataSet
from fdforce.errors import FdforceError
from fdforce.evaluation import groups, take
from fdforce.gradient import reduce_gradient
from fdforce.losses import RMSELoss

DATA_SHARE = 0.5
"""Part of the memory that data sets may take for the whole run; batches have the rest."""


class DeviceComputation:
    """What `fdforce.computation.HostComputation` offers, on the current GPU.

    Parameters
    ----------
    model : ElementalNetworks
        Its `theta` at the time of a call counts.
    share : float
        Part of the device's free memory that may be used.
    log : callable
        Takes a line of text: what does not fit.
    device : CudaDevice, optional

    Raises
    ------
    ConfigError
        No GPU, or no package for it.
    """

    def __init__(self, model, share: float = 0.8, log=print, device=None):
        self.device = device or find_device()
        self.model, self.log = model, log
        self.networks = DeviceNetworks(self.device, model)
        self._memory = share * self.device.free_memory()
        self._resident, self._kept = 0.0, {}
        self._most_atoms = np.inf

    def groups(self, data) -> Iterator[np.ndarray]:
        """The structures of a data set in batches that the memory holds."""
        atoms = min(self.atoms_that_fit(data.pairs.mean_neighbors, 1), 2**20)
        return groups(data.structures, atoms=max(int(atoms), 1))

    def atoms_that_fit(self, mean_neighbors: float, n_replicas: int) -> float:
        """Atoms of a batch that the memory left by the data holds, by the count of its arrays."""
        numbers = self.networks.numbers_per_atom(mean_neighbors, n_replicas)
        left = self._memory - self._resident
        return min(left / (numbers * self.networks.dtype.itemsize), self._most_atoms)

    def gradient(self, data, indices, loss, *, stencil="central", **options):
        """`GradientStep` of some structures of a data set; options of `DeviceGradient`.

        Raises
        ------
        FdforceError
            One structure is too large for the device.
        """
        indices = np.asarray(indices)
        fitting = self.atoms_that_fit(data.pairs.mean_neighbors, 4 if stencil == "central4" else 2)
        if data.structures.counts[indices].sum() <= fitting or len(indices) == 1:
            try:
                steps = self._steps(data, indices)
                return steps(indices if steps.data.data is data else _all(indices), loss,
                             stencil=stencil, **options)  # fmt: skip
            except Exception as error:
                if not out_of_memory(error):
                    raise
                self._note(data, indices)
        return self._in_halves(data, indices, loss, stencil=stencil, **options)

    def _in_halves(self, data, indices, loss, **options):
        if isinstance(loss, RMSELoss):
            raise FdforceError(
                "loss.kind = 'rmse' is no sum over structures, and a batch of "
                f"{len(indices)} does not fit on the device: take a smaller optimizer.batch_size"
            )
        halves = np.array_split(indices, 2)
        steps = [self.gradient(data, half, loss, **options) for half in halves]
        return reduce_gradient(steps, [len(half) / len(indices) for half in halves])

    def _note(self, data, indices):
        """Remember that so many atoms were too many."""
        atoms = int(data.structures.counts[indices].sum())
        if len(indices) == 1:
            raise FdforceError(
                f"{data.structures.labels[indices[0]]}: {atoms} atoms do not fit on the device; "
                'take device = "cpu"'
            ) from None
        self._most_atoms = atoms // 2
        self.log(
            f"the device has no memory for a batch of {atoms} atoms: from now on in parts of "
            f"{self._most_atoms}"
        )

    def terms(self, data, indices, loss):
        """`LossTerms` of some structures of a data set, with value and errors alone."""
        steps = self._steps(data, indices)
        return steps.terms(indices if steps.data.data is data else _all(indices), loss)

    def _steps(self, data, indices) -> DeviceGradient:
        """With the data set, or, where that does not fit, with these structures of it."""
        key = id(data.structures)
        known = self._kept.get(key)
        if known is None:
            size = DeviceData.bytes_of(data)
            if self._resident + size <= DATA_SHARE * self._memory:
                self._resident += size
                known = DeviceData(self.device, data)
            else:
                self.log(
                    f"{len(data)} structures with their pairs take {size / 1e9:.1f} GB, more than "
                    "the device has to spare: every batch is copied when its turn comes"
                )
                known = False
            # the structures are kept too, so that no others get their id
            self._kept[key] = known = (data.structures, known)
        if not known[1]:
            return DeviceGradient(self.networks, DeviceData(self.device, part_of(data, indices)))
        known[1].relabel(data)
        return DeviceGradient(self.networks, known[1])


def part_of(data, indices) -> DataSet:
    """Some structures of a data set as one of its own, with the list of the whole."""
    structures = data.structures
    return DataSet(
        structures.select(indices),
        take(data.target, structures, indices),
        data.pairs.of_some(structures, indices),
    )


def _all(indices):
    return np.arange(len(indices))

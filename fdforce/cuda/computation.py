"""Losses and gradients on the device, in batches that its memory holds.

A data set that fits stays on the device for the whole run; of one that does not, every batch is
copied when its turn comes. A batch that does not fit is cut, and its parts are put together by
`fdforce.gradient.reduce_gradient`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import numpy as np

from fdforce.cuda.data import DeviceData
from fdforce.cuda.device import find_device, out_of_memory
from fdforce.cuda.gradient import DeviceGradient
from fdforce.cuda.networks import DeviceNetworks
from fdforce.cuda.stream import Stream
from fdforce.errors import FdforceError
from fdforce.evaluation import groups
from fdforce.gradient import reduce_gradient
from fdforce.losses import LossTerms, RMSELoss
from fdforce.mixed_batches import with_force_labels

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
        self._most_atoms, self._streamed = np.inf, 0.0
        self._expected, self._labelled = None, (None, None)

    def groups(self, data) -> Iterator[np.ndarray]:
        """The structures of a data set in batches that the memory holds."""
        atoms = min(self.atoms_that_fit(data.pairs.mean_neighbors, 1), 2**20)
        return groups(data.structures, atoms=max(int(atoms), 1))

    def atoms_that_fit(self, mean_neighbors: float, n_replicas: int) -> float:
        """Atoms of a batch that the memory left by the data holds, by the count of its arrays."""
        numbers = self.networks.numbers_per_atom(mean_neighbors, n_replicas)
        left, of_atom = self._memory - self._resident, numbers * self.networks.dtype.itemsize
        return min(left / (of_atom + self._streamed), self._most_atoms)

    def expect(self, indices) -> None:
        """Hear which structures of the same data set will be asked for next, or None."""
        self._expected = indices

    def gradient(self, data, indices, loss, *, stencil="central", share=1.0, last=True, **options):
        """`GradientStep` of some structures of a data set.

        Structures without a force or stress label are evaluated apart from the others.

        Parameters
        ----------
        data : DataSet
        indices : sequence of int
        loss : WeightedLoss
        stencil : str
        share : float
            Of the structures of a batch that these are.
        last : bool
            Whether what is expected follows them.
        **options
            Of `DeviceGradient`.

        Raises
        ------
        FdforceError
            One structure is too large for the device.
        """
        indices, home = np.asarray(indices), self._home_of(data)
        parts = self._parts(data, indices, loss)
        if len(parts) == 1:
            if self._fits(data, indices, stencil) or len(indices) == 1:
                meanwhile = None
                if last and self._expected is not None and isinstance(home, Stream):
                    meanwhile = partial(self._prepare, home, data, loss, stencil)
                with self._noting_that_it_is_too_much(data, indices):
                    placed, numbers = self._on_device(data, indices)
                    moves = bool(self._moves(data)[indices].any())
                    return DeviceGradient(self.networks, placed)(
                        numbers, loss, stencil=stencil, moves=moves, share=share,
                        meanwhile=meanwhile, **options,
                    )  # fmt: skip
            if isinstance(loss, RMSELoss):
                raise FdforceError(
                    "loss.kind = 'rmse' is no sum over structures, and a batch of "
                    f"{len(indices)} does not fit on the device: take a smaller "
                    "optimizer.batch_size"
                )
            parts = np.array_split(np.arange(len(indices)), 2)
        steps = [
            self.gradient(
                data, indices[part], loss, stencil=stencil, share=share * len(part) / len(indices),
                last=last and number == len(parts) - 1, **options,
            )
            for number, part in enumerate(parts)
        ]  # fmt: skip
        return reduce_gradient(steps, parts)

    def _parts(self, data, indices, loss):
        """Places of the structures that are displaced and of the others, where there are both."""
        moves = self._moves(data)[indices]
        if moves.all() or not moves.any() or isinstance(loss, RMSELoss):
            return [np.arange(len(indices))]
        return [np.flatnonzero(moves), np.flatnonzero(~moves)]

    def _moves(self, data):
        """Which structures of a data set have a force or stress label."""
        if self._labelled[0] is not data.target:
            moves = with_force_labels(data.target, data.structures.counts)
            self._labelled = data.target, moves
        return self._labelled[1]

    def _fits(self, data, indices, stencil):
        n_replicas = 4 if stencil == "central4" else 2
        fitting = self.atoms_that_fit(data.pairs.mean_neighbors, n_replicas)
        return data.structures.counts[indices].sum() <= fitting

    def _prepare(self, stream, data, loss, stencil):
        """Copy what `gradient` will ask for first of the structures that are expected."""
        indices, self._expected = np.asarray(self._expected), None
        indices = indices[self._parts(data, indices, loss)[0]]
        if self._fits(data, indices, stencil):
            stream.prepare(data, indices)

    @contextlib.contextmanager
    def _noting_that_it_is_too_much(self, data, indices) -> Iterator[None]:
        """Context that ends early where memory runs out, which is remembered.

        Raises
        ------
        FdforceError
            It ran out with one structure.
        """
        try:
            yield
        except Exception as error:
            if not out_of_memory(error):
                raise
            atoms = int(data.structures.counts[indices].sum())
            if len(indices) == 1:
                raise FdforceError(
                    f"{data.structures.labels[indices[0]]}: {atoms} atoms do not fit on the "
                    'device; take device = "cpu"'
                ) from None
            self._most_atoms = atoms // 2
            self.log(
                f"the device has no memory for a batch of {atoms} atoms: from now on in parts of "
                f"{self._most_atoms}"
            )

    def terms(self, data, indices, loss):
        """`LossTerms` of some structures of a data set, with value and errors alone."""
        indices = np.asarray(indices)
        with self._noting_that_it_is_too_much(data, indices):
            placed, numbers = self._on_device(data, indices)
            return DeviceGradient(self.networks, placed).terms(numbers, loss)
        halves = np.array_split(indices, 2)
        terms = [self.terms(data, half, loss) for half in halves]
        return LossTerms.reduced(terms, [len(half) / len(indices) for half in halves], None)

    def _on_device(self, data, indices):
        """The data set on the device, or these structures of it; and their numbers there."""
        home = self._home_of(data)
        if isinstance(home, Stream):
            return home.batch(data, indices), np.arange(len(indices))
        home.relabel(data)
        return home, indices

    def _home_of(self, data):
        """`DeviceData` or `Stream` of the structures of a data set."""
        key = id(data.structures)
        if key not in self._kept:
            # the structures are kept too, so that no others get their id
            self._kept[key] = data.structures, self._find_home(data)
        return self._kept[key][1]

    def _find_home(self, data):
        size = DeviceData.bytes_of(data)
        if self._resident + size <= DATA_SHARE * self._memory:
            try:
                found = DeviceData(self.device, data)
            except Exception as error:
                if not out_of_memory(error):
                    raise
            else:
                self._resident += size
                return found
        self.log(
            f"{len(data)} structures with their pairs take {size / 1e9:.1f} GB, more than the "
            "device has to spare: every batch is copied when its turn comes"
        )
        # the present batch and the next
        self._streamed += 2 * size / data.structures.n_atoms
        return Stream(self.device, len(data))

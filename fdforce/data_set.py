"""Structures with what is to be learnt of them and their pair list."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from fdforce.batch import make_batch
from fdforce.evaluation import groups, labels_of, take
from fdforce.losses import Target
from fdforce.mapped import BLOCK, converted, is_mapped, release
from fdforce.neighbors import TRAINING_SKIN, PairList
from fdforce.structures import Structures

READ = 64
"""Structures that are read from files before their pages are let go of. Linux maps 64 kB or more
around each place that is read, in each of a dozen arrays: with a million molecules a third of a
gigabyte, and with 512 of them more than twice that, for 7 µs less time on each."""


@dataclass(frozen=True)
class DataSet:
    """Structures with what is to be learnt of them and their pair list."""

    structures: Structures
    target: Target
    pairs: PairList

    def __len__(self) -> int:
        return len(self.structures)

    def batch(self, indices, n_chunks: int):
        """Batch of some structures and their labels."""
        batch = make_batch(self.structures, self.pairs, indices, n_chunks=n_chunks)
        return batch, take(self.target, self.structures, indices)

    def in_turn(self, batches) -> Iterator[np.ndarray]:
        """The batches, indices of structures, one after another.

        What was read of arrays in files does not stay in memory until the end.
        """
        if not is_mapped(self.structures.positions):
            yield from batches
            return
        read = 0
        try:
            for indices in batches:
                yield indices
                read += len(indices)
                if read >= READ:
                    self.release()
                    read = 0
        finally:  # also where the time of a run is up within an epoch
            self.release()

    def release(self) -> None:
        """Let go of the pages of arrays in files."""
        for part in (self.structures, self.target, self.pairs):
            release(*vars(part).values())


def training_skin(differences) -> float:
    """Skin (Å) that holds every displacement of a run: 6 epsilon a0, and that of the scan."""
    if differences.epsilon == "auto":
        return TRAINING_SKIN
    return max(TRAINING_SKIN, 6.1 * differences.epsilon * differences.length_scale)


def residual_target(structures: Structures, offsets=None, baseline=None, pairs=None) -> Target:
    """Labels less what is fixed in the model: reference energies and baseline.

    Differences of energies are small; without the large constant they keep their digits.

    Parameters
    ----------
    structures : Structures
    offsets : ndarray, shape (n_elements,), eV, optional
        Reference energies.
    baseline : object, optional
        With ``forward(batch)``.
    pairs : PairList, optional
        Needed with a baseline.

    Returns
    -------
    Target
    """
    target = labels_of(structures)
    energy, forces, virial = target.energy.copy(), target.forces, target.virial
    if baseline is not None:
        forces = converted(forces, forces.dtype)
        for indices in groups(structures, atoms=BLOCK):
            first, last = structures.offsets[[indices[0], indices[-1] + 1]]
            fixed = baseline.forward(make_batch(structures, pairs, indices))
            energy[indices] -= fixed.energy
            forces[first:last] -= fixed.forces
            virial[indices] -= fixed.virial
            release(forces, *vars(structures).values(), *vars(pairs).values())
    target = Target(energy, forces, virial, target.weight)
    return target if offsets is None else less_offsets(target, structures, offsets)


def less_offsets(target: Target, structures: Structures, offsets) -> Target:
    """Labels with energies less a constant per atom of each element, (n_elements,), eV."""
    return replace(target, energy=target.energy - structures.compositions @ offsets)

"""Structures with what is to be learnt of them and their pair list."""

from __future__ import annotations

from dataclasses import dataclass

from fdforce.batch import make_batch
from fdforce.evaluation import labels_of, take
from fdforce.losses import Target
from fdforce.neighbors import TRAINING_SKIN, PairList
from fdforce.structures import Structures


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
    energy, forces, virial = target.energy.copy(), target.forces.copy(), target.virial.copy()
    if offsets is not None:
        energy -= structures.compositions @ offsets
    if baseline is not None:
        fixed = baseline.forward(make_batch(structures, pairs))
        energy -= fixed.energy
        forces -= fixed.forces
        virial -= fixed.virial
    return Target(energy, forces, virial, target.weight)

"""Gradient of a batch in which only some structures have forces, at no cost for the others.

A structure without a force or stress label has no direction to be displaced along. Its gradient is
that of its energy alone, so it needs neither forces nor replicas. The two kinds are therefore
evaluated apart, behind the calls by which `fdforce.gradient.loss_gradient` knows models and
batches; the loss sees the batch as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from fdforce.batch import Batch, atoms_of, make_batch
from fdforce.evaluation import take
from fdforce.gradient import GradientStep, loss_gradient
from fdforce.mapped import pieces


def force_aware_gradient(model, data, indices, loss, n_chunks: int = 1, **options) -> GradientStep:
    """`loss_gradient` of some structures of a data set, at the cost of what labels they have.

    Parameters
    ----------
    model : EnergyModel
    data : DataSet
    indices : sequence of int
        Structures of the batch.
    loss : callable
        ``loss(batch, energy, forces, virial, target)``.
    n_chunks : int
        Groups of atoms for the threads.
    **options
        Of `loss_gradient`.

    Returns
    -------
    GradientStep
        Its forces are 0 where they were not needed.
    """
    structures, indices = data.structures, np.asarray(indices)
    target = take(data.target, structures, indices)
    moves = with_force_labels(target, structures.counts[indices])
    if moves.all():
        batch = make_batch(structures, data.pairs, indices, n_chunks=n_chunks)
    else:
        batch, model = make_mixed_batch(data, indices, moves, n_chunks), MixedModel(model)
    return loss_gradient(model, batch, lambda *result: loss(*result, target), **options)


def with_force_labels(target, counts) -> np.ndarray:
    """Whether a structure has a force or a stress label, shape (S,)."""
    of_atoms, of_cells = _labelled(target.forces), _labelled(target.virial)
    return np.logical_or.reduceat(of_atoms, np.cumsum(counts) - counts) | of_cells


def _labelled(values):
    """Which rows hold a number."""
    axes = tuple(range(1, values.ndim))
    return np.concatenate([~np.isnan(rows).all(axis=axes) for rows in pieces(values)])


def make_mixed_batch(data, indices, moves, n_chunks: int = 1) -> MixedBatch:
    """Structures of a data set in two parts, those in `moves` (S,) and the others."""
    structures, pairs = data.structures, data.pairs
    offsets, atoms = atoms_of(structures.offsets, indices)
    moving, still = (
        make_batch(structures, pairs, part, n_chunks=n_chunks) if len(part) else None
        for part in (indices[moves], indices[~moves])
    )
    return MixedBatch(
        offsets=offsets,
        structure=np.repeat(np.arange(len(indices)), np.diff(offsets)),
        species=structures.species[atoms],
        volumes=structures.volumes[indices],
        cutoff=pairs.cutoff,
        moves=moves,
        moving=moving,
        # the mark of a displaced batch says that forces will not be asked for
        still=replace(still, displacement=True),
    )


@dataclass(frozen=True, eq=False)
class MixedBatch:
    """A batch in two parts, one of which is displaced.

    Attributes
    ----------
    offsets, structure, species, volumes, cutoff
        Of the whole batch, as in `Batch`.
    moves : ndarray, shape (S,)
        Which structures are in `moving`.
    moving : Batch or None
        With its replicas after `displaced`.
    still : Batch
    displacement : bool
    """

    offsets: np.ndarray
    structure: np.ndarray
    species: np.ndarray
    volumes: np.ndarray
    cutoff: float
    moves: np.ndarray
    moving: Batch | None
    still: Batch
    displacement: bool = False

    @property
    def counts(self) -> np.ndarray:
        """Atoms of each structure, shape (S,)."""
        return np.diff(self.offsets)

    def displaced(self, direction, eta, strain=None) -> MixedBatch:
        """Replicas of the part that moves; see `Batch.displaced`."""
        moving = self.moving.displaced(
            direction[self.moves[self.structure]],
            np.atleast_2d(eta)[:, self.moves],
            None if strain is None else strain[self.moves],
        )
        return replace(self, moving=moving, displacement=True)


class MixedState(NamedTuple):
    """States of the two parts; energy of the whole batch, replica after replica."""

    energy: np.ndarray
    moving: Any
    still: Any
    batch: MixedBatch


class MixedModel:
    """An `EnergyModel` of mixed batches: what stays still is evaluated once."""

    def __init__(self, model):
        self.model, self._still = model, None

    def forward(self, batch: MixedBatch) -> MixedState:
        """Energies, shape (n_replicas * S,)."""
        if not batch.displacement:
            self._still = self.model.forward(batch.still)
        still, moving = self._still, None
        energies = [still.energy]
        if batch.moving is not None:
            moving = self.model.forward(batch.moving)
            energies.append(moving.energy)
        n_replicas = 1 if moving is None else batch.moving.n_replicas
        energy = np.empty((n_replicas, len(batch.moves)), np.result_type(*energies))
        energy[:, ~batch.moves] = still.energy
        if moving is not None:
            energy[:, batch.moves] = moving.energy.reshape(n_replicas, -1)
        return MixedState(energy.ravel(), moving, still, batch)

    def forces(self, state: MixedState):
        """Forces and virials of the part that moves, 0 elsewhere."""
        batch = state.batch
        forces = np.zeros((len(batch.structure), 3))
        virial = np.zeros((len(batch.moves), 3, 3))
        if state.moving is not None:
            moving_atoms = batch.moves[batch.structure]
            forces[moving_atoms], virial[batch.moves] = self.model.forces(state.moving)
        return forces, virial

    def gradient(self, state: MixedState, weights):
        """``sum_s weights[s] dE_s/dtheta``; weights of replicas of what stays still add up."""
        moves = state.batch.moves
        weights = np.reshape(weights, (-1, len(moves)))
        # along a vanishing direction the weights of the complex step are real
        gradient = self.model.gradient(state.still, np.real(weights[:, ~moves].sum(axis=0)))
        if state.moving is not None:
            gradient = gradient + self.model.gradient(state.moving, weights[:, moves].ravel())
        return gradient

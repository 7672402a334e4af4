"""Predictions of a model on a data set, and their errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from fdforce.batch import Batch, atoms_of, make_batch
from fdforce.losses import Target, error_sums
from fdforce.mapped import BLOCK, blocks, new_array, release
from fdforce.neighbors import build_pairs
from fdforce.threads import limit_threads

BATCH_ATOMS = 1000
"""Atoms in a batch of predictions: its arrays stay in the processor's cache."""


@dataclass(frozen=True)
class Prediction:
    """Energies (S,) eV; forces (N, 3) eV/Å; stresses (S, 3, 3) eV/Å^3; atom energies (N,) eV.

    Stresses are NaN where a structure is not periodic in three directions.
    """

    energies: np.ndarray
    forces: np.ndarray
    stresses: np.ndarray
    atom_energies: np.ndarray


def labels_of(structures) -> Target:
    """Labels of a data set as the targets of a loss (virial = -volume * stress)."""
    volumes, stresses = structures.volumes, structures.stresses
    virial = new_array(stresses, stresses.shape, stresses.dtype)
    for rows in blocks(len(virial)):
        virial[rows] = -volumes[rows, None, None] * stresses[rows]
        release(virial, stresses)
    return Target(structures.energies, structures.forces, virial, structures.weights)


def take(target: Target, structures, indices) -> Target:
    """Labels of some structures, atoms laid end to end."""
    _, atoms = atoms_of(structures.offsets, indices)
    return Target(
        target.energy[indices], target.forces[atoms], target.virial[indices], target.weight[indices]
    )


def groups(structures, indices=None, atoms: int = BATCH_ATOMS) -> Iterator[np.ndarray]:
    """Split structures into batches of so many atoms, a structure at least."""
    indices = np.arange(len(structures)) if indices is None else np.asarray(indices)
    before = np.cumsum(structures.counts[indices]) // atoms
    yield from np.split(indices, np.flatnonzero(np.diff(before)) + 1)


def batches_of(structures, pairs, threads: int = 1) -> Iterator[Batch]:
    """The batches of `groups`; of arrays in files, no more than one is in memory."""
    for indices in groups(structures):
        yield make_batch(structures, pairs, indices, n_chunks=threads)
        release(*vars(structures).values(), *vars(pairs).values())


def predict(
    model, structures, *, pairs=None, threads: int = 0, progress: Callable | None = None,
    device: str = "cpu",
) -> Prediction:  # fmt: skip
    """Energies, forces and stresses of every structure.

    Parameters
    ----------
    model : EnergyModel
    structures : Structures
        With the species of the model, in its order.
    pairs : PairList, optional
        Built here when absent.
    threads : int
        0: all cores.
    progress : callable, optional
        Wraps the iterator over structures while pairs are listed.
    device : {"cpu", "cuda"}

    Returns
    -------
    Prediction
    """
    with limit_threads(threads) as threads:
        if pairs is None:
            pairs = build_pairs(
                structures, model.cutoff, skin=0.0, threads=threads, progress=progress
            )
        if device == "cuda":
            from fdforce.cuda.prediction import predict_on_device

            return predict_on_device(model, structures, pairs)
        return _predict(model, structures, pairs, threads)


def _predict(model, structures, pairs, threads) -> Prediction:
    energies, forces, virials, atom_energies = [], [], [], []
    for batch in batches_of(structures, pairs, threads):
        state = model.forward(batch)
        force, virial = model.forces(state)
        energies.append(state.energy)
        forces.append(force)
        virials.append(virial)
        atom_energies.append(state.atom_energy)
    return Prediction(
        np.concatenate(energies),
        np.concatenate(forces),
        -np.concatenate(virials) / structures.volumes[:, None, None],
        np.concatenate(atom_energies),
    )


def parts_of(structures) -> Iterator[tuple[slice, slice]]:
    """Slices of structures and of their atoms, about `BLOCK` atoms or one structure at a time."""
    for indices in groups(structures, atoms=BLOCK):
        first, last = int(indices[0]), int(indices[-1]) + 1
        yield slice(first, last), slice(*structures.offsets[[first, last]].tolist())


def accumulate(sums: dict, errors: dict) -> None:
    """Add sums of errors of a batch to those of others."""
    for quantity, values in errors.items():
        sums[quantity] = sums.get(quantity, 0) + values


def errors(structures, prediction: Prediction) -> dict:
    """Root-mean-square and mean absolute errors of a prediction.

    Returns
    -------
    dict
        Keys of ``fdforce evaluate --json``: energies in eV/atom, force components in eV/Å, the six
        stress components in eV/Å^3; None where there are no labels.
    """
    sums: dict = {}
    for of_structures, of_atoms in parts_of(structures):
        part = structures.select(of_structures)
        predicted = Prediction(
            prediction.energies[of_structures],
            prediction.forces[of_atoms],
            prediction.stresses[of_structures],
            prediction.atom_energies[of_atoms],
        )
        accumulate(sums, _error_sums(part, predicted))
        release(*vars(structures).values(), *vars(prediction).values())
    return {"n_structures": len(structures), "n_atoms": structures.n_atoms, **summarise(sums)}


def _error_sums(structures, prediction: Prediction) -> dict:
    """Sums of the errors, as of `fdforce.losses.error_sums`."""
    target = labels_of(structures)
    counts = structures.counts
    virial = -structures.volumes[:, None, None] * prediction.stresses

    def difference(predicted, label):
        return np.where(np.isnan(label), 0.0, predicted - label)

    return error_sums(
        structures,
        difference(prediction.energies, target.energy) / counts,
        difference(prediction.forces, target.forces),
        difference(virial, target.virial) / counts[:, None, None],
        target,
    )


def summarise(sums: dict) -> dict:
    """Errors from sums of squares, of absolutes and counts (`fdforce.losses.error_sums`)."""
    summary = {}
    for quantity, (squares, absolutes, count) in sums.items():
        summary[f"{quantity}_rmse"] = float(np.sqrt(squares / count)) if count else None
        summary[f"{quantity}_mae"] = float(absolutes / count) if count else None
    return summary


def evaluate(model, structures, **options) -> dict:
    """Errors of a model on labelled structures.

    Parameters
    ----------
    model : EnergyModel
    structures : Structures
    **options
        Of `predict`.

    Returns
    -------
    dict
        See `errors`.
    """
    return errors(structures, predict(model, structures, **options))

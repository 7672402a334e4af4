"""How long energies, forces and a training gradient take, and how much memory."""

from __future__ import annotations

import resource
import sys
import time

import numpy as np

from fdforce.config import Config
from fdforce.data_set import DataSet, residual_target
from fdforce.gradient import loss_gradient
from fdforce.losses import Target, make_loss
from fdforce.neighbors import TRAINING_SKIN, build_pairs
from fdforce.optimizers import with_numbers
from fdforce.problem import add_baseline, new_model, without_offsets

ATOMS = 1500
"""Atoms in the batches that are timed, or all there are."""
LEAST_ROUNDS, MOST_ROUNDS, SECONDS = 5, 50, 4.0
"""Rounds over the three kinds of work, and the time after which there are enough of them."""


def untrained_model(config: Config, structures):
    """A model with random parameters, its features standardised on a data set.

    Parameters
    ----------
    config : Config
    structures : Structures

    Returns
    -------
    EnergyModel
    """
    from fdforce.batch import make_batch

    batch_size = with_numbers(config.optimizer, structures).batch_size
    some = structures.select(_first_structures(structures, batch_size))
    model = new_model(config, structures.elements)
    pairs = build_pairs(some, model.cutoff, skin=TRAINING_SKIN)
    add_baseline(config, model, some, pairs)
    model.standardise([make_batch(some, pairs)])
    return model


def benchmark(
    model,
    structures,
    *,
    stencil: str = "central",
    batch_size: int = 16,
    threads: int = 1,
    epsilon: float = 1e-5,
    device: str = "cpu",
) -> dict:
    """Time energies, forces and the full energy and force gradient, as training computes them.

    The three are timed in turn on every batch, round after round, and the least time of each
    counts: what else the machine does only ever adds. Pair lists and batches are made before.

    Parameters
    ----------
    model : EnergyModel
    structures : Structures
        Labels are not needed.
    stencil : str
    batch_size : int
        Structures in a batch.
    threads : int
        Within `fdforce.threads.limit_threads`.
    epsilon : float
    device : {"cpu", "cuda"}
        On a GPU a batch is chosen on the device as a part of every time.

    Returns
    -------
    dict
        Keys of ``fdforce benchmark --json``: times in microseconds per atom, memory in MB (the
        largest the process has had).
    """
    structures = structures.select(_first_structures(structures, batch_size))
    data, loss = _labelled(model, structures, threads)
    order = np.arange(len(structures))
    batches = np.array_split(order, -(-len(order) // batch_size))
    bare = without_offsets(model)
    if device == "cuda":
        from fdforce.cuda.timing import work_on_device

        work = work_on_device(bare, data, loss, epsilon=epsilon, stencil=stencil)
    else:
        work, batches = _work(bare, data, loss, batches, threads, epsilon, stencil)
    least = _least_times(work, batches)
    n_atoms = structures.n_atoms
    neighbors = build_pairs(structures, model.cutoff, skin=0.0, threads=threads).mean_neighbors
    return {
        "n_atoms": n_atoms,
        "mean_neighbors": neighbors,
        "device": device,
        "precision": str(model.dtype),
        "threads": threads,
        **{f"{kind}_us_per_atom": 1e6 * seconds / n_atoms for kind, seconds in least.items()},
        "gradient_over_forces": least["gradient"] / least["forces"],
        "peak_memory_mb": peak_memory(),
    }


def peak_memory() -> float:
    """Most memory that the process has had so far, MB."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (1e6 if sys.platform == "darwin" else 1e6 / 1024)


def _first_structures(structures, batch_size):
    """As many whole batches as hold some `ATOMS`, one at least."""
    number = int(np.searchsorted(structures.offsets, ATOMS))
    number = max(-(-number // batch_size) * batch_size, 1)
    return np.arange(min(number, len(structures)))


def _labelled(model, structures, threads):
    """Data and loss like those of training; a label that is absent counts as zero."""
    pairs = build_pairs(structures, model.cutoff, skin=TRAINING_SKIN, threads=threads)
    target = residual_target(structures, model.reference_energies, model.baseline, pairs)
    target = Target(
        np.nan_to_num(target.energy), np.nan_to_num(target.forces), target.virial, target.weight
    )
    loss = make_loss("squared", mean_atoms=structures.n_atoms / len(structures))
    return DataSet(structures, target, pairs), loss


def _work(bare, data, loss, batches, threads, epsilon, stencil):
    """Functions of a batch by name, and the batches, made beforehand with their labels."""
    work = {
        "energy": lambda batch, labels: bare.forward(batch),
        "forces": lambda batch, labels: bare.forces(bare.forward(batch)),
        "gradient": lambda batch, labels: loss_gradient(
            bare, batch, lambda *result: loss(*result, labels), epsilon=epsilon, stencil=stencil
        ),
    }
    by_batch = {kind: lambda made, run=run: run(*made) for kind, run in work.items()}
    return by_batch, [data.batch(indices, threads) for indices in batches]


def _least_times(work, batches):
    """Seconds over all batches, of each kind of work: the sum of the least time of every batch."""
    for run in work.values():  # compile
        run(batches[0])
    least = {kind: np.full(len(batches), np.inf) for kind in work}
    began, rounds = time.perf_counter(), 0
    while rounds < LEAST_ROUNDS or (rounds < MOST_ROUNDS and time.perf_counter() - began < SECONDS):
        for number, batch in enumerate(batches):
            for kind, run in work.items():
                start = time.perf_counter()
                run(batch)
                least[kind][number] = min(least[kind][number], time.perf_counter() - start)
        rounds += 1
    return {kind: float(seconds.sum()) for kind, seconds in least.items()}

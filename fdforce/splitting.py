"""Setting part of the structures aside without letting copies or neighbouring frames leak."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fdforce.errors import ConfigError
from fdforce.mapped import BLOCK, blocks, release

if TYPE_CHECKING:
    from fdforce.structures import Structures

SAME = 1e-6
"""Geometries that differ by less than this (Å) in every number are the same."""


def split_structures(
    structures: Structures, fraction: float, *, how: str = "random", seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Divide a set in two.

    Exact duplicates (`find_duplicates`) always land on the same side.

    Parameters
    ----------
    structures : Structures
    fraction : float
        Share of the structures to hold out, between 0 and 1.
    how : "random" or "trajectory"
        "trajectory" holds out whole trajectories (``structures.trajectories``), taken in random
        order; structures without a trajectory give the last contiguous share of their file.
    seed : int

    Returns
    -------
    kept, held : ndarray of int
        Indices in rising order; together, every structure once.

    Raises
    ------
    ConfigError
        If a side is left empty, or `how` is not one of the two.
    """
    if not 0.0 <= fraction <= 1.0:
        raise ConfigError(f"cannot hold out a fraction of {fraction}; choose one from 0 to 1")
    rng = np.random.default_rng(seed)
    groups = find_duplicates(structures)
    if how == "random":
        held = _whole_groups(groups, fraction, rng)
    elif how == "trajectory":
        held = _ends_of_trajectories(structures, fraction, rng)
        # A copy of a kept structure tells nothing new when held out.
        held &= ~np.isin(groups, groups[~held])
    else:
        raise ConfigError(f"data.split is '{how}'; choose from random, trajectory")
    if held.all() or not held.any():
        raise ConfigError(
            f"holding out {fraction:g} of {len(structures)} structures (split '{how}') leaves the "
            f"{'kept' if held.all() else 'held-out'} part empty; change the fraction or the split"
        )
    return np.flatnonzero(~held), np.flatnonzero(held)


def _whole_groups(groups: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Return a mask of about `fraction` of the members, made of whole groups in random order."""
    sizes = np.bincount(groups)
    target = np.floor(fraction * groups.size + 0.5)
    chosen = np.zeros(sizes.size, dtype=bool)
    count = 0
    for group in rng.permutation(sizes.size):
        if count >= target:
            break
        if abs(count + sizes[group] - target) < abs(count - target):
            chosen[group] = True
            count += sizes[group]
    return chosen[groups]


def _ends_of_trajectories(structures, fraction: float, rng: np.random.Generator) -> np.ndarray:
    names = np.array(structures.trajectories)
    held = np.zeros(len(structures), dtype=bool)
    named = np.flatnonzero(names != "")
    if named.size:
        _, group = np.unique(names[named], return_inverse=True)
        held[named] = _whole_groups(group, fraction, rng)
        if 0.0 < fraction < 1.0 and group.max() > 0 and not held.any():
            # Every trajectory is longer than twice the share asked for: the shortest is nearest.
            held[named] = group == np.bincount(group).argmin()
    files = np.array([label.rpartition("[")[0] for label in structures.labels])
    for name in np.unique(files[names == ""]):
        members = np.flatnonzero((files == name) & (names == ""))
        n_held = int(np.floor(fraction * members.size + 0.5))
        held[members[members.size - n_held :]] = True
    return held


def find_duplicates(structures: Structures) -> np.ndarray:
    """Number the distinct geometries.

    Two structures are the same if species, periodicity, positions and cell agree, in the order
    given and to 1e-6 Å; labels do not matter.

    Parameters
    ----------
    structures : Structures

    Returns
    -------
    ndarray, shape (n_structures,), int64
        Equal for equal geometries, numbered from 0 in order of first appearance.
    """
    alike: dict[bytes, list[int]] = {}
    bounds, all_species = structures.offsets, np.asarray(structures.species)
    periodic = np.asarray(structures.periodic)
    for s in range(len(structures)):
        species = all_species[bounds[s] : bounds[s + 1]].tobytes()
        alike.setdefault(species + periodic[s].tobytes(), []).append(s)
    pairs = [_same_geometries(structures, np.array(m)) for m in alike.values() if len(m) > 1]
    first, second = np.concatenate([np.empty((2, 0), dtype=np.int64), *pairs], axis=1)
    n = len(structures)
    graph = coo_array((np.ones(first.size), (first, second)), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    _, appearance, group = np.unique(component, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(appearance))[group]


def _same_geometries(structures, members: np.ndarray) -> np.ndarray:
    """Return pairs (2, n_pairs) of equal geometries among structures with the same species."""
    n_atoms = structures.offsets[members[0] + 1] - structures.offsets[members[0]]

    def numbers_of(some):
        """Positions and cell of some of the members, a row for each."""
        start = structures.offsets[members[some]]
        positions = structures.positions[start[:, None] + np.arange(n_atoms)]
        numbers = np.concatenate([positions, structures.cells[members[some]]], axis=1)
        release(structures.positions)
        return numbers.reshape(len(start), -1)

    # Equal geometries have nearly equal projections on any direction; rounding and hashing
    # instead would miss those that straddle a rounding boundary. The weights sum to one, so the
    # projections differ by no more than the numbers do.
    weights = np.random.default_rng(0).dirichlet(np.ones(3 * n_atoms + 9))
    size = -(-BLOCK // n_atoms)
    key = np.concatenate([numbers_of(part) @ weights for part in blocks(members.size, size)])
    order = np.argsort(key, kind="stable")
    pairs = [np.empty((2, 0), dtype=np.int64)]
    single = np.ones(members.size, dtype=bool)
    for lag in range(1, members.size):
        near = key[order[lag:]] - key[order[:-lag]] < 2.0 * SAME
        if not near.any():
            break
        # One link per structure is enough to join a chain of copies.
        near = np.flatnonzero(near & single[order[:-lag]])
        a, b = order[near], order[near + lag]
        same = np.empty(near.size, dtype=bool)
        for part in blocks(near.size, size):
            same[part] = np.abs(numbers_of(a[part]) - numbers_of(b[part])).max(axis=1) < SAME
        single[a[same]] = False
        pairs.append(np.stack([members[a[same]], members[b[same]]]))
    return np.concatenate(pairs, axis=1)

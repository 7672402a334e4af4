import numba
import numpy as np
import pytest

from fdforce.batch import make_batch
from fdforce.errors import FdforceError
from fdforce.neighbors import build_pairs
from fdforce.structures import read_structures
from tests.checks import symmetric
from tests.systems import SYSTEMS

NAMES = list(SYSTEMS)
CUTOFF, SKIN = 4.0, 0.3


def data_set():
    structures, _ = read_structures([SYSTEMS[name]() for name in NAMES])
    return structures, build_pairs(structures, CUTOFF, skin=SKIN)


def separations(batch):
    """Row and separation of every pair of the first replica, straight from the definition."""
    n_species = len(batch.species_start) - 1
    row, found = [], []
    for r, (begin, end) in enumerate(zip(batch.row_begin, batch.row_end)):
        i = r // n_species
        s = batch.structure[i]
        for p in range(begin, end):
            j = batch.offsets[s] + batch.neighbor[p]
            shift = batch.shift[:, p] @ batch.cells[s]
            assert batch.species[j] == r % n_species
            row.append(r)
            found.append(batch.positions[j] + shift - batch.positions[i])
    return np.array(row, dtype=int), np.reshape(found, (-1, 3))


@pytest.mark.parametrize("indices", [[4], [7, 3, 0, 9], [5, 5], list(range(len(NAMES)))[::-1]])
def test_any_order_of_structures_equals_separate_batches(indices):
    structures, pairs = data_set()
    batch = make_batch(structures, pairs, indices)
    assert len(batch) == len(indices)
    assert batch.n_atoms == batch.counts.sum()
    assert (batch.cutoff, batch.skin) == (CUTOFF, SKIN)
    n_species, at = len(structures.elements), 0
    row, d = separations(batch)
    for k, s in enumerate(indices):
        alone = make_batch(
            structures.select([s]), build_pairs(structures.select([s]), CUTOFF, skin=SKIN)
        )
        atoms = slice(batch.offsets[k], batch.offsets[k + 1])
        assert (batch.positions[atoms] == alone.positions).all()
        assert (batch.species[atoms] == alone.species).all()
        assert (batch.structure[atoms] == k).all()
        assert (batch.cells[k] == alone.cells[0]).all()
        assert batch.volumes[k] == pytest.approx(alone.volumes[0], rel=1e-15, nan_ok=True)
        row_alone, d_alone = separations(alone)
        mine = (row >= n_species * atoms.start) & (row < n_species * atoms.stop)
        assert (row[mine] - n_species * atoms.start == row_alone).all()
        assert (d[mine] == d_alone).all()
        at += mine.sum()
    assert at == len(row)


def test_all_structures_are_the_default():
    structures, pairs = data_set()
    batch = make_batch(structures, pairs)
    assert (batch.positions == structures.positions).all()
    assert (batch.offsets == structures.offsets).all()
    assert np.isnan(batch.volumes).tolist() == (~structures.periodic.all(axis=1)).tolist()


@pytest.mark.parametrize("n_replicas", [0, 1, 3])
def test_rows_are_sorted_by_species_and_replica(n_replicas):
    structures, pairs = data_set()
    batch = make_batch(structures, pairs, [7, 8, 9])
    species = batch.species
    if n_replicas:
        batch = batch.displaced(np.ones((len(species), 3)), np.full((n_replicas, 3), 1e-3))
        species = np.tile(species, n_replicas)
    assert sorted(batch.place) == list(range(batch.n_atoms))
    atom_of_row = np.argsort(batch.place)
    for z in range(len(structures.elements)):
        start, stop = batch.species_start[z : z + 2]
        assert (species[atom_of_row[start:stop]] == z).all()
        assert stop - start == np.count_nonzero(species == z)
        # atoms are numbered replica after replica, so this says sorted by replica as well
        assert (np.diff(atom_of_row[start:stop]) > 0).all()


@pytest.mark.parametrize("n_chunks", [1, 2, 4, 1000])
def test_chunks_cover_every_atom_once_and_share_the_pairs(n_chunks):
    structures, pairs = data_set()
    batch = make_batch(structures, pairs, n_chunks=n_chunks)
    assert len(batch.chunks) == n_chunks + 1
    assert (batch.chunks[0], batch.chunks[-1]) == (0, batch.n_atoms)
    assert (np.diff(batch.chunks) >= 0).all()
    if n_chunks <= 4:
        row, _ = separations(batch)
        counts = np.bincount(row // (len(batch.species_start) - 1), minlength=batch.n_atoms) + 10
        shares = np.add.reduceat(counts, batch.chunks[:-1])
        # the bounds are rounded to whole atoms
        assert np.abs(shares - counts.sum() / n_chunks).max() <= counts.max()


def moving(batch, seed=0):
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=batch.positions.shape)
    return direction, symmetric(rng, len(batch)), rng


@pytest.mark.parametrize("n_replicas", [1, 2, 4])
def test_displaced_positions_and_cells(n_replicas):
    structures, pairs = data_set()
    batch = make_batch(structures, pairs, [8, 1, 6, 9])
    direction, strain, rng = moving(batch)
    eta = 1e-3 * rng.uniform(-1, 1, size=(n_replicas, len(batch)))
    moved = batch.displaced(direction, eta, strain)
    assert moved.displacement
    assert moved.n_replicas == n_replicas
    assert len(moved) == n_replicas * len(batch)
    assert (moved.counts == np.tile(batch.counts, n_replicas)).all()
    assert moved.volumes == pytest.approx(
        np.tile(batch.volumes, n_replicas), rel=1e-15, nan_ok=True
    )
    for k in range(n_replicas):
        for s in range(len(batch)):
            here = slice(*batch.offsets[s : s + 2])
            there = slice(*moved.offsets[k * len(batch) + s :][:2])
            stretch = np.eye(3) + eta[k, s] * strain[s]
            expected = batch.positions[here] @ stretch + eta[k, s] * direction[here]
            # the same sums in another order
            assert moved.positions[there] == pytest.approx(expected, rel=0, abs=1e-14)
            assert (moved.structure[there] == k * len(batch) + s).all()
            cell = moved.cells[k * len(batch) + s]
            assert cell == pytest.approx(batch.cells[s] @ stretch, rel=0, abs=1e-14)


def test_strain_acts_on_pairs_across_the_boundary():
    structures, pairs = data_set()
    batch = make_batch(structures, pairs, [6])
    _, strain, _ = moving(batch)
    moved = batch.displaced(np.zeros_like(batch.positions), np.array([1e-3]), strain)
    (_, before), (_, after) = separations(batch), separations(moved)
    expected = before @ (np.eye(3) + 1e-3 * strain[0])
    assert after == pytest.approx(expected, rel=0, abs=1e-13)
    assert np.abs(after - before).max() > 1e-4


def test_without_strain_the_cell_stays():
    structures, pairs = data_set()
    batch = make_batch(structures, pairs, [8, 6])
    direction, _, _ = moving(batch)
    moved = batch.displaced(direction, np.array([[1e-4, 2e-4], [-1e-4, -2e-4]]))
    assert (moved.cells == np.tile(batch.cells, (2, 1, 1))).all()
    step = np.repeat([1e-4, 2e-4], batch.counts)[:, None]
    assert moved.positions[: batch.n_atoms] == pytest.approx(batch.positions + step * direction)


def test_complex_steps_make_complex_batches():
    structures, pairs = data_set()
    batch = make_batch(structures, pairs, [8])
    direction, strain, _ = moving(batch)
    moved = batch.displaced(direction, np.array([[1e-20j]]), strain)
    assert moved.positions.dtype == moved.cells.dtype == np.complex128
    assert (moved.positions.real == batch.positions).all()
    expected = direction + batch.positions @ strain[0]
    assert moved.positions.imag == pytest.approx(1e-20 * expected, rel=1e-12, abs=1e-34)


@pytest.mark.parametrize("strained", [False, True])
@pytest.mark.parametrize("n_replicas", [1, 2])
def test_kernels_are_not_compiled_again_for_replicas(n_replicas, strained):
    structures, pairs = data_set()
    batch = make_batch(structures, pairs, [8])
    direction, strain, _ = moving(batch)
    eta = np.full((n_replicas, 1), 1e-4)
    moved = batch.displaced(direction, eta, strain if strained else None)
    names = ("positions", "cells", "structure", "species", "offsets", "place", "chunks")
    for name in (*names, "row_begin", "row_end", "neighbor", "shift"):
        before, after = getattr(batch, name), getattr(moved, name)
        assert numba.typeof(before) == numba.typeof(after), name


def test_skin_is_guarded_for_displacements():
    structures, pairs = data_set()
    batch = make_batch(structures, pairs, [8])
    direction = np.zeros((batch.n_atoms, 3))
    direction[3] = [0.6, 0.0, 0.8]
    # two atoms may both move: half the skin for each
    batch.displaced(direction, np.array([0.499 * SKIN]))
    message = r"changes distances by up to 0\.302 Å, but the pair list has a skin of 0\.3 Å"
    with pytest.raises(FdforceError, match=message) as caught:
        batch.displaced(direction, np.array([-0.503 * SKIN]))
    assert "take a smaller epsilon" in str(caught.value)


def test_skin_is_guarded_for_strains():
    structures, pairs = data_set()
    batch = make_batch(structures, pairs, [8])
    nothing, strain = np.zeros((batch.n_atoms, 3)), np.diag([0.2, -1.0, 0.3])[None]
    batch.displaced(nothing, np.array([0.99 * SKIN / CUTOFF]), strain)
    with pytest.raises(FdforceError, match="take a smaller epsilon"):
        batch.displaced(nothing, np.array([1.01 * SKIN / CUTOFF]), strain)


def test_displaced_batch_cannot_be_displaced():
    structures, pairs = data_set()
    batch = make_batch(structures, pairs, [8])
    direction, _, _ = moving(batch)
    moved = batch.displaced(direction, np.array([1e-3]))
    with pytest.raises(FdforceError, match="only an undisplaced batch"):
        moved.displaced(direction, np.array([1e-3]))

import numpy as np
import pytest
from ase import Atoms

from fdforce.neighbors import build_pairs
from fdforce.structures import read_structures
from tests.naive.chebyshev import neighbours
from tests.systems import SYSTEMS

CUTOFF = 4.7

every_system = pytest.mark.parametrize("system", SYSTEMS)


def packed(*frames, **options):
    return read_structures(list(frames), **options)[0]


def rows(structures, pairs):
    """Sets of (neighbour, shift) by (atom, species of the neighbour)."""
    return [
        {
            (int(pairs.neighbor[p]), *map(int, pairs.shift[:, p]))
            for p in range(pairs.row_start[row], pairs.row_start[row + 1])
        }
        for row in range(structures.n_atoms * pairs.n_species)
    ]


def separations(structures, pairs, s=0):
    """d_ij = r_j + shift @ cell - r_i of structure s, with the row of each pair."""
    first, last = structures.offsets[s], structures.offsets[s + 1]
    start = pairs.row_start[first * pairs.n_species : last * pairs.n_species + 1]
    row = np.repeat(np.arange(len(start) - 1), np.diff(start))
    chosen = slice(start[0], start[-1])
    positions = structures.positions[first:last]
    i, j = row // pairs.n_species, pairs.neighbor[chosen]
    moved = positions[j] + pairs.shift[:, chosen].T @ structures.cells[s]
    return row, moved - positions[i]


@every_system
def test_pairs_are_those_of_brute_force(system):
    atoms = SYSTEMS[system]()
    structures = packed(atoms)
    pairs = build_pairs(structures, CUTOFF, skin=0.0)
    found = rows(structures, pairs)
    expected = [set() for _ in found]
    for i in range(len(atoms)):
        for j, shift, _ in neighbours(atoms, i, CUTOFF):
            expected[i * pairs.n_species + structures.species[j]].add((j, *shift))
    assert found == expected
    # every pair once
    assert sum(map(len, found)) == len(pairs.neighbor) == pairs.row_start[-1]


@every_system
def test_shifts_give_the_separations(system):
    atoms = SYSTEMS[system]()
    structures = packed(atoms)
    pairs = build_pairs(structures, CUTOFF, skin=0.0)
    row, d = separations(structures, pairs)
    for i in range(len(atoms)):
        expected = sorted(tuple(x) for _, _, x in neighbours(atoms, i, CUTOFF))
        found = sorted(tuple(x) for x in d[row // pairs.n_species == i])
        # sums of a few coordinates below 30 Å: 1e-14
        assert np.reshape(found, (-1, 3)) == pytest.approx(np.reshape(expected, (-1, 3)), abs=1e-12)


@every_system
def test_rows_are_sorted_by_species_and_distance(system):
    structures = packed(SYSTEMS[system](), elements=["Cu", "Ti", "O", "H", "C"])
    pairs = build_pairs(structures, CUTOFF)
    row, d = separations(structures, pairs)
    assert (structures.species[pairs.neighbor] == row % 5).all()
    distance = np.linalg.norm(d, axis=1)
    within = np.diff(row) == 0
    # the key that is sorted holds the row as well: distances to 1e-12
    assert (np.diff(distance)[within] > -1e-10).all()
    if len(structures.positions) > 3:
        assert within.any()


@every_system
def test_pairs_come_from_both_ends(system):
    structures = packed(SYSTEMS[system]())
    pairs = build_pairs(structures, CUTOFF)
    row, _ = separations(structures, pairs)
    there = {
        (int(i), int(j), *map(int, s))
        for i, j, s in zip(row // pairs.n_species, pairs.neighbor, pairs.shift.T)
    }
    assert there == {(j, i, -a, -b, -c) for i, j, a, b, c in there}
    assert (0, 0, 0, 0, 0) not in there


def test_skin_keeps_the_pairs_beyond_the_cutoff():
    structures = packed(SYSTEMS["two_species"]())
    bare = build_pairs(structures, CUTOFF, skin=0.0)
    thick = build_pairs(structures, CUTOFF, skin=0.6)
    assert thick.cutoff == CUTOFF
    assert thick.skin == 0.6
    wide = build_pairs(structures, CUTOFF + 0.6, skin=0.0)
    assert rows(structures, thick) == rows(structures, wide)
    assert len(thick.neighbor) > len(bare.neighbor)
    for few, many in zip(rows(structures, bare), rows(structures, thick)):
        assert few <= many


def test_pair_on_the_cutoff_is_listed_with_any_skin():
    structures = packed(SYSTEMS["atom_on_cutoff"]())
    assert len(build_pairs(structures, 4.0, skin=1e-9).neighbor) == 2
    assert len(build_pairs(structures, 4.0 - 1e-9, skin=0.0).neighbor) == 0


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_nothing(threads):
    structures = packed(*[make() for make in SYSTEMS.values()] * 3)
    one = build_pairs(structures, CUTOFF, threads=1)
    many = build_pairs(structures, CUTOFF, threads=threads)
    for name in ("row_start", "neighbor", "shift"):
        assert (getattr(one, name) == getattr(many, name)).all()


def test_lists_of_a_data_set_are_those_of_its_structures():
    frames = [make() for make in SYSTEMS.values()]
    everything = packed(*frames)
    together = build_pairs(everything, CUTOFF)
    assert together.n_atoms == everything.n_atoms
    found, at = rows(everything, together), 0
    for atoms in frames:
        alone = packed(atoms, elements=everything.elements)
        n = len(atoms) * together.n_species
        assert found[at : at + n] == rows(alone, build_pairs(alone, CUTOFF))
        at += n
    assert at == len(found)


def test_atoms_outside_the_cell_have_the_same_distances():
    atoms = SYSTEMS["two_species"]()
    outside = atoms.copy()
    outside.positions += np.array([[3, 0, -2], [0, 7, 1]] * 6) @ atoms.cell
    lengths = []
    for frame in (atoms, outside):
        structures = packed(frame)
        row, d = separations(structures, build_pairs(structures, CUTOFF))
        lengths.append((row, np.linalg.norm(d, axis=1)))
    assert (lengths[0][0] == lengths[1][0]).all()
    # coordinates up to 35 Å: 1e-14
    assert lengths[0][1] == pytest.approx(lengths[1][1], abs=1e-12)


def test_mean_neighbors_and_memory():
    # simple cubic, 3 Å: 6 neighbours at 3 and 12 at 4.24 Å
    structures = packed(Atoms("Cu", cell=[3.0] * 3, pbc=True))
    pairs = build_pairs(structures, 4.3, skin=0.0)
    assert pairs.mean_neighbors == 18
    # two int64 bounds, and for every pair an int32 and three int16
    assert pairs.nbytes == 2 * 8 + 18 * (4 + 3 * 2)
    assert build_pairs(packed(SYSTEMS["single_atom"]()), 4.0).mean_neighbors == 0


def test_progress_sees_every_structure():
    seen = []

    def progress(iterator, total):
        for item in iterator:
            seen.append(total)
            yield item

    structures = packed(*[make() for make in SYSTEMS.values()])
    build_pairs(structures, CUTOFF, progress=progress)
    assert seen == [len(structures)] * len(structures)


@pytest.mark.parametrize("length", [40.0, 400.0])
def test_long_open_direction(length):
    """A wire along z with a gas atom far away across it."""
    atoms = Atoms("Cu2", [[0, 0, 0], [length, 0, 0]], cell=[0, 0, 2.5], pbc=[0, 0, 1])
    pairs = build_pairs(packed(atoms), 4.0, skin=0.0)
    # images at +-2.5 Å along the wire
    assert np.diff(pairs.row_start).tolist() == [2, 2]

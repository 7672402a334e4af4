"""Is a set of geometries one that can be computed with? If not, say which atom of which file."""

from __future__ import annotations

import numpy as np
from ase.geometry import complete_cell

from fdforce.errors import DataError
from fdforce.mapped import release
from fdforce.pair_search import search_pairs

SMALLEST_DISTANCE = 0.3
"""Å. Two atoms closer than this are taken for a mistake in the data."""

FARTHEST_POSITION = 1e6
LARGEST_EXTENT = 500.0
"""Å. Atoms farther out, or farther apart where nothing repeats, are mistakes in the data too; the
pair search would take minutes over them, or end the process."""

# Lists made at 2 Å are more than ten times faster than at 0.3 Å (fewer grid cells to walk through)
# and hold few pairs more.
_SEARCH_RADIUS = 2.0


def completed_cell(cell: np.ndarray, periodic: np.ndarray, label: str) -> np.ndarray:
    """Return a cell (3, 3) in Å that is not singular, zeros where no direction is periodic.

    Vectors of directions that are not periodic are kept where they serve and replaced where not.

    Raises
    ------
    DataError
        If the periodic vectors are not finite or (nearly) linearly dependent.
    """
    if not periodic.any():
        return np.zeros((3, 3))
    if not np.isfinite(cell).all():
        raise DataError(f"{label}: the cell holds {cell[~np.isfinite(cell)][0]}")
    full = complete_cell(cell)
    if not periodic.all() and smallest_height(full) < SMALLEST_DISTANCE:
        full = complete_cell(np.where(periodic[:, None], cell, 0.0))
    lengths = np.linalg.norm(cell[periodic], axis=1)
    if lengths.min() < SMALLEST_DISTANCE or smallest_height(full) < SMALLEST_DISTANCE:
        raise DataError(
            f"{label}: the cell is singular (volume {abs(np.linalg.det(cell)):.3g} Å^3, periodic "
            f"vectors {np.array2string(lengths, precision=3, separator=', ')} Å); "
            "correct Lattice or pbc"
        )
    return full


def smallest_height(cell: np.ndarray) -> float:
    """Return the shortest distance (Å) between opposite faces of a cell (3, 3), 0 if singular."""
    areas = np.linalg.norm(np.cross(np.roll(cell, -1, axis=0), np.roll(cell, -2, axis=0)), axis=1)
    return abs(np.linalg.det(cell)) / areas.max() if areas.max() > 0.0 else 0.0


def check_positions(structures) -> None:
    """Raise `DataError` naming the first atom whose position is not finite or is far out.

    Far out means more than 10^6 Å from the origin, or a structure longer than 500 Å along a
    direction that is not periodic.
    """
    positions, offsets = structures.positions, structures.offsets
    bad = np.flatnonzero(~(np.abs(positions) <= FARTHEST_POSITION).all(axis=1))
    if bad.size:
        s = np.searchsorted(offsets, bad[0], side="right") - 1
        raise DataError(
            f"{structures.labels[s]}: the position of atom {bad[0] - offsets[s]} is "
            f"{positions[bad[0]]}; correct or remove the structure"
        )
    # Columns of the inverse are normal to the faces of the cell.
    cells = np.where(structures.periodic.any(axis=1)[:, None, None], structures.cells, np.eye(3))
    normals = np.linalg.inv(cells)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    along = np.einsum("na,nak->nk", positions, np.repeat(normals, structures.counts, axis=0))
    starts = offsets[:-1]
    extents = np.maximum.reduceat(along, starts) - np.minimum.reduceat(along, starts)
    extents = np.where(structures.periodic, 0.0, extents).max(axis=1)
    if extents.max() > LARGEST_EXTENT:
        s = extents.argmax()
        middle = np.median(positions[offsets[s] : offsets[s + 1]], axis=0)
        distances = np.linalg.norm(positions[offsets[s] : offsets[s + 1]] - middle, axis=1)
        raise DataError(
            f"{structures.labels[s]}: the structure extends over {extents[s]:.4g} Å along a "
            f"direction that is not periodic (atom {distances.argmax()} is farthest out); "
            "correct the positions or pbc"
        )


def check_distances(structures) -> None:
    """Raise `DataError` naming the closest two atoms of the first structure with a clash.

    Periodic images count, an atom's own included.
    """
    for s, (first, second, distance) in enumerate(short_pairs(structures, _SEARCH_RADIUS)):
        if distance.size and distance.min() < SMALLEST_DISTANCE:
            k = distance.argmin()
            i, j = int(first[k]), int(second[k])
            start = structures.offsets[s]
            name = [structures.elements[structures.species[start + a]] for a in (i, j)]
            pair = f"atoms {i} ({name[0]}) and {j} ({name[1]})"
            raise DataError(
                f"{structures.labels[s]}: {pair if i != j else f'atom {i} and its own image'} are "
                f"{distance[k]:.3f} Å apart, closer than {SMALLEST_DISTANCE} Å; "
                "correct or remove the structure"
            )


def short_pairs(structures, cutoff: float):
    """Yield (first, second, distance in Å) of the pairs within `cutoff` for each structure.

    Each pair is listed once; indices count within the structure.
    """
    for s in range(len(structures)):
        points = structures.positions[structures.offsets[s] : structures.offsets[s + 1]]
        i, j, _, distance = search_pairs(
            points, structures.cells[s], structures.periodic[s], cutoff, full_list=False
        )
        yield i, j, distance
        if s % 1000 == 999:
            release(structures.positions)
    release(structures.positions)

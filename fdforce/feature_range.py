"""Atoms whose features lie outside the range that the training set spans: extrapolation.

A model knows nothing of environments that its training set does not hold. The least and largest
value of every feature over the training atoms of an element is kept with the model (as n2p2 does
for its extrapolation warnings: Singraber, Behler and Dellago, J. Chem. Theory Comput. 15, 1827
(2019)); an atom outside is named with its structure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fdforce.batch import make_batch
from fdforce.evaluation import groups
from fdforce.neighbors import build_pairs

MARGIN = 0.1
"""Part of its range by which a feature has to leave it. Without a margin the extremes of every
feature in a held-out tenth of ordinary data would be named, up to 2 % of all atoms; with it 0.2 %
or fewer, and 1 % with a thousand features (docs/report.md)."""

FLAT = 1e-7
"""A feature with a smaller range did not vary; it counts as outside when it differs by more."""

NEVER = "element without training atoms"
"""Stands for the feature where there is no range."""


@dataclass(frozen=True)
class OutOfRange:
    """Atoms with features outside their range, the furthest first.

    Attributes
    ----------
    structure, atom : ndarray, shape (n,), int64
        Structure in the data set and atom in the structure, both from 0.
    count : ndarray, shape (n,), int64
        Features outside by more than the margin.
    feature : ndarray, shape (n,), int64
        The one that is furthest outside; -1 for an element that the training set lacks.
    value, least, largest : ndarray, shape (n,)
        Of that feature: here, and its range.
    ranges : ndarray, shape (n,)
        How far it is outside, in units of its range; inf where it did not vary in the training set.
    """

    structure: np.ndarray
    atom: np.ndarray
    count: np.ndarray
    feature: np.ndarray
    value: np.ndarray
    least: np.ndarray
    largest: np.ndarray
    ranges: np.ndarray

    def __len__(self) -> int:
        return len(self.structure)

    @property
    def n_structures(self) -> int:
        """Structures with such atoms."""
        return len(np.unique(self.structure))

    @classmethod
    def joined(cls, parts, starts) -> OutOfRange:
        """Those of a data set from those of its parts, which begin at the structures `starts`."""
        columns = [np.array(list(vars(part).values())) for part in parts]
        for of_part, start in zip(columns, starts, strict=True):
            of_part[0] += start
        return _furthest_first(np.concatenate(columns, axis=1))

    def describe(self, structures, labels, n: int | None = None) -> list[dict]:
        """The furthest n atoms (all by default), ready for JSON.

        Parameters
        ----------
        structures : Structures
            The data set.
        labels : list of str
            Of the descriptor's features.
        n : int, optional

        Returns
        -------
        list of dict
            ``structure`` (its label), ``index`` (in the data set), ``atom``, ``element``,
            ``n_features`` outside, and of the furthest ``feature`` its ``value``, its ``range`` and
            ``ranges`` (None where it did not vary).
        """
        described = []
        for k in range(len(self) if n is None else min(n, len(self))):
            s, known = int(self.structure[k]), self.feature[k] >= 0
            species = structures.species[structures.offsets[s] + self.atom[k]]
            finite = bool(np.isfinite(self.ranges[k]))
            described.append(
                {
                    "structure": structures.labels[s],
                    "index": s,
                    "atom": int(self.atom[k]),
                    "element": structures.elements[species],
                    "n_features": int(self.count[k]),
                    "feature": labels[self.feature[k]] if known else NEVER,
                    "value": float(self.value[k]) if known else None,
                    "range": [float(self.least[k]), float(self.largest[k])] if known else None,
                    "ranges": float(self.ranges[k]) if finite else None,
                }
            )
        return described


def find_out_of_range(
    model, structures, *, pairs=None, threads: int = 1, margin: float = MARGIN
) -> OutOfRange | None:
    """Find the atoms whose features lie outside the range of the training set.

    Features are computed in float64 whatever the precision of the model, so rounding names nobody.

    Parameters
    ----------
    model : EnergyModel
        With `feature_min` and `feature_max`.
    structures : Structures
    pairs : PairList, optional
        Built here when absent.
    threads : int
    margin : float
        Part of its range by which a feature has to leave it.

    Returns
    -------
    OutOfRange or None
        None for a model that does not know the range.
    """
    if model.feature_min is None:
        return None
    if pairs is None:
        pairs = build_pairs(structures, model.cutoff, skin=0.0, threads=threads)
    plain = np.zeros((len(model.elements), model.descriptor.n_features))
    found = [np.empty((8, 0))]
    for indices in groups(structures):
        batch = make_batch(structures, pairs, indices, n_chunks=threads)
        features, _ = model.descriptor.forward(batch, plain, plain + 1, keep=False)
        atom_of_row = np.argsort(batch.place)
        for z, rows in enumerate(batch.species_rows):
            inside = features[rows], model.feature_min[z], model.feature_max[z]
            row, *numbers = _outside(*inside, margin)
            atom = atom_of_row[rows][row]
            s = batch.structure[atom]
            found.append(np.array([indices[s], atom - batch.offsets[s], *numbers]))
    return _furthest_first(np.concatenate(found, axis=1))


def _furthest_first(columns) -> OutOfRange:
    order = np.lexsort((columns[1], columns[0], -columns[2], -columns[7]))
    columns = columns[:, order]
    return OutOfRange(*columns[:4].astype(np.int64), *columns[4:])


def _outside(features, least, largest, margin):
    """Rows outside, and of each: count, furthest feature, its value, range and distance."""
    if least[0] > largest[0]:  # no training atoms
        n = len(features)
        nothing = np.zeros(n)
        return np.arange(n), nothing + len(least), nothing - 1, *np.zeros((3, n)), nothing + np.inf
    span = largest - least
    flat = span < FLAT
    ranges = np.maximum(least - features, features - largest)
    ranges[:, ~flat] /= span[~flat]
    ranges[:, flat] = np.where(ranges[:, flat] > FLAT, np.inf, 0)
    outside = ranges > margin
    rows = np.flatnonzero(outside.any(axis=1))
    furthest = ranges[rows].argmax(axis=1)
    return (
        rows, outside[rows].sum(axis=1), furthest, features[rows, furthest],
        least[furthest], largest[furthest], ranges[rows, furthest],
    )  # fmt: skip

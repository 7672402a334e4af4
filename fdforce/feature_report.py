"""Features of a descriptor on a data set: which are dead, constant, or repeat another.

And which few of them tell nearly all: columns chosen by CUR, or principal components.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from fdforce.batch import make_batch
from fdforce.evaluation import groups
from fdforce.neighbors import build_pairs

DEAD = 1e-8
"""A feature whose standard deviation is below this does not vary."""
ALIKE = 1e-8
"""Two features are duplicates when 1 - |correlation| is below this."""


@dataclass(frozen=True)
class FeatureReport:
    """Statistics of features over the atoms of one element.

    Attributes
    ----------
    element : str
    n_atoms : int
    labels : list of str
    mean, deviation, least, largest : ndarray, shape (n_features,)
    correlation : ndarray, shape (n_features, n_features)
        0 where a feature does not vary.
    """

    element: str
    n_atoms: int
    labels: list
    mean: np.ndarray
    deviation: np.ndarray
    least: np.ndarray
    largest: np.ndarray
    correlation: np.ndarray

    @property
    def dead(self) -> list[int]:
        """Features that are zero for every atom."""
        return np.flatnonzero((self.least == 0) & (self.largest == 0)).tolist()

    @property
    def constant(self) -> list[int]:
        """Features that do not vary, but are not zero."""
        still = (self.deviation < DEAD) & ~((self.least == 0) & (self.largest == 0))
        return np.flatnonzero(still).tolist()

    @property
    def duplicates(self) -> list[tuple[int, int]]:
        """Features that are linear functions of an earlier one: (earlier, later)."""
        alike = np.triu(1 - np.abs(self.correlation) < ALIKE, 1)
        found: dict[int, int] = {}
        for first, second in np.argwhere(alike):
            found.setdefault(int(second), int(first))
        return sorted((first, second) for second, first in found.items())

    @property
    def rank(self) -> int:
        """Directions in which the standardised features vary."""
        values = np.linalg.eigvalsh(self.correlation)
        return int(np.sum(values > 1e-10 * values[-1])) if values[-1] > 0 else 0

    def as_dict(self) -> dict:
        """What the report says, for JSON."""
        names = self.labels
        return {
            "element": self.element,
            "n_atoms": self.n_atoms,
            "n_features": len(names),
            "rank": self.rank,
            "dead": [names[k] for k in self.dead],
            "constant": [names[k] for k in self.constant],
            "duplicates": [[names[k], names[l]] for k, l in self.duplicates],
        }


def describe_features(descriptor, structures, *, threads: int = 1) -> list[FeatureReport]:
    """Statistics of a descriptor over a data set, element by element.

    Parameters
    ----------
    descriptor : Descriptor
        With the elements of the structures.
    structures : Structures
    threads : int

    Returns
    -------
    list of FeatureReport
        For the elements that occur.
    """
    pairs = build_pairs(structures, descriptor.cutoff, skin=0.0, threads=threads)
    n = descriptor.n_features
    plain = np.zeros((len(descriptor.elements), n))
    sums = [_Sums(n) for _ in descriptor.elements]
    for indices in groups(structures):
        batch = make_batch(structures, pairs, indices, n_chunks=threads)
        features, _ = descriptor.forward(batch, plain, plain + 1, keep=False)
        for total, rows in zip(sums, batch.species_rows, strict=True):
            total.add(features[rows])
    return [
        total.report(element, descriptor.labels)
        for element, total in zip(descriptor.elements, sums, strict=True)
        if total.count
    ]


class _Sums:
    """Moments about the first atoms, so that constants leave no rounding behind."""

    def __init__(self, n):
        self.count, self.origin = 0, None
        self.first, self.second = np.zeros(n), np.zeros((n, n))
        self.least, self.largest = np.full(n, np.inf), np.full(n, -np.inf)

    def add(self, rows):
        if not len(rows):
            return
        if self.origin is None:
            self.origin = rows.mean(axis=0)
        centred = rows - self.origin
        self.count += len(rows)
        self.first += centred.sum(axis=0)
        self.second += centred.T @ centred
        self.least = np.minimum(self.least, rows.min(axis=0))
        self.largest = np.maximum(self.largest, rows.max(axis=0))

    def report(self, element, labels):
        mean = self.first / self.count
        covariance = self.second / self.count - np.outer(mean, mean)
        deviation = np.sqrt(np.maximum(np.diag(covariance), 0))
        inverse = np.where(deviation < DEAD, 0, 1 / np.where(deviation < DEAD, 1, deviation))
        return FeatureReport(
            element, self.count, labels, mean + self.origin, deviation, self.least, self.largest,
            covariance * np.outer(inverse, inverse),
        )  # fmt: skip


def choose_columns(correlation, n: int) -> list[int]:
    """Features that span nearly all there is, by CUR.

    One after the other the feature with the largest weight in the leading principal component of
    what is left is taken, and the rest is made orthogonal to it (Imbalzano et al., J. Chem. Phys.
    148, 241730 (2018), section II C).

    Parameters
    ----------
    correlation : ndarray, shape (n_features, n_features)
        Covariance of the (standardised) features; of several elements their sum serves.
    n : int
        Features wanted; fewer come back where fewer span all.

    Returns
    -------
    list of int
        In the order of choice.
    """
    rest, chosen = np.array(correlation, dtype=np.float64), []
    least = 1e-10 * max(np.trace(rest), 1e-300)
    for _ in range(min(n, len(rest))):
        if np.trace(rest) < least:
            break
        _, vector = eigh(rest, subset_by_index=(len(rest) - 1, len(rest) - 1))
        weight = vector[:, 0] ** 2
        weight[chosen] = -1.0
        weight[np.diag(rest) < least] = -1.0
        k = int(np.argmax(weight))
        chosen.append(k)
        rest -= np.outer(rest[:, k], rest[k]) / rest[k, k]
    return chosen


def principal_components(correlation, n: int) -> np.ndarray:
    """Leading eigenvectors of a covariance, shape (n_features, n), largest variance first."""
    size = len(correlation)
    n = min(n, size)
    _, vectors = eigh(correlation, subset_by_index=(size - n, size - 1))
    return vectors[:, ::-1]

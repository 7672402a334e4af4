"""Fewer features: some of another descriptor, or linear combinations of them."""

from __future__ import annotations

import numpy as np

from fdforce.descriptors.features import compute_features


class Reduced:
    """G times a matrix, which chooses features or forms their principal components.

    Parameters
    ----------
    descriptor : Descriptor
        G.
    matrix : array, shape (n_features of G, n)
        Its columns are the new features. `Reduced.choice` makes one that picks features.
    names : sequence of str, optional
        Labels of the new features.
    """

    name = "reduced"

    def __init__(self, descriptor, matrix, names=None):
        self.descriptor = descriptor
        self.matrix = np.array(matrix, dtype=np.float64)
        if self.matrix.ndim != 2 or len(self.matrix) != descriptor.n_features:
            raise ValueError(
                f"the matrix has shape {self.matrix.shape}; expected ({descriptor.n_features}, n)"
            )
        self.labels = list(names) if names else [f"component {k}" for k in range(self.n_features)]

    @classmethod
    def choice(cls, descriptor, columns) -> Reduced:
        """Some of the features, by their numbers (`fdforce.feature_report.choose_columns`)."""
        matrix = np.eye(descriptor.n_features)[:, list(columns)]
        return cls(descriptor, matrix, [descriptor.labels[k] for k in columns])

    @property
    def elements(self) -> tuple[str, ...]:
        return self.descriptor.elements

    @property
    def cutoff(self) -> float:
        """Å."""
        return self.descriptor.cutoff

    @property
    def n_features(self) -> int:
        return self.matrix.shape[1]

    @property
    def settings(self) -> dict:
        """The descriptor of G by name and settings, the matrix and the labels."""
        return {
            "of": {"name": self.descriptor.name, **self.descriptor.settings},
            "matrix": self.matrix.tolist(),
            "names": self.labels,
        }

    def compute(self, atoms) -> np.ndarray:
        """Features of every atom, shape (n_atoms, n_features); see `compute_features`."""
        return compute_features(self, atoms)

    def forward(self, batch, mean, scale, *, keep=True):
        """Features ``(G matrix - mean) * scale`` and what `backward` needs; see `Descriptor`."""
        zero = np.zeros((len(self.elements), self.descriptor.n_features), mean.dtype)
        plain, kept = self.descriptor.forward(batch, zero, zero + 1, keep=keep)
        features = plain @ self.matrix.astype(mean.dtype)
        for z, rows in enumerate(batch.species_rows):
            features[rows] -= mean[z]
            features[rows] *= scale[z]
        return features, kept

    def backward(self, batch, d_features, kept, scale):
        """Derivatives with respect to positions and strain; see `Descriptor`."""
        d_features = d_features.copy()
        for z, rows in enumerate(batch.species_rows):
            d_features[rows] *= scale[z]
        d_plain = np.ascontiguousarray(d_features @ self.matrix.T.astype(d_features.dtype))
        one = np.ones((len(self.elements), self.descriptor.n_features), scale.dtype)
        return self.descriptor.backward(batch, d_plain, kept, one)

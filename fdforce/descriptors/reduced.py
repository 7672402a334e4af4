"""Fewer features: some of another descriptor, or linear combinations of them."""

from __future__ import annotations

from functools import cached_property, partial

import numpy as np

from fdforce.descriptors.features import Tables, compute_features, numbers_of, plain_standardisation


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
    def on_gpu(self) -> bool:
        return getattr(self.descriptor, "on_gpu", False)

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
    def n_computed(self) -> int:
        """Those of G, and the features."""
        return numbers_of(self.descriptor) + self.n_features

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
        device, tables = batch.device, self._tables.on(batch.device, mean.dtype)
        plain, kept = self.descriptor.forward(batch, tables["zero"], tables["one"], keep=keep)
        features = device.empty((batch.n_atoms, self.n_features), plain.dtype)
        device.kernels("reduced").reduced_forward(
            plain, tables["matrix"], batch.species_start, mean, scale, features
        )
        return features, kept

    def backward(self, batch, d_features, kept, scale):
        """Derivatives with respect to positions and strain; see `Descriptor`."""
        device, dtype = batch.device, d_features.dtype
        tables = self._tables.on(device, dtype)
        d_plain = device.empty((batch.n_atoms, self.descriptor.n_features), dtype)
        device.kernels("reduced").reduced_backward(
            d_features, tables["matrix"], batch.species_start, scale,
            device.empty(d_features.shape, dtype), d_plain,
        )  # fmt: skip
        return self.descriptor.backward(batch, d_plain, kept, tables["one"])

    @cached_property
    def _tables(self) -> Tables:
        return Tables(partial(_make_tables, self))


def _make_tables(reduced):
    return {"matrix": reduced.matrix, **plain_standardisation(reduced.descriptor)}

"""Features of another descriptor with their products, for quadratic models."""

from __future__ import annotations

from functools import cached_property, partial

import numpy as np

from fdforce.descriptors.features import Tables, compute_features, numbers_of, plain_standardisation


class Quadratic:
    """G and all products of two of its features.

    After the n features G come, for k = 1 .. n, ``G_k^2 / 2`` and ``G_k G_l`` for l > k: the order
    of LAMMPS' quadratic SNAP (Wood and Thompson, J. Chem. Phys. 148, 241721 (2018), Eq. 9).

    Parameters
    ----------
    descriptor : Descriptor
        G.
    """

    name = "quadratic"

    def __init__(self, descriptor):
        self.descriptor = descriptor
        n = descriptor.n_features
        self._first, self._second = np.triu_indices(n)

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
        return self.descriptor.n_features + len(self._first)

    @property
    def labels(self) -> list[str]:
        """Those of G, then ``a * b``."""
        plain = self.descriptor.labels
        return plain + [f"{plain[k]} * {plain[l]}" for k, l in zip(self._first, self._second)]

    @property
    def n_computed(self) -> int:
        """Those of G, and the features."""
        return numbers_of(self.descriptor) + self.n_features

    @property
    def settings(self) -> dict:
        """The descriptor of G by name and settings."""
        return {"of": {"name": self.descriptor.name, **self.descriptor.settings}}

    @property
    def feature_weight(self) -> np.ndarray:
        """That of G, and products of it."""
        plain = np.broadcast_to(
            getattr(self.descriptor, "feature_weight", 1.0), self.descriptor.n_features
        )
        return np.concatenate([plain, plain[self._first] * plain[self._second]])

    def compute(self, atoms) -> np.ndarray:
        """Features of every atom, shape (n_atoms, n_features); see `compute_features`."""
        return compute_features(self, atoms)

    def forward(self, batch, mean, scale, *, keep=True):
        """Features ``(G - mean) * scale`` and what `backward` needs; see `Descriptor`."""
        device, tables = batch.device, self._tables.on(batch.device, mean.dtype)
        plain, kept = self.descriptor.forward(batch, tables["zero"], tables["one"], keep=keep)
        features = device.empty((batch.n_atoms, self.n_features), plain.dtype)
        device.kernels("quadratic").quadratic_forward(
            plain, tables["first"], tables["second"], tables["factor"], batch.species_start,
            mean, scale, features,
        )  # fmt: skip
        return features, (plain, kept) if keep else ()

    def backward(self, batch, d_features, kept, scale):
        """Derivatives with respect to positions and strain; see `Descriptor`."""
        device, tables = batch.device, self._tables.on(batch.device, d_features.dtype)
        plain, kept = kept
        d_plain = device.empty(plain.shape, d_features.dtype)
        device.kernels("quadratic").quadratic_backward(
            d_features, plain, tables["first"], tables["second"], tables["factor"],
            batch.species_start, scale, d_plain,
        )  # fmt: skip
        return self.descriptor.backward(batch, d_plain, kept, tables["one"])

    @cached_property
    def _tables(self) -> Tables:
        return Tables(partial(_make_tables, self), short=("first", "second"))


def _make_tables(quadratic):
    first, second = quadratic._first, quadratic._second
    return {
        "first": first,
        "second": second,
        "factor": np.where(first == second, 0.5, 1.0),
        **plain_standardisation(quadratic.descriptor),
    }

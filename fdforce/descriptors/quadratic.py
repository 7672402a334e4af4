"""Features of another descriptor with their products, for quadratic models."""

from __future__ import annotations

import numpy as np

from fdforce.descriptors.features import compute_features


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
        self._factor = np.where(self._first == self._second, 0.5, 1.0)

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
        n = self.descriptor.n_features
        zero = np.zeros((len(self.elements), n), mean.dtype)
        plain, kept = self.descriptor.forward(batch, zero, zero + 1, keep=keep)
        products = plain[:, self._first] * plain[:, self._second]
        products *= self._factor.astype(mean.dtype)
        features = np.concatenate([plain, products], axis=1)
        for z, rows in enumerate(batch.species_rows):
            features[rows] -= mean[z]
            features[rows] *= scale[z]
        return features, (plain, kept) if keep else ()

    def backward(self, batch, d_features, kept, scale):
        """Derivatives with respect to positions and strain; see `Descriptor`."""
        n = self.descriptor.n_features
        plain, kept = kept
        d_features = d_features.copy()
        for z, rows in enumerate(batch.species_rows):
            d_features[rows] *= scale[z]
        d_products = d_features[:, n:] * self._factor.astype(d_features.dtype)
        matrix = np.zeros((len(plain), n, n), d_features.dtype)
        matrix[:, self._first, self._second] = d_products
        d_plain = d_features[:, :n] + np.einsum("akl,al->ak", matrix, plain)
        d_plain += np.einsum("akl,ak->al", matrix, plain)
        one = np.ones((len(self.elements), n), scale.dtype)
        return self.descriptor.backward(batch, d_plain, kept, one)

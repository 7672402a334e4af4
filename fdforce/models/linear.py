"""A linear model on an atom's features, ``E = sum_i [E0 + theta . (1, G_i)]`` for each element.

Thompson, Swiler, Trott, Foiles and Tucker, J. Comput. Phys. 285, 316 (2015) with bispectrum
components; quadratic with `fdforce.descriptors.Quadratic` (Wood and Thompson, J. Chem. Phys. 148,
241721 (2018)). It is a network without hidden layers, trained like any other, or solved directly by
least squares (`fdforce.least_squares`).
"""

from __future__ import annotations

import numpy as np

from fdforce.models.elemental_networks import ElementalNetworks


class LinearModel(ElementalNetworks):
    """Linear in its parameters: energies, forces and virials are ``design(batch) @ theta``.

    Parameters
    ----------
    descriptor : Descriptor
    seed : int
        Of the initial coefficients.
    dtype : float32 or float64

    Attributes
    ----------
    theta : ndarray, shape (P,), float64
        For each element the coefficients of the standardised features and then the constant.
    """

    kind = "linear"
    setting_names = ()

    def __init__(self, descriptor, *, seed: int = 0, dtype=np.float64):
        super().__init__(descriptor, (), "linear", seed=seed, dtype=dtype)

    @property
    def settings(self) -> dict:
        return {}

    def coefficients(self) -> np.ndarray:
        """Coefficients of the plain features with the constant first, (n_elements, 1 + n), eV.

        Their constants hold the reference energies too, as a .snapcoeff file has them.
        """
        theta = self.theta.reshape(len(self.elements), -1) * self.scale
        slopes = theta[:, :-1] * self.feature_scale
        constants = theta[:, -1] - np.sum(slopes * self.feature_mean, axis=1)
        return np.column_stack([constants + self.reference_energies, slopes])

    def design(self, batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Derivatives of energies, forces and virials with respect to theta.

        Parameters
        ----------
        batch : Batch

        Returns
        -------
        energy : ndarray, shape (S, P)
        forces : ndarray, shape (n_atoms, 3, P)
        virial : ndarray, shape (S, 6, P)
            xx yy zz yz xz xy of W = -dE/ds.
        """
        dtype = self.dtype
        features, kept = self.descriptor.forward(
            batch, self.feature_mean.astype(dtype), self.feature_scale.astype(dtype)
        )
        n, n_features = features.shape
        width = n_features + 1
        first = batch.offsets[:-1]
        energy = np.zeros((len(batch), len(self.elements), width))
        forces = np.zeros((n, 3, len(self.elements), width))
        virial = np.zeros((len(batch), 6, len(self.elements), width))
        of_atom = features[batch.place].astype(np.float64)
        scale = (self.feature_scale * self.scale).astype(dtype)
        for z in range(len(self.elements)):
            inside = batch.species == z
            rows = batch.species_rows[z]
            if not inside.any():
                continue
            energy[:, z, :-1] = np.add.reduceat(np.where(inside[:, None], of_atom, 0), first)
            energy[:, z, -1] = np.add.reduceat(inside.astype(float), first)
            for k in range(n_features):
                d_features = np.zeros_like(features)
                d_features[rows, k] = 1
                d_positions, d_strain = self.descriptor.backward(batch, d_features, kept, scale)
                forces[:, :, z, k] = -d_positions
                virial[:, :, z, k] = -np.add.reduceat(d_strain, first)
        shape = -1, len(self.elements) * width
        return (
            self.scale * energy.reshape(shape),
            forces.reshape(n, 3, -1),
            virial.reshape(len(batch), 6, -1),
        )

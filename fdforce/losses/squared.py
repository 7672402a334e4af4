"""Squared errors: rho(x) = x^2."""

from __future__ import annotations

from dataclasses import dataclass

from fdforce.losses.labels import Target
from fdforce.losses.weighted_loss import WeightedLoss


@dataclass(frozen=True)
class SquaredLoss(WeightedLoss):
    """Mean squared errors; every term is 1 for a model that predicts nothing.

    The force term is the mean over force components, |dF|^2 / (3 n f^2) of a structure.
    """

    def measure(self, squares, factors):
        return factors @ squares, 2 * factors

    def factors(self, n_structures: int, target: Target):
        """Factors of the squared errors of dE_s / n_s, dF_i and dW_s / n_s, each of shape (S,)."""
        energy, forces, virial = self.structure_weights(target) / n_structures
        return (
            energy * (self.energy_weight / self.energy_unit**2),
            forces * (self.force_weight / (3 * self.mean_atoms * self.force_unit**2)),
            virial * (self.stress_weight / (9 * self.virial_unit**2)),
        )

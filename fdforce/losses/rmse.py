"""Root mean squares of a batch, mixed by alpha as in ænet-PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fdforce.losses.weighted_loss import WeightedLoss


@dataclass(frozen=True)
class RMSELoss(WeightedLoss):
    """``(1 - alpha) RMSE(dE_s / n_s) + alpha RMSE(|dF_i|) + a_W RMSE(|dW_s / n_s|)`` of a batch.

    López-Zorrilla et al., J. Chem. Phys. 158, 164105 (2023). Energies are in eV/atom and forces in
    eV/Å: means run over labelled structures and labelled atoms, a force counts by its length (so
    its error is sqrt(3) times that of a component), and no units are divided by. ænet-PyTorch has
    no stress term; stress_weight = 0 leaves it out.

    Parameters
    ----------
    alpha : float
        In place of energy_weight and force_weight.
    """

    degree: ClassVar[int] = 1

    alpha: float = 0.1

    @property
    def weights(self):
        return np.array([1 - self.alpha, self.alpha, self.stress_weight])

    @property
    def units(self):
        return 1.0, 1.0, 1.0

    def shares(self, batch, target):
        energy, forces, virial = self.structure_weights(target)
        labels = target.energy, target.forces[:, 0], target.virial[:, 0, 0]
        n = [max(np.count_nonzero(~np.isnan(label)), 1) for label in labels]
        return energy / n[0], self.of_atoms(batch, forces) / n[1], virial / n[2]

    def measure(self, squares, factors):
        value = np.sqrt(factors @ squares)
        return value, np.zeros_like(factors) if value == 0 else factors / value

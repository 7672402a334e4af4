"""Energy models: Ê, its forces and its parameter gradient, behind one seam.

Every model is an `EnergyModel`; gradient.py and training.py know nothing else of it.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from fdforce.models.elemental_networks import ElementalNetworks
from fdforce.models.ensemble import Ensemble
from fdforce.models.linear import LinearModel


class EnergyModel(Protocol):
    """What a model has to offer.

    Attributes
    ----------
    theta : ndarray, shape (P,), float64
        All parameters, one flat vector.
    """

    theta: np.ndarray

    def forward(self, batch) -> Any:
        """Energies of a batch: ``state.energy`` (S,), and what the next two need."""

    def forces(self, state) -> tuple[np.ndarray, np.ndarray]:
        """Forces (N, 3), eV/Å, and virials W = -dE/ds (S, 3, 3), eV, s the symmetric strain."""

    def gradient(self, state, weights) -> np.ndarray:
        """``sum_s weights[s] * d energy[s] / d theta``, shape (P,)."""


MODELS = {"elemental_networks": ElementalNetworks, "linear": LinearModel}

__all__ = ["MODELS", "ElementalNetworks", "EnergyModel", "Ensemble", "LinearModel"]

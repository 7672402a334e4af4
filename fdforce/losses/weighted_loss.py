"""What all losses share: units, weights, ramps, and derivatives from errors.

Errors are taken in units of what there is to learn,

    x_s = dE_s / (n_s e),    x_i = |dF_i| / (sqrt(3) f),    y_s = |dW_s / n_s| / (3 v),

with n_s the atoms of structure s, and e, f, v the root mean squares of residual energies per atom
(what a constant per element leaves), force components and virial components per atom: each is about
1 for a model that predicts nothing.
The error of a force is that of the vector, so a loss does not depend on the choice of axes. Stress
enters as the virial W = -V sigma, which does not depend on the vacuum of a slab. Missing labels
count nothing.

With a penalty rho, and n the mean number of atoms,

    L = 1/S sum_s w_s [ a_E rho(x_s) + a_F / n sum_i m_i rho(x_i) + a_W rho(y_s) ]

where w_s is the weight of a structure, m_i that of an element, and a are those of the terms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from fdforce.losses.labels import LossTerms, Target, error_of, error_sums

PER_ATOM, PER_STRUCTURE = "per_atom", "per_structure"


@dataclass(frozen=True)
class WeightedLoss:
    """A loss whose form is `measure`; see the module docstring.

    Parameters
    ----------
    energy_weight, force_weight, stress_weight : float
        a of each term.
    energy_unit, force_unit, virial_unit : float
        e (eV/atom, or eV with energies per structure), f (eV/Å) and v (eV/atom).
    mean_atoms : float
        n, atoms per structure over the data set.
    energy_normalisation : str
        "per_atom", or "per_structure", which leaves n_s out of x_s.
    element_weights : tuple of float
        m for each species, in the order of the batch's; 1 for all when empty.
    error_threshold : float
        Atoms whose force error does not exceed so many root mean squares of the batch are left out
        of the direction; they stay in the value. 0: none is.
    start_weights : tuple of float, optional
        Energy, force and stress weight at the start of a run that ends with those above (`at`).
    """

    degree: ClassVar[int] = 2
    """Power of a common factor of all errors with which the loss grows (Huber: of small ones)."""

    energy_weight: float = 1.0
    force_weight: float = 1.0
    stress_weight: float = 1.0
    energy_unit: float = 1.0
    force_unit: float = 1.0
    virial_unit: float = 1.0
    mean_atoms: float = 1.0
    energy_normalisation: str = PER_ATOM
    element_weights: tuple[float, ...] = ()
    error_threshold: float = 0.0
    start_weights: tuple[float, float, float] | None = None

    def measure(self, squares, factors):
        """The form of the loss.

        Parameters
        ----------
        squares : ndarray, shape (m,)
            Squared errors in units of what there is to learn.
        factors : ndarray, shape (m,)
            c, the weights of these errors.

        Returns
        -------
        value : float
            ``sum c rho(x)``.
        ratio : ndarray, shape (m,)
            ``c rho'(x) / x``, the factor between an error and its derivative.
        """
        raise NotImplementedError

    @property
    def weights(self) -> np.ndarray:
        """Of energies, forces and stress, shape (3,)."""
        return np.array([self.energy_weight, self.force_weight, self.stress_weight])

    @property
    def units(self) -> tuple[float, float, float]:
        """Of an energy error, the length of a force error and the norm of a virial error."""
        return self.energy_unit, np.sqrt(3) * self.force_unit, 3 * self.virial_unit

    def at(self, share: float) -> WeightedLoss:
        """The loss with the weights of a share of the run, on a line from start to end.

        Parameters
        ----------
        share : float
            0 at the start of the run, 1 at its end and beyond.
        """
        if self.start_weights is None:
            return self
        share = min(share, 1.0)
        now = (1 - share) * np.array(self.start_weights) + share * self.weights
        energy, force, stress = now.tolist()
        return replace(
            self, energy_weight=energy, force_weight=force, stress_weight=stress, start_weights=None
        )

    def total(self, terms: LossTerms) -> float:
        """The loss of `terms`, which may have been taken with the weights of another share."""
        return float(self.weights @ terms.parts)

    def __call__(self, batch, energy, forces, virial, target: Target) -> LossTerms:
        """Evaluate the loss.

        Parameters
        ----------
        batch : Batch
        energy, forces, virial : ndarray
            Predictions: (S,), (N, 3), (S, 3, 3).
        target : Target

        Returns
        -------
        LossTerms
        """
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite stays visible
            return self._evaluate(batch, energy, forces, virial, target)

    def _evaluate(self, batch, energy, forces, virial, target):
        counts, first = batch.counts, batch.offsets[:-1]
        weights, units = self.weights, self.units
        of_energy, of_forces, of_virial = self.shares(batch, target)
        sizes = self.energy_sizes(batch)

        d_energy = error_of(energy, target.energy)
        value, ratio = self.measure((d_energy / sizes / units[0]) ** 2, of_energy)
        parts = [value, 0.0, 0.0]
        slope_energy = weights[0] / units[0] ** 2 * ratio / sizes**2 * d_energy

        d_forces = error_of(forces, target.forces)
        squares = np.einsum("ij,ij->i", d_forces, d_forces)
        parts[1], ratio = self.measure(squares / units[1] ** 2, of_forces)
        ratio = weights[1] / units[1] ** 2 * ratio
        if self.error_threshold:
            ratio = np.where(self._exceeds(squares, target), ratio, 0.0)
        force_loss = 0.5 * np.add.reduceat(ratio * squares, first)
        slope_forces = ratio[:, None] * d_forces

        d_virial, slope_virial = None, None
        if not np.isnan(target.virial[:, 0, 0]).all():
            d_virial = error_of(virial, target.virial) / counts[:, None, None]
            squares = np.einsum("sij,sij->s", d_virial, d_virial)
            parts[2], ratio = self.measure(squares / units[2] ** 2, of_virial)
            ratio = weights[2] / units[2] ** 2 * ratio
            force_loss += 0.5 * ratio * squares
            slope_virial = (ratio / counts)[:, None, None] * d_virial
        return LossTerms(
            value=float(weights @ parts),
            parts=np.array(parts),
            force_loss=force_loss,
            d_energy=slope_energy,
            d_forces=slope_forces,
            d_virial=slope_virial,
            errors=error_sums(batch, d_energy / counts, d_forces, d_virial, target),
        )

    def energy_sizes(self, batch) -> np.ndarray:
        """What errors of energies are divided by, shape (S,): atoms, or 1."""
        per_atom = self.energy_normalisation == PER_ATOM
        return batch.counts if per_atom else np.ones(len(batch.counts))

    def shares(self, batch, target: Target):
        """c of the error of every energy (S,), force (N,) and virial (S,)."""
        energy, forces, virial = self.structure_weights(target) / len(target.energy)
        return energy, self.of_atoms(batch, forces / self.mean_atoms), virial

    def structure_weights(self, target: Target) -> np.ndarray:
        """w of energies, forces and virials, shape (3, S)."""
        weight = target.weight if target.weight.ndim == 2 else target.weight[:, None]
        return np.broadcast_to(weight, (len(weight), 3)).T

    def of_atoms(self, batch, values) -> np.ndarray:
        """Values of structures (S,) for their atoms, times the weights of elements."""
        values = values[batch.structure]
        if self.element_weights:
            values = values * np.array(self.element_weights)[batch.species]
        return values

    def _exceeds(self, squares, target):
        """Whether the squared force error of an atom is above the threshold."""
        labelled = np.count_nonzero(~np.isnan(target.forces[:, 0]))
        return squares > self.error_threshold**2 * squares.sum() / max(labelled, 1)

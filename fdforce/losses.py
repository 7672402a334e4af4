"""The loss of a batch and its derivatives with respect to energies, forces and virials.

    L = 1/S sum_s w_s [ a_E (dE_s / n_s)^2 / e^2 + a_F |dF_s|^2 / (3 n f^2)
                        + a_W |dW_s / n_s|^2 / (9 v^2) ]

with n_s the atoms of structure s, n their mean over the data set, and e, f, v the root mean squares
of what there is to learn: residual energies per atom, force components and virial components per
atom. So every term is 1 for a model that predicts nothing, the force term is the mean over force
components, and the weights a say how much each counts. Stress enters as the virial W = -V sigma,
which does not depend on the vacuum of a slab. Missing labels count nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fdforce.errors import ConfigError


@dataclass(frozen=True)
class Target:
    """Labels: energy (S,), forces (N, 3), virial (S, 3, 3); NaN if absent.

    The weight of a structure has shape (S,), or (S, 3) for its energy, forces and virial.
    """

    energy: np.ndarray
    forces: np.ndarray
    virial: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class LossTerms:
    """Loss of a batch and its derivatives.

    Attributes
    ----------
    value : float
    force_loss : ndarray, shape (S,)
        Share of forces and virial in the loss, which the finite difference serves.
    d_energy : ndarray, shape (S,)
    d_forces : ndarray, shape (N, 3)
        g, the direction of the finite difference.
    d_virial : ndarray, shape (S, 3, 3), or None
        H, its strain; None where no structure has a stress.
    errors : dict
        Sums of squared and absolute errors and their counts, by quantity.
    """

    value: float
    force_loss: np.ndarray
    d_energy: np.ndarray
    d_forces: np.ndarray
    d_virial: np.ndarray | None
    errors: dict


@dataclass(frozen=True)
class SquaredLoss:
    """Squared errors in units of what there is to learn (module docstring).

    Parameters
    ----------
    energy_weight, force_weight, stress_weight : float
    energy_unit, force_unit, virial_unit : float
        e (eV/atom), f (eV/Å) and v (eV/atom).
    mean_atoms : float
        n, atoms per structure over the data set.
    """

    energy_weight: float = 1.0
    force_weight: float = 1.0
    stress_weight: float = 1.0
    energy_unit: float = 1.0
    force_unit: float = 1.0
    virial_unit: float = 1.0
    mean_atoms: float = 1.0

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
        counts = batch.counts
        by_energy, by_forces, by_virial = self.factors(len(batch), target)
        d_energy = _error(energy, target.energy) / counts
        d_forces = _error(forces, target.forces)
        squares = np.einsum("ij,ij->i", d_forces, d_forces)
        force_loss = by_forces * np.add.reduceat(squares, batch.offsets[:-1])
        scaled_d_virial, d_virial = None, None
        if not np.isnan(target.virial[:, 0, 0]).all():
            d_virial = _error(virial, target.virial) / counts[:, None, None]
            force_loss = force_loss + by_virial * np.einsum("sij,sij->s", d_virial, d_virial)
            scaled_d_virial = (2 * by_virial / counts)[:, None, None] * d_virial
        return LossTerms(
            value=float(by_energy @ d_energy**2 + force_loss.sum()),
            force_loss=force_loss,
            d_energy=2 * by_energy * d_energy / counts,
            d_forces=(2 * by_forces)[batch.structure][:, None] * d_forces,
            d_virial=scaled_d_virial,
            errors=error_sums(batch, d_energy, d_forces, d_virial, target),
        )

    def factors(self, n_structures: int, target: Target):
        """Factors of the squared errors of dE_s / n_s, dF_i and dW_s / n_s, each of shape (S,)."""
        weight = target.weight if target.weight.ndim == 2 else target.weight[:, None]
        energy, forces, virial = np.broadcast_to(weight, (len(weight), 3)).T / n_structures
        return (
            energy * (self.energy_weight / self.energy_unit**2),
            forces * (self.force_weight / (3 * self.mean_atoms * self.force_unit**2)),
            virial * (self.stress_weight / (9 * self.virial_unit**2)),
        )


def error_sums(batch, d_energy, d_forces, d_virial, target: Target) -> dict:
    """Sums for root-mean-square and mean absolute errors of a batch.

    Parameters
    ----------
    batch : Batch
    d_energy, d_forces, d_virial : ndarray
        Errors per atom (eV/atom), eV/Å, and of the virial per atom (eV/atom), 0 where absent;
        the last may be None.
    target : Target

    Returns
    -------
    dict of str to ndarray
        Quantity to (sum of squares, sum of absolutes, count).
    """
    sums = {
        "energy": _sums(d_energy, np.count_nonzero(~np.isnan(target.energy))),
        "force": _sums(d_forces, 3 * np.count_nonzero(~np.isnan(target.forces[:, 0]))),
        "stress": np.zeros(3),
    }
    if d_virial is not None:
        stress = d_virial * (batch.counts / batch.volumes)[:, None, None]
        stress = stress[~np.isnan(target.virial[:, 0, 0])]
        upper = stress[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]  # six Voigt components
        sums["stress"] = _sums(upper, upper.size)
    return sums


def _sums(error, count):
    flat = error.ravel()
    return np.array([flat @ flat, np.abs(flat).sum(), count])


def _error(prediction, label):
    """Zero where the label is absent; a prediction that is not finite stays visible."""
    error = prediction - label
    absent = np.isnan(label)
    if absent.any():
        error[absent] = 0.0
    return error


LOSSES = {"squared": SquaredLoss}


def make_loss(kind: str, **settings):
    """Look a loss up by name; raises ConfigError for an unknown one."""
    if kind not in LOSSES:
        raise ConfigError(f"loss.kind = {kind!r}: choose one of {', '.join(LOSSES)}")
    return LOSSES[kind](**settings)

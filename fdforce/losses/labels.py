"""What a loss takes and gives: labels, its terms and derivatives, sums of errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
    parts : ndarray, shape (3,)
        Energy, force and stress terms without their weights.
    force_loss : ndarray, shape (S,)
        Half of g.dF + H:dW, to which Err[L~] relates the defect. With a squared loss it is the
        share of forces and virial in the loss.
    d_energy : ndarray, shape (S,)
    d_forces : ndarray, shape (N, 3)
        g, the direction of the finite difference.
    d_virial : ndarray, shape (S, 3, 3), or None
        H, its strain; None where no structure has a stress.
    errors : dict
        Sums of squared and absolute errors and their counts, by quantity.
    """

    value: float
    parts: np.ndarray
    force_loss: np.ndarray
    d_energy: np.ndarray
    d_forces: np.ndarray
    d_virial: np.ndarray | None
    errors: dict

    @classmethod
    def reduced(cls, terms, shares, joined) -> LossTerms:
        """Terms of a batch from those of its parts, which have these shares of its structures.

        ``joined(parts)`` puts numbers of structures in their places. Directions and strains are
        left out.
        """

        def of_structures(name):
            numbers = [getattr(part, name) for part in terms]
            if numbers[0] is None:
                return None
            return joined([w * part for w, part in zip(shares, numbers)])

        return cls(
            value=sum(w * part.value for w, part in zip(shares, terms)),
            parts=sum(w * part.parts for w, part in zip(shares, terms)),
            force_loss=of_structures("force_loss"),
            d_energy=of_structures("d_energy"),
            d_forces=None,
            d_virial=None,
            errors={name: sum(part.errors[name] for part in terms) for name in terms[0].errors},
        )


def error_of(prediction, label):
    """Zero where the label is absent; a prediction that is not finite stays visible."""
    error = prediction - label
    absent = np.isnan(label)
    if absent.any():
        error[absent] = 0.0
    return error


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

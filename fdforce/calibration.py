"""Predictions of every member of an ensemble: errors, and what their disagreement says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fdforce.batch import make_batch
from fdforce.evaluation import Prediction, errors, groups, predict
from fdforce.models.ensemble import standard_deviation
from fdforce.neighbors import build_pairs
from fdforce.threads import limit_threads


@dataclass(frozen=True)
class MemberPredictions:
    """What the members of an ensemble predict.

    Attributes
    ----------
    mean : Prediction
    members : list of Prediction
        Their atom energies are those of the mean.
    """

    mean: Prediction
    members: list[Prediction]

    @cached_property
    def energy_std(self) -> np.ndarray:
        """Standard deviation of the energies, shape (S,), eV (`standard_deviation`)."""
        return standard_deviation([member.energies for member in self.members])

    @cached_property
    def forces_std(self) -> np.ndarray:
        """Standard deviation of the force components, shape (N, 3), eV/Å."""
        return standard_deviation([member.forces for member in self.members])


def predict_members(
    ensemble, structures, *, pairs=None, threads: int = 0, progress: Callable | None = None,
    device: str = "cpu",
) -> MemberPredictions:  # fmt: skip
    """Energies, forces and stresses of every structure from every member.

    Parameters
    ----------
    ensemble : Ensemble
    structures : Structures
        With the species of the ensemble, in its order.
    pairs : PairList, optional
        Built here when absent.
    threads : int
        0: all cores.
    progress : callable, optional
        Wraps the iterator over structures while pairs are listed.
    device : {"cpu", "cuda"}
        The processor computes the features once for all members.

    Returns
    -------
    MemberPredictions
    """
    energies, forces, virials, atom_energies = [], [], [], []
    with limit_threads(threads) as threads:
        if pairs is None:
            pairs = build_pairs(
                structures, ensemble.cutoff, skin=0.0, threads=threads, progress=progress
            )
        if device == "cuda":
            members = [
                predict(ensemble.member(k), structures, pairs=pairs, device=device)
                for k in range(len(ensemble))
            ]
            mean = Prediction(
                *(np.mean([getattr(member, name) for member in members], axis=0)
                  for name in vars(members[0]))
            )  # fmt: skip
            return MemberPredictions(mean, members)
        for indices in groups(structures):
            state = ensemble.forward(make_batch(structures, pairs, indices, n_chunks=threads))
            of_members = ensemble.member_forces(state)
            energies.append(state.member_energy)
            forces.append(of_members[0])
            virials.append(of_members[1])
            atom_energies.append(state.atom_energy)
    energies, forces, virials = (np.concatenate(x, axis=1) for x in (energies, forces, virials))
    atom_energies = np.concatenate(atom_energies)
    stresses = -virials / structures.volumes[:, None, None]
    members = [
        Prediction(*numbers, atom_energies)
        for numbers in zip(energies, forces, stresses, strict=True)
    ]
    means = (x.mean(axis=0) for x in (energies, forces, stresses))
    return MemberPredictions(Prediction(*means, atom_energies), members)


def calibration(structures, predictions: MemberPredictions) -> dict:
    """How well the standard deviation of the members tells the error of their mean.

    Parameters
    ----------
    structures : Structures
        With labels.
    predictions : MemberPredictions

    Returns
    -------
    dict
        For ``energy`` (per atom) and ``force`` (components): ``rmse_over_std``, the root mean
        square error over the root mean square standard deviation, and ``within_1_std`` and
        ``within_2_std``, fractions of the errors that are no larger than so many standard
        deviations (0.683 and 0.954 for errors that are normal with these deviations). None where
        there are no labels or all members agree.
    """
    counts, mean = structures.counts, predictions.mean
    found = {
        "energy": ((mean.energies - structures.energies) / counts, predictions.energy_std / counts),
        "force": (mean.forces - structures.forces, predictions.forces_std),
    }
    return {quantity: _calibration(*values) for quantity, values in found.items()}


def _calibration(error, deviation):
    labelled = ~np.isnan(error)
    error, deviation = np.abs(error[labelled]), deviation[labelled]
    if not deviation.any():
        return None
    return {
        "rmse_over_std": float(np.sqrt(np.mean(error**2) / np.mean(deviation**2))),
        "within_1_std": float(np.mean(error <= deviation)),
        "within_2_std": float(np.mean(error <= 2 * deviation)),
    }


def ensemble_errors(structures, predictions: MemberPredictions) -> dict:
    """Errors of the mean, with those of the members and the calibration.

    Returns
    -------
    dict
        `fdforce.evaluation.errors` of the mean; ``members``, a list of the same for every member;
        ``calibration``.
    """
    counts = ("n_structures", "n_atoms")
    members = [errors(structures, member) for member in predictions.members]
    return {
        **errors(structures, predictions.mean),
        "members": [
            {name: value for name, value in found.items() if name not in counts}
            for found in members
        ],
        "calibration": calibration(structures, predictions),
    }


def member_range(found: dict) -> dict:
    """Mean, least and largest errors of the members.

    Parameters
    ----------
    found : dict
        Result of `ensemble_errors`.

    Returns
    -------
    dict of str to dict
        ``members`` (their mean), ``least`` and ``most``, with keys of `fdforce.evaluation.errors`.
    """
    members = found["members"]
    counts = {name: found[name] for name in ("n_structures", "n_atoms")}

    def choose(pick):
        return counts | {
            name: None if members[0][name] is None else pick([m[name] for m in members])
            for name in members[0]
        }

    mean = choose(lambda values: sum(values) / len(values))
    return {"members": mean, "least": choose(min), "most": choose(max)}

"""Several networks on one descriptor: their mean, and how far they disagree.

The members differ in their parameters alone. Descriptor, reference energies, baseline,
standardisation and scale are the same, so that features are computed once for all of them, and the
forces of the mean energy take one backward pass of the descriptor: that of the mean of dE/dG.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fdforce.errors import ConfigError, FdforceError

SAME = 1e-9
"""Relative difference up to which numbers of members count as shared: members trained on different
machines may round differently."""


def standard_deviation(values) -> np.ndarray:
    """Of members along the first axis, of the sample: ``sqrt(sum_k (x_k - mean)^2 / (N - 1))``."""
    return np.std(values, axis=0, ddof=1)


@dataclass
class EnsembleState:
    """What `Ensemble.forward` keeps.

    Attributes
    ----------
    energy : ndarray, shape (S,), eV
        Mean over the members.
    member_energy : ndarray, shape (N, S), eV
    atom_energy : ndarray, shape (n_atoms,), eV
        Mean over the members, in the order of the batch.
    """

    batch: object
    energy: np.ndarray
    member_energy: np.ndarray
    atom_energy: np.ndarray
    features: np.ndarray
    slopes: list[np.ndarray]
    densities: np.ndarray
    baseline: object = None

    @property
    def energy_std(self) -> np.ndarray:
        """Standard deviation of the members, shape (S,), eV (`standard_deviation`)."""
        return standard_deviation(self.member_energy)


def _shared(name: str) -> property:
    """An attribute of the model that the members share; set on a copy of that model."""

    def get(ensemble):
        return getattr(ensemble.shared, name)

    def put(ensemble, value):
        ensemble.shared = copy.copy(ensemble.shared)
        setattr(ensemble.shared, name, value)

    return property(get, put)


class Ensemble:
    """N members on one descriptor; energy, forces and virial are their mean.

    Parameters
    ----------
    model : ElementalNetworks or LinearModel
        All that the members share; its parameters do not count.
    theta : ndarray, shape (N, P) or (N * P,)

    Attributes
    ----------
    theta : ndarray, shape (N, P), float64
        Parameters of every member.
    shared : ElementalNetworks or LinearModel

    Raises
    ------
    ConfigError
        Fewer than two members, or a number of parameters that does not fit.
    """

    def __init__(self, model, theta):
        theta = np.array(theta, dtype=np.float64)
        n_parameters = len(model.theta)
        if theta.size % n_parameters or theta.shape[-1] not in (n_parameters, theta.size):
            raise ConfigError(
                f"Ensemble: theta has shape {theta.shape}; a member has {n_parameters} parameters"
            )
        if theta.size < 2 * n_parameters:
            raise ConfigError("Ensemble: one member is an ordinary model; give two or more")
        self.shared = model
        self.theta = theta.reshape(-1, n_parameters)

    @classmethod
    def of(cls, members: Sequence) -> Ensemble:
        """The ensemble of models that were made to share what an ensemble shares.

        Raises
        ------
        ConfigError
            Fewer than two, or models that differ in more than their parameters.
        """
        from fdforce.model_file import model_contents

        if len(members) < 2:
            raise ConfigError("Ensemble: one member is an ordinary model; give two or more")
        (first, arrays), *others = (model_contents(member) for member in members)
        for number, (header, found) in enumerate(others, start=1):
            different = [
                name for name in first
                if name != "scale" and first[name] != header[name]
            ] + [
                name for name, value in [("scale", first["scale"]), *arrays.items()]
                if name != "theta" and not _close(value, {**header, **found}.get(name))
            ]  # fmt: skip
            if different:
                raise ConfigError(
                    f"Ensemble: member {number} differs from member 0 in {', '.join(different)}; "
                    "members trained together share them (fdforce fit --ensemble)"
                )
        return cls(members[0], [member.theta for member in members])

    def __len__(self) -> int:
        return len(self.theta)

    elements = _shared("elements")
    cutoff = _shared("cutoff")
    descriptor = _shared("descriptor")
    dtype = _shared("dtype")
    settings = _shared("settings")
    kind = _shared("kind")
    scale = _shared("scale")
    reference_energies = _shared("reference_energies")
    feature_mean = _shared("feature_mean")
    feature_scale = _shared("feature_scale")
    feature_min = _shared("feature_min")
    feature_max = _shared("feature_max")
    baseline = _shared("baseline")

    def member(self, k: int):
        """Member k as a model of its own, for instance to save it or to train it further."""
        model = copy.copy(self.shared)
        model.theta = self.theta[k].copy()
        return model

    def _members(self):
        for theta in self.theta:
            model = copy.copy(self.shared)
            model.theta = theta
            yield model

    def forward(self, batch) -> EnsembleState:
        """Energies of a batch: descriptor once, networks of all members.

        Parameters
        ----------
        batch : Batch

        Returns
        -------
        EnsembleState
        """
        features, densities = self.shared.features(batch)
        energies, slopes, atom_energy = [], [], 0.0
        for member in self._members():
            output, _, of_member = member.outputs(batch, features)
            of_atoms = member.atom_energies(batch, output)
            energies.append(np.add.reduceat(of_atoms, batch.offsets[:-1]))
            slopes.append(of_member)
            atom_energy = atom_energy + of_atoms
        member_energy, atom_energy = np.array(energies), atom_energy / len(self)
        baseline = None
        if self.baseline is not None:
            baseline = self.baseline.forward(batch)
            member_energy = member_energy + baseline.energy
            atom_energy = atom_energy + baseline.atom_energy
        return EnsembleState(
            batch, member_energy.mean(axis=0), member_energy, atom_energy, features, slopes,
            densities, baseline,
        )  # fmt: skip

    def forces(self, state: EnsembleState) -> tuple[np.ndarray, np.ndarray]:
        """Forces and virials of the mean energy, in one backward pass of the descriptor.

        Parameters
        ----------
        state : EnsembleState

        Returns
        -------
        forces : ndarray, shape (n_atoms, 3), eV/Å
        virial : ndarray, shape (S, 3, 3), eV
        """
        total = None
        for d_features in self._output_slopes(state):
            total = d_features if total is None else np.add(total, d_features, out=total)
        return self.shared.pull_back(state, total / len(self))

    def member_forces(self, state: EnsembleState) -> tuple[np.ndarray, np.ndarray]:
        """Forces and virials of every member, in N backward passes of the descriptor.

        Parameters
        ----------
        state : EnsembleState

        Returns
        -------
        forces : ndarray, shape (N, n_atoms, 3), eV/Å
        virial : ndarray, shape (N, S, 3, 3), eV
        """
        pairs = [self.shared.pull_back(state, slopes) for slopes in self._output_slopes(state)]
        forces, virials = zip(*pairs, strict=True)
        return np.array(forces), np.array(virials)

    def _output_slopes(self, state):
        for member, slopes in zip(self._members(), state.slopes, strict=True):
            yield member.output_slopes(state.batch, state.features, slopes)

    def gradient(self, state, weights):
        """Refused: members are trained one by one."""
        raise FdforceError(
            f"an ensemble of {len(self)} has no parameter gradient of its own; take one member: "
            "OUT/member-0/model.npz of its run, or Ensemble.member(0)"
        )


def _close(value, other) -> bool:
    if other is None or np.shape(value) != np.shape(other):
        return False
    return bool(np.allclose(value, other, rtol=SAME, atol=SAME * np.max(np.abs(value), initial=0)))

"""Predicted values beside their references: errors by group and element, and the worst structures.

This is what a run keeps of its data sets (predictions.npz), so that a report needs no data files.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fdforce import archive
from fdforce.errors import FdforceError
from fdforce.mapped import converted

FORMAT = "fdforce predictions"
VERSION = 1
KEPT = 1000
"""Extrapolating atoms that are kept by name for each data set."""

_VOIGT = ([0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1])
_ARRAYS = (
    "counts", "species", "energies", "predicted_energies", "fixed_energies", "forces",
    "predicted_forces", "stresses", "predicted_stresses",
)  # fmt: skip
_DEVIATIONS = ("energy_std", "forces_std")


@dataclass(frozen=True)
class Comparison:
    """A labelled data set and what a model predicts for it.

    Attributes
    ----------
    elements : list of str
    counts : ndarray, shape (S,)
    species : ndarray, shape (N,)
    energies, predicted_energies : ndarray, shape (S,), eV
    fixed_energies : ndarray, shape (S,), eV
        Reference energies of the atoms, which are no merit of the model.
    forces, predicted_forces : ndarray, shape (N, 3), eV/Å
    stresses, predicted_stresses : ndarray, shape (S, 6), eV/Å^3
        xx yy zz yz xz xy. Labels are NaN where absent, here and above.
    labels, config_types : list of str
    extrapolating : list of dict or None
        The furthest atoms outside the range of the training set
        (`fdforce.feature_range.OutOfRange.describe`); None where nobody looked.
    n_extrapolating : tuple of int
        All such atoms, and the structures that hold them.
    energy_std : ndarray, shape (S,), eV, or None
        Standard deviation of the members of an ensemble.
    forces_std : ndarray, shape (N, 3), eV/Å, or None
        The same of the force components.
    """

    elements: list
    counts: np.ndarray
    species: np.ndarray
    energies: np.ndarray
    predicted_energies: np.ndarray
    fixed_energies: np.ndarray
    forces: np.ndarray
    predicted_forces: np.ndarray
    stresses: np.ndarray
    predicted_stresses: np.ndarray
    labels: list = field(default_factory=list)
    config_types: list = field(default_factory=list)
    extrapolating: list | None = None
    n_extrapolating: tuple = (0, 0)
    energy_std: np.ndarray | None = None
    forces_std: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def structure(self) -> np.ndarray:
        """Structure of each atom, shape (N,)."""
        return np.repeat(np.arange(len(self)), self.counts)

    @property
    def energy_errors(self) -> np.ndarray:
        """Shape (S,), eV/atom; NaN without a label."""
        return (self.predicted_energies - self.energies) / self.counts

    @property
    def force_errors(self) -> np.ndarray:
        """Shape (N, 3), eV/Å; NaN without a label."""
        return self.predicted_forces - self.forces

    @property
    def stress_errors(self) -> np.ndarray:
        """Shape (S, 6), eV/Å^3; NaN without a label."""
        return self.predicted_stresses - self.stresses


def compare(model, structures, prediction, outside=None, members=None) -> Comparison:
    """Put predictions beside the labels of their structures.

    Parameters
    ----------
    model : EnergyModel
    structures : Structures
    prediction : Prediction
    outside : OutOfRange, optional
    members : MemberPredictions, optional
        Of an ensemble, for its standard deviations.

    Returns
    -------
    Comparison
    """
    extrapolating, n_extrapolating = None, (0, 0)
    if outside is not None:
        extrapolating = outside.describe(structures, model.descriptor.labels, KEPT)
        n_extrapolating = len(outside), outside.n_structures
    return Comparison(
        elements=list(structures.elements),
        counts=structures.counts,
        species=structures.species,
        energies=structures.energies,
        predicted_energies=prediction.energies,
        fixed_energies=structures.compositions @ model.reference_energies,
        forces=structures.forces,
        predicted_forces=prediction.forces,
        stresses=structures.stresses[:, *_VOIGT],
        predicted_stresses=prediction.stresses[:, *_VOIGT],
        labels=list(structures.labels),
        config_types=list(structures.config_types),
        extrapolating=extrapolating,
        n_extrapolating=n_extrapolating,
        energy_std=None if members is None else members.energy_std,
        forces_std=None if members is None else members.forces_std,
    )


def errors_by_group(comparison: Comparison) -> dict[str, dict]:
    """Errors of the structures of each ``config_type``, in order of appearance.

    Returns
    -------
    dict of str to dict
        Keys of `fdforce.evaluation.errors`.
    """
    groups = np.array(comparison.config_types)
    found = {}
    for group in dict.fromkeys(comparison.config_types):
        inside = groups == group
        atoms = inside[comparison.structure]
        found[group] = {
            "n_structures": int(inside.sum()),
            "n_atoms": int(atoms.sum()),
            **_errors("energy", comparison.energy_errors[inside], comparison.energies[inside]),
            **_errors("force", comparison.force_errors[atoms], comparison.forces[atoms]),
            **_errors("stress", comparison.stress_errors[inside], comparison.stresses[inside]),
        }
    return found


def errors_by_element(comparison: Comparison) -> dict[str, dict]:
    """Errors of the force components on the atoms of each element that occurs.

    Returns
    -------
    dict of str to dict
        ``n_atoms``, ``force_rmse`` and ``force_mae`` (eV/Å), and ``force_rms``, the root mean
        square of the reference, which a model of zero forces would have for an error.
    """
    found = {}
    for z, element in enumerate(comparison.elements):
        atoms = comparison.species == z
        if atoms.any():
            forces = comparison.forces[atoms]
            found[element] = {
                "n_atoms": int(atoms.sum()),
                **_errors("force", comparison.force_errors[atoms], forces),
                "force_rms": _errors("force", forces, forces)["force_rmse"],
            }
    return found


def _errors(name, errors, labels) -> dict:
    present = errors[~np.isnan(labels)].astype(np.float64)
    if not present.size:
        return {f"{name}_rmse": None, f"{name}_mae": None}
    return {
        f"{name}_rmse": float(np.sqrt(np.mean(present**2))),
        f"{name}_mae": float(np.mean(np.abs(present))),
    }


def force_error_of_structures(comparison: Comparison) -> np.ndarray:
    """Root-mean-square error of the force components of each structure, (S,), eV/Å."""
    squares = np.mean(comparison.force_errors.astype(np.float64) ** 2, axis=1)
    sums = np.bincount(comparison.structure, squares, minlength=len(comparison))
    return np.sqrt(sums / comparison.counts)


def write_predictions(path, comparisons: dict[str, Comparison]) -> None:
    """Write comparisons, by the name of their part; see `archive.write_bytes` for errors.

    Forces and stresses are kept in float32: seven digits, a thousandth of the best errors.
    """
    header, arrays = {"format": FORMAT, "version": VERSION, "parts": {}}, {}
    for part, comparison in comparisons.items():
        header["parts"][part] = {
            key: value for key, value in vars(comparison).items()
            if key not in _ARRAYS + _DEVIATIONS
        }  # fmt: skip
        for name in _ARRAYS + _DEVIATIONS:
            values = getattr(comparison, name)
            if values is None:
                continue
            if "forces" in name or "stresses" in name:
                values = converted(values, np.float32)
            elif name in ("counts", "species"):
                values = converted(values, np.int32)
            arrays[f"{part}_{name}"] = values
    archive.write_archive(path, header, arrays)


def read_predictions(path) -> dict[str, Comparison]:
    """Read what `write_predictions` wrote.

    Raises
    ------
    FdforceError
        The file is missing, damaged, foreign or of a newer version.
    """
    header, arrays = archive.read_archive(path, FORMAT, VERSION, FdforceError)
    try:
        return {
            part: Comparison(
                **values,
                **{name: arrays[f"{part}_{name}"] for name in _ARRAYS},
                **{name: arrays.get(f"{part}_{name}") for name in _DEVIATIONS},
            )
            for part, values in header["parts"].items()
        }
    except (KeyError, TypeError, AttributeError) as problem:
        raise FdforceError(f"{path}: damaged file ({type(problem).__name__}: {problem})") from None

"""Predicted values beside their references: errors by group and element, and the worst structures.

This is what a run keeps of its data sets (predictions.npz), so that a report needs no data files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from fdforce import archive
from fdforce.errors import FdforceError
from fdforce.evaluation import accumulate, parts_of, summarise
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
_TEXTS = ("labels", "config_types")


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
    labels, config_types : sequence of str
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
    labels: Sequence = ()
    config_types: Sequence = ()
    extrapolating: list | None = None
    n_extrapolating: tuple = (0, 0)
    energy_std: np.ndarray | None = None
    forces_std: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.counts)

    @cached_property
    def offsets(self) -> np.ndarray:
        """The atoms of structure s are ``offsets[s]:offsets[s + 1]``."""
        return np.concatenate([[0], np.cumsum(self.counts)])

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
        labels=structures.labels,
        config_types=structures.config_types,
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
    sizes: dict[str, list[int]] = {}
    sums: dict[str, dict] = {}
    for of_structures, of_atoms in parts_of(comparison):
        groups = np.array(comparison.config_types[of_structures])
        energies = _errors(comparison, "energies", of_structures)
        energies[0] /= comparison.counts[of_structures]
        forces = _errors(comparison, "forces", of_atoms)
        stresses = _errors(comparison, "stresses", of_structures)
        for group in dict.fromkeys(groups.tolist()):
            inside = groups == group
            atoms = np.repeat(inside, comparison.counts[of_structures])
            size = sizes.setdefault(group, [0, 0])
            size[0] += int(inside.sum())
            size[1] += int(atoms.sum())
            accumulate(
                sums.setdefault(group, {}),
                {"energy": _sums(energies, inside), "force": _sums(forces, atoms),
                 "stress": _sums(stresses, inside)},
            )  # fmt: skip
    return {
        group: {"n_structures": size[0], "n_atoms": size[1], **summarise(sums[group])}
        for group, size in sizes.items()
    }


def errors_by_element(comparison: Comparison) -> dict[str, dict]:
    """Errors of the force components on the atoms of each element that occurs.

    Returns
    -------
    dict of str to dict
        ``n_atoms``, ``force_rmse`` and ``force_mae`` (eV/Å), and ``force_rms``, the root mean
        square of the reference, which a model of zero forces would have for an error.
    """
    n_atoms = np.zeros(len(comparison.elements), dtype=int)
    sums: list[dict] = [{} for _ in comparison.elements]
    for _, of_atoms in parts_of(comparison):
        forces = _errors(comparison, "forces", of_atoms)
        species = np.asarray(comparison.species[of_atoms])
        for z in range(len(n_atoms)):
            atoms = species == z
            n_atoms[z] += atoms.sum()
            labels = [forces[1], forces[1]]
            accumulate(sums[z], {"force": _sums(forces, atoms), "label": _sums(labels, atoms)})
    found = {}
    for element, number, of_element in zip(comparison.elements, n_atoms, sums):
        if number:
            errors = summarise(of_element)
            rms, _ = errors.pop("label_rmse"), errors.pop("label_mae")
            found[element] = {"n_atoms": int(number), **errors, "force_rms": rms}
    return found


def _errors(comparison, name, rows) -> list[np.ndarray]:
    """Errors of some rows, and their labels."""
    labels = np.asarray(getattr(comparison, name)[rows], dtype=np.float64)
    return [getattr(comparison, f"predicted_{name}")[rows] - labels, labels]


def _sums(errors_and_labels, inside) -> np.ndarray:
    """Sums of squares and of absolutes of the rows that are labelled, and their number."""
    errors, labels = (values[inside] for values in errors_and_labels)
    present = errors[~np.isnan(labels)]
    return np.array([np.sum(present**2), np.sum(np.abs(present)), present.size])


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
        header["parts"][part] = of_part = {
            field.name: getattr(comparison, field.name)
            for field in fields(comparison)
            if field.name not in _ARRAYS + _DEVIATIONS
        }
        of_part |= {name: list(of_part[name]) for name in _TEXTS}
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
                **values | {name: tuple(values[name]) for name in _TEXTS},
                **{name: arrays[f"{part}_{name}"] for name in _ARRAYS},
                **{name: arrays.get(f"{part}_{name}") for name in _DEVIATIONS},
            )
            for part, values in header["parts"].items()
        }
    except (KeyError, TypeError, AttributeError) as problem:
        raise FdforceError(f"{path}: damaged file ({type(problem).__name__}: {problem})") from None

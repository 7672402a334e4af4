"""Model files: NumPy archives without pickle, with a JSON header that describes them."""

from __future__ import annotations

import contextlib
import copy
from datetime import UTC, datetime

import numpy as np

from fdforce import archive
from fdforce.errors import FdforceError, ModelFileError

FORMAT = "fdforce model"
VERSION = 2
"""1: one model; 2: an ensemble, whose theta is (N, P)."""


def model_contents(model) -> tuple[dict, dict]:
    """Header entries and arrays from which `make_model` makes the model again."""
    header = {
        "kind": model.kind,
        "elements": list(model.elements),
        "descriptor": {"name": model.descriptor.name, **model.descriptor.settings},
        "network": model.settings,
        "precision": str(model.dtype),
        "scale": model.scale,
        "baseline": None if model.baseline is None else model.baseline.name,
    }
    arrays = {
        "theta": model.theta,
        "reference_energies": model.reference_energies,
        "feature_mean": model.feature_mean,
        "feature_scale": model.feature_scale,
    }
    if model.feature_min is not None:
        arrays["feature_min"], arrays["feature_max"] = model.feature_min, model.feature_max
    if model.theta.ndim == 2:
        header["members"] = len(model.theta)
    if header["baseline"] == "calculator":
        header["baseline_calculator"] = model.baseline.source
    elif model.baseline is not None:
        arrays["baseline_inner"] = model.baseline.inner
        arrays["baseline_outer"] = model.baseline.outer
    return header, arrays


def make_model(header: dict, arrays: dict):
    """The model of `model_contents`."""
    from fdforce.descriptors import make_descriptor
    from fdforce.models import MODELS, Ensemble
    from fdforce.models.zbl import BASELINES

    if "members" in header:
        header, theta = dict(header), arrays["theta"]
        if theta.ndim != 2 or len(theta) != header.pop("members"):
            raise ValueError(f"theta has shape {theta.shape}")
        if not np.isfinite(theta).all():
            raise ValueError("numbers that are not finite")
        return Ensemble(make_model(header, {**arrays, "theta": theta[0]}), theta)
    descriptor = make_descriptor(**header["descriptor"])
    model = MODELS[header["kind"]](descriptor, dtype=header["precision"], **header["network"])
    if arrays["theta"].shape != model.theta.shape:
        raise ValueError(f"{len(arrays['theta'])} parameters instead of {len(model.theta)}")
    model.theta = arrays["theta"]
    model.scale = float(header["scale"])
    of_features = model.feature_mean.shape
    shapes = {
        "reference_energies": model.reference_energies.shape,
        "feature_mean": of_features,
        "feature_scale": of_features,
    }
    if "feature_min" in arrays:  # absent in files of early versions
        shapes |= {"feature_min": of_features, "feature_max": of_features}
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has shape {arrays[name].shape}")
        setattr(model, name, arrays[name])
    if not all(np.isfinite(value).all() for value in arrays.values()):
        raise ValueError("numbers that are not finite")
    if header["baseline"] == "calculator":
        from fdforce.models.calculator_baseline import CalculatorBaseline

        model.baseline = CalculatorBaseline(model.elements, header["baseline_calculator"])
    elif header["baseline"] is not None:
        baseline = BASELINES[header["baseline"]]
        model.baseline = baseline(
            model.elements, arrays["baseline_outer"], arrays["baseline_inner"]
        )
    return model


def save_model(path, model, **provenance) -> None:
    """Write a model, whole or not at all.

    Parameters
    ----------
    path : path
    model : ElementalNetworks, LinearModel or Ensemble
    **provenance
        Entries of the header that say where the model comes from: ``epsilon``, ``epoch`` …

    Raises
    ------
    FdforceError
        The file cannot be written; an earlier one is unchanged.
    """
    import fdforce

    header, arrays = model_contents(model)
    header = {
        "format": FORMAT,
        "version": VERSION if "members" in header else 1,
        "units": {"length": "Å", "energy": "eV", "forces": "eV/Å", "stress": "eV/Å^3"},
        **header,
        "provenance": {
            "fdforce": fdforce.__version__,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            **provenance,
        },
    }
    archive.write_archive(path, header, arrays)


@contextlib.contextmanager
def damaged(path, error: type[FdforceError]):
    """Turn what goes wrong with the contents of a file into an error that names it."""
    try:
        yield
    except (KeyError, TypeError, ValueError, FdforceError) as problem:
        raise error(f"{path}: damaged file ({type(problem).__name__}: {problem})") from problem


def read_header(path) -> dict:
    """Header of a model file.

    Raises
    ------
    ModelFileError
        The file is missing, damaged, foreign or of a newer version.
    """
    return archive.read_archive(path, FORMAT, VERSION, ModelFileError)[0]


def load_model(path, *, precision: str | None = None):
    """Read a model.

    Parameters
    ----------
    path : path
        A ``model.npz``.
    precision : {"float64", "float32"}, optional
        Of the kernels; as trained by default.

    Returns
    -------
    EnergyModel

    Raises
    ------
    ModelFileError
        The file is missing, damaged, foreign or of a newer version.
    """
    header, arrays = archive.read_archive(path, FORMAT, VERSION, ModelFileError)
    with damaged(path, ModelFileError):
        model = make_model(header, arrays)
    model.provenance = header.get("provenance", {})
    return model if precision is None else in_precision(model, precision)


def in_precision(model, precision: str):
    """The same model with kernels in another precision."""
    other = copy.copy(model)
    other.dtype = np.dtype(precision)
    return other

"""HDF5 files of the ANI data sets: ANI-1, COMP6 and ANI-1x. Needs h5py.

Two layouts, told apart by the names in a molecule's group; lengths are in Å, energies in hartree:

ANI-1 and COMP6 version 1
    ``species`` (N,) letters, ``coordinates`` (M, N, 3), ``energies`` (M,), in COMP6 also
    ``forces`` (M, N, 3), which are the *gradient* of the energy in hartree/Å, so that the force is
    their negative: the authors say so at https://github.com/isayev/COMP6/issues/2, and the energies
    along the dissociation curves of S66x8 agree. ``coordinatesHE`` and ``energiesHE``, structures
    of high energy that ANI-1 was not trained on, are left out.
ANI-1x (and ANI-1ccx in the same file)
    ``atomic_numbers`` (N,), ``coordinates``, and for every level of theory ``LEVEL.energy`` and
    ``LEVEL.forces``, true forces in hartree/Å; NaN where not computed.

The labels of ANI-1x are those of wb97x_dz. Those of wb97x_tz and ccsd(t)_cbs are there under their
own names, in eV and eV/Å, for ``energy_key`` and ``forces_key``.

Other layouts with the name ``forces``, such as ANI-2x with its numbered species, are refused: the
name does not tell the sign. In the layouts above, energies that contradict the sign are an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from fdforce.errors import DataError
from fdforce.formats.labelled import CHUNK, atomic_numbers_of, first_bytes, labelled
from fdforce.units import HARTREE

LEVEL = "wb97x_dz"
"""The level of theory of ANI-1x that gives ``energy`` and ``forces`` ..."""
OTHER_LEVELS = ("wb97x_tz", "ccsd(t)_cbs")
"""... and those that are kept under their own names."""

NEAR = 0.3
"""Å. Farthest that an atom moves between two structures that tell the sign of forces."""

_MAGIC = b"\x89HDF\r\n\x1a\n"


def recognises(path: Path) -> bool:
    """An HDF5 file; netCDF, which is one too, is left to ASE."""
    return path.suffix != ".nc" and first_bytes(path, len(_MAGIC)) == _MAGIC


def read_structures(path: Path) -> Iterator[Atoms]:
    """The structures of every molecule, which is their ``info["trajectory"]``, in eV and Å.

    Raises
    ------
    DataError
        If h5py is missing, the file is damaged or has another layout; the group is named.
    """
    try:
        import h5py
    except ImportError:
        raise DataError(
            f"{path}: an HDF5 file, which needs h5py; install it with pip install 'fdforce[hdf5]'"
        ) from None
    try:
        with h5py.File(path, "r") as file:
            found = False
            for group in _molecules(file):
                found = True
                yield from _conformers(group, f"{path}, {group.name}")
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as problem:
        reason = f"{problem}".partition("\n")[0]
        raise DataError(f"{path}: damaged, or not an ANI file ({reason:.150})") from problem
    if not found:
        raise DataError(
            f"{path}: no group of the HDF5 file has coordinates with species (ANI-1, COMP6) or "
            "atomic_numbers (ANI-1x)"
        )


def _molecules(group):
    """Groups that hold coordinates, in the order of their names."""
    import h5py

    if "coordinates" in group:
        yield group
        return
    for name in group:
        member = group[name]
        if isinstance(member, h5py.Group):
            yield from _molecules(member)


def _conformers(group, where: str) -> Iterator[Atoms]:
    if "atomic_numbers" in group:
        numbers = atomic_numbers_of(group["atomic_numbers"][()], f"{where}/atomic_numbers")
        kinds = {"energy": (f"{LEVEL}.energy", 1.0), "forces": (f"{LEVEL}.forces", 1.0)}
        for level in OTHER_LEVELS:
            kinds |= {f"{level}.{kind}": (f"{level}.{kind}", 1.0) for kind in ("energy", "forces")}
    elif "species" in group:
        numbers = _numbers_of_letters(group["species"][()], where)
        kinds = {"energy": ("energies", 1.0), "forces": ("forces", -1.0)}
    else:
        raise DataError(f"{where}: has coordinates, but neither species nor atomic_numbers")
    shape = _numbers(group, "coordinates", where).shape
    if len(shape) != 3 or shape[1:] != (len(numbers), 3):
        raise DataError(f"{where}/coordinates has shape {shape}; expected (M, {len(numbers)}, 3)")
    columns = {
        name: (_column(group, source, shape, where), sign * HARTREE)
        for name, (source, sign) in kinds.items()
        if source in group
    }
    for start in range(0, shape[0], CHUNK):
        part = slice(start, start + CHUNK)
        positions = group["coordinates"][part].astype(np.float64)
        values = {n: c[part].astype(np.float64) * unit for n, (c, unit) in columns.items()}
        _check_sign(positions, values, where)
        for k, points in enumerate(positions):
            at = f"{where}, structure {start + k}"
            of_one = {name: _known(value[k], name, at) for name, value in values.items()}
            yield _structure(numbers, points, of_one, group.name)


def _column(group, source, shape, where):
    """A data set of the group; DataError unless it has a row for each structure."""
    expected = shape if source.endswith("forces") else shape[:1]
    found = _numbers(group, source, where).shape
    if found != expected and (source.endswith("forces") or found != (*expected, 1)):
        raise DataError(f"{where}/{source} has shape {found}; expected {expected}")
    return group[source]


def _numbers(group, name, where):
    """A data set of real numbers."""
    kind = getattr(getattr(group[name], "dtype", None), "kind", None)
    if kind is None or kind not in "iuf":
        raise DataError(f"{where}/{name} is no array of real numbers")
    return group[name]


def _check_sign(positions, values: dict, where: str) -> None:
    """Raise DataError where the energies say that the forces have the other sign.

    Between structures that follow each other, as in normal-mode samples and dissociation curves,
    the energy changes by the mean force along the way, but for the third order of the step.
    """
    if not {"energy", "forces"} <= values.keys():
        return
    steps, forces = np.diff(positions, axis=0), values["forces"]
    change = np.diff(values["energy"].reshape(-1))
    work = -0.5 * np.sum((forces[1:] + forces[:-1]) * steps, axis=(1, 2))
    near = (np.abs(steps).max(axis=(1, 2)) < NEAR) & np.isfinite(change + work)
    as_read = np.sum((change - work)[near] ** 2)
    turned = np.sum((change + work)[near] ** 2)
    if near.sum() >= 3 and turned < 0.1 * as_read:
        raise DataError(
            f"{where}: the energies of {near.sum()} steps say that the forces have the other sign "
            "than those of this layout (COMP6: gradients, ANI-1x: forces); turn them in the file"
        )


def _known(value: np.ndarray, name: str, where: str):
    """A label, or None where the file has NaN throughout: not computed."""
    missing = np.isnan(value)
    if missing.all():
        return None
    if missing.any():
        raise DataError(f"{where}: {name} are NaN for some atoms only; correct or remove it")
    return float(value.item()) if value.size == 1 else value


def _structure(numbers, points, values, name) -> Atoms:
    atoms = Atoms(numbers, positions=points, info={"trajectory": name.strip("/")})
    for key, value in values.items():
        if key not in ("energy", "forces") and value is not None:
            (atoms.info if np.ndim(value) == 0 else atoms.arrays)[key] = value
    return labelled(atoms, energy=values.get("energy"), forces=values.get("forces"))


def _numbers_of_letters(species, where: str) -> np.ndarray:
    if species.ndim != 1 or species.dtype.kind not in "SO":
        raise DataError(
            f"{where}/species has shape {species.shape} and type {species.dtype}; expected letters "
            "for N atoms, as in ANI-1 and COMP6"
        )
    symbols = [s.decode() if isinstance(s, bytes) else str(s) for s in species]
    unknown = [s for s in symbols if s not in atomic_numbers or s == "X"]
    if unknown:
        raise DataError(f"{where}/species holds '{unknown[0]}', which is not a chemical symbol")
    return np.array([atomic_numbers[s] for s in symbols], dtype=int)

"""Finding energies, forces and stresses in ASE structures, under whatever name they are kept.

A name is looked up in the calculator's results, then in ``info``, then in ``arrays``. Where no
name is given, the first of the usual names that occurs anywhere in a file is used for the whole
file: choosing per structure would mix, say, reference energies with the predictions of a model
kept under the other name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from fdforce.errors import DataError

# free_energy comes last: with smeared occupations it is the energy that forces belong to, but
# data sets are published with `energy`, and mixing the two would be noise.
USUAL_KEYS = {
    "energy": ("REF_energy", "energy", "free_energy"),
    "forces": ("REF_forces", "forces"),
    "stress": ("REF_stress", "REF_virial", "stress", "virial"),
}


def named_values(atoms: Atoms) -> dict[str, Any]:
    """Return everything a structure carries by name, except its geometry.

    Results of a calculator that belong to other positions are left out, as ASE does.
    """
    values = {k: v for k, v in atoms.arrays.items() if k not in ("numbers", "positions")}
    values.update(atoms.info)
    if atoms.calc is not None and not _is_stale(atoms):
        results = getattr(atoms.calc, "results", {})
        values.update({k: v for k, v in results.items() if v is not None})
    return values


def _is_stale(atoms: Atoms) -> bool:
    # What calc.check_state(atoms) answers, at a tenth of its time.
    computed = getattr(atoms.calc, "atoms", None)
    return computed is not None and not (
        np.array_equal(computed.positions, atoms.positions)
        and np.array_equal(computed.numbers, atoms.numbers)
        and np.array_equal(computed.cell, atoms.cell)
        and np.array_equal(computed.pbc, atoms.pbc)
    )


def choose_key(quantity: str, given: str, values: Iterable[dict[str, Any]]) -> str:
    """Return the name to read a quantity from: the given one, else the first usual one present.

    Parameters
    ----------
    quantity : "energy", "forces" or "stress"
    given : str
        The user's choice, "" for none.
    values : iterable of dict
        What the structures of one file carry (`named_values`).

    Returns
    -------
    str
        "" where none of the usual names occurs.
    """
    if given:
        return given
    present = set().union(*values)
    return next((key for key in USUAL_KEYS[quantity] if key in present), "")


def check_given_keys(given: dict[str, str], values: Sequence[dict[str, Any]], where: str) -> None:
    """Raise `DataError` if a key that the user named is in no structure at all."""
    present = set().union(*values)
    for quantity, key in given.items():
        if key and key not in present:
            raise DataError(
                f"{where}: no structure has the {quantity}_key '{key}'; "
                f"the keys there are {_listing(present)}"
            )


def check_any_label(energies, forces, values: Sequence[dict[str, Any]], where: str) -> None:
    """Raise `DataError` if there is neither an energy nor a force in the whole set."""
    if not (np.isfinite(energies).any() or np.isfinite(forces).any()):
        raise DataError(
            f"{where}: no structure has an energy or forces; "
            f"the keys there are {_listing(set().union(*values))}.\n"
            "Name them with data.energy_key and data.forces_key"
        )


def _listing(keys: set[str]) -> str:
    return ", ".join(sorted(map(str, keys))) or "none"


def read_energy(values: dict[str, Any], key: str, label: str) -> float:
    """Return the energy (eV), NaN where absent.

    Raises
    ------
    DataError
        If the value is not one finite number.
    """
    if key not in values:
        return np.nan
    return _one_number(values[key], key, label)


def read_weight(values: dict[str, Any], label: str) -> float:
    """Return ``info["weight"]``, 1 where absent; `DataError` unless finite and not negative."""
    weight = _one_number(values.get("weight", 1.0), "weight", label)
    if weight < 0.0:
        raise DataError(f"{label}: weight is {weight:g}; it must not be negative")
    return weight


def _one_number(value: Any, key: str, label: str) -> float:
    numbers = _numbers(value, key, label)
    if numbers.size != 1:
        raise DataError(f"{label}: {key} has shape {numbers.shape}; expected one number")
    if not np.isfinite(numbers).all():
        raise DataError(f"{label}: {key} is {numbers.item()}; correct or remove it")
    return numbers.item()


def read_forces(values: dict[str, Any], key: str, label: str, n_atoms: int) -> np.ndarray:
    """Return the forces (n_atoms, 3) in eV/Å, all NaN where absent.

    Raises
    ------
    DataError
        If the shape is wrong or a component is not finite; the atom is named.
    """
    if key not in values:
        return np.full((n_atoms, 3), np.nan)
    forces = _numbers(values[key], key, label)
    if forces.shape != (n_atoms, 3):
        raise DataError(f"{label}: {key} has shape {forces.shape}; expected ({n_atoms}, 3)")
    if not np.isfinite(forces).all():
        atom, axis = np.argwhere(~np.isfinite(forces))[0]
        raise DataError(
            f"{label}: {key} of atom {atom} is {forces[atom, axis]} along {'xyz'[axis]}; "
            "correct or remove the structure"
        )
    return forces


def read_stress(values: dict[str, Any], key: str, label: str, volume: float) -> np.ndarray:
    """Return the symmetric stress (3, 3) in eV/Å^3, NaN where absent.

    A key that contains "virial" holds -volume * stress in eV. Stresses of structures that are not
    periodic in three directions (volume NaN) have no meaning and count as absent.

    Raises
    ------
    DataError
        If there are not 6 (xx yy zz yz xz xy) or 9 numbers, or one of them is not finite.
    """
    if key not in values or np.isnan(volume):
        return np.full((3, 3), np.nan)
    numbers = _numbers(values[key], key, label)
    if numbers.size not in (6, 9):
        raise DataError(f"{label}: {key} has shape {numbers.shape}; expected 6, 9 or 3x3 numbers")
    if not np.isfinite(numbers).all():
        bad = numbers[~np.isfinite(numbers)][0]
        raise DataError(f"{label}: {key} holds {bad}; correct or remove it")
    if numbers.size == 6:
        stress = voigt_6_to_full_3x3_stress(numbers.ravel())
    else:
        stress = numbers.reshape(3, 3)
    if "virial" in key.lower():
        stress = -stress / volume
    return 0.5 * (stress + stress.T)


def _numbers(value: Any, key: str, label: str) -> np.ndarray:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{label}: {key} is {value!r:.60}; expected numbers") from None

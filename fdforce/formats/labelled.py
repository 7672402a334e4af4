"""What every reader of structures does at the end, and a few of them in between."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from fdforce.errors import DataError

CHUNK = 1000
"""Structures that a reader holds at a time."""


def labelled(atoms: Atoms, **results) -> Atoms:
    """The structure with energy (eV), forces (eV/Å) and stress (eV/Å^3), each where not None."""
    results = {name: value for name, value in results.items() if value is not None}
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def atomic_numbers_of(numbers, where: str) -> np.ndarray:
    """Atomic numbers, shape (N,), as integers; DataError unless all are from 1 to 118."""
    numbers = np.asarray(numbers)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iuf":
        raise DataError(
            f"{where} has shape {numbers.shape} and type {numbers.dtype}; expected (N,)"
        )
    bad = numbers[~((numbers >= 1) & (numbers <= 118) & (numbers % 1 == 0))]
    if bad.size:
        raise DataError(f"{where} holds {bad[0]}, which is no atomic number")
    return numbers.astype(int)


def first_bytes(path, number: int) -> bytes:
    """The first bytes of a file; nothing where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(number)
    except OSError:
        return b""

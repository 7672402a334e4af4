"""Normal modes at Gamma: the Hessian from analytic forces, translations and rotations apart.

The Hessian is a central difference of forces. Motions of the whole, which cost no energy, are
projected out of it, so that the others number 3N - 6 (3N - 5 for linear molecules, 3N - 3 for
crystals) wherever the atoms are; at a stationary point the projection changes nothing else. See
E. B. Wilson, J. C. Decius and P. C. Cross, Molecular Vibrations (1955), chapter 2.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write
from ase.optimize import BFGS

from fdforce.archive import write_bytes
from fdforce.errors import DataError, FdforceError

DELTA = 0.002
"""Å. Of ethanol this moves vibrations by less than 0.1 cm^-1 and rotations to some 4 cm^-1, in
proportion to its square and to itself."""

FORCE_GOAL = 1e-4
"""eV/Å at which a relaxation ends."""

RELAXED = 0.01
"""eV/Å. With larger forces modes below some 100 cm^-1 mean little."""

LINEAR = 1e-3
"""Width over length below which a molecule counts as linear: turning it about itself is nothing."""

INVERSE_CM = units._hbar * units.J * units.s / units.invcm
"""cm^-1 in a unit of angular frequency, sqrt(eV / amu) / Å (521.47)."""

KINDS = ("translation", "rotation", "vibration")


@dataclass(frozen=True)
class Modes:
    """Normal modes: translations first, then rotations, then vibrations by their frequency.

    Attributes
    ----------
    atoms : ase.Atoms
        Where they were computed.
    kinds : list of str
        One of `KINDS` for each mode.
    frequencies : ndarray, shape (n,), cm^-1
        Negative numbers stand for imaginary frequencies.
    displacements : ndarray, shape (n, n_atoms, 3)
        Cartesian, of norm 1.
    reduced_masses : ndarray, shape (n,), amu
        For these displacements.
    largest_force : float, eV/Å
        On an atom; 0 at a stationary point.
    """

    atoms: Atoms
    kinds: list[str]
    frequencies: np.ndarray
    displacements: np.ndarray
    reduced_masses: np.ndarray
    largest_force: float

    def of_kind(self, kind: str) -> np.ndarray:
        """Frequencies of one kind, cm^-1."""
        return self.frequencies[[name == kind for name in self.kinds]]

    @property
    def vibrations(self) -> np.ndarray:
        """Their frequencies, cm^-1, in ascending order."""
        return self.of_kind("vibration")

    @property
    def zero_point_energy(self) -> float:
        """Half the quanta of all real vibrations, eV."""
        found = self.vibrations
        return float(found[found > 0].sum() * units.invcm / 2)

    def write(self, path) -> None:
        """Write extended xyz: a frame for each mode, with an array ``displacement``.

        The line of a frame holds ``mode`` (from 0), ``kind``, ``frequency`` (cm^-1, negative where
        imaginary) and ``reduced_mass`` (amu).
        """
        text = io.StringIO()
        for k, kind in enumerate(self.kinds):
            frame = self.atoms.copy()
            frame.info = {
                "mode": k, "kind": kind, "frequency": float(self.frequencies[k]),
                "reduced_mass": float(self.reduced_masses[k]),
            }  # fmt: skip
            frame.set_array("displacement", self.displacements[k])
            write(text, frame, format="extxyz")
        write_bytes(path, text.getvalue().encode())


def relax(atoms: Atoms, force_goal: float = FORCE_GOAL, steps: int = 1000) -> int:
    """Move atoms, not their cell, to a minimum of the energy (BFGS); the number of steps taken.

    Raises
    ------
    FdforceError
        There is none after so many steps.
    """
    optimizer = BFGS(atoms, logfile=None)
    if not optimizer.run(fmax=force_goal, steps=steps):
        force = np.linalg.norm(atoms.get_forces(), axis=1).max()
        raise FdforceError(
            f"no minimum after {steps} steps of relaxation, the largest force is {force:.3g} eV/Å; "
            "start closer to one, or look whether the model is good there"
        )
    return optimizer.nsteps


def hessian(atoms: Atoms, free, delta: float = DELTA) -> np.ndarray:
    """Second derivatives of the energy by central differences of the forces.

    Parameters
    ----------
    atoms : ase.Atoms
        With a calculator; as before afterwards.
    free : ndarray of int, shape (n,)
        Atoms that move.
    delta : float, Å

    Returns
    -------
    ndarray, shape (3n, 3n), eV/Å^2
        Symmetric; exact up to ``delta**2`` times fourth derivatives.
    """
    start = atoms.get_positions()
    moved = atoms.copy()
    moved.set_constraint()  # one would hide forces
    moved.calc = atoms.calc
    rows = np.empty((len(free), 3, 3 * len(free)))
    for k, atom in enumerate(free):
        for axis in range(3):
            forces = []
            for step in (delta, -delta):
                moved.positions[atom, axis] = start[atom, axis] + step
                forces.append(moved.get_forces()[free].ravel())
            moved.positions[atom, axis] = start[atom, axis]
            rows[k, axis] = (forces[1] - forces[0]) / (2 * delta)
    rows = rows.reshape(3 * len(free), -1)
    return (rows + rows.T) / 2


def find_modes(atoms: Atoms, delta: float = DELTA) -> Modes:
    """Normal modes of a molecule, or those of a crystal that repeat with its cell (Gamma).

    Parameters
    ----------
    atoms : ase.Atoms
        With a calculator. Atoms that a constraint `FixAtoms` holds do not move.
    delta : float, Å
        Displacement for the Hessian.

    Returns
    -------
    Modes

    Raises
    ------
    DataError
        Constraints other than FixAtoms, or no atom that moves.
    """
    fixed = np.zeros(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms):
            raise DataError(
                f"the structure has a constraint {type(constraint).__name__}; modes know FixAtoms "
                "alone, remove the other"
            )
        fixed[constraint.index] = True
    free = np.flatnonzero(~fixed)
    if not len(free):
        raise DataError("all atoms are fixed: there are no modes")
    largest_force = np.linalg.norm(atoms.get_forces()[free], axis=1).max()
    root = np.repeat(np.sqrt(atoms.get_masses()[free]), 3)
    weighted = hessian(atoms, free, delta) / np.outer(root, root)

    outer = _motions_of_the_whole(atoms) if len(free) == len(atoms) else {}
    kinds, squares, vectors = [], [], []
    blocks = {**outer, "vibration": _rest(list(outer.values()), len(root))}
    for kind, basis in blocks.items():
        found, inside = np.linalg.eigh(basis.T @ weighted @ basis)
        kinds += [kind] * len(found)
        squares.append(found)
        vectors.append((basis @ inside).T)
    squares, vectors = np.concatenate(squares), np.concatenate(vectors)
    cartesian = vectors / root
    norms = np.linalg.norm(cartesian, axis=1)
    displacements = np.zeros((len(squares), len(atoms), 3))
    displacements[:, free] = (cartesian / norms[:, None]).reshape(len(squares), -1, 3)
    plain = atoms.copy()
    plain.calc = SinglePointCalculator(
        plain, energy=atoms.get_potential_energy(), forces=atoms.get_forces()
    )
    return Modes(
        plain, kinds, np.sign(squares) * np.sqrt(np.abs(squares)) * INVERSE_CM, displacements,
        norms**-2, float(largest_force),
    )  # fmt: skip


def _motions_of_the_whole(atoms) -> dict:
    """Orthonormal columns of translations and rotations, in coordinates weighted by sqrt(mass)."""
    root = np.sqrt(atoms.get_masses())
    translations = [np.outer(root, axis) for axis in np.eye(3)]
    found = {"translation": _orthonormal(translations)}
    if atoms.pbc.sum() > 1 or len(atoms) == 1:
        return found
    axes = atoms.cell.array[atoms.pbc] if atoms.pbc.any() else np.eye(3)
    arms = root[:, None] * (atoms.positions - atoms.get_center_of_mass())
    turned = [np.cross(axis / np.linalg.norm(axis), arms) for axis in axes]
    length = np.linalg.norm(arms)
    rotations = _orthonormal(turned, LINEAR * length)
    if rotations.size:
        found["rotation"] = rotations
    return found


def _orthonormal(motions, least=0.0):
    """Columns that span motions (n_atoms, 3), without those that are smaller than `least`."""
    columns = np.array([motion.ravel() for motion in motions]).T
    basis, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    return basis[:, sizes > least]


def _rest(blocks, n):
    """Orthonormal columns of all that is normal to some."""
    if not blocks:
        return np.eye(n)
    taken = np.concatenate(blocks, axis=1)
    return np.linalg.svd(taken)[0][:, taken.shape[1] :]

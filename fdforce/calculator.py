"""An ASE calculator for trained models."""

from __future__ import annotations

import contextlib
import copy
import os
from dataclasses import replace

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import all_changes
from ase.data import atomic_numbers, chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress

from fdforce.batch import make_batch
from fdforce.errors import DataError, FdforceError
from fdforce.models.ensemble import Ensemble, standard_deviation
from fdforce.neighbors import build_pairs
from fdforce.structure_checks import check_positions, completed_cell
from fdforce.structures import Structures
from fdforce.threads import available_cores, single_blas

STANDARD_DEVIATIONS = ("energy_std", "forces_std")
"""What the calculator of an ensemble offers besides."""

_STATE = ("positions", "cell", "numbers", "pbc")

ATOMS_PER_THREAD = 32
"""Fewer atoms than this are not worth waking another thread."""


class Calculator(AseCalculator):
    """Energies, forces and stress of a model for ASE.

    The neighbour list reaches ``skin`` beyond the cutoff of the model. It is built again when atoms
    and cell have moved so far that a pair might be missing, or when elements or periodicity change.

    Parameters
    ----------
    model : EnergyModel or path
        A model, or its file ``model.npz``.
    skin : float, Å
        A wide skin makes longer lists that last longer.
    threads : int
        0 for all cores.

    Attributes
    ----------
    n_builds : int
        Neighbour lists built so far.
    virial : ndarray, shape (3, 3), eV
        W = -dE/ds of the last calculation, also where a stress has no meaning.

    Notes
    -----
    Results are in ASE's units: ``energy``, ``free_energy`` (the same number) and ``energies`` (of
    every atom) in eV, ``forces`` in eV/Å, and ``stress`` in eV/Å^3, in Voigt order xx yy zz yz xz
    xy and positive under tension, only for cells periodic in three directions.

    Of an ensemble these are the means of the members, and ``get_property`` also knows their
    standard deviations: ``energy_std`` (eV), which costs nothing, and ``forces_std`` (eV/Å, atoms
    and components), which takes a backward pass for every member when it is asked for. They are no
    part of `results`, because ASE takes the names there for its own.

    Raises
    ------
    ModelFileError
        The model file cannot be read.
    FdforceError
        The skin is negative.

    Examples
    --------
    >>> from ase.build import molecule
    >>> atoms = molecule("CH3CH2OH")
    >>> atoms.calc = fdforce.Calculator("runs/ethanol/model.npz")  # doctest: +SKIP
    >>> atoms.get_potential_energy(), atoms.get_forces()  # doctest: +SKIP
    """

    name = "fdforce"
    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]

    def __init__(self, model, *, skin: float = 0.5, threads: int = 0):
        super().__init__()
        if not skin >= 0:
            raise FdforceError(f"Calculator: skin = {skin}: must be at least 0 Å")
        if isinstance(model, str | os.PathLike):
            from fdforce.model_file import load_model

            model = load_model(model)
        self.model = model
        self.skin = float(skin)
        self.threads = int(threads)
        self.n_builds = 0
        self._list = None
        self._deviations = {}
        if isinstance(model, Ensemble):
            self.implemented_properties = [*self.implemented_properties, *STANDARD_DEVIATIONS]

    def get_property(self, name, atoms=None, allow_calculation=True):
        """A result by its name, those of an ensemble included: ASE's method."""
        if name not in STANDARD_DEVIATIONS or name not in self.implemented_properties:
            return super().get_property(name, atoms, allow_calculation)
        if super().get_property("energy", atoms, allow_calculation) is None:
            return None
        if name == "forces_std" and name not in self._deviations:
            if not allow_calculation:
                return None
            with _use_threads(self.threads, len(self.atoms)) as threads:
                state = self.model.forward(self._batch(self.atoms, threads))
                forces, _ = self.model.member_forces(state)
            self._deviations[name] = standard_deviation(forces)
        return copy.copy(self._deviations[name])

    def check_state(self, atoms, tol=0.0) -> list[str]:
        """What has changed since the last call: ASE's method, exact and five times faster."""
        if self.atoms is None:
            return list(all_changes)
        return [
            name
            for name in _STATE
            if not np.array_equal(getattr(atoms, name), getattr(self.atoms, name))
        ]

    def calculate(self, atoms=None, properties=None, system_changes=all_changes) -> None:
        """Compute every property of `atoms`; ASE calls this when something has changed.

        Raises
        ------
        DataError
            No atoms, an element that the model does not know, positions that are not finite or
            absurdly far out, or a singular cell.
        """
        super().calculate(atoms, properties, system_changes)
        atoms = self.atoms
        with _use_threads(self.threads, len(atoms)) as threads:
            batch = self._batch(atoms, threads)
            state = self.model.forward(batch)
            forces, virial = self.model.forces(state)
        energy = float(state.energy[0])
        self.virial = virial[0]
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}
        if hasattr(state, "atom_energy"):
            self.results["energies"] = state.atom_energy
        if hasattr(state, "energy_std"):
            self._deviations = {"energy_std": float(state.energy_std[0])}
        if atoms.pbc.all():
            self.results["stress"] = -full_3x3_to_voigt_6_stress(virial[0]) / batch.volumes[0]

    def _batch(self, atoms, threads):
        if not np.isfinite(atoms.positions).all():
            atom = int(np.argmin(np.isfinite(atoms.positions).all(axis=1)))
            raise DataError(
                f"the position of atom {atom} is {atoms.positions[atom]}; "
                "if this happens in dynamics, take a smaller time step"
            )
        found = self._list and self._list.batch(atoms, threads)
        if found is None:
            self._list = _SkinList(atoms, self.model, self.skin, threads)
            self.n_builds += 1
            found = self._list.first
        return found


class _SkinList:
    """The neighbour list of some atoms, good for others that are nearly the same.

    Parameters
    ----------
    atoms : ase.Atoms
    model : EnergyModel
    skin : float, Å
    threads : int

    Attributes
    ----------
    first : Batch
        Of `atoms` themselves.
    """

    def __init__(self, atoms, model, skin, threads):
        structure = one_structure(atoms, model.elements)
        check_positions(structure)
        pairs = build_pairs(structure, model.cutoff, skin=skin)
        self.first = make_batch(structure, pairs, n_chunks=threads)
        self._threads = threads
        self._numbers = atoms.numbers.copy()
        self._pbc = atoms.pbc.copy()
        self._cell = atoms.cell.array.copy()

    def batch(self, atoms, threads):
        """Batch of moved atoms on this list; None where a pair might be missing."""
        if (
            threads != self._threads
            or not np.array_equal(atoms.numbers, self._numbers)
            or not np.array_equal(atoms.pbc, self._pbc)
        ):
            return None
        first, positions = self.first, atoms.positions.copy()
        if np.array_equal(atoms.cell.array, self._cell):
            moved = _largest(positions - first.positions)
            return replace(first, positions=positions) if 2 * moved <= first.skin else None
        return self._strained(positions, atoms.cell.array)

    def _strained(self, positions, cell):
        """The same in another cell, ``cell = first cell @ growth``.

        A separation d becomes ``d @ growth + w``, where w is at most twice the largest displacement
        u from the grown positions. With e the larger norm of growth - 1 and 1 / growth - 1, it
        changes by at most ``e reach + 2 u (1 + e)`` where it is below `reach` before or after. No
        more than the skin is allowed up to ``reach = cutoff + 2 skin``: as far as the list itself
        needs it, and a baseline that breaks off a sorted row.
        """
        first = self.first
        cell = completed_cell(cell, self._pbc, "atoms")
        growth = np.eye(3)
        if self._pbc.any():
            growth = np.linalg.solve(first.cells[0], cell)
        error = max(
            np.linalg.norm(growth - np.eye(3), 2),
            np.linalg.norm(np.linalg.inv(growth) - np.eye(3), 2),
        )
        moved = _largest(positions - first.positions @ growth)
        reach = first.cutoff + 2 * first.skin
        if error * reach + 2 * moved * (1 + error) > first.skin:
            return None
        volumes = first.volumes * abs(np.linalg.det(growth))
        return replace(first, positions=positions, cells=cell[None], volumes=volumes)


def one_structure(atoms: Atoms, elements) -> Structures:
    """Atoms as a data set of one structure without labels, distances unchecked.

    `fdforce.read_structures` refuses close atoms as mistakes in the data; in dynamics they occur.

    Parameters
    ----------
    atoms : ase.Atoms
    elements : sequence of str

    Raises
    ------
    DataError
        No atoms, an element not among `elements`, or a singular cell.
    """
    n_atoms, periodic = len(atoms), atoms.pbc.copy()
    if n_atoms == 0:
        raise DataError("there are no atoms to compute")
    table = np.full(len(chemical_symbols), -1, dtype=np.int32)
    table[[atomic_numbers[element] for element in elements]] = np.arange(len(elements))
    species = table[atoms.numbers]
    if (species < 0).any():
        atom = int(np.argmax(species < 0))
        raise DataError(
            f"atom {atom} is {atoms.symbols[atom]}, but the model knows only "
            f"{', '.join(elements)}; use a model trained with this element"
        )
    return Structures(
        elements=tuple(elements),
        offsets=np.array([0, n_atoms], dtype=np.int64),
        positions=atoms.positions.copy(),
        species=species,
        cells=completed_cell(atoms.cell.array.copy(), periodic, "atoms")[None],
        periodic=periodic[None],
        energies=np.full(1, np.nan),
        forces=np.full((n_atoms, 3), np.nan),
        stresses=np.full((1, 3, 3), np.nan),
        weights=np.ones(1),
        labels=("atoms",),
        config_types=("",),
        trajectories=("",),
    )


def _largest(displacements) -> float:
    return float(np.sqrt(np.einsum("ij,ij->i", displacements, displacements).max()))


@contextlib.contextmanager
def _use_threads(threads: int, n_atoms: int):
    """`fdforce.threads.limit_threads` without its search for libraries, which takes a millisecond.

    Yields
    ------
    int
        The number in use, fewer for few atoms.
    """
    import numba

    most = min(threads or available_cores(), numba.config.NUMBA_NUM_THREADS)
    threads = max(min(most, n_atoms // ATOMS_PER_THREAD), 1)
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        with single_blas():
            yield threads
    finally:
        numba.set_num_threads(before)

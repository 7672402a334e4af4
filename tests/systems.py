"""Awkward systems with names, for every test that takes a structure.

Each entry of `SYSTEMS` is a function that returns the same `ase.Atoms` at every call, with random
but seeded energy and forces (eV, eV/Å), and a stress (eV/Å^3) where periodic in three directions.
"""

from collections.abc import Callable
from zlib import crc32

import numpy as np
from ase import Atoms
from ase.build import bulk as ase_bulk
from ase.build import fcc100, molecule
from ase.calculators.singlepoint import SinglePointCalculator


def _labelled(atoms: Atoms, name: str) -> Atoms:
    rng = np.random.default_rng(crc32(name.encode()))
    forces = rng.normal(size=(len(atoms), 3))
    results = {"energy": rng.normal(-4.0 * len(atoms)), "forces": forces - forces.mean(axis=0)}
    if atoms.pbc.all():
        results["stress"] = rng.normal(scale=0.01, size=6)
    atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.info["name"] = name
    return atoms


def _rattled(atoms: Atoms, name: str, scale: float) -> Atoms:
    rng = np.random.default_rng(crc32(name.encode()) + 1)
    atoms.positions += rng.normal(scale=scale, size=atoms.positions.shape)
    return _labelled(atoms, name)


def single_atom() -> Atoms:
    """One atom, nothing around it: no pairs at all."""
    return _labelled(Atoms("Ti", [[0.3, -0.2, 0.1]]), "single_atom")


def dimer() -> Atoms:
    """Two atoms of different elements, 1.7 Å apart in no special direction."""
    direction = np.array([2.0, -3.0, 6.0]) / 7.0
    return _labelled(Atoms("TiO", [[0, 0, 0], 1.7 * direction]), "dimer")


def atom_on_cutoff() -> Atoms:
    """Two atoms at exactly 4.0 Å, a distance that tests use as cutoff."""
    return _labelled(Atoms("TiO", [[0, 0, 0], [0, 0, 4.0]]), "atom_on_cutoff")


def slab() -> Atoms:
    """Periodic in x and y; the third lattice vector is zero."""
    atoms = fcc100("Cu", (2, 2, 3), a=3.6)
    atoms.info.clear()
    atoms.cell[2] = 0.0
    atoms.pbc = [True, True, False]
    return _rattled(atoms, "slab", 0.05)


def wire() -> Atoms:
    """Periodic along z alone, with atoms outside the cell."""
    positions = [[0, 0, 0], [1.2, 0.3, 1.5], [-0.9, 0.8, 3.4]]
    atoms = Atoms("CuOCu", positions, cell=[0, 0, 4.2], pbc=[False, False, True])
    return _rattled(atoms, "wire", 0.03)


def ethanol() -> Atoms:
    """A molecule without a cell: H, C and O."""
    return _rattled(molecule("CH3CH2OH"), "molecule", 0.03)


def thin_triclinic() -> Atoms:
    """Heights of 2.3 to 2.6 Å, so an atom sees many images of itself within 6 Å."""
    cell = [[2.8, 0.0, 0.0], [0.9, 2.7, 0.0], [-0.7, 0.8, 2.6]]
    atoms = Atoms(
        "TiO", scaled_positions=[[0.05, 0.1, 0.0], [0.52, 0.46, 0.55]], cell=cell, pbc=True
    )
    return _labelled(atoms, "thin_triclinic")


def left_handed() -> Atoms:
    """A triclinic cell with a negative determinant, atoms outside it."""
    cell = [[0.3, 4.1, 0.2], [4.4, 0.1, -0.3], [0.4, 0.6, 5.0]]
    scaled = [[0.1, 0.2, -0.3], [0.6, 1.7, 0.2], [-0.45, 0.1, 0.6]]
    return _rattled(
        Atoms("TiOO", scaled_positions=scaled, cell=cell, pbc=True), "left_handed", 0.03
    )


def two_species() -> Atoms:
    """Rutile TiO2, twelve atoms, rattled."""
    u = 0.305
    scaled = [[0, 0, 0], [0.5, 0.5, 0.5], [u, u, 0], [-u, -u, 0]]
    scaled += [[0.5 + u, 0.5 - u, 0.5], [0.5 - u, 0.5 + u, 0.5]]
    atoms = Atoms("Ti2O4", scaled_positions=scaled, cell=[4.59, 4.59, 2.96], pbc=True)
    return _rattled(atoms.repeat((1, 1, 2)), "two_species", 0.08)


def three_species() -> Atoms:
    """Methanol and water in a triclinic box: H, C and O."""
    atoms = molecule("CH3OH")
    water = molecule("H2O")
    water.positions += [2.9, 0.4, 1.1]
    atoms += water
    atoms.set_cell([[6.2, 0.0, 0.0], [1.3, 5.8, 0.0], [-0.9, 1.1, 6.0]])
    atoms.pbc = True
    return _rattled(atoms, "three_species", 0.03)


def bulk() -> Atoms:
    """Cubic copper, four atoms, rattled."""
    return _rattled(ase_bulk("Cu", "fcc", a=3.6, cubic=True), "bulk", 0.06)


SYSTEMS: dict[str, Callable[[], Atoms]] = {
    "single_atom": single_atom,
    "dimer": dimer,
    "atom_on_cutoff": atom_on_cutoff,
    "slab": slab,
    "wire": wire,
    "molecule": ethanol,
    "thin_triclinic": thin_triclinic,
    "left_handed": left_handed,
    "two_species": two_species,
    "three_species": three_species,
    "bulk": bulk,
}

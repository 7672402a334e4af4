"""A short-range baseline: nuclear repulsion where no training data reach.

The universal screened repulsion of Ziegler, Biersack and Littmark (1985), multiplied by a quintic
switch that is 1 below an inner radius and 0 beyond an outer one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers, covalent_radii

from fdforce.batch import make_batch
from fdforce.errors import ConfigError
from fdforce.evaluation import groups
from fdforce.mapped import BLOCK, release
from fdforce.units import COULOMB

MARGIN = 0.95
"""Outer radius over the shortest distance in the data. New structures of the same kind come a
little closer than all training structures, and the repulsion is steep: set in at the shortest
distance, it gave one C-O bond of 1.28 Å, 4 % below, a force error of 14 eV/Å."""
INNER_FRACTION = 0.79
"""Inner over outer radius. With an inner radius of 0.6 of the shortest distance the repulsion sets
in so slowly that compressed diamond has a false minimum where the network extrapolates."""
SCREENING = ((0.18175, 3.1998), (0.50986, 0.94229), (0.28022, 0.4029), (0.02817, 0.20162))
LAMMPS_COULOMB = 14.399645
"""eV Å; LAMMPS' value in its metal units, a little different from today's."""


@dataclass(frozen=True)
class BaselineResult:
    """Energies (S,) and (n_atoms,), eV; forces (n_atoms, 3), eV/Å; virial (S, 3, 3), eV."""

    energy: np.ndarray
    atom_energy: np.ndarray
    forces: np.ndarray
    virial: np.ndarray

    @classmethod
    def of_structures(cls, first, atom_energy, forces, strain) -> BaselineResult:
        """From what `ZBL.of_atoms` gives, and the first atom of each structure."""
        virial = np.add.reduceat(strain, first, axis=0)
        return cls(
            np.add.reduceat(atom_energy, first),
            atom_energy,
            forces,
            virial[:, [[0, 5, 4], [5, 1, 3], [4, 3, 2]]],
        )


class ZBL:
    """Screened nuclear repulsion between close atoms.

    Parameters
    ----------
    elements : sequence of str
    outer : ndarray, shape (n_elements, n_elements), Å
        Distances beyond which it vanishes.
    inner : ndarray, same shape, Å, optional
        Distances below which it acts in full; `INNER_FRACTION` of `outer` by default.
    """

    name = "zbl"

    def __init__(self, elements: Sequence[str], outer, inner=None):
        self.elements = tuple(elements)
        self.outer = np.array(outer, dtype=np.float64)
        self.inner = INNER_FRACTION * self.outer if inner is None else np.array(inner, dtype=float)
        charge = np.array([atomic_numbers[element] for element in self.elements], dtype=np.float64)
        self._prefactor = COULOMB * np.outer(charge, charge)
        power = charge**0.23
        self._inverse_length = (power[:, None] + power) / 0.46850
        self._shift = (np.empty((0, 0)),) * 3

    @classmethod
    def below(cls, structures, pairs) -> ZBL:
        """The baseline that vanishes on a data set.

        Outer radii are `MARGIN` of the shortest distance of each pair of elements. Pairs that are
        never neighbours there get the sum of their covalent radii, and no pair more than 2.5 times
        that sum or the cutoff of the pair list.

        Parameters
        ----------
        structures : Structures
        pairs : PairList
        """
        radii = covalent_radii[[atomic_numbers[element] for element in structures.elements]]
        bond = radii[:, None] + radii
        shortest = shortest_distances(structures, pairs)
        outer = np.where(np.isinf(shortest), bond, np.minimum(MARGIN * shortest, 2.5 * bond))
        return cls(structures.elements, np.minimum(outer, pairs.cutoff))

    @property
    def cutoff(self) -> float:
        return float(self.outer.max())

    def forward(self, batch) -> BaselineResult:
        """Energy, forces and virial of a batch."""
        return BaselineResult.of_structures(batch.offsets[:-1], *self.of_atoms(batch))

    def of_atoms(self, batch) -> tuple:
        """Energies (n_atoms,), forces (n_atoms, 3) and shares of the virial (n_atoms, 6).

        Arrays of the device of the batch; virials in Voigt order xx yy zz yz xz xy.
        """
        device, dtype = batch.device, batch.positions.dtype
        tables = (
            self._prefactor, self._inverse_length, self.inner, self.outer, *self._shift
        )  # fmt: skip
        outputs = tuple(
            device.zeros(shape, dtype)
            for shape in (batch.n_atoms, (batch.n_atoms, 3), (batch.n_atoms, 6))
        )
        device.kernels("zbl").zbl_forward(
            *batch.pair_arguments[:9], batch.n_replicas,
            *(device.table(table, np.float64) for table in tables), batch.skin, *outputs,
        )  # fmt: skip
        return outputs


class LammpsZBL(ZBL):
    """The repulsion in the form of LAMMPS' ``pair_style zbl inner outer``.

    Below `inner` it is the unswitched repulsion plus a constant, between `inner` and `outer` a
    polynomial of fourth degree is added, so that energy, force and the slope of the force vanish at
    `outer` and are continuous at `inner`. SNAP potentials are often fitted on top of it.

    Parameters
    ----------
    elements : sequence of str
    outer, inner : float, or ndarray of shape (n_elements, n_elements), Å
        The two numbers of the pair style, the second one first.

    Raises
    ------
    ConfigError
        Radii that do not grow.
    """

    name = "zbl_lammps"

    def __init__(self, elements: Sequence[str], outer, inner):
        n = len(elements)
        outer, inner = (np.broadcast_to(np.asarray(r, float), (n, n)) for r in (outer, inner))
        if not (np.all(inner > 0) and np.all(outer > inner)):
            raise ConfigError(
                f"model.baseline_inner = {inner.min():g} and model.baseline_outer = "
                f"{outer.max():g}: 0 < inner < outer is needed (Å)"
            )
        super().__init__(elements, outer, inner)
        self._prefactor *= LAMMPS_COULOMB / COULOMB
        width = self.outer - self.inner
        energy, slope, curvature = self._unswitched(self.outer)
        third = (-3 * slope + width * curvature) / width**2
        fourth = (2 * slope - width * curvature) / width**3
        constant = -energy + width * slope / 2 - width**2 * curvature / 12
        self._shift = third / 3, fourth / 4, constant

    def _unswitched(self, r):
        """Repulsion of each pair of elements with its first two derivatives."""
        k = self._inverse_length
        value, slope, curvature = np.zeros((3, *r.shape))
        for weight, rate in SCREENING:
            term = weight * np.exp(-rate * k * r)
            value += term
            slope -= rate * k * term
            curvature += (rate * k) ** 2 * term
        coulomb = self._prefactor / r
        return (
            coulomb * value,
            coulomb * (slope - value / r),
            coulomb * (curvature - 2 * slope / r + 2 * value / r**2),
        )


def shortest_distances(structures, pairs) -> np.ndarray:
    """Shortest distance of each pair of elements, shape (n_elements, n_elements), Å; inf if none.

    Rows of a pair list are sorted by distance, so the first pair of each row is enough.
    """
    n = pairs.n_species
    shortest = np.full((n, n), np.inf)
    for indices in groups(structures, atoms=BLOCK):
        batch = make_batch(structures, pairs, indices)
        rows = np.flatnonzero(batch.row_end > batch.row_begin)
        first, atom = batch.row_begin[rows], rows // n
        structure = batch.structure[atom]
        neighbor = batch.neighbor[first] + batch.offsets[structure]
        moved = np.einsum("ap,pab->pb", batch.shift[:, first], batch.cells[structure])
        separation = batch.positions[neighbor] + moved - batch.positions[atom]
        distance = np.linalg.norm(separation, axis=1)
        np.minimum.at(shortest, (batch.species[atom], rows % n), distance)
        release(pairs.neighbor, pairs.shift, pairs.row_start, structures.positions)
    return shortest


BASELINES = {"zbl": ZBL, "zbl_lammps": LammpsZBL}

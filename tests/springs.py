"""A potential whose frequencies are known on paper: harmonic springs, or Morse bonds."""

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.neighborlist import neighbor_list


class Springs(Calculator):
    """Pairs nearer than a cutoff, each with the energy ``k (r - r0)^2 / 2``.

    Parameters
    ----------
    k : float, eV/Å^2
    r0, cutoff : float, Å
    """

    implemented_properties = ["energy", "forces", "stress"]

    def __init__(self, k, r0, cutoff):
        super().__init__()
        self.k, self.r0, self.cutoff = k, r0, cutoff

    def bond(self, r):
        """Energies and slopes."""
        return self.k * (r - self.r0) ** 2 / 2, self.k * (r - self.r0)

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        i, r, vectors = neighbor_list("idD", self.atoms, self.cutoff)
        energies, slopes = self.bond(r)
        pull = (slopes / r)[:, None] * vectors
        forces = np.zeros((len(self.atoms), 3))
        np.add.at(forces, i, pull)
        self.results = {"energy": energies.sum() / 2, "forces": forces}
        if self.atoms.pbc.all():
            stress = np.einsum("pi,pj->ij", pull, vectors) / (2 * self.atoms.get_volume())
            self.results["stress"] = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


class Morse(Springs):
    """The same with Morse bonds: ``depth ((1 - exp(-a (r - r0)))^2 - 1)``."""

    def __init__(self, depth, a, r0, cutoff):
        super().__init__(2 * depth * a**2, r0, cutoff)
        self.depth, self.a = depth, a

    def bond(self, r):
        e = np.exp(-self.a * (r - self.r0))
        return self.depth * ((1 - e) ** 2 - 1), 2 * self.depth * self.a * (1 - e) * e

    def curvature(self, r):
        """Second derivative of a bond, eV/Å^2."""
        e = np.exp(-self.a * (r - self.r0))
        return 2 * self.depth * self.a**2 * (2 * e**2 - e)

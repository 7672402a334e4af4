"""Any ASE calculator as the fixed part of a model: dispersion, electrostatics, a potential."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from fdforce.code_loading import load_function
from fdforce.errors import ConfigError
from fdforce.models.zbl import BaselineResult


class CalculatorBaseline:
    """Energies, forces and stresses of an ASE calculator.

    They are subtracted from the labels before training and added to predictions, so they are
    needed wherever the model is used: its file holds the name of the function alone.

    Parameters
    ----------
    elements : sequence of str
    source : str
        MODULE:FUNCTION or FILE.py:FUNCTION, a function without arguments that returns a calculator.

    Raises
    ------
    FdforceError
        The function cannot be found or does not return a calculator.
    """

    name = "calculator"
    cutoff = 0.0
    """Å. The calculator finds its own neighbours."""

    def __init__(self, elements, source: str):
        if not source:
            raise ConfigError(
                'model.baseline = "calculator" needs model.baseline_calculator = "MODULE:FUNCTION"'
            )
        self.elements, self.source = tuple(elements), source
        self.calculator = load_function(source)()
        if not hasattr(self.calculator, "get_property"):
            raise ConfigError(
                f"model.baseline_calculator = {source!r} returns a "
                f"{type(self.calculator).__name__}, not an ASE calculator"
            )

    def forward(self, batch) -> BaselineResult:
        """Energy, forces and virial of a batch, structure by structure."""
        if np.iscomplexobj(batch.positions):
            raise ConfigError("an ASE calculator takes no complex positions: take another stencil")
        n = len(batch)
        energy, virial = np.zeros(n), np.zeros((n, 3, 3))
        atom_energy, forces = np.zeros(batch.n_atoms), np.zeros((batch.n_atoms, 3))
        symbols = np.array(self.elements)[batch.species]
        for s in range(n):
            rows = slice(batch.offsets[s], batch.offsets[s + 1])
            first = batch.offsets[s] % len(symbols)
            atoms = Atoms(
                symbols[first : first + rows.stop - rows.start],
                positions=batch.positions[rows], cell=batch.cells[s], pbc=batch.periodic[s],
                calculator=self.calculator,
            )  # fmt: skip
            energy[s] = atoms.get_potential_energy()
            forces[rows] = atoms.get_forces()
            atom_energy[rows] = energy[s] / len(atoms)
            if batch.periodic[s].all():
                virial[s] = self._virial(atoms)
        return BaselineResult(energy, atom_energy, forces, virial)

    def _virial(self, atoms):
        try:
            return -atoms.get_volume() * atoms.get_stress(voigt=False)
        except PropertyNotImplementedError:
            return np.full((3, 3), np.nan)

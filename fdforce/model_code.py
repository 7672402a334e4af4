"""A model of fdforce as if it were an outside code, to be checked and scanned like one."""

from __future__ import annotations

import numpy as np

from fdforce.batch import make_batch
from fdforce.energy_code import EnergyCode
from fdforce.neighbors import build_pairs
from fdforce.structures import read_structures


def is_model(value) -> bool:
    """Whether something offers the `EnergyModel` seam and says what it needs of a batch."""
    names = ("theta", "forward", "forces", "gradient", "elements", "cutoff")
    return all(hasattr(value, name) for name in names)


def model_code(model, atoms) -> EnergyCode:
    """Energy, forces, stress and dE/dtheta of a model for one structure.

    Parameters
    ----------
    model : EnergyModel
        With ``elements`` and ``cutoff`` (Å) too.
    atoms : ase.Atoms
        Gives species and periodicity, and the cell where the callables are called without.
    """
    template = atoms.copy()  # without labels

    def state_at(positions, cell):
        template.positions = positions
        if cell is not None:
            template.cell = cell
        structures, _ = read_structures([template], elements=model.elements)
        pairs = build_pairs(structures, model.cutoff, skin=0.0)
        return model.forward(make_batch(structures, pairs))

    def energy_and_forces(positions, cell=None):
        state = state_at(positions, cell)
        forces, virial = model.forces(state)
        if not template.pbc.all():
            return state.energy[0], forces
        return state.energy[0], forces, -virial[0] / template.get_volume()

    def energy_gradient(positions, cell=None):
        state = state_at(positions, cell)
        gradient = model.gradient(state, np.ones(1))
        return state.energy[0], gradient

    return EnergyCode(energy_and_forces, energy_gradient, parameters=model.theta)

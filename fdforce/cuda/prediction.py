"""Predictions on the device."""

from __future__ import annotations

import copy

import numpy as np

from fdforce.batch import make_batch
from fdforce.cuda.computation import DeviceComputation
from fdforce.cuda.data import DeviceData
from fdforce.cuda.stream import part_of
from fdforce.data_set import DataSet
from fdforce.evaluation import Prediction, labels_of
from fdforce.models.zbl import ZBL, BaselineResult


def predict_on_device(model, structures, pairs) -> Prediction:
    """`fdforce.evaluation.predict` on the current GPU; a calculator as a baseline where it runs.

    Parameters
    ----------
    model : ElementalNetworks
    structures : Structures
    pairs : PairList

    Raises
    ------
    ConfigError
        No GPU, or no package for it.
    """
    bare = copy.copy(model)
    bare.baseline = None
    computation = DeviceComputation(bare)
    device, networks = computation.device, computation.networks
    data = DataSet(structures, labels_of(structures), pairs)
    energies, forces, virials, atom_energies = [], [], [], []
    for indices in computation.groups(data):
        part = DeviceData(device, part_of(data, indices))
        with device.step():
            batch = part.batch(np.arange(len(indices)), networks.n_parameters)
            networks.upload(bare.theta)
            part.fill(batch)
            state = networks.forward(batch)
            of_atoms, of_cells = networks.forces(state)
            energy, force = state.energy.copy_to_host(), of_atoms.copy_to_host()
            virial, by_atom = of_cells.copy_to_host(), networks.atom_energies(state)
            repulsion = _repulsion(model.baseline, batch)
        if model.baseline is not None:
            fixed = repulsion or model.baseline.forward(make_batch(structures, pairs, indices))
            energy, force = energy + fixed.energy, force + fixed.forces
            virial, by_atom = virial + fixed.virial, by_atom + fixed.atom_energy
        energies.append(energy)
        forces.append(force)
        virials.append(virial)
        atom_energies.append(by_atom)
    return Prediction(
        np.concatenate(energies),
        np.concatenate(forces),
        -np.concatenate(virials) / structures.volumes[:, None, None],
        np.concatenate(atom_energies),
    )


def _repulsion(baseline, batch):
    """What a baseline with kernels for the device adds, on the host; None for any other."""
    if not isinstance(baseline, ZBL):
        return None
    first = np.cumsum(batch.counts) - batch.counts
    of_atoms = [array.copy_to_host() for array in baseline.of_atoms(batch)]
    return BaselineResult.of_structures(first, *of_atoms)

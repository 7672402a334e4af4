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


def predict_on_device(model, structures, pairs) -> Prediction:
    """`fdforce.evaluation.predict` on the current GPU; a baseline is added by the processor.

    Parameters
    ----------
    model : ElementalNetworks
    structures : Structures
    pairs : PairList

    Raises
    ------
    ConfigError
        No GPU, no package for it, or a model without kernels for it.
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
        if model.baseline is not None:
            fixed = model.baseline.forward(make_batch(structures, pairs, indices))
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

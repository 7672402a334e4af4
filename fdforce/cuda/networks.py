"""A model on the device: `fdforce.models.ElementalNetworks` with arrays of the GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fdforce.descriptors.features import numbers_of
from fdforce.errors import ConfigError


@dataclass
class DeviceState:
    """What `DeviceNetworks.forward` keeps; `energy` (S,) is on the device too."""

    batch: Any
    energy: Any
    features: Any
    hidden: Any
    slopes: Any
    densities: Any
    output: Any


class DeviceNetworks:
    """Descriptor and elemental networks on the device, without a baseline.

    Parameters
    ----------
    device : CudaDevice
    model : ElementalNetworks
        Its settings are copied once, its parameters at every call of `upload`.

    Raises
    ------
    ConfigError
        The descriptor has no kernels for a GPU.
    """

    def __init__(self, device, model):
        if not getattr(model.descriptor, "on_gpu", False):
            raise ConfigError(
                f"model.descriptor = {model.descriptor.name!r} has no kernels for a GPU: take "
                'device = "cpu" (docs/add_a_descriptor.md says what it would need)'
            )
        self.device, self.model, self.dtype = device, model, model.dtype
        self.descriptor, table = model.descriptor, device.table
        self.n_parameters, self.scale = len(model.theta), float(model.scale)
        self._mean = table(model.feature_mean, self.dtype)
        self._scale = table(model.feature_scale, self.dtype)
        self._slope_scale = table(model.feature_scale * model.scale, self.dtype)
        self._reference = table(model.reference_energies, np.float64)
        self._widths = table(model.widths, np.int64)
        self._activations = table(model.activation_codes, np.int64)
        self._units = np.array([sum(widths) for widths in model.hidden])
        self.upload(model.theta)

    def upload(self, theta) -> None:
        """Take parameters (P,) of the host, for the present step."""
        self._theta = self.device.upload(theta, self.dtype)

    def use(self, theta) -> None:
        """Take parameters (P,) of the device."""
        self._theta = theta

    def numbers_per_atom(self, mean_neighbors: float, n_replicas: int) -> float:
        """Numbers of the working dtype that a step holds for each of its atoms, about.

        Features, their slopes and what the descriptor keeps, layers and slopes of the networks, and
        a slope of the energy for every pair; positions and what stands beside them for replicas.
        """
        n_features, units = self.descriptor.n_features, max(self._units)
        computed = numbers_of(self.descriptor)
        of_replica = n_features + computed + 2 * units + 40
        return (1 + n_replicas) * of_replica + 3 * mean_neighbors + 4 * computed

    def forward(self, batch, energy=None) -> DeviceState:
        """Energies of a batch, in the array `energy` (S,) where it is given."""
        device = self.device
        features, densities = self.descriptor.forward(
            batch, self._mean, self._scale, keep=not batch.displacement
        )
        n_units = int(batch.n_replicas * batch.species_counts @ self._units)
        hidden = device.empty(n_units, self.dtype)
        slopes = device.empty(n_units + batch.n_atoms, self.dtype)
        output = device.empty(batch.n_atoms, np.float64)
        device.kernels("networks").networks_forward(
            features, self._theta, self._widths, self._activations, batch.species_start,
            batch.n_replicas, batch.tiles, batch.tile_chunks, hidden, slopes, output,
        )  # fmt: skip
        if energy is None:
            energy = device.empty(batch.n_structures, np.float64)
        device.kernels("reductions").sum_energies(
            output, batch.place, batch.species, batch.offsets, self.scale, self._reference,
            len(batch.species), energy,
        )  # fmt: skip
        return DeviceState(batch, energy, features, hidden, slopes, densities, output)

    def atom_energies(self, state: DeviceState) -> np.ndarray:
        """Energies of the atoms (N,), eV, on the host."""
        batch = state.batch
        output, place, species = (
            array.copy_to_host() for array in (state.output, batch.place, batch.species)
        )
        return self.scale * output[place] + self.model.reference_energies[species]

    def forces(self, state: DeviceState):
        """Forces (N, 3) and virials (S, 3, 3) of the batch of a state, on the device."""
        batch, device = state.batch, self.device
        d_features = device.empty(state.features.shape, self.dtype)
        device.kernels("networks").networks_backward(
            state.slopes, self._theta, self._widths, batch.species_start, batch.n_replicas,
            batch.tiles, batch.tile_chunks, self._deltas(state), d_features,
        )  # fmt: skip
        d_positions, d_strain = self.descriptor.backward(
            batch, d_features, state.densities, self._slope_scale
        )
        virial = device.empty((batch.n_structures, 3, 3), np.float64)
        device.kernels("reductions").forces_and_virials(
            d_positions, d_strain, batch.offsets, virial
        )
        return d_positions, virial

    def _deltas(self, state):
        """Scratch of the backward passes."""
        return self.device.empty(state.slopes.size, self.dtype)

    def gradient(self, state: DeviceState, weights, total) -> None:
        """``sum_s weights[s] dE_s/dtheta`` into ``total`` (P,), float64, all on the device."""
        batch, device = state.batch, self.device
        reductions = device.kernels("reductions")
        row_weights = device.empty(batch.n_atoms, np.float64)
        reductions.weigh_rows(weights, batch.structure, batch.place, self.scale, row_weights)
        parts = device.zeros((len(batch.tile_chunks) - 1, self.n_parameters), np.float64)
        paired = self.dtype == np.float32 and batch.n_replicas % 2 == 0
        device.kernels("networks").networks_gradient(
            state.features, state.hidden, state.slopes, row_weights, self._theta, self._widths,
            batch.species_start, batch.n_replicas, bool(paired), batch.tiles, batch.tile_chunks,
            self._deltas(state), parts,
        )  # fmt: skip
        reductions.sum_chunks(parts, total)

"""A neural network per element on an atom's features; the energy is a sum over atoms.

``E = sum_i [E0(species_i) + scale * y_i] + baseline`` with y_i the output of the network of the
atom's element on its standardised features. Behler and Parrinello, Phys. Rev. Lett. 98, 146401
(2007). Forward and first-order backward are written by hand; there is no second-order code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fdforce.errors import ConfigError
from fdforce.models.activations import ACTIVATIONS


@dataclass
class State:
    """What `ElementalNetworks.forward` keeps.

    Attributes
    ----------
    energy : ndarray, shape (S,), eV
    atom_energy : ndarray, shape (n_atoms,), eV
        In the order of the batch.
    """

    batch: object
    energy: np.ndarray
    atom_energy: np.ndarray
    layers: list
    densities: np.ndarray
    baseline: object = None


class ElementalNetworks:
    """Descriptor and elemental networks as an `EnergyModel`.

    Parameters
    ----------
    descriptor : object
        With `elements`, `cutoff`, `n_features`, `forward` and `backward` (descriptors/).
    hidden : sequence of int
        Widths of the hidden layers; none makes a linear model.
    activation : str
        A key of `fdforce.models.activations.ACTIVATIONS`.
    seed : int
        Of the initial weights: normal with variance 1/n_in, biases zero.
    dtype : float32 or float64
        Of features and networks. Energies are summed and parameters kept in float64.

    Attributes
    ----------
    theta : ndarray, shape (P,), float64
        For each element and each layer the weights (n_in, n_out) and then the biases (n_out,).
    reference_energies : ndarray, shape (n_elements,), eV
    scale : float, eV
        Unit of the network outputs.
    feature_mean, feature_scale : ndarray, shape (n_elements, n_features)
        Standardisation ``(G - mean) * scale`` of the features.
    baseline : object, optional
        A fixed pair potential (`fdforce.models.zbl`) added to the energy.

    Raises
    ------
    ConfigError
        An unknown activation or a width below 1.
    """

    kind = "elemental_networks"

    def __init__(
        self,
        descriptor,
        hidden: Sequence[int] = (40, 40),
        activation: str = "tanh",
        *,
        seed: int = 0,
        dtype=np.float64,
    ):
        if activation not in ACTIVATIONS:
            raise ConfigError(
                f"model.activation = {activation!r}: choose one of {', '.join(ACTIVATIONS)}"
            )
        if any(width < 1 for width in hidden):
            raise ConfigError(f"model.hidden = {list(hidden)}: widths must be at least 1")
        self.descriptor = descriptor
        self.hidden = tuple(int(width) for width in hidden)
        self.activation = activation
        self.dtype = np.dtype(dtype)
        n_elements = len(self.elements)
        self.reference_energies = np.zeros(n_elements)
        self.scale = 1.0
        self.feature_mean = np.zeros((n_elements, descriptor.n_features))
        self.feature_scale = np.ones((n_elements, descriptor.n_features))
        self.baseline = None
        self._slices = self._layout()
        self.theta = self._initial_parameters(seed)

    @property
    def elements(self) -> tuple[str, ...]:
        return self.descriptor.elements

    @property
    def cutoff(self) -> float:
        """Å."""
        reach = 0.0 if self.baseline is None else self.baseline.cutoff
        return max(self.descriptor.cutoff, reach)

    @property
    def settings(self) -> dict:
        """Arguments, besides the descriptor, that make a network of the same shape."""
        return {"hidden": list(self.hidden), "activation": self.activation}

    def _layout(self):
        """Per element and layer: slices of weights and biases in theta, and their shape."""
        widths = [self.descriptor.n_features, *self.hidden, 1]
        at, layout = 0, []
        for _ in self.elements:
            layers = []
            for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
                middle, end = at + n_in * n_out, at + (n_in + 1) * n_out
                layers.append((slice(at, middle), slice(middle, end), (n_in, n_out)))
                at = end
            layout.append(layers)
        return layout

    def _initial_parameters(self, seed):
        rng = np.random.default_rng(seed)
        theta = np.zeros(self._slices[-1][-1][1].stop)
        for layers in self._slices:
            for weights, _, (n_in, n_out) in layers:
                theta[weights] = rng.normal(scale=n_in**-0.5, size=n_in * n_out)
        return theta

    def _parameters(self, theta, z):
        return [(theta[w].reshape(shape), theta[b]) for w, b, shape in self._slices[z]]

    def standardise(self, batches) -> None:
        """Set mean and scale of the features, per element, to those of a data set.

        Parameters
        ----------
        batches : iterable of Batch
            The data set. Features that hardly vary (standard deviation below 1e-8) are switched
            off; elements that do not occur keep mean 0 and scale 1.
        """
        n_elements = len(self.elements)
        count = np.zeros(n_elements)
        first = np.zeros((n_elements, self.descriptor.n_features))
        second = np.zeros_like(first)
        origin = None
        for batch in batches:
            plain = np.zeros((n_elements, self.descriptor.n_features))
            features, _ = self.descriptor.forward(batch, plain, plain + 1, keep=False)
            if origin is None:
                origin = features[0].mean(axis=0)  # second moments about a nearby point
            for z, rows in enumerate(_species_rows(batch)):
                centred = features[0, rows] - origin
                count[z] += len(centred)
                first[z] += centred.sum(axis=0)
                second[z] += (centred**2).sum(axis=0)
        n = np.maximum(count, 1)[:, None]
        deviation = np.sqrt(np.maximum(second / n - (first / n) ** 2, 0))
        seen = (count > 0)[:, None]
        constant = deviation < 1e-8
        scale = np.where(constant, 0, 1 / np.where(constant, 1, deviation))
        self.feature_mean = np.where(seen, first / n + origin, 0)
        self.feature_scale = np.where(seen, scale, 1)

    def forward(self, batch) -> State:
        """Energies of a batch.

        Parameters
        ----------
        batch : Batch

        Returns
        -------
        State
        """
        mean, scale = self.feature_mean.astype(self.dtype), self.feature_scale.astype(self.dtype)
        features, densities = self.descriptor.forward(batch, mean, scale, keep=not batch.displacement)
        theta = self.theta.astype(self.dtype)
        activate, _ = ACTIVATIONS[self.activation]
        energies = np.empty(features.shape[:2], np.result_type(np.float64, features.dtype))
        states = []
        for z, rows in enumerate(_species_rows(batch)):
            layers = self._parameters(theta, z)
            h = features[:, rows].reshape(-1, features.shape[-1])
            kept = [(None, h)]
            for weights, biases in layers[:-1]:
                a = h @ weights
                a += biases
                h = activate(a)
                kept.append((a, h))
            # the energy is the small difference of replicas: last sum in double precision
            weights, biases = layers[-1]
            y = h.astype(energies.dtype) @ weights.astype(np.float64) + biases.astype(np.float64)
            energies[:, rows] = (
                self.reference_energies[z] + self.scale * y.reshape(batch.n_replicas, -1)
            )
            states.append(kept)
        atom_energy = energies[:, batch.place].ravel()
        energy = np.add.reduceat(atom_energy, batch.offsets[:-1])
        state = State(batch, energy, atom_energy, states, densities)
        if self.baseline is not None:
            state.baseline = self.baseline.forward(batch)
            state.energy = energy + state.baseline.energy
            state.atom_energy = atom_energy + state.baseline.atom_energy
        return state

    def forces(self, state: State):
        """Forces and virials of the batch of a state.

        Parameters
        ----------
        state : State

        Returns
        -------
        forces : ndarray, shape (n_atoms, 3), eV/Å
        virial : ndarray, shape (S, 3, 3), eV
            W = -dE/ds; the stress is -W / volume.
        """
        batch = state.batch
        dtype = state.layers[0][0][1].dtype
        theta = self.theta.astype(self.dtype)
        scale = (self.feature_scale * self.scale).astype(self.dtype)
        n_atoms = len(batch.species)
        d_features = np.empty((batch.n_replicas, n_atoms, self.descriptor.n_features), dtype)
        if not len(state.densities):
            state = self.forward(replace(batch, displacement=False))
        for z, rows in enumerate(_species_rows(batch)):
            kept, layers = state.layers[z], self._parameters(theta, z)
            delta = self._deltas(kept, layers)[0]
            d_x = delta @ layers[0][0].T
            d_features[:, rows] = d_x.reshape(batch.n_replicas, -1, d_x.shape[-1])
        d_positions, d_strain = self.descriptor.backward(
            batch, d_features, state.densities, scale
        )
        forces = np.negative(d_positions, out=d_positions)
        virial = -np.add.reduceat(d_strain, batch.offsets[:-1], axis=0)
        virial = virial[:, [[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
        if state.baseline is not None:
            forces += state.baseline.forces
            virial += state.baseline.virial
        return forces, virial

    def _deltas(self, kept, layers):
        """dy/da of every layer, first to last; the last is 1 for every atom."""
        _, slope = ACTIVATIONS[self.activation]
        ones = np.ones((len(kept[0][1]), 1), kept[0][1].dtype)
        deltas = [ones]
        for (a, h), (weights, _) in zip(kept[:0:-1], layers[:0:-1], strict=True):
            # the last layer has one output, so its product is an outer one
            back = weights.T if deltas[0] is ones else deltas[0] @ weights.T
            deltas.insert(0, back * slope(a, h))
        return deltas

    def gradient(self, state: State, weights) -> np.ndarray:
        """``sum_s weights[s] dE_s/dtheta`` in one backward pass.

        In float32, replicas that come in pairs are combined as ``(x+ - x-)' d + x' (d+ - d-)``,
        with means x and d: the same number, without the loss of digits that the difference of two
        large products would bring.

        Parameters
        ----------
        state : State
        weights : ndarray, shape (S,)
            Complex for the complex step.

        Returns
        -------
        ndarray, shape (P,)
        """
        batch = state.batch
        dtype = np.result_type(weights, state.layers[0][0][1], np.float64)
        theta = self.theta.astype(self.dtype)
        gradient = np.zeros(len(self.theta), dtype)
        weights = np.asarray(weights).reshape(batch.n_replicas, -1)
        per_atom = np.empty((batch.n_replicas, len(batch.species)), weights.dtype)
        first = batch.structure[: len(batch.species)]
        per_atom[:, batch.place] = self.scale * weights[:, first]
        paired = self.dtype == np.float32 and batch.n_replicas % 2 == 0
        contract = _paired_products if paired else _plain_products
        for z, rows in enumerate(_species_rows(batch)):
            kept, layers = state.layers[z], self._parameters(theta, z)
            deltas = self._deltas(kept, layers)
            for (w, b, shape), delta, (_, x) in zip(self._slices[z], deltas, kept, strict=True):
                d_weights, d_biases = contract(x, delta, per_atom[:, rows])
                gradient[w] = d_weights.reshape(shape[0] * shape[1])
                gradient[b] = d_biases
        return gradient


def _species_rows(batch):
    starts = batch.species_start
    return [slice(a, b) for a, b in zip(starts[:-1], starts[1:], strict=True)]


def _plain_products(x, delta, weights):
    """``sum_i w_i x_i delta_i'`` and ``sum_i w_i delta_i`` over the atoms of all replicas."""
    weighted = weights.reshape(-1, 1) * delta
    return x.T @ weighted, weighted.sum(axis=0)


def _paired_products(x, delta, weights):
    """The same for replicas (+, -, +, -, ..), differences taken first (docs/method.md)."""
    shape = (len(weights) // 2, 2, weights.shape[1], -1)
    x, delta, weights = x.reshape(shape), delta.reshape(shape), weights.reshape(shape)
    half = x.dtype.type(0.5)
    x_mean, x_difference = half * (x[:, 0] + x[:, 1]), x[:, 0] - x[:, 1]
    mean, difference = half * (delta[:, 0] + delta[:, 1]), delta[:, 0] - delta[:, 1]
    total = weights[:, 0] + weights[:, 1]
    skew = 0.5 * (weights[:, 0] - weights[:, 1])
    left = total * mean + skew * difference
    right = 0.25 * total * difference + skew * mean
    n_in, n_out = x.shape[-1], delta.shape[-1]
    products = x_mean.reshape(-1, n_in).T @ left.astype(x.dtype).reshape(-1, n_out)
    products += x_difference.reshape(-1, n_in).T @ right.astype(x.dtype).reshape(-1, n_out)
    return products, left.sum(axis=(0, 1))

"""A neural network per element on an atom's features; the energy is a sum over atoms.

``E = sum_i [E0(species_i) + scale * y_i] + baseline`` with y_i the output of the network of the
atom's element on its standardised features. Behler and Parrinello, Phys. Rev. Lett. 98, 146401
(2007). Forward and first-order backward are written by hand; there is no second-order code.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import pairwise

import numpy as np

from fdforce.models.network_settings import shorten, spell_out

TYPICAL_INPUT = 40.0
"""Sum of the standard deviations of the features beyond which they are scaled down."""


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
    features: np.ndarray
    hidden: np.ndarray
    slopes: np.ndarray
    densities: np.ndarray
    baseline: object = None


@cache
def mean_square(activation: str) -> float:
    """Mean of the squared activation of a standard normal variable, by Gauss-Hermite quadrature."""
    from fdforce.kernels.cpu.activations import CODES, activate

    points, weights = np.polynomial.hermite_e.hermegauss(80)
    values, slopes = points.copy(), np.empty_like(points)
    activate(CODES[activation], values, slopes)
    return float(weights @ values**2 / weights.sum())


class ElementalNetworks:
    """Descriptor and elemental networks as an `EnergyModel`.

    Parameters
    ----------
    descriptor : object
        With `elements`, `cutoff`, `n_features`, `forward` and `backward` (descriptors/).
    hidden : sequence of int, or dict of str to sequence of int
        Widths of the hidden layers, the same for all elements or those of each; none makes a linear
        model.
    activation : str or sequence of str, or dict of str to either
        One of `network_settings.ACTIVATIONS` for all hidden layers, with a linear output; or one
        for each hidden layer and, where wanted, one more for the output.
    seed : int
        Of the initial weights, normal such that layers keep the variance; biases are zero.
    dtype : float32 or float64
        Of features and networks. Energies are summed and parameters kept in float64.

    Attributes
    ----------
    theta : ndarray, shape (P,), float64
        For each element and each layer the weights (n_in, n_out) and then the biases (n_out,).
    hidden : tuple of tuple of int
        Widths of the hidden layers of every element.
    activation : tuple of tuple of str
        Activations of every element, one for each hidden layer and one for the output.
    reference_energies : ndarray, shape (n_elements,), eV
    scale : float, eV
        Unit of the network outputs.
    feature_mean, feature_scale : ndarray, shape (n_elements, n_features)
        Standardisation ``(G - mean) * scale`` of the features.
    feature_min, feature_max : ndarray, shape (n_elements, n_features), or None
        Range of the plain features over the training set; of an element without training atoms the
        least value is above the largest. None where the range is not known.
    baseline : object, optional
        A fixed pair potential (`fdforce.models.zbl`) added to the energy.

    Raises
    ------
    ConfigError
        An unknown activation, a width below 1, a wrong number of activations, or a table whose
        elements are not those of the descriptor.
    """

    kind = "elemental_networks"
    setting_names = ("hidden", "activation")

    def __init__(
        self,
        descriptor,
        hidden: Sequence[int] | Mapping[str, Sequence[int]] = (40, 40),
        activation: str | Sequence[str] | Mapping[str, str | Sequence[str]] = "silu",
        *,
        seed: int = 0,
        dtype=np.float64,
    ):
        self.descriptor = descriptor
        self.hidden, self.activation = spell_out(self.elements, hidden, activation)
        self.dtype = np.dtype(dtype)
        n_elements = len(self.elements)
        self.reference_energies = np.zeros(n_elements)
        self.scale = 1.0
        self.feature_mean = np.zeros((n_elements, descriptor.n_features))
        self.feature_scale = np.ones((n_elements, descriptor.n_features))
        self.feature_min = self.feature_max = None
        self.baseline = None
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
        """Arguments, besides the descriptor, that make networks of the same shape."""
        return shorten(self.elements, self.hidden, self.activation)

    @cached_property
    def widths(self) -> np.ndarray:
        """Of every element and layer, features and output included, (n_elements, n_layers + 1).

        0 beyond the last layer of a network with fewer layers than others.
        """
        rows = [[self.descriptor.n_features, *hidden, 1] for hidden in self.hidden]
        longest = max(map(len, rows))
        return np.array([row + [0] * (longest - len(row)) for row in rows], dtype=np.int64)

    @cached_property
    def activation_codes(self) -> np.ndarray:
        """Of every element and layer, (n_elements, n_layers), as the kernels take them."""
        from fdforce.kernels.cpu.activations import CODES

        codes = np.full((len(self.elements), self.widths.shape[1] - 1), CODES["linear"])
        for row, names in zip(codes, self.activation, strict=True):
            row[: len(names)] = [CODES[name] for name in names]
        return codes

    @property
    def element_layers(self) -> list[list[tuple[int, int]]]:
        """Shapes of the matrices in theta, a list for each element, biases the last row of each."""
        n = self.descriptor.n_features
        widths = [(n, *hidden, 1) for hidden in self.hidden]
        return [[(a + 1, b) for a, b in pairwise(own)] for own in widths]

    @property
    def layers(self) -> list[tuple[int, int]]:
        """Shapes of the matrices in theta: of every element and layer, biases the last row."""
        return [shape for shapes in self.element_layers for shape in shapes]

    def matrices(self) -> list[list[np.ndarray]]:
        """The layers of every element, (n_in + 1, n_out) with the biases as last row.

        They are views of theta: what is written into them is written into the model.
        """
        begin, networks = 0, []
        for shapes in self.element_layers:
            networks.append([])
            for rows, columns in shapes:
                end = begin + rows * columns
                networks[-1].append(self.theta[begin:end].reshape(rows, columns))
                begin = end
        return networks

    def thinned(self, share: float, rng) -> np.ndarray:
        """Factors of theta that leave out a share of the hidden units.

        Weights that leave a dropped unit are 0, the others of their layer 1 / (1 - share), so that
        sums keep their mean (Srivastava et al., J. Mach. Learn. Res. 15, 1929 (2014)).
        """
        factors = []
        for shapes in self.element_layers:
            for k, (rows, columns) in enumerate(shapes):
                kept = np.ones(rows)
                if k:  # not the features
                    kept[:-1] = (rng.random(rows - 1) >= share) / (1 - share)
                factors.append(np.repeat(kept, columns))
        return np.concatenate(factors)

    def _initial_parameters(self, seed):
        """Normal weights under which every layer keeps the variance of the one before."""
        rng, parts = np.random.default_rng(seed), []
        for shapes, activations in zip(self.element_layers, self.activation, strict=True):
            inputs = np.sum(self._input_scale**2)
            for (rows, n_out), activation in zip(shapes, activations, strict=True):
                size = (rows - 1) * n_out
                parts += [rng.normal(scale=inputs**-0.5, size=size), np.zeros(n_out)]
                inputs = n_out * mean_square(activation)
        return np.concatenate(parts)

    @cached_property
    def _input_scale(self) -> np.ndarray:
        """Standard deviation that the features are given, shape (n_features,).

        It falls with their number: a step of a given size in every weight of the first layer, as
        adaptive optimizers take, would otherwise move a unit the further the more features there
        are (Yang and Hu, arXiv:2011.14522).
        """
        weight = getattr(self.descriptor, "feature_weight", np.ones(self.descriptor.n_features))
        return weight * min(TYPICAL_INPUT / np.sum(weight), 1.0)

    def scale_outputs(self, factor: float) -> None:
        """Multiply the weights and biases of the last layers."""
        self.theta = self.theta.copy()
        for *_, last in self.matrices():
            last *= factor

    def referred_to(self, energies):
        """The same energies about other reference energies; the constants of the outputs differ.

        An output that is not linear has no such constant: its element keeps its reference energy.

        Parameters
        ----------
        energies : ndarray, shape (n_elements,), eV

        Returns
        -------
        ElementalNetworks
        """
        model = copy.copy(self)
        model.theta = self.theta.copy()
        linear = np.array([names[-1] == "linear" for names in self.activation])
        model.reference_energies = np.where(linear, energies, self.reference_energies)
        moved = self.reference_energies - model.reference_energies
        for (*_, last), energy in zip(model.matrices(), moved, strict=True):
            last[-1] += energy / self.scale
        return model

    def standardise(self, batches) -> None:
        """Set mean, scale and range of the features, per element, to those of a data set.

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
        least = np.full_like(first, np.finfo(np.float64).max)
        largest = -least
        origin: dict[int, np.ndarray] = {}  # second moments about a nearby point
        for batch in batches:
            plain = np.zeros((n_elements, self.descriptor.n_features))
            features, _ = self.descriptor.forward(batch, plain, plain + 1, keep=False)
            for z, rows in enumerate(batch.species_rows):
                if rows.start == rows.stop:
                    continue
                least[z] = np.minimum(least[z], features[rows].min(axis=0))
                largest[z] = np.maximum(largest[z], features[rows].max(axis=0))
                centred = features[rows] - origin.setdefault(z, features[rows].mean(axis=0))
                count[z] += len(centred)
                first[z] += centred.sum(axis=0)
                second[z] += (centred**2).sum(axis=0)
        n = np.maximum(count, 1)[:, None]
        deviation = np.sqrt(np.maximum(second / n - (first / n) ** 2, 0))
        seen = (count > 0)[:, None]
        constant = deviation < 1e-8
        scale = np.where(constant, 0, 1 / np.where(constant, 1, deviation))
        origins = np.array([origin.get(z, first[z]) for z in range(n_elements)])
        self.feature_mean = np.where(seen, first / n + origins, 0)
        self.feature_scale = np.where(seen, scale, 1) * self._input_scale
        self.feature_min, self.feature_max = least, largest

    def forward(self, batch) -> State:
        """Energies of a batch.

        Parameters
        ----------
        batch : Batch

        Returns
        -------
        State
        """
        features, densities = self.features(batch)
        output, hidden, slopes = self.outputs(batch, features)
        atom_energy = self.atom_energies(batch, output)
        energy = np.add.reduceat(atom_energy, batch.offsets[:-1])
        state = State(batch, energy, atom_energy, features, hidden, slopes, densities)
        if self.baseline is not None:
            state.baseline = self.baseline.forward(batch)
            state.energy = energy + state.baseline.energy
            state.atom_energy = atom_energy + state.baseline.atom_energy
        return state

    def features(self, batch):
        """Standardised features, rows sorted by species, and what the descriptor keeps."""
        mean = self.feature_mean.astype(self.dtype, copy=False)
        scale = self.feature_scale.astype(self.dtype, copy=False)
        return self.descriptor.forward(batch, mean, scale, keep=not batch.displacement)

    def outputs(self, batch, features):
        """Network outputs of every row, and the layers that the backward passes need."""
        from fdforce.kernels.cpu.networks import networks_forward

        n_units = sum(
            (rows.stop - rows.start) * sum(widths)
            for rows, widths in zip(batch.species_rows, self.hidden, strict=True)
        )
        hidden = np.empty(n_units, features.dtype)
        slopes = np.empty(n_units + batch.n_atoms, features.dtype)
        output = np.zeros(batch.n_atoms, np.result_type(np.float64, features.dtype))
        networks_forward(
            features, self.theta.astype(features.dtype, copy=False), self.widths,
            self.activation_codes, batch.species_start, batch.n_replicas,
            batch.tiles, batch.tile_chunks, hidden, slopes, output,
        )  # fmt: skip
        return output, hidden, slopes

    def atom_energies(self, batch, output):
        """Energies of the atoms, in the order of the batch, without the baseline (eV)."""
        output *= self.scale
        if self.reference_energies.any():
            output += np.repeat(self.reference_energies, np.diff(batch.species_start))
        return output[batch.place]

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
        if not len(state.densities):
            state = self.forward(replace(state.batch, displacement=False))
        d_features = self.output_slopes(state.batch, state.features, state.slopes)
        return self.pull_back(state, d_features)

    def output_slopes(self, batch, features, slopes):
        """Derivatives of the network outputs with respect to the features, (n_atoms, n)."""
        from fdforce.kernels.cpu.networks import networks_backward

        d_features = np.empty_like(features)
        networks_backward(
            slopes, self.theta.astype(features.dtype, copy=False), self.widths,
            batch.species_start, batch.n_replicas, batch.tiles, batch.tile_chunks, d_features,
        )  # fmt: skip
        return d_features

    def pull_back(self, state, d_features):
        """Forces and virials from the slopes of the network outputs, and from the baseline."""
        batch = state.batch
        scale = (self.feature_scale * self.scale).astype(self.dtype)
        d_positions, d_strain = self.descriptor.backward(batch, d_features, state.densities, scale)
        forces = np.negative(d_positions, out=d_positions)
        virial = -np.add.reduceat(d_strain, batch.offsets[:-1], axis=0)
        virial = virial[:, [[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
        if state.baseline is not None:
            forces += state.baseline.forces
            virial += state.baseline.virial
        return forces, virial

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
        from fdforce.kernels.cpu.networks import networks_gradient

        batch, features = state.batch, state.features
        weights = np.asarray(weights)
        per_atom = np.empty(batch.n_atoms, np.result_type(weights, np.float64))
        per_atom[batch.place] = self.scale * weights[batch.structure]
        dtype = np.result_type(per_atom, features, np.float64)
        gradient = np.zeros((len(batch.tile_chunks) - 1, len(self.theta)), dtype)
        paired = features.dtype == np.float32 and batch.n_replicas % 2 == 0
        networks_gradient(
            features, state.hidden, state.slopes, per_atom,
            self.theta.astype(features.dtype, copy=False), self.widths, batch.species_start,
            batch.n_replicas, paired, batch.tiles, batch.tile_chunks, gradient,
        )  # fmt: skip
        return gradient.sum(axis=0)

"""Elemental networks atom by atom, for real and complex parameters."""

from itertools import pairwise

import numpy as np

CELU_ALPHA = 1.0

ACTIVATIONS = {
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "softplus": lambda z: np.log(1 + np.exp(z)),
    "shifted_softplus": lambda z: np.log((1 + np.exp(z)) / 2),
    "silu": lambda z: z / (1 + np.exp(-z)),
    "celu": lambda z: np.where(z.real > 0, z, CELU_ALPHA * (np.exp(z / CELU_ALPHA) - 1)),
    "relu": lambda z: np.where(z.real > 0, z, 0),
    "linear": lambda z: z,
}


def layers_of(theta, z, n_features, hidden):
    """Weights (n_in, n_out) and biases of every layer of element z.

    theta holds, element after element and layer after layer, weights row by row and then biases.
    """
    widths = [n_features, *hidden, 1]
    sizes = [(a + 1) * b for a, b in pairwise(widths)]
    at, layers = z * sum(sizes), []
    for n_in, n_out in pairwise(widths):
        weights = np.array([theta[at + i * n_out : at + (i + 1) * n_out] for i in range(n_in)])
        at += n_in * n_out
        layers.append((weights, theta[at : at + n_out]))
        at += n_out
    return layers


def atom_energy(features, layers, activation, scale=1.0, reference=0.0):
    """E0 + scale * y of one atom."""
    h = features
    for k, (weights, biases) in enumerate(layers):
        z = np.array(
            [
                sum(h[i] * weights[i, o] for i in range(len(h))) + biases[o]
                for o in range(len(biases))
            ]
        )
        h = z if k == len(layers) - 1 else ACTIVATIONS[activation](z)
    return reference + scale * h[0]


def energies(features, species, offsets, theta, model):
    """Energy of every structure for the raw features of its atoms and the settings of `model`."""
    atoms = []
    for row, z in zip(features, species):
        standardised = (row - model.feature_mean[z]) * model.feature_scale[z]
        layers = layers_of(theta, z, len(row), model.hidden)
        reference = model.reference_energies[z]
        atoms.append(atom_energy(standardised, layers, model.activation, model.scale, reference))
    return np.array([sum(atoms[a:b]) for a, b in pairwise(offsets)])

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
    "gaussian": lambda z: np.exp(-(z**2) / 2),
    "cosine": np.cos,
    "reverse_sigmoid": lambda z: 1 - 1 / (1 + np.exp(-z)),
    "exponential": lambda z: np.exp(-z),
    "harmonic": lambda z: z**2,
    "modified_tanh": lambda z: 1.7159 * np.tanh(2 * z / 3),
    "twist": lambda z: 1.7159 * np.tanh(2 * z / 3) + 0.1 * z,
}


def layers_of(theta, z, n_features, hidden):
    """Weights (n_in, n_out) and biases of every layer of element z; `hidden` of every element.

    theta holds, element after element and layer after layer, weights row by row and then biases.
    """
    at = 0
    for own in hidden[:z]:
        for n_in, n_out in pairwise([n_features, *own, 1]):
            at += (n_in + 1) * n_out
    widths, layers = [n_features, *hidden[z], 1], []
    for n_in, n_out in pairwise(widths):
        weights = np.array([theta[at + i * n_out : at + (i + 1) * n_out] for i in range(n_in)])
        at += n_in * n_out
        layers.append((weights, theta[at : at + n_out]))
        at += n_out
    return layers


def atom_energy(features, layers, activations, scale=1.0, reference=0.0):
    """E0 + scale * y of one atom."""
    h = features
    for (weights, biases), activation in zip(layers, activations, strict=True):
        z = np.array(
            [
                sum(h[i] * weights[i, o] for i in range(len(h))) + biases[o]
                for o in range(len(biases))
            ]
        )
        h = ACTIVATIONS[activation](z)
    return reference + scale * h[0]


def energies(features, species, offsets, theta, model):
    """Energy of every structure for the raw features of its atoms and the settings of `model`."""
    atoms = []
    for row, z in zip(features, species):
        standardised = (row - model.feature_mean[z]) * model.feature_scale[z]
        layers = layers_of(theta, z, len(row), model.hidden)
        reference = model.reference_energies[z]
        activations = model.activation[z]
        atoms.append(atom_energy(standardised, layers, activations, model.scale, reference))
    return np.array([sum(atoms[a:b]) for a, b in pairwise(offsets)])

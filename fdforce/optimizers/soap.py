"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner, layer by layer.

Vyas et al., arXiv:2409.11321, algorithm 3. For the gradient G of a layer's matrix, biases its last
row, L = <G G'> and R = <G' G> are running means with eigenvectors U and V, and Adam works on
U' G V. Layers of interatomic potentials are so small that the products cost less than the gradient.
The basis follows L and R by a QR step of the power iteration every `REFRESH` steps (algorithm 4).
"""

from __future__ import annotations

import numpy as np

from fdforce.optimizers.adam import STABILITY

REFRESH = 20
"""Steps between two renewals of a basis."""


def init(theta, layers) -> dict:
    """State for parameters of shape (P,) that hold matrices of these shapes."""
    state = {
        "step": np.zeros(1),
        "mean": np.zeros_like(theta),
        "square": np.zeros_like(theta),
        "layers": np.array(layers, dtype=np.int64),
    }
    for k, (rows, columns) in enumerate(layers):
        state[f"left_{k}"], state[f"right_{k}"] = np.zeros((rows, rows)), np.zeros((columns,) * 2)
        state[f"left_basis_{k}"], state[f"right_basis_{k}"] = np.eye(rows), np.eye(columns)
    return state


def update(theta, gradient, state, learning_rate, settings):
    """One step; see `fdforce.optimizers.adam.update`. The first one only chooses the bases."""
    state["step"] += 1
    step, theta, begin = int(state["step"][0]), theta.copy(), 0
    for k, (rows, columns) in enumerate(state["layers"]):
        part = slice(begin, begin + rows * columns)
        begin = part.stop
        change = _layer_step(gradient[part].reshape(rows, columns), k, part, step, state, settings)
        theta[part] -= learning_rate * change.ravel()
    return theta


def _layer_step(gradient, k, part, step, state, settings):
    beta1, beta2 = settings.beta1, settings.beta2
    left, right = state[f"left_{k}"], state[f"right_{k}"]
    u, v = state[f"left_basis_{k}"], state[f"right_basis_{k}"]
    left += (1 - beta2) * (gradient @ gradient.T - left)
    right += (1 - beta2) * (gradient.T @ gradient - right)
    if step == 1:
        u[:], v[:] = _eigenvectors(left), _eigenvectors(right)
        return np.zeros_like(gradient)
    mean, square = (state[name][part].reshape(gradient.shape) for name in ("mean", "square"))
    mean += (1 - beta1) * (gradient - mean)
    square += (1 - beta2) * ((u.T @ gradient @ v) ** 2 - square)
    rotated = u.T @ mean @ v / (1 - beta1 ** (step - 1))
    rotated /= np.sqrt(square / (1 - beta2 ** (step - 1))) + STABILITY
    change = u @ rotated @ v.T
    if step % REFRESH == 0:
        u[:], v[:] = np.linalg.qr(left @ u)[0], np.linalg.qr(right @ v)[0]
    return change


def _eigenvectors(matrix):
    """With the largest eigenvalues first, the order that the QR step keeps."""
    return np.linalg.eigh(matrix)[1][:, ::-1]

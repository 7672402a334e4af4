"""Activation functions: value h(z) and slope dh/dz, for real and complex arrays.

Branches look at real parts only, so that the complex step passes through (docs/method.md).
"""

from __future__ import annotations

import numpy as np

CELU_ALPHA = 1.0


def _sigmoid(z):
    half = z.dtype.type(0.5)
    return half * (np.tanh(half * z) + z.dtype.type(1))


def _softplus(z):
    positive = z.real > 0
    return np.log1p(np.exp(np.where(positive, -z, z))) + np.where(positive, z, z.dtype.type(0))


def _tanh_slope(z, h):
    return z.dtype.type(1) - h * h


def _sigmoid_slope(z, h):
    return h * (z.dtype.type(1) - h)


def _softplus_slope(z, h):
    return _sigmoid(z)


def _shifted_softplus(z):
    return _softplus(z) - z.dtype.type(np.log(2))


def _silu(z):
    return z * _sigmoid(z)


def _silu_slope(z, h):
    s = _sigmoid(z)
    return s + h * (z.dtype.type(1) - s)


def _celu(z):
    negative = np.where(z.real > 0, z.dtype.type(0), z)
    return np.where(z.real > 0, z, CELU_ALPHA * np.expm1(negative / CELU_ALPHA))


def _celu_slope(z, h):
    negative = np.where(z.real > 0, z.dtype.type(0), z)
    return np.exp(negative / CELU_ALPHA)


def _relu(z):
    return np.where(z.real > 0, z, z.dtype.type(0))


def _relu_slope(z, h):
    return (z.real > 0).astype(z.dtype)


def _linear(z):
    return z


def _linear_slope(z, h):
    return np.ones_like(z)


ACTIVATIONS = {
    "tanh": (np.tanh, _tanh_slope),
    "sigmoid": (_sigmoid, _sigmoid_slope),
    "softplus": (_softplus, _softplus_slope),
    "shifted_softplus": (_shifted_softplus, _softplus_slope),
    "silu": (_silu, _silu_slope),
    "celu": (_celu, _celu_slope),
    "relu": (_relu, _relu_slope),
    "linear": (_linear, _linear_slope),
}
"""name -> (h(z), dh/dz as a function of z and h)."""

"""Activation functions of one number: value and slope, in double precision.

A network of an atom has some tens of them and some ten thousand other operations, so that their
precision costs nothing; codes are those of the CPU twin.
"""

import math

import numpy as np

from ..cpu.activations import (
    CELU,
    COSINE,
    EXPONENTIAL,
    GAUSSIAN,
    HARMONIC,
    LN2,
    MODIFIED_TANH,
    RELU,
    REVERSE_SIGMOID,
    SHIFTED_SOFTPLUS,
    SIGMOID,
    SILU,
    SOFTPLUS,
    STEEPNESS,
    STRETCH,
    TANH,
    TWIST,
    TWISTING,
)  # fmt: skip
from .runtime import cuda


@cuda.jit(device=True)
def activate(code, a):
    """h(a) and dh/da."""
    x = np.float64(a)
    # e^-|x| does not overflow
    back = x > 0.0
    e = math.exp(-x if back else x)
    inverse = 1.0 / (1.0 + e)
    sigmoid = inverse if back else e * inverse
    if code == TANH:
        h = math.tanh(x)
        return h, 1.0 - h * h
    if code == SIGMOID:
        return sigmoid, e * inverse * inverse
    if code in (SOFTPLUS, SHIFTED_SOFTPLUS):
        value = math.log1p(e) + (x if back else 0.0 * x)
        return value - (LN2 if code == SHIFTED_SOFTPLUS else 0.0), sigmoid
    if code == SILU:
        return x * sigmoid, sigmoid + x * sigmoid * (1.0 - sigmoid)
    if code == CELU:
        return (x, 1.0) if back else (e - 1.0, e)
    if code == RELU:
        return (x, 1.0) if back else (0.0 * x, 0.0)
    if code == GAUSSIAN:
        h = math.exp(-0.5 * x * x)
        return h, -x * h
    if code == COSINE:
        return math.cos(x), -math.sin(x)
    if code == REVERSE_SIGMOID:
        return e * inverse if back else inverse, -e * inverse * inverse
    if code == EXPONENTIAL:
        h = math.exp(-x)
        return h, -h
    if code == HARMONIC:
        return x * x, 2.0 * x
    if code in (MODIFIED_TANH, TWIST):
        twisting = TWISTING if code == TWIST else 0.0
        h = math.tanh(STEEPNESS * x)
        return STRETCH * h + twisting * x, STRETCH * STEEPNESS * (1.0 - h * h) + twisting
    return x, 1.0

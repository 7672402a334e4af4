"""Activation functions on arrays: value and slope in one sweep.

``exp`` is written out so that the compiler vectorises it (NumPy's and the C library's are called
once for every number); complex arguments use NumPy's.
"""

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload

FLAGS = {"contract", "nsz", "arcp"}

(
    TANH, SIGMOID, SOFTPLUS, SHIFTED_SOFTPLUS, SILU, CELU, RELU, LINEAR,
    GAUSSIAN, COSINE, REVERSE_SIGMOID, EXPONENTIAL, HARMONIC, MODIFIED_TANH, TWIST,
) = range(15)  # fmt: skip
CODES = {
    "tanh": TANH,
    "sigmoid": SIGMOID,
    "softplus": SOFTPLUS,
    "shifted_softplus": SHIFTED_SOFTPLUS,
    "silu": SILU,
    "celu": CELU,
    "relu": RELU,
    "linear": LINEAR,
    "gaussian": GAUSSIAN,
    "cosine": COSINE,
    "reverse_sigmoid": REVERSE_SIGMOID,
    "exponential": EXPONENTIAL,
    "harmonic": HARMONIC,
    "modified_tanh": MODIFIED_TANH,
    "twist": TWIST,
}
"""name -> code of `activate`; those after linear are of n2p2, the last two of ænet."""

# ænet: 1.7159 tanh(2 x / 3), and that + 0.1 x (LeCun et al., Efficient BackProp, 1998)
STRETCH, STEEPNESS, TWISTING = 1.7159, 2.0 / 3.0, 0.1

LOG2_E = 1.4426950408889634
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
LN2 = 0.6931471805599453


@intrinsic
def _as_double(typing_context, bits):
    """The float64 with the given 64 bits."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.float64))

    return types.float64(types.int64), generate


def _exp(x):
    """e^x for x <= 0 (real) or any complex x."""
    raise NotImplementedError("compiled by the overload below")


@overload(_exp, inline="always")
def _exp_overload(x):
    if isinstance(x, types.Complex):
        return lambda x: np.exp(x)

    def real(x):
        # x = k ln 2 + t with |t| <= ln 2 / 2, Taylor series of e^t to 13th order: 1e-17
        x = max(np.float64(x), -700.0)
        k = np.floor(x * LOG2_E + 0.5)
        t = (x - k * LN2_HIGH) - k * LN2_LOW
        p = 1.0 + t * (1.0 / 13.0)
        p = 1.0 + t * (1.0 / 12.0) * p
        p = 1.0 + t * (1.0 / 11.0) * p
        p = 1.0 + t * (1.0 / 10.0) * p
        p = 1.0 + t * (1.0 / 9.0) * p
        p = 1.0 + t * (1.0 / 8.0) * p
        p = 1.0 + t * (1.0 / 7.0) * p
        p = 1.0 + t * (1.0 / 6.0) * p
        p = 1.0 + t * (1.0 / 5.0) * p
        p = 1.0 + t * (1.0 / 4.0) * p
        p = 1.0 + t * (1.0 / 3.0) * p
        p = 1.0 + t * (1.0 / 2.0) * p
        p = 1.0 + t * p
        return p * _as_double((np.int64(k) + 1023) << 52)

    return real


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def activate(code, a, slope):
    """Replace a by h(a) and fill slope with dh/da; both flat and of one dtype.

    Branches look at real parts alone, so that the complex step passes through.
    """
    n = len(a)
    if code == TANH:
        for k in range(n):
            x = a[k]
            back = x.real > 0.0
            e = _exp(-2.0 * x if back else 2.0 * x)
            h = (1.0 - e) / (1.0 + e)
            h = h if back else -h
            a[k] = h
            slope[k] = 1.0 - h * h
    elif code == SIGMOID:
        for k in range(n):
            x = a[k]
            back = x.real > 0.0
            e = _exp(-x if back else x)
            inverse = 1.0 / (1.0 + e)
            a[k] = inverse if back else e * inverse
            slope[k] = e * inverse * inverse
    elif code in (SOFTPLUS, SHIFTED_SOFTPLUS):
        shift = 0.0 if code == SOFTPLUS else LN2
        for k in range(n):
            x = a[k]
            back = x.real > 0.0
            e = _exp(-x if back else x)
            a[k] = np.log1p(e) + (x if back else 0.0 * x) - shift
            slope[k] = (1.0 if back else e) / (1.0 + e)
    elif code == SILU:
        for k in range(n):
            x = a[k]
            back = x.real > 0.0
            e = _exp(-x if back else x)
            s = (1.0 if back else e) / (1.0 + e)
            a[k] = x * s
            slope[k] = s + x * s * (1.0 - s)
    elif code == CELU:
        for k in range(n):
            x = a[k]
            if x.real > 0.0:
                slope[k] = 1.0
            else:
                e = _exp(x)
                a[k] = e - 1.0
                slope[k] = e
    elif code == RELU:
        for k in range(n):
            positive = a[k].real > 0.0
            a[k] = a[k] if positive else 0.0 * a[k]
            slope[k] = 1.0 if positive else 0.0
    elif code == GAUSSIAN:
        for k in range(n):
            x = a[k]
            h = _exp(-0.5 * x * x)
            a[k] = h
            slope[k] = -x * h
    elif code == COSINE:
        for k in range(n):
            x = a[k]
            a[k] = np.cos(x)
            slope[k] = -np.sin(x)
    elif code == REVERSE_SIGMOID:
        for k in range(n):
            x = a[k]
            back = x.real > 0.0
            e = _exp(-x if back else x)
            inverse = 1.0 / (1.0 + e)
            a[k] = e * inverse if back else inverse
            slope[k] = -e * inverse * inverse
    elif code == EXPONENTIAL:
        for k in range(n):
            h = np.exp(-a[k])  # of either sign
            a[k] = h
            slope[k] = -h
    elif code == HARMONIC:
        for k in range(n):
            x = a[k]
            a[k] = x * x
            slope[k] = 2.0 * x
    elif code in (MODIFIED_TANH, TWIST):
        twisting = TWISTING if code == TWIST else 0.0
        for k in range(n):
            x = a[k]
            back = x.real > 0.0
            e = _exp(-2.0 * STEEPNESS * x if back else 2.0 * STEEPNESS * x)
            h = (1.0 - e) / (1.0 + e)
            h = h if back else -h
            a[k] = STRETCH * h + twisting * x
            slope[k] = STRETCH * STEEPNESS * (1.0 - h * h) + twisting
    else:
        for k in range(n):
            slope[k] = 1.0

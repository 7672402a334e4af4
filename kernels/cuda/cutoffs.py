"""Functions of one distance; types, tables and numbers as in the CPU twin, value by value.

What sweeps there are device functions here, each of which returns a value and its slope in the
dtype of the tables. Exponentials are those of CUDA, correct to 1 or 2 units in the last place.
"""

import math

from ..cpu.cutoffs import (
    COMPACT,
    COSINE,
    COSINE_CUTOFF,
    EXPONENTIAL,
    GAUSSIAN,
    HARD,
    TANH_NORMALISED,
)
from .runtime import cuda

SINE_TERMS, COSINE_TERMS = 11, 12


@cuda.jit(device=True)
def core_function(core, cores, y):
    """Core function of y >= 0 and its slope divided by y, both 0 from y = 1."""
    one = cores[0, 0]
    zero = one - one
    if y >= one:
        return zero, zero
    if core == 0:
        u = one / (one - y * y)
        # near y = 1 exp could not represent the result
        if u > cores[0, 1]:
            u = cores[0, 1]
        f = math.exp(one - u)
        return f, -(one + one) * f * u * u
    # (1 - y)^(m + 1) (1 + a_1 y + .. + a_m y^m) and s y^(m - 1) (1 - y)^m
    h = one - y
    p, power, up = cores[core, core], h, one
    for n in range(core - 1, -1, -1):
        p = p * y + cores[core, n]
    for _ in range(1, core):
        power *= h
        up *= y
    return power * h * p, cores[core, 5] * up * power


@cuda.jit(device=True)
def cutoff_function(kind, table, c, series, cores, r):
    """Cutoff (row c of the table) of a distance and its slope."""
    one = cores[0, 0]
    zero = one - one
    two = one + one
    outer, inner, inverse = table[c, 0], table[c, 1], table[c, 2]
    if r >= outer:
        return zero, zero
    if kind == HARD:
        return one, zero
    if kind == COSINE_CUTOFF:
        x = (r - inner) * inverse
        if x <= zero:
            return one, zero
        half = one / two
        v = x - half
        w = v * v
        p, q = series[0, SINE_TERMS - 1], series[1, COSINE_TERMS - 1]
        for n in range(SINE_TERMS - 2, -1, -1):
            p = p * w + series[0, n]
        for n in range(COSINE_TERMS - 2, -1, -1):
            q = q * w + series[1, n]
        return half - p * v, q * inverse
    if kind <= TANH_NORMALISED:
        e = math.exp(-two * (one - r / outer))
        t = (one - e) / (one + e)
        t2 = table[c, 3] * t * t
        return t2 * t, (two + one) * t2 * (t * t - one) / outer
    x = (r - inner) * inverse
    y = zero if x <= zero else x
    f, slope = core_function(kind - EXPONENTIAL, cores, y)
    return f, slope * y * inverse


@cuda.jit(device=True)
def factor_function(kind, table, a, cores, r, f, df):
    """A factor (row a of the table) of a distance and its slope, from its cutoff, f and df."""
    one = cores[0, 0]
    zero = one - one
    if kind == GAUSSIAN:
        x = r - table[a, 1]
        t = table[a, 0] * x
        e = math.exp(-t * x)
        return e * f, e * (df - (t + t) * f)
    if kind == COSINE:
        kappa = table[a, 0]
        x = kappa * r
        c, d = math.cos(x), math.sin(x)
        return c * f, c * df - kappa * d * f
    inverse, core = table[a, 1], kind - COMPACT
    x = (r - table[a, 0]) * inverse
    y = -x if x < zero else x
    if core < 5:
        value, slope = core_function(core, cores, y)
        return value, slope * x * inverse
    # y = 1 exactly would be 1 again, and rounding might put it on either side
    u = one if y >= one else (one + one - y) * y
    value, slope = core_function(core - 5, cores, u)
    slope *= u * (one + one - y - y) * inverse
    return value, -slope if x < zero else slope

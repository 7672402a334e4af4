"""Functions of one distance, swept over arrays: cutoffs, compact cores, and products with them.

A sweep reads and fills rows of one array ``s`` (rows, columns), given by their numbers: value and
slope (derivative in the distance) of ``count`` columns. Types of cutoff are
n2p2's; with x = (r - inner) / (R - inner) the function is 1 below inner and 0 beyond R:

====  ====================================  ====  ==========================================
0     1                                     5     (2x - 3) x^2 + 1
1     (cos(pi x) + 1) / 2                   6     ((15 - 6x) x - 10) x^3 + 1
2     tanh^3(1 - r/R), inner ignored        7     (x (x (20x - 70) + 84) - 35) x^4 + 1
3     the same over tanh^3(1)               8     (x (x ((315 - 70x) x - 540) + 420) - 126) x^5 + 1
4     exp(1 - 1 / (1 - x^2))
====  ====================================  ====  ==========================================

Functions 4 to 8 are also the cores of the compact functions, ``core - 4`` there. Tables are in the
dtype of the arrays:

==========  =============  ======================================================================
series      (2, 12)        Taylor coefficients in v^2 of sin(pi v)/2 / v and of -pi/2 cos(pi v)
cores       (5, 6)         row m: 1, a_1 .. a_4, s of (1 - y)^(m+1) (1 + sum_i a_i y^i), whose
                           slope is s y^m (1 - y)^m; row 0, the exponential: 1, the largest
                           1 / (1 - x^2), and the 1 - |cos| below which series are used
cutoff row  (4,)           R, inner, 1 / (R - inner), and 1 or 1 / tanh^3(1)
factor row  (3,)           of GAUSSIAN eta, r_s, unused; of COSINE kappa; of COMPACT the centre
                           and the inverse half width
==========  =============  ======================================================================
"""

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload

# exp needs its terms in the order written
FLAGS = {"contract", "nsz", "arcp"}

HARD, COSINE_CUTOFF, TANH, TANH_NORMALISED, EXPONENTIAL = range(5)
# kinds of factor; COMPACT + core, and 5 more for the radial subtypes "a", y -> (2 - y) y
GAUSSIAN, COSINE, COMPACT = range(3)

LOG2_E = 1.4426950408889634
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10


@intrinsic
def _as_double(typing_context, bits):
    """The float64 with the given 64 bits."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.float64))

    return types.float64(types.int64), generate


def exponential(x):
    """e^x for a real x <= 0, 0 where it would be next to denormal (and slow), or any complex x."""
    raise NotImplementedError("compiled by the overload below")


@overload(exponential, inline="always")
def _exponential_overload(x):
    if isinstance(x, types.Complex):
        return lambda x: np.exp(x)
    if x == types.float32:

        def single(x):
            # in double precision: k ln 2 is exact to what single precision needs
            y = -80.0 if x < -80.0 else np.float64(x)
            k = np.floor(y * LOG2_E + 0.5)
            t = y - k * 0.6931471805599453
            p = 1.0 + t * (1.0 / 7.0)
            p = 1.0 + t * (1.0 / 6.0) * p
            p = 1.0 + t * (1.0 / 5.0) * p
            p = 1.0 + t * (1.0 / 4.0) * p
            p = 1.0 + t * (1.0 / 3.0) * p
            p = 1.0 + t * (1.0 / 2.0) * p
            p = 1.0 + t * p
            p = p * _as_double((np.int64(np.int32(k)) + 1023) << 52)
            return np.float32(0.0 if x < -80.0 else p)

        return single

    def double(x):
        # x = k ln 2 + t with |t| <= ln 2 / 2, Taylor series of e^t to 13th order: 1e-17
        y = -700.0 if x < -700.0 else x
        k = np.floor(y * LOG2_E + 0.5)
        t = (y - k * LN2_HIGH) - k * LN2_LOW
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
        p = p * _as_double((np.int64(np.int32(k)) + 1023) << 52)
        return 0.0 if x < -700.0 else p

    return double


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def core_sweep(core, cores, s, count, y, value, slope):
    """Core function of y >= 0 and its slope divided by y, both 0 from y = 1.

    Divided by y, because an angular window centred on 0 or 180 degrees needs it there; core 1
    (p1) is the roughest and has a slope of 6 (y - 1) y.
    """
    one = cores[0, 0]
    zero = one - one
    two = one + one
    if core == 0:
        for k in range(count):
            x = s[y, k]
            inside = not x.real >= one.real
            u = one / (one - x * x if inside else one)
            # near x = 1 exp could not represent the result
            u = cores[0, 1] if u.real > cores[0, 1].real else u
            f = exponential(one - u)
            s[value, k] = f if inside else zero
            s[slope, k] = -two * f * u * u if inside else zero
        return
    # without differences of large numbers, unlike the polynomials as they are usually written
    a1, a2, a3, a4, g = (
        cores[core, 1], cores[core, 2], cores[core, 3], cores[core, 4], cores[core, 5]
    )  # fmt: skip
    if core == 1:
        for k in range(count):
            x = s[y, k]
            h = one - x
            h = h if not x.real >= one.real else zero
            s[value, k] = h * h * (a1 * x + one)
            s[slope, k] = g * h
    elif core == 2:
        for k in range(count):
            x = s[y, k]
            h = one - x
            h = h if not x.real >= one.real else zero
            s[value, k] = h * h * h * ((a2 * x + a1) * x + one)
            s[slope, k] = g * x * (h * h)
    elif core == 3:
        for k in range(count):
            x = s[y, k]
            h = one - x
            h = h if not x.real >= one.real else zero
            s[value, k] = (h * h) * (h * h) * (((a3 * x + a2) * x + a1) * x + one)
            s[slope, k] = g * (x * x) * (h * h * h)
    else:
        for k in range(count):
            x = s[y, k]
            h = one - x
            h = h if not x.real >= one.real else zero
            h4 = (h * h) * (h * h)
            s[value, k] = h * h4 * ((((a4 * x + a3) * x + a2) * x + a1) * x + one)
            s[slope, k] = g * (x * x * x) * h4


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def cutoff_sweep(kind, table, c, series, cores, s, count, r, y, f, df):
    """Cutoff (row c of the table) of every distance and its slope; row y is scratch."""
    one = cores[0, 0]
    zero = one - one
    half = one / (one + one)
    outer, inner, inverse, norm = table[c, 0], table[c, 1], table[c, 2], table[c, 3]
    if kind == HARD:
        for k in range(count):
            s[f, k] = zero if s[r, k].real >= outer.real else one
            s[df, k] = zero
    elif kind == COSINE_CUTOFF:
        a0, a1, a2, a3, a4, a5 = (
            series[0, 0], series[0, 1], series[0, 2], series[0, 3], series[0, 4], series[0, 5]
        )  # fmt: skip
        a6, a7, a8, a9, a10 = (
            series[0, 6], series[0, 7], series[0, 8], series[0, 9], series[0, 10]
        )  # fmt: skip
        b0, b1, b2, b3, b4, b5 = (
            series[1, 0], series[1, 1], series[1, 2], series[1, 3], series[1, 4], series[1, 5]
        )  # fmt: skip
        b6, b7, b8, b9, b10, b11 = (
            series[1, 6], series[1, 7], series[1, 8], series[1, 9], series[1, 10], series[1, 11]
        )  # fmt: skip
        for k in range(count):
            x = (s[r, k] - inner) * inverse
            v = x - half
            w = v * v
            p = ((((a10 * w + a9) * w + a8) * w + a7) * w + a6) * w + a5
            p = ((((p * w + a4) * w + a3) * w + a2) * w + a1) * w + a0
            q = ((((b11 * w + b10) * w + b9) * w + b8) * w + b7) * w + b6
            q = (((((q * w + b5) * w + b4) * w + b3) * w + b2) * w + b1) * w + b0
            beyond = s[r, k].real >= outer.real
            below = x.real <= zero.real
            s[f, k] = zero if beyond else (one if below else half - p * v)
            s[df, k] = zero if beyond or below else q * inverse
    elif TANH <= kind <= TANH_NORMALISED:
        two = one + one
        three = two + one
        for k in range(count):
            t = one - s[r, k] / outer
            beyond = s[r, k].real >= outer.real
            e = exponential(zero if beyond else -two * t)
            t = (one - e) / (one + e)
            t2 = norm * t * t
            s[f, k] = zero if beyond else t2 * t
            s[df, k] = zero if beyond else three * t2 * (t * t - one) / outer
    else:
        for k in range(count):
            x = (s[r, k] - inner) * inverse
            s[y, k] = zero if x.real <= zero.real else x
        core_sweep(kind - EXPONENTIAL, cores, s, count, y, f, df)
        for k in range(count):
            s[df, k] = s[df, k] * s[y, k] * inverse


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def factor_sweep(kind, table, a, cores, s, count, r, y, f, df, value, slope):
    """A factor (row a of the table) of every distance and its slope, from its cutoff, f and df."""
    one = cores[0, 0]
    zero = one - one
    if kind == GAUSSIAN:
        eta, shift = table[a, 0], table[a, 1]
        if eta.real == zero.real:
            for k in range(count):
                s[value, k] = s[f, k]
                s[slope, k] = s[df, k]
            return
        for k in range(count):
            x = s[r, k] - shift
            t = eta * x
            e = exponential(-t * x)
            s[value, k] = e * s[f, k]
            s[slope, k] = e * (s[df, k] - (t + t) * s[f, k])
    elif kind == COSINE:
        kappa = table[a, 0]
        for k in range(count):
            x = kappa * s[r, k]
            c, d = np.cos(x), np.sin(x)
            s[value, k] = c * s[f, k]
            s[slope, k] = c * s[df, k] - kappa * d * s[f, k]
    else:
        centre, inverse = table[a, 0], table[a, 1]
        core = kind - COMPACT
        asymmetric = core >= 5
        if not asymmetric:
            for k in range(count):
                x = (s[r, k] - centre) * inverse
                s[y, k] = x if x.real >= zero.real else -x
            core_sweep(core, cores, s, count, y, value, slope)
            for k in range(count):
                s[slope, k] = s[slope, k] * (s[r, k] - centre) * inverse * inverse
            return
        # y = 1 exactly would be 1 again, and rounding might put it on either side
        for k in range(count):
            x = (s[r, k] - centre) * inverse
            x = x if x.real >= zero.real else -x
            s[y, k] = one if x.real >= one.real else (one + one - x) * x
        core_sweep(core - 5, cores, s, count, y, value, slope)
        for k in range(count):
            x = (s[r, k] - centre) * inverse
            back = not x.real >= zero.real
            x = -x if back else x
            g = s[slope, k] * s[y, k] * (one + one - x - x) * inverse
            s[slope, k] = -g if back else g

import numpy as np
import pytest

from fdforce.kernels.cpu.activations import CODES, activate
from fdforce.models.network_settings import ACTIVATIONS
from tests.naive import networks

COMPLEX_STEP = 1e-30
# Away from 0, where relu has no slope and celu no second one.
Z = np.array([-7.0, -2.3, -0.4, -1e-3, 1e-3, 0.7, 1.9, 6.0])

each = pytest.mark.parametrize("name", ACTIVATIONS)


def value_and_slope(name, z):
    value, slope = z.copy(), np.full_like(z, 17.0)
    activate(CODES[name], value, slope)
    assert value.dtype == slope.dtype == z.dtype
    return value, slope


def test_names_and_codes():
    assert set(ACTIVATIONS) == set(networks.ACTIVATIONS)
    assert [CODES[name] for name in ACTIVATIONS] == list(range(len(ACTIVATIONS)))
    assert len(CODES) == len(ACTIVATIONS)


@each
def test_values(name):
    value, _ = value_and_slope(name, Z)
    # 1 - e^x loses three digits at |x| = 1e-3, plain formulas as many at -7
    assert value == pytest.approx(networks.ACTIVATIONS[name](Z), rel=1e-12)


@each
def test_slope_is_the_complex_step(name):
    _, slope = value_and_slope(name, Z)
    moved, _ = value_and_slope(name, Z + 1j * COMPLEX_STEP)
    # No difference is taken over the step; 1 - h^2 at |z| = 7 keeps 16 - 6 digits.
    assert slope == pytest.approx(moved.imag / COMPLEX_STEP, rel=1e-9)


@each
def test_complex_step_of_the_plain_formula(name):
    expected = networks.ACTIVATIONS[name](Z + 1j * COMPLEX_STEP).imag / COMPLEX_STEP
    assert value_and_slope(name, Z)[1] == pytest.approx(expected, rel=1e-9)


@each
def test_complex_values_have_the_real_ones_as_real_part(name):
    real, complex_ = (value_and_slope(name, z) for z in (Z, Z + 1j * COMPLEX_STEP))
    # exp is written out for real numbers: one unit, three digits lost as above
    assert complex_[0].real == pytest.approx(real[0], rel=1e-12)
    assert complex_[1].real == pytest.approx(real[1], rel=1e-9)


@each
def test_complex_slope_is_analytic(name):
    z, step = Z[np.abs(Z) > 0.1], 1e-4
    _, shifted = value_and_slope(name, z + 1j * COMPLEX_STEP)
    right, left = (value_and_slope(name, z + s * step)[1] for s in (1, -1))
    # step^2 / 6 times a third derivative of order 1 gives 2e-9, round-off 1e-16 / step 1e-12
    numeric = (right - left) / (2 * step)
    assert shifted.imag / COMPLEX_STEP == pytest.approx(numeric, rel=1e-5, abs=1e-8)


@each
def test_float32(name):
    value, slope = value_and_slope(name, Z.astype(np.float32))
    expected, expected_slope = value_and_slope(name, Z)
    # 1 - h^2 at |z| = 7 has an absolute error of one unit of round-off
    eps = float(np.finfo(np.float32).eps)
    assert value == pytest.approx(expected, rel=20 * eps, abs=4 * eps)
    assert slope == pytest.approx(expected_slope, rel=20 * eps, abs=4 * eps)


def test_exponential_over_its_range():
    z = np.linspace(-690.0, -1e-6, 20001)
    _, slope = value_and_slope("celu", z)
    # Taylor series to 13th order and a rounded reduction of the argument: a few units
    assert slope == pytest.approx(np.exp(z), rel=2e-15)


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "exponential"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_extreme_arguments_stay_finite(name, dtype):
    value, slope = value_and_slope(name, np.array([-1e3, -100.0, 0.0, 100.0, 1e3], dtype))
    assert np.isfinite(value).all()
    assert np.isfinite(slope).all()
    # where exp(-100) is gone the functions are their asymptotes
    ends = {
        "tanh": (-1, 1),
        "sigmoid": (0, 1),
        "softplus": (0, 1e3),
        "shifted_softplus": (-np.log(2), 1e3 - np.log(2)),
        "silu": (0, 1e3),
        "celu": (-1, 1e3),
        "relu": (0, 1e3),
        "linear": (-1e3, 1e3),
        "gaussian": (0, 0),
        "cosine": (np.cos(1e3), np.cos(1e3)),
        "reverse_sigmoid": (1, 0),
        "harmonic": (1e6, 1e6),
        "modified_tanh": (-1.7159, 1.7159),
        "twist": (-101.7159, 101.7159),
    }[name]
    assert value[[0, -1]].real == pytest.approx(ends, rel=1e-6, abs=1e-30)
    ends = {
        "linear": (1, 1),
        "cosine": (np.sin(1e3), -np.sin(1e3)),
        "harmonic": (-2e3, 2e3),
        "twist": (0.1, 0.1),
        **dict.fromkeys(("softplus", "shifted_softplus", "silu", "celu", "relu"), (0, 1)),
    }.get(name, (0, 0))
    assert slope[[0, -1]].real == pytest.approx(ends, rel=1e-6, abs=1e-30)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exponential_overflows_to_infinity(dtype):
    """As it must: a number would be wrong."""
    value, slope = value_and_slope("exponential", np.array([-1e3, 1e3], dtype))
    assert value.tolist() == [np.inf, 0]
    assert slope.tolist() == [-np.inf, 0]


@each
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_nan_stays_nan(name, dtype):
    value, _ = value_and_slope(name, np.array([1.0, np.nan, -1.0], dtype))
    assert np.isnan(value).tolist() == [False, True, False]

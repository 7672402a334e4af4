import numpy as np
import pytest

from fdforce.models.activations import ACTIVATIONS
from tests.naive import networks

COMPLEX_STEP = 1e-30
# Away from 0, where relu has no slope and celu no second one.
Z = np.array([-7.0, -2.3, -0.4, -1e-3, 1e-3, 0.7, 1.9, 6.0])

each = pytest.mark.parametrize("name", ACTIVATIONS)


def test_names():
    assert set(ACTIVATIONS) == set(networks.ACTIVATIONS)


@each
def test_values(name):
    value, _ = ACTIVATIONS[name]
    # Plain formulas lose up to log10(exp(7)) = 3 digits of the 16 to cancellation near -7.
    assert value(Z) == pytest.approx(networks.ACTIVATIONS[name](Z), rel=1e-12)


@each
def test_slope_is_the_complex_step(name):
    value, slope = ACTIVATIONS[name]
    expected = value(Z + 1j * COMPLEX_STEP).imag / COMPLEX_STEP
    # No subtraction on the left; 1 - h^2 at |z| = 7 keeps 16 - 6 digits.
    assert slope(Z, value(Z)) == pytest.approx(expected, rel=1e-9)


@each
def test_complex_values_have_the_real_ones_as_real_part(name):
    value, slope = ACTIVATIONS[name]
    z = Z + 1j * COMPLEX_STEP
    assert value(z).real == pytest.approx(value(Z), rel=1e-13)
    # complex exp, tanh and log1p round differently: 1 - h^2 again
    assert slope(z, value(z)).real == pytest.approx(slope(Z, value(Z)), rel=1e-9)


@each
def test_slope_of_the_slope_in_complex_numbers(name):
    value, slope = ACTIVATIONS[name]
    z, step = Z[np.abs(Z) > 0.1], 1e-4
    shifted = z + 1j * COMPLEX_STEP
    complex_slope = slope(shifted, value(shifted)).imag / COMPLEX_STEP
    numeric = (slope(z + step, value(z + step)) - slope(z - step, value(z - step))) / (2 * step)
    # step^2 / 6 times a third derivative of order 1 gives 2e-9, round-off 1e-16 / step 1e-12
    assert complex_slope == pytest.approx(numeric, rel=1e-5, abs=1e-8)


@each
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_dtype_is_kept(name, dtype):
    value, slope = ACTIVATIONS[name]
    z = Z.astype(dtype)
    assert value(z).dtype == dtype
    assert slope(z, value(z)).dtype == dtype
    # 1 - h^2 at |z| = 7 has an absolute error of one unit of round-off
    epsilon = float(np.finfo(dtype).eps)
    assert value(z) == pytest.approx(value(Z), rel=20 * epsilon, abs=4 * epsilon)
    assert slope(z, value(z)) == pytest.approx(
        slope(Z, value(Z)), rel=20 * epsilon, abs=4 * epsilon
    )


@each
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_extreme_arguments_stay_finite_without_warnings(name, dtype):
    value, slope = ACTIVATIONS[name]
    z = np.array([-1e3, -100.0, 0.0, 100.0, 1e3], dtype)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        h = value(z)
        d = slope(z, h)
    assert np.isfinite(h).all()
    assert np.isfinite(d).all()
    # where exp(-100) is gone the functions are their asymptotes
    left, right = {
        "tanh": (-1, 1),
        "sigmoid": (0, 1),
        "softplus": (0, 1e3),
        "shifted_softplus": (-np.log(2), 1e3 - np.log(2)),
        "silu": (0, 1e3),
        "celu": (-1, 1e3),
        "relu": (0, 1e3),
        "linear": (-1e3, 1e3),
    }[name]
    assert h[[0, -1]].real == pytest.approx([left, right], rel=1e-6, abs=1e-30)
    ends = {"tanh": (0, 0), "sigmoid": (0, 0), "linear": (1, 1)}.get(name, (0, 1))
    assert d[[0, -1]].real == pytest.approx(ends, rel=1e-6, abs=1e-30)


@each
def test_nan_stays_nan(name):
    value, _ = ACTIVATIONS[name]
    assert np.isnan(value(np.array([np.nan]))).all()

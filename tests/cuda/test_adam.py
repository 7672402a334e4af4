"""Adam on the device against Adam on the processor."""

from dataclasses import replace

import numpy as np
import pytest

from fdforce.config import OptimizerConfig
from fdforce.cuda.adam import BLOCKS, DeviceAdam
from fdforce.optimizers import adam
from tests.checks import EPS
from tests.cuda.on_device import DEVICE, put, unset

N = 300
STEPS = 5
SETTINGS = OptimizerConfig(name="adamw", weight_decay=0.03, beta1=0.8, beta2=0.95)


def on_host(gradients, frozen, settings, share):
    """Parameters, average and state after some steps, as `fdforce.training.Trainer` takes them."""
    theta, average, state = start()
    for number, gradient in enumerate(gradients, start=1):
        rate = 0.1 / number
        total = np.where(frozen, 0.0, gradient) + settings.l2 * theta
        norm = np.linalg.norm(total)
        if settings.gradient_clip and norm > settings.gradient_clip:
            total *= settings.gradient_clip / norm
        decayed = theta * (1 - rate * settings.weight_decay)
        theta = np.where(frozen, theta, adam.update(decayed, total, state, rate, settings))
        average = average + (theta - average) / (1 + share * number)
    return theta, average, state


def start():
    theta = np.random.default_rng(1).normal(size=N)
    return theta, theta.copy(), adam.init(theta, [])


def gradients_of_steps():
    return np.random.default_rng(2).normal(size=(STEPS, N))


@pytest.mark.parametrize(
    "changes", [{}, {"l2": 0.1}, {"gradient_clip": 5.0}, {"gradient_clip": 1e3, "l2": 1.0}]
)
@pytest.mark.parametrize("share", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_steps_are_those_of_the_processor(changes, share, dtype):
    settings = replace(SETTINGS, **changes)
    frozen = np.arange(N) % 7 == 3
    gradients = gradients_of_steps()
    there = DeviceAdam(DEVICE, *start(), frozen=frozen, settings=settings, dtype=dtype)
    squares = unset(BLOCKS)
    for number, gradient in enumerate(gradients, start=1):
        there.forget()
        # in two parts, the second of which has a third of the structures
        there.take(put(1.2 * gradient), 2 / 3, squares)
        there.take(put(0.6 * gradient), 1 / 3, squares)
        there.update(0.1 / number, 1 + share * number)
    theta, average, state = on_host(gradients, frozen, settings, share)
    found_theta, found_average, found_state = there.to_host()
    # sums of squares in another order, and some roundings in each step
    np.testing.assert_allclose(found_theta, theta, rtol=0, atol=100 * EPS)
    np.testing.assert_allclose(found_average, average, rtol=0, atol=100 * EPS)
    assert found_state.keys() == state.keys()
    for name, values in state.items():
        np.testing.assert_allclose(found_state[name], values, rtol=0, atol=100 * EPS)
    assert np.array_equal(found_theta[frozen], start()[0][frozen])
    working = there.working.copy_to_host()
    assert working.dtype == dtype
    assert np.array_equal(working, found_theta.astype(dtype))


def test_the_squares_show_what_is_not_finite():
    there = DeviceAdam(DEVICE, *start(), frozen=np.arange(N) == 1, settings=SETTINGS, dtype=float)
    gradient, squares = gradients_of_steps()[0], unset(BLOCKS)
    gradient[1] = np.nan  # frozen: it does not matter
    there.take(put(gradient), 1.0, squares)
    assert squares.copy_to_host().sum() == pytest.approx(np.nansum(gradient**2), rel=1e-12)
    for bad in (np.nan, np.inf):
        gradient[2] = bad
        there.forget()
        there.take(put(gradient), 1.0, squares)
        assert not np.isfinite(squares.copy_to_host()).all()

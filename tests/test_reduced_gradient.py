"""The step of a batch put together from those of its parts."""

from dataclasses import replace

import numpy as np
import pytest

from fdforce.computation import HostComputation
from fdforce.gradient import reduce_gradient
from tests.checks import EPS, relative
from tests.test_mixed_batches import ORDER, loss_of_kind, problem

PLACES = np.array([4]), np.array([3, 0, 1]), np.array([2, *range(5, len(ORDER))])
PARTS = [np.asarray(ORDER)[places] for places in PLACES]
TOLERANCE = 1e-9
"""Steps eta differ in the last digit, and the rest is rounding of the differences: u / 1e-4."""


@pytest.mark.parametrize("kind", ["squared", "huber", "l1"])
@pytest.mark.parametrize("stencil", ["central", "forward"])
def test_parts_make_the_whole(kind, stencil):
    model, data = problem()
    computation, loss = HostComputation(model), loss_of_kind(kind)
    options = {"epsilon": 1e-4, "stencil": stencil}
    whole = computation.gradient(data, ORDER, loss, **options)
    steps = [computation.gradient(data, part, loss, **options) for part in PARTS]
    found = reduce_gradient(steps, PLACES)
    assert relative(found.gradient, whole.gradient) < TOLERANCE
    assert found.loss == pytest.approx(whole.loss, rel=100 * EPS)
    assert found.loss_error == pytest.approx(whole.loss_error, rel=1e-3)
    np.testing.assert_allclose(found.eta, whole.eta, rtol=10 * EPS)
    for name in ("force_loss", "slope", "scale"):
        np.testing.assert_allclose(found.details[name], whole.details[name], rtol=1e-12, atol=1e-14)
    terms, expected = found.details["terms"], whole.details["terms"]
    np.testing.assert_allclose(terms.parts, expected.parts, rtol=100 * EPS)
    np.testing.assert_allclose(terms.d_energy, expected.d_energy, rtol=100 * EPS)
    for quantity, sums in expected.errors.items():
        np.testing.assert_allclose(terms.errors[quantity], sums, rtol=100 * EPS)


def test_parts_that_are_mixed_up_show():
    model, data = problem()
    computation, loss = HostComputation(model), loss_of_kind("squared")
    whole = computation.gradient(data, ORDER, loss, epsilon=1e-4)
    steps = [computation.gradient(data, part, loss, epsilon=1e-4) for part in PARTS]
    with pytest.raises(ValueError, match=r"could not|shape mismatch"):
        reduce_gradient([steps[k] for k in (1, 2, 0)], PLACES)
    mixed = [replace(step, gradient=steps[k].gradient) for step, k in zip(steps, (1, 2, 0))]
    assert relative(reduce_gradient(mixed, PLACES).gradient, whole.gradient) > 1e-2


def test_what_stays_on_a_device_is_not_added_up_here():
    model, data = problem()
    step = HostComputation(model).gradient(data, ORDER, loss_of_kind("squared"), epsilon=1e-4)
    found = reduce_gradient([replace(step, gradient=None)], [np.arange(len(ORDER))])
    assert found.gradient is None
    assert found.loss == step.loss

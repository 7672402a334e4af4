"""The step of a batch put together from those of its parts."""

import numpy as np
import pytest

from fdforce.computation import HostComputation
from fdforce.gradient import reduce_gradient
from tests.checks import EPS, relative
from tests.test_mixed_batches import ORDER, loss_of_kind, problem

PARTS = ORDER[:2], ORDER[2:5], ORDER[5:]
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
    found = reduce_gradient(steps, [len(part) / len(ORDER) for part in PARTS])
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


def test_wrong_shares_show():
    model, data = problem()
    computation, loss = HostComputation(model), loss_of_kind("squared")
    whole = computation.gradient(data, ORDER, loss, epsilon=1e-4)
    steps = [computation.gradient(data, part, loss, epsilon=1e-4) for part in PARTS]
    found = reduce_gradient(steps, [1 / 3] * 3)
    assert relative(found.gradient, whole.gradient) > 1e-2

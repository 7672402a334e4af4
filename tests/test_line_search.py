"""Step lengths against the conditions that they must meet, and on functions that mislead."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdforce.line_search import CURVATURE, DECREASE, EVALUATIONS, step_length


def searched(function, slope_of):
    """The length found, and how many evaluations it took."""
    seen = []

    def evaluate(length):
        seen.append(length)
        with np.errstate(all="ignore"):
            return function(length), slope_of(length)

    return step_length(evaluate, function(0.0), slope_of(0.0)), len(seen)


def holds(function, slope_of, length):
    """Both conditions, with room for the rounding of the function."""
    start, slope = function(0.0), slope_of(0.0)
    room = 8 * np.finfo(float).eps * abs(start)
    lower = function(length) <= start + DECREASE * length * slope + room
    return length > 0 and lower and slope_of(length) >= CURVATURE * slope


@given(st.floats(-12, 4), st.floats(1e-6, 1e6))
def test_conditions_hold_for_a_parabola_with_its_minimum_anywhere(exponent, steepness):
    minimum = 10.0**exponent

    def function(x):
        return steepness * ((x / minimum - 1) ** 2 + 1e-3)

    def slope(x):
        return 2 * steepness * (x / minimum - 1) / minimum

    length, evaluations = searched(function, slope)
    assert holds(function, slope, length)
    # too long by a factor of ten, or too short by two, in each but the last two
    assert evaluations <= 3 + max(-exponent, exponent * np.log2(10), 0)


def test_a_step_of_one_that_serves_is_taken_at_once():
    assert searched(lambda x: (x - 1.2) ** 2, lambda x: 2 * (x - 1.2)) == (1.0, 1)


@pytest.mark.parametrize("beyond", [np.inf, np.nan, -np.inf])
@pytest.mark.parametrize("edge", [0.3, 1e-6, 1.5])
def test_values_that_are_not_finite_are_refused(beyond, edge):
    """Falls all the way to an edge beyond which nothing is defined."""

    def function(x):
        return -x if x < edge else beyond

    length, _ = searched(function, lambda x: -1.0)
    assert 0.1 * edge < length < edge


def test_a_function_that_only_rises_gives_no_step():
    """A slope of the wrong sign, as of a wrong gradient."""
    assert searched(lambda x: x, lambda x: -1.0) == (0.0, EVALUATIONS)


def test_a_decrease_that_is_lost_in_rounding_is_none():
    assert searched(lambda x: 1.0 - 1e-20 * x, lambda x: -1e-20) == (0.0, EVALUATIONS)


def test_a_minimum_with_a_corner():
    """Absolute values, whose slope jumps: the parabola through both sides misses the corner."""
    length, _ = searched(lambda x: abs(x - 0.01), lambda x: np.sign(x - 0.01))
    assert 0 < abs(length - 0.01) < 0.01

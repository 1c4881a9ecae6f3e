"""Grids of rates include their ends and increase strictly."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autolr.grids import linear_grid, log_grid


@settings(derandomize=True, max_examples=100, deadline=None)
@given(low=st.floats(1e-300, 1e299), factor=st.floats(1.001, 1e8), num=st.integers(2, 200))
def test_the_log_grid_has_its_ends_and_equal_ratios(low, factor, num):
    high = low * factor
    grid = log_grid(low, high, num)
    assert grid.shape == (num,)
    assert (grid[0], grid[-1]) == (low, high)
    assert (np.diff(grid) > 0.0).all()
    np.testing.assert_allclose(grid[1:] / grid[:-1], factor ** (1.0 / (num - 1)), rtol=1e-10)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(low=st.floats(0.0, 1e6), width=st.floats(1e-3, 1e6), num=st.integers(2, 200))
def test_the_linear_grid_has_its_ends_and_equal_distances(low, width, num):
    grid = linear_grid(low, low + width, num)
    assert (grid[0], grid[-1]) == (low, low + width)
    np.testing.assert_allclose(np.diff(grid), (grid[-1] - low) / (num - 1), rtol=1e-3)


def test_one_rate_is_a_grid():
    assert log_grid(0.1, 0.1, 1).tolist() == [0.1]
    assert linear_grid(0, 0, np.int64(1)).tolist() == [0.0]


@pytest.mark.parametrize("grid", [log_grid, linear_grid])
@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((-1.0, 1.0, 3), ValueError, "`low` must be finite and"),
        ((float("nan"), 1.0, 3), ValueError, "`low` must be finite and"),
        (("a", 1.0, 3), TypeError, "`low` must be a real number, got 'a'."),
        ((0.1, float("inf"), 3), ValueError, "`high` must be finite, got inf."),
        ((0.1, None, 3), TypeError, "`high` must be a real number, got None."),
        ((0.1, 0.1, 2), ValueError, "`high` must be above `low` (0.1), got 0.1."),
        ((0.1, 1.0, 1), ValueError, "`high` must be equal to `low` (0.1) where `num` is 1, got 1.0."),
        ((0.1, 1.0, 0), ValueError, "`num` must be at least 1, got 0."),
        ((0.1, 1.0, 2.0), TypeError, "`num` must be an integer, got 2.0."),
        ((1.0, np.nextafter(1.0, 2.0), 9), ValueError, "`num` must be small enough for distinct rates between 1.0 and"),
    ],
)
def test_wrong_arguments_are_named(grid, arguments, error, text):
    with pytest.raises(error, match=re.escape(text)):
        grid(*arguments)


def test_a_log_grid_does_not_start_at_zero():
    with pytest.raises(ValueError, match=r"`low` must be finite and above 0, got 0\.0\."):
        log_grid(0.0, 1.0, 3)

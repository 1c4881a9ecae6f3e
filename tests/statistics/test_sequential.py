"""Looking while the rows still come: the sequence, and the levels of planned looks."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autolr.statistics import confidence_sequence, t_interval
from autolr.statistics.sequential import FIRST_LOOK, enough_resamples, look_level, look_sizes


def sequence_by_hand(column, alpha, optimal_at):
    """The boundary with rho found by brute force: the one that is narrowest at ``optimal_at`` rows."""

    def half_width(num_rows, square):
        growth = num_rows * square + 1.0
        return math.sqrt(2.0 * growth / (num_rows**2 * square) * math.log(math.sqrt(growth) / alpha))

    squares = np.geomspace(1e-3, 1e3, 2001) / optimal_at
    for _ in range(2):
        best = squares[int(np.argmin([half_width(optimal_at, square) for square in squares]))]
        squares = best * np.linspace(0.98, 1.02, 20_001)
    half = column.std(ddof=1) * half_width(len(column), best)
    return column.mean() - half, column.mean() + half


@pytest.mark.parametrize("num_rows", [20, 100, 700])
@pytest.mark.parametrize(("level", "optimal_at"), [(0.95, 100), (0.8, 30), (0.999, 400)])
def test_the_sequence_is_the_boundary_that_is_narrowest_where_asked(num_rows, level, optimal_at):
    column = np.random.default_rng(0).normal(3.0, 2.0, num_rows)
    low, high = confidence_sequence(column[:, None], confidence_level=level, optimal_at=optimal_at)
    expected = sequence_by_hand(column, 1.0 - level, optimal_at)
    np.testing.assert_allclose([low[0], high[0]], expected, rtol=1e-5)


def test_the_sequence_says_nothing_before_it_holds_nor_of_divergence_and_all_of_a_constant():
    rng = np.random.default_rng(0)
    delta = np.column_stack([rng.normal(size=40), np.full(40, 2.5), rng.normal(size=40)])
    delta[3, 2] = np.inf
    low, high = confidence_sequence(delta)
    assert np.isfinite([low[0], high[0]]).all()
    assert (low[1], high[1]) == (2.5, 2.5)
    assert (low[2], high[2]) == (-np.inf, np.inf)
    low, high = confidence_sequence(delta[: FIRST_LOOK - 1])
    assert np.isneginf(low).all()
    assert np.isposinf(high).all()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), scale=st.floats(1e-6, 1e6), shift=st.floats(-10.0, 10.0))
def test_the_sequence_moves_and_scales_with_the_losses(seed, scale, shift):
    delta = np.random.default_rng(seed).normal(size=(25, 3))
    ends, moved = confidence_sequence(delta), confidence_sequence(scale * (delta + shift))
    for end, other in zip(ends, moved, strict=True):
        np.testing.assert_allclose(other, scale * (end + shift), rtol=1e-9, atol=1e-9 * scale)


def test_the_sequence_is_wider_than_an_interval_of_one_look():
    delta = np.random.default_rng(0).normal(size=(60, 2))
    low, high = confidence_sequence(delta)
    t_low, t_high = t_interval(delta)
    assert (low < t_low).all()
    assert (high > t_high).all()


@pytest.mark.statistical
def test_the_sequence_holds_at_all_looks_together_where_a_t_interval_does_not():
    # 600 sequences; at 5% a miss rate above 8.5% has a chance below 3e-4, and t misses in far more than 15%
    rng, repetitions = np.random.default_rng(1), 600
    values = rng.normal(size=(300, repetitions))
    missed, t_missed = np.zeros(repetitions, bool), np.zeros(repetitions, bool)
    for num_rows in range(FIRST_LOOK, 301, 4):
        low, high = confidence_sequence(values[:num_rows])
        missed |= (low > 0.0) | (high < 0.0)
        low, high = t_interval(values[:num_rows])
        t_missed |= (low > 0.0) | (high < 0.0)
    assert missed.mean() < 0.085
    assert t_missed.mean() > 0.15


@pytest.mark.parametrize(
    ("most", "expected"),
    [(2, (2,)), (20, (20,)), (21, (20, 21)), (100, (20, 30, 45, 67, 100)), (160, (20, 30, 45, 67, 101, 151, 160))],
)
def test_from_look_to_look_there_is_half_as_much_again_until_the_rows_end(most, expected):
    assert look_sizes(most) == expected


@settings(max_examples=50, deadline=None, derandomize=True)
@given(level=st.floats(0.5, 0.999), looks=st.integers(1, 40))
def test_the_looks_spend_no_more_error_than_there_is(level, looks):
    planned = sum(1.0 - look_level(level, k, looks) for k in range(1, looks + 1))
    assert planned == pytest.approx(1.0 - level, rel=1e-9)
    open_ended = sum(1.0 - look_level(level, k) for k in range(1, looks + 1))
    assert open_ended < 1.0 - level
    assert 1.0 - level - open_ended < 6.0 * (1.0 - level) / (math.pi**2 * looks)  # the rest of the series


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: look_level(95, 1), "`confidence_level` must be finite and above 0 and below 1, got 95."),
        (lambda: look_level(0.95, 0), "`look` must be at least 1, got 0."),
        (lambda: look_level(0.95, 3, 2), "`num_looks` must be at least 3, got 2."),
        (lambda: look_sizes(1), "`num_subsamples` must be at least 2, got 1."),
        (lambda: confidence_sequence([[1.0], [2.0]], optimal_at=0), "`optimal_at` must be at least 1, got 0."),
        (lambda: confidence_sequence([[1.0]]), "`delta` must have at least 2 rows, got 1."),
        (lambda: confidence_sequence([[1.0], [np.nan]]), "`delta` must be free of NaN, got 1 NaN."),
    ],
)
def test_what_is_wrong_is_named(call, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        call()


def test_a_corrected_level_gets_resamples_for_its_tail():
    assert enough_resamples(0.95, 2000) == 2000
    assert enough_resamples(0.999, 2000) == 20_000
    assert enough_resamples(0.99999, 2000) == 20_000  # no more than seconds
    assert enough_resamples(0.99999, 30_000) == 30_000

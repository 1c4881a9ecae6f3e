"""What to beware of: one row that makes up the variance, rates whose losses are the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from autolr.statistics import best_set, simultaneous_band
from autolr.statistics.flags import DOMINANT, largest_share, ties, without_explosions


def share_by_hand(column):
    squares = [(value - sum(column) / len(column)) ** 2 for value in column]
    return max(squares) / sum(squares)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), scale=st.floats(1e-200, 1e200))
def test_the_share_is_that_of_the_largest_square_in_any_unit(seed, scale):
    delta = np.random.default_rng(seed).standard_t(2, size=(12, 3))
    np.testing.assert_allclose(largest_share(scale * delta), [share_by_hand(column) for column in delta.T], rtol=1e-9)


def test_what_does_not_vary_has_no_share_and_what_is_not_whole_has_none_to_tell():
    delta = np.array([[1.0, np.inf, np.nan, 0.0], [1.0, 2.0, 3.0, 0.0], [1.0, 1.0, 1.0, 1e-300]])
    np.testing.assert_array_equal(largest_share(delta)[:3], [0.0, np.nan, np.nan])
    assert largest_share(delta)[3] == pytest.approx(2.0 / 3.0)


@pytest.mark.statistical
@pytest.mark.parametrize("num_rows", [10, 20])
def test_the_share_of_normal_rows_has_the_distribution_that_is_stated(num_rows):
    # of 20,000 samples; 4 binomial standard errors: a false alarm in 1 of 16,000
    chance = num_rows * stats.beta.sf(DOMINANT * num_rows / (num_rows - 1), 0.5, (num_rows - 2) / 2)
    flagged = (largest_share(np.random.default_rng(0).normal(size=(num_rows, 20_000))) > DOMINANT).mean()
    assert abs(flagged - chance) < 4.0 * np.sqrt(chance / 20_000)


def test_heavy_tails_are_often_flagged_and_normal_rows_are_not():
    rng = np.random.default_rng(0)
    assert (largest_share(rng.normal(size=(100, 2000))) > DOMINANT).mean() == 0.0
    assert (largest_share(rng.standard_t(1, size=(100, 2000))) > DOMINANT).mean() > 0.5


def exploded(num_rows=40, *, height=900.0):
    rng = np.random.default_rng(0)
    delta = np.array([-0.3, -0.5, -0.4, -0.45]) + 0.05 * rng.normal(size=(num_rows, 4))
    delta[3, 3] = height
    return delta


def test_a_column_that_exploded_once_counts_as_diverged_and_drowns_no_other():
    delta = exploded()
    assert best_set(delta, rng=0)[3]  # with that error it could be anything
    assert not simultaneous_band(delta, rng=0)[1][3] < 0.0
    counted = without_explosions(delta)
    np.testing.assert_array_equal(counted[:, :3], delta[:, :3])
    assert np.isinf(counted[:, 3]).all()
    assert best_set(counted, rng=0).tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    "delta",
    [
        exploded(19),  # too few rows to tell
        exploded(height=5.0),  # its mean is below 0 still
        -exploded(),  # it exploded downwards
        exploded() + 1.0,  # nothing lowers the loss: there is nothing to drown
        exploded()[:, [0, 1, 2]],
    ],
)
def test_other_columns_stay_as_they_are(delta):
    np.testing.assert_array_equal(without_explosions(delta), delta)


def test_ties_are_differences_within_the_resolution():
    delta = np.array([[1.0, 1.0 + 1e-8, 1.1, np.inf, np.nan], [2.0, 2.0 - 1e-8, 2.1, 2.0, 2.0]])
    assert ties(delta, 0, resolution=2e-8).tolist() == [False, True, False, False, False]
    assert not ties(delta, 0, resolution=0.0).any()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: largest_share([[1.0]]), "`delta` must have at least 2 rows"),
        (lambda: ties([[1.0], [2.0]], -1, resolution=0.0), "`pick` must be at least 0, got -1."),
        (lambda: ties([[1.0], [2.0]], 0, resolution=-1.0), "`resolution` must be finite and at least 0, got -1.0."),
    ],
)
def test_what_is_wrong_is_named(call, text):
    with pytest.raises(ValueError, match=text):
        call()

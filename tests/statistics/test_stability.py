"""How often a rate would have been the pick, and that this is no confidence set."""

import itertools

import numpy as np
import pytest

from autolr.statistics import best_set, stability


def test_shares_are_those_of_all_resamples():
    delta = np.random.default_rng(0).normal(size=(5, 3))
    wins = np.zeros(3)
    for rows in itertools.product(range(5), repeat=5):
        wins[delta[list(rows)].mean(axis=0).argmin()] += 1
    # 4 binomial standard errors of 20,000 resamples
    np.testing.assert_allclose(stability(delta, num_resamples=20_000, rng=0), wins / 5**5, atol=4 * 0.5 / 20_000**0.5)


def test_equal_columns_share_and_diverged_ones_have_nothing():
    delta = np.array([[1.0, 1.0, np.inf], [2.0, 2.0, -9.0]])
    assert stability(delta, rng=0).tolist() == [0.5, 0.5, 0.0]
    assert stability(delta[:, 2:], rng=0).tolist() == [0.0]


@pytest.mark.statistical
def test_the_rates_that_win_often_are_no_confidence_set_where_rates_are_as_good():
    # under 11 exact ties the set of shares misses a given best rate in far more than 5% of 200 tunings; 95% of at most
    # 11 rates would be missed in 10 +- 3
    rng = np.random.default_rng(0)
    missed, out = 0, 0
    for _ in range(200):
        delta = 0.3 * rng.normal(size=(20, 11))
        shares = stability(delta, num_resamples=500, rng=rng)
        order = shares.argsort()[::-1]
        needed = order[: int(np.searchsorted(np.cumsum(shares[order]), 0.95)) + 1]
        missed += 0 not in needed
        out += not best_set(delta, num_resamples=500, rng=rng)[0]
    assert missed > 40
    assert out <= 22


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: stability([[1.0]]), "`delta` must have at least 2 rows, got 1."),
        (lambda: stability([[1.0], [2.0]], num_resamples=0), "`num_resamples` must be at least 1, got 0."),
    ],
)
def test_what_is_wrong_is_named(call, text):
    with pytest.raises(ValueError, match=text):
        call()

import numpy as np
import pytest
from scipy import stats

from autolr.statistics import binomial_interval
from autolr.statistics.proportions import binomial_upper_bound


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_interval_agrees_with_scipy_for_every_count(level):
    counts = np.arange(13)
    low, high = binomial_interval(counts, 12, confidence_level=level)
    expected = [stats.binomtest(int(x), 12).proportion_ci(level, method="exact") for x in counts]
    np.testing.assert_allclose(low, [ci.low for ci in expected], rtol=1e-9)
    np.testing.assert_allclose(high, [ci.high for ci in expected], rtol=1e-9)


def test_no_trials_say_nothing():
    low, high = binomial_interval([0], [0])
    assert (low[0], high[0]) == (0.0, 1.0)


def test_upper_bound_is_the_end_of_a_two_sided_interval_at_half_the_error():
    np.testing.assert_allclose(
        binomial_upper_bound([0, 3, 10], 10, confidence_level=0.95),
        binomial_interval([0, 3, 10], 10, confidence_level=0.9)[1],
    )


@pytest.mark.parametrize("probability", [0.01, 0.3, 0.5])
def test_exact_coverage_is_never_below_the_level(probability):
    counts = np.arange(31)
    low, high = binomial_interval(counts, 30)
    covered = (low <= probability) & (probability <= high)
    assert stats.binom.pmf(counts, 30, probability)[covered].sum() >= 0.95


def test_ends_at_a_level_next_to_1_are_those_of_the_tail():
    level = 1.0 - 1e-16
    low, high = binomial_interval([0, 10], 10, confidence_level=level)
    end = ((1.0 - level) / 2.0) ** 0.1  # no success: (1 - p)^10 is the tail
    np.testing.assert_allclose([low, high], [[0.0, end], [1.0 - end, 1.0]])


def test_bad_counts_are_refused():
    with pytest.raises(TypeError, match=r"`successes` must be an array of integers, got \[0\.5\]\."):
        binomial_interval([0.5], [1])
    with pytest.raises(TypeError, match=r"`trials` must be an array of integers, got \[inf\]\."):
        binomial_interval([0], [np.inf])
    for wrong in (["one"], [True], [[1], [1, 2]]):
        with pytest.raises(TypeError, match=r"`trials` must be an array of real numbers, got \["):
            binomial_interval([0], wrong)
    with pytest.raises(ValueError, match=r"`successes` must be at least 0, got \[-1\]\."):
        binomial_interval([-1], [1])
    with pytest.raises(ValueError, match=r"`successes` must be at most `trials`, got \[2\]\."):
        binomial_interval([2], [1])
    broadcasts = r"`successes` must have a shape that broadcasts with that of `trials` \(3,\), got \(2,\)\."
    with pytest.raises(ValueError, match=broadcasts):
        binomial_interval([1, 2], [3, 4, 5])
    with pytest.raises(ValueError, match="`confidence_level` must be"):
        binomial_interval([1], [1], confidence_level=1.0)

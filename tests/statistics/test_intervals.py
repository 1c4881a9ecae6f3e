import numpy as np
import pandas as pd
import pytest
import statistics_oracles as oracles
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from autolr.statistics import (
    bca_interval,
    bootstrap_t_interval,
    median_interval,
    percentile_interval,
    t_interval,
)

RESAMPLED = [bootstrap_t_interval, percentile_interval, bca_interval]
OF_THE_MEAN = [t_interval, *RESAMPLED]
ALL = [*OF_THE_MEAN, median_interval]


def call(interval, delta, **options):
    return interval(delta, **options, **({"rng": 7} if interval in RESAMPLED else {}))


@pytest.fixture
def delta():
    return np.random.default_rng(3).gumbel(size=(15, 4)) * [1.0, 1e-9, 1e6, 3.0] + [0.0, 1.0, -1e6, 10.0]


def test_t_interval_agrees_with_scipy(delta):
    low, high = t_interval(delta, confidence_level=0.9)
    expected = stats.t.interval(0.9, 14, loc=delta.mean(axis=0), scale=stats.sem(delta))
    np.testing.assert_allclose([low, high], expected, rtol=1e-9)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_bootstrap_t_is_that_of_explicit_resampling_of_the_same_rows(delta, level):
    low, high = bootstrap_t_interval(delta, confidence_level=level, num_resamples=199, rng=5)
    rows = oracles.resampled_rows(15, 199, 5)
    expected = np.transpose([oracles.bootstrap_t(column, level, rows) for column in delta.T])
    np.testing.assert_allclose([low, high], expected, rtol=1e-6)


def test_percentile_ends_are_the_quantiles_of_the_resampled_means(delta):
    low, high = percentile_interval(delta, num_resamples=300, rng=5)
    means = delta[oracles.resampled_rows(15, 300, 5)].mean(axis=1)
    np.testing.assert_allclose([low, high], np.quantile(means, [0.025, 0.975], axis=0), rtol=1e-12)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_bca_agrees_with_scipy_up_to_the_noise_of_resampling(delta, level):
    low, high = bca_interval(delta, confidence_level=level, num_resamples=20_000, rng=1)
    theirs = stats.bootstrap(
        (delta,), np.mean, axis=0, confidence_level=level, n_resamples=20_000, rng=2, method="BCa"
    ).confidence_interval
    sem = delta.std(axis=0, ddof=1) / np.sqrt(15)
    np.testing.assert_allclose((np.array([low, high]) - np.array([theirs.low, theirs.high])) / sem, 0.0, atol=0.08)


def test_bca_of_tied_data_counts_ties_of_the_mean_half():
    delta = np.repeat([[0.1], [0.2]], 10, axis=0)  # symmetric: no bias, no acceleration
    assert np.allclose(bca_interval(delta, rng=1), percentile_interval(delta, rng=1), atol=0.0051)


def test_bca_stays_finite_where_all_resampled_means_are_on_one_side():
    low, high = bca_interval([[0.0], [1.0], [5.0]], num_resamples=1, rng=0)
    assert np.isfinite([low, high]).all()


@pytest.mark.parametrize("interval", ALL)
def test_interval_of_a_constant_column_is_the_constant(interval):
    low, high = call(interval, np.full((10, 1), 0.1))
    assert low == high == 0.1


@pytest.mark.parametrize("interval", OF_THE_MEAN)
def test_interval_of_a_column_with_a_divergence_is_unbounded(interval, delta):
    diverged = delta.copy()
    diverged[2, 1] = np.inf
    low, high = call(interval, diverged)
    assert (low[1], high[1]) == (-np.inf, np.inf)
    others = [0, 2, 3]
    np.testing.assert_allclose(np.array([low, high])[:, others], np.array(call(interval, delta))[:, others], rtol=1e-9)


@pytest.mark.parametrize("interval", OF_THE_MEAN)
def test_all_columns_may_have_diverged(interval):
    low, high = call(interval, np.full((5, 2), np.inf))
    assert np.isneginf(low).all()
    assert np.isposinf(high).all()


@pytest.mark.parametrize("interval", ALL)
def test_huge_losses_neither_overflow_nor_warn(interval):
    low, high = call(interval, np.random.default_rng(0).normal(size=(10, 2)) * [1e300, 1.0])
    assert np.isfinite([low, high]).all()


@pytest.mark.parametrize("num_rows", [2, 3])
def test_bootstrap_t_of_too_few_rows_is_unbounded(num_rows):
    low, high = bootstrap_t_interval(np.arange(num_rows, dtype=float)[:, None], rng=0)
    assert (low[0], high[0]) == (-np.inf, np.inf)


def test_bootstrap_t_with_too_few_resamples_for_the_level_is_unbounded(delta):
    low, high = bootstrap_t_interval(delta, confidence_level=0.99, num_resamples=50, rng=0)
    assert np.isinf([low, high]).all()


def test_t_interval_of_two_rows_is_exact():
    low, high = t_interval([[-1.0], [1.0]], confidence_level=0.5)  # t with 1 degree of freedom is Cauchy
    np.testing.assert_allclose([low[0], high[0]], [-1.0, 1.0])


@pytest.mark.parametrize("num_rows", [6, 7, 10, 15, 20, 101])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_median_interval_is_that_of_a_literal_implementation(num_rows, level):
    column = np.random.default_rng(num_rows).normal(size=num_rows)
    low, high = median_interval(column[:, None], confidence_level=level)
    np.testing.assert_allclose([low[0], high[0]], oracles.median_interval(column, level), rtol=1e-9)


@pytest.mark.parametrize(("num_rows", "level"), [(5, 0.95), (5, 0.5), (6, 0.99)])
def test_median_interval_is_unbounded_where_none_exists(num_rows, level):
    low, high = median_interval(np.zeros((num_rows, 1)), confidence_level=level)
    assert (low[0], high[0]) == (-np.inf, np.inf)


def test_median_interval_does_not_cross_at_low_levels():
    low, high = median_interval(np.arange(10.0)[:, None], confidence_level=0.1)
    assert (low[0], high[0]) == (4.0, 5.0)


def test_median_interval_sorts_divergences_last():
    column = np.arange(10.0)
    column[8:] = np.inf  # the 95% interval is near the 2nd and the 9th
    low, high = median_interval(np.stack([column, np.where(column > 0, np.inf, 0.0)], axis=1))
    assert 1.0 < low[0] < 2.0
    assert high[0] == np.inf
    assert (low[1], high[1]) == (np.inf, np.inf)


@pytest.mark.parametrize("interval", ALL)
@settings(derandomize=True, deadline=None, max_examples=20)
@given(data=st.data())
def test_interval_is_equivariant_under_shift_and_scale(interval, data):
    seed, shift = data.draw(st.integers(0, 99)), data.draw(st.floats(-100, 100))
    scale = data.draw(st.floats(0.01, 100))
    delta = np.random.default_rng(seed).normal(size=(12, 3))
    moved = call(interval, shift + scale * delta)
    np.testing.assert_allclose(moved, shift + scale * np.array(call(interval, delta)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("interval", [t_interval, median_interval])
@settings(derandomize=True, deadline=None, max_examples=20)
@given(order=st.permutations(range(9)))
def test_order_of_the_rows_does_not_matter(interval, order):
    delta = np.random.default_rng(0).normal(size=(9, 2))
    np.testing.assert_allclose(interval(delta[order]), interval(delta), rtol=1e-12)


@pytest.mark.parametrize("interval", RESAMPLED)
def test_integer_seed_repeats_and_generator_advances(interval, delta):
    generator = np.random.default_rng(0)
    first, second = interval(delta, rng=generator), interval(delta, rng=generator)
    np.testing.assert_array_equal(interval(delta, rng=0), first)
    np.testing.assert_array_equal(interval(delta, rng=0), interval(delta, rng=0))
    assert not np.array_equal(first, second)
    assert np.isfinite(interval(delta)).all()


@pytest.mark.parametrize("interval", ALL)
def test_bad_arguments_are_refused(interval):
    with pytest.raises(ValueError, match=r"`delta` must be free of NaN, got 1 NaN\."):
        interval([[np.nan], [0.0]])
    with pytest.raises(ValueError, match=r"`delta` must have at least 2 rows, got 1\."):
        interval([[0.0]])
    with pytest.raises(ValueError, match="`confidence_level` must be finite and above 0 and below 1, got 95"):
        interval([[0.0], [1.0]], confidence_level=95)


@pytest.mark.parametrize("interval", RESAMPLED)
def test_levels_next_to_0_and_1_have_intervals_too(interval, delta):
    inner_low, inner_high = call(interval, delta, confidence_level=1e-17)
    low, high = call(interval, delta, confidence_level=1 - 1e-16)
    assert (low <= inner_low).all()
    assert (inner_low <= inner_high).all()
    assert (inner_high <= high).all()
    assert np.isfinite([inner_low, inner_high]).all()


@pytest.mark.parametrize("interval", OF_THE_MEAN)
def test_layout_of_the_matrix_does_not_matter(interval):
    rng = np.random.default_rng(0)
    rates = np.logspace(-3, 0, 31)
    delta = -8 * rates + 40 * rates**2 + rng.normal(size=(60, 1)) * 2 * rates + rng.normal(size=(60, 31)) * 0.005
    expected = call(interval, delta)
    for other in (np.asfortranarray(delta), pd.DataFrame(delta)):
        np.testing.assert_array_equal(call(interval, other), expected)


@pytest.mark.parametrize("interval", RESAMPLED)
def test_bad_options_of_resampling_are_refused(interval):
    with pytest.raises(ValueError, match=r"`num_resamples` must be at least 1, got 0\."):
        interval([[0.0], [1.0]], num_resamples=0)
    with pytest.raises(TypeError, match=r"`rng` must be an integer, a numpy\.random\.Generator or None, got 'seed'\."):
        interval([[0.0], [1.0]], rng="seed")


def covers(interval, draw, truth, *, num_rows, num_trials=4000, level=0.95, **options):
    """Return the share of the columns, each one experiment, whose interval covers the truth."""
    low, high = interval(draw(size=(num_rows, num_trials)), confidence_level=level, **options)
    return float(((low <= truth) & (truth <= high)).mean())


@pytest.mark.statistical
def test_t_interval_covers_a_normal_mean_at_its_nominal_level():
    share = covers(t_interval, np.random.default_rng(0).normal, 0.0, num_rows=6, level=0.9)
    interval = stats.binomtest(round(share * 4000), 4000).proportion_ci(0.999_999)
    assert interval.low < 0.9 < interval.high


@pytest.mark.statistical
def test_normal_quantiles_in_place_of_t_fail_to_cover():
    def z_interval(delta, *, confidence_level):
        half = stats.norm.ppf((1 + confidence_level) / 2) * stats.sem(delta)
        return delta.mean(axis=0) - half, delta.mean(axis=0) + half

    assert covers(z_interval, np.random.default_rng(0).normal, 0.0, num_rows=5) < 0.90


@pytest.mark.statistical
@pytest.mark.parametrize(("num_rows", "least", "most"), [(10, 0.945, 0.99), (20, 0.94, 0.97), (50, 0.935, 0.97)])
def test_bootstrap_t_covers_a_normal_mean(num_rows, least, most):
    draw = np.random.default_rng(1).normal
    assert least < covers(bootstrap_t_interval, draw, 0.0, num_rows=num_rows, rng=0, num_resamples=1000) < most


@pytest.mark.statistical
def test_bootstrap_t_covers_a_skewed_mean_better_than_t_and_the_percentiles_do():
    draws = np.random.default_rng(2).exponential(size=(20, 4000))
    shares = [
        covers(interval, lambda size: draws, 1.0, num_rows=20, **options)  # noqa: ARG005
        for interval, options in [
            (bootstrap_t_interval, {"rng": 0}),
            (t_interval, {}),
            (percentile_interval, {"rng": 0}),
        ]
    ]
    assert shares[0] > max(shares[1:])
    assert 0.925 < shares[0] < 0.97


@pytest.mark.statistical
@pytest.mark.parametrize("num_rows", [10, 11, 20, 50])
def test_median_interval_covers_at_its_nominal_level(num_rows):
    share = covers(median_interval, np.random.default_rng(3).standard_normal, 0.0, num_rows=num_rows, num_trials=20_000)
    assert abs(share - 0.95) < 0.01
    skewed = covers(median_interval, np.random.default_rng(3).standard_exponential, np.log(2), num_rows=num_rows)
    assert abs(skewed - 0.95) < 0.02

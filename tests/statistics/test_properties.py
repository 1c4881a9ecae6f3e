"""Theorems about all statistics at once, and each resampled one against loops over the same resamples."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import statistics_oracles as oracles
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from autolr.statistics import (
    argmin_interval,
    bca_interval,
    best_set,
    binomial_interval,
    bootstrap_t_interval,
    confidence_sequence,
    median_interval,
    percentile_interval,
    regret_bound,
    simultaneous_band,
    stability,
    t_interval,
)

LEVEL = 0.9
METHODS = ["studentized", "mvt"]
RESAMPLED = {
    "bootstrap-t": bootstrap_t_interval,
    "percentile": percentile_interval,
    "bca": bca_interval,
    "band": simultaneous_band,
}
EXACT = {"t": t_interval, "median": median_interval, "sequence": confidence_sequence}
ENDS = EXACT | {name: partial(interval, num_resamples=199) for name, interval in RESAMPLED.items()}
best_set, regret_bound, argmin_interval, stability = (
    partial(function, num_resamples=199) for function in (best_set, regret_bound, argmin_interval, stability)
)

few = settings(derandomize=True, deadline=None, max_examples=25)
every_interval = pytest.mark.parametrize("name", ENDS)
every_resampled_interval = pytest.mark.parametrize("name", RESAMPLED)
every_method = pytest.mark.parametrize("method", METHODS)


def ends(name, delta, *, level=LEVEL, rng=3):
    options = {} if name in EXACT else {"rng": rng}
    return np.array(ENDS[name](delta, confidence_level=level, **options))


def draw_matrix(seed, num_rows, num_columns, skewed):
    """Return correlated columns without ties, the first of the smallest mean but for chance."""
    rng = np.random.default_rng(seed)
    draw = rng.standard_exponential if skewed else rng.standard_normal
    shared = rng.normal(size=(num_rows, 1))
    return shared + draw((num_rows, num_columns)) + 0.3 * np.arange(num_columns)


matrices = st.builds(
    draw_matrix, st.integers(0, 999), st.sampled_from([8, 13, 20]), st.integers(1, 5), skewed=st.booleans()
)
wide_matrices = matrices.filter(lambda delta: delta.shape[1] > 1)
scales = st.sampled_from([1e-6, 0.3, 7.0, 1e6])
shifts = st.floats(-5.0, 5.0)


def rates_of(delta):
    return 0.01 * 1.2 ** np.arange(delta.shape[1])


class Renumbered(np.random.Generator):
    """Draws what ``default_rng(seed)`` does, for rows that were put in another order."""

    def __init__(self, seed, order):
        super().__init__(np.random.PCG64(seed))
        self.order, self.place = order, np.argsort(order)

    def integers(self, high, **options):
        assert high == len(self.order)
        return self.place[super().integers(high, **options)]

    def standard_normal(self, size):
        return super().standard_normal(size)[:, self.order]


# Units of the loss


@every_interval
@few
@given(delta=matrices, scale=scales, shift=shifts)
def test_ends_shift_and_scale_with_the_losses(name, delta, scale, shift):
    expected = scale * (ends(name, delta) + shift)
    np.testing.assert_allclose(ends(name, scale * (delta + shift)), expected, rtol=1e-8, atol=1e-8 * scale)


@every_interval
@few
@given(delta=matrices, exponent=st.integers(-900, 900))
def test_ends_scale_exactly_by_powers_of_two(name, delta, exponent):
    np.testing.assert_array_equal(ends(name, np.ldexp(delta, exponent)), np.ldexp(ends(name, delta), exponent))


@every_interval
@few
@given(delta=matrices)
def test_ends_change_places_where_the_losses_change_sign(name, delta):
    np.testing.assert_allclose(ends(name, -delta), -ends(name, delta)[::-1], rtol=1e-9, atol=1e-12)


@every_method
@few
@given(delta=matrices, scale=scales, shift=shifts)
def test_set_is_the_same_and_regret_bound_scales_with_the_losses(method, delta, scale, shift):
    moved = scale * (delta + shift)
    inside, bound = best_set(delta, method=method, rng=3), regret_bound(delta, 0, method=method, rng=3)
    np.testing.assert_array_equal(best_set(moved, method=method, rng=3), inside)
    np.testing.assert_allclose(regret_bound(moved, 0, method=method, rng=3), scale * bound, rtol=1e-8)


@few
@given(delta=matrices, scale=scales, shift=shifts)
def test_interval_of_the_best_rate_does_not_depend_on_the_unit_of_the_loss(delta, scale, shift):
    rates = rates_of(delta)
    moved = argmin_interval(rates, scale * (delta + shift), rng=3)
    np.testing.assert_allclose(moved, argmin_interval(rates, delta, rng=3), rtol=1e-6)


@few
@given(delta=matrices, factor=st.sampled_from([1e-4, 0.5, 3.0, 1e3]))
def test_interval_of_the_best_rate_scales_with_the_rates(delta, factor):
    low, high = argmin_interval(rates_of(delta), delta, rng=3)
    moved = argmin_interval(factor * rates_of(delta), delta, rng=3)
    np.testing.assert_allclose(moved, (factor * low, factor * high), rtol=1e-6)


@few
@given(delta=matrices, scale=scales, shift=shifts, data=st.data())
def test_stability_depends_neither_on_the_unit_of_the_loss_nor_on_the_order_of_rates_or_rows(delta, scale, shift, data):
    rates = data.draw(st.permutations(range(delta.shape[1])))
    rows = np.array(data.draw(st.permutations(range(delta.shape[0]))))
    moved = scale * (delta[rows][:, rates] + shift)
    np.testing.assert_allclose(stability(moved, rng=Renumbered(3, rows)), stability(delta, rng=3)[rates], atol=1e-12)


# Order of the rates


@every_interval
@few
@given(delta=matrices, data=st.data())
def test_ends_are_permuted_with_the_columns(name, delta, data):
    order = data.draw(st.permutations(range(delta.shape[1])))
    np.testing.assert_allclose(ends(name, delta[:, order]), ends(name, delta)[:, order], rtol=1e-11, atol=1e-13)


@every_method
@few
@given(delta=matrices, data=st.data())
def test_set_is_permuted_with_the_columns_and_regret_bound_goes_with_its_pick(method, delta, data):
    order = data.draw(st.permutations(range(delta.shape[1])))
    inside = best_set(delta, method=method, rng=3)
    np.testing.assert_array_equal(best_set(delta[:, order], method=method, rng=3), inside[order])
    moved = regret_bound(delta[:, order], 0, method=method, rng=3)
    np.testing.assert_allclose(moved, regret_bound(delta, order[0], method=method, rng=3), rtol=1e-11)


# Order of the subsamples: with the same seed another order resamples other rows


@pytest.mark.parametrize("name", EXACT)
@few
@given(delta=matrices, data=st.data())
def test_order_of_the_rows_does_not_matter_to_what_is_not_resampled(name, delta, data):
    order = data.draw(st.permutations(range(delta.shape[0])))
    np.testing.assert_allclose(ends(name, delta[order]), ends(name, delta), rtol=1e-12, atol=1e-14)


@every_resampled_interval
@few
@given(delta=matrices, data=st.data())
def test_order_of_the_rows_does_not_matter_where_the_same_rows_are_resampled(name, delta, data):
    order = np.array(data.draw(st.permutations(range(delta.shape[0]))))
    np.testing.assert_allclose(
        ends(name, delta[order], rng=Renumbered(3, order)), ends(name, delta), rtol=1e-9, atol=1e-12
    )


@every_method
@few
@given(delta=matrices, data=st.data())
def test_order_of_the_rows_changes_neither_set_nor_regret_bound_of_the_same_resamples(method, delta, data):
    order = np.array(data.draw(st.permutations(range(delta.shape[0]))))
    moved = best_set(delta[order], method=method, rng=Renumbered(3, order))
    np.testing.assert_array_equal(moved, best_set(delta, method=method, rng=3))
    bound = regret_bound(delta[order], 0, method=method, rng=Renumbered(3, order))
    np.testing.assert_allclose(bound, regret_bound(delta, 0, method=method, rng=3), rtol=1e-9)


@few
@given(delta=matrices, data=st.data())
def test_order_of_the_rows_does_not_change_the_interval_of_the_best_rate_of_the_same_resamples(delta, data):
    order = np.array(data.draw(st.permutations(range(delta.shape[0]))))
    moved = argmin_interval(rates_of(delta), delta[order], rng=Renumbered(3, order))
    np.testing.assert_allclose(moved, argmin_interval(rates_of(delta), delta, rng=3), rtol=1e-6)


@pytest.mark.parametrize("interval", [bootstrap_t_interval, simultaneous_band])
def test_order_of_the_rows_matters_with_one_seed_by_no_more_than_the_noise_of_resampling(interval):
    delta = draw_matrix(5, 20, 4, skewed=True)
    size, level = 4000, 0.8
    # By the inequality of Dvoretzky, Kiefer, Wolfowitz and Massart, each of the four critical values is this close in
    # level to the exact one of its resamples, all ends at once, with a probability above 1 - 1e-6.
    slack = np.sqrt(np.log(2 * 5 / 1e-6) / (2 * size))
    (low, high), (inner_low, inner_high), (outer_low, outer_high) = (
        interval(rows, confidence_level=level + step * 2 * slack, num_resamples=size, rng=0)
        for rows, step in [(delta, 0), (delta[::-1], -1), (delta[::-1], 1)]
    )
    assert ((outer_low <= low) & (low <= inner_low)).all()
    assert ((inner_high <= high) & (high <= outer_high)).all()


# What holds what


@every_interval
@few
@given(delta=matrices, levels=st.tuples(st.floats(0.05, 0.999), st.floats(0.05, 0.999)).map(sorted))
def test_ends_at_a_higher_level_hold_those_at_a_lower_one(name, delta, levels):
    (inner_low, inner_high), (low, high) = (ends(name, delta, level=level) for level in levels)
    assert (low <= inner_low).all()
    assert (inner_low <= inner_high).all()
    assert (inner_high <= high).all()


@few
@given(delta=matrices, levels=st.tuples(st.floats(0.05, 0.999), st.floats(0.05, 0.999)).map(sorted))
def test_interval_of_the_best_rate_at_a_higher_level_holds_that_at_a_lower_one(delta, levels):
    rates = rates_of(delta)
    (inner_low, inner_high), (low, high) = (
        argmin_interval(rates, delta, confidence_level=level, rng=3) for level in levels
    )
    assert rates[0] <= low <= inner_low <= inner_high <= high <= rates[-1]


@few
@given(delta=matrices, level=st.floats(0.05, 0.999))
def test_band_holds_every_interval_of_the_same_resamples(delta, level):
    (low, high), (inner_low, inner_high) = (ends(name, delta, level=level) for name in ("band", "bootstrap-t"))
    assert (low <= inner_low).all()
    assert (inner_high <= high).all()


@every_method
@few
@given(delta=matrices, levels=st.tuples(st.floats(0.05, 0.999), st.floats(0.05, 0.999)).map(sorted))
def test_set_and_regret_bound_grow_with_the_level(method, delta, levels):
    smaller, larger = (best_set(delta, confidence_level=level, method=method, rng=3) for level in levels)
    assert (smaller <= larger).all()
    bounds = [regret_bound(delta, 0, confidence_level=level, method=method, rng=3) for level in levels]
    assert 0.0 <= bounds[0] <= bounds[1]


@pytest.mark.parametrize("num_rows", [4, 12, 20])
def test_what_is_said_of_tied_values_grows_with_the_level(num_rows):
    levels = [0.5, 0.7, 0.8, 0.9, 0.95, 0.975, 0.9875, 0.995, 0.999]
    for seed in range(30):
        rng = np.random.default_rng(seed)
        delta = np.round((rng.normal(size=(num_rows, 6)) + 0.3 * np.arange(6)) * rng.choice([0.4, 1.0], size=6))
        for lower, higher in pairwise(levels):
            assert (
                best_set(delta, confidence_level=lower, rng=3) <= best_set(delta, confidence_level=higher, rng=3)
            ).all()
            bounds = [regret_bound(delta, 0, confidence_level=level, rng=3) for level in (lower, higher)]
            assert bounds[0] <= bounds[1]
            (inner_low, inner_high), (low, high) = (ends("band", delta, level=level) for level in (lower, higher))
            assert (low <= inner_low).all()
            assert (inner_high <= high).all()


@every_method
@few
@given(delta=wide_matrices, level=st.floats(0.05, 0.999), pick=st.integers(0, 4))
def test_pick_of_the_mean_is_in_the_set_and_no_regret_bound_is_below_the_regret_seen(method, delta, level, pick):
    means, pick = delta.mean(axis=0), pick % delta.shape[1]
    inside = best_set(delta, confidence_level=level, method=method, rng=3)
    assert inside[means.argmin()]
    bound = regret_bound(delta, pick, confidence_level=level, method=method, rng=3)
    assert bound >= (means[pick] - means.min()) * (1 - 1e-12)
    if inside.sum() == 1 and inside[pick]:
        assert bound == 0.0


@every_method
@few
@given(delta=wide_matrices)
def test_diverged_column_is_in_no_set_and_leaves_what_is_said_of_the_others(method, delta):
    diverged = delta.copy()
    diverged[-1, 0] = np.inf
    np.testing.assert_array_equal(
        best_set(diverged, method=method, rng=3), [False, *best_set(delta[:, 1:], method=method, rng=3)]
    )
    np.testing.assert_allclose(
        regret_bound(diverged, 1, method=method, rng=3), regret_bound(delta[:, 1:], 0, method=method, rng=3), rtol=1e-11
    )
    for name in ENDS:
        np.testing.assert_allclose(ends(name, diverged)[:, 1:], ends(name, delta[:, 1:]), rtol=1e-11, atol=1e-13)


@few
@given(trials=st.integers(1, 60), levels=st.tuples(st.floats(0.05, 0.999), st.floats(0.05, 0.999)).map(sorted))
def test_binomial_interval_is_nested_symmetric_and_increases_with_the_count(trials, levels):
    counts = np.arange(trials + 1)
    (inner_low, inner_high), (low, high) = (binomial_interval(counts, trials, confidence_level=lv) for lv in levels)
    assert ((low <= inner_low) & (inner_low <= counts / trials) & (counts / trials <= inner_high)).all()
    assert (inner_high <= high).all()
    assert (np.diff(low) > 0).all()
    assert (np.diff(high) > 0).all()
    np.testing.assert_allclose(low, 1.0 - high[::-1], atol=1e-12)


# Loops over the same resamples


@every_resampled_interval
@few
@given(delta=matrices, seed=st.integers(0, 99), level=st.sampled_from([0.5, 0.8, 0.95]))
def test_ends_are_those_of_a_loop_over_the_same_rows(name, delta, seed, level):
    rows = oracles.resampled_rows(len(delta), 199, seed)
    oracle = {"bootstrap-t": oracles.bootstrap_t, "percentile": oracles.percentile, "bca": oracles.bca}.get(name)
    if oracle is None:
        expected = oracles.band(delta, level, rows)
    else:
        expected = np.transpose([oracle(column, level, rows) for column in delta.T])
    np.testing.assert_allclose(ends(name, delta, level=level, rng=seed), expected, rtol=1e-7, atol=1e-9)


@few
@given(delta=matrices, seed=st.integers(0, 99))
def test_stability_is_the_share_of_a_loop_over_the_same_rows(delta, seed):
    expected = oracles.stability(delta, oracles.resampled_rows(len(delta), 199, seed))
    np.testing.assert_allclose(stability(delta, rng=seed), expected, atol=1e-12)


@few
@given(delta=matrices, seed=st.integers(0, 99), level=st.sampled_from([0.5, 0.8, 0.95]))
def test_bca_is_that_of_scipy_for_the_same_rows(delta, seed, level):
    rows = oracles.resampled_rows(len(delta), 199, seed)
    assume(all(len(set(row)) < len(row) for row in rows))  # SciPy's rounding breaks such ties with the mean
    rng = np.random.default_rng(seed)
    theirs = stats.bootstrap((delta,), np.mean, axis=0, confidence_level=level, n_resamples=199, rng=rng, method="BCa")
    np.testing.assert_allclose(ends("bca", delta, level=level, rng=seed), theirs.confidence_interval, rtol=1e-9)


@few
@given(delta=wide_matrices, seed=st.integers(0, 99), level=st.sampled_from([0.5, 0.8, 0.95]))
def test_studentized_set_and_regret_bound_are_those_of_loops_over_the_same_rows(delta, seed, level):
    rows = oracles.resampled_rows(len(delta), 49, seed)
    inside = best_set(delta, confidence_level=level, num_resamples=49, rng=seed)
    np.testing.assert_array_equal(inside, oracles.best_set(delta, level, rows))
    bound = regret_bound(delta, 1, confidence_level=level, num_resamples=49, rng=seed)
    np.testing.assert_allclose(bound, oracles.regret_bound(delta, 1, level, rows), rtol=1e-7)


@few
@given(delta=wide_matrices, seed=st.integers(0, 99), level=st.sampled_from([0.5, 0.8, 0.95]))
def test_mvt_set_and_regret_bound_are_those_of_loops_over_the_same_normal_draws(delta, seed, level):
    draws = oracles.mvt_draws(len(delta), 49, seed)
    inside = best_set(delta, confidence_level=level, method="mvt", num_resamples=49, rng=seed)
    np.testing.assert_array_equal(inside, oracles.mvt_best_set(delta, level, draws))
    bound = regret_bound(delta, 1, confidence_level=level, method="mvt", num_resamples=49, rng=seed)
    np.testing.assert_allclose(bound, oracles.mvt_regret_bound(delta, 1, level, draws), rtol=1e-7)


@pytest.mark.parametrize("noise", [0.1, 0.5, 3.0])
@pytest.mark.parametrize("step", [0.08, 0.2])
@pytest.mark.parametrize(("seed", "cliff"), [(0, 0.0), (1, 1e6), (2, 0.0), (3, 1e6)])
def test_interval_of_the_best_rate_is_that_of_loops_over_the_same_rows(noise, step, seed, cliff):
    rng = np.random.default_rng(seed)
    x = -1.0 + step * np.arange(-9, 10)
    tilt, bend = noise * rng.normal(size=(2, 10, 1))
    delta = (1.0 + 0.5 * np.tanh(bend)) * x**2 + (2.0 + tilt) * x + 0.01 * rng.normal(size=(10, 19))
    delta[:, 14:] += cliff
    low, high = np.log10(oracles.argmin_interval(10.0**x, delta, 0.8, oracles.resampled_rows(10, 49, seed)))
    ends = np.log10(argmin_interval(10.0**x, delta, confidence_level=0.8, num_resamples=49, rng=seed))
    np.testing.assert_allclose(ends, [low, high], atol=1e-7 * (high - low) + 2e-9)


@pytest.mark.statistical
@pytest.mark.parametrize("num_rows", [9, 14])
def test_median_interval_is_exact_for_the_laplace_distribution(num_rows):
    """Between two ranks the interpolation gives each side its share exactly, by the minimum of exponentials."""
    num_trials = 200_000
    low, high = median_interval(np.random.default_rng(0).laplace(size=(num_rows, num_trials)), confidence_level=LEVEL)
    for missed in (int((low > 0.0).sum()), int((high < 0.0).sum())):
        interval = stats.binomtest(missed, num_trials).proportion_ci(0.999_999)
        assert interval.low < (1 - LEVEL) / 2 < interval.high
        assert interval.high - interval.low < 0.006

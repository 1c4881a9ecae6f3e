"""The curve between the rates: what it reproduces, what it does not say, and how its error is known."""

import numpy as np
import pytest
from scipy import stats

from autolr.interpolation import choose_nodes, doubtful, first_nodes, interpolate
from autolr.interpolation_error import TOLERANCE, error_of, share_left, share_of_both

RATES = np.logspace(-4.0, 1.0, 100)


def parabolas(num_rows, *, seed=0):
    """Return (M, K, 1) differentials -a lr + b lr^2, as those of a quadratic loss."""
    rng = np.random.default_rng(seed)
    slope, curvature = rng.normal(1.0, 0.3, (num_rows, 1)), rng.uniform(0.5, 1.5, (num_rows, 1))
    return (curvature * RATES**2 - slope * RATES)[:, :, np.newaxis]


def with_a_dip(delta, *, at=50, depth=1.0):
    return delta - depth * (np.arange(RATES.size) == at)[:, np.newaxis] * np.abs(delta).max(axis=1, keepdims=True)


def with_a_kink(delta, *, at=50):
    return delta + 5.0 * np.maximum(0.0, RATES - RATES[at])[:, np.newaxis]


def worst_share(curves, exact):
    """Return the largest error of a mean as a share of its standard error."""
    errors = np.abs((curves - exact).mean(axis=0))
    return float((errors / (exact.std(axis=0, ddof=1) / np.sqrt(len(exact)))).max())


def test_a_loss_that_is_linear_in_the_rate_is_reproduced_exactly():
    delta = -RATES[np.newaxis, :, np.newaxis] * np.array([1.0, 2.0, 1e-200]).reshape(3, 1, 1)
    np.testing.assert_allclose(interpolate(RATES, delta, first_nodes(100)), delta, rtol=1e-12)


def test_the_error_falls_with_the_fourth_power_of_the_distance_of_the_nodes():
    delta = parabolas(1)
    errors = []
    for step in (9, 3):
        nodes = np.arange(100) % step == 0
        error = (interpolate(RATES, delta, nodes) - delta)[0, 40:60, 0] / RATES[40:60]
        errors.append(np.abs(error).max())
    assert errors[1] < errors[0] / 3.0**3


def test_the_values_at_the_nodes_stay_as_they_were():
    delta, nodes = parabolas(4), first_nodes(100)
    np.testing.assert_array_equal(interpolate(RATES, delta, nodes)[:, nodes], delta[:, nodes])


def test_only_the_values_at_the_nodes_are_read():
    delta, nodes = parabolas(4), first_nodes(100)
    sparse = np.where(nodes[:, np.newaxis], delta, np.nan)
    np.testing.assert_array_equal(interpolate(RATES, sparse, nodes), interpolate(RATES, delta, nodes))


def test_each_row_and_each_horizon_has_a_curve_of_its_own():
    delta = np.concatenate([parabolas(3), parabolas(3, seed=1)], axis=2)
    curves = interpolate(RATES, delta, first_nodes(100))
    for row in range(3):
        for horizon in range(2):
            alone = interpolate(RATES, delta[[row]][:, :, [horizon]], first_nodes(100))
            np.testing.assert_allclose(curves[row, :, horizon], alone[0, :, 0], rtol=1e-12)


@pytest.mark.parametrize("is_finite_again", [False, True])
def test_nothing_is_said_next_to_a_divergence_nor_beyond_it(is_finite_again):
    delta, nodes = parabolas(2), first_nodes(100)
    delta[0, 70:, 0] = np.inf
    if is_finite_again:
        delta[0, 80:, 0] = 1.0
    curves, before = interpolate(RATES, delta, nodes), np.flatnonzero(nodes & (np.arange(100) < 70))[-1]
    assert np.isfinite(curves[0, : before + 1]).all()
    assert np.isnan(curves[0, before + 1 :][~nodes[before + 1 :]]).all()
    np.testing.assert_array_equal(curves[0, nodes], delta[0, nodes])
    assert np.isfinite(curves[1]).all()


def test_a_curve_through_fewer_than_four_nodes_is_unknown():
    delta = parabolas(1)
    delta[0, 20:, 0] = np.inf  # the first three nodes are before
    assert np.isnan(interpolate(RATES, delta, first_nodes(100))[0, ~first_nodes(100)]).all()


@pytest.mark.parametrize("scale", [1e-320, 1e-300, 1e290])
def test_losses_of_any_magnitude_give_no_warning(scale):
    delta, nodes = scale * parabolas(8), first_nodes(100)
    curves = interpolate(RATES, delta, nodes)
    assert np.isfinite(curves).all()
    error_of(curves, delta, num_rows=100, resolution=0.0)
    doubtful(RATES, delta, nodes, np.zeros((100, 1)))


def test_huge_rises_are_followed():
    delta = parabolas(8) + 1e-3 * (np.expm1(np.minimum(20.0 * RATES, 150.0)))[:, np.newaxis]
    nodes, error = choose_nodes(RATES, delta, first_nodes(100), num_rows=40, resolution=0.0)
    assert nodes.sum() <= 60
    assert error.share <= TOLERANCE


def test_a_smooth_curve_needs_few_nodes_and_other_rows_confirm_it():
    nodes, error = choose_nodes(RATES, parabolas(8), first_nodes(100), num_rows=100, resolution=0.0)
    assert nodes.sum() <= 30
    assert 0.0 < error.share <= TOLERANCE
    others = parabolas(92, seed=1)
    assert worst_share(interpolate(RATES, others, nodes), others) <= TOLERANCE


@pytest.mark.parametrize("spoiled", [with_a_dip, with_a_kink], ids=["dip", "kink"])
def test_what_is_not_smooth_between_the_nodes_is_found_and_is_wrong_without_the_check(spoiled):
    smooth, _ = choose_nodes(RATES, parabolas(8), first_nodes(100), num_rows=100, resolution=0.0)
    exact = spoiled(parabolas(8))
    others = spoiled(parabolas(92, seed=1))
    # NOTE: the control: the nodes that a smooth loss needs, unchecked
    assert worst_share(interpolate(RATES, others, smooth), others) > 10.0 * TOLERANCE
    assert error_of(interpolate(RATES, exact, smooth), exact, num_rows=100, resolution=0.0).too_large.any()
    nodes, error = choose_nodes(RATES, exact, smooth, num_rows=100, resolution=0.0)
    assert nodes[48:53].all()
    assert nodes.sum() <= smooth.sum() + 40
    assert error.share <= TOLERANCE
    assert worst_share(interpolate(RATES, others, nodes), others) <= TOLERANCE


def test_a_dip_at_a_place_of_its_own_in_every_row_makes_all_rates_nodes():
    exact = np.concatenate([with_a_dip(parabolas(1, seed=k), at=12 * k + 6) for k in range(8)])
    nodes, _ = choose_nodes(RATES, exact, first_nodes(100), num_rows=100, resolution=0.0)
    assert all(nodes[12 * k + 6] for k in range(8))


def test_rates_from_a_divergence_on_become_nodes():
    delta = parabolas(8)
    delta[3, 70:, 0] = np.inf
    nodes, error = choose_nodes(RATES, delta, first_nodes(100), num_rows=100, resolution=0.0)
    assert nodes[69:].all()
    assert not error.too_large.any()


def test_the_bound_is_the_end_of_a_prediction_interval():
    rng = np.random.default_rng(0)
    exact, error = rng.normal(size=(8, 3, 1)), rng.normal(0.1, 0.01, size=(8, 3, 1))
    found = error_of(exact + error, exact, num_rows=50, resolution=0.0)
    half = stats.t.ppf(0.95, 7) * error[:, 1, 0].std(ddof=1) * np.sqrt(1 / 8 + 1 / 42)
    np.testing.assert_allclose(found.bound[1, 0], 42 / 50 * (abs(error[:, 1, 0].mean()) + half))
    np.testing.assert_allclose(found.standard_error[1, 0], exact[:, 1, 0].std(ddof=1) / np.sqrt(50))
    assert found.too_large.all()
    np.testing.assert_allclose(found.share, (found.bound / found.standard_error).max())


@pytest.mark.statistical
@pytest.mark.parametrize("bias", [0.0, 0.3, 2.0])
def test_the_bound_holds_at_its_level(bias):
    rng, num_trials = np.random.default_rng(1), 4000
    errors = rng.normal(bias, 1.0, size=(40, num_trials, 1))
    found = error_of(errors[:8], np.zeros((8, num_trials, 1)), num_rows=40, resolution=0.0)
    covered = int((np.abs(errors[8:].sum(axis=0) / 40) <= found.bound).sum())
    assert stats.binomtest(covered, num_trials).proportion_ci(0.999_999).high > 0.95 - 1e-12


def test_rounding_at_rates_below_the_resolution_is_no_error_but_is_counted():
    rng = np.random.default_rng(0)
    clean, resolution = parabolas(40), 1e-6
    noisy = clean + resolution * rng.uniform(-0.5, 0.5, clean.shape)
    nodes, error = choose_nodes(RATES, noisy[:8], first_nodes(100), num_rows=40, resolution=resolution)
    assert nodes.sum() <= 40
    assert not error.resolved[:5].any()
    assert error.resolved[50:].all()
    strict, _ = choose_nodes(RATES, noisy[:8], first_nodes(100), num_rows=40, resolution=0.0)
    assert strict.sum() > nodes.sum()


def test_noise_above_the_resolution_is_an_error():
    noisy = parabolas(8) + 1e-4 * np.random.default_rng(0).normal(size=(8, 100, 1))
    nodes, _ = choose_nodes(RATES, noisy, first_nodes(100), num_rows=100, resolution=1e-7)
    assert nodes[:30].all()


def test_columns_that_do_not_vary_are_not_divided_by_their_spread():
    delta = np.repeat(parabolas(1), 8, axis=0)
    found = error_of(delta + 1e-9, delta, num_rows=20, resolution=1e-6)
    assert not found.too_large.any()
    assert found.share == 0.0
    assert error_of(delta + 1e-3, delta, num_rows=20, resolution=1e-6).too_large.all()


def test_a_row_with_a_jump_is_in_doubt_and_smooth_ones_are_not():
    exact = parabolas(40)
    nodes, error = choose_nodes(RATES, exact[:8], first_nodes(100), num_rows=40, resolution=0.0)
    limit = 40 * error.allowed
    assert not doubtful(RATES, exact, nodes, limit).any()
    exact[30, 50:, 0] += 3.0
    found = np.flatnonzero(doubtful(RATES, exact, nodes, limit))
    assert found.size
    assert (np.abs(found - 50) < 35).all()
    exact[30, 50:, 0] = np.inf
    assert doubtful(RATES, exact, nodes, limit)[51:][~nodes[51:]].all()


def test_what_is_left_for_rows_that_are_added_is_what_keeps_all_within_the_tolerance():
    for share, num_rows, num_added in ((0.03, 100, 100), (0.05, 100, 400), (0.0, 10, 10)):
        left = share_left(share, num_rows, num_added)
        assert 0.0 < left <= TOLERANCE
        assert share_of_both(share, num_rows, left, num_added) <= TOLERANCE + 1e-12
    assert share_left(0.07, 100, 10) == 0.0
    assert share_of_both(0.04, 50, 0.04, 50) == pytest.approx(0.04 * np.sqrt(2.0))

import numpy as np
import pytest
import statistics_oracles as oracles
from scipy import stats
from scipy.interpolate import CubicSpline

from autolr.errors import DivergedError
from autolr.grids import log_grid
from autolr.statistics import argmin_interval
from autolr.statistics.argmin_interval import locate_minima

GRID = log_grid(1e-6, 10.0, 64)
SLOPE, CURVATURE = 1.0, 5.0
BEST = SLOPE / (2 * CURVATURE)


def parabolas(rng, num_rows=40, rates=GRID, noise=0.2):
    """Curves dL = -g lr + c lr^2 with random g and c, whose mean has its minimum at ``BEST`` and explodes to 1e4."""
    slope = SLOPE + noise * rng.normal(size=(num_rows, 1))
    curvature = CURVATURE * (1.0 + noise * rng.uniform(-1.0, 1.0, size=(num_rows, 1)))
    return -slope * rates + curvature * rates**2 + 1e-4 * rng.normal(size=(num_rows, rates.size))


def located(x, curves):
    """Return between which abscissae each of the curves themselves is smallest."""
    first, last, _ = locate_minima(x, np.asarray(curves), np.eye(len(curves)))
    return first, last


def test_interval_is_narrow_and_holds_the_minimum_of_a_curve_that_explodes_at_large_rates():
    delta = parabolas(np.random.default_rng(0))
    assert delta.mean(axis=0)[-1] > 1000 * np.abs(delta.mean(axis=0).min())
    low, high = argmin_interval(GRID, delta, rng=0)
    assert low < BEST < high
    assert high / low < 1.3


def minimum_and_error(x, delta):
    """Return the minimum of the spline through all column means and its delta-method standard error."""
    mean = CubicSpline(x, delta.mean(axis=0))
    stationary = [root for root in mean.derivative().roots(extrapolate=False) if mean(root, 2) > 0]
    minimum = min(stationary, key=mean)
    slopes = CubicSpline(x, delta, axis=1)(minimum, 1)
    return minimum, slopes.std(ddof=1) / np.sqrt(len(delta)) / mean(minimum, 2)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_interval_is_the_symmetric_bootstrap_t_one_of_the_minimum(level):
    rates = log_grid(0.05, 0.2, 7)  # so few that each spline goes through all of them
    delta = parabolas(np.random.default_rng(1), 12, rates)
    x = np.log10(rates)
    minimum, error = minimum_and_error(x, delta)
    resampled = [minimum_and_error(x, delta[rows]) for rows in oracles.resampled_rows(12, 300, 5)]
    half = error * oracles.order_statistic([abs(m - minimum) / e for m, e in resampled], level)
    low, high = argmin_interval(rates, delta, confidence_level=level, num_resamples=300, rng=5)
    np.testing.assert_allclose(np.log10([low, high]), [minimum - half, minimum + half], atol=2e-9)


def test_ends_are_expanded_quantiles_of_the_ends_where_the_mean_has_no_spline():
    rates = log_grid(1e-4, 1.0, 9)
    delta = parabolas(np.random.default_rng(1), 8, rates, noise=2.0)
    curves = delta[oracles.resampled_rows(8, 300, 5)].mean(axis=1)
    first, last = located(np.log10(rates), curves)
    assert (first < last).any()
    tail = stats.norm.cdf(-np.sqrt(8 / 7) * stats.t.ppf(0.975, 7))
    low, high = argmin_interval(rates, delta, num_resamples=300, rng=5)
    np.testing.assert_allclose(np.log10([low, high]), [np.quantile(first, tail), np.quantile(last, 1 - tail)])


@pytest.mark.parametrize("offset", np.linspace(-0.5, 0.5, 5))
@pytest.mark.parametrize("num", [55, 64, 100])
def test_spline_finds_the_minimum_of_a_noiseless_parabola_between_grid_points(num, offset):
    rates = log_grid(1e-6, 10.0, num)
    best = rates[num // 2] * (rates[1] / rates[0]) ** offset
    curve = -2.0 * best * rates + rates**2
    first, last = located(np.log10(rates), curve[None])
    assert first[0] == last[0]
    assert first[0] == pytest.approx(np.log10(best), abs=0.004)


@pytest.mark.parametrize("height", [1e2, 1e8, 1e30])
@pytest.mark.parametrize("offset", [-0.4, 0.0, 0.4])
def test_cliff_two_steps_above_the_minimum_does_not_move_it(height, offset):
    x = np.linspace(-3.0, 0.0, 28)
    best = x[12] + offset * (x[1] - x[0])
    first, last = located(x, np.where(np.arange(28) >= 14, height, (x - best) ** 2)[None])
    assert first[0] == last[0] == pytest.approx(best, abs=0.004)


def test_cliff_next_to_the_minimum_leaves_all_rates_between_its_neighbours():
    x = np.linspace(-3.0, 0.0, 28)
    curve = (x - x[12]) ** 2
    first, last = located(x, np.stack([np.where(x > x[12], 1e3, curve), np.where(x < x[12], 1e3, curve)]))
    np.testing.assert_array_equal([first, last], [[x[11]] * 2, [x[13]] * 2])


def test_minimum_between_coarse_steps_is_said_to_be_anywhere_between_the_neighbours():
    rates = log_grid(1e-4, 1.0, 9)
    delta = parabolas(np.random.default_rng(0), rates=rates, noise=0.01)
    np.testing.assert_allclose(argmin_interval(rates, delta, rng=0), (rates[5], rates[7]))


def test_gap_left_by_a_diverged_column_counts_as_a_coarse_step():
    delta = parabolas(np.random.default_rng(0), noise=0.01)
    best = int(delta.mean(axis=0).argmin())
    delta[0, best + 1] = np.inf
    low, high = argmin_interval(GRID, delta, rng=0)
    assert low <= GRID[best - 1]
    assert high == GRID[best + 2]


def test_diverged_columns_are_left_out():
    delta = parabolas(np.random.default_rng(0))
    diverged = delta.copy()
    diverged[3, 56:] = np.inf
    np.testing.assert_allclose(argmin_interval(GRID, diverged, rng=0), argmin_interval(GRID, delta, rng=0), rtol=1e-9)


def test_one_finite_column_is_surrounded_by_its_neighbours():
    delta = np.full((4, 5), np.inf)
    delta[:, 1] = -1.0
    assert argmin_interval([0.01, 0.037, 0.1, 0.2, 0.3], delta, rng=0) == (0.01, 0.1)
    assert argmin_interval([0.037], delta[:, 1:2], rng=0) == (0.037, 0.037)


@pytest.mark.parametrize("num_rows", [3, 60])
def test_minimum_next_to_diverged_rates_may_be_anywhere_up_to_the_first_of_them(num_rows):
    rng = np.random.default_rng(0)
    rates = np.logspace(-3, 0, 31)  # the best of which is 0.1, the 21st
    delta = -8 * rates + 40 * rates**2 + rng.normal(size=(60, 1)) * 2 * rates + rng.normal(size=(60, 31)) * 0.005
    below, above = delta[:num_rows].copy(), delta[:num_rows].copy()
    below[2, 15:], above[2, :26] = np.inf, np.inf
    low, high = argmin_interval(rates, below, rng=0)
    assert rates[13] <= low < high == rates[15]
    low, high = argmin_interval(rates, above, rng=0)
    assert rates[25] == low < high <= rates[27]


def test_ends_between_the_finite_rates_stay_where_they_are():
    delta = parabolas(np.random.default_rng(0))
    left_out = np.where((BEST / 2 < GRID) & (GRID < BEST * 2), delta, np.inf)
    low, high = argmin_interval(GRID, left_out, rng=0)
    assert BEST / 1.3 < low < BEST < high < BEST * 1.3


@pytest.mark.parametrize("num", [2, 3, 4])
@pytest.mark.parametrize("step", [1.2, 10.0])
def test_few_columns_confine_the_interval_to_their_rates(num, step):
    rates = 0.01 * step ** np.arange(num)
    delta = np.random.default_rng(0).normal(size=(6, num))
    low, high = argmin_interval(rates, delta, rng=0)
    assert rates[0] <= low <= high <= rates[-1]


def test_minimum_at_the_edge_stays_inside():
    rates = log_grid(1e-3, 1e-2, 12)
    low, high = argmin_interval(rates, -rates * np.random.default_rng(0).uniform(1, 2, size=(10, 1)), rng=0)
    assert low == high == rates[-1]


def test_exactly_flat_curves_leave_every_rate_possible():
    assert argmin_interval(GRID, np.zeros((5, 64)), rng=0) == (GRID[0], GRID[-1])


def test_two_rows_give_the_range_of_the_rates_that_did_not_diverge():
    delta = parabolas(np.random.default_rng(0), 2)
    assert argmin_interval(GRID, delta, rng=0) == (GRID[0], GRID[-1])
    delta[0, 60:] = delta[1, :3] = np.inf
    assert argmin_interval(GRID, delta, rng=0) == (GRID[2], GRID[60])


@pytest.mark.parametrize("step", [0.03, 0.1, 0.13])
def test_minima_of_cubics_are_exact(step):
    x = step * np.arange(-10, 11)  # a spline goes through a cubic exactly
    best = step * np.linspace(-0.49, 0.49, 20)[:, None]
    first, last = located(x, (x - best) ** 2 * (1.0 + (x - best) / (20 * step)) - 3.0)
    np.testing.assert_array_equal(first, last)
    np.testing.assert_allclose(first, best[:, 0], atol=1e-13)


def test_error_is_the_spread_of_the_slopes_at_the_minimum_of_the_mean_over_its_curvature():
    rng = np.random.default_rng(0)
    x, best, bend = 0.1 * np.arange(-10, 11), 0.1 * rng.normal(size=(30, 1)), rng.uniform(0.2, 2.0, size=(30, 1))
    shares = rng.dirichlet(np.ones(30), size=50)
    first, _, error = locate_minima(x, bend * (x - best) ** 2, shares)
    minimum = shares @ (bend * best)[:, 0] / (shares @ bend[:, 0])
    slopes = bend[:, 0] * (minimum[:, None] - best[:, 0])  # half of them, of mean 0
    np.testing.assert_allclose(first, minimum, atol=1e-13)
    np.testing.assert_allclose(error, np.sqrt((shares * slopes**2).sum(axis=1)) / (shares @ bend[:, 0]), rtol=1e-10)


def test_minimum_in_the_last_step_is_found_next_to_the_edge_too():
    x = 0.1 * np.arange(10)
    best = np.array([0.001, 0.02, 0.88, 0.8999])[:, None]
    first, last = located(x, (x - best) ** 2)
    np.testing.assert_array_equal(first, last)
    np.testing.assert_allclose(first, best[:, 0], atol=1e-13)


def test_rows_that_are_equal_have_no_error():
    x = 0.1 * np.arange(-10, 11)
    curves = np.stack([(x - 0.03) ** 2, (x - 0.03) ** 2, (x + 0.01) ** 2])
    _, _, error = locate_minima(x, curves, np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [0.5, 0.0, 0.5]]))
    np.testing.assert_allclose(error, [0.0, 0.0, 0.02], atol=1e-15)


def test_huge_and_tiny_values_do_not_warn():
    delta = parabolas(np.random.default_rng(0))
    delta[:, 55:] = 1.7e308
    tiny = delta * 1e-5
    tiny[:, 55:] = 1.7e308
    for values in (delta, tiny):
        low, high = argmin_interval(GRID, values, rng=0)
        assert low < BEST < high


def test_interval_does_not_depend_on_the_unit_of_the_loss():
    delta = parabolas(np.random.default_rng(0))
    np.testing.assert_allclose(
        argmin_interval(GRID, 5.0 + 1e3 * delta, rng=0), argmin_interval(GRID, delta, rng=0), rtol=0.01
    )


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="`delta` must have a column for each of the 2 learning rates, got"):
        argmin_interval([0.1, 0.2], np.zeros((3, 3)))
    with pytest.raises(ValueError, match="`learning_rates` must be strictly increasing"):
        argmin_interval([0.2, 0.1], np.zeros((3, 2)))
    with pytest.raises(DivergedError, match="Every learning rate diverged in at least one subsample"):
        argmin_interval([0.1, 0.2], [[np.inf, 0.0], [0.0, np.inf]])


@pytest.mark.statistical
@pytest.mark.parametrize("num_rows", [10, 30])
def test_interval_covers_the_best_rate_and_the_grids_own_minimum_fails_to(num_rows):
    rng = np.random.default_rng(num_rows)
    rates = log_grid(1e-3, 10.0, 38)
    best = BEST  # of the mean curve, whatever the noise
    covered = on_grid = 0
    for _ in range(500):
        delta = parabolas(rng, num_rows, rates)
        low, high = argmin_interval(rates, delta, num_resamples=400, rng=rng)
        covered += low <= best <= high
        on_grid += rates[delta.mean(axis=0).argmin()] == best
    assert 0.91 <= covered / 500 <= 0.985
    assert on_grid == 0


def regression_rows(rng, shape, batch=16):
    """Return a and b, of that shape, of the exact dL = -a lr + b lr^2 of SGD on a linear regression in 3 inputs."""
    error = np.array([1.0, -2.0, 0.5])

    def batch_of_each():
        inputs = rng.normal(size=(*shape, batch, 3))
        residual = inputs @ error + 0.5 * rng.normal(size=(*shape, batch))
        return inputs, 2.0 / batch * (residual[..., None] * inputs).sum(axis=-2)

    _, step = batch_of_each()
    inputs, gradient = batch_of_each()
    return (step * gradient).sum(axis=-1), ((inputs @ step[..., None])[..., 0] ** 2).mean(axis=-1)


@pytest.mark.statistical
def test_interval_covers_the_best_rate_of_a_regression_whose_curvatures_are_skewed():
    rng = np.random.default_rng(0)
    rates = log_grid(0.05, 2.0, 15)
    # By the moments of Gaussian inputs, E a = 4 |e|^2 and E b = 4 (|e|^2 (1 + (3 + 1) / 16) + 3 * 0.5^2 / 16).
    squared = 1.0 + 4.0 + 0.25
    best = squared / (2 * (squared * (1 + 4 / 16) + 3 * 0.25 / 16))
    missed = 0
    slope, curvature = regression_rows(rng, (1200, 100))
    for a, b in zip(slope[..., None], curvature[..., None], strict=True):
        low, high = argmin_interval(rates, -a * rates + b * rates**2, num_resamples=300, rng=rng)
        missed += not low <= best <= high
    # Within a point of the nominal 5%; quantiles of the resampled minima, which miss 100 of these, are not.
    assert missed <= stats.binom.ppf(0.995, 1200, 0.06)

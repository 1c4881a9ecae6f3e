import numpy as np
import pytest
import statistics_oracles as oracles
from scipy import stats

from autolr.statistics import best_set, regret_bound
from autolr.statistics._columns import describe
from autolr.statistics._comparisons import Comparisons
from autolr.statistics._resampling import Resamples, critical_value
from autolr.statistics.best_set import best_set_and_regret, default_method

METHODS = ["studentized", "mvt"]


def curves(seed=0, num_rows=12, means=(0.0, 0.3, 0.8, 2.0, 9.0)):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_rows, 1)) + 0.7 * rng.normal(size=(num_rows, len(means))) + np.array(means)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_studentized_set_is_that_of_a_double_loop_over_the_same_rows(seed, level):
    delta = curves(seed)
    inside = best_set(delta, confidence_level=level, num_resamples=99, rng=seed)
    np.testing.assert_array_equal(inside, oracles.best_set(delta, level, oracles.resampled_rows(12, 99, seed)))


@pytest.mark.parametrize("pick", [0, 1, 3])
def test_regret_bound_is_that_of_a_double_loop_over_the_same_rows(pick):
    delta = curves(1)
    bound = regret_bound(delta, pick, num_resamples=99, rng=1)
    np.testing.assert_allclose(bound, oracles.regret_bound(delta, pick, 0.95, oracles.resampled_rows(12, 99, 1)))


def test_mvt_critical_value_of_a_single_pair_is_that_of_t():
    delta = curves(0, means=(0.0, 0.0))
    comparisons = Comparisons(delta, confidence_level=0.95, method="mvt", num_resamples=200_000, rng=0)
    sem = stats.sem(delta[:, 0] - delta[:, 1])
    assert comparisons.of(np.array([0])).half_width[0, 1] / sem == pytest.approx(stats.t.ppf(0.95, 11), rel=0.01)


def test_mvt_critical_value_is_that_of_scipys_multivariate_t():
    delta = curves(2, means=(0.0, 0.0, 0.0, 0.0))
    comparisons = Comparisons(delta, confidence_level=0.95, method="mvt", num_resamples=100_000, rng=0)
    differences = delta[:, [0]] - delta[:, 1:]
    critical = comparisons.of(np.array([0])).half_width[0, 1:] / stats.sem(differences)
    np.testing.assert_allclose(critical, critical[0])
    joint = stats.multivariate_t(shape=np.corrcoef(differences.T), df=11, seed=np.random.default_rng(0))
    assert joint.cdf(critical) == pytest.approx(0.95, abs=0.004)


@pytest.mark.parametrize("method", METHODS)
def test_smallest_mean_is_always_in_and_far_ones_are_out(method):
    for seed in range(20):
        delta = curves(seed, num_rows=20)
        inside = best_set(delta, method=method, num_resamples=200, rng=0)
        assert inside[delta.mean(axis=0).argmin()]
        assert not inside[4]


def test_methods_agree_for_many_rows():
    delta = curves(5, num_rows=200, means=np.linspace(0.0, 0.5, 12))
    sets = [best_set(delta, method=method, rng=0) for method in METHODS]
    assert (sets[0] != sets[1]).sum() <= 1


def test_default_method_is_the_fast_one_from_fifty_rows():
    assert [default_method(num_rows) for num_rows in (2, 49, 50, 500)] == ["studentized"] * 2 + ["mvt"] * 2


def test_skipping_far_rates_changes_nothing(monkeypatch):
    delta = curves(3, num_rows=30, means=np.linspace(0.0, 3.0, 12) ** 2)
    expected = best_set(delta, rng=0)
    monkeypatch.setattr("autolr.statistics._comparisons.FAR_OUT", np.inf)
    np.testing.assert_array_equal(best_set(delta, rng=0), expected)


def test_rates_are_not_out_without_a_test_where_the_bonferroni_critical_value_is_0():
    """Of two rates at 50% it is that of an unknown sign: 0."""
    for seed in range(50):
        delta = curves(seed, means=(0.0, 0.05))
        draws = oracles.mvt_draws(12, 9, seed)
        inside = best_set(delta, confidence_level=0.5, method="mvt", num_resamples=9, rng=seed)
        np.testing.assert_array_equal(inside, oracles.mvt_best_set(delta, 0.5, draws))


def with_odd_columns(delta):
    """Add a copy, a nearly identical column, two constant ones and two in which nearly all values are tied."""
    twin, constant, coarse = delta[:, 0] + 1e-9 * delta[:, 1], np.ones(len(delta)), np.zeros((len(delta), 2))
    coarse[2, 0] = coarse[5, 1] = 6e-8
    return np.column_stack([coarse[:, :1], delta, delta[:, 1], twin, constant, constant, coarse[:, 1:]])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pairs", [1, 5, 23, 50])
def test_tiles_of_pairs_give_what_all_pairs_at_once_do(monkeypatch, method, pairs):
    delta = with_odd_columns(curves(0))
    tested = np.array([1, 9, 0, 6, 3, 7, 4])

    def compare():
        return Comparisons(delta, confidence_level=0.9, method=method, num_resamples=99, rng=0).of(tested)

    whole = compare()
    monkeypatch.setattr("autolr.statistics._comparisons.MAX_STATISTICS", 99 * pairs)
    tiled = compare()
    np.testing.assert_array_equal(tiled.kept, whole.kept)
    np.testing.assert_allclose(tiled.difference, whole.difference, rtol=1e-12)
    np.testing.assert_allclose(tiled.half_width, whole.half_width, rtol=1e-9)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("num_rows", [4, 12])
def test_tests_in_tiles_are_those_of_one_rate_after_the_other(level, num_rows):
    delta = with_odd_columns(curves(1, num_rows=num_rows)) if num_rows > 5 else curves(1, num_rows=num_rows)
    comparisons = Comparisons(delta, confidence_level=level, method="studentized", num_resamples=199, rng=0)
    tests = comparisons.of(np.arange(delta.shape[1]))
    resamples = Resamples(num_rows, 199, rng=0)
    for j, column in enumerate(delta.T):
        columns = describe(column[:, None] - delta, resolution=2e-12 * np.abs(delta).max())
        statistic = resamples.studentized(columns.centred)
        shared = resamples.comparable(statistic)
        critical = critical_value(statistic[:, shared].max(axis=1), level) if shared.any() else np.inf
        expected = np.zeros(len(columns.varied))
        expected[columns.varied] = np.where(shared, critical, np.inf) * columns.sem[columns.varied]
        np.testing.assert_allclose(tests.half_width[j], expected, rtol=1e-9)
        np.testing.assert_allclose(tests.difference[j], columns.mean, rtol=1e-12)
        np.testing.assert_allclose(tests.bound[j], expected - columns.mean, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_losses_near_the_largest_float_do_not_overflow(method):
    delta = np.column_stack([curves(0), np.full(12, 1.7e308), np.linspace(1.6e308, 1.7e308, 12)])
    np.testing.assert_array_equal(best_set(delta, method=method, rng=0)[:5], best_set(curves(0), method=method, rng=0))
    assert not best_set(delta, method=method, rng=0)[5:].any()


@pytest.mark.parametrize("method", METHODS)
def test_differences_beyond_the_largest_float_do_not_warn(method):
    signs = np.sign(np.random.default_rng(1).normal([0.0, 0.5, 1.0, 2.0], size=(20, 4)))
    np.testing.assert_array_equal(
        best_set(1.7e308 * signs, method=method, rng=0), best_set(signs, method=method, rng=0)
    )
    for pick in range(4):
        bound = regret_bound(signs, pick, method=method, rng=0)
        expected = 1.7e308 * bound if bound < 1.0 else np.inf
        assert regret_bound(1.7e308 * signs, pick, method=method, rng=0) == pytest.approx(expected)
    # Two rows: critical value and difference are infinite both.
    assert regret_bound([[1.7e308, -1.7e308], [1.6e308, -1.6e308]], 0, method=method, rng=0) >= 1.7e308


@pytest.mark.parametrize("method", METHODS)
def test_set_and_bound_come_from_one_run_of_the_tests(method):
    delta = np.column_stack([np.full(12, np.inf), curves(2)])
    for pick in range(6):
        inside, bound = best_set_and_regret(delta, pick, method=method, rng=np.random.default_rng(0))
        np.testing.assert_array_equal(inside, best_set(delta, method=method, rng=np.random.default_rng(0)))
        assert bound == regret_bound(delta, pick, method=method, rng=np.random.default_rng(0))
    smallest = int(delta.mean(axis=0).argmin())
    assert best_set_and_regret(delta, method=method, rng=0)[1] == regret_bound(delta, smallest, method=method, rng=0)
    inside, bound = best_set_and_regret(np.full((3, 2), np.inf), method=method)
    assert not inside.any()
    assert bound == np.inf


@pytest.mark.parametrize("method", METHODS)
def test_columns_equal_but_for_rounding_are_tied(method):
    delta = curves(0)
    twin = delta[:, 0] + 0.1 - 0.1
    assert not np.array_equal(twin, delta[:, 0])
    inside = best_set(np.column_stack([delta, twin]), method=method, rng=0)
    assert inside[0]
    assert inside[-1]
    np.testing.assert_array_equal(inside[:-1], best_set(delta, method=method, rng=0))


@pytest.mark.parametrize("method", METHODS)
def test_diverged_columns_are_out_and_leave_the_others_unchanged(method):
    delta = curves(0)
    diverged = np.where(np.arange(12) == 3, np.inf, -100.0)
    inside = best_set(np.column_stack([diverged, delta]), method=method, rng=0)
    assert not inside[0]
    np.testing.assert_array_equal(inside[1:], best_set(delta, method=method, rng=0))
    assert regret_bound(np.column_stack([diverged, delta]), 0, method=method, rng=0) == np.inf
    np.testing.assert_allclose(
        regret_bound(np.column_stack([diverged, delta]), 2, method=method, rng=0),
        regret_bound(delta, 1, method=method, rng=0),
    )


@pytest.mark.parametrize("method", METHODS)
def test_single_and_no_candidates(method):
    assert best_set([[1.0], [2.0]], method=method).tolist() == [True]
    assert best_set([[np.inf], [2.0]], method=method).tolist() == [False]
    assert best_set(np.full((3, 4), -0.5), method=method).all()
    assert regret_bound([[1.0], [2.0]], 0, method=method) == 0.0


@pytest.mark.parametrize("num_rows", [2, 3])
def test_too_few_rows_exclude_nothing(num_rows):
    delta = curves(0, num_rows=num_rows)
    assert best_set(delta, rng=0).all()
    assert regret_bound(delta, 0, rng=0) == np.inf


def test_coarse_pairs_do_not_keep_a_bad_rate_in_the_set():
    """Two rates so small that their differences are mostly the same, against one that is clearly better."""
    rng = np.random.default_rng(0)
    tiny = np.zeros((20, 2))
    tiny[3, 0] = 6e-8
    tiny[7, 1] = 6e-8
    inside = best_set(np.column_stack([tiny, rng.normal(-1.0, 0.1, size=20)]), rng=0)
    assert inside.tolist() == [False, False, True]


@pytest.mark.parametrize("method", METHODS)
def test_set_is_equivariant_under_common_shift_and_scale(method):
    delta = curves(4)
    expected = best_set(delta, method=method, rng=0)
    np.testing.assert_array_equal(best_set(3.0 + 1e-5 * delta, method=method, rng=0), expected)
    np.testing.assert_allclose(
        regret_bound(3.0 + 1e-5 * delta, 1, method=method, rng=0),
        1e-5 * regret_bound(delta, 1, method=method, rng=0),
        rtol=1e-6,
    )


def test_bad_arguments_are_refused():
    delta = curves(0)
    with pytest.raises(ValueError, match=r"`method` must be one of 'studentized', 'mvt', got 'holm'\."):
        best_set(delta, method="holm")
    with pytest.raises(ValueError, match=r"`pick` must be below the number of columns 5, got 5\."):
        regret_bound(delta, 5)
    with pytest.raises(TypeError, match=r"`pick` must be an integer, got 0\.1\."):
        regret_bound(delta, 0.1)
    with pytest.raises(ValueError, match="`delta` must be free of NaN"):
        best_set([[np.nan], [0.0]])
    for method in METHODS:
        with pytest.raises(ValueError, match="`num_resamples` must be at least 1"):
            best_set(delta, method=method, num_resamples=0)


@pytest.mark.statistical
@pytest.mark.parametrize("method", METHODS)
def test_set_covers_one_of_many_tied_best_rates_and_unadjusted_tests_fail_to(method):
    rng = np.random.default_rng(0)
    covered = unadjusted = 0
    for _ in range(400):
        delta = curves(rng.integers(2**31), num_rows=20, means=[0.0] * 11)
        covered += best_set(delta, method=method, num_resamples=400, rng=rng)[0]
        difference = delta[:, [0]] - delta[:, 1:]
        unadjusted += (difference.mean(axis=0) <= stats.t.ppf(0.95, 19) * stats.sem(difference)).all()
    assert covered / 400 >= 0.93
    assert unadjusted / 400 < 0.88


@pytest.mark.statistical
@pytest.mark.parametrize("method", METHODS)
def test_regret_bound_holds_for_the_pick_with_the_smallest_mean(method):
    rng = np.random.default_rng(1)
    means = np.linspace(0.0, 0.6, 8)
    held = 0
    for _ in range(400):
        delta = curves(rng.integers(2**31), num_rows=20, means=means)
        pick = int(delta.mean(axis=0).argmin())
        held += means[pick] <= regret_bound(delta, pick, method=method, num_resamples=400, rng=rng)
    assert held / 400 >= 0.93

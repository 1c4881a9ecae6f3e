import numpy as np
import pytest
from scipy import stats

from autolr.statistics import (
    best_set,
    binomial_interval,
    bootstrap_t_interval,
    median_interval,
    simultaneous_band,
)
from autolr.statistics.summary import summarize

COLUMNS = [
    "num_subsamples", "mean", "median", "std", "sem", "low", "high", "median_low", "median_high",
    "band_low", "band_high",
    "prob_improve", "prob_improve_low", "prob_improve_high", "num_diverged", "prob_diverged_high", "in_best_set",
]  # fmt: skip
RATES = np.array([1e-3, 1e-2, 0.1, 1.0])


@pytest.fixture
def delta():
    return np.random.default_rng(0).normal([-0.1, -1.0, -1.1, 4.0], size=(20, 4))


def test_every_column_is_that_of_its_function(delta):
    table = summarize(RATES, delta, confidence_level=0.9, rng=3)
    assert list(table.columns) == COLUMNS
    assert table.index.name == "learning_rate"
    assert table.index.dtype == np.float64
    np.testing.assert_array_equal(table.index, RATES)
    np.testing.assert_allclose(table["mean"], delta.mean(axis=0))
    np.testing.assert_allclose(table["median"], np.median(delta, axis=0))
    np.testing.assert_allclose(table["std"], delta.std(axis=0, ddof=1))
    np.testing.assert_allclose(table["sem"], stats.sem(delta))
    np.testing.assert_allclose(
        table[["low", "high"]].T, bootstrap_t_interval(delta, confidence_level=0.9, rng=3), rtol=1e-9
    )
    np.testing.assert_allclose(table[["median_low", "median_high"]].T, median_interval(delta, confidence_level=0.9))
    np.testing.assert_allclose(
        table[["band_low", "band_high"]].T, simultaneous_band(delta, confidence_level=0.9, rng=3), rtol=1e-9
    )
    counts = (delta < 0).sum(axis=0)
    np.testing.assert_allclose(table["prob_improve"], counts / 20)
    np.testing.assert_allclose(
        table[["prob_improve_low", "prob_improve_high"]].T, binomial_interval(counts, 20, confidence_level=0.9)
    )
    np.testing.assert_allclose(table["prob_diverged_high"], 1 - 0.1 ** (1 / 20))
    np.testing.assert_array_equal(table["in_best_set"], best_set(delta, confidence_level=0.9, rng=3))


def test_medians_of_huge_losses_do_not_overflow():
    table = summarize([0.1, 1.0], np.tile([1.7e308, -1.7e308], (2, 1)))
    np.testing.assert_array_equal(table["median"], [1.7e308, -1.7e308])
    assert summarize([0.1], [[-1.6e308], [1.6e308]])["median"].item() == 0.0
    assert summarize([0.1], [[1.0], [np.inf]])["median"].item() == np.inf


def test_types_of_the_columns(delta):
    dtypes = summarize(RATES, delta).dtypes
    assert dtypes[["num_subsamples", "num_diverged"]].eq(np.int64).all()
    assert dtypes["in_best_set"] == np.bool_
    assert dtypes.drop(["num_subsamples", "num_diverged", "in_best_set"]).eq(np.float64).all()


@pytest.mark.parametrize("interval", ["bootstrap-t", "t", "percentile", "bca"])
def test_diverged_rate_keeps_its_median_and_loses_its_mean(delta, interval):
    delta[0, 2] = np.inf
    row = summarize(RATES, delta, interval=interval).loc[0.1]
    assert (row["mean"], row["low"], row["high"]) == (np.inf, -np.inf, np.inf)
    assert row[["std", "sem"]].isna().all()
    assert np.isfinite(row[["median", "median_low", "median_high"]].astype(float)).all()
    assert (row["num_diverged"], row["in_best_set"]) == (1, False)
    assert row["prob_diverged_high"] == pytest.approx(stats.beta.ppf(0.95, 2, 19))


def test_partly_probed_rates_use_their_own_rows_and_are_not_in_the_set(delta):
    full = summarize(RATES, delta)
    assert full["in_best_set"].tolist() == [False, True, True, False]
    delta[10:, 2] = np.nan
    table = summarize(RATES, delta)
    assert table["num_subsamples"].tolist() == [20, 20, 10, 20]
    assert table["in_best_set"].tolist() == [False, True, False, False]
    assert table.loc[0.1, ["band_low", "band_high"]].tolist() == [-np.inf, np.inf]
    alone = summarize([0.1], delta[:10, [2]]).drop(columns=["in_best_set", "band_low", "band_high"])
    np.testing.assert_allclose(table.loc[[0.1], alone.columns].to_numpy(), alone.to_numpy(), rtol=1e-9)
    others = [0, 1, 3]
    compared = [c for c in COLUMNS if c not in ("in_best_set", "band_low", "band_high")]
    np.testing.assert_allclose(table.iloc[others][compared], full.iloc[others][compared], rtol=1e-9)


def test_rates_with_one_row_and_with_none_have_no_interval(delta):
    delta[1:, 0] = np.nan
    delta[:, 1] = np.nan
    delta[:, 3] = np.inf
    table = summarize(RATES, delta)
    assert table["num_subsamples"].tolist() == [1, 0, 20, 20]
    assert table.loc[1e-3, "mean"] == table.loc[1e-3, "median"] == delta[0, 0]
    assert table.loc[1e-2, ["mean", "median", "prob_improve"]].isna().all()
    assert (table.loc[1e-2, "prob_improve_low"], table.loc[1e-2, "prob_improve_high"]) == (0.0, 1.0)
    for rate in RATES[:2]:
        assert table.loc[rate, ["std", "sem"]].isna().all()
        for low, high in [("low", "high"), ("median_low", "median_high")]:
            assert (table.loc[rate, low], table.loc[rate, high]) == (-np.inf, np.inf)


def test_no_rate_probed_in_every_row_leaves_the_set_empty():
    assert not summarize([0.1, 1.0], [[0.0, np.nan], [np.nan, 1.0]])["in_best_set"].any()


def test_same_table_at_each_call_and_another_for_another_seed(delta):
    assert summarize(RATES, delta).equals(summarize(RATES, delta))
    assert not summarize(RATES, delta).equals(summarize(RATES, delta, rng=1))
    generator = np.random.default_rng(0)
    assert not summarize(RATES, delta, rng=generator).equals(summarize(RATES, delta, rng=generator))


def test_set_is_found_by_the_fast_method_for_many_rows(delta):
    many = np.tile(delta, (3, 1))
    table = summarize(RATES, many)
    np.testing.assert_array_equal(table["in_best_set"], best_set(many, method="mvt", rng=0))


def test_bad_arguments_are_refused(delta):
    with pytest.raises(ValueError, match=r"`delta` must have a column for each of the 3 learning rates, got \(20, 4\)"):
        summarize(RATES[:3], delta)
    with pytest.raises(ValueError, match="`interval` must be one of 'bootstrap-t', 't', 'percentile', 'bca', got 'z'"):
        summarize(RATES, delta, interval="z")
    with pytest.raises(ValueError, match="`delta` must have at least 2 rows, got 1"):
        summarize(RATES, delta[:1])
    with pytest.raises(TypeError, match="`num_resamples` must be an integer"):
        summarize(RATES, delta, num_resamples="many")


def test_loss_that_stays_the_same_is_no_improvement():
    assert summarize([0.1], [[0.0], [-1.0]])["prob_improve"].item() == 0.5

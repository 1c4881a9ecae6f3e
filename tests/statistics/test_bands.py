import numpy as np
import pytest
import statistics_oracles as oracles

from autolr.statistics import bootstrap_t_interval, simultaneous_band, t_interval


@pytest.fixture
def delta():
    rng = np.random.default_rng(0)
    return rng.normal(size=(12, 1)) + 0.5 * rng.normal(size=(12, 6))


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_band_is_that_of_explicit_resampling_of_the_same_rows(delta, level):
    low, high = simultaneous_band(delta, confidence_level=level, num_resamples=199, rng=4)
    critical = oracles.band_critical_value(delta, level, oracles.resampled_rows(12, 199, 4))
    half = critical * delta.std(axis=0, ddof=1) / np.sqrt(12)
    np.testing.assert_allclose([low, high], [delta.mean(axis=0) - half, delta.mean(axis=0) + half])


def test_band_of_one_column_is_its_interval(delta):
    np.testing.assert_allclose(
        simultaneous_band(delta[:, :1], rng=0), bootstrap_t_interval(delta[:, :1], rng=0), rtol=1e-12
    )


def test_band_holds_the_intervals_of_the_same_rows(delta):
    (low, high), (inner_low, inner_high) = simultaneous_band(delta, rng=0), bootstrap_t_interval(delta, rng=0)
    assert (low <= inner_low).all()
    assert (inner_high <= high).all()


def test_diverged_constant_and_nearly_constant_columns_leave_the_others_unchanged(delta):
    diverged, constant, coarse = np.full((3, 12), 2.0)
    diverged[5] = np.inf
    coarse[0] = 3.0
    low, high = simultaneous_band(np.column_stack([diverged, delta, constant, coarse]), rng=0)
    np.testing.assert_allclose([low[1:-2], high[1:-2]], simultaneous_band(delta, rng=0), rtol=1e-9)
    assert (low[0], high[0], low[-2], high[-2], low[-1], high[-1]) == (-np.inf, np.inf, 2.0, 2.0, -np.inf, np.inf)


def test_band_of_two_rows_is_unbounded_and_that_of_constants_is_not():
    low, high = simultaneous_band([[0.0, 3.0], [1.0, 3.0]], rng=0)
    np.testing.assert_array_equal([low, high], [[-np.inf, 3.0], [np.inf, 3.0]])


def test_band_is_equivariant_under_shift_and_scale_of_each_column(delta):
    shift, scale = np.arange(6.0), 10.0 ** np.arange(-3, 3)
    moved = simultaneous_band(shift + scale * delta, rng=0)
    np.testing.assert_allclose(moved, shift + scale * np.array(simultaneous_band(delta, rng=0)), rtol=1e-6)


def test_band_refuses_nan_and_bad_options(delta):
    with pytest.raises(ValueError, match="`delta` must be free of NaN"):
        simultaneous_band([[np.nan], [0.0]])
    with pytest.raises(TypeError, match="`num_resamples` must be an integer"):
        simultaneous_band(delta, num_resamples=10.5)


@pytest.mark.statistical
def test_band_covers_the_whole_curve_and_pointwise_intervals_fail_to():
    rng = np.random.default_rng(0)
    held = {simultaneous_band: 0, t_interval: 0}
    for _ in range(500):
        curves = rng.normal(size=(20, 4)) @ rng.normal(size=(4, 15)) + 0.5 * rng.normal(size=(20, 15))
        for band in held:
            low, high = band(curves, **({"rng": rng, "num_resamples": 500} if band is simultaneous_band else {}))
            held[band] += ((low <= 0.0) & (high >= 0.0)).all()
    assert 0.92 <= held[simultaneous_band] / 500 <= 0.98
    assert held[t_interval] / 500 < 0.85

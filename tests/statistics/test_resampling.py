import numpy as np
import pytest
import statistics_oracles as oracles

from autolr.statistics import _resampling, bootstrap_t_interval
from autolr.statistics._resampling import Resamples, critical_value


def test_weights_count_the_rows_that_were_drawn():
    (weights,) = Resamples(7, 20, rng=3)
    expected = [np.bincount(row, minlength=7) for row in oracles.resampled_rows(7, 20, 3)]
    np.testing.assert_array_equal(weights, expected)


def test_large_problems_are_drawn_block_by_block_and_again_at_each_use(monkeypatch):
    monkeypatch.setattr(_resampling, "MAX_WEIGHTS", 50)
    resamples = Resamples(10, 23, rng=0)
    blocks = list(resamples)
    assert [len(block) for block in blocks] == [5, 5, 5, 5, 3]
    assert (np.concatenate(blocks).sum(axis=1) == 10).all()
    np.testing.assert_array_equal(np.concatenate(blocks), np.concatenate(list(resamples)))
    values = np.random.default_rng(0).normal(size=(10, 2))
    np.testing.assert_allclose(resamples.means(values), np.concatenate(blocks) @ values / 10)


def test_blocks_give_an_interval_that_differs_by_the_noise_of_resampling_only(monkeypatch):
    delta = np.random.default_rng(0).normal(size=(30, 3))
    whole = bootstrap_t_interval(delta, rng=0, num_resamples=20_000)
    monkeypatch.setattr(_resampling, "MAX_WEIGHTS", 30_000)
    np.testing.assert_allclose(bootstrap_t_interval(delta, rng=0, num_resamples=20_000), whole, atol=0.03)


def test_statistic_of_a_constant_resample_is_infinite_with_the_sign_of_its_error():
    resamples = Resamples(2, 100, rng=0)
    (weights,) = resamples
    statistic = resamples.studentized(np.array([[-0.5], [0.5]]))[:, 0]
    np.testing.assert_array_equal(np.isneginf(statistic), weights[:, 0] == 2)
    np.testing.assert_array_equal(np.isposinf(statistic), weights[:, 1] == 2)
    assert (statistic[weights[:, 0] == 1] == 0.0).all()


def test_statistic_of_a_constant_resample_with_no_error_but_rounding_is_infinite():
    resamples = Resamples(3, 200, rng=0)
    (weights,) = resamples
    middle = weights[:, 1] == 3
    assert middle.any()
    for rounding in (0.0, 1e-17, -1e-17, -1e-14):
        statistic = resamples.studentized(np.array([[-0.5], [rounding], [0.5]]))[:, 0]
        assert np.isposinf(statistic[middle]).all()


def test_same_seed_gives_the_same_weights_whatever_was_drawn_between_and_nobody_can_change_them():
    (first,) = Resamples(5, 30, rng=1)
    list(Resamples(5, 30, rng=2)), list(Resamples(6, 30, rng=1)), list(Resamples(5, 31, rng=1))
    (second,) = Resamples(5, 30, rng=1)
    np.testing.assert_array_equal(first, second)
    with pytest.raises(ValueError, match="read-only"):
        second[0, 0] = 7.0


def test_generators_and_no_seed_draw_anew():
    generator = np.random.default_rng(0)
    for rng in (generator, None):
        (first,), (second,) = Resamples(20, 30, rng=rng), Resamples(20, 30, rng=rng)
        assert not np.array_equal(first, second)


def test_large_draws_are_not_kept(monkeypatch):
    monkeypatch.setattr(_resampling, "MAX_KEPT", 100)
    (first,), (second,) = Resamples(10, 11, rng=0), Resamples(10, 11, rng=0)
    assert first is not second
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("num", "level", "rank"), [(1999, 0.95, 1900), (2000, 0.95, 1901), (99, 0.9, 90), (10, 0.1, 2), (10, 1e-17, 1)]
)
def test_critical_value_is_the_order_statistic_of_its_rank(num, level, rank):
    values = np.random.default_rng(0).permutation(np.arange(1.0, num + 1))
    assert critical_value(values, level) == rank


def test_columns_that_make_the_maximum_infinite_too_often_are_left_out():
    resamples = Resamples(20, 1000, rng=0)
    statistic = np.zeros((1000, 4))
    statistic[:4, 1] = np.inf  # 0.4% are below the 0.5% that are allowed
    statistic[:3, 2] = np.inf  # the same resamples: no more of them
    statistic[500:502, 3] = np.inf  # other ones; on their own they come first, and then the 0.4% are too many
    np.testing.assert_array_equal(resamples.comparable(statistic), [True, False, True, True])
    np.testing.assert_array_equal(resamples.comparable(statistic[:, :3]), [True, True, True])
    np.testing.assert_array_equal(resamples.comparable(np.full((1000, 2), np.inf)), [False, False])


def test_resamples_of_one_row_leave_no_column_out():
    resamples = Resamples(3, 200, rng=0)
    (weights,) = resamples
    single = weights.max(axis=1) == 3
    assert 0.05 < single.mean() < 0.2
    np.testing.assert_array_equal(resamples.of_one_row, single)
    statistic = np.where(single[:, None], np.inf, np.zeros((200, 2)))
    statistic[np.flatnonzero(~single)[:2], 1] = np.inf
    np.testing.assert_array_equal(resamples.comparable(statistic), [True, False])


def test_groups_of_columns_are_judged_one_by_one():
    resamples, rng = Resamples(20, 400, rng=0), np.random.default_rng(0)
    statistic = np.where(rng.random((400, 6, 3)) < [0.0, 0.002, 0.05], np.inf, 1.0)
    expected = [resamples.comparable(statistic[:, :, group]) for group in range(3)]
    assert 0 < np.sum(expected) < 18
    np.testing.assert_array_equal(resamples.comparable(statistic).T, expected)

"""The record of the losses: frozen, checked, and exactly what its frames say."""

import copy
import dataclasses
import pickle
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autolr.differentials import LossDifferentials

NAN, INF = float("nan"), float("inf")
ARRAYS = ("learning_rates", "loss_pre", "loss_post", "horizons", "interpolated")


def make(**changes):
    arguments = {"learning_rates": [0.1, 1.0], "loss_pre": [2.0, 4.0], "loss_post": [[1.5, 2.5], [3.0, INF]]}
    return LossDifferentials(**{**arguments, **changes})


def assert_same(one, other):
    for name in ARRAYS:
        array = getattr(other, name)
        np.testing.assert_array_equal(getattr(one, name), array)
        assert getattr(one, name).dtype == array.dtype


def test_all_arrays_are_copies_that_cannot_be_written_to():
    given = np.array([2.0, 4.0])
    record = make(loss_pre=given)
    given[:] = 0.0
    assert record.loss_pre.tolist() == [2.0, 4.0]
    for array in (*(getattr(record, name) for name in ARRAYS), record.delta):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.loss_pre = given


@pytest.mark.parametrize("clone", [copy.deepcopy, copy.copy, lambda record: pickle.loads(pickle.dumps(record))])
def test_a_clone_is_equal_and_read_only_too(clone):
    record = make(
        loss_post=np.ones((2, 2, 2)), horizons=[1, 4], interpolated=np.eye(2, dtype=bool)[:, :, None] * [1, 0] > 0
    )
    cloned = clone(record)
    assert_same(record, cloned)
    assert not any(getattr(cloned, name).flags.writeable for name in ARRAYS)


def test_every_divergence_is_stored_as_inf_and_nan_means_not_probed():
    record = make(loss_post=[[-INF, NAN], [INF, 1.0]])
    np.testing.assert_array_equal(record.loss_post[:, :, 0], [[INF, NAN], [INF, 1.0]])
    np.testing.assert_array_equal(record.delta, [[INF, NAN], [INF, -3.0]])


def test_a_difference_beyond_all_floats_is_inf_without_a_warning():
    record = make(loss_pre=[-1.7e308, 0.0], loss_post=[[1.7e308, 0.0], [0.0, 0.0]])
    assert record.delta[0, 0] == INF
    assert record.to_frame(tidy=True)["delta"].iloc[0] == INF


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"learning_rates": [1.0, 0.1]}, ValueError, "`learning_rates` must be strictly increasing"),
        ({"loss_pre": [[2.0, 4.0]]}, ValueError, "`loss_pre` must have the shape (M,), got (1, 2)."),
        ({"loss_pre": [2.0]}, ValueError, "`loss_post` must have the shape (M, K, H) = (1, 2, 1), got (2, 2, 1)."),
        (
            {"loss_pre": [2.0, NAN]},
            ValueError,
            "`loss_pre` must be finite in every subsample (see subsample 1), got nan.",
        ),
        ({"loss_pre": [-INF, NAN]}, ValueError, "(see subsample 0), got -inf."),
        ({"loss_pre": ["2", "4"]}, TypeError, "`loss_pre` must be an array of real numbers"),
        ({"loss_post": [1.0, 2.0]}, ValueError, "`loss_post` must have the shape (M, K, H) = (2, 2, 1), got (2,)."),
        ({"loss_post": [[1.0], [1.0, 2.0]]}, TypeError, "`loss_post` must be an array of real numbers"),
        (
            {"horizons": []},
            ValueError,
            "`horizons` must be increasing integers of at least 1, of the shape (H,), got [].",
        ),
        ({"horizons": [0]}, ValueError, "`horizons` must be increasing integers of at least 1"),
        ({"horizons": [1.5]}, ValueError, "`horizons` must be increasing integers of at least 1"),
        ({"horizons": [2, 2]}, ValueError, "`horizons` must be increasing integers of at least 1"),
        ({"horizons": 1}, ValueError, "`horizons` must be increasing integers of at least 1"),
        ({"horizons": [INF]}, ValueError, "`horizons` must be increasing integers of at least 1"),
        ({"horizons": [1, 2]}, ValueError, "`loss_post` must have the shape (M, K, H) = (2, 2, 2), got (2, 2, 1)."),
        ({"interpolated": [True]}, ValueError, "`interpolated` must have the shape (M, K, H) = (2, 2, 1), got (1,)."),
        ({"interpolated": [["False"]]}, TypeError, "`interpolated` must be an array of bools, got 'dtype <U5'."),
    ],
)
def test_what_does_not_fit_is_named(changes, error, text):
    with pytest.raises(error, match=re.escape(text)):
        make(**changes)


def test_the_frame_has_a_row_a_subsample_and_a_column_a_rate():
    frame = make().to_frame()
    expected = pd.DataFrame(
        [[-0.5, 0.5], [-1.0, INF]],
        index=pd.RangeIndex(2, name="subsample"),
        columns=pd.Index([0.1, 1.0], name="learning_rate"),
    )
    pd.testing.assert_frame_equal(frame, expected)


def test_changing_the_frame_does_not_change_the_record():
    record = make()
    frame = record.to_frame()
    frame.iloc[0, 0] = 7.0
    assert record.delta[0, 0] == -0.5


def test_the_frame_is_that_of_the_last_horizon():
    record = make(loss_post=np.arange(8.0).reshape(2, 2, 2), horizons=[1, 5])
    np.testing.assert_array_equal(record.to_frame(), [[1.0 - 2.0, 3.0 - 2.0], [5.0 - 4.0, 7.0 - 4.0]])


def test_the_tidy_frame_has_a_row_a_probe_and_none_for_what_was_not_probed():
    record = make(loss_pre=[2.0], loss_post=[[[1.5, NAN], [INF, 3.0]]], horizons=[1, 5])
    frame = record.to_frame(tidy=True)
    assert list(frame.columns) == ["subsample", "learning_rate", "horizon", "loss_pre", "loss_post", "delta"]
    expected = [[0, 0.1, 1, 2.0, 1.5, -0.5], [0, 1.0, 1, 2.0, INF, INF], [0, 1.0, 5, 2.0, 3.0, 1.0]]
    assert frame.to_numpy().tolist() == expected


@st.composite
def records(draw):
    num_rows, num_rates, num_horizons = draw(st.tuples(*[st.integers(1, 4)] * 3))
    losses = st.floats(-1e6, 1e6)
    cells = st.one_of(losses, st.just(INF), st.just(NAN))

    def numbers(count, values):
        return draw(st.lists(values, min_size=count, max_size=count))

    post = np.array(numbers(num_rows * num_rates * num_horizons, cells)).reshape(num_rows, num_rates, num_horizons)
    post[0, :, 0] = post[:, 0, 0] = post[0, 0, :] = 1.0  # every label stands somewhere
    rates = draw(st.lists(st.floats(1e-300, 1e300), min_size=num_rates, max_size=num_rates, unique=True))
    horizons = draw(st.lists(st.integers(1, 10**6), min_size=num_horizons, max_size=num_horizons, unique=True))
    return LossDifferentials(sorted(rates), numbers(num_rows, losses), post, sorted(horizons))


@settings(derandomize=True, max_examples=100, deadline=None)
@given(record=records())
def test_a_record_comes_back_from_its_tidy_frame(record):
    assert_same(LossDifferentials.from_frame(record.to_frame(tidy=True)), record)


def logged(**columns):
    frame = make().to_frame(tidy=True)
    return frame.assign(**{name: pd.Series(values) for name, values in columns.items()})


def test_a_frame_may_have_any_labels_any_order_and_further_columns():
    frame = logged(subsample=["b", "b", ("a", 1), ("a", 1)]).assign(note="x").drop(columns="horizon")
    before = frame.copy(deep=True)
    record = LossDifferentials.from_frame(frame.iloc[[1, 3, 0, 2]].set_axis([7, 7, 7, 7]))
    assert_same(record, make())
    LossDifferentials.from_frame(frame)
    pd.testing.assert_frame_equal(frame, before)


@pytest.mark.parametrize("dtype", [str, object, "Float64", "float32"])
def test_numbers_may_come_as_text_or_in_other_dtypes(dtype):
    record = LossDifferentials.from_frame(
        logged().astype({"learning_rate": dtype, "loss_post": dtype, "loss_pre": dtype})
    )
    np.testing.assert_allclose(record.learning_rates, [0.1, 1.0], rtol=1e-7)
    np.testing.assert_array_equal(record.delta, make().delta)


def test_a_frame_comes_back_from_csv(tmp_path):
    make(learning_rates=[1, 2]).to_frame(tidy=True).to_csv(tmp_path / "losses.csv", index=False)
    record = LossDifferentials.from_frame(pd.read_csv(tmp_path / "losses.csv"))
    assert_same(record, make(learning_rates=[1, 2]))


def test_a_missing_or_infinite_loss_in_a_frame_is_a_divergence():
    frame = logged(loss_post=pd.array([None, -INF, 1.0, INF], dtype=object))
    np.testing.assert_array_equal(LossDifferentials.from_frame(frame).loss_post[:, :, 0], [[INF, INF], [1.0, INF]])


@pytest.mark.parametrize(
    ("frame", "error", "text"),
    [
        ([1.0], TypeError, "`frame` must be a pandas frame, got [1.0]."),
        (
            logged().drop(columns="loss_pre"),
            ValueError,
            "`frame` must have the columns subsample, learning_rate, loss_pre",
        ),
        (pd.concat([logged(), logged()], axis=1), ValueError, "loss_post, each once, got ["),
        (logged().iloc[:0], ValueError, "`frame` must have at least one row, got (0, 6)."),
        (
            pd.concat([logged(), logged()]),
            ValueError,
            "`frame` must hold each probe once, got '4 probes several times'.",
        ),
        (
            logged(loss_pre=[2.0, 3.0, 4.0, 4.0]),
            ValueError,
            "must have one loss_pre in each subsample, got 'several in 0'.",
        ),
        (
            logged(loss_pre=[2.0, NAN, 4.0, 4.0]),
            ValueError,
            "must have one loss_pre in each subsample, got 'several in 0'.",
        ),
        (
            logged(loss_pre=[2.0, 2.0, NAN, NAN]),
            ValueError,
            "`loss_pre` must be finite in every subsample (see subsample 1)",
        ),
        (
            logged(subsample=[0, 0, None, None]),
            ValueError,
            "`frame` must name the subsample in every row, got '2 without'.",
        ),
        (
            logged(learning_rate=["low", "high"] * 2),
            ValueError,
            "`frame` must hold numbers in learning_rate, got 'dtype ",
        ),
        (logged(learning_rate=[0.1, NAN, 0.1, 1.0]), ValueError, "`learning_rates` must be finite and positive"),
        (
            logged(horizon=[1.5] * 4),
            ValueError,
            "`frame` must have integers of at least 1 as horizon, got array([1.5]).",
        ),
        (logged(horizon=[1, 1, None, 1]), ValueError, "`frame` must have integers of at least 1 as horizon"),
    ],
)
def test_a_frame_that_is_no_record_of_losses_is_refused(frame, error, text):
    with pytest.raises(error, match=re.escape(text)):
        LossDifferentials.from_frame(frame)


def test_records_of_the_same_rates_are_put_below_each_other():
    record = make().extended(make(interpolated=np.ones((2, 2, 1), bool)))
    np.testing.assert_array_equal(record.delta, np.tile(make().delta, (2, 1)))
    assert record.interpolated[:, 0, 0].tolist() == [False, False, True, True]
    assert record.num_subsamples == 4


@pytest.mark.parametrize(
    ("other", "error", "text"),
    [
        (
            make(learning_rates=[0.1, 2.0]),
            ValueError,
            "`learning_rates` must be the same in both records, got array([0.1",
        ),
        (make(horizons=[2]), ValueError, "`horizons` must be the same in both records, got array([2])."),
        (None, TypeError, "`other` must be a LossDifferentials, got None."),
    ],
)
def test_records_of_other_rates_are_not(other, error, text):
    with pytest.raises(error, match=re.escape(text)):
        make().extended(other)


def test_the_differentials_at_a_rate_are_its_column():
    record = LossDifferentials([0.1, 1.0], [2.0, 4.0], [[1.5, 2.5], [3.0, INF]])
    np.testing.assert_array_equal(record.at(1.0), [0.5, INF])
    with pytest.raises(ValueError, match=r"`learning_rate` must be a rate of the grid, got 0\.5"):
        record.at(0.5)

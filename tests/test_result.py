"""TuningResult: numbers as frames, pictures and files."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from autolr import LossDifferentials, TuningResult, linear_grid, log_grid
from autolr.levels import level_of

RATES = log_grid(1e-3, 1.0, 13)


@pytest.fixture
def result(rng):
    pre = rng.normal(3.0, 0.1, 40)
    post = pre[:, np.newaxis] - 8.0 * RATES + 40.0 * RATES**2 + rng.normal(size=(40, RATES.size)) * 0.05
    return TuningResult(
        LossDifferentials(RATES, pre, post), {"num_subsamples": 40, "seconds": 1.5, "num_evaluations": 2}
    )


def shifted(result):
    """The same differentials, of other subsamples."""
    record = result.differentials
    return TuningResult(LossDifferentials(RATES, record.loss_pre + 1.0, record.loss_post + 1.0), dict(result.settings))


def test_the_frame_has_floats_as_columns(result):
    frame = result.to_frame()
    assert frame.shape == (40, RATES.size)
    assert frame.columns.dtype == np.float64
    np.testing.assert_array_equal(frame.columns, RATES)
    np.testing.assert_array_equal(frame.to_numpy(), result.differentials.delta)
    assert len(result.to_frame(tidy=True)) == 40 * RATES.size


def test_the_summary_is_the_same_at_each_call_and_takes_its_options(result):
    assert result.summary().equals(result.summary())
    assert (result.summary(confidence_level=0.5)["high"] < result.summary()["high"]).all()
    for interval in ("bootstrap-t", "t", "percentile", "bca"):
        table = result.summary(interval=interval, num_resamples=200)
        assert ((table["low"] < table["mean"]) & (table["mean"] < table["high"])).all()


def test_the_settings_cannot_be_changed(result):
    with pytest.raises(TypeError):
        result.settings["seconds"] = 0.0


def test_extending_adds_rows_and_costs(result):
    twice = result.extend(shifted(result))
    assert twice.differentials.num_subsamples == 80
    assert twice.settings == {"num_subsamples": 80, "seconds": 3.0, "num_evaluations": 4, "num_extensions": 1}


def test_extending_by_another_engine_names_both(result):
    first, then = (
        TuningResult(
            shifted(result).differentials if late else result.differentials,
            {"engine": engine, "engine_reason": engine, "out_of_time": late, "repeatable": not late},
        )
        for engine, late in (("line", False), ("step", True))
    )
    assert first.extend(then).settings == {
        "engine": "line, then step",
        "engine_reason": "line, then step",
        "out_of_time": True,
        "repeatable": False,
        "num_extensions": 1,
    }
    assert first.extend(shifted(first)).settings == {**first.settings, "num_extensions": 1}


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", 8), ("sampling", "partition"), ("evaluation", "subsample"), ("optimizer", "SGD")]
)
def test_rows_that_were_made_otherwise_or_twice_are_not_put_together(result, name, value):
    first, other = (TuningResult(result.differentials, {name: given}) for given in ("x", value))
    with pytest.raises(ValueError, match=f"`other` must have the {name} 'x' of this result, got {value!r}"):
        first.extend(TuningResult(shifted(result).differentials, other.settings))
    with pytest.raises(ValueError, match="`other` must have other subsamples than this result"):
        first.extend(first)


def test_a_suggestion_draws_its_own_pick(result):
    suggestion = result.suggest("variance_penalized", penalty=50.0)
    line = next(line for line in suggestion.plot().get_lines() if line.get_label() == "pick")
    assert line.get_xdata()[0] == float(suggestion) != float(result.suggest("variance_penalized"))


def test_saving_and_loading_gives_the_same_result(result, tmp_path):
    result.save(tmp_path / "lr.json")
    loaded = TuningResult.load(tmp_path / "lr.json")
    np.testing.assert_array_equal(loaded.differentials.loss_post, result.differentials.loss_post)
    assert loaded.settings == result.settings
    assert str(loaded) == str(result)


def test_the_picture_goes_into_the_axes_given(result):
    ax = Figure().subplots()
    assert result.plot(ax, method="median", xlim=(1e-2, 1.0), trim=0.1, show_subsamples=True) is ax
    assert ax.get_xlim() == (1e-2, 1.0)
    assert any("median" in text.get_text() for text in ax.get_legend().get_texts())


def test_a_picture_without_a_decision_is_drawn_all_the_same():
    result = TuningResult(LossDifferentials([0.1, 0.2], [1.0, 1.0], np.full((2, 2), np.inf)))
    assert "pick" not in [line.get_label() for line in result.plot().lines]


def test_its_representation_is_one_line(result):
    assert repr(result) == "<TuningResult: 40 subsamples, 13 learning rates>"


def test_the_notebook_shows_the_verdict_with_the_pick_in_bold(result):
    assert result._repr_html_().startswith("<p>Learning rate <strong>0.1</strong>: one step")


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda record: TuningResult([record]), TypeError, r"`differentials` must be a LossDifferentials, got \[Loss"),
        (lambda record: TuningResult(record, "fast"), TypeError, "`settings` must be a mapping, got 'fast'"),
        (lambda record: TuningResult(record).extend(record), TypeError, "`other` must be a TuningResult, got Loss"),
        (
            lambda record: TuningResult(record).extend(
                TuningResult(LossDifferentials(linear_grid(1, 2, 13), record.loss_pre, record.loss_post))
            ),
            ValueError,
            "`learning_rates` must be the same in both records",
        ),
        (
            lambda record: TuningResult(record).summary(interval="z"),
            ValueError,
            "`interval` must be one of 'bootstrap-t'",
        ),
        (
            lambda record: TuningResult(record).plot(trim=0.5),
            ValueError,
            "`trim` must be finite and at least 0 and below 0.5",
        ),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(result, make, error, text):
    with pytest.raises(error, match=text):
        make(result.differentials)


@pytest.mark.parametrize(
    ("settings", "asked", "nominal", "corrected"),
    [
        ({}, None, 0.95, 0.95),
        ({}, 0.8, 0.8, 0.8),
        ({"confidence_level": 0.9}, None, 0.9, 0.9),
        ({"confidence_level": 0.9}, 0.99, 0.99, 0.99),
        ({"adaptive": True, "num_looks": 4}, None, 0.95, 0.9875),
        ({"adaptive": True, "num_looks": 4, "confidence_level": 0.9}, 0.8, 0.8, 0.95),
        ({"adaptive": True, "num_looks": 1}, None, 0.95, 0.95),
        ({"num_extensions": 1}, None, 0.95, 1.0 - 0.05 * 6.0 / (np.pi * 2.0) ** 2),
        ({"num_extensions": 2}, 0.9, 0.9, 1.0 - 0.1 * 6.0 / (np.pi * 3.0) ** 2),
    ],
)
def test_the_level_is_corrected_for_the_looks(settings, asked, nominal, corrected):
    level = level_of(settings, asked)
    assert (level.nominal, level.corrected) == (nominal, pytest.approx(corrected, abs=1e-12))
    assert level.resamples(2000) == max(2000, 0 if nominal == corrected else round(20.0 / (1.0 - corrected) + 0.5))

"""The picture of a range test, judged by its artists."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from test_range_result import RATES, fall, result_of

from autolr.plot_range import plot_range


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def line_of(ax, label):
    return next(line for line in ax.get_lines() if str(line.get_label()).startswith(label))


def legend_texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_both_axes_show_their_curve_and_the_steepest_point():
    result = result_of(fall(-3.0))
    upper, lower = result.plot()
    assert line_of(upper, "smoothed").get_ydata() == pytest.approx(fall(-3.0))
    assert line_of(upper, "iterations").get_xdata() == pytest.approx(RATES)
    assert line_of(upper, "suggestion").get_xdata()[0] == pytest.approx(1e-3)
    mark = line_of(lower, "steepest")
    assert mark.get_xdata() == pytest.approx([1e-3])
    assert mark.get_ydata() == pytest.approx([result.history["delta"].min()])
    assert legend_texts(upper) == ["iterations", "smoothed", "suggestion: 1e-3", "steepest: 1e-3"]


def test_the_axes_are_log_and_symmetric_log_and_labelled():
    upper, lower = result_of(fall(-3.0)).plot()
    assert (upper.get_xscale(), lower.get_xscale(), lower.get_yscale()) == ("log", "log", "symlog")
    assert upper.get_ylabel() == "loss"
    assert lower.get_ylabel() == "change of loss\nper decade"
    assert lower.get_xlabel() == "learning rate"
    upper, lower = result_of(fall(-3.0), schedule="linear", losses="validation").plot()
    assert (upper.get_xscale(), lower.get_xscale()) == ("linear", "linear")
    assert upper.get_ylabel() == "validation loss"


def test_repeats_have_a_band_and_the_span_of_their_suggestions():
    result = result_of(fall(-3.0), fall(-2.5))
    upper, _ = result.plot()
    assert legend_texts(upper)[2:4] == ["95% of the mean", "suggestions of the runs"]
    span = next(patch for patch in upper.patches if patch.get_label() == "suggestions of the runs")
    assert span.get_extents().transformed(upper.transData.inverted()).intervalx == pytest.approx([1e-3, 10**-2.5])
    assert len([line for line in upper.get_lines() if line.get_label() == "iterations"]) == 2


def test_a_suggestion_by_another_rule_is_drawn_and_the_steepest_point_still_marked():
    suggestion = result_of(fall(-3.0)).suggest("minimum")
    upper, lower = suggestion.plot()
    assert line_of(upper, "suggestion").get_xdata()[0] == pytest.approx(float(suggestion))
    assert line_of(lower, "steepest").get_xdata() == pytest.approx([1e-3])


def test_a_suggestion_below_the_tested_rates_is_within_the_axes():
    rising = np.linspace(1.0, 2.0, 61)
    rising[1:] -= 0.5
    upper, _ = result_of(rising).suggest("minimum", skip_start=0).plot()
    assert upper.get_xlim()[0] < 10.0**-6.9


@pytest.mark.parametrize("curve", [fall(-3.0)[:8], [1.0, np.inf], [1.0, 0.5, np.inf], np.ones(61), -np.arange(61.0)])
def test_curves_that_suggest_nothing_or_are_odd_are_drawn(curve):
    upper, lower = result_of(np.asarray(curve), np.asarray(curve)).plot()
    upper.figure.canvas.draw()
    assert np.isfinite([*upper.get_ylim(), *lower.get_ylim()]).all()


def test_a_rise_at_the_end_does_not_flatten_the_fall():
    curve = fall(-3.0)
    curve[-3:] = 1e6
    upper, _ = result_of(curve).plot()
    assert upper.get_ylim()[1] < 10.0


@pytest.mark.parametrize("size", [(3.3, 2.5), (6.4, 5.0), (12.0, 7.0)])
@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_the_legend_covers_no_data_at_any_size(size, style):
    with plt.style.context(style):
        figure, axes = plt.subplots(2, 1, figsize=size, layout="constrained")
        upper, lower = result_of(fall(-3.0), fall(-2.5), fall(-2.7)).plot(axes)
        figure.canvas.draw()
        legend = upper.get_legend().get_window_extent()
        assert lower.get_legend() is None
        assert not any(legend.overlaps(ax.bbox) for ax in (upper, lower))
        assert figure.bbox.x0 <= legend.x0
        assert legend.y1 <= figure.bbox.y1


def test_axes_beside_each_other_keep_their_rates():
    _, axes = plt.subplots(1, 2)
    left, _ = result_of(fall(-3.0)).plot(axes)
    assert left.get_xlabel() == "learning rate"
    assert left.xaxis.get_major_ticks()[0].label1.get_visible()


@pytest.mark.parametrize("axes", [3, "ax", [None, None]])
def test_anything_but_two_axes_is_refused(axes):
    with pytest.raises(TypeError, match="`axes` must be two matplotlib Axes or None"):
        result_of(fall(-3.0)).plot(axes)


def test_nothing_but_frames_is_needed():
    history = pd.DataFrame({"learning_rate": [0.1, 1.0], "smoothed_loss": [2.0, 1.0], "delta": [-1.0, -1.0]})
    runs = pd.DataFrame({"repeat": [0, 0], "learning_rate": [0.1, 1.0], "loss": [2.0, 1.0]})
    upper, _ = plot_range(runs, history)
    assert legend_texts(upper) == ["iterations", "smoothed"]

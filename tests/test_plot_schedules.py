"""The pictures of schedules, told by their artists: losses with bands, rates, and a legend that covers no data."""

import math

import matplotlib.style
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from autolr.plot_schedules import plot_comparison, plot_rates
from autolr.schedules.comparison import HISTORY_COLUMNS

NINE = ["constant", "step", "multistep", "exponential", "cosine", "warm_restarts", "onecycle", "plateau", "lambda"]


def history(labels=("a", "b"), *, num_steps=20, loss=lambda _, repeat, step: 2.0 + repeat - step / 20.0):
    rows = [
        (label, repeat, step, 0.1 / (1 + number), loss(label, repeat, step))
        for number, label in enumerate(labels)
        for repeat in range(3)
        for step in range(num_steps)
    ]
    return pd.DataFrame(rows, columns=list(HISTORY_COLUMNS))


def drawn(frame, labels, *, size=(9.0, 3.8), shape=(1, 2), style="default"):
    with matplotlib.style.context(style):
        figure = Figure(size, layout="constrained")
        axes = plot_comparison(frame, labels, axes=figure.subplots(*shape))
        FigureCanvasAgg(figure).draw()
    return axes


def test_the_losses_are_means_over_the_repeats_with_a_band_from_the_smallest_to_the_largest():
    left, right = drawn(history(), ["a", "b"])
    line = left.get_lines()[0]
    np.testing.assert_allclose(line.get_ydata(), 3.0 - np.arange(20) / 20.0)
    edges = left.collections[0].get_paths()[0].vertices[:, 1]
    assert edges.min() == pytest.approx(2.0 - 19 / 20)
    assert edges.max() == pytest.approx(4.0)
    assert [line.get_ydata()[0] for line in right.get_lines()] == pytest.approx([0.1, 0.05])
    assert (left.get_xlabel(), left.get_ylabel()) == ("step", "training loss")
    assert (right.get_xlabel(), right.get_ylabel()) == ("step", "learning rate")


def test_long_runs_are_smoothed_over_a_fiftieth_of_their_steps():
    noisy = history(["a"], num_steps=100, loss=lambda _, __, step: 1.0 + (step % 3))
    left, _ = drawn(noisy, ["a"])
    np.testing.assert_allclose(left.get_lines()[0].get_ydata()[1:-1], 2.0)  # of any three in a row


def test_the_loss_axis_is_logarithmic_where_losses_are_positive_and_fall_far():
    far = history(loss=lambda _, __, step: 10.0 ** (-step / 5.0))
    assert drawn(far, ["a", "b"])[0].get_yscale() == "log"
    assert drawn(history(loss=lambda _, __, step: 10.0 + step), ["a", "b"])[0].get_yscale() == "linear"
    negative = history(loss=lambda _, __, step: -float(step))
    assert drawn(negative, ["a", "b"])[0].get_yscale() == "linear"


def test_a_schedule_that_diverges_ends_with_a_cross_and_does_not_flatten_the_others():
    def loss(label, repeat, step):
        return math.inf if label == "b" and repeat == 1 and step == 7 else (50.0**step if label == "b" else 2.0)

    frame = history(loss=loss)
    frame = frame[~((frame["schedule"] == "b") & (frame["repeat"] == 1) & (frame["step"] > 7))]
    left, right = drawn(frame, ["a", "b"])
    line = next(line for line in left.get_lines() if line.get_label() == "b")
    cross = next(line for line in left.get_lines() if line.get_marker() == "x")
    assert len(line.get_xdata()) == 7
    assert cross.get_xdata().tolist() == [6]
    assert left.get_ylim()[0] <= cross.get_ydata()[0] <= left.get_ylim()[1] < 3.0
    assert len(right.get_lines()[1].get_xdata()) == 20  # the other repeats went on


def test_where_every_schedule_diverges_at_once_there_is_still_a_picture():
    left, _ = drawn(history(num_steps=1, loss=lambda *_: math.inf), ["a", "b"])
    assert len(left.get_lines()) == 2


def test_nine_schedules_are_told_apart_by_colour_and_line_style():
    for style in ("default", "dark_background"):
        left, right = drawn(history(NINE), NINE, style=style)
        looks = [(to_hex(line.get_color()), str(line._unscaled_dash_pattern)) for line in left.get_lines()]
        assert len(set(looks)) == 9
        assert looks == [(to_hex(line.get_color()), str(line._unscaled_dash_pattern)) for line in right.get_lines()]
        assert to_hex(left.get_facecolor()) not in [color for color, _ in looks]


@pytest.mark.parametrize(
    ("size", "shape"),
    [((9.0, 3.8), (1, 2)), ((3.3, 2.5), (1, 2)), ((3.3, 3.5), (2, 1))],
    ids=["slide", "column", "tall"],
)
@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)], ids=["in order", "swapped"])
def test_the_legend_is_inside_of_the_figure_and_covers_no_axes(size, shape, order):
    figure = Figure(size, layout="constrained")
    axes = plot_comparison(history(NINE), NINE, axes=figure.subplots(*shape)[order])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    legend = next(ax.get_legend() for ax in axes if ax.get_legend() is not None)
    box = legend.get_window_extent(canvas.get_renderer())
    assert not any(box.overlaps(ax.bbox) for ax in axes)
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1 + 1.0
    assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1 + 1.0
    assert [text.get_text() for text in legend.get_texts()] == NINE
    assert min(ax.bbox.width for ax in axes) > 0.25 * figure.bbox.width


def test_a_new_figure_is_made_where_no_axes_are_given():
    left, right = plot_comparison(history(), ["a", "b"])
    assert left.figure is right.figure
    with pytest.raises(TypeError, match="`axes` must be two matplotlib Axes or None, got <Axes"):
        plot_comparison(history(), ["a", "b"], axes=left)


def test_rates_of_one_schedule_need_no_legend_and_those_of_several_have_one():
    ax = Figure(layout="constrained").subplots()
    assert plot_rates({"a": [1.0, 0.5]}, ax=ax) is ax
    assert ax.get_legend() is None
    assert ax.get_lines()[0].get_drawstyle() == "steps-post"
    assert ax.get_ylim()[0] == 0.0
    several = plot_rates({"a": [1.0, 0.5], "b": [1.0, -0.25]})
    assert [text.get_text() for text in several.get_legend().get_texts()] == ["a", "b"]
    assert several.get_ylim()[0] < -0.25


@pytest.mark.parametrize(
    ("rates", "error", "message"),
    [
        ([1.0, 2.0], TypeError, r"`rates` must be a mapping from labels to rates, got \[1\.0, 2\.0\]\."),
        ({"a": "b"}, TypeError, r"`rates\['a'\]` must be an array of real numbers, got 'b'\."),
        ({}, ValueError, r"`rates` must hold rates of the shape \(T,\), got {}\."),
        ({"a": [[1.0]]}, ValueError, r"`rates` must hold rates of the shape \(T,\), got {'a': \(1, 1\)}\."),
        ({"a": []}, ValueError, r"`rates` must hold rates of the shape \(T,\), got {'a': \(0,\)}\."),
    ],
)
def test_rates_of_another_kind_are_refused(rates, error, message):
    with pytest.raises(error, match=message):
        plot_rates(rates)


def test_axes_of_another_kind_are_refused():
    with pytest.raises(TypeError, match="`ax` must be a matplotlib Axes or None, got 3"):
        plot_rates({"a": [1.0]}, ax=3)

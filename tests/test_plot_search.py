"""The picture of a search: what was measured, what the law makes of it, and that it can be read."""

import math
from functools import cache

import matplotlib.style
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from test_search import regression
from torch import nn

from autolr import find_lr
from autolr._text import format_rate
from autolr.plot_search import best_by_step
from autolr.search_result import TRACE_COLUMNS, SearchResult


@cache
def result(**options):
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"total_steps": 5000, **options}
    return find_lr(model, nn.MSELoss(), optimizer, regression(), rng=0, **options).evidence


def with_decision(**changes):
    search = result()
    return SearchResult(search.trace, {**search.decision, **changes}, dict(search.settings))


def drawn(search, *, style="default", size=(9.0, 3.8), shape=(1, 2)):
    """Return the two axes of a picture in a style."""
    with matplotlib.style.context(style):
        figure = Figure(size, layout="constrained")
        axes = search.plot(figure.subplots(*shape))
        FigureCanvasAgg(figure).draw()
    return axes


def line_of(ax, label):
    return next(line for line in ax.get_lines() if line.get_label() == label)


def slow_best(trace):
    """Return the best rate after k steps, told by one loop within the other: an oracle."""
    losses, untrained, best = {}, {}, {}
    for row in trace.itertuples():
        if row.stage in ("scan", "final"):
            losses.setdefault(row.learning_rate, {})[row.step] = row.loss
        elif row.stage == "untrained":
            untrained[row.step] = row.loss
    for k in range(2, 81):
        lowest = sum(untrained.get(step, math.inf) for step in range(k // 2, k))
        for rate in sorted(losses):
            total = sum(losses[rate].get(step, math.inf) for step in range(k // 2, k))
            if total < lowest:
                best[k], lowest = rate, total
    return best


def test_the_best_rate_by_step_is_that_of_a_slow_oracle():
    for stream in (0, 1):
        trace = result(num_streams=2).trace
        trace = trace[trace["stream"] == stream]
        horizons, best = best_by_step(trace)
        told = dict(zip(horizons[np.isfinite(best)].astype(int), best[np.isfinite(best)], strict=True))
        assert told == slow_best(trace)
        assert len(told) > 60


def test_rates_that_diverge_or_gain_nothing_are_never_the_best():
    untrained = [("untrained", 0.0, step, 1.0) for step in range(4)]
    diverges = [("scan", 1.0, step, loss) for step, loss in enumerate([1.0, 0.1, math.inf])]
    idle = [("scan", 0.1, step, loss) for step, loss in enumerate([1.0, 1.0, 1.2, 0.9])]
    trace = pd.DataFrame([(0, *row) for row in untrained + diverges + idle], columns=list(TRACE_COLUMNS))
    horizons, best = best_by_step(trace)
    assert horizons.tolist() == [2.0, 3.0, 4.0]
    np.testing.assert_array_equal(best, [1.0, np.nan, np.nan])  # (0.1); inf or 1.1; inf or 1.05


def test_the_lines_are_the_best_rates_of_each_stream_and_the_points_their_vertices():
    search = result(num_streams=2)
    _, right = drawn(search)
    lines = [line for line in right.get_lines() if line.get_label() == "best so far"]
    for line, (_, stream) in zip(lines, search.trace.groupby("stream"), strict=True):
        np.testing.assert_array_equal(line.get_data(), best_by_step(stream))
    points = line_of(right, "finals, held out")
    np.testing.assert_allclose(points.get_ydata(), search.decision["vertices"])
    assert set(points.get_xdata()) == {80}


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_dashed_line_is_the_law_from_the_vertex_to_the_rate_of_the_run(schedule):
    search = result(schedule=schedule)
    _, right = drawn(search)
    law, exponent = line_of(right, f"law ({schedule})"), {"constant": 0.4, "cosine": 0.35}[schedule]
    assert law.get_linestyle() == "--"
    steps, rates = law.get_data()
    assert (steps[0], steps[-1]) == pytest.approx((80.0, 5000.0))
    (vertex,) = search.decision["vertices"]
    expected = [vertex * (80.0 / k) ** exponent / search.settings["mean_factor"] for k in steps]
    np.testing.assert_allclose(rates, expected)
    assert rates[-1] == pytest.approx(search.decision["learning_rate"])


def test_the_rate_of_the_run_has_its_interval():
    search = result()
    _, right = drawn(search)
    (bar,) = right.containers
    point, _, (lines,) = bar.lines
    assert (point.get_xdata()[0], point.get_ydata()[0]) == (5000, search.decision["learning_rate"])
    expected = [search.decision["low"], search.decision["high"]]
    np.testing.assert_allclose(lines.get_segments()[0][:, 1], expected)
    assert bar.get_label() == f"for the run: {format_rate(search.decision['learning_rate'])}"


def test_a_rate_at_the_limit_is_level_and_a_doubt_is_said():
    _, right = drawn(with_decision(capped=True, doubt="flat"))
    assert np.ptp(line_of(right, "law (constant)").get_ydata()) == 0.0
    assert right.containers[0].get_label().startswith("in doubt: ")


def test_a_run_no_longer_than_the_search_has_no_law():
    _, right = drawn(result(total_steps=40))
    assert not [line for line in right.get_lines() if str(line.get_label()).startswith("law")]


def test_the_losses_are_those_of_the_trace_with_diamonds_at_those_held_out():
    search = result()
    left, _ = drawn(search)
    held_out = search.trace[search.trace["stage"] == "held-out"]
    diamonds = [line.get_xydata()[0] for line in left.get_lines() if line.get_marker() == "D"]
    np.testing.assert_allclose(diamonds, held_out[["step", "loss"]])
    steps = search.trace[search.trace["stage"].isin(["scan", "final", "anneal"])]
    lines = [line for line in left.get_lines() if line.get_linewidth() == 0.6]
    for line, (_, course) in zip(lines, steps.groupby("learning_rate"), strict=True):
        np.testing.assert_array_equal(line.get_xydata(), course[["step", "loss"]])
    assert any(line.get_marker() == "x" for line in left.get_lines())


def test_axes_above_each_other_share_one_legend_above_both_and_are_labelled():
    axes = drawn(result(), size=(3.3, 4.2), shape=(2, 1))
    figure = axes[0].figure
    (legend,) = [ax.get_legend() for ax in axes if ax.get_legend() is not None]
    box = legend.get_window_extent()
    assert not any(box.overlaps(ax.bbox) for ax in figure.axes)
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1 + 1.0
    texts = [text.get_text().split(":")[0] for text in legend.get_texts()]
    assert texts == ["given up", "best so far", "finals, held out", "law (constant)", "for the run"]
    labels = [(ax.get_xlabel(), ax.get_ylabel().replace("\n", " ")) for ax in figure.axes]
    assert labels == [("step", "loss of the batch"), ("steps", "best learning rate"), ("", "learning rate")]


def test_the_colour_bar_has_its_ticks_at_the_rates():
    search = result()
    left, _ = drawn(search)
    rates = search.trace.loc[search.trace["stage"] == "anneal", "learning_rate"].unique()
    bar = next(ax for ax in left.figure.axes if ax.get_ylabel() == "learning rate")
    np.testing.assert_allclose(sorted(bar.get_yticks()), sorted(rates))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("offset", [0.0, -5.0])
def test_losses_of_any_size_are_drawn(scale, offset):
    search = result()
    trace = search.trace.assign(loss=scale * (search.trace["loss"] + offset))
    left, _ = drawn(SearchResult(trace, dict(search.decision), dict(search.settings)), size=(3.3, 2.5))
    labels = [tick.label1.get_text() for tick in left.yaxis.get_major_ticks()]
    assert left.get_ylim()[0] < trace["loss"].min() + 1e-9 * scale
    assert len(set(labels)) == len(labels) >= 2


def test_the_axes_are_those_given_and_anything_else_is_refused():
    axes = Figure().subplots(1, 2)
    assert result().plot(axes) == tuple(axes)
    left, right = result().plot()
    assert left.figure is right.figure
    with pytest.raises(TypeError, match="`axes` must be two matplotlib Axes or None"):
        result().plot(left)

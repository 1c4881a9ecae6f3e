"""Pictures are judged by their artists: what is drawn, where, and what the reader can read off."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from autolr import LossDifferentials, TuningResult
from autolr._text import format_rate
from autolr.grids import linear_grid, log_grid
from autolr.plotting import plot_differentials

INF = np.inf


@pytest.fixture(autouse=True)
def plt():
    """Draw without a display, with the default style, and close every figure."""
    import matplotlib

    before = matplotlib.get_backend(auto_select=False)
    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context():
        matplotlib.rcdefaults()
        matplotlib.use("Agg")
        yield pyplot
    pyplot.close("all")
    if before is not None:
        matplotlib.use(before)


def make_summary(rates, mean, half=0.05, **columns):
    mean = np.broadcast_to(np.asarray(mean, dtype=float), np.shape(rates))
    frame = pd.DataFrame(
        {
            "mean": mean,
            "median": mean + 0.01,
            "low": mean - half,
            "high": mean + half,
            "median_low": mean + 0.01 - 2 * half,
            "median_high": mean + 0.01 + 2 * half,
            "num_subsamples": 100,
            "num_diverged": 0,
        },
        index=pd.Index(rates, name="learning_rate"),
    )
    return frame.assign(**columns)


def parabola(rates):
    return -100.0 * rates + 5e3 * rates**2  # the minimum is -0.5, at 0.01


@pytest.fixture
def rates():
    return log_grid(1e-6, 10.0, 64)


@pytest.fixture
def summary(rates):
    """A tuning as they are: a minimum, an explosion, and at the largest rates no mean at all."""
    frame = make_summary(rates, parabola(rates), half=0.05 * (1.0 + 1e4 * rates**2))
    frame.loc[rates > 3.0, ["mean", "high"]] = INF
    frame.loc[rates > 3.0, "low"] = -INF
    frame.loc[rates > 3.0, "num_diverged"] = 7
    return frame


def find(ax, label):
    """Return the artist with this label."""
    (artist,) = [artist for artist in ax.get_children() if artist.get_label() == label]
    return artist


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def tick_labels(axis):
    axis.figure.canvas.draw()
    low, high = sorted(axis.get_view_interval())
    return [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]


def interval_of_x(rectangle):
    return rectangle.get_x(), rectangle.get_x() + rectangle.get_width()


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0.0031623, "3.2e-3"),
        (1e-5, "1e-5"),
        (0.00999, "0.01"),
        (0.0999, "0.1"),
        (0.046, "0.046"),
        (0.3, "0.3"),
        (1.0, "1"),
        (10.0, "10"),
        (1e5, "1e5"),
        (-2e-6, "\N{MINUS SIGN}2e-6"),
        (0.0, "0"),
    ],
)
def test_a_rate_is_written_as_people_write_it(rate, text):
    assert format_rate(rate) == text


def test_the_mean_and_its_interval_are_drawn_and_inf_is_left_out(summary):
    ax = plot_differentials(summary)
    rates, mean = find(ax, "mean dL").get_data()
    np.testing.assert_array_equal(rates, summary.index)
    finite = np.isfinite(summary["mean"])
    np.testing.assert_array_equal(mean[finite], summary["mean"][finite])
    assert np.isnan(mean[~finite]).all()
    shade = find(ax, "95% interval")
    assert isinstance(shade, PolyCollection)
    vertices = np.concatenate([path.vertices for path in shade.get_paths()])
    for column in ("low", "high"):
        assert np.isin(summary[column][finite], vertices[:, 1]).all()


def test_the_median_is_drawn_with_its_own_interval_and_without_the_band_of_the_mean(summary):
    frame = summary.assign(band_low=summary["low"] - 1.0, band_high=summary["high"] + 1.0)
    ax = plot_differentials(frame, method="median", confidence_level=0.9)
    finite = np.isfinite(frame["median"])
    np.testing.assert_array_equal(find(ax, "median dL").get_ydata()[finite], frame["median"][finite])
    vertices = np.concatenate([path.vertices for path in find(ax, "90% interval").get_paths()])
    assert np.isin(frame["median_low"][finite], vertices[:, 1]).all()
    assert "90% band" not in labels(ax)


def test_an_interval_of_the_median_that_ends_in_inf_leaves_the_view(rates):
    frame = make_summary(rates, parabola(rates))
    frame.iloc[30:, frame.columns.get_loc("median_high")] = INF
    ax = plot_differentials(frame, method="median")
    vertices = np.concatenate([path.vertices for path in find(ax, "95% interval").get_paths()])
    assert np.isfinite(vertices).all()
    assert vertices[:, 1].max() > ax.get_ylim()[1]


def test_the_band_is_drawn_only_if_it_is_in_the_summary(summary):
    assert "95% band" not in labels(plot_differentials(summary))
    frame = summary.assign(band_low=summary["low"] - 0.1, band_high=summary["high"] + 0.1)
    assert isinstance(find(plot_differentials(frame), "95% band"), PolyCollection)


def test_the_pick_is_a_line_with_its_value(summary):
    ax = plot_differentials(summary, learning_rate=0.0031623)
    assert list(find(ax, "pick").get_xdata()) == [0.0031623, 0.0031623]
    assert [text.get_text() for text in ax.texts] == ["3.2e-3"]


def test_the_set_is_shaded_half_way_to_the_neighbours_on_a_logarithmic_axis():
    rates = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    ax = plot_differentials(make_summary(rates, -1.0), best_set=[1e-3, 1e-2, 1.0])
    spans = [patch for patch in ax.patches if patch.get_label() == "best rates"]
    expected = [(10**-3.5, 10**-1.5), (10**-0.5, 10**0.5)]
    np.testing.assert_allclose([interval_of_x(span) for span in spans], expected)
    assert labels(ax).count("best rates") == 1


def test_the_set_is_shaded_half_way_to_the_neighbours_on_a_linear_axis():
    rates = np.array([0.1, 0.2, 0.3, 0.4])
    ax = plot_differentials(make_summary(rates, -1.0), best_set=np.array([False, True, True, False]))
    np.testing.assert_allclose(interval_of_x(find(ax, "best rates")), (0.15, 0.35))


def test_the_set_of_the_summary_is_the_default(rates):
    in_best_set = np.arange(64) == 40
    ax = plot_differentials(make_summary(rates, parabola(rates), in_best_set=in_best_set))
    left, right = interval_of_x(find(ax, "best rates"))
    assert left < rates[40] < right
    other = plot_differentials(make_summary(rates, parabola(rates), in_best_set=in_best_set), best_set=[])
    assert "best rates" not in labels(other)


def test_the_interval_of_the_best_rate_stands_at_the_bottom_whatever_the_losses(summary):
    ax = plot_differentials(summary, learning_rate=0.01, low=2e-3, high=3e-2)
    bracket = find(ax, "interval of best")
    assert list(bracket.get_xdata()) == [2e-3, 3e-2]
    assert bracket.get_transform() == ax.get_xaxis_transform()
    assert all(0.0 < height < 0.1 for height in bracket.get_ydata())


def test_everything_beyond_the_largest_stable_rate_is_hatched(summary):
    rates = summary.index.to_numpy()
    ax = plot_differentials(summary, max_stable_lr=rates[50])
    region = find(ax, "unstable")
    assert isinstance(region, Rectangle)
    assert region.get_hatch()
    left, right = interval_of_x(region)
    assert left == pytest.approx(np.sqrt(rates[50] * rates[51]))  # half-way to the next rate
    assert right >= ax.get_xlim()[1] * (1.0 - 1e-12)
    assert any(line.get_linestyle() == ":" and list(line.get_xdata()) == [left, left] for line in ax.lines)


@pytest.mark.parametrize("max_stable_lr", [None, 10.0, 100.0])
def test_nothing_is_hatched_where_no_edge_is_in_view(summary, max_stable_lr):
    assert "unstable" not in labels(plot_differentials(summary, max_stable_lr=max_stable_lr))


def test_rates_where_probes_diverged_have_a_cross_at_the_top(summary):
    ax = plot_differentials(summary)
    crosses = find(ax, "diverged")
    np.testing.assert_array_equal(crosses.get_xdata(), summary.index[summary["num_diverged"] > 0])
    assert crosses.get_marker() == "x"
    assert min(crosses.get_ydata()) > 0.9
    assert "diverged" not in labels(plot_differentials(summary.drop(columns="num_diverged")))


def test_the_subsamples_are_thin_lines_broken_where_they_diverged(rates, summary):
    delta = parabola(rates) + np.zeros((5, 64))
    delta[2, 60:] = INF
    delta[3, 7] = np.nan
    delta_before = delta.copy()
    lines = find(plot_differentials(summary, delta=delta), "subsamples")
    assert isinstance(lines, LineCollection)
    drawn = sum(np.isfinite(segment).all(axis=1).sum() for segment in lines.get_segments())
    assert drawn >= 5 * 64 - 5
    np.testing.assert_array_equal(delta, delta_before)


def test_a_rate_between_diverged_ones_is_a_bar_and_a_point(rates):
    frame = make_summary(rates, parabola(rates))
    frame.iloc[[29, 31], frame.columns.get_loc("mean")] = INF
    ax = plot_differentials(frame)
    (bar,) = [artist for artist in ax.collections if isinstance(artist, LineCollection)]
    np.testing.assert_allclose(bar.get_segments()[0][:, 0], rates[30])
    assert any(line.get_marker() == "o" and list(line.get_xdata()) == [rates[30]] for line in ax.lines)


@pytest.mark.parametrize(
    ("grid", "scale"),
    [
        (log_grid(1e-6, 10.0, 64), "log"),
        (log_grid(1e-3, 1e-2, 5), "log"),
        (np.array([1e-3, 1e-2]), "log"),
        (np.array([1e-2]), "log"),
        (linear_grid(0.01, 1.0, 100), "linear"),
        (np.array([0.1, 0.2]), "linear"),
    ],
)
def test_the_rates_are_on_the_axis_of_their_grid(grid, scale):
    ax = plot_differentials(make_summary(grid, -0.5))
    assert ax.get_xscale() == scale
    assert ax.get_xlim()[0] < grid[0] <= grid[-1] < ax.get_xlim()[1]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("learning rate", "change of loss (dL)")


def test_losses_are_symmetric_logarithmic_on_a_logarithmic_grid_and_linear_as_far_as_they_fall(summary):
    ax = plot_differentials(summary)
    assert ax.get_yscale() == "symlog"
    assert 0.5 <= ax.yaxis.get_transform().linthresh <= 1.0


@pytest.mark.parametrize(("explosion", "scale"), [(1.0, "linear"), (1e4, "symlog")])
def test_losses_on_a_linear_grid_are_linear_unless_they_would_hide_the_minimum(explosion, scale):
    rates = linear_grid(0.01, 1.0, 100)
    mean = -np.sin(np.pi * rates) + explosion * np.maximum(rates - 0.7, 0.0)
    assert plot_differentials(make_summary(rates, mean)).get_yscale() == scale


def test_the_range_of_losses_leaves_out_the_share_of_extreme_ends():
    rates = linear_grid(0.1, 2.0, 20)
    mean = np.where(np.arange(20) == 19, 20.0, -1.0)
    frame = make_summary(rates, mean, half=0.1)
    assert plot_differentials(frame, trim=0.0).get_ylim()[1] > 20.1
    assert plot_differentials(frame, trim=0.05).get_ylim()[1] < 0.0


def test_the_interval_at_the_pick_is_always_in_view(rates):
    frame = make_summary(rates, parabola(rates))
    frame.iloc[10, [frame.columns.get_loc("low"), frame.columns.get_loc("high")]] = [-7.0, 8.0]
    bottom, top = plot_differentials(frame, learning_rate=rates[10], trim=0.4).get_ylim()
    assert bottom < -7.0 < 8.0 < top


def test_a_zoom_shows_these_rates_and_the_range_of_their_losses(summary):
    ax = plot_differentials(summary, xlim=(1e-3, 2e-2), learning_rate=1.0, max_stable_lr=2.0, low=1.0, high=2.0)
    assert ax.get_xlim() == (1e-3, 2e-2)
    assert ax.get_ylim()[1] < 2.0
    assert labels(ax) == ["mean dL", "95% interval"]  # nothing that is out of view
    assert not ax.texts


def test_zero_is_marked(summary):
    ax = plot_differentials(summary)
    assert any(list(line.get_ydata()) == [0.0, 0.0] for line in ax.lines)


@pytest.mark.parametrize("size", [(3.4, 2.6), (7.0, 4.5), (12.0, 7.0)])
@pytest.mark.parametrize("xlim", [None, (1e-3, 5e-2), (3e-3, 8e-3), (1e-3, 1e-2)])
def test_tick_labels_do_not_overlap(plt, summary, size, xlim):
    _, ax = plt.subplots(figsize=size, layout="constrained")
    plot_differentials(summary, learning_rate=0.01, max_stable_lr=0.5, low=5e-3, high=2e-2, xlim=xlim, ax=ax)
    for axis, side in ((ax.xaxis, 0), (ax.yaxis, 1)):
        boxes = [label.get_window_extent().get_points()[:, side] for label in tick_labels(axis) if label.get_text()]
        assert len(boxes) >= 3
        boxes = sorted(map(tuple, boxes))
        assert all(end < start for (_, end), (start, _) in itertools.pairwise(boxes))


@pytest.mark.parametrize("size", [(3.4, 2.6), (7.0, 4.5)])
def test_the_legend_is_in_the_figure_and_covers_neither_data_nor_the_value_of_the_pick(plt, rates, summary, size):
    figure, ax = plt.subplots(figsize=size, layout="constrained")
    frame = summary.assign(band_low=summary["low"], band_high=summary["high"], in_best_set=rates < 1e-5)
    options = {"learning_rate": rates[50], "low": 1e-3, "high": 1.0, "max_stable_lr": 1.0, "ax": ax}
    plot_differentials(frame, delta=parabola(rates)[None], **options)
    figure.canvas.draw()
    legend, pick = ax.get_legend().get_window_extent(), ax.texts[0].get_window_extent()
    assert len(labels(ax)) == 9
    assert legend.y0 >= pick.y1
    assert pick.y0 >= ax.bbox.y1
    assert legend.x0 >= 0.0
    assert legend.x1 <= figure.bbox.x1
    assert legend.y1 <= figure.bbox.y1
    assert ax.bbox.height > 0.4 * figure.bbox.height


def test_text_takes_its_colour_from_the_style(plt, summary):
    with plt.style.context("dark_background"):
        ax = plot_differentials(summary, learning_rate=0.01)
    texts = [*ax.texts, *ax.get_legend().get_texts(), ax.xaxis.label, ax.yaxis.label]
    assert {to_hex(text.get_color()) for text in texts} == {"#ffffff"}


def test_no_style_is_changed_nothing_is_shown_and_the_axes_are_those_given(plt, summary, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: pytest.fail("show() was called"))
    figure, ax = plt.subplots()
    before = dict(plt.rcParams)
    assert plot_differentials(summary, learning_rate=0.01, ax=ax) is ax
    assert plt.get_fignums() == [figure.number]
    assert dict(plt.rcParams) == before
    assert plot_differentials(summary).figure.number in plt.get_fignums()  # a new one, of pyplot


def test_the_summary_is_left_as_it_was(summary):
    before = summary.copy()
    plot_differentials(summary, learning_rate=0.01)
    pd.testing.assert_frame_equal(summary, before)


@pytest.mark.parametrize("method", ["mean", "median"])
@pytest.mark.parametrize(
    "frame",
    [
        make_summary(log_grid(1e-6, 10.0, 8), INF, low=-INF),
        make_summary(log_grid(1e-6, 10.0, 8), np.nan),
        make_summary(log_grid(1e-6, 10.0, 8), 0.0, half=0.0),
        make_summary(log_grid(1e-6, 10.0, 8), 1e300, half=0.0),
        make_summary(linear_grid(0.1, 1.0, 8), [1.0, -1.0, 1e300, -1e300, INF, np.nan, -INF, 0.0]),
        make_summary(log_grid(1e-6, 10.0, 8), 1e-300, half=1e-300),
        make_summary(log_grid(1e-6, 10.0, 8), -1.0, half=INF),
        make_summary([0.01], -0.3),
        make_summary([0.01], INF, low=-INF, num_diverged=3),
        make_summary([0.01, 0.1], [-0.3, INF]),
    ],
    ids=["inf", "nan", "zero", "huge", "mixed", "tiny", "no interval", "one rate", "one diverged", "two rates"],
)
def test_any_numbers_are_drawn_without_a_warning(frame, method):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax = plot_differentials(frame, method=method, learning_rate=frame.index[0], low=1e-3, high=1e-2)
        ax.figure.canvas.draw()
    assert np.isfinite(ax.get_ylim()).all()
    assert ax.get_ylim()[0] < ax.get_ylim()[1]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"trim": 0.5}, ValueError, r"`trim` must be finite and at least 0 and below 0.5, got 0.5\."),
        ({"trim": -0.1}, ValueError, r"`trim` must be finite and at least 0 and below 0.5, got -0.1\."),
        ({"trim": "0.1"}, TypeError, r"`trim` must be a real number, got '0.1'\."),
        ({"xlim": (1e-2, 1e-3)}, ValueError, r"`xlim` must be increasing, got \(0.01, 0.001\)\."),
        ({"xlim": (0.0, 1e-3)}, ValueError, r"`xlim\[0\]` must be finite and above 0, got 0.0\."),
        ({"xlim": (1e-3, INF)}, ValueError, r"`xlim\[1\]` must be finite and above 0, got inf\."),
        ({"xlim": (20.0, 30.0)}, ValueError, r"`xlim` must hold at least one rate of 1e-06 to 10, got \(20.0, 30.0\)"),
        ({"xlim": 0.1}, TypeError, r"`xlim` must be a pair \(left, right\), got 0.1\."),
        ({"xlim": (0.1, 0.2, 0.3)}, TypeError, r"`xlim` must be a pair \(left, right\), got "),
        ({"ax": "axes"}, TypeError, r"`ax` must be a matplotlib Axes or None, got 'axes'\."),
        ({"method": "mode"}, ValueError, r"`method` must be one of 'mean', 'median', .*, got 'mode'\."),
        ({"learning_rate": 0.0}, ValueError, r"`learning_rate` must be finite and above 0, got 0.0\."),
        ({"max_stable_lr": -1.0}, ValueError, r"`max_stable_lr` must be finite and above 0, got -1.0\."),
        ({"confidence_level": 95}, ValueError, r"`confidence_level` must be finite and above 0 and below 1, got 95\."),
        ({"low": 0.1}, ValueError, r"`low` must be given together with `high`, got \(0.1, None\)\."),
        ({"high": 0.1}, ValueError, r"`low` must be given together with `high`, got \(None, 0.1\)\."),
        ({"low": 0.2, "high": 0.1}, ValueError, r"`high` must be at least `low` \(0.2\), got 0.1\."),
        ({"delta": np.zeros((3, 4))}, ValueError, r"`delta` must have the shape \(M, 64\) with M >= 1, got \(3, 4\)\."),
        ({"delta": np.zeros(64)}, ValueError, r"`delta` must have the shape \(M, 64\) with M >= 1, got \(64,\)\."),
        ({"delta": np.zeros((0, 64))}, ValueError, r"`delta` must have the shape .* with M >= 1, got \(0, 64\)\."),
        ({"delta": [["a"] * 64]}, TypeError, r"`delta` must be an array of real numbers, got \[\['a', "),
        ({"delta": [[0.0] * 64, [0.0]]}, TypeError, r"`delta` must be an array of real numbers, got \[\[0\.0, "),
        ({"best_set": ["a"]}, TypeError, r"`best_set` must be an array of real numbers, got \['a'\]\."),
        (
            {"best_set": [[0.1], [0.1, 0.2]]},
            TypeError,
            r"`best_set` must be an array of real numbers, got \[\[0\.1\], ",
        ),
        ({"best_set": [0.123]}, ValueError, r"`best_set` must hold rates of `summary.index`, .*, got \[0.123\]\."),
        ({"best_set": np.array([True])}, ValueError, r"`best_set` must have the shape \(64,\), got \(1,\)\."),
    ],
)
def test_a_wrong_argument_is_refused_before_a_figure_is_made(plt, summary, options, error, message):
    with pytest.raises(error, match=message):
        plot_differentials(summary, **options)
    assert not plt.get_fignums()


def test_a_summary_that_is_not_a_frame_of_rates_is_refused(summary):
    with pytest.raises(TypeError, match=r"`summary` must be a pandas.DataFrame, got "):
        plot_differentials(summary.to_dict())
    with pytest.raises(ValueError, match=r"`summary` must have the columns mean, low, high, got \['mean'\]\."):
        plot_differentials(summary[["mean"]])
    for name in ("mean", "band_low", "num_diverged"):
        frame = summary.assign(band_low=0.0, band_high=0.0).assign(**{name: "a"})
        with pytest.raises(TypeError, match=rf"`summary\['{name}'\]` must be an array of real numbers, got array\("):
            plot_differentials(frame)
    for wrong in (np.nan, "True", None, 1.0):
        with pytest.raises(TypeError, match=r"`summary\['in_best_set'\]` must hold nothing but True and False, got "):
            plot_differentials(summary.assign(in_best_set=wrong))
    with pytest.raises(ValueError, match=r"`summary.index` must be strictly increasing, got "):
        plot_differentials(summary.iloc[::-1])


def test_of_several_horizons_the_last_is_named_and_those_before_have_their_lowest_point(rates):
    earlier = {1: parabola(rates / 4.0), 5: np.where(rates < 1.0, parabola(rates / 2.0), INF)}
    ax = plot_differentials(make_summary(rates, parabola(rates)), horizon=20, earlier=earlier)
    assert ax.get_ylabel() == "change of loss\nafter 20 steps (dL)"
    lines = [line for line in ax.lines if line.get_label() == "after 1, 5 steps"]
    assert labels(ax).count("after 1, 5 steps") == 1
    for line, means in zip(lines, earlier.values(), strict=True):
        finite = np.isfinite(means)
        np.testing.assert_array_equal(line.get_ydata()[finite], means[finite])
        assert line.get_markevery() == [means.argmin()]


@pytest.mark.parametrize(
    ("steps", "label"), [((1,), "after 1 step"), ((3,), "after 3 steps"), ((1, 2, 3, 4), "after 1 to 4 steps")]
)
def test_horizons_before_the_last_are_listed_shortly_and_may_have_no_mean(rates, steps, label):
    ax = plot_differentials(make_summary(rates, INF), horizon=9, earlier={h: np.full(64, INF) for h in steps})
    assert labels(ax) == [label]


@pytest.mark.parametrize("method", ["mean", "median"])
def test_a_result_draws_the_means_of_all_its_horizons_over_the_rows_that_were_probed(rng, method):
    post = rng.normal(size=(5, 3, 2))
    post[3:, 0, :], post[0, 2, 0] = np.nan, INF
    record = LossDifferentials([0.1, 1.0, 10.0], np.zeros(5), post, [1, 3])
    ax = TuningResult(record).plot(method=method)
    first = {"mean": np.mean, "median": np.median}[method](post[:3, 0, 0])
    drawn = find(ax, "after 1 step").get_ydata()
    assert drawn[0] == pytest.approx(first)
    assert np.isnan(drawn[2]) == (method == "mean")
    assert "after 3 steps" in ax.get_ylabel()


def test_where_every_rate_diverged_there_are_crosses_and_no_losses_to_read_off():
    ax = plot_differentials(make_summary(log_grid(1e-6, 10.0, 8), INF, low=-INF, num_diverged=3))
    assert labels(ax) == ["diverged"]
    assert list(ax.get_yticks()) == []

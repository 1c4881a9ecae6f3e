"""All pictures, small and large, on light and dark: nothing overlaps, colours can be told apart, no style changes."""

import itertools

import matplotlib.style
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib import rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from test_plot_schedules import NINE, history
from test_plot_search import result as search
from test_range_result import fall, result_of

from autolr import LossDifferentials, TaylorExpansion, TuningResult, _plot_axes, log_grid, plot_schedules
from autolr.plot_schedules import plot_comparison, plot_rates

# Machado, Oliveira and Fernandes (2009), A physiologically-based model for simulation of color vision deficiency, IEEE
# Transactions on Visualization and Computer Graphics 15(6): their matrices for linear RGB at the full severity.
VISIONS = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def tuning():
    rates, rng = log_grid(1e-6, 10.0, 22), np.random.default_rng(0)
    steps = np.array([1.0, 5.0])
    mean = -40.0 * rates[:, None] * steps + 1e3 * (rates[:, None] * steps) ** 2
    noise = 1.0 + 0.1 * rng.normal(size=(12, 1, 1))
    post = 2.0 + mean * noise
    post[:, -3:] = np.inf
    return TuningResult(LossDifferentials(rates, np.full(12, 2.0), post, [1, 5]))


def expansion():
    rates = np.linspace(0.0, 1.0, 20)
    return TaylorExpansion(1.0, -2.0, 4.0, rates, 1.0 - 2.0 * rates + 2.0 * rates**2 + rates**3)


DRAW = {
    "tuning": lambda figure: tuning().plot(figure.subplots(), show_subsamples=True),
    "search": lambda figure: search().plot(figure.subplots(1, 2)),
    "range test": lambda figure: result_of(fall(-3.0), fall(-2.5)).plot(figure.subplots(2, 1)),
    "expansion": lambda figure: expansion().plot(figure.subplots()),
    "comparison": lambda figure: plot_comparison(history(NINE), NINE, axes=figure.subplots(1, 2)),
    "rates": lambda figure: plot_rates({"a": [1e-5, 5e-6], "b": [2e-5, 1e-5]}, ax=figure.subplots()),
}


@pytest.fixture(params=[*itertools.product(DRAW, [(3.3, 2.5), (10.0, 5.6)], ["default", "dark_background"])], ids=str)
def figure(request):
    """Return a drawn figure; nothing but it has changed."""
    name, size, style = request.param
    with matplotlib.style.context(style):
        before, number = dict(rcParams), plt.get_fignums()
        figure = Figure(size, layout="constrained")
        DRAW[name](figure)
        assert (dict(rcParams), plt.get_fignums()) == (before, number)
        FigureCanvasAgg(figure).draw()
    return figure


def boxes_of_ticks(axis, side):
    low, high = sorted(axis.get_view_interval())
    ticks = [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    shown = [label.get_window_extent() for label in ticks if label.get_visible() and label.get_text()]
    return sorted(tuple(box.get_points()[:, side]) for box in shown)


def test_legend_labels_and_ticks_are_inside_and_overlap_nothing(figure):
    (legend,) = [ax.get_legend() for ax in figure.axes if ax.get_legend() is not None]
    box = legend.get_window_extent()
    labels = [label for ax in figure.axes for label in (ax.xaxis.label, ax.yaxis.label) if label.get_text()]
    assert len(labels) >= 2
    for label in labels:
        other = label.get_window_extent()
        assert figure.bbox.x0 <= other.x0 < other.x1 <= figure.bbox.x1 + 1.0
        assert figure.bbox.y0 - 1.0 <= other.y0 < other.y1 <= figure.bbox.y1 + 1.0
        assert not box.overlaps(other)
    for ax in figure.axes:
        assert not box.overlaps(ax.bbox)
        assert min(ax.bbox.width, ax.bbox.height) > 0.0
        for axis, side in ((ax.xaxis, 0), (ax.yaxis, 1)):
            assert all(end <= start for (_, end), (start, _) in itertools.pairwise(boxes_of_ticks(axis, side)))
        assert ax.yaxis.get_offset_text().get_text() == ax.xaxis.get_offset_text().get_text() == ""
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1 + 1.0
    assert box.y1 <= figure.bbox.y1 + 1.0


def lab(color, vision):
    """Return a colour in CIELAB (D65), as it is seen."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.asarray(VISIONS[vision]) @ linear, 0.0, 1.0)
    xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    x, y, z = np.asarray(xyz) @ seen / [0.95047, 1.0, 1.08883]
    f = [np.cbrt(v) if v > 0.008856 else 7.787 * v + 16.0 / 116.0 for v in (x, y, z)]
    return np.array([116.0 * f[1] - 16.0, 500.0 * (f[0] - f[1]), 200.0 * (f[1] - f[2])])


def test_black_and_white_are_where_they_belong_in_lab():
    np.testing.assert_allclose(lab("white", "deuteranopia"), [100.0, 0.0, 0.0], atol=0.1)
    np.testing.assert_allclose(lab("black", "normal"), 0.0, atol=1e-9)


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("background", ["white", "black"])
def test_colours_of_lines_differ_from_each_other_and_from_the_background_in_any_vision(vision, background):
    text = {"white": "black", "black": "white"}[background]
    curve = {"white": _plot_axes.BLUE, "black": _plot_axes.SKY}[background]
    together = [
        [curve, _plot_axes.VERMILLION, _plot_axes.GREY, _plot_axes.ORANGE, text],
        [_plot_axes.SKY, _plot_axes.VERMILLION, _plot_axes.GREEN, text],
        [color or text for color in plot_schedules._COLORS],
    ]
    for colors in together:
        pairs = itertools.combinations([*colors, background], 2)
        least = min((float(np.linalg.norm(lab(a, vision) - lab(b, vision))), a, b) for a, b in pairs)
        assert least[0] > 15.0, least

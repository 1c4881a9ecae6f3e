"""Pictures of the loss differentials: the last stage, which takes numbers and a decision and gives Axes.

Matplotlib is imported on the first picture, not with the package. No function shows a figure, writes a file, or changes
a global style; text and ticks keep the colours of the style that is active.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from autolr._plot_axes import (
    GREEN,
    GREY,
    SKY,
    VERMILLION,
    LossRange,
    curve_color,
    is_dark,
    one_axes,
    place_legend,
    set_axis,
    set_loss_axis,
    text_color,
)
from autolr._text import format_rate
from autolr._typing import BoolArray, FloatArray, Method
from autolr._validation import (
    check_array,
    check_confidence_level,
    check_integer,
    check_learning_rates,
    check_option,
    check_real,
    invalid,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_SUBSAMPLES = "subsamples"
_LARGEST = 1e100  # a picture with margins about this loss does not overflow
_RUG_HEIGHT, _BRACKET_HEIGHT = 0.955, 0.045  # in shares of the axes


class _Curve(NamedTuple):
    """What is drawn against the rates, each of shape (K,), in units of the loss; NaN: nothing to draw."""

    center: FloatArray
    low: FloatArray
    high: FloatArray
    band: tuple[FloatArray, FloatArray] | None


def plot_differentials(
    summary: pd.DataFrame,
    *,
    delta: FloatArray | None = None,
    learning_rate: float | None = None,
    method: str = "mean",
    low: float | None = None,
    high: float | None = None,
    best_set: ArrayLike | None = None,
    max_stable_lr: float | None = None,
    horizon: int = 1,
    earlier: Mapping[int, ArrayLike] | None = None,
    confidence_level: float = 0.95,
    xlim: tuple[float, float] | None = None,
    trim: float = 0.05,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw the loss differentials against the learning rate, and the decision that was made on them.

    The rates are on a logarithmic axis, unless their grid is linear; the differentials on a symmetric-logarithmic one
    (linear as far as the loss falls, logarithmic beyond), or on a linear one where a linear grid lets the fall be seen.

    The curve has a gap where a probe diverged, as it has no mean there; such rates are marked with a cross at the top.
    The legend stands above the axes, so that it covers no data: a figure of your own should have
    ``layout="constrained"``, and its title as ``figure.suptitle``.

    Args:
        summary: A frame indexed by ``learning_rate`` (K rows, increasing), with the columns ``mean, low, high`` or, for
            ``method="median"``, ``median, median_low, median_high``, in units of the loss; inf and NaN are not drawn.
            Drawn where they are there: ``band_low, band_high`` (of the mean), ``num_diverged``, ``in_best_set``.
        delta: Loss differentials of the subsamples, shape ``(M, K)``, in units of the loss, drawn as thin lines.
        learning_rate: The pick, drawn as a vertical line with its value.
        method: How it was picked: ``"median"`` draws the median, every other method the mean.
        low: Lower end of the interval of the best rate itself, drawn at the bottom; with ``high``.
        high: Its upper end.
        best_set: The rates that cannot be told from the best, or a mask of shape ``(K,)``; default: ``in_best_set``.
            Each one shades the axis half-way to its neighbours.
        max_stable_lr: The largest stable rate: the picture is hatched from half-way to the next one on.
        horizon: The number of optimizer steps behind the differentials.
        earlier: The means (medians) after fewer steps, each of shape ``(K,)`` and in units of the loss, drawn as thin
            lines with a point where they are lowest: the best rate against the horizon.
        confidence_level: Nominal coverage of interval and band in ``summary``, for the legend.
        xlim: The rates to show, ``(left, right)``; the range of losses is then that of these rates.
        trim: Share of the interval ends left out of the range of losses at its top, and as many at its bottom, so that
            diverging rates do not flatten the rest. The intervals at the pick and at the best rate are always inside.
        ax: Where to draw; default a new figure of :mod:`matplotlib.pyplot`.

    Returns:
        The axes.

    Raises:
        TypeError: If an argument has another type.
        ValueError: If ``summary`` lacks a column, ``delta``, ``earlier`` or ``best_set`` do not fit to its rates,
            ``trim`` is outside of [0, 0.5), ``xlim`` is not increasing, not positive or without a rate, only one of
            ``low`` and ``high`` is given, or they are not in order.
    """
    method = check_option("method", method, Method)
    rates, curve, num_diverged = _read_summary(summary, median=method == "median")
    pick = None if learning_rate is None else check_real("learning_rate", learning_rate, above=0.0)
    edge = None if max_stable_lr is None else check_real("max_stable_lr", max_stable_lr, above=0.0)
    level = f"{100.0 * check_confidence_level(confidence_level):g}%"
    trim = check_real("trim", trim, above=0.0, below=0.5, closed=True)
    interval = _check_interval(low, high)
    best = _read_best_set(summary) if best_set is None else _as_mask(best_set, rates)
    lines = None if delta is None else _check_lines(delta, rates)
    horizon = check_integer("horizon", horizon, minimum=1)
    before = {h: _check_earlier(h, values, rates) for h, values in ({} if earlier is None else earlier).items()}
    logarithmic = _is_logarithmic(rates)
    boundaries = _boundaries(rates, logarithmic=logarithmic)
    left, right = _whole_range(rates, boundaries) if xlim is None else _check_xlim(xlim, rates)
    ax = one_axes(ax)

    shown = (rates >= left) & (rates <= right)
    losses = _loss_range(curve, rates, shown, pick, trim)
    set_axis(ax, left, right, logarithmic=logarithmic)
    view = set_loss_axis(ax, losses, logarithmic=logarithmic)
    name = "median" if method == "median" else "mean"
    labels = f"{name} dL", f"{level} interval", f"{level} band"
    handles: list[Artist] = []
    if np.isfinite(curve.center[shown]).any():
        handles += _draw_curve(ax, rates, curve, view, labels=labels)
    else:
        ax.set_yticks([])  # there is no loss to read off
    if before:
        handles.append(_draw_earlier(ax, rates, before))
    if lines is not None:
        handles.append(_draw_lines(ax, rates, lines))
    spans = [span for span in _spans(best, boundaries) if span[0] < right and span[1] > left]
    of_mean = " (mean)" if method == "median" else ""  # what the median is not the best by
    handles += [_shade_rates(ax, *span, label=f"best rates{of_mean}") for span in spans][:1]
    pick_shown = pick is not None and left <= pick <= right
    if pick is not None and pick_shown:
        handles.append(_draw_pick(ax, pick))
    if interval is not None and interval[0] <= right and interval[1] >= left:
        handles.append(_draw_bracket(ax, interval, label=f"interval of best{of_mean}"))
    beyond = rates.size if edge is None else int(np.searchsorted(rates, edge * (1.0 + 1e-9)))  # the unstable rates
    if beyond < rates.size and boundaries[beyond] < right:
        handles.append(_hatch_beyond(ax, float(boundaries[beyond]), max(right, float(boundaries[-1]))))
    diverged = (num_diverged > 0) & shown
    if diverged.any():
        handles.append(_mark_diverged(ax, rates[diverged]))
    ax.set_xlabel("learning rate")
    ax.set_ylabel("change of loss (dL)" if horizon == 1 else f"change of loss\nafter {horizon} steps (dL)")
    place_legend(ax, handles, gap=15.0 if pick_shown else 4.0, faint=_SUBSAMPLES)
    return ax


def _read_summary(summary: pd.DataFrame, *, median: bool) -> tuple[FloatArray, _Curve, FloatArray]:
    """Return the rates, the curve, and the number of divergences at each rate (0 where it is not told)."""
    if not isinstance(summary, pd.DataFrame):
        raise TypeError(invalid("summary", "be a pandas.DataFrame", summary))
    names = ["median", "median_low", "median_high"] if median else ["mean", "low", "high"]
    if not set(names) <= set(summary.columns):
        raise ValueError(invalid("summary", f"have the columns {', '.join(names)}", list(summary.columns)))
    rates = check_learning_rates(summary.index.to_numpy(), name="summary.index")

    def column(name: str) -> FloatArray:
        values = summary[name]
        whole = values.dtype.kind in "iu" and isinstance(values.dtype, np.dtype)  # such a column holds no NaN
        return check_array(f"summary[{name!r}]", values.to_numpy() if whole else values.to_numpy(na_value=np.nan))

    center, low, high = (column(name) for name in names)
    center[~np.isfinite(center)] = np.nan
    missing = np.isnan(center) | np.isnan(low) | np.isnan(high)
    low[missing] = high[missing] = np.nan
    band = None
    if not median and {"band_low", "band_high"} <= set(summary.columns):
        ends = column("band_low"), column("band_high")
        finite = np.isfinite(ends[0]) & np.isfinite(ends[1]) & np.isfinite(center)
        band = np.where(finite, ends[0], np.nan), np.where(finite, ends[1], np.nan)
    num_diverged = np.nan_to_num(column("num_diverged")) if "num_diverged" in summary else np.zeros(rates.size)
    return rates, _Curve(center, low, high, band), num_diverged


def _read_best_set(summary: pd.DataFrame) -> BoolArray:
    """Return the mask ``in_best_set``, none where it is not there."""
    if "in_best_set" not in summary:
        return np.zeros(len(summary), dtype=bool)
    values = summary["in_best_set"].to_numpy()
    if not all(isinstance(value, (bool, np.bool_)) for value in values):
        raise TypeError(invalid("summary['in_best_set']", "hold nothing but True and False", values))
    return values.astype(bool)


def _check_interval(low: float | None, high: float | None) -> tuple[float, float] | None:
    if low is None and high is None:
        return None
    if low is None or high is None:
        raise ValueError(invalid("low", "be given together with `high`", (low, high)))
    ends = check_real("low", low, above=0.0), check_real("high", high, above=0.0)
    if ends[0] > ends[1]:
        raise ValueError(invalid("high", f"be at least `low` ({ends[0]:g})", high))
    return ends


def _check_xlim(xlim: tuple[float, float], rates: FloatArray) -> tuple[float, float]:
    if not isinstance(xlim, Sequence) or isinstance(xlim, str) or len(xlim) != 2:
        raise TypeError(invalid("xlim", "be a pair (left, right)", xlim))
    left, right = (check_real(f"xlim[{i}]", end, above=0.0) for i, end in enumerate(xlim))
    if left >= right:
        raise ValueError(invalid("xlim", "be increasing", xlim))
    if not ((rates >= left) & (rates <= right)).any():
        raise ValueError(invalid("xlim", f"hold at least one rate of {rates[0]:g} to {rates[-1]:g}", xlim))
    return left, right


def _check_lines(delta: ArrayLike, rates: FloatArray) -> FloatArray:
    values = check_array("delta", delta)
    if values.ndim != 2 or values.shape[0] == 0 or values.shape[1] != rates.size:
        raise ValueError(invalid("delta", f"have the shape (M, {rates.size}) with M >= 1", values.shape))
    values[~np.isfinite(values)] = np.nan
    return values


def _check_earlier(horizon: int, values: ArrayLike, rates: FloatArray) -> FloatArray:
    means = check_array(f"earlier[{horizon}]", values)
    if means.shape != rates.shape:
        raise ValueError(invalid(f"earlier[{horizon}]", f"have the shape ({rates.size},)", means.shape))
    return np.where(np.isfinite(means), means, np.nan)


def _as_mask(best_set: ArrayLike, rates: FloatArray) -> BoolArray:
    """Return the set, given as rates or as a mask, as a mask of shape (K,)."""
    mask = np.asarray(best_set, dtype=object)
    if mask.size and all(isinstance(value, (bool, np.bool_)) for value in mask.flat):
        if mask.shape != rates.shape:
            raise ValueError(invalid("best_set", f"have the shape ({rates.size},)", mask.shape))
        return mask.astype(bool)
    matches = np.isclose(rates, check_array("best_set", best_set).reshape(-1, 1), rtol=1e-9, atol=0.0)
    if not matches.any(axis=1).all():
        raise ValueError(invalid("best_set", "hold rates of `summary.index`, or be a mask of them", best_set))
    return np.asarray(matches.any(axis=0), dtype=bool)


def _is_logarithmic(rates: FloatArray) -> bool:
    """Return whether the rates are spaced logarithmically: their spacing grows along the grid."""
    if rates.size < 3:
        return bool(rates[-1] > 3.0 * rates[0]) or rates.size == 1
    return bool(rates[-1] - rates[-2] > 2.0 * (rates[1] - rates[0]))


def _boundaries(rates: FloatArray, *, logarithmic: bool) -> FloatArray:
    """Return the K + 1 boundaries half-way between neighbours on the axis, and as far outside of the ends."""
    points = np.log(rates) if logarithmic else rates
    if points.size == 1:
        return np.asarray(rates * [0.8, 1.25])
    inner = (points[:-1] + points[1:]) / 2.0
    ends = 2.0 * points[[0, -1]] - inner[[0, -1]]
    joined = np.concatenate([ends[:1], inner, ends[1:]])
    return np.asarray(np.exp(joined) if logarithmic else np.maximum(joined, 0.0))


def _whole_range(rates: FloatArray, boundaries: FloatArray) -> tuple[float, float]:
    outer = rates[[0, 0]] * [0.4, 2.5] if rates.size == 1 else boundaries[[0, -1]]
    return float(outer[0]), float(outer[1])


def _spans(best: BoolArray, boundaries: FloatArray) -> list[tuple[float, float]]:
    """Return the runs of neighbours in the set, each as its outer boundaries."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], best, [False]]).astype(int)))
    return [(float(boundaries[first]), float(boundaries[stop])) for first, stop in changes.reshape(-1, 2)]


def _loss_range(curve: _Curve, rates: FloatArray, shown: BoolArray, pick: float | None, trim: float) -> LossRange:
    """Return the losses to show: the drawn interval ends but for the extreme ones, and all of the pick's."""
    drawn = shown & np.isfinite(curve.center)
    if not drawn.any():
        return LossRange(-1.0, 1.0, 1.0)
    columns = [int(np.argmin(np.where(drawn, curve.center, np.inf)))]
    if pick is not None:
        nearest = int(np.argmin(np.abs(np.log(rates / pick))))
        columns += [nearest] if drawn[nearest] else []
    ends = np.concatenate([curve.low[drawn], curve.high[drawn]])
    ends = np.sort(ends[np.isfinite(ends)])
    ends = ends if ends.size else np.sort(curve.center[drawn])
    dropped = int(trim * ends.size)
    kept = ends[[dropped, ends.size - 1 - dropped]]
    inside = np.concatenate([kept, *(np.array([curve.center[k], curve.low[k], curve.high[k]]) for k in columns)])
    inside = np.clip(inside[np.isfinite(inside)], -_LARGEST, _LARGEST)
    lowest, at_pick = abs(float(curve.center[columns[0]])), abs(float(curve.center[columns[-1]]))
    # NOTE: the pick of flat noise may be at 0 by chance; the error, at most the lowest value, is then the size to see.
    error = (float(curve.high[columns[-1]]) - float(curve.low[columns[-1]])) / 2.0
    scale = max(at_pick, min(error, lowest), lowest if curve.center[columns[0]] < 0.0 else 0.0)
    scale = scale or float(np.abs(inside).max()) or 1.0
    return LossRange(float(inside.min()), float(inside.max()), scale)


def _draw_curve(
    ax: "Axes", rates: FloatArray, curve: _Curve, view: tuple[float, float], *, labels: tuple[str, str, str]
) -> "list[Artist]":
    """Draw curve, pointwise interval and band: an infinite end leaves the view, a rate without neighbours is a bar."""
    color, opacity = curve_color(ax), 1.6 if is_dark(ax) else 1.0
    bottom, top = view
    low = np.where(np.isneginf(curve.low), 2.0 * bottom - top, curve.low)
    high = np.where(np.isposinf(curve.high), 2.0 * top - bottom, curve.high)
    ax.axhline(0.0, color=text_color(ax), linewidth=0.8, zorder=1.5)
    handles: list[Artist] = [*ax.plot(rates, curve.center, color=color, linewidth=1.6, zorder=3.0, label=labels[0])]
    style: dict[str, Any] = {"linewidth": 0.0}
    handles.append(ax.fill_between(rates, low, high, color=color, alpha=0.3, zorder=2.2, label=labels[1], **style))
    if curve.band is not None:
        style |= {"color": SKY, "alpha": 0.22 * opacity, "zorder": 2.0}
        handles.append(ax.fill_between(rates, *curve.band, label=labels[2], **style))
    drawn = np.concatenate([[False], np.isfinite(curve.center), [False]])
    alone = drawn[1:-1] & ~drawn[:-2] & ~drawn[2:]
    if alone.any():
        ax.vlines(rates[alone], low[alone], high[alone], color=color, alpha=0.5, linewidth=3.0, zorder=2.2)
        ax.plot(rates[alone], curve.center[alone], "o", color=color, markersize=4.0, zorder=4.2)
    return handles


def _draw_lines(ax: "Axes", rates: FloatArray, values: FloatArray) -> "Artist":
    from matplotlib.collections import LineCollection

    segments = [np.column_stack([rates, row]) for row in values]
    alpha = min(0.6, max(0.12, 6.0 / len(segments)))
    lines = LineCollection(segments, colors=GREY, linewidths=0.5, alpha=alpha, zorder=1.0, label=_SUBSAMPLES)
    ax.add_collection(lines, autolim=False)
    return lines


def _draw_earlier(ax: "Axes", rates: FloatArray, earlier: Mapping[int, FloatArray]) -> "Artist":
    """Draw the means after fewer steps, the fainter the fewer, each with a point where it is lowest."""
    style: dict[str, Any] = {"color": text_color(ax), "linewidth": 0.8, "marker": "o", "markersize": 3.0, "zorder": 2.6}
    several = ", ".join(map(str, earlier)) if len(earlier) <= 3 else f"{min(earlier)} to {max(earlier)}"
    label = f"after {several} step{'' if [*earlier] == [1] else 's'}"
    for number, means in enumerate(earlier.values(), start=1):
        lowest = [int(np.nanargmin(means))] if np.isfinite(means).any() else []
        alpha = 0.35 + 0.5 * number / len(earlier)
        lines = ax.plot(rates, means, alpha=alpha, markevery=lowest, label=label, **style)
    return lines[0]


def _shade_rates(ax: "Axes", left: float, right: float, *, label: str) -> "Artist":
    alpha = 0.32 if is_dark(ax) else 0.2
    return ax.axvspan(left, right, color=GREEN, alpha=alpha, linewidth=0.0, zorder=0.5, label=label)


def _draw_pick(ax: "Axes", pick: float) -> "Artist":
    """Draw the line of the pick, and its value above it, outside of the axes."""
    share = float(ax.transAxes.inverted().transform(ax.transData.transform((pick, 0.0)))[0])
    ax.annotate(
        format_rate(pick),
        (pick, 1.0),
        xycoords=ax.get_xaxis_transform(),
        xytext=(0.0, 2.0),
        textcoords="offset points",
        horizontalalignment="left" if share < 0.05 else "right" if share > 0.95 else "center",
        verticalalignment="bottom",
        fontsize="small",
        color=text_color(ax),
        annotation_clip=False,
    )
    return ax.axvline(pick, color=VERMILLION, linewidth=1.4, zorder=4.0, label="pick")


def _draw_bracket(ax: "Axes", interval: tuple[float, float], *, label: str) -> "Artist":
    """Draw the interval of the best rate along the bottom, whatever the losses are."""
    style: dict[str, Any] = {"color": VERMILLION, "linewidth": 1.8, "marker": "|", "markersize": 7.0, "zorder": 5.0}
    heights, transform = [_BRACKET_HEIGHT] * 2, ax.get_xaxis_transform()
    return ax.plot(interval, heights, transform=transform, label=label, **style)[0]


def _hatch_beyond(ax: "Axes", edge: float, end: float) -> "Artist":
    ax.axvline(edge, color=text_color(ax), linestyle=":", linewidth=1.2, zorder=2.5)
    colors: dict[str, Any] = {"facecolor": (*_rgb(GREY), 0.12), "edgecolor": (*_rgb(GREY), 0.5)}
    return ax.axvspan(edge, end, hatch="///", linewidth=0.0, zorder=0.4, label="unstable", **colors)


def _mark_diverged(ax: "Axes", rates: FloatArray) -> "Artist":
    style: dict[str, Any] = {"color": text_color(ax), "linestyle": "none", "marker": "x", "markersize": 4.0}
    heights, transform = [_RUG_HEIGHT] * rates.size, ax.get_xaxis_transform()
    return ax.plot(rates, heights, transform=transform, zorder=4.5, label="diverged", **style)[0]


def _rgb(color: Any) -> tuple[float, float, float]:
    from matplotlib import colors

    return colors.to_rgb(color)

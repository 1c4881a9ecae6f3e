"""The picture of a range test: the loss against the rate, and how it changes there."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from autolr._plot_axes import (
    GREEN,
    GREY,
    ORANGE,
    VERMILLION,
    LossRange,
    curve_color,
    inches_high,
    is_dark,
    pair_of_axes,
    place_shared_legend,
    set_axis,
    set_loss_axis,
    text_color,
)
from autolr._text import format_rate

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_LOW = 1.4  # inches: axes below this height have small labels


def plot_range(
    runs: pd.DataFrame,
    history: pd.DataFrame,
    *,
    pick: tuple[float, float, float] | None = None,
    steepest: float | None = None,
    logarithmic: bool = True,
    loss: str = "loss",
    axes: "tuple[Axes, Axes] | None" = None,
) -> "tuple[Axes, Axes]":
    """Draw a range test.

    Above, the losses of all iterations (faint), the mean smoothed loss with its 95% intervals where there are several
    repeats, the suggestion as a line, and the span of the repeats' own suggestions shaded; the end of a rise may leave
    the axes, so that the fall can be seen. Below, the change of the smoothed loss per decade of the rate, on a
    symmetric-log axis, and its steepest fall.

    Args:
        runs: The runs of a :class:`RangeTest`.
        history: Its history.
        pick: The suggestion with the lowest and the highest one of the repeats (NaN: there is one only); or ``None``.
        steepest: The rate of the row at which the loss falls most steeply, to be marked; or ``None``.
        logarithmic: Whether the axis of the rates is.
        loss: The label of the losses.
        axes: Where to draw: two axes; by default those of a new figure.

    Returns:
        The two axes.

    Raises:
        TypeError: If ``axes`` are not two axes.
    """
    upper, lower = pair_of_axes(axes, figsize=(6.4, 5.0), shape=(2, 1), height_ratios=(3, 2))
    rates = history["learning_rate"].to_numpy(dtype=np.float64)
    every = [*rates, *([] if pick is None else [value for value in pick if np.isfinite(value)])]
    left, right = min(every), max(every)
    margin = (right / left) ** 0.02 if logarithmic else 0.02 * (right - left)
    for ax in (upper, lower):
        ends = (left / margin, right * margin) if logarithmic else (left - margin, right + margin)
        set_axis(ax, *ends, logarithmic=logarithmic)
    handles = _draw_losses(upper, runs, history, pick)
    handles += _draw_changes(lower, history, steepest)
    stacked = upper.figure is lower.figure and abs(upper.bbox.x0 - lower.bbox.x0) < 1.0
    _label(upper, "" if stacked else "learning rate", loss)
    _label(lower, "learning rate", "change of loss\nper decade")
    upper.tick_params(labelbottom=not stacked)
    place_shared_legend(upper, lower, handles, faint="iterations")
    return upper, lower


def _draw_losses(
    ax: "Axes", runs: pd.DataFrame, history: pd.DataFrame, pick: tuple[float, float, float] | None
) -> "list[Artist]":
    opacity = 0.5 if is_dark(ax) else 0.25
    rates, smoothed = (history[name].to_numpy(dtype=np.float64) for name in ("learning_rate", "smoothed_loss"))
    handles: list[Artist] = []
    for _, run in runs.groupby("repeat"):
        lines = ax.plot(run["learning_rate"], run["loss"], color=GREY, linewidth=0.7, alpha=0.6, label="iterations")
        handles = list(lines)
    color, marker = curve_color(ax), "." if np.isfinite(smoothed).sum() == 1 else ""
    handles += ax.plot(rates, smoothed, color=color, marker=marker, linewidth=1.6, label="smoothed")
    if "low" in history:
        low, high = (history[name].to_numpy(dtype=np.float64) for name in ("low", "high"))
        known = np.isfinite(low) & np.isfinite(high)
        band = ax.fill_between(
            rates[known], low[known], high[known], color=color, alpha=opacity, linewidth=0.0, label="95% of the mean"
        )
        handles.append(band)
    if pick is not None:
        if np.isfinite(pick[1]):
            words = "suggestions of the runs"
            handles.append(ax.axvspan(pick[1], pick[2], color=GREEN, alpha=opacity, linewidth=0.0, label=words))
        label = f"suggestion: {format_rate(pick[0])}"
        handles.append(ax.axvline(pick[0], color=VERMILLION, linewidth=1.4, label=label))
    ends = [np.quantile(values[np.isfinite(values)], [0.0, 0.94]) for values in (smoothed, runs["loss"].to_numpy())]
    low_end, high_end = float(np.min(ends)), float(np.max(ends))
    if low_end > 0.0 and high_end > 30.0 * low_end:
        set_axis(ax, low_end / 1.3, high_end * 1.3, logarithmic=True, axis="y")
    else:
        margin = 0.08 * (high_end - low_end) or 0.1 * abs(high_end) or 1.0
        set_axis(ax, low_end - margin, high_end + margin, logarithmic=False, axis="y")
    return handles


def _draw_changes(ax: "Axes", history: pd.DataFrame, steepest: float | None) -> "list[Artist]":
    finite = history[np.isfinite(history["delta"])]
    rates, delta, losses = (finite[name].to_numpy(np.float64) for name in ("learning_rate", "delta", "smoothed_loss"))
    ax.axhline(0.0, color=text_color(ax), linewidth=0.6)
    if not delta.size:
        return []
    ax.plot(rates, delta, color=curve_color(ax), linewidth=1.2)
    least = 1e-9 * float(np.abs(losses).max())  # smaller changes are errors of rounding
    low, high = min(-least, float(delta.min())), max(least, float(delta.max()))
    set_loss_axis(ax, LossRange(low, high, -low or high or 1.0), logarithmic=True)
    if steepest is None:
        return []
    row = int(np.abs(rates - steepest).argmin())
    label = f"steepest: {format_rate(float(rates[row]))}"
    return list(
        ax.plot(rates[row], delta[row], "o", color=ORANGE, markeredgecolor=text_color(ax), markersize=5.0, label=label)
    )


def _label(ax: "Axes", x: str, y: str) -> None:
    size = "medium" if inches_high(ax) > _LOW else "x-small"
    ax.set_xlabel(x, size=size)
    ax.set_ylabel(y, size=size)
    ax.tick_params(labelsize=size)

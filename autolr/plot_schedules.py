"""Pictures of schedules: the training losses under each of them, and their rates against the step."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from autolr._plot_axes import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    is_dark,
    label_axes,
    one_axes,
    pair_of_axes,
    place_legend,
    place_shared_legend,
    set_axis,
    text_color,
)
from autolr._typing import FloatArray
from autolr._validation import check_array, invalid

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

# without the palette's yellow, which cannot be seen on white; ``None`` is the colour of the text
_COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, None)
_STYLES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))
_WIDEST, _NARROWEST = 2.4, 1.2  # points: where curves are equal, the earlier ones are seen on both sides of the later
_LEGEND_LINES = 2.8  # font sizes: enough to show a line style
_STEPS_OF_SMOOTHING = 50  # the running mean is over this share of the steps


def plot_comparison(
    history: pd.DataFrame, labels: Sequence[str], *, axes: "tuple[Axes, Axes] | None" = None
) -> "tuple[Axes, Axes]":
    """Draw what a comparison of schedules went through.

    On the left, the training losses before each step, as running means over a fiftieth of the steps: the mean over the
    repeats as a line, from the smallest to the largest of them shaded. Where a repeat diverged, the line ends with a
    cross. On the right, the rates of the first parameter group, the mean over the repeats. The schedules are told apart
    by colour and by line style; the legend stands above both axes, so that it covers no data: a figure of your own
    should have ``layout="constrained"``.

    Args:
        history: The history of a :class:`ScheduleComparison`.
        labels: The schedules, in the order in which they are drawn.
        axes: Where to draw: two axes; by default those of a new figure.

    Returns:
        The two axes.

    Raises:
        TypeError: If ``axes`` are not two axes.
    """
    left, right = pair_of_axes(axes)
    curves = {label: _Curves(history[history["schedule"] == label]) for label in labels}
    handles = _draw_losses(left, curves)
    _draw_rates(right, {label: curve.rates for label, curve in curves.items()})
    place_shared_legend(left, right, handles, length=_LEGEND_LINES)
    return left, right


def plot_rates(rates: Mapping[str, ArrayLike], *, ax: "Axes | None" = None) -> "Axes":
    """Draw learning rates, or factors of them, against the step: one schedule, or several with a legend above.

    Args:
        rates: The rates in each step, shape ``(T,)``, under the label of each schedule.
        ax: Where to draw; by default a new figure.

    Returns:
        The axes.

    Raises:
        TypeError: If ``rates`` is no mapping of arrays of numbers, or ``ax`` are no axes.
        ValueError: If there are none, or an array is not one-dimensional.

    Example:
        >>> ax = plot_rates({"halved": [1.0, 0.5, 0.25]})
        >>> ax.get_lines()[0].get_ydata()
        array([1.  , 0.5 , 0.25])
    """
    if not isinstance(rates, Mapping):
        raise TypeError(invalid("rates", "be a mapping from labels to rates", rates))
    read = {str(label): check_array(f"rates[{label!r}]", values) for label, values in rates.items()}
    if not read or any(values.ndim != 1 or not values.size for values in read.values()):
        shapes = {label: values.shape for label, values in read.items()}
        raise ValueError(invalid("rates", "hold rates of the shape (T,)", shapes))
    ax = one_axes(ax)
    handles = _draw_rates(ax, read)
    if len(handles) > 1:
        place_legend(ax, handles, gap=4.0, faint="", length=_LEGEND_LINES)
    return ax


class _Curves:
    """One schedule against the step.

    Attributes:
        rates: Means over the repeats, shape ``(T,)``; NaN after every repeat has been given up.
        mean: Smoothed losses, the mean over the repeats, up to where the first of them was given up, shape ``(S,)``.
        low: The smallest of them over the repeats, shape ``(S,)``.
        high: The largest of them, shape ``(S,)``.
        diverged: Whether a repeat was given up.
    """

    def __init__(self, steps: pd.DataFrame) -> None:
        table = steps.pivot_table(index="step", columns="repeat", values=["learning_rate", "loss"], dropna=False)
        self.rates: FloatArray = np.nanmean(table["learning_rate"].to_numpy(dtype=np.float64), axis=1)
        losses = table["loss"].to_numpy(dtype=np.float64)
        finite = np.isfinite(losses).all(axis=1)
        self.diverged = not finite.all()
        kept = pd.DataFrame(losses[: len(finite) if finite.all() else int(finite.argmin())])
        window = 2 * (len(losses) // (2 * _STEPS_OF_SMOOTHING)) + 1
        smooth = kept.rolling(window, min_periods=1, center=True).mean()
        self.mean, self.low, self.high = (
            values.to_numpy(dtype=np.float64)
            for values in (smooth.mean(axis=1), smooth.min(axis=1), smooth.max(axis=1))
        )


def _style(ax: "Axes", number: int, of: int) -> dict[str, Any]:
    """Return colour and line style of a schedule: no two of the first 28 share both."""
    width = _WIDEST - (_WIDEST - _NARROWEST) * number / max(1, of - 1) if of > 1 else 1.6
    color = _COLORS[number % len(_COLORS)]
    style = _STYLES[number % len(_STYLES)]
    return {"color": color or text_color(ax), "linestyle": style, "linewidth": width, "zorder": 3.0 + 0.01 * number}


def _draw_losses(ax: "Axes", curves: Mapping[str, _Curves]) -> "list[Artist]":
    label_axes(ax, "step", "training loss")
    ax.locator_params(axis="x", integer=True)
    handles: list[Artist] = []
    survivors = [curve for curve in curves.values() if not curve.diverged] or list(curves.values())
    seen = np.concatenate([np.concatenate([curve.low, curve.mean]) for curve in survivors])
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0)
    opacity = 0.3 if is_dark(ax) else 0.15
    for number, (label, curve) in enumerate(curves.items()):
        style = _style(ax, number, len(curves))
        steps = np.arange(curve.mean.size)
        handles += ax.plot(steps, curve.mean, label=label, **style)
        ax.fill_between(steps, curve.low, curve.high, color=style["color"], alpha=opacity, linewidth=0.0, zorder=2.0)
        if curve.diverged and steps.size:
            last = min(max(float(curve.mean[-1]), low), high)
            ax.plot(steps[-1:], [last], "x", color=style["color"], markersize=7.0, markeredgewidth=2.0, clip_on=False)
    if low > 0.0 and high > 3.0 * low:
        set_axis(ax, low / 1.15, high * 1.3, logarithmic=True, axis="y")
    else:
        margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        set_axis(ax, low - margin, high + margin, logarithmic=False, axis="y")
    return handles


def _draw_rates(ax: "Axes", rates: Mapping[str, FloatArray]) -> "list[Artist]":
    handles: list[Artist] = []
    for number, (label, values) in enumerate(rates.items()):
        handles += ax.plot(values, label=label, drawstyle="steps-post", **_style(ax, number, len(rates)))
    lowest, highest = (float(end([end(values) for values in rates.values()])) for end in (np.nanmin, np.nanmax))
    label_axes(ax, "step", "learning rate")
    ax.locator_params(axis="x", integer=True)
    margin = 0.05 * (highest - min(lowest, 0.0)) or 1.0
    set_axis(ax, 0.0 if lowest >= 0.0 else lowest - margin, highest + margin, logarithmic=False, axis="y")
    return handles

"""The picture of an expansion: the true losses, the line and the parabola, and where the parabola is lowest."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from autolr._plot_axes import (
    GREEN,
    SKY,
    VERMILLION,
    LossRange,
    one_axes,
    place_legend,
    set_axis,
    set_loss_axis,
    text_color,
)
from autolr._text import format_rate
from autolr._typing import FloatArray

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes


def plot_taylor(
    learning_rates: FloatArray,
    losses: FloatArray,
    fine: FloatArray,
    orders: Mapping[int, FloatArray],
    *,
    minimizer: float,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw true losses against the rate, with expansions of order 1 and 2.

    The range of losses is that of the true losses and of the parabola, so that the line may leave it; true losses that
    rise further above the loss at rate 0 than the parabola falls below it leave it too.

    Args:
        learning_rates: The rates at which the loss was measured, shape ``(K,)``; there may be none.
        losses: The losses there, shape ``(K,)``; what is not finite is not drawn.
        fine: The rates at which the expansions are drawn, increasing, shape ``(F,)``.
        orders: The expansions of order 1 and 2 there, each of shape ``(F,)``.
        minimizer: The rate at which the parabola is lowest, marked if it is inside of the picture.
        ax: Where to draw; by default the axes of a new figure.

    Returns:
        The axes.

    Raises:
        TypeError: If ``ax`` are no axes.
    """
    ax = one_axes(ax)
    set_axis(ax, float(fine[0]), float(fine[-1]), logarithmic=False)
    handles: list[Artist] = []
    finite = np.isfinite(losses)
    if finite.any():  # above the parabola, which covers it where it is right
        style = {"color": text_color(ax), "linewidth": 0.8, "marker": ".", "markersize": 4.0, "zorder": 3.0}
        handles += ax.plot(learning_rates[finite], losses[finite], label="loss", **style)
    handles += ax.plot(fine, orders[1], "--", color=SKY, linewidth=1.6, label="order 1")
    handles += ax.plot(fine, orders[2], color=VERMILLION, linewidth=2.0, label="order 2")
    if fine[0] < minimizer < fine[-1]:
        label = f"minimizer: {format_rate(minimizer)}"
        handles.append(ax.axvline(minimizer, color=GREEN, linewidth=1.4, linestyle=":", label=label))
    parabola = orders[2]
    low = float(min([parabola.min(), *losses[finite]]))
    high = float(max([parabola.max(), *losses[finite & (losses <= 2.0 * parabola.max() - low)]]))
    set_loss_axis(ax, LossRange(low, high, max(abs(low), abs(high))), logarithmic=False)
    ax.set_xlabel("learning rate")
    ax.set_ylabel("loss")
    place_legend(ax, handles, gap=4.0, faint="")
    return ax

"""The picture of a search: losses against the step at every rate, and the finalists with parabola and interval."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from autolr._plot_axes import (
    LOW,
    inches_high,
    label_axes,
    label_size,
    pair_of_axes,
    place_legend,
    set_rate_axis,
    text_color,
)
from autolr._text import format_rate

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

# Okabe and Ito (2008), as in autolr.plotting
_GREEN, _VERMILLION = "#009E73", "#D55E00"
_SMOOTHING = 5  # steps of the running mean; the single losses are drawn faintly behind it


def plot_search(
    trace: pd.DataFrame, decision: Mapping[str, Any], *, axes: "tuple[Axes, Axes] | None" = None
) -> "tuple[Axes, Axes]":
    """Draw what a search tried and what it made of it.

    On the left, the losses before each step against the step, of the first stream, coloured by the rate from violet
    (small) to yellow (large): faintly, with running means of five steps; a cross where a rate was given up. On the
    right, the losses by which the finalists were judged against their rates, the parabola through them where there are
    three that it takes as they are, the rate for the run as a line, and its interval shaded.

    Args:
        trace: The trace of a :class:`SearchResult`.
        decision: Its decision.
        axes: Where to draw: two axes; by default those of a new figure.

    Returns:
        The two axes.

    Raises:
        TypeError: If ``axes`` are not two axes.
    """
    left, right = pair_of_axes(axes, width_ratios=(3, 2))
    _draw_courses(left, trace[trace["stream"] == 0])
    _draw_finalists(right, decision)
    return left, right


def _draw_courses(ax: "Axes", trace: pd.DataFrame) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    steps = trace[~trace["stage"].isin(["held-out", "untrained"])]
    rates = [float(rate) for rate in np.unique(steps["learning_rate"])]
    courses = {rate: steps[steps["learning_rate"] == rate] for rate in rates}
    whole = (steps["stage"] == "scan").groupby(steps["learning_rate"]).sum().max()
    survived = [rate for rate in rates if len(courses[rate]) >= whole]
    seen = steps.loc[steps["learning_rate"].isin(survived or rates), "loss"].to_numpy(dtype=float)
    seen = seen[np.isfinite(seen)] if np.isfinite(seen).any() else np.array([0.0, 1.0])
    low, high = float(seen.min()), float(np.quantile(seen, 0.98))
    positive = low > 0.0 and high > 3.0 * low
    norm = LogNorm(min(survived or rates) / 1.5, max(survived or rates) * 1.5, clip=True)
    colors = colormaps["viridis"]
    for rate, course in courses.items():
        color = colors(norm(rate))
        losses = course["loss"].to_numpy(dtype=float)
        ax.plot(course["step"], losses, color=color, linewidth=0.6, alpha=0.35)
        smooth = pd.Series(losses).rolling(_SMOOTHING, min_periods=1, center=True).mean()
        ax.plot(course["step"], smooth, color=color, linewidth=1.5, label=format_rate(rate))
        if rate not in survived:
            last = losses[-1] if np.isfinite(losses[-1]) else high
            ax.plot(course["step"].iloc[-1:], [min(last, high)], "x", color=color, markersize=6.0, clip_on=False)
    margin = 0.06 * (high - low) if high > low else 0.1 * abs(high) + 1e-12
    if positive:
        ax.set_yscale("log")
        ax.set_ylim(low / 1.15, high * 1.15)
    else:
        ax.set_ylim(low - margin, high + margin)
    label_axes(ax, "step", "loss of the batch")
    bar = ax.figure.colorbar(ScalarMappable(norm, colors), ax=ax, pad=0.02)
    most = max(2, int(inches_high(ax) * 3.0))  # labels that fit beside each other
    bar.ax.yaxis.set_major_locator(FixedLocator((survived or rates)[:: -(-len(survived or rates) // most)]))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_rate(value)))
    bar.ax.tick_params(labelsize=label_size(ax))
    label_axes(bar.ax, "", "learning rate")


def _draw_finalists(ax: "Axes", decision: Mapping[str, Any]) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.ticker import LogLocator

    finalists = [item for item in decision["finalists"] if item["loss"] is not None]
    rates = np.array([item["learning_rate"] for item in finalists])
    losses = np.array([item["loss"] for item in finalists])
    low, high, pick = decision["low"], decision["high"], decision["learning_rate"]
    every = [*rates, low, high, pick, *(item["learning_rate"] for item in decision["finalists"])]
    set_rate_axis(ax, min(every) / 1.6, max(every) * 1.6, logarithmic=True)
    if inches_high(ax) <= LOW:
        ax.xaxis.set_major_locator(LogLocator(numticks=3))
    opacity = 0.45 if sum(to_rgb(text_color(ax))) > 1.5 else 0.2  # dark: a fifth of green cannot be told from black
    handles: list[Artist] = [ax.axvspan(low, high, color=_GREEN, alpha=opacity, linewidth=0.0, label="interval")]
    handles.append(ax.axvline(pick, color=_VERMILLION, linewidth=1.4, label=f"for the run: {format_rate(pick)}"))
    label = f"after {decision['last_step']} steps"
    handles += ax.plot(rates, losses, "o", color=text_color(ax), markersize=5.0, label=label)
    if rates.size == 3 and len(decision["vertices"]) == 1:
        x = np.log10(rates)
        logs = decision["measure"] == "log loss"
        parabola = np.polynomial.Polynomial.fit(x, np.log(losses) if logs else losses, 2)
        lowest = parabola.deriv().roots()
        # NOTE: elsewhere a loss counts as less than it is, and this is not the parabola that was used
        if lowest.size and abs(lowest[0] - np.log10(decision["vertices"][0])) < 1e-6:
            fine = np.linspace(x.min() - 0.1, x.max() + 0.1, 100)
            heights = np.exp(parabola(fine)) if logs else parabola(fine)
            handles += ax.plot(10.0**fine, heights, color=text_color(ax), linewidth=1.0, label="parabola")
    words = {"held-out": "held-out loss", "online": "loss of the last steps", "scan": "loss in the scan"}
    label_axes(ax, "learning rate", words[decision["judged_by"]])
    place_legend(ax, handles, gap=4.0, faint="")

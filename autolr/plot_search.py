"""The picture of a search: losses against the step at every rate, and the finalists with parabola and interval."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from autolr._plot_axes import set_rate_axis, text_color
from autolr._text import format_rate
from autolr._validation import invalid

if TYPE_CHECKING:
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
    three, the rate for the run as a line, and its interval shaded.

    Args:
        trace: The trace of a :class:`SearchResult`.
        decision: Its decision.
        axes: Where to draw: two axes; by default those of a new figure.

    Returns:
        The two axes.

    Raises:
        TypeError: If ``axes`` are not two axes.
    """
    from matplotlib.axes import Axes

    if axes is None:
        from matplotlib import pyplot as plt

        _, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.8), layout="constrained", width_ratios=(3, 2))
    else:
        pair = tuple(np.ravel(np.asarray(axes, dtype=object)))
        if len(pair) != 2 or not all(isinstance(ax, Axes) for ax in pair):
            raise TypeError(invalid("axes", "be two matplotlib Axes or None", axes))
        left, right = pair
    _draw_courses(left, trace[trace["stream"] == 0])
    _draw_finalists(right, decision)
    return left, right


def _draw_courses(ax: "Axes", trace: pd.DataFrame) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

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
    ax.set_xlabel("step")
    ax.set_ylabel("loss of the batch")
    bar = ax.figure.colorbar(ScalarMappable(norm, colors), ax=ax, pad=0.02)
    bar.ax.yaxis.set_major_locator(LogLocator())
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_rate(value)))
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    bar.set_label("learning rate")


def _draw_finalists(ax: "Axes", decision: Mapping[str, Any]) -> None:
    finalists = [item for item in decision["finalists"] if item["loss"] is not None]
    rates = np.array([item["learning_rate"] for item in finalists])
    losses = np.array([item["loss"] for item in finalists])
    low, high, pick = decision["low"], decision["high"], decision["learning_rate"]
    every = [*rates, low, high, pick, *(item["learning_rate"] for item in decision["finalists"])]
    set_rate_axis(ax, min(every) / 1.6, max(every) * 1.6, logarithmic=True)
    ax.axvspan(low, high, color=_GREEN, alpha=0.2, linewidth=0.0, label="interval")
    ax.axvline(pick, color=_VERMILLION, linewidth=1.4, label=f"for the run: {format_rate(pick)}")
    ax.plot(rates, losses, "o", color=text_color(ax), markersize=5.0, label="finalists")
    if rates.size == 3 and len(decision["vertices"]) == 1:
        x = np.log10(rates)
        logs = decision["measure"] == "log loss"
        parabola = np.polynomial.Polynomial.fit(x, np.log(losses) if logs else losses, 2)
        fine = np.linspace(x.min() - 0.1, x.max() + 0.1, 100)
        heights = parabola(fine)
        ax.plot(10.0**fine, np.exp(heights) if logs else heights, color=text_color(ax), linewidth=1.0, label="parabola")
    words = {"held-out": "held-out loss", "online": "loss of the last steps", "scan": "loss in the scan"}
    steps = decision["last_step"]
    ax.set_ylabel(f"{words[decision['judged_by']]} after {steps} steps")
    ax.set_xlabel("learning rate")
    ax.legend(fontsize="small", frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

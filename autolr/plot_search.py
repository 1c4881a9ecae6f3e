"""The picture of a search: losses against the step at every rate, and the best rate against the horizon."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from autolr._plot_axes import (
    VERMILLION,
    inches_high,
    is_dark,
    label_axes,
    pair_of_axes,
    place_shared_legend,
    set_axis,
    text_color,
)
from autolr._text import format_rate
from autolr._typing import FloatArray

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, LogNorm

_SMOOTHING = 5  # steps of the running mean; the single losses are drawn faintly behind it
_JUDGED = {"held-out": "finals, held out", "online": "finals", "scan": "scan"}


def plot_search(
    trace: pd.DataFrame,
    decision: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    axes: "tuple[Axes, Axes] | None" = None,
) -> "tuple[Axes, Axes]":
    """Draw what a search tried and what it made of it.

    On the left, the losses before each step against the step, of the first stream, coloured by the rate, the darker
    the smaller: faintly, with running means of five steps; a cross where a rate was given up; at the end,
    a diamond at the held-out loss by which a finalist was judged.

    On the right, the best rate against the number of steps, both logarithmic. What was measured is solid: the best of
    the rates that were tried (:func:`best_by_step`), a line for each stream, and a point for each stream where the
    parabola through its finalists is lowest, after their rates fell to 0. What was not is dashed: from there, the law
    by which the best rate of a run falls with its length, to the rate for the run with its calibrated interval. What
    the schedule's mean factor adds, and the limit at the largest rate that was seen to train, is the step between the
    points and the dashed line.

    Args:
        trace: The trace of a :class:`SearchResult`.
        decision: Its decision.
        settings: Its settings.
        axes: Where to draw: two axes; by default those of a new figure.

    Returns:
        The two axes.

    Raises:
        TypeError: If ``axes`` are not two axes.
    """
    left, right = pair_of_axes(axes, width_ratios=(3, 2))
    handles = _draw_courses(left, trace[trace["stream"] == 0])
    handles += _draw_horizons(right, trace, decision, settings)
    place_shared_legend(left, right, handles)
    return left, right


def best_by_step(trace: pd.DataFrame) -> tuple[FloatArray, FloatArray]:
    r"""Return the best of the rates that a stream tried against the number of steps k, from 2 on.

    It is the rate with the smallest mean loss before the steps :math:`\lfloor k / 2 \rfloor + 1, \dots, k`, of those
    that have all of these losses: all that were not given up in the scan, the finalists after it. Of rates that are
    equal, it is the smallest one. It is NaN where no mean is below that of the untrained losses on the same batches,
    as far as these were measured. The annealing, in which rates fall, is left out.

    Args:
        trace: The rows of one stream in the trace of a :class:`SearchResult`.

    Returns:
        The numbers of steps, and the rates, both of shape ``(S,)``.

    Example:
        >>> columns = ["stage", "learning_rate", "step", "loss"]
        >>> losses = [("scan", 0.1, 0, 2.0), ("scan", 0.1, 1, 1.0), ("scan", 1.0, 0, 2.0), ("scan", 1.0, 1, 3.0)]
        >>> best_by_step(pd.DataFrame(losses, columns=columns))
        (array([2.]), array([0.1]))
    """
    steps = trace[trace["stage"].isin(["scan", "final"])]
    table = steps.pivot_table(index="step", columns="learning_rate", values="loss", dropna=False)
    rates, losses = table.columns.to_numpy(dtype=np.float64), table.to_numpy(dtype=np.float64)
    losses = np.where(np.isfinite(losses), losses, np.inf)
    untrained = trace.loc[trace["stage"] == "untrained", "loss"].to_numpy(dtype=np.float64)
    horizons = np.arange(2, len(losses) + 1)
    best = np.full(horizons.size, np.nan)
    for row, k in enumerate(horizons):
        means = losses[k // 2 : k].mean(axis=0)
        lowest = int(means.argmin())
        before = untrained[k // 2 : k].mean() if k <= untrained.size else np.inf
        if means[lowest] < before:
            best[row] = rates[lowest]
    return horizons.astype(np.float64), best


def _draw_courses(ax: "Axes", trace: pd.DataFrame) -> "list[Artist]":
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, LogNorm
    from matplotlib.lines import Line2D

    steps = trace[trace["stage"].isin(["scan", "final", "anneal"])]
    courses = {rate: steps[steps["learning_rate"] == rate] for rate in map(float, np.unique(steps["learning_rate"]))}
    lengths = {rate: len(course) for rate, course in courses.items()}
    whole = {int((steps["stage"] == "scan").groupby(steps["learning_rate"]).sum().max()), max(lengths.values())}
    survived = [
        rate for rate, course in courses.items() if len(course) in whole and np.isfinite(course["loss"].iloc[-1])
    ]
    shown = survived or list(courses)
    judged = trace[(trace["stage"] == "held-out") & np.isfinite(trace["loss"])]
    seen = np.concatenate([steps.loc[steps["learning_rate"].isin(shown), "loss"], judged["loss"]])
    seen = seen[np.isfinite(seen)] if np.isfinite(seen).any() else np.array([0.0, 1.0])
    high = float(np.quantile(seen, 0.98))
    low = float(seen[seen > 0.0].min() if seen.min() == 0.0 and high > 0.0 else seen.min())  # a fit may be exact
    norm, ends = LogNorm(min(shown) / 1.5, max(shown) * 1.5, clip=True), (0.2, 1.0) if is_dark(ax) else (0.0, 0.88)
    colors = ListedColormap(colormaps["viridis"](np.linspace(*ends, 256)))  # without what the background hides
    cross: dict[str, Any] = {"marker": "x", "linestyle": "none", "markersize": 6.0}
    for rate, course in courses.items():
        color, losses = colors(norm(rate)), course["loss"]
        ax.plot(course["step"], losses, color=color, linewidth=0.6, alpha=0.35)
        smooth = losses.rolling(_SMOOTHING, min_periods=1, center=True).mean()
        ax.plot(course["step"], smooth, color=color, linewidth=1.5, label=format_rate(rate))
        if rate not in survived:
            last = losses.iloc[-1] if np.isfinite(losses.iloc[-1]) else high
            ax.plot(course["step"].iloc[-1:], [min(last, high)], color=color, clip_on=False, **cross)
    for _, row in judged.iterrows():
        ax.plot(
            row["step"],
            row["loss"],
            "D",
            color=colors(norm(row["learning_rate"])),
            markeredgecolor=text_color(ax),
            markersize=4.0,
            clip_on=False,
            zorder=4.0,
        )
    label_axes(ax, "step", "loss of the batch")
    ax.locator_params(axis="x", integer=True)
    if low > 0.0 and high > 3.0 * low:
        set_axis(ax, low / 1.15, high * 1.15, logarithmic=True, axis="y")
    else:
        margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        set_axis(ax, low - margin, high + margin, logarithmic=False, axis="y")
    _draw_bar(ax, norm, colors, shown)
    legend = Line2D([], [], color=text_color(ax), label="given up", **cross)
    return [legend] if len(survived) < len(courses) else []


def _draw_bar(ax: "Axes", norm: "LogNorm", colors: "Colormap", rates: list[float]) -> None:
    """Draw the colours of the rates beside the axes, with a tick at as many rates as have room."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    bar = ax.figure.colorbar(ScalarMappable(norm, colors), ax=ax, pad=0.02)
    most = max(2, int(inches_high(ax) * 3.0))
    bar.ax.yaxis.set_major_locator(FixedLocator(rates[:: -(-len(rates) // most)]))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_rate(value)))
    label_axes(bar.ax, "", "learning rate")


def _draw_horizons(
    ax: "Axes", trace: pd.DataFrame, decision: Mapping[str, Any], settings: Mapping[str, Any]
) -> "list[Any]":
    color, total = text_color(ax), settings["total_steps"]
    low, high, pick, reached = decision["low"], decision["high"], decision["learning_rate"], decision["num_steps"]
    seen = [low, high, pick, *decision["vertices"]]
    handles: list[Any] = []  # an error bar is a container of artists
    for _, stream in trace.groupby("stream"):
        horizons, best = best_by_step(stream)
        line: dict[str, Any] = {"color": color, "linewidth": 1.2, "alpha": 0.7, "drawstyle": "steps-post"}
        handles = list(ax.plot(horizons, best, label="best so far", **line))
        seen += [float(rate) for rate in best[np.isfinite(best)]]
    point: dict[str, Any] = {"color": color, "linestyle": "none", "marker": "D", "markersize": 4.0}
    steps = [reached] * len(decision["vertices"])
    handles += ax.plot(steps, decision["vertices"], label=_JUDGED[decision["judged_by"]], **point)
    if total > reached:
        lengths = np.geomspace(reached, total, 50)
        law = pick * (total / lengths) ** (0.0 if decision["capped"] else settings["exponent"])
        label = f"law ({settings['schedule']})"
        handles += ax.plot(lengths, law, "--", color=VERMILLION, linewidth=1.4, label=label)
        seen.append(float(law[0]))
    bar: dict[str, Any] = {"color": VERMILLION, "capsize": 3.0, "elinewidth": 1.4, "markersize": 5.0}
    label = f"{'for the run' if decision['doubt'] is None else 'in doubt'}: {format_rate(pick)}"
    handles.append(ax.errorbar([total], [pick], [[pick - low], [high - pick]], fmt="o", label=label, **bar))
    label_axes(ax, "steps", "best learning rate")
    last = max(total, reached)
    set_axis(ax, 1.5, last * (last / 1.5) ** 0.08, logarithmic=True)
    set_axis(ax, min(seen) / 1.6, max(seen) * 1.6, logarithmic=True, axis="y")
    return handles

"""What the pictures share: colours, and axes with scales, ticks and a legend that cover no data at any size."""

import math
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from autolr._text import format_rate
from autolr._validation import invalid

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.ticker import Formatter

# The palette of Okabe and Ito (2008), Color universal design: told apart with any kind of colour vision.
BLUE, SKY, GREEN, ORANGE = "#0072B2", "#56B4E9", "#009E73", "#E69F00"
VERMILLION, PURPLE, GREY = "#D55E00", "#CC79A7", "#999999"
LOW = 2.2  # inches: axes below this height have small labels
# which parts of a decade have a tick, on axes of at most this many decades
_SUBS = ((1.2, (1.0, 2.0, 5.0)), (2.5, (1.0, 3.0)))
_SYMLOG_SPAN = 30.0  # on a linear grid: beyond this multiple of the best fall, a linear axis would hide the fall


def one_axes(ax: Any) -> "Axes":
    """Return axes that are given, or those of a new figure.

    Raises:
        TypeError: If ``ax`` are no axes.
    """
    from matplotlib.axes import Axes

    if ax is None:
        from matplotlib import pyplot as plt

        _, ax = plt.subplots(layout="constrained")
    if not isinstance(ax, Axes):
        raise TypeError(invalid("ax", "be a matplotlib Axes or None", ax))
    return ax


def pair_of_axes(
    axes: Any, *, figsize: tuple[float, float] = (9.0, 3.8), shape: tuple[int, int] = (1, 2), **ratios: Any
) -> "tuple[Axes, Axes]":
    """Return two axes that are given in any container, or those of a new figure, beside or above each other.

    Args:
        axes: What is given, or ``None``.
        figsize: Of a new figure, in inches.
        shape: Its rows and columns.
        **ratios: ``width_ratios`` or ``height_ratios`` of its axes.

    Raises:
        TypeError: If ``axes`` are not two axes.
    """
    from matplotlib.axes import Axes

    if axes is None:
        from matplotlib import pyplot as plt

        _, axes = plt.subplots(*shape, figsize=figsize, layout="constrained", **ratios)
    pair = tuple(np.ravel(np.asarray(axes, dtype=object)))
    if len(pair) != 2 or not all(isinstance(ax, Axes) for ax in pair):
        raise TypeError(invalid("axes", "be two matplotlib Axes or None", axes))
    return pair


class LossRange(NamedTuple):
    low: float
    high: float
    scale: float  # the size of the differentials that matter: the fall of the loss at its best


def set_axis(ax: "Axes", low: float, high: float, *, logarithmic: bool, axis: Literal["x", "y"] = "x") -> None:
    """Set scale, range and ticks of rates or steps, or of losses that are not symmetric-logarithmic."""
    from matplotlib import ticker

    ax.set(**{f"{axis}scale": "log" if logarithmic else "linear", f"{axis}lim": (low, high)})
    along = ax.xaxis if axis == "x" else ax.yaxis
    label = (3.2 if axis == "x" else 1.6) * _tick_size(ax) / 72.0
    room = max(2, int(0.75 * _inches(ax)["xy".index(axis)] / label))
    decades = math.log10(high / low) if logarithmic else 0.0
    if decades > 0.6:
        subs = next((subs for most, subs in _SUBS if decades <= most and len(subs) * decades <= room + 1), (1.0,))
        along.set_major_locator(ticker.LogLocator(subs=subs, numticks=room))
    else:
        most_bins = min(room, 4 if logarithmic else 7)
        along.set_major_locator(ticker.MaxNLocator(nbins=most_bins, steps=[1, 2, 5, 10]))
    along.set_major_formatter(_formatter(low, high, plain_from=-1 if logarithmic else -2))
    along.set_minor_formatter(ticker.NullFormatter())


def set_loss_axis(ax: "Axes", losses: LossRange, *, logarithmic: bool) -> tuple[float, float]:
    """Set scale, range and ticks of the losses; return the range with its margins."""
    from matplotlib import ticker

    largest = max(abs(losses.low), abs(losses.high))
    symlog = logarithmic or largest > _SYMLOG_SPAN * losses.scale
    threshold = 1.25 * max(losses.scale, min(abs(losses.low), 2.0 * losses.scale))
    if symlog:
        # NOTE: the linear part, where the minimum is, gets as much height as all decades beyond it.
        decades = math.log10(max(1.0, largest / threshold))
        ax.set_yscale("symlog", linthresh=threshold, linscale=max(1.0, 0.9 * decades))
    else:
        ax.set_yscale("linear")
    transform = ax.yaxis.get_transform()
    ends = np.asarray(transform.transform(np.array([losses.low, losses.high])))
    height = float(ends[1] - ends[0]) or 0.2 * abs(float(ends[0])) or 1.0
    padded = np.array([ends[0] - 0.13 * height, ends[1] + 0.13 * height])
    bottom, top = (float(end) for end in transform.inverted().transform(padded))
    ax.set_ylim(bottom, top)
    spacing = 1.6 * _tick_size(ax) / 72.0 / (0.75 * _inches(ax)[1])
    if symlog:

        def share(value: float) -> float:
            return float((transform.transform(np.array([value]))[0] - padded[0]) / (padded[1] - padded[0]))

        ticks = _symlog_ticks(losses, (bottom, top), threshold, share, spacing)
        ax.yaxis.set_major_locator(ticker.FixedLocator(ticks))
        ax.yaxis.set_minor_locator(ticker.NullLocator())
    else:
        ax.yaxis.set_major_locator(ticker.MaxNLocator(nbins=max(2, min(8, int(1.0 / spacing))), steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(_formatter(bottom, top))
    return bottom, top


def _symlog_ticks(
    losses: LossRange, view: tuple[float, float], threshold: float, share: Callable[[float], float], spacing: float
) -> list[float]:
    """Return round losses in the linear part and decades of the losses beyond it, ``spacing`` (in axes) apart."""
    lower, upper = max(view[0], -threshold), min(view[1], threshold)
    ticks: list[float] = []
    if upper > lower:
        step = _round_up((upper - lower) / max(1.0, (share(upper) - share(lower)) / spacing))
        ticks += [step * i for i in range(math.ceil(lower / step), math.floor(upper / step) + 1)]
    first = math.floor(math.log10(threshold)) + 1
    for sign, end in ((1.0, view[1]), (-1.0, -losses.low)):
        last = math.floor(math.log10(end)) if end > threshold else first - 1
        for exponent in range(first, last + 1):
            tick = sign * 10.0**exponent
            if all(abs(share(tick) - share(other)) >= spacing for other in ticks):
                ticks.append(tick)
    for share_of_fall in (2.5, 1.2):  # so that the fall of the loss can be read off
        below = -_round_up(losses.scale / share_of_fall)
        missing = losses.low <= below and not any(losses.low <= tick < 0.0 for tick in ticks)
        if missing and all(abs(share(below) - share(other)) >= 0.7 * spacing for other in ticks):
            ticks.append(below)
    return sorted(ticks)


def _round_up(value: float) -> float:
    """Return the smallest of ..., 0.1, 0.2, 0.5, 1, 2, 5, 10, ... that is at least ``value``."""
    power = 10.0 ** math.floor(math.log10(value))
    return next((step * power for step in (1.0, 2.0, 5.0) if value <= step * power * (1.0 + 1e-9)), 10.0 * power)


def _formatter(low: float, high: float, *, plain_from: int = -2) -> "Formatter":
    """Return what writes the ticks between two ends with three digits, or as many more as tell them apart."""
    from matplotlib.ticker import FuncFormatter

    largest = max(abs(low), abs(high))
    digits = max(3, min(15, 2 + math.ceil(math.log10(largest / (high - low)))))
    return FuncFormatter(lambda value, _: format_rate(value, digits=digits, plain_from=plain_from))


def place_legend(
    ax: "Axes",
    handles: "list[Artist]",
    *,
    gap: float,
    faint: str,
    width: float | None = None,
    length: float = 1.5,
) -> None:
    """Put the legend above the axes, ``gap`` points away, in as many columns as its width allows.

    The entry ``faint`` is drawn opaque. ``width``, in inches, is a fifth more than that of the axes by default: right
    aligned, the legend may also stand above the labels of the losses. One that is given may be that of several axes
    beside each other. ``length``, in font sizes, is that of the lines: longer ones show a style.
    """
    from matplotlib import font_manager, transforms

    share = (
        0.7 if (width or _inches(ax)[0]) < 4.0 else 0.85
    )  # of the text: small in one column of a paper, larger on a slide
    size = share * font_manager.FontProperties(size="medium").get_size_in_points()
    widths = np.array([0.56 * len(str(handle.get_label())) + length + 1.6 for handle in handles])  # in font sizes
    room = (1.2 * _inches(ax)[0] if width is None else width) * 72.0 / size

    def fits(num_columns: int) -> bool:
        return float(sum(column.max() for column in np.array_split(widths, num_columns))) <= room

    most = next((n for n in range(widths.size, 1, -1) if fits(n)), 1)
    num_rows = math.ceil(widths.size / most)
    num_columns = math.ceil(widths.size / num_rows)  # rows of about one length
    shift = transforms.ScaledTranslation(0.0, gap / 72.0, ax.figure.dpi_scale_trans)
    legend = ax.legend(
        handles=handles,
        ncols=num_columns,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        bbox_transform=ax.transAxes + shift,
        borderaxespad=0.0,
        borderpad=0.0,
        handlelength=length,
        handletextpad=0.4,
        columnspacing=1.0,
        labelspacing=0.25,
        frameon=False,
        fontsize=size,
        labelcolor=text_color(ax),
    )
    for handle, entry in zip(handles, legend.legend_handles, strict=True):
        if entry is not None and handle.get_label() == faint:
            entry.set(alpha=1.0, linewidth=1.0)  # one line alone would be too faint to see
    if width is not None:
        # NOTE: a layout would take the legend for a part of these axes, and make them narrow: it gets the height only.
        legend.set_in_layout(False)
        lines = "\n".join([" "] * num_rows)
        place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
        ax.annotate(lines, (0.0, 1.0), (0.0, gap), verticalalignment="bottom", fontsize=size, **place)


def place_shared_legend(
    left: "Axes", right: "Axes", handles: "list[Artist]", *, faint: str = "", length: float = 1.5
) -> None:
    """Put one legend above both axes, whether they are beside or above each other; see :func:`place_legend`."""
    top = max((left, right), key=lambda ax: (round(ax.bbox.y1), ax.bbox.x1))  # it is right-aligned
    beside = abs(left.bbox.x0 - right.bbox.x0) > 1.0
    ends = sorted((*left.bbox.intervalx, *right.bbox.intervalx))
    width = (ends[-1] - ends[0]) / left.figure.dpi if beside else None
    place_legend(top, handles, gap=4.0, faint=faint, width=width, length=length)


def label_axes(ax: "Axes", x: str, y: str) -> None:
    """Label the axes; where they are low, in small letters and in lines that do not reach above them."""
    ax.set_xlabel(x, size=label_size(ax))
    ax.set_ylabel(y, size=label_size(ax))
    points = 0.5 * 72.0 * _inches(ax)[1]  # what a legend and the labels below may leave of the height
    ax.yaxis.label.set_text(textwrap.fill(y, max(11, int(points / (0.55 * float(ax.yaxis.label.get_fontsize()))))))
    ax.tick_params(labelsize=label_size(ax))


def label_size(ax: "Axes") -> str:
    """Return the size of labels: small where the axes are low."""
    return "medium" if _inches(ax)[1] > LOW else "x-small"


def inches_high(ax: "Axes") -> float:
    """Return the height of the axes, as it is before the layout makes room for labels."""
    return _inches(ax)[1]


def _inches(ax: "Axes") -> tuple[float, float]:
    """Return width and height of the axes, as they are before the layout makes room for labels."""
    return ax.bbox.width / ax.figure.dpi, ax.bbox.height / ax.figure.dpi


def _tick_size(ax: "Axes") -> float:
    """Return the size of the tick labels in points."""
    return float(ax.yaxis.get_major_ticks(1)[0].label1.get_fontsize())


def text_color(ax: "Axes") -> Any:
    """Return the colour that the style gives to labels: it is readable on the style's background."""
    return ax.xaxis.label.get_color()


def is_dark(ax: "Axes") -> bool:
    """Return whether the style has light text, on a dark background: shades need to be stronger there."""
    from matplotlib.colors import to_rgb

    return sum(to_rgb(text_color(ax))) > 1.5


def curve_color(ax: "Axes") -> str:
    """Return the palette's blue that can be seen on the style's background."""
    return SKY if is_dark(ax) else BLUE

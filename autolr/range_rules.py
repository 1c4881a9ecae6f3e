"""The rules that read a learning rate off a range test: of rates and smoothed losses, nothing else.

They are those of the field, kept as they are known so that a name means the same here as elsewhere; each says what it
is known to get wrong. All take the rows that are kept: increasing rates and finite losses, both of shape (n,), n >= 2.
"""

from bisect import bisect_left
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from autolr._typing import FloatArray
from autolr.errors import NoCandidateError

Rule: TypeAlias = Literal["steepest", "valley", "slide", "minimum"]

INTERVAL, THRESHOLD = 15, 0.05  # of "slide", as its author has them


class Pick(NamedTuple):
    """What a rule picks: the row, the rate that it makes of it, and the score of the row, smaller is better."""

    row: int
    learning_rate: float
    score: float


def slopes(learning_rates: FloatArray, losses: FloatArray) -> FloatArray:
    r"""Return the change of the loss per decade of the rate, :math:`dL / d\log_{10} \mathrm{lr}`, at each row.

    Central differences within, of second order also where the rows are not equally far apart, and one-sided ones at
    both ends.

    Args:
        learning_rates: Increasing rates, shape ``(n,)``.
        losses: Losses, shape ``(n,)``.

    Returns:
        Slopes in units of the loss per decade, shape ``(n,)``.

    Example:
        >>> slopes(np.array([0.01, 0.1, 1.0]), np.array([5.0, 4.0, 1.0]))
        array([-1., -2., -3.])
    """
    return np.asarray(np.gradient(losses, np.log10(learning_rates)), dtype=np.float64)


def steepest(learning_rates: FloatArray, losses: FloatArray) -> Pick:
    r"""Pick the rate at which the loss falls most steeply against the log rate, :math:`\arg\min_i` of :func:`slopes`.

    It looks at one place of a noisy curve, and so moves far with the noise. As the loss of a step shows what earlier,
    smaller rates have done, and smoothing delays it further, the place is late.

    References:
        Smith (2017). Cyclical learning rates for training neural networks. WACV, section 3.3, on the test; the rule is
        that of fastai and torch-lr-finder.

    Example:
        >>> steepest(np.array([0.01, 0.1, 1.0, 10.0]), np.array([5.0, 4.0, 1.0, 2.0]))
        Pick(row=1, learning_rate=0.1, score=-2.0)
    """
    slope = slopes(learning_rates, losses)
    return _pick(int(slope.argmin()), learning_rates, slope)


def minimum(learning_rates: FloatArray, losses: FloatArray) -> Pick:
    r"""Pick a tenth of the rate of the smallest loss, :math:`\mathrm{lr}_{\arg\min L} / 10`, which may not be tested.

    The tenth is a habit: nothing in the curve says it. Where the loss is flat about its minimum, the place is noise.

    References:
        Howard and Gugger (2020). fastai: a layered API for deep learning. Information 11(2), 108; its ``minimum``.

    Example:
        >>> minimum(np.array([0.01, 0.1, 1.0]), np.array([3.0, 1.0, 2.0]))
        Pick(row=1, learning_rate=0.01, score=1.0)
    """
    index = int(losses.argmin())
    return Pick(index, float(learning_rates[index]) / 10.0, float(losses[index]))


def valley(learning_rates: FloatArray, losses: FloatArray) -> Pick:
    r"""Pick the middle of the longest fall.

    With the longest strictly falling subsequence of the losses, of :math:`L` rows and the last of them :math:`e`, the
    fall counts as the :math:`L` rows that end just before it, from :math:`e - L` on, and the pick is row
    :math:`e - L + \lfloor L/3 \rfloor + \lfloor L/6 \rfloor`. Of several that are longest, the one that ends first
    counts.

    The rows of a subsequence need not be neighbours: a long plateau that sinks by noise counts like a fall, and the L
    rows before its end may leave the beginning of the fall out.

    Raises:
        NoCandidateError: If the loss falls nowhere.

    References:
        ESRI's rule, as fastai has it (``valley``, its default): Howard and Gugger (2020). fastai: a layered API for
        deep learning. Information 11(2), 108.

    Example:
        Rows 1 to 6 fall: e = 6 and L = 6, so that the pick is row 0 + 2 + 1.

        >>> losses = np.array([2.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 9.0])
        >>> valley(10.0 ** np.arange(-7, 1), losses).row
        3
    """
    end, length = longest_fall(losses)
    if length < 2:
        raise NoCandidateError("The smoothed loss falls nowhere, so that 'valley' has no fall to take the middle of.")
    # NOTE: where all rows fall, the L rows would begin before the first one.
    index = max(0, end - length + length // 3 + length // 6)
    return _pick(index, learning_rates, slopes(learning_rates, losses))


def slide(learning_rates: FloatArray, losses: FloatArray) -> Pick:
    r"""Pick the rate at which a sliding interval no longer sees the loss turn.

    With :math:`g` the change of the loss per row (central differences; of an exponential schedule all rows are equally
    far apart in log rate), an interval of 15 rows slides from the end to the left as long as the slopes at its ends
    differ by :math:`|g_r - g_{r - 15}| > 0.05`; the pick is the left end of the last one that does.

    The threshold has the unit of the loss, and is per row: another scale of the loss, or another number of iterations,
    gives another rate. It needs the rise at the end, and finds it at the same place however the loss fell before.

    Raises:
        NoCandidateError: If there are fewer than 16 rows, or the slopes at the end do not differ that much.

    References:
        Bharatula (2019). Automated learning rate suggester; in fastai as ``slide`` (with a threshold of 0.005): Howard
        and Gugger (2020). fastai: a layered API for deep learning. Information 11(2), 108.

    Example:
        Flat, and then a rise by 1 per row from row 20 on. Row 20 has a slope of 0.5; the interval that ends there, and
        begins at row 5, is the last whose ends differ.

        >>> losses = np.maximum(0.0, np.arange(30.0) - 20.0)
        >>> slide(10.0 ** np.linspace(-7, 0, 30), losses).row
        5
    """
    if losses.size <= INTERVAL:
        raise NoCandidateError(f"'slide' needs at least {INTERVAL + 1} rows that are kept, got {losses.size}.")
    per_row = np.gradient(losses)
    differ = np.abs(per_row[INTERVAL:] - per_row[:-INTERVAL]) > THRESHOLD
    if not differ[-1]:
        raise NoCandidateError(
            f"The slope of the smoothed loss does not change by {THRESHOLD} per row at the end, so that 'slide' has no"
            " rise to slide away from."
        )
    same = np.flatnonzero(~differ)
    index = int(same[-1]) + 1 if same.size else 0
    return _pick(index, learning_rates, slopes(learning_rates, losses))


RULES: dict[Rule, Callable[[FloatArray, FloatArray], Pick]] = {
    "steepest": steepest,
    "valley": valley,
    "slide": slide,
    "minimum": minimum,
}


def longest_fall(losses: FloatArray) -> tuple[int, int]:
    """Return where the longest strictly falling subsequence ends, and how many rows it has.

    Of several that are longest, the one that ends first. By patience sorting, in O(n log n).

    Args:
        losses: Losses, shape ``(n,)``, n >= 1.

    Example:
        5, 4, 2 ends at row 3. With 1.9 it is longer: 5, 4, 2, 1.9; and 9, 4, 3, 1.9 is no longer than that.

        >>> longest_fall(np.array([5.0, 9.0, 4.0, 2.0, 3.0, 1.9]))
        (5, 4)
    """
    ends: list[float] = []  # of the falls of 1, 2, ... rows so far: the largest last loss, negated
    longest = (0, 0)
    for row, loss in enumerate(losses):
        place = bisect_left(ends, -loss)
        ends[place : place + 1] = [-loss]
        if place + 1 > longest[1]:
            longest = row, place + 1
    return longest


def _pick(index: int, learning_rates: FloatArray, scores: FloatArray) -> Pick:
    return Pick(index, float(learning_rates[index]), float(scores[index]))

"""Stage "statistics", between the rates of the grid: an interval of the best learning rate itself."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats
from scipy.interpolate import CubicSpline

from autolr._typing import FloatArray, Rng
from autolr._validation import check_confidence_level, check_delta, check_learning_rates, invalid
from autolr.errors import DivergedError
from autolr.statistics._columns import finite_columns
from autolr.statistics._resampling import Resamples

# Largest step of the grid, in decades, between whose points a spline is trusted.
MAX_STEP = 0.13
# Knots of the spline on either side of the smallest mean.
REACH = 4
# A knot n steps away that rises by more than this times n^2 times the rise next to the minimum is past a cliff.
STEEPEST = 4.0
# Losses beyond this are cut to it, so that nothing below overflows.
HUGE = 1e300
# Points per step of the grid at which the spline is evaluated.
POINTS_PER_STEP = 32


def argmin_interval(
    learning_rates: ArrayLike,
    delta: ArrayLike,
    *,
    confidence_level: float = 0.95,
    num_resamples: int = 2000,
    rng: Rng = None,
) -> tuple[float, float]:
    r"""Interval of the learning rate at which the mean loss differential is smallest.

    In each of :math:`B` resamples of the rows, a cubic spline in the logarithm of the rate goes through the column
    means near the smallest one, and its minimum is found on a fine grid. The ends of the interval are quantiles of
    these minima, expanded for small M: at :math:`\Phi(-\sqrt{M/(M-1)}\; t_{M-1,\,(1+\gamma)/2})` from either side.

    The spline is local, because the mean loss may rise by many orders of magnitude towards large rates, and a spline
    through such values rings: it has up to four knots on either side of the smallest mean, fewer where the :math:`n`-th
    one is above the smallest by more than :math:`4 n^2` times the rise to its neighbours, and its minimum is looked for
    between these two neighbours. No spline is trusted where a step of the grid next to the smallest mean is above 0.13
    decades, or where one neighbour rises by more than four times what the second knot on the other side does: the
    resample then counts with all rates between the two neighbours. Where columns have exactly the same smallest mean it
    counts with all rates between them.

    It assumes independent rows, and a mean loss that is smooth over a few steps of the grid. A minimum outside of the
    rates that did not diverge is not covered: the interval is confined to them. Where the loss is flat against the
    noise the minima scatter, and coverage is rough; :func:`~autolr.statistics.best_set` is then what to look at.

    Args:
        learning_rates: Rates, shape ``(K,)``, strictly increasing and positive.
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; columns with an ``inf`` are left out.
        confidence_level: Nominal coverage :math:`\gamma \in (0, 1)`.
        num_resamples: Number of bootstrap resamples :math:`B`.
        rng: Seed or generator of the resamples; an integer gives the same result at each call.

    Returns:
        Lower and upper end, two learning rates; the same one twice if only one column is finite.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If the number of rates is not that of columns, there are fewer than two rows, a value is NaN or
            -inf, or an argument is out of its range.
        DivergedError: If every column holds an ``inf``.

    References:
        Hesterberg (2015). What teachers should know about the bootstrap. The American Statistician 69(4).

    Example:
        In both rows the loss changes by a parabola in log10 of the rate, with its minimum at 10^-1.03:

        >>> exponent = np.linspace(-2.0, 0.0, 21)
        >>> low, high = argmin_interval(10.0**exponent, [(exponent + 1.03) ** 2, 2 * (exponent + 1.03) ** 2], rng=0)
        >>> round(float(np.log10(low)), 2), round(float(np.log10(high)), 2)
        (-1.03, -1.03)
    """
    rates = check_learning_rates(learning_rates)
    values = check_delta(delta)
    if values.shape[1] != rates.size:
        raise ValueError(invalid("delta", f"have a column for each of the {rates.size} learning rates", values.shape))
    level = check_confidence_level(confidence_level)
    num_rows = values.shape[0]
    resamples = Resamples(num_rows, num_resamples, rng)
    finite = finite_columns(values)
    if not finite.any():
        raise DivergedError("Every learning rate diverged in at least one subsample: there is no smallest mean loss.")
    rates = rates[finite]
    first, last = locate_minima(np.log10(rates), resamples.means(values[:, finite]))
    quantile = float(stats.t.ppf((1.0 + level) / 2.0, num_rows - 1))
    tail = float(special.ndtr(-np.sqrt(num_rows / (num_rows - 1.0)) * quantile))
    return _rate(rates, float(np.quantile(first, tail))), _rate(rates, float(np.quantile(last, 1.0 - tail)))


def _rate(rates: FloatArray, exponent: float) -> float:
    """Return the power of ten, or the rate of the grid that it is but for rounding."""
    rate = float(np.clip(10.0**exponent, rates[0], rates[-1]))
    nearest = float(rates[np.abs(rates - rate).argmin()])
    return nearest if abs(nearest - rate) <= 1e-12 * rate else rate


def locate_minima(x: FloatArray, curves: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return between which abscissae each curve is smallest: the same one twice where a spline can tell.

    Args:
        x: Decimal logarithms of the rates, increasing, shape ``(K,)``.
        curves: Values at ``x``, shape ``(B, K)``.
    """
    tied = curves == curves.min(axis=1, keepdims=True)
    start, stop = tied.argmax(axis=1), x.size - 1 - tied[:, ::-1].argmax(axis=1)
    first, last = x[start], x[stop]
    unique = start == stop
    for index in np.unique(start[unique]):
        rows = unique & (start == index)
        first[rows], last[rows] = _between_neighbours(x, curves[rows], int(index))
    return first, last


def _between_neighbours(x: FloatArray, curves: FloatArray, index: int) -> tuple[FloatArray, FloatArray]:
    """Return as :func:`locate_minima` does for curves that are all smallest at ``x[index]``."""
    fine_steps = np.diff(x) <= MAX_STEP * (1.0 + 1e-9)
    left, right = max(index - 1, 0), min(index + 1, x.size - 1)
    first, last = np.full(curves.shape[0], x[left]), np.full(curves.shape[0], x[right])
    if left == right or not fine_steps[left:right].all():
        return first, last
    curves = np.clip(curves, -HUGE, HUGE)
    rise = curves - curves[:, [index]]
    # NOTE: a smooth minimum rises with the square of the distance; what rises far more is the edge of divergence.
    nearest = np.maximum(rise[:, left], rise[:, right])[:, None]
    smooth = rise <= STEEPEST * nearest * (np.arange(x.size) - index) ** 2.0
    begin, end = np.full(first.shape, left), np.full(first.shape, right)
    for knots in range(2, REACH + 1):
        if index - knots >= 0 and fine_steps[index - knots]:
            begin -= (begin == index - knots + 1) & smooth[:, index - knots]
        if index + knots < x.size and fine_steps[index + knots - 1]:
            end += (end == index + knots - 1) & smooth[:, index + knots]
    trusted = np.ones(first.shape, dtype=np.bool_)
    if 2 <= index < x.size - 1:
        trusted &= rise[:, right] <= STEEPEST * rise[:, index - 2]
    if 1 <= index < x.size - 2:
        trusted &= rise[:, left] <= STEEPEST * rise[:, index + 2]
    fine = np.linspace(x[left], x[right], POINTS_PER_STEP * (right - left) + 1)
    for low, high in np.unique(np.stack([begin, end], axis=1)[trusted], axis=0):
        rows = trusted & (begin == low) & (end == high)
        # In units of the rise to the neighbours, so that huge and tiny losses are the same.
        curve = CubicSpline(x[low : high + 1], rise[rows, low : high + 1] / nearest[rows], axis=1)(fine)
        first[rows] = last[rows] = fine[curve.argmin(axis=1)]
    return first, last

"""Stage "statistics", between the rates of the grid: an interval of the best learning rate itself."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats
from scipy.interpolate import CubicSpline

from autolr._typing import FloatArray, IntArray, Rng
from autolr._validation import check_confidence_level, check_delta, check_learning_rates, invalid
from autolr.errors import DivergedError
from autolr.statistics._columns import finite_columns
from autolr.statistics._resampling import DEGENERATE, Resamples, critical_value

# Largest step of the grid, in decades, between whose points a spline is trusted.
MAX_STEP = 0.13
# Knots of the spline on either side of the smallest mean.
REACH = 4
# A knot n steps away that rises by more than this times n^2 times the rise next to the minimum is past a cliff.
STEEPEST = 4.0
# Losses beyond this are cut to it, so that nothing below overflows.
HUGE = 1e300


def argmin_interval(
    learning_rates: ArrayLike,
    delta: ArrayLike,
    *,
    confidence_level: float = 0.95,
    num_resamples: int = 2000,
    rng: Rng = None,
) -> tuple[float, float]:
    r"""Interval of the learning rate at which the mean loss differential is smallest.

    A cubic spline in :math:`x = \log_{10} \mathrm{lr}` goes through the column means near the smallest one, and its
    minimum :math:`\hat x` is found. The interval is the symmetric bootstrap-t one, :math:`\hat x \pm c\, \hat\sigma`,
    with the delta method's standard error: a small change of the mean curve moves its minimum by the change of its
    slope there, divided by its curvature, so that

    .. math:: \hat\sigma = \frac{\mathrm{sd}_r\, f_r'(\hat x)}{\sqrt{M}\, \bar f''(\hat x)}

    for the splines :math:`f_r` through each row and their mean :math:`\bar f`. The critical value :math:`c` is the
    order statistic of rank :math:`\lceil \gamma (B + 1) \rceil` of :math:`|x^* - \hat x| / \sigma^*`, the minimum and
    its error in each of :math:`B` resamples of the rows. Quantiles of :math:`x^*` itself, without the errors, cover too
    seldom where the rows' curvatures are skewed, as they are in a regression on small batches.

    The spline is local, because the mean loss may rise by many orders of magnitude towards large rates, and a spline
    through such values rings: it has up to four knots on either side of the smallest mean, fewer where the :math:`n`-th
    one is above the smallest by more than :math:`4 n^2` times the rise to its neighbours, and its minimum is looked for
    between these two neighbours. No spline is trusted where a step of the grid next to the smallest mean is above 0.13
    decades, or where one neighbour rises by more than four times what the second knot on the other side does: the
    resample then counts with all rates between the two neighbours. Where columns have exactly the same smallest mean it
    counts with all rates between them. A resample without an error of its own (one of those, one whose minimum is at
    the end of the rates, or one with equal rows) counts with the error of the data. Where the data have none either,
    the ends are quantiles of the resampled minima, or of the ends of what they may be, expanded for small M: at
    :math:`\Phi(-\sqrt{M/(M-1)}\; t_{M-1,\,(1+\gamma)/2})` from either side.

    It assumes independent rows with finite variances, and a mean loss that is smooth over a few steps of the grid. It
    is asymptotic in M: of rows as skewed as those of a regression on batches of 16, it covers about 93% at a nominal
    95% with M = 20 or 30 and 95% with M = 100, and misses mostly by lying above the best rate. Two rows say too little
    of how much they vary: with M = 2 it is the range of all rates that did not diverge. Where the loss is flat against
    the noise the minima scatter, and coverage is rough; :func:`~autolr.statistics.best_set` is then what to look at.

    The interval is confined to the rates that did not diverge, but for an end at the first or last of them, which is
    moved to the next rate of the grid: the minimum may be anywhere on the way to a rate that was left out. One beyond
    that rate, or beyond the grid, is not covered.

    Args:
        learning_rates: Rates, shape ``(K,)``, strictly increasing and positive.
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; columns with an ``inf`` are left out.
        confidence_level: Nominal coverage :math:`\gamma \in (0, 1)`.
        num_resamples: Number of bootstrap resamples :math:`B`.
        rng: Seed or generator of the resamples; an integer gives the same result at each call.

    Returns:
        Lower and upper end, two learning rates; the same one twice if it is the only one.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If the number of rates is not that of columns, there are fewer than two rows, a value is NaN or
            -inf, or an argument is out of its range.
        DivergedError: If every column holds an ``inf``.

    References:
        Hall (1988). On symmetric bootstrap confidence intervals. Journal of the Royal Statistical Society B 50(1),
        35-45.

        Hesterberg (2015). What teachers should know about the bootstrap: resampling in the undergraduate statistics
        curriculum. The American Statistician 69(4), 371-386.

        van der Vaart (1998). Asymptotic statistics, chapter 5. Cambridge University Press. (The delta method's error.)

    Example:
        In all rows the loss changes by a parabola in log10 of the rate, with its minimum at 10^-1.03:

        >>> exponent = np.linspace(-2.0, 0.0, 21)
        >>> low, high = argmin_interval(10.0**exponent, [a * (exponent + 1.03) ** 2 for a in (1.0, 2.0, 4.0)], rng=0)
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
    kept = np.flatnonzero(finite)
    outer = rates[max(kept[0] - 1, 0)], rates[min(kept[-1] + 1, rates.size - 1)]
    rates = rates[finite]
    low, high = rates[0], rates[-1]
    if num_rows > 2:
        # NOTE: sums are rounded differently in another layout.
        low, high = _ends(rates, np.ascontiguousarray(values[:, finite]), resamples, level)
    return float(outer[0] if low == rates[0] else low), float(outer[1] if high == rates[-1] else high)


def _ends(rates: FloatArray, values: FloatArray, resamples: Resamples, level: float) -> tuple[float, float]:
    """Return the ends of the interval among finite columns only."""
    x, num_rows = np.log10(rates), values.shape[0]
    blocks = [locate_minima(x, values, weights / num_rows) for weights in resamples]
    first, last, error = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    (start,), (stop,), (own_error,) = locate_minima(x, values, np.full((1, num_rows), 1.0 / num_rows))
    if own_error > 0.0:
        distance = np.maximum(np.abs(first - start), np.abs(last - start))
        half = own_error * critical_value(distance / np.where(error > 0.0, error, own_error), level)
        return _rate(rates, float(start - half)), _rate(rates, float(stop + half))
    quantile = float(stats.t.ppf((1.0 + level) / 2.0, num_rows - 1))
    tail = float(special.ndtr(-np.sqrt(num_rows / (num_rows - 1.0)) * quantile))
    return _rate(rates, float(np.quantile(first, tail))), _rate(rates, float(np.quantile(last, 1.0 - tail)))


def _rate(rates: FloatArray, exponent: float) -> float:
    """Return the power of ten, to nine decimals of the exponent, or the rate of the grid that it is but for rounding.

    So that losses that differ by their rounding have the same interval.
    """
    rate = float(np.clip(10.0 ** round(min(max(exponent, -400.0), 308.0), 9), rates[0], rates[-1]))
    nearest = float(rates[np.abs(rates - rate).argmin()])
    return nearest if abs(nearest - rate) <= 1e-8 * rate else rate


def locate_minima(x: FloatArray, values: FloatArray, shares: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return between which abscissae each mean curve is smallest, and with what error.

    Args:
        x: Decimal logarithms of the rates, increasing, shape ``(K,)``.
        values: Curves of the rows at ``x``, shape ``(M, K)``.
        shares: Weights of the rows in each of B means, shape ``(B, M)``; each sums to 1.

    Returns:
        The lower and the upper abscissa, the same one twice where a spline can tell, and the error of this one but for
        the factor of the number of rows: the standard deviation of the rows' slopes by the curvature of their mean, 0
        where there is none. All of shape ``(B,)``.
    """
    with np.errstate(over="ignore"):
        curves = shares @ values
    tied = curves == curves.min(axis=1, keepdims=True)
    start, stop = tied.argmax(axis=1), x.size - 1 - tied[:, ::-1].argmax(axis=1)
    first, last, error = x[start], x[stop], np.zeros(start.shape)
    unique = start == stop
    values = np.clip(values, -HUGE, HUGE)
    for index in np.unique(start[unique]):
        rows = np.flatnonzero(unique & (start == index))
        curve = np.clip(curves[rows], -HUGE, HUGE)
        first[rows], last[rows], windows = _between_neighbours(x, curve, int(index))
        for low, high in np.unique(windows[windows[:, 0] >= 0], axis=0):
            inside = (windows == (low, high)).all(axis=1)
            chosen = rows[inside]
            first[chosen], error[chosen] = _spline_minima(
                x, curve[inside], values, shares[chosen], int(index), slice(low, high + 1)
            )
            last[chosen] = first[chosen]
    return first, last, error


def _between_neighbours(x: FloatArray, curves: FloatArray, index: int) -> tuple[FloatArray, FloatArray, IntArray]:
    """Return the neighbours of ``x[index]``, where the curves are smallest, and the first and last knot of each spline.

    The knots, of shape ``(B, 2)``, are -1 where no spline is trusted.
    """
    fine_steps = np.diff(x) <= MAX_STEP * (1.0 + 1e-9)
    left, right = max(index - 1, 0), min(index + 1, x.size - 1)
    first, last = np.full(curves.shape[0], x[left]), np.full(curves.shape[0], x[right])
    windows = np.full((curves.shape[0], 2), -1)
    if left == right or not fine_steps[left:right].all():
        return first, last, windows
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
    trusted = nearest[:, 0] > 0.0
    if 2 <= index < x.size - 1:
        trusted &= rise[:, right] <= STEEPEST * rise[:, index - 2]
    if 1 <= index < x.size - 2:
        trusted &= rise[:, left] <= STEEPEST * rise[:, index + 2]
    windows[trusted] = np.stack([begin, end], axis=1)[trusted]
    return first, last, windows


def _spline_minima(
    x: FloatArray, curves: FloatArray, values: FloatArray, shares: FloatArray, index: int, knots: slice
) -> tuple[FloatArray, FloatArray]:
    """Return the minima of splines through the curves at some knots, and their errors as in :func:`locate_minima`."""
    left, right = max(index - 1, 0), min(index + 1, x.size - 1)
    # In units of the rise to the neighbours, so that huge and tiny losses are the same.
    rise = curves - curves[:, [index]]
    unit = np.maximum(rise[:, left], rise[:, right])
    # NOTE: splines are linear in the values at the knots.
    basis = CubicSpline(x[knots], np.eye(knots.stop - knots.start))
    pieces = slice(left - knots.start, right - knots.start)
    cubic = np.einsum("dpk,bk->dpb", basis.c[:, pieces], rise[:, knots] / unit[:, None])
    offset, bend, value = _minima_of_cubics(cubic, np.diff(x[left : right + 1])[:, None])
    piece = value.argmin(axis=0)
    offset, bend, value = (np.take_along_axis(each, piece[None], axis=0)[0] for each in (offset, bend, value))
    # Between two neighbours there is a minimum; of the first or last rate, only what is below it counts.
    smooth = value < (np.inf if right - left == 2 else 0.0)
    minima = np.where(smooth, x[left:right][piece] + offset, x[index])
    error = np.zeros(minima.shape)
    rows = values[:, knots] - values[:, [index]]
    # NOTE: less the first row, so that slopes of equal rows are equal exactly.
    rows -= rows[0]
    largest = np.abs(rows).max()
    if largest == 0.0:  # parallel curves
        return minima, error
    slopes = basis(minima, 1) @ (rows / largest).T
    square = np.einsum("br,br->b", shares, slopes**2)
    slopes -= np.einsum("br,br->b", shares, slopes)[:, None]
    variance = np.einsum("br,br->b", shares, slopes**2)
    smooth &= variance > DEGENERATE * square
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        error[smooth] = np.sqrt(variance[smooth]) / (unit / largest * bend)[smooth]
    error[np.isinf(error)] = 0.0
    return minima, error


def _minima_of_cubics(cubic: FloatArray, width: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return where each cubic has its minimum within its piece, its curvature and its value there.

    Args:
        cubic: Coefficients, from that of the third power to the constant, of the offset from the start of each of P
            pieces, shape ``(4, P, B)``.
        width: Widths of the pieces, shape ``(P, 1)``.

    Returns:
        Offsets, curvatures and values; ``inf`` where the minimum is outside of the piece. All of shape ``(P, B)``.
    """
    third, second, first, constant = cubic
    root = second**2 - 3.0 * third * first
    with np.errstate(divide="ignore", invalid="ignore"):
        bend = np.sqrt(root)  # half of the curvature
        # NOTE: of the two forms of the root, the one without cancellation.
        offset = np.where(second > 0.0, -first / (second + bend), (bend - second) / (3.0 * third))
        inside = (root > 0.0) & (offset >= -1e-9 * width) & (offset <= (1.0 + 1e-9) * width)
        value = ((third * offset + second) * offset + first) * offset + constant
    return offset, 2.0 * bend, np.where(inside, value, np.inf)

"""Stage "statistics", what to beware of: one row that makes up the variance, ties, from where on the loss rises."""

import numpy as np
from numpy.typing import ArrayLike

from autolr._typing import BoolArray, FloatArray
from autolr._validation import check_integer, check_real
from autolr.statistics._columns import check_probes

# Of normal values, one has more than this share of the squares in 13% of samples of 10, 0.6% of 20, 0.02% of 30.
DOMINANT = 0.5
ENOUGH_ROWS = 20


def largest_share(delta: ArrayLike) -> FloatArray:
    r"""Share of the one most extreme row in the variance of each column.

    That is :math:`\max_r (\Delta_{rk} - \bar\Delta_k)^2 / \sum_r (\Delta_{rk} - \bar\Delta_k)^2`. Above a half, the
    standard error hangs on a single subsample: the tails are heavy, the mean has not settled, and intervals built on
    its normality cover less than they say. Of :math:`M` normal values, the share exceeds :math:`u \ge 1/2` with the
    probability :math:`M\, P(B > u M / (M - 1))`, where :math:`B` is a beta variable with the parameters 1/2 and
    :math:`(M - 2) / 2`: below 20 rows, a half is no sign of heavy tails.

    Args:
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; ``inf``: diverged, NaN: not probed.

    Returns:
        Shares, shape ``(K,)``: 0 for a column that does not vary, NaN for one with an ``inf`` or NaN.

    Raises:
        TypeError: If the values are not real numbers.
        ValueError: If there are fewer than two rows, the shape is another, or a value is -inf.

    References:
        Thompson (1935). On a criterion for the rejection of observations and the distribution of the ratio of deviation
        to sample standard deviation. Annals of Mathematical Statistics 6(4). (The distribution of one residual.)

    Example:
        >>> largest_share([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0], [8.0, 4.0]]).round(2)
        array([0.75, 0.45])
    """
    values = check_probes(delta)
    finite = np.isfinite(values).all(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = values / np.abs(values).max(axis=0)
        squares = (unit - unit.mean(axis=0)) ** 2
        share = squares.max(axis=0) / squares.sum(axis=0)
    constant = finite & (np.ptp(np.where(finite, values, 0.0), axis=0) == 0.0)
    return np.where(constant, 0.0, np.where(finite, share, np.nan))


def without_explosions(delta: ArrayLike) -> FloatArray:
    """Return the differentials with ``inf`` in the columns that count as diverged because one of their rows exploded.

    Such a column has 20 rows or more, a mean above 0, and one row, above the mean, that makes up more than half of the
    variance; and there is another column whose mean is below 0. Its standard error says nothing, so that it could not
    be told from the best rate, however large its mean; in statistics over all columns it would drown the others.

    Args:
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; ``inf``: diverged, NaN: not probed.

    Returns:
        A copy, shape ``(M, K)``.

    Raises:
        TypeError: If the values are not real numbers.
        ValueError: If there are fewer than two rows, the shape is another, or a value is -inf.

    Example:
        >>> delta = np.column_stack([np.linspace(-2.0, -1.0, 20), [*np.linspace(-3.0, -2.0, 19), 900.0]])
        >>> np.isinf(without_explosions(delta)).all(axis=0)
        array([False,  True])
    """
    values = check_probes(delta)
    if len(values) < ENOUGH_ROWS:
        return values
    with np.errstate(invalid="ignore", over="ignore"):
        means = values.mean(axis=0)  # inf and NaN where not whole
        exploded = (
            (largest_share(values) > DOMINANT)
            & (means > 0.0)
            & (values.max(axis=0) - means > means - values.min(axis=0))
        )
    if (means < 0.0).any():
        values[:, exploded] = np.inf
    return values


def ties(delta: ArrayLike, pick: int, *, resolution: float) -> BoolArray:
    r"""Return which other rates cannot be told from the pick, because their losses differ by rounding only.

    A rate :math:`j` is tied where the mean of :math:`|\Delta_{rj} - \Delta_{rp}|` is at most the resolution. No number
    of subsamples tells such rates apart.

    Args:
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; ``inf``: diverged, NaN: not probed.
        pick: Index of a column.
        resolution: The difference of two losses that may be rounding, in units of the loss, at least 0.

    Returns:
        Which are tied, shape ``(K,)``; never the pick itself, nor a column with an ``inf`` or NaN.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there are fewer than two rows, a value is -inf, or an argument is out of its range.

    Example:
        >>> ties([[-1.0, -1.0000001, -3.0], [-2.0, -2.0000001, -3.0]], 0, resolution=1e-6)
        array([False,  True, False])
    """
    values = check_probes(delta)
    chosen = check_integer("pick", pick, minimum=0)
    limit = check_real("resolution", resolution, above=0.0, closed=True)
    with np.errstate(invalid="ignore", over="ignore"):
        tied = np.abs(values - values[:, [chosen]]).mean(axis=0) <= limit  # NaN is not
    tied[chosen] = False
    return np.asarray(tied, dtype=np.bool_)


def smallest_mean(delta: FloatArray) -> int:
    """Return the column with the smallest mean of those in which no probe diverged, 0 where one did in each.

    Args:
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; ``inf``: diverged.

    Example:
        >>> smallest_mean(np.array([[0.1, -0.3, -0.9], [0.2, -0.1, np.inf]]))
        1
    """
    return int(np.where(np.isinf(delta).any(axis=0), np.inf, delta.mean(axis=0)).argmin())


def clear_rises(delta: FloatArray, low: FloatArray) -> BoolArray:
    """Return at which columns, from the smallest mean upwards, the loss clearly rises, or a probe diverged.

    Args:
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; ``inf``: diverged.
        low: The lower band of their means, shape ``(K,)``.

    Returns:
        Where it does, shape ``(K,)``; nowhere below the smallest mean.

    Example:
        >>> clear_rises(np.array([[0.5, -0.1, 0.1, 0.9], [0.5, -0.1, 0.2, 0.8]]), np.array([0.4, -0.2, -0.1, 0.7]))
        array([False, False, False,  True])
    """
    rises: BoolArray = (low > 0.0) | np.isinf(delta).any(axis=0)
    rises[: smallest_mean(delta)] = False
    return rises

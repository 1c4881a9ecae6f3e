"""Stage "statistics", one rate at a time: intervals of the mean and of the median loss differential."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from autolr._typing import FloatArray, Rng
from autolr._validation import check_confidence_level, check_delta
from autolr.statistics._columns import describe
from autolr.statistics._resampling import Resamples, critical_value


def t_interval(delta: ArrayLike, *, confidence_level: float = 0.95) -> tuple[FloatArray, FloatArray]:
    r"""Student's t interval of the mean loss differential at each learning rate.

    With :math:`\bar\Delta_k`, :math:`s_k` the mean and standard deviation of column :math:`k` over the :math:`M`
    subsamples, the interval is :math:`\bar\Delta_k \pm t_{M-1,\,(1+\gamma)/2}\, s_k / \sqrt{M}`.

    It assumes independent rows and a mean that is nearly normal: with skewed differentials and few rows it covers
    less than it says. It is pointwise; for all rates at once use :func:`~autolr.statistics.simultaneous_band`.

    Args:
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; a column may hold ``inf``.
        confidence_level: Nominal coverage :math:`\gamma \in (0, 1)`.

    Returns:
        Lower and upper ends, each of shape ``(K,)``: the constant twice for a constant column, (-inf, inf) for one
        with an ``inf``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there are fewer than two rows, a value is NaN or -inf, or ``confidence_level`` is outside (0, 1).

    References:
        Student (1908). The probable error of a mean. Biometrika 6(1), 1-25.

    Example:
        The mean is -2, the standard error 1 / sqrt(3), and the 95% point of t with 2 degrees of freedom 2.92:

        >>> low, high = t_interval([[-1.0], [-2.0], [-3.0]], confidence_level=0.9)
        >>> low.round(3), high.round(3)
        (array([-3.686]), array([-0.314]))
    """
    values = check_delta(delta)
    level = check_confidence_level(confidence_level)
    return describe(values).around_mean(float(stats.t.ppf((1.0 + level) / 2.0, values.shape[0] - 1)))


def bootstrap_t_interval(
    delta: ArrayLike, *, confidence_level: float = 0.95, num_resamples: int = 2000, rng: Rng = None
) -> tuple[FloatArray, FloatArray]:
    r"""Symmetric bootstrap-t interval of the mean loss differential at each learning rate.

    The interval is :math:`\bar\Delta_k \pm c_k s_k / \sqrt{M}`, where the critical value :math:`c_k` is the order
    statistic of rank :math:`\lceil \gamma (B + 1) \rceil` of :math:`|t^*_k|`, the t statistics of :math:`B` resamples
    of the rows about the mean of the data. One draw of rows serves all columns.

    It assumes independent rows with a finite variance, and no shape. A resample of equal rows has an infinite
    :math:`t^*`: where more than :math:`1 - \gamma` of them are like this the interval is (-inf, inf), as for M = 2 and
    M = 3 at 95%, or for a column in which nearly all values are tied. It is pointwise, and it is about the mean of
    what the rows were drawn from: rows drawn from one dataset speak about that dataset.

    Args:
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; a column may hold ``inf``.
        confidence_level: Nominal coverage :math:`\gamma \in (0, 1)`.
        num_resamples: Number of bootstrap resamples :math:`B`.
        rng: Seed or generator of the resamples; an integer gives the same result at each call.

    Returns:
        Lower and upper ends, each of shape ``(K,)``: the constant twice for a constant column, (-inf, inf) for one
        with an ``inf``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there are fewer than two rows, a value is NaN or -inf, or an option is out of its range.

    References:
        Hall (1988). On symmetric bootstrap confidence intervals. Journal of the Royal Statistical Society B 50(1),
        35-45.
        Hesterberg (2015). What teachers should know about the bootstrap: resampling in the undergraduate statistics
        curriculum. The American Statistician 69(4), 371-386.

    Example:
        The interval is symmetric about the mean, 2.5 here, and a constant column is its constant:

        >>> low, high = bootstrap_t_interval([[0.0, 7.0], [1.0, 7.0], [2.0, 7.0], [7.0, 7.0]], rng=0)
        >>> ((low + high) / 2).round(3), bool(low[1] == high[1] == 7.0)
        (array([2.5, 7. ]), True)
    """
    values = check_delta(delta)
    level = check_confidence_level(confidence_level)
    resamples = Resamples(values.shape[0], num_resamples, rng)
    columns = describe(values)
    return columns.around_mean(critical_value(np.abs(resamples.studentized(columns.centred)), level))


def percentile_interval(
    delta: ArrayLike, *, confidence_level: float = 0.95, num_resamples: int = 2000, rng: Rng = None
) -> tuple[FloatArray, FloatArray]:
    r"""Bootstrap percentile interval of the mean loss differential at each learning rate.

    Its ends are the :math:`(1 - \gamma)/2` and :math:`(1 + \gamma)/2` quantiles of the means of :math:`B` resamples of
    the rows. It is narrower than the t interval by a factor of :math:`\sqrt{(M - 1) / M}` and more, so that it covers
    less than it says for small M; it is here for comparison, :func:`bootstrap_t_interval` is the default.

    Args:
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; a column may hold ``inf``.
        confidence_level: Nominal coverage :math:`\gamma \in (0, 1)`.
        num_resamples: Number of bootstrap resamples :math:`B`.
        rng: Seed or generator of the resamples; an integer gives the same result at each call.

    Returns:
        Lower and upper ends, each of shape ``(K,)``: the constant twice for a constant column, (-inf, inf) for one
        with an ``inf``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there are fewer than two rows, a value is NaN or -inf, or an option is out of its range.

    References:
        Efron and Tibshirani (1993). An introduction to the bootstrap, chapter 13, 168-177. Chapman & Hall.

    Example:
        A quarter of the resamples of two rows has the mean 0, half of them 1, a quarter 2:

        >>> percentile_interval([[0.0], [2.0]], rng=0)
        (array([0.]), array([2.]))
    """
    values = check_delta(delta)
    level = check_confidence_level(confidence_level)
    return _quantiles_of_means(values, level, num_resamples, rng)


def bca_interval(
    delta: ArrayLike, *, confidence_level: float = 0.95, num_resamples: int = 2000, rng: Rng = None
) -> tuple[FloatArray, FloatArray]:
    r"""Bias-corrected and accelerated bootstrap interval of the mean loss differential at each learning rate.

    Its ends are quantiles of the means of :math:`B` resamples of the rows at
    :math:`\Phi(z_0 + (z_0 + z) / (1 - a (z_0 + z)))`, :math:`z = \Phi^{-1}((1 \mp \gamma)/2)`, with the bias correction
    :math:`z_0 = \Phi^{-1}` of the share of resampled means below the mean (ties count half), and the jackknife's
    acceleration :math:`a = \sum x_r^3 / (6 (\sum x_r^2)^{3/2})`, :math:`x_r` the deviations from the mean.

    Like the percentile interval it covers less than it says for small M. It is pointwise. Where all resampled means
    are on one side of the mean, the share is moved to :math:`1/(B + 1)` from that end.

    Args:
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; a column may hold ``inf``.
        confidence_level: Nominal coverage :math:`\gamma \in (0, 1)`.
        num_resamples: Number of bootstrap resamples :math:`B`.
        rng: Seed or generator of the resamples; an integer gives the same result at each call.

    Returns:
        Lower and upper ends, each of shape ``(K,)``: the constant twice for a constant column, (-inf, inf) for one
        with an ``inf``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there are fewer than two rows, a value is NaN or -inf, or an option is out of its range.

    References:
        Efron (1987). Better bootstrap confidence intervals. Journal of the American Statistical Association 82(397),
        171-185.

    Example:
        A quarter of the resamples of two rows has the mean 0, half of them 1, a quarter 2; there is no skewness:

        >>> bca_interval([[0.0], [2.0]], rng=0)
        (array([0.]), array([2.]))
    """
    values = check_delta(delta)
    level = check_confidence_level(confidence_level)
    return _quantiles_of_means(values, level, num_resamples, rng, bca=True)


def _quantiles_of_means(
    values: FloatArray, level: float, num_resamples: int, rng: Rng, *, bca: bool = False
) -> tuple[FloatArray, FloatArray]:
    """Return two quantiles of the resampled means, at ``(1 -+ level) / 2`` or where BCa moves these."""
    resamples = Resamples(values.shape[0], num_resamples, rng)
    columns = describe(values)
    errors = np.sort(resamples.means(columns.centred), axis=0)
    shares = np.array([[1.0 - level], [1.0 + level]]) / 2.0
    if bca:
        shares = _bca_shares(errors, columns.centred, level)
    # Linear interpolation between order statistics, as in numpy.quantile, at a position of its own in each column.
    position = np.broadcast_to(shares * (resamples.num_resamples - 1), (2, errors.shape[1]))
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, resamples.num_resamples - 1)
    first, second = np.take_along_axis(errors, below, axis=0), np.take_along_axis(errors, above, axis=0)
    ends = np.tile(columns.mean, (2, 1))
    with np.errstate(over="ignore"):
        ends[:, columns.varied] += np.ldexp(first + (position - below) * (second - first), columns.exponent)
    ends[0, ~columns.finite] = -np.inf
    return ends[0], ends[1]


def _bca_shares(errors: FloatArray, centred: FloatArray, level: float) -> FloatArray:
    """Return where BCa puts the ends, shape (2, R), from the sorted resampled errors (B, R)."""
    num_resamples = errors.shape[0]
    # NOTE: rounding must not break ties, which discrete data have: the deviations are in units of their largest.
    below, not_above = (errors < -1e-13).mean(axis=0), (errors <= 1e-13).mean(axis=0)
    edge = 1.0 / (num_resamples + 1)
    bias = special.ndtri(np.clip((below + not_above) / 2.0, edge, 1.0 - edge))
    acceleration = (centred**3).sum(axis=0) / (6.0 * (centred**2).sum(axis=0) ** 1.5)
    # NOTE: both ends from the lower one, as (1 + level) / 2 may be 1 by rounding.
    shifted = bias + np.array([[1.0], [-1.0]]) * special.ndtri((1.0 - level) / 2.0)
    slack = 1.0 - acceleration * shifted
    with np.errstate(divide="ignore"):
        moved = np.where(slack > 0.0, special.ndtr(bias + shifted / slack), shifted > 0.0)
    return np.asarray(moved, dtype=np.float64)


def median_interval(delta: ArrayLike, *, confidence_level: float = 0.95) -> tuple[FloatArray, FloatArray]:
    r"""Interval of the median loss differential at each learning rate, by interpolated order statistics.

    :math:`(x_{(d)}, x_{(M+1-d)})` covers the median with probability
    :math:`g_d = 1 - 2 P(\mathrm{Bin}(M, 1/2) \le d - 1)`. With :math:`d` the largest for which
    :math:`g_d \ge \gamma`, :math:`I = (g_d - \gamma) / (g_d - g_{d+1})` and
    :math:`\lambda = (M - d) I / (d + (M - 2d) I)`, the interval is
    :math:`((1 - \lambda) x_{(d)} + \lambda x_{(d+1)},\ (1 - \lambda) x_{(M+1-d)} + \lambda x_{(M-d)})`.

    It assumes independent rows from a continuous distribution; the coverage is exact for the Laplace distribution and
    nearly so for other shapes. Diverged probes take part: ``inf`` sorts last, so that both ends may be ``inf``; between
    a number and ``inf`` the end is the outer one. It is pointwise, and the median is not the mean.

    Args:
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; a column may hold ``inf``.
        confidence_level: Nominal coverage :math:`\gamma \in (0, 1)`.

    Returns:
        Lower and upper ends, each of shape ``(K,)``; (-inf, inf) where M < 6 or even the extremes cover less than
        :math:`\gamma`.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there are fewer than two rows, a value is NaN or -inf, or ``confidence_level`` is outside (0, 1).

    References:
        Hettmansperger and Sheather (1986). Confidence intervals based on interpolated order statistics. Statistics &
        Probability Letters 4(2), 75-79.
        Nyblom (1992). Note on interpolated order statistics. Statistics & Probability Letters 14(2), 129-131.

    Example:
        With six rows the extremes cover 1 - 2 / 64, which is 31 / 32; of one in six diverged nothing is known above:

        >>> median_interval([[1.0], [2.0], [3.0], [4.0], [5.0], [np.inf]], confidence_level=31 / 32)
        (array([1.]), array([inf]))
    """
    values = check_delta(delta)
    level = check_confidence_level(confidence_level)
    num_rows, num_columns = values.shape
    ranks = np.arange(1, num_rows // 2 + 1)
    coverage = 1.0 - 2.0 * special.bdtr(ranks - 1.0, num_rows, 0.5)
    # NOTE: a level that is a coverage exactly, such as 31/32, must not be missed by rounding.
    rank = int((coverage >= level - 1e-12).sum())
    if num_rows < 6 or rank == 0:
        return np.full(num_columns, -np.inf), np.full(num_columns, np.inf)
    weight = 0.0
    if rank + 1 <= num_rows - rank:  # else the next pair would have crossed: keep the present one
        share = float(coverage[rank - 1])
        inner_share = 1.0 - 2.0 * float(special.bdtr(float(rank), num_rows, 0.5))
        fraction = max(0.0, (share - level) / (share - inner_share))
        weight = (num_rows - rank) * fraction / (rank + (num_rows - 2 * rank) * fraction)
    ordered = np.sort(values, axis=0)
    outer = np.stack([ordered[rank - 1], ordered[num_rows - rank]])
    inner = np.stack([ordered[min(rank, num_rows - 1)], ordered[num_rows - rank - 1]])
    between = np.isfinite(outer) & np.isfinite(inner)
    ends = outer.copy()
    ends[between] = (1.0 - weight) * outer[between] + weight * inner[between]
    return ends[0], ends[1]

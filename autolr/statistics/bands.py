"""Stage "statistics", all rates at once: a band that holds the whole curve of mean loss differentials."""

import numpy as np
from numpy.typing import ArrayLike

from autolr._typing import FloatArray, Rng
from autolr._validation import check_confidence_level, check_delta
from autolr.statistics._columns import describe
from autolr.statistics._resampling import Resamples, critical_value


def simultaneous_band(
    delta: ArrayLike, *, confidence_level: float = 0.95, num_resamples: int = 2000, rng: Rng = None
) -> tuple[FloatArray, FloatArray]:
    r"""Studentized sup-t bootstrap band of the mean loss differentials at all learning rates.

    The band is :math:`\bar\Delta_k \pm c\, s_k / \sqrt{M}` with one critical value for all rates: the order statistic
    of rank :math:`\lceil \gamma (B + 1) \rceil` of :math:`\max_k |t^*_k|`, the t statistics of :math:`B` resamples of
    whole rows about the means of the data. Neighbouring rates see the same subsamples and are strongly correlated,
    which the resampled rows keep, so that it is narrower than a Bonferroni correction.

    It holds all means at once with probability :math:`\gamma`, asymptotically in M, for independent rows with finite
    variances; below about 20 rows it is rough. It is about the rates of the grid, not those between them. Left out of
    the maximum are constant columns, and columns in which so many values are tied that, on their own or together with
    others, they are constant in more than 0.5% of the resamples (those of one row alone apart): they would make the
    band infinite everywhere. Which ones does not depend on the level, so that the band grows with it; beyond 99.5% ties
    within this share can make it infinite.

    Args:
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; a column may hold ``inf``.
        confidence_level: Nominal coverage :math:`\gamma \in (0, 1)`.
        num_resamples: Number of bootstrap resamples :math:`B`.
        rng: Seed or generator of the resamples; an integer gives the same rows as in
            :func:`~autolr.statistics.bootstrap_t_interval`.

    Returns:
        Lower and upper ends, each of shape ``(K,)``: the constant twice for a constant column, (-inf, inf) for one
        with an ``inf`` or with too many ties. With M = 2 or 3 at 95% all that vary are (-inf, inf).

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there are fewer than two rows, a value is NaN or -inf, or an option is out of its range.

    References:
        Montiel Olea and Plagborg-Moller (2019). Simultaneous confidence bands: theory, implementation, and an
        application to SVARs. Journal of Applied Econometrics 34(1), 1-17.

    Example:
        A column that is a multiple of another adds nothing to the maximum: the band is the interval.

        >>> delta = np.array([[1.0, 2.0], [2.0, 4.0], [4.0, 8.0], [3.0, 6.0], [9.0, 18.0]])
        >>> band = simultaneous_band(delta, rng=0)
        >>> from autolr.statistics import bootstrap_t_interval
        >>> interval = bootstrap_t_interval(delta, rng=0)
        >>> bool(np.allclose(band, interval))
        True
    """
    values = check_delta(delta)
    level = check_confidence_level(confidence_level)
    resamples = Resamples(values.shape[0], num_resamples, rng)
    columns = describe(values)
    statistic = np.abs(resamples.studentized(columns.centred))
    critical = np.full(statistic.shape[1], np.inf)
    shared = resamples.comparable(statistic)
    if shared.any():
        critical[shared] = critical_value(statistic[:, shared].max(axis=1), level)
    return columns.around_mean(critical)

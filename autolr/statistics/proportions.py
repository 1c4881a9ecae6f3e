"""Stage "statistics", one rate at a time: intervals of a share, such as that of the subsamples whose loss fell."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from autolr._typing import FloatArray
from autolr._validation import check_confidence_level, invalid


def binomial_interval(
    successes: ArrayLike, trials: ArrayLike, *, confidence_level: float = 0.95
) -> tuple[FloatArray, FloatArray]:
    r"""Clopper-Pearson interval of a probability.

    With :math:`x` successes in :math:`n` trials its ends are the :math:`(1 - \gamma)/2` quantile of
    :math:`\mathrm{Beta}(x, n - x + 1)`, 0 for :math:`x = 0`, and the :math:`(1 + \gamma)/2` quantile of
    :math:`\mathrm{Beta}(x + 1, n - x)`, 1 for :math:`x = n`. It covers at least :math:`\gamma` whatever the
    probability is, and is the wider for it; it assumes independent trials.

    Args:
        successes: Counts, of any shape that broadcasts with ``trials``.
        trials: Numbers of trials; for 0 the interval is (0, 1).
        confidence_level: Nominal coverage :math:`\gamma \in (0, 1)`.

    Returns:
        Lower and upper ends, of the broadcast shape.

    Raises:
        TypeError: If the counts are not integers, or ``confidence_level`` is not a number.
        ValueError: If a count is negative or above its number of trials, or ``confidence_level`` is outside (0, 1).

    References:
        Clopper and Pearson (1934). The use of confidence or fiducial limits illustrated in the case of the binomial.
        Biometrika 26(4), 404-413.

    Example:
        No success in ten trials: the upper end solves (1 - p)^10 = 0.025.

        >>> low, high = binomial_interval([0], [10])
        >>> low, high.round(4), round(1 - 0.025**0.1, 4)
        (array([0.]), array([0.3085]), 0.3085)
    """
    level = check_confidence_level(confidence_level)
    count, total = _check_counts(successes, trials)
    low = np.where(count > 0, special.betaincinv(np.maximum(count, 1), total - count + 1, (1.0 - level) / 2.0), 0.0)
    return low, binomial_upper_bound(count, total, confidence_level=(1.0 + level) / 2.0)


def binomial_upper_bound(successes: ArrayLike, trials: ArrayLike, *, confidence_level: float = 0.95) -> FloatArray:
    r"""One-sided Clopper-Pearson bound: the :math:`\gamma` quantile of :math:`\mathrm{Beta}(x + 1, n - x)`.

    It covers at least :math:`\gamma` whatever the probability is, for independent trials.

    Args:
        successes: Counts :math:`x`, of any shape that broadcasts with ``trials``.
        trials: Numbers of trials :math:`n`; for 0 the bound is 1.
        confidence_level: Nominal coverage :math:`\gamma \in (0, 1)`.

    Returns:
        The bound, of the broadcast shape.

    Raises:
        TypeError: If the counts are not integers, or ``confidence_level`` is not a number.
        ValueError: If a count is negative or above its number of trials, or ``confidence_level`` is outside (0, 1).

    References:
        Clopper and Pearson (1934), as in :func:`binomial_interval`.

    Example:
        No divergence in 100 probes: the bound solves (1 - p)^100 = 0.05, "the rule of three".

        >>> float(binomial_upper_bound(0, 100).round(4)), round(1 - 0.05**0.01, 4)
        (0.0295, 0.0295)
    """
    level = check_confidence_level(confidence_level)
    count, total = _check_counts(successes, trials)
    return np.where(count < total, special.betaincinv(count + 1, np.maximum(total - count, 1), level), 1.0)


def _check_counts(successes: ArrayLike, trials: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return both as float64 arrays of one shape."""
    count, total = np.asarray(successes), np.asarray(trials)
    for name, value in (("successes", count), ("trials", total)):
        if not np.issubdtype(value.dtype, np.integer) and not (
            np.issubdtype(value.dtype, np.floating) and (value == np.floor(value)).all() and np.isfinite(value).all()
        ):
            raise TypeError(invalid(name, "be an array of integers", value))
        if (value < 0).any():
            raise ValueError(invalid(name, "be at least 0", value))
    if (count > total).any():
        raise ValueError(invalid("successes", "be at most `trials`", count))
    both = np.broadcast_arrays(count.astype(np.float64), total.astype(np.float64))
    return both[0], both[1]

"""Stage "statistics", one rate at a time: intervals of a share, such as that of the subsamples whose loss fell."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from autolr._typing import FloatArray
from autolr._validation import check_array, check_confidence_level, invalid


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
        ValueError: If the shapes do not broadcast, a count is negative or above its number of trials, or
            ``confidence_level`` is outside (0, 1).

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
    tail = (1.0 - level) / 2.0
    low = np.where(count > 0, special.betaincinv(np.maximum(count, 1), total - count + 1, tail), 0.0)
    return low, _upper_end(count, total, tail)


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
        ValueError: If the shapes do not broadcast, a count is negative or above its number of trials, or
            ``confidence_level`` is outside (0, 1).

    References:
        Clopper and Pearson (1934), as in :func:`binomial_interval`.

    Example:
        No divergence in 100 probes: the bound solves (1 - p)^100 = 0.05, "the rule of three".

        >>> float(binomial_upper_bound(0, 100).round(4)), round(1 - 0.05**0.01, 4)
        (0.0295, 0.0295)
    """
    level = check_confidence_level(confidence_level)
    count, total = _check_counts(successes, trials)
    return _upper_end(count, total, 1.0 - level)


def _upper_end(count: FloatArray, total: FloatArray, tail: float) -> FloatArray:
    """Return the quantile above which ``tail`` is: that share may be too small for its complement to be below 1."""
    return np.where(count < total, special.betainccinv(count + 1, np.maximum(total - count, 1), tail), 1.0)


def _check_counts(successes: ArrayLike, trials: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return both as float64 arrays of one shape."""
    count, total = check_array("successes", successes), check_array("trials", trials)
    for name, numbers, value in (("successes", count, successes), ("trials", total, trials)):
        if not (np.isfinite(numbers) & (numbers == np.floor(numbers))).all():
            raise TypeError(invalid(name, "be an array of integers", value))
        if (numbers < 0.0).any():
            raise ValueError(invalid(name, "be at least 0", value))
    try:
        count, total = np.broadcast_arrays(count, total)
    except ValueError:
        constraint = f"have a shape that broadcasts with that of `trials` {total.shape}"
        raise ValueError(invalid("successes", constraint, count.shape)) from None
    if (count > total).any():
        raise ValueError(invalid("successes", "be at most `trials`", successes))
    return count, total

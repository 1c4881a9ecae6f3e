"""Stage "statistics", how often a rate would have been the pick: a description, and no confidence set."""

import numpy as np
from numpy.typing import ArrayLike

from autolr._typing import FloatArray, Rng
from autolr._validation import check_delta
from autolr.statistics._columns import finite_columns
from autolr.statistics._resampling import Resamples


def stability(delta: ArrayLike, *, num_resamples: int = 2000, rng: Rng = None) -> FloatArray:
    r"""Share of the resamples in which each learning rate has the smallest mean loss differential.

    It describes how much the pick of the mean depends on the subsamples at hand: of :math:`B` resamples of the rows,
    the share with :math:`\bar\Delta^*_k = \min_j \bar\Delta^*_j`; columns that share the minimum share the resample.

    The rates that together have 95% are *not* a 95% confidence set: where rates are equally good, such a set misses one
    that is about half of the time. For that there is :func:`~autolr.statistics.best_set`.

    Args:
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; a column with an ``inf`` is never the pick.
        num_resamples: Number of bootstrap resamples :math:`B`.
        rng: Seed or generator of the resamples; an integer gives the same result at each call.

    Returns:
        Shares, shape ``(K,)``; they sum to 1, or to 0 where every column diverged.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there are fewer than two rows, a value is NaN or -inf, or ``num_resamples`` is below 1.

    References:
        Efron and Tibshirani (1998). The problem of regions. Annals of Statistics 26(5), 1687-1718. (What such
        shares mean, and how they fail at the border between regions, which is where ties are.)

    Example:
        Of the four resamples of these two rows, three have the smaller mean in the first column:

        >>> shares = stability([[0.0, 3.0], [1.0, -1.0]], rng=0)
        >>> bool(abs(shares[0] - 0.75) < 0.05), float(shares.sum())
        (True, 1.0)
    """
    values = check_delta(delta)
    finite = finite_columns(values)
    shares = np.zeros(values.shape[1])
    if not finite.any():
        return shares
    means = Resamples(values.shape[0], num_resamples, rng).means(values[:, finite])
    smallest = means == means.min(axis=1, keepdims=True)
    shares[finite] = (smallest / smallest.sum(axis=1, keepdims=True)).mean(axis=0)
    return shares

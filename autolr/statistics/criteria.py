"""Stage "statistics", the rule of the decision: a score of every learning rate, the smallest of which is the pick."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from autolr._typing import BoolArray, FloatArray, Method
from autolr._validation import check_confidence_level, check_option, check_real, invalid
from autolr.errors import DivergedError, NoCandidateError
from autolr.statistics._columns import Columns, check_probes, describe, medians


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What a method makes of the loss differentials.

    Attributes:
        index: The column that is picked.
        scores: Scores of all columns, smaller is better, ``inf`` where not eligible, shape ``(K,)``.
    """

    index: int
    scores: FloatArray


def choose(delta: ArrayLike, method: Method = "mean", **options: Any) -> Choice:
    r"""Pick a learning rate from loss differentials; of equal scores the smallest rate wins.

    With :math:`m, s` the mean and standard deviation of a column: ``"mean"`` is argmin :math:`m`; ``"median"`` the
    argmin of the median; ``"variance_penalized"`` argmin :math:`m + \lambda s`; ``"ucb"`` the argmin of the upper
    confidence bound of :math:`m`; ``"one_se"`` the smallest rate that is within a standard error of the best;
    ``"variance"`` the smallest :math:`s` where the loss improves with confidence; ``"max"`` the largest rate at which
    no loss rose. Each is the function of its name in this module, its options are those of this function.

    A column with NaN was not probed in every row and is not picked; one with ``inf`` diverged in a row, and only the
    median can pick it. The score of the pick is optimistic, because it was picked.

    Args:
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; ``inf``: diverged, NaN: not probed.
        method: Name of the criterion.
        options: ``penalty`` of ``"variance_penalized"``, ``confidence_level`` of ``"ucb"`` and ``"variance"``.

    Returns:
        The index of the pick, and the scores.

    Raises:
        TypeError: If an option is not one of the method, or an argument is of the wrong type.
        ValueError: If ``method`` is unknown, there are fewer than two rows, or an option is out of its range.
        DivergedError: If every rate that was probed in all rows diverged (for the median: in half of them).
        NoCandidateError: If no rate qualifies for the method, or none was probed in every row.

    Example:
        The mean falls most in the second column, which is also the one that varies most:

        >>> delta = [[-1.0, -4.0], [-1.5, 1.0], [-1.0, -4.0]]
        >>> choose(delta).index, choose(delta).scores.round(3)
        (1, array([-1.167, -2.333]))
        >>> choose(delta, "variance_penalized", penalty=1.0).index
        0
    """
    check_option("method", method, Method)
    criterion = CRITERIA[method]
    allowed = [name for name in inspect.signature(criterion).parameters if name != "delta"]
    for name, value in options.items():
        if name not in allowed:
            takes = ", ".join(f"`{option}`" for option in allowed) or "no options"
            raise TypeError(invalid(name, f"be left out of method={method!r}, which takes {takes}", value))
    values = check_probes(delta)
    scores = criterion(values, **options)
    if np.isinf(scores).all():
        _raise_no_candidate(values, method)
    return Choice(index=int(scores.argmin()), scores=scores)


def mean(delta: ArrayLike) -> FloatArray:
    r"""Score by the mean :math:`m`; the general default.

    Args:
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; ``inf``: diverged, NaN: not probed.

    Returns:
        Scores, in units of the loss, shape ``(K,)``; ``inf`` where a probe diverged or is missing.

    Raises:
        TypeError: If the values are not real numbers.
        ValueError: If there are fewer than two rows, the shape is another, or a value is -inf.

    Example:
        >>> mean([[1.0, -1.0, np.inf], [3.0, -2.0, -9.0]])
        array([ 2. , -1.5, inf])
    """
    return _columns(delta).mean


def median(delta: ArrayLike) -> FloatArray:
    """Score by the median, in which a diverged probe counts as the largest value.

    Args:
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; ``inf``: diverged, NaN: not probed.

    Returns:
        Scores, in units of the loss, shape ``(K,)``; ``inf`` where at least half of the probes diverged or one is
        missing.

    Raises:
        TypeError: If the values are not real numbers.
        ValueError: If there are fewer than two rows, the shape is another, or a value is -inf.

    Example:
        >>> median([[1.0, -1.0, np.inf], [3.0, -2.0, -9.0], [3.0, np.nan, -9.0]])
        array([ 3., inf, -9.])
    """
    values = check_probes(delta)
    return np.where(np.isnan(values).any(axis=0), np.inf, medians(np.where(np.isnan(values), np.inf, values)))


def variance_penalized(delta: ArrayLike, *, penalty: float = 1.0) -> FloatArray:
    r"""Score by :math:`m + \lambda s`, with the penalty :math:`\lambda \ge 0`; its target is not the smallest mean.

    Args:
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; ``inf``: diverged, NaN: not probed.
        penalty: Weight :math:`\lambda` of the standard deviation.

    Returns:
        Scores, in units of the loss, shape ``(K,)``; ``inf`` where a probe diverged or is missing.

    Raises:
        TypeError: If the values, or ``penalty``, are not real numbers.
        ValueError: If there are fewer than two rows, the shape is another, a value is -inf, or ``penalty`` is negative
            or not finite.

    Example:
        >>> variance_penalized([[-1.0, -1.0], [-3.0, -1.0]], penalty=2.0).round(3)
        array([ 0.828, -1. ])
    """
    weight = check_real("penalty", penalty, above=0.0, closed=True)
    columns = _columns(delta)
    with np.errstate(over="ignore"):
        return _eligible(columns.finite, columns.mean + weight * columns.std)


def ucb(delta: ArrayLike, *, confidence_level: float = 0.95) -> FloatArray:
    r"""Score by the one-sided upper confidence bound :math:`m + t_{M-1,\gamma}\, s / \sqrt{M}`; cautious.

    Args:
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; ``inf``: diverged, NaN: not probed.
        confidence_level: Coverage :math:`\gamma \in (0, 1)` of the bound.

    Returns:
        Scores, in units of the loss, shape ``(K,)``; ``inf`` where a probe diverged or is missing.

    Raises:
        TypeError: If the values, or ``confidence_level``, are not real numbers.
        ValueError: If there are fewer than two rows, the shape is another, a value is -inf, or ``confidence_level`` is
            outside (0, 1).

    Example:
        With two rows t is Cauchy, and its 75% point 1:

        >>> ucb([[-1.0, -1.0], [-3.0, -1.0]], confidence_level=0.75).round(3)
        array([-1., -1.])
    """
    level = check_confidence_level(confidence_level)
    values = check_probes(delta)
    columns = _columns(values)
    return _eligible(columns.finite, columns.mean + float(stats.t.ppf(level, values.shape[0] - 1)) * columns.sem)


def one_se(delta: ArrayLike) -> FloatArray:
    r"""Score by position, where the mean is within a standard error of the smallest: the smallest such rate wins.

    A rate :math:`j` qualifies if the mean of the paired differences to the column with the smallest mean is at most
    the standard error of that mean, :math:`\bar D_j \le s(D_j) / \sqrt{M}`.

    Args:
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; ``inf``: diverged, NaN: not probed.

    Returns:
        Column numbers, shape ``(K,)``; ``inf`` where not within the standard error, or a probe diverged or is missing.

    Raises:
        TypeError: If the values are not real numbers.
        ValueError: If there are fewer than two rows, the shape is another, or a value is -inf.

    References:
        Breiman, Friedman, Olshen and Stone (1984). Classification and regression trees. Wadsworth. (Their rule takes
        the standard error of the smallest mean; the paired one is usually smaller.)

    Example:
        The differences to the second column are 0, 1 and 2, 2:

        >>> one_se([[-3.0, -3.0, -1.0], [-1.0, -2.0, 0.0]])
        array([ 0.,  1., inf])
    """
    values = check_probes(delta)
    columns = _columns(values)
    if not columns.finite.any():
        return np.full(columns.mean.shape, np.inf)
    best = values[:, [int(columns.mean.argmin())]]
    difference = describe(np.where(columns.finite, values, 0.0) - best)
    near = columns.finite & (difference.mean <= difference.sem)
    return _eligible(near, np.arange(near.size, dtype=np.float64))


def variance(delta: ArrayLike, *, confidence_level: float = 0.95) -> FloatArray:
    r"""Score by the standard deviation, where the upper confidence bound of the mean is below 0.

    Without the condition the smallest rate, which changes nothing, would always win.

    Args:
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; ``inf``: diverged, NaN: not probed.
        confidence_level: Coverage :math:`\gamma \in (0, 1)` of the bound.

    Returns:
        Scores, in units of the loss, shape ``(K,)``; ``inf`` where the bound is not below 0, or a probe diverged or is
        missing.

    Raises:
        TypeError: If the values, or ``confidence_level``, are not real numbers.
        ValueError: If there are fewer than two rows, the shape is another, a value is -inf, or ``confidence_level`` is
            outside (0, 1).

    Example:
        >>> variance([[0.0, -2.0, -4.0], [0.0, -2.1, -4.2]])
        array([ inf, 0.07071068, 0.14142136])
    """
    columns = _columns(delta)
    return _eligible(ucb(delta, confidence_level=confidence_level) < 0.0, columns.std)


def max(delta: ArrayLike) -> FloatArray:  # noqa: A001 (the public name of the method)
    """Score by the number of larger rates, where no subsample's loss rose: the largest such rate wins.

    It is a bound on stable rates, not a good rate: where no loss rises any more, most of the gain is lost too.

    Args:
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; ``inf``: diverged, NaN: not probed.

    Returns:
        Numbers of larger rates, shape ``(K,)``; ``inf`` where a loss rose, or a probe diverged or is missing.

    Raises:
        TypeError: If the values are not real numbers.
        ValueError: If there are fewer than two rows, the shape is another, or a value is -inf.

    Example:
        >>> max([[-1.0, -2.0, -4.0], [-1.0, 0.0, 0.5]])
        array([ 2., 1., inf])
    """
    values = check_probes(delta)
    return _eligible(np.asarray((values <= 0.0).all(axis=0)), np.arange(values.shape[1], dtype=np.float64)[::-1])


CRITERIA: dict[str, Callable[..., FloatArray]] = {
    "mean": mean,
    "median": median,
    "variance_penalized": variance_penalized,
    "ucb": ucb,
    "one_se": one_se,
    "variance": variance,
    "max": max,
}


def max_stable_index(delta: ArrayLike) -> int | None:
    """Return the last column up to which training is stable, going up from the smallest mean.

    That is the last one before the first column in which a probe diverged or the mean loss rose. A column not probed
    in every row is judged by its own rows, one without rows is passed over.

    Args:
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; ``inf``: diverged, NaN: not probed.

    Returns:
        Its index; ``None`` where every column diverged, or the mean loss rose even at the smallest mean.

    Raises:
        TypeError: If the values are not numbers.
        ValueError: If there are fewer than two rows, or a value is -inf.

    Example:
        >>> max_stable_index([[-1.0, -2.0, -1.0, 3.0, -1.0], [-1.0, -3.0, 0.5, -1.0, -1.0]])
        2
    """
    values = check_probes(delta)
    means = _columns(values).mean
    start = int(means.argmin())
    if means[start] > 0.0:  # also where it is inf
        return None
    last = start
    for column in range(start + 1, values.shape[1]):
        own = values[~np.isnan(values[:, column]), column]
        if own.size and (np.isinf(own).any() or own.mean() > 0.0):
            break
        if own.size:
            last = column
    return last


def _columns(delta: ArrayLike) -> Columns:
    """Return the moments of the columns; one that was not probed in every row counts as not finite."""
    values = check_probes(delta)
    return describe(np.where(np.isnan(values), np.inf, values))


def _eligible(where: BoolArray, scores: FloatArray) -> FloatArray:
    """Return the scores where eligible, ``inf`` elsewhere."""
    return np.where(where, scores, np.inf)


def _raise_no_candidate(values: FloatArray, method: Method) -> None:
    """Raise the error that says why no rate has a score."""
    probed = np.asarray(~np.isnan(values).any(axis=0))
    if not probed.any():
        raise NoCandidateError(f"No learning rate qualifies for method={method!r}: none was probed in every subsample.")
    diverged = np.asarray(np.isinf(values).any(axis=0))
    if method == "median" or diverged[probed].all():
        share = "at least half of the subsamples" if method == "median" else "at least one subsample"
        raise DivergedError(
            f"No learning rate qualifies for method={method!r}: each one diverged in {share}. Try smaller rates."
        )
    reason = {
        "variance": "at none is the upper confidence bound of the mean loss differential below 0",
        "max": "at each one the loss of at least one subsample rose",
    }.get(method, "no score is finite")
    among = "" if probed.all() else f" (of the {int(probed.sum())} rates that were probed in every subsample)"
    raise NoCandidateError(f"No learning rate qualifies for method={method!r}: {reason}{among}.")

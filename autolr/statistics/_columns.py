"""Columns of a matrix of loss differentials: which can be averaged, and their mean and standard error."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from autolr._typing import BoolArray, FloatArray, IntArray
from autolr._validation import check_array, check_delta

# No unit is below 2 to this power, so that its inverse is finite.
SMALLEST_EXPONENT = -1000


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """The first two moments of each of K columns.

    Attributes:
        finite: Whether no value is infinite, shape ``(K,)``.
        varied: Whether the column is finite and not constant, shape ``(K,)``; R of them are.
        mean: Means, ``inf`` where not finite, shape ``(K,)``.
        std: Standard deviations (divisor M - 1), NaN where not finite, shape ``(K,)``.
        sem: Standard errors of the means, NaN where not finite, shape ``(K,)``.
        centred: The varied columns less their means, in units of ``2**exponent``, shape ``(M, R)``.
        exponent: Units of the varied columns, shape ``(R,)``.
    """

    finite: BoolArray
    varied: BoolArray
    mean: FloatArray
    std: FloatArray
    sem: FloatArray
    centred: FloatArray
    exponent: IntArray

    def around_mean(self, critical: float | FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the ends ``mean -+ critical * sem``; a constant column is its constant, a diverged one unbounded.

        Args:
            critical: Critical values of the varied columns, a number or of shape ``(R,)``; ``inf``: no bound.
        """
        half = np.zeros_like(self.mean)
        with np.errstate(over="ignore"):
            half[self.varied] = critical * self.sem[self.varied]
            low, high = self.mean - half, self.mean + half
        low[~self.finite] = -np.inf
        return low, high


def finite_columns(delta: FloatArray) -> BoolArray:
    """Return which columns of ``delta (M, K)`` hold numbers only, shape ``(K,)``."""
    return np.asarray(np.isfinite(delta).all(axis=0), dtype=np.bool_)


def describe(delta: FloatArray, *, resolution: float | FloatArray = 0.0) -> Columns:
    """Return the moments of the columns of ``delta (M, K)``, M at least 2; a column may hold ``inf``.

    Args:
        delta: Values, shape ``(M, K)``.
        resolution: A column whose range is at most this counts as constant, a number or of shape ``(K,)``.
    """
    num_rows = delta.shape[0]
    low, high = delta.min(axis=0), delta.max(axis=0)
    finite = np.isfinite(low) & np.isfinite(high)
    if not finite.all():
        delta, low, high = (np.where(finite, values, 0.0) for values in (delta, low, high))
    # NOTE: units are powers of two, so that nothing is rounded and no sum or square of a huge loss overflows.
    exponent = np.maximum(np.frexp(np.maximum(high, -low))[1].astype(np.int64), SMALLEST_EXPONENT)
    scale = np.ldexp(1.0, -exponent)
    centred, low, high = delta * scale, low * scale, high * scale
    constant = high - low <= np.ldexp(resolution, -exponent)
    # NOTE: the rounded mean of a constant column need not be the constant.
    mean = np.where(constant, centred[0], centred.mean(axis=0))
    varied = finite & ~constant
    centred -= mean
    if not varied.all():
        centred = np.compress(varied, centred, axis=1)
    inner = np.frexp(np.maximum(high - mean, mean - low)[varied])[1].astype(np.int64)
    centred *= np.ldexp(1.0, -inner)
    std = np.where(finite, 0.0, np.nan)
    with np.errstate(over="ignore"):
        std[varied] = np.ldexp(np.sqrt((centred**2).sum(axis=0) / (num_rows - 1)), inner + exponent[varied])
    return Columns(
        finite=finite,
        varied=varied,
        mean=np.where(finite, np.ldexp(mean, exponent), np.inf),
        std=std,
        sem=std / np.sqrt(num_rows),
        centred=centred,
        exponent=inner + exponent[varied],
    )


def medians(values: FloatArray) -> FloatArray:
    """Return the medians of the columns of ``values (M, K)``, which may hold ``inf``: NumPy's overflow where huge."""
    ordered = np.sort(values, axis=0)
    low, high = ordered[(len(values) - 1) // 2], ordered[len(values) // 2]
    middle: FloatArray = np.where(low == high, low, 0.5 * low + 0.5 * high)
    return middle


def check_probes(value: ArrayLike, *, minimum: int = 2) -> FloatArray:
    """Return ``delta`` as :func:`~autolr._validation.check_delta` does, but let NaN (not probed) pass.

    Args:
        value: Loss differentials, shape ``(M, K)``; ``inf``: diverged, NaN: not probed.
        minimum: Smallest M.

    Returns:
        A float64 copy.

    Raises:
        TypeError: If the values are not real numbers (strings, bools and complex numbers are none).
        ValueError: If the shape is another, a value is -inf, or there are too few rows.
    """
    delta = check_array("delta", value)
    check_delta(np.where(np.isnan(delta), 0.0, delta), minimum=minimum)
    return delta

"""Bootstrap resamples of the rows of a matrix: one draw of rows serves all of its columns."""

from collections.abc import Iterator
from math import ceil

import numpy as np

from autolr._typing import BoolArray, FloatArray, Rng
from autolr._validation import check_integer, check_rng

# A block of this many weights (32 MiB) is drawn at once; more resamples are drawn again, block by block, at each use.
MAX_WEIGHTS = 2**22
# A resample whose variance is below this share of its mean square is constant but for rounding.
DEGENERATE = 1e-12


class Resamples:
    """B resamples of M rows with replacement, as counts of the rows: ``W (B, M)``, whose rows sum to M."""

    def __init__(self, num_rows: int, num_resamples: int, rng: Rng) -> None:
        self.num_rows = num_rows
        self.num_resamples = check_integer("num_resamples", num_resamples, minimum=1)
        self._generator = np.random.default_rng(check_rng(rng))
        self._block = max(1, MAX_WEIGHTS // num_rows)
        self._weights: FloatArray | None = None
        if self._block >= self.num_resamples:
            self._weights = self._draw(self._generator, self.num_resamples)
        else:
            self._seed = int(self._generator.integers(2**63))

    def _draw(self, generator: np.random.Generator, size: int) -> FloatArray:
        rows = generator.integers(self.num_rows, size=(size, self.num_rows))
        rows += np.arange(0, size * self.num_rows, self.num_rows)[:, None]
        counts = np.bincount(rows.ravel(), minlength=size * self.num_rows)
        return counts.reshape(size, self.num_rows).astype(np.float64)

    def __iter__(self) -> Iterator[FloatArray]:
        """Yield ``W`` in blocks of rows, the same ones at each iteration."""
        if self._weights is not None:
            yield self._weights
            return
        generator = np.random.default_rng(self._seed)
        for start in range(0, self.num_resamples, self._block):
            yield self._draw(generator, min(self._block, self.num_resamples - start))

    def means(self, values: FloatArray) -> FloatArray:
        """Return the mean of each resample in each column of ``values (M, R)``, shape ``(B, R)``."""
        with np.errstate(over="ignore"):
            return np.concatenate([weights @ values / self.num_rows for weights in self])

    def studentized(self, centred: FloatArray) -> FloatArray:
        r"""Return the studentized error of the mean of each resample, shape ``(B, R)``.

        With :math:`x` a centred column and :math:`w` the weights of a resample,
        :math:`d^* = \sum_r w_r x_r / M`, :math:`v^* = (\sum_r w_r x_r^2 / M - d^{*2}) / (M - 1)` and
        :math:`t^* = d^* / \sqrt{v^*}`, which is the t statistic of the resample about the mean of the data. Where all
        rows of the resample are equal it is infinite with the sign of :math:`d^*`, ``+inf`` where that is 0 too.

        Args:
            centred: Columns of mean 0 whose largest magnitude is near 1, shape ``(M, R)``.
        """
        squares = centred**2
        return np.concatenate([self._studentize(weights, centred, squares) for weights in self])

    def _studentize(self, weights: FloatArray, centred: FloatArray, squares: FloatArray) -> FloatArray:
        error = weights @ centred
        error /= self.num_rows
        spread = weights @ squares
        spread /= self.num_rows
        negligible = DEGENERATE * spread
        spread -= error**2
        degenerate = spread <= negligible
        spread[degenerate] = 1.0
        spread /= self.num_rows - 1
        statistic = error / np.sqrt(spread)
        if degenerate.any():
            statistic[degenerate] = np.where(error[degenerate] < -DEGENERATE, -np.inf, np.inf)
        return statistic


def critical_value(statistic: FloatArray, confidence_level: float) -> FloatArray:
    r"""Return the order statistic of rank :math:`\lceil \gamma (B + 1) \rceil` over the first axis; ``inf`` beyond B.

    Args:
        statistic: B resampled values, along the first axis.
        confidence_level: :math:`\gamma \in (0, 1)`.
    """
    num_resamples = statistic.shape[0]
    # NOTE: the small number keeps 0.95 * 2000 = 1900.0000000000002 from being rounded up to the next rank.
    rank = ceil(confidence_level * (num_resamples + 1) - 1e-9)
    if rank > num_resamples:
        return np.full(statistic.shape[1:], np.inf)
    chosen: FloatArray = np.partition(statistic, rank - 1, axis=0)[rank - 1]
    return chosen


def comparable(statistic: FloatArray, confidence_level: float) -> BoolArray:
    r"""Return which columns can share a maximum over columns without making its critical value infinite.

    A column in which nearly all values are tied (differences of losses below the resolution of their dtype, say) has
    many constant resamples, in which the statistic is ``inf``. Columns are let in by their share of those as long as
    the resamples with any ``inf`` are at most :math:`(1 - \gamma) / 2` of all.

    Args:
        statistic: Resampled statistics, shape ``(B, R)``.
        confidence_level: :math:`\gamma \in (0, 1)`.
    """
    infinite = np.isposinf(statistic)
    allowed = (1.0 - confidence_level) / 2.0
    if infinite.any(axis=1).mean() <= allowed:
        return np.ones(statistic.shape[1], dtype=np.bool_)
    order = np.argsort(infinite.mean(axis=0), kind="stable")
    union = np.logical_or.accumulate(infinite[:, order], axis=1).mean(axis=0)
    keep = np.zeros(statistic.shape[1], dtype=np.bool_)
    keep[order] = union <= allowed
    return keep

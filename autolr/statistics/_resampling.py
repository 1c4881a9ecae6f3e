"""Bootstrap resamples of the rows of a matrix: one draw of rows serves all of its columns."""

from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from math import ceil
from typing import TypeAlias

import numpy as np

from autolr._typing import BoolArray, FloatArray, Rng
from autolr._validation import check_integer, check_rng

# A block of this many weights (32 MiB) is drawn at once; more resamples are drawn again, block by block, at each use.
MAX_WEIGHTS = 2**22
# Draws of at most this many numbers (8 MiB) are kept for the next call with the same seed.
MAX_KEPT = 2**20
# A resample whose variance is below this share of its mean square is constant but for rounding.
DEGENERATE = 1e-12
# Columns share a maximum as long as their ties make it infinite in at most this share of the resamples.
# NOTE: the same at every level, so that no column leaves at a higher one, and what is said of the others stays nested.
MAX_TIED = 0.005

Draw: TypeAlias = Callable[[np.random.Generator, int, int], FloatArray]


def draw_counts(generator: np.random.Generator, num_resamples: int, num_rows: int) -> FloatArray:
    """Draw how often each of M rows is in each of B resamples, shape ``(B, M)``."""
    rows = generator.integers(num_rows, size=(num_resamples, num_rows))
    rows += np.arange(0, num_resamples * num_rows, num_rows)[:, None]
    counts = np.bincount(rows.ravel(), minlength=num_resamples * num_rows)
    return counts.reshape(num_resamples, num_rows).astype(np.float64)


def draw_t(generator: np.random.Generator, num_resamples: int, num_rows: int) -> FloatArray:
    r"""Draw B vectors of M t variables over a common chi, divided by :math:`\sqrt{M (M - 1)}`, shape ``(B, M)``."""
    normal = generator.standard_normal((num_resamples, num_rows))
    chi = np.sqrt(generator.chisquare(num_rows - 1, size=(num_resamples, 1)) / (num_rows - 1))
    normal /= chi * np.sqrt(num_rows * (num_rows - 1.0))
    return normal


def drawn(draw: Draw, num_resamples: int, num_rows: int, rng: Rng) -> FloatArray:
    """Draw, or return what was drawn with the same seed before."""
    if isinstance(rng, int) and num_resamples * num_rows <= MAX_KEPT:
        return _kept(draw, num_resamples, num_rows, rng)
    return draw(np.random.default_rng(rng), num_resamples, num_rows)


@lru_cache(maxsize=2)  # one of each kind
def _kept(draw: Draw, num_resamples: int, num_rows: int, seed: int) -> FloatArray:
    numbers = draw(np.random.default_rng(seed), num_resamples, num_rows)
    numbers.setflags(write=False)
    return numbers


class Resamples:
    """B resamples of M rows with replacement, as counts of the rows: ``W (B, M)``, whose rows sum to M."""

    def __init__(self, num_rows: int, num_resamples: int, rng: Rng) -> None:
        self.num_rows = num_rows
        self.num_resamples = check_integer("num_resamples", num_resamples, minimum=1)
        source = check_rng(rng)
        self._block = max(1, MAX_WEIGHTS // num_rows)
        self._weights: FloatArray | None = None
        if self._block >= self.num_resamples:
            self._weights = drawn(draw_counts, self.num_resamples, num_rows, source)
        else:
            self._seed = int(np.random.default_rng(source).integers(2**63))

    def __iter__(self) -> Iterator[FloatArray]:
        """Yield ``W`` in blocks of rows, the same ones at each iteration."""
        if self._weights is not None:
            yield self._weights
            return
        generator = np.random.default_rng(self._seed)
        for start in range(0, self.num_resamples, self._block):
            yield draw_counts(generator, min(self._block, self.num_resamples - start), self.num_rows)

    def means(self, values: FloatArray) -> FloatArray:
        """Return the mean of each resample in each column of ``values (M, R)``, shape ``(B, R)``."""
        with np.errstate(over="ignore"):
            (sums,) = self._sums((values, np.empty((values.shape[1], self.num_resamples))))
            return sums.T / self.num_rows

    def _sums(self, *pairs: tuple[FloatArray, FloatArray]) -> list[FloatArray]:
        """Put the sums of each resample in each column of some ``values (M, R)`` into ``out (R, B)``; return these."""
        stop = 0
        for weights in self:
            start, stop = stop, stop + len(weights)
            for values, out in pairs:
                np.matmul(values.T, weights.T, out=out[:, start:stop])
        return [out for _, out in pairs]

    def studentized(self, centred: FloatArray) -> FloatArray:
        r"""Return the studentized error of the mean of each resample, shape ``(B, R)``.

        With :math:`x` a centred column and :math:`w` the weights of a resample,
        :math:`d^* = \sum_r w_r x_r / M`, :math:`v^* = (\sum_r w_r x_r^2 / M - d^{*2}) / (M - 1)` and
        :math:`t^* = d^* / \sqrt{v^*}`, which is the t statistic of the resample about the mean of the data. Where all
        rows of the resample are equal it is infinite with the sign of :math:`d^*`, ``+inf`` where that is 0 too.

        Args:
            centred: Columns of mean 0 whose largest magnitude is near 1, shape ``(M, R)``.
        """
        return self.statistic(self.ratios(centred, *np.empty((2, centred.shape[1], self.num_resamples)))).T

    def ratios(self, centred: FloatArray, errors: FloatArray, out: FloatArray) -> FloatArray:
        r"""Return :math:`u^* = d^* |d^*| / (\sum_r w_r x_r^2 / M)`, shape ``(R, B)``: cheaper than :math:`t^*`.

        As :math:`t^* = \mathrm{sgn}(u^*) \sqrt{(M - 1) |u^*| / (1 - |u^*|)}` increases with it, its maxima and order
        statistics are those of :math:`t^*`. It is NaN, the largest value, where :math:`t^*` is infinite without a sign.

        Args:
            centred: As in :meth:`studentized`.
            errors: Room to work in, shape ``(R, B)``.
            out: Where to put the ratios, shape ``(R, B)``.
        """
        self._sums((centred, errors), (self.num_rows * centred**2, out))
        negligible = (self.num_rows * DEGENERATE) ** 2
        if out.min(initial=np.inf) <= negligible:
            errors[(out <= negligible) & (errors**2 >= (1.0 - DEGENERATE) * out)] = np.nan
        np.divide(errors, out, out=out)
        out *= np.abs(errors, out=errors)
        return out

    @cached_property
    def of_one_row(self) -> BoolArray:
        """Which resamples are one row again and again, shape ``(B,)``."""
        return np.concatenate([(weights == self.num_rows).any(axis=1) for weights in self])

    def tied(self, statistic: FloatArray) -> BoolArray:
        """Return where a statistic, ``(B, ...)``, is ``inf`` because of ties: not where a resample is of one row."""
        infinite: BoolArray = np.isposinf(statistic)
        if infinite.any():
            infinite[self.of_one_row] = False
        return infinite

    def comparable(self, statistic: FloatArray) -> BoolArray:
        """Return which columns share a maximum over columns, the same ones at each confidence level.

        A column in which nearly all values are tied (differences of losses below the resolution of their dtype, say)
        has many constant resamples, in which the statistic is ``inf``. Columns are let in by their share of those as
        long as the resamples with any are at most 0.5% of all. Resamples of one row count for none: they are constant
        in every column.

        Args:
            statistic: Resampled statistics, shape ``(B, R, ...)``; each of the last axes is judged on its own.
        """
        tied = self.tied(statistic)
        if (tied.any(axis=1).mean(axis=0) <= MAX_TIED).all():
            return np.ones(statistic.shape[1:], dtype=np.bool_)
        order = np.argsort(tied.mean(axis=0), axis=0, kind="stable")
        union = np.logical_or.accumulate(np.take_along_axis(tied, order[None], axis=1), axis=1).mean(axis=0)
        keep = np.zeros(statistic.shape[1:], dtype=np.bool_)
        np.put_along_axis(keep, order, union <= MAX_TIED, axis=0)
        return keep

    def statistic(self, ratio: FloatArray) -> FloatArray:
        """Return the t statistics that belong to ratios of any shape."""
        size = np.abs(ratio)
        infinite = ~(size < 1.0 - DEGENERATE)
        size[infinite] = 0.0
        statistic = np.subtract(1.0, size)
        np.divide(size, statistic, out=statistic)
        statistic *= self.num_rows - 1
        np.copysign(np.sqrt(statistic, out=statistic), ratio, out=statistic)
        statistic[infinite] = np.where(ratio[infinite] < 0.0, -np.inf, np.inf)
        return statistic


def critical_value(statistic: FloatArray, confidence_level: float) -> FloatArray:
    r"""Return the order statistic of rank :math:`\lceil \gamma (B + 1) \rceil` over the first axis; ``inf`` beyond B.

    Args:
        statistic: B resampled values, along the first axis.
        confidence_level: :math:`\gamma \in (0, 1)`.
    """
    num_resamples = statistic.shape[0]
    # NOTE: the small number keeps 0.95 * 2000 = 1900.0000000000002 from being rounded up to the next rank.
    rank = max(1, ceil(confidence_level * (num_resamples + 1) - 1e-9))
    if rank > num_resamples:
        return np.full(statistic.shape[1:], np.inf)
    chosen: FloatArray = np.partition(statistic, rank - 1, axis=0)[rank - 1]
    return chosen

"""Learning rates against all others: the tests that decide which can be the best one."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt

import numpy as np
from scipy import stats

from autolr._typing import BestSetMethod, BoolArray, FloatArray, IntArray, Rng
from autolr._validation import check_integer, check_rng
from autolr.statistics._columns import Columns, describe
from autolr.statistics._resampling import MAX_TIED, Resamples, critical_value, draw_t, drawn

# Two columns whose difference varies by less than this share of their values are the same but for rounding.
RESOLUTION = 1e-12
# A rate whose t statistic against the pick is above this many Bonferroni critical values is out without a resample; of
# a critical value below 1, as of two rates at 50%, it is 1 that counts.
FAR_OUT = 3.0
# Statistics of so many resampled pairs (4 MiB) are held at once; arrays that the caches do not hold are slower too.
MAX_STATISTICS = 2**19


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """The tests of "rate j is the best" against each of the F finite columns, for S rates.

    Attributes:
        kept: Whether it is not rejected, shape ``(S,)``.
        difference: Mean of the paired difference j less k, shape ``(S, F)``.
        half_width: Critical value times the standard error of that difference: 0 for a difference that does not vary,
            ``inf`` for one that took no part in the test, shape ``(S, F)``.
        bound: Upper bound of the mean of k less that of j, ``half_width - difference``, shape ``(S, F)``.
    """

    kept: BoolArray
    difference: FloatArray
    half_width: FloatArray
    bound: FloatArray


class Comparisons:
    """Tests on the finite columns ``delta (M, F)``, all on one draw of resamples."""

    def __init__(
        self,
        delta: FloatArray,
        *,
        confidence_level: float,
        method: BestSetMethod,
        num_resamples: int,
        rng: Rng,
    ) -> None:
        num_rows, num_columns = delta.shape
        self.level = confidence_level
        self.mean = describe(delta).mean
        # NOTE: no difference or sum of huge losses overflows in this unit, which is 1 for others.
        self._unit = 2.0 ** max(0, int(np.frexp(np.abs(delta).max(initial=0.0))[1]) - 1000)
        self._scaled = delta / self._unit
        self._magnitude = np.abs(self._scaled).max(axis=0)
        self._num_resamples = check_integer("num_resamples", num_resamples, minimum=1)
        self._chunk = max(1, MAX_STATISTICS // max(num_rows, self._num_resamples))
        bonferroni = 1.0 - (1.0 - confidence_level) / max(1, num_columns - 1)
        self._far_out = FAR_OUT * max(1.0, float(stats.t.ppf(bonferroni, num_rows - 1)))
        self._resamples: Resamples | None = None
        if method == "studentized":
            self._resamples = Resamples(num_rows, num_resamples, rng)
            # NOTE: with so few rows that resamples are often constant, no critical value is finite and none is out.
            if float(num_rows) ** (1 - num_rows) > (1.0 - confidence_level) / 4.0:
                self._far_out = np.inf
        else:
            normal = drawn(draw_t, self._num_resamples, num_rows, check_rng(rng))
            self._errors = (self._scaled - self.mean / self._unit).T @ normal.T

    def far_out(self, pick: int) -> BoolArray:
        """Return which columns are so much worse than the pick that they need no test, shape (F,)."""
        if np.isinf(self._far_out):
            return np.zeros(self.mean.size, dtype=np.bool_)
        everyone = np.arange(self.mean.size)
        columns = self._differences(everyone, np.array([pick]))
        differ = np.abs(columns.mean) > self._resolution(everyone, np.array([pick])).ravel()
        return differ & (columns.mean > self._far_out * columns.sem)

    def of(self, tested: IntArray) -> Comparison:
        """Test whether the mean of each column of ``tested (S,)`` can be the smallest."""
        order = np.concatenate([tested, np.setdiff1d(np.arange(self.mean.size), tested)])
        mean, sem = np.zeros((2, tested.size, order.size))
        largest, smallest = np.zeros((2, tested.size, self._num_resamples))
        workspace = np.empty((2, min(self._chunk, mean.size), self._num_resamples))
        for rows, partners in _tiles(tested.size, order.size, self._chunk):
            pairs = self._differences(order[rows], order[partners])
            statistic = self._statistic(pairs, order[rows], order[partners], workspace)
            mean[rows, partners] = pairs.mean.reshape(statistic.shape[:2])
            sem[rows, partners] = pairs.sem.reshape(statistic.shape[:2])
            np.maximum(largest[rows], statistic.max(axis=1), out=largest[rows])
            # A pair (j, k) of a tested k beyond the rows of this tile is (k, j) with the other sign.
            after = slice(max(partners.start, rows.stop), min(partners.stop, tested.size))
            if after.start < after.stop:
                mean[after, rows], sem[after, rows] = -mean[rows, after].T, sem[rows, after].T
                mirrored = statistic[:, after.start - partners.start : after.stop - partners.start]
                np.minimum(smallest[after], mirrored.min(axis=0), out=smallest[after])
        critical = self._critical_values(np.maximum(largest, -smallest), tested)
        half_width = np.multiply(critical[:, order], sem, out=np.zeros_like(sem), where=sem > 0.0)
        rejected = (np.abs(mean) > self._resolution(tested, order)) & (mean > half_width)
        back = np.argsort(order)
        with np.errstate(over="ignore"):
            numbers = (self._unit * scaled[:, back] for scaled in (mean, half_width, half_width - mean))
            return Comparison(np.logical_not(rejected.any(axis=1)), *numbers)

    def _critical_values(self, largest: FloatArray, tested: IntArray) -> FloatArray:
        """Return those of the S tests from the maxima ``(S, B)``, ``inf`` for pairs that take no part, ``(S, F)``."""
        critical = np.tile(critical_value(largest.T, self.level)[:, None], self.mean.size)
        if self._resamples is None:
            return critical
        critical = self._resamples.statistic(critical)
        tied = self._resamples.tied(self._resamples.statistic(largest).T)
        often = np.flatnonzero(tied.mean(axis=0) > MAX_TIED)
        several = max(1, self._chunk // self.mean.size)
        for start in range(0, often.size, several):
            part = often[start : start + several]
            critical[part] = self._critical_values_of_comparable(self._resamples, tested[part])
        return critical

    def _critical_values_of_comparable(self, resamples: Resamples, tested: IntArray) -> FloatArray:
        """Return those of tests whose maximum over all pairs is infinite too often, from some pairs, ``(S, F)``."""
        everyone = np.arange(self.mean.size)
        workspace = np.empty((2, tested.size * everyone.size, self._num_resamples))
        ratio = self._statistic(self._differences(tested, everyone), tested, everyone, workspace)
        shared = resamples.comparable(resamples.statistic(ratio).T).T
        largest = np.where(shared[:, :, None], ratio, 0.0).max(axis=1)
        critical = resamples.statistic(critical_value(largest.T, self.level))
        chosen: FloatArray = np.where(shared, critical[:, None], np.inf)
        return chosen

    def _resolution(self, rows: IntArray, partners: IntArray) -> FloatArray:
        """Return below which the difference of two columns is rounding, shape ``(c, n)``."""
        resolution: FloatArray = RESOLUTION * (self._magnitude[rows, None] + self._magnitude[partners])
        return resolution

    def _differences(self, rows: IntArray, partners: IntArray) -> Columns:
        """Return the scaled moments of the differences of each of c columns and each of n, ``c * n`` columns."""
        differences = self._scaled[:, rows, None] - self._scaled[:, None, partners]
        resolution = self._resolution(rows, partners)
        return describe(differences.reshape(-1, resolution.size), resolution=resolution.ravel())

    def _statistic(self, pairs: Columns, rows: IntArray, partners: IntArray, workspace: FloatArray) -> FloatArray:
        """Return what increases with the resampled t statistic of each pair, 0 if that does not vary, ``(c, n, B)``.

        It is a part of ``workspace``, of shape ``(2, c * n, B)`` or more.
        """
        shape = (rows.size, partners.size, self._num_resamples)
        varied = pairs.varied
        error: FloatArray = workspace[0, : varied.size]
        if self._resamples is None:
            np.subtract(self._errors[rows, None], self._errors[partners], out=error.reshape(shape))
            error /= np.where(varied, pairs.sem, np.inf)[:, None]
            return error.reshape(shape)
        centred = pairs.centred
        if not varied.all():
            centred = np.ones((len(centred), varied.size))
            centred[:, varied] = pairs.centred
        ratio = self._resamples.ratios(centred, error, workspace[1, : varied.size])
        ratio[~varied] = 0.0
        return ratio.reshape(shape)


def _tiles(num_rows: int, num_columns: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Cut the pairs ``j <= k``, j below ``num_rows`` and k below ``num_columns``, into tiles of at most ``size``."""
    # NOTE: low ones, as pairs of the diagonal are done twice, but not so low that the maxima cost more than the pairs.
    height = max(1, isqrt(size) // 2)
    width = size // height
    for start in range(0, num_rows, height):
        for left in range(start, num_columns, width):
            yield slice(start, min(start + height, num_rows)), slice(left, min(left + width, num_columns))

"""One learning rate against all others: the test that decides whether it can be the best one."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from autolr._typing import BestSetMethod, BoolArray, FloatArray, Rng
from autolr._validation import check_integer, check_rng
from autolr.statistics._columns import Columns, describe
from autolr.statistics._resampling import Resamples, comparable, critical_value

# Two columns whose difference varies by less than this share of their values are the same but for rounding.
RESOLUTION = 1e-12
# A rate whose t statistic against the pick is above this many Bonferroni critical values is out without a resample.
FAR_OUT = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """The test of "rate j is the best" against each of the F finite columns.

    Attributes:
        kept: Whether it is not rejected.
        difference: Mean of the paired difference j less k, shape ``(F,)``.
        half_width: Critical value times the standard error of that difference: 0 for a difference that does not vary,
            ``inf`` for one that took no part in the test, shape ``(F,)``.
    """

    kept: bool
    difference: FloatArray
    half_width: FloatArray


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
        self.delta = delta
        self.level = confidence_level
        num_rows, num_columns = delta.shape
        self.mean = describe(delta).mean
        self._magnitude = np.abs(delta).max(axis=0)
        bonferroni = 1.0 - (1.0 - confidence_level) / max(1, num_columns - 1)
        self._far_out = FAR_OUT * float(stats.t.ppf(bonferroni, num_rows - 1))
        self._resamples: Resamples | None = None
        if method == "studentized":
            self._resamples = Resamples(num_rows, num_resamples, rng)
            # NOTE: with so few rows that resamples are often constant, no critical value is finite and none is out.
            if float(num_rows) ** (1 - num_rows) > (1.0 - confidence_level) / 4.0:
                self._far_out = np.inf
        else:
            size = check_integer("num_resamples", num_resamples, minimum=1)
            generator = np.random.default_rng(check_rng(rng))
            normal = generator.standard_normal((size, num_rows)) / np.sqrt(num_rows * (num_rows - 1.0))
            chi = np.sqrt(generator.chisquare(num_rows - 1, size=(size, 1)) / (num_rows - 1))
            self._errors = normal @ (delta - self.mean) / chi

    def _differences(self, column: int) -> tuple[Columns, BoolArray]:
        """Return the moments of column j less each column, and which of these differ but for rounding."""
        resolution = RESOLUTION * (self._magnitude + self._magnitude[column])
        with np.errstate(over="ignore"):
            columns = describe(self.delta[:, [column]] - self.delta, resolution=resolution)
        return columns, np.abs(columns.mean) > resolution

    def far_out(self, pick: int) -> BoolArray:
        """Return which columns are so much worse than the pick that they need no test, shape (F,)."""
        if np.isinf(self._far_out):
            return np.zeros(self.delta.shape[1], dtype=np.bool_)
        columns, differ = self._differences(pick)
        return differ & (-columns.mean > self._far_out * columns.sem)

    def of(self, column: int) -> Comparison:
        """Test whether the mean of ``column`` can be the smallest."""
        columns, differ = self._differences(column)
        half_width = np.zeros_like(columns.mean)
        varied = columns.varied
        sem = columns.sem[varied]
        if self._resamples is not None:
            statistic = self._resamples.studentized(columns.centred)
            shared = comparable(statistic, self.level)
        else:
            statistic = (self._errors[:, [column]] - self._errors[:, varied]) / sem
            shared = np.ones(statistic.shape[1], dtype=np.bool_)
        critical = np.inf
        if shared.any():
            critical = max(0.0, float(critical_value(statistic[:, shared].max(axis=1), self.level)))
        half_width[varied] = np.where(shared, critical * sem, np.inf)
        rejected = differ & (columns.mean > half_width)
        return Comparison(kept=not rejected.any(), difference=columns.mean, half_width=half_width)

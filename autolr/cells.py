"""The losses probed so far, cell by cell: rows at some rates first, at others later."""

from collections.abc import Callable

import numpy as np

from autolr._typing import BoolArray, EngineName, FloatArray, IntArray
from autolr.probing.rows import FinishedRows, ProbedRows

# from rates, rows, the engine and the number of rows to probe whatever the time
ProbeRows = Callable[[FloatArray, range, EngineName, int], ProbedRows]


class RememberedProbes:
    """Probes that remember what they have made, so that an interrupted tuning can be gone through again without any.

    Whatever decides what is probed depends on the losses alone. Given the same ones, it comes to the same point; there
    the data seems to end, and what it makes of that is the result of what was finished.

    Args:
        probe: What probes rows at some rates, and puts each row that is finished into its argument ``finished``.
    """

    def __init__(self, probe: Callable[..., ProbedRows]) -> None:
        self._probe = probe
        self._made: list[tuple[range, ProbedRows | FinishedRows]] = []

    def __call__(self, learning_rates: FloatArray, rows: range, engine: EngineName, at_least: int) -> ProbedRows:
        """Probe rows: see :data:`ProbeRows`."""
        finished = FinishedRows()
        self._made.append((rows, finished))
        probed = self._probe(learning_rates, rows, engine, at_least, finished=finished)
        self._made[-1] = rows, probed
        return probed

    @property
    def end(self) -> int:
        """The number after that of the last row that was finished at some rates; 0 where there is none."""
        finished = (rows[: len(made.loss_pre)] for rows, made in self._made)
        return max((rows[-1] + 1 for rows in finished if rows), default=0)

    def again(self) -> ProbeRows:
        """Return what gives the same losses in the same order, and nothing once these are over."""
        unverified = "interrupted before the last row was verified"
        parts = (made if isinstance(made, ProbedRows) else made.probed(unverified) for _, made in self._made)
        nothing = ProbedRows(np.empty(0), np.empty(0), "none", "interrupted", out_of_time=False)
        return lambda *_: next(parts, nothing)


class ProbedCells:
    """What was probed of M rows at K rates; more is added to it by probes.

    Args:
        probe: What probes rows at some rates; a row can be probed again, at other rates.
        learning_rates: All rates, shape ``(K,)``.
        num_horizons: The number of losses of a probe, H.
        engine: The engine asked for; once "auto" has stepped aside for the reference engine, it stays there.
        first: The number of the first row.

    Attributes:
        loss_pre: Losses before the step, shape ``(M,)``.
        loss_post: Losses after it, NaN where not probed, shape ``(M, K, H)``.
    """

    def __init__(
        self, probe: ProbeRows, learning_rates: FloatArray, *, num_horizons: int, engine: EngineName, first: int = 0
    ) -> None:
        self._probe, self._engine, self._first = probe, engine, first
        self._parts: list[ProbedRows] = []
        self._settled = False
        self.learning_rates = learning_rates
        self.loss_pre = np.empty(0)
        self.loss_post = np.empty((0, learning_rates.size, num_horizons))

    @property
    def num_rows(self) -> int:
        """The number of rows M."""
        return len(self.loss_pre)

    @property
    def num_probes(self) -> int:
        """How many cells were probed."""
        return int((~np.isnan(self.loss_post[:, :, -1])).sum())

    @property
    def delta(self) -> FloatArray:
        """The loss differentials, NaN where not probed, shape ``(M, K, H)``."""
        return self.differences(self.loss_post)

    def differences(self, loss_post: FloatArray) -> FloatArray:
        """Return losses after the step, shape ``(M, K, H)``, less those before."""
        with np.errstate(over="ignore"):
            return np.asarray(loss_post - self.loss_pre[:, np.newaxis, np.newaxis])

    def fill(self, rows: range, columns: IntArray, *, at_least: int | None = None) -> int:
        """Probe rows at the rates of some columns, and return how many there were before the data or the time ended.

        Args:
            rows: Their numbers, increasing; those that are new follow upon the last one.
            columns: Increasing.
            at_least: How many are probed whatever the time; by default two in the first call and none later.
        """
        if not rows:
            return 0
        least = (0 if self._parts else 2) if at_least is None else at_least
        part = self._probe(self.learning_rates[columns], rows, "step" if self._settled else self._engine, least)
        self._parts.append(part)
        # NOTE: one rate takes one real step at any engine's choice, which says nothing about several
        self._settled |= part.engine == "step" and columns.size > 1 and len(part.loss_pre) > 0
        done = np.array(rows[: len(part.loss_pre)], dtype=np.int64) - self._first
        num_new = int(done.max(initial=-1)) + 1 - self.num_rows
        if num_new > 0:
            self.loss_pre = np.concatenate([self.loss_pre, part.loss_pre[-num_new:]])
            new = np.full((num_new, *self.loss_post.shape[1:]), np.nan)
            self.loss_post = np.concatenate([self.loss_post, new])
        self.loss_post[np.ix_(done, columns)] = part.loss_post.reshape(done.size, columns.size, self.loss_post.shape[2])
        return done.size

    def fill_gaps(self, rows: range, columns: IntArray) -> int:
        """Probe what is missing of rows at some columns, and return how many of the rows, from the first, are whole.

        The rows that exist are probed whatever the time: it ends rows, and not the rates of a row. (An interrupt does
        end these.)
        """
        known = self._known(rows, columns)
        gaps = np.flatnonzero(~known.all(axis=1))
        if gaps.size:
            missing = rows[int(gaps[0]) : int(gaps[-1]) + 1]
            self.fill(missing, columns[~known.all(axis=0)], at_least=len(missing))
        if len(known) < len(rows):
            self.fill(rows[len(known) :], columns)
        return self.num_whole(rows, columns)

    def num_whole(self, rows: range, columns: IntArray) -> int:
        """Return how many of the rows, from the first, were probed at all of the columns."""
        return int(np.logical_and.accumulate(self._known(rows, columns).all(axis=1)).sum())

    def _known(self, rows: range, columns: IntArray) -> BoolArray:
        """Return which cells of those rows that exist were probed, shape ``(m, len(columns))``."""
        cells = self.loss_post[rows.start - self._first : rows.stop - self._first, columns, -1]
        return np.asarray(~np.isnan(cells))

    def truncate(self, num_rows: int) -> None:
        """Keep the first rows only."""
        self.loss_pre, self.loss_post = self.loss_pre[:num_rows], self.loss_post[:num_rows]

    @property
    def repeatable(self) -> bool:
        """Whether no probe has seen a loss that is not the same when computed again."""
        return all(part.repeatable for part in self._parts)

    def joined(self) -> ProbedRows:
        """Return all losses, and what is to be said of the parts; one without rows says only that time was over."""
        filled = [part for part in self._parts if len(part.loss_pre)] or self._parts[:1]
        # NOTE: of one engine's reasons that differ in the times they tell, the last one
        reasons = {
            (part.engine, part.engine_reason.partition(";")[0]): part.engine_reason
            for part in filled
            if part.engine_reason != "asked for"
        }
        return ProbedRows(
            self.loss_pre,
            self.loss_post,
            ", then ".join(dict.fromkeys(part.engine for part in filled)),
            ", then ".join(dict.fromkeys(reasons.values())) or "asked for",
            any(part.out_of_time for part in self._parts),
            self.repeatable,
        )

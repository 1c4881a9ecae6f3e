"""Row after row: each subsample is probed at every rate, by the fastest engine that verifies."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from autolr._typing import Batch, EngineName, FloatArray, IntArray
from autolr._validation import invalid
from autolr.probing.forwards import distance
from autolr.probing.line import LineProbe
from autolr.probing.stacked_rows import RowSeed, TrajectoryRows, is_worth_it
from autolr.probing.start import Start
from autolr.probing.step import probe_by_steps
from autolr.probing.trajectory import probe_by_trajectories

logger = logging.getLogger("autolr")

ONE_STEP: IntArray = np.ones(1, dtype=np.int64)

# from the number of a row and its batches (of the steps, and of the evaluation) to its losses
Probe = Callable[[int, Sequence[Batch]], tuple[float, FloatArray]]
Draw = Callable[[int], Sequence[Batch] | None]
Progress = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True, slots=True)
class ProbedRows:
    """The losses of the rows that were probed, and how.

    Attributes:
        loss_pre: Losses before the step, shape ``(M,)``.
        loss_post: Losses after the step, shape ``(M, K)``, or after several, ``(M, K, H)``, or empty; ``inf`` where a
            probe diverged.
        engine: The engine that made them.
        engine_reason: Why this engine.
        out_of_time: Whether the clock stopped the rows.
        repeatable: Whether the loss of the first row was the same when it was computed again; where not, rates are
            compared across noise of the loss's own.
    """

    loss_pre: FloatArray
    loss_post: FloatArray
    engine: str
    engine_reason: str
    out_of_time: bool
    repeatable: bool = True


@dataclass(slots=True, eq=False)
class FinishedRows:
    """The rows that are finished while others are probed: what is there where an interrupt ends them.

    Attributes:
        engine: The engine that makes them.
        repeatable: Whether the loss of the first row was the same when it was computed again.
        loss_pre: Their losses before the step.
        loss_post: Their losses after it, each in the shape of a row.
    """

    engine: str = "none"
    repeatable: bool = True
    loss_pre: list[float] = field(default_factory=list)
    loss_post: list[FloatArray] = field(default_factory=list)

    def begin(self, engine: str, *, repeatable: bool) -> None:
        """Forget all rows: an engine begins."""
        self.engine, self.repeatable, self.loss_pre, self.loss_post = engine, repeatable, [], []

    def probed(self, reason: str, *, out_of_time: bool = False) -> ProbedRows:
        """Return the losses."""
        losses = np.array(self.loss_pre), np.array(self.loss_post[: len(self.loss_pre)])
        return ProbedRows(*losses, self.engine, reason, out_of_time, self.repeatable)


@dataclass(slots=True, eq=False)
class Passes:
    """What the passes over the rows of one call have in common, each at rates of its own.

    Attributes:
        line: The line engine, which was verified on the first row of the first pass, and whose losses are computed in
            the way that was found to be the fastest; ``None`` before, and where it has stepped aside.
        repeatable: Whether the loss of that row was the same when it was computed again; ``None`` before.
        verified: The rows on which that engine was verified.
    """

    line: LineProbe | None = None
    repeatable: bool | None = None
    verified: set[int] = field(default_factory=set)

    def line_for(self, start: Start, learning_rates: FloatArray, engine: EngineName) -> LineProbe:
        """Return the line engine, that of an earlier pass if it reaches as far as these rates."""
        if self.line is None or learning_rates[-1] > self.line.highest:
            self.line, self.verified = LineProbe(start, learning_rates, engine), set()
        return self.line

    def objection(self, row: int, draw: Draw) -> str | None:
        """Return why the line engine may not be used, by a row, or ``None`` where the row verifies it, or has done."""
        if self.line is None or row in self.verified:
            return None
        batches, has_learned = draw(row), self.line.is_verified
        objection = "there is no data" if batches is None else self.line.objection(*batches)
        if objection is None and has_learned:  # what was learned from a row is not verified by it at once
            self.verified.add(row)
        return objection


def probe_rows(
    start: Start,
    learning_rates: FloatArray,
    draw: Draw,
    rows: range,
    *,
    engine: EngineName,
    horizons: IntArray = ONE_STEP,
    seed: RowSeed | None = None,
    deadline: float | None = None,
    at_least: int = 2,
    progress: Progress = iter,
    finished: FinishedRows | None = None,
    passes: Passes | None = None,
) -> ProbedRows:
    """Probe the rows in their order, until they, the data or the time end.

    The line engine is verified on the first row, before it is used, and on the last one; where it fails, the reference
    engine probes all rows. (In later passes over rows, on the last row only, and once on each row.) A row in between
    whose step is not on a line is probed by the reference engine alone. So are all rows where a probe has several
    steps, but where the rates can be trained side by side (:class:`TrajectoryRows`).
    A loss that is not the same when computed again, on the first row, is logged as a warning.

    Args:
        start: Where every probe starts.
        learning_rates: The rates, shape ``(K,)``.
        draw: From the number of a row to its batches (gradients, evaluation), or ``None`` where the data has ended; it
            moves the random state to the row's own. The same number gives the same batches again.
        rows: The numbers of the rows.
        engine: ``"auto"``, ``"step"``, ``"line"`` or ``"batched"``.
        horizons: After how many steps losses are recorded, increasing, shape ``(H,)``.
        seed: The random state of each step of a row, for several steps; the row's own for step 0.
        deadline: The time (``time.perf_counter()``) after which no row is begun.
        at_least: The number of rows that are probed whatever the time.
        progress: What the loop over the rows is wrapped in, a progress bar.
        finished: Where the rows are put as they are finished, for the caller that may be interrupted.
        passes: What is known from earlier passes over rows, with the same start and engine; it is added to.

    Returns:
        The losses.

    Raises:
        ValueError: If a loss before the step is not finite.
    """
    reference = partial(probe_row, start, learning_rates, horizons, seed)
    if at_least == 0 and _is_over(deadline, start):
        return ProbedRows(np.empty(0), np.empty(0), engine, "there was no time", out_of_time=True)
    passes = Passes() if passes is None else passes
    first = draw(rows[0])
    if passes.repeatable is None and first is not None:
        passes.repeatable = _is_repeatable(start, first[-1])
    probe = partial(
        _probe,
        start=start,
        draw=draw,
        rows=rows,
        deadline=deadline,
        at_least=at_least,
        progress=progress,
        finished=FinishedRows() if finished is None else finished,
        repeatable=passes.repeatable is not False,
    )
    if engine == "step":
        return probe(reference, engine="step", reason="asked for")
    if horizons[-1] > 1 and seed is not None:
        if engine == "batched" or (engine == "auto" and is_worth_it(start, len(rows), len(learning_rates))):
            trajectories = TrajectoryRows(start, learning_rates, horizons, seed, engine)
            return _probe_side_by_side(trajectories, first, probe, reference, draw=draw, rows=rows)
        reason = "several steps are real steps"
        if engine != "auto":
            _log_objection(engine, reason)
        return probe(reference, engine="step", reason=reason)
    if engine == "auto" and len(learning_rates) == 1:
        return probe(reference, engine="step", reason="one rate needs one step")
    line = passes.line_for(start, learning_rates, engine)
    objection = None if line.is_verified else passes.objection(rows[0], lambda _: first)
    if objection is None:
        probed = probe(lambda _, batches: line(learning_rates, *batches), engine="line", reason="")
        num_probed = len(probed.loss_pre)
        objection = None if num_probed == 0 else passes.objection(rows[num_probed - 1], draw)
        if objection is None:
            which = "every row" if line.checks_every_row else "the first and the last row"
            reasons = (f"verified against real steps in {which}", line.contest.reason)
            return replace(probed, engine=line.contest.leader, engine_reason="; ".join(filter(None, reasons)))
    passes.line = None
    _log_objection(engine, objection)
    return probe(reference, engine="step", reason=f"the line engine stepped aside: {objection}")


def probe_row(
    start: Start,
    learning_rates: FloatArray,
    horizons: IntArray,
    seed: RowSeed | None,
    row: int,
    batches: Sequence[Batch],
) -> tuple[float, FloatArray]:
    """Return the losses of a row by the reference: a step from the start, or a trajectory where there are several.

    Args:
        start: Where every probe starts.
        learning_rates: The rates, shape ``(K,)``.
        horizons: After how many steps losses are recorded, where there are several.
        seed: The random state of each step of a row, where there are several.
        row: The number of the row.
        batches: Those of the steps, then that of the losses.

    Returns:
        The loss before, and the losses after, shape ``(K,)``, or ``(K, H)`` where there are several steps.
    """
    *steps, evaluation_batch = batches
    if len(steps) == 1 or seed is None:
        return probe_by_steps(start, learning_rates, steps[0], evaluation_batch)
    return probe_by_trajectories(start, learning_rates, horizons, steps, evaluation_batch, seed=partial(seed, row))


def _probe_side_by_side(
    trajectories: TrajectoryRows,
    first: Sequence[Batch] | None,
    probe: Callable[..., ProbedRows],
    reference: Probe,
    *,
    draw: Draw,
    rows: range,
) -> ProbedRows:
    """Probe rows of several steps; by the reference alone where they are not verified on the first and the last row."""
    is_verified = first is not None and trajectories.objection(rows[0], first) is None
    probed = probe(trajectories if is_verified else reference, engine="step", reason="")
    num_probed = len(probed.loss_pre)
    if num_probed > 0 and trajectories.contest.leader != "step":
        last = draw(rows[num_probed - 1])
        if last is None or trajectories.objection(rows[num_probed - 1], last) is not None:
            probed = probe(reference, engine="step", reason="")
    return replace(probed, engine=trajectories.contest.leader, engine_reason=trajectories.reason)


def _log_objection(engine: EngineName, objection: str) -> None:
    level = logging.INFO if engine == "auto" else logging.WARNING
    logger.log(level, "The line engine steps aside for the reference engine: %s.", objection)


def _is_repeatable(start: Start, batch: Batch) -> bool:
    """Return whether the loss at the start is the same twice, to the tolerance of the line engine's gate."""
    losses = []
    for _ in range(2):
        start.restore()
        losses.append(start.loss(batch))
    start.restore()
    first, second = losses
    repeatable = distance(second, first, start.objective.epsilon) <= 1.0
    if not repeatable:
        logger.warning("The loss is not repeatable: from one state it is %.8g, then %.8g.", first, second)
    return repeatable


def _probe(
    probe: Probe,
    *,
    start: Start,
    draw: Draw,
    rows: range,
    deadline: float | None,
    at_least: int,
    progress: Progress,
    finished: FinishedRows,
    repeatable: bool,
    engine: str,
    reason: str,
) -> ProbedRows:
    finished.begin(engine, repeatable=repeatable)
    out_of_time = False
    for row in progress(rows):
        out_of_time = len(finished.loss_pre) >= at_least and _is_over(deadline, start)
        batches = None if out_of_time else draw(row)
        if batches is None:
            break
        pre, post = probe(row, batches)
        if not np.isfinite(pre):
            where = f"be finite in every subsample (subsample {row}: NaN or inf in X, Y or the weights?)"
            raise ValueError(invalid("loss_pre", where, pre))
        finished.loss_post.append(post)
        finished.loss_pre.append(pre)
    return finished.probed(reason, out_of_time=out_of_time)


def _is_over(deadline: float | None, start: Start) -> bool:
    return deadline is not None and start.objective.lockstep.any(time.perf_counter() > deadline)

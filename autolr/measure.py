"""A plan carried out: everything preserved, its rows probed, the losses made into a result."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import numpy as np
from tqdm.auto import tqdm

from autolr._progress import progress_bar
from autolr._typing import Batch, BoolArray, EngineName, FloatArray
from autolr._validation import invalid
from autolr._version import versions
from autolr.adaptive import probe_adaptively
from autolr.cells import ProbeRows, RememberedProbes
from autolr.differentials import LossDifferentials
from autolr.distributed import as_one_process, check_same, fingerprints, in_step, share_rows, told_together
from autolr.interpolation_error import TOLERANCE, share_left
from autolr.plan import Plan
from autolr.probing.objective import Objective
from autolr.probing.rows import Passes, ProbedRows, probe_row, probe_rows
from autolr.probing.start import Start
from autolr.probing.state import Snapshot
from autolr.probing.warmup import warm_up
from autolr.ranks import Ranks
from autolr.result import TuningResult
from autolr.sparse import probe_sparsely
from autolr.training import Training, check_batch


def measure(
    plan: Plan,
    training: Training,
    rows: range,
    *,
    before: TuningResult | None = None,
    keep: Callable[[TuningResult], object],
    ranks: Ranks,
) -> TuningResult:
    """Probe the rows of a plan with everything preserved, and return them as a result.

    Args:
        plan: What is probed.
        training: What the user trains with; it ends as it began.
        rows: The numbers of the rows.
        before: The rows that these extend; the first of them is probed again, to see whether something has changed.
        keep: Called with the rows that are finished where Ctrl-C ends them, if they are enough; the interrupt is then
            raised.
        ranks: The processes that make the call together.

    Raises:
        ValueError: If the data gives fewer than two rows, or none to add; a loss before the step is not finite; the
            rows before were those of another model, optimizer or data; or the ranks were not given the same.
    """
    began, probe = time.perf_counter(), None
    try:
        training = in_step(ranks, training)
        with training.preserved(plan.generators, plan.row_generators) as start:
            start = as_one_process(ranks, training, start)
            objective, randomness = start.objective, start.randomness
            draw = partial(plan.draw, randomness)
            first = draw(rows[0]) or ()
            _check_batches(objective, first)
            check_same(ranks, lambda: {**plan.asked, **training.settings(), **fingerprints(start, first, X=plan.data)})
            if plan.warmup_steps:
                warm_up(start, plan.warmup_batches(randomness), plan.warmup_steps)
                start = replace(start, snapshot=Snapshot(*start.objects()))
            if before is not None:
                _check_unchanged(start, plan, draw(0), before.differentials)
            deadline = None if plan.time_budget is None else began + plan.time_budget
            with progress_bar(plan.progress, len(rows), "subsamples") as bar:
                probe = RememberedProbes(
                    partial(
                        _probe_rows,
                        start,
                        draw=draw,
                        horizons=plan.horizons,
                        seed=plan.seed,
                        deadline=deadline,
                        progress=partial(_advance, bar, rows.start),
                        passes=Passes(),
                    )
                )
                shared = share_rows(ranks, probe, lockstep=start.objective.lockstep)
                probed, interpolated, told = _probe_as_planned(plan, shared, rows, before, objective.epsilon)
    except KeyboardInterrupt:
        at_least = 2 if before is None else 1
        if ranks.size == 1 and probe is not None and probe.end >= rows.start + at_least:
            probed, interpolated, told = _probe_as_planned(plan, probe.again(), rows, before, objective.epsilon)
            told |= {"interrupted": True, "num_left_out": probe.end - rows.start - len(probed.loss_pre)}
            if len(probed.loss_pre) >= at_least:
                keep(_as_result(plan, training, objective, rows, probed, interpolated, began, **told))
        raise
    _check_rows(plan, len(probed.loss_pre), is_first=before is None)
    result = _as_result(plan, training, objective, rows, probed, interpolated, began, **told)
    return replace(result, settings=told_together(ranks, dict(result.settings), objective.lockstep))


def _as_result(
    plan: Plan,
    training: Training,
    objective: Objective,
    rows: range,
    probed: ProbedRows,
    interpolated: BoolArray,
    began: float,
    **told: Any,
) -> TuningResult:
    """Return the losses with the settings that made them."""
    settings = {
        **plan.settings,
        "num_subsamples": len(rows),
        "evaluation_passes": plan.num_evaluation_passes,
        **plan.drawn_batches(),
        "engine": probed.engine,
        "engine_reason": probed.engine_reason,
        "repeatable": probed.repeatable,
        "out_of_time": probed.out_of_time,
        **told,
        **training.settings(),
        "resolution": objective.epsilon,
        "num_gradients": objective.num_gradients,
        "num_forwards": objective.num_forwards,
        "num_evaluations": objective.num_evaluations,
        "seconds": time.perf_counter() - began,
        "versions": versions(),
    }
    differentials = LossDifferentials(
        plan.learning_rates, probed.loss_pre, probed.loss_post, plan.horizons, interpolated
    )
    return TuningResult(differentials, settings)


def _check_batches(objective: Objective, batches: Sequence[Batch]) -> None:
    """Compute a first loss on the first and the last batch."""
    for name, batch in zip(("gradient's", "evaluation"), (*batches[:1], *batches[-1:]), strict=False):
        if name == "evaluation" and batch is batches[0]:
            continue
        check_batch(objective, name, batch)


def _check_unchanged(start: Start, plan: Plan, batches: Sequence[Batch] | None, before: LossDifferentials) -> None:
    """Raise unless the losses of the first row, before a step and after the first horizon in mid-grid, are the same."""
    middle = before.learning_rates.size // 2
    expected = before.loss_pre[0], before.loss_post[0, middle, 0]
    losses = (np.nan, np.nan)
    if batches is not None:
        pre, post = probe_row(start, before.learning_rates[[middle]], before.horizons[:1], plan.seed, 0, batches)
        losses = pre, float(post.flat[0])
    if not np.allclose(losses, expected, rtol=1e-5, atol=1e-6):
        raise ValueError(
            "`num_subsamples` must extend a result of the same model, optimizer and data, got losses of"
            f" {losses[0]:.6g} and {losses[1]:.6g} on the first subsample, where they were {expected[0]:.6g} and"
            f" {expected[1]:.6g}: tune again."
        )


def _check_rows(plan: Plan, num_rows: int, *, is_first: bool) -> None:
    """Raise where the data has given too few rows."""
    if is_first and num_rows < 2:
        where = "X" if isinstance(plan.evaluation, str) else "X` and `evaluation"
        need = f"yield at least 2 rows of subsamples, from {2 * plan.num_batches} batches"
        raise ValueError(invalid(where, need, f"{num_rows} rows"))
    if num_rows == 0:
        raise ValueError("`num_subsamples` must leave rows to add, got a partition that has ended.")


def _probe_as_planned(
    plan: Plan, probe: ProbeRows, rows: range, before: TuningResult | None, epsilon: float
) -> tuple[ProbedRows, BoolArray, dict[str, Any]]:
    """Probe all rates in all rows, or fewer; and return the losses, which are interpolated, and what is to be told."""
    rates, num_horizons = plan.learning_rates, plan.horizons.size
    if plan.adaptive:
        return probe_adaptively(
            probe,
            rates,
            len(rows),
            num_horizons=num_horizons,
            engine=plan.engine,
            confidence_level=plan.confidence_level,
            regret_tolerance=plan.regret_tolerance,
            epsilon=epsilon if plan.interpolate else None,
        )
    if plan.interpolate:
        tolerance = TOLERANCE if before is None else _tolerance_left(before, len(rows))
        return probe_sparsely(
            probe,
            rates,
            rows,
            num_horizons=num_horizons,
            engine=plan.engine,
            epsilon=epsilon,
            tolerance=tolerance,
        )
    probed = probe(rates, rows, plan.engine, 2)
    return probed, _none(plan, probed), {}


def _none(plan: Plan, probed: ProbedRows) -> BoolArray:
    """Return that none of the losses is interpolated, shape ``(M, K, H)``."""
    return np.zeros((len(probed.loss_pre), plan.learning_rates.size, plan.horizons.size), dtype=np.bool_)


def _tolerance_left(before: TuningResult, num_added: int) -> float:
    """Return which error of interpolation the rows may have that are added to these."""
    share = before.settings["interpolation"]["error"]
    return share_left(share or 0.0, before.differentials.num_subsamples, num_added)


def _probe_rows(
    start: Start, learning_rates: FloatArray, rows: range, engine: EngineName, at_least: int = 2, **options: Any
) -> ProbedRows:
    return probe_rows(start, learning_rates, rows=rows, engine=engine, at_least=at_least, **options)


def _advance(bar: "tqdm[NoReturn]", first: int, rows: Iterable[int]) -> Iterator[int]:
    """Yield the rows, and keep the bar at what is done of them: a second pass over them takes it back.

    Args:
        bar: The bar.
        first: The number of the first row.
        rows: The numbers of the rows.
    """
    for row in rows:
        bar.update(row - first - bar.n)
        yield row
        bar.update(row + 1 - first - bar.n)

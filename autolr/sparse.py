"""Sparse tuning: most rows are probed at a few rates only, the curve between them is interpolated and checked."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from autolr._typing import BoolArray, EngineName, FloatArray, IntArray
from autolr.cells import ProbedCells, ProbeRows
from autolr.interpolation import choose_nodes, doubtful, first_nodes, interpolate
from autolr.interpolation_error import TOLERANCE, InterpolationError
from autolr.probing.rows import ProbedRows

# The first rows are probed at all rates, and of each block after them the last one and, before it, every 20th.
NUM_FIRST_ROWS, EVERY_ROW = 8, 20
# The first rows add nodes to so many, one by one, for the others to confirm.
NUM_FIRST_NODES = 8
# With fewer rows or rates, there is too little to be saved.
FEWEST_ROWS, FEWEST_RATES = 12, 24
# A row is in doubt where two curves through its nodes differ by this share of what would, from one row alone, shift the
# mean by all that is allowed. Seen to halve the largest errors, for a few nodes more.
DOUBT = 0.1
# With a larger share of the rates, too little is saved for what the probes in several passes cost.
LARGEST_SHARE = 0.6
# The pick and so many rates on either side are probed in every row: the differences between them are smaller than any
# error allowed for a mean. Of the first rows' pick these are more, as it may move, and another pass costs a gradient.
NEIGHBOURS, GUESSED_NEIGHBOURS = 1, 2


@dataclass(frozen=True, slots=True, eq=False)
class SparseRows:
    """How rows were probed.

    Attributes:
        nodes: At which rates every row was probed, shape ``(K,)``.
        checked: The rows that were probed at all rates, counted from the first one.
        error: What they say about the others; ``None`` where nothing is interpolated.
        reason: Why nothing is interpolated; empty where something is.
    """

    nodes: BoolArray
    checked: IntArray
    error: InterpolationError | None
    reason: str = ""

    @classmethod
    def exact(cls, num_rates: int, reason: str) -> "SparseRows":
        """Return that all rows are probed at all rates, for a reason."""
        return cls(np.ones(num_rates, dtype=np.bool_), np.empty(0, dtype=np.int64), None, reason)

    def as_settings(self, cells: ProbedCells, num_rows: int | None = None) -> dict[str, Any]:
        """Return the JSON values that tell it, of the first rows; the error is ``None`` where it cannot be resolved."""
        error, nodes, num_rows = self.error, self.nodes, cells.num_rows if num_rows is None else num_rows
        num_unresolved = 0 if error is None else int((~error.resolved.all(axis=1) & ~nodes).sum())
        share: float | None = 0.0 if error is None else error.share
        reason = self.reason or "verified against exact probes"
        if error is not None and num_unresolved == (~nodes).sum():
            share, reason = None, "the errors of all curves are below the resolution of the loss"
        return {
            "num_nodes": int(nodes.sum()),
            "checked_subsamples": self.checked[self.checked < num_rows].tolist(),
            "error": share,
            "num_unresolved": num_unresolved,
            "num_probes": int((~np.isnan(cells.loss_post[:num_rows, :, -1])).sum()),
            "num_probes_exact": num_rows * nodes.size,
            "reason": reason,
        }


def probe_sparsely(
    probe: ProbeRows,
    learning_rates: FloatArray,
    rows: range,
    *,
    num_horizons: int,
    engine: EngineName,
    epsilon: float,
    tolerance: float = TOLERANCE,
) -> tuple[ProbedRows, BoolArray, dict[str, Any]]:
    """Probe rows at as few rates as their curves need, and interpolate the rest: see :func:`fill_sparsely`.

    Args:
        probe: What probes rows at some rates.
        learning_rates: All rates, shape ``(K,)``.
        rows: The numbers of the rows.
        num_horizons: The number of losses of a probe, H.
        engine: The engine asked for.
        epsilon: The resolution of the loss, as a share of it.
        tolerance: The error that is allowed, as a share of a standard error of the mean over these rows.

    Returns:
        The losses; which of them are interpolated, shape ``(M, K, H)``; and the settings that tell how it went, under
        ``interpolation``.
    """
    cells = ProbedCells(probe, learning_rates, num_horizons=num_horizons, engine=engine, first=rows.start)
    sparse = fill_sparsely(cells, rows, epsilon=epsilon, tolerance=tolerance)
    told = {"interpolation": sparse.as_settings(cells)}
    interpolated = np.isnan(cells.loss_post)
    cells.loss_post = completed(cells, sparse.nodes)
    return cells.joined(), interpolated, told


def fill_sparsely(cells: ProbedCells, rows: range, *, epsilon: float, tolerance: float = TOLERANCE) -> SparseRows:
    """Probe rows, some of them at all rates and the others at nodes through which their curves can be drawn.

    The first rows, at all rates, choose the nodes (:func:`autolr.interpolation.choose_nodes`). The others follow in
    blocks, up to the 20th, 100th, 500th row and so on. Of each, the last row and every 20th before it are probed at the
    other rates too; which rows these are does not look at any value. Where all of them together say that the error is
    too large, or a curve of any row is in doubt (:func:`autolr.interpolation.doubtful`), all rows so far are probed at
    more rates: in the end at all of them. The rate with the smallest mean and those beside it are among them too, which
    makes the pick an exact one. All rows are probed at all rates from the start where the rates or the rows are few,
    the loss is not repeatable, or too many nodes are needed.

    The clock ends the rows, not the rates of a row: one that was begun is probed at all that it turns out to need,
    whatever the time. So no row is left out for its values; and what is needed shows in the first block.

    An interrupt, after which nothing more is probed, ends these too (:class:`autolr.cells.RememberedProbes`). Then the
    rows up to the first one are left that lacks a rate which is needed, by the checks of the rows that are left; and
    only the first ones where no other has been checked.

    Args:
        cells: What is filled.
        rows: The numbers of the rows.
        epsilon: The resolution of the loss, as a share of it.
        tolerance: The error that is allowed, as a share of a standard error of the mean over these rows.
    """
    every = np.arange(cells.learning_rates.size)
    first = rows[:NUM_FIRST_ROWS]
    if len(rows) < FEWEST_ROWS:
        cells.fill(rows, every)
        return SparseRows.exact(every.size, "there are too few subsamples")
    if cells.fill(first, every) < len(first):
        return SparseRows.exact(every.size, "the data or the time ended early")
    check = partial(_check, cells, num_rows=len(rows), epsilon=epsilon, tolerance=tolerance)
    checked = np.arange(len(first))
    nodes, error, reason = check(checked)
    for block in _blocks(rows):
        begun = block[: cells.fill(block, np.flatnonzero(nodes))]
        if begun and not nodes.all():
            later = begun[::-1][::EVERY_ROW][::-1]
            later = later[: cells.fill(later, np.flatnonzero(~nodes), at_least=len(later))]
            checked = np.concatenate([checked, np.array(later, dtype=np.int64) - rows.start])
            checked = _keep_whole(cells, rows, nodes, checked)
            known = range(first.stop, begun.stop)
            more, error, reason = check(checked, nodes)
            while (more != nodes).any():
                cells.fill(known, np.flatnonzero(more & ~nodes), at_least=len(known))
                nodes = more
                checked = _keep_whole(cells, rows, nodes, checked)
                if nodes.all():
                    break
                more, error, reason = check(checked, nodes)
        if len(begun) < len(block):
            break
    if not np.isnan(cells.loss_post).any():
        return SparseRows.exact(every.size, reason or "the data or the time ended early")
    return SparseRows(nodes, checked, error)


def _keep_whole(cells: ProbedCells, rows: range, nodes: BoolArray, checked: IntArray) -> IntArray:
    """Keep the rows that an interrupt has left whole, all if there was none, and return the checked ones of them."""
    num_rows = cells.num_whole(rows, np.flatnonzero(nodes))
    if not (checked[NUM_FIRST_ROWS:] < num_rows).any():  # the first rows have chosen the nodes: they are no test
        num_rows = NUM_FIRST_ROWS
    cells.truncate(num_rows)
    return checked[checked < num_rows]


def _blocks(rows: range) -> Iterator[range]:
    """Yield the rows after the first ones, up to the 20th, the 100th, the 500th and so on."""
    begin, end = NUM_FIRST_ROWS, EVERY_ROW
    while begin < len(rows):
        yield rows[begin:end]
        begin, end = end, 5 * end


def completed(cells: ProbedCells, nodes: BoolArray) -> FloatArray:
    """Return the losses after the step, those that were not probed interpolated, shape ``(M, K, H)``."""
    if nodes.all():
        return cells.loss_post
    curves = cells.loss_pre[:, np.newaxis, np.newaxis] + interpolate(cells.learning_rates, cells.delta, nodes)
    return np.where(np.isnan(cells.loss_post), curves, cells.loss_post)


def _check(
    cells: ProbedCells,
    checked: IntArray,
    nodes: BoolArray | None = None,
    *,
    num_rows: int,
    epsilon: float,
    tolerance: float,
) -> tuple[BoolArray, InterpolationError | None, str]:
    """Return the nodes that the checked rows ask for, or any doubt about another row, and the error; or all, and why.

    Args:
        cells: What was probed.
        checked: The rows known at all rates.
        nodes: At which the other rows are known; ``None``: there are none yet.
        num_rows: See :func:`autolr.interpolation_error.error_of`.
        epsilon: The resolution of the loss, as a share of it.
        tolerance: See there.
    """
    rates, delta = cells.learning_rates, cells.delta
    every = np.ones(rates.size, dtype=np.bool_)
    if rates.size < FEWEST_RATES:
        return every, None, f"there are fewer than {FEWEST_RATES} learning rates"
    if not cells.repeatable:
        return every, None, "the loss is not repeatable"
    more, error = choose_nodes(
        rates,
        delta[checked],
        first_nodes(rates.size, NUM_FIRST_NODES) if nodes is None else nodes,
        num_rows=max(num_rows, checked.size + 1),
        resolution=epsilon * float(np.abs(cells.loss_pre).mean()),
        tolerance=tolerance,
        sparing=nodes is None,
    )
    if nodes is None:
        more = more | _around_the_pick(delta[checked], GUESSED_NEIGHBOURS)
    elif (more == nodes).all():
        curves = cells.differences(completed(cells, nodes))
        more = (
            nodes
            | doubtful(rates, delta, nodes, DOUBT * num_rows * error.allowed)
            | _around_the_pick(curves, NEIGHBOURS)
        )
    if more.sum() > LARGEST_SHARE * rates.size:
        return every, None, f"{int(more.sum())} of {rates.size} learning rates would be needed"
    return more, error, ""


def _around_the_pick(delta: FloatArray, width: int) -> BoolArray:
    """Return which rates are the one with the smallest mean of ``delta (M, K, H)`` at the last horizon, or near it."""
    last = delta[:, :, -1]
    with np.errstate(over="ignore"):
        means = np.where(np.isfinite(last).all(axis=0), last.mean(axis=0), np.inf)
    return np.asarray(np.abs(np.arange(means.size) - means.argmin()) <= width)

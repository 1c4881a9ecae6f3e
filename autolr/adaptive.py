"""Adaptive tuning: the race of the rates, with real probes."""

from dataclasses import replace
from typing import Any

import numpy as np

from autolr._typing import BoolArray, EngineName, FloatArray, IntArray
from autolr.cells import ProbedCells, ProbeRows
from autolr.interpolation import doubtful, interpolate
from autolr.interpolation_error import error_of
from autolr.probing.rows import ProbedRows
from autolr.sparse import DOUBT, SparseRows
from autolr.statistics.race import NUM_WHOLE_ROWS, Look, Race, race
from autolr.statistics.sequential import look_sizes

# Of so many rates or more, with more than one look, only some race at first: in steps of a third of a decade at most.
# Were the gain a parabola in the rate, one of them would have 86% of the largest gain, or more.
FEWEST_RATES, MESH = 32, 1.0 / 3.0


def probe_adaptively(
    probe: ProbeRows,
    learning_rates: FloatArray,
    num_subsamples: int,
    *,
    num_horizons: int,
    engine: EngineName,
    confidence_level: float,
    regret_tolerance: float,
    epsilon: float | None = None,
) -> tuple[ProbedRows, BoolArray, dict[str, Any]]:
    """Probe in looks (:func:`autolr.statistics.race.race`): rates that are out are not probed any further.

    Of many rates, those of a mesh race first, and those between them where the mesh says that the best one is.

    With interpolation, the same is probed, and all decisions are made by probes. What was not probed in the rows of the
    first look is then drawn by curves through what was, at the rates where the rows that were probed at all rates say
    that the error is small enough (:func:`autolr.interpolation_error.error_of`); they have not chosen the mesh.

    Args:
        probe: What probes rows at some rates.
        learning_rates: All rates, shape ``(K,)``.
        num_subsamples: The most rows.
        num_horizons: The number of losses of a probe H; the last one decides.
        engine: The engine asked for; once "auto" has stepped aside for the reference engine, it stays there.
        confidence_level: The level of the decision.
        regret_tolerance: The share of the pick's gain that its regret may have.
        epsilon: The resolution of the loss, as a share of it; ``None``: without interpolation.

    Returns:
        The losses, NaN where a rate was neither probed nor interpolated; which are interpolated, shape ``(M, K, H)``;
        and the settings that say how the race went: ``num_looks`` planned, ``looks`` made, ``stop``, ``num_probes`` and
        ``num_probes_fixed``, those of a tuning without looks; with interpolation also ``interpolation``.
    """
    cells = ProbedCells(probe, learning_rates, num_horizons=num_horizons, engine=engine)

    def differentials(rows: range, racing: IntArray) -> FloatArray:
        num_whole = cells.fill_gaps(rows, racing)
        return cells.delta[rows.start : rows.start + num_whole, racing, -1]

    run = race(
        differentials,
        num_subsamples,
        learning_rates.size,
        confidence_level=confidence_level,
        regret_tolerance=regret_tolerance,
        stride=stride_of(learning_rates, num_subsamples),
    )
    looks, sparse, drawn = run.looks, None, cells.loss_post[:0]
    if epsilon is not None:
        sparse, drawn = _drawn(cells, run, epsilon)
    if looks:  # other rows have only some of the rates, which are not to be compared
        cells.truncate(looks[-1].num_subsamples)
    told = {
        "num_looks": run.num_looks,
        "looks": [_as_settings(look) for look in looks],
        "stop": run.stop,
        "num_probes": cells.num_probes,
        "num_probes_fixed": num_subsamples * learning_rates.size,
    }
    if sparse is not None:
        num_rows = looks[0].num_subsamples if looks else cells.num_rows
        num_nodes = int((~np.isnan(cells.delta[:num_rows, :, -1])).all(axis=0).sum())
        told["interpolation"] = sparse.as_settings(cells, num_rows) | {"num_nodes": num_nodes}
    interpolated = np.isnan(cells.loss_post)
    cells.loss_post[: len(drawn)] = drawn
    return cells.joined(), interpolated & ~np.isnan(cells.loss_post), told


def stride_of(learning_rates: FloatArray, num_subsamples: int) -> int:
    """Return n where every n-th of some rates, increasing, races at first.

    Example:
        >>> rates = np.logspace(-4, 0, 100)
        >>> stride_of(rates, 100), stride_of(rates, 20), stride_of(rates[:31], 100)
        (8, 1, 1)
    """
    if learning_rates.size < FEWEST_RATES or len(look_sizes(num_subsamples)) == 1:
        return 1
    return max(1, int(MESH / np.diff(np.log10(learning_rates)).max()))


def _drawn(cells: ProbedCells, run: Race, epsilon: float) -> tuple[SparseRows, FloatArray]:
    """Return how the rows of the first look were probed, and their losses, what is missing drawn where that is right.

    Curves go through the rates that were probed in all of these rows. They are drawn at the rates where the rows that
    were probed at all rates say that the error of the mean is small enough, and no curve is in doubt.

    Returns:
        That, and losses of the shape ``(m, K, H)``; none where nothing is drawn.
    """
    rates, nothing = cells.learning_rates, cells.loss_post[:0]
    num_rows = run.looks[0].num_subsamples if run.looks else 0
    delta = cells.delta[:num_rows]
    known = np.asarray((~np.isnan(delta[:, :, -1])).all(axis=0))
    checked = np.arange(min(NUM_WHOLE_ROWS, num_rows))
    if known.all():
        return SparseRows.exact(rates.size, "all rates were probed at the first look"), nothing
    if run.looks[-1].num_subsamples == num_rows:  # values that are drawn in all rows would be compared
        return SparseRows.exact(rates.size, "there are no rows after the first look"), nothing
    if not cells.repeatable:
        return SparseRows.exact(rates.size, "the loss is not repeatable"), nothing
    curves = interpolate(rates, delta, known)
    resolution = epsilon * float(np.abs(cells.loss_pre[:num_rows]).mean())
    error = error_of(curves[checked], delta[checked], num_rows=num_rows, resolution=resolution)
    wrong = error.too_large | doubtful(rates, delta, known, DOUBT * num_rows * error.allowed)
    left_out = known | wrong
    if left_out.all():
        return SparseRows.exact(rates.size, "the curves through the rates that raced are not good enough"), nothing
    error = replace(error, bound=np.where(left_out[:, np.newaxis], 0.0, error.bound))
    losses = cells.loss_pre[:num_rows, np.newaxis, np.newaxis] + curves
    missing = np.isnan(cells.loss_post[:num_rows]) & ~left_out[:, np.newaxis]
    return SparseRows(left_out, checked, error), np.where(missing, losses, cells.loss_post[:num_rows])


def _as_settings(look: Look) -> dict[str, Any]:
    return {
        "num_subsamples": look.num_subsamples,
        "confidence_level": look.confidence_level,
        "num_rates": int(look.columns.size),
        "num_best": int(look.inside.size),
        "gain": look.gain,
        "regret_bound": look.regret_bound if np.isfinite(look.regret_bound) else None,
    }

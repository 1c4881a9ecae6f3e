"""Adaptive tuning: the race of the rates, with real probes."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from autolr._typing import BoolArray, EngineName, FloatArray, IntArray
from autolr.cells import ProbedCells, ProbeRows
from autolr.probing.rows import ProbedRows
from autolr.sparse import SparseRows, completed, fill_sparsely
from autolr.statistics._columns import finite_columns
from autolr.statistics.race import NEIGHBOURS, Look, Race, is_clearly_better, race, take_look
from autolr.statistics.sequential import look_level, look_sizes

LARGEST_SHARE = 0.5  # of the rates that race; with more, nothing is saved by curves


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

    With interpolation, the first look is made by curves: most of its rows are probed at a few rates
    (:func:`autolr.sparse.fill_sparsely`). Rates that are out by it do not race, but for those next to one that is in,
    from which an interpolated value may not tell them. Those that race are probed in every row, so that the later looks
    and the decision are made by exact values. (There is no stop at the first look then.) Where a rate that does not
    race turns out to be clearly better than the pick, all rates race after all. Where more than half of them would
    race, nothing is saved: the first look is then made again, by exact values.

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
    racing = partial(
        _race,
        cells,
        num_subsamples=num_subsamples,
        confidence_level=confidence_level,
        regret_tolerance=regret_tolerance,
    )
    every, sizes = np.arange(learning_rates.size), look_sizes(num_subsamples)
    if epsilon is None:
        run = racing(every)
        _keep_seen(cells, run)
        return cells.joined(), np.zeros(cells.loss_post.shape, dtype=np.bool_), _told(run, cells, num_subsamples)
    screen = _screen(cells, range(sizes[0]), look_level(confidence_level, 1, len(sizes)), epsilon, len(sizes))
    run = racing(screen.columns, num_past_looks=len(screen.looks))
    if screen.looks and run.looks and run.looks[0].num_subsamples < screen.num_rows:
        run = replace(run, looks=(), stop="ended")  # interrupted: the first look has seen more
    undone = screen.has_lost(run, cells)
    if undone:
        run = racing(every, num_past_looks=len(screen.looks))
    _keep_seen(cells, run)
    told = _told(run, cells, num_subsamples, screen.looks)
    told["interpolation"] = screen.sparse.as_settings(cells, min(screen.num_rows or cells.num_rows, cells.num_rows))
    if undone:
        told["interpolation"]["reason"] = "rates that were out by their curves raced after all"
    interpolated = np.isnan(cells.loss_post)
    cells.loss_post[: screen.num_rows] = completed(cells, screen.sparse.nodes)[: screen.num_rows]
    return cells.joined(), interpolated & ~np.isnan(cells.loss_post), told


@dataclass(frozen=True, slots=True, eq=False)
class _Screen:
    """The first look, made by curves.

    Attributes:
        sparse: How its rows were probed.
        delta: The differentials, most of them interpolated, shape ``(m, K)``.
        columns: The rates that race, increasing.
        looks: What was seen: one look, or none where nothing was interpolated.
    """

    sparse: SparseRows
    delta: FloatArray
    columns: IntArray
    looks: tuple[Look, ...]

    @property
    def num_rows(self) -> int:
        return len(self.delta)

    def has_lost(self, run: Race, cells: ProbedCells) -> bool:
        """Return whether a rate that does not race is clearly better than the pick of the race, or than none."""
        out = np.setdiff1d(np.flatnonzero(~np.isinf(self.delta).any(axis=0)), self.columns)
        if not run.looks:
            return False
        look = run.looks[-1]
        if look.pick is None or np.isnan(self.delta[:, out]).any():  # of an unknown value nothing can be said
            return out.size > 0
        racing = cells.delta[: look.num_subsamples, self.columns[look.pick], -1]
        return any(is_clearly_better(self.delta[:, column], racing) for column in out)


def _screen(cells: ProbedCells, rows: range, level: float, epsilon: float, num_looks: int) -> _Screen:
    """Make the first look, and return which rates race: those that can be the best, and those beside."""
    every = np.arange(cells.learning_rates.size)
    if num_looks == 1:
        reason = "there is one look only"
        return _Screen(SparseRows.exact(every.size, reason), np.empty((0, every.size)), every, ())
    sparse = fill_sparsely(cells, rows, epsilon=epsilon)
    delta = cells.differences(completed(cells, sparse.nodes))[:, :, -1]
    look = take_look(delta, every, confidence_level=level) if not sparse.reason else None
    if look is None or look.pick is None:
        return _Screen(sparse, delta, every, ())
    distance = np.abs(every - look.inside[:, np.newaxis]).min(axis=0)
    near = (distance <= 1) | (np.abs(every - look.pick) <= NEIGHBOURS)
    columns = every[near & finite_columns(delta)]
    if columns.size > LARGEST_SHARE * every.size:
        exact = SparseRows.exact(every.size, f"{columns.size} of {every.size} learning rates are left to race")
        return _Screen(exact, delta, every, ())
    return _Screen(sparse, delta, columns, (look,))


def _race(cells: ProbedCells, columns: IntArray, *, num_subsamples: int, **options: Any) -> Race:
    """Race some of the rates by the cells, those probed already and more."""

    def differentials(rows: range, racing: IntArray) -> FloatArray:
        num_whole = cells.fill_gaps(rows, columns[racing])
        return cells.delta[rows.start : rows.start + num_whole, columns[racing], -1]

    return race(differentials, num_subsamples, columns.size, **options)


def _keep_seen(cells: ProbedCells, run: Race) -> None:
    """Keep the rows that the last look has seen: others have only some of the rates, which are not to be compared."""
    if run.looks:
        cells.truncate(run.looks[-1].num_subsamples)


def _told(run: Race, cells: ProbedCells, num_subsamples: int, before: tuple[Look, ...] = ()) -> dict[str, Any]:
    return {
        "num_looks": run.num_looks,
        "looks": [_as_settings(look) for look in (*before, *run.looks)],
        "stop": run.stop,
        "num_probes": cells.num_probes,
        "num_probes_fixed": num_subsamples * cells.learning_rates.size,
    }


def _as_settings(look: Look) -> dict[str, Any]:
    return {
        "num_subsamples": look.num_subsamples,
        "confidence_level": look.confidence_level,
        "num_rates": int(look.columns.size),
        "num_best": int(look.inside.size),
        "gain": look.gain,
        "regret_bound": look.regret_bound if np.isfinite(look.regret_bound) else None,
    }

"""Suggestion: the decision as a value, with its uncertainty and its caveats."""

import inspect
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch

from autolr._html import verdict_html
from autolr._text import format_rate
from autolr._typing import FloatArray, Method
from autolr._validation import invalid
from autolr.caveats import LIKE_SMALL_RATES, caveats_of, is_below_resolution
from autolr.errors import DivergenceWarning, GridEdgeWarning, ResolutionWarning
from autolr.levels import level_of
from autolr.param_groups import base_learning_rates, check_groups, set_learning_rate
from autolr.schedules._options import ScheduleName
from autolr.schedules.make import make_scheduler
from autolr.schedules.rebase import rebase_scheduler
from autolr.statistics.argmin_interval import argmin_interval
from autolr.statistics.bands import simultaneous_band
from autolr.statistics.best_set import best_set_and_regret, default_method
from autolr.statistics.criteria import choose, max_stable_index
from autolr.statistics.flags import smallest_mean, without_explosions
from autolr.statistics.intervals import median_interval

if TYPE_CHECKING:
    from torch.optim.lr_scheduler import LRScheduler

    from autolr.result import TuningResult

_TAKES_LEVEL = ("ucb", "variance")
_TOO_WIDE = 100.0  # a set of best rates that spans this factor does not narrow the rate down
_NOISY = 0.05  # of the loss: where the best mean may hide a fall by more, the noise is to blame. A choice, not measured


Doubt: TypeAlias = Literal["resolution", "flat", "noise", "edge", "wide", "late"]


@dataclass(frozen=True, eq=False)
class Suggestion:
    """A learning rate, how it was picked, and how sure it is.

    Attributes:
        learning_rate: The pick, a rate of the grid.
        method: The criterion that picked it.
        score: Its score by that criterion, in units of the loss; smaller is better.
        low: The lower end of the interval of the best rate itself, at which the mean differential is smallest.
        high: Its upper end.
        best_set: The rates that are statistically as good as the best, increasing.
        max_stable_lr: The largest rate below the divergence edge: the first rate above the best at which the loss rose
            on average or a probe diverged. ``None`` if even the best rate is not stable.
        regret_bound: What the pick loses to the best rate of the grid, at most, in units of the loss.
        at_grid_edge: ``"low"`` or ``"high"`` if the pick is an end of the grid, else ``None``.
        horizon: The number of optimizer steps of a probe.
        confidence_level: The coverage of interval, set and bound.
        doubt: Why the rate cannot be told, or ``None`` where it can: ``"resolution"`` (at no rate does the loss change
            by more than its own rounding), ``"flat"`` (no rate lowers it, with confidence over the whole grid; for the
            median: not the pick), ``"noise"`` (the same, but at the smallest mean it may fall by over 5% of itself),
            ``"wide"`` (the best set spans a factor of 100 or more), ``"edge"`` (the pick is an end of the grid);
            ``"late"`` is one of :meth:`RangeTest.suggest`.
        below_resolution: Whether the differentials at the pick are no more than rounding errors of the losses.
        caveats: Sentences on what limits the answer.
        evidence: The result that it came from: a :class:`TuningResult`, or the :class:`SearchResult` of a search, in
            which ``method`` is ``"search"``, the rate lies between those that were tried, its interval is a calibrated
            one, ``best_set`` are the tried rates in it, and the regret is not bounded (NaN); or a :class:`RangeTest`,
            whose rules and spread are said at :meth:`RangeTest.suggest`.
    """

    learning_rate: float
    method: str
    score: float
    low: float
    high: float
    best_set: tuple[float, ...]
    max_stable_lr: float | None
    regret_bound: float
    at_grid_edge: Literal["low", "high"] | None
    horizon: int
    confidence_level: float
    doubt: Doubt | None
    below_resolution: bool
    caveats: tuple[str, ...]
    evidence: Any

    def __float__(self) -> float:
        return self.learning_rate

    def apply(self, optimizer: torch.optim.Optimizer, scheduler: "LRScheduler | None" = None) -> None:
        """Set the rate of an optimizer: the first group's, and the others' in their ratios to it.

        Where only some groups were tuned, these are meant, and the others are left alone.

        Each group's ``lr`` and, where there is one, ``initial_lr`` become Python floats (a rate that is a tensor is
        filled in place). A group whose rate is 0 in a warm-up takes its ratio from ``initial_lr``.

        A scheduler that is attached to the optimizer sets the rate from its own base rates at its next step, so that
        it has to be given too.

        Args:
            optimizer: The optimizer; it is changed.
            scheduler: The attached scheduler, which is rebased: it goes on as if started with this rate (as if with
                this peak, where it is cyclic); see :func:`rebase_scheduler`.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If the first group has no rate to keep ratios to, the optimizer lacks a group that was tuned, or
                the scheduler is that of another optimizer, or of groups that were not tuned too.
        """
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(invalid("optimizer", "be a torch.optim.Optimizer", optimizer))
        groups = check_groups(optimizer, self._groups)
        base = base_learning_rates(optimizer, groups)
        if scheduler is not None:
            if groups is not None and len(groups) < len(base):
                raise ValueError(invalid("scheduler", f"be None where only the groups {groups} were tuned", scheduler))
            # by its groups, as a scheduler may be attached to a wrapper of the optimizer
            if getattr(scheduler, "optimizer", optimizer).param_groups is not optimizer.param_groups:
                raise ValueError(invalid("scheduler", "be attached to `optimizer`", scheduler))
            rebase_scheduler(scheduler, self.learning_rate)
            return
        for key in ("lr", "initial_lr"):
            set_learning_rate(optimizer, self.learning_rate, base, key=key, groups=groups)

    def scheduler(
        self, optimizer: torch.optim.Optimizer, name: ScheduleName, *, total_steps: int, **options: Any
    ) -> "LRScheduler":
        """Set the rate of an optimizer and attach a schedule to it: see :func:`make_scheduler`.

        Args:
            optimizer: The optimizer; it is changed.
            name: The schedule's name.
            total_steps: The steps of the run.
            **options: Of the schedule.

        Raises:
            TypeError: As :func:`make_scheduler`.
            ValueError: As :func:`make_scheduler`, and where only some groups were tuned: a schedule moves all of them.
        """
        groups = self._groups
        if groups is not None and len(groups) < len(optimizer.param_groups):
            of_some = f"be of the groups {groups} only, which were tuned: call apply(optimizer), then make_scheduler"
            raise ValueError(invalid("name", of_some, name))
        return make_scheduler(optimizer, name, learning_rate=self.learning_rate, total_steps=total_steps, **options)

    @property
    def _groups(self) -> list[int] | None:
        """The parameter groups that were tuned; ``None``: all."""
        groups: list[int] | None = self.evidence.settings.get("groups")
        return groups

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """Draw the result with this pick.

        Args:
            ax: Where to draw; by default new axes.
            **options: Of :meth:`TuningResult.plot`, but for ``method`` and ``confidence_level``.

        Returns:
            The axes; of a search two of them, see :meth:`SearchResult.plot`.
        """
        return self.evidence.plot_of(self, ax, **options)

    def __str__(self) -> str:
        return str(self.evidence.verdict_of(self))

    def _repr_html_(self) -> str:
        return verdict_html(str(self), format_rate(self.learning_rate))


def decide(
    result: "TuningResult", method: Method = "mean", *, confidence_level: float | None = None, **options: Any
) -> Suggestion:
    """Make the decision by a method, quietly; see :meth:`TuningResult.suggest` for arguments and errors."""
    level = level_of(result.settings, confidence_level)
    if method in _TAKES_LEVEL:
        options["confidence_level"] = level.corrected
    record = result.differentials
    rates, delta = record.learning_rates, record.delta
    choice = choose(delta, method, **options)
    pick = choice.index

    complete = np.flatnonzero(~np.isnan(delta).any(axis=0))
    probed, own = without_explosions(delta[:, complete]), int(np.flatnonzero(complete == pick)[0])
    sampled: dict[str, Any] = {
        "confidence_level": level.corrected,
        "num_resamples": level.resamples(2000),
        "rng": 0,
    }
    kept, regret = best_set_and_regret(probed, own, method=default_method(len(delta)), **sampled)
    inside = complete[kept]
    low, high = rates[0], rates[-1]
    if np.isfinite(probed).all(axis=0).any():
        # of a rate that was not probed in every row, the interval knows as little as of one that diverged
        known = np.full(delta.shape, np.inf)
        known[:, complete] = probed
        low, high = argmin_interval(rates, known, **sampled)
    stable = max_stable_index(delta)
    unresolved = is_below_resolution(result)
    edge: Literal["low", "high"] | None = None
    if rates.size > 1 and pick in (0, rates.size - 1):
        edge = "low" if pick == 0 else "high"
    best = tuple(map(float, rates[inside]))
    return Suggestion(
        learning_rate=float(rates[pick]),
        method=method,
        score=float(choice.scores[pick]),
        low=float(low),
        high=float(high),
        best_set=best,
        max_stable_lr=None if stable is None else float(rates[stable]),
        regret_bound=float(regret),
        at_grid_edge=edge,
        horizon=int(record.horizons[-1]),
        confidence_level=level.nominal,
        doubt=_doubt(
            probed,
            method,
            sampled,
            best=best,
            edge=edge,
            unresolved=bool(unresolved[complete].all()),
            picked=delta[:, [pick]],
            loss=float(np.abs(record.loss_pre).mean()),
        ),
        below_resolution=bool(unresolved[pick]),
        caveats=caveats_of(result, method, pick, inside, level.corrected, float(regret)),
        evidence=result,
    )


def warn_of(suggestion: Suggestion) -> None:
    """Issue the warnings that affect a decision, as if from the first caller outside of the package."""
    stacklevel = _stacklevel()
    rate = format_rate(suggestion.learning_rate)
    record = suggestion.evidence.differentials
    if suggestion.at_grid_edge:
        side = "smallest" if suggestion.at_grid_edge == "low" else "largest"
        remedy = "the best one may lie outside; widen the grid"
        if suggestion.at_grid_edge == "low" and suggestion.method in LIKE_SMALL_RATES:
            remedy = "its steps vary the least; use another method"
        message = f"The pick {rate} is the {side} rate of the grid: {remedy}."
        warnings.warn(message, GridEdgeWarning, stacklevel=stacklevel)
    column = record.at(suggestion.learning_rate)
    if np.isinf(column).any():
        message = f"At the pick {rate}, {int(np.isinf(column).sum())} of {len(column)} probes diverged."
        warnings.warn(message, DivergenceWarning, stacklevel=stacklevel)
    elif suggestion.below_resolution:
        message = f"At the pick {rate}, the loss differentials are below the resolution of the loss."
        warnings.warn(message, ResolutionWarning, stacklevel=stacklevel)


def _stacklevel() -> int:
    """Return the level, as the function that calls this one counts, of the first caller outside of the package."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "autolr":
        frame, level = frame.f_back, level + 1
    return level


def _doubt(
    delta: FloatArray,
    method: str,
    sampled: dict[str, Any],
    *,
    best: tuple[float, ...],
    edge: Literal["low", "high"] | None,
    unresolved: bool,
    picked: FloatArray,
    loss: float,
) -> Doubt | None:
    """Return why the rate cannot be told; ``delta (M, K)`` holds the rates that were probed in every row.

    ``picked (M, 1)`` are those of the pick as they were probed, ``loss`` is the size of the losses before the step.
    """
    if unresolved:
        return "resolution"
    band_low, band_high = simultaneous_band(delta, **sampled)
    if method == "median":
        falls = bool(median_interval(picked, confidence_level=sampled["confidence_level"])[1][0] < 0.0)
    else:
        falls = bool((band_high < 0.0).any())
    if not falls:
        # of a loss that rises clearly at the smallest rate, or diverges at the next, it is the grid that is wrong
        early = bool(band_low[0] > 0.0) or bool(np.isinf(delta[:, :2]).any())
        if edge == "low" and early:
            return "edge"
        return "noise" if -float(band_low[smallest_mean(delta)]) > _NOISY * loss else "flat"
    if best and best[-1] >= _TOO_WIDE * best[0]:
        return "wide"
    return "edge" if edge is not None else None

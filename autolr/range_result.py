"""RangeTest: the losses of training runs at a rising rate, and the rates that rules read off them."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from autolr._html import verdict_html
from autolr._text import WHOLE_RUN, cost_of, format_rate, verdict_of_lines
from autolr._typing import FloatArray, Settings
from autolr._validation import check_integer, check_option, invalid
from autolr.errors import DivergedError, NoCandidateError
from autolr.plot_range import plot_range
from autolr.range_rules import RULES, Pick, Rule, slopes
from autolr.statistics.intervals import t_interval
from autolr.suggestion import Doubt, Suggestion

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RUN_COLUMNS = ("repeat", "learning_rate", "loss", "smoothed_loss")
SKIP_START, SKIP_END = 10, 5
_TOO_WIDE = 100.0  # as in autolr.suggestion
_WORDS: dict[str, str] = {
    "steepest": "the steepest fall of the smoothed loss",
    "valley": "the middle of the longest fall of the smoothed loss",
    "slide": "left of the turn of the smoothed loss",
    "minimum": "a tenth of the rate of the smallest smoothed loss",
}


@dataclass(frozen=True, eq=False, repr=False)
class RangeTest:
    """What :func:`autolr.lr_range_test` saw. It holds numbers only, never the model.

    Attributes:
        runs: A row for each iteration: ``repeat``, from 0; ``learning_rate``; ``loss``, that of the step's own batch
            before it, or of the validation data after it, ``inf`` where it was not finite; ``smoothed_loss``.
        settings: Every choice that made it, as JSON values, with costs and versions. ``diverged_at``: the rate with
            which each repeat was seen to have diverged, or ``None``.
    """

    runs: pd.DataFrame
    settings: Settings = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.runs, pd.DataFrame) or list(self.runs.columns) != list(RUN_COLUMNS):
            raise TypeError(invalid("runs", f"be a frame with the columns {', '.join(RUN_COLUMNS)}", self.runs))
        if not isinstance(self.settings, Mapping):
            raise TypeError(invalid("settings", "be a mapping", self.settings))
        object.__setattr__(self, "settings", MappingProxyType(copy.deepcopy(dict(self.settings))))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.runs, dict(self.settings))

    @cached_property
    def history(self) -> pd.DataFrame:
        r"""The mean curve over the repeats, a row for each rate that all of them reached.

        Columns: ``learning_rate``; ``loss`` and ``smoothed_loss``, means over the repeats; ``delta``, the change of the
        mean smoothed loss per decade of the rate, :math:`d\bar L / d\log_{10}\mathrm{lr}` by central differences; with
        several repeats ``low`` and ``high``, Student's t 95% interval of the mean smoothed loss (-inf and inf with a
        loss that is not finite). The delta is ``inf`` at a loss that is, and NaN where there is no other loss.

        The interval is about the orders of the batches, from these weights: not about other initial weights.
        """
        losses, smoothed = self._stacked("loss"), self._stacked("smoothed_loss")
        rates, mean = self._rates[: smoothed.shape[1]], smoothed.mean(axis=0)
        finite = np.isfinite(mean)
        delta = np.full(mean.shape, np.inf)
        delta[finite] = slopes(rates[finite], mean[finite]) if finite.sum() > 1 else np.nan
        columns = {"learning_rate": rates, "loss": losses.mean(axis=0), "smoothed_loss": mean, "delta": delta}
        if self.num_repeats > 1:
            columns["low"], columns["high"] = t_interval(smoothed)
        return pd.DataFrame(columns)

    @property
    def num_repeats(self) -> int:
        """The number of runs R."""
        return int(self.runs["repeat"].nunique())

    @property
    def num_evaluations(self) -> float:
        """The cost in gradient evaluations; three losses without a gradient count as one."""
        return float(self.settings["num_evaluations"])

    def suggest(self, rule: Rule = "steepest", *, skip_start: int = SKIP_START, skip_end: int = SKIP_END) -> Suggestion:
        r"""Read a rate off the mean curve, with the spread of what the repeats suggest by themselves.

        Args:
            rule: ``"steepest"`` (the steepest fall of the smoothed loss against log rate), ``"valley"`` (the middle of
                its longest fall), ``"slide"`` (left of its turn), ``"minimum"`` (a tenth of the rate of its minimum):
                see :mod:`autolr.range_rules`.
            skip_start: The rows left out at the beginning, where smoothing has seen few losses.
            skip_end: The rows left out at the end, where the loss diverges.

        Returns:
            The rate, with ``low`` and ``high``, the smallest and the largest suggestion of the repeats, and
            ``best_set``, the rates tried between them. If runs are exchangeable, that of a further one is between them
            with a probability of :math:`(R - 1) / (R + 1)`, the ``confidence_level``; with one run it is 0, and both
            are NaN. ``score``: the slope at the pick, in units of the loss per decade (``"minimum"``: the smoothed
            loss). ``max_stable_lr``: the largest rate before any repeat was seen to diverge, which is late, as the
            smoothed loss follows slowly: an upper bound. ``horizon``: the steps up to the end of the curve. ``doubt``:
            ``"flat"`` (no row that is kept lies below the first one), ``"late"`` (the pick comes after the smallest
            smoothed loss, as where a loss recovers from a rise), ``"wide"`` (the repeats' suggestions span a factor of
            100 or more), ``"edge"`` (the pick is the first or the last row that is kept). The regret is not bounded
            (NaN).

        Raises:
            TypeError: If a number is no integer.
            ValueError: If there is no such rule, or a number is negative.
            DivergedError: If training diverged with the first step.
            NoCandidateError: If fewer than two rows are kept, or no rate qualifies by the rule.
        """
        kept = _kept(self.history, rule, skip_start, skip_end, self.settings)
        rates, losses = kept["learning_rate"].to_numpy(), kept["smoothed_loss"].to_numpy()
        pick = RULES[rule](rates, losses)
        picks = self.suggestions(rule, skip_start=skip_start, skip_end=skip_end)
        found = picks[~np.isnan(picks)]
        several = found.size > 1
        low, high = (float(found.min()), float(found.max())) if several else (np.nan, np.nan)
        edge = _edge_of(pick, len(kept))
        inside = self._rates[(self._rates >= low) & (self._rates <= high)]
        caveats = []
        if several and not low <= pick.learning_rate <= high:
            caveats.append("It is read off the mean curve, and lies outside of what the runs suggest by themselves.")
        if found.size < picks.size:
            caveats.append(f"{picks.size - found.size} of {picks.size} runs give no suggestion by themselves.")
        return Suggestion(
            learning_rate=pick.learning_rate,
            method=rule,
            score=pick.score,
            low=low,
            high=high,
            best_set=tuple(map(float, inside)),
            max_stable_lr=self._max_stable(),
            regret_bound=float("nan"),
            at_grid_edge=edge,
            horizon=len(self.history),
            confidence_level=(found.size - 1) / (found.size + 1) if several else 0.0,
            doubt=_doubt(losses, pick.row, low, high, edge),
            below_resolution=False,
            caveats=tuple(caveats),
            evidence=self,
        )

    def suggestions(
        self, rule: Rule = "steepest", *, skip_start: int = SKIP_START, skip_end: int = SKIP_END
    ) -> FloatArray:
        """Return the rate that each repeat suggests by itself, shape ``(R,)``; NaN where it suggests none.

        Args:
            rule: The rule; see :meth:`suggest`.
            skip_start: The rows of each run left out at the beginning.
            skip_end: The rows left out at its end.
        """
        picks = []
        for _, run in self.runs.groupby("repeat"):
            try:
                kept = _kept(run, rule, skip_start, skip_end, self.settings)
                rates, losses = kept["learning_rate"].to_numpy(), kept["smoothed_loss"].to_numpy()
                picks.append(RULES[rule](rates, losses).learning_rate)
            except NoCandidateError:
                picks.append(np.nan)
        return np.array(picks)

    def plot(self, axes: "tuple[Axes, Axes] | None" = None) -> "tuple[Axes, Axes]":
        """Draw the losses, and the change of the smoothed loss per decade, with the steepest point.

        Args:
            axes: Where to draw: two axes; by default new ones.

        Returns:
            The two axes; nothing is shown.
        """
        return self.plot_of(self._steepest(), axes)

    def plot_of(self, suggestion: Suggestion | None, axes: "tuple[Axes, Axes] | None" = None) -> "tuple[Axes, Axes]":
        """Draw this result with a suggestion; see :meth:`plot`."""
        steepest = self._steepest()
        return plot_range(
            self.runs,
            self.history,
            pick=None if suggestion is None else (suggestion.learning_rate, suggestion.low, suggestion.high),
            steepest=None if steepest is None else steepest.learning_rate,
            logarithmic=self.settings["schedule"] != "linear",
            loss="validation loss" if self.settings["losses"] == "validation" else "loss",
            axes=axes,
        )

    def verdict_of(self, suggestion: Suggestion) -> str:
        """Return a suggestion in words: the rate, its spread, divergence, cost, and what it does not tell."""
        answer, remedy = _answer(suggestion)
        lines = [answer, self._spread_line(suggestion), *self._cost_lines(), remedy]
        return verdict_of_lines(lines, suggestion.caveats)

    def __repr__(self) -> str:
        runs = "1 run" if self.num_repeats == 1 else f"{self.num_repeats} runs"
        return f"<RangeTest: {runs}, {len(self.history)} learning rates>"

    def __str__(self) -> str:
        try:
            return self.verdict_of(self.suggest())
        except NoCandidateError as error:
            return verdict_of_lines([f"I cannot tell: {error}", *self._cost_lines()])

    def _repr_html_(self) -> str:
        try:
            return self.suggest()._repr_html_()
        except NoCandidateError:
            return verdict_html(str(self))

    @cached_property
    def _rates(self) -> FloatArray:
        return np.unique(self.runs["learning_rate"].to_numpy(dtype=np.float64))

    def _steepest(self) -> Suggestion | None:
        try:
            return self.suggest("steepest")
        except NoCandidateError:
            return None

    def _stacked(self, column: str) -> FloatArray:
        """Return a column of all repeats, as far as all reach, shape (R, K)."""
        columns = [run[column].to_numpy(dtype=np.float64) for _, run in self.runs.groupby("repeat")]
        shortest = min(map(len, columns))
        return np.stack([values[:shortest] for values in columns])

    def _max_stable(self) -> float:
        diverged = [rate for rate in self.settings["diverged_at"] if rate is not None]
        stable = self._rates[self._rates < min(diverged)] if diverged else self._rates
        return float(stable[-1])

    def _spread_line(self, suggestion: Suggestion) -> str:
        if np.isnan(suggestion.low):
            return "One run does not tell how sure that is; num_repeats=5 would."
        low, high = format_rate(suggestion.low), format_rate(suggestion.high)
        further = f"a further one would too with a probability of {100.0 * suggestion.confidence_level:.0f}%"
        return f"By themselves, the {self.num_repeats} runs suggest {low} to {high}; {further}."

    def _cost_lines(self) -> list[str]:
        settings = self.settings
        diverged = [rate for rate in settings["diverged_at"] if rate is not None]
        end = f"No run diverged up to {format_rate(settings['end_lr'])}."
        if diverged:
            runs = "The run" if self.num_repeats == 1 else f"{len(diverged)} of {self.num_repeats} runs"
            end = f"{runs} diverged{', the first' if len(diverged) > 1 else ''} at {format_rate(min(diverged))}."
        runs = "1 run" if self.num_repeats == 1 else f"{self.num_repeats} runs"
        length = f"{settings['num_iter']} iterations from {format_rate(settings['start_lr'])} on"
        return [end, f"Measured in {runs} of {length}: {cost_of(settings)}."]


def _kept(curve: pd.DataFrame, rule: Rule, skip_start: int, skip_end: int, settings: Settings) -> pd.DataFrame:
    """Return the rows of a curve that count: finite ones, without those to be skipped at both ends."""
    check_option("rule", rule, Rule)
    skip_start = check_integer("skip_start", skip_start, minimum=0)
    skip_end = check_integer("skip_end", skip_end, minimum=0)
    finite = np.isfinite(curve["smoothed_loss"])
    kept: pd.DataFrame = curve.iloc[skip_start : max(0, len(curve) - skip_end)].loc[finite]
    if finite.sum() < 2:
        raise DivergedError(
            f"Training diverged with the first step, at {format_rate(settings['start_lr'])}: lower `start_lr`, or check"
            " the loss and the scale of the data."
        )
    if len(kept) < 2:
        raise NoCandidateError(
            f"At least 2 rows must be left to suggest a rate, got {len(kept)}: of {len(curve)} rows, the first"
            f" {skip_start} (`skip_start`) and the last {skip_end} (`skip_end`) are skipped. Skip fewer, or have"
            " more by a larger `num_iter` or a lower `start_lr`."
        )
    return kept


def _edge_of(pick: Pick, num_rows: int) -> Literal["low", "high"] | None:
    if pick.row not in (0, num_rows - 1):
        return None
    return "low" if pick.row == 0 else "high"


def _doubt(losses: FloatArray, row: int, low: float, high: float, edge: str | None) -> Doubt | None:
    """Return why a rate cannot be told of the losses of the rows that are kept, of which ``row`` is picked."""
    if losses.min() >= losses[0]:
        return "flat"
    if row > losses.argmin():
        return "late"
    if high >= _TOO_WIDE * low:
        return "wide"
    return "edge" if edge is not None else None


def _answer(suggestion: Suggestion) -> tuple[str, str]:
    """Return the rate, or why it cannot be told, and what to do next."""
    rate, words = format_rate(suggestion.learning_rate), _WORDS[suggestion.method]
    if suggestion.doubt is None:
        return f"Learning rate {rate}: {words}.", WHOLE_RUN.format("a range test")
    if suggestion.doubt == "flat":
        why = "the smoothed loss never falls below where it begins."
        remedy = "raise `end_lr`, and check that there is something left to learn."
    elif suggestion.doubt == "late":
        why = f"{words} is at {rate}, where it only makes up for a rise before."
        remedy = "raise `skip_end`, or lower `end_lr`."
    elif suggestion.doubt == "wide":
        why = "the runs by themselves suggest rates that are far apart."
        remedy = "use larger batches or another rule, or search with autolr.find_lr."
    else:
        low = suggestion.at_grid_edge == "low"
        why = f"{words} is at {rate}, by the {'first' if low else 'last'} row that is kept."
        remedy = "lower `start_lr` or `skip_start`." if low else "lower `skip_end`, or raise `end_lr`."
    return f"I cannot tell: {why}", f"Next: {remedy}"

"""TuningResult: the numbers of a tuning as frames, suggestions, pictures and files."""

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from autolr._html import verdict_html
from autolr._typing import IntervalMethod, Method, Rng, Settings
from autolr._validation import invalid
from autolr.caveats import caveats_of
from autolr.differentials import LossDifferentials
from autolr.errors import NoCandidateError
from autolr.interpolation_error import join_reasons, told_of_both
from autolr.levels import level_of
from autolr.plotting import plot_differentials
from autolr.ranks import writes
from autolr.report import write_tuning_report
from autolr.statistics.summary import summarize
from autolr.storage import load_json, save_json
from autolr.suggestion import Suggestion, decide, warn_of
from autolr.verdict import no_decision, verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# what rows must have in common to be looked at together
_SAME = ("batch_size", "sampling", "evaluation", "warmup_steps", "interpolate", "model", "num_parameters", "optimizer")


@dataclass(frozen=True, eq=False, repr=False)
class TuningResult:
    """The loss differentials of a tuning, and every way to look at them. It holds numbers only, never the model.

    Args:
        differentials: The record of the probes; one of losses logged elsewhere serves as well.
        settings: Every choice that made it: a mapping of strings to JSON values.

    Raises:
        TypeError: If an argument has another type.

    Example:
        >>> from autolr import LossDifferentials, TuningResult
        >>> loss_post = [[2.9, 1.5, 3.5], [3.8, 2.5, 4.5], [2.9, 1.7, 3.0]]
        >>> result = TuningResult(LossDifferentials([0.1, 1.0, 10.0], [3.0, 4.0, 3.0], loss_post))
        >>> result.get_best_lr()
        1.0
        >>> result.summary(interval="t")[["mean", "low", "high"]].round(2)
                       mean   low  high
        learning_rate
        0.1           -0.13 -0.28  0.01
        1.0           -1.43 -1.72 -1.15
        10.0           0.33 -0.38  1.05
    """

    differentials: LossDifferentials
    settings: Settings = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.differentials, LossDifferentials):
            raise TypeError(invalid("differentials", "be a LossDifferentials", self.differentials))
        if not isinstance(self.settings, Mapping):
            raise TypeError(invalid("settings", "be a mapping", self.settings))
        object.__setattr__(self, "settings", MappingProxyType(copy.deepcopy(dict(self.settings))))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.differentials, dict(self.settings))  # a mapping proxy cannot be pickled

    def to_frame(self, *, tidy: bool = False) -> pd.DataFrame:
        """Return the loss differentials as a frame: see :meth:`LossDifferentials.to_frame`."""
        return self.differentials.to_frame(tidy=tidy)

    def summary(
        self,
        *,
        confidence_level: float | None = None,
        interval: IntervalMethod = "bootstrap-t",
        num_resamples: int = 2000,
        rng: Rng = 0,
    ) -> pd.DataFrame:
        """Return the table of the rates: means, intervals, shares. See :func:`autolr.statistics.summary.summarize`.

        Of a result that was looked at before, by an adaptive tuning or by you before :meth:`extend`, all intervals and
        the set are wider: they are computed at a level that is corrected for the looks, see
        :func:`autolr.levels.level_of`.

        Args:
            confidence_level: The coverage of every interval, in (0, 1); by default that of the tuning, 0.95. After an
                adaptive tuning not above that one, by which rates were dropped.
            interval: The interval of the mean: ``"bootstrap-t"``, ``"t"``, ``"percentile"`` or ``"bca"``.
            num_resamples: The number of bootstrap resamples B; more where a corrected level needs them.
            rng: The randomness of the resamples; the same table comes out at each call by default.

        Returns:
            A frame indexed by ``learning_rate``.
        """
        record, level = self.differentials, level_of(self.settings, confidence_level)
        return summarize(
            record.learning_rates,
            record.delta,
            confidence_level=level.corrected,
            interval=interval,
            num_resamples=level.resamples(num_resamples),
            rng=rng,
        )

    def suggest(self, method: Method = "mean", **options: Any) -> Suggestion:
        """Return the decision by a method, with its uncertainty.

        Args:
            method: ``"mean"``, ``"median"``, ``"variance_penalized"``, ``"ucb"``, ``"one_se"``, ``"variance"`` or
                ``"max"``.
            **options: ``penalty`` of ``"variance_penalized"``; ``confidence_level`` of all intervals and bounds, by
                default that of the tuning, 0.95; corrected for looks as in :meth:`summary`.

        Raises:
            DivergedError: If every rate diverged.
            NoCandidateError: If no rate qualifies for the method.
            TypeError: If an option is not one of the method's.
            ValueError: If an argument is out of its range.

        Warns:
            GridEdgeWarning: If the pick is an end of the grid.
            DivergenceWarning: If probes diverged where it affects the pick.
            ResolutionWarning: If the differentials at the pick are below the resolution of the loss.
        """
        suggestion = decide(self, method, **options)
        warn_of(suggestion)
        return suggestion

    def get_best_lr(self, method: Method = "mean", **options: Any) -> float:
        """Return the rate of :meth:`suggest` as a float."""
        return float(self.suggest(method, **options))

    def plot(
        self,
        ax: "Axes | None" = None,
        *,
        method: Method = "mean",
        confidence_level: float | None = None,
        xlim: tuple[float, float] | None = None,
        trim: float = 0.05,
        show_subsamples: bool = False,
    ) -> "Axes":
        """Draw dL against the rate with its interval, the best set, the pick and the divergence edge.

        Of several horizons the last one is drawn, and thin lines for those before it, each with its lowest point.

        Args:
            ax: Where to draw; by default new axes.
            method: The method of the pick.
            confidence_level: The coverage of the intervals drawn; by default that of the tuning, 0.95.
            xlim: The rates shown, a zoom.
            trim: The share of extreme ends of the intervals that is left out of the range of the losses.
            show_subsamples: Draw each subsample's differentials too.

        Returns:
            The axes; nothing is shown.
        """
        try:
            suggestion = decide(self, method, confidence_level=confidence_level)
        except NoCandidateError:
            suggestion = None  # the picture shows why
        return self._draw(suggestion, ax, method, confidence_level, xlim, trim, show_subsamples)

    def plot_of(
        self,
        suggestion: Suggestion,
        ax: "Axes | None" = None,
        *,
        xlim: tuple[float, float] | None = None,
        trim: float = 0.05,
        show_subsamples: bool = False,
    ) -> "Axes":
        """Draw this result with the pick of a suggestion that was made of it; see :meth:`plot`."""
        method, level = suggestion.method, suggestion.confidence_level
        return self._draw(suggestion, ax, method, level, xlim, trim, show_subsamples)

    def _draw(
        self,
        suggestion: Suggestion | None,
        ax: "Axes | None",
        method: str,
        confidence_level: float | None,
        xlim: tuple[float, float] | None,
        trim: float,
        show_subsamples: bool,
    ) -> "Axes":
        names = ("learning_rate", "low", "high", "best_set", "max_stable_lr") if suggestion is not None else ()
        record = self.differentials
        *before, last = map(int, record.horizons)
        by_horizon = self.to_frame(tidy=True).pivot_table(
            index="horizon",
            columns="learning_rate",
            values="delta",
            aggfunc="median" if method == "median" else "mean",
        )
        centers = by_horizon.reindex(columns=record.learning_rates)
        return plot_differentials(
            self.summary(confidence_level=confidence_level),
            delta=record.delta if show_subsamples else None,
            method=method,
            horizon=last,
            earlier={steps: centers.loc[steps].to_numpy() for steps in before},
            confidence_level=level_of(self.settings, confidence_level).nominal,
            xlim=xlim,
            trim=trim,
            ax=ax,
            **{name: getattr(suggestion, name) for name in names},
        )

    def verdict_of(self, suggestion: Suggestion) -> str:
        """Return a suggestion that was made of this result in words."""
        return verdict(suggestion)

    def extend(self, other: "TuningResult") -> "TuningResult":
        """Return this result with the rows of another one, of the same rates and horizons, below its own.

        The settings are these; the costs of both are added, and both engines named. Whoever adds rows has seen these,
        so that it counts as a further look at the numbers, and intervals are corrected for it: see :meth:`summary`. The
        first look was made without a correction, so that all of them together err with at most 1.4 times the
        probability asked for. To look several times without that, tune with ``adaptive=True``.

        Raises:
            TypeError: If ``other`` is no result.
            ValueError: If its rates or horizons differ, it was made otherwise (another batch size, sampling,
                evaluation, warm-up, interpolation or optimizer), its rows are those of this one, or one of both is
                adaptive, whose looks were planned.
        """
        if not isinstance(other, TuningResult):
            raise TypeError(invalid("other", "be a TuningResult", other))
        if self.settings.get("adaptive") or other.settings.get("adaptive"):
            raise ValueError(invalid("other", "extend and be a result of adaptive=False", "one of adaptive=True"))
        for name in _SAME:
            if name in self.settings and name in other.settings and self.settings[name] != other.settings[name]:
                raise ValueError(
                    invalid("other", f"have the {name} {self.settings[name]!r} of this result", other.settings[name])
                )
        differentials = self.differentials.extended(other.differentials)
        if self.differentials.begins_like(other.differentials):
            constraint = "have other subsamples than this result (tune with another rng)"
            raise ValueError(invalid("other", constraint, other))
        settings = dict(self.settings)
        settings["num_extensions"] = settings.get("num_extensions", 0) + other.settings.get("num_extensions", 0) + 1
        for name in ("num_subsamples", "num_gradients", "num_forwards", "num_evaluations", "seconds"):
            if name in settings and name in other.settings:
                settings[name] += other.settings[name]
        if "interpolation" in settings and "interpolation" in other.settings:
            sizes = self.differentials.num_subsamples, other.differentials.num_subsamples
            settings["interpolation"] = told_of_both(settings["interpolation"], other.settings["interpolation"], *sizes)
        for name in ("engine", "engine_reason"):
            if name in settings and other.settings.get(name) is not None:
                settings[name] = join_reasons(settings[name], other.settings[name])
        if "out_of_time" in settings:
            settings["out_of_time"] |= bool(other.settings.get("out_of_time"))
        if other.settings.get("interrupted"):
            settings["interrupted"] = True
        if "repeatable" in settings:
            settings["repeatable"] &= bool(other.settings.get("repeatable", True))
        return TuningResult(differentials, settings)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result to a ``.json`` file, the whole of it or nothing; :meth:`load` gives it back exactly.

        Args:
            path: Where to write; what is there is replaced.

        Raises:
            ValueError: If the path does not end in ``.json``, or a setting is no JSON value.
            OSError: If the file cannot be written.
        """
        if writes(self.settings):
            save_json(path, self.differentials, dict(self.settings))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "TuningResult":
        """Read a result that :meth:`save` wrote; no code in the file is run.

        Args:
            path: The ``.json`` file.

        Returns:
            The result, equal in every number.

        Raises:
            ValueError: If the file is damaged, no result, or of a newer version.
            OSError: If the file cannot be read.
        """
        result = cls(*load_json(path))
        try:
            result._tell_settings()
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            raise ValueError(f"`path` must name an undamaged result, got {str(path)!r}: {what}") from error
        return result

    def _tell_settings(self) -> None:
        """Say everything that a verdict says of the settings, whatever the rate: those that cannot be told are none."""
        level = level_of(self.settings)
        caveats_of(self, "mean", 0, np.zeros(1, dtype=np.int64), level.corrected, 0.0)
        no_decision(NoCandidateError(), self)

    def to_html(self, path: str | os.PathLike[str], *, method: Method = "mean") -> None:
        """Write a report: one HTML file with the verdict, the picture, the table of the rates and the settings.

        It needs no network, runs no script but its own, which sorts the table, and is the same, byte by byte, at each
        call. It is written as a whole or not at all.

        Args:
            path: Where to write, ``.html`` or ``.htm``; what is there is replaced.
            method: The method of the pick.

        Raises:
            ValueError: If the path ends in something else, or there is no such method.
            OSError: If the file cannot be written.
        """
        if writes(self.settings):
            write_tuning_report(path, self, method)

    def __repr__(self) -> str:
        record = self.differentials
        return f"<TuningResult: {record.num_subsamples} subsamples, {record.learning_rates.size} learning rates>"

    def __str__(self) -> str:
        try:
            return str(decide(self, "mean"))
        except NoCandidateError as error:
            return no_decision(error, self)

    def _repr_html_(self) -> str:
        try:
            return decide(self, "mean")._repr_html_()
        except NoCandidateError as error:
            return verdict_html(no_decision(error, self))

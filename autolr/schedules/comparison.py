"""ScheduleComparison: what training came to under each schedule, and which of them can be told apart."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from autolr._html import verdict_html
from autolr._text import cost_of
from autolr._typing import Settings
from autolr._validation import check_confidence_level, invalid
from autolr.errors import DivergedError
from autolr.plot_schedules import plot_comparison
from autolr.statistics import t_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HISTORY_COLUMNS = ("schedule", "repeat", "step", "learning_rate", "loss")
# NOTE: the mean of rounded losses is off by a few roundings: a difference below that is none, however often it is seen.
_ROUNDINGS = 16.0


@dataclass(frozen=True, eq=False, repr=False)
class ScheduleComparison:
    """What :func:`autolr.compare_schedules` measured. It holds numbers only, never a model.

    Attributes:
        history: A row for each step: ``schedule``, its label; ``repeat``; ``step``, from 0; ``learning_rate``, that of
            the first parameter group in this step; ``loss``, that of the step's own batch before the step. Where a loss
            was not finite it is ``inf``, and the run has no later rows.
        final_losses: The losses after the last step, ``inf`` where a run diverged: index ``repeat`` (R rows), columns
            ``schedule``, the labels in the order in which they were given (S columns).
        settings: Every choice that made it, as JSON values, with costs and versions.

    Raises:
        TypeError: If ``history`` or ``final_losses`` is no such frame, or ``settings`` no mapping.
        ValueError: If there are fewer than two repeats, or no schedule.

    Example:
        Three repeats; the difference of "b" to the best is 1, 2 and 3, and the 95% point of t with 2 degrees of
        freedom is 4.303:

        >>> steps = pd.DataFrame(columns=HISTORY_COLUMNS)
        >>> result = ScheduleComparison(steps, pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [2.0, 4.0, 6.0]}))
        >>> result.best
        'a'
        >>> result.summary()[["final_loss", "difference", "difference_low", "difference_high"]].round(3)
                  final_loss  difference  difference_low  difference_high
        schedule
        a                2.0         0.0           0.000            0.000
        b                4.0         2.0          -0.484            4.484
    """

    history: pd.DataFrame
    final_losses: pd.DataFrame
    settings: Settings = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.history, pd.DataFrame) or list(self.history.columns) != list(HISTORY_COLUMNS):
            columns = ", ".join(HISTORY_COLUMNS)
            raise TypeError(invalid("history", f"be a frame with the columns {columns}", self.history))
        if not isinstance(self.final_losses, pd.DataFrame):
            raise TypeError(invalid("final_losses", "be a frame with a column for each schedule", self.final_losses))
        if len(self.final_losses) < 2 or not len(self.final_losses.columns):
            shape = "have at least two rows and one column"
            raise ValueError(invalid("final_losses", shape, self.final_losses.shape))
        if not isinstance(self.settings, Mapping):
            raise TypeError(invalid("settings", "be a mapping", self.settings))
        object.__setattr__(self, "settings", MappingProxyType(copy.deepcopy(dict(self.settings))))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.history, self.final_losses, dict(self.settings))

    @property
    def best(self) -> str:
        """The label of the schedule with the smallest mean final loss, the first of several.

        Raises:
            DivergedError: If a run diverged under every schedule.
        """
        means = self.final_losses.mean()
        if not np.isfinite(means).any():
            raise DivergedError(
                "Training diverged under every schedule: compare them at a smaller learning rate, such as that of"
                " autolr.find_lr."
            )
        return str(means.idxmin())

    def summary(self, *, confidence_level: float | None = None) -> pd.DataFrame:
        r"""Return the final losses, and the paired differences to the best schedule, with Student's t intervals.

        With :math:`L_{rs}` the final loss of schedule :math:`s` in repeat :math:`r`, and :math:`b` the best schedule,
        the intervals are those of :func:`~autolr.statistics.t_interval` for the means over the repeats of
        :math:`L_{rs}` and of :math:`L_{rs} - L_{rb}`. The second is the one to compare schedules by: what a repeat's
        initial weights and batches do to all of them cancels.

        They are pointwise, and the best is picked by the same losses: its own loss, and the differences to it, look
        better for it than they are, the more so the more schedules there are. A schedule under which a run diverged has
        the mean ``inf`` and the interval (-inf, inf); where all have, so do the differences.

        Args:
            confidence_level: Nominal coverage of the intervals; by default that of the comparison.

        Returns:
            A frame indexed by ``schedule``, in the order in which they were given: ``final_loss, low, high,
            difference, difference_low, difference_high``, in units of the loss. The best schedule's differences are 0.

        Raises:
            TypeError: If ``confidence_level`` is not a real number.
            ValueError: If it is outside of (0, 1).
        """
        level = self.confidence_level if confidence_level is None else check_confidence_level(confidence_level)
        losses = self.final_losses.to_numpy(dtype=np.float64)
        differences = np.full_like(losses, np.inf)
        if np.isfinite(losses).all(axis=0).any():
            differences = losses - self.final_losses[self.best].to_numpy(dtype=np.float64)[:, np.newaxis]
        low, high = t_interval(losses, confidence_level=level)
        difference_low, difference_high = t_interval(differences, confidence_level=level)
        columns = {
            "final_loss": losses.mean(axis=0),
            "low": low,
            "high": high,
            "difference": differences.mean(axis=0),
            "difference_low": difference_low,
            "difference_high": difference_high,
        }
        return pd.DataFrame(columns, index=pd.Index(self.final_losses.columns, name="schedule"))

    @property
    def confidence_level(self) -> float:
        """The nominal coverage of intervals where none is asked for."""
        return float(self.settings.get("confidence_level", 0.95))

    def plot(self, axes: "tuple[Axes, Axes] | None" = None) -> "tuple[Axes, Axes]":
        """Draw the training losses and the learning rates against the step.

        Args:
            axes: Where to draw: two axes; by default new ones.

        Returns:
            The two axes, the losses and the rates; nothing is shown.
        """
        return plot_comparison(self.history, list(self.final_losses.columns), axes=axes)

    def __repr__(self) -> str:
        num_repeats, num_schedules = self.final_losses.shape
        return f"<ScheduleComparison: {num_schedules} schedules, {num_repeats} repeats>"

    def __str__(self) -> str:
        return _verdict(self)

    def _repr_html_(self) -> str:
        best = f"{self.best}:" if np.isfinite(self.final_losses.mean()).any() else None
        return f"{verdict_html(str(self), best)}{self.summary().to_html(float_format='{:.4g}'.format)}"


def _verdict(result: ScheduleComparison) -> str:
    """Return the comparison in words: the best, what cannot be told from it, what is worse, what diverged, the cost."""
    summary = result.summary()
    num_repeats, num_schedules = result.final_losses.shape
    num_diverged = np.isinf(result.final_losses).sum()
    if num_diverged.all():
        lines = ["I cannot tell: training diverged under every schedule."]
    else:
        best = summary[summary.index == result.best].iloc[0]
        which = f"The best of {num_schedules} schedules is" if num_schedules > 1 else "The only schedule is"
        level = f"{100.0 * result.confidence_level:g}%, {num_repeats} repeats"
        loss, low, high = map(_number, best[["final_loss", "low", "high"]])
        lines = [f"{which} {result.best}: final loss {loss}, between {low} and {high} ({level})."]
        others = summary[(summary.index != result.best) & (num_diverged == 0).to_numpy()]
        rounding = _ROUNDINGS * float(result.settings.get("epsilon", 0.0)) * abs(best["final_loss"])
        is_tied = (others["difference_low"] <= 0.0) | (others["difference"] <= rounding)
        tied, worse = others[is_tied], others[~is_tied]
        if len(tied):
            lines.append(f"It cannot be told from {', '.join(map(str, tied.index))}.")
        if len(worse):
            rows = worse[["difference", "difference_low", "difference_high"]].map(_number).itertuples()
            parts = [f"{label} by {by} (from {low} to {high})" for label, by, low, high in rows]
            lines.append(f"Worse than it: {'; '.join(parts)}.")
    if num_diverged.any():
        parts = [f"{label} ({number} of {num_repeats})" for label, number in num_diverged.items() if number]
        lines.append(f"Training diverged under {', '.join(parts)}.")
    if "num_evaluations" in result.settings:
        runs = f"{num_repeats * num_schedules} runs of {result.settings['total_steps']} steps"
        lines.append(f"Measured in {runs}: {cost_of(result.settings)}.")
    if num_diverged.all():
        lines.append("Next: try a smaller learning rate, such as that of autolr.find_lr.")
    elif num_schedules > 1:
        lines.append("Next: compare again with another rng: picked by these losses, the best looks better than it is.")
    return "\n".join(lines)


def _number(value: Any) -> str:
    return f"{float(value):.3g}".replace("-", "\N{MINUS SIGN}")

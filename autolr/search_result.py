"""SearchResult: everything that a search tried, and the rate that it leads to."""

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from autolr._typing import Settings
from autolr._validation import invalid
from autolr.plot_search import plot_search
from autolr.ranks import writes
from autolr.report import write_search_report
from autolr.search_verdict import search_verdict
from autolr.storage import load_search, save_search
from autolr.suggestion import Suggestion

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRACE_COLUMNS = ("stream", "stage", "learning_rate", "step", "loss")


@dataclass(frozen=True, eq=False, repr=False)
class SearchResult:
    """What :func:`autolr.find_lr` tried, and what it made of it. It holds numbers only, never the model.

    Attributes:
        trace: A row for each loss: ``stream``; ``stage`` (``"untrained"``, ``"scan"``, ``"final"``, ``"anneal"``,
            ``"held-out"``); ``learning_rate`` (0 for untrained losses; in the annealing, the rate that falls);
            ``step``, the number of steps before the loss; ``loss``, that of the step's own batch before the step, or
            the held-out loss.
        decision: What was made of it, as JSON values: the rate, its interval, each stream's finalists and vertex.
        settings: Every choice that made it, as JSON values, with costs and versions.
    """

    trace: pd.DataFrame
    decision: Settings
    settings: Settings = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.trace, pd.DataFrame) or list(self.trace.columns) != list(TRACE_COLUMNS):
            raise TypeError(invalid("trace", f"be a frame with the columns {', '.join(TRACE_COLUMNS)}", self.trace))
        for name in ("decision", "settings"):
            value = getattr(self, name)
            if not isinstance(value, Mapping):
                raise TypeError(invalid(name, "be a mapping", value))
            object.__setattr__(self, name, MappingProxyType(copy.deepcopy(dict(value))))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.trace, dict(self.decision), dict(self.settings))

    @property
    def num_evaluations(self) -> float:
        """The cost in gradient evaluations; three losses without a gradient count as one."""
        return float(self.settings["num_evaluations"])

    @cached_property
    def suggestion(self) -> Suggestion:
        """The decision as a value."""
        decision = self.decision
        low, high = decision["low"], decision["high"]
        rates = np.unique(self.trace.loc[self.trace["stage"] != "untrained", "learning_rate"])
        return Suggestion(
            learning_rate=decision["learning_rate"],
            method="search",
            score=decision["loss"],
            low=low,
            high=high,
            best_set=tuple(map(float, rates[(rates >= low) & (rates <= high)])),
            max_stable_lr=decision["max_stable_lr"],
            regret_bound=float("nan"),
            at_grid_edge=decision["at_grid_edge"],
            horizon=decision["num_steps"],
            confidence_level=decision["confidence_level"],
            doubt=decision["doubt"],
            below_resolution=False,
            caveats=tuple(decision["caveats"]),
            evidence=self,
        )

    def plot(self, axes: "tuple[Axes, Axes] | None" = None) -> "tuple[Axes, Axes]":
        """Draw the losses against the step, coloured by the rate, and the best rate against the number of steps.

        What was measured is solid, what the law of the picker makes of it for the length of the run is dashed, with
        the calibrated interval at its end: see :func:`autolr.plot_search.plot_search`.

        Args:
            axes: Where to draw: two axes; by default new ones.

        Returns:
            The two axes; nothing is shown.
        """
        return plot_search(self.trace, self.decision, self.settings, axes=axes)

    def plot_of(self, _: Suggestion, axes: "tuple[Axes, Axes] | None" = None) -> "tuple[Axes, Axes]":
        """Draw this result; see :meth:`plot`."""
        return self.plot(axes)

    def verdict_of(self, suggestion: Suggestion) -> str:
        """Return its suggestion in words."""
        return search_verdict(suggestion)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result to a ``.json`` file, the whole of it or nothing; :meth:`load` gives it back exactly.

        Raises:
            ValueError: If the path does not end in ``.json``.
            OSError: If the file cannot be written.
        """
        if writes(self.settings):
            save_search(path, self.trace, dict(self.decision), dict(self.settings))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "SearchResult":
        """Read a result that :meth:`save` wrote; no code in the file is run.

        Raises:
            ValueError: If the file is damaged, no result of a search, or of a newer version.
            OSError: If the file cannot be read.
        """
        trace, decision, settings = load_search(path)
        try:
            result = cls(trace, decision, settings)
            str(result)  # a decision that cannot be told is none
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            raise ValueError(f"`path` must name an undamaged result, got {str(path)!r}: {what}") from error
        return result

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write a report: one HTML file with the verdict, pictures, tables of what was tried, and the settings.

        See :meth:`TuningResult.to_html`.

        Args:
            path: Where to write, ``.html`` or ``.htm``; what is there is replaced.

        Raises:
            ValueError: If the path ends in something else.
            OSError: If the file cannot be written.
        """
        if writes(self.settings):
            write_search_report(path, self)

    def __repr__(self) -> str:
        rates = self.trace.loc[self.trace["stage"] != "untrained", "learning_rate"].nunique()
        return f"<SearchResult: {rates} learning rates, {self.num_evaluations:.0f} gradient evaluations>"

    def __str__(self) -> str:
        return search_verdict(self.suggestion)

    def _repr_html_(self) -> str:
        return self.suggestion._repr_html_()

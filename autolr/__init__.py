"""Choose the learning rate of a PyTorch model, with error bars.

data -> subsample -> probe -> loss differentials -> statistics -> decision -> picture
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autolr import statistics
    from autolr._version import __version__
    from autolr.differentials import LossDifferentials
    from autolr.errors import (
        DivergedError,
        DivergenceWarning,
        GridEdgeWarning,
        NoCandidateError,
        NotTunedError,
        RankFailedError,
        ResolutionWarning,
    )
    from autolr.grids import linear_grid, log_grid
    from autolr.loss_curve import loss_by_learning_rate
    from autolr.range_result import RangeTest
    from autolr.range_test import lr_range_test
    from autolr.result import TuningResult
    from autolr.schedules.compare import ScheduleComparison, compare_schedules
    from autolr.schedules.make import make_scheduler
    from autolr.schedules.rebase import rebase_scheduler
    from autolr.schedules.second_order import SecondOrderLR
    from autolr.search import find_lr
    from autolr.search_result import SearchResult
    from autolr.suggestion import Suggestion
    from autolr.taylor import TaylorExpansion, taylor_expansion
    from autolr.tuner import AutoLRTuner

__all__ = [  # noqa: RUF022 (grouped)
    # tune, and look at the result
    "AutoLRTuner",
    "TuningResult",
    "LossDifferentials",
    "Suggestion",
    # search for the rate of a whole run
    "find_lr",
    "SearchResult",
    # one batch, one step: the loss at many rates, and its derivatives by the rate
    "loss_by_learning_rate",
    "taylor_expansion",
    "TaylorExpansion",
    # one training run at rising rates
    "lr_range_test",
    "RangeTest",
    # grids and schedules
    "log_grid",
    "linear_grid",
    "make_scheduler",
    "rebase_scheduler",
    "SecondOrderLR",
    "compare_schedules",
    "ScheduleComparison",
    # intervals, bands and sets for any matrix of loss differentials
    "statistics",
    # errors and warnings
    "NotTunedError",
    "NoCandidateError",
    "DivergedError",
    "RankFailedError",
    "GridEdgeWarning",
    "DivergenceWarning",
    "ResolutionWarning",
    "__version__",
]

# where each name is defined; it is imported when it is first asked for, as pandas and SciPy take a second
_HOMES = {
    "AutoLRTuner": "tuner",
    "TuningResult": "result",
    "LossDifferentials": "differentials",
    "Suggestion": "suggestion",
    "find_lr": "search",
    "SearchResult": "search_result",
    "loss_by_learning_rate": "loss_curve",
    "taylor_expansion": "taylor",
    "TaylorExpansion": "taylor",
    "lr_range_test": "range_test",
    "RangeTest": "range_result",
    "log_grid": "grids",
    "linear_grid": "grids",
    "make_scheduler": "schedules.make",
    "rebase_scheduler": "schedules.rebase",
    "SecondOrderLR": "schedules.second_order",
    "compare_schedules": "schedules.compare",
    "ScheduleComparison": "schedules.compare",
    "__version__": "_version",
} | dict.fromkeys((name for name in __all__ if name.endswith(("Error", "Warning"))), "errors")


def __getattr__(name: str) -> Any:
    if name == "statistics":
        return import_module("autolr.statistics")
    if name not in _HOMES:
        raise AttributeError(f"module 'autolr' has no attribute {name!r}")
    value = getattr(import_module(f"autolr.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

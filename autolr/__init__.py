"""Choose the learning rate of a PyTorch model, with error bars.

data -> subsample -> probe -> loss differentials -> statistics -> decision -> picture
"""

from autolr import statistics
from autolr._version import __version__
from autolr.differentials import LossDifferentials
from autolr.errors import (
    DivergedError,
    DivergenceWarning,
    GridEdgeWarning,
    NoCandidateError,
    NotTunedError,
    ResolutionWarning,
)
from autolr.grids import linear_grid, log_grid
from autolr.result import TuningResult
from autolr.schedules.make import make_scheduler
from autolr.schedules.rebase import rebase_scheduler
from autolr.search import find_lr
from autolr.search_result import SearchResult
from autolr.suggestion import Suggestion
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
    # grids and schedules
    "log_grid",
    "linear_grid",
    "make_scheduler",
    "rebase_scheduler",
    # intervals, bands and sets for any matrix of loss differentials
    "statistics",
    # errors and warnings
    "NotTunedError",
    "NoCandidateError",
    "DivergedError",
    "GridEdgeWarning",
    "DivergenceWarning",
    "ResolutionWarning",
    "__version__",
]

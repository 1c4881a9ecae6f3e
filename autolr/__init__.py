"""Choose the learning rate of a PyTorch model, with error bars."""

from autolr import statistics
from autolr._version import __version__
from autolr.errors import (
    DivergedError,
    DivergenceWarning,
    GridEdgeWarning,
    NoCandidateError,
    NotTunedError,
    ResolutionWarning,
)
from autolr.grids import linear_grid, log_grid

__all__ = [
    "DivergedError",
    "DivergenceWarning",
    "GridEdgeWarning",
    "NoCandidateError",
    "NotTunedError",
    "ResolutionWarning",
    "__version__",
    "linear_grid",
    "log_grid",
    "statistics",
]

"""Errors and warnings of the package, each for one situation in which a decision cannot be trusted."""


class NotTunedError(RuntimeError):
    """A result was asked for before any tuning: call ``tune`` first."""


class NoCandidateError(RuntimeError):
    """No learning rate of the grid qualifies for the method asked for."""


class DivergedError(NoCandidateError):
    """Every learning rate of the grid diverged, so that there is nothing to choose from."""


class RankFailedError(RuntimeError):
    """Another process that makes the call too has raised, is lost, or has not made it: everything here is restored."""


class GridEdgeWarning(UserWarning):
    """The pick is the first or the last rate of the grid: the best rate may lie outside of it."""


class DivergenceWarning(UserWarning):
    """Probes diverged where it affects the decision."""


class ResolutionWarning(UserWarning):
    """The loss differentials at the pick are too small for the precision in which the loss is computed."""

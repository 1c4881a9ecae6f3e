r"""Stage "loss differentials", fewer probes: a row's curve through some of its rates, and what is known of its error.

Along the line of a step, :math:`\Delta / \mathrm{lr}` is smooth in the logarithm of the rate, from the slope at small
rates to the steep rise at large ones. A cubic spline through :math:`\operatorname{asinh}(\Delta / (\mathrm{lr}\, c))`
follows it; :math:`c`, the row's own median of :math:`|\Delta| / \mathrm{lr}`, is where the transform goes over from
linear to logarithmic, so that the rise of many powers of ten does not bend the spline elsewhere. The transform is a
choice made by measurement, not from the literature.

That a curve is smooth is not assumed but tested: some rows are probed at all rates, and rates are added where the
spline misses them (:func:`choose_nodes`) by more than :func:`~autolr.interpolation_error.error_of` allows.
"""

from itertools import pairwise

import numpy as np
from scipy.interpolate import CubicSpline, PchipInterpolator

from autolr._typing import BoolArray, FloatArray
from autolr.interpolation_error import TOLERANCE, InterpolationError, error_of

# With so many rates it begins; a tenth to a third of 100 is where it ends, on smooth losses.
NUM_FIRST_NODES = 12
_FEWEST_NODES = 4  # of a cubic


def first_nodes(num_rates: int, num_nodes: int = NUM_FIRST_NODES) -> BoolArray:
    """Return the rates to begin with, both ends and evenly between them, shape ``(K,)``.

    Example:
        >>> first_nodes(25).nonzero()[0]
        array([ 0,  2,  4,  7,  9, 11, 13, 15, 17, 20, 22, 24])
    """
    nodes = np.zeros(num_rates, dtype=np.bool_)
    nodes[np.linspace(0, num_rates - 1, num_nodes).round().astype(np.int64)] = True
    return nodes


def interpolate(learning_rates: FloatArray, delta: FloatArray, nodes: BoolArray) -> FloatArray:
    r"""Return curves through the differentials at the nodes, each row and horizon for itself.

    Args:
        learning_rates: The rates, shape ``(K,)``.
        delta: Loss differentials, in units of the loss, shape ``(M, K, H)``; only those at the nodes are read.
        nodes: Through which rates the curves go, shape ``(K,)``.

    Returns:
        Differentials, shape ``(M, K, H)``, those at the nodes as they were. NaN from a curve's last node before a
        diverged one on, at what is no node: nothing is said about what lies next to a divergence, or beyond it; and
        everywhere where fewer than four nodes are left.

    Example:
        >>> rates = np.logspace(-2, 0, 25)
        >>> delta = (rates**2 - rates).reshape(1, -1, 1)
        >>> curve = interpolate(rates, delta, first_nodes(25))
        >>> bool(np.abs(curve - delta).max() < 1e-3)
        True
    """
    return _curves(learning_rates, delta, nodes, CubicSpline)


def doubtful(learning_rates: FloatArray, delta: FloatArray, nodes: BoolArray, limit: FloatArray) -> BoolArray:
    """Return at which rates the curve of some row depends on how it is drawn, shape ``(K,)``.

    That is where it is unknown (:func:`interpolate`), or where the spline and the monotone cubic interpolant of the
    same transformed nodes differ by more than the limit: between nodes on either side of a jump or a dip the spline
    overshoots, the monotone one does not. This looks at every row, and costs no probe.

    Args:
        learning_rates: The rates, shape ``(K,)``.
        delta: Loss differentials, shape ``(M, K, H)``; only those at the nodes are read.
        nodes: Through which rates the curves go, shape ``(K,)``.
        limit: In units of the loss, shape ``(K, H)``.

    References:
        Fritsch and Butland (1984). A method for constructing local monotone piecewise cubic interpolants. SIAM Journal
        on Scientific and Statistical Computing 5(2). (The monotone interpolant.)
    """
    spline = _curves(learning_rates, delta, nodes, CubicSpline)
    monotone = _curves(learning_rates, delta, nodes, PchipInterpolator)
    with np.errstate(invalid="ignore", over="ignore"):
        agree = np.abs(spline - monotone) <= limit
    return np.asarray(~(agree | nodes[:, np.newaxis]).all(axis=(0, 2)))


def choose_nodes(
    learning_rates: FloatArray,
    exact: FloatArray,
    nodes: BoolArray,
    *,
    num_rows: int,
    resolution: float,
    tolerance: float = TOLERANCE,
    sparing: bool = False,
) -> tuple[BoolArray, InterpolationError]:
    """Return nodes through which the error is allowed at every rate, and that error.

    In every interval between two nodes with a rate where it is not, the middle one becomes a node, until all are well;
    all rates of an interval in the end, where the loss has a jump or probes diverge. The sparing way, for rows that
    others are to confirm, takes the one rate where the error exceeds most what is allowed, and then looks again.

    Args:
        learning_rates: The rates, shape ``(K,)``.
        exact: The differentials of rows that were probed at all rates, shape ``(m, K, H)``.
        nodes: Those to begin with, both ends among them, shape ``(K,)``.
        num_rows: See :func:`~autolr.interpolation_error.error_of`, also for what follows.
        resolution: The resolution of the loss.
        tolerance: The share of the standard error.
        sparing: Whether nodes are added one by one.
    """
    while True:
        curves = interpolate(learning_rates, exact, nodes)
        error = error_of(curves, exact, num_rows=num_rows, resolution=resolution, tolerance=tolerance)
        missed = error.too_large & ~nodes
        if not missed.any():
            return nodes, error
        nodes = nodes.copy()
        if sparing:
            with np.errstate(divide="ignore", invalid="ignore"):
                excess = np.where(error.bound <= error.allowed, 0.0, error.bound / error.allowed).max(axis=1)
            nodes[int(np.where(missed, excess, -1.0).argmax())] = True
            continue
        for begin, end in pairwise(np.flatnonzero(nodes)):
            if missed[begin:end].any():
                nodes[(begin + end) // 2] = True


def _curves(
    learning_rates: FloatArray, delta: FloatArray, nodes: BoolArray, kind: type[CubicSpline] | type[PchipInterpolator]
) -> FloatArray:
    num_rows, num_rates, num_horizons = delta.shape
    positions = np.log(learning_rates)
    curves = np.moveaxis(delta, 2, 1).reshape(-1, num_rates)
    values = np.where(nodes, curves, np.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        slopes = curves[:, nodes] / learning_rates[nodes]
        num_whole = np.logical_and.accumulate(np.isfinite(slopes), axis=1).sum(axis=1)
        for size in np.unique(num_whole[num_whole >= _FEWEST_NODES]):
            rows = np.flatnonzero(num_whole == size)
            unit = np.median(np.abs(slopes[rows, :size]), axis=1, keepdims=True)
            unit[unit < np.finfo(np.float64).tiny] = 1.0
            ends = positions[nodes][:size]
            between = np.flatnonzero(~nodes & (positions < ends[-1]))
            drawn = kind(ends, np.arcsinh(slopes[rows, :size] / unit), axis=1)(positions[between])
            filled = np.sinh(drawn) * unit * learning_rates[between]
            values[np.ix_(rows, between)] = np.where(np.isfinite(filled), filled, np.nan)
    return np.moveaxis(values.reshape(num_rows, num_horizons, num_rates), 1, 2)

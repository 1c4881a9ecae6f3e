"""Stage "statistics", the table: what is known about the loss differential at every learning rate."""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from autolr._typing import BoolArray, FloatArray, IntArray, IntervalMethod, Rng
from autolr._validation import (
    check_confidence_level,
    check_integer,
    check_learning_rates,
    check_option,
    check_rng,
    invalid,
)
from autolr.statistics._columns import check_probes, describe, medians
from autolr.statistics.bands import simultaneous_band
from autolr.statistics.best_set import best_set, default_method
from autolr.statistics.flags import without_explosions
from autolr.statistics.intervals import (
    bca_interval,
    bootstrap_t_interval,
    median_interval,
    percentile_interval,
    t_interval,
)
from autolr.statistics.proportions import binomial_interval, binomial_upper_bound

_RESAMPLED: dict[str, Callable[..., tuple[FloatArray, FloatArray]]] = {
    "bootstrap-t": bootstrap_t_interval,
    "percentile": percentile_interval,
    "bca": bca_interval,
}


def summarize(
    learning_rates: ArrayLike,
    delta: ArrayLike,
    *,
    confidence_level: float = 0.95,
    interval: IntervalMethod = "bootstrap-t",
    num_resamples: int = 2000,
    rng: Rng = 0,
) -> pd.DataFrame:
    r"""Table of the loss differentials: a row for each learning rate.

    Its columns are ``num_subsamples`` (rows probed at this rate), ``mean``, ``median``, ``std``, ``sem`` (standard
    error of the mean), ``low`` and ``high`` (interval of the mean), ``median_low`` and ``median_high``, ``band_low``
    and ``band_high`` (band of the means of all rates at once), ``prob_improve`` (share of the subsamples whose loss
    fell) with its Clopper-Pearson interval ``prob_improve_low`` and ``prob_improve_high``, ``num_diverged``,
    ``prob_diverged_high`` (one-sided upper bound of the probability that a probe diverges) and ``in_best_set``.

    A rate at which a probe diverged has the mean ``inf``, no ``std`` and ``sem`` (NaN), and the interval (-inf, inf). A
    rate at which one row exploded (:func:`autolr.statistics.flags.without_explosions`) is in neither band nor set. A
    rate not probed in every row uses its own rows, and is in neither band nor set; with one row its intervals are
    (-inf, inf), with none its mean is NaN too. All intervals are pointwise, only the band is not. The set is the
    studentized one below 50 rows, the multivariate t's from there on.

    Args:
        learning_rates: Rates, shape ``(K,)``, strictly increasing and positive.
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; ``inf``: diverged, NaN: not probed.
        confidence_level: Nominal coverage :math:`\gamma \in (0, 1)` of every interval, bound and set.
        interval: Interval of the mean.
        num_resamples: Number of bootstrap resamples :math:`B`.
        rng: Seed or generator of the resamples; by default the same table comes out at each call.

    Returns:
        The frame, indexed by ``learning_rate``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If the number of rates is not that of columns, there are fewer than two rows, a value is -inf, or an
            argument is out of its range.

    Example:
        >>> delta = [[-1.0, -2.0, np.inf], [-1.0, -4.0, -6.0], [-1.0, 0.0, -6.0]]
        >>> table = summarize([0.01, 0.1, 1.0], delta, interval="t")
        >>> table[["mean", "median", "std", "prob_improve", "num_diverged"]].round(2)
                       mean  median  std  prob_improve  num_diverged
        learning_rate
        0.01           -1.0    -1.0  0.0          1.00             0
        0.10           -2.0    -2.0  2.0          0.67             0
        1.00            inf    -6.0  NaN          0.67             1
    """
    rates = check_learning_rates(learning_rates)
    values = check_probes(delta)
    if values.shape[1] != rates.size:
        raise ValueError(invalid("delta", f"have a column for each of the {rates.size} learning rates", values.shape))
    level = check_confidence_level(confidence_level)
    check_option("interval", interval, IntervalMethod)
    check_integer("num_resamples", num_resamples, minimum=1)
    # NOTE: one seed for all parts, so that the same resampled rows serve interval and set.
    source = check_rng(rng)
    seed = int(source.integers(2**63)) if isinstance(source, np.random.Generator) else source

    probed = ~np.isnan(values)
    num_subsamples = probed.sum(axis=0)
    complete = np.asarray(probed.all(axis=0))
    num_diverged = np.isinf(values).sum(axis=0)
    improved = (values < 0.0).sum(axis=0)

    unbounded = np.tile([[-np.inf], [np.inf]], rates.size)
    moments = np.full((4, rates.size), np.nan)
    mean_ends, median_ends = unbounded.copy(), unbounded.copy()
    for columns, own in _by_rows(values, probed):
        moments[1, columns] = medians(own)
        if own.shape[0] < 2:
            moments[0, columns] = own[0]
            continue
        described = describe(own)
        moments[0, columns], moments[2, columns], moments[3, columns] = described.mean, described.std, described.sem
        mean_ends[:, columns] = _mean_interval(own, interval, level, num_resamples, seed)
        median_ends[:, columns] = median_interval(own, confidence_level=level)

    inside = np.zeros(rates.size, dtype=np.bool_)
    band_ends = unbounded.copy()
    if complete.any():
        steady = without_explosions(values[:, complete])
        band_ends[:, complete] = simultaneous_band(
            steady, confidence_level=level, num_resamples=num_resamples, rng=seed
        )
        inside[complete] = best_set(
            steady,
            confidence_level=level,
            method=default_method(values.shape[0]),
            num_resamples=num_resamples,
            rng=seed,
        )

    with np.errstate(invalid="ignore"):  # no row, no share
        prob_improve = improved / num_subsamples
    improve_ends = binomial_interval(improved, num_subsamples, confidence_level=level)
    return pd.DataFrame(
        {
            "num_subsamples": num_subsamples,
            "mean": moments[0],
            "median": moments[1],
            "std": moments[2],
            "sem": moments[3],
            "low": mean_ends[0],
            "high": mean_ends[1],
            "median_low": median_ends[0],
            "median_high": median_ends[1],
            "band_low": band_ends[0],
            "band_high": band_ends[1],
            "prob_improve": prob_improve,
            "prob_improve_low": improve_ends[0],
            "prob_improve_high": improve_ends[1],
            "num_diverged": num_diverged,
            "prob_diverged_high": binomial_upper_bound(num_diverged, num_subsamples, confidence_level=level),
            "in_best_set": inside,
        },
        index=pd.Index(rates, name="learning_rate"),
    )


def _by_rows(values: FloatArray, probed: BoolArray) -> Iterator[tuple[IntArray, FloatArray]]:
    """Yield the indices of the columns that were probed in the same rows, and their values in these rows."""
    patterns, group = np.unique(probed, axis=1, return_inverse=True)
    for number, rows in enumerate(patterns.T):
        columns = np.flatnonzero(group.ravel() == number).astype(np.int64)
        if rows.any():
            yield columns, values[np.ix_(rows, columns)]


def _mean_interval(
    values: FloatArray, interval: IntervalMethod, level: float, num_resamples: int, rng: Rng
) -> tuple[FloatArray, FloatArray]:
    """Return the interval of the mean that has the name ``interval``."""
    if interval == "t":
        return t_interval(values, confidence_level=level)
    return _RESAMPLED[interval](values, confidence_level=level, num_resamples=num_resamples, rng=rng)

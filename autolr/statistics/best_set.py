"""Stage "statistics", all rates against each other: those that cannot be told from the best, and the pick's regret."""

import numpy as np
from numpy.typing import ArrayLike

from autolr._typing import BestSetMethod, BoolArray, Rng
from autolr._validation import check_confidence_level, check_delta, check_integer, check_option, invalid
from autolr.statistics._columns import finite_columns
from autolr.statistics._comparisons import Comparisons

# Rows from which the set of best rates is found by the multivariate t.
ROWS_FOR_MVT = 50


def default_method(num_subsamples: int) -> BestSetMethod:
    """Choose the method of :func:`best_set` and :func:`regret_bound` by the number of rows.

    The studentized one below 50, where the multivariate t's normal approximation is rough; the faster one from there.

    Args:
        num_subsamples: Number of rows :math:`M`.

    Returns:
        Name of the method.

    Example:
        >>> default_method(49), default_method(50)
        ('studentized', 'mvt')
    """
    return "mvt" if num_subsamples >= ROWS_FOR_MVT else "studentized"


def best_set(
    delta: ArrayLike,
    *,
    confidence_level: float = 0.95,
    method: BestSetMethod = "studentized",
    num_resamples: int = 2000,
    rng: Rng = None,
) -> BoolArray:
    r"""Confidence set of the best learning rate: every rate that cannot be told from the best.

    Rate :math:`j` is in the set unless its mean is significantly above another one's: with :math:`D_{jk}` the mean and
    :math:`s_{jk}` the standard error of the paired differences of columns :math:`j` and :math:`k`, iff
    :math:`T_j = \max_k D_{jk} / s_{jk} \le c_j`. The critical value is the order statistic of rank
    :math:`\lceil \gamma (B + 1) \rceil` of the maximum under the hypothesis that all differences are 0:

    - ``"studentized"``: of the t statistics of the differences in :math:`B` resamples of whole rows, about the
      differences in the data;
    - ``"mvt"``: of a multivariate t with the correlations in the data and M - 1 degrees of freedom; faster, for M of 50
      and more.

    The set holds the best rate of the grid with probability :math:`\gamma`, asymptotically in M, for independent rows
    with finite variances: only the test of the true best can err, so that there is no correction for the number of
    rates. With exact ties it holds *each* of them with this probability, not all at once. It is about the rates of the
    grid, not those between them; below about 20 rows it is rough.

    A rate with a divergence is never in the set. The smallest mean always is. Columns equal but for rounding are tied.
    A pair whose difference has so many ties that, on its own or together with other pairs of the rate, it is constant
    in more than 0.5% of the resamples (those of one row alone apart) takes no part in the studentized test, at any
    level; beyond a level of 99.5%, ties within this share can keep every rate in. With M = 2 or 3 at 95% no pair whose
    difference varies can exclude a rate. Rates whose t statistic against the smallest mean is above three times the
    Bonferroni critical value, and above 3, are out without a resample.

    Args:
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; a column may hold ``inf``.
        confidence_level: Nominal coverage :math:`\gamma \in (0, 1)`.
        method: How critical values are found.
        num_resamples: Number of resamples or normal draws :math:`B`.
        rng: Seed or generator of the resamples; an integer gives the same result at each call.

    Returns:
        Whether each rate is in the set, shape ``(K,)``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there are fewer than two rows, a value is NaN or -inf, or an option is out of its range.

    References:
        Edwards and Hsu (1983). Multiple comparisons with the best treatment. Journal of the American Statistical
        Association 78(384), 965-971.
        Hothorn, Bretz and Westfall (2008). Simultaneous inference in general parametric models. Biometrical Journal
        50(3), 346-363. (The multivariate t.)
        Mogstad, Romano, Shaikh and Wilhelm (2024). Inference for ranks with applications to mobility across
        neighbourhoods and academic achievement across countries. Review of Economic Studies 91(1), 476-518.

    Example:
        The second column is the first one and 1 in every row, the third is the first one again, the last diverged:

        >>> delta = [[x, x + 1.0, x, np.inf] for x in (-1.0, -3.0, -2.0, -5.0, -4.0)]
        >>> best_set(delta, rng=0)
        array([ True, False,  True, False])
    """
    inside, _ = best_set_and_regret(
        delta, confidence_level=confidence_level, method=method, num_resamples=num_resamples, rng=rng
    )
    return inside


def regret_bound(
    delta: ArrayLike,
    pick: int,
    *,
    confidence_level: float = 0.95,
    method: BestSetMethod = "studentized",
    num_resamples: int = 2000,
    rng: Rng = None,
) -> float:
    r"""Upper confidence bound of what a pick loses against the best learning rate of the grid.

    The regret of the pick :math:`p` is its expected loss differential less the smallest one. Its bound is
    :math:`\max_i [D_{pi} + c_i s_{pi}]_+` over the rates :math:`i \ne p` in the set of best rates, with the critical
    values :math:`c_i` of their tests (see :func:`best_set`): where the test of the true best does not err, that rate is
    in the set, and its term is above the regret.

    It assumes what :func:`best_set` does, and holds for one pick, also the one with the smallest mean in the same data;
    under skewed differentials it is not reliable for the bounds of all rates at once. Rates outside of the grid, and
    between its points, are not covered.

    Args:
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; a column may hold ``inf``.
        pick: Index of a column.
        confidence_level: Nominal coverage :math:`\gamma \in (0, 1)`.
        method: How critical values are found.
        num_resamples: Number of resamples or normal draws :math:`B`.
        rng: Seed or generator of the resamples; an integer gives the same result at each call.

    Returns:
        The bound, in units of the loss: 0 where no other rate can be the best, ``inf`` where the pick diverged or there
        are too few rows to say.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there are fewer than two rows, a value is NaN or -inf, or an argument is out of its range.

    References:
        Hsu (1984). Constrained simultaneous confidence intervals for multiple comparisons with the best. Annals of
        Statistics 12(3), 1136-1144.
        Edwards and Hsu (1983), as in :func:`best_set`, for comparisons with critical values of their own.

    Example:
        The second column is the first one and 1 in every row, so that picking it costs 1 and picking the first nothing:

        >>> delta = [[x, x + 1.0] for x in (-1.0, -3.0, -2.0, -5.0, -4.0)]
        >>> regret_bound(delta, 0, rng=0), regret_bound(delta, 1, rng=0)
        (0.0, 1.0)
    """
    chosen = check_integer("pick", pick, minimum=0)
    _, bound = best_set_and_regret(
        delta, chosen, confidence_level=confidence_level, method=method, num_resamples=num_resamples, rng=rng
    )
    return bound


def best_set_and_regret(
    delta: ArrayLike,
    pick: int | None = None,
    *,
    confidence_level: float = 0.95,
    method: BestSetMethod = "studentized",
    num_resamples: int = 2000,
    rng: Rng = None,
) -> tuple[BoolArray, float]:
    """Return what :func:`best_set` and :func:`regret_bound` do, from the same tests.

    Args:
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; a column may hold ``inf``.
        pick: Index of a column; ``None``: the one with the smallest mean.
        confidence_level: Nominal coverage in (0, 1) of each.
        method: How critical values are found.
        num_resamples: Number of resamples or normal draws.
        rng: Seed or generator of the resamples; an integer gives the same result at each call.

    Returns:
        Whether each rate is in the set, shape ``(K,)``, and the bound, which is ``inf`` where all rates diverged.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there are fewer than two rows, a value is NaN or -inf, or an argument is out of its range.

    Example:
        >>> best_set_and_regret([[x, x + 1.0] for x in (-1.0, -3.0, -2.0, -5.0, -4.0)], 1, rng=0)
        (array([ True, False]), 1.0)
    """
    values = check_delta(delta)
    num_columns = values.shape[1]
    if pick is not None and check_integer("pick", pick, minimum=0) >= num_columns:
        raise ValueError(invalid("pick", f"be below the number of columns {num_columns}", pick))
    finite = finite_columns(values)
    comparisons = Comparisons(
        values[:, finite],
        confidence_level=check_confidence_level(confidence_level),
        method=check_option("method", method, BestSetMethod),
        num_resamples=num_resamples,
        rng=rng,
    )
    inside = np.zeros(num_columns, dtype=np.bool_)
    if not finite.any():
        return inside, np.inf
    smallest = int(comparisons.mean.argmin())
    tested = np.flatnonzero(~comparisons.far_out(smallest))
    tests = comparisons.of(tested)
    kept = tests.kept | (tested == smallest)
    inside[np.flatnonzero(finite)[tested[kept]]] = True
    if pick is not None and not finite[pick]:
        return inside, np.inf
    position = smallest if pick is None else int(finite[:pick].sum())
    return inside, float(tests.bound[kept & (tested != position), position].max(initial=0.0))

"""Stage "statistics", while the rows still come: planned looks with corrected levels, or a sequence without a plan."""

from math import ceil, pi

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from autolr._typing import FloatArray
from autolr._validation import check_confidence_level, check_delta, check_integer
from autolr.statistics._columns import describe

# Rows before the first look: with fewer, sets and bounds are too rough to drop a rate.
FIRST_LOOK = 20
# From one look to the next, rows grow by this factor: with 2 in its place a race that 60 rows decide takes 80, and with
# a smaller one every look has less of the level.
GROWTH = 1.5
# Resamples beyond a critical value, on average, that it is estimated from at the least; but no more than so many in
# all, which take seconds.
TAIL, MOST_RESAMPLES = 20, 20_000


def confidence_sequence(
    delta: ArrayLike, *, confidence_level: float = 0.95, optimal_at: int = 100
) -> tuple[FloatArray, FloatArray]:
    r"""Asymptotic confidence sequence of the mean loss differential at each learning rate.

    It may be looked at after every row and stopped at will: with probability :math:`\gamma = 1 - \alpha`, the intervals
    at all :math:`M` together hold the mean. With :math:`s_k` the standard deviation of column :math:`k`, they are

    .. math:: \bar\Delta_k \pm s_k \sqrt{\frac{2 (M \rho^2 + 1)}{M^2 \rho^2} \log\frac{\sqrt{M \rho^2 + 1}}{\alpha}},

    the boundary of a normal mixture of martingales. At :math:`M_*` rows (``optimal_at``) it is narrowest for
    :math:`\rho^2 = (-W_{-1}(-\alpha^2 / e) - 1) / M_*`, with Lambert's function :math:`W_{-1}`; there it is about 1.5
    times as wide as a t interval at 95%, and it is the wider the farther M is from there.

    It assumes independent rows with a finite variance, and enough of them that their mean is nearly normal: it is
    asymptotic, and says nothing below 20 rows. Where differentials are skewed it misses more often in its first looks.
    It is pointwise: valid at all times for each rate, not for all rates at once.

    Args:
        delta: Loss differentials, in units of the loss, shape ``(M, K)``; a column may hold ``inf``.
        confidence_level: Nominal coverage :math:`\gamma \in (0, 1)` over all M.
        optimal_at: The number of rows at which it is narrowest; to be chosen before looking.

    Returns:
        Lower and upper ends, each of shape ``(K,)``: the constant twice for a constant column, (-inf, inf) for one
        with an ``inf``, and for all with fewer than 20 rows.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there are fewer than two rows, a value is NaN or -inf, or an option is out of its range.

    References:
        Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024). Time-uniform central limit theory and asymptotic
        confidence sequences. Annals of Statistics 52(6), 2613-2640. (Theorem 2.2.)

        Howard, Ramdas, McAuliffe and Sekhon (2021). Time-uniform, nonparametric, nonasymptotic confidence sequences.
        Annals of Statistics 49(2), 1055-1080. (Proposition 3: where a mixture is narrowest.)

    Example:
        The wider interval is the price of looking at any time:

        >>> from autolr.statistics import t_interval
        >>> delta = np.random.default_rng(0).normal(size=(100, 1))
        >>> (low, high), (t_low, t_high) = confidence_sequence(delta), t_interval(delta)
        >>> ((high - low) / (t_high - t_low)).round(2)
        array([1.53])
    """
    values = check_delta(delta)
    alpha = min(1.0 - check_confidence_level(confidence_level), 1.0 - 2.0**-53)  # a level that rounds away is no level
    at = check_integer("optimal_at", optimal_at, minimum=1)
    num_rows = values.shape[0]
    columns = describe(values)
    if num_rows < FIRST_LOOK:
        return np.full(values.shape[1], -np.inf), np.full(values.shape[1], np.inf)
    variance = (-float(special.lambertw(-(alpha**2) / np.e, -1).real) - 1.0) / at
    growth = num_rows * variance + 1.0
    # NOTE: in units of the standard error s / sqrt(M)
    return columns.around_mean(np.sqrt(2.0 * growth / (num_rows * variance) * np.log(np.sqrt(growth) / alpha)))


def look_sizes(num_subsamples: int) -> tuple[int, ...]:
    """Return after how many rows a race is looked at: 20, 30, 45, ..., and at the end.

    Args:
        num_subsamples: The most rows there can be, at least 2.

    Example:
        >>> look_sizes(100), look_sizes(12)
        ((20, 30, 45, 67, 100), (12,))
    """
    last = check_integer("num_subsamples", num_subsamples, minimum=2)
    sizes, size = [], float(FIRST_LOOK)
    while int(size) < last:
        sizes.append(int(size))
        size *= GROWTH
    return (*sizes, last)


def look_level(confidence_level: float, look: int, num_looks: int | None = None) -> float:
    r"""Return the level of one of several looks, so that all of them together hold with the level asked for.

    With :math:`\alpha = 1 - \gamma`, each of L planned looks gets :math:`\alpha / L`; where no number is planned, the
    k-th gets :math:`6 \alpha / (\pi^2 k^2)`, which sum to :math:`\alpha`. Bonferroni's inequality asks for nothing: the
    looks may depend on each other, and it does not matter why one stops. It matters that the numbers of rows at the
    looks do not depend on the values: they are planned, or set by a clock.

    Args:
        confidence_level: The level :math:`\gamma` of all looks together.
        look: The number of the look, from 1.
        num_looks: The number of planned looks L, or ``None``.

    Returns:
        The level of the look.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range.

    References:
        Lan and DeMets (1983). Discrete sequential boundaries for clinical trials. Biometrika 70(3), 659-663. (Spending
        a level over looks; theirs, which uses how looks depend on each other, is less cautious.)

    Example:
        >>> look_level(0.95, 1, num_looks=4), round(look_level(0.95, 1), 4), round(look_level(0.95, 2), 4)
        (0.9875, 0.9696, 0.9924)
    """
    alpha = 1.0 - check_confidence_level(confidence_level)
    number = check_integer("look", look, minimum=1)
    if num_looks is not None:
        return 1.0 - alpha / check_integer("num_looks", num_looks, minimum=number)
    return 1.0 - 6.0 * alpha / (pi * number) ** 2


def enough_resamples(confidence_level: float, num_resamples: int) -> int:
    """Return a number of resamples with which a corrected level has 20 resamples in its tail, at least the one given.

    No more than 20,000, so that very high levels rest on fewer in their tail.

    Example:
        >>> [enough_resamples(level, 2000) for level in (0.95, 0.9975, 0.9999)]
        [2000, 8000, 20000]
    """
    asked = check_integer("num_resamples", num_resamples, minimum=1)
    return max(asked, min(MOST_RESAMPLES, ceil(TAIL / (1.0 - confidence_level) - 1e-6)))

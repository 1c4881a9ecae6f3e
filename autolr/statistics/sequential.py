"""Stage "statistics", while the rows still come: looks with corrected levels, racing, and a sequence without a plan."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, pi
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from autolr._typing import BoolArray, FloatArray, IntArray
from autolr._validation import check_confidence_level, check_delta, check_integer, check_real
from autolr.statistics._columns import describe, finite_columns
from autolr.statistics.best_set import best_set_and_regret, default_method

# Rows before the first look: with fewer, sets and bounds are too rough to drop a rate.
FIRST_LOOK = 20
# Neighbours of the pick, on either side, that stay in the race, because a spline through them finds the best rate.
NEIGHBOURS = 2
# Resamples beyond a critical value, on average, that it is estimated from at the least.
TAIL = 20

Stop: TypeAlias = Literal["set", "regret", "diverged", "all", "ended"]
Probe: TypeAlias = Callable[[range, IntArray], FloatArray]


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
    """Return after how many rows a race is looked at: 20, 40, 80, ..., and at the end.

    Args:
        num_subsamples: The most rows there can be, at least 2.

    Example:
        >>> look_sizes(100), look_sizes(12)
        ((20, 40, 80, 100), (12,))
    """
    last = check_integer("num_subsamples", num_subsamples, minimum=2)
    sizes, size = [], FIRST_LOOK
    while size < last:
        sizes.append(size)
        size *= 2
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

    Example:
        >>> enough_resamples(0.95, 2000), enough_resamples(0.999, 2000)
        (2000, 20000)
    """
    return max(check_integer("num_resamples", num_resamples, minimum=1), ceil(TAIL / (1.0 - confidence_level) - 1e-6))


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What was seen at a look.

    Attributes:
        num_subsamples: The number of rows.
        confidence_level: The corrected level.
        columns: The columns that were probed in all of these rows, increasing.
        inside: Those of them that can be the best.
        pick: The one with the smallest mean; ``None`` where all diverged.
        gain: By how much the pick lowers the mean loss, at least 0, in units of the loss.
        regret_bound: What the pick loses to the best rate at most, in units of the loss.
    """

    num_subsamples: int
    confidence_level: float
    columns: IntArray
    inside: IntArray
    pick: int | None
    gain: float
    regret_bound: float

    def decision(self, regret_tolerance: float) -> Stop | None:
        """Return why no further row is needed, or ``None``."""
        if self.pick is None:
            return "diverged"
        if self.inside.size == 1:
            return "set"
        return "regret" if self.gain > 0.0 and self.regret_bound <= regret_tolerance * self.gain else None


@dataclass(frozen=True, slots=True, eq=False)
class Race:
    """How a race went.

    Attributes:
        looks: What was seen at each look that was made.
        num_looks: How many were planned.
        stop: Why it ended: ``"set"`` (one rate is left), ``"regret"`` (the pick's regret is within the tolerance),
            ``"diverged"`` (every rate did), ``"all"`` (all rows were used) or ``"ended"`` (there were no more; with
            fewer than two there is no look).
    """

    looks: tuple[Look, ...]
    num_looks: int
    stop: Stop


def take_look(delta: FloatArray, columns: IntArray, *, confidence_level: float) -> Look:
    """Return what ``delta (M, len(columns))`` shows at a corrected level."""
    kept, regret = best_set_and_regret(
        delta,
        confidence_level=confidence_level,
        method=default_method(len(delta)),
        num_resamples=enough_resamples(confidence_level, 2000),
        rng=0,
    )
    pick, gain = None, 0.0
    if kept.any():
        mean = describe(delta).mean
        pick, gain = int(columns[mean.argmin()]), max(0.0, -float(mean.min()))
    return Look(len(delta), confidence_level, columns, columns[kept], pick, gain, regret)


def race(
    probe: Probe,
    num_subsamples: int,
    num_rates: int,
    *,
    confidence_level: float = 0.95,
    regret_tolerance: float = 0.05,
) -> Race:
    r"""Race the learning rates: look after 20, 40, 80, ... rows, drop those that are out, stop when it is decided.

    At each of L planned looks the set of best rates is found at the level :math:`1 - \alpha / L`, among the rates that
    are still in. The best rate is dropped only if its own test errs at one of the looks, which together has at most
    the probability :math:`\alpha`; so the set at the stop holds it with the level asked for, and so does the bound on
    the pick's regret. Any interval at the level :math:`1 - \alpha / L` holds at the stop too, for the same reason.

    A look at fewer rows than planned, because the data or the time ended, takes the place of the next one: what ends
    them does not look at the values. Rates that are out are no longer probed, but for the pick's neighbours, which the
    interval of the best rate needs.

    Args:
        probe: From rows and columns, increasing, to loss differentials, shape ``(m, len(columns))``; ``inf``: diverged;
            fewer rows than asked for: there are no more.
        num_subsamples: The most rows, at least 2.
        num_rates: The number of columns K.
        confidence_level: The level :math:`\gamma = 1 - \alpha` of the decision.
        regret_tolerance: It stops when the bound on the pick's regret is at most this share of its gain.

    Returns:
        The looks, and why it stopped.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range.

    References:
        Maron and Moore (1994). Hoeffding races: accelerating model selection search for classification and function
        approximation. Advances in Neural Information Processing Systems 6, 59-66.

    Example:
        The second rate is clearly the best of the first 20 rows:

        >>> delta = np.random.default_rng(0).normal([-1.0, -2.0, -1.5], 0.2, size=(100, 3))
        >>> result = race(lambda rows, columns: delta[rows][:, columns], 100, 3)
        >>> result.stop, [(look.num_subsamples, look.inside) for look in result.looks]
        ('set', [(20, array([1]))])
    """
    sizes = look_sizes(num_subsamples)
    tolerance = check_regret_tolerance(regret_tolerance)
    columns = np.arange(check_integer("num_rates", num_rates, minimum=1))
    delta = np.empty((0, columns.size))
    looks: list[Look] = []
    for number, size in enumerate(sizes, start=1):
        more = probe(range(len(delta), size), columns)
        ended = len(more) < size - len(delta)
        delta = np.concatenate([delta, more])
        if len(more) == 0 or len(delta) < 2:
            return Race(tuple(looks), len(sizes), "ended")
        look = take_look(delta, columns, confidence_level=look_level(confidence_level, number, len(sizes)))
        looks.append(look)
        stop = look.decision(tolerance) or ("ended" if ended else None)
        if stop is not None:
            return Race(tuple(looks), len(sizes), stop)
        left = _survivors(look, finite_columns(delta))
        delta, columns = delta[:, left], columns[left]
    return Race(tuple(looks), len(sizes), "all")


def _survivors(look: Look, finite: BoolArray) -> BoolArray:
    """Return which of the columns of a look go on: those that can be the best, and the finite ones near the pick."""
    inside = np.isin(look.columns, look.inside)
    if look.pick is None:
        return inside
    return inside | finite & (np.abs(look.columns - look.pick) <= NEIGHBOURS)


def check_regret_tolerance(value: float) -> float:
    """Return ``regret_tolerance`` as a ``float`` of at least 0."""
    return check_real("regret_tolerance", value, above=0.0, closed=True)

"""Stage "statistics", a race of the learning rates: rates that cannot be the best are no longer probed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from autolr._typing import BoolArray, FloatArray, IntArray
from autolr._validation import check_integer, check_real
from autolr.statistics._columns import describe, finite_columns
from autolr.statistics.best_set import best_set_and_regret, default_method
from autolr.statistics.flags import without_explosions
from autolr.statistics.sequential import enough_resamples, look_level, look_sizes

# Neighbours of the pick, on either side, that stay in the race, because a spline through them finds the best rate.
NEIGHBOURS = 2
# A rate that was dropped comes back where it is better than the pick by so many standard errors of their difference.
CLEARLY = 3.0

Stop: TypeAlias = Literal["set", "regret", "diverged", "all", "ended"]
Probe: TypeAlias = Callable[[range, IntArray], FloatArray]


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
            ``"diverged"`` (every rate did in some row), ``"all"`` (all rows were used) or ``"ended"`` (there were no
            more; with fewer than two there is no look).
    """

    looks: tuple[Look, ...]
    num_looks: int
    stop: Stop


def take_look(delta: FloatArray, columns: IntArray, *, confidence_level: float) -> Look:
    """Return what ``delta (M, len(columns))`` shows at a corrected level; rates that exploded count as diverged."""
    delta = without_explosions(delta)
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
    num_past_looks: int = 0,
) -> Race:
    r"""Race the learning rates: look after 20, 40, 80, ... rows, drop those that are out, stop when it is decided.

    At each of L planned looks the set of best rates is found at the level :math:`1 - \alpha / L`, among the rates that
    are still in. The best rate is dropped only if its own test errs at one of the looks, which together has at most
    the probability :math:`\alpha`; so the set at the stop holds it with the level asked for, and so does the bound on
    the pick's regret. Any interval at the level :math:`1 - \alpha / L` holds at the stop too, for the same reason.

    The tests assume what :func:`~autolr.statistics.best_set` does, finite variances above all. Where losses explode
    once in many rows, the rates that look best in the first ones can turn out to be the worst. So rates that were
    dropped come back, with the rows that they missed, where those that are left have all diverged, or raise the loss
    on average while a dropped one lowered it, or are clearly worse than a dropped one was; the look is then repeated.

    A look at fewer rows than planned, because the data or the time ended, takes the place of the next one: what ends
    them does not look at the values. Where that leaves rows that not all rates have that race, such as those that came
    back, the look is made at the rows before these. Rates that are out are no longer probed, but for the pick's
    neighbours, which the interval of the best rate needs.

    Args:
        probe: From rows and columns, increasing, to loss differentials, shape ``(m, len(columns))``; ``inf``: diverged;
            fewer rows than asked for: there are no more. It may be asked for rows again, at other columns.
        num_subsamples: The most rows, at least 2.
        num_rates: The number of columns K.
        confidence_level: The level :math:`\gamma = 1 - \alpha` of the decision.
        regret_tolerance: It stops when the bound on the pick's regret is at most this share of its gain.
        num_past_looks: How many of the planned looks were made before, and have left these columns; fewer than all.

    Returns:
        The looks, without those before, and why it stopped.

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
    cells = _Cells(probe, columns.size)
    looks: list[Look] = []
    for number, size in list(enumerate(sizes, start=1))[num_past_looks:]:
        before = cells.num_rows
        ended = not cells.fill(columns, size)
        if cells.num_rows == before or cells.num_rows < 2:
            return Race(tuple(looks), len(sizes), "ended")
        level = look_level(confidence_level, number, len(sizes))
        look = take_look(cells.values[:, columns], columns, confidence_level=level)
        while (back := cells.clearly_better(look)).size:
            ended |= not cells.fill(back, cells.num_rows)
            columns = np.union1d(columns, back)
            cells.keep_whole(columns)
            look = take_look(cells.values[:, columns], columns, confidence_level=level)
        looks.append(look)
        stop = look.decision(tolerance) or ("ended" if ended else None)
        if stop is not None:
            return Race(tuple(looks), len(sizes), stop)
        columns = columns[_survivors(look, finite_columns(cells.values[:, columns]))]
    return Race(tuple(looks), len(sizes), "all")


class _Cells:
    """What was probed so far: ``values (M, K)``, NaN where not; the rows of a column are the first ones."""

    def __init__(self, probe: Probe, num_columns: int) -> None:
        self._probe = probe
        self.values = np.empty((0, num_columns))

    @property
    def num_rows(self) -> int:
        return len(self.values)

    def fill(self, columns: IntArray, size: int) -> bool:
        """Probe columns in the rows that they miss up to ``size``, and return whether there were that many."""
        begins = (~np.isnan(self.values[:, columns])).sum(axis=0)
        complete = True
        for begin in np.unique(begins):
            chosen = columns[begins == begin]
            more = self._probe(range(int(begin), size), chosen)
            end = int(begin) + len(more)
            if end > self.num_rows:
                rows = np.full((end - self.num_rows, self.values.shape[1]), np.nan)
                self.values = np.concatenate([self.values, rows])
            self.values[begin:end, chosen] = more
            complete &= end == size
        return complete

    def keep_whole(self, columns: IntArray) -> None:
        """Forget the rows from the first one on that was not probed at all of the columns."""
        whole = ~np.isnan(self.values[:, columns]).any(axis=1)
        self.values = self.values[np.logical_and.accumulate(whole)]

    def clearly_better(self, look: Look) -> IntArray:
        """Return the dropped columns that should not have been: see :func:`race`."""
        probed = ~np.isnan(self.values)
        dropped = np.flatnonzero(~probed.all(axis=0))
        dropped = dropped[np.isfinite(np.where(probed, self.values, 0.0)[:, dropped]).all(axis=0)]
        if look.pick is None:
            return dropped
        pick = self.values[:, look.pick]
        chosen = [column for column in dropped if is_clearly_better(self.values[probed[:, column], column], pick)]
        return np.array(chosen, dtype=np.int64)


def is_clearly_better(own: FloatArray, pick: FloatArray) -> bool:
    """Return whether a rate that was dropped, by its values in the rows it has, is better than the pick by all of its.

    That is by three standard errors of the difference, as if both were independent; or where it lowers the loss on
    average and the pick does not.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.sqrt(own.var(ddof=1) / own.size + pick.var(ddof=1) / pick.size)
        better = own.mean() + CLEARLY * error < pick.mean()
    return bool(better or pick.mean() >= 0.0 > own.mean())


def _survivors(look: Look, finite: BoolArray) -> BoolArray:
    """Return which of the columns of a look go on: those that can be the best, and the finite ones near the pick."""
    inside = np.isin(look.columns, look.inside)
    if look.pick is None:
        return inside
    return inside | finite & (np.abs(look.columns - look.pick) <= NEIGHBOURS)


def check_regret_tolerance(value: float) -> float:
    """Return ``regret_tolerance`` as a ``float`` of at least 0."""
    return check_real("regret_tolerance", value, above=0.0, closed=True)

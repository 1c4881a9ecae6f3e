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
# With a stride, the first rows are probed at all rates, and rates between others race where so many would, or fewer.
NUM_WHOLE_ROWS, MOST_RACING = 3, 16

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
    stride: int = 1,
) -> Race:
    r"""Race the learning rates: look after 20, 30, 45, ... rows, drop those that are out, stop when it is decided.

    At each of L planned looks the set of best rates is found at the level :math:`1 - \alpha / L`, among the rates that
    are still in. The best rate is dropped only if its own test errs at one of the looks, which together has at most
    the probability :math:`\alpha`; so the set at the stop holds it with the level asked for, and so does the bound on
    the pick's regret. Any interval at the level :math:`1 - \alpha / L` holds at the stop too, for the same reason.

    With a stride n, every n-th rate races at first, and the rates between two of them once few are left that are next
    to one that can be the best; there is no stop before that. So the best rate is left out if no rate next to it
    can be the best of those that race. This assumes that the best one of these is next to the best of all: that the
    curve of the means has one valley, as far as this mesh shows. The first rows are probed at all rates; one that does
    not race comes back where it is better in them than the pick, in the same rows and in all. Where the rows end before
    all rates next to one of the set have raced, set and bound are about those that have.

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
        stride: Every n-th rate races at first, of this n; 1: all do.

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
    every = np.arange(check_integer("num_rates", num_rates, minimum=1))
    cells = _Cells(probe, every.size)
    columns = np.union1d(every[::stride], every[-1:])
    if stride > 1:
        cells.fill(every, min(NUM_WHOLE_ROWS, sizes[0]))
    looks: list[Look] = []
    num_seen, ended = 0, False
    for number, size in enumerate(sizes, start=1):
        ended = not cells.fill(columns, size)
        columns = columns[cells.num_probed(columns) >= num_seen]  # an interrupt has left others behind
        if not looks and cells.num_probed(every).min() == cells.num_rows:
            columns = every  # the data has ended with the first rows
        if cells.num_rows < 2 or (cells.num_rows == num_seen and cells.raced[columns].all()):
            return Race(tuple(looks), len(sizes), "ended")
        num_seen = cells.num_rows
        level = look_level(confidence_level, number, len(sizes))
        look = cells.take_look(columns, level)
        while (back := cells.clearly_better(look)).size:
            if not cells.fill(back, num_seen):
                ended = True
                if look.pick is not None and not (back := back[cells.raced[back]]).size:
                    break  # rather than to forget the rows that these lack
            columns = np.union1d(columns, back)
            cells.keep_whole(columns)
            num_seen = cells.num_rows
            look = cells.take_look(columns, level)
        looks.append(look)
        between = cells.between(look)
        stop = None if between.size else look.decision(tolerance) or ("ended" if ended else None)
        if stop is not None:
            return Race(tuple(looks), len(sizes), stop)
        columns = cells.survivors(look, between, stride)
    return Race(tuple(looks), len(sizes), "ended" if ended else "all")


class _Cells:
    """What was probed so far: ``values (M, K)``, NaN where not; the rows of a column are the first ones.

    Attributes:
        raced: Which columns took part in a look, shape ``(K,)``.
    """

    def __init__(self, probe: Probe, num_columns: int) -> None:
        self._probe = probe
        self.values = np.empty((0, num_columns))
        self.raced = np.zeros(num_columns, dtype=np.bool_)

    @property
    def num_rows(self) -> int:
        return len(self.values)

    def num_probed(self, columns: IntArray) -> IntArray:
        """Return in how many rows each of some columns was probed."""
        return np.asarray((~np.isnan(self.values[:, columns])).sum(axis=0))

    def fill(self, columns: IntArray, size: int) -> bool:
        """Probe columns in the rows that they miss up to ``size``, and return whether there were that many.

        What is missing of the rows that exist comes first, so that all are probed together in those that follow.
        """
        begins, num_rows = self.num_probed(columns), self.num_rows
        for begin in np.unique(begins[begins < num_rows]):
            if not self._probe_into(columns[begins == begin], range(int(begin), min(num_rows, size))):
                return False
        return num_rows >= size or self._probe_into(columns, range(num_rows, size))

    def _probe_into(self, columns: IntArray, rows: range) -> bool:
        more = self._probe(rows, columns)
        end = rows.start + len(more)
        if end > self.num_rows:
            new = np.full((end - self.num_rows, self.values.shape[1]), np.nan)
            self.values = np.concatenate([self.values, new])
        self.values[rows.start : end, columns] = more
        return end == rows.stop

    def keep_whole(self, columns: IntArray) -> None:
        """Forget the rows from the first one on that was not probed at all of the columns."""
        whole = ~np.isnan(self.values[:, columns]).any(axis=1)
        self.values = self.values[np.logical_and.accumulate(whole)]

    def take_look(self, columns: IntArray, level: float) -> Look:
        """Look at all rows of some columns, which have raced then."""
        self.raced[columns] = True
        return take_look(self.values[:, columns], columns, confidence_level=level)

    @property
    def _finite(self) -> BoolArray:
        """In which columns no probe has diverged, shape ``(K,)``."""
        return finite_columns(np.where(np.isnan(self.values), 0.0, self.values))

    def clearly_better(self, look: Look) -> IntArray:
        """Return the columns without all rows that should have them: see :func:`race`."""
        probed = ~np.isnan(self.values)
        others = np.flatnonzero(~probed.all(axis=0) & self._finite)
        if look.pick is None:
            return others
        pick, chosen = self.values[:, look.pick], []
        for column in others:
            own = self.values[probed[:, column], column]
            # NOTE: of rates with a few rows only, these rows may be better ones than the others
            fair = self.raced[column] or is_clearly_better_in_pairs(own, pick[: own.size])
            if own.size > 1 and fair and is_clearly_better(own, pick):
                chosen.append(column)
        return np.array(chosen, dtype=np.int64)

    def between(self, look: Look) -> IntArray:
        """Return the columns that have not raced, between one that can be the best and the next one that has."""
        raced, every = np.flatnonzero(self.raced), np.arange(self.raced.size)
        inside = np.isin(raced, look.inside)
        left = np.maximum(np.searchsorted(raced, every, side="right") - 1, 0)
        right = np.minimum(np.searchsorted(raced, every), raced.size - 1)
        return np.flatnonzero(~self.raced & self._finite & (inside[left] | inside[right]))

    def survivors(self, look: Look, between: IntArray, stride: int) -> IntArray:
        """Return the columns that go on.

        Those are the ones that can be the best, and the finite ones near the pick that took part in the look. Of those
        between, all join them where few are left; else some that are near the pick, closer to it than others.
        """
        if look.pick is None:
            return look.inside
        near = look.columns[np.abs(look.columns - look.pick) <= NEIGHBOURS]
        if between.size:
            place = int(np.searchsorted(look.columns, look.pick))
            near = look.columns[max(0, place - 1) : place + 2]
        if look.inside.size + between.size > MOST_RACING:
            between = between[np.isin(np.abs(between - look.pick), [stride // 2, stride // 4])]
        return np.union1d(np.union1d(look.inside, near[self._finite[near]]), between)


def is_clearly_better(own: FloatArray, pick: FloatArray) -> bool:
    """Return whether a rate that was dropped, by its values in the rows it has, is better than the pick by all of its.

    That is by three standard errors of the difference, as if both were independent; or where it lowers the loss on
    average and the pick does not.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.sqrt(own.var(ddof=1) / own.size + pick.var(ddof=1) / pick.size)
        better = own.mean() + CLEARLY * error < pick.mean()
    return bool(better or pick.mean() >= 0.0 > own.mean())


def is_clearly_better_in_pairs(own: FloatArray, pick: FloatArray) -> bool:
    """Return whether a rate is better than the pick in the same rows, by three standard errors of the difference."""
    with np.errstate(over="ignore", invalid="ignore"):
        difference = own - pick
        return bool(difference.mean() + CLEARLY * difference.std(ddof=1) / np.sqrt(own.size) < 0.0)


def check_regret_tolerance(value: float) -> float:
    """Return ``regret_tolerance`` as a ``float`` of at least 0."""
    return check_real("regret_tolerance", value, above=0.0, closed=True)

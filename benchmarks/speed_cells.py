"""The cells of speed.py: which workloads are timed, how often, against which targets, and a row of the table each."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from machine import seconds
from naive import Naive
from speed_pairs import COPIED_BACK, Refused, Timed, time_engine
from workloads import (
    ADAMW,
    CNN,
    NETWORKS,
    SGD,
    SMALL,
    TRAININGS,
    TRANSFORMER,
    WIDE,
    Network,
    Training,
    Workload,
)

MIN_PAIRS, MAX_PAIRS = 9, 25
SECONDS_OF_PAIRS = 6.0  # of an engine in a cell, where that gives more than the fewest pairs
DEAR = 1.0  # seconds of a naive row from which only "auto" is timed by default
CONTENDERS = (COPIED_BACK, "step", "line", "batched", "auto")
HEADER = [
    "network, optimizer", "m", "K", "naive, ms", *CONTENDERS, "auto, ms, made by", "naive / floor", "auto / floor",
    "deviation",
]  # fmt: skip


@dataclass(frozen=True)
class Goal:
    """What ``auto`` shall reach in a cell with K = 100: speed-ups, and where they are given, multiples of the floor."""

    network: Network
    training: Training
    batch_size: int
    at_least: float
    aim: float
    floor_at_most: float | None = None
    floor_aim: float | None = None


GOALS = [
    Goal(SMALL, SGD, 32, 4.0, 6.0),
    Goal(SMALL, ADAMW, 32, 7.0, 10.0),
    Goal(WIDE, SGD, 32, 3.0, 5.0),
    Goal(WIDE, SGD, 128, 2.2, 2.2, 1.2, 0.9),
    Goal(CNN, SGD, 32, 1.8, 2.2),
    Goal(TRANSFORMER, SGD, 32, 1.0, 1.3),
]
AGREEMENT, AGREEMENT_AIM = 1e-6, 4e-7  # of losses with those of the baseline, relative


@dataclass(frozen=True)
class Cell:
    """What was timed of a workload.

    Attributes:
        workload: The workload.
        timed: By contender; a string says why there is none.
        floor: Seconds of the row's floating-point operations at the peak of the machine.
    """

    workload: Workload
    timed: dict[str, Timed | str]
    floor: float

    @property
    def name(self) -> str:
        """The network, the optimizer, and the layout where it is asked for."""
        asked = ", asked for channels_last" if self.workload.channels_last else ""
        return f"{self.workload.network.name}, {self.workload.training.name}{asked}"

    @property
    def naive(self) -> float:
        """Seconds of a row of the baseline: the median over all pairs."""
        return statistics.median(taken for timed in self.made() for taken in timed.naive)

    def made(self) -> list[Timed]:
        """Return the contenders that were timed."""
        return [timed for timed in self.timed.values() if isinstance(timed, Timed)]

    @property
    def auto(self) -> Timed | None:
        """What ``auto`` did, unless it was refused."""
        timed = self.timed.get("auto")
        return timed if isinstance(timed, Timed) else None

    @property
    def deviation(self) -> float:
        """The largest of all contenders."""
        return max(timed.deviation for timed in self.made())

    def row(self) -> list[str]:
        """Return the cells of the table's row."""
        own = statistics.median(self.auto.own) if self.auto is not None else float("nan")
        return [
            self.name,
            str(self.workload.batch_size),
            str(self.workload.num_rates),
            _milliseconds(self.naive),
            *(_ratio(self.timed[name]) for name in CONTENDERS),
            "-" if self.auto is None else f"{_milliseconds(own)}, `{self.auto.engine}`",
            f"{self.naive / self.floor:.2f}",
            f"{own / self.floor:.2f}",
            f"{self.deviation:.0e}",
        ]


def selection(device: str, *, full: bool, quick: bool) -> list[Workload]:
    """Return what is timed, cheap ones first.

    By default every network with m = 32 and 128 at K = 100, for both optimizers; K = 25 and 200 for the perceptrons
    with m = 32 only; and the convolutional network with SGD a second time, with the user asking for channels_last.
    """
    numbers = (25, 100, 200)
    workloads = [
        Workload(network, training, batch_size, num_rates, device)
        for network in NETWORKS
        for training in TRAININGS
        for batch_size in (32, 128)
        for num_rates in numbers
        if full
        or (quick and batch_size == 32 and num_rates == 25)
        or (not quick and (num_rates == 100 or (batch_size == 32 and network in (SMALL, WIDE))))
    ]
    asked = [
        Workload(CNN, SGD, workload.batch_size, workload.num_rates, device, channels_last=True)
        for workload in workloads
        if workload.network is CNN and workload.training is SGD
    ]
    return sorted(workloads + asked, key=lambda workload: NETWORKS.index(workload.network))


def measure(workload: Workload, peak: float, *, full: bool, quick: bool) -> Cell:
    """Time the contenders of a cell.

    Args:
        workload: What is probed.
        peak: Floating-point operations per second, of which the floor is made.
        full: Time all of them even where a row takes long.
        quick: Three pairs, few enough to be rough.
    """
    expected = _naive_seconds(workload)
    num_pairs = 3 if quick else max(MIN_PAIRS, min(MAX_PAIRS, int(SECONDS_OF_PAIRS / (2.0 * expected))))
    timed: dict[str, Timed | str] = {}
    for name in CONTENDERS:
        if expected > DEAR and name != "auto" and not full:
            timed[name] = "not timed: the row is dear"
            continue
        try:
            timed[name] = time_engine(workload, name, num_pairs)
        except Refused as refusal:
            timed[name] = str(refusal)
    return Cell(workload, timed, workload.num_operations() / peak)


def judged(cells: list[Cell]) -> Iterator[tuple[str, bool]]:
    """Yield a line for every goal, and whether its least was reached by one of the cells that it speaks of."""
    for goal in GOALS:
        found = [cell for cell in cells if _speaks_of(goal, cell) and cell.auto is not None]
        if not found:
            continue
        name = f"{goal.network.name}, {goal.training.name}, m = {goal.batch_size}"
        said = [
            f"{cell.auto.speed_up:.2f}x{' (asked for channels_last)' if cell.workload.channels_last else ''}"
            for cell in found
            if cell.auto is not None
        ]
        best = max(cell.auto.speed_up for cell in found if cell.auto is not None)
        yield (
            f"{name}: {goal.at_least:g}x at least, {goal.aim:g}x aim: {', '.join(said)}: {_verdict(best, goal)}",
            best >= goal.at_least,
        )
        if goal.floor_at_most is not None and goal.floor_aim is not None:
            share = min(statistics.median(cell.auto.own) / cell.floor for cell in found if cell.auto is not None)
            reached = share <= goal.floor_at_most
            words = "aim reached" if share <= goal.floor_aim else "reached" if reached else "missed"
            yield (
                f"{name}: {goal.floor_at_most:g} of the floor at most, {goal.floor_aim:g} aim: {share:.2f}: {words}",
                reached,
            )
    # NOTE: another layout is another order of summation, also without any engine
    worst = max((cell.deviation for cell in cells if not cell.workload.channels_last), default=0.0)
    words = "aim reached" if worst <= AGREEMENT_AIM else "reached" if worst <= AGREEMENT else "missed"
    yield (
        f"losses against the baseline: {AGREEMENT:g} relative at most, {AGREEMENT_AIM:g} aim: {worst:.1e}: {words}",
        worst <= AGREEMENT,
    )


def _verdict(speed_up: float, goal: Goal) -> str:
    return "aim reached" if speed_up >= goal.aim else "reached" if speed_up >= goal.at_least else "missed"


def _speaks_of(goal: Goal, cell: Cell) -> bool:
    of_cell = cell.workload.network, cell.workload.training, cell.workload.batch_size, cell.workload.num_rates
    return of_cell == (goal.network, goal.training, goal.batch_size, 100)


def _naive_seconds(workload: Workload) -> float:
    """Return about how long a row of the baseline takes, from one with few rates."""
    naive, (batch, evaluation_batch), rates = Naive(*workload.build()), workload.batches()[0], workload.rates
    few = rates[:: max(1, len(rates) // 5)]
    naive(few[:1], batch, evaluation_batch)
    began = seconds(workload.device)
    naive(few, batch, evaluation_batch)
    return (seconds(workload.device) - began) * (len(rates) + 4) / (len(few) + 4)


def _milliseconds(time: float) -> str:
    return f"{1e3 * time:.1f}" if time < 0.1 else f"{1e3 * time:.0f}"


def _ratio(timed: Timed | str) -> str:
    if isinstance(timed, str):
        return "-"
    if not timed.agrees:
        return f"losses differ by {timed.deviation:.0e}"
    return f"{timed.speed_up:.2f}x ({min(timed.ratios):.2f} to {max(timed.ratios):.2f})"

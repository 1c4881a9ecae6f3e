"""Rows of an engine, each timed beside a row of the naive baseline, and compared with it number by number."""

import itertools
import logging
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast, get_args

import numpy as np
import torch
from machine import seconds
from naive import CopiedBack, Losses, Naive
from workloads import NUM_DRAWS, Batch, Workload, loss_fn

from autolr._typing import EngineName
from autolr.param_groups import base_learning_rates
from autolr.probing.objective import Objective
from autolr.probing.random_state import ForkedRandomness
from autolr.probing.rows import ProbedRows, probe_rows
from autolr.probing.start import Start
from autolr.probing.state import preserved_state

ENGINES = get_args(EngineName)
COPIED_BACK = "copied back"  # the leaner baseline, which is timed like an engine
NUM_UNCOUNTED = {"auto": 6}  # rows at the beginning: the choice of an engine, the first use of memory
TOLERANCE = 1e-5  # of losses, relative to the baseline's

Progress = Callable[[Iterable[int]], Iterable[int]]
RowByHand = Callable[[int], Losses]


@dataclass
class Timed:
    """The rows of an engine that were counted, and those of the baseline between them.

    Attributes:
        engine: The engine that made them; ``"auto"`` has chosen one.
        reason: Why this engine.
        naive: Seconds of the baseline's rows, shape (number of pairs,).
        own: Seconds of the engine's rows, in the same order.
        deviation: The largest relative difference of a loss to the baseline's.
        wall: Seconds of the whole call, the baseline's rows left out, with everything that is done once a call.
    """

    engine: str
    reason: str
    naive: list[float]
    own: list[float]
    deviation: float
    wall: float

    @property
    def ratios(self) -> list[float]:
        """Seconds of the baseline over those of the engine, pair by pair."""
        return [first / second for first, second in zip(self.naive, self.own, strict=True)]

    @property
    def speed_up(self) -> float:
        """The median ratio."""
        return statistics.median(self.ratios)

    @property
    def agrees(self) -> bool:
        """Whether all losses are those of the baseline."""
        return self.deviation <= TOLERANCE


@dataclass
class Interleaved:
    """Wraps the loop over the rows: times each, and a row of the baseline before or after it, in turn.

    Attributes:
        by_hand: The baseline.
        num_uncounted: The rows at the beginning that are not paired.
        device: Where both run.
        taken: Seconds by the number of the row in the last pass.
        naive: The same of the baseline.
        expected: The losses of the baseline.
        aside: Seconds of the baseline in all passes.
    """

    by_hand: RowByHand
    num_uncounted: int
    device: str
    taken: dict[int, float] = field(default_factory=dict)
    naive: dict[int, float] = field(default_factory=dict)
    expected: dict[int, Losses] = field(default_factory=dict)
    aside: float = 0.0

    def __call__(self, rows: Iterable[int]) -> Iterator[int]:
        """Yield the rows; a further pass (another engine has taken over) forgets those before."""
        for kept in (self.taken, self.naive, self.expected):
            kept.clear()
        for number, row in enumerate(rows):
            counted = number >= self.num_uncounted
            if counted and number % 2 == 0:
                self._row_by_hand(row)
            began = seconds(self.device)
            yield row
            self.taken[row] = seconds(self.device) - began
            if counted and number % 2 == 1:
                self._row_by_hand(row)

    def _row_by_hand(self, row: int) -> None:
        began = seconds(self.device)
        self.expected[row] = self.by_hand(row)
        self.naive[row] = seconds(self.device) - began
        self.aside += self.naive[row]


class Refused(Exception):  # noqa: N818 - not an error: the table says "-"
    """An engine that does not exist here, or does not want this workload."""


def time_engine(workload: Workload, name: str, num_pairs: int, *, paired: bool = True) -> Timed:
    """Time rows of an engine, and of the naive baseline between them.

    Args:
        workload: What is probed. Where it asks for a layout, the baseline does not.
        name: An engine, or :data:`COPIED_BACK`.
        num_pairs: The number of rows that are counted.
        paired: Whether the baseline is run at all; if not, all rows are counted.

    Raises:
        Refused: If the engine does not exist, or has stepped aside.
    """
    as_written = Workload(workload.network, workload.training, workload.batch_size, workload.num_rates, workload.device)
    naive, draws, rates = Naive(*as_written.build()), as_written.batches(), workload.rates
    num_uncounted = NUM_UNCOUNTED.get(name, 1) if paired else 0
    rows = range(num_uncounted + num_pairs)
    progress = Interleaved(
        lambda row: naive(rates, *draws[row % NUM_DRAWS]), num_uncounted if paired else len(rows), workload.device
    )
    naive(rates[:2], *draws[0])
    began = seconds(workload.device)
    probed = _copied_back(workload, rows, progress) if name == COPIED_BACK else _probed(workload, name, rows, progress)
    wall = seconds(workload.device) - began - progress.aside
    counted = list(progress.naive) if paired else list(rows[num_uncounted:])
    found = {row: (probed.loss_pre[row], probed.loss_post[row]) for row in counted}
    return Timed(
        probed.engine,
        probed.engine_reason,
        [progress.naive[row] for row in counted] if paired else [],
        [progress.taken[row] for row in counted],
        max((_deviation(found[row], progress.expected[row]) for row in counted), default=0.0) if paired else 0.0,
        wall,
    )


def _probed(workload: Workload, name: str, rows: range, progress: Progress) -> ProbedRows:
    if name not in ENGINES:
        raise Refused(f"this version has no engine {name!r}")
    model, optimizer = workload.build()
    draws, device = workload.batches(), torch.device(workload.device)
    devices = [] if device.type == "cpu" else [device]
    objective = Objective(model, loss_fn, None, list(model.parameters()))
    with preserved_state(model, optimizer, devices=devices) as snapshot:
        randomness = ForkedRandomness(devices)
        start = Start(objective, optimizer, snapshot, randomness, base_learning_rates(optimizer))

        def draw(row: int) -> Sequence[Batch]:
            randomness.fork(np.random.SeedSequence(0, spawn_key=(row,)))
            return draws[row % NUM_DRAWS]

        objective.check(draw(0)[0])
        logger = logging.getLogger("autolr")
        level = logger.level
        logger.setLevel(logging.ERROR)  # the table says it
        try:
            probed = probe_rows(start, workload.rates, draw, rows, engine=cast(EngineName, name), progress=progress)
        except (ValueError, NotImplementedError) as error:
            raise Refused(str(error)) from None
        finally:
            logger.setLevel(level)
    if name not in ("auto", probed.engine):
        raise Refused(probed.engine_reason)
    return probed


def _copied_back(workload: Workload, rows: range, progress: Progress) -> ProbedRows:
    row_by_hand, draws = CopiedBack(*workload.build()), workload.batches()
    losses = [row_by_hand(workload.rates, *draws[row % NUM_DRAWS]) for row in progress(rows)]
    loss_pre, loss_post = zip(*losses, strict=True)
    return ProbedRows(np.array(loss_pre), np.array(loss_post), COPIED_BACK, "by hand", out_of_time=False)


def _deviation(found: Losses, expected: Losses) -> float:
    """Return the largest relative difference of a loss; infinite if one of two is not finite."""
    pairs = itertools.starmap(np.append, ((found[1], found[0]), (expected[1], expected[0])))
    ours, theirs = (np.where(np.isfinite(losses), losses, np.inf) for losses in pairs)
    if not np.array_equal(np.isfinite(ours), np.isfinite(theirs)):
        return float("inf")
    both = np.isfinite(ours)
    return float((np.abs(ours - theirs)[both] / np.maximum(np.abs(theirs[both]), 1e-30)).max(initial=0.0))

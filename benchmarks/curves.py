"""What a rate costs: regrets by the stored curves of oracle.py, and by the loss of a real run.

The regret of a rate is its final loss over that of the best rate: 1 is perfect, 2 a loss twice as large. A run that
diverges, or ends above the untrained loss, costs the untrained loss: one could have left the model as it was.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np
from oracle import SEEDS, TINY, Target, entries
from runs import ScheduleName

RESOLUTION = 0.1  # training losses below this share of the best held-out loss count as equal
CLOSE = 1.05  # the regret up to which a rate counts as good, for the coverage of intervals


def cost(loss: float, task: str, target: Target, seed: int) -> float:
    """Return a final loss, at most the untrained one."""
    return min(loss if math.isfinite(loss) else math.inf, entries()[task]["untrained"][target][seed])


def rates_of(task: str) -> np.ndarray:
    """Return the grid of a task's oracle, shape (K,)."""
    return np.array(entries()[task]["learning_rates"])


def curve(task: str, schedule: ScheduleName, seeds: Sequence[int], target: Target = "validation") -> np.ndarray:
    """Return the final loss at each rate of the grid, the geometric mean over seeds, shape (K,)."""
    stored = np.array(entries()[task][schedule][target], dtype=float)[list(seeds)]  # null: NaN
    start = np.array(entries()[task]["untrained"][target])[list(seeds), None]
    return np.exp(np.log(np.maximum(np.fmin(stored, start), TINY)).mean(0))


@functools.cache
def resolution(task: str, schedule: ScheduleName, seeds: tuple[int, ...], target: Target) -> float:
    """Return the loss below which losses count as equal."""
    return RESOLUTION * float(curve(task, schedule, seeds).min()) if target == "training" else 0.0


def ratio(loss: float, best: float, floor: float) -> float:
    return max(loss, floor) / max(best, floor)


def others(seed: int) -> tuple[int, ...]:
    """Return the seeds that a picker with this one has not seen."""
    return tuple(other for other in SEEDS if other != seed)


def regret_of(task: str, schedule: ScheduleName, rate: float | None, seed: int, target: Target = "validation") -> float:
    """Return the regret of a rate that was picked with one seed, by the stored curves of the other seeds.

    Between the rates of the grid log loss is linear in log rate; beyond its ends it is that of the end.

    Args:
        task: The name of a task.
        schedule: The schedule of the training.
        rate: The rate; ``None`` costs what the untrained model does.
        seed: The seed whose initial weights the picker has seen; its curve is left out.
        target: The loss that is judged.

    Returns:
        The regret, at least 1.
    """
    seeds = others(seed)
    losses = curve(task, schedule, seeds, target)
    if rate is None:
        loss = math.exp(np.log(np.array(entries()[task]["untrained"][target])[list(seeds)]).mean())
    else:
        loss = math.exp(np.interp(math.log(rate), np.log(rates_of(task)), np.log(losses)))
    return ratio(loss, float(losses.min()), resolution(task, schedule, seeds, target))


def regret_of_run(loss: float, task: str, schedule: ScheduleName, seed: int, target: Target = "validation") -> float:
    """Return the regret of a real run, to the best of the stored runs from the same initial weights.

    It is below 1 where the run beats every rate of the grid. The best of many runs is lucky: see the floor.
    """
    best = float(curve(task, schedule, (seed,), target).min())
    return ratio(cost(loss, task, target, seed), best, resolution(task, schedule, (seed,), target))


def best_rate(task: str, schedule: ScheduleName, seed: int, target: Target) -> float:
    """Return the best rate of one full sweep."""
    return float(rates_of(task)[curve(task, schedule, (seed,), target).argmin()])


def is_covered(
    low: float, high: float, task: str, schedule: ScheduleName, seed: int, target: Target = "validation"
) -> bool:
    """Return whether an interval contains a rate whose regret is at most ``CLOSE``."""
    rates = rates_of(task)
    candidates = [low, high, *rates[(low <= rates) & (rates <= high)]]
    return min(regret_of(task, schedule, float(rate), seed, target) for rate in candidates) <= CLOSE

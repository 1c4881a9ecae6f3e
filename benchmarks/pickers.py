"""The pickers of regret.py: each is a function of a task, a seed and a schedule that returns what it would train with.

Three forward passes count as one gradient evaluation.
"""

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import peers
import torch
from curves import best_rate
from oracle import SEEDS, Target
from runs import ScheduleName, batches
from tasks import Problem, Task

import autolr

NUM_GRID = 25  # rates of the full grid, four a decade
FULL_GRID = autolr.log_grid(1e-5, 10.0, NUM_GRID)
SAFE_STEPS, SAFE_SHARE = 50, 0.1  # steps before the last look, at this share of the pick of the first
ELSEWHERE = 1  # the shift of the floor: it sweeps from the initial weights of the next seed


class Unavailable(Exception):  # noqa: N818 - not an error: the picker is left out, with a note
    """A picker that needs what is not installed, or not there yet."""


class Pick(NamedTuple):
    """A rate, ``None`` if the picker has none, and its interval where it gives one."""

    rate: float | None
    evaluations: float
    seconds: float = 0.0
    low: float | None = None
    high: float | None = None


Choose = Callable[[Task, int, ScheduleName], Pick]


@dataclass(frozen=True)
class Picker:
    """A way to choose a rate.

    Attributes:
        name: Its name in the tables.
        choose: Chooses; its seconds are measured here.
        knows_schedule: Whether its choice depends on the schedule; if not, it is asked once for both.
        target: The loss that it is asked for; ``None`` if it cannot be asked, and is then judged by both.
        must_fail: Whether it is known to pick badly: if it does not fail here, the benchmark could not tell.
        shift: From the seed that is judged to the one whose initial weights it sees; 0 but for the floor.
    """

    name: str
    choose: Choose
    knows_schedule: bool = False
    target: Target | None = None
    must_fail: bool = False
    shift: int = 0

    def __call__(self, task: Task, seed: int, schedule: ScheduleName) -> tuple[Pick, str]:
        """Return the choice, and why there is none.

        Raises:
            Unavailable: If the picker cannot be run here.
        """
        began = time.process_time()  # one thread: less disturbed by other programs than the clock on the wall
        try:
            pick, why = self.choose(task, seed, schedule), ""
        except (ValueError, TypeError, RuntimeError, autolr.NoCandidateError) as error:
            pick, why = Pick(None, float("nan")), f"{type(error).__name__}: {str(error)[:100]}"
        return pick._replace(seconds=time.process_time() - began), why

    def seed_seen(self, seed: int) -> int:
        """Return the seed whose initial weights were seen."""
        return SEEDS[(seed + self.shift) % len(SEEDS)]


def fixed(rate: float, adaptive_rate: float, task: Task, seed: int, schedule: ScheduleName) -> Pick:  # noqa: ARG001
    """Return a rate by habit: one for SGD, one for optimizers of Adam's kind."""
    optimizer = task.make_optimizer([torch.zeros(1, requires_grad=True)], lr=1.0)
    return Pick(rate if isinstance(optimizer, torch.optim.SGD) else adaptive_rate, 0.0)


def tuned(
    problem: Problem, task: Task, seed: int, *, optimizer: torch.optim.Optimizer | None = None, **options: Any
) -> Pick:
    """Return what the tuner picks on random batches of the size of the task."""
    if optimizer is None:
        optimizer = problem.make_optimizer(problem.model.parameters(), lr=1e-3)
    tuner = autolr.AutoLRTuner(problem.model, problem.loss_fn, optimizer, rng=seed)
    result = tuner.tune(*problem.train, batch_size=task.batch_size, progress=False, **options)
    suggestion = result.suggest()
    return Pick(suggestion.learning_rate, result.settings["num_evaluations"], low=suggestion.low, high=suggestion.high)


def one_step(evaluation: str, task: Task, seed: int, schedule: ScheduleName) -> Pick:  # noqa: ARG001
    return tuned(task.make(seed), task, seed, evaluation=evaluation)


def steps(horizon: int, task: Task, seed: int, schedule: ScheduleName) -> Pick:  # noqa: ARG001
    """Return the best rate of a full grid after some steps, the mean of two streams, on independent batches."""
    try:
        return tuned(task.make(seed), task, seed, horizon=horizon, num_subsamples=2, learning_rates=FULL_GRID)
    except ValueError as error:
        if "horizon" in str(error):
            raise Unavailable(str(error)) from None
        raise


def one_step_later(task: Task, seed: int, schedule: ScheduleName) -> Pick:  # noqa: ARG001
    """Train for some steps at a safe rate, a tenth of what one step says, and ask one step again."""
    problem = task.make(seed)
    optimizer = problem.make_optimizer(problem.model.parameters(), lr=1e-3)
    first = tuned(problem, task, seed, optimizer=optimizer)
    for group in optimizer.param_groups:
        group["lr"] = SAFE_SHARE * first.rate
    drawn = batches(problem.train, task.batch_size, 2000 + seed)
    for _ in range(SAFE_STEPS):
        x, y = next(drawn)
        optimizer.zero_grad()
        problem.loss_fn(problem.model(x), y).backward()
        optimizer.step()
    then = tuned(problem, task, 3000 + seed, optimizer=optimizer)
    return then._replace(evaluations=first.evaluations + SAFE_STEPS + then.evaluations)


def range_test(
    find: Callable[[Problem, int, int], peers.Found],
    package: str,
    task: Task,
    seed: int,
    schedule: ScheduleName,  # noqa: ARG001
) -> Pick:
    if importlib.util.find_spec(package) is None:
        raise Unavailable(f"{package} is not installed")
    return Pick(*find(task.make(seed), task.batch_size, seed))


def searched(task: Task, seed: int, schedule: ScheduleName, *, held_out: bool = True, **options: Any) -> Pick:
    """Return what find_lr suggests for the length and the schedule of the task."""
    if not hasattr(autolr, "find_lr"):
        raise Unavailable("this version of autolr has no find_lr")
    problem = task.make(seed)
    suggestion = autolr.find_lr(
        problem.model,
        problem.loss_fn,
        problem.make_optimizer(problem.model.parameters(), lr=1e-3),
        peers.loader_of(problem, task.batch_size, seed),
        total_steps=task.total_steps,
        schedule=schedule,
        val_data=problem.validation if held_out else None,
        rng=seed,
        progress=False,
        **options,
    )
    return Pick(suggestion.learning_rate, suggestion.evidence.num_evaluations, low=suggestion.low, high=suggestion.high)


def sweep(target: Target, task: Task, seed: int, schedule: ScheduleName) -> Pick:
    """Return the best rate of one full sweep from other initial weights than those that are judged."""
    seen = SEEDS[(seed + ELSEWHERE) % len(SEEDS)]
    return Pick(best_rate(task.name, schedule, seen, target), len(task.learning_rates) * float(task.total_steps))


def _steepest(peer: str, package: str) -> Choose:
    find = getattr(peers, peer)
    return partial(range_test, lambda *problem: find(peers.training_of(*problem)), package)


def _ruled(rule: Callable[..., float]) -> Choose:
    return partial(range_test, partial(peers.range_test, rule=rule), "torch")


PICKERS = [
    Picker("one step, same batch", partial(one_step, "subsample"), must_fail=True),
    Picker("one step, independent batch", partial(one_step, "independent"), must_fail=True),
    *(Picker(f"{horizon} steps, full grid", partial(steps, horizon)) for horizon in (5, 20, 50, 100)),
    Picker(f"{SAFE_STEPS} safe steps, then one", one_step_later),
    Picker("range test, minimum/10", _ruled(peers.a_tenth_of_the_minimum)),
    Picker("range test, valley", _ruled(peers.valley)),
    Picker("steepest, torch-lr-finder", _steepest("torch_lr_finder", "torch_lr_finder")),
    Picker("steepest, Ignite", _steepest("ignite", "ignite")),
    Picker("steepest, Lightning", _steepest("lightning", "lightning")),
    Picker("fixed, SGD 0.1, Adam 1e-2", partial(fixed, 0.1, 1e-2)),
    Picker("fixed, SGD 0.01, Adam 1e-3", partial(fixed, 0.01, 1e-3)),
    *(
        Picker(f"find_lr, {effort}", partial(searched, effort=effort), knows_schedule=True, target="validation")
        for effort in ("fast", "default", "thorough")
    ),
    Picker("find_lr, no val_data", partial(searched, held_out=False), knows_schedule=True, target="validation"),
    Picker("find_lr, for training", partial(searched, target="training"), knows_schedule=True, target="training"),
    Picker("floor: one sweep", partial(sweep, "validation"), knows_schedule=True, target="validation", shift=ELSEWHERE),
    Picker(
        "floor: sweep for training", partial(sweep, "training"), knows_schedule=True, target="training", shift=ELSEWHERE
    ),
]


def chosen(names: str) -> list[Picker]:
    """Return the pickers whose names contain one of the words, with semicolons between; all, if there are none.

    Raises:
        SystemExit: If no name contains any.
    """
    words = [word.strip() for word in names.split(";") if word.strip()]
    found = [picker for picker in PICKERS if not words or any(word in picker.name for word in words)]
    if not found:
        raise SystemExit(f"No picker is named like {names!r}: {'; '.join(picker.name for picker in PICKERS)}.")
    return found

"""What a search and range tests cost, in gradient evaluations and seconds, on one small task.

How good the rates are is the question of regret.py, not of this table.
"""

import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version

import peers
from tasks import TASKS, Problem, Task

import autolr
from autolr.picker import Effort

Find = Callable[[Problem, Task, int], float]  # returns its gradient evaluations

TASK = "digits MLP, SGD"


def searched(effort: Effort, problem: Problem, task: Task, seed: int) -> float:
    suggestion = autolr.find_lr(
        problem.model,
        problem.loss_fn,
        problem.make_optimizer(problem.model.parameters(), lr=1e-3),
        peers.loader_of(problem, task.batch_size, seed),
        total_steps=task.total_steps,
        val_data=problem.validation,
        effort=effort,
        rng=seed,
        progress=False,
    )
    return float(suggestion.evidence.num_evaluations)


def ranged(problem: Problem, task: Task, seed: int) -> float:
    return autolr.lr_range_test(*peers.training_of(problem, task.batch_size, seed)).num_evaluations


def of_peer(find: Callable[[peers.Training], peers.Found], problem: Problem, task: Task, seed: int) -> float:
    return find(peers.training_of(problem, task.batch_size, seed))[1]


# what it is called, the package that it needs, and how it is run
FINDERS: list[tuple[str, str, Find]] = [
    ("find_lr, default", "autolr", partial(searched, "default")),
    ("find_lr, fast", "autolr", partial(searched, "fast")),
    ("lr_range_test", "autolr", ranged),
    ("torch-lr-finder", "torch_lr_finder", partial(of_peer, peers.torch_lr_finder)),
    ("Ignite, FastaiLRFinder", "ignite", partial(of_peer, peers.ignite)),
    ("Lightning, Tuner.lr_find", "lightning", partial(of_peer, peers.lightning)),
]
DISTRIBUTIONS = {"torch_lr_finder": "torch-lr-finder", "ignite": "pytorch-ignite"}


def print_table(num_seeds: int) -> None:
    """Print the cost of each finder: medians over the seeds, and the range; all in turns, after a round to warm up."""
    (task,) = (task for task in TASKS if task.name == TASK)
    there = [finder for finder in FINDERS if importlib.util.find_spec(finder[1]) is not None]
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name, *_ in there}
    for seed in range(-1, num_seeds):
        for name, _, find in there:
            problem = task.make(max(seed, 0))
            began = time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the loss did not diverge
                evaluations = find(problem, task, max(seed, 0))
            if seed >= 0:  # imports are in the first round
                costs[name].append((evaluations, time.process_time() - began))
    print(f"\n{TASK}, m = {task.batch_size}, one thread, {num_seeds} seeds.\n")
    print("| finder | gradient evaluations | seconds |\n|---|---|---|")
    for name, package, _ in FINDERS:
        if name not in costs:
            print(f"| {name} | not installed | - |")
            continue
        numbers, times = zip(*costs[name], strict=True)
        shown = name if package == "autolr" else f"{name} {version(DISTRIBUTIONS.get(package, package))}"
        print(f"| {shown} | {_range(numbers, '.0f')} | {_range(times, '.2f')} |")


def _range(values: tuple[float, ...], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"

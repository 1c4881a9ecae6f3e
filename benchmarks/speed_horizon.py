"""What does training the rates side by side save where a probe has several steps?

    python benchmarks/speed_horizon.py   # some five minutes; the table of benchmarks/README.md
    python benchmarks/speed_horizon.py CNN   # only the networks with this in their name

Rows of 20 steps (losses after 1, 5 and 20) at the 64 rates of the default grid, m = 32, on the handwritten digits (the
transformer: on characters), one thread. A row of the stack, with the checks of every row, and one of the loop on the
same batches are timed in turn, in one process; the ratio is that of such a pair, of which the median, the lowest and
the highest are given. The first row, at which the stack is verified at all rates, is not counted. "Real steps" is the
share of the rates that are trained by the loop all the same, in the last row. "Above 1e-6" counts the losses of all
rows that differ by more than 1e-6 of max(|loss|, 1), of all, and gives the largest difference.
"""

import logging
import os
import statistics
import sys
import warnings
from collections.abc import Callable
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, which reads it
os.environ.setdefault("MKL_NUM_THREADS", "1")

import numpy as np
import torch
from machine import circumstances, seconds
from networks import CharTransformer, Data, characters, convolutional, digits, perceptron
from torch import nn

import autolr
from autolr.param_groups import base_learning_rates
from autolr.probing.objective import Objective
from autolr.probing.random_state import ForkedRandomness
from autolr.probing.rows import probe_row
from autolr.probing.stacked_rows import TrajectoryRows
from autolr.probing.start import Start
from autolr.probing.state import preserved_state

HORIZONS, BATCH_SIZE, NUM_PAIRS = np.array([1, 5, 20]), 32, 5
RATES = autolr.log_grid(1e-6, 10.0, 64)
OPTIMIZERS = {"SGD": torch.optim.SGD, "AdamW": torch.optim.AdamW}


def transformer() -> tuple[nn.Module, Data]:
    data, num_characters = characters()
    return CharTransformer(num_characters), data


TASKS: dict[str, Callable[[], tuple[nn.Module, Data]]] = {
    "MLP 64-32-10": lambda: (perceptron(64, 32, 10), digits()),
    "MLP 64-128-128-10": lambda: (perceptron(64, 128, 128, 10), digits()),
    "MLP 64-512-512-10": lambda: (perceptron(64, 512, 512, 10), digits()),
    "CNN with BatchNorm, 1x8x8": lambda: (convolutional(), digits()),
    "transformer, width 24, 16 tokens": transformer,
}


def seed(row: int, step: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(0, spawn_key=(row, step))


def loss_fn(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(output.flatten(0, -2), target.flatten())


def line(task: str, optimizer_name: str) -> str:
    """Return the line of the table for a task and an optimizer."""
    torch.manual_seed(0)
    model, (X, Y) = TASKS[task]()
    optimizer = OPTIMIZERS[optimizer_name](model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(1)
    objective = Objective(model, loss_fn, None, list(model.parameters()))
    loop, ratios, deviations = [], [], []
    with preserved_state(model, optimizer) as snapshot:
        randomness = ForkedRandomness([])
        start = Start(objective, optimizer, snapshot, randomness, base_learning_rates(optimizer))
        stack = TrajectoryRows(start, RATES, HORIZONS, seed, "batched")
        ways = {"loop": partial(probe_row, start, RATES, HORIZONS, seed), "stack": stack}
        for row in range(1 + NUM_PAIRS):
            orders = [torch.randint(len(X), (BATCH_SIZE,), generator=generator) for _ in range(HORIZONS[-1] + 1)]
            batches = [(X[order], Y[order]) for order in orders]
            randomness.fork(seed(row, 0))
            if row == 0:
                objective.check(batches[0])
                if (reason := stack.objection(row, batches)) is not None:
                    return f"| {task}, {optimizer_name} | {reason} | | | | |"
                continue
            taken, losses = {}, {}
            for way in sorted(ways, reverse=row % 2 == 0):
                began = seconds("cpu")
                losses[way] = ways[way](row, batches)[1]
                taken[way] = seconds("cpu") - began
            loop.append(taken["loop"])
            ratios.append(taken["loop"] / taken["stack"])
            deviations.append(deviation(losses["stack"], losses["loop"]))
    off = np.array(deviations)
    return (
        f"| {task}, {optimizer_name} | {1e3 * statistics.median(loop):.0f}"
        f" | {statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
        f" | {stack.share_by_steps:.0%} | {(off > 1e-6).sum()} of {off.size} | {off.max():.0e} |"
    )


def deviation(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return the differences of losses over max(|loss|, 1), 0 where both have diverged."""
    both = np.isinf(found) & np.isinf(expected)
    with np.errstate(invalid="ignore"):
        differences = np.abs(found - expected) / np.maximum(np.abs(expected), 1.0)
    return np.where(both, 0.0, np.where(np.isnan(differences), np.inf, differences))


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("autolr").setLevel(logging.ERROR)  # the table says it
    print("| network, optimizer | loop, ms a row | side by side | real steps | above 1e-6 | largest |")
    print("|---|---|---|---|---|---|")
    for task in filter(lambda task: not sys.argv[1:] or sys.argv[1] in task, TASKS):
        for optimizer_name in OPTIMIZERS:
            print(line(task, optimizer_name), flush=True)
    print(f"\n{circumstances(['autolr/probing'])}")


if __name__ == "__main__":
    main()

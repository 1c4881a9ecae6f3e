"""How does every task of tasks.py end at every rate of its grid? The answer is oracle.json, which regret.py reads.

    python benchmarks/oracle.py --processes 2   # what is not there yet; all of it in some twelve minutes
    python benchmarks/oracle.py --show          # the best rates, and whether they are well inside of the grids

A file that was begun is continued: it is written after each task, and a task whose protocol has changed is run again.
"""

import argparse
import functools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # each process has one core
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from runs import SCHEDULES, Losses, ScheduleName, mean_loss, train
from tasks import TASKS, Task, selected

Target = Literal["validation", "training"]
TARGETS: tuple[Target, ...] = ("validation", "training")
PATH = Path(__file__).with_name("oracle.json")
SEEDS = (0, 1, 2)
TINY = 1e-12  # no loss counts as smaller, so that each has a log
MARGIN = 2  # rates of the grid at the least between the best and either end


def curve(task: Task, schedule: ScheduleName, seed: int) -> tuple[list[Losses], float]:
    """Train at every rate; return the final losses and the seconds on the processor."""
    torch.set_num_threads(1)
    began = time.process_time()
    return [train(task, seed, float(rate), schedule) for rate in task.learning_rates], time.process_time() - began


def untrained(task: Task, seed: int) -> Losses:
    model, loss_fn, _, train_data, validation_data = task.make(seed)
    return Losses(mean_loss(model, loss_fn, validation_data), mean_loss(model, loss_fn, train_data))


def rounded(loss: float) -> float | None:
    """Return five significant digits, ``None`` if the run diverged."""
    return float(f"{loss:.5g}") if math.isfinite(loss) else None


def measure(task: Task, run: Callable[..., Iterator[tuple[list[Losses], float]]]) -> dict[str, Any]:
    """Return the entry of a task: its protocol, and final losses by schedule and target, shape (seeds, K)."""
    cells = [(schedule, seed) for schedule in SCHEDULES for seed in SEEDS]
    curves = dict(zip(cells, run(functools.partial(_curve_of, task), cells), strict=True))
    start = [untrained(task, seed) for seed in SEEDS]
    return {
        **protocol(task),
        "untrained": {target: [rounded(getattr(losses, target)) for losses in start] for target in TARGETS},
        **{
            schedule: {
                target: [[rounded(getattr(losses, target)) for losses in curves[schedule, seed][0]] for seed in SEEDS]
                for target in TARGETS
            }
            for schedule in SCHEDULES
        },
        "seconds": round(sum(seconds for _, seconds in curves.values()), 1),
    }


def _curve_of(task: Task, cell: tuple[ScheduleName, int]) -> tuple[list[Losses], float]:
    return curve(task, *cell)


def protocol(task: Task) -> dict[str, Any]:
    """Return what decides whether an entry is still that of the task."""
    return {
        "learning_rates": task.learning_rates.tolist(),
        "seeds": list(SEEDS),
        "total_steps": task.total_steps,
        "batch_size": task.batch_size,
    }


def load(path: Path = PATH) -> dict[str, dict[str, Any]]:
    """Return the entries by the names of the tasks, without those whose protocol has changed."""
    entries = json.loads(path.read_text()) if path.exists() else {}
    expected = {task.name: protocol(task) for task in TASKS}
    return {
        name: entry for name, entry in entries.items() if name in expected and expected[name].items() <= entry.items()
    }


def save(entries: dict[str, dict[str, Any]], path: Path = PATH) -> None:
    """Write the entries, a line for each, in the order of the tasks; never half a file."""
    lines = [f"{json.dumps(task.name)}: {json.dumps(entries[task.name])}" for task in TASKS if task.name in entries]
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    unfinished.replace(path)


@functools.cache
def entries() -> dict[str, dict[str, Any]]:
    """Return the stored entries, read once."""
    return load()


def show() -> None:
    """Print the best rate of each task, the mean over the seeds of log losses, and its place in the grid."""
    print("| task | schedule | untrained | best | at | highest that ends | place | for the training loss | place |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, entry in load().items():
        for schedule in SCHEDULES:
            cells = []
            for target in TARGETS:
                losses = np.array(entry[schedule][target], dtype=float)
                mean = np.exp(np.log(np.maximum(losses, TINY)).mean(0))
                best, last = int(np.nanargmin(mean)), int(np.flatnonzero(np.isfinite(mean)).max())
                rates = entry["learning_rates"]
                near_end = best < MARGIN or (best > len(rates) - 1 - MARGIN)
                place = f"{best + 1} of {len(rates)}{' !' if near_end else ''}"
                cells += [f"{mean[best]:.3g} | {rates[best]:.2g} | {rates[last]:.2g} | {place}"]
            start = float(np.mean(entry["untrained"]["validation"]))
            training = " | ".join(np.array(cells[1].split(" | "))[[1, 3]])
            print(f"| {name} | {schedule} | {start:.3g} | {cells[0]} | {training} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", default="", help="words in their names, with semicolons between (default: all)")
    parser.add_argument("--processes", type=int, default=1, help="how many at a time (default: 1)")
    parser.add_argument("--show", action="store_true", help="run nothing, print the best rates")
    arguments = parser.parse_args()
    if arguments.show:
        show()
        return
    began, done = time.perf_counter(), load()
    with ProcessPoolExecutor(arguments.processes) as pool:
        for task in selected(arguments.tasks.split(";") if arguments.tasks else []):
            if task.name not in done:
                done[task.name] = measure(task, pool.map)
                save(done)
                print(f"{task.name}: {done[task.name]['seconds']:.0f} s", flush=True)
    total = sum(entry["seconds"] for entry in done.values())
    print(
        f"{len(done)} of {len(TASKS)} tasks; {time.perf_counter() - began:.0f} s now, with {arguments.processes}"
        f" processes; {total:.0f} s on one core in all; torch {torch.__version__}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()

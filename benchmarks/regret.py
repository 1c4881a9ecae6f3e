"""How much worse does a run end at the picked rate than at the best one, for find_lr and for other ways to pick?

    python benchmarks/regret.py --processes 2   # everything, some half an hour; what is stored is not run again
    python benchmarks/regret.py --quick         # one seed, a third of the tasks
    python benchmarks/regret.py --pickers "fixed;one step" --tasks "digits;linear" --seeds 0,1
    python benchmarks/regret.py --pickers find_lr --again   # after a change of find_lr

Regret is the final loss of a run at the picked rate over that at the best rate, as a geometric mean over tasks and
seeds: 1 is perfect. Every task is a whole training under a constant rate and under a cosine; pickers see the training
data, some held-out rows too. Two yardsticks: "curves", the losses of oracle.py at all rates from initial weights that
the picker has not seen; and "runs", real runs at the picked rate from the initial weights that it has probed.

The exit status is 1 if a picker that is known to fail, one step, does not: then the benchmark could not tell.
"""

import argparse
import os
import platform
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")  # each process has one core
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import oracle
import records
import tables
import torch
from curves import regret_of
from machine import git, processor
from pickers import chosen
from records import Key
from tasks import selected

import autolr

__all__ = ["main", "regret_of"]

SAVE_EVERY = 30.0  # seconds
FEWEST_FAIL = 1.5  # the geometric mean that pickers which must fail reach at the least
SOURCES = "autolr"


def circumstances(num_processes: int) -> str:
    commit = git("log", "-1", "--format=%h", "--", SOURCES) or "unknown"
    changed = " and changes" if git("status", "--porcelain", "--", SOURCES) else ""
    return (
        f"autolr {autolr.__version__} of commit {commit}{changed}, torch {torch.__version__}, NumPy {np.__version__},"
        f" Python {platform.python_version()}; {num_processes} of {os.cpu_count()} cores, {processor()}"
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pickers", default="", help="words in their names, with semicolons between (default: all)")
    parser.add_argument("--tasks", default="", help="words in their names, with semicolons between (default: all)")
    parser.add_argument("--seeds", default="", help="with commas between (default: all that the oracle has)")
    parser.add_argument("--quick", action="store_true", help="one seed, every third task")
    parser.add_argument("--no-runs", action="store_true", help="only the yardstick of the stored curves")
    parser.add_argument("--again", action="store_true", help="forget what is stored of these pickers")
    parser.add_argument("--processes", type=int, default=1, help="how many at a time (default: 1)")
    arguments = parser.parse_args()
    arguments.seeds = [int(seed) for seed in arguments.seeds.split(",") if seed] or list(oracle.SEEDS)
    if not set(arguments.seeds) <= set(oracle.SEEDS):
        parser.error(f"--seeds must be among {oracle.SEEDS}")
    if arguments.quick:
        arguments.seeds = arguments.seeds[:1]
    return arguments


def main() -> int:
    arguments = parsed()
    stored_curves = oracle.load()
    tasks = selected(word.strip() for word in arguments.tasks.split(";") if word.strip())
    absent = [task.name for task in tasks if task.name not in stored_curves]
    if absent:
        print(f"Without a curve in oracle.json, left out: {'; '.join(absent)}.", file=sys.stderr)
    tasks = [task for task in tasks if task.name in stored_curves][:: 3 if arguments.quick else 1]
    pickers = chosen(arguments.pickers)
    keys: list[Key] = [
        (picker.name, task.name, seed) for picker in pickers for task in tasks for seed in arguments.seeds
    ]
    done = records.load()
    if arguments.again:
        names = {picker.name for picker in pickers}
        done = {key: made for key, made in done.items() if key[0] not in names}
    words = circumstances(arguments.processes)
    began = saved = time.perf_counter()

    def advance(number: int, total: int, key: Key) -> None:
        nonlocal saved
        print(f"\r{number} of {total}: {key[0]}, {key[1]:<60}", end="", file=sys.stderr, flush=True)
        if time.perf_counter() - saved > SAVE_EVERY:
            records.save(done, words)
            saved = time.perf_counter()

    left_out = records.complete(
        done, keys, with_runs=not arguments.no_runs, num_processes=arguments.processes, advance=advance
    )
    print(file=sys.stderr)
    records.save(done, words)
    shown = [record for key in keys if key in done for record in done[key]]
    tables.print_all(shown)
    tables.draw(shown)
    for name, why in left_out.items():
        print(f"Left out: {name}: {why}.")
    print(f"\n{len(tasks)} tasks, seeds {arguments.seeds}, {time.perf_counter() - began:.0f} s; {words}")
    powerless = [
        picker.name
        for picker in pickers
        if picker.must_fail and tables.overall(shown, picker.name, "constant") < FEWEST_FAIL
    ]
    print(f"Known to fail, and do not: {'; '.join(powerless) or 'none'}.")
    return 1 if powerless else 0


if __name__ == "__main__":
    sys.exit(main())

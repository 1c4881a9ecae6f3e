"""What does each statistic cost at M = K = 100 and B = 2000, on one core?

    python benchmarks/statistics_cost.py           # the table, a minute
    python benchmarks/statistics_cost.py --quick   # a few seconds, rough

Every call has a seed of its own, so that its resamples are drawn anew, but for those which are timed together. The exit
status is 1 if a median on the typical data is above its target by more than half.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import count

# NOTE: before NumPy is imported, which reads them.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import numpy as np
import scipy
from machine import git, processor
from scipy import stats

import autolr
from autolr._typing import FloatArray
from autolr.statistics import (
    argmin_interval,
    bca_interval,
    best_set,
    bootstrap_t_interval,
    median_interval,
    percentile_interval,
    regret_bound,
    simultaneous_band,
    t_interval,
)
from autolr.statistics._resampling import Resamples
from autolr.statistics.summary import summarize

Statistic = Callable[[FloatArray, int], object]  # of loss differentials and a seed

NUM_ROWS = NUM_RATES = 100
NUM_RESAMPLES = 2000
RATES = 10.0 ** np.linspace(-3.0, 0.3, NUM_RATES)
MEASURED = ["autolr/statistics"]  # the sources that decide the numbers
TOLERANCE = 1.5  # by which a target may be missed: the noise of a machine with other work


def curves(rates: FloatArray, spread: float) -> FloatArray:
    """Draw differentials of steps on random parabolas, shape (M, K)."""
    rng = np.random.default_rng(0)
    slope = 1.0 + spread * rng.standard_normal((NUM_ROWS, 1))
    curvature = 0.5 + spread / 2.0 * rng.exponential(size=(NUM_ROWS, 1))
    return -slope * rates + curvature * rates**2 + 0.05 * rng.standard_normal((NUM_ROWS, 1)) * rates


def tied() -> FloatArray:
    """Draw differentials of rates that are all the same in the mean, shape (M, K)."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((NUM_ROWS, 1)) + 0.1 * rng.standard_normal((NUM_ROWS, NUM_RATES))


KINDS = {
    "typical": curves(RATES, 0.4),
    "many survivors": curves(10.0 ** np.linspace(-0.5, 0.3, NUM_RATES), 2.0),
    "all tied": tied(),
}


def interval_and_band(delta: FloatArray, seed: int) -> None:
    bootstrap_t_interval(delta, rng=seed)
    simultaneous_band(delta, rng=seed)


def scipy_bca(delta: FloatArray, seed: int) -> object:
    return stats.bootstrap((delta,), np.mean, n_resamples=NUM_RESAMPLES, method="BCa", rng=np.random.default_rng(seed))


# Each with its target in ms, where there is one.
STATISTICS: dict[str, tuple[float | None, Statistic]] = {
    "weights of the resamples": (None, lambda _, seed: Resamples(NUM_ROWS, NUM_RESAMPLES, seed)),
    "`t_interval`": (None, lambda delta, _: t_interval(delta)),
    "`bootstrap_t_interval`": (None, lambda delta, seed: bootstrap_t_interval(delta, rng=seed)),
    "`percentile_interval`": (None, lambda delta, seed: percentile_interval(delta, rng=seed)),
    "`bca_interval`": (None, lambda delta, seed: bca_interval(delta, rng=seed)),
    "`median_interval`": (None, lambda delta, _: median_interval(delta)),
    "`simultaneous_band`": (None, lambda delta, seed: simultaneous_band(delta, rng=seed)),
    "`bootstrap_t_interval` and `simultaneous_band`, one seed": (15.0, interval_and_band),
    '`best_set`, `method="mvt"`': (15.0, lambda delta, seed: best_set(delta, method="mvt", rng=seed)),
    '`best_set`, `method="studentized"`': (100.0, lambda delta, seed: best_set(delta, rng=seed)),
    '`regret_bound`, `method="studentized"`': (
        100.0,
        lambda delta, seed: regret_bound(delta, int(delta.mean(axis=0).argmin()), rng=seed),
    ),
    "`argmin_interval`": (None, lambda delta, seed: argmin_interval(RATES, delta, rng=seed)),
    "`summarize`": (None, lambda delta, seed: summarize(RATES, delta, rng=seed)),
    "SciPy's `bootstrap`, BCa": (None, scipy_bca),
}


def milliseconds(call: Callable[[], object]) -> float:
    # NOTE: time on the processor, which other programs on the machine disturb less than time on the clock.
    began = time.process_time()
    call()
    return 1e3 * (time.process_time() - began)


def measure(statistic: Statistic, num_rounds: int) -> list[FloatArray]:
    """Return the times of all rounds on each kind of data, which take turns, after one call to warm up."""
    times: list[list[float]] = [[] for _ in KINDS]
    seeds = count()
    for _ in range(num_rounds + 1):
        for taken, delta in zip(times, KINDS.values(), strict=True):
            taken.append(milliseconds(partial(statistic, delta, next(seeds))))
    return [np.array(taken[1:]) for taken in times]


def cell(times: FloatArray) -> str:
    low, median, high = np.quantile(times, [0.1, 0.5, 0.9])
    return f"**{median:.1f}** ({low:.1f} to {high:.1f})"


def circumstances(num_rounds: int) -> str:
    commit = git("log", "-1", "--format=%h", "--", *MEASURED) or "unknown"
    changed = " and changes" if git("status", "--porcelain", "--", *MEASURED) else ""
    return (
        f"{num_rounds} rounds; statistics of commit {commit}{changed}; autolr {autolr.__version__},"
        f" NumPy {np.__version__}, SciPy {scipy.__version__}, Python {platform.python_version()};"
        f" 1 thread of {os.cpu_count()} cores, {processor()}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 rounds instead of 25")
    num_rounds = 3 if parser.parse_args().quick else 25
    survivors = [int(best_set(delta, rng=0).sum()) for delta in KINDS.values()]
    heads = [f"{kind}, {num} in the set, ms" for kind, num in zip(KINDS, survivors, strict=True)]
    print("| statistic |", " | ".join(heads), "| target, ms |")
    print("|---" * (len(heads) + 2) + "|")
    missed = False
    for name, (target, statistic) in STATISTICS.items():
        times = measure(statistic, num_rounds)
        missed |= target is not None and bool(np.median(times[0]) > TOLERANCE * target)
        print(f"| {name} |", " | ".join(map(cell, times)), f"| {'' if target is None else f'{target:g}'} |", flush=True)
    print(f"\n{circumstances(num_rounds)}")
    sys.exit(int(missed))


if __name__ == "__main__":
    main()

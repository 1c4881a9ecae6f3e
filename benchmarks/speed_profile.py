"""Where does the time of a row go, with the fastest engine?

    python benchmarks/speed_profile.py   # two minutes; the table of benchmarks/README.md

SGD, K = 100, m = 32, one thread.

Rows are probed as speed.py probes them, a row of the naive baseline after each, which leaves cold caches; the parts are
timed within them, the median over the rows. Parts that are within others are named after them and indented.
"""

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, which reads it
os.environ.setdefault("MKL_NUM_THREADS", "1")

import torch
from machine import circumstances
from speed_pairs import time_engine
from workloads import SGD, SMALL, TRANSFORMER, WIDE, Workload

from autolr.probing import replay
from autolr.probing.direction import Direction
from autolr.probing.forwards import Forwards
from autolr.probing.line import LineProbe
from autolr.probing.objective import Objective
from autolr.probing.random_state import ForkedRandomness
from autolr.probing.start import Start

NUM_ROWS, NUM_UNCOUNTED = 15, 6
NETWORKS = [SMALL, WIDE, TRANSFORMER]
PARTS: list[tuple[str, Any, str]] = [
    ("random state of the row", ForkedRandomness, "fork"),
    ("a row, after that", LineProbe, "__call__"),
    ("- gradient", Start, "gradients"),
    ("- the step that gives d", Direction, "take"),
    ("- the losses", Forwards, "losses"),
    ("  - one whole forward, recorded", Objective, "recorded"),
    ("  - repeated at all rates", Forwards, "_by"),
    ("    - batched: linear layers in these", replay, "linear"),
    ("- putting back, all together", Start, "restore"),
]


class Clock:
    """Adds up the seconds of a part within a row."""

    def __init__(self) -> None:
        self.total = 0.0
        self.rows: list[float] = []

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.total += time.perf_counter() - began

        return timed

    def end_row(self) -> None:
        """Begin another row."""
        self.rows.append(self.total)
        self.total = 0.0


def profile(workload: Workload) -> list[float]:
    """Return the milliseconds of each part in a row, the median."""
    clocks = [Clock() for _ in PARTS]
    originals = [getattr(owner, name) for _, owner, name in PARTS]
    for clock, original, (_, owner, name) in zip(clocks, originals, PARTS, strict=True):
        setattr(owner, name, clock.around(original))
    whole = LineProbe.__call__

    def row(*args: Any) -> Any:
        for clock in clocks[1:]:
            clock.total = 0.0
        losses = whole(*args)
        for clock in clocks:
            clock.end_row()
        return losses

    LineProbe.__call__ = row  # type: ignore[method-assign]
    try:
        time_engine(workload, "auto", NUM_ROWS)
    finally:
        for original, (_, owner, name) in zip(originals, PARTS, strict=True):
            setattr(owner, name, original)
    return [1e3 * statistics.median(clock.rows[NUM_UNCOUNTED:]) for clock in clocks]


def main() -> None:
    torch.set_num_threads(1)
    columns = [(network.name, profile(Workload(network, SGD, 32, 100))) for network in NETWORKS]
    print(f"| ms | {' | '.join(name for name, _ in columns)} |\n|{'---|' * (len(columns) + 1)}")
    for index, (part, _, _) in enumerate(PARTS):
        print(f"| {part} | {' | '.join(f'{times[index]:.2f}' for _, times in columns)} |")
    print(f"\n{circumstances(['autolr/probing', 'autolr/param_groups.py'])}")


if __name__ == "__main__":
    main()

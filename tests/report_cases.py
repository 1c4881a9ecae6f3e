"""Results to report on: a tuning and a search made by hand, and names that look like code."""

import math

import pandas as pd

from autolr import LossDifferentials, SearchResult, TuningResult, log_grid
from autolr.search_result import TRACE_COLUMNS

SCRIPT = "</title></script><script>document.title = 'run'</script>"
NAMES = {
    "model": SCRIPT,
    "optimizer": f'"{SCRIPT}',
    SCRIPT: {"nested": [SCRIPT * 9]},
    "num_parameters": 3,
    "x": "\ud800",
    "notes": ["Rates are about a <script>."],
}


def record(rates, shape, rng, num_rows=20, noise=0.02):
    pre = rng.normal(3.0, 0.1, num_rows)
    return LossDifferentials(rates, pre, pre[:, None] + shape + noise * rng.normal(size=(num_rows, len(rates))))


def tuning(rng, rates=None, **settings):
    rates = log_grid(1e-3, 1.0, 7) if rates is None else rates
    return TuningResult(record(rates, -8.0 * rates + 40.0 * rates**2, rng), {"engine": "line", **settings})


def search(num_streams=1, **settings):
    rows = [(0, "untrained", 0.0, step, 3.0) for step in range(2)]
    for stream in range(num_streams):
        for rate, losses in ((0.01, [3.0, 2.0, 1.5, 1.2]), (0.1, [3.0, 1.0, 0.8, 0.7]), (1.0, [3.0, 2.5])):
            rows += [(stream, "scan" if step < 2 else "final", rate, step, loss) for step, loss in enumerate(losses)]
        rows += [(stream, "held-out", 0.01, 4, 1.1), (stream, "held-out", 0.1, 4, 0.6)]
        rows += [(stream, "scan", 10.0, 0, 3.0), (stream, "scan", 10.0, 1, math.inf)]
    decision = {
        "learning_rate": 0.05, "low": 0.02, "high": 0.2, "confidence_level": 0.9, "vertices": [0.06] * num_streams,
        "num_steps": 4, "last_step": 4, "loss": 0.6, "untrained_loss": 3.0, "judged_by": "held-out",
        "measure": "log loss", "capped": False, "max_stable_lr": 1.0, "smallest_diverged": 10.0, "at_grid_edge": None,
        "doubt": None, "caveats": [],
        "finalists": [{"learning_rate": 0.01, "loss": 1.1}, {"learning_rate": 0.1, "loss": 0.6}] * num_streams,
    }  # fmt: skip
    given = {
        "total_steps": 100, "schedule": "constant", "target": "validation", "effort": "default", "num_rates": 4,
        "scan_steps": 2, "final_steps": 4, "exponent": 0.4, "mean_factor": 1.0, "decays": False,
        "num_evaluations": 14.0, "seconds": 0.1, "num_streams": num_streams,
    }  # fmt: skip
    return SearchResult(pd.DataFrame(rows, columns=list(TRACE_COLUMNS)), decision, {**given, **settings})

"""The decision of a search: what its streams lead to, as plain values, and what limits it."""

import math
from typing import Any

import numpy as np
import pandas as pd

from autolr.picker import CONFIDENCE_LEVEL, HIGHEST, LOWEST, STEP, Correction, Target, half_width
from autolr.scan import Scan, exponent, loss_of
from autolr.search_result import TRACE_COLUMNS

# A search that costs more than this share of the run takes the fast way.
LARGEST_SHARE = 1.0 / 3.0


def decide_search(scans: list[Scan], law: Correction, target: Target) -> dict[str, Any]:
    """Return what the streams lead to: the rate and its interval, and what they are made of."""
    vertices = [scan.vertex for scan in scans]
    centers = [scan.vertex + math.log10(law.factor(scan.num_steps)) for scan in scans]
    cap = min(exponent(max(scan.survivors)) for scan in scans)
    center = min(float(np.mean(centers)), cap)
    width = half_width(target, vertices)
    first = scans[0]
    tried = [(10.0 ** exponent(n), course.given_up is None) for scan in scans for n, course in scan.courses.items()]
    edge = min((rate for rate, survived in tried if not survived), default=None)
    best_exponent = exponent(first.best)
    at_edge = "high" if best_exponent + STEP > math.log10(HIGHEST) else None
    at_edge = "low" if best_exponent - STEP < math.log10(LOWEST) else at_edge
    best_loss = float(np.mean([scan.best_loss for scan in scans]))
    return {
        "learning_rate": 10.0**center,
        "low": 10.0 ** (center - width),
        "high": 10.0 ** (center + width),
        "confidence_level": CONFIDENCE_LEVEL,
        "vertices": [10.0**vertex for vertex in vertices],
        "num_steps": min(scan.num_steps for scan in scans),
        "last_step": max(scan.final_steps + scan.anneal_steps or scan.scan_steps for scan in scans),
        "loss": best_loss,
        "untrained_loss": float(np.mean([scan.untrained for scan in scans])),
        "judged_by": "scan" if not first.finalists else "online" if first.online else "held-out",
        "measure": first.measure,
        "capped": center == cap,
        "max_stable_lr": max(
            (rate for rate, survived in tried if survived and (edge is None or rate < edge)), default=None
        ),
        "smallest_diverged": edge,
        "at_grid_edge": at_edge,
        "doubt": "flat" if any(scan.flat for scan in scans) else "edge" if at_edge else None,
        "finalists": [finalist for scan in scans for finalist in _finalists(scan)],
    }


def _finalists(scan: Scan) -> list[dict[str, Any]]:
    numbers = scan.finalists or tuple(n for n in (scan.best + 1, scan.best, scan.best - 1) if n in scan.courses)
    losses = [(10.0 ** exponent(number), loss_of(scan, number)) for number in sorted(numbers)]
    return [{"learning_rate": rate, "loss": loss if math.isfinite(loss) else None} for rate, loss in losses]


def caveats_of_search(
    settings: dict[str, Any], scans: list[Scan], decision: dict[str, Any], *, told: bool, asked: int
) -> list[str]:
    """Return the sentences on what limits the answer.

    Args:
        settings: How the search was made.
        scans: What its streams found.
        decision: What they lead to.
        told: Whether the length of the run was told.
        asked: The number of streams that were asked for.
    """
    share = settings["num_evaluations"] / settings["total_steps"]
    short = any(not scan.finalists or scan.final_steps < settings["final_steps"] for scan in scans)
    conditions = [
        (
            not told,
            f"The length of the run was not told; {settings['total_steps']} steps are assumed. The best rate falls with"
            f" the length to the power of {settings['exponent']:g}.",
        ),
        (settings["schedule"] == "plateau", "The schedule plateau depends on the losses; it counts as constant."),
        (
            settings["effort"] != settings["effort_asked"],
            f"A search of the effort {settings['effort_asked']} costs more than a third of the run: this one is fast.",
        ),
        (share > LARGEST_SHARE, f"The search took {100.0 * share:.0f}% of the run's own steps."),
        (
            decision["judged_by"] == "online",
            "There was nothing to hold out: rates were judged by the losses on their own training batches.",
        ),
        (short, "The budget ended the search early: rates were compared after fewer steps than planned."),
        (len(scans) < asked, f"The budget ended the search after {len(scans)} of {asked} streams."),
        (
            decision["measure"] != "log loss",
            "The loss is not above 0 everywhere: rates were compared by their share of the gain, not by log loss.",
        ),
        (decision["capped"], "The rate is the largest one that was seen to train; the law asks for a larger one."),
    ]
    return [sentence for applies, sentence in conditions if applies]


def trace_of(scans: list[Scan]) -> pd.DataFrame:
    """Return every loss that was measured, in the columns of :class:`SearchResult`."""
    rows: list[tuple[Any, ...]] = []
    for stream, scan in enumerate(scans):
        rows += [(stream, "untrained", 0.0, step, loss) for step, loss in enumerate(scan.untrained_losses)]
        for course in scan.courses.values():
            for step, loss in enumerate(course.losses):
                stage = "scan" if step < scan.scan_steps else "final" if step < scan.final_steps else "anneal"
                rows.append((stream, stage, course.learning_rate, step, loss))
            if not math.isnan(course.held_out):
                rows.append((stream, "held-out", course.learning_rate, len(course.losses), course.held_out))
    return pd.DataFrame(rows, columns=list(TRACE_COLUMNS))

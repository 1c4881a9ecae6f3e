"""The decision of a search: the schedule that it is for, what its streams lead to as plain values, what limits it."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from autolr._text import format_rate, lost_batches
from autolr._typing import FloatArray
from autolr._validation import check_integer, check_option, invalid
from autolr.picker import CONFIDENCE_LEVEL, HIGHEST, LOWEST, STEP, Correction, Target, half_width
from autolr.scan import FEWEST_MORE, Scan, exponent, loss_of
from autolr.schedules._options import ScheduleName
from autolr.schedules.make import make_scheduler, schedule_factors
from autolr.search_result import TRACE_COLUMNS

# A search that costs more than this share of the run takes the fast way. A choice, not measured: too small, runs of
# moderate length lose the better finals; too large, a search costs as much as the run.
LARGEST_SHARE_OF_RUN = 1.0 / 3.0
# What make_scheduler is given by the search itself.
_RESERVED = ("optimizer", "name", "learning_rate", "total_steps")


def factors_of(
    optimizer: torch.optim.Optimizer,
    schedule: ScheduleName,
    options: Mapping[str, Any],
    total_steps: int,
    *,
    told: bool,
) -> FloatArray:
    """Return what a schedule multiplies the rate of the first parameter group with; a factor 1 stands for all ones.

    Args:
        optimizer: The optimizer of the run, of which the groups are counted.
        schedule: The name of the schedule; ``"plateau"`` counts as constant.
        options: Its options; of lists with an entry for each group, the first one counts.
        total_steps: The steps of the run.
        told: Whether the user has told them.

    Raises:
        TypeError: If ``options`` is no mapping with strings as keys, or as :func:`autolr.make_scheduler`.
        ValueError: As :func:`autolr.make_scheduler`, and if a factor is not finite or below 0, or all are 0.
    """
    check_option("schedule", schedule, ScheduleName)
    if not isinstance(options, Mapping) or not all(isinstance(key, str) for key in options):
        raise TypeError(invalid("schedule_options", "be a mapping with strings as keys, or None", options))
    for key in _RESERVED:
        if key in options:
            raise ValueError(invalid("schedule_options", f"not hold {key!r}", options))
    warmup_steps = check_integer("warmup_steps", options.get("warmup_steps", 0), minimum=0)
    if warmup_steps >= total_steps and not told:
        below = f"be below `total_steps`, which is not given ({total_steps} are assumed)"
        raise ValueError(invalid("warmup_steps", below, warmup_steps))
    groups = [{"params": [torch.zeros(1)]} for _ in optimizer.param_groups]
    make_scheduler(torch.optim.SGD(groups, lr=1.0), schedule, learning_rate=1.0, total_steps=total_steps, **options)
    if schedule == "plateau" or (schedule == "constant" and not warmup_steps and "factor" not in options):
        return np.ones(1)
    first = {
        key: value[0] if key != "milestones" and isinstance(value, (list, tuple)) else value
        for key, value in options.items()
    }
    factors = schedule_factors(schedule, total_steps=total_steps, **first)
    wrong = factors[~np.isfinite(factors) | (factors < 0.0)]
    if wrong.size:
        raise ValueError(invalid("schedule", "have finite factors of at least 0", float(wrong[0])))
    if not factors.mean() > 0.0:
        raise ValueError(invalid("schedule", "have a factor above 0", 0.0))
    return factors


def decide_search(scans: list[Scan], law: Correction, target: Target) -> dict[str, Any]:
    """Return what the streams lead to: the rate and its interval, and what they are made of."""
    vertices = [scan.vertex for scan in scans]
    centers = [scan.vertex + math.log10(law.factor(scan.num_steps)) for scan in scans]
    cap = min(exponent(max(scan.survivors)) for scan in scans)
    center = min(float(np.mean(centers)), cap)
    width = half_width(target, vertices)
    first = scans[0]
    largest_stable, smallest_diverged = _edge(scans, center)
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
        "max_stable_lr": largest_stable,
        "smallest_diverged": smallest_diverged,
        "at_grid_edge": at_edge,
        "doubt": "flat" if any(scan.flat for scan in scans) else "edge" if at_edge else None,
        "finalists": [finalist for scan in scans for finalist in _finalists(scan)],
    }


def _edge(scans: list[Scan], center: float) -> tuple[float | None, float | None]:
    """Return the largest rate that no stream gave up, and the smallest of those above it.

    The second is ``None`` where it is not above the pick, whose decimal logarithm is ``center``, and above the best
    rates: what was given up there says nothing about an edge.
    """
    given_up = {n for scan in scans for n, course in scan.courses.items() if course.given_up is not None}
    tried = {n for scan in scans for n in scan.courses}
    stable = max(tried - given_up, default=None)
    above = min((n for n in given_up if stable is None or n > stable), default=None)
    if above is not None and (exponent(above) <= center or above <= max(scan.best for scan in scans)):
        above = None
    return None if stable is None else 10.0 ** exponent(stable), None if above is None else 10.0 ** exponent(above)


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
        scans: What its streams found, those that diverged too.
        decision: What they lead to.
        told: Whether the length of the run was told.
        asked: The number of streams that were asked for.
    """
    num_diverged = sum(not scan.survivors for scan in scans)
    has_finals = settings["final_steps"] >= settings["scan_steps"] + FEWEST_MORE
    has_budget = settings["max_evaluations"] is not None or settings["time_budget"] is not None
    cut = any(scan.final_steps < settings["final_steps"] for scan in scans if scan.survivors)
    # a search that cannot tell says why in its first line
    ends = _ends(scans) if decision["doubt"] is None else set()
    conditions = [
        (
            not told,
            f"The length of the run was not told; {settings['total_steps']} steps are assumed."
            f" Ten times as many need a rate {format_rate(10.0 ** settings['exponent'])} times smaller.",
        ),
        (settings["schedule"] == "plateau", "The schedule plateau depends on the losses; it counts as constant."),
        (
            settings["effort"] != settings["effort_asked"],
            f"A search of the effort {settings['effort_asked']} costs more than a third of the run: this one is fast.",
        ),
        (
            decision["judged_by"] == "online",
            "There was nothing to hold out: rates were judged by the losses on their own training batches.",
        ),
        (
            not has_finals,
            f"The run is too short for a longer look: rates were compared after {settings['scan_steps']} steps.",
        ),
        (
            has_finals and has_budget and cut,
            "The budget ended the search early: rates were compared after fewer steps than planned.",
        ),
        (
            num_diverged > 0,
            f"Training diverged at every rate on {num_diverged} of {len(scans)} streams; only the others count.",
        ),
        (len(scans) < asked, f"The budget ended the search after {len(scans)} of {asked} streams."),
        (
            decision["measure"] != "log loss",
            "The loss is not above 0 everywhere: rates were compared by their share of the gain, not by log loss.",
        ),
        (settings["num_batches_lost"] > 0, lost_batches(settings["num_batches_lost"])),
        ("high" in ends, "The largest rate of the finals was the best of them: a larger one may be better."),
        ("low" in ends, "The smallest rate of the finals was the best of them: a smaller one may be better."),
        (decision["capped"], "This is the largest rate that was seen to train; a run as long as yours may bear more."),
    ]
    return [sentence for applies, sentence in conditions if applies]


def _ends(scans: list[Scan]) -> set[str]:
    """Return the ends of the three finalists at which streams have their best rate; the vertex is held there."""
    whole = [scan for scan in scans if len(scan.finalists) == len(scan.survivors) == 3]
    return {
        name
        for scan in whole
        for name, end in (("high", max), ("low", min))
        if scan.vertex == exponent(end(scan.finalists))
    }


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

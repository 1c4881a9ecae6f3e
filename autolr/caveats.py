"""Caveats: sentences on what limits a decision, each only where it applies."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from autolr._text import format_rate, lost_batches
from autolr._typing import BoolArray, IntArray, Settings
from autolr.interpolation_error import TOLERANCE
from autolr.statistics.flags import DOMINANT, largest_share, ties
from autolr.statistics.proportions import binomial_upper_bound

if TYPE_CHECKING:
    from autolr.result import TuningResult

# NOTE: a difference of two rounded losses is a multiple of their resolution; below a few of them it is rounding only
_RESOLUTIONS = 4.0
_FEW_SUBSAMPLES = 20
LIKE_SMALL_RATES = ("variance", "variance_penalized")  # methods that may pick the smallest rate of any grid
_OVERLAP = 0.1  # of drawn over all observations: with less, intervals about the dataset are about the population too


def caveats_of(
    result: "TuningResult", method: str, pick: int, best: IntArray, level: float, regret: float
) -> tuple[str, ...]:
    """Return the caveats of a decision.

    Args:
        result: What it was made of.
        method: By which method.
        pick: The column that was picked.
        best: The columns in the set of best rates.
        level: The level of bounds.
        regret: The bound on what the pick loses to the best rate.
    """
    settings, record = result.settings, result.differentials
    source, step = ("of the first step", "steps") if record.horizons[-1] > 1 else ("that gave the gradient", "step")
    conditions = [
        *_of_the_pick(result, method, pick, best, level, regret),
        *_of_the_rows(result),
        (
            bool(settings.get("adaptive")) and method != "mean" and bool(np.isnan(record.delta).any()),
            "Rates that were out by their mean were no longer probed: the method chose among the others.",
        ),
        (
            settings.get("repeatable") is False,
            "The loss is not repeatable: the same weights gave two losses on the same batch.",
        ),
        (
            settings.get("evaluation") == "subsample",
            f"Losses were measured on the subsample {source}, which flatters the {step}.",
        ),
    ]
    return tuple(sentence for applies, sentence in conditions if applies)


def draws_much(result: "TuningResult") -> bool:
    """Return whether subsamples share so many observations that intervals are about the dataset only."""
    settings, record = result.settings, result.differentials
    drawn = record.num_subsamples * int(record.horizons[-1]) * (settings.get("batch_size") or 0)
    drawn *= settings.get("accumulation_steps", 1)
    known = settings.get("num_observations") or math.inf
    return settings.get("sampling") == "independent" and bool(drawn > _OVERLAP * known)


def is_below_resolution(result: "TuningResult") -> BoolArray:
    """Return at which rates the differentials are no more than rounding errors of the losses, shape (K,)."""
    return np.asarray(np.abs(result.differentials.delta).mean(axis=0) <= _rounding(result))


def _rounding(result: "TuningResult") -> float:
    """Return the largest difference of two losses that may be rounding."""
    resolution = float(result.settings.get("resolution", 0.0))
    return _RESOLUTIONS * resolution * float(np.abs(result.differentials.loss_pre).mean())


def _of_the_pick(
    result: "TuningResult", method: str, pick: int, best: IntArray, level: float, regret: float
) -> Sequence[tuple[bool, str]]:
    delta = result.differentials.delta
    diverged = int(np.isinf(delta[:, pick]).sum())
    most_diverged = float(binomial_upper_bound([diverged], [len(delta)], confidence_level=level)[0])
    share = 0.0 if len(delta) < _FEW_SUBSAMPLES else float(largest_share(delta[:, [pick]])[0])
    below = is_below_resolution(result)
    unresolved = bool(below[pick])
    tied = int(np.isin(best, np.flatnonzero(ties(delta, pick, resolution=_rounding(result)))).sum())
    return [
        (
            diverged > 0,
            f"At the pick, {diverged} of {len(delta)} probes diverged: up to {100.0 * most_diverged:.0f}% may.",
        ),
        (method == "max", "This is the largest rate at which no subsample's loss rose: a bound, not a good rate."),
        (
            pick not in best and best.size > 0 and method != "max",
            "By the mean, the pick is not among the best rates"
            + (f": it may lose up to {format_rate(regret)} to them." if math.isfinite(regret) else "."),
        ),
        # NOTE: where it is so at every rate, that is the doubt itself
        (
            unresolved and not below[~np.isnan(delta).any(axis=0)].all(),
            "At the pick, the loss changes by no more than its rounding error.",
        ),
        (
            tied > 0 and not unresolved,
            f"{tied} other rate{' is' if tied == 1 else 's are'} tied with the pick: losses differ by rounding only.",
        ),
        (
            share > DOMINANT,
            f"One subsample makes up {100.0 * share:.0f}% of the variance: the mean is less sure than it looks. Try"
            " method='median'.",
        ),
    ]


def _undecided(settings: Settings) -> str:
    """Return by how much the last look of a race missed its tolerance."""
    look = (settings.get("looks") or [{}])[-1]
    regret, gain = look.get("regret_bound"), look.get("gain", 0.0)
    if regret is None or not gain > 0.0:
        return "nothing is known of what the pick may lose to the best rate"
    return (
        f"the pick may lose up to {format_rate(regret)} to the best rate ({100.0 * regret / gain:.0f}% of its gain,"
        f" {100.0 * settings.get('regret_tolerance', 0.0):g}% asked for)"
    )


def _of_the_rows(result: "TuningResult") -> Sequence[tuple[bool, str]]:
    settings, num_rows = result.settings, result.differentials.num_subsamples
    asked = settings.get("num_subsamples", num_rows)
    out_of_time, interrupted = bool(settings.get("out_of_time")), bool(settings.get("interrupted"))
    decided = bool(settings.get("adaptive")) and settings.get("stop") != "ended"
    evaluated = num_rows * (settings.get("batch_size") or 0)
    shared = evaluated > _OVERLAP * (settings.get("num_evaluation_observations") or math.inf)
    interpolation = settings.get("interpolation", {})
    error, num_unresolved = interpolation.get("error") or 0.0, interpolation.get("num_unresolved", 0)
    num_interpolated = int(result.differentials.interpolated.any(axis=(0, 2)).sum())
    extensions, passes = settings.get("num_extensions", 0), settings.get("evaluation_passes", 1)
    num_lost, left_out = settings.get("num_batches_lost", 0), settings.get("num_left_out", 0)
    unfinished = f"; {left_out} more, not finished at all rates that they need, are left out" if left_out else ""
    return [
        (out_of_time, f"The time budget ended after {num_rows} of {asked} subsamples."),
        (interrupted, f"The tuning was interrupted after {num_rows} of {asked} subsamples{unfinished}."),
        (
            num_rows < asked and not (out_of_time or interrupted or decided),
            f"The data ended after {num_rows} of {asked} subsamples.",
        ),
        (
            num_rows < _FEW_SUBSAMPLES,
            f"With fewer than {_FEW_SUBSAMPLES} subsamples intervals are rough; these are {num_rows}.",
        ),
        (
            shared,
            f"Losses were measured on the same {settings.get('num_evaluation_observations')} observations again and"
            " again: all this is about them.",
        ),
        (
            settings.get("stop") in ("all", "ended") and len(settings.get("looks", ())) > 0,
            f"Not decided: {_undecided(settings)}.",
        ),
        (
            extensions > 0,
            f"Rows were added {'once' if extensions == 1 else f'{extensions} times'} after a look at the result: all"
            " intervals are wider for it.",
        ),
        (
            error > TOLERANCE,
            f"Interpolation may shift means by up to {100.0 * error:.1f}% of their standard errors.",
        ),
        (
            2 * num_unresolved > num_interpolated > 0,
            f"At {min(num_unresolved, num_interpolated)} of {num_interpolated} interpolated rates, interpolation was"
            " checked to the resolution of the loss only.",
        ),
        (num_lost > 0, lost_batches(num_lost)),
        (passes > 1, f"The evaluation data was read {passes} times: rows share its batches, which no interval knows."),
    ]

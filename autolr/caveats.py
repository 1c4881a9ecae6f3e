"""Caveats: sentences on what limits a decision, each only where it applies."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from autolr._text import lost_batches
from autolr._typing import BoolArray, IntArray, Settings
from autolr.interpolation_error import TOLERANCE
from autolr.statistics.flags import DOMINANT, largest_share, ties
from autolr.statistics.proportions import binomial_upper_bound

if TYPE_CHECKING:
    from autolr.result import TuningResult

# NOTE: a difference of two rounded losses is a multiple of their resolution; below a few of them it is rounding only
_RESOLUTIONS = 4.0
_FEW_SUBSAMPLES = 20
_OVERLAP = 0.1  # of drawn over all observations: with less, intervals about the dataset are about the population too


def caveats_of(result: "TuningResult", method: str, pick: int, best: IntArray, level: float) -> tuple[str, ...]:
    """Return the caveats of a decision.

    Args:
        result: What it was made of.
        method: By which method.
        pick: The column that was picked.
        best: The columns in the set of best rates.
        level: The level of bounds.
    """
    settings, record = result.settings, result.differentials
    source, step = ("of the first step", "steps") if record.horizons[-1] > 1 else ("that gave the gradient", "step")
    conditions = [
        *_of_the_pick(result, method, pick, best, level),
        *_of_the_rows(result),
        (
            bool(settings.get("adaptive")) and method != "mean" and bool(np.isnan(record.delta).any()),
            "Rates that were out by their mean were no longer probed: the method chose among the others.",
        ),
        (settings.get("repeatable") is False, "The same weights gave two losses on the same batch: it is drawn anew."),
        (
            settings.get("evaluation") == "subsample",
            f"Losses were measured on the subsample {source}, which flatters the {step}.",
        ),
    ]
    return tuple(sentence for applies, sentence in conditions if applies)


def is_below_resolution(result: "TuningResult") -> BoolArray:
    """Return at which rates the differentials are no more than rounding errors of the losses, shape (K,)."""
    return np.asarray(np.abs(result.differentials.delta).mean(axis=0) <= _rounding(result))


def _rounding(result: "TuningResult") -> float:
    """Return the largest difference of two losses that may be rounding."""
    resolution = float(result.settings.get("resolution", 0.0))
    return _RESOLUTIONS * resolution * float(np.abs(result.differentials.loss_pre).mean())


def _of_the_pick(
    result: "TuningResult", method: str, pick: int, best: IntArray, level: float
) -> Sequence[tuple[bool, str]]:
    delta = result.differentials.delta
    diverged = int(np.isinf(delta[:, pick]).sum())
    most_diverged = float(binomial_upper_bound([diverged], [len(delta)], confidence_level=level)[0])
    share = 0.0 if len(delta) < _FEW_SUBSAMPLES else float(largest_share(delta[:, [pick]])[0])
    unresolved = bool(is_below_resolution(result)[pick])
    tied = int(np.isin(best, np.flatnonzero(ties(delta, pick, resolution=_rounding(result)))).sum())
    return [
        (
            diverged > 0,
            f"At the pick, {diverged} of {len(delta)} probes diverged: up to {100.0 * most_diverged:.0f}% may.",
        ),
        (method == "max", "This is the largest rate at which no subsample's loss rose: a bound, not a good rate."),
        (
            pick not in best and best.size > 0 and method != "max",
            "The pick is outside of the set of rates that are as good as the best mean.",
        ),
        (unresolved, "The differentials at the pick are below the resolution of the loss."),
        (
            tied > 0 and not unresolved,
            f"{tied} of the best rates {'is' if tied == 1 else 'are'} tied with the pick: their losses differ by less"
            " than the resolution.",
        ),
        (
            share > DOMINANT,
            f"One subsample makes up {100.0 * share:.0f}% of the variance at the pick: the tails are heavy, its mean is"
            " less certain than it looks. Compare the median.",
        ),
    ]


def _undecided(settings: Settings) -> str:
    """Return by how much the last look of a race missed its tolerance."""
    look = (settings.get("looks") or [{}])[-1]
    regret, gain = look.get("regret_bound"), look.get("gain", 0.0)
    if regret is None or not gain > 0.0:
        return "nothing is known of what the pick may lose to the best rate"
    return (
        f"the pick may lose up to {regret:.2g} to the best rate, {100.0 * regret / gain:.0f}% of its gain, where"
        f" {100.0 * settings.get('regret_tolerance', 0.0):g}% were asked for"
    )


def _of_the_rows(result: "TuningResult") -> Sequence[tuple[bool, str]]:
    settings, num_rows = result.settings, result.differentials.num_subsamples
    asked = settings.get("num_subsamples", num_rows)
    out_of_time, interrupted = bool(settings.get("out_of_time")), bool(settings.get("interrupted"))
    decided = bool(settings.get("adaptive")) and settings.get("stop") != "ended"
    drawn = num_rows * int(result.differentials.horizons[-1]) * (settings.get("batch_size") or 0)
    drawn *= settings.get("accumulation_steps", 1)
    overlapping = settings.get("sampling") == "independent" and drawn > _OVERLAP * (
        settings.get("num_observations") or math.inf
    )
    evaluated = num_rows * (settings.get("batch_size") or 0)
    shared = evaluated > _OVERLAP * (settings.get("num_evaluation_observations") or math.inf)
    interpolation = settings.get("interpolation", {})
    error, num_unresolved = interpolation.get("error") or 0.0, interpolation.get("num_unresolved", 0)
    num_interpolated = int(result.differentials.interpolated.any(axis=(0, 2)).sum())
    extensions, passes = settings.get("num_extensions", 0), settings.get("evaluation_passes", 1)
    num_lost = settings.get("num_batches_lost", 0)
    return [
        (out_of_time, f"The time budget ended after {num_rows} of {asked} subsamples."),
        (interrupted, f"The tuning was interrupted after {num_rows} of {asked} subsamples."),
        (
            num_rows < asked and not (out_of_time or interrupted or decided),
            f"The data ended after {num_rows} of {asked} subsamples.",
        ),
        (
            num_rows < _FEW_SUBSAMPLES,
            f"Sets and bounds are rough below {_FEW_SUBSAMPLES} subsamples; these are {num_rows}.",
        ),
        (
            overlapping,
            "Subsamples share observations: all this is about the dataset; sampling='partition' speaks about its"
            " population.",
        ),
        (
            shared,
            f"Losses were measured on {settings.get('num_evaluation_observations')} observations again and again: all"
            " this is about these.",
        ),
        (
            settings.get("stop") in ("all", "ended") and len(settings.get("looks", ())) > 0,
            f"The race is not decided: {_undecided(settings)}.",
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

"""The verdict: what the numbers say, in a few plain sentences."""

from typing import TYPE_CHECKING

import numpy as np

from autolr._text import format_rate
from autolr.errors import DivergedError, NoCandidateError

if TYPE_CHECKING:
    from autolr.result import TuningResult
    from autolr.suggestion import Suggestion

# a set of best rates that spans this factor does not narrow the rate down
_TOO_WIDE = 100.0


def verdict(suggestion: "Suggestion") -> str:
    """Return the decision in words: the pick, its uncertainty, the edge, what it was measured on, what to do next.

    "I cannot tell" is a verdict too, with its remedy: where the differentials drown in rounding, no rate lowers the
    loss with confidence, the pick is an end of the grid, or the set of best rates is too wide to help.
    """
    lines = [_decision(suggestion), _uncertainty(suggestion), _edge(suggestion)]
    lines += [_evidence(suggestion.evidence), _next_step(suggestion)]
    lines += [f"Caveat: {caveat}" for caveat in suggestion.caveats]
    return "\n".join(line for line in lines if line)


def no_decision(error: NoCandidateError, result: "TuningResult") -> str:
    """Return the words for a result from which no rate can be picked."""
    rates = result.differentials.learning_rates
    if isinstance(error, DivergedError):
        low = format_rate(rates[0] / 1e3)
        remedy = f"Use a grid of smaller rates, from {low} on, and check the loss and the scale of the data."
        reason = f"every one of the {rates.size} rates from {format_rate(rates[0])} on diverged."
    else:
        remedy = "Probe every rate in every subsample."
        reason = "no rate was probed in every subsample."
    return "\n".join([f"I cannot tell: {reason} {remedy}", _evidence(result)])


def _decision(suggestion: "Suggestion") -> str:
    rate, level = format_rate(suggestion.learning_rate), f"{suggestion.confidence_level:.0%}"
    record = suggestion.evidence.differentials
    column = record.delta[:, int(np.searchsorted(record.learning_rates, suggestion.learning_rate))]
    if suggestion.below_resolution:
        return (
            "I cannot tell: the loss hardly changes at any rate, by less than its own resolution."
            " Use larger rates, or double precision."
        )
    if not suggestion.improves:
        return (
            f"I cannot tell: at no rate does a step lower the loss with {level} confidence."
            " Use more subsamples or larger batches, and check that the loss can be learned."
        )
    if suggestion.at_grid_edge:
        low, high = record.learning_rates[[0, -1]]
        if suggestion.method == "variance":
            return (
                f"I cannot tell: the pick, {rate} (method variance), is an end of the grid: the smaller the rate, the"
                " less the change of loss varies. Use another method."
            )
        if suggestion.at_grid_edge == "high":
            side, grid = "largest", (low, 1e3 * high)
        else:
            side, grid = "smallest", (low / 1e3, high)
        return (
            f"I cannot tell: the pick, {rate} (method {suggestion.method}), is the {side} rate of the grid."
            f" Widen it: learning_rates=autolr.log_grid({format_rate(grid[0])}, {format_rate(grid[1])}, 64)."
        )
    best = suggestion.best_set
    if best and best[-1] > _TOO_WIDE * best[0]:
        return (
            f"I cannot tell: {len(best)} rates from {format_rate(best[0])} to {format_rate(best[-1])} cannot be told"
            f" from the best, {rate}. More subsamples or larger batches may narrow them down."
        )
    steps = "one step changes" if suggestion.horizon == 1 else f"{suggestion.horizon} steps change"
    change = float(np.median(column)) if suggestion.method == "median" else float(column.mean())
    statistic = "median" if suggestion.method == "median" else "mean"
    return (
        f"Learning rate {rate} (method {suggestion.method}): {steps} the loss by {change:.3g} in the {statistic},"
        f" from {record.loss_pre.mean():.3g}."
    )


def _uncertainty(suggestion: "Suggestion") -> str:
    best, level = suggestion.best_set, f"{suggestion.confidence_level:.0%}"
    if suggestion.below_resolution or not suggestion.improves:
        return f"No rate from {format_rate(best[0])} to {format_rate(best[-1])} stands out at {level}." if best else ""
    where = "Within the grid, the" if suggestion.at_grid_edge else "The"
    interval = f"{format_rate(suggestion.low)} and {format_rate(suggestion.high)}"
    text = f"{where} best rate lies between {interval} ({level});"
    if len(best) < 2:
        return f"{text} no other rate of the grid is as good."
    rates = suggestion.evidence.differentials.learning_rates
    between = int(((rates >= best[0]) & (rates <= best[-1])).sum())
    which, verb = ("anything", "is") if between == len(best) else (f"{len(best)} of the {between} rates", "are")
    return f"{text} {which} from {format_rate(best[0])} to {format_rate(best[-1])} {verb} as good at {level}."


def _edge(suggestion: "Suggestion") -> str:
    record = suggestion.evidence.differentials
    if suggestion.max_stable_lr is None:
        return "Even at the best rate the loss rises on average."
    unstable = record.learning_rates > suggestion.max_stable_lr
    parts = []
    if unstable.any():
        parts.append(f"the loss rises from {format_rate(record.learning_rates[unstable][0])} on")
    diverged = np.isinf(record.delta).any(axis=0)
    if diverged.any():
        parts.append(f"probes diverge from {format_rate(record.learning_rates[diverged][0])} on")
    if not parts:
        return f"The loss rises at no rate of the grid, up to {format_rate(record.learning_rates[-1])}."
    sentence = ", ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _evidence(result: "TuningResult") -> str:
    settings, num_rows = result.settings, result.differentials.num_subsamples
    size, sampling = settings.get("batch_size"), settings.get("sampling")
    text = f"Measured on {num_rows} {'disjoint ' if sampling == 'partition' else ''}subsamples"
    text += f" of {size} observations" if size else ""
    where = {"independent": ", with losses on others", "own data": ", with losses on data of your own"}
    text += where.get(settings.get("evaluation", ""), "")
    about = {"independent": ", for this dataset", "partition": ", for the population too"}
    text += about.get(str(sampling), "")
    if {"seconds", "num_evaluations"} <= settings.keys():
        text += f": {settings['num_evaluations']:.0f} gradient evaluations in {settings['seconds']:.1f} s"
    return f"{text}."


def _next_step(suggestion: "Suggestion") -> str:
    if suggestion.horizon > 1 or not suggestion.improves:
        return ""
    return (
        "The best single step is not yet the rate to train a whole run with, which is often several times lower:"
        " try both."
    )

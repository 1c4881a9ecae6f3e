"""The verdict: what the numbers say, in a few plain sentences."""

from typing import TYPE_CHECKING

import numpy as np

from autolr._text import format_rate
from autolr.errors import DivergedError, NoCandidateError

if TYPE_CHECKING:
    from autolr.result import TuningResult
    from autolr.suggestion import Suggestion


def verdict(suggestion: "Suggestion") -> str:
    """Return the decision in words: the pick, its uncertainty, the edge, what it was measured on, what to do next.

    "I cannot tell" is a verdict too, with its remedy: see ``doubt`` of :class:`Suggestion`.
    """
    decision = _decision(suggestion) if suggestion.doubt is None else _doubt(suggestion)
    lines = [decision, _uncertainty(suggestion), _edge(suggestion), _evidence(suggestion.evidence)]
    if suggestion.doubt is None and suggestion.horizon == 1:
        lines.append(
            "The best single step is not yet the rate to train a whole run with: over many steps a smaller one is often"
            " better. Try both."
        )
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
    record = suggestion.evidence.differentials
    column = record.delta[:, int(np.searchsorted(record.learning_rates, suggestion.learning_rate))]
    steps = "one step changes" if suggestion.horizon == 1 else f"{suggestion.horizon} steps change"
    statistic, change = ("median", np.median(column)) if suggestion.method == "median" else ("mean", column.mean())
    return (
        f"Learning rate {format_rate(suggestion.learning_rate)} (method {suggestion.method}): {steps} the loss by"
        f" {change:.3g} in the {statistic}, from {record.loss_pre.mean():.3g}."
    )


def _doubt(suggestion: "Suggestion") -> str:
    """Return why the rate cannot be told, and what helps."""
    rate, best = format_rate(suggestion.learning_rate), suggestion.best_set
    if suggestion.doubt == "resolution":
        reason = (
            "at no rate does the loss change by more than its own resolution. Use larger rates or double precision, and"
            " check that there is something to learn."
        )
    elif suggestion.doubt == "flat":
        reason = (
            f"at no rate does a step lower the loss with {suggestion.confidence_level:.0%} confidence. Use more"
            " subsamples or larger batches, and check that there is something to learn."
        )
    elif suggestion.doubt == "wide":
        reason = (
            f"{len(best)} rates from {format_rate(best[0])} to {format_rate(best[-1])} cannot be told from the best,"
            f" {rate}. More subsamples or larger batches may narrow them down."
        )
    elif suggestion.method == "variance":
        reason = (
            f"the pick, {rate} (method variance), is an end of the grid: the smaller the rate, the less the change of"
            " loss varies. Use another method."
        )
    else:
        low, high = suggestion.evidence.differentials.learning_rates[[0, -1]]
        largest = suggestion.at_grid_edge == "high"
        wider = (low, 1e3 * high) if largest else (low / 1e3, high)
        reason = (
            f"the pick, {rate} (method {suggestion.method}), is the {'largest' if largest else 'smallest'} rate of the"
            f" grid. Widen it: learning_rates=autolr.log_grid({', '.join(map(format_rate, wider))}, 64)."
        )
    return f"I cannot tell: {reason}"


def _uncertainty(suggestion: "Suggestion") -> str:
    best, level = suggestion.best_set, f"{suggestion.confidence_level:.0%}"
    rates = suggestion.evidence.differentials.learning_rates
    if rates.size == 1:
        return "There is no other rate to compare it with."
    several = f"from {format_rate(best[0])} to {format_rate(best[-1])}" if len(best) > 1 else ""
    if suggestion.doubt in ("resolution", "flat"):
        return f"No rate {several} stands out at {level}." if several else ""
    between = int(((rates >= best[0]) & (rates <= best[-1])).sum()) if best else 0
    if not several:
        as_good = "no other rate is as good"
    elif between == len(best):
        as_good = f"anything {several} is as good"
    else:
        as_good = f"{len(best)} of the {between} rates {several} are as good"
    ends = f"{format_rate(suggestion.low)} and {format_rate(suggestion.high)}"
    if suggestion.doubt == "edge":
        return f"On this grid, {as_good} ({level})."
    # NOTE: the interval is that of a curve between the rates, the set is one of rates: they need not overlap
    return f"On a finer grid the best rate would lie between {ends}; on this one, {as_good} ({level})."


def _edge(suggestion: "Suggestion") -> str:
    """Return from where on, above the best rate, the loss rises or probes diverge."""
    record = suggestion.evidence.differentials
    rates, diverged = record.learning_rates, np.asarray(np.isinf(record.delta).any(axis=0))
    if suggestion.max_stable_lr is None:
        return "Even at the best rate the loss rises on average."
    first = int(np.searchsorted(rates, suggestion.max_stable_lr, side="right"))
    if first == rates.size:
        sentence = f"Above it, the loss rises at no rate of the grid, up to {format_rate(rates[-1])}"
    elif diverged[first]:
        sentence = f"Probes diverge from {format_rate(rates[first])} on"
    else:
        sentence = f"The loss rises from {format_rate(rates[first])} on"
        if diverged[first:].any():
            sentence += f", probes diverge from {format_rate(rates[first:][diverged[first:]][0])} on"
    below = rates[:first][diverged[:first]]
    also = f"; some diverged at {format_rate(below[0])} too" if below.size else ""
    return f"{sentence}{also}."


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

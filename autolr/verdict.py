"""The verdict: what the numbers say, in at most five short lines and the caveats."""

import math
from typing import TYPE_CHECKING

import numpy as np

from autolr._text import WHOLE_RUN, cost_of, format_ends, format_rate, verdict_of_lines
from autolr._typing import BoolArray, FloatArray
from autolr.caveats import LIKE_SMALL_RATES, draws_much
from autolr.errors import DivergedError, NoCandidateError
from autolr.levels import level_of
from autolr.statistics.bands import simultaneous_band
from autolr.statistics.flags import clear_rises, smallest_mean, without_explosions

if TYPE_CHECKING:
    from autolr.result import TuningResult
    from autolr.suggestion import Suggestion

_NOTHING_FALLS = ("resolution", "flat", "noise")  # doubts


def verdict(suggestion: "Suggestion") -> str:
    """Return the decision in words, in this order, a line each, as far as there is something to say.

    Which rate, or "I cannot tell" and why (``doubt`` of :class:`Suggestion`); how sure that is; from where on rates are
    too large; what it was measured on, and what that cost; what to do next. Then the caveats.
    """
    answer, remedy = _decision(suggestion) if suggestion.doubt is None else _doubt(suggestion)
    lines = [answer, _certainty(suggestion), _edge(suggestion), _evidence(suggestion.evidence), remedy]
    return verdict_of_lines(lines, suggestion.caveats)


def no_decision(error: NoCandidateError, result: "TuningResult") -> str:
    """Return the words for a result from which no rate can be picked."""
    if isinstance(error, DivergedError):
        smallest = result.differentials.learning_rates[0]
        answer = f"I cannot tell: every rate of the grid diverged, also the smallest, {format_rate(smallest)}."
        smaller = _grid(smallest / 1e3, smallest)
        remedy = f"Next: check the loss and the scale of the data, then try {smaller}."
    else:
        answer = "I cannot tell: no rate was probed in every subsample."
        remedy = "Next: probe the same rates in each subsample."
    return verdict_of_lines([answer, _evidence(result), remedy])


def _decision(suggestion: "Suggestion") -> tuple[str, str]:
    """Return the pick, with what it does to the loss, and what to do next."""
    record = suggestion.evidence.differentials
    # the score of the median is the median itself
    by_median = suggestion.method == "median"
    change = suggestion.score if by_median else float(record.at(suggestion.learning_rate).mean())
    way = "lower" if change < 0.0 else "raise"
    steps = f"one step {way}s" if suggestion.horizon == 1 else f"{suggestion.horizon} steps {way}"
    by, before = format_rate(abs(change), digits=3), format_rate(float(record.loss_pre.mean()), digits=3)
    average = "in the median" if by_median else "on average"
    answer = f"Learning rate {_pick(suggestion)}: {steps} the loss by {by} {average}, from {before}."
    if suggestion.horizon == 1:
        return answer, WHOLE_RUN.format("one step")
    return answer, "Next: train with it, or search for the rate of a longer run with autolr.find_lr."


def _pick(suggestion: "Suggestion") -> str:
    """Return the pick, and the method where it is not the usual one."""
    method = "" if suggestion.method == "mean" else f" (method {suggestion.method})"
    return f"{format_rate(suggestion.learning_rate)}{method}"


def _doubt(suggestion: "Suggestion") -> tuple[str, str]:
    """Return why the rate cannot be told, and what helps."""
    best = suggestion.best_set
    level = f"{100.0 * suggestion.confidence_level:g}%"
    steps = "does a step" if suggestion.horizon == 1 else f"do {suggestion.horizon} steps"
    if suggestion.doubt == "resolution":
        why = "at no rate does the loss change by more than its rounding error."
        remedy = "use larger rates or double precision, and check that there is something left to learn."
    elif suggestion.doubt == "flat":
        why = f"at no rate {steps} lower the loss with {level} confidence."
        remedy = "check that there is something left to learn; if so, use more subsamples or larger batches."
    elif suggestion.doubt == "noise":
        why = f"the noise is too high; at no rate {steps} lower the loss with {level} confidence."
        remedy = "use more subsamples or larger batches; four times as many halve the noise."
    elif suggestion.doubt == "wide":
        low, high = format_ends(best[0], best[-1])
        why = f"any of {len(best)} rates from {low} to {high} may be the best ({level})."
        remedy = "use more subsamples or larger batches; if that does not help, search with autolr.find_lr."
    else:
        why, remedy = _doubt_at_edge(suggestion)
    if suggestion.at_grid_edge == "high" and suggestion.doubt in ("flat", "noise"):
        remedy = _doubt_at_edge(suggestion)[1]
    return f"I cannot tell: {why}", f"Next: {remedy}"


def _doubt_at_edge(suggestion: "Suggestion") -> tuple[str, str]:
    """Return what it means that the pick is an end of the grid, and what helps."""
    rates = suggestion.evidence.differentials.learning_rates
    if suggestion.at_grid_edge == "high":
        why = f"the pick, {_pick(suggestion)}, is the largest rate of the grid; a larger one may be better."
        remedy = f"widen the grid, {_grid(rates[0], 1e3 * rates[-1])}."
    elif suggestion.score > 0.0 and suggestion.method in ("mean", "median"):
        why = f"the loss rises at all rates of the grid, least at the smallest, {_pick(suggestion)}."
        remedy = f"use smaller rates, {_grid(rates[0] / 1e3, rates[-1])}."
    elif suggestion.method in LIKE_SMALL_RATES:
        smallest = format_rate(rates[0])
        why = f"the method {suggestion.method} picks the smallest rate, {smallest}, as its steps vary the least."
        remedy = "use another method, such as method='ucb'."
    else:
        why = f"the pick, {_pick(suggestion)}, is the smallest rate of the grid; a smaller one may be better."
        remedy = f"widen the grid, {_grid(rates[0] / 1e3, rates[-1])}."
    return why, remedy


def _grid(low: float, high: float) -> str:
    """Return the argument for another grid, eight rates a decade."""
    num = math.ceil(8.0 * math.log10(high / low)) + 1
    return f"learning_rates=autolr.log_grid({format_rate(low)}, {format_rate(high)}, {num})"


def _certainty(suggestion: "Suggestion") -> str:
    """Return which rates are as good, and where the best one lies between those of the grid."""
    best, level = suggestion.best_set, f"{100.0 * suggestion.confidence_level:g}%"
    rates = suggestion.evidence.differentials.learning_rates
    if rates.size == 1:
        return "There is no other rate to compare it with."
    if suggestion.doubt in ("flat", "noise"):
        return _hidden_fall(suggestion, level)
    if not best or suggestion.doubt in ("resolution", "wide"):
        return ""
    low, high = format_ends(best[0], best[-1])
    between = int(((rates >= best[0]) & (rates <= best[-1])).sum())
    if suggestion.learning_rate not in best:
        one_of = low if len(best) == 1 else f"one of {len(best)} from {low} to {high}"
        return f"By the mean, the best rate is {one_of} ({level})."
    if len(best) == 1:
        as_good = "no other rate of the grid is as good"
    elif between == len(best):
        as_good = f"rates from {low} to {high} are as good"
    else:
        as_good = f"{len(best)} of the {between} rates from {low} to {high} are as good"
    as_good = f"{as_good[0].upper()}{as_good[1:]}" if suggestion.method == "mean" else f"By the mean, {as_good}"
    if suggestion.doubt == "edge":
        return f"{as_good} ({level})." if len(best) > 1 else ""
    # NOTE: the interval is that of a curve between the rates, the set is one of rates: they need not overlap
    low, high = format_ends(suggestion.low, suggestion.high)
    return f"{as_good}; on a finer grid the best is between {low} and {high} ({level})."


def _hidden_fall(suggestion: "Suggestion", level: str) -> str:
    """Return by how much the loss may fall at the smallest mean without having been seen to."""
    rates, delta, low = _lower_band(suggestion)
    best = smallest_mean(delta)
    fall, before = -float(low[best]), float(suggestion.evidence.differentials.loss_pre.mean())
    if not 0.0 < fall < np.inf:
        return ""
    what = "to 0" if fall >= before > 0.0 else f"by up to {format_rate(fall)}"
    before_step = format_rate(before, digits=3)
    return f"At {format_rate(rates[best])}, the best by the mean, it may fall {what}, from {before_step} ({level})."


def _edge(suggestion: "Suggestion") -> str:
    """Return where, from the best rate upwards, the loss first rises or probes diverge."""
    record = suggestion.evidence.differentials
    rates, diverged = record.learning_rates, np.isinf(record.delta).sum(axis=0)
    if suggestion.max_stable_lr is None or suggestion.doubt in _NOTHING_FALLS:
        return _edge_of_no_fall(suggestion) if suggestion.doubt != "edge" else ""
    first = int(np.searchsorted(rates, suggestion.max_stable_lr, side="right"))
    if first == rates.size:
        top = suggestion.learning_rate == rates[-1]
        return "" if top else f"No larger rate of the grid, up to {format_rate(rates[-1])}, raises the loss."
    rises = ~(_own_means(record.delta) < 0.0)  # also where probes diverged, or none was made
    sentences = []
    if not diverged[first]:
        sentences.append(f"the loss {_from(rates, rises, first, 'rises', 'first rises')}")
    later = np.flatnonzero(diverged[first:])
    if later.size:
        at = first + int(later[0])
        some = f"{diverged[at]} of {(~np.isnan(record.delta[:, at])).sum()} probes diverged"
        sentences.append(_from(rates, diverged > 0, at, "probes diverge", some))
    if diverged[:first].any():
        sentences.append(f"some diverged at {format_rate(rates[int(np.flatnonzero(diverged)[0])])} too")
    text = ", ".join(sentences)
    return f"{text[0].upper()}{text[1:]}."


def _own_means(delta: FloatArray) -> FloatArray:
    """Return the mean of each column over the rows in which it was probed, NaN where in none, shape (K,)."""
    probed = ~np.isnan(delta)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(probed, delta, 0.0).sum(axis=0) / probed.sum(axis=0))


def _from(rates: FloatArray, holds: BoolArray, first: int, always: str, once: str) -> str:
    """Say of what holds at a rate whether it does from there on."""
    rate = format_rate(rates[first])
    return f"{always} from {rate} on" if holds[first:].all() else f"{once} at {rate}"


def _lower_band(suggestion: "Suggestion") -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the rates that were probed in every row, shape (J,), their differentials (M, J), and their lower band."""
    record = suggestion.evidence.differentials
    probed = ~np.isnan(record.delta).any(axis=0)
    level = level_of(suggestion.evidence.settings, suggestion.confidence_level)
    low, _ = simultaneous_band(
        without_explosions(record.delta[:, probed]),
        confidence_level=level.corrected,
        num_resamples=level.resamples(2000),
        rng=0,
    )
    return record.learning_rates[probed], record.delta[:, probed], low


def _edge_of_no_fall(suggestion: "Suggestion") -> str:
    """Return from where on the loss clearly rises, of means none of which clearly falls."""
    rates, delta, low = _lower_band(suggestion)
    rises, diverged = clear_rises(delta, low), np.isinf(delta).any(axis=0)
    if not rises.any() or diverged.all():
        return ""
    what = " or probes diverge" if diverged.any() else ""
    return f"The loss {_from(rates, rises, int(rises.argmax()), f'rises{what}', f'first rises{what}')}."


def _evidence(result: "TuningResult") -> str:
    """Return what was measured, on what, and what it cost."""
    settings, num_rows = result.settings, result.differentials.num_subsamples
    most = f" of at most {settings['num_subsamples']}" if settings.get("adaptive") and "looks" in settings else ""
    disjoint = "disjoint " if settings.get("sampling") == "partition" else ""
    text = f"Measured on {num_rows}{most} {disjoint}subsamples{_content(result)}"
    text += ", losses on your own data" if settings.get("evaluation") == "own data" else ""
    text += ", for new data too" if disjoint and settings.get("evaluation_passes", 1) == 1 else ""
    # of a race, only the first look goes by interpolated values
    text += ", interpolated" if result.differentials.interpolated.any() and not most else ""
    return f"{text}: {cost_of(settings)}." if {"seconds", "num_evaluations"} <= settings.keys() else f"{text}."


def _content(result: "TuningResult") -> str:
    """Return what a subsample is: its steps times the batches of a step times the observations of a batch."""
    settings = result.settings
    numbers = [int(result.differentials.horizons[-1]), settings.get("accumulation_steps", 1)]
    factors = [str(number) for number in numbers if number > 1]
    size = settings.get("batch_size")
    if not size:
        return f" of {' x '.join(factors)} batches" if factors else ""
    what = f"from these {settings['num_observations']} observations only" if draws_much(result) else "observations"
    return f" of {' x '.join([*factors, str(size)])} {what}"

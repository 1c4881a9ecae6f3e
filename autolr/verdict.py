"""The verdict: what the numbers say, in a few plain sentences."""

import math
from typing import TYPE_CHECKING

import numpy as np

from autolr._text import format_rate
from autolr._typing import BoolArray, FloatArray
from autolr.errors import DivergedError, NoCandidateError
from autolr.levels import level_of
from autolr.statistics.bands import simultaneous_band
from autolr.statistics.flags import without_explosions

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
            "The best single step is not yet the rate to train a whole run with: autolr.find_lr searches for that one."
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
    column = record.at(suggestion.learning_rate)
    steps = "one step changes" if suggestion.horizon == 1 else f"{suggestion.horizon} steps change"
    # the score of the median is the median itself
    statistic, change = ("median", suggestion.score) if suggestion.method == "median" else ("mean", column.mean())
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
        steps = "does a step" if suggestion.horizon == 1 else f"do {suggestion.horizon} steps"
        reason = (
            f"at no rate {steps} lower the loss with {100.0 * suggestion.confidence_level:g}% confidence. Use more"
            " subsamples or larger batches, and check that there is something to learn."
        )
    elif suggestion.doubt == "wide":
        reason = (
            f"{len(best)} rates from {format_rate(best[0])} to {format_rate(best[-1])} cannot be told from the best,"
            f" {rate}. More subsamples or larger batches may narrow them down."
        )
    elif suggestion.score > 0.0 and suggestion.method in ("mean", "median"):
        low, high = suggestion.evidence.differentials.learning_rates[[0, -1]]
        reason = f"the loss rises from the smallest rate of the grid on. Use smaller ones: {_grid(low / 1e3, high)}."
    elif suggestion.method == "variance":
        reason = (
            f"the pick, {rate} (method variance), is an end of the grid: the smaller the rate, the less the change of"
            " loss varies. Use another method."
        )
    else:
        low, high = suggestion.evidence.differentials.learning_rates[[0, -1]]
        largest = suggestion.at_grid_edge == "high"
        wider = _grid(low, 1e3 * high) if largest else _grid(low / 1e3, high)
        reason = (
            f"the pick, {rate} (method {suggestion.method}), is the {'largest' if largest else 'smallest'} rate of the"
            f" grid. Widen it: {wider}."
        )
    return f"I cannot tell: {reason}"


def _grid(low: float, high: float) -> str:
    """Return the argument for another grid, eight rates a decade."""
    num = math.ceil(8.0 * math.log10(high / low)) + 1
    return f"learning_rates=autolr.log_grid({format_rate(low)}, {format_rate(high)}, {num})"


def _uncertainty(suggestion: "Suggestion") -> str:
    best, level = suggestion.best_set, f"{100.0 * suggestion.confidence_level:g}%"
    rates = suggestion.evidence.differentials.learning_rates
    if rates.size == 1:
        return "There is no other rate to compare it with."
    if not best:
        return ""
    several = f"from {format_rate(best[0])} to {format_rate(best[-1])}" if len(best) > 1 else ""
    if suggestion.doubt in ("resolution", "flat"):
        return f"No rate {several} stands out at {level}." if several else ""
    between = int(((rates >= best[0]) & (rates <= best[-1])).sum())
    if not several:
        as_good = "no other rate is as good"
    elif between == len(best):
        as_good = f"anything {several} is as good"
    else:
        as_good = f"{len(best)} of the {between} rates {several} are as good"
    ends = f"{format_rate(suggestion.low)} and {format_rate(suggestion.high)}"
    if suggestion.learning_rate not in best:
        regret = suggestion.regret_bound
        loss = f"; it may lose up to {regret:.2g} to it" if np.isfinite(regret) else ""
        return f"The best mean is {several or f'at {format_rate(best[0])}'}, which this pick has not{loss} ({level})."
    if suggestion.doubt == "edge":
        return f"On this grid, {as_good} ({level})."
    # NOTE: the interval is that of a curve between the rates, the set is one of rates: they need not overlap
    by_mean = "" if suggestion.method == "mean" else " by the mean"
    return f"On a finer grid the best rate{by_mean} would lie between {ends}; on this one, {as_good} ({level})."


def _edge(suggestion: "Suggestion") -> str:
    """Return where, from the best rate upwards, the loss first rises or probes diverge."""
    record = suggestion.evidence.differentials
    rates, diverged = record.learning_rates, np.isinf(record.delta).sum(axis=0)
    if suggestion.max_stable_lr is None or suggestion.doubt in ("flat", "resolution"):
        return _edge_of_no_fall(suggestion)
    first = int(np.searchsorted(rates, suggestion.max_stable_lr, side="right"))
    if first == rates.size:
        top = suggestion.learning_rate == rates[-1]
        return "" if top else f"The loss rises at no larger rate of the grid, up to {format_rate(rates[-1])}."
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


def _edge_of_no_fall(suggestion: "Suggestion") -> str:
    """Return from where on the loss clearly rises, of means none of which clearly falls."""
    record = suggestion.evidence.differentials
    probed = ~np.isnan(record.delta).any(axis=0)
    rates, delta = record.learning_rates[probed], record.delta[:, probed]
    level = level_of(suggestion.evidence.settings, suggestion.confidence_level)
    low, _ = simultaneous_band(
        without_explosions(delta), confidence_level=level.corrected, num_resamples=level.resamples(2000), rng=0
    )
    rises = (low > 0.0) | np.isinf(delta).any(axis=0)
    start = int(np.where(np.isinf(delta).any(axis=0), np.inf, delta.mean(axis=0)).argmin())
    above = np.flatnonzero(rises[start:])
    if not above.size or np.isinf(delta).any(axis=0).all():
        return ""
    if above[0] == 0:
        return "Even at the best rate the loss rises on average."
    where = _from(rates, rises, start + int(above[0]), "rises or probes diverge", "first rises or probes diverge")
    return f"The loss {where}."


def _evidence(result: "TuningResult") -> str:
    settings, num_rows = result.settings, result.differentials.num_subsamples
    size, sampling = settings.get("batch_size"), settings.get("sampling")
    adaptive = bool(settings.get("adaptive")) and "looks" in settings
    most = f" of at most {settings['num_subsamples']}" if adaptive else ""
    text = f"Measured on {num_rows}{most} {'disjoint ' if sampling == 'partition' else ''}subsamples"
    parts = settings.get("accumulation_steps", 1)
    text += f" of {parts} batches" if parts > 1 else ""
    text += f" of {size} observations" if size else ""
    text += " for each step" if size and result.differentials.horizons[-1] > 1 else ""
    where = {"independent": ", with losses on others", "own data": ", with losses on data of your own"}
    text += where.get(settings.get("evaluation", ""), "")
    text += ", for the population too" if sampling == "partition" and settings.get("evaluation_passes", 1) == 1 else ""
    interpolated = result.differentials.interpolated
    text += _interpolation(interpolated) if interpolated.any() and not adaptive else ""
    if {"seconds", "num_evaluations"} <= settings.keys():
        text += f": {settings['num_evaluations']:.0f} gradient evaluations in {settings['seconds']:.1f} s"
    if adaptive:
        share, looks = 100.0 * settings["num_probes"] / settings["num_probes_fixed"], len(settings["looks"])
        text += f", {share:.0f}%" if share >= 1.0 else ", less than 1%"
        text += f" of all probes, in {looks} look{'s' if looks != 1 else ''}"
        text += ", the first one by interpolated values" if interpolated.any() else ""
    return f"{text}."


def _interpolation(interpolated: BoolArray) -> str:
    """Return at how many rates the rows were probed that were not probed at all of them."""
    num_probed = (~interpolated).all(axis=2).sum(axis=1)
    sparse = num_probed[num_probed < interpolated.shape[1]]
    most = "most" if 2 * sparse.size > num_probed.size else "some"
    nodes = f"{sparse.min()}" if sparse.min() == sparse.max() else f"{sparse.min()} to {sparse.max()}"
    return f", {most} at {nodes} of {interpolated.shape[1]} rates and interpolated between them"

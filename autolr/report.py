"""The report of a result as one HTML file: its verdict, pictures and tables, how to read them, what was put back."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from autolr._files import check_path, write_file
from autolr._html import (
    Column,
    Markup,
    element,
    is_doubt,
    number_text,
    page,
    picture,
    sortable_table,
    verdict_html,
    words_table,
)
from autolr._text import format_rate, format_rates
from autolr._typing import Method, Settings
from autolr._version import __version__
from autolr.errors import NoCandidateError
from autolr.levels import level_of
from autolr.suggestion import Suggestion, decide
from autolr.verdict import no_decision

if TYPE_CHECKING:
    from autolr.result import TuningResult
    from autolr.search_result import SearchResult

_RESTORED = (
    "When it ended, the model's parameters, buffers, gradients and modes, the optimizer's state, attached schedulers,"
    " random generators of the data and the loss, and the global random states were put back, bit for bit. What it"
    " cannot see, and has not put back, are lists, counters and tensors that a function or a hook keeps outside of any"
    " module. Tuning sets no rate by itself: apply(optimizer) does."
)
_LOGGED = "It was made of losses that were measured elsewhere: of how, and of what that changed, nothing is known here."
_SINGLE: dict[str, Any] = {"prefix": "all-", "inches": (4.4, 3.2)}
_JUDGED = {"held-out": "held-out loss", "online": "mean loss of the last steps", "scan": "mean loss in the scan"}


def write_tuning_report(path: str | os.PathLike[str], result: "TuningResult", method: Method) -> None:
    """Write the report of a tuning; see :meth:`TuningResult.to_html`."""
    target = check_path(path, ".html", ".htm")
    write_file(target, tuning_report(result, method))


def tuning_report(result: "TuningResult", method: Method) -> bytes:
    """Return the report of a tuning, a page in UTF-8."""
    suggestion: Suggestion | None = None
    try:
        suggestion = decide(result, method)
        words = str(suggestion)
    except NoCandidateError as error:
        words = no_decision(error, result)
    drawn = _pictures_of_tuning(result, suggestion, method)
    table = _table_of_rates(result, suggestion)
    parts = [("Pictures", drawn), ("Rates", table), ("How to read it", _reading_of_tuning(result))]
    return _report(words, suggestion, parts, result.settings, logged=_is_logged(result))


def write_search_report(path: str | os.PathLike[str], result: "SearchResult") -> None:
    """Write the report of a search; see :meth:`SearchResult.to_html`."""
    target = check_path(path, ".html", ".htm")
    write_file(target, search_report(result))


def search_report(result: "SearchResult") -> bytes:
    """Return the report of a search, a page in UTF-8."""
    drawn = [_picture_of_search(result)]
    tables = [*_table_of_courses(result.trace), *_table_of_finalists(result.decision)]
    parts = [("Picture", drawn), ("What was tried", tables), ("How to read it", _reading_of_search(result))]
    return _report(str(result), result.suggestion, parts, result.settings, logged=False)


def _is_logged(result: "TuningResult") -> bool:
    """Return whether the losses are not those of a tuning."""
    return "engine" not in result.settings


def _report(
    words: str,
    suggestion: Suggestion | None,
    parts: Sequence[tuple[str, Sequence[Markup]]],
    settings: Settings,
    *,
    logged: bool,
) -> bytes:
    doubt = is_doubt(words)
    rate = None if suggestion is None else format_rate(suggestion.learning_rate)
    title = "I cannot tell" if doubt or rate is None else f"Learning rate {rate}"
    about = _about(settings)
    # notes: what the command line says of a table or a network that it made itself
    notes = settings.get("notes")
    lines = [about, *(map(str, notes) if isinstance(notes, list) else ())]
    header = element("header", element("h1", title), *(element("p", line, class_="about") for line in lines if line))
    verdict = element("div", verdict_html(words, rate), class_="verdict doubt" if doubt else "verdict")
    costs = words_table(_costs(settings))
    restored = [element("p", _LOGGED if logged else _RESTORED), *([] if logged else [costs])]
    sections = [("Verdict", [verdict]), *parts, ("What was put back, and what it cost", restored)]
    shown = [element("section", element("h2", heading), *content) for heading, content in sections]
    folded = [element("details", element("summary", "Settings and versions"), words_table(_flat(settings)))]
    made = f"Made by autolr {__version__}. This page is one file, and loads nothing from a network."
    main = element("main", *shown, *(folded if settings else []))
    return page(f"{title} \N{EN DASH} autolr", header, main, element("footer", made)).encode("utf-8")


def _about(settings: Settings) -> str:
    """Return what was tuned, as far as it is known."""
    size = settings.get("num_parameters")
    model = f"{settings['model']} with {size:,} parameters" if "model" in settings and isinstance(size, int) else ""
    run = f"{settings['total_steps']} steps" if "total_steps" in settings else ""
    known = [model, str(settings.get("optimizer", "")), run]
    return ", ".join(part for part in known if part)


def _costs(settings: Settings) -> Iterator[tuple[str, str]]:
    """Return the costs and how they came about, as far as they are known."""
    names = {
        "num_subsamples": "subsamples",
        "batch_size": "observations in a batch",
        "num_observations": "observations in the data",
        "engine": "engine",
        "engine_reason": "why this engine",
        "num_rates": "rates trained at",
        "num_gradients": "gradients",
        "num_forwards": "losses without a gradient",
        "num_evaluations": "gradient evaluations in all (3 losses count as one)",
        "seconds": "seconds",
    }
    for name, words in names.items():
        value = settings.get(name)
        if value is not None:
            yield words, number_text(value) if isinstance(value, float) else _text_of(value)


def _flat(settings: Settings, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _text_of(value)


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _span(rates: Sequence[float]) -> str:
    ends = format_rate(rates[0]), format_rate(rates[-1])
    return f"{len(rates)} rates from {ends[0]} to {ends[1]}" if len(rates) > 1 else f"the rate {ends[0]}"


def _pictures_of_tuning(result: "TuningResult", suggestion: Suggestion | None, method: Method) -> list[Markup]:
    """Return the picture of all rates and, of a wide grid, another one of those about the pick."""
    record, level = result.differentials, f"{100.0 * level_of(result.settings).nominal:g}%"
    rates = record.learning_rates
    shown = f"The change of the loss (dL) at {_span(rates.tolist())}, with {level} intervals."
    if suggestion is None:
        seen = f"{shown} No rate can be picked."
        return [picture(lambda figure: result.plot(figure.subplots(), method=method), shown, seen, **_SINGLE)]
    pick, best = suggestion.learning_rate, suggestion.best_set
    seen = f"{shown} The pick is {format_rate(pick)}, where its mean is {number_text(float(record.at(pick).mean()))}."
    seen += f" As good are rates from {format_rate(best[0])} to {format_rate(best[-1])}." if len(best) > 1 else ""
    drawn = [picture(lambda figure: result.plot_of(suggestion, figure.subplots()), shown, seen, **_SINGLE)]
    near = min(pick, suggestion.low) / 10.0, max(pick, suggestion.high) * 10.0
    if rates[0] < near[0] / 10.0 or rates[-1] > near[1] * 10.0:
        zoom = f"The same from {format_rate(near[0])} to {format_rate(near[1])}."
        options: dict[str, Any] = {**_SINGLE, "prefix": "near-"}
        drawn.append(
            picture(lambda figure: result.plot_of(suggestion, figure.subplots(), xlim=near), zoom, zoom, **options)
        )
    return drawn


def _table_of_rates(result: "TuningResult", suggestion: Suggestion | None) -> list[Markup]:
    table, level = result.summary(), level_of(result.settings)
    rates = table.index.tolist()
    best = set() if suggestion is None else {*suggestion.best_set}
    pick = None if suggestion is None else suggestion.learning_rate
    marks = ["pick" if rate == pick else "as good" if rate in best else "" for rate in rates]
    names = {
        "mean": "mean dL",
        "low": "from",
        "high": "to",
        "band_low": "band from",
        "band_high": "band to",
        "median": "median",
        "std": "standard deviation",
        "num_diverged": "diverged",
        "num_subsamples": "subsamples",
    }
    columns = [Column(header, table[name].astype(float).tolist()) for name, header in names.items()]
    share = table["prob_improve"].astype(float).tolist()
    improves = Column("loss falls in", share, ["\N{EN DASH}" if math.isnan(s) else f"{100.0 * s:.0f}%" for s in share])
    columns.insert(-2, improves)
    caption = f"The change of the loss at each rate, with {100.0 * level.nominal:g}% intervals"
    return [sortable_table(caption, [Column("learning rate", rates, format_rates(rates, digits=3)), *columns], marks)]


def _reading_of_tuning(result: "TuningResult") -> list[Markup]:
    horizon, level = int(result.differentials.horizons[-1]), f"{100.0 * level_of(result.settings).nominal:g}%"
    steps = "one step" if horizon == 1 else f"{horizon} steps"
    return [
        element(
            "p",
            f"dL is the loss after {steps} at a rate minus the loss before: negative is good. All rates of a"
            f" subsample {'should have seen' if _is_logged(result) else 'saw'} the same observations; the numbers of a"
            " rate are over the subsamples.",
        ),
        element(
            "p",
            f"An interval (from, to) says how sure a mean is: of many tunings with other random subsamples, about"
            f" {level} would have the true mean of that rate in it. The band holds for all rates at once. Rates that"
            " are as good are those that these subsamples cannot tell from the best one.",
        ),
        element(
            "p",
            f"All of this is about {steps} from these weights, with this optimizer, batch size and data. It does not"
            " tell which rate is best over a whole training run: autolr.find_lr searches for that one.",
        ),
    ]


def _picture_of_search(result: "SearchResult") -> Markup:
    rates = sorted({*result.trace.loc[result.trace["stage"] != "untrained", "learning_rate"].tolist()})
    suggestion = result.suggestion
    shown = f"Above, the losses before each step at {_span(rates)}; below, how the rate for the run came about."
    pick, low, high = map(format_rate, (suggestion.learning_rate, suggestion.low, suggestion.high))
    seen = f"{shown} It is {pick}, with an interval from {low} to {high}."
    options: dict[str, Any] = {"prefix": "all-", "inches": (4.4, 5.8)}
    return picture(lambda figure: result.plot(tuple(figure.subplots(2))), shown, seen, **options)


def _table_of_courses(trace: pd.DataFrame) -> list[Markup]:
    """Return the table of what was trained: a row for each rate of each stream."""
    trained = trace[~trace["stage"].isin(["untrained", "held-out"])]
    held_out = trace[trace["stage"] == "held-out"].set_index(["learning_rate", "stream"])["loss"].to_dict()
    grouped = trained.groupby(["learning_rate", "stream"])
    courses = pd.DataFrame({"size": grouped.size(), "last": grouped["loss"].last(), "stage": grouped["stage"].last()})
    rates, streams = (courses.index.get_level_values(name).tolist() for name in ("learning_rate", "stream"))
    further = courses["stage"] != "scan"
    # one that was not given up has as many steps as the longest that went as far; a budget may cut a stream's finals
    finals = courses["size"].groupby([courses.index.get_level_values("stream"), further]).transform("max")
    whole = finals.where(further, courses["size"][~further].max())
    given_up = (courses["size"] < whole) | ~np.isfinite(courses["last"])
    ends = (2 * further.astype(int) + (~given_up).astype(int)).tolist()
    words = ("given up in the scan", "scan", "given up in the final", "final")
    columns = [
        Column("learning rate", rates, format_rates(rates, digits=3)),
        Column("stream", streams),
        Column("steps", courses["size"].tolist(), courses["size"].astype(str).tolist()),
        Column("last loss", courses["last"].tolist()),
        Column("held-out loss", [held_out.get(key, math.nan) for key in zip(rates, streams, strict=True)]),
        Column("went on to", ends, [words[end] for end in ends]),
    ]
    shown = [column for column in columns if column.header != "stream" or len({*column.numbers}) > 1]
    return [sortable_table("Each rate that was tried", shown)]


def _table_of_finalists(decision: Settings) -> list[Markup]:
    finalists = sorted(decision["finalists"], key=lambda finalist: float(finalist["learning_rate"]))
    rates = [float(finalist["learning_rate"]) for finalist in finalists]
    losses = [math.inf if finalist["loss"] is None else float(finalist["loss"]) for finalist in finalists]
    columns = [
        Column("learning rate", rates, format_rates(rates, digits=3)),
        Column(_JUDGED[decision["judged_by"]], losses),
    ]
    of_each = " of each stream" if len(decision["vertices"]) > 1 else ""
    lowest = ", ".join(format_rate(vertex) for vertex in decision["vertices"])
    text = f"Judged by the finalists{of_each}, the loss is lowest at {lowest}, after {decision['last_step']} steps."
    return [sortable_table("The finalists", columns), element("p", text)]


def _reading_of_search(result: "SearchResult") -> list[Markup]:
    share = f"{100.0 * result.suggestion.confidence_level:.0f}%"
    return [
        element(
            "p",
            "Every rate trained for some steps, from the same weights and on the same batches; the best went on, and"
            " their losses were compared. The best rate of these short runs was then corrected for the length and the"
            " schedule of the whole run.",
        ),
        element(
            "p",
            f"The interval is a calibrated one: on the tasks of a benchmark, about {share} of such intervals held a"
            " rate within 5% of the best. These tasks are small; nothing is known of large models.",
        ),
        element(
            "p",
            "It does not say how good the whole run will be, and it is about these weights, this data, batch size,"
            " optimizer and schedule only: after a change of one of them, search again.",
        ),
    ]

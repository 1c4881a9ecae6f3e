"""What is said of a result, the same wherever it comes from: a tuning now, or a file."""

import argparse
import dataclasses
import re
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from autolr._text import format_rate, format_rates
from autolr._typing import BoolArray, Method
from autolr.cli._arguments import refuse
from autolr.errors import NoCandidateError
from autolr.report import search_report, tuning_report
from autolr.result import TuningResult
from autolr.search_result import SearchResult
from autolr.storage import SCHEMA, schema_of, search_to_json, to_json

if TYPE_CHECKING:
    from autolr.cli._output import Output
    from autolr.suggestion import Suggestion

_COLUMNS = ["mean", "low", "high", "prob_improve", "num_diverged"]
# what a verdict says in Python, and how it is said in a shell
_IN_A_SHELL = (
    (r"autolr\.find_lr", "`autolr find`"),
    (r"; suggestion\.apply\(optimizer\) sets it", ""),
    (r"learning_rates=autolr\.log_grid\((\S+), (\S+), (\d+)\)", r"--lr-min \1 --lr-max \2 --num-rates \3"),
    (r"method='(\w+)'", r"--method \1"),
)
NOTES = "notes"  # the setting that tells what the rates are about, where a command made the data or the network


def read_result(path: str, options: argparse.Namespace) -> TuningResult | SearchResult:
    """Read a result of either kind.

    Raises:
        ValueError: If it is none, or the options have a method, which a search has not.
        OSError: If it cannot be read.
    """
    if schema_of(path) == SCHEMA:
        return TuningResult.load(path)
    refuse(options, ("method",), "the result of a search")
    return SearchResult.load(path)


def noted(result: TuningResult | SearchResult, notes: tuple[str, ...]) -> TuningResult | SearchResult:
    """Return a result with sentences on what it is about."""
    return dataclasses.replace(result, settings={**result.settings, NOTES: list(notes)}) if notes else result


def suggestion_of(result: TuningResult | SearchResult, method: Method) -> "Suggestion":
    """Return the decision, without the warnings, as its words say the same.

    Raises:
        NoCandidateError: If no rate qualifies for the method.
    """
    if isinstance(result, SearchResult):
        return result.suggestion
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return result.suggest(method)


def in_a_shell(verdict: str) -> str:
    """Return a verdict with the commands and options that do what it tells to do next.

    Example:
        >>> in_a_shell("Next: widen the grid, learning_rates=autolr.log_grid(1e-5, 10, 49).")
        'Next: widen the grid, --lr-min 1e-5 --lr-max 10 --num-rates 49.'
    """
    for words, meant in _IN_A_SHELL:
        verdict = re.sub(words, meant, verdict)
    return verdict


def show(result: TuningResult | SearchResult, output: "Output", *, method: Method = "mean") -> int:
    """Write the result, print notes, table and verdict, and draw; return the exit status."""
    output.write("json", lambda: _json(result).encode())
    notes = "\n".join(map(str, result.settings.get(NOTES, ())))
    output.say(f"{notes}\n\n" if notes else "")
    output.print(f"{_table(result)}\n")
    status = 1
    try:
        suggestion = suggestion_of(result, method)
        output.say(in_a_shell(str(suggestion)), strong=format_rate(suggestion.learning_rate))
        status = 0 if suggestion.doubt is None else 1
    except NoCandidateError as error:
        output.say(f"I cannot tell: {error}")
    if isinstance(result, SearchResult):
        output.draw(lambda figure: result.plot(figure.subplots(1, 2)), (12.0, 4.5))
        output.write("html", lambda: search_report(result))
    else:
        output.draw(lambda figure: result.plot(figure.subplots(), method=method), (7.0, 4.5))
        output.write("html", lambda: tuning_report(result, method))
    output.name_files()
    return status


def _json(result: TuningResult | SearchResult) -> str:
    if isinstance(result, SearchResult):
        return search_to_json(result.trace, dict(result.decision), dict(result.settings))
    return to_json(result.differentials, dict(result.settings))


def _table(result: TuningResult | SearchResult) -> str:
    table = _courses(result) if isinstance(result, SearchResult) else _interesting_rows(result)
    return table.to_string(float_format="{:.3g}".format, na_rep="")


def _interesting_rows(result: TuningResult) -> pd.DataFrame:
    """Return the rows of the summary around the best set, and a few of the rest, in their order."""
    table = result.summary()
    keep = np.zeros(len(table), dtype=np.bool_)
    keep[:: max(1, len(table) // 8)] = True
    keep[-1] = True
    best = np.flatnonzero(table["in_best_set"])
    if best.size:
        keep[max(0, best[0] - 2) : best[-1] + 3] = True
    rows = table.loc[keep]
    return _by_rate(rows[_COLUMNS], rows["in_best_set"].to_numpy(), "best")


def _courses(result: SearchResult) -> pd.DataFrame:
    """Return, for each rate that was trained at, steps and last losses, over the streams."""
    trace, decision = result.trace, result.decision
    held_out, own = trace["stage"] == "held-out", ~trace["stage"].isin(["held-out", "untrained"])
    last = trace[own].groupby(["learning_rate", "stream"]).agg({"step": "count", "loss": "last"})
    table = last.groupby("learning_rate").agg(steps=("step", "max"), last_loss=("loss", "mean"))
    table["held_out_loss"] = trace[held_out].groupby("learning_rate")["loss"].mean()
    inside = (table.index >= decision["low"]) & (table.index <= decision["high"])
    return _by_rate(table, inside, "in the interval")


def _by_rate(table: pd.DataFrame, marked: BoolArray, what: str) -> pd.DataFrame:
    """Return a table of rates with these written as people do, some with a star."""
    texts = format_rates(table.index.to_list())
    rates = [f"{text}{' *' if mark else ''}" for text, mark in zip(texts, marked, strict=True)]
    return table.set_axis(rates).rename_axis(columns=f"rate (* {what})")

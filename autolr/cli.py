"""The command line: ``autolr demo``."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO, get_args

import numpy as np
import pandas as pd
import torch

from autolr._text import format_rate
from autolr._typing import Method
from autolr._version import __version__
from autolr.errors import NoCandidateError
from autolr.grids import log_grid
from autolr.result import TuningResult
from autolr.storage import save_json, to_json

_TABLE = ["mean", "low", "high", "prob_improve", "num_diverged"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words after ``autolr``; by default those of the process.

    Returns:
        The exit status: 0; 1 where no decision could be made; 2 for an error, which is one line on standard error.
    """
    options = _parser().parse_args(arguments)
    try:
        return _demo(options)
    except KeyboardInterrupt:
        print("autolr: interrupted", file=sys.stderr)
        return 130
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(f"autolr: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="autolr", description="Choose the learning rate of a PyTorch model, with error bars."
    )
    parser.add_argument("--version", action="version", version=f"autolr {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        parents=[_tuning_options()],
        help="tune a small network on the handwritten digits of scikit-learn; example: autolr demo --optimizer SGD",
        description="Tune a small network on the handwritten digits that scikit-learn bundles: no download.",
        epilog="example: autolr demo --optimizer SGD --num-subsamples 50 --plot digits.png",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.set_defaults(plot="autolr-demo.png")
    return parser


def _tuning_options() -> argparse.ArgumentParser:
    """Return the options that every command that tunes has."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--optimizer", default="AdamW", metavar="NAME", help="a class of torch.optim")
    options.add_argument("--batch-size", type=int, default=32, metavar="M", help="observations in a subsample")
    options.add_argument("--num-subsamples", type=int, default=100, metavar="M", help="random subsamples")
    options.add_argument("--lr-min", type=float, default=1e-6, metavar="LR", help="smallest rate of the grid")
    options.add_argument("--lr-max", type=float, default=10.0, metavar="LR", help="largest rate of the grid")
    options.add_argument("--num-rates", type=int, default=64, metavar="K", help="rates of the grid")
    options.add_argument("--method", choices=get_args(Method), default="mean", help="how the rate is picked")
    options.add_argument("--seed", type=int, default=0, metavar="N", help="of the subsamples and of the weights")
    options.add_argument("--plot", metavar="PATH", help="write the picture there, -: PNG on standard output")
    options.add_argument("--json", metavar="PATH", help="write the result there (.json), -: on standard output")
    return options


def _demo(options: argparse.Namespace) -> int:
    from autolr import demo

    torch.set_num_threads(1)  # a network as small as the demo's gains nothing by more, and waits for busy cores
    if options.plot not in (None, "-") and not Path(options.plot).parent.is_dir():
        raise ValueError(f"--plot must name a file in an existing folder, got {options.plot!r}.")
    if options.optimizer not in demo.OPTIMIZERS:
        raise ValueError(f"--optimizer must be one of {', '.join(demo.OPTIMIZERS)}, got {options.optimizer!r}.")
    result = demo.tune_digits(
        optimizer=options.optimizer,
        seed=options.seed,
        learning_rates=log_grid(options.lr_min, options.lr_max, options.num_rates),
        num_subsamples=options.num_subsamples,
        batch_size=options.batch_size,
    )
    # what is written to standard output is not mixed with words
    words = sys.stderr if "-" in (options.json, options.plot) else sys.stdout
    return _report(result, options, words)


def _report(result: TuningResult, options: argparse.Namespace, words: TextIO) -> int:
    """Print the table and the verdict, and write the files asked for."""
    print(_interesting_rows(result).to_string(float_format="{:.3g}".format), end="\n\n", file=words)
    status = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the verdict says the same
            suggestion = result.suggest(options.method)
        print(suggestion, file=words)
        status = 0 if suggestion.doubt is None else 1
    except NoCandidateError as error:
        print(f"I cannot tell: {error}", file=words)
        status = 1
    if options.json == "-":
        print(to_json(result.differentials, dict(result.settings)))
    elif options.json:
        save_json(options.json, result.differentials, dict(result.settings))
        print(f"Result: {options.json}", file=words)
    if options.plot:
        _save_plot(result, options)
        if options.plot != "-":
            print(f"Picture: {options.plot}", file=words)
    return status


def _save_plot(result: TuningResult, options: argparse.Namespace) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    result.plot(figure.subplots(), method=options.method)
    if options.plot == "-":
        figure.savefig(sys.stdout.buffer, format="png", dpi=150)
        return
    figure.savefig(options.plot, dpi=150)


def _interesting_rows(result: TuningResult) -> pd.DataFrame:
    """Return the rows of the summary around the best set, and a few of the rest, in their order."""
    table = result.summary()
    keep = np.zeros(len(table), dtype=np.bool_)
    keep[:: max(1, len(table) // 8)] = True
    keep[-1] = True
    best = np.flatnonzero(table["in_best_set"])
    if best.size:
        keep[max(0, best[0] - 2) : best[-1] + 3] = True
    rows = table.loc[keep, _TABLE].copy()
    marks = np.where(table.loc[keep, "in_best_set"], " *", "")
    rows.index = pd.Index([f"{format_rate(rate)}{mark}" for rate, mark in zip(rows.index, marks, strict=True)])
    rows.index.name = "rate (* best)"
    return rows

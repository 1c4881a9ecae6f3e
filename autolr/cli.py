"""The command line: ``autolr demo`` and ``autolr schedules``."""

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, get_args

import numpy as np
import pandas as pd
import torch

from autolr._text import format_rate
from autolr._typing import Method
from autolr._validation import check_integer, check_real
from autolr._version import __version__
from autolr.errors import NoCandidateError
from autolr.grids import log_grid
from autolr.plot_schedules import plot_rates
from autolr.range_test import lr_range_test
from autolr.result import TuningResult
from autolr.schedules._options import ScheduleName
from autolr.schedules.compare import compare_schedules
from autolr.schedules.comparison import ScheduleComparison
from autolr.schedules.make import schedule_factors
from autolr.search import find_lr
from autolr.storage import save_json, to_json
from autolr.suggestion import Suggestion
from autolr.taylor import TaylorExpansion, taylor_expansion

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TOOLS = ("tune", "find", "range-test", "taylor", "compare")
_PANELS = {"find": (1, 2), "range-test": (2, 1), "taylor": (1, 1), "compare": (1, 2)}  # of their pictures
_OF_TUNING, _OF_GRIDS = ("num_subsamples", "method", "json"), ("lr_min", "lr_max", "num_rates")
_NOT_OF = {tool: _OF_TUNING if tool == "range-test" else (*_OF_TUNING, *_OF_GRIDS) for tool in _PANELS}
_DRAWN = ("constant", "step", "multistep", "exponential", "cosine", "warm_restarts", "onecycle")  # without a function
_TABLE_ROWS = 25  # and the last one, at most: what a terminal shows at once
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
        return int(options.run(options))
    except KeyboardInterrupt:
        print("autolr: interrupted", file=sys.stderr)
        return 130
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(f"autolr: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as all errors are said; what was right is in the help."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"autolr: error: {message} (see {self.prog} --help)\n")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that there are."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="autolr", description="Choose the learning rate of a PyTorch model, with error bars.")
    parser.add_argument("--version", action="version", version=f"autolr {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        parents=[_tuning_options()],
        help="tune a small network on the handwritten digits of scikit-learn; example: autolr demo --optimizer SGD",
        description="Tune a small network on the handwritten digits that scikit-learn bundles: no download.",
        epilog="example: autolr demo --optimizer SGD --num-subsamples 50 --plot digits.png",
        formatter_class=_Help,
    )
    demo.add_argument(
        "--tool",
        choices=_TOOLS,
        default="tune",
        help="what is shown: of a step, a whole run, a range test, an expansion, or schedules at the rate that find"
        " finds; only tune has subsamples, a method and JSON, only it and range-test have a grid of rates",
    )
    demo.set_defaults(plot="autolr-demo.png", run=_demo)
    schedules = commands.add_parser(
        "schedules",
        help="print the rates of schedules, step by step; example: autolr schedules cosine step --total-steps 50",
        description="Print the learning rates that schedules go through, in a table, and draw them.",
        epilog="example: autolr schedules cosine onecycle --learning-rate 0.1 --total-steps 100 --plot rates.png",
        formatter_class=_Help,
    )
    schedules.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(_DRAWN)}; by default all of them")
    schedules.add_argument(
        "--learning-rate", type=float, default=1.0, metavar="LR", help="where they start, onecycle its fall"
    )
    schedules.add_argument("--total-steps", type=int, default=100, metavar="T", help="the length of the run")
    schedules.add_argument("--warmup-steps", type=int, default=0, metavar="W", help="of a linear warm-up")
    schedules.add_argument("--plot", metavar="PATH", help="write the picture there, -: PNG on standard output")
    schedules.set_defaults(run=_schedules)
    return parser


def _tuning_options() -> _Parser:
    """Return the options that every command that tunes has."""
    options = _Parser(add_help=False)
    options.add_argument("--optimizer", default="AdamW", metavar="NAME", help="a class of torch.optim")
    options.add_argument("--batch-size", type=int, default=32, metavar="M", help="observations in a subsample")
    options.add_argument("--num-subsamples", type=int, default=100, metavar="M", help="random subsamples")
    options.add_argument("--lr-min", type=float, default=1e-6, metavar="LR", help="smallest rate of the grid")
    options.add_argument("--lr-max", type=float, default=10.0, metavar="LR", help="largest rate of the grid")
    options.add_argument("--num-rates", type=int, default=64, metavar="K", help="rates of the grid")
    methods = get_args(Method)
    which = f"how the rate is picked: {', '.join(methods)}"
    options.add_argument("--method", choices=methods, default="mean", metavar="METHOD", help=which)
    options.add_argument("--seed", type=int, default=0, metavar="N", help="of the subsamples and of the weights")
    options.add_argument("--plot", metavar="PATH", help="write the picture there, -: PNG on standard output")
    options.add_argument("--json", metavar="PATH", help="write the result there (.json), -: on standard output")
    return options


def _demo(options: argparse.Namespace) -> int:
    from autolr import demo

    torch.set_num_threads(1)  # a network as small as the demo's gains nothing by more, and waits for busy cores
    _check_plot(options)
    check_real("--lr-max", options.lr_max, above=check_real("--lr-min", options.lr_min, above=0.0))
    for name, minimum in (("num_rates", 2), ("num_subsamples", 2), ("batch_size", 1), ("seed", 0)):
        check_integer(_flag(name), getattr(options, name), minimum=minimum)
    if options.optimizer not in demo.OPTIMIZERS:
        raise ValueError(f"--optimizer must be one of {', '.join(demo.OPTIMIZERS)}, got {options.optimizer!r}.")
    if options.tool != "tune":
        return _show(options)
    result = demo.tune_digits(
        optimizer=options.optimizer,
        seed=options.seed,
        learning_rates=log_grid(options.lr_min, options.lr_max, options.num_rates),
        num_subsamples=options.num_subsamples,
        batch_size=options.batch_size,
    )
    return _report(result, options, _words(options))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _show(options: argparse.Namespace) -> int:
    """Print what another tool says of the demonstration's network, and draw it."""
    defaults = _tuning_options()
    for name in _NOT_OF[options.tool]:
        if getattr(options, name) != defaults.get_default(name):
            value = getattr(options, name)
            raise ValueError(f"{_flag(name)} must be left out with --tool {options.tool}, got {value!r}.")
    try:
        shown = _shown(options)
    except NoCandidateError as error:
        print(f"I cannot tell: {error}", file=_words(options))
        return 1
    print(shown, file=_words(options))
    if options.plot:
        rows, columns = _PANELS[options.tool]
        size = (5.0 * columns + 2.0, 2.5 * rows + 2.0)
        _save_plot(options, lambda figure: shown.plot(figure.subplots(rows, columns)), size)
    return 1 if isinstance(shown, Suggestion) and shown.doubt is not None else 0


def _shown(options: argparse.Namespace) -> Suggestion | TaylorExpansion | ScheduleComparison:
    from autolr import demo

    model, loss_fn, optimizer, (X, Y) = demo.digits(options.optimizer, options.seed)
    size, seed = options.batch_size, options.seed
    if options.tool in ("find", "compare"):
        run: dict[str, Any] = {"total_steps": 2000, "schedule": "cosine"}
        found = find_lr(model, loss_fn, optimizer, (X, Y), batch_size=size, rng=seed, **run)
        if options.tool == "find":
            return found
        train, held_out = (X[:1400], Y[:1400]), (X[1400:], Y[1400:])
        runs: dict[str, Any] = {"learning_rate": found.learning_rate, "num_epochs": 3, "val_data": held_out}
        names: list[ScheduleName] = ["constant", "cosine", "onecycle"]
        made = demo.network, loss_fn, type(optimizer), train
        return compare_schedules(*made, schedules=names, batch_size=size, rng=seed, **runs)
    if options.tool == "taylor":
        if size > len(X):
            raise ValueError(f"--batch-size must be at most {len(X)}, got {size}.")
        return taylor_expansion(model, loss_fn, optimizer, X[:size], Y[:size], rng=seed)
    rates = {"start_lr": options.lr_min, "end_lr": options.lr_max, "num_iter": options.num_rates}
    test = lr_range_test(model, loss_fn, optimizer, (X, Y), batch_size=size, num_repeats=5, rng=seed, **rates)
    return test.suggest()


def _schedules(options: argparse.Namespace) -> int:
    _check_plot(options)
    names = options.names or [name for name in _DRAWN if name != "onecycle" or not options.warmup_steps]
    for name in names:
        if name not in _DRAWN:
            raise ValueError(f"NAME must be one of {', '.join(_DRAWN)}, got {name!r}.")
    rates = {
        name: check_real("--learning-rate", options.learning_rate, above=0.0)
        * schedule_factors(name, total_steps=options.total_steps, warmup_steps=options.warmup_steps)
        for name in names
    }
    table = pd.DataFrame(rates).rename_axis("step")
    last = len(table) - 1
    shown = table.iloc[sorted({*range(0, last, -(-len(table) // _TABLE_ROWS)), last})]
    print(shown.to_string(float_format=lambda rate: format_rate(rate, digits=3)), file=_words(options))
    if options.plot:
        _save_plot(options, lambda figure: plot_rates(rates, ax=figure.subplots()), (7.0, 4.5))
    return 0


def _check_plot(options: argparse.Namespace) -> None:
    """Raise if the picture could not be written there, before anything is computed."""
    if options.plot in (None, "-"):
        return
    from matplotlib.backend_bases import FigureCanvasBase

    path, formats = Path(options.plot), FigureCanvasBase.get_supported_filetypes()
    if not path.parent.is_dir():
        raise ValueError(f"--plot must name a file in an existing folder, got {options.plot!r}.")
    if path.suffix[1:].lower() not in formats:  # matplotlib would put one after it
        raise ValueError(f"--plot must end in .{', .'.join(sorted(formats))}, got {options.plot!r}.")


def _words(options: argparse.Namespace) -> TextIO:
    """Return where words go: what is written to standard output is not mixed with them."""
    return sys.stderr if "-" in (getattr(options, "json", None), options.plot) else sys.stdout


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
        _save_plot(options, lambda figure: result.plot(figure.subplots(), method=options.method), (7.0, 4.5))
    return status


def _save_plot(options: argparse.Namespace, draw: "Callable[[Figure], object]", size: tuple[float, float]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    draw(figure)
    if options.plot == "-":
        figure.savefig(sys.stdout.buffer, format="png", dpi=150)
        return
    figure.savefig(options.plot, dpi=150)
    print(f"Picture: {options.plot}", file=_words(options))


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

"""``autolr demo``: every tool on a small network, without a download."""

import argparse
from typing import TYPE_CHECKING, Any

from autolr._validation import check_option, invalid
from autolr.cli._arguments import Help, add_output, add_training, add_tuning, check_numbers, refuse
from autolr.cli._output import Output
from autolr.errors import NoCandidateError

if TYPE_CHECKING:
    from autolr.schedules._options import ScheduleName
    from autolr.schedules.comparison import ScheduleComparison
    from autolr.suggestion import Suggestion
    from autolr.taylor import TaylorExpansion

_TOOLS = ("tune", "find", "range-test", "taylor", "compare")
_PANELS = {"find": (1, 2), "range-test": (2, 1), "taylor": (1, 1), "compare": (1, 2)}  # of their pictures
_OF_TUNING, _OF_GRIDS = ("num_subsamples", "method", "json", "html"), ("lr_min", "lr_max", "num_rates")


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "demo",
        help="tune a small network on the handwritten digits of scikit-learn; example: autolr demo --optimizer SGD",
        description="Tune a small network on the handwritten digits that scikit-learn bundles: no download.",
        epilog="example: autolr demo --optimizer SGD --num-subsamples 50 --plot digits.png",
        formatter_class=Help,
    )
    parser.add_argument(
        "--tool",
        choices=_TOOLS,
        default="tune",
        help="what is shown: of a step, a whole run, a range test, an expansion, or schedules at the rate that find"
        " finds; only tune has subsamples, a method, JSON and a report, only it and range-test have a grid of rates",
    )
    add_training(parser, batch_size=32)
    add_tuning(parser)
    add_output(parser)
    parser.set_defaults(run=run, default_of=parser.get_default)


def run(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    import torch

    from autolr import demo
    from autolr.cli import _results
    from autolr.grids import log_grid

    torch.set_num_threads(1)  # a network as small as the demo's gains nothing by more, and waits for busy cores
    output = Output(options)
    check_numbers(options)
    check_option("--optimizer", options.optimizer, demo.OPTIMIZERS)
    if options.tool != "tune":
        return _show(options, output)
    result = demo.tune_digits(
        optimizer=options.optimizer,
        seed=options.seed,
        learning_rates=log_grid(options.lr_min, options.lr_max, options.num_rates),
        num_subsamples=options.num_subsamples,
        batch_size=options.batch_size,
    )
    return _results.show(result, output, method=options.method)


def _show(options: argparse.Namespace, output: Output) -> int:
    """Print what another tool says of the demonstration's network, and draw it."""
    from autolr.cli._results import in_a_shell
    from autolr.suggestion import Suggestion

    of_grids = () if options.tool == "range-test" else _OF_GRIDS
    refuse(options, (*_OF_TUNING, *of_grids), f"--tool {options.tool}")
    try:
        shown = _shown(options)
    except NoCandidateError as error:
        output.say(f"I cannot tell: {error}")
        return 1
    output.say(in_a_shell(str(shown)))
    rows, columns = _PANELS[options.tool]
    size = (5.0 * columns + 2.0, 2.5 * rows + 2.0)
    output.draw(lambda figure: shown.plot(figure.subplots(rows, columns)), size)
    output.name_files()
    return 1 if isinstance(shown, Suggestion) and shown.doubt is not None else 0


def _shown(options: argparse.Namespace) -> "Suggestion | TaylorExpansion | ScheduleComparison":
    from autolr import demo
    from autolr.range_test import lr_range_test
    from autolr.schedules.compare import compare_schedules
    from autolr.search import find_lr
    from autolr.taylor import taylor_expansion

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
            raise ValueError(invalid("--batch-size", f"be at most {len(X)}", size))
        return taylor_expansion(model, loss_fn, optimizer, X[:size], Y[:size], rng=seed)
    rates = {"start_lr": options.lr_min, "end_lr": options.lr_max, "num_iter": options.num_rates}
    test = lr_range_test(model, loss_fn, optimizer, (X, Y), batch_size=size, num_repeats=5, rng=seed, **rates)
    return test.suggest()

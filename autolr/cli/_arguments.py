"""What the commands are asked: options that several of them have, in the same words, and their checks."""

import argparse
from typing import Any, NoReturn, get_args

from autolr._typing import Method
from autolr._validation import check_integer, check_real, invalid

SCHEDULES = (
    "constant",
    "step",
    "multistep",
    "exponential",
    "cosine",
    "warm_restarts",
    "onecycle",
)  # without a function


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as all errors are said; what was right is in the help."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"autolr: error: {message} (see {self.prog} --help)\n")


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that there are, and texts of several lines as they are."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        told = isinstance(action.default, (str, int, float)) and action.default is not False
        return super()._get_help_string(action) if told else action.help

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text.rstrip() if "\n" in text else super()._fill_text(text, width, indent)


def add_output(parser: argparse.ArgumentParser, *, json: bool = True, html: bool = True) -> None:
    """Add where results are written."""
    output = parser.add_argument_group(
        "output", "what goes to standard output (-) is alone there: words go to standard error"
    )
    output.add_argument(
        "--plot", metavar="PATH", help="write the picture there (.png, .svg, .pdf, ...), -: PNG on standard output"
    )
    if json:
        output.add_argument("--json", metavar="PATH", help="write the result there (.json), -: on standard output")
    if html:
        output.add_argument("--html", metavar="PATH", help="write the report there (.html), -: on standard output")


def add_training(parser: argparse.ArgumentParser, *, batch_size: int | None) -> None:
    """Add optimizer, batches and seed."""
    usual = "" if batch_size else "; by default 32, or fewer where the data is small"
    parser.add_argument("--optimizer", default="AdamW", metavar="NAME", help="a class of torch.optim")
    parser.add_argument(
        "--batch-size", type=int, default=batch_size, metavar="M", help=f"observations in a batch{usual}"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the batches and of the weights")


def add_tuning(parser: argparse.ArgumentParser) -> None:
    """Add grid, subsamples and method."""
    tuning = parser.add_argument_group("tuning")
    tuning.add_argument("--num-subsamples", type=int, default=100, metavar="M", help="random subsamples")
    tuning.add_argument("--lr-min", type=float, default=1e-6, metavar="LR", help="smallest rate of the grid")
    tuning.add_argument("--lr-max", type=float, default=10.0, metavar="LR", help="largest rate of the grid")
    tuning.add_argument("--num-rates", type=int, default=64, metavar="K", help="rates of the grid")
    add_method(tuning)


def add_method(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """Add how the rate is picked."""
    methods = get_args(Method)
    which = f"how the rate is picked: {', '.join(methods)}"
    parser.add_argument("--method", choices=methods, default="mean", metavar="METHOD", help=which)


def flag(name: str) -> str:
    """Return how an option is written."""
    return f"--{name.replace('_', '-')}"


def check_numbers(options: argparse.Namespace) -> None:
    """Check the numbers of the options above, those that there are.

    Raises:
        ValueError: If one is out of its range.
    """
    if "lr_min" in options:
        check_real("--lr-max", options.lr_max, above=check_real("--lr-min", options.lr_min, above=0.0))
    minimums = {"num_rates": 2, "num_subsamples": 2, "batch_size": 1, "seed": 0, "total_steps": 1}
    for name, minimum in minimums.items():
        if getattr(options, name, None) is not None:
            check_integer(flag(name), getattr(options, name), minimum=minimum)


def refuse(options: argparse.Namespace, names: tuple[str, ...], beside: str) -> None:
    """Refuse options that have no meaning beside another one.

    Raises:
        ValueError: If one of them has another value than its default.
    """
    for name in names:
        value: Any = getattr(options, name)
        if value != options.default_of(name):
            raise ValueError(invalid(flag(name), f"be left out with {beside}", value))

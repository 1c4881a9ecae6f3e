"""``autolr schedules``: the rates of schedules as a table and as a picture."""

import argparse
from typing import Any

from autolr._text import format_rate
from autolr._validation import check_option, check_real
from autolr.cli._arguments import SCHEDULES, Help, add_output
from autolr.cli._output import Output

_TABLE_ROWS = 25  # and the last one, at most: what a terminal shows at once


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "schedules",
        help="print the rates of schedules, step by step; example: autolr schedules cosine step --total-steps 50",
        description="Print the learning rates that schedules go through, in a table, and draw them.",
        epilog="example:\n  autolr schedules cosine onecycle --learning-rate 0.1 --plot rates.png",
        formatter_class=Help,
    )
    which = f"of {', '.join(SCHEDULES)}; by default all of them"
    parser.add_argument("names", nargs="*", metavar="NAME", help=which)
    parser.add_argument(
        "--learning-rate", type=float, default=1.0, metavar="LR", help="where they start, onecycle its fall"
    )
    parser.add_argument("--total-steps", type=int, default=100, metavar="T", help="the length of the run")
    parser.add_argument("--warmup-steps", type=int, default=0, metavar="W", help="of a linear warm-up")
    add_output(parser, json=False, html=False)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    import pandas as pd

    from autolr.plot_schedules import plot_rates
    from autolr.schedules.make import schedule_factors

    output = Output(options)
    start = check_real("--learning-rate", options.learning_rate, above=0.0)
    names = options.names or [name for name in SCHEDULES if name != "onecycle" or not options.warmup_steps]
    run = {"total_steps": options.total_steps, "warmup_steps": options.warmup_steps}
    rates = {check_option("NAME", name, SCHEDULES): start * schedule_factors(name, **run) for name in names}
    table = pd.DataFrame(rates).rename_axis(columns="step")
    last = len(table) - 1
    shown = table.iloc[sorted({*range(0, last, -(-len(table) // _TABLE_ROWS)), last})]
    output.print(shown.to_string(float_format=lambda rate: format_rate(rate, digits=3)))
    output.draw(lambda figure: plot_rates(rates, ax=figure.subplots()), (7.0, 4.5))
    output.name_files()
    return 0

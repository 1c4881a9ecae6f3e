"""``autolr tune``: a table, or the user's own model."""

import argparse
from typing import Any

from autolr.cli._arguments import Help, add_output, add_tuning, check_numbers
from autolr.cli._output import Output
from autolr.cli._problem import TABLES, add_problem, problem_of, tuning

_EXAMPLES = """
examples:
  autolr tune data.csv --target y --hidden 64,64 --json lr.json --plot lr.png
  autolr tune houses.csv --target price --drop id --optimizer SGD
  autolr tune --factory mine.training:make --num-subsamples 50
"""


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "tune",
        help="the best single step, for a table or your own model; example: autolr tune data.csv --target y",
        description="Take one optimizer step at every rate of a grid, on many random subsamples, and tell which rate"
        " lowers the loss most, with error bars.",
        epilog=TABLES + _EXAMPLES,
        formatter_class=Help,
    )
    add_problem(parser)
    add_tuning(parser)
    add_output(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    output = Output(options)
    check_numbers(options)

    from autolr.cli import _results
    from autolr.grids import log_grid
    from autolr.tuner import AutoLRTuner

    problem = problem_of(options, output)
    pair = problem.data if isinstance(problem.data, tuple) and len(problem.data) == 2 else (problem.data,)
    with tuning(options, output):
        result = AutoLRTuner(*problem.training, rng=options.seed).tune(
            *pair,
            learning_rates=log_grid(options.lr_min, options.lr_max, options.num_rates),
            num_subsamples=options.num_subsamples,
            batch_size=options.batch_size,
        )
    return _results.show(_results.noted(result, problem.notes), output, method=options.method)

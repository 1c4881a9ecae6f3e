"""``autolr find``: the rate to train a whole run with, for a table or the user's own model."""

import argparse
from typing import Any

from autolr.cli._arguments import SCHEDULES, Help, add_output, check_numbers
from autolr.cli._output import Output
from autolr.cli._problem import TABLES, add_problem, problem_of, tuning
from autolr.errors import NoCandidateError

_EXAMPLES = """
examples:
  autolr find data.csv --target y --total-steps 5000 --schedule cosine
  autolr find --factory mine.training:make --total-steps 20000 --json lr.json
"""


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "find",
        help="the rate to train a whole run with; example: autolr find data.csv --target y --total-steps 5000",
        description="Search for the rate to train a whole run with: real steps at a few rates, corrected for the length"
        " and the schedule of the run. Nothing is trained for good.",
        epilog=TABLES + _EXAMPLES,
        formatter_class=Help,
    )
    add_problem(parser)
    run_of = parser.add_argument_group("run")
    run_of.add_argument("--total-steps", type=int, metavar="T", help="its optimizer steps; by default 1000 are assumed")
    names = (*SCHEDULES, "plateau")
    which = f"its schedule: {', '.join(names)}"
    run_of.add_argument("--schedule", choices=names, default="constant", metavar="NAME", help=which)
    efforts = ("fast", "default", "thorough")
    run_of.add_argument("--effort", choices=efforts, default="default", help="how long the finalists are trained")
    add_output(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    output = Output(options)
    check_numbers(options)

    from autolr.cli import _results
    from autolr.search import find_lr

    problem = problem_of(options, output)
    try:
        with tuning(options, output):
            found = find_lr(
                *problem.training,
                problem.data,
                total_steps=options.total_steps,
                schedule=options.schedule,
                effort=options.effort,
                batch_size=options.batch_size,
                rng=options.seed,
            )
    except NoCandidateError as error:
        output.say(f"I cannot tell: {error}")
        return 1
    return _results.show(_results.noted(found.evidence, problem.notes), output)

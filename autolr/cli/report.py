"""``autolr report``: verdict, table, picture and page of a result that was saved."""

import argparse
from typing import Any

from autolr.cli._arguments import Help, add_method, add_output
from autolr.cli._output import Output


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "report",
        help="tell a saved result again, as a page too; example: autolr report result.json --html lr.html",
        description="Print verdict and table of a result of tune or find (or of save in Python); draw it, and write"
        " the report, one HTML file that needs no network.",
        epilog="example:\n  autolr report result.json --html lr.html --plot lr.png",
        formatter_class=Help,
    )
    parser.add_argument("result", metavar="RESULT", help="the .json file; no code in it is run")
    add_method(parser)
    add_output(parser, json=False)
    parser.set_defaults(run=run, default_of=parser.get_default)


def run(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    from autolr.cli import _results

    output = Output(options)
    return _results.show(_results.read_result(options.result, options), output, method=options.method)

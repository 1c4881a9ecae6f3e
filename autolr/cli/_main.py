"""The way into the command line.

What takes a second to import, such as torch and pandas, is imported where a command runs: ``--help`` is quick, and
Ctrl-C is answered in one line meanwhile.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from autolr._version import __version__
from autolr.cli import check, demo, find, report, schedules, tune
from autolr.cli._arguments import Help, Parser

_EPILOG = """\
exit status:
  0    done
  1    no decision could be made, or `check` found a change
  2    an error: one line on standard error
  130  interrupted by Ctrl-C
  141  the reader of a pipe has stopped reading

On a terminal, lines are wrapped, the pick is bold and caveats are dim, unless
NO_COLOR is set; in a pipe or a file, a sentence is a line, so that grep works.
Files are written only to the paths given. Of a user's code, only what
--factory names is run.
More: autolr COMMAND --help
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words after ``autolr``; by default those of the process.

    Returns:
        The exit status: 0; 1 where no decision could be made, or a change was found; 2 for an error, which is one line
        on standard error; 130 after Ctrl-C; 141 where the reader of a pipe has stopped reading.
    """
    try:
        try:
            return _run(_parser().parse_args(arguments))
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # what a pipe refuses is noticed here, and not by the interpreter at its end
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
        return 141


def _run(options: argparse.Namespace) -> int:
    try:
        return int(options.run(options))
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        print("autolr: interrupted", file=sys.stderr)
        return 130
    except (ImportError, OSError, TypeError, ValueError) as error:
        if getattr(options, "traceback", False):
            traceback.print_exception(error)
        print(f"autolr: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _parser() -> Parser:
    description = "Choose the learning rate of a PyTorch model, with error bars."
    parser = Parser(prog="autolr", description=description, epilog=_EPILOG, formatter_class=Help)
    parser.add_argument("--version", action="version", version=f"autolr {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (demo, tune, find, report, check, schedules):
        command.add_to(commands)
    return parser

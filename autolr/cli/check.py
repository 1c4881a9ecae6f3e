"""``autolr check``: whether an old pick still is among the best rates of a new result, for continuous integration."""

import argparse
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from autolr._text import format_rate
from autolr._validation import invalid
from autolr.cli._arguments import Help, add_method
from autolr.cli._output import Output
from autolr.errors import NoCandidateError

if TYPE_CHECKING:
    from autolr.suggestion import Suggestion

_EPILOG = """\
The old pick is as good as ever where the rate of the new grid that is nearest
to it, by their ratio, is in the new set of best rates; of two searches, where
it lies in the new interval. Where one of the results cannot tell a rate, there
is no answer, which counts as a change.

exit status: 0 no change, 1 a change or no answer, 2 an error

example:
  autolr check main.json branch.json || echo "look at the learning rate"
"""


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "check",
        help="compare two saved results, exit status 1 where the old pick is no longer among the best rates; example:"
        " autolr check old.json new.json",
        description="Tell whether the pick of an old result still is among the best rates of a new one: for"
        " continuous integration.",
        epilog=_EPILOG,
        formatter_class=Help,
    )
    parser.add_argument("old", metavar="OLD", help="the .json file of the old result")
    parser.add_argument("new", metavar="NEW", help="that of the new one, of the same command")
    add_method(parser)
    parser.set_defaults(run=run, default_of=parser.get_default)


def run(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    from autolr.cli import _results

    output = Output(options)
    old, new = (_results.read_result(path, options) for path in (options.old, options.new))
    if type(old) is not type(new):
        raise ValueError(invalid("NEW", f"be a {type(old).__name__}, as OLD is", type(new).__name__))
    picks: list[Suggestion] = []
    for name, result in (("OLD", old), ("NEW", new)):
        try:
            suggestion = _results.suggestion_of(result, options.method)
            reason = None if suggestion.doubt is None else str(suggestion).splitlines()[0]
        except NoCandidateError as error:
            reason = str(error)
        if reason is not None:
            output.say(f"Cannot tell: {name} has no pick to rely on.")
            output.say(f"{name}: {reason}")
            return 1
        picks.append(suggestion)
    return _compare(picks[0], picks[1], output)


def _compare(old: "Suggestion", new: "Suggestion", output: Output) -> int:
    """Print the comparison of two picks; return the exit status."""
    search = new.method == "search"
    low, high = (new.low, new.high) if search else (new.best_set[0], new.best_set[-1])
    between = f"between {format_rate(low)} and {format_rate(high)}" if low < high else f"{format_rate(low)} only"
    level = f"{100.0 * new.confidence_level:g}%"
    rates = f"the best {'rate is' if search else 'rates are'} now {between}"
    picks = f"Old pick {format_rate(old.learning_rate)}, new pick {format_rate(new.learning_rate)}"
    output.say(f"{picks}; {rates} ({level}).")
    kept = low <= old.learning_rate <= high if search else _is_among_the_best(old.learning_rate, new)
    output.say("No change: the old pick is inside." if kept else "A change: the old pick is outside.")
    return 0 if kept else 1


def _is_among_the_best(rate: float, new: "Suggestion") -> bool:
    """Return whether the rate of the new grid that is nearest to a rate is one of the best."""
    grid = new.evidence.differentials.learning_rates
    nearest = int(np.abs(np.log(grid) - math.log(rate)).argmin())
    beyond = not grid[0] * (1.0 - 1e-9) <= rate <= grid[-1] * (1.0 + 1e-9)
    return not beyond and float(grid[nearest]) in new.best_set

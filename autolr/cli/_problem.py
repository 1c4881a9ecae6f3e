"""What is tuned: a network for a table, or the user's own model from a factory."""

import argparse
import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autolr._validation import check_option, invalid
from autolr.cli._arguments import add_training, refuse
from autolr.cli._factory import call_factory, named

if TYPE_CHECKING:
    from torch import nn

    from autolr.cli._output import Output

_FEW_PARAMETERS = 100_000  # with fewer, a network gains nothing by a second thread, and waits for busy cores
_OF_TABLES = ("target", "task", "drop", "hidden", "optimizer")

TABLES = """\
tables:
  .csv      commas, UTF-8, names in the first line
  .parquet  where pyarrow is installed
  .npz      each array of shape (N,) is a column, each of (N, D) is D of them:
            arrays X and y are `--target y`, and inputs X[0], X[1], ...
  Numbers are standardized; texts, booleans and categories become columns of
  0 and 1 (at most 50 for one). Empty cells, dates and identifiers are refused,
  constant columns left out. The target is one of classes where it holds texts
  or booleans, or whole numbers of at most 20 different values, each there
  twice on average; else it is a quantity, and is standardized too, so that
  losses are in units of its variance.

factories:
  --factory package.module:function imports the module, from the current folder
  or installed, calls the function without arguments, and tunes its result:
  (model, loss_fn, optimizer, data), with data a pair (X, Y) of arrays, a
  Dataset, or a loader. It is the only option that runs code of yours; name no
  module that you would not run.
"""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is tuned, and sentences on it.

    Attributes:
        training: Model, loss function and optimizer.
        data: A pair of arrays, or whatever else the factory returned.
        notes: What was made of a table; nothing of a factory.
    """

    training: tuple[Any, Any, Any]
    data: Any
    notes: tuple[str, ...] = ()


def add_problem(parser: argparse.ArgumentParser) -> None:
    """Add what is tuned."""
    parser.add_argument("table", nargs="?", metavar="TABLE", help="a .csv, .parquet or .npz file, see below")
    parser.add_argument("--factory", metavar="MODULE:FUNCTION", help="instead of a table: your own model, see below")
    parser.add_argument("--traceback", action="store_true", help="show where in your own code an error comes from")
    add_training(parser, batch_size=None)
    table = parser.add_argument_group("of tables")
    table.add_argument("--target", metavar="COLUMN", help="the column to predict")
    table.add_argument("--task", choices=("regression", "classification"), help="by default inferred, see below")
    table.add_argument(
        "--drop", action="append", default=[], metavar="COLUMN", help="leave a column out; may be given again"
    )
    sizes = "of the hidden layers of the perceptron, joined by commas; none: a linear model"
    table.add_argument("--hidden", type=_sizes, default=(64, 64), metavar="SIZES", help=f"{sizes} (default: 64,64)")
    parser.set_defaults(default_of=parser.get_default)


def problem_of(options: argparse.Namespace, output: "Output") -> Problem:
    """Return what the options name.

    Raises:
        ValueError: If they name nothing, two things, or one that cannot be tuned.
        OSError: If a table cannot be read.
        ImportError: If it is a Parquet file, and pyarrow is not installed.
    """
    if (options.table is None) == (options.factory is None):
        given = "neither" if options.table is None else "both"
        raise ValueError(f"one of TABLE and --factory must be given, got {given}.")
    if options.factory is not None:
        refuse(options, _OF_TABLES, "--factory")
        with _silent_output(output):
            *training, data = call_factory(options.factory)
        return Problem((training[0], training[1], training[2]), data)
    if options.target is None:
        raise ValueError("--target must name the column to predict, got none.")
    return _of_table(options)


@contextlib.contextmanager
def tuning(options: argparse.Namespace, output: "Output") -> Iterator[None]:
    """Name the factory in the errors that its model raises, and keep what it prints apart from what is written."""
    if options.factory is None:
        yield
        return
    with _silent_output(output), named(options.factory, "tuning what it returned"):
        yield


def _silent_output(output: "Output") -> "contextlib.redirect_stdout[Any]":
    return contextlib.redirect_stdout(output.words)


def _of_table(options: argparse.Namespace) -> Problem:
    import torch
    from torch import nn

    from autolr import demo
    from autolr.cli._tables import encode, read_table

    check_option("--optimizer", options.optimizer, demo.OPTIMIZERS)
    encoded = encode(read_table(options.table), options.target, task=options.task, drop=options.drop)
    is_regression = encoded.num_classes is None
    sizes = (encoded.X.shape[1], *options.hidden, encoded.num_classes or 1)
    with demo.seeded(options.seed):
        model = _perceptron(sizes)
    if sum(parameter.numel() for parameter in model.parameters()) < _FEW_PARAMETERS:
        torch.set_num_threads(1)
    optimizer = getattr(torch.optim, options.optimizer)(model.parameters(), lr=1e-3)
    layers = "-".join(map(str, sizes))
    kind = "perceptron with ReLU" if options.hidden else "linear model"
    notes = (
        f"{Path(options.table).name}: {encoded.notes[0]}",
        *encoded.notes[1:],
        f"Model: a {kind}, {layers}, drawn with seed {options.seed}; {options.optimizer} with PyTorch's defaults.",
    )
    return Problem(
        (model, nn.MSELoss() if is_regression else nn.CrossEntropyLoss(), optimizer), (encoded.X, encoded.Y), notes
    )


def _perceptron(sizes: tuple[int, ...]) -> "nn.Module":
    from torch import nn

    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _sizes(words: str) -> tuple[int, ...]:
    """Read the sizes of layers."""
    if words == "none":
        return ()
    try:
        sizes = tuple(int(word) for word in words.split(","))
    except ValueError:
        sizes = (0,)
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError(invalid("--hidden", "be whole numbers joined by commas, or none", words))
    return sizes

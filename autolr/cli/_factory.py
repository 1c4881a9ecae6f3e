"""``--factory``: the only place of the package that imports and runs what a user names."""

import contextlib
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from autolr._validation import describe, invalid
from autolr.errors import NoCandidateError


class FactoryError(ValueError):
    """What a user's own code has raised; the error is its cause."""


@contextlib.contextmanager
def named(factory: str, doing: str) -> Iterator[None]:
    """Name the factory in every error that its code raises; a verdict is none."""
    try:
        yield
    except NoCandidateError:
        raise
    except (Exception, SystemExit) as error:
        raise FactoryError(f"--factory {factory}: {doing} raised {type(error).__name__}: {error}") from error


def call_factory(factory: str) -> tuple[Any, Any, Any, Any]:
    """Import a module, which may lie in the current folder, as for ``python -m``, and call a function of it.

    Args:
        factory: ``package.module:function``.

    Returns:
        What it returned: model, loss function, optimizer and data.

    Raises:
        ValueError: If there is no such function, or it returned something else.
        FactoryError: If importing the module or calling the function raised an error.
    """
    module_name, _, name = factory.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise ValueError(invalid("--factory", "be package.module:function", factory))
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        with named(factory, "its import"):
            module = import_module(module_name)
    except FactoryError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and f"{module_name}.".startswith(f"{missing.name}."):
            raise ValueError(
                invalid("--factory", "name a module in the current folder or installed", factory)
            ) from error
        raise
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(invalid("--factory", f"name a function of {module_name}", factory))
    with named(factory, "its call"):
        made = function()
    if not isinstance(made, (tuple, list)) or len(made) != 4:
        got = f"{type(made).__name__} of {len(made)}" if isinstance(made, (tuple, list)) else made
        raise ValueError(f"--factory {factory} must return (model, loss_fn, optimizer, data), got {describe(got)}.")
    return made[0], made[1], made[2], made[3]

"""The modules that functions are seen to hold: a second network, a learned loss, an average of the weights."""

import inspect
from collections.abc import Iterable
from functools import partial
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

_LIBRARIES = ("torch", "numpy")
_MOST = 100  # a longer container holds data, not modules


def held_modules(*functions: object) -> list[nn.Module]:
    """Return the modules that functions are, are bound to, close over or name, each once.

    Followed: functions into those that they name, closures, defaults, partials, containers, and objects (the ``self``
    of a method, an instance with ``__call__``) into their attributes, one object deep.

    Args:
        *functions: The functions; ``None`` and other values hold nothing.

    Example:
        >>> teacher = nn.Linear(1, 1)
        >>> held_modules(lambda model, batch: teacher(batch) - model(batch))
        [Linear(in_features=1, out_features=1, bias=True)]
    """
    modules: list[nn.Module] = []
    seen: dict[int, object] = {}  # an id is only as good as its object's life
    pending = [(function, False) for function in functions]
    while pending:
        value, within_object = pending.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, nn.Module):
            modules.append(value)
        elif isinstance(value, (type, ModuleType, torch.Tensor)):
            continue
        elif (held := _held_by(value)) is not None:
            pending.extend((item, within_object) for item in held)
        elif not within_object:
            pending.extend((item, True) for item in getattr(value, "__dict__", {}).values())
    return modules


def _held_by(value: Any) -> Iterable[object] | None:
    """Return what a function or a container holds, or ``None`` where ``value`` is another object."""
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if inspect.ismethod(value):
        return [value.__self__, value.__func__]
    if inspect.isfunction(value):
        return [] if (value.__module__ or "").partition(".")[0] in _LIBRARIES else _held_by_function(value)
    if isinstance(value, dict):
        return list(value.values()) if len(value) <= _MOST else []
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value) if len(value) <= _MOST else []
    return None


def _held_by_function(function: FunctionType) -> list[object]:
    cells = [cell for cell in function.__closure__ or () if cell != type(cell)()]  # an empty cell has no contents
    named = [function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__]
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return [*(cell.cell_contents for cell in cells), *named, *defaults, *vars(function).values()]


def _names(code: CodeType) -> list[str]:
    """Return the names in the code of a function and of those defined within it."""
    inner = [name for constant in code.co_consts if isinstance(constant, CodeType) for name in _names(constant)]
    return [*code.co_names, *inner]

"""What functions and data are seen to hold: a second network, an average of the weights, random generators.

What is held is found by looking at objects, not by running them. Not found, and so neither put back nor kept the same
for all rates of a row: what lies deeper than said below, behind C code, or in containers of more than 100 items. Not
looked for at all: tensors, arrays, lists and counters that the user's functions and hooks hold outside of modules. A
loss that counts its own calls goes on counting.
"""

import inspect
import random
from collections import deque
from collections.abc import Iterable
from functools import partial
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from autolr.probing.random_state import GENERATORS, is_generator

_LIBRARIES = ("torch", "numpy")
_MOST = 100  # a longer container holds data, not modules
_CALLED = ("__call__", "forward", "step", "__getitem__", "__getitems__", "__iter__")  # without a name in the code
_DATA = (DataLoader, Dataset, Sampler, nn.Module)
_REMEMBERED = (nn.Module, torch.Tensor, dict, list, tuple, set, deque, *GENERATORS)  # by a snapshot
# these are forked and put back anyway
_GLOBAL = (torch.default_generator, np.random.mtrand._rand, random._inst)


def held_modules(*functions: object) -> list[nn.Module]:
    """Return the modules that functions are, are bound to, close over or name, each once.

    Followed: functions into the functions and values that they name (those of a module of Python's too, ``module.f``),
    closures, defaults, partials, containers, and objects (the ``self`` of a method, an instance with ``__call__``) into
    their attributes and the methods that are called, one object deep. Functions of torch and NumPy are not followed.

    Args:
        *functions: The functions; ``None`` and other values hold nothing.

    Example:
        >>> teacher = nn.Linear(1, 1)
        >>> held_modules(lambda model, batch: teacher(batch) - model(batch))
        [Linear(in_features=1, out_features=1, bias=True)]
    """
    return [value for value in _reached(functions, depth=1) if isinstance(value, nn.Module)]


def held_generators(*functions: object) -> list[Any]:
    """Return the random generators that functions hold, each once, in an order that their code decides.

    Found as modules are; see :func:`held_modules`. Of modules themselves, their hooks and ``forward`` are followed, and
    the objects in their attributes. Generators that are attributes of modules are left to their snapshot, global
    generators (torch's, NumPy's, Python's) to those who fork them.

    Args:
        *functions: The functions, modules and optimizers; ``None`` and other values hold nothing.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> held_generators(lambda model, batch: model(batch + generator.normal())) == [generator]
        True
    """
    return _generators(held_objects(*functions))


def held_objects(*functions: object) -> list[object]:
    """Return everything that functions hold or call, and what modules among it do; see :func:`held_generators`."""
    parts = [part for module in held_modules(*functions) for part in module.modules()]
    of_classes = [item for kind in dict.fromkeys(map(type, parts)) for item in _of_class(kind, *_CALLED)]
    beside = [item for part in parts for item in _beside_snapshot(part)]
    return _reached((*functions, *parts, *of_classes, *beside), depth=1)


def data_generators(data: object) -> list[Any]:
    """Return the random generators that data holds: a dataset, a loader, any other holder of batches; each once.

    Followed, at any depth: datasets, loaders, samplers, and modules within them. Of other objects (a loader of the
    user's own, transforms) the attributes, two objects deep; functions as in :func:`held_modules`. Not followed:
    arrays, long containers, and iterators, which nothing can put back.
    """
    return _generators(_reached((data,), depth=2, through=_DATA))


def _generators(values: Iterable[object]) -> list[Any]:
    return [value for value in values if is_generator(value) and not any(value is known for known in _GLOBAL)]


def _reached(values: Iterable[object], *, depth: int, through: tuple[type, ...] = ()) -> list[object]:
    """Return what values are and hold, ``depth`` objects deep, where objects of the types ``through`` do not count."""
    reached: dict[int, tuple[object, int]] = {}  # an id is only as good as its object's life
    pending = [(value, depth) for value in values]
    while pending:
        value, left = pending.pop()
        if id(value) in reached and reached[id(value)][1] >= left:
            continue
        reached[id(value)] = value, left
        free = isinstance(value, through)
        if isinstance(value, (type, ModuleType, *GENERATORS)) or hasattr(type(value), "__array__"):
            continue
        if isinstance(value, nn.Module) and not free:
            continue
        if (held := _held_by(value)) is not None:
            pending.extend((item, left) for item in held)
        elif free or left > 0:
            pending.extend((item, left if free else left - 1) for item in _held_by_object(value))
    return [value for value, _ in reached.values()]


def _held_by(value: Any) -> Iterable[object] | None:
    """Return what a function or a container holds, or ``None`` where ``value`` is another object."""
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if inspect.ismethod(value):
        owner = value.__self__
        kind = owner if isinstance(owner, type) else type(owner)
        return [owner, value.__func__, *_of_class(kind, getattr(value, "__name__", ""))]
    if inspect.isbuiltin(value):
        return [value.__self__]
    if inspect.isfunction(value):
        return [] if _is_of_library(value.__module__) else _held_by_function(value)
    if isinstance(value, dict):
        return list(value.values()) if len(value) <= _MOST else []
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return list(value) if len(value) <= _MOST else []
    return None


def _held_by_function(function: FunctionType) -> list[object]:
    cells = [cell for cell in function.__closure__ or () if cell != type(cell)()]  # an empty cell has no contents
    names = _names(function.__code__)
    named = [function.__globals__[name] for name in names if name in function.__globals__]
    modules = [vars(value) for value in named if isinstance(value, ModuleType) and not _is_of_library(value.__name__)]
    named += [module[name] for module in modules for name in names if name in module]
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return [*(cell.cell_contents for cell in cells), *named, *defaults, *vars(function).values()]


def _held_by_object(value: object) -> list[object]:
    return [*getattr(value, "__dict__", {}).values(), *_of_class(type(value), *_CALLED)]


def _beside_snapshot(module: nn.Module) -> list[object]:
    """Return what a module holds that its snapshot keeps by reference: hooks and objects of other types."""
    hooks = [hook for name, hooks in vars(module).items() if name.endswith("_hooks") for hook in (hooks or {}).values()]
    return [*hooks, *(item for item in vars(module).values() if not isinstance(item, _REMEMBERED))]


def _of_class(kind: type, *names: str) -> list[object]:
    """Return the generators that are attributes of a class, its methods with these names and those that they name."""
    generators = [item for base in kind.__mro__ for item in vars(base).values() if isinstance(item, GENERATORS)]
    found: dict[str, FunctionType] = {}
    pending = list(names)
    while pending:
        name = pending.pop()
        method = inspect.getattr_static(kind, name, None)
        if name not in found and inspect.isfunction(method) and not _is_of_library(method.__module__):
            found[name] = method
            pending.extend(_names(method.__code__))
    return [*generators, *found.values()]


def _is_of_library(module: str | None) -> bool:
    return (module or "").partition(".")[0] in _LIBRARIES


def _names(code: CodeType) -> list[str]:
    """Return the names in the code of a function and of those defined within it."""
    inner = [name for constant in code.co_consts if isinstance(constant, CodeType) for name in _names(constant)]
    return [*code.co_names, *inner]

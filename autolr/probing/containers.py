"""Containers that are put back: the objects that they hold, in their order."""

from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable
from itertools import chain
from operator import is_
from typing import Any

from autolr.probing.tensors import Restore

COMMON = (dict, OrderedDict, defaultdict, list, deque, set)  # those of another type may be gone through otherwise


class Containers:
    """Containers of common types, looked at together, as they are many; most of them are empty, and few ever change.

    As long as nothing has changed, each is gone through in the order of when it was added, by the same objects.
    """

    def __init__(self) -> None:
        self._empty: list[Any] = []
        self._filled: list[Any] = []
        self._lengths: list[int] = []
        self._parts: list[Iterable[Any]] = []  # of those that are filled: themselves, and of a dict its values too
        self._content: list[Any] = []
        self._restores: list[Restore] = []

    def add(self, value: Any) -> None:
        """Remember what a container holds."""
        if not value:
            self._empty.append(value)
            return
        parts = (value, value.values()) if isinstance(value, dict) else (value,)
        self._filled.append(value)
        self._lengths.append(len(value))
        self._parts.extend(parts)
        self._content.extend(chain.from_iterable(parts))
        self._restores.append(container_restore(value))

    def restore(self) -> bool:
        """Put all back, and return whether one had changed."""
        changed = any(self._empty)
        if changed:
            for value in self._empty:
                value.clear()
        now = chain.from_iterable(self._parts)
        if list(map(len, self._filled)) != self._lengths or not all(map(is_, now, self._content)):
            changed |= sum(restore() for restore in self._restores) > 0
        return changed


def container_restore(value: Any) -> Restore:
    """Return what puts a dict, a list, a deque or a set back."""
    if isinstance(value, dict):
        return _dict_restore(value)
    return _set_restore(value) if isinstance(value, set) else _sequence_restore(value)


def _dict_restore(value: dict[Any, Any]) -> Restore:
    keys, items = list(value), list(value.values())

    def restore() -> bool:
        unchanged = len(value) == len(keys) and all(map(is_, value, keys)) and all(map(is_, value.values(), items))
        if not unchanged:
            value.clear()
            value.update(zip(keys, items, strict=True))
        return not unchanged

    return restore


def _sequence_restore(value: list[Any] | deque[Any]) -> Restore:
    content = list(value)

    def restore() -> bool:
        unchanged = len(value) == len(content) and all(map(is_, value, content))
        if not unchanged:
            value.clear()
            value.extend(content)
        return not unchanged

    return restore


def _set_restore(value: set[Any]) -> Restore:
    content = set(value)

    def restore() -> bool:
        changed = value != content
        if changed:
            value.clear()
            value.update(content)
        return changed

    return restore

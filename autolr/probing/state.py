"""Everything of the user's that a probe can touch, remembered in memory and put back in place, bit for bit."""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from autolr.probing.random_state import capture_random_state

Restore = Callable[[], None]


class Snapshot:
    """The state of some objects now; :meth:`restore` puts it back in place, as often as asked.

    Remembered, at any depth: of modules and optimizers all attributes (and so parameters, buffers, modes, moments,
    rates, counters); of dicts, lists and sets the content; of tensors the values, the storage, ``requires_grad`` and
    the gradient (by identity: the caller takes it off before it computes gradients of its own); of random generators
    the state. All these keep their identity. Objects of other types are kept by reference.

    Args:
        *objects: The objects, usually a model and its optimizer.
    """

    def __init__(self, *objects: object) -> None:
        self._alive: dict[int, object] = {}  # an id is only as good as its object's life
        self._restores: list[Restore] = []
        pending = list(objects)
        while pending:
            value = pending.pop()
            if id(value) not in self._alive:
                self._alive[id(value)] = value
                pending.extend(self._remember(value))

    def restore(self) -> None:
        """Put everything back. It may be repeated, so that an interrupted restore is mended by the next one."""
        for restore in self._restores:
            restore()

    def _remember(self, value: Any) -> Iterable[object]:
        """Append what puts ``value`` itself back, and return the objects that it holds."""
        if isinstance(value, torch.Tensor):
            self._restores.append(_tensor_restore(value))
        elif isinstance(value, nn.Module):
            self._restores.append(_mode_restore(value))
            # a scripted module keeps its tensors outside of its attributes
            return [vars(value), *value.parameters(), *value.buffers()]
        elif isinstance(value, torch.optim.Optimizer):
            return [vars(value)]
        elif isinstance(value, dict):
            self._restores.append(_dict_restore(value))
            return value.values()
        elif isinstance(value, list):
            content = list(value)
            self._restores.append(lambda: value.__setitem__(slice(None), content))
            return content
        elif isinstance(value, set):
            self._restores.append(_set_restore(value))
        elif isinstance(value, tuple):
            return value
        elif isinstance(value, np.ndarray) and value.flags.writeable:
            copy = value.copy()
            self._restores.append(lambda: np.copyto(value, copy))
        elif isinstance(value, (torch.Generator, np.random.Generator, random.Random)):
            self._restores.append(_generator_restore(value))
        return ()


@contextmanager
def preserved_state(*objects: object, devices: Iterable[torch.device] = ()) -> Iterator[Snapshot]:
    """Put the objects and the global random generators back on every way out of the block.

    The restore is finished also where an interrupt arrives in the middle of it; the interrupt is raised afterwards.

    Args:
        *objects: What is preserved; see :class:`Snapshot`.
        devices: The devices in use, whose generators are preserved with the CPU's, NumPy's and Python's.

    Yields:
        The snapshot, from which probes restart.
    """
    restore_random_state = capture_random_state(devices)
    snapshot = Snapshot(*objects)
    try:
        yield snapshot
    finally:
        interrupt = None
        restored = False
        while not restored:
            try:
                snapshot.restore()
                restore_random_state()
                restored = True
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt


def _tensor_restore(tensor: torch.Tensor) -> Restore:
    storage = tensor.detach()  # holds the storage, should the tensor be given another one
    values = storage.clone()
    strided = tensor.layout == torch.strided
    leaf = tensor.is_leaf
    requires_grad, grad = tensor.requires_grad, tensor.grad if leaf else None

    def restore() -> None:
        if not strided or _layout(tensor) != _layout(storage):
            tensor.data = storage
        tensor.data.copy_(values)  # through .data: a graph of the user's own is not told of a change
        if leaf:
            if tensor.requires_grad != requires_grad:
                tensor.requires_grad_(requires_grad)
            if tensor.grad is not grad:
                tensor.grad = grad

    return restore


def _layout(tensor: torch.Tensor) -> tuple[int, torch.Size, tuple[int, ...]]:
    """Return where and how a strided tensor lies in memory."""
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def _mode_restore(module: nn.Module) -> Restore:
    training = module.training

    def restore() -> None:
        if module.training != training:
            module.training = training

    return restore


def _dict_restore(value: dict[Any, Any]) -> Restore:
    content = list(value.items())

    def restore() -> None:
        unchanged = len(value) == len(content) and all(
            key is kept_key and item is kept_item
            for (key, item), (kept_key, kept_item) in zip(value.items(), content, strict=True)
        )
        if not unchanged:
            value.clear()
            value.update(content)

    return restore


def _set_restore(value: set[Any]) -> Restore:
    content = set(value)

    def restore() -> None:
        if value != content:
            value.clear()
            value.update(content)

    return restore


def _generator_restore(generator: torch.Generator | np.random.Generator | random.Random) -> Restore:
    if isinstance(generator, torch.Generator):
        torch_state = generator.get_state()
        return lambda: (generator.set_state(torch_state), None)[1]
    if isinstance(generator, random.Random):
        python_state = generator.getstate()
        return lambda: generator.setstate(python_state)
    numpy_state = generator.bit_generator.state
    return lambda: setattr(generator.bit_generator, "state", numpy_state)

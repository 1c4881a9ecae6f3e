"""Batches of any structure: a function applied to all that they hold, and their way to the device."""

import copy
import dataclasses
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

from autolr._typing import Batch


class MicroBatches(tuple[Batch, ...]):
    """The micro-batches of one optimizer step, over which losses and gradients are averaged."""


def steps_of(batches: Sequence[Batch], accumulation_steps: int) -> list[Batch]:
    """Return what each optimizer step takes: a batch, or :class:`MicroBatches` where it takes several."""
    if accumulation_steps == 1:
        return list(batches)
    ends = range(accumulation_steps, len(batches) + 1, accumulation_steps)
    return [MicroBatches(batches[end - accumulation_steps : end]) for end in ends]


def map_tensors(function: Callable[[torch.Tensor], torch.Tensor], batch: Batch) -> Batch:
    """Apply ``function`` to every tensor of a batch: in tuples, lists, mappings and dataclasses, at any depth.

    Args:
        function: From a tensor to a tensor.
        batch: The batch; it is not changed.

    Returns:
        A batch of the same types; whatever is no tensor and holds none is the same object.

    Example:
        >>> map_tensors(lambda tensor: tensor + 1, {"x": torch.tensor([1, 2]), "name": "a"})
        {'x': tensor([2, 3]), 'name': 'a'}
    """
    return map_leaves(lambda leaf: function(leaf) if isinstance(leaf, torch.Tensor) else leaf, batch)


def map_leaves(function: Callable[[Any], Any], batch: Batch) -> Batch:
    """Apply ``function`` to whatever a batch holds that is no container; see :func:`map_tensors`."""
    if isinstance(batch, Mapping):
        items = {key: map_leaves(function, value) for key, value in batch.items()}
        if type(batch) is dict or not isinstance(batch, MutableMapping):
            return items
        mapped = copy.copy(batch)
        mapped.update(items)
        return mapped
    if isinstance(batch, PackedSequence):  # torch wants its batch_sizes to stay on the CPU
        data, batch_sizes, *order = batch
        return PackedSequence(map_leaves(function, data), batch_sizes, *map_leaves(function, order))
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):  # a named tuple
        return type(batch)(*(map_leaves(function, part) for part in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)([map_leaves(function, part) for part in batch])
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        clone = copy.copy(batch)
        for field in dataclasses.fields(batch):
            # frozen ones too: the copy is ours until it is handed out
            object.__setattr__(clone, field.name, map_leaves(function, getattr(batch, field.name)))
        return clone
    return function(batch)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its tensors on ``device``, detached from any graph of the user's.

    Objects of other libraries that have a method ``to`` (graphs, say) are asked to move by it.
    """

    def move(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return leaf.detach().to(device)
        return leaf.to(device) if is_movable(leaf) else leaf

    return map_leaves(move, batch)


def is_movable(leaf: Any) -> bool:
    """Return whether this is an object of another library that moves itself between devices, such as a graph."""
    return callable(getattr(leaf, "to", None)) and not isinstance(leaf, (type, torch.nn.Module))


def num_observations(batch: Batch) -> int:
    """Return the first dimension of the first tensor in a batch, which is its size as a rule; 0 if there is none."""
    sizes: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes.extend(tensor.shape[:1])
        return tensor

    map_tensors(note, batch)
    return sizes[0] if sizes else 0


def outline(batch: Batch) -> str:
    """Return a batch as an error message shows it: the types, and the dtypes and shapes of the tensors.

    Example:
        >>> outline((torch.zeros(2, 3), {"y": torch.zeros(2, dtype=torch.int64)}))
        "(float32 [2, 3], {'y': int64 [2]})"
    """
    if isinstance(batch, torch.Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')} {list(batch.shape)}"
    if isinstance(batch, Mapping):
        return f"{{{', '.join(f'{key!r}: {outline(value)}' for key, value in batch.items())}}}"
    if isinstance(batch, (tuple, list)):
        return f"({', '.join(map(outline, batch))})"
    return type(batch).__name__

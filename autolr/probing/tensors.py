"""Tensors that are put back: their values, their memory, whether they require gradients."""

from collections.abc import Callable
from itertools import compress, starmap
from operator import attrgetter

import torch

# puts something back, and returns whether it had changed; of a tensor's values it does not know (False)
Restore = Callable[[], bool]

_requires_grad = attrgetter("requires_grad")


class DenseTensors:
    """The strided tensors of a snapshot: values, storage, ``requires_grad``; put back together, as they are many."""

    def __init__(self) -> None:
        self._tensors: list[torch.Tensor] = []
        self._storages: list[torch.Tensor] = []
        self._is_leaf: list[bool] = []
        self._requires_grad: list[bool] = []
        self._are_plain = True  # without functions of their own for what torch does with them
        self._index: dict[int, int] = {}
        self._entries: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []

    def add(self, tensor: torch.Tensor) -> None:
        """Remember a tensor as it is."""
        storage = tensor.data  # holds the storage, should the tensor be given another one
        self._index[id(tensor)] = len(self._tensors)
        self._tensors.append(tensor)
        self._storages.append(storage)
        self._is_leaf.append(tensor.is_leaf)
        self._requires_grad.append(tensor.requires_grad)
        self._are_plain &= type(tensor).__torch_dispatch__ is torch.Tensor.__torch_dispatch__
        self._entries.append(distinct_entries(storage))
        self._values.append(self._entries[-1].clone())

    def values_of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the values of a tensor that is remembered; they are not to be written to."""
        index = self._index[id(tensor)]
        return self._values[index].expand(self._storages[index].shape)

    def restore(self) -> bool:
        """Put all back, and return whether more than values had changed."""
        failure: Exception | None = None
        try:
            if self._entries:
                torch._foreach_copy_(self._entries, self._values)
        except Exception:  # noqa: BLE001 (one that cannot be written to does not keep the others from it)
            for entries, values in zip(self._entries, self._values, strict=True):
                try:
                    entries.copy_(values)
                except Exception as error:  # noqa: BLE001
                    failure = failure or error
        changed = False
        if self._is_in_place():
            for leaf in compress(self._tensors, self._is_leaf):
                if leaf.grad is not None:
                    leaf.grad = None
        else:
            kept = zip(self._tensors, self._storages, self._is_leaf, self._requires_grad, strict=True)
            changed = sum(starmap(self._restore_attributes, kept)) > 0
        if failure is not None:
            raise failure
        return changed

    def _is_in_place(self) -> bool:
        """Return whether all tensors are known to be where and as they were; where not, each has to be looked at."""
        if not self._are_plain:
            return False
        try:
            same_memory = all(map(torch.Tensor.is_set_to, self._tensors, self._storages))
        except NotImplementedError:  # of quantized tensors, and on some devices
            return False
        return same_memory and list(map(_requires_grad, self._tensors)) == self._requires_grad

    @staticmethod
    def _restore_attributes(tensor: torch.Tensor, storage: torch.Tensor, leaf: bool, requires_grad: bool) -> bool:
        changed = tensor.layout != torch.strided or _layout(tensor) != _layout(storage)
        if changed:
            tensor.data = storage
        return restore_leaf(tensor, leaf, requires_grad) or changed


def restore_leaf(tensor: torch.Tensor, leaf: bool, requires_grad: bool) -> bool:
    """Take the gradient off, and return whether ``requires_grad`` had to be put back."""
    changed = leaf and tensor.requires_grad != requires_grad
    if changed:
        tensor.requires_grad_(requires_grad)
    if leaf and tensor.grad is not None:
        tensor.grad = None
    return changed


def sparse_restore(tensor: torch.Tensor) -> Restore:
    """Return what puts a sparse tensor back."""
    storage = tensor.data
    values = storage.clone()
    leaf, requires_grad = tensor.is_leaf, tensor.requires_grad

    def restore() -> bool:
        storage.copy_(values)
        tensor.data = storage
        return restore_leaf(tensor, leaf, requires_grad)

    return restore


def distinct_entries(values: torch.Tensor) -> torch.Tensor:
    """Return a view of a tensor without the repetitions of an expanded one, which refuses writing."""
    if values.layout == torch.strided:
        for dimension, stride in enumerate(values.stride()):
            if stride == 0 and values.shape[dimension] > 1:
                values = values.narrow(dimension, 0, 1)
    return values


def _layout(tensor: torch.Tensor) -> tuple[int, torch.Size, tuple[int, ...]]:
    """Return where and how a strided tensor lies in memory."""
    return tensor.data_ptr(), tensor.shape, tensor.stride()

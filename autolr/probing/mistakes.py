"""Mistakes in a loss that torch lets pass, and that are refused before anything is probed."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from autolr._typing import LossFunction

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


def refuse_broadcast(loss_fn: LossFunction, output: Any, target: Any, loss: Any) -> None:
    """Raise if output (m, 1) meets target (m,), or the reverse, and that changes the loss.

    A loss that squeezes by itself gives the same value where the output has the target's shape, and is let through;
    one that needs the other shape (class indices) raises, and is let through too. Compared at the output and, as the
    values can be equal by chance (an absolute loss far from its target), at an output made of the targets, moved on.
    """
    if not (isinstance(output, torch.Tensor) and isinstance(target, torch.Tensor) and isinstance(loss, torch.Tensor)):
        return
    shapes = output.shape, target.shape
    longer, shorter = sorted(shapes, key=len, reverse=True)
    if longer != (*shorter, 1) or output.numel() < 2:
        return
    for values in (output, target.roll(1, 0).reshape(output.shape).to(output.dtype)):
        try:
            loss, same_shape = loss_fn(values, target), loss_fn(values.reshape(target.shape), target)
        except (RuntimeError, ValueError, TypeError, IndexError):
            return
        if same_shape.shape == loss.shape and not torch.allclose(same_shape, loss, equal_nan=True):
            raise ValueError(
                f"`loss_fn` must compare output and target of one shape, got output {tuple(output.shape)}"
                f" and target {tuple(target.shape)}, which broadcast against each other: reshape one of them."
            )


@contextmanager
def integers_refused(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Raise within the block where a layer of floats is fed integers.

    Raises:
        TypeError: Naming the layer and the dtype.
    """
    layers = {id(layer): layer for module in modules for layer in module.modules() if _is_float_layer(layer)}
    with ExitStack() as stack:
        for layer in layers.values():
            stack.callback(layer.register_forward_pre_hook(_refuse_integers).remove)
        yield


def _is_float_layer(module: nn.Module) -> bool:
    """Return whether this is one of torch's own layers with float weights, which integers cannot be fed into."""
    if not type(module).__module__.startswith("torch.nn.modules") or isinstance(module, _EMBEDDINGS):
        return False
    weight = next(iter(module.parameters(recurse=False)), None)
    return weight is not None and weight.is_floating_point()


def _refuse_integers(module: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Raise if a layer of floats is fed integers: a hook for the duration of a check."""
    x = arguments[0] if arguments else None
    if isinstance(x, torch.Tensor) and not (x.is_floating_point() or x.is_complex()):
        raise TypeError(
            f"`X` must have a floating-point dtype for the model's {type(module).__name__} layer, got {x.dtype}:"
            " convert it, for example with X.float()."
        )

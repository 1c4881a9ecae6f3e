"""Calls of torch at many rates at once: their values are stacked, with the rates as the first dimension."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

# Of each entry these make one entry, whatever the shape; with what does the same in place.
_ELEMENTWISE: dict[Any, Callable[[torch.Tensor], torch.Tensor] | None] = {
    F.relu: torch.relu_,
    torch.relu: torch.relu_,
    torch.Tensor.relu: torch.relu_,
    torch.tanh: torch.tanh_,
    torch.Tensor.tanh: torch.tanh_,
    torch.sigmoid: torch.sigmoid_,
    torch.Tensor.sigmoid: torch.sigmoid_,
    **dict.fromkeys((F.gelu, F.silu, F.elu, F.selu, F.leaky_relu, F.softplus, F.hardtanh, F.relu6, F.mish)),
}
# The bytes of the weights of a product: on a CPU, what its second cache holds. An accelerator is to be kept busy.
_WEIGHT_ROOM = {"cpu": 1 << 20}
_WEIGHT_ROOM_ELSEWHERE = 256 << 20


def elementwise(function: Any, kwargs: Mapping[str, Any]) -> bool:
    """Return whether a call acts on each entry of its first argument by itself, and changes nothing in place."""
    return function in _ELEMENTWISE and not kwargs.get("inplace")


def in_place(function: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return what does the same as an elementwise function in place, or ``None``."""
    return _ELEMENTWISE[function]


def along(rates: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return rates ``(C,)`` with the shape ``(C, 1, ...)`` in which they scale stacked values like ``like``."""
    return rates.view(-1, *[1] * like.ndim)


def moved(origin: torch.Tensor, step: torch.Tensor, rates: torch.Tensor) -> torch.Tensor:
    """Return ``origin - lr * step`` at rates ``(C,)``, shape ``(C, ...)``."""
    return torch.addcmul(origin, step, along(rates, origin), value=-1)


def mapped(function: Callable[..., Any], stacks: Sequence[torch.Tensor]) -> Any:
    """Return what a function makes of each of stacked values, by ``torch.vmap``; random masks are the same for all."""
    return torch.vmap(function, randomness="same")(*stacks)


def linear(
    x: torch.Tensor,
    weight: tuple[torch.Tensor, torch.Tensor],
    bias: tuple[torch.Tensor, torch.Tensor] | torch.Tensor | None,
    rates: torch.Tensor,
) -> torch.Tensor:
    """Return the outputs of a linear layer at C rates, shape ``(C, ..., out)``, from inputs ``(C, ..., in)``.

    The weights of some rates are made at a time, in a buffer that stays in the cache, and multiplied at once.

    Args:
        x: The inputs.
        weight: The weight at the start, and its step.
        bias: The bias likewise; or one that does not move, or ``None``.
        rates: The rates, shape ``(C,)``.
    """
    origin, step = weight
    count = len(rates)
    stacked = x.reshape(count, -1, x.shape[-1])
    output = stacked.new_empty(count, stacked.shape[1], origin.shape[0])
    room = _WEIGHT_ROOM.get(origin.device.type, _WEIGHT_ROOM_ELSEWHERE)
    together = min(count, max(1, room // origin.nbytes))
    buffer = origin.new_empty(together, *origin.shape)
    biases = None
    if bias is not None:
        biases = bias.expand(count, -1) if isinstance(bias, torch.Tensor) else moved(*bias, rates)
    for begin in range(0, count, together):
        part = slice(begin, min(begin + together, count))
        weights = buffer[: part.stop - begin]
        torch.addcmul(origin, step, along(rates[part], origin), value=-1, out=weights)
        if biases is None:
            torch.bmm(stacked[part], weights.mT, out=output[part])
        else:
            torch.baddbmm(biases[part].unsqueeze(1), stacked[part], weights.mT, out=output[part])
    return output.view(*x.shape[:-1], origin.shape[0])


def is_plain_cross_entropy(logits: torch.Tensor, target: Any, *rest: Any, **options: Any) -> bool:
    """Return whether this is the mean over observations with logits (m, C) and classes (m,), none of them left out."""
    if rest or not isinstance(target, torch.Tensor) or logits.ndim != 2 or target.ndim != 1:
        return False
    given = {name: value for name, value in options.items() if value is not None}
    usual = {"ignore_index": -100, "reduction": "mean", "label_smoothing": 0.0}
    return not target.is_floating_point() and given.items() <= usual.items() and bool(target.ne(-100).all())


def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    r"""Return the mean of :math:`\log \sum \exp z - z_{target}`, with z the logits less their maximum.

    Args:
        logits: Shape ``(..., m, C)``.
        target: The classes, shape ``(m,)``, or ``(..., m)``.
    """
    shifted = logits - logits.amax(dim=-1, keepdim=True)
    chosen = shifted.gather(-1, target.expand(logits.shape[:-1]).unsqueeze(-1)).squeeze(-1)
    return (shifted.exp().sum(dim=-1).log() - chosen).mean(dim=-1)

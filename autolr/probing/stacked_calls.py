"""Calls of torch at many rates at once: their values are stacked, with the rates as the first dimension."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

# the start of a weight and its step per unit of the rate
Point = tuple[torch.Tensor, torch.Tensor]

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


def linear(x: torch.Tensor, weight: Point, bias: Point | torch.Tensor | None, rates: torch.Tensor) -> torch.Tensor:
    """Return the outputs of a linear layer at C rates, shape ``(C, ..., out)``, from inputs ``(C, ..., in)``.

    The weights of some rates are made at a time, in a buffer that stays in the cache, and multiplied at once.

    Args:
        x: The inputs.
        weight: The weight at the start, and its step.
        bias: The bias likewise; or one that does not move, or ``None``.
        rates: The rates, shape ``(C,)``.
    """
    origin, step = weight
    count, width = len(rates), len(origin)
    stacked = x.reshape(count, -1, x.shape[-1])
    num_inputs = stacked.shape[1]
    is_narrow = width < num_inputs  # then the product with the larger matrix behind is the faster one
    output = stacked.new_empty((count, width, num_inputs) if is_narrow else (count, num_inputs, width))
    room = _WEIGHT_ROOM.get(origin.device.type, _WEIGHT_ROOM_ELSEWHERE)
    together = min(count, max(1, room // origin.nbytes))
    buffer = origin.new_empty(together, *origin.shape)
    biases = None
    if bias is not None:
        biases = bias.expand(count, -1) if isinstance(bias, torch.Tensor) else moved(*bias, rates)
        biases = biases.unsqueeze(-1 if is_narrow else 1)
    for begin in range(0, count, together):
        part = slice(begin, min(begin + together, count))
        weights = buffer[: part.stop - begin]
        torch.addcmul(origin, step, along(rates[part], origin), value=-1, out=weights)
        factors = (weights, stacked[part].mT) if is_narrow else (stacked[part], weights.mT)
        if biases is None:
            torch.bmm(*factors, out=output[part])
        else:
            torch.baddbmm(biases[part], *factors, out=output[part])
    return (output.mT if is_narrow else output).reshape(*x.shape[:-1], width)


def linear_of_low_rank(
    x: torch.Tensor,
    origin: torch.Tensor,
    factors: tuple[torch.Tensor, torch.Tensor],
    bias: Point | torch.Tensor | None,
    rates: torch.Tensor,
) -> torch.Tensor:
    """Return what :func:`linear` does, with factors ``(out, r)`` and ``(r, in)`` of the weight's step."""
    count, (left, right) = len(rates), factors
    flat = x.reshape(-1, x.shape[-1])
    start = bias[0] if isinstance(bias, tuple) else bias
    output = flat @ origin.mT if start is None else torch.addmm(start, flat, origin.mT)
    inner = (flat @ right.mT).view(count, -1).mul_(rates.unsqueeze(1))
    output.addmm_(inner.view(len(flat), -1), left.mT, alpha=-1)
    if isinstance(bias, tuple):
        output.view(count, -1, len(origin)).addcmul_(bias[1], rates.view(-1, 1, 1), value=-1)
    return output.view(*x.shape[:-1], len(origin))


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

"""Forwards at many rates at once: the loss, mapped over the rates."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)
from torch.overrides import TorchFunctionMode

from autolr._typing import FloatArray
from autolr.probing.affine import AFFINE, affine_call
from autolr.probing.direction import Direction
from autolr.probing.shortcuts import Hoisted, Shortcuts

try:
    from torch._C._functorch import _add_batch_dim, get_unwrapped, is_batchedtensor, maybe_get_bdim, maybe_get_level
except ImportError:  # not part of torch's public interface: without them a linear layer is slower, not wrong
    is_batchedtensor = None  # type: ignore[assignment]

# Larger models gain nothing from it on a CPU, and should not pay for buffers of the size of a layer.
_MOST_BYTES = {"cpu": 16 << 20}
# The bytes of the largest activation of a chunk (as each chunk costs its calls, what fits the last cache of a CPU),
# and of the weights of a product (what fits the second one). An accelerator is to be kept busy.
_ACTIVATION_ROOM = {"cpu": 24 << 20}
_WEIGHT_ROOM = {"cpu": 1 << 20}
_ROOM_ELSEWHERE = 256 << 20
# When glibc has handed a block back to the system, it keeps smaller ones from then on (mallopt(3), M_MMAP_THRESHOLD).
_LARGE_BLOCK = 31 << 20
# Of a parameter these do not depend on the rate.
_PROPERTIES = frozenset(
    [getattr(torch.Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad")]
    + [torch.Tensor.dim, torch.Tensor.size, torch.Tensor.numel, torch.Tensor.is_floating_point]
)

# from rates, shape (C,), and what puts the weights at one of them in place, to the losses, shape (C,)
LossesAt = Callable[[torch.Tensor, Callable[[torch.Tensor], TorchFunctionMode]], torch.Tensor]


class Batched:
    r"""The losses of a row as one function of the rate, evaluated at many rates together (``torch.vmap``).

    Each call of a forward works on a chunk of rates, which spares small networks the cost of calling, and keeps an
    accelerator busy. The weights at these rates, :math:`\theta_0 - \mathrm{lr}\, d`, stand in for a parameter wherever
    a function of torch is handed one. A linear layer becomes batched products with the weights of some rates, which are
    made in a buffer that stays in the cache. A layer whose input does not depend on the rate is hoisted, as in
    :class:`Shortcuts`. Batch normalization does not update its running statistics, on which its output in training does
    not depend.
    A cross-entropy without weights is written out, as torch's own is slow where there are few classes, and is mapped by
    more calls.

    What ``torch.vmap`` cannot do (branches that depend on values, ``.item()``, writing into buffers, recurrent layers)
    raises an error of torch; the caller then goes another way. Random masks are the same at all rates. What a loss
    function of the user's keeps of its tensors, in a list, is of no use after ``torch.vmap``.

    Args:
        direction: The line.
        shortcuts: What was learned of the forward.
    """

    def __init__(self, direction: Direction, shortcuts: Shortcuts) -> None:
        self._direction = direction
        self._sites = shortcuts.sites
        self._device, self._dtype = direction.origin[0].device, direction.origin[0].dtype
        self._most_rates = max(1, _ACTIVATION_ROOM.get(self._device.type, _ROOM_ELSEWHERE) // max(1, shortcuts.largest))
        torch.empty(_LARGE_BLOCK, dtype=torch.uint8, device="cpu")

    def objection(self) -> str | None:
        """Return why this is not worth trying, or ``None``."""
        weights = self._direction.origin
        if len({(weight.device, weight.dtype) for weight in weights}) > 1:
            return "the parameters differ in device or dtype"
        size = sum(weight.numel() * weight.element_size() for weight in weights)
        most = _MOST_BYTES.get(self._device.type, _ROOM_ELSEWHERE)
        return f"the parameters take {size / 2**20:.0f} MiB" if size > most else None

    def losses(self, losses_at: LossesAt, rates: Iterable[float]) -> FloatArray:
        """Return the losses at some rates.

        Where memory is short, fewer rates are taken at a time from then on.

        Args:
            losses_at: Maps the loss over the rates of a chunk.
            rates: The rates.
        """
        every = torch.tensor(list(rates), dtype=self._dtype, device=self._device)
        hoisted = Hoisted(self._direction, self._sites)
        losses: list[float] = []
        done = 0
        while done < len(every):
            left = len(every) - done
            chunk = every[done : done + math.ceil(left / math.ceil(left / self._most_rates))]
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="There is a performance drop")  # it is timed instead
                    found = losses_at(chunk, lambda rate: _AtRate(self._direction, hoisted, rate))
                losses += found.tolist()
            except RuntimeError as error:
                if len(chunk) == 1 or not is_short_of_memory(error):
                    raise
                self._most_rates = len(chunk) // 2
                continue
            done += len(chunk)
        return np.array(losses)


class Replaced(TorchFunctionMode):
    """A forward in which something else stands in for each parameter, wherever a function of torch is handed one.

    Within ``torch.vmap`` too: batch normalization leaves its running statistics alone, and a plain cross-entropy is
    written out.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _PROPERTIES:
            return func(*args, **kwargs)
        if func is F.cross_entropy and _is_plain_cross_entropy(args, kwargs):
            return _cross_entropy(self.replaced(args[0]), args[1])
        if func is F.batch_norm and kwargs.get("training"):
            args = (args[0], None, None)
        return func(*map(self.replaced, args), **{name: self.replaced(value) for name, value in kwargs.items()})

    def replaced(self, value: Any) -> Any:
        """Return a value with the parameters in it replaced."""
        if type(value) in (list, tuple):
            return type(value)(map(self.replaced, value))
        return self.stand_in(value)

    def stand_in(self, value: Any) -> Any:
        """Return what stands in for a parameter; anything else is returned as it is."""
        raise NotImplementedError


class _AtRate(Replaced):
    """A forward at a rate, or at many of them as ``torch.vmap`` sees it: parameters are put where the rate has them."""

    def __init__(self, direction: Direction, hoisted: Hoisted, rate: torch.Tensor) -> None:
        super().__init__()
        self._points = direction.points()
        self._hoisted = hoisted
        self._hoisted.begin()
        self._rate = rate

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in AFFINE and (call := affine_call(func, args, kwargs or {})) is not None:
            outputs = self._hoisted.outputs(call)
            if outputs is not None:
                return torch.addcmul(*outputs, self._rate, value=-1)
            if func is F.linear and call.moving(self._points):
                bias = (None, None) if call.bias is None else self._points[id(call.bias)]
                output = _linear(self.replaced(call.x), (*self._points[id(call.weight)], *bias), self._rate)
                if output is not None:
                    return output
        return super().__torch_function__(func, types, args, kwargs)

    def stand_in(self, value: Any) -> Any:
        """Return a parameter where the rate has it."""
        origin, step = self._points.get(id(value), (value, None))
        return value if step is None else torch.addcmul(origin, step, self._rate, value=-1)


def _is_plain_cross_entropy(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether this is the mean over observations with logits (m, C) and classes (m,), none of them left out."""
    if len(args) != 2 or args[0].ndim != 2 or args[1].ndim != 1 or args[1].is_floating_point():
        return False
    given = {name: value for name, value in kwargs.items() if value is not None}
    usual = {"ignore_index": -100, "reduction": "mean", "label_smoothing": 0.0}
    return given.items() <= usual.items() and bool((args[1] != usual["ignore_index"]).all())


def _cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean of log(sum(exp(z))) - z at the target, with z the logits less their maximum."""
    shifted = logits - logits.amax(dim=-1, keepdim=True)
    return (shifted.exp().sum(dim=-1).log() - shifted.gather(-1, target.unsqueeze(-1)).squeeze(-1)).mean()


def _linear(x: torch.Tensor, points: Sequence[torch.Tensor | None], rate: torch.Tensor) -> torch.Tensor | None:
    """Return a linear layer's output at many rates, or ``None`` where torch's own rule has to make it.

    Inside of ``torch.vmap``, the stack behind a tensor is taken from its wrapping, worked on, and wrapped again.
    """
    if is_batchedtensor is None or not (is_batchedtensor(x) and is_batchedtensor(rate)):
        return None
    level = maybe_get_level(x)
    stack, rates = get_unwrapped(x), get_unwrapped(rate)
    if level != maybe_get_level(rate) or is_batchedtensor(stack) or is_batchedtensor(rates):
        return None
    output = _linear_at_rates(stack.movedim(maybe_get_bdim(x), 0), points, rates)
    return torch.as_tensor(_add_batch_dim(output, 0, level))


def _linear_at_rates(x: torch.Tensor, points: Sequence[torch.Tensor | None], rates: torch.Tensor) -> torch.Tensor:
    """Return the outputs of a linear layer at C rates, shape ``(C, ..., out)``, from inputs ``(C, ..., in)``.

    The weights of some rates are made at a time, in a buffer that stays in the cache, and multiplied at once.

    Args:
        x: The inputs.
        points: Weight, its step, bias and its step; the last two may be ``None``.
        rates: The rates, shape ``(C,)``.
    """
    weight, weight_step, bias, bias_step = points
    assert weight is not None
    assert weight_step is not None
    count = len(rates)
    stacked = x.reshape(count, -1, x.shape[-1])
    output = stacked.new_empty(count, stacked.shape[1], weight.shape[0])
    room = _WEIGHT_ROOM.get(weight.device.type, _ROOM_ELSEWHERE)
    together = min(count, max(1, room // (weight.numel() * weight.element_size())))
    buffer = weight.new_empty(together, *weight.shape)
    biases = None
    if bias is not None and bias_step is not None:
        biases = torch.addcmul(bias, bias_step, rates.view(-1, 1), value=-1).unsqueeze(1)
    for begin in range(0, count, together):
        part = slice(begin, min(begin + together, count))
        weights = buffer[: part.stop - begin]
        torch.addcmul(weight, weight_step, rates[part].view(-1, 1, 1), value=-1, out=weights)
        if biases is None:
            torch.bmm(stacked[part], weights.mT, out=output[part])
        else:
            torch.baddbmm(biases[part], stacked[part], weights.mT, out=output[part])
    return output.view(*x.shape[:-1], weight.shape[0])


def is_short_of_memory(error: RuntimeError) -> bool:
    """Return whether an allocation has failed."""
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)

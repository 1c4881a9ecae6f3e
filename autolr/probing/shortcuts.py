"""Forwards at many rates, without what is the same at all of them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)
from torch.overrides import TorchFunctionMode

from autolr._typing import FloatArray
from autolr.probing.affine import AFFINE, AffineCall, affine_call, mentioned
from autolr.probing.direction import Direction

# Less than this many multiplications saved are not worth the watching of each call (some 50 microseconds a forward).
_WORTH = 3_000_000
# So many multiplications take as long as the maximum of an entry in torch's usual memory format (0.1 ns and 4 ns).
_POOLING = 40


class ChangedError(RuntimeError):
    """A forward went another way than the ones from which its shortcuts were learned."""


class Shortcuts:
    r"""Forwards along the line that take two shortcuts, neither of which changes what is computed.

    *Hoisting*: a layer that is affine in its weights, at an input that does not depend on them (the first layer, as a
    rule), is computed twice a row in place of once a rate: :math:`y(\mathrm{lr}) = y(\theta_0) - \mathrm{lr}\, y(d)`.
    Its weights are not even moved. That the input is the same is not inferred but compared, bit by bit, at each call.

    *Pooling*: on the CPU, torch's max-pooling is vectorized over the channels only where these are the last dimension
    in memory, and some ten times slower elsewhere. A maximum is the same in any memory format, bit for bit.

    Args:
        direction: The line.

    Attributes:
        sites: The affine calls of a forward that are hoisted, by their number.
        still: The ids of the parameters that are used in these only.
        largest: The most bytes that a call of a forward makes at one rate: its outputs, and weights if these have to be
            stacked for it.
    """

    def __init__(self, direction: Direction) -> None:
        self._direction = direction
        self.sites: frozenset[int] = frozenset()
        self.still: frozenset[int] = frozenset()
        self.largest = 0

    def learn(self, forward: Callable[[TorchFunctionMode], float], rates: Sequence[float]) -> bool:
        """Watch a forward at two rates, and return whether enough can be saved.

        Args:
            forward: Computes a loss at the weights as they are, within a context.
            rates: Two different rates.
        """
        before: _Watch | None = None
        for rate in rates[:2]:
            watch = _Watch(self._direction, before)
            self._direction.move(float(rate))
            forward(watch)
            before = watch
        if watch.failure:
            return False
        self.sites = frozenset(watch.same)
        self.still = frozenset(watch.hoisted() - watch.elsewhere)
        self.largest = watch.largest
        return watch.saved >= _WORTH

    def losses(self, forward: Callable[[TorchFunctionMode], float], rates: Iterable[float]) -> FloatArray:
        """Return the losses of forwards at some rates.

        Raises:
            ChangedError: If a forward goes another way than those from which this was learned.
        """
        mode = _Forward(self._direction, self.sites, self.still)
        losses = []
        for rate in rates:
            mode.at(float(rate))
            self._direction.move(float(rate), self.still)
            losses.append(forward(mode))
        return np.array(losses)


class Hoisted:
    """The outputs of the affine calls of a row that do not depend on the rate, but for one factor.

    Args:
        direction: The line.
        sites: Which affine calls of a forward are hoisted, by their number.
    """

    def __init__(self, direction: Direction, sites: frozenset[int]) -> None:
        self._points = direction.points()
        self._sites = sites
        self._count = 0
        self._kept: dict[int, tuple[AffineCall, int, torch.Tensor, torch.Tensor]] = {}

    def begin(self) -> None:
        """Begin a forward."""
        self._count = 0

    def outputs(self, call: AffineCall) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the outputs of the start and of the step, computed once, or ``None`` where the call is no such one.

        Raises:
            ChangedError: If the input, the weights or the options are not the same as before.
        """
        number = self._count
        self._count += 1
        if number not in self._sites or not call.moving(self._points):
            return None
        if number not in self._kept:
            self._kept[number] = call, call.x._version, *call.outputs(self._points)
        kept, version, start, step = self._kept[number]
        same = kept.is_like(call) and kept.x._version == version and _same(kept.x, call.x)
        if not same or torch.is_grad_enabled():
            raise ChangedError("a layer or its input depends on the rate after all")
        return start, step


class _Forward(TorchFunctionMode):
    """A forward at one rate, with shortcuts."""

    def __init__(self, direction: Direction, sites: frozenset[int], still: frozenset[int]) -> None:
        super().__init__()
        self._hoisted = Hoisted(direction, sites)
        self._still = still
        self._rate = 0.0

    def at(self, rate: float) -> None:
        """Begin a forward at a rate."""
        self._hoisted.begin()
        self._rate = rate

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in AFFINE and (call := affine_call(func, args, kwargs)) is not None:
            outputs = self._hoisted.outputs(call)
            if outputs is not None:
                return torch.add(outputs[0], outputs[1], alpha=-self._rate)
        if self._still and mentioned(self._still, args, kwargs):
            raise ChangedError("a weight is used in another place")
        return pool(*args, **kwargs) if func is F.max_pool2d else func(*args, **kwargs)


class _Watch(TorchFunctionMode):
    """Notes of a forward: which affine calls had the same input as in another one, and which weights are used where."""

    def __init__(self, direction: Direction, before: "_Watch | None") -> None:
        super().__init__()
        self._points = direction.points()
        self._before = before
        self._calls: list[tuple[AffineCall, int]] = []
        self.same: set[int] = set()
        self.elsewhere: set[int] = set()
        self.saved = self.largest = 0
        self.failure = ""

    def hoisted(self) -> set[int]:
        """Return the weights of the calls with the same input."""
        calls = [self._calls[number][0] for number in self.same]
        return {id(part) for call in calls for part in (call.weight, call.bias) if part is not None}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        try:
            self._note(func, args, kwargs, output)
        except Exception as error:  # noqa: BLE001 (tensors of another kind may refuse anything)
            self.failure = str(error)
        return output

    def _note(self, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        call = affine_call(func, args, kwargs)
        number = len(self._calls)
        if call is not None:
            self._calls.append((call, 0 if call.x.is_inference() else call.x._version))
        if call is not None and self._is_same(number, call, output):
            self.same.add(number)
            self.saved += output.numel() * (call.weight.numel() // max(1, len(call.weight)))
        else:
            ids = mentioned(frozenset(self._points), args, kwargs)
            self.elsewhere |= ids
            stacked = () if func is F.linear else (self._points[key][0] for key in ids)
            outputs = output if isinstance(output, (tuple, list)) else (output,)
            sizes = [tensor.nbytes for tensor in (*outputs, *stacked) if _is_plain(tensor)]
            self.largest = max(self.largest, sum(sizes))
            if func is F.max_pool2d and _is_pooled_faster(args[0]):
                self.saved += _POOLING * args[0].numel()

    def _is_same(self, number: int, call: AffineCall, output: torch.Tensor) -> bool:
        if self._before is None or number >= len(self._before._calls) or torch.is_grad_enabled():
            return False
        earlier, version = self._before._calls[number]
        return (
            earlier.is_like(call)
            and call.moving(self._points)
            and output.dtype == call.weight.dtype  # not so within autocast, which rounds the outputs
            and not (call.x.is_inference() or earlier.x.is_inference())
            and earlier.x._version == version
            and _same(earlier.x, call.x)
        )


def pool(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Return the maxima, computed with the channels as the last dimension in memory where that is faster."""
    if not _is_pooled_faster(x):
        return torch.as_tensor(F.max_pool2d(x, *args, **kwargs))
    return torch.as_tensor(F.max_pool2d(x.contiguous(memory_format=torch.channels_last), *args, **kwargs)).contiguous()


def _is_pooled_faster(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and x.ndim == 4 and x.is_contiguous() and x.shape[1] >= 8


def _same(first: torch.Tensor, second: torch.Tensor) -> bool:
    if first is second:
        return True
    try:
        return _is_plain(first) and _is_plain(second) and first.dtype == second.dtype and torch.equal(first, second)
    except (RuntimeError, NotImplementedError):  # a wrapper of torch.func, say, which tells no values
        return False


def _is_plain(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_nested

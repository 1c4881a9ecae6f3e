"""A forward repeated from its calls, at other rates: one after the other, or many at once."""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from autolr.probing.affine import AffineCall, affine_call
from autolr.probing.low_rank import LowRank
from autolr.probing.stacked_calls import (
    Point,
    cross_entropy,
    elementwise,
    in_place,
    is_plain_cross_entropy,
    linear,
    linear_of_low_rank,
    mapped,
    moved,
)
from autolr.probing.tape import Call, Slot, Tape, UnfitError

# A layer of fewer multiplications is not worth hoisting, which rounds otherwise than moving its weights.
_WORTH = 1 << 16
# The bytes of the largest value of a chunk: on a CPU, some two times its second cache, as each chunk costs its calls;
# an accelerator is to be kept busy.
_ROOM = {"cpu": 2 << 20}
_ROOM_ELSEWHERE = 256 << 20
# When glibc has handed a block back to the system, it keeps smaller ones from then on (mallopt(3), M_MMAP_THRESHOLD).
_LARGE_BLOCK = 31 << 20


class Replay:
    r"""The losses of a forward at other rates, from a :class:`~autolr.probing.tape.Tape` of it.

    Only what depends on the rate is computed again. A layer that is affine in its weights, at an input that does not
    depend on the rate (the first one, as a rule), is *hoisted*: computed twice a row in place of once a rate,
    :math:`y(\mathrm{lr}) = y(\theta_0) - \mathrm{lr}\, y(d)`; its weights are not even moved.

    Args:
        tape: The forward.
        points: Start and step of each of its weights.
        move_to: Moves torch's generators to the state of a call.
        low_rank: Finds thin factors of steps.

    Attributes:
        still: The ids of the weights that need not be moved.
        largest: The most bytes that a call makes at one rate, with the weights that have to be stacked for it.
    """

    def __init__(
        self, tape: Tape, points: Sequence[Point], move_to: Callable[[Any], None], low_rank: LowRank | None = None
    ) -> None:
        self._tape, self._points, self._move_to, self._low_rank = tape, points, move_to, low_rank
        self._factors: dict[int, tuple[torch.Tensor, torch.Tensor] | None] = {}
        self._num_weights = len(tape.weights)
        self._affine = [affine_call(call, self._num_weights) for call in tape.calls]
        self._hoisted = [self._outputs(affine) for affine in self._affine]
        computed = [call for call, hoisted in zip(tape.calls, self._hoisted, strict=True) if hoisted is None]
        used = {tape.loss, *(slot for call in computed for slot in call.inputs)}
        self.still = frozenset(id(weight) for slot, weight in enumerate(tape.weights) if slot not in used)
        self.largest = max((self._size(number) for number in range(len(tape.calls))), default=0)
        last = {slot: number for number, call in enumerate(tape.calls) for slot in (*call.inputs, *call.outputs)}
        self._last_uses: list[list[int]] = [[] for _ in tape.calls]
        for slot, number in last.items():
            if slot is not None and slot != tape.loss:
                self._last_uses[number].append(slot)

    def in_turn(self, rates: Iterable[float], move: Callable[[float], None]) -> list[float]:
        """Return the losses at some rates, one after the other.

        Args:
            rates: The rates.
            move: Moves the weights to a rate, but for those that stay.

        Raises:
            UnfitError: If a value has another shape at one rate than at another, of which Python may have made use.
        """
        losses = []
        for rate in rates:
            move(rate)
            values = dict(enumerate(self._tape.weights))
            for number, call in self._calls(values):
                hoisted = self._hoisted[number]
                if hoisted is not None:
                    output = torch.sub(*hoisted, alpha=rate)
                else:
                    function = pool if call.function is F.max_pool2d else call.function
                    output = function(*_filled(call.args, values), **_filled(call.kwargs, values))
                _keep(values, call, output)
                _check_shapes(values, call)
            losses.append(float(values[self._tape.loss]))
        return losses

    def at_once(self, rates: torch.Tensor) -> torch.Tensor:
        """Return the losses at some rates, shape ``(C,)``, computed together: values are stacked, the rates first.

        Raises:
            RuntimeError: If torch cannot map a call.
        """
        values: dict[int, Any] = {}
        unshared: set[int | None] = set()
        for number, call in self._calls(values):
            _keep(values, call, self._stacked(number, call, values, unshared, rates))
        losses: torch.Tensor = values[self._tape.loss]
        return losses

    def _calls(self, values: dict[int, Any]) -> Iterable[tuple[int, Call]]:
        """Yield the calls, each in its random state; values that are no longer needed are dropped."""
        for number, call in enumerate(self._tape.calls):
            if call.random is not None:
                self._move_to(call.random)
            yield number, call
            for slot in self._last_uses[number]:
                values.pop(slot, None)

    def _stacked(
        self, number: int, call: Call, values: dict[int, Any], unshared: set[int | None], rates: torch.Tensor
    ) -> Any:
        """Return the output of a call at many rates.

        Args:
            number: Its number.
            call: The call.
            values: The stacked values of slots.
            unshared: The slots whose values share their memory with no other, so that they may be overwritten.
            rates: The rates, shape ``(C,)``.
        """
        hoisted, affine = self._hoisted[number], self._affine[number]
        if hoisted is not None:
            unshared |= {*call.outputs}
            return moved(*hoisted, rates)
        if affine is not None and self._is_stacked_linear(affine):
            unshared |= {*call.outputs}
            return self._linear(affine, values[affine.x.number], rates)
        if call.args and isinstance(call.args[0], Slot) and call.args[0].number in values and len(call.inputs) == 1:
            first = call.args[0].number
            x = values[first]
            if elementwise(call.function, call.kwargs):
                unshared |= {*call.outputs}
                over = in_place(call.function)
                if over is not None and first in unshared and first in self._last_uses[number]:
                    return over(x)
                return call.function(x, *call.args[1:], **call.kwargs)
            if call.function is F.cross_entropy and is_plain_cross_entropy(x[0], *call.args[1:], **call.kwargs):
                return cross_entropy(x, call.args[1])
        unshared -= {*call.inputs}
        for slot in call.inputs:
            if slot not in values:
                values[slot] = moved(*self._points[slot], rates)

        def at_one(*slices: torch.Tensor) -> tuple[torch.Tensor, ...]:
            at = dict(zip(call.inputs, slices, strict=True))
            _keep(at, call, call.function(*_filled(call.args, at), **_filled(call.kwargs, at)))
            return tuple(at[slot] for slot in (*call.outputs, *call.inputs[:1]) if slot is not None)

        *outputs, _ = mapped(at_one, [values[slot] for slot in call.inputs])
        kept = iter(outputs)
        stacks = [None if slot is None else next(kept) for slot in call.outputs]
        return stacks[0] if call.is_single else stacks

    def _linear(self, affine: AffineCall, x: torch.Tensor, rates: torch.Tensor) -> torch.Tensor:
        """Return the outputs of a linear layer with a weight that moves, from its stacked inputs."""
        slot = affine.weight.number
        point = self._points[slot]
        bias = self._points[affine.bias.number] if isinstance(affine.bias, Slot) else affine.bias
        if slot not in self._factors:
            num_inputs, weight = x[0, ..., 0].numel(), self._tape.weights[slot]
            self._factors[slot] = None if self._low_rank is None else self._low_rank.factors(weight, *point, num_inputs)
        factors = self._factors[slot]
        if factors is None:
            return linear(x, point, bias, rates)
        return linear_of_low_rank(x, point[0], factors, bias, rates)

    def _outputs(self, affine: AffineCall | None) -> Point | None:
        """Return the output of a layer at the start and that of its step, if it is to be hoisted."""
        if affine is None or not isinstance(affine.x, torch.Tensor):
            return None
        (shape,), weight = affine.call.shapes, self._tape.weights[affine.weight.number]
        num_multiplications = (0 if shape is None else shape.numel()) * weight[0].numel()
        return affine.outputs(self._points) if num_multiplications >= _WORTH else None

    def _is_stacked_linear(self, affine: AffineCall) -> bool:
        return affine.call.function is F.linear and isinstance(affine.x, Slot) and affine.x.number >= self._num_weights

    def _size(self, number: int) -> int:
        """Return the bytes that a call makes at one rate: its outputs, and weights if these are stacked for it."""
        call, affine = self._tape.calls[number], self._affine[number]
        if self._hoisted[number] is not None or (affine is not None and self._is_stacked_linear(affine)):
            return call.size
        return call.size + sum(self._tape.weights[slot].nbytes for slot in call.inputs if slot < self._num_weights)


class Chunks:
    """Losses at many rates, as many at once as there is room for.

    Each call works on a chunk of rates, which spares small networks the cost of calling, and keeps an accelerator busy.
    Where memory is short, fewer rates are taken at a time from then on.

    Args:
        like: A weight, whose device and dtype the rates have.
    """

    def __init__(self, like: torch.Tensor) -> None:
        self._device, self._dtype = like.device, like.dtype
        self._most_rates: float = math.inf
        torch.empty(_LARGE_BLOCK, dtype=torch.uint8, device="cpu")

    def losses(self, replay: Replay, rates: Iterable[float]) -> list[float]:
        """Return the losses of a row at some rates."""
        every = torch.tensor(list(rates), dtype=self._dtype, device=self._device)
        room = _ROOM.get(self._device.type, _ROOM_ELSEWHERE)
        losses: list[float] = []
        while len(losses) < len(every):
            left = len(every) - len(losses)
            most = min(self._most_rates, max(1, room // max(1, replay.largest)))
            chunk = every[len(losses) : len(losses) + math.ceil(left / math.ceil(left / most))]
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="There is a performance drop")  # it is timed instead
                    losses += replay.at_once(chunk).tolist()
            except RuntimeError as error:
                if len(chunk) == 1 or not is_short_of_memory(error):
                    raise
                self._most_rates = len(chunk) // 2
        return losses


def is_short_of_memory(error: RuntimeError) -> bool:
    """Return whether an allocation has failed."""
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def pool(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Return the maxima, bit for bit those of ``F.max_pool2d``.

    On the CPU, torch's is vectorized over the channels only where these are the last dimension in memory, and some ten
    times slower elsewhere.
    """
    is_slow = x.device.type == "cpu" and x.ndim == 4 and x.is_contiguous() and x.shape[1] >= 8
    maxima: torch.Tensor = F.max_pool2d(
        x.contiguous(memory_format=torch.channels_last) if is_slow else x, *args, **kwargs
    )
    return maxima.contiguous() if is_slow else maxima


def _filled(value: Any, values: Any) -> Any:
    """Return an argument with values in place of slots."""
    if type(value) is Slot:
        return values[value.number]
    if type(value) in (tuple, list):
        return type(value)([_filled(item, values) for item in value])
    if type(value) is dict:
        return {key: _filled(item, values) for key, item in value.items()}
    return value


def _keep(values: dict[int, Any], call: Call, output: Any) -> None:
    """Put what a call has returned into its slots."""
    outputs = (output,) if call.is_single else output or ()
    for slot, value in zip(call.outputs, outputs, strict=True):
        if slot is not None:
            values[slot] = value


def _check_shapes(values: dict[int, Any], call: Call) -> None:
    """Raise where a value has another shape than in the record."""
    for slot, shape in zip(call.outputs, call.shapes, strict=True):
        if slot is not None and values[slot].shape != shape:
            raise UnfitError("a shape depends on the rate")

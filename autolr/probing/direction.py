"""The line on which an optimizer's step lies, where it is linear in the rate; and whether it does."""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from autolr._typing import Batch
from autolr.probing.gradients import RowGradients
from autolr.probing.sharded import local
from autolr.probing.start import Start

STEP_TOLERANCE = 1e-4
# NOTE: of a step this many times the rounding error of the weights, a check sees a tenth (coarse) or STEP_TOLERANCE
_COARSE, _FINE = 10.0, 10.0 / STEP_TOLERANCE
# A tensor of more entries is compared by its sketch: 4 random sums of 1024 entries each, a 256th of its memory.
_EXACT, _SUMS, _SUMMED, _BLOCK = 8192, 4, 1024, 256

_TORCH = str(Path(torch.__file__).parent)
_LINEAR = {torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam}
_LINEAR |= {torch.optim.Adamax, torch.optim.Adadelta, torch.optim.Adagrad, torch.optim.RMSprop}


class Direction:
    r"""The direction d of one row, with which :math:`\theta(\mathrm{lr}) = \theta_0 - \mathrm{lr}\, d`.

    It is measured by one real step at the highest rate, :math:`d = (\theta_0 - \theta(\mathrm{lr}_K)) / \mathrm{lr}_K`
    (at a small one it would drown in the rounding of the weights), and checked by a second real step at a small rate.

    Memory: d lies in the storage of the gradient, :math:`\theta_0` in the snapshot of the start, and real steps are
    compared by sketches, so that nothing of the size of the parameters is allocated but the gradients. (Where these are
    sparse, d is dense. That of sharded ones does not lie in their storage.)

    Of a sharded parameter, all of this is about the shard; its norms are those of all shards together.

    Args:
        start: The start of all probes.

    Attributes:
        parameters: The parameters that the optimizer holds and that require gradients.
        origin: Their values at the start.
        steps: d, for each of them; ``None`` for one that does not move.
        is_whole: Whether these are all; a sparse parameter has no place here.
    """

    def __init__(self, start: Start) -> None:
        self._start = start
        held = {id(p): p for group in start.optimizer.param_groups for p in group["params"] if p.requires_grad}
        self.parameters: list[torch.Tensor] = [p for p in held.values() if p.layout == torch.strided]
        self.is_whole = len(self.parameters) == len(held)
        self.origin = [start.snapshot.values_of(parameter) for parameter in self.parameters]
        self.steps: list[torch.Tensor | None] = [None] * len(self.parameters)
        self._data = [local(parameter).data for parameter in self.parameters]
        self._lockstep = start.objective.lockstep
        self._lengths = self._norms(self.origin)
        self._resolution = [torch.finfo(parameter.dtype).eps for parameter in self.parameters]

    @property
    def epsilon(self) -> float:
        """The resolution of the coarsest dtype among the parameters."""
        return max(self._resolution)

    def is_finite(self) -> bool:
        """Return whether d is finite; if not, a step overflowed, and there is no line."""
        return math.isfinite(self.length([step for step in self.steps if step is not None]))

    def length(self, sketches: list[torch.Tensor]) -> float:
        """Return the length of a way from its sketches."""
        return self._lockstep.norms([length_of(sketches)])[0]

    def points(self) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Return the parameters that move, each with its start and its step."""
        points = zip(self.parameters, self.origin, self.steps, strict=True)
        return [(parameter, origin, step) for parameter, origin, step in points if step is not None]

    def resolvable(self, length: float) -> tuple[float, float]:
        """Return the rates from which a tenth, and STEP_TOLERANCE, of a step exceeds the rounding of the weights.

        Args:
            length: The length of the step in units of the rate.
        """
        rounding = self.epsilon * math.hypot(*self._lengths) / length if length > 0.0 else math.inf
        return _COARSE * rounding, _FINE * rounding

    def gradients(self, batch: Batch) -> RowGradients:
        """Return the gradients on a batch, from the start; d is forgotten, so that there is room for them."""
        self.steps = [None] * len(self.parameters)
        return RowGradients(self._start, batch)

    def step(self, learning_rate: float, gradients: RowGradients) -> list[torch.Tensor]:
        """Take a real step from the start, stay there, and return the sketches of the way, tensor by tensor."""
        gradients.step(learning_rate)
        return [_sketch(local(p).data, origin) for p, origin in zip(self.parameters, self.origin, strict=True)]

    def take(self, learning_rate: float, gradients: RowGradients) -> None:
        """Measure d by a real step from the start, which uses the gradients up, and go back to the start."""
        gradients.step(learning_rate)
        storage = dict(zip(map(id, self._start.objective.parameters), gradients.values, strict=True))
        for index, (parameter, origin) in enumerate(zip(self.parameters, self.origin, strict=True)):
            gradient, data = storage.get(id(parameter)), local(parameter).data
            hooks = getattr(parameter, "_post_accumulate_grad_hooks", None)  # which may have kept it
            if gradient is None and torch.equal(data, origin):
                self.steps[index] = None
            else:
                is_free = gradient is not None and not hooks and _like(gradient, origin)
                place = gradient if is_free else torch.empty_like(origin)
                self.steps[index] = torch.sub(origin, data, out=place).div_(learning_rate)
        self._start.restore()

    def sketches(self) -> list[torch.Tensor]:
        """Return the sketches of the way to rate 1 on the line, tensor by tensor."""
        ways = zip(self.steps, self.origin, strict=True)
        return [_sketch(torch.zeros_like(origin) if step is None else step).neg() for step, origin in ways]

    def off_line(self, learning_rate: float, real: list[torch.Tensor], line: list[torch.Tensor]) -> str | None:
        r"""Return by how much a real step is off a line, or ``None`` where it is on it.

        Tensor by tensor: :math:`\|\delta(\mathrm{lr}) + \mathrm{lr}\, d\| \le \max(10^{-4}, 4 \epsilon)
        \|\delta(\mathrm{lr})\| + \epsilon \|\theta_0\|`, where :math:`\delta` is the way from the start. Norms of
        tensors of more than 8192 entries are estimated from their sketches, as the length of a vector is from its
        random projections (Johnson & Lindenstrauss 1984): the square of a sum with normal weights has that of the norm
        as its mean.

        Args:
            learning_rate: The rate of the real step.
            real: Its sketches.
            line: Those of the way to rate 1.
        """
        beside = torch._foreach_sub(real, torch._foreach_mul(line, learning_rate))
        allowances = zip(self._norms(beside), self._norms(real), self._resolution, self._lengths, strict=True)
        for distance, length, epsilon, origin in allowances:
            allowed = max(STEP_TOLERANCE, 4.0 * epsilon) * length + epsilon * origin
            if not distance <= allowed:
                return f"the real step at {learning_rate:.3g} is off the line by {distance:.2g}, {allowed:.2g} allowed"
        return None

    def _norms(self, tensors: Sequence[torch.Tensor]) -> list[float]:
        return self._lockstep.norms(_norms(tensors))

    def move(self, learning_rate: float, still: frozenset[int] = frozenset()) -> None:
        """Move the parameters to the point of the line at a rate, but for those whose ``id`` is in ``still``."""
        for parameter, data, origin, step in zip(self.parameters, self._data, self.origin, self.steps, strict=True):
            if step is not None and id(parameter) not in still:
                torch.add(origin, step, alpha=-learning_rate, out=data)


def is_linear(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether the optimizer's own formula is linear in the rate, whatever its state and the gradients.

    So are these optimizers of torch, each as torch has it: without hooks around its step and not patched, but by a
    scheduler, which counts the steps.
    """
    hooks = [
        *optimizer._optimizer_step_pre_hooks.values(),
        *optimizer._optimizer_step_post_hooks.values(),
        *_global_optimizer_pre_hooks.values(),
        *_global_optimizer_post_hooks.values(),
    ]
    return type(optimizer) in _LINEAR and _is_torchs(optimizer.step) and not hooks


def _is_torchs(function: object) -> bool:
    """Return whether a function and all that it wraps are written in torch."""
    while function is not None:
        code = getattr(function, "__code__", None)
        if code is None or not code.co_filename.startswith(_TORCH):
            return False
        function = getattr(function, "__wrapped__", None)
    return True


def length_of(sketches: list[torch.Tensor]) -> float:
    """Return the length of a way from its sketches."""
    return math.hypot(*_norms(sketches))


def _sketch(position: torch.Tensor, origin: torch.Tensor | None = None) -> torch.Tensor:
    """Return the way from ``origin`` (or 0) to ``position`` or, where it has many entries, random sums of them."""
    count = position.numel()
    if count <= _EXACT:
        return (position if origin is None else position - origin).flatten()
    # views, but of tensors in another memory format
    tensors = [tensor.reshape(-1) for tensor in (position, origin) if tensor is not None]
    width = count // _SUMMED
    weights = _weights(position.device, position.dtype)
    wide = [tensor[: width * _SUMMED].view(_SUMMED, width) for tensor in tensors]
    ends = [tensor[width * _SUMMED :] for tensor in tensors]
    blocks = [[tensor[:, begin : begin + _BLOCK] for tensor in wide] for begin in range(0, width, _BLOCK)]
    return torch.cat([*((weights @ _minus(*block)).flatten() for block in blocks), _minus(*ends)])


def _minus(first: torch.Tensor, second: torch.Tensor | None = None) -> torch.Tensor:
    return first if second is None else first - second


@cache
def _weights(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return normal weights over the square root of the number of sums, the same ones always."""
    weights = torch.randn(_SUMS, _SUMMED, generator=torch.Generator().manual_seed(0), device="cpu", dtype=torch.float64)
    return weights.div_(math.sqrt(_SUMS)).to(dtype).to(device)


def _norms(tensors: Sequence[torch.Tensor]) -> list[float]:
    """Return the Euclidean norm of each tensor, summed in at least float32."""
    half = [tensor.dtype in (torch.float16, torch.bfloat16) for tensor in tensors]
    wide = [tensor.float() if is_half else tensor for tensor, is_half in zip(tensors, half, strict=True)]
    norms = torch._foreach_norm(wide) if wide else ()
    if len({(norm.device, norm.dtype) for norm in norms}) == 1:
        return [float(norm) for norm in torch.stack(list(norms)).tolist()]  # one transfer from an accelerator
    return [float(norm) for norm in norms]


def _is_unshared(gradient: torch.Tensor) -> bool:
    """Return whether nothing else lies in the storage of a gradient; where that cannot be known, it may."""
    count = getattr(torch._C, "_storage_Use_Count", None)
    return count is not None and count(gradient.untyped_storage()._cdata) <= 2  # the tensor and the storage at hand


def _like(gradient: torch.Tensor, origin: torch.Tensor) -> bool:
    """Return whether d can lie in the storage of the gradient."""
    return (
        local(gradient) is gradient
        and gradient.layout == origin.layout
        and gradient.dtype == origin.dtype
        and gradient.device == origin.device
        and gradient.shape == origin.shape
        and all(stride > 0 or size <= 1 for stride, size in zip(gradient.stride(), gradient.shape, strict=True))
        and _is_unshared(gradient)
    )

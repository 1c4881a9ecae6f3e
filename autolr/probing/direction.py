"""The line on which an optimizer's step lies, where it is linear in the rate; and whether it does."""

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from autolr._typing import Batch
from autolr.probing.affine import Points
from autolr.probing.start import Start

STEP_TOLERANCE = 1e-4
# NOTE: of a step this many times the rounding error of the weights, a check sees a tenth (coarse) or STEP_TOLERANCE
_COARSE, _FINE = 10.0, 10.0 / STEP_TOLERANCE
# A tensor of more entries is compared by its sketch: 4 random signed sums of 256 entries each, a 64th of its memory.
_EXACT, _SUMS, _SUMMED, _BLOCK = 8192, 4, 256, 4096

_LINEAR = {torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam}
_LINEAR |= {torch.optim.Adamax, torch.optim.Adadelta, torch.optim.Adagrad, torch.optim.RMSprop}


class Direction:
    r"""The direction d of one row, with which :math:`\theta(\mathrm{lr}) = \theta_0 - \mathrm{lr}\, d`.

    It is measured by one real step at the highest rate, :math:`d = (\theta_0 - \theta(\mathrm{lr}_K)) / \mathrm{lr}_K`
    (at a small one it would drown in the rounding of the weights), and checked by a second real step at a small rate.

    Memory: d lies in the storage of the gradient, :math:`\theta_0` in the snapshot of the start, and real steps are
    compared by sketches, so that nothing of the size of the parameters is allocated but the gradients. (An optimizer or
    a hook that writes into the gradients costs a copy of them; sparse gradients, dense ones.)

    Args:
        start: The start of all probes.

    Attributes:
        parameters: The parameters that the optimizer holds and that require gradients.
        origin: Their values at the start.
        steps: d, for each of them; ``None`` for one that does not move.
        has_moved: Whether the parameters have been moved since d was measured.
    """

    def __init__(self, start: Start) -> None:
        self._start = start
        held = {id(p): p for group in start.optimizer.param_groups for p in group["params"] if p.requires_grad}
        self.parameters: list[torch.Tensor] = list(held.values())
        self.origin = [start.snapshot.values_of(parameter) for parameter in self.parameters]
        self.steps: list[torch.Tensor | None] = [None] * len(self.parameters)
        self._data = [parameter.data for parameter in self.parameters]
        self._lengths = _norms(self.origin)
        self._resolution = [torch.finfo(parameter.dtype).eps for parameter in self.parameters]
        self._gradients_are_written = False
        self.has_moved = False

    @property
    def epsilon(self) -> float:
        """The resolution of the coarsest dtype among the parameters."""
        return max(self._resolution)

    def is_finite(self) -> bool:
        """Return whether d is finite; if not, a step overflowed, and there is no line."""
        return math.isfinite(length_of([step for step in self.steps if step is not None]))

    def points(self) -> Points:
        """Return the start and the step of each parameter."""
        return dict(zip(map(id, self.parameters), zip(self.origin, self.steps, strict=True), strict=True))

    def resolvable(self, length: float) -> tuple[float, float]:
        """Return the rates from which a tenth, and STEP_TOLERANCE, of a step exceeds the rounding of the weights.

        Args:
            length: The length of the step in units of the rate.
        """
        rounding = self.epsilon * math.hypot(*self._lengths) / length if length > 0.0 else math.inf
        return _COARSE * rounding, _FINE * rounding

    def gradients(self, batch: Batch) -> Sequence[torch.Tensor | None]:
        """Return the gradients on a batch, from the start; d is forgotten, so that there is room for them."""
        self.steps = [None] * len(self.parameters)
        return self._start.gradients(batch)

    def step(
        self, learning_rate: float, batch: Batch, gradients: Sequence[torch.Tensor | None], *, sketch: bool = True
    ) -> list[torch.Tensor]:
        """Take a real step from the start, stay there, and return the sketches of the way, tensor by tensor.

        Args:
            learning_rate: The rate.
            batch: The batch.
            gradients: The gradients on it, which are as they were afterwards.
            sketch: Whether to return sketches.
        """
        start = self._start
        start.set_gradients(gradients, copy=self._gradients_are_written)
        versions = [0 if gradient is None else gradient._version for gradient in gradients]
        start.step(learning_rate, batch)
        if versions != [0 if gradient is None else gradient._version for gradient in gradients]:
            return self._step_again(learning_rate, batch, gradients)
        if not sketch:
            return []
        return [_sketch(p.data, origin) for p, origin in zip(self.parameters, self.origin, strict=True)]

    def _step_again(
        self, learning_rate: float, batch: Batch, gradients: Sequence[torch.Tensor | None]
    ) -> list[torch.Tensor]:
        """Take a step again that has written into the gradients: from copies of them, now and always."""
        self._gradients_are_written = True
        self._start.restore()
        for gradient, value in zip(gradients, self._start.gradients(batch), strict=True):
            if gradient is not None and value is not None:
                gradient.copy_(value)
        self._start.restore()
        return self.step(learning_rate, batch, gradients)

    def take(
        self, learning_rate: float, batch: Batch, gradients: Sequence[torch.Tensor | None], *, sketch: bool = True
    ) -> list[torch.Tensor]:
        """Measure d by a real step from the start, which uses the gradients up, and go back to the start.

        Returns:
            The sketches of the step, if asked for.
        """
        sketches = self.step(learning_rate, batch, gradients, sketch=sketch)
        storage = dict(zip(map(id, self._start.objective.parameters), gradients, strict=True))
        for index, (parameter, origin) in enumerate(zip(self.parameters, self.origin, strict=True)):
            gradient = storage.get(id(parameter))
            if gradient is None and torch.equal(parameter.data, origin):
                self.steps[index] = None
            else:
                place = gradient if gradient is not None and _like(gradient, origin) else torch.empty_like(origin)
                self.steps[index] = torch.sub(origin, parameter.data, out=place).div_(learning_rate)
        self._start.restore()
        self.has_moved = False
        return sketches

    def off_line(
        self, learning_rate: float, real: list[torch.Tensor], highest: float, line: list[torch.Tensor]
    ) -> str | None:
        r"""Return by how much a real step is off the line of another, or ``None`` where it is on it.

        Tensor by tensor: :math:`\|\delta(\mathrm{lr}) - \delta(\mathrm{lr}_K)\, \mathrm{lr} / \mathrm{lr}_K\| \le
        10^{-4} \|\delta(\mathrm{lr})\| + \epsilon \|\theta_0\|`, where :math:`\delta` is the way from the start. Norms
        of tensors of more than 8192 entries are estimated from their sketches, as the length of a vector is from its
        random projections (Johnson & Lindenstrauss 1984): a sum over 256 entries with random signs has the expected
        square of their norm.

        Args:
            learning_rate: The rate of the real step.
            real: Its sketches.
            highest: The rate of the step that gave the line.
            line: The sketches of that step.
        """
        beside = torch._foreach_sub(real, torch._foreach_mul(line, learning_rate / highest))
        allowances = zip(_norms(beside), _norms(real), self._resolution, self._lengths, strict=True)
        for distance, length, epsilon, origin in allowances:
            allowed = STEP_TOLERANCE * length + epsilon * origin
            if not distance <= allowed:
                return f"the real step at {learning_rate:.3g} is off the line by {distance:.2g}, {allowed:.2g} allowed"
        return None

    def move(self, learning_rate: float, still: frozenset[int] = frozenset()) -> None:
        """Move the parameters to the point of the line at a rate, but for those whose ``id`` is in ``still``."""
        self.has_moved = True
        for parameter, data, origin, step in zip(self.parameters, self._data, self.origin, self.steps, strict=True):
            if step is not None and id(parameter) not in still:
                torch.add(origin, step, alpha=-learning_rate, out=data)


def is_linear(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether the optimizer's own formula is linear in the rate, whatever its state and the gradients.

    So are these optimizers of torch, each as torch has it: without hooks around its step and not patched, but by a
    scheduler, which counts the steps.
    """
    kind = type(optimizer)
    step = vars(optimizer).get("step", kind.step)
    counted = getattr(step, "_wrapped_by_lr_sched", False) and getattr(step, "__wrapped__", None) is kind.step
    hooks = [
        *optimizer._optimizer_step_pre_hooks.values(),
        *optimizer._optimizer_step_post_hooks.values(),
        *_global_optimizer_pre_hooks.values(),
        *_global_optimizer_post_hooks.values(),
    ]
    return kind in _LINEAR and (step is kind.step or counted) and not hooks


def length_of(sketches: list[torch.Tensor]) -> float:
    """Return the length of a way from its sketches."""
    return math.hypot(*_norms(sketches))


def _sketch(position: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
    """Return the way from ``origin`` to ``position`` or, where it has many entries, random sums of them."""
    count = origin.numel()
    if count <= _EXACT:
        return (position - origin).flatten()
    position, origin = position.reshape(-1), origin.reshape(-1)  # views, but of tensors in another memory format
    signs = _signs(origin.device, origin.dtype)
    width = count // _SUMMED
    here, there = (tensor[: width * _SUMMED].view(_SUMMED, width) for tensor in (position, origin))
    sums = [
        (signs @ (here[:, begin : begin + _BLOCK] - there[:, begin : begin + _BLOCK])).flatten()
        for begin in range(0, width, _BLOCK)
    ]
    return torch.cat([*sums, position[width * _SUMMED :] - origin[width * _SUMMED :]])


@cache
def _signs(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return random signs over the square root of the number of sums, the same ones always."""
    signs = torch.randint(2, (_SUMS, _SUMMED), generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1)
    return signs.to(device, dtype).div_(math.sqrt(_SUMS))


def _norms(tensors: Sequence[torch.Tensor]) -> list[float]:
    """Return the Euclidean norm of each tensor, summed in at least float32."""
    half = [tensor.dtype in (torch.float16, torch.bfloat16) for tensor in tensors]
    wide = [tensor.float() if is_half else tensor for tensor, is_half in zip(tensors, half, strict=True)]
    norms = torch._foreach_norm(wide)
    if len({(norm.device, norm.dtype) for norm in norms}) == 1:
        return [float(norm) for norm in torch.stack(list(norms)).tolist()]  # one transfer from an accelerator
    return [float(norm) for norm in norms]


def _like(gradient: torch.Tensor, origin: torch.Tensor) -> bool:
    """Return whether d can lie in the storage of the gradient."""
    return (
        gradient.layout == origin.layout
        and gradient.dtype == origin.dtype
        and gradient.device == origin.device
        and gradient.shape == origin.shape
        and all(stride > 0 or size <= 1 for stride, size in zip(gradient.stride(), gradient.shape, strict=True))
    )

"""The line probe: one real step gives the direction, then forwards only; with the gate that it must pass."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from autolr._typing import Batch, FloatArray
from autolr.probing.start import Start, needs_closure
from autolr.probing.step import probe_by_steps

STEP_TOLERANCE = 1e-4
LOSS_TOLERANCE = 1e-6
# NOTE: of a step this many times the rounding error of the weights, the gate sees a tenth (coarse) or STEP_TOLERANCE
_COARSE, _FINE = 10.0, 10.0 / STEP_TOLERANCE


class LineProbe:
    r"""Probes along the line on which the optimizer's step lies, where it is linear in the rate.

    For most optimizers, given the state and the gradient, :math:`\theta(\mathrm{lr}) = \theta_0 - \mathrm{lr}\, d`. One
    real step at the largest rate gives :math:`d = (\theta_0 - \theta(\mathrm{lr}_K)) / \mathrm{lr}_K`; each rate then
    costs one forward. Hooks of the optimizer (clipping) run in that step. Whether the step is linear is not assumed but
    tested: on some rows in full, losses included (:meth:`objection`), and in every row by a second real step at a small
    rate, which must lie on the line too; where it does not, the row is probed by real steps.

    Args:
        start: The start of all probes.
        learning_rates: The rates, shape ``(K,)``.
    """

    def __init__(self, start: Start, learning_rates: FloatArray) -> None:
        self._start = start
        self._learning_rates = learning_rates
        held = {id(p): p for group in start.optimizer.param_groups for p in group["params"] if p.requires_grad}
        self._parameters = [parameter.data for parameter in held.values()]
        self._origin = [parameter.clone() for parameter in self._parameters]

    def __call__(self, batch: Batch, evaluation_batch: Batch) -> tuple[float, FloatArray]:
        """Return the loss before, and the losses after a step at each rate, as the reference does.

        Args:
            batch: The subsample that gives the gradient.
            evaluation_batch: The subsample on which the losses are measured; it may be the same.

        Returns:
            The loss before, and the losses after, shape ``(K,)``; what is not finite is ``inf``.
        """
        start = self._start
        loss_pre = start.loss(evaluation_batch)
        start.randomness.leave_numpy_if_unused()
        gradients = start.gradients(batch)
        direction = self._direction(float(self._learning_rates[-1]), batch, gradients)
        if not self._is_straight(direction, batch, gradients):
            return self._by_steps(batch, evaluation_batch)
        loss_post = np.empty(len(self._learning_rates))
        for k, learning_rate in enumerate(self._learning_rates):
            self._move(float(learning_rate), direction)
            loss_post[k] = start.loss(evaluation_batch)
        start.restore()
        if not (start.randomness.rewinds_numpy or start.randomness.numpy_is_unused()):
            return self._by_steps(batch, evaluation_batch)
        loss_post[~np.isfinite(loss_post)] = np.inf
        return loss_pre, loss_post

    def objection(self, batch: Batch, evaluation_batch: Batch) -> str | None:
        r"""Return why the line may not be used, or ``None`` where real steps verify it on these subsamples.

        Real steps at four rates from the lowest to the highest must lie on the line, tensor by tensor:
        :math:`\|\theta(\mathrm{lr}) - (\theta_0 - \mathrm{lr}\, d)\| \le 10^{-4} \|\theta(\mathrm{lr}) - \theta_0\| +
        \epsilon \|\theta_0\|`; and the losses there must agree to :math:`\max(10^{-6}, 8 \epsilon) \max(|L|, 1)`, with
        :math:`\epsilon` the resolution of the dtype. A rate whose step is lost in the rounding of the weights proves
        nothing: the lowest one tested is where the gate sees a deviation of a tenth of the step, another where it sees
        :math:`10^{-4}`, off the grid if need be.
        """
        start = self._start
        if needs_closure(start.optimizer):
            return f"{type(start.optimizer).__name__} computes losses within its step"
        coarsest = max((parameter.dtype for parameter in self._parameters), key=lambda dtype: torch.finfo(dtype).eps)
        epsilon = torch.finfo(coarsest).eps
        if max(epsilon, start.objective.epsilon) > LOSS_TOLERANCE:
            return f"{coarsest} is too coarse to verify it" if epsilon > LOSS_TOLERANCE else "the loss is too coarse"
        low, high = float(self._learning_rates[0]), float(self._learning_rates[-1])
        start.restore()
        gradients = start.gradients(batch)
        direction = self._direction(high, batch, gradients)
        length = _norm(direction)
        if not (math.isfinite(length) and length > 0.0):
            start.restore()
            return f"the step at {high:g} is {'zero' if length == 0.0 else 'not finite'}"
        coarse, fine = self._resolvable(length, epsilon)
        low, fine = max(low, coarse), max(low, fine)
        high = max(high, fine)
        for learning_rate in sorted({low, fine, math.sqrt(low * high), high}):
            objection = self._compare(learning_rate, direction, batch, evaluation_batch, gradients)
            if objection is not None:
                break
        start.restore()
        return objection

    def _is_straight(
        self, direction: list[torch.Tensor], batch: Batch, gradients: Sequence[torch.Tensor | None]
    ) -> bool:
        """Return whether a real step at the smallest rate that can be resolved lies on the line of this row.

        A step that is bent at the highest rate only, by a limit on its length or on the weights, is seen as well: the
        line is then the wrong one at small rates. A step that overflowed has no line.
        """
        length = _norm(direction)
        if not math.isfinite(length):
            return False
        low, high = float(self._learning_rates[0]), float(self._learning_rates[-1])
        coarse, fine = self._resolvable(length, max(torch.finfo(p.dtype).eps for p in self._parameters))
        learning_rate = next((rate for rate in (max(low, fine), max(low, coarse)) if rate < high), high)
        self._step(learning_rate, batch, gradients)
        straight = self._off_line(learning_rate, self._parameters, direction) is None
        self._start.restore()
        return straight

    def _by_steps(self, batch: Batch, evaluation_batch: Batch) -> tuple[float, FloatArray]:
        self._start.randomness.rewind_numpy_too()
        return probe_by_steps(self._start, self._learning_rates, batch, evaluation_batch)

    def _resolvable(self, length: float, epsilon: float) -> tuple[float, float]:
        """Return the rates from which a tenth, and STEP_TOLERANCE, of a step exceeds the rounding of the weights."""
        rounding = epsilon * _norm(self._origin) / length if length > 0.0 else math.inf
        return _COARSE * rounding, _FINE * rounding

    def _direction(
        self, learning_rate: float, batch: Batch, gradients: Sequence[torch.Tensor | None]
    ) -> list[torch.Tensor]:
        """Return d from one real step; the model is back at the start afterwards."""
        self._step(learning_rate, batch, gradients)
        direction = self._from_origin(learning_rate)
        self._start.restore()
        return direction

    def _from_origin(self, learning_rate: float) -> list[torch.Tensor]:
        """Return the way back from the parameters as they are, in units of the rate."""
        direction = torch._foreach_sub(self._origin, self._parameters)
        torch._foreach_div_(direction, learning_rate)
        return list(direction)

    def _step(self, learning_rate: float, batch: Batch, gradients: Sequence[torch.Tensor | None]) -> None:
        self._start.restore()
        self._start.set_gradients(gradients)
        self._start.step(learning_rate, batch)

    def _move(self, learning_rate: float, direction: list[torch.Tensor]) -> None:
        torch._foreach_copy_(self._parameters, self._origin)
        torch._foreach_add_(self._parameters, direction, alpha=-learning_rate)

    def _compare(
        self,
        learning_rate: float,
        direction: list[torch.Tensor],
        batch: Batch,
        evaluation_batch: Batch,
        gradients: Sequence[torch.Tensor | None],
    ) -> str | None:
        start = self._start
        self._step(learning_rate, batch, gradients)
        real = [parameter.clone() for parameter in self._parameters]
        real_loss = start.loss(evaluation_batch)
        start.restore()
        self._move(learning_rate, direction)
        line_loss = start.loss(evaluation_batch)
        off_line = self._off_line(learning_rate, real, direction)
        if off_line is not None:
            return off_line
        both_diverged = not (math.isfinite(real_loss) or math.isfinite(line_loss))
        allowed = max(LOSS_TOLERANCE, 8.0 * start.objective.epsilon) * max(abs(real_loss), 1.0)
        if not (both_diverged or abs(real_loss - line_loss) <= allowed):
            return (
                f"the loss at {learning_rate:.3g} is {line_loss:.8g} on the line, {real_loss:.8g} after the real step"
            )
        return None

    def _off_line(
        self, learning_rate: float, real: Sequence[torch.Tensor], direction: list[torch.Tensor]
    ) -> str | None:
        """Return by how much the positions after a real step are off the line, or ``None`` where they are on it."""
        line = torch._foreach_add(self._origin, direction, alpha=-learning_rate)
        for position, on_line, origin in zip(real, line, self._origin, strict=True):
            allowed = STEP_TOLERANCE * _norm([position - origin]) + torch.finfo(origin.dtype).eps * _norm([origin])
            distance = _norm([position - on_line])
            if not distance <= allowed:
                return f"the real step at {learning_rate:.3g} is off the line by {distance:.2g}, {allowed:.2g} allowed"
        return None


def _norm(tensors: list[torch.Tensor]) -> float:
    """Return the Euclidean norm of all entries together, summed in at least float32."""
    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    norms = [
        float(torch.linalg.vector_norm(tensor, dtype=dtype if not tensor.is_complex() else None)) for tensor in tensors
    ]
    return math.hypot(*norms)

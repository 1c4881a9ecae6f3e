"""Warm-up: gradient evaluations that feed the optimizer's moments while the weights are held still."""

from collections.abc import Iterator

import torch

from autolr._typing import Batch
from autolr._validation import invalid
from autolr.probing.sharded import local
from autolr.probing.start import Start


def warm_up(start: Start, batches: Iterator[Batch], warmup_steps: int) -> int:
    """Take the optimizer's step with the gradient of each batch, at the start's weights, and put the weights back.

    Momentum and Adam-type state is empty at the start of a training, and their first step is then not like the others.

    Args:
        start: The start; its optimizer's state is changed, its weights are not.
        batches: The subsamples, one a step.
        warmup_steps: The number of steps asked for; fewer where the batches end.

    Returns:
        The number of steps taken.

    Raises:
        ValueError: If the optimizer keeps the rate in its state (ASGD, Rprop, LBFGS), so that the state would belong to
            one rate. Found by two first steps at different rates, whose states must be equal.
    """
    name = type(start.optimizer).__name__
    refusal = invalid("warmup_steps", f"be 0 for {name}, which keeps the rate in its state", warmup_steps)
    learning_rate = start.learning_rate
    num_steps = 0
    origin = [(parameter, parameter.detach().clone()) for parameter in start.objective.parameters]
    start.restore()
    for batch in batches:
        gradients = [None if gradient is None else gradient.clone() for gradient in start.gradients(batch)]
        if num_steps == 0:
            states = []
            for factor in (2.0, 1.0):  # with one gradient: that of a loss which draws anew would not be the same twice
                start.restore()
                _step_and_hold(start, gradients, factor * learning_rate, batch, origin)
                states.append(_tensors(start.optimizer.state))
            # a warm Rprop no longer looks at the rate, which its first step put into its state
            if isinstance(start.optimizer, torch.optim.Rprop) or start.objective.lockstep.any(not _equal(*states)):
                raise ValueError(refusal)
        else:
            _step_and_hold(start, gradients, learning_rate, batch, origin)
        num_steps += 1
    start.objective.clear_gradients()
    return num_steps


def _step_and_hold(
    start: Start,
    gradients: list[torch.Tensor | None],
    learning_rate: float,
    batch: Batch,
    origin: list[tuple[torch.Tensor, torch.Tensor]],
) -> None:
    start.set_gradients(gradients, copy=True)
    start.step(learning_rate, batch)
    for parameter, values in origin:
        parameter.data.copy_(values)


def _tensors(value: object) -> list[torch.Tensor]:
    """Return copies of all numbers in an optimizer's state, in its order."""
    if isinstance(value, torch.Tensor):
        if value.is_sparse:  # momentum of sparse gradients
            entries = value.detach().coalesce()
            return [entries.indices().clone(), entries.values().clone()]
        return [local(value).detach().clone()]
    if isinstance(value, (float, int)):
        return [torch.tensor(value, device="cpu", dtype=torch.float64)]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(
        one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())
        for one, other in zip(first, second, strict=True)
    )

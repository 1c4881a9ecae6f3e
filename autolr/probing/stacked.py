"""Trajectories side by side: one training of stacked weights, whose slices are those of many rates."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)
from torch.overrides import TorchFunctionMode

from autolr._typing import Batch, FloatArray, IntArray
from autolr.batches import MicroBatches
from autolr.probing.direction import is_linear
from autolr.probing.forwards import coarseness
from autolr.probing.replay import is_short_of_memory
from autolr.probing.stacked_calls import cross_entropy, is_plain_cross_entropy
from autolr.probing.start import Start
from autolr.probing.state import Snapshot
from autolr.probing.tape import PROPERTIES
from autolr.probing.trajectory import StepSeed

# The bytes of weights, gradients, moments and activations of a chunk: on a CPU, what its last cache holds.
_ROOM = {"cpu": 24 << 20}
_ROOM_ELSEWHERE = 2 << 30
# The copies of the weights in a step: themselves, those before the step, gradient, step and two moments.
_COPIES = 6
# What an optimizer of torch's keeps of a parameter that counts its steps; all else has the parameter's shape.
_COUNTERS = frozenset({"step", "mu_product"})


class Stack:
    r"""The losses along the trajectories of many rates, trained together.

    The weights of C trajectories are stacked, :math:`\Theta` of shape ``(C, ...)``, and the loss is mapped over the
    slices (``torch.vmap``). A slice's loss does not depend on the others, so that the derivative of the sum of the
    losses by :math:`\Theta` has the gradient of each slice in its place: one backward. The optimizer is one of the
    user's class and settings, with its state repeated for each slice. Its step acts on each entry by itself and is
    linear in the rate, given state and gradient: :math:`\theta - \mathrm{lr}\, d`. One step at a common rate R moves
    the stack to :math:`\Theta' = \Theta - R D`; that of slice c at its own rate is

    .. math:: \theta_c - \mathrm{lr}_c\, d_c = \theta_c + (\mathrm{lr}_c / R) (\theta'_c - \theta_c),

    while state does not depend on the rate at all. With R of at least 1 and of all rates, what :math:`\theta'` is
    rounded by is not enlarged beyond the rounding of a real step. A slice that overflows is of no concern to the
    others, as nothing is computed across slices.

    Whatever would make a slice's training another one than that of :class:`~autolr.probing.trajectory.Trajectory` is
    an objection (:meth:`objection`), or raises an error of torch: what a forward leaves in the modules is not kept
    from step to step, which matters to none that leaves nothing but the running statistics of batch normalization.

    Args:
        start: The start of all probes.
        horizons: After how many steps losses are recorded, increasing, shape ``(H,)``.
    """

    def __init__(self, start: Start, horizons: IntArray) -> None:
        self._start, self._horizons = start, horizons
        held = {id(p): p for group in start.optimizer.param_groups for p in group["params"] if p.requires_grad}
        self._parameters = held
        self._most_rates = 1

    def objection(self, batch: Batch) -> str | None:
        """Return why this cannot be done, or ``None``; the memory of a slice is measured on the way.

        Args:
            batch: What the gradient of a step is computed on.
        """
        start, objective = self._start, self._start.objective
        if not is_linear(start.optimizer):
            return f"{type(start.optimizer).__name__} is not known to be linear in the rate, or has hooks"
        if any(parameter.layout != torch.strided for parameter in self._parameters.values()):
            return "a parameter is sparse"
        reason = coarseness(start, list(self._parameters.values())) or objective.obstacle or objective.gradient_obstacle
        if reason is not None:
            return reason
        start.restore()
        around = Snapshot(*objective.modules(), leave=objective.weights)
        saved: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            saved[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            objective.gradient(batch, keep=True)
        if any(parameter.grad is not None and parameter.grad.is_sparse for parameter in self._parameters.values()):
            return "a gradient is sparse"
        left = _is_written(around, _statistics(objective.modules()))
        if around.restore() or left:
            return "a forward leaves something in the modules"
        weights = sum(parameter.nbytes for parameter in self._parameters.values())
        device = next(iter(self._parameters.values())).device
        room = _ROOM.get(device.type, _ROOM_ELSEWHERE)
        self._most_rates = max(1, room // max(1, _COPIES * weights + sum(saved.values())))
        return None

    def losses(
        self, rates: FloatArray, batches: Sequence[Batch], evaluation_batch: Batch, seed: StepSeed
    ) -> FloatArray:
        """Return the losses after the steps, shape ``(K, H)``; ``inf`` from where a rate diverged on.

        Where memory is short, fewer rates are taken at a time from then on.

        Args:
            rates: The rates, shape ``(K,)``.
            batches: The subsamples that give the gradients, as many as the last horizon.
            evaluation_batch: The subsample on which the losses are measured.
            seed: The random state of each step.
        """
        seed, losses = cache(seed), []
        self._start.restore()
        done = 0
        while done < len(rates):
            left = len(rates) - done
            chunk = rates[done : done + math.ceil(left / math.ceil(left / self._most_rates))]
            try:
                losses.append(self._trained(chunk, batches, evaluation_batch, seed))
            except RuntimeError as error:
                if len(chunk) == 1 or not is_short_of_memory(error):
                    raise
                self._most_rates = len(chunk) // 2
                continue
            done += len(chunk)
        return np.concatenate(losses)

    def _trained(
        self, rates: FloatArray, batches: Sequence[Batch], evaluation_batch: Batch, seed: StepSeed
    ) -> FloatArray:
        """Train a chunk from the start, and return its losses, shape ``(C, H)``."""
        slices = _Slices(self._start, self._parameters, rates)
        loss_post = np.full((len(rates), len(self._horizons)), np.inf)
        alive = np.ones(len(rates), dtype=np.bool_)
        for h, horizon in enumerate(self._horizons):
            for step in range(0 if h == 0 else int(self._horizons[h - 1]), int(horizon)):
                self._move_to(seed(step))
                alive &= np.isfinite(slices.gradient(batches[step]))
                if not alive.any():
                    return loss_post
                slices.step()
            self._move_to(seed(0))
            losses = slices.losses(evaluation_batch)
            alive &= np.isfinite(losses)
            loss_post[alive, h] = losses[alive]
        return loss_post

    def _move_to(self, seed: np.random.SeedSequence) -> None:
        randomness = self._start.randomness
        randomness.move_to(randomness.state_of(seed))


class _Slices:
    """Stacked weights and their optimizer, at the start.

    Args:
        start: The start, at which model and optimizer are.
        parameters: The parameters that are trained, by their ``id``.
        rates: The rate of each slice, shape ``(C,)``.
    """

    def __init__(self, start: Start, parameters: Mapping[int, torch.Tensor], rates: FloatArray) -> None:
        self._objective = start.objective
        self._ids = list(parameters)
        self._stack = [_repeated(parameter, len(rates)).requires_grad_() for parameter in parameters.values()]
        common = max(1.0, float(rates.max()))
        tuned, ones = torch.from_numpy(rates / common), torch.ones(len(rates), dtype=torch.float64)
        stacks = dict(zip(self._ids, self._stack, strict=True))
        first = start.groups[0] if start.groups else 0
        self._factors: dict[int, torch.Tensor] = {}
        groups = []
        for index, group in enumerate(start.optimizer.param_groups):
            is_tuned = start.groups is None or index in start.groups
            rate = common * (start.base[index] / start.base[first]) if is_tuned else float(group["lr"])
            members = [stacks[id(parameter)] for parameter in group["params"] if id(parameter) in stacks]
            groups += [{**group, "params": members, "lr": rate}] if members else []
            for member in members:
                shape = (-1, *[1] * (member.ndim - 1))
                self._factors[id(member)] = (tuned if is_tuned else ones).to(member.dtype).to(member.device).view(shape)
        make: Callable[..., torch.optim.Optimizer] = type(start.optimizer)
        self._optimizer = make(groups)
        for key, stack in stacks.items():
            state = start.optimizer.state.get(parameters[key], {})
            if state:
                self._optimizer.state[stack] = {
                    name: _repeated(value, 0 if name in _COUNTERS else len(rates)) for name, value in state.items()
                }

    def losses(self, batch: Batch, *, graph: bool = False) -> Any:
        """Return the losses of the slices on a batch, shape ``(C,)``: an array, or a tensor with its graph."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")  # it is timed instead
            losses = self._objective.losses(batch, self._stack, self._at, graph=graph)
        return losses if graph else losses.cpu().double().numpy()

    def gradient(self, batch: Batch) -> FloatArray:
        """Compute the gradients of the next step, and return the losses before it, shape ``(C,)``."""
        parts = batch if isinstance(batch, MicroBatches) else (batch,)
        total: torch.Tensor | None = None
        for weights in self._stack:
            weights.grad = None
        for part in parts:
            losses = self.losses(part, graph=True) / len(parts)
            losses.sum().backward(inputs=self._stack)
            total = losses.detach() if total is None else total + losses.detach()
        assert total is not None
        return np.asarray(total.cpu().double().numpy())

    def step(self) -> None:
        """Take a step with these gradients, each slice at its own rate."""
        before = [weights.detach().clone() for weights in self._stack]
        self._optimizer.step()
        for weights, origin in zip(self._stack, before, strict=True):
            torch.addcmul(origin, weights.data.sub_(origin), self._factors[id(weights)], out=weights.data)

    def _at(self, slices: Sequence[torch.Tensor]) -> "_AtSlice":
        return _AtSlice(dict(zip(self._ids, slices, strict=True)))


class _AtSlice(TorchFunctionMode):
    """A forward with the weights of a slice, or of many of them as ``torch.vmap`` sees it.

    They stand in for a parameter wherever a function of torch is handed one. Batch normalization leaves its running
    statistics alone, and a plain cross-entropy is written out, as torch's own is mapped by more calls.
    """

    def __init__(self, slices: Mapping[int, torch.Tensor]) -> None:
        super().__init__()
        self._slices = slices

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in PROPERTIES:
            return func(*args, **kwargs)
        if func is F.cross_entropy and is_plain_cross_entropy(*args, **kwargs):
            return cross_entropy(self._replaced(args[0]), args[1])
        if func is F.batch_norm and kwargs.get("training"):
            args = (args[0], None, None)
        return func(*map(self._replaced, args), **{name: self._replaced(value) for name, value in kwargs.items()})

    def _replaced(self, value: Any) -> Any:
        """Return a value with the parameters in it as the slice has them."""
        if type(value) in (list, tuple):
            return type(value)(map(self._replaced, value))
        return self._slices.get(id(value), value)


def _repeated(value: Any, num: int) -> Any:
    """Return a copy of a tensor, ``num`` times where that is not 0; anything else is returned as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach()
    return (value.expand(num, *value.shape) if num else value).clone(memory_format=torch.contiguous_format)


def _statistics(modules: Sequence[nn.Module]) -> set[int]:
    """Return the ids of the running statistics of batch normalization, which a forward in training does not read."""
    parts = [
        part for module in modules for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)
    ]
    return {id(buffer) for part in parts for buffer in part.buffers(recurse=False)}


def _is_written(around: Snapshot, but_for: set[int]) -> bool:
    """Return whether a tensor of a snapshot has other values than it remembers, but for some."""
    tensors = [t for t in around.tensors if t.layout == torch.strided and id(t) not in but_for]
    return not all(torch.equal(tensor, around.values_of(tensor)) for tensor in tensors)

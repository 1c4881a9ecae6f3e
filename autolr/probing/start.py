"""Where every probe of a call starts, and the real optimizer step from there."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from autolr._typing import Batch
from autolr.param_groups import set_learning_rate
from autolr.probing.objective import Objective, is_compiled
from autolr.probing.random_state import ForkedRandomness
from autolr.probing.state import Snapshot


@dataclass(frozen=True, slots=True)
class Start:
    """Where every probe of a call starts: one model, one optimizer state, one random state a row.

    Attributes:
        objective: The loss.
        optimizer: The user's own optimizer, in the state that ``snapshot`` holds.
        snapshot: The state of model and optimizer from which every probe starts.
        randomness: The random state of the row, the same for all its losses.
        base: The rates of the parameter groups, whose ratios are kept.
        groups: The groups that are tuned, increasing; ``None``: all.
    """

    objective: Objective
    optimizer: torch.optim.Optimizer
    snapshot: Snapshot
    randomness: ForkedRandomness
    base: Sequence[float]
    groups: tuple[int, ...] | None = None

    @property
    def learning_rate(self) -> float:
        """The rate at which the optimizer is handed over: that of the first group that is tuned."""
        return self.base[self.groups[0] if self.groups else 0]

    def objects(self) -> list[object]:
        """Return what a step changes: the modules and the optimizer."""
        return [*self.objective.modules(), self.optimizer]

    def restore(self) -> bool:
        """Go back to the start, without gradients; return whether more than values of tensors had changed."""
        return self.snapshot.restore()

    def loss(self, batch: Batch) -> float:
        """Return the loss on ``batch`` at the weights as they are, from the row's random state."""
        self.randomness.rewind()
        return self.objective.loss(batch)

    def gradients(self, batch: Batch, *, keep: bool = False) -> list[torch.Tensor | None]:
        """Return the gradients of the objective's parameters on ``batch``, from the row's random state.

        They are left in ``.grad`` too: a step that works on them in place changes what is returned. ``keep`` is that of
        :meth:`Objective.gradient`.
        """
        self.randomness.rewind()
        self.objective.gradient(batch, keep=keep)
        return [parameter.grad for parameter in self.objective.parameters]

    def set_gradients(self, gradients: Sequence[torch.Tensor | None], *, copy: bool) -> None:
        """Put copies of ``gradients``, or these themselves, into ``.grad`` of the objective's parameters."""
        for parameter, gradient in zip(self.objective.parameters, gradients, strict=True):
            parameter.grad = gradient.clone() if copy and gradient is not None else gradient

    def step(self, learning_rate: float | None, batch: Batch, *, keep: bool = False) -> None:
        """Take the user's optimizer step with the gradients as they are, at ``learning_rate``; ``None``: at its rates.

        An optimizer that needs a closure (LBFGS) is given one that computes loss and gradient on ``batch``; ``keep``
        is that of :meth:`Objective.gradient` there. A compiled step is taken as it was written: for an empty state,
        which probes start from again and again, it would be compiled each time.
        """
        if learning_rate is not None:
            set_learning_rate(self.optimizer, learning_rate, self.base, groups=self.groups)
        self.randomness.rewind()
        if needs_closure(self.optimizer):

            def closure() -> float:
                self.randomness.rewind()
                return float(self.objective.gradient(batch, keep=keep))

            self.optimizer.step(closure)
        elif is_compiled(self.optimizer.step):
            with torch.compiler.set_stance("force_eager"):
                self.optimizer.step()
        else:
            self.optimizer.step()


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether the optimizer's step cannot do without a closure that computes the loss, as that of LBFGS."""
    return _needs_closure(type(optimizer).step)


@cache
def _needs_closure(step: Callable[..., object]) -> bool:
    closure = inspect.signature(step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty

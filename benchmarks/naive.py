"""The baselines of speed.py: a row by real steps, written by hand, slow and right.

Both take, from the same model and optimizer state, one backward pass and then for each rate a real ``optimizer.step()``
and a forward pass, and differ in how they go back:

- :class:`Naive`, "naive": ``load_state_dict`` of model and optimizer, as a user writes it. The state of the optimizer
  is deep-copied before it is loaded: ``Optimizer.load_state_dict`` does not copy tensors, so that the next step would
  write into the snapshot itself, and a warm AdamW would drift from rate to rate. The speed-ups are over this one.
- :class:`CopiedBack`, "copied back": the leanest loop, in which parameters, buffers and the tensors of the optimizer's
  state are overwritten in place from clones, and state that a step has made is dropped.

Both snapshots are taken once, not in every row, which favours the baseline. Assumed: the optimizer leaves gradients as
they are, and nothing is random.
"""

import copy

import numpy as np
import torch
from torch import nn
from workloads import Batch, loss_fn

Losses = tuple[float, np.ndarray]  # before, and after a step at each rate, shape (K,)


class Naive:
    """A row as a user writes it.

    Args:
        model: The model; it is at its start after every row.
        optimizer: The optimizer, too.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model = model
        self.optimizer = optimizer
        self._model_state = copy.deepcopy(model.state_dict())
        self._optimizer_state = copy.deepcopy(optimizer.state_dict())

    def restore(self) -> None:
        """Go back to the start."""
        self.model.load_state_dict(self._model_state)
        self.optimizer.load_state_dict(copy.deepcopy(self._optimizer_state))

    def __call__(self, rates: np.ndarray, batch: Batch, evaluation_batch: Batch) -> Losses:
        """Return the loss before, and that after a step at each rate, both on ``evaluation_batch``."""
        loss_pre = self._loss(evaluation_batch)
        self.restore()
        self.optimizer.zero_grad()
        with torch.enable_grad():
            loss: torch.Tensor = loss_fn(self.model(batch[0]), batch[1])
            loss.backward()  # type: ignore[no-untyped-call]
        loss_post = np.empty(len(rates))
        for k, rate in enumerate(rates):
            self.restore()
            for group in self.optimizer.param_groups:
                group["lr"] = float(rate)
            self.optimizer.step()
            loss_post[k] = self._loss(evaluation_batch)
        self.restore()
        self.optimizer.zero_grad()
        return loss_pre, loss_post

    def _loss(self, batch: Batch) -> float:
        with torch.no_grad():
            return float(loss_fn(self.model(batch[0]), batch[1]))


class CopiedBack(Naive):
    """A row in which nothing is put back but what a step and a forward change, in place."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(model, optimizer)
        self._rates = [group["lr"] for group in optimizer.param_groups]
        self._state = {parameter: dict(entries) for parameter, entries in optimizer.state.items()}
        of_model = [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]
        of_optimizer = [v for entries in self._state.values() for v in entries.values() if isinstance(v, torch.Tensor)]
        self._tensors = of_model + of_optimizer
        self._values = [tensor.clone() for tensor in self._tensors]

    def restore(self) -> None:
        """Go back to the start."""
        torch._foreach_copy_(self._tensors, self._values)
        self.optimizer.state.clear()  # of what a first step has made, too
        for parameter, entries in self._state.items():
            self.optimizer.state[parameter] = dict(entries)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate

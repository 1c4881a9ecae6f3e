"""Accelerate: the learning rate of a run, for what an ``Accelerator`` has prepared."""

import copy
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from autolr import search
from autolr._validation import invalid
from autolr.suggestion import Suggestion

try:
    from accelerate import Accelerator  # type: ignore[import-untyped]
    from accelerate.optimizer import AcceleratedOptimizer  # type: ignore[import-untyped]
except ImportError as error:
    raise ImportError("autolr.integrations.accelerate needs accelerate: pip install autolr[accelerate]") from error


def find_lr(
    accelerator: Accelerator,
    model: torch.nn.Module,
    loss_fn: Any,
    optimizer: torch.optim.Optimizer,
    data: Any,
    **options: Any,
) -> Suggestion:
    """Find the learning rate to train with: :func:`autolr.find_lr` on what ``accelerator.prepare`` has returned.

    Steps are taken as the accelerator takes them: with its mixed precision (the loss too is computed within
    ``accelerator.autocast``), its gradient scaler, and ``gradient_accumulation_steps`` batches a step; ``total_steps``
    counts steps of the optimizer. Clipping is not known to the accelerator before it is done: pass ``clip``.

    Nothing of the accelerator changes, neither its ``gradient_state`` nor where a prepared loader stands in its epochs;
    it may be called in mid-epoch. A training after it is bit for bit the training without it.

    Args:
        accelerator: The accelerator, of one process.
        model: The prepared model.
        loss_fn: As for :func:`autolr.find_lr`.
        optimizer: The prepared optimizer. The suggestion can be applied to it, with the prepared scheduler's
            ``.scheduler`` if there is one.
        data: The prepared loader, or data in any form of :func:`autolr.find_lr`.
        **options: Those of :func:`autolr.find_lr`, which come before what the accelerator says; ``val_data`` may be a
            prepared loader too.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If there are several processes, each of which would find a rate of its own; or as
            :func:`autolr.find_lr`.
        DivergedError: As :func:`autolr.find_lr`.

    Example:
        >>> accelerator = Accelerator(cpu=True)
        >>> x = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
        >>> model = torch.nn.Linear(4, 1)
        >>> loader = DataLoader(list(zip(x, x.sum(1, keepdim=True))), batch_size=8, shuffle=True)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=1e-7)
        >>> model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        >>> options = {"total_steps": 200, "effort": "fast", "rng": 0}
        >>> suggestion = find_lr(accelerator, model, torch.nn.MSELoss(), optimizer, loader, **options)
        >>> suggestion.apply(optimizer)
        >>> 1e-3 < optimizer.param_groups[0]["lr"] < 1.0
        True
    """
    if not isinstance(accelerator, Accelerator):
        raise TypeError(invalid("accelerator", "be an accelerate.Accelerator", accelerator))
    refuse_processes(accelerator.num_processes)
    defaults = {
        "autocast": accelerator.autocast if accelerator.native_amp else None,
        "scaler": accelerator.scaler,
        "accumulation_steps": accelerator.gradient_accumulation_steps,
    }
    if "val_data" in options:
        options["val_data"] = own_loader(options["val_data"])
    return search.find_lr(model, loss_fn, inner_optimizer(optimizer), own_loader(data), **(defaults | options))


def refuse_processes(number: int) -> None:
    """Raise where several processes, or devices, train one model together.

    Raises:
        ValueError: If there are several.
    """
    if number > 1:
        raise ValueError(invalid("accelerator", "have one process, on one device (others would disagree)", number))


def inner_optimizer(optimizer: Any) -> Any:
    """Return the optimizer that a prepared one steps, whether gradients are accumulated or not."""
    while isinstance(optimizer, AcceleratedOptimizer):
        optimizer = optimizer.optimizer
    return optimizer


def own_loader(data: Any) -> Any:
    """Return a loader to read in place of a prepared one, which would note in ``gradient_state`` that it is read.

    It reads the same datasets in the orders that the samplers give, by samplers of its own, as some count their epochs.
    Random generators are those of the data: whoever reads it puts them back. Other data is returned as it is.
    """
    loader = getattr(data, "base_dataloader", data)
    if not isinstance(loader, DataLoader):
        return loader
    own = copy.copy(loader)
    samplers = {name: _own_sampler(vars(loader)[name]) for name in ("sampler", "batch_sampler")}
    vars(own).update(samplers, _iterator=None)  # as attributes they cannot be set
    return own


def _own_sampler(sampler: Any) -> Any:
    """Return a copy of a sampler, and of the samplers within it."""
    if not isinstance(sampler, Sampler):
        return sampler
    own = copy.copy(sampler)
    vars(own).update({name: _own_sampler(value) for name, value in vars(sampler).items()})
    return own

"""Accelerate: the learning rate of a run, for what an ``Accelerator`` has prepared."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import Sampler

from autolr import search
from autolr._validation import check_integer, invalid
from autolr.integrations import _loaders
from autolr.integrations._hook import speaking
from autolr.ranks import are_several
from autolr.suggestion import Suggestion

try:
    from accelerate import Accelerator, DistributedType  # type: ignore[import-untyped]
    from accelerate.data_loader import (  # type: ignore[import-untyped]
        BatchSamplerShard,
        DataLoaderDispatcher,
        IterableDatasetShard,
    )
    from accelerate.optimizer import AcceleratedOptimizer  # type: ignore[import-untyped]
    from accelerate.state import AcceleratorState, PartialState  # type: ignore[import-untyped]
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

    Of several processes, all call it, and find the same rate together. A step has the batches of all of them, each by
    itself; samplers that shuffle do so in an order of the search's own. What ``loss_fn`` gathers or reduces by the
    accelerator is the process's own, as where there is one. Only the main process logs and warns.

    Args:
        accelerator: The accelerator, of one process or of several.
        model: The prepared model.
        loss_fn: As for :func:`autolr.find_lr`.
        optimizer: The prepared optimizer. The suggestion can be applied to it, with the prepared scheduler's
            ``.scheduler`` if there is one.
        data: The prepared loader, or data in any form of :func:`autolr.find_lr`.
        **options: Those of :func:`autolr.find_lr`, which come before what the accelerator says; ``val_data`` may be a
            prepared loader too.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the model is split over processes otherwise than by FSDP2, or what all of the data is cannot be
            seen; or as :func:`autolr.find_lr`.
        DivergedError: As :func:`autolr.find_lr`.

    Example:
        >>> from torch.utils.data import DataLoader
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
    check_processes()
    given = {
        "autocast": accelerator.autocast if accelerator.native_amp else None,
        "scaler": accelerator.scaler,
        "accumulation_steps": accelerator.gradient_accumulation_steps,
        **options,
    }
    micro_batches = check_integer("accumulation_steps", given["accumulation_steps"], minimum=1)
    given["accumulation_steps"] = micro_batches * accelerator.num_processes
    if "val_data" in given:
        given["val_data"] = own_loader(given["val_data"], name="val_data")
    with speaking(accelerator.is_main_process), as_one_process():
        return search.find_lr(model, loss_fn, inner_optimizer(optimizer), own_loader(data), **given)


def check_processes(num_devices: int = 1) -> None:
    """Raise unless there is one process, or several with a copy of the model each, or sharded by FSDP2.

    Args:
        num_devices: On how many devices each process has the model.

    Raises:
        ValueError: If the model is wrapped, or split, in another way.
    """
    state = AcceleratorState()
    mesh = getattr(state, "parallelism_config", None)
    if num_devices > 1 or (mesh is not None and mesh.non_data_parallel_size > 1):
        of_whole = "have the whole model, or a shard of FSDP2, on one device of each process"
        raise ValueError(invalid("accelerator", of_whole, mesh if num_devices == 1 else f"{num_devices} devices"))
    kind = state.distributed_type
    if state.num_processes > 1 and not (kind.startswith("MULTI_") or state.is_fsdp2):
        by_ddp = "train several processes by DistributedDataParallel, or by FSDP with fsdp_version=2"
        raise ValueError(invalid("accelerator", by_ddp, kind.value))


@contextmanager
def as_one_process() -> Iterator[None]:
    """Let all that is gathered, reduced or awaited by Accelerate within the block be this process's own."""
    if not are_several():
        yield
        return
    states = [state._shared_state for state in (PartialState, AcceleratorState)]
    kept = [dict(state) for state in states]
    try:
        for state in states:
            state.update(distributed_type=DistributedType.NO, num_processes=1)
        yield
    finally:
        for state, before in zip(states, kept, strict=True):
            state.update(before)


def inner_optimizer(optimizer: Any) -> Any:
    """Return the optimizer that a prepared one steps, whether gradients are accumulated or not."""
    while isinstance(optimizer, AcceleratedOptimizer):
        optimizer = optimizer.optimizer
    return optimizer


def own_loader(data: Any, *, name: str = "data") -> Any:
    """Return a loader to read in place of a prepared one, which would note in ``gradient_state`` that it is read.

    See :func:`autolr.integrations._loaders.own_loader`.

    Raises:
        ValueError: As there, and if the first process reads for all.
    """
    if isinstance(data, DataLoaderDispatcher) and are_several():
        by_each = "be prepared with dispatch_batches=False, so that every process can read it"
        raise ValueError(invalid(name, by_each, type(data).__name__))
    return _loaders.own_loader(getattr(data, "base_dataloader", data), name=name)


@_loaders.whole.register
def _(part: BatchSamplerShard, name: str) -> Any:
    batches = _loaders.whole(part.batch_sampler, name)
    return _Pieces(batches, part.batch_size // part.num_processes) if part.split_batches else batches


@_loaders.whole.register
def _(part: IterableDatasetShard, name: str) -> Any:  # noqa: ARG001 (as the others)
    return part.dataset


class _Pieces(Sampler[list[int]]):
    """Batches that processes split, piece by piece.

    Args:
        batches: The sampler of whole batches.
        size: The observations of a piece.
    """

    def __init__(self, batches: Sampler[list[int]], size: int) -> None:
        self._batches, self._size = batches, size

    def __iter__(self) -> Iterator[list[int]]:
        """Return an iterator over the pieces."""
        size = self._size
        return (batch[begin : begin + size] for batch in self._batches for begin in range(0, len(batch), size))

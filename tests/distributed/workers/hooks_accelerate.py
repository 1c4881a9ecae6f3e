"""Trainings by Accelerate in several processes, with a search in them and without; :func:`trained` is of one too."""

from functools import partial

import torch
import torch.distributed as dist
from accelerate import Accelerator, DataLoaderConfiguration, DistributedDataParallelKwargs
from harness import unchanged
from launch import digest, report
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from autolr.integrations.accelerate import find_lr

SEARCH = {"effort": "fast", "max_evaluations": 40, "total_steps": 200, "rng": 0}
X = torch.randn(48, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
PAIRS = TensorDataset(X, X.sum(1, keepdim=True))


class Stream(IterableDataset):
    """The same observations, one after the other."""

    def __iter__(self):
        return iter(PAIRS)


def prepared(lr=0.01, accumulated=1, *, is_stream=False, batch_size=4, static=False, sharded=False, **configuration):
    """Return an accelerator, and what it has prepared."""
    torch.manual_seed(0)
    accelerator = Accelerator(
        cpu=True,
        kwargs_handlers=[DistributedDataParallelKwargs(static_graph=static)],
        gradient_accumulation_steps=accumulated,
        dataloader_config=DataLoaderConfiguration(**configuration),
    )
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1)).double()
    if sharded:  # as Accelerate does on GPUs only
        fully_shard(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 20)
    loader = DataLoader(Stream() if is_stream else PAIRS, batch_size=batch_size, shuffle=not is_stream)
    prepared_model = model if sharded else accelerator.prepare(model)
    return accelerator, prepared_model, *accelerator.prepare(optimizer, loader, scheduler)


def found(accelerator, model, optimizer, loader, *, fails=False):
    """Return what is suggested where the loss talks to the other processes, or fails on one."""

    def loss_fn(output, target):
        if fails and accelerator.process_index == 1:
            raise ZeroDivisionError("of the user's own")
        loss = nn.functional.mse_loss(output, target)
        accelerator.wait_for_everyone()
        return accelerator.reduce(accelerator.gather(loss).mean()) / accelerator.num_processes

    return find_lr(accelerator, model, loss_fn, optimizer, loader, **SEARCH)


def told(suggestion):
    """Return the rate, and what was found at all that were tried."""
    return {"suggested": [float(suggestion)], "found": suggestion.evidence.trace["loss"].tolist()}


def trained(*, search=False, apply=False, fails=False, lr=0.01, **options):
    """Return the training's end in bits, its rates, and what was suggested in the middle of the second epoch."""
    error = None
    accelerator, model, optimizer, loader, scheduler = prepared(lr, **options)
    suggestion = None
    for epoch in range(2):
        for step, (x, y) in enumerate(loader):
            if fails and (epoch, step) == (1, 1):
                error = outcome(partial(found, accelerator, model, optimizer, loader, fails=True), model, optimizer)
            if search and (epoch, step) == (1, 1):
                suggestion = found(accelerator, model, optimizer, loader)
                if apply:
                    suggestion.apply(optimizer, scheduler.scheduler)
            with accelerator.accumulate(model):
                accelerator.backward(nn.functional.mse_loss(model(x), y))
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
    return {
        **({} if suggestion is None else told(suggestion)),
        "end": digest(accelerator.unwrap_model(model), optimizer.optimizer, torch.get_rng_state()),
        "error": error,
        "base rates": scheduler.scheduler.base_lrs,
    }


def outcome(call, model, optimizer):
    """Return what is raised, or what has changed."""
    try:
        with unchanged(model, optimizer.optimizer, extra=[model]):
            call()
    except Exception as error:  # noqa: BLE001 (it is reported)
        return [type(error).__name__, str(error)]
    return None


def suggested(**options):
    """Return what is suggested before a training, or what is raised."""
    accelerator, model, optimizer, loader, _ = prepared(**options)
    try:
        return told(found(accelerator, model, optimizer, loader))
    except ValueError as error:
        return str(error)


def main():
    report(
        {
            "without": trained(),
            "suggests": trained(search=True),
            "applies": trained(search=True, apply=True, lr=1e-7),
            "fault": trained(fails=True),
            "whole": suggested(),
            "accumulated": suggested(accumulated=2),
            "split": suggested(batch_size=8, split_batches=True),
            "seeded": suggested(use_seedable_sampler=True),
            "stream": suggested(is_stream=True, dispatch_batches=False),
            "dispatched": suggested(is_stream=True),
            "static graph": suggested(static=True),
            "sharded": suggested(sharded=True),
        }
    )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

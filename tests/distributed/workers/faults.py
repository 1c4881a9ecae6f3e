"""What becomes of a call in which a rank raises, sees NaN, has no memory, is given something else, or does not come."""

import os
import time
from functools import partial

import torch
import torch.distributed as dist
from harness import unchanged
from launch import report
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import autolr
from autolr import ranks

RATES = autolr.log_grid(1e-4, 1.0, 9)


class Fault:
    """A loss that fails on rank 1 at its n-th call."""

    def __init__(self, error, at):
        self.error, self.at, self.calls = error, at, 0

    def __call__(self, model, batch):
        self.calls += 1
        loss = nn.functional.mse_loss(model(batch[0]), batch[1])
        if dist.get_rank() == 1 and self.calls >= self.at:
            if self.error is None:
                return loss * float("nan")
            raise self.error
        return loss


def slow(fault):
    """Return the same loss, for which rank 0 takes its time."""

    def compute_loss(model, batch):
        time.sleep(0.25 * (dist.get_rank() == 0))
        return fault(model, batch)

    return compute_loss


def outcome(call):
    """Return the type and the text of what a call raises, and after how many seconds."""
    began = time.monotonic()
    try:
        call()
    except BaseException as error:  # noqa: BLE001 (reported)
        return [type(error).__name__, str(error), time.monotonic() - began]
    return ["nothing", "", time.monotonic() - began]


def main():
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    ranks.PATIENCE, ranks.BEAT = 4.0, 0.1
    torch.manual_seed(0)
    bare = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    model, X = DistributedDataParallel(bare), torch.randn(300, 5)
    Y = X.sum(1, keepdim=True)
    optimizer = torch.optim.Adam(bare.parameters(), lr=0.01)
    told = {}

    def tune(compute_loss=None, *, model=model, X=X, rng=0, **options):
        loss_fn = nn.MSELoss() if compute_loss is None else None
        tuner = autolr.AutoLRTuner(model, loss_fn, optimizer, compute_loss=compute_loss, rng=rng)
        return tuner.tune(X, Y, **{"learning_rates": RATES, "num_subsamples": 40, "engine": "line", **options})

    def search(compute_loss):
        return autolr.find_lr(
            model, None, optimizer, (X, Y), compute_loss=compute_loss, total_steps=900, num_streams=2, rng=0
        )

    faults = {
        "raises": ValueError("as a user's loss may"),
        "no memory": torch.OutOfMemoryError("out of memory"),
        "interrupt": KeyboardInterrupt(),
        "NaN": None,
    }
    cases = {f"{name}, {at}": partial(tune, Fault(error, at)) for name, error in faults.items() for at in (1, 25)}
    cases["search"] = partial(search, Fault(faults["raises"], 70))
    cases["a long row"] = partial(
        tune, slow(Fault(faults["raises"], 3)), learning_rates=autolr.log_grid(1e-4, 1.0, 60), engine="step"
    )
    cases["a long run"] = lambda: autolr.lr_range_test(
        model, None, optimizer, (X, Y), compute_loss=slow(Fault(faults["raises"], 3)), num_iter=60, rng=0
    )
    other, shifted = rank, X.clone()
    shifted[17] += 1.0 if rank else 0.0
    cases |= {
        "other seed": partial(tune, rng=other),
        "other rates": partial(tune, learning_rates=RATES * (1.0 + other)),
        "other size": partial(tune, batch_size=32 + other),
        "other data": partial(tune, X=shifted),
        "share of the data": partial(tune, X=X.roll(other, 0)),
        "a bad argument on one": partial(tune, num_subsamples=40 - 39 * other),
    }
    for name, case in cases.items():
        with unchanged(bare, optimizer, extra=[model]):
            told[name] = outcome(case)
    with torch.no_grad():
        bare[0].weight += rank
    told["other weights"] = outcome(tune)
    with torch.no_grad():
        bare[0].weight -= rank
        dist.broadcast(bare[0].weight, 0)
    with unchanged(bare, optimizer):
        told["absent"] = outcome(tune) if rank == 0 else ["nothing", "", 0.0]
    dist.barrier()
    told["afterwards"] = outcome(tune)
    group = dist.distributed_c10d._get_default_group()
    told["timeout of the user's group"] = group._get_backend(torch.device("cpu")).options._timeout.total_seconds()
    # last, as a collective that has timed out leaves its group of no use
    sharded = nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 1))
    fully_shard(sharded[0])
    fully_shard(sharded)
    sharded(X).sum().backward()  # the first forward makes what a sharded model keeps
    optimizer = torch.optim.Adam(sharded.parameters(), lr=0.01)
    with unchanged(sharded, optimizer):
        told["sharded"] = outcome(partial(tune, Fault(faults["raises"], 30), model=sharded))
    report(told)
    os._exit(0)  # the group cannot be taken down in order


if __name__ == "__main__":
    main()

"""Tunings of a model in DistributedDataParallel, and those that one process makes of it by itself."""

import os
from contextlib import nullcontext, redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from harness import unchanged
from launch import report
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import autolr
from autolr.ranks import joined, on_this_rank_only

RATES = autolr.log_grid(1e-4, 1.0, 9)
CALLS = {
    "step": {"engine": "step", "num_subsamples": 9},
    "line": {"engine": "line", "num_subsamples": 9},
    "auto": {"num_subsamples": 9},
    "horizon": {"horizon": [1, 3], "num_subsamples": 7, "engine": "step"},
    "warm-up": {"warmup_steps": 3, "num_subsamples": 5, "engine": "line"},
    "adaptive": {"adaptive": True, "num_subsamples": 60, "engine": "line"},
    "interpolate": {"interpolate": True, "num_subsamples": 30, "engine": "line", "learning_rates": "fine"},
    "partition": {"sampling": "partition", "batch_size": 8, "num_subsamples": 40, "engine": "line"},
    "few rows": {"num_subsamples": 2, "engine": "line"},
}


def training(seed):
    """Return a model with batch normalization and dropout, data, and a warm optimizer."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1)).double()
    X = torch.randn(400, 6, dtype=torch.float64)
    Y = X.sum(1, keepdim=True) + 0.1 * torch.randn(400, 1, dtype=torch.float64)
    return model, X, Y, torch.optim.AdamW(model.parameters(), lr=1e-3)


def warm(model, X, Y, optimizer, num_steps=3):
    """Train some steps on this rank's share of the data."""
    rank, size = dist.get_rank(), dist.get_world_size()
    for step in range(num_steps):
        rows = slice(32 * step + 16 * rank, 32 * step + 16 * rank + 16 * (rank < size))
        optimizer.zero_grad()
        nn.functional.mse_loss(model(X[rows]), Y[rows]).backward()
        optimizer.step()


def losses(result):
    record = result.differentials
    return {
        "pre": record.loss_pre.tolist(),
        "post": record.loss_post.tolist(),
        "interpolated": int(record.interpolated.sum()),
        "pick": result.get_best_lr(),
        "words": str(result),
        "settings": dict(result.settings),
    }


def found(suggestion):
    search = suggestion.evidence
    return {
        "pick": suggestion.learning_rate,
        "pre": [suggestion.low, suggestion.high],
        "post": search.trace.to_numpy()[:, 2:].astype(float).tolist(),
        "interpolated": 0,
        "words": str(suggestion),
        "settings": dict(search.settings),
    }


def refusal(call):
    try:
        call()
    except (TypeError, ValueError) as error:
        return str(error)
    return "nothing"


WAITED_FOR: set[int] = set()  # outside of the layer, whose attributes are put back


class Synchronized(nn.SyncBatchNorm):
    """On the CPU, where there is none; it notes how many ranks it would wait for."""

    def forward(self, x):
        WAITED_FOR.add(dist.get_world_size(self.process_group))
        return nn.functional.batch_norm(x, None, None, self.weight, self.bias, training=True)


def synchronized(X, Y):
    """Return for how many ranks such a layer waits in a call of all ranks, of one by itself, and afterwards."""
    layer, waits_for = Synchronized(6), []
    model = nn.Sequential(layer, nn.Linear(6, 1)).double()
    for parameter in model.parameters():
        dist.broadcast(parameter.data, 0)
    tuner = autolr.AutoLRTuner(model, nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1), rng=0)
    for alone in (False, True):
        WAITED_FOR.clear()
        with on_this_rank_only() if alone else nullcontext():
            tuner.tune(X, Y, learning_rates=RATES, num_subsamples=2, engine="line")
        waits_for.append(sorted(WAITED_FOR))
    return [*waits_for, layer.process_group]


def main():
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    bare, X, Y, optimizer = training(0)
    torch.manual_seed(100 + rank)  # the ranks' global states differ, as those of a training may
    model = DistributedDataParallel(bare)
    warm(model, X, Y, optimizer)
    rows = slice(16 * rank, 16 * rank + 16)
    pending = nn.functional.mse_loss(model(X[rows]), Y[rows])
    told = {}
    for name, call in CALLS.items():
        rates = autolr.log_grid(1e-4, 1.0, 40) if call.get("learning_rates") == "fine" else RATES
        options = {**call, "learning_rates": rates, "progress": False}
        with unchanged(bare, optimizer, extra=[model]):
            together = autolr.AutoLRTuner(model, nn.MSELoss(), optimizer, rng=0).tune(X, Y, **options)
        told[name] = {"together": losses(together)}
        if rank == 0:  # whose buffers count
            with on_this_rank_only():
                told[name]["alone"] = losses(
                    autolr.AutoLRTuner(bare, nn.MSELoss(), optimizer, rng=0).tune(X, Y, **options)
                )
        dist.barrier()
    pending.backward()
    told["gradients"] = [parameter.grad.tolist() for parameter in bare.parameters()]
    told["synchronized"] = synchronized(X, Y)
    with torch.device("meta"), joined() as everybody:
        told["gathered"] = everybody.gather_json(rank)

    data = TensorDataset(X.float(), Y.float())
    small, loss_fn = nn.Linear(6, 1), nn.MSELoss()
    for parameter in small.parameters():
        dist.broadcast(parameter.data, 0)
    sgd = torch.optim.SGD(small.parameters(), lr=0.1)
    for name, seeded in {"loader": None, "own generator": torch.Generator().manual_seed(5)}.items():
        loader = DataLoader(data, batch_size=20, shuffle=True, generator=seeded)
        tuner = autolr.AutoLRTuner(small, loss_fn, sgd, rng=3)
        options = {"learning_rates": RATES, "num_subsamples": 9, "engine": "line"}
        with unchanged(small, sgd, extra=[seeded]):
            told[name] = {"together": losses(tuner.tune(loader, **options))}
        if rank == 0:
            with on_this_rank_only():
                told[name]["alone"] = losses(tuner.tune(loader, **options))
        dist.barrier()

    tuner = autolr.AutoLRTuner(small, loss_fn, sgd, rng=1)
    tuner.tune(X.float(), Y.float(), learning_rates=RATES, num_subsamples=5, engine="line")
    told["extend"] = {"together": losses(tuner.extend(4))}
    told["extend"]["alone"] = losses(
        tuner.tune(X.float(), Y.float(), learning_rates=RATES, num_subsamples=9, engine="line")
    )
    for name, rng in {"no rng": None, "generator": np.random.default_rng(7)}.items():
        tuner = autolr.AutoLRTuner(small, loss_fn, sgd, rng=rng)
        told[name] = {"together": losses(tuner.tune(X.float(), Y.float(), learning_rates=RATES, num_subsamples=4))}
    for name, (source, options) in {
        "search": ((X.float(), Y.float()), {"num_streams": 3}),
        "search, one stream": ((X.float(), Y.float()), {}),
        "search, loader": (DataLoader(data, batch_size=20, shuffle=True), {"num_streams": 2}),
        "search, budget": ((X.float(), Y.float()), {"num_streams": 3, "max_evaluations": 250}),
    }.items():
        call = partial(autolr.find_lr, small, loss_fn, sgd, source, total_steps=900, effort="fast", rng=0, **options)
        with unchanged(small, sgd):
            told[name] = {"together": found(call())}
        if rank == 0:
            with on_this_rank_only():
                told[name]["alone"] = found(call())
        dist.barrier()
    others = {
        "range test": lambda: autolr.lr_range_test(
            model, loss_fn, optimizer, DataLoader(TensorDataset(X, Y), batch_size=20, shuffle=True), num_iter=20
        ).history.to_numpy(),
        "one batch": lambda: autolr.loss_by_learning_rate(model, loss_fn, optimizer, X[:20], Y[:20], RATES),
    }
    for name, call in others.items():
        with unchanged(bare, optimizer, extra=[model]):
            told[name] = call().tolist()
    folder = Path(os.environ["AUTOLR_REPORTS"])
    with redirect_stderr(StringIO()) as bar:
        result = autolr.AutoLRTuner(model, loss_fn, optimizer).tune(X, Y, num_subsamples=4, progress=True)
    for path, write in {"tuning.json": result.save, "tuning.html": result.to_html}.items():
        write(folder / f"rank-{rank}-{path}")
    dist.barrier()
    told["files"] = sorted(path.name for path in folder.glob("rank-*"))
    told["shows a bar"] = "subsamples" in bar.getvalue()
    told["refused"] = [
        refusal(call)
        for call in (
            lambda: autolr.SecondOrderLR(optimizer, model, loss_fn, lr_min=0.1, lr_max=1.0),
            lambda: autolr.AutoLRTuner(bare, optimizer=optimizer, compute_loss=lambda _, batch: model(batch[0]).mean()),
            lambda: autolr.AutoLRTuner(
                bare, loss_fn, ZeroRedundancyOptimizer(bare.parameters(), torch.optim.SGD, lr=0.1)
            ),
        )
    ]
    report(told)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

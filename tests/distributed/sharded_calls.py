"""What users call, on a model that is sharded and on the same one whole, which one process probes by itself."""

import time
from contextlib import nullcontext
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from sharded_cases import HALF, NUM_CLASSES, NUM_FEATURES, Case, Tied, adamw, mlp
from torch import nn

import autolr
from autolr.probing import rows
from autolr.ranks import on_this_rank_only

CASE = Case(mlp, adamw, ("0",))
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(48, NUM_FEATURES, generator=GENERATOR, dtype=torch.float64)
Y = X[:, :NUM_CLASSES].argmax(1)
loss_fn = nn.functional.cross_entropy


def tuned(model, optimizer, *, compute_loss=None, **options):
    tuner = autolr.AutoLRTuner(model, None if compute_loss else loss_fn, optimizer, compute_loss=compute_loss, rng=0)
    asked = {"num_subsamples": 4, "batch_size": 8, "learning_rates": np.logspace(-3, 0, 8)}
    result = tuner.tune(X, Y, **{**asked, **options})
    suggestion = tuner.suggest("mean")
    return {
        "numbers": [float(suggestion), *result.differentials.loss_post.ravel().tolist()],
        "engine": result.settings["engine"],
        "reason": result.settings["engine_reason"],
        "doubt": suggestion.doubt,
    }


def distilled(teacher, _):
    """Tune a whole model that learns from another one, which may be sharded."""

    def compute_loss(model, batch):
        return (model(batch[0]) - teacher(batch[0]).detach()).square().mean()

    student = Case(Tied, adamw).model(sharded=False)
    return tuned(student, adamw(student.parameters()), compute_loss=compute_loss)


def searched(model, optimizer):
    suggestion = autolr.find_lr(
        model, loss_fn, optimizer, (X, Y), total_steps=100, effort="fast", batch_size=8, rng=0, progress=False
    )
    return {"numbers": [float(suggestion), suggestion.low, suggestion.high]}


def risen(model, optimizer):
    ranged = autolr.lr_range_test(model, loss_fn, optimizer, (X, Y), num_iter=8, batch_size=8, rng=0)
    return {"numbers": ranged.history["loss"].tolist()}


def curve(model, optimizer):
    losses = autolr.loss_by_learning_rate(model, loss_fn, optimizer, X[:8], Y[:8], [0.0, 1e-3, 1e-1], rng=0)
    return {"numbers": losses.tolist()}


CALLS = {
    "tune, auto": lambda *of: tuned(*of, engine="auto"),
    "tune, three steps": lambda *of: tuned(*of, horizon=3, engine="batched"),
    "tune, warm-up": lambda *of: tuned(*of, warmup_steps=2),
    "tune, adaptive": lambda *of: tuned(*of, adaptive=True),
    "tune, taught": distilled,
    "find_lr": searched,
    "range test": risen,
    "loss curve": curve,
}


def called(call, *, sharded):
    model = CASE.model(sharded=sharded)
    with nullcontext() if sharded else on_this_rank_only():
        return call(model, CASE.make_optimizer(model.parameters()))


def out_of_time():
    """Return how many rows are probed where the clock of the second rank says that the time is over."""
    ahead = 1e6 * dist.get_rank()
    clock = SimpleNamespace(perf_counter=lambda: time.perf_counter() + ahead)
    model = CASE.model(sharded=True)
    with mock.patch.object(rows, "time", clock):
        tuner = autolr.AutoLRTuner(model, loss_fn, CASE.make_optimizer(model.parameters()), rng=0)
        result = tuner.tune(X, Y, num_subsamples=4, batch_size=8, learning_rates=[0.1, 1.0], time_budget=1e5)
    return len(result.differentials.loss_pre)


def refused():
    """Return what is said of derivatives."""
    model = CASE.model(sharded=True)
    try:
        autolr.taylor_expansion(model, loss_fn, CASE.make_optimizer(model.parameters()), X[:8], Y[:8])
    except ValueError as error:
        return str(error)
    return ""


def half():
    """Return why no rate can be told where weights are rounded more than a step is long."""
    model = HALF.model(sharded=True)
    return tuned(model, HALF.make_optimizer(model.parameters()), learning_rates=[1e-9, 1e-8, 1e-7])["doubt"]


def calls():
    """Return what each call finds, on the sharded model and on the whole one."""
    found = {name: [called(call, sharded=sharded) for sharded in (True, False)] for name, call in CALLS.items()}
    return {**found, "derivatives": refused(), "rounded": half(), "rows": out_of_time()}

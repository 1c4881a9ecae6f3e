"""Wrong calls, each with the type and the words of what it has to raise; one at least for every ``raise`` in reach.

``WRONG`` is the table. ``OUT_OF_REACH`` names the sites that no call in it comes to, and why.
"""

import json
import os
from unittest import mock

import numpy as np
import pandas as pd
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, Sampler

import autolr
from autolr import plotting, statistics
from autolr._plot_axes import pair_of_axes
from autolr._validation import check_delta
from autolr.differentials import LossDifferentials
from autolr.integrations._hook import Hook
from autolr.integrations._loaders import whole
from autolr.plot_range import plot_range
from autolr.plot_schedules import plot_rates
from autolr.range_result import RUN_COLUMNS, RangeTest
from autolr.result import TuningResult
from autolr.schedules.comparison import HISTORY_COLUMNS, ScheduleComparison
from autolr.schedules.make import schedule_factors
from autolr.search_result import TRACE_COLUMNS, SearchResult
from autolr.statistics.proportions import binomial_upper_bound
from autolr.statistics.summary import summarize
from autolr.storage import to_json
from autolr.taylor import TaylorExpansion

NAN, INF = float("nan"), float("inf")
RATES = [0.01, 0.1, 1.0]


def linear():
    """Return a layer, and leave torch's generator alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(3, 1)


X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
MODEL = linear()
Y = X[:, :1]
LOSS = nn.MSELoss()
OPTIMIZER = optim.SGD(MODEL.parameters(), lr=0.1)
SCHEDULER = optim.lr_scheduler.StepLR(OPTIMIZER, 5)


def tuner(model=MODEL, loss_fn=LOSS, optimizer=OPTIMIZER, **options):
    return autolr.AutoLRTuner(model, loss_fn, optimizer, rng=0, **options)


def tune(*data, by=None, **options):
    brings_batches = bool(data) and isinstance(data[0], (list, DataLoader, IterableDataset))
    sizes = {} if brings_batches else {"batch_size": 4}
    options = {"learning_rates": RATES, "num_subsamples": 3, **sizes, **options}
    return (by or tuner()).tune(*(data or (X, Y)), **options)


def find(data=(X, Y), loss_fn=LOSS, optimizer=OPTIMIZER, model=MODEL, **options):
    return autolr.find_lr(model, loss_fn, optimizer, data, **{"total_steps": 20, "max_evaluations": 20, **options})


def rise(data=(X, Y), loss_fn=LOSS, **options):
    return autolr.lr_range_test(MODEL, loss_fn, OPTIMIZER, data, **{"num_iter": 5, **options})


def compare(data=(X, Y), loss_fn=LOSS, **options):
    made = {"make_model": lambda: linear(), "make_optimizer": lambda p: optim.SGD(p, lr=0.1)}
    given = {"schedules": ["constant"], "learning_rate": 0.1, "num_epochs": 1, "num_repeats": 2, **made, **options}
    return autolr.compare_schedules(given.pop("make_model"), loss_fn, given.pop("make_optimizer"), data, **given)


def expand(optimizer=OPTIMIZER, loss_fn=LOSS, model=MODEL, x=X, **options):
    return autolr.taylor_expansion(model, loss_fn, optimizer, x, Y, **options)


def schedule(name="cosine", optimizer=OPTIMIZER, **options):
    return autolr.make_scheduler(optimizer, name, **{"learning_rate": 0.1, "total_steps": 10, **options})


def record(**changes):
    given = {"learning_rates": [0.1, 1.0], "loss_pre": [1.0, 2.0], "loss_post": [[0.5, 3.0], [1.0, 4.0]]}
    return LossDifferentials(**{**given, **changes})


def frame(**changes):
    columns = {"subsample": [0, 0], "learning_rate": [0.1, 1.0], "loss_pre": [1.0, 1.0], "loss_post": [0.5, 2.0]}
    return LossDifferentials.from_frame(pd.DataFrame({**columns, **changes}))


def result(delta=((-1.0, 2.0), (-2.0, 3.0)), **settings):
    delta = np.array(delta)
    return TuningResult(
        LossDifferentials(np.geomspace(0.1, 1.0, delta.shape[1]), np.ones(len(delta)), delta + 1.0), settings
    )


def summary(**changes):
    columns = {"mean": [-1.0, 1.0], "low": [-2.0, 0.0], "high": [0.0, 2.0]}
    return pd.DataFrame({**columns, **changes}, index=pd.Index([0.1, 1.0], name="learning_rate"))


def draw(table=None, **options):
    return plotting.plot_differentials(summary() if table is None else table, **options)


def ranged(losses=(3.0, 2.0, 1.0), **settings):
    rates = np.geomspace(1e-3, 1.0, len(losses))
    runs = pd.DataFrame(dict(zip(RUN_COLUMNS, ([0] * len(losses), rates, losses, losses), strict=True)))
    return RangeTest(runs, {"start_lr": 1e-3, **settings})


def search_result(**changes):
    return SearchResult(**{"trace": pd.DataFrame(columns=TRACE_COLUMNS), "decision": {}, "settings": {}, **changes})


def comparison(**changes):
    losses = pd.DataFrame({"a": [INF, INF]})
    return ScheduleComparison(
        **{"history": pd.DataFrame(columns=HISTORY_COLUMNS), "final_losses": losses, "settings": {}, **changes}
    )


def optimizer_with(**group):
    made = optim.SGD(linear().parameters(), lr=0.1)
    made.param_groups[0].update(group)
    return made


def without_rates():
    made = optim.SGD(MODEL.parameters(), lr=0.1)
    del made.param_groups[0]["lr"]
    return made


def two_groups(model=MODEL):
    return optim.SGD([{"params": [parameter]} for parameter in model.parameters()], lr=0.1)


def second_order(**options):
    return autolr.SecondOrderLR(optim.SGD(MODEL.parameters(), lr=0.1), MODEL, LOSS, **options)


def second_order_of_two():
    scheduler = second_order(lr_min=0.1, lr_max=1.0)
    scheduler.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    return scheduler


def of_one_group():
    return TuningResult(result().differentials, {"groups": [0]}).suggest("max")


def hook_run(groups):
    model = linear()
    optimizer = two_groups(model)
    scheduler = optim.lr_scheduler.StepLR(optimizer, 5)
    return Hook(options={"groups": groups}).run(model, LOSS, optimizer, (X, Y), scheduler=scheduler)


def nan_after(number):
    """Return a loss that is NaN from a call on."""
    calls = []

    def loss(output, target):
        calls.append(None)
        return LOSS(output, target) * (NAN if len(calls) > number else 1.0)

    return loss


class FullyShardedDataParallel(nn.Sequential):
    """What FSDP1 wraps a model in goes by this name."""


class ZeroRedundancyOptimizer(optim.SGD):
    """Is named as that of torch, which needs several processes."""


class Endless(Dataset):
    """A dataset without a length."""

    def __getitem__(self, index):
        return X[index], Y[index]


class Empty(Endless):
    def __len__(self):
        return 0


class Detached(nn.Module):
    """Its output does not depend on its weights."""

    def __init__(self):
        super().__init__()
        self.linear = linear()

    def forward(self, x):
        return x[:, :1]


class OnceOnly(torch.autograd.Function):
    """The square, whose gradient cannot be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 2.0 * ctx.saved_tensors[0] * gradient


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = linear()

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.linear, x.requires_grad_(), use_reentrant=True)


def expand_of(model, **options):
    return expand(optim.SGD(model.parameters(), lr=0.1), model=model, x=X.clone(), **options)


def expand_sparse():
    model = nn.EmbeddingBag(3, 1, sparse=True, _weight=torch.ones(3, 1))
    tokens = torch.zeros(4, 2, dtype=torch.int64)
    return autolr.taylor_expansion(model, LOSS, optim.SGD(model.parameters(), lr=0.1), tokens, Y[:4])


def adafactor():
    return optim.Adafactor(MODEL.parameters(), lr=0.1)


def sparse_parameters():
    weight = nn.Parameter(torch.eye(3).to_sparse())
    model = nn.Module()
    model.weight = weight
    return autolr.taylor_expansion(
        model,
        None,
        optim.SGD([weight], lr=0.1),
        X,
        compute_loss=lambda m, batch: torch.sparse.mm(m.weight, batch.T).square().mean(),
    )


def changed(weight_decay):
    """Extend a tuning after the optimizer has changed."""
    optimizer = optim.SGD(MODEL.parameters(), lr=0.1)
    by = tuner(optimizer=optimizer)
    tune(by=by)
    optimizer.param_groups[0]["weight_decay"] = weight_decay
    by.extend(1)


def extend_after(*data, number=1, **options):
    by = tuner()
    tune(*data, by=by, **options)
    return by.extend(number)


NO_TRACE = {name: [] for name in TRACE_COLUMNS}
BATCHES = [(X[:4], Y[:4])]
MASKED = np.ma.masked_array(np.ones((4, 3)), mask=np.eye(4, 3))
LAZY = nn.LazyLinear(1)
TWO = [[-1.0, 1.0], [-2.0, 2.0]]

WRONG = [
    # a tuner
    (lambda: tuner(model="x"), TypeError, "`model` must be a torch.nn.Module, got 'x'."),
    (lambda: tuner(loss_fn=OPTIMIZER), TypeError, "the order is (model, loss_fn, optimizer)."),
    (lambda: tuner(loss_fn=3), TypeError, "`loss_fn` must be a function (of a class: an instance of it) or None, got"),
    (lambda: tuner(loss_fn=nn.MSELoss), TypeError, "`loss_fn` must be a function (of a class: an instance of it)"),
    (lambda: tuner(optimizer=ZeroRedundancyOptimizer(MODEL.parameters())), TypeError, "hold its whole state on each r"),
    (lambda: tuner(optimizer="SGD"), TypeError, "`optimizer` must be a torch.optim.Optimizer, got 'SGD'."),
    (lambda: tuner(compute_loss=LOSS), ValueError, "`compute_loss` must be left out where `loss_fn` is given"),
    (lambda: tuner(autocast=torch.autocast("cpu")), TypeError, "`autocast` must be a function that makes a context"),
    (lambda: tuner(scaler=1.0), TypeError, "`scaler` must be a torch.amp.GradScaler or None, got 1.0."),
    (lambda: tuner(clip=1.0), TypeError, "`clip` must be a function of the parameters or None, got 1.0."),
    (lambda: tuner(accumulation_steps=0), ValueError, "`accumulation_steps` must be at least 1, got 0."),
    (lambda: tuner(device="abacus"), ValueError, "`device` must be a torch device, such as 'cpu' or 'cuda:0'"),
    (lambda: tuner(device="vulkan"), ValueError, "`device` must be available on this machine, got 'vulkan'."),
    (lambda: tuner(groups=[1]), ValueError, "`groups` must be different numbers of parameter groups, 0 to 0, got [1]."),
    (lambda: tuner(groups="0"), TypeError, "`groups` must be an integer, got '0'."),
    (lambda: tuner(optimizer=without_rates()), ValueError, "`optimizer` must have an 'lr' in every parameter group"),
    (lambda: tuner(optimizer=optimizer_with(lr=0.0)), ValueError, "have a learning rate above 0 in its first paramete"),
    (lambda: tuner(optimizer=optimizer_with()), ValueError, "`optimizer` must hold trainable parameters of `model`"),
    (lambda: tuner(LAZY, optimizer=optim.SGD(LAZY.parameters())), ValueError, "`model` must have seen a batch"),
    (lambda: tune(by=tuner(FullyShardedDataParallel(MODEL))), ValueError, "`model` must be sharded by fully_shard"),
    (lambda: autolr.AutoLRTuner(MODEL, LOSS, OPTIMIZER, rng="0"), TypeError, "`rng` must be an integer, a numpy.rando"),
    (lambda: autolr.AutoLRTuner(MODEL, LOSS, OPTIMIZER, rng=-1), ValueError, "`rng` must be at least 0, got -1."),
    (lambda: tuner().result, autolr.NotTunedError, "There is no result yet: call tune(X, Y) first."),
    (lambda: tuner().plot(), autolr.NotTunedError, "There is no result yet: call tune(X, Y) first."),
    (lambda: tuner().extend(3), autolr.NotTunedError, "There is no result yet: call tune(X, Y) first."),
    # its options
    (lambda: tune(learning_rates="fast"), TypeError, "`learning_rates` must be an array of real numbers, got 'fast'."),
    (lambda: tune(learning_rates=[[0.1], []]), TypeError, "`learning_rates` must be an array of real numbers"),
    (lambda: tune(learning_rates=0.1), ValueError, "`learning_rates` must be one-dimensional and not empty, got 0.1."),
    (lambda: tune(learning_rates=[0.0, 1.0]), ValueError, "`learning_rates` must be finite and positive"),
    (lambda: tune(learning_rates=[1.0, 0.1]), ValueError, "`learning_rates` must be strictly increasing"),
    (lambda: tune(num_subsamples=1), ValueError, "`num_subsamples` must be at least 2, got 1."),
    (lambda: tune(num_subsamples=2.5), TypeError, "`num_subsamples` must be an integer, got 2.5."),
    (lambda: tune(batch_size=21), ValueError, "`batch_size` must be at most 20, so that 40 observations give two"),
    (lambda: tune(batch_size=11, sampling="partition"), ValueError, "give two rows of 2 disjoint subsamples, got 11."),
    (lambda: tune(sampling="all"), ValueError, "`sampling` must be one of 'independent', 'partition', got 'all'."),
    (lambda: tune(evaluation="train"), ValueError, "`evaluation` must be one of 'independent', 'subsample'"),
    (lambda: tune(horizon=0), ValueError, "`horizon` must be at least 1, got 0."),
    (lambda: tune(horizon=[2, 1]), ValueError, "`horizon` must be"),
    (lambda: tune(horizon="2"), TypeError, "`horizon` must be an integer or an increasing sequence of integers, got"),
    (lambda: tune(warmup_steps=-1), ValueError, "`warmup_steps` must be at least 0, got -1."),
    (lambda: tune(engine="fast"), ValueError, "`engine` must be one of 'auto', "),
    (lambda: tune(interpolate=1), TypeError, "`interpolate` must be True or False, got 1."),
    (lambda: tune(adaptive="yes"), TypeError, "`adaptive` must be True or False, got 'yes'."),
    (lambda: tune(regret_tolerance=-0.1), ValueError, "`regret_tolerance` must be finite and"),
    (lambda: tune(confidence_level=95), ValueError, "`confidence_level` must be finite and above 0 and below 1, got 9"),
    (lambda: tune(time_budget="1 h"), TypeError, "`time_budget` must be a real number, got '1 h'."),
    (lambda: tune(time_budget=0), ValueError, "`time_budget` must be finite and above 0, got 0."),
    (lambda: tune(progress="bar"), TypeError, "`progress` must be True or False, got 'bar'."),
    (
        lambda: tune(by=tuner(optimizer=optim.Rprop(MODEL.parameters())), warmup_steps=1),
        ValueError,
        "`warmup_steps` must be 0 for Rprop, which keeps the rate in its state, got 1.",
    ),
    # its data
    (lambda: tune(X, Y[:3]), ValueError, "`Y` must have as many rows as `X` (40), got 3."),
    (lambda: tune([1, 2], Y, batch_size=None), TypeError, "where `Y` is given, got [1, 2]."),
    (lambda: tune(DataLoader(X), Y), TypeError, "`Y` must be None where `X` is a DataLoader"),
    (lambda: tune("data", batch_size=None), TypeError, "a Dataset, a DataLoader or an iterable of batches, got 'data"),
    (lambda: tune((X, Y), batch_size=None), TypeError, "`X` must not be a tuple of arrays, got (Tensor, Tensor): pass"),
    (lambda: tune(Endless()), TypeError, "`X` must have a length (or be an IterableDataset)"),
    (lambda: tune(Empty()), ValueError, "`X` must hold at least one observation, got 0."),
    (lambda: tune(BATCHES, batch_size=4), ValueError, "`batch_size` must be left out where `X` brings its own batches"),
    (lambda: tune(pd.DataFrame({"a": ["x"]}), Y), TypeError, "`X` must hold real numbers in every column, got 'a of d"),
    (lambda: tune(pd.Series(["x"]), Y), TypeError, "`X` must hold real numbers, got 'dtype"),
    (lambda: tune(X, [1, 2]), TypeError, "`Y` must be "),
    (lambda: tune(MASKED, Y[:4]), ValueError, "`X` must have no masked values, got '3 of them'."),
    (lambda: tune(np.array(["a"]), Y), TypeError, "`X` must hold numbers, got 'dtype <U1'."),
    (lambda: tune(X.to_sparse_csr(), Y), TypeError, "`X` must be dense or sparse COO, so that rows can be taken"),
    (lambda: tune(X[:0], Y[:0]), ValueError, "`X` must have at least one row, got 'shape (0, 3)'."),
    (lambda: tune(X[:1], Y[:1], batch_size=None), ValueError, "`X` must have at least 2 observations, got 1."),
    (lambda: tune([]), ValueError, "`X` must yield at least 2 rows of subsamples, from 4 batches, got '0 rows'."),
    (lambda: tune(BATCHES), ValueError, "`X` must yield at least 2 rows of subsamples, from 4 batches, got '0 rows'."),
    (lambda: tune(X * NAN, Y), ValueError, "`loss_pre` must be finite in every subsample (subsample 0: NaN or inf in"),
    (lambda: tune(X.int(), Y), TypeError, "`X` must have a floating-point dtype for the model's Linear layer"),
    (lambda: tune(X, Y[:, 0]), ValueError, "`loss_fn` must compare output and target of one shape"),
    (lambda: tune(X, None), TypeError, "`loss_fn` must be given batches (x, y), got a Tensor: pass Y"),
    (lambda: tune(X, None, by=tuner(loss_fn=None)), TypeError, "`loss_fn` or `compute_loss` must be given, unless"),
    (lambda: tune(by=tuner(loss_fn=lambda *_: 1.0)), TypeError, "`loss_fn` must return a tensor of floats, got 1.0."),
    (lambda: tune(by=tuner(loss_fn=lambda o, y: (o - y).squeeze())), ValueError, "`loss_fn` must return a scalar, the"),
    (lambda: tune(by=detached_tuner()), ValueError, "`loss_fn` must depend on trainable parameters"),
    # more rows
    (lambda: extend_after(adaptive=True), ValueError, "`num_subsamples` must extend a tuning with adaptive=False, got"),
    (lambda: extend_after(BATCHES * 12), ValueError, "`num_subsamples` must come from data that can be drawn again"),
    (lambda: extend_after(sampling="partition", num_subsamples=5), ValueError, "`num_subsamples` must leave rows to a"),
    (lambda: changed(0.5), ValueError, "`num_subsamples` must extend a result of the same model, optimizer and data"),
    (lambda: extend_after(number=0), ValueError, "`num_subsamples` must be at least 1, got 0."),
    (lambda: TuningResult("x"), TypeError, "`differentials` must be a LossDifferentials, got 'x'."),
    (lambda: TuningResult(record(), "x"), TypeError, "`settings` must be a mapping, got 'x'."),
    (lambda: result().extend("x"), TypeError, "`other` must be a TuningResult, got 'x'."),
    (lambda: result().extend(result(adaptive=True)), ValueError, "`other` must extend and be a result of adaptive=Fal"),
    (lambda: result(batch_size=1).extend(result(batch_size=2)), ValueError, "`other` must have the batch_size 1 of th"),
    (lambda: result().extend(result()), ValueError, "`other` must have other subsamples than this result"),
    (lambda: record().extended("x"), TypeError, "`other` must be a LossDifferentials, got 'x'."),
    (lambda: record().extended(record(learning_rates=[0.2, 1.0])), ValueError, "`learning_rates` must be the same in"),
    # decisions
    (lambda: result().suggest("best"), ValueError, "`method` must be one of 'mean', "),
    (lambda: result().suggest("mean", penalty=1.0), TypeError, "`penalty` must be left out of method='mean', which ta"),
    (lambda: result(TWO, adaptive=True).summary(confidence_level=0.99), ValueError, "`confidence_level` must be at mo"),
    (lambda: result([[INF, INF], [INF, INF]]).suggest(), autolr.DivergedError, "each one diverged in at least one sub"),
    (lambda: result([[INF], [INF]]).suggest("median"), autolr.DivergedError, "each one diverged in at least half of t"),
    (lambda: result([[1.0, 2.0], [3.0, 1.0]]).suggest("max"), autolr.NoCandidateError, "at each one the loss of at le"),
    (lambda: result([[1.0, 2.0], [3.0, 1.0]]).suggest("variance"), autolr.NoCandidateError, "at none is the upper con"),
    (lambda: result([[NAN], [1.0]]).suggest(), autolr.NoCandidateError, "none was probed in every subsample."),
    (lambda: result().suggest("max").apply("x"), TypeError, "`optimizer` must be a torch.optim.Optimizer, got 'x'."),
    (lambda: of_one_group().apply(two_groups(), SCHEDULER), ValueError, "`scheduler` must be None where only the grou"),
    (lambda: result().suggest("max").apply(two_groups(), SCHEDULER), ValueError, "`scheduler` must be attached to `op"),
    (
        lambda: of_one_group().scheduler(two_groups(), "cosine", total_steps=9),
        ValueError,
        "`name` must be of the groups [0] only, which were tuned",
    ),
    # records
    (lambda: record(loss_pre=[[1.0, 2.0]]), ValueError, "`loss_pre` must have the shape (M,), got (1, 2)."),
    (lambda: record(horizons=[0]), ValueError, "`horizons` must be increasing integers of at least 1, of the shape (H"),
    (lambda: record(loss_post=[[1.0]]), ValueError, "`loss_post` must have the shape (M, K, H) = (2, 2, 1), got (1, 1"),
    (lambda: record(loss_pre=[NAN, 1.0]), ValueError, "`loss_pre` must be finite in every subsample (see subsample 0)"),
    (lambda: record(interpolated=[[1]]), TypeError, "`interpolated` must be an array of bools, got 'dtype int64'."),
    (lambda: record(interpolated=[[True]]), ValueError, "`interpolated` must have the shape (M, K, H) = (2, 2, 1)"),
    (lambda: record().at(0.3), ValueError, "`learning_rate` must be a rate of the grid, got 0.3."),
    (lambda: LossDifferentials.from_frame("x"), TypeError, "`frame` must be a pandas frame, got 'x'."),
    (lambda: LossDifferentials.from_frame(pd.DataFrame({"a": [1]})), ValueError, "`frame` must have the columns subsa"),
    (lambda: frame(subsample=[], learning_rate=[], loss_pre=[], loss_post=[]), ValueError, "have at least one row, go"),
    (lambda: frame(subsample=[None, 1]), ValueError, "`frame` must name the subsample in every row, got '1 without'."),
    (lambda: frame(horizon=[0, 1]), ValueError, "`frame` must have integers of at least 1 as horizon"),
    (lambda: frame(learning_rate=[0.1, 0.1]), ValueError, "`frame` must hold each probe once, got '1 probes several t"),
    (lambda: frame(loss_pre=[1.0, 2.0]), ValueError, "`frame` must have one loss_pre in each subsample, got 'several"),
    (lambda: frame(loss_post=["a", "b"]), ValueError, "`frame` must hold numbers in loss_post"),
    (lambda: frame(interpolated=["perhaps", "no"]), ValueError, "`frame` must hold true or false in interpolated"),
    # grids
    (lambda: autolr.log_grid(1.0, 0.1, 3), ValueError, "`high` must be above `low` (1), got 0.1."),
    (lambda: autolr.log_grid(1.0, 2.0, 1), ValueError, "`high` must be equal to `low` (1) where `num` is 1, got 2.0."),
    (lambda: autolr.log_grid(1.0, 1.0 + 1e-15, 99), ValueError, "`num` must be small enough for distinct rates betwee"),
    (lambda: autolr.linear_grid(0.0, "1", 3), TypeError, "`high` must be a real number, got '1'."),
    # searches
    (lambda: find(total_steps=0), ValueError, "`total_steps` must be at least 1, got 0."),
    (lambda: find(target="test"), ValueError, "`target` must be one of 'validation', 'training', got 'test'."),
    (lambda: find(effort="much"), ValueError, "`effort` must be one of "),
    (lambda: find(num_streams=0), ValueError, "`num_streams` must be at least 1, got 0."),
    (lambda: find(max_evaluations=0), ValueError, "`max_evaluations` must be at least 1, got 0."),
    (lambda: find(batch_size=41), ValueError, "`batch_size` must be at most the 40 observations, got 41."),
    (lambda: find([]), ValueError, "`data` must yield at least one batch, got none."),
    (lambda: find(val_data=[]), ValueError, "`val_data` must yield at least one batch, got none."),
    (lambda: find((X * NAN, Y)), ValueError, "`data` must give finite losses before any step, got nan on batch 0."),
    (lambda: find(loss_fn=nan_after(30)), autolr.DivergedError, "Training diverged at every learning rate down to"),
    (lambda: find(schedule="linear"), ValueError, "`schedule` must be one of 'constant', "),
    (lambda: find(schedule_options=3), TypeError, "`schedule_options` must be a mapping with strings as keys, or None"),
    (lambda: find(schedule_options={"learning_rate": 1}), ValueError, "`schedule_options` must not hold 'learning_rat"),
    (
        lambda: find(total_steps=None, schedule_options={"warmup_steps": 5000}),
        ValueError,
        "`warmup_steps` must be below `total_steps`, which is not given (1000 are assumed), got 5000.",
    ),
    (lambda: find(schedule="lambda", schedule_options={"lr_lambda": lambda _: -1.0}), ValueError, "have finite factor"),
    (lambda: find(schedule="lambda", schedule_options={"lr_lambda": lambda _: 0.0}), ValueError, "have a factor above"),
    (lambda: search_result(trace="x"), TypeError, "`trace` must be a frame with the columns "),
    (lambda: search_result(decision="x"), TypeError, "`decision` must be a mapping, got 'x'."),
    # range tests
    (lambda: rise(end_lr=1e-9), ValueError, "`end_lr` must be above `start_lr` (1e-07), got 1e-09."),
    (lambda: rise(start_lr=1.0, end_lr=1.0 + 1e-15, num_iter=99), ValueError, "`num_iter` must give distinct rates be"),
    (lambda: rise(smoothing=1.0), ValueError, "`smoothing` must be finite and at least 0 and below 1, got 1.0."),
    (lambda: rise(divergence_factor=1.0), ValueError, "`divergence_factor` must be finite and above 1, got 1.0."),
    (lambda: rise(schedule="cosine"), ValueError, "`schedule` must be one of 'exponential', 'linear', got 'cosine'."),
    (lambda: rise([]), ValueError, "`train_data` must yield at least one batch in every pass, got none."),
    (lambda: rise(val_data=[]), ValueError, "`val_data` must yield at least one batch in every pass, got none."),
    (lambda: rise((X * NAN, Y)), ValueError, "`train_data` must give a finite loss before any step, got nan."),
    (lambda: RangeTest("x"), TypeError, "`runs` must be a frame with the columns "),
    (lambda: RangeTest(ranged().runs, "x"), TypeError, "`settings` must be a mapping, got 'x'."),
    (lambda: ranged((INF, INF)).suggest(), autolr.DivergedError, "Training diverged with the first step, at 1e-3: low"),
    (lambda: ranged().suggest(skip_start=2, skip_end=0), autolr.NoCandidateError, "At least 2 rows must be left to su"),
    (lambda: ranged((1.0, 2.0, 3.0)).suggest("valley", skip_start=0, skip_end=0), autolr.NoCandidateError, "falls now"),
    (lambda: ranged().suggest("slide", skip_start=0, skip_end=0), autolr.NoCandidateError, "'slide' needs at least 16"),
    (lambda: ranged([1.0] * 40).suggest("slide"), autolr.NoCandidateError, "has no rise to slide away from."),
    (lambda: ranged().suggest("best"), ValueError, "`rule` must be one of 'steepest', "),
    # one batch
    (lambda: expand(x=DataLoader(X)), TypeError, "`X` must be "),
    (lambda: expand(optim.LBFGS(MODEL.parameters())), ValueError, "(it computes losses within its step), got 'LBFGS'."),
    (lambda: expand(adafactor()), ValueError, "`optimizer` must take steps that are proportional to the learning rate"),
    (sparse_parameters, ValueError, "`optimizer` must hold no sparse parameters, got 'SGD'."),
    (
        lambda: expand(loss_fn=lambda o, y: OnceOnly.apply(o - y).square().mean()),
        ValueError,
        "`model` must have a loss that torch can differentiate twice (",
    ),
    (expand_sparse, ValueError, "`model` must have a loss that torch can differentiate twice (the derivative for"),
    (lambda: expand_of(Checkpointed()), ValueError, "twice (checkpoints need use_reentrant=False), got 'Checkpointed"),
    (lambda: expand(x=X * NAN), ValueError, "`loss` must be finite, got nan."),
    (lambda: expand(learning_rates=[-1.0]), ValueError, "`learning_rates` must be finite and not negative, got [-1.0]"),
    (lambda: TaylorExpansion(1.0, 1.0, 1.0, [0.1], []), ValueError, "`losses` must hold a number, or inf, for each of"),
    (lambda: TaylorExpansion(1.0, 1.0, 1.0).loss_at(0.1, 3), ValueError, "`order` must be 0, 1 or 2, got 3."),
    (lambda: TaylorExpansion(1.0, 1.0, 1.0).loss_at(INF), ValueError, "`learning_rates` must be finite, got inf."),
    (
        lambda: autolr.loss_by_learning_rate(MODEL, LOSS, OPTIMIZER, X * NAN, Y, RATES),
        ValueError,
        "`loss_pre` must be finite in every subsample",
    ),
    (lambda: second_order(lr_min=1.0, lr_max=0.1), ValueError, "`lr_max` must be at least `lr_min` (1), got 0.1."),
    (lambda: second_order_of_two().step(X, Y), ValueError, "have the 1 parameter groups whose ratios the scheduler ke"),
    # schedules
    (lambda: schedule(optimizer="x"), TypeError, "`optimizer` must be a torch.optim.Optimizer, got 'x'."),
    (lambda: schedule("linear"), ValueError, "`name` must be one of 'constant', "),
    (lambda: schedule(warmup_steps=10), ValueError, "`warmup_steps` must be below `total_steps` (10), got 10."),
    (lambda: schedule("plateau", warmup_steps=1), ValueError, "`warmup_steps` must be 0 for 'plateau'"),
    (lambda: schedule(gamma=0.1), TypeError, "`gamma` must be left out of name='cosine', which takes `T_max`, `eta_mi"),
    (lambda: schedule(last_epoch=3), TypeError, "`last_epoch` must be left out: a run goes on where it was saved"),
    (lambda: schedule("lambda"), TypeError, "`lr_lambda` must be a function of the step, or a list of one for each"),
    (lambda: schedule("lambda", lr_lambda=[abs, abs]), ValueError, "`lr_lambda` must have 1 entries, one for each par"),
    (lambda: schedule("constant", factor=2.0), ValueError, "`factor` must be at most 1, got 2.0."),
    (lambda: schedule("multistep", milestones=3), TypeError, "`milestones` must be a sequence of integers, got 3."),
    (lambda: schedule("onecycle", optim.Adagrad(MODEL.parameters()), cycle_momentum=True), ValueError, "be False for"),
    (lambda: schedule("onecycle", total_steps=9, pct_start=0.1), ValueError, "`pct_start` must not be 1 / (`total_ste"),
    (lambda: schedule_factors("plateau", total_steps=3), ValueError, "`name` must be a schedule that does not depend"),
    (lambda: autolr.rebase_scheduler("x", 0.1), TypeError, "`scheduler` must be a torch.optim.lr_scheduler.LRSchedule"),
    (lambda: autolr.rebase_scheduler(scheduler_at_zero(), 0.1), ValueError, "have a positive base rate in its first p"),
    # comparisons
    (lambda: compare(make_model=MODEL), TypeError, "`make_model` must be a function that returns a new model, got "),
    (lambda: compare(make_model=lambda: 3), TypeError, "`make_model` must return a torch.nn.Module, got 3."),
    (lambda: compare(make_optimizer=lambda _: 3), TypeError, "`make_optimizer` must return a torch.optim.Optimizer, g"),
    (lambda: compare(schedules=[]), ValueError, "`schedules` must hold at least one schedule, got []."),
    (lambda: compare(schedules="cosine"), TypeError, "`schedules` must be a sequence of names, or a mapping from labe"),
    (lambda: compare(schedules=[3]), TypeError, "`schedules` must have strings as names and labels, got 3."),
    (lambda: compare(schedules=["step", "step"]), ValueError, "`schedules` must hold each name once (a mapping has la"),
    (lambda: compare(schedules={"a": {3: 1}}), TypeError, "`schedules['a']` must have strings as names of options"),
    (lambda: compare(schedules={"a": {"name": "step", "total_steps": 3}}), ValueError, "must not hold 'total_steps'"),
    (lambda: compare(schedules={"a": {"name": "x"}}), ValueError, "`schedules['a']['name']` must be one of"),
    (lambda: compare((X * NAN, Y)), ValueError, "`data` must give a finite loss before any step, got nan in repeat 0."),
    (lambda: compare(val_data=[]), ValueError, "`val_data` must yield at least one batch, got none."),
    (lambda: compare(val_data=(X * NAN, Y)), ValueError, "`val_data` must give a finite loss in evaluation mode befor"),
    (lambda: comparison(history="x"), TypeError, "`history` must be a frame with the columns "),
    (lambda: comparison(final_losses="x"), TypeError, "`final_losses` must be a frame with a column for each schedule"),
    (lambda: comparison(final_losses=pd.DataFrame({"a": [1.0]})), ValueError, "have at least two rows and one column"),
    (lambda: comparison(settings="x"), TypeError, "`settings` must be a mapping, got 'x'."),
    (lambda: comparison().best, autolr.DivergedError, "Training diverged under every schedule: compare them at a smal"),
    # statistics
    (lambda: statistics.t_interval([1.0, 2.0]), ValueError, "`delta` must have the shape (M, K) with K >= 1, got (2,)"),
    (lambda: statistics.t_interval([[1.0]]), ValueError, "`delta` must have at least 2 rows, got 1."),
    (lambda: statistics.t_interval([[1.0], [NAN]]), ValueError, "`delta` must be free of NaN, got 1 NaN."),
    (lambda: check_delta([[1.0], [-INF]]), ValueError, "`delta` must be free of -inf, got 1 -inf."),
    (lambda: statistics.argmin_interval([0.1], TWO), ValueError, "`delta` must have a column for each of the 1 learni"),
    (lambda: statistics.argmin_interval([0.1, 1.0], [[INF, INF]] * 2), autolr.DivergedError, "there is no smallest me"),
    (lambda: statistics.regret_bound(TWO, 2), ValueError, "`pick` must be below the number of columns 2, got 2."),
    (lambda: statistics.best_set(TWO, method="t"), ValueError, "`method` must be one of 'studentized', 'mvt', got 't"),
    (lambda: statistics.binomial_interval(1.5, 3), TypeError, "`successes` must be an array of integers, got 1.5."),
    (lambda: statistics.binomial_interval(-1, 3), ValueError, "`successes` must be at least 0, got -1."),
    (lambda: statistics.binomial_interval([1, 2], [1, 2, 3]), ValueError, "broadcasts with that of `trials` (3,), got"),
    (lambda: binomial_upper_bound(4, 3), ValueError, "`successes` must be at most `trials`, got 4."),
    (lambda: summarize([0.1], TWO), ValueError, "`delta` must have a column for each of the 1 learning rates, got (2"),
    # pictures
    (lambda: draw("x"), TypeError, "`summary` must be a pandas.DataFrame, got 'x'."),
    (lambda: draw(pd.DataFrame({"mean": [1.0]})), ValueError, "`summary` must have the columns mean, low, high, got ["),
    (lambda: draw(summary(in_best_set=["a", "b"])), TypeError, "`summary['in_best_set']` must hold nothing but True a"),
    (lambda: draw(low=0.1), ValueError, "`low` must be given together with `high`, got (0.1, None)."),
    (lambda: draw(low=1.0, high=0.1), ValueError, "`high` must be at least `low` (1), got 0.1."),
    (lambda: draw(xlim=0.1), TypeError, "`xlim` must be a pair (left, right), got 0.1."),
    (lambda: draw(xlim=(1.0, 0.1)), ValueError, "`xlim` must be increasing, got (1.0, 0.1)."),
    (lambda: draw(xlim=(2.0, 3.0)), ValueError, "`xlim` must hold at least one rate of 0.1 to 1, got (2.0, 3.0)."),
    (lambda: draw(delta=[[1.0]]), ValueError, "`delta` must have the shape (M, 2) with M >= 1, got (1, 1)."),
    (lambda: draw(best_set=[True]), ValueError, "`best_set` must have the shape (2,), got (1,)."),
    (lambda: draw(earlier={1: [0.0]}), ValueError, "`earlier[1]` must have the shape (2,), got (1,)."),
    (lambda: draw(best_set=[0.3]), ValueError, "`best_set` must hold rates of `summary.index`, or be a mask of them"),
    (lambda: draw(ax="x"), TypeError, "`ax` must be a matplotlib Axes or None, got 'x'."),
    (lambda: plot_range(ranged().runs, ranged().history, axes="x"), TypeError, "`axes` must be two matplotlib Axes or"),
    (lambda: pair_of_axes("x"), TypeError, "`axes` must be two matplotlib Axes or None, got 'x'."),
    (lambda: plot_rates([1.0]), TypeError, "`rates` must be a mapping from labels to rates, got [1.0]."),
    (lambda: plot_rates({"a": 1.0}), ValueError, "`rates` must hold rates of the shape (T,)"),
    (lambda: plot_rates({"a": [1.0]}, ax="x"), TypeError, "`ax` must be a matplotlib Axes or None, got 'x'."),
    (lambda: TaylorExpansion(1.0, -1.0, 1.0).plot("x"), TypeError, "`ax` must be a matplotlib Axes or None, got 'x'."),
    # files
    (lambda: result().save("lr.txt"), ValueError, "`path` must end in .json, got 'lr.txt'."),
    (lambda: result().save("nowhere/lr.json"), FileNotFoundError, "`path` must lie in a folder that exists"),
    (lambda: save_over_a_folder(), IsADirectoryError, "`path` must be a file, got 'lr.json'."),
    (lambda: save_where_nothing_may(), PermissionError, "`path` must lie in a folder that may be written to, got"),
    (lambda: result(a=(1, 2)).save("lr.json"), ValueError, "`settings` must hold JSON values only, got "),
    (lambda: load("{"), ValueError, "`path` must name a complete JSON file, got "),
    (lambda: load("[NaN]"), ValueError, "NaN is not JSON."),
    (lambda: load('{"schema": "other"}'), ValueError, "name a file with the schema 'autolr.TuningResult', got "),
    (lambda: load(text(version=2)), ValueError, "name a file of schema version 1 or older, got 'version 2'."),
    (lambda: load(text(settings=None)), ValueError, "got 'lr.json': `settings` must be a mapping, got None."),
    (lambda: load(text(but="loss_pre")), ValueError, "`path` must name an undamaged result, got 'lr.json' without 'lo"),
    (lambda: load(text(loss_pre=["x"])), ValueError, "`path` must name an undamaged result, got 'lr.json': `loss_pre"),
    (lambda: load(text(settings={"interpolation": [1]})), ValueError, "got 'lr.json': AttributeError: 'list' object"),
    (lambda: load(search_text(), SearchResult), ValueError, "got 'lr.json' without 'trace'."),
    (lambda: load(search_text(trace={"loss": "x"}, decision={}, settings={}), SearchResult), ValueError, "got 'lr.jso"),
    (lambda: load(search_text(trace=NO_TRACE, decision={}, settings={}), SearchResult), ValueError, ": KeyError"),
    # hooks, and the package
    (lambda: Hook(tool="best"), ValueError, "`tool` must be one of 'find_lr', 'tune', got 'best'."),
    (lambda: Hook(log=3), TypeError, "`log` must be a function of a suggestion or None, got 3."),
    (lambda: Hook(every_n_epochs=0), ValueError, "`every_n_epochs` must be at least 1, got 0."),
    (lambda: Hook(options={"colour": 1}), TypeError, "`options` must be those of tool='find_lr', got 'colour'."),
    (lambda: whole(ranked(Sampler), "data"), ValueError, "`data` must be shared out by a sampler of torch or of the f"),
    (lambda: whole(ranked(DistributedSampler), "data"), ValueError, "`data` must be shared out by a sampler of torch"),
    (lambda: whole(ranked(IterableDataset), "data"), ValueError, "`data` must hold a dataset with a length where ther"),
    (lambda: hook_run([0]), ValueError, "`groups` must be left out where a scheduler is attached, which moves all gro"),
    (lambda: autolr.AutoLR, AttributeError, "module 'autolr' has no attribute 'AutoLR'"),
]  # fmt: skip


def ranked(kind):
    """Return a sampler or a dataset that is of one process of several."""

    class Ranked(kind):
        def __init__(self):
            self.rank = 1

        def __iter__(self):
            return iter(())

    return Ranked()


def detached_tuner():
    model = Detached()
    return tuner(model, optimizer=optim.SGD(model.parameters(), lr=0.1))


def scheduler_at_zero():
    return optim.lr_scheduler.StepLR(optimizer_with(lr=0.0), 5)


def load(content, kind=TuningResult):
    """Write a file where the test is, and load it."""
    with open("lr.json", "w", encoding="utf-8") as file:
        file.write(content)
    return kind.load("lr.json")


def save_over_a_folder():
    os.makedirs("lr.json")
    result().save("lr.json")


def save_where_nothing_may():
    with mock.patch("os.access", return_value=False):
        result().save("lr.json")


def text(*, but=None, **changes):
    document = {**json.loads(to_json(record(), {})), **changes}
    document.pop(but, None)
    return json.dumps(document)


def search_text(**content):
    return json.dumps({"schema": "autolr.SearchResult", "version": 1, **content})


_PASSES_ON = "passes on what putting back has raised: tests/probing/test_faults.py and test_state.py"
_INSIDE = "is caught within the package, which then takes another way"
_ABSENT = "only where another library is not installed"
_REAL = "needs that library's own trainer: tested in tests/integration"
_RANKS = "needs several processes: tested in tests/distributed"
_LINE = "becomes a line on standard error: tested in tests/cli"
OUT_OF_REACH = {
    r"cli/\w+\.py: .*": _LINE,
    r"demo\.py: digits, 1": _ABSENT,
    r"distributed\.py: .*": _RANKS,
    r"integrations/\w+\.py: module, 1": _ABSENT,
    r"integrations/[a-z]\w+\.py: (?!module).*": _REAL,
    r"probing/forwards\.py: _recorded, 1": _INSIDE,
    r"probing/objective\.py: losses, 1": _INSIDE,
    r"probing/replay\.py: _check_shapes, 1": _INSIDE,
    r"probing/sharded\.py: ready, 2": _RANKS,
    r"probing/state\.py: restore, \d": _PASSES_ON,
    r"probing/tape\.py: .*": _INSIDE,
    r"probing/tensors\.py: restore, \d": _PASSES_ON,
    r"probing/taylor\.py: differentiate, 1": _RANKS,
    r"training\.py: _bare, 1": _RANKS,
    r"ranks\.py: .*": _RANKS,
    r"schedules/second_order\.py: __init__, 1": _RANKS,
    r"training\.py: check_training, 10": _RANKS,
}

"""Sharded models are probed, beside whole ones by the same process alone; what each rank found is reported."""

from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from harness import unchanged
from launch import report
from sharded_calls import calls
from sharded_cases import CASES, HALF, NUM_CLASSES, NUM_FEATURES, OF_FOUR
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from autolr import AutoLRTuner
from autolr.batches import MicroBatches
from autolr.probing import objective, state
from autolr.probing.rows import probe_rows
from autolr.probing.sharded import reshard, sharded_modules
from autolr.training import check_batch, check_training

RATES = np.logspace(-3, 0, 5)
loss_fn = nn.functional.cross_entropy


def batch(number):
    generator = torch.Generator().manual_seed(number)
    features = torch.randn(8, NUM_FEATURES, generator=generator, dtype=torch.float64)
    return features, torch.randint(0, NUM_CLASSES, (8,), generator=generator)


def train(model, optimizer, numbers):
    """Take steps as users do; the masks of a step depend on its number."""
    for number in numbers:
        torch.manual_seed(number)
        features, labels = batch(number)
        optimizer.zero_grad()
        loss_fn(model(features), labels).backward()
        optimizer.step()


def trained(case, *, sharded):
    model = case.model(sharded=sharded)
    optimizer = case.make_optimizer(model.parameters())
    train(model, optimizer, range(2))
    return model, optimizer


@contextmanager
def started(model, optimizer, compute_loss=None, **options):
    """Give the start of all probes, and what draws the batches of a row."""
    training = check_training(model, None if compute_loss else loss_fn, optimizer, compute_loss=compute_loss, **options)
    with training.preserved() as start:

        def draw(row, num_steps=1):
            start.randomness.fork(np.random.SeedSequence(row))
            first = 10 * row
            parts = training.accumulation_steps
            steps = [batch(number) for number in range(first, first + num_steps)]
            if parts > 1:
                steps = [MicroBatches([batch(first + part) for part in range(parts)])]
            return [*steps, batch(first + 9)]

        check_batch(start.objective, "first", draw(0)[0])
        yield start, draw


def probe(model, optimizer, engine, *, num_steps=1, **options):
    with started(model, optimizer, **options) as (start, draw):
        return probe_rows(
            start,
            RATES,
            partial(draw, num_steps=num_steps),
            range(2),
            engine=engine,
            horizons=np.array(sorted({1, num_steps})),
            seed=lambda row, step: np.random.SeedSequence(100 * row + step),
        )


def bits(model, optimizer):
    """Return the shards of this process, and the moments, as numbers."""
    moments = [value for state in optimizer.state.values() for value in state.values()]
    tensors = [*model.parameters(), *model.buffers(), *moments]
    return [getattr(tensor, "_local_tensor", tensor).tolist() for tensor in tensors]


def changes(model, optimizer, call):
    """Return what a call returns or raises, and what it has changed."""
    try:
        with unchanged(model, optimizer):
            try:
                result = call()
            except Exception as error:  # noqa: BLE001 (it is reported)
                result = error
    except AssertionError as error:
        return None, str(error)
    return result, ""


def goes_on(case, model, optimizer):
    """Return whether three more steps are those of a training without the call, bit for bit."""
    train(model, optimizer, range(2, 5))
    twin = trained(case, sharded=True)
    train(*twin, range(2, 5))
    return bits(model, optimizer) == bits(*twin)


def compare(case):
    """Return what a rank finds of one case: how far it is from one process, what has changed, and the next steps."""
    expected = probe(*trained(case, sharded=False), "step", num_steps=case.num_steps, **case.options)
    model, optimizer = trained(case, sharded=True)
    found = {}
    for engine in ("step", "line"):
        torch.manual_seed(dist.get_rank())  # random states differ over ranks
        call = partial(probe, model, optimizer, engine, num_steps=case.num_steps, **case.options)
        probed, changed = changes(model, optimizer, call)
        found[engine] = {
            "difference": float(np.abs(probed.loss_post - expected.loss_post).max()),
            "moved": float(np.ptp(expected.loss_post)),
            "losses": probed.loss_post.tolist(),
            "engine": probed.engine,
            "changed": changed,
        }
    empty = sum(parameter._local_tensor.numel() == 0 for parameter in model.parameters())
    return {**found, "goes on the same": goes_on(case, model, optimizer), "empty shards": empty}


def half():
    """Return the losses where FSDP rounds weights to bfloat16, and the resolution that is told."""
    model, optimizer = trained(HALF, sharded=True)
    with started(model, optimizer) as (start, draw):
        probed = probe_rows(start, np.array([1e-9, 1e-6, 1.0]), draw, range(2), engine="line")
        return {
            "delta": (probed.loss_post - probed.loss_pre[:, None]).tolist(),
            "loss": probed.loss_pre.tolist(),
            "resolution": start.objective.epsilon,
            "reason": probed.engine_reason,
        }


def without_reshard():
    """Return what becomes of probes where nothing is resharded, and of a write into shards in the same place."""
    model, optimizer = trained(CASES["root only"], sharded=True)
    features, labels = batch(0)
    with torch.no_grad():
        model.eval()
        before = float(loss_fn(model(features), labels))
        weight = optimizer.param_groups[0]["params"][-1]
        model(features)
        weight._local_tensor.add_(torch.arange(weight._local_tensor.numel()) + 1.0)
        ignored = float(loss_fn(model(features), labels))
        reshard(sharded_modules(model))
        seen = float(loss_fn(model(features), labels))
    kept = objective.reshard, state.reset
    objective.reshard, state.reset = (lambda *_: None), (lambda *_: False)
    try:
        model, optimizer = trained(CASES["root only"], sharded=True)
        error, _ = changes(model, optimizer, lambda: probe(model, optimizer, "step"))
    finally:
        objective.reshard, state.reset = kept
    return {"losses": [before, ignored, seen], "error": repr(error)}


def broken_off(where):
    """Return what has changed after an error in the middle of a pass on all ranks, and the next steps."""
    case = CASES["transformer"]
    model, optimizer = trained(case, sharded=True)
    left = iter(range(5))

    class Breaks(torch.autograd.Function):
        @staticmethod
        def forward(_, value):
            return value.clone()

        @staticmethod
        def backward(_, __):
            raise ZeroDivisionError("in a backward")

    def hook(_, __, output):
        if next(left, None) is None:
            if where == "forward":
                raise ZeroDivisionError("in a forward")
            return Breaks.apply(output) if output.requires_grad else output
        return output

    handle = model.layer.register_forward_hook(hook)
    error, changed = changes(model, optimizer, lambda: probe(model, optimizer, "step"))
    handle.remove()
    return {"error": repr(error), "changed": changed, "goes on the same": goes_on(case, model, optimizer)}


def not_finite_on_one():
    """Return the losses where they are NaN on the last rank only, at high rates."""

    def compute_loss(model, batch):
        loss = loss_fn(model(batch[0]), batch[1])
        return loss * float("nan") if dist.get_rank() == 1 and float(loss) > 1.5 else loss

    model, optimizer = trained(CASES["root only"], sharded=True)
    return probe(model, optimizer, "step", compute_loss=compute_loss).loss_post.tolist()


def untouched():
    """Return whether a model that has never run goes on the same, and saves its shards after a forward."""
    case = CASES["by layers"]
    model = case.model(sharded=True)
    optimizer = case.make_optimizer(model.parameters())
    probe(model, optimizer, "step")
    with torch.no_grad():
        model.eval()(batch(0)[0])
    model.train()
    kinds = {type(value).__name__ for name, value in model.state_dict().items() if name.endswith("weight")}
    train(model, optimizer, range(2))
    return {"kinds": sorted(kinds), "goes on the same": goes_on(case, model, optimizer)}


def refused():
    """Return the error where gradients are not reduced, and what has changed."""
    model, optimizer = trained(CASES["root only"], sharded=True)
    model.set_requires_gradient_sync(False)
    error, changed = changes(model, optimizer, lambda: probe(model, optimizer, "step"))
    model.set_requires_gradient_sync(True)
    return {"error": repr(error), "changed": changed}


def in_pairs():
    """Return what two pairs of ranks find, each on a model of its own, where one rank is in more groups than others."""
    dist.new_group([0])
    pairs = [dist.new_group(pair) for pair in ([0, 1], [2, 3])]
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(3, 1).double(), process_group=pairs[dist.get_rank() // 2])
    tuner = AutoLRTuner(model, nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1), rng=0)
    X = torch.eye(3, dtype=torch.float64).repeat(9, 1)
    result = tuner.tune(X, X.sum(1, keepdim=True), num_subsamples=3, learning_rates=[0.1, 1.0], engine="line")
    ranks = [result.settings[name] for name in ("num_ranks", "first_rank")]
    return {"losses": result.differentials.loss_post.tolist(), "ranks": ranks}


def main():
    dist.init_process_group("gloo")
    if dist.get_world_size() == 4:
        found = {**{name: compare(case) for name, case in OF_FOUR.items()}, "in pairs": in_pairs()}
    else:
        found = {
            **{name: compare(case) for name, case in CASES.items()},
            "half": half(),
            "without reshard": without_reshard(),
            "broken off in a forward": broken_off("forward"),
            "broken off in a backward": broken_off("backward"),
            "not finite on one": not_finite_on_one(),
            "untouched": untouched(),
            "refused": refused(),
            "calls": calls(),
        }
    report(found)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

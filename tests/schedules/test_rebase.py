"""The oracle: the same optimizer and scheduler, started at the new rate from the beginning."""

import itertools

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR

from autolr.schedules import rebase_scheduler

# first group's base rate (of a cycle: peak) before and after; the second group's share of it
OLD, NEW, RATIO = 0.1, 0.037, 0.25


def _warmup_then(optimizer, make):
    warmup = lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=4)
    return lr_scheduler.SequentialLR(optimizer, [warmup, make(optimizer)], milestones=[4])


SCHEDULERS = {
    "LambdaLR": lambda o, _: lr_scheduler.LambdaLR(o, lambda t: 1.0 / (1.0 + t)),
    "LambdaLR from 0": lambda o, _: lr_scheduler.LambdaLR(o, lambda t: min(1.0, t / 5.0)),
    "MultiplicativeLR": lambda o, _: lr_scheduler.MultiplicativeLR(o, lambda t: 0.9 if t % 2 else 1.05),
    "StepLR": lambda o, _: lr_scheduler.StepLR(o, step_size=3, gamma=0.3),
    "MultiStepLR": lambda o, _: lr_scheduler.MultiStepLR(o, milestones=[2, 5, 9], gamma=0.5),
    "ConstantLR": lambda o, _: lr_scheduler.ConstantLR(o, factor=0.25, total_iters=6),
    "LinearLR": lambda o, _: lr_scheduler.LinearLR(o, start_factor=0.2, end_factor=0.8, total_iters=8),
    "ExponentialLR": lambda o, _: lr_scheduler.ExponentialLR(o, gamma=0.9),
    "PolynomialLR": lambda o, _: lr_scheduler.PolynomialLR(o, total_iters=10, power=2.0),
    "CosineAnnealingLR": lambda o, _: lr_scheduler.CosineAnnealingLR(o, T_max=7),
    "CosineAnnealingLR with a floor": lambda o, _: lr_scheduler.CosineAnnealingLR(o, T_max=7, eta_min=1e-3),
    "CosineAnnealingWarmRestarts": lambda o, _: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=3, T_mult=2),
    "CosineAnnealingWarmRestarts with a floor": lambda o, _: lr_scheduler.CosineAnnealingWarmRestarts(
        o, T_0=3, eta_min=1e-3
    ),
    "OneCycleLR": lambda o, base: lr_scheduler.OneCycleLR(o, max_lr=[base, RATIO * base], total_steps=20),
    "OneCycleLR in three phases": lambda o, base: lr_scheduler.OneCycleLR(
        o, max_lr=[base, RATIO * base], total_steps=20, three_phase=True, anneal_strategy="linear"
    ),
    "CyclicLR": lambda o, base: lr_scheduler.CyclicLR(
        o, base_lr=[0.2 * base, RATIO * base], max_lr=[base, 0.6 * base], step_size_up=3, mode="triangular2"
    ),
    "CyclicLR from 0": lambda o, base: lr_scheduler.CyclicLR(o, base_lr=0.0, max_lr=[base, base], step_size_up=3),
    "SequentialLR": lambda o, _: _warmup_then(o, lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=12)),
    "SequentialLR with a floor": lambda o, _: _warmup_then(
        o, lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=6, eta_min=1e-3)
    ),
    "SequentialLR from a cycle": lambda o, base: lr_scheduler.SequentialLR(
        o,
        [
            lr_scheduler.OneCycleLR(o, max_lr=[base, RATIO * base], total_steps=6),
            lr_scheduler.ConstantLR(o, factor=0.25, total_iters=3),
        ],
        milestones=[6],
    ),
    "ChainedScheduler": lambda o, _: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, factor=0.1, total_iters=4), lr_scheduler.ExponentialLR(o, gamma=0.9)]
    ),
    "ChainedScheduler of a SequentialLR": lambda o, _: lr_scheduler.ChainedScheduler(
        [
            _warmup_then(o, lambda o: lr_scheduler.StepLR(o, step_size=2, gamma=0.5)),
            lr_scheduler.ExponentialLR(o, gamma=0.9),
        ]
    ),
    "ChainedScheduler from a cycle": lambda o, base: lr_scheduler.ChainedScheduler(
        [
            lr_scheduler.CyclicLR(o, base_lr=0.2 * base, max_lr=base, step_size_up=3),
            lr_scheduler.MultiplicativeLR(o, lambda _: 0.9),
        ]
    ),
}


def make_optimizer(base, *, tensor=False, dtype=torch.float64):
    rates = [torch.tensor(rate, dtype=dtype) if tensor else rate for rate in (base, RATIO * base)]
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups, lr=base, momentum=0.9)


def rates_of(optimizer):
    return [float(group["lr"]) for group in optimizer.param_groups]


def run(optimizer, scheduler, num_steps):
    """Step, and return the rates that each step leaves behind, shape (num_steps, groups)."""
    trace = []
    for _ in range(num_steps):
        optimizer.step()
        scheduler.step()
        np.testing.assert_allclose([float(rate) for rate in scheduler.get_last_lr()], rates_of(optimizer), rtol=1e-12)
        trace.append(rates_of(optimizer))
    return np.array(trace)


@pytest.mark.parametrize("num_before", [0, 1, 4, 7, 8, 11])
@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS.keys())
def test_rates_after_rebasing_are_those_of_a_run_started_at_the_new_rate(make, num_before):
    optimizer, fresh_optimizer = make_optimizer(OLD), make_optimizer(NEW)
    scheduler, fresh = make(optimizer, OLD), make(fresh_optimizer, NEW)
    run(optimizer, scheduler, num_before)
    run(fresh_optimizer, fresh, num_before)
    rebase_scheduler(scheduler, NEW)
    np.testing.assert_allclose(rates_of(optimizer), rates_of(fresh_optimizer), rtol=1e-12)
    np.testing.assert_allclose(scheduler.get_last_lr(), fresh.get_last_lr(), rtol=1e-12)
    # NOTE: a cosine at its zero is rounding noise of either run, about 1e-17 of the base rate.
    np.testing.assert_allclose(
        run(optimizer, scheduler, 8), run(fresh_optimizer, fresh, 8), rtol=1e-12, atol=1e-16 * NEW
    )


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS.keys())
def test_rebasing_forth_and_back_changes_nothing(make):
    optimizer, untouched_optimizer = make_optimizer(OLD), make_optimizer(OLD)
    scheduler, untouched = make(optimizer, OLD), make(untouched_optimizer, OLD)
    for step in itertools.islice(itertools.cycle([NEW, OLD]), 8):
        rebase_scheduler(scheduler, step)
    np.testing.assert_allclose(run(optimizer, scheduler, 9), run(untouched_optimizer, untouched, 9), rtol=1e-12)


CYCLES = {
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, max_lr=OLD, total_steps=20),
    "OneCycleLR upside down": lambda o: lr_scheduler.OneCycleLR(o, max_lr=OLD, total_steps=20, div_factor=0.5),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, base_lr=0.1 * OLD, max_lr=OLD, step_size_up=5),
    "CyclicLR upside down": lambda o: lr_scheduler.CyclicLR(o, base_lr=2.0 * OLD, max_lr=OLD, step_size_up=5),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.OneCycleLR(o, max_lr=OLD, total_steps=12), lr_scheduler.ConstantLR(o)], milestones=[12]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.CyclicLR(o, base_lr=0.1 * OLD, max_lr=OLD, step_size_up=5), lr_scheduler.ConstantLR(o, 1.0)]
    ),
}


@pytest.mark.parametrize("make", CYCLES.values(), ids=CYCLES.keys())
def test_a_cycle_reaches_the_rate_that_was_asked_for_and_does_not_exceed_it(make):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3.0, momentum=0.9)
    scheduler = make(optimizer)
    rebase_scheduler(scheduler, NEW)
    trace = [rates_of(optimizer)[0], *run(optimizer, scheduler, 18)[:, 0]]
    assert max(trace) <= NEW * (1.0 + 1e-12)
    assert max(trace) >= 0.95 * NEW  # the peak of OneCycleLR may be between two steps


@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR"])
def test_momentum_that_is_cycled_stays_as_it_is(name):
    momenta = []
    for rebased in (False, True):
        optimizer = make_optimizer(OLD)
        scheduler = SCHEDULERS[name](optimizer, OLD)
        run(optimizer, scheduler, 2)
        if rebased:
            rebase_scheduler(scheduler, NEW)
        momenta.append([optimizer.param_groups[0]["momentum"]])
        run(optimizer, scheduler, 3)
        momenta[-1].append(optimizer.param_groups[0]["momentum"])
    assert momenta[0] == momenta[1]


@pytest.mark.parametrize("num_before", [0, 2, 5])
def test_plateau_goes_on_from_the_initial_rate_of_its_groups(num_before):
    traces = []
    for base in (OLD, NEW):
        optimizer = make_optimizer(base)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
        for _ in range(num_before):
            scheduler.step(1.0)
        rebase_scheduler(scheduler, NEW)
        traces.append([rates_of(optimizer)])
        for _ in range(4):
            scheduler.step(1.0)
            traces[-1].append(rates_of(optimizer))
            assert scheduler.get_last_lr() == rates_of(optimizer)
    np.testing.assert_allclose(traces[0], traces[1], rtol=1e-12)


def test_plateau_without_an_initial_rate_goes_on_from_the_present_one():
    optimizer = make_optimizer(OLD)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, min_lr=1e-3)
    rebase_scheduler(scheduler, NEW)
    assert rates_of(optimizer) == [NEW, RATIO * NEW]
    assert scheduler.get_last_lr() == [NEW, RATIO * NEW]
    assert scheduler.min_lrs == [1e-3, 1e-3]


def test_rebasing_a_fresh_scheduler_sets_exactly_the_rate_that_was_asked_for():
    optimizer = make_optimizer(0.1)
    scheduler = lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    rebase_scheduler(scheduler, 0.3)
    first = optimizer.param_groups[0]
    assert first["lr"] == first["initial_lr"] == scheduler.base_lrs[0] == scheduler.get_last_lr()[0] == 0.3
    assert type(first["lr"]) is type(first["initial_lr"]) is float


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS.keys())
def test_rates_that_are_tensors_are_filled_in_place(make):
    optimizer, fresh_optimizer = make_optimizer(OLD, tensor=True), make_optimizer(NEW)
    scheduler, fresh = make(optimizer, OLD), make(fresh_optimizer, NEW)
    run(optimizer, scheduler, 2)
    run(fresh_optimizer, fresh, 2)
    rates = [group["lr"] for group in optimizer.param_groups]
    rebase_scheduler(scheduler, NEW)
    assert [group["lr"] for group in optimizer.param_groups] == rates
    for group, rate, last in zip(optimizer.param_groups, rates, scheduler.get_last_lr(), strict=True):
        assert group["lr"] is rate
        assert last is not rate  # a copy: whoever writes on it does not change the optimizer
    np.testing.assert_allclose(run(optimizer, scheduler, 6), run(fresh_optimizer, fresh, 6), rtol=1e-12)


def test_groups_that_share_one_tensor_are_scaled_once():
    rate = torch.tensor(0.1, dtype=torch.float64)
    groups = [{"params": [torch.zeros(1)], "lr": rate} for _ in range(2)]
    optimizer = torch.optim.SGD(groups)
    scheduler = lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    rebase_scheduler(scheduler, 0.2)
    assert [float(group["lr"]) for group in optimizer.param_groups] == [0.2, 0.2]


def test_keys_of_one_cycle_are_left_alone_under_another_scheduler():
    optimizer = make_optimizer(OLD)
    optimizer.param_groups[0]["max_lr"] = 7.0
    rebase_scheduler(lr_scheduler.ExponentialLR(optimizer, gamma=0.9), NEW)
    assert optimizer.param_groups[0]["max_lr"] == 7.0


def test_a_cosine_whose_floor_is_its_base_rate_is_scaled():
    optimizer = make_optimizer(OLD)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=5, eta_min=OLD)
    rebase_scheduler(scheduler, NEW)
    np.testing.assert_allclose(scheduler.base_lrs, [NEW, RATIO * NEW], rtol=1e-12)
    assert rates_of(optimizer)[0] == NEW


@pytest.mark.parametrize("make", [lr_scheduler.LRScheduler, SWALR], ids=["a subclass", "SWALR"])
def test_other_schedulers_of_torch_are_moved_by_the_common_factor(make):
    optimizer = make_optimizer(OLD)

    class Constant(lr_scheduler.LRScheduler):
        def get_lr(self):
            return list(self.base_lrs)

    scheduler = SWALR(optimizer, swa_lr=0.01) if make is SWALR else Constant(optimizer)
    rebase_scheduler(scheduler, NEW)
    np.testing.assert_allclose(rates_of(optimizer), [NEW, RATIO * NEW], rtol=1e-12)
    np.testing.assert_allclose(scheduler.get_last_lr(), rates_of(optimizer), rtol=1e-12)


@pytest.mark.parametrize("wrong", [None, 0.1, "cosine", torch.optim.SGD([torch.zeros(1)])])
def test_what_is_not_a_scheduler_is_refused(wrong):
    with pytest.raises(TypeError, match=r"`scheduler` must be a torch.optim.lr_scheduler.LRScheduler, got "):
        rebase_scheduler(wrong, 0.1)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: lr_scheduler.ExponentialLR(o, gamma=0.9),
        lr_scheduler.ReduceLROnPlateau,
        lambda o: lr_scheduler.CyclicLR(o, base_lr=[0.0, RATIO * OLD], max_lr=[0.0, OLD]),
    ],
    ids=["ExponentialLR", "ReduceLROnPlateau", "CyclicLR"],
)
def test_a_base_rate_of_0_is_refused_and_nothing_changes(make):
    optimizer = make_optimizer(OLD)
    optimizer.param_groups[0]["lr"] = 0.0
    scheduler = make(optimizer)
    message = r"`scheduler` must have a positive base rate in its first parameter group, got 0.0\."
    with pytest.raises(ValueError, match=message):
        rebase_scheduler(scheduler, NEW)
    assert rates_of(optimizer) == [0.0, RATIO * OLD]


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_not_positive_is_refused(rate):
    scheduler = lr_scheduler.ExponentialLR(make_optimizer(OLD), gamma=0.9)
    with pytest.raises(ValueError, match=r"`learning_rate` must be finite and above 0, got "):
        rebase_scheduler(scheduler, rate)
    assert scheduler.base_lrs == [OLD, RATIO * OLD]


def test_a_rate_that_is_not_a_number_is_refused():
    scheduler = lr_scheduler.ExponentialLR(make_optimizer(OLD), gamma=0.9)
    with pytest.raises(TypeError, match=r"`learning_rate` must be a real number, got '0.1'\."):
        rebase_scheduler(scheduler, "0.1")

"""make_scheduler: each schedule of torch by name, held against its closed form."""

import copy
import inspect
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from autolr.schedules._options import SCHEDULES
from autolr.schedules.make import make_scheduler, schedule_factors
from autolr.schedules.rebase import rebase_scheduler

BASE, RATIO, TOTAL = 0.4, 0.1, 20
OPTIONS = {"lambda": {"lr_lambda": lambda t: 1.0 / (1.0 + t)}, "plateau": {"patience": 2, "eps": 0.0}}
CHAINED = ("constant", "step", "multistep", "exponential", "cosine", "warm_restarts", "lambda")
CASES = [(name, warmup) for name in CHAINED for warmup in (0, 1, 5)] + [("onecycle", 0), ("plateau", 0)]
RUNS = [case for case in CASES if case[0] != "plateau"]


def half_cosine(start, end, share):
    return end + (start - end) * math.cos(math.pi * share / 2.0) ** 2


def one_cycle(t, total):
    peak = 0.3 * (total + 1) - 1.0
    return half_cosine(1 / 25, 1.0, t / peak) if t <= peak else half_cosine(1.0, 4e-6, (t - peak) / (total - peak))


FACTORS = {  # after u calls past the warm-up, of n
    "constant": lambda _u, _n: 1.0,
    "step": lambda u, n: 0.1 ** (u // math.ceil(n / 3)),
    "multistep": lambda u, n: 0.1 ** sum(u >= milestone for milestone in (n // 2, 3 * n // 4)),
    "exponential": lambda u, n: 10.0 ** (-2.0 * u / n),
    "cosine": lambda u, n: half_cosine(1.0, 0.0, u / n),
    "warm_restarts": lambda u, n: half_cosine(1.0, 0.0, (u % math.ceil(n / 3)) / math.ceil(n / 3)),
    "onecycle": one_cycle,
    "plateau": lambda u, _n: 0.1 ** max((u - 1) // 3, 0),  # the first loss is the best one
    "lambda": lambda u, _n: 1.0 / (1.0 + u),
}


def expected(name, warmup, total=TOTAL):
    """Return the factor after each of 0, ..., total calls."""
    rise = [(t + 1) / (warmup + 1) for t in range(warmup)]
    return np.array([*rise, *(FACTORS[name](u, total - warmup) for u in range(total - warmup + 1))])


def make_optimizer(rate=3.0, *, make=torch.optim.SGD, tensor=False, **options):
    rates = [rate, RATIO * rate]
    groups = [
        {"params": [torch.zeros(1)], "lr": torch.tensor(rate, dtype=torch.float64) if tensor else rate}
        for rate in rates
    ]
    return make(groups, **options)


def make(optimizer, name, warmup=0, *, learning_rate=BASE, total_steps=TOTAL, **options):
    options = OPTIONS.get(name, {}) | options
    return make_scheduler(
        optimizer, name, learning_rate=learning_rate, total_steps=total_steps, warmup_steps=warmup, **options
    )


def rates_of(optimizer):
    return [float(group["lr"]) for group in optimizer.param_groups]


def run(optimizer, scheduler, num_calls=TOTAL):
    """Call ``step`` and return the rates before, between and after the calls, shape (num_calls + 1, groups)."""
    trace = [rates_of(optimizer)]
    for _ in range(num_calls):
        optimizer.step()
        scheduler.step(*([1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
        trace.append(rates_of(optimizer))
        assert [float(rate) for rate in scheduler.get_last_lr()] == trace[-1]
    return np.array(trace)


def snapshot(optimizer):
    values = [
        {key: value.item() if isinstance(value, torch.Tensor) else value for key, value in group.items()}
        for group in optimizer.param_groups
    ]
    return (
        copy.deepcopy(values),
        [list(map(id, group.values())) for group in optimizer.param_groups],
        sorted(vars(optimizer)),
    )


@pytest.mark.parametrize(("name", "warmup"), CASES)
def test_it_is_a_scheduler_of_torch_whose_base_rates_are_those_that_were_asked_for(name, warmup):
    optimizer = make_optimizer()
    scheduler = make(optimizer, name, warmup)
    assert type(scheduler).__module__ == "torch.optim.lr_scheduler"
    parts = [part for part in getattr(scheduler, "_schedulers", [scheduler]) if hasattr(part, "base_lrs")]
    key = "max_lr" if name == "onecycle" else "initial_lr"  # a cycle starts below its peak
    base = [group[key] for group in optimizer.param_groups]
    assert base == pytest.approx([BASE, RATIO * BASE])
    assert all(part.base_lrs == [group["initial_lr"] for group in optimizer.param_groups] for part in parts)
    assert len(parts) == (0 if name == "plateau" else 2 if warmup else 1)


@pytest.mark.parametrize(("name", "warmup"), CASES)
def test_each_rate_is_the_closed_form_in_every_group(name, warmup):
    optimizer = make_optimizer()
    trace = run(optimizer, make(optimizer, name, warmup))
    np.testing.assert_allclose(trace, np.outer(expected(name, warmup), [BASE, RATIO * BASE]), rtol=1e-9, atol=1e-16)


@pytest.mark.parametrize(("name", "warmup"), CASES)
def test_rates_that_are_tensors_are_filled_and_take_the_same_course(name, warmup):
    optimizer, floats = make_optimizer(tensor=True), make_optimizer()
    tensors = [group["lr"] for group in optimizer.param_groups]
    trace = run(optimizer, make(optimizer, name, warmup))
    np.testing.assert_allclose(trace, run(floats, make(floats, name, warmup)), rtol=1e-9, atol=1e-16)
    assert all(group["lr"] is tensor for group, tensor in zip(optimizer.param_groups, tensors, strict=True))


@pytest.mark.parametrize(("name", "warmup"), CASES)
@pytest.mark.parametrize("earlier", ["cosine", "onecycle", "plateau"])
def test_what_an_earlier_scheduler_left_is_replaced(name, warmup, earlier):
    optimizer, fresh = make_optimizer(), make_optimizer()
    run(optimizer, make(optimizer, earlier, learning_rate=7.0), 3)
    np.testing.assert_allclose(
        run(optimizer, make(optimizer, name, warmup)), run(fresh, make(fresh, name, warmup)), rtol=1e-9, atol=1e-16
    )


def test_ratios_outlive_a_schedule_that_has_ended_at_0():
    optimizer = make_optimizer()
    run(optimizer, make(optimizer, "cosine"))
    assert rates_of(optimizer) == [0.0, 0.0]
    make(optimizer, "constant")
    assert rates_of(optimizer) == pytest.approx([BASE, RATIO * BASE])


@pytest.mark.parametrize("name", [name for name in FACTORS if name != "onecycle"])
def test_the_first_rate_is_exactly_the_one_that_was_asked_for(name):
    optimizer = make_optimizer()
    make(optimizer, name)
    group = optimizer.param_groups[0]
    assert group["lr"] == group["initial_lr"] == BASE
    assert type(group["lr"]) is type(group["initial_lr"]) is float


@pytest.mark.parametrize("warmup", [0, 7])
def test_cosine_ends_exactly_at_its_floor(warmup):
    optimizer = make_optimizer()
    trace = run(optimizer, make(optimizer, "cosine", warmup, eta_min=1e-3))
    assert trace[-1].tolist() == [1e-3, 1e-3]
    assert (trace[:-1, 0] > 1e-3).all()


@pytest.mark.parametrize("anneal_strategy", ["cos", "linear"])
def test_one_cycle_takes_total_steps_calls_and_ends_at_its_smallest_rate(anneal_strategy):
    optimizer = make_optimizer()
    scheduler = make(optimizer, "onecycle", anneal_strategy=anneal_strategy, pct_start=5 / 21)
    trace = run(optimizer, scheduler)[:, 0]
    assert trace[4] == pytest.approx(BASE)  # the peak is the call pct_start * (total_steps + 1) - 1
    assert trace[[0, -1]] == pytest.approx([BASE / 25, BASE / 25e4])
    with pytest.raises(ValueError, match=r"Tried to step 21 times\. The specified number of total steps is 20"):
        scheduler.step()


@pytest.mark.parametrize("anneal_strategy", ["cos", "linear"])
def test_a_one_cycle_of_three_phases_ends_at_its_smallest_rate(anneal_strategy):
    optimizer = make_optimizer()
    trace = run(optimizer, make(optimizer, "onecycle", three_phase=True, anneal_strategy=anneal_strategy))
    assert trace[-1, 0] == pytest.approx(BASE / 25e4)


@pytest.mark.parametrize(
    ("options", "cycled"),
    [
        ({"make": torch.optim.SGD}, False),
        ({"make": torch.optim.SGD, "momentum": 0.5}, True),
        ({"make": torch.optim.Adam}, True),
        ({"make": torch.optim.Adam, "betas": (0.0, 0.99)}, False),
        ({"make": torch.optim.Adagrad}, False),
    ],
    ids=["SGD", "SGD with momentum", "Adam", "Adam without momentum", "Adagrad"],
)
def test_one_cycle_cycles_momentum_only_where_there_is_some(options, cycled):
    optimizer = make_optimizer(**options)
    before = copy.deepcopy([{k: v for k, v in g.items() if k in ("momentum", "betas")} for g in optimizer.param_groups])
    scheduler = make(optimizer, "onecycle")
    after = [{key: group[key] for key in old} for group, old in zip(optimizer.param_groups, before, strict=True)]
    assert scheduler.cycle_momentum is cycled
    assert (after != before) is cycled


def test_one_cycle_takes_a_momentum_for_each_group():
    optimizer = make_optimizer()
    make(optimizer, "onecycle", max_momentum=[0.9, 0.8], base_momentum=0.5)
    assert [group["momentum"] for group in optimizer.param_groups] == [0.9, 0.8]


@pytest.mark.parametrize("warmup", [0, 2])
def test_a_constant_share_of_the_rate_lasts_as_many_steps_as_asked_for(warmup):
    factors = schedule_factors("constant", total_steps=10, warmup_steps=warmup, factor=0.25, total_iters=3)
    np.testing.assert_allclose(factors[warmup:], [0.25] * 3 + [1.0] * (7 - warmup))


SAID_OTHERWISE = {"optimizer", "last_epoch", "max_lr", "total_steps", "epochs", "steps_per_epoch"}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_option_of_torchs_scheduler_passes_through_but_those_that_are_said_otherwise(name):
    signature = inspect.signature(SCHEDULES[name].make)
    assert set(SCHEDULES[name].checks) == set(signature.parameters) - SAID_OTHERWISE


def test_options_go_to_torch():
    optimizer = make_optimizer()
    trace = run(optimizer, make(optimizer, "warm_restarts", 2, T_0=3, T_mult=2, eta_min=0.1))[:, 0]
    cycles = [(u, length) for length in (3, 6, 12) for u in range(length)]
    falls = [half_cosine(BASE, 0.1, u / length) for u, length in cycles]
    np.testing.assert_allclose(trace, [BASE / 3, BASE * 2 / 3, *falls][: TOTAL + 1])
    scheduler = make(optimizer, "plateau", mode="max", threshold_mode="abs", min_lr=[0.1, 0.01], cooldown=3)
    assert (scheduler.mode, scheduler.threshold_mode, scheduler.min_lrs, scheduler.cooldown) == (
        "max", "abs", [0.1, 0.01], 3,
    )  # fmt: skip


@pytest.mark.parametrize("growth", [1, 2, 3])
@pytest.mark.parametrize("total", [26, 50, 100])
def test_warm_restarts_make_three_cycles_by_default(growth, total):
    factors = schedule_factors("warm_restarts", total_steps=total, T_mult=growth)
    assert int((np.diff(factors) > 0.0).sum()) == 2


@pytest.mark.parametrize(("total", "falls"), [(1, 0), (2, 1), (3, 2), (4, 1), (5, 2), (6, 2), (100, 2)])
def test_step_falls_at_most_twice_by_default(total, falls):
    assert int((np.diff(schedule_factors("step", total_steps=total)) < 0.0).sum()) == falls


def test_a_function_for_each_group_counts_from_the_end_of_the_warm_up():
    optimizer = make_optimizer()
    scheduler = make(optimizer, "lambda", 2, lr_lambda=(lambda t: 0.5**t, lambda t: 1.0 + t))
    trace = run(optimizer, scheduler, 4) / [BASE, RATIO * BASE]
    np.testing.assert_allclose(trace, [[1 / 3, 1 / 3], [2 / 3, 2 / 3], [1, 1], [0.5, 2], [0.25, 3]])


@pytest.mark.parametrize("num_before", [0, 3, 5, 6, 13])
@pytest.mark.parametrize(("name", "warmup"), CASES)
def test_a_run_goes_on_from_its_saved_state(name, warmup, num_before):
    optimizer, resumed_optimizer = make_optimizer(momentum=0.9), make_optimizer(momentum=0.9)
    scheduler = make(optimizer, name, warmup)
    run(optimizer, scheduler, num_before)
    saved = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    resumed = make(resumed_optimizer, name, warmup)
    resumed_optimizer.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    num_after = TOTAL - num_before
    assert (run(resumed_optimizer, resumed, num_after) == run(optimizer, scheduler, num_after)).all()
    assert resumed_optimizer.param_groups[0]["momentum"] == optimizer.param_groups[0]["momentum"]


@pytest.mark.parametrize("num_before", [0, 3, 5, 6, 13])
@pytest.mark.parametrize(("name", "warmup"), CASES)
def test_every_schedule_can_be_rebased(name, warmup, num_before):
    optimizer, other_optimizer = make_optimizer(), make_optimizer()
    scheduler, other = make(optimizer, name, warmup), make(other_optimizer, name, warmup, learning_rate=0.03)
    run(optimizer, scheduler, num_before)
    run(other_optimizer, other, num_before)
    rebase_scheduler(scheduler, 0.03)
    num_after = TOTAL - num_before
    np.testing.assert_allclose(
        run(optimizer, scheduler, num_after), run(other_optimizer, other, num_after), rtol=1e-9, atol=1e-16
    )


@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("name", FACTORS)
def test_the_shortest_runs_work(name, total):
    optimizer = make_optimizer()
    trace = run(optimizer, make(optimizer, name, total_steps=total), total)
    assert ((trace >= 0.0) & (trace <= BASE)).all()


@pytest.mark.parametrize(("name", "warmup"), RUNS)
def test_factors_are_those_of_the_steps(name, warmup):
    factors = schedule_factors(name, total_steps=TOTAL, warmup_steps=warmup, **OPTIONS.get(name, {}))
    assert factors.dtype == np.float64
    np.testing.assert_allclose(factors, expected(name, warmup)[:TOTAL], rtol=1e-9)


@given(
    run_=st.sampled_from([name for name in FACTORS if name not in ("plateau", "lambda")]),
    total=st.integers(1, 60),
    share=st.floats(0.0, 0.99),
    learning_rate=st.floats(1e-6, 10.0),
)
@settings(derandomize=True, deadline=None, max_examples=100)
def test_rates_are_the_factors_scaled_and_never_above_the_learning_rate(run_, total, share, learning_rate):
    warmup = 0 if run_ == "onecycle" else int(share * total)
    factors = schedule_factors(run_, total_steps=total, warmup_steps=warmup)
    assert ((factors > 0.0) & (factors <= 1.0 + 1e-12)).all()
    optimizer = make_optimizer()
    scheduler = make(optimizer, run_, warmup, learning_rate=learning_rate, total_steps=total)
    trace = run(optimizer, scheduler, total)[:-1]
    np.testing.assert_allclose(trace, learning_rate * np.outer(factors, [1.0, RATIO]), rtol=1e-9)


def test_a_schedule_of_100_000_steps_ends_where_it_should():
    factors = schedule_factors("cosine", total_steps=100_000, warmup_steps=1_000)
    u = np.arange(99_000) / 99_000
    np.testing.assert_allclose(factors[1_000:], np.cos(np.pi * u / 2.0) ** 2, rtol=1e-6)


def test_warnings_of_the_user_are_heard():
    def warning(_):
        warnings.warn("mine", UserWarning, stacklevel=1)
        return 1.0

    with pytest.warns(UserWarning, match="mine"):
        make(make_optimizer(), "lambda", 2, lr_lambda=warning)


REFUSED = {
    "no optimizer": (TypeError, r"`optimizer` must be a torch.optim.Optimizer, got None\.", {"optimizer": None}),
    "name": (ValueError, r"`name` must be one of 'constant', .*, 'lambda', got 'cos'\.", {"name": "cos"}),
    "rate": (ValueError, r"`learning_rate` must be finite and above 0, got 0\.", {"learning_rate": 0}),
    "no steps": (ValueError, r"`total_steps` must be at least 1, got 0\.", {"total_steps": 0}),
    "half a step": (TypeError, r"`total_steps` must be an integer, got 2\.5\.", {"total_steps": 2.5}),
    "warm-up below 0": (ValueError, r"`warmup_steps` must be at least 0, got -1\.", {"warmup": -1}),
    "warm-up only": (ValueError, r"`warmup_steps` must be below `total_steps` \(20\), got 20\.", {"warmup": 20}),
    "warm-up of a plateau": (
        ValueError,
        r"`warmup_steps` must be 0 for 'plateau', which torch cannot chain, got 2\.",
        {"name": "plateau", "warmup": 2},
    ),
    "warm-up of a cycle": (
        ValueError,
        r"`warmup_steps` must be 0 for 'onecycle', whose own warm-up is `pct_start`, got 2\.",
        {"name": "onecycle", "warmup": 2},
    ),
    "option": (
        TypeError,
        r"`gama` must be left out of name='step', which takes `step_size`, `gamma`, got 0\.5\.",
        {"name": "step", "gama": 0.5},
    ),
    "option of another": (
        TypeError,
        r"`gamma` must be left out of name='constant', which takes `factor`, `total_iters`, got 0\.5\.",
        {"name": "constant", "gamma": 0.5},
    ),
    "place in the run": (
        TypeError,
        r"`last_epoch` must be left out: a run goes on where it was saved by `scheduler\.load_state_dict`, got 5\.",
        {"last_epoch": 5},
    ),
    "raised": (ValueError, r"`factor` must be at most 1, got 1\.5\.", {"name": "constant", "factor": 1.5}),
    "nothing": (ValueError, r"`factor` must be finite and above 0, got 0\.0\.", {"name": "constant", "factor": 0.0}),
    "never": (ValueError, r"`total_iters` must be at least 1, got 0\.", {"name": "constant", "total_iters": 0}),
    "no function": (
        TypeError,
        r"`lr_lambda` must be a function of the step, or a list of one for each parameter group, got None\.",
        {"name": "lambda", "lr_lambda": None},
    ),
    "functions": (
        ValueError,
        r"`lr_lambda` must have 2 entries, one for each parameter group, got \[<built-in function abs>\]\.",
        {"name": "lambda", "lr_lambda": [abs]},
    ),
    "milestone": (
        TypeError,
        r"`milestones` must be a sequence of integers, got 5\.",
        {"name": "multistep", "milestones": 5},
    ),
    "milestone 0": (ValueError, r"`milestones` must be at least 1, got 0\.", {"name": "multistep", "milestones": [0]}),
    "period": (ValueError, r"`step_size` must be at least 1, got 0\.", {"name": "step", "step_size": 0}),
    "growth": (TypeError, r"`gamma` must be a real number, got '0.1'\.", {"name": "step", "gamma": "0.1"}),
    "floor": (ValueError, r"`eta_min` must be finite and at least 0, got -1\.0\.", {"eta_min": -1.0}),
    "mode": (ValueError, r"`mode` must be one of 'min', 'max', got 'most'\.", {"name": "plateau", "mode": "most"}),
    "peak below the ends": (
        ValueError,
        r"`div_factor` must be finite and at least 1, got 0\.5\.",
        {"name": "onecycle", "div_factor": 0.5},
    ),
    "cycle without a rise": (
        ValueError,
        r"`pct_start` must not be 1 / \(`total_steps` \+ 1\), got 0\.25\.",
        {"name": "onecycle", "pct_start": 0.25, "total_steps": 3},
    ),
}


@pytest.mark.parametrize(("error", "message", "arguments"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("tensor", [False, True], ids=["floats", "tensors"])
def test_what_is_refused_leaves_the_optimizer_alone(error, message, arguments, tensor):
    optimizer = make_optimizer(tensor=tensor)
    for group in optimizer.param_groups:
        group["initial_lr"] = 5.0
    before = snapshot(optimizer)
    arguments = {"optimizer": optimizer, "name": "cosine"} | arguments
    with pytest.raises(error, match=message):
        make(arguments.pop("optimizer"), arguments.pop("name"), **arguments)
    assert snapshot(optimizer) == before


def test_a_function_that_raises_leaves_the_optimizer_alone():
    optimizer = make_optimizer()
    before = snapshot(optimizer)
    with pytest.raises(ZeroDivisionError):
        make(optimizer, "lambda", 3, lr_lambda=lambda t: 1.0 / t)
    assert snapshot(optimizer) == before
    assert "step" not in vars(optimizer)  # torch's own patch


def test_momentum_that_an_optimizer_has_not_got_is_not_cycled():
    message = r"`cycle_momentum` must be False for an optimizer without momentum and betas, got True\."
    for options in ({"cycle_momentum": True}, {"max_momentum": 0.9}):
        with pytest.raises(ValueError, match=message):
            make(make_optimizer(make=torch.optim.Adagrad), "onecycle", **options)


def test_a_first_group_without_a_rate_is_refused():
    optimizer = make_optimizer(0.0)
    with pytest.raises(ValueError, match=r"`optimizer` must have a learning rate above 0 in its first parameter group"):
        make(optimizer, "cosine")


def test_a_plateau_has_no_factors():
    message = r"`name` must be a schedule that does not depend on the losses, got 'plateau'\."
    with pytest.raises(ValueError, match=message):
        schedule_factors("plateau", total_steps=5)

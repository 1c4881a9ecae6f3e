"""What all hooks do: the schedule that is left, the rate in use, and when a rate is set."""

import logging
import math
import re
import warnings
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from harness import unchanged
from torch import nn
from torch.optim import lr_scheduler as schedulers
from torch.utils.data import DataLoader, TensorDataset

from autolr import DivergedError, find_lr, rebase_scheduler
from autolr.integrations._hook import Hook, is_as_good, logger, rate_in_use, schedule_left, speaking, training_mode

X = torch.randn(256, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


def network(dropout=0.2):
    torch.manual_seed(0)
    layers = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1)
    return nn.Sequential(*layers).double()


def adam(model, lr=1e-3):
    return torch.optim.Adam(model.parameters(), lr=lr)


def loader(batch_size=16):
    return DataLoader(TensorDataset(X, Y), batch_size=batch_size, shuffle=True)


def halved_after(number):
    return lambda step: 1.0 if step < number else 0.5


def warm_up_then_cosine(optimizer):
    parts = [schedulers.LinearLR(optimizer, 0.1, total_iters=5), schedulers.CosineAnnealingLR(optimizer, T_max=15)]
    return schedulers.SequentialLR(optimizer, parts, milestones=[5])


def chained(optimizer):
    parts = [schedulers.ConstantLR(optimizer, 0.3, total_iters=4), schedulers.ExponentialLR(optimizer, 0.9)]
    return schedulers.ChainedScheduler(parts, optimizer)


SCHEDULERS = {
    "step": lambda o: schedulers.StepLR(o, 4, gamma=0.5),
    "multistep": lambda o: schedulers.MultiStepLR(o, [3, 9], gamma=0.1),
    "exponential": lambda o: schedulers.ExponentialLR(o, 0.9),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, T_max=20),
    "restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, T_0=6, T_mult=2),
    "one cycle": lambda o: schedulers.OneCycleLR(o, max_lr=[0.5, 0.05], total_steps=21),
    "cycle": lambda o: schedulers.CyclicLR(o, base_lr=0.01, max_lr=0.3, step_size_up=5, cycle_momentum=False),
    "closures": lambda o: schedulers.LambdaLR(o, [halved_after(6), halved_after(9)]),
    "products": lambda o: schedulers.MultiplicativeLR(o, lambda _: 0.95),
    "warm-up from 0": lambda o: schedulers.LambdaLR(o, lambda step: min(1.0, step / 8)),
    "polynomial": lambda o: schedulers.PolynomialLR(o, total_iters=20, power=2.0),
    "sequence": warm_up_then_cosine,
    "chain": chained,
}


def attached(name, num_steps, lr=0.1):
    """Return an optimizer with two groups and its scheduler, some real steps into the run."""
    parameters = [torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    groups = [{"params": [parameters[0]]}, {"params": [parameters[1]], "lr": lr / 10}]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    scheduler = SCHEDULERS[name](optimizer)
    step(optimizer, scheduler, num_steps)
    return optimizer, scheduler


def step(optimizer, scheduler, num_steps, group=0):
    """Step as a training does, and return the rates of the steps."""
    rates = []
    for _ in range(num_steps):
        rates.append(float(optimizer.param_groups[group]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


def factors_of(options, num_steps):
    return [options["schedule_options"]["lr_lambda"](number) for number in range(num_steps)]


@pytest.mark.parametrize("begun", [0, 1, 7])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_rates_left_of_a_schedule_are_those_of_real_steps_at_any_base_rate(name, begun):
    optimizer, scheduler = attached(name, begun)
    with unchanged(nn.Identity(), optimizer, scheduler=scheduler):
        factors = factors_of(schedule_left(scheduler, 20 - begun), 20 - begun)
    for base in (None, 0.7):  # as it is, and rebased
        optimizer, scheduler = attached(name, begun)
        if base is not None:
            rebase_scheduler(scheduler, base)
        rate = rate_in_use(optimizer, scheduler=scheduler)
        assert base is None or rate == base
        assert [rate * factor for factor in factors] == pytest.approx(step(optimizer, scheduler, 20 - begun), rel=1e-12)


@pytest.mark.parametrize("per_step", [Fraction(1, 3), 1, 2])
def test_a_schedule_is_stepped_at_its_own_pace(per_step):
    _, scheduler = attached("exponential", 2)
    factors = factors_of(schedule_left(scheduler, 7, per_step=per_step), 7)
    assert factors == pytest.approx([0.9 ** (2 + math.floor(number * per_step)) for number in range(7)], rel=1e-12)


def test_the_last_rate_of_a_schedule_goes_on():
    _, scheduler = attached("closures", 0)
    factor = schedule_left(scheduler, 8)["schedule_options"]["lr_lambda"]
    assert [factor(5), factor(6), factor(1000)] == [1.0, 0.5, 0.5]


def test_a_schedule_of_random_rates_is_read_without_a_draw(rng):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    scheduler = schedulers.LambdaLR(optimizer, lambda _: float(rng.uniform()) + float(torch.rand(1)) + np.random.rand())  # noqa: NPY002
    with unchanged(nn.Identity(), optimizer, scheduler=scheduler, extra=rng):
        factors = factors_of(schedule_left(scheduler, 9), 9)
    assert len(set(factors)) == 9


def test_a_rate_that_is_a_tensor_stays_the_same_tensor():
    rate = torch.tensor(0.1)
    optimizer = torch.optim.Adam([torch.zeros(1)], lr=rate, capturable=True)
    scheduler = schedulers.ExponentialLR(optimizer, 0.5)
    assert factors_of(schedule_left(scheduler, 3), 3) == pytest.approx([1.0, 0.5, 0.25])
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == pytest.approx(0.1)


class _Uncopyable(schedulers.ExponentialLR):
    def __deepcopy__(self, memo):
        raise RuntimeError("one of its kind")


COUNT_AS_CONSTANT = {
    "no known length": (lambda o: schedulers.ExponentialLR(o, 0.9), None),
    "no copy": (lambda o: _Uncopyable(o, 0.9), 5),
    "the end comes first": (lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=3), 9),
    "only zeros": (lambda o: schedulers.LambdaLR(o, lambda _: 0.0), 5),
    "below zero": (lambda o: schedulers.LambdaLR(o, lambda step: 1.0 - step), 5),
    "no number": (lambda o: schedulers.LambdaLR(o, lambda step: math.nan if step else 1.0), 5),
}


@pytest.mark.parametrize("case", COUNT_AS_CONSTANT)
def test_a_schedule_that_cannot_be_told_counts_as_constant(case):
    make, total_steps = COUNT_AS_CONSTANT[case]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9)
    scheduler = make(optimizer)
    with unchanged(nn.Identity(), optimizer, scheduler=scheduler):
        assert schedule_left(scheduler, total_steps) == {}


def test_a_plateau_goes_on_at_its_present_height():
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": 0.2, "initial_lr": 0.2}])
    scheduler = schedulers.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
    assert schedule_left(scheduler, 10) == {"schedule": "plateau"}
    for _ in range(3):  # two without progress
        optimizer.step()
        scheduler.step(1.0)
    assert factors_of(schedule_left(scheduler, None), 2) == [0.25, 0.25]


def test_the_rate_in_use_is_that_of_the_first_tuned_group_or_the_one_that_a_scheduler_starts_from():
    groups = [{"params": [torch.zeros(1)], "lr": lr} for lr in (0.1, 0.2)]
    optimizer = torch.optim.SGD(groups)
    assert [rate_in_use(optimizer), rate_in_use(optimizer, [1])] == [0.1, 0.2]
    scheduler = schedulers.LinearLR(optimizer, start_factor=0.01)
    assert [rate_in_use(optimizer), rate_in_use(optimizer, [1])] == [0.1, 0.2]
    assert rate_in_use(optimizer, scheduler=scheduler) == 0.1
    optimizer = torch.optim.SGD(groups)
    cycle = schedulers.OneCycleLR(optimizer, max_lr=[3.0, 2.0], total_steps=10, cycle_momentum=False)
    assert rate_in_use(optimizer, scheduler=cycle) == 3.0


@pytest.mark.parametrize(("rate", "good"), [(0.09, False), (0.1, True), (0.5, True), (0.6, False)])
def test_as_good_are_the_interval_of_a_search_and_the_span_of_a_best_set(rate, good):
    search = SimpleNamespace(method="search", low=0.1, high=0.5)
    probes = SimpleNamespace(method="mean", best_set=(0.1, 0.2), learning_rate=0.5, low=0.0, high=1.0)
    assert is_as_good(search, rate) is good
    assert is_as_good(probes, rate) is good


@pytest.mark.parametrize(("every", "due"), [(None, [0]), (1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (3, [0, 3])])
def test_it_is_time_at_the_start_and_after_every_so_many_epochs(every, due):
    hook = Hook(every_n_epochs=every)
    assert [epoch for epoch in range(5) if hook.is_due(epoch)] == due


def run(hook, lr, *, scheduler=None, loss_fn=None, **options):
    model = network()
    optimizer = adam(model, lr)
    attached = None if scheduler is None else scheduler(optimizer)
    hook.run(model, loss_fn or nn.MSELoss(), optimizer, loader(), scheduler=attached, **options)
    return optimizer.param_groups[0]["lr"], attached


SEARCH = {"effort": "fast", "rng": 0}
PROBES = {
    "num_subsamples": 20,
    "learning_rates": [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0],
    "evaluation": "subsample",
    "rng": 0,
}


@pytest.mark.parametrize(("tool", "options"), [("find_lr", SEARCH), ("tune", PROBES)])
def test_a_rate_that_is_far_off_is_set_and_a_good_one_left_to_the_bit(tool, options):
    hook = Hook(tool=tool, options=options)
    rate, _ = run(hook, 1e-7, total_steps=200 if tool == "find_lr" else None)
    assert rate == hook.suggestion.learning_rate > 1e-4
    good = rate * 1.01 if tool == "find_lr" else rate
    assert run(hook, good, total_steps=200 if tool == "find_lr" else None)[0] == good
    assert len(hook.suggestions) == 2
    only = Hook(tool=tool, apply=False, options=options)
    assert run(only, 1e-7)[0] == 1e-7
    assert only.suggestion.learning_rate > 1e-4


def test_an_attached_schedule_is_counted_in_and_rebased():
    hook = Hook(options=SEARCH)
    rate, scheduler = run(hook, 1e-7, scheduler=warm_up_then_cosine, total_steps=20)
    suggestion = hook.suggestion
    settings = suggestion.evidence.settings
    assert rate == pytest.approx(0.1 * suggestion.learning_rate)  # in its warm-up
    assert scheduler.optimizer.param_groups[0]["initial_lr"] == suggestion.learning_rate
    own = network()
    factors = step(*(optimizer := adam(own, 1.0), warm_up_then_cosine(optimizer)), 20)
    assert settings["mean_factor"] == pytest.approx(np.mean(factors))
    assert settings["total_steps"] == 20
    assert "for 20 steps under a schedule of its own and" in str(suggestion)


def test_the_users_options_come_before_those_of_the_framework():
    hook = Hook(options={**SEARCH, "total_steps": 300, "schedule": "exponential", "accumulation_steps": 2})
    run(hook, 1e-3, scheduler=warm_up_then_cosine, total_steps=20, defaults={"accumulation_steps": 3, "clip": _clip})
    settings = hook.suggestion.evidence.settings
    assert [settings[name] for name in ("total_steps", "schedule", "accumulation_steps", "clip")] == [
        300,
        "exponential",
        2,
        True,
    ]
    assert hook.accumulation_steps == 2
    assert Hook().accumulation_steps == 1


def _clip(parameters):
    nn.utils.clip_grad_norm_(parameters, 1.0)


def test_what_only_a_search_has_is_left_out_of_the_defaults_of_a_tuning():
    hook = Hook(tool="tune", options={**PROBES, "method": "median"})
    run(hook, 1e-3, defaults={"schedule": "cosine", "clip": _clip})
    assert hook.suggestion.method == "median"
    assert hook.suggestion.evidence.settings["clip"] is True


@pytest.mark.filterwarnings("ignore:At the pick:autolr.ResolutionWarning", "ignore:The pick:autolr.GridEdgeWarning")
def test_where_nothing_can_be_told_the_rate_is_left_and_a_warning_logged(caplog):
    hook = Hook(tool="tune", options=PROBES)
    rate, _ = run(hook, 1e-7, loss_fn=lambda output, target: 0.0 * (output - target).mean() + 1.0)
    assert rate == 1e-7
    assert hook.suggestion.doubt == "resolution"
    records = [record for record in caplog.records if record.name == "autolr"]
    assert [record.levelno for record in records] == [logging.WARNING]
    assert records[0].getMessage().startswith("The learning rate is left at 1e-07.")


@pytest.mark.parametrize(("tool", "options"), [("find_lr", SEARCH), ("tune", PROBES)])
def test_where_all_diverges_the_first_run_raises_and_a_later_one_leaves_the_rate_with_a_warning(tool, options, caplog):
    model = network()
    optimizer = adam(model, 1e-7)
    hook, broken = Hook(tool=tool, options=options), model[0].weight.detach().clone()

    def loss_fn(output, target):
        is_moved = not torch.equal(model[0].weight, broken)
        return (output - target).square().mean() * (math.inf if is_moved else 1.0)

    with unchanged(model, optimizer), pytest.raises(DivergedError):
        hook.run(model, loss_fn, optimizer, loader())
    first = hook.run(model, nn.MSELoss(), optimizer, loader())
    with unchanged(model, optimizer):
        assert hook.run(model, loss_fn, optimizer, loader()) is None
    assert hook.suggestions == [first]
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert re.match(rf"The learning rate is left at {float(first):.3g}\. .*diverged", record.getMessage())


def test_the_log_is_called_after_the_rate_is_set():
    seen = []
    model = network()
    optimizer = adam(model, 1e-7)
    hook = Hook(tool="tune", log=lambda given: seen.append((given, optimizer.param_groups[0]["lr"])), options=PROBES)
    suggestion = hook.run(model, nn.MSELoss(), optimizer, loader())
    assert seen == [(suggestion, suggestion.learning_rate)]
    assert hook.suggestion is suggestion


def test_a_pair_of_arrays_is_data_for_both_tools():
    model = network()
    optimizer = adam(model)
    for tool, options in (("find_lr", SEARCH), ("tune", PROBES)):
        hook = Hook(tool=tool, apply=False, options=options)
        hook.run(model, nn.MSELoss(), optimizer, (X, Y), total_steps=200)
        assert hook.suggestion.method == ("search" if tool == "find_lr" else "mean")


def test_a_hook_finds_what_a_search_by_hand_finds():
    model = network()
    optimizer = adam(model)
    hook = Hook(apply=False, options=SEARCH)
    with unchanged(model, optimizer):
        found = hook.run(model, nn.MSELoss(), optimizer, (X, Y), total_steps=500)
    assert float(found) == float(find_lr(model, nn.MSELoss(), optimizer, (X, Y), total_steps=500, **SEARCH))


def test_parts_of_a_module_go_back_to_their_own_modes_also_where_something_is_raised():
    model = network().eval()
    model[1].train()
    seen = []

    def interrupted():
        with training_mode(model):
            seen.extend(part.training for part in model.modules())
            raise KeyboardInterrupt

    with unchanged(model), pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all(seen)


def test_an_error_of_the_users_loss_passes_through_and_nothing_has_changed():
    calls = []

    def loss_fn(output, target):
        calls.append(None)
        if len(calls) > 20:
            raise ZeroDivisionError("of the user")
        return (output - target).square().mean()

    model = network()
    optimizer = adam(model, 1e-7)
    scheduler = warm_up_then_cosine(optimizer)
    hook = Hook(options=SEARCH)
    with unchanged(model, optimizer, scheduler=scheduler), pytest.raises(ZeroDivisionError, match="of the user"):
        hook.run(model, loss_fn, optimizer, loader(), scheduler=scheduler, total_steps=20)
    assert hook.suggestions == []


WRONG = {
    "tool": ({"tool": "guess"}, ValueError, "`tool` must be one of 'find_lr', 'tune', got 'guess'"),
    "apply": ({"apply": "yes"}, TypeError, "`apply` must be True or False, got 'yes'"),
    "every": ({"every_n_epochs": 0}, ValueError, "`every_n_epochs` must be at least 1, got 0"),
    "option": ({"options": {"effrt": "fast"}}, TypeError, "`options` must be those of tool='find_lr', got 'effrt'"),
    "option of the other tool": (
        {"tool": "tune", "options": {"effort": "fast"}},
        TypeError,
        "`options` must be those of tool='tune', got 'effort'",
    ),
    "what a hook gives": ({"options": {"data": X}}, TypeError, "`options` must be those of tool='find_lr', got 'data'"),
    "log": ({"log": "wandb"}, TypeError, "`log` must be a function of a suggestion or None, got 'wandb'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_way_to_hook_is_refused_in_words(case):
    options, error, text = WRONG[case]
    with pytest.raises(error, match=text):
        Hook(**options)


def test_some_groups_cannot_be_set_where_a_scheduler_moves_all():
    optimizer, scheduler = attached("cosine", 0)
    model = nn.Linear(4, 1).double()
    optimizer.param_groups[0]["params"] = list(model.parameters())
    for groups in ([1], (1,), 1):
        with pytest.raises(ValueError, match=r"`groups` must be left out where a scheduler is attached.*, got [\[(]?1"):
            Hook(options={"groups": groups}).run(model, nn.MSELoss(), optimizer, (X, Y), scheduler=scheduler)
    hook = Hook(apply=False, options={"groups": 0, **SEARCH})
    assert hook.run(model, nn.MSELoss(), optimizer, (X, Y), scheduler=scheduler, total_steps=100).low > 0.0


def test_batches_of_a_step_must_be_a_count():
    with pytest.raises(TypeError, match="`accumulation_steps` must be an integer, got 'two'"):
        _ = Hook(options={"accumulation_steps": "two"}).accumulation_steps


def test_a_process_that_does_not_speak_neither_logs_nor_warns(caplog, recwarn):
    for speaks in (False, True):
        with speaking(speaks):
            logger.warning("said %s", speaks)
            warnings.warn(f"said {speaks}", stacklevel=1)
    assert [record.message for record in caplog.records] == ["said True"]
    assert [str(warning.message) for warning in recwarn] == ["said True"]


def test_a_step_of_several_processes_has_the_batches_of_all_of_them():
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"num_subsamples": 3, "learning_rates": [1e-3, 0.1, 30.0], "evaluation": "subsample"}
    hook = Hook(tool="tune", apply=False, options={**options, "accumulation_steps": 2, "rng": 0})
    batches = list(torch.randn(18, 2, 4, generator=torch.Generator().manual_seed(0)))
    suggestion = hook.run(model, None, optimizer, batches, compute_loss=lambda m, x: m(x).square().mean(), replicas=3)
    assert suggestion.evidence.settings["accumulation_steps"] == 6
    assert suggestion.evidence.settings["num_batches_drawn"] == 18

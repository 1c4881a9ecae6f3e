"""SecondOrderLR sets the minimizer of the expansion, falls back where there is none, and changes nothing else."""

import copy
import io
import math
import pickle
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from harness import unchanged
from torch import nn, optim

from autolr import SecondOrderLR, taylor_expansion

F64 = torch.float64
LIMITS = {"lr_min": 1e-4, "lr_max": 10.0}


def network(*layers):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), *(layers or (nn.Tanh(),)), nn.Linear(6, 3)).to(F64)


def batch_of(rng):
    return torch.from_numpy(rng.normal(size=(12, 4))), torch.from_numpy(rng.integers(3, size=12))


def scheduled(model=None, optimizer=None, loss_fn=nn.functional.cross_entropy, **options):
    model = network() if model is None else model
    optimizer = optim.SGD(model.parameters(), lr=0.1) if optimizer is None else optimizer
    return model, optimizer, SecondOrderLR(optimizer, model, loss_fn, **{**LIMITS, **options})


def regression(rng, *, num=1000, noise=0.2):
    weights = np.array([0.0, 2.0, 4.0, 6.0, 8.0])
    X = rng.normal(size=(num, 5))
    y = X @ weights + noise * rng.normal(size=num)
    return torch.from_numpy(X), torch.from_numpy(y).unsqueeze(1), weights


def steps_until(target, X, y, *, with_scheduler):
    """Return the steps that a linear regression takes until its mean squared error is below a target, and the model."""
    torch.manual_seed(0)
    model = nn.Linear(5, 1, bias=False).to(F64)
    optimizer = optim.SGD(model.parameters(), lr=0.25)
    scheduler = SecondOrderLR(optimizer, model, nn.MSELoss(), lr_min=1e-3, lr_max=10.0)
    for step in range(100):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(X), y)
        if float(loss.detach()) < target:
            return step, model
        if with_scheduler:
            scheduler.step(X, y)
        loss.backward()
        optimizer.step()
    return 100, model


def test_it_trains_a_linear_regression_in_fewer_steps_than_a_constant_rate(rng):
    X, y, weights = regression(rng)
    best = torch.linalg.lstsq(X, y).solution
    residual = float((X @ best - y).square().mean())
    assert residual == pytest.approx(0.04, rel=0.1), "the noise"
    by_hand, _ = steps_until(residual + 1e-6, X, y, with_scheduler=False)
    steps, model = steps_until(residual + 1e-6, X, y, with_scheduler=True)
    assert steps <= 6
    assert by_hand >= 2 * steps
    np.testing.assert_allclose(model.weight.detach().numpy()[0], weights, atol=0.03)


def test_it_is_the_exact_line_search_of_steepest_descent(rng):
    X, y, _ = regression(rng, num=50)
    model = nn.Linear(5, 1, bias=False).to(F64)
    _, _, scheduler = scheduled(model, optim.SGD(model.parameters(), lr=0.1), nn.MSELoss())
    scheduler.step(X, y)
    hessian = 2.0 / 50.0 * X.T @ X
    gradient = (2.0 / 50.0 * X.T @ (X @ model.weight.detach().T - y)).flatten()
    expected = float(gradient @ gradient / (gradient @ hessian @ gradient))
    assert scheduler.get_last_lr() == [pytest.approx(expected, rel=1e-9)]


@pytest.mark.parametrize("kind", [optim.SGD, optim.AdamW])
def test_the_rate_is_the_minimizer_of_the_expansion(kind, rng):
    model, batch = network(), batch_of(rng)
    model, optimizer, scheduler = scheduled(model, kind(model.parameters(), lr=0.01))
    expansion = taylor_expansion(model, nn.functional.cross_entropy, optimizer, *batch, learning_rates=[])
    assert scheduler.step(*batch) is None
    assert optimizer.param_groups[0]["lr"] == pytest.approx(expansion.minimizer, rel=1e-12)


def test_groups_keep_the_ratios_that_they_had_at_construction_and_tensors_are_filled_in_place(rng):
    model = network()
    tensor = torch.tensor(0.1, dtype=F64)
    groups = [{"params": model[0].parameters(), "lr": tensor}, {"params": model[2].parameters(), "lr": 0.02}]
    model, optimizer, scheduler = scheduled(model, optim.SGD(groups))
    optimizer.param_groups[1]["lr"] = 5.0
    scheduler.step(*batch_of(rng))
    first, second = (group["lr"] for group in optimizer.param_groups)
    assert first is tensor
    assert float(first) != 0.1
    assert second == pytest.approx(0.2 * float(first))
    last = scheduler.get_last_lr()
    assert last[0] is not tensor
    assert [float(rate) for rate in last] == [float(first), second]


@pytest.mark.parametrize(("lr_min", "lr_max", "expected"), [(0.5, 0.6, 0.5), (1e-3, 2e-3, 2e-3), (0.05, 0.05, 0.05)])
def test_the_rate_is_clamped(lr_min, lr_max, expected):
    x = torch.ones(1, 1, dtype=F64)
    model = nn.Linear(1, 1, bias=False).to(F64)
    nn.init.constant_(model.weight, 2.0)
    # the minimizer of 2 w^2 is at 1 / 4
    options = {"lr_min": lr_min, "lr_max": lr_max, "compute_loss": lambda m, batch: 2.0 * m(batch).square().mean()}
    _, optimizer, scheduler = scheduled(model, None, None, **options)
    scheduler.step(x)
    assert optimizer.param_groups[0]["lr"] == expected


FALLBACKS = {
    "negative curvature": lambda m, batch: -m(batch).square().mean(),
    "no curvature": lambda m, batch: m(batch).mean(),
    "no slope": lambda m, batch: (m(batch) - m(batch).detach()).square().mean(),
    "a loss that is not finite": lambda m, batch: m(batch).mean() * math.nan,
    "a slope that is not finite": lambda m, batch: (m(batch) - m(batch).detach()).abs().sqrt().mean(),
}


@pytest.mark.parametrize("present", [0.1, 20.0])
@pytest.mark.parametrize("name", FALLBACKS)
def test_where_the_expansion_has_no_minimum_the_last_rate_is_kept_and_clamped(name, present, rng):
    model = nn.Linear(4, 1).to(F64)
    optimizer = optim.SGD(model.parameters(), lr=present)
    _, _, scheduler = scheduled(model, optimizer, None, compute_loss=FALLBACKS[name])
    with unchanged(model):
        scheduler.step(batch_of(rng)[0])
    assert optimizer.param_groups[0]["lr"] == min(present, 10.0)
    assert scheduler.last_epoch == 1


def test_a_step_that_ascends_keeps_the_last_rate(rng):
    model = network()
    _, optimizer, scheduler = scheduled(model, optim.SGD(model.parameters(), lr=0.1, maximize=True))
    scheduler.step(*batch_of(rng))
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_without_data_no_rate_changes_and_steps_are_counted_as_torch_does(rng):
    model = network()
    _, optimizer, scheduler = scheduled(model)
    constant = optim.lr_scheduler.ConstantLR(optim.SGD(model.parameters(), lr=0.1), factor=1.0)
    assert (
        (scheduler.last_epoch, scheduler.get_last_lr()) == (constant.last_epoch, constant.get_last_lr()) == (0, [0.1])
    )
    scheduler.step()
    assert (scheduler.last_epoch, scheduler.get_last_lr()) == (1, [0.1])
    scheduler.step(*batch_of(rng))
    assert scheduler.last_epoch == 2
    assert scheduler.get_last_lr() == [optimizer.param_groups[0]["lr"]] != [0.1]


@pytest.mark.parametrize("first", ["scheduler", "optimizer"])
def test_torch_warns_neither_where_the_scheduler_steps_first_nor_where_the_optimizer_does(first, rng):
    model, optimizer, scheduler = scheduled()
    batch = batch_of(rng)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
            steps = [lambda: scheduler.step(*batch), optimizer.step]
            for step in steps if first == "scheduler" else reversed(steps):
                step()
    assert isinstance(scheduler, optim.lr_scheduler.LRScheduler)


def test_nothing_but_the_rates_changes(rng):
    model = network(nn.BatchNorm1d(6), nn.Dropout(0.5))
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    batch = batch_of(rng)
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()
    _, _, scheduler = scheduled(model, optimizer)
    with unchanged(model, extra=[optimizer.state, batch]):
        scheduler.step(*batch)


def test_masks_are_drawn_anew_by_the_number_of_the_step(rng):
    batch = batch_of(rng)
    rates = []
    for _ in range(2):
        torch.manual_seed(len(rates))
        _, _, scheduler = scheduled(network(nn.Dropout(0.5)))
        for _ in range(2):
            scheduler.step(*batch)
            rates += scheduler.get_last_lr()
    assert rates[:2] == rates[2:]
    assert rates[0] != rates[1]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [1, 2, 4])
def test_where_the_loss_raises_everything_is_put_back_and_no_step_is_counted(call, error, rng):
    calls = []

    def loss(output, target):
        calls.append(1)
        if len(calls) >= call:
            raise error("in the middle")
        return nn.functional.cross_entropy(output, target)

    model, optimizer, scheduler = scheduled(network(nn.Dropout(0.5)), None, loss)
    with unchanged(model, optimizer, scheduler=scheduler), pytest.raises(error, match="in the middle"):
        scheduler.step(*batch_of(rng))


def test_the_state_holds_plain_values_and_goes_on_where_it_was(rng):
    batch = batch_of(rng)
    model, optimizer, scheduler = scheduled(network(nn.Dropout(0.5)))
    scheduler.step(*batch)
    file = io.BytesIO()
    torch.save({"scheduler": scheduler.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    states = torch.load(file, weights_only=True)
    model, other, resumed = scheduled(model, optim.SGD(model.parameters(), lr=7.0), lr_max=0.5)
    other.load_state_dict(states["optimizer"])
    resumed.load_state_dict(states["scheduler"])
    assert resumed.state_dict() == scheduler.state_dict()
    for each in (scheduler, resumed):
        each.step(*batch)
    assert resumed.get_last_lr() == scheduler.get_last_lr()
    assert (resumed.last_epoch, resumed.lr_max) == (2, 10.0)


def test_the_first_batch_is_checked_as_everywhere(rng):
    _, _, scheduler = scheduled(nn.Linear(4, 1).to(F64), None, lambda output, target: (output - target).square().mean())
    X, _ = batch_of(rng)
    with pytest.raises(ValueError, match="`loss_fn` must compare output and target of one shape") as caught:
        scheduler.step(X, X[:, 0])
    assert "raised by the first scheduler's batch" in caught.value.__notes__[0]


def test_an_optimizer_without_a_direction_is_refused(rng):
    model = network()
    _, _, scheduler = scheduled(model, optim.LBFGS(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match="`optimizer` must take steps that are proportional to the learning rate"):
        scheduler.step(*batch_of(rng))


def test_a_group_that_is_added_later_has_no_ratio_and_is_refused(rng):
    model = network()
    _, optimizer, scheduler = scheduled(model, optim.SGD(model[0].parameters(), lr=0.1))
    optimizer.add_param_group({"params": model[2].parameters()})
    with pytest.raises(ValueError, match=r"`optimizer` must have the 1 parameter groups whose ratios .*, got 2"):
        scheduler.step(*batch_of(rng))
    assert scheduler.last_epoch == 0


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"lr_min": 0.0}, ValueError, "`lr_min` must be finite and above 0, got 0.0"),
        ({"lr_max": math.inf}, ValueError, "`lr_max` must be finite and above 0, got inf"),
        ({"lr_min": 0.2, "lr_max": 0.1}, ValueError, r"`lr_max` must be at least `lr_min` \(0.2\), got 0.1"),
        ({"lr_min": "0.1"}, TypeError, "`lr_min` must be a real number, got '0.1'"),
        ({"compute_loss": lambda m, batch: m(batch)}, ValueError, "`compute_loss` must be left out where `loss_fn`"),
    ],
)
def test_wrong_arguments_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        scheduled(**options)


def test_a_model_in_the_place_of_the_optimizer_is_refused():
    model = network()
    with pytest.raises(TypeError, match=r"`model` must be a torch\.nn\.Module, got SGD"):
        SecondOrderLR(model, optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), **LIMITS)


@pytest.mark.parametrize("value", [torch.nn.Linear, iter([1])])
def test_what_is_no_batch_is_refused(value):
    _, _, scheduler = scheduled()
    with pytest.raises(TypeError):
        scheduler.step(value)
    assert scheduler.last_epoch == 0


def test_it_can_be_a_part_of_a_sequence_of_torch(rng):
    model, batch = network(), batch_of(rng)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    warmup = optim.lr_scheduler.LinearLR(optimizer, 0.5, total_iters=4)
    second = SecondOrderLR(optimizer, model, nn.CrossEntropyLoss(), **LIMITS)
    sequence = optim.lr_scheduler.SequentialLR(optimizer, [warmup, second], [2])
    rates = []
    for _ in range(3):
        optimizer.step()
        sequence.step()
        rates += sequence.get_last_lr()
    assert rates == pytest.approx([0.0625, 0.0625, 0.0625]), "without data the last rate of the warm-up is kept"
    second.step(*batch)
    expansion = taylor_expansion(model, nn.functional.cross_entropy, optimizer, *batch, learning_rates=[])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(expansion.minimizer)


def trained(kind, rng, *, rates=None, resume_at=None):
    """Train with the scheduler, or by hand at rates; return the rates, the weights and the global random state."""
    X, y = (torch.from_numpy(values) for values in (rng.normal(size=(24, 4)), rng.integers(3, size=24)))

    def begin(lr):
        model = network(nn.BatchNorm1d(6), nn.Dropout(0.3))
        optimizer = kind(model.parameters(), lr=lr)
        return scheduled(model, optimizer) if rates is None else (model, optimizer, None)

    model, optimizer, scheduler = begin(0.01)
    scaler, used = torch.amp.GradScaler("cpu"), []
    for step in range(6):
        if step == resume_at:
            states = copy.deepcopy([part.state_dict() for part in (model, optimizer, scheduler)])
            random_state = torch.get_rng_state()
            model, optimizer, scheduler = begin(0.5)
            for part, state in zip((model, optimizer, scheduler), states, strict=True):
                part.load_state_dict(state)
            torch.set_rng_state(random_state)
        rows = slice(8 * (step % 3), 8 * (step % 3 + 1))
        if rates is None:
            scheduler.step(X[rows], y[rows])
        else:
            optimizer.param_groups[0]["lr"] = rates[step]
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.zero_grad()
        scaler.scale(nn.functional.cross_entropy(model(X[rows]), y[rows])).backward()
        scaler.step(optimizer)
        scaler.update()
    return used, torch.cat([p.detach().flatten() for p in model.parameters()]), torch.get_rng_state()


@pytest.mark.parametrize("kind", [partial(optim.SGD, momentum=0.9), optim.AdamW], ids=["momentum", "AdamW"])
def test_a_training_is_bit_for_bit_that_by_hand_at_the_same_rates_and_goes_on_from_its_states(kind):
    rates, weights, random_state = trained(kind, np.random.default_rng(0))
    assert len(set(rates)) > 3
    for options in ({"rates": rates}, {"resume_at": 4}):
        again = trained(kind, np.random.default_rng(0), **options)
        assert again[0] == rates
        assert torch.equal(again[1], weights)
        assert torch.equal(again[2], random_state)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda whole: pickle.loads(pickle.dumps(whole))])
def test_a_copy_has_a_model_and_an_optimizer_of_its_own(copied, rng):
    batch = batch_of(rng)
    model, optimizer, scheduler = scheduled()
    other = copied(scheduler)
    with unchanged(model, optimizer, scheduler=scheduler):
        other.step(*batch)
    scheduler.step(*batch)
    assert other.get_last_lr() == scheduler.get_last_lr() != [0.1]

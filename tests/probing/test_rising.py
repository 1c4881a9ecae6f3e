"""A training run at a rising rate is what a loop written by hand does."""

import itertools
import math

import numpy as np
import pytest
import torch
from oracles import copies_of
from torch import nn

from autolr.probing.rising import follow, rising_losses, rising_rates
from autolr.training import check_training


def batches(num=10, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(num, 6, 3, dtype=torch.float64, generator=generator)
    return [(x, x.sum(1, keepdim=True) + 0.1) for x in X]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.4), nn.Linear(5, 1)).double()


def groups(model):
    return [{"params": model[0].parameters(), "lr": 0.2}, {"params": model[1:].parameters(), "lr": 0.05}]


OPTIMIZERS = {
    "momentum": lambda model: torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, nesterov=True),
    "AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr=0.2),
    "groups": lambda model: torch.optim.RMSprop(groups(model)),
    "LBFGS": lambda model: torch.optim.LBFGS(model.parameters(), lr=0.2, max_iter=3),
}


def warmed(model, optimizer):
    for x, y in batches(2, seed=9):

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            return float(loss.detach())

        optimizer.step(closure)
    return optimizer


def by_hand(model, optimizer, rates, data, accumulation_steps):
    """Train copies as anyone would, and return the losses."""
    ratios = [group["lr"] / optimizer.param_groups[0]["lr"] for group in optimizer.param_groups]
    losses, order = [], itertools.cycle(data)
    for rate in rates:
        for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
            group["lr"] = rate * ratio
        seen, micro = [], [next(order) for _ in range(accumulation_steps)]

        def closure(seen=seen, micro=micro):
            optimizer.zero_grad()
            parts = []
            for x, y in micro:
                part = nn.functional.mse_loss(model(x), y) / accumulation_steps
                part.backward()
                parts.append(float(part.detach()))
            seen.append(sum(parts))
            return seen[-1]

        optimizer.step(closure)
        losses.append(seen[0])
    return losses


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("accumulation_steps", [1, 2, 3])
def test_losses_are_those_of_a_loop_written_by_hand(name, accumulation_steps):
    model = network()
    optimizer = warmed(model, OPTIMIZERS[name](model))
    rates = rising_rates(1e-3, 0.3, 25, "exponential")
    twin, twin_optimizer, _ = copies_of(model, optimizer, None)()
    torch.manual_seed(3)
    expected = by_hand(twin, twin_optimizer, rates, batches(), accumulation_steps)
    training = check_training(model, nn.MSELoss(), optimizer)
    torch.manual_seed(3)
    with training.preserved() as start:
        order = itertools.cycle(batches())
        losses = list(rising_losses(start, rates, order, accumulation_steps=accumulation_steps))
    np.testing.assert_allclose(losses, expected, rtol=1e-12)


def test_a_batch_is_drawn_when_its_turn_comes():
    events = []

    def drawn():
        for number in itertools.count():
            events.append(f"batch {number}")
            yield torch.ones(2, 3)

    def compute_loss(model, batch):
        events.append("forward")
        return model(batch).square().mean()

    model = nn.Linear(3, 1)
    training = check_training(model, None, torch.optim.SGD(model.parameters(), lr=1.0), compute_loss=compute_loss)
    with training.preserved() as start:
        list(rising_losses(start, [0.1, 0.2], drawn(), accumulation_steps=2))
    assert events[::2] == ["batch 0", "batch 1", "batch 2", "batch 3"]
    assert events[1::2] == ["forward"] * 4


def test_a_measured_loss_is_that_after_the_step():
    # on w^2 / 2 from w = 1, a step of 0.5 leads to 0.5
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(model.weight)
    training = check_training(
        model,
        None,
        torch.optim.SGD(model.parameters(), lr=1.0),
        compute_loss=lambda model, _: model.weight.square().sum() / 2.0,
    )
    with training.preserved() as start:
        weights = list(rising_losses(start, [0.5, 0.5], itertools.repeat(()), evaluate=model.weight.item))
        before = list(rising_losses(start, [0.5, 1.0], itertools.repeat(())))
    assert weights == [0.5, 0.25]
    assert before == [0.25**2 / 2.0, 0.125**2 / 2.0]


def test_rates_rise_from_the_first_to_the_last():
    exponential = rising_rates(1e-4, 1.0, 5, "exponential")
    assert exponential == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    assert rising_rates(1.0, 3.0, 5, "linear") == [1.0, 1.5, 2.0, 2.5, 3.0]


@pytest.mark.parametrize("smoothing", [0.0, 0.05, 0.5])
def test_smoothing_is_the_closed_form_of_the_recursion(rng, smoothing):
    losses = rng.uniform(1.0, 2.0, size=30)
    points = list(follow(losses.tolist(), smoothing=smoothing, divergence_factor=5.0))
    for i, point in enumerate(points):
        weights = smoothing * (1.0 - smoothing) ** np.arange(i)[::-1] if smoothing else np.eye(i)[-1:].sum(0)
        first = (1.0 - smoothing) ** i if smoothing or i == 0 else 0.0
        assert point.smoothed == pytest.approx(first * losses[0] + weights @ losses[1 : i + 1], rel=1e-12)
        assert point.loss == losses[i]
    assert len(points) == 30


@pytest.mark.parametrize(
    ("losses", "rows"),
    [
        ([4.0, 2.0, 9.9, 10.1, 3.0], 4),  # above 5 * 2
        ([4.0, 2.0, 10.0, 9.0], 4),  # not above it
        ([1.0, -1.0, 2.9, 3.1, 0.0], 4),  # above -1 + 4 * 1
        ([-2.0, -3.0, 8.9, 9.1, 0.0], 4),  # above -3 + 4 * 3
        ([1.0, 2.0, math.nan, 1.0], 3),
        ([1.0, 2.0, math.inf, 1.0], 3),
        ([1.0, 2.0, -math.inf, 1.0], 3),
    ],
)
def test_a_run_ends_with_the_first_loss_that_counts_as_a_divergence(losses, rows):
    points = list(follow(iter(losses), smoothing=0.0, divergence_factor=5.0))
    assert len(points) == rows
    assert [point.diverged for point in points[:-1]] == [False] * (rows - 1)
    assert points[-1].diverged == (losses != [4.0, 2.0, 10.0, 9.0])
    assert all(math.isfinite(point.loss) or (point.loss == point.smoothed == math.inf) for point in points)

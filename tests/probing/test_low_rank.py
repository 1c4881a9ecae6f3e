"""Steps of low rank: found, checked, and used where that is right."""

import numpy as np
import pytest
import torch
from engine_cases import Case, classes, cross_entropy, probe, train
from torch import nn

from autolr.probing import low_rank, replay, stacked_calls
from autolr.probing.low_rank import LowRank

WIDTH, RANK = 256, 8


def points(rank=RANK, noise=0.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    step = random(WIDTH, rank) @ random(rank, WIDTH) + noise * random(WIDTH, WIDTH)
    return nn.Parameter(random(WIDTH, WIDTH)), step / WIDTH


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_factors_make_the_step_again(dtype):
    weight, step = points(dtype=dtype)
    left, right = LowRank(1.0).factors(weight, weight.data, step, 16)
    assert left.shape == (WIDTH, RANK)
    allowed = torch.linalg.norm(step) + torch.linalg.norm(weight.data)
    assert torch.linalg.norm(left @ right - step) <= 8.0 * torch.finfo(dtype).eps * allowed


@pytest.mark.parametrize(
    ("rank", "noise", "num_inputs"), [(WIDTH, 0.0, 16), (RANK, 1e-3, 16), (64, 0.0, 16), (RANK, 0.0, 512)]
)
def test_another_step_has_no_factors(rank, noise, num_inputs):
    weight, step = points(rank, noise)
    assert LowRank(1.0).factors(weight, weight.data, step, num_inputs) is None


def test_a_step_that_is_not_of_low_rank_in_some_row_is_found_and_the_weight_left_alone_from_then_on():
    found = LowRank(1.0)
    weight, step = points()
    assert found.factors(weight, weight.data, step, 16) is not None
    odd = step.clone()
    odd[3, 5] += 1.0
    for other, is_low in ((step, True), (points(RANK + low_rank._MORE + 1)[1], False), (step, False)):
        assert (found.factors(weight, weight.data, other, 16) is not None) is is_low
    again = LowRank(1.0)
    assert again.factors(weight, weight.data, step, 16) is not None
    assert again.factors(weight, weight.data, odd, 16) is not None  # by more columns


def test_a_product_by_factors_is_that_of_the_weights():
    weight, step = points()
    bias = torch.randn(WIDTH), torch.randn(WIDTH)
    x, rates = torch.randn(5, 2, 8, WIDTH), torch.linspace(0.0, 1.0, 5)
    factors = LowRank(1.0).factors(weight, weight.data, step, 16)
    for given in (bias, bias[0], None):
        by_factors = stacked_calls.linear_of_low_rank(x, weight.data, factors, given, rates)
        torch.testing.assert_close(
            by_factors, stacked_calls.linear(x, (weight.data, step), given, rates), rtol=1e-5, atol=1e-3
        )


@pytest.mark.parametrize(
    ("make_optimizer", "num_steps", "is_low"),
    [
        (lambda parameters: torch.optim.SGD(parameters, lr=0.1), 0, True),
        (lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True), 0, True),
        (lambda parameters: torch.optim.SGD(parameters, lr=0.1, weight_decay=1e-2), 0, False),
        (lambda parameters: torch.optim.AdamW(parameters, lr=1e-3), 2, False),
    ],
    ids=["SGD", "first step with momentum", "weight decay", "AdamW"],
)
def test_the_engine_uses_them_where_they_exist(make_optimizer, num_steps, is_low, monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 3))
    batches = classes(16, 9, dtype=torch.float32)
    case = train(Case(model, make_optimizer(model.parameters()), cross_entropy, *batches), num_steps)
    uses = []
    by_factors = replay.linear_of_low_rank
    monkeypatch.setattr(replay, "linear_of_low_rank", lambda *given: uses.append(1) or by_factors(*given))
    rates = np.geomspace(1e-3, 1.0 if is_low else 0.1, 20)
    fast, slow = probe(case, "batched", rates, num_rows=3), probe(case, "step", rates, num_rows=3)
    assert fast.engine == "batched", fast.engine_reason
    assert bool(uses) is is_low
    np.testing.assert_allclose(fast.loss_post, slow.loss_post, rtol=1e-6)

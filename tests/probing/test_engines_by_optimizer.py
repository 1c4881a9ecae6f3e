"""Every engine equals the oracle, for every optimizer of torch, cold and warm."""

import logging

import numpy as np
import oracles
import pytest
import torch
from engine_cases import RATES, Case, assert_equals_oracle, classes, cross_entropy, expected, mlp, probe, train
from torch import optim

LINEAR = {
    "SGD": (optim.SGD, {}),
    "SGD momentum": (optim.SGD, {"momentum": 0.9}),
    "SGD nesterov": (optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "SGD dampening": (optim.SGD, {"momentum": 0.9, "dampening": 0.5}),
    "SGD weight_decay": (optim.SGD, {"weight_decay": 0.1}),
    "SGD maximize": (optim.SGD, {"maximize": True}),
    "SGD foreach": (optim.SGD, {"momentum": 0.9, "foreach": True}),
    "SGD no foreach": (optim.SGD, {"momentum": 0.9, "foreach": False}),
    "SGD fused": (optim.SGD, {"momentum": 0.9, "fused": True}),
    "Adam": (optim.Adam, {}),
    "Adam foreach": (optim.Adam, {"foreach": True}),
    "Adam fused": (optim.Adam, {"fused": True}),
    "Adam weight_decay": (optim.Adam, {"weight_decay": 0.1}),
    "AdamW": (optim.AdamW, {"weight_decay": 0.1}),
    "AdamW fused": (optim.AdamW, {"fused": True}),
    "Adam amsgrad": (optim.Adam, {"amsgrad": True}),
    "NAdam": (optim.NAdam, {}),
    "RAdam": (optim.RAdam, {}),
    "Adamax": (optim.Adamax, {}),
    "Adadelta": (optim.Adadelta, {}),
    "Adagrad": (optim.Adagrad, {}),
    "RMSprop": (optim.RMSprop, {}),
    "RMSprop centered": (optim.RMSprop, {"centered": True, "momentum": 0.9}),
    "Muon": (optim.Muon, {}),
}
NOT_LINEAR = {
    "ASGD": (optim.ASGD, {"lambd": 0.1}),
    "Rprop": (optim.Rprop, {}),
    "LBFGS": (optim.LBFGS, {"max_iter": 3}),
    "Adafactor": (optim.Adafactor, {}),
}
FIRST_STEP_LINEAR = ("ASGD", "Rprop", "Adafactor")  # up to a rate of 1; then their state holds the rate, or caps it


def make(name, *, warm, dtype=torch.float64):
    kind, options = (LINEAR | NOT_LINEAR)[name]
    model = mlp(dtype, bias=name != "Muon")
    case = Case(model, kind(model.parameters(), lr=0.01, **options), cross_entropy, *classes(16, 5, dtype=dtype))
    return train(case) if warm else case


def oracle_of(case):
    return expected(oracles.copies_of(case.model, case.optimizer, case.compute_loss), case)


@pytest.mark.parametrize(
    ("name", "warm"),
    [*((name, warm) for name in LINEAR for warm in (False, True)), *((n, False) for n in FIRST_STEP_LINEAR)],
)
def test_both_engines_equal_the_oracle(name, warm):
    case = make(name, warm=warm)
    oracle = oracle_of(case)
    assert len(set(oracle[1])) == len(RATES)
    assert_equals_oracle(probe(case, "step"), oracle)
    probed = probe(case, "auto")
    assert probed.engine == "line", probed.engine_reason
    assert_equals_oracle(probed, oracle)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("name", LINEAR)
def test_the_batched_engine_equals_the_oracle(name, warm):
    rates = np.geomspace(1e-4, 1.0, 9)
    case = make(name, warm=warm)
    oracle = expected(oracles.copies_of(case.model, case.optimizer, case.compute_loss), case, rates)
    probed = probe(case, "batched", rates)
    assert probed.engine == "batched", probed.engine_reason
    assert_equals_oracle(probed, oracle)


@pytest.mark.parametrize("engine", ["step", "line", "batched"])
@pytest.mark.parametrize("name", ["SGD momentum", "AdamW", "Muon"])
def test_every_engine_equals_the_oracle_in_float32(name, engine):
    rates = np.geomspace(1e-4, 1.0, 9)
    case = make(name, warm=True, dtype=torch.float32)
    probed = probe(case, engine, rates)
    assert probed.engine == engine
    assert_equals_oracle(
        probed, expected(oracles.copies_of(case.model, case.optimizer, case.compute_loss), case, rates)
    )


@pytest.mark.parametrize("engine", ["auto", "line", "batched"])
@pytest.mark.parametrize(
    ("name", "warm"),
    [(name, warm) for name in NOT_LINEAR for warm in (False, True) if warm or name not in FIRST_STEP_LINEAR],
)
def test_the_line_steps_aside_for_a_step_that_is_not_linear(name, warm, engine, caplog):
    case = make(name, warm=warm)
    oracle = oracle_of(case)
    with caplog.at_level(logging.INFO, logger="autolr"):
        probed = probe(case, engine)
    assert probed.engine == "step"
    assert probed.engine_reason.startswith("the line engine stepped aside: ")
    (record,) = caplog.records
    assert record.message.startswith("The line engine steps aside for the reference engine: ")
    assert record.levelno == (logging.INFO if engine == "auto" else logging.WARNING)
    assert_equals_oracle(probed, oracle)


def test_diverging_rates_give_inf_in_both_engines():
    case = make("SGD", warm=False, dtype=torch.float32)
    rates = np.array([1e-3, 1e-2, 1e30, 1e38])

    def exploding(model, batch):
        return (model(batch[0]) ** 4).sum()

    case.compute_loss = exploding
    for engine in ("step", "line"):
        loss_post = probe(case, engine, rates).loss_post
        np.testing.assert_array_equal(np.isinf(loss_post), [[False, False, True, True]])


def test_a_step_that_overflows_at_the_highest_rate_only_is_probed_by_real_steps():
    case = make("SGD", warm=False, dtype=torch.float32)
    case.compute_loss = lambda model, batch: 1e4 * cross_entropy(model, batch)
    oracle = expected(oracles.copies_of(case.model, case.optimizer, case.compute_loss), case, np.array([1e-3, 3e38]))
    probed = probe(case, "auto", np.array([1e-3, 3e38]))
    assert "not finite" in probed.engine_reason
    assert np.isfinite(probed.loss_post[0, 0])
    assert_equals_oracle(probed, oracle)


def test_a_row_whose_step_overflows_at_the_highest_rate_is_probed_by_real_steps():
    torch.manual_seed(0)
    rates = np.array([1e-37, 1e-2, 1e3])
    batches = [[(*batch, 1.0) for batch in classes(16, 5, dtype=torch.float32)] for _ in range(3)]
    batches[1][0] = (*batches[1][0][:2], 1e37)  # not the row of a gate

    def weighted(model, batch):
        return batch[2] * cross_entropy(model, batch[:2])

    model = mlp(torch.float32)
    case = Case(model, optim.SGD(model.parameters(), lr=0.1), weighted, *batches[1])
    oracle = expected(oracles.copies_of(model, case.optimizer, weighted), case, rates, row=1)
    assert np.isfinite(oracle[1]).tolist() == [True, True, False]
    probed = probe(case, "line", rates, num_rows=3, batches=batches)
    assert probed.engine == "line", probed.engine_reason
    np.testing.assert_allclose(probed.loss_post[1], oracle[1], rtol=1e-6)


def test_sgd_on_a_linear_regression_equals_its_closed_form():
    torch.manual_seed(0)
    X, y = torch.randn(40, 4, dtype=torch.float64), torch.randn(40, dtype=torch.float64)
    model = torch.nn.Linear(4, 1, bias=False, dtype=torch.float64)
    case = Case(
        model,
        optim.SGD(model.parameters(), lr=0.1),
        lambda model, batch: ((model(batch[0]).squeeze(1) - batch[1]) ** 2).mean(),
        (X, y),
        (X, y),
    )
    closed_form = oracles.linear_regression_delta(model.weight.detach()[0], X, y, RATES)
    for engine in ("step", "line"):
        probed = probe(case, engine)
        np.testing.assert_allclose(probed.loss_post[0] - probed.loss_pre[0], closed_form, rtol=1e-9)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_a_quadratic_loss_equals_its_second_order_expansion(name):
    torch.manual_seed(0)
    root, center = torch.randn(6, 6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    model = torch.nn.Linear(6, 1, bias=False, dtype=torch.float64)
    weight = model.weight.detach()[0].clone()

    def quadratic(model, _):
        residual = root @ (model.weight[0] - center)
        return residual @ residual / 2.0

    hessian = root.T @ root
    gradient = hessian @ (weight - center)
    direction = gradient if name == "SGD" else gradient / (gradient.abs() + 1e-8)  # Adam's first step
    closed_form = oracles.quadratic_delta(gradient, hessian, direction, RATES)
    case = Case(model, getattr(optim, name)(model.parameters(), lr=0.1), quadratic, None, None)
    for engine in ("step", "line"):
        probed = probe(case, engine)
        np.testing.assert_allclose(probed.loss_post[0] - probed.loss_pre[0], closed_form, rtol=1e-9)

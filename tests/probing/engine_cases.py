"""A probe by an engine and by the oracle, for any model, optimizer and loss."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import oracles
import torch
from harness import unchanged
from torch import nn

from autolr.param_groups import base_learning_rates
from autolr.probing.objective import Objective
from autolr.probing.random_state import ForkedRandomness, capture_random_state
from autolr.probing.rows import ProbedRows, probe_rows
from autolr.probing.start import Start
from autolr.probing.state import preserved_state

F64 = torch.float64
RATES = np.geomspace(1e-4, 1.0, 5)


@dataclass
class Case:
    """What is probed: a model, its optimizer, a loss, the batches of the gradient and of the losses."""

    model: nn.Module
    optimizer: Any
    compute_loss: Any
    batch: Any
    evaluation_batch: Any
    extra: Any = ()


def cross_entropy(model, batch):
    x, y = batch
    return nn.functional.cross_entropy(model(x), y)


def squared_error(model, batch):
    x, y = batch
    return ((model(x).squeeze(-1) - y) ** 2).mean()


def classes(*shape, num_classes=3, dtype=torch.float64):
    """Return two batches (x, y) of inputs of the shape and random classes."""
    return [(torch.randn(*shape, dtype=dtype), torch.randint(num_classes, (shape[0],))) for _ in range(2)]


def mlp(dtype=torch.float64, *, bias=True):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 8, bias=bias), nn.Tanh(), nn.Linear(8, 3, bias=bias)).to(dtype)


def sgd(model, lr=0.1, **options):
    return torch.optim.SGD(model.parameters(), lr=lr, **options)


def make_case(model, optimizer=None, loss=cross_entropy, batches=None, extra=()):
    model = model.to(F64)
    return Case(model, optimizer or sgd(model), loss, *(batches or classes(8, 5)), extra)


def train(case, num_steps=3):
    """Take some real steps of training, so that the optimizer's state is warm."""
    for _ in range(num_steps):

        def closure():
            case.optimizer.zero_grad()
            loss = case.compute_loss(case.model, case.batch)
            loss.backward()
            return loss

        case.optimizer.step(closure)
    return case


def probe(case, engine, rates=RATES, num_rows=1, batches=None) -> ProbedRows:
    """Probe by an engine, and assert that nothing is changed. ``batches``: a pair for each row."""
    trainable = {id(p): p for p in case.model.parameters() if p.requires_grad}
    trainable |= {id(p): p for group in case.optimizer.param_groups for p in group["params"] if p.requires_grad}
    with unchanged(case.model, case.optimizer, extra=case.extra):
        objective = Objective(case.model, None, case.compute_loss, list(trainable.values()))
        with preserved_state(*objective.modules(), case.optimizer) as snapshot:
            randomness = ForkedRandomness([])

            def draw(row):
                randomness.fork(np.random.SeedSequence(row))
                return batches[row] if batches else (case.batch, case.evaluation_batch)

            start = Start(objective, case.optimizer, snapshot, randomness, base_learning_rates(case.optimizer))
            for batch in draw(0):
                objective.check(batch)
            return probe_rows(start, rates, draw, range(num_rows), engine=engine)


def expected(copies, case, rates=RATES, row=0, **options):
    """Return the losses of a row by the oracle, from copies that ``copies`` makes."""
    restore = capture_random_state([])
    try:
        ForkedRandomness([]).fork(np.random.SeedSequence(row))
        rewind = oracles.global_random_state()
        return oracles.probe_by_copies(copies, rates, case.batch, case.evaluation_batch, rewind, **options)
    finally:
        restore()


def assert_equals_oracle(probed, oracle, rtol=1e-6):
    loss_pre, loss_post = oracle
    np.testing.assert_allclose(probed.loss_pre[0], loss_pre, rtol=rtol)
    np.testing.assert_allclose(probed.loss_post[0], loss_post, rtol=rtol)

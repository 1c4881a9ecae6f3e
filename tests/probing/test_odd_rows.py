"""Models that go another way in some rows only, which no check of the first and the last row can see."""

import numpy as np
import pytest
import torch
from engine_cases import Case, classes, cross_entropy, probe, sgd
from torch import nn

from autolr.probing import replay

RATES = np.geomspace(1e-3, 1.0, 12)
NUM_ROWS = 6


class Odd(nn.Module):
    """A perceptron that does something else where the first entry of its input is large."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 5), nn.Linear(5, 3)
        self.logits = nn.Parameter(torch.randn(8, 3))
        self.frozen = nn.Parameter(torch.ones(5), requires_grad=False)
        self.kept, self.count = None, 0

    def forward(self, x):
        odd = bool(x[0, 0] > 50.0)
        hidden = self.frozen + torch.tanh(self.first(x / (100.0 if odd else 1.0)))
        return self.oddly(hidden) if odd else self.last(hidden)


class Again(Odd):
    def oddly(self, hidden):
        return self.last(torch.tanh(self.first(hidden)))


class LogitsAreAParameter(Odd):
    def oddly(self, hidden):
        return self.logits if hidden.ndim == 2 else hidden


class Detached(Odd):
    def __init__(self):
        super().__init__()
        self.alias = [self.first.weight.detach()]

    def oddly(self, hidden):
        return self.last(torch.tanh(hidden @ self.alias[0]))


class Cached(Odd):
    def oddly(self, hidden):
        hidden = hidden if self.kept is None else hidden + self.kept
        self.kept = hidden.detach()
        return self.last(hidden)


class Counting(Odd):
    def oddly(self, hidden):
        self.count += 1
        return self.last(hidden) / self.count


class SwitchingItsMode(Odd):
    def oddly(self, hidden):
        self.training = not self.training
        return self.last(hidden if self.training else 2.0 * hidden)


class WritingIntoAFrozenWeight(Odd):
    def oddly(self, hidden):
        with torch.no_grad():
            self.frozen.mul_(1.1)
        return self.last(hidden)


class ReadingAValue(Odd):
    def oddly(self, hidden):
        return self.last(hidden) * float(hidden.mean() > 10.0)


KINDS = Odd.__subclasses__()


@pytest.fixture(autouse=True)
def _small_layers_are_hoisted_too(monkeypatch):
    monkeypatch.setattr(replay, "_WORTH", 0)


def assert_equal_to_steps(case, engine, batches, rates=RATES):
    fast = probe(case, engine, rates, num_rows=len(batches), batches=batches)
    slow = probe(case, "step", rates, num_rows=len(batches), batches=batches)
    np.testing.assert_allclose(fast.loss_post, slow.loss_post, rtol=3e-6)
    np.testing.assert_allclose(fast.loss_pre, slow.loss_pre, rtol=3e-6)
    return fast


@pytest.mark.parametrize("engine", ["line", "batched", "auto"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_right_though_some_go_another_way(kind, engine):
    torch.manual_seed(0)
    batches = [classes(8, 5, dtype=torch.float32) for _ in range(NUM_ROWS)]
    for x, _ in (*batches[2], batches[4][1]):
        x[0, 0] = 100.0
    model = kind()
    case = Case(
        model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1), cross_entropy, *batches[0]
    )
    assert_equal_to_steps(case, engine, batches)


class Routed(nn.Module):
    """Two experts, called in the order of their scores, which depend on the rate."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Parameter(torch.tensor([0.0, 0.05]))
        self.experts = nn.ModuleList([nn.Linear(5, 3), nn.Linear(5, 3)])

    def forward(self, x):
        first, second = self.gate.argsort().tolist()
        return self.experts[first](x) * 0.7 + self.experts[second](x) * (0.3 + self.gate.sum())


@pytest.mark.parametrize("engine", ["line", "batched", "auto"])
def test_layers_that_change_places_are_not_taken_for_each_other(engine):
    torch.manual_seed(0)
    batches = [classes(8, 5, dtype=torch.float32) for _ in range(NUM_ROWS)]
    model = Routed()
    assert_equal_to_steps(Case(model, sgd(model), cross_entropy, *batches[0]), engine, batches)


@pytest.mark.parametrize("engine", ["line", "batched", "auto"])
def test_a_forward_that_writes_into_weights_does_not_write_into_the_start(engine):
    class Renormed(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.last = nn.Embedding(9, 5, max_norm=1.0), nn.Linear(5, 3)

        def forward(self, tokens):
            return self.last(self.embedding(tokens))

    torch.manual_seed(0)
    model = Renormed()
    with torch.no_grad():
        model.embedding.weight.mul_(0.1)
        model.embedding.weight[8] *= 100.0  # this one is too long
    batches = [[(torch.randint(8, (8,)), torch.randint(3, (8,))) for _ in range(2)] for _ in range(NUM_ROWS)]
    for tokens, _ in batches[2]:
        tokens[0] = 8
    assert_equal_to_steps(Case(model, sgd(model), cross_entropy, *batches[0]), engine, batches)


@pytest.mark.parametrize("engine", ["line", "batched"])
def test_an_output_that_overflows_at_the_rate_of_one_is_no_loss_that_is_not_finite(engine):
    torch.manual_seed(0)
    batches = [classes(8, 5, dtype=torch.float32) for _ in range(4)]
    rates = np.geomspace(1e-9, 1e-6, 10)

    def scaled(model, batch):
        return batch[2] * cross_entropy(model, batch[:2])

    batches = [[(x * 1e18, y, 1e3) for x, y in row] for row in batches]
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3))
    case = Case(model, sgd(model), scaled, *batches[0])
    fast = probe(case, engine, rates, num_rows=4, batches=batches)
    assert np.isfinite(fast.loss_pre).all()


class Viewed(torch.autograd.Function):
    """Its gradient is a view of a tensor of the user's."""

    @staticmethod
    def forward(ctx, weight, given):
        ctx.given = given
        return (weight * given).sum()

    @staticmethod
    def backward(ctx, _):
        return ctx.given.view(-1).view(ctx.given.shape), None


def test_gradients_that_are_the_users_own_tensors_are_left_alone():
    given, kept = torch.randn(3, 5), []
    value = given.clone()
    model = nn.Linear(5, 3)
    model.bias.register_post_accumulate_grad_hook(
        lambda parameter: kept.append((parameter.grad, parameter.grad.clone()))
    )

    def loss(model, batch):
        return cross_entropy(model, batch) + 1e-3 * Viewed.apply(model.weight, given)

    probe(Case(model, sgd(model), loss, *classes(8, 5, dtype=torch.float32)), "line", RATES)
    assert torch.equal(given, value)
    assert all(torch.equal(gradient, copy) for gradient, copy in kept)


def test_a_default_device_of_the_users_is_none_of_the_engines():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(100, 100), nn.Tanh(), nn.Linear(100, 3))
    case = Case(model, sgd(model), cross_entropy, *classes(8, 100, dtype=torch.float32))
    with torch.device("meta"):
        assert probe(case, "line", RATES, num_rows=2).engine == "line"

"""Models that draw, count and remember, and losses that hold more than a model, each made afresh."""

import random

import numpy as np
import torch
from engine_cases import F64, classes, cross_entropy, make_case, mlp, squared_error
from torch import nn


class DrawsEverywhere(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x):
        noise = np.random.normal() + random.random() + torch.rand(())  # noqa: NPY002 (the global one is the point)
        return self.linear(x) * (1.0 + noise)


def draws_from_every_generator():
    return make_case(DrawsEverywhere())


class DrawsSometimes(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x):
        output = self.linear(x)
        return output * np.random.normal() if output.abs().max() > 3.0 else output  # noqa: NPY002


def draws_from_numpy_after_large_steps_only():
    case = make_case(DrawsSometimes(), None, lambda model, batch: 10.0 * cross_entropy(model, batch))
    case.model.linear.weight.data.mul_(0.1)
    return case


class OwnGenerators(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.torch_generator, self.numpy_generator = torch.Generator().manual_seed(1), np.random.default_rng(1)
        self.legacy_generator, self.python_generator = np.random.RandomState(1), random.Random(1)
        self.scales = np.ones(3)

    def forward(self, x):
        self.scales += 0.1
        noise = torch.rand((), generator=self.torch_generator) + self.numpy_generator.random()
        noise = noise + self.python_generator.random() + self.legacy_generator.rand()
        return self.linear(x) * noise * torch.from_numpy(self.scales.copy())


def generators_of_its_own():
    return make_case(OwnGenerators())


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.count, self.history = nn.Linear(5, 3), 0, []

    def forward(self, x):
        self.count += 1
        self.history.append(self.count)
        return self.linear(x) * (1.0 + 0.1 * self.count) + len(self.history)


def counter_that_changes_the_behaviour():
    return make_case(Counts())


def second_network_with_batch_norm():
    teacher = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).to(F64)
    cross_entropy(teacher, classes(8, 5)[0]).backward()  # it has gradients of its own
    return make_case(
        mlp(), None, lambda model, batch: ((model(batch[0]) - teacher(batch[0])) ** 2).mean(), extra=teacher
    )


class Distillation:
    def __init__(self, teacher):
        self.nets = {"teacher": teacher}

    def loss(self, model, batch):
        return ((model(batch[0]) - self.nets["teacher"](batch[0])) ** 2).mean()


def second_network_behind_a_method():
    teacher = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)).to(F64)
    return make_case(mlp(), None, Distillation(teacher).loss, extra=teacher)


def scripted():
    return make_case(torch.jit.script(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.recurrent, self.head = kind(5, 4, num_layers=2, dropout=0.3, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.recurrent(x)[0][:, -1])


def lstm():
    return make_case(Recurrent(nn.LSTM), batches=classes(4, 6, 5))


def gru():
    return make_case(Recurrent(nn.GRU), batches=classes(4, 6, 5))


class LearnedLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(()))

    def forward(self, model, batch):
        return squared_error(model, batch) * torch.exp(-self.log_variance) + self.log_variance


def learned_loss():
    model, loss = nn.Linear(5, 1).to(F64), LearnedLoss().to(F64)
    optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()], lr=0.1)
    batches = [(torch.randn(8, 5, dtype=F64), torch.randn(8, dtype=F64)) for _ in range(2)]
    return make_case(model, optimizer, loss, batches, extra=loss)


def loss_made_of_derivatives():
    def residual(model, batch):
        x = batch.detach().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return ((slope - x) ** 2).mean()

    return make_case(mlp(), None, residual, [torch.randn(8, 5, dtype=F64) for _ in range(2)])


class RemembersHidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.hidden = nn.Linear(5, 3), torch.zeros(3, dtype=F64)
        self.shifts = {"in place": torch.zeros(3, dtype=F64)}

    def forward(self, x):
        self.hidden = torch.tanh(self.linear(x).mean(0) + self.hidden).detach()
        self.shifts["in place"] += 1.0
        return self.linear(x) * self.hidden + self.shifts["in place"] * torch.arange(3)


def hidden_state_in_attributes():
    return make_case(RemembersHidden())


def optimizer_that_draws():
    class Langevin(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad.add_(torch.randn_like(p))
            return super().step(closure)

    model = mlp()
    return make_case(model, Langevin(model.parameters(), lr=0.1))


def gradients_that_are_none():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(5, 3), nn.Linear(5, 3)

        def forward(self, x):
            return self.used(x)

    return make_case(Branches())


def compiled():
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 3)).to(F64)
    return make_case(torch.compile(model, backend="eager"))

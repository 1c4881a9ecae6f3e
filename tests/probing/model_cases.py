"""Models and training habits that probing has to get right, each made afresh by a function of its own."""

import random

import numpy as np
import torch
from engine_cases import Case, classes, cross_entropy, mlp, squared_error, train
from torch import nn
from torch.nn.utils import parametrizations

F64 = torch.float64


def sgd(model, lr=0.1, **options):
    return torch.optim.SGD(model.parameters(), lr=lr, **options)


def _case(model, optimizer=None, loss=cross_entropy, batches=None, extra=()):
    model = model.to(F64)
    return Case(model, optimizer or sgd(model), loss, *(batches or classes(8, 5)), extra)


def multilayer_perceptron():
    return _case(mlp())


def dropout():
    return _case(nn.Sequential(nn.Linear(5, 16), nn.Dropout(0.5), nn.Linear(16, 3)))


def batch_norm_convolutions():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 2),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.LazyLinear(3),
    )
    model(torch.randn(2, 2, 6, 6))
    return _case(model, batches=classes(8, 2, 6, 6))


def transformer_layer():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
    return _case(nn.Sequential(layer, nn.LayerNorm(8), nn.Flatten(), nn.Linear(32, 3)), batches=classes(6, 4, 8))


class TiedLanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.embedding(tokens)))


def tied_weights():
    tokens = [(torch.randint(7, (9,)), torch.randint(7, (9,))) for _ in range(2)]
    model = TiedLanguageModel().to(F64)
    return _case(model, torch.optim.AdamW(model.parameters(), lr=0.1), batches=tokens)


def frozen_parameters_with_stale_gradients():
    case = _case(mlp(), None)
    case = train(Case(case.model, sgd(case.model, momentum=0.9), cross_entropy, *classes(8, 5)))
    case.model[0].requires_grad_(False)  # the gradients of the last step are still there
    return case


def groups_with_rates_of_their_own():
    model = mlp()
    groups = [
        {"params": model[0].parameters(), "lr": 0.02},
        {"params": [model[2].weight], "lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
        {"params": [model[2].bias], "lr": 0.0},
    ]
    return train(_case(model, torch.optim.SGD(groups)))


def rate_as_a_tensor():
    model = mlp()
    return train(_case(model, torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.1, dtype=F64))))


def weight_norm():
    return _case(nn.Sequential(parametrizations.weight_norm(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 3)))


def spectral_norm():
    return _case(nn.Sequential(parametrizations.spectral_norm(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 3)))


class RebindsBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.register_buffer("average", torch.zeros(3))

    def forward(self, x):
        output = self.linear(x)
        self.average = 0.9 * self.average + 0.1 * output.detach().mean(0)
        return output - self.average


def rebound_buffer():
    return _case(RebindsBuffer())


class LazyBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x):
        if not hasattr(self, "offset"):
            self.register_buffer("offset", torch.randn(3, dtype=x.dtype))
        return self.linear(x) + self.offset


def lazily_registered_buffer():
    return _case(LazyBuffer())


class ExpandedBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.register_buffer("mask", torch.tensor([[1.0, 0.5, 0.0]]).expand(8, 3))

    def forward(self, x):
        return self.linear(x) * self.mask


def expanded_buffer():
    model = ExpandedBuffer()
    model.linear.to(F64)
    return Case(model, sgd(model), cross_entropy, *classes(8, 5))


class WritesBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x):
        return self.linear(x.mul_(1.5))


def model_that_writes_into_its_batch():
    return _case(WritesBatch())


def loss_that_empties_its_batch():
    batches = [{"x": x, "y": y} for x, y in classes(8, 5)]
    return _case(
        mlp(), loss=lambda model, b: nn.functional.cross_entropy(model(b.pop("x")), b.pop("y")), batches=batches
    )


def sparse_embedding(optimizer=torch.optim.SGD):
    model = nn.Sequential(nn.EmbeddingBag(20, 4, sparse=True), nn.Tanh()).to(F64)
    batches = [(torch.randint(20, (6, 3)), torch.randint(4, (6,))) for _ in range(2)]
    return _case(model, optimizer(model.parameters(), lr=0.1), batches=batches)


def sparse_adam():
    return train(sparse_embedding(torch.optim.SparseAdam))


def mixed_modes():
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.BatchNorm1d(6), nn.Linear(6, 3))
    model[1].eval()
    return _case(model)


def clipping_hook():
    case = _case(mlp(), None, lambda model, batch: 100.0 * cross_entropy(model, batch))
    clip = lambda *_: nn.utils.clip_grad_norm_(case.model.parameters(), 1.0) and None  # noqa: E731
    case.optimizer.register_step_pre_hook(clip)
    return case


def averaging_hook():
    case = _case(mlp())
    average = torch.optim.swa_utils.AveragedModel(case.model)
    case.optimizer.register_step_post_hook(lambda *_: average.update_parameters(case.model))
    case.extra = average
    return case


def warmup_scheduler_at_zero():
    case = _case(mlp())
    case.extra = torch.optim.lr_scheduler.LambdaLR(case.optimizer, lambda epoch: epoch / 10)
    assert case.optimizer.param_groups[0]["lr"] == 0.0
    return case


class DrawsEverywhere(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x):
        noise = np.random.normal() + random.random() + torch.rand(())  # noqa: NPY002 (the global one is the point)
        return self.linear(x) * (1.0 + noise)


def draws_from_every_generator():
    return _case(DrawsEverywhere())


class DrawsSometimes(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x):
        output = self.linear(x)
        return output * np.random.normal() if output.abs().max() > 3.0 else output  # noqa: NPY002


def draws_from_numpy_after_large_steps_only():
    case = _case(DrawsSometimes(), None, lambda model, batch: 10.0 * cross_entropy(model, batch))
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
    return _case(OwnGenerators())


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.count, self.history = nn.Linear(5, 3), 0, []

    def forward(self, x):
        self.count += 1
        self.history.append(self.count)
        return self.linear(x) * (1.0 + 0.1 * self.count) + len(self.history)


def counter_that_changes_the_behaviour():
    return _case(Counts())


def second_network_with_batch_norm():
    teacher = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).to(F64)
    cross_entropy(teacher, classes(8, 5)[0]).backward()  # it has gradients of its own
    return _case(mlp(), None, lambda model, batch: ((model(batch[0]) - teacher(batch[0])) ** 2).mean(), extra=teacher)


class Distillation:
    def __init__(self, teacher):
        self.nets = {"teacher": teacher}

    def loss(self, model, batch):
        return ((model(batch[0]) - self.nets["teacher"](batch[0])) ** 2).mean()


def second_network_behind_a_method():
    teacher = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)).to(F64)
    return _case(mlp(), None, Distillation(teacher).loss, extra=teacher)


def scripted():
    return _case(torch.jit.script(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.recurrent, self.head = kind(5, 4, num_layers=2, dropout=0.3, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.recurrent(x)[0][:, -1])


def lstm():
    return _case(Recurrent(nn.LSTM), batches=classes(4, 6, 5))


def gru():
    return _case(Recurrent(nn.GRU), batches=classes(4, 6, 5))


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
    return _case(model, optimizer, loss, batches, extra=loss)


def loss_made_of_derivatives():
    def residual(model, batch):
        x = batch.detach().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return ((slope - x) ** 2).mean()

    return _case(mlp(), None, residual, [torch.randn(8, 5, dtype=F64) for _ in range(2)])


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
    return _case(RemembersHidden())


def optimizer_that_draws():
    class Langevin(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad.add_(torch.randn_like(p))
            return super().step(closure)

    model = mlp()
    return _case(model, Langevin(model.parameters(), lr=0.1))


def gradients_that_are_none():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(5, 3), nn.Linear(5, 3)

        def forward(self, x):
            return self.used(x)

    return _case(Branches())


CASES = {
    name: value
    for name, value in list(globals().items())
    if callable(value)
    and getattr(value, "__module__", None) == __name__
    and not isinstance(value, type)
    and not name.startswith("_")
    and name != "sgd"
}

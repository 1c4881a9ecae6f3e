"""Architectures and training habits that probing has to get right, each made afresh by a function of its own."""

import torch
from engine_cases import F64, Case, classes, cross_entropy, make_case, mlp, sgd, train
from torch import nn
from torch.nn.utils import parametrizations


def multilayer_perceptron():
    return make_case(mlp())


def dropout():
    return make_case(nn.Sequential(nn.Linear(5, 16), nn.Dropout(0.5), nn.Linear(16, 3)))


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
    return make_case(model, batches=classes(8, 2, 6, 6))


def transformer_layer():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
    return make_case(nn.Sequential(layer, nn.LayerNorm(8), nn.Flatten(), nn.Linear(32, 3)), batches=classes(6, 4, 8))


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
    return make_case(model, torch.optim.AdamW(model.parameters(), lr=0.1), batches=tokens)


def frozen_parameters_with_stale_gradients():
    case = make_case(mlp(), None)
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
    return train(make_case(model, torch.optim.SGD(groups)))


def rate_as_a_tensor():
    model = mlp()
    return train(make_case(model, torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.1, dtype=F64))))


def weight_norm():
    return make_case(nn.Sequential(parametrizations.weight_norm(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 3)))


def spectral_norm():
    return make_case(nn.Sequential(parametrizations.spectral_norm(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 3)))


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
    return make_case(RebindsBuffer())


class LazyBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x):
        if not hasattr(self, "offset"):
            self.register_buffer("offset", torch.randn(3, dtype=x.dtype))
        return self.linear(x) + self.offset


def lazily_registered_buffer():
    return make_case(LazyBuffer())


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
    return make_case(WritesBatch())


def loss_that_empties_its_batch():
    batches = [{"x": x, "y": y} for x, y in classes(8, 5)]
    return make_case(
        mlp(), loss=lambda model, b: nn.functional.cross_entropy(model(b.pop("x")), b.pop("y")), batches=batches
    )


def sparse_embedding(optimizer=torch.optim.SGD):
    model = nn.Sequential(nn.EmbeddingBag(20, 4, sparse=True), nn.Tanh()).to(F64)
    batches = [(torch.randint(20, (6, 3)), torch.randint(4, (6,))) for _ in range(2)]
    return make_case(model, optimizer(model.parameters(), lr=0.1), batches=batches)


def sparse_adam():
    return train(sparse_embedding(torch.optim.SparseAdam))


def mixed_modes():
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.BatchNorm1d(6), nn.Linear(6, 3))
    model[1].eval()
    return make_case(model)


def clipping_hook():
    case = make_case(mlp(), None, lambda model, batch: 100.0 * cross_entropy(model, batch))
    clip = lambda *_: nn.utils.clip_grad_norm_(case.model.parameters(), 1.0) and None  # noqa: E731
    case.optimizer.register_step_pre_hook(clip)
    return case


def averaging_hook():
    case = make_case(mlp())
    average = torch.optim.swa_utils.AveragedModel(case.model)
    case.optimizer.register_step_post_hook(lambda *_: average.update_parameters(case.model))
    case.extra = average
    return case


def warmup_scheduler_at_zero():
    case = make_case(mlp())
    case.extra = torch.optim.lr_scheduler.LambdaLR(case.optimizer, lambda epoch: epoch / 10)
    assert case.optimizer.param_groups[0]["lr"] == 0.0
    return case

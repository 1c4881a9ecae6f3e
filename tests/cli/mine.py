"""Factories, as a user writes them, for ``--factory``; a copy lies where a test runs."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

print("imported")  # noqa: T201 (users do)
number = 3


def make():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(400, 3, generator=generator)
    model = nn.Linear(3, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model, nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1), (X, X.sum(1, keepdim=True))


def with_loader():
    *training, pair = make()
    return (*training, DataLoader(TensorDataset(*pair), 8))


def with_dataset():
    *training, pair = make()
    return [*training, TensorDataset(*pair)]


def with_wrong_shapes():
    *training, (X, Y) = make()
    return (*training, (X[:, :2], Y))


def with_loss_last():
    model, loss_fn, optimizer, data = make()
    return model, optimizer, loss_fn, data


def without_data():
    return make()[:3]


def with_huge_inputs():
    model, loss_fn, optimizer, (X, Y) = make()
    return model, loss_fn, optimizer, (1e18 * X, Y)


def nothing():
    return None


def fails():
    raise RuntimeError("no\nGPU")


def leaves():
    sys.exit(3)

"""The networks, optimizers and batches whose probing speed.py times."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import autolr

Batch = tuple[torch.Tensor, torch.Tensor]
OptimizerFactory = Callable[..., torch.optim.Optimizer]  # called with parameters and lr

NUM_CLASSES = 10
NUM_DRAWS = 3  # pairs of batches, which the rows take in turn
DECADES = 4.0  # that a grid of rates spans
loss_fn = nn.functional.cross_entropy


class Transformer(nn.Module):
    """Two encoder layers of width 128, the mean over the positions, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(128, nhead=4, dim_feedforward=256, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2)
        self.head = nn.Linear(128, NUM_CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of sequences, shape (m, 64, 128)."""
        logits: torch.Tensor = self.head(self.encoder(x).mean(dim=1))
        return logits


def perceptron(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1568, NUM_CLASSES),
    )


@dataclass(frozen=True)
class Network:
    """A network and the shape of an observation."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Training:
    """An optimizer, the largest rate of its grid, and the steps that warm it up."""

    name: str
    make: OptimizerFactory
    largest_rate: float
    warmup_steps: int = 0


def mlp(*widths: int) -> Network:
    return Network(f"MLP {'-'.join(map(str, widths))}", partial(perceptron, *widths), widths[:1])


SMALL, WIDE = mlp(64, 128, 128, NUM_CLASSES), mlp(784, 512, 512, NUM_CLASSES)
CNN = Network("CNN with BatchNorm, 1x28x28", convolutional, (1, 28, 28))
TRANSFORMER = Network("transformer, 2x128, 64 tokens", Transformer, (64, 128))
NETWORKS = (SMALL, WIDE, CNN, TRANSFORMER)

SGD = Training("SGD", torch.optim.SGD, 1.0)
ADAMW = Training("warm AdamW", torch.optim.AdamW, 0.1, warmup_steps=20)
TRAININGS = (SGD, ADAMW)


@dataclass(frozen=True)
class Workload:
    """What is probed: m observations in a batch, K rates over four decades.

    Attributes:
        network: The network.
        training: The optimizer.
        batch_size: The number of observations m.
        num_rates: The number of rates K.
        device: Where it runs.
        channels_last: Whether the user asks for that layout of network and images.
    """

    network: Network
    training: Training
    batch_size: int
    num_rates: int
    device: str = "cpu"
    channels_last: bool = False

    @property
    def rates(self) -> np.ndarray:
        """The grid, shape (K,)."""
        largest = self.training.largest_rate
        return autolr.log_grid(largest / 10.0**DECADES, largest, self.num_rates)

    def build(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return a model and an optimizer, the same ones at each call; the optimizer is warm where it shall be."""
        torch.manual_seed(0)
        model = self.network.make().to(self.device)
        if self.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = self.training.make(model.parameters(), lr=1e-3)
        batches = self.batches()
        for index in range(self.training.warmup_steps):
            x, y = batches[index % NUM_DRAWS][0]
            optimizer.zero_grad()
            loss: torch.Tensor = loss_fn(model(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        optimizer.zero_grad()
        return model, optimizer

    def batches(self) -> list[tuple[Batch, Batch]]:
        """Return pairs of batches of noise, which cost what data costs: for the gradient, for the losses."""
        generator = torch.Generator().manual_seed(1)
        return [(self._batch(generator), self._batch(generator)) for _ in range(NUM_DRAWS)]

    def num_operations(self) -> int:
        """Return the floating-point operations of a row: a gradient counts as three forwards, and K + 1 forwards."""
        model, (x, y) = self.network.make().to(self.device), self.batches()[0][0]
        # NOTE: the counter does not know the CPU's fused attention, so that the plain one is counted
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            loss_fn(model(x), y)
        return int(counter.get_total_flops()) * (3 + self.num_rates + 1)

    def _batch(self, generator: torch.Generator) -> Batch:
        x = torch.randn(self.batch_size, *self.network.shape, generator=generator).to(self.device)
        y = torch.randint(NUM_CLASSES, (self.batch_size,), generator=generator).to(self.device)
        return (x.contiguous(memory_format=torch.channels_last) if self.channels_last else x), y

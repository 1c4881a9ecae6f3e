"""A training to the end at one rate: the protocol of the oracle and of the real runs of regret.py alike."""

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from networks import Data
from tasks import LossFunction, Task
from torch import nn

ScheduleName = Literal["constant", "cosine"]
SCHEDULES: tuple[ScheduleName, ...] = ("constant", "cosine")
CHECKPOINTS = (0.96, 0.97, 0.98, 0.99, 1.0)  # of the length: where the loss is measured if the rate is constant
LOOK_EVERY = 25  # steps between two looks whether the loss is still finite


class Losses(NamedTuple):
    """The final losses, in evaluation mode on all rows; ``inf`` if the run diverged."""

    validation: float
    training: float


def batches(data: Data, batch_size: int, seed: int) -> Iterator[Data]:
    """Yield batches for ever, each epoch in an order of its own; the rest of an epoch that fills no batch is left."""
    X, Y = data
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(X), generator=generator)
        for rows in order[: len(X) // batch_size * batch_size].split(batch_size):
            yield X[rows], Y[rows]


@torch.no_grad()
def mean_loss(model: nn.Module, loss_fn: LossFunction, data: Data) -> float:
    """Return the loss on all rows in evaluation mode; the model is in training mode afterwards."""
    model.eval()
    loss = loss_fn(model(data[0]), data[1]).item()
    model.train()
    return loss if math.isfinite(loss) else math.inf


def factor(schedule: ScheduleName, step: int, total_steps: int) -> float:
    """Return what a schedule multiplies the rate by at a step, 1 at the first."""
    return 1.0 if schedule == "constant" else 0.5 * (1.0 + math.cos(math.pi * step / total_steps))


def train(task: Task, seed: int, rate: float, schedule: ScheduleName, *, total_steps: int | None = None) -> Losses:
    """Train a task from the initial weights of a seed, and return the final losses.

    With a constant rate they are means over the checkpoints in the last steps, which damps their noise.
    """
    length = total_steps or task.total_steps
    model, loss_fn, make_optimizer, train_data, validation_data = task.make(seed)
    optimizer = make_optimizer(model.parameters(), lr=rate)
    looks = {round(share * length) for share in (CHECKPOINTS if schedule == "constant" else (1.0,))}
    seen = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for step, (x, y) in zip(range(length), batches(train_data, task.batch_size, seed), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor(schedule, step, length)
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            if step % LOOK_EVERY == 0 and not math.isfinite(loss.item()):
                return Losses(math.inf, math.inf)
            loss.backward()
            optimizer.step()
            if step + 1 in looks:
                seen.append([mean_loss(model, loss_fn, data) for data in (validation_data, train_data)])
    validation, training = torch.tensor(seen, dtype=torch.float64).mean(0).tolist()
    return Losses(validation, training)

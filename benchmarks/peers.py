"""Range tests as other libraries ship them, each as a function of a training that returns a rate and its evaluations.

Each library is used as its documentation says, with its own defaults, but for the lowest rate where it asks for one.
"""

import contextlib
import io
import logging
import math
import tempfile
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from runs import batches
from tasks import LossFunction, Problem
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

LOWEST, HIGHEST, NUM_ITERATIONS = 1e-7, 10.0, 100

Found = tuple[float | None, float]  # the rate, and the gradient evaluations
Rule = Callable[[np.ndarray, np.ndarray], int]  # of rates and smoothed losses


def loader_of(problem: Problem, batch_size: int, seed: int) -> DataLoader[Any]:
    """Return a shuffling loader whose order is that of the seed."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return DataLoader(TensorDataset(*problem.train), batch_size, shuffle=True, drop_last=True, generator=generator)


class Training(NamedTuple):
    """What a finder is handed; the rate of the optimizer is the lowest one, where the finder reads that off it."""

    model: nn.Module
    loss_fn: LossFunction
    optimizer: torch.optim.Optimizer
    loader: DataLoader[Any]


def training_of(problem: Problem, batch_size: int, seed: int) -> Training:
    """Return a problem as it is handed to a finder."""
    optimizer = problem.make_optimizer(problem.model.parameters(), lr=LOWEST)
    return Training(problem.model, problem.loss_fn, optimizer, loader_of(problem, batch_size, seed))


def range_test(problem: Problem, batch_size: int, seed: int, rule: Callable[[np.ndarray, np.ndarray], float]) -> Found:
    """Raise the rate from step to step as fastai does, and apply one of its rules to the smoothed losses."""
    optimizer = problem.make_optimizer(problem.model.parameters(), lr=LOWEST)
    rates, losses, average, best = [], [], 0.0, math.inf
    drawn = batches(problem.train, batch_size, 1000 + seed)
    for iteration in range(NUM_ITERATIONS):
        rates.append(LOWEST * (HIGHEST / LOWEST) ** (iteration / NUM_ITERATIONS))
        for group in optimizer.param_groups:
            group["lr"] = rates[-1]
        x, y = next(drawn)
        optimizer.zero_grad()
        loss = problem.loss_fn(problem.model(x), y)
        loss.backward()
        optimizer.step()
        average = 0.98 * average + 0.02 * loss.item()
        losses.append(average / (1.0 - 0.98 ** (iteration + 1)))
        if not losses[-1] <= 4.0 * best:
            break
        best = min(best, losses[-1])
    shown = slice(NUM_ITERATIONS // 10, -5)
    if len(rates[shown]) < 2:
        raise RuntimeError(f"the loss rose after {len(rates)} iterations, too early for a suggestion")
    return rule(np.array(rates)[shown], np.array(losses)[shown]), len(rates)


def a_tenth_of_the_minimum(rates: np.ndarray, losses: np.ndarray) -> float:
    return float(rates[losses.argmin()]) / 10.0


def valley(rates: np.ndarray, losses: np.ndarray) -> float:
    """Return the middle of the longest fall, a third in from its start and half a third further, as fastai does."""
    lengths, end, start = [1] * len(losses), 0, 0
    for i in range(1, len(losses)):
        for j in range(i):
            if losses[i] < losses[j] and lengths[i] < lengths[j] + 1:
                lengths[i] = lengths[j] + 1
            if lengths[end] < lengths[i]:
                end = i
                start = end - lengths[end]
    third = (end - start) / 3
    return float(rates[start + int(third) + int(third / 2)])


def torch_lr_finder(training: Training, *, always_reset: bool = False) -> Found:
    """Return the suggestion of torch-lr-finder, the steepest fall, which its plot gives.

    Its documentation calls ``reset()`` as the last line; with ``always_reset`` it is called after an exception too.
    """
    from matplotlib.figure import Figure
    from torch_lr_finder import LRFinder

    finder = LRFinder(training.model, training.optimizer, training.loss_fn)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            finder.range_test(training.loader, end_lr=HIGHEST, num_iter=NUM_ITERATIONS)
            drawn = finder.plot(ax=Figure().subplots(), suggest_lr=True)
    except BaseException:
        if always_reset:
            finder.reset()
        raise
    finder.reset()
    rate = drawn[1] if isinstance(drawn, tuple) else None
    return rate, len(finder.history["lr"])


def ignite(training: Training) -> Found:
    """Return the suggestion of FastaiLRFinder, the steepest fall."""
    from ignite.engine import create_supervised_trainer
    from ignite.handlers import FastaiLRFinder

    trainer = create_supervised_trainer(training.model, training.optimizer, training.loss_fn)
    finder = FastaiLRFinder()
    with finder.attach(
        trainer, {"model": training.model, "optimizer": training.optimizer}, num_iter=NUM_ITERATIONS, end_lr=HIGHEST
    ) as finding:
        finding.run(training.loader, max_epochs=NUM_ITERATIONS)
    return float(finder.lr_suggestion()), len(finder.get_results()["lr"])


def lightning(training: Training) -> Found:
    """Return the suggestion of Tuner.lr_find, the steepest fall; it sets the rate of the optimizer to it."""
    import lightning as pl
    from lightning.pytorch.tuner import Tuner

    class Module(pl.LightningModule):
        """The training, as Lightning wants it."""

        def __init__(self) -> None:
            super().__init__()
            self.model = training.model
            self.lr = 1e-3

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:  # noqa: ARG002
            return training.loss_fn(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return training.optimizer

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            max_epochs=NUM_ITERATIONS,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        with contextlib.redirect_stderr(io.StringIO()):
            finder = Tuner(trainer).lr_find(Module(), training.loader)
        return finder.suggestion(), len(finder.results["lr"])

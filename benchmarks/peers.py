"""Range tests as other libraries ship them, each as a function of a problem that returns a rate and its evaluations.

The suggestion of each library is taken with its own defaults, but for the lowest rate where it asks for one.
"""

import contextlib
import io
import logging
import math
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from runs import batches
from tasks import Problem
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

LOWEST, HIGHEST, NUM_ITERATIONS = 1e-7, 10.0, 100

Found = tuple[float | None, float]  # the rate, and the gradient evaluations
Rule = Callable[[np.ndarray, np.ndarray], int]  # of rates and smoothed losses


def loader_of(problem: Problem, batch_size: int, seed: int) -> DataLoader[Any]:
    """Return a shuffling loader whose order is that of the seed."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return DataLoader(TensorDataset(*problem.train), batch_size, shuffle=True, drop_last=True, generator=generator)


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


def torch_lr_finder(problem: Problem, batch_size: int, seed: int) -> Found:
    """Return the suggestion of torch-lr-finder, the steepest fall, which its plot gives."""
    from matplotlib.figure import Figure
    from torch_lr_finder import LRFinder

    optimizer = problem.make_optimizer(problem.model.parameters(), lr=LOWEST)
    finder = LRFinder(problem.model, optimizer, problem.loss_fn)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        finder.range_test(loader_of(problem, batch_size, seed), end_lr=HIGHEST, num_iter=NUM_ITERATIONS)
        drawn = finder.plot(ax=Figure().subplots(), suggest_lr=True)
    rate = drawn[1] if isinstance(drawn, tuple) else None
    return rate, len(finder.history["lr"])


def ignite(problem: Problem, batch_size: int, seed: int) -> Found:
    """Return the suggestion of FastaiLRFinder, the steepest fall."""
    from ignite.engine import create_supervised_trainer
    from ignite.handlers import FastaiLRFinder

    optimizer = problem.make_optimizer(problem.model.parameters(), lr=LOWEST)
    trainer = create_supervised_trainer(problem.model, optimizer, problem.loss_fn)
    finder = FastaiLRFinder()
    with finder.attach(
        trainer, {"model": problem.model, "optimizer": optimizer}, num_iter=NUM_ITERATIONS, end_lr=HIGHEST
    ) as finding:
        finding.run(loader_of(problem, batch_size, seed), max_epochs=NUM_ITERATIONS)
    return float(finder.lr_suggestion()), len(finder.get_results()["lr"])


def lightning(problem: Problem, batch_size: int, seed: int) -> Found:
    """Return the suggestion of Tuner.lr_find, the steepest fall."""
    import lightning as pl
    from lightning.pytorch.tuner import Tuner

    class Module(pl.LightningModule):
        """The problem, as Lightning wants it."""

        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model
            self.lr = 1e-3

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:  # noqa: ARG002
            return problem.loss_fn(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return problem.make_optimizer(self.parameters(), lr=self.lr)

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
            finder = Tuner(trainer).lr_find(Module(problem.model), loader_of(problem, batch_size, seed))
        return finder.suggestion(), len(finder.results["lr"])

"""find_lr on some tasks of benchmarks/regret.py: it fails when the search picks worse than the benchmark says."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from autolr import AutoLRTuner, find_lr

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))  # at the end: the names there are common ones

curves = pytest.importorskip("curves")
tasks = pytest.importorskip("tasks")

NAMES = [
    "linear, SGD",
    "digits MLP, momentum",
    "digits MLP, Adam",
    "autoencoder, Adam",
    "wrong labels, momentum",
    "deep sigmoid, momentum",
    "bags of words, Adagrad",
]


def problem_of(task, seed):
    problem = task.make(seed)
    return problem, problem.make_optimizer(problem.model.parameters(), lr=1e-3)


def searched(task, schedule, seed=0):
    problem, optimizer = problem_of(task, seed)
    order = torch.Generator().manual_seed(seed)
    data = TensorDataset(*problem.train)
    loader = DataLoader(data, batch_size=task.batch_size, shuffle=True, generator=order, drop_last=True)
    options = {"total_steps": task.total_steps, "schedule": schedule, "val_data": problem.validation, "rng": seed}
    return find_lr(problem.model, problem.loss_fn, optimizer, loader, **options)


def geometric_mean(values):
    return float(np.exp(np.mean(np.log(values))))


@pytest.mark.statistical
@pytest.mark.parametrize(("schedule", "most"), [("constant", 1.3), ("cosine", 1.2)])
def test_the_search_ends_near_the_best_of_a_sweep(schedule, most):
    chosen = [next(task for task in tasks.TASKS if task.name == name) for name in NAMES]
    found = [searched(task, schedule) for task in chosen]
    rates = [float(suggestion) for suggestion in found]
    regrets = [curves.regret_of(task.name, schedule, rate, 0) for task, rate in zip(chosen, rates, strict=True)]
    assert geometric_mean(regrets) < most
    assert max(regrets) < 2.0
    assert max(suggestion.evidence.num_evaluations for suggestion in found) < 500


@pytest.mark.statistical
def test_one_step_ends_far_from_it_so_that_the_comparison_has_power():
    regrets = []
    for name in NAMES:
        task = next(task for task in tasks.TASKS if task.name == name)
        problem, optimizer = problem_of(task, 0)
        tuner = AutoLRTuner(problem.model, problem.loss_fn, optimizer, rng=0)
        tuner.tune(*problem.train, batch_size=task.batch_size, num_subsamples=20)
        regrets.append(curves.regret_of(name, "constant", tuner.result.suggest().learning_rate, 0))
    assert geometric_mean(regrets) > 1.5

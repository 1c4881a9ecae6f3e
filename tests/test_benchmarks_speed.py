"""The baselines of benchmarks/speed.py are right, and its timing pairs and compares the rows that it says."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import copies_of, probe_by_copies
from torch import nn

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))  # at the end: the names there are common ones

naive = pytest.importorskip("naive")
pairs = pytest.importorskip("speed_pairs")
workloads = pytest.importorskip("workloads")

RATES = np.array([1e-3, 1e-2, 0.1, 0.5])
SGD, AdamW = torch.optim.SGD, torch.optim.AdamW


def compute_loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def trained(make_optimizer, num_steps):
    """A network with BatchNorm, and an optimizer that has taken some steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).double()
    optimizer = make_optimizer(model.parameters(), lr=1e-2)
    for _ in range(num_steps):
        optimizer.zero_grad()
        compute_loss(model, batch_of(7)).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def batch_of(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(12, 6, dtype=torch.float64, generator=generator)
    return x, torch.randint(3, (12,), generator=generator)


@pytest.mark.parametrize("baseline", ["Naive", "CopiedBack"])
@pytest.mark.parametrize(
    ("make_optimizer", "num_steps"),
    [(SGD, 0), (partial(SGD, momentum=0.9), 0), (partial(SGD, momentum=0.9), 3), (AdamW, 0), (AdamW, 5)],
    ids=["SGD", "cold momentum", "warm momentum", "cold AdamW", "warm AdamW"],
)
def test_a_row_by_hand_is_that_of_independent_copies_and_leaves_nothing_behind(baseline, make_optimizer, num_steps):
    model, optimizer = trained(make_optimizer, num_steps)
    batches = batch_of(1), batch_of(2)
    expected = probe_by_copies(copies_of(model, optimizer, compute_loss), RATES, *batches, lambda: None)
    row = getattr(naive, baseline)(model, optimizer)
    for _ in range(3):
        loss_pre, loss_post = row(RATES, *batches)
        assert loss_pre == pytest.approx(expected[0], rel=1e-12)
        np.testing.assert_allclose(loss_post, expected[1], rtol=1e-12)


def test_loading_the_state_without_a_copy_would_drift():
    model, optimizer = trained(AdamW, 5)
    batches = batch_of(1), batch_of(2)
    expected = naive.Naive(model, optimizer)(RATES, *batches)[1]

    class Aliased(naive.Naive):
        def restore(self):
            self.model.load_state_dict(self._model_state)
            self.optimizer.load_state_dict(self._optimizer_state)

    drifted = Aliased(model, optimizer)(RATES, *batches)[1]
    assert abs(drifted - expected).max() > 1e-3


@pytest.mark.parametrize("name", ["copied back", *pairs.ENGINES])
def test_each_counted_row_has_its_pair_and_its_losses(name):
    timed = pairs.time_engine(workloads.Workload(workloads.SMALL, workloads.ADAMW, 16, 16), name, 3)
    assert len(timed.naive) == len(timed.own) == len(timed.ratios) == 3
    assert timed.agrees
    assert timed.engine in (("copied back",) if name == "copied back" else pairs.ENGINES)


def test_another_pass_forgets_the_one_before():
    interleaved = pairs.Interleaved(lambda row: (float(row), np.zeros(2)), 1, "cpu")
    assert [list(interleaved(range(3))), list(interleaved(range(4)))] == [[0, 1, 2], [0, 1, 2, 3]]
    assert sorted(interleaved.taken) == [0, 1, 2, 3]
    assert sorted(interleaved.expected) == sorted(interleaved.naive) == [1, 2, 3]


def test_an_engine_that_is_not_there_is_refused():
    with pytest.raises(pairs.Refused, match="no engine 'none'"):
        pairs.time_engine(workloads.Workload(workloads.SMALL, workloads.SGD, 8, 4), "none", 3)


def test_the_floor_counts_the_products_of_the_attention_too():
    tokens, width, inner, m, K = 64, 128, 256, 2, 5
    layer = tokens * (4 * width**2 + 2 * width * inner) + 2 * tokens**2 * width
    forward = 2 * m * (2 * layer + width * 10)
    workload = workloads.Workload(workloads.TRANSFORMER, workloads.SGD, m, K)
    assert workload.num_operations() == forward * (K + 4)

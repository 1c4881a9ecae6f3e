"""Every combination of method, sampling, evaluation and form of data, from one table."""

import itertools
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from harness import unchanged
from scipy import stats
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from autolr import AutoLRTuner, NoCandidateError, log_grid
from autolr._typing import Method

RATES = log_grid(1e-3, 1.0, 6)
NUM_SUBSAMPLES, BATCH_SIZE, NUM_OBSERVATIONS, OWN = 5, 4, 48, 1000


class Pairs(Dataset):
    """A map-style dataset of a user's own."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


class Stream(IterableDataset):
    """A dataset that can only be read on."""

    def __iter__(self):
        return zip(*tensors(), strict=True)


class Recorder(nn.Module):
    """A linear model of all columns but the first, which numbers the observations; it tells which ones it sees."""

    def __init__(self, seen):
        super().__init__()
        self.linear = nn.Linear(3, 1)
        object.__setattr__(self, "tell", seen.append)

    def forward(self, x):
        self.tell(frozenset(x[:, 0].int().tolist()))
        return self.linear(x[:, 1:])


def observations(first):
    rng = np.random.default_rng(first)
    x = rng.normal(size=(NUM_OBSERVATIONS, 4)).astype(np.float32)
    x[:, 0] = first + np.arange(NUM_OBSERVATIONS)
    return x, (x[:, 1:] @ [[1.0], [-2.0], [3.0]] + rng.normal(size=(NUM_OBSERVATIONS, 1))).astype(np.float32)


def tensors(first=0):
    return tuple(map(torch.from_numpy, observations(first)))


def batches():
    yield from zip(*(part.split(BATCH_SIZE) for part in tensors()), strict=True)


FORMS = {
    "tensors": tensors,
    "NumPy": lambda: observations(0),
    "pandas": lambda: tuple(map(pd.DataFrame, observations(0))),
    "Dataset": lambda: (Pairs(*tensors()),),
    "DataLoader": lambda: (DataLoader(TensorDataset(*tensors()), BATCH_SIZE, shuffle=True),),
    "batches": lambda: (list(batches()),),
    "generator": lambda: (batches(),),
    "IterableDataset": lambda: (Stream(),),
}
EVALUATIONS = {
    "independent": lambda: "independent",
    "subsample": lambda: "subsample",
    "own pair": lambda: tensors(OWN),
    "own NumPy": lambda: observations(OWN),
    "own Dataset": lambda: TensorDataset(*tensors(OWN)),
    "own DataLoader": lambda: DataLoader(TensorDataset(*tensors(OWN)), BATCH_SIZE),
}


def one_se(delta):
    differences = delta - delta[:, [delta.mean(0).argmin()]]
    near = differences.mean(0) <= differences.std(0, ddof=1) / np.sqrt(len(delta))
    return RATES[near].min()


def smallest(score, where=True):
    return RATES[np.where(where, score, np.inf).argmin()] if np.any(where) else None


def upper(delta):
    return delta.mean(0) + stats.t.ppf(0.95, len(delta) - 1) * stats.sem(delta)


METHODS = {
    "mean": lambda delta: smallest(delta.mean(0)),
    "median": lambda delta: smallest(np.median(delta, 0)),
    "variance_penalized": lambda delta: smallest(delta.mean(0) + delta.std(0, ddof=1)),
    "ucb": lambda delta: smallest(upper(delta)),
    "one_se": one_se,
    "variance": lambda delta: smallest(delta.std(0, ddof=1), upper(delta) < 0),
    "max": lambda delta: max(RATES[(delta <= 0).all(0)], default=None),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("method", "sampling", "evaluation", "form"),
    list(itertools.product(METHODS, ["independent", "partition"], EVALUATIONS, FORMS)),
)
def test_combination(method, sampling, evaluation, form):
    torch.manual_seed(0)
    seen = []
    model = Recorder(seen)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tuner = AutoLRTuner(model, nn.MSELoss(), optimizer, rng=1)
    own_batches = form in ("DataLoader", "batches", "generator")
    size = {} if own_batches else {"batch_size": BATCH_SIZE}
    options = {"learning_rates": RATES, "num_subsamples": NUM_SUBSAMPLES, "sampling": sampling, **size}
    with unchanged(model, optimizer):
        fast = tuner.tune(*FORMS[form](), evaluation=EVALUATIONS[evaluation](), **options)
        seen.clear()
        result = tuner.tune(*FORMS[form](), evaluation=EVALUATIONS[evaluation](), engine="step", **options)

    delta = result.to_frame().to_numpy()
    assert delta.shape == (NUM_SUBSAMPLES, len(RATES))
    assert np.isfinite(delta).all()
    assert fast.settings["engine"] == "line"
    np.testing.assert_allclose(fast.differentials.loss_post, result.differentials.loss_post, rtol=1e-6)
    rows = rows_seen(seen, num_checks=3 if evaluation == "subsample" else 4)
    for gradient, evaluated in rows:
        assert len(gradient) == BATCH_SIZE
        # without a batch size to go by, evaluation subsamples are as large as the data allows, up to the default
        largest = {"independent": NUM_OBSERVATIONS // 2, "partition": NUM_OBSERVATIONS // NUM_SUBSAMPLES}[sampling]
        unsized = form in ("batches", "generator") and evaluation in ("own pair", "own NumPy", "own Dataset")
        assert len(evaluated) == (largest if unsized else BATCH_SIZE)
        assert (gradient == evaluated) == (evaluation == "subsample")
        assert (min(evaluated) >= OWN) == evaluation.startswith("own")
    if sampling == "partition" or own_batches or form == "IterableDataset":
        used = [number for gradient, _ in rows for number in gradient]
        assert len(used) == len(set(used))

    expected = METHODS[method](delta)
    if expected is None:
        with pytest.raises(NoCandidateError):
            tuner.get_best_lr(method)
    else:
        assert tuner.get_best_lr(method) == expected


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("sampling", "evaluation", "form"), list(itertools.product(["independent", "partition"], EVALUATIONS, FORMS))
)
def test_combination_with_several_steps(sampling, evaluation, form):
    torch.manual_seed(0)
    seen = []
    model = Recorder(seen)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tuner = AutoLRTuner(model, nn.MSELoss(), optimizer, rng=1)
    own_batches = form in ("DataLoader", "batches", "generator")
    options = {"learning_rates": RATES, "num_subsamples": 4, "sampling": sampling, "horizon": [1, 2]}
    options |= {} if own_batches else {"batch_size": BATCH_SIZE}
    with unchanged(model, optimizer):
        record = tuner.tune(*FORMS[form](), evaluation=EVALUATIONS[evaluation](), **options).differentials

    assert record.loss_post.shape == (4, len(RATES), 2)
    assert np.isfinite(record.loss_post).all()
    body = seen[3 if evaluation == "subsample" else 4 :]
    length = 1 + 4 * len(RATES)
    assert len(body) == 4 * length
    used = []
    for begin in range(0, len(body), length):
        evaluated, *probes = body[begin : begin + length]
        first, second = probes[0], probes[2]
        assert probes == [first, evaluated, second, evaluated] * len(RATES)
        assert not first & second
        assert (first == evaluated) == (evaluation == "subsample")
        assert not second & evaluated
        assert (min(evaluated) >= OWN) == evaluation.startswith("own")
        used += [*first, *second, *(evaluated if evaluation == "independent" else ())]
    if sampling == "partition" or own_batches or form == "IterableDataset":
        assert len(used) == len(set(used))


def rows_seen(seen, *, num_checks):
    """Return what gave the gradient and what the losses of each row: a loss, the gradient, a loss at each rate.

    Before the rows, each batch of the first one is checked, and its loss is computed twice.
    """
    body = seen[num_checks:]
    length = 2 + len(RATES)
    assert len(body) == NUM_SUBSAMPLES * length
    rows = [body[start : start + length] for start in range(0, len(body), length)]
    for row in rows:
        assert len(set(row[2:]) | {row[0]}) == 1  # one evaluation batch serves all losses of a row
    return [(row[1], row[0]) for row in rows]


def test_the_table_is_complete():
    assert set(METHODS) == set(get_args(Method))

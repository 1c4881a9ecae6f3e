"""A call of `tune` is checked before anything is probed, and says all that would repeat it."""

import json
import random
import re

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset

from autolr import AutoLRTuner
from autolr.plan import make_plan
from autolr.probing.random_state import ForkedRandomness

CPU = torch.device("cpu")
X = np.random.default_rng(0).normal(size=(200, 3))
Y = X.sum(axis=1, keepdims=True)
NUMBERS = np.arange(200)


def plan(data=NUMBERS, targets=None, **changes):
    arguments = {
        "device": CPU,
        "dtype": torch.float32,
        "rng": 0,
        "learning_rates": [0.1, 1.0],
        "num_subsamples": 4,
        "batch_size": None,
        "sampling": "independent",
        "evaluation": "independent",
        "horizon": 1,
        "accumulation_steps": 1,
        "warmup_steps": 0,
        "engine": "auto",
        "interpolate": False,
        "adaptive": False,
        "regret_tolerance": 0.05,
        "confidence_level": 0.95,
        "time_budget": None,
        "progress": None,
    }
    return make_plan(data, targets, **{**arguments, **changes})


def draws(made, rows):
    randomness = ForkedRandomness({CPU})
    return [tuple(batch.tolist() for batch in made.draw(randomness, row) or ()) for row in rows]


def make_tuner(rng=0, model=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3), nn.Linear(4, 1)) if model is None else model
    return AutoLRTuner(model, nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1), rng=rng)


REFUSED = [
    ({"learning_rates": [1.0, 0.1]}, ValueError, "`learning_rates` must be strictly increasing, got [1.0, 0.1]."),
    ({"learning_rates": "all"}, TypeError, "`learning_rates` must be an array of real numbers, got 'all'."),
    ({"num_subsamples": 1}, ValueError, "`num_subsamples` must be at least 2, got 1."),
    ({"num_subsamples": 2.0}, TypeError, "`num_subsamples` must be an integer, got 2.0."),
    ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1, got 0."),
    ({"batch_size": True}, TypeError, "`batch_size` must be an integer, got True."),
    ({"batch_size": 101}, ValueError, "`batch_size` must be at most 100, so that 200 observations give two disjoint"),
    ({"sampling": "random"}, ValueError, "`sampling` must be one of 'independent', 'partition', got 'random'."),
    ({"sampling": None}, ValueError, "`sampling` must be one of 'independent', 'partition', got None."),
    ({"evaluation": "same"}, ValueError, "`evaluation` must be one of 'independent', 'subsample', got 'same'."),
    ({"evaluation": None}, TypeError, "`evaluation` must be a tensor, a NumPy array or a pandas frame, a Dataset"),
    ({"evaluation": (X, Y[1:])}, ValueError, "`evaluation[1]` must have as many rows as `evaluation` (200), got 199."),
    (
        {"evaluation": (X, Y, X)},
        TypeError,
        "`evaluation` must not be a tuple of arrays, got (ndarray, ndarray, ndarray)",
    ),
    ({"evaluation": X[:1]}, ValueError, "`evaluation` must have at least 2 observations, got 1."),
    ({"evaluation": (X[:3], Y[:3]), "sampling": "partition", "batch_size": 5}, None, ""),
    ({"horizon": 0}, ValueError, "`horizon` must be at least 1, got 0."),
    ({"horizon": 2.5}, TypeError, "`horizon` must be an integer or an increasing sequence of integers, got 2.5."),
    ({"horizon": "5"}, TypeError, "`horizon` must be an integer or an increasing sequence of integers, got '5'."),
    ({"horizon": True}, TypeError, "`horizon` must be an integer or an increasing sequence of integers, got True."),
    ({"horizon": [1, 2.0]}, TypeError, "`horizon` must be an integer or an increasing sequence of integers, got [1"),
    ({"horizon": []}, ValueError, "`horizon` must be an increasing sequence of integers of at least 1, got []."),
    ({"horizon": [0, 2]}, ValueError, "`horizon` must be an increasing sequence of integers of at least 1, got [0, 2]"),
    ({"horizon": [5, 1]}, ValueError, "`horizon` must be an increasing sequence of integers of at least 1, got [5, 1]"),
    ({"horizon": (1, 1)}, ValueError, "`horizon` must be an increasing sequence of integers of at least 1, got (1, 1)"),
    ({"horizon": np.eye(2, dtype=int)}, TypeError, "`horizon` must be an integer or an increasing sequence of integer"),
    (
        {"horizon": 20, "sampling": "partition", "batch_size": 5},
        ValueError,
        "`batch_size` must be at most 4, so that 200 observations give two rows of 21 disjoint subsamples, got 5.",
    ),
    ({"horizon": 100, "sampling": "partition"}, ValueError, "`X` must have at least 202 observations, got 200."),
    ({"warmup_steps": -1}, ValueError, "`warmup_steps` must be at least 0, got -1."),
    ({"engine": "fast"}, ValueError, "`engine` must be one of 'auto', 'step', 'line', 'batched', got 'fast'."),
    ({"interpolate": "yes"}, TypeError, "`interpolate` must be True or False, got 'yes'."),
    ({"regret_tolerance": -0.1}, ValueError, "`regret_tolerance` must be finite and at least 0, got -0.1."),
    ({"regret_tolerance": "5%"}, TypeError, "`regret_tolerance` must be a real number, got '5%'."),
    ({"confidence_level": 95}, ValueError, "`confidence_level` must be finite and above 0 and below 1, got 95."),
    ({"adaptive": 1}, TypeError, "`adaptive` must be True or False, got 1."),
    ({"time_budget": 0}, ValueError, "`time_budget` must be finite and above 0, got 0."),
    ({"time_budget": "1 h"}, TypeError, "`time_budget` must be a real number, got '1 h'."),
    ({"progress": "yes"}, TypeError, "`progress` must be True or False, got 'yes'."),
    (
        {"data": [X], "batch_size": 2},
        ValueError,
        "`batch_size` must be left out where `X` brings its own batches, got 2.",
    ),
    ({"data": X, "targets": Y[1:]}, ValueError, "`Y` must have as many rows as `X` (200), got 199."),
]


@pytest.mark.parametrize(("changes", "error", "text"), REFUSED, ids=[f"{i}: {row[2]}" for i, row in enumerate(REFUSED)])
def test_every_wrong_argument_is_named(changes, error, text):
    if error is None:
        plan(**changes)
        return
    with pytest.raises(error, match=re.escape(text)):
        plan(**changes)


def test_the_settings_say_every_choice_in_json_values():
    made = plan(
        batch_size=np.int64(8), horizon=np.int32(1), num_subsamples=np.uint8(5), time_budget=np.float32(2), rng=None
    )
    assert json.loads(json.dumps(made.settings)) == made.settings
    assert made.settings == {
        "num_subsamples": 5,
        "batch_size": 8,
        "num_observations": 200,
        "num_evaluation_observations": None,
        "sampling": "independent",
        "evaluation": "independent",
        "horizon": 1,
        "warmup_steps": 0,
        "engine_asked": "auto",
        "interpolate": False,
        "adaptive": False,
        "regret_tolerance": 0.05,
        "confidence_level": 0.95,
        "time_budget": 2.0,
        "rng": made.entropy,
    }


def test_the_settings_of_a_loader_say_that_the_batches_are_its_own():
    settings = plan(DataLoader(NUMBERS, batch_size=5)).settings
    assert [settings[name] for name in ("batch_size", "num_observations", "sampling")] == [5, None, "batches"]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.arange(1000, 1064))


@pytest.mark.parametrize("data", [NUMBERS, [torch.arange(10), torch.arange(10, 20)] * 4], ids=["array", "batches"])
@pytest.mark.parametrize(
    "evaluation",
    [
        NUMBERS + 1000,
        pd.Series(NUMBERS + 1000),
        torch.arange(1000, 1020),
        Stream(),
        DataLoader(torch.arange(1000, 1020), batch_size=5),
        [torch.arange(1000, 1003)],
    ],
    ids=["array", "series", "tensor", "iterable dataset", "loader", "batches"],
)
def test_data_of_ones_own_serves_for_the_losses_only(data, evaluation):
    made = plan(data, evaluation=evaluation)
    for gradient, other in draws(made, range(4)):
        assert max(gradient) < 1000 <= min(other)
    assert made.settings["evaluation"] == "own data"


@pytest.mark.parametrize(("asked", "size"), [(10, 10), (60, 50), (None, 32)])
def test_evaluation_subsamples_have_the_size_of_the_rows_or_what_their_data_allows(asked, size):
    ((_, other),) = draws(plan(batch_size=asked, evaluation=np.arange(100)), [0])
    assert len(other) == size


def test_an_iterable_dataset_is_put_into_batches_of_the_size_asked_for():
    ((gradient, other),) = draws(plan(Stream(), batch_size=7, evaluation=Stream()), [0])
    assert (len(gradient), len(other)) == (7, 7)


@pytest.mark.parametrize("data", [NUMBERS, [torch.arange(i, i + 3) for i in range(0, 60, 3)]], ids=["array", "batches"])
def test_the_two_batches_of_a_row_are_disjoint_or_the_same(data):
    for gradient, other in draws(plan(data), range(4)):
        assert not set(gradient) & set(other)
    for gradient, other in draws(plan(data, evaluation="subsample"), range(4)):
        assert gradient == other


def test_rows_do_not_depend_on_how_many_are_asked_for_nor_on_the_order():
    few, many = plan(num_subsamples=2), plan(num_subsamples=50)
    assert draws(few, [1, 0]) == draws(many, [49, 1, 0])[1:]


def test_the_warm_up_ends_with_the_data_and_its_batches_are_in_no_row():
    made = plan([torch.tensor([i]) for i in range(6)], warmup_steps=9)
    first = draws(made, [0])
    warm = [batch.tolist() for batch in made.warmup_batches(ForkedRandomness({CPU}))]
    assert first == [([0], [1])]
    assert warm == [[2], [3], [4], [5]]
    assert draws(made, [1, 0]) == [(), *first]


def test_only_a_stream_cannot_be_drawn_again():
    assert plan().repeatable
    assert not plan([torch.arange(3)]).repeatable
    assert plan().num_evaluation_passes == 1


@pytest.mark.parametrize("engine", ["step", "line"])
@pytest.mark.parametrize("rng", [None, 3, np.random.default_rng(1)], ids=["fresh", "int", "generator"])
def test_the_rng_of_the_settings_repeats_the_matrix_bit_for_bit(rng, engine):
    options = {"learning_rates": [0.01, 0.1, 1.0], "num_subsamples": 5, "engine": engine, "warmup_steps": 1}
    first = make_tuner(rng).tune(X, Y, **options)
    again = make_tuner(json.loads(json.dumps(first.settings["rng"]))).tune(X, Y, **options)
    assert first.differentials.loss_pre.tobytes() == again.differentials.loss_pre.tobytes()
    assert first.differentials.loss_post.tobytes() == again.differentials.loss_post.tobytes()


def test_an_int_starts_again_and_a_generator_advances():
    for rng, same in ((0, True), (np.random.default_rng(0), False)):
        tuner = make_tuner(rng)
        one, other = (tuner.tune(X, Y, learning_rates=[0.1], num_subsamples=3).to_frame() for _ in range(2))
        assert one.equals(other) == same


class Noisy(TensorDataset):
    def __init__(self, *tensors):
        super().__init__(*tensors)
        self.rng, self.python_rng = np.random.default_rng(2), random.Random(2)

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + float(self.rng.normal()) + self.python_rng.random() + float(torch.rand(())), y


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_tuning_puts_every_generator_of_the_data_and_the_global_ones_back(error):
    class Faulty(nn.Linear):
        def forward(self, x):
            self.calls = getattr(self, "calls", 0) + 1
            if error is not None and self.calls > 5:
                raise error
            return super().forward(x)

    dataset = Noisy(torch.tensor(X).float(), torch.tensor(Y).float())
    sampler = RandomSampler(dataset, replacement=True, generator=torch.Generator().manual_seed(4))
    loader = DataLoader(dataset, batch_size=8, sampler=sampler, generator=torch.Generator().manual_seed(5))
    tuner = make_tuner(model=Faulty(3, 1))

    def states():
        return [
            *(part.get_state().tolist() for part in (sampler.generator, loader.generator)),
            (dataset.rng.bit_generator.state, dataset.python_rng.getstate()),
            (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),  # noqa: NPY002
        ]

    before = states()
    for data, evaluation in ((loader, "independent"), (X, loader)):
        try:
            tuner.tune(
                data, None if data is loader else Y, evaluation=evaluation, learning_rates=[0.1], num_subsamples=3
            )
        except KeyboardInterrupt:
            assert error is not None
        assert states() == before


def test_a_loader_gives_the_same_rows_at_each_call_and_the_same_epochs_as_without_tuning():
    def epochs(tuned):
        generator = torch.Generator().manual_seed(1)
        data = TensorDataset(torch.tensor(X).float(), torch.tensor(Y).float())
        loader = DataLoader(data, batch_size=20, shuffle=True, generator=generator)
        running = iter(loader)
        seen = [next(running)]
        frames = [
            make_tuner().tune(loader, learning_rates=[0.1], num_subsamples=4).to_frame() for _ in range(2 * tuned)
        ]
        assert not tuned or frames[0].equals(frames[1])
        return torch.cat([x for x, _ in [*seen, *running, *loader]])

    assert torch.equal(epochs(True), epochs(False))


@pytest.mark.parametrize("form", ["arrays", "tensors", "dataset", "loader", "batches"])
def test_a_model_that_writes_into_its_input_leaves_the_users_data_alone(form):
    x, y = torch.tensor(X).float(), torch.tensor(Y).float()
    kept = x.clone()
    batches = [(x[i : i + 9], y[i : i + 9]) for i in range(0, 180, 9)]
    loader = DataLoader(TensorDataset(x, y), batch_size=None, sampler=[slice(i, i + 9) for i in range(0, 180, 9)])
    data = {"arrays": (x.numpy(), y.numpy()), "tensors": (x, y), "dataset": (TensorDataset(x, y),)}
    data |= {"loader": (loader,), "batches": (batches,)}
    tuner = make_tuner(model=nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 1)))
    tuner.tune(*data[form], learning_rates=[0.1, 1.0], num_subsamples=3)
    assert torch.equal(x, kept)

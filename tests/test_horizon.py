"""Probes of several steps, from the data to the verdict."""

import logging
import re
from functools import partial

import numpy as np
import pytest
import torch
from harness import unchanged
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from autolr import AutoLRTuner, TuningResult, log_grid
from autolr.plan import make_plan
from autolr.probing.random_state import ForkedRandomness
from autolr.statistics.sequential import look_level

RATES = log_grid(1e-3, 1.0, 5)
CPU = torch.device("cpu")


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(120, 3, generator=generator)
    return X, X @ torch.tensor([[1.0], [-2.0], [3.0]]) + 0.1 * torch.randn(120, 1, generator=generator)


def model_of():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 1))


def tuned(data, *, optimizer=torch.optim.SGD, model=None, rng=0, **options):
    """Return a tuner after a tuning that has changed nothing."""
    model = model_of() if model is None else model
    optimizer = optimizer(model.parameters(), lr=0.1)
    tuner = AutoLRTuner(model, nn.MSELoss(), optimizer, rng=rng)
    data = data if isinstance(data, tuple) else (data,)
    with unchanged(model, optimizer, extra=data[0]):
        tuner.tune(*data, **{"learning_rates": RATES, "num_subsamples": 4, **options})
    return tuner


def losses_of(data, **options):
    return tuned(data, batch_size=8, **options).result.differentials


def plan(observations, **changes):
    arguments = {
        "device": CPU,
        "dtype": torch.float32,
        "rng": 0,
        "learning_rates": [0.1],
        "num_subsamples": 4,
        "batch_size": None,
        "sampling": "independent",
        "evaluation": "independent",
        "horizon": 5,
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
    return make_plan(observations, None, **{**arguments, **changes})


def rows_of(made, num_rows):
    randomness = ForkedRandomness({CPU})
    return [[batch.tolist() for batch in made.draw(randomness, row) or ()] for row in range(num_rows)]


@pytest.mark.parametrize(
    ("horizon", "setting"),
    [(3, 3), (np.int64(3), 3), ([3], 3), ([1, 3], [1, 3]), ((1, 3), [1, 3]), (np.array([1, 3]), [1, 3])],
)
def test_the_losses_are_recorded_at_every_horizon_asked_for(data, horizon, setting):
    tuner = tuned(data, horizon=horizon)
    record = tuner.result.differentials
    steps = np.atleast_1d(setting)
    assert record.loss_post.shape == (4, 5, len(steps))
    np.testing.assert_array_equal(record.horizons, steps)
    np.testing.assert_array_equal(record.delta, record.loss_post[:, :, -1] - record.loss_pre[:, np.newaxis])
    assert tuner.result.settings["horizon"] == setting
    assert tuner.suggest().horizon == 3


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("evaluation", ["independent", "subsample", "own data"])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, partial(torch.optim.LBFGS, max_iter=2)])
def test_the_first_horizons_are_what_shorter_probes_give(data, optimizer, evaluation):
    own = data if evaluation == "own data" else evaluation
    every = losses_of(data, horizon=[1, 2, 5], optimizer=optimizer, evaluation=own)
    for h, horizon in enumerate([1, 2, 5]):
        alone = losses_of(data, horizon=horizon, optimizer=optimizer, evaluation=own)
        np.testing.assert_allclose(alone.loss_pre, every.loss_pre, rtol=1e-6)
        np.testing.assert_allclose(alone.loss_post[:, :, 0], every.loss_post[:, :, h], rtol=1e-6)
    assert (every.loss_post[:, :, 0] != every.loss_post[:, :, 2]).all()


class Noisy(Dataset):
    """Data that is augmented with the global generators as it is drawn."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index] + 0.1 * torch.randn(3) + 0.1 * np.random.normal(), self.y[index]  # noqa: NPY002


def test_the_noise_in_the_data_of_a_step_does_not_depend_on_the_steps_after_it(data):
    every = losses_of(Noisy(*data), horizon=[1, 3, 6])
    for h, horizon in enumerate([1, 3, 6]):
        alone = losses_of(Noisy(*data), horizon=horizon, engine="step")
        np.testing.assert_allclose(alone.loss_post[:, :, 0], every.loss_post[:, :, h], rtol=1e-6)


def test_the_data_sees_each_row_in_a_state_of_its_own(data):
    few, many = (losses_of(Noisy(*data), horizon=2, num_subsamples=num) for num in (2, 5))
    np.testing.assert_array_equal(few.loss_post, many.loss_post[:2])


@pytest.mark.parametrize(("num_observations", "size"), [(200, 10), (200, None), (40, 10), (11, None), (2, 1)])
def test_the_subsample_of_the_losses_gives_no_gradient_in_its_row(num_observations, size):
    made = plan(np.arange(num_observations), batch_size=size, horizon=9)
    for *steps, evaluation in rows_of(made, 6):
        assert len(steps) == 9
        used = [number for step in steps for number in step]
        assert not set(used) & set(evaluation)
        if num_observations >= 10 * len(evaluation):
            assert len(set(used)) == len(used)


def test_the_subsample_of_the_first_step_is_that_of_the_losses_where_asked_for():
    for *steps, evaluation in rows_of(plan(np.arange(200), batch_size=10, evaluation="subsample"), 4):
        assert steps[0] == evaluation
        assert len({number for step in steps for number in step}) == 50


@pytest.mark.parametrize(
    ("sampling", "num_observations", "size"),
    [
        ("independent", 1000, 32),
        ("independent", 40, 20),
        ("partition", 1000, 8),  # 20 rows of 6
        ("partition", 100, 1),
        ("partition", 12, 1),
        ("partition", 10_000, 32),
    ],
)
def test_the_default_batch_size_with_several_steps(sampling, num_observations, size):
    made = plan(np.arange(num_observations), sampling=sampling, num_subsamples=100)
    assert made.settings["batch_size"] == size
    rows = rows_of(made, 20)
    assert all(len(row) == 6 for row in rows if row)
    assert sum(map(bool, rows)) == (min(20, num_observations // 6 // size) if sampling == "partition" else 20)


@pytest.mark.parametrize(("evaluation", "num_rows", "length"), [("independent", 3, 4), ("subsample", 4, 3)])
@pytest.mark.parametrize("form", ["loader", "list", "iterator"])
def test_no_batch_of_a_loader_is_in_two_rows(form, evaluation, num_rows, length):
    numbers = torch.arange(12.0)
    given = {"loader": DataLoader(numbers, 1), "list": list(numbers), "iterator": iter(list(numbers))}[form]
    made = plan(given, horizon=3, evaluation=evaluation)
    rows = [np.ravel(row).tolist() for row in rows_of(made, 5)]
    first = [length * row for row in range(num_rows)]
    last = [begin + (3 if evaluation == "independent" else 0) for begin in first]
    expected = [[begin, begin + 1, begin + 2, end] for begin, end in zip(first, last, strict=True)]
    assert rows[:num_rows] == expected
    assert not any(rows[num_rows:])


def test_a_loader_that_ends_early_gives_fewer_rows_and_a_caveat(data):
    loader = DataLoader(TensorDataset(*data), 10)
    result = tuned(loader, horizon=[2, 3]).result
    assert result.differentials.num_subsamples == 3  # twelve batches, four a row
    assert "The data ended after 3 of 4 subsamples." in result.suggest().caveats


@pytest.mark.parametrize(("evaluation", "num_batches"), [("independent", 18), ("subsample", 16), ("own", 16)])
def test_a_loader_of_less_than_two_rows_is_told_how_many_batches_they_take(data, evaluation, num_batches):
    loader = DataLoader(TensorDataset(*data), 10)
    own = data if evaluation == "own" else evaluation
    with pytest.raises(ValueError, match=f"must yield at least 2 rows of subsamples, from {num_batches} batches, got"):
        tuned(loader, horizon=8, evaluation=own)


@pytest.mark.parametrize("sampling", ["independent", "partition"])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_extending_gives_the_rows_of_a_longer_tuning(data, sampling, optimizer):
    options = {"batch_size": 3, "sampling": sampling, "horizon": [2, 4], "optimizer": optimizer, "warmup_steps": 2}
    longer = tuned(data, num_subsamples=7, **options).result
    tuner = tuned(data, num_subsamples=3, **options)
    extended = tuner.extend(4)
    np.testing.assert_array_equal(extended.differentials.loss_post, longer.differentials.loss_post)
    tuner._training.optimizer.param_groups[0]["weight_decay"] = 0.5
    with pytest.raises(ValueError, match="must extend a result of the same model, optimizer and data"):
        tuner.extend(2)


@pytest.mark.parametrize(("engine", "level"), [("auto", None), ("line", logging.WARNING), ("step", None)])
def test_several_steps_are_real_steps(data, engine, level, caplog):
    settings = tuned(data, horizon=2, engine=engine).result.settings
    assert settings["engine"] == "step"
    assert settings["engine_asked"] == engine
    assert settings["engine_reason"] == ("asked for" if engine == "step" else "several steps are real steps")
    assert [record.levelno for record in caplog.records] == ([] if level is None else [level])
    assert all("steps aside for the reference engine: several steps" in record.message for record in caplog.records)


def test_the_evaluations_are_counted_one_by_one(data):
    calls = []

    def compute_loss(model, batch):
        calls.append(torch.is_grad_enabled())
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    model = model_of()
    tuner = AutoLRTuner(model, None, torch.optim.SGD(model.parameters(), lr=0.1), compute_loss=compute_loss, rng=0)
    settings = tuner.tune(*data, learning_rates=RATES, num_subsamples=3, horizon=[1, 4]).settings
    assert settings["num_gradients"] == sum(calls) == 3 * 5 * 4
    # two checks and two losses of the first row; then the loss before, and two after at each rate
    assert settings["num_forwards"] == len(calls) - sum(calls) == 4 + 3 * (1 + 2 * 5)
    assert settings["num_evaluations"] == settings["num_gradients"] + settings["num_forwards"] / 3


def test_the_race_is_decided_at_the_last_horizon(data):
    options = {"learning_rates": log_grid(0.05, 0.5, 16), "num_subsamples": 60, "horizon": [1, 3], "batch_size": 8}
    result = tuned(data, adaptive=True, regret_tolerance=0.0, model=nn.Linear(3, 1), **options).result
    record = result.differentials
    assert record.loss_post.shape[1:] == (16, 2)
    missing = np.isnan(record.loss_post)
    np.testing.assert_array_equal(missing[:, :, 0], missing[:, :, 1])
    assert missing[20:].any()
    assert not missing[:20].any()
    assert result.settings["num_probes"] == (~missing[:, :, 0]).sum()
    assert result.settings["engine_reason"] == "several steps are real steps"
    assert result.settings["looks"][0]["confidence_level"] == look_level(0.95, 1, result.settings["num_looks"])
    last = result.settings["looks"][-1]
    assert len(result.suggest().best_set) == last["num_best"]


def test_a_race_sees_the_losses_of_the_fixed_design(data):
    options = {"num_subsamples": 40, "horizon": [1, 3], "batch_size": 8}
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    adaptive = tuned(data, adaptive=True, regret_tolerance=0.0, model=model, **options).result.differentials
    fixed = tuned(data, model=model, **options).result.differentials
    probed = ~np.isnan(adaptive.loss_post)
    rows = adaptive.num_subsamples
    np.testing.assert_array_equal(adaptive.loss_post[probed], fixed.loss_post[:rows][probed])


def test_a_budget_that_is_over_at_once_leaves_two_rows(data):
    for adaptive in (False, True):
        result = tuned(data, horizon=[1, 3], time_budget=1e-9, adaptive=adaptive).result
        assert result.differentials.loss_post.shape == (2, 5, 2)
        assert result.settings["out_of_time"]


def test_a_rate_that_diverges_is_infinite_from_there_on(data):
    options = {"learning_rates": [0.01, 1e6, 1e30], "horizon": [1, 2, 9], "model": nn.Linear(3, 1)}
    loss_post = tuned(data, **options).result.differentials.loss_post
    assert np.isfinite(loss_post[:, 0]).all()
    np.testing.assert_array_equal(np.isinf(loss_post[:, 1]), [[False, False, True]] * 4)
    assert np.isinf(loss_post[:, 2]).all()


def test_a_result_of_several_horizons_survives_its_file_and_its_tidy_frame(data, tmp_path):
    result = tuned(data, horizon=[1, 3], batch_size=8).result
    result.save(tmp_path / "lr.json")
    loaded = TuningResult.load(tmp_path / "lr.json")
    np.testing.assert_array_equal(loaded.differentials.loss_post, result.differentials.loss_post)
    np.testing.assert_array_equal(loaded.differentials.horizons, [1, 3])
    assert (loaded.settings, str(loaded)) == (result.settings, str(result))
    tidy = result.to_frame(tidy=True)
    assert len(tidy) == 4 * 5 * 2
    last = tidy[tidy["horizon"] == 3].pivot(index="subsample", columns="learning_rate", values="delta")
    np.testing.assert_array_equal(last, result.to_frame())
    again = type(result.differentials).from_frame(tidy)
    np.testing.assert_array_equal(again.loss_post, result.differentials.loss_post)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_verdict_speaks_of_steps(data):
    torch.manual_seed(0)
    rates = log_grid(1e-3, 3.0, 16)
    options = {"learning_rates": rates, "num_subsamples": 40, "model": nn.Linear(3, 1)}
    words = str(tuned(data, horizon=[1, 5], **options).result)
    assert re.match(r"Learning rate \S+: 5 steps lower the loss by \d+\.\d+ on average, from", words)
    assert "one step does not tell it" not in words
    assert "one step does not tell it" in str(tuned(data, horizon=[1], **options).result)
    assert re.search(r"Measured on 40 subsamples of 5 x 32 from these \d+ observations only: \d+", words)
    caveats = tuned(data, horizon=3, evaluation="subsample").suggest().caveats
    assert "Losses were measured on the subsample of the first step, which flatters the steps." in caveats


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_verdict_where_steps_lower_nothing():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(400, 4, generator=generator)
    model = nn.Linear(3, 1)
    nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
    words = str(tuned((noise[:, :3], noise[:, 3:]), horizon=3, model=model, num_subsamples=20).result)
    assert words.startswith("I cannot tell: at no rate do 3 steps lower the loss with 95% confidence.")


def test_the_bar_counts_rows(data, capsys):
    tuned(data, horizon=3, progress=True)
    assert "/4 " in capsys.readouterr().err


def test_a_model_in_single_precision_is_trained_by_real_steps_unless_more_rates_at_once_are_asked_for():
    X = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    options = {"learning_rates": log_grid(1e-4, 1e-2, 24), "num_subsamples": 10, "horizon": 2}
    results = {}
    for engine in ("step", "auto", "batched"):
        model = nn.Linear(3, 1, bias=False)
        nn.init.zeros_(model.weight)
        tuner = AutoLRTuner(model, nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1), rng=0)
        results[engine] = tuner.tune(X, X.sum(1, keepdim=True), engine=engine, **options)
    assert [result.settings["engine"] for result in results.values()] == ["step", "step", "batched"]
    losses = [result.differentials.loss_post for result in results.values()]
    np.testing.assert_array_equal(losses[0], losses[1])
    np.testing.assert_allclose(losses[0], losses[2], rtol=1e-6)

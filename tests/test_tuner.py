"""AutoLRTuner: what it refuses, what it repeats, how it extends and stops."""

import contextlib
import io
import time

import numpy as np
import pytest
import torch
from harness import unchanged
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import autolr
from autolr import AutoLRTuner, NotTunedError, log_grid

RATES = log_grid(1e-3, 1.0, 5)


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(60, 3, generator=generator)
    return X, X @ torch.tensor([[1.0], [-2.0], [3.0]]) + 0.1 * torch.randn(60, 1, generator=generator)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def tuner_of(model, *, rng=0, **options):
    return AutoLRTuner(model, nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1), rng=rng, **options)


def delta_of(tuner, data, **options):
    return tuner.tune(*data, learning_rates=RATES, num_subsamples=4, batch_size=8, **options).differentials.delta


def test_optimizer_in_the_place_of_the_loss_is_refused_with_the_order(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"got the optimizer SGD: the order is \(model, loss_fn, optimizer\)"):
        AutoLRTuner(model, optimizer, nn.MSELoss())


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"model": "net"}, TypeError, "`model` must be a torch.nn.Module, got 'net'"),
        ({"loss_fn": nn.MSELoss}, TypeError, r"`loss_fn` must be a function \(of a class: an instance of it\)"),
        ({"loss_fn": 3}, TypeError, r"`loss_fn` must be a function .* or None, got 3"),
        ({"loss_fn": None, "compute_loss": 3}, TypeError, r"`compute_loss` must be a function .* got 3"),
        ({"optimizer": None}, TypeError, "`optimizer` must be a torch.optim.Optimizer, got None"),
        ({"compute_loss": print}, ValueError, "`compute_loss` must be left out where `loss_fn` is given"),
        ({"optimizer": sgd(nn.Linear(1, 1))}, ValueError, "`optimizer` must hold trainable parameters of `model`"),
        ({"device": "abacus"}, ValueError, "`device` must be a torch device, such as 'cpu' or 'cuda:0', got 'abacus'"),
        ({"device": "cuda:7"}, ValueError, "`device` must be available on this machine, got 'cuda:7'"),
        ({"device": "opengl"}, ValueError, "`device` must be available on this machine, got 'opengl'"),
        ({"rng": 1.5}, TypeError, r"`rng` must be an integer, a numpy.random.Generator or None, got 1\.5"),
        ({"rng": -1}, ValueError, "`rng` must be at least 0, got -1"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(model, arguments, error, text):
    good = {"model": model, "loss_fn": nn.MSELoss(), "optimizer": sgd(model)}
    with pytest.raises(error, match=text):
        AutoLRTuner(**good | arguments)


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_a_model_with_lazy_parameters_is_refused():
    model = nn.Sequential(nn.LazyLinear(2), nn.Linear(2, 1))
    with pytest.raises(ValueError, match="`model` must have seen a batch, so that its lazy parameters have shapes"):
        tuner_of(model)


def test_a_frozen_model_is_refused(model):
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="`optimizer` must hold trainable parameters of `model`"):
        tuner_of(model)


@pytest.mark.parametrize("ask", ["get_best_lr", "suggest", "summary", "plot"])
def test_asking_before_tuning_is_an_error(model, ask):
    with pytest.raises(NotTunedError, match=r"There is no result yet: call tune\(X, Y\) first."):
        getattr(tuner_of(model), ask)()


def test_extending_before_tuning_is_an_error(model):
    with pytest.raises(NotTunedError, match="There is no result yet"):
        tuner_of(model).extend(3)


def test_an_int_starts_again_and_a_generator_advances(model, data):
    tuner = tuner_of(model)
    first, again = delta_of(tuner, data), delta_of(tuner, data)
    np.testing.assert_array_equal(first, again)
    tuner = tuner_of(model, rng=np.random.default_rng(0))
    assert (delta_of(tuner, data) != delta_of(tuner, data)).any()
    twin = tuner_of(model, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(delta_of(twin, data), delta_of(tuner_of(model, rng=np.random.default_rng(0)), data))


def test_without_rng_each_call_draws_afresh_and_can_be_repeated_by_its_settings(model, data):
    tuner = tuner_of(model, rng=None)
    first = delta_of(tuner, data)
    entropy = tuner.result.settings["rng"]
    assert (first != delta_of(tuner, data)).any()
    np.testing.assert_array_equal(delta_of(tuner_of(model, rng=entropy), data), first)


@pytest.mark.parametrize("sampling", ["independent", "partition"])
@pytest.mark.parametrize("engine", ["step", "line"])
def test_extending_gives_the_rows_of_a_longer_tuning(model, data, sampling, engine):
    options = {"learning_rates": RATES, "batch_size": 3, "sampling": sampling, "engine": engine}
    longer = tuner_of(model).tune(*data, num_subsamples=7, **options)
    tuner = tuner_of(model)
    tuner.tune(*data, num_subsamples=3, **options)
    with unchanged(model):
        extended = tuner.extend(4)
    np.testing.assert_array_equal(extended.differentials.loss_post, longer.differentials.loss_post)
    assert extended.settings["num_subsamples"] == 7
    assert tuner.result is extended


def test_extending_a_partition_that_has_ended_is_an_error_and_keeps_the_result(model, data):
    tuner = tuner_of(model)
    result = tuner.tune(*data, learning_rates=RATES, num_subsamples=10, batch_size=3, sampling="partition")
    with pytest.raises(ValueError, match="`num_subsamples` must leave rows to add, got a partition that has ended"):
        tuner.extend(1)
    assert tuner.result is result


def test_extending_after_the_model_has_changed_is_refused(model, data):
    tuner = tuner_of(model)
    result = tuner.tune(*data, learning_rates=RATES, num_subsamples=3)
    with torch.no_grad():
        model.weight.add_(1.0)
    with pytest.raises(
        ValueError, match="`num_subsamples` must extend a result of the same model, optimizer and data, got losses"
    ):
        tuner.extend(2)
    assert tuner.result is result


def test_extending_a_loader_is_refused(model, data):
    tuner = tuner_of(model)
    tuner.tune(DataLoader(TensorDataset(*data), 8), num_subsamples=2, learning_rates=RATES)
    refused = pytest.raises(
        ValueError, match="`num_subsamples` must come from data that can be drawn again, got a loader"
    )
    with refused:
        tuner.extend(1)
    tuner.tune(*data, evaluation=[data], num_subsamples=2, learning_rates=RATES)
    with refused:
        tuner.extend(1)


def test_data_that_ends_early_gives_fewer_rows_and_a_caveat(model, data):
    result = tuner_of(model).tune(DataLoader(TensorDataset(*data), 10), learning_rates=RATES)
    assert result.differentials.num_subsamples == 3  # six batches, two a row
    assert "The data ended after 3 of 100 subsamples." in result.suggest().caveats


def test_data_with_fewer_than_two_rows_is_an_error(model, data):
    with pytest.raises(ValueError, match="`X` must yield at least 2 rows of subsamples, from 4 batches, got '1 rows'"):
        tuner_of(model).tune(DataLoader(TensorDataset(*data), 30), learning_rates=RATES)
    with pytest.raises(ValueError, match="`X` must yield at least 2 rows of subsamples, from 4 batches, got '0 rows'"):
        tuner_of(model).tune([], learning_rates=RATES)
    with pytest.raises(
        ValueError, match="`X` and `evaluation` must yield at least 2 rows of subsamples, from 2 batches, got '0 rows'"
    ):
        tuner_of(model).tune(*data, evaluation=[], learning_rates=RATES)


def test_a_time_budget_ends_the_rows_but_not_before_two(model, data):
    began = time.perf_counter()
    result = tuner_of(model).tune(*data, num_subsamples=100_000, time_budget=0.2)
    assert time.perf_counter() - began < 5.0
    num_rows = result.differentials.num_subsamples
    assert 2 <= num_rows < 100_000
    assert f"The time budget ended after {num_rows} of 100000 subsamples." in result.suggest().caveats
    assert tuner_of(model).tune(*data, time_budget=1e-9).differentials.num_subsamples == 2


def test_a_loss_that_is_not_finite_before_the_step_names_the_subsample(model, data):
    X, Y = data
    with pytest.raises(
        ValueError,
        match=r"`loss_pre` must be finite in every subsample \(subsample \d+: NaN or inf in X, Y .*\), got nan",
    ):
        delta_of(tuner_of(model), (X, torch.where(Y > 2.0, torch.nan, Y)))


@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")
def test_a_loss_that_broadcasts_is_refused(model, data):
    X, Y = data
    with pytest.raises(ValueError, match=r"got output \(8, 1\) and target \(8,\), which broadcast"):
        delta_of(tuner_of(model), (X, Y.squeeze(1)))


def test_an_error_of_the_users_own_gets_a_note_that_says_what_the_batch_was(model, data):
    with pytest.raises(RuntimeError) as caught:
        delta_of(tuner_of(model), (data[0].double(), data[1]))
    assert caught.value.__notes__ == ["autolr: raised by the first gradient's batch, (float64 [8, 3], float32 [8, 1])."]
    with pytest.raises(TypeError, match="`loss_fn` must be given batches") as caught:
        delta_of(tuner_of(model), data, evaluation=data[0])
    assert caught.value.__notes__ == ["autolr: raised by the first evaluation batch, float32 [8, 3]."]
    with pytest.raises(TypeError) as caught:
        delta_of(AutoLRTuner(model, optimizer=sgd(model), rng=0), data)
    assert caught.value.__notes__[0].endswith("; with neither loss_fn nor compute_loss, the model is given all of it.")


def test_integer_inputs_to_a_float_model_are_refused(model, data):
    with pytest.raises(TypeError, match=r"`X` must have a floating-point dtype for the model's Linear layer, got"):
        delta_of(tuner_of(model), (torch.ones(60, 3, dtype=torch.int64), data[1]))


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("progress", "stream", "shown"),
    [
        (None, Terminal, True),
        (None, io.StringIO, False),
        (True, io.StringIO, True),
        (False, Terminal, False),
    ],
)
def test_the_bar_is_shown_on_a_terminal_or_when_asked_for(model, data, progress, stream, shown):
    with contextlib.redirect_stderr(stream()) as written:
        delta_of(tuner_of(model), data, progress=progress)
    assert ("subsamples:" in written.getvalue()) == shown


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradients_are_computed_whatever_the_callers_context(model, data, context):
    with context():
        inside = delta_of(tuner_of(model), data)
    np.testing.assert_array_equal(inside, delta_of(tuner_of(model), data))


def test_the_modes_of_the_modules_are_those_of_the_user(data):
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    in_training = delta_of(tuner_of(model), data)
    model.eval()
    assert (delta_of(tuner_of(model), data) != in_training).any()
    assert not model[1].training


def test_batches_go_to_the_device_given(model, data):
    tuner = tuner_of(model, device="cpu")
    np.testing.assert_array_equal(delta_of(tuner, data), delta_of(tuner_of(model), data))
    assert tuner.result.settings["device"] == "cpu"
    with pytest.raises(RuntimeError) as caught:
        delta_of(tuner_of(model, device="meta"), data)
    assert caught.value.__notes__


def test_a_warm_start_differs_from_a_cold_one_and_leaves_the_optimizer_empty(model, data):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    tuner = AutoLRTuner(model, nn.MSELoss(), optimizer, rng=0)
    cold = delta_of(tuner, data)
    with unchanged(model, optimizer):
        warm = delta_of(tuner, data, warmup_steps=5)
    assert (cold != warm).any()
    assert not optimizer.state


def test_the_settings_say_how_the_result_was_made(model, data):
    tuner = tuner_of(model, rng=7)
    delta_of(tuner, data, sampling="partition", evaluation="subsample", warmup_steps=2)
    settings = tuner.result.settings
    expected = {"rng": 7, "sampling": "partition", "evaluation": "subsample", "batch_size": 8, "warmup_steps": 2}
    expected |= {"num_subsamples": 4, "num_observations": 60, "model": "Linear", "optimizer": "SGD", "device": "cpu"}
    expected |= {
        "dtype": "float32",
        "engine": "line",
        "engine_asked": "auto",
        "num_parameters": 4,
        "out_of_time": False,
    }
    assert {name: settings[name] for name in expected} == expected
    assert settings["versions"]["autolr"] == autolr.__version__
    assert settings["num_gradients"] >= 4 + 2
    assert settings["seconds"] > 0.0


def test_the_tuner_answers_for_its_last_result(model, data):
    tuner = tuner_of(model)
    delta_of(tuner, data)
    assert tuner.get_best_lr() == float(tuner.suggest()) == tuner.result.get_best_lr()
    assert tuner.summary(interval="t").equals(tuner.result.summary(interval="t"))
    assert tuner.plot().get_xlabel() == "learning rate"


def test_extending_after_the_optimizer_has_changed_is_refused(model, data):
    tuner = tuner_of(model)
    result = tuner.tune(*data, learning_rates=RATES, num_subsamples=3)
    tuner._training.optimizer.param_groups[0]["weight_decay"] = 0.5
    with pytest.raises(ValueError, match="must extend a result of the same model, optimizer and data"):
        tuner.extend(2)
    assert tuner.result is result


def test_a_parameter_that_is_thawed_after_the_tuner_was_made_takes_part(data):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    model[0].requires_grad_(False)
    tuner = tuner_of(model)
    frozen = delta_of(tuner, data)
    model[0].requires_grad_(True)
    thawed = delta_of(tuner, data)
    assert (frozen != thawed).all()
    assert tuner.result.settings["num_parameters"] == 21

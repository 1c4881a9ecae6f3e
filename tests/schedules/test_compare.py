"""compare_schedules: runs against a loop by hand, paired, from models and random states that end as they began."""

import copy
import json
import math
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from harness import unchanged
from scipy import stats
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import autolr
from autolr import DivergedError, ScheduleComparison, compare_schedules, make_scheduler
from autolr.schedules.comparison import HISTORY_COLUMNS

NAMES = ["constant", "step", "multistep", "exponential", "cosine", "warm_restarts", "onecycle", "plateau"]
ALL = {name: name for name in NAMES} | {"lambda": {"name": "lambda", "lr_lambda": lambda u: 1.0 / (1.0 + u)}}


def regression(num=96, *, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(num, 4, generator=generator, dtype=dtype)
    return X, X.sum(1, keepdim=True) + 0.1 * torch.randn(num, 1, generator=generator, dtype=dtype)


def linear():
    return nn.Linear(4, 1)


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def compare(
    make_model=linear, data=None, *, make_optimizer=sgd, loss_fn=None, schedules=("constant", "cosine"), **options
):
    data = regression() if data is None else data
    options = {"learning_rate": 0.05, "num_epochs": 2, "num_repeats": 2, "rng": 0} | options
    loss_fn = nn.MSELoss() if loss_fn is None and "compute_loss" not in options else loss_fn
    return compare_schedules(make_model, loss_fn, make_optimizer, data, schedules=schedules, **options)


def losses_of(result, label, repeat=0):
    history = result.history
    return history[(history["schedule"] == label) & (history["repeat"] == repeat)]


# against a loop by hand


def trained_by_hand(model, optimizer, X, Y, name, *, learning_rate, num_epochs, **options):
    """Return the rates and losses of training on the whole data, and the loss afterwards."""
    scheduler = make_scheduler(optimizer, name, learning_rate=learning_rate, total_steps=num_epochs, **options)
    rates, losses = [], []
    for _ in range(num_epochs):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(X), Y)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        scheduler.step(*([loss.item()] if name == "plateau" else []))
    return rates, losses, nn.functional.mse_loss(model(X), Y).item()


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=3.0),
    "momentum in two groups": lambda p: torch.optim.SGD(
        [{"params": p[:1], "lr": 0.1}, {"params": p[1:], "lr": 0.3}], momentum=0.9, nesterov=True
    ),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-3, amsgrad=True),
    "rate in a tensor": lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-3), foreach=False),
}


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_run_is_the_loop_that_one_would_write(make_optimizer):
    X, Y = regression(dtype=torch.float64)
    models = []

    def make_model():
        models.append(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double())
        return models[-1]

    options = {"learning_rate": 0.05, "num_epochs": 12}
    result = compare(make_model, (X, Y), make_optimizer=make_optimizer, schedules=ALL, batch_size=96, **options)
    assert len(models) == 2
    for repeat, model in enumerate(models):
        for label, chosen in ALL.items():
            chosen = {"name": chosen} if isinstance(chosen, str) else chosen
            own = copy.deepcopy(model)
            rates, losses, final = trained_by_hand(
                own, make_optimizer(list(own.parameters())), X, Y, **chosen, **options
            )
            run = losses_of(result, label, repeat)
            np.testing.assert_allclose(run["learning_rate"], rates, rtol=1e-6)
            np.testing.assert_allclose(run["loss"], losses, rtol=1e-6)
            assert result.final_losses.loc[repeat, label] == pytest.approx(final, rel=1e-6)


def test_plateau_is_stepped_after_each_epoch_with_its_mean_loss():
    falling = {"name": "plateau", "patience": 0, "threshold": 10.0, "threshold_mode": "abs", "factor": 0.5}
    result = compare(schedules={"plateau": falling}, num_epochs=4, batch_size=32)
    rates = losses_of(result, "plateau")["learning_rate"]
    # no epoch is better by 10, so that from the second one on each of them halves the rate
    np.testing.assert_allclose(rates, np.repeat([0.05, 0.05, 0.025, 0.0125], 3))


def test_a_schedule_for_each_group_keeps_its_own_rates():
    functions = [lambda _: 1.0, lambda u: 1.0 if u == 0 else 0.0]  # the second group moves in the first step only
    seen = []

    def compute_loss(model, batch):
        seen.append([float(parameter.detach().sum()) for parameter in model.parameters()])
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    def two_groups(parameters):
        return torch.optim.SGD([{"params": parameters[:1]}, {"params": parameters[1:]}], lr=0.1)

    chosen = {"own": {"name": "lambda", "lr_lambda": functions}}
    compare(make_optimizer=two_groups, schedules=chosen, compute_loss=compute_loss, batch_size=96, num_epochs=4)
    weights, biases = np.array(seen[1:5]).T  # after the check, before each step of the first repeat
    assert len(set(weights)) == 4
    assert biases[0] != biases[1] == biases[2] == biases[3]


def test_every_schedule_ends_the_linear_regression_at_its_least_squares():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(1000, 5, generator=generator)
    noise = 0.2 * torch.randn(1000, generator=generator)
    Y = (X @ torch.tensor([0.0, 2.0, 4.0, 6.0, 8.0]) + noise)[:, None]
    options = {"learning_rate": 0.25, "num_epochs": 100, "batch_size": 1000}
    schedules = ALL | {"lambda": {"name": "lambda", "lr_lambda": lambda u: 1.0 / (1.0 + u / 10.0)}}
    result = compare(lambda: nn.Linear(5, 1), (X, Y), schedules=schedules, **options)
    design = np.column_stack([X.double(), np.ones(1000)])
    least = float(np.linalg.lstsq(design, Y.double().numpy()[:, 0], rcond=None)[1][0]) / 1000  # no weights do better
    np.testing.assert_allclose(result.final_losses, least, rtol=1e-5)
    assert least == pytest.approx(0.04, rel=0.1)
    assert "It cannot be told from" in str(result)
    assert "Worse than it" not in str(result)


# paired


def test_schedules_are_paired_in_weights_batches_and_masks():
    # at a vanishing rate the weights stay, so that losses differ by batches and masks only
    result = compare(network, schedules=ALL, learning_rate=1e-12, batch_size=16, num_epochs=3)
    tables = {label: losses_of(result, label)["loss"].to_numpy() for label in ALL}
    for losses in tables.values():
        np.testing.assert_allclose(losses, tables["constant"], rtol=1e-5)
    assert len(set(tables["constant"].round(6))) == 18  # other batches and masks in each step


def test_repeats_have_initial_weights_and_orders_of_their_own():
    weights, batches = [], []

    def compute_loss(model, batch):
        weights.append(float(model.weight.detach().sum()))
        batches.append(float(batch[0][0, 0]))
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    compare(compute_loss=compute_loss, schedules=["constant"], learning_rate=1e-12, batch_size=32, num_epochs=1)
    first, second = (slice(0, 4), slice(7, 11))  # a check and three steps; between them the three batches of the end
    assert weights[0] != weights[7]
    assert batches[first] != batches[second]


def test_the_same_rng_gives_the_same_answer_and_a_generator_advances():
    first, again, other = (compare(network, rng=rng) for rng in (0, 0, 1))
    pd.testing.assert_frame_equal(first.history, again.history)
    pd.testing.assert_frame_equal(first.final_losses, again.final_losses)
    assert not first.final_losses.equals(other.final_losses)
    rng = np.random.default_rng(0)
    assert not compare(rng=rng).final_losses.equals(compare(rng=rng).final_losses)


def test_a_repeat_does_not_depend_on_the_schedules_and_repeats_beside_it():
    few = compare(network, schedules=["cosine"], num_repeats=2)
    many = compare(network, schedules=ALL, num_repeats=3)
    assert few.final_losses["cosine"].tolist() == many.final_losses["cosine"].tolist()[:2]


# judged


def test_the_final_loss_is_that_of_all_observations_in_evaluation_mode():
    models, (X, Y) = [], regression(50)

    def make_model():
        models.append(network())
        return models[-1]

    after = {}

    def remember(*_):
        after[len(models)] = copy.deepcopy(models[-1].state_dict())

    def hooked(parameters):
        optimizer = sgd(parameters)
        optimizer.register_step_post_hook(remember)
        return optimizer

    result = compare(make_model, (X, Y), make_optimizer=hooked, schedules=["constant"], batch_size=8)
    for repeat in range(2):
        model = network().eval()
        model.load_state_dict(after[repeat + 1])
        with torch.no_grad():
            expected = float(nn.functional.mse_loss(model(X), Y))
        assert result.final_losses.loc[repeat, "constant"] == pytest.approx(expected, rel=1e-5)


def test_the_modes_are_changed_once_for_all_that_a_run_is_judged_on():
    changes = []

    class Model(nn.Linear):
        def train(self, mode=True):
            changes.append(mode)
            return super().train(mode)

    compare(lambda: Model(4, 1), val_data=[(X, Y) for X, Y in [regression()] * 7], num_repeats=2)
    assert changes == [False] * (1 + 4)  # and once for a check of the first batch


class Observations(Dataset):
    def __init__(self, X, Y):
        self.X, self.Y = X, Y

    def __len__(self):
        return len(self.X)

    def __getitem__(self, index):
        return self.X[index], self.Y[index]


def forms():
    X, Y = regression(40)
    pairs = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 40, 8)]
    return {
        "tensors": (X, Y),
        "NumPy": (X.numpy(), Y.numpy()),
        "pandas": (pd.DataFrame(X.numpy()), pd.DataFrame(Y.numpy())),
        "dataset": Observations(X, Y),
        "loader": DataLoader(TensorDataset(X, Y), batch_size=8),
        "shuffled loader": DataLoader(TensorDataset(X, Y), batch_size=8, shuffle=True, generator=torch.Generator()),
        "list": pairs,
        "iterator without length": iter(pairs),
    }


@pytest.mark.parametrize("kind", forms())
@pytest.mark.parametrize("validation", [False, True])
def test_every_kind_of_data_trains_and_judges_all_of_it(kind, validation):
    data = forms()[kind]
    batch_size = 8 if kind in ("tensors", "NumPy", "pandas", "dataset") else None
    val_data = forms()[kind] if validation else None
    result = compare(data=data, val_data=val_data, batch_size=batch_size, learning_rate=1e-12, schedules=["constant"])
    assert len(losses_of(result, "constant")) == 10
    assert result.settings["judged_on"] == ("val_data" if validation else "data")
    mean = losses_of(result, "constant")["loss"][:5].mean()  # at a vanishing rate, over an epoch of whole batches
    assert result.final_losses.loc[0, "constant"] == pytest.approx(mean, rel=1e-5)


class Noisy(Observations):
    """Observations that are augmented at random, from the global generator and one of their own."""

    def __init__(self, X, Y):
        super().__init__(X, Y)
        self.generator = np.random.default_rng(0)

    def __getitem__(self, index):
        return self.X[index] + torch.randn(4) + float(self.generator.normal()), self.Y[index]


def test_a_dataset_that_draws_at_random_draws_the_same_for_every_schedule():
    data = Noisy(*regression(40))
    with unchanged(nn.Linear(1, 1), extra=[data.generator]):
        result = compare(data=data, batch_size=8, learning_rate=1e-12, schedules=ALL)
    for label in ALL:
        np.testing.assert_allclose(losses_of(result, label)["loss"], losses_of(result, "constant")["loss"], rtol=1e-6)
        np.testing.assert_allclose(result.final_losses[label], result.final_losses["constant"], rtol=1e-6)


def test_batches_of_different_sizes_count_by_their_observations():
    X, Y = regression(40)
    batches = [(X[:30], Y[:30]), (X[30:], Y[30:])]
    whole = compare(data=[(X, Y)], learning_rate=1e-12, schedules=["constant"]).final_losses
    pd.testing.assert_frame_equal(
        compare(data=batches, learning_rate=1e-12, schedules=["constant"]).final_losses, whole
    )


# nothing of the user's changes


@pytest.mark.parametrize("error", [None, ValueError("mine"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", [0, 1, 9, 14])
def test_a_model_that_is_handed_out_again_and_again_ends_as_it_began(error, call):
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    X, Y = regression()
    nn.functional.mse_loss(model(X), Y).backward()
    optimizer.step()
    scheduler.step()
    loader = DataLoader(TensorDataset(X, Y), 32, shuffle=True, generator=torch.Generator().manual_seed(3))
    calls = []

    def loss_fn(output, target):
        calls.append(1)
        if error is not None and len(calls) == call + 1:
            raise error
        return nn.functional.mse_loss(output, target)

    with unchanged(model, optimizer, scheduler=scheduler, extra=[loader.generator]):
        if error is None:
            compare(lambda: model, loader, make_optimizer=lambda _: optimizer, loss_fn=loss_fn, schedules=ALL)
        else:
            with pytest.raises(type(error)) as raised:
                compare(lambda: model, loader, make_optimizer=lambda _: optimizer, loss_fn=loss_fn, schedules=ALL)
            assert raised.value is error


def test_functions_that_seed_and_draw_leave_no_trace():
    generator = np.random.default_rng(5)

    def make_model():
        torch.manual_seed(int(generator.integers(100)))
        np.random.seed(3)  # noqa: NPY002 (a habit of users)
        return network()

    with unchanged(nn.Linear(1, 1), extra=[generator]):
        first = compare(make_model)
        again = compare(make_model)
    pd.testing.assert_frame_equal(first.final_losses, again.final_losses)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_grad_mode_of_the_caller_does_not_matter(mode):
    with mode():
        inside = compare(network)
    pd.testing.assert_frame_equal(inside.final_losses, compare(network).final_losses)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.frozen = nn.Linear(4, 4), nn.Linear(4, 4).requires_grad_(False)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.frozen(torch.tanh(self.first(x)))).sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("make_model", "make_optimizer"),
    [
        (Tied, sgd),
        (lambda: linear().to(torch.bfloat16), sgd),
        (lambda: linear().double(), lambda p: torch.optim.LBFGS(p, max_iter=2)),
        (linear, lambda p: torch.optim.RMSprop(p, momentum=0.9)),
    ],
    ids=["tied and frozen", "bfloat16", "LBFGS in float64", "RMSprop"],
)
def test_awkward_models_and_optimizers_are_trained(make_model, make_optimizer):
    X, Y = (values.numpy() for values in regression())
    result = compare(make_model, (X, Y), make_optimizer=make_optimizer, schedules=ALL, learning_rate=0.02)
    assert np.isfinite(result.final_losses).all(axis=None)
    first = losses_of(result, "cosine")["loss"].iloc[0]
    assert result.final_losses["cosine"].iloc[0] < first


def test_batches_may_be_dicts_with_a_loss_of_the_users():
    X, Y = regression()
    batches = [{"x": X[i : i + 32], "y": Y[i : i + 32]} for i in (0, 32, 64)]
    result = compare(
        data=batches, compute_loss=lambda model, batch: nn.functional.mse_loss(model(batch["x"]), batch["y"])
    )
    assert result.settings["total_steps"] == 6


# divergence


def test_a_run_that_diverges_is_given_up_and_the_others_go_on():
    late = {"name": "lambda", "lr_lambda": lambda u: 1.0 if u < 3 else 1e30}
    result = compare(schedules={"constant": "constant", "late": late}, num_epochs=4, batch_size=32)
    run = losses_of(result, "late")
    assert math.isinf(run["loss"].iloc[-1])
    assert np.isfinite(run["loss"].iloc[:-1]).all()
    assert len(run) < len(losses_of(result, "constant")) == 12
    assert np.isinf(result.final_losses["late"]).all()
    summary = result.summary()
    assert result.best == "constant"
    assert summary.loc["late"].tolist() == [math.inf, -math.inf, math.inf] * 2
    assert "Training diverged under late (2 of 2)." in str(result)


def test_a_run_that_diverges_in_its_last_step_is_seen():
    last = {"name": "lambda", "lr_lambda": lambda u: 1.0 if u < 5 else math.inf}
    result = compare(schedules={"last": last}, batch_size=32)
    assert np.isfinite(result.history["loss"]).all()
    assert np.isinf(result.final_losses["last"]).all()


def test_where_all_diverge_there_is_no_best_and_the_words_say_so():
    result = compare(schedules={"a": "constant", "b": "step"}, learning_rate=1e30)
    with pytest.raises(DivergedError, match=r"Training diverged under every schedule: compare them at a smaller"):
        _ = result.best
    assert str(result).startswith("I cannot tell: training diverged under every schedule.\n")
    assert str(result).endswith("\nNext: try a smaller learning rate, such as that of autolr.find_lr.")
    assert np.isinf(result.summary()["difference"]).all()


def test_a_loss_that_is_not_finite_before_any_step_is_an_error():
    X, Y = regression()
    with pytest.raises(ValueError, match=r"`data` must give a finite loss before any step, got nan in repeat 0\."):
        compare(data=(X * math.nan, Y))


def test_a_loss_to_judge_by_that_is_never_finite_is_not_called_a_divergence():
    X, Y = regression()
    val_data = X.clone(), Y
    val_data[0][3, 0] = math.nan
    with pytest.raises(
        ValueError, match="`val_data` must give a finite loss in evaluation mode before any step, got n"
    ):
        compare(val_data=val_data)


# the result


def made(columns, **settings):
    return ScheduleComparison(pd.DataFrame(columns=list(HISTORY_COLUMNS)), pd.DataFrame(columns), settings)


def test_the_summary_is_students_t_of_losses_and_of_paired_differences(rng):
    a, b = rng.normal(size=(2, 6)) + 5.0
    b += 0.3
    summary = made({"a": a, "b": b}).summary(confidence_level=0.9)
    assert summary.columns.tolist() == ["final_loss", "low", "high", "difference", "difference_low", "difference_high"]
    for label, values in (("a", a), ("b", b)):
        interval = stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
        assert summary.loc[label, ["low", "high"]].tolist() == pytest.approx(list(interval))
    best, other = ("a", "b") if a.mean() < b.mean() else ("b", "a")
    paired = stats.ttest_rel({"a": a, "b": b}[other], {"a": a, "b": b}[best]).confidence_interval(0.9)
    assert summary.loc[other, ["difference_low", "difference_high"]].tolist() == pytest.approx(list(paired))
    assert summary.loc[best, ["difference", "difference_low", "difference_high"]].tolist() == [0.0, 0.0, 0.0]


def test_the_words_say_which_is_best_which_may_be_as_good_and_which_is_worse():
    losses = {"a": [1.0, 2.0, 3.0], "b": [1.1, 1.9, 3.3], "c": [2.0, 3.1, 4.0], "d": [1.0, math.inf, 1.0]}
    assert str(made(losses, num_evaluations=300.0, seconds=1.25, total_steps=20)).splitlines() == [
        "The best of 4 schedules is a: final loss 2, between \N{MINUS SIGN}0.484 and 4.48 (95%, 3 repeats).",
        "It cannot be told from b.",
        "Worse than it: c by 1.03 (from 0.89 to 1.18).",
        "Training diverged under d (1 of 3).",
        "Measured in 12 runs of 20 steps: 300 gradient evaluations in 1.2 s.",
        "Next: compare again with another rng: picked by these losses, the best looks better than it is.",
    ]


def test_a_difference_of_rounding_is_none():
    losses = {"a": [1.0, 1.0, 1.0], "b": [1.0 + 1e-7, 1.0 + 1e-7, 1.0 + 1.1e-7]}
    assert "It cannot be told from b." in str(made(losses, epsilon=torch.finfo(torch.float32).eps))
    assert "Worse than it: b" in str(made(losses))


def test_one_schedule_has_nothing_to_be_compared_with():
    assert str(made({"a": [1.0, 1.0]})) == "The only schedule is a: final loss 1, between 1 and 1 (95%, 2 repeats)."


def test_the_result_can_be_sent_and_shown():
    result = compare(schedules=ALL, confidence_level=0.9)
    again = pickle.loads(pickle.dumps(result))
    pd.testing.assert_frame_equal(again.summary(), result.summary())
    assert dict(again.settings) == json.loads(json.dumps(dict(result.settings)))
    assert result.confidence_level == 0.9
    assert repr(result) == "<ScheduleComparison: 9 schedules, 2 repeats>"
    assert "<table" in result._repr_html_()
    assert "warm_restarts" in result._repr_html_()
    left, right = result.plot()
    assert (left.get_ylabel(), right.get_ylabel()) == ("training loss", "learning rate")
    assert autolr.ScheduleComparison is ScheduleComparison


def test_settings_say_what_it_cost():
    result = compare(schedules=["constant", "step"], batch_size=32, num_epochs=2)
    settings = result.settings
    assert settings["num_gradients"] == len(result.history) == 2 * 2 * 6
    assert settings["num_forwards"] == 2 * (1 + 2 * 3)  # a check, and the end of each run
    assert settings["schedules"]["step"] == {"name": "step"}


def test_the_bar_counts_epochs(capsys):
    compare(progress=True)
    assert "epochs:   0%" in (bar := capsys.readouterr().err)
    assert "0/8" in bar  # two repeats of two schedules of two epochs
    compare(progress=False)
    assert capsys.readouterr().err == ""


# what is refused


def fail(*_):
    raise AssertionError("nothing is made before it is checked")


BEFORE = {
    "a model": (
        TypeError,
        "`make_model` must be a function that returns a new model, got Linear",
        {"make_model": linear()},
    ),
    "an optimizer": (
        TypeError,
        "`make_optimizer` must be a function that returns a new optimizer, got SGD",
        {"make_optimizer": sgd(linear().parameters())},
    ),
    "one name": (TypeError, "`schedules` must be a sequence of names, or a mapping from labels", {"schedules": "step"}),
    "none": (ValueError, "`schedules` must hold at least one schedule", {"schedules": []}),
    "twice": (ValueError, "`schedules` must hold each name once", {"schedules": ["step", "step"]}),
    "no label": (
        TypeError,
        "`schedules` must have strings as names and labels, got {'name'",
        {"schedules": [{"name": 1}]},
    ),
    "no name": (ValueError, r"`schedules\['a'\]\['name'\]` must be one of 'constant', ", {"schedules": {"a": {}}}),
    "no string": (
        TypeError,
        r"`schedules\['a'\]` must have strings as names of options",
        {"schedules": {"a": {"name": "step", 3: 4}}},
    ),
    "reserved": (
        ValueError,
        r"`schedules\['a'\]` must not hold 'total_steps'",
        {"schedules": {"a": {"name": "step", "total_steps": 4}}},
    ),
    "rate": (ValueError, "`learning_rate` must be finite and above 0, got 0", {"learning_rate": 0}),
    "epochs": (ValueError, "`num_epochs` must be at least 1, got 0", {"num_epochs": 0}),
    "repeats": (ValueError, "`num_repeats` must be at least 2, got 1", {"num_repeats": 1}),
    "batch": (ValueError, "`batch_size` must be at least 1, got 0", {"batch_size": 0}),
    "level": (
        ValueError,
        "`confidence_level` must be finite and above 0 and below 1, got 95",
        {"confidence_level": 95},
    ),
    "progress": (TypeError, "`progress` must be True or False, got 1", {"progress": 1}),
    "rng": (TypeError, "`rng` must be an integer, a numpy.random.Generator or None, got 'a'", {"rng": "a"}),
}


@pytest.mark.parametrize(("error", "message", "options"), BEFORE.values(), ids=BEFORE)
def test_what_is_wrong_is_named_before_anything_is_made(error, message, options):
    with pytest.raises(error, match=message):
        compare(**({"make_model": fail, "make_optimizer": fail} | options))


MADE = {
    "no model": (TypeError, "`make_model` must return a torch.nn.Module, got None", {"make_model": lambda: None}),
    "no optimizer": (
        TypeError,
        "`make_optimizer` must return a torch.optim.Optimizer, got None",
        {"make_optimizer": lambda _: None},
    ),
    "option": (TypeError, "`gama` must be left out of name='step'", {"schedules": {"a": {"name": "step", "gama": 1}}}),
    "function": (TypeError, "`lr_lambda` must be a function of the step", {"schedules": ["lambda"]}),
    "warm-up": (
        ValueError,
        r"`warmup_steps` must be below `total_steps` \(6\)",
        {"schedules": {"a": {"name": "step", "warmup_steps": 6}}},
    ),
    "no batch": (ValueError, "`data` must yield at least one batch, got none", {"data": [], "batch_size": None}),
    "no batch to judge on": (ValueError, "`val_data` must yield at least one batch, got none", {"val_data": []}),
    "nothing to judge on": (
        ValueError,
        "`val_data` must hold at least one observation, got 0",
        {"val_data": TensorDataset(torch.ones(0, 4))},
    ),
    "no data": (TypeError, "`data` must be ", {"data": 3, "batch_size": None}),
}


@pytest.mark.parametrize(("error", "message", "options"), MADE.values(), ids=MADE)
def test_what_is_wrong_is_named_before_any_training(error, message, options):
    steps = []

    def make_optimizer(parameters):
        optimizer = sgd(parameters)
        optimizer.register_step_pre_hook(lambda *_: steps.append(1))
        return optimizer

    with pytest.raises(error, match=message), unchanged(nn.Linear(1, 1)):
        compare(**({"batch_size": 32, "make_optimizer": make_optimizer} | options))
    assert not steps


def test_an_option_that_is_refused_says_which_schedule_it_is_of():
    with pytest.raises(TypeError) as raised:
        compare(schedules={"fast": {"name": "step", "gama": 1}})
    assert raised.value.__notes__ == ["autolr: raised by the schedule 'fast'."]


def test_a_loss_that_broadcasts_is_refused():
    X, Y = regression()
    with pytest.raises(ValueError, match="`loss_fn` must compare output and target of one shape"):
        compare(data=(X, Y[:, 0]), loss_fn=lambda output, target: ((output - target) ** 2).mean())
    with pytest.raises(ValueError, match="`loss_fn` must compare output and target of one shape") as raised:
        compare(val_data=(X, Y[:, 0]), loss_fn=lambda output, target: ((output - target) ** 2).mean())
    assert "autolr: raised by the first validation batch" in raised.value.__notes__[0]


def test_no_warning_comes_from_a_whole_comparison():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compare(network, schedules=ALL)
    assert not caught


REFUSED = {
    "history": (TypeError, "`history` must be a frame with the columns schedule, repeat", {"history": None}),
    "losses": (TypeError, "`final_losses` must be a frame with a column for each", {"final_losses": [1.0, 2.0]}),
    "one repeat": (
        ValueError,
        r"`final_losses` must have at least two rows and one column, got \(1, 1\)",
        {"final_losses": pd.DataFrame({"a": [1.0]})},
    ),
    "settings": (TypeError, "`settings` must be a mapping, got 3", {"settings": 3}),
}


@pytest.mark.parametrize(("error", "message", "options"), REFUSED.values(), ids=REFUSED)
def test_a_result_of_other_things_is_refused(error, message, options):
    whole = {
        "history": pd.DataFrame(columns=list(HISTORY_COLUMNS)),
        "final_losses": pd.DataFrame({"a": [1.0, 2.0]}),
        "settings": {},
    }
    with pytest.raises(error, match=message):
        ScheduleComparison(**(whole | options))


def test_a_confidence_level_outside_of_0_and_1_is_refused():
    with pytest.raises(ValueError, match="`confidence_level` must be finite and above 0 and below 1, got 1"):
        made({"a": [1.0, 2.0]}).summary(confidence_level=1.0)

"""The loss by rate on one batch: that of real steps of copies, and nothing is left behind."""

import numpy as np
import oracles
import pandas as pd
import pytest
import torch
from harness import unchanged
from torch import nn, optim

from autolr import log_grid, loss_by_learning_rate

F64 = torch.float64
RATES = np.array([0.0, 1e-4, 1e-2, 0.1, 1.0])

OPTIMIZERS = {
    "SGD": (optim.SGD, {"weight_decay": 0.1}),
    "nesterov": (optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "AdamW": (optim.AdamW, {"amsgrad": True}),
    "RMSprop": (optim.RMSprop, {"centered": True, "momentum": 0.9}),
    "Adagrad": (optim.Adagrad, {}),
    "Adadelta": (optim.Adadelta, {}),
    "ASGD": (optim.ASGD, {"lambd": 0.1}),
    "Rprop": (optim.Rprop, {}),
    "Adafactor": (optim.Adafactor, {}),
    "LBFGS": (optim.LBFGS, {"max_iter": 3}),
}


def network(*layers):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), *(layers or (nn.Tanh(),)), nn.Linear(6, 3)).to(F64)


def batch_of(rng):
    return torch.from_numpy(rng.normal(size=(12, 4))), torch.from_numpy(rng.integers(3, size=12))


def cross_entropy(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def by_copies(model, optimizer, batch, rates=RATES):
    copies = oracles.copies_of(model, optimizer, cross_entropy)
    loss, losses = oracles.probe_by_copies(copies, rates[1:], batch, batch, oracles.global_random_state())
    return np.array([loss, *losses])


def losses_of(model, optimizer, batch, rates=RATES, **options):
    with unchanged(model, optimizer, extra=batch):
        return loss_by_learning_rate(model, nn.CrossEntropyLoss(), optimizer, *batch, rates, rng=0, **options)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_losses_are_those_after_real_steps_of_copies(name, warm, rng):
    kind, options = OPTIMIZERS[name]
    model, batch = network(), batch_of(rng)
    optimizer = kind(model.parameters(), lr=0.01, **options)
    for _ in range(2 if warm else 0):

        def closure():
            optimizer.zero_grad()
            loss = cross_entropy(model, batch)
            loss.backward()
            return loss

        optimizer.step(closure)
    expected = by_copies(model, optimizer, batch)
    if not (warm and name in ("ASGD", "Rprop")):  # whose state holds the rate from the first step on
        assert len(set(expected)) == len(RATES)
    np.testing.assert_allclose(losses_of(model, optimizer, batch), expected, rtol=1e-6)
    np.testing.assert_allclose(losses_of(model, optimizer, batch, engine="step"), expected, rtol=1e-12)


def test_a_quadratic_loss_is_a_parabola_of_the_rate(rng):
    X, y = torch.from_numpy(rng.normal(size=(20, 3))), torch.from_numpy(rng.normal(size=20))
    model = nn.Linear(3, 1, bias=False).to(F64)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    rates = np.linspace(0.0, 2.0, 7)
    losses = loss_by_learning_rate(model, None, optimizer, X, y, rates, compute_loss=squared_error)
    before = float(squared_error(model, (X, y)).detach())
    delta = oracles.linear_regression_delta(model.weight.detach().flatten(), X, y, rates)
    np.testing.assert_allclose(losses, before + delta, rtol=1e-9)


def squared_error(model, batch):
    x, y = batch
    return (model(x).squeeze(-1) - y).square().mean()


@pytest.mark.parametrize("engine", ["auto", "step", "line", "batched"])
def test_rate_0_alone_is_the_loss_before(engine, rng):
    model, batch = network(), batch_of(rng)
    losses = losses_of(model, optim.SGD(model.parameters(), lr=0.1), batch, [0.0], engine=engine)
    np.testing.assert_allclose(losses, [cross_entropy(model, batch).item()], rtol=1e-12)


def test_groups_keep_their_ratios_and_schedulers_stay_where_they_are(rng):
    model, batch = network(), batch_of(rng)
    optimizer = optim.SGD([{"params": model[0].parameters(), "lr": 0.02}, {"params": model[2].parameters()}], lr=0.1)
    scheduler = optim.lr_scheduler.StepLR(optimizer, 1)
    expected = by_copies(model, optimizer, batch)
    with unchanged(model, optimizer, scheduler=scheduler):
        np.testing.assert_allclose(losses_of(model, optimizer, batch), expected, rtol=1e-6)


@pytest.mark.parametrize("layers", [(nn.Dropout(0.5),), (nn.BatchNorm1d(6), nn.ReLU())], ids=["dropout", "batch norm"])
def test_all_rates_see_the_same_masks_and_batch_statistics(layers, rng):
    model, batch = network(*layers), batch_of(rng)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    losses = losses_of(model, optimizer, batch)
    assert losses[1] == pytest.approx(losses[0], rel=1e-2), "a rate of 1e-4 changes the loss by little"
    np.testing.assert_array_equal(losses, losses_of(model, optimizer, batch))
    np.testing.assert_allclose(losses_of(model, optimizer, batch, engine="step"), losses, rtol=1e-6)


def test_frames_arrays_and_tensors_give_the_same_losses(rng):
    model, (X, y) = network(), batch_of(rng)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    expected = losses_of(model, optimizer, (X, y))
    np.testing.assert_array_equal(losses_of(model, optimizer, (X.numpy(), y.numpy())), expected)
    np.testing.assert_array_equal(
        losses_of(model, optimizer, (pd.DataFrame(X.numpy()), pd.Series(y.numpy()))), expected
    )


def test_a_batch_of_any_form_is_for_compute_loss(rng):
    model, (X, y) = network(), batch_of(rng)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    batch = {"x": X, "y": y.tolist()}

    def loss(m, b):
        return nn.functional.cross_entropy(m(b["x"]), torch.tensor(b["y"]))

    losses = loss_by_learning_rate(model, None, optimizer, batch, learning_rates=RATES, compute_loss=loss)
    np.testing.assert_array_equal(losses, losses_of(model, optimizer, (X, y)))


def test_the_default_rates_are_those_of_the_tuner(rng):
    model, (X, y) = network(), batch_of(rng)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    losses = loss_by_learning_rate(model, nn.CrossEntropyLoss(), optimizer, X, y)
    np.testing.assert_array_equal(losses, losses_of(model, optimizer, (X, y), log_grid(1e-6, 10.0, 64)))


def test_a_loss_that_is_not_finite_after_the_step_is_inf(rng):
    model, (X, y) = network(nn.ReLU()), batch_of(rng)
    model.float()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    losses = losses_of(model, optimizer, (X.float(), y), [0.0, 1.0, 1e38])
    assert np.isfinite(losses[:2]).all()
    assert losses[2] == np.inf


def test_a_loss_that_is_not_finite_before_the_step_is_refused(rng):
    model, (X, y) = network(), batch_of(rng)
    X[0, 0] = np.nan
    with pytest.raises(ValueError, match="`loss_pre` must be finite"):
        losses_of(model, optim.SGD(model.parameters(), lr=0.1), (X, y))


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ([-0.1, 0.1], "be finite and not negative"),
        ([0.1, 0.1], "be strictly increasing"),
        ([], "be one-dimensional and not empty"),
    ],
)
def test_rates_that_make_no_grid_are_refused(rates, words, rng):
    model, batch = network(), batch_of(rng)
    with pytest.raises(ValueError, match=f"`learning_rates` must {words}"):
        losses_of(model, optim.SGD(model.parameters(), lr=0.1), batch, rates)


def test_wrong_arguments_are_refused(rng):
    model, (X, y) = network(), batch_of(rng)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="`engine` must be one of 'auto', 'step', 'line', 'batched', got 'fast'"):
        losses_of(model, optimizer, (X, y), engine="fast")
    with pytest.raises(TypeError, match="the order is"):
        loss_by_learning_rate(model, optimizer, nn.CrossEntropyLoss(), X, y, RATES)
    with pytest.raises(TypeError, match="`rng` must be an integer"):
        loss_by_learning_rate(model, nn.CrossEntropyLoss(), optimizer, X, y, RATES, rng="0")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [1, 2, 5])
def test_everything_is_put_back_where_the_loss_raises(call, error, rng):
    model, batch = network(nn.BatchNorm1d(6), nn.Dropout(0.5)), batch_of(rng)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    cross_entropy(model, batch).backward()
    optimizer.step()
    calls = []

    def loss(m, b):
        calls.append(1)
        value = cross_entropy(m, b)
        if len(calls) >= call:
            raise error("in the middle")
        return value

    with unchanged(model, optimizer, extra=batch), pytest.raises(error, match="in the middle") as caught:
        loss_by_learning_rate(model, None, optimizer, *batch, RATES, compute_loss=loss)
    if call == 1 and error is RuntimeError:
        (note,) = caught.value.__notes__
        assert "raised by the first given batch, (float64 [12, 4], int64 [12])" in note


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(mode, rng):
    model, batch = network(), batch_of(rng)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    expected = losses_of(model, optimizer, batch)
    with mode():
        np.testing.assert_array_equal(losses_of(model, optimizer, batch), expected)

"""TaylorExpansion and taylor_expansion: closed forms, the picture, what is refused, and nothing is left behind."""

import math
import pickle
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from harness import unchanged
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from torch import nn, optim

import autolr
from autolr import TaylorExpansion, loss_by_learning_rate, taylor_expansion

F64 = torch.float64


def half_square(output, target):
    return (output - target).square().sum() / 2.0


def network(*layers):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), *(layers or (nn.Tanh(),)), nn.Linear(6, 3)).to(F64)


def batch_of(rng):
    return torch.from_numpy(rng.normal(size=(12, 4))), torch.from_numpy(rng.integers(3, size=12))


def expand(model, optimizer, batch, loss_fn=nn.functional.cross_entropy, **options):
    with unchanged(model, optimizer, extra=batch):
        return taylor_expansion(model, loss_fn, optimizer, *batch, **options)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_one_observation_of_a_linear_layer_has_its_minimizer_at_one_over_one_plus_its_square(dtype, rng):
    x, y = rng.normal(size=(1, 5)), rng.normal(size=(1, 1))
    model = nn.Linear(5, 1).to(dtype)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    batch = torch.from_numpy(x).to(dtype), torch.from_numpy(y).to(dtype)
    expansion = expand(model, optimizer, batch, half_square, learning_rates=[])
    residual = float((model(batch[0]) - batch[1]).detach())
    square = 1.0 + float((x**2).sum())
    rtol = 1e-10 if dtype == F64 else 1e-5
    assert expansion.loss == pytest.approx(residual**2 / 2.0, rel=rtol)
    assert expansion.slope == pytest.approx(-(residual**2) * square, rel=rtol)
    assert expansion.curvature == pytest.approx(residual**2 * square**2, rel=rtol)
    assert expansion.minimizer == pytest.approx(1.0 / square, rel=rtol)
    assert expansion.losses.size == 0


def test_the_expansion_of_a_quadratic_loss_is_exact(rng):
    X, y = torch.from_numpy(rng.normal(size=(20, 3))), torch.from_numpy(rng.normal(size=(20, 1)))
    model = nn.Linear(3, 1).to(F64)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    nn.functional.mse_loss(model(X), y).backward()
    optimizer.step()
    expansion = expand(model, optimizer, (X, y), nn.MSELoss())
    rates = expansion.learning_rates
    np.testing.assert_allclose(rates, np.linspace(0.0, 2.0 * expansion.minimizer, 41))
    np.testing.assert_allclose(expansion.loss_at(rates), expansion.losses, rtol=1e-9)
    assert rates[np.argmin(expansion.losses)] == pytest.approx(expansion.minimizer)


@pytest.mark.parametrize("kind", [optim.SGD, optim.AdamW])
def test_near_0_the_expansion_is_the_true_loss_up_to_the_third_power_of_the_rate(kind, rng):
    model, batch = network(), batch_of(rng)
    optimizer = kind(model.parameters(), lr=0.01)
    minimizer = expand(model, optimizer, batch, learning_rates=[]).minimizer
    rates = minimizer * np.array([1e-2, 2e-2])
    expansion = expand(model, optimizer, batch, learning_rates=rates)
    near, far = expansion.losses - expansion.loss_at(rates)
    assert far / near == pytest.approx(8.0, rel=0.1)


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.floats(0.0, 1e3))
def test_at_no_rate_is_the_parabola_lower_than_at_the_minimizer(slope, curvature, rate):
    expansion = TaylorExpansion(1.0, slope, curvature)
    assert expansion.minimizer >= 0.0
    lowest = expansion.loss_at(expansion.minimizer)
    assert lowest <= expansion.loss_at(rate) + 1e-12 * (1.0 + abs(lowest))


@pytest.mark.parametrize(
    ("slope", "curvature", "minimizer"),
    [
        (-2.0, 4.0, 0.5),
        (-2.0, 0.0, math.inf),
        (-2.0, -4.0, math.inf),
        (2.0, -4.0, math.inf),
        (2.0, 4.0, 0.0),
        (2.0, 0.0, 0.0),
        (0.0, 4.0, 0.0),
        (0.0, 0.0, 0.0),
    ],
)
def test_the_minimizer_is_0_where_the_step_does_not_descend_and_inf_where_there_is_no_minimum(
    slope, curvature, minimizer
):
    assert TaylorExpansion(1.0, slope, curvature).minimizer == minimizer


def test_the_orders_are_the_loss_its_tangent_and_its_parabola():
    expansion = TaylorExpansion(1.0, -2.0, 4.0)
    rates = np.array([[0.0, 0.5], [1.0, -1.0]])
    np.testing.assert_array_equal(expansion.loss_at(rates, 0), [[1.0, 1.0], [1.0, 1.0]])
    np.testing.assert_array_equal(expansion.loss_at(rates, 1), [[1.0, 0.0], [-1.0, 3.0]])
    np.testing.assert_array_equal(expansion.loss_at(rates, 2), [[1.0, 0.5], [1.0, 5.0]])
    assert float(expansion.loss_at(0.5)) == 0.5


@pytest.mark.parametrize("order", [3, -1, True, 1.5, 2.0, "2"])
def test_another_order_is_refused(order):
    with pytest.raises(ValueError, match="`order` must be 0, 1 or 2, got"):
        TaylorExpansion(1.0, -2.0, 4.0).loss_at(0.1, order)


def test_a_rate_that_is_not_finite_as_the_minimizer_may_be_has_no_loss():
    expansion = TaylorExpansion(1.0, -2.0, -4.0)
    with pytest.raises(ValueError, match="`learning_rates` must be finite, got inf"):
        expansion.loss_at(expansion.minimizer)


def test_an_expansion_holds_finite_numbers_that_cannot_be_changed():
    rates, losses = np.array([0.0, 1.0]), np.array([1.0, np.inf])
    expansion = TaylorExpansion(1.0, -2.0, 4.0, rates, losses)
    losses[0] = 7.0
    assert expansion.losses[0] == 1.0
    assert not expansion.losses.flags.writeable
    assert repr(expansion) == "TaylorExpansion(loss=1.0, slope=-2.0, curvature=4.0)"
    again = pickle.loads(pickle.dumps(expansion))
    np.testing.assert_array_equal(again.losses, expansion.losses)
    with pytest.raises(ValueError, match="`curvature` must be finite, got nan"):
        TaylorExpansion(1.0, -2.0, math.nan)
    with pytest.raises(TypeError, match="`slope` must be a real number"):
        TaylorExpansion(1.0, "2", 4.0)


@pytest.mark.parametrize("losses", [[1.0], [1.0, math.nan], [[1.0], [2.0]]])
def test_losses_that_do_not_fit_to_the_rates_are_refused(losses):
    with pytest.raises(ValueError, match="`losses` must hold a number, or inf, for each of the 2 `learning_rates`"):
        TaylorExpansion(1.0, -2.0, 4.0, [0.0, 1.0], losses)


def test_the_true_losses_are_those_of_loss_by_learning_rate(rng):
    model, batch = network(nn.Dropout(0.5)), batch_of(rng)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    rates = [0.0, 0.01, 0.1]
    expansion = expand(model, optimizer, batch, learning_rates=rates, rng=3)
    losses = loss_by_learning_rate(model, nn.functional.cross_entropy, optimizer, *batch, rates, rng=3)
    np.testing.assert_allclose(expansion.losses, losses, rtol=1e-12)
    assert expansion.losses[0] == pytest.approx(expansion.loss, rel=1e-12)
    assert expand(model, optimizer, batch, learning_rates=[], rng=4).loss != expansion.loss


def test_where_there_is_no_minimizer_rates_go_to_twice_the_present_one(rng):
    model, batch = network(), batch_of(rng)
    expansion = expand(model, optim.SGD(model.parameters(), lr=0.1, maximize=True), batch)
    assert expansion.minimizer == 0.0
    assert expansion.learning_rates[-1] == pytest.approx(0.2)


def test_frames_and_batches_of_other_forms_are_read(rng):
    model, (X, y) = network(), batch_of(rng)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    expected = expand(model, optimizer, (X, y)).curvature
    frames = pd.DataFrame(X.numpy()), pd.Series(y.numpy())
    assert taylor_expansion(model, nn.CrossEntropyLoss(), optimizer, *frames).curvature == expected

    def loss(m, batch):
        return nn.functional.cross_entropy(m(batch["x"]), batch["y"])

    given_as_dict = taylor_expansion(model, None, optimizer, {"x": X, "y": y}, compute_loss=loss)
    assert given_as_dict.curvature == expected


@pytest.mark.parametrize(
    ("expansion", "words"),
    [
        (TaylorExpansion(1.0, -2.0, 4.0), r"^Learning rate 0\.5: there the parabola of this batch is lowest, 0\.5\.\n"),
        (
            TaylorExpansion(1.0, -2.0, 4.0, [0.0, 0.4], [1.0, 0.75]),
            r"\nMeasured at 2 rates: 0\.4 gave the lowest loss, 0\.75\.\n",
        ),
        (
            TaylorExpansion(1.0, -2.0, 4.0, [1.0], [math.inf]),
            r"^Learning rate 0\.5: there .*\n.*, curvature 4\.\nNext: ",
        ),
        (TaylorExpansion(1.0, -2.0, -4.0), "falls without end, and names no rate"),
        (TaylorExpansion(1.0, 2.0, 4.0), "the step does not descend"),
    ],
)
def test_the_words_say_where_the_parabola_is_lowest_or_why_nowhere(expansion, words):
    assert re.search(words, str(expansion))


@pytest.mark.parametrize("name", ["LBFGS", "Rprop"])
def test_an_optimizer_without_a_direction_is_refused(name, rng):
    model, batch = network(), batch_of(rng)
    optimizer = getattr(optim, name)(model.parameters(), lr=0.01)
    if name == "Rprop":
        nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()
    with pytest.raises(ValueError, match=rf"`optimizer` must take steps that are proportional .* got '{name}'"):
        expand(model, optimizer, batch)


def test_a_loss_or_a_gradient_that_is_not_finite_is_refused(rng):
    model, (X, y) = network(), batch_of(rng)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="`slope` must be finite, got nan"):
        expand(model, optimizer, (X, y), lambda output, _: (output - output.detach()).abs().sqrt().sum())
    X[0, 0] = math.nan
    with pytest.raises(ValueError, match="`loss` must be finite, got nan"):
        expand(model, optimizer, (X, y))


def test_rates_that_make_no_grid_are_refused_before_anything_is_computed(rng):
    model, batch = network(), batch_of(rng)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for rates, words in (([-0.1], "not negative"), ([0.2, 0.1], "strictly increasing"), (0.1, "one-dimensional")):
        with pytest.raises(ValueError, match=f"`learning_rates` must be .*{words}"):
            expand(model, optimizer, batch, pytest.fail, learning_rates=rates)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [1, 3, 6])
def test_everything_is_put_back_where_the_loss_raises(call, error, rng):
    model, batch = network(nn.BatchNorm1d(6), nn.Dropout(0.5)), batch_of(rng)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    scheduler = optim.lr_scheduler.StepLR(optimizer, 1)
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()
    calls = []

    def loss(output, target):
        calls.append(1)
        if len(calls) >= call:
            raise error("in the middle")
        return nn.functional.cross_entropy(output, target)

    with unchanged(model, optimizer, scheduler=scheduler), pytest.raises(error, match="in the middle"):
        expand(model, optimizer, batch, loss)


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_the_picture_shows_the_loss_both_expansions_and_the_minimizer(rng):
    model, batch = network(), batch_of(rng)
    expansion = expand(model, optim.SGD(model.parameters(), lr=0.1), batch)
    ax = Figure().subplots()
    assert expansion.plot(ax) is ax
    loss, first, second, minimizer = ax.get_lines()
    np.testing.assert_array_equal(loss.get_xydata(), np.column_stack([expansion.learning_rates, expansion.losses]))
    np.testing.assert_array_equal(first.get_ydata(), expansion.loss_at(first.get_xdata(), 1))
    np.testing.assert_array_equal(second.get_ydata(), expansion.loss_at(second.get_xdata(), 2))
    assert minimizer.get_xdata()[0] == expansion.minimizer
    rate = autolr._text.format_rate(expansion.minimizer)
    assert labels(ax) == ["loss", "order 1", "order 2", f"minimizer: {rate}"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("learning rate", "loss")


def test_the_picture_of_three_numbers_goes_to_twice_the_minimizer_where_there_is_one():
    for expansion, right, names in (
        (TaylorExpansion(1.0, -2.0, 4.0), 1.0, ["order 1", "order 2", "minimizer: 0.5"]),
        (TaylorExpansion(1.0, -2.0, -4.0), 2.0, ["order 1", "order 2"]),
        (TaylorExpansion(1.0, 0.0, 0.0), 2.0, ["order 1", "order 2"]),
    ):
        ax = expansion.plot(Figure().subplots())
        assert ax.get_xlim() == (0.0, right)
        assert labels(ax) == names


def test_losses_that_explode_leave_the_picture_of_the_parabola():
    rates = np.linspace(0.0, 1.0, 5)
    expansion = TaylorExpansion(1.0, -2.0, 4.0, rates, [1.0, 0.6, 0.7, 1e6, math.inf])
    ax = expansion.plot(Figure().subplots())
    assert ax.get_ylim()[1] < 2.0
    assert len(ax.get_lines()[0].get_xdata()) == 4


def test_ticks_are_told_apart_where_the_loss_changes_by_a_small_part_of_it():
    figure = Figure(figsize=(3.3, 2.5), layout="constrained")
    ax = TaylorExpansion(1234.5, -2.0, 4.0).plot(figure.subplots())
    figure.canvas.draw()
    ticks = [label.get_text() for label in ax.get_yticklabels()]
    assert len(set(ticks)) == len(ticks)


def test_without_axes_a_new_figure_is_drawn_and_nothing_is_shown(monkeypatch):
    monkeypatch.setattr(plt, "show", pytest.fail)
    ax = TaylorExpansion(1.0, -2.0, 4.0).plot()
    assert ax.figure.number in plt.get_fignums()
    plt.close(ax.figure)


def test_what_is_no_axes_is_refused():
    with pytest.raises(TypeError, match="`ax` must be a matplotlib Axes or None, got 1"):
        TaylorExpansion(1.0, -2.0, 4.0).plot(1)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(mode, rng):
    model, batch = network(), batch_of(rng)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    expected = expand(model, optimizer, batch, learning_rates=[])
    with mode():
        found = expand(model, optimizer, batch, learning_rates=[])
    assert (found.slope, found.curvature) == (expected.slope, expected.curvature)

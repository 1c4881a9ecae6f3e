"""Numbers at the ends of what floats can hold, or without any spread: right, or refused in words."""

import warnings

import numpy as np
import oracles
import pytest
import torch
from harness import unchanged
from torch import nn

import autolr
from autolr import statistics

F64 = torch.float64
ENGINES = ["step", "line", "batched"]


def regression(num=60, lr=0.1, optimizer=torch.optim.SGD, dtype=F64):
    """Return a linear regression: model, optimizer and data."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(num, 3, generator=generator, dtype=F64).to(dtype)
    Y = (X.sum(1, keepdim=True) + 0.1 * torch.randn(num, 1, generator=generator, dtype=F64)).to(dtype)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(3, 1, bias=False, dtype=dtype)
    return model, optimizer(model.parameters(), lr=lr), X, Y


def times(scale, shift=0.0):
    return lambda output, target: scale * nn.functional.mse_loss(output, target) + shift


def constant(output, _):
    return (output * 0.0).sum() + 5.0


def tune(loss, rates, *, engine="auto", lr=0.1, optimizer=torch.optim.SGD, dtype=F64, **options):
    model, own, X, Y = regression(lr=lr, optimizer=optimizer, dtype=dtype)
    tuner = autolr.AutoLRTuner(model, loss, own, rng=0)
    options = {"num_subsamples": 24, "batch_size": 8, **options}
    with unchanged(model, own):
        return tuner.tune(X, Y, learning_rates=rates, engine=engine, **options)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_a_loss_of_another_unit_gives_the_same_answer_in_that_unit(scale, engine):
    rates = np.geomspace(1e-3, 10.0, 9)
    plain, scaled = tune(times(1.0), rates, engine=engine), tune(times(scale), rates / scale, engine=engine)
    np.testing.assert_allclose(scaled.differentials.delta, scale * plain.differentials.delta, rtol=1e-9)
    picks = [result.suggest("mean") for result in (plain, scaled)]
    assert float(picks[1]) == pytest.approx(float(picks[0]) / scale)
    assert picks[1].best_set == pytest.approx(np.array(picks[0].best_set) / scale)
    assert picks[1].regret_bound == pytest.approx(scale * picks[0].regret_bound)
    assert picks[1].low == pytest.approx(picks[0].low / scale)
    assert picks[1].doubt == picks[0].doubt


@pytest.mark.parametrize("engine", ENGINES)
def test_rates_of_eighteen_decades_equal_the_closed_form(engine):
    rates = np.geomspace(1e-12, 1e6, 37)
    model, optimizer, X, Y = regression()
    losses = autolr.loss_by_learning_rate(model, nn.MSELoss(), optimizer, X, Y, rates, engine=engine)
    closed_form = oracles.linear_regression_delta(model.weight.detach()[0], X, Y[:, 0], rates)
    loss = float(nn.functional.mse_loss(model(X), Y).detach())
    np.testing.assert_allclose(losses - loss, closed_form, rtol=1e-9, atol=1e-14 * loss)


@pytest.mark.parametrize("shift", [-100.0, -1.0])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_negative_loss_is_judged_by_its_change(engine, shift):
    rates = np.geomspace(1e-3, 10.0, 9)
    plain, shifted = tune(times(1.0), rates, engine=engine), tune(times(1.0, shift), rates, engine=engine)
    np.testing.assert_allclose(shifted.differentials.delta, plain.differentials.delta, rtol=1e-9, atol=1e-12)
    assert float(shifted.suggest()) == float(plain.suggest())


@pytest.mark.filterwarnings("ignore::autolr.errors.GridEdgeWarning")
@pytest.mark.parametrize("engine", [*ENGINES, "auto"])
def test_a_constant_loss_names_no_rate_with_confidence(engine):
    result = tune(constant, [0.01, 0.1, 1.0], engine=engine)
    assert not result.differentials.delta.any()
    with pytest.warns(autolr.ResolutionWarning):
        suggestion = result.suggest()
    assert suggestion.best_set == (0.01, 0.1, 1.0)
    assert str(suggestion).startswith("I cannot tell")


def test_a_search_on_a_constant_loss_cannot_tell():
    model, optimizer, X, Y = regression()
    with unchanged(model, optimizer):
        suggestion = autolr.find_lr(model, constant, optimizer, (X, Y), total_steps=100, rng=0)
    assert suggestion.doubt is not None
    assert str(suggestion).startswith("I cannot tell")


def search(scale, optimizer):
    model, own, X, Y = regression(lr=0.1, optimizer=optimizer)
    with unchanged(model, own):
        return autolr.find_lr(model, times(scale), own, (X, Y), total_steps=300, rng=0)


@pytest.mark.parametrize(
    ("optimizer", "scale", "factor"),
    [(torch.optim.SGD, 1e-3, 1e3), (torch.optim.SGD, 1e6, 1e-6), (torch.optim.Adam, 1e30, 1.0)],
)
def test_a_search_on_a_loss_of_another_unit_names_the_rate_in_that_unit(optimizer, scale, factor):
    assert float(search(scale, optimizer)) == pytest.approx(factor * float(search(1.0, optimizer)), rel=1e-5)


def test_a_search_says_where_the_rates_that_it_tries_end():
    with pytest.raises(autolr.DivergedError, match="down to 1e-8: check the loss and the scale of the data"):
        search(1e30, torch.optim.SGD)
    for optimizer in (torch.optim.SGD, torch.optim.Adam):
        assert str(search(1e-30, optimizer)).startswith("I cannot tell: at no rate does training lower the loss")
    assert search(1e-6, torch.optim.SGD).doubt == "edge"


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_an_expansion_and_a_range_test_have_the_unit_of_the_loss(scale):
    results = []
    for unit in (1.0, scale):
        model, optimizer, X, Y = regression()
        expansion = autolr.taylor_expansion(model, times(unit), optimizer, X, Y)
        rates = {"start_lr": 1e-4 / unit, "end_lr": 1.0 / unit}
        test = autolr.lr_range_test(model, times(unit), optimizer, (X, Y), num_iter=20, rng=0, **rates)
        results.append((expansion, test))
    (plain, plain_test), (scaled, scaled_test) = results
    assert scaled.minimizer * scale == pytest.approx(plain.minimizer)
    assert scaled.slope / scale**2 == pytest.approx(plain.slope)
    history, expected = (test.history[["loss", "smoothed_loss"]].to_numpy() for test in (scaled_test, plain_test))
    np.testing.assert_allclose(history, scale * expected, rtol=1e-9)
    picks = [test.suggest(skip_start=2, skip_end=2) for test in (scaled_test, plain_test)]
    assert float(picks[0]) * scale == pytest.approx(float(picks[1]))


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_beyond_the_squares_of_floats_it_is_right_or_refused(scale):
    rates = np.geomspace(1e-3, 10.0, 9)
    plain = tune(times(1.0), rates)
    result = tune(times(scale), rates / scale)
    np.testing.assert_allclose(result.differentials.delta, scale * plain.differentials.delta, rtol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert result.get_best_lr() * scale == pytest.approx(plain.get_best_lr())


@pytest.mark.parametrize("form", [np.float16, np.int32, np.uint8])
def test_numbers_of_other_kinds_are_the_same_numbers(form):
    values = np.arange(60).reshape(20, 3) % 5
    targets = values.sum(1, keepdims=True)
    deltas = []
    for kind in (np.float64, form):
        model, optimizer, _, _ = regression()
        X = values.astype(kind if np.issubdtype(kind, np.floating) else np.float64)
        tuner = autolr.AutoLRTuner(model, lambda output, target: (output - target).square().mean(), optimizer, rng=0)
        deltas.append(tuner.tune(X, targets.astype(kind), learning_rates=[1e-3, 0.1], num_subsamples=3).differentials)
    np.testing.assert_array_equal(deltas[1].loss_post, deltas[0].loss_post)


def test_integers_are_refused_where_a_layer_needs_floats():
    model, optimizer, X, Y = regression()
    with (
        unchanged(model, optimizer),
        pytest.raises(TypeError, match="`X` must have a floating-point dtype for the model"),
    ):
        autolr.AutoLRTuner(model, nn.MSELoss(), optimizer).tune(X.int(), Y)


def test_one_observation_is_enough_where_nothing_is_drawn():
    model, optimizer, X, Y = regression(num=1)
    loss = float(nn.functional.mse_loss(model(X), Y).detach())
    rates = np.array([1e-3, 0.1])
    expected = loss * (1.0 - 2.0 * rates * float(X.square().sum())) ** 2
    with unchanged(model, optimizer):
        losses = autolr.loss_by_learning_rate(model, nn.MSELoss(), optimizer, X, Y, rates)
        test = autolr.lr_range_test(
            model, nn.MSELoss(), optimizer, (X, Y), start_lr=1e-3, end_lr=0.1, num_iter=2, smoothing=0.0
        )
        expansion = autolr.taylor_expansion(model, nn.MSELoss(), optimizer, X, Y)
        with pytest.raises(ValueError, match="`X` must have at least 2 observations, got 1"):
            autolr.AutoLRTuner(model, nn.MSELoss(), optimizer).tune(X, Y)
    np.testing.assert_allclose(losses, expected)
    np.testing.assert_allclose(test.history["loss"], [loss, expected[0]])
    assert expansion.minimizer == pytest.approx(0.5 / float(X.square().sum()))


@pytest.mark.filterwarnings("ignore::autolr.errors.GridEdgeWarning")
def test_one_class_has_nothing_to_learn():
    model, optimizer, X, _ = regression()
    tuner = autolr.AutoLRTuner(model, nn.CrossEntropyLoss(), optimizer, rng=0)
    result = tuner.tune(X, torch.zeros(60, dtype=torch.int64), learning_rates=[0.1, 1.0], num_subsamples=3)
    assert not result.differentials.loss_post.any()
    with pytest.warns(autolr.ResolutionWarning):
        assert str(result.suggest()).startswith("I cannot tell")


@pytest.mark.parametrize("engine", [*ENGINES, "auto"])
def test_one_rate_and_two_subsamples_give_students_interval_of_two_numbers(engine):
    result = tune(times(1.0), [0.1], num_subsamples=2, engine=engine)
    first, second = result.differentials.delta[:, 0]
    table = result.summary(interval="t", confidence_level=0.9).iloc[0]
    half = 6.313751514675043 * abs(first - second) / 2.0  # Student's t of one degree of freedom
    assert table["mean"] == pytest.approx((first + second) / 2.0)
    assert (table["low"], table["high"]) == pytest.approx((table["mean"] - half, table["mean"] + half))
    suggestion = result.suggest()
    assert (float(suggestion), suggestion.best_set) == (0.1, (0.1,))
    assert str(result)


@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e150, 1e-150])
@pytest.mark.parametrize(
    "interval", ["t_interval", "bootstrap_t_interval", "percentile_interval", "bca_interval", "median_interval"]
)
def test_intervals_have_the_unit_of_the_loss(interval, scale, rng):
    delta = rng.normal(size=(12, 3))
    options = {} if interval in ("t_interval", "median_interval") else {"rng": 0}
    plain = getattr(statistics, interval)(delta, **options)
    np.testing.assert_allclose(getattr(statistics, interval)(scale * delta, **options), scale * np.array(plain))


def test_losses_beyond_float32_diverge_there_and_not_before():
    rates = np.array([1e-3, 1e-1, 1e18, 1e30])
    result = tune(times(1.0), rates, dtype=torch.float32, num_subsamples=3)
    with np.errstate(over="ignore"):
        squares = rates.astype(np.float64) ** 2
    assert np.isfinite(result.differentials.loss_post[:, :2]).all()
    assert np.isinf(result.differentials.loss_post[:, squares > np.finfo(np.float32).max]).all()

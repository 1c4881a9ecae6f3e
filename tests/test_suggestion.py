"""Suggestion: its fields are what the statistics say, its warnings fire where they matter, apply does what it says."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from autolr import (
    DivergedError,
    DivergenceWarning,
    GridEdgeWarning,
    LossDifferentials,
    NoCandidateError,
    ResolutionWarning,
    TuningResult,
    log_grid,
)
from autolr.statistics import argmin_interval, best_set, regret_bound

RATES = log_grid(1e-3, 1.0, 31)


def result_of(delta, *, rates=RATES, **settings):
    pre = np.full(len(delta), 3.0)
    return TuningResult(LossDifferentials(rates, pre, pre[:, np.newaxis] + delta), settings)


@pytest.fixture
def delta(rng):
    curve = -8.0 * RATES + 40.0 * RATES**2
    return curve + rng.normal(size=(60, 1)) * 2.0 * RATES + rng.normal(size=(60, RATES.size)) * 0.005


def test_every_field_is_what_the_statistics_say(delta):
    suggestion = result_of(delta).suggest(confidence_level=0.9)
    pick = int(delta.mean(0).argmin())
    assert float(suggestion) == suggestion.learning_rate == RATES[pick]
    assert suggestion.score == pytest.approx(delta.mean(0).min())
    assert (suggestion.low, suggestion.high) == argmin_interval(RATES, delta, confidence_level=0.9, rng=0)
    assert suggestion.best_set == tuple(RATES[best_set(delta, confidence_level=0.9, method="mvt", rng=0)])
    assert suggestion.regret_bound == regret_bound(delta, pick, confidence_level=0.9, method="mvt", rng=0)
    assert suggestion.max_stable_lr == RATES[RATES < 0.19].max()
    assert (suggestion.method, suggestion.horizon, suggestion.confidence_level) == ("mean", 1, 0.9)
    assert (suggestion.at_grid_edge, suggestion.doubt, suggestion.below_resolution) == (None, None, False)
    assert suggestion.caveats == ()


def test_a_suggestion_cannot_be_changed(delta):
    with pytest.raises(AttributeError):
        result_of(delta).suggest().learning_rate = 1.0


def test_a_clear_pick_warns_of_nothing(delta):
    delta[:, -3:] = np.inf  # the grid's end diverges quietly
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert result_of(delta).get_best_lr() == RATES[delta.mean(0).argmin()]


@pytest.mark.parametrize(("columns", "side"), [(slice(None, 20), "largest"), (slice(22, None), "smallest")])
def test_a_pick_at_the_edge_of_the_grid_warns(delta, columns, side):
    result = result_of(delta[:, columns], rates=RATES[columns])
    with pytest.warns(GridEdgeWarning, match=f"is the {side} rate of the grid: the best one may lie outside"):
        suggestion = result.suggest()
    assert suggestion.at_grid_edge == {"largest": "high", "smallest": "low"}[side]


def test_the_only_rate_of_a_grid_is_no_edge():
    assert result_of(np.full((30, 1), -1.0), rates=[0.1]).suggest().at_grid_edge is None


def test_a_median_pick_that_diverged_warns_and_says_how_often(delta):
    delta[:7, 15:] = np.inf
    pick = int(np.median(delta, 0).argmin())
    assert pick >= 15
    with pytest.warns(DivergenceWarning, match="At the pick .*, 7 of 60 probes diverged"):
        suggestion = result_of(delta).suggest("median")
    assert suggestion.learning_rate == RATES[pick]
    assert "At the pick, 7 of 60 probes diverged: up to 21% may." in suggestion.caveats
    assert suggestion.regret_bound == np.inf


def test_a_pick_below_the_resolution_of_the_loss_warns(delta):
    with pytest.warns(ResolutionWarning, match="At the pick .*, the loss differentials are below the resolution"):
        result_of(delta * 1e-7, resolution=2.0**-23).suggest()


def test_warnings_point_to_the_callers_line(delta):
    result = result_of(delta[:, :20], rates=RATES[:20])
    for ask in (result.suggest, result.get_best_lr):
        with pytest.warns(GridEdgeWarning) as record:
            ask()
        assert record[0].filename == __file__


def test_looking_warns_of_nothing(delta):
    result = result_of(delta[:, :20], rates=RATES[:20])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "I cannot tell" in str(result)
        result.plot()


def test_where_every_rate_diverged_there_is_no_suggestion():
    with pytest.raises(DivergedError, match="No learning rate qualifies for method='mean': each one diverged in"):
        result_of(np.full((5, 3), np.inf), rates=[0.1, 0.2, 0.3]).suggest()


def test_where_no_rate_qualifies_there_is_no_suggestion(rng):
    result = result_of(rng.normal(size=(20, 3)) + 1.0, rates=[0.1, 0.2, 0.3])
    for method in ("variance", "max"):
        with pytest.raises(NoCandidateError, match=f"No learning rate qualifies for method='{method}'"):
            result.suggest(method)


@pytest.mark.parametrize(
    ("method", "options", "error", "text"),
    [
        ("best", {}, ValueError, "`method` must be one of 'mean', 'median', .*, got 'best'"),
        ("mean", {"penalty": 1.0}, TypeError, "`penalty` must be left out of method='mean'"),
        ("variance_penalized", {"penalty": -1.0}, ValueError, "`penalty` must be finite and at least 0, got -1.0"),
        ("mean", {"confidence_level": 95}, ValueError, "`confidence_level` must be finite and above 0 and below 1"),
    ],
)
def test_bad_arguments(delta, method, options, error, text):
    with pytest.raises(error, match=text):
        result_of(delta).suggest(method, **options)


@pytest.fixture
def optimizer():
    weight, bias = nn.Linear(2, 1).parameters()
    groups = [{"params": [weight]}, {"params": [bias], "lr": 0.4}]
    return torch.optim.SGD(groups, lr=0.1)


def test_apply_keeps_the_ratios_of_the_groups(delta, optimizer):
    suggestion = result_of(delta).suggest()
    suggestion.apply(optimizer)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == [suggestion.learning_rate, pytest.approx(4 * suggestion.learning_rate)]
    assert all(type(rate) is float for rate in rates)
    assert "initial_lr" not in optimizer.param_groups[0]


def test_apply_sets_the_initial_rate_where_there_is_one_and_goes_by_it_in_a_warm_up(delta, optimizer):
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]
    suggestion = result_of(delta).suggest()
    suggestion.apply(optimizer)
    expected = [suggestion.learning_rate, pytest.approx(4 * suggestion.learning_rate)]
    for key in ("lr", "initial_lr"):
        assert [group[key] for group in optimizer.param_groups] == expected


def test_apply_fills_a_rate_that_is_a_tensor(delta):
    rate = torch.tensor(0.1)
    optimizer = torch.optim.Adam(nn.Linear(1, 1).parameters(), lr=rate)
    suggestion = result_of(delta).suggest()
    suggestion.apply(optimizer)
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == pytest.approx(suggestion.learning_rate)


def test_apply_with_a_scheduler_goes_on_as_if_started_with_the_rate(delta, optimizer):
    suggestion = result_of(delta).suggest()
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    scheduler.step()
    suggestion.apply(optimizer, scheduler)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
        [0.5 * suggestion.learning_rate, 2.0 * suggestion.learning_rate]
    )
    assert scheduler.base_lrs == pytest.approx([suggestion.learning_rate, 4.0 * suggestion.learning_rate])


def test_apply_refuses_the_scheduler_of_another_optimizer(delta, optimizer):
    other = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(other, 3)
    with pytest.raises(ValueError, match="`scheduler` must be attached to `optimizer`, got <torch"):
        result_of(delta).suggest().apply(optimizer, scheduler)
    assert other.param_groups[0]["lr"] == 0.5
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_apply_takes_a_scheduler_that_is_attached_to_a_wrapper_of_the_optimizer(delta, optimizer):
    class Wrapper(torch.optim.Optimizer):
        param_groups = property(lambda self: self.inner.param_groups)

        def __init__(self, inner):
            self.inner, self.defaults = inner, inner.defaults

    suggestion = result_of(delta).suggest()
    scheduler = torch.optim.lr_scheduler.LambdaLR(Wrapper(optimizer), lambda step: float(step > 0))
    suggestion.apply(optimizer, scheduler)
    assert optimizer.param_groups[0]["lr"] == 0.0  # still in its warm-up
    assert optimizer.param_groups[0]["initial_lr"] == pytest.approx(suggestion.learning_rate)


def test_apply_with_a_cyclic_scheduler_makes_the_pick_its_peak(delta, optimizer):
    suggestion = result_of(delta).suggest()
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=[0.01, 0.04], total_steps=10)
    suggestion.apply(optimizer, scheduler)
    rates = []
    for _ in range(9):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert max(rates) == pytest.approx(suggestion.learning_rate)


def test_a_suggestion_can_be_pickled_and_copied(delta):
    suggestion = result_of(delta, seconds=1.5, num_evaluations=3.0).suggest()
    for twin in (pickle.loads(pickle.dumps(suggestion)), copy.deepcopy(suggestion)):
        assert str(twin) == str(suggestion)
        assert twin.evidence.settings == suggestion.evidence.settings


def test_apply_refuses_what_is_no_optimizer(delta):
    with pytest.raises(TypeError, match=r"`optimizer` must be a torch.optim.Optimizer, got Linear"):
        result_of(delta).suggest().apply(nn.Linear(1, 1))


def test_a_suggestion_plots_its_own_pick(delta):
    suggestion = result_of(delta).suggest("one_se")
    labels = [line.get_label() for line in suggestion.plot().lines]
    assert "pick" in labels

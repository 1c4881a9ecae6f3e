"""RangeTest: numbers in, a curve, suggestions with their spread, and words out."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

from autolr import DivergedError, NoCandidateError, RangeTest, lr_range_test
from autolr._text import format_rate
from autolr.range_rules import RULES, steepest

SETTINGS = {
    "start_lr": 1e-6,
    "end_lr": 1.0,
    "num_iter": 61,
    "schedule": "exponential",
    "losses": "training",
    "num_evaluations": 61.0,
    "seconds": 1.0,
}
RATES = 10.0 ** np.linspace(-6.0, 0.0, 61)


def fall(center, *, noise=0.0, rng=None):
    """Return a curve that falls from 1 to 0, most steeply at 10**center, and rises at the end."""
    curve = 1.0 / (1.0 + np.exp(3.0 * (np.log10(RATES) - center))) + np.exp(12.0 * np.log10(RATES))
    return curve if rng is None else curve + noise * rng.normal(size=curve.size)


def result_of(*curves, diverged_at=None, **settings):
    rows = [
        (repeat, rate, loss, loss)
        for repeat, curve in enumerate(curves)
        for rate, loss in zip(RATES, curve, strict=False)
    ]
    runs = pd.DataFrame(rows, columns=["repeat", "learning_rate", "loss", "smoothed_loss"])
    return RangeTest(runs, {**SETTINGS, "diverged_at": diverged_at or [None] * len(curves), **settings})


def test_the_history_of_one_run_is_the_run_with_its_slopes():
    history = result_of(fall(-3.0)).history
    assert list(history.columns) == ["learning_rate", "loss", "smoothed_loss", "delta"]
    assert history["learning_rate"].to_numpy() == pytest.approx(RATES)
    assert history["smoothed_loss"].to_numpy() == pytest.approx(fall(-3.0))
    assert history["delta"].to_numpy() == pytest.approx(np.gradient(fall(-3.0), 0.1))  # ten rows a decade


def test_the_history_of_repeats_is_their_mean_with_a_t_interval_as_far_as_all_reach(rng):
    curves = [fall(-3.0, noise=0.1, rng=rng) for _ in range(4)]
    history = result_of(*curves[:3], curves[3][:50]).history
    stacked = np.stack([curve[:50] for curve in curves])
    interval = stats.t.interval(0.95, 3, stacked.mean(axis=0), stats.sem(stacked, axis=0))
    assert len(history) == 50
    assert history["smoothed_loss"].to_numpy() == pytest.approx(stacked.mean(axis=0))
    assert history["low"].to_numpy() == pytest.approx(interval[0])
    assert history["high"].to_numpy() == pytest.approx(interval[1])


def test_a_loss_that_is_not_finite_stays_in_the_curve_and_out_of_the_slopes():
    history = result_of([3.0, 2.0, np.inf], [3.0, 2.0, 5.0]).history
    assert history["smoothed_loss"].tolist() == [3.0, 2.0, np.inf]
    assert history["delta"].tolist() == pytest.approx([-10.0, -10.0, np.inf])
    assert history["low"].tolist()[-1] == -np.inf
    assert np.isnan(result_of([3.0, np.inf]).history["delta"].iloc[0])


def test_a_suggestion_is_that_of_the_mean_curve_with_the_spread_of_the_repeats():
    centers = -3.0, -2.5, -2.0
    result = result_of(*map(fall, centers))
    suggestion = result.suggest()
    assert result.suggestions() == pytest.approx(10.0 ** np.array(centers))
    assert (suggestion.low, suggestion.high) == (pytest.approx(1e-3), pytest.approx(1e-2))
    mean = np.mean([fall(center) for center in centers], axis=0)
    assert suggestion.learning_rate == steepest(RATES, mean).learning_rate
    assert len(suggestion.best_set) == 11
    assert suggestion.confidence_level == 0.5  # (3 - 1) / (3 + 1)
    assert np.isnan(suggestion.regret_bound)
    assert (suggestion.method, suggestion.doubt, suggestion.at_grid_edge) == ("steepest", None, None)
    assert suggestion.evidence is result


def test_a_further_run_lies_between_those_before_as_often_as_it_is_said(rng):
    # R exchangeable numbers and one more: it is the smallest or the largest of them with probability 2 / (R + 1)
    picks = rng.normal(size=(20_000, 6))
    inside = (picks[:, 5] >= picks[:, :5].min(axis=1)) & (picks[:, 5] <= picks[:, :5].max(axis=1))
    level = result_of(*[fall(-3.0)] * 5).suggest().confidence_level
    interval = stats.binomtest(int(inside.sum()), len(picks)).proportion_ci(0.999_999)
    assert interval.low < level < interval.high


def test_one_run_has_no_spread_and_says_so():
    suggestion = result_of(fall(-3.0)).suggest()
    assert np.isnan([suggestion.low, suggestion.high]).all()
    assert suggestion.best_set == ()
    assert suggestion.confidence_level == 0.0
    assert "One run does not tell how sure that is" in str(suggestion)


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_reads_the_rows_that_are_kept(rule):
    curve = fall(-3.0)
    suggestion = result_of(curve).suggest(rule, skip_start=12, skip_end=1)
    assert float(suggestion) == RULES[rule](RATES[12:-1], curve[12:-1]).learning_rate
    assert suggestion.method == rule
    assert str(suggestion).startswith(f"Learning rate {format_rate(float(suggestion))}: ")


def test_rows_are_skipped_at_both_ends():
    curve = np.linspace(2.0, 1.0, 61)
    curve[3:] -= 5.0  # a step at the beginning
    curve[58:] -= 5.0  # and one at the end
    assert float(result_of(curve).suggest(skip_start=0, skip_end=5)) in RATES[2:4]  # the rows of the step
    assert float(result_of(curve).suggest(skip_start=10, skip_end=0)) in RATES[57:59]
    steady = result_of(curve).suggest(skip_start=4, skip_end=4)
    assert steady.score == pytest.approx(-10.0 / 60.0)


def test_the_largest_stable_rate_is_the_one_before_the_first_divergence():
    assert result_of(fall(-3.0)).suggest().max_stable_lr == 1.0
    result = result_of(fall(-3.0), fall(-3.0)[:56], diverged_at=[None, RATES[55]])
    assert result.suggest().max_stable_lr == pytest.approx(RATES[54])
    assert "1 of 2 runs diverged at 0.32." in str(result)


def test_a_curve_that_never_falls_is_flat():
    suggestion = result_of(np.linspace(1.0, 2.0, 61)).suggest()
    assert suggestion.doubt == "flat"
    assert str(suggestion).startswith("I cannot tell: the smoothed loss never falls below where it begins")


@pytest.mark.parametrize("end", [3.0, 1.2])
def test_a_fall_that_only_makes_up_for_a_rise_is_a_doubt(end):
    # down from 2 to 1, up to 5, and steeply down to 3 or to 1.2, never to 1 again
    curve = np.interp(np.arange(61), [0, 30, 40, 44, 60], [2.0, 1.0, 5.0, end, end + 1.0])
    for result in (result_of(curve), result_of(curve, curve)):
        suggestion = result.suggest()
        assert RATES[40] < suggestion.learning_rate < RATES[44]
        assert suggestion.doubt == "late"
        assert "where it only makes up for a rise before.\n" in str(suggestion)
        assert result.suggest(skip_end=31).doubt is None


def test_repeats_that_are_far_apart_are_a_doubt():
    suggestion = result_of(fall(-4.4), fall(-1.2)).suggest()
    assert suggestion.doubt == "wide"
    assert "I cannot tell" in str(suggestion)
    assert "the runs by themselves suggest rates that are far apart." in str(suggestion)


@pytest.mark.parametrize(("row", "side", "words"), [(10, "low", "first"), (55, "high", "last")])
def test_a_pick_at_an_end_is_a_doubt(row, side, words):
    curve = 1.0 + 0.001 * np.arange(61)[::-1]
    curve[row - 1 :] -= 0.1
    curve[row:] -= 2.0
    suggestion = result_of(curve).suggest()
    assert suggestion.at_grid_edge == side
    assert suggestion.doubt == "edge"
    assert f"by the {words} row that is kept" in str(suggestion)


def test_a_pick_of_the_mean_curve_outside_of_the_repeats_has_a_caveat():
    result = result_of(fall(-3.0), fall(-2.9))
    assert result.suggest().caveats == ()
    steep = np.where(np.arange(61) < 30, 1.0, 0.0) + 0.001 * np.arange(61)[::-1]
    other = np.where(np.arange(61) < 40, 1.0, 0.0) + 0.001 * np.arange(61)[::-1]
    shared = np.where(np.arange(61) < 20, 0.9, 0.0)
    result = result_of(steep + shared, other + shared)
    assert any("lies outside of what the runs suggest by themselves" in caveat for caveat in result.suggest().caveats)


def test_repeats_without_a_suggestion_are_nan_and_counted():
    result = result_of(fall(-3.0), fall(-3.0), np.linspace(1.0, 2.0, 61))
    assert np.isnan(result.suggestions("valley")).tolist() == [False, False, True]
    suggestion = result.suggest("valley")
    assert "1 of 3 runs give no suggestion by themselves." in suggestion.caveats
    assert suggestion.confidence_level == pytest.approx(1 / 3)


def test_too_few_rows_are_refused():
    with pytest.raises(NoCandidateError, match="At least 2 rows must be left to suggest a rate, got 1: of 16 rows"):
        result_of(fall(-3.0)[:16]).suggest()
    with pytest.raises(NoCandidateError, match=r"got 0: of 8 rows, the first 10 .* and the last 5 .* are skipped"):
        result_of(fall(-3.0)[:8]).suggest()
    assert "I cannot tell: At least 2 rows must be left" in str(result_of(fall(-3.0)[:8]))
    with pytest.raises(NoCandidateError, match="Skip fewer, or have more by a larger `num_iter` or a lower `start_lr`"):
        result_of(fall(-3.0)[:8]).suggest()
    assert np.isnan(result_of(fall(-3.0)[:8]).suggestions()).all()


def test_a_run_that_diverges_at_once_is_an_error_of_its_own():
    with pytest.raises(DivergedError, match="diverged with the first step, at 1e-6: lower `start_lr`"):
        result_of([1.0, np.inf], diverged_at=[RATES[1]]).suggest()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rule": "best"}, ValueError, "`rule` must be one of 'steepest', 'valley', 'slide', 'minimum', got 'best'"),
        ({"skip_start": -1}, ValueError, "`skip_start` must be at least 0"),
        ({"skip_end": 1.5}, TypeError, "`skip_end` must be an integer"),
    ],
)
def test_a_wrong_option_is_refused(options, error, message):
    for call in (result_of(fall(-3.0)).suggest, result_of(fall(-3.0)).suggestions):
        with pytest.raises(error, match=message):
            call(**options)


def test_only_frames_and_mappings_are_taken():
    with pytest.raises(TypeError, match="`runs` must be a frame with the columns repeat, learning_rate"):
        RangeTest([1, 2], {})
    with pytest.raises(TypeError, match="`settings` must be a mapping"):
        RangeTest(result_of(fall(-3.0)).runs, 3)


def test_a_suggestion_is_applied_scheduled_drawn_and_told():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    suggestion = result_of(fall(-3.0), fall(-2.9)).suggest()
    suggestion.apply(optimizer)
    assert optimizer.param_groups[0]["lr"] == float(suggestion)
    suggestion.scheduler(optimizer, "cosine", total_steps=10)
    upper, lower = suggestion.plot()
    assert upper.figure is lower.figure
    assert str(suggestion) == str(suggestion.evidence)


def test_the_verdict_has_five_short_lines():
    result = result_of(fall(-3.0), fall(-2.9), fall(-2.8))
    lines = str(result).splitlines()
    assert lines == [
        "Learning rate 1.3e-3: the steepest fall of the smoothed loss.",
        "By themselves, the 3 runs suggest 1e-3 to 1.6e-3; a further one would too with a probability of 50%.",
        "No run diverged up to 1.",
        "Measured in 3 runs of 61 iterations from 1e-6 on: 61 gradient evaluations in 1.0 s.",
        "Next: search for the rate of a whole run with autolr.find_lr; a range test does not tell it.",
    ]
    assert result._repr_html_() == f"<p>{'<br>'.join(lines)}</p>".replace("1.3e-3", "<strong>1.3e-3</strong>")
    assert repr(result) == "<RangeTest: 3 runs, 61 learning rates>"
    assert repr(result_of(fall(-3.0))) == "<RangeTest: 1 run, 61 learning rates>"


def test_a_result_is_frozen_and_pickled():
    result = result_of(fall(-3.0))
    again = pickle.loads(pickle.dumps(result))
    assert again.history.equals(result.history)
    assert dict(again.settings) == dict(result.settings)
    with pytest.raises(TypeError):
        result.settings["seconds"] = 0.0
    assert result.num_evaluations == 61.0


def test_a_real_run_falls_before_it_diverges(rng):
    X = torch.from_numpy(rng.normal(size=(400, 5)))
    Y = X.sum(1, keepdim=True)
    model = nn.Linear(5, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    result = lr_range_test(model, nn.MSELoss(), optimizer, (X, Y), num_repeats=3, rng=0, start_lr=1e-4)
    suggestion = result.suggest()
    # of a quadratic with curvatures about 2, steps above 1 diverge, and those below 0.01 take hundreds to the bottom
    assert 0.003 < float(suggestion) < 1.0
    assert all(rate is not None and rate > 0.7 for rate in result.settings["diverged_at"])

"""Adaptive tuning: the same losses, fewer of them, and nothing said that a look did not pay for."""

import json
import re

import numpy as np
import pytest
import torch
from harness import unchanged
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from autolr import AutoLRTuner, TuningResult, log_grid
from autolr.statistics import best_set, bootstrap_t_interval, regret_bound
from autolr.statistics.best_set import default_method
from autolr.statistics.sequential import look_level

RATES = log_grid(1e-3, 3.0, 24)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 1))


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(2000, 3, generator=generator)
    return X, X @ torch.tensor([[1.0], [-2.0], [3.0]]) + 0.1 * torch.randn(2000, 1, generator=generator)


def tuned(model, data, *, optimizer=torch.optim.SGD, rng=0, **options):
    optimizer = optimizer(model.parameters(), lr=0.1)
    tuner = AutoLRTuner(model, nn.MSELoss(), optimizer, rng=rng)
    data = data if isinstance(data, tuple) else (data,)
    given = {"learning_rates": RATES, "num_subsamples": 100, "adaptive": True, **options}
    with unchanged(model, optimizer, extra=data[0]):
        tuner.tune(*data, **given)
    return tuner


@pytest.mark.parametrize("engine", ["auto", "line", "step"])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_what_is_probed_is_what_the_fixed_design_probes(model, data, optimizer, engine):
    options = {"optimizer": optimizer, "regret_tolerance": 0.0, "engine": engine}
    adaptive = tuned(model, data, **options).result
    fixed = tuned(model, data, adaptive=False, **options).result
    num_rows = adaptive.differentials.num_subsamples
    probed = ~np.isnan(adaptive.differentials.delta)
    losses = (one.differentials.loss_post[:num_rows, :, 0][probed] for one in (adaptive, fixed))
    np.testing.assert_allclose(*losses, rtol=2e-6)
    assert probed[:20].all()
    assert not probed[20:].all()
    # a rate that is out stays out
    assert (np.diff(probed.astype(int), axis=0) <= 0).all()


def test_the_same_seed_and_engine_give_the_same_bits(model, data):
    first, again = (tuned(model, data, engine="line").result.differentials.loss_post for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_of_many_rates_few_are_probed_and_the_pick_is_that_of_all(model, data, optimizer):
    options = {"optimizer": optimizer, "learning_rates": log_grid(1e-3, 3.0, 90), "engine": "line"}
    adaptive = tuned(model, data, **options).result
    fixed = tuned(model, data, adaptive=False, **options).result
    assert adaptive.get_best_lr() == pytest.approx(fixed.get_best_lr(), rel=0.1)
    assert adaptive.settings["num_evaluations"] < 0.25 * fixed.settings["num_evaluations"]
    probed = ~np.isnan(adaptive.differentials.delta)
    assert probed[:3].all()
    assert probed.any(axis=0).all()
    losses = (one.differentials.loss_post[: len(probed), :, 0][probed] for one in (adaptive, fixed))
    np.testing.assert_allclose(*losses, rtol=2e-6)
    picked = adaptive.differentials.learning_rates == adaptive.get_best_lr()
    beside = np.convolve(picked, np.ones(3), "same") > 0
    assert probed[:, beside].all()


def test_the_settings_tell_the_looks_the_levels_and_what_was_saved(model, data):
    result = tuned(model, data, regret_tolerance=0.0).result
    settings, probed = result.settings, ~np.isnan(result.differentials.loss_post[:, :, 0])
    assert settings["num_looks"] == 5
    assert [look["num_subsamples"] for look in settings["looks"]] == [20, 30, 45, 67, 100][: len(settings["looks"])]
    assert {look["confidence_level"] for look in settings["looks"]} == {look_level(0.95, 1, 5)}
    assert [look["num_rates"] for look in settings["looks"]] == [
        probed[look["num_subsamples"] - 1].sum() for look in settings["looks"]
    ]
    assert settings["num_probes"] == probed.sum()
    assert settings["num_probes_fixed"] == 100 * RATES.size
    assert settings["num_probes"] < 0.6 * settings["num_probes_fixed"]
    assert settings["num_evaluations"] < 0.7 * tuned(model, data, adaptive=False).result.settings["num_evaluations"]
    json.dumps(dict(settings), allow_nan=False)


def test_the_suggestion_is_what_the_last_look_saw(model, data):
    result = tuned(model, data).result
    suggestion, last = result.suggest(), result.settings["looks"][-1]
    assert len(suggestion.best_set) == last["num_best"]
    assert suggestion.regret_bound == last["regret_bound"]
    assert -suggestion.score == last["gain"]
    assert suggestion.confidence_level == 0.95
    delta = result.differentials.delta
    whole = ~np.isnan(delta).any(axis=0)
    options = {"confidence_level": look_level(0.95, 1, 5), "method": default_method(len(delta)), "rng": 0}
    assert suggestion.best_set == tuple(RATES[whole][best_set(delta[:, whole], **options)])
    pick = int(np.flatnonzero(RATES[whole] == suggestion.learning_rate)[0])
    assert suggestion.regret_bound == regret_bound(delta[:, whole], pick, **options)


def test_the_table_is_at_the_corrected_level(model, data):
    result = tuned(model, data).result
    table, delta = result.summary(), result.differentials.delta
    k = int(np.flatnonzero(~np.isnan(delta).any(axis=0))[0])
    low, high = bootstrap_t_interval(delta[:, [k]], confidence_level=look_level(0.95, 1, 5), rng=0)
    np.testing.assert_allclose([table["low"].iloc[k], table["high"].iloc[k]], [low[0], high[0]], rtol=1e-12)
    own = table["num_subsamples"].to_numpy()
    np.testing.assert_array_equal(own, (~np.isnan(delta)).sum(axis=0))
    assert not table["in_best_set"].to_numpy()[own < len(delta)].any()
    assert np.isfinite(table.loc[own < len(delta), ["mean", "low", "high"]].to_numpy()).all()
    wider = result.summary()["high"] - result.summary()["low"]
    narrower = TuningResult(result.differentials).summary()
    assert (wider > narrower["high"] - narrower["low"]).all()


def test_a_level_above_the_one_of_the_decision_is_refused_and_its_own_is_the_default(model, data):
    result = tuned(model, data, confidence_level=0.9).result
    assert result.suggest().confidence_level == 0.9
    assert "(90%)" in str(result)
    assert result.summary().equals(result.summary(confidence_level=0.9))
    result.plot(confidence_level=0.8)
    for call in (result.suggest, result.summary, result.plot):
        with pytest.raises(
            ValueError, match=re.escape("`confidence_level` must be at most that of the adaptive tuning, 0.9, got 0.95")
        ):
            call(confidence_level=0.95)


def test_the_default_level_of_a_fixed_tuning_is_that_of_the_call(model, data):
    result = tuned(model, data, adaptive=False, confidence_level=0.8, num_subsamples=30).result
    assert result.suggest().confidence_level == 0.8
    assert result.summary().equals(result.summary(confidence_level=0.8))
    result.summary(confidence_level=0.99)


def test_it_stops_when_the_pick_is_good_enough(model, data):
    result = tuned(model, data, regret_tolerance=0.5).result
    assert result.settings["stop"] in ("regret", "set")
    assert result.differentials.num_subsamples == 20
    last = result.settings["looks"][-1]
    assert last["regret_bound"] <= 0.5 * last["gain"]
    assert not any("ended" in caveat for caveat in result.suggest().caveats)
    assert "Measured on 20 of at most 100 subsamples" in str(result)
    assert result.settings["num_probes"] == 0.2 * result.settings["num_probes_fixed"]


def test_the_looks_of_a_long_race_cost_a_small_share_of_its_probes(model, data):
    result = tuned(model, data, num_subsamples=400, regret_tolerance=0.02).result
    assert result.settings["num_probes"] < 0.35 * result.settings["num_probes_fixed"]


@pytest.mark.parametrize("kind", ["loader", "batches", "partition", "few", "dataset"])
def test_every_kind_of_data_can_race(model, data, kind):
    X, Y = data
    given = {
        "loader": DataLoader(TensorDataset(X, Y), batch_size=25, shuffle=True, generator=torch.Generator()),
        "batches": [(X[i : i + 20], Y[i : i + 20]) for i in range(0, 2000, 20)],
        "dataset": TensorDataset(X, Y),
    }.get(kind, data)
    options = {"partition": {"sampling": "partition", "batch_size": 25}, "few": {"num_subsamples": 12}}.get(kind, {})
    result = tuned(model, given, regret_tolerance=0.0, **options).result
    most = {"loader": 40, "batches": 50, "partition": 40, "few": 12, "dataset": 100}[kind]
    num_rows = result.differentials.num_subsamples
    assert num_rows <= most
    if result.settings["stop"] == "ended":
        assert f"The data ended after {num_rows} of 100 subsamples." in result.suggest().caveats
        assert result.settings["looks"][-1]["num_subsamples"] == num_rows
    assert result.get_best_lr() in RATES


def test_data_that_ends_at_once_is_the_same_error_as_without_looks(model, data):
    with pytest.raises(ValueError, match="`X` must yield at least 2 rows of subsamples"):
        tuned(model, [data], num_subsamples=30)


def test_the_clock_ends_a_race_between_looks_and_the_rows_are_all_used(model, data):
    tuner = tuned(model, data, num_subsamples=100_000, regret_tolerance=0.0, time_budget=0.3)
    result = tuner.result
    num_rows = result.differentials.num_subsamples
    assert result.settings["out_of_time"] or result.settings["stop"] == "set"
    assert result.settings["looks"][-1]["num_subsamples"] == num_rows
    if result.settings["out_of_time"]:
        assert f"The time budget ended after {num_rows} of 100000 subsamples." in result.suggest().caveats


def test_a_budget_that_is_over_at_once_leaves_two_rows(model, data):
    result = tuned(model, data, time_budget=1e-9).result
    assert result.differentials.num_subsamples == 2
    assert [look["num_subsamples"] for look in result.settings["looks"]] == [2]
    assert result.settings["stop"] in ("ended", "set", "regret")


def test_rates_that_all_diverge_end_the_race(model, data):
    X, Y = data
    result = tuned(model, (1e15 * X, 1e15 * Y), learning_rates=log_grid(1e20, 1e25, 4)).result
    assert result.settings["stop"] == "diverged"
    assert result.differentials.num_subsamples == 20
    assert str(result).startswith("I cannot tell: every rate of the grid diverged")


def test_an_optimizer_without_a_line_races_with_real_steps(model, data):
    result = tuned(
        model, data, optimizer=torch.optim.LBFGS, num_subsamples=24, learning_rates=log_grid(1e-3, 1.0, 5)
    ).result
    assert result.settings["engine"] == "step"
    assert "the line engine stepped aside: LBFGS" in result.settings["engine_reason"]


def test_a_result_of_looks_survives_its_file(model, data, tmp_path):
    result = tuned(model, data).result
    result.save(tmp_path / "lr.json")
    loaded = TuningResult.load(tmp_path / "lr.json")
    assert str(loaded) == str(result)
    assert loaded.summary().equals(result.summary())


def test_planned_looks_cannot_be_extended(model, data):
    tuner = tuned(model, data)
    with pytest.raises(ValueError, match="`num_subsamples` must extend a tuning with adaptive=False, got 10"):
        tuner.extend(10)
    fixed = tuned(model, data, adaptive=False, num_subsamples=20).result
    for first, then in ((tuner.result, fixed), (fixed, tuner.result)):
        with pytest.raises(ValueError, match="`other` must extend and be a result of adaptive=False"):
            first.extend(then)


def test_a_look_before_more_rows_has_its_price(model, data):
    tuner = tuned(model, data, adaptive=False, num_subsamples=40, engine="line")
    extended = tuner.extend(20)
    longer = tuned(model, data, adaptive=False, num_subsamples=60, engine="line").result
    np.testing.assert_array_equal(extended.differentials.delta, longer.differentials.delta)
    assert extended.get_best_lr() == longer.get_best_lr()
    paid = longer.summary(confidence_level=look_level(0.95, 2), num_resamples=20_000, rng=1)
    ends, expected = (table[["low", "high"]].to_numpy() for table in (extended.summary(), paid))
    widths = (ends[:, 1] - ends[:, 0]) / (expected[:, 1] - expected[:, 0])
    assert ((widths > 0.8) & (widths < 1.25)).all()  # Monte Carlo error of the tail only
    assert (ends[:, 1] - ends[:, 0] > np.diff(longer.summary()[["low", "high"]].to_numpy())[:, 0]).all()
    assert (
        "Rows were added once after a look at the result: all intervals are wider for it." in extended.suggest().caveats
    )
    assert extended.suggest().confidence_level == 0.95
    again = tuner.extend(20)
    assert "Rows were added 2 times" in str(again)


def test_a_method_of_its_own_chooses_among_what_is_left(model, data):
    suggestion = tuned(model, data, regret_tolerance=0.0).suggest("max")
    assert any("Rates that were out by their mean were no longer probed" in caveat for caveat in suggestion.caveats)
    assert not any("no longer probed" in caveat for caveat in suggestion.evidence.suggest().caveats)


def test_the_picture_of_a_race_shows_every_rate(model, data):
    axes = tuned(model, data).plot(show_subsamples=True)
    line = axes.get_lines()[1]
    assert np.isfinite(line.get_ydata()).sum() == RATES.size


def test_the_bar_is_one_and_counts_rows(model, data, capsys):
    tuned(model, data, progress=True, regret_tolerance=0.0)
    shown = capsys.readouterr().err
    assert shown.count("subsamples:   0%") == 1
    assert "/100 " in shown

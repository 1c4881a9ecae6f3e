"""Tuning with most rows at some rates only: the numbers of the exact one, and nothing wrong in silence."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from harness import unchanged
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from autolr import AutoLRTuner, LossDifferentials, TuningResult, log_grid, sparse
from autolr import measure as measuring
from autolr.adaptive import probe_adaptively
from autolr.cells import ProbedCells
from autolr.interpolation import first_nodes, interpolate
from autolr.interpolation_error import TOLERANCE
from autolr.probing import rows as probing_rows
from autolr.probing.objective import Objective
from autolr.probing.rows import ProbedRows
from autolr.sparse import completed, fill_sparsely
from autolr.statistics.race import NUM_WHOLE_ROWS
from autolr.statistics.sequential import look_level

RATES = log_grid(1e-4, 10.0, 100)
DIGITS = load_digits(return_X_y=True)


class RoundedLoss(nn.Module):
    """A loss that is a multiple of 0.1, with the gradients of the true one: not smooth in the rate."""

    def forward(self, output, target):
        loss = nn.functional.cross_entropy(output, target)
        return loss + (torch.floor(loss * 10.0) / 10.0 - loss).detach()


def make_tuner(*, loss_fn=None, optimizer=torch.optim.SGD, dtype=torch.float32, rng=0):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).to(dtype)
    return AutoLRTuner(model, loss_fn or nn.CrossEntropyLoss(), optimizer(model.parameters(), lr=0.1), rng=rng)


def tuned(*, interpolate=True, data=None, tuner=None, **options):
    """Tune on the digits, or on other data, and return the tuner."""
    loss_fn, optimizer = options.pop("loss_fn", None), options.pop("optimizer", torch.optim.SGD)
    dtype = options.pop("dtype", torch.float32)
    tuner = tuner or make_tuner(loss_fn=loss_fn, optimizer=optimizer, dtype=dtype)
    given = {"learning_rates": RATES, "num_subsamples": 40, **options}
    training = tuner._training
    with unchanged(training.model, training.optimizer):
        tuner.tune(*(data if data is not None else (DIGITS[0] / 16.0, DIGITS[1])), interpolate=interpolate, **given)
    return tuner


def errors(result, exact):
    """Return the errors of the means as shares of their standard errors, and where these can be resolved, (K, H)."""
    true = exact.differentials.loss_post - exact.differentials.loss_pre[:, np.newaxis, np.newaxis]
    error = np.abs((result.differentials.loss_post - exact.differentials.loss_post).mean(axis=0))
    standard_error = true.std(axis=0, ddof=1) / np.sqrt(len(true))
    resolution = exact.settings["resolution"] * np.abs(exact.differentials.loss_pre).mean()
    return error / standard_error, TOLERANCE * standard_error >= resolution


@pytest.mark.parametrize(
    "options",
    [
        {"num_subsamples": 100},
        {"optimizer": torch.optim.AdamW, "learning_rates": log_grid(1e-5, 1.0, 100), "warmup_steps": 3},
        {"dtype": torch.float64, "learning_rates": log_grid(1e-6, 10.0, 100)},
        {"engine": "step", "learning_rates": log_grid(1e-3, 10.0, 64)},
    ],
    ids=["SGD", "AdamW", "float64", "real steps"],
)
def test_the_means_and_the_pick_are_those_of_all_probes(options):
    tuner = tuned(**options)
    result, exact = tuner.result, tuned(tuner=tuner, interpolate=False, **options).result
    share, resolved = errors(result, exact)
    assert share[resolved].max() <= TOLERANCE
    assert resolved.mean() > 0.6
    told, mask = result.settings["interpolation"], result.differentials.interpolated
    assert 0.0 < told["error"] <= TOLERANCE
    assert told["num_probes"] == (~mask).sum() < 0.65 * told["num_probes_exact"]
    assert result.settings["num_forwards"] < 0.7 * exact.settings["num_forwards"]
    assert result.get_best_lr() == exact.get_best_lr()
    assert not mask[:, result.differentials.learning_rates == result.get_best_lr()].any()
    assert result.settings["interpolate"]
    assert not exact.settings["interpolate"]
    assert "interpolation" not in exact.settings
    json.dumps(dict(result.settings), allow_nan=False)


def test_what_is_not_marked_was_probed():
    tuner = tuned(engine="line")
    result, exact = tuner.result, tuned(tuner=tuner, interpolate=False, engine="line").result
    mask, checked = result.differentials.interpolated, result.settings["interpolation"]["checked_subsamples"]
    np.testing.assert_allclose(
        result.differentials.loss_post[~mask], exact.differentials.loss_post[~mask], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(result.differentials.loss_pre, exact.differentials.loss_pre)
    assert checked == [*range(8), 19, 39]
    assert not mask[checked].any()
    others = np.delete(mask, checked, axis=0)[:, :, 0]
    assert (others == others[0]).all()
    assert (~others[0]).sum() == result.settings["interpolation"]["num_nodes"]


def test_the_same_seed_gives_the_same_bits():
    first, again = (tuned(engine="line").result.differentials.loss_post for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_a_loss_that_is_not_smooth_is_probed_at_all_rates_and_the_control_without_the_check_is_wrong():
    tuner = tuned(loss_fn=RoundedLoss(), num_subsamples=30, engine="line")
    result, exact = tuner.result, tuned(tuner=tuner, interpolate=False, num_subsamples=30, engine="line").result
    assert not result.differentials.interpolated.any()
    np.testing.assert_allclose(result.differentials.loss_post, exact.differentials.loss_post, rtol=1e-5, atol=1e-6)
    assert "of 100 learning rates would be needed" in result.settings["interpolation"]["reason"]
    delta = exact.differentials.delta[:, :, np.newaxis]
    error = np.abs((interpolate(RATES, delta, first_nodes(100)) - delta).mean(axis=0))[60:]
    assert (error > 10.0 * TOLERANCE * delta[:, 60:].std(axis=0, ddof=1) / np.sqrt(30)).any()


def test_rates_where_probes_diverge_are_probed_in_every_row():
    X, Y = (torch.tensor(DIGITS[0] / 16.0, dtype=torch.float32), torch.tensor(DIGITS[1], dtype=torch.float32)[:, None])
    torch.manual_seed(0)
    model = nn.Linear(64, 1)
    tuner = AutoLRTuner(model, nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1), rng=0)
    options = {"learning_rates": np.geomspace(1e-4, 1e22, 60), "num_subsamples": 40, "horizon": 1}
    result = tuner.tune(X, Y, interpolate=True, **options)
    exact = tuner.tune(X, Y, **options)
    np.testing.assert_array_equal(np.isinf(result.differentials.delta), np.isinf(exact.differentials.delta))
    assert result.get_best_lr() == exact.get_best_lr()


def test_each_horizon_is_checked():
    options = {"horizon": [1, 2], "num_subsamples": 24, "learning_rates": log_grid(1e-4, 1.0, 100)}
    tuner = tuned(**options)
    result, exact = tuner.result, tuned(tuner=tuner, interpolate=False, **options).result
    share, resolved = errors(result, exact)
    assert share[resolved].max() <= TOLERANCE
    assert result.differentials.interpolated.any(axis=(0, 1)).all()
    assert result.settings["num_gradients"] < 0.9 * exact.settings["num_gradients"]
    delta = result.differentials.delta, exact.differentials.delta
    assert delta[0].mean(axis=0).argmin() == delta[1].mean(axis=0).argmin()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"learning_rates": log_grid(1e-3, 1.0, 23)}, "there are fewer than 24 learning rates"),
        ({"num_subsamples": 11}, "there are too few subsamples"),
        ({"num_subsamples": 30, "time_budget": 1e-9}, "the data or the time ended early"),
    ],
)
def test_where_little_can_be_saved_all_rates_are_probed(options, reason):
    result = tuned(**options).result
    assert not result.differentials.interpolated.any()
    assert not np.isnan(result.differentials.loss_post).any()
    assert result.settings["interpolation"]["reason"] == reason
    assert result.settings["interpolation"]["error"] == 0.0


@pytest.mark.parametrize("kind", ["loader", "batches", "partition", "dataset"])
def test_every_kind_of_data_can_be_interpolated(kind):
    X, Y = torch.tensor(DIGITS[0] / 16.0, dtype=torch.float32), torch.tensor(DIGITS[1])
    data = {
        "loader": (DataLoader(TensorDataset(X, Y), batch_size=25, shuffle=True, generator=torch.Generator()),),
        "batches": ([(X[i : i + 20], Y[i : i + 20]) for i in range(0, 1780, 20)],),
        "dataset": (TensorDataset(X, Y),),
    }.get(kind, (X, Y))
    options = {"sampling": "partition", "batch_size": 20} if kind == "partition" else {}
    tuner = tuned(data=data, **options)
    result = tuner.result
    exact = tuned(tuner=tuner, data=data, interpolate=False, **options).result
    assert result.differentials.interpolated.any()
    if kind != "loader":  # which shuffles anew
        share, resolved = errors(result, exact)
        assert share[resolved].max() <= TOLERANCE
        assert result.get_best_lr() == exact.get_best_lr()


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("kind", ["batches", "partition"])
def test_data_that_ends_after_the_first_rows_is_probed_at_all_rates(kind, adaptive):
    X, Y = torch.tensor(DIGITS[0] / 16.0, dtype=torch.float32)[:320], torch.tensor(DIGITS[1])[:320]
    if kind == "batches":
        result = tuned(data=([(X[i : i + 20], Y[i : i + 20]) for i in range(0, 320, 20)],), adaptive=adaptive).result
    else:
        result = tuned(data=(X, Y), sampling="partition", batch_size=20, adaptive=adaptive).result
    record, reason = result.differentials, result.settings["interpolation"]["reason"]
    assert record.num_subsamples == 8
    assert not record.interpolated.any()
    if adaptive:
        assert reason == "there are no rows after the first look"
        pick = int(np.flatnonzero(record.learning_rates == result.get_best_lr())[0])
        assert not np.isnan(record.delta[:, pick - 2 : pick + 3 : 2]).any()
    else:
        assert not np.isnan(record.loss_post).any()
        assert reason == "the data or the time ended early"


def test_rows_that_are_added_keep_all_within_the_tolerance():
    tuner = tuned()
    before = tuner.result
    result = tuner.extend(40)
    exact = tuned(tuner=make_tuner(), interpolate=False, num_subsamples=80).result
    share, resolved = errors(result, exact)
    assert share[resolved].max() <= TOLERANCE
    told = result.settings["interpolation"]
    assert told["error"] <= TOLERANCE + 1e-9
    assert told["checked_subsamples"] == [*range(8), 19, 39, *range(40, 48), 59, 79]
    assert told["num_probes"] == (~result.differentials.interpolated).sum()
    np.testing.assert_array_equal(result.differentials.loss_post[:40], before.differentials.loss_post)
    few = tuner.extend(5)
    assert not few.differentials.interpolated[80:].any()
    few = tuner.extend(5)
    told = few.settings["interpolation"]
    assert told["num_nodes"] < 60
    assert told["reason"] == "verified against exact probes, then there are too few subsamples"
    assert ", interpolated" in str(few)


def test_two_results_of_their_own_may_together_exceed_the_tolerance_and_say_so():
    first, second = (tuned(tuner=make_tuner(rng=rng)).result for rng in (0, 1))
    told = {**first.settings["interpolation"], "error": 0.05}
    first, second = (
        TuningResult(result.differentials, {**result.settings, "interpolation": told}) for result in (first, second)
    )
    both = first.extend(second)
    assert both.settings["interpolation"]["error"] == pytest.approx(0.05 * np.sqrt(2.0))
    assert "Interpolation may shift means by up to 7.1% of their standard errors." in both.suggest().caveats
    with pytest.raises(ValueError, match="`other` must have the interpolate True of this result, got False"):
        first.extend(tuned(tuner=make_tuner(rng=2), interpolate=False).result)


def test_the_verdict_and_the_file_tell_that_there_are_interpolated_numbers(tmp_path):
    result = tuned().result
    assert ", interpolated: " in str(result)
    assert "interpolated" not in str(tuned(interpolate=False).result)
    result.save(tmp_path / "lr.json")
    loaded = TuningResult.load(tmp_path / "lr.json")
    np.testing.assert_array_equal(loaded.differentials.interpolated, result.differentials.interpolated)
    assert str(loaded) == str(result)


def test_the_decisions_of_a_race_are_made_by_probes():
    options = {"adaptive": True, "num_subsamples": 100, "regret_tolerance": 0.0, "engine": "line"}
    tuner = tuned(**options)
    result = tuner.result
    plain = tuned(tuner=tuner, interpolate=False, **options).result
    exact = tuned(tuner=tuner, interpolate=False, num_subsamples=100, engine="line").result
    record, settings = result.differentials, result.settings
    probed = ~np.isnan(record.delta) & ~record.interpolated[:, :, 0]
    racing = probed.all(axis=0)
    assert racing[record.learning_rates == result.get_best_lr()].all()
    assert settings["num_probes"] == probed.sum()
    assert not record.interpolated[:NUM_WHOLE_ROWS].any()
    assert record.interpolated[NUM_WHOLE_ROWS:20].any(axis=(1, 2)).all()
    assert not record.interpolated[20:].any()
    num_rows = record.num_subsamples
    np.testing.assert_allclose(record.delta[probed], exact.differentials.delta[:num_rows][probed], rtol=1e-5, atol=1e-6)
    assert result.get_best_lr() == exact.get_best_lr()
    told = settings["interpolation"]
    assert told["num_probes_exact"] == 20 * 100
    assert told["num_probes"] == probed[:20].sum()
    assert told["num_nodes"] == probed[:20].all(axis=0).sum()
    assert told["checked_subsamples"] == list(range(NUM_WHOLE_ROWS))
    assert 0.0 < told["error"] <= TOLERANCE
    assert "interpolated" not in str(result)
    assert settings["num_looks"] == 5
    assert [look["num_subsamples"] for look in settings["looks"]] == [20, 30, 45, 67, 100][: len(settings["looks"])]
    levels = [look["confidence_level"] for look in settings["looks"]]
    np.testing.assert_allclose(levels, look_level(0.95, 1, 5), rtol=1e-12)
    assert settings["looks"] == plain.settings["looks"]
    assert settings["num_evaluations"] == plain.settings["num_evaluations"]


def test_the_curves_of_a_race_are_those_of_all_probes():
    tuner = tuned(adaptive=True, num_subsamples=100, engine="line")
    result, exact = tuner.result, tuned(tuner=tuner, interpolate=False, num_subsamples=100, engine="line").result
    drawn = result.differentials.interpolated[:20].any(axis=(0, 2))
    assert drawn.sum() > 40
    ours, theirs = (one.differentials.delta[:20, drawn] for one in (result, exact))
    resolution = exact.settings["resolution"] * exact.differentials.loss_pre.mean()
    limit = np.maximum(TOLERANCE * theirs.std(axis=0, ddof=1) / np.sqrt(20), 2.0 * resolution)
    assert (np.abs((ours - theirs).mean(axis=0)) <= limit).all()


def test_a_race_with_interpolation_takes_far_fewer_probes_than_curves_alone():
    options = {"optimizer": torch.optim.AdamW, "learning_rates": log_grid(1e-5, 1.0, 100), "num_subsamples": 100}
    tuner = tuned(adaptive=True, **options)
    race, curves = tuner.result, tuned(tuner=tuner, **options).result
    assert race.settings["num_evaluations"] < 0.6 * curves.settings["num_evaluations"]
    assert race.get_best_lr() == pytest.approx(curves.get_best_lr(), rel=0.1)


def test_of_a_loss_that_is_not_smooth_a_race_draws_no_curve():
    result = tuned(adaptive=True, loss_fn=RoundedLoss(), num_subsamples=40).result
    record = result.differentials
    rough = record.delta[:NUM_WHOLE_ROWS, 50:]
    assert np.unique(np.round(rough * 10.0, 3)).size < 0.5 * rough.size
    assert not record.interpolated[:, 50:].any()
    assert [look["num_subsamples"] for look in result.settings["looks"]] == [20, 30, 40][
        : len(result.settings["looks"])
    ]


def test_where_no_error_can_be_resolved_none_is_told():
    def loss_fn(output, target):
        return nn.functional.cross_entropy(output, target) + 1e4

    rates = log_grid(1e-4, 0.1, 100)
    result = tuned(loss_fn=loss_fn, learning_rates=rates).result
    assert result.settings["engine_reason"].count("verified against real steps") <= 2  # an engine's only once
    told = result.settings["interpolation"]
    assert told["num_unresolved"] == 100 - told["num_nodes"] > 0
    assert told["error"] is None
    assert "verified" not in told["reason"]
    checked = (
        f"At {told['num_unresolved']} of {told['num_unresolved']} interpolated rates, interpolation was checked to"
    )
    assert f"Caveat: {checked}" in str(result)
    assert "was checked to" not in str(tuned().result)
    both = result.extend(tuned(tuner=make_tuner(loss_fn=loss_fn, rng=1), learning_rates=rates).result)
    assert both.settings["interpolation"]["error"] is None


def test_a_frame_tells_which_losses_are_interpolated(tmp_path):
    record = tuned().result.differentials
    frame = record.to_frame(tidy=True)
    assert frame["interpolated"].dtype == bool
    assert frame["interpolated"].sum() == record.interpolated.sum()
    frame.to_csv(tmp_path / "losses.csv", index=False)
    for again in (
        frame,
        frame.assign(interpolated=frame["interpolated"].map(str)),
        pd.read_csv(tmp_path / "losses.csv"),
    ):
        np.testing.assert_array_equal(LossDifferentials.from_frame(again).interpolated, record.interpolated)
    assert "interpolated" not in tuned(interpolate=False).result.to_frame(tidy=True)
    with pytest.raises(ValueError, match="hold true or false in interpolated"):
        LossDifferentials.from_frame(frame.assign(interpolated=np.nan))


def test_a_race_of_one_look_is_exact():
    result = tuned(adaptive=True, num_subsamples=20).result
    assert not result.differentials.interpolated.any()
    assert not np.isnan(result.differentials.delta).any()
    assert result.settings["interpolation"]["reason"] == "all rates were probed at the first look"


# the run itself, with a probe that reads its losses from a table


def table(num_rows, *, seed=0):
    rng = np.random.default_rng(seed)
    slope, curvature = rng.normal(1.0, 0.3, (num_rows, 1)), rng.uniform(0.5, 1.5, (num_rows, 1))
    return (2.0 + curvature * RATES**2 - slope * RATES)[:, :, np.newaxis]


def cells_of(losses, *, first=0, num_timely=10**9, repeatable=True):
    """Return cells that are filled from a table, and the calls that did; the clock lets so many rows begin."""
    calls = []

    def probe(learning_rates, rows, engine, at_least):
        num_begun = sum(len(rows) for rows, _ in calls)
        num_left = max(num_timely - num_begun, at_least)
        columns = np.searchsorted(RATES, learning_rates)
        existing = rows[: max(0, min(len(rows), num_left, len(losses) + first - rows.start))]
        calls.append((existing, columns))
        own = losses[np.array(existing, dtype=int) - first][:, columns]
        return ProbedRows(np.full(len(existing), 2.0), own, engine, "", len(existing) < len(rows), repeatable)

    return ProbedCells(probe, RATES, num_horizons=1, engine="line", first=first), calls


def test_a_row_is_probed_once_at_the_nodes_and_some_again_at_all_rates():
    cells, calls = cells_of(table(60), first=100)
    told = fill_sparsely(cells, range(100, 160), epsilon=0.0)
    assert [rows for rows, _ in calls[:3]] == [range(100, 108), range(108, 120), range(119, 120)]
    first, nodes, others = (columns for _, columns in calls[:3])
    assert first.size == 100
    np.testing.assert_array_equal(np.sort(np.concatenate([nodes, others])), first)
    assert [rows for rows, columns in calls[3:] if columns.size > 50] == [range(139, 160, 20)]
    assert told.checked.tolist() == [*range(8), 19, 39, 59]
    assert told.error.share <= TOLERANCE
    shift = (completed(cells, told.nodes) - table(60)).mean(axis=0)
    assert (np.abs(shift) <= TOLERANCE * table(60).std(axis=0, ddof=1) / np.sqrt(60)).all()


@pytest.mark.parametrize("width", [1, 6])
def test_rows_that_behave_otherwise_later_are_found_and_are_wrong_without_the_later_checks(width, monkeypatch):
    losses = table(100)
    losses[50:, 45 : 45 + width] -= 2.0
    cells, _ = cells_of(losses)
    told = fill_sparsely(cells, range(100), epsilon=0.0)
    limit = TOLERANCE * losses.std(axis=0, ddof=1) / 10.0
    assert told.nodes[44 : 46 + width].all()
    assert (np.abs((completed(cells, told.nodes) - losses).mean(axis=0)) <= limit).all()
    # NOTE: the control: no later row is checked, and no curve doubted
    monkeypatch.setattr(sparse, "EVERY_ROW", 10**6)
    monkeypatch.setattr(sparse, "doubtful", lambda rates, *_: np.zeros(rates.size, dtype=bool))
    monkeypatch.setattr(sparse, "_around_the_pick", lambda delta, _: np.zeros(delta.shape[1], dtype=bool))
    losses[99] = table(100)[99]  # the one row that is then left to check
    cells, _ = cells_of(losses)
    told = fill_sparsely(cells, range(100), epsilon=0.0)
    assert (np.abs((completed(cells, told.nodes) - losses).mean(axis=0)) > 10.0 * limit).any()


def test_a_divergence_in_one_row_is_not_bridged():
    losses = table(60)
    losses[30, 80:] = np.inf
    cells, _ = cells_of(losses)
    told = fill_sparsely(cells, range(60), epsilon=0.0)
    filled = completed(cells, told.nodes)
    np.testing.assert_array_equal(np.isinf(filled), np.isinf(losses))
    assert not np.isnan(filled).any()


def test_a_row_that_was_begun_before_the_time_ended_is_kept():
    losses = table(100)
    losses[50:, 45] -= 2.0
    for num_timely in (8, 9, 50, 62, 105, 108, 120, 10**9):
        cells, calls = cells_of(losses, num_timely=num_timely)
        told = fill_sparsely(cells, range(100), epsilon=0.0)
        filled = completed(cells, told.nodes)
        assert len(filled) == max((rows[-1] + 1 for rows, _ in calls if rows), default=0)
        assert not np.isnan(filled).any()
        limit = TOLERANCE * losses[: len(filled)].std(axis=0, ddof=1) / np.sqrt(len(filled))
        assert (np.abs((filled - losses[: len(filled)]).mean(axis=0)) <= limit).all()
    assert len(filled) == 100


@pytest.mark.parametrize(
    ("rng", "adaptive", "budgets"), [(3, False, (2000, 3500)), (4, False, (4300,)), (8, True, (1000, 1300, 2000))]
)
def test_a_time_budget_leaves_as_many_rows_as_without_interpolation(rng, adaptive, budgets, monkeypatch):
    num_forwards = 0  # the clock: a forward takes a second

    def loss_fn(output, target):
        nonlocal num_forwards
        num_forwards += 1
        return nn.functional.cross_entropy(output, target)

    def repeated(self, batch, num):
        nonlocal num_forwards
        num_forwards += num
        count_repeated(self, batch, num)

    count_repeated = Objective.count_repeated
    monkeypatch.setattr(Objective, "count_repeated", repeated)
    clock = SimpleNamespace(perf_counter=lambda: float(num_forwards))
    monkeypatch.setattr(probing_rows, "time", clock)
    monkeypatch.setattr(measuring, "time", clock)
    for budget in budgets:
        options = {"num_subsamples": 100, "engine": "line", "time_budget": budget, "adaptive": adaptive}
        tuner = make_tuner(loss_fn=loss_fn, rng=rng)
        result = tuned(tuner=tuner, **options).result
        exact = tuned(tuner=tuner, interpolate=False, **options).result
        assert result.differentials.num_subsamples >= exact.differentials.num_subsamples
        assert result.settings["seconds"] < 1.9 * budget
        assert exact.settings["out_of_time"]


def test_data_that_ends_early_gives_the_rows_there_are():
    for num_rows in (5, 8, 9, 20, 33):
        cells, _ = cells_of(table(num_rows))
        told = fill_sparsely(cells, range(60), epsilon=0.0)
        assert completed(cells, told.nodes).shape == (num_rows, 100, 1)
        assert not np.isnan(completed(cells, told.nodes)).any()


def test_a_loss_that_is_not_repeatable_is_not_interpolated():
    cells, _ = cells_of(table(30), repeatable=False)
    told = fill_sparsely(cells, range(30), epsilon=0.0)
    assert told.reason == "the loss is not repeatable"
    assert not np.isnan(cells.loss_post).any()


def test_only_parts_of_several_rates_settle_the_engine():
    losses, asked = table(20), []

    def probe(learning_rates, rows, engine, _):
        asked.append(engine)
        columns = np.searchsorted(RATES, learning_rates)
        existing = np.array(rows[: max(0, len(losses) - rows.start)], dtype=int)
        steps = columns.size == 1 or columns[0] == 50 or not existing.size
        made = "step" if steps else "line"
        return ProbedRows(np.full(existing.size, 2.0), losses[existing][:, columns], made, "", False)

    cells = ProbedCells(probe, RATES, num_horizons=1, engine="auto")
    for rows, columns in (
        (range(8), range(100)),
        (range(8, 20), range(10)),
        (range(8, 20), [10]),  # one rate
        (range(20, 30), range(10)),  # no rows
        (range(8, 20), range(11, 20)),
        (range(8, 20), range(50, 60)),  # a step aside
        (range(8, 20), range(60, 70)),
    ):
        cells.fill(rows, np.array(columns))
    assert asked == ["auto"] * 6 + ["step"]


def test_a_pass_of_one_rate_leaves_the_engine_as_it_was(monkeypatch):
    parts, fill = [], ProbedCells.fill

    def recorded(cells, rows, columns, **options):
        num_rows = fill(cells, rows, columns, **options)
        parts.append((len(columns), cells._parts[-1].engine))
        return num_rows

    monkeypatch.setattr(ProbedCells, "fill", recorded)
    tuned(engine="auto", num_subsamples=100, tuner=make_tuner(rng=24))
    assert (1, "step") in parts
    assert all(engine != "step" for size, engine in parts if size > 1)


def test_only_the_gaps_are_filled():
    cells, calls = cells_of(table(30))
    assert cells.fill(range(4, 4), np.arange(100)) == 0
    assert not calls
    assert cells.fill(range(4), np.arange(100)) == 4
    assert cells.fill(range(4, 10), np.arange(0, 100, 3)) == 6
    assert cells.fill_gaps(range(12), np.arange(10)) == 12
    assert [(rows, columns.tolist()) for rows, columns in calls[2:]] == [
        (range(4, 10), [1, 2, 4, 5, 7, 8]),
        (range(10, 12), list(range(10))),
    ]
    assert cells.fill_gaps(range(40), np.arange(10)) == 30
    assert len(calls) == 5


def test_rates_that_were_out_race_after_all_where_those_that_are_left_turn_out_worse():
    losses = table(100)
    best = int(losses[:20].mean(axis=0).argmin())
    losses[20:, best - 12 : best + 13] += 3.0
    probed, interpolated, _ = probe_adaptively(
        lambda *asked: cells_of(losses)[0]._probe(*asked),
        RATES,
        100,
        num_horizons=1,
        engine="line",
        confidence_level=0.95,
        regret_tolerance=0.05,
        epsilon=0.0,
    )
    whole = ~np.isnan(probed.loss_post[:, :, 0]).any(axis=0)
    pick = np.flatnonzero(whole)[probed.loss_post[:, whole, 0].mean(axis=0).argmin()]
    assert abs(pick - best) > 12
    assert not interpolated[:, pick].any()

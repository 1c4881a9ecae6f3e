"""Ctrl-C in the middle of a tuning: raised again, everything put back, and the finished rows are there."""

import contextlib

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from harness import unchanged
from torch import nn

import autolr
from autolr.adaptive import probe_adaptively
from autolr.cells import RememberedProbes
from autolr.interpolation_error import TOLERANCE
from autolr.sparse import probe_sparsely

RATES, ASKED = [0.01, 0.1, 1.0], 5
MANY, FINE = autolr.log_grid(1e-3, 3.0, 24), autolr.log_grid(1e-3, 3.0, 48)
X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


class Interrupted:
    """A squared error at whose n-th call somebody presses Ctrl-C, once."""

    def __init__(self, call):
        self.left = call

    def __call__(self, output, target):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return (output - target).square().mean()


def make(call):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.1), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    loss = Interrupted(call)
    return model, optimizer, loss, autolr.AutoLRTuner(model, loss, optimizer, rng=0)


def tune(tuner, **options):
    options = {"num_subsamples": ASKED, "learning_rates": RATES, "batch_size": 8, "engine": "step", **options}
    return tuner.tune(X, Y, **options)


def calls_of(**options):
    _, _, loss, tuner = make(-1)
    tune(tuner, **options)
    return -1 - loss.left


@pytest.mark.parametrize("options", [{}, {"engine": "line"}, {"horizon": [1, 2]}, {"warmup_steps": 2}], ids=str)
def test_the_rows_finished_before_an_interrupt_are_those_of_the_whole_tuning(options):
    whole = tune(make(-1)[-1], **options).differentials
    found = set()
    for call in range(1, calls_of(**options) + 1, 2):
        model, optimizer, _, tuner = make(call)
        with unchanged(model, optimizer), pytest.raises(KeyboardInterrupt):
            tune(tuner, **options)
        try:
            record = tuner.result.differentials
        except autolr.NotTunedError:
            found.add(0)
            continue
        num_rows = record.num_subsamples
        found.add(num_rows)
        np.testing.assert_allclose(record.loss_post, whole.loss_post[:num_rows], rtol=1e-6)
        assert f"The tuning was interrupted after {num_rows} of {ASKED} subsamples." in str(tuner.result)
    assert found >= {0, *range(2, ASKED)}


def test_an_interrupted_tuning_is_gone_on_with():
    whole = tune(make(-1)[-1])
    model, optimizer, _, tuner = make(calls_of() - 1)
    with pytest.raises(KeyboardInterrupt):
        tune(tuner)
    assert tuner.result.differentials.num_subsamples == ASKED - 1
    with unchanged(model, optimizer):
        result = tuner.extend(1)
    np.testing.assert_array_equal(result.differentials.loss_post, whole.differentials.loss_post)


def test_an_interrupted_extension_keeps_what_it_has_added():
    whole = tune(make(-1)[-1])
    _, _, loss, tuner = make(-1)
    tune(tuner, num_subsamples=2)
    loss.left = calls_of() - calls_of(num_subsamples=2) + 3  # and those that look whether something has changed
    with pytest.raises(KeyboardInterrupt):
        tuner.extend(ASKED - 2)
    record = tuner.result.differentials
    assert 2 < record.num_subsamples < ASKED
    np.testing.assert_array_equal(record.loss_post, whole.differentials.loss_post[: record.num_subsamples])
    assert f"The tuning was interrupted after {record.num_subsamples} of {ASKED} subsamples." in str(tuner.result)


WAYS = [{"adaptive": True}, {"interpolate": True}, {"adaptive": True, "interpolate": True}]


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_what_is_kept_of_a_race_or_of_curves_is_the_beginning_of_the_whole(options, tmp_path):
    options = {"num_subsamples": 40, "learning_rates": MANY, "engine": "line", "regret_tolerance": 0.0, **options}
    whole, num_calls, found = tune(make(-1)[-1], **options).differentials, calls_of(**options), set()
    for call in range(num_calls // 4, num_calls + 1, num_calls // 10):
        model, optimizer, _, tuner = make(call)
        with unchanged(model, optimizer), pytest.raises(KeyboardInterrupt):
            tune(tuner, **options)
        result, record = tuner.result, tuner.result.differentials
        found.add(record.num_subsamples)
        same = where_both_are_probed(record, whole)
        assert same.any(axis=(1, 2)).all()
        before = whole.loss_post[: record.num_subsamples]
        np.testing.assert_allclose(record.loss_post[same], before[same], rtol=1e-6)
        assert result.settings["interrupted"]
    assert len(found) > 3
    result.save(tmp_path / "lr.json")
    assert str(autolr.TuningResult.load(tmp_path / "lr.json")) == str(result)
    assert f"The tuning was interrupted after {record.num_subsamples} of 40 subsamples" in str(result)
    assert result.summary(interval="t")["num_subsamples"].max() == record.num_subsamples
    plt.close(result.plot().figure)


def test_an_interrupted_interpolation_is_gone_on_with_and_stays_within_its_tolerance():
    options = {"num_subsamples": 40, "learning_rates": MANY, "engine": "line", "interpolate": True}
    exact = tune(make(-1)[-1], **{**options, "interpolate": False}).differentials.loss_post
    model, optimizer, _, tuner = make(calls_of(**options) * 2 // 3)
    with pytest.raises(KeyboardInterrupt):
        tune(tuner, **options)
    num_rows = tuner.result.differentials.num_subsamples
    with unchanged(model, optimizer):
        result = tuner.extend(40 - num_rows)
    record = result.differentials
    assert result.settings["interpolation"]["error"] <= TOLERANCE
    np.testing.assert_allclose(record.loss_post[~record.interpolated], exact[~record.interpolated], rtol=1e-6)


def where_both_are_probed(record, whole):
    guessed = record.interpolated | whole.interpolated[: record.num_subsamples]
    return ~(guessed | np.isnan(record.loss_post) | np.isnan(whole.loss_post[: record.num_subsamples]))


# the same at every row, with probes that read their losses from a table


def curves(num_rows=120):
    rng = np.random.default_rng(0)
    slope, curvature = rng.normal(1.0, 0.3, (num_rows, 1)), rng.uniform(0.5, 1.5, (num_rows, 1))
    return (2.0 + curvature * FINE**2 - slope * FINE)[:, :, np.newaxis]


def later_otherwise():
    losses = curves()
    losses[50:, 30:33] -= 2.0  # more nodes are needed
    return losses


def later_worse():
    losses = curves()
    losses[20:, 15:] += 3.0  # rates that were out come back
    return losses


def remembering(losses, num_timely):
    """Return probes that read from a table and are interrupted after so many rows, counted over all calls."""
    left = [num_timely]

    def probe(learning_rates, rows, *_, finished):
        finished.begin("line", repeatable=True)
        columns = np.searchsorted(FINE, learning_rates)
        for row in rows:
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            finished.loss_post.append(losses[row, columns])
            finished.loss_pre.append(2.0)
        return finished.probed("verified")

    return RememberedProbes(probe)


def run(probe, losses, *, adaptive, interpolate):
    if not adaptive:
        return probe_sparsely(probe, FINE, range(len(losses)), num_horizons=1, engine="line", epsilon=0.0)
    options = {"num_horizons": 1, "engine": "line", "confidence_level": 0.95, "regret_tolerance": 0.0}
    return probe_adaptively(probe, FINE, len(losses), epsilon=0.0 if interpolate else None, **options)


def gone_through_again(num_timely, losses, **way):
    """Return what is made of the first rows that were finished, or of all; and how many were, at some rates."""
    probe = remembering(losses, num_timely)
    with contextlib.suppress(KeyboardInterrupt):
        return *run(probe, losses, **way), probe.end
    return *run(probe.again(), losses, **way), probe.end


@pytest.mark.parametrize("make_losses", [curves, later_otherwise, later_worse])
@pytest.mark.parametrize(("adaptive", "interpolate"), [(True, False), (False, True), (True, True)])
def test_rows_count_where_they_are_whole_at_the_rates_that_are_compared(make_losses, adaptive, interpolate):
    losses, way = make_losses(), {"adaptive": adaptive, "interpolate": interpolate}
    for num_timely in range(2, 240, 11):
        probed, interpolated, told, end = gone_through_again(num_timely, losses, **way)
        num_rows = len(probed.loss_pre)
        assert min(num_timely, 8) <= num_rows <= end
        known = ~interpolated & ~np.isnan(probed.loss_post)
        np.testing.assert_array_equal(probed.loss_post[known], losses[:num_rows][known])
        whole = ~np.isnan(probed.loss_post[:, :, 0]).any(axis=0)
        if not adaptive:
            assert whole.all()
            limit = TOLERANCE * losses[:num_rows].std(axis=0, ddof=1) / np.sqrt(num_rows)
            assert (np.abs((probed.loss_post - losses[:num_rows]).mean(axis=0)) <= limit).all()
        elif num_rows > 1:
            look = told["looks"][-1]
            assert look["num_subsamples"] == num_rows
            assert whole.sum() >= look["num_rates"]


@pytest.mark.parametrize("interpolate", [False, True])
def test_the_rows_of_a_first_look_stay_where_the_rates_between_are_not_probed_in_all_of_them(interpolate):
    for num_timely in (20, 21, 25, 29):  # 3 rows at all rates, 17 at some; then those between them
        probed, interpolated, told, _ = gone_through_again(num_timely, curves(), adaptive=True, interpolate=interpolate)
        assert len(probed.loss_pre) == 20
        assert [look["num_subsamples"] for look in told["looks"]] == [20]
        assert told["stop"] == "ended"
        assert not interpolated.any()
        assert not np.isnan(probed.loss_post[:, [0, -1]]).any()


def test_an_interrupt_before_two_rows_are_finished_leaves_the_result_before():
    _, _, loss, tuner = make(-1)
    before = tune(tuner)
    loss.left = 4
    with pytest.raises(KeyboardInterrupt):
        tune(tuner)
    assert tuner.result is before

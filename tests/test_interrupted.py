"""Ctrl-C in the middle of a tuning: raised again, everything put back, and the finished rows are there."""

import numpy as np
import pytest
import torch
from harness import unchanged
from torch import nn

import autolr

RATES, ASKED = [0.01, 0.1, 1.0], 5
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


@pytest.mark.parametrize("options", [{"adaptive": True, "num_subsamples": 40}, {"interpolate": True}], ids=str)
def test_rows_of_which_only_some_rates_are_probed_are_given_up(options):
    _, _, _, tuner = make(calls_of(**options) - 3)
    with pytest.raises(KeyboardInterrupt):
        tune(tuner, **options)
    with pytest.raises(autolr.NotTunedError):
        tuner.get_best_lr()


def test_an_interrupt_before_two_rows_are_finished_leaves_the_result_before():
    _, _, loss, tuner = make(-1)
    before = tune(tuner)
    loss.left = 4
    with pytest.raises(KeyboardInterrupt):
        tune(tuner)
    assert tuner.result is before

"""Tuning within the contexts that a training may be in: no gradients, inference, autocast."""

import numpy as np
import pytest
import torch
from harness import unchanged
from torch import nn

import autolr


def setup():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, optimizer, torch.randn(40, 4)


def squared_error(model, batch):
    return (model(batch).float() - 1.0).square().mean()


def frame(model, optimizer, X, compute_loss=squared_error, **options):
    tuner = autolr.AutoLRTuner(model, None, optimizer, compute_loss=compute_loss, rng=0)
    return tuner.tune(X, num_subsamples=2, learning_rates=[1e-2, 1e-1, 1.0], **options).to_frame()


@pytest.mark.parametrize("engine", ["step", "line"])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_the_caller_may_be_without_gradients(context, engine):
    model, optimizer, X = setup()
    expected = frame(model, optimizer, X, engine=engine)
    with context(), unchanged(model, optimizer):
        found = frame(model, optimizer, X, engine=engine)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("engine", ["step", "line"])
def test_the_caller_may_be_within_autocast_which_keeps_casts_of_weights(engine):
    model, optimizer, X = setup()

    def under_autocast(model, batch):
        with torch.autocast("cpu", torch.bfloat16):
            return squared_error(model, batch)

    expected = frame(model, optimizer, X, under_autocast, engine="step")
    assert (expected.nunique(axis=1) == 3).all()
    with torch.autocast("cpu", torch.bfloat16), unchanged(model, optimizer):
        before = model.eval()(X)
        model.train()
        found = frame(model, optimizer, X, engine=engine)
        assert torch.equal(model.eval()(X), before)
        model.train()
    np.testing.assert_allclose(found, expected, rtol=1e-6)

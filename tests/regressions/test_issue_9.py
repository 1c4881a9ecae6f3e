"""What the matrix of restores, faults and bad input found: wrong for the user before, and mended."""

import json

import numpy as np
import pytest
import torch
from harness import unchanged
from torch import nn
from wrong_calls import OnceOnly

import autolr
from autolr.search_result import TRACE_COLUMNS

RATES = [0.1, 1.0, 3.0]


def test_the_momentum_of_sparse_gradients_is_warmed_up_as_that_of_dense_ones():
    """`tune(warmup_steps=2)` of SGD with momentum on a sparse embedding ended in an error of torch's own."""
    losses = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(7, 3, sparse=sparse), nn.Tanh()).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        X, Y = torch.randint(7, (40,)), torch.randint(3, (40,))
        tuner = autolr.AutoLRTuner(model, nn.CrossEntropyLoss(), optimizer, rng=0)
        with unchanged(model, optimizer):
            result = tuner.tune(X, Y, learning_rates=RATES, num_subsamples=3, batch_size=8, warmup_steps=2)
        losses.append(result.differentials.loss_post)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-12)


def test_an_optimizer_is_not_blamed_for_a_loss_that_is_drawn_anew():
    """`tune(warmup_steps=2)` of Adam said that it keeps the rate in its state, where the loss was not repeatable."""
    torch.manual_seed(0)
    model, noise = nn.Linear(3, 1), iter(np.random.default_rng(0).uniform(0.5, 1.5, 1000))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    tuner = autolr.AutoLRTuner(model, lambda output, target: next(noise) * (output - target).square().mean(), optimizer)
    X = torch.randn(40, 3)
    with unchanged(model, optimizer):
        result = tuner.tune(X, X[:, :1], learning_rates=RATES, num_subsamples=3, batch_size=8, warmup_steps=2)
    assert result.settings["repeatable"] is False


@pytest.mark.parametrize(
    "loss", [lambda o, _: OnceOnly.apply(o).mean(), lambda o, _: OnceOnly.apply(o).square().mean()]
)
def test_a_function_that_can_be_differentiated_once_is_refused(loss):
    """`taylor_expansion` took the gradient of such a function for a constant: its curvature was 0."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with unchanged(model, optimizer), pytest.raises(ValueError, match=r"twice \(a function in it is marked as once"):
        autolr.taylor_expansion(model, loss, optimizer, torch.ones(4, 3), torch.ones(4, 1))


def test_a_search_without_a_decision_is_not_loaded(tmp_path):
    """`SearchResult.load` took a file of which the decision was lost, and `print` of it ended in a `KeyError`."""
    trace = {name: [] for name in TRACE_COLUMNS}
    document = {"schema": "autolr.SearchResult", "version": 1, "trace": trace, "decision": {}, "settings": {}}
    path = tmp_path / "search.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"`path` must name an undamaged result, got '.*json': KeyError: 'low'"):
        autolr.SearchResult.load(path)


def test_a_horizon_beyond_all_integers_is_refused():
    """`LossDifferentials` made a negative number of steps of a horizon of 1e308."""
    with pytest.raises(ValueError, match=r"`horizons` must be increasing integers of at least 1"):
        autolr.LossDifferentials([0.1], [1.0], [[1.0]], [1e308])


@pytest.mark.parametrize("number", range(1, 5))
def test_a_runtime_error_of_a_loss_passes_through_an_expansion(number):
    """`taylor_expansion` took a `RuntimeError` of the user's own loss for a limit of torch, and went another way."""
    model, error, calls = nn.Linear(3, 1), RuntimeError("mine"), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss(output, target):
        calls.append(None)
        if len(calls) == number:
            raise error
        return (output - target).square().mean()

    with unchanged(model, optimizer), pytest.raises(RuntimeError, match="mine") as caught:
        autolr.taylor_expansion(model, loss, optimizer, torch.ones(4, 3), torch.ones(4, 1))
    assert caught.value is error

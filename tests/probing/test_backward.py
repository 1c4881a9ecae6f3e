"""Gradients of weights that are out of the graph's sight, as those of reentrant checkpoints are."""

import copy

import numpy as np
import pytest
import torch
from engine_cases import classes
from harness import unchanged
from torch import nn, optim
from torch.utils.checkpoint import checkpoint

from autolr import AutoLRTuner, loss_by_learning_rate
from autolr.probing.backward import backward_by_all, has_own_functions

RATES = [0.0, 0.01, 1.0]


def checkpointed(use_reentrant):
    def loss(model, batch):
        hidden = checkpoint(model[0], batch[0].clone().requires_grad_(), use_reentrant=use_reentrant)
        return nn.functional.cross_entropy(model[1:](hidden), batch[1])

    return loss


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()


@pytest.mark.parametrize("engine", ["step", "auto"])
def test_a_reentrant_checkpoint_leaves_no_weight_without_its_gradient(engine):
    model, (batch, _) = network(), classes(8, 5)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for use_reentrant in (True, False):
        options = {"compute_loss": checkpointed(use_reentrant), "engine": engine}
        with unchanged(model, optimizer, extra=batch):
            losses.append(loss_by_learning_rate(model, None, optimizer, *batch, RATES, **options))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-9)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")  # where gradients are off
def test_where_the_loss_reaches_weights_in_and_before_a_reentrant_checkpoint_it_is_tuned():
    model, (batch, _) = network(), classes(64, 5)
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def loss(use_reentrant):
        return lambda m, b: nn.functional.cross_entropy(
            checkpoint(m[1:], m[0](b[0]), use_reentrant=use_reentrant), b[1]
        )

    found = [
        AutoLRTuner(model, None, optimizer, compute_loss=loss(use_reentrant), rng=0)
        .tune(*batch, num_subsamples=3, batch_size=8, learning_rates=[0.1, 1.0])
        .differentials.delta
        for use_reentrant in (True, False)
    ]
    np.testing.assert_allclose(*found, rtol=1e-9)


def test_leaves_that_are_not_asked_for_keep_their_gradients():
    weight, other, idle = (torch.ones(3, requires_grad=True) for _ in range(3))
    other.grad = kept = torch.full((3,), 5.0)
    backward_by_all((weight * other * idle).sum(), [weight])
    torch.testing.assert_close(weight.grad, torch.ones(3))
    assert other.grad is kept
    assert kept.tolist() == [5.0, 5.0, 5.0]
    assert idle.grad is None


def test_where_the_backward_raises_they_are_put_back_too():
    weight, other = (torch.ones(3, requires_grad=True) for _ in range(2))
    other.grad = kept = torch.zeros(3)
    product = weight * other
    product.register_hook(lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        backward_by_all(product.sum(), [weight])
    assert other.grad is kept


def test_only_functions_written_in_python_are_taken_to_have_a_backward_of_their_own():
    model, ((x, y), _) = network(), classes(8, 5)
    assert has_own_functions(checkpointed(use_reentrant=True)(model, (x, y)))
    assert not has_own_functions(checkpointed(use_reentrant=False)(model, (x, y)))
    assert not has_own_functions(next(copy.deepcopy(model).parameters()))

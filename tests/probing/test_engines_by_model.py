"""Every engine equals the oracle, for every kind of model and training habit."""

import inspect
import random

import model_cases
import numpy as np
import oracles
import pytest
import stateful_cases
import torch
from engine_cases import Case, assert_equals_oracle, classes, cross_entropy, expected, mlp, probe

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
CASES = {
    name: value
    for module in (model_cases, stateful_cases)
    for name, value in vars(module).items()
    if inspect.isfunction(value) and value.__module__ == module.__name__
}


def make(name):
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(3)
    return CASES[name]()


def copies(name):
    """Return a maker of cases that have nothing in common, hooks, schedulers and second networks included."""

    def made():
        case = make(name)
        return case.model, case.optimizer, case.compute_loss

    return made


@pytest.mark.parametrize("name", CASES)
def test_both_engines_equal_the_oracle(name):
    case = make(name)
    oracle = expected(copies(name), case, needs_graph=name == "loss_made_of_derivatives")
    assert np.isfinite(oracle[1]).all()
    assert np.ptp(oracle[1]) > 0.0
    assert_equals_oracle(probe(case, "step"), oracle)
    probed = probe(case, "auto")
    assert probed.engine == "line", probed.engine_reason
    assert_equals_oracle(probed, oracle)


# these cannot be mapped over the rates, and why
NOT_BATCHED = {
    "transformer_layer": "in place of",  # torch maps its attention by a loop, with other masks of dropout
    "spectral_norm": "a tensor is written to by what depends on the rate",  # its buffers
    "lstm": "Batching rule not implemented for aten::lstm",
    "gru": "Batching rule not implemented for aten::gru",
    "scripted": "the model or the loss is compiled",
    "compiled": "the model or the loss is compiled",
    "loss_made_of_derivatives": "the loss is made of derivatives",
    "draws_from_numpy_after_large_steps_only": "__bool__ makes a value of Python that depends on the rate",
}


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_the_batched_engine_equals_the_oracle_or_steps_aside(name):
    rates = np.geomspace(1e-4, 1.0, 10)
    case = make(name)
    oracle = expected(copies(name), case, rates, needs_graph=name == "loss_made_of_derivatives")
    probed = probe(case, "batched", rates, num_rows=2)
    assert probed.engine == ("line" if name in NOT_BATCHED else "batched"), probed.engine_reason
    assert ("batched stepped aside: " in probed.engine_reason) is (name in NOT_BATCHED)
    assert NOT_BATCHED.get(name, "") in probed.engine_reason
    assert_equals_oracle(probed, oracle)


@pytest.mark.parametrize("name", CASES)
def test_the_line_engine_equals_the_oracle(name):
    case = make(name)
    oracle = expected(copies(name), case, needs_graph=name == "loss_made_of_derivatives")
    probed = probe(case, "line", num_rows=2)
    assert probed.engine == "line", probed.engine_reason
    assert_equals_oracle(probed, oracle)


def test_a_model_in_bfloat16_is_probed_by_real_steps():
    torch.manual_seed(0)
    model = mlp(torch.bfloat16)
    case = Case(model, torch.optim.SGD(model.parameters(), lr=0.1), cross_entropy, *classes(8, 5, dtype=torch.bfloat16))
    oracle = expected(oracles.copies_of(case.model, case.optimizer, case.compute_loss), case)
    probed = probe(case, "auto")
    assert probed.engine_reason == "the line engine stepped aside: torch.bfloat16 is too coarse to verify it"
    assert_equals_oracle(probed, oracle)


def test_a_loss_in_half_precision_is_probed_by_real_steps():
    case = make("multilayer_perceptron")
    case.compute_loss = lambda model, batch: cross_entropy(model, batch).bfloat16()
    assert probe(case, "auto").engine_reason == "the line engine stepped aside: the loss is too coarse"


def test_rows_are_probed_in_random_states_of_their_own():
    case = make("dropout")
    probed = probe(case, "line", num_rows=3)
    for row in range(3):
        loss_pre, loss_post = expected(copies("dropout"), case, row=row)
        np.testing.assert_allclose([probed.loss_pre[row], *probed.loss_post[row]], [loss_pre, *loss_post], rtol=1e-6)
    assert len(set(probed.loss_pre)) == 3


def test_numpy_draws_that_begin_after_a_step_are_the_same_at_every_rate():
    case = make("draws_from_numpy_after_large_steps_only")
    rates = np.geomspace(1e-3, 30.0, 8)
    drawn = []
    draw = np.random.normal

    def noted():
        drawn.append(draw())
        return drawn[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "normal", noted)
        probed = probe(case, "line", rates, num_rows=3)
    assert probed.engine == "line"
    assert len(drawn) > 3
    oracle = expected(copies("draws_from_numpy_after_large_steps_only"), case, rates, row=1)
    np.testing.assert_allclose(probed.loss_post[1], oracle[1], rtol=1e-6)


def test_a_closure_sees_the_same_dropout_masks_at_every_evaluation():
    def made():
        case = make("dropout")
        return case.model, torch.optim.LBFGS(case.model.parameters(), max_iter=4), case.compute_loss

    case = make("dropout")
    case.optimizer = torch.optim.LBFGS(case.model.parameters(), max_iter=4)
    assert_equals_oracle(probe(case, "auto"), expected(made, case))

"""A warm-up feeds the optimizer's moments as a training does whose weights are held still."""

import copy

import numpy as np
import pytest
import torch
from engine_cases import classes, cross_entropy, mlp
from harness import unchanged
from torch import optim

import autolr
from autolr.param_groups import base_learning_rates
from autolr.probing.objective import Objective
from autolr.probing.random_state import ForkedRandomness
from autolr.probing.start import Start
from autolr.probing.state import preserved_state
from autolr.probing.warmup import warm_up

WARMED = [
    (optim.SGD, {"momentum": 0.9, "dampening": 0.5}),
    (optim.AdamW, {"amsgrad": True}),
    (optim.NAdam, {}),
    (optim.RAdam, {}),
    (optim.Adagrad, {}),
    (optim.RMSprop, {"momentum": 0.9}),
    (optim.Adafactor, {}),
]


@pytest.mark.parametrize(("kind", "options"), WARMED)
def test_the_moments_are_those_of_steps_with_the_weights_held_still(kind, options):
    model = mlp()
    optimizer = kind(model.parameters(), lr=0.1, **options)
    batches = [classes(8, 5)[0] for _ in range(3)]
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    weights = copy.deepcopy(twin.state_dict())
    for batch in batches:
        twin_optimizer.zero_grad()
        cross_entropy(twin, batch).backward()
        twin_optimizer.step()
        twin.load_state_dict(weights)
    with unchanged(model, optimizer):
        objective = Objective(model, None, cross_entropy, list(model.parameters()))
        with preserved_state(model, optimizer) as snapshot:
            randomness = ForkedRandomness([])
            randomness.fork(np.random.SeedSequence(0))
            start = Start(objective, optimizer, snapshot, randomness, base_learning_rates(optimizer))
            assert warm_up(start, iter(batches), 3) == 3
            torch.testing.assert_close(model.state_dict(), weights, rtol=0, atol=0)
            torch.testing.assert_close(optimizer.state_dict()["state"], twin_optimizer.state_dict()["state"])


def tuner_of(optimizer_type, *, warm, **options):
    model = mlp()
    optimizer = optimizer_type(model.parameters(), lr=0.1, **options)
    X, y = classes(40, 5)[0]

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(model, (X, y))
        loss.backward()
        return loss

    for _ in range(2 if warm else 0):
        optimizer.step(closure)
    return model, optimizer, X, y, autolr.AutoLRTuner(model, torch.nn.CrossEntropyLoss(), optimizer, rng=0)


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("kind", [optim.ASGD, optim.Rprop, optim.LBFGS])
def test_an_optimizer_that_keeps_the_rate_in_its_state_is_refused(kind, warm):
    model, optimizer, X, y, tuner = tuner_of(kind, warm=warm)
    message = rf"`warmup_steps` must be 0 for {kind.__name__}, which keeps the rate in its state, got \d+\."
    with pytest.raises(ValueError, match=message), unchanged(model, optimizer):
        tuner.tune(X, y, num_subsamples=2, warmup_steps=1)


@pytest.mark.parametrize("engine", ["step", "line"])
def test_a_loss_before_that_is_not_finite_is_refused(engine):
    model, optimizer, X, y, tuner = tuner_of(optim.SGD, warm=False)
    model[2].bias.data[0] = float("nan")
    message = r"`loss_pre` must be finite in every subsample \(subsample 0: NaN or inf in X, Y or the .*, got nan\."
    with pytest.raises(ValueError, match=message), unchanged(model, optimizer):
        tuner.tune(X, y, num_subsamples=2, engine=engine)


def test_warm_engines_agree():
    *_, X, y, tuner = tuner_of(optim.AdamW, warm=False)
    frames = [
        tuner.tune(X, y, num_subsamples=3, warmup_steps=3, engine=engine).to_frame() for engine in ("step", "line")
    ]
    np.testing.assert_allclose(frames[0], frames[1], rtol=1e-6, atol=1e-9)
    cold = tuner.tune(X, y, num_subsamples=3).to_frame()
    assert not np.allclose(cold, frames[0], rtol=0.01)

"""Several steps: what a training loop does, from copies of everything, and no trace of it afterwards."""

import math
from contextlib import contextmanager

import model_cases
import numpy as np
import oracles
import pytest
import stateful_cases
import torch
from engine_cases import F64, classes, cross_entropy, make_case, mlp, train
from harness import unchanged
from torch import nn

from autolr.param_groups import base_learning_rates
from autolr.probing.objective import Objective
from autolr.probing.random_state import ForkedRandomness, capture_random_state
from autolr.probing.start import Start
from autolr.probing.state import preserved_state
from autolr.probing.trajectory import Trajectory, probe_by_trajectories

RATES = np.array([1e-3, 1e-2, 1e-1])
HORIZONS = np.array([1, 2, 5])

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.1, centered=True, momentum=0.5),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}
MODELS = {
    "MLP": mlp,
    "BatchNorm": lambda: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)),
    "dropout": lambda: nn.Sequential(nn.Linear(5, 16), nn.Dropout(0.5), nn.Linear(16, 3)),
}
CASES = {
    "sparse SGD": model_cases.sparse_embedding,
    "sparse Adam": model_cases.sparse_adam,
    "groups": model_cases.groups_with_rates_of_their_own,
    "rate as a tensor": model_cases.rate_as_a_tensor,
    "warm-up at zero": model_cases.warmup_scheduler_at_zero,
    "tied weights": model_cases.tied_weights,
    "spectral norm": model_cases.spectral_norm,
    "modes are mixed": model_cases.mixed_modes,
    "buffer of its own": model_cases.rebound_buffer,
    "draws everywhere": stateful_cases.draws_from_every_generator,
    "draws from NumPy at times": stateful_cases.draws_from_numpy_after_large_steps_only,
    "counts": stateful_cases.counter_that_changes_the_behaviour,
    "optimizer that draws": stateful_cases.optimizer_that_draws,
}


def seed(step):
    return np.random.SeedSequence(7, spawn_key=(step,))


@contextmanager
def started(case):
    """Yield the start of all probes of a case, and assert that nothing is changed."""
    with unchanged(case.model, case.optimizer, extra=case.extra):
        parameters = [p for p in case.model.parameters() if p.requires_grad]
        objective = Objective(case.model, None, case.compute_loss, parameters)
        with preserved_state(*objective.modules(), case.optimizer) as snapshot:
            randomness = ForkedRandomness([])
            randomness.fork(seed(0))
            objective.check(case.evaluation_batch)
            yield Start(objective, case.optimizer, snapshot, randomness, base_learning_rates(case.optimizer))


def batches_like(case, num=5):
    """Return batches of the form of the case's: its observations in other orders."""
    x, y = case.batch
    orders = [torch.randint(len(x), (len(x),)) for _ in range(num)]
    return [(x[order], y[order]) for order in orders]


def probe(case, rates=RATES, horizons=HORIZONS, batches=None):
    batches = batches_like(case, int(horizons[-1])) if batches is None else batches
    with started(case) as start:
        return probe_by_trajectories(start, rates, horizons, batches, case.evaluation_batch, seed=seed)


def assert_equals_a_training_loop(case):
    batches = batches_like(case)
    copies = oracles.copies_of(case.model, case.optimizer, case.compute_loss)
    restore = capture_random_state([])
    states = ForkedRandomness([])
    loss_pre, loss_post = oracles.train_by_copies(
        copies, RATES, HORIZONS, batches, case.evaluation_batch, lambda step: states.fork(seed(step))
    )
    restore()
    pre, post = probe(case, batches=batches)
    assert pre == pytest.approx(loss_pre, rel=1e-9)
    np.testing.assert_allclose(post, loss_post, rtol=1e-6)
    assert len(np.unique(post)) == post.size


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_probe_is_what_a_training_loop_does(optimizer, model, warm):
    torch.manual_seed(1)
    model = MODELS[model]().to(F64)
    case = make_case(model, OPTIMIZERS[optimizer](model.parameters()))
    assert_equals_a_training_loop(train(case) if warm else case)


@pytest.mark.parametrize("name", CASES)
def test_models_and_optimizers_that_are_not_plain(name):
    torch.manual_seed(1)
    assert_equals_a_training_loop(CASES[name]())


def test_float32_is_as_exact_as_it_can_be():
    torch.manual_seed(1)
    model = mlp(torch.float32)
    case = make_case(model)
    case.model.to(torch.float32)
    case.batch, case.evaluation_batch = classes(8, 5, dtype=torch.float32)
    assert_equals_a_training_loop(case)


def test_two_equal_rates_see_the_same_masks_and_another_row_sees_others():
    case = model_cases.dropout()
    batches = batches_like(case)
    _, (one, other) = probe(case, rates=np.array([0.1, 0.1]), batches=batches)
    np.testing.assert_array_equal(one, other)
    with started(case) as start:
        _, (elsewhere, _) = probe_by_trajectories(
            start,
            np.array([0.1, 0.1]),
            HORIZONS,
            batches,
            case.evaluation_batch,
            seed=lambda step: np.random.SeedSequence(8, spawn_key=(step,)),
        )
    assert (one != elsewhere).all()


def test_what_is_recorded_does_not_depend_on_the_other_horizons_nor_rates():
    case = train(model_cases.dropout())
    batches = batches_like(case)
    _, every = probe(case, batches=batches)
    for h, horizon in enumerate(HORIZONS):
        _, alone = probe(case, horizons=np.array([horizon]), batches=batches[:horizon])
        np.testing.assert_array_equal(alone[:, 0], every[:, h])
    _, middle = probe(case, rates=RATES[1:2], batches=batches)
    np.testing.assert_array_equal(middle[0], every[1])


def test_a_rate_that_diverges_ends_early_and_is_infinite_from_there_on():
    calls = []

    def loss(model, batch):
        calls.append(None)
        return model(batch[0]).square().mean()

    # in one dimension, at x = 1: w is multiplied by 1 - 2 lr in each step, and overflows when squared above 1e154
    case = make_case(nn.Linear(1, 1, bias=False), None, loss)
    case.batch = case.evaluation_batch = torch.ones(4, 1, dtype=F64), torch.ones(4)
    _, post = probe(case, rates=np.array([0.1, 0.5e100]), horizons=np.array([1, 2, 3, 50]))
    assert np.isfinite(post[0]).all()
    np.testing.assert_array_equal(np.isinf(post[1]), [False, True, True, True])
    # the check, the loss before; 50 steps and 4 losses; two steps and two losses
    assert len(calls) == 2 + 54 + 4
    calls.clear()
    _, post = probe(case, rates=np.array([0.5e100]), horizons=np.array([40]))
    assert np.isinf(post).all()
    assert len(calls) == 2 + 3  # the third step begins with a loss that is not finite


def test_an_infinite_loss_on_the_evaluation_batch_ends_it_too():
    case = make_case(mlp(), None, lambda model, batch: cross_entropy(model, batch[:2]) * batch[2])
    x, y = case.batch
    one, infinite = torch.ones((), dtype=F64), torch.tensor(math.inf, dtype=F64)
    case.evaluation_batch = x, y, one
    with started(case) as start:
        pre, post = probe_by_trajectories(start, RATES, HORIZONS, [(x, y, one)] * 5, (x, y, infinite), seed=seed)
        assert start.objective.num_gradients == len(RATES)
    assert math.isinf(pre)
    assert np.isinf(post).all()


@pytest.mark.parametrize("name", ["AdamW", "momentum", "LBFGS"])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_parked_and_resumed_is_bit_for_bit_as_straight_on(name, warm):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3)).to(F64)
    case = make_case(model, OPTIMIZERS[name](model.parameters()))
    case = train(case) if warm else case
    batches = batches_like(case, 6)

    def go_on(trajectory, rate, steps):
        losses = []
        for step in steps:
            losses.append(trajectory.gradient(batches[step]))
            trajectory.step(rate, batches[step])
        return losses

    def ends(trajectory):
        return (
            trajectory.loss(case.evaluation_batch, seed(9)),
            trajectory.loss(case.evaluation_batch, seed(9), training=False),
            [value.clone() for value in model.state_dict().values()],
            str(case.optimizer.state_dict()),
        )

    with started(case) as start:
        straight = []
        for rate in (0.1, 0.01):
            trajectory = Trajectory(start, seed)
            trajectory.begin()
            straight.append((go_on(trajectory, rate, range(6)), *ends(trajectory)))
        one, other = Trajectory(start, seed), Trajectory(start, seed)
        losses = [[], []]
        for begin in (0, 2, 4):
            for k, (trajectory, rate) in enumerate(((one, 0.1), (other, 0.01))):
                trajectory.begin() if begin == 0 else trajectory.resume()
                losses[k] += go_on(trajectory, rate, range(begin, begin + 2))
                trajectory.park()
        for k, trajectory in enumerate((one, other)):
            trajectory.resume()
            assert trajectory.num_steps == 6
            loss, in_evaluation, weights, state = ends(trajectory)
            assert (losses[k], loss, in_evaluation, state) == (*straight[k][:3], straight[k][4])
            assert all(map(torch.equal, weights, straight[k][3]))


def test_a_loss_along_the_way_changes_nothing_and_its_mode_is_that_asked_for():
    model = MODELS["BatchNorm"]().to(F64)
    case = make_case(model)
    with started(case) as start:
        trajectory = Trajectory(start, seed)
        trajectory.begin()
        for batch in batches_like(case):
            trajectory.gradient(batch)
            trajectory.step(0.1, batch)
        with unchanged(model), capture():
            in_training = trajectory.loss(case.evaluation_batch, seed(0))
            in_evaluation = trajectory.loss(case.evaluation_batch, seed(0), training=False)
        assert model.training
        x, y = case.evaluation_batch
        with torch.no_grad():
            expected = float(nn.functional.cross_entropy(model.eval()(x), y))
    assert in_evaluation == expected != in_training


@contextmanager
def capture():
    restore = capture_random_state([])
    yield
    restore()

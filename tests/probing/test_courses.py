"""Courses: the same batches for all, an end to the hopeless, and nothing lost on the way."""

import math
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from autolr.param_groups import base_learning_rates
from autolr.probing import tensors
from autolr.probing.courses import Courses
from autolr.probing.random_state import ForkedRandomness
from autolr.probing.start import Start
from autolr.probing.state import preserved_state
from autolr.training import check_training


class Rig:
    """A linear model on batches of its own, with the machinery of a search around it."""

    def __init__(self, *, outlier=None, loss_fn=None, hopeless=3.0):
        generator = torch.Generator().manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        X = torch.randn(40, 8, 3, generator=generator)
        self.batches = [(x, x.sum(1, keepdim=True)) for x in X]
        if outlier is not None:
            self.batches[outlier] = (X[outlier], 100.0 * self.batches[outlier][1])
        self.training = check_training(self.model, loss_fn or nn.MSELoss(), self.optimizer)
        self.hopeless = hopeless

    def __enter__(self):
        objective = self.training.objective()
        self._preserved = preserved_state(self.model, self.optimizer)
        snapshot = self._preserved.__enter__()
        base = base_learning_rates(self.optimizer)
        self.start = Start(objective, self.optimizer, snapshot, ForkedRandomness(()), base)
        self.start.randomness.fork(np.random.SeedSequence(0))
        objective.check(self.batches[0])
        return Courses(
            self.start,
            lambda step: self.batches[step],
            lambda step: np.random.SeedSequence(0, spawn_key=(step,)),
            hopeless=self.hopeless,
        )

    def __exit__(self, *error):
        self._preserved.__exit__(*error)


def test_a_course_that_is_interrupted_goes_on_as_if_it_had_not_been():
    with Rig() as courses:
        courses.measure_untrained(20)
        straight = courses.begin(0.05)
        courses.run(straight, 20)
        first, other = courses.begin(0.05), None
        for last in (3, 9, 20):
            courses.run(first, last)
            first.trajectory.park()
            other = courses.begin(0.3)
            courses.run(other, 4)
            first.trajectory.resume()
    assert first.losses == straight.losses
    assert len(first.losses) == 20
    assert other.losses[0] == first.losses[0]  # the same batch, the same weights, the same masks


@pytest.mark.parametrize("kind", ["Adam", "AdamW", "LBFGS", "Adagrad", "Rprop", "ASGD", "Adafactor"])
@pytest.mark.parametrize("trained", [0, 3])
def test_so_it_does_with_every_kind_of_optimizer_state(kind, trained):
    rig = Rig()
    options = {"AdamW": {"amsgrad": True}, "LBFGS": {"max_iter": 2}}.get(kind, {})
    rig.optimizer = getattr(torch.optim, kind)(rig.model.parameters(), lr=0.1, **options)
    rig.training = check_training(rig.model, nn.MSELoss(), rig.optimizer)
    for x, y in rig.batches[:trained]:

        def closure(x=x, y=y):
            rig.optimizer.zero_grad()
            loss = nn.functional.mse_loss(rig.model(x), y)
            loss.backward()
            return loss

        rig.optimizer.step(closure)
    with rig as courses:
        courses.measure_untrained(12)
        straight = courses.begin(0.01)
        courses.run(straight, 12)
        one, other = courses.begin(0.01), None
        courses.run(one, 4)
        one.trajectory.park()
        other = courses.begin(0.02)
        courses.run(other, 4)
        other.trajectory.park()
        for last in (8, 12):  # by turns, from the one to the other
            for course in (one, other):
                course.trajectory.resume()
                courses.run(course, last)
                course.trajectory.park()
        twice = courses.begin(0.02)
        courses.run(twice, 12)
    assert one.losses == straight.losses
    assert other.losses == twice.losses
    assert len(one.losses) == len(other.losses) == 12


def test_a_park_keeps_no_gradients_and_no_second_copy_of_what_the_optimizer_made(monkeypatch):
    rig = Rig()
    rig.optimizer = torch.optim.Adam(rig.model.parameters())
    rig.training = check_training(rig.model, nn.MSELoss(), rig.optimizer)
    with rig as courses:
        courses.measure_untrained(2)
        course = courses.begin(0.01)
        courses.run(course, 2)
        moments = rig.optimizer.state[rig.model[0].weight]["exp_avg"]
        gradient = weakref.ref(rig.model[0].weight.grad)
        copied = []
        add = tensors.DenseTensors.add
        monkeypatch.setattr(
            tensors.DenseTensors, "add", lambda self, tensor: copied.append(tensor) or add(self, tensor)
        )
        course.trajectory.park()
        assert gradient() is None
        assert len(copied) == len({id(tensor) for tensor in (*rig.model.parameters(), *rig.model.buffers())})
        assert not rig.optimizer.state
        course.trajectory.resume()
        assert rig.optimizer.state[rig.model[0].weight]["exp_avg"] is moments


def test_untrained_losses_have_the_masks_of_the_steps_though_drawing_a_batch_is_random():
    rig = Rig()
    with rig as courses:
        draw = courses._batch

        def random_batch(step):
            rig.start.randomness.fork(np.random.SeedSequence(99, spawn_key=(step,)))
            return draw(step)

        courses._batch = random_batch
        untrained = courses.measure_untrained(5)
        course = courses.begin(1e-30)
        courses.run(course, 5)
    np.testing.assert_allclose(course.losses, untrained, rtol=1e-6)


def test_a_course_that_diverges_is_given_up_at_its_first_hopeless_loss():
    with Rig() as courses:
        untrained = courses.measure_untrained(20)
        course = courses.begin(1e4)
        courses.run(course, 20)
    assert course.given_up == len(course.losses) - 1 < 19
    assert not course.losses[-1] <= 3.0 * max(untrained[0], untrained[course.given_up])
    assert course.score(10, 20) == math.inf


def test_a_batch_of_outliers_ends_no_course():
    for known in (20, 1):
        with Rig(outlier=7) as courses:
            courses.measure_untrained(known)
            course = courses.begin(1e-4)
            courses.run(course, 20)
        assert course.losses[7] > 100.0 * course.losses[6]
        assert course.given_up is None
        assert len(course.losses) == 20


def test_checking_for_outliers_on_the_way_leaves_the_course_as_it_was():
    # every batch after the first is like an outlier, so that untrained losses are measured all the time
    rigs = [Rig(), Rig()]
    for rig in rigs:
        rig.batches = [rig.batches[0], *((x, 30.0 * y) for x, y in rig.batches[1:])]
    losses = []
    for rig, known in zip(rigs, (1, 40), strict=True):
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in rig.model.parameters():
                parameter.copy_(torch.linspace(-1.0, 1.0, parameter.numel()).reshape(parameter.shape))
        with rig as courses:
            courses.measure_untrained(known)
            course = courses.begin(1e-5)
            courses.run(course, 30)
        losses.append(course.losses)
        assert course.given_up is None
    assert losses[0] == losses[1]


def test_losses_that_are_not_finite_end_a_course():
    calls = []

    def loss_fn(output, target):
        calls.append(1)
        return (output - target).pow(2).mean() * (float("nan") if len(calls) == 8 else 1.0)

    with Rig(loss_fn=loss_fn) as courses:
        courses.measure_untrained(1)
        calls.clear()
        course = courses.begin(1e-3)
        courses.run(course, 20)
    assert course.given_up == 7
    assert math.isnan(course.losses[-1])


def test_losses_below_zero_have_a_limit_too():
    with Rig(loss_fn=lambda output, target: (output - target).pow(2).mean() - 50.0) as courses:
        courses.measure_untrained(20)
        fine = courses.begin(1e-3)
        courses.run(fine, 20)
        hopeless = courses.begin(1e4)
        courses.run(hopeless, 20)
    assert fine.given_up is None
    assert hopeless.given_up is not None


def test_the_held_out_loss_is_that_of_evaluation_mode_and_leaves_the_course_alone():
    rig = Rig()
    with rig as courses:
        courses.measure_untrained(20)
        straight = courses.begin(0.05)
        courses.run(straight, 20)
        course = courses.begin(0.05)
        courses.run(course, 10)
        courses.judge(course, rig.batches[30:33], np.random.SeedSequence(5))
        modes = [module.training for module in rig.model.modules()]
        with torch.no_grad():
            rig.model.eval()
            expected = np.mean([float(nn.functional.mse_loss(rig.model(x), y)) for x, y in rig.batches[30:33]])
            rig.model.train()
        courses.run(course, 20)
    assert all(modes)
    assert course.held_out == pytest.approx(expected, rel=1e-6)
    assert course.losses == straight.losses


def test_the_rate_has_the_shape_that_is_given():
    rates = []
    rig = Rig()
    rig.optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    with rig as courses:
        courses.measure_untrained(6)
        course = courses.begin(0.02)
        courses.run(course, 6, shape=lambda step: min(1.0, (6 - step) / 4.0))
    np.testing.assert_allclose(rates, [0.02, 0.02, 0.02, 0.015, 0.01, 0.005])

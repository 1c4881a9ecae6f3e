"""The direction of a row: measured, checked by sketches, kept in the storage of the gradients."""

import math

import numpy as np
import pytest
import torch
from engine_cases import classes, cross_entropy, sgd
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from autolr.param_groups import base_learning_rates
from autolr.probing import direction as module
from autolr.probing.direction import Direction, is_linear, length_of
from autolr.probing.objective import Objective
from autolr.probing.random_state import ForkedRandomness
from autolr.probing.start import Start
from autolr.probing.state import preserved_state


@pytest.fixture
def rig():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(200, 300), nn.ReLU(), nn.Linear(300, 3))
    yield from _rig(model, sgd(model))


def _rig(model, optimizer):
    objective = Objective(model, None, cross_entropy, list(model.parameters()))
    with preserved_state(model, optimizer) as snapshot:
        randomness = ForkedRandomness([])
        randomness.fork(np.random.SeedSequence(0))
        start = Start(objective, optimizer, snapshot, randomness, base_learning_rates(optimizer))
        yield start, Direction(start), classes(8, 200, dtype=torch.float32)[0]


def test_the_direction_of_sgd_is_the_gradient_and_lies_in_its_storage(rig):
    start, direction, batch = rig
    gradients = direction.gradients(batch)
    expected = [gradient.clone() for gradient in gradients.values]
    direction.take(2.0, gradients)
    for step, gradient, value in zip(direction.steps, gradients.values, expected, strict=True):
        assert step.data_ptr() == gradient.data_ptr()
        torch.testing.assert_close(step, value, rtol=1e-4, atol=1e-7)
    direction.move(0.5)
    for parameter, origin, step in zip(direction.parameters, direction.origin, direction.steps, strict=True):
        assert torch.equal(parameter.data, torch.add(origin, step, alpha=-0.5))
    start.restore()


def test_gradients_into_which_the_optimizer_writes_are_copied():
    torch.manual_seed(0)
    model = nn.Linear(200, 3)

    class Clipping(torch.optim.SGD):
        def step(self, closure=None):
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            return super().step(closure)

    for start, direction, batch in _rig(model, Clipping(model.parameters(), lr=0.1)):
        gradients = direction.gradients(batch)
        before = [gradient.clone() for gradient in gradients.values]
        for _ in range(2):
            assert length_of(direction.step(1.0, gradients)) == pytest.approx(1e-3, rel=1e-3)
            start.restore()
            assert all(map(torch.equal, gradients.values, before))


def test_a_sketch_tells_the_length_of_a_change_and_whether_two_are_proportional():
    torch.manual_seed(0)
    origin, change = torch.randn(600, 1000), torch.randn(600, 1000)
    sketch = module._sketch(origin + change, origin)
    assert sketch.numel() < origin.numel() / 150
    assert float(sketch.norm()) == pytest.approx(float(change.norm()), rel=0.1)
    half = module._sketch(origin + change / 2.0, origin)
    assert float((half - sketch / 2.0).norm()) < 1e-5 * float(sketch.norm())
    for place in [(0, 0), (150, 7), (599, 999)]:  # one entry of 600,000 that goes another way
        other = change.clone()
        other[place] += 0.1 * float(change.norm())
        apart = module._sketch(origin + other, origin) - sketch
        assert 0.2 < float(apart.norm()) / (0.1 * float(change.norm())) < 3.0
    twin = torch.zeros(600, 1000)
    twin[:2] = torch.randn(1000)  # two rows that are equal, as those of tied weights
    assert float(module._sketch(origin + twin, origin).norm()) == pytest.approx(float(twin.norm()), rel=0.3)


def test_a_sketch_of_few_entries_is_exact_and_of_any_memory_format_the_same():
    origin, position = torch.zeros(3, 5), torch.arange(15.0).view(3, 5)
    assert module._sketch(position, origin).tolist() == list(range(15))
    torch.manual_seed(0)
    origin, position = torch.randn(16, 32, 5, 5), torch.randn(16, 32, 5, 5)
    formatted = [tensor.contiguous(memory_format=torch.channels_last) for tensor in (position, origin)]
    torch.testing.assert_close(module._sketch(*formatted), module._sketch(position, origin))


def test_a_step_off_the_line_in_one_large_tensor_is_found(rig):
    start, direction, batch = rig
    gradients = direction.gradients(batch)
    real = direction.step(0.1, gradients)
    start.restore()
    direction.take(1.0, gradients)
    line = direction.sketches()
    assert direction.off_line(0.1, real, line) is None
    assert "off the line" in direction.off_line(0.1, [real[0] * 1.01, *real[1:]], line)
    assert "off the line" in direction.off_line(0.1, [real[0] * math.nan, *real[1:]], line)


def test_which_optimizers_are_linear_by_their_formula():
    model = nn.Linear(2, 1)

    def optimizer(kind=torch.optim.SGD, **options):
        return kind(model.parameters(), lr=0.1, **options)

    scheduled = optimizer()
    torch.optim.lr_scheduler.StepLR(scheduled, 1)  # wraps the step, to count
    assert is_linear(optimizer())
    assert is_linear(scheduled)
    assert is_linear(optimizer(torch.optim.AdamW, amsgrad=True))
    assert not is_linear(optimizer(torch.optim.ASGD))
    assert not is_linear(optimizer(type("Own", (torch.optim.SGD,), {})))
    hooked, patched = optimizer(), optimizer()
    hooked.register_step_pre_hook(lambda *_: None)
    patched.step = lambda: None
    assert not is_linear(hooked)
    assert not is_linear(patched)
    handle = register_optimizer_step_post_hook(lambda *_: None)
    assert not is_linear(optimizer())
    handle.remove()

"""The loss of a model on a batch, however it is stated; and the mistakes that are refused."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from autolr.batches import MicroBatches
from autolr.probing.held import held_modules
from autolr.probing.objective import Objective


def objective(model=None, loss_fn=None, compute_loss=None):
    model = nn.Linear(3, 1) if model is None else model
    return Objective(model, loss_fn, compute_loss, list(model.parameters()))


class CarriesLoss(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.linear, self.wrap = nn.Linear(3, 1), wrap

    def forward(self, x, scale=1.0):
        return self.wrap(scale * self.linear(x).sum())


X = torch.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize(
    "wrap", [lambda loss: {"loss": loss}, lambda loss: SimpleNamespace(loss=loss)], ids=["item", "attribute"]
)
@pytest.mark.parametrize("batch", [X, (X, 1.0), [X], {"x": X, "scale": 1.0}], ids=["tensor", "tuple", "list", "dict"])
def test_a_models_output_may_carry_the_loss(batch, wrap):
    model = CarriesLoss(wrap)
    assert objective(model).loss(batch) == pytest.approx(float(model.linear(X).sum().detach()))


def test_the_three_ways_to_state_a_loss_agree():
    model, y = nn.Linear(3, 1), torch.zeros(4, 1)
    expected = float(model(X).square().mean().detach())
    assert objective(model, nn.MSELoss()).loss((X, y)) == pytest.approx(expected)
    assert objective(model, None, lambda model, batch: model(batch[0]).square().mean()).loss((X, y)) == pytest.approx(
        expected
    )


REFUSED = {
    "a loss that is no tensor": (
        {"compute_loss": lambda *_: 1.0},
        X,
        TypeError,
        r"`compute_loss` must return a tensor of floats, got 1\.0\.",
    ),
    "a loss of integers": (
        {"loss_fn": lambda *_: torch.tensor(1)},
        (X, X),
        TypeError,
        r"`loss_fn` must return a tensor of f",
    ),
    "a loss that is no scalar": (
        {"loss_fn": nn.MSELoss(reduction="none")},
        (X, torch.zeros(4, 1)),
        ValueError,
        r"`loss_fn` must return a scalar, the mean over the observations, got \(4, 1\)\.",
    ),
    "a batch that is no pair": (
        {"loss_fn": nn.MSELoss()},
        X,
        TypeError,
        r"must be given batches \(x, y\), got a Tensor: pass Y",
    ),
    "a batch of three": (
        {"loss_fn": nn.MSELoss()},
        (X, X, X),
        TypeError,
        r"must be given batches \(x, y\), got a tuple of 3",
    ),
    "no loss at all": (
        {},
        X,
        TypeError,
        r"`loss_fn` or `compute_loss` must be given, unless .* got an output 'Tensor'\.",
    ),
    "a loss that broadcasts": (
        {"loss_fn": nn.functional.mse_loss},
        (X, torch.arange(4.0)),
        ValueError,
        r"must compare output and target of one shape, got output \(4, 1\) and target \(4,\), which broadcast",
    ),
    "integers for a layer of floats": (
        {"compute_loss": lambda model, batch: model(batch).sum()},
        torch.ones(4, 3, dtype=torch.int64),
        TypeError,
        r"`X` must have a floating-point dtype for the model's Linear layer, got torch.int64: convert it",
    ),
}


@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_the_check_refuses(name):
    stated, batch, kind, message = REFUSED[name]
    model = nn.Linear(3, 1)
    with pytest.raises(kind, match=message):
        objective(model, **stated).check(batch)
    assert not model._forward_pre_hooks


@pytest.mark.parametrize("name", ["compute_loss", "loss_fn"])
def test_a_loss_that_does_not_depend_on_the_model_is_refused(name):
    stated = objective(**{name: lambda *_: torch.tensor(1.0)})
    with pytest.raises(ValueError, match=f"`{name}` must depend on trainable parameters, got tensor"):
        stated.gradient((X, X))


def test_a_loss_that_squeezes_by_itself_is_let_through():
    objective(loss_fn=lambda output, y: (output.squeeze(-1) - y).square().mean()).check((X, torch.arange(4.0)))


def test_every_loss_is_counted_and_known_for_its_resolution():
    stated = objective(compute_loss=lambda model, batch: model(batch).sum())
    stated.check(X)
    stated.loss(X)
    stated.gradient(X)
    assert (stated.num_forwards, stated.num_gradients) == (2, 1)
    assert stated.epsilon == torch.finfo(torch.float32).eps


TEACHER, STUDENT, LIST = nn.Linear(1, 1), nn.Linear(1, 1), [nn.Linear(1, 1)]


def helper(batch):
    return TEACHER(batch)


class Holder:
    def __init__(self):
        self.nets, self.data = {"teacher": TEACHER}, list(range(1_000))

    def method(self):
        return self.nets

    __call__ = method


HOLDERS = {
    "a module": TEACHER,
    "a function by a global name": helper,
    "a function that calls another": lambda batch: helper(batch),
    "a function within a function": lambda: lambda: TEACHER,
    "a closure": (lambda net: lambda batch: net(batch))(TEACHER),
    "a default": lambda batch, net=TEACHER: net(batch),
    "a partial": partial(lambda net, batch: net(batch), TEACHER),
    "a method": Holder().method,
    "an instance": Holder(),
    "a bound method of a module": TEACHER.forward,
    "a list": [[TEACHER]],
}


@pytest.mark.parametrize("name", HOLDERS)
def test_a_module_is_found_in(name):
    assert held_modules(HOLDERS[name]) == [TEACHER]


def test_modules_are_found_once_and_values_hold_none():
    assert held_modules(STUDENT, helper, TEACHER, STUDENT) in ([STUDENT, TEACHER], [TEACHER, STUDENT])
    assert held_modules(None, 3, torch.ones(2), nn.functional.mse_loss, nn.Linear, torch) == []
    assert held_modules(lambda: LIST) == LIST


def test_a_loss_that_broadcasts_to_the_same_value_by_chance_is_refused_too():
    far_above = nn.Linear(3, 1)
    nn.init.constant_(far_above.bias, 100.0)
    y = torch.arange(4.0)
    absolute = objective(far_above, lambda output, target: (output - target).abs().mean())
    with pytest.raises(ValueError, match=r"got output \(4, 1\) and target \(4,\), which broadcast"):
        absolute.check((X, y))
    absolute.check((X, y.reshape(4, 1)))
    objective(far_above, lambda output, target: (output.squeeze(1) - target).abs().mean()).check((X, y))


def test_the_gradient_of_micro_batches_is_that_of_the_batch_that_they_make_up():
    model, batch = nn.Linear(3, 1).double(), (X.double(), torch.zeros(4, 1).double())
    whole = objective(model, nn.MSELoss())
    expected = whole.gradient(batch)
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    parts = objective(model, nn.MSELoss())
    micro = MicroBatches((batch[0][rows], batch[1][rows]) for rows in (slice(2), slice(2, 4)))
    loss = parts.gradient(micro)
    assert float(loss) == pytest.approx(float(expected), rel=1e-14)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-14, atol=0.0)
    assert (whole.num_gradients, parts.num_gradients) == (1, 2)
    assert parts.loss(micro) == pytest.approx(float(expected), rel=1e-14)
    assert parts.num_forwards == 2

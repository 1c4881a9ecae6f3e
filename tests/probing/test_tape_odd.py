"""Forwards that a record repeats wrongly, or cannot repeat: the numbers must be those of real steps nevertheless."""

import copy

import numpy as np
import pytest
import torch
from engine_cases import Case, classes, cross_entropy, probe, sgd
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from autolr.probing import replay
from autolr.probing.tape import Recorder, UnfitError

RATES = np.geomspace(1e-3, 1.0, 12)
NUM_ROWS = 5
ODD = 2
FLOAT = torch.float32

both_engines = pytest.mark.parametrize("engine", ["line", "batched"])


@pytest.fixture(autouse=True)
def _small_layers_are_hoisted(monkeypatch):
    monkeypatch.setattr(replay, "_WORTH", 1)


class Net(nn.Module):
    """A perceptron whose hidden layer goes through a function of the test's."""

    def __init__(self, between=lambda _, hidden: torch.tanh(hidden)):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)
        self.register_buffer("buffer", torch.linspace(0.5, 1.5, 6))
        self.between = between

    def forward(self, x):
        return self.last(self.between(self, self.first(x)))


def rows(make=lambda: classes(8, 5, dtype=FLOAT)):
    torch.manual_seed(0)
    return [make() for _ in range(NUM_ROWS)]


def in_odd_row(batches, *options):
    """Return batches (x, y, option), with the second option in the odd row."""
    usual, odd = options
    return [[(*batch, odd if row == ODD else usual) for batch in pair] for row, pair in enumerate(batches)]


def assert_equal_to_steps(model, engine, loss=cross_entropy, batches=None, rates=RATES, optimizer=sgd):
    batches = batches or rows()
    case = Case(model, optimizer(model), loss, *batches[0], extra=model)
    slow = probe(case, "step", rates, num_rows=len(batches), batches=batches)
    fast = probe(case, engine, rates, num_rows=len(batches), batches=batches)
    assert np.isfinite(slow.loss_pre).all()
    np.testing.assert_allclose(fast.loss_post, slow.loss_post, rtol=2e-6)
    np.testing.assert_allclose(fast.loss_pre, slow.loss_pre, rtol=2e-6)


# what the calls of torch need besides their arguments


def derivative_within(_, hidden):
    with torch.enable_grad():
        point = hidden.detach().requires_grad_()
        (slope,) = torch.autograd.grad(torch.tanh(point).square().sum(), point)
    return hidden + slope


def jacobian_within(_, hidden):
    return hidden + torch.autograd.functional.jacobian(lambda z: torch.tanh(z).sum(0), hidden).sum((0, 1))


def forward_derivative_within(_, hidden):
    return hidden + torch.func.jvp(torch.tanh, (hidden,), (torch.ones_like(hidden),))[1]


def autocast_within(_, hidden):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        constant = torch.ones(6, 6) @ torch.ones(6, 6)
        return hidden + 0.0 * torch.addmm(torch.zeros(6, dtype=torch.bfloat16), hidden, constant).float()


@both_engines
@pytest.mark.parametrize("between", [derivative_within, jacobian_within, forward_derivative_within, autocast_within])
def test_a_context_within_the_forward_is_no_error(between, engine):
    assert_equal_to_steps(Net(between), engine)


@both_engines
def test_a_frozen_layer_under_autocast_is_no_error(engine):
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.body, self.head = nn.Linear(5, 64).requires_grad_(False), nn.Linear(64, 3)

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.head(self.body(x)).float()

    assert_equal_to_steps(Head(), engine, optimizer=lambda model: sgd(model.head))


@both_engines
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_forward_that_is_compiled_out_of_sight_is_no_error(engine):
    compiled = torch.compile(lambda z: 2.0 * torch.tanh(z), backend="eager", fullgraph=True)

    class Holder:
        def __init__(self, held):
            self.held = held

    model = Net(lambda net, hidden: net.holder.held.held.held(hidden))
    model.holder = Holder(Holder(Holder(compiled)))
    assert_equal_to_steps(model, engine)


@both_engines
def test_a_branch_within_a_function_that_is_handed_to_torch_is_no_error(engine):
    def distance(one, other):
        squares = (one - other).square().sum(1)
        return 2.0 * squares if float(squares.detach().mean()) > 0.1 else squares

    def loss(model, batch):
        z = model(batch[0])
        return F.triplet_margin_with_distance_loss(z[:3], z[3:6], z[5:8], distance_function=distance)

    assert_equal_to_steps(Net(), engine, loss)


# what is wrong in some rows only


def test_a_copy_hangs_on_no_object_of_the_record():
    """``copy.deepcopy`` notes ids, which other tensors have at other rates: a stale copy, or an error, now and then."""
    model, (x, y) = Net(lambda _, hidden: hidden + copy.deepcopy(hidden.detach())), rows()[0][0]
    recorder = Recorder(list(model.parameters()), [model.buffer, x, y])
    with torch.no_grad():
        with recorder:
            loss = cross_entropy(model, (x, y))
        try:
            calls = recorder.tape(loss).calls
        except UnfitError:
            return
    assert not any(isinstance(key, int) for call in calls for part in call.args if type(part) is dict for key in part)


@both_engines
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_padding_in_some_rows_of_an_encoder_in_evaluation_mode(engine):
    """Torch's fast path, by nested tensors, gives zeros at the padding; under a mode it is not taken."""

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(8, 3)

        def forward(self, x, padding):
            return self.head(self.encoder(x, src_key_padding_mask=padding).mean(1))

    def loss(model, batch):
        x, y, length = batch
        padding = torch.arange(4).expand(len(x), 4) >= length
        padding[0] = False
        return F.cross_entropy(model(x, padding), y)

    batches = in_odd_row(rows(lambda: classes(6, 4, 8, dtype=FLOAT)), 4, 2)
    assert_equal_to_steps(Encoder().eval(), engine, loss, batches)


@both_engines
@pytest.mark.parametrize("view", ["data", "detach"])
def test_weights_that_are_clamped_through_a_view_at_the_highest_rates_of_some_row(view, engine):
    class Clamped(Net):
        def forward(self, x):
            with torch.no_grad():
                for layer in (self.first, self.last):
                    (layer.weight.data if view == "data" else layer.weight.detach()).clamp_(-0.6, 0.6)
            return super().forward(x)

    def loss(model, batch):
        return batch[2] * cross_entropy(model, batch[:2])

    batches = in_odd_row(rows(), 1.0, 32.0)
    batches[ODD][1] = (*batches[ODD][1][:2], 1.0)
    rates = np.geomspace(1e-3, 0.3, 24)
    assert_equal_to_steps(Clamped(), engine, loss, batches, rates)


@both_engines
def test_a_loss_that_is_a_weight_in_some_row(engine):
    model = Net()
    model.level = nn.Parameter(torch.tensor(0.5))

    def loss(model, batch):
        return model.level if batch[2] else cross_entropy(model, batch[:2]) + model.level**2

    assert_equal_to_steps(model, engine, loss, in_odd_row(rows(), False, True))


@both_engines
def test_weights_within_a_function_that_is_handed_to_torch_in_some_row(engine):
    def loss(model, batch):
        x, y, is_odd = batch
        extra = 0.0
        if is_odd:
            extra = F.triplet_margin_with_distance_loss(
                x[:3], x[3:6], x[5:8], distance_function=lambda a, b: model.first(a - b).square().sum(1)
            )
        return cross_entropy(model, (x, y)) + extra

    assert_equal_to_steps(Net(), engine, loss, in_odd_row(rows(), False, True))


@both_engines
def test_running_statistics_used_through_a_view_in_some_row(engine):
    def loss(model, batch):
        z = model(batch[0])
        if batch[2]:
            mean, variance = torch.zeros(3), torch.ones(3)
            view = mean[:]
            z = F.batch_norm(z, mean, variance, training=True, momentum=1.0) + 2.0 * view
        return F.cross_entropy(z, batch[1])

    assert_equal_to_steps(Net(), engine, loss, in_odd_row(rows(), False, True))


@both_engines
def test_a_row_whose_record_has_diverged_is_verified_too(engine):
    """At the upper rates of the odd row the loss overflows, and what is replayed there equals what was recorded."""

    odd = {}

    def between(net, hidden):
        if not odd["here"]:
            return hidden
        view = net.buffer[:]
        net.buffer.mul_(1.5)  # put back after the forward, and the view with it
        return hidden * view

    def loss(model, batch):
        x, y, scale = batch
        odd["here"] = scale > 1.0
        return scale * F.mse_loss(model(x), y[:, None].float().expand(-1, 3))

    batches = in_odd_row(rows(), 1.0, 1e11)
    batches[ODD][1] = (*batches[ODD][1][:2], 1.0 + 1e-6)
    assert_equal_to_steps(Net(between), engine, loss, batches)


# what is lost in the tolerance of small losses


@torch.jit.script
def swish(z: torch.Tensor) -> torch.Tensor:
    return z * torch.sigmoid(z)


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=0.1)


@both_engines
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("scale", [1e-6, 1e-7])
def test_a_scripted_function_under_a_small_loss(scale, engine):
    def loss(model, batch):
        return scale * F.mse_loss(model(batch[0]), batch[0][:, :3])

    rates = np.geomspace(1e-4, 0.1, 24)
    assert_equal_to_steps(Net(lambda _, hidden: swish(hidden)), engine, loss, rates=rates, optimizer=adam)


@both_engines
@pytest.mark.parametrize("scale", [1e-4, 1e-6])
def test_autocast_within_a_small_loss(scale, engine):
    def loss(model, batch):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(batch[0])
        return scale * F.mse_loss(output.float(), batch[0][:, :3])

    rates = np.geomspace(1e-4, 0.1, 24)
    assert_equal_to_steps(Net(), engine, loss, rates=rates, optimizer=adam)


# an interrupt


def test_an_interrupt_between_two_modes_is_raised_and_no_mode_of_the_users_is_lost(monkeypatch):
    """While a function is called, torch takes the mode off and puts it back by a line of Python."""
    push, is_off = torch.overrides._push_mode, [False]

    def interrupted(mode):
        if type(mode).__name__ == "Recorder" and is_off[0]:
            is_off[0] = False
            raise KeyboardInterrupt
        push(mode)

    def loss(model, batch):
        monkeypatch.setattr(torch.overrides, "_push_mode", interrupted)
        is_off[0] = any(type(m).__name__ == "Recorder" for m in torch.overrides._get_current_function_mode_stack())
        return cross_entropy(model, batch)

    model = Net()
    with torch.device("cpu"):
        before = torch.overrides._get_current_function_mode_stack()
        try:
            with pytest.raises(KeyboardInterrupt):
                probe(Case(model, sgd(model), loss, *rows()[0]), "line", RATES)
            assert torch.overrides._get_current_function_mode_stack() == before
        finally:
            while torch._C._len_torch_function_stack() < len(before):
                push(before[torch._C._len_torch_function_stack()])

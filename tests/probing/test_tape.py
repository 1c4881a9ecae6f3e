"""What is recorded of a forward, what is refused, and that a repetition is right whatever a forward does."""

import numpy as np
import pytest
import torch
from engine_cases import Case, classes, cross_entropy, probe, sgd
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from autolr.probing import replay
from autolr.probing.tape import Recorder, UnfitError

RATES = np.geomspace(1e-3, 1.0, 12)


@pytest.fixture(autouse=True)
def _small_layers_are_hoisted_too(monkeypatch):
    monkeypatch.setattr(replay, "_WORTH", 0)


class Net(nn.Module):
    """A perceptron whose hidden layer goes through a function of the test's."""

    def __init__(self, between):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)
        self.register_buffer("buffer", torch.linspace(0.5, 1.5, 6))
        self.frozen = nn.Parameter(torch.linspace(1.0, 2.0, 6), requires_grad=False)
        self.between = between

    def forward(self, x):
        return self.last(self.between(self, self.first(x)))


def overwritten_view(_, hidden):
    view = hidden.view(-1)
    return torch.tanh(hidden) * view.view_as(hidden)


def in_place_on_a_view(_, hidden):
    half = hidden[:, :3]
    half.relu_()
    return hidden * 2.0


def entries_set(net, hidden):
    hidden = hidden * 1.0
    hidden[:, 1] = net.buffer[1]
    hidden[:, 2] = hidden[:, 3].exp()
    return hidden


def several_outputs(_, hidden):
    first, second, third = hidden.chunk(3, dim=1)
    return torch.cat([first * second, torch.max(hidden, dim=1).values[:, None].expand(-1, 2), third], dim=1)


def iterated(_, hidden):
    return torch.stack([row.tanh() for row in hidden])


def counted_in_a_buffer(net, hidden):
    net.buffer.mul_(1.1)
    return hidden * net.buffer


def noise_of_its_own(_, hidden):
    return hidden * torch.rand(6) + torch.randn_like(hidden) + F.dropout(hidden, 0.3)


def weights_taken_apart(net, hidden):
    return hidden * net.first.weight.t()[0] + net.first.bias.detach().clone() + net.frozen


def affine_twice(net, hidden):
    return hidden + net.first(torch.ones(5)) + F.linear(torch.ones(5), net.first.weight, net.frozen)


def linear_without_a_moving_bias(net, hidden):
    return F.linear(hidden, net.last.weight.repeat(2, 1), net.frozen) + F.linear(hidden, net.last.weight).repeat(1, 2)


def a_custom_function(_, hidden):
    class Rounded(torch.autograd.Function):
        @staticmethod
        def forward(_, value):
            return value.round(decimals=1) * 1.0

        @staticmethod
        def backward(_, gradient):
            return gradient

    return Rounded.apply(hidden)


def from_numbers(_, hidden):
    return hidden * torch.from_numpy(np.linspace(0.5, 1.5, 6, dtype=np.float32)) * torch.Tensor([2.0])


def losses_of_many_shapes(_, hidden):
    penalty = F.mse_loss(hidden, torch.zeros_like(hidden)) + F.softplus(hidden).mean() + (hidden @ hidden.T).trace()
    return hidden + penalty


FIT = [
    overwritten_view,
    in_place_on_a_view,
    entries_set,
    several_outputs,
    iterated,
    counted_in_a_buffer,
    noise_of_its_own,
    weights_taken_apart,
    affine_twice,
    linear_without_a_moving_bias,
    a_custom_function,
    from_numbers,
    losses_of_many_shapes,
]


def branch(_, hidden):
    return hidden * 2.0 if hidden.mean() > 0.0 else hidden * 3.0


def number(_, hidden):
    return hidden / hidden.abs().max().item()


def array(_, hidden):
    return hidden + torch.as_tensor(hidden.detach().numpy())


def buffer_written(net, hidden):
    net.buffer.copy_(hidden.detach().mean(0))
    return hidden * net.buffer


def buffer_written_after_use(net, hidden):
    hidden = hidden + net.buffer
    net.buffer.add_(1.0)
    return hidden


def weight_written(net, hidden):
    with torch.no_grad():
        net.last.weight.mul_(1.0)
    return hidden


def memory_of_a_weight(_, hidden):
    return hidden * ALIASES[0][:, 0]


def own_generator(_, hidden):
    return hidden + torch.normal(hidden, 1.0, generator=torch.Generator().manual_seed(0))


def statistics_used(_, hidden):
    mean, variance = torch.zeros(6), torch.ones(6)
    return F.batch_norm(hidden, mean, variance, training=True) + mean


def a_slice_of_values(_, hidden):
    return hidden[:, : (hidden.sum() * 0.0).long() + 6]


UNFIT = {
    branch: "__bool__ makes a value of Python that depends on the rate",
    number: "item makes a value of Python that depends on the rate",
    array: "numpy makes a value of Python that depends on the rate",
    buffer_written: "a tensor is written to by what depends on the rate",
    buffer_written_after_use: "a tensor is written to after it was used",
    weight_written: "a weight is written to",
    memory_of_a_weight: "a tensor shares its memory with a weight",
    own_generator: "a generator of its own is drawn from",
    statistics_used: "running statistics are used",
    a_slice_of_values: "a slice holds tensors",
}
ALIASES = []


def case_of(between):
    model = Net(between)
    ALIASES[:] = [model.first.weight.detach()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    case = Case(model, torch.optim.SGD(trained, lr=0.1), cross_entropy, *classes(8, 5, dtype=torch.float32))
    case.extra = model
    return case


def record(between):
    case = case_of(between)
    x, y = case.batch
    moving = [parameter for parameter in case.model.parameters() if parameter.requires_grad]
    recorder = Recorder(moving, [*case.model.buffers(), case.model.frozen, x, y])
    with torch.no_grad():
        with recorder:
            loss = cross_entropy(case.model, (x, y))
        return recorder.tape(loss)


@pytest.mark.parametrize("engine", ["line", "batched", "chunks"])
@pytest.mark.parametrize("between", FIT)
def test_a_forward_is_repeated_from_its_calls(between, engine, monkeypatch):
    record(between)
    if engine == "chunks":
        monkeypatch.setattr(replay, "_ROOM", {"cpu": 1})
    name = engine.replace("chunks", "batched")
    case = case_of(between)
    slow, fast = probe(case, "step", RATES, num_rows=3), probe(case, name, RATES, num_rows=3)
    assert fast.engine == name, fast.engine_reason
    np.testing.assert_allclose(fast.loss_post, slow.loss_post, rtol=2e-6)
    np.testing.assert_allclose(fast.loss_pre, slow.loss_pre, rtol=2e-6)


@pytest.mark.parametrize("engine", ["line", "batched"])
@pytest.mark.parametrize("between", UNFIT)
def test_a_forward_that_cannot_be_repeated_is_refused_and_computed_whole(between, engine):
    with pytest.raises(UnfitError, match=f"^{UNFIT[between]}$"):
        record(between)
    case = case_of(between)
    slow, fast = probe(case, "step", RATES, num_rows=3), probe(case, engine, RATES, num_rows=3)
    np.testing.assert_allclose(fast.loss_post, slow.loss_post, rtol=2e-6)


@pytest.mark.parametrize("engine", ["line", "batched"])
def test_a_shape_that_depends_on_the_rate_in_a_middle_row_only_is_found(engine):
    def between(_, hidden):
        large = hidden[hidden > 3.0]
        return hidden + large.shape[0]

    case, batches = case_of(between), [classes(8, 5, dtype=torch.float32) for _ in range(4)]
    for x, _ in batches[1]:
        x *= 20.0
    for batch, _ in (*batches[0], *batches[2], *batches[3]):
        batch *= 0.01
    slow, fast = (probe(case, name, RATES, num_rows=4, batches=batches) for name in ("step", engine))
    assert len(set(slow.loss_post[1])) > 2
    np.testing.assert_allclose(fast.loss_post, slow.loss_post, rtol=2e-6)


@pytest.mark.parametrize("engine", ["line", "batched"])
def test_what_is_made_of_weights_out_of_sight_is_found_by_its_values(engine):
    def between(net, hidden):
        with torch._C.DisableTorchFunction():
            scale = torch.tanh(net.first.weight).sum()
        return hidden * scale

    assert len(record(between).unseen) == 1
    case = case_of(between)
    slow, fast = probe(case, "step", RATES, num_rows=3), probe(case, engine, RATES, num_rows=3)
    assert fast.engine == "line"
    np.testing.assert_allclose(fast.loss_post, slow.loss_post, rtol=2e-6)


def test_only_what_depends_on_the_rate_is_on_the_tape():
    def between(net, hidden):
        offset = (net.buffer * 2.0 + net.frozen).exp()
        return hidden + offset

    tape = record(between)
    assert [call.function.__name__ for call in tape.calls] == ["linear", "add", "linear", "cross_entropy"]
    assert not tape.unseen
    assert len(tape.weights) == 4


def test_a_first_layer_is_computed_twice_a_row_and_its_weights_are_not_moved():
    tape = record(lambda _, hidden: torch.tanh(hidden))
    points = [(weight.detach().clone(), torch.ones_like(weight)) for weight in tape.weights]
    assert replay.Replay(tape, points, lambda _: None).still == {id(weight) for weight in tape.weights[:2]}


def test_values_are_dropped_after_their_last_use():
    alive = []

    class Probe(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            output = func(*args, **(kwargs or {}))
            if isinstance(output, torch.Tensor):
                alive.append(torch.multiprocessing.reductions.StorageWeakRef(output.untyped_storage()))
            most.append(sum(not ref.expired() for ref in alive))
            return output

    def deep(_, hidden):
        for _ in range(20):
            hidden = torch.sin(hidden)
        return hidden

    tape, most = record(deep), []
    points = [(weight.detach().clone(), torch.ones_like(weight)) for weight in tape.weights]
    with torch.no_grad(), Probe():
        replay.Replay(tape, points, lambda _: None).in_turn([0.1], lambda _: None)
    assert len(alive) >= 20
    assert max(most) <= 8


def test_a_constant_is_not_computed_again():
    calls = []

    class Counting(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            calls.append(func)
            return func(*args, **(kwargs or {}))

    tape = record(lambda _, hidden: hidden * torch.linalg.inv(torch.eye(6)).sum(0))
    points = [(weight.detach().clone(), torch.ones_like(weight)) for weight in tape.weights]
    with torch.no_grad(), Counting():
        repeated = replay.Replay(tape, points, lambda _: None)
        repeated.in_turn([0.1], lambda _: None)
        repeated.at_once(torch.tensor([0.1, 0.2]))
    assert torch.linalg.inv not in calls


def test_a_model_is_called_three_times_a_row_whatever_the_number_of_rates():
    forwards = []
    model = Net(lambda _, hidden: hidden)
    forward = model.forward
    model.forward = lambda x: forwards.append(1) or forward(x)
    case = Case(
        model, sgd(nn.ModuleList([model.first, model.last])), cross_entropy, *classes(8, 5, dtype=torch.float32)
    )
    counts = []
    for num_rows in (3, 4):
        forwards.clear()
        probe(case, "batched", RATES, num_rows=num_rows)
        counts.append(len(forwards))
    assert counts[1] - counts[0] == 3  # for the gradient, for the record and for the check

"""Any model: tuner and search train it as a loop by hand does, and leave it as it was, bit for bit."""

import numpy as np
import oracles
import pytest
import torch
from harness import unchanged
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn.utils import parametrizations
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from autolr import AutoLRTuner, find_lr

RATES = np.array([1e-3, 1e-2, 0.1, 1.0])
F64 = torch.float64
NUM_BATCHES, SIZE = 16, 8
X = torch.randn(NUM_BATCHES * SIZE, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
Y = X.sum(1, keepdim=True).tanh()
BATCHES = [(X[i : i + SIZE], Y[i : i + SIZE]) for i in range(0, len(X), SIZE)]


def seeded(make):
    """Return what ``make`` makes, with the same initial weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch.Generator().manual_seed(0).get_state())
        return make()


def loss(model, batch):
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def case(make):
    """Return a model, its optimizer in the middle of a training, the loss, and all networks."""
    model = seeded(make).to(F64)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
    for batch in BATCHES[:2]:
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
    return model, optimizer, loss, [model]


def perceptron():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def normed():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x))).sum(1, keepdim=True)


class Whitens(nn.Module):
    """Puts another buffer in the place of its own in each forward of training."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return self.linear(x - self.mean)


class Spectrum(nn.Module):
    """A filter with complex weights."""

    def __init__(self, dtype):
        super().__init__()
        self.response = nn.Parameter(torch.randn(3, dtype=dtype))
        self.head = nn.Linear(4, 1, dtype=dtype.to_real())

    def forward(self, x):
        return self.head(torch.fft.irfft(torch.fft.rfft(x) * self.response, n=4))


class LearnedLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros((), dtype=F64))

    def forward(self, model, batch):
        return loss(model, batch) * torch.exp(-self.log_variance) + self.log_variance


def plain():
    return case(perceptron)


def batch_norm():
    return case(normed)


def tied_weights():
    return case(Tied)


def frozen_backbone():
    def make():
        model = nn.Sequential(normed()[:3], nn.Linear(8, 1))
        model[0].requires_grad_(False).eval()
        return model

    return case(make)


def mixed_modes():
    def make():
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.BatchNorm1d(8), nn.Linear(8, 1))
        model[1].eval()
        return model

    return case(make)


def buffer_that_is_replaced():
    return case(Whitens)


def weight_norm():
    return case(lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 8)), nn.Tanh(), nn.Linear(8, 1)))


def spectral_norm():
    return case(lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 8)), nn.Tanh(), nn.Linear(8, 1)))


def spectral_norm_by_a_hook():
    return case(lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 8)), nn.Tanh(), nn.Linear(8, 1)))


def orthogonal():
    return case(lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4)), nn.Tanh(), nn.Linear(4, 1)))


def complex_parameters():
    model = seeded(lambda: Spectrum(torch.complex128))
    return model, torch.optim.Adam(model.parameters(), lr=0.1), loss, [model]


def bfloat16():
    def rounded(model, batch):
        return nn.functional.mse_loss(model(batch[0].bfloat16()).float(), batch[1].float())

    model = seeded(perceptron).bfloat16()
    return model, torch.optim.SGD(model.parameters(), lr=0.1), rounded, [model]


def learned_loss():
    model, compute_loss = seeded(perceptron).to(F64), LearnedLoss()
    optimizer = torch.optim.Adam([*model.parameters(), *compute_loss.parameters()], lr=0.1)
    return model, optimizer, compute_loss, [model, compute_loss]


MODELS = [
    plain,
    batch_norm,
    tied_weights,
    frozen_backbone,
    mixed_modes,
    buffer_that_is_replaced,
    weight_norm,
    spectral_norm,
    spectral_norm_by_a_hook,
    orthogonal,
    complex_parameters,
    bfloat16,
    learned_loss,
]


def assert_as_by_hand(given, make, engines=("step", "line", "auto")):
    """Tune and search the objects given, and compare every loss with those of objects that ``make`` makes."""
    model, optimizer, compute_loss, networks = given
    training, held_out = BATCHES[4:], BATCHES[:4]
    _, post = oracles.tuning_by_hand(make, RATES, training[:6])
    with unchanged(model, optimizer, extra=networks):
        for engine in engines:
            tuner = AutoLRTuner(model, optimizer=optimizer, compute_loss=compute_loss)
            result = tuner.tune(training, learning_rates=RATES, num_subsamples=3, engine=engine)
            np.testing.assert_allclose(result.differentials.loss_post[:, :, 0], post, rtol=1e-6)
        suggestion = find_lr(
            model, None, optimizer, training, compute_loss=compute_loss, val_data=held_out, total_steps=30
        )
    trace = suggestion.evidence.trace
    np.testing.assert_allclose(trace["loss"], oracles.search_by_hand(make, trace, training, held_out), rtol=1e-6)


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_every_loss_is_that_of_a_loop_by_hand_and_nothing_is_changed(make):
    assert_as_by_hand(make(), make)


class Calls(nn.Module):
    """A perceptron whose activation is given."""

    def __init__(self, activation):
        super().__init__()
        self.first, self.second, self.activation = nn.Linear(4, 8), nn.Linear(8, 1), activation

    def forward(self, x):
        return self.second(self.activation(self.first(x)))


def squash(x):
    return torch.tanh(x)


class CallsByName(Calls):
    """The same, with an activation that only the code of ``forward`` names."""

    def forward(self, x):
        return self.second(named(self.first(x)))


def compiled_in_place(model, counter):
    model.compile(backend=counter)
    return model


def compiled_in_a_method(model, counter):
    model.forward = torch.compile(model.forward, backend=counter)
    return model


def compiled_in_an_attribute(_, counter):
    return seeded(lambda: Calls(torch.compile(squash, backend=counter))).to(F64)


def compiled_by_name(_, counter):
    global named  # as functions of a user's module are
    named = torch.compile(squash, backend=counter)
    return seeded(lambda: CallsByName(None)).to(F64)


# from a model and a backend to the model, compiled in some way
WAYS = {
    "model": lambda model, counter: torch.compile(model, backend=counter),
    "model in place": compiled_in_place,
    "method": compiled_in_a_method,
    "part": lambda model, counter: nn.Sequential(torch.compile(model, backend=counter)),
    "function in an attribute": compiled_in_an_attribute,
    "function by its name": compiled_by_name,
}


def with_sgd(model):
    return model, torch.optim.SGD(model.parameters(), lr=0.1), loss, [model]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's own
@pytest.mark.parametrize("way", WAYS)
def test_what_is_compiled_is_right_and_compiled_no_more_often_than_for_training_and_evaluation(way):
    counter = CompileCounter()
    torch._dynamo.reset()

    def eager():
        return with_sgd(seeded(lambda: Calls(squash)).to(F64))

    model, optimizer, _, networks = with_sgd(WAYS[way](eager()[0], counter))
    assert_as_by_hand((model, optimizer, loss, networks), eager)
    counted = counter.frame_count
    assert 2 <= counted <= 3  # with gradients, without, and without in evaluation mode
    for rates in (RATES, np.geomspace(1e-4, 1.0, 30)):
        tuner = AutoLRTuner(model, nn.MSELoss(), optimizer)
        tuner.tune(BATCHES, learning_rates=rates, num_subsamples=8, horizon=[1, 2])
        tuner.tune(BATCHES, learning_rates=rates, num_subsamples=8)
    find_lr(model, nn.MSELoss(), optimizer, BATCHES, total_steps=30)
    assert counter.frame_count == counted


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("rate", [0.1, torch.tensor(0.1, dtype=F64)], ids=["float", "tensor"])
def test_a_step_that_is_compiled_is_taken_as_it_was_written(rate, warm):
    def made():
        model = seeded(perceptron).to(F64)
        optimizer = torch.optim.Adam(model.parameters(), lr=rate if isinstance(rate, float) else rate.clone())
        if warm:
            loss(model, BATCHES[0]).backward()
            optimizer.step()
        return model, optimizer, loss, [model]

    given, counter = made(), CompileCounter()
    given[1].step = torch.compile(given[1].step, backend=counter)
    assert_as_by_hand(given, made)
    assert counter.frame_count == 0


class NoDoubles(TorchDispatchMode):
    """A device without float64."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        doubles = [t for t in pytree.tree_leaves(output) if isinstance(t, torch.Tensor) and t.dtype == F64]
        assert not doubles, f"{func} made float64"
        return output


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_a_model_in_single_precision_asks_no_device_for_double_precision(optimizer):
    model = seeded(normed)
    own = optimizer(model.parameters(), lr=0.1)
    data = (X.float(), Y.float())
    options = {"clip": lambda p: nn.utils.clip_grad_norm_(p, 1.0), "scaler": torch.amp.GradScaler("cpu")}
    with unchanged(model, own), NoDoubles():
        for engine, more in (("step", {}), ("line", {}), ("batched", {"warmup_steps": 1}), ("auto", {"horizon": 2})):
            tuner = AutoLRTuner(model, nn.MSELoss(), own, rng=0)
            tuner.tune(*data, learning_rates=np.geomspace(1e-3, 1.0, 10), num_subsamples=2, engine=engine, **more)
        tuner = AutoLRTuner(model, nn.MSELoss(), own, rng=0, accumulation_steps=2, **options)
        tuner.tune(*data, learning_rates=RATES, num_subsamples=2)
        find_lr(model, nn.MSELoss(), own, data, total_steps=20, rng=0)


def test_numbers_of_numpy_stay_real_where_the_first_parameter_is_complex():
    model = seeded(lambda: Spectrum(torch.complex64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    arrays = [values.numpy() for values in (X, Y)]
    result = AutoLRTuner(model, nn.MSELoss(), optimizer, rng=0).tune(*arrays, learning_rates=RATES, num_subsamples=2)
    same = AutoLRTuner(model, nn.MSELoss(), optimizer, rng=0)
    same = same.tune(X.float(), Y.float(), learning_rates=RATES, num_subsamples=2)
    np.testing.assert_array_equal(result.differentials.loss_post, same.differentials.loss_post)
    assert result.settings["dtype"] == "complex64"

"""Forwards that are repeated from the calls of one: what that spares, and when it is left out."""

import numpy as np
import pytest
import torch
from engine_cases import Case, classes, cross_entropy, mlp, probe, sgd
from model_cases import TiedLanguageModel
from torch import nn

from autolr.probing import forwards, replay, stacked_calls

RATES = np.geomspace(1e-3, 1.0, 12)
FLOAT = torch.float32


@pytest.fixture(autouse=True)
def _small_layers_are_hoisted_too(monkeypatch):
    monkeypatch.setattr(replay, "_WORTH", 0)


def case_of(model, batches=None, loss=cross_entropy):
    return Case(model, sgd(model), loss, *(batches or classes(8, 5, dtype=FLOAT)))


def test_weights_that_are_hoisted_are_not_moved(monkeypatch):
    moved = []
    move = forwards.Direction.move

    def note(self, rate, still=frozenset()):
        moved.append(len(still))
        move(self, rate, still)

    monkeypatch.setattr(forwards.Direction, "move", note)
    torch.manual_seed(0)
    probe(case_of(mlp(FLOAT)), "line", RATES)
    assert moved[-1] in (0, 2)
    assert 2 in moved  # weight and bias of the first layer


def test_a_tied_weight_is_moved_though_one_use_of_it_is_hoisted():
    torch.manual_seed(0)
    tokens = [(torch.randint(7, (9,)), torch.randint(7, (9,))) for _ in range(2)]
    case = case_of(TiedLanguageModel(), tokens)
    slow = probe(case, "step", RATES)
    for engine in ("line", "batched"):
        np.testing.assert_allclose(probe(case, engine, RATES).loss_post, slow.loss_post, rtol=2e-6)


class Sometimes(nn.Module):
    """Uses the first layer a second time, on its own output, where the batch says so."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        hidden = torch.tanh(self.first(x))
        if float(x[0, 0]) > 50.0:
            hidden = torch.tanh(self.first(hidden))
        return self.last(hidden)


@pytest.mark.parametrize("engine", ["line", "batched"])
def test_a_row_that_goes_another_way_is_right(engine):
    torch.manual_seed(0)
    model = Sometimes()
    batches = [classes(8, 5, dtype=FLOAT) for _ in range(5)]
    for x, _ in batches[2]:
        x[0, 0] = 100.0
    case = case_of(model, batches[0])
    fast = probe(case, engine, RATES, num_rows=5, batches=batches)
    slow = probe(case, "step", RATES, num_rows=5, batches=batches)
    np.testing.assert_allclose(fast.loss_post, slow.loss_post, rtol=2e-6)
    np.testing.assert_allclose(fast.loss_pre, slow.loss_pre, rtol=2e-6)
    assert fast.engine == engine  # every row has a record of its own


@pytest.mark.parametrize("engine", ["line", "batched"])
def test_an_input_that_depends_on_the_rate_in_some_rows_only_is_found(engine):
    class Gate(nn.Module):
        """Its second layer sees zeros, whatever the weights, unless the batch is large."""

        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(5, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.last(torch.relu(self.first(x) - 1e3))

    torch.manual_seed(0)
    batches = [classes(8, 5, dtype=FLOAT) for _ in range(5)]
    for x, _ in batches[2]:
        x *= 5e3
    case = case_of(Gate(), batches[0])
    fast = probe(case, engine, RATES, num_rows=5, batches=batches)
    slow = probe(case, "step", RATES, num_rows=5, batches=batches)
    assert np.ptp(slow.loss_post[2]) > 1.0
    np.testing.assert_allclose(fast.loss_post, slow.loss_post, rtol=2e-6)


def test_max_pooling_is_bit_for_bit_the_same():
    torch.manual_seed(0)
    for shape, options in (((2, 16, 9, 9), (2,)), ((3, 8, 7, 5), (3, 2, 1)), ((2, 4, 6, 6), (2,))):
        x = torch.randn(shape)
        fast, usual = replay.pool(x, *options), nn.functional.max_pool2d(x, *options)
        assert torch.equal(fast, usual)
        assert fast.stride() == usual.stride()


def test_a_model_with_forward_hooks_is_left_alone():
    seen = []
    model = mlp(FLOAT)
    model[0].register_forward_hook(lambda *held: seen.append(held[-1]))
    probed = probe(case_of(model), "batched", RATES, num_rows=2)
    assert probed.engine_reason.endswith("the model has forward hooks, which see the losses one by one")
    assert not any(torch._C._functorch.is_batchedtensor(tensor) for tensor in seen)


def test_few_rates_are_not_batched():
    probed = probe(case_of(mlp(FLOAT)), "batched", RATES[:5], num_rows=2)
    assert probed.engine == "line"
    assert probed.engine_reason.endswith("batched stepped aside: 5 rates are not worth it")


def test_an_error_of_the_loss_is_raised_and_not_taken_for_one_of_the_engine():
    calls = []

    def failing(model, batch):
        calls.append(1)
        if len(calls) > 60:
            raise ZeroDivisionError("the user's own")
        return cross_entropy(model, batch)

    with pytest.raises(ZeroDivisionError, match="the user's own"):
        probe(case_of(mlp(FLOAT), loss=failing), "batched", RATES, num_rows=50)


def test_chunks_shrink_where_memory_is_short(monkeypatch):
    sizes = []
    at_once = replay.Replay.at_once

    def short(self, rates):
        sizes.append(len(rates))
        if len(rates) > 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return at_once(self, rates)

    monkeypatch.setattr(replay.Replay, "at_once", short)
    torch.manual_seed(0)
    case = case_of(mlp(FLOAT))
    fast, slow = probe(case, "batched", RATES, num_rows=2), probe(case, "step", RATES, num_rows=2)
    assert fast.engine == "batched"
    assert sizes[0] > 4 >= max(sizes[-3:])
    np.testing.assert_allclose(fast.loss_post, slow.loss_post, rtol=2e-6)


def test_a_linear_layer_is_right_in_small_products(monkeypatch):
    torch.manual_seed(0)
    case = case_of(mlp(FLOAT))
    monkeypatch.setattr(stacked_calls, "_WEIGHT_ROOM", {"cpu": 1})
    fast, slow = probe(case, "batched", RATES, num_rows=2), probe(case, "step", RATES, num_rows=2)
    np.testing.assert_allclose(fast.loss_post, slow.loss_post, rtol=2e-6)


LOSSES = {
    "usual": {},
    "sum": {"reduction": "sum"},
    "smoothed": {"label_smoothing": 0.1},
    "weighted": {"weight": torch.tensor([0.2, 0.3, 0.5])},
    "some left out": {"ignore_index": 1},
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_cross_entropy_of_any_kind_is_right(name):
    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1], **LOSSES[name])

    torch.manual_seed(0)
    case = case_of(mlp(FLOAT), loss=loss)
    fast, slow = probe(case, "batched", RATES, num_rows=2), probe(case, "step", RATES, num_rows=2)
    assert fast.engine == "batched", fast.engine_reason
    np.testing.assert_allclose(fast.loss_post, slow.loss_post, rtol=2e-6)


def test_targets_that_are_left_out_by_default_are_left_out():
    torch.manual_seed(0)
    batches = classes(8, 5, dtype=FLOAT)
    for _, y in batches:
        y[:3] = -100
    case = case_of(mlp(FLOAT), batches)
    fast, slow = probe(case, "batched", RATES, num_rows=2), probe(case, "step", RATES, num_rows=2)
    np.testing.assert_allclose(fast.loss_post, slow.loss_post, rtol=2e-6)

"""What a snapshot remembers, and what tuning does with random generators."""

import random
from collections import OrderedDict, deque

import numpy as np
import pytest
import torch
from harness import unchanged
from torch import nn
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import autolr
from autolr.probing.random_state import ForkedRandomness, capture_random_state
from autolr.probing.state import Snapshot, preserved_state


class Holds(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value


class Listing(dict):
    def values(self):
        return list(super().values())


HELD = {
    "list": (lambda: [1, [2]], lambda value: value[1].append(3)),
    "list whose items move": (lambda: [1, 2], lambda value: value.reverse()),
    "deque": (lambda: deque([1, 2], maxlen=2), lambda value: value.append(3)),
    "set": (lambda: {1}, lambda value: value.add(2)),
    "dict": (lambda: {"a": {"b": 1}}, lambda value: value["a"].pop("b")),
    "order of a dict": (lambda: OrderedDict(a=1, b=2), lambda value: value.move_to_end("a")),
    "equal key of another type": (lambda: {1: "a"}, lambda value: value.update({True: value.pop(1)})),
    "equal item of another type": (lambda: [1, 2], lambda value: value.__setitem__(0, True)),
    "dict whose values are no view": (lambda: Listing(a=1), lambda value: value.update(a=2)),
    "empty list": (list, lambda value: value.append(1)),
    "empty set": (set, lambda value: value.add(1)),
    "empty dict": (dict, lambda value: value.update(a=1)),
    "items that move from list to list": (lambda: [[1, 2], [3]], lambda value: value[0].append(value[1].pop())),
    "item that moves to an empty list": (lambda: [[], [1]], lambda value: value[0].append(value[1].pop())),
    "tuple of lists": (lambda: ([1],), lambda value: value[0].clear()),
    "array": (lambda: np.array([1.0, np.nan]), lambda value: value.fill(np.nan)),
    "array of objects": (lambda: np.array([None, "a"], dtype=object), lambda value: value.fill(1)),
    "tensor": (lambda: torch.ones(2), lambda value: value.add_(1)),
    "tensor of another layout": (lambda: torch.ones(2, 3).T, lambda value: value.t_().add_(1)),
    "tensor in other memory": (lambda: torch.ones(2), lambda value: setattr(value, "data", value.data.clone())),
    "tensor of fewer entries": (lambda: torch.ones(2, 3), lambda value: setattr(value, "data", value.data[:1])),
    "sparse tensor": (lambda: torch.eye(2).to_sparse(), lambda value: value._values().add_(1)),
    "tensor that requires a gradient": (lambda: torch.ones(2), lambda value: value.requires_grad_()),
    "gradient": (lambda: torch.ones(2, requires_grad=True), lambda value: value.sum().backward()),
    "torch generator": (lambda: torch.Generator().manual_seed(1), lambda value: torch.rand(2, generator=value)),
    "NumPy generator": (lambda: np.random.default_rng(1), lambda value: value.random()),
    "legacy generator": (lambda: np.random.RandomState(1), lambda value: value.rand()),
    "Python generator": (lambda: random.Random(1), lambda value: value.random()),
    "module": (lambda: nn.ModuleList([nn.Linear(1, 1)]), lambda value: value.append(nn.Linear(1, 1))),
    "modules in a plain list": (lambda: [nn.Linear(1, 1)], lambda value: value[0].weight.data.add_(1)),
}


@pytest.mark.parametrize("name", HELD)
def test_a_block_preserves_a_held(name):
    make, change = HELD[name]
    model = Holds(make())
    with unchanged(model), preserved_state(model):
        change(model.value)
        change(Holds(make()).value)


@pytest.mark.parametrize(
    "name", sorted(HELD.keys() - {"array", "tensor", "sparse tensor", "modules in a plain list", "gradient"})
)
def test_a_restore_says_whether_more_than_values_of_tensors_had_changed(name):
    make, change = HELD[name]
    model = Holds(make())
    snapshot = Snapshot(model)
    assert not snapshot.restore()
    change(model.value)
    assert snapshot.restore()
    assert not snapshot.restore()


class Wrapped(torch.Tensor):
    """A tensor around another one, which can do what it needs to and nothing else."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        known = {"detach": Wrapped, "clone": Wrapped, "copy_": Wrapped, "_foreach_copy_": lambda _: None}
        result = known[function.overloadpacket.__name__]
        return result(function(*tree_map_only(Wrapped, lambda value: value.inner, args), **(kwargs or {})))


def test_a_tensor_with_functions_of_its_own_needs_no_others_for_a_restore():
    wrapped, weight = Wrapped(torch.ones(2)), torch.ones(2)
    snapshot = Snapshot([wrapped, weight])
    wrapped.inner.zero_()
    assert not snapshot.restore()
    assert wrapped.inner.tolist() == [1.0, 1.0]
    weight.data = torch.zeros(2)
    assert snapshot.restore()
    assert weight.tolist() == [1.0, 1.0]


def test_a_tensor_without_memory_does_not_keep_the_others_from_theirs():
    weight = torch.ones(2)
    snapshot = Snapshot([torch.empty(2, device="meta"), weight])
    memory = weight.data_ptr()
    assert not snapshot.restore()
    weight.data = torch.zeros(2)
    assert snapshot.restore()
    assert weight.data_ptr() == memory
    assert weight.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("moved", [False, True])
def test_a_restore_takes_gradients_off(moved):
    weight, other = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    snapshot = Snapshot([weight, other])
    (weight * other).sum().backward()
    if moved:
        weight.data = weight.data.clone()
    assert snapshot.restore() == moved
    assert weight.grad is None
    assert other.grad is None


def test_gradients_are_off_within_the_block():
    model = nn.Linear(2, 1)
    model(torch.ones(2)).backward()
    with unchanged(model):
        with preserved_state(model) as snapshot:
            assert model.weight.grad is None
            model(torch.ones(2)).backward()
            snapshot.restore()
            assert model.weight.grad is None
        assert model.weight.grad is not None


def test_tensors_that_are_left_out_stay_as_they_are():
    model = nn.BatchNorm1d(2)
    snapshot = Snapshot(model, leave=[model.weight])
    model.weight.data.add_(1.0)
    model.running_mean.add_(1.0)
    snapshot.restore()
    assert model.weight.data.tolist() == [2.0, 2.0]
    assert model.running_mean.tolist() == [0.0, 0.0]


def test_a_generator_handed_over_is_drawn_on_while_the_model_goes_back():
    model, generator = nn.Linear(1, 1), torch.Generator().manual_seed(0)
    with unchanged(model, extra=generator), preserved_state(model, generator) as snapshot:
        first = torch.rand((), generator=generator)
        snapshot.restore()
        assert torch.rand((), generator=generator) != first


@pytest.mark.parametrize("warmup_steps", [0, 2])
def test_a_sampler_with_a_generator_goes_on_from_row_to_row(warmup_steps):
    torch.manual_seed(0)
    X = torch.randn(64, 3)
    generator = torch.Generator().manual_seed(0)
    sampler = RandomSampler(TensorDataset(X), replacement=True, num_samples=320, generator=generator)
    loader = DataLoader(TensorDataset(X), batch_size=32, sampler=sampler)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    tuner = autolr.AutoLRTuner(model, None, optimizer, compute_loss=lambda m, batch: m(batch[0]).square().mean(), rng=0)
    with unchanged(model, optimizer, extra=generator):
        result = tuner.tune(loader, num_subsamples=4, evaluation="subsample", warmup_steps=warmup_steps)
    assert len(set(result.differentials.loss_pre)) == 4


def global_states():
    words = np.random.get_state(legacy=False)  # noqa: NPY002
    return torch.get_rng_state().tolist(), random.getstate(), words["state"]["key"].tolist(), str(words)


def one_of_two_normals(*generators):
    """Draw once from the global generators and others; NumPy and Python make normals in pairs, torch some of them."""
    draws = [float(torch.randn(())), random.gauss(), np.random.standard_normal()]  # noqa: NPY002
    for generator in generators:
        if isinstance(generator, torch.Generator):
            draws.append(float(torch.randn((), generator=generator)))
        else:
            draws.append((getattr(generator, "gauss", None) or generator.normal)(0.0, 1.0))
    return draws


def test_a_fork_depends_on_its_seed_alone_and_is_gone_back_to():
    with unchanged(nn.Identity()):
        restore = capture_random_state([])
        randomness = ForkedRandomness([])
        randomness.fork(np.random.SeedSequence(5))
        states, first = global_states(), one_of_two_normals()
        assert one_of_two_normals() != first
        randomness.rewind()
        assert one_of_two_normals() == first
        randomness.fork(np.random.SeedSequence(6))
        assert all(one != other for one, other in zip(one_of_two_normals(), first, strict=True))
        other = ForkedRandomness([])
        other.fork(np.random.SeedSequence(5))
        assert global_states() == states
        restore()


def test_a_rewind_goes_back_from_the_middle_of_a_pair_of_normals():
    own = [torch.Generator(), np.random.RandomState(1), random.Random(1), np.random.default_rng(1)]
    with unchanged(nn.Identity()):
        restore = capture_random_state([])
        one_of_two_normals(*own)
        randomness = ForkedRandomness([], own)
        randomness.fork(np.random.SeedSequence(5))
        first = np.array([one_of_two_normals(*own) for _ in range(3)])
        assert np.unique(first).size == first.size
        randomness.rewind()
        np.testing.assert_array_equal([one_of_two_normals(*own) for _ in range(3)], first)
        restore()


def test_a_state_taken_between_two_draws_is_gone_back_to():
    def draws():
        return [normal() for _ in range(700)], random.random(), float(torch.rand(()))

    normal = np.random.standard_normal
    with unchanged(nn.Identity()):
        restore = capture_random_state([])
        randomness = ForkedRandomness([])
        normal()  # of two that are made at once: the other one is a part of the state
        here = randomness.state_now()
        first = draws()
        randomness.move_to(here)
        assert draws() == first
        restore()


def test_an_average_held_by_an_optimizers_hook_is_remembered():
    model = nn.Linear(1, 1)
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: average.update_parameters(model))
    with unchanged(model, optimizer, extra=average), preserved_state(model, optimizer):
        model(torch.ones(1)).backward()
        optimizer.step()
        assert average.n_averaged == 1


def test_what_cannot_be_put_back_does_not_keep_the_rest_from_it():
    model = Holds([np.zeros(2), torch.zeros(2)])
    weight = model.value[1]
    torch_state, drawn = torch.get_rng_state(), model.value[0]

    def change():
        weight.add_(1.0)
        drawn.fill(1.0)
        drawn.flags.writeable = False  # nothing can be copied into it any more
        torch.rand(1)

    with pytest.raises(ValueError, match="read-only"), preserved_state(model):
        change()
    assert not weight.any()
    assert torch.equal(torch.get_rng_state(), torch_state)

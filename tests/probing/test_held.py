"""Random generators of the user's own: found, the same for all rates of a row, and put back."""

import itertools
import random
from collections import deque
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from harness import unchanged
from torch import nn
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, Dataset, RandomSampler, Subset, TensorDataset

import autolr
from autolr.probing.held import data_generators, held_generators
from autolr.probing.random_state import ForkedRandomness, capture_random_state, is_generator, state_access

F64 = torch.float64
KINDS = {
    "torch": lambda: torch.Generator().manual_seed(1),
    "PCG64": lambda: np.random.default_rng(1),
    "Philox": lambda: np.random.Generator(np.random.Philox(1)),
    "SFC64": lambda: np.random.Generator(np.random.SFC64(1)),
    "MT19937": lambda: np.random.Generator(np.random.MT19937(1)),
    "legacy": lambda: np.random.RandomState(1),
    "legacy with PCG64": lambda: np.random.RandomState(np.random.PCG64(1)),
    "Python": lambda: random.Random(1),
}


def draw(generator):
    """Return a normal number from a generator of any kind; the kinds keep a second one of a pair for later."""
    if isinstance(generator, torch.Generator):
        return float(torch.randn((), generator=generator, dtype=F64))
    return generator.gauss(0.0, 1.0) if isinstance(generator, random.Random) else float(generator.normal())


GENERATOR = np.random.default_rng(0)
elsewhere = SimpleNamespace(generator=GENERATOR)


def helper():
    return GENERATOR.normal()


class Holds:
    """A loss that holds a generator, and one that names a global one in a method that another one calls."""

    def __init__(self, generator=None):
        self.generator = generator

    def __call__(self, *_):
        return self.named() if self.generator is None else self.generator.normal()

    def method(self, model, batch):
        return self(model, batch)

    def named(self):
        return GENERATOR.normal()


class OfClass:
    generator = GENERATOR

    def __call__(self):
        return self.generator.normal()

    @classmethod
    def method(cls):
        return cls.generator.normal()


class NamesGlobal(nn.Module):
    def forward(self, x):
        return self.noise() * x

    def noise(self):
        return helper()


def hooked(hook):
    module = nn.Sequential(nn.Linear(1, 1))
    module[0].register_forward_hook(hook)
    return module


def stepping(hook):
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    optimizer.register_step_pre_hook(hook)
    return optimizer


def with_attribute(value):
    module = nn.Linear(1, 1)
    module.noise = value
    return nn.Sequential(module)


HOLDERS = {
    "a generator": GENERATOR,
    "a function by a global name": helper,
    "a function that calls another": lambda *_: helper(),
    "an object by a global name": lambda *_: elsewhere.generator.normal(),
    "a closure": (lambda generator: lambda *_: generator.normal())(GENERATOR),
    "a default": lambda *_, generator=GENERATOR: generator.normal(),
    "a partial": partial(lambda generator, *_: generator.normal(), GENERATOR),
    "an instance": Holds(GENERATOR),
    "a method": Holds(GENERATOR).method,
    "an instance whose method names it": Holds(),
    "a method that calls another": Holds().method,
    "a class": OfClass(),
    "a method of a class": OfClass.method,
    "a method of its own": GENERATOR.normal,
    "a container": {"a": deque([GENERATOR])},
    "a hook of a module": hooked(lambda *_: helper()),
    "a forward": nn.Sequential(NamesGlobal()),
    "an object in an attribute of a module": with_attribute(Holds(GENERATOR)),
    "a function in an attribute of a module": with_attribute(helper),
    "a hook of an optimizer": stepping(lambda *_: helper()),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_a_generator_is_found_in(name):
    assert held_generators(HOLDERS[name]) == [GENERATOR]


def test_generators_are_found_once_and_not_where_others_look_after_them():
    assert held_generators(helper, GENERATOR, Holds(GENERATOR)) == [GENERATOR]
    of_model = with_attribute(GENERATOR)
    assert held_generators(of_model, lambda batch: of_model(batch)) == []  # a snapshot does
    assert held_generators(None, 3, torch.ones(2), nn.functional.dropout, np, [0.0] * 1_000) == []
    of_all = [random.gauss, random.random, np.random.normal, torch.default_generator, np.random.mtrand._rand]
    assert held_generators(*of_all) == []
    assert held_generators(random.SystemRandom()) == []  # has no state


def test_an_object_that_is_first_seen_too_deep_is_still_looked_into():
    inner = Holds(GENERATOR)
    assert held_generators(inner, Holds(inner)) == held_generators(Holds(inner), inner) == [GENERATOR]


def squares(length=4):
    return TensorDataset(torch.arange(float(length)) ** 2)


def test_generators_of_loaders_samplers_datasets_and_transforms_are_found():
    dataset = squares()
    dataset.noise, dataset.transform = np.random.default_rng(0), Holds(random.Random(0))
    dataset.composed = SimpleNamespace(transforms=[Holds(np.random.RandomState(0)), nn.Identity()])
    dataset.function, dataset.rows = lambda x: x + helper(), [Holds(torch.Generator())] * 1_000
    loader = DataLoader(
        ConcatDataset([Subset(dataset, [0, 1]), dataset]),
        batch_sampler=BatchSampler(RandomSampler(range(6), generator=torch.Generator()), 2, drop_last=False),
        generator=torch.Generator(),
    )
    expected = [loader.generator, loader.batch_sampler.sampler.generator, dataset.noise, dataset.transform.generator]
    expected += [dataset.composed.transforms[0].generator, GENERATOR]
    assert {id(one) for one in data_generators(loader)} == {id(one) for one in expected}
    assert data_generators([torch.ones(2)]) == data_generators(np.ones(2)) == []


class Batches:
    """A loader of the user's own."""

    def __init__(self, X, generator):
        self.dataset, self.generator = TensorDataset(X), generator

    def __iter__(self):
        for _ in range(9):
            yield self.dataset[self.generator.permutation(len(self.dataset))[:8]][0]


def test_generators_of_a_users_own_loader_are_found():
    generator, transform = np.random.default_rng(0), np.random.RandomState(0)
    loader = Batches(torch.ones(2), generator)
    loader.dataset.transform = SimpleNamespace(generator=transform)
    assert {id(one) for one in data_generators(loader)} == {id(generator), id(transform)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_fork_of_a_held_generator_depends_on_its_seed_and_kind_alone(kind):
    generator, other = KINDS[kind](), KINDS[kind]()
    draw(other)
    with unchanged(nn.Identity(), extra=generator):
        restore = capture_random_state([])
        get, put = state_access(generator)
        before = get()
        drawn = []
        for seed, one in itertools.product((5, 6), (generator, other)):
            randomness = ForkedRandomness([], [one, one])
            randomness.fork(np.random.SeedSequence(seed))
            drawn.append([draw(one), draw(one)])
            randomness.rewind()
            assert [draw(one), draw(one)] == drawn[-1]
        put(before)
        restore()
    assert drawn[0] == drawn[1] != drawn[2] == drawn[3]
    assert len(set(drawn[0] + drawn[2])) == 4


def test_two_generators_of_one_kind_are_forked_to_different_states():
    one, other = KINDS["PCG64"](), KINDS["PCG64"]()
    restore = capture_random_state([])
    ForkedRandomness([], [one, other]).fork(np.random.SeedSequence(0))
    restore()
    assert draw(one) != draw(other)


def squared_error(model, batch):
    return (model(batch) - 1.0).square().mean()


def setup(compute_loss, model=None):
    torch.manual_seed(0)
    model = (nn.Linear(3, 1) if model is None else model).to(F64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tuner = autolr.AutoLRTuner(model, None, optimizer, compute_loss=compute_loss, rng=0)
    return model, optimizer, tuner, torch.randn(64, 3, dtype=F64)


def tune(tuner, X, num_subsamples=4, **options):
    return tuner.tune(X, num_subsamples=num_subsamples, learning_rates=[1e-3, 1e-2, 1e-1], **options)


@pytest.mark.parametrize("engine", ["auto", "step"])
@pytest.mark.parametrize("kind", KINDS)
def test_noise_that_a_loss_adds_is_the_same_at_all_rates_and_another_in_every_row(kind, engine):
    generator = KINDS[kind]()
    model, optimizer, tuner, X = setup(lambda model, batch: squared_error(model, batch) + draw(generator))
    plain = tune(setup(squared_error)[2], X, engine="step")
    with unchanged(model, optimizer, extra=generator):
        noisy = tune(tuner, X, engine=engine)
        again = tune(tuner, X, engine=engine)
    assert noisy.settings["engine"] == ("line" if engine == "auto" else "step")
    # the noise of a row cancels in its differentials
    np.testing.assert_allclose(noisy.differentials.delta, plain.differentials.delta, rtol=1e-9, atol=1e-12)
    noise = noisy.differentials.loss_pre - plain.differentials.loss_pre
    assert len(set(noise.round(9))) == 4
    assert again.to_frame().equals(noisy.to_frame())
    draw(generator)  # where it stands has no part in it
    assert tune(tuner, X, engine=engine).to_frame().equals(noisy.to_frame())


@pytest.mark.parametrize("kind", KINDS)
def test_noise_that_a_model_adds_is_the_same_at_all_rates(kind):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.generator = nn.Linear(3, 1), KINDS[kind]()

        def forward(self, x):
            return self.linear(x) + draw(self.generator)

    def summed(model, batch):  # linear, so that the noise of a row cancels
        return model(batch).mean()

    torch.manual_seed(0)
    model, optimizer, tuner, X = setup(summed, Noisy())
    with unchanged(model, optimizer):
        noisy = tune(tuner, X)
    frame = noisy.to_frame()
    slopes = frame / frame.columns.to_numpy(dtype=float)
    np.testing.assert_allclose(slopes.T, np.broadcast_to(slopes.iloc[:, 0], (3, 4)), rtol=1e-9)


@pytest.mark.parametrize("where", ["hook of a module", "hook of an optimizer"])
def test_noise_of_a_hook_is_repeatable_and_its_generator_put_back(where):
    generator = KINDS["torch"]()
    model, optimizer, tuner, X = setup(squared_error)

    def noisy(*_):
        model.weight.grad.add_(draw(generator))

    if where == "hook of a module":
        model.register_forward_hook(lambda *held: held[-1] + draw(generator))
    else:
        optimizer.register_step_pre_hook(noisy)
    with unchanged(model, optimizer, extra=generator):
        first = tune(tuner, X)
    assert first.settings["engine"] == "line"
    draw(generator)
    assert tune(tuner, X).to_frame().equals(first.to_frame())


class Augmented(Dataset):
    def __init__(self, X, generator):
        self.X, self.transform = X, SimpleNamespace(steps=[Holds(generator)])

    def __len__(self):
        return len(self.X)

    def __getitem__(self, index):
        return self.X[index] + draw(self.transform.steps[0].generator)


@pytest.mark.parametrize("evaluation", ["independent", "own data"])
@pytest.mark.parametrize("warmup_steps", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_dataset_that_draws_gives_the_same_rows_again(kind, warmup_steps, evaluation):
    model, optimizer, tuner, X = setup(squared_error)
    data = Augmented(X, KINDS[kind]())
    options = {"warmup_steps": warmup_steps, "batch_size": 8}
    options["evaluation"] = Augmented(X, KINDS[kind]()) if evaluation == "own data" else evaluation
    with unchanged(model, optimizer, extra=[data.transform.steps[0].generator]):
        long = tune(tuner, data, 6, **options)
    draw(data.transform.steps[0].generator)
    tune(tuner, data, 4, **options)
    extended = tuner.extend(2)
    assert long.settings["repeatable"] is True
    assert extended.settings["engine"] == "line"
    assert extended.to_frame().equals(long.to_frame())


def test_a_loader_keeps_its_own_order_and_its_generators_are_put_back():
    seen = []

    def noted(model, batch):
        seen.append(float(batch[0].sum()))
        return squared_error(model, batch[0])

    model, optimizer, tuner, X = setup(noted)
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(X), batch_size=8, shuffle=True, generator=generator)
    state = generator.get_state()
    expected = [float(batch.sum()) for (batch,) in loader]
    generator.set_state(state)
    with unchanged(model, optimizer, extra=generator):
        tune(tuner, loader, evaluation="subsample")
    assert list(dict.fromkeys(seen)) == expected[:4]


def test_a_users_own_loader_keeps_its_order_and_its_generator_is_put_back():
    seen = []

    def noted(model, batch):
        seen.append(float(batch.sum()))
        return squared_error(model, batch)

    model, optimizer, tuner, X = setup(noted)
    expected = [float(batch.sum()) for batch in Batches(X, np.random.default_rng(1))]
    loader = Batches(X, np.random.default_rng(1))
    with unchanged(model, optimizer, extra=loader.generator):
        tune(tuner, loader, evaluation="subsample")
    assert list(dict.fromkeys(seen)) == expected[:4]


def test_generators_are_put_back_where_the_loss_raises():
    generators = [make() for make in KINDS.values()]

    def failing(model, batch):
        if sum(map(draw, generators)) != 0.0:
            raise ZeroDivisionError
        return squared_error(model, batch)

    model, optimizer, tuner, X = setup(failing)
    with pytest.raises(ZeroDivisionError), unchanged(model, optimizer, extra=generators):
        tune(tuner, X)


def test_the_generator_of_the_operating_system_is_let_through():
    assert not is_generator(random.SystemRandom())
    model, _, tuner, X = setup(squared_error)
    model.system = system = random.SystemRandom()
    assert len(tune(tuner, X).to_frame()) == 4
    assert model.system is system


def test_a_loss_that_counts_its_calls_is_not_repeatable(caplog):
    calls = []

    def counting(model, batch):
        calls.append(None)
        return squared_error(model, batch) + len(calls)

    _, _, tuner, X = setup(counting)
    assert tune(tuner, X).settings["repeatable"] is False
    assert "The loss is not repeatable: from one state it is" in caplog.text
    assert tune(setup(squared_error)[2], X).settings["repeatable"] is True


def test_the_harness_sees_a_legacy_generator_move():
    generator = np.random.RandomState(0)
    with pytest.raises(AssertionError, match=r"extra \(state\)"), unchanged(nn.Identity(), extra=generator):
        generator.rand()

"""Any batch, any loss, any source: tuner and search measure what a loop by hand does, and say what they drew."""

import gc
import multiprocessing
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import oracles
import pytest
import torch
from harness import unchanged
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from autolr import AutoLRTuner, find_lr

RATES = np.array([1e-3, 1e-2, 0.1, 1.0])
F64 = torch.float64
NUM_BATCHES, SIZE = 20, 8


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=F64)


X = randn(NUM_BATCHES * SIZE, 4)
Y = X.sum(1, keepdim=True).tanh()
CLASSES = X[:, :3].argmax(1)
PARTS = [slice(i, i + SIZE) for i in range(0, len(X), SIZE)]


def seeded(make):
    """Return what ``make`` makes, with the same initial weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator().get_state())
        return make().to(F64)


def perceptron(num_out=1):
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, num_out))


@dataclass(frozen=True, slots=True)
class Record:
    x: torch.Tensor
    y: torch.Tensor
    name: str = "a"


@dataclass
class Output:
    loss: torch.Tensor
    logits: torch.Tensor


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 5), nn.Linear(1, 5)

    def forward(self, x, z):
        return torch.tanh(self.first(x) + self.second(z)).sum(1, keepdim=True)


class CarriesLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = perceptron(3)

    def forward(self, inputs, labels=None):
        logits = self.layers(inputs)
        return Output(nn.functional.cross_entropy(logits, labels), logits)


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(11, 4), nn.Linear(4, 3)

    def forward(self, tokens, offsets):
        return self.head(torch.tanh(self.bag(tokens, offsets)))


def texts():
    """Return texts of 1 to 7 words, each with a class."""
    lengths = torch.randint(1, 8, (len(X),), generator=generator()).tolist()
    return [(torch.randint(11, (n,), generator=generator(i)), n % 3) for i, n in enumerate(lengths)]


def collate(observations):
    tokens, labels = zip(*observations, strict=True)
    lengths = torch.tensor([0, *map(len, tokens[:-1])])
    return {"tokens": torch.cat(tokens), "offsets": lengths.cumsum(0), "labels": torch.tensor(labels)}


def mse(output, target):
    return nn.functional.mse_loss(output, target)


def sparse_targets():
    one_hot = nn.functional.one_hot(CLASSES, 3).to(F64)
    return [(X[part], one_hot[part].to_sparse()) for part in PARTS]


def masked(model, batch):
    hidden = batch.clone()
    hidden[:, ::2] = 0.0
    return mse(model(hidden), batch)


def ignoring(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), torch.where(batch[0][:, 0] > 0.0, batch[1], -100))


# from a name to: the model, the loss (``None``: the model's output carries it), the batches
FORMS = {
    "tuple of several inputs": (
        TwoInputs,
        lambda model, b: mse(model(b[0], b[1]), b[2]),
        lambda: [(X[part, :3], X[part, 3:], Y[part]) for part in PARTS],
    ),
    "dict": (perceptron, lambda model, b: mse(model(b["x"]), b["y"]), lambda: [{"x": X[p], "y": Y[p]} for p in PARTS]),
    "dataclass": (perceptron, lambda model, b: mse(model(b.x), b.y), lambda: [Record(X[p], Y[p]) for p in PARTS]),
    "nested": (
        TwoInputs,
        lambda model, b: mse(model(*b["inputs"][0]), b["targets"].y),
        lambda: [{"inputs": [(X[p, :3], X[p, 3:]), None], "targets": Record(X[p], Y[p])} for p in PARTS],
    ),
    "loss in the output, of a dict": (
        CarriesLoss,
        None,
        lambda: [{"inputs": X[p], "labels": CLASSES[p]} for p in PARTS],
    ),
    "loss in the output, of a tuple": (CarriesLoss, None, lambda: [(X[p], CLASSES[p]) for p in PARTS]),
    "self-supervised": (lambda: perceptron(4), masked, lambda: [X[p] for p in PARTS]),
    "sparse targets": (
        lambda: perceptron(3),
        lambda model, b: -(b[1].to_dense() * model(b[0]).log_softmax(1)).sum(1).mean(),
        sparse_targets,
    ),
    "ignored targets": (lambda: perceptron(3), ignoring, lambda: [(X[p], CLASSES[p]) for p in PARTS]),
    "texts of any length": (
        Bag,
        lambda model, b: nn.functional.cross_entropy(model(b["tokens"], b["offsets"]), b["labels"]),
        lambda: list(DataLoader(texts(), batch_size=SIZE, collate_fn=collate)),
    ),
}


def made(name):
    """Return the maker of a form's objects for the oracle."""
    make, compute_loss, _ = FORMS[name]

    def carried(model, batch):
        return (model(**batch) if isinstance(batch, dict) else model(*batch)).loss

    def objects():
        model = seeded(make)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return model, optimizer, compute_loss or carried, [model]

    return objects


@pytest.mark.parametrize("engine", ["step", "line", "auto"])
@pytest.mark.parametrize("name", FORMS)
def test_tuning_on_a_batch_of_any_form_is_what_a_loop_by_hand_measures(name, engine):
    _, compute_loss, batches = FORMS[name]
    model, optimizer, _, _ = made(name)()
    tuner = AutoLRTuner(model, optimizer=optimizer, compute_loss=compute_loss, rng=0)
    data = batches()
    with unchanged(model, optimizer):
        result = tuner.tune(data, learning_rates=RATES, num_subsamples=3, engine=engine)
    pre, post = oracles.tuning_by_hand(made(name), RATES, batches()[:6])
    np.testing.assert_allclose(result.differentials.loss_pre, pre, rtol=1e-9)
    np.testing.assert_allclose(result.differentials.loss_post[:, :, 0], post, rtol=1e-6)
    assert "aside" not in (result.settings["engine_reason"] if engine == "line" else "")


@pytest.mark.parametrize("name", FORMS)
def test_a_search_on_batches_of_any_form_trains_as_a_loop_by_hand_does(name):
    _, compute_loss, batches = FORMS[name]
    model, optimizer, _, _ = made(name)()
    data, held_out = batches()[4:], batches()[:4]
    with unchanged(model, optimizer):
        suggestion = find_lr(
            model,
            None,
            optimizer,
            data,
            compute_loss=compute_loss,
            val_data=held_out,
            total_steps=30,
            effort="fast",
            rng=0,
        )
    trace = suggestion.evidence.trace
    assert {"anneal", "held-out"} <= set(trace["stage"])
    expected = oracles.search_by_hand(made(name), trace, data, held_out)
    np.testing.assert_allclose(trace["loss"], expected, rtol=1e-6)


def pairs():
    return [(X[part], Y[part]) for part in PARTS]


class Stream(IterableDataset):
    """Observations without a length."""

    def __iter__(self):
        return iter(zip(X, Y, strict=True))


class Once(IterableDataset):
    """Observations that are gone when they are read."""

    def __init__(self):
        self.left = iter(zip(X, Y, strict=True))

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.left)


def loader(**options):
    return DataLoader(TensorDataset(X, Y), batch_size=SIZE, **options)


# from a name to a source of the same batches, and whether what is drawn from it is lost
SOURCES = {
    "list": (pairs, False),
    "generator": (lambda: (pair for pair in pairs()), True),
    "iterable without a length": (lambda: DataLoader(Stream(), batch_size=SIZE), False),
    "iterable that is read once": (lambda: DataLoader(Once(), batch_size=SIZE), True),
    "loader": (loader, False),
    "loader with workers": (lambda: loader(num_workers=1), False),
    "loader with persistent workers": (lambda: loader(num_workers=1, persistent_workers=True), False),
}


def trained():
    model = seeded(perceptron)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    return model, optimizer, lambda model, batch: mse(model(batch[0]), batch[1]), [model]


@pytest.mark.parametrize("name", SOURCES)
def test_batches_of_any_source_are_the_same_to_the_tuner_which_says_how_many_it_drew(name):
    model, optimizer, _, _ = trained()
    make, is_lost = SOURCES[name]
    with unchanged(model, optimizer):
        result = AutoLRTuner(model, mse, optimizer).tune(make(), learning_rates=RATES, num_subsamples=3)
    np.testing.assert_allclose(
        result.differentials.loss_post[:, :, 0], oracles.tuning_by_hand(trained, RATES, pairs()[:6])[1], rtol=1e-6
    )
    assert result.settings["num_batches_drawn"] == 6
    assert result.settings["num_batches_lost"] == (6 if is_lost else 0)
    assert ("An iterator was drawn on, and has lost 6 batches: train on a fresh one." in str(result)) is is_lost


@pytest.mark.parametrize("name", SOURCES)
def test_a_search_reads_any_source_as_a_loop_does_and_says_how_many_it_drew(name):
    model, optimizer, _, _ = trained()
    make, is_lost = SOURCES[name]
    with unchanged(model, optimizer):
        suggestion = find_lr(model, mse, optimizer, make(), total_steps=30, rng=0)
    trace, settings = suggestion.evidence.trace, suggestion.evidence.settings
    num_held_out = NUM_BATCHES // 4
    expected = oracles.search_by_hand(trained, trace, pairs()[num_held_out:], pairs()[:num_held_out])
    np.testing.assert_allclose(trace["loss"], expected, rtol=1e-6)
    assert settings["num_batches_drawn"] == NUM_BATCHES
    assert settings["num_batches_lost"] == (NUM_BATCHES if is_lost else 0)
    assert (f"lost {NUM_BATCHES} batches" in str(suggestion)) is is_lost


def test_of_observations_no_batch_is_drawn_from_a_stream():
    model, optimizer, _, _ = trained()
    settings = AutoLRTuner(model, mse, optimizer).tune(X, Y, learning_rates=RATES, num_subsamples=2).settings
    assert (settings["num_batches_drawn"], settings["num_batches_lost"]) == (None, 0)


def test_what_is_lost_of_evaluation_data_counts_and_reading_it_once_is_not_reading_it_twice():
    model, optimizer, _, _ = trained()
    tuner = AutoLRTuner(model, mse, optimizer, rng=0)
    result = tuner.tune(X, Y, evaluation=iter(pairs()[:5]), learning_rates=RATES, num_subsamples=10)
    assert result.differentials.num_subsamples == 5
    assert (result.settings["num_batches_drawn"], result.settings["num_batches_lost"]) == (None, 5)
    assert "has lost 5 batches" in str(result)
    assert "read 2 times" not in str(result)
    suggestion = find_lr(model, mse, optimizer, (X, Y), val_data=iter(pairs()), total_steps=30, rng=0)
    assert suggestion.evidence.settings["num_batches_lost"] == 16
    assert "has lost 16 batches" in str(suggestion)


@pytest.mark.parametrize("persistent", [False, True])
def test_an_epoch_of_workers_that_is_running_goes_on_and_no_other_worker_is_left(persistent):
    model, optimizer, _, _ = trained()
    given = DataLoader(TensorDataset(X, Y), num_workers=1, persistent_workers=persistent)
    running = iter(given)
    seen = [next(running)[0]]
    before = multiprocessing.active_children()
    gc.collect()
    gc.disable()  # workers end with the call, not when Python gets round to it
    try:
        AutoLRTuner(model, mse, optimizer, rng=0).tune(given, learning_rates=RATES, num_subsamples=2)
        suggestion = find_lr(model, mse, optimizer, given, total_steps=10, rng=0)
        assert suggestion.evidence.settings["num_batches_drawn"] < len(given)  # so that its workers are still at work
        assert set(multiprocessing.active_children()) <= set(before)
    finally:
        gc.enable()
    assert torch.equal(torch.cat([*seen, *(x for x, _ in running)]), X)


def test_an_error_on_held_out_data_says_that_the_mode_is_another():
    class LossInTrainingOnly(CarriesLoss):
        def forward(self, inputs, labels):
            output = super().forward(inputs, labels)
            return output if self.training else SimpleNamespace(logits=output.logits)

    model = seeded(LossInTrainingOnly)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = [(X[part], CLASSES[part]) for part in PARTS]
    with unchanged(model, optimizer), pytest.raises(TypeError, match="unless the model's output carries") as raised:
        find_lr(model, None, optimizer, data, total_steps=30)
    (note,) = raised.value.__notes__
    assert note == "autolr: raised by a held-out batch, (float64 [8, 4], int64 [8]), in evaluation mode."


class Adversaries:
    """A generator and a discriminator in the middle of their training."""

    def __init__(self):
        self.generator = seeded(lambda: nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4)))
        self.discriminator = seeded(
            lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 8)), nn.BatchNorm1d(8), nn.Linear(8, 1))
        )
        self.optimizers = [torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.5, 0.9)) for net in self.networks]
        for optimizer, loss in zip(self.optimizers, self.losses(), strict=True):
            for batch in adversarial_batches()[:2]:
                loss(None, batch).backward()  # gradients of both networks are left over
                optimizer.step()

    @property
    def networks(self):
        return [self.generator, self.discriminator]

    def losses(self):
        generator, discriminator = self.networks

        def fools(_, batch):
            return nn.functional.softplus(-discriminator(generator(batch["z"]))).mean()

        def tells(_, batch):
            fake, real = discriminator(generator(batch["z"]).detach()), discriminator(batch["real"])
            return (nn.functional.softplus(fake) + nn.functional.softplus(-real)).mean()

        return fools, tells


def adversarial_batches():
    return [{"z": randn(SIZE, 2, seed=i), "real": X[part]} for i, part in enumerate(PARTS)]


@pytest.mark.parametrize("player", [0, 1], ids=["generator", "discriminator"])
def test_of_two_adversaries_one_is_tuned_and_the_other_is_left_bit_for_bit(player):
    def make():
        pair = Adversaries()
        return pair.networks[player], pair.optimizers[player], pair.losses()[player], pair.networks

    pair = Adversaries()
    model, optimizer, compute_loss = pair.networks[player], pair.optimizers[player], pair.losses()[player]
    data, held_out = adversarial_batches()[4:], adversarial_batches()[:4]
    _, post = oracles.tuning_by_hand(make, RATES, held_out)
    with unchanged(model, optimizer, extra=[pair.networks, pair.optimizers]):
        for engine in ("step", "line", "auto"):
            tuner = AutoLRTuner(model, optimizer=optimizer, compute_loss=compute_loss, rng=0)
            result = tuner.tune(held_out, learning_rates=RATES, num_subsamples=2, engine=engine)
            np.testing.assert_allclose(result.differentials.loss_post[:, :, 0], post, rtol=1e-6)
        suggestion = find_lr(
            model, None, optimizer, data, compute_loss=compute_loss, val_data=held_out, total_steps=30, rng=0
        )
    trace = suggestion.evidence.trace
    np.testing.assert_allclose(trace["loss"], oracles.search_by_hand(make, trace, data, held_out), rtol=1e-6)

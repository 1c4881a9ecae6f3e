"""lr_range_test: from a user's training to the losses of a run at rising rates, from a model that ends as it began."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from harness import unchanged
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from autolr import lr_range_test


def regression(num=200, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(num, 4, generator=generator)
    return X, X.sum(1, keepdim=True) + 0.1 * torch.randn(num, 1, generator=generator)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))


def range_of(model=None, data=None, *, optimizer=None, loss_fn=None, scheduler=None, extra=(), **options):
    model = network() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) if optimizer is None else optimizer
    loss = nn.MSELoss() if loss_fn is None and "compute_loss" not in options else loss_fn
    options = {"rng": 0, "num_iter": 12, "start_lr": 1e-4, "end_lr": 0.1, **options}
    with unchanged(model, optimizer, scheduler=scheduler, extra=extra):
        return lr_range_test(model, loss, optimizer, regression() if data is None else data, **options)


class Observations(Dataset):
    """Observations with noise of the global generator."""

    def __init__(self, X, Y):
        self.X, self.Y = X, Y

    def __len__(self):
        return len(self.X)

    def __getitem__(self, index):
        return self.X[index] + 0.1 * torch.randn(4), self.Y[index]


class Stream(IterableDataset):
    def __init__(self, X, Y):
        self.X, self.Y = X, Y

    def __iter__(self):
        return iter(zip(self.X, self.Y, strict=True))


def in_batches(X, Y, size=20):
    return [(X[i : i + size], Y[i : i + size]) for i in range(0, len(X), size)]


KINDS = {
    "pair": lambda X, Y: (X, Y),
    "arrays": lambda X, Y: (X.numpy().astype(np.float64), Y.numpy()),
    "frames": lambda X, Y: (pd.DataFrame(X.numpy()), pd.DataFrame(Y.numpy())),
    "dataset": Observations,
    "stream": Stream,
    "loader": lambda X, Y: DataLoader(TensorDataset(X, Y), batch_size=25, shuffle=True),
    "own generator": lambda X, Y: DataLoader(Observations(X, Y), 25, shuffle=True, generator=torch.Generator()),
    "list": in_batches,
    "without length": lambda X, Y: map(tuple, in_batches(X, Y)),
}


VALIDATED = [("own generator", kind) for kind in ("pair", "loader", "dataset", "list")]
VALIDATED += [("loader", "without length"), ("dataset", "own generator")]


@pytest.mark.parametrize(("kind", "validation"), [*((kind, None) for kind in KINDS), *VALIDATED])
def test_every_kind_of_data_is_trained_and_validated_on(kind, validation):
    data = KINDS[kind](*regression())
    val_data = None if validation is None else KINDS[validation](*regression(60, seed=1))
    generator = getattr(data, "generator", None)
    result = range_of(data=data, val_data=val_data, num_repeats=2, extra=[generator])
    assert result.runs["repeat"].value_counts().tolist() == [12, 12]
    assert np.isfinite(result.runs["loss"]).all()
    assert result.settings["losses"] == ("training" if val_data is None else "validation")
    assert result.settings["num_gradients"] == 24


OPTIMIZERS = {
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=1e-2),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=2),
    "tensor rate": lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-3)),
    "groups": lambda p: torch.optim.SGD([{"params": list(p)[:2], "lr": 1.0}, {"params": [], "lr": 0.1}]),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_ends_as_it_began(name):
    model = network()
    result = range_of(model, optimizer=OPTIMIZERS[name](model.parameters()), num_repeats=2)
    assert len(result.runs) == 24


def test_an_optimizer_with_state_gradients_a_scheduler_and_frozen_weights_end_as_they_began():
    model = network()
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    X, Y = regression()
    for _ in range(3):
        nn.functional.mse_loss(model(X), Y).backward()
        optimizer.step()
        scheduler.step()
    model[3].eval()
    seen = []

    def compute_loss(model, batch):
        seen.append((model.training, model[3].training))
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    range_of(model, optimizer=optimizer, scheduler=scheduler, compute_loss=compute_loss, val_data=regression(40))
    assert set(seen) == {(True, False), (False, False)}  # as handed over, and in evaluation mode


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", [0, 1, 9, 30, 50])
def test_an_error_of_the_users_passes_and_everything_is_put_back(error, call):
    calls = []

    def loss_fn(output, target):
        calls.append(1)
        if len(calls) == call + 1:
            raise error
        return nn.functional.mse_loss(output, target)

    loader = KINDS["own generator"](*regression())
    with pytest.raises(type(error)) as raised:
        range_of(data=loader, val_data=regression(64), loss_fn=loss_fn, num_repeats=2, extra=[loader.generator])
    assert raised.value is error


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_is_trained_in_its_dtype(dtype):
    model = network().to(dtype)
    X, Y = regression()
    assert range_of(model, (X.numpy(), Y.numpy())).settings["dtype"] == str(dtype).removeprefix("torch.")


def test_tied_weights_and_dict_batches_train():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    batches = [{"x": x, "y": y} for x, y in in_batches(*regression())]

    def compute_loss(model, batch):
        return nn.functional.mse_loss(model(batch["x"]).sum(1, keepdim=True), batch["y"])

    result = range_of(model, batches, compute_loss=compute_loss, num_repeats=2)
    assert result.history["loss"].min() < 0.5 * result.history["loss"].iloc[0]


def test_every_repeat_begins_at_the_start_and_sees_another_order():
    seen = []

    def compute_loss(model, batch):
        seen.append((float(model.weight.detach()), int(batch[0, 0])))
        return (model(batch) ** 2).mean() / (1.0 + batch[0, 0] ** 2)

    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    batches = [torch.full((1, 1), float(number)) for number in range(1, 9)]
    range_of(model, batches, compute_loss=compute_loss, num_repeats=3, num_iter=8)
    weights, orders = zip(*seen[1:], strict=True)  # without the check
    assert weights[0] == weights[8] == weights[16] == 1.0
    runs = [orders[i : i + 8] for i in (0, 8, 16)]
    assert runs[0] == tuple(range(1, 9))
    assert len(set(runs)) == 3
    assert all(sorted(run) == list(range(1, 9)) for run in runs)


@pytest.mark.parametrize("num_iter", [4, 10, 23])
def test_an_iterator_is_gone_through_again_in_its_order(num_iter):
    numbers = []

    def compute_loss(model, batch):
        numbers.append(int(batch[0, 0]))
        return model(batch).square().mean()

    batches = (torch.full((1, 1), float(number)) for number in range(5))
    range_of(nn.Linear(1, 1), batches, compute_loss=compute_loss, num_iter=num_iter, divergence_factor=1e9)
    assert numbers[1:] == list(itertools.islice(itertools.cycle(range(5)), num_iter))


def test_a_loader_is_begun_again_and_only_as_far_as_it_is_needed():
    passes = []

    class Batches:
        def __iter__(self):
            passes.append(0)
            for x in torch.ones(3, 2, 1):
                passes[-1] += 1
                yield x

    range_of(
        nn.Linear(1, 1), Batches(), compute_loss=lambda model, x: model(x).square().mean(), num_iter=8, end_lr=1e-3
    )
    assert passes == [3, 3, 2]


def test_without_an_rng_the_run_is_the_one_that_the_global_state_decides():
    X, Y = regression()
    loader = DataLoader(TensorDataset(X, Y), batch_size=25, shuffle=True)
    model = network()
    curves = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        curves.append(range_of(model, loader, rng=None).history["loss"].tolist())
    assert curves[0] == curves[1] != curves[2]


def test_the_check_of_the_first_batch_takes_no_random_number_from_the_run():
    generator = torch.Generator().manual_seed(3)

    def compute_loss(model, batch):
        return 0.0 * model(batch).mean() + 1.0 + torch.rand((), generator=generator)

    data = [torch.ones(2, 1)]
    result = range_of(nn.Linear(1, 1), data, compute_loss=compute_loss, rng=None, extra=[generator])
    drawn = 1.0 + torch.rand(12, generator=torch.Generator().manual_seed(3))
    assert result.runs["loss"].tolist() == pytest.approx(drawn.tolist(), rel=1e-6)


def test_the_same_rng_gives_the_same_losses_and_a_generator_advances():
    def losses(rng):
        return range_of(data=Observations(*regression()), rng=rng, num_repeats=2).runs["loss"].tolist()

    model_draws = losses(0)
    torch.rand(3)
    assert losses(0) == model_draws != losses(1)
    rng = np.random.default_rng(0)
    assert losses(rng) != losses(rng)


def test_repeats_differ_and_agree_about_the_first_rows_of_their_own_run():
    alone, repeated = (range_of(num_repeats=number) for number in (1, 3))
    runs = [run["loss"].tolist() for _, run in repeated.runs.groupby("repeat")]
    assert runs[0] == alone.runs["loss"].tolist()
    assert len({tuple(run) for run in runs}) == 3


def test_the_validation_loss_is_the_mean_over_all_observations_in_evaluation_mode():
    model, (X, Y) = network(), regression(70, seed=1)
    model[3].p = 0.0  # a loader draws a random number for each pass, which moves the masks of the training
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    forms = [(X, Y), in_batches(X, Y, 50), DataLoader(TensorDataset(X, Y), batch_size=33)]
    curves = [range_of(model, optimizer=optimizer, val_data=form, smoothing=0.0).history["loss"] for form in forms]
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5)
    np.testing.assert_allclose(curves[2], curves[0], rtol=1e-5)
    # after a step of almost nothing, it is the loss of the model in evaluation mode, but for the running statistics
    model[1].momentum = 0.0
    first = range_of(model, optimizer=optimizer, val_data=(X, Y), start_lr=1e-12).history["loss"].iloc[0]
    model.eval()
    assert first == pytest.approx(float(nn.functional.mse_loss(model(X), Y).detach()), rel=1e-5)


def test_batches_that_are_written_into_are_the_same_in_every_pass():
    def compute_loss(model, batch):
        batch.mul_(0.0)
        return model(batch).square().mean()

    batches = [torch.ones(2, 1)]
    range_of(nn.Linear(1, 1), batches, compute_loss=compute_loss, num_repeats=2)
    assert batches[0].eq(1.0).all()


def test_a_loss_that_goes_negative_does_not_end_the_run():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    # from 0.1 down without a bottom
    result = range_of(
        model, [torch.ones(1, 1)], optimizer=optimizer, compute_loss=lambda model, x: 0.1 - model(x).mean() * -1.0
    )
    assert result.settings["diverged_at"] == [None]
    assert result.history["loss"].iloc[-1] < 0.0
    assert (result.history["loss"].diff()[1:] < 0.0).all()


def test_losses_that_are_not_finite_end_a_run_and_are_infinite_in_the_record():
    calls = []

    def loss_fn(output, target):
        calls.append(1)
        return nn.functional.mse_loss(output, target) * (float("nan") if len(calls) == 8 else 1.0)

    result = range_of(loss_fn=loss_fn)
    assert result.runs["loss"].tolist()[-1] == result.runs["smoothed_loss"].tolist()[-1] == np.inf
    assert len(result.runs) == 7  # the loss of a check comes first
    assert result.settings["diverged_at"] == [result.runs["learning_rate"].iloc[-1]]


@pytest.mark.parametrize("validated", [False, True])
def test_a_first_loss_that_is_not_finite_is_refused(validated):
    val_data = regression(40) if validated else None
    name = "`val_data` must give a finite loss after the first" if validated else "`train_data` must give a finite loss"
    with pytest.raises(ValueError, match=f"{name}.* step, got nan"):
        range_of(loss_fn=lambda output, _: (output * float("nan")).mean(), val_data=val_data)


@pytest.mark.parametrize(
    ("name", "options"),
    [("train_data", {"data": []}), ("val_data", {"val_data": []}), ("train_data", {"data": iter([])})],
)
def test_data_without_a_batch_is_refused(name, options):
    with pytest.raises(ValueError, match=f"`{name}` must yield at least one batch in every pass, got none"):
        range_of(**options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_iter": 1}, ValueError, "`num_iter` must be at least 2, got 1"),
        ({"num_iter": 2.5}, TypeError, "`num_iter` must be an integer"),
        ({"start_lr": 0.0}, ValueError, "`start_lr` must be finite and above 0, got"),
        ({"start_lr": 1.0, "end_lr": 1.0}, ValueError, r"`end_lr` must be above `start_lr` \(1\), got 1"),
        ({"end_lr": float("inf")}, ValueError, "`end_lr` must be finite"),
        ({"start_lr": 1.0, "end_lr": 1.0 + 1e-15}, ValueError, "`num_iter` must give distinct rates between 1.0 and"),
        ({"schedule": "cosine"}, ValueError, "`schedule` must be one of 'exponential', 'linear', got 'cosine'"),
        ({"smoothing": 1.0}, ValueError, "`smoothing` must be finite and at least 0 and below 1"),
        ({"smoothing": -0.1}, ValueError, "`smoothing` must be"),
        ({"divergence_factor": 1.0}, ValueError, "`divergence_factor` must be finite and above 1"),
        ({"accumulation_steps": 0}, ValueError, "`accumulation_steps` must be at least 1"),
        ({"num_repeats": 0}, ValueError, "`num_repeats` must be at least 1"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
        ({"batch_size": 8, "data": in_batches(*regression())}, ValueError, "`batch_size` must be left out where"),
        ({"data": 3}, TypeError, "`train_data` must be a tensor"),
        ({"val_data": 3}, TypeError, "`val_data` must be a tensor"),
        ({"rng": "seed"}, TypeError, "`rng` must be an integer"),
        ({"progress": "yes"}, TypeError, "`progress` must be True or False"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_sentence(options, error, message):
    with pytest.raises(error, match=message):
        range_of(**options)


@pytest.mark.parametrize(("option", "name"), [("data", "training"), ("val_data", "validation")])
def test_a_mistake_in_the_first_batch_is_explained(option, name):
    X, Y = regression()
    with pytest.raises(ValueError, match="must compare output and target of one shape") as raised:
        range_of(**{option: (X, Y[:, 0])}, loss_fn=lambda output, target: (output - target).square().mean())
    assert f"raised by the first {name} batch" in raised.value.__notes__[0]


def test_a_progress_bar_counts_the_iterations_of_all_repeats(capsys, monkeypatch):
    moved = []
    monkeypatch.setattr("tqdm.auto.tqdm.update", lambda _, number=1: moved.append(number))
    range_of(num_repeats=2, progress=True, divergence_factor=1.0001)
    assert sum(moved) == 24
    assert "iterations:   0%|          | 0/24" in capsys.readouterr().err

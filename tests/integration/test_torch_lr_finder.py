"""The losses of a range test are those of torch-lr-finder, on the same model, loader and seed."""

import contextlib
import io

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from autolr import lr_range_test

pytestmark = pytest.mark.integration
torch_lr_finder = pytest.importorskip("torch_lr_finder")

OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-4, momentum=0.9, weight_decay=1e-3),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-4),
}


def network():
    layers = nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1)
    return nn.Sequential(*layers).double()


def loader(num=90, *, shuffle=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(num, 4, dtype=torch.float64, generator=generator)
    Y = X.sum(1, keepdim=True) + 0.1 * torch.randn(num, 1, dtype=torch.float64, generator=generator)
    return DataLoader(TensorDataset(X, Y), batch_size=8, shuffle=shuffle)  # the last batch has fewer


def theirs(optimizer, data, val_loader=None, *, schedule, smoothing, **options):
    torch.manual_seed(1)
    model = network()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        finder = torch_lr_finder.LRFinder(model, OPTIMIZERS[optimizer](model.parameters()), nn.MSELoss())
        mode = {"exponential": "exp", "linear": "linear"}[schedule]
        finder.range_test(data, val_loader, start_lr=1e-4, smooth_f=smoothing, step_mode=mode, **options)
    return np.array(finder.history["lr"]), np.array(finder.history["loss"])


def ours(optimizer, data, val_loader=None, *, diverge_th=5.0, **options):
    torch.manual_seed(1)
    model = network()
    result = lr_range_test(
        model,
        nn.MSELoss(),
        OPTIMIZERS[optimizer](model.parameters()),
        data,
        val_data=val_loader,
        start_lr=1e-4,
        divergence_factor=diverge_th,
        **options,
    )
    return result.history["learning_rate"].to_numpy(), result.history["smoothed_loss"].to_numpy()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", ["exponential", "linear"])
@pytest.mark.parametrize("accumulation_steps", [1, 2])
@pytest.mark.parametrize("validated", [False, True])
def test_losses_are_equal_with_dropout_batch_norm_and_a_loader_that_ends_and_shuffles(
    optimizer, schedule, accumulation_steps, validated
):
    options = {"schedule": schedule, "accumulation_steps": accumulation_steps, "num_iter": 40, "smoothing": 0.2}
    data = loader(), loader(30, shuffle=False, seed=1) if validated else None
    rates, losses = theirs(optimizer, *data, **options)
    own_rates, own_losses = ours(optimizer, *data, **options)
    assert own_rates.tolist() == pytest.approx(rates.tolist(), rel=1e-15)
    assert own_losses.tolist() == losses.tolist()


@pytest.mark.parametrize("diverge_th", [1.05, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.05, 0.9])
def test_a_run_stops_where_theirs_does(diverge_th, smoothing):
    options = {"schedule": "exponential", "num_iter": 60, "smoothing": smoothing, "diverge_th": diverge_th}
    rates, losses = theirs("momentum", loader(), **options)
    assert len(rates) < 60
    assert ours("momentum", loader(), **options)[1].tolist() == losses.tolist()


def test_the_steepest_point_is_theirs():
    from matplotlib.figure import Figure

    torch.manual_seed(1)
    model = network()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        finder = torch_lr_finder.LRFinder(model, OPTIMIZERS["Adam"](model.parameters()), nn.MSELoss())
        finder.range_test(loader(), start_lr=1e-4)
        _, rate = finder.plot(ax=Figure().subplots())
    torch.manual_seed(1)
    model = network()
    optimizer = OPTIMIZERS["Adam"](model.parameters())
    result = lr_range_test(model, nn.MSELoss(), optimizer, loader(), start_lr=1e-4)
    assert float(result.suggest()) == pytest.approx(rate, rel=1e-12)

"""The demonstration: the learning rate of a small network on scikit-learn's handwritten digits."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from autolr.result import TuningResult
from autolr.tuner import AutoLRTuner

OPTIMIZERS = ("AdamW", "Adam", "SGD", "RMSprop", "NAdam", "Adagrad", "Adamax", "Adadelta", "RAdam")


def network() -> nn.Sequential:
    """Return a perceptron with one hidden layer, for images of 8 x 8 pixels and ten classes."""
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def digits(
    optimizer: str = "AdamW", seed: int = 0
) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer, tuple[torch.Tensor, torch.Tensor]]:
    """Return the network, its loss and optimizer, and the digits that scikit-learn bundles.

    Args:
        optimizer: The name of a class of ``torch.optim``.
        seed: Of the network's initial weights.

    Returns:
        Model, loss function, optimizer, and 1,797 images of 8 x 8 pixels with their labels.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the demo needs scikit-learn: install the extra `demo` of autolr, or scikit-learn itself."
        ) from error
    X, Y = load_digits(return_X_y=True)
    with seeded(seed):
        model = network()
    made = getattr(torch.optim, optimizer)(model.parameters(), lr=1e-3)
    return model, nn.CrossEntropyLoss(), made, (torch.tensor(X / 16.0, dtype=torch.float32), torch.tensor(Y))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Have torch draw weights from a seed; its generator goes on afterwards as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        yield


def tune_digits(*, optimizer: str = "AdamW", seed: int = 0, **options: Any) -> TuningResult:
    """Tune the network of :func:`digits`.

    Args:
        optimizer: The name of a class of ``torch.optim``.
        seed: Of the subsamples and of the network's initial weights.
        **options: Of :meth:`AutoLRTuner.tune`.

    Returns:
        The result.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    model, loss_fn, made, data = digits(optimizer, seed)
    return AutoLRTuner(model, loss_fn, made, rng=seed).tune(*data, **options)

"""The tasks of regret.py: small trainings whose best rates are found by trying them all (oracle.py).

Constants of the search may be chosen by the tasks of the family "choosing"; those of the family "judging" only judge.
The family "lengths" are two tasks again, trained for a quarter of their length and for four times it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import networks
import numpy as np
import torch
from networks import Data, linear_data, perceptron
from torch import nn

Family = Literal["choosing", "judging", "lengths"]
LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
OptimizerFactory = Callable[..., torch.optim.Optimizer]  # called with parameters and lr

cross_entropy = nn.functional.cross_entropy
mse = nn.functional.mse_loss
SGD, Momentum = torch.optim.SGD, partial(torch.optim.SGD, momentum=0.9)
Adam, AdamW = torch.optim.Adam, partial(torch.optim.AdamW, weight_decay=0.01)
RMSprop, Adagrad = torch.optim.RMSprop, torch.optim.Adagrad


def cross_entropy_of_sequences(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return cross_entropy(output.flatten(0, 1), target.flatten())


class Problem(NamedTuple):
    """What is trained, on what: all that a picker may see, but the validation data of those who take none."""

    model: nn.Module
    loss_fn: LossFunction
    make_optimizer: OptimizerFactory
    train: Data
    validation: Data


class Setup(NamedTuple):
    """What is trained: the first ``num_train`` rows of the data are trained on, the rest is held out."""

    make_model: Callable[[], nn.Module]  # draws the initial weights from torch's global generator
    loss_fn: LossFunction
    make_data: Callable[[], Data]
    num_train: int
    batch_size: int


@dataclass(frozen=True)
class Task:
    """A small training.

    Attributes:
        name: Its name in the tables.
        family: Whether constants may be chosen by it.
        setup: What is trained.
        make_optimizer: Called with the parameters and ``lr``.
        total_steps: The length T of the training.
        rates: The lowest and the highest rate of its oracle, in powers of ten.
    """

    name: str
    family: Family
    setup: Setup
    make_optimizer: OptimizerFactory
    total_steps: int
    rates: tuple[float, float]

    @property
    def batch_size(self) -> int:
        """The number of observations in a batch."""
        return self.setup.batch_size

    def make(self, seed: int) -> Problem:
        """Return the task with the initial weights of a seed; torch's global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.setup.make_model()
        X, Y = self.setup.make_data()
        n = self.setup.num_train
        train, validation = (X[:n], Y[:n]), (X[n:], Y[n:])
        return Problem(model, self.setup.loss_fn, self.make_optimizer, train, validation)

    @property
    def learning_rates(self) -> np.ndarray:
        """The grid of its oracle: five rates a decade, in the five digits that are stored, shape (K,)."""
        low, high = self.rates
        return np.array([float(f"{rate:.5g}") for rate in np.logspace(low, high, round(5 * (high - low)) + 1)])


def digits_perceptron() -> nn.Module:
    return perceptron(64, 48, 48, 10)


def deep_sigmoid() -> nn.Module:
    return perceptron(64, 32, 32, 10, activation=nn.Sigmoid)


def autoencoder() -> nn.Module:
    return perceptron(64, 32, 8, 32, 64)


def transformer() -> nn.Module:
    return networks.CharTransformer(networks.characters()[1])


def windows() -> Data:
    return networks.characters()[0]


def regression(num_features: int) -> Callable[[], nn.Module]:
    return partial(nn.Linear, num_features, 1)


LINEAR = Setup(regression(20), mse, partial(linear_data, 600, scales=torch.ones(20), noise=1.0), 400, 16)
ILL_SCALED = Setup(
    regression(20), mse, partial(linear_data, 600, scales=torch.logspace(0, -1.5, 20), noise=0.5), 400, 16
)
OUTLIERS = Setup(
    regression(20), mse, partial(linear_data, 1000, scales=torch.ones(20), noise=0.5, num_outliers=12), 400, 8
)
DIGITS = Setup(digits_perceptron, cross_entropy, networks.digits, 1200, 32)
SHALLOW = DIGITS._replace(make_model=partial(perceptron, 64, 96, 10), num_train=1000, batch_size=64)
PAIRS = DIGITS._replace(batch_size=2)
CNN = DIGITS._replace(make_model=networks.convolutional)
SIGMOID = DIGITS._replace(make_model=deep_sigmoid)
MISLABELLED = DIGITS._replace(make_data=partial(networks.digits_with_wrong_labels, 1200))
AUTOENCODER = DIGITS._replace(make_model=autoencoder, loss_fn=mse, make_data=networks.digits_themselves)
FINE_TUNING = Setup(networks.pretrained, cross_entropy, partial(networks.half_of_the_digits, first=5), 400, 16)
DIABETES = Setup(partial(perceptron, 10, 32, 32, 1), mse, networks.diabetes, 300, 16)
CANCER = Setup(partial(perceptron, 30, 32, 2), cross_entropy, networks.breast_cancer, 380, 16)
WINE = Setup(partial(perceptron, 13, 32, 3), cross_entropy, networks.wine_in_its_own_units, 120, 16)
WORDS = Setup(networks.classifier_of_bags, cross_entropy, networks.bags_of_words, 800, 16)
CHARACTERS = Setup(transformer, cross_entropy_of_sequences, windows, 1400, 16)
SADDLE = Setup(networks.deep_linear, mse, partial(networks.map_of_rank, 3), 600, 32)

TASKS = [
    Task("linear, SGD", "choosing", LINEAR, SGD, 600, (-4, 0)),
    Task("digits MLP, SGD", "choosing", DIGITS, SGD, 1200, (-3, 1)),
    Task("digits MLP, momentum", "choosing", DIGITS, Momentum, 1200, (-4, 0.4)),
    Task("digits MLP, Adam", "choosing", DIGITS, Adam, 1200, (-4.4, -0.4)),
    Task("digits CNN BatchNorm, momentum", "choosing", CNN, Momentum, 600, (-4, 0.6)),
    Task("diabetes MLP, Adam", "choosing", DIABETES, Adam, 800, (-5, -0.6)),
    Task("autoencoder, Adam", "choosing", AUTOENCODER, Adam, 1200, (-4.4, -0.4)),
    Task("fine-tuning, SGD", "choosing", FINE_TUNING, SGD, 800, (-3.4, 1)),
    Task("wrong labels, momentum", "choosing", MISLABELLED, Momentum, 1200, (-4, 0.4)),
    Task("deep sigmoid, momentum", "choosing", SIGMOID, Momentum, 1200, (-3, 1.4)),
    Task("bags of words, Adagrad", "choosing", WORDS, Adagrad, 800, (-4, 0.8)),
    Task("ill-scaled linear, SGD", "judging", ILL_SCALED, SGD, 1200, (-3.6, 0.6)),
    Task("cancer MLP, RMSprop", "judging", CANCER, RMSprop, 800, (-5, -0.4)),
    Task("digits MLP, AdamW", "judging", SHALLOW, AdamW, 800, (-4.2, 0)),
    Task("digits MLP, Adagrad", "judging", DIGITS, Adagrad, 1200, (-3.4, 0.6)),
    Task("digits MLP, batches of 2", "judging", PAIRS, SGD, 1200, (-4, 0.2)),
    Task("digits CNN BatchNorm, Adam", "judging", CNN, Adam, 600, (-4.2, 0.2)),
    Task("character transformer, AdamW", "judging", CHARACTERS, AdamW, 600, (-4.4, -0.4)),
    Task("fine-tuning, Adam", "judging", FINE_TUNING, Adam, 800, (-5, -0.8)),
    Task("autoencoder, momentum", "judging", AUTOENCODER, Momentum, 1200, (-3, 1.2)),
    Task("deep linear saddle, SGD", "judging", SADDLE, SGD, 1200, (-3.2, 0.4)),
    Task("wine in its own units, Adam", "judging", WINE, Adam, 800, (-5, -0.4)),
    Task("outliers, SGD", "judging", OUTLIERS, SGD, 800, (-4.4, 0)),
]
TASKS += [
    replace(task, name=f"{task.name}, {words}", family="lengths", total_steps=int(share * task.total_steps))
    for task in TASKS
    if task.name in ("digits MLP, SGD", "diabetes MLP, Adam")
    for words, share in (("T/4", 0.25), ("4T", 4.0))
]


def selected(names: Iterable[str]) -> list[Task]:
    """Return the tasks whose names contain one of the words; all, if there are none.

    Raises:
        SystemExit: If a word is in no name.
    """
    words = list(names)
    for word in words:
        if not any(word in task.name for task in TASKS):
            raise SystemExit(f"No task has {word!r} in its name: {', '.join(task.name for task in TASKS)}.")
    return [task for task in TASKS if not words or any(word in task.name for word in words)]

"""The networks and the data of tasks.py: small, generated or bundled with scikit-learn, the same at each call.

Data does not depend on the seed of a task; only the initial weights and the order of the batches do.
"""

import functools
import itertools
from collections.abc import Callable
from pathlib import Path

import torch
from sklearn import datasets
from torch import nn

Data = tuple[torch.Tensor, torch.Tensor]  # X and Y

CONTEXT = 16  # characters that the transformer sees

torch.sparse.check_sparse_tensor_invariants.disable()  # they are off anyway; said explicitly, Adagrad does not warn


class CharTransformer(nn.Module):
    """One causal layer of attention over the last ``CONTEXT`` characters."""

    def __init__(self, num_characters: int, width: int = 24) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_characters, width)
        self.position = nn.Parameter(0.1 * torch.randn(CONTEXT, width))
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])
        self.attended = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.head = nn.Linear(width, num_characters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of the next characters, shape (m, CONTEXT, num_characters)."""
        h = self.embedding(x) + self.position
        query, key, value = (
            part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.attended(self.norms[0](h)).chunk(3, dim=-1)
        )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        h = h + self.joined(mixed.transpose(1, 2).flatten(2))
        h = h + self.perceptron(self.norms[1](h))
        return self.head(self.norms[2](h))


def perceptron(*widths: int, activation: Callable[[], nn.Module] = nn.ReLU, bias: bool = True) -> nn.Sequential:
    """Return linear layers with an activation between each two."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after, bias=bias), activation()]
    return nn.Sequential(*layers[:-1])


def convolutional() -> nn.Sequential:
    """Return a network with BatchNorm for images of 8x8, given as rows of 64."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def deep_linear(width: int = 10, depth: int = 5, scale: float = 0.17) -> nn.Sequential:
    """Return a deep linear network that starts near the saddle at zero."""
    model = perceptron(*[width] * (depth + 1), activation=nn.Identity, bias=False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=scale)
    return model


def classifier_of_bags() -> nn.Sequential:
    """Return a classifier of bags of words by the mean of their embeddings, whose gradients are sparse."""
    return nn.Sequential(nn.EmbeddingBag(400, 16, mode="mean", sparse=True), nn.ReLU(), nn.Linear(16, 4))


def pretrained() -> nn.Sequential:
    """Return a network trained on the digits 0 to 4, with a new head for the digits 5 to 9.

    The body is the same at each call; the head is drawn from the global generator.
    """
    model = perceptron(64, 48, 48, 5)
    model.load_state_dict(_pretrained_state())
    model[-1] = nn.Linear(48, 5)
    return model


@functools.cache
def _pretrained_state() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = perceptron(64, 48, 48, 5)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        X, Y = (part[:600] for part in half_of_the_digits(first=0))
        for _ in range(200):
            rows = torch.randint(len(X), (32,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X[rows]), Y[rows]).backward()
            optimizer.step()
    return model.state_dict()


def shuffled(X: torch.Tensor, Y: torch.Tensor) -> Data:
    """Return the rows in an order that is always the same."""
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(0))
    return X[order], Y[order]


def standardized(X: torch.Tensor) -> torch.Tensor:
    return (X - X.mean(0)) / X.std(0).clamp(min=1e-6)


@functools.cache
def digits() -> Data:
    """Return the 1797 handwritten digits, pixels from 0 to 1."""
    X, Y = datasets.load_digits(return_X_y=True)
    return shuffled(torch.tensor(X / 16.0, dtype=torch.float32), torch.tensor(Y))


def half_of_the_digits(first: int) -> Data:
    """Return the rows of the five digits that begin at ``first``, named 0 to 4."""
    X, Y = digits()
    chosen = (first <= Y) & (first + 5 > Y)
    return X[chosen], Y[chosen] - first


def digits_with_wrong_labels(num_train: int, share: float = 0.3) -> Data:
    """Return the digits, a share of the labels of the first ``num_train`` rows drawn at random."""
    X, Y = digits()
    generator = torch.Generator().manual_seed(1)
    wrong = torch.rand(len(Y), generator=generator) < share
    wrong[num_train:] = False
    return X, torch.where(wrong, torch.randint(10, Y.shape, generator=generator), Y)


def digits_themselves() -> Data:
    X, _ = digits()
    return X, X


def diabetes() -> Data:
    """Return 442 patients, 10 features and the progression of their disease, all standardized."""
    X, Y = (torch.tensor(part, dtype=torch.float32) for part in datasets.load_diabetes(return_X_y=True))
    return shuffled(standardized(X), standardized(Y[:, None]))


def breast_cancer() -> Data:
    X, Y = datasets.load_breast_cancer(return_X_y=True)
    return shuffled(standardized(torch.tensor(X, dtype=torch.float32)), torch.tensor(Y))


def wine_in_its_own_units() -> Data:
    """Return 178 wines with 13 features as they were measured, from tenths to more than a thousand."""
    X, Y = datasets.load_wine(return_X_y=True)
    return shuffled(torch.tensor(X, dtype=torch.float32), torch.tensor(Y))


def linear_data(num_rows: int, *, scales: torch.Tensor, noise: float, num_outliers: int = 0) -> Data:
    """Draw a linear regression, its features scaled, the targets of the first rows with far larger noise."""
    generator = torch.Generator().manual_seed(2)
    X = torch.randn(num_rows, len(scales), generator=generator)
    Y = X @ torch.randn(len(scales), 1, generator=generator)
    noise_of_row = torch.full((num_rows, 1), noise)
    noise_of_row[:num_outliers] = 30.0
    return X * scales, Y + noise_of_row * torch.randn(num_rows, 1, generator=generator)


def map_of_rank(rank: int, num_rows: int = 800, width: int = 10) -> Data:
    """Draw a linear map of low rank with noise, for networks with a saddle."""
    generator = torch.Generator().manual_seed(3)
    X = torch.randn(num_rows, width, generator=generator)
    matrix = torch.randn(width, rank, generator=generator) @ torch.randn(rank, width, generator=generator)
    return X, X @ matrix / width**0.5 + 0.3 * torch.randn(num_rows, width, generator=generator)


def bags_of_words(num_rows: int = 1200, num_words: int = 400, length: int = 12, num_topics: int = 4) -> Data:
    """Draw texts of words whose frequencies fall by Zipf's law, in an order that is each topic's own."""
    generator = torch.Generator().manual_seed(4)
    frequencies = 1.0 / torch.arange(1.0, num_words + 1.0)
    topics = torch.stack(
        [frequencies[torch.randperm(num_words, generator=generator)] + frequencies for _ in range(num_topics)]
    )
    Y = torch.randint(num_topics, (num_rows,), generator=generator)
    return torch.multinomial(topics[Y], length, replacement=True, generator=generator), Y


@functools.cache
def characters() -> tuple[Data, int]:
    """Return windows of text.txt (the licence of Python), the next characters, and the number of different ones."""
    text = Path(__file__).with_name("text.txt").read_text().lower()
    alphabet = sorted(set(text))
    codes = torch.tensor([alphabet.index(character) for character in text])
    windows = codes.unfold(0, CONTEXT + 1, CONTEXT // 2)
    return (windows[:, :-1].contiguous(), windows[:, 1:].contiguous()), len(alphabet)

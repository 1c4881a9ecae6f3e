"""Draw the pictures of the README and of the gallery into this folder: ``python assets/draw.py``.

With names of pictures, such as ``python assets/draw.py search.png``, it draws these only.
"""

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter
from sklearn.datasets import load_diabetes, load_digits
from sklearn.preprocessing import scale
from torch import nn

import autolr

FOLDER = Path(__file__).parent
ENGINE = "line"  # the one that "auto" takes depends on times, and the last bits of the losses on the engine
BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#777777"


def digits_network() -> tuple[nn.Module, torch.optim.Optimizer, np.ndarray, np.ndarray]:
    """Return model, optimizer and data of the README's main example."""
    X, Y = load_digits(return_X_y=True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3), X / 16, Y


def digits_tuner(seed: int) -> tuple[autolr.AutoLRTuner, np.ndarray, np.ndarray]:
    """Return the tuner of the README's main example, and its data; ``seed`` draws the subsamples, not the weights."""
    model, optimizer, X, Y = digits_network()
    return autolr.AutoLRTuner(model, nn.CrossEntropyLoss(), optimizer, rng=seed), X, Y


def draw_digits(figure: Figure) -> None:
    """The README's main example, as ``result.plot()`` draws it."""
    tuner, X, Y = digits_tuner(0)
    tuner.tune(X, Y, engine=ENGINE).plot(figure.subplots())


def draw_horizons(figure: Figure) -> None:
    """The same network after 20 steps, and the means after 1 and 5 of them."""
    tuner, X, Y = digits_tuner(0)
    rates = autolr.log_grid(1e-4, 1.0, 33)
    result = tuner.tune(X, Y, learning_rates=rates, horizon=[1, 5, 20], num_subsamples=40, engine="step")
    result.plot(figure.subplots())


def draw_linear_grid(figure: Figure) -> None:
    """The change of loss on the subsample that gave the gradient, on a linear grid of rates."""
    X, Y = load_diabetes(return_X_y=True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    result = autolr.AutoLRTuner(model, nn.MSELoss(), optimizer, rng=0).tune(
        scale(X),
        scale(Y)[:, None],
        learning_rates=autolr.linear_grid(0.01, 1.0, 100),
        num_subsamples=50,
        engine=ENGINE,
        evaluation="subsample",
    )
    result.plot(figure.subplots(), xlim=(0.01, 1.0))


def draw_seeds(figure: Figure) -> None:
    """What ten seeds pick from one subsample, and from a hundred."""
    rates = autolr.log_grid(1e-3, 1e-1, 100)
    ax: Axes = figure.subplots()
    seeds = range(1, 11)
    for seed in seeds:
        tuner, X, Y = digits_tuner(seed)
        result = tuner.tune(X, Y, learning_rates=rates, engine=ENGINE)
        suggestion = result.suggest()
        one = result.differentials.delta[0]
        marker = "o" if one.min() < 0.0 else "<"
        ax.plot(rates[one.argmin()], seed, marker, color=VERMILLION, markersize=7.0, clip_on=False, zorder=3)
        if one.min() >= 0.0:
            words = ax.annotate("the loss falls at no rate", (rates[0], seed), (9.0, -4.0), textcoords="offset points")
            words.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1.0})
        ax.plot([suggestion.low, suggestion.high], [seed, seed], color=BLUE, linewidth=3.0, alpha=0.5, zorder=2)
        ax.plot(suggestion.learning_rate, seed, "D", color=BLUE, markersize=5.0, zorder=4)
    tuner, X, Y = digits_tuner(0)
    many = tuner.tune(X, Y, learning_rates=rates, num_subsamples=1000, engine=ENGINE)
    best = float(rates[many.differentials.delta.mean(axis=0).argmin()])
    ax.axvline(best, color=GREY, linewidth=1.2, linestyle="--", zorder=1)
    ax.set_xscale("log")
    ax.set_xlim(rates[0], rates[-1])
    ax.xaxis.set_major_locator(FixedLocator([0.001, 0.003, 0.01, 0.03, 0.1]))
    ax.xaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_yticks(list(seeds))
    ax.invert_yaxis()
    ax.grid(axis="y", color=GREY, alpha=0.2)
    ax.set_xlabel("learning rate")
    ax.set_ylabel("seed")
    handles = [
        Line2D([], [], color=VERMILLION, marker="o", markersize=7.0, linestyle="none", label="pick from 1 subsample"),
        Line2D([], [], color=BLUE, marker="D", markersize=5.0, linewidth=3.0, label="from 100, with 95% interval"),
        Line2D([], [], color=GREY, linestyle="--", linewidth=1.2, label="from 1000"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False, columnspacing=1.2)


def draw_search(figure: Figure) -> None:
    """The search of the README for the rate of a run of 5,000 steps under a cosine."""
    model, optimizer, X, Y = digits_network()
    suggestion = autolr.find_lr(
        model, nn.CrossEntropyLoss(), optimizer, (X, Y), total_steps=5_000, schedule="cosine", num_streams=3, rng=0
    )
    suggestion.plot(figure.subplots(1, 2, width_ratios=(3, 2)))


def draw_taylor(figure: Figure) -> None:
    """The loss after one step of SGD on 256 digits, and its expansions of order 1 and 2."""
    model, _, X, Y = digits_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = torch.tensor(X[:256], dtype=torch.float32), torch.tensor(Y[:256])
    autolr.taylor_expansion(model, nn.CrossEntropyLoss(), optimizer, *batch).plot(figure.subplots())


def draw_range_test(figure: Figure) -> None:
    """Five range tests of the digits network in different orders."""
    model, optimizer, X, Y = digits_network()
    test = autolr.lr_range_test(model, nn.CrossEntropyLoss(), optimizer, (X, Y), num_repeats=5, rng=0)
    test.suggest("valley").plot(figure.subplots(2, 1, height_ratios=(3, 2)))


def perceptron(num_layers: int) -> nn.Sequential:
    """Return a fully-connected network of some hidden layers of 32 units, on 20 inputs."""
    widths = [20, *[32] * num_layers, 1]
    layers = [part for sizes in pairwise(widths) for part in (nn.Linear(*sizes), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def draw_curves(
    ax: Axes, model: nn.Module, loss_fn: nn.Module, batches: list[tuple[torch.Tensor, ...]], most: float
) -> None:
    """Draw the loss after one step of SGD against the rate, from 0 to ``most``, a curve for each batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rates = np.linspace(0.0, most, 100)
    losses = np.array([autolr.loss_by_learning_rate(model, loss_fn, optimizer, *batch, rates) for batch in batches])
    for number, curve in enumerate(losses):
        ax.plot(rates, curve, color=BLUE, alpha=0.6, linewidth=1.0, zorder=2)
        ax.plot(rates[curve.argmin()], curve.min(), "o", color=VERMILLION, markersize=4.0, zorder=3 + number)
    ax.set_xlim(0.0, most)
    ax.set_ylim(0.0, 1.6 * losses[:, 0].max())
    ax.set_xlabel("learning rate")
    ax.set_ylabel("loss after one step")


def draw_loss_by_rate(figure: Figure) -> None:
    """The loss after one step on ten batches: random data and two perceptrons; digits and a CNN, before and after."""
    axes = figure.subplots(2, 2)
    torch.manual_seed(0)
    data = [(torch.randn(32, 20), torch.randn(32, 1)) for _ in range(10)]
    for ax, num_layers, most in ((axes[0, 0], 1, 1.0), (axes[0, 1], 6, 5.0)):
        draw_curves(ax, perceptron(num_layers), nn.MSELoss(), data, most)
        ax.set_title(f"perceptron, {num_layers} hidden layer{'s' * (num_layers > 1)}, random data", size="medium")
    X, Y = load_digits(return_X_y=True)
    images, labels = torch.tensor(X / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(Y)
    digits = [(images[i : i + 32], labels[i : i + 32]) for i in range(0, 320, 32)]
    convolutions = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)]
    model = nn.Sequential(*convolutions)
    draw_curves(axes[1, 0], model, nn.CrossEntropyLoss(), digits, 5.0)
    axes[1, 0].set_title("CNN on digits, untrained", size="medium")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(200):
        rows = slice(32 * (step % 50), 32 * (step % 50 + 1))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
    draw_curves(axes[1, 1], model, nn.CrossEntropyLoss(), digits, 1.0)
    axes[1, 1].set_title("the same after 200 steps at rate 0.1", size="medium")


PICTURES: dict[str, Callable[[Figure], None]] = {
    "digits.png": draw_digits,
    "horizons.png": draw_horizons,
    "linear_grid.png": draw_linear_grid,
    "seeds.png": draw_seeds,
    "search.png": draw_search,
    "range_test.png": draw_range_test,
    "taylor.png": draw_taylor,
    "loss_by_rate.png": draw_loss_by_rate,
}
SIZES = {"loss_by_rate.png": (7.0, 5.6), "range_test.png": (7.0, 5.2), "search.png": (9.0, 3.8)}


def main() -> None:
    torch.set_num_threads(1)
    for name in sys.argv[1:] or PICTURES:
        figure = Figure(figsize=SIZES.get(name, (7.0, 4.3)), layout="constrained")
        PICTURES[name](figure)
        figure.savefig(FOLDER / name, dpi=150, metadata={"Software": None})  # the same bytes with any version's name
        print(name)


if __name__ == "__main__":
    main()

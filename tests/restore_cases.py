"""Everything that a call could leave changed: optimizers, models and calls, and what becomes of each combination.

A combination is tried for real and judged by ``harness.unchanged`` alone. Where the optimizer cannot train the model at
all (``SparseAdam`` on dense gradients, say), the call has to raise what plain training raises.
"""

import itertools
import random
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from harness import quiet, unchanged
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

import autolr
from autolr.integrations._hook import Hook

NUM_OBSERVATIONS, BATCH_SIZE = 48, 8
RATES = np.geomspace(1e-4, 1e-1, 4)

OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "SGD": (optim.SGD, {}),
    "SGD, Nesterov": (optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "SGD, dampening, maximize": (optim.SGD, {"momentum": 0.9, "dampening": 0.5, "maximize": True}),
    "SGD, foreach": (optim.SGD, {"momentum": 0.9, "foreach": True}),
    "SGD, fused": (optim.SGD, {"momentum": 0.9, "fused": True}),
    "Adam": (optim.Adam, {}),
    "Adam, amsgrad": (optim.Adam, {"amsgrad": True, "weight_decay": 0.1}),
    "Adam, foreach": (optim.Adam, {"foreach": True}),
    "Adam, capturable rate": (optim.Adam, {"lr": torch.tensor(0.01)}),
    "AdamW": (optim.AdamW, {}),
    "AdamW, fused": (optim.AdamW, {"fused": True}),
    "NAdam": (optim.NAdam, {"decoupled_weight_decay": True, "weight_decay": 0.1}),
    "RAdam": (optim.RAdam, {}),
    "Adamax": (optim.Adamax, {}),
    "Adadelta": (optim.Adadelta, {}),
    "Adagrad": (optim.Adagrad, {"lr_decay": 0.1}),
    "Adagrad, fused": (optim.Adagrad, {"fused": True}),
    "RMSprop": (optim.RMSprop, {}),
    "RMSprop, centered": (optim.RMSprop, {"centered": True, "momentum": 0.9}),
    "Rprop": (optim.Rprop, {}),
    "ASGD": (optim.ASGD, {"t0": 1.0}),
    "LBFGS": (optim.LBFGS, {"max_iter": 2, "history_size": 2}),
    "LBFGS, line search": (optim.LBFGS, {"max_iter": 2, "line_search_fn": "strong_wolfe"}),
    "Adafactor": (optim.Adafactor, {}),
    "Muon": (optim.Muon, {}),
    "SparseAdam": (optim.SparseAdam, {}),
}
RATE_IN_STATE = ("Rprop", "ASGD", "LBFGS", "LBFGS, line search")


def images(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(NUM_OBSERVATIONS, 1, 5, 5, dtype=dtype), torch.randint(3, (NUM_OBSERVATIONS,))


def vectors(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(NUM_OBSERVATIONS, 5, dtype=dtype), torch.randint(3, (NUM_OBSERVATIONS,))


def sequences() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(NUM_OBSERVATIONS, 3, 4), torch.randint(3, (NUM_OBSERVATIONS,))


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(7, (NUM_OBSERVATIONS,)), torch.randint(7, (NUM_OBSERVATIONS,))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))


def convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3))


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.2, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 3))


class Tied(nn.Module):
    """An embedding whose weight is that of the head too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.embedding(x)))


class Frozen(nn.Module):
    """A frozen layer that has a stale gradient, and a layer that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = perceptron(), nn.Linear(2, 2)
        for parameter in self.used.get_submodule("0").parameters():
            parameter.grad = torch.randn_like(parameter)
            parameter.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


class Draws(nn.Module):
    """Draws from all global generators and from one of its own, and counts its forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.generator, self.count = nn.Linear(5, 3), torch.Generator().manual_seed(1), 0
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        self.seen = self.seen + 1.0  # another tensor each time
        noise = np.random.normal() + random.random() + torch.rand(())  # noqa: NPY002 (the global one)
        return self.linear(x) * (1.0 + 0.1 * (noise + torch.rand((), generator=self.generator)))


def sparse_embedding() -> nn.Module:
    return nn.Sequential(nn.Embedding(7, 7, sparse=True), nn.Tanh())


Data = tuple[torch.Tensor, torch.Tensor]
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Data]]] = {
    "perceptron": (perceptron, vectors),
    "convolutions with BatchNorm": (convolutions, images),
    "transformer with dropout": (transformer, sequences),
    "tied embedding": (Tied, tokens),
    "frozen parts": (Frozen, vectors),
    "float64": (lambda: perceptron().double(), lambda: vectors(torch.float64)),
    "bfloat16": (lambda: perceptron().bfloat16(), lambda: vectors(torch.bfloat16)),
    "own draws and counters": (Draws, vectors),
    "sparse embedding": (sparse_embedding, tokens),
}


@dataclass
class Case:
    """What a user hands over: a model in training, its data, and a loader with a generator of its own."""

    model: nn.Module
    optimizer: Any
    scheduler: Any
    X: torch.Tensor
    Y: torch.Tensor
    loader: DataLoader[Any]
    generator: torch.Generator

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(output.float() if output.dtype == torch.bfloat16 else output, target)

    def train(self, num_steps: int) -> None:
        """Train by hand, as a user would."""
        for start in range(0, num_steps * BATCH_SIZE, BATCH_SIZE):
            x, y = self.X[start : start + BATCH_SIZE], self.Y[start : start + BATCH_SIZE]

            def closure(x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
                self.optimizer.zero_grad()
                loss = self.loss(self.model(x), y)
                loss.backward()
                return loss

            self.optimizer.step(closure)
            self.scheduler.step()

    @contextmanager
    def kept(self) -> Any:
        """Assert that nothing is changed by the block."""
        with unchanged(
            self.model, self.optimizer, scheduler=self.scheduler, extra=[self.X, self.Y, self.generator, self.loader]
        ):
            yield


def make_case(optimizer: str, model: str, *, warm: bool) -> Case:
    """Return a case; a warm one has gradients, and a part in evaluation mode. (Not where training is impossible.)"""
    warm = warm and trouble_of(optimizer, model) is None
    case = _make(optimizer, model)
    if warm:
        case.train(2)
        list(case.model.modules())[-1].eval()
    return case


@cache
def trouble_of(optimizer: str, model: str) -> Exception | None:
    """Return what plain training raises, if it does."""
    try:
        _make(optimizer, model).train(2)
    except Exception as error:  # noqa: BLE001 (it is what calls have to raise)
        return error
    return None


def _make(optimizer: str, model: str) -> Case:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (the global one, from which a model draws)
    make_model, make_data = MODELS[model]
    made, (X, Y) = make_model(), make_data()
    kind, options = OPTIMIZERS[optimizer]
    options = {"lr": 0.01, **options}
    if isinstance(options["lr"], torch.Tensor):
        options["lr"] = options["lr"].clone()
    parameters = [p for p in made.parameters() if p.ndim == 2 or kind is not optim.Muon]
    half = max(1, len(parameters) // 2)
    groups: Any = [{"params": parameters[:half]}, {"params": parameters[half:], "lr": 0.02}]
    several = len(parameters) > 1 and kind is not optim.LBFGS and not isinstance(options["lr"], torch.Tensor)
    own = kind(groups if several else parameters, **options)
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(X, Y), BATCH_SIZE, shuffle=True, generator=generator)
    return Case(made, own, optim.lr_scheduler.StepLR(own, 4), X, Y, loader, generator)


def tuning(**options: Any) -> Callable[[Case], object]:
    def call(case: Case) -> object:
        tuner = autolr.AutoLRTuner(case.model, case.loss, case.optimizer, rng=0)
        whole = {"learning_rates": RATES, "num_subsamples": 3, "batch_size": BATCH_SIZE, **options}
        return tuner.tune(case.X, case.Y, **whole)

    return call


def tune_by_loader(case: Case) -> object:
    tuner = autolr.AutoLRTuner(case.model, case.loss, case.optimizer, rng=0)
    return tuner.tune(case.loader, learning_rates=RATES, num_subsamples=3, engine="step")


def extend(case: Case) -> object:
    tuner = autolr.AutoLRTuner(case.model, case.loss, case.optimizer, rng=0)
    tuner.tune(case.X, case.Y, learning_rates=RATES, num_subsamples=2, batch_size=BATCH_SIZE)
    return tuner.extend(1)


def find(case: Case) -> object:
    return autolr.find_lr(
        case.model, case.loss, case.optimizer, case.loader, total_steps=8, max_evaluations=20, effort="fast", rng=0
    )


def range_test(case: Case, **options: Any) -> object:
    options = {"val_data": case.loader, "num_iter": 4, "num_repeats": 2, "end_lr": 0.1, **options}
    return autolr.lr_range_test(case.model, case.loss, case.optimizer, case.loader, **options)


def loss_curve(case: Case) -> object:
    return autolr.loss_by_learning_rate(
        case.model, case.loss, case.optimizer, case.X[:BATCH_SIZE], case.Y[:BATCH_SIZE], RATES, rng=0
    )


def expansion(case: Case) -> object:
    return autolr.taylor_expansion(
        case.model, case.loss, case.optimizer, case.X[:BATCH_SIZE], case.Y[:BATCH_SIZE], rng=0, learning_rates=RATES
    )


def comparison(case: Case) -> object:
    """Compare schedules, of the user's own model and optimizer at that."""
    return autolr.compare_schedules(
        lambda: case.model,
        case.loss,
        lambda _: case.optimizer,
        case.loader,
        schedules=["constant", "cosine"],
        learning_rate=1e-3,
        num_epochs=1,
        num_repeats=2,
        rng=0,
    )


def second_order(case: Case) -> object:
    """Step the scheduler, and put the rates back, which are all that it may change."""
    rates = [group["lr"] for group in case.optimizer.param_groups]
    values = [float(rate) for rate in rates]
    with ExitStack() as stack:
        stack.callback(_put_rates, case.optimizer, rates, values)
        scheduler = autolr.SecondOrderLR(case.optimizer, case.model, case.loss, lr_min=1e-6, lr_max=1.0)
        scheduler.step(case.X[:BATCH_SIZE], case.Y[:BATCH_SIZE])
        return scheduler


def _put_rates(optimizer: Any, rates: list[Any], values: list[float]) -> None:
    for group, rate, value in zip(optimizer.param_groups, rates, values, strict=True):
        group["lr"] = rate.fill_(value) if isinstance(rate, torch.Tensor) else rate


def hooked(tool: Any, **options: Any) -> Callable[[Case], object]:
    def call(case: Case) -> object:
        hook = Hook(tool=tool, apply=False, options={"rng": 0, **options})
        return hook.run(
            case.model, case.loss, case.optimizer, case.loader, scheduler=case.scheduler, total_steps=8, per_step=1
        )

    return call


CALLS: dict[str, Callable[[Case], object]] = {
    "tune, auto": tuning(),
    "tune, step": tuning(engine="step"),
    "tune, line": tuning(engine="line"),
    "tune, batched": tuning(engine="batched"),
    "tune, horizon": tuning(horizon=[1, 2], evaluation="subsample"),
    "tune, side by side": tuning(horizon=2, engine="batched"),
    "tune, adaptive": tuning(adaptive=True, num_subsamples=20, engine="line", learning_rates=RATES[1:]),
    "tune, interpolate": tuning(
        interpolate=True, num_subsamples=12, learning_rates=np.geomspace(1e-4, 1e-1, 24), engine="line"
    ),
    "tune, warm-up": tuning(warmup_steps=2),
    "tune, loader": tune_by_loader,
    "extend": extend,
    "find_lr": find,
    "lr_range_test": range_test,
    "loss_by_learning_rate": loss_curve,
    "taylor_expansion": expansion,
    "compare_schedules": comparison,
    "SecondOrderLR": second_order,
    "hook, find_lr": hooked("find_lr", max_evaluations=20, effort="fast"),
    "hook, tune": hooked("tune", learning_rates=RATES, num_subsamples=3),
}


class Combination(NamedTuple):
    """One cell of the matrix."""

    optimizer: str
    warm: bool
    model: str
    call: str

    def __str__(self) -> str:
        return f"{self.call}: {'warm' if self.warm else 'cold'} {self.optimizer}, {self.model}"


AXES: tuple[Sequence[Any], ...] = (tuple(OPTIMIZERS), (False, True), tuple(MODELS), tuple(CALLS))


def whole_matrix() -> list[Combination]:
    return [Combination(*values) for values in itertools.product(*AXES)]


def pairwise(combinations: Iterable[Combination]) -> list[Combination]:
    """Return some of the combinations in which every pair of values of two axes occurs, greedily.

    Pairs meet where the optimizer can train the model, if they can.
    """

    def pairs(combination: Combination) -> set[Any]:
        return set(itertools.combinations(enumerate(combination), 2))

    shuffled = sorted(combinations, key=str)
    random.Random(0).shuffle(shuffled)
    parts: tuple[list[Combination], list[Combination]] = [], []
    for combination in shuffled:
        parts[trouble_of(combination.optimizer, combination.model) is not None].append(combination)
    met: set[Any] = set()
    chosen = []
    for part in parts:
        for most in range(len(AXES) * (len(AXES) - 1) // 2, 0, -1):  # what adds most comes first
            for combination in part:
                if len(pairs(combination) - met) >= most:
                    met |= pairs(combination)
                    chosen.append(combination)
    return chosen


def outcome(combination: Combination) -> str:
    """Try a combination, assert that nothing was changed, and return ``"kept"`` or what was raised, as it should be.

    Raises:
        AssertionError: If something was changed, or something else was raised than has to be.
    """
    case = make_case(combination.optimizer, combination.model, warm=combination.warm)
    refusal = refusal_of(combination)
    raised: Exception | None = None
    with case.kept(), quiet():
        try:
            CALLS[combination.call](case)
        except Exception as error:  # noqa: BLE001 (it is judged below)
            raised = error
    if refusal is None and raised is None:
        return "kept"
    if refusal is None or raised is None:
        raise AssertionError(f"{combination}: {raised!r}, expected {refusal}") from raised
    kind, words = refusal
    if not isinstance(raised, kind) or not re.search(words, str(raised)):
        raise AssertionError(f"{combination}: {raised!r}, expected {refusal}") from raised
    return type(raised).__name__


def refusal_of(combination: Combination) -> tuple[type[Exception], str] | None:
    """Return type and words of what a call has to raise, or ``None``."""
    optimizer, warm, model, call = combination
    trouble = trouble_of(optimizer, model)
    if trouble is not None:
        return type(trouble), re.escape(str(trouble))
    if call == "tune, warm-up" and optimizer in RATE_IN_STATE:
        return ValueError, "`warmup_steps` must be 0 for "
    if call in ("taylor_expansion", "SecondOrderLR"):
        if optimizer.startswith("LBFGS"):
            return ValueError, r"proportional to the learning rate \(it computes losses within its step\)"
        if optimizer == "Adafactor" or (warm and optimizer in RATE_IN_STATE):
            return ValueError, r"proportional to the learning rate \(the real step at"
    return None

"""What do learning-rate finders tell, how sure are they of it, and what do they leave changed?

    python benchmarks/finders.py                  # four minutes on one core
    python benchmarks/finders.py --check          # seconds: one seed, no framework; exit status 1 if autolr fails

Each finder is used as its documentation says, on the same training: the digits of scikit-learn, a network with
BatchNorm and dropout, Adam after five steps, batches of 32. The weights, the data and the optimizer's state are the
same for all seeds; the order of the batches, the subsamples and the dropout masks are the seed's. The columns of the
first table:

- suggestion: the median of the rates that are given, with the lowest and the highest.
- spread: the highest over the lowest; in brackets, the standard deviation of the decimal logarithms.
- none: the seeds without a rate (an error, or ``None``), and those whose verdict is "I cannot tell".
- error bar: how wide it is in decades, the median over the seeds; "none" where the finder gives none.
- evaluations, seconds: gradient evaluations (three losses count as one) and processor time, medians over the seeds.
- elsewhere: how far the suggestions of three starts (other weights, another order) are from each other, the highest
  over the lowest, the median over the tasks of ``regret.py``.
- regret: how much worse a whole run ends at the suggestion than at the best rate, constant / cosine, on the tasks that
  only judge. These two columns are read from ``regret.json``.

The second table compares the user's objects before and after, bit for bit, in ten kinds (``facts``): after the use that
the documentation shows, from the first line to the last, and after an exception in the loss, half-way.
"""

import argparse
import importlib.util
import math
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

import networks
import numpy as np
import peers
import records
import tables
import torch
from machine import circumstances
from runs import SCHEDULES
from tasks import LossFunction, cross_entropy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import autolr

NUM_SEEDS, BATCH_SIZE, NUM_TRAINED, TOTAL_STEPS = 20, 32, 1200, 1200
WARM_STEPS, WARM_RATE = 5, 1e-3
SOURCES = ["autolr"]


class Halfway(Exception):  # noqa: N818 - what the loss raises: no error of a finder
    """Raised by the loss half-way."""


class Suggested(NamedTuple):
    """A rate, ``None`` if there is none, what it cost, its interval, and whether the finder says it cannot tell."""

    rate: float | None
    evaluations: float
    low: float = math.nan
    high: float = math.nan
    cannot_tell: bool = False


class Finder(NamedTuple):
    """A finder: the package it needs, how it is used, its name in ``regret.json``, and whether ``--check`` runs it."""

    name: str
    package: str
    find: Callable[[peers.Training, int], Suggested]
    picker: str | None = None
    is_quick: bool = True

    @property
    def title(self) -> str:
        """The name, with the version of another package."""
        distribution = {"torch_lr_finder": "torch-lr-finder", "ignite": "pytorch-ignite"}.get(
            self.package, self.package
        )
        return self.name if self.package == "autolr" else f"{self.name} ({version(distribution)})"


def tuned(training: peers.Training, seed: int) -> Suggested:
    tuner = autolr.AutoLRTuner(training.model, training.loss_fn, training.optimizer, rng=seed)
    result = tuner.tune(*training.loader.dataset.tensors, progress=False)
    return suggested(result.suggest(), result.settings["num_evaluations"])


def searched(num_streams: int, training: peers.Training, seed: int) -> Suggested:
    options = {"total_steps": TOTAL_STEPS, "num_streams": num_streams, "rng": seed, "progress": False}
    suggestion = autolr.find_lr(*training, **options)
    return suggested(suggestion, suggestion.evidence.num_evaluations)


def ranged(num_repeats: int, training: peers.Training, seed: int) -> Suggested:
    """Return the suggestion of the range test; a single run draws from the global generators, as a training does."""
    rng = None if num_repeats == 1 else seed
    test = autolr.lr_range_test(*training, num_repeats=num_repeats, rng=rng, progress=False)
    return suggested(test.suggest(), test.num_evaluations)


def suggested(suggestion: autolr.Suggestion, evaluations: float) -> Suggested:
    ends = suggestion.low, suggestion.high
    return Suggested(suggestion.learning_rate, evaluations, *ends, suggestion.doubt is not None)


def of_peer(find: Callable[[peers.Training], peers.Found], training: peers.Training, seed: int) -> Suggested:  # noqa: ARG001
    return Suggested(*find(training))


FINDERS = [
    Finder("`AutoLRTuner.tune`", "autolr", tuned, "one step, independent batch"),
    Finder("`find_lr`", "autolr", partial(searched, 1), "find_lr, no val_data"),
    Finder("`find_lr`, 3 streams", "autolr", partial(searched, 3), is_quick=False),
    Finder("`lr_range_test`", "autolr", partial(ranged, 1)),
    Finder("`lr_range_test`, 5 repeats", "autolr", partial(ranged, 5), is_quick=False),
    Finder("torch-lr-finder", "torch_lr_finder", partial(of_peer, peers.torch_lr_finder), "steepest, torch-lr-finder"),
    Finder("Ignite, `FastaiLRFinder`", "ignite", partial(of_peer, peers.ignite), "steepest, Ignite", False),
    Finder("Lightning, `Tuner.lr_find`", "lightning", partial(of_peer, peers.lightning), "steepest, Lightning", False),
]
ALWAYS_RESET = Finder(
    "torch-lr-finder, `reset()` after the exception too",
    "torch_lr_finder",
    partial(of_peer, partial(peers.torch_lr_finder, always_reset=True)),
)


def training_of(seed: int, loss_fn: LossFunction = cross_entropy) -> peers.Training:
    """Return the training, begun the same way for all seeds, and seed the global generators.

    The last layer is in evaluation mode, which changes nothing but the flag.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.2), nn.Linear(48, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=WARM_RATE)
    X, Y = (part[:NUM_TRAINED] for part in networks.digits())
    for x, y in zip(X.split(BATCH_SIZE)[:WARM_STEPS], Y.split(BATCH_SIZE), strict=False):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.param_groups[0]["lr"] = peers.LOWEST
    model[-1].eval()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (the global one)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(1000 + seed)
    loader = DataLoader(TensorDataset(X, Y), BATCH_SIZE, shuffle=True, generator=generator)
    return peers.Training(model, loss_fn, optimizer, loader)


def facts(training: peers.Training) -> dict[str, Any]:
    """Return what can be left changed, by its kind."""
    model, _, optimizer, loader = training
    python, old, state = random.getstate(), np.random.get_state(), loader.generator.get_state()  # noqa: NPY002
    found = {
        "weights": [bits(parameter) for parameter in model.parameters()],
        "BatchNorm's statistics": [bits(buffer) for buffer in model.buffers()],
        "gradients": [bits(parameter.grad) for parameter in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "optimizer's moments": [[bits(value) for value in held.values()] for held in optimizer.state.values()],
        "optimizer's options": [{**group, "params": len(group["params"])} for group in optimizer.param_groups],
        "torch's generator": bits(torch.get_rng_state()),
        "NumPy's generator": (old[1].tobytes(), *old[2:]),
        "Python's generator": python,
    }
    found["order of the next epoch"] = [bits(x) for x, _ in loader]
    loader.generator.set_state(state)
    return found


def bits(tensor: torch.Tensor | None) -> bytes | None:
    return None if tensor is None else tensor.detach().numpy().tobytes()


class Counted:
    """A loss that counts its calls, and raises at one of them."""

    def __init__(self, raise_at: int | None = None) -> None:
        self.num_calls, self.has_raised = 0, False
        self._raise_at = raise_at

    def __call__(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss.

        Raises:
            Halfway: If it is its turn.
        """
        self.num_calls += 1
        if self.num_calls == self._raise_at:
            self.has_raised = True
            raise Halfway
        return cross_entropy(output, target)


def left_changed(finder: Finder, *, raise_at: int | None = None) -> tuple[list[str], int]:
    """Return the kinds that a finder leaves changed, and how often it called the loss.

    Where the loss was not called as often as ``raise_at``, it is tried again, with half as many calls as there were:
    ``engine="auto"`` chooses by speed, and engines call the loss once for one rate or once for many.

    Raises:
        RuntimeError: If the loss raised, and the finder did not.
    """
    loss_fn = Counted(raise_at)
    training = training_of(0, loss_fn)
    before = facts(training)
    try:
        finder.find(training, 0)
    except Halfway:
        pass
    else:
        if loss_fn.has_raised:
            raise RuntimeError(f"{finder.name} kept an exception of the loss for itself")
        if raise_at is not None:
            return left_changed(finder, raise_at=(loss_fn.num_calls + 1) // 2)
    after = facts(training)
    return [kind for kind in before if before[kind] != after[kind]], loss_fn.num_calls


class Sample(NamedTuple):
    """What a finder said over the seeds: its rates, and how often it had none, or had one but could not tell."""

    suggestions: list[Suggested]
    num_none: int
    seconds: float


def sample(finder: Finder, seeds: range) -> Sample:
    """Use a finder with every seed; one below 0 is not counted: it imports what the finder needs."""
    said, times, num_none = [], [], 0
    for seed in seeds:
        training = training_of(max(seed, 0))
        began = time.process_time()
        try:
            found = finder.find(training, max(seed, 0))
        except (RuntimeError, ValueError, autolr.NoCandidateError):
            found = Suggested(None, math.nan)
        if seed >= 0:
            times.append(time.process_time() - began)
            num_none += found.rate is None or found.cannot_tell
            said += [] if found.rate is None else [found]
    return Sample(said, num_none, statistics.median(times))


def elsewhere(finder: Finder, done: dict[records.Key, list[records.Record]]) -> str:
    """Return how far the stored suggestions of three starts are from each other, the median over tasks."""
    rates: dict[str, list[float]] = {}
    for record in (made[0] for key, made in done.items() if key[0] == finder.picker):
        if record.rate is not None:
            rates.setdefault(record.task, []).append(record.rate)
    spreads = [max(some) / min(some) for task, some in rates.items() if len(some) > 1 and is_usual(task)]
    return f"{statistics.median(spreads):.2f}" if spreads else "-"


def is_usual(task: str) -> bool:
    """Return whether a task has its usual length; two are there again with others."""
    return records.TASK_OF[task].family != "lengths"


def regret(finder: Finder, done: dict[records.Key, list[records.Record]]) -> str:
    """Return the stored regret of real runs on the tasks that only judge, for both schedules."""
    judged = [
        record
        for key, made in done.items()
        for record in made
        if key[0] == finder.picker and records.TASK_OF[record.task].family == "judging"
    ]
    means = [
        tables.geometric_mean(record.regret_by_run("validation") for record in judged if record.schedule == schedule)
        for schedule in SCHEDULES
    ]
    return " / ".join(f"{mean:.2f}" for mean in means) if judged else "-"


def print_suggestions(finders: list[Finder], seeds: range) -> None:
    done = records.load()
    print(
        "| finder | suggestion | spread (decades) | none | error bar, decades | evaluations | seconds | elsewhere"
        " | regret |\n|---|---|---|---|---|---|---|---|---|"
    )
    for finder in finders:
        found = sample(finder, seeds)
        rates = [said.rate for said in found.suggestions if said.rate is not None]
        widths = [math.log10(said.high / said.low) for said in found.suggestions if not math.isnan(said.low)]
        cells = [
            finder.title,
            f"{statistics.median(rates):.2g} ({min(rates):.2g} to {max(rates):.2g})" if rates else "-",
            f"{max(rates) / min(rates):.2f} ({statistics.pstdev(map(math.log10, rates)):.2f})" if rates else "-",
            f"{found.num_none} of {seeds.stop}",
            f"{statistics.median(widths):.2f}" if widths else "none",
            f"{statistics.median(said.evaluations for said in found.suggestions):.0f}" if rates else "-",
            f"{found.seconds:.2f}",
            elsewhere(finder, done),
            regret(finder, done),
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


def print_left(finders: list[Finder]) -> list[str]:
    """Print what finders leave changed, and return the names of those of autolr that leave anything."""
    num_kinds = len(facts(training_of(0)))
    print(f"\n| finder | left changed after its use, of {num_kinds} kinds | after an exception |\n|---|---|---|")
    wrong = []
    for finder in finders:
        used, num_calls = left_changed(finder)
        failed, _ = left_changed(finder, raise_at=(num_calls + 1) // 2)
        cells = [f"{len(kinds)}: {', '.join(kinds)}" if kinds else "0" for kinds in (used, failed)]
        print(f"| {finder.title} | {' | '.join(cells)} |", flush=True)
        wrong += [finder.name] if finder.package == "autolr" and used + failed else []
    return wrong


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="one seed, without the frameworks")
    is_check = parser.parse_args(arguments).check
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seeds = range(1) if is_check else range(-1, NUM_SEEDS)
    there = [
        finder
        for finder in (*FINDERS, ALWAYS_RESET)
        if importlib.util.find_spec(finder.package) is not None and (finder.is_quick or not is_check)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the loss that did not diverge
        print_suggestions([finder for finder in there if finder is not ALWAYS_RESET], seeds)
        wrong = print_left(there)
    num_tasks = sum(map(is_usual, records.TASK_OF))
    print(f"\nSeeds: {seeds.stop}; {num_tasks} tasks of regret.json; {circumstances(SOURCES)}")
    torch.set_num_threads(num_threads)
    for name in wrong:
        print(f"Left something changed: {name}.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

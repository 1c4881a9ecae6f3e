"""What does a row, one subsample at K = 100 rates, cost with each engine, and with a loop written by hand?

    python benchmarks/engines.py           # the table of benchmarks/README.md, under three minutes
    python benchmarks/engines.py --quick   # a few seconds, rough

All of them are checked to give the same losses before any is timed. They are timed in one process, in turns, on one
thread, by the time on the processor; a ratio is the median over the rounds of the ratios within a round.
"""

import argparse
import copy
import itertools
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

import autolr
from autolr.param_groups import base_learning_rates
from autolr.probing.line import LineProbe
from autolr.probing.objective import Objective
from autolr.probing.random_state import ForkedRandomness
from autolr.probing.start import Start
from autolr.probing.state import preserved_state
from autolr.probing.step import probe_by_steps

Batch = tuple[torch.Tensor, torch.Tensor]
Row = Callable[[], tuple[float, np.ndarray]]  # the loss before, and those after, shape (K,)

TOLERANCE = 1e-5
NUM_RATES, SIZE, NUM_CLASSES = 100, 32, 10
MEASURED = ["autolr/probing", "autolr/param_groups.py"]  # the sources that decide the numbers


class SmallTransformer(nn.Module):
    """One encoder layer, the mean over the positions, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(64, nhead=4, dim_feedforward=128, dropout=0.0, batch_first=True)
        self.head = nn.Linear(64, NUM_CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of sequences, shape (m, 16, 64)."""
        return self.head(self.encoder(x).mean(dim=1))


def perceptron(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, NUM_CLASSES),
    )


@dataclass(frozen=True)
class Case:
    """A network, the shape of an observation, an optimizer with its grid, and the steps that warm it up."""

    name: str
    make_model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    make_optimizer: Callable[..., torch.optim.Optimizer]
    largest_rate: float
    warmup_steps: int = 0

    @property
    def rates(self) -> np.ndarray:
        """The grid, shape (K,), over four decades."""
        return autolr.log_grid(self.largest_rate / 1e4, self.largest_rate, NUM_RATES)

    def build(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return a model and an optimizer, the same ones at each call."""
        torch.manual_seed(0)
        model = self.make_model()
        optimizer = self.make_optimizer(model.parameters(), lr=1e-3)
        for _ in range(self.warmup_steps):
            x, y = self.batch()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        return model, optimizer

    def batch(self) -> Batch:
        """Draw a batch of noise, which costs what data costs."""
        return torch.randn(SIZE, *self.shape), torch.randint(NUM_CLASSES, (SIZE,))


SGD, ADAMW = torch.optim.SGD, torch.optim.AdamW
CASES = [
    Case("MLP 64-128-128-10, SGD", partial(perceptron, 64, 128, 128, 10), (64,), SGD, 1.0),
    Case("MLP 64-128-128-10, warm AdamW", partial(perceptron, 64, 128, 128, 10), (64,), ADAMW, 0.1, warmup_steps=20),
    Case("MLP 784-512-512-10, SGD", partial(perceptron, 784, 512, 512, 10), (784,), SGD, 1.0),
    Case("CNN with BatchNorm, 3x16x16, SGD", convolutional, (3, 16, 16), SGD, 1.0),
    Case("transformer layer, 16x64, SGD", SmallTransformer, (16, 64), SGD, 1.0),
]


def probe_by_hand(
    model: nn.Module, optimizer: torch.optim.Optimizer, rates: np.ndarray, batch: Batch, evaluation_batch: Batch
) -> tuple[float, np.ndarray]:
    """The loop as a user would write it, and write it right: real steps from deep copies of both states."""
    loss_fn = nn.functional.cross_entropy
    model_state = copy.deepcopy(model.state_dict())
    optimizer_state = copy.deepcopy(optimizer.state_dict())
    with torch.no_grad():
        loss_pre = loss_fn(model(evaluation_batch[0]), evaluation_batch[1]).item()
    optimizer.zero_grad()
    loss_fn(model(batch[0]), batch[1]).backward()
    loss_post = np.empty(len(rates))
    for k, rate in enumerate(rates):
        model.load_state_dict(model_state)
        optimizer.load_state_dict(copy.deepcopy(optimizer_state))  # loading alone would share the moments' memory
        for group in optimizer.param_groups:
            group["lr"] = float(rate)
        optimizer.step()
        with torch.no_grad():
            loss_post[k] = loss_fn(model(evaluation_batch[0]), evaluation_batch[1]).item()
    model.load_state_dict(model_state)
    optimizer.load_state_dict(optimizer_state)
    return loss_pre, loss_post


def seconds(row: Row) -> float:
    # NOTE: time on the processor, which other programs on the machine disturb less than time on the clock; the two are
    # the same for one thread that has its core to itself.
    began = time.process_time()
    row()
    return time.process_time() - began


def largest_deviation(rows: dict[str, Row]) -> float:
    """Return the largest relative difference of a loss to the one by hand.

    Raises:
        SystemExit: If it is too large.
    """
    losses = {name: np.append(post, pre) for name, (pre, post) in ((name, row()) for name, row in rows.items())}
    expected = losses["by hand"]
    deviation = max(float((np.abs(found - expected) / np.abs(expected)).max()) for found in losses.values())
    if not deviation <= TOLERANCE:
        raise SystemExit(f"The losses differ by {deviation:.2g}, {TOLERANCE:g} allowed: nothing was timed.")
    return deviation


def measure(case: Case, num_rounds: int) -> str:
    """Return a row of the table."""
    own_model, own_optimizer = case.build()
    model, optimizer = case.build()
    batches = case.batch(), case.batch()
    objective = Objective(model, nn.functional.cross_entropy, None, list(model.parameters()))
    with preserved_state(model, optimizer) as snapshot:
        randomness = ForkedRandomness([])
        randomness.fork(np.random.SeedSequence(0))
        start = Start(objective, optimizer, snapshot, randomness, base_learning_rates(optimizer))
        objective.check(batches[0])
        line = LineProbe(start, case.rates)
        objection = line.objection(*batches)
        if objection is not None:
            raise SystemExit(f"The line engine would not be used: {objection}.")
        rows: dict[str, Row] = {
            "by hand": partial(probe_by_hand, own_model, own_optimizer, case.rates, *batches),
            "step": partial(probe_by_steps, start, case.rates, *batches),
            "line": partial(line, *batches),
        }
        deviation = max(largest_deviation(rows) for _ in range(2))  # the second time: nothing is left behind
        names = list(rows)
        rounds = []
        for turn in range(num_rounds):
            order = names[turn % 3 :] + names[: turn % 3]
            taken = {name: seconds(rows[name]) for name in order}
            rounds.append([taken[name] for name in names])
    by_hand, step, on_line = (1e3 * statistics.median(column) for column in zip(*rounds, strict=True))
    step_ratios = sorted(first / second for first, second, _ in rounds)
    line_ratios = sorted(first / third for first, _, third in rounds)
    spread = np.quantile(line_ratios, [0.1, 0.9])
    return (
        f"| {case.name} | {by_hand:.1f} | {step:.1f} | {on_line:.1f} | {statistics.median(step_ratios):.2f}x"
        f" | **{statistics.median(line_ratios):.2f}x** ({spread[0]:.2f} to {spread[1]:.2f}) | {deviation:.0e} |"
    )


def git(*arguments: str) -> str:
    root = Path(__file__).parent.parent
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def circumstances(num_rounds: int) -> str:
    commit = git("log", "-1", "--format=%h", "--", *MEASURED) or "unknown"
    changed = " and changes" if git("status", "--porcelain", "--", *MEASURED) else ""
    return (
        f"{num_rounds} rounds; engines of commit {commit}{changed}; autolr {autolr.__version__},"
        f" torch {torch.__version__}, NumPy {np.__version__}, Python {platform.python_version()};"
        f" {torch.get_num_threads()} thread of {os.cpu_count()} cores, {processor()}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 rounds instead of 25")
    num_rounds = 3 if parser.parse_args().quick else 25
    torch.set_num_threads(1)
    print("| network, optimizer | by hand, ms | `step`, ms | `line`, ms | hand / `step` | hand / `line` | deviation |")
    print("|---|---|---|---|---|---|---|")
    for case in CASES:
        print(measure(case, num_rounds), flush=True)
    print(f"\n{circumstances(num_rounds)}")


if __name__ == "__main__":
    main()

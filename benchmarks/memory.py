"""How much memory does probing take beyond parameters and gradients, and beyond what a training step takes?

    python benchmarks/memory.py           # the table of benchmarks/README.md, some ten minutes
    python benchmarks/memory.py --quick   # K = 10, a smaller network: two minutes
    python benchmarks/memory.py --check   # exit status 1 if a limit is exceeded

Each case is a process of its own, in which a network of some 100 MB with tiny activations (m = 4) is probed through the
entry that the tuner uses: ``preserved_state``, whose snapshot of the parameters counts, then ``probe_rows``. Gradients
are None on entry. Measured is the resident memory at its highest (VmHWM, reset just before), less that before, with
malloc told to give large blocks back at once; the same for a training step (forward, backward, ``optimizer.step()``),
since the temporaries of the optimizer are not the tuner's. On a GPU it is the peak of torch's allocator.

All figures are multiples of the bytes of the parameters. "Beyond" is the peak less the gradients, which training needs
too. "Added" is "beyond" less the temporaries of a training step: what the tuner itself adds. The limit of what is added
is 1.1, and the size of the optimizer's state besides, which has to be remembered, whatever K.
"""

import argparse
import ctypes
import json
import os
import re
import subprocess
import sys
import time
import typing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from machine import circumstances
from torch import nn
from workloads import NUM_CLASSES, Batch, OptimizerFactory, loss_fn

import autolr
from autolr._typing import EngineName
from autolr.param_groups import base_learning_rates
from autolr.probing.objective import Objective
from autolr.probing.random_state import ForkedRandomness
from autolr.probing.rows import probe_rows
from autolr.probing.start import Start
from autolr.probing.state import preserved_state

SOURCES = ["autolr/probing", "autolr/param_groups.py"]  # that decide the numbers
# of glibc: one heap, and every larger block mapped for itself, so that it is given back when it is freed
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
TRAINING_STEP = "a training step"
ENGINES = ("step", "line", "batched", "auto")
ENGINES_HERE = typing.get_args(EngineName)
OPTIMIZERS: dict[str, tuple[OptimizerFactory, int]] = {
    "SGD": (torch.optim.SGD, 0),
    "SGD with momentum, cold": (partial(torch.optim.SGD, momentum=0.9), 0),
    "SGD with momentum, warm": (partial(torch.optim.SGD, momentum=0.9), 1),
    "AdamW, warm": (torch.optim.AdamW, 1),
}  # the factory, and the steps that warm it up
NUM_LAYERS, WIDTH, QUICK_WIDTH, SIZE = 6, 2048, 1024, 4
NUM_ROWS = {"auto": 8}  # enough to choose; others: 2
LIMIT = 1.1
HEADER = [
    "optimizer", "engine (made by)", "K", "state", "training step, beyond", "beyond", "added", "limit", "row, s"
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A process: an engine or a training step, an optimizer, K rates, a network."""

    engine: str
    optimizer: str
    num_rates: int
    width: int
    device: str


@dataclass(frozen=True)
class Measured:
    """What a process has found, in multiples of the parameters' bytes.

    Attributes:
        peak: The peak, less what was there before: gradients included.
        state: The optimizer's state after a step.
        new_state: The part of it that was not there before.
        engine: The engine that made the rows.
        seconds: The time of a row.
        refused: Why there are none.
    """

    peak: float = float("nan")
    state: float = 0.0
    new_state: float = 0.0
    engine: str = ""
    seconds: float = 0.0
    refused: str = ""

    @property
    def beyond(self) -> float:
        """The peak, less the gradients."""
        return self.peak - 1.0


class Meter:
    """The memory of the process at its highest, from now on, less that of now."""

    def __init__(self, device: str) -> None:
        self._device = device
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        else:
            try:
                ctypes.CDLL(None).malloc_trim(0)
                Path("/proc/self/clear_refs").write_text("5")
            except (OSError, AttributeError) as error:
                raise SystemExit(f"Memory is measured on Linux with glibc only: {error}.") from None
            self._before = _status("VmRSS")
            if _status("VmHWM") > self._before + 2**22:
                raise SystemExit("VmHWM could not be reset: nothing was measured.")

    def peak(self) -> int:
        """Return the bytes."""
        if self._device == "cuda":
            return torch.cuda.max_memory_allocated() - self._before
        return _status("VmHWM") - self._before


def _status(key: str) -> int:
    (kibibytes,) = re.findall(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(kibibytes)


def network(width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(NUM_LAYERS):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, NUM_CLASSES))


def backward(model: nn.Module, batch: Batch) -> None:
    loss: torch.Tensor = loss_fn(model(batch[0]), batch[1])
    loss.backward()  # type: ignore[no-untyped-call]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    backward(model, batch)
    optimizer.step()


def measured(case: Case) -> Measured:
    """Measure in this process; only the first call in it can be trusted."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = network(case.width).to(case.device)
    make, warmup_steps = OPTIMIZERS[case.optimizer]
    optimizer = make(model.parameters(), lr=1e-3)
    x = torch.randn(2 * SIZE, case.width, device=case.device)
    y = torch.arange(2 * SIZE, device=case.device) % NUM_CLASSES
    batches = (x[:SIZE], y[:SIZE]), (x[SIZE:], y[SIZE:])
    backward(model, (x, y))  # what libraries allocate for good
    for _ in range(warmup_steps):
        train(model, optimizer, batches[0])
    optimizer.zero_grad()
    size = sum(parameter.nbytes for parameter in model.parameters())
    before = _state_bytes(optimizer)
    meter = Meter(case.device)
    if case.engine == TRAINING_STEP:
        train(model, optimizer, batches[0])
        after = _state_bytes(optimizer)
        return Measured(meter.peak() / size, after / size, (after - before) / size)
    if case.engine not in ENGINES_HERE:
        return Measured(refused="this version has no such engine")
    began = time.perf_counter()
    num_rows = NUM_ROWS.get(case.engine, 2)
    try:
        engine = probe(model, optimizer, batches, case, num_rows)
    except (ValueError, NotImplementedError) as error:
        return Measured(refused=str(error))
    taken = (time.perf_counter() - began) / num_rows
    return Measured(meter.peak() / size, before / size, engine=engine, seconds=taken)


def probe(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: tuple[Batch, Batch], case: Case, num_rows: int
) -> str:
    """Probe rows as the tuner does, and return the engine that made them."""
    devices = [] if case.device == "cpu" else [torch.device(case.device)]
    objective = Objective(model, loss_fn, None, list(model.parameters()))
    with preserved_state(model, optimizer, devices=devices) as snapshot:
        randomness = ForkedRandomness(devices)
        start = Start(objective, optimizer, snapshot, randomness, base_learning_rates(optimizer))

        def draw(row: int) -> tuple[Batch, Batch]:
            randomness.fork(np.random.SeedSequence(0, spawn_key=(row,)))
            return batches

        objective.check(draw(0)[0])
        rates = autolr.log_grid(1e-5, 1e-1, case.num_rates)
        return probe_rows(start, rates, draw, range(num_rows), engine=typing.cast(EngineName, case.engine)).engine


def _state_bytes(optimizer: torch.optim.Optimizer) -> int:
    entries = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.nbytes for value in entries if isinstance(value, torch.Tensor))


def in_own_process(case: Case) -> Measured:
    """Return what a fresh process finds.

    Raises:
        SystemExit: If it fails.
    """
    done = subprocess.run(
        [sys.executable, __file__, "--case", json.dumps(asdict(case))],
        env={**os.environ, **MALLOC, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{case}:\n{done.stderr}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def table(device: str, *, quick: bool) -> bool:
    """Print the table of a device, and return whether all limits were kept."""
    width = QUICK_WIDTH if quick else WIDTH
    print(f"\n| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}", flush=True)
    kept, refused = True, set()
    for optimizer in OPTIMIZERS:
        step = in_own_process(Case(TRAINING_STEP, optimizer, 1, width, device))
        temporaries = step.beyond - step.new_state
        for engine in ENGINES:
            for num_rates in (10,) if quick else (10, 100):
                found = in_own_process(Case(engine, optimizer, num_rates, width, device))
                if found.refused:
                    refused.add(f"`{engine}`: {found.refused}")
                    continue
                added, limit = found.beyond - temporaries, LIMIT + step.state
                kept &= added <= limit
                by = "" if found.engine == engine else f" (`{found.engine}`)"
                figures = (step.state, step.beyond, found.beyond, added, limit)
                shown = [f"{figure:.2f}" for figure in figures]
                shown[3] = f"**{shown[3]}**{'' if added <= limit else ', exceeded'}"
                row = [optimizer, f"`{engine}`{by}", str(num_rates), *shown, f"{found.seconds:.1f}"]
                print(f"| {' | '.join(row)} |", flush=True)
    for reason in sorted(refused):
        print(f"Left out: {reason}")
    size = sum(parameter.nbytes for parameter in network(width).parameters()) / 2**20
    print(f"\n{size:.0f} MiB of parameters; {circumstances(SOURCES, device)}")
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="K = 10 only, 24 MiB of parameters")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a limit is exceeded")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        print(json.dumps(asdict(measured(Case(**json.loads(arguments.case))))))
        return 0
    torch.set_num_threads(1)
    print("**CPU**")
    kept = table("cpu", quick=arguments.quick)
    print("\n**GPU**")
    if torch.cuda.is_available():
        kept &= table("cuda", quick=arguments.quick)
    else:
        print("\nnot run (torch sees no CUDA device)")
    return 1 if arguments.check and not kept else 0


if __name__ == "__main__":
    sys.exit(main())

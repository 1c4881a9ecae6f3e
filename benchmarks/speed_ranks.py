"""What do several processes save, what does it cost that they work together, and how would that grow?

    torchrun --standalone --nproc-per-node 2 benchmarks/speed_ranks.py   # some three minutes; two cores

In each pair, the first rank makes a call by itself while the others sleep, and then all ranks make it together, each
with one thread; the ratio of the times on the clock is that of such a pair, of which the median, the lowest and the
highest are given. "Sharded" is the time of one process over that of all ranks with the parameters sharded by
``fully_shard``, where all ranks probe all rows, of few subsamples. A meeting is a call without any work; a gather is
that of M x K losses.

The tables for more ranks and larger models are arithmetic, of what was measured here and what is stated under them; no
such machine was at hand.
"""

import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, which reads it
os.environ.setdefault("MKL_NUM_THREADS", "1")

import torch
import torch.distributed as dist
from machine import circumstances
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from workloads import perceptron

import autolr
from autolr.ranks import joined, on_this_rank_only

NUM_PAIRS, NUM_SUBSAMPLES, NUM_RATES = 5, 100, 64
FEW = 4  # subsamples of the sharded tunings
RATES = autolr.log_grid(1e-6, 10.0, NUM_RATES)
NETWORKS = ((64, 128, 128, 10), (784, 512, 512, 10))
RANKS, NUM_PARAMETERS = (1, 2, 8, 64, 100, 1000), (7e9, 70e9)
LINK = 50e9  # bytes a second into each rank, assumed
TOKENS, OPERATIONS = 8192, 400e12  # of a batch; a second and rank, assumed

Call = Callable[[], object]


def seconds(call: Call) -> float:
    """Return how long a call takes, after all ranks have come here."""
    dist.barrier()
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def of_first_rank(value: float) -> float:
    values = [0.0 for _ in range(dist.get_world_size())]
    dist.all_gather_object(values, value)
    return values[0]


def pairs(call: Call, together: Call) -> tuple[list[float], list[float]]:
    """Return the seconds of a call by the first rank alone, and of all ranks together, in turn."""

    def alone() -> None:
        if dist.get_rank() == 0:
            with on_this_rank_only():
                call()

    alone_took, together_took = [], []
    for _ in range(NUM_PAIRS + 1):
        alone_took.append(of_first_rank(seconds(alone)))
        together_took.append(of_first_rank(seconds(together)))
    return alone_took[1:], together_took[1:]  # the first ones also warm up


def shown(alone: list[float], together: list[float]) -> str:
    ratios = [one / other for one, other in zip(alone, together, strict=True)]
    return f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"


def tuner(model: nn.Module, loss_fn: nn.Module) -> autolr.AutoLRTuner:
    return autolr.AutoLRTuner(model, loss_fn, torch.optim.SGD(model.parameters(), lr=0.1), rng=0)


def tune(model: nn.Module, X: torch.Tensor, Y: torch.Tensor, num_subsamples: int = NUM_SUBSAMPLES) -> Call:
    made = tuner(model, nn.CrossEntropyLoss())
    options = {"learning_rates": RATES, "num_subsamples": num_subsamples, "engine": "line", "progress": False}
    return lambda: made.tune(X, Y, **options)


def search(model: nn.Module, X: torch.Tensor, Y: torch.Tensor) -> Call:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"total_steps": 5_000, "num_streams": 2, "rng": 0, "progress": False}
    return lambda: autolr.find_lr(model, nn.CrossEntropyLoss(), optimizer, (X, Y), **options)


def meeting() -> None:
    with joined():
        pass


def gathering() -> None:
    with joined() as ranks:
        ranks.gather(bytes(8 * NUM_SUBSAMPLES * NUM_RATES // ranks.size))


def measured(say: Callable[[str], None]) -> tuple[float, float, float]:
    """Print what was measured; return the seconds of a call's fixed part, of a row, and of a meeting with a gather."""
    torch.manual_seed(0)
    say(f"| network | a tuning by one process, s | by {dist.get_world_size()} | `find_lr`, two streams | sharded |")
    say("|---|---|---|---|---|")
    per_row = fixed = 0.0
    for widths in NETWORKS:
        model, name = perceptron(*widths), f"MLP {'-'.join(map(str, widths))}"
        X, Y = torch.randn(2000, widths[0]), torch.randint(10, (2000,))
        wrapped = DistributedDataParallel(model)
        alone, together = pairs(tune(model, X, Y), tune(wrapped, X, Y))
        searches = pairs(search(model, X, Y), search(wrapped, X, Y))
        whole, few = statistics.median(alone), statistics.median(pairs(tune(model, X, Y, 2), meeting)[0])
        per_row = (whole - few) / (NUM_SUBSAMPLES - 2)
        fixed = few - 2 * per_row
        shards = perceptron(*widths)
        for layer in shards:
            if isinstance(layer, nn.Linear):
                fully_shard(layer)
        fully_shard(shards)
        sharded = shown(*pairs(tune(model, X, Y, FEW), tune(shards, X, Y, FEW)))
        say(f"| {name} | {whole:.2f} | {shown(alone, together)} | {shown(*searches)} | {sharded} |")
    meetings = [of_first_rank(seconds(meeting)) for _ in range(20)]
    gatherings = [of_first_rank(seconds(gathering)) for _ in range(20)]
    met = statistics.median(gatherings)
    say("")
    say(
        f"A meeting takes {1e3 * statistics.median(meetings):.0f} ms, with a gather of"
        f" {8 * NUM_SUBSAMPLES * NUM_RATES / 1e3:.0f} kB {1e3 * met:.0f} ms (medians of 20)."
    )
    return fixed, per_row, met


def on_paper(say: Callable[[str], None], fixed: float, per_row: float, met: float) -> None:
    """Print how it would grow."""
    say("")
    say("| ranks | rows a rank | seconds | losses into each rank, kB |")
    say("|---|---|---|---|")
    for ranks in RANKS:
        rows = -(-NUM_SUBSAMPLES // ranks)
        took = fixed + rows * per_row + (met if ranks > 1 else 0.0)
        gathered = 8 * rows * min(ranks, NUM_SUBSAMPLES) * (NUM_RATES + 1) / 1e3 if ranks > 1 else 0.0
        say(f"| {ranks} | {rows} | {took:.2f} | {gathered:.0f} |")
    say("")
    say(
        "| parameters | ranks | own memory a rank, SGD / AdamW, GB | into a rank for a loss, GB | seconds a loss:"
        " links / products |"
    )
    say("|---|---|---|---|---|")
    for parameters in NUM_PARAMETERS:
        for ranks in (8, 64, 1000):
            shard = 4 * parameters / ranks / 1e9
            sent = 2 * parameters * (ranks - 1) / ranks
            computed = 2 * parameters * TOKENS / OPERATIONS
            say(
                f"| {parameters / 1e9:.0f} billion | {ranks} | {3 * shard:.1f} / {5 * shard:.1f} | {sent / 1e9:.0f} |"
                f" {sent / LINK:.2f} / {computed:.2f} |"
            )


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    is_first = dist.get_rank() == 0
    say: Callable[[str], None] = print if is_first else (lambda _: None)
    say(f"{circumstances(['autolr'])}; {dist.get_world_size()} ranks, gloo\n")
    on_paper(say, *measured(say))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

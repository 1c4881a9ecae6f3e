"""What do fewer probes save in a whole tuning: curves from some rates, and the race?

    python benchmarks/speed_fewer.py   # half a minute; the table of benchmarks/README.md

K = M = 100, one thread. A perceptron 64-128-128-10 on the handwritten digits, m = 32, losses on another subsample, 100
rates over four decades. Seconds are processor time of the whole call, checks and verification included, the median over
the seeds; those of the naive baseline (naive.py) are for its rows alone, on the same number of subsamples. The error of
interpolation is the largest one of a mean over its standard error, against the same tuning with all probes, at rates
where the limit of 5% is above the resolution of the loss.
"""

import os
import statistics
import time
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, which reads it
os.environ.setdefault("MKL_NUM_THREADS", "1")

import numpy as np
import torch
from machine import circumstances
from naive import Naive
from sklearn.datasets import load_digits
from torch import nn
from workloads import ADAMW, SGD, SMALL, Workload

import autolr

NUM_SUBSAMPLES, SEEDS = 100, range(3)
WAYS = {"all probes": {}, "interpolate=True": {"interpolate": True}, "adaptive=True": {"adaptive": True}}
WAYS["both"] = {"interpolate": True, "adaptive": True}


def largest_error(found: autolr.TuningResult, exact: autolr.TuningResult) -> float:
    """Return the largest error of a mean over its standard error."""
    ours, theirs = found.differentials.delta, exact.differentials.delta
    finite = np.isfinite(theirs).all(axis=0) & np.isfinite(ours).all(axis=0)
    if len(ours) < len(theirs) or not finite.any():
        return float("nan")
    ours, theirs = ours[:, finite], theirs[:, finite]
    standard_error = theirs.std(axis=0, ddof=1) / np.sqrt(len(theirs))
    resolved = 0.05 * standard_error > np.finfo(np.float32).eps * exact.differentials.loss_pre.mean()
    return float((np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) / standard_error)[resolved].max())


def warm(workload: Workload, images: torch.Tensor, labels: torch.Tensor) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return a model and an optimizer, which has taken its steps on the digits."""
    model, _ = Workload(workload.network, SGD, workload.batch_size, workload.num_rates).build()
    optimizer = workload.training.make(model.parameters(), lr=1e-3)
    chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    for batch in chosen.split(workload.batch_size)[: workload.training.warmup_steps]:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def naive_seconds(workload: Workload) -> float:
    naive, draws = Naive(*workload.build()), workload.batches()
    began = time.process_time()
    for row in range(NUM_SUBSAMPLES):
        naive(workload.rates, *draws[row % len(draws)])
    return time.process_time() - began


def main() -> None:
    torch.set_num_threads(1)
    X, y = load_digits(return_X_y=True)
    images, labels = torch.tensor(X / 16.0, dtype=torch.float32), torch.tensor(y)
    print("| optimizer, way | probes | gradient evaluations | seconds | over naive | same pick | error |")
    print("|---|---|---|---|---|---|---|")
    for training in (SGD, ADAMW):
        workload = Workload(SMALL, training, 32, 100)
        naive = naive_seconds(workload)
        exact: dict[int, autolr.TuningResult] = {}
        for way, options in WAYS.items():
            evaluations, probes, seconds, same, errors = [], [], [], 0, []
            for seed in SEEDS:
                model, optimizer = warm(workload, images, labels)
                tuner = autolr.AutoLRTuner(model, nn.CrossEntropyLoss(), optimizer, rng=seed)
                began = time.process_time()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    result = tuner.tune(
                        images,
                        labels,
                        learning_rates=workload.rates,
                        num_subsamples=NUM_SUBSAMPLES,
                        progress=False,
                        **options,
                    )
                    seconds.append(time.process_time() - began)
                    exact.setdefault(seed, result)
                    same += result.get_best_lr() == exact[seed].get_best_lr()
                evaluations.append(result.settings["num_evaluations"])
                probes.append((~np.isnan(result.differentials.loss_post) & ~result.differentials.interpolated).sum())
                errors.append(largest_error(result, exact[seed]))
            taken = statistics.median(seconds)
            print(
                f"| {training.name}, {way} | {statistics.median(probes):.0f} | {statistics.median(evaluations):.0f}"
                f" | {taken:.2f} | {naive / taken:.1f}x"
                f" | {same} of {len(SEEDS)} | {'' if options != WAYS['interpolate=True'] else f'{max(errors):.3f}'} |",
                flush=True,
            )
    print(f"\n{circumstances(['autolr/probing', 'autolr/sparse.py', 'autolr/adaptive.py'])}")


if __name__ == "__main__":
    main()

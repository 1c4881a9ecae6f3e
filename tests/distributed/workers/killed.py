"""A rank is killed in the middle of a tuning; the other one reports what becomes of its own call."""

import os
import signal
import sys
import time

import torch
import torch.distributed as dist
from harness import unchanged
from launch import report
from torch import nn

import autolr
from autolr import ranks


def main():
    dist.init_process_group("gloo")
    ranks.PATIENCE, ranks.SILENCE, ranks.BEAT = 8.0, 2.0, 0.1
    victim, calls = int(sys.argv[1]), 0
    model, X = nn.Linear(5, 1), torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.weight.fill_(0.1)
        model.bias.fill_(0.0)

    def compute_loss(model, batch):
        nonlocal calls
        calls += 1
        if dist.get_rank() == victim and calls == 100:
            os.kill(os.getpid(), signal.SIGKILL)
        return nn.functional.mse_loss(model(batch), batch.sum(1, keepdim=True))

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tuner = autolr.AutoLRTuner(model, None, optimizer, compute_loss=compute_loss, rng=0)
    began = time.monotonic()
    with unchanged(model, optimizer):
        try:
            tuner.tune(X, num_subsamples=50, engine="step")
        except autolr.RankFailedError as error:
            report([str(error), time.monotonic() - began])
    os._exit(0)  # what is left of the process group cannot be taken down in order


if __name__ == "__main__":
    main()

"""What every test starts with: one thread, no matplotlib window, a generator of its own; and how many run at once."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest
import torch


def pytest_xdist_auto_num_workers(config):
    """Return a worker for each core where everything is run; a few files are sooner done in this process."""
    is_everything = config.args_source is not pytest.Config.ArgsSource.ARGS
    return min(len(os.sched_getaffinity(0)), 8) if is_everything else 0


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def rng():
    return np.random.default_rng(0)

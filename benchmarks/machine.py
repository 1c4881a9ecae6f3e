"""The machine that a benchmark runs on: its name, its clocks, its peak, and what the sources were."""

import os
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import autolr

PEAK_SIZE = {"cpu": 1024, "cuda": 8192}  # of the square matrices whose product is the peak
PEAK_ROUNDS = 20


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


def circumstances(sources: Sequence[str], device: str = "cpu") -> str:
    """Return the commit of the sources that decide the numbers, the versions, and the machine."""
    commit = git("log", "-1", "--format=%h", "--", *sources) or "unknown"
    changed = " and changes" if git("status", "--porcelain", "--", *sources) else ""
    threads = torch.get_num_threads()
    accelerator = f", {torch.cuda.get_device_name()}" if device == "cuda" else ""
    return (
        f"autolr {autolr.__version__}, engines of commit {commit}{changed}; torch {torch.__version__}, NumPy"
        f" {np.__version__}, Python {platform.python_version()}; {threads} thread{'s' if threads > 1 else ''} of"
        f" {os.cpu_count()} cores, {processor()}{accelerator}"
    )


def seconds(device: str) -> float:
    """Return the time now, after everything that was begun on the device has ended."""
    # NOTE: on the CPU the time on the processor, which other programs on the machine disturb less than time on the
    # clock; the two are the same for one thread that has its core to itself.
    if device == "cpu" and torch.get_num_threads() == 1:
        return time.process_time()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_rate(device: str) -> float:
    """Return the floating-point operations per second of a large matrix product in float32, the best of several."""
    size = PEAK_SIZE[device]
    a, b = torch.randn(2, size, size, device=device)
    best = 0.0
    for _ in range(PEAK_ROUNDS):
        began = seconds(device)
        a @ b
        best = max(best, 2.0 * size**3 / (seconds(device) - began))
    return best

"""Real processes: a worker script, started by ``torchrun`` as often as there are ranks, and what each rank reports."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

_HERE = Path(__file__).parent


def launch(worker: str, num_processes: int, *arguments: str, timeout: float = 240.0) -> list[Any]:
    """Run ``workers/<worker>.py`` in as many processes, and return what each of them reported, by rank.

    A worker finds the arguments in ``sys.argv``, calls ``torch.distributed.init_process_group("gloo")`` itself, and
    ends with :func:`report`. As a launch takes seconds, one worker runs many cases.

    Args:
        worker: The name of the script.
        num_processes: The number of ranks.
        *arguments: What the script is given.
        timeout: After how many seconds all processes are killed.

    Raises:
        AssertionError: If a process fails, or the time is over; the message has what they wrote to their stderr.
    """
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes)]
    script = str(_HERE / "workers" / f"{worker}.py")
    path = os.pathsep.join([str(_HERE.parent), str(_HERE), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "AUTOLR_REPORTS": folder}
        with subprocess.Popen(
            [*run, script, *arguments], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            try:
                _, errors = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                _, errors = process.communicate()
                raise AssertionError(f"{worker} took longer than {timeout:g} s:\n{errors}") from None
        assert process.returncode == 0, f"{worker} ended with {process.returncode}:\n{errors}"
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(num_processes)]


def report(value: Any) -> None:
    """Hand a value (of JSON; floats keep their bits, NaN and inf included) from a worker to who launched it."""
    (Path(os.environ["AUTOLR_REPORTS"]) / f"{os.environ['RANK']}.json").write_text(json.dumps(value))


def digest(*states: Any) -> str:
    """Return a checksum of the bits of modules, optimizers and tensors: of all that they would save."""
    bits = hashlib.sha256()
    for state in states:
        saved = state if isinstance(state, torch.Tensor) else state.state_dict()
        for leaf in tree_leaves(saved):
            own = getattr(leaf, "_local_tensor", leaf)  # of what is sharded
            bits.update(own.detach().numpy().tobytes() if isinstance(own, torch.Tensor) else repr(own).encode())
    return bits.hexdigest()

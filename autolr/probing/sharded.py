"""Models whose parameters are sharded over processes (FSDP2), and what makes these go in lockstep."""

import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from autolr._validation import invalid


class Alone:
    """One process: its numbers and decisions are everybody's."""

    def mean(self, value: float) -> float:
        """Return the mean of a number over all processes; not finite where one of them is not."""
        return value

    def any(self, flag: bool) -> bool:
        """Return whether a flag is set in any process."""
        return flag

    def norms(self, norms: Sequence[float]) -> list[float]:
        """Return the norms of tensors from those of their shards: the roots of the sums of squares."""
        return list(norms)


class Lockstep(Alone):
    """Processes that do the same at the same time: numbers and decisions are made the same in all of them.

    With FSDP every forward and every backward communicates, so that a decision of one process alone is a deadlock. All
    processes get the same batches: gradients, of which FSDP takes the mean, are then those of one process. (Norms of
    what several processes have, such as replicas of shards, come out larger, by one factor for all ways of a tensor.)

    Args:
        group: What carries tensors between the processes; ``None``: the default process group.
    """

    def __init__(self, group: Any = None) -> None:
        self._group: Any = dist.group.WORLD if group is None else group
        # of NCCL alone, as "cuda:nccl", no process can send what lies on the CPU
        is_for_cpu = group is not None or "cpu" in str(dist.get_backend_config())
        self._device = torch.device("cpu") if is_for_cpu else torch.accelerator.current_accelerator()

    def mean(self, value: float) -> float:
        """Return the mean of a number over all processes; not finite where one of them is not."""
        values = [value for (value,) in self._of_all([value])]
        return values[0] + sum(value - values[0] for value in values) / len(values)  # of equal ones: that one

    def any(self, flag: bool) -> bool:
        """Return whether a flag is set in any process."""
        return any(value > 0.0 for (value,) in self._of_all([float(flag)]))

    def norms(self, norms: Sequence[float]) -> list[float]:
        """Return the norms of tensors from those of their shards: the roots of the sums of squares."""
        return [math.hypot(*of_shards) for of_shards in zip(*self._of_all(norms), strict=True)]

    def _of_all(self, values: Sequence[float]) -> list[list[float]]:
        """Return the values of each process, by rank."""
        own = torch.tensor(values, dtype=torch.float64, device=self._device)
        everybodys = [torch.empty_like(own) for _ in range(self._group.size())]
        self._group.allgather([everybodys], [own]).wait()
        return [values.tolist() for values in everybodys]


def sharded_modules(*modules: nn.Module) -> list[Any]:
    """Return the modules, of these and those within them, that are sharded (``FSDPModule``), each once."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # not imported, as that takes half a second
    if fsdp is None:
        return []
    parts = {id(part): part for module in modules for part in module.modules()}
    return [part for part in parts.values() if isinstance(part, fsdp.FSDPModule)]


def ready(*modules: nn.Module) -> list[Any]:
    """Return the sharded modules, of these and those within them, with their shards as parameters.

    What FSDP puts off until the first forward is done: it registers hooks, which a snapshot is to know.

    Raises:
        ValueError: If a model is sharded by FSDP1, or gradients wait in it to be summed over processes.
    """
    for module in modules:
        if any(type(part).__name__ == "FullyShardedDataParallel" for part in module.modules()):
            raise ValueError(invalid("model", "be sharded by fully_shard (FSDP2), if at all", type(module).__name__))
    sharded = sharded_modules(*modules)
    for module in sharded:
        if any(not group.reduce_grads or any(map(_waits, group.fsdp_params)) for group in _groups(module)):
            reduced = "reduce its gradients (set_requires_gradient_sync), and have none that wait for it"
            raise ValueError(invalid("model", reduced, type(module).__name__))
        module.unshard()
        module.reshard()  # at once, as the whole of all may not fit into memory
    return sharded


def reshard(sharded: Iterable[Any]) -> None:
    """Let sharded modules have their shards as parameters; nothing is sent.

    After a forward they may still have the whole parameters: what is written into the shards is then ignored.
    """
    for module in sharded:
        module.reshard()


def reset(sharded: Iterable[Any]) -> bool:
    """Do as :func:`reshard` does, also in the middle of a forward or backward that was broken off.

    Returns:
        ``False``, as what has changed is not known.
    """
    for module in sharded:
        if module._get_fsdp_state()._is_root:  # which is decided in the first forward
            module.reset_iter_state()  # of all below it
    reshard(sharded)
    return False


def coarsest_dtype(sharded: Iterable[Any]) -> torch.dtype | None:
    """Return the coarsest dtype to which policies of mixed precision round the weights, or ``None``."""
    dtypes = [dtype for module in sharded if (dtype := module._get_fsdp_state()._mp_policy.param_dtype) is not None]
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=None)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return the shard of a tensor that lies in this process, and may be empty; of a plain tensor the tensor itself.

    What is written into the shard is written into the tensor.

    Example:
        >>> local(torch.ones(2))
        tensor([1., 1.])
    """
    shard: torch.Tensor = getattr(tensor, "_local_tensor", tensor)
    return shard


def _groups(module: Any) -> list[Any]:
    """Return the parameters that FSDP handles together."""
    return list(module._get_fsdp_state()._fsdp_param_groups)


def _waits(parameter: Any) -> bool:
    """Return whether FSDP keeps a gradient of a parameter that was not summed over processes yet."""
    whole = getattr(parameter, "_unsharded_param", None)
    return parameter.unsharded_accumulated_grad is not None or (whole is not None and whole.grad is not None)


def device_meshes(model: nn.Module) -> list[Any]:
    """Return the meshes of processes over which the parameters of a model are sharded, each once."""
    reshard(sharded_modules(model))
    meshes: list[Any] = []
    for parameter in model.parameters():
        mesh = getattr(parameter, "device_mesh", None)
        if mesh is not None and mesh not in meshes:
            meshes.append(mesh)
    return meshes

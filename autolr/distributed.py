"""Which rank probes which subsample; one gather at the end. And what has to be the same on all ranks."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from hashlib import blake2b
from itertools import count, takewhile
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import nn

from autolr._typing import Batch, EngineName, FloatArray, Rng
from autolr._validation import invalid
from autolr.batches import map_leaves
from autolr.cells import ProbeRows
from autolr.data import ArrayRows, BatchStream, Data
from autolr.probing.rows import ProbedRows
from autolr.probing.sharded import Alone, Lockstep, device_meshes
from autolr.probing.start import Start
from autolr.probing.state import Snapshot
from autolr.ranks import Ranks, has_others
from autolr.scan import Scan
from autolr.subsampling import entropy_of
from autolr.training import Training

# What the ranks have spent together, and how long the slowest has taken.
_SUMS, _LONGEST = ("num_gradients", "num_forwards", "num_evaluations"), "seconds"
_ALL = ": hand over all of it on every rank, and not a share as a DistributedSampler makes it"
_REMEDIES = dict.fromkeys(("X", "data", "train_data"), _ALL)


def shared_rng(ranks: Ranks, rng: Rng) -> Rng:
    """Return what all randomness of a call is made of: an int is every rank's own, ``None`` becomes that of the first.

    Args:
        ranks: The ranks.
        rng: What this one was given.
    """
    if ranks.size == 1:
        return rng
    own = entropy_of(rng)
    first, *_ = ranks.gather_json(own)
    return int(first) if rng is None else own


def check_same(ranks: Ranks, tell: Callable[[], Mapping[str, Any]]) -> None:
    """Raise, on all ranks, where they were not given the same.

    Args:
        ranks: The ranks.
        tell: From what has to be the same: JSON values by the name of the argument; called where there are several.

    Raises:
        ValueError: If something differs; the message names it, a rank, and both values.
    """
    if ranks.size == 1:
        return
    told = dict(tell())
    told["device"] = str(told.get("device")).partition(":")[0]  # each rank has its own one of a kind
    first, *others = ranks.gather_json(told)
    for rank, other in enumerate(others, start=1):
        for name, value in first.items():
            if other.get(name) != value:
                values = f"{_shown(value)} on rank 0 and {_shown(other.get(name))} on rank {rank}"
                raise ValueError(f"`{name}` must be the same on every rank, got {values}{_REMEDIES.get(name, '')}.")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def fingerprints(start: Start, first: Iterable[Batch], **data: Data | None) -> dict[str, Any]:
    """Return checksums of what a call works on, by the name of the argument: of weights, moments, and data.

    Arrays are read as a whole; of datasets and loaders, which can be large or endless, the first batches are.

    Args:
        start: The model and the optimizer. (Those of a sharded model differ.)
        first: The first batches.
        **data: Where batches come from, by the argument's name.
    """
    told: dict[str, Any] = {}
    if not start.objective.sharded:
        optimizer = start.optimizer
        moments = [value for state in optimizer.state.values() for value in state.values()]
        options = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        told = {"model": checksum(start.objective.weights), "optimizer": [checksum(moments), str(options)]}
    for name, source in data.items():
        arrays = source.arrays if isinstance(source, ArrayRows) else []
        told[name] = [None if source is None or isinstance(source, BatchStream) else len(source), checksum(arrays)]
    return {**told, "data": checksum(list(first))}


def checksum(value: Any) -> str:
    """Return a number that is another one, almost surely, where a tensor or an array in ``value`` is another one.

    The order of entries counts. Tensors are read on their device, a part at a time.

    Example:
        >>> one, other = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0])
        >>> checksum((one, 3)) == checksum((one.clone(), 3)), checksum(one) == checksum(other)
        (True, False)
    """
    digest = blake2b(digest_size=8)

    def add(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            tensor = leaf.detach().resolve_conj().resolve_neg()
            tensor = tensor.to_dense() if tensor.layout != torch.strided else tensor
            digest.update(f"{_weighted_sum(tensor)} {tuple(tensor.shape)} {tensor.dtype}".encode())
        elif isinstance(leaf, np.ndarray):
            word = crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
            digest.update(f"{word} {leaf.shape} {leaf.dtype}".encode())
        return leaf

    map_leaves(add, value)
    return f"checksum {digest.hexdigest()}"


def _weighted_sum(tensor: torch.Tensor) -> int:
    """Return a sum of the bits, as integers of 64 that overflow, each times an odd one of its place."""
    weights = _odd_numbers(tensor.device)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    for part in torch.split(flat, 8 * len(weights)):
        words = nn.functional.pad(part, (0, -len(part) % 8)).view(torch.int64)
        total = 31 * total + (words * weights[: len(words)]).sum()
    return int(total)


@cache
def _odd_numbers(device: torch.device) -> torch.Tensor:
    numbers = np.random.default_rng(0).integers(2**62, size=2**18, dtype=np.int64)
    return torch.from_numpy(numbers | 1).to(device)


def in_step(ranks: Ranks, training: Training) -> Training:
    """Return the training, which ends where another rank has failed; by ranks in lockstep where its model is sharded.

    Raises:
        ValueError: If a rank would probe a sharded model by itself.
    """
    if ranks.size > 1:
        training = replace(training, look_around=ranks.check)
    if not training.is_sharded:
        return training
    if ranks.size == 1 and has_others():
        raise ValueError(invalid("model", "not be sharded where a rank tunes by itself", type(training.model).__name__))
    meshes = [mesh for module in training.modules() for mesh in device_meshes(module)]
    ranks.hurry([group for mesh in meshes for group in mesh.get_all_groups()])
    return replace(training, lockstep=Lockstep(ranks.group))


def as_one_process(ranks: Ranks, training: Training, start: Start) -> Start:
    """Return the start from which the forwards of each rank are those that one process would make.

    Buffers are those of the first rank, as ``DistributedDataParallel`` has them in every forward (running statistics
    differ between the ranks of a training), and ``SyncBatchNorm`` does not wait for other ranks.
    """
    objective = start.objective
    if objective.sharded or not has_others():
        return start
    parts = [part for module in objective.modules() for part in module.modules()]
    synchronized = [part for part in parts if isinstance(part, nn.SyncBatchNorm)]
    for part in synchronized:
        part.process_group = ranks.own_group
    buffers = [buffer for module in objective.modules() for buffer in module.buffers()]
    differ = ranks.size > 1 and len(set(ranks.gather_json(checksum(buffers)))) > 1
    for buffer in buffers if differ else ():
        values = buffer.detach().cpu()
        ranks.group.broadcast(values, 0).wait()
        buffer.detach().copy_(values)
    if not (synchronized or differ):
        return start
    return replace(start, objective=training.objective(), snapshot=Snapshot(*start.objects()))


def _is_shared_out(ranks: Ranks, lockstep: Alone) -> bool:
    """Return whether each rank does a part of the work, rather than all of it, alone or with the others in lockstep."""
    return ranks.size > 1 and not isinstance(lockstep, Lockstep)


def share_rows(ranks: Ranks, probe: ProbeRows, lockstep: Alone) -> ProbeRows:
    """Return what probes rows together: of W ranks, rank r probes the rows r, r + W, r + 2 W, ... of those asked for.

    No rank waits for another before it is done with its own; then all of them get everything. Rows count up to the
    first one that the data or the time has not given. Ranks in lockstep probe all rows together.
    """
    if not _is_shared_out(ranks, lockstep):
        return probe

    def shared(learning_rates: FloatArray, rows: range, engine: EngineName, at_least: int) -> ProbedRows:
        mine = rows[ranks.rank :: ranks.size]
        least = len(range(ranks.rank, at_least, ranks.size))
        part = probe(learning_rates, mine, engine, least) if mine else _nothing(engine)
        return _interleaved([_unpacked(value) for value in ranks.gather(_packed(part))], len(rows))

    return shared


def _nothing(engine: str) -> ProbedRows:
    return ProbedRows(np.empty(0), np.empty(0), engine, "asked for", out_of_time=False)


def _interleaved(parts: list[ProbedRows], num_rows: int) -> ProbedRows:
    """Return the rows of all ranks in their order, up to the first one that is missing."""
    size = len(parts)
    missing = (rank + len(part.loss_pre) * size for rank, part in enumerate(parts))
    total = min(num_rows, *missing)
    filled = [part for part in parts if len(part.loss_pre)]
    shape = filled[0].loss_post.shape[1:] if filled else (0,)
    loss_pre, loss_post = np.empty(total), np.empty((total, *shape))
    for rank, part in enumerate(parts):
        count = len(range(rank, total, size))
        loss_pre[rank::size] = part.loss_pre[:count]
        if count:
            loss_post[rank::size] = part.loss_post[:count]
    told = filled or parts[:1]
    return ProbedRows(
        loss_pre,
        loss_post,
        " and ".join(dict.fromkeys(part.engine for part in told)),
        ", and ".join(dict.fromkeys(part.engine_reason for part in told)),
        any(part.out_of_time for part in parts),
        all(part.repeatable for part in parts),
    )


def _packed(part: ProbedRows) -> bytes:
    """Return rows as bytes: a line of JSON, then the losses."""
    head = [part.engine, part.engine_reason, part.out_of_time, part.repeatable, part.loss_post.shape]
    losses = np.concatenate([part.loss_pre, part.loss_post.ravel()]).astype(np.float64)
    return json.dumps(head).encode() + b"\n" + losses.tobytes()


def _unpacked(value: bytes) -> ProbedRows:
    head, _, body = value.partition(b"\n")
    engine, reason, out_of_time, repeatable, shape = json.loads(head)
    losses = np.frombuffer(body, dtype=np.float64)
    num_rows = shape[0]
    return ProbedRows(
        losses[:num_rows].copy(), losses[num_rows:].reshape(shape).copy(), engine, reason, out_of_time, repeatable
    )


def own_streams(ranks: Ranks, num_streams: int, *, is_shared: bool, lockstep: Alone) -> range:
    """Return the streams of a search that this rank searches on: r, r + W, ...; all in lockstep.

    Args:
        ranks: The ranks.
        num_streams: How many there are.
        is_shared: Whether one does not depend on those before it; if it does, the first rank takes all.
        lockstep: How the ranks work.
    """
    every = range(num_streams)
    if not _is_shared_out(ranks, lockstep):
        return every
    return every[ranks.rank :: ranks.size] if is_shared else every[: num_streams * (ranks.rank == 0)]


def everybodys_scans(ranks: Ranks, own: Mapping[int, Scan], start: Start, lockstep: Alone) -> list[Scan]:
    """Return what all ranks have found, in the order of the streams, up to the first that was not searched on."""
    if not _is_shared_out(ranks, lockstep):
        return list(own.values())
    told = ranks.gather_json([[stream, scan.as_json()] for stream, scan in own.items()])
    found = {stream: values for values_of_rank in told for stream, values in values_of_rank}
    whole = takewhile(found.__contains__, count())
    return [Scan.of_json(found[stream], start) for stream in whole]


def told_together(ranks: Ranks, settings: dict[str, Any], lockstep: Alone) -> dict[str, Any]:
    """Return the settings of a result that are the same on all ranks: those of the first one, with all that was spent.

    Args:
        ranks: The ranks.
        settings: Those of this one.
        lockstep: How they have worked: in lockstep, all have done all of the work.
    """
    if ranks.size == 1:
        return settings
    every = ranks.gather_json(settings)
    spent = {name: sum(one[name] for one in every) for name in _SUMS} if _is_shared_out(ranks, lockstep) else {}
    together = {"num_ranks": ranks.size, "first_rank": ranks.first}
    return {**every[0], **spent, _LONGEST: max(one[_LONGEST] for one in every), **together}

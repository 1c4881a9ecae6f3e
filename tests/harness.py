"""A proof that nothing of the user's has changed, written without any of the code that it judges."""

import logging
import random
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

_IMMUTABLE = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)


@contextmanager
def unchanged(model: nn.Module, optimizer: Any = None, *, scheduler: Any = None, extra: Any = ()) -> Iterator[None]:
    """Assert that the block leaves everything as it was, also where an exception leaves the block.

    Compared, by identity of the objects and of their memory and bit for bit: parameters and buffers (NaN included),
    ``requires_grad``, gradients (``None`` stays ``None``), train/eval flags, attributes and hooks of the modules, the
    optimizer's parameter groups, state and hooks, ``scheduler.state_dict()``, the global generators of torch, NumPy and
    Python, the grad mode, the default dtype and the global module hooks.

    Args:
        model: The model, or any module.
        optimizer: Its optimizer.
        scheduler: An attached scheduler, or several in a list.
        extra: Anything else, in lists and dicts at any depth: modules, optimizers, tensors, arrays, generators.

    Raises:
        AssertionError: If something changed; the message names it.
    """
    roots = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "extra": extra}
    before, alive = _facts(roots)
    try:
        yield
    finally:
        after, _ = _facts(roots)
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        assert alive, "the objects must outlive the comparison of their ids"
        assert not changed, f"changed: {', '.join(changed[:10])}{' ...' if len(changed) > 10 else ''}"


@contextmanager
def quiet() -> Iterator[None]:
    """Let nothing be logged below an error, and no warning be raised, within the block."""
    logger = logging.getLogger("autolr")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _facts(roots: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """Return every fact under its name, and the objects whose ids are among them."""
    numpy_state: Any = np.random.get_state(legacy=False)  # noqa: NPY002 (the global one)
    facts: dict[str, Any] = {
        "random state of torch": torch.get_rng_state().numpy().tobytes(),
        "random state of NumPy": (numpy_state["state"]["key"].tobytes(), repr(numpy_state)),
        "random state of Python": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
        "global module hooks": len(nn.modules.module._global_forward_pre_hooks)
        + len(nn.modules.module._global_forward_hooks),
    }
    alive: list[Any] = []
    for name, value in roots.items():
        _collect(name, value, facts, alive, set())
    return facts, alive


def _collect(name: str, value: Any, facts: dict[str, Any], alive: list[Any], seen: set[int]) -> None:
    if isinstance(value, _IMMUTABLE):
        facts[name] = repr(value)
        return
    facts[f"{name} (identity)"] = id(value)
    alive.append(value)
    if id(value) in seen:
        return
    seen.add(id(value))
    for part, held in _parts(name, value, facts).items():
        _collect(part, held, facts, alive, seen)


def _parts(name: str, value: Any, facts: dict[str, Any]) -> dict[str, Any]:
    """Note the facts about ``value`` itself, and return what it holds, under its name."""
    if hasattr(value, "_local_tensor"):  # sharded over processes
        facts[f"{name} (requires_grad)"] = value.requires_grad
        return {f"{name}.shard": value._local_tensor, f"{name}.grad": value.grad if value.is_leaf else None}
    if isinstance(value, torch.Tensor):
        facts[f"{name} (bits)"] = _bits(value)
        facts[f"{name} (memory)"] = _memory(value)
        facts[f"{name} (requires_grad)"] = value.requires_grad
        return {f"{name}.grad": value.grad} if value.is_leaf else {}
    if isinstance(value, nn.Module):
        facts[f"{name}.training"] = value.training
        scripted = isinstance(value, torch.jit.ScriptModule)
        tensors = {**dict(value.named_parameters()), **dict(value.named_buffers())} if scripted else {}
        return {f"{name}.{key}": held for key, held in {**vars(value), **tensors}.items()}
    if isinstance(value, torch.optim.Optimizer):
        groups = {
            f"{name}.param_groups[{i}].{key}": v for i, g in enumerate(value.param_groups) for key, v in g.items()
        }
        return {**groups, **{f"{name}.{key}": held for key, held in vars(value).items()}}
    if isinstance(value, torch.optim.lr_scheduler.LRScheduler):
        return {f"{name}.state_dict": repr(value.state_dict())}
    if isinstance(value, np.ndarray):
        facts[f"{name} (bits)"] = (value.dtype, value.shape, value.tobytes())
    elif isinstance(value, torch.Generator):
        facts[f"{name} (state)"] = value.get_state().numpy().tobytes()
    elif isinstance(value, np.random.Generator):
        facts[f"{name} (state)"] = repr(value.bit_generator.state)
    elif isinstance(value, np.random.RandomState):
        state: Any = value.get_state(legacy=False)
        facts[f"{name} (state)"] = np.asarray(state["state"].get("key", [])).tobytes(), repr(state)
    elif isinstance(value, random.Random):
        facts[f"{name} (state)"] = value.getstate()
    elif isinstance(value, set):
        facts[f"{name} (content)"] = frozenset(map(repr, value))
    elif isinstance(value, Mapping):
        facts[f"{name} (keys)"] = [key if isinstance(key, _IMMUTABLE) else id(key) for key in value]
        return {
            f"{name}[{key if isinstance(key, _IMMUTABLE) else i}]": held for i, (key, held) in enumerate(value.items())
        }
    elif isinstance(value, (list, tuple, deque)):
        facts[f"{name} (length)"] = len(value)
        return {f"{name}[{i}]": held for i, held in enumerate(value)}
    return {}


def _bits(tensor: torch.Tensor) -> tuple[Any, ...]:
    tensor = tensor.detach()
    if tensor.is_sparse:
        return _bits(tensor._indices()), _bits(tensor._values())
    return tensor.dtype, tuple(tensor.shape), tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _memory(tensor: torch.Tensor) -> tuple[Any, ...]:
    if tensor.is_sparse:
        return ()
    return tensor.data_ptr(), tensor.stride(), tensor.untyped_storage().data_ptr()

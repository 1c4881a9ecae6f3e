"""Parameter groups: one learning rate for all of them, or for some, their ratios kept."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from autolr._validation import check_integer, invalid


def check_groups(optimizer: torch.optim.Optimizer, groups: Any) -> tuple[int, ...] | None:
    """Return the numbers of the groups that are tuned, increasing; ``None`` for all.

    Args:
        optimizer: The optimizer.
        groups: ``None``, a number, or several.

    Raises:
        TypeError: If they are no integers.
        ValueError: If there is none, one twice, or one that the optimizer does not have.
    """
    if groups is None:
        return None
    several = isinstance(groups, (list, tuple, range, set, frozenset, np.ndarray))
    numbers = [check_integer("groups", group, minimum=0) for group in (groups if several else [groups])]
    if not numbers or len(set(numbers)) < len(numbers) or max(numbers) >= len(optimizer.param_groups):
        most = len(optimizer.param_groups) - 1
        raise ValueError(invalid("groups", f"be different numbers of parameter groups, 0 to {most}", groups))
    return tuple(sorted(numbers))


def base_learning_rates(optimizer: torch.optim.Optimizer, groups: Sequence[int] | None = None) -> list[float]:
    """Return the rates of the parameter groups, whose ratios say how a common rate is shared out.

    They are the groups' ``lr``; where a warm-up holds one of them at 0, the groups' ``initial_lr``.

    Args:
        optimizer: The optimizer; it is only read.
        groups: The groups that are tuned, increasing; ``None``: all.

    Returns:
        One rate a group; that of the first one that is tuned is positive.

    Raises:
        ValueError: If a group has no ``lr``, or the first tuned one's is 0 with no ``initial_lr`` to go by.

    Example:
        >>> weight, bias = torch.nn.Linear(3, 1).parameters()
        >>> base_learning_rates(torch.optim.SGD([{"params": [weight]}, {"params": [bias], "lr": 0.2}], lr=0.1))
        [0.1, 0.2]
    """
    every = optimizer.param_groups
    if any("lr" not in group for group in every):
        raise ValueError(invalid("optimizer", "have an 'lr' in every parameter group", type(optimizer).__name__))
    rates = [float(group["lr"]) for group in every]
    if min(rates) == 0.0 and all("initial_lr" in group for group in every):
        rates = [float(group["initial_lr"]) for group in every]
    first = groups[0] if groups else 0
    if not rates[first] > 0.0:
        which = f"parameter group {first}" if groups else "its first parameter group"
        raise ValueError(invalid("optimizer", f"have a learning rate above 0 in {which}", rates[first]))
    return rates


def set_learning_rate(
    optimizer: torch.optim.Optimizer,
    learning_rate: float,
    base: Sequence[float],
    *,
    key: str = "lr",
    groups: Sequence[int] | None = None,
) -> None:
    """Set the first tuned group's rate to ``learning_rate`` and the others' in the ratios of ``base``.

    A rate that is a tensor is filled in place, as compiled and captured optimizers need it; others become floats.

    Args:
        optimizer: The optimizer whose groups are changed.
        learning_rate: The rate of the first group that is tuned.
        base: Rates whose ratios are kept, one a group, as :func:`base_learning_rates` returns them.
        key: The entry of the groups that is set; groups without it are left alone.
        groups: The groups that are tuned, increasing; ``None``: all. Others are left alone.
    """
    first = groups[0] if groups else 0
    for index, (group, rate) in enumerate(zip(optimizer.param_groups, base, strict=True)):
        if key not in group or (groups is not None and index not in groups):
            continue
        scaled = learning_rate * (rate / base[first])
        if isinstance(group[key], torch.Tensor):
            group[key].fill_(scaled)
        else:
            group[key] = scaled

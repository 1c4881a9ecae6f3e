"""Parameter groups: one learning rate for all of them, their ratios kept."""

from collections.abc import Sequence

import torch

from autolr._validation import invalid


def base_learning_rates(optimizer: torch.optim.Optimizer) -> list[float]:
    """Return the rates of the parameter groups, whose ratios say how a common rate is shared out.

    They are the groups' ``lr``; where a warm-up holds one of them at 0, the groups' ``initial_lr``.

    Args:
        optimizer: The optimizer; it is only read.

    Returns:
        One rate a group; the first is positive.

    Raises:
        ValueError: If a group has no ``lr``, or the first group's rate is 0 with no ``initial_lr`` to go by.

    Example:
        >>> weight, bias = torch.nn.Linear(3, 1).parameters()
        >>> base_learning_rates(torch.optim.SGD([{"params": [weight]}, {"params": [bias], "lr": 0.2}], lr=0.1))
        [0.1, 0.2]
    """
    groups = optimizer.param_groups
    if any("lr" not in group for group in groups):
        raise ValueError(invalid("optimizer", "have an 'lr' in every parameter group", type(optimizer).__name__))
    rates = [float(group["lr"]) for group in groups]
    if min(rates) == 0.0 and all("initial_lr" in group for group in groups):
        rates = [float(group["initial_lr"]) for group in groups]
    if not rates[0] > 0.0:
        raise ValueError(invalid("optimizer", "have a learning rate above 0 in its first parameter group", rates[0]))
    return rates


def set_learning_rate(
    optimizer: torch.optim.Optimizer, learning_rate: float, base: Sequence[float], *, key: str = "lr"
) -> None:
    """Set the first group's rate to ``learning_rate`` and the others' in the ratios of ``base``.

    A rate that is a tensor is filled in place, as compiled and captured optimizers need it; others become floats.

    Args:
        optimizer: The optimizer whose groups are changed.
        learning_rate: The rate of the first group.
        base: Rates whose ratios are kept, one a group, as :func:`base_learning_rates` returns them.
        key: The entry of the groups that is set; groups without it are left alone.
    """
    for group, rate in zip(optimizer.param_groups, base, strict=True):
        if key not in group:
            continue
        scaled = learning_rate * (rate / base[0])
        if isinstance(group[key], torch.Tensor):
            group[key].fill_(scaled)
        else:
            group[key] = scaled

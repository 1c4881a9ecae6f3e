"""Move the base rates of a scheduler that is attached to an optimizer."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
)

from autolr._validation import check_real, invalid

Rate: TypeAlias = float | torch.Tensor
_PER_GROUP = ("base_lrs", "max_lrs", "_last_lr")
_ONE_CYCLE = ("initial_lr", "max_lr", "min_lr")  # OneCycleLR keeps its limits in the groups


def rebase_scheduler(scheduler: LRScheduler, learning_rate: float) -> None:
    r"""Go on with a schedule as if it had been started with another learning rate.

    With :math:`b` the base rate of the first parameter group, every rate that belongs to the schedule is multiplied by
    :math:`\mathrm{learning\_rate} / b`: the scheduler's base rates, each group's ``lr`` and ``initial_lr``, and the
    limits of :class:`~torch.optim.lr_scheduler.CyclicLR` and :class:`~torch.optim.lr_scheduler.OneCycleLR`. The groups
    keep their ratios, and the schedule its place: no step is taken. Momentum that is cycled stays as it is. Inside of
    :class:`~torch.optim.lr_scheduler.SequentialLR` and :class:`~torch.optim.lr_scheduler.ChainedScheduler` every
    scheduler is moved, and the optimizer once.

    The base rate is what the scheduler scales, ``base_lrs``. Of ``OneCycleLR`` and ``CyclicLR`` it is the peak, the
    largest of the limits: the schedule rises to ``learning_rate`` and not above, from an initial rate or lower limit
    that is the same share of it as before. Of a sequence or a chain it is that of its first scheduler, which says
    nothing about how high a later cycle rises. A ``ReduceLROnPlateau`` does not know its own: it is the group's
    ``initial_lr``, or else the present ``lr``, which is then set to ``learning_rate`` also where it has been reduced
    before.

    Absolute floors stay where they are (``eta_min`` of the cosine schedules, ``min_lr`` of ``ReduceLROnPlateau``); the
    present rate of a cosine schedule keeps its relative height above the floor.

    Args:
        scheduler: An attached scheduler of :mod:`torch.optim.lr_scheduler`, or a subclass. Changed in place, and so are
            its optimizer's groups: rates that are tensors are filled, others become Python floats.
        learning_rate: The new base rate of the first group (of a cycle: the new peak), positive.

    Raises:
        TypeError: If ``scheduler`` is not a torch scheduler, or ``learning_rate`` is not a number.
        ValueError: If ``learning_rate`` is not positive and finite, or the first group's base rate is not: there is
            then no ratio to keep. Nothing has changed.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
        >>> optimizer.step(); scheduler.step()
        >>> rebase_scheduler(scheduler, 0.4)
        >>> scheduler.base_lrs, optimizer.param_groups[0]["lr"]
        ([0.4], 0.2)

        A cycle peaks at the new rate, a tenth of the old peak of 1, and starts at a tenth of 1 / 25:

        >>> cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=9, cycle_momentum=False)
        >>> rebase_scheduler(cycle, 0.1)
        >>> round(optimizer.param_groups[0]["max_lr"], 6), round(optimizer.param_groups[0]["lr"], 6)
        (0.1, 0.004)
    """
    if not isinstance(scheduler, LRScheduler):
        raise TypeError(invalid("scheduler", "be a torch.optim.lr_scheduler.LRScheduler", scheduler))
    learning_rate = check_real("learning_rate", learning_rate, above=0.0)
    members = list({id(member): member for member in _members(scheduler)}.values())
    groups = scheduler.optimizer.param_groups
    base = _base_rate(members, groups[0])

    def scaled(value: Rate) -> float:
        return learning_rate * (float(value) / base)  # NOTE: exactly `learning_rate` where value is base

    keys = ["initial_lr"]
    if any(isinstance(member, OneCycleLR) for member in members):
        keys = list(_ONE_CYCLE)
    present = _present_rates(scheduler, scaled)
    updates = [(group, {key: scaled(group[key]) for key in keys if key in group}) for group in groups]
    # NOTE: all values are known before the first is written: groups may share one tensor.
    for (group, values), rate in zip(updates, present, strict=True):
        for key, value in {**values, "lr": rate}.items():
            group[key] = _written(group[key], value)
    for member in members:
        for name in _PER_GROUP:
            if name in member.__dict__:
                # NOTE: a new list, as SequentialLR holds the very list of the scheduler that runs.
                setattr(member, name, [_like(value, scaled(value)) for value in getattr(member, name)])
    for member in _running(scheduler):
        member._last_lr = [_like(group["lr"], float(group["lr"])) for group in groups]


def base_rate(scheduler: LRScheduler) -> float:
    """Return what :func:`rebase_scheduler` sets: the base rate of the first group; of a cycle, its peak.

    Args:
        scheduler: An attached scheduler; it is only read.

    Raises:
        ValueError: If that rate is not positive and finite.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> base_rate(torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.5))
        0.1
    """
    return _base_rate(list(_members(scheduler)), scheduler.optimizer.param_groups[0])


def _members(scheduler: LRScheduler) -> Iterator[LRScheduler]:
    """Yield the scheduler, and the ones inside of it."""
    yield scheduler
    for inner in getattr(scheduler, "_schedulers", ()):
        yield from _members(inner)


def _running(scheduler: LRScheduler) -> Iterator[LRScheduler]:
    """Yield the scheduler, and down from it the one of a sequence that has set the present rate."""
    yield scheduler
    if isinstance(scheduler, SequentialLR):
        yield from _running(scheduler._schedulers[bisect_right(scheduler._milestones, scheduler.last_epoch)])


def _base_rate(members: list[LRScheduler], group: dict[str, Any]) -> float:
    """Return the base rate of the first scheduler that has one, else that of the group."""
    first = next((member for member in members if getattr(member, "base_lrs", None)), None)
    rates: list[Rate]
    if first is None:
        rates = [group.get("initial_lr", group["lr"])]
    elif isinstance(first, OneCycleLR):
        # NOTE: the peak, so that a tuned rate is never exceeded; of a cycle upside down it is not `max_lr`.
        rates = [group[key] for key in _ONE_CYCLE]
    elif isinstance(first, CyclicLR):
        rates = [first.base_lrs[0], first.max_lrs[0]]
    else:
        rates = [first.base_lrs[0]]
    base = max(float(rate) for rate in rates)
    if not (math.isfinite(base) and base > 0.0):
        raise ValueError(invalid("scheduler", "have a positive base rate in its first parameter group", base))
    return base


def _present_rates(scheduler: LRScheduler, scaled: Callable[[Rate], float]) -> list[float]:
    """Return the rates at which the groups go on."""
    *_, running = _running(scheduler)
    groups = scheduler.optimizer.param_groups
    rates = [scaled(group["lr"]) for group in groups]
    if not isinstance(running, (CosineAnnealingLR, CosineAnnealingWarmRestarts)) or running.eta_min == 0.0:
        return rates
    floor = float(running.eta_min)
    for i, (group, base) in enumerate(zip(groups, running.base_lrs, strict=True)):
        if float(base) != floor:
            # NOTE: the recursion of CosineAnnealingLR goes on from the present rate: one that is proportional, and so
            # off the curve of the new base, would leave it by orders of magnitude behind the minimum.
            height = (float(group["lr"]) - floor) / (float(base) - floor)
            rates[i] = floor + height * (scaled(base) - floor)
    return rates


def _written(old: Rate, value: float) -> Rate:
    """Return what a group holds from now on: the same tensor, filled, or a float."""
    if isinstance(old, torch.Tensor):
        with torch.no_grad():
            return old.fill_(value)
    return value


def _like(old: Rate, value: float) -> Rate:
    """Return ``value`` as a new tensor where ``old`` is one, for lists that must not alias a group's rate."""
    return torch.full_like(old, value, requires_grad=False) if isinstance(old, torch.Tensor) else value

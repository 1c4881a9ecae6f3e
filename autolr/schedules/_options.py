"""What each schedule takes: its class in torch, its options and how they are checked, and what they are by default."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)

from autolr._validation import check_flag, check_integer, check_option, check_real, invalid

ScheduleName: TypeAlias = Literal[
    "constant", "step", "multistep", "exponential", "cosine", "warm_restarts", "onecycle", "plateau", "lambda"
]


def _check_function(name: str, value: Any) -> Any:
    if not callable(value):
        raise TypeError(invalid(name, "be a function of the step, or a list of one for each parameter group", value))
    return value


def _check_factor(name: str, value: Any) -> float:
    factor = check_real(name, value, above=0.0)
    if factor > 1.0:
        raise ValueError(invalid(name, "be at most 1", value))
    return factor


def _check_milestones(name: str, value: Any) -> list[int]:
    if not isinstance(value, Iterable):
        raise TypeError(invalid(name, "be a sequence of integers", value))
    return [check_integer(name, item, minimum=1) for item in value]


def _one_of(*allowed: str) -> Callable[[str, Any], Any]:
    return partial(check_option, options=allowed)


_count = partial(check_integer, minimum=1)
_count_or_0 = partial(check_integer, minimum=0)
_not_negative = partial(check_real, above=0.0, closed=True)
_at_least_1 = partial(check_real, above=1.0, closed=True)  # of a cycle: below 1 its peak would not be the largest rate
_share = partial(check_real, above=0.0, below=1.0, closed=True)

_PER_GROUP = ("lr_lambda", "min_lr", "base_momentum", "max_momentum")  # may be lists


class Schedule(NamedTuple):
    """A class of :mod:`torch.optim.lr_scheduler`, and the check of each of its options."""

    make: Callable[..., LRScheduler]
    checks: Mapping[str, Callable[[str, Any], Any]]


SCHEDULES: Mapping[str, Schedule] = {
    "constant": Schedule(ConstantLR, {"factor": _check_factor, "total_iters": _count}),
    "step": Schedule(StepLR, {"step_size": _count, "gamma": _not_negative}),
    "multistep": Schedule(MultiStepLR, {"milestones": _check_milestones, "gamma": _not_negative}),
    "exponential": Schedule(ExponentialLR, {"gamma": _not_negative}),
    "cosine": Schedule(CosineAnnealingLR, {"T_max": _count, "eta_min": _not_negative}),
    "warm_restarts": Schedule(CosineAnnealingWarmRestarts, {"T_0": _count, "T_mult": _count, "eta_min": _not_negative}),
    "onecycle": Schedule(
        OneCycleLR,
        {
            "pct_start": _share,
            "anneal_strategy": _one_of("cos", "linear"),
            "cycle_momentum": check_flag,
            "base_momentum": _share,
            "max_momentum": _share,
            "div_factor": _at_least_1,
            "final_div_factor": _at_least_1,
            "three_phase": check_flag,
        },
    ),
    "plateau": Schedule(
        ReduceLROnPlateau,
        {
            "mode": _one_of("min", "max"),
            "factor": partial(check_real, above=0.0, below=1.0),
            "patience": _count_or_0,
            "threshold": _not_negative,
            "threshold_mode": _one_of("rel", "abs"),
            "cooldown": _count_or_0,
            "min_lr": _not_negative,
            "eps": _not_negative,
        },
    ),
    "lambda": Schedule(LambdaLR, {"lr_lambda": _check_function}),
}


def scheduler_arguments(
    optimizer: torch.optim.Optimizer, name: str, options: Mapping[str, Any], num_steps: int
) -> dict[str, Any]:
    """Return what the class of a schedule is called with: the options, checked, and defaults for the others.

    Args:
        optimizer: The optimizer; it is only read.
        name: A key of ``SCHEDULES``.
        options: The options that were given.
        num_steps: The length of the schedule, its warm-up left out.

    Raises:
        TypeError: If the schedule has no such option, or one has the wrong type.
        ValueError: If an option has a value that is not allowed.
    """
    checks = SCHEDULES[name].checks
    num_groups = len(optimizer.param_groups)
    checked: dict[str, Any] = {}
    if name == "lambda":
        options = {"lr_lambda": None, **options}  # required: refused as None
    for key, value in options.items():
        if key not in checks:
            if key == "last_epoch":
                where = "be left out: a run goes on where it was saved by `scheduler.load_state_dict`"
                raise TypeError(invalid(key, where, value))
            takes = ", ".join(f"`{option}`" for option in checks)
            raise TypeError(invalid(key, f"be left out of name={name!r}, which takes {takes}", value))
        if key in _PER_GROUP and isinstance(value, (list, tuple)):
            if len(value) != num_groups:
                raise ValueError(invalid(key, f"have {num_groups} entries, one for each parameter group", value))
            checked[key] = [checks[key](key, item) for item in value]
        else:
            checked[key] = checks[key](key, value)
    if name == "onecycle":
        return _cycle_arguments(optimizer, checked, num_steps)
    return _defaults(name, checked.get("T_mult", 1), num_steps) | checked


def _defaults(name: str, cycle_growth: int, num_steps: int) -> dict[str, Any]:
    """Return defaults where torch has none, or none that goes by the length of the run."""
    if name == "constant":
        return {"factor": 1.0}
    if name == "step":
        return {"step_size": -(-num_steps // 3)}  # NOTE: rounded up, so that no third fall hits the last steps
    if name == "multistep":
        return {"milestones": [max(1, num_steps // 2), max(1, 3 * num_steps // 4)]}
    if name == "exponential":
        return {"gamma": 0.01 ** (1.0 / num_steps)}
    if name == "cosine":
        return {"T_max": num_steps}
    if name == "warm_restarts":
        # NOTE: rounded up too: a fourth cycle would raise the rate again in the last steps.
        return {"T_0": -(-num_steps // (1 + cycle_growth + cycle_growth**2))}
    return {}


def _cycle_arguments(optimizer: torch.optim.Optimizer, checked: dict[str, Any], num_steps: int) -> dict[str, Any]:
    """Return the arguments of OneCycleLR, but for the peak."""
    supported = {"momentum", "betas"} & optimizer.defaults.keys()
    groups = optimizer.param_groups
    momenta = [group["betas"][0] if "betas" in supported else group.get("momentum", 0.0) for group in groups]
    # NOTE: torch would cycle the momentum of plain SGD too, and so give it one.
    cycled = bool(supported) and all(momentum > 0.0 for momentum in momenta)
    arguments: dict[str, Any] = {"cycle_momentum": cycled or bool({"base_momentum", "max_momentum"} & checked.keys())}
    arguments |= checked
    if arguments["cycle_momentum"] and not supported:
        raise ValueError(invalid("cycle_momentum", "be False for an optimizer without momentum and betas", True))
    # NOTE: torch counts the first rate as a step: its last one would be reached a call too early.
    arguments["total_steps"] = num_steps + 1
    if arguments.get("pct_start", 0.3) * (num_steps + 1) == 1.0:  # torch divides by the length of the rise
        raise ValueError(invalid("pct_start", "not be 1 / (`total_steps` + 1)", checked["pct_start"]))
    return arguments

"""Attach a schedule of torch to an optimizer, by name, at the learning rate that was picked."""

from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LinearLR, LRScheduler, OneCycleLR, ReduceLROnPlateau, SequentialLR

from autolr._typing import FloatArray
from autolr._validation import check_integer, check_option, check_real, invalid
from autolr.param_groups import base_learning_rates, set_learning_rate
from autolr.schedules._options import SCHEDULES, ScheduleName, scheduler_arguments

_NO_WARMUP = {"onecycle": "whose own warm-up is `pct_start`", "plateau": "which torch cannot chain"}


def make_scheduler(
    optimizer: torch.optim.Optimizer,
    name: ScheduleName,
    *,
    learning_rate: float,
    total_steps: int,
    warmup_steps: int = 0,
    **options: Any,
) -> LRScheduler:
    r"""Set an optimizer's learning rate, and attach a schedule of torch that starts from it.

    The first parameter group gets ``learning_rate``, the others keep their ratios to it, as with
    :meth:`Suggestion.apply`; an ``initial_lr`` of an earlier scheduler, from which torch would start again, is
    replaced. With :math:`w` ``warmup_steps``, the rate after :math:`t < w` calls of ``step()`` is
    :math:`\mathrm{learning\_rate}\,(t + 1) / (w + 1)`, which is never 0. From there on, with :math:`u = t - w` and
    :math:`n = \mathrm{total\_steps} - w`, it is ``learning_rate`` times

    ================= ============================================== =========================================
    ``name``          factor                                         options and their defaults
    ================= ============================================== =========================================
    ``constant``      ``factor`` while u < i, then :math:`1`         ``factor`` = 1, ``total_iters`` i = 5
    ``step``          :math:`\gamma^{\lfloor u / s \rfloor}`         ``step_size`` s = n / 3, rounded up;
                                                                     ``gamma`` = 0.1
    ``multistep``     :math:`\gamma^{\#\{m \le u\}}`                 ``milestones`` m = [n // 2, 3 n // 4],
                                                                     ``gamma`` = 0.1
    ``exponential``   :math:`\gamma^u`                               ``gamma`` = 0.01 ** (1 / n)
    ``cosine``        :math:`(1 + \cos(\pi u / T)) / 2`              ``T_max`` T = n, ``eta_min`` = 0
    ``warm_restarts`` the same in cycles of lengths                  ``T_0`` = n / (1 + q + q**2), rounded up:
                      :math:`T_0, T_0 q, T_0 q^2, \dots`             three cycles; ``T_mult`` q = 1,
                                                                     ``eta_min`` = 0
    ``onecycle``      from :math:`1 / d` up to 1, then down to       ``div_factor`` d = 25, ``pct_start`` = 0.3,
                      :math:`1 / (d f)`                              ``final_div_factor`` f = 1e4, and others
    ``plateau``       ``factor`` to the power of how often the loss  those of ``ReduceLROnPlateau``
                      has stopped falling
    ``lambda``        ``lr_lambda(u)``                               ``lr_lambda`` is required
    ================= ============================================== =========================================

    The options have torch's names and, where the table has none, its defaults. Those in steps count from the end of
    the warm-up. ``eta_min`` is a rate, no factor: the cosine then falls from the base rate to it. Of torch's own, only
    those are refused that are said otherwise here: ``max_lr`` (``learning_rate``), ``epochs`` and ``steps_per_epoch``
    (``total_steps``), and ``last_epoch`` (a run goes on by the scheduler's ``load_state_dict``).

    After ``total_steps`` calls the schedule is at its end: ``cosine`` is at ``eta_min``, ``onecycle`` at its smallest
    rate and will take no other call; ``warm_restarts`` starts a new cycle there where its cycles fill the run. The
    others go on as torch defines them. ``plateau`` is stepped with the loss and has no length.

    One-cycle peaks near the call ``pct_start * (total_steps + 1) - 1``, between two calls if that is not whole. It
    cycles momentum (or the first beta) only if every group has some, or if a momentum is given: torch's default would
    give plain SGD a momentum of 0.95.

    Args:
        optimizer: The optimizer; its rates are changed. An earlier scheduler of it must not be stepped any more.
        name: The schedule.
        learning_rate: The rate of the first group that the factors multiply, positive.
        total_steps: How often ``step()`` will be called, at least 1: of batches or of epochs.
        warmup_steps: The length of the linear warm-up in such calls, less than ``total_steps``. It must be 0 for
            ``"onecycle"``, which has its own (``pct_start``), and for ``"plateau"``, which torch cannot chain.
        **options: See the table. ``lr_lambda``, ``min_lr``, ``base_momentum`` and ``max_momentum`` may be lists with
            an entry for each group.

    Returns:
        The attached scheduler; with a warm-up, a :class:`~torch.optim.lr_scheduler.SequentialLR`, which has no
        ``base_lrs`` of its own: its parts have, and the groups have ``initial_lr``. :func:`rebase_scheduler` moves it
        to another rate.

    Raises:
        TypeError: If an argument has the wrong type, or the schedule has no such option.
        ValueError: If a value is not allowed, or the first group's rate is 0: there is then no ratio to keep. Whatever
            is raised, the optimizer has not changed.

    References:
        The documentation of :mod:`torch.optim.lr_scheduler`. Cosine, restarts: Loshchilov and Hutter (2017). SGDR:
        Stochastic gradient descent with warm restarts. ICLR. One-cycle: Smith and Topin (2019). Super-convergence:
        Very fast training of neural networks using large learning rates. SPIE 11006. Linear warm-up: Goyal et al.
        (2017). Accurate, large minibatch SGD: Training ImageNet in 1 hour. arXiv:1706.02677.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> scheduler = make_scheduler(optimizer, "cosine", learning_rate=0.4, total_steps=5, warmup_steps=1)
        >>> rates = scheduler.get_last_lr()
        >>> for _ in range(5):
        ...     optimizer.step(); scheduler.step()
        ...     rates += scheduler.get_last_lr()
        >>> [round(rate, 4) for rate in rates]
        [0.2, 0.4, 0.3414, 0.2, 0.0586, 0.0]
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(invalid("optimizer", "be a torch.optim.Optimizer", optimizer))
    check_option("name", name, ScheduleName)
    learning_rate = check_real("learning_rate", learning_rate, above=0.0)
    total_steps = check_integer("total_steps", total_steps, minimum=1)
    warmup_steps = check_integer("warmup_steps", warmup_steps, minimum=0)
    if warmup_steps and name in _NO_WARMUP:
        raise ValueError(invalid("warmup_steps", f"be 0 for {name!r}, {_NO_WARMUP[name]}", warmup_steps))
    if warmup_steps >= total_steps:
        raise ValueError(invalid("warmup_steps", f"be below `total_steps` ({total_steps})", warmup_steps))
    base = base_learning_rates(optimizer)
    arguments = scheduler_arguments(optimizer, name, options, total_steps - warmup_steps)
    if name == "onecycle":
        arguments["max_lr"] = [learning_rate * (rate / base[0]) for rate in base]

    def attach(target: torch.optim.Optimizer) -> LRScheduler:
        for key in ("lr", "initial_lr"):
            set_learning_rate(target, learning_rate, base, key=key)
        warmup = [LinearLR(target, 1.0 / (warmup_steps + 1), total_iters=warmup_steps)] if warmup_steps else []
        scheduler = SCHEDULES[name].make(target, **arguments)
        return SequentialLR(target, [*warmup, scheduler], [warmup_steps]) if warmup else scheduler

    # NOTE: what torch refuses, or a function of the user's raises, it does on this optimizer, and `optimizer` is whole.
    attach(torch.optim.SGD([{"params": [torch.zeros(1)], "lr": rate} for rate in base], lr=1.0))
    scheduler = attach(optimizer)
    if isinstance(scheduler, OneCycleLR):
        # NOTE: torch counts the first rate as a step, and then allows one call more that leads beyond the end, with
        # linear annealing to a negative rate.
        scheduler.total_steps = total_steps
    if isinstance(scheduler, ReduceLROnPlateau):
        for group, rate in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
            group.setdefault("initial_lr", rate)  # as the other schedulers do: `rebase_scheduler` goes by it
    return scheduler


def schedule_factors(name: ScheduleName, *, total_steps: int, warmup_steps: int = 0, **options: Any) -> FloatArray:
    """Return what a schedule multiplies the learning rate with, in each step of a run.

    The schedule is run on an optimizer with one parameter group and a learning rate of 1, so that ``eta_min`` is
    a share of the rate here.

    Args:
        name: The schedule, as for :func:`make_scheduler`, but for ``"plateau"``.
        total_steps: The steps of the run.
        warmup_steps: Those of the linear warm-up.
        **options: As for :func:`make_scheduler`.

    Returns:
        The factors, shape ``(total_steps,)``: entry t after t calls of ``step()``, which is what step t trains with.

    Raises:
        TypeError: As :func:`make_scheduler`.
        ValueError: As :func:`make_scheduler`, and for ``"plateau"``, which depends on the losses.

    Example:
        >>> schedule_factors("step", total_steps=5, warmup_steps=1, step_size=2, gamma=0.5)
        array([0.5, 1. , 1. , 0.5, 0.5])
    """
    if name == "plateau":
        raise ValueError(invalid("name", "be a schedule that does not depend on the losses", name))
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = make_scheduler(
        optimizer, name, learning_rate=1.0, total_steps=total_steps, warmup_steps=warmup_steps, **options
    )
    optimizer.step()  # torch warns of a scheduler that steps first
    group = optimizer.param_groups[0]
    factors = np.empty(total_steps)
    factors[0] = float(group["lr"])
    for t in range(1, total_steps):
        scheduler.step()
        factors[t] = float(group["lr"])
    return factors

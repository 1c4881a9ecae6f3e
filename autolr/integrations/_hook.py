"""What all hooks do: tune when it is time, and set the rate only where the one in use is not among the best."""

import copy
import inspect
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from fractions import Fraction
from typing import Any, Literal, TypeAlias

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from autolr._validation import check_flag, check_integer, check_option, invalid
from autolr.errors import NoCandidateError
from autolr.param_groups import base_learning_rates, check_groups
from autolr.probing.held import data_generators, held_modules
from autolr.probing.state import preserved_state
from autolr.schedules.rebase import base_rate
from autolr.search import find_lr
from autolr.suggestion import Suggestion
from autolr.tuner import AutoLRTuner

logger = logging.getLogger("autolr")

Tool: TypeAlias = Literal["find_lr", "tune"]
Log: TypeAlias = Callable[[Suggestion], object]

# what the tuner takes when it is made, and not when it tunes
_OF_TUNER = ("device", "rng", "autocast", "scaler", "accumulation_steps", "clip", "groups")
_OPTIONS: dict[Tool, frozenset[str]] = {
    "find_lr": frozenset(inspect.signature(find_lr).parameters) - {"model", "loss_fn", "optimizer", "data"},
    "tune": frozenset(inspect.signature(AutoLRTuner.tune).parameters) - {"self", "X", "Y"}
    | {"compute_loss", "method", *_OF_TUNER},
}


class Hook:
    """Tunes at the start of a training and, if asked, again at some epochs.

    Tuning leaves everything as it was. The rate is then set, and an attached scheduler rebased, only where ``apply`` is
    true, the suggestion has no doubt, and the rate in use lies outside of the rates that are as good: for
    ``"find_lr"``, its interval; for ``"tune"``, the span of the set of best rates. The rate in use is the base of an
    attached scheduler (of a cycle, its peak), else the optimizer's.

    Where no rate qualifies, the first run raises, as nothing is trained yet; a later one leaves the rate and warns.

    Args:
        tool: ``"find_lr"``, the rate for the whole run (or what is left of it), or ``"tune"``, the best single step.
        apply: Whether a rate is set; ``False``: only suggested.
        every_n_epochs: After how many epochs it is tuned again; ``None``: at the start only.
        log: Called with each suggestion (``print`` will do), after a rate was set or not; ``None``: nothing is logged.
        options: Those of :func:`autolr.find_lr`; or of :class:`autolr.AutoLRTuner` and its ``tune``, and ``method``.

    Attributes:
        suggestions: What was suggested, one a run.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        *,
        tool: Tool = "find_lr",
        apply: bool = True,
        every_n_epochs: int | None = None,
        log: Log | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.tool: Tool = check_option("tool", tool, Tool)
        self.apply = check_flag("apply", apply)
        self.every_n_epochs = (
            None if every_n_epochs is None else check_integer("every_n_epochs", every_n_epochs, minimum=1)
        )
        if log is not None and not callable(log):
            raise TypeError(invalid("log", "be a function of a suggestion or None", log))
        self.log = log
        self.options = dict(options or {})
        for name in self.options:
            if name not in _OPTIONS[self.tool]:
                raise TypeError(invalid("options", f"be those of tool={self.tool!r}", name))
        self.suggestions: list[Suggestion] = []

    @property
    def suggestion(self) -> Suggestion | None:
        """The last suggestion; ``None`` before the first one."""
        return self.suggestions[-1] if self.suggestions else None

    @property
    def accumulation_steps(self) -> int:
        """The batches of an optimizer step that the user has told."""
        return check_integer("accumulation_steps", self.options.get("accumulation_steps", 1), minimum=1)

    def is_due(self, epoch: int) -> bool:
        """Return whether it is time to tune before an epoch, counted from 0 where a training begins or goes on."""
        return epoch == 0 or (self.every_n_epochs is not None and epoch % self.every_n_epochs == 0)

    def run(
        self,
        model: torch.nn.Module,
        loss_fn: Any,
        optimizer: torch.optim.Optimizer,
        data: Any,
        *,
        compute_loss: Any = None,
        scheduler: LRScheduler | None = None,
        total_steps: int | None = None,
        per_step: Fraction | int = 1,
        defaults: Mapping[str, Any] | None = None,
        within: AbstractContextManager[object] | None = None,
        replicas: int = 1,
        speaks: bool = True,
    ) -> Suggestion | None:
        """Tune, and set the rate where it has to be set.

        Of several processes, all do so together, and with the same outcome.

        Args:
            model: The model.
            loss_fn: The loss of an output and a target, or ``None``.
            optimizer: The optimizer; its rate may be changed.
            data: What to train on: a loader, or a pair of arrays.
            compute_loss: The loss of a model on a batch, or ``None``.
            scheduler: The attached scheduler; it may be rebased.
            total_steps: The optimizer steps that are left.
            per_step: The steps of the scheduler for each of the optimizer; see :func:`schedule_left`.
            defaults: Options that hold where the user has given none, such as how the framework trains; those that the
                tool does not have are left out.
            within: The context of the tuning, one in which the framework is silent, say; it is left before the rate is
                set and logged.
            replicas: How many processes take batches for a step, each as many as are accumulated in one.
            speaks: Whether this process logs and warns.

        Returns:
            The suggestion, which is the last one of ``suggestions`` too; ``None`` where a later run has none.

        Raises:
            TypeError: As :func:`autolr.find_lr` or :meth:`AutoLRTuner.tune`.
            ValueError: As these, and if only some groups are tuned where a scheduler moves all of them.
            NoCandidateError: If no rate qualifies, and nothing was suggested before.
        """
        given = {name: value for name, value in (defaults or {}).items() if self.tool == "find_lr" or name in _OF_TUNER}
        options = {"compute_loss": compute_loss, **given, **self.options}
        tuned = check_groups(optimizer, options.get("groups"))
        if scheduler is not None and self.apply and tuned is not None and len(tuned) < len(optimizer.param_groups):
            of_all = "be left out where a scheduler is attached, which moves all groups, and apply=True"
            raise ValueError(invalid("groups", of_all, options["groups"]))
        if self.tool == "find_lr":
            if total_steps is not None:
                options.setdefault("total_steps", total_steps)
            if scheduler is not None and "schedule" not in options:
                options |= schedule_left(scheduler, options.get("total_steps"), per_step=per_step)
        if replicas > 1:
            micro_batches = check_integer("accumulation_steps", options.get("accumulation_steps", 1), minimum=1)
            options["accumulation_steps"] = micro_batches * replicas
        with speaking(speaks):
            try:
                with nullcontext() if within is None else within:
                    suggestion = self._tuned(model, loss_fn, optimizer, data, options)
            except NoCandidateError as error:
                if not self.suggestions:
                    raise
                # a training of hours is not ended for want of an advice
                rate = rate_in_use(optimizer, options.get("groups"), scheduler=scheduler)
                logger.warning("The learning rate is left at %.3g. %s", rate, error)
                return None
            self._apply(suggestion, optimizer, scheduler)
        self.suggestions.append(suggestion)
        if self.log is not None and speaks:
            self.log(suggestion)
        return suggestion

    def _tuned(
        self, model: torch.nn.Module, loss_fn: Any, optimizer: torch.optim.Optimizer, data: Any, options: dict[str, Any]
    ) -> Suggestion:
        if self.tool == "find_lr":
            return find_lr(model, loss_fn, optimizer, data, **options)
        method = options.pop("method", "mean")
        own = {name: options.pop(name) for name in ("compute_loss", *_OF_TUNER) if name in options}
        tuner = AutoLRTuner(model, loss_fn, optimizer, **own)
        given = data if isinstance(data, tuple) else (data,)
        return tuner.tune(*given, **options).suggest(method)

    def _apply(self, suggestion: Suggestion, optimizer: torch.optim.Optimizer, scheduler: LRScheduler | None) -> None:
        rate = rate_in_use(optimizer, suggestion.evidence.settings.get("groups"), scheduler=scheduler)
        if suggestion.doubt is not None:
            logger.warning("The learning rate is left at %.3g. %s", rate, suggestion)
        elif not self.apply or is_as_good(suggestion, rate):
            logger.info("The learning rate is left at %.3g. %s", rate, suggestion)
        else:
            suggestion.apply(optimizer, scheduler)
            logger.info("The learning rate is set from %.3g to %.3g. %s", rate, suggestion.learning_rate, suggestion)


def rate_in_use(optimizer: torch.optim.Optimizer, groups: Any = None, *, scheduler: LRScheduler | None = None) -> float:
    """Return the rate of the first group that is tuned, as a suggestion states it.

    With a scheduler it is the one from which the schedule is computed (of a cycle, its peak); without one, the group's
    ``initial_lr``, which an earlier scheduler has left there, or else its ``lr``.

    Args:
        optimizer: The optimizer; it is only read.
        groups: The groups that are tuned; ``None``: all.
        scheduler: The attached scheduler of all groups, or ``None``.
    """
    if scheduler is not None:
        return base_rate(scheduler)
    tuned = check_groups(optimizer, groups)
    first = tuned[0] if tuned else 0
    own = optimizer.param_groups[first].get("initial_lr")
    return base_learning_rates(optimizer, tuned)[first] if own is None else float(own)


def is_as_good(suggestion: Suggestion, learning_rate: float) -> bool:
    """Return whether a rate is among those that a suggestion cannot tell from the best."""
    if suggestion.method == "search":
        return suggestion.low <= learning_rate <= suggestion.high
    best = (*suggestion.best_set, suggestion.learning_rate)
    return min(best) <= learning_rate <= max(best)


@contextmanager
def speaking(speaks: bool) -> Iterator[None]:
    """Let the library log and all code warn within the block, or not: of several processes, the first one speaks."""
    if speaks:
        yield
        return
    disabled = logger.disabled
    try:
        logger.disabled = True
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.disabled = disabled


@contextmanager
def training_mode(*modules: torch.nn.Module) -> Iterator[None]:
    """Switch modules to training mode, and each part back to its own mode on every way out.

    For frameworks that switch in each of their steps: what was validated before a hook is still in evaluation mode.
    """
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.train()
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def schedule_left(
    scheduler: Any,
    total_steps: int | None,
    *,
    per_step: Fraction | int = 1,
    step: Callable[[Any], object] | None = None,
    first: int = 0,
    base: float | None = None,
) -> dict[str, Any]:
    """Return the options ``schedule`` and ``schedule_options`` of ``find_lr`` for what is left of a schedule.

    A copy of the scheduler, on an optimizer of its own, is stepped ahead; the scheduler itself is only read, and random
    generators end as they began. A schedule that cannot be copied and stepped, that ends at 0 everywhere, or whose
    steps left are not known counts as constant; one that depends on the losses stays at its present height.

    Args:
        scheduler: An attached scheduler.
        total_steps: The optimizer steps that are left.
        per_step: The steps of the scheduler for each of the optimizer: ``Fraction(1, 50)`` for one in 50.
        step: Steps the copy; by default by its method ``step``.
        first: The steps of the scheduler that come before the optimizer's next one.
        base: What its rates are shares of; by default what :func:`rate_in_use` says.

    Returns:
        The options; none where the schedule counts as constant.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        >>> factor = schedule_left(scheduler, 4, per_step=Fraction(1, 2))["schedule_options"]["lr_lambda"]
        >>> [factor(step) for step in range(4)]
        [1.0, 1.0, 0.5, 0.5]
    """
    optimizer = scheduler.optimizer
    if base is None:
        base = rate_in_use(optimizer, scheduler=scheduler if isinstance(scheduler, LRScheduler) else None)
    if isinstance(scheduler, ReduceLROnPlateau):
        height = float(optimizer.param_groups[0]["lr"]) / base
        return {"schedule": "plateau"} if height == 1.0 else _by_factors([height])
    if total_steps is None:
        return {}
    try:
        rates = _rates_ahead(scheduler, first + int((total_steps - 1) * per_step), step)
    except Exception as error:  # noqa: BLE001 (a scheduler of anybody's)
        logger.info("The schedule of %s counts as constant: %s", type(scheduler).__name__, error)
        return {}
    factors = [rates[first + int(number * per_step)] / base for number in range(total_steps)]
    if not (all(math.isfinite(factor) and factor >= 0.0 for factor in factors) and max(factors) > 0.0):
        logger.info("The schedule of %s counts as constant: it has no rates above 0.", type(scheduler).__name__)
        return {}
    return _by_factors(factors)


def _rates_ahead(scheduler: Any, num_steps: int, step: Callable[[Any], object] | None) -> list[float]:
    """Return the first group's rate after 0, 1, ..., ``num_steps`` steps of a copy of the scheduler."""
    optimizer = scheduler.optimizer
    groups = [{**group, "params": [torch.zeros(1)]} for group in optimizer.param_groups]
    ahead = torch.optim.SGD([{"params": group["params"]} for group in groups], lr=1.0)
    for own, group in zip(ahead.param_groups, groups, strict=True):
        own.update(copy.deepcopy(group))
    own = ahead.param_groups[0]
    owners = held_modules(scheduler, *getattr(scheduler, "_schedulers", ()))  # of methods that make the factors
    with preserved_state(*data_generators(scheduler), *owners), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimizer step comes before
        copied = copy.deepcopy(scheduler, {id(optimizer): ahead, **{id(owner): owner for owner in owners}})
        rates = [float(own["lr"])]
        for _ in range(num_steps):
            copied.step() if step is None else step(copied)
            rates.append(float(own["lr"]))
    return rates


def _by_factors(factors: list[float]) -> dict[str, Any]:
    """Return the options of a schedule that is given by its factors."""
    return {"schedule": "lambda", "schedule_options": {"lr_lambda": _Factors(factors)}}


class _Factors:
    """A schedule that is given by its factors, of which the last one goes on."""

    def __init__(self, factors: list[float]) -> None:
        self._factors = factors

    def __call__(self, step: int) -> float:
        return self._factors[min(step, len(self._factors) - 1)]

    def __repr__(self) -> str:
        """Return what is the same in all processes, and short."""
        return f"{len(self._factors)} factors of mean {math.fsum(self._factors) / len(self._factors)!r}"

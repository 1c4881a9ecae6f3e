"""What all hooks do: tune when it is time, and set the rate only where the one in use is not among the best."""

import copy
import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from autolr._validation import check_flag, check_integer, check_option, invalid
from autolr.param_groups import base_learning_rates, check_groups
from autolr.search import find_lr
from autolr.suggestion import Suggestion
from autolr.tuner import AutoLRTuner

logger = logging.getLogger("autolr")

Tool: TypeAlias = Literal["find_lr", "tune"]
Log: TypeAlias = Callable[[Suggestion], object]

# what the tuner takes when it is made, and not when it tunes
_OF_TUNER = ("device", "rng", "autocast", "scaler", "accumulation_steps", "clip", "groups")


class Hook:
    """Tunes at the start of a training and, if asked, again at some epochs.

    Tuning leaves everything as it was. The rate is then set, and an attached scheduler rebased, only where ``apply`` is
    true, the suggestion has no doubt, and the rate in use lies outside of the rates that are as good: for
    ``"find_lr"``, its interval; for ``"tune"``, the span of the set of best rates. The rate in use is the one from
    which an attached scheduler starts (``initial_lr``), else the optimizer's.

    Args:
        tool: ``"find_lr"``, the rate for the whole run (or what is left of it), or ``"tune"``, the best single step.
        apply: Whether a rate is set; ``False``: only suggested.
        every_n_epochs: After how many epochs it is tuned again; ``None``: at the start only.
        log: Called with each suggestion, after the rate was set or not; ``None``: nothing is logged.
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
        self.suggestions: list[Suggestion] = []

    @property
    def suggestion(self) -> Suggestion | None:
        """The last suggestion; ``None`` before the first one."""
        return self.suggestions[-1] if self.suggestions else None

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
        defaults: Mapping[str, Any] | None = None,
    ) -> Suggestion:
        """Tune, and set the rate where it has to be set.

        Args:
            model: The model.
            loss_fn: The loss of an output and a target, or ``None``.
            optimizer: The optimizer; its rate may be changed.
            data: What to train on: a loader, or a pair of arrays.
            compute_loss: The loss of a model on a batch, or ``None``.
            scheduler: The scheduler that is stepped with the optimizer; it may be rebased.
            total_steps: The optimizer steps that are left.
            defaults: Options that hold where the user has given none, such as how the framework trains.

        Returns:
            The suggestion, which is the last one of ``suggestions`` too.
        """
        options = {"compute_loss": compute_loss, **(defaults or {}), **self.options}
        if self.tool == "find_lr":
            if total_steps is not None:
                options.setdefault("total_steps", total_steps)
            if scheduler is not None and "schedule" not in options:
                options |= schedule_left(scheduler, options.get("total_steps"))
            suggestion = find_lr(model, loss_fn, optimizer, data, **options)
        else:
            method = options.pop("method", "mean")
            own = {name: options.pop(name) for name in ("compute_loss", *_OF_TUNER) if name in options}
            tuner = AutoLRTuner(model, loss_fn, optimizer, **own)
            given = data if isinstance(data, tuple) else (data,)
            suggestion = tuner.tune(*given, **options).suggest(method)
        self._apply(suggestion, optimizer, scheduler)
        self.suggestions.append(suggestion)
        if self.log is not None:
            self.log(suggestion)
        return suggestion

    def _apply(self, suggestion: Suggestion, optimizer: torch.optim.Optimizer, scheduler: LRScheduler | None) -> None:
        rate = rate_in_use(optimizer, suggestion.evidence.settings.get("groups"))
        if suggestion.doubt is not None:
            logger.warning("The learning rate is left at %.3g. %s", rate, suggestion)
        elif not self.apply or is_as_good(suggestion, rate):
            logger.info("The learning rate is left at %.3g. %s", rate, suggestion)
        else:
            suggestion.apply(optimizer, scheduler)
            logger.info("The learning rate is set from %.3g to %.3g. %s", rate, suggestion.learning_rate, suggestion)


def rate_in_use(optimizer: torch.optim.Optimizer, groups: Any = None) -> float:
    """Return the rate of the first group that is tuned: ``initial_lr``, from which a scheduler starts, else ``lr``."""
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


def schedule_left(scheduler: LRScheduler, total_steps: int | None) -> dict[str, Any]:
    """Return the options ``schedule`` and ``schedule_options`` of ``find_lr`` for what is left of a schedule.

    A copy of the scheduler, on an optimizer of its own, is stepped ahead; the scheduler itself is only read.
    One that depends on the losses, that cannot be copied, or whose steps left are not known counts as constant.

    Args:
        scheduler: An attached scheduler that is stepped after each optimizer step.
        total_steps: The steps that are left.

    Returns:
        The options; none where the schedule counts as constant.
    """
    if total_steps is None or isinstance(scheduler, ReduceLROnPlateau):
        return {}
    groups = [{**group, "params": [torch.zeros(1)]} for group in scheduler.optimizer.param_groups]
    ahead = torch.optim.SGD([{"params": group["params"]} for group in groups], lr=1.0)
    for own, group in zip(ahead.param_groups, groups, strict=True):
        own.update(copy.deepcopy(group))
    base = rate_in_use(scheduler.optimizer)
    factors = []
    try:
        stepped = copy.deepcopy(scheduler, {id(scheduler.optimizer): ahead})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no optimizer step comes before
            for _ in range(total_steps):
                factors.append(float(ahead.param_groups[0]["lr"]) / base)
                stepped.step()
    except Exception as error:  # noqa: BLE001 (a scheduler of anybody's)
        if len(factors) < total_steps:
            logger.info("The schedule of %s counts as constant: %s", type(scheduler).__name__, error)
            return {}
    last = total_steps - 1
    return {"schedule": "lambda", "schedule_options": {"lr_lambda": lambda step: factors[min(step, last)]}}

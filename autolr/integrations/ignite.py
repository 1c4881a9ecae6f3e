"""Ignite: a handler that chooses the learning rate where a trainer starts."""

from fractions import Fraction
from functools import partial
from typing import Any, Literal, Self, TypeAlias

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from autolr._typing import ComputeLoss, LossFunction
from autolr._validation import check_option, invalid
from autolr.integrations._hook import Hook, Log, Tool, rate_in_use, schedule_left, training_mode
from autolr.suggestion import Suggestion

try:
    from ignite.engine import Engine, Events, State
    from ignite.handlers import param_scheduler
except ImportError as error:
    raise ImportError("autolr.integrations.ignite needs Ignite: pip install autolr[ignite]") from error

StepEvery: TypeAlias = Literal["iteration", "epoch"]


class AutoLRHandler:
    """Tunes the learning rate where a trainer starts and, if asked, again before later epochs.

    Ignite leaves the training step to the user, so that all it is made of is told here: model, optimizer, data, loss,
    and, as options, ``accumulation_steps``, ``clip``, ``autocast`` and ``scaler``. Losses are measured with the model
    in training mode, as Ignite's own training steps have it. The length of the run is that of the trainer's state, or
    what is left of it.

    Tuning changes nothing: a training whose rate is left alone is bit for bit the one without the handler.

    Args:
        model: The model.
        optimizer: Its optimizer.
        data: What to train on, in a form that :func:`autolr.find_lr` takes: as a rule the loader of ``trainer.run``.
        loss_fn: ``loss_fn(output, target) -> scalar tensor``, or ``None``.
        compute_loss: ``compute_loss(model, batch) -> scalar tensor`` instead.
        tool: ``"find_lr"``, the rate for the whole run, or ``"tune"``, the best single step.
        apply: Whether the rate is set, where the one in use is not among those that are as good; ``False``: it is only
            suggested.
        every_n_epochs: After how many epochs it is tuned again; ``None``: at the start only.
        log: Called with each suggestion (``print`` will do); ``None``: nothing is logged.
        **options: Those of :func:`autolr.find_lr`; or of :class:`autolr.AutoLRTuner` and its ``tune``, and ``method``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of its range.
        NoCandidateError: When training begins: if no rate qualifies, as each one diverges. Where it is tuned again, the
            rate is left, with a warning.

    Example:
        >>> from ignite.engine import create_supervised_trainer
        >>> X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        >>> model, loss_fn = torch.nn.Linear(4, 1), torch.nn.MSELoss()
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=1e-7)
        >>> data = torch.utils.data.DataLoader(list(zip(X, X.sum(1, keepdim=True))), batch_size=8, shuffle=True)
        >>> trainer = create_supervised_trainer(model, optimizer, loss_fn)
        >>> handler = AutoLRHandler(model, optimizer, data, loss_fn=loss_fn, effort="fast", rng=0).attach(trainer)
        >>> state = trainer.run(data, max_epochs=25)
        >>> optimizer.param_groups[0]["lr"] == handler.suggestion.learning_rate > 1e-3
        True
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        data: Any,
        *,
        loss_fn: LossFunction | None = None,
        compute_loss: ComputeLoss | None = None,
        tool: Tool = "find_lr",
        apply: bool = True,
        every_n_epochs: int | None = None,
        log: Log | None = None,
        **options: Any,
    ) -> None:
        self._model, self._optimizer, self._data = model, optimizer, data
        self._loss_fn, self._compute_loss = loss_fn, compute_loss
        self._tuned_at: int | None = None
        self._hook = Hook(tool=tool, apply=apply, every_n_epochs=every_n_epochs, log=log, options=options)

    @property
    def suggestion(self) -> Suggestion | None:
        """The last suggestion; ``None`` before the first one."""
        return self._hook.suggestion

    @property
    def suggestions(self) -> list[Suggestion]:
        """What was suggested, one a run."""
        return self._hook.suggestions

    def attach(self, trainer: Engine, scheduler: Any = None, *, step_every: StepEvery = "iteration") -> Self:
        """Tune when the trainer starts or goes on, and after every ``every_n_epochs`` epochs that another one follows.

        Args:
            trainer: The trainer.
            scheduler: The optimizer's scheduler, which is rebased: torch's, or Ignite's ``LRScheduler`` and
                ``ReduceLROnPlateauScheduler``, which wrap it. (One of Ignite's that is attached to
                ``Events.EPOCH_STARTED`` comes after this handler.)
            step_every: What the scheduler is stepped with.

        Returns:
            The handler.

        Raises:
            TypeError: If the scheduler is another one: Ignite's own set rates that nothing scales.
            ValueError: If ``step_every`` is none of the options.
        """
        check_option("step_every", step_every, StepEvery)
        tune = partial(self._tune, scheduler=scheduler, inner=_torch_scheduler(scheduler), step_every=step_every)
        trainer.add_event_handler(Events.STARTED, tune)
        if self._hook.every_n_epochs is not None:
            # NOTE: before an epoch, not behind one: the schedulers and evaluators behind it have then had their turn.
            trainer.add_event_handler(Events.EPOCH_STARTED(event_filter=self._is_due), tune)
        return self

    def _is_due(self, trainer: Engine, epoch: int) -> bool:
        return trainer.state.iteration != self._tuned_at and self._hook.is_due(epoch - 1)

    def _tune(self, trainer: Engine, *, scheduler: Any, inner: LRScheduler | None, step_every: StepEvery) -> None:
        state = trainer.state
        self._tuned_at = state.iteration
        micro_batches = self._hook.accumulation_steps
        batches_left = _batches_left(state)
        total_steps = None if batches_left is None else max(1, batches_left // micro_batches)
        per_step: Fraction | int = micro_batches
        if step_every == "epoch":
            per_step = Fraction(micro_batches, state.epoch_length or 1)
        defaults: dict[str, Any] = {}
        if isinstance(scheduler, param_scheduler.LRScheduler):
            # it sets the rate when it is called, before the step, and counts on
            steps = self._hook.options.get("total_steps", total_steps)
            base = rate_in_use(self._optimizer, scheduler=inner)
            defaults = schedule_left(scheduler, steps, per_step=per_step, step=_call, first=1, base=base)
            defaults = defaults or {"schedule": "constant"}
        elif state.epoch_length is None and step_every == "epoch" and not isinstance(inner, ReduceLROnPlateau):
            defaults = {"schedule": "constant"}  # how many steps an epoch has is not known
        with training_mode(self._model):
            self._hook.run(
                self._model,
                self._loss_fn,
                self._optimizer,
                self._data,
                compute_loss=self._compute_loss,
                scheduler=inner,
                total_steps=total_steps,
                per_step=per_step,
                defaults=defaults,
            )


def _torch_scheduler(scheduler: Any) -> LRScheduler | None:
    """Return the scheduler of torch's that this is, or that it wraps."""
    inner = scheduler
    if isinstance(scheduler, param_scheduler.ReduceLROnPlateauScheduler):
        inner = scheduler.scheduler
    elif isinstance(scheduler, param_scheduler.LRScheduler):
        inner = scheduler.lr_scheduler
        inner = getattr(inner, "_lr_scheduler", inner)  # Ignite wraps CosineAnnealingWarmRestarts twice
    if inner is not None and not isinstance(inner, LRScheduler):
        of_torch = "be a torch.optim.lr_scheduler.LRScheduler, one of Ignite's that wraps it, or None"
        raise TypeError(invalid("scheduler", of_torch, scheduler))
    return inner


def _batches_left(state: State) -> int | None:
    """Return how many batches a run still takes, or ``None`` where it is not known."""
    if state.max_iters is not None:
        return state.max_iters - state.iteration
    if state.max_epochs is None or state.epoch_length is None:
        return None
    return state.max_epochs * state.epoch_length - state.iteration


def _call(scheduler: Any) -> None:
    scheduler(None)

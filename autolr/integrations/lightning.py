"""Lightning: a callback that chooses the learning rate when a ``Trainer`` begins to train."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from functools import partial
from itertools import islice
from typing import Any, Literal, NamedTuple

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import ChainedScheduler, LRScheduler

from autolr._typing import Batch
from autolr._validation import invalid
from autolr.data import from_start
from autolr.integrations._hook import Hook, Log, Tool, logger
from autolr.integrations._loaders import own_loader, whole
from autolr.ranks import are_several
from autolr.suggestion import Suggestion
from autolr.training import awaits_first_step

try:
    from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.loggers.logger import DummyLogger
    from lightning.pytorch.plugins import MixedPrecision
    from lightning.pytorch.strategies import ModelParallelStrategy
    from lightning.pytorch.utilities.model_helpers import is_overridden
    from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
    from torchmetrics import Metric
except ImportError as error:
    raise ImportError("autolr.integrations.lightning needs Lightning: pip install autolr[lightning]") from error

_SPEAKS = ("log", "log_dict", "print")  # methods of a module that leave something outside of it
_TALKS = ("all_gather", "reduce", "reduce_boolean_decision", "broadcast", "barrier")  # of a strategy, to other ranks


class AutoLRCallback(Callback):
    """Tunes the learning rate before the first batch of a training and, if asked, again at some epochs.

    Tuning trains nothing: weights, buffers, optimizer, schedulers, metrics, counters and lists in the module, loaders
    and random states are bit for bit as they were. The rate is set, and the scheduler rebased, only where it can be
    told and the one in use is not among the best; training goes on as without the callback where it is.

    A probe takes the step of the trainer: loss by the strategy's ``training_step`` in the trainer's precision,
    ``accumulate_grad_batches``, clipping by ``configure_gradient_clipping``, batches by the trainer's loaders and the
    hooks that move a batch. By then the module's ``on_train_start`` and ``on_train_epoch_start`` have been called. The
    hooks around each step (``on_train_batch_start``, ``backward``, ``on_before_optimizer_step``, ``optimizer_step`` and
    their kin) are not called; ``batch_idx`` is the batch's place in the loader.

    In probes, ``self.log``, ``self.log_dict`` and ``self.print`` do nothing, and loggers are dummies. What a module
    writes by other ways (``print``, a file, ``wandb.log``) is written. What is not put back is said in
    :func:`autolr.find_lr`: the attributes of datasets and data modules, for example.

    Several processes (the strategy ``"ddp"``; with ``static_graph=True``, after the first step) tune together, and set
    the same rate. A step has the batches of all of them, each by itself, shuffled in an order of the tuning's own where
    the loader shuffles; what a step gathers (``self.all_gather``) is the process's own, as where there is one. Only the
    first process logs and warns.

    The length of the run is what epochs or steps leave of it, with the accumulation of the present epoch. A scheduler
    counts as it is stepped, by step or by epoch, ``frequency`` included; an epoch scheduler whose epochs have no known
    length, a plateau scheduler, and several schedulers with different paces count as constant. Several schedulers are
    rebased together. Nothing is put into checkpoints; a training that is resumed is tuned when it goes on. In a
    ``fast_dev_run`` nothing is tuned, nor in an epoch without optimizer steps (the last one of weight averaging).

    Args:
        tool: ``"find_lr"``, the rate for what is left of the run, or ``"tune"``, the best single step.
        apply: Whether a rate is set; ``False``: only suggested.
        every_n_epochs: After how many epochs it is tuned again; ``None``: at the start only.
        log: A function that is called with each suggestion, or ``True``: the trainer's loggers get
            ``autolr/learning_rate``, ``autolr/low``, ``autolr/high`` and, where they take figures (TensorBoard, those
            with ``log_image``), the picture. ``None``: nothing is logged.
        **options: Of :func:`autolr.find_lr`; or of :class:`autolr.AutoLRTuner` and its ``tune``, and ``method``. They
            come before what is read off the trainer; a ``compute_loss`` among them is given the loaders' batches.

    Raises:
        TypeError: If an argument has the wrong type. When training begins: if a scheduler that is no
            ``torch.optim.lr_scheduler.LRScheduler`` would have to be rebased, or ``training_step`` returns no loss.
        ValueError: If an argument is out of its range. When training begins: if optimization is manual, there is no
            optimizer, ``training_step`` takes its batches itself, or they can be read once only; of several processes,
            if the strategy is another one, or what all of the data is cannot be seen.
        NoCandidateError: When training begins: if no rate qualifies, as each one diverges. Where it is tuned again, the
            rate is left, with a warning.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from autolr.integrations.lightning import AutoLRCallback
        >>> callback = AutoLRCallback(every_n_epochs=5, effort="fast", rng=0)
        >>> callback.suggestion is None, callback.state_dict()
        (True, {})
    """

    def __init__(
        self,
        *,
        tool: Tool = "find_lr",
        apply: bool = True,
        every_n_epochs: int | None = None,
        log: Log | Literal[True] | None = None,
        **options: Any,
    ) -> None:
        self._by_loggers = log is True
        self._hook = Hook(
            tool=tool,
            apply=apply,
            every_n_epochs=every_n_epochs,
            log=None if log is True else log,
            options=options,
        )
        self._begun = 0
        self._tuned: int | None = None

    @property
    def suggestion(self) -> Suggestion | None:
        """The last suggestion; ``None`` before the first one."""
        return self._hook.suggestion

    @property
    def suggestions(self) -> list[Suggestion]:
        """What was suggested, one a run."""
        return self._hook.suggestions

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note where training begins or goes on; refuse what cannot be tuned."""
        self._begun, self._tuned = trainer.current_epoch, None
        _check_trainer(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ARG002 (batch)
        """Tune before the first batch of an epoch for which it is time."""
        epoch = trainer.current_epoch
        if epoch == self._tuned or not self._hook.is_due(epoch - self._begun) or awaits_first_step(trainer.model):
            return
        self._tuned = epoch
        # the first is set by a function of Lightning's own, the second in an epoch that only averages
        if trainer.fast_dev_run or trainer.fit_loop._skip_backward:  # type: ignore[attr-defined]
            logger.info("Nothing is tuned in a fast_dev_run, or in an epoch without optimizer steps.")
            return
        scheduler, per_step = _schedule(trainer, apply=self._hook.apply)
        suggestion = self._hook.run(
            pl_module,
            None,
            trainer.optimizers[0],
            _Batches(trainer, pl_module, numbered="compute_loss" not in self._hook.options),
            compute_loss=_Loss(trainer, pl_module),
            scheduler=scheduler,
            total_steps=_steps_left(trainer, batch_idx),
            per_step=per_step,
            defaults=_way_of_training(trainer, pl_module),
            within=_silence(trainer, pl_module),
            replicas=_replicas(trainer),
            speaks=trainer.is_global_zero,
        )
        if self._by_loggers and suggestion is not None and trainer.is_global_zero:
            _log(trainer, suggestion)


class _Numbered(NamedTuple):
    """A batch of the trainer's, and its place in the loader."""

    batch: Batch
    number: int


class _Loss:
    """The loss of the trainer's step on one of its batches, or on one of other data, which counts as a first one."""

    def __init__(self, trainer: Trainer, module: LightningModule) -> None:
        self._strategy = trainer.strategy
        self._training_step = module.training_step  # seen here, what it names is looked through for random generators
        self._takes_number = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
        self._prepare = _preparing(trainer, module)

    def __call__(self, _: torch.nn.Module, given: Batch) -> torch.Tensor:
        batch, number = given if isinstance(given, _Numbered) else (self._prepare(given), 0)
        batch = self._strategy.batch_to_device(batch)
        output = self._strategy.training_step(*((batch, number) if self._takes_number else (batch,)))
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if not isinstance(loss, torch.Tensor):
            raise TypeError(invalid("training_step", "return a loss, or a mapping with one under 'loss'", output))
        return loss.reshape(()) if loss.numel() == 1 else loss  # as backward() takes it


class _Batches:
    """The trainer's batches, with their numbers or without, from a start of their own, not yet moved to the device.

    The loaders are copies, so that an epoch that is running goes on undisturbed.
    """

    def __init__(self, trainer: Trainer, module: LightningModule, *, numbered: bool) -> None:
        combined: Any = trainer.fit_loop._combined_loader
        once = next((loader for loader in combined.flattened if isinstance(loader, Iterator)), None)
        if once is not None:
            raise ValueError(invalid("train_dataloader", "hold batches that can be read again, for the probes", once))
        self._combined, self._replicas = combined, _replicas(trainer)
        of_rank = trainer.num_training_batches
        self._most = int(of_rank) * self._replicas if math.isfinite(of_rank) else None
        self._prepare, self._numbered = _preparing(trainer, module), numbered

    def __iter__(self) -> Iterator[Batch]:
        own = copy.copy(self._combined)
        of_all = partial(own_loader, name="train_dataloader") if are_several() else from_start
        own.flattened = [of_all(loader) for loader in own.flattened]
        for batch, number, _ in islice(own, self._most):
            prepared = self._prepare(batch)
            yield _Numbered(prepared, number // self._replicas) if self._numbered else prepared


def _preparing(trainer: Trainer, module: LightningModule) -> Callable[[Batch], Batch]:
    """Return what the trainer does to a batch before it is moved to the device."""
    convert, prepare = trainer.precision_plugin.convert_input, module._on_before_batch_transfer
    return lambda batch: prepare(convert(batch), dataloader_idx=0)


def _check_trainer(trainer: Trainer, module: LightningModule) -> None:
    """Raise unless the trainer's step is known and can be taken here."""
    strategy = trainer.strategy
    model = getattr(strategy.model, "_orig_mod", strategy.model)  # of torch.compile
    is_known = isinstance(model, DistributedDataParallel) or isinstance(strategy, ModelParallelStrategy)
    if trainer.world_size > 1 and not is_known:
        known = "be 'ddp', or a ModelParallelStrategy with fully_shard, where there are several processes"
        raise ValueError(invalid("strategy", known, type(strategy).__name__))
    if not module.automatic_optimization:
        raise ValueError(
            "`model` must optimize automatically for AutoLRCallback, got automatic_optimization=False: call"
            " autolr.find_lr or AutoLRTuner, with compute_loss, for each optimizer."
        )
    if not trainer.optimizers or not trainer.optimizers[0].param_groups:
        raise ValueError(invalid("configure_optimizers", "return an optimizer", None))
    if is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True):
        raise ValueError(invalid("training_step", "take a batch", "dataloader_iter"))


@whole.register
def _(part: DistributedSamplerWrapper, name: str) -> Any:
    wrapped: Any = part.dataset
    return whole(wrapped._sampler, name)


def _replicas(trainer: Trainer) -> int:
    """Return how many processes take batches of their own for a step."""
    return trainer.distributed_sampler_kwargs["num_replicas"] if are_several() else 1  # type: ignore[index]


def _way_of_training(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Return how the trainer takes a step, as options of the tuner and the search."""
    way: dict[str, Any] = {"accumulation_steps": trainer.accumulate_grad_batches}
    plugin = trainer.precision_plugin
    if isinstance(plugin, MixedPrecision):
        way |= {"autocast": plugin.autocast_context_manager, "scaler": plugin.scaler}
    if trainer.gradient_clip_val is not None or is_overridden("configure_gradient_clipping", module):

        def clip(_: object) -> None:
            module.configure_gradient_clipping(
                trainer.optimizers[0],
                gradient_clip_val=trainer.gradient_clip_val,
                gradient_clip_algorithm=trainer.gradient_clip_algorithm,
            )

        way["clip"] = clip
    return way


def _steps_left(trainer: Trainer, batch_idx: int) -> int | None:
    """Return how many optimizer steps are left before a batch, or ``None`` where nothing limits them.

    This is the trainer's own estimate, made afresh: of what is left, and with the accumulation of this epoch.
    """
    of_epoch, accumulated = trainer.num_training_batches, trainer.accumulate_grad_batches
    limits = []
    if trainer.max_epochs is not None and trainer.max_epochs >= 0 and math.isfinite(of_epoch):
        whole = trainer.max_epochs - trainer.current_epoch - 1
        limits.append(math.ceil((of_epoch - batch_idx) / accumulated) + math.ceil(of_epoch / accumulated) * whole)
    if trainer.max_steps >= 0:
        limits.append(trainer.max_steps - trainer.global_step)
    return max(1, min(limits)) if limits else None


def _schedule(trainer: Trainer, *, apply: bool) -> tuple[LRScheduler | None, Fraction]:
    """Return the scheduler, several as a chain, and its steps for each optimizer step; 0 where that is not known."""
    paces = set()
    schedulers = []
    for config in trainer.lr_scheduler_configs:
        scheduler: Any = config.scheduler
        if isinstance(scheduler, LRScheduler):
            schedulers.append(scheduler)
        elif apply:
            rebased = "be a torch.optim.lr_scheduler.LRScheduler, which can be rebased, where apply=True"
            raise TypeError(invalid("scheduler", rebased, scheduler))
        paces.add(_pace(trainer, config.interval, config.frequency))
    pace = paces.pop() if len(paces) == 1 else Fraction(0)
    if not schedulers:
        return None, pace
    return schedulers[0] if len(schedulers) == 1 else ChainedScheduler(schedulers), pace


def _pace(trainer: Trainer, interval: str, frequency: int) -> Fraction:
    """Return the steps of a scheduler for each optimizer step, that of every ``accumulate_grad_batches``-th batch."""
    accumulated, batches = trainer.accumulate_grad_batches, trainer.num_training_batches
    if interval == "step":
        return Fraction(math.gcd(frequency, accumulated), frequency)
    return Fraction(1, math.ceil(batches / accumulated) * frequency) if math.isfinite(batches) else Fraction(0)


@contextmanager
def _silence(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Let the module log and print nothing, and the trainer's loggers be dummies, within the block."""
    attributes, loggers = vars(module), trainer.loggers
    own = {name: attributes[name] for name in _SPEAKS if name in attributes}
    try:
        attributes.update(dict.fromkeys(_SPEAKS, _nothing))
        if loggers:
            trainer.loggers = [DummyLogger() for _ in loggers]
        with _by_itself(trainer.strategy, module) if are_several() else nullcontext():
            yield
    finally:
        if loggers:
            trainer.loggers = loggers
        for name in _SPEAKS:
            attributes.pop(name, None)
        attributes.update(own)


@contextmanager
def _by_itself(strategy: Any, module: LightningModule) -> Iterator[None]:
    """Let the step of a rank, and what is gathered and reduced in it, be its own within the block."""
    metrics = [part for part in module.modules() if isinstance(part, Metric)]
    objects = [strategy, *metrics]
    kept = [dict(vars(one)) for one in objects]
    try:
        vars(strategy).update(dict.fromkeys(_TALKS, _own), _model=module)
        for metric in metrics:
            metric.distributed_available_fn = _never
        yield
    finally:
        for one, attributes in zip(objects, kept, strict=True):
            for name in vars(one).keys() - attributes.keys():
                del vars(one)[name]
            vars(one).update(attributes)


def _never() -> bool:
    return False


def _nothing(*_: object, **__: object) -> None:
    """Do nothing."""


def _own(value: Any = None, *_: object, **__: object) -> Any:
    """Return what a process has of its own."""
    return value


def _log(trainer: Trainer, suggestion: Suggestion) -> None:
    """Write a suggestion into the trainer's loggers, and its picture where they take one."""
    from matplotlib.figure import Figure

    metrics = {f"autolr/{name}": float(getattr(suggestion, name)) for name in ("learning_rate", "low", "high")}
    step = trainer.global_step
    for own in trainer.loggers:
        own.log_metrics(metrics, step=step)
        target: Any = own
        takes_figure = hasattr(getattr(target, "experiment", None), "add_figure")
        if takes_figure or hasattr(target, "log_image"):
            figure = Figure(figsize=(9.0, 3.8), layout="constrained")
            suggestion.plot(figure.subplots(1, 2 if suggestion.method == "search" else 1))
            if takes_figure:
                target.experiment.add_figure("autolr", figure, step)
            else:
                target.log_image("autolr", [figure], step=step)
        own.save()

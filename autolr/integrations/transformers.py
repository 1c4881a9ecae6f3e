"""Transformers: a callback that chooses the learning rate of a ``Trainer`` when its training begins."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from autolr._typing import Batch
from autolr._validation import invalid
from autolr.batches import MicroBatches
from autolr.integrations._hook import Hook, Log, Tool, training_mode
from autolr.probing.state import preserved_state
from autolr.ranks import are_several
from autolr.suggestion import Suggestion

try:
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    from autolr.integrations.accelerate import as_one_process, check_processes, inner_optimizer, own_loader
except ImportError as error:
    needs = "autolr.integrations.transformers needs transformers and accelerate"
    raise ImportError(f"{needs}: pip install autolr[transformers]") from error

_HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}
_NOTES = (dict, list, set, deque)


class AutoLRCallback(TrainerCallback):
    """Tunes the learning rate at the start of a training and, if asked, again at some epochs.

    Tuning leaves everything as it was: a training after it is bit for bit the training without it, unless a rate is
    set. It is set, and the scheduler rebased (in its warm-up too), only where the rate in use is not among those that
    are as good, and the answer has no doubt. ``trainer.args.learning_rate`` stays what it was.

    Probes train as the trainer does: in training mode, with its mixed precision, ``gradient_accumulation_steps`` and
    ``max_grad_norm``, on batches of its loader (which is not itself iterated), for the steps and the schedule that are
    left. With the trainer given, the loss is ``trainer.compute_loss``, with all that this counts (label smoothing, the
    items of all micro-batches of a step); without, it is the one that the model's output carries. While it tunes, the
    trainer logs nothing, and the lists, sets and dicts that are its attributes, in which a ``compute_loss`` may note
    metrics, are put back.

    Several processes (DDP) tune together, and set the same rate. A step has the batches of all of them, as one process
    would take them: what a loss gathers by the trainer or its accelerator is the process's own. Only the first one logs
    and warns.

    Args:
        trainer: The trainer, or ``None``.
        tool: ``"find_lr"``, the rate for what is left of the run, or ``"tune"``, the best single step.
        apply: Whether a rate is set; ``False``: only suggested.
        every_n_epochs: After how many epochs it is tuned again; ``None``: at the start only.
        log: Called with each suggestion; ``True``: the trainer logs ``autolr/learning_rate``, ``autolr/low`` and
            ``autolr/high``; ``None``: nothing is logged.
        **options: Those of :func:`autolr.find_lr`; or of :class:`autolr.AutoLRTuner` and its ``tune``, and ``method``.
            With a ``compute_loss`` among them, batches are those of the loader, and the trainer's is not used; without,
            ``accumulation_steps`` are the trainer's.

    Attributes:
        suggestions: What was suggested, one a run.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of its range. When training begins, of several processes: if the model is
            split over them otherwise than by FSDP2, or what all of the data is cannot be seen.
        NoCandidateError: When training begins: if no rate qualifies, as each one diverges. Where it is tuned again, the
            rate is left, with a warning.

    Example:
        >>> import tempfile
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> words = [{"input_ids": [i % 7, 8], "labels": i % 2} for i in range(64)]
        >>> arguments = TrainingArguments(tempfile.mkdtemp(), max_steps=20, learning_rate=1e-7, use_cpu=True,
        ...     disable_tqdm=True, logging_strategy="no", save_strategy="no", report_to=[])
        >>> trainer = Trainer(BertForSequenceClassification(config), arguments, train_dataset=words)
        >>> callback = AutoLRCallback(trainer, effort="fast", rng=0)
        >>> trainer.add_callback(callback)
        >>> output = trainer.train()
        {'train_runtime': ...}
        >>> trainer.lr_scheduler.base_lrs[0] == callback.suggestion.learning_rate
        True
    """

    def __init__(
        self,
        trainer: Trainer | None = None,
        *,
        tool: Tool = "find_lr",
        apply: bool = True,
        every_n_epochs: int | None = None,
        log: Log | Literal[True] | None = None,
        **options: Any,
    ) -> None:
        if trainer is not None and not isinstance(trainer, Trainer):
            raise TypeError(invalid("trainer", "be a transformers.Trainer or None", trainer))
        if log is True:
            if trainer is None:
                raise ValueError(invalid("log", "be a function or None where no trainer is given", log))
            log = partial(_log, trainer)
        self._trainer = trainer
        self._loss_by = None if "compute_loss" in options else trainer
        if self._loss_by is not None and "accumulation_steps" in options:
            by_trainer = "be left out where the trainer's own gradient_accumulation_steps and loss count"
            raise ValueError(invalid("accumulation_steps", by_trainer, options["accumulation_steps"]))
        options |= {
            name: own_loader(options[name], name=name) for name in ("val_data", "evaluation") if name in options
        }
        self._hook = Hook(tool=tool, apply=apply, every_n_epochs=every_n_epochs, log=log, options=options)
        self._epoch = 0

    @property
    def suggestion(self) -> Suggestion | None:
        """The last suggestion; ``None`` before the first one."""
        return self._hook.suggestion

    @property
    def suggestions(self) -> list[Suggestion]:
        """What was suggested, one a run."""
        return self._hook.suggestions

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002 (the trainer gives it)
        **kwargs: Any,
    ) -> None:
        """Tune."""
        self._epoch = 0
        self._tune(args, state, **kwargs)

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002 (as above)
        **kwargs: Any,
    ) -> None:
        """Tune again where it is time; the first epoch begins with the training."""
        if self._epoch and self._hook.is_due(self._epoch):
            self._tune(args, state, **kwargs)
        self._epoch += 1

    def _tune(
        self,
        args: TrainingArguments,
        state: TrainerState,
        *,
        model: nn.Module,
        optimizer: Any,
        lr_scheduler: Any,
        train_dataloader: Any,
        **_: Any,
    ) -> None:
        total_steps = state.max_steps - state.global_step
        if total_steps < 1:  # of a run that is resumed at its end
            return
        check_processes(max(args.n_gpu, 1))
        if args.world_size > 1 and args.ddp_static_graph:
            raise ValueError(invalid("ddp_static_graph", "be False: its first backward has to be that of a step", True))
        defaults: dict[str, Any] = {"scaler": getattr(optimizer, "scaler", None)}
        if args.mixed_precision in _HALF:
            defaults["autocast"] = partial(torch.autocast, args.device.type, dtype=_HALF[args.mixed_precision])
        if args.max_grad_norm > 0.0:
            defaults["clip"] = partial(nn.utils.clip_grad_norm_, max_norm=args.max_grad_norm)
        data, compute_loss = own_loader(train_dataloader, name="train_dataloader"), None
        replicas = args.world_size
        if self._loss_by is None:
            defaults["accumulation_steps"] = args.gradient_accumulation_steps
        else:
            data, compute_loss = _Steps(self._loss_by, data, replicas), _loss_of(self._loss_by)
        self._hook.run(
            model,
            None,
            inner_optimizer(optimizer),
            data,
            compute_loss=compute_loss,
            scheduler=lr_scheduler if isinstance(lr_scheduler, LRScheduler) else None,
            total_steps=total_steps,
            defaults=defaults,
            within=_as_in_training(model, self._trainer),
            replicas=replicas if self._loss_by is None else 1,  # else in the data
            speaks=state.is_world_process_zero,
        )


class _Part(NamedTuple):
    """A micro-batch, with the items and the number of all micro-batches of its step."""

    batch: Batch
    num_items: Any
    num_parts: int


class _Steps:
    """What each optimizer step of a trainer takes, in all of its processes."""

    def __init__(self, trainer: Trainer, loader: Any, replicas: int) -> None:
        self._trainer, self._loader, self._replicas = trainer, loader, replicas

    def __iter__(self) -> Iterator[MicroBatches]:
        iterator, args = iter(self._loader), self._trainer.args
        # items are counted in all processes together, or in each one
        groups, size = self._replicas, args.gradient_accumulation_steps
        if args.average_tokens_across_devices:
            groups, size = 1, groups * size
        while parts := [part for _ in range(groups) for part in _parts(self._trainer, iterator, size)]:
            yield MicroBatches(parts)


def _parts(trainer: Trainer, batches: Iterator[Batch], number: int) -> list[_Part]:
    """Return the micro-batches of a step, as the trainer takes and counts them."""
    parts, num_items = trainer.get_batch_samples(batches, number, trainer.args.device)
    return [_Part(part, num_items, len(parts)) for part in parts]


def _loss_of(trainer: Trainer) -> Callable[[nn.Module, Batch], Any]:
    """Return the loss of a trainer on a micro-batch of :class:`_Steps`, of which the mean is the loss of a step.

    A batch of other data, such as held-out ones, is a step of its own.
    """
    # named here, so that the modules and generators that a subclass's methods hold are found
    prepare, context, compute = trainer._prepare_inputs, trainer.compute_loss_context_manager, trainer.compute_loss

    def compute_loss(model: nn.Module, batch: Batch) -> Any:
        [own] = [batch] if isinstance(batch, _Part) else _parts(trainer, iter([batch]), 1)
        with context():
            loss: Any = compute(model, prepare(own.batch), num_items_in_batch=own.num_items)
        is_share = trainer.loss_is_scaled_for_ga
        if is_share is None:
            counts_items = trainer.model_accepts_loss_kwargs and own.num_items is not None
            is_share = counts_items or trainer.compute_loss_func is not None
        # NOTE: the trainer adds shares up as they are, also where a model takes the number of items and ignores it
        return loss * own.num_parts if is_share else loss

    return compute_loss


@contextmanager
def _as_in_training(model: nn.Module, trainer: Trainer | None) -> Iterator[None]:
    """Have a model in training mode, and a trainer that logs and remembers nothing."""
    attributes = {} if trainer is None else dict(vars(trainer))
    notes = [value for name, value in attributes.items() if isinstance(value, _NOTES) and not name.endswith("_dataset")]
    with training_mode(model), preserved_state(*notes), as_one_process():
        try:
            if trainer is not None:
                vars(trainer)["log"] = _silent
                if are_several():
                    trainer.model_wrapped = model  # whose forward waits for no other process
            yield
        finally:
            if trainer is not None:
                vars(trainer).update(attributes)
                for name in vars(trainer).keys() - attributes.keys():
                    del vars(trainer)[name]


def _silent(*_: Any, **__: Any) -> None:
    pass


def _log(trainer: Trainer, suggestion: Suggestion) -> None:
    trainer.log(
        {
            "autolr/learning_rate": suggestion.learning_rate,
            "autolr/low": suggestion.low,
            "autolr/high": suggestion.high,
        }
    )

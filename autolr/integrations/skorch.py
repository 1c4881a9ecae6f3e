"""skorch: a callback that chooses the learning rate of a net where its training begins."""

from fractions import Fraction
from typing import Any

import torch

from autolr._typing import Batch
from autolr._validation import invalid
from autolr.integrations._hook import Hook, Log, Tool, rate_in_use, training_mode
from autolr.probing.held import data_generators
from autolr.probing.state import preserved_state
from autolr.suggestion import Suggestion

try:
    from skorch.callbacks import (  # type: ignore[import-untyped]
        Callback,
        GradientNormClipping,
        LRScheduler,
        WarmRestartLR,
    )
    from skorch.dataset import unpack_data  # type: ignore[import-untyped]
except ImportError as error:
    raise ImportError("autolr.integrations.skorch needs skorch: pip install autolr[skorch]") from error

_OWN = ("tool", "apply", "every_n_epochs", "log")


class AutoLRCallback(Callback):  # type: ignore[misc]  # skorch has no types
    """Tunes the learning rate before the first epoch of a training and, if asked, again before later ones.

    The loss is that of the net's own ``infer`` and ``get_loss``, the batches are those of its ``get_iterator`` on the
    training part of the data, and gradients are clipped as its ``GradientNormClipping`` does. The length of the run is
    ``max_epochs``, or what is left of it. An ``LRScheduler`` among the callbacks, in whatever order, is rebased.

    Tuning changes nothing: a training whose rate is left alone is bit for bit the one without the callback. Where a
    rate is set (see below), the net's ``lr`` (or ``optimizer__lr``, and the rates in ``optimizer__param_groups``)
    follows, so that an optimizer that ``set_params`` makes anew starts with it too; where only some ``groups`` are
    tuned, it does not.

    Not seen by a callback, and so not by the probes: an overridden ``train_step`` or ``train_step_single``, parameters
    of ``fit`` for the module's ``forward``, and another number of epochs than ``max_epochs`` (say ``total_steps``).
    Other optimizers of the net stand still. Nets with skorch's ``AccelerateMixin`` are refused.

    Args:
        tool: ``"find_lr"``, the rate for the whole run, or ``"tune"``, the best single step.
        apply: Whether the rate is set, where the one in use is not among those that are as good; ``False``: it is only
            suggested.
        every_n_epochs: After how many epochs it is tuned again; ``None``: at the start only.
        log: Called with each suggestion (``print`` will do); ``None``: nothing is logged.
        **options: Those of :func:`autolr.find_lr`; or of :class:`autolr.AutoLRTuner` and its ``tune``, and ``method``.
            They are parameters of the callback, as skorch's ``set_params`` knows them.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of its range.
        NoCandidateError: When training begins: if no rate qualifies, as each one diverges. Where it is tuned again, the
            rate is left, with a warning.

    Example:
        >>> from skorch import NeuralNetRegressor
        >>> X = torch.randn(320, 4, generator=torch.Generator().manual_seed(0))
        >>> callback = AutoLRCallback(effort="fast", rng=0)
        >>> net = NeuralNetRegressor(torch.nn.Linear(4, 1), lr=1e-7, max_epochs=25, verbose=0, callbacks=[callback])
        >>> net = net.fit(X, X.sum(1, keepdim=True))
        >>> net.lr == callback.suggestion.learning_rate > 1e-3
        True
    """

    def __init__(
        self,
        *,
        tool: Tool = "find_lr",
        apply: bool = True,
        every_n_epochs: int | None = None,
        log: Log | None = None,
        **options: Any,
    ) -> None:
        # as scikit-learn clones: every parameter an attribute of its name, as it was given
        self.tool: Tool = tool
        self.apply = apply
        self.every_n_epochs = every_n_epochs
        self.log = log
        self.__dict__.update(options)
        self.initialize()

    def initialize(self) -> "AutoLRCallback":
        """Forget what was suggested, and check the parameters, as skorch asks where a net is initialized."""
        parameters = self.get_params(deep=False)
        own = {name: parameters.pop(name) for name in _OWN}
        self.hook_ = Hook(**own, options=parameters)
        self.epoch_ = 0
        return self

    @property
    def suggestion(self) -> Suggestion | None:
        """The last suggestion; ``None`` before the first one."""
        return self.hook_.suggestion

    @property
    def suggestions(self) -> list[Suggestion]:
        """What was suggested since the net was initialized, one a run."""
        return self.hook_.suggestions

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Count the epochs of this training."""
        self.epoch_ = 0

    # NOTE: not where the training begins: before an epoch the data is split, and every callback has its scheduler.
    def on_epoch_begin(
        self,
        net: Any,
        dataset_train: Any = None,
        dataset_valid: Any = None,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Tune if it is time.

        Raises:
            TypeError: As the tool, and if the net has skorch's ``AccelerateMixin``.
            ValueError: As the tool, and if there are several schedulers.
        """
        epoch = self.epoch_
        self.epoch_ += 1
        if self.hook_.is_due(epoch):
            self._tune(net, dataset_train, net.max_epochs - epoch)

    def _tune(self, net: Any, dataset: Any, num_epochs: int) -> None:
        if getattr(net, "accelerator", None) is not None:
            without = "be without an accelerator: use autolr.integrations.accelerate"
            raise TypeError(invalid("net", without, type(net).__name__))
        callback = _scheduler_of(net)
        scheduler = None if callback is None else callback.lr_scheduler_
        with preserved_state(*data_generators((net, dataset))):  # a loader of the user's may draw where it is made
            loader = net.get_iterator(dataset, training=True)
        num_batches = _length(loader)
        micro_batches = self.hook_.accumulation_steps
        total_steps = None if num_batches is None else num_batches * max(num_epochs, 0) // micro_batches
        defaults: dict[str, Any] = {"clip": _clip_of(net)}
        per_step: Fraction | int = micro_batches
        if callback is not None and callback.step_every == "epoch":
            per_step = Fraction(micro_batches, num_batches or 1)
            if num_batches is None:
                defaults["schedule"] = "constant"

        def compute_loss(model: torch.nn.Module, batch: Batch) -> Any:
            X, y = unpack_data(batch)
            return net.get_loss(net.infer(X), y, X=X, training=model.training)

        groups = self.hook_.options.get("groups")
        before = rate_in_use(net.optimizer_, groups, scheduler=scheduler)
        modules = [getattr(net, f"{name}_") for name in net._modules + net._criteria]
        with training_mode(*(module for module in modules if isinstance(module, torch.nn.Module))):
            self.hook_.run(
                net.module_,
                None,
                net.optimizer_,
                loader,
                compute_loss=compute_loss,
                scheduler=scheduler,
                total_steps=total_steps or None,
                per_step=per_step,
                defaults=defaults,
            )
        after = rate_in_use(net.optimizer_, groups, scheduler=scheduler)
        if after != before:
            if isinstance(scheduler, WarmRestartLR):  # goes by limits of its own, not by its base rates
                scheduler.min_lr, scheduler.max_lr = (
                    after * (limit / before) for limit in (scheduler.min_lr, scheduler.max_lr)
                )
            if groups is None:
                _follow(net, before, after)


def _scheduler_of(net: Any) -> Any:
    """Return the callback that holds the net's scheduler, or ``None``."""
    callbacks = [callback for _, callback in net.callbacks_ if isinstance(callback, LRScheduler)]
    if len(callbacks) > 1:
        raise ValueError(invalid("callbacks", "hold at most one LRScheduler", len(callbacks), unit="of them"))
    return callbacks[0] if callbacks else None


def _clip_of(net: Any) -> Any:
    """Return what clips the net's gradients, or ``None``."""
    callbacks = [callback for _, callback in net.callbacks_ if isinstance(callback, GradientNormClipping)]
    if all(callback.gradient_clip_value is None for callback in callbacks):
        return None

    def clip(parameters: list[torch.Tensor]) -> None:
        for callback in callbacks:
            callback.on_grad_computed(net, named_parameters=[("", parameter) for parameter in parameters])

    return clip


def _length(loader: Any) -> int | None:
    """Return the number of batches, or ``None`` where the loader does not know it."""
    try:
        return len(loader)
    except TypeError:
        return None


def _follow(net: Any, before: float, after: float) -> None:
    """Change the parameters from which the net makes its optimizer by the ratio of two rates."""
    name = "optimizer__lr" if "optimizer__lr" in vars(net) else "lr"
    setattr(net, name, after * (getattr(net, name) / before))
    groups = vars(net).get("optimizer__param_groups", ())
    if any("lr" in group for _, group in groups):
        net.optimizer__param_groups = [
            (pattern, {**group, "lr": after * (group["lr"] / before)} if "lr" in group else group)
            for pattern, group in groups
        ]

"""The objective of a probe: (model, batch) -> scalar loss, however the user states it."""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from types import FunctionType
from typing import Any

import torch
from torch import nn

from autolr._typing import Autocast, Batch, Clip, ComputeLoss, LossFunction
from autolr._validation import invalid
from autolr.batches import MicroBatches, map_tensors
from autolr.probing.backward import backward_by_all, backward_unseen, has_own_functions
from autolr.probing.held import held_modules, held_objects
from autolr.probing.mistakes import integers_refused
from autolr.probing.random_state import capture_random_state
from autolr.probing.sharded import Alone, coarsest_dtype, local, ready, reshard
from autolr.probing.state import Snapshot
from autolr.probing.stated import stated_loss
from autolr.probing.tape import Recorder, Tape
from autolr.probing.tensors import distinct_entries

_Context = AbstractContextManager[object]
_Points = Any  # a tensor, or a list of tensors
_PLAIN = nullcontext()
_ALONE = Alone()


class Objective:
    """The loss of a model on a batch, and its gradient, counted and checked.

    Three ways to state it: ``compute_loss(model, batch)``; ``loss_fn(model(x), y)`` for batches ``(x, y)``; neither,
    where the model's output carries ``.loss`` or ``["loss"]``.

    Args:
        model: The model.
        loss_fn: The loss of an output and a target, or ``None``.
        compute_loss: The loss of a model on a batch, or ``None``.
        parameters: The parameters whose gradients are computed; those without ``requires_grad`` are left out.
        autocast: Makes the context in which every loss is computed, such as ``torch.autocast``; ``None``: none.
        scaler: By whose scale losses are multiplied before their backward, so that gradients in half precision do not
            underflow; gradients are divided by it again. It is only asked for its scale.
        clip: Called with the parameters when their gradients are complete, to change these in place.
        lockstep: What makes numbers and decisions the same in all processes over which modules are sharded.
        look_around: Called before every loss: raises where another process has ended the call.

    Attributes:
        weights: All parameters of the modules and those given.
        num_forwards: Losses computed without a gradient so far.
        num_gradients: Losses computed with a gradient so far.
        epsilon: The relative resolution of the loss's dtype, or of that to which sharded weights are rounded; known
            after a check.
        lockstep: See above.
        sharded: The sharded modules (FSDP2). Between forwards and backwards they have their shards as parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction | None,
        compute_loss: ComputeLoss | None,
        parameters: Sequence[torch.Tensor],
        *,
        autocast: Autocast | None = None,
        scaler: torch.amp.GradScaler | None = None,
        clip: Clip | None = None,
        lockstep: Alone = _ALONE,
        look_around: Callable[[], None] | None = None,
    ) -> None:
        self.model = model
        self.lockstep = lockstep
        self._look_around = look_around
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.num_forwards = 0
        self.num_gradients = 0
        self.epsilon = 0.0
        self._loss_fn = loss_fn
        self._compute_loss = compute_loss
        self._autocast, self._scaler, self._clip = autocast, scaler, clip
        self._checked = self._needs_graph = False
        self._writes_batch = self._changes_attributes = True  # unless checked
        self.sharded = ready(*self.modules())
        # until the first gradient, but of shards, which are in no graph
        self._has_own_functions: bool | None = True if self.sharded else None
        owned = (parameter for module in self.modules() for parameter in module.parameters())
        weights: dict[int, torch.Tensor] = {id(weight): weight for weight in (*owned, *self.parameters)}
        self.weights = list(weights.values())
        # a forward may change anything but the weights
        self._around = Snapshot(*self.modules(), leave=self.weights)
        whole = (tensor for tensor in self._around.tensors if local(tensor) is tensor)  # shards are among them too
        dense = [tensor for tensor in whole if tensor.layout == torch.strided]
        self._buffers = [distinct_entries(tensor.data) for tensor in dense]
        self._values = [tensor.clone() for tensor in self._buffers]

    @property
    def num_evaluations(self) -> float:
        """The cost so far in gradient evaluations: three losses without a gradient count as one."""
        return self.num_gradients + self.num_forwards / 3.0

    @property
    def is_stated(self) -> bool:
        """Whether there is a loss function, rather than a loss that the model's output carries."""
        return self._loss_fn is not None or self._compute_loss is not None

    @property
    def obstacle(self) -> str | None:
        """Why the calls of torch in a forward cannot be seen and replaced, or ``None``."""
        parts = [part for module in self.modules() for part in module.modules()]
        if self.sharded:
            return "the model is sharded"
        if self._needs_graph:
            return "the loss is made of derivatives"
        if self._is_compiled:
            return "the model or the loss is compiled"
        if any(part._forward_hooks or part._forward_pre_hooks for part in parts):
            return "the model has forward hooks, which see the losses one by one"
        return None

    @cached_property
    def _is_compiled(self) -> bool:
        """Whether a module is compiled, or a function that the modules and the loss are seen to call."""
        return any(map(is_compiled, held_objects(*self.modules(), self._loss_fn, self._compute_loss)))

    @property
    def gradient_obstacle(self) -> str | None:
        """Why a gradient is more than the derivative of the loss, or ``None``."""
        parts = [part for module in self.modules() for part in module.modules()]
        if self._clip is not None:
            return "gradients are clipped"
        if self._scaler is not None:
            return "gradients are scaled"
        if any(part._backward_hooks or part._backward_pre_hooks for part in parts):
            return "the model has backward hooks"
        hooked = (w._backward_hooks or getattr(w, "_post_accumulate_grad_hooks", None) for w in self.parameters)
        return "parameters have hooks, which see the gradients one by one" if any(hooked) else None

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """The dtype to which the user's autocast rounds weights, or ``None``."""
        with _PLAIN if self._autocast is None else self._autocast():
            kinds = sorted({weight.device.type for weight in self.weights})
            rounding = [torch.get_autocast_dtype(kind) for kind in kinds if torch.is_autocast_enabled(kind)]
        return rounding[0] if rounding else None

    def modules(self) -> list[nn.Module]:
        """Return the model and the modules that the loss function is seen to hold: a second network, a learned loss."""
        return held_modules(self.model, self._loss_fn, self._compute_loss, self._clip)

    def loss(self, batch: Batch, *, keep: bool = False) -> float:
        """Return the loss on ``batch``, as a Python float; the modules are put back, but for the weights.

        Args:
            batch: The batch.
            keep: Leave the modules as the forward leaves them.

        Raises:
            TypeError: If the loss is not a tensor of floats.
            ValueError: If it is not a scalar.
        """
        self.num_forwards += _num_parts(batch)
        with torch.set_grad_enabled(self._needs_graph):
            value = float(self._scalar(batch).detach())
        reshard(self.sharded)
        if not keep:
            self._put_back()
        return self.lockstep.mean(value)

    def recorded(
        self, batch: Batch, moving: Sequence[torch.Tensor], random_state: Callable[[], Any] | None
    ) -> tuple[float, Tape]:
        """Return the loss on ``batch`` as :meth:`loss` does, and the calls by which it was made.

        Args:
            batch: The batch.
            moving: The weights on which the loss depends.
            random_state: See :class:`~autolr.probing.tape.Recorder`.

        Raises:
            UnfitError: If the forward cannot be repeated from its calls.
        """
        self.num_forwards += _num_parts(batch)
        recorder = Recorder(moving, (*self.fixed(moving), *_tensors_of(batch)), random_state)
        try:
            with torch.no_grad():
                with _uncompiled(), recorder:
                    loss = self._scalar(batch)
                return float(loss), recorder.tape(loss)
        finally:
            self._put_back()

    def fixed(self, moving: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the tensors of the modules besides some weights."""
        ids = set(map(id, moving))
        return [tensor for tensor in (*self._around.tensors, *self.weights) if id(tensor) not in ids]

    def count_repeated(self, batch: Batch, num: int) -> None:
        """Count losses on ``batch`` that are computed from the calls of a forward."""
        if self._look_around is not None:
            self._look_around()
        self.num_forwards += num * _num_parts(batch)

    def losses(
        self, batch: Batch, points: _Points, at: Callable[[_Points], _Context], *, graph: bool = False
    ) -> torch.Tensor:
        """Return the losses on ``batch`` at many points, shape ``(C,)``, computed together by ``torch.vmap``.

        Random masks are the same at all of them. The modules are put back, but for the weights.

        Args:
            batch: The batch.
            points: What tells the points, a tensor or several, with the shape ``(C, ...)``: their rates, say.
            at: From one of the points to the context in which the loss is the one there.
            graph: Whether the losses are to be differentiated.

        Raises:
            RuntimeError: If torch cannot map the loss.
        """

        def loss(point: _Points) -> torch.Tensor:
            with at(point):
                return self._scalar(batch)

        num_losses = len(points if isinstance(points, torch.Tensor) else points[0]) * _num_parts(batch)
        self.num_gradients += num_losses if graph else 0
        self.num_forwards += 0 if graph else num_losses
        try:
            with torch.set_grad_enabled(graph):
                losses = torch.vmap(loss, randomness="same")(points)
        finally:
            has_changed = self._around.restore()  # a tensor of torch.vmap that is kept is of no use after it
        if has_changed and not self._changes_attributes:
            self._changes_attributes = True
            raise RuntimeError("A forward has changed what none has changed before.")
        return losses

    def expect_changes(self) -> None:
        """Put back more than buffers after each forward from now on, as one has changed more."""
        self._changes_attributes = True

    def _put_back(self) -> None:
        """Put the modules back after a forward, but for the weights."""
        if self._changes_attributes:
            self._around.restore()
        elif self._buffers:
            torch._foreach_copy_(self._buffers, self._values)

    def gradient(self, batch: Batch, *, keep: bool = False) -> torch.Tensor:
        """Leave the gradient of the loss on ``batch`` in ``.grad`` of the parameters, and return the loss.

        Of :class:`MicroBatches`, one after the other is gone through, and the gradients add up to that of the mean.

        Args:
            batch: The batch.
            keep: Leave the modules as the forward leaves them, as training does, instead of putting them back.

        Raises:
            TypeError: If the loss is not a tensor of floats.
            ValueError: If it is not a scalar, or does not depend on the parameters.
        """
        self.clear_gradients()
        parts = batch if isinstance(batch, MicroBatches) else (batch,)
        losses = [self._add_gradients(part, len(parts)) for part in parts]
        if self._clip is not None:
            self._clip([parameter for parameter in self.parameters if parameter.grad is not None])
        reshard(self.sharded)
        if not keep:
            self._around.restore()
        loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        return torch.full_like(loss, self.lockstep.mean(float(loss))) if self.sharded else loss

    def with_graph(self, batch: Batch) -> torch.Tensor:
        """Return the loss on one batch with its graph; the modules are left as the forward leaves them.

        Raises:
            TypeError: If the loss is not a tensor of floats.
            ValueError: If it is not a scalar, or does not depend on the parameters.
        """
        self.num_gradients += 1
        with torch.enable_grad():
            loss = self._scalar(batch)
        if not loss.requires_grad:
            raise ValueError(
                invalid("loss_fn" if self._loss_fn else "compute_loss", "depend on trainable parameters", loss)
            )
        return loss

    def _add_gradients(self, batch: Batch, num_parts: int) -> torch.Tensor:
        """Add a share of the gradients on a batch to ``.grad``, and return that share of the loss.

        With a scaler, where the scaled gradients overflow, the scale is halved and all is computed again, from the same
        state: a probe has no use for a step that is skipped, with which a training adapts its scale. (A second backward
        through one graph is refused by compiled models.) Scales are powers of two, unless the user's are not, by which
        gradients are multiplied and divided without rounding.
        """
        scale = 1.0 if self._scaler is None else self._scaler.get_scale()
        if self._scaler is None:
            return self._backward(batch, num_parts, scale)
        before = [parameter.grad for parameter in self.parameters]
        rewind, put_back = capture_random_state({weight.device for weight in self.weights}), self.bookmark()
        while True:
            for parameter in self.parameters:
                parameter.grad = None
            loss = self._backward(batch, num_parts, scale)
            gradients = [_entries(parameter.grad) for parameter in self.parameters if parameter.grad is not None]
            overflows = bool(loss.isfinite()) and not all(bool(g.isfinite().all()) for g in gradients)
            if scale <= 1.0 or not self.lockstep.any(overflows):
                break
            scale /= 2.0
            rewind()
            put_back()
        torch._foreach_div_(gradients, scale)
        for parameter, gradient in zip(self.parameters, before, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return loss

    def _backward(self, batch: Batch, num_parts: int, scale: float) -> torch.Tensor:
        """Add ``scale`` times the gradients of a share of the loss to ``.grad``, and return that share."""
        with torch.enable_grad():
            loss = self.with_graph(batch)
            loss = loss / num_parts if num_parts > 1 else loss
            scaled = loss * scale if scale != 1.0 else loss
            if self._has_own_functions is None:
                self._has_own_functions = has_own_functions(scaled)
            if self._has_own_functions:
                backward_by_all(scaled, self.parameters)
            elif self._may_be_reduced:
                backward_unseen(scaled, self.parameters)
            else:
                scaled.backward(inputs=self.parameters)  # type: ignore[no-untyped-call]
        return loss.detach()

    @cached_property
    def _may_be_reduced(self) -> bool:
        """Whether ``DistributedDataParallel`` may see gradients, and no hooks of the user's would miss them."""
        hooked = any(getattr(parameter, "_post_accumulate_grad_hooks", None) for parameter in self.parameters)
        return torch.distributed.is_available() and torch.distributed.is_initialized() and not hooked

    def bookmark(self) -> Callable[[], object]:
        """Return a function that puts back what a forward changes in the modules, but for the weights, as it is now."""
        if self._changes_attributes:
            return Snapshot(*self.modules(), leave=self.weights).restore
        values = [buffer.clone() for buffer in self._buffers]
        return partial(torch._foreach_copy_, self._buffers, values) if values else lambda: None

    def clear_gradients(self) -> None:
        """Take the gradients off, of frozen weights too; none is written to."""
        for weight in self.weights:
            weight.grad = None

    def check(self, batch: Batch) -> None:
        """Compute one loss with the checks that are too dear for every one; refuse mistakes that torch lets pass.

        Raises:
            TypeError: If integers are fed into a layer of floats, or the batch has another form than the loss needs.
            ValueError: If the loss broadcasts an output of shape (m, 1) against a target of shape (m,).
        """
        self.num_forwards += _num_parts(batch)
        own = map_tensors(torch.Tensor.clone, batch)
        wrote, self._writes_batch = self._writes_batch and self._checked, False
        tensors = _tensors_of(own)
        versions = [tensor._version for tensor in tensors]
        # a compiled model would be compiled again for the hooks
        with integers_refused([] if self._is_compiled else self.modules()):
            loss = self._checked_loss(own, batch)
        rounding = coarsest_dtype(self.sharded) or loss.dtype
        self.epsilon = max(torch.finfo(loss.dtype).eps, torch.finfo(rounding).eps)
        after = _tensors_of(own)
        same = len(after) == len(tensors) and all(one is other for one, other in zip(after, tensors, strict=True))
        self._writes_batch = wrote or not same or versions != [tensor._version for tensor in tensors]
        self._changes_attributes = self._around.restore() or (self._changes_attributes and self._checked)
        self._checked = True

    def _checked_loss(self, own: Batch, batch: Batch) -> torch.Tensor:
        """Return the loss on ``own``, a copy of ``batch``, without a graph if it can do without."""
        try:
            with torch.set_grad_enabled(self._needs_graph):
                return self._scalar(own, check_broadcast=True)
        except RuntimeError as error:
            if self._needs_graph or "does not require grad" not in str(error):
                raise
        self._needs_graph = True  # the loss is made of derivatives itself
        with torch.enable_grad():
            return self._scalar(map_tensors(torch.Tensor.clone, batch), check_broadcast=True)

    def _scalar(self, batch: Batch, *, check_broadcast: bool = False) -> torch.Tensor:
        if isinstance(batch, MicroBatches):
            return torch.stack([self._scalar(part, check_broadcast=check_broadcast) for part in batch]).mean()
        if self._look_around is not None:
            self._look_around()
        with _PLAIN if self._autocast is None else self._autocast():
            torch.clear_autocast_cache()  # of weights that have moved since, where the caller is within autocast
            if self._writes_batch:
                batch = map_tensors(torch.Tensor.clone, batch)
            return stated_loss(self.model, self._loss_fn, self._compute_loss, batch, check_broadcast=check_broadcast)


def _uncompiled() -> _Context:
    """Return the context in which functions that are compiled out of sight are called as they were written."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else _PLAIN


def _num_parts(batch: Batch) -> int:
    return len(batch) if isinstance(batch, MicroBatches) else 1


def is_compiled(part: object) -> bool:
    """Return whether this is a scripted or compiled module or function."""
    if isinstance(part, nn.Module):
        return (
            isinstance(part, torch.jit.ScriptModule)
            or type(part).__name__ == "OptimizedModule"  # not imported, as that takes a second
            or part._compiled_call_impl is not None
        )
    return isinstance(part, FunctionType) and "_torchdynamo_orig_callable" in vars(part)


def _entries(gradient: torch.Tensor) -> torch.Tensor:
    """Return the entries of a gradient, or of its shard, as a dense tensor that shares its memory."""
    return gradient._values() if gradient.is_sparse else local(gradient)


def _tensors_of(batch: Batch) -> list[torch.Tensor]:
    tensors: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        tensors.append(tensor)
        return tensor

    map_tensors(note, batch)
    return tensors

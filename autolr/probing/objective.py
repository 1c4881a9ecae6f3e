"""The objective of a probe: (model, batch) -> scalar loss, however the user states it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from autolr._typing import Batch, ComputeLoss, LossFunction
from autolr._validation import describe, invalid
from autolr.batches import map_tensors
from autolr.probing.held import held_modules
from autolr.probing.state import Snapshot, distinct_entries

_Context = AbstractContextManager[object]
_PLAIN = nullcontext()
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


class Objective:
    """The loss of a model on a batch, and its gradient, counted and checked.

    Three ways to state it: ``compute_loss(model, batch)``; ``loss_fn(model(x), y)`` for batches ``(x, y)``; neither,
    where the model's output carries ``.loss`` or ``["loss"]``.

    Args:
        model: The model.
        loss_fn: The loss of an output and a target, or ``None``.
        compute_loss: The loss of a model on a batch, or ``None``.
        parameters: The parameters whose gradients are computed; those without ``requires_grad`` are left out.

    Attributes:
        weights: All parameters of the modules and those given.
        num_forwards: Losses computed without a gradient so far.
        num_gradients: Losses computed with a gradient so far.
        epsilon: The relative resolution of the loss's dtype, known after a check.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction | None,
        compute_loss: ComputeLoss | None,
        parameters: Sequence[torch.Tensor],
    ) -> None:
        self.model = model
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.num_forwards = 0
        self.num_gradients = 0
        self.epsilon = 0.0
        self._loss_fn = loss_fn
        self._compute_loss = compute_loss
        self._checked = self._needs_graph = False
        self._writes_batch = self._changes_attributes = True  # unless checked
        owned = (parameter for module in self.modules() for parameter in module.parameters())
        weights: dict[int, torch.Tensor] = {id(weight): weight for weight in (*owned, *self.parameters)}
        self.weights = list(weights.values())
        # a forward may change anything but the weights
        self._around = Snapshot(*self.modules(), leave=self.weights)
        dense = [tensor for tensor in self._around.tensors if tensor.layout == torch.strided]
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
        if self._needs_graph:
            return "the loss is made of derivatives"
        if any(map(_is_compiled, (*parts, self._loss_fn, self._compute_loss))):
            return "the model or the loss is compiled"
        if any(part._forward_hooks or part._forward_pre_hooks for part in parts):
            return "the model has forward hooks, which see the losses one by one"
        return None

    def modules(self) -> list[nn.Module]:
        """Return the model and the modules that the loss function is seen to hold: a second network, a learned loss."""
        return held_modules(self.model, self._loss_fn, self._compute_loss)

    def loss(self, batch: Batch, *, keep: bool = False, within: _Context = _PLAIN) -> float:
        """Return the loss on ``batch``, as a Python float; the modules are put back, but for the weights.

        Args:
            batch: The batch.
            keep: Leave the modules as the forward leaves them.
            within: The context in which the loss is computed.

        Raises:
            TypeError: If the loss is not a tensor of floats.
            ValueError: If it is not a scalar.
        """
        self.num_forwards += 1
        with torch.set_grad_enabled(self._needs_graph):
            with within:
                loss = self._scalar(batch)
            value = float(loss.detach())
        if not keep:
            self._put_back()
        return value

    def losses(self, batch: Batch, rates: torch.Tensor, at: Callable[[torch.Tensor], _Context]) -> torch.Tensor:
        """Return the losses on ``batch`` at many rates, shape ``(C,)``, computed together by ``torch.vmap``.

        Random masks are the same at all of them. The modules are put back, but for the weights.

        Args:
            batch: The batch.
            rates: The rates, shape ``(C,)``.
            at: From a rate to the context in which the loss is the one there.

        Raises:
            RuntimeError: If torch cannot map the loss.
        """

        def loss(rate: torch.Tensor) -> torch.Tensor:
            with at(rate):
                return self._scalar(batch)

        self.num_forwards += len(rates)
        try:
            with torch.no_grad():
                losses = torch.vmap(loss, randomness="same")(rates)
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

    def gradient(self, *batches: Batch, keep: bool = False) -> torch.Tensor:
        """Leave the gradient of the loss on a batch in ``.grad`` of the parameters, and return the loss.

        Args:
            *batches: The batch; or the micro-batches of a step, over which losses and gradients are averaged.
            keep: Leave the modules as the forward leaves them, as training does, instead of putting them back.

        Raises:
            TypeError: If the loss is not a tensor of floats.
            ValueError: If it is not a scalar, or does not depend on the parameters.
        """
        self.clear_gradients()
        losses = []
        for batch in batches:
            self.num_gradients += 1
            with torch.enable_grad():
                loss = self._attached(self._scalar(batch)) / len(batches)
                loss.backward(inputs=self.parameters)  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        if not keep:
            self._around.restore()
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _attached(self, loss: torch.Tensor) -> torch.Tensor:
        """Return a loss that has a graph, or raise."""
        if not loss.requires_grad:
            raise ValueError(
                invalid("loss_fn" if self._loss_fn else "compute_loss", "depend on trainable parameters", loss)
            )
        return loss

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
        self.num_forwards += 1
        own = map_tensors(torch.Tensor.clone, batch)
        wrote, self._writes_batch = self._writes_batch and self._checked, False
        tensors = _tensors_of(own)
        versions = [tensor._version for tensor in tensors]
        layers = {id(layer): layer for module in self.modules() for layer in module.modules() if _is_float_layer(layer)}
        handles: list[RemovableHandle] = []
        try:
            for layer in layers.values():
                handles.append(layer.register_forward_pre_hook(_refuse_integers))
            loss = self._checked_loss(own, batch)
        finally:
            for handle in handles:
                handle.remove()
        self.epsilon = torch.finfo(loss.dtype).eps
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
        torch.clear_autocast_cache()  # of weights that have moved since, where the caller is within autocast
        if self._writes_batch:
            batch = map_tensors(torch.Tensor.clone, batch)
        if self._compute_loss is not None:
            loss = self._compute_loss(self.model, batch)
        elif self._loss_fn is not None:
            x, y = _pair(batch)
            output = self.model(x)
            loss = self._loss_fn(output, y)
            if check_broadcast:
                _refuse_broadcast(self._loss_fn, output, y, loss)
        else:
            loss = _carried_loss(_call(self.model, batch))
        name = "compute_loss" if self._loss_fn is None else "loss_fn"
        if not isinstance(loss, torch.Tensor) or not loss.is_floating_point():
            raise TypeError(invalid(name, "return a tensor of floats", loss))
        if loss.ndim != 0:
            raise ValueError(invalid(name, "return a scalar, the mean over the observations", tuple(loss.shape)))
        return loss


def _pair(batch: Batch) -> tuple[Any, Any]:
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    kind = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, (tuple, list)) else type(batch).__name__
    raise TypeError(
        f"`loss_fn` must be given batches (x, y), got a {kind}: pass Y, or use compute_loss(model, batch) instead."
    )


def _call(model: nn.Module, batch: Batch) -> Any:
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, (tuple, list)):
        return model(*batch)
    return model(batch)


def _carried_loss(output: Any) -> Any:
    if isinstance(output, Mapping) and "loss" in output:
        return output["loss"]
    if getattr(output, "loss", None) is not None:
        return output.loss
    raise TypeError(
        "`loss_fn` or `compute_loss` must be given, unless the model's output carries `.loss`,"
        f" got an output {describe(type(output).__name__)}."
    )


def _refuse_broadcast(loss_fn: LossFunction, output: Any, target: Any, loss: Any) -> None:
    """Raise if output (m, 1) meets target (m,), or the reverse, and that changes the loss.

    A loss that squeezes by itself gives the same value where the output has the target's shape, and is let through;
    one that needs the other shape (class indices) raises, and is let through too. Compared at the output and, as the
    values can be equal by chance (an absolute loss far from its target), at an output made of the targets, moved on.
    """
    if not (isinstance(output, torch.Tensor) and isinstance(target, torch.Tensor) and isinstance(loss, torch.Tensor)):
        return
    shapes = output.shape, target.shape
    longer, shorter = sorted(shapes, key=len, reverse=True)
    if longer != (*shorter, 1) or output.numel() < 2:
        return
    for values in (output, target.roll(1, 0).reshape(output.shape).to(output.dtype)):
        try:
            loss, same_shape = loss_fn(values, target), loss_fn(values.reshape(target.shape), target)
        except (RuntimeError, ValueError, TypeError, IndexError):
            return
        if same_shape.shape == loss.shape and not torch.allclose(same_shape, loss, equal_nan=True):
            raise ValueError(
                f"`loss_fn` must compare output and target of one shape, got output {tuple(output.shape)}"
                f" and target {tuple(target.shape)}, which broadcast against each other: reshape one of them."
            )


def _is_float_layer(module: nn.Module) -> bool:
    """Return whether this is one of torch's own layers with float weights, which integers cannot be fed into."""
    if not type(module).__module__.startswith("torch.nn.modules") or isinstance(module, _EMBEDDINGS):
        return False
    weight = next(iter(module.parameters(recurse=False)), None)
    return weight is not None and weight.is_floating_point()


def _is_compiled(part: object) -> bool:
    """Return whether this is a scripted or compiled module or function."""
    return (
        isinstance(part, torch.jit.ScriptModule)
        or type(part).__name__ == "OptimizedModule"  # not imported, as that takes a second
        or getattr(part, "_compiled_call_impl", None) is not None
        or hasattr(part, "_torchdynamo_orig_callable")
    )


def _refuse_integers(module: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Raise if a layer of floats is fed integers: a hook for the duration of a check."""
    x = arguments[0] if arguments else None
    if isinstance(x, torch.Tensor) and not (x.is_floating_point() or x.is_complex()):
        raise TypeError(
            f"`X` must have a floating-point dtype for the model's {type(module).__name__} layer, got {x.dtype}:"
            " convert it, for example with X.float()."
        )


def _tensors_of(batch: Batch) -> list[torch.Tensor]:
    tensors: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        tensors.append(tensor)
        return tensor

    map_tensors(note, batch)
    return tensors

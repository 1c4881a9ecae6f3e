"""The objective of a probe: (model, batch) -> scalar loss, however the user states it."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from autolr._typing import Batch, ComputeLoss, LossFunction
from autolr._validation import describe, invalid
from autolr.data import map_tensors

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
        num_forwards: Losses computed without a gradient so far.
        num_gradients: Losses computed with a gradient so far.
        epsilon: The relative resolution of the loss's dtype, known after the first loss.
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
        self._writes_batch = True
        self._buffers = [
            (module._buffers, name, buffer)
            for root in self.modules()
            for module in root.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        self._in_place = [buffer.detach() for _, _, buffer in self._buffers]
        self._start = [buffer.clone() for buffer in self._in_place]

    def modules(self) -> list[nn.Module]:
        """Return the model and the modules that the loss function is seen to hold: a second network, a learned loss."""
        return [self.model, *_modules_of(self._loss_fn), *_modules_of(self._compute_loss)]

    def loss(self, batch: Batch) -> float:
        """Return the loss on ``batch`` without a gradient, as a Python float; the buffers are put back.

        Raises:
            TypeError: If the loss is not a tensor of floats.
            ValueError: If it is not a scalar.
        """
        self.num_forwards += 1
        with torch.no_grad():
            value = float(self._scalar(batch).detach())
        self._restore_buffers()
        return value

    def gradient(self, batch: Batch) -> torch.Tensor:
        """Leave the gradient of the loss on ``batch`` in ``.grad`` of the parameters, and return the loss.

        Raises:
            TypeError: If the loss is not a tensor of floats.
            ValueError: If it is not a scalar, or does not depend on the parameters.
        """
        self.num_gradients += 1
        self.clear_gradients()
        with torch.enable_grad():
            loss = self._scalar(batch)
            if not loss.requires_grad:
                raise ValueError(
                    invalid("loss_fn" if self._loss_fn else "compute_loss", "depend on trainable parameters", loss)
                )
            loss.backward(inputs=self.parameters)  # type: ignore[no-untyped-call]
        self._restore_buffers()
        return loss.detach()

    def clear_gradients(self) -> None:
        """Take the gradients off; their tensors are not touched."""
        for parameter in self.parameters:
            parameter.grad = None

    def check(self, batch: Batch) -> None:
        """Compute one loss with the checks that are too dear for every one; refuse mistakes that torch lets pass.

        Raises:
            TypeError: If integers are fed into a layer of floats, or the batch has another form than the loss needs.
            ValueError: If the loss broadcasts an output of shape (m, 1) against a target of shape (m,).
        """
        self.num_forwards += 1
        batch = map_tensors(torch.Tensor.clone, batch)
        self._writes_batch = False
        tensors: list[torch.Tensor] = []

        def note(tensor: torch.Tensor) -> torch.Tensor:
            tensors.append(tensor)
            return tensor

        map_tensors(note, batch)
        versions = [tensor._version for tensor in tensors]
        handle = nn.modules.module.register_module_forward_pre_hook(_refuse_integers)
        try:
            with torch.no_grad():
                loss = self._scalar(batch, check_broadcast=True)
        finally:
            handle.remove()
        self.epsilon = torch.finfo(loss.dtype).eps
        self._writes_batch = versions != [tensor._version for tensor in tensors]
        self._restore_buffers()

    def _restore_buffers(self) -> None:
        for buffers, name, buffer in self._buffers:
            if buffers[name] is not buffer:  # a forward gave the name another tensor
                buffers[name] = buffer
        if self._in_place:
            torch._foreach_copy_(self._in_place, self._start)

    def _scalar(self, batch: Batch, *, check_broadcast: bool = False) -> torch.Tensor:
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
    one that needs the other shape (class indices) raises, and is let through too.
    """
    if not (isinstance(output, torch.Tensor) and isinstance(target, torch.Tensor) and isinstance(loss, torch.Tensor)):
        return
    shapes = output.shape, target.shape
    longer, shorter = sorted(shapes, key=len, reverse=True)
    if longer != (*shorter, 1) or output.numel() < 2:
        return
    try:
        same_shape = loss_fn(output.reshape(target.shape), target)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return
    if same_shape.shape == loss.shape and not torch.allclose(same_shape, loss, equal_nan=True):
        raise ValueError(
            f"`loss_fn` must compare output and target of one shape, got output {tuple(output.shape)}"
            f" and target {tuple(target.shape)}, which broadcast against each other: reshape one of them."
        )


def _refuse_integers(module: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Raise if one of torch's own layers with float weights is fed integers: a hook for the duration of a check."""
    if not type(module).__module__.startswith("torch.nn.modules") or isinstance(module, _EMBEDDINGS):
        return
    weight = next(iter(module.parameters(recurse=False)), None)
    if weight is None or not weight.is_floating_point() or not arguments:
        return
    x = arguments[0]
    if isinstance(x, torch.Tensor) and not (x.is_floating_point() or x.is_complex()):
        raise TypeError(
            f"`X` must have a floating-point dtype for the model's {type(module).__name__} layer, got {x.dtype}:"
            " convert it, for example with X.float()."
        )


def _modules_of(function: Callable[..., Any] | None) -> list[nn.Module]:
    """Return the modules that a function is, is bound to, or closes over."""
    if isinstance(function, nn.Module):
        return [function]
    if isinstance(function, partial):
        values = [function.func, *function.args, *function.keywords.values()]
    elif inspect.ismethod(function):
        values = [function.__self__, function.__func__]
    elif inspect.isfunction(function):
        names = [function.__globals__.get(name) for name in function.__code__.co_names]
        return [value for value in (*_cell_contents(function), *names) if isinstance(value, nn.Module)]
    else:
        return []
    return [module for value in values for module in _modules_of(value)]


def _cell_contents(function: Callable[..., Any]) -> list[Any]:
    cells = getattr(function, "__closure__", None) or ()
    return [cell.cell_contents for cell in cells if cell != type(cell)()]  # an empty cell has no contents

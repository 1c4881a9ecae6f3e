"""The loss of a model on a batch, in the three ways in which a user states it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from autolr._typing import Batch, ComputeLoss, LossFunction
from autolr._validation import describe, invalid
from autolr.probing.mistakes import refuse_broadcast


def stated_loss(
    model: nn.Module,
    loss_fn: LossFunction | None,
    compute_loss: ComputeLoss | None,
    batch: Batch,
    *,
    check_broadcast: bool = False,
) -> torch.Tensor:
    """Return the loss: ``compute_loss(model, batch)``, ``loss_fn(model(x), y)``, or what the model's output carries.

    Args:
        model: The model.
        loss_fn: The loss of an output and a target, for batches ``(x, y)``, or ``None``.
        compute_loss: The loss of a model on a batch, or ``None``.
        batch: The batch; without either function, all of it is given to the model.
        check_broadcast: Whether a loss that broadcasts output against target is refused.

    Raises:
        TypeError: If the loss is not a tensor of floats, or the batch has another form than the loss needs.
        ValueError: If it is not a scalar, or broadcasts.
    """
    if compute_loss is not None:
        loss = compute_loss(model, batch)
    elif loss_fn is not None:
        x, y = _pair(batch)
        output = model(x)
        loss = loss_fn(output, y)
        if check_broadcast:
            refuse_broadcast(loss_fn, output, y, loss)
    else:
        loss = _carried_loss(_call(model, batch))
    name = "compute_loss" if loss_fn is None else "loss_fn"
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

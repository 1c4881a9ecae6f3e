"""Calls of torch that are affine in a weight and a bias: where nothing else moves, two calls serve all rates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from autolr.probing.stacked_calls import Point
from autolr.probing.tape import Call, Slot

_WITH_BIAS = frozenset({F.linear, F.conv1d, F.conv2d, F.conv3d})
_AFFINE = _WITH_BIAS | {F.embedding}


@dataclass(frozen=True, slots=True)
class AffineCall:
    r"""A call y(x; W, b) of a linear layer, a convolution or an embedding.

    It is affine in (W, b), so that on the line of a step
    :math:`y(x; W - \mathrm{lr}\, D, b - \mathrm{lr}\, d) = y(x; W, b) - \mathrm{lr}\, y(x; D, d)`.

    Attributes:
        call: The call.
        x: The input: a tensor, or the slot of one that depends on the rate.
        weight: The slot of the weight.
        bias: That of the bias; a constant, or ``None``.
        rest: The positional arguments behind these.
        options: The keyword arguments besides these.
    """

    call: Call
    x: Any
    weight: Slot
    bias: Slot | torch.Tensor | None
    rest: Sequence[Any]
    options: Mapping[str, Any]

    def outputs(self, points: Sequence[Point]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the output at the start, and that of the step, where the input is a constant.

        Args:
            points: Start and step of each weight, by its slot.
        """
        weight, weight_step = points[self.weight.number]
        bias, bias_step = points[self.bias.number] if isinstance(self.bias, Slot) else (self.bias, None)
        return self._at(weight, bias), self._at(weight_step, bias_step)

    def _at(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        biases = (bias,) if self.call.function in _WITH_BIAS else ()
        output: torch.Tensor = self.call.function(self.x, weight, *biases, *self.rest, **self.options)
        return output


def affine_call(call: Call, num_weights: int) -> AffineCall | None:
    """Return a call as an affine one, or ``None`` where it is another, or its weight is no weight as it is.

    Args:
        call: The call.
        num_weights: How many of the first slots are those of weights.
    """
    if call.function not in _AFFINE or call.kwargs.get("max_norm") is not None:  # which writes into the weight
        return None
    names = ("input", "weight", "bias") if call.function in _WITH_BIAS else ("input", "weight")
    given = dict(zip(names, call.args, strict=False)) | {n: v for n, v in call.kwargs.items() if n in names}
    options = {name: value for name, value in call.kwargs.items() if name not in names}
    weight, bias = given["weight"], given.get("bias")
    slots = [part.number for part in (weight, bias) if isinstance(part, Slot)]
    if not isinstance(weight, Slot) or max(slots) >= num_weights:
        return None
    return AffineCall(call, given["input"], weight, bias, call.args[len(names) :], options)

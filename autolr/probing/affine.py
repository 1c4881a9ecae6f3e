"""Calls of torch that are affine in a weight and a bias: of these, only a combination changes along the line."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

# from a parameter's id to its value at the start and its step per unit of the rate
Points = Mapping[int, tuple[torch.Tensor, torch.Tensor | None]]

_WITH_BIAS = frozenset({F.linear, F.conv1d, F.conv2d, F.conv3d})
AFFINE = _WITH_BIAS | {F.embedding}


@dataclass(frozen=True, slots=True)
class AffineCall:
    r"""A call y(x; W, b) of a linear layer, a convolution or an embedding.

    It is affine in (W, b), so that on the line of a step
    :math:`y(x; W - \mathrm{lr}\, D, b - \mathrm{lr}\, d) = y(x; W, b) - \mathrm{lr}\, y(x; D, d)`: where x does not
    depend on the weights, two calls serve all rates.

    Attributes:
        function: What was called.
        x: The input.
        weight: The weight, as the model holds it.
        bias: The bias, or ``None``.
        rest: The positional arguments behind these.
        options: The keyword arguments besides these.
    """

    function: Callable[..., torch.Tensor]
    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    rest: Sequence[Any]
    options: Mapping[str, Any]

    def at(self, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Return the output with another weight and bias."""
        if self.function in _WITH_BIAS:
            return self.function(self.x, weight, bias, *self.rest, **self.options)
        return self.function(self.x, weight, *self.rest, **self.options)

    def moving(self, points: Points) -> bool:
        """Return whether both the weight and the bias, if any, lie on the line and move: then :meth:`outputs` holds."""
        parts = [self.weight] if self.bias is None else [self.weight, self.bias]
        return all(points.get(id(part), (None, None))[1] is not None for part in parts)

    def is_like(self, other: "AffineCall") -> bool:
        """Return whether another call is the same but for its input."""
        return (
            self.function is other.function
            and self.weight is other.weight
            and self.bias is other.bias
            and self.rest == other.rest
            and self.options == other.options
        )

    def outputs(self, points: Points) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the output at the start, and that of the step."""
        weight, weight_step = points[id(self.weight)]
        bias, bias_step = (None, None) if self.bias is None else points[id(self.bias)]
        assert weight_step is not None
        return self.at(weight, bias), self.at(weight_step, bias_step)


def affine_call(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> AffineCall | None:
    """Return a call as an affine one, or ``None`` where it is another."""
    if function not in AFFINE or kwargs.get("max_norm") is not None:  # with max_norm an embedding changes its weight
        return None
    names = ("input", "weight", "bias") if function in _WITH_BIAS else ("input", "weight")
    given = dict(zip(names, args, strict=False))
    options = {name: value for name, value in kwargs.items() if name not in names}
    given |= {name: kwargs[name] for name in names if name in kwargs}
    return AffineCall(function, given["input"], given["weight"], given.get("bias"), args[len(names) :], options)


def mentioned(ids: frozenset[int], args: Sequence[Any], kwargs: Mapping[str, Any]) -> frozenset[int]:
    """Return which of some ids are those of objects among arguments, or in a list, tuple or dict among them."""
    values = [*args, *kwargs.values()] if kwargs else args
    found = ids.intersection(map(id, values))
    for value in values:
        if isinstance(value, (list, tuple)):
            found |= mentioned(ids, value, {})
        elif isinstance(value, dict):
            found |= mentioned(ids, (), value)
    return found

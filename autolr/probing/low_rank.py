"""Steps of low rank: what they add to a product is made of two thin products."""

from functools import cache

import torch

# Making and packing the weights of a rate takes as long as so many multiplications of thin products for each weight
# (0.3 ns and 0.03 ns, on one core).
_WORTH = 6.0
_FEWEST_WEIGHTS = 1 << 16
# Columns beyond the rank, where as many as the rank miss something; and those by which that is checked.
_MORE, _CHECKED = 4, 4
_TOLERANCE = 8.0


class LowRank:
    r"""Finds thin factors of steps: :math:`D \approx Q\, (Q^T D)`.

    The gradient of a linear layer's weight is a sum of outer products, one for each of the inputs it was computed on;
    its rank is at most their number, and so is that of a step of plain SGD. With factors of rank r, a product with the
    weights at many rates,

    .. math:: X_\mathrm{lr} (W - \mathrm{lr}\, D)^T = X_\mathrm{lr} W^T
        - \mathrm{lr}\, (X_\mathrm{lr} (Q^T D)^T)\, Q^T,

    is one product with W for all rates, and two thin ones; the weights at a rate are never made. Q is an orthonormal
    basis of :math:`D\, \Omega`, for a random matrix :math:`\Omega` with as many columns as the rank, or a few more.
    That nothing is missing is not assumed: :math:`\|D - Q Q^T D\|`, estimated from random products, has to be below
    :math:`8 \epsilon (\|D\| + \|W\| / \mathrm{lr}_K)`, some roundings of the weights at the highest rate. A weight
    whose step is not of low rank once is left alone from then on.

    Args:
        highest: The highest rate.

    References:
        Halko, Martinsson and Tropp (2011). Finding structure with randomness: probabilistic algorithms for constructing
        approximate matrix decompositions. SIAM Review 53(2), 217-288. (Algorithm 4.1.)
    """

    def __init__(self, highest: float) -> None:
        self._highest = highest
        self._ranks: dict[int, int] = {}

    def factors(
        self, parameter: torch.Tensor, weight: torch.Tensor, step: torch.Tensor, num_inputs: int
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the factors Q, shape ``(out, r)``, and :math:`Q^T D`, shape ``(r, in)``; or ``None``.

        Args:
            parameter: The parameter, by which it is remembered.
            weight: The weight at the start, shape ``(out, in)``.
            step: Its step D.
            num_inputs: The number of inputs at each rate; with more of them, thin products gain less.
        """
        key, (width, depth) = id(parameter), weight.shape
        most = min(int(_WORTH * width * depth / (num_inputs * (width + depth))), width, depth)
        if weight.device.type != "cpu" or weight.numel() < _FEWEST_WEIGHTS or most <= _MORE:
            return None
        if key not in self._ranks:
            self._ranks[key] = _rank(step, most)
        for columns in (self._ranks[key], self._ranks[key] + _MORE):
            if self._ranks[key] and columns <= most:
                self._ranks[key] = columns
                factors = self._verified(weight, step, columns)
                if factors is not None:
                    return factors
        self._ranks[key] = 0
        return None

    def _verified(
        self, weight: torch.Tensor, step: torch.Tensor, columns: int
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return factors with so many columns, or ``None`` where they miss something."""
        random = _random(step.shape[1], columns + _CHECKED, step.dtype)
        image = step @ random
        basis, _ = torch.linalg.qr(image[:, :columns])
        rest = basis.T @ step
        missed = torch.linalg.norm(image[:, columns:] - basis @ (rest @ random[:, columns:])) / _CHECKED**0.5
        allowed = torch.linalg.norm(step) + torch.linalg.norm(weight) / self._highest
        return (basis, rest) if missed <= _TOLERANCE * torch.finfo(step.dtype).eps * allowed else None


def _rank(step: torch.Tensor, most: int) -> int:
    """Return the rank of a step, or 0 if it is above ``most``, from its products with random columns."""
    _, triangle = torch.linalg.qr(step @ _random(step.shape[1], most, step.dtype))
    sizes = triangle.diagonal().abs()
    rank = int((sizes > step.shape[1] * torch.finfo(step.dtype).eps * sizes.max()).sum())
    return rank if rank < most else 0


@cache
def _random(depth: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """Return normal numbers, the same ones always."""
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn(depth, columns, generator=generator, dtype=torch.float64, device="cpu").to(dtype)

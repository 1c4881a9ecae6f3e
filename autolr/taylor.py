"""The expansion of the loss by the learning rate, along the optimizer's own step."""

import math
import numbers
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from autolr._html import verdict_html
from autolr._text import WHOLE_RUN, format_rate, verdict_of_lines
from autolr._typing import ComputeLoss, FloatArray, LossFunction, Rng
from autolr._validation import check_array, check_learning_rates, check_real, check_rng, invalid
from autolr.data import read_batch
from autolr.grids import linear_grid
from autolr.loss_curve import losses_on_batch
from autolr.plot_taylor import plot_taylor
from autolr.probing.taylor import differentiate, twice_differentiable
from autolr.subsampling import BATCH_STATE, entropy_of, seed_of
from autolr.training import check_batch, check_training

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NUM_RATES = 41
_ORDERS = (0, 1, 2)


@dataclass(frozen=True, slots=True, eq=False)
class TaylorExpansion:
    r"""The loss on one batch as a parabola of the learning rate, around rate 0. It holds numbers only.

    .. math:: L(\mathrm{lr}) \approx \mathrm{loss} + \mathrm{slope} \cdot \mathrm{lr}
              + \mathrm{curvature} \cdot \mathrm{lr}^2 / 2

    Attributes:
        loss: The loss at rate 0.
        slope: Its first derivative by the rate there, in units of the loss; negative where the step descends.
        curvature: Its second derivative.
        learning_rates: The rates at which the true loss was measured, increasing, shape ``(K,)``; K may be 0.
        losses: The true losses there, shape ``(K,)``; ``inf`` where one is not finite.

    Raises:
        TypeError: If something is not a number.
        ValueError: If loss, slope or curvature are not finite, or rates and losses do not fit together.

    Example:
        >>> expansion = TaylorExpansion(loss=1.0, slope=-2.0, curvature=4.0)
        >>> expansion.minimizer, expansion.loss_at([0.0, 0.5, 1.0])
        (0.5, array([1. , 0.5, 1. ]))
    """

    loss: float
    slope: float
    curvature: float
    learning_rates: FloatArray = field(default_factory=lambda: np.empty(0), repr=False)
    losses: FloatArray = field(default_factory=lambda: np.empty(0), repr=False)

    def __post_init__(self) -> None:
        for name in ("loss", "slope", "curvature"):
            object.__setattr__(self, name, check_real(name, getattr(self, name)))
        rates, losses = _check_rates(self.learning_rates), check_array("losses", self.losses)
        if losses.shape != rates.shape or np.isnan(losses).any():
            shape = f"hold a number, or inf, for each of the {rates.size} `learning_rates`"
            raise ValueError(invalid("losses", shape, self.losses))
        for name, values in (("learning_rates", rates), ("losses", losses)):
            values.setflags(write=False)
            object.__setattr__(self, name, values)

    @property
    def minimizer(self) -> float:
        r"""The rate, at least 0, at which the parabola is lowest.

        That is :math:`-\mathrm{slope} / \mathrm{curvature}` for a step that descends on a parabola that opens upwards,
        the case for which it is meant. ``inf`` where the parabola falls without end: its curvature is negative, or 0
        with a negative slope. Otherwise the step does not descend, and it is 0. Neither is a rate to train with, and
        no optimizer of torch takes ``inf``.
        """
        if self.curvature < 0.0 or (self.curvature == 0.0 and self.slope < 0.0):
            return math.inf
        return 0.0 if self.slope >= 0.0 else -self.slope / self.curvature

    def loss_at(self, learning_rates: ArrayLike, order: int = 2) -> FloatArray:
        """Return the expansion at some rates, up to a power of them.

        Args:
            learning_rates: The rates, of any shape.
            order: The highest power of the rate: 0 for the loss at rate 0, 1 for the tangent, 2 for the parabola.

        Returns:
            The losses, in the shape of the rates.

        Raises:
            TypeError: If the rates are not numbers.
            ValueError: If ``order`` is another, or a rate is not finite.
        """
        if isinstance(order, bool) or not isinstance(order, numbers.Integral) or order not in _ORDERS:
            raise ValueError(invalid("order", "be 0, 1 or 2", order))
        rates = check_array("learning_rates", learning_rates)
        if not np.isfinite(rates).all():  # as is the minimizer of a parabola that falls without end
            raise ValueError(invalid("learning_rates", "be finite", learning_rates))
        coefficients = (self.loss, self.slope, self.curvature / 2.0)[: order + 1]
        return np.asarray(np.polynomial.polynomial.polyval(rates, coefficients))

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the true losses, where they were measured, the expansions of order 1 and 2, and the minimizer.

        Args:
            ax: Where to draw; by default new axes.

        Returns:
            The axes; nothing is shown.

        Raises:
            TypeError: If ``ax`` are no axes.
        """
        rates = self.learning_rates if self.learning_rates.size > 1 else np.array([0.0, self._reach(1.0)])
        fine = np.linspace(rates[0], rates[-1], 201)
        orders = {order: self.loss_at(fine, order) for order in (1, 2)}
        return plot_taylor(self.learning_rates, self.losses, fine, orders, minimizer=self.minimizer, ax=ax)

    def _reach(self, otherwise: float) -> float:
        """Return twice the minimizer, or twice another rate where there is none."""
        return 2.0 * (self.minimizer if 0.0 < self.minimizer < math.inf else otherwise)

    def __str__(self) -> str:
        loss, slope, curvature = map(_number, (self.loss, self.slope, self.curvature))
        shape = f"On this batch, at rate 0: loss {loss}, slope {slope}, curvature {curvature}."
        if self.minimizer == math.inf:
            return verdict_of_lines(["I cannot tell: the parabola falls without end, and names no rate.", shape])
        if self.minimizer == 0.0:
            return verdict_of_lines(
                ["I cannot tell: the step does not descend, so that no rate above 0 is good.", shape]
            )
        rate, lowest = format_rate(self.minimizer, digits=3), _number(float(self.loss_at(self.minimizer)))
        lines = [f"Learning rate {rate}: there the parabola of this batch is lowest, {lowest}.", shape]
        if np.isfinite(self.losses).any():
            best = int(np.argmin(self.losses))
            measured = format_rate(float(self.learning_rates[best]), digits=3)
            lowest = _number(float(self.losses[best]))
            lines.append(f"Measured at {self.losses.size} rates: {measured} gave the lowest loss, {lowest}.")
        return verdict_of_lines([*lines, WHOLE_RUN.format("one batch")])

    def _repr_html_(self) -> str:
        rate = format_rate(self.minimizer, digits=3) if 0.0 < self.minimizer < math.inf else None
        return verdict_html(str(self), rate)


def taylor_expansion(
    model: nn.Module,
    loss_fn: LossFunction | None,
    optimizer: torch.optim.Optimizer,
    X: Any,
    Y: Any = None,
    *,
    compute_loss: ComputeLoss | None = None,
    device: torch.device | str | None = None,
    rng: Rng = None,
    learning_rates: ArrayLike | None = None,
) -> TaylorExpansion:
    r"""Expand the loss on one batch by the learning rate, along the optimizer's own step with the gradient on it.

    The steps of most optimizers are proportional to the rate, :math:`\theta(\mathrm{lr}) = \theta_0 - \mathrm{lr}\, d`:
    momentum, moments, weight decay, clipping and the ratios of the groups are in d. With the gradient g and the Hessian
    H on the batch, the slope of the loss by the rate is :math:`-\langle g, d \rangle`, and its curvature
    :math:`\langle d, H d \rangle`, by forward-over-reverse differentiation; no Hessian is built. Model, optimizer and
    random states are bit for bit the same afterwards.

    It knows the batch, and the next step only. Where the loss is piecewise linear in the weights (ReLU), the curvature
    is that of the piece; what the loss detaches counts as constant. The derivatives cost a loss, a gradient, and one
    that is differentiated in its turn, which takes its memory twice; each measured rate costs a loss more. Meanwhile
    attention is computed by its formula, as torch's fused kernels have no second derivatives.

    Args:
        model: The model; it is not changed.
        loss_fn: ``loss_fn(output, target) -> scalar tensor``, or ``None`` where ``compute_loss`` is given or the
            model's output carries its loss.
        optimizer: The optimizer, with the state that it has. A rate is that of the first parameter group.
        X: The inputs, shape (m, ...): a tensor, a NumPy array or a pandas frame; or, without Y, one batch of any form.
        Y: The targets, shape (m, ...), or ``None``.
        compute_loss: ``compute_loss(model, batch) -> scalar tensor`` instead of ``loss_fn``.
        device: Where the batch goes; by default where the first parameter is.
        rng: What the dropout masks are drawn from, the same for all losses; an int gives the same ones at each call.
        learning_rates: Where the true loss is measured, for comparison: rates that are not negative and strictly
            increasing, shape ``(K,)``, or none (``[]``). By default 41 rates from 0 to twice the minimizer or, where it
            is 0 or infinite, to twice the optimizer's present rate.

    Returns:
        Loss, slope and curvature, with the true losses.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is not allowed; loss, slope or curvature are not finite; torch cannot differentiate the
            loss twice; or the optimizer's steps are not proportional to the rate, so that there is no direction
            (``LBFGS``, ``Rprop``, ``ASGD`` with state, ``Adafactor``).

    References:
        Pearlmutter (1994). Fast exact multiplication by the Hessian. Neural Computation 6(1).

    Example:
        For half of a squared error of one observation x, the gradient of a linear layer is the residual times (x, 1),
        and the step that leads to 0 has the rate 1 / (1 + |x|^2), here 1 / 6:

        >>> from autolr import taylor_expansion
        >>> model = nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> half_square = lambda output, target: (output - target).square().sum() / 2
        >>> X, Y = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]])
        >>> expansion = taylor_expansion(model, half_square, optimizer, X, Y)
        >>> round(expansion.minimizer, 5)
        0.16667
    """
    training = check_training(model, loss_fn, optimizer, compute_loss=compute_loss, device=device)
    rates = None if learning_rates is None else _check_rates(learning_rates)
    seed = seed_of(entropy_of(check_rng(rng)), BATCH_STATE)
    with training.preserved() as start, twice_differentiable():
        batch = read_batch(X, Y, device=training.device, dtype=training.dtype)
        start.randomness.fork(seed)
        check_batch(start.objective, "given", batch)
        expansion = TaylorExpansion(*differentiate(start, batch))
        if rates is None:
            rates = linear_grid(0.0, expansion._reach(start.learning_rate), _NUM_RATES)
        if rates.size == 0:
            return expansion
        losses = losses_on_batch(start, rates, batch, seed, engine="auto")
    return TaylorExpansion(expansion.loss, expansion.slope, expansion.curvature, rates, losses)


def _number(value: float) -> str:
    return format_rate(value, digits=4)


def _check_rates(value: ArrayLike) -> FloatArray:
    """Return rates that are not negative, or none."""
    array = check_array("learning_rates", value)
    return array if array.shape == (0,) else check_learning_rates(value, zero=True)

"""A scheduler that sets the rate at which the expansion of the loss is lowest, step by step."""

from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from autolr._typing import ComputeLoss, LossFunction
from autolr._validation import check_real, invalid
from autolr.data import read_batch
from autolr.param_groups import base_learning_rates, set_learning_rate
from autolr.probing.taylor import differentiate, twice_differentiable
from autolr.subsampling import BATCH_STATE, seed_of
from autolr.training import check_batch, check_training

_NOT_SAVED = ("_training", "_is_checked")


class SecondOrderLR(LRScheduler):
    r"""Sets the learning rate at which the loss on a batch, expanded to second order, is lowest.

    With the optimizer's direction d, :math:`\theta(\mathrm{lr}) = \theta_0 - \mathrm{lr}\, d`, and the gradient g and
    the Hessian H of the loss on the batch given to :meth:`step`, the loss is about
    :math:`L(0) - \langle g, d \rangle \,\mathrm{lr} + \langle d, H d \rangle \,\mathrm{lr}^2 / 2`, which is lowest at

    .. math:: \mathrm{lr} = \frac{\langle g, d \rangle}{\langle d, H d \rangle},

    clamped to [``lr_min``, ``lr_max``]. For plain gradient descent on a quadratic loss this is the exact line search of
    steepest descent (Cauchy 1847). The last rate is kept (clamped too) where there is no such minimum: the curvature
    :math:`\langle d, H d \rangle` is not positive, the step does not descend (:math:`\langle g, d \rangle \le 0`), or a
    derivative is not finite.

    It is sensible where the batch stands for the whole loss: full batches or large ones. On small ones the rate follows
    their noise, and is too large on average, as each step is the best one for a batch that it has seen. It is greedy
    also with full batches: the rate that is best for the next step is below the best one for a long run, in which
    directions of high curvature may oscillate while others make progress (short-horizon bias, Wu et al. 2018).

    A step with data costs a loss, a gradient, and one that is differentiated in its turn, besides the gradient of the
    training. It changes the rates of the groups, which keep the ratios that they had at construction, and nothing else
    of model or optimizer. Random masks are drawn anew at each step, by the number of calls; the global generators are
    left alone.

    Args:
        optimizer: The optimizer; its rates are left as they are until :meth:`step` is given data.
        model: The model that it trains.
        loss_fn: ``loss_fn(output, target) -> scalar tensor``, or ``None`` where ``compute_loss`` is given or the
            model's output carries its loss.
        lr_min: The smallest rate of the first parameter group, positive.
        lr_max: The largest one.
        compute_loss: ``compute_loss(model, batch) -> scalar tensor`` instead of ``loss_fn``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is not allowed: as for :func:`autolr.taylor_expansion`, or not 0 < lr_min <= lr_max.

    References:
        Cauchy (1847). Methode generale pour la resolution des systemes d'equations simultanees. Comptes rendus 25.
        Wu, Ren, Liao and Grosse (2018). Understanding short-horizon bias in stochastic meta-optimization. ICLR.

    Example:
        The loss w^2 / 2 has the gradient w and the curvature 1, so that a step at rate 1 leads to its minimum:

        >>> from autolr import SecondOrderLR
        >>> model = nn.Linear(1, 1, bias=False)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> half_square = lambda output, target: (output - target).square().mean() / 2
        >>> scheduler = SecondOrderLR(optimizer, model, half_square, lr_min=1e-3, lr_max=10.0)
        >>> scheduler.step(torch.ones(1, 1), torch.zeros(1, 1))
        >>> [round(rate, 6) for rate in scheduler.get_last_lr()]
        [1.0]
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        loss_fn: LossFunction | None = None,
        *,
        lr_min: float,
        lr_max: float,
        compute_loss: ComputeLoss | None = None,
    ) -> None:
        self._training = check_training(model, loss_fn, optimizer, compute_loss=compute_loss)
        if len(self._training.members) > 1:
            alone = "not be shared by several ranks, whose batches would set different rates"
            raise ValueError(invalid("model", alone, type(model).__name__))
        self._is_checked = False
        self.lr_min = check_real("lr_min", lr_min, above=0.0)
        self.lr_max = check_real("lr_max", lr_max, above=0.0)
        if self.lr_max < self.lr_min:
            raise ValueError(invalid("lr_max", f"be at least `lr_min` ({self.lr_min:g})", lr_max))
        self._ratios = base_learning_rates(optimizer)
        super().__init__(optimizer)

    def step(self, X: Any = None, Y: Any = None) -> None:
        """Count a step and, with data, set the rate from it.

        Args:
            X: The inputs, shape (m, ...): a tensor, a NumPy array or a pandas frame; or, without Y, one batch of any
                form. ``None`` (torch's own call at construction): no rate is changed.
            Y: The targets, shape (m, ...), or ``None``.

        Raises:
            TypeError: If the data has the wrong type.
            ValueError: As :func:`autolr.taylor_expansion`, but for derivatives that are not finite; or if the optimizer
                has been given other parameter groups.
        """
        if X is not None or Y is not None:
            if len(self._ratios) != len(self.optimizer.param_groups):
                groups = f"have the {len(self._ratios)} parameter groups whose ratios the scheduler keeps"
                raise ValueError(invalid("optimizer", groups, len(self.optimizer.param_groups)))
            rate = self._minimizer(X, Y)
            set_learning_rate(self.optimizer, min(max(rate, self.lr_min), self.lr_max), self._ratios)
        # NOTE: not torch's own step, which warns where no step of the optimizer came before: here the rate comes first
        self._step_count += 1
        self.last_epoch += 1
        self._last_lr = self.get_lr()

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the present rates of the groups; tensors are copies."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        return [rate.clone() if isinstance(rate, torch.Tensor) else rate for rate in rates]

    def state_dict(self) -> dict[str, Any]:
        """Return counters, limits, rates and their ratios as plain values; neither the model nor its loss."""
        return {name: value for name, value in super().state_dict().items() if name not in _NOT_SAVED}

    def _minimizer(self, X: Any, Y: Any) -> float:
        """Return the rate at which the expansion on a batch is lowest, or the present one where there is none."""
        training = self._training
        with training.preserved() as start, twice_differentiable():
            batch = read_batch(X, Y, device=training.device, dtype=training.dtype)
            start.randomness.fork(seed_of(0, BATCH_STATE, self._step_count))
            if not self._is_checked:
                check_batch(start.objective, "scheduler's", batch)
                self._is_checked = True
            _, slope, curvature = differentiate(start, batch)
        if slope < 0.0 < curvature:
            return -slope / curvature
        return float(self.optimizer.param_groups[0]["lr"])

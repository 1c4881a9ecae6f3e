"""The line probe: one real step gives the direction, then forwards only; with the gate that it must pass."""

import math

import numpy as np

from autolr._typing import Batch, EngineName, FloatArray
from autolr.probing.contest import Contest
from autolr.probing.direction import Direction, is_linear
from autolr.probing.forwards import Forwards, coarseness, deviation
from autolr.probing.gradients import RowGradients
from autolr.probing.start import Start, needs_closure
from autolr.probing.step import probe_by_steps


class LineProbe:
    r"""Probes along the line on which the optimizer's step lies, where it is linear in the rate.

    For most optimizers, given the state and the gradient, :math:`\theta(\mathrm{lr}) = \theta_0 - \mathrm{lr}\, d`. One
    real step at the largest rate gives d (:class:`Direction`); the rest is forwards (:class:`Forwards`). Hooks of the
    optimizer (clipping) run in that step. Whether the step is linear is not assumed but tested: on the first and the
    last row in full, losses included (:meth:`objection`), and in every row by a second real step at a small rate, which
    must lie on the line too; where it does not, the row is probed by real steps. (The second step is spared where the
    optimizer is one of torch's own, without hooks, whose formula is linear in the rate: :func:`is_linear`.)

    Args:
        start: The start of all probes.
        learning_rates: All rates, shape ``(K,)``; rows may be probed at some of them only.
        engine: ``"line"``, ``"batched"``, or ``"auto"`` for the faster one: see :class:`Forwards`.

    Attributes:
        highest: The highest rate, at which the step is taken that gives d.
        is_verified: Whether it was verified on a row.
        checks_every_row: Whether a second real step is taken in every row.
    """

    def __init__(self, start: Start, learning_rates: FloatArray, engine: EngineName = "line") -> None:
        self._start = start
        self._learning_rates = learning_rates
        self._direction = Direction(start)
        self.highest = self._check_rate = float(learning_rates[-1])
        self._forwards = Forwards(start, self._direction, engine)
        self.is_verified = False
        line = {id(parameter) for parameter in self._direction.parameters}
        self._frozen = [weight for weight in start.objective.weights if id(weight) not in line]
        self.checks_every_row = not is_linear(start.optimizer)

    @property
    def contest(self) -> Contest:
        """Which engine computes the losses."""
        return self._forwards.contest

    def __call__(self, learning_rates: FloatArray, batch: Batch, evaluation_batch: Batch) -> tuple[float, FloatArray]:
        """Return the loss before, and the losses after a step at each of some rates, as the reference does.

        Args:
            learning_rates: The rates, shape ``(K,)``.
            batch: The subsample that gives the gradient.
            evaluation_batch: The subsample on which the losses are measured; it may be the same.

        Returns:
            The loss before, and the losses after, shape ``(K,)``; what is not finite is ``inf``.
        """
        start = self._start
        gradients = self._direction.gradients(batch)
        if not self._take(gradients):
            return probe_by_steps(start, learning_rates, batch, evaluation_batch)
        frozen = [weight._version for weight in self._frozen]
        loss_pre, *loss_post = self._forwards.losses(np.append(0.0, learning_rates), evaluation_batch)
        # a forward has changed what none has changed on the batches that were checked
        if start.objective.lockstep.any(start.restore()):
            start.objective.expect_changes()
            return probe_by_steps(start, learning_rates, batch, evaluation_batch)
        if frozen != [weight._version for weight in self._frozen]:
            return probe_by_steps(start, learning_rates, batch, evaluation_batch)
        return float(loss_pre), np.where(np.isfinite(loss_post), loss_post, np.inf)

    def objection(self, batch: Batch, evaluation_batch: Batch) -> str | None:
        r"""Return why the line may not be used, or ``None`` where real steps verify it on these subsamples.

        Real steps at four rates from the lowest to the highest must lie on the line, tensor by tensor
        (:meth:`Direction.off_line`), and the losses there must agree to :math:`\max(10^{-6}, 8 \epsilon) \max(|L|, 1)`,
        with :math:`\epsilon` the resolution of the dtype. A rate whose step is lost in the rounding of the weights
        proves nothing: the lowest one tested is where the gate sees a deviation of a tenth of the step, another where
        it sees :math:`10^{-4}`, off the grid if need be.

        The first time, ways to spare forwards are learned; later they are verified too.
        """
        start, direction = self._start, self._direction
        if needs_closure(start.optimizer):
            return f"{type(start.optimizer).__name__} computes losses within its step"
        if not direction.is_whole:
            return "a parameter is sparse"
        if (reason := coarseness(start, direction.parameters)) is not None:
            return reason
        try:
            return self._objection(batch, evaluation_batch)
        finally:
            start.restore()

    def _objection(self, batch: Batch, evaluation_batch: Batch) -> str | None:
        start, direction = self._start, self._direction
        lowest, highest = float(self._learning_rates[0]), self.highest
        start.restore()
        gradients = direction.gradients(batch)
        line = [sketch / highest for sketch in direction.step(highest, gradients)]
        start.restore()
        length = direction.length(line)
        if not (math.isfinite(length) and length > 0.0):
            return f"the step at {highest:g} is {'zero' if length == 0.0 else 'not finite'}"
        coarse, fine = direction.resolvable(length)
        low, fine = max(lowest, coarse), max(lowest, fine)
        high = max(highest, fine)
        self._check_rate = next((rate for rate in (fine, low) if rate < highest), highest)
        rates = sorted({low, fine, math.sqrt(low * high), high})
        real = []
        for rate in rates:
            objection = direction.off_line(rate, direction.step(rate, gradients), line)
            if objection is not None:
                return objection
            real.append(start.loss(evaluation_batch))
            start.restore()
        direction.take(highest, gradients)
        on_line = self._forwards.whole(rates, evaluation_batch)
        objection = deviation(rates, on_line, np.array(real), start.objective.epsilon)
        if objection is not None:
            return f"{objection} on the line"
        start.restore()
        if self.is_verified:
            return self._forwards.objection(rates, on_line, evaluation_batch)
        self.is_verified = True
        self._forwards.learn(self._learning_rates, rates, on_line, evaluation_batch)
        return None

    def _take(self, gradients: RowGradients) -> bool:
        """Measure the direction of a row, and return whether a second real step lies on its line.

        The second step is at the smallest rate that can be resolved: a step that is bent at the highest rate only, by a
        limit on its length or on the weights, is seen as well, as the line is then the wrong one at small rates. It is
        spared where the optimizer's own formula has no such limit. A step that overflowed has no line.
        """
        direction = self._direction
        real = []
        if self.checks_every_row:
            real = direction.step(self._check_rate, gradients)
            self._start.restore()
        direction.take(self.highest, gradients)
        if not direction.is_finite():
            return False
        return not real or direction.off_line(self._check_rate, real, direction.sketches()) is None

"""One training run at a rising rate: its losses, smoothed, and where it diverges."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, Self, TypeAlias

from autolr._typing import Batch
from autolr.batches import MicroBatches
from autolr.param_groups import set_learning_rate
from autolr.probing.start import Start, needs_closure

RangeSchedule: TypeAlias = Literal["exponential", "linear"]


class Point(NamedTuple):
    """An iteration: its loss, the smoothed loss, and whether the run has diverged with it."""

    loss: float
    smoothed: float
    diverged: bool


def rising_rates(start_lr: float, end_lr: float, num_iter: int, schedule: RangeSchedule) -> list[float]:
    r"""Return the rate of each iteration.

    With :math:`t = i / (n - 1)` for iteration i of n, :math:`a (b / a)^t` (exponential) or :math:`a + t (b - a)`.

    Args:
        start_lr: The first rate a.
        end_lr: The last rate b.
        num_iter: The number of iterations n, at least 2.
        schedule: ``"exponential"`` or ``"linear"``.

    Example:
        >>> rising_rates(0.25, 1.0, 3, "exponential"), rising_rates(0.25, 1.0, 3, "linear")
        ([0.25, 0.5, 1.0], [0.25, 0.625, 1.0])
    """
    shares = [iteration / (num_iter - 1) for iteration in range(num_iter)]
    if schedule == "exponential":
        return [start_lr * (end_lr / start_lr) ** share for share in shares]
    return [start_lr + share * (end_lr - start_lr) for share in shares]


def rising_losses(
    start: Start,
    learning_rates: Sequence[float],
    batches: Iterator[Batch],
    *,
    accumulation_steps: int = 1,
    evaluate: Callable[[], float] | None = None,
) -> Iterator[float]:
    """Train from where the model is, a step at each rate, and yield the loss of each iteration.

    It is the user's own training, in the modes in which the modules are: what forwards leave in them is kept, and
    random numbers follow each other, those of a batch that is drawn, of its forward, of the next batch, and so on.

    Args:
        start: The start; the model ends wherever the last step leads it.
        learning_rates: The rate of each step.
        batches: The batches, without end; each is drawn when its turn comes.
        accumulation_steps: The micro-batches of a step, over which losses and gradients are averaged.
        evaluate: Measures the loss after each step; ``None``: the loss is that of the step's own batch before it.

    Yields:
        The loss of each iteration.
    """
    for learning_rate in learning_rates:
        set_learning_rate(start.optimizer, learning_rate, start.base, groups=start.groups)
        loss = _train(start, _AsDrawn(batches, accumulation_steps))
        yield loss if evaluate is None else evaluate()


def follow(losses: Iterable[float], *, smoothing: float, divergence_factor: float) -> Iterator[Point]:
    r"""Smooth losses as they come, up to the one with which the run has diverged.

    With the weight :math:`s` of a new loss, :math:`\bar L_0 = L_0` and :math:`\bar L_i = s L_i + (1 - s) \bar
    L_{i-1}`; 0: no smoothing, :math:`\bar L_i = L_i`. A run has diverged with the first smoothed loss above
    :math:`m + (f - 1) |m|`, where :math:`m` is the smallest so far and :math:`f` the factor: for positive losses
    :math:`f m`, which is the usual definition. A loss that is not finite counts as ``inf``, and as a divergence.

    Args:
        losses: The losses, of which no more are asked for after a divergence.
        smoothing: The weight of a new loss, in [0, 1).
        divergence_factor: The factor f, above 1.

    Yields:
        The iterations, the one with which the run has diverged included.

    Example:
        >>> [point.smoothed for point in follow([4.0, 2.0, 7.0], smoothing=0.5, divergence_factor=2.0)]
        [4.0, 3.0, 5.0]
        >>> [point.diverged for point in follow([-2.0, -1.0, 1.0, 3.0], smoothing=0.0, divergence_factor=2.0)]
        [False, False, True]
    """
    smoothed = smallest = math.inf
    for loss in losses:
        if not math.isfinite(loss):
            yield Point(math.inf, math.inf, diverged=True)
            return
        first = smoothed == math.inf
        smoothed = loss if first or smoothing == 0.0 else smoothing * loss + (1.0 - smoothing) * smoothed
        smallest = min(smallest, smoothed)
        most = divergence_factor * smallest if smallest > 0.0 else smallest + (divergence_factor - 1.0) * -smallest
        diverged = smoothed > most
        yield Point(loss, smoothed, diverged)
        if diverged:
            return


class _AsDrawn(MicroBatches):
    """The micro-batches of a step, each drawn when its turn comes, after the forward of the one before; then kept.

    A loader that is begun again, or draws random numbers, does so where it would in the user's training.
    """

    _left: Iterator[Batch]
    _num: int
    _drawn: list[Batch]

    def __new__(cls, batches: Iterator[Batch], num: int) -> Self:
        self = super().__new__(cls)
        self._left, self._num, self._drawn = batches, num, []
        return self

    def __len__(self) -> int:
        return self._num

    def __iter__(self) -> Iterator[Batch]:
        yield from self._drawn
        for batch in itertools.islice(self._left, self._num - len(self._drawn)):
            self._drawn.append(batch)
            yield batch


def _train(start: Start, batch: Batch) -> float:
    """Take a step, and return the loss before it; an optimizer that needs a closure gets one on the same batch."""
    losses: list[float] = []

    def closure() -> float:
        losses.append(float(start.objective.gradient(batch, keep=True)))
        return losses[-1]

    if needs_closure(start.optimizer):
        start.optimizer.step(closure)
    else:
        closure()
        start.optimizer.step()
    return losses[0]

"""Courses: training at several rates on the same batches, with the losses along the way and an end to the hopeless."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autolr._typing import Batch, FloatArray
from autolr.probing.start import Start
from autolr.probing.trajectory import StepSeed, Trajectory

# High losses after which the untrained losses of their batches are measured, before the course goes on. Each time, the
# course is parked: 1 would do so at each outlier, many would train a hopeless course on for as many steps. A choice,
# not measured; it changes costs, not decisions.
_MANY = 3


@dataclass(eq=False)
class Course:
    """Training at one rate.

    Attributes:
        learning_rate: The rate.
        trajectory: Where it is.
        losses: The losses before each step, on the step's own batch.
        given_up: After how many steps it was given up, or ``None``.
        held_out: The loss on what no course trains on, at the end; NaN where not measured.
        held_out_losses: That of each of its batches.
    """

    learning_rate: float
    trajectory: Trajectory
    losses: list[float] = field(default_factory=list)
    given_up: int | None = None
    held_out: float = math.nan
    held_out_losses: tuple[float, ...] = ()

    def as_json(self) -> list[Any]:
        """Return its numbers as JSON values (with NaN and infinities)."""
        return [self.learning_rate, self.losses, self.given_up, self.held_out, self.held_out_losses]

    @classmethod
    def of_json(cls, values: Sequence[Any], start: Start) -> "Course":
        """Return what :meth:`as_json` has told; it cannot go on."""
        rate, losses, given_up, held_out, held_out_losses = values
        nowhere = Trajectory(start, np.random.SeedSequence)
        return cls(rate, nowhere, losses, given_up, held_out, tuple(held_out_losses))

    @property
    def judged(self) -> float:
        """The held-out loss; ``inf`` where given up."""
        return math.inf if self.given_up is not None else self.held_out

    def score(self, first: int, last: int) -> float:
        """Return the mean of the losses before the steps from ``first`` to ``last``; ``inf`` where given up."""
        return math.inf if self.given_up is not None else float(np.mean(self.losses[first:last]))


class Courses:
    """Courses on one stream of batches; one of them is on the model at a time.

    Every course begins at the start of all probes and sees the same batches and the same random masks. A course is
    given up where a loss is not finite, or is hopeless: above ``hopeless`` times the first untrained loss, and as many
    times the untrained loss on the same batch, which keeps a course alive through a batch of outliers. Of a loss that
    may be 0 or below, that means the untrained loss plus ``hopeless - 1`` times its size, or its spread over batches if
    that is larger.

    Args:
        start: The start.
        batch: The batch of each step.
        state: The random state of each step.
        hopeless: See above.
    """

    def __init__(self, start: Start, batch: Callable[[int], Batch], state: StepSeed, *, hopeless: float) -> None:
        self._start, self._batch, self._state, self._hopeless = start, batch, state, hopeless
        self._untrained: dict[int, float] = {}
        self._spread = 0.0

    def measure_untrained(self, num_steps: int) -> FloatArray:
        """Return the losses on the first batches before any step, shape ``(num_steps,)``; this comes before any course.

        Args:
            num_steps: How many batches, at least 1.
        """
        for step in range(num_steps):
            self._measure(step)
        losses = np.array([self._untrained[step] for step in range(num_steps)])
        self._spread = float(np.std(losses))
        return losses

    def begin(self, learning_rate: float) -> Course:
        """Return a new course, which is on the model from now on."""
        trajectory = Trajectory(self._start, self._state)
        trajectory.begin()
        return Course(learning_rate, trajectory)

    def run(self, course: Course, last: int, *, shape: Callable[[int], float] = lambda _: 1.0) -> None:
        """Go on with the course that is on the model, up to the step ``last``, or until it is given up.

        Args:
            course: The course.
            last: The number of its steps afterwards.
            shape: The factor of the rate in each step.
        """
        suspects: list[int] = []  # steps whose loss is high, with an untrained loss that is not known yet
        for step in range(course.trajectory.num_steps, last):
            if len(suspects) >= _MANY and self._is_hopeless(course, suspects):
                return
            batch = self._batch(step)
            loss = course.trajectory.gradient(batch)
            course.losses.append(loss)
            high = not loss <= self._limit(0)
            if not math.isfinite(loss) or (high and step in self._untrained and loss > self._limit(step)):
                course.given_up = step
                return
            if high and step not in self._untrained:
                suspects.append(step)
            course.trajectory.step(course.learning_rate * shape(step), batch)
        self._is_hopeless(course, suspects)

    def judge(self, course: Course, batches: Sequence[Batch], state: np.random.SeedSequence) -> None:
        """Measure the held-out loss of the course that is on the model, all modules in evaluation mode."""
        losses = course.held_out_losses = tuple(
            course.trajectory.loss(batch, state, training=False) for batch in batches
        )
        mean = float(np.mean(losses))
        course.held_out = mean if math.isfinite(mean) else math.inf
        if not math.isfinite(mean):
            course.given_up = course.trajectory.num_steps

    def _is_hopeless(self, course: Course, suspects: list[int]) -> bool:
        """Return whether a suspect is above the limit of its own batch; the course stays on the model."""
        if not suspects:
            return False
        course.trajectory.park()
        confirmed = []
        for step in suspects:
            self._measure(step)
            if course.losses[step] > self._limit(step):
                confirmed.append(step)
        course.trajectory.resume()
        suspects.clear()
        if confirmed:
            course.given_up = confirmed[0]
        return bool(confirmed)

    def _limit(self, step: int) -> float:
        untrained = self._untrained[step]
        return untrained + (self._hopeless - 1.0) * max(abs(untrained), self._spread)

    def _measure(self, step: int) -> None:
        """Measure the loss on the batch of a step before any step; the model is at the start afterwards."""
        self._start.restore()
        batch = self._batch(step)  # drawing it may move the random state
        self._start.randomness.fork(self._state(step))
        self._untrained[step] = self._start.objective.loss(batch)

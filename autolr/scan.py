"""One stream of a search: a scan over rates for some steps, the best ones for longer, and where they are best."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import numpy as np
from scipy import stats

from autolr._typing import Batch
from autolr.picker import (
    ANNEAL_SHARE,
    CLEAR_FALL,
    HIGHEST,
    LARGEST_GAP,
    LOWEST,
    NO_EFFECT,
    PATIENCE,
    PATIENCE_UNCLEAR,
    STEP,
    TOP,
    gaps,
    vertex,
)
from autolr.probing.courses import Course, Courses
from autolr.probing.start import Start

# Where no rate lowers the loss clearly, as on the plateau of a deep sigmoid network, the scan tells nothing but harm:
# the three largest rates that do not raise the loss by more than this share go on, a quarter longer than finalists do.
# In the task of the benchmark by which this was chosen, the rates that leave the plateau raise it by 2.6 to 7.6% at
# first, and those above them by 9% or more. Without this, the pick there was 100 times too small.
CANDIDATES, CLEAR_RISE, PLATEAU_FACTOR = 3, 0.08, 1.25
# Where the best of the scan and the next smaller rate end within this gap, the best one lies between them, whatever a
# third would say. With 0.1 in its place a search takes 230 evaluations in place of 300, and the mean regret is 1.4%
# larger.
NEARLY_EQUAL = 0.02
# With fewer steps than this beyond the scan, finals are left out: they would cost three times as many evaluations, and
# say hardly more than the scan does. A choice, not measured.
FEWEST_MORE = 10


@dataclass(eq=False)
class Scan:
    """What one stream found; rates are known by their number n, the rate being ``10 * 10**(n / 2)``.

    Attributes:
        courses: The courses by the number of their rate.
        scan_steps: The steps of each in the scan.
        final_steps: The steps of the finalists, without those of the annealing; 0 without finals.
        anneal_steps: The steps in which their rates fall to 0.
        finalists: Their numbers.
        best: The number of the best rate.
        vertex: The decimal logarithm of the rate at which the parabola through the finalists is lowest, within them.
        measure: What the parabola goes through: ``"log loss"`` or ``"share of the gain"``.
        untrained: The loss before any step, on what the best was judged by.
        untrained_losses: That on the batch of each step of the scan.
        best_loss: The loss of the best, on what it was judged by.
        online: Whether it was judged by losses before the steps, rather than on held-out batches.
        size: The size of the untrained loss, or its spread over batches if that is larger.
        plateau: Whether no rate of the scan lowered the loss clearly, so that the finals are other ones.
        flat: Whether the best lowers the loss by no more than chance would.
    """

    courses: dict[int, Course] = field(default_factory=dict)
    scan_steps: int = 0
    final_steps: int = 0
    anneal_steps: int = 0
    finalists: tuple[int, ...] = ()
    best: int = 0
    vertex: float = math.nan
    measure: str = "log loss"
    untrained: float = math.nan
    untrained_losses: tuple[float, ...] = ()
    best_loss: float = math.inf
    online: bool = True
    size: float = math.nan
    plateau: bool = False
    flat: bool = False

    @property
    def num_steps(self) -> int:
        """After how many steps the rates were compared."""
        return self.final_steps or self.scan_steps

    @property
    def survivors(self) -> list[int]:
        """The numbers of the rates that were compared, in the finals if there were any, and not given up."""
        return [number for number in self.finalists or self.courses if self.courses[number].given_up is None]

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON values (with NaN and infinities), but for where the courses' weights are."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "courses"}
        return {**values, "courses": [[number, course.as_json()] for number, course in self.courses.items()]}

    @classmethod
    def of_json(cls, values: Mapping[str, Any], start: Start) -> "Scan":
        """Return what :meth:`as_json` has told; its courses cannot go on."""
        told: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        told["courses"] = {number: Course.of_json(course, start) for number, course in values["courses"]}
        return cls(**told)


def exponent(number: int) -> float:
    """Return the decimal logarithm of the rate with a number."""
    return math.log10(TOP) + STEP * number


def search_stream(
    courses: Courses,
    held_out: Sequence[Batch],
    untrained_held_out: Sequence[float],
    state: np.random.SeedSequence,
    *,
    scan_steps: int,
    final_steps: int,
    evaluations_left: Callable[[], float],
) -> Scan:
    """Scan, let the best and its neighbours go on, and find where they are best.

    1. From 10 downwards in half-decades, each rate takes ``scan_steps`` steps on the same batches; its score is the
       mean loss before the step over the last half of them. The scan ends after a worse rate, once the best is below
       the untrained loss, or where a rate has no effect. If 10 is the best, it goes on upwards.
    2. The best and the next smaller one go on to ``final_steps``, and their rates then fall to 0 in a fifth as many.
       They are judged by the held-out loss; without held-out batches, by the losses before the steps of the last half
       of the fall. If the smaller one is now better, a third one below it is trained too; if it is worse, the one
       above the best. One that did not lower the loss in the scan, or is far worse already, is left out, and counts as
       far worse.
       Where no rate lowers the loss clearly, the loss may be a plateau: then the finalists are the three largest rates
       that do not raise it clearly, with more steps.
    3. The vertex is that of the parabola through the three (:func:`autolr.picker.gaps`), within them.

    Args:
        courses: The courses of this stream.
        held_out: The batches on which finalists are judged; none: they are judged online.
        untrained_held_out: The losses on them before any step.
        state: The random state of held-out losses.
        scan_steps: The steps of the scan.
        final_steps: The steps of the finals; fewer where fewer evaluations are left.
        evaluations_left: How many gradient evaluations may still be spent.

    Returns:
        What was found. Where every rate was given up, it has no vertex.

    Raises:
        ValueError: If a loss before any step is not finite; batches are counted from 0.
    """
    scan = Scan(scan_steps=scan_steps)
    losses = courses.measure_untrained(scan_steps)
    if not np.isfinite(losses).all():
        batch = int(np.argmin(np.isfinite(losses)))
        raise ValueError(f"`data` must give finite losses before any step, got {losses[batch]} on batch {batch}.")
    scan.untrained = float(losses[scan_steps // 2 :].mean())
    scan.untrained_losses = tuple(map(float, losses))
    scan.size = max(abs(scan.untrained), float(losses.std()))
    _scan(scan, courses, evaluations_left)
    if not scan.survivors:
        return scan
    finals = _Finals(courses, held_out, untrained_held_out, state)
    candidates = _plateau(scan)
    scan.plateau = bool(candidates)
    if scan.plateau:
        final_steps = round(PLATEAU_FACTOR * final_steps)
    final_steps = _affordable(final_steps, scan_steps, 3, len(held_out), evaluations_left())
    if final_steps >= scan_steps + FEWEST_MORE:
        finals.run(scan, final_steps, candidates)
    for course in scan.courses.values():
        course.trajectory.forget()
    if not scan.survivors:
        return scan
    heights = np.array([loss_of(scan, number) for number in (scan.best - 1, scan.best, scan.best + 1)])
    center = scan.best
    if scan.finalists:
        scan.best = min(scan.finalists, key=partial(loss_of, scan))
    scan.best_loss = loss_of(scan, scan.best)
    scan.flat = _is_flat(scan, untrained_held_out)
    distances, scan.measure = gaps(heights, scan.untrained)
    scan.vertex = vertex([exponent(center + n) for n in (-1, 0, 1)], distances)
    if scan.plateau and distances.max() < CLEAR_FALL:  # a parabola through noise
        scan.vertex = exponent(center)
    return scan


def _scan(scan: Scan, courses: Courses, evaluations_left: Callable[[], float]) -> None:
    """Run the scan; parked are the last course and those, at most three, that would go on if the scan ended there."""

    def visit(number: int) -> None:
        course = scan.courses[number] = courses.begin(10.0 ** exponent(number))
        courses.run(course, scan.scan_steps)
        if _score(scan, number) < _score(scan, scan.best) or number == 0:
            scan.best = number
        for other in scan.courses.keys() - set(_plateau(scan) or (scan.best - 1, scan.best, scan.best + 1)):
            scan.courses[other].trajectory.forget()
        if course.given_up is None:
            course.trajectory.park()

    number, num_worse = 0, 0
    while exponent(number) >= math.log10(LOWEST):
        visit(number)
        num_worse = 0 if scan.best == number else num_worse + 1
        patience = PATIENCE if _falls_clearly(scan) else PATIENCE_UNCLEAR
        if _score(scan, scan.best) < scan.untrained and num_worse >= patience:
            break
        if _has_no_effect(scan, number):
            break
        if scan.survivors and evaluations_left() < scan.scan_steps:
            break
        number -= 1
    number = 1
    while scan.best == number - 1 and scan.survivors and exponent(number) <= math.log10(HIGHEST):
        visit(number)
        number += 1


class _Finals:
    """The best rate and its neighbours, trained on, annealed and judged."""

    def __init__(
        self, courses: Courses, held_out: Sequence[Batch], untrained: Sequence[float], state: np.random.SeedSequence
    ) -> None:
        self._courses, self._held_out, self._untrained, self._state = courses, held_out, untrained, state

    def run(self, scan: Scan, final_steps: int, candidates: Sequence[int]) -> None:
        """Let the finalists go on; where none survives, the next smaller rates enter.

        Args:
            scan: The scan; it is changed.
            final_steps: The steps before the annealing.
            candidates: Three neighbours that are the finalists of a plateau; none: the best and its neighbours.
        """
        scan.final_steps, scan.anneal_steps = final_steps, max(1, round(ANNEAL_SHARE * final_steps))
        scan.online = not self._held_out
        if self._held_out:
            scan.untrained = float(np.mean(self._untrained))
        center = candidates[1] if candidates else scan.best
        for number in candidates or (center, center - 1):
            self._run_one(scan, number)
        losses = np.array([loss_of(scan, center - 1), loss_of(scan, center)])
        if not candidates and np.isfinite(losses).any():
            gap = gaps(losses, scan.untrained)[0][1]
            if gap > NEARLY_EQUAL:
                center -= 1
                self._run_one(scan, center - 1)
            elif gap == 0.0 and self._is_promising(scan, center + 1):
                self._run_one(scan, center + 1)
        scan.best = center
        while all(scan.courses[number].given_up is not None for number in scan.finalists):
            number = min(scan.finalists) - 1
            if exponent(number) < math.log10(LOWEST):
                return
            scan.best = number
            self._run_one(scan, number)

    def _is_promising(self, scan: Scan, number: int) -> bool:
        """Return whether the rate above the best lowered the loss in the scan, and is not far worse already."""
        scores = np.array([_score(scan, scan.best), _score(scan, number)])
        untrained = float(np.mean(scan.untrained_losses[scan.scan_steps // 2 :]))
        return bool(scores[1] < untrained and gaps(scores, untrained)[0][1] < LARGEST_GAP)

    def _run_one(self, scan: Scan, number: int) -> None:
        course = scan.courses.get(number)
        if course is not None and (course.given_up is not None or course.trajectory.is_parked):
            course.trajectory.resume()
        else:
            course = scan.courses[number] = self._courses.begin(10.0 ** exponent(number))
        last = scan.final_steps + scan.anneal_steps

        def falling(step: int) -> float:
            return min(1.0, (last - step) / (scan.anneal_steps + 1.0))

        if course.given_up is None:
            self._courses.run(course, last, shape=falling)
        if course.given_up is None and self._held_out:
            self._courses.judge(course, self._held_out, self._state)
        scan.finalists = (*scan.finalists, number)


def _score(scan: Scan, number: int) -> float:
    """Return the score of a rate in the scan; ``inf`` where it was given up or not visited."""
    course = scan.courses.get(number)
    return math.inf if course is None else course.score(scan.scan_steps // 2, scan.scan_steps)


def loss_of(scan: Scan, number: int) -> float:
    """Return the loss by which a rate is judged; ``inf`` where it was given up or did not take part."""
    if not scan.finalists:
        return _score(scan, number)
    if number not in scan.finalists:
        return math.inf
    course = scan.courses[number]
    last = scan.final_steps + scan.anneal_steps
    return course.score(last - scan.anneal_steps // 2, last) if scan.online else course.judged


def _falls_clearly(scan: Scan) -> bool:
    """Return whether the best rate of the scan lowers the loss by more than a fiftieth."""
    return scan.untrained - _score(scan, scan.best) > CLEAR_FALL * scan.size


def _plateau(scan: Scan) -> list[int]:
    """Return the finalists of a plateau, decreasing: the three largest neighbours that survived without a clear rise.

    There are none where a rate lowers the loss clearly, or where there are no such three.
    """
    highest = scan.untrained + CLEAR_RISE * scan.size
    numbers = sorted((n for n in scan.courses if _score(scan, n) <= highest), reverse=True)[:CANDIDATES]
    neighbours = len(numbers) == CANDIDATES and numbers[0] - numbers[-1] == CANDIDATES - 1
    return numbers if neighbours and not _falls_clearly(scan) else []


def _has_no_effect(scan: Scan, number: int) -> bool:
    """Return whether the losses at a rate are the untrained ones, step by step: on the same batches, with equal masks.

    Their means can be equal by chance: a network that dies may end with the output that it began with.
    """
    course = scan.courses[number]
    changes = np.abs(np.subtract(course.losses, scan.untrained_losses[: len(course.losses)]))
    return course.given_up is None and float(changes.max()) <= NO_EFFECT * scan.size


def _is_flat(scan: Scan, untrained: Sequence[float]) -> bool:
    """Return whether the best loss is not below the untrained one, or by little and not alike on the held-out batches.

    Little is less than a fiftieth of the loss; alike, the paired t test on the batches at a one-sided level of 99%, as
    the best of several rates is tested: about five, each at 0.01, which keeps a false alarm below 5%. The level is a
    choice, not measured; the batches come from one set of observations, so that it is nominal.
    """
    fall = scan.untrained - scan.best_loss
    trained = scan.courses[scan.best].held_out_losses
    if fall <= 0.0 or fall > CLEAR_FALL * scan.size or not scan.finalists or len(trained) < 2:
        return fall <= 0.0
    falls = np.subtract(untrained, trained)
    error = float(falls.std(ddof=1)) / math.sqrt(falls.size)
    return fall <= float(stats.t.ppf(0.99, falls.size - 1)) * error


def _affordable(final_steps: int, scan_steps: int, num_finalists: int, num_held_out: int, left: float) -> int:
    """Return how many steps the finals may have, at most ``final_steps``, with the evaluations that are left."""
    if math.isinf(left):
        return final_steps
    fixed = num_finalists * num_held_out / 3.0 + 2 * scan_steps  # a lower neighbour may begin anew
    # by 1 + ANNEAL_SHARE, which is 6 / 5: the annealing follows the steps that are counted here
    return min(final_steps, int((left - fixed) / num_finalists + scan_steps) * 5 // 6)

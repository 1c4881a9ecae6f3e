"""The course of a search on made-up losses: which rates are visited, which go on, what is made of them."""

import math

import numpy as np
import pytest

from autolr.probing.courses import Course
from autolr.scan import exponent, search_stream

STATE = np.random.SeedSequence(0)


class Place:
    """A trajectory's memory, without a model."""

    is_parked = False

    def park(self):
        self.is_parked = True

    def forget(self):
        self.is_parked = False

    resume = forget


class MadeUp:
    """Courses whose losses are a function of the decimal logarithm of the rate and the step; NaN gives them up."""

    def __init__(self, loss, *, untrained=1.0):
        self.loss, self.start, self.log = loss, untrained, []
        self.courses, self.most_parked = [], 0

    def num_parked(self):
        return sum(course.trajectory.is_parked for course in self.courses)

    def measure_untrained(self, num_steps):
        return np.full(num_steps, self.start)

    def begin(self, learning_rate):
        self.most_parked = max(self.most_parked, self.num_parked())
        course = Course(learning_rate, Place())
        self.courses.append(course)
        self.log.append((round(math.log10(learning_rate), 1), 0))
        return course

    def run(self, course, last, *, shape=None):  # noqa: ARG002 (made-up losses know no rates that fall)
        x = math.log10(course.learning_rate)
        if course.losses:
            self.log.append((round(x, 1), len(course.losses)))
        for step in range(len(course.losses), last):
            loss = self.loss(x, step)
            course.losses.append(loss)
            if math.isnan(loss):
                course.given_up = step
                return

    def judge(self, course, batches, _):
        course.held_out = self.loss(math.log10(course.learning_rate), len(course.losses))
        course.held_out_losses = tuple(course.held_out + 1e-6 * k for k in range(len(batches)))


def bowl(best, *, edge=9.0, depth=0.5, drift=0.0):
    """Losses with a minimum at ``best`` (falling by ``drift`` decades a step), that diverge from ``edge`` on."""

    def loss(x, step):
        if x >= edge:
            return math.nan
        progress = min(1.0, (step + 1) / 20)
        return 1.0 - depth * progress * math.exp(-((x - best + drift * step) ** 2))

    return loss


# a bowl; one whose best is at the top; a plateau; what rises everywhere; what diverges nearly everywhere; waves
LANDSCAPES = [
    bowl(-1.0, edge=0.9),
    bowl(2.1),
    lambda x, _: math.nan if x > 0.6 else 1.0 + 0.01 * (x > -2.0),
    lambda x, _: 1.0 + 10.0 ** (0.2 * x),
    lambda x, _: math.nan if x > -5.2 else 1.0 + 0.1 * math.sin(3.0 * x),
    lambda x, step: 1.0 + 0.015 * math.sin(5.0 * x + step),
]


@pytest.mark.parametrize("loss", LANDSCAPES)
def test_at_most_three_courses_are_parked_besides_the_last_one_and_none_at_the_end(loss):
    courses = MadeUp(loss)
    steps = {"scan_steps": 20, "final_steps": 80}
    search_stream(courses, [None] * 4, [1.0] * 4, STATE, **steps, evaluations_left=lambda: math.inf)
    assert 1 <= courses.most_parked <= 4
    assert courses.num_parked() == 0
    assert not any(course.given_up is not None and course.trajectory.is_parked for course in courses.courses)


def searched(loss, *, final_steps=80, left=math.inf, held_out=4, untrained=1.0):
    courses = MadeUp(loss, untrained=untrained)
    scan = search_stream(
        courses,
        [None] * held_out,
        [untrained + 1e-6 * k for k in range(held_out)],
        STATE,
        scan_steps=20,
        final_steps=final_steps,
        evaluations_left=lambda: left,
    )
    return scan, courses.log


@pytest.mark.parametrize("best", [-3.2, -1.0, -0.8, 0.3])
def test_a_bowl_is_scanned_from_above_and_its_vertex_found(best):
    scan, log = searched(bowl(best, edge=best + 1.2))
    visited = [x for x, step in log if step == 0]
    assert visited[0] == 1.0
    assert min(visited) >= best - 1.5
    assert scan.vertex == pytest.approx(best, abs=0.12)
    assert len(scan.finalists) <= 3
    assert scan.measure == "log loss"
    assert not scan.flat


def test_finalists_go_on_where_the_scan_left_them():
    _, log = searched(bowl(-1.0, edge=0.9))
    assert [entry for entry in log if entry[1]] == [(-1.0, 20), (-1.5, 20), (-0.5, 20)]


def test_where_the_smaller_one_wins_the_third_is_below_it_and_begins_anew():
    scan, log = searched(bowl(-0.6, edge=0.9, drift=0.008))
    assert scan.courses[-3].held_out < math.inf
    assert sorted(scan.finalists) == [-5, -4, -3]
    assert (-1.5, 0) in log
    assert -1.8 < scan.vertex < -1.0


@pytest.mark.parametrize("slope", [-0.1, 0.1])
def test_losses_along_a_line_are_best_at_the_end_of_what_was_trained(slope):
    def loss(x, step):  # the scan has a clear best one, the finals do not bend but for a little
        return bowl(-1.0, edge=0.9)(x, step) if step < 20 else math.exp(slope * x + 1e-4 * x * x)

    scan, _ = searched(loss)
    assert len(scan.finalists) == 3
    assert scan.vertex == exponent(scan.best) == exponent((max if slope < 0.0 else min)(scan.finalists))


def test_a_larger_one_that_did_not_help_is_left_out_and_counts_as_far_worse():
    def loss(x, step):
        return 1.05 if x > -0.7 else bowl(-1.0)(x, step)

    scan, _ = searched(loss)
    assert sorted(scan.finalists) == [-5, -4]
    assert exponent(-5) < scan.vertex < exponent(-4)


def test_the_range_is_extended_upwards_only_where_the_best_is_at_its_top():
    scan, log = searched(bowl(2.1))
    visited = [x for x, step in log if step == 0]
    assert visited[:2] == [1.0, 0.5]
    assert max(visited) == 2.5
    assert scan.vertex == pytest.approx(2.1, abs=0.12)


def test_rates_that_all_diverge_leave_no_survivor_down_to_the_lowest():
    scan, log = searched(lambda *_: math.nan)
    assert scan.survivors == []
    assert min(x for x, _ in log) == -8.0


def test_a_rate_without_effect_ends_the_scan():
    scan, log = searched(lambda x, _: 1.0 + 10.0 ** (2.0 * x))
    assert min(x for x, step in log if step == 0) == -2.0
    assert scan.flat


def test_a_rate_that_only_ends_where_it_began_does_not_end_the_scan():
    def loss(x, step):  # from 0.3 on, one step leads far away and the next one back
        return bowl(-1.0)(x, step) if x < -0.4 else 1.5 if step == 1 else 1.0

    scan, _ = searched(loss)
    assert scan.vertex == pytest.approx(-1.0, abs=0.3)
    assert not scan.flat


def test_on_a_plateau_the_largest_harmless_rates_go_on_for_longer():
    def loss(x, step):  # nothing falls at first; half a decade around -0.5 gets away after 90 steps
        if x > 0.6:
            return 1.5
        away = max(0.0, 1.0 - abs(x + 0.5)) if step > 90 else 0.0
        return 1.0 + 0.01 * (x > -2.0) - 0.5 * away

    scan, _ = searched(loss)
    assert scan.plateau
    assert sorted(scan.finalists) == [-3, -2, -1]
    assert scan.final_steps == 100
    assert scan.vertex == pytest.approx(-0.5, abs=0.1)
    assert not scan.flat


def test_a_plateau_that_is_not_left_gives_its_middle_and_is_flat():
    scan, _ = searched(lambda x, _: math.nan if x > 0.6 else 1.0 + 0.01 * (x > -2.0))
    assert scan.plateau
    assert scan.flat
    assert scan.vertex == exponent(-2)


def test_finalists_that_all_diverge_make_way_for_smaller_ones():
    def loss(x, step):
        return math.nan if x > -2.2 and step > 30 else bowl(-1.0)(x, step)

    scan, _ = searched(loss)
    assert scan.survivors
    assert exponent(max(scan.survivors)) <= -2.2
    assert scan.best in scan.survivors


def test_without_held_out_batches_the_last_steps_count():
    scan, _ = searched(bowl(-1.0, edge=0.9), held_out=0)
    assert scan.online
    assert all(math.isnan(scan.courses[number].held_out) for number in scan.finalists)
    assert scan.vertex == pytest.approx(-1.0, abs=0.12)


@pytest.mark.parametrize(("left", "steps"), [(1000.0, 80), (200.0, 60), (50.0, 0)])
def test_the_finals_are_as_long_as_the_budget_allows(left, steps):
    scan, _ = searched(bowl(-1.0, edge=0.9), left=left)
    assert scan.final_steps == steps
    assert math.isfinite(scan.vertex)

"""The arithmetic of the search: the measure, the vertex, the law, the interval."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autolr.picker import LARGEST_GAP, correction, gaps, half_width, vertex


@settings(max_examples=50, deadline=None, derandomize=True)
@given(center=st.floats(-1.0, 0.0), bend=st.floats(0.01, 10.0), height=st.floats(-5.0, 5.0))
def test_the_vertex_of_a_parabola_is_its_minimum(center, bend, height):
    x = [-1.0, -0.5, 0.0]
    assert vertex(x, bend * (np.array(x) - center) ** 2 + height) == pytest.approx(center, abs=1e-9)


def test_the_vertex_is_at_an_end_of_a_line_however_little_it_bends_and_at_the_lowest_point_of_a_concave_curve():
    x = [-1.0, -0.5, 0.0]
    for bend in (-1e-3, 0.0, 1e-3):
        assert vertex(x, np.array([0.0, 1.0 - bend, 2.0])) == -1.0
        assert vertex(x, np.array([2.0, 1.0 - bend, 0.0])) == 0.0
    assert vertex(x, np.array([0.0, 0.4, 0.5])) == -1.0
    assert vertex(x, np.array([0.5, 0.5, 0.5])) == -1.0


def test_gaps_are_capped_and_do_not_depend_on_the_unit():
    losses = np.array([0.2, 0.1, np.inf])
    expected = [min(np.log(2.0), LARGEST_GAP), 0.0, LARGEST_GAP]
    for unit in (1e-30, 1.0, 1e30):
        np.testing.assert_allclose(gaps(unit * losses, unit)[0], expected)


@pytest.mark.parametrize("best", [0.0, -3.0])
def test_losses_without_a_log_are_compared_by_the_gain_that_is_lost(best):
    found, measure = gaps(np.array([best + 0.1, best, best + 9.0]), best + 1.0)
    assert measure == "share of the gain"
    np.testing.assert_allclose(found, [0.1, 0.0, LARGEST_GAP])
    np.testing.assert_allclose(gaps(np.array([best + 1.0, best]), best - 1.0)[0], [LARGEST_GAP, 0.0])  # no gain at all


@pytest.mark.parametrize(
    ("factors", "target", "mean", "decays", "exponent"),
    [
        (np.ones(100), "validation", 1.0, False, 0.4),
        (np.linspace(1.0, 0.0, 100), "validation", 0.5, True, 0.35),
        (np.linspace(1.0, 0.6, 100), "validation", 0.8, False, 0.4),
        (np.ones(1), "training", 1.0, False, 0.0),
    ],
)
def test_the_law_knows_the_schedule_and_the_target(factors, target, mean, decays, exponent):
    law = correction(factors, 800, target)
    assert (law.mean_factor, law.decays, law.exponent) == (pytest.approx(mean), decays, exponent)
    assert law.factor(80) == pytest.approx(0.1**exponent / mean)
    assert correction(factors, 40, target).factor(80) == pytest.approx(1.0 / mean)  # a run shorter than the probe


def test_streams_that_agree_narrow_the_interval_and_streams_that_differ_widen_it():
    for target, alone in (("validation", 0.65), ("training", 0.65)):
        assert half_width(target, [-1.0]) == pytest.approx(alone)
        assert 0.8 * alone < half_width(target, [-1.0] * 4) < alone
        assert half_width(target, [-1.0, -2.5]) > 1.2 * alone

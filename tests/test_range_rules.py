"""The rules of a range test, on curves with a known answer."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autolr import NoCandidateError
from autolr.range_rules import RULES, longest_fall, minimum, slide, slopes, steepest, valley


def decades(num, low=-6.0, high=0.0):
    return 10.0 ** np.linspace(low, high, num)


def test_the_steepest_point_of_a_logistic_fall_is_its_middle():
    rates = decades(61)
    losses = 1.0 / (1.0 + np.exp(3.0 * (np.log10(rates) + 2.0)))  # steepest at 1e-2, where the slope is -3 / 4
    pick = steepest(rates, losses)
    assert pick.learning_rate == pytest.approx(1e-2)
    assert pick.score == pytest.approx(-0.75, abs=0.01)


def test_slopes_are_per_decade_whatever_the_spacing():
    for rates in (decades(20), np.linspace(0.1, 3.0, 20), np.array([0.1, 0.11, 5.0, 6.0])):
        assert slopes(rates, 2.0 - 0.7 * np.log10(rates)) == pytest.approx(-0.7)
        # a parabola is differentiated exactly within, also where the rows are unevenly far apart
        assert slopes(rates, np.log10(rates) ** 2)[1:-1] == pytest.approx(2.0 * np.log10(rates)[1:-1])


def test_the_steepest_point_against_log_rate_is_not_that_against_the_rows():
    rates = np.linspace(1.0, 10.0, 10)
    losses = 10.0 - np.sqrt(rates)  # falls by less from row to row, and by 0.5 ln(10) sqrt(rate) per decade
    assert np.gradient(losses).argmin() == 0
    assert steepest(rates, losses).row == 9


def test_the_minimum_is_divided_by_ten_and_may_not_be_tested():
    pick = minimum(decades(7), np.array([5.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    assert pick == (1, pytest.approx(1e-6), 1.0)
    assert minimum(decades(7), np.array([1.0, 2.0, 2.0, 3.0, 4.0, 5.0, 6.0])).learning_rate == pytest.approx(1e-7)


def falls_by_brute_force(losses):
    """Return the longest strictly falling subsequence, the one that ends first, by trying all of them."""
    for length in range(len(losses), 0, -1):
        ends = [
            rows[-1]
            for rows in itertools.combinations(range(len(losses)), length)
            if all(losses[after] < losses[before] for before, after in itertools.pairwise(rows))
        ]
        if ends:
            return min(ends), length
    raise AssertionError


@given(st.lists(st.integers(0, 6), min_size=1, max_size=9))
def test_the_longest_fall_is_that_of_all_subsequences(losses):
    assert longest_fall(np.array(losses, dtype=float)) == falls_by_brute_force(losses)


def valley_by_table(losses):
    """Return the row that fastai's rule picks, by a table of the falls that end at each row."""
    lengths = [1] * len(losses)
    for row in range(len(losses)):
        for before in range(row):
            if losses[row] < losses[before]:
                lengths[row] = max(lengths[row], lengths[before] + 1)
    most = max(lengths)
    begin = lengths.index(most) - most
    return begin + int(most / 3) + int(most / 3 / 2)


@pytest.mark.parametrize("num", [5, 20, 85])
def test_the_valley_is_where_a_table_of_all_falls_puts_it(rng, num):
    for _ in range(30):
        losses = np.cumsum(rng.normal(-0.1, 1.0, size=num))
        if (np.diff(losses) < 0.0).any():
            assert valley(decades(num), losses).row == max(0, valley_by_table(losses))


def test_a_curve_that_falls_everywhere_has_its_valley_before_the_middle():
    # 30 rows, e = 29 and L = 30: -1 + 10 + 5
    assert valley(decades(30), np.linspace(3.0, 1.0, 30)).row == 14
    assert valley(decades(2), np.array([2.0, 1.0])).row == 0


def test_the_valley_of_a_rise_is_refused():
    with pytest.raises(NoCandidateError, match="falls nowhere, so that 'valley' has no fall"):
        valley(decades(20), np.linspace(1.0, 2.0, 20))


def slide_by_walking(losses):
    """Return the left end of the last interval whose slopes differ, from right to left, one row at a time."""
    slope = np.gradient(losses)
    left = None
    for right in range(len(losses) - 1, 14, -1):
        if not abs(slope[right] - slope[right - 15]) > 0.05:
            break
        left = right - 15
    return left


@pytest.mark.parametrize("end", [1.0, 3.0])
def test_the_slide_ends_where_a_walk_from_the_right_ends(rng, end):
    rates = decades(60)
    for steepness in (1.0, 3.0, 10.0):
        losses = np.exp(steepness * (np.log10(rates) + end)) - np.tanh(np.log10(rates) + 4.0)
        losses += 0.001 * rng.normal(size=60)
        expected = slide_by_walking(losses)
        if expected is None:
            with pytest.raises(NoCandidateError, match="no rise to slide away from"):
                slide(rates, losses)
        else:
            assert slide(rates, losses).row == expected


def test_a_slide_over_everything_ends_at_the_first_row():
    assert slide(decades(20), np.arange(20.0) ** 2).row == 0


def test_a_slide_needs_sixteen_rows_and_a_turn():
    with pytest.raises(NoCandidateError, match="'slide' needs at least 16 rows that are kept, got 15"):
        slide(decades(15), np.arange(15.0) ** 2)
    with pytest.raises(NoCandidateError, match=r"does not change by 0\.05 per row at the end"):
        slide(decades(30), np.linspace(2.0, 1.0, 30))


@pytest.mark.parametrize("rule", RULES)
def test_a_pick_does_not_depend_on_what_is_added_to_the_loss(rule):
    rates = decades(60)
    losses = 2.0 - np.tanh(2.0 * (np.log10(rates) + 3.0)) + np.exp(3.0 * (np.log10(rates) + 0.5))
    shifted = RULES[rule](rates, losses - 7.0)
    assert shifted.row == RULES[rule](rates, losses).row

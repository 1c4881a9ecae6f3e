"""The checks at the public boundary accept what is right, and refuse the rest in one wording."""

import fractions
import re
from typing import Literal

import numpy as np
import pytest
import torch

from autolr._validation import (
    check_array,
    check_confidence_level,
    check_delta,
    check_flag,
    check_integer,
    check_learning_rates,
    check_option,
    check_real,
    check_rng,
    describe,
    invalid,
)

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "1.5"),
        (np.float64(1.5), "1.5"),
        (np.int64(3), "3"),
        (np.str_("a"), "'a'"),
        ("two\nlines", r"'two\nlines'"),
        (np.zeros((2, 2)), "array([[0., 0.], [0., 0.]])"),
        ("x" * 200, "'" + "x" * 76 + "..."),
    ],
)
def test_a_value_is_shown_on_one_short_line(value, text):
    assert describe(value) == text


def test_all_errors_have_one_wording():
    assert invalid("num", "be at least 1", 0) == "`num` must be at least 1, got 0."
    assert invalid("x", "be free of NaN", np.int64(2), unit="NaN") == "`x` must be free of NaN, got 2 NaN."


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_integers_of_all_kinds_become_int(value):
    assert type(check_integer("n", value, minimum=3)) is int


@pytest.mark.parametrize("value", [0.25, np.float16(0.25), fractions.Fraction(1, 4)])
def test_real_numbers_of_all_kinds_become_float(value):
    number = check_real("x", value)
    assert type(number) is float
    assert number == 0.25


def test_a_closed_lower_limit_is_included():
    assert check_real("x", 0, above=0.0, closed=True) == 0.0


REFUSED = [
    (lambda: check_integer("n", True, minimum=0), TypeError, "`n` must be an integer, got True."),
    (lambda: check_integer("n", np.True_, minimum=0), TypeError, "`n` must be an integer, got True."),
    (lambda: check_integer("n", 3.0, minimum=0), TypeError, "`n` must be an integer, got 3.0."),
    (lambda: check_integer("n", "3", minimum=0), TypeError, "`n` must be an integer, got '3'."),
    (lambda: check_integer("n", 1, minimum=2), ValueError, "`n` must be at least 2, got 1."),
    (lambda: check_real("x", "1"), TypeError, "`x` must be a real number, got '1'."),
    (lambda: check_real("x", 1j), TypeError, "`x` must be a real number, got 1j."),
    (lambda: check_real("x", False), TypeError, "`x` must be a real number, got False."),
    (lambda: check_real("x", NAN), ValueError, "`x` must be finite, got nan."),
    (lambda: check_real("x", 10**400), ValueError, "`x` must be finite, got 1000"),
    (lambda: check_real("x", 0.0, above=0.0), ValueError, "`x` must be finite and above 0, got 0.0."),
    (lambda: check_real("x", -1, above=0.0, closed=True), ValueError, "`x` must be finite and at least 0, got -1."),
    (lambda: check_real("x", 2, below=1.0), ValueError, "`x` must be finite and below 1, got 2."),
    (lambda: check_confidence_level(1.0), ValueError, "`confidence_level` must be finite and above 0 and below 1"),
    (lambda: check_confidence_level(0), ValueError, "`confidence_level` must be finite and above 0 and below 1"),
    (lambda: check_flag("b", 1), TypeError, "`b` must be True or False, got 1."),
    (lambda: check_option("o", "c", ("a", "b")), ValueError, "`o` must be one of 'a', 'b', got 'c'."),
    (lambda: check_option("o", 1, Literal["a", "b"]), ValueError, "`o` must be one of 'a', 'b', got 1."),
    (lambda: check_rng("0"), TypeError, "`rng` must be an integer, a numpy.random.Generator or None, got '0'."),
    (lambda: check_rng(True), TypeError, "`rng` must be an integer, a numpy.random.Generator or None, got True."),
    (lambda: check_rng(-1), ValueError, "`rng` must be at least 0, got -1."),
    (lambda: check_learning_rates("fast"), TypeError, "`learning_rates` must be an array of real numbers, got 'fast'."),
    (lambda: check_learning_rates(["0.1"]), TypeError, "must be an array of real numbers, got ['0.1']."),
    (lambda: check_learning_rates([True]), TypeError, "must be an array of real numbers, got [True]."),
    (lambda: check_learning_rates(np.array([1j])), TypeError, "must be an array of real numbers"),
    (lambda: check_learning_rates([[0.1], [0.1, 1.0]]), TypeError, "must be an array of real numbers"),
    (lambda: check_learning_rates(0.1), ValueError, "`learning_rates` must be one-dimensional and not empty, got 0.1."),
    (lambda: check_learning_rates([]), ValueError, "must be one-dimensional and not empty, got []."),
    (lambda: check_learning_rates([0.0, 1.0]), ValueError, "must be finite and positive, got [0.0, 1.0]."),
    (lambda: check_learning_rates([1.0, INF]), ValueError, "must be finite and positive, got [1.0, inf]."),
    (lambda: check_learning_rates([1.0, NAN]), ValueError, "must be finite and positive, got [1.0, nan]."),
    (lambda: check_learning_rates([0.1, 0.1]), ValueError, "must be strictly increasing, got [0.1, 0.1]."),
    (lambda: check_array("a", ["x", 1.0]), TypeError, "`a` must be an array of real numbers"),
    (lambda: check_array("a", np.array(["1", 1.0], dtype=object)), TypeError, "must be an array of real numbers"),
    (lambda: check_array("a", [None, 1.0]), TypeError, "`a` must be an array of real numbers, got [None, 1.0]."),
    (lambda: check_array("a", [10**400]), TypeError, "`a` must be an array of real numbers"),
    (lambda: check_array("a", torch.ones(1, requires_grad=True)), TypeError, "`a` must be an array of real numbers"),
    (lambda: check_delta("x"), TypeError, "`delta` must be an array of real numbers, got 'x'."),
    (lambda: check_delta([1.0]), ValueError, "`delta` must have the shape (M, K) with K >= 1, got (1,)."),
    (lambda: check_delta(np.ones((3, 0))), ValueError, "`delta` must have the shape (M, K) with K >= 1, got (3, 0)."),
    (lambda: check_delta([[1.0]]), ValueError, "`delta` must have at least 2 rows, got 1."),
    (lambda: check_delta([[1.0], [NAN]]), ValueError, "`delta` must be free of NaN, got 1 NaN."),
    (lambda: check_delta([[1.0], [-INF]]), ValueError, "`delta` must be free of -inf, got 1 -inf."),
]


@pytest.mark.parametrize(("call", "error", "text"), REFUSED, ids=[f"{i}: {row[2]}" for i, row in enumerate(REFUSED)])
def test_what_is_wrong_is_refused_in_words(call, error, text):
    with pytest.raises(error, match=re.escape(text)):
        call()


def test_what_is_right_is_returned_as_it_is():
    generator = np.random.default_rng(0)
    assert check_rng(generator) is generator
    assert check_rng(None) is None
    assert type(check_rng(np.int64(2**40))) is int
    assert check_rng(2**100) == 2**100
    assert check_flag("b", np.True_) is True
    assert check_option("o", "b", Literal["a", "b"]) == "b"
    assert check_confidence_level(np.float32(0.5)) == 0.5


@pytest.mark.parametrize("make", [np.array, torch.tensor, tuple, list, lambda x: np.array(x, dtype=object)])
def test_rates_are_a_copy_of_any_array(make):
    given = make([0.25, 0.5])
    rates = check_learning_rates(given)
    assert rates.dtype == np.float64
    rates[:] = 0.0
    assert list(given) == [0.25, 0.5]


def test_arrays_are_copies_in_c_order():
    given = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    array = check_array("a", given)
    assert array.flags.c_contiguous
    assert not np.shares_memory(array, given)
    np.testing.assert_array_equal(array, given)


def test_differentials_may_be_infinite_and_of_one_row_where_that_is_enough():
    assert check_delta([[1, INF]], minimum=1).tolist() == [[1.0, INF]]


def test_rates_may_begin_at_zero_where_that_has_a_meaning():
    assert check_learning_rates([0.0, 1.0], zero=True).tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match=r"`learning_rates` must be finite and not negative, got \[-1.0, 1.0\]."):
        check_learning_rates([-1.0, 1.0], zero=True)
    with pytest.raises(ValueError, match="must be strictly increasing"):
        check_learning_rates([1.0, 0.0], zero=True)

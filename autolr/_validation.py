"""Checks at the public boundary, all with one wording: "`name` must <constraint>, got <value>."."""

import itertools
import math
import numbers
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike

from autolr._typing import FloatArray, IntArray, Rng

_NO_NUMBERS = (str, bytes, bool, np.bool_, type(None))  # what NumPy would make numbers of


def describe(value: object, *, max_length: int = 80) -> str:
    """Return ``value`` as an error message shows it: its ``repr``, shortened; NumPy's scalars as Python's."""
    if isinstance(value, np.generic):
        value = value.item()
    text = " ".join(repr(value).split())
    return text if len(text) <= max_length else f"{text[: max_length - 3]}..."


def invalid(name: str, constraint: str, value: object, *, unit: str = "") -> str:
    """Return the one wording of all argument errors; ``unit`` says what a number counts."""
    return f"`{name}` must {constraint}, got {describe(value)}{unit and f' {unit}'}."


def either(words: Sequence[str]) -> str:
    """Return words as a choice.

    Example:
        >>> either(["a"]), either(["a", "b", "c"])
        ('a', 'a, b or c')
    """
    return " or ".join([", ".join(words[:-1]), *words[-1:]]) if len(words) > 1 else "".join(words)


def check_integer(name: str, value: Any, *, minimum: int) -> int:
    """Return ``value`` as an ``int`` of at least ``minimum``.

    Raises:
        TypeError: If it is not an integer (a bool is none).
        ValueError: If it is too small.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(invalid(name, "be an integer", value))
    if value < minimum:
        raise ValueError(invalid(name, f"be at least {minimum}", value))
    return int(value)


def check_real(
    name: str, value: Any, *, above: float = -math.inf, below: float = math.inf, closed: bool = False
) -> float:
    """Return ``value`` as a finite ``float`` between ``above`` and ``below`` (``closed``: ``above`` included).

    Raises:
        TypeError: If it is not a real number.
        ValueError: If it is not finite, or outside of the limits.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(invalid(name, "be a real number", value))
    try:
        number = float(value)
    except OverflowError:  # an int beyond all floats
        number = math.inf
    large_enough = number >= above if closed else number > above
    if not (math.isfinite(number) and large_enough and number < below):
        lower = "" if above == -math.inf else f" {'at least' if closed else 'above'} {above:g}"
        upper = "" if below == math.inf else f" below {below:g}"
        joined = " and".join(part for part in (lower, upper) if part)
        raise ValueError(invalid(name, f"be finite{' and' if joined else ''}{joined}", value))
    return number


def check_flag(name: str, value: Any) -> bool:
    """Return ``value`` if it is a bool.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(invalid(name, "be True or False", value))
    return bool(value)


def check_option(name: str, value: Any, options: Any) -> Any:
    """Return ``value`` if it is one of ``options``, a sequence of strings or a ``Literal``.

    Raises:
        ValueError: If it is not; the message lists the options.
    """
    allowed: Sequence[str] = get_args(options) or options
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(invalid(name, f"be one of {', '.join(map(repr, allowed))}", value))
    return value


def check_confidence_level(value: Any) -> float:
    """Return ``value`` as a ``float`` in (0, 1)."""
    return check_real("confidence_level", value, above=0.0, below=1.0)


def check_rng(rng: Any) -> Rng:
    """Return ``rng`` if it is a non-negative integer, a ``numpy.random.Generator`` or ``None``.

    Raises:
        TypeError: If it is something else.
        ValueError: If it is a negative integer.
    """
    if rng is None or isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, (bool, np.bool_)) or not isinstance(rng, numbers.Integral):
        raise TypeError(invalid("rng", "be an integer, a numpy.random.Generator or None", rng))
    return check_integer("rng", rng, minimum=0)


def check_array(name: str, value: ArrayLike) -> FloatArray:
    """Return a float64 copy of ``value``, of any shape, in C order: in another one sums are rounded differently.

    Raises:
        TypeError: If it does not hold real numbers (strings and bools are none).
    """
    try:
        array = np.asarray(value)
        mixed = array.dtype.kind == "O"
        if array.dtype.kind in "iuf" or (mixed and not any(isinstance(item, _NO_NUMBERS) for item in array.flat)):
            return np.array(array, dtype=np.float64, order="C")
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # RuntimeError: a tensor in a graph
        raise TypeError(invalid(name, "be an array of real numbers", value)) from error
    raise TypeError(invalid(name, "be an array of real numbers", value))


def check_learning_rates(value: ArrayLike, *, name: str = "learning_rates", zero: bool = False) -> FloatArray:
    """Return the rates as a float64 array of shape (K,), strictly increasing and positive (``zero``: or 0).

    Raises:
        TypeError: If they are not numbers.
        ValueError: If they are not 1-D, empty, not finite, not positive or not strictly increasing.
    """
    rates = check_array(name, value)
    if rates.ndim != 1 or rates.size == 0:
        raise ValueError(invalid(name, "be one-dimensional and not empty", value))
    if not np.isfinite(rates).all() or (rates < 0.0 if zero else rates <= 0.0).any():
        raise ValueError(invalid(name, f"be finite and {'not negative' if zero else 'positive'}", value))
    if (np.diff(rates) <= 0.0).any():
        raise ValueError(invalid(name, "be strictly increasing", value))
    return rates


def check_horizons(value: Any) -> IntArray:
    """Return a number of steps, or an increasing sequence of them, as an array of shape (H,).

    Raises:
        TypeError: If it is neither an integer nor a sequence of integers (a bool is none).
        ValueError: If a number is below 1, or a sequence is empty or not strictly increasing.
    """
    several = isinstance(value, (list, tuple, range)) or (isinstance(value, np.ndarray) and value.ndim == 1)
    steps = list(value) if several else [value]
    if any(isinstance(step, (bool, np.bool_)) or not isinstance(step, numbers.Integral) for step in steps):
        raise TypeError(invalid("horizon", "be an integer or an increasing sequence of integers", value))
    if not steps or min(steps) < 1 or any(after <= step for step, after in itertools.pairwise(steps)):
        sequence = "be an increasing sequence of integers of at least 1"
        raise ValueError(invalid("horizon", sequence if several else "be at least 1", value))
    return np.array(steps, dtype=np.int64)


def check_delta(value: ArrayLike, *, minimum: int = 2) -> FloatArray:
    """Return loss differentials as a float64 array of shape (M, K): finite or ``inf``, with M at least ``minimum``.

    Raises:
        TypeError: If they are not numbers.
        ValueError: If the shape is another, a value is NaN (not probed) or -inf, or there are too few rows.
    """
    delta = check_array("delta", value)
    if delta.ndim != 2 or delta.shape[1] == 0:
        raise ValueError(invalid("delta", "have the shape (M, K) with K >= 1", delta.shape))
    if delta.shape[0] < minimum:
        raise ValueError(invalid("delta", f"have at least {minimum} rows", delta.shape[0]))
    if np.isnan(delta).any():
        raise ValueError(invalid("delta", "be free of NaN", np.isnan(delta).sum(), unit="NaN"))
    if np.isneginf(delta).any():
        raise ValueError(invalid("delta", "be free of -inf", np.isneginf(delta).sum(), unit="-inf"))
    return delta

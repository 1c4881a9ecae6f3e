"""Grids of learning rates: the K columns of everything that follows."""

import numpy as np

from autolr._typing import FloatArray
from autolr._validation import check_integer, check_real, invalid


def log_grid(low: float, high: float, num: int) -> FloatArray:
    r"""Return rates evenly spaced on a logarithmic scale, both ends included exactly.

    .. math:: \mathrm{lr}_k = \mathrm{low} \, (\mathrm{high} / \mathrm{low})^{k / (K - 1)}, \quad k = 0, \dots, K - 1

    Args:
        low: The smallest rate, positive.
        high: The largest rate, above ``low`` (equal to it where ``num`` is 1).
        num: The number of rates K.

    Returns:
        The rates, shape ``(K,)``, strictly increasing.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If ``low`` is not positive, ``high`` is not above it, or ``num`` is below 1 or too large for
            distinct floats.

    Example:
        >>> log_grid(1e-3, 1.0, 4)
        array([0.001, 0.01 , 0.1  , 1.   ])
    """
    low = check_real("low", low, above=0.0)
    return _grid(low, high, num, logarithmic=True)


def linear_grid(low: float, high: float, num: int) -> FloatArray:
    """Return rates evenly spaced on a linear scale, both ends included exactly.

    Args:
        low: The smallest rate, at least 0.
        high: The largest rate, above ``low`` (equal to it where ``num`` is 1).
        num: The number of rates K.

    Returns:
        The rates, shape ``(K,)``, strictly increasing.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If ``low`` is negative, ``high`` is not above it, or ``num`` is below 1 or too large for
            distinct floats.

    Example:
        >>> linear_grid(0.0, 1.0, 5)
        array([0.  , 0.25, 0.5 , 0.75, 1.  ])
    """
    low = check_real("low", low, above=0.0, closed=True)
    return _grid(low, high, num, logarithmic=False)


def _grid(low: float, high: float, num: int, *, logarithmic: bool) -> FloatArray:
    num = check_integer("num", num, minimum=1)
    high = check_real("high", high)
    if num == 1:
        if high != low:
            raise ValueError(invalid("high", f"be equal to `low` ({low:g}) where `num` is 1", high))
        return np.array([low])
    if high <= low:
        raise ValueError(invalid("high", f"be above `low` ({low:g})", high))
    space = np.geomspace if logarithmic else np.linspace
    grid = np.asarray(space(low, high, num), dtype=np.float64)
    if (np.diff(grid) <= 0.0).any():
        raise ValueError(invalid("num", f"be small enough for distinct rates between {low!r} and {high!r}", num))
    return grid

"""Stage "loss differentials", fewer probes: the error of interpolated means against their standard errors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from autolr._typing import BoolArray, FloatArray

# The error of a mean may be this share of its standard error.
TOLERANCE = 0.05
_CONFIDENCE = 0.95  # of the bound on the error at a rate, one-sided
_THEN = ", then "


@dataclass(frozen=True, slots=True, eq=False)
class InterpolationError:
    """What the rows that were probed at all rates say about the error of the means over all rows.

    Attributes:
        bound: Of the error of the mean, in units of the loss, ``inf`` where nothing is interpolated between diverged
            probes, shape ``(K, H)``.
        standard_error: Of the mean over all rows, 0 where probes diverged, shape ``(K, H)``.
        allowed: The error that is allowed: the tolerance times the standard error, or the resolution of the loss where
            that is coarser, shape ``(K, H)``.
        resolved: Where it is the former, shape ``(K, H)``.
    """

    bound: FloatArray
    standard_error: FloatArray
    allowed: FloatArray
    resolved: BoolArray

    @property
    def too_large(self) -> BoolArray:
        """At which rates the bound exceeds what is allowed, at some horizon, shape ``(K,)``."""
        return np.asarray(~(self.bound <= self.allowed).all(axis=1))

    @property
    def share(self) -> float:
        """The largest bound as a share of its standard error, among the rates where that can be resolved."""
        resolved = self.resolved & (self.bound > 0.0)
        return float((self.bound[resolved] / self.standard_error[resolved]).max(initial=0.0))


def error_of(
    interpolated: FloatArray, exact: FloatArray, *, num_rows: int, resolution: float, tolerance: float = TOLERANCE
) -> InterpolationError:
    r"""Return what some rows, known at all rates, say about the means over all M rows.

    Let :math:`e` be the errors of the interpolated values in these m rows, :math:`\bar e` and :math:`s_e` their mean
    and standard deviation at a rate. The errors of the other :math:`n = M - m` rows have a mean that is at most

    .. math:: |\bar e| + t_{m-1,\, 0.95}\, s_e \sqrt{1/m + 1/n},

    the end of a prediction interval, and shift the mean over all rows by :math:`n/M` of it: the m rows have none, as
    their values are kept. That bound is to be at most the tolerance times the standard error :math:`s / \sqrt M`, with
    :math:`s` the standard deviation of the exact values.

    Where the loss itself is coarser than that, it is to be at most the resolution: there the differentials are made of
    rounding, of which the values at the nodes are as good a measurement as the others.

    It is assumed that the rows are alike, as independent draws are, and that errors are not heavy-tailed. The bound is
    one rate's, not one for all of them at once. Differences between two rates may have a standard error far below
    that of a mean, of which the error can be a larger share.

    Args:
        interpolated: Differentials from a curve, in units of the loss, shape ``(m, K, H)``, m at least 2.
        exact: The true ones; ``inf``: diverged.
        num_rows: How many rows M the mean is taken over, more than m.
        resolution: The difference of two losses that may be rounding, at least 0.
        tolerance: The share of the standard error.
    """
    num_exact = len(exact)
    num_others = num_rows - num_exact
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.where(exact == interpolated, 0.0, interpolated - exact)
        spread = error.std(axis=0, ddof=1) * np.sqrt(1.0 / num_exact + 1.0 / num_others)
        bound = (
            num_others / num_rows * (np.abs(error.mean(axis=0)) + student_t.ppf(_CONFIDENCE, num_exact - 1) * spread)
        )
        standard_error = exact.std(axis=0, ddof=1) / np.sqrt(num_rows)
    bound = np.where(np.isfinite(bound), bound, np.inf)
    standard_error = np.where(np.isfinite(standard_error), standard_error, 0.0)
    resolved = tolerance * standard_error >= resolution
    allowed = np.where(resolved, tolerance * standard_error, resolution)
    return InterpolationError(bound, standard_error, allowed, resolved)


def share_left(share: float, num_rows: int, num_added: int) -> float:
    r"""Return the tolerance for rows that are added, so that all together are within :data:`TOLERANCE`.

    The inverse of :func:`share_of_both`: :math:`(\tau \sqrt{M + n} - b \sqrt M) / \sqrt n`, between 0 and :math:`\tau`.

    Args:
        share: The error of the mean over the rows before, b, as a share of their standard error.
        num_rows: How many they are, M.
        num_added: How many are added, n.
    """
    left = (TOLERANCE * np.sqrt(num_rows + num_added) - share * np.sqrt(num_rows)) / np.sqrt(num_added)
    return float(np.clip(left, 0.0, TOLERANCE))


def share_of_both(share: float, num_rows: int, other: float, num_others: int) -> float:
    r"""Return the error of the mean over rows of two kinds, as a share of its standard error, at most.

    Means of M and n rows err by :math:`b_1 s / \sqrt M` and :math:`b_2 s / \sqrt n`, their common mean by
    :math:`(b_1 \sqrt M + b_2 \sqrt n) s / (M + n)`, where both have one sign.

    Example:
        >>> round(share_of_both(0.05, 100, 0.05, 100), 4)
        0.0707
    """
    both = share * np.sqrt(num_rows) + other * np.sqrt(num_others)
    return float(both / np.sqrt(num_rows + num_others))


def join_reasons(*reasons: str) -> str:
    """Return what is said of two parts, each of which may be joined already, every reason once.

    Example:
        >>> join_reasons("a, then b", "b")
        'a, then b'
    """
    return _THEN.join(dict.fromkeys(reason for several in reasons for reason in several.split(_THEN)))


def told_of_both(first: Mapping[str, Any], second: Mapping[str, Any], num_rows: int, num_others: int) -> dict[str, Any]:
    """Return the settings that tell of the interpolation in two results together, of so many rows each."""
    parts = [part for part in (first, second) if part["num_probes"] < part["num_probes_exact"]] or [first]
    errors = [part["error"] for part in (first, second)]
    return {
        "num_nodes": max(part["num_nodes"] for part in parts),
        "checked_subsamples": [*first["checked_subsamples"], *(num_rows + k for k in second["checked_subsamples"])],
        "error": None if None in errors else share_of_both(errors[0], num_rows, errors[1], num_others),
        "num_unresolved": max(first["num_unresolved"], second["num_unresolved"]),
        "num_probes": first["num_probes"] + second["num_probes"],
        "num_probes_exact": first["num_probes_exact"] + second["num_probes_exact"],
        "reason": join_reasons(first["reason"], second["reason"]),
    }

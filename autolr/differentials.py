"""The record that everything after the probes reads: the losses before and after a step, by subsample and rate."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from autolr._typing import BoolArray, FloatArray, IntArray
from autolr._validation import check_array, check_learning_rates, describe, invalid

_TIDY_COLUMNS = ("subsample", "learning_rate", "loss_pre", "loss_post")


@dataclass(frozen=True, eq=False)
class LossDifferentials:
    r"""Losses of M subsamples before and after probes at K learning rates, recorded at H horizons.

    The loss differential is :math:`\Delta_{mk} = L^{post}_{mk} - L^{pre}_m`: negative is good. A row is a subsample,
    the unit of replication: all rates of a row saw the same observations and the same random masks, so that the columns
    are paired.

    Args:
        learning_rates: Strictly increasing, positive, shape ``(K,)``.
        loss_pre: Finite losses before the step, in the units of the loss function, shape ``(M,)``.
        loss_post: Losses after the step, shape ``(M, K, H)``, or ``(M, K)`` for one horizon. A probe that diverged
            (inf, -inf) is stored as ``inf``; NaN means *not probed*, nothing else.
        horizons: The number of optimizer steps behind each recorded loss, increasing, shape ``(H,)``.
        interpolated: Which losses were interpolated rather than computed, shape ``(M, K, H)``; by default none.

    All arrays are float64 (int64, bool) copies that cannot be written to.

    Raises:
        TypeError: If an array holds something else than real numbers (``interpolated``: bools).
        ValueError: If a shape does not fit the others, or a loss before the step is not finite.

    Example:
        >>> record = LossDifferentials([0.1, 1.0], loss_pre=[2.0, 4.0], loss_post=[[1.5, 2.5], [3.0, float("inf")]])
        >>> record.delta
        array([[-0.5,  0.5],
               [-1. ,  inf]])
    """

    learning_rates: FloatArray
    loss_pre: FloatArray
    loss_post: FloatArray
    horizons: IntArray = None  # type: ignore[assignment]
    interpolated: BoolArray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        rates = check_learning_rates(self.learning_rates)
        steps = check_array("horizons", [1] if self.horizons is None else self.horizons)
        pre, post = check_array("loss_pre", self.loss_pre), check_array("loss_post", self.loss_post)
        if post.ndim == 2:
            post = post[:, :, np.newaxis]
        if pre.ndim != 1:
            raise ValueError(invalid("loss_pre", "have the shape (M,)", pre.shape))
        if steps.ndim != 1 or not _are_counts(steps) or (np.diff(steps) <= 0.0).any():
            constraint = "be increasing integers of at least 1, of the shape (H,)"
            raise ValueError(invalid("horizons", constraint, self.horizons))
        shape = (pre.size, rates.size, steps.size)
        if post.shape != shape:
            raise ValueError(invalid("loss_post", f"have the shape (M, K, H) = {shape}", post.shape))
        if not np.isfinite(pre).all():
            row = int(np.flatnonzero(~np.isfinite(pre))[0])
            raise ValueError(invalid("loss_pre", f"be finite in every subsample (see subsample {row})", pre[row]))
        post[np.isinf(post)] = np.inf
        mask = np.array(np.zeros(shape, dtype=np.bool_) if self.interpolated is None else self.interpolated)
        if mask.dtype != np.bool_:
            raise TypeError(invalid("interpolated", "be an array of bools", f"dtype {mask.dtype}"))
        if mask.shape != shape:
            raise ValueError(invalid("interpolated", f"have the shape (M, K, H) = {shape}", mask.shape))
        arrays = {"learning_rates": rates, "loss_pre": pre, "loss_post": post, "horizons": steps.astype(np.int64)}
        for name, array in {**arrays, "interpolated": mask}.items():
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy through the constructor: NumPy alone would make the arrays writable."""
        return type(self), (self.learning_rates, self.loss_pre, self.loss_post, self.horizons, self.interpolated)

    @property
    def num_subsamples(self) -> int:
        """The number of rows M."""
        return self.loss_pre.size

    @cached_property
    def delta(self) -> FloatArray:
        """The loss differentials at the last horizon, shape (M, K), in the units of the loss."""
        delta = _difference(self.loss_post[:, :, -1], self.loss_pre[:, np.newaxis])
        delta.setflags(write=False)
        return delta

    def at(self, learning_rate: float) -> FloatArray:
        """Return the loss differentials at one rate of the grid, shape (M,), at the last horizon.

        Raises:
            ValueError: If the rate is not one of the grid.
        """
        columns = np.flatnonzero(self.learning_rates == learning_rate)
        if columns.size == 0:
            raise ValueError(invalid("learning_rate", "be a rate of the grid", learning_rate))
        return self.delta[:, int(columns[0])]

    def to_frame(self, *, tidy: bool = False) -> pd.DataFrame:
        """Return the differentials as a frame.

        Args:
            tidy: ``False``: the (M, K) frame of dL at the last horizon, index ``subsample``, columns the rates as
                floats. ``True``: one row a probe, with the columns ``subsample, learning_rate, horizon, loss_pre,
                loss_post, delta``, and ``interpolated`` where any loss is; probes that were not made are left out.

        Example:
            >>> LossDifferentials([0.1, 1.0], [2.0], [[1.5, 2.5]]).to_frame()
            learning_rate  0.1  1.0
            subsample
            0             -0.5  0.5
        """
        if not tidy:
            columns = pd.Index(self.learning_rates, name="learning_rate")
            return pd.DataFrame(
                self.delta.copy(), index=pd.RangeIndex(len(self.delta), name="subsample"), columns=columns
            )
        rows, rates, steps = np.nonzero(~np.isnan(self.loss_post))
        pre, post = self.loss_pre[rows], self.loss_post[rows, rates, steps]
        frame = pd.DataFrame(
            {
                "subsample": rows,
                "learning_rate": self.learning_rates[rates],
                "horizon": self.horizons[steps],
                "loss_pre": pre,
                "loss_post": post,
                "delta": _difference(post, pre),
            }
        )
        return frame.assign(interpolated=self.interpolated[rows, rates, steps]) if self.interpolated.any() else frame

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> "LossDifferentials":
        """Make a record of losses logged elsewhere, one row a probe.

        Args:
            frame: Columns ``subsample`` (any labels), ``learning_rate``, ``loss_pre``, ``loss_post`` and, where there
                are several, ``horizon``, or some are, ``interpolated`` (true or false); further columns are ignored.
                Numbers may be written as text. A ``loss_post`` that is NaN or infinite is a probe that diverged; a
                probe without a row was not made.

        Returns:
            The record, its subsamples in the order in which they first appear.

        Raises:
            TypeError: If ``frame`` is not a pandas frame.
            ValueError: If a column is missing or holds something else than numbers, the frame is empty, a probe stands
                twice, or a subsample has no label or several losses before the step.

        Example:
            >>> record = LossDifferentials([0.1, 1.0], loss_pre=[2.0], loss_post=[[1.5, 2.5]])
            >>> LossDifferentials.from_frame(record.to_frame(tidy=True)).delta
            array([[-0.5,  0.5]])
        """
        if not isinstance(frame, pd.DataFrame):
            raise TypeError(invalid("frame", "be a pandas frame", frame))
        given = list(frame.columns)
        if any(given.count(column) != 1 for column in _TIDY_COLUMNS) or any(
            given.count(column) > 1 for column in ("horizon", "interpolated")
        ):
            raise ValueError(invalid("frame", f"have the columns {', '.join(_TIDY_COLUMNS)}, each once", given))
        if frame.empty:
            raise ValueError(invalid("frame", "have at least one row", frame.shape))
        row, subsamples = pd.factorize(frame["subsample"])
        if (row < 0).any():
            raise ValueError(invalid("frame", "name the subsample in every row", f"{int((row < 0).sum())} without"))
        steps = _numbers(frame, "horizon") if "horizon" in given else np.ones(len(frame))
        if not _are_counts(steps):
            raise ValueError(invalid("frame", "have integers of at least 1 as horizon", np.unique(steps)))
        rates, rate = np.unique(_numbers(frame, "learning_rate"), return_inverse=True)
        horizons, horizon = np.unique(steps, return_inverse=True)
        post = np.full((len(subsamples), len(rates), len(horizons)), np.nan)
        count = np.zeros(post.shape, dtype=np.int64)
        np.add.at(count, (row, rate, horizon), 1)
        if (count > 1).any():
            raise ValueError(invalid("frame", "hold each probe once", f"{int((count > 1).sum())} probes several times"))
        losses = _numbers(frame, "loss_post")
        post[row, rate, horizon] = np.where(np.isfinite(losses), losses, np.inf)
        losses = _numbers(frame, "loss_pre")
        pre = np.empty(len(subsamples))
        pre[row] = losses
        several = np.unique(row[~((losses == pre[row]) | np.isnan(losses) & np.isnan(pre[row]))])
        if several.size:
            label = subsamples[several[0]]
            raise ValueError(invalid("frame", "have one loss_pre in each subsample", f"several in {describe(label)}"))
        mask = np.zeros(post.shape, dtype=np.bool_)
        mask[row, rate, horizon] = _flags(frame, "interpolated") if "interpolated" in given else False
        return cls(rates, pre, post, horizons.astype(np.int64), mask)

    def begins_like(self, other: "LossDifferentials") -> bool:
        """Return whether both have the same first rows, as two tunings with one seed do, and these differ at all.

        Two engines agree to a millionth of the loss.
        """
        num_rows = min(self.num_subsamples, other.num_subsamples)
        own = np.column_stack([self.loss_pre[:num_rows], self.loss_post[:num_rows].reshape(num_rows, -1)])
        theirs = np.column_stack([other.loss_pre[:num_rows], other.loss_post[:num_rows].reshape(num_rows, -1)])

        if num_rows < 2 or np.array_equal(own[0], own[1], equal_nan=True):
            return False
        with np.errstate(invalid="ignore"):  # inf - inf
            near = np.abs(own - theirs) <= 2e-6 * np.maximum(np.abs(own), np.abs(own[:, :1]))
        return bool((near | (own == theirs) | (np.isnan(own) & np.isnan(theirs))).all())

    def extended(self, other: "LossDifferentials") -> "LossDifferentials":
        """Return a record with the rows of ``other`` below these.

        Raises:
            TypeError: If ``other`` is no record.
            ValueError: If the rates or the horizons differ.
        """
        if not isinstance(other, LossDifferentials):
            raise TypeError(invalid("other", "be a LossDifferentials", other))
        for name in ("learning_rates", "horizons"):
            if not np.array_equal(getattr(self, name), getattr(other, name)):
                raise ValueError(invalid(name, "be the same in both records", getattr(other, name)))
        return LossDifferentials(
            self.learning_rates,
            np.concatenate([self.loss_pre, other.loss_pre]),
            np.concatenate([self.loss_post, other.loss_post]),
            self.horizons,
            np.concatenate([self.interpolated, other.interpolated]),
        )


def _difference(post: FloatArray, pre: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):  # beyond all floats: inf, as a probe that diverged
        return post - pre


def _are_counts(values: FloatArray) -> bool:
    whole = (values >= 1.0) & (values < 2.0**63) & (values == np.floor(values))  # as an int64; NaN is neither
    return values.size > 0 and bool(whole.all())


def _flags(frame: pd.DataFrame, column: str) -> BoolArray:
    """Return a column of true and false, which may be written as text."""
    words = frame[column].map(lambda value: str(value).lower())
    if not words.isin(("true", "false")).all():
        raise ValueError(invalid("frame", f"hold true or false in {column}", f"dtype {frame[column].dtype}"))
    return np.asarray(words == "true", dtype=np.bool_)


def _numbers(frame: pd.DataFrame, column: str) -> FloatArray:
    """Return a column as float64, a missing value as NaN."""
    try:
        return pd.to_numeric(frame[column]).to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(invalid("frame", f"hold numbers in {column}", f"dtype {frame[column].dtype}")) from error

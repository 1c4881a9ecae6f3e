"""The record that everything after the probes reads: the losses before and after a step, by subsample and rate."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from autolr._typing import BoolArray, FloatArray, IntArray
from autolr._validation import check_learning_rates, invalid

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
        horizons = np.array([1] if self.horizons is None else self.horizons, dtype=np.int64)
        pre = np.array(self.loss_pre, dtype=np.float64)
        post = np.array(self.loss_post, dtype=np.float64)
        if post.ndim == 2:
            post = post[:, :, np.newaxis]
        if pre.ndim != 1:
            raise ValueError(invalid("loss_pre", "have the shape (M,)", pre.shape))
        if horizons.ndim != 1 or horizons.size == 0 or horizons[0] < 1 or (np.diff(horizons) <= 0).any():
            raise ValueError(invalid("horizons", "be increasing and at least 1, of the shape (H,)", self.horizons))
        shape = (pre.size, rates.size, horizons.size)
        if post.shape != shape:
            raise ValueError(invalid("loss_post", f"have the shape (M, K, H) = {shape}", post.shape))
        if not np.isfinite(pre).all():
            row = int(np.flatnonzero(~np.isfinite(pre))[0])
            raise ValueError(invalid("loss_pre", f"be finite in every subsample (see subsample {row})", pre[row]))
        post[np.isinf(post)] = np.inf
        mask = np.zeros(shape, dtype=np.bool_) if self.interpolated is None else np.array(self.interpolated, np.bool_)
        if mask.shape != shape:
            raise ValueError(invalid("interpolated", f"have the shape (M, K, H) = {shape}", mask.shape))
        arrays = {"learning_rates": rates, "loss_pre": pre, "loss_post": post, "horizons": horizons}
        for name, array in {**arrays, "interpolated": mask}.items():
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @property
    def num_subsamples(self) -> int:
        """The number of rows M."""
        return self.loss_pre.size

    @cached_property
    def delta(self) -> FloatArray:
        """The loss differentials at the last horizon, shape (M, K), in the units of the loss."""
        delta = self.loss_post[:, :, -1] - self.loss_pre[:, np.newaxis]
        delta.setflags(write=False)
        return delta

    def to_frame(self, *, tidy: bool = False) -> pd.DataFrame:
        """Return the differentials as a frame.

        Args:
            tidy: ``False``: the (M, K) frame of dL at the last horizon, index ``subsample``, columns the rates as
                floats. ``True``: one row a probe, with the columns ``subsample, learning_rate, horizon, loss_pre,
                loss_post, delta``; probes that were not made are left out.

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
        return pd.DataFrame(
            {
                "subsample": rows,
                "learning_rate": self.learning_rates[rates],
                "horizon": self.horizons[steps],
                "loss_pre": pre,
                "loss_post": post,
                "delta": post - pre,
            }
        )

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> "LossDifferentials":
        """Make a record of losses logged elsewhere, one row a probe.

        Args:
            frame: Columns ``subsample`` (any labels), ``learning_rate``, ``loss_pre``, ``loss_post`` and, where there
                are several, ``horizon``; further columns are ignored. A ``loss_post`` that is NaN or infinite is a
                probe that diverged; a probe without a row was not made.

        Raises:
            TypeError: If ``frame`` is not a pandas frame.
            ValueError: If a column is missing, the frame is empty, a probe stands twice, or a subsample has several
                losses before the step.

        Example:
            >>> record = LossDifferentials([0.1, 1.0], loss_pre=[2.0], loss_post=[[1.5, 2.5]])
            >>> LossDifferentials.from_frame(record.to_frame(tidy=True)).delta
            array([[-0.5,  0.5]])
        """
        if not isinstance(frame, pd.DataFrame):
            raise TypeError(invalid("frame", "be a pandas frame", frame))
        missing = [column for column in _TIDY_COLUMNS if column not in frame.columns]
        if missing:
            raise ValueError(invalid("frame", f"have the columns {', '.join(_TIDY_COLUMNS)}", f"none of {missing}"))
        if frame.empty:
            raise ValueError(invalid("frame", "have at least one row", frame.shape))
        steps = frame["horizon"] if "horizon" in frame.columns else pd.Series(1, index=frame.index)
        row, subsamples = pd.factorize(frame["subsample"])
        rates, rate = np.unique(frame["learning_rate"].to_numpy(np.float64), return_inverse=True)
        horizons, horizon = np.unique(steps.to_numpy(np.int64), return_inverse=True)
        post = np.full((len(subsamples), len(rates), len(horizons)), np.nan)
        count = np.zeros(post.shape, dtype=np.int64)
        np.add.at(count, (row, rate, horizon), 1)
        if (count > 1).any():
            raise ValueError(invalid("frame", "hold each probe once", f"{int((count > 1).sum())} probes twice"))
        losses = frame["loss_post"].to_numpy(np.float64)
        post[row, rate, horizon] = np.where(np.isfinite(losses), losses, np.inf)
        before = frame.groupby(row)["loss_pre"]
        if (before.nunique(dropna=False) > 1).any():
            raise ValueError(invalid("frame", "have one loss_pre in each subsample", int(before.nunique().max())))
        return cls(rates, before.first().to_numpy(np.float64), post, horizons)

    def extended(self, other: "LossDifferentials") -> "LossDifferentials":
        """Return a record with the rows of ``other`` below these.

        Raises:
            ValueError: If the rates or the horizons differ.
        """
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

"""Rows of trajectories: side by side where that is right and faster, rate by rate elsewhere."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import torch

from autolr._typing import Batch, EngineName, FloatArray, IntArray
from autolr.probing.contest import Contest
from autolr.probing.forwards import comes_out_of_torch, distance
from autolr.probing.stacked import Stack
from autolr.probing.start import Start
from autolr.probing.trajectory import StepSeed, probe_by_trajectories

logger = logging.getLogger("autolr")

# Of fewer rates, a quarter and more would be trained by real steps too, to check a row; of fewer rows, half and more
# would be the contest's.
_FEWEST_RATES, _FEWEST_ROWS = 20, 8
# On the last row so many rates over all of the grid are compared.
_SPREAD = 5
# Where three rates in a row keep this share of what is tolerated, rounding is not amplified there and at those beyond.
_CLOSE, _CLOSE_RATES = 0.5, 3
# With more than this share of the rates by real steps, little is gained.
_MOST_BY_STEPS = 0.5
# What is so many times slower on its trial is not tried any further.
_HOPELESS = 2.0


# from the numbers of a row and a step to the seed of the random state in which the step is taken
RowSeed = Callable[[int, int], np.random.SeedSequence]


def is_worth_it(start: Start, num_rows: int, num_rates: int) -> bool:
    """Return whether so many rows of so many rates can be faster side by side, with all that it takes to be sure.

    In single precision it is not tried without being asked for: rounding that a training amplifies can exceed a
    millionth of the loss, between the rates at which a row is compared.
    """
    exact = all(parameter.dtype == torch.float64 for parameter in start.objective.parameters)
    return exact and num_rates >= _FEWEST_RATES and num_rows >= _FEWEST_ROWS


class TrajectoryRows:
    r"""The losses of rows of trajectories: by real steps, rate by rate, or by :class:`~autolr.probing.stacked.Stack`.

    Real steps define them. A training can amplify rounding, until two that differ by the order of their sums have
    different losses, both as right as a training can be: at high rates as a rule, elsewhere where a gradient is next to
    a kink. The stack's losses are used only where they are compared with those of real steps, to a
    :func:`~autolr.probing.forwards.distance` of 1, or lie between rates where they are. On the first row all rates are
    compared. Those between the lowest and the highest one at which the stack is off, with a neighbour, are trained by
    real steps from then on. In every row the three rates below these and the one above are compared, and are joined to
    them while they are off by more than half of that; and one of the others, another one in each row. (Where none is
    off, that is at the edge of divergence.) What is computed by real steps takes the place of the stack's losses. The
    stack is left out where real steps take more than half of the rates.

    What is not covered: a training that amplifies rounding at a single rate and row, between rates that do not, is seen
    where it is compared only. Elsewhere its losses are those of a training with other rounding errors.

    Args:
        start: The start of all probes.
        learning_rates: The rates, shape ``(K,)``.
        horizons: After how many steps losses are recorded, increasing, shape ``(H,)``.
        seed: The random state of each step of a row.
        engine: ``"batched"``: side by side wherever that is right; ``"auto"``: where it is faster too, which is found
            on the first rows.

    Attributes:
        contest: Which of the two is in use, "step" or "batched".
    """

    def __init__(
        self, start: Start, learning_rates: FloatArray, horizons: IntArray, seed: RowSeed, engine: EngineName
    ) -> None:
        self._start, self._rates, self._horizons, self._seed = start, learning_rates, horizons, seed
        self._engine = engine
        self._stack: Stack | None = None
        self._by_steps = range(0)
        self._num_rows = 0
        self._epsilon = start.objective.epsilon
        self.contest = Contest("step", "batched") if engine == "auto" else Contest("batched")

    @property
    def reason(self) -> str:
        """Why the rates are trained as they are."""
        if self.contest.leader == "step":
            return "; ".join(filter(None, ("several steps are real steps", self.contest.reason)))
        verified = "side by side, verified against real steps at all rates of the first row and at some of every other"
        ends = self._rates[[self._by_steps[0], self._by_steps[-1]]] if self._by_steps else ()
        amplified = "real steps from {:.3g} to {:.3g}, where rounding is amplified".format(*ends) if len(ends) else ""
        return "; ".join(filter(None, (verified, amplified, self.contest.reason)))

    @property
    def share_by_steps(self) -> float:
        """The share of the rates that are trained by real steps in every row."""
        return len(self._by_steps) / len(self._rates)

    def __call__(self, row: int, batches: Sequence[Batch]) -> tuple[float, FloatArray]:
        """Return the loss before, and the losses after the steps, shape ``(K, H)``; ``inf`` where a rate diverged.

        Args:
            row: The number of the row.
            batches: Those of the steps, then that of the losses.
        """
        name = self.contest.turn
        began = time.perf_counter()
        real = _RealLosses(self._start, self._rates, self._horizons, batches, partial(self._seed, row))
        losses = self._stacked(real) if name == "batched" else None
        reason = None if losses is None else self._compare(losses, real, ())
        if losses is None or reason is not None:
            name, losses = "step", real.at(range(len(self._rates)))
        known = sorted({*real.known, *self._by_steps})
        losses[known] = real.at(known)
        self.contest.note(name, time.perf_counter() - began)
        return real.loss_pre, losses

    def objection(self, row: int, batches: Sequence[Batch]) -> str | None:
        """Return why all rates are to be trained by real steps, or ``None`` where those verify the stack on this row.

        The first time, it is found whether the rates can be trained side by side at all, and whether that is not
        hopelessly slow; and at which rates rounding is amplified.
        """
        is_first = self._stack is None
        if is_first:
            self._stack = Stack(self._start, self._horizons)
            if (reason := self._stack.objection(batches[0])) is not None:
                return self._leave_out(reason)
        real = _RealLosses(self._start, self._rates, self._horizons, batches, partial(self._seed, row))
        num_rates = len(self._rates)
        spread = np.linspace(0, num_rates - 1, _SPREAD).astype(int).tolist()
        real.at(spread)
        in_turn = real.seconds * num_rates / len(real.known)
        began = time.perf_counter()
        losses = self._stacked(real)
        at_once = time.perf_counter() - began
        if losses is None:
            return self.contest.reason
        if is_first and self._engine == "auto" and at_once > _HOPELESS * in_turn:
            return self._leave_out(f"{at_once / in_turn:.1f} times slower")
        reason = self._compare(losses, real, range(num_rates) if is_first else spread)
        if is_first:
            self.contest.note("step", real.seconds)
        return reason

    def _stacked(self, real: "_RealLosses") -> FloatArray | None:
        """Return the losses of a row by the stack, or ``None`` where it cannot make them and is left out."""
        if self._stack is None:
            return None
        losses = np.full((len(self._rates), len(self._horizons)), np.inf)
        stacked = [k for k in range(len(self._rates)) if k not in self._by_steps]
        try:
            losses[stacked] = self._stack.losses(self._rates[stacked], *real.row)
        except Exception as error:
            if not comes_out_of_torch(error):
                raise
            message, _, _ = str(error).partition("\n")
            self._leave_out(f"{type(error).__name__}: {message[:200]}")
            return None
        return losses

    def _compare(self, losses: FloatArray, real: "_RealLosses", columns: Iterable[int]) -> str | None:
        """Compare the stack's losses of a row, and return why it is left out, or ``None``.

        Args:
            losses: Those by the stack, shape ``(K, H)``.
            real: Those by real steps.
            columns: The rates at which they are compared, besides those of every row.
        """
        self._num_rows += 1
        edge = 1 + int(np.flatnonzero(np.isfinite(losses[:, -1])).max(initial=-1))
        below = self._by_steps.start if self._by_steps else edge
        others = [below - 1 - 7 * self._num_rows % (below - below // 2)] if below else []
        for k in (*columns, *others):
            if self._is_off(k, losses, real) and any(self._is_off(j, losses, real) for j in (k - 1, k + 1)):
                self._join(k)
        low, high = (self._by_steps.start, self._by_steps.stop) if self._by_steps else (edge, edge)
        for way, num_rates in ((range(low - 1, -1, -1), _CLOSE_RATES), (range(high, len(losses)), 1)):
            num_close = 0
            for k in way:
                num_close += 1
                if self._distance(k, losses, real) > _CLOSE:
                    self._join(k)
                    num_close = 0
                if num_close == num_rates:
                    break
        if self.share_by_steps <= _MOST_BY_STEPS:
            return None
        worst = max(real.known, key=lambda k: self._distance(k, losses, real))
        return self._leave_out(f"the losses at {self._rates[worst]:.3g} are {losses[worst]}, not {real.at([worst])[0]}")

    def _join(self, k: int) -> None:
        """Train all rates from those by real steps to this one by real steps too."""
        low, high = (self._by_steps.start, self._by_steps.stop) if self._by_steps else (k, k + 1)
        self._by_steps = range(min(low, k), max(high, k + 1))

    def _is_off(self, k: int, losses: FloatArray, real: "_RealLosses") -> bool:
        """Return whether the stack's losses at a rate, if it has any, are not those of real steps."""
        return 0 <= k < len(losses) and k not in self._by_steps and self._distance(k, losses, real) > 1.0

    def _distance(self, k: int, losses: FloatArray, real: "_RealLosses") -> float:
        """Return the largest difference of the losses at a rate from those of real steps, over what is allowed."""
        (expected,) = real.at([k])
        return max(distance(loss, true, self._epsilon) for loss, true in zip(losses[k], expected, strict=True))

    def _leave_out(self, reason: str) -> str:
        self._stack = None
        self.contest.withdraw("batched", "step", reason)
        level = logging.WARNING if self._engine == "batched" else logging.INFO
        logger.log(level, "The rates are trained one after the other: %s.", reason)
        return reason


class _RealLosses:
    """The losses of a row by real steps, computed when they are asked for, and once.

    Attributes:
        row: The batches of the steps, that of the losses, and the random state of each step.
        loss_pre: The loss before, once there are others.
        seconds: The time that they have taken.
    """

    def __init__(
        self, start: Start, learning_rates: FloatArray, horizons: IntArray, batches: Sequence[Batch], seed: StepSeed
    ) -> None:
        *steps, evaluation_batch = batches
        self.row = (steps, evaluation_batch, seed)
        self.loss_pre = math.nan
        self._probe = partial(probe_by_trajectories, start)
        self._rates, self._horizons = learning_rates, horizons
        self._losses: dict[int, FloatArray] = {}
        self.seconds = 0.0

    @property
    def known(self) -> list[int]:
        """The rates at which they were computed."""
        return list(self._losses)

    def at(self, columns: Iterable[int]) -> FloatArray:
        """Return the losses at some rates, shape ``(n, H)``."""
        columns = list(columns)
        missing = [column for column in columns if column not in self._losses]
        if missing:
            began = time.perf_counter()
            steps, evaluation_batch, seed = self.row
            self.loss_pre, losses = self._probe(
                self._rates[missing], self._horizons, steps, evaluation_batch, seed=seed
            )
            self._losses |= dict(zip(missing, losses, strict=True))
            self.seconds += time.perf_counter() - began
        return np.array([self._losses[column] for column in columns]).reshape(-1, len(self._horizons))

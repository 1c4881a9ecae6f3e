"""The losses of a row on its line: by whole forwards, with shortcuts, or at many rates at once."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from autolr._typing import Batch, EngineName, FloatArray
from autolr.probing.batched import Batched
from autolr.probing.contest import Contest
from autolr.probing.direction import Direction
from autolr.probing.shortcuts import ChangedError, Shortcuts
from autolr.probing.start import Start

_FOLDERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent))

logger = logging.getLogger("autolr")

LOSS_TOLERANCE = 1e-6
_WORDS = {"batched": "the batched engine", "shortcuts": "shortcuts"}
# Fewer rates are not worth a batch; of more, so many are tried first.
_FEW_RATES = 8
# What is so many times slower on its trial is not tried any further.
_HOPELESS = 2.0


class Forwards:
    """The losses of a row at the rates of its line.

    A whole forward at each rate defines them. Whatever spares some of that (:class:`Shortcuts`, :class:`Batched`) is
    compared with it when it is learned, at one rate of every row, and at the end; what differs, or cannot be done, is
    left out, with a reason that is logged.

    Args:
        start: The start of all probes.
        direction: The line of the row.
        engine: ``"line"``: forward by forward; ``"batched"``: many rates at once; ``"auto"``: the faster one, which is
            found on the first rows.

    Attributes:
        contest: Which of the two is in use.
    """

    def __init__(self, start: Start, direction: Direction, engine: EngineName) -> None:
        self._start = start
        self._direction = direction
        self._engine = engine
        self._shortcuts: Shortcuts | None = None
        self._batched: Batched | None = None
        self._compare = False
        self._num_rows = 0
        self.contest = Contest("line")

    def losses(self, rates: FloatArray, batch: Batch) -> FloatArray:
        """Return the losses at some rates, shape ``(K,)``."""
        name = self.contest.turn
        losses, taken = timed(lambda: self._by(name, rates, batch))
        self.contest.note(name, taken)
        if self._is_whole(name):
            return losses
        if not self._is_right(rates, losses, batch):
            return self.whole(rates, batch)
        if self._compare:
            self._compare = False
            self._keep_if_equal("batched", rates, losses, batch)
        return losses

    def _is_whole(self, name: str) -> bool:
        return self._shortcuts is None and (name == "line" or self._batched is None)

    def _is_right(self, rates: FloatArray, losses: FloatArray, batch: Batch) -> bool:
        """Return whether the losses of a row are those of whole forwards at one rate, another one in each row.

        This costs one forward of many; a forward may go another way than all those on which it was learned.
        """
        self._num_rows += 1
        upper = len(rates) // 2
        index = upper + (7 * self._num_rows) % (len(rates) - upper)
        one = slice(index, index + 1)
        difference = deviation(rates[one], losses[one], self.whole(rates[one], batch), self._start.objective.epsilon)
        if difference is None and math.isfinite(losses[0]):  # a product that overflows is not finite even at rate 0
            return True
        reason = difference or "an output is not finite"
        if self._batched is not None:
            self._leave_out("batched", reason)
        if self._shortcuts is not None:
            self._leave_out("shortcuts", reason)
        return False

    def whole(self, rates: Sequence[float] | FloatArray, batch: Batch) -> FloatArray:
        """Return the losses at some rates, by a whole forward at each."""
        losses = []
        for rate in rates:
            self._direction.move(float(rate))
            losses.append(self._start.loss(batch))
        return np.array(losses)

    def learn(self, rates: FloatArray, tested: Sequence[float], whole: FloatArray, batch: Batch) -> None:
        """Learn on the first row how forwards can be spared, and verify it.

        Args:
            rates: All rates.
            tested: Those at which it is verified.
            whole: The losses there, by whole forwards.
            batch: The batch on which they were measured.
        """
        if obstacle := self._start.objective.obstacle:
            if self._engine != "line":
                self._leave_out("batched", obstacle)
            return
        watched = Shortcuts(self._direction)
        if watched.learn(lambda within: self._start.loss(batch, within), tested[-2:]):
            self._shortcuts = watched
            self._keep_if_equal("shortcuts", tested, whole, batch)
        if len(rates) >= _FEW_RATES and self._engine != "line":
            self._try_batched(watched, rates, batch)
        elif self._engine == "batched":
            self._leave_out("batched", f"{len(rates)} rates are not worth it")

    def objection(self, tested: Sequence[float], whole: FloatArray, batch: Batch) -> str | None:
        """Return where the losses of the way in use differ from those of whole forwards, or ``None``."""
        found = self._by(self.contest.leader, tested, batch)
        return deviation(tested, found, whole, self._start.objective.epsilon)

    def _by(self, name: str, rates: Sequence[float] | FloatArray, batch: Batch) -> FloatArray:
        if name == "batched" and self._batched is not None:
            try:
                return self._batched.losses(lambda *over: self._start.losses(batch, *over), rates)
            except Exception as error:
                if not comes_out_of_torch(error):
                    raise
                message, _, _ = str(error).partition("\n")
                self._leave_out("batched", f"{type(error).__name__}: {message[:200]}")
        if self._shortcuts is not None:
            try:
                return self._shortcuts.losses(lambda within: self._start.loss(batch, within), rates)
            except ChangedError as error:
                self._leave_out("shortcuts", str(error))
        return self.whole(rates, batch)

    def _try_batched(self, watched: Shortcuts, rates: FloatArray, batch: Batch) -> None:
        """Try a few rates at once, and let it take part if that is right and not hopelessly slow."""
        self._batched = Batched(self._direction, watched)
        if reason := self._batched.objection():
            self._leave_out("batched", reason)
            return
        self.contest = Contest("line", "batched") if self._engine == "auto" else Contest("batched")
        few = rates[np.linspace(0, len(rates) - 1, _FEW_RATES).astype(int)]
        expected, in_turn = timed(lambda: self._by("line", few, batch))
        self._keep_if_equal("batched", few, expected, batch)
        _, at_once = timed(lambda: self._by("batched", few, batch))
        if self._engine == "auto" and at_once > _HOPELESS * in_turn:
            self._leave_out("batched", f"{at_once / in_turn:.1f} times slower at {_FEW_RATES} rates")
        self._compare = self._engine == "auto" and self._batched is not None

    def _keep_if_equal(self, name: str, rates: Sequence[float] | FloatArray, whole: FloatArray, batch: Batch) -> None:
        """Leave "batched" or "shortcuts" out if it gives other losses than whole forwards."""
        found = self._by("batched" if name == "batched" else "line", rates, batch)
        if difference := deviation(rates, found, whole, self._start.objective.epsilon):
            self._leave_out(name, difference)

    def _leave_out(self, name: str, reason: str) -> None:
        if name == "batched":
            self._batched = None
            self.contest.withdraw(name, "line", reason)
        else:
            self._shortcuts = None
        level = logging.WARNING if name == self._engine else logging.INFO
        logger.log(level, "The losses are computed without %s: %s.", _WORDS[name], reason)


def deviation(
    rates: Sequence[float] | FloatArray, losses: FloatArray, expected: FloatArray, epsilon: float
) -> str | None:
    """Return where losses differ by more than a :func:`distance` of 1, or ``None``."""
    for rate, loss, real in zip(rates, losses, expected, strict=True):
        if distance(loss, real, epsilon) > 1.0:
            return f"the loss at {rate:.3g} is {loss:.8g} in place of {real:.8g}"
    return None


def distance(loss: float, real: float, epsilon: float) -> float:
    r"""Return how far a loss is from another, in units of :math:`\max(10^{-6}, 8 \epsilon) \max(|L|, 1)`.

    Two that are not finite are the same; one that is not is infinitely far from one that is.

    Example:
        >>> distance(4.0, 4.000004, 0.0).__round__(3), distance(4.0, math.inf, 0.0), distance(math.inf, math.inf, 0.0)
        (1.0, inf, 0.0)
    """
    if not (math.isfinite(loss) and math.isfinite(real)):
        return math.inf if math.isfinite(loss) or math.isfinite(real) else 0.0
    return abs(real - loss) / (max(LOSS_TOLERANCE, 8.0 * epsilon) * max(abs(real), 1.0))


def coarseness(start: Start, parameters: Sequence[torch.Tensor]) -> str | None:
    """Return why losses are too coarse to verify an engine by them, or ``None``."""
    coarsest = max((p.dtype for p in parameters), key=lambda dtype: torch.finfo(dtype).eps)
    if torch.finfo(coarsest).eps > LOSS_TOLERANCE:
        return f"{coarsest} is too coarse to verify it"
    if (rounding := start.objective.autocast_dtype) is not None:
        return f"autocast rounds the weights to {rounding}, which is too coarse to verify it"
    return "the loss is too coarse" if start.objective.epsilon > LOSS_TOLERANCE else None


def comes_out_of_torch(error: Exception) -> bool:
    """Return whether an error comes out of torch, as its limits do, rather than out of the user's own code."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_code.co_filename.startswith(_FOLDERS)


def timed(losses: Callable[[], FloatArray]) -> tuple[FloatArray, float]:
    """Return losses, and the seconds that they have taken."""
    began = time.perf_counter()
    return losses(), time.perf_counter() - began

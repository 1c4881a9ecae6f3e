"""The losses of a row on its line: by whole forwards, with shortcuts, or at many rates at once."""

import logging
import math
import time
import warnings
from collections.abc import Callable, Sequence

import numpy as np

from autolr._typing import Batch, EngineName, FloatArray
from autolr.probing.batched import Batched
from autolr.probing.contest import Contest
from autolr.probing.direction import Direction
from autolr.probing.shortcuts import ChangedError, Shortcuts
from autolr.probing.start import Start

logger = logging.getLogger("autolr")

LOSS_TOLERANCE = 1e-6
_NEWLINE = "\n"
_WORDS = {"batched": "the batched engine", "shortcuts": "shortcuts"}
# Fewer rates are not worth a batch; of more, so many are tried first.
_FEW_RATES = 8
# What is so many times slower on its trial is not tried any further.
_HOPELESS = 2.0


class Forwards:
    """The losses of a row at the rates of its line.

    A whole forward at each rate defines them. Whatever spares some of that (:class:`Shortcuts`, :class:`Batched`) is
    compared with it when it is learned and at the end; what differs, or cannot be done, is left out, with a reason
    that is logged.

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
        self.contest = Contest("line")

    def losses(self, rates: FloatArray, batch: Batch) -> FloatArray:
        """Return the losses at some rates, shape ``(K,)``."""
        name = self.contest.turn
        began = time.perf_counter()
        losses = self._by(name, rates, batch)
        self.contest.note(name, time.perf_counter() - began)
        if self._compare:
            self._compare = False
            self._keep_if_equal("batched", rates, losses, batch)
        return losses

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
            self._leave_out("batched", obstacle)
            return
        watched = Shortcuts(self._direction)
        if watched.learn(lambda within: self._start.loss(batch, within), tested[-2:]):
            self._shortcuts = watched
            self._keep_if_equal("line", tested, whole, batch)
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
            except Exception as error:  # noqa: BLE001 (one of the user's is raised again by the forwards below)
                self._leave_out("batched", f"{type(error).__name__}: {str(error).partition(_NEWLINE)[0][:200]}")
        if self._shortcuts is not None:
            try:
                return self._shortcuts.losses(lambda within: self._start.loss(batch, within), rates)
            except ChangedError as error:
                self._leave_out("shortcuts", str(error))
        return self.whole(rates, batch)

    def _try_batched(self, watched: Shortcuts, rates: FloatArray, batch: Batch) -> None:
        """Try a few rates at once, and let it take part if that is right and not hopelessly slow."""
        self.contest = Contest("line", "batched") if self._engine == "auto" else Contest("batched")
        self._batched = Batched(self._direction, watched)
        if reason := self._batched.objection():
            self._leave_out("batched", reason)
            return
        few = rates[np.linspace(0, len(rates) - 1, _FEW_RATES).astype(int)]
        expected, in_turn = _timed(lambda: self._by("line", few, batch))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, that a function is mapped by a slow loop
            self._keep_if_equal("batched", few, expected, batch)
            _, at_once = _timed(lambda: self._by("batched", few, batch))
        if self._engine == "auto" and at_once > _HOPELESS * in_turn:
            self._leave_out("batched", f"{at_once / in_turn:.1f} times slower at {_FEW_RATES} rates")
        self._compare = self._batched is not None

    def _keep_if_equal(self, name: str, rates: Sequence[float] | FloatArray, whole: FloatArray, batch: Batch) -> None:
        """Leave something out if it gives other losses than whole forwards."""
        found = self._by(name, rates, batch)
        if difference := deviation(rates, found, whole, self._start.objective.epsilon):
            self._leave_out("shortcuts" if name == "line" else name, difference)

    def _leave_out(self, name: str, reason: str) -> None:
        if name == "batched":
            self._batched = None
            if self._engine == "line":
                return
            self.contest.withdraw(name, "line", reason)
        else:
            self._shortcuts = None
        level = logging.WARNING if name == self._engine else logging.INFO
        logger.log(level, "The losses are computed without %s: %s.", _WORDS[name], reason)


def deviation(
    rates: Sequence[float] | FloatArray, losses: FloatArray, expected: FloatArray, epsilon: float
) -> str | None:
    r"""Return where losses differ by more than :math:`\max(10^{-6}, 8 \epsilon) \max(|L|, 1)`, or ``None``."""
    for rate, loss, real in zip(rates, losses, expected, strict=True):
        both_diverged = not (math.isfinite(loss) or math.isfinite(real))
        allowed = max(LOSS_TOLERANCE, 8.0 * epsilon) * max(abs(real), 1.0)
        if not (both_diverged or abs(real - loss) <= allowed):
            return f"the loss at {rate:.3g} is {loss:.8g} in place of {real:.8g}"
    return None


def _timed(losses: Callable[[], FloatArray]) -> tuple[FloatArray, float]:
    began = time.perf_counter()
    return losses(), time.perf_counter() - began

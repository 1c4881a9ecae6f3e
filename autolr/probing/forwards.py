"""The losses of a row on its line: by whole forwards, or from the calls of one, rate by rate or at many at once."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from autolr._typing import Batch, EngineName, FloatArray
from autolr.probing.contest import Contest
from autolr.probing.direction import Direction
from autolr.probing.low_rank import LowRank
from autolr.probing.replay import Chunks, Replay
from autolr.probing.start import Start
from autolr.probing.tape import Tape, UnfitError, same_values, shares_memory

_FOLDERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent))

_WORDS = {"batched": "the batched engine", "records": "records of forwards"}

logger = logging.getLogger("autolr")

LOSS_TOLERANCE = 1e-6
# Larger models gain nothing from many rates at once on a CPU, and should not pay for stacked weights.
_MOST_BYTES = {"cpu": 16 << 20}
_MOST_BYTES_ELSEWHERE = 256 << 20
# Fewer rates are not worth a batch; of more, so many are tried first.
_FEW_RATES = 8
# At so many rates it is compared with the other engine on a whole row, before they take turns.
_COMPARED = 32
# Multiples of it, less their integers, are spread evenly, however many there are.
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
# What is so many times slower on its trial is not tried any further.
_HOPELESS = 2.0


class Forwards:
    """The losses of a row at the rates of its line.

    A whole forward at each rate defines them. In every row that before the step is recorded
    (:class:`~autolr.probing.tape.Recorder`), and the losses at all rates are computed from its calls
    (:class:`~autolr.probing.replay.Replay`). In every row they are compared with a whole forward at another rate, and
    on the first row and on the last at several. What differs, or cannot be done, is left out, with a reason that is
    logged.

    Args:
        start: The start of all probes.
        direction: The line of the row.
        engine: ``"line"``: rate by rate; ``"batched"``: many rates at once; ``"auto"``: the faster one, which is found
            on the first rows.

    Attributes:
        contest: Which of the two is in use.
    """

    def __init__(self, start: Start, direction: Direction, engine: EngineName) -> None:
        self._start = start
        self._direction = direction
        self._engine = engine
        self._is_recorded = self._draws = self._compare = False
        self._chunks: Chunks | None = None
        self._low_rank: LowRank | None = None
        self._num_rows = 0
        self.contest = Contest("line")

    def losses(self, rates: FloatArray, batch: Batch) -> FloatArray:
        """Return the losses at some rates, the first of which is 0, shape ``(K,)``; the weights are at the start."""
        record = self._record(float(rates[-1]), batch) if self._is_recorded else None
        if record is None:
            return self.whole(rates, batch)
        name = self.contest.turn
        losses, taken = timed(lambda: self._by(name, record.replay, rates, batch))
        self.contest.note(name, taken)
        if not self._is_right(record, rates, losses, batch):
            return self.whole(rates, batch)
        if self._compare:
            self._compare = False
            some = np.linspace(0, len(rates) - 1, min(len(rates), _COMPARED)).astype(int)
            self._keep_if_equal(
                "batched", rates[some], self._by("batched", record.replay, rates[some], batch), losses[some]
            )
        return losses

    def whole(self, rates: Sequence[float] | FloatArray, batch: Batch) -> FloatArray:
        """Return the losses at some rates, by a whole forward at each."""
        losses = []
        for rate in rates:
            self._direction.move(float(rate))
            losses.append(self._start.loss(batch))
        return np.array(losses)

    def learn(self, rates: FloatArray, tested: Sequence[float], whole: FloatArray, batch: Batch) -> None:
        """Learn on the first row how forwards can be spared, and verify it; the weights are at the start.

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
        self._is_recorded = True
        moving = [weight for weight, _, _ in self._direction.points()]
        if shares_memory(self._start.objective.fixed(moving), moving):
            self._leave_out("records", "a tensor shares its memory with a weight")
            return
        record = self._record(float(tested[-1]), batch)
        if record is None:
            return
        self._keep_if_equal("records", tested, self._by("line", record.replay, tested, batch), whole)
        if not self._is_recorded:
            return
        if len(rates) >= _FEW_RATES and self._engine != "line":
            self._try_batched(record.replay, rates, batch)
        elif self._engine == "batched":
            self._leave_out("batched", f"{len(rates)} rates are not worth it")

    def objection(self, tested: Sequence[float], whole: FloatArray, batch: Batch) -> str | None:
        """Return where the way in use gives other losses than whole forwards; the weights are at the start."""
        record = self._record(float(tested[-1]), batch) if self._is_recorded else None
        if record is None:
            return None
        found = self._by(self.contest.leader, record.replay, tested, batch)
        return deviation(tested, found, whole, self._start.objective.epsilon)

    def _record(self, other_rate: float, batch: Batch) -> "_Record | None":
        """Return the record of the forward before the step, or ``None`` where there can be none from then on.

        Args:
            other_rate: One at which constants that came from nowhere must be the same.
            batch: The batch.
        """
        try:
            with torch.no_grad():
                return self._recorded(other_rate, batch)
        except Exception as error:
            if not comes_out_of_torch(error):
                raise
            self._leave_out("records", _summary(error))
        return None

    def _recorded(self, other_rate: float, batch: Batch) -> "_Record":
        start, points = self._start, self._direction.points()
        loss, tape = self._tape(batch)
        if tape.unseen:
            self._direction.move(other_rate)
            _, other = self._tape(batch)
            if not same_values(tape.unseen, other.unseen):
                raise UnfitError("a tensor that depends on the rate is made out of sight")
        lines = [(origin, step) for _, origin, step in points]
        return _Record(Replay(tape, lines, start.randomness.move_torch_to, self._low_rank), loss)

    def _tape(self, batch: Batch) -> tuple[float, Tape]:
        """Return the loss at the weights as they are, and the tape of its forward."""
        start, weights = self._start, [weight for weight, _, _ in self._direction.points()]
        start.randomness.rewind()
        before = start.randomness.torch_state()
        loss, tape = start.objective.recorded(batch, weights, start.randomness.torch_state if self._draws else None)
        if not self._draws and not all(map(torch.equal, before, start.randomness.torch_state())):
            self._draws = True
            return self._tape(batch)
        return loss, tape

    def _is_right(self, record: "_Record", rates: FloatArray, losses: FloatArray, batch: Batch) -> bool:
        """Return whether the losses of a row are those of whole forwards: of the recorded one, and of another one.

        That is another one in each row, at one of the upper rates whose losses are finite, as one that is not finite
        proves little.
        """
        self._num_rows += 1
        finite = np.flatnonzero(np.isfinite(losses[1:])) + 1
        upper = finite[finite.size // 2 :] if finite.size else np.array([1])
        checked = upper[[int(upper.size * (self._num_rows * _GOLDEN % 1.0))]]
        whole = np.concatenate([[record.loss], self.whole(rates[checked], batch)])
        at = np.concatenate([[0], checked])
        reason = deviation(rates[at], losses[at], whole, self._start.objective.epsilon)
        if reason is None and not math.isfinite(losses[0]):  # a product that overflows is not finite even at rate 0
            reason = "an output is not finite"
        if reason is None:
            return True
        self._leave_out("records", reason)
        return False

    def _by(self, name: str, replay: Replay, rates: Sequence[float] | FloatArray, batch: Batch) -> FloatArray:
        objective = self._start.objective

        def move(rate: float) -> None:
            objective.count_repeated(batch, 1)
            self._direction.move(rate, replay.still)

        with torch.no_grad():
            if name == "batched" and self._chunks is not None:
                objective.count_repeated(batch, len(rates))
                try:
                    return np.array(self._chunks.losses(replay, rates))
                except Exception as error:  # noqa: BLE001 (nothing of the user's own is called here)
                    self._leave_out("batched", _summary(error))
            try:
                return np.array(replay.in_turn(map(float, rates), move))
            except Exception as error:  # noqa: BLE001
                self._leave_out("records", _summary(error))
        return self.whole(rates, batch)

    def _try_batched(self, replay: Replay, rates: FloatArray, batch: Batch) -> None:
        """Try a few rates at once, and let it take part if that is right and not hopelessly slow."""
        weights = self._direction.origin
        if reason := _obstacle_of(weights):
            self._leave_out("batched", reason)
            return
        self._chunks, self._low_rank = Chunks(weights[0]), LowRank(float(rates[-1]))
        self.contest = Contest("line", "batched") if self._engine == "auto" else Contest("batched")
        few = rates[np.linspace(0, len(rates) - 1, _FEW_RATES).astype(int)]
        expected, in_turn = timed(lambda: self._by("line", replay, few, batch))
        self._keep_if_equal("batched", few, self._by("batched", replay, few, batch), expected)
        at_once = min(timed(lambda: self._by("batched", replay, few, batch))[1] for _ in range(2))
        if self._engine == "auto" and at_once > _HOPELESS * in_turn:
            self._leave_out("batched", f"{at_once / in_turn:.1f} times slower at {_FEW_RATES} rates")
        self._compare = self._engine == "auto" and self._chunks is not None

    def _keep_if_equal(
        self, name: str, rates: Sequence[float] | FloatArray, found: FloatArray, expected: FloatArray
    ) -> None:
        """Leave "batched" or "records" out if it gives other losses than expected."""
        if difference := deviation(rates, found, expected, self._start.objective.epsilon):
            self._leave_out(name, difference)

    def _leave_out(self, name: str, reason: str) -> None:
        if name == "batched":
            self._chunks = None
            self.contest.withdraw(name, "line", reason)
        else:
            self._is_recorded = False
            if self._engine != "line":
                self._leave_out("batched", reason)
        level = logging.WARNING if name == self._engine else logging.INFO
        logger.log(level, "The losses are computed without %s: %s.", _WORDS[name], reason)


@dataclass(frozen=True, slots=True, eq=False)
class _Record:
    """The record of a whole forward: what repeats it, and its loss."""

    replay: Replay
    loss: float


def _obstacle_of(weights: Sequence[torch.Tensor]) -> str | None:
    """Return why weights are not worth stacking, or ``None``."""
    if len({(weight.device, weight.dtype) for weight in weights}) > 1:
        return "the parameters differ in device or dtype"
    size = sum(weight.nbytes for weight in weights)
    is_large = size > _MOST_BYTES.get(weights[0].device.type, _MOST_BYTES_ELSEWHERE)
    return f"the parameters take {size / 2**20:.0f} MiB" if is_large else None


def _summary(error: Exception) -> str:
    """Return an error as a reason, in one line."""
    message, _, _ = str(error).partition("\n")
    return message if isinstance(error, UnfitError) else f"{type(error).__name__}: {message[:200]}"


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

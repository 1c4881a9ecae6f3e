"""Which observations are in each subsample: independent draws, a partition, or the batches of a loader."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from autolr._typing import Batch, IntArray, Rng, Sampling
from autolr._validation import invalid
from autolr.data import DEFAULT_BATCH_SIZE, BatchStream, Rows

_ENOUGH_ROWS = 20

# the purposes of the random streams of a call, the first word of their spawn keys
ROW, WARMUP, PARTITION, EVALUATION, ROW_STATE, WARMUP_STATE = range(6)


def entropy_of(rng: Rng) -> int:
    """Return the integer from which all randomness of a call is made.

    Args:
        rng: An int is its own entropy, so that each call starts again; a generator is advanced; ``None`` takes fresh
            entropy of the operating system.
    """
    if rng is None:
        return int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
    return int(rng.integers(2**63)) if isinstance(rng, np.random.Generator) else int(rng)


def seed_of(entropy: int, purpose: int, index: int = 0) -> np.random.SeedSequence:
    """Return the seed of a purpose and an index, a function of (entropy, purpose, index) only."""
    return np.random.SeedSequence(entropy, spawn_key=(purpose, index))


class Subsamples(Protocol):
    """Where the batches of a row come from."""

    def draw(self, index: int) -> tuple[Batch, ...] | None:
        """Return the batches of the row ``index``, or ``None`` where the data has ended."""

    def draw_warmup(self, index: int) -> Batch | None:
        """Return a batch that belongs to no row, or ``None`` where the data has ended."""


class DrawnSubsamples:
    """Subsamples drawn from observations: ``num_parts`` disjoint ones a row.

    ``"independent"``: each row is drawn without replacement from all observations, independently of the other rows.
    Conditionally on the data the rows are independent and identically distributed, so that intervals speak about
    *this dataset*. ``"partition"``: the rows are disjoint pieces of one random order of the observations, which end
    when the data does. Where the data was drawn at random from a population, the rows are independent draws from it,
    so that intervals speak about *the population* too (Nadeau & Bengio 2003, Machine Learning 52:239, on why
    overlapping draws do not).

    Args:
        rows: The observations.
        batch_size: The number of observations in a subsample, or ``None`` for 32, or fewer where there are few.
        sampling: ``"independent"`` or ``"partition"``.
        num_parts: The number of subsamples of a row.
        num_rows: The number of rows asked for; by default the pieces of a partition are small enough for them, or for
            the 20 from which sets and bounds can be relied on.
        entropy: See :func:`entropy_of`.
        purpose: The purpose of the random stream of the rows.

    Raises:
        ValueError: If there are too few observations for two disjoint subsamples.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        batch_size: int | None,
        sampling: Sampling,
        num_parts: int,
        num_rows: int = 2,
        entropy: int,
        purpose: int = ROW,
        name: str = "X",
    ) -> None:
        pieces = 2 * num_parts if sampling == "partition" else 2
        most = len(rows) // pieces
        if most < 1:
            raise ValueError(invalid(name, f"have at least {pieces} observations", len(rows)))
        if batch_size is not None and batch_size > most:
            need = f"two rows of {num_parts}" if pieces > 2 else "two"
            raise ValueError(
                invalid(
                    "batch_size",
                    f"be at most {most}, so that {len(rows)} observations give {need} disjoint subsamples",
                    batch_size,
                )
            )
        if sampling == "partition":
            most = max(1, min(most, len(rows) // (num_parts * min(num_rows, _ENOUGH_ROWS))))
        self.batch_size = min(DEFAULT_BATCH_SIZE, most) if batch_size is None else batch_size
        self._rows, self._num_parts, self._entropy, self._purpose = rows, num_parts, entropy, purpose
        self._order: IntArray | None = None
        if sampling == "partition":
            self._order = np.random.default_rng(seed_of(entropy, PARTITION, purpose)).permutation(len(rows))

    def draw(self, index: int) -> tuple[Batch, ...] | None:
        """Return the batches of the row ``index``, or ``None`` where a partition has ended."""
        size = self._num_parts * self.batch_size
        if self._order is None:
            indices = self._independent(self._purpose, index, size)
        else:
            indices = self._order[index * size : (index + 1) * size]
            if len(indices) < size:
                return None
        return tuple(self._rows.batch(part) for part in np.split(indices, self._num_parts))

    def draw_warmup(self, index: int) -> Batch | None:
        """Return a batch drawn independently of all rows, from all observations."""
        return self._rows.batch(self._independent(WARMUP, index, self.batch_size))

    def _independent(self, purpose: int, index: int, size: int) -> IntArray:
        rng = np.random.default_rng(seed_of(self._entropy, purpose, index))
        return rng.choice(len(self._rows), size=size, replace=False)


class StreamedSubsamples:
    """The batches of a loader or an iterable, in its order, each in one row only.

    What was drawn is kept where the user has it, not on the device, so that a row can be drawn again.

    Args:
        stream: The batches.
        num_parts: The number of batches of a row.
        cycle: Start again where the stream ends: for evaluation data, whose batches may serve several rows.
    """

    def __init__(self, stream: BatchStream, *, num_parts: int, cycle: bool = False) -> None:
        self._stream, self._num_parts, self._cycle = stream, num_parts, cycle
        self._batches: Iterator[Batch] | None = None
        self._drawn: dict[int, tuple[Batch, ...]] = {}
        self.num_passes = 0

    def draw(self, index: int) -> tuple[Batch, ...] | None:
        """Return the batches of the row ``index``, the next ones if it is new, or ``None`` at the stream's end."""
        if index not in self._drawn:
            batches = tuple(batch for _ in range(self._num_parts) for batch in self._next())
            if len(batches) < self._num_parts:
                return None
            self._drawn[index] = batches
        return tuple(self._stream.move(batch) for batch in self._drawn[index])

    def draw_warmup(self, index: int) -> Batch | None:  # noqa: ARG002 (in its order)
        """Return the next batch, which is then in no row, or ``None`` where the stream has ended."""
        return next((self._stream.move(batch) for batch in self._next()), None)

    def _next(self) -> list[Batch]:
        """Return the next batch in a list, empty where there is none."""
        for _ in range(2 if self._cycle else 1):
            if self._batches is None:
                self._batches = iter(self._stream)
                self.num_passes += 1
            for batch in self._batches:
                return [batch]
            if self._cycle:
                self._batches = None
        return []

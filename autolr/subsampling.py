"""Which observations are in each subsample: independent draws, a partition, or the batches of a loader."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from autolr._typing import Batch, IntArray, Rng, Sampling
from autolr._validation import invalid
from autolr.data import DEFAULT_BATCH_SIZE, BatchStream, Rows

_ENOUGH_ROWS = 20

# the purposes of the random streams of a call, the first word of their spawn keys
ROW, WARMUP, PARTITION, EVALUATION, ROW_STATE, WARMUP_STATE, STEP_STATE = range(7)
BATCH_STATE = 24  # of the calls that take one batch; those of autolr.streams are below


def entropy_of(rng: Rng) -> int:
    """Return the integer from which all randomness of a call is made.

    Args:
        rng: An int is its own entropy, so that each call starts again; a generator is advanced; ``None`` takes fresh
            entropy of the operating system.
    """
    if rng is None:
        return int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
    return int(rng.integers(2**63)) if isinstance(rng, np.random.Generator) else int(rng)


def seed_of(entropy: int, purpose: int, *indices: int) -> np.random.SeedSequence:
    """Return the seed of a purpose and its indices, a function of (entropy, purpose, indices) only."""
    return np.random.SeedSequence(entropy, spawn_key=(purpose, *(indices or (0,))))


class Subsamples(Protocol):
    """Where the batches of a row come from."""

    def draw(self, index: int) -> tuple[Batch, ...] | None:
        """Return the batch of the first step of the row ``index``, and further parts; ``None``: the data has ended."""

    def draw_further(self, index: int) -> Iterator[Batch]:
        """Yield the batches of the further steps of a row that :meth:`draw` has."""

    def draw_warmup(self, index: int) -> Batch | None:
        """Return a batch that belongs to no row, or ``None`` where the data has ended."""


class DrawnSubsamples:
    """Subsamples drawn from observations: ``num_parts`` disjoint ones a row, and one for each further step.

    ``"independent"``: each row is drawn without replacement from all observations, independently of the other rows.
    Conditionally on the data the rows are independent and identically distributed, so that intervals speak about
    *this dataset*. ``"partition"``: the rows are disjoint pieces of one random order of the observations, which end
    when the data does. Where the data was drawn at random from a population, the rows are independent draws from it,
    so that intervals speak about *the population* too (Nadeau & Bengio 2003, Machine Learning 52:239, on why
    overlapping draws do not).

    The further steps of a row of independent draws go through shuffled epochs of the observations that are in none of
    its parts but the first: the first epoch begins with that part, so that no observation is drawn twice as long as
    there are others. They do not depend on the number of steps. In a partition all subsamples of a row are disjoint.

    Args:
        rows: The observations.
        batch_size: The number of observations in a subsample, or ``None`` for 32, or fewer where there are few.
        sampling: ``"independent"`` or ``"partition"``.
        num_parts: The number of subsamples of a row: that of the first step, and those of the evaluation.
        num_steps: The number of steps of a row.
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
        num_steps: int = 1,
        num_rows: int = 2,
        entropy: int,
        purpose: int = ROW,
        name: str = "X",
    ) -> None:
        pieces_of_row = num_parts + num_steps - 1
        pieces = 2 * pieces_of_row if sampling == "partition" else 2
        most = len(rows) // pieces
        if most < 1:
            raise ValueError(invalid(name, f"have at least {pieces} observations", len(rows)))
        if batch_size is not None and batch_size > most:
            need = f"two rows of {pieces_of_row}" if pieces > 2 else "two"
            raise ValueError(
                invalid(
                    "batch_size",
                    f"be at most {most}, so that {len(rows)} observations give {need} disjoint subsamples",
                    batch_size,
                )
            )
        if sampling == "partition":
            most = max(1, min(most, len(rows) // (pieces_of_row * min(num_rows, _ENOUGH_ROWS))))
        self.batch_size = min(DEFAULT_BATCH_SIZE, most) if batch_size is None else batch_size
        self.rows, self._num_parts, self._entropy, self._purpose = rows, num_parts, entropy, purpose
        self._pieces_of_row = pieces_of_row
        self._order: IntArray | None = None
        if sampling == "partition":
            self._order = np.random.default_rng(seed_of(entropy, PARTITION, purpose)).permutation(len(rows))

    def draw(self, index: int) -> tuple[Batch, ...] | None:
        """Return the batches of the first step and of the evaluation, or ``None`` where a partition has ended."""
        if self._order is None:
            indices = self._choose(self._rng(self._purpose, index), self._num_parts)
        else:
            indices = self._piece(index)
            if len(indices) < self._pieces_of_row * self.batch_size:
                return None
        return tuple(self.rows.batch(part) for part in self._cut(indices)[: self._num_parts])

    def draw_further(self, index: int) -> Iterator[Batch]:
        """Yield the batches of the further steps: without end, but for a partition."""
        if self._order is not None:
            yield from map(self.rows.batch, self._cut(self._piece(index))[self._num_parts :])
            return
        rng = self._rng(self._purpose, index)
        drawn = self._choose(rng, self._num_parts)
        is_left = np.ones(len(self.rows), dtype=np.bool_)
        is_left[drawn] = False
        epoch = rng.permutation(np.flatnonzero(is_left))
        is_left[drawn[: self.batch_size]] = True
        while True:
            yield from map(self.rows.batch, self._cut(epoch))
            epoch = rng.permutation(np.flatnonzero(is_left))

    def draw_warmup(self, index: int) -> Batch | None:
        """Return a batch drawn independently of all rows, from all observations."""
        return self.rows.batch(self._choose(self._rng(WARMUP, index), 1))

    def _rng(self, purpose: int, index: int) -> np.random.Generator:
        return np.random.default_rng(seed_of(self._entropy, purpose, index))

    def _choose(self, rng: np.random.Generator, num_parts: int) -> IntArray:
        return rng.choice(len(self.rows), size=num_parts * self.batch_size, replace=False)

    def _piece(self, index: int) -> IntArray:
        """Return the observations of a row of a partition, fewer where it has ended."""
        order: Any = self._order
        size = self._pieces_of_row * self.batch_size
        piece: IntArray = order[index * size : (index + 1) * size]
        return piece

    def _cut(self, indices: IntArray) -> list[IntArray]:
        """Return subsamples of the batch size; fewer observations at the end are left out."""
        ends = range(self.batch_size, len(indices) + 1, self.batch_size)
        return [indices[end - self.batch_size : end] for end in ends]


class StreamedSubsamples:
    """The batches of a loader or an iterable, in its order, each in one row only.

    What was drawn is kept where the user has it, not on the device, so that a row can be drawn again.

    Args:
        stream: The batches.
        num_parts: The number of batches of a row besides those of its further steps.
        num_steps: The number of steps of a row; the batches of the steps come first.
        cycle: Start again where the stream ends: for evaluation data, whose batches may serve several rows.

    Attributes:
        stream: The batches.
        num_passes: How often a batch was drawn from the stream's start.
    """

    def __init__(self, stream: BatchStream, *, num_parts: int, num_steps: int = 1, cycle: bool = False) -> None:
        self.stream, self._num_steps, self._cycle = stream, num_steps, cycle
        self._num_batches = num_parts + num_steps - 1
        self._batches: Iterator[Batch] | None = None
        self._drawn: dict[int, tuple[Batch, ...]] = {}
        self.num_passes = 0

    @property
    def num_drawn(self) -> int:
        """How many rows were drawn so far."""
        return len(self._drawn)

    def draw(self, index: int) -> tuple[Batch, ...] | None:
        """Return the batches of the first step and of the evaluation, or ``None`` at the stream's end.

        A row that is new takes the stream's next batches.
        """
        if index not in self._drawn:
            batches = tuple(batch for _ in range(self._num_batches) for batch in self._next())
            if len(batches) < self._num_batches:
                return None
            self._drawn[index] = batches
        first, *others = self._drawn[index]
        return tuple(map(self.stream.move, (first, *others[self._num_steps - 1 :])))

    def draw_further(self, index: int) -> Iterator[Batch]:
        """Yield the batches of the further steps."""
        return map(self.stream.move, self._drawn[index][1 : self._num_steps])

    def draw_warmup(self, index: int) -> Batch | None:  # noqa: ARG002 (in its order)
        """Return the next batch, which is then in no row, or ``None`` where the stream has ended."""
        return next((self.stream.move(batch) for batch in self._next()), None)

    def _next(self) -> list[Batch]:
        """Return the next batch in a list, empty where there is none."""
        for _ in range(2 if self._cycle else 1):
            begins = self._batches is None
            self._batches = iter(self.stream) if self._batches is None else self._batches
            for batch in self._batches:
                self.num_passes += begins
                return [batch]
            if self._cycle:
                self._batches = None
        return []

"""The batches of a search: what each stream trains on, in its order, and what is kept apart to be judged on."""

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from autolr._typing import Batch, IntArray
from autolr._validation import invalid
from autolr.data import DEFAULT_BATCH_SIZE, BatchStream, Data, Rows
from autolr.probing.random_state import ForkedRandomness
from autolr.subsampling import seed_of

# the purposes of the random streams of a search, beyond those of autolr.subsampling
HELD_OUT, STREAM, STREAM_STATE, STEP_STATE = range(16, 20)
# A held-out loss is the mean over this many batches, and over this many observations where batches are small.
HELD_OUT_BATCHES, HELD_OUT_OBSERVATIONS = 4, 128
# Of observations, at most this share is kept apart; of batches, at most a quarter of those that there are.
LARGEST_SHARE = 0.2


class Streams:
    """Batches to train on, stream by stream and step by step, and batches that no stream trains on.

    Observations are drawn in shuffled epochs, each stream in an order of its own. The batches of a loader or an
    iterable come in its order, and again from the first one where it ends; further streams go through them in other
    orders. Whatever was drawn is kept where the user has it, and so is the same for every rate.

    Args:
        data: What to train on.
        batch_size: Observations of a batch, where the data has no batches of its own; by default 32, or fewer.
        val_data: What to judge on, or ``None``: then some of ``data`` is kept apart, if there is enough of it.
        entropy: See :func:`autolr.subsampling.entropy_of`.
        randomness: The generators that drawing may draw from; they are moved to a state of their own for each batch.

    Raises:
        ValueError: If there is no batch.
    """

    def __init__(
        self,
        data: Data,
        *,
        batch_size: int | None,
        val_data: Data | None,
        entropy: int,
        randomness: ForkedRandomness,
    ) -> None:
        self._entropy, self._randomness = entropy, randomness
        source: _ObservationSource | _BatchSource
        if isinstance(data, BatchStream):
            source = _BatchSource(data, keep=val_data is None, draw=self._forked)
            self.batch_size = data.batch_size
        else:
            source = _ObservationSource(data, batch_size, keep=val_data is None, entropy=entropy)
            self.batch_size = source.batch_size
        self._source = source
        self.held_out = source.held_out if val_data is None else self._own_held_out(val_data)
        self._batches: dict[tuple[int, int], Batch] = {}

    def batch(self, stream: int, step: int) -> Batch:
        """Return the batch of a step of a stream, on the device: the same one whenever it is asked for."""
        key = stream, step
        if key not in self._batches:
            self._forked(stream, step)
            self._batches[key] = self._source.batch(stream, step)
        return self._source.move(self._batches[key])

    def _forked(self, stream: int, step: int) -> None:
        self._randomness.fork(np.random.SeedSequence(self._entropy, spawn_key=(STREAM_STATE, stream, step)))

    def _own_held_out(self, data: Data) -> list[Batch]:
        size = self.batch_size or DEFAULT_BATCH_SIZE
        if isinstance(data, BatchStream):
            self._randomness.fork(seed_of(self._entropy, HELD_OUT))
            batches = list(islice(data, HELD_OUT_BATCHES))
            if not batches:
                raise ValueError(invalid("val_data", "yield at least one batch", "none"))
            return [data.move(batch) for batch in batches]
        order = np.random.default_rng(seed_of(self._entropy, HELD_OUT)).permutation(len(data))
        self._randomness.fork(seed_of(self._entropy, HELD_OUT))
        return _pieces(data, order[: max(HELD_OUT_BATCHES * size, HELD_OUT_OBSERVATIONS)], size)


class _ObservationSource:
    """Observations in shuffled epochs, without those that are kept apart."""

    def __init__(self, rows: Rows, batch_size: int | None, *, keep: bool, entropy: int) -> None:
        if batch_size is not None and batch_size > len(rows):
            raise ValueError(invalid("batch_size", f"be at most the {len(rows)} observations", batch_size))
        self.batch_size = min(DEFAULT_BATCH_SIZE, max(1, len(rows) // 8)) if batch_size is None else batch_size
        self._rows, self._entropy = rows, entropy
        order = np.random.default_rng(seed_of(entropy, HELD_OUT)).permutation(len(rows))
        wanted = max(HELD_OUT_BATCHES * self.batch_size, HELD_OUT_OBSERVATIONS)
        most = min(int(LARGEST_SHARE * len(rows)), len(rows) - self.batch_size)
        apart = min(wanted, most) if keep else 0
        self.held_out = _pieces(rows, order[:apart], self.batch_size)
        self._training = np.sort(order[apart:])

    def batch(self, stream: int, step: int) -> Batch:
        per_epoch = len(self._training) // self.batch_size
        epoch, place = divmod(step, per_epoch)
        seed = np.random.SeedSequence(self._entropy, spawn_key=(STREAM, stream, epoch))
        order = np.random.default_rng(seed).permutation(self._training)
        return self._rows.batch(order[place * self.batch_size : (place + 1) * self.batch_size])

    def move(self, batch: Batch) -> Batch:
        return batch


class _BatchSource:
    """Batches in the order in which they come, without those that are kept apart."""

    def __init__(self, stream: BatchStream, *, keep: bool, draw: Callable[[int, int], None]) -> None:
        self._stream, self._draw = stream, draw
        self._read: list[Batch] = []
        self._iterator: Iterator[Batch] | None = None
        first = 4 * HELD_OUT_BATCHES
        while len(self._read) < first and self._pull():
            pass
        if not self._read:
            raise ValueError(invalid("data", "yield at least one batch", "none"))
        apart = (HELD_OUT_BATCHES if len(self._read) == first else len(self._read) // 4) if keep else 0
        self.held_out = [stream.move(batch) for batch in self._read[:apart]]
        self._training = self._read[apart:]
        self._ended = len(self._read) < first

    def batch(self, stream: int, step: int) -> Batch:
        if stream == 0:
            while not self._ended and len(self._training) <= step:
                self._ended = not self._pull(self._training)
            return self._training[step % len(self._training)]
        order = np.random.default_rng(stream).permutation(len(self._training))
        return self._training[order[step % len(order)]]

    def move(self, batch: Batch) -> Batch:
        return self._stream.move(batch)

    def _pull(self, into: list[Batch] | None = None) -> bool:
        """Read one more batch, and return whether there was one."""
        if self._iterator is None:
            self._draw(0, 0)
            self._iterator = iter(self._stream)
        for batch in self._iterator:
            (self._read if into is None else into).append(batch)
            return True
        return False


def _pieces(rows: Rows, indices: IntArray, size: int) -> list[Batch]:
    return [rows.batch(indices[begin : begin + size]) for begin in range(0, len(indices), size)]

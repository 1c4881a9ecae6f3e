"""The batches of a search: what each stream trains on, in its order, and what is kept apart to be judged on."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import numpy as np
import torch

from autolr._typing import Batch, IntArray
from autolr._validation import invalid
from autolr.batches import num_observations, to_device
from autolr.data import DEFAULT_BATCH_SIZE, ArrayRows, BatchStream, Data, Rows
from autolr.probing.random_state import ForkedRandomness
from autolr.subsampling import seed_of

# the purposes of the random streams of a search, beyond those of autolr.subsampling
HELD_OUT, STREAM, STREAM_STATE, COURSE_STATE = range(16, 20)
# A held-out loss is the mean over this many batches, and over this many observations where batches are small. The study
# had 4 batches, mostly of 32, which is where 128 comes from; with fewer, finalists are ranked by noise, and more cost a
# third of a gradient evaluation each, for every finalist.
HELD_OUT_BATCHES, HELD_OUT_OBSERVATIONS = 4, 128
# At most this many batches of a loader: of tiny ones, more would cost as much as the steps. A choice, not measured.
MOST_HELD_OUT_BATCHES = 16
# At most this share of the observations is kept apart, and of batches at most a quarter: what is kept apart is not
# trained on, so that a larger share would change the task. A choice, not measured.
LARGEST_SHARE_HELD_OUT, HELD_OUT_BATCHES_OF = 0.2, 4


class Streams:
    """Batches to train on, stream by stream and step by step, and batches that no stream trains on.

    Observations are drawn in shuffled epochs, each stream in an order of its own. The batches of a loader or an
    iterable come in its order, and again from the first one where it ends; further streams go through them in other
    orders. Each is the same for every rate: batches of a loader or an iterable are kept where the user has them, those
    of a ``Dataset`` on the CPU until another stream is asked for, those of arrays are taken again.

    Args:
        data: What to train on.
        batch_size: Observations of a batch, where the data has no batches of its own; by default 32, or fewer.
        val_data: What to judge on, or ``None``: then some of ``data`` is kept apart, if there is enough of it.
        entropy: See :func:`autolr.subsampling.entropy_of`.
        randomness: The generators that drawing may draw from; they are moved to a state of their own for each batch.
        device: Where batches go.
        hold_out: Whether anything is to be judged on; ``False``: nothing is kept apart.
        remember: Whether batches of a ``Dataset`` are kept; ``False``, for whole runs, which memory would not hold:
            each is drawn again from its own random state whenever it is asked for.

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
        device: torch.device,
        hold_out: bool = True,
        remember: bool = True,
    ) -> None:
        self._entropy, self._randomness = entropy, randomness
        fork = partial(_fork, randomness, entropy)  # no method, which would keep a loader's workers alive in a cycle
        keep = hold_out and val_data is None
        source: _ObservationSource | _BatchSource
        if isinstance(data, BatchStream):
            source = _BatchSource(data, keep=keep, entropy=entropy, fork=fork)
            self.batch_size = data.batch_size
        else:
            source = _ObservationSource(
                data, batch_size, keep=keep, remember=remember, entropy=entropy, fork=fork, device=device
            )
            self.batch_size = source.batch_size
        self._source = source
        self.held_out = source.held_out if val_data is None else self._own_held_out(val_data)

    def batch(self, stream: int, step: int) -> Batch:
        """Return the batch of a step of a stream, on the device: the same one whenever it is asked for."""
        return self._source.batch(stream, step)

    def num_batches(self) -> int:
        """Return how many batches an epoch has; a loader or an iterable is read to its end for it."""
        return self._source.num_batches()

    def _own_held_out(self, data: Data) -> list[Batch]:
        self._randomness.fork(seed_of(self._entropy, HELD_OUT))
        if isinstance(data, BatchStream):
            iterator = iter(data)
            batches = list(islice(iterator, 1))
            if not batches:
                raise ValueError("`val_data` must yield at least one batch, got none.")
            batches += islice(iterator, _num_held_out(data.batch_size, batches[0]) - 1)
            return [data.move(batch) for batch in batches]
        size = self.batch_size or DEFAULT_BATCH_SIZE
        order = np.random.default_rng(seed_of(self._entropy, HELD_OUT)).permutation(len(data))
        return list(_pieces(data, order[: _whole(min(_wanted(size), len(data)), size)], size))


class _ObservationSource:
    """Observations in shuffled epochs, without those that are kept apart."""

    def __init__(
        self,
        rows: Rows,
        batch_size: int | None,
        *,
        keep: bool,
        remember: bool,
        entropy: int,
        fork: Callable[[int, int], None],
        device: torch.device,
    ) -> None:
        if batch_size is not None and batch_size > len(rows):
            raise ValueError(invalid("batch_size", f"be at most the {len(rows)} observations", batch_size))
        self.batch_size = min(DEFAULT_BATCH_SIZE, max(1, len(rows) // 8)) if batch_size is None else batch_size
        self._rows, self._entropy, self._fork, self._device = rows, entropy, fork, device
        self._remember = remember
        order = np.random.default_rng(seed_of(entropy, HELD_OUT)).permutation(len(rows))
        most = min(int(LARGEST_SHARE_HELD_OUT * len(rows)), len(rows) - self.batch_size)
        apart = _whole(min(_wanted(self.batch_size), most), self.batch_size) if keep else 0
        self.held_out = list(_pieces(rows, order[:apart], self.batch_size))
        self._training = np.sort(order[apart:])
        self._order: tuple[tuple[int, int], IntArray] = ((-1, -1), self._training)  # of the last stream and epoch
        self._drawn: tuple[int, dict[int, Batch]] = (-1, {})  # the batches of the last stream

    def batch(self, stream: int, step: int) -> Batch:
        if isinstance(self._rows, ArrayRows):
            return self._draw(stream, step)
        if not self._remember:
            self._fork(stream, step)
            return self._draw(stream, step)
        if self._drawn[0] != stream:
            self._drawn = stream, {}
        drawn = self._drawn[1]
        if step not in drawn:
            self._fork(stream, step)
            drawn[step] = to_device(self._draw(stream, step), torch.device("cpu"))
        return to_device(drawn[step], self._device)

    def num_batches(self) -> int:
        return len(self._training) // self.batch_size

    def _draw(self, stream: int, step: int) -> Batch:
        epoch, place = divmod(step, self.num_batches())
        if self._order[0] != (stream, epoch):
            seed = seed_of(self._entropy, STREAM, stream, epoch)
            self._order = (stream, epoch), np.random.default_rng(seed).permutation(self._training)
        return self._rows.batch(self._order[1][place * self.batch_size : (place + 1) * self.batch_size])


class _BatchSource:
    """Batches in the order in which they come, without those that are kept apart."""

    def __init__(self, stream: BatchStream, *, keep: bool, entropy: int, fork: Callable[[int, int], None]) -> None:
        fork(0, 0)
        self._stream, self._entropy, self._fork, self._iterator = stream, entropy, fork, iter(stream)
        self._orders: dict[int, IntArray] = {}
        self._training = list(islice(self._iterator, 1))
        if not self._training:
            raise ValueError("`data` must yield at least one batch, got none.")
        self._ended = False
        apart = 0
        if keep:
            wanted = _num_held_out(stream.batch_size, self._training[0])
            self._pull_all(HELD_OUT_BATCHES_OF * wanted)
            apart = min(wanted, len(self._training) // HELD_OUT_BATCHES_OF)
        self.held_out = [stream.move(batch) for batch in self._training[:apart]]
        del self._training[:apart]

    def batch(self, stream: int, step: int) -> Batch:
        number = step
        if stream == 0:
            if not self._ended and len(self._training) <= step:
                self._fork(stream, step)
                self._pull_all(step + 1)
        else:
            if stream not in self._orders:
                seed = seed_of(self._entropy, STREAM, stream, 0)
                self._orders[stream] = np.random.default_rng(seed).permutation(len(self._training))
            number = int(self._orders[stream][step % len(self._orders[stream])])
        return self._stream.move(self._training[number % len(self._training)])

    def num_batches(self) -> int:
        self._fork(0, len(self._training))
        self._pull_all(sys.maxsize)
        return len(self._training)

    def _pull_all(self, most: int) -> None:
        while self._pull(most):
            pass

    def _pull(self, most: int) -> bool:
        """Read one more batch if there are fewer than ``most``, and return whether there was one."""
        if len(self._training) >= most or self._ended:
            return False
        new = list(islice(self._iterator, 1))
        self._training += new
        self._ended = not new
        return bool(new)


def _fork(randomness: ForkedRandomness, entropy: int, stream: int, step: int) -> None:
    """Move the generators to the state in which the batch of a step is drawn."""
    randomness.fork(seed_of(entropy, STREAM_STATE, stream, step))


def all_batches(data: Data, size: int) -> Iterator[Batch]:
    """Return an iterator over all the data on the device, in its order; a loader is begun now.

    Args:
        data: The data.
        size: The observations of a batch, where the data has no batches of its own; the last one may have fewer.
    """
    if isinstance(data, BatchStream):
        return map(data.move, data)
    return _pieces(data, np.arange(len(data), dtype=np.int64), size)


def _wanted(size: int) -> int:
    """Return how many observations to hold out, in whole batches."""
    return size * max(HELD_OUT_BATCHES, -(-HELD_OUT_OBSERVATIONS // size))


def _num_held_out(size: int | None, batch: Batch) -> int:
    """Return how many batches to hold out of a loader or an iterable, of which one batch is given."""
    size = size or num_observations(batch)
    return HELD_OUT_BATCHES if not size else min(_wanted(size) // size, MOST_HELD_OUT_BATCHES)


def _whole(number: int, size: int) -> int:
    """Return how many of some observations fill whole batches; all of them, a short batch, where they fill none."""
    return number // size * size or number


def _pieces(rows: Rows, indices: IntArray, size: int) -> Iterator[Batch]:
    return (rows.batch(indices[begin : begin + size]) for begin in range(0, len(indices), size))

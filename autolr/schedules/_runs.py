"""The runs of a comparison of schedules: what they are trained and judged on, and the training itself."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import IterableDataset

from autolr._typing import Batch
from autolr.data import DEFAULT_BATCH_SIZE, BatchStream, DatasetRows, read_whole
from autolr.probing.held import data_generators
from autolr.probing.random_state import ForkedRandomness
from autolr.probing.start import Start
from autolr.probing.trajectory import Trajectory, mean_loss
from autolr.schedules.comparison import HISTORY_COLUMNS
from autolr.schedules.make import make_scheduler
from autolr.streams import Streams, all_batches
from autolr.subsampling import seed_of
from autolr.training import Training

# the purposes of the random streams of a comparison, beyond those of autolr.subsampling and autolr.streams
INITIAL, RUN_STATE, JUDGED = range(32, 35)


class Batches:
    """What the runs are trained on, repeat by repeat and step by step, and what they are judged on.

    Args:
        training: Says where batches go, and what floats become.
        data: What to train on.
        val_data: What to judge on; ``None``: ``data``.
        batch_size: Observations of a batch, where the data has no batches of its own.
        entropy: See :func:`autolr.subsampling.entropy_of`.
        devices: The devices whose generators are moved for each batch.

    Attributes:
        per_epoch: How many batches an epoch has.
        batch_size: Observations of a batch, where known.
        judged_name: The name of what the runs are judged on.
    """

    def __init__(
        self,
        training: Training,
        data: Any,
        val_data: Any,
        *,
        batch_size: int | None,
        entropy: int,
        devices: list[torch.device],
    ) -> None:
        read = partial(read_whole, device=training.device, dtype=training.dtype)
        of_stream = batch_size if isinstance(val_data, IterableDataset) else None
        reader = read(data, name="data", batch_size=batch_size)
        self._judged_on = reader if val_data is None else read(val_data, name="val_data", batch_size=of_stream)
        self.judged_name = "data" if val_data is None else "val_data"
        used = (data, reader), (val_data, self._judged_on)
        of_rows = [given for given, reader in used if isinstance(reader, DatasetRows)]
        randomness = ForkedRandomness(devices, data_generators(of_rows))
        self._streams = Streams(
            reader,
            batch_size=batch_size,
            val_data=None,
            entropy=entropy,
            randomness=randomness,
            device=training.device,
            hold_out=False,
            remember=False,
        )
        self.per_epoch, self.batch_size = self._streams.num_batches(), self._streams.batch_size
        self._fork = partial(randomness.fork, seed_of(entropy, JUDGED))
        self._fork()
        self._kept: list[Batch] | None = None  # of a loader or an iterable, which may yield others the next time
        if val_data is not None and isinstance(self._judged_on, BatchStream):
            self._kept = list(self._judged_on)
            if not self._kept:
                raise ValueError("`val_data` must yield at least one batch, got none.")

    def batch(self, repeat: int, step: int) -> Batch:
        """Return the batch of a step of a repeat: the same one whenever it is asked for."""
        return self._streams.batch(repeat, step)

    def judged(self) -> Iterable[Batch]:
        """Return the batches to judge on, the same ones whenever they are asked for."""
        if not isinstance(self._judged_on, BatchStream):
            self._fork()
            return all_batches(self._judged_on, self.batch_size or DEFAULT_BATCH_SIZE)
        if self._kept is not None:
            return map(self._judged_on.move, self._kept)
        return (self.batch(0, step) for step in range(self.per_epoch))


class Run:
    """Training under one schedule in one repeat.

    Args:
        start: Where the repeat starts; the model ends wherever the last step leads it.
        batches: What is trained and judged on.
        repeat: The repeat.
        entropy: See :func:`autolr.subsampling.entropy_of`.
    """

    def __init__(self, start: Start, batches: Batches, repeat: int, entropy: int) -> None:
        self._start, self._batches, self._repeat, self._entropy = start, batches, repeat, entropy
        self._trajectory = Trajectory(start, partial(seed_of, entropy, RUN_STATE, repeat))
        self._losses: list[float] = []
        self._rates: list[float] = []

    def train(
        self,
        chosen: Mapping[str, Any],
        learning_rate: float,
        num_epochs: int,
        *,
        advance: Callable[[int], object],
    ) -> None:
        """Train, until a loss is not finite; ``advance`` is told of the epochs."""
        optimizer, per_epoch = self._start.optimizer, self._batches.per_epoch
        self._trajectory.begin()
        scheduler = make_scheduler(optimizer, **chosen, learning_rate=learning_rate, total_steps=num_epochs * per_epoch)
        for epoch in range(num_epochs):
            for step in range(epoch * per_epoch, (epoch + 1) * per_epoch):
                batch = self._batches.batch(self._repeat, step)
                loss = self._trajectory.gradient(batch)
                if step == 0 and not math.isfinite(loss):
                    raise ValueError(
                        f"`data` must give a finite loss before any step, got {loss} in repeat {self._repeat}."
                    )
                self._rates.append(float(optimizer.param_groups[0]["lr"]))
                self._losses.append(loss if math.isfinite(loss) else math.inf)
                if self.diverged:
                    advance(num_epochs - epoch)
                    return
                self._trajectory.step(None, batch)
                if not isinstance(scheduler, ReduceLROnPlateau):
                    scheduler.step()
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(float(np.mean(self._losses[-per_epoch:])))
            advance(1)

    @property
    def diverged(self) -> bool:
        return math.isinf(self._losses[-1])

    def final_loss(self) -> float:
        """Return the mean loss over what is judged on; ``inf`` where not finite.

        Raises:
            ValueError: If it is not finite before any step either: the training is not to blame.
        """
        if self.diverged:
            return math.inf
        loss = self._judge()
        if math.isfinite(loss):
            return loss
        self._trajectory.begin()
        untrained = self._judge()
        if not math.isfinite(untrained):
            raise ValueError(
                f"`{self._batches.judged_name}` must give a finite loss in evaluation mode before any step, got"
                f" {untrained} in repeat {self._repeat}."
            )
        return math.inf

    def _judge(self) -> float:
        self._start.randomness.fork(seed_of(self._entropy, JUDGED, self._repeat))
        return mean_loss(self._start.objective, self._batches.judged(), name=self._batches.judged_name)

    def frame(self, label: str) -> pd.DataFrame:
        """Return its rows of the history."""
        columns = (label, self._repeat, np.arange(len(self._losses)), self._rates, self._losses)
        return pd.DataFrame(dict(zip(HISTORY_COLUMNS, columns, strict=True)))

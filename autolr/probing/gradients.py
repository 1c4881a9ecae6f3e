"""The gradients of a row, from which many steps are taken."""

from collections.abc import Sequence

import torch

from autolr._typing import Batch
from autolr.probing.start import Start


class RowGradients:
    """The gradients on one batch, for steps at many rates.

    They are handed to the optimizer as they are. If it or a hook of it writes into them (clipping), which their
    versions tell, they are computed again and kept apart, and it is handed copies: only then do they need memory twice.
    (The versions of sharded gradients tell nothing, so that of these it is handed copies always.)

    Args:
        start: The start of all probes, where the model is.
        batch: The batch.

    Attributes:
        values: The gradients of the objective's parameters.
    """

    def __init__(self, start: Start, batch: Batch) -> None:
        self._start = start
        self._batch = batch
        self._are_copied = bool(start.objective.sharded)
        self.values = self._computed()

    def step(self, learning_rate: float) -> None:
        """Take a real step from the start, and stay there; the gradients are as they were afterwards."""
        start = self._start
        start.set_gradients(self.values, copy=self._are_copied)
        before = self._versions()
        start.step(learning_rate, self._batch)
        if not self._are_copied and self._versions() != before:
            start.restore()
            self.values = [None if gradient is None else gradient.clone() for gradient in self._computed()]
            self._are_copied = True
            self.step(learning_rate)

    def _computed(self) -> Sequence[torch.Tensor | None]:
        gradients = self._start.gradients(self._batch, keep=True)
        self._start.restore()  # weights too, which a forward may write into
        return gradients

    def _versions(self) -> list[int]:
        return [0 if gradient is None else gradient._version for gradient in self.values]

"""Trajectories: several real optimizer steps from the start, at one rate, that can be parked and continued."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np

from autolr._typing import Batch, FloatArray, IntArray
from autolr.batches import num_observations
from autolr.probing.objective import Objective
from autolr.probing.start import Start, needs_closure
from autolr.probing.state import Snapshot

# from the number of a step, from 0, to the seed of the random state in which it is taken
StepSeed = Callable[[int], np.random.SeedSequence]


class Trajectory:
    """Training as the user trains, from the start of all probes: step after step, at a rate given with each.

    Unlike a probe of one step, what a forward changes in the modules is kept (running statistics, counters), as in
    training. All trajectories of a row see the same batches and, as every step begins in a random state of its own, the
    same dropout masks, whatever came before.

    One model serves all: a trajectory is on it from :meth:`begin` or :meth:`resume` until another one is.

    Args:
        start: The start; the model ends wherever the last step leads it.
        seed: The random state of each step.
    """

    def __init__(self, start: Start, seed: StepSeed) -> None:
        self._start, self._seed = start, seed
        self._parked: Snapshot | None = None
        self.num_steps = 0

    def begin(self) -> None:
        """Go to the start."""
        self._start.restore()
        self._parked, self.num_steps = None, 0

    def park(self) -> None:
        """Remember where it is, without gradients, and go to the start, so that another one can run.

        Of weights, buffers and what else the start has, that is a copy; what the optimizer has made since is handed
        over.
        """
        self._start.objective.clear_gradients()
        self._parked = Snapshot(*self._start.objects(), since=self._start.snapshot)
        self._start.restore()

    @property
    def is_parked(self) -> bool:
        """Whether it can be resumed."""
        return self._parked is not None

    def resume(self) -> None:
        """Go back to where it was parked, if it was; what was remembered is given up."""
        parked, self._parked = self._parked, None
        if parked is not None:
            parked.restore()

    def forget(self) -> None:
        """Give up what was remembered: it cannot be resumed any more."""
        self._parked = None

    def gradient(self, batch: Batch) -> float:
        """Compute the gradient of the next step, and return the loss before it."""
        start = self._start
        self._move_to(self._seed(self.num_steps))
        if not needs_closure(start.optimizer):
            return float(start.objective.gradient(batch, keep=True))
        put_back = start.objective.bookmark()  # the closure's forwards are those of the training
        loss = float(start.objective.gradient(batch, keep=True))
        put_back()
        return loss

    def step(self, learning_rate: float | None, batch: Batch) -> None:
        """Take the step with the gradient that :meth:`gradient` left; ``None``: at the rates that the optimizer has."""
        self._start.step(learning_rate, batch, keep=True)
        self.num_steps += 1

    def loss(self, batch: Batch, seed: np.random.SeedSequence, *, training: bool | None = None) -> float:
        """Return the loss where it is; whatever a forward changes is put back.

        Args:
            batch: What the loss is measured on.
            seed: The random state from which.
            training: The mode of all modules; ``None``: as they are.
        """
        start = self._start
        self._move_to(seed)
        if training is None:
            put_back = start.objective.bookmark()
            loss = start.objective.loss(batch, keep=True)
            put_back()
            return loss
        with in_mode(start.objective, training):
            return start.objective.loss(batch, keep=True)

    def _move_to(self, seed: np.random.SeedSequence) -> None:
        randomness = self._start.randomness
        randomness.move_to(randomness.state_of(seed))


@contextmanager
def in_mode(objective: Objective, training: bool) -> Iterator[None]:
    """Put all modules in a mode; modes and what forwards in the block change are put back, but for the weights."""
    modules = objective.modules()
    here = Snapshot(*modules, leave=objective.weights)
    for module in modules:
        module.train(training)
    try:
        yield
    finally:
        here.restore()


def mean_loss(objective: Objective, batches: Iterable[Batch], *, name: str) -> float:
    """Return the mean loss over batches in evaluation mode, weighted by their observations.

    Args:
        objective: The loss.
        batches: The batches, each drawn when its turn comes.
        name: The name of the data, for the error.

    Raises:
        ValueError: If there is no batch.
    """
    total, num = 0.0, 0
    with in_mode(objective, training=False):
        for batch in batches:
            size = num_observations(batch) or 1
            total += size * objective.loss(batch, keep=True)
            num += size
    if not num:
        raise ValueError(f"`{name}` must yield at least one batch in every pass, got none.")
    return total / num


def probe_by_trajectories(
    start: Start,
    learning_rates: FloatArray,
    horizons: IntArray,
    batches: Sequence[Batch],
    evaluation_batch: Batch,
    *,
    seed: StepSeed,
) -> tuple[float, FloatArray]:
    r"""Return the loss before, and the losses after some numbers of real optimizer steps at each rate.

    From the start, step :math:`s` is taken with the gradient on the s-th batch, at the rate, from the random state that
    ``seed`` gives to it; the losses are those on ``evaluation_batch``, all from the state of step 0. For one step that
    is what :func:`~autolr.probing.step.probe_by_steps` does, but for what the forward of the gradient leaves in the
    modules, which is kept here. A rate is given up at the first loss that is not finite, on a batch or on the
    evaluation batch: it counts as diverged from there on.

    Args:
        start: The start; the model ends there.
        learning_rates: The rates, shape ``(K,)``.
        horizons: After how many steps losses are recorded, increasing, shape ``(H,)``.
        batches: The subsamples that give the gradients, as many as the last horizon.
        evaluation_batch: The subsample on which the losses are measured.
        seed: The random state of each step.

    Returns:
        The loss before, and the losses after, shape ``(K, H)``; ``inf`` where a rate diverged.
    """
    seed = cache(seed)
    trajectory = Trajectory(start, seed)
    trajectory.begin()
    loss_pre = trajectory.loss(evaluation_batch, seed(0))
    loss_post = _record(trajectory, learning_rates, horizons, batches, evaluation_batch, seed(0))
    start.restore()
    return loss_pre, loss_post


def _record(
    trajectory: Trajectory,
    learning_rates: FloatArray,
    horizons: IntArray,
    batches: Sequence[Batch],
    evaluation_batch: Batch,
    seed: np.random.SeedSequence,
) -> FloatArray:
    """Return the losses after the steps, shape ``(K, H)``; all rates are recorded by one trajectory after another."""
    loss_post = np.full((len(learning_rates), len(horizons)), np.inf)
    for k, learning_rate in enumerate(learning_rates):
        trajectory.begin()
        for h, horizon in enumerate(horizons):
            if not _advance(trajectory, float(learning_rate), batches[trajectory.num_steps : int(horizon)]):
                break
            loss = trajectory.loss(evaluation_batch, seed)
            if not math.isfinite(loss):
                break
            loss_post[k, h] = loss
    return loss_post


def _advance(trajectory: Trajectory, learning_rate: float, batches: Sequence[Batch]) -> bool:
    """Take a step with each batch, and return whether all losses before them were finite."""
    for batch in batches:
        if not math.isfinite(trajectory.gradient(batch)):
            return False
        trajectory.step(learning_rate, batch)
    return True

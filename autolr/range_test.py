"""lr_range_test: one training run, or several, at a rising rate."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import IterableDataset

from autolr._progress import progress_bar
from autolr._typing import Autocast, Batch, Clip, ComputeLoss, LossFunction, Rng
from autolr._validation import check_flag, check_integer, check_option, check_real, check_rng, invalid
from autolr._version import versions
from autolr.data import DEFAULT_BATCH_SIZE, BatchStream, Data, DatasetRows, Rows, read_whole
from autolr.distributed import as_one_process, check_same, fingerprints, in_step, shared_rng, told_together
from autolr.probing.held import data_generators
from autolr.probing.rising import Point, RangeSchedule, follow, rising_losses, rising_rates
from autolr.probing.start import Start
from autolr.probing.trajectory import mean_loss
from autolr.range_result import RUN_COLUMNS, RangeTest
from autolr.ranks import joined
from autolr.streams import Streams, all_batches
from autolr.subsampling import entropy_of, seed_of
from autolr.training import check_batch, check_training

# the purposes of the random streams of a range test, beyond those of autolr.subsampling and autolr.streams
RUN_STATE, RUN_ORDER = range(24, 26)


def lr_range_test(
    model: nn.Module,
    loss_fn: LossFunction | None,
    optimizer: torch.optim.Optimizer,
    train_data: Any,
    *,
    val_data: Any = None,
    start_lr: float = 1e-7,
    end_lr: float = 10.0,
    num_iter: int = 100,
    schedule: RangeSchedule = "exponential",
    smoothing: float = 0.05,
    divergence_factor: float = 5.0,
    accumulation_steps: int = 1,
    num_repeats: int = 1,
    batch_size: int | None = None,
    compute_loss: ComputeLoss | None = None,
    device: torch.device | str | None = None,
    rng: Rng = None,
    progress: bool | None = None,
    autocast: Autocast | None = None,
    scaler: torch.amp.GradScaler | None = None,
    clip: Clip | None = None,
    groups: Sequence[int] | None = None,
) -> RangeTest:
    r"""Train once while the rate rises, and record the loss at each rate.

    Iteration i of n trains a step with the rate :math:`a (b / a)^{i / (n - 1)}` from ``start_lr`` a to ``end_lr`` b (or
    :math:`a + (b - a) i / (n - 1)`). Its loss is that of its own batch before the step; with ``val_data``, that of all
    validation data after it. Losses are smoothed, :math:`\bar L_i = s L_i + (1 - s) \bar L_{i-1}`, and the run ends
    with the first smoothed loss above ``divergence_factor`` times the smallest so far, or with one that is not finite.
    The losses are those of torch-lr-finder on the same model, loader and seed.

    One curve does not say how much of it is the order of the batches: ``num_repeats`` runs in different orders, each
    from the weights as they are, give a band, and show how far the suggestion moves. What a range test cannot see is a
    run longer than itself; see :func:`autolr.find_lr` for that.

    A run is a training run: what forwards leave in the modules is kept along it, and its random numbers follow each
    other. With ``rng=None``, the first one begins from the global generators as they are, as your own training would:
    after ``torch.manual_seed`` it sees the batches and dropout masks that the training would see. Later ones, and all
    with another ``rng``, begin from a state made of (rng, repeat). Model, optimizer, schedulers, and random states are
    bit for bit the same afterwards, those of the loaders too.

    Args:
        model: The model; it is not changed. It is trained in the modes in which it is handed over, and validated in
            evaluation mode.
        loss_fn: ``loss_fn(output, target) -> scalar tensor``, or ``None`` where ``compute_loss`` is given or the
            model's output carries its loss.
        optimizer: The optimizer, with the state that it has; the rate is that of its first group, the others keep their
            ratios to it.
        train_data: What to train on: a ``DataLoader``, any iterable of batches, a ``Dataset``, or a pair ``(X, Y)`` of
            arrays. A loader or an iterable that ends is begun again, an iterator is gone through again. Repeats after
            the first go through the batches that the first one took, which are kept for them, in other orders; of
            arrays and datasets, every epoch is shuffled by ``rng``, and fewer observations than a batch are left out.
        val_data: What to validate on, in one of these forms: all of it after each step. The loss is the mean over the
            batches, weighted by their observations.
        start_lr: The first rate, positive.
        end_lr: The last rate, above the first.
        num_iter: The number of iterations n, at least 2.
        schedule: How the rate rises: ``"exponential"`` or ``"linear"``.
        smoothing: The weight s of a new loss, in [0, 1); 0: no smoothing.
        divergence_factor: How many times the smallest smoothed loss is a divergence, above 1; of a smallest loss m that
            is not positive, :math:`m + (f - 1) |m|`, which is the same for those that are.
        accumulation_steps: The batches of a step, over which gradients and losses are averaged.
        num_repeats: The number of runs.
        batch_size: The observations of a batch, for arrays and datasets; by default 32, or fewer.
        compute_loss: ``compute_loss(model, batch) -> scalar tensor`` instead of ``loss_fn``.
        device: Where batches go; by default where the first parameter is.
        rng: An int gives the same answer at each call; a ``numpy.random.Generator`` is advanced.
        progress: ``None``: a bar on a terminal only; ``True`` or ``False`` force it.
        autocast: As for :class:`AutoLRTuner`.
        scaler: As for :class:`AutoLRTuner`.
        clip: As for :class:`AutoLRTuner`.
        groups: As for :class:`AutoLRTuner`.

    Returns:
        The losses, from which :meth:`RangeTest.suggest` reads a rate.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of its range, there is no batch, or the first loss is not finite.

    References:
        Smith (2017). Cyclical learning rates for training neural networks. WACV.

    Example:
        From a weight of 1 on the loss w^2 / 2, a step of 0.5 leads to 0.5, and the next, of 1, to 0.

        >>> from autolr import lr_range_test
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.ones_(model.weight)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> half_square = lambda output, target: output.square().mean() / 2.0
        >>> batch = torch.ones(1, 1), torch.zeros(1, 1)
        >>> result = lr_range_test(
        ...     model, half_square, optimizer, [batch], start_lr=0.5, end_lr=2.0, num_iter=3, smoothing=0.0
        ... )
        >>> result.history[["learning_rate", "loss"]].to_numpy().tolist()
        [[0.5, 0.5], [1.0, 0.125], [2.0, 0.0]]
    """
    began = time.perf_counter()
    training = check_training(
        model,
        loss_fn,
        optimizer,
        compute_loss=compute_loss,
        device=device,
        autocast=autocast,
        scaler=scaler,
        accumulation_steps=accumulation_steps,
        clip=clip,
        groups=groups,
    )
    check_option("schedule", schedule, RangeSchedule)
    start_lr = check_real("start_lr", start_lr, above=0.0)
    end_lr = check_real("end_lr", end_lr)
    if end_lr <= start_lr:
        raise ValueError(invalid("end_lr", f"be above `start_lr` ({start_lr:g})", end_lr))
    num_iter = check_integer("num_iter", num_iter, minimum=2)
    rates = rising_rates(start_lr, end_lr, num_iter, schedule)
    if any(after <= rate for rate, after in itertools.pairwise(rates)):
        raise ValueError(invalid("num_iter", f"give distinct rates between {start_lr!r} and {end_lr!r}", num_iter))
    smoothing = check_real("smoothing", smoothing, above=0.0, below=1.0, closed=True)
    divergence_factor = check_real("divergence_factor", divergence_factor, above=1.0)
    num_repeats = check_integer("num_repeats", num_repeats, minimum=1)
    if batch_size is not None:
        batch_size = check_integer("batch_size", batch_size, minimum=1)
    check_rng(rng)
    if progress is not None:
        check_flag("progress", progress)

    asked = {
        "start_lr": start_lr,
        "end_lr": end_lr,
        "num_iter": num_iter,
        "schedule": schedule,
        "smoothing": smoothing,
        "divergence_factor": divergence_factor,
        "num_repeats": num_repeats,
    }
    with joined(training.members) as ranks:
        read = partial(read_whole, device=training.device, dtype=training.dtype)
        reader = read(train_data, name="train_data", batch_size=batch_size)
        validated_on = None
        if val_data is not None:
            of_stream = batch_size if isinstance(val_data, IterableDataset) else None
            validated_on = read(val_data, name="val_data", batch_size=of_stream)
        training = in_step(ranks, training)
        rng = shared_rng(ranks, rng)
        entropy = entropy_of(rng)
        visible = progress if ranks.rank == 0 else False
        generators = list(data_generators((train_data, val_data)))
        forked = data_generators(train_data) if isinstance(reader, DatasetRows) else []
        runs: list[list[Point]] = []

        def compare(batch: Batch) -> None:
            told = {**asked, "rng": entropy, **training.settings()}
            check_same(ranks, lambda: {**told, **fingerprints(start, [batch], train_data=reader)})

        with (
            training.preserved(generators, forked) as start,
            progress_bar(visible, num_repeats * num_iter, "iterations") as bar,
        ):
            start = as_one_process(ranks, training, start)
            if isinstance(validated_on, BatchStream) and isinstance(val_data, Iterator):
                here = start.randomness.state_now()
                validated_on = read(list(validated_on), name="val_data")
                start.randomness.move_to(here)
            source: _Streamed | _Drawn
            if isinstance(reader, BatchStream):
                source = _Streamed(reader, entropy, once=isinstance(train_data, Iterator), keep=num_repeats > 1)
            else:
                source = _Drawn(reader, batch_size, entropy, start, training.device)
            for repeat in range(num_repeats):
                if repeat or rng is not None:
                    start.randomness.fork(seed_of(entropy, RUN_STATE, repeat))
                start.restore()
                batches = source.batches(repeat)
                evaluate = None
                if validated_on is not None:
                    evaluate = _Validation(
                        start, validated_on, source.batch_size or DEFAULT_BATCH_SIZE, check=not repeat
                    )
                losses = rising_losses(
                    start,
                    rates,
                    batches if repeat else _first_checked(batches, start, "training", compare=compare),
                    accumulation_steps=accumulation_steps,
                    evaluate=evaluate,
                )
                losses = _finite_at_first(losses, "train_data" if evaluate is None else "val_data")
                runs.append([])
                for point in follow(losses, smoothing=smoothing, divergence_factor=divergence_factor):
                    runs[-1].append(point)
                    bar.update()
                bar.update(num_iter - len(runs[-1]))
        settings = {
            **asked,
            "batch_size": source.batch_size,
            "losses": "training" if val_data is None else "validation",
            "diverged_at": [rates[len(run) - 1] if run[-1].diverged else None for run in runs],
            "rng": None if rng is None else entropy,
            **training.settings(),
            "num_gradients": start.objective.num_gradients,
            "num_forwards": start.objective.num_forwards,
            "num_evaluations": start.objective.num_evaluations,
            "seconds": time.perf_counter() - began,
            "versions": versions(),
        }
        settings = told_together(ranks, settings, start.objective.lockstep)
    rows = [
        (repeat, rate, point.loss, point.smoothed)
        for repeat, run in enumerate(runs)
        for rate, point in zip(rates, run, strict=False)
    ]
    return RangeTest(pd.DataFrame(rows, columns=list(RUN_COLUMNS)), settings)


class _Streamed:
    """The batches of a loader or an iterable: as they come in the first repeat, in other orders in further ones.

    Args:
        stream: The batches.
        entropy: What the other orders are made of.
        once: Whether it is an iterator, which cannot be begun again: it is gone through again as it was.
        keep: Whether there are further repeats, for which what the first one takes is kept where the user has it.
    """

    def __init__(self, stream: BatchStream, entropy: int, *, once: bool, keep: bool) -> None:
        self._stream, self._entropy, self._once, self._keep = stream, entropy, once, keep
        self._kept: list[Batch] = []
        self.batch_size = stream.batch_size

    def batches(self, repeat: int) -> Iterator[Batch]:
        """Return the batches of a repeat, without end; a loader is begun now, before anything else is drawn."""
        return map(self._stream.move, self._shuffled(repeat) if repeat else self._as_they_come(iter(self._stream)))

    def _as_they_come(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            is_empty = True
            for batch in batches:
                is_empty = False
                if self._once or self._keep:
                    self._kept.append(batch)
                yield batch
            if is_empty:
                raise ValueError("`train_data` must yield at least one batch in every pass, got none.")
            if self._once:
                yield from itertools.cycle(list(self._kept))
            batches = iter(self._stream)

    def _shuffled(self, repeat: int) -> Iterator[Batch]:
        for epoch in itertools.count():
            seed = seed_of(self._entropy, RUN_ORDER, repeat, epoch)
            for number in np.random.default_rng(seed).permutation(len(self._kept)):
                yield self._kept[number]


class _Drawn:
    """Observations in shuffled epochs, for each repeat in another order; random numbers of the run are left alone."""

    def __init__(self, rows: Rows, batch_size: int | None, entropy: int, start: Start, device: torch.device) -> None:
        # arrays are taken from without a random number
        self._randomness = start.randomness if isinstance(rows, DatasetRows) else None
        self._streams = Streams(
            rows,
            batch_size=batch_size,
            val_data=None,
            entropy=entropy,
            randomness=start.randomness,
            device=device,
            hold_out=False,
        )
        self.batch_size = self._streams.batch_size

    def batches(self, repeat: int) -> Iterator[Batch]:
        """Yield the batches of a repeat, without end."""
        for step in itertools.count():
            if self._randomness is None:
                yield self._streams.batch(repeat, step)
                continue
            here = self._randomness.state_now()
            batch = self._streams.batch(repeat, step)
            self._randomness.move_to(here)
            yield batch


class _Validation:
    """The loss on all validation data, in evaluation mode, as often as it is asked for.

    The first pass begins with the run, as where a training loop makes its iterators first.
    """

    def __init__(self, start: Start, data: Data, size: int, *, check: bool) -> None:
        self._objective, self._begin = start.objective, partial(all_batches, data, size)
        first = self._begin()
        self._next: Iterator[Batch] | None = first
        if check:
            self._next = _first_checked(first, start, "validation", training=False)

    def __call__(self) -> float:
        batches, self._next = self._next or self._begin(), None
        return mean_loss(self._objective, batches, name="val_data")


def _first_checked(
    batches: Iterator[Batch],
    start: Start,
    name: str,
    *,
    training: bool | None = None,
    compare: Callable[[Batch], None] = lambda _: None,
) -> Iterator[Batch]:
    """Yield the batches; the first one is checked and compared, without a trace in the random numbers."""
    for batch in itertools.islice(batches, 1):
        here = start.randomness.state_now()
        check_batch(start.objective, name, batch, training=training)
        compare(batch)
        start.randomness.move_to(here)
        yield batch
    yield from batches


def _finite_at_first(losses: Iterator[float], name: str) -> Iterator[float]:
    """Yield the losses, or raise if the first one is not finite."""
    for loss in itertools.islice(losses, 1):
        if not math.isfinite(loss):
            when = "after the first" if name == "val_data" else "before any"
            raise ValueError(f"`{name}` must give a finite loss {when} step, got {loss}.")
        yield loss
    yield from losses

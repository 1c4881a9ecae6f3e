"""The loss that each of many rates would give after one step, on one batch."""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from autolr._typing import Batch, ComputeLoss, EngineName, FloatArray, LossFunction, Rng
from autolr._validation import check_learning_rates, check_option, check_rng
from autolr.data import read_batch
from autolr.distributed import as_one_process, check_same, fingerprints, in_step, shared_rng
from autolr.probing.rows import probe_rows
from autolr.probing.start import Start
from autolr.ranks import joined
from autolr.subsampling import BATCH_STATE, entropy_of, seed_of
from autolr.training import check_batch, check_training
from autolr.tuner import DEFAULT_LEARNING_RATES


def loss_by_learning_rate(
    model: nn.Module,
    loss_fn: LossFunction | None,
    optimizer: torch.optim.Optimizer,
    X: Any,
    Y: Any = None,
    learning_rates: ArrayLike = DEFAULT_LEARNING_RATES,
    *,
    compute_loss: ComputeLoss | None = None,
    device: torch.device | str | None = None,
    rng: Rng = None,
    engine: EngineName = "auto",
) -> FloatArray:
    r"""Return the loss that each of many learning rates would give after one optimizer step on one batch.

    With :math:`\theta(\mathrm{lr})` the parameters after ``optimizer.step()`` at that rate, from the weights and the
    optimizer state as they are, with the gradient on the batch, this is :math:`L(\theta(\mathrm{lr}_k))` on the same
    batch. At rate 0 no step is taken: it is the loss before. All rates see the same dropout masks; model, optimizer and
    random states are bit for bit the same afterwards.

    A loss on the batch that gave the gradient flatters the step. It is no estimate of what a rate does elsewhere; that
    is what :class:`AutoLRTuner` is for.

    Args:
        model: The model; it is not changed.
        loss_fn: ``loss_fn(output, target) -> scalar tensor``, or ``None`` where ``compute_loss`` is given or the
            model's output carries its loss.
        optimizer: The optimizer, of any kind, with the state that it has. A rate is that of the first parameter group;
            the others keep their ratios to it.
        X: The inputs, shape (m, ...): a tensor, a NumPy array or a pandas frame; or, without Y, one batch of any form.
        Y: The targets, shape (m, ...), or ``None``.
        learning_rates: The rates, shape ``(K,)``: not negative, strictly increasing; by default
            ``log_grid(1e-6, 10.0, 64)``.
        compute_loss: ``compute_loss(model, batch) -> scalar tensor`` instead of ``loss_fn``.
        device: Where the batch goes; by default where the first parameter is.
        rng: What the dropout masks are drawn from; an int gives the same ones at each call.
        engine: ``"step"`` takes a real step at each rate; ``"auto"`` a faster way that is verified to be equal, where
            there is one: see :meth:`AutoLRTuner.tune`.

    Returns:
        The losses, shape ``(K,)``; ``inf`` where one is not finite.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is not allowed, or the loss before the step is not finite.

    Example:
        The loss is w^2 / 2 with the gradient w, so that a step from w = 2 leads to w = 2 (1 - lr):

        >>> from autolr import loss_by_learning_rate
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> X, Y = torch.ones(1, 1), torch.zeros(1, 1)
        >>> half_square = lambda output, target: (output - target).square().mean() / 2
        >>> loss_by_learning_rate(model, half_square, optimizer, X, Y, [0.0, 0.5, 1.0, 2.0])
        array([2. , 0.5, 0. , 2. ])
    """
    training = check_training(model, loss_fn, optimizer, compute_loss=compute_loss, device=device)
    rates = check_learning_rates(learning_rates, zero=True)
    check_option("engine", engine, EngineName)
    check_rng(rng)
    with joined(training.members) as ranks:
        training = in_step(ranks, training)
        seed = seed_of(entropy_of(shared_rng(ranks, rng)), BATCH_STATE)
        with training.preserved() as start:
            start = as_one_process(ranks, training, start)
            batch = read_batch(X, Y, device=training.device, dtype=training.dtype)
            start.randomness.fork(seed)
            check_batch(start.objective, "given", batch)
            check_same(ranks, lambda: {"learning_rates": rates.tolist(), **fingerprints(start, [batch])})
            return losses_on_batch(start, rates, batch, seed, engine=engine)


def losses_on_batch(
    start: Start, learning_rates: FloatArray, batch: Batch, seed: np.random.SeedSequence, *, engine: EngineName
) -> FloatArray:
    """Return the losses after one step at each rate, shape ``(K,)``, all on the batch that gives the gradient.

    Args:
        start: The start; the model ends there.
        learning_rates: The rates, not negative, shape ``(K,)``; at 0 it is the loss before.
        batch: The batch.
        seed: Of the random state from which every loss starts.
        engine: The engine.

    Raises:
        ValueError: If the loss before the step is not finite.
    """

    def draw(_: int) -> tuple[Batch, Batch]:
        start.randomness.fork(seed)
        return batch, batch

    positive = learning_rates[learning_rates > 0.0]
    probed = probe_rows(start, positive, draw, range(1), engine=engine if positive.size else "step")
    return np.concatenate([probed.loss_pre[: learning_rates.size - positive.size], probed.loss_post[0]])

"""The reference probe: the real optimizer step at every rate. Slow and obvious; it defines what a probe is."""

import numpy as np

from autolr._typing import Batch, FloatArray
from autolr.probing.gradients import RowGradients
from autolr.probing.start import Start


def probe_by_steps(
    start: Start, learning_rates: FloatArray, batch: Batch, evaluation_batch: Batch
) -> tuple[float, FloatArray]:
    r"""Return the loss before, and the loss after one real optimizer step at each rate.

    With the gradient of the loss on ``batch`` at the start, and :math:`\theta(\mathrm{lr})` the parameters after
    ``optimizer.step()`` at that rate from the start, both losses are those on ``evaluation_batch``:
    :math:`L^{pre} = L(\theta)`, :math:`L^{post}_k = L(\theta(\mathrm{lr}_k))`. Everything is put back to the start
    before each step, and every loss starts from the same random state.

    Args:
        start: The start; the model ends there.
        learning_rates: The rates, shape ``(K,)``.
        batch: The subsample that gives the gradient.
        evaluation_batch: The subsample on which the losses are measured; it may be the same.

    Returns:
        The loss before, and the losses after, shape ``(K,)``; what is not finite is ``inf``.
    """
    start.restore()
    loss_pre = start.loss(evaluation_batch)
    start.restore()
    gradients = RowGradients(start, batch)
    loss_post = np.empty(len(learning_rates))
    for k, learning_rate in enumerate(learning_rates):
        start.restore()
        gradients.step(float(learning_rate))
        loss_post[k] = start.loss(evaluation_batch)
    start.restore()
    loss_post[~np.isfinite(loss_post)] = np.inf
    return loss_pre, loss_post

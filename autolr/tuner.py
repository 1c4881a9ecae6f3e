"""AutoLRTuner: data, subsamples, probes and result, wired together."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import nn

from autolr._typing import Autocast, Clip, ComputeLoss, EngineName, Horizon, LossFunction, Method, Rng, Sampling
from autolr._validation import check_integer, check_rng
from autolr.distributed import shared_rng
from autolr.errors import NotTunedError
from autolr.grids import log_grid
from autolr.levels import DEFAULT_LEVEL
from autolr.measure import measure
from autolr.plan import Plan, make_plan
from autolr.ranks import joined
from autolr.result import TuningResult
from autolr.suggestion import Suggestion
from autolr.training import check_training

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DEFAULT_LEARNING_RATES = log_grid(1e-6, 10.0, 64)
DEFAULT_LEARNING_RATES.setflags(write=False)


class AutoLRTuner:
    """Tunes the learning rate by the loss differentials of random subsamples.

    On each of M subsamples the loss is measured, one optimizer step (or several) is taken from the same weights at
    every rate of a grid, and the loss is measured again. Model, buffers, gradients, modes, optimizer, attached
    schedulers and the global random state are bit for bit the same after every call as before it, also when it raises
    or is interrupted.

    Losses are measured in the modes in which the modules are handed over: a model in training mode is probed with its
    dropout and batch statistics.

    What is not put back: lists, counters and tensors that your functions or the optimizer's hooks keep outside of any
    module. (Modules and random generators that they hold are found.)

    Where ``torch.distributed`` has several processes, all of them make each call, with the same settings and all of the
    data: they share out the rows, and get the same result. A loss must not wait for other processes (``all_reduce``),
    which have other rows. If one fails, the others raise :class:`autolr.RankFailedError`. Within
    :func:`autolr.ranks.on_this_rank_only`, a process tunes by itself.

    Args:
        model: The model, also in ``DistributedDataParallel`` or sharded by ``fully_shard``; it is not changed.
        loss_fn: ``loss_fn(output, target) -> scalar tensor``, the mean over the observations of a batch.
        optimizer: An optimizer over the model's parameters, or some of them. The rate of the grid is that of the first
            parameter group; the others keep their ratios to it.
        compute_loss: ``compute_loss(model, batch) -> scalar tensor`` instead of ``loss_fn``. With neither, the model's
            output must carry ``.loss`` or ``["loss"]``.
        device: Where batches go; by default where the first parameter is.
        autocast: A function that makes the context in which your training computes its loss, such as
            ``lambda: torch.autocast("cuda", torch.bfloat16)``.
        scaler: The ``torch.amp.GradScaler`` of a training in half precision. Losses are multiplied by its scale, or by
            a smaller one where gradients overflow; it is not updated.
        accumulation_steps: The micro-batches of a step: each is a subsample of ``batch_size`` observations, or a batch
            of the loader, and their gradients are averaged. (A loss that sums over a batch, or batches of different
            sizes, are averaged in the same way, as a training does that divides each loss by this number.)
        clip: ``clip(parameters)``, called with the parameters that have a gradient when it is complete, to change the
            gradients in place, such as ``lambda p: torch.nn.utils.clip_grad_norm_(p, 1.0)``. (What the optimizer's
            hooks do to gradients is done without being asked.)
        groups: The numbers of the parameter groups whose rate is tuned; the others step at theirs. By default all. The
            rate of the grid is that of the first one that is tuned.
        rng: An int starts again at each call and gives the same numbers; a ``numpy.random.Generator`` is advanced;
            ``None`` draws afresh. Row r depends on (rng, r) only. The global generators end as they began.

    Raises:
        TypeError: If an argument has the wrong type; ``loss_fn`` and ``optimizer`` are easily swapped.
        ValueError: If both losses are given, the optimizer holds no trainable parameter of the model, or an argument is
            out of its range.

    Example:
        >>> import torch
        >>> from autolr import AutoLRTuner
        >>> X = torch.eye(4).repeat(25, 1)
        >>> model = torch.nn.Linear(4, 1, bias=False)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> tuner = AutoLRTuner(model, torch.nn.MSELoss(), optimizer, rng=0)
        >>> result = tuner.tune(X, X.sum(1, keepdim=True), num_subsamples=20)
        >>> 0.1 < tuner.get_best_lr() < 10.0
        True
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        compute_loss: ComputeLoss | None = None,
        device: torch.device | str | None = None,
        rng: Rng = None,
        autocast: Autocast | None = None,
        scaler: torch.amp.GradScaler | None = None,
        accumulation_steps: int = 1,
        clip: Clip | None = None,
        groups: Sequence[int] | None = None,
    ) -> None:
        self._training = check_training(
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
        self._rng = check_rng(rng)
        self._plan: Plan | None = None
        self._result: TuningResult | None = None

    def tune(
        self,
        X: Any,
        Y: Any = None,
        *,
        learning_rates: ArrayLike = DEFAULT_LEARNING_RATES,
        num_subsamples: int = 100,
        batch_size: int | None = None,
        sampling: Sampling = "independent",
        evaluation: Any = "independent",
        horizon: Horizon = 1,
        warmup_steps: int = 0,
        engine: EngineName = "auto",
        interpolate: bool = False,
        adaptive: bool = False,
        regret_tolerance: float = 0.05,
        confidence_level: float = DEFAULT_LEVEL,
        time_budget: float | None = None,
        progress: bool | None = None,
    ) -> TuningResult:
        """Measure the loss differentials of M subsamples at K rates.

        Args:
            X: Tensors, NumPy arrays or pandas frames, shape (N, ...), one row an observation; or, without Y, a
                ``Dataset``, a ``DataLoader`` or an iterable of batches, whose batches are then the subsamples; they
                are kept, where they come from and not on the device, until the call ends.
                ``settings["num_batches_drawn"]`` tells how many were drawn; an iterator has lost them. NumPy and pandas
                floats become the model's dtype (of complex weights: that of their real parts), their integers int64.
            Y: The targets, shape (N, ...).
            learning_rates: The grid, shape (K,): strictly increasing, positive.
            num_subsamples: The number of subsamples M, at least 2; a partition, a loader or an iterable that ends
                earlier gives fewer rows.
            batch_size: The number of observations in a subsample; by default 32, or fewer where there are few
                observations (a partition gets at least 20 rows where it can). Loaders and iterables refuse it: theirs
                counts.
            sampling: ``"independent"``: each subsample is drawn without replacement, independently of the others;
                intervals then speak about this dataset. ``"partition"``: subsamples are disjoint; intervals then speak
                about the population too. A loader's batches are used in one row only, in its order, in either case: if
                it shuffles, they are like a partition.
            evaluation: Where the losses before and after are measured. ``"independent"``: on another subsample,
                disjoint from the one that gave the gradient. ``"subsample"``: on the same one, as the original
                definition has it; this flatters the step. Or data of your own: a pair of arrays, a ``Dataset``, a
                ``DataLoader`` or an iterable of batches (started again where it ends).
            horizon: The number of optimizer steps of a probe, each on a fresh subsample, as in training: what forwards
                change in the model (running statistics) is kept along the way. An increasing sequence records the loss
                at each of its numbers along one way; picks and intervals are those of the last one. Losses are measured
                on a subsample that gave none of the row's gradients (``"subsample"``: on that of the first step). Where
                observations are too few for disjoint subsamples, the steps go through shuffled epochs of the others.
                What the first steps see does not depend on how many follow; only a partition, a loader or an iterable
                is used up faster by longer rows. Several steps are real ones. With ``engine="batched"``, and with
                ``"auto"`` for models in double precision where that is faster, many rates are trained side by side,
                which is verified against real steps: equal to a millionth of the loss, but (in single precision) where
                a training amplifies its own rounding errors.
            warmup_steps: Gradient evaluations that feed the optimizer's moments, the weights held still, before
                probing; the same for all rows. Refused for optimizers that keep the rate in their state.
            engine: ``"step"``: the real optimizer step at every rate, the reference. ``"line"``: one real step, then
                forwards along its line, verified against real steps. ``"batched"``: the same, many rates at once.
                ``"auto"``: the fastest one that verifies, found on the first rows; ``settings["engine_reason"]`` says
                why. What cannot be done faster is done more slowly, with the same result (to a millionth of the loss).
            interpolate: ``True``: only some rates are probed in most rows, and the curve of a row between them is
                interpolated. Some rows, the first ones and others throughout, are probed at all rates: by them, the
                error of every mean is at most 5% of its standard error (or the resolution of the loss, where that is
                coarser), at as many rates as that takes; where it takes too many, or the loss is not smooth, all are
                probed, and so they are where the rates (below 24) or the rows (below 12) are few. That bound holds at
                each rate by itself (95%), not at all of them at once. The rate with the smallest mean and those beside
                it are probed in every row: the pick is an exact one for the method ``"mean"`` only.
                ``differentials.interpolated`` marks what was not probed, ``settings["interpolation"]`` tells the rest
                (an ``error`` of ``None``: the resolution is coarser at every rate). With ``adaptive=True``, all
                decisions are made by exact values, as without; curves only fill the rows of the first look.
            adaptive: ``True``: look after 20, 30, 45, ... rows, each time at a level that is corrected for the number
                of looks; no longer probe the rates that cannot be the best, and stop when one rate is left or the pick
                is good enough. Of 32 rates or more, all are probed in three rows, then some of them, a third of a
                decade apart, and those between once few are left beside the ones that can be the best: which assumes
                that the curve of the means has one valley. ``num_subsamples`` is then the most it may use. The result's
                intervals are corrected too, so that they hold at the stop; its ``settings`` tell the looks, and the
                probes made and saved.
            regret_tolerance: Adaptive: stop when the bound on what the pick loses to the best rate is at most this
                share of what it gains.
            confidence_level: The level of the adaptive decision; also the default of the result's intervals.
            time_budget: Seconds after which no further row is begun, two at the least. The clock does not look at the
                losses, so that the intervals stay valid (but that a race with fewer rates left is faster). With
                interpolation, rows that were begun are probed at all the rates that they need, also after it.
            progress: ``None``: a bar on a terminal only; ``True`` or ``False`` force it.

        Returns:
            The result, also kept for :meth:`suggest`, :meth:`plot` and their kin. Where Ctrl-C ends the call, the rows
            that were finished are kept, if they are two or more: :attr:`result` then says how many of how many, and
            :meth:`extend` goes on (not with ``adaptive``). A race is kept with a last look at its rows, as if the time
            had ended; interpolated rows as far as they are finished at all rates that the checked ones ask for.

        Raises:
            TypeError: If the data or an argument has the wrong type, or integers are fed to a layer of floats.
            ValueError: If an argument is out of its range, the data gives fewer than two rows, a loss before the step
                is not finite, or the loss broadcasts (m, 1) against (m,).
        """
        with joined(self._training.members) as ranks:
            plan = make_plan(
                X,
                Y,
                device=self._training.device,
                dtype=self._training.dtype,
                rng=shared_rng(ranks, self._rng),
                learning_rates=learning_rates,
                num_subsamples=num_subsamples,
                batch_size=batch_size,
                sampling=sampling,
                evaluation=evaluation,
                horizon=horizon,
                accumulation_steps=self._training.accumulation_steps,
                warmup_steps=warmup_steps,
                engine=engine,
                interpolate=interpolate,
                adaptive=adaptive,
                regret_tolerance=regret_tolerance,
                confidence_level=confidence_level,
                time_budget=time_budget,
                progress=progress if ranks.rank == 0 else False,
            )
            keep = partial(self._keep, plan)
            rows = range(plan.num_subsamples)
            return keep(measure(plan, self._training, rows, keep=keep, ranks=ranks))

    def extend(self, num_subsamples: int) -> TuningResult:
        """Add subsamples to the last result: the rows that a longer tuning would have had.

        A further look at the numbers has its price, so that intervals are then corrected for it: see
        :meth:`TuningResult.extend`.

        Args:
            num_subsamples: How many rows are added; fewer where the ``time_budget`` of the tuning ends them.

        Raises:
            NotTunedError: If nothing was tuned yet.
            ValueError: If the data cannot be drawn again (a loader, an iterable), the model or the data has changed, or
                the tuning was adaptive, which plans its looks.
        """
        result = self.result
        num_subsamples = check_integer("num_subsamples", num_subsamples, minimum=1)
        if result.settings["adaptive"]:
            raise ValueError(
                f"`num_subsamples` must extend a tuning with adaptive=False, got {num_subsamples}: its looks were"
                " planned. Tune again with a larger num_subsamples, and another rng, as these rows have been looked at."
            )
        plan = self._plan
        if plan is None:
            raise ValueError(
                "`num_subsamples` must come from data that can be drawn again, got a loader or an iterable: tune again."
            )
        begin = result.differentials.num_subsamples
        rows = range(begin, begin + num_subsamples)

        def keep(more: TuningResult) -> TuningResult:
            return self._keep(plan, result.extend(more))

        with joined(self._training.members) as ranks:
            return keep(measure(plan, self._training, rows, before=result, keep=keep, ranks=ranks))

    def _keep(self, plan: Plan, result: TuningResult) -> TuningResult:
        self._plan = plan if plan.repeatable else None
        self._result = result
        return result

    @property
    def result(self) -> TuningResult:
        """The last result.

        Raises:
            NotTunedError: If nothing was tuned yet.
        """
        if self._result is None:
            raise NotTunedError("There is no result yet: call tune(X, Y) first.")
        return self._result

    def summary(self, **options: Any) -> pd.DataFrame:
        """Return :meth:`TuningResult.summary` of the last result."""
        return self.result.summary(**options)

    def suggest(self, method: Method = "mean", **options: Any) -> Suggestion:
        """Return :meth:`TuningResult.suggest` of the last result."""
        return self.result.suggest(method, **options)

    def get_best_lr(self, method: Method = "mean", **options: Any) -> float:
        """Return :meth:`TuningResult.get_best_lr` of the last result."""
        return self.result.get_best_lr(method, **options)

    def plot(self, ax: "Axes | None" = None, **options: Any) -> "Axes":
        """Return :meth:`TuningResult.plot` of the last result."""
        return self.result.plot(ax, **options)

"""find_lr: the rate to train with, coarse to fine over several steps, corrected for the length of the run."""

import math
import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import numpy as np
import torch
from torch import nn
from torch.utils.data import IterableDataset
from tqdm.auto import tqdm

from autolr._progress import progress_bar
from autolr._text import format_rate
from autolr._typing import Autocast, Batch, Clip, ComputeLoss, LossFunction, Rng
from autolr._validation import check_flag, check_integer, check_option, check_real, check_rng
from autolr._version import versions
from autolr.batches import steps_of
from autolr.data import BatchStream, DatasetRows, drawn_batches, read_whole
from autolr.distributed import (
    as_one_process,
    check_same,
    everybodys_scans,
    fingerprints,
    in_step,
    own_streams,
    shared_rng,
    told_together,
)
from autolr.errors import DivergedError
from autolr.picker import (
    FINAL_STEPS,
    HOPELESS,
    SCAN_STEPS,
    USUAL_STEPS,
    Effort,
    Target,
    correction,
)
from autolr.probing.courses import Courses
from autolr.probing.held import data_generators
from autolr.probing.objective import Objective
from autolr.probing.start import Start
from autolr.probing.trajectory import Trajectory
from autolr.ranks import joined
from autolr.scan import Scan, exponent, search_stream
from autolr.schedules._options import ScheduleName
from autolr.search_decision import LARGEST_SHARE_OF_RUN, caveats_of_search, decide_search, factors_of, trace_of
from autolr.search_result import SearchResult
from autolr.streams import COURSE_STATE, HELD_OUT, Streams
from autolr.subsampling import entropy_of, seed_of
from autolr.suggestion import Suggestion
from autolr.training import check_batch, check_training, noted

# What a search costs, as a rule, in gradient evaluations: measured by ``benchmarks/regret.py``.
_USUAL_COST: dict[Effort, int] = {"fast": 190, "default": 290, "thorough": 355}


def find_lr(
    model: nn.Module,
    loss_fn: LossFunction | None,
    optimizer: torch.optim.Optimizer,
    data: Any,
    *,
    total_steps: int | None = None,
    schedule: ScheduleName = "constant",
    schedule_options: Mapping[str, Any] | None = None,
    target: Target = "validation",
    effort: Effort = "default",
    val_data: Any = None,
    batch_size: int | None = None,
    num_streams: int = 1,
    max_evaluations: int | None = None,
    time_budget: float | None = None,
    compute_loss: ComputeLoss | None = None,
    device: torch.device | str | None = None,
    rng: Rng = None,
    progress: bool | None = None,
    autocast: Autocast | None = None,
    scaler: torch.amp.GradScaler | None = None,
    accumulation_steps: int = 1,
    clip: Clip | None = None,
    groups: Sequence[int] | None = None,
) -> Suggestion:
    r"""Find the learning rate to train a whole run with.

    Single steps do not tell which rate trains well, so that this one trains: it takes some real steps at a few rates
    from the weights as they are, on the same batches, follows the best three for longer, lets their rates fall to 0,
    and compares held-out losses (:func:`autolr.scan.search_stream`). The vertex v of the parabola through them, or the
    end of the three that is nearer to it, is the best rate for about k steps; for a run of T steps under a schedule
    with the mean factor f, the rate is

    .. math:: \min(v\, (k / T)^b / f, \text{the largest finalist that did not diverge}),

    with b = 0.4 for a constant rate, 0.35 for one that decays, and 0 for the best training loss. The interval is
    calibrated: 1.3 decades wide, as it had to be to hold a rate within 5% of the best in about 90% of the cases of a
    benchmark of small tasks, with runs of 300 to 4,800 steps; nothing is known of large models.

    Model, optimizer, schedulers, and random states are bit for bit the same afterwards. What is not put back: lists,
    counters and tensors that your functions or the optimizer's hooks keep outside of any module, optimizers besides
    this one, and the attributes of your datasets; a loss that counts its calls goes on counting.

    Where ``torch.distributed`` has several processes, all of them make the call, as :class:`autolr.AutoLRTuner` says;
    they share out the streams.

    Args:
        model: The model; it is not changed. Steps are taken in the modes in which it is handed over, held-out losses
            measured in evaluation mode.
        loss_fn: ``loss_fn(output, target) -> scalar tensor``, or ``None`` where ``compute_loss`` is given or the
            model's output carries its loss.
        optimizer: The optimizer, with the state that it has; the rate is that of its first group, the others keep their
            ratios to it.
        data: What to train on: a ``DataLoader``, any iterable of batches, a ``Dataset``, or a pair ``(X, Y)`` of
            arrays. Of batches, ``settings["num_batches_drawn"]`` of the evidence tells how many were drawn; an iterator
            has lost them.
        total_steps: The optimizer steps T of the run; ``None``: 1,000 are assumed.
        schedule: The name of the run's schedule: see :func:`autolr.make_scheduler`. Its mean factor, and whether it
            decays, are computed from the schedule itself; ``"plateau"``, which depends on the losses, counts as
            constant.
        schedule_options: Its options, such as ``{"warmup_steps": 100}``. Of lists with an entry for each parameter
            group, such as functions of ``"lambda"``, the first one counts.
        target: Which loss is to be best at the end of the run: ``"validation"`` or ``"training"``. On small data and
            many epochs the first asks for much smaller rates.
        effort: ``"fast"``, ``"default"``, ``"thorough"``: 50, 80, 100 steps of the finalists.
        val_data: What to judge on, in one of the forms of ``data``. By default some batches of ``data`` are kept apart;
            where there are too few, finalists are judged by the losses of their own training batches.
        batch_size: The observations of a batch, for arrays and datasets; by default 32, or fewer.
        num_streams: On how many streams of batches the search is repeated; the rate is the geometric mean.
        max_evaluations: The most gradient evaluations (three losses without a gradient count as one); the search is cut
            short, and says so. It is looked at between rates: a rate that was begun is finished, and where none
            survives, smaller ones are tried anyway, so that the search may take more.
        time_budget: The same in seconds.
        compute_loss: ``compute_loss(model, batch) -> scalar tensor`` instead of ``loss_fn``.
        device: Where batches go; by default where the first parameter is.
        rng: An int gives the same answer at each call; a ``numpy.random.Generator`` is advanced.
        progress: ``None``: a bar on a terminal only; ``True`` or ``False`` force it.
        autocast: As for :class:`AutoLRTuner`.
        scaler: As for :class:`AutoLRTuner`.
        accumulation_steps: The batches of a step; ``total_steps`` counts steps.
        clip: As for :class:`AutoLRTuner`.
        groups: As for :class:`AutoLRTuner`; the groups that are not tuned train at their rates, without the schedule.

    Returns:
        The rate with its interval, caveats and verdict; its ``evidence`` is a :class:`SearchResult`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of its range, there is no batch, or a loss is not finite before any step.
        DivergedError: If training diverged at every rate that was tried, on every stream.

    References:
        Wu, Ren, Liao and Grosse (2018). Understanding short-horizon bias in stochastic meta-optimization. ICLR.

    Example:
        >>> from autolr import find_lr
        >>> X = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
        >>> model = nn.Linear(4, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> suggestion = find_lr(model, nn.MSELoss(), optimizer, (X, X.sum(1, keepdim=True)), total_steps=1000, rng=0)
        >>> 1e-3 < float(suggestion) < 1.0
        True
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
    check_rng(rng)
    if total_steps is not None:
        total_steps = check_integer("total_steps", total_steps, minimum=1)
    check_option("target", target, Target)
    check_option("effort", effort, Effort)
    num_streams = check_integer("num_streams", num_streams, minimum=1)
    if max_evaluations is not None:
        max_evaluations = check_integer("max_evaluations", max_evaluations, minimum=1)
    if time_budget is not None:
        time_budget = check_real("time_budget", time_budget, above=0.0)
    if progress is not None:
        check_flag("progress", progress)
    run_steps = USUAL_STEPS if total_steps is None else total_steps
    if batch_size is not None:
        batch_size = check_integer("batch_size", batch_size, minimum=1)
    options = {} if schedule_options is None else schedule_options
    factors = factors_of(optimizer, schedule, options, run_steps, told=total_steps is not None)
    law = correction(factors, run_steps, target)
    way: Effort = "fast" if _USUAL_COST[effort] * num_streams > LARGEST_SHARE_OF_RUN * run_steps else effort

    asked = {
        "total_steps": run_steps,
        "schedule": schedule,
        # without addresses, which differ between processes
        "schedule_options": {name: re.sub(r" at 0x[0-9a-f]+", "", repr(value)) for name, value in options.items()},
        "target": target,
        "effort": effort,
        "num_streams": num_streams,
        "batch_size": batch_size,
        "max_evaluations": max_evaluations,
        "time_budget": time_budget,
    }
    with joined(training.members) as ranks:
        read = partial(read_whole, device=training.device, dtype=training.dtype)
        of_stream = batch_size if isinstance(val_data, IterableDataset) else None
        reader = read(data, name="data", batch_size=batch_size)
        judged_on = None if val_data is None else read(val_data, name="val_data", batch_size=of_stream)
        entropy = entropy_of(shared_rng(ranks, rng))
        training = in_step(ranks, training)
        generators = list(data_generators((data, val_data)))
        of_rows = [given for given, used in ((data, reader), (val_data, judged_on)) if isinstance(used, DatasetRows)]
        own: dict[int, Scan] = {}
        with training.preserved(generators, data_generators(of_rows)) as start:
            start = as_one_process(ranks, training, start)
            objective = start.objective
            streams = Streams(
                reader,
                batch_size=batch_size,
                val_data=judged_on,
                entropy=entropy,
                randomness=start.randomness,
                device=training.device,
            )
            batch = partial(_batch, streams, training.accumulation_steps)
            check_batch(objective, "training", batch(0, 0))
            if judged_on is not None:
                check_batch(objective, "validation", streams.held_out[0], training=False)
            check_same(
                ranks,
                lambda: {
                    **asked,
                    "rng": entropy,
                    **training.settings(),
                    **fingerprints(start, [batch(0, 0), *streams.held_out], data=reader),
                },
            )
            state = seed_of(entropy, HELD_OUT, 1)
            untrained = _held_out_losses(start, streams.held_out, state)
            steps = {
                "scan_steps": min(SCAN_STEPS, max(2, run_steps)),
                "final_steps": min(FINAL_STEPS[way], max(2, run_steps)),
            }
            # of a loader's batches, how many a stream has drawn decides which ones the next has; so it is with a budget
            is_shared = max_evaluations is None and not isinstance(reader, BatchStream)
            numbers = own_streams(ranks, num_streams, is_shared=is_shared, lockstep=objective.lockstep)
            visible = progress if ranks.rank == 0 else False
            with progress_bar(visible, _USUAL_COST[way] * len(numbers), "gradient evaluations") as bar:
                budget = _Budget(objective, began, max_evaluations, time_budget, bar)
                for stream in numbers:
                    if own and budget.left() < _USUAL_COST["fast"]:
                        break
                    courses = Courses(
                        start,
                        partial(batch, stream),
                        partial(seed_of, entropy, COURSE_STATE, stream),
                        hopeless=HOPELESS,
                    )
                    own[stream] = search_stream(
                        courses, streams.held_out, untrained, state, **steps, evaluations_left=budget.left
                    )
            scans = everybodys_scans(ranks, own, start, objective.lockstep)
        survived = [scan for scan in scans if scan.survivors]
        if not survived:
            smallest = 10.0 ** exponent(min(number for scan in scans for number in scan.courses))
            raise DivergedError(
                f"Training diverged at every learning rate down to {format_rate(smallest)}: check the loss and the"
                " scale of the data."
            )
        settings: dict[str, Any] = {
            **asked,
            "mean_factor": law.mean_factor,
            "decays": law.decays,
            "exponent": law.exponent,
            "effort": way,
            "effort_asked": effort,
            "num_streams": len(scans),
            **steps,
            "batch_size": streams.batch_size,
            **drawn_batches(reader, judged_on),
            "held_out": "val_data" if val_data is not None else "kept apart" if streams.held_out else "none",
            "num_rates": len({number for scan in scans for number in scan.courses}),
            "rng": entropy,
            **training.settings(),
            "num_gradients": objective.num_gradients,
            "num_forwards": objective.num_forwards,
            "num_evaluations": objective.num_evaluations,
            "seconds": time.perf_counter() - began,
            "versions": versions(),
        }
        settings = told_together(ranks, settings, objective.lockstep)
        decision = decide_search(survived, law, target)
        told = total_steps is not None
        decision["caveats"] = caveats_of_search(settings, scans, decision, told=told, asked=num_streams)
        return SearchResult(trace_of(scans), decision, settings).suggestion


def _batch(streams: Streams, accumulation_steps: int, stream: int, step: int) -> Batch:
    """Return what a step takes: a batch, or several."""
    first = step * accumulation_steps
    drawn = [streams.batch(stream, number) for number in range(first, first + accumulation_steps)]
    return steps_of(drawn, accumulation_steps)[0]


def _held_out_losses(start: Start, batches: list[Batch], state: np.random.SeedSequence) -> list[float]:
    """Return the held-out losses before any step."""
    trajectory = Trajectory(start, lambda _: state)
    trajectory.begin()
    losses = []
    for batch in batches:
        with noted("a held-out batch", batch, ", in evaluation mode"):
            losses.append(trajectory.loss(batch, state, training=False))
    return losses


class _Budget:
    """How many gradient evaluations are left, of a number and of the time; it moves the bar."""

    def __init__(
        self,
        objective: Objective,
        began: float,
        max_evaluations: int | None,
        time_budget: float | None,
        bar: "tqdm[NoReturn]",
    ) -> None:
        self._objective, self._began, self._bar = objective, began, bar
        self._most, self._seconds = max_evaluations, time_budget

    def left(self) -> float:
        used = self._objective.num_evaluations
        self._bar.update(round(used) - self._bar.n)
        left = math.inf if self._most is None else self._most - used
        if self._seconds is not None:
            seconds = time.perf_counter() - self._began
            left = min(left, self._objective.lockstep.mean((self._seconds - seconds) * used / seconds))
        return left

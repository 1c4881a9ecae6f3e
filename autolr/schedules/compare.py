"""compare_schedules: training under several schedules from the same starts, on the same batches."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import nn

from autolr._progress import progress_bar
from autolr._typing import ComputeLoss, LossFunction, Rng
from autolr._validation import (
    check_confidence_level,
    check_flag,
    check_integer,
    check_option,
    check_real,
    check_rng,
    invalid,
)
from autolr._version import versions
from autolr.probing.held import data_generators, held_generators
from autolr.probing.random_state import ForkedRandomness
from autolr.probing.start import Start
from autolr.probing.state import preserved_state
from autolr.schedules._options import ScheduleName
from autolr.schedules._runs import INITIAL, Batches, Run
from autolr.schedules.comparison import ScheduleComparison
from autolr.schedules.make import make_scheduler
from autolr.subsampling import entropy_of, seed_of
from autolr.training import Training, check_batch, check_training

__all__ = ["ScheduleComparison", "compare_schedules"]

MakeModel: TypeAlias = Callable[[], nn.Module]
MakeOptimizer: TypeAlias = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
Schedules: TypeAlias = Sequence[ScheduleName] | Mapping[str, ScheduleName | Mapping[str, Any]]

_RESERVED = ("optimizer", "learning_rate", "total_steps")


def compare_schedules(
    make_model: MakeModel,
    loss_fn: LossFunction | None,
    make_optimizer: MakeOptimizer,
    data: Any,
    *,
    schedules: Schedules,
    learning_rate: float,
    num_epochs: int,
    num_repeats: int = 5,
    val_data: Any = None,
    batch_size: int | None = None,
    compute_loss: ComputeLoss | None = None,
    device: torch.device | str | None = None,
    rng: Rng = None,
    confidence_level: float = 0.95,
    progress: bool | None = None,
) -> ScheduleComparison:
    r"""Train under each of several schedules, several times, and compare the final losses.

    In each repeat one model is made, with initial weights of its own, and trained under every schedule from these
    weights and with a fresh optimizer, on the same batches in the same order and with the same random masks. The
    schedules are thus paired: what a repeat's start and its batches do to all of them cancels in their differences.

    The loss of a step is that of its batch before the step, in the modes in which the model is made; the final loss is
    the mean over all observations of ``val_data`` (or of ``data``) after the last step, in evaluation mode. Schedulers
    are stepped after each optimizer step, and options in steps count those; ``"plateau"`` is stepped after each epoch
    with the mean of the epoch's training losses, and its ``patience`` counts epochs.

    A run is given up at the first loss that is not finite, and its final loss is then ``inf``.

    Global random states and the generators of your data and functions end as they began. A model or an optimizer that
    your functions hand out again each time is put back too. A ``make_model`` that seeds a global generator makes the
    same weights in every repeat: the intervals then speak of the order of the batches only.

    Args:
        make_model: ``make_model() -> nn.Module``; called ``num_repeats`` times.
        loss_fn: ``loss_fn(output, target) -> scalar tensor``, the mean over the observations of a batch, or ``None``
            where ``compute_loss`` is given or the model's output carries its loss.
        make_optimizer: ``make_optimizer(parameters) -> Optimizer``, of a list of the model's parameters; called as
            often. The rates of its groups say nothing but their ratios, which every schedule keeps.
        data: What to train on: a ``DataLoader``, any iterable of batches, a ``Dataset``, or a pair ``(X, Y)`` of
            arrays. Observations are shuffled anew in each epoch, without a last batch that is too small. Batches of a
            loader or an iterable are read once and kept; each repeat takes them in one order, the first in theirs.
        schedules: Names of :func:`autolr.make_scheduler`, such as ``["constant", "cosine"]``; or a mapping from labels
            to names, or to options with a ``"name"``: ``{"slow": {"name": "step", "gamma": 0.5}}``. ``"constant"`` is
            no schedule.
        learning_rate: The rate that the schedules scale, of the first parameter group.
        num_epochs: How often to go through ``data``.
        num_repeats: How often all is repeated, at least 2.
        val_data: What to judge on, all of it, in one of the forms of ``data``; by default all of ``data``.
        batch_size: The observations of a batch, for arrays and datasets; by default 32, or fewer.
        compute_loss: ``compute_loss(model, batch) -> scalar tensor`` instead of ``loss_fn``.
        device: Where batches go; by default where the first parameter is.
        rng: An int gives the same answer at each call; a ``numpy.random.Generator`` is advanced. Initial weights, order
            of the batches and masks of repeat r are a function of (``rng``, r).
        confidence_level: Nominal coverage of the intervals where none is asked for.
        progress: ``None``: a bar on a terminal only; ``True`` or ``False`` force it. It counts epochs.

    Returns:
        The losses of all steps, the final losses, and their summary with paired differences to the best schedule.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of its range, there is no batch, or a loss is not finite before any step. All
            but the last is raised before any training.

    Example:
        A loss of w^2, from w = 1, on one batch: a step at the rate r multiplies w by 1 - 2 r, so that two of them at
        0.25 leave a loss of 1/16, and a second one at half the rate leaves 9/64, more by 5/64:

        >>> from autolr import compare_schedules
        >>> def make_model():
        ...     model = nn.Linear(1, 1, bias=False)
        ...     nn.init.ones_(model.weight)
        ...     return model
        >>> schedules = {"none": "constant", "halved": {"name": "exponential", "gamma": 0.5}}
        >>> result = compare_schedules(
        ...     make_model, nn.MSELoss(), torch.optim.SGD, [(torch.ones(1, 1), torch.zeros(1, 1))],
        ...     schedules=schedules, learning_rate=0.25, num_epochs=2, num_repeats=2,
        ... )  # fmt: skip
        >>> result.best
        'none'
        >>> result.summary()[["final_loss", "difference"]]
                  final_loss  difference
        schedule
        none        0.062500    0.000000
        halved      0.140625    0.078125
    """
    began = time.perf_counter()
    for name, function in (("make_model", make_model), ("make_optimizer", make_optimizer)):
        if not callable(function) or isinstance(function, nn.Module):
            raise TypeError(invalid(name, f"be a function that returns a new {name.removeprefix('make_')}", function))
    options = _read_schedules(schedules)
    learning_rate = check_real("learning_rate", learning_rate, above=0.0)
    num_epochs = check_integer("num_epochs", num_epochs, minimum=1)
    num_repeats = check_integer("num_repeats", num_repeats, minimum=2)
    if batch_size is not None:
        batch_size = check_integer("batch_size", batch_size, minimum=1)
    check_rng(rng)
    confidence_level = check_confidence_level(confidence_level)
    if progress is not None:
        check_flag("progress", progress)

    entropy = entropy_of(rng)
    makers = held_generators(make_model, make_optimizer)
    devices = _accelerators()
    history: list[pd.DataFrame] = []
    final_losses = np.full((num_repeats, len(options)), np.inf)
    costs = {"num_gradients": 0, "num_forwards": 0}
    generators = [*data_generators((data, val_data)), *makers]
    with torch.inference_mode(False), preserved_state(*generators, devices=devices):
        randomness = ForkedRandomness(devices, makers)

        def make(repeat: int) -> Training:
            randomness.fork(seed_of(entropy, INITIAL, repeat))
            model = make_model()
            if not isinstance(model, nn.Module):
                raise TypeError(invalid("make_model", "return a torch.nn.Module", model))
            optimizer = make_optimizer(list(model.parameters()))
            if not isinstance(optimizer, torch.optim.Optimizer):
                raise TypeError(invalid("make_optimizer", "return a torch.optim.Optimizer", optimizer))
            return check_training(model, loss_fn, optimizer, compute_loss=compute_loss, device=device)

        training = make(0)
        batches = Batches(training, data, val_data, batch_size=batch_size, entropy=entropy, devices=devices)
        with progress_bar(progress, num_repeats * len(options) * num_epochs, "epochs") as bar:
            for repeat in range(num_repeats):
                training = training if repeat == 0 else make(repeat)
                with training.preserved() as start:
                    if repeat == 0:
                        _try_schedulers(start, options, learning_rate, num_epochs * batches.per_epoch)
                    check_batch(start.objective, "training", batches.batch(repeat, 0))
                    if repeat == 0 and val_data is not None:
                        for batch in itertools.islice(batches.judged(), 1):
                            check_batch(start.objective, "validation", batch, training=False)
                    for number, (label, chosen) in enumerate(options.items()):
                        run = Run(start, batches, repeat, entropy)
                        run.train(chosen, learning_rate, num_epochs, advance=bar.update)
                        final_losses[repeat, number] = run.final_loss()
                        history.append(run.frame(label))
                    costs = {name: costs[name] + getattr(start.objective, name) for name in costs}
    settings = {
        "schedules": {label: _as_json(chosen) for label, chosen in options.items()},
        "learning_rate": learning_rate,
        "num_epochs": num_epochs,
        "num_repeats": num_repeats,
        "total_steps": num_epochs * batches.per_epoch,
        "batch_size": batches.batch_size,
        "judged_on": "data" if val_data is None else "val_data",
        "confidence_level": confidence_level,
        "epsilon": start.objective.epsilon,
        "rng": entropy,
        **training.settings(),
        **costs,
        "num_evaluations": costs["num_gradients"] + costs["num_forwards"] / 3.0,
        "seconds": time.perf_counter() - began,
        "versions": versions(),
    }
    frame = pd.DataFrame(final_losses, columns=pd.Index(options, name="schedule"))
    return ScheduleComparison(pd.concat(history, ignore_index=True), frame.rename_axis("repeat"), settings)


def _read_schedules(schedules: Any) -> dict[str, dict[str, Any]]:
    """Return the options of each schedule, its name among them, under its label."""
    if isinstance(schedules, Mapping):
        given = list(schedules.items())
    elif isinstance(schedules, Sequence) and not isinstance(schedules, (str, bytes)):
        given = [(name, name) for name in schedules]
    else:
        raise TypeError(invalid("schedules", "be a sequence of names, or a mapping from labels", schedules))
    if not given:
        raise ValueError(invalid("schedules", "hold at least one schedule", schedules))
    read: dict[str, dict[str, Any]] = {}
    for label, value in given:
        if not isinstance(label, str):
            raise TypeError(invalid("schedules", "have strings as names and labels", label))
        if label in read:
            raise ValueError(invalid("schedules", "hold each name once (a mapping has labels)", schedules))
        chosen = dict(value) if isinstance(value, Mapping) else {"name": value}
        entry = f"schedules[{label!r}]"
        if not all(isinstance(key, str) for key in chosen):
            raise TypeError(invalid(entry, "have strings as names of options", value))
        for key in _RESERVED:
            if key in chosen:
                raise ValueError(invalid(entry, f"not hold {key!r}", value))
        check_option(f"{entry}['name']", chosen.get("name"), ScheduleName)
        read[label] = chosen
    return read


def _try_schedulers(
    start: Start, schedules: Mapping[str, Mapping[str, Any]], learning_rate: float, total_steps: int
) -> None:
    """Make every scheduler once, so that wrong options are known before any training."""
    for label, chosen in schedules.items():
        try:
            make_scheduler(start.optimizer, **chosen, learning_rate=learning_rate, total_steps=total_steps)
        except Exception as error:
            error.add_note(f"autolr: raised by the schedule {label!r}.")
            raise
        start.restore()


def _accelerators() -> list[torch.device]:
    """Return the devices besides the CPU whose generators a new model may draw from."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return []
    return [torch.device(accelerator.type, index) for index in range(torch.accelerator.device_count())]


def _as_json(value: Any) -> Any:
    """Return options as JSON values: what is no number, string, list or dict becomes its ``repr``."""
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return list(map(_as_json, value))
    return value if isinstance(value, (bool, int, float, str)) else repr(value)

"""A call of ``tune``, checked: which rates, which subsamples in which rows, from which randomness."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.utils.data import IterableDataset

from autolr._typing import Batch, EngineName, FloatArray, Horizon, IntArray, Rng, Sampling
from autolr._validation import (
    check_confidence_level,
    check_flag,
    check_horizons,
    check_integer,
    check_learning_rates,
    check_option,
    check_real,
)
from autolr.batches import steps_of
from autolr.data import DEFAULT_BATCH_SIZE, BatchStream, Data, DatasetRows, drawn_batches, read_data, read_whole
from autolr.probing.held import data_generators
from autolr.probing.random_state import ForkedRandomness
from autolr.statistics.race import check_regret_tolerance
from autolr.subsampling import (
    EVALUATION,
    ROW_STATE,
    STEP_STATE,
    WARMUP_STATE,
    DrawnSubsamples,
    StreamedSubsamples,
    Subsamples,
    entropy_of,
    seed_of,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a call of ``tune`` asks for; enough to make its rows, and more of them later.

    Attributes:
        learning_rates: The grid, shape ``(K,)``.
        num_subsamples: The number of rows asked for.
        subsamples: Where the rows' batches come from.
        data: The reader of what the user has handed over.
        evaluation: Where their losses are measured: ``"subsample"``, ``"independent"``, or other subsamples.
        horizons: After how many steps losses are recorded, increasing, shape ``(H,)``.
        accumulation_steps: The micro-batches of a step.
        warmup_steps: The steps that feed the optimizer's moments.
        engine: The engine asked for.
        interpolate: Whether most rows are probed at some rates only.
        entropy: What all randomness is made of.
        adaptive: Whether rates are dropped while tuning.
        confidence_level: The level of the adaptive decision, and of the result's intervals by default.
        regret_tolerance: At which share of its gain the regret of the pick is small enough to stop.
        time_budget: Seconds, or ``None``.
        progress: Whether a bar is shown; ``None``: on a terminal.
        generators: The user's own random generators in the data, to be put back.
        row_generators: Those of them that each row moves to a state of its own: a map-style dataset's, so that a row
            can be drawn again. Loaders and iterables draw on from theirs, in their order.
        settings: The choices as JSON values.
    """

    learning_rates: FloatArray
    num_subsamples: int
    subsamples: Subsamples
    data: Data
    evaluation: Subsamples | str
    horizons: IntArray
    accumulation_steps: int
    warmup_steps: int
    engine: EngineName
    interpolate: bool
    entropy: int
    adaptive: bool
    confidence_level: float
    regret_tolerance: float
    time_budget: float | None
    progress: bool | None
    generators: tuple[object, ...]
    row_generators: tuple[object, ...]
    settings: dict[str, Any]

    @property
    def repeatable(self) -> bool:
        """Whether further rows can be drawn later: not from a stream, which is read once."""
        return not isinstance(self.subsamples, StreamedSubsamples) and not isinstance(
            self.evaluation, StreamedSubsamples
        )

    @property
    def asked(self) -> dict[str, Any]:
        """What was asked for, as JSON values by the name of the argument."""
        asked = {name.removesuffix("_asked"): value for name, value in self.settings.items()}
        return {**asked, "learning_rates": self.learning_rates.tolist()}

    @property
    def num_evaluation_passes(self) -> int:
        """How often the user's own evaluation batches have been read from their start."""
        return self.evaluation.num_passes if isinstance(self.evaluation, StreamedSubsamples) else 1

    def drawn_batches(self) -> dict[str, int | None]:
        """Return how many batches of loaders and iterables were drawn so far, and how many are lost; for settings."""
        sources = (self.subsamples, self.evaluation)
        return drawn_batches(*(s.stream if isinstance(s, StreamedSubsamples) else None for s in sources))

    @property
    def num_batches(self) -> int:
        """How many batches of the data a row takes."""
        return self._num_micro_batches + (1 if self.evaluation == "independent" else 0)

    @property
    def _num_micro_batches(self) -> int:
        return int(self.horizons[-1]) * self.accumulation_steps

    def seed(self, row: int, step: int = 0) -> np.random.SeedSequence:
        """Return the seed of the random state of a row, and of its steps after the first."""
        return seed_of(self.entropy, ROW_STATE, row) if step == 0 else seed_of(self.entropy, STEP_STATE, row, step)

    def draw(self, randomness: ForkedRandomness, row: int) -> tuple[Batch, ...] | None:
        """Return the batches of a row's steps, then that of its losses, or ``None`` where the data has ended.

        The random state is moved to the row's own first, which the data (augmentation) may draw from; for the batches
        of further steps to those of the steps, and back. Rows of a stream are drawn in their order, those of other
        ranks too.
        """
        sources = (self.subsamples, self.evaluation)
        begun = [source.num_drawn for source in sources if isinstance(source, StreamedSubsamples)]
        for earlier in range(min(begun, default=row), row):
            self._draw(randomness, earlier)
        return self._draw(randomness, row)

    def _draw(self, randomness: ForkedRandomness, row: int) -> tuple[Batch, ...] | None:
        randomness.fork(self.seed(row))
        batches = self.subsamples.draw(row)
        if batches is None:
            return None
        evaluation = batches[-1:] if isinstance(self.evaluation, str) else self.evaluation.draw(row)
        if evaluation is None:
            return None
        drawn = [batches[0]]
        if self._num_micro_batches > 1:
            further = self.subsamples.draw_further(row)
            for index in range(1, self._num_micro_batches):
                randomness.fork(self.seed(row, index))
                drawn.append(next(further))
            randomness.fork(self.seed(row))
        steps = steps_of(drawn, self.accumulation_steps)
        return *steps, steps[0] if self.evaluation == "subsample" else evaluation[0]

    def warmup_batches(self, randomness: ForkedRandomness) -> Iterator[Batch]:
        """Yield the batches of the warm-up, each drawn in a random state of its own."""
        drawn: list[Batch] = []
        for index in range(self.warmup_steps * self.accumulation_steps):
            randomness.fork(seed_of(self.entropy, WARMUP_STATE, index))
            batch = self.subsamples.draw_warmup(index)
            if batch is None:
                return
            drawn.append(batch)
            if len(drawn) == self.accumulation_steps:
                yield from steps_of(drawn, self.accumulation_steps)
                drawn.clear()


def make_plan(
    X: Any,
    Y: Any,
    *,
    device: torch.device,
    dtype: torch.dtype,
    rng: Rng,
    learning_rates: ArrayLike,
    num_subsamples: int,
    batch_size: int | None,
    sampling: Sampling,
    evaluation: Any,
    horizon: Horizon,
    accumulation_steps: int,
    warmup_steps: int,
    engine: EngineName,
    interpolate: bool,
    adaptive: bool,
    regret_tolerance: float,
    confidence_level: float,
    time_budget: float | None,
    progress: bool | None,
) -> Plan:
    """Check the arguments of ``tune`` (see there) and return the plan."""
    rates = check_learning_rates(learning_rates)
    num_subsamples = check_integer("num_subsamples", num_subsamples, minimum=2)
    if batch_size is not None:
        batch_size = check_integer("batch_size", batch_size, minimum=1)
    check_option("sampling", sampling, Sampling)
    if isinstance(evaluation, str):
        check_option("evaluation", evaluation, ("independent", "subsample"))
    horizons = check_horizons(horizon)
    warmup_steps = check_integer("warmup_steps", warmup_steps, minimum=0)
    check_option("engine", engine, EngineName)
    interpolate = check_flag("interpolate", interpolate)
    adaptive = check_flag("adaptive", adaptive)
    confidence_level = check_confidence_level(confidence_level)
    regret_tolerance = check_regret_tolerance(regret_tolerance)
    if time_budget is not None:
        time_budget = check_real("time_budget", time_budget, above=0.0)
    if progress is not None:
        check_flag("progress", progress)

    data = read_data(X, Y, device=device, dtype=dtype, batch_size=batch_size)
    own: Data | None = None
    if not isinstance(evaluation, str):
        size = batch_size if isinstance(evaluation, IterableDataset) else None  # others have theirs, or the rows' size
        own = read_whole(evaluation, name="evaluation", device=device, dtype=dtype, batch_size=size)
    num_steps = int(horizons[-1]) * accumulation_steps  # a micro-batch of a step is drawn as a step of its own would be
    num_parts = 2 if own is None and evaluation == "independent" else 1
    entropy = entropy_of(rng)
    if isinstance(data, BatchStream):
        size, num_observations, sampled = data.batch_size, None, "batches"
        subsamples: Subsamples = StreamedSubsamples(data, num_parts=num_parts, num_steps=num_steps)
    else:
        drawn = DrawnSubsamples(
            data,
            batch_size=batch_size,
            sampling=sampling,
            num_parts=num_parts,
            num_steps=num_steps,
            num_rows=num_subsamples,
            entropy=entropy,
        )
        size, num_observations, sampled, subsamples = drawn.batch_size, len(data), sampling, drawn
    of_rows = [given for given, reader in ((X, data), (evaluation, own)) if isinstance(reader, DatasetRows)]
    return Plan(
        learning_rates=rates,
        num_subsamples=num_subsamples,
        subsamples=subsamples,
        data=data,
        evaluation=evaluation if own is None else _evaluation_subsamples(own, size, sampling, num_subsamples, entropy),
        horizons=horizons,
        accumulation_steps=accumulation_steps,
        warmup_steps=warmup_steps,
        engine=engine,
        interpolate=interpolate,
        entropy=entropy,
        adaptive=adaptive,
        confidence_level=confidence_level,
        regret_tolerance=regret_tolerance,
        time_budget=time_budget,
        progress=progress,
        generators=tuple(data_generators((X, evaluation))),
        row_generators=tuple(data_generators(of_rows)),
        settings={
            "num_subsamples": num_subsamples,
            "batch_size": size,
            "num_observations": num_observations,
            "num_evaluation_observations": None if own is None or isinstance(own, BatchStream) else len(own),
            "sampling": sampled,
            "evaluation": evaluation if own is None else "own data",
            "horizon": horizons.tolist() if horizons.size > 1 else int(horizons[0]),
            "warmup_steps": warmup_steps,
            "engine_asked": engine,
            "interpolate": interpolate,
            "adaptive": adaptive,
            "confidence_level": confidence_level,
            "regret_tolerance": regret_tolerance,
            "time_budget": time_budget,
            "rng": entropy,
        },
    )


def _evaluation_subsamples(
    data: Data, batch_size: int | None, sampling: Sampling, num_rows: int, entropy: int
) -> Subsamples:
    """Return where evaluation batches come from; a partition of them is cut fine enough to serve all rows."""
    if isinstance(data, BatchStream):
        return StreamedSubsamples(data, num_parts=1, cycle=True)
    most = len(data) // (num_rows if sampling == "partition" else 2)
    size = max(1, min(DEFAULT_BATCH_SIZE if batch_size is None else batch_size, most))
    return DrawnSubsamples(
        data,
        batch_size=size,
        sampling=sampling,
        num_parts=1,
        num_rows=num_rows,
        entropy=entropy,
        purpose=EVALUATION,
        name="evaluation",
    )

"""What holds in one repetition of the coverage benchmark: rows are drawn, every method is asked, the truth is known.

Each function returns its outcomes by name, arrays that :func:`repeat` stacks along a first axis, the repetitions. The
randomness of a repetition is a function of its number, so that any of them can be made again on its own.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from zlib import crc32

import numpy as np
from generators import (
    BATCH_SIZE,
    GENERATORS,
    dataset_quadratic,
    observations,
    population_quadratic,
    quadratic,
)
from scipy import stats

from autolr._typing import BoolArray, FloatArray, IntArray
from autolr.statistics import (
    argmin_interval,
    bca_interval,
    best_set,
    binomial_interval,
    bootstrap_t_interval,
    confidence_sequence,
    median_interval,
    percentile_interval,
    regret_bound,
    simultaneous_band,
    t_interval,
)
from autolr.statistics._resampling import Resamples
from autolr.statistics.best_set import ROWS_FOR_MVT, default_method
from autolr.statistics.criteria import choose
from autolr.statistics.race import race
from autolr.statistics.sequential import look_level, look_sizes
from autolr.subsampling import DrawnSubsamples

Outcomes = dict[str, np.ndarray]
Ends = tuple[FloatArray, FloatArray]

LEVEL = 0.95
RESAMPLED = {"bootstrap-t": bootstrap_t_interval, "percentile": percentile_interval, "BCa": bca_interval}
LOOKED_AT = ("regression", "correlated Gaussian")
LOOKS, LAST_ROW = look_sizes(100), 500
STRIDES = (1, 3)  # of races: all rates, or one of three at first, 0.3 decades apart
DATASET_SIZE, NUM_INDEPENDENT = 800, 200
NUM_PARTITION = DATASET_SIZE // (2 * BATCH_SIZE)


def source(name: str, *numbers: int) -> np.random.Generator:
    return np.random.default_rng([crc32(name.encode()), *numbers])


def covers(ends: Ends, truth: float | FloatArray) -> BoolArray:
    return (ends[0] <= truth) & (truth <= ends[1])


def repeat(once: Callable[[int], Outcomes], repetitions: range) -> Outcomes:
    """Return the outcomes of some repetitions."""
    outcomes = [once(repetition) for repetition in repetitions]
    return {name: np.stack([one[name] for one in outcomes]) for name in outcomes[0]}


def measure(name: str, num_rows: int, repetition: int) -> Outcomes:
    """Return what holds for the rows of a generator, and how wide and large intervals and sets are."""
    generator, rng = GENERATORS[name](), source(name, num_rows, repetition)
    delta = generator.draw(rng, num_rows)
    options = {"confidence_level": LEVEL, "rng": repetition}
    finite, known, best = np.isfinite(generator.mean), ~np.isnan(generator.median), generator.best

    student = t_interval(delta, confidence_level=LEVEL)
    out = {"t": covers(student, generator.mean)[finite]}
    out["t everywhere"] = out["t"].all()
    for method, interval in RESAMPLED.items():
        low, high = interval(delta, **options)
        out[method] = covers((low, high), generator.mean)[finite]
        out[f"{method} width"] = (high - low)[finite] / (student[1] - student[0])[finite]
    out["median"] = covers(median_interval(delta, confidence_level=LEVEL), generator.median)[known]
    out["band"] = covers(simultaneous_band(delta, **options), generator.mean)[finite].all()
    for part, count, truth in (
        ("improves", (delta < 0.0).sum(axis=0), generator.prob_improve),
        ("diverges", np.isinf(delta).sum(axis=0), generator.prob_diverge),
    ):
        uncertain = (truth > 0.0) & (truth < 1.0)
        out[part] = covers(binomial_interval(count, num_rows, confidence_level=LEVEL), truth)[uncertain]

    for method in ("studentized", "mvt") if num_rows >= ROWS_FOR_MVT else ("studentized",):
        inside = best_set(delta, method=method, **options)
        out[method], out[f"{method} size"] = inside[best], inside.sum()
    pick = choose(delta, "mean").index
    bound = regret_bound(delta, pick, method=default_method(num_rows), **options)
    out["regret"] = generator.mean[pick] - generator.mean[best[0]] <= bound
    if np.isfinite(generator.best_rate):
        low, high = argmin_interval(generator.learning_rates, delta, **options)
        out["argmin"], out["argmin width"] = low <= generator.best_rate <= high, np.log10(high / low)
    return {name: np.asarray(value) for name, value in out.items()}


def measure_controls(repetition: int) -> Outcomes:
    """Return what methods known to be wrong do, and the right ones beside them."""
    rng = source("controls", repetition)
    regression, diverging, ties = (GENERATORS[name]() for name in ("regression", "diverging", "ties"))
    out = {}
    few = regression.draw(rng, 5)
    half = stats.norm.ppf((1.0 + LEVEL) / 2.0) * stats.sem(few)
    out["z"] = covers((few.mean(axis=0) - half, few.mean(axis=0) + half), regression.mean)
    out["bootstrap-t"] = covers(bootstrap_t_interval(few, confidence_level=LEVEL, rng=repetition), regression.mean)

    delta = diverging.draw(rng, 20)
    finite = np.isfinite(delta)
    with np.errstate(invalid="ignore"):  # no finite row, no mean
        dropped = np.where(finite, delta, 0.0).sum(axis=0) / finite.sum(axis=0)
    out["drop"] = diverging.prob_diverge[np.nanargmin(dropped)] > 0.0
    out["choose"] = diverging.prob_diverge[choose(delta, "mean").index] > 0.0

    delta = ties.draw(rng, 20)
    argmins = Resamples(20, 2000, repetition).means(delta).argmin(axis=1)
    counts = np.bincount(argmins, minlength=delta.shape[1])
    order = counts.argsort()[::-1]
    size = int(np.searchsorted(counts[order].cumsum(), LEVEL * 2000)) + 1
    out["frequencies"], out["frequencies size"] = np.isin(ties.best, order[:size]), size
    return {name: np.asarray(value) for name, value in out.items()}


def measure_looks(name: str, num_repetitions: int) -> Outcomes:
    """Look at the best rate's interval as rows come in, and return which repetitions miss its mean at least once."""
    generator, rng = GENERATORS[name](), source(name, LAST_ROW)
    best = int(generator.best[0])
    # A column is a repetition.
    rows = np.column_stack([generator.draw(rng, LAST_ROW)[:, best] for _ in range(num_repetitions)])

    def misses(sizes: Iterable[int], interval: Callable[[FloatArray], Ends]) -> BoolArray:
        return np.any([~covers(interval(rows[:size]), generator.mean[best]) for size in sizes], axis=0)

    def misses_corrected(interval: Callable[..., Ends]) -> BoolArray:
        levels = {size: look_level(LEVEL, look, len(LOOKS)) for look, size in enumerate(LOOKS, start=1)}
        return np.any([misses([m], partial(interval, confidence_level=level)) for m, level in levels.items()], axis=0)

    return {
        "t, every M": misses(range(5, 201), t_interval),
        "t, looks": misses(LOOKS, t_interval),
        "t, corrected": misses_corrected(t_interval),
        "bootstrap-t, corrected": misses_corrected(partial(bootstrap_t_interval, rng=0)),
        "sequence": misses(range(20, LAST_ROW + 1), confidence_sequence),
    }


def measure_race(name: str, repetition: int) -> Outcomes:
    """Race to 100 rows, and return whether set and bound hold at the stop, and the share of the probes that it took."""
    generator = GENERATORS[name]()
    delta = generator.draw(source(f"race, {name}", repetition), LOOKS[-1])
    best = generator.best[generator.best.size // 2]
    out = {}
    for stride in STRIDES:
        asked: list[int] = []

        def probe(rows: range, columns: IntArray, asked: list[int] = asked) -> FloatArray:
            asked.append(len(rows) * columns.size)
            return delta[rows.start : rows.stop, columns]

        look = race(probe, len(delta), delta.shape[1], confidence_level=LEVEL, stride=stride).looks[-1]
        out[f"set, {stride}"] = best in look.inside
        regret = np.inf if look.pick is None else generator.mean[look.pick] - generator.mean[best]
        out[f"regret, {stride}"] = regret <= look.regret_bound
        out[f"probes, {stride}"] = sum(asked) / delta.size
    return {key: np.asarray(value) for key, value in out.items()}


@dataclass(frozen=True)
class Indices:
    """Observations that are their own indices."""

    count: int

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: IntArray) -> IntArray:
        """Return the indices."""
        return indices


def measure_sampling(repetition: int) -> Outcomes:
    """Draw a dataset from the population and rows from the dataset; return which of the two the rows speak about."""
    rng = source("sampling", repetition)
    inputs, residuals = observations(rng, DATASET_SIZE)
    rates = GENERATORS["regression"]().learning_rates
    truths = {
        truth: -a * rates + b * rates**2
        for truth, (a, b) in (
            ("dataset", dataset_quadratic(inputs, residuals, BATCH_SIZE)),
            ("population", population_quadratic()),
        )
    }
    out = {}
    for sampling, num_rows in (("independent", NUM_INDEPENDENT), ("partition", NUM_PARTITION)):
        subsamples = DrawnSubsamples(
            Indices(DATASET_SIZE), batch_size=BATCH_SIZE, sampling=sampling, num_parts=2, entropy=repetition
        )
        parts = np.array([subsamples.draw(row) for row in range(num_rows)]).swapaxes(0, 1)
        slope, curvature = quadratic(inputs[parts], residuals[parts])
        ends = bootstrap_t_interval(-slope[:, None] * rates + curvature[:, None] * rates**2, rng=repetition)
        out |= {f"{sampling}, {truth}": covers(ends, value) for truth, value in truths.items()}
    return out

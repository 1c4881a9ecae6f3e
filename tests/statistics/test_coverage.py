"""The benchmark of coverage with fewer repetitions, and the truths that it compares with.

A bound below is passed by chance with probability ``FALSE_ALARM`` if the coverage is the worst that the benchmark
tolerates, and far less often if it is nominal: over the fewer than 100 bounds here at most 1e-4. Seeds are fixed.
"""

import importlib.util
import sys
from functools import partial
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.interpolate import CubicSpline

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import generators
import outcomes

# NOTE: not by its name, which is that of a well-known package, and must not be found instead of it.
SPEC = importlib.util.spec_from_file_location("benchmark_of_coverage", Path(outcomes.__file__).parent / "coverage.py")
coverage = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = coverage
SPEC.loader.exec_module(coverage)
sys.path.remove(str(Path(outcomes.__file__).parent))

FALSE_ALARM = 1e-6
NAMES = list(generators.GENERATORS)


def fewest(lowest, num_repetitions):
    """Return a count that is not reached with probability FALSE_ALARM at most, where the probability is ``lowest``."""
    return stats.binom.ppf(FALSE_ALARM, num_repetitions, lowest)


def count(held):
    """Return the sum over the repetitions of the share of the rates, which varies no more than a binomial count."""
    return held.reshape(len(held), -1).mean(axis=1).sum()


@pytest.mark.statistical
@pytest.mark.parametrize(("name", "num_rows"), [*((name, 20) for name in NAMES), ("regression", 50), ("ties", 50)])
def test_everything_holds_as_often_as_it_says(name, num_rows):
    heavy = generators.GENERATORS[name]().heavy
    mean, band, argmin = (
        coverage.HEAVY[0] if heavy else limits[0] for limits in (coverage.MEAN, coverage.BAND, coverage.ARGMIN)
    )
    lowest = {"t": mean, "bootstrap-t": mean, "median": coverage.MEDIAN[0], "band": band, "argmin": argmin}
    lowest |= dict.fromkeys(("improves", "diverges"), coverage.SHARE[0])
    lowest |= dict.fromkeys(("studentized", "mvt", "regret"), coverage.SET[0])
    out = outcomes.repeat(partial(outcomes.measure, name, num_rows), range(80))
    for key in [key for key in lowest if key in out and out[key].size]:
        assert count(out[key]) >= fewest(lowest[key], 80), key


@pytest.mark.statistical
def test_wrong_methods_fail_the_same_bounds():
    out = outcomes.repeat(outcomes.measure_controls, range(1000))
    assert count(out["z"]) < fewest(coverage.MEAN[0], 1000) <= count(out["bootstrap-t"])
    assert count(out["frequencies"]) < fewest(coverage.SET[0], 1000)
    most = stats.binom.isf(FALSE_ALARM, 1000, coverage.DIVERGED_PICKS[1])
    assert out["choose"].sum() <= most < out["drop"].sum()


@pytest.mark.statistical
def test_corrected_looks_hold_together_and_t_at_every_look_does_not():
    out = outcomes.measure_looks("correlated Gaussian", 400)
    most = stats.binom.isf(FALSE_ALARM, 400, coverage.MISSES[1])
    assert out["t, every M"].sum() > most
    for key in ("t, corrected", "bootstrap-t, corrected", "sequence"):
        assert out[key].sum() <= most, key


@pytest.mark.statistical
def test_independent_subsamples_speak_about_the_dataset_and_a_partition_about_the_population():
    out = outcomes.repeat(outcomes.measure_sampling, range(100))
    least = fewest(coverage.MEAN[0], 100)
    assert count(out["independent, population"]) < least
    assert min(count(out["independent, dataset"]), count(out["partition, population"])) >= least


@pytest.mark.statistical
@pytest.mark.parametrize("name", NAMES)
def test_truth_of_a_generator_is_that_of_many_rows(name):
    generator, num_rows = generators.GENERATORS[name](), 100_000
    delta = generator.draw(np.random.default_rng(0), num_rows)
    # Six standard errors, of fewer than 1000 normal comparisons: a false alarm with probability 2e-6.
    finite, known = np.isfinite(generator.mean), ~np.isnan(generator.median)
    error = delta[:, finite].mean(axis=0) - generator.mean[finite]
    assert (np.abs(error) < 6 * stats.sem(delta[:, finite])).all()
    half = 6 * 0.5 / np.sqrt(num_rows)
    assert ((delta < generator.median).mean(axis=0)[known] < 0.5 + half).all()
    assert ((delta <= generator.median).mean(axis=0)[known] > 0.5 - half).all()
    for happened, truth in ((delta < 0.0, generator.prob_improve), (np.isinf(delta), generator.prob_diverge)):
        known = ~np.isnan(truth)
        error = np.abs(happened.mean(axis=0) - truth)[known]
        assert (error <= 6 * np.sqrt(truth * (1.0 - truth) / num_rows)[known] + 1e-5).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("ties", "diverging")])
def test_best_rate_is_where_a_spline_through_the_means_is_smallest(name):
    generator = generators.GENERATORS[name]()
    finite = np.isfinite(generator.mean)
    fine = np.linspace(-0.5, 0.5, 10_001)
    curve = CubicSpline(np.log10(generator.learning_rates[finite] / generator.best_rate), generator.mean[finite])(fine)
    assert abs(fine[curve.argmin()]) < 2e-3


def test_rows_of_the_finite_data_are_all_that_torch_can_make():
    data = generators.FiniteData()
    rates = np.array([0.1, 2.0])
    rows = data.rows(rates)
    assert rows.shape == (560 * 286, 2)
    np.testing.assert_allclose(rows.mean(axis=0), data.mean(rates), rtol=1e-10)
    signed = torch.from_numpy(data.signed)

    def loss(weights, batch):
        return torch.nn.functional.softplus(-signed[batch] @ weights).mean()

    expected = []
    for rate in rates:
        weights = torch.tensor(data.start, requires_grad=True)
        before = loss(weights, [0, 1, 15]).item()
        loss(weights, [3, 5, 11]).backward()
        torch.optim.SGD([weights], lr=rate).step()
        expected.append(loss(weights, [0, 1, 15]).item() - before)
    assert np.abs(rows - expected).max(axis=1).min() < 1e-12


def test_value_of_a_dataset_is_the_average_over_all_disjoint_batches():
    inputs, residuals = generators.observations(np.random.default_rng(0), 6)
    parts = np.array(list(permutations(range(6), 4))).reshape(-1, 2, 2).swapaxes(0, 1)
    every = generators.quadratic(inputs[parts], residuals[parts])
    expected = [coefficient.mean() for coefficient in every]
    np.testing.assert_allclose(generators.dataset_quadratic(inputs, residuals, 2), expected, rtol=1e-10)


def test_quadratic_is_what_a_real_step_changes():
    inputs, residuals = generators.observations(np.random.default_rng(0), 2, 1, 16)
    (a,), (b,) = generators.quadratic(inputs, residuals)
    step = 2.0 * (residuals[0, 0, :, None] * inputs[0, 0]).mean(axis=0)
    after = residuals[1, 0] - 0.3 * inputs[1, 0] @ step
    np.testing.assert_allclose(-a * 0.3 + b * 0.09, (after**2).mean() - (residuals[1, 0] ** 2).mean())


def test_report_marks_what_is_outside_and_controls_that_are_inside():
    report = coverage.Report(1000)
    shares = (0.93, 0.92, 0.89, 0.98, 1.0)
    assert [report.figure("mean", share, coverage.MEAN) for share in shares] == [
        "93.0",
        "92.0~",
        "89.0!",
        "98.0~",
        "100.0!",
    ]
    assert report.missed == ["mean: 89.0, not 92.5 to 97.5", "mean: 100.0, not 92.5 to 97.5"]
    assert [report.control("z", share, coverage.MEAN) for share in (0.89, 0.93)] == ["89.0", "93.0!"]
    assert report.powerless == ["z: 93.0, which is 92.5 to 97.5"]

"""The public surface is what it says, and importing it is light."""

import subprocess
import sys

import pytest

import autolr

SURFACE = {
    "AutoLRTuner",
    "TuningResult",
    "find_lr",
    "SearchResult",
    "loss_by_learning_rate",
    "taylor_expansion",
    "TaylorExpansion",
    "lr_range_test",
    "RangeTest",
    "SecondOrderLR",
    "compare_schedules",
    "ScheduleComparison",
    "LossDifferentials",
    "Suggestion",
    "log_grid",
    "linear_grid",
    "make_scheduler",
    "rebase_scheduler",
    "statistics",
    "NotTunedError",
    "NoCandidateError",
    "DivergedError",
    "RankFailedError",
    "GridEdgeWarning",
    "DivergenceWarning",
    "ResolutionWarning",
    "__version__",
}
STATISTICS = {
    "t_interval",
    "bootstrap_t_interval",
    "percentile_interval",
    "bca_interval",
    "median_interval",
    "binomial_interval",
    "simultaneous_band",
    "best_set",
    "regret_bound",
    "argmin_interval",
    "confidence_sequence",
    "stability",
}


def test_the_public_names_are_these():
    assert set(autolr.__all__) == SURFACE
    assert set(autolr.statistics.__all__) == STATISTICS


@pytest.mark.parametrize("name", sorted(SURFACE - {"statistics", "__version__"}))
def test_every_public_name_is_there_and_documented(name):
    assert getattr(autolr, name).__doc__


@pytest.mark.parametrize("name", sorted(STATISTICS))
def test_every_public_statistic_is_there_and_documented(name):
    assert getattr(autolr.statistics, name).__doc__


@pytest.mark.parametrize("member", sorted(vars(autolr.AutoLRTuner).keys() | vars(autolr.TuningResult).keys()))
def test_every_public_member_is_documented(member):
    owner = autolr.AutoLRTuner if hasattr(autolr.AutoLRTuner, member) else autolr.TuningResult
    value = getattr(owner, member)
    if not member.startswith("_") and callable(value):
        assert value.__doc__


def test_importing_the_package_imports_neither_matplotlib_nor_a_framework():
    code = "import autolr, sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"matplotlib", "sklearn", "lightning", "ignite", "transformers", "accelerate", "skorch"}
    assert heavy.isdisjoint(modules)


def test_importing_the_package_takes_little_longer_than_importing_torch():
    code = "import torch, time; began = time.perf_counter(); import autolr; print(time.perf_counter() - began)"
    taken = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(taken) < 0.3


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'autolr' has no attribute 'nothing'"):
        autolr.nothing  # noqa: B018
    assert set(autolr.__all__) <= set(dir(autolr))

"""Any settings: a call works and leaves everything as it was, or raises a documented error and does so too."""

from collections import Counter

import numpy as np
import pytest
import torch
from harness import unchanged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import autolr

DOCUMENTED = (ValueError, TypeError, autolr.DivergedError, autolr.NoCandidateError)
WORDS = ("` must ", "diverged", "No learning rate qualifies", "At least 2 rows must be left")
FROM_TORCH = ("more than 1 value per channel", "size of input")  # of layers and losses, as a ValueError


def mostly(usual, odd):
    """Draw from what is usual, and now and then from what is odd."""
    return st.integers(0, 7).flatmap(lambda number: odd if number == 7 else usual)


@st.composite
def trainings(draw):
    """A network of any size and dtype, its optimizer, and data of any number of observations, classes or targets."""
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    num, width = draw(mostly(st.integers(20, 40), st.integers(1, 40))), draw(st.integers(1, 4))
    shape = draw(st.sampled_from([(), (2,), (2, 2)]))
    num_inputs = width * int(np.prod(shape, dtype=int))
    num_outputs = draw(st.integers(1, 3))
    torch.manual_seed(draw(st.integers(0, 3)))
    middle = draw(st.sampled_from([nn.Identity(), nn.Tanh(), nn.Dropout(0.3), nn.BatchNorm1d(4)]))
    model = nn.Sequential(nn.Flatten(), nn.Linear(num_inputs, 4), middle, nn.Linear(4, num_outputs)).to(dtype)
    kind = draw(st.sampled_from([torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.ASGD]))
    optimizer = kind(model.parameters(), lr=draw(st.sampled_from([1e-3, 0.1, 10.0])))
    X = torch.randn(num, width, *shape).to(draw(mostly(st.just(dtype), st.sampled_from([torch.float16, torch.int64]))))
    if draw(st.booleans()):
        return model, optimizer, nn.CrossEntropyLoss(), X, torch.randint(num_outputs, (num,))
    scale = draw(st.sampled_from([1.0, 1.0, 1e-30, 1e18]))
    Y = torch.randn(num, draw(mostly(st.just(num_outputs), st.just(1)))).to(dtype) * scale
    return model, optimizer, nn.MSELoss(), X, Y


counts = mostly(st.integers(1, 3), st.integers(0, 4))
grids = mostly(
    st.builds(
        lambda low, decades, num: np.geomspace(low, low * 10.0**decades, num),
        st.sampled_from([1e-12, 1e-4, 1e-2]),
        st.integers(1, 18),
        st.integers(2, 30),
    ),
    st.lists(st.sampled_from([0.0, 1e-3, 0.1, 1.0, 1e6, float("nan")]), max_size=3),
)
tunings = st.fixed_dictionaries(
    {"learning_rates": grids, "num_subsamples": mostly(st.integers(2, 5), st.integers(0, 2))},
    optional={
        "batch_size": mostly(st.integers(2, 6), st.integers(0, 12)),
        "sampling": st.sampled_from(["independent", "partition"]),
        "evaluation": st.sampled_from(["independent", "subsample"]),
        "horizon": mostly(counts, st.lists(st.integers(0, 4), max_size=3)),
        "warmup_steps": counts,
        "engine": st.sampled_from(["auto", "step", "line", "batched"]),
        "interpolate": st.booleans(),
        "adaptive": st.booleans(),
        "confidence_level": mostly(st.just(0.5), st.just(1.0)),
        "time_budget": st.sampled_from([1e-9, 10.0]),
    },
)


def made(function, model, optimizer, X, Y):
    """Make a call, and return what comes back, or the error that is as good as a result."""
    raised = None
    with unchanged(model, optimizer, extra=[X, Y]):
        try:
            return function()
        except (*DOCUMENTED, RuntimeError) as error:
            raised = error
    if isinstance(raised, DOCUMENTED):
        assert any(words in str(raised) for words in WORDS + FROM_TORCH), raised
    else:  # a training by hand raises it too
        with pytest.raises(RuntimeError):
            by_hand(model, X, Y)
    return raised


def by_hand(model, X, Y):
    output = model(X)
    loss = nn.CrossEntropyLoss() if Y.dtype == torch.int64 else nn.MSELoss()
    loss(output, Y).backward()


fuzzed = settings(
    derandomize=True, max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_any_tuning_works_or_is_refused_in_words():
    outcomes = Counter()

    @fuzzed
    @given(trainings(), tunings)
    def fuzz(training, options):
        model, optimizer, loss, X, Y = training
        result = made(
            lambda: autolr.AutoLRTuner(model, loss, optimizer, rng=0).tune(X, Y, **options), model, optimizer, X, Y
        )
        outcomes[type(result).__name__] += 1
        if isinstance(result, autolr.TuningResult):
            record = result.differentials
            assert record.num_subsamples >= 2
            assert np.isfinite(record.loss_pre).all()
            assert not np.isneginf(record.loss_post).any()
            assert options.get("adaptive") or not np.isnan(record.loss_post).any()
            made(result.suggest, model, optimizer, X, Y)
            assert str(result)

    fuzz()
    assert outcomes.total() >= 200
    assert outcomes["TuningResult"] >= 50


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_any_other_call_works_or_is_refused_in_words():
    outcomes = Counter()

    @settings(fuzzed, max_examples=120)
    @given(trainings(), st.sampled_from(["find_lr", "range", "curve", "taylor", "compare"]), counts, grids)
    def fuzz(training, name, count, rates):
        model, optimizer, loss, X, Y = training
        calls = {
            "find_lr": lambda: autolr.find_lr(
                model, loss, optimizer, (X, Y), total_steps=count, max_evaluations=10, num_streams=max(1, count - 1)
            ),
            "range": lambda: autolr.lr_range_test(
                model, loss, optimizer, (X, Y), num_iter=4 * count, num_repeats=max(1, count - 1)
            ),
            "curve": lambda: autolr.loss_by_learning_rate(model, loss, optimizer, X, Y, rates),
            "taylor": lambda: autolr.taylor_expansion(model, loss, optimizer, X, Y),
            "compare": lambda: autolr.compare_schedules(
                lambda: model, loss, lambda _: optimizer, (X, Y),
                schedules=["constant", "cosine"], learning_rate=0.1, num_epochs=count, num_repeats=2,
            ),
        }  # fmt: skip
        result = made(calls[name], model, optimizer, X, Y)
        outcomes[name, isinstance(result, Exception)] += 1
        if isinstance(result, autolr.RangeTest):
            made(result.suggest, model, optimizer, X, Y)

    fuzz()
    assert min(outcomes[name, False] for name, _ in outcomes) >= 3

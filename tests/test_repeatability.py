"""The same call gives the same bits; another engine, or another number of threads, the same losses to a millionth."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from harness import quiet
from restore_cases import CALLS, MODELS, RATES, make_case, range_test, tuning
from torch import nn

import autolr

BY_THE_CLOCK = ("tune, auto", "tune, warm-up", "extend", "loss_by_learning_rate", "taylor_expansion", "hook, tune")


def numbers(result):
    """Return every number that a call has measured or decided, as one array."""
    if isinstance(result, autolr.Suggestion):
        own = [result.learning_rate, result.low, result.high, result.score]
        return np.concatenate([own, numbers(result.evidence)])
    if isinstance(result, autolr.TuningResult):
        record = result.differentials
        return np.concatenate([record.loss_pre, record.loss_post.ravel()])
    if isinstance(result, autolr.TaylorExpansion):
        return np.array([result.loss, result.slope, result.curvature, *result.losses])
    if isinstance(result, autolr.SecondOrderLR):
        return np.array(result.get_last_lr())
    frames = {autolr.SearchResult: "trace", autolr.RangeTest: "runs", autolr.ScheduleComparison: "history"}
    value = getattr(result, frames[type(result)]) if type(result) in frames else result
    return value.select_dtypes("number").to_numpy().ravel() if isinstance(value, pd.DataFrame) else np.asarray(value)


SEEDED = {
    **CALLS,
    "lr_range_test": partial(range_test, rng=0),
    "lr_range_test, from the global generators": partial(range_test, num_repeats=1),
}


def called(call, model="transformer with dropout"):
    case = make_case("Adam", model, warm=True)
    torch.manual_seed(5)  # a range test without rng begins from the global generators
    with quiet():
        return numbers(call(case))


@pytest.mark.parametrize("name", SEEDED)
def test_the_same_call_gives_the_same_bits(name):
    first, second = called(SEEDED[name]), called(SEEDED[name])
    assert first.size > 0
    if name in BY_THE_CLOCK:  # which engine is the fastest may differ
        np.testing.assert_allclose(second, first, rtol=1e-5)
    else:
        np.testing.assert_array_equal(second, first)


@pytest.mark.parametrize("engine", ["step", "line", "batched"])
def test_an_explicit_engine_gives_the_same_bits(engine):
    call = tuning(engine=engine, warmup_steps=2)
    np.testing.assert_array_equal(called(call), called(call))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("options", [{}, {"horizon": 2}, {"evaluation": "subsample"}], ids=str)
def test_all_engines_agree_to_a_millionth_of_the_loss(model, options):
    optimizer = "SGD" if model == "sparse embedding" else "AdamW"
    losses = []
    for engine in ("step", "line", "batched", "auto"):
        case = make_case(optimizer, model, warm=True)
        with quiet():
            losses.append(tuning(engine=engine, **options)(case).differentials)
    for other in losses[1:]:
        np.testing.assert_allclose(other.loss_pre, losses[0].loss_pre, rtol=1e-6)
        np.testing.assert_allclose(other.loss_post, losses[0].loss_post, rtol=1e-6)


def of_threads(num_threads, call):
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 200), nn.BatchNorm1d(200), nn.Tanh(), nn.Dropout(0.1), nn.Linear(200, 5))
        optimizer = torch.optim.Adam(model.double().parameters(), lr=1e-3)
        X, Y = torch.randn(400, 64, dtype=torch.float64), torch.randint(5, (400,))
        with quiet():
            return numbers(call(model, nn.CrossEntropyLoss(), optimizer, X, Y))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "call",
    [
        lambda *training: autolr.AutoLRTuner(*training[:3], rng=0).tune(
            *training[3:], learning_rates=RATES, num_subsamples=2, batch_size=180, engine="line"
        ),
        lambda *training: autolr.loss_by_learning_rate(*training, RATES, rng=0, engine="step"),
        lambda *training: autolr.taylor_expansion(*training, rng=0, learning_rates=RATES),
        lambda *training: autolr.lr_range_test(
            *training[:3], training[3:], num_iter=5, end_lr=0.1, batch_size=180, rng=0
        ),
        lambda *training: autolr.find_lr(
            *training[:3], training[3:], total_steps=5, batch_size=180, max_evaluations=10, rng=0
        ),
    ],
    ids=["tune", "loss_by_learning_rate", "taylor_expansion", "lr_range_test", "find_lr"],
)
def test_two_threads_give_the_numbers_of_one_to_a_millionth(call):
    np.testing.assert_allclose(of_threads(2, call), of_threads(1, call), rtol=1e-6)

"""Trajectories side by side: the losses of training loops, for all that can be stacked; a reason for what cannot."""

import logging
import math
from contextlib import contextmanager
from functools import partial

import model_cases
import numpy as np
import pytest
import stateful_cases
import torch
from engine_cases import F64, classes, cross_entropy, make_case, mlp, train
from harness import unchanged
from torch import nn

from autolr import AutoLRTuner, log_grid
from autolr.batches import MicroBatches
from autolr.param_groups import base_learning_rates
from autolr.probing import stacked
from autolr.probing.forwards import distance
from autolr.probing.objective import Objective
from autolr.probing.random_state import ForkedRandomness
from autolr.probing.rows import probe_rows
from autolr.probing.stacked import Stack
from autolr.probing.start import Start
from autolr.probing.state import preserved_state
from autolr.probing.trajectory import probe_by_trajectories

RATES = np.geomspace(1e-4, 1.0, 7)
HORIZONS = np.array([1, 2, 4])
MANY = np.geomspace(1e-4, 1.0, 24)


def seed(row, step=0):
    return np.random.SeedSequence(7, spawn_key=(row, step))


@contextmanager
def started(case, **options):
    """Yield the start of all probes of a case, and assert that nothing is changed."""
    with unchanged(case.model, case.optimizer, extra=case.extra):
        parameters = {id(p): p for p in case.model.parameters() if p.requires_grad}
        objective = Objective(case.model, None, case.compute_loss, list(parameters.values()), **options)
        with preserved_state(*objective.modules(), case.optimizer) as snapshot:
            randomness = ForkedRandomness([])
            randomness.fork(seed(0))
            objective.check(case.evaluation_batch)
            yield Start(objective, case.optimizer, snapshot, randomness, base_learning_rates(case.optimizer))


def batches_like(case, num=4):
    x, y = case.batch
    orders = [torch.randint(len(x), (len(x),)) for _ in range(num)]
    return [(x[order], y[order]) for order in orders]


def both(case, rates=RATES, batches=None, **options):
    """Return the losses by the loop, and by the stack."""
    batches = batches_like(case) if batches is None else batches
    with started(case, **options) as start:
        row = partial(seed, 3)
        _, real = probe_by_trajectories(start, rates, HORIZONS, batches, case.evaluation_batch, seed=row)
        stack = Stack(start, HORIZONS)
        assert stack.objection(batches[0]) is None
        return real, stack.losses(rates, batches, case.evaluation_batch, row)


def objection(case, **options):
    with started(case, **options) as start:
        return Stack(start, HORIZONS).objection(case.batch)


def transformer(dropout):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=dropout, batch_first=True)
    return make_case(nn.Sequential(layer, nn.Flatten(), nn.Linear(32, 3)), batches=classes(6, 4, 8))


OPTIMIZERS = {
    "SGD": torch.optim.SGD,
    "SGD with all options": partial(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=0.1, maximize=True),
    "dampened": partial(torch.optim.SGD, momentum=0.9, dampening=0.2),
    "Adam": partial(torch.optim.Adam, amsgrad=True, weight_decay=0.1),
    "AdamW": torch.optim.AdamW,
    "AdamW fused": partial(torch.optim.AdamW, fused=True),
    "NAdam": torch.optim.NAdam,
    "RAdam": partial(torch.optim.RAdam, decoupled_weight_decay=True, weight_decay=0.1),
    "Adamax": torch.optim.Adamax,
    "Adagrad": partial(torch.optim.Adagrad, lr_decay=0.1),
    "Adadelta": torch.optim.Adadelta,
    "RMSprop": partial(torch.optim.RMSprop, momentum=0.9, centered=True),
}
CASES = {
    "dropout": model_cases.dropout,
    "BatchNorm": model_cases.batch_norm_convolutions,
    "mixed modes": model_cases.mixed_modes,
    "tied weights": model_cases.tied_weights,
    "groups": model_cases.groups_with_rates_of_their_own,
    "rate as a tensor": model_cases.rate_as_a_tensor,
    "warm-up at zero": model_cases.warmup_scheduler_at_zero,
    "frozen": model_cases.frozen_parameters_with_stale_gradients,
    "transformer": lambda: transformer(dropout=0.0),
    "weight norm": model_cases.weight_norm,
    "expanded buffer": model_cases.expanded_buffer,
    "draws everywhere": stateful_cases.draws_from_every_generator,
}


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_slice_is_a_training_at_its_rate(name, warm):
    model = mlp()
    case = make_case(model, OPTIMIZERS[name](model.parameters(), lr=0.1))
    real, found = both(train(case) if warm else case)
    np.testing.assert_allclose(found, real, rtol=1e-9)
    assert len(np.unique(real)) == real.size


@pytest.mark.parametrize("name", CASES)
def test_models_and_groups_that_are_not_plain(name):
    torch.manual_seed(1)
    case = CASES[name]()
    real, found = both(case, batches=batches_like(case))
    np.testing.assert_allclose(found, real, rtol=1e-9)


def test_only_some_groups_are_tuned():
    model = mlp()
    groups = [{"params": model[0].parameters(), "lr": 0.02}, {"params": model[2].parameters(), "lr": 0.1}]
    case = make_case(model, torch.optim.AdamW(groups))
    batches = batches_like(case)
    with started(case) as start:
        start = Start(start.objective, start.optimizer, start.snapshot, start.randomness, start.base, groups=(1,))
        _, real = probe_by_trajectories(start, RATES, HORIZONS, batches, case.evaluation_batch, seed=partial(seed, 0))
        stack = Stack(start, HORIZONS)
        found = stack.losses(RATES, batches, case.evaluation_batch, partial(seed, 0))
    np.testing.assert_allclose(found, real, rtol=1e-9)


def test_the_gradients_of_micro_batches_add_up():
    case = model_cases.dropout()
    parts = batches_like(case, 12)
    batches = [MicroBatches(parts[first : first + 3]) for first in range(0, 12, 3)]
    real, found = both(case, batches=batches)
    np.testing.assert_allclose(found, real, rtol=1e-9)


def test_a_batch_may_be_a_dict_and_a_parameter_may_be_unused_or_a_scalar():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.unused = nn.Linear(5, 3), nn.Linear(2, 2)
            self.scale = nn.Parameter(torch.tensor(1.5))

        def forward(self, x):
            return self.scale * self.linear(x)

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch["x"]), batch["y"])

    pairs = [dict(zip("xy", pair, strict=True)) for pair in (*classes(8, 5), *classes(8, 5))]
    model = Scaled().to(F64)
    case = make_case(model, torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5), loss, pairs[:2])
    real, found = both(train(case), batches=pairs)
    np.testing.assert_allclose(found, real, rtol=1e-9)


def test_a_slice_that_diverges_does_so_after_the_same_steps_and_leaves_the_others_alone():
    # in one dimension, at x = 1: w is multiplied by 1 - 2 lr in each step, and overflows when squared above 1e154
    case = make_case(nn.Linear(1, 1, bias=False), None, lambda model, batch: model(batch[0]).square().mean())
    case.batch = case.evaluation_batch = torch.ones(4, 1, dtype=F64), torch.ones(4)
    rates = np.array([0.1, 0.2, 1e30, 1e60, 1e100, 1e200])
    real, found = both(case, rates)
    np.testing.assert_array_equal(np.isinf(found), np.isinf(real))
    np.testing.assert_array_equal(np.isinf(found).sum(axis=1), [0, 0, 0, 1, 2, 3])
    np.testing.assert_allclose(found[:2], real[:2], rtol=1e-9)
    weight = float(case.model.weight.detach())
    np.testing.assert_allclose(found[0], (weight * 0.8**HORIZONS) ** 2, rtol=1e-9)


def test_where_all_slices_have_diverged_the_training_ends():
    calls = []

    def loss(model, batch):
        calls.append(None)
        return model(batch[0]).square().mean()

    case = make_case(nn.Linear(1, 1, bias=False), None, loss)
    case.batch = case.evaluation_batch = torch.ones(4, 1, dtype=F64), torch.ones(4)
    with started(case) as start:
        calls.clear()
        batches = [case.batch] * 4
        found = Stack(start, HORIZONS[-1:]).losses(np.array([1e200]), batches, case.batch, partial(seed, 0))
    assert np.isinf(found).all()
    assert len(calls) == 2  # the second step begins with a loss that is not finite


def test_chunks_bound_the_memory_and_shrink_where_it_is_short(monkeypatch):
    case = make_case(mlp())
    batches, sizes = batches_like(case), []

    class Short(stacked._Slices):
        def __init__(self, start, parameters, rates):
            sizes.append(len(rates))
            if len(rates) > 2:
                raise torch.OutOfMemoryError("short")
            super().__init__(start, parameters, rates)

    monkeypatch.setattr(stacked, "_Slices", Short)
    with started(case) as start:
        stack = Stack(start, HORIZONS)
        assert stack.objection(batches[0]) is None
        found = stack.losses(RATES, batches, case.evaluation_batch, partial(seed, 0))
        _, real = probe_by_trajectories(start, RATES, HORIZONS, batches, case.evaluation_batch, seed=partial(seed, 0))
        assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]
        monkeypatch.setattr(stacked, "_ROOM", {"cpu": 1})
        stack.objection(batches[0])
        sizes.clear()
        stack.losses(RATES, batches, case.evaluation_batch, partial(seed, 0))
        assert sizes == [1] * 7
    np.testing.assert_allclose(found, real, rtol=1e-9)


def half():
    case = make_case(mlp())
    case.model.to(torch.bfloat16)
    case.compute_loss = lambda model, batch: nn.functional.cross_entropy(model(batch[0].bfloat16()).float(), batch[1])
    return case


def backward_hook():
    case = make_case(mlp())
    case.model[0].register_full_backward_hook(lambda *_: None)
    return case


def gradient_hook():
    case = make_case(mlp())
    case.model[0].weight.register_hook(lambda gradient: 2 * gradient)
    return case


def forward_hook():
    case = make_case(mlp())
    case.model[0].register_forward_hook(lambda *_: None)
    return case


def optimizer_of(make):
    model = mlp()
    return make_case(model, make(model.parameters(), lr=0.1))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: optimizer_of(torch.optim.LBFGS), "LBFGS is not known to be linear"),
        (lambda: optimizer_of(torch.optim.ASGD), "ASGD is not known to be linear"),
        (lambda: optimizer_of(torch.optim.Rprop), "Rprop is not known to be linear"),
        (model_cases.clipping_hook, "SGD is not known to be linear in the rate, or has hooks"),
        (model_cases.sparse_embedding, "a gradient is sparse"),
        (model_cases.spectral_norm, "a forward leaves something in the modules"),
        (model_cases.rebound_buffer, "a forward leaves something in the modules"),
        (stateful_cases.counter_that_changes_the_behaviour, "a forward leaves something in the modules"),
        (half, "torch.bfloat16 is too coarse"),
        (backward_hook, "the model has backward hooks"),
        (gradient_hook, "parameters have hooks"),
        (forward_hook, "the model has forward hooks"),
    ],
)
def test_what_cannot_be_stacked_has_a_reason(make, reason):
    torch.manual_seed(1)
    assert reason in objection(make())


def test_clipping_and_scaling_have_a_reason():
    clip = partial(nn.utils.clip_grad_norm_, max_norm=1.0)
    assert objection(make_case(mlp()), clip=lambda p: clip(p) and None) == "gradients are clipped"
    scaler = torch.amp.GradScaler("cpu")
    assert objection(make_case(mlp()), scaler=scaler) == "gradients are scaled"


def rows_of(case, engine, rates=MANY, num_rows=8, **options):
    """Return rows as a tuning has them probed."""
    rows = [batches_like(case, 5) for _ in range(num_rows)]
    with started(case, **options) as start:

        def draw(row):
            start.randomness.fork(seed(row))
            return rows[row]

        return [
            probe_rows(start, rates, draw, range(num_rows), engine=name, horizons=HORIZONS, seed=seed)
            for name in ("step", engine)
        ]


@pytest.mark.parametrize("engine", ["auto", "batched"])
def test_rows_side_by_side_are_those_of_the_loop(engine):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 3)).to(F64)
    real, found = rows_of(make_case(model, torch.optim.AdamW(model.parameters(), lr=0.1)), engine)
    assert (real.engine, found.engine) == ("step", "batched")
    assert found.engine_reason.startswith("side by side, verified against real steps at all rates of the first row")
    np.testing.assert_array_equal(found.loss_pre, real.loss_pre)
    np.testing.assert_allclose(found.loss_post, real.loss_post, rtol=1e-6)


class Branches(nn.Linear):
    def forward(self, x):
        y = super().forward(x)
        return y if y.sum() > 0.0 else 2.0 * y


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: make_case(Branches(5, 3)), "RuntimeError: "),
        (model_cases.clipping_hook, "SGD is not known to be linear"),
    ],
)
@pytest.mark.parametrize(("engine", "level"), [("auto", logging.INFO), ("batched", logging.WARNING)])
def test_what_steps_aside_is_trained_by_real_steps(make, reason, engine, level, caplog):
    torch.manual_seed(1)
    with caplog.at_level(logging.INFO, logger="autolr"):
        real, found = rows_of(make(), engine)
    np.testing.assert_allclose(found.loss_post, real.loss_post, rtol=1e-6)
    assert found.engine == "step"
    assert f"batched stepped aside: {reason}" in found.engine_reason
    assert [record.levelno for record in caplog.records] == [level]
    assert "The rates are trained one after the other: " in caplog.text


def test_masks_that_are_others_side_by_side_are_seen():
    torch.manual_seed(1)
    real, found = rows_of(transformer(dropout=0.2), "batched", num_rows=2)  # attention draws others under torch.vmap
    assert found.engine == "step"
    assert "batched stepped aside: the losses at " in found.engine_reason
    np.testing.assert_array_equal(found.loss_post, real.loss_post)


@pytest.mark.parametrize(("num_rows", "num_rates"), [(7, 24), (8, 19)])
def test_few_rows_or_rates_are_not_worth_it(num_rows, num_rates):
    _, found = rows_of(make_case(mlp()), "auto", MANY[:num_rates], num_rows)
    assert (found.engine, found.engine_reason) == ("step", "several steps are real steps")


def test_a_stack_that_is_wrong_from_some_row_on_is_left_out(monkeypatch):
    calls, losses = [], Stack.losses

    def wrong(self, rates, *row):
        calls.append(len(rates))
        return losses(self, rates, *row) * (1.0 + (1e-4 if len(calls) > 4 else 0.0))

    monkeypatch.setattr(Stack, "losses", wrong)
    real, found = rows_of(make_case(mlp()), "batched")
    assert found.engine == "step"
    assert "batched stepped aside: the losses at" in found.engine_reason
    np.testing.assert_allclose(found.loss_post, real.loss_post, rtol=1e-12)


def test_a_stack_that_is_wrong_on_the_last_row_only_is_not_used_at_all(monkeypatch):
    calls, losses = [], Stack.losses

    def wrong(self, rates, *row):
        calls.append(len(rates))
        return losses(self, rates, *row) * (1.0 + (1e-4 if len(calls) == 10 else 0.0))  # the first, eight, the last

    monkeypatch.setattr(Stack, "losses", wrong)
    real, found = rows_of(make_case(mlp()), "batched")
    assert found.engine == "step"
    np.testing.assert_array_equal(found.loss_post, real.loss_post)


def off_by(monkeypatch, columns, size=1e-3, rows=range(100)):
    """Let the stack be off at some rates in some of its calls, the first being the check of the first row."""
    losses, count = Stack.losses, iter(range(100))

    def wrong(self, rates, *row):
        found, call = losses(self, rates, *row), next(count)
        index = [i for i, rate in enumerate(rates) if np.flatnonzero(rate == MANY)[0] in columns and call in rows]
        found[index] += size
        return found

    monkeypatch.setattr(Stack, "losses", wrong)


@pytest.mark.parametrize(("columns", "ends"), [(range(18, 24), "0.135 to 1"), (range(14, 17), "0.0272 to 0.0606")])
def test_rates_at_which_rounding_is_amplified_are_trained_by_real_steps(monkeypatch, columns, ends):
    off_by(monkeypatch, columns)
    real, found = rows_of(make_case(mlp()), "batched")
    assert found.engine == "batched"
    np.testing.assert_allclose(found.loss_post, real.loss_post, rtol=1e-9)
    assert found.engine_reason.endswith(f"real steps from {ends}, where rounding is amplified")


def test_real_steps_reach_down_to_where_rounding_is_not_amplified(monkeypatch):
    off_by(monkeypatch, range(18, 24), rows=range(1, 100))
    real, found = rows_of(make_case(mlp()), "batched")
    assert found.engine == "batched"
    np.testing.assert_allclose(found.loss_post, real.loss_post, rtol=1e-9)


def test_a_single_rate_that_is_off_takes_no_others_with_it(monkeypatch):
    off_by(monkeypatch, [9], rows=[0])
    real, found = rows_of(make_case(mlp()), "batched")
    assert found.engine == "batched"
    assert "amplified" not in found.engine_reason
    np.testing.assert_allclose(found.loss_post, real.loss_post, rtol=1e-9)


def test_what_is_slower_by_far_is_not_tried_further(monkeypatch):
    losses, clock = Stack.losses, iter(np.arange(0.0, 1e6, 0.25))
    now = [0.0]
    monkeypatch.setattr("autolr.probing.stacked_rows.time.perf_counter", lambda: now[0] + 1e-3 * next(clock))

    def slow(self, *row):
        now[0] += 1e3
        return losses(self, *row)

    monkeypatch.setattr(Stack, "losses", slow)
    _, found = rows_of(make_case(mlp()), "auto")
    assert found.engine == "step"
    assert "times slower" in found.engine_reason


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [1, 4, 40, 200])
def test_an_error_of_the_users_passes_and_leaves_nothing(error, call):
    calls = []

    def loss(model, batch):
        calls.append(None)
        if len(calls) == call + 1:
            raise error("mine")
        return cross_entropy(model, batch)

    case = make_case(model_cases.dropout().model, None, loss)
    with pytest.raises(error, match="mine"):
        rows_of(case, "batched")


def test_a_tuning_of_several_steps_side_by_side(rng):
    X = torch.tensor(rng.normal(size=(200, 5)))
    Y = torch.tensor(rng.integers(3, size=200))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 3)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    results = {}
    for engine in ("step", "batched"):
        tuner = AutoLRTuner(model, nn.CrossEntropyLoss(), optimizer, rng=0, accumulation_steps=2)
        with unchanged(model, optimizer, scheduler=scheduler):
            results[engine] = tuner.tune(
                X,
                Y,
                learning_rates=log_grid(1e-3, 1.0, 20),
                num_subsamples=8,
                batch_size=8,
                horizon=[1, 4],
                engine=engine,
            )
    assert results["batched"].settings["engine"] == "batched"
    post = {engine: result.differentials.loss_post for engine, result in results.items()}
    np.testing.assert_allclose(post["batched"], post["step"], rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "real", "expected"),
    [
        (1.0, 1.0, 0.0),
        (0.1, 0.1 + 2e-6, 2.0),
        (-3e6, -3e6 - 3.0, 1.0),
        (math.inf, 1.0, math.inf),
        (1.0, math.inf, math.inf),
    ],
)
def test_the_distance_of_losses_is_in_units_of_what_is_allowed(loss, real, expected):
    assert distance(loss, real, 0.0) == pytest.approx(expected, rel=1e-5)
    assert distance(math.nan, math.inf, 0.0) == 0.0

"""Autocast, a scaler, accumulation, clipping and groups: probes take the step that the user's training takes."""

import copy

import numpy as np
import oracles
import pytest
import torch
from harness import unchanged
from torch import nn

from autolr import AutoLRTuner, find_lr, lr_range_test

RATES = np.array([1e-3, 1e-2, 0.1, 1.0])
X = torch.randn(200, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = X.sum(1, keepdim=True).tanh()


def network(dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch.Generator().manual_seed(0).get_state())
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).to(dtype)


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), lr=0.1, **options)


def tuned(model, optimizer, data=(X, Y), *, engine="step", evaluation="independent", loss_fn=None, **options):
    tuner = AutoLRTuner(model, loss_fn or nn.MSELoss(), optimizer, rng=0, **options)
    with unchanged(model, optimizer, extra=list(options.values())):
        return tuner.tune(
            *data, learning_rates=RATES, num_subsamples=4, batch_size=8, engine=engine, evaluation=evaluation
        )


@pytest.mark.parametrize("engine", ["step", "line", "batched"])
def test_accumulated_micro_batches_are_the_batch_that_they_make_up(engine):
    batches = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 96, 8)]
    whole = [tuple(torch.cat(parts) for parts in zip(*batches[i : i + 2], strict=True)) for i in (0, 3, 6, 9)]
    evaluations = batches[2::3]
    losses = []
    for given, steps in ((batches, 2), ([b for pair in zip(whole, evaluations, strict=True) for b in pair], 1)):
        model = network()
        tuner = AutoLRTuner(model, nn.MSELoss(), sgd(model, momentum=0.9), rng=0, accumulation_steps=steps)
        result = tuner.tune(given, learning_rates=RATES, num_subsamples=4, engine=engine)
        assert result.settings["engine"] == engine or engine == "batched"
        losses.append(result.differentials)
    assert losses[0].num_subsamples == losses[1].num_subsamples == 4
    np.testing.assert_allclose(losses[0].delta, losses[1].delta, rtol=1e-9, atol=1e-12)


def test_a_row_of_arrays_takes_a_subsample_for_each_micro_batch_and_the_costs_count_them():
    seen = []

    def compute_loss(model, batch):
        seen.append((torch.is_grad_enabled(), batch[0]))
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    model = network()
    tuner = AutoLRTuner(model, optimizer=sgd(model), compute_loss=compute_loss, rng=0, accumulation_steps=3)
    result = tuner.tune(
        X, Y, learning_rates=[0.1], num_subsamples=2, batch_size=8, engine="step", evaluation="subsample"
    )
    gradients = [batch for has_grad, batch in seen if has_grad]
    assert result.settings["num_gradients"] == len(gradients) == 6
    assert len(torch.cat(gradients[:3]).unique(dim=0)) == 24
    assert "2 subsamples of 3 x 8 " in str(result)


@pytest.mark.parametrize("horizon", [1, 3])
def test_a_function_that_clips_does_what_a_hook_of_the_optimizer_does(horizon):
    def clip(parameters):
        nn.utils.clip_grad_norm_(list(parameters), 1e-3)

    model = network()
    optimizer = sgd(model)
    hooked = sgd(model)
    hooked.register_step_pre_hook(lambda optimizer, *_: clip(optimizer.param_groups[0]["params"]))
    options = {"learning_rates": RATES, "num_subsamples": 4, "batch_size": 8, "horizon": horizon}
    by_function = AutoLRTuner(model, nn.MSELoss(), optimizer, rng=0, clip=clip).tune(X, Y, **options)
    by_hook = AutoLRTuner(model, nn.MSELoss(), hooked, rng=0).tune(X, Y, **options)
    without = AutoLRTuner(model, nn.MSELoss(), optimizer, rng=0).tune(X, Y, **options)
    np.testing.assert_allclose(by_function.differentials.delta, by_hook.differentials.delta, rtol=1e-7, atol=1e-12)
    assert not np.allclose(by_function.differentials.delta, without.differentials.delta, rtol=1e-2)


def test_losses_are_computed_within_the_users_autocast_for_which_the_line_steps_aside():
    dtypes = set()

    def loss_fn(output, target):
        dtypes.add(output.dtype)
        return nn.functional.mse_loss(output.float(), target)

    model = network(torch.float32)
    data, autocast = (X.float(), Y.float()), lambda: torch.autocast("cpu", torch.bfloat16)
    options = {"loss_fn": loss_fn, "autocast": autocast}
    optimizer = sgd(model)
    fast, slow = (tuned(model, optimizer, data, engine=engine, **options) for engine in ("auto", "step"))
    assert dtypes == {torch.bfloat16}
    assert fast.settings["autocast"]
    assert fast.settings["engine"] == "step"
    assert "autocast rounds the weights to torch.bfloat16" in fast.settings["engine_reason"]
    np.testing.assert_array_equal(fast.differentials.delta, slow.differentials.delta)


def test_the_loss_within_autocast_is_that_of_a_loop_by_hand():
    model, autocast = network(torch.float32), lambda: torch.autocast("cpu", torch.bfloat16)
    batches = [(X[i : i + 8].float(), Y[i : i + 8].float()) for i in range(0, 32, 8)]
    tuner = AutoLRTuner(model, nn.MSELoss(), sgd(model), autocast=autocast)
    result = tuner.tune(batches, learning_rates=[0.1], num_subsamples=2, engine="step")
    for row in range(2):
        (x, y), (x_post, y_post) = batches[2 * row : 2 * row + 2]
        copied = copy.deepcopy(model)
        with autocast():
            loss = nn.functional.mse_loss(copied(x), y)
        loss.backward()
        sgd(copied).step()
        with autocast(), torch.no_grad():
            assert float(nn.functional.mse_loss(copied(x_post), y_post)) == result.differentials.loss_post[row, 0, 0]


class Half(nn.Module):
    """A network whose gradients underflow in half precision, or overflow, unless the loss is scaled well."""

    def __init__(self, size):
        super().__init__()
        self.weight, self.size = nn.Parameter(torch.ones(4, 1)), size

    def forward(self, x):
        return (self.size * (x.half() @ self.weight.half())).float()


@pytest.mark.parametrize("scale", [2.0**16, 2.0**24])
def test_a_scaler_keeps_gradients_of_half_precision_alive_and_its_state_untouched(scale):
    model = Half(1.0)
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    before = copy.deepcopy(scaler.state_dict())

    def tiny(output, target):
        return 1e-9 * (output - target).square().mean()

    data = (X.float(), Y.float())
    scaled = tuned(model, optimizer, data, loss_fn=tiny, scaler=scaler, clip=lambda p: _times(p, 1e9))
    unscaled = tuned(model, optimizer, data, loss_fn=tiny, clip=lambda p: _times(p, 1e9))
    assert scaler.state_dict() == before
    assert scaled.settings["scaler"]
    assert (unscaled.differentials.delta == 0.0).all()  # half precision has no such small numbers
    assert (scaled.differentials.delta[:, 1] < 0.0).all()


def _times(parameters, factor):
    for parameter in parameters:
        parameter.grad.mul_(factor)


def test_a_scale_at_which_gradients_overflow_is_halved_until_they_do_not():
    model, plain = Half(1.0), Half(1.0)
    data = (X.float(), Y.float())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    scaled = tuned(model, sgd(model), data, scaler=scaler)
    assert np.isfinite(scaled.differentials.delta).all()
    assert scaler.get_scale() == 2.0**40
    np.testing.assert_allclose(
        scaled.differentials.delta, tuned(plain, sgd(plain), data).differentials.delta, rtol=1e-2, atol=1e-5
    )


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_scaled_gradients_are_those_without_a_scaler(accumulation_steps):
    model = network(torch.float32)
    data, optimizer = (X.float(), Y.float()), sgd(model)
    both = [
        tuned(model, optimizer, data, accumulation_steps=accumulation_steps, scaler=scaler)
        for scaler in (None, torch.amp.GradScaler("cpu"))
    ]
    np.testing.assert_array_equal(both[0].differentials.loss_post, both[1].differentials.loss_post)


@pytest.mark.parametrize("init_scale", [2.0**16, 2.0**140])
def test_a_scaler_may_be_used_with_compiled_models_whose_graph_serves_once(init_scale):
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Dropout(0.3), network(torch.float32))
    data = (X.float(), Y.float())
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager")
    compiled(data[0][:8]).sum().backward()  # so that its backward is compiled as one that comes once
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
    scaled = tuned(compiled, sgd(compiled), data, scaler=scaler)
    np.testing.assert_allclose(
        scaled.differentials.loss_post, tuned(model, sgd(model), data).differentials.loss_post, rtol=1e-5
    )


def test_a_loss_that_is_computed_again_for_its_scale_has_the_same_masks_and_buffers():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    data, optimizer = (X.float(), Y.float()), sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**140)
    options = {"learning_rates": RATES, "num_subsamples": 3, "batch_size": 8, "horizon": 3}
    scaled, plain = (
        AutoLRTuner(model, nn.MSELoss(), optimizer, rng=0, accumulation_steps=2, scaler=given).tune(*data, **options)
        for given in (scaler, None)
    )
    np.testing.assert_array_equal(scaled.differentials.loss_post, plain.differentials.loss_post)
    assert scaled.settings["num_gradients"] > plain.settings["num_gradients"]


def test_sparse_gradients_are_scaled_too():
    model = nn.Sequential(nn.EmbeddingBag(50, 4, sparse=True), nn.Linear(4, 3))
    tokens = (50.0 * X[:, :1].sigmoid()).long().expand(-1, 6)
    data, loss_fn = (tokens, tokens[:, 0] % 3), nn.CrossEntropyLoss()
    for accumulation_steps in (1, 2):
        losses = [
            tuned(model, sgd(model), data, loss_fn=loss_fn, accumulation_steps=accumulation_steps, scaler=scaler)
            for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**140))
        ]
        np.testing.assert_array_equal(*(result.differentials.loss_post for result in losses))


def groups_of(model):
    return torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.01}, {"params": model[2].parameters(), "lr": 0.04}], momentum=0.9
    )


def test_groups_that_are_not_tuned_step_at_their_own_rates():
    model = network()
    optimizer = groups_of(model)
    batches = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 32, 8)]
    tuner = AutoLRTuner(model, nn.MSELoss(), optimizer, groups=[1])
    with unchanged(model, optimizer):
        result = tuner.tune(batches, learning_rates=RATES, num_subsamples=2)
    assert result.settings["groups"] == [1]
    for row in range(2):
        for k, rate in enumerate(RATES):
            copied = copy.deepcopy(model)
            own = groups_of(copied)
            own.param_groups[1]["lr"] = rate
            nn.functional.mse_loss(copied(batches[2 * row][0]), batches[2 * row][1]).backward()
            own.step()
            loss = float(nn.functional.mse_loss(copied(batches[2 * row + 1][0]), batches[2 * row + 1][1]).detach())
            assert result.differentials.loss_post[row, k, 0] == pytest.approx(loss, rel=1e-9)


def test_a_rate_of_some_groups_is_applied_to_these():
    model = network()
    optimizer = groups_of(model)
    tuner = AutoLRTuner(model, nn.MSELoss(), optimizer, groups=1, rng=0)
    tuner.tune(X, Y, learning_rates=RATES, num_subsamples=20, batch_size=8)
    suggestion = tuner.suggest()
    suggestion.apply(optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, suggestion.learning_rate]
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with pytest.raises(ValueError, match=r"`scheduler` must be None where only the groups \(1,\) were tuned"):
        suggestion.apply(optimizer, scheduler)
    with pytest.raises(ValueError, match=r"`name` must be of the groups \[1\] only, which were tuned"):
        suggestion.scheduler(optimizer, "cosine", total_steps=10)
    with pytest.raises(ValueError, match="`groups` must be different numbers of parameter groups, 0 to 0"):
        suggestion.apply(sgd(model))


def test_a_search_trains_as_the_user_does():
    model = network()
    optimizer = groups_of(model)
    calls = []

    def clip(parameters):
        calls.append(len(parameters))
        nn.utils.clip_grad_norm_(list(parameters), 0.5)

    options = {"accumulation_steps": 2, "clip": clip, "groups": [1], "scaler": torch.amp.GradScaler("cpu")}
    with unchanged(model, optimizer):
        suggestion = find_lr(
            model,
            nn.MSELoss(),
            optimizer,
            (X, Y),
            total_steps=500,
            effort="fast",
            batch_size=8,
            rng=0,
            autocast=lambda: torch.autocast("cpu", enabled=False),
            **options,
        )
    assert suggestion.evidence.settings["accumulation_steps"] == 2
    assert suggestion.evidence.settings["num_gradients"] == 2 * len(calls)
    suggestion.apply(optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, suggestion.learning_rate]


def test_every_loss_of_a_search_is_that_of_a_loop_that_trains_so():
    def clip(parameters):
        nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], 0.05)

    def make():
        model = network(torch.float32)
        return model, groups_of(model), compute_loss, [model]

    def compute_loss(model, batch):
        with torch.autocast("cpu", torch.bfloat16):
            return nn.functional.mse_loss(model(batch[0]).float(), batch[1])

    def set_rate(optimizer, rate):
        optimizer.param_groups[1]["lr"] = rate

    data = [(X[i : i + 8].float(), Y[i : i + 8].float()) for i in range(0, 160, 8)]
    model, optimizer, _, _ = make()
    scaler = torch.amp.GradScaler("cpu")
    with unchanged(model, optimizer, extra=scaler.state_dict()):
        suggestion = find_lr(
            model,
            lambda output, target: nn.functional.mse_loss(output.float(), target),
            optimizer,
            data[4:],
            val_data=data[:4],
            total_steps=30,
            autocast=lambda: torch.autocast("cpu", torch.bfloat16),
            accumulation_steps=2,
            clip=clip,
            groups=[1],
            scaler=scaler,
        )
    trace = suggestion.evidence.trace
    options = {"accumulation_steps": 2, "clip": clip, "set_rate": set_rate}
    expected = oracles.search_by_hand(make, trace, data[4:], data[:4], **options)
    np.testing.assert_allclose(trace["loss"], expected, rtol=1e-5)


WRONG = {
    "a context in place of a function": (
        {"autocast": torch.autocast("cpu", torch.bfloat16)},
        TypeError,
        r"`autocast` must be a function that makes a context, such as .*, or None, got <torch.amp",
    ),
    "no scaler": ({"scaler": 65536.0}, TypeError, r"`scaler` must be a torch.amp.GradScaler or None, got 65536.0"),
    "no steps": ({"accumulation_steps": 0}, ValueError, "`accumulation_steps` must be at least 1, got 0"),
    "a norm": ({"clip": 1.0}, TypeError, r"`clip` must be a function of the parameters or None, got 1.0"),
    "no group": (
        {"groups": []},
        ValueError,
        r"`groups` must be different numbers of parameter groups, 0 to 0, got \[\]",
    ),
    "a group that is not there": ({"groups": 1}, ValueError, "`groups` must be different numbers .* 0 to 0, got 1"),
    "a group twice": ({"groups": (0, 0)}, ValueError, r"`groups` must be different numbers .*, got \(0, 0\)"),
    "a name": ({"groups": "head"}, TypeError, "`groups` must be an integer, got 'head'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_way_to_train_is_refused_in_words(case):
    options, error, text = WRONG[case]
    model = network()
    with pytest.raises(error, match=text):
        AutoLRTuner(model, nn.MSELoss(), sgd(model), **options)


def test_the_first_tuned_group_must_have_a_rate_to_scale():
    model = network()
    optimizer = groups_of(model)
    optimizer.param_groups[1]["lr"] = 0.0
    with pytest.raises(
        ValueError, match=r"`optimizer` must have a learning rate above 0 in parameter group 1, got 0.0"
    ):
        AutoLRTuner(model, nn.MSELoss(), optimizer, groups=[1])


def test_a_range_test_trains_as_the_user_does():
    model = network()
    optimizer = groups_of(model)
    scaler, clipped = torch.amp.GradScaler("cpu"), []
    batches = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 48, 8)]

    def clip(parameters):
        clipped.append(len(parameters))
        nn.utils.clip_grad_norm_(list(parameters), 0.1)

    with unchanged(model, optimizer):
        result = lr_range_test(
            *(model, nn.MSELoss(), optimizer, batches),
            start_lr=0.01,
            end_lr=1.0,
            num_iter=3,
            accumulation_steps=2,
            groups=[1],
            clip=clip,
            scaler=scaler,
            autocast=lambda: torch.autocast("cpu", enabled=False),
        )
    copied = copy.deepcopy(model)
    own = groups_of(copied)
    for step, rate in enumerate((0.01, 0.1, 1.0)):
        own.param_groups[1]["lr"] = rate
        own.zero_grad()
        losses = [nn.functional.mse_loss(copied(x), y) / 2 for x, y in batches[2 * step : 2 * step + 2]]
        sum(losses).backward()
        nn.utils.clip_grad_norm_(copied.parameters(), 0.1)
        own.step()
        assert result.history["loss"][step] == pytest.approx(float(sum(losses).detach()), rel=1e-12)
    assert clipped == [4, 4, 4]

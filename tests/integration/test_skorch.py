"""The callback in real trainings of skorch."""

import importlib
import pickle
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, ReduceLROnPlateau

pytest.importorskip("skorch")

from harness import unchanged
from sklearn.base import clone
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback, GradientNormClipping, LRScheduler, WarmRestartLR
from skorch.dataset import Dataset, ValidSplit

import autolr
from autolr.integrations.skorch import AutoLRCallback

pytestmark = pytest.mark.integration

X = np.random.default_rng(0).normal(size=(240, 4)).astype("float32")
Y = X.sum(1, keepdims=True)
SEARCH = {"effort": "fast", "rng": 0}
PROBES = {
    "tool": "tune",
    "num_subsamples": 8,
    "learning_rates": [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0],
    "evaluation": "subsample",
    "rng": 0,
}
TOOLS = {"find_lr": SEARCH, "tune": PROBES}


class Masked(nn.Dropout):
    """Dropout that keeps its masks."""

    def __init__(self):
        super().__init__(0.3)
        self.masks = []

    def forward(self, values):
        if self.training:
            self.masks.append(super().forward(torch.ones_like(values)))
            return values * self.masks[-1]
        return values


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.dropout, self.last = nn.Linear(4, 8), nn.BatchNorm1d(8), Masked(), nn.Linear(8, 1)

    def forward(self, values):
        return self.last(self.dropout(torch.tanh(self.norm(self.first(values)))))


class Batches(Callback):
    """Keeps the batches that were trained on."""

    def __init__(self):
        self.seen_ = []

    def on_batch_begin(self, net, batch=None, training=None, **kwargs):  # noqa: ARG002
        if training:
            self.seen_.append(batch[0].numpy().tobytes())


class Leaking(AutoLRCallback):
    """Draws one number more."""

    def on_epoch_begin(self, net, **kwargs):
        super().on_epoch_begin(net, **kwargs)
        if self.epoch_ == 1:
            torch.rand(1)


def stepped(policy=CosineAnnealingLR, **options):
    if policy is CosineAnnealingLR:
        options = {"T_max": 60, **options}
    return LRScheduler(policy=policy, step_every="batch", **options)


def make_net(*callbacks, lr=1e-3, module=Network, **options):
    options = {"optimizer": torch.optim.Adam, "max_epochs": 3, "batch_size": 16, **options}
    return NeuralNetRegressor(
        module, lr=lr, verbose=0, iterator_train__shuffle=True, callbacks=list(callbacks), **options
    )


def facts(*callbacks, **options):
    """Train, and return all that a training is made of."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (of the split)
    batches = Batches()
    net = make_net(*callbacks, stepped(), batches, train_split=ValidSplit(0.2), **options).fit(X, Y)
    state = [value for moments in net.optimizer_.state_dict()["state"].values() for value in moments.values()]
    return {
        "parameters": [value.numpy().tobytes() for value in net.module_.state_dict().values()],
        "optimizer": [value.numpy().tobytes() for value in state],
        "rates": [row["event_lr"] for epoch in net.history for row in epoch["batches"] if "event_lr" in row],
        "losses": [row.get("train_loss") for epoch in net.history for row in epoch["batches"]],
        "valid_losses": [epoch["valid_loss"] for epoch in net.history],
        "batches": batches.seen_,
        "masks": [mask.numpy().tobytes() for mask in net.module_.dropout.masks],
        "random numbers": [torch.rand(1).item(), np.random.uniform()],  # noqa: NPY002
    }


@pytest.mark.parametrize("tool", TOOLS)
def test_a_training_whose_rate_is_left_is_bit_for_bit_the_one_without_the_callback_and_one_leaked_draw_is_seen(tool):
    plain = facts()
    callback = AutoLRCallback(apply=False, every_n_epochs=2, **TOOLS[tool])
    assert facts(callback) == plain
    assert len(callback.suggestions) == 2
    good = callback.suggestion.learning_rate  # now with apply=True
    again = AutoLRCallback(**TOOLS[tool])
    assert facts(again, lr=good) == facts(lr=good)
    assert again.suggestion is not None
    leaked = facts(Leaking(apply=False, **TOOLS[tool]))
    assert all(plain[name] != leaked[name] for name in ("parameters", "losses", "masks", "random numbers"))


@pytest.mark.parametrize("first", [True, False])
def test_a_rate_that_is_far_off_is_set_and_the_schedule_rebased_whatever_the_order_of_callbacks(first):
    callback = AutoLRCallback(**SEARCH)
    callbacks = [callback, stepped()] if first else [stepped(), callback]
    net = make_net(*callbacks, lr=1e-7).fit(X, Y)
    rate = callback.suggestion.learning_rate
    assert rate > 1e-4
    rates = [row["event_lr"] for epoch in net.history for row in epoch["batches"] if "event_lr" in row]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=rate)
    scheduler = CosineAnnealingLR(optimizer, T_max=60)
    expected = []
    for _ in rates:
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(expected, rel=1e-12)
    assert callback.suggestion.evidence.settings["mean_factor"] == pytest.approx(np.mean(expected) / rate)


def test_a_warm_up_counts_by_the_rate_that_it_leads_to():
    callback = AutoLRCallback(**SEARCH)
    net = make_net(callback, stepped(LinearLR, start_factor=0.01, total_iters=20), lr=1e-7).fit(X, Y)
    rate = callback.suggestion.learning_rate
    assert net.history[0, "batches", 0, "event_lr"] == pytest.approx(0.01 * rate)
    assert net.optimizer_.param_groups[0]["lr"] == pytest.approx(rate)
    good = AutoLRCallback(**SEARCH)
    net = make_net(good, stepped(LinearLR, start_factor=0.01, total_iters=20), lr=rate).fit(X, Y)
    assert net.history[0, "batches", 0, "event_lr"] == 0.01 * rate


POLICIES = {
    "by epochs": (lambda: LRScheduler(policy=CosineAnnealingLR, T_max=3), [1.0, 0.75, 0.25]),
    "plateau": (lambda: LRScheduler(policy=ReduceLROnPlateau, monitor="train_loss"), [1.0]),
}


@pytest.mark.parametrize("name", POLICIES)
def test_a_scheduler_that_is_stepped_by_epochs_is_counted_by_epochs(name):
    make, factors = POLICIES[name]
    callback = AutoLRCallback(**SEARCH)
    net = make_net(callback, make(), lr=1e-7, train_split=None).fit(X, Y)
    settings = callback.suggestion.evidence.settings
    assert settings["mean_factor"] == pytest.approx(np.mean(factors))
    assert settings["total_steps"] == 3 * 15
    assert net.history[0, "event_lr"] == callback.suggestion.learning_rate


def test_a_cycle_is_set_by_its_peak():
    callback = AutoLRCallback(**SEARCH)
    scheduler = stepped(OneCycleLR, max_lr=1e-7, total_steps=40)
    net = make_net(callback, scheduler, train_split=None, max_epochs=2).fit(X, Y)
    rates = [row["event_lr"] for epoch in net.history for row in epoch["batches"]]
    assert 0.9 < max(rates) / callback.suggestion.learning_rate <= 1.0


def test_the_limits_of_warm_restarts_move_with_the_rate():
    callback = AutoLRCallback(**SEARCH)
    scheduler = LRScheduler(WarmRestartLR, min_lr=1e-9, max_lr=2e-7)
    net = make_net(callback, scheduler, lr=1e-7, max_epochs=2).fit(X, Y)
    ratio = callback.suggestion.learning_rate / 1e-7
    assert scheduler.lr_scheduler_.max_lr == pytest.approx(2e-7 * ratio)
    assert scheduler.lr_scheduler_.min_lr == pytest.approx(1e-9 * ratio)
    assert net.history[0, "event_lr"] == pytest.approx(2e-7 * ratio)
    assert net.history[1, "event_lr"] > 1e-7 * ratio


def test_it_is_tuned_again_for_the_steps_that_are_left():
    callback = AutoLRCallback(every_n_epochs=2, **SEARCH)
    make_net(callback, max_epochs=5, train_split=None).fit(X, Y)
    assert [found.evidence.settings["total_steps"] for found in callback.suggestions] == [75, 45, 15]
    assert callback.suggestion is callback.suggestions[-1]


def test_a_training_that_goes_on_is_tuned_where_it_does():
    callback = AutoLRCallback(apply=False, **PROBES)
    net = make_net(callback, max_epochs=2, train_split=None)
    net.partial_fit(X, Y).partial_fit(X, Y)
    assert len(callback.suggestions) == 2
    assert len(net.fit(X, Y).history) == 2
    assert len(callback.suggestions) == 1  # of the net that fit has initialized


def test_nothing_is_written_unless_a_function_asks_for_it(capsys):
    seen = []
    plain, silent = make_net().fit(X, Y), make_net(AutoLRCallback(apply=False, **PROBES)).fit(X, Y)
    assert [epoch.keys() for epoch in plain.history] == [epoch.keys() for epoch in silent.history]
    assert capsys.readouterr().out == ""
    callback = AutoLRCallback(log=seen.append, **PROBES)
    make_net(callback).fit(X, Y)
    assert seen == callback.suggestions


class Penalized(NeuralNetRegressor):
    def get_loss(self, y_pred, y_true, X=None, training=False):
        loss = super().get_loss(y_pred, y_true, X=X, training=training)
        return loss + 10.0 * sum(parameter.abs().sum() for parameter in self.module_.parameters())


def test_the_loss_is_the_nets_own_with_its_penalty_and_its_clipping():
    def penalized(model, batch):
        penalty = 10.0 * sum(parameter.abs().sum() for parameter in model.parameters())
        return nn.functional.mse_loss(model(batch[0]), batch[1]) + penalty

    torch.manual_seed(0)
    callback = AutoLRCallback(apply=False, **SEARCH)
    options = {"optimizer": torch.optim.SGD, "batch_size": 16, "train_split": None, "max_epochs": 2, "verbose": 0}
    clipping = GradientNormClipping(gradient_clip_value=0.5)
    net = Penalized(nn.Linear(4, 1), callbacks=[callback, clipping], **options).initialize()
    weights = [value.clone() for value in net.module_.state_dict().values()]
    net.partial_fit(X, Y)
    model = nn.Linear(4, 1)
    model.load_state_dict(dict(zip(("weight", "bias"), weights, strict=True)))
    expected = autolr.find_lr(
        model,
        None,
        torch.optim.SGD(model.parameters(), lr=0.01),
        torch.utils.data.DataLoader(Dataset(X, Y), batch_size=16),
        compute_loss=penalized,
        total_steps=30,
        clip=lambda parameters: nn.utils.clip_grad_norm_(parameters, 0.5),
        **SEARCH,
    )
    assert callback.suggestion.evidence.settings["clip"] is True
    assert float(callback.suggestion) == float(expected)


def test_a_clipping_without_a_value_is_none():
    callback = AutoLRCallback(apply=False, **PROBES)
    make_net(callback, GradientNormClipping()).fit(X, Y)
    assert callback.suggestion.evidence.settings["clip"] is False


def test_batches_of_dicts_and_a_module_in_evaluation_mode_are_tuned_as_they_are_trained():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Network()

        def forward(self, left, right):
            return self.inner(torch.cat([left, right], 1))

    callback = AutoLRCallback(apply=False, every_n_epochs=1, **SEARCH)
    torch.manual_seed(0)
    net = make_net(callback, module=Named).initialize()
    net.module_.eval()
    net.partial_fit({"left": X[:, :2], "right": X[:, 2:]}, Y)
    assert len(callback.suggestions) == 3  # behind validations, too
    assert net.module_.inner.norm.num_batches_tracked == 3 * 12


class Failing(NeuralNetRegressor):
    calls = 0

    def get_loss(self, *args, **kwargs):
        type(self).calls += 1
        if type(self).calls == 30:
            raise ZeroDivisionError("of the user")
        return super().get_loss(*args, **kwargs)


def test_an_error_of_the_users_loss_passes_through_and_nothing_has_changed():
    callback = AutoLRCallback(**SEARCH)
    net = Failing(Network, optimizer=torch.optim.Adam, lr=1e-7, verbose=0, callbacks=[callback], train_split=None)
    net.initialize()
    net.module_.eval()
    with unchanged(net.module_, net.optimizer_), pytest.raises(ZeroDivisionError, match="of the user"):
        net.partial_fit(X, Y)
    assert callback.suggestions == []
    assert net.lr == 1e-7


def test_an_optimizer_made_anew_has_the_rates_that_were_set():
    groups = [("last*", {"lr": 3e-8}), ("norm*", {"weight_decay": 0.1})]
    callback = AutoLRCallback(**SEARCH)
    net = make_net(callback, lr=1e-7, optimizer__param_groups=groups).fit(X, Y)
    rates = [group["lr"] for group in net.optimizer_.param_groups]
    assert rates[0] == callback.suggestion.learning_rate
    assert rates[1:] == pytest.approx([rates[0] / 0.3] * 2)
    net.initialize_optimizer()
    assert [group["lr"] for group in net.optimizer_.param_groups] == pytest.approx(rates)
    callback = AutoLRCallback(**SEARCH)
    net = make_net(callback, optimizer__lr=1e-7).fit(X, Y)
    assert net.optimizer__lr == callback.suggestion.learning_rate
    assert net.lr == 1e-3
    net = make_net(AutoLRCallback(groups=0, **SEARCH), lr=1e-7, optimizer__param_groups=groups).fit(X, Y)
    assert [group["lr"] for group in net.optimizer_.param_groups[1:]] == [net.lr, net.lr] == [1e-7, 1e-7]


def test_a_net_with_the_callback_is_cloned_set_and_pickled():
    net = make_net(AutoLRCallback(apply=False, **PROBES))
    net = clone(net).set_params(callbacks__AutoLRCallback__num_subsamples=6)
    (callback,) = net.fit(X, Y).callbacks
    assert callback.suggestion.evidence.differentials.num_subsamples == 6
    assert callback.get_params()["learning_rates"] == PROBES["learning_rates"]
    again = dict(pickle.loads(pickle.dumps(net)).callbacks_)["AutoLRCallback"]
    assert float(again.suggestion) == float(callback.suggestion)


def test_batches_without_a_number_have_no_length_of_the_run():
    class Endless:
        def __init__(self, dataset, batch_size, **options):  # noqa: ARG002
            self.loader = torch.utils.data.DataLoader(dataset, batch_size=batch_size)

        def __iter__(self):
            return iter(self.loader)

    callback = AutoLRCallback(apply=False, **SEARCH)
    scheduler = LRScheduler(policy=CosineAnnealingLR, T_max=3)
    make_net(callback, scheduler, iterator_train=Endless).fit(X, Y)
    assert "The length of the run was not told; 1000 steps are assumed." in " ".join(callback.suggestion.caveats)
    assert callback.suggestion.evidence.settings["mean_factor"] == 1.0


def test_what_cannot_be_tuned_is_refused_in_words():
    with pytest.raises(ValueError, match="`tool` must be one of 'find_lr', 'tune', got 'guess'"):
        AutoLRCallback(tool="guess")
    with pytest.raises(ValueError, match="`callbacks` must hold at most one LRScheduler, got 2 of them"):
        make_net(AutoLRCallback(), ("a", stepped()), ("b", stepped())).fit(X, Y)
    net = make_net(AutoLRCallback())
    net.accelerator = object()
    with pytest.raises(TypeError, match=r"`net` must be without an accelerator: .*, got 'NeuralNetRegressor'"):
        net.fit(X, Y)


def test_without_skorch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skorch.callbacks", None)
    monkeypatch.delitem(sys.modules, "autolr.integrations.skorch")
    with pytest.raises(ImportError, match=r"^autolr.integrations.skorch needs skorch: pip install autolr\[skorch\]$"):
        importlib.import_module("autolr.integrations.skorch")

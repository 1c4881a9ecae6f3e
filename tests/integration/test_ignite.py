"""The handler in real trainings of Ignite."""

import importlib
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers
from torch.utils.data import DataLoader, TensorDataset

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Ignite imports a part of torch that uses torch.jit
    pytest.importorskip("ignite")

from harness import unchanged
from ignite.engine import Engine, Events, create_supervised_evaluator, create_supervised_trainer
from ignite.handlers import PiecewiseLinear
from ignite.handlers.param_scheduler import LRScheduler, ReduceLROnPlateauScheduler

from autolr.integrations.ignite import AutoLRHandler

pytestmark = pytest.mark.integration

X = torch.randn(240, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)
SEARCH = {"effort": "fast", "rng": 0}
PROBES = {
    "tool": "tune",
    "num_subsamples": 8,
    "learning_rates": [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0],
    "evaluation": "subsample",
    "rng": 0,
}
TOOLS = {"find_lr": SEARCH, "tune": PROBES}
LOSS = nn.MSELoss()


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


class Leaking(AutoLRHandler):
    """Draws one number more."""

    def _tune(self, trainer, **options):
        super()._tune(trainer, **options)
        torch.rand(1)


class Run:
    """A training: model, optimizer, loader, trainer, and what it was made of."""

    def __init__(self, lr=1e-3, scheduler=None):
        torch.manual_seed(0)
        layers = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), Masked(), nn.Linear(8, 1)
        self.model = nn.Sequential(*layers).double()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=lr)
        self.scheduler = None if scheduler is None else scheduler(self.optimizer)
        self.data = DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True)
        self.trainer = create_supervised_trainer(self.model, self.optimizer, LOSS)
        self.batches, self.losses, self.rates = [], [], []
        self.trainer.add_event_handler(Events.ITERATION_STARTED, self._begin)
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, self._end)

    def handler(self, kind=AutoLRHandler, *, step_every="iteration", scheduler=None, **options):
        handler = kind(self.model, self.optimizer, self.data, loss_fn=LOSS, **options)
        return handler.attach(self.trainer, scheduler or self.scheduler, step_every=step_every)

    def train(self, max_epochs=3, **options):
        self.trainer.run(self.data, max_epochs=max_epochs, **options)
        return self

    def _begin(self):
        self.batches.append(self.trainer.state.batch[0].numpy().tobytes())
        self.rates.append(self.optimizer.param_groups[0]["lr"])

    def _end(self):
        self.losses.append(self.trainer.state.output)
        if isinstance(self.scheduler, schedulers.LRScheduler):
            self.scheduler.step()

    def facts(self):
        state = [value for moments in self.optimizer.state_dict()["state"].values() for value in moments.values()]
        return {
            "parameters": [value.numpy().tobytes() for value in self.model.state_dict().values()],
            "optimizer": [value.numpy().tobytes() for value in state],
            "rates": self.rates,
            "losses": self.losses,
            "batches": self.batches,
            "masks": [mask.numpy().tobytes() for mask in self.model[3].masks],
            "random number": torch.rand(1).item(),
        }


def cosine(optimizer):
    return schedulers.CosineAnnealingLR(optimizer, T_max=60)


def warm_up(optimizer):
    parts = [schedulers.LinearLR(optimizer, 0.01, total_iters=20), schedulers.CosineAnnealingLR(optimizer, T_max=40)]
    return schedulers.SequentialLR(optimizer, parts, milestones=[20])


def one_cycle(optimizer):
    return schedulers.OneCycleLR(optimizer, max_lr=1e-7, total_steps=46)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_training_whose_rate_is_left_is_bit_for_bit_the_one_without_the_handler_and_one_leaked_draw_is_seen(tool):
    plain = Run(scheduler=cosine).train().facts()
    run = Run(scheduler=cosine)
    handler = run.handler(apply=False, every_n_epochs=2, **TOOLS[tool])
    assert run.train().facts() == plain
    assert len(handler.suggestions) == 2
    good = handler.suggestions[0].learning_rate  # now with apply=True
    run = Run(good, cosine)
    again = run.handler(**TOOLS[tool])
    assert run.train().facts() == Run(good, cosine).train().facts()
    assert again.suggestion is not None
    run = Run(scheduler=cosine)
    run.handler(Leaking, apply=False, **TOOLS[tool])
    leaked = run.train().facts()
    assert all(plain[name] != leaked[name] for name in ("parameters", "losses", "batches", "masks", "random number"))


@pytest.mark.parametrize("schedule", [None, cosine, warm_up, one_cycle])
def test_a_rate_that_is_far_off_is_set_and_the_schedule_rebased(schedule):
    run = Run(1e-7, schedule)
    handler = run.handler(**SEARCH)
    run.train()
    rate = handler.suggestion.learning_rate
    assert rate > 1e-4
    shares = np.array(Run(1e-7, schedule).train().rates) / 1e-7  # of the rate without the handler
    assert run.rates == pytest.approx(rate * shares, rel=1e-9)
    settings = handler.suggestion.evidence.settings
    assert settings["mean_factor"] == pytest.approx(shares.mean())
    assert settings["total_steps"] == 45


WRAPPED = {
    "cosine": (lambda o: schedulers.CosineAnnealingLR(o, T_max=60), Events.ITERATION_STARTED, "iteration"),
    "step": (lambda o: schedulers.StepLR(o, 10, gamma=0.5), Events.ITERATION_STARTED, "iteration"),
    "restarts": (
        lambda o: schedulers.CosineAnnealingWarmRestarts(o, T_0=10),
        Events.ITERATION_STARTED,
        "iteration",
    ),
    "by epochs": (lambda o: schedulers.ExponentialLR(o, 0.5), Events.EPOCH_STARTED, "epoch"),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_scheduler_that_ignite_wraps_is_counted_in_and_rebased(name):
    make, event, step_every = WRAPPED[name]

    def run_with(lr, **options):
        run = Run(lr)
        wrapped = LRScheduler(make(run.optimizer))
        handler = run.handler(scheduler=wrapped, step_every=step_every, **options, **SEARCH)
        wrapped.attach(run.trainer, event)
        run.rates = rates = []
        run.trainer.add_event_handler(
            Events.ITERATION_STARTED, lambda: rates.append(run.optimizer.param_groups[0]["lr"])
        )
        run.train()
        return handler.suggestions, np.array(rates[1::2])  # each is noted before it, too

    suggestions, rates = run_with(0.01, apply=False, every_n_epochs=2)
    means = [found.evidence.settings["mean_factor"] for found in suggestions]
    assert means == pytest.approx([rates.mean() / 0.01, rates[30:].mean() / 0.01], rel=1e-9)
    (suggestion,), moved = run_with(1e-7)
    assert moved == pytest.approx(rates * (suggestion.learning_rate / 0.01), rel=1e-9)


def test_a_plateau_scheduler_of_ignite_is_rebased():
    run = Run(1e-7)
    wrapped = ReduceLROnPlateauScheduler(run.optimizer, metric_name="loss", patience=0)
    handler = run.handler(scheduler=wrapped, **SEARCH)
    run.train()
    assert run.optimizer.param_groups[0]["lr"] == handler.suggestion.learning_rate
    assert handler.suggestion.evidence.settings["schedule"] == "plateau"


def test_a_torch_scheduler_that_is_stepped_by_epochs_is_counted_by_epochs():
    run = Run(1e-7)
    scheduler = schedulers.ExponentialLR(run.optimizer, 0.5)
    handler = run.handler(scheduler=scheduler, step_every="epoch", **SEARCH)
    run.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: scheduler.step())
    run.train()
    assert handler.suggestion.evidence.settings["mean_factor"] == pytest.approx((1.0 + 0.5 + 0.25) / 3)
    assert run.rates[-1] == pytest.approx(handler.suggestion.learning_rate / 4)


def test_it_is_tuned_again_for_the_steps_that_are_left():
    run = Run()
    handler = run.handler(every_n_epochs=2, **SEARCH)
    run.train(5)
    assert [found.evidence.settings["total_steps"] for found in handler.suggestions] == [75, 45, 15]
    assert handler.suggestion is handler.suggestions[-1]


def test_a_training_that_goes_on_is_tuned_once_where_it_does():
    run = Run()
    handler = run.handler(apply=False, every_n_epochs=2, **SEARCH)
    run.train(2).train(4)
    assert [found.evidence.settings["total_steps"] for found in handler.suggestions] == [30, 30]


def test_the_length_of_the_run_is_told_by_its_iterations_or_not_at_all():
    run = Run()
    handler = run.handler(apply=False, **SEARCH)
    run.trainer.run(run.data, max_iters=20)
    assert handler.suggestion.evidence.settings["total_steps"] == 20
    run = Run()
    scheduler = schedulers.ExponentialLR(run.optimizer, 0.5)
    handler = run.handler(apply=False, scheduler=scheduler, step_every="epoch", **SEARCH)
    run.trainer.run((batch for batch in run.data), max_epochs=1)
    assert "The length of the run was not told; 1000 steps are assumed." in " ".join(handler.suggestion.caveats)
    assert handler.suggestion.evidence.settings["mean_factor"] == 1.0


def test_nothing_is_written_unless_a_function_asks_for_it(capsys):
    seen = []
    run = Run()
    handler = run.handler(**PROBES)
    run.train(1)
    assert run.trainer.state.metrics == {}
    assert capsys.readouterr() == ("", "")
    run = Run()
    handler = run.handler(log=seen.append, **PROBES)
    run.train(1)
    assert seen == handler.suggestions


def test_the_users_way_of_training_reaches_the_probes():
    calls = []

    def clip(parameters):
        calls.append(nn.utils.clip_grad_norm_(parameters, 1.0))

    run = Run()
    handler = run.handler(apply=False, accumulation_steps=2, clip=clip, **SEARCH)
    run.train()
    settings = handler.suggestion.evidence.settings
    assert settings["total_steps"] == 45 // 2
    assert settings["num_gradients"] == 2 * len(calls) > 0


def test_a_loss_of_a_model_and_a_batch_is_for_batches_of_any_form():
    batches = [{"x": x, "y": y} for x, y in zip(X.split(16), Y.split(16), strict=True)]
    run = Run(1e-7)

    def compute_loss(model, batch):
        return LOSS(model(batch["x"]), batch["y"])

    def update(_, batch):
        run.model.train()
        run.optimizer.zero_grad()
        compute_loss(run.model, batch).backward()
        run.optimizer.step()

    trainer = Engine(update)
    handler = AutoLRHandler(run.model, run.optimizer, batches, compute_loss=compute_loss, **SEARCH).attach(trainer)
    trainer.run(batches, max_epochs=3)
    assert run.optimizer.param_groups[0]["lr"] == handler.suggestion.learning_rate > 1e-4


def test_behind_an_evaluation_the_model_is_probed_in_training_mode_and_left_in_its_own():
    run = Run()
    evaluator = create_supervised_evaluator(run.model)
    run.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(run.data))
    modes = []

    def loss_fn(output, target):
        modes.append(run.model.training)
        return LOSS(output, target)

    handler = AutoLRHandler(
        run.model, run.optimizer, run.data, loss_fn=loss_fn, apply=False, every_n_epochs=1, **PROBES
    )
    handler.attach(run.trainer)
    run.trainer.add_event_handler(Events.EPOCH_STARTED, lambda: modes.append(run.model.training))
    run.model.eval()
    run.train(2)
    assert modes.count(False) == 2
    assert [modes[0], modes[-1]] == [True, False]


def test_an_error_of_the_users_loss_passes_through_and_nothing_has_changed():
    calls = []

    def loss_fn(output, target):
        calls.append(None)
        if len(calls) == 30:
            raise ZeroDivisionError("of the user")
        return LOSS(output, target)

    run = Run(1e-7, cosine)
    run.model.eval()
    handler = AutoLRHandler(run.model, run.optimizer, run.data, loss_fn=loss_fn, **SEARCH)
    handler.attach(run.trainer, run.scheduler)
    with (
        unchanged(run.model, run.optimizer, scheduler=run.scheduler),
        pytest.raises(ZeroDivisionError, match="of the user"),
    ):
        run.train()
    assert handler.suggestions == []
    assert run.losses == []


def test_what_cannot_be_tuned_is_refused_in_words():
    run = Run()
    with pytest.raises(ValueError, match="`tool` must be one of 'find_lr', 'tune', got 'guess'"):
        run.handler(tool="guess")
    with pytest.raises(ValueError, match="`step_every` must be one of 'iteration', 'epoch', got 'batch'"):
        run.handler(step_every="batch")
    own = PiecewiseLinear(run.optimizer, "lr", milestones_values=[(0, 0.1), (10, 0.0)])
    with pytest.raises(
        TypeError, match=r"`scheduler` must be a torch.*, one of Ignite's that wraps it, or None, got <"
    ):
        run.handler(scheduler=own)


def test_without_ignite_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ignite.engine", None)
    monkeypatch.delitem(sys.modules, "autolr.integrations.ignite")
    with pytest.raises(ImportError, match=r"^autolr.integrations.ignite needs Ignite: pip install autolr\[ignite\]$"):
        importlib.import_module("autolr.integrations.ignite")

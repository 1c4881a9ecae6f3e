"""The Lightning callback tunes as the trainer trains, sets the rate where it has to, and leaves no other trace."""

import importlib.util
import logging
import math
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from harness import unchanged
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler, TensorDataset

from autolr import AutoLRTuner

pl = pytest.importorskip("lightning.pytorch")
torchmetrics = pytest.importorskip("torchmetrics")

from lightning.fabric.utilities.distributed import DistributedSamplerWrapper  # noqa: E402 (after what skips)
from lightning.pytorch.loggers.logger import DummyLogger  # noqa: E402
from lightning.pytorch.strategies import FSDPStrategy  # noqa: E402

from autolr.integrations import _loaders  # noqa: E402
from autolr.integrations import lightning as hooks  # noqa: E402 (after what skips)
from autolr.integrations.lightning import AutoLRCallback  # noqa: E402

pytestmark = [
    pytest.mark.integration,
    # Lightning's advice on workers, log intervals and accelerators is about speed
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
    # its own use of torch's pytree and of old checks
    pytest.mark.filterwarnings("ignore:.*isinstance\\(treespec, LeafSpec\\)"),
]

X = torch.randn(48, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = X.sum(1, keepdim=True).tanh()
FAST = {"effort": "fast", "rng": 0, "progress": False}
CHEAP = {**FAST, "max_evaluations": 20}
TUNE = {"tool": "tune", "num_subsamples": 4, "learning_rates": [1e-3, 0.03, 0.3, 30.0], "rng": 0, "progress": False}


class Module(pl.LightningModule):
    """BatchNorm, dropout, metrics, a counter, lists, logging in many ways, a scheduler that is stepped each step."""

    def __init__(self, lr=0.01, *, make_scheduler=None, interval="step"):
        super().__init__()
        self.save_hyperparameters({"lr": lr, "interval": interval})
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 1))
        self.double()
        self.mean_loss = torchmetrics.MeanMetric()
        self.all_outputs = torchmetrics.CatMetric()
        pair = [torchmetrics.MeanSquaredError(), torchmetrics.MeanAbsoluteError()]
        self.metrics = torchmetrics.MetricCollection(pair)
        self.num_calls, self.inputs, self.losses = 0, [], []
        self.make_scheduler = make_scheduler

    def training_step(self, batch, batch_idx):
        x, y = batch
        output = self.net(x)
        loss = nn.functional.mse_loss(output, y)
        self.num_calls += 1
        self.inputs.append(x.clone())
        self.losses.append(loss.detach().clone())
        self.mean_loss(loss.detach())
        self.all_outputs(output.detach())
        self.log("loss", self.mean_loss, on_step=True, on_epoch=True)
        self.log_dict(self.metrics, on_step=False, on_epoch=True)
        self.metrics(output.detach(), y)
        return {"loss": loss, "extra": batch_idx}

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams.lr)
        make = self.make_scheduler or (lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.99))
        return [optimizer], [{"scheduler": make(optimizer), "interval": self.hparams.interval}]


class Light(Module):
    """The same without metrics and logging, which take most of the time."""

    def training_step(self, batch, _):
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])


class Regression(Light):
    """A linear one by gradient descent, whose best rate is clear."""

    def __init__(self, lr):
        super().__init__(lr)
        self.net = nn.Linear(4, 1).double()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams.lr)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class Records(pl.loggers.logger.Logger):
    """A logger that keeps what it is given, and takes figures as TensorBoard or as Weights & Biases do."""

    name, version = "records", "0"

    def __init__(self, takes_figures_by=None):
        super().__init__()
        self.metrics, self.figures, self.scalars = [], [], []
        self.experiment = SimpleNamespace(add_scalar=lambda *given: self.scalars.append(given))
        if takes_figures_by == "add_figure":
            self.experiment.add_figure = lambda *given: self.figures.append(given)
        elif takes_figures_by == "log_image":
            self.log_image = lambda key, images, step: self.figures.append((key, *images, step))

    def log_metrics(self, metrics, step=None):
        self.metrics.append((dict(metrics), step))

    def log_hyperparams(self, *args, **kwargs):
        pass


def loader(**options):
    return DataLoader(**{"dataset": TensorDataset(X, Y), "batch_size": 8, "shuffle": True, **options})


def fit(*callbacks, module=None, data=None, ckpt_path=None, datamodule=None, **options):
    """Train from one seed, with no generator of the loader's own; return the module and the trainer."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (what a module of anybody's may draw from)
    module = (module or Module)()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(**{"accelerator": "cpu", "max_epochs": 2, **quiet, **options}, callbacks=list(callbacks))
    data = None if datamodule is not None else loader() if data is None else data
    trainer.fit(module, data, datamodule=datamodule, ckpt_path=ckpt_path)
    return module, trainer


def outcome(module, trainer):
    """Return everything that a training ends with, as values that can be compared bit for bit."""
    optimizer = trainer.optimizers[0]
    moments = [value for state in optimizer.state.values() for value in state.values()]
    metrics = [getattr(m, key) for m in module.modules() if isinstance(m, torchmetrics.Metric) for key in m._defaults]
    tensors = [*module.state_dict().values(), *moments, *module.inputs, *module.losses, *metrics]
    numbers = [module.num_calls, trainer.global_step, [group["lr"] for group in optimizer.param_groups]]
    random = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002
    logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
    return (
        [t.tolist() if isinstance(t, torch.Tensor) else [p.tolist() for p in t] for t in tensors],
        numbers,
        random,
        logged,
    )


class Leaks(AutoLRCallback):
    """Draws one number more."""

    def on_train_batch_start(self, *args):
        super().on_train_batch_start(*args)
        torch.rand(1)


@pytest.mark.parametrize("options", [CHEAP, TUNE], ids=["find_lr", "tune"])
def test_training_with_a_rate_that_is_only_suggested_is_training_without_the_callback_and_one_leaked_draw_is_seen(
    options,
):
    callback = AutoLRCallback(apply=False, every_n_epochs=1, **options)
    plain, tuned = outcome(*fit()), outcome(*fit(callback))
    assert len(callback.suggestions) == 2
    assert callback.suggestion is callback.suggestions[1]
    assert tuned == plain
    assert outcome(*fit(Leaks(apply=False, **options)))[0] != plain[0]


@pytest.mark.parametrize("options", [CHEAP, TUNE], ids=["find_lr", "tune"])
def test_a_rate_among_the_best_is_left_bit_for_bit_also_with_apply(options):
    suggested = AutoLRCallback(apply=False, **options)
    fit(suggested)

    def module():
        return Module(float(suggested.suggestion))

    callback = AutoLRCallback(**options)
    assert outcome(*fit(callback, module=module)) == outcome(*fit(module=module))
    assert float(callback.suggestion) == float(suggested.suggestion)


@pytest.mark.parametrize("options", [FAST, {**TUNE, "num_subsamples": 12}], ids=["find_lr", "tune"])
def test_a_rate_that_is_far_off_is_set_and_the_scheduler_rebased(options):
    callback = AutoLRCallback(**options)
    data = loader(dataset=TensorDataset(X.repeat(8, 1), Y.repeat(8, 1)), batch_size=16)
    module, trainer = fit(callback, module=lambda: Regression(1e-7), data=data, max_epochs=1)
    rate = float(callback.suggestion)
    (config,) = trainer.lr_scheduler_configs
    assert config.scheduler.base_lrs == [rate]
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(rate * 0.99**24, rel=1e-12)
    assert module.hparams.lr == 1e-7


SCHEDULERS = {
    "warm-up": lambda o: torch.optim.lr_scheduler.LinearLR(o, 1e-3, total_iters=5),
    "warm-up from 0": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: min(1.0, step / 5)),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, o.param_groups[0]["lr"], total_steps=12),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 12),
}


@pytest.mark.parametrize("make_scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_the_height_of_a_schedule_is_what_is_compared_and_set(make_scheduler):
    rates = []

    class Rates(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    far = AutoLRCallback(**FAST)
    fit(far, Rates(), module=lambda: Light(1e-7, make_scheduler=make_scheduler))
    rate = float(far.suggestion)
    assert max(rates) == pytest.approx(rate, rel=0.02)  # a cycle of few steps passes by its peak
    assert far.suggestion.evidence.settings["mean_factor"] == pytest.approx(np.mean(rates) / rate, rel=1e-6)
    good = AutoLRCallback(**FAST)
    fit(good, Rates(), module=lambda: Light(rate, make_scheduler=make_scheduler))
    assert rates[12:] == pytest.approx(rates[:12], rel=1e-9)


def test_it_is_tuned_again_at_the_chosen_epochs_for_the_steps_that_are_left():
    callback = AutoLRCallback(apply=False, every_n_epochs=2, **CHEAP)
    fit(callback, module=Light, max_epochs=5)
    assert [s.evidence.settings["total_steps"] for s in callback.suggestions] == [30, 18, 6]
    fit(callback, module=Light, max_epochs=-1, max_steps=9)
    assert callback.suggestions[3].evidence.settings["total_steps"] == 9


def test_without_a_known_length_the_run_is_taken_for_a_usual_one():
    class Endless(IterableDataset):
        def __iter__(self):
            return iter([(X[i], Y[i]) for i in torch.randperm(48)])

    data = DataLoader(Endless(), batch_size=8)
    callback = AutoLRCallback(apply=False, **CHEAP)
    assert outcome(*fit(callback, data=data)) == outcome(*fit(data=data))
    assert callback.suggestion.evidence.settings["total_steps"] == 1000


class Speaks(Light):
    """Logs by itself and by its logger."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss)
        self.logger.log_metrics({"own": float(loss.detach())}, step=self.global_step)
        self.logger.experiment.add_scalar("own", 1.0)
        return loss


@pytest.mark.parametrize("options", [CHEAP, TUNE], ids=["find_lr", "tune"])
def test_loggers_get_the_suggestion_only_when_asked(options):
    plain, silent, asked = Records(), Records(), Records()
    callback = AutoLRCallback(apply=False, log=True, **options)
    fit(module=Speaks, logger=plain)
    fit(AutoLRCallback(apply=False, **options), module=Speaks, logger=silent)
    fit(callback, module=Speaks, logger=asked)
    values = {f"autolr/{name}": getattr(callback.suggestion, name) for name in ("learning_rate", "low", "high")}
    assert silent.metrics == plain.metrics
    assert asked.metrics == [(values, 0), *plain.metrics]
    assert len(plain.scalars) == len(silent.scalars) == len(asked.scalars) == 12


@pytest.mark.parametrize(("method", "options", "num_axes"), [("add_figure", CHEAP, 3), ("log_image", TUNE, 1)])
def test_loggers_that_take_a_picture_get_it_when_asked(method, options, num_axes, tmp_path):
    records = Records(method)
    fit(AutoLRCallback(apply=False, **options), module=Light, logger=records)
    assert records.figures == []
    fit(AutoLRCallback(apply=False, log=True, **options), module=Light, logger=records)
    ((name, figure, step),) = records.figures
    assert (name, len(figure.axes), step) == ("autolr", num_axes, 0)
    figure.savefig(tmp_path / "drawn.png")


def test_lightnings_own_logger_takes_a_suggestion(tmp_path):
    fit(AutoLRCallback(apply=False, log=True, **CHEAP), module=Light, logger=pl.loggers.CSVLogger(tmp_path))
    (written,) = tmp_path.rglob("metrics.csv")
    assert "autolr/learning_rate" in written.read_text().splitlines()[0]


def test_a_function_gets_each_suggestion_and_may_log_as_the_module_does():
    class Logs(pl.Callback):
        def on_train_batch_start(self, _, pl_module, *__):
            callback.module = pl_module

    callback = AutoLRCallback(apply=False, log=lambda s: callback.module.log("rate", float(s)), **CHEAP)
    _, trainer = fit(Logs(), callback)
    assert trainer.callback_metrics["rate"] == pytest.approx(float(callback.suggestion), rel=1e-6)


class Watched(AutoLRCallback):
    """Sees that nothing changes, neither of the module's nor of the trainer's."""

    def on_train_batch_start(self, trainer, pl_module, *args):
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        loop = trainer.fit_loop
        extra = [trainer.loggers, loop.epoch_loop._results, trainer.callback_metrics, vars(loop._combined_loader)]
        extra += [vars(loop._data_fetcher), vars(loop.epoch_loop.batch_progress.current)]
        with unchanged(pl_module, trainer.optimizers[0], scheduler=schedulers, extra=extra):
            super().on_train_batch_start(trainer, pl_module, *args)


@pytest.mark.parametrize("options", [CHEAP, TUNE], ids=["find_lr", "tune"])
def test_the_trainers_own_records_are_untouched_in_mid_training(options):
    callback = Watched(apply=False, every_n_epochs=1, **options)
    fit(callback, logger=Records())
    assert len(callback.suggestions) == 2


@pytest.mark.parametrize("error", [RuntimeError("of the user"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
@pytest.mark.parametrize("after", [0, 1, 30])
def test_what_the_users_loss_raises_passes_and_everything_is_put_back(error, after):
    class Fails(Light):
        def training_step(self, batch, batch_idx):
            output = super().training_step(batch, batch_idx)
            calls.append(batch_idx)
            if len(calls) > after:
                raise error
            return output

    calls = []
    raised = pytest.raises(RuntimeError, match="of the user") if after >= 0 else None
    with raised if isinstance(error, RuntimeError) else pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(Watched(**CHEAP), module=Fails, logger=Records())
    assert len(calls) == after + 1


def by_hand(result_of, **way):
    """Return a callback that tunes by the tuner itself, with the loss written out."""

    def compute_loss(module, batch):
        batch = batch[0] if isinstance(batch[1], int) else batch
        return nn.functional.mse_loss(module.net(batch[0]), batch[1])

    class ByHand(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, _, batch_idx):
            if batch_idx == 0 and trainer.current_epoch == 0:
                options = {name: value for name, value in TUNE.items() if name not in ("tool", "rng")}
                tuner = AutoLRTuner(pl_module, None, trainer.optimizers[0], compute_loss=compute_loss, rng=0, **way)
                result_of.append(tuner.tune(trainer.train_dataloader, **options))

    return ByHand()


def clip_norm(parameters):
    nn.utils.clip_grad_norm_(parameters, 0.1)


def clip_value(parameters):
    nn.utils.clip_grad_value_(parameters, 0.01)


class OwnClipping(Light):
    def configure_gradient_clipping(self, optimizer, **_):
        self.log("clipped", 1.0)
        clip_norm([p for group in optimizer.param_groups for p in group["params"]])


def sgd(base):
    class WithSGD(base):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    return WithSGD


@pytest.mark.parametrize(
    ("module", "options", "way"),
    [
        (Module, {}, {}),
        (Module, {"accumulate_grad_batches": 2}, {"accumulation_steps": 2}),
        (Module, {"gradient_clip_val": 0.1}, {"clip": clip_norm}),
        (Module, {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}, {"clip": clip_value}),
        (OwnClipping, {}, {"clip": clip_norm}),
    ],
    ids=["plain", "accumulation", "norm", "value", "own clipping"],
)
def test_probes_take_the_step_of_the_trainer(module, options, way):
    by_tuner = []
    callback = AutoLRCallback(apply=False, **TUNE)
    fit(by_hand(by_tuner, **way), callback, module=sgd(module), **options)
    own, expected = callback.suggestion.evidence, by_tuner[0]
    np.testing.assert_array_equal(own.differentials.loss_post, expected.differentials.loss_post)
    np.testing.assert_array_equal(own.differentials.loss_pre, expected.differentials.loss_pre)
    assert own.settings["accumulation_steps"] == way.get("accumulation_steps", 1)


class Single(Module):
    """In single precision, which autocast and 16-bit weights start from."""

    def __init__(self):
        super().__init__()
        self.float()

    def training_step(self, batch, batch_idx):
        x, y = batch
        x = x.to(self.net[0].weight.dtype)
        return super().training_step((x, y.to(x.dtype)), batch_idx)


@pytest.mark.parametrize(
    "options", [{**CHEAP, "val_data": None}, {**TUNE, "evaluation": None}], ids=["find_lr", "tune"]
)
def test_data_to_judge_on_is_taken_as_the_trainers_own_without_numbers(options):
    numbers = set()

    class Numbers(Light):
        def training_step(self, batch, batch_idx):
            numbers.add((len(batch[0]), batch_idx))
            return super().training_step(batch, batch_idx)

    judged = DataLoader(TensorDataset(X[:6], Y[:6]), batch_size=3)
    callback = Watched(apply=False, **{name: judged if value is None else value for name, value in options.items()})
    fit(callback, module=Numbers, max_epochs=1)
    assert {number for size, number in numbers if size in (3, 6)} == {0}
    assert len({number for size, number in numbers if size == 8}) > 1


def test_a_loss_of_the_users_is_given_the_batches_of_the_loader():
    sizes = set()

    def compute_loss(module, batch):
        sizes.add(tuple(len(part) for part in batch))
        return nn.functional.mse_loss(module.net(batch[0]), batch[1])

    fit(AutoLRCallback(compute_loss=compute_loss, apply=False, **TUNE), module=Light, max_steps=1)
    assert sizes == {(8, 8)}


def test_where_all_diverges_later_in_the_training_it_goes_on_and_loggers_get_nothing():
    class Diverges(Light):
        def on_train_epoch_start(self):
            self.begun = self.net[0].weight.detach().clone()

        def training_step(self, batch, batch_idx):
            is_probed = self.current_epoch == 1 and isinstance(self.trainer.logger, DummyLogger)
            is_moved = not torch.equal(self.net[0].weight, self.begun)
            return super().training_step(batch, batch_idx) * (math.inf if is_probed and is_moved else 1.0)

    callback = AutoLRCallback(every_n_epochs=1, log=True, **CHEAP)
    _, trainer = fit(callback, module=Diverges, logger=Records())
    assert trainer.current_epoch == 2
    assert len(callback.suggestions) == sum("autolr/low" in metrics for metrics, _ in trainer.logger.metrics) == 1


@pytest.mark.filterwarnings("ignore:At the pick .* below the resolution")  # of 16 bits, which is coarse
@pytest.mark.parametrize(
    ("options", "dtype", "scaled"),
    [
        ({"precision": "bf16-mixed"}, torch.bfloat16, False),
        ({"precision": "bf16-true"}, torch.bfloat16, False),
        ({"plugins": [pl.plugins.MixedPrecision("16-mixed", device="cpu")]}, torch.float16, True),
    ],
    ids=["bf16-mixed", "bf16-true", "16-mixed"],
)
def test_probes_are_in_the_trainers_precision(options, dtype, scaled):
    dtypes = set()

    class Tells(Single):
        def training_step(self, batch, batch_idx):
            handle = self.net[0].register_forward_hook(lambda *args: dtypes.add(args[2].dtype))
            try:
                return super().training_step(batch, batch_idx)
            finally:
                handle.remove()

    callback = Watched(apply=False, **{**TUNE, "num_subsamples": 2})
    fit(callback, module=sgd(Tells), max_steps=1, **options)
    settings = callback.suggestion.evidence.settings
    assert dtypes == {dtype}
    assert settings["scaler"] is scaled
    assert settings["autocast"] is ("precision" not in options or options["precision"] == "bf16-mixed")


class Names(pl.LightningModule):
    """Takes pairs of batches by name, without a number; draws random numbers where batches are moved."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 1).double()
        self.moved = 0

    def on_before_batch_transfer(self, batch, _):
        self.moved += 1
        return {**batch, "noise": torch.rand(1, dtype=torch.float64)}

    def on_after_batch_transfer(self, batch, _):
        return {**batch, "more": torch.rand(1, dtype=torch.float64)}

    def training_step(self, batch):
        noise = batch["noise"] + batch["more"]
        return sum(nn.functional.mse_loss(self.net(x + noise), y) for x, y in (batch["a"], batch["b"]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.mark.parametrize("mode", ["max_size_cycle", "min_size"])
@pytest.mark.parametrize("options", [CHEAP, TUNE], ids=["find_lr", "tune"])
def test_loaders_that_are_combined_and_hooks_that_move_a_batch(mode, options):
    final = []
    for callbacks in ([], [Watched(apply=False, every_n_epochs=1, **options)]):
        torch.manual_seed(0)
        data = pl.utilities.CombinedLoader({"a": loader(), "b": loader(batch_size=12)}, mode)
        module, _ = fit(*callbacks, module=Names, data=data)
        final.append((module.net.weight.tolist(), module.moved))
    assert final[0] == final[1]
    assert final[0][1] == 2 * (6 if mode == "max_size_cycle" else 4)


def test_the_limit_of_batches_and_their_numbers_are_those_of_the_trainer():
    numbers = set()

    class Tells(Light):
        def training_step(self, batch, batch_idx):
            numbers.add(batch_idx)
            return super().training_step(batch, batch_idx)

    callback = AutoLRCallback(apply=False, **CHEAP)
    fit(callback, module=Tells, limit_train_batches=4)
    assert numbers == set(range(4))
    assert callback.suggestion.evidence.settings["total_steps"] == 8


@pytest.mark.parametrize(
    "options",
    [
        {"num_workers": 1, "persistent_workers": True},
        {"generator": torch.Generator()},
        {"shuffle": False, "sampler": torch.utils.data.WeightedRandomSampler(torch.arange(1.0, 49.0).tolist(), 48)},
    ],
    ids=["workers", "generator", "sampler"],
)
def test_the_epoch_that_is_running_goes_on_undisturbed(options):
    outcomes = []
    for callbacks in ([], [AutoLRCallback(apply=False, every_n_epochs=1, **CHEAP)]):
        if "generator" in options:
            options["generator"].manual_seed(0)
        outcomes.append(outcome(*fit(*callbacks, data=loader(**options), max_epochs=2)))
    assert outcomes[0] == outcomes[1]


def test_a_data_module_and_validation_are_as_without_the_callback():
    class Data(pl.LightningDataModule):
        def train_dataloader(self):
            return loader()

        def val_dataloader(self):
            return loader(shuffle=False)

    class Validates(Light):
        def validation_step(self, batch, _):
            self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))

    outcomes = [
        outcome(*fit(*callbacks, module=Validates, datamodule=Data(), val_check_interval=0.5))
        for callbacks in ([], [Watched(apply=False, every_n_epochs=1, **CHEAP)])
    ]
    assert outcomes[0] == outcomes[1]


def test_what_the_modules_hooks_prepare_is_there():
    class Prepares(Light):
        def on_train_epoch_start(self):
            self.of_epoch = []

        def training_step(self, batch, batch_idx):
            self.of_epoch.append(batch_idx)
            return super().training_step(batch, batch_idx)

    module, _ = fit(AutoLRCallback(apply=False, every_n_epochs=1, **CHEAP), module=Prepares)
    assert module.of_epoch == list(range(6))


def test_a_training_that_is_resumed_is_tuned_and_its_checkpoint_knows_nothing_of_it(tmp_path):
    _, trainer = fit(AutoLRCallback(apply=False, **CHEAP), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    assert torch.load(tmp_path / "saved.ckpt", weights_only=True)["callbacks"] == {}
    callback = AutoLRCallback(apply=False, every_n_epochs=2, **CHEAP)
    plain = outcome(*fit(ckpt_path=tmp_path / "saved.ckpt", max_epochs=4))
    assert outcome(*fit(callback, ckpt_path=tmp_path / "saved.ckpt", max_epochs=4)) == plain
    assert [s.evidence.settings["total_steps"] for s in callback.suggestions] == [18, 6]


@pytest.mark.parametrize(
    ("accumulated", "frequency", "interval", "expected"),
    [(1, 1, "epoch", 0.75), (2, 1, "epoch", 0.75), (1, 2, "epoch", 1.0), (1, 6, "step", 0.75), (2, 6, "step", 0.75)],
)
def test_a_schedule_counts_at_the_pace_at_which_the_trainer_steps_it(accumulated, frequency, interval, expected):
    class Paced(Light):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
            return [optimizer], [{"scheduler": scheduler, "interval": interval, "frequency": frequency}]

    rates = []

    class Rates(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.fit_loop.batch_idx % accumulated == 0:
                rates.append(trainer.optimizers[0].param_groups[0]["lr"] / 0.1)

    callback = AutoLRCallback(apply=False, **CHEAP)
    fit(Rates(), callback, module=Paced, accumulate_grad_batches=accumulated)
    assert callback.suggestion.evidence.settings["mean_factor"] == pytest.approx(expected) == np.mean(rates)


def test_schedulers_without_a_pace_count_as_constant_and_several_are_rebased_together():
    class Several(Light):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=1e-7)
            step = torch.optim.lr_scheduler.LinearLR(optimizer, 0.5, total_iters=2)
            epoch = torch.optim.lr_scheduler.ExponentialLR(optimizer, 1.0)
            return [optimizer], [{"scheduler": step, "interval": "step"}, {"scheduler": epoch, "interval": "epoch"}]

    callback = AutoLRCallback(**CHEAP)
    _, trainer = fit(callback, module=Several)
    rate = float(callback.suggestion)
    assert callback.suggestion.evidence.settings["schedule"] == "lambda"
    assert [config.scheduler.base_lrs for config in trainer.lr_scheduler_configs] == [[rate], [rate]]
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(rate)


def test_a_plateau_scheduler_is_rebased():
    class Plateau(Module):
        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), lr=1e-7)
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=100)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "loss"}}

    callback = AutoLRCallback(**CHEAP)
    _, trainer = fit(callback, module=Plateau)
    assert callback.suggestion.evidence.settings["schedule"] == "plateau"
    assert trainer.optimizers[0].param_groups[0]["lr"] == float(callback.suggestion)


def test_a_schedule_that_is_a_method_of_the_module_is_followed():
    class Method(Light):
        def factor(self, step):
            return 1.0 - step / self.trainer.estimated_stepping_batches

        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.factor)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    callback = Watched(apply=False, **CHEAP)
    fit(callback, module=Method)
    assert callback.suggestion.evidence.settings["mean_factor"] == pytest.approx(6.5 / 12)


def test_an_epoch_that_only_averages_is_not_tuned():
    averages = pl.callbacks.StochasticWeightAveraging(1e-2, swa_epoch_start=1)
    callback = AutoLRCallback(apply=False, every_n_epochs=1, **CHEAP)
    fit(averages, callback, module=lambda: Light(interval="epoch"))
    assert len(callback.suggestions) == 2  # and not in the third epoch, which Lightning adds for the averages


def test_accumulation_is_that_of_the_epoch():
    scheduler = pl.callbacks.GradientAccumulationScheduler({0: 2, 1: 3})
    callback = AutoLRCallback(apply=False, every_n_epochs=1, **CHEAP)
    fit(callback, scheduler, module=Light, max_epochs=3)
    settings = [suggestion.evidence.settings for suggestion in callback.suggestions]
    assert [(of["accumulation_steps"], of["total_steps"]) for of in settings] == [(2, 9), (3, 4), (3, 2)]


def test_a_fast_dev_run_tunes_nothing(caplog):
    callback = AutoLRCallback(**CHEAP)
    with caplog.at_level(logging.INFO, "autolr"):
        fit(callback, fast_dev_run=True)
    assert callback.suggestion is None
    assert "Nothing is tuned in a fast_dev_run" in caplog.text


def test_a_loss_with_one_element_is_taken_as_the_trainer_takes_it():
    class OneElement(Light):
        def training_step(self, batch, batch_idx):
            self.print("a step")
            return super().training_step(batch, batch_idx).reshape(1)

    callback = AutoLRCallback(apply=False, **TUNE)
    fit(callback, module=OneElement)
    assert callback.suggestion is not None


class Manual(Light):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class NoOptimizer(Light):
    def configure_optimizers(self):
        return None


class TakesIterator(Light):
    def training_step(self, dataloader_iter):
        return super().training_step(next(dataloader_iter)[0], 0)


class NoLoss(Light):
    def training_step(self, *_):
        return None


class OwnScheduler(Light):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = Mock(spec=["optimizer", "step", "state_dict", "load_state_dict"], optimizer=optimizer)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def lr_scheduler_step(self, scheduler, _):
        scheduler.step()


@pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`")
@pytest.mark.filterwarnings("ignore:.*`dataloader_iter`")
@pytest.mark.parametrize(
    ("module", "error", "match"),
    [
        (Manual, ValueError, "`model` must optimize automatically .* got automatic_optimization=False"),
        (NoOptimizer, ValueError, "`configure_optimizers` must return an optimizer, got None"),
        (TakesIterator, ValueError, "`training_step` must take a batch, got 'dataloader_iter'"),
        (NoLoss, TypeError, "`training_step` must return a loss, or a mapping with one under 'loss', got None"),
        (OwnScheduler, TypeError, "`scheduler` must be a torch.optim.lr_scheduler.LRScheduler, which can be rebased"),
    ],
)
def test_what_cannot_be_tuned_is_refused(module, error, match):
    with pytest.raises(error, match=match):
        fit(AutoLRCallback(**CHEAP), module=module)


def test_a_scheduler_that_cannot_be_rebased_is_no_matter_where_nothing_is_set():
    callback = AutoLRCallback(apply=False, **CHEAP)
    fit(callback, module=OwnScheduler)
    assert callback.suggestion is not None


def test_batches_that_can_be_read_once_only_are_refused():
    data = ((X[i : i + 8], Y[i : i + 8]) for i in range(0, 48, 8))
    with pytest.raises(ValueError, match="`train_dataloader` must hold batches that can be read again"):
        fit(AutoLRCallback(**CHEAP), module=Light, data=data, max_epochs=1)


def test_a_strategy_that_wraps_the_model_in_its_own_way_is_refused():
    trainer = Mock(spec=pl.Trainer, world_size=2, current_epoch=0, strategy=FSDPStrategy())
    with pytest.raises(
        ValueError, match=r"`strategy` must be 'ddp', or a ModelParallelStrategy .*, got 'FSDPStrategy'"
    ):
        AutoLRCallback().on_train_start(trainer, Light())


def test_a_sampler_that_lightning_has_wrapped_is_read_as_a_whole(monkeypatch):
    monkeypatch.setattr(_loaders, "are_several", lambda: True)
    sampler = DistributedSamplerWrapper(SequentialSampler(X[:, 0]), num_replicas=2, rank=1)
    own = _loaders.own_loader(DataLoader(X[:, 0], batch_size=None, sampler=sampler), name="train_dataloader")
    torch.testing.assert_close(torch.stack(list(own)), X[:, 0])


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"tool": "find"}, ValueError, "`tool` must"),
        ({"apply": 1}, TypeError, "`apply` must"),
        ({"every_n_epochs": 0}, ValueError, "`every_n_epochs` must be at least 1, got 0"),
        ({"log": "yes"}, TypeError, "`log` must be a function of a suggestion"),
    ],
)
def test_wrong_arguments_are_refused_when_the_callback_is_made(options, error, match):
    with pytest.raises(error, match=match):
        AutoLRCallback(**options)


def test_without_lightning_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    spec = importlib.util.spec_from_file_location("without_lightning", hooks.__file__)
    with pytest.raises(ImportError, match=r"needs Lightning: pip install autolr\[lightning\]"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))

"""The callback of Transformers: the trainer's own training, with a rate that was found for it, or left alone."""

import math
import sys

import numpy as np
import pytest
import torch
from harness import unchanged
from torch import nn

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments  # noqa: E402 (after what skips)

from autolr.integrations.transformers import AutoLRCallback  # noqa: E402

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::autolr.GridEdgeWarning"),  # of few rows
]
QUICK = {
    "find_lr": {"effort": "fast", "max_evaluations": 40, "rng": 0, "progress": False},
    "tune": {
        "tool": "tune",
        "num_subsamples": 4,
        "learning_rates": [1e-5, 1e-3, 1e-2, 1e-1, 10.0],
        "rng": 0,
        "progress": False,
    },
}


class Net(nn.Module):
    """Batch statistics and dropout; the loss is in the output."""

    def __init__(self, dropout=0.2):
        super().__init__()
        layers = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3)
        self.layers = nn.Sequential(*layers)

    def forward(self, x, labels=None):
        logits = self.layers(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Tagger(nn.Module):
    """A label at each of several places, some of which do not count; the loss by the items of the whole step."""

    accepts_loss_kwargs = True
    config = transformers.PretrainedConfig()

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x, labels=None, num_items_in_batch=None):
        logits = self.head(x)
        if labels is None:
            return {"logits": logits}
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        count = (labels != -100).sum() if num_items_in_batch is None else num_items_in_batch
        return {"loss": loss / count, "logits": logits}


def observations(num=44, *, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(num, 4, dtype=dtype, generator=generator)
    return [{"x": x, "labels": x[:3].argmax()} for x in X]


def sentences(num=50):
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(num, 5, 4, dtype=torch.float64, generator=generator)
    labels = X[..., :3].argmax(-1).masked_fill(torch.rand(num, 5, generator=generator) < 0.4, -100)
    return [{"x": x, "labels": y} for x, y in zip(X, labels, strict=True)]


class Recorded(Trainer):
    """Notes what it trains on, and the losses."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.record = Record()

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.record.steps.append((inputs["x"].clone(), float(loss)))
        return loss


class Record:
    def __init__(self):
        self.steps = []


def a_trainer(tmp_path, *, model=None, data=None, kind=Recorded, optimizers=(None, None), loss_func=None, **arguments):
    torch.manual_seed(0)
    model = Net().double() if model is None else model
    defaults = {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "warmup_steps": 3,
        "gradient_accumulation_steps": 2,
        "max_grad_norm": 0.5,
        "logging_steps": 1,
    }
    fixed = {"use_cpu": True, "report_to": [], "save_strategy": "no", "disable_tqdm": True}
    made = TrainingArguments(str(tmp_path), **{**fixed, **defaults, **arguments})
    data = observations() if data is None else data
    trainer = kind(
        model,
        made,
        train_dataset=data,
        optimizers=optimizers,
        compute_loss_func=loss_func,
        eval_dataset=observations(8),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def facts(trainer):
    """All that a training leaves behind, in bits."""
    tensors = [*trainer.model.state_dict().values()]
    for state in trainer.optimizer.state_dict()["state"].values():
        tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    inputs, losses = zip(*trainer.record.steps, strict=True)
    logs = [{k: v for k, v in log.items() if "per_second" not in k and "runtime" not in k} for log in logged(trainer)]
    groups = [{k: v for k, v in group.items() if k != "params"} for group in trainer.optimizer.param_groups]
    bits = [tensor.numpy().tobytes() for tensor in (*tensors, *inputs, torch.get_rng_state())]
    numpy_state = np.random.get_state(legacy=False)["state"]["key"].tobytes()  # noqa: NPY002 (the global one)
    return bits, losses, repr(logs), repr(groups), repr(trainer.lr_scheduler.state_dict()), numpy_state


def logged(trainer):
    return trainer.state.log_history


def trained(tmp_path, callback=None, **options):
    """Return the facts of a training, with a callback that is made for its trainer, and both."""
    trainer = a_trainer(tmp_path, **options)
    added = None if callback is None else callback(trainer)
    if added is not None:
        trainer.add_callback(added)
    trainer.train()
    return facts(trainer), trainer, added


def hook(tool, *, with_trainer=True, kind=AutoLRCallback, **options):
    return lambda trainer: kind(trainer if with_trainer else None, **{**QUICK[tool], **options})


class Leaky(AutoLRCallback):
    def on_train_begin(self, *args, **kwargs):
        super().on_train_begin(*args, **kwargs)
        torch.rand(1)


@pytest.mark.parametrize(
    ("tool", "seedable", "with_trainer"),
    [("find_lr", False, True), ("find_lr", True, False), ("tune", True, True), ("tune", False, False)],
)
def test_a_training_is_bit_for_bit_the_one_without_the_callback_and_one_leaked_draw_is_seen(
    tmp_path, tool, seedable, with_trainer
):
    options = {"accelerator_config": {"use_seedable_sampler": seedable}}
    alone = trained(tmp_path, **options)[0]
    made = {"with_trainer": with_trainer, "apply": False, "every_n_epochs": 1}
    with_it, _, callback = trained(tmp_path, hook(tool, **made), **options)
    assert len(callback.suggestions) == 2
    assert with_it == alone
    assert trained(tmp_path, hook(tool, kind=Leaky, **made), **options)[0] != alone


@pytest.mark.parametrize(
    ("tool", "more"), [("find_lr", {}), ("tune", {"num_subsamples": 20, "evaluation": "subsample"})]
)
def test_a_rate_that_is_far_off_is_set_and_the_schedule_rebased_in_its_warm_up(tmp_path, tool, more):
    _, trainer, callback = trained(tmp_path, hook(tool, **more), learning_rate=1e-7, data=observations(160))
    found = callback.suggestion.learning_rate
    assert found > 1e-4
    assert trainer.lr_scheduler.base_lrs == [found, found]  # with weight decay and without
    rates = [log["learning_rate"] for log in logged(trainer) if "learning_rate" in log]
    num = len(rates)
    expected = [found * (t / 3 if t < 3 else (num - t) / (num - 3)) for t in range(num)]
    assert rates == pytest.approx(expected)
    assert trainer.args.learning_rate == 1e-7


@pytest.mark.parametrize("tool", QUICK)
def test_a_rate_that_is_among_the_best_is_left_with_all_else(tmp_path, tool):
    found = trained(tmp_path, hook(tool, apply=False))[2].suggestion.learning_rate
    alone = trained(tmp_path, learning_rate=found)[0]
    with_it, _, callback = trained(tmp_path, hook(tool), learning_rate=found)
    assert callback.suggestion.learning_rate == pytest.approx(found, rel=0.5)
    assert with_it == alone


@pytest.mark.parametrize("schedule", ["cosine", "constant_with_warmup", "reduce_lr_on_plateau", "greedy"])
def test_every_kind_of_schedule_goes_on_from_the_rate_that_is_set(tmp_path, schedule):
    options = (
        {"per_device_eval_batch_size": 4, "eval_strategy": "epoch"}
        if schedule in ("reduce_lr_on_plateau", "greedy")
        else {}
    )
    options |= {"lr_scheduler_kwargs": {"min_lr": 0.0}} if schedule == "greedy" else {}
    options |= {"lr_scheduler_type": schedule, "learning_rate": 1e-7}
    _, trainer, callback = trained(tmp_path, hook("find_lr"), **options)
    rates = [log["learning_rate"] for log in logged(trainer) if "learning_rate" in log]
    assert max(rates) == pytest.approx(callback.suggestion.learning_rate, rel=0.5)


def test_it_tunes_again_before_every_second_epoch_for_the_steps_that_are_left(tmp_path):
    options = {"num_train_epochs": 5, "gradient_accumulation_steps": 1}
    _, trainer, callback = trained(tmp_path, hook("find_lr", every_n_epochs=2), **options)
    left = [suggestion.evidence.settings["total_steps"] for suggestion in callback.suggestions]
    assert left == [55, 33, 11]
    assert callback.suggestion is callback.suggestions[-1]
    trainer.train()  # once more: from its own beginning
    assert len(callback.suggestions) == 6


def test_nothing_is_logged_unless_it_is_asked_for(tmp_path):
    keys = {"autolr/learning_rate", "autolr/low", "autolr/high"}
    trainer = trained(tmp_path, hook("find_lr"))[1]
    assert not [log for log in logged(trainer) if keys & log.keys()]
    _, trainer, callback = trained(tmp_path, hook("find_lr", log=True, every_n_epochs=1))
    logs = [log for log in logged(trainer) if keys & log.keys()]
    assert [log["autolr/learning_rate"] for log in logs] == [found.learning_rate for found in callback.suggestions]
    assert [(log["autolr/low"], log["autolr/high"]) for log in logs] == [(s.low, s.high) for s in callback.suggestions]


def test_a_function_is_given_each_suggestion_and_may_log_by_the_trainer(tmp_path):
    seen = []

    def made(trainer):
        return AutoLRCallback(
            trainer, log=lambda s: (seen.append(s), trainer.log({"mine": float(s)})), **QUICK["find_lr"]
        )

    _, trainer, callback = trained(tmp_path, made)
    assert seen == callback.suggestions
    assert [log["mine"] for log in logged(trainer) if "mine" in log] == [float(callback.suggestion)]


class Noting(Recorded):
    """Logs and counts from within its loss, as many do."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.metrics, self.calls = {"losses": []}, 0

    def compute_loss(self, model, inputs, *args, **kwargs):
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        self.metrics["losses"].append(float(loss.detach()))
        self.calls += 1
        self.log({"calls": self.calls})
        return loss


def test_what_a_loss_logs_and_notes_in_its_trainer_is_of_the_training_only(tmp_path):
    alone, without, _ = trained(tmp_path, kind=Noting)
    with_it, trainer, _ = trained(tmp_path, hook("find_lr", apply=False), kind=Noting)
    assert with_it == alone
    assert trainer.metrics == without.metrics
    assert trainer.calls == without.calls == len(without.metrics["losses"])


def own_loss(outputs, labels, num_items_in_batch=None):
    picked = labels != -100
    loss = nn.functional.cross_entropy(outputs["logits"][picked], labels[picked], reduction="sum")
    return loss / num_items_in_batch


class Gradients(TrainerCallback):
    """Notes the gradients with which the optimizer steps first in the probes, and first in the training."""

    def __init__(self, trainer):
        self.trainer, self.steps = trainer, []

    def on_train_begin(self, *_, **__):
        self.trainer.optimizer.optimizer.register_step_pre_hook(self.note)

    def note(self, optimizer, *_):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        self.steps.append([gradient.clone() for gradient in gradients])


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (Tagger, {}),
        (Tagger, {"loss_func": own_loss}),
        (Tagger, {"label_smoothing_factor": 0.1}),
        (Tagger, {"max_grad_norm": 0.01}),
        (Tagger, {"bf16": True}),
        (Net, {"data": observations(50)}),
        (Net, {"data": observations(6)}),  # fewer micro-batches than a step takes
        (Net, {"gradient_accumulation_steps": 1, "max_grad_norm": 0.0, "data": observations()}),
    ],
)
def test_the_gradient_of_a_probe_is_that_of_the_training_with_accumulation_clipping_and_items(tmp_path, model, options):
    made = model(dropout=0.0) if model is Net else model()
    options = {"data": sentences(), "gradient_accumulation_steps": 3, **options}
    trainer = a_trainer(tmp_path, model=made.double(), train_sampling_strategy="sequential", **options)
    gradients = Gradients(trainer)
    trainer.add_callback(gradients)
    few = len(options["data"]) < 12
    tool = {"tool": "tune", "num_subsamples": 2, "learning_rates": [1e-3, 1e-2], "engine": "step", "rng": 0}
    callback = AutoLRCallback(trainer, apply=False, **({**QUICK["find_lr"], "target": "training"} if few else tool))
    trainer.add_callback(callback)
    trainer.train()
    first_of_training = gradients.steps[-trainer.state.max_steps]
    assert len(gradients.steps) > trainer.state.max_steps
    for probed, own in zip(gradients.steps[0], first_of_training, strict=True):
        torch.testing.assert_close(probed, own, rtol=1e-12, atol=1e-14)


class Scaled(AutoLRCallback):
    def on_train_begin(self, *args, optimizer, **kwargs):
        optimizer.scaler = torch.amp.GradScaler("cpu")  # as of fp16, which the CPU's trainer refuses
        super().on_train_begin(*args, optimizer=optimizer, **kwargs)
        optimizer.scaler = None


def test_the_scaler_of_the_prepared_optimizer_scales_the_losses_of_the_probes(tmp_path):
    callback = trained(tmp_path, hook("tune", kind=Scaled, apply=False))[2]
    assert callback.suggestion.evidence.settings["scaler"]


def test_probes_are_in_training_mode_where_the_model_comes_in_evaluation_mode(tmp_path):
    modes = set()

    def compute_loss(model, batch):
        modes.add(model.training)
        return model(**batch)["loss"]

    trainer = a_trainer(tmp_path)
    trainer.model.eval()
    callback = AutoLRCallback(trainer, compute_loss=compute_loss, apply=False, **QUICK["tune"])
    ends = Ends(callback)
    trainer.add_callback(ends)
    trainer.train()
    assert modes == {True}
    assert ends.training is False


class Ends(TrainerCallback):
    """Runs a callback within a proof that it changes nothing, and notes how it ends."""

    def __init__(self, callback):
        self.callback = callback

    def on_train_begin(self, args, state, control, **kwargs):
        model, optimizer, loader = kwargs["model"], kwargs["optimizer"], kwargs["train_dataloader"]
        shared = vars(loader.gradient_state)
        before = dict(shared), dict(vars(loader)), dict(vars(loader.base_dataloader))
        samplers = loader.batch_sampler, loader.batch_sampler.sampler
        marks = [dict(vars(sampler)) for sampler in samplers]
        try:
            with unchanged(model, optimizer.optimizer, scheduler=kwargs["lr_scheduler"]):
                self.callback.on_train_begin(args, state, control, **kwargs)
        finally:
            self.training = model.training
            assert (dict(shared), dict(vars(loader)), dict(vars(loader.base_dataloader))) == before
            assert [dict(vars(sampler)) for sampler in samplers] == marks


@pytest.mark.parametrize("seedable", [True, False])
@pytest.mark.parametrize("tool", QUICK)
def test_the_gradient_state_and_the_samplers_of_accelerate_are_left_alone(tmp_path, tool, seedable):
    trainer = a_trainer(tmp_path, accelerator_config={"use_seedable_sampler": seedable})
    trainer.add_callback(Ends(AutoLRCallback(trainer, apply=False, **QUICK[tool])))
    trainer.train()


class Failing(Recorded):
    left = math.inf

    def compute_loss(self, model, inputs, *args, **kwargs):
        self.record.left = getattr(self.record, "left", self.left) - 1
        if self.record.left < 0:
            raise self.error
        return super().compute_loss(model, inputs, *args, **kwargs)


@pytest.mark.parametrize("error", [RuntimeError("of the user's own"), KeyboardInterrupt("of the user's own")])
@pytest.mark.parametrize("tool", QUICK)
def test_an_error_in_the_loss_passes_through_and_everything_is_put_back(tmp_path, tool, error):
    trainer = a_trainer(tmp_path, kind=Failing)
    trainer.left, trainer.error = 17, error
    trainer.add_callback(Ends(AutoLRCallback(trainer, **QUICK[tool])))
    with pytest.raises(type(error), match="of the user's own"):
        trainer.train()
    assert "log" not in vars(trainer)
    assert trainer.record.steps == []


def test_a_loss_of_the_users_is_given_the_batches_of_the_loader(tmp_path):
    seen = []

    def compute_loss(model, batch):
        seen.append(sorted(batch))
        return model(**batch)["loss"]

    trained(tmp_path, hook("tune", compute_loss=compute_loss, apply=False))
    assert seen
    assert all(keys == ["labels", "x"] for keys in seen)


@pytest.mark.parametrize(("tool", "name"), [("find_lr", "val_data"), ("tune", "evaluation")])
def test_a_loader_of_the_trainers_to_judge_on_is_read_as_the_trainer_reads_it(tmp_path, tool, name):
    data = sentences(4)
    trainer = a_trainer(tmp_path, model=Tagger().double(), data=sentences())
    callback = AutoLRCallback(trainer, **{**QUICK[tool], name: trainer.get_eval_dataloader(data)}, apply=False)
    trainer.add_callback(Ends(callback))
    batch = trainer.data_collator(data)
    items = trainer._get_num_items_in_batch([batch], "cpu")
    expected = float(trainer.compute_loss(trainer.model, batch, num_items_in_batch=items).detach())
    trainer.train()
    evidence = callback.suggestion.evidence
    if tool == "tune":
        np.testing.assert_allclose(evidence.differentials.loss_pre, expected, rtol=1e-12)
    else:
        assert evidence.settings["held_out"] == "val_data"


def test_data_without_a_length_and_a_scheduler_and_an_optimizer_of_the_users_are_taken(tmp_path):
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(observations())

    model = Net().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-7, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    own = {"model": model, "data": Endless(), "optimizers": (optimizer, scheduler), "max_steps": 40}
    callback = trained(tmp_path, hook("find_lr"), **own)[2]
    assert scheduler.base_lrs == [callback.suggestion.learning_rate]


class WithLoader(Recorded):
    """A loader of the user's own, with a generator, that is not prepared."""

    def get_train_dataloader(self):
        self.generator = torch.Generator().manual_seed(3)
        return torch.utils.data.DataLoader(self.train_dataset, batch_size=4, shuffle=True, generator=self.generator)


@pytest.mark.parametrize("with_trainer", [True, False])
def test_the_generator_of_a_loader_of_the_users_goes_back(tmp_path, with_trainer):
    alone, without, _ = trained(tmp_path, kind=WithLoader)
    made = hook("find_lr", with_trainer=with_trainer, apply=False)
    with_it, trainer, _ = trained(tmp_path, made, kind=WithLoader)
    assert with_it == alone
    assert torch.equal(trainer.generator.get_state(), without.generator.get_state())


def test_a_training_that_goes_on_from_a_checkpoint_is_bit_for_bit_the_one_without_the_callback(tmp_path):
    trainer = a_trainer(tmp_path, save_strategy="steps", save_steps=4)
    trainer.train()
    ends = []
    for callback in (None, hook("find_lr", apply=False)):
        trainer = a_trainer(tmp_path, save_strategy="no")
        if callback is not None:
            trainer.add_callback(added := callback(trainer))
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
        ends.append(facts(trainer))
    assert ends[0] == ends[1]
    assert added.suggestion.evidence.settings["total_steps"] == trainer.state.max_steps - 4


def test_a_run_that_is_resumed_at_its_end_is_not_tuned(tmp_path):
    trainer = a_trainer(tmp_path)
    trainer.state.max_steps = trainer.state.global_step = 7
    callback = AutoLRCallback(trainer)
    callback.on_train_begin(
        trainer.args,
        trainer.state,
        trainer.control,
        model=None,
        optimizer=None,
        lr_scheduler=None,
        train_dataloader=None,
    )
    assert callback.suggestion is None


def test_several_devices_of_one_process_are_refused(tmp_path, monkeypatch):
    trainer = a_trainer(tmp_path)
    trainer.add_callback(AutoLRCallback(trainer))
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda _: 2 if trainer.is_in_train else 1))
    with pytest.raises(ValueError, match=r"`accelerator` must have the whole model, .*, got '2 devices'"):
        trainer.train()


def test_a_static_graph_of_several_processes_is_refused(tmp_path, monkeypatch):
    trainer = a_trainer(tmp_path, ddp_static_graph=True)
    trainer.add_callback(AutoLRCallback(trainer))
    monkeypatch.setattr(TrainingArguments, "world_size", property(lambda _: 2 if trainer.is_in_train else 1))
    with pytest.raises(ValueError, match=r"`ddp_static_graph` must be False: its first backward .*, got True"):
        trainer.train()


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(TypeError, match=r"`trainer` must be a transformers\.Trainer or None, got 3"):
        AutoLRCallback(3)
    with pytest.raises(ValueError, match="`log` must be a function or None where no trainer is given, got True"):
        AutoLRCallback(log=True)
    with pytest.raises(TypeError, match="`log` must be a function of a suggestion or None, got 'yes'"):
        AutoLRCallback(a_trainer(tmp_path), log="yes")
    with pytest.raises(ValueError, match=r"`accumulation_steps` must be left out where the trainer's own .*, got 2"):
        AutoLRCallback(a_trainer(tmp_path), accumulation_steps=2)
    with pytest.raises(ValueError, match="`tool` must be"):
        AutoLRCallback(tool="guess")


@pytest.mark.parametrize("missing", ["transformers", "accelerate"])
def test_where_the_library_is_missing_the_extra_is_named(monkeypatch, missing):
    for module in ("autolr.integrations.transformers", "autolr.integrations.accelerate"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"needs transformers and accelerate: pip install autolr\[transformers\]"):
        __import__("autolr.integrations.transformers")

"""Trainings by a ``Trainer`` of several processes, with the callback and without; :func:`trained` is of one too."""

import os
import tempfile
import warnings
from functools import partial

import torch
import torch.distributed as dist
from harness import unchanged
from launch import digest, report
from torch import nn
from transformers import PretrainedConfig, Trainer, TrainingArguments

import autolr
from autolr.integrations.transformers import AutoLRCallback

TUNE = {
    "tool": "tune",
    "num_subsamples": 3,
    "learning_rates": autolr.log_grid(1e-4, 1.0, 9),
    "engine": "line",
    "evaluation": "subsample",  # so that rows are the same, whether a step is one of the loader's items or several
}
SEARCH = {"effort": "fast", "max_evaluations": 40}


class Tagger(nn.Module):
    """A label at each of several places, some of which do not count; the loss by the items of the whole step."""

    accepts_loss_kwargs = True
    config = PretrainedConfig()

    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(5), nn.Dropout(0.2), nn.Linear(8, 3)).double()

    def forward(self, x, labels=None, num_items_in_batch=None):
        logits = self.head(x)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        count = (labels != -100).sum() if num_items_in_batch is None else num_items_in_batch
        return {"loss": loss / count, "logits": logits}


class Gathering(Trainer):
    """Its loss talks to the other processes, or fails on one while it is tuned."""

    fails = False

    def compute_loss(self, model, inputs, *arguments, **options):
        if self.fails and self.args.process_index == 1:
            raise ZeroDivisionError("of the user's own")
        loss = super().compute_loss(model, inputs, *arguments, **options)
        self.accelerator.gather(torch.ones(1))
        return loss


class Caught(AutoLRCallback):
    """Goes on with the training after an error, and notes it, or what the tuning has changed."""

    error = None

    def on_train_begin(self, args, state, control, **kwargs):
        trainer = self._trainer
        trainer.fails = True
        try:
            with unchanged(kwargs["model"], trainer.optimizer.optimizer, extra=[trainer.model_wrapped]):
                super().on_train_begin(args, state, control, **kwargs)
        except Exception as error:  # noqa: BLE001 (it is reported)
            self.error = [type(error).__name__, str(error)]
        finally:
            trainer.fails = False


def sentences(num=48):
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(num, 5, 4, dtype=torch.float64, generator=generator)
    labels = X[..., :3].argmax(-1).masked_fill(torch.rand(num, 5, generator=generator) < 0.4, -100)
    return [{"x": x, "labels": y} for x, y in zip(X, labels, strict=True)]


def found(suggestion):
    """Return the losses behind a suggestion of one step."""
    return None if suggestion.method == "search" else suggestion.evidence.differentials.loss_post.ravel().tolist()


def trained(callback=None, *, lr=0.01, accumulated=1, with_trainer=True, kind=AutoLRCallback, **arguments):
    """Return the training's end in bits, its rates, and what was suggested with the options ``callback``."""
    torch.manual_seed(0)
    given = TrainingArguments(
        tempfile.mkdtemp(),
        use_cpu=True,
        learning_rate=lr,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=accumulated,
        num_train_epochs=2,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        ddp_backend="gloo" if "RANK" in os.environ else None,
        **arguments,
    )
    trainer = Gathering(Tagger(), given, train_dataset=sentences())
    hook = None
    if callback is not None:
        hook = kind(trainer if with_trainer else None, rng=0, **callback)
        trainer.add_callback(hook)
    with warnings.catch_warnings(action="ignore"):
        trainer.train()
    suggestions = [] if hook is None else hook.suggestions
    return {
        "end": digest(trainer.model, trainer.optimizer.optimizer, torch.get_rng_state()),
        "base rates": trainer.lr_scheduler.base_lrs,
        "suggested": [float(suggestion) for suggestion in suggestions],
        "found": [found(suggestion) for suggestion in suggestions],
        "logged": sum("autolr/learning_rate" in entry for entry in trainer.state.log_history),
        "error": getattr(hook, "error", None),
    }


def main():
    suggests = partial(trained, {**TUNE, "apply": False})
    each = {"average_tokens_across_devices": False}
    report(
        {
            "without": trained(),
            "suggests": suggests(),
            "suggests, trainer unknown": suggests(with_trainer=False),
            "suggests, items of each": suggests(**each),
            "applies": trained({**SEARCH, "log": True}, lr=1e-7),
            "fault": trained(TUNE, kind=Caught),
        }
    )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

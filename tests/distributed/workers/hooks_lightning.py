"""Trainings by Lightning's ddp, with the callback and without it; :func:`trained` does the same in one process."""

import warnings
from functools import partial

import torch
import torch.distributed as dist
import torchmetrics
from harness import unchanged
from launch import digest, report
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset

import autolr
from autolr.integrations.lightning import AutoLRCallback

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = X.sum(1, keepdim=True).tanh()
TUNE = {"tool": "tune", "num_subsamples": 3, "learning_rates": autolr.log_grid(1e-4, 1.0, 9), "engine": "line"}
SEARCH = {"effort": "fast", "max_evaluations": 40}


class Module(LightningModule):
    """Batch statistics, dropout, and a step that talks to the other ranks in all the ways that Lightning has."""

    def __init__(self, lr):
        super().__init__()
        self.lr, self.fails = lr, False
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 1))
        self.metric = torchmetrics.MeanMetric()
        self.double()

    def configure_model(self):
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch, batch_idx):
        if self.fails and batch_idx > 0 and dist.get_rank() == 1:
            raise ZeroDivisionError("of the user's own")
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.metric(loss.detach())
        self.log("mean", self.metric.compute(), sync_dist=True)
        self.log("gathered", self.all_gather(loss.detach()).mean())
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2)}


class Caught(AutoLRCallback):
    """Goes on with the training after an error, and notes it, or what the tuning has changed."""

    error = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        tune = partial(super().on_train_batch_start, trainer, pl_module, batch, batch_idx)
        try:
            pl_module.fails = True
            with unchanged(pl_module, trainer.optimizers[0], extra=[trainer.model]):
                tune()
        except Exception as error:  # noqa: BLE001 (it is reported)
            self.error = self.error or [type(error).__name__, str(error)]
        finally:
            pl_module.fails = False


def found(suggestion):
    """Return the losses behind a suggestion of one step."""
    return None if suggestion.method == "search" else suggestion.evidence.differentials.loss_post.ravel().tolist()


def trained(callback=None, *, lr=0.01, accumulated=1, strategy="auto", devices=1):
    """Return the training's end in bits, its rates, and what was suggested."""
    torch.manual_seed(0)
    module = Module(lr)
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy,
        accumulate_grad_batches=accumulated,
        max_epochs=2,
        callbacks=[] if callback is None else [callback],
        **quiet,
    )
    torch.manual_seed(dist.get_rank() if devices > 1 else 0)  # of each rank, as a training may have it
    with warnings.catch_warnings(action="ignore"):  # advice
        trainer.fit(module, DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True))
    suggestions = [] if callback is None else callback.suggestions
    [optimizer], [config] = trainer.optimizers, trainer.lr_scheduler_configs
    return {
        "end": digest(module, optimizer, torch.get_rng_state()),
        "base rates": config.scheduler.base_lrs,
        "suggested": [float(suggestion) for suggestion in suggestions],
        "found": [found(suggestion) for suggestion in suggestions],
        "error": getattr(callback, "error", None),
    }


def main():
    dist.init_process_group("gloo")
    said = []
    fit = partial(trained, devices=2)
    ddp = partial(DDPStrategy, process_group_backend="gloo")
    static = partial(ddp, static_graph=True)
    sharded = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    unused = partial(ddp, find_unused_parameters=True)
    report(
        {
            "without": fit(strategy=ddp()),
            "suggests": fit(AutoLRCallback(apply=False, every_n_epochs=1, rng=0, **TUNE), strategy=ddp()),
            "applies": {
                **fit(AutoLRCallback(rng=0, log=said.append, **SEARCH), lr=1e-7, strategy=ddp()),
                "logged": len(said),
            },
            "suggests, static": fit(AutoLRCallback(apply=False, **TUNE), strategy=static()),
            "suggests, unused": fit(AutoLRCallback(apply=False, **TUNE), strategy=unused()),
            "sharded": fit(AutoLRCallback(apply=False, rng=0, **TUNE), strategy=sharded),
            "fault": fit(Caught(rng=0, **TUNE), strategy=ddp()),
        }
    )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""Models that are sharded in many ways, with what trains them; each can be built again, whole or sharded."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

NUM_FEATURES, NUM_CLASSES = 5, 3  # prime, as 7 and 11 below
SCALED = {"scaler": torch.amp.GradScaler("cpu", init_scale=2.0**10)}


class Block(nn.Module):
    """A layer of a transformer on the features of an observation, each a token."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(1, 6)
        self.layer = nn.TransformerEncoderLayer(6, 2, 11, dropout=0.2, batch_first=True)
        self.head = nn.Linear(6, NUM_CLASSES)

    def forward(self, x):
        return self.head(self.layer(self.embed(x[..., None])).mean(1))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(NUM_FEATURES, 7), nn.Linear(7, NUM_FEATURES)
        self.third = nn.Linear(NUM_FEATURES, 7)
        self.third.weight = self.first.weight
        self.head = nn.Linear(7, NUM_CLASSES)

    def forward(self, x):
        return self.head(self.third(self.second(self.first(x).tanh()).tanh()))


def mlp():
    layers = [nn.Linear(NUM_FEATURES, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Dropout(0.2), nn.Linear(7, NUM_CLASSES)]
    return nn.Sequential(*layers)


def frozen():
    model = mlp()
    model[0].requires_grad_(False)
    return model


def clipped(parameters):
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.register_step_pre_hook(lambda *_: nn.utils.clip_grad_norm_(held, 0.05) and None)
    return optimizer


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def momentum(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.01)


@dataclass(frozen=True)
class Case:
    """A model, how it is sharded, its optimizer, and what else a user may say."""

    build: Callable[[], nn.Module]
    make_optimizer: Callable[[Any], torch.optim.Optimizer]
    parts: tuple[str, ...] = ()  # sharded by themselves, before the whole
    policy: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    num_steps: int = 1
    mesh: tuple[int, ...] = ()  # replicas and shards

    def model(self, *, sharded: bool) -> nn.Module:
        torch.manual_seed(0)
        model = self.build().double()
        if sharded:
            policy = dict(self.policy)
            if self.mesh:
                policy["mesh"] = init_device_mesh("cpu", self.mesh, mesh_dim_names=("replicas", "shards"))
            for part in (*self.parts, ""):
                fully_shard(model.get_submodule(part), **policy)
        return model


def norm_of(parameters):
    nn.utils.clip_grad_norm_(parameters, 0.05)


# over two processes, each of which has something of every parameter
CASES = {
    "root only": Case(mlp, sgd),
    "by layers": Case(mlp, momentum, ("0", "4"), options={"accumulation_steps": 2}),
    "tied weights": Case(Tied, adamw, ("second",)),
    "transformer": Case(Block, adamw, ("layer.linear1", "layer")),
    "transformer, resharded": Case(Block, sgd, ("layer",), {"reshard_after_forward": True}, {"clip": norm_of}),
    "transformer, kept whole": Case(Block, momentum, ("layer",), {"reshard_after_forward": False}, SCALED),
    "clipped by a hook": Case(mlp, clipped, ("0",)),
    "three steps": Case(mlp, adamw, ("0",), num_steps=3),
}
# over four, some of which have nothing of some parameters, but where there are two replicas of each shard
OF_FOUR = {
    "root only": Case(mlp, momentum),
    "frozen layer": Case(frozen, adamw, ("4",)),
    "two replicas": Case(Block, adamw, ("layer",), mesh=(2, 2)),
}
HALF = Case(Tied, sgd, ("second",), {"mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16)})

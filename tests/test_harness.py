"""The restore harness detects every change that it is meant to detect."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from harness import unchanged
from torch import nn


def trained():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    model[2].bias.requires_grad_(False)
    model.tracker = {"history": [1.0]}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    return SimpleNamespace(model=model, optimizer=optimizer, scheduler=scheduler)


def moment(optimizer):
    return optimizer.state[optimizer.param_groups[0]["params"][0]]


def swap_data(tensor):
    tensor.data = tensor.data.clone()


def replace_moment(optimizer):
    moment(optimizer)["exp_avg"] = moment(optimizer)["exp_avg"].clone()


def set_buffer(model):
    model[1].running_mean = model[1].running_mean.clone()


CHANGES = {
    "weight value": (lambda t: t.model[0].weight.data[0, 0].add_(1e-6), r"\['weight'\] \(bits\)|weight\] \(bits\)"),
    "weight from NaN to another NaN": (
        lambda t: t.model[2].weight.data.view(torch.int32)[0, 0].add_(1),
        r"weight\] \(bits\)",
    ),
    "sign of zero": (lambda t: t.model[2].weight.data[0, 1].neg_(), r"weight\] \(bits\)"),
    "weight storage": (lambda t: swap_data(t.model[0].weight), r"weight\] \(memory\)"),
    "weight object": (
        lambda t: setattr(t.model[0], "weight", nn.Parameter(t.model[0].weight.data)),
        r"weight\] \(identity\)",
    ),
    "requires_grad": (lambda t: t.model[0].weight.requires_grad_(False), r"weight\] \(requires_grad\)"),
    "gradient value": (lambda t: t.model[0].weight.grad.mul_(2), r"weight\].grad \(bits\)"),
    "gradient object": (
        lambda t: setattr(t.model[0].weight, "grad", t.model[0].weight.grad.clone()),
        r"grad \(identity\)",
    ),
    "gradient where there was none": (lambda t: setattr(t.model[2].bias, "grad", torch.zeros(1)), r"bias\].grad"),
    "gradient taken off": (lambda t: t.optimizer.zero_grad(), r"weight\].grad"),
    "buffer value": (lambda t: t.model[1].running_mean.add_(1), r"running_mean\] \(bits\)"),
    "buffer object": (lambda t: set_buffer(t.model), r"running_mean\] \(identity\)"),
    "new buffer": (lambda t: t.model.register_buffer("more", torch.zeros(1)), r"more"),
    "mode": (lambda t: t.model[1].eval(), r"\.training"),
    "attribute": (lambda t: setattr(t.model, "count", 1), r"count"),
    "content of an attribute": (lambda t: t.model.tracker["history"].append(2.0), r"history\] \(length\)"),
    "module hook": (lambda t: t.model.register_forward_hook(print), r"_forward_hooks"),
    "global module hook": (
        lambda _: nn.modules.module.register_module_forward_hook(print),
        "global module hooks",
    ),
    "moment value": (lambda t: moment(t.optimizer)["exp_avg"].mul_(2), r"exp_avg\] \(bits\)"),
    "moment object": (lambda t: replace_moment(t.optimizer), r"exp_avg\] \(identity\)"),
    "step counter": (lambda t: moment(t.optimizer)["step"].add_(1), r"step\] \(bits\)"),
    "new state": (lambda t: t.optimizer.state[t.model[2].bias], r"optimizer.state \(keys\)"),
    "rate": (lambda t: t.optimizer.param_groups[0].update(lr=0.2), r"param_groups\[0\].lr"),
    "new key of a group": (lambda t: t.optimizer.param_groups[0].update(more=0.2), r"param_groups\[0\].more"),
    "optimizer hook": (lambda t: t.optimizer.register_step_post_hook(print), "_optimizer_step_post_hooks"),
    "optimizer attribute": (lambda t: setattr(t.optimizer, "_opt_called", "never"), "_opt_called"),
    "scheduler": (lambda t: setattr(t.scheduler, "last_epoch", 7), r"scheduler.state_dict"),
    "torch's generator": (lambda _: torch.rand(()), "random state of torch"),
    "NumPy's generator": (lambda _: np.random.rand(), "random state of NumPy"),  # noqa: NPY002
    "Python's generator": (lambda _: random.random(), "random state of Python"),
    "grad mode": (lambda _: torch.set_grad_enabled(False), "grad mode"),
    "default dtype": (lambda _: torch.set_default_dtype(torch.float64), "default dtype"),
}


@pytest.fixture(autouse=True)
def _globals_put_back():
    hooks = nn.modules.module._global_forward_hooks
    yield
    hooks.clear()
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", CHANGES)
def test_the_harness_detects_a_change_of(name):
    t = trained()
    t.model[2].weight.data[0, :2] = torch.tensor([float("nan"), 0.0])
    change, message = CHANGES[name]
    with pytest.raises(AssertionError, match=message), unchanged(t.model, t.optimizer, scheduler=t.scheduler):
        change(t)


EXTRAS = {
    "torch generator": (lambda: torch.Generator(), lambda value: torch.rand((), generator=value)),
    "NumPy generator": (lambda: np.random.default_rng(0), lambda value: value.random()),
    "Python generator": (lambda: random.Random(0), lambda value: value.random()),
    "array": (lambda: np.zeros(2), lambda value: value.fill(np.nan)),
    "module": (lambda: nn.Linear(1, 1), lambda value: value.weight.data.add_(1)),
    "sparse tensor": (lambda: torch.eye(2).to_sparse(), lambda value: value._values().add_(1)),
    "set": (lambda: {1}, lambda value: value.add(2)),
}


@pytest.mark.parametrize("name", EXTRAS)
def test_the_harness_detects_a_change_of_an_extra(name):
    make, change = EXTRAS[name]
    value = make()
    with (
        pytest.raises(AssertionError, match=r"changed: extra\[deep\]\[0\]"),
        unchanged(nn.Identity(), extra={"deep": [value]}),
    ):
        change(value)


def test_the_harness_detects_a_change_where_an_exception_leaves_the_block():
    t = trained()

    def interrupted():
        with unchanged(t.model, t.optimizer):
            t.model[0].weight.data.add_(1)
            raise KeyboardInterrupt

    with pytest.raises(AssertionError, match="changed: model") as caught:
        interrupted()
    assert isinstance(caught.value.__context__, KeyboardInterrupt)


def test_the_harness_lets_through_what_changes_nothing():
    t = trained()
    with unchanged(t.model, t.optimizer, scheduler=t.scheduler, extra=[t.model, {"a": None}]):
        t.model.eval()(torch.zeros(2, 3)).sum()
        t.model.train()
    with pytest.raises(ZeroDivisionError), unchanged(t.model, t.optimizer):
        1 / 0  # noqa: B018

"""Nothing is changed by any call, whatever is trained by which optimizer; and a broken restore would be noticed.

The slice of the matrix in which all pairs of its values meet; ``benchmarks/restore.py`` tries the whole of it.
"""

import inspect
import random
from functools import cache, partial

import numpy as np
import pytest
import torch
from restore_cases import AXES, CALLS, MODELS, OPTIMIZERS, make_case, outcome, pairwise, trouble_of, whole_matrix
from torch import optim

from autolr.probing import state, tensors


@cache
def chosen():
    return pairwise(whole_matrix())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize("call", CALLS)
def test_a_call_leaves_everything_as_it_was_or_refuses_in_words(call):
    outcomes = [outcome(combination) for combination in chosen() if combination.call == call]
    assert len(outcomes) >= len(OPTIMIZERS)
    assert outcomes.count("kept") >= len(OPTIMIZERS) / 2


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
def test_all_pairs_of_values_meet_where_the_optimizer_can_train_the_model():
    trained = [values for values in chosen() if trouble_of(values.optimizer, values.model) is None]
    for one in range(len(AXES)):
        for other in range(one):
            met = {(values[one], values[other]) for values in trained}
            possible = {(values[one], values[other]) for values in whole_matrix()}
            if (one, other) == (2, 0):
                possible = {(model, name) for model, name in possible if trouble_of(name, model) is None}
            assert met == possible


def test_every_optimizer_of_torch_is_in_the_matrix():
    kinds = [kind for _, kind in inspect.getmembers(optim, inspect.isclass) if issubclass(kind, optim.Optimizer)]
    assert {kind for kind, _ in OPTIMIZERS.values()} == {kind for kind in kinds if kind is not optim.Optimizer}
    assert len(MODELS) == 9


def leaving_out(find):
    """Return a breakage: the snapshot of a call does not remember what ``find(case)`` returns."""

    def breaks(monkeypatch, case):
        real, left = state.Snapshot, find(case)
        monkeypatch.setattr(state, "Snapshot", lambda *objects: real(*objects, leave=left))

    return breaks


def patching(owner, name, replacement):
    """Return a breakage: a function of the restore is replaced."""
    return lambda monkeypatch, _: monkeypatch.setattr(owner, name, replacement)


def but_for(get, put):
    """Return a breakage: all global generators are put back but for one."""
    real = state.capture_random_state

    def capture(devices):
        restore = real(devices)

        def restore_the_others():
            left = get()
            restore()
            put(left)

        return restore_the_others

    return patching(state, "capture_random_state", capture)


def values_alone(tensor, *_):
    """Put back neither memory nor ``requires_grad``; take the gradient off."""
    tensor.grad = None
    return False


def swap_memory(case):
    weight = case.model[0].weight
    weight.data = weight.data.clone()


def set_rate(case):
    case.optimizer.param_groups[0]["lr"] = 7.0


def moments(case):
    return [tensor for state in case.optimizer.state.values() for tensor in state.values()]


def dicts_of_modules(case):
    return [vars(module) for module in case.model.modules()]


# what is changed in the middle of a call, how its restore is broken, and what the harness then names
BREAKAGES = {
    "parameters": (
        lambda case: case.model[0].weight.data.add_(1.0),
        leaving_out(lambda case: list(case.model.parameters())),
        r"\[weight\] \(bits\)",
    ),
    "memory of parameters": (
        swap_memory,
        patching(tensors.DenseTensors, "_restore_attributes", staticmethod(values_alone)),
        r"\[weight\] \(memory\)",
    ),
    "requires_grad": (
        lambda case: case.model[0].bias.requires_grad_(False),
        patching(tensors, "restore_leaf", values_alone),
        r"\[bias\] \(requires_grad\)",
    ),
    "gradients": (
        lambda case: case.optimizer.zero_grad(),
        patching(state.Snapshot, "restore_gradients", lambda _: None),
        r"\.grad",
    ),
    "buffers": (
        lambda case: case.model[1].running_mean.add_(1.0),
        leaving_out(lambda case: list(case.model.buffers())),
        r"\[running_mean\] \(bits\)",
    ),
    "modes": (lambda case: case.model[0].eval(), leaving_out(dicts_of_modules), r"\.training"),
    "attributes": (lambda case: setattr(case.model, "count", 1), leaving_out(dicts_of_modules), "model.count"),
    "moments": (
        lambda case: torch._foreach_add_(moments(case), 1.0),
        leaving_out(moments),
        r"exp_avg\] \(bits\)",
    ),
    "state of the optimizer": (
        lambda case: case.optimizer.state.clear(),
        leaving_out(lambda case: [case.optimizer.state]),
        r"optimizer\.state \(keys\)",
    ),
    "rates": (set_rate, leaving_out(lambda case: case.optimizer.param_groups), r"param_groups\[0\]\.lr"),
    "attributes of the optimizer": (
        lambda case: setattr(case.optimizer, "_opt_called", "never"),
        leaving_out(lambda case: [vars(case.optimizer)]),
        "_opt_called",
    ),
    "torch's generator": (
        lambda _: torch.rand(()),
        but_for(torch.get_rng_state, torch.set_rng_state),
        "random state of torch",
    ),
    "NumPy's generator": (
        lambda _: np.random.rand(),  # noqa: NPY002 (the global one)
        but_for(np.random.get_state, np.random.set_state),
        "random state of NumPy",
    ),
    "Python's generator": (
        lambda _: random.random(),
        but_for(random.getstate, random.setstate),
        "random state of Python",
    ),
    "the loader's generator": (
        lambda case: torch.rand((), generator=case.generator),
        patching(state, "_generator_restore", lambda _: lambda: False),
        r"extra\[2\] \(state\)",
    ),
}


class UsersError(Exception):
    """Raised in the middle of a call."""


def interrupted_call(call, change, breaks):
    """Make a call that changes something at the second step of the optimizer and is interrupted there."""
    case = make_case("Adam", "convolutions with BatchNorm", warm=True)
    steps = []

    def hook(*_):
        steps.append(None)
        if len(steps) == 2:
            change(case)
            raise UsersError

    case.optimizer.register_step_pre_hook(hook)
    with case.kept():
        breaks(case)
        with pytest.raises(UsersError):
            CALLS[call](case)


@pytest.mark.parametrize("call", ["tune, loader", "find_lr", "lr_range_test", "compare_schedules"])
@pytest.mark.parametrize("item", BREAKAGES)
def test_a_broken_restore_is_noticed(item, call, monkeypatch):
    change, breaks, named = BREAKAGES[item]
    interrupted_call(call, change, lambda _: None)
    with pytest.raises(AssertionError, match=named):
        interrupted_call(call, change, partial(breaks, monkeypatch))

"""Whatever goes wrong, wherever it goes wrong: everything is put back, and the exception passes unchanged."""

import itertools
import signal
import sys

import numpy as np
import pytest
import torch
from harness import unchanged
from torch import nn
from torch.autograd import forward_ad

import autolr
from autolr.probing import state
from autolr.probing.state import preserved_state
from autolr.probing.tape import Recorder

RATES = [1e-3, 1e-2, 1e-1]


class UsersError(Exception):
    """An exception of the user's own."""


def setup(compute_loss):
    """Return a warm model with dropout, batch statistics and gradients, its optimizer, scheduler and a tuner."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    X = torch.randn(40, 3)
    squared_error(model, X).backward()
    optimizer.step()
    return model, optimizer, scheduler, X, autolr.AutoLRTuner(model, None, optimizer, compute_loss=compute_loss, rng=0)


def squared_error(model, batch):
    return model(batch).square().mean()


def failing_at(call, fail):
    """Return a loss that fails at a call, and the list of its calls."""
    calls = []

    def compute_loss(model, batch):
        calls.append(None)
        loss = squared_error(model, batch)
        if len(calls) == call:
            model.eval()
            fail()
        return loss

    return compute_loss, calls


PROBES = [{"engine": "step"}, {"engine": "line"}, {"horizon": [1, 3]}]


def tune(tuner, X, **options):
    return tuner.tune(X, num_subsamples=2, batch_size=8, learning_rates=RATES, **options)


def exception_of(function, *arguments, **options):
    """Return the very exception that a call raises, or ``None``."""
    try:
        function(*arguments, **options)
    except BaseException as error:  # noqa: BLE001 (whatever it is, it is looked at)
        return error
    return None


@pytest.mark.parametrize("options", PROBES, ids=str)
@pytest.mark.parametrize("warmup_steps", [0, 2])
@pytest.mark.parametrize("kind", [UsersError, KeyboardInterrupt, SystemExit])
def test_a_loss_that_raises_at_any_call_leaves_no_trace(kind, warmup_steps, options):
    error = kind("mine")

    def fail():
        raise error

    for call in itertools.count(1):
        compute_loss, calls = failing_at(call, fail)
        model, optimizer, scheduler, X, tuner = setup(compute_loss)
        with unchanged(model, optimizer, scheduler=scheduler, extra=X):
            caught = exception_of(tune, tuner, X, warmup_steps=warmup_steps, **options)
        if len(calls) < call:  # it succeeded
            break
        assert caught is error
        assert caught.__cause__ is None
        if kind is not KeyboardInterrupt:  # that keeps the rows which are finished: test_interrupted.py
            with pytest.raises(autolr.NotTunedError):
                tuner.get_best_lr()
    assert call > 12


@pytest.mark.parametrize("call", [1, 3, 7, 12])
def test_an_interrupt_signal_within_the_loss_is_raised_again(call):
    compute_loss, _ = failing_at(call, lambda: signal.raise_signal(signal.SIGINT))
    model, optimizer, scheduler, X, tuner = setup(compute_loss)
    with pytest.raises(KeyboardInterrupt), unchanged(model, optimizer, scheduler=scheduler):
        tune(tuner, X)


def open_contexts():
    return torch._C._len_torch_function_stack(), torch._C._functorch.get_dynamic_layer_stack_depth()


@pytest.mark.parametrize("engine", ["line", "batched"])
def test_an_interrupt_while_a_mode_of_torch_is_left_does_not_leave_it_open(engine, monkeypatch):
    leave, before = Recorder.__exit__, open_contexts()
    for call in itertools.count(1):
        model, optimizer, scheduler, X, tuner = setup(squared_error)
        calls = []

        def interrupted(mode, *error, call=call, calls=calls):
            calls.append(None)
            if len(calls) == call:
                raise KeyboardInterrupt
            return leave(mode, *error)

        with unchanged(model, optimizer, scheduler=scheduler, extra=X):
            with monkeypatch.context() as patch:
                patch.setattr(Recorder, "__exit__", interrupted)
                caught = exception_of(tune, tuner, X, engine=engine)
            assert open_contexts() == before
        if len(calls) < call:
            break
        assert type(caught) is KeyboardInterrupt
    assert call > 2


@pytest.mark.parametrize("last", ["entered", "half entered", "half left"])
def test_a_level_of_forward_mode_and_a_level_of_vmap_that_were_left_open_are_closed(last):
    def fail():
        level = (torch._C._enter_dual_level if last == "half entered" else forward_ad.enter_dual_level)()
        if last == "half left":
            torch._C._exit_dual_level(level=level)
        torch._C._functorch._vmap_increment_nesting(2, "same")
        raise KeyboardInterrupt

    before = open_contexts()
    compute_loss, _ = failing_at(5, fail)
    model, optimizer, scheduler, X, tuner = setup(compute_loss)
    with pytest.raises(KeyboardInterrupt), unchanged(model, optimizer, scheduler=scheduler):
        tune(tuner, X)
    assert (forward_ad._current_level, open_contexts()) == (-1, before)
    with forward_ad.dual_level():
        assert forward_ad._current_level == 0


@pytest.mark.parametrize("horizon", [1, 4])
@pytest.mark.parametrize("where", ["pre hook", "post hook", "step"])
def test_an_optimizer_that_raises_at_any_step_leaves_no_trace(where, horizon):
    for call in itertools.count(1):
        error, calls = UsersError(), []

        def fail(*_, call=call, calls=calls, error=error):
            calls.append(None)
            if len(calls) == call:
                raise error

        model, optimizer, scheduler, X, tuner = setup(squared_error)
        if where == "step":
            real = optimizer.step
            optimizer.step = lambda fail=fail, real=real: (real(), fail())
        else:
            getattr(optimizer, f"register_step_{where.replace(' ', '_')}")(fail)
        with unchanged(model, optimizer, scheduler=scheduler):
            caught = exception_of(tune, tuner, X, horizon=horizon)
        if len(calls) < call:
            break
        assert caught is error
    assert call > 8


def change_everything(model, optimizer):
    model.eval()
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.param_groups[0]["lr"] = 7.0
    model[1].running_mean = torch.ones_like(model[1].running_mean)
    model.count = 3
    torch.rand(())
    np.random.rand()  # noqa: NPY002
    torch.set_grad_enabled(False)


def raise_at_line(number, error, filename):
    """Trace so that the n-th line run in a file raises an error, once; return the list of the lines run."""
    lines = []

    def trace(frame, event, _):
        if frame.f_code.co_filename != filename:
            return None
        if event == "line":
            lines.append(frame.f_lineno)
            if len(lines) == number:
                raise error
        return trace

    sys.settrace(trace)
    return lines


@pytest.mark.parametrize(("kind", "every"), [(KeyboardInterrupt, 1), (TimeoutError, 7)])
def test_an_interrupt_at_any_line_of_the_restore_does_not_stop_it(kind, every):
    before = sys.gettrace()
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    squared_error(model, torch.randn(4, 3)).backward()
    optimizer.step()
    for number in itertools.count(1, every):
        error, raised = kind(), None
        with unchanged(model, optimizer, scheduler=scheduler):
            try:
                with preserved_state(model, optimizer):
                    change_everything(model, optimizer)
                    lines = raise_at_line(number, error, state.__file__)
            except kind as caught:
                raised = caught
            finally:
                sys.settrace(before)
        if len(lines) < number:
            break
        assert raised is error
    assert number > 60


def test_an_interrupt_of_the_restore_after_an_exception_of_the_users_own_does_not_stop_it():
    model, optimizer, scheduler, *_ = setup(squared_error)
    before = sys.gettrace()

    def failing():
        try:
            with preserved_state(model, optimizer):
                change_everything(model, optimizer)
                raise_at_line(50, KeyboardInterrupt(), state.__file__)
                raise UsersError
        finally:
            sys.settrace(before)

    with pytest.raises(KeyboardInterrupt) as caught, unchanged(model, optimizer, scheduler=scheduler):
        failing()
    assert isinstance(caught.value.__context__, UsersError)


def test_many_interrupts_of_one_restore_do_not_stop_it(monkeypatch):
    model, optimizer, scheduler, *_ = setup(squared_error)
    interrupts = [KeyboardInterrupt(number) for number in range(5)]
    real = state.capture_random_state

    def capture(devices):
        restore = real(devices)

        def interrupted():
            if interrupts:
                raise interrupts.pop()
            restore()

        return interrupted

    monkeypatch.setattr(state, "capture_random_state", capture)

    def run():
        with preserved_state(model, optimizer):
            change_everything(model, optimizer)

    with pytest.raises(KeyboardInterrupt), unchanged(model, optimizer, scheduler=scheduler):
        run()
    assert interrupts == []


def test_a_restore_that_cannot_succeed_ends_with_its_error():
    class Refusing(dict):
        def clear(self):
            raise UsersError("no")

    model = nn.Linear(1, 1)
    model.options = Refusing(a=1)
    with pytest.raises(UsersError, match="no"), preserved_state(model):
        model.options["b"] = 2


def test_a_graph_built_before_tuning_can_be_differentiated_afterwards():
    model, _, _, X, tuner = setup(squared_error)
    model.zero_grad()
    squared_error(model.eval(), X).backward()
    expected = model[0].weight.grad.clone()
    model.zero_grad()
    loss = squared_error(model, X)
    tune(tuner, X)
    loss.backward()
    assert torch.equal(model[0].weight.grad, expected)

"""find_lr on what an ``Accelerator`` has prepared: its own steps, and a training after it that does not notice."""

import sys
from types import SimpleNamespace

import pytest
import torch
from harness import unchanged
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

accelerate = pytest.importorskip("accelerate")

from accelerate.state import AcceleratorState, GradientState, PartialState  # noqa: E402 (after what skips)

from autolr.integrations.accelerate import find_lr  # noqa: E402

pytestmark = pytest.mark.integration
QUICK = {"effort": "fast", "max_evaluations": 40, "total_steps": 200, "rng": 0, "progress": False}


@pytest.fixture(autouse=True)
def _states_of_its_own():
    """Accelerate keeps its states in classes, where those of other tests may be left."""
    reset_states()
    yield
    reset_states()


def reset_states():
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def observations(num=44):
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(num, 4, dtype=torch.float64, generator=generator)
    return TensorDataset(X, X.sum(1, keepdim=True))


def prepared(*, seedable=False, shuffle=True, dropout=0.2, learning_rate=1e-2, steps=2, precision="no", data=None):
    """Return an accelerator, and model, optimizer, loader and scheduler as it has prepared them."""
    torch.manual_seed(0)
    configuration = accelerate.DataLoaderConfiguration(use_seedable_sampler=seedable)
    accelerator = accelerate.Accelerator(
        cpu=True, gradient_accumulation_steps=steps, mixed_precision=precision, dataloader_config=configuration
    )
    layers = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 1)
    model = nn.Sequential(*layers).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 5))  # a warm-up, from 0
    loader = DataLoader(data or observations(), batch_size=4, shuffle=shuffle and data is None)
    return accelerator, *accelerator.prepare(model, optimizer, loader, scheduler)


def found(accelerator, model, optimizer, loader, **options):
    return find_lr(accelerator, model, nn.MSELoss(), optimizer, loader, **{**QUICK, **options})


def trained(look=None, *, num_epochs=3, **options):
    """Return all that a training leaves behind, in bits; ``look`` is called within it."""
    accelerator, model, optimizer, loader, scheduler = prepared(**options)
    seen = []
    for epoch in range(num_epochs):
        for number, (x, y) in enumerate(loader):
            if look is not None and (epoch, number) in ((0, 0), (1, 3), (2, 10)):
                look(accelerator, model, optimizer, loader)
            with accelerator.accumulate(model):
                loss = nn.functional.mse_loss(model(x), y)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            seen += [x.clone(), loss.detach()]
    moments = [value for state in optimizer.state_dict()["state"].values() for value in state.values()]
    tensors = [*seen, *model.state_dict().values(), *moments, torch.get_rng_state()]
    assert optimizer.state_dict()["state"][0]["step"] == num_epochs * 6
    return [tensor.numpy().tobytes() for tensor in tensors], repr(scheduler.state_dict())


def test_a_training_is_bit_for_bit_the_one_without_it_also_in_mid_epoch_and_one_leaked_draw_is_seen():
    calls = []

    def leaky(*objects):
        found(*objects)
        torch.rand(1)

    for seedable in (False, True):
        alone = trained(seedable=seedable)
        assert trained(lambda *objects: calls.append(found(*objects)), seedable=seedable) == alone
        assert trained(leaky, seedable=seedable) != alone
    assert len(calls) == 6


def test_reading_the_prepared_loader_itself_in_mid_epoch_would_be_seen():
    opened = []

    def read(_, __, ___, loader):
        opened.append(iter(loader))
        next(opened[-1])

    with pytest.raises(AssertionError):
        assert trained(read) == trained()


@pytest.mark.parametrize("seedable", [False, True])
def test_the_gradient_state_the_loader_and_its_samplers_are_left_alone(seedable):
    accelerator, model, optimizer, loader, scheduler = prepared(seedable=seedable)
    sampler = loader.batch_sampler.sampler
    holders = accelerator.gradient_state, loader, loader.base_dataloader, loader.batch_sampler, sampler
    before = [dict(vars(holder)) for holder in holders]
    with unchanged(model, optimizer.optimizer, scheduler=scheduler.scheduler):
        found(accelerator, model, optimizer, loader)
    assert [dict(vars(holder)) for holder in holders] == before
    assert len(accelerator._dataloaders) == len(accelerator._optimizers) == 1


def test_a_prepared_loader_to_judge_on_is_left_alone_in_mid_epoch():
    alone = trained()
    judged = []

    def look(accelerator, model, optimizer, loader):
        judged.append(accelerator.prepare(DataLoader(observations(60), batch_size=2)))
        found(accelerator, model, optimizer, loader, val_data=judged[-1])
        assert accelerator.gradient_state.active_dataloader is loader

    assert trained(look) == alone


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_gradient_of_a_probe_is_that_of_the_training(precision, steps):
    accelerator, model, optimizer, loader, _ = prepared(shuffle=False, dropout=0.0, steps=steps, precision=precision)
    gradients = []
    optimizer.optimizer.register_step_pre_hook(
        lambda *_: gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    )
    found(accelerator, model, optimizer, loader, val_data=observations(8))
    number = len(gradients)
    for x, y in loader:
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.mse_loss(model(x), y))
            optimizer.step()
    assert number > 10
    for probed, own in zip(gradients[0], gradients[number], strict=True):
        torch.testing.assert_close(probed, own, rtol=1e-12, atol=1e-14)


def test_the_rate_is_set_by_the_prepared_optimizer_and_its_scheduler():
    accelerator, model, optimizer, loader, scheduler = prepared(learning_rate=1e-7)
    suggestion = found(accelerator, model, optimizer, loader)
    assert suggestion.learning_rate > 1e-4
    suggestion.apply(optimizer, scheduler.scheduler)
    assert optimizer.param_groups[0]["initial_lr"] == suggestion.learning_rate
    assert optimizer.param_groups[0]["lr"] == 0.0  # in its warm-up
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(suggestion.learning_rate / 5)


def test_options_come_before_what_the_accelerator_says():
    accelerator, model, optimizer, loader, _ = prepared(precision="bf16")
    settings = found(accelerator, model, optimizer, loader).evidence.settings
    assert (settings["autocast"], settings["accumulation_steps"], settings["scaler"]) == (True, 2, False)
    accelerator.scaler = torch.amp.GradScaler("cpu")
    assert found(accelerator, model, optimizer, loader).evidence.settings["scaler"]
    settings = found(accelerator, model, optimizer, loader, autocast=None, accumulation_steps=1).evidence.settings
    assert (settings["autocast"], settings["accumulation_steps"]) == (False, 1)


def test_arrays_batches_of_any_form_and_data_without_a_length_are_taken():
    class Pieces(IterableDataset):
        def __iter__(self):
            return iter([{"x": x, "y": y} for x, y in observations()])

    accelerator, model, optimizer, loader, _ = prepared(data=Pieces())
    assert type(loader).__name__ == "DataLoaderDispatcher"

    def compute_loss(model, batch):
        return nn.functional.mse_loss(model(batch["x"]), batch["y"])

    with unchanged(model, optimizer.optimizer):
        suggestion = find_lr(accelerator, model, None, optimizer, loader, compute_loss=compute_loss, **QUICK)
        arrays = found(accelerator, model, optimizer, observations().tensors)
    assert suggestion.evidence.settings["batch_size"] == 4
    assert arrays.low < arrays.learning_rate < arrays.high


@pytest.mark.parametrize("error", [RuntimeError("of the user's own"), KeyboardInterrupt("of the user's own")])
def test_an_error_in_the_loss_passes_through_and_everything_is_put_back(error):
    accelerator, model, optimizer, loader, _ = prepared()
    left = iter(range(17))

    def loss_fn(output, target):
        if next(left, None) is None:
            raise error
        return nn.functional.mse_loss(output, target)

    with pytest.raises(type(error), match="of the user's own"), unchanged(model, optimizer.optimizer):
        find_lr(accelerator, model, loss_fn, optimizer, loader, **QUICK)
    assert accelerator.gradient_state.active_dataloader is None


def test_wrong_arguments_are_refused(monkeypatch):
    accelerator, model, optimizer, loader, _ = prepared()
    with pytest.raises(TypeError, match=r"`accelerator` must be an accelerate\.Accelerator, got 3"):
        found(3, model, optimizer, loader)
    partial, state = PartialState._shared_state, AcceleratorState._shared_state
    for kind in ("DEEPSPEED", "FSDP"):
        monkeypatch.setitem(partial, "distributed_type", accelerate.DistributedType(kind))
        monkeypatch.setitem(partial, "num_processes", 2)
        monkeypatch.setitem(state, "fsdp_plugin", SimpleNamespace(fsdp_version=1))
        with pytest.raises(ValueError, match=f"`accelerator` must train several processes by .*, got '{kind}'"):
            found(accelerator, model, optimizer, loader)
    monkeypatch.setitem(state, "parallelism_config", accelerate.ParallelismConfig(tp_size=2))
    with pytest.raises(ValueError, match="`accelerator` must have the whole model, or a shard of FSDP2, on one device"):
        found(accelerator, model, optimizer, loader)


def test_where_the_library_is_missing_the_extra_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "autolr.integrations.accelerate")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match=r"needs accelerate: pip install autolr\[accelerate\]"):
        __import__("autolr.integrations.accelerate")

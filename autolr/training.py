"""What a user trains with, checked: model, loss, optimizer and device."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from autolr._typing import Autocast, Batch, Clip, ComputeLoss, LossFunction
from autolr._validation import check_integer, invalid
from autolr.batches import outline
from autolr.param_groups import base_learning_rates, check_groups
from autolr.probing.held import held_generators, held_modules
from autolr.probing.objective import Objective
from autolr.probing.random_state import ForkedRandomness
from autolr.probing.sharded import Alone, Lockstep, device_meshes, reshard, sharded_modules
from autolr.probing.start import Start
from autolr.probing.state import preserved_state
from autolr.probing.trajectory import in_mode


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """A model, how its loss is stated, the optimizer that trains it, where batches go, and how a step is taken.

    Attributes:
        model: The model.
        loss_fn: The loss of an output and a target, or ``None``.
        optimizer: The optimizer.
        compute_loss: The loss of a model and a batch, or ``None``.
        device: Where batches go.
        autocast: Makes the context in which every loss is computed; ``None``: none.
        scaler: By whose scale losses are multiplied before their backward, or ``None``.
        accumulation_steps: How many batches, over which gradients are averaged, a step takes.
        clip: Called with the parameters to change their gradients in place, or ``None``.
        groups: The parameter groups that are tuned, increasing; ``None``: all.
        members: The ranks of ``torch.distributed`` that train the model together, where it says so.
        lockstep: What makes all ranks do the same with a sharded model; ``None``: the default process group.
        look_around: Called before every loss: raises where another process has ended the call.
    """

    model: nn.Module
    loss_fn: LossFunction | None
    optimizer: torch.optim.Optimizer
    compute_loss: ComputeLoss | None
    device: torch.device
    autocast: Autocast | None = None
    scaler: torch.amp.GradScaler | None = None
    accumulation_steps: int = 1
    clip: Clip | None = None
    groups: tuple[int, ...] | None = None
    members: tuple[int, ...] = ()
    lockstep: Lockstep | None = None
    look_around: Callable[[], None] | None = None

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters of model and optimizer that are trainable now, each once.

        Raises:
            ValueError: If the optimizer holds none of the model's, or the model has lazy parameters without a shape.
        """
        reshard(sharded_modules(self.model))
        of_model = {id(parameter): parameter for parameter in self.model.parameters()}
        if any(isinstance(parameter, nn.parameter.UninitializedParameter) for parameter in of_model.values()):
            raise ValueError(invalid("model", "have seen a batch, so that its lazy parameters have shapes", self.model))
        groups = self.optimizer.param_groups
        of_optimizer = {id(p): p for group in groups for p in group["params"] if p.requires_grad}
        if not of_model.keys() & of_optimizer.keys():
            raise ValueError(invalid("optimizer", "hold trainable parameters of `model`", self.optimizer))
        return [parameter for parameter in {**of_model, **of_optimizer}.values() if parameter.requires_grad]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first trainable parameter, or of its real part, which floats of NumPy and pandas become."""
        return self.parameters()[0].dtype.to_real()

    @property
    def is_sharded(self) -> bool:
        """Whether the model, or a module that the loss is seen to hold, is sharded over processes."""
        return bool(sharded_modules(*self.modules()))

    def modules(self) -> list[nn.Module]:
        """Return the model, and the modules that the loss is seen to hold."""
        return held_modules(self.model, self.loss_fn, self.compute_loss, self.clip)

    def objective(self) -> Objective:
        """Return the loss, ready to be probed."""
        return Objective(
            self.model,
            self.loss_fn,
            self.compute_loss,
            self.parameters(),
            autocast=self.autocast,
            scaler=self.scaler,
            clip=self.clip,
            lockstep=(self.lockstep or Lockstep()) if self.is_sharded else Alone(),
            look_around=self.look_around,
        )

    @contextmanager
    def preserved(self, generators: Sequence[object] = (), forked: Sequence[object] = ()) -> Iterator[Start]:
        """Put everything back on every way out of the block, in which probes may start.

        Args:
            generators: The random generators of the user's data, which are put back too.
            forked: Those of them that are moved with the global ones, to a state for each row.

        Yields:
            Where every probe starts: the state in which model and optimizer are handed over.
        """
        objective = self.objective()
        # of the loss functions, the model's and the optimizer's hooks
        held = held_generators(self.loss_fn, self.compute_loss, self.clip, self.model, self.optimizer)
        devices = {self.device, *(parameter.device for parameter in objective.parameters)}
        objects = (*objective.modules(), self.optimizer, *held, *generators)
        with torch.inference_mode(False), preserved_state(*objects, devices=devices) as snapshot:
            randomness = ForkedRandomness(devices, (*held, *forked))
            base = base_learning_rates(self.optimizer, self.groups)
            yield Start(objective, self.optimizer, snapshot, randomness, base, self.groups)

    def settings(self) -> dict[str, Any]:
        """Return what it is, as JSON values."""
        parameters = self.parameters()
        return {
            "model": type(self.model).__name__,
            "num_parameters": sum(parameter.numel() for parameter in parameters),
            "optimizer": type(self.optimizer).__name__,
            "device": str(self.device),
            "dtype": str(parameters[0].dtype).removeprefix("torch."),
            "autocast": self.autocast is not None,
            "scaler": self.scaler is not None,
            "accumulation_steps": self.accumulation_steps,
            "clip": self.clip is not None,
            "groups": None if self.groups is None else list(self.groups),
        }


def check_batch(objective: Objective, name: str, batch: Batch, *, training: bool | None = None) -> None:
    """Compute a first loss, with the objective's checks; what is raised gets a note that says what the batch was.

    Args:
        objective: The loss.
        name: What the batch is for.
        batch: The batch.
        training: The mode of all modules, which are then put back to where they are; ``None``: as they are, which
            leaves them as they were handed over.
    """
    whole = "" if objective.is_stated else "; with neither loss_fn nor compute_loss, the model is given all of it"
    mode = nullcontext() if training is None else in_mode(objective, training)
    with noted(f"the first {name} batch", batch, whole), mode:
        objective.check(batch)


@contextmanager
def noted(name: str, batch: Batch, remark: str = "") -> Iterator[None]:
    """Give whatever is raised in the block a note that says what the batch was."""
    try:
        yield
    except Exception as error:
        error.add_note(f"autolr: raised by {name}, {outline(batch)}{remark}.")
        raise


def check_training(
    model: Any,
    loss_fn: Any,
    optimizer: Any,
    *,
    compute_loss: Any = None,
    device: torch.device | str | None = None,
    autocast: Any = None,
    scaler: Any = None,
    accumulation_steps: Any = 1,
    clip: Any = None,
    groups: Any = None,
) -> Training:
    """Return what a user trains with, or say what is wrong with it.

    Args:
        model: The model; of one in ``DistributedDataParallel``, what is within it is probed.
        loss_fn: The loss of an output and a target, or ``None``.
        optimizer: The optimizer, over parameters of the model.
        compute_loss: The loss of a model on a batch, or ``None``.
        device: Where batches go; by default where the first trainable parameter is.
        autocast: A function that makes the context of each loss, or ``None``.
        scaler: A ``torch.amp.GradScaler``, or ``None``.
        accumulation_steps: The micro-batches of a step.
        clip: A function of the parameters, or ``None``.
        groups: The numbers of the parameter groups that are tuned, or ``None``.

    Raises:
        TypeError: If an argument has the wrong type; ``loss_fn`` and ``optimizer`` are easily swapped.
        ValueError: If both losses are given, the optimizer holds no trainable parameter of the model or has no rate to
            scale, there is no such group, or the device is not there.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(invalid("model", "be a torch.nn.Module", model))
    if isinstance(loss_fn, torch.optim.Optimizer):
        raise TypeError(
            f"`loss_fn` must be a function of an output and a target, got the optimizer {type(loss_fn).__name__}:"
            " the order is (model, loss_fn, optimizer)."
        )
    for name, function in (("loss_fn", loss_fn), ("compute_loss", compute_loss)):
        if function is not None and (not callable(function) or isinstance(function, type)):
            raise TypeError(invalid(name, "be a function (of a class: an instance of it) or None", function))
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(invalid("optimizer", "be a torch.optim.Optimizer", optimizer))
    if loss_fn is not None and compute_loss is not None:
        raise ValueError(invalid("compute_loss", "be left out where `loss_fn` is given", compute_loss))
    if autocast is not None and (not callable(autocast) or isinstance(autocast, AbstractContextManager)):
        of_each = "be a function that makes a context, such as lambda: torch.autocast('cuda', torch.bfloat16)"
        raise TypeError(invalid("autocast", f"{of_each}, or None", autocast))
    if scaler is not None and not isinstance(scaler, torch.amp.GradScaler):
        raise TypeError(invalid("scaler", "be a torch.amp.GradScaler or None", scaler))
    if clip is not None and not callable(clip):
        raise TypeError(invalid("clip", "be a function of the parameters or None", clip))
    if type(optimizer).__name__ == "ZeroRedundancyOptimizer":
        raise TypeError(invalid("optimizer", "hold its whole state on each rank", optimizer))
    tuned = check_groups(optimizer, groups)
    base_learning_rates(optimizer, tuned)
    bare, members = _bare(model)
    for module in held_modules(loss_fn, compute_loss, clip):
        if any(isinstance(part, nn.parallel.DistributedDataParallel) for part in module.modules()):
            alone = (
                "not hold a model in DistributedDataParallel: a rank's probes are its own; use the model it is given"
            )
            raise ValueError(invalid("compute_loss" if loss_fn is None else "loss_fn", alone, type(module).__name__))
    training = Training(
        bare,
        loss_fn,
        optimizer,
        compute_loss,
        torch.device("cpu"),
        members=members,
        autocast=autocast,
        scaler=scaler,
        accumulation_steps=check_integer("accumulation_steps", accumulation_steps, minimum=1),
        clip=clip,
        groups=tuned,
    )
    return replace(training, device=_device(device, training.parameters()[0]))


def _bare(model: nn.Module) -> tuple[nn.Module, tuple[int, ...]]:
    """Return the model within ``DistributedDataParallel``, whose forwards and backwards communicate, and its ranks."""
    wrapped = getattr(model, "_orig_mod", model)  # of torch.compile
    if awaits_first_step(model):
        begun = "have taken its first step where static_graph=True (or be tuned before it is wrapped)"
        raise ValueError(invalid("model", begun, type(wrapped).__name__))
    if not isinstance(wrapped, nn.parallel.DistributedDataParallel):
        return model, tuple(sorted({rank for mesh in device_meshes(model) for rank in mesh.mesh.flatten().tolist()}))
    return wrapped.module, tuple(torch.distributed.get_process_group_ranks(wrapped.process_group))


def awaits_first_step(model: Any) -> bool:
    """Return whether ``DistributedDataParallel`` is still to see the graph that it takes for that of all steps.

    It counts every backward into its weights until then, those of probes too, and would reduce no gradient after them.
    """
    wrapped = getattr(model, "_orig_mod", model)
    is_static = isinstance(wrapped, nn.parallel.DistributedDataParallel) and wrapped.static_graph
    return bool(is_static and not wrapped._static_graph_delay_allreduce_enqueued)


def _device(device: torch.device | str | None, parameter: torch.Tensor) -> torch.device:
    if device is None:
        return parameter.device
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(invalid("device", "be a torch device, such as 'cpu' or 'cuda:0'", device)) from error
    if found.type in ("cpu", "meta"):
        return found
    module = getattr(torch, found.type, None)  # of some devices, torch knows the name only
    if module is None or not module.is_available():
        raise ValueError(invalid("device", "be available on this machine", device))
    return found

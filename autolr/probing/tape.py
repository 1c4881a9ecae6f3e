"""What a forward does, as the calls of torch that depend on the weights: enough to repeat it at other rates."""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any, Self

import torch
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

# What these tell of a tensor does not depend on its values, given its shape.
_ATTRIBUTES = (
    "shape", "dtype", "device", "layout", "ndim", "itemsize", "nbytes", "requires_grad", "is_leaf", "is_sparse",
    "is_nested", "is_cuda",
)  # fmt: skip
PROPERTIES = frozenset(
    [getattr(torch.Tensor, name).__get__ for name in _ATTRIBUTES]
    + [torch.Tensor.dim, torch.Tensor.size, torch.Tensor.stride, torch.Tensor.numel, torch.Tensor.nelement, torch.numel]
    + [torch.Tensor.is_floating_point, torch.is_floating_point, torch.Tensor.is_complex, torch.is_complex]
    + [torch.Tensor.is_contiguous, torch.Tensor.__len__]
)


class UnfitError(RuntimeError):
    """A forward cannot be repeated from its calls; the message says why."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of a value that depends on the rate, among the arguments of a call."""

    number: int


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A call of torch with a value among its arguments that depends on the rate.

    Attributes:
        function: What was called.
        args: Its positional arguments; a :class:`Slot` stands for each value that depends on the rate.
        kwargs: Its keyword arguments, likewise.
        inputs: The slots among the arguments, each once.
        outputs: The slots of the tensors returned, in their order; one that was changed in place is its own output, and
            ``None`` stands for itself.
        is_single: Whether a tensor was returned, rather than several or none.
        shapes: Their shapes, on which a forward may go another way.
        size: The bytes of what was returned.
        random: The state of torch's generators before it; ``None`` where the forward draws nothing from them.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int | None, ...]
    is_single: bool
    shapes: tuple[torch.Size | None, ...]
    size: int
    random: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Tape:
    """The calls of a forward that depend on the rate, in their order.

    Attributes:
        calls: The calls.
        weights: The weights that the first slots stand for.
        loss: The slot of the loss.
        unseen: Constants that came from nowhere: tensors that are neither the modules' nor the batch's nor made by a
            call that was seen. They may have been made of a weight out of sight.
    """

    calls: Sequence[Call]
    weights: Sequence[torch.Tensor]
    loss: int
    unseen: Sequence[torch.Tensor]


class Recorder(TorchFunctionMode):
    r"""Watches one forward, and makes a :class:`Tape` of it.

    A value depends on the rate if it is a weight that moves, or was returned by a call with such a value among its
    arguments. All else is the same at every rate, and is kept as it was. A call is seen wherever torch's functions are
    called from Python, within modules, losses and functions of the user's alike.

    What would make a repetition another forward is refused: a value of Python that is made of one that depends on the
    rate (a branch, ``.item()``); a constant or a weight that is written to by what depends on the rate, or a constant
    after it was used; a constant that shares its memory with a weight; a function that is handed to torch, within which
    nothing is seen; a generator of its own; autocast. The running statistics of batch normalization, on which its
    output in training does not depend, are left out of the call. Other contexts (``torch.enable_grad``) are not noted.

    Args:
        moving: The weights that move.
        known: Tensors that were there before the forward: those of the modules and of the batch.
        random_state: Returns the state of torch's generators, to which a repetition of each call goes back; ``None``:
            the forward draws nothing from them.
    """

    def __init__(
        self,
        moving: Sequence[torch.Tensor],
        known: Iterable[torch.Tensor],
        random_state: Callable[[], Any] | None = None,
    ) -> None:
        super().__init__()
        self._random_state = random_state
        self._weights = moving
        self._slots = {id(weight): slot for slot, weight in enumerate(moving)}
        self._num_slots = len(moving)
        self._before = {id(tensor): (tensor, _version(tensor)) for tensor in known if id(tensor) not in self._slots}
        self._constants = set(self._before)
        self._alive: dict[int, weakref.ref[torch.Tensor]] = {}  # an id is forgotten with its object
        self._unseen: list[torch.Tensor] = []
        self._used: list[tuple[torch.Tensor, int]] = []
        self._statistics: set[int] = set()
        self._calls: list[Call] = []
        self._reason = ""

    def __enter__(self) -> Self:
        self._modes = open_modes()
        set_modes([*self._modes, self])
        return self

    def __exit__(self, *_: object) -> None:
        set_modes(self._modes)  # exactly, also where an interrupt has come between two of torch's own steps

    def tape(self, loss: torch.Tensor) -> Tape:
        """Return the tape of the forward that has returned ``loss``.

        Raises:
            UnfitError: If the forward cannot be repeated from its calls.
        """
        slot = self._slots.get(id(loss))
        if any(_version(tensor) != version for tensor, version in self._used):
            self._reason = self._reason or "a tensor is written to after it was used"
        if self._reason or slot is None:
            raise UnfitError(self._reason or "the loss is made out of sight")
        return Tape(self._calls, self._weights, slot, self._unseen)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._reason or func in PROPERTIES:
            return func(*args, **kwargs)
        given = args
        if func is F.batch_norm and kwargs.get("training"):
            self._statistics |= {id(argument) for argument in args[1:3]}
            given = (args[0], None, None)
        watched: _Watched | None = None
        try:
            found = _tensors((given, kwargs))
            self._check(found)
            if any(id(tensor) in self._slots for tensor in found):
                watched = self._watched(func, given, kwargs, found)
        except Exception as error:  # noqa: BLE001 (tensors of another kind may refuse anything)
            self._reason = str(error)
        output = func(*args, **kwargs)
        try:
            if self._reason:
                return output
            if watched is None:
                for tensor in _tensors(output):
                    self._note_constant(tensor)
            else:
                self._note(watched, output)
        except Exception as error:  # noqa: BLE001
            self._reason = str(error)
        return output

    def _check(self, found: Iterable[torch.Tensor]) -> None:
        """Refuse constants that may depend on the rate."""
        for tensor in found:
            key = id(tensor)
            if key in self._statistics:
                raise UnfitError("running statistics are used")
            if key not in self._constants and key not in self._slots:
                self._unseen.append(tensor)
                self._constants.add(key)
                if self._is_of_a_weight(tensor):
                    raise UnfitError("a tensor shares its memory with a weight")

    def _watched(self, func: Any, args: Any, kwargs: Any, found: list[torch.Tensor]) -> "_Watched":
        """Return what is to be known of a call before it is made, which may change its arguments."""
        if torch.is_autocast_enabled(found[0].device.type):
            raise UnfitError("autocast is entered within the forward")
        template = self._template(args), {name: self._template(value) for name, value in kwargs.items()}
        random = None if self._random_state is None else self._random_state()
        return _Watched(func, template, found, list(map(_version, found)), random)

    def _note(self, watched: "_Watched", output: Any) -> None:
        """Append a call that depends on the rate."""
        func, is_single = watched.function, isinstance(output, torch.Tensor)
        outputs = [output] if is_single else [] if output is None else output
        is_known = isinstance(outputs, (tuple, list)) and (output is not None or func is torch.Tensor.__setitem__)
        if not is_known or not all(value is None or isinstance(value, torch.Tensor) for value in outputs):
            raise UnfitError(f"{getattr(func, '__name__', func)} makes a value of Python that depends on the rate")
        for tensor, version in zip(watched.found, watched.versions, strict=True):
            if _version(tensor) != version:
                if id(tensor) in self._constants:
                    raise UnfitError("a tensor is written to by what depends on the rate")
                if self._is_of_a_weight(tensor):
                    raise UnfitError("a weight is written to")
        inputs = {self._slots[id(tensor)]: None for tensor in watched.found if id(tensor) in self._slots}
        numbers = tuple(None if value is None else self._slot_of(value) for value in outputs)
        if is_single and numbers == (None,):  # a constant, handed back as it is
            return
        shapes = tuple(None if value is None else value.shape for value in outputs)
        size = sum(value.nbytes for value in outputs if value is not None)
        self._calls.append(
            Call(func, *watched.template, tuple(inputs), numbers, is_single, shapes, size, watched.random)
        )

    def _slot_of(self, value: torch.Tensor) -> int | None:
        """Return the slot of a tensor that was returned, a new one if it has none; ``None`` for a constant."""
        key = id(value)
        if key in self._constants:
            return None
        if key not in self._slots:
            self._slots[key] = self._num_slots
            self._num_slots += 1
            self._alive[key] = weakref.ref(value, lambda _: self._slots.pop(key, None))
        return self._slots[key]

    def _note_constant(self, value: torch.Tensor) -> None:
        key = id(value)
        if key not in self._constants and key not in self._slots:
            self._constants.add(key)
            self._alive[key] = weakref.ref(value, lambda _: self._constants.discard(key))

    def _template(self, value: Any) -> Any:
        """Return an argument with slots in place of what depends on the rate."""
        if isinstance(value, torch.Tensor):
            slot = self._slots.get(id(value))
            return self._kept(value) if slot is None else Slot(slot)
        if type(value) in (tuple, list):
            return type(value)(map(self._template, value))
        if type(value) is dict:
            return {key: self._template(item) for key, item in value.items()}
        if isinstance(value, torch.Generator):
            raise UnfitError("a generator of its own is drawn from")
        if _tensors(value):
            raise UnfitError(f"a {type(value).__name__} holds tensors")
        return value

    def _kept(self, constant: torch.Tensor) -> torch.Tensor:
        """Return a constant as a call sees it: a copy, where it was written to before and will be put back."""
        version = _version(constant)
        _, before = self._before.get(id(constant), (constant, version))
        if before != version:
            return constant.clone()
        self._used.append((constant, version))
        return constant

    def _is_of_a_weight(self, tensor: torch.Tensor) -> bool:
        return shares_memory([tensor], self._weights)


@dataclass(frozen=True, slots=True, eq=False)
class _Watched:
    """What is known of a call that depends on the rate before it is made: see :class:`Call`."""

    function: Callable[..., Any]
    template: tuple[Any, Any]
    found: list[torch.Tensor]
    versions: list[int]
    random: Any


def open_modes() -> list[TorchFunctionMode]:
    """Return the function modes of torch that are open, the outermost first."""
    return list(_get_current_function_mode_stack())  # type: ignore[no-untyped-call]


def set_modes(modes: Sequence[TorchFunctionMode]) -> None:
    """Close and open function modes of torch until these are open."""
    if all(map(is_, open_modes(), modes)) and len(open_modes()) == len(modes):
        return
    while torch._C._len_torch_function_stack():
        torch._C._pop_torch_function_stack()
    for mode in modes:
        torch._C._push_on_torch_function_stack(mode)


def same_values(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> bool:
    """Return whether tensors are equal, one by one."""
    return len(first) == len(second) and all(map(torch.equal, first, second))


def shares_memory(tensors: Iterable[torch.Tensor], weights: Iterable[torch.Tensor]) -> bool:
    """Return whether one of some tensors lies in the storage of a weight."""
    storages = {weight.untyped_storage().data_ptr() for weight in weights} - {0}
    dense = (tensor for tensor in tensors if tensor.layout == torch.strided)
    return not storages.isdisjoint(tensor.untyped_storage().data_ptr() for tensor in dense)


def _tensors(value: Any) -> list[torch.Tensor]:
    """Return the tensors in an argument: in tuples, lists, dicts and slices, at any depth.

    Raises:
        UnfitError: If there is a function among them.
    """
    found: list[torch.Tensor] = []
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            pending.extend(value)
        elif isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, slice):
            pending += [value.start, value.stop, value.step]
        elif callable(value) and not isinstance(value, type):
            raise UnfitError("a function is handed to torch")
    return found


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version

"""Everything of the user's that a probe can touch, remembered in memory and put back in place, bit for bit."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd import forward_ad

from autolr.probing.containers import COMMON, Containers, container_restore
from autolr.probing.held import held_modules
from autolr.probing.random_state import capture_random_state, is_generator, state_access
from autolr.probing.sharded import local, reset, reshard, sharded_modules
from autolr.probing.tape import open_modes, set_modes
from autolr.probing.tensors import DenseTensors, Restore, restore_leaf, sparse_restore

_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
_ATTEMPTS = 20


class Snapshot:
    """The state of some objects now; :meth:`restore` puts it back in place, as often as asked.

    Remembered, at any depth: of modules and optimizers all attributes (and so parameters, buffers, modes, moments,
    rates, counters), and the modules that an optimizer's hooks hold (an average of the weights); of dicts, lists, sets
    and deques the content; of arrays the values; of tensors the values, the storage and ``requires_grad``; of random
    generators the state. All these keep their identity. Gradients are taken off by :meth:`restore`, as a start of one's
    own gradients, and put back by :meth:`restore_gradients`. Sharded modules have their shards as parameters, now and
    after :meth:`restore`, and of a sharded tensor the values are those of its shard: nothing is sent.

    Not remembered is what lies behind objects of other types, which are kept by reference: the attributes of an object
    that is no module; the tensors, lists and counters that a hook or a forward closes over or names. (Of those, the
    random generators can be found by ``held_generators`` and handed to :func:`preserved_state`.)

    Args:
        *objects: The objects, usually a model and its optimizer. Random generators among them are left out: data may
            draw on from them while a model goes back; see :func:`preserved_state`.
        leave: Tensors that are left out.
        since: An earlier snapshot, to which everything goes back before anything else happens. Going back drops the
            tensors that have been made since, such as the moments of an optimizer: they are kept by reference, without
            a copy of their values.

    Attributes:
        tensors: The tensors that are remembered.
    """

    def __init__(self, *objects: object, leave: Iterable[torch.Tensor] = (), since: "Snapshot | None" = None) -> None:
        self._since = since
        self.tensors: list[torch.Tensor] = []
        self._dense, self._containers = DenseTensors(), Containers()
        self._restores: list[Restore] = [_contexts_restore(), self._dense.restore, self._containers.restore]
        sharded = sharded_modules(*(value for value in objects if isinstance(value, nn.Module)))
        if sharded:
            reshard(sharded)
            self._restores.insert(1, partial(reset, sharded))
        self._alive: dict[int, object] = {id(tensor): tensor for tensor in leave}  # an id needs its object's life
        pending = [value for value in objects if not is_generator(value)]
        while pending:
            value = pending.pop()
            if id(value) not in self._alive:
                self._alive[id(value)] = value
                pending.extend(self._remember(value))
        self._gradients = [(tensor, tensor.grad) for tensor in self.tensors if tensor.is_leaf]

    def restore(self) -> bool:
        """Put everything back, and return whether anything had changed besides the values of tensors.

        It may be repeated, so that an interrupted restore is mended by the next one.
        """
        changed = False
        failure: Exception | None = None
        for restore in self._restores:
            try:
                changed |= restore()
            except Exception as error:  # noqa: BLE001 (the others are put back first)
                failure = failure or error
        if failure is not None:
            raise failure
        return changed

    def values_of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the values to which a remembered tensor, or its shard, goes back; they are not to be written to."""
        return self._dense.values_of(local(tensor))

    def clear_gradients(self) -> None:
        """Take all gradients off, so that nothing is written into them."""
        for tensor, _ in self._gradients:
            tensor.grad = None

    def restore_gradients(self) -> None:
        """Put back the gradients, or their absence, that were there when the snapshot was taken."""
        for tensor, gradient in self._gradients:
            tensor.grad = gradient

    def _remember(self, value: Any) -> Iterable[object]:
        """Append what puts ``value`` itself back, and return the objects that it holds."""
        if isinstance(value, torch.Tensor):
            self.tensors.append(value)
            if (shard := local(value)) is not value:
                self._restores.append(partial(restore_leaf, value, value.is_leaf, value.requires_grad))
                return [shard]
            if self._since is None or id(value) in self._since._alive:
                if value.layout == torch.strided:
                    self._dense.add(value)
                else:
                    self._restores.append(sparse_restore(value))
        elif isinstance(value, nn.Module):
            if isinstance(value, torch.jit.ScriptModule):  # keeps what it holds outside of its attributes
                self._restores.append(_mode_restore(value))
                return [vars(value), *value.parameters(), *value.buffers(), *value.children()]
            return [vars(value)]
        elif isinstance(value, torch.optim.Optimizer):
            return [vars(value), *held_modules(*(getattr(value, hooks, None) for hooks in _HOOKS))]
        elif isinstance(value, (dict, list, deque, set)):
            if type(value) in COMMON:
                self._containers.add(value)
            else:
                self._restores.append(container_restore(value))
            if isinstance(value, dict):
                return value.values()
            return () if isinstance(value, set) else list(value)
        elif isinstance(value, tuple):
            return value
        elif isinstance(value, np.ndarray) and value.flags.writeable:
            self._restores.append(_array_restore(value))
        elif is_generator(value):
            self._restores.append(_generator_restore(value))
        return ()


@contextmanager
def preserved_state(*objects: object, devices: Iterable[torch.device] = ()) -> Iterator[Snapshot]:
    """Put the objects, the global random generators and the grad mode back on every way out of the block.

    Within the block there are no gradients: those that were there are put back with the rest.

    The restore is finished also where an interrupt arrives in the middle of it; the interrupt is raised afterwards. A
    graph that was built before the block can still be differentiated after it: versions of tensors are put back too.

    Args:
        *objects: What is preserved; see :class:`Snapshot`. Random generators among them are put back at the end only.
        devices: The devices in use, whose generators are preserved with the CPU's, NumPy's and Python's.

    Yields:
        The snapshot, from which probes restart.
    """
    snapshot = Snapshot(*objects)
    grad_enabled = torch.is_grad_enabled()
    tracked = tuple(tensor for tensor in snapshot.tensors if not tensor.is_inference())
    versions = tuple(tensor._version for tensor in tracked)
    restore_random_state = capture_random_state(devices)
    restore_dual_level = _dual_level_restore()
    generators = [_generator_restore(value) for value in objects if is_generator(value)]

    def put_back() -> None:
        _call_each(
            snapshot.restore,
            snapshot.restore_gradients,
            restore_dual_level,
            *generators,
            restore_random_state,
            partial(torch.set_grad_enabled, grad_enabled),
            torch.clear_autocast_cache,
            # NOTE: honest, as the values are those that the graph saw
            partial(torch._C._autograd._unsafe_set_version_counter, tracked, versions),
        )

    restored = False
    try:
        try:
            snapshot.clear_gradients()
            yield snapshot
        finally:
            _finish(put_back)
            restored = True
    finally:  # an interrupt can arrive on any line, those of the inner block too
        if not restored:
            _finish(put_back)


def _call_each(step: Callable[[], object], *others: Callable[[], object]) -> None:
    """Call all steps in their order, each whatever becomes of those before it."""
    try:
        step()
    finally:
        if others:
            _call_each(*others)


def _finish(put_back: Callable[[], None], attempts: int = _ATTEMPTS) -> None:
    """Call until it goes through, and raise afterwards what interrupted it: a signal's handler may raise anything."""
    try:
        put_back()
    except BaseException:
        if attempts > 0:
            _finish(put_back, attempts - 1)
        raise


def _contexts_restore() -> Restore:
    """Return what closes the contexts of torch that an interrupt, while they were entered or left, has left open.

    Functions of torch would go through the open ones for ever, those of a restore too. One that it has lost is opened.
    """
    modes, depth = open_modes(), torch._C._functorch.get_dynamic_layer_stack_depth()

    def restore() -> bool:
        set_modes(modes)
        if torch._C._functorch.get_dynamic_layer_stack_depth() > depth:
            torch._C._functorch.pop_dynamic_layer_stack_and_undo_to_depth(depth)
        return False

    return restore


def _dual_level_restore() -> Restore:
    """Return what closes a level of forward mode that an interrupt has left open; torch counts it in two places."""
    level = forward_ad._current_level

    def restore() -> bool:
        with suppress(RuntimeError):  # torch's word for one that is not open
            torch._C._exit_dual_level(level=level + 1)
        forward_ad._current_level = level
        return False

    return restore


def _mode_restore(module: nn.Module) -> Restore:
    training = module.training

    def restore() -> bool:
        changed = module.training != training
        if changed:
            module.training = training
        return changed

    return restore


def _array_restore(value: np.ndarray[Any, Any]) -> Restore:
    content = value.copy()

    def restore() -> bool:
        changed = value.tobytes() != content.tobytes()
        if changed:
            np.copyto(value, content)
        return changed

    return restore


def _generator_restore(generator: Any) -> Restore:
    get, put = state_access(generator)
    state: Any = get()

    def restore() -> bool:
        now = get()
        # of a long state of NumPy's the ends are shown, and the position, which every draw moves
        same = torch.equal(now, state) if isinstance(now, torch.Tensor) else repr(now) == repr(state)
        put(state)
        return not same

    return restore

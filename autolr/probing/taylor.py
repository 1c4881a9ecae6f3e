"""Loss, slope and curvature along the optimizer's own step, without a Hessian."""

import logging
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import torch
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable
from torch.autograd.graph import disable_saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from autolr._typing import Batch
from autolr._validation import invalid
from autolr.batches import map_leaves
from autolr.probing.direction import Direction, length_of
from autolr.probing.forwards import comes_out_of_torch
from autolr.probing.start import Start, needs_closure

logger = logging.getLogger("autolr")

# NOTE: the step that gives d is this many times as long as the weights, and as the step that it is compared with: it is
# then rounded by little more than the resolution of d itself.
_LONG = 10.0
_TRIES, _LEAP = 8, 1e4  # to find a rate at which the step can be seen in the weights

# what all functions have in common that torch lets be differentiated once: their gradient is a constant to it
_ONCE = once_differentiable(repr).__code__

# tensor by tensor; ``None`` is zero
_Vector: TypeAlias = Sequence[torch.Tensor | None]


class Derivatives(NamedTuple):
    """The loss and its derivatives by the rate, at rate 0; NaN where the step is not finite."""

    loss: float
    slope: float
    curvature: float


class _Line(NamedTuple):
    """The weights that move, d for each of them, and whether the loss has a gradient there."""

    weights: Sequence[torch.Tensor]
    steps: Sequence[torch.Tensor]
    has_gradient: Sequence[bool]


class _Products(NamedTuple):
    """For each weight that moves, the gradient g and the product H d of Hessian and direction."""

    gradients: _Vector
    curved: _Vector


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Compute attention by its formula, and compiled functions as they are written: both have second derivatives then.

    All losses of an expansion belong into one such block, as another kernel may draw other dropout masks.
    """
    with ExitStack() as contexts:
        contexts.enter_context(sdpa_kernel(SDPBackend.MATH))
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and importing it takes a second
            contexts.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def differentiate(start: Start, batch: Batch) -> Derivatives:
    r"""Return the loss on a batch, and its first two derivatives by the rate of a step with the gradient on it.

    With :math:`\theta(\mathrm{lr}) = \theta_0 - \mathrm{lr}\, d`, the gradient g and the Hessian H at the start, the
    slope is :math:`-\langle g, d \rangle` and the curvature :math:`\langle d, H d \rangle`. The direction d is that of
    the optimizer's own step. H d comes from forward-mode differentiation of the reverse-mode gradient (Pearlmutter
    1994), with d as the tangent of the weights. The loss then has the tangent :math:`\langle g, d \rangle` as well;
    where it has another (a use of a weight was not seen), or an operation has no rule, the gradient is differentiated
    in reverse mode. What is detached, or computed without gradients, is a constant in either.

    Args:
        start: The start; the model ends there.
        batch: The batch.

    Raises:
        ValueError: If the model is sharded over processes, the optimizer's steps do not lie on a line, the loss has no
            second derivatives, or it hides weights from ``torch.autograd.grad``, as reentrant checkpoints do.

    References:
        Pearlmutter (1994). Fast exact multiplication by the Hessian. Neural Computation 6(1).
    """
    if start.objective.sharded:  # FSDP cuts the graph at the first derivatives
        raise ValueError(invalid("model", "not be sharded for derivatives", type(start.objective.model).__name__))
    start.restore()
    loss = _loss(start, batch)
    line = _line(start, batch) if math.isfinite(loss) else None
    if line is None:
        return Derivatives(loss, math.nan, math.nan)
    if not line.weights:  # the loss is of other weights than the optimizer's
        return Derivatives(loss, 0.0, 0.0)
    resolution = max(torch.finfo(weight.dtype).eps for weight in line.weights)
    with _without_hooks(line.weights):
        products = _forward_over_reverse(start, batch, line, loss, max(resolution, start.objective.epsilon))
        if products is None:
            products = _reverse_over_reverse(start, batch, line)
    hidden = [has and g is None for has, g in zip(line.has_gradient, products.gradients, strict=True)]
    if any(hidden):
        twice = "have a loss that torch can differentiate twice (checkpoints need use_reentrant=False)"
        raise ValueError(invalid("model", twice, type(start.objective.model).__name__))
    return Derivatives(loss, 0.0 - _dot(products.gradients, line.steps), _dot(products.curved, line.steps))


def _loss(start: Start, batch: Batch) -> float:
    """Return the loss at the start, computed as for a gradient."""
    start.randomness.rewind()
    loss = float(start.objective.with_graph(batch).detach())
    start.restore()
    return loss


def _line(start: Start, batch: Batch) -> _Line | None:
    """Return the line of the optimizer's step, or ``None`` where the step is not finite.

    Raises:
        ValueError: If there is no such direction: the steps at two rates do not lie on a line.
    """
    optimizer = type(start.optimizer).__name__
    proportional = "take steps that are proportional to the learning rate"
    if needs_closure(start.optimizer):
        raise ValueError(invalid("optimizer", f"{proportional} (it computes losses within its step)", optimizer))
    direction = Direction(start)
    if not direction.is_whole:
        raise ValueError(invalid("optimizer", "hold no sparse parameters", optimizer))
    gradients = direction.gradients(batch)
    reached = {id(p) for p, g in zip(start.objective.parameters, gradients.values, strict=True) if g is not None}
    weights = length_of(direction.origin)
    largest = min(torch.finfo(weight.dtype).max for weight in direction.parameters) / _LONG**2
    rate = start.learning_rate
    for _ in range(_TRIES):
        tried = rate
        real = direction.step(tried, gradients)
        start.restore()
        length = length_of(real) / tried
        if not math.isfinite(length):
            return None
        equal = weights / length if length > 0.0 else 0.0  # where the step is as long as the weights
        enough = min(equal, direction.resolvable(length)[1]) if length > 0.0 else math.inf
        if tried >= min(enough, largest):
            break
        rate = min(enough, _LEAP * tried, largest)
    direction.take(_LONG * min(max(tried, equal), largest), gradients)
    if not direction.is_finite():
        return None
    objection = direction.off_line(tried, real, direction.sketches())
    if objection is not None:
        raise ValueError(invalid("optimizer", f"{proportional} ({objection})", optimizer))
    ways = zip(direction.parameters, direction.steps, strict=True)
    moving = [(weight, step) for weight, step in ways if step is not None]
    return _Line([w for w, _ in moving], [step for _, step in moving], [id(w) in reached for w, _ in moving])


def _forward_over_reverse(start: Start, batch: Batch, line: _Line, loss: float, epsilon: float) -> _Products | None:
    """Return the products, or ``None`` where an operation has no rule for them, or they are not those of ``loss``."""
    start.randomness.rewind()
    try:
        _load_rules()
        # what such a hook keeps or computes again comes back without its tangent
        with forward_ad.dual_level(), disable_saved_tensors_hooks("hooks of saved tensors lose tangents"):
            with torch.enable_grad():
                duals = map(forward_ad.make_dual, line.weights, line.steps)
                mode = _Duals(dict(zip(map(id, line.weights), duals, strict=True)))
            with mode:
                value = start.objective.with_graph(batch)
            gradients = torch.autograd.grad(value, line.weights, allow_unused=True)
            pairs = [_unpacked(gradient) for gradient in gradients]
            primal, tangent = _unpacked(value)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or not comes_out_of_torch(error):
            raise
        logger.debug("Curvature by double backward, as forward mode fails: %s", _first_line(error))
        return None
    finally:
        start.restore()
    products = _Products([g for g, _ in pairs], [curved for _, curved in pairs])
    found = float(0.0 if primal is None else primal), float(0.0 if tangent is None else tangent)
    expected = loss, _dot(products.gradients, line.steps)
    # NOTE: 1e-4 in float32, 5e-9 in float64; where the terms of the slope cancel, as much as these are rounded
    tolerance = math.sqrt(epsilon) / 3.0
    rounding = 100.0 * epsilon * math.sqrt(_dot(products.gradients) * _dot(line.steps))
    allowed = tolerance * max(abs(loss), 1.0), max(tolerance * abs(expected[1]), rounding)
    if all(abs(one - other) <= most for one, other, most in zip(found, expected, allowed, strict=True)):
        logger.debug("Curvature by forward mode over reverse mode")
        return products
    logger.debug("Curvature by double backward: loss and slope are %s in forward mode, not %s", found, expected)
    return None


def _reverse_over_reverse(start: Start, batch: Batch, line: _Line) -> _Products:
    """Return the products by differentiating the gradient, which counts all uses of the weights.

    Raises:
        ValueError: If an operation cannot be differentiated twice.
    """
    start.randomness.rewind()
    try:
        loss = start.objective.with_graph(batch)
        if _has_once_differentiable(loss):
            twice = "have a loss that torch can differentiate twice (a function in it is marked as once differentiable)"
            raise ValueError(invalid("model", twice, type(start.objective.model).__name__))
        try:
            gradients = torch.autograd.grad(loss, line.weights, create_graph=True, allow_unused=True)
            # where the loss is linear, the gradient has no graph
            bent = [(g, d) for g, d in zip(gradients, line.steps, strict=True) if g is not None and g.requires_grad]
            outputs, along = zip(*bent, strict=True) if bent else ((), ())
            curved = (
                torch.autograd.grad(outputs, line.weights, along, allow_unused=True)
                if bent
                else (None,) * len(gradients)
            )
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or not comes_out_of_torch(error):
                raise
            twice = f"have a loss that torch can differentiate twice ({_first_line(error)})"
            raise ValueError(invalid("model", twice, type(start.objective.model).__name__)) from error
    finally:
        start.restore()
    return _Products([None if g is None else g.detach() for g in gradients], curved)


def _has_once_differentiable(loss: torch.Tensor) -> bool:
    """Return whether a function in the graph of the loss is marked with ``once_differentiable``."""
    seen: set[object] = {None}
    pending: list[Any] = [loss.grad_fn]
    while pending:
        node = pending.pop()
        if node not in seen:
            seen.add(node)
            backward = getattr(getattr(node, "_forward_cls", None), "backward", None)
            if getattr(backward, "__code__", None) is _ONCE:
                return True
            pending.extend(before for before, _ in node.next_functions)
    return False


@cache
def _load_rules() -> None:
    """Have torch load its rules for duals, at the first of which it warns of its own use of ``torch.jit.script``."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", DeprecationWarning)
        forward_ad.make_dual(*torch.zeros(2, 1, device="cpu"))  # type: ignore[no-untyped-call]


def _unpacked(dual: torch.Tensor | None) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return the value and the tangent of a dual, without graphs; ``None`` is zero."""
    parts = (None, None) if dual is None else forward_ad.unpack_dual(dual)  # type: ignore[no-untyped-call]
    value, tangent = (None if part is None else part.detach() for part in parts)
    return value, tangent


def _first_line(error: RuntimeError) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


class _Duals(TorchFunctionMode):
    """Puts duals in the place of parameters wherever a function of torch is handed one.

    Where gradients are off, there are no tangents either: forward mode would go on through ``torch.no_grad``.
    """

    def __init__(self, duals: dict[int, torch.Tensor]) -> None:
        super().__init__()
        self._duals = duals

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not torch.is_grad_enabled():
            with forward_ad._set_fwd_grad_enabled(False):
                return func(*args, **kwargs)
        return func(*map_leaves(self._dual, args), **map_leaves(self._dual, kwargs))

    def _dual(self, value: Any) -> Any:
        return self._duals.get(id(value), value)


@contextmanager
def _without_hooks(parameters: Sequence[torch.Tensor]) -> Iterator[None]:
    """Take the hooks off that parameters have for their gradients: one that clips is in d, but not in the slope."""
    kept = [(hooks, dict(hooks)) for hooks in (parameter._backward_hooks for parameter in parameters) if hooks]
    try:
        for hooks, _ in kept:
            hooks.clear()
        yield
    finally:
        for hooks, before in kept:
            hooks.update(before)


def _dot(first: _Vector, second: _Vector | None = None) -> float:
    """Return the inner product of two vectors (or of one with itself), summed in float64 where the device has it."""
    total = 0.0
    for one, other in zip(first, first if second is None else second, strict=True):
        if one is not None and other is not None:
            wide = torch.float32 if one.device.type == "mps" else torch.float64
            flat, other_flat = (_real(part).flatten().to(wide) for part in (one, other))
            total += float(torch.dot(flat, other_flat))
    return total


def _real(tensor: torch.Tensor) -> torch.Tensor:
    """Return a dense tensor of real numbers; complex ones have two, along which the loss has a slope each."""
    dense = tensor.to_dense()
    return torch.view_as_real(dense.resolve_conj()) if dense.is_complex() else dense

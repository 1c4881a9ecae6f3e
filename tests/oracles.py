"""What a probe is, slow and obvious: copies of everything, real steps, and closed forms."""

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

# makes independent copies of (model, optimizer, compute_loss)
Copies = Callable[[], tuple[nn.Module, torch.optim.Optimizer, Callable[[Any, Any], torch.Tensor]]]


def copies_of(model: nn.Module, optimizer: torch.optim.Optimizer, compute_loss: Any) -> Copies:
    """Return a maker of copies, in which the copied optimizer holds the copied model's parameters.

    A copied optimizer has lost its hooks, which torch does not copy.
    """

    def copies() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
        copied_model, copied_optimizer = copy.deepcopy((model, optimizer))
        if isinstance(copied_optimizer, torch.optim.LBFGS):  # forgets these
            copied_optimizer._params = copied_optimizer.param_groups[0]["params"]
            copied_optimizer._numel_cache = None
        return copied_model, copied_optimizer, compute_loss

    return copies


def global_random_state() -> Callable[[], None]:
    """Return a function that moves the global generators to where they are now."""
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002

    def rewind() -> None:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)

    return rewind


def probe_by_copies(
    copies: Copies,
    learning_rates: Sequence[float],
    batch: Any,
    evaluation_batch: Any,
    rewind: Callable[[], None],
    *,
    needs_graph: bool = False,
) -> tuple[float, np.ndarray]:
    """Return the loss before, and after one real step at each rate, each from copies of its own, shape ``(K,)``."""

    def loss(model: nn.Module, compute_loss: Any) -> float:
        rewind()
        with torch.set_grad_enabled(needs_graph):
            return float(compute_loss(model, copy.deepcopy(evaluation_batch)).detach())

    model, _, compute_loss = copies()
    loss_pre = loss(model, compute_loss)
    losses = []
    for learning_rate in learning_rates:
        gradient_model, gradient_optimizer, compute_loss = copies()
        gradient_optimizer.zero_grad()
        rewind()
        compute_loss(gradient_model, copy.deepcopy(batch)).backward()
        # the step starts from copies that have seen no forward, with the gradients of those that have
        model, optimizer, compute_loss = copies()
        for mine, other in zip(_parameters(optimizer), _parameters(gradient_optimizer), strict=True):
            mine.grad = other.grad
        _set_rate(optimizer, learning_rate)
        rewind()
        optimizer.step(*_closure(model, optimizer, compute_loss, batch, rewind))
        losses.append(loss(model, compute_loss))
    return loss_pre, np.where(np.isfinite(losses), losses, np.inf)


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _set_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    groups = optimizer.param_groups
    held_at_zero = all(group["lr"] == 0.0 and "initial_lr" in group for group in groups)
    base = [float(group["initial_lr" if held_at_zero else "lr"]) for group in groups]
    for group, rate in zip(groups, base, strict=True):
        scaled = learning_rate * rate / base[0]
        group["lr"] = torch.tensor(scaled) if isinstance(group["lr"], torch.Tensor) else scaled


def _closure(model: Any, optimizer: Any, compute_loss: Any, batch: Any, rewind: Any) -> list[Callable[[], Any]]:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        rewind()
        loss = compute_loss(model, copy.deepcopy(batch))
        loss.backward()
        return loss

    return [closure] if isinstance(optimizer, torch.optim.LBFGS) else []


def linear_regression_delta(
    weight: torch.Tensor, X: torch.Tensor, y: torch.Tensor, learning_rates: np.ndarray
) -> np.ndarray:
    r"""Return dL of the mean squared error after a step of SGD on the same data: the expansion, which is exact.

    With residuals :math:`r = X w - y`, gradient :math:`g = 2 X^T r / m` and Hessian :math:`H = 2 X^T X / m`,
    :math:`\Delta(\mathrm{lr}) = -\mathrm{lr}\, g^T g + \mathrm{lr}^2 g^T H g / 2`.
    """
    m = len(y)
    gradient = 2.0 / m * X.T @ (X @ weight - y)
    return quadratic_delta(gradient, 2.0 / m * X.T @ X, gradient, learning_rates)


def quadratic_delta(
    gradient: torch.Tensor, hessian: torch.Tensor, direction: torch.Tensor, learning_rates: np.ndarray
) -> np.ndarray:
    """Return the second-order expansion of the change of the loss along ``-lr direction``, shape ``(K,)``."""
    slope, curvature = float(gradient @ direction), float(direction @ hessian @ direction)
    return -learning_rates * slope + learning_rates**2 * curvature / 2.0


def train_by_copies(
    copies: Copies,
    learning_rates: Sequence[float],
    horizons: Sequence[int],
    batches: Sequence[Any],
    evaluation_batch: Any,
    rewind: Callable[[int], None],
) -> tuple[float, np.ndarray]:
    """Return the loss before, and after some numbers of steps of a training loop at each rate, shape ``(K, H)``.

    Each rate trains copies of its own, and each loss is that of a further copy. ``rewind`` moves the global generators
    to the state of a step.
    """

    def loss(model: nn.Module, compute_loss: Any) -> float:
        rewind(0)
        with torch.no_grad():
            return float(compute_loss(copy.deepcopy(model), evaluation_batch))

    model, _, compute_loss = copies()
    loss_pre = loss(model, compute_loss)
    losses: list[list[float]] = []
    for learning_rate in learning_rates:
        model, optimizer, compute_loss = copies()
        _set_rate(optimizer, learning_rate)
        losses.append([])
        for step, batch in enumerate(batches):
            closure = _closure(model, optimizer, compute_loss, batch, lambda step=step: rewind(step))
            if not closure:
                optimizer.zero_grad()
                rewind(step)
                compute_loss(model, batch).backward()
                rewind(step)
            optimizer.step(*closure)
            if step + 1 in horizons:
                losses[-1].append(loss(model, compute_loss))
    return loss_pre, np.array(losses)


def search_by_hand(
    make: Callable[[], Any],
    trace: Any,
    batches: Sequence[Any],
    held_out: Sequence[Any],
    *,
    accumulation_steps: int = 1,
    clip: Any = None,
    set_rate: Callable[[torch.optim.Optimizer, float], None] = _set_rate,
) -> list[float]:
    """Return what a search's trace is to hold, loss by loss: each rate trains objects of its own, in a plain loop.

    The models are to draw nothing at random. Held-out losses are those of evaluation mode.

    Args:
        make: Makes a model, its optimizer, the loss ``(model, batch)``, and all networks that it goes through.
        trace: That of the search, of which only the rates and the numbers of steps are used.
        batches: What is trained on, again and again.
        held_out: What is judged on.
        accumulation_steps: The batches of a step.
        clip: Called with the parameters before each step.
        set_rate: Sets a rate.
    """
    annealing = trace[trace["stage"] == "anneal"]["step"]
    first, last = annealing.min(), annealing.max() + 1
    courses: dict[float, tuple[list[float], float]] = {}

    def train(rate: float, num_steps: int) -> tuple[list[float], float]:
        model, optimizer, compute_loss, networks = make()
        losses = []
        for step in range(num_steps):
            numbers = range(step * accumulation_steps, (step + 1) * accumulation_steps)
            optimizer.zero_grad()
            losses.append(0.0)
            for number in numbers:
                loss = compute_loss(model, copy.deepcopy(batches[number % len(batches)])) / accumulation_steps
                loss.backward()
                losses[-1] += float(loss.detach())
            if clip is not None:
                clip(model.parameters())
            set_rate(optimizer, rate * min(1.0, (last - step) / (last - first + 1.0)))
            optimizer.step()
        for network in networks:
            network.eval()
        with torch.no_grad():
            return losses, float(np.mean([float(compute_loss(model, copy.deepcopy(batch))) for batch in held_out]))

    def before_any_step(step: int) -> float:
        model, _, compute_loss, _ = make()
        parts = [batches[(step * accumulation_steps + i) % len(batches)] for i in range(accumulation_steps)]
        return float(np.mean([float(compute_loss(model, copy.deepcopy(part)).detach()) for part in parts]))

    steps = trace[~trace["stage"].isin(["untrained", "held-out"])].groupby("learning_rate").size()
    courses = {rate: train(float(rate), int(num_steps)) for rate, num_steps in steps.items()}
    return [
        before_any_step(step)
        if stage == "untrained"
        else courses[rate][1]
        if stage == "held-out"
        else courses[rate][0][step]
        for stage, rate, step in zip(trace["stage"], trace["learning_rate"], trace["step"], strict=True)
    ]


def tuning_by_hand(
    make: Callable[[], Any], learning_rates: Sequence[float], batches: Sequence[Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the losses before, shape ``(M,)``, and after one step, ``(M, K)``, on the pairs of some batches.

    The models are to draw nothing at random. ``make`` is that of :func:`search_by_hand`.
    """
    rows = [
        probe_by_copies(lambda: make()[:3], learning_rates, batches[i], batches[i + 1], lambda: None)
        for i in range(0, len(batches) - 1, 2)
    ]
    return np.array([pre for pre, _ in rows]), np.array([post for _, post in rows])

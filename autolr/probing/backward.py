"""The backward of a loss into some tensors only, also where a part of its graph is out of sight."""

from collections.abc import Sequence

import torch
from torch.autograd.graph import Node


def has_own_functions(loss: torch.Tensor) -> bool:
    """Return whether a graph has functions that are written in Python, which may run a backward of their own in theirs.

    So do reentrant checkpoints: the weights that they use are not in the graph. ``backward(inputs=...)`` and
    ``torch.autograd.grad`` then leave these out without a word, or are refused by torch.
    """
    return any(isinstance(node, torch.autograd.function.BackwardCFunction) for node in _nodes(loss))


def backward_by_all(loss: torch.Tensor, inputs: Sequence[torch.Tensor]) -> None:
    """Add gradients to ``.grad`` of ``inputs`` by a backward to all leaves; what others of the graph had is put back.

    Those of a part of the graph that is out of sight are left with their gradients, if they are not among ``inputs``.
    """
    known = {id(tensor) for tensor in inputs}
    leaves = [node.variable for node in _nodes(loss) if hasattr(node, "variable")]
    others = [(leaf, leaf.grad) for leaf in leaves if id(leaf) not in known]
    try:
        for leaf, _ in others:
            leaf.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
    finally:
        for leaf, gradient in others:
            leaf.grad = gradient


def backward_unseen(loss: torch.Tensor, inputs: Sequence[torch.Tensor]) -> None:
    """Add gradients to ``.grad`` of ``inputs`` as ``loss.backward(inputs=inputs)`` does, seen by no hook on that.

    ``DistributedDataParallel`` has such hooks. Where one of its forwards has not been followed by a backward yet, they
    would take the gradients for those of that forward, wait for other ranks, and leave the true ones unreduced.

    Example:
        >>> weight = torch.ones(2, requires_grad=True)
        >>> backward_unseen((3.0 * weight).sum(), [weight])
        >>> weight.grad
        tensor([3., 3.])
    """
    gradients = list(torch.autograd.grad(loss, inputs, allow_unused=True))
    with torch.no_grad():
        for tensor in inputs:
            gradient = gradients.pop(0)  # so that there is not all of it twice
            if gradient is not None:
                dense = gradient.layout == torch.strided
                # a copy, as two tensors may have been given one gradient, and entries one place
                own = torch.empty_like(tensor).copy_(gradient) if dense else gradient.clone()
                tensor.grad = own if tensor.grad is None else tensor.grad + own


def _nodes(loss: torch.Tensor) -> set[Node]:
    """Return the nodes of a graph; those that accumulate into a leaf have it as ``variable``."""
    nodes: set[Node] = set()
    pending = [torch.autograd.graph.get_gradient_edge(loss).node]
    while pending:
        node = pending.pop()
        if node not in nodes:
            nodes.add(node)
            pending.extend(following for following, _ in node.next_functions if following is not None)
    return nodes

"""Faults injected into any call, at the n-th time that it comes by a place of the user's."""

from collections.abc import Callable
from typing import Any

import torch
from harness import quiet
from restore_cases import CALLS, Case, make_case
from torch.utils.data import DataLoader, Dataset


class UsersError(Exception):
    """An exception of the user's own."""


KINDS: dict[str, Callable[[], BaseException]] = {
    "exception": lambda: UsersError("mine"),
    "RuntimeError": lambda: RuntimeError("mine"),  # what torch raises too
    "Ctrl-C": KeyboardInterrupt,
    "out of memory": lambda: torch.OutOfMemoryError("mine: out of memory"),
}
VALUES = {"NaN": float("nan"), "inf": float("inf")}
RAISING, WRITING = ("loss", "backward", "step", "loader"), ("loss", "gradient", "weight")
_WORDS = ("finite", "the same model, optimizer and data")  # that a loss which is not finite may be refused in
_OF_A_LOADER = ("tune, loader", "find_lr", "lr_range_test", "compare_schedules", "hook")
WITH_A_LOADER = tuple(name for name in CALLS if name.startswith(_OF_A_LOADER))


class Place:
    """A place that calls come by; at the n-th time something happens there, once."""

    def __init__(self, number: int, happen: Callable[[Any], Any]) -> None:
        self.number, self.happen, self.times = number, happen, 0

    def __call__(self, value: Any = None) -> Any:
        self.times += 1
        return self.happen(value) if self.times == self.number else value


class Watched(Dataset[Any]):
    """A dataset that comes by a place for each of its observations."""

    def __init__(self, dataset: Dataset[Any], place: Place) -> None:
        self.dataset, self.place = dataset, place

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        self.place()
        return self.dataset[index]


def watched_case(site: str, place: Place) -> Case:
    """Return a warm case that comes by the place at each loss, backward pass, optimizer step or observation."""
    case = make_case("Adam", "convolutions with BatchNorm", warm=True)
    if site == "loader":
        dataset = Watched(case.loader.dataset, place)
        case.loader = DataLoader(dataset, case.loader.batch_size, shuffle=True, generator=case.generator)
    elif site in ("step", "weight"):
        first = case.model.get_parameter("0.weight")

        def hook(*_: Any) -> None:
            with torch.no_grad():
                first.copy_(place(first))

        register = "register_step_pre_hook" if site == "step" else "register_step_post_hook"
        getattr(case.optimizer, register)(hook)
    else:
        case.loss = Faulty(site, place)  # type: ignore[method-assign]
    return case


class Faulty:
    """A loss that comes by a place with its value, or with the gradient by the model's output."""

    def __init__(self, site: str, place: Place) -> None:
        self.site, self.place = site, place

    def __call__(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if self.site != "loss" and output.requires_grad:
            output.register_hook(self.place)
        loss = torch.nn.functional.cross_entropy(output, target)
        return self.place(loss) if self.site == "loss" else loss


def quietly(call: str, case: Case) -> BaseException | None:
    """Make a call, assert that nothing was changed by it, and return what it raised."""
    with case.kept(), quiet():
        try:
            CALLS[call](case)
        except BaseException as error:  # noqa: BLE001 (it is looked at)
            return error
    return None


def times(call: str, site: str) -> int:
    """Return how often a call comes by a place."""
    place = Place(-1, lambda value: value)
    error = quietly(call, watched_case(site, place))
    assert error is None, error
    return place.times


def raised_at(call: str, site: str, kind: str, number: int) -> str:
    """Have the n-th visit raise, and return whether the very error came out, or the call did without what raised.

    Raises:
        AssertionError: If something was changed, or another error was raised, or none where none may be caught.
    """
    error = KINDS[kind]()

    def fail(_: Any) -> Any:
        raise error

    place = Place(number, fail)
    raised = quietly(call, watched_case(site, place))
    if raised is error:
        return "raised"
    # fewer losses at a time need less memory; an engine may have been faster this time, and come by less often
    assert raised is None, raised
    assert place.times < number or kind == "out of memory", f"{call}: {kind} at {site} {number} was swallowed"
    return "came by less often" if place.times < number else "did with less memory"


def written_at(call: str, site: str, name: str, number: int) -> str:
    """Have the n-th visit write NaN or inf, and return what became of the call: a result, or the name of an error.

    Raises:
        AssertionError: If something was changed, or the error is not a documented one.
    """
    place = Place(number, lambda value: value * VALUES[name])
    raised = quietly(call, watched_case(site, place))
    if raised is None:
        return "result"
    assert type(raised).__name__ in ("ValueError", "DivergedError", "NoCandidateError"), raised
    assert not isinstance(raised, ValueError) or any(words in str(raised) for words in _WORDS), raised
    return type(raised).__name__


def places(call: str) -> list[tuple[str, int]]:
    """Return the places that a call comes by, and how often."""
    sites = [site for site in dict.fromkeys(RAISING + WRITING) if site != "loader" or call in WITH_A_LOADER]
    return [(site, times(call, site)) for site in sites]

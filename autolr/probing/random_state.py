"""The random generators that a training step can draw from: the global ones, and those that the user's objects hold."""

import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch

# the states made last that are kept: all rates of a row go through the same ones
_KEPT = 256

# a state of all generators of a ForkedRandomness: what moves each of them there
RandomState = list[Callable[[], object]]

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def is_generator(value: object) -> bool:
    """Return whether this is a random generator with a state; that of the operating system has none."""
    return isinstance(value, GENERATORS) and not isinstance(value, random.SystemRandom)


def state_access(generator: Any) -> tuple[Callable[[], Any], Callable[[Any], object]]:
    """Return the functions that get and put the state of a generator."""
    if isinstance(generator, torch.Generator):
        return generator.get_state, generator.set_state
    if isinstance(generator, random.Random):
        return generator.getstate, generator.setstate
    if isinstance(generator, np.random.RandomState):
        return partial(generator.get_state, legacy=False), generator.set_state
    bits = generator.bit_generator
    return partial(getattr, bits, "state"), partial(setattr, bits, "state")


def seeded_state(generator: Any, seed: np.random.SeedSequence) -> Callable[[], object]:
    """Return what moves a generator to a state that is made of ``seed`` and its kind alone."""
    if isinstance(generator, torch.Generator):
        return partial(generator.manual_seed, _integer(seed))
    if isinstance(generator, random.Random):
        return partial(generator.seed, _integer(seed))
    if not isinstance(generator, np.random.RandomState):
        return partial(setattr, generator.bit_generator, "state", type(generator.bit_generator)(seed).state)
    kind = type(generator._bit_generator)
    if kind is np.random.MT19937:  # which takes a seed, and that twenty times as fast as a state
        return partial(generator.seed, int(seed.generate_state(1)[0]))
    return partial(generator.set_state, {**kind(seed).state, "has_gauss": 0, "gauss": 0.0})


def _integer(seed: np.random.SeedSequence) -> int:
    return int(seed.generate_state(1, np.uint64)[0])


def accelerators(devices: Iterable[torch.device]) -> list[torch.device]:
    """Return the distinct devices that have a generator of their own besides the CPU's."""
    return sorted({device for device in devices if device.type not in ("cpu", "meta")}, key=str)


def capture_random_state(devices: Iterable[torch.device]) -> Callable[[], None]:
    """Return a function that puts all global generators back to where they are now.

    Args:
        devices: The devices in use; CUDA devices that the process has in use besides them are included.
    """
    every = set(accelerators(devices))
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        every |= {torch.device("cuda", index) for index in range(torch.cuda.device_count())}
    cpu = torch.get_rng_state()
    on_device = [(device, _get_device_state(device)) for device in every]
    numpy_state, python_state = np.random.get_state(legacy=False), random.getstate()  # noqa: NPY002 (the global one)

    def restore() -> None:
        torch.set_rng_state(cpu)
        for device, state in on_device:
            _set_device_state(device, state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)

    return restore


class ForkedRandomness:
    """Random generators, moved to a state that depends on a row's number only, and back to it at will.

    Every loss of a row starts from the same state (common random numbers), so that all rates see the same dropout
    masks. The caller captures the user's own state before and restores it afterwards.

    Args:
        devices: The devices in use, whose global generators are moved with torch's, NumPy's and Python's.
        generators: Generators that the user's loss or dataset holds, moved too; their order is part of their states.
    """

    def __init__(self, devices: Iterable[torch.device], generators: Iterable[object] = ()) -> None:
        self._devices = accelerators(devices)
        self._generators = list({id(generator): generator for generator in generators}.values())
        self._access = [state_access(generator) for generator in self._generators]
        self._states: dict[Any, RandomState] = {}

    def state_of(self, seed: np.random.SeedSequence) -> RandomState:
        """Return a state of all generators that is made of ``seed`` alone; nothing is moved."""
        key = seed.entropy, seed.spawn_key
        if key not in self._states:
            if len(self._states) >= _KEPT:
                del self._states[next(iter(self._states))]
            self._states[key] = self._make_state(seed)
        return self._states[key]

    def _make_state(self, seed: np.random.SeedSequence) -> RandomState:
        high, low, python_high, python_low, numpy_seed = seed.generate_state(5).tolist()
        torch_seed = high << 32 | low
        # to seed again costs as much as to go back to a state that is there, and a tenth of making one of 624 words
        state: RandomState = [
            partial(torch.default_generator.manual_seed, torch_seed),
            partial(random.seed, python_high << 32 | python_low),
            partial(np.random.seed, numpy_seed),
        ]
        for device in self._devices:
            words = torch.Generator(device).manual_seed(torch_seed).get_state()
            state.append(partial(_set_device_state, device, words))
        for index, generator in enumerate(self._generators):
            child = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, index))
            state.append(seeded_state(generator, child))
        return state

    def state_now(self) -> RandomState:
        """Return the state in which all generators are; :meth:`move_to` goes back to it."""
        numpy_state: Any = np.random.get_state(legacy=False)  # noqa: NPY002 (the global one)
        words = numpy_state["state"]
        # which NumPy reads thirty times as fast as an array of its own
        numpy_state = {**numpy_state, "state": {**words, "key": words["key"].tolist()}}
        return [
            partial(torch.default_generator.set_state, torch.get_rng_state()),
            partial(random.setstate, random.getstate()),
            partial(np.random.set_state, numpy_state),
            *(partial(_set_device_state, device, _get_device_state(device)) for device in self._devices),
            *(partial(put, get()) for get, put in self._access),
        ]

    def fork(self, seed: np.random.SeedSequence) -> None:
        """Move all generators to a state made of ``seed`` alone; :meth:`rewind` goes back to it."""
        self.move_to(self.state_of(seed))

    def move_to(self, state: RandomState) -> None:
        """Move all generators to a state; :meth:`rewind` goes back to it."""
        self._state = state
        self.rewind()

    def torch_state(self) -> list[torch.Tensor]:
        """Return the state in which torch's global generators are, on the CPU and the devices in use."""
        return [torch.get_rng_state(), *map(_get_device_state, self._devices)]

    def move_torch_to(self, state: list[torch.Tensor]) -> None:
        """Go back to a state of torch's global generators."""
        cpu, *on_devices = state
        torch.set_rng_state(cpu)
        for device, device_state in zip(self._devices, on_devices, strict=True):
            _set_device_state(device, device_state)

    def rewind(self) -> None:
        """Go back to the state of the last :meth:`fork` or :meth:`move_to`."""
        for put in self._state:
            put()


def _get_device_state(device: torch.device) -> torch.Tensor:
    module = torch.get_device_module(device)
    state = module.get_rng_state() if device.type == "mps" else module.get_rng_state(device)
    return torch.as_tensor(state)


def _set_device_state(device: torch.device, state: torch.Tensor) -> None:
    module = torch.get_device_module(device)
    module.set_rng_state(state) if device.type == "mps" else module.set_rng_state(state, device)

"""The processes of ``torch.distributed`` that make one call together: what they tell each other, and if one is lost."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.distributed as dist

from autolr.errors import RankFailedError

# Seconds, so that all ranks have ended within 60 of what has befallen one: how long a rank waits for others that are
# there but do not answer, how long one may give no sign of life, and how often it gives one.
PATIENCE, SILENCE, BEAT = 45.0, 30.0, 1.0
# Seconds between two looks at what the others have done, at first and at most.
_SOON, _LATER = 0.0005, 0.05
# Seconds in which a rank that raised says so, before those that lost its connection say that it is lost.
_GRACE = 3.0

_own_groups: dict[int, tuple[Any, "dist.ProcessGroup"]] = {}
_alone: ContextVar[bool] = ContextVar("alone", default=False)


class Ranks:
    """A process that is alone, which is the view of one rank where there is one.

    Attributes:
        rank: The number of this process among those that make the call together.
        size: How many these are.
        first: The number of the first of them in the default process group.
    """

    rank = 0
    size = 1
    first = 0

    @property
    def group(self) -> Any:
        """What carries the CPU's tensors between the ranks, with a timeout of its own; ``None`` where there is one."""
        return None

    def gather(self, value: bytes) -> list[bytes]:
        """Return the values of all ranks, in their order, on every rank."""
        return [value]

    def check(self) -> None:
        """Raise where another rank has failed; it costs nothing.

        Raises:
            RankFailedError: If one has.
        """

    def hurry(self, groups: "Sequence[dist.ProcessGroup]") -> None:
        """Let the collectives of the user's groups time out as soon as those of the own one, until the call ends."""

    @property
    def own_group(self) -> "dist.ProcessGroup":
        """A process group of this process alone; one is made for each default process group."""
        rank, world = dist.get_rank(), dist.group.WORLD
        if rank not in _own_groups or _own_groups[rank][0] is not world:
            _own_groups[rank] = world, dist.new_group([rank], backend="gloo", use_local_synchronization=True)
        return _own_groups[rank][1]

    def gather_json(self, value: Any) -> list[Any]:
        """Return the JSON values of all ranks, in their order, on every rank."""
        return [json.loads(text) for text in self.gather(json.dumps(value).encode())]


@contextmanager
def on_this_rank_only() -> Iterator[None]:
    """Let this process tune by itself within the block, where it is one of several.

    In a process group of several ranks, every rank has to make the same calls, as they share the work. Within this
    block, a rank's calls are its own: for a rank that tunes a model of its own, or where only one of them tunes.

    Example:
        >>> from autolr.ranks import on_this_rank_only
        >>> with on_this_rank_only():
        ...     pass  # tuner.tune(X, Y)
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def are_several() -> bool:
    """Return whether this process is one of several that make their calls together."""
    return has_others() and not _alone.get()


def has_others() -> bool:
    """Return whether this process is one of several, of which each may make calls of its own."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def writes(settings: Mapping[str, Any]) -> bool:
    """Return whether this process writes the files of a result: of one that ranks have made together, the first does.

    Args:
        settings: Those of the result.
    """
    return settings.get("num_ranks", 1) == 1 or not are_several() or dist.get_rank() == settings["first_rank"]


@contextmanager
def joined(members: Sequence[int] = ()) -> Iterator[Ranks]:
    """Make one call together with the other ranks.

    Every way out of the block is the same on all ranks: where one raises, the others raise a :class:`RankFailedError`
    that says what it was, when they next :meth:`Ranks.check` or :meth:`Ranks.gather`, or where a collective of torch's
    fails or has timed out.

    Args:
        members: Their numbers in the default process group; by default all of it.

    Yields:
        The view of this rank.

    Raises:
        RankFailedError: If a rank does not make the call, fails, or is lost.
    """
    if not are_several():
        yield Ranks()
        return
    together = _Together.join(list(members) or list(range(dist.get_world_size())))
    try:
        together.hurry([dist.distributed_c10d._get_default_group()])  # in which a loss of the user's may wait
        yield together
        together.leave()
    except BaseException as error:
        together.fail(error)
        raise
    finally:
        together.close()


class _Together(Ranks):
    """The view of one rank of several.

    They meet in the store of the default process group. Numbers go through a group of their own, whose timeout is not
    that of the user's groups; it is unknown to torch's functions, which would name it by what groups a rank is in. A
    rank waits for the others by looking into the store, as long as they live, so that nobody is hurried who has more to
    do; and only then is there a collective, in which no rank is late.

    Args:
        store: Where they meet.
        members: Their numbers in the default process group.
        rank: The place of this one among them.
    """

    _numbers: ClassVar[Counter[str]] = Counter()  # of the calls that were made together, by who they were

    def __init__(self, store: "torch._C._distributed_c10d.Store", members: list[int], rank: int) -> None:
        self._store = store
        self.rank, self.size, self.first = rank, len(members), members[0]
        self._num_gathered = 0
        self._timeouts: list[tuple[Any, timedelta]] = []
        self._watch = _Watch(store, rank, self.size)
        self._watch.start()

    @classmethod
    def join(cls, members: list[int]) -> "_Together":
        """Meet the other ranks.

        Raises:
            RankFailedError: If not all of them come.
        """
        who = ".".join(map(str, members))
        store = dist.distributed_c10d.PrefixStore(
            f"autolr/{who}/{cls._numbers[who]}", dist.distributed_c10d._get_default_store()
        )
        store.set(f"here/{dist.get_rank()}", "")
        store.add("here", 1)
        until, pause = time.monotonic() + PATIENCE, _SOON
        try:
            while store.add("here", 0) < len(members):
                if time.monotonic() > until:
                    missing = [str(member) for member in members if not store.check([f"here/{member}"])]
                    raise RankFailedError(
                        f"Every rank must make the same call, got none of rank {', '.join(missing)} in {PATIENCE:g} s;"
                        " a rank that tunes by itself does so within autolr.ranks.on_this_rank_only()."
                    )
                time.sleep(pause)
                pause = min(2.0 * pause, _LATER)
        except BaseException:
            store.add("here", -1)
            store.delete_key(f"here/{dist.get_rank()}")
            raise
        cls._numbers[who] += 1
        return cls(store, members, members.index(dist.get_rank()))

    @cached_property
    def group(self) -> Any:
        self._wait_for_all("group")  # as who waits within torch's store gives no sign of life
        store = dist.distributed_c10d.PrefixStore("group", self._store)
        return dist.ProcessGroupGloo(store, self.rank, self.size, timedelta(seconds=PATIENCE))

    def gather(self, value: bytes) -> list[bytes]:
        self._wait_for_all(f"gather/{self._num_gathered}")
        self._num_gathered += 1
        sizes = self._gathered(torch.tensor([len(value)], device="cpu"))
        padded = torch.zeros(max(1, *map(int, sizes)), dtype=torch.uint8, device="cpu")
        padded.numpy()[: len(value)] = bytearray(value)
        return [bytes(part.numpy()[: int(size)]) for part, size in zip(self._gathered(padded), sizes, strict=True)]

    def _gathered(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        tensors = [torch.empty_like(tensor) for _ in range(self.size)]
        self.group.allgather([tensors], [tensor]).wait()
        return tensors

    def hurry(self, groups: "Sequence[dist.ProcessGroup]") -> None:
        for group in groups:
            for device in group._device_types:
                backend: Any = group._get_backend(device)
                if hasattr(backend, "_set_default_timeout"):
                    self._timeouts.append((backend, backend.options._timeout))
                    backend._set_default_timeout(timedelta(seconds=PATIENCE))

    def check(self) -> None:
        if self._watch.failure is not None:
            raise RankFailedError(_in_words(self._watch.failure))

    def leave(self) -> None:
        """Wait until all ranks have come to the end of the call."""
        self._wait_for_all("left")

    def fail(self, error: BaseException) -> None:
        """Tell the others what has ended the call here; or raise what has ended it there, if that is why.

        Raises:
            RankFailedError: If the error comes of the end of another rank.
        """
        if isinstance(error, RankFailedError):
            return
        lost = _is_lost_connection(error)
        until = time.monotonic() + (_GRACE if lost else 0.0)
        failure = {"rank": self.rank, "error": f"{type(error).__name__}: {error}", "lost": lost}
        with suppress(RuntimeError):  # the store may be what was lost
            while time.monotonic() < until and not self._store.check(["failed"]):
                time.sleep(_LATER)
            failure = json.loads(self._store.compare_set("failed", "", json.dumps(failure)))
        if lost:
            raise RankFailedError(_in_words(failure)) from error

    def close(self) -> None:
        """End the sign of life, and let the user's groups have their timeouts again."""
        self._watch.stop()
        for backend, timeout in reversed(self._timeouts):  # a group may have one backend for several devices
            backend._set_default_timeout(timeout)
        vars(self).pop("group", None)  # with its connections

    def _wait_for_all(self, key: str) -> None:
        pause = _SOON
        self._store.add(key, 1)
        while self._store.add(key, 0) < self.size:
            self.check()
            time.sleep(pause)
            pause = min(2.0 * pause, _LATER)


class _Watch(threading.Thread):
    """Gives a sign of life, and watches that of the next rank, and whether any rank has failed.

    Args:
        store: Where signs are given.
        rank: The number of this rank.
        size: How many ranks there are; each is watched by one.

    Attributes:
        failure: What is known of the rank that failed first, or ``None``.
    """

    def __init__(self, store: "torch._C._distributed_c10d.Store", rank: int, size: int) -> None:
        super().__init__(name="autolr", daemon=True)
        self._store, self._rank, self._next = store, rank, (rank + 1) % size
        self._ends = threading.Event()
        self.failure: dict[str, Any] | None = None

    def run(self) -> None:
        beats, seen, since = 0, b"", time.monotonic()
        try:
            while not self._ends.wait(BEAT if beats else 0.0):
                beats += 1
                self._store.set(f"alive/{self._rank}", str(beats))
                if self._store.check(["failed"]):
                    self.failure = json.loads(self._store.get("failed"))
                    return
                sign = self._store.get(f"alive/{self._next}") if self._store.check([f"alive/{self._next}"]) else b""
                if sign != seen:
                    seen, since = sign, time.monotonic()
                elif time.monotonic() - since > SILENCE:
                    silent = {"rank": self._next, "error": f"no sign of life for {SILENCE:g} s", "lost": True}
                    self._store.compare_set("failed", "", json.dumps(silent))
        except RuntimeError as error:  # of torch, where the store is gone with the rank that had it
            self.failure = {"rank": None, "error": str(error), "lost": True}

    def stop(self) -> None:
        """End, without waiting."""
        self._ends.set()


def _in_words(failure: dict[str, Any]) -> str:
    reason = " ".join(str(failure["error"]).split())
    if failure["rank"] is None:
        return f"The connection between the ranks was lost: {reason}"
    if failure["lost"]:
        waits = " (a loss must not wait for other ranks, which have other rows)" if "Timed out" in reason else ""
        return f"A rank was lost, as seen with rank {failure['rank']}: {reason}{waits}"
    return f"Rank {failure['rank']} has ended the call for all ranks: {reason}"


def _is_lost_connection(error: BaseException) -> bool:
    """Return whether a collective has failed or timed out: torch has an error of its own for some of these only."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in ("gloo", "nccl"))

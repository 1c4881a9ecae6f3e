"""Which of several ways to the same losses is the fastest: each has some rows, and then the fastest one all others."""

_TURNS = 2


class Contest:
    """A contest of ways to compute a row.

    Rows alternate between the ways until each has had two; then the one with the shortest time computes the others.
    All ways give the same losses, so that nothing is lost by the trial but some time.

    Args:
        *names: The ways.
    """

    def __init__(self, *names: str) -> None:
        self._seconds: dict[str, list[float]] = {name: [] for name in names}
        self._withdrawn = ""

    @property
    def turn(self) -> str:
        """The way that computes the next row."""
        waiting = min(self._seconds, key=lambda name: len(self._seconds[name]))
        return waiting if len(self._seconds[waiting]) < _TURNS and len(self._seconds) > 1 else self.leader

    @property
    def leader(self) -> str:
        """The fastest way so far."""
        timed = {name: seconds for name, seconds in self._seconds.items() if seconds}
        return min(timed, key=lambda name: min(timed[name])) if timed else next(iter(self._seconds))

    @property
    def reason(self) -> str:
        """Why the leader leads, or an empty string where there was no contest."""
        if len(self._seconds) == 1:
            return self._withdrawn
        taken = [f"{name} {1e3 * min(seconds):.3g} ms" for name, seconds in self._seconds.items() if seconds]
        return f"the fastest for the losses of a row: {', '.join(taken)}"

    def note(self, name: str, seconds: float) -> None:
        """Note what a row has taken."""
        if len(self._seconds.get(name, [0.0] * _TURNS)) < _TURNS:
            self._seconds[name].append(seconds)

    def withdraw(self, name: str, other: str, reason: str) -> None:
        """Take a way out of the contest, for a reason, in which another one stays."""
        self._seconds.pop(name, None)
        self._seconds.setdefault(other, [])
        self._withdrawn = f"{name} stepped aside: {reason}"

"""The single results of regret.py: what they are, how they are made, where they are kept."""

import json
import math
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from curves import is_covered, regret_of, regret_of_run
from oracle import Target
from pickers import PICKERS, Unavailable
from runs import SCHEDULES, ScheduleName, train
from tasks import TASKS

PATH = Path(__file__).with_name("regret.json")
BY_NAME = {picker.name: picker for picker in PICKERS}
TASK_OF = {task.name: task for task in TASKS}


class Record(NamedTuple):
    """A pick, and how the real run at its rate ended; a loss is ``None`` if there was no run, or if it diverged."""

    picker: str
    task: str
    seed: int
    schedule: ScheduleName
    rate: float | None
    low: float | None
    high: float | None
    evaluations: float | None
    seconds: float
    ran: bool
    validation: float | None
    training: float | None
    why: str

    def regret_by_curves(self, target: Target) -> float:
        """Return the regret by the stored curves of the seeds that the picker has not seen."""
        seed = BY_NAME[self.picker].seed_seen(self.seed)
        return regret_of(self.task, self.schedule, self.rate, seed, target)

    def regret_by_run(self, target: Target) -> float:
        """Return the regret of the real run from the probed initial weights, NaN if none was made."""
        if not self.ran:
            return math.nan
        loss = self.validation if target == "validation" else self.training
        return regret_of_run(math.inf if loss is None else loss, self.task, self.schedule, self.seed, target)

    def is_covered(self, target: Target) -> bool | None:
        """Return whether the interval contains a good rate, ``None`` if there is no interval."""
        if self.low is None or self.high is None:
            return None
        return is_covered(self.low, self.high, self.task, self.schedule, self.seed, target)


Key = tuple[str, str, int]  # picker, task, seed


def make(with_runs: bool, key: Key) -> list[Record] | str:
    """Return the records of a picker for both schedules, or why the picker cannot be run."""
    torch.set_num_threads(1)
    picker, task, seed = BY_NAME[key[0]], TASK_OF[key[1]], key[2]
    records: list[Record] = []
    for schedule in SCHEDULES:
        if records and not picker.knows_schedule:
            numbers, why = records[0][4:9], records[0].why
        else:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # what a picker warns of is judged by how its pick ends
                    pick, why = picker(task, seed, schedule)
            except Unavailable as reason:
                return str(reason)
            numbers = tuple(map(_rounded, (pick.rate, pick.low, pick.high, pick.evaluations, pick.seconds)))
        rate = numbers[0]
        ran = with_runs and rate is not None
        losses = train(task, seed, rate, schedule) if ran else (None, None)
        records.append(Record(*key, schedule, *numbers, with_runs, *map(_rounded, losses), why))
    return records


def _rounded(number: float | None) -> float | None:
    return None if number is None or not math.isfinite(number) else float(f"{number:.5g}")


def load(path: Path = PATH) -> dict[Key, list[Record]]:
    """Return the stored records by picker, task and seed, without those of names that are no more."""
    if not path.exists():
        return {}
    stored = json.loads(path.read_text())
    if stored["fields"] != list(Record._fields):
        return {}
    found: dict[Key, list[Record]] = {}
    for record in (Record(*row) for row in stored["records"]):
        if record.picker in BY_NAME and record.task in TASK_OF:
            found.setdefault(record[:3], []).append(record)
    return found


def save(records: dict[Key, list[Record]], circumstances: str, path: Path = PATH) -> None:
    """Write the records, a line for each, in the order of pickers, tasks and seeds; never half a file."""
    pickers, tasks = list(BY_NAME), list(TASK_OF)
    keys = sorted(records, key=lambda key: (pickers.index(key[0]), tasks.index(key[1]), key[2]))
    rows = [json.dumps(record) for key in keys for record in records[key]]
    head = f'"circumstances": {json.dumps(circumstances)},\n"fields": {json.dumps(Record._fields)},\n"records": ['
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text("{\n" + head + "\n" + ",\n".join(rows) + "\n]\n}\n")
    unfinished.replace(path)


def complete(
    records: dict[Key, list[Record]],
    keys: Iterable[Key],
    *,
    with_runs: bool,
    num_processes: int,
    advance: Callable[[int, int, Key], Any],
) -> dict[str, str]:
    """Add what is missing to the records, in place; return the pickers that cannot be run, and why."""

    def is_missing(key: Key) -> bool:
        return key not in records or (with_runs and not all(record.ran for record in records[key]))

    left_out: dict[str, str] = {}
    missing = [key for key in keys if is_missing(key)]
    with ProcessPoolExecutor(num_processes) as pool:
        for number, (key, made) in enumerate(zip(missing, pool.map(partial(make, with_runs), missing), strict=True), 1):
            if isinstance(made, str):
                left_out[key[0]] = made
            else:
                records[key] = made
            advance(number, len(missing), key)
    return left_out

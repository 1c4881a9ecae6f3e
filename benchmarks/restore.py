"""Is everything of the user's as it was after every call, whatever is trained by which optimizer?

    python benchmarks/restore.py --processes 2                        # the whole matrix, some six minutes
    python benchmarks/restore.py --quick                              # all pairs of its values, half a minute
    python benchmarks/restore.py --store outcomes.jsonl               # what is stored there is not tried again
    python benchmarks/restore.py --faults --processes 2               # every fault at every time, twenty minutes

Every optimizer of torch with its main options, cold and warm, times models, times public calls (``restore_cases.py`` of
the tests). Compared before and after, bit for bit and by identity: parameters, buffers, gradients, modes,
``requires_grad``, attributes, the optimizer's groups and state, the scheduler, the generators of torch, NumPy and
Python, and that of the loader (``harness.py`` of the tests). What an optimizer cannot train at all has to raise torch's
own error; what a call refuses, its documented one; and is left as it was in either case.

Faults (``fault_cases.py`` of the tests) are injected into each call at the n-th loss, backward pass, optimizer step or
observation of a loader, for every n: exceptions, Ctrl-C and a lack of memory, and NaN and inf in losses, gradients and
weights. The very error has to come out (a lack of memory may be done without), and nothing else but documented ones.

The exit status is 1 if something was changed, or raised anything else.
"""

import argparse
import json
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # each process has one core

import torch
from machine import circumstances

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from fault_cases import KINDS, RAISING, VALUES, WRITING, places, raised_at, written_at
from restore_cases import AXES, CALLS, Combination, outcome, pairwise, trouble_of, whole_matrix

SOURCES = ["autolr"]  # that decide the outcomes
KEPT, NOT_TRAINABLE, REFUSED, WRONG = "kept", "torch's own error", "refused", "wrong"
TITLES = {"call": 3, "optimizer": 0, "model": 2}  # of the tables, and which value of a combination they are by
Outcomes = dict[Combination, str]


def judged(combination: Combination) -> str:
    """Return the outcome of a combination, or what was wrong."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of torch, about sparse tensors
    try:
        found = outcome(combination)
    except AssertionError as error:
        return f"{WRONG}: {error}"
    if found == KEPT:
        return KEPT
    return REFUSED if trouble_of(combination.optimizer, combination.model) is None else NOT_TRAINABLE


def load(path: Path | None) -> Outcomes:
    """Return the stored outcomes; a last line that was cut off is left out."""
    found: Outcomes = {}
    for line in path.read_text().splitlines() if path is not None and path.exists() else ():
        try:
            *values, words = json.loads(line)
        except ValueError:
            continue
        found[Combination(*values)] = words
    return found


def tried(combinations: list[Combination], num_processes: int) -> Iterator[tuple[Combination, str]]:
    with ProcessPoolExecutor(num_processes) as pool:
        yield from zip(combinations, pool.map(judged, combinations, chunksize=16), strict=True)


def table(outcomes: Outcomes, title: str) -> Iterator[str]:
    yield f"| {title} | combinations | returned | {REFUSED} | {NOT_TRAINABLE} | changed, or another error |"
    yield "|---|---|---|---|---|---|"
    for value in (*AXES[TITLES[title]], "all"):
        kinds = Counter(
            words.partition(":")[0]
            for combination, words in outcomes.items()
            if value in ("all", combination[TITLES[title]])
        )
        counts = (kinds.total(), *(kinds[kind] for kind in (KEPT, REFUSED, NOT_TRAINABLE, WRONG)))
        yield f"| {value} | {' | '.join(map(str, counts))} |"


Fault = tuple[str, str, str, int]  # call, place, what happens, and at which time


def all_faults(call: str) -> list[Fault]:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    return [
        (call, site, kind, number)
        for site, most in places(call)
        for kind in ((*KINDS,) if site in RAISING else ()) + ((*VALUES,) if site in WRITING else ())
        for number in range(1, most + 1)
    ]


def judged_fault(fault: Fault) -> str:
    """Return what became of a fault, or what was wrong."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        return (raised_at if fault[2] in KINDS else written_at)(*fault)
    except AssertionError as error:
        return f"{WRONG}: {fault}: {error}"


def inject(num_processes: int) -> list[str]:
    """Inject every fault, print what became of them, and return what was wrong."""
    with ProcessPoolExecutor(num_processes) as pool:
        faults = [fault for some in pool.map(all_faults, CALLS) for fault in some]
        found: dict[tuple[str, str], Counter[str]] = {}
        wrong: list[str] = []
        for number, (fault, words) in enumerate(
            zip(faults, pool.map(judged_fault, faults, chunksize=16), strict=True), 1
        ):
            found.setdefault((fault[1], fault[2]), Counter())[words.partition(":")[0]] += 1
            wrong += [words] if words.startswith(WRONG) else []
            print(f"\r{number} of {len(faults)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    outcomes = list(dict.fromkeys(words for counts in found.values() for words in counts))
    print(f"| where | what | faults | {' | '.join(outcomes)} |\n{'|---' * (3 + len(outcomes))}|")
    for (site, kind), counts in found.items():
        print(f"| {site} | {kind} | {counts.total()} | {' | '.join(str(counts[words]) for words in outcomes)} |")
    print(f"| all | | {len(faults)} | {' | '.join(str(sum(c[words] for c in found.values())) for words in outcomes)} |")
    return wrong


def complete(combinations: Iterable[Combination], path: Path | None, num_processes: int) -> Outcomes:
    """Try what is not stored, and return all outcomes."""
    wanted = list(combinations)
    stored = load(path)
    outcomes = {combination: stored[combination] for combination in wanted if combination in stored}
    missing = [combination for combination in wanted if combination not in outcomes]
    file = None if path is None else path.open("a")
    try:
        for number, (combination, words) in enumerate(tried(missing, num_processes), 1):
            outcomes[combination] = words
            if file is not None:
                print(json.dumps([*combination, words]), file=file, flush=True)
            print(f"\r{number} of {len(missing)}", end="", file=sys.stderr, flush=True)
    finally:
        print(file=sys.stderr)
        if file is not None:
            file.close()
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only so many that all pairs of values meet")
    parser.add_argument("--processes", type=int, default=1, help="how many at a time (default: 1)")
    parser.add_argument("--store", type=Path, help="a file of outcomes, to which they are added one by one")
    parser.add_argument("--faults", action="store_true", help="inject faults instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    if arguments.faults:
        wrong = inject(arguments.processes)
    else:
        combinations = pairwise(whole_matrix()) if arguments.quick else whole_matrix()
        outcomes = complete(combinations, arguments.store, arguments.processes)
        for title in TITLES:
            print("\n".join(("", *table(outcomes, title))))
        wrong = [words for words in outcomes.values() if words.startswith(WRONG)]
    print(f"\n{time.perf_counter() - began:.0f} s; {circumstances(SOURCES)}")
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""The tables and the picture of regret.py."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from curves import CLOSE
from oracle import TARGETS, Target
from pickers import PICKERS, Picker
from records import TASK_OF, Record
from runs import SCHEDULES, ScheduleName
from tasks import Family

PICTURE = Path(__file__).with_name("regret.png")
TITLES: dict[Family, str] = {
    "choosing": "Tasks by which constants may be chosen",
    "judging": "Tasks that only judge",
    "lengths": "Two tasks at a quarter of their length and at four times it",
}
COLOURS: dict[Family, str] = {"choosing": "tab:blue", "judging": "tab:orange", "lengths": "tab:gray"}
BAD = 2.0
TICKS = [1.0, 1.5, 2.0, 5.0, 10.0, 20.0, 50.0]
Regret = Callable[[Record], float]


def geometric_mean(regrets: Iterable[float]) -> float:
    """Return the geometric mean, NaN if there is none."""
    logs = [math.log(regret) for regret in regrets if not math.isnan(regret)]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def by_picker(records: Iterable[Record]) -> dict[Picker, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.picker, []).append(record)
    return {picker: found[picker.name] for picker in PICKERS if picker.name in found}


def overall(records: Iterable[Record], picker: str, schedule: ScheduleName) -> float:
    """Return the geometric mean of a picker over the tasks of both families, by the stored curves."""
    return geometric_mean(
        record.regret_by_curves("validation")
        for record in records
        if (record.picker, record.schedule) == (picker, schedule) and TASK_OF[record.task].family != "lengths"
    )


def number(value: float, form: str = ".2f") -> str:
    return "" if math.isnan(value) else format(value, form)


def worst(records: list[Record], regret: Regret) -> str:
    """Return the task with the largest geometric mean over seeds and schedules."""
    means = {
        name: geometric_mean(regret(record) for record in records if record.task == name)
        for name in {record.task for record in records}
    }
    name = max(sorted(means), key=lambda task: means[task])
    return f"{number(means[name], '.1f')} ({name})"


def median(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else math.nan


def line(picker: Picker, records: list[Record], target: Target) -> str:
    """Return a row of a table."""
    has_runs = all(record.ran for record in records)
    yardsticks: list[Regret] = [lambda record: record.regret_by_curves(target)]
    if has_runs:
        yardsticks.append(lambda record: record.regret_by_run(target))
    means = [
        " / ".join(number(geometric_mean(regret(r) for r in records if r.schedule == name)) for name in SCHEDULES)
        for regret in yardsticks
    ]
    regret = yardsticks[-1]
    bad = [np.mean([regret(record) > BAD for record in records if record.schedule == name]) for name in SCHEDULES]
    evaluations = [record.evaluations for record in records if record.evaluations is not None]
    spent = f"{np.median(evaluations):.0f} ({max(evaluations):.0f})" if evaluations else ""
    without = sum(record.rate is None for record in records)
    cells = [
        picker.name,
        *(means if has_runs else [*means, ""]),
        worst(records, regret),
        " / ".join(f"{100 * share:.0f}%" for share in bad),
        spent,
        number(median(record.seconds for record in records)),
        str(without or ""),
    ]
    return f"| {' | '.join(cells)} |"


def print_regrets(records: list[Record], family: Family, target: Target) -> None:
    of_family = [record for record in records if TASK_OF[record.task].family == family]
    pickers = {p: rows for p, rows in by_picker(of_family).items() if p.target in (None, target)}
    if not pickers:
        return
    names = {record.task for record in of_family}
    print(f"### {TITLES[family]} ({len(names)}), judged by the final {target} loss\n")
    print(
        "| picker | curves: constant / cosine | runs: constant / cosine | worst task | above 2x | evaluations (most)"
        " | seconds | no pick |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for picker, rows in pickers.items():
        print(line(picker, rows, target))
    print()


def print_coverage(records: list[Record]) -> None:
    """Print how often intervals contain a good rate, and how wide they are."""
    rows = []
    for picker, made in by_picker(records).items():
        target = picker.target or "validation"
        for family in TITLES:
            mine = [r for r in made if TASK_OF[r.task].family == family and r.is_covered(target) is not None]
            if mine:
                shares = [np.mean([r.is_covered(target) for r in mine if r.schedule == name]) for name in SCHEDULES]
                width = np.median([math.log10(record.high / record.low) for record in mine])
                covered = " / ".join(f"{100 * share:.0f}%" for share in shares)
                rows.append(f"| {picker.name} | {family} | {covered} | {width:.2f} |")
    if rows:
        print(f"### Intervals that contain a rate within {100 * (CLOSE - 1):.0f}% of the best, by the curves\n")
        print("| picker | tasks | constant / cosine | median width, decades |\n|---|---|---|---|")
        print("\n".join(rows), end="\n\n")


def print_all(records: list[Record]) -> None:
    """Print every table that there are records for."""
    for target in TARGETS:
        for family in TITLES:
            print_regrets(records, family, target)
    print_coverage(records)


def draw(records: list[Record], path: Path = PICTURE) -> None:
    """Draw the regret of each task, the geometric mean over the seeds, a row for each picker."""
    from matplotlib.figure import Figure

    pickers = {p: rows for p, rows in by_picker(records).items() if p.target in (None, "validation")}
    if not pickers:
        return
    figure = Figure(figsize=(11, 1.5 + 0.3 * len(pickers)), layout="constrained")
    panels = figure.subplots(1, len(SCHEDULES), sharex=True, sharey=True)
    for panel, schedule in zip(panels, SCHEDULES, strict=True):
        for height, rows in enumerate(pickers.values()):
            mine = [record for record in rows if record.schedule == schedule]
            regret: Regret = lambda r: (r.regret_by_run if r.ran else r.regret_by_curves)("validation")  # noqa: E731
            means = {task: geometric_mean(regret(r) for r in mine if r.task == task) for task in TASK_OF}
            for shift, family in enumerate(TITLES):
                dots = [mean for task, mean in means.items() if TASK_OF[task].family == family]
                panel.plot(
                    dots,
                    [height + 0.18 * (shift - 1)] * len(dots),
                    "o",
                    color=COLOURS[family],
                    alpha=0.6,
                    markersize=4,
                    label=f"{family}" if height == 0 else None,
                )
            middle = geometric_mean(regret(r) for r in mine if TASK_OF[r.task].family != "lengths")
            panel.plot([middle], [height], "|", color="black", markersize=16, label="mean" if height == 0 else None)
        panel.axvline(1.0, color="black", linewidth=0.5)
        panel.set(xscale="log", xlabel="regret", title=f"{schedule} rate")
        panel.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
        panel.minorticks_off()
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(pickers)), [picker.name for picker in pickers])
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(TITLES) + 1)
    figure.savefig(path, dpi=130)

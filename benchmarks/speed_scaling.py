"""How the cost of probing grows with the rates K, the rows M, the observations m and the parameters P: speed.png."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from speed_pairs import Timed, time_engine
from workloads import SGD, SMALL, Workload, mlp

PICTURE = Path(__file__).with_name("speed.png")
NUM_PAIRS = 9
ENGINES = ("line", "auto")
BASE = Workload(SMALL, SGD, 32, 100)
WIDTHS = (32, 64, 128, 256, 512, 1024)
# of Okabe and Ito (2008), which the colour-blind tell apart; markers and dashes tell them apart without any colour
STYLES = {
    "naive": {"color": "#000000", "marker": "o", "linestyle": "-"},
    "line": {"color": "#0072B2", "marker": "s", "linestyle": "--"},
    "auto": {"color": "#D55E00", "marker": "^", "linestyle": "-"},
}


@dataclass
class Panel:
    """A panel: what is varied, and milliseconds of each way."""

    label: str
    cost: str
    positions: list[float]
    milliseconds: dict[str, list[float]]


def measured() -> list[Panel]:
    """Time rows of perceptrons, and whole calls for the panel of M; print the numbers."""
    panels = [
        _rows(
            "learning rates K",
            (10, 25, 50, 100, 200, 400),
            [replace(BASE, num_rates=k) for k in (10, 25, 50, 100, 200, 400)],
        ),
        _calls((4, 8, 16, 32, 64, 128)),
        _rows(
            "observations m of a subsample", (8, 32, 128, 512), [replace(BASE, batch_size=m) for m in (8, 32, 128, 512)]
        ),
        _rows(
            "parameters P (widths 64-w-w-10)",
            [sum(p.numel() for p in mlp(64, w, w, 10).make().parameters()) for w in WIDTHS],
            [replace(BASE, network=mlp(64, w, w, 10)) for w in WIDTHS],
        ),
    ]
    for panel in panels:
        print(f"\n{panel.label}: {', '.join(f'{position:g}' for position in panel.positions)}")
        for name, times in panel.milliseconds.items():
            print(f"- {name}, {panel.cost}: {', '.join(f'{time:.3g}' for time in times)}")
    return panels


def draw(panels: Sequence[Panel], words: str, path: Path = PICTURE) -> None:
    """Draw the panels on logarithmic axes."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(10, 7), layout="constrained")
    for axes, panel in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for name, times in panel.milliseconds.items():
            axes.plot(panel.positions, times, label=name, markersize=5, linewidth=1.5, **STYLES[name])
        last = panel.milliseconds["naive"][-1] / panel.positions[-1]
        proportional = [last * position for position in panel.positions]
        axes.plot(panel.positions, proportional, color="#999999", linestyle=":", zorder=0, label="proportional")
        axes.set(xscale="log", yscale="log", xlabel=panel.label, ylabel=f"time of {panel.cost}, ms")
        lowest = min(min(times) for times in panel.milliseconds.values())
        axes.set_ylim(bottom=0.7 * lowest)
        axes.set_xticks(panel.positions, [_short(position) for position in panel.positions])
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.suptitle(f"{BASE.network.name}, SGD, K = {BASE.num_rates}, m = {BASE.batch_size}, but for what is varied")
    figure.savefig(path, dpi=130, metadata={"Description": words})


def _rows(label: str, positions: Sequence[float], workloads: Sequence[Workload]) -> Panel:
    milliseconds: dict[str, list[float]] = {"naive": [], **{name: [] for name in ENGINES}}
    for workload in workloads:
        timed = {name: time_engine(workload, name, NUM_PAIRS) for name in ENGINES}
        naive = [taken for one in timed.values() for taken in one.naive]
        milliseconds["naive"].append(_median(naive))
        for name, one in timed.items():
            milliseconds[name].append(_median(one.own))
    return Panel(label, "a row", [float(position) for position in positions], milliseconds)


def _calls(numbers: Sequence[int]) -> Panel:
    """Time whole calls, with the verification that they make once; the baseline's rows are all alike."""
    milliseconds: dict[str, list[float]] = {"naive": [], **{name: [] for name in ENGINES}}
    row = _median(time_engine(BASE, "line", NUM_PAIRS).naive)
    for number in numbers:
        milliseconds["naive"].append(number * row)
        for name in ENGINES:
            calls = [_whole_call(name, number).wall for _ in range(3)]
            milliseconds[name].append(_median(calls))
    return Panel("rows M", "a call", [float(number) for number in numbers], milliseconds)


def _whole_call(name: str, num_rows: int) -> Timed:
    return time_engine(BASE, name, num_rows, paired=False)


def _median(times: Sequence[float]) -> float:
    return 1e3 * statistics.median(times)


def _short(position: float) -> str:
    if position >= 1e6:
        return f"{position / 1e6:.2g}M"
    return f"{position / 1e3:.3g}k" if position >= 1e3 else f"{position:g}"

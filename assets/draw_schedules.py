"""Draw the pictures of the schedules into this folder: ``python assets/draw_schedules.py``.

They are ``schedules/<name>.png``, small ones for the table of the README, and ``linear_regression.png``, for which the
code of ``linear_regression.md`` is run.
"""

import doctest
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from torch.optim.lr_scheduler import ReduceLROnPlateau

import autolr
from autolr.plot_schedules import plot_rates
from autolr.schedules._options import SCHEDULES

FOLDER = Path(__file__).parent
NUM_STEPS = 100
OPTIONS: dict[str, dict[str, Any]] = {
    "plateau": {"patience": 5, "factor": 0.3},
    "lambda": {"lr_lambda": lambda step: (1.0 + step / 5.0) ** -0.5},
}


def rates_of(name: str) -> list[float]:
    """Return the rates of a schedule of 100 steps from 1; a plateau's are those of a loss that stalls twice."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = autolr.make_scheduler(
        optimizer, name, learning_rate=1.0, total_steps=NUM_STEPS, **OPTIONS.get(name, {})
    )
    rates = []
    for step in range(NUM_STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        stalling = 1.0 - min(step, 30) / 50 - max(0, min(step, 65) - 38) / 200 - max(0, step - 72) / 200
        scheduler.step(*([stalling] if isinstance(scheduler, ReduceLROnPlateau) else []))
    return rates


def draw_small(name: str, figure: Figure) -> None:
    """One schedule at the size of the README's table."""
    ax = figure.subplots()
    plot_rates({name: rates_of(name)}, ax=ax)
    ax.set_xlim(0, NUM_STEPS)
    ax.set_ylim(0.0, 1.08)
    ax.xaxis.set_major_locator(FixedLocator([0, NUM_STEPS]))
    ax.yaxis.set_major_locator(FixedLocator([0.0, 1.0]))
    ax.tick_params(labelsize=9.0)
    ax.set_xlabel("step", size=9.0, labelpad=-9.0)
    ax.set_ylabel("rate", size=9.0, labelpad=-6.0)
    ax.spines[["top", "right"]].set_visible(False)


def result_of_page(page: Path) -> autolr.ScheduleComparison:
    """Run the code of a page, and return its ``result``."""
    names: dict[str, Any] = {}
    for example in doctest.DocTestParser().get_examples(page.read_text()):
        exec(example.source, names)
    return names["result"]


def main() -> None:
    torch.set_num_threads(1)
    (FOLDER / "schedules").mkdir(exist_ok=True)
    for name in SCHEDULES:
        figure = Figure(figsize=(1.9, 1.15), layout="constrained", facecolor="white")
        draw_small(name, figure)
        figure.savefig(FOLDER / "schedules" / f"{name}.png", dpi=160, metadata={"Software": None})
        print(f"schedules/{name}.png")
    figure = Figure(figsize=(9.0, 3.8), layout="constrained", facecolor="white")
    result_of_page(FOLDER / "linear_regression.md").plot(tuple(figure.subplots(1, 2)))
    figure.savefig(FOLDER / "linear_regression.png", dpi=120, metadata={"Software": None})
    print("linear_regression.png")


if __name__ == "__main__":
    main()

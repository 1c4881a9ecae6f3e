"""What does a row, one subsample at K rates, cost with each engine, with a loop by hand, and at the least?

    python benchmarks/speed.py             # the tables of benchmarks/README.md and speed.png, under 25 minutes
    python benchmarks/speed.py --quick     # one or two minutes, rough; no picture
    python benchmarks/speed.py --full      # all 48 cells, hours
    python benchmarks/speed.py --sections table --networks "MLP 64" --check   # exit status 1 if a target is missed

Every row of an engine is timed beside a row of the naive baseline (naive.py) in one process, before it and after it in
turn, on one thread; a ratio is that of a pair, and the table gives the median and the range. All losses of the timed
rows are compared with the baseline's; where they differ by more than 1e-5, the difference stands in the place of the
ratio, and the exit status is 1. The floor is the row's floating-point operations (counted; a gradient is three
forwards) at the rate of a large matrix product in the same run.
"""

import argparse
import os
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, which reads it
os.environ.setdefault("MKL_NUM_THREADS", "1")

import speed_peers
import speed_scaling
import torch
from machine import circumstances, peak_rate
from speed_cells import CONTENDERS, HEADER, MIN_PAIRS, Cell, judged, measure, selection

SOURCES = ["autolr/probing", "autolr/param_groups.py"]  # that decide the numbers
SECTIONS = ("table", "scaling", "peers")


def table(device: str, arguments: argparse.Namespace) -> list[Cell]:
    """Print the table of a device, as it is made, and what it says about the targets."""
    peak = peak_rate(device)
    print(f"\n| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}", flush=True)
    cells, refused = [], dict.fromkeys(CONTENDERS, "")
    for workload in selection(device, full=arguments.full, quick=arguments.quick):
        if not any(word in workload.network.name for word in arguments.networks.split(";")):
            continue
        cells.append(measure(workload, peak, full=arguments.full, quick=arguments.quick))
        print(f"| {' | '.join(cells[-1].row())} |", flush=True)
        for name, timed in cells[-1].timed.items():
            if isinstance(timed, str) and timed not in refused[name]:
                refused[name] += f"; {cells[-1].name}: {timed}"
    for name, why in refused.items():
        if why:
            print(f'`{name}` is "-": {why[2:]}.')
    print(
        f"\n{3 if arguments.quick else MIN_PAIRS} pairs or more; peak {peak / 1e9:.0f} GFLOP/s at the start,"
        f" {peak_rate(device) / 1e9:.0f} at the end; {circumstances(SOURCES, device)}"
    )
    return cells


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="K = 25, m = 32, three pairs")
    size.add_argument("--full", action="store_true", help="all networks, m, K and optimizers, with all engines")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="with commas between (default: all)")
    parser.add_argument("--networks", default="", help="words in their names, with semicolons between (default: all)")
    parser.add_argument("--threads", type=int, default=1, help="of torch, for the table (default: 1)")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a target is missed")
    arguments = parser.parse_args()
    arguments.sections = arguments.sections.split(",")
    if not set(arguments.sections) <= set(SECTIONS):
        parser.error(f"--sections must be among {', '.join(SECTIONS)}")
    return arguments


def main() -> int:
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    # NOTE: TF32 would make other losses than the baseline's, in both
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    began = time.perf_counter()
    failed = False
    if "table" in arguments.sections:
        print("**CPU**")
        cells = table("cpu", arguments)
        if not arguments.quick:
            print()
            for line, reached in judged(cells):
                print(f"- {line}")
                failed |= arguments.check and not reached
        print("\n**GPU**")
        if torch.cuda.is_available():
            cells += table("cuda", arguments)
        else:
            print("\nnot run (torch sees no CUDA device)")
        failed |= not all(timed.agrees for cell in cells for timed in cell.made())
    if "scaling" in arguments.sections and not arguments.quick:
        print("\n**How the cost grows**")
        speed_scaling.draw(speed_scaling.measured(), circumstances(SOURCES))
        print(f"\n{speed_scaling.PICTURE.name} was written.")
    if "peers" in arguments.sections:
        print("\n**find_lr and range tests**")
        speed_peers.print_table(num_seeds=1 if arguments.quick else 3)
    print(f"\n{time.perf_counter() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""The imports point down: what a file may import is decided by its layer."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "autolr"

# from the bottom to the top; a file may import from its own layer (but for probing and statistics) and those below
LAYERS = [
    {"errors", "_typing", "_version", "_text", "_progress", "_html"},
    {"_validation", "_files"},
    {
        "grids",
        "batches",
        "data",
        "param_groups",
        "differentials",
        "interpolation",
        "interpolation_error",
        "subsampling",
    },
    {"probing", "statistics"},
    {"training", "streams", "ranks"},
    {"plotting", "plot_search", "plot_range", "plot_taylor", "plot_schedules", "_plot_axes", "schedules", "storage"},
    {"levels", "caveats", "suggestion", "verdict", "result", "search_verdict", "search_result", "report"},
    {"range_rules", "range_result"},
    {"plan", "cells", "sparse", "adaptive", "distributed", "measure", "picker", "scan", "search_decision"},
    {"tuner", "search", "range_test", "loss_curve", "taylor"},
    {"integrations"},
    {"demo", "cli", "__main__"},
]
STRANGERS = [("probing", "statistics"), ("statistics", "probing")]
FILES = sorted(path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py"))


def room(file: str) -> str:
    return file.split("/")[0]


def level(name: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if name in layer)


def imported(file: str) -> list[tuple[str, str]]:
    """Return (top-level package, second part) of every import of a file, those for type checking left out."""
    tree = ast.parse((PACKAGE / f"{file}.py").read_text())
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    names = []
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [
                f"{node.module}.{alias.name}" if node.module == "autolr" else str(node.module) for alias in node.names
            ]
    return [(package, rest.split(".")[0]) for package, _, rest in (name.partition(".") for name in names)]


@pytest.mark.parametrize("file", [file for file in FILES if file != "__init__"])
def test_a_file_imports_only_from_its_layer_and_below(file):
    own = room(file)
    for package, part in imported(file):
        if package == "autolr" and part != own:
            assert level(part) <= level(own), f"{file} imports {part}"
            assert (own, part) not in STRANGERS, f"{file} imports {part}"


@pytest.mark.parametrize("file", [file for file in FILES if room(file) == "statistics"])
def test_the_statistics_know_numpy_scipy_and_pandas_only(file):
    assert {package for package, _ in imported(file)}.isdisjoint({"torch", "matplotlib", "tqdm"})


@pytest.mark.parametrize("file", [file for file in FILES if room(file) == "probing"])
def test_the_probes_draw_no_pictures_and_make_no_frames(file):
    assert {package for package, _ in imported(file)}.isdisjoint({"pandas", "matplotlib", "scipy"})


def test_every_file_has_a_layer():
    assert {room(file) for file in FILES} - {"__init__"} == set().union(*LAYERS)

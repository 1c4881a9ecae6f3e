"""Nothing is unpickled or evaluated, loading runs no code, and nothing is written but where it was asked for."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import autolr

PACKAGE = Path(autolr.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "subprocess", "socket", "ctypes"}
MODULES |= {"urllib", "http", "requests", "tempfile", "shutil", "multiprocessing", "yaml"}
FUNCTIONS = {"eval", "exec", "compile", "__import__", "system", "popen", "read_pickle", "to_pickle", "loads", "load"}
# what reads arrays, without those of objects, and what loads a result
ALLOWED = {("cli/_tables.py", "load"), ("cli/_results.py", "load")}
# of expressions, and of JSON text
HARMLESS = {"re.compile", "json.loads"}
# what imports by a name: the package its own files, and the command line what a user names by --factory
IMPORTING = {"__init__.py", "cli/_factory.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nothing_that_runs_what_it_reads_is_used(path):
    tree, file = ast.parse(path.read_text()), path.relative_to(PACKAGE).as_posix()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert MODULES.isdisjoint(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert str(node.module).split(".")[0] not in MODULES
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            assert name not in FUNCTIONS or (file, name) in ALLOWED or ast.unparse(node.func) in HARMLESS


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_a_factory_of_the_command_line_is_imported_by_a_name_of_the_users(path):
    text, file = path.read_text(), path.relative_to(PACKAGE).as_posix()
    assert ("import_module" in text) == (file in IMPORTING)
    assert not {"importlib.util", "runpy", "pkgutil", "load_module"} & set(re.findall(r"[\w.]+", text))
    assert ("sys.path" in text) == (file == "cli/_factory.py")


def test_arrays_are_read_without_objects():
    calls = [
        ast.unparse(node)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load")
    ]
    assert calls == ["np.load(file, allow_pickle=False)"]


SCRIPT = """
import json, os, sys
import matplotlib
matplotlib.use("Agg")
from matplotlib import pyplot as plt
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
import autolr

def calls():
    torch.manual_seed(0)
    X = torch.randn(60, 3)
    Y = X.sum(1, keepdim=True)
    loader = DataLoader(TensorDataset(X, Y), 8)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training = model, nn.MSELoss(), optimizer
    tuner = autolr.AutoLRTuner(*training, rng=0)
    result = tuner.tune(X, Y, learning_rates=[0.01, 0.1, 0.3, 1.0, 3.0], num_subsamples=20)
    str(result), result.summary(), result.plot(), result._repr_html_()
    tuner.tune(X, Y, adaptive=True, num_subsamples=40)
    found = autolr.find_lr(*training, loader, total_steps=50, max_evaluations=30)
    str(found), found.plot()
    test = autolr.lr_range_test(*training, loader, num_iter=30)
    test.plot()
    autolr.loss_by_learning_rate(*training, X, Y, [0.1, 1.0])
    autolr.taylor_expansion(*training, X, Y).plot()
    made = lambda: nn.Linear(3, 1)
    sgd = lambda parameters: torch.optim.SGD(parameters, lr=0.1)
    options = {"schedules": ["constant", "cosine"], "learning_rate": 0.1, "num_epochs": 1, "num_repeats": 2}
    compared = autolr.compare_schedules(made, nn.MSELoss(), sgd, (X, Y), **options)
    str(compared), compared.plot(), compared._repr_html_()
    found.apply(optimizer)
    plt.close("all")
    return result, found.evidence

def files(folder):
    os.makedirs(folder, exist_ok=True)
    result, search = calls()
    for kind, value in (("lr", result), ("search", search)):
        value.save(f"{folder}/{kind}.json")
        value.to_html(f"{folder}/{kind}.html")
        type(value).load(f"{folder}/{kind}.json")

files("given/first")  # what is imported when it is first used is imported by now
CHANGES = "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate"
OUTSIDE = "socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.spawn", "pickle.", "ctypes."
events, loading = [], []
def hook(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        if writes and isinstance(path, (str, bytes)):
            events.append((event, os.path.abspath(os.fsdecode(path))))
    elif event in CHANGES:
        events.append((event, os.path.abspath(os.fsdecode(arguments[0]))))
    elif event.startswith(OUTSIDE):
        events.append((event, ""))
    if loading and event in ("exec", "compile", "import", "pickle.find_class"):
        events.append(("while loading: " + event, str(arguments)[:100]))

sys.addaudithook(hook)
os.makedirs("given/second")
files("given/second")
loading.append(True)
autolr.TuningResult.load("given/second/lr.json")
autolr.SearchResult.load("given/second/search.json")
loading.clear()
print(json.dumps(events))
"""


def test_nothing_is_written_outside_of_the_paths_given_and_loading_runs_no_code(tmp_path):
    environment = {"OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"PYTHONPATH": str(PACKAGE.parent), "MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    given = str((tmp_path / "given" / "second").resolve())
    events = json.loads(done.stdout.splitlines()[-1])
    assert {event for event, _ in events} >= {"open", "os.rename"}  # the hook sees what is written
    assert [(event, path) for event, path in events if not path.startswith(given)] == []
    assert sorted(path.name for path in (tmp_path / "given" / "second").iterdir()) == [
        "lr.html",
        "lr.json",
        "search.html",
        "search.json",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given", "matplotlib"]

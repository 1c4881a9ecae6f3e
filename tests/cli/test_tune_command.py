"""``autolr tune`` and ``autolr find`` on tables: what is built, what is printed, and what is refused in one line."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from autolr import AutoLRTuner, SearchResult, TuningResult, find_lr, log_grid

QUICK = ["--num-subsamples", "10", "--num-rates", "9", "--lr-min", "1e-4"]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 2))
KINDS = RNG.choice(["a", "b"], 60)


@pytest.fixture(autouse=True)
def _table(folder):
    columns = {"u": X[:, 0], "v": X[:, 1], "kind": KINDS, "y": X.sum(1) + (KINDS == "a"), "class": KINDS}
    pd.DataFrame(columns).to_csv(folder / "t.csv", index=False)
    np.savez(folder / "t.npz", X=X, y=X.sum(1) > 0)


def by_hand(*sizes, seed=0):
    """Return the perceptron of the command, made in plain torch."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [torch.nn.Linear(*pair) for pair in itertools.pairwise(sizes)]
    parts = [part for layer in layers for part in (layer, torch.nn.ReLU())]
    return torch.nn.Sequential(*parts[:-1])


def data_by_hand(columns, target):
    inputs = [(column - column.mean()) / column.std() for column in columns]
    return np.column_stack([*inputs, KINDS == "a", KINDS == "b"]), target


def test_a_regression_is_that_of_a_network_on_standardized_columns(run):
    status, out, _ = run(
        "tune", "t.csv", "--target", "y", "--drop", "class", "--hidden", "8,4", *QUICK, "--json", "r.json"
    )
    assert status == 0
    y = X.sum(1) + (KINDS == "a")
    model, data = by_hand(4, 8, 4, 1), data_by_hand(X.T, ((y - y.mean()) / y.std())[:, None])
    tuner = AutoLRTuner(model, torch.nn.MSELoss(), torch.optim.AdamW(model.parameters()), rng=0)
    expected = tuner.tune(*data, learning_rates=log_grid(1e-4, 10.0, 9), num_subsamples=10)
    delta = TuningResult.load("r.json").differentials.delta
    np.testing.assert_allclose(delta, expected.differentials.delta, rtol=1e-3, atol=1e-5)
    assert out.splitlines()[:4] == [
        "t.csv: 60 rows; inputs: 2 columns of numbers, standardized, and 1 of text, as 2 of 0 and 1.",
        f"Target 'y': a regression; losses are in units of its variance, {y.var():.3g}.",
        "Model: a perceptron with ReLU, 4-8-4-1, drawn with seed 0; AdamW with PyTorch's defaults.",
        "",
    ]


def test_what_to_do_next_is_told_in_options_and_commands(run):
    table = ["tune", "t.csv", "--target", "class", "--num-subsamples", "40"]
    status, out, _ = run(*table, "--lr-min", "1e-4", "--lr-max", "1e-3", "--num-rates", "5")
    assert status == 1
    advice = out.splitlines()[-1].removeprefix("Next: widen the grid, ")
    status, out, _ = run(*table, *advice.removesuffix(".").split())
    assert status == 0
    assert "Next: search for the rate of a whole run with `autolr find`; one step does not tell it." in out
    assert "Next: train with it.\n" in run("find", "t.csv", "--target", "y", "--total-steps", "200")[1]


def test_a_classification_has_a_class_for_each_text_and_options_reach_the_tuning(run):
    words = ["--target", "class", "--drop", "kind", "--hidden", "none", "--optimizer", "SGD", "--batch-size", 5]
    status, out, _ = run("tune", "t.csv", *words, *QUICK, "--seed", 3, "--json", "r.json")
    assert status in (0, 1)
    assert "Target 'class': a classification of 2 classes." in out
    assert "Model: a linear model, 3-2, drawn with seed 3; SGD with PyTorch's defaults." in out
    settings = TuningResult.load("r.json").settings
    assert (settings["optimizer"], settings["batch_size"], settings["rng"], settings["num_parameters"]) == (
        "SGD",
        5,
        3,
        8,
    )


def test_the_rate_of_a_run_is_found_for_a_table(run, folder):
    words = ["--target", "y", "--hidden", "4", "--total-steps", 60, "--schedule", "cosine", "--effort", "fast"]
    status, out, _ = run("find", "t.npz", *words, "--batch-size", 8, "--json", "s.json", "--plot", "s.svg")
    assert status == 0
    model = by_hand(2, 4, 2)
    inputs = (X - X.mean(0)) / X.std(0)
    options = {"total_steps": 60, "schedule": "cosine", "effort": "fast", "batch_size": 8, "rng": 0}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    expected = find_lr(model, torch.nn.CrossEntropyLoss(), optimizer, (inputs, (X.sum(1) > 0).astype(int)), **options)
    assert SearchResult.load("s.json").suggestion.learning_rate == pytest.approx(float(expected), rel=1e-3)
    assert "rate (* in the interval)" in out
    assert "for 60 steps under the schedule cosine" in out
    assert out.endswith("Result: s.json\nPicture: s.svg\n")
    assert "<svg" in (folder / "s.svg").read_text()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["none.csv", "--target", "y"], "`TABLE` must name a file that exists, got 'none.csv'."),
        (["t.csv", "--target", "z"], "`--target` must be one of the columns 'u', 'v', 'kind', 'y', 'class', got 'z'."),
        (["t.csv"], "--target must name the column to predict, got none."),
        ([], "one of TABLE and --factory must be given, got neither."),
        (["empty.csv", "--target", "y"], "column 'x' must have no empty cells, got 1, the first in row 2"),
        (["one.csv", "--target", "y"], "`TABLE` must have at least 2 rows, got 1."),
        (["level.csv", "--target", "y"], "`--target` must not be constant, got 7 in every row of 'y'."),
        (["t.csv", "--target", "y", "--optimizer", "Magic"], "`--optimizer` must be one of 'AdamW', 'Adam', 'SGD'"),
        (["t.csv", "--target", "y", "--lr-min", "-1"], "`--lr-min` must be finite and above 0, got -1.0."),
        (["t.csv", "--target", "y", "--json", "x.txt"], "`--json` must end in .json, got 'x.txt'."),
        (
            ["t.csv", "--target", "y", "--html", "no/x.html"],
            "`--html` must lie in a folder that exists, got 'no/x.html'",
        ),
        (
            ["t.csv", "--target", "y", "--json", "-", "--plot", "-"],
            "`--plot` must be a file where --json is -, got '-'.",
        ),
        (["t.csv", "--target", "y", "--batch-size", "50"], "`batch_size` must be at most 30"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(refused, folder, words, text):
    (folder / "empty.csv").write_text("x,y\n1,1\n,2\n3,3\n")
    (folder / "one.csv").write_text("x,y\n1,1\n")
    (folder / "level.csv").write_text("x,y\n1,7\n2,7\n3,7\n")
    before = set(folder.iterdir())
    assert refused("tune", *words).startswith(text)
    assert set(folder.iterdir()) == before


@pytest.mark.parametrize("sizes", ["8,", "0", "-3", "8;8", "a"])
def test_sizes_that_are_none_are_refused(sizes, run, capsys):
    with pytest.raises(SystemExit, match="2"):
        run("tune", "t.csv", "--target", "y", f"--hidden={sizes}")
    assert f"be whole numbers joined by commas, or none, got '{sizes}'." in capsys.readouterr().err


def test_no_decision_is_status_1(run):
    status, out, _ = run("tune", "t.csv", "--target", "y", "--drop", "class", *QUICK, "--lr-max", "1e-3")
    assert status == 1
    assert "I cannot tell" in out


def test_a_search_in_which_everything_diverges_is_status_1(run, folder):
    shutil.copy(Path(__file__).with_name("mine.py"), folder / "steep.py")
    status, out, err = run("find", "--factory", "steep:with_huge_inputs", "--total-steps", 20)
    assert (status, err) == (1, "")
    assert out.splitlines()[-1].startswith("I cannot tell: Training diverged at every learning rate")

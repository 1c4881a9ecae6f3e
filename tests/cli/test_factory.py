"""``--factory`` runs the user's code, and nothing else does; whatever it raises is one line that names it."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from autolr import SearchResult, TuningResult
from autolr.cli import main

QUICK = ["--num-subsamples", "10", "--num-rates", "9", "--lr-min", "1e-3"]


@pytest.fixture(autouse=True)
def _mine(folder, monkeypatch):
    shutil.copy(Path(__file__).with_name("mine.py"), folder / "mine.py")
    (folder / "broken.py").write_text("def make(:\n")
    (folder / "needy.py").write_text("import nothing_of_this_name\n")
    monkeypatch.delitem(sys.modules, "mine", raising=False)


@pytest.mark.parametrize(("name", "size"), [("make", 32), ("with_dataset", 32), ("with_loader", 8)])
def test_a_model_of_ones_own_is_tuned_on_data_of_any_form(run, name, size):
    status, out, _ = run("tune", "--factory", f"mine:{name}", *QUICK, "--json", "lr.json")
    assert status == 0
    assert "Learning rate 0." in out
    settings = TuningResult.load("lr.json").settings
    assert (settings["model"], settings["optimizer"], settings["batch_size"]) == ("Linear", "SGD", size)
    assert "notes" not in settings


def test_a_rate_for_a_run_is_found_for_it(run):
    status, out, _ = run("find", "--factory", "mine:make", "--total-steps", 50, "--json", "lr.json")
    assert status == 0
    assert "for 50 steps" in out
    assert SearchResult.load("lr.json").settings["total_steps"] == 50


def test_what_it_prints_is_kept_apart_from_the_result_on_standard_output(run):
    status, out, err = run("tune", "--factory", "mine:make", *QUICK, "--json", "-")
    assert status == 0
    assert out.startswith('{"schema"')
    assert err.startswith("imported\n")


@pytest.mark.parametrize(
    ("factory", "text"),
    [
        ("mine", "`--factory` must be package.module:function, got 'mine'."),
        ("mine:", "`--factory` must be package.module:function, got 'mine:'."),
        ("mine.py:make", "`--factory` must name a module in the current folder or installed, got 'mine.py:make'."),
        ("yours:make", "`--factory` must name a module in the current folder or installed, got 'yours:make'."),
        ("mine:absent", "`--factory` must name a function of mine, got 'mine:absent'."),
        ("mine:number", "`--factory` must name a function of mine, got 'mine:number'."),
        ("broken:make", "--factory broken:make: its import raised SyntaxError: invalid syntax (broken.py, line 1)"),
        ("needy:make", "--factory needy:make: its import raised ModuleNotFoundError: No module named 'nothing_of_"),
        ("mine:fails", "--factory mine:fails: its call raised RuntimeError: no GPU"),
        ("mine:leaves", "--factory mine:leaves: its call raised SystemExit: 3"),
        ("mine:nothing", "--factory mine:nothing must return (model, loss_fn, optimizer, data), got None."),
        ("mine:without_data", "must return (model, loss_fn, optimizer, data), got 'tuple of 3'."),
        ("mine:with_loss_last", "tuning what it returned raised TypeError: `loss_fn` must be a function"),
        ("mine:with_wrong_shapes", "tuning what it returned raised RuntimeError: mat1 and mat2 shapes cannot be"),
    ],
)
def test_whatever_goes_wrong_in_it_is_one_line_that_names_it(run, factory, text):
    status, _, err = run("tune", "--factory", factory, *QUICK)
    assert status == 2
    assert err.startswith(f"autolr: error: {text}" if text[0] in "`-" else "autolr: error: --factory ")
    assert text in err
    assert err.count("\n") == 1


def test_the_place_of_an_error_is_shown_where_it_is_asked_for(run):
    status, _, err = run("find", "--factory", "mine:fails", "--traceback")
    assert status == 2
    assert re.search(r'mine\.py", line \d+, in fails\n', err)
    assert err.endswith("\nautolr: error: --factory mine:fails: its call raised RuntimeError: no GPU\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["t.csv"], "one of TABLE and --factory must be given, got both."),
        (["--target", "y"], "`--target` must be left out with --factory, got 'y'."),
        (["--optimizer", "SGD"], "`--optimizer` must be left out with --factory, got 'SGD'."),
        (["--hidden", "8"], "`--hidden` must be left out with --factory, got (8,)."),
        (["--drop", "a"], "`--drop` must be left out with --factory, got ['a']."),
    ],
)
def test_options_of_tables_are_refused_beside_it(refused, words, text):
    assert refused("tune", "--factory", "mine:make", *words) == text


def test_an_interrupt_of_it_is_no_error_of_its_own(run, folder):
    (folder / "mine.py").write_text("def make():\n    raise KeyboardInterrupt\n")
    assert run("tune", "--factory", "mine:make") == (130, "", "autolr: interrupted\n")


def test_the_help_says_that_it_runs_code(capsys):
    for command in ("tune", "find"):
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        words = " ".join(capsys.readouterr().out.split())
        assert "It is the only option that runs code of yours; name no module that you would not run." in words

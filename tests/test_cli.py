"""The command line: what it prints, writes and returns."""

import json
import subprocess
import sys

import pytest

from autolr import TuningResult, __version__
from autolr.cli import main

QUICK = ["--num-subsamples", "20", "--num-rates", "12", "--lr-min", "1e-4"]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_demo_prints_table_verdict_and_picture(capsys, tmp_path):
    assert main(["demo", *QUICK, "--json", "lr.json"]) == 0
    words = capsys.readouterr().out
    assert "prob_improve" in words
    assert "Learning rate 0.0" in words
    assert "Result: lr.json" in words
    assert words.endswith("Picture: autolr-demo.png\n")
    assert (tmp_path / "autolr-demo.png").read_bytes().startswith(b"\x89PNG")
    assert TuningResult.load("lr.json").settings["optimizer"] == "AdamW"


def test_options_reach_the_tuning(capsys):
    arguments = ["--optimizer", "SGD", "--batch-size", "8", "--seed", "3", "--method", "median", "--plot", "x.svg"]
    assert main(["demo", *QUICK, *arguments, "--json", "x.json"]) in (0, 1)
    settings = TuningResult.load("x.json").settings
    assert (settings["optimizer"], settings["batch_size"], settings["rng"]) == ("SGD", 8, 3)
    assert "Picture: x.svg" in capsys.readouterr().out


def test_json_on_standard_output_is_alone_there(capsys):
    assert main(["demo", *QUICK, "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["schema"] == "autolr.TuningResult"
    assert "Learning rate" in captured.err


def test_a_picture_on_standard_output_is_alone_there():
    run = subprocess.run(
        [sys.executable, "-m", "autolr", "demo", *QUICK, "--plot", "-"], capture_output=True, check=True
    )
    assert run.stdout.startswith(b"\x89PNG")
    assert b"Learning rate" in run.stderr


def test_no_decision_is_status_1(capsys):
    assert main(["demo", *QUICK, "--lr-max", "1e-3"]) == 1
    assert "I cannot tell" in capsys.readouterr().out


def test_a_method_for_which_no_rate_qualifies_is_status_1(capsys):
    assert main(["demo", *QUICK, "--lr-min", "1", "--method", "variance"]) == 1
    assert "I cannot tell: No learning rate qualifies for method='variance'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--optimizer", "Magic"], "--optimizer must be one of AdamW, Adam, SGD"),
        (["--lr-min", "-1"], "`low` must be finite and above 0, got -1.0."),
        (["--num-subsamples", "1"], "`num_subsamples` must be at least 2, got 1."),
        (["--batch-size", "5000"], "`batch_size` must be at most 898"),
        (["--plot", "nowhere/x.png"], "--plot must name a file in an existing folder, got 'nowhere/x.png'."),
        (["--plot", "x.docx"], "docx"),
        (["--json", "lr.txt"], "`path` must end in .json, got 'lr.txt'."),
    ],
)
def test_an_error_is_one_line_and_status_2(capsys, arguments, text):
    assert main(["demo", *QUICK, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("autolr: error: ")
    assert text in error
    assert error.count("\n") == 1


def test_without_scikit_learn_the_demo_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == (
        "autolr: error: the demo needs scikit-learn: install the extra `demo` of autolr, or scikit-learn itself.\n"
    )


def test_an_interrupt_is_one_line(capsys, monkeypatch):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr("autolr.demo.tune_digits", interrupted)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "autolr: interrupted\n"


def test_the_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"autolr {__version__}\n"


def test_help_has_an_example(capsys):
    for words in (["--help"], ["demo", "--help"]):
        with pytest.raises(SystemExit, match="0"):
            main(words)
        assert "example: autolr demo --optimizer SGD" in " ".join(capsys.readouterr().out.split())


def test_without_a_command_the_usage_is_shown(capsys):
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "usage: autolr" in capsys.readouterr().err

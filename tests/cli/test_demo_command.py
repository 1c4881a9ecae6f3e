"""``autolr demo``: what it prints, writes and returns."""

import json
import sys

import pytest

from autolr import TuningResult
from autolr.cli import main

QUICK = ["--num-subsamples", "20", "--num-rates", "12", "--lr-min", "1e-4"]


def test_the_demo_prints_table_verdict_and_picture(capsys, tmp_path):
    assert main(["demo", *QUICK, "--json", "lr.json", "--plot", "lr.png"]) == 0
    words = capsys.readouterr().out
    assert "prob_improve" in words
    assert "Learning rate 0.0" in words
    assert words.endswith("Result: lr.json\nPicture: lr.png\n")
    assert (tmp_path / "lr.png").read_bytes().startswith(b"\x89PNG")
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


def test_a_picture_on_standard_output_is_alone_there(capfdbinary):
    assert main(["demo", *QUICK, "--plot", "-"]) == 0
    captured = capfdbinary.readouterr()
    assert captured.out.startswith(b"\x89PNG")
    assert b"Learning rate" in captured.err


def test_no_decision_is_status_1_and_no_file_is_written_unasked(capsys, tmp_path):
    assert main(["demo", *QUICK, "--lr-max", "1e-3"]) == 1
    assert "I cannot tell" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_method_for_which_no_rate_qualifies_is_status_1(capsys):
    assert main(["demo", *QUICK, "--lr-min", "1", "--method", "variance"]) == 1
    assert "I cannot tell: No learning rate qualifies for method='variance'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--optimizer", "Magic"], "`--optimizer` must be one of 'AdamW', 'Adam', 'SGD'"),
        (["--lr-min", "-1"], "`--lr-min` must be finite and above 0, got -1.0."),
        (["--lr-max", "1e-5"], "`--lr-max` must be finite and above 0.0001, got 1e-05."),
        (["--num-rates", "1"], "`--num-rates` must be at least 2, got 1."),
        (["--num-subsamples", "1"], "`--num-subsamples` must be at least 2, got 1."),
        (["--seed", "-1"], "`--seed` must be at least 0, got -1."),
        (["--batch-size", "5000"], "`batch_size` must be at most 898"),
        (["--plot", "nowhere/x.png"], "`--plot` must lie in a folder that exists, got 'nowhere/x.png'."),
        (["--plot", "x.docx"], "docx"),
        (["--json", "lr.txt"], "`--json` must end in .json, got 'lr.txt'."),
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


@pytest.mark.parametrize(
    ("tool", "says"),
    [
        ("find", "for 2000 steps"),
        ("range-test", "5 runs"),
        ("taylor", "slope"),
        ("compare", "The best of 3 schedules"),
    ],
)
def test_the_demo_shows_the_other_tools_and_draws_them(tool, says, capsys, tmp_path):
    assert main(["demo", "--tool", tool, "--plot", "tool.png"]) in (0, 1)
    words = capsys.readouterr().out
    assert says in words
    assert words.endswith("Picture: tool.png\n")
    assert (tmp_path / "tool.png").read_bytes().startswith(b"\x89PNG")


def test_a_tool_that_cannot_tell_is_status_1(capsys):
    assert main(["demo", "--tool", "range-test", "--lr-max", "1e-5", "--plot", "tool.png"]) == 1
    assert "I cannot tell" in capsys.readouterr().out
    assert main(["demo", "--tool", "range-test", "--num-rates", "5"]) == 1
    assert "I cannot tell: At least 2 rows must be left" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tool", "option", "value"),
    [
        ("find", "--json", "'lr.json'"),
        ("range-test", "--method", "'median'"),
        ("taylor", "--lr-min", "0.1"),
        ("compare", "--num-rates", "3"),
    ],
)
def test_an_option_that_a_tool_does_not_have_is_refused(tool, option, value, capsys):
    assert main(["demo", "--tool", tool, option, value.strip("'")]) == 2
    assert capsys.readouterr().err == f"autolr: error: `{option}` must be left out with --tool {tool}, got {value}.\n"


@pytest.mark.parametrize(
    ("size", "says"), [("-1", "`--batch-size` must be at least 1"), ("1798", "`--batch-size` must be at most 1797")]
)
def test_an_expansion_is_of_a_batch_that_there_is(size, says, capsys):
    assert main(["demo", "--tool", "taylor", "--batch-size", size]) == 2
    assert capsys.readouterr().err == f"autolr: error: {says}, got {size}.\n"

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
        (["--lr-min", "-1"], "`--lr-min` must be finite and above 0, got -1.0."),
        (["--lr-max", "1e-5"], "`--lr-max` must be finite and above 0.0001, got 1e-05."),
        (["--num-rates", "1"], "`--num-rates` must be at least 2, got 1."),
        (["--num-subsamples", "1"], "`--num-subsamples` must be at least 2, got 1."),
        (["--seed", "-1"], "`--seed` must be at least 0, got -1."),
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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "the following arguments are required: COMMAND (see autolr --help)"),
        (["demo", "--tool", "guess"], "argument --tool: invalid choice: 'guess' (choose from 'tune', 'find'"),
        (
            ["schedules", "--total-steps", "1.5"],
            "argument --total-steps: invalid int value: '1.5' (see autolr schedules",
        ),
    ],
)
def test_words_that_cannot_be_read_are_one_line_that_names_the_help(arguments, says, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    message = capsys.readouterr().err
    assert message.startswith(f"autolr: error: {says}")
    assert message.count("\n") == 1


@pytest.mark.parametrize("command", [[], ["demo"], ["schedules"]])
def test_the_help_fits_a_terminal_and_shows_the_defaults_that_there_are(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) < 80
    assert "default: None" not in text


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
    assert capsys.readouterr().err == f"autolr: error: {option} must be left out with --tool {tool}, got {value}.\n"


@pytest.mark.parametrize(
    ("size", "says"), [("-1", "`--batch-size` must be at least 1"), ("1798", "--batch-size must be at most 1797")]
)
def test_an_expansion_is_of_a_batch_that_there_is(size, says, capsys):
    assert main(["demo", "--tool", "taylor", "--batch-size", size]) == 2
    assert capsys.readouterr().err == f"autolr: error: {says}, got {size}.\n"


@pytest.mark.parametrize("path", ["rates", "rates.docx", "."])
def test_a_picture_that_could_not_be_written_there_is_refused_first(path, capsys, tmp_path):
    assert main(["schedules", "cosine", "--plot", path]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("autolr: error: --plot must end in .")
    assert captured.err.endswith(f", got '{path}'.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_long_table_ends_with_the_last_step(capsys):
    assert main(["schedules", "cosine", "--total-steps", "100"]) == 0
    steps = [int(line.split()[0]) for line in capsys.readouterr().out.splitlines()[2:]]
    assert steps == [*range(0, 100, 4), 99]


def test_schedules_are_printed_and_drawn(capsys, tmp_path):
    arguments = ["cosine", "step", "--learning-rate", "0.1", "--total-steps", "4", "--warmup-steps", "1"]
    assert main(["schedules", *arguments, "--plot", "rates.png"]) == 0
    words = capsys.readouterr().out
    assert [line.split() for line in words.splitlines()[:3]] == [["cosine", "step"], ["step"], ["0", "0.05", "0.05"]]
    assert len(words.splitlines()) == 7
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
    assert main(["schedules"]) == 0
    assert "onecycle" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["cosin"], "NAME must be one of constant, step, multistep"),
        (["cosine", "--learning-rate", "0"], "`--learning-rate` must be finite and above 0, got 0.0."),
        (["cosine", "--total-steps", "0"], "`total_steps` must be at least 1, got 0."),
        (["onecycle", "--warmup-steps", "3"], "`warmup_steps` must be 0 for 'onecycle'"),
        (["cosine", "--plot", "nowhere/rates.png"], "--plot must name a file in an existing folder"),
    ],
)
def test_what_is_no_schedule_is_one_line_on_standard_error(arguments, text, capsys):
    assert main(["schedules", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("autolr: error: ")
    assert text in message
    assert message.count("\n") == 1

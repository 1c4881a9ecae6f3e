"""``autolr schedules``: rates in a table and in a picture."""

import pytest

from autolr.cli import main


@pytest.mark.parametrize("path", ["rates", "rates.docx", "."])
def test_a_picture_that_could_not_be_written_there_is_refused_first(path, capsys, tmp_path):
    assert main(["schedules", "cosine", "--plot", path]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("autolr: error: `--plot` must end in .png, .svg")
    assert captured.err.endswith(f", got '{path}'.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_long_table_ends_with_the_last_step(capsys):
    assert main(["schedules", "cosine", "--total-steps", "100"]) == 0
    steps = [int(line.split()[0]) for line in capsys.readouterr().out.splitlines()[1:]]
    assert steps == [*range(0, 100, 4), 99]


def test_schedules_are_printed_and_drawn(capsys, tmp_path):
    arguments = ["cosine", "step", "--learning-rate", "0.1", "--total-steps", "4", "--warmup-steps", "1"]
    assert main(["schedules", *arguments, "--plot", "rates.png"]) == 0
    words = capsys.readouterr().out
    assert [line.split() for line in words.splitlines()[:2]] == [["step", "cosine", "step"], ["0", "0.05", "0.05"]]
    assert len(words.splitlines()) == 6
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
    assert main(["schedules"]) == 0
    assert "onecycle" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["cosin"], "`NAME` must be one of 'constant', 'step', 'multistep'"),
        (["cosine", "--learning-rate", "0"], "`--learning-rate` must be finite and above 0, got 0.0."),
        (["cosine", "--total-steps", "0"], "`total_steps` must be at least 1, got 0."),
        (["onecycle", "--warmup-steps", "3"], "`warmup_steps` must be 0 for 'onecycle'"),
        (
            ["cosine", "--plot", "nowhere/rates.png"],
            "`--plot` must lie in a folder that exists",
        ),
    ],
)
def test_what_is_no_schedule_is_one_line_on_standard_error(arguments, text, capsys):
    assert main(["schedules", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("autolr: error: ")
    assert text in message
    assert message.count("\n") == 1

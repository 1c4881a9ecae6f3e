"""The command line as such: its help, its exit statuses, terminals, pipes and Ctrl-C."""

import contextlib
import os
import re
import signal
import struct
import subprocess
import sys

import numpy as np
import pytest

from autolr import LossDifferentials, TuningResult, __version__
from autolr.cli import main
from autolr.cli._results import in_a_shell

pty = pytest.importorskip("pty", reason="terminals are those of POSIX")
fcntl = pytest.importorskip("fcntl")
termios = pytest.importorskip("termios")

COMMANDS = ("demo", "tune", "find", "report", "check", "schedules")


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


def help_of(capsys, *command):
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_in_its_help_and_in_that_of_all(command, capsys):
    assert f"example: autolr {command} " in " ".join(help_of(capsys).split())
    assert re.search(f"example(: |s?:\n  )autolr {command} ", help_of(capsys, command))


def test_the_help_tells_the_exit_statuses_and_where_code_is_run(capsys):
    words = help_of(capsys)
    assert [line.split()[0] for line in words.split("exit status:\n")[1].splitlines()[:5]] == [
        "0",
        "1",
        "2",
        "130",
        "141",
    ]
    assert "only what --factory names is run" in " ".join(words.split())


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


@pytest.mark.parametrize("command", [[], *([command] for command in COMMANDS)])
def test_the_help_fits_a_terminal_and_shows_the_defaults_that_there_are(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(capsys, *command)
    assert max(map(len, text.splitlines())) < 80
    assert not re.search(r"default:\s+(None|False|\[|\()", text)


def test_the_help_needs_neither_torch_nor_pandas():
    code = (
        "import sys; from autolr.cli import main\ntry: main(['--help'])\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "pandas", "scipy", "matplotlib"}.isdisjoint(done.stderr.split())


def terminal_of(columns):
    """Return where a terminal is read, and where it is written to."""
    end, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    return end, terminal


class Terminal:
    """Standard output and standard error as a terminal of some columns."""

    def __init__(self, monkeypatch, columns):
        self.end, terminal = terminal_of(columns)
        self.stream = os.fdopen(terminal, "w")
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, self.stream)
        for name in ("NO_COLOR", "COLUMNS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("TERM", "xterm")

    def read(self):
        self.stream.close()
        shown = b""
        with contextlib.suppress(OSError):  # of its end
            while part := os.read(self.end, 65536):
                shown += part
        os.close(self.end)
        return shown.decode().replace("\r\n", "\n")


@pytest.fixture
def saved(folder):
    """Save a result with a caveat, and return its verdict."""
    delta = (np.log10(np.geomspace(0.01, 10.0, 13)) + 1.0) ** 2 + np.linspace(0.0, 0.1, 15)[:, None]
    result = TuningResult(LossDifferentials(np.geomspace(0.01, 10.0, 13), np.full(15, 2.0), 1.0 + delta))
    result.save(folder / "r.json")
    return in_a_shell(str(result))


def test_on_a_terminal_lines_are_wrapped_the_pick_is_bold_and_caveats_are_dim(saved, monkeypatch):
    terminal = Terminal(monkeypatch, 60)
    assert main(["report", "r.json"]) == 0
    verdict = terminal.read().partition("\n\n")[2]
    assert verdict.startswith("Learning rate \x1b[1m0.1\x1b[0m: one step")
    assert verdict.count("\x1b[1m") == 1
    assert re.search(r"\n\x1b\[2mCaveat: [^\x1b]*\x1b\[0m\n$", verdict)
    plain = re.sub(r"\x1b\[\dm", "", verdict)
    assert max(map(len, plain.splitlines())) <= 60
    assert plain.replace("\n  ", " ").splitlines() == saved.splitlines()


@pytest.mark.usefixtures("saved")
@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_that_wants_no_colours_has_none(monkeypatch, name, value):
    terminal = Terminal(monkeypatch, 80)
    monkeypatch.setenv(name, value)
    assert main(["report", "r.json"]) == 0
    assert "\x1b" not in terminal.read()


@pytest.mark.usefixtures("saved")
def test_a_terminal_that_does_not_tell_its_width_has_80_columns(monkeypatch):
    terminal = Terminal(monkeypatch, 0)
    assert main(["report", "r.json"]) == 0
    assert 70 < max(map(len, re.sub(r"\x1b\[\dm", "", terminal.read()).splitlines())) <= 80


def test_in_a_pipe_a_sentence_is_a_line_without_colours(saved, run):
    status, out, _ = run("report", "r.json")
    assert status == 0
    assert out.endswith(f"\n\n{saved}\n")


@pytest.mark.usefixtures("saved")
def test_a_pipe_that_is_closed_is_no_error_and_the_files_are_written(monkeypatch, folder, capsys):
    end, start = os.pipe()
    os.close(end)
    with os.fdopen(start, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(["report", "r.json", "--plot", "r.svg"]) == 141
    assert capsys.readouterr().err == ""
    assert (folder / "r.svg").exists()


@pytest.mark.usefixtures("saved")
def test_without_standard_output_files_are_written_all_the_same(monkeypatch, folder):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["report", "r.json", "--plot", "r.svg"]) == 0
    assert (folder / "r.svg").exists()


@pytest.mark.usefixtures("saved")
def test_a_picture_that_cannot_be_drawn_leaves_the_old_one(run, folder, monkeypatch):
    (folder / "r.svg").write_text("old")

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    status, _, err = run("report", "r.json", "--plot", "r.svg")
    assert (status, err) == (2, "autolr: error: disk full\n")
    assert {path.name for path in folder.iterdir()} == {"r.json", "r.svg"}
    assert (folder / "r.svg").read_text() == "old"


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_ctrl_c_in_the_middle_of_a_tuning_is_one_line_and_status_130(folder):
    (folder / "t.csv").write_text("x,y\n" + "".join(f"{i},{i * i}\n" for i in range(100)))
    end, terminal = terminal_of(80)
    command = [sys.executable, "-m", "autolr", "tune", "t.csv", "--target", "y", "--num-subsamples", "100000"]
    started = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True)
    os.close(terminal)
    shown = b""
    while b"subsamples: " not in shown:  # the bar, which is there on a terminal only
        shown += os.read(end, 65536)
    os.killpg(started.pid, signal.SIGINT)
    with contextlib.suppress(OSError):  # of its end
        while part := os.read(end, 65536):
            shown += part
    os.close(end)
    assert started.wait(30) == 130
    assert shown.endswith(b"autolr: interrupted\r\n")
    assert b"Traceback" not in shown

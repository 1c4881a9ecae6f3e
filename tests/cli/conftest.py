"""Every command runs in an empty folder of its own."""

import sys

import pytest

from autolr.cli import main


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # to which --factory adds the folder
    return tmp_path


@pytest.fixture
def run(capsys):
    """Run a command; return its exit status, what it printed, and what it printed to standard error."""

    def run(*words):
        status = main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def refused(run):
    """Run a command that is to be refused in one line, before anything is printed; return that line."""

    def refused(*words):
        status, out, err = run(*words)
        assert (status, out) == (2, "")
        assert err.startswith("autolr: error: ")
        assert err.count("\n") == 1
        return err.removeprefix("autolr: error: ").rstrip("\n")

    return refused

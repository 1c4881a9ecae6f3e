"""The command line: a file for each command; ``_arguments.py`` what they are asked, ``_output.py`` what they say."""

from autolr.cli._main import main

__all__ = ["main"]

"""What the commands say, and the files that they write: each path is checked before anything is computed."""

import argparse
import io
import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from autolr._files import check_path, write_file
from autolr._validation import invalid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SUFFIXES = {
    "json": (".json",),
    "html": (".html", ".htm"),
    "plot": (".png", ".svg", ".pdf", ".eps", ".jpg", ".webp"),
}
_WORDS = {"json": "Result", "html": "Report", "plot": "Picture"}
_BOLD, _DIM, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"


class Output:
    """Where words, result, report and picture go: to the paths of the options, ``-`` being standard output.

    Args:
        options: ``json``, ``html`` and ``plot`` count, where the command has them.

    Attributes:
        words: The stream of the words: standard error where something else is written to standard output.

    Raises:
        ValueError: If a path ends in what cannot be written, or two things would go to standard output.
        OSError: If a file could not be written there.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._paths: dict[str, str] = {}
        self._targets: dict[str, Path] = {}
        for name in _SUFFIXES:
            path = getattr(options, name, None)
            if path is None:
                continue
            if path == "-" and "-" in self._paths.values():
                other = next(name for name, path in self._paths.items() if path == "-")
                raise ValueError(invalid(f"--{name}", f"be a file where --{other} is -", path))
            if path != "-":
                self._targets[name] = check_path(path, *_SUFFIXES[name], name=f"--{name}")
            self._paths[name] = path
        self.words: TextIO = sys.stderr if "-" in self._paths.values() else sys.stdout
        self._terminal = self.words is not None and self.words.isatty()
        self._dressed = self._terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def say(self, text: str, *, strong: str = "") -> None:
        """Print sentences, one a line; on a terminal wrapped, caveats dim and ``strong`` bold in the first one."""
        for number, line in enumerate(text.splitlines()):
            shown = "\n".join(self._wrapped(line))
            if self._dressed and line.startswith("Caveat:"):
                shown = f"{_DIM}{shown}{_PLAIN}"
            elif self._dressed and strong and not number:
                shown = shown.replace(strong, f"{_BOLD}{strong}{_PLAIN}", 1)
            self.print(shown)

    def print(self, text: str = "") -> None:
        """Print a text as it is, such as a table."""
        print(text, file=self.words)

    def write(self, name: str, make: Callable[[], bytes]) -> None:
        """Write a result (``"json"``) or a report (``"html"``), where it was asked for."""
        if name in self._paths:
            self._write(name, make())

    def draw(self, draw: "Callable[[Figure], object]", size: tuple[float, float]) -> None:
        """Write a picture of a size in inches, where it was asked for."""
        if "plot" not in self._paths:
            return
        from matplotlib.figure import Figure

        figure, picture = Figure(figsize=size, layout="constrained"), io.BytesIO()
        draw(figure)
        kind = self._targets["plot"].suffix[1:] if "plot" in self._targets else "png"
        figure.savefig(picture, format=kind, dpi=150)
        self._write("plot", picture.getvalue())

    def name_files(self) -> None:
        """Print which files were written."""
        for name in self._targets:
            self.print(f"{_WORDS[name]}: {self._paths[name]}")

    def _write(self, name: str, content: bytes) -> None:
        if name in self._targets:
            write_file(self._targets[name], content)
        else:
            sys.stdout.buffer.write(content + b"\n" * (name == "json"))

    def _wrapped(self, line: str) -> list[str]:
        if not self._terminal:
            return [line]
        return textwrap.wrap(line, _width(self.words), subsequent_indent="  ", break_on_hyphens=False) or [""]


def _width(terminal: TextIO) -> int:
    try:
        columns = os.get_terminal_size(terminal.fileno()).columns
    except OSError:
        columns = 0
    return columns if columns > 20 else 80  # a terminal that does not tell its width says 0

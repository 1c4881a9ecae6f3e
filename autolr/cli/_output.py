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
        self._files: list[str] = []
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

    def write_json(self, make_text: Callable[[], str]) -> None:
        """Write a result as JSON, where it was asked for."""
        if "json" in self._paths:
            self._write("json", "Result", make_text().encode() + b"\n" * (self._paths["json"] == "-"))

    def write_html(self, write: Callable[[Path], None]) -> None:
        """Have a report written, where it was asked for."""
        if "html" in self._targets:
            write(self._targets["html"])
            self._files.append(f"Report: {self._paths['html']}")

    def draw(self, draw: "Callable[[Figure], object]", size: tuple[float, float]) -> None:
        """Write a picture of a size in inches, where it was asked for."""
        if "plot" not in self._paths:
            return
        from matplotlib.figure import Figure

        figure, picture = Figure(figsize=size, layout="constrained"), io.BytesIO()
        draw(figure)
        kind = self._targets["plot"].suffix[1:] if "plot" in self._targets else "png"
        figure.savefig(picture, format=kind, dpi=150)
        self._write("plot", "Picture", picture.getvalue())

    def name_files(self) -> None:
        """Print which files were written."""
        for line in self._files:
            self.print(line)

    def _write(self, name: str, what: str, content: bytes) -> None:
        if name not in self._targets:
            sys.stdout.buffer.write(content)
            return
        write_file(self._targets[name], content)
        self._files.append(f"{what}: {self._paths[name]}")

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

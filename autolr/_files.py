"""Files: a path is checked before anything is computed for it, and the whole file is written or none of it."""

import os
import secrets
from pathlib import Path

from autolr._validation import either


def check_path(path: str | os.PathLike[str], *suffixes: str, name: str = "path") -> Path:
    """Return the file that a path names, where it could be written; of a link, the file that it points to.

    Args:
        path: What is there already is replaced later.
        *suffixes: What it may end in, such as ``".json"``.
        name: How errors call the path.

    Raises:
        ValueError: If it ends in something else.
        FileNotFoundError: If its folder does not exist.
        IsADirectoryError: If it is a folder itself.
        PermissionError: If nothing may be written into its folder.
    """
    if Path(path).suffix not in suffixes:
        raise ValueError(_refusal(name, f"end in {either(suffixes)}", path))
    target = Path(path).resolve()  # a link stays a link
    if not target.parent.is_dir():
        raise FileNotFoundError(_refusal(name, "lie in a folder that exists", path))
    if target.is_dir():
        raise IsADirectoryError(_refusal(name, "be a file", path))
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(_refusal(name, "lie in a folder that may be written to", path))
    return target


def _refusal(name: str, constraint: str, path: str | os.PathLike[str]) -> str:
    """Return the sentence of :func:`autolr._validation.invalid`, with the whole path."""
    return f"`{name}` must {constraint}, got {str(path)!r}."


def write_file(target: Path, content: bytes) -> None:
    """Write a file: on any failure, the one that was there before is still there, and nothing else.

    A process that is killed in the middle, such as by a loss of power, can leave a hidden file beside it: a dot,
    sixteen hexadecimal digits and ``.tmp``, which may be deleted.

    Args:
        target: What :func:`check_path` returned.
        content: Its bytes.

    Raises:
        OSError: If the file cannot be written.
    """
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise

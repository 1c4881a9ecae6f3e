"""The progress bar: on a terminal, unless it is asked for or forbidden."""

from typing import NoReturn

from tqdm.auto import tqdm


def progress_bar(progress: bool | None, total: int, what: str) -> "tqdm[NoReturn]":
    """Return a bar that is moved by hand and leaves nothing behind.

    Args:
        progress: ``None``: on a terminal only; ``True`` or ``False`` force it.
        total: The count at its end.
        what: What is counted.
    """
    disable = None if progress is None else not progress
    return tqdm(total=total, desc=what, unit="", leave=False, disable=disable)

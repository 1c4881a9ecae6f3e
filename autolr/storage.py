"""Results as files: one strict JSON document with a versioned schema, written atomically, read with checks."""

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from autolr._validation import describe, invalid
from autolr.differentials import LossDifferentials

SCHEMA = "autolr.TuningResult"
VERSION = 1
_ARRAYS = ("learning_rates", "loss_pre", "loss_post", "horizons", "interpolated")


def to_json(differentials: LossDifferentials, settings: dict[str, Any]) -> str:
    """Return a record and its settings as a JSON document.

    Floats are written with all their digits, infinities as ``"inf"``, NaN (not probed) as ``null``.

    Raises:
        ValueError: If a setting is no JSON value.
    """
    document = {"schema": SCHEMA, "version": VERSION, "settings": settings}
    document |= {name: _encode(getattr(differentials, name).tolist()) for name in _ARRAYS}
    try:
        return json.dumps(document, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(invalid("settings", "hold JSON values only", settings)) from error


def save_json(path: str | os.PathLike[str], differentials: LossDifferentials, settings: dict[str, Any]) -> None:
    """Write a record and its settings to a ``.json`` file: the whole file or, on any failure, none of it.

    Raises:
        ValueError: If the path does not end in ``.json``, or a setting is no JSON value.
        OSError: If the file cannot be written.
    """
    target = Path(path)
    if target.suffix != ".json":
        raise ValueError(invalid("path", "end in .json", str(path)))
    text = to_json(differentials, settings)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_json(path: str | os.PathLike[str]) -> tuple[LossDifferentials, dict[str, Any]]:
    """Read what :func:`save_json` wrote; no code in the file is run.

    Raises:
        ValueError: If the file is damaged, another document, or of a newer version; the message says which.
        OSError: If the file cannot be read.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # also what cannot be decoded
        raise ValueError(f"`path` must name a complete JSON file, got {str(path)!r}: {error}.") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ValueError(invalid("path", f"name a file with the schema {SCHEMA!r}", str(path)))
    version = document.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise ValueError(invalid("path", f"name a file of schema version {VERSION} or older", f"version {version}"))
    try:
        settings = document["settings"]
        differentials = LossDifferentials(**{name: _decode(document[name]) for name in _ARRAYS})
    except (KeyError, TypeError, ValueError) as error:
        reason = describe(str(error))
        raise ValueError(f"`path` must name an undamaged result, got {str(path)!r}: {reason}.") from error
    if not isinstance(settings, dict):
        raise ValueError(invalid("path", "name an undamaged result, its settings a mapping", settings))
    return differentials, settings


def _encode(value: Any) -> Any:
    if isinstance(value, list):
        return [_encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return math.nan if value is None else math.inf if value == "inf" else value


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

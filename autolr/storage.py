"""Results as files: one strict JSON document with a versioned schema, written atomically, read with checks."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from autolr._files import check_path, write_file
from autolr._validation import check_real, invalid
from autolr.differentials import LossDifferentials

SCHEMA = "autolr.TuningResult"
SEARCH_SCHEMA = "autolr.SearchResult"
VERSION = 1
_ARRAYS = ("learning_rates", "loss_pre", "loss_post", "horizons")
# the settings of a tuning by which its verdict is computed, where they are there
_NUMBERS = (
    "num_subsamples",
    "confidence_level",
    "regret_tolerance",
    "accumulation_steps",
    "evaluation_passes",
    "num_batches_lost",
    "resolution",
    "num_evaluations",
    "seconds",
    "num_looks",
    "num_probes",
    "num_probes_fixed",
    "num_extensions",
)
_NUMBERS_OR_NONE = ("batch_size", "num_observations", "num_evaluation_observations")


def to_json(differentials: LossDifferentials, settings: dict[str, Any]) -> str:
    """Return a record and its settings as a JSON document.

    Floats are written with all their digits, infinities as ``"inf"``, NaN (not probed) as ``null``, and
    ``interpolated`` as ``null`` where nothing was.

    Raises:
        ValueError: If a setting is no JSON value.
    """
    document = {"schema": SCHEMA, "version": VERSION, "settings": settings}
    document |= {name: _encode(getattr(differentials, name)) for name in (*_ARRAYS, "interpolated")}
    try:
        text = json.dumps(document, allow_nan=False)
        if json.loads(json.dumps(settings)) != settings:  # a tuple, say, would come back as a list
            raise ValueError("not every value comes back as it is")
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(invalid("settings", "hold JSON values only", settings)) from error
    return text


def save_json(path: str | os.PathLike[str], differentials: LossDifferentials, settings: dict[str, Any]) -> None:
    """Write a record and its settings to a ``.json`` file: the whole file or, on any failure, none of it.

    Raises:
        ValueError: If the path does not end in ``.json``, or a setting is no JSON value.
        OSError: If the file cannot be written.
    """
    _write(path, lambda: to_json(differentials, settings))


def save_search(
    path: str | os.PathLike[str], trace: pd.DataFrame, decision: dict[str, Any], settings: dict[str, Any]
) -> None:
    """Write the trace, decision and settings of a search as :func:`save_json` does.

    Raises:
        ValueError: If the path does not end in ``.json``, or a value is no JSON value.
        OSError: If the file cannot be written.
    """
    _write(path, lambda: search_to_json(trace, decision, settings))


def search_to_json(trace: pd.DataFrame, decision: dict[str, Any], settings: dict[str, Any]) -> str:
    """Return the trace, decision and settings of a search as a JSON document, as :func:`to_json` does.

    Infinities of a decision are the strings ``"inf"`` and ``"-inf"``, and its NaN is ``"nan"``.

    Raises:
        ValueError: If a value is no JSON value.
    """
    columns = {name: column.tolist() for name, column in trace.items()}
    columns["loss"] = _encode(trace["loss"].to_numpy(dtype=np.float64))
    document = {"schema": SEARCH_SCHEMA, "version": VERSION, "settings": settings, "decision": _spelled_out(decision)}
    return json.dumps({**document, "trace": columns}, allow_nan=False)


def _write(path: str | os.PathLike[str], make_text: Callable[[], str]) -> None:
    target = check_path(path, ".json")
    write_file(target, make_text().encode())


def load_json(path: str | os.PathLike[str]) -> tuple[LossDifferentials, dict[str, Any]]:
    """Read what :func:`save_json` wrote; no code in the file is run.

    Raises:
        ValueError: If the file is damaged, another document, or of a newer version; the message says which.
        OSError: If the file cannot be read.
    """
    document = _read(path, SCHEMA)
    try:
        settings = document["settings"]
        if not isinstance(settings, dict):
            raise TypeError(invalid("settings", "be a mapping", settings))
        for name in settings.keys() & {*_NUMBERS, *_NUMBERS_OR_NONE}:
            if settings[name] is not None or name in _NUMBERS:
                check_real(f"settings[{name!r}]", settings[name])
        arrays = {name: _decode(document[name]) for name in _ARRAYS}
        differentials = LossDifferentials(**arrays, interpolated=document["interpolated"])
    except KeyError as error:
        raise ValueError(f"`path` must name an undamaged result, got {str(path)!r} without {error}.") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"`path` must name an undamaged result, got {str(path)!r}: {error}") from error
    return differentials, settings


def load_search(path: str | os.PathLike[str]) -> tuple[pd.DataFrame, dict[str, Any], dict[str, Any]]:
    """Read what :func:`save_search` wrote; no code in the file is run.

    Raises:
        ValueError: If the file is damaged, another document, or of a newer version; the message says which.
        OSError: If the file cannot be read.
    """
    document = _read(path, SEARCH_SCHEMA)
    try:
        columns, decision, settings = document["trace"], document["decision"], document["settings"]
        trace = pd.DataFrame({**columns, "loss": _decode(columns["loss"]).astype(np.float64)})
        return trace, dict(_read_out(decision)), dict(settings)
    except KeyError as error:
        raise ValueError(f"`path` must name an undamaged result, got {str(path)!r} without {error}.") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"`path` must name an undamaged result, got {str(path)!r}: {error}") from error


def schema_of(path: str | os.PathLike[str]) -> str:
    """Return which kind of result a file holds: ``SCHEMA`` or ``SEARCH_SCHEMA``.

    Raises:
        ValueError: If the file is damaged, another document, or of a newer version; the message says which.
        OSError: If the file cannot be read.
    """
    return str(_read(path, SCHEMA, SEARCH_SCHEMA)["schema"])


def _read(path: str | os.PathLike[str], *schemas: str) -> dict[str, Any]:
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # also what cannot be decoded
        raise ValueError(f"`path` must name a complete JSON file, got {str(path)!r}: {error}.") from error
    if not isinstance(document, dict) or document.get("schema") not in schemas:
        schema = " or ".join(map(repr, schemas))
        raise ValueError(f"`path` must name a file with the schema {schema}, got {str(path)!r}.")
    version = document.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise ValueError(invalid("path", f"name a file of schema version {VERSION} or older", f"version {version}"))
    return document


def _encode(array: NDArray[Any]) -> Any:
    if array.dtype == np.bool_:
        return array.tolist() if array.any() else None
    values = array.astype(object)
    values[np.isnan(array)] = None
    values[np.isposinf(array)] = "inf"
    values[np.isneginf(array)] = "-inf"
    return values.tolist()


def _decode(value: Any) -> NDArray[Any]:
    values = np.array(value, dtype=object)
    values[pd.isna(values)] = math.nan
    values[np.equal(values, "inf")] = math.inf
    values[np.equal(values, "-inf")] = -math.inf
    return values


def _spelled_out(value: Any) -> Any:
    """Return a JSON value in which the floats that JSON lacks are strings; ``None`` stays what it is."""
    if isinstance(value, dict):
        return {key: _spelled_out(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_spelled_out(item) for item in value]
    return repr(float(value)) if isinstance(value, float) and not math.isfinite(value) else value


def _read_out(value: Any) -> Any:
    """Return what :func:`_spelled_out` made strings of."""
    if isinstance(value, dict):
        return {key: _read_out(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_read_out(item) for item in value]
    return float(value) if value in ("inf", "-inf", "nan") else value


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")

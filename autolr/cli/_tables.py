"""Tables: a file of columns as a frame, and a frame as the numbers that a network takes."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from pandas.api import types

from autolr._typing import FloatArray, IntArray
from autolr._validation import describe, either, invalid

Task: TypeAlias = Literal["regression", "classification"]

MOST_LEVELS = 50  # of a text column, each of which becomes a column
MOST_CLASSES = 20  # of a target of whole numbers, beyond which they are taken for a quantity
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}([ T].*)?|\d{1,2}[./-]\d{1,2}[./-]\d{2,4}( .*)?|\d{4}/\d{1,2}/\d{1,2}( .*)?")


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A table as numbers.

    Attributes:
        X: The inputs, shape (N, D).
        Y: The targets: float and standardized, shape (N, 1); or the numbers of classes, shape (N,).
        num_classes: Of a classification; ``None`` for a regression.
        notes: Sentences on what was made of the columns.
    """

    X: FloatArray
    Y: FloatArray | IntArray
    num_classes: int | None
    notes: tuple[str, ...]


def read_table(path: str) -> pd.DataFrame:
    """Read a table; no code in the file is run.

    Args:
        path: A ``.csv`` (commas, UTF-8, a header), ``.parquet`` or ``.npz`` file. Each array of shape (N,) of the last
            is a column, each of shape (N, D) is D of them: ``X[0]``, ``X[1]``, ...

    Raises:
        ValueError: If the file is of another kind, or cannot be understood.
        OSError: If it is not there.
        ImportError: If it is a Parquet file, and pyarrow is not installed.
    """
    readers = {".csv": _read_csv, ".parquet": _read_parquet, ".npz": _read_npz}
    file = Path(path)
    if file.suffix.lower() not in readers:
        raise ValueError(invalid("TABLE", f"end in {either(list(readers))}", path))
    if not file.is_file():
        raise FileNotFoundError(invalid("TABLE", "name a file that exists", path))
    try:
        return readers[file.suffix.lower()](file)
    except ImportError as error:
        raise ImportError(f"{path!r} needs pyarrow to be read: pip install pyarrow, or write it as .csv.") from error
    except (ValueError, EOFError, LookupError) as error:  # also of what cannot be decoded
        raise ValueError(f"`TABLE` must be readable, got {path!r}: {error}") from error


def _read_csv(file: Path) -> pd.DataFrame:
    with file.open(encoding="utf-8-sig", newline="") as lines:  # pandas would also follow an address of the web
        table = pd.read_csv(lines, low_memory=False)
    if not isinstance(table.index, pd.RangeIndex):
        raise ValueError("its rows have more cells than its header")
    if table.shape[1] == 1 and re.search("[;\t]", str(table.columns[0])):
        raise ValueError("its cells must be separated by commas")
    return table


def _read_parquet(file: Path) -> pd.DataFrame:
    with file.open("rb") as content:
        return pd.read_parquet(content, engine="pyarrow").reset_index(drop=True)


def _read_npz(file: Path) -> pd.DataFrame:
    columns: dict[str, np.ndarray[Any, Any]] = {}
    with np.load(file, allow_pickle=False) as arrays:
        for name in arrays.files:
            array = arrays[name]
            if array.ndim not in (1, 2):
                raise ValueError(f"its array {name!r} has the shape {array.shape}, not (N,) or (N, D)")
            wide = array.ndim == 2
            columns |= {f"{name}[{j}]": array[:, j] for j in range(array.shape[1])} if wide else {name: array}
    return pd.DataFrame(columns)


def encode(table: pd.DataFrame, target: str, *, task: Task | None = None, drop: Sequence[str] = ()) -> Encoded:
    """Make numbers of a table.

    Columns of numbers are standardized to mean 0 and variance 1. Texts, booleans and categories are encoded one-hot,
    by a column of 0 and 1 for each level. Constant columns are left out.

    The task is a classification where the target holds texts, booleans or categories, or whole numbers with at most 20
    different values, each of them twice on average; else it is a regression, whose target is standardized too.

    Args:
        table: Each row is an observation.
        target: The column that is to be predicted.
        task: What it is, where the rule does not tell.
        drop: Columns that are left out.

    Raises:
        ValueError: If a column is not there, misses cells, or holds dates, identifiers or something else that is
            neither number nor text; if the target is constant or does not fit the task; or nothing is left.

    Example:
        >>> table = pd.DataFrame({"size": [1.0, 3.0, 1.0, 3.0], "kind": ["a", "b", "b", "a"], "price": [1.5, 2, 3, 4]})
        >>> encoded = encode(table, "price")
        >>> encoded.X
        array([[-1.,  1.,  0.],
               [ 1.,  0.,  1.],
               [-1.,  0.,  1.],
               [ 1.,  1.,  0.]])
        >>> encoded.num_classes is None
        True
    """
    table = table.set_axis(table.columns.astype(str), axis=1)
    for name, column in (("--target", target), *(("--drop", column) for column in drop)):
        if column not in table:
            raise ValueError(invalid(name, f"be one of the columns {_listed(table.columns)}", column))
    if target in drop:
        raise ValueError(invalid("--drop", "be another column than the target", target))
    if len(table) < 2:
        raise ValueError(invalid("TABLE", "have at least 2 rows", len(table)))
    Y, num_classes, about = _encode_target(table[target], task)
    blocks: list[FloatArray] = []
    constant: list[str] = []
    counts = {"numbers": 0, "text": 0, "levels": 0}
    for name in table.columns.drop([target, *drop]):
        values = table[name]
        is_text = _is_text(values)
        block = _one_hot(values) if is_text else _standardized(values)
        if block is None:
            constant.append(name)
            continue
        blocks.append(block)
        counts["text" if is_text else "numbers"] += 1
        counts["levels"] += block.shape[1] if is_text else 0
    if not blocks:
        raise ValueError(invalid("TABLE", "have a column beside the target that is not constant", list(table.columns)))
    columns = "column" if counts["numbers"] == 1 else "columns"
    inputs = [f"{counts['numbers']} {columns} of numbers, standardized"] if counts["numbers"] else []
    inputs += [f"{counts['text']} of text, as {counts['levels']} of 0 and 1"] if counts["text"] else []
    notes = [f"{len(table)} rows; inputs: {', and '.join(inputs)}.", about]
    notes += [f"Left out, as they are constant: {', '.join(constant)}."] if constant else []
    return Encoded(np.concatenate(blocks, axis=1), Y, num_classes, tuple(notes))


def _encode_target(values: "pd.Series[Any]", task: Task | None) -> tuple[FloatArray | IntArray, int | None, str]:
    """Return the targets, the number of classes if there are some, and a sentence on them."""
    name = str(values.name)
    is_text = _is_text(values)
    num_levels = values.nunique()
    if num_levels == 1:
        raise ValueError(f"`--target` must not be constant, got {describe(values.iloc[0])} in every row of {name!r}.")
    if task is None:
        whole = is_text or bool((values.astype(np.float64) % 1.0 == 0.0).all())
        few = num_levels <= min(MOST_CLASSES, len(values) / 2)
        task = "classification" if is_text or (whole and few) else "regression"
    if task == "regression":
        if is_text:
            raise ValueError(f"`--target` must hold numbers for a regression, got texts in {name!r}.")
        Y = _standardized(values)
        assert Y is not None  # it is not constant
        variance = float(values.astype(np.float64).var(ddof=0))
        return Y, None, f"Target {name!r}: a regression; losses are in units of its variance, {variance:.3g}."
    if num_levels > max(2, len(values) / 2):
        raise ValueError(
            f"`--target` must hold classes that repeat, got {num_levels} different values in {len(values)} rows of"
            f" {name!r}."
        )
    codes, _ = pd.factorize(values.astype(str) if is_text else values, sort=True)
    return codes.astype(np.int64), num_levels, f"Target {name!r}: a classification of {num_levels} classes."


def _is_text(values: "pd.Series[Any]") -> bool:
    """Return whether a column holds texts, booleans or categories, and not numbers; refuse anything else."""
    name, missing = str(values.name), values.isna().to_numpy()
    if missing.any():
        where = f"{int(missing.sum())}, the first in row {int(missing.argmax()) + 1}"
        raise ValueError(f"column {name!r} must have no empty cells, got {where} (fill them, or {_dropping(name)}).")
    kind = values.dtype
    if types.is_bool_dtype(kind) or isinstance(kind, pd.CategoricalDtype):
        return True
    if types.is_numeric_dtype(kind) and not types.is_complex_dtype(kind):
        if not np.isfinite(values.astype(np.float64)).all():
            raise ValueError(f"column {name!r} must be finite, got infinite cells ({_dropping(name)}).")
        return False
    plain = types.is_string_dtype(kind) or types.is_object_dtype(kind)
    strange = [value for value in values if not plain or not isinstance(value, (str, bool))]
    if strange:
        found = type(strange[0]).__name__
        raise ValueError(f"column {name!r} must hold numbers, texts or booleans, got {found} ({_dropping(name)}).")
    if all(_DATE.fullmatch(str(value)) for value in values):
        raise ValueError(
            f"column {name!r} must not hold dates, got {values.iloc[0]!r} (make numbers of them, or {_dropping(name)})."
        )
    return True


def _standardized(values: "pd.Series[Any]") -> FloatArray | None:
    """Return a column of numbers with mean 0 and variance 1, shape (N, 1), or ``None`` where it is constant."""
    numbers: FloatArray = values.to_numpy(dtype=np.float64)
    if (numbers == numbers[0]).all():
        return None
    numbers = numbers / np.abs(numbers).max()  # whose squares are finite
    numbers = numbers - numbers.mean()
    return np.asarray(numbers / np.sqrt(np.square(numbers).mean()))[:, None]


def _one_hot(values: "pd.Series[Any]") -> FloatArray | None:
    """Return a column of 0 and 1 for each level, in their order, shape (N, L), or ``None`` where there is one only."""
    codes, levels = pd.factorize(values.astype(str), sort=True)
    if len(levels) == 1:
        return None
    name = str(values.name)
    if len(levels) > max(2, len(values) / 2):
        raise ValueError(
            f"column {name!r} must hold texts that repeat, got {len(levels)} different ones in {len(values)} rows, such"
            f" as {levels[0]!r}: is it an identifier? ({_dropping(name)})."
        )
    if len(levels) > MOST_LEVELS:
        raise ValueError(
            f"column {name!r} must have at most {MOST_LEVELS} different texts, got {len(levels)} ({_dropping(name)})."
        )
    return np.eye(len(levels))[codes]


def _dropping(name: str) -> str:
    return f"leave it out by --drop {shlex.quote(name)}"


def _listed(columns: "pd.Index[str]") -> str:
    shown = [repr(name) for name in columns[:10]]
    return ", ".join(shown) + (f" and {len(columns) - 10} more" if len(columns) > 10 else "")

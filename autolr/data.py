"""Anything that a user has as data -> batches on the device of the model."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from pandas.api import types as pandas_types
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from autolr._typing import Batch, IntArray
from autolr._validation import invalid
from autolr.batches import is_movable, map_leaves, to_device

_ARRAYS = (torch.Tensor, np.ndarray, pd.DataFrame, pd.Series)
DEFAULT_BATCH_SIZE = 32
_FORMS = "a tensor, a NumPy array or a pandas frame"
_LAYOUTS = (torch.strided, torch.sparse_coo)
_NUMBERS = "fiubc"  # the kinds of NumPy dtypes that are numbers


class ArrayRows:
    """Observations in arrays with a common first dimension; a batch is ``(x, y)``, or ``x`` where there is no Y.

    Args:
        X: The inputs, shape (N, ...): a tensor, a NumPy array or a pandas frame.
        Y: The targets, shape (N, ...), or ``None``.
        device: Where batches go.
        dtype: What NumPy and pandas floats become; their integers and bools become int64. Tensors keep their dtype.
        names: The names of X and Y in error messages.
    """

    def __init__(
        self, X: Any, Y: Any, *, device: torch.device, dtype: torch.dtype, names: tuple[str, str] = ("X", "Y")
    ) -> None:
        self._device, self._dtype = device, dtype
        self._x = _array(names[0], X)
        self._y = None if Y is None else _array(names[1], Y)
        if self._y is not None and len(self._y) != len(self._x):
            raise ValueError(invalid(names[1], f"have as many rows as `{names[0]}` ({len(self._x)})", len(self._y)))

    def __len__(self) -> int:
        """Return the number of observations N."""
        return len(self._x)

    @property
    def arrays(self) -> list[torch.Tensor | np.ndarray[Any, Any]]:
        """The arrays, those of numbers of a frame in its place."""
        return [self._x] if self._y is None else [self._x, self._y]

    def batch(self, indices: IntArray) -> Batch:
        """Return the observations at ``indices`` on the device."""
        x = self._take(self._x, indices)
        return x if self._y is None else (x, self._take(self._y, indices))

    def _take(self, values: torch.Tensor | np.ndarray[Any, Any], indices: IntArray) -> torch.Tensor:
        if isinstance(values, torch.Tensor):
            where = torch.from_numpy(indices).to(values.device)
            return values.index_select(0, where).to(self._device)
        return _tensor(values[indices], self._dtype).to(self._device)


class DatasetRows:
    """The observations of a map-style ``Dataset``, put together by torch's default collation.

    Args:
        dataset: The dataset, with a length.
        device: Where batches go.
        dtype: What floats of Python and NumPy become.
    """

    def __init__(self, dataset: Dataset[Any], *, device: torch.device, dtype: torch.dtype) -> None:
        self._dataset, self._device, self._dtype = dataset, device, dtype

    def __len__(self) -> int:
        """Return the number of observations N."""
        return len(self._dataset)  # type: ignore[arg-type]

    def batch(self, indices: IntArray) -> Batch:
        """Return the observations at ``indices`` on the device."""
        where = indices.tolist()
        if hasattr(self._dataset, "__getitems__"):
            observations = self._dataset.__getitems__(where)
        else:
            observations = [self._dataset[index] for index in where]
        return to_device(_collate(self._dtype, observations), self._device)


class BatchStream:
    """Batches as a loader or an iterable yields them, read from its start; NumPy and pandas numbers become tensors.

    A ``DataLoader`` is read through a copy of its own, so that an epoch that is running in the user's training goes on
    undisturbed, also with persistent workers. Batches are copies too, since an iterable may fill one buffer again and
    again, and a model may write into its input. They stay where the user has them, until :meth:`move`.

    Args:
        batches: A ``DataLoader`` or any iterable of batches; its length may be unknown.
        device: Where batches go.
        dtype: What NumPy and pandas floats become.

    Attributes:
        batch_size: The number of observations in a batch, where a loader says it; its last one may have fewer.
        num_drawn: How many batches were drawn so far.
        loses_batches: Whether what was drawn is gone: from an iterator, which nothing can put back.
    """

    def __init__(self, batches: Iterable[Batch], *, device: torch.device, dtype: torch.dtype) -> None:
        self._batches, self._device, self._dtype = batches, device, dtype
        self.batch_size: int | None = batches.batch_size if isinstance(batches, DataLoader) else None
        self.num_drawn = 0
        self.loses_batches = isinstance(batches.dataset if isinstance(batches, DataLoader) else batches, Iterator)

    def __iter__(self) -> Iterator[Batch]:
        """Return an iterator over copies of the batches."""
        return (self._drawn(batch) for batch in from_start(self._batches))

    def move(self, batch: Batch) -> Batch:
        """Return the batch on the device."""
        return to_device(batch, self._device)

    def _drawn(self, batch: Batch) -> Batch:
        self.num_drawn += 1
        return map_leaves(self._copied, batch)

    def _copied(self, leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return leaf.detach().clone()
        if isinstance(leaf, (pd.DataFrame, pd.Series)) and _column_without_numbers(leaf) is None:
            leaf = _frame_values(leaf)
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind in _NUMBERS:
            return _tensor(leaf, self._dtype)
        return copy.deepcopy(leaf) if is_movable(leaf) else leaf


def from_start(batches: Iterable[Batch]) -> Iterable[Batch]:
    """Return batches to be read from their start: a ``DataLoader`` as a copy, whose iterators are its own."""
    if not isinstance(batches, DataLoader):
        return batches
    loader = copy.copy(batches)
    loader._iterator = None
    return loader


Rows: TypeAlias = ArrayRows | DatasetRows
Data: TypeAlias = Rows | BatchStream


def drawn_batches(*data: Data | None) -> dict[str, int | None]:
    """Return how many batches were drawn from the first of some data, and how many of all are lost; for settings.

    Example:
        >>> stream = BatchStream(iter([torch.ones(1), torch.ones(1)]), device=torch.device("cpu"), dtype=torch.float32)
        >>> batch = next(iter(stream))
        >>> drawn_batches(stream)
        {'num_batches_drawn': 1, 'num_batches_lost': 1}
    """
    streams = [stream for stream in data if isinstance(stream, BatchStream)]
    return {
        "num_batches_drawn": data[0].num_drawn if isinstance(data[0], BatchStream) else None,
        "num_batches_lost": sum(stream.num_drawn for stream in streams if stream.loses_batches),
    }


def read_data(
    X: Any,
    Y: Any = None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int | None = None,
    names: tuple[str, str] = ("X", "Y"),
) -> Data:
    """Return a reader of whatever data the user has.

    Args:
        X: Tensors, NumPy arrays or pandas frames; or, without Y, a ``Dataset``, a ``DataLoader`` or an iterable of
            batches. An ``IterableDataset`` is put into batches of ``batch_size``.
        Y: The targets, or ``None``.
        device: Where batches go.
        dtype: What NumPy and pandas floats become.
        batch_size: The batch size given by the user; loaders and iterables refuse it, theirs counts.
        names: The names of X and Y in error messages.

    Raises:
        TypeError: If the data has none of these forms.
        ValueError: If X and Y differ in length, the data is empty, or ``batch_size`` is given where it has no use.
    """
    name, name_of_targets = names
    is_dataset = isinstance(X, Dataset) or hasattr(X, "__getitems__")  # torch's protocol; some datasets are no Dataset
    if isinstance(X, _ARRAYS):
        return ArrayRows(X, Y, device=device, dtype=dtype, names=names)
    if Y is not None:
        if is_dataset or isinstance(X, DataLoader):
            raise TypeError(invalid(name_of_targets, f"be None where `{name}` is a {type(X).__name__}", Y))
        raise TypeError(invalid(name, f"be {_FORMS} where `{name_of_targets}` is given", X))
    if isinstance(X, IterableDataset):
        X = DataLoader(X, batch_size=batch_size or DEFAULT_BATCH_SIZE, collate_fn=partial(_collate, dtype))
    elif is_dataset:
        if not hasattr(X, "__len__"):
            raise TypeError(invalid(name, "have a length (or be an IterableDataset)", X))
        if len(X) == 0:
            raise ValueError(invalid(name, "hold at least one observation", len(X)))
        return DatasetRows(X, device=device, dtype=dtype)
    elif batch_size is not None:
        raise ValueError(invalid("batch_size", f"be left out where `{name}` brings its own batches", batch_size))
    if isinstance(X, (str, bytes, Mapping)) or not isinstance(X, Iterable):
        raise TypeError(invalid(name, f"be {_FORMS}, a Dataset, a DataLoader or an iterable of batches", X))
    if isinstance(X, tuple) and X and all(isinstance(part, _ARRAYS) for part in X):
        kinds = ", ".join(type(part).__name__ for part in X)
        remedy = "pass them as two arguments, X and Y" if name == "X" else "pass a pair (x, y)"
        raise TypeError(f"`{name}` must not be a tuple of arrays, got ({kinds}): {remedy}.")
    return BatchStream(X, device=device, dtype=dtype)


def read_whole(given: Any, *, name: str, **options: Any) -> Data:
    """Return a reader of data in one argument: a pair of arrays ``(X, Y)``, or one thing; see :func:`read_data`."""
    pair = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    return read_data(*pair, names=(name, f"{name}[1]"), **options)


def read_batch(X: Any, Y: Any = None, *, device: torch.device, dtype: torch.dtype) -> Batch:
    """Return one batch on the device: ``(X, Y)``, or ``X`` where there is no Y, as batches of a loader are read.

    Args:
        X: The inputs, shape (m, ...): a tensor, a NumPy array or a pandas frame; or, without Y, a batch of any form.
        Y: The targets, shape (m, ...), or ``None``.
        device: Where the batch goes.
        dtype: What NumPy and pandas floats become.

    Raises:
        TypeError: If X is data of many batches, or not of numbers.
        ValueError: If X and Y differ in length, or have no row.
    """
    if isinstance(X, _ARRAYS):
        rows = ArrayRows(X, Y, device=device, dtype=dtype)
        return rows.batch(np.arange(len(rows), dtype=np.int64))
    if isinstance(X, (Dataset, DataLoader, str, bytes)) or X is None or isinstance(X, Iterator):
        raise TypeError(invalid("X", f"be {_FORMS}, or one batch", X))
    (batch,) = BatchStream([X if Y is None else (X, Y)], device=device, dtype=dtype)
    return to_device(batch, device)


def _collate(dtype: torch.dtype, observations: list[Any]) -> Batch:
    """Put observations together as torch does by default, but for floats of Python and NumPy, which get ``dtype``."""

    def converted(leaf: Any) -> Any:
        if isinstance(leaf, (float, np.floating)):
            return torch.tensor(float(leaf), dtype=dtype)
        return _tensor(leaf, dtype) if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f" else leaf

    return default_collate([map_leaves(converted, observation) for observation in observations])


def _tensor(values: np.ndarray[Any, Any], dtype: torch.dtype) -> torch.Tensor:
    """Return a copy of numbers as a tensor: floats in ``dtype``, complex ones as they are, others int64."""
    kind = values.dtype.kind
    if kind not in "fc":
        return torch.from_numpy(np.array(values, dtype=np.int64))
    widest = np.dtype(np.float64 if kind == "f" else np.complex128)  # of what torch knows
    native = widest if values.dtype.itemsize > widest.itemsize else values.dtype.newbyteorder("=")
    tensor = torch.from_numpy(np.array(values, dtype=native))
    return tensor.to(dtype) if kind == "f" else tensor


def _array(name: str, values: Any) -> torch.Tensor | np.ndarray[Any, Any]:
    """Return the values as a tensor, or as a NumPy array of numbers, with at least one row."""
    if isinstance(values, (pd.DataFrame, pd.Series)):
        refused = _column_without_numbers(values)
        if refused is not None:
            column, dtype = refused
            if isinstance(values, pd.Series):
                raise TypeError(invalid(name, "hold real numbers", f"dtype {dtype}"))
            raise TypeError(invalid(name, "hold real numbers in every column", f"{column} of dtype {dtype}"))
        values = _frame_values(values)
    if not isinstance(values, (torch.Tensor, np.ndarray)):
        raise TypeError(invalid(name, f"be {_FORMS}", values))
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise ValueError(invalid(name, "have no masked values", f"{int(np.ma.getmaskarray(values).sum())} of them"))
    if isinstance(values, np.ndarray) and values.dtype.kind not in _NUMBERS:
        raise TypeError(invalid(name, "hold numbers", f"dtype {values.dtype}"))
    if isinstance(values, torch.Tensor) and (values.is_nested or values.layout not in _LAYOUTS):
        raise TypeError(invalid(name, "be dense or sparse COO, so that rows can be taken", values.layout))
    if values.ndim == 0 or len(values) == 0:
        raise ValueError(invalid(name, "have at least one row", f"shape {tuple(values.shape)}"))
    return values.detach() if isinstance(values, torch.Tensor) else np.asarray(values)


def _column_without_numbers(frame: "pd.DataFrame | pd.Series[Any]") -> tuple[Any, Any] | None:
    """Return the name and the dtype of the first column that does not hold real numbers or bools, if there is one."""
    columns = frame.to_frame() if isinstance(frame, pd.Series) else frame
    for column, dtype in columns.dtypes.items():
        if not pandas_types.is_numeric_dtype(dtype) or pandas_types.is_complex_dtype(dtype):  # bool counts as numeric
            return column, dtype
    return None


def _frame_values(frame: "pd.DataFrame | pd.Series[Any]") -> np.ndarray[Any, Any]:
    columns = frame.to_frame() if isinstance(frame, pd.Series) else frame
    integral = all(
        pandas_types.is_integer_dtype(dtype) or pandas_types.is_bool_dtype(dtype) for dtype in columns.dtypes
    )
    if integral and not columns.isna().any(axis=None):
        return frame.to_numpy(dtype=np.int64)
    return frame.to_numpy(dtype=np.float64, na_value=np.nan)

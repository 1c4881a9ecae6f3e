"""Aliases for arrays, batches and loss functions; imports nothing at run time but NumPy."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]
BoolArray: TypeAlias = NDArray[np.bool_]

Batch: TypeAlias = Any
LossFunction: TypeAlias = Callable[[Any, Any], "torch.Tensor"]
ComputeLoss: TypeAlias = Callable[["torch.nn.Module", Batch], "torch.Tensor"]
Autocast: TypeAlias = Callable[[], AbstractContextManager[Any]]
Clip: TypeAlias = Callable[[Sequence["torch.Tensor"]], Any]
Rng: TypeAlias = int | np.random.Generator | None
Horizon: TypeAlias = int | Sequence[int] | NDArray[np.integer[Any]]
Settings: TypeAlias = Mapping[str, Any]

Method: TypeAlias = Literal["mean", "median", "variance_penalized", "ucb", "one_se", "variance", "max"]
IntervalMethod: TypeAlias = Literal["bootstrap-t", "t", "percentile", "bca"]
BestSetMethod: TypeAlias = Literal["studentized", "mvt"]
Sampling: TypeAlias = Literal["independent", "partition"]
EngineName: TypeAlias = Literal["auto", "step", "line", "batched"]

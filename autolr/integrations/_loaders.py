"""The loader of a framework's training, to be read by probes beside it: by every process as a whole."""

import copy
from functools import partial, singledispatch
from typing import Any

from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

from autolr._validation import invalid
from autolr.ranks import are_several

_SHARED_OUT = "be shared out by a sampler of torch or of the framework (or be tuned in one process)"
_PLACES = frozenset({"rank", "num_replicas", "world_size", "process_index"})  # a process's, as samplers call them


def own_loader(data: Any, *, name: str) -> Any:
    """Return a loader to read in place of another one, which stays where it is in its epochs; other data as it is.

    It reads the same datasets in the orders that the samplers give, by samplers of its own, as some count their epochs.
    Random generators are those of the data: whoever reads it puts them back.

    Of several processes, each of which has a loader of its share, all read the same: batches of one process's size,
    one after the other, of all of the data. Where samplers shuffle, they draw from the global random state, which
    probes move to the same one in all processes; those with a seed of their own keep their order.

    Args:
        data: A loader, or other data.
        name: What it is called in messages.

    Raises:
        ValueError: If there are several processes, and what all of the data is cannot be seen.
    """
    if not isinstance(data, DataLoader):
        return data
    own = copy.copy(data)
    attributes = vars(own)  # some cannot be set as attributes
    attributes.update({which: _own_sampler(attributes[which], name) for which in ("sampler", "batch_sampler")})
    attributes["_iterator"] = None
    if are_several():
        attributes |= {"dataset": whole(data.dataset, name), "generator": None}
        begin = data.worker_init_fn
        if isinstance(begin, partial) and "rank" in begin.keywords:  # of Lightning and Transformers
            own.worker_init_fn = partial(begin, rank=0)
    return own


def _own_sampler(sampler: Any, name: str) -> Any:
    """Return a copy of a sampler, and of the samplers within it."""
    if not isinstance(sampler, Sampler):
        return sampler
    own = copy.copy(whole(sampler, name) if are_several() else sampler)
    vars(own).update({which: _own_sampler(value, name) for which, value in vars(own).items()})
    if are_several() and "generator" in vars(own):
        vars(own)["generator"] = None
    return own


@singledispatch
def whole(part: Any, name: str) -> Any:
    """Return the dataset or the sampler of which each of several processes has a part; what has none, as it is.

    A framework's file registers the types of the framework.

    Raises:
        ValueError: If it is one of unknown type that takes a part by itself.
    """
    if isinstance(part, Sampler) and _PLACES & vars(part).keys():
        raise ValueError(invalid(name, _SHARED_OUT, type(part).__name__))
    return part


@whole.register
def _(part: DistributedSampler, name: str) -> Any:  # type: ignore[type-arg]  # which are not dispatched on
    if type(part) is not DistributedSampler:  # whatever another one does
        raise ValueError(invalid(name, _SHARED_OUT, type(part).__name__))
    dataset: Any = part.dataset
    return RandomSampler(dataset) if part.shuffle else SequentialSampler(dataset)


@whole.register
def _(part: IterableDataset, name: str) -> Any:  # type: ignore[type-arg]
    by_index = "hold a dataset with a length where there are several processes (or be tuned in one)"
    raise ValueError(invalid(name, by_index, type(part).__name__))

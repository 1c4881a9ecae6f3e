"""The loader of a process's share is read as a whole, and a running epoch is left alone."""

from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, Sampler, WeightedRandomSampler

from autolr.integrations import _loaders
from autolr.integrations._loaders import own_loader

DATA = torch.arange(10)


@pytest.fixture
def _of_several(monkeypatch):
    monkeypatch.setattr(_loaders, "are_several", lambda: True)


class Ranked(Sampler):
    """A sampler that takes a share in a way of its own."""

    def __init__(self):
        self.rank, self.num_replicas = 1, 2

    def __iter__(self):
        return iter(range(1, len(DATA), 2))


class OfOthers(DistributedSampler):
    """One of torch's, with an order of its own."""


class Stream(IterableDataset):
    """Observations without numbers."""

    def __iter__(self):
        return iter(DATA)


def shared(sampler=DistributedSampler, **options):
    return sampler(DATA, num_replicas=2, rank=1, **options)


def read(loader):
    return [batch.tolist() for batch in own_loader(loader, name="train_dataloader")]


@pytest.mark.usefixtures("_of_several")
def test_batches_of_all_of_the_data_have_the_size_of_one_process():
    loader = DataLoader(DATA, batch_size=4, sampler=shared(shuffle=False))
    assert read(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(list(loader)) == 2


@pytest.mark.usefixtures("_of_several")
@pytest.mark.parametrize("sampler", [shared(), WeightedRandomSampler([1.0] * 10, 10, generator=torch.Generator())])
def test_an_order_comes_from_the_global_random_state(sampler):
    loader = DataLoader(DATA, batch_size=4, sampler=sampler, generator=torch.Generator())
    orders = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        orders.append(read(loader))
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.usefixtures("_of_several")
def test_workers_are_seeded_as_those_of_the_first_rank():
    begin = partial(print, rank=1)
    assert own_loader(DataLoader(DATA, worker_init_fn=begin), name="data").worker_init_fn.keywords == {"rank": 0}
    assert begin.keywords == {"rank": 1}


@pytest.mark.usefixtures("_of_several")
@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(DATA, sampler=Ranked()),
        DataLoader(DATA, sampler=shared(OfOthers)),
        DataLoader(Stream()),
    ],
)
def test_what_takes_a_share_in_an_unknown_way_is_refused(loader):
    with pytest.raises(ValueError, match=r"`train_dataloader` must .*\(or be tuned in one.*\), got '(Ranked|Of|Str)"):
        read(loader)


def test_in_one_process_a_share_is_what_the_user_has_asked_for():
    assert read(DataLoader(DATA, batch_size=4, sampler=shared(shuffle=False))) == [[1, 3, 5, 7], [9]]


def test_other_data_is_returned_as_it_is():
    assert own_loader(DATA, name="data") is DATA

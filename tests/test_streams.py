"""The batches of a search: which are trained on, in which order, and which are kept apart."""

import math

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from autolr.batches import num_observations
from autolr.data import read_data
from autolr.probing.random_state import ForkedRandomness
from autolr.streams import Streams, all_batches

CPU = torch.device("cpu")


class Counted(Dataset):
    """Observations that count how often they are taken."""

    def __init__(self, num):
        self.num, self.taken = num, 0

    def __len__(self):
        return self.num

    def __getitem__(self, index):
        self.taken += 1
        return torch.tensor([float(index)])


def streams(data, *, batch_size=None, val_data=None, entropy=0, hold_out=True, **others):
    read, judged = (
        None if given is None else read_data(given, device=CPU, dtype=torch.float32) for given in (data, val_data)
    )
    randomness = ForkedRandomness(())
    options = {"batch_size": batch_size, "val_data": judged, "entropy": entropy, "hold_out": hold_out}
    return Streams(read, **options, **others, randomness=randomness, device=CPU)


def batches(num, size):
    return [torch.arange(float(size)) + i * size for i in range(num)]


def numbers(batch):
    return tuple(batch.ravel().int().tolist())


@pytest.mark.parametrize("make", [lambda: torch.arange(100.0), lambda: Counted(100), lambda: batches(20, 5)])
def test_a_batch_is_the_same_whenever_it_is_asked_for(make):
    source = streams(make(), batch_size=None)
    asked = [(stream, step) for stream in (0, 1, 2) for step in (0, 3, 40, 3)]
    first = {key: numbers(source.batch(*key)) for key in asked}
    assert {key: numbers(source.batch(*key)) for key in reversed(asked)} == first


def test_an_observation_of_a_dataset_is_taken_once_a_stream_and_batches_of_the_last_stream_are_dropped():
    data = Counted(100)
    source = streams(data, batch_size=10)
    before = data.taken
    for _ in range(3):
        for step in range(4):
            source.batch(0, step)
    assert data.taken - before == 40
    source.batch(1, 0)
    assert len(source._source._drawn[1]) == 1


def test_an_epoch_is_put_in_order_once(monkeypatch):
    seeds = []
    make = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: seeds.append(seed) or make(seed))
    source = streams(torch.arange(100.0), batch_size=10)
    seeds.clear()
    epoch = [number for step in range(8) for number in numbers(source.batch(0, step))]
    assert len(set(epoch)) == 80
    assert len(seeds) == 1
    source.batch(0, 8)
    assert len(seeds) == 2


def test_further_streams_of_a_list_depend_on_the_entropy():
    orders = [
        [numbers(streams(batches(40, 5), entropy=entropy).batch(stream, step)) for step in range(20)]
        for entropy in (0, 1)
        for stream in (0, 1)
    ]
    assert orders[0] == orders[2]  # the first one goes by the list
    assert orders[1] != orders[3]


@pytest.mark.parametrize(
    ("num", "size", "sizes"),
    [
        (10_000, 32, [32] * 4),
        (10_000, 100, [100] * 4),
        (10_000, 30, [30] * 5),
        (600, 32, [32] * 3),  # of 120, which are a fifth
        (100, 32, [20]),
        (40, 32, [8]),
    ],
)
def test_of_observations_whole_batches_are_kept_apart_or_one_short_one(num, size, sizes):
    source = streams(torch.arange(float(num)), batch_size=size)
    assert [len(batch) for batch in source.held_out] == sizes
    trained = {number for step in range(num // size) for number in numbers(source.batch(0, step))}
    assert trained.isdisjoint(number for batch in source.held_out for number in numbers(batch))


@pytest.mark.parametrize(("num", "sizes"), [(1000, [32] * 4), (100, [32] * 3), (20, [20])])
def test_so_are_those_of_validation_data(num, sizes):
    source = streams(torch.arange(1000.0), batch_size=32, val_data=torch.arange(float(num)))
    assert [len(batch) for batch in source.held_out] == sizes


@pytest.mark.parametrize(
    ("num", "size", "apart"),
    [(100, 64, 4), (100, 20, 7), (100, 8, 16), (100, 1, 16), (40, 8, 10), (8, 8, 2), (3, 8, 0), (16, 100, 4)],
)
def test_of_small_batches_more_are_kept_apart_but_at_most_16_and_a_quarter(num, size, apart):
    for data in (batches(num, size), [{"x": batch} for batch in batches(num, size)]):
        assert len(streams(data).held_out) == apart
    assert len(streams(batches(9, 9), val_data=batches(num, size)).held_out) == min(
        num, max(4, min(16, math.ceil(128 / size)))
    )


def test_batches_of_unknown_size_are_four():
    data = [{"number": i} for i in range(100)]
    assert len(streams(data).held_out) == 4
    assert len(streams(data, val_data=data).held_out) == 4


def test_no_batch_is_an_error():
    with pytest.raises(ValueError, match=r"`data` must yield at least one batch, got none\."):
        streams([])
    with pytest.raises(ValueError, match=r"`val_data` must yield at least one batch, got none\."):
        streams(batches(9, 9), val_data=[])


@pytest.mark.parametrize("make", [lambda: torch.arange(100.0), lambda: Counted(100), lambda: batches(20, 5)])
def test_an_epoch_without_held_out_batches_has_every_observation_once(make):
    source = streams(make(), batch_size=5 if not isinstance(make(), list) else None, hold_out=False)
    assert source.held_out == []
    assert source.num_batches() == 20
    for stream in (0, 2):
        for epoch in (0, 1):
            seen = [number for step in range(20) for number in numbers(source.batch(stream, 20 * epoch + step))]
            assert sorted(seen) == list(range(100))


@pytest.mark.parametrize(("data", "sizes"), [(torch.arange(10.0), [4, 4, 2]), (batches(2, 3), [3, 3])])
def test_all_batches_are_the_whole_data_in_its_order(data, sizes):
    read = read_data(data, device=CPU, dtype=torch.float32)
    found = list(all_batches(read, 4))
    assert [num_observations(batch) for batch in found] == sizes
    assert torch.equal(torch.cat(found), torch.arange(float(sum(sizes))))


def test_batches_of_a_dataset_that_are_not_kept_are_drawn_again_from_the_same_random_state():
    class Noisy(Counted):
        def __getitem__(self, index):
            return super().__getitem__(index) + torch.rand(1)

    dataset = Noisy(12)
    made = streams(dataset, batch_size=4, remember=False)
    first, other, again = (made.batch(0, step) for step in (0, 1, 0))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)

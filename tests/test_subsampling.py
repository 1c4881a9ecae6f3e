"""Which observations are in each subsample is a function of the randomness and the row's number alone."""

import itertools
import re

import numpy as np
import pytest
import torch
from scipy import stats

from autolr.data import read_data
from autolr.subsampling import EVALUATION, ROW, WARMUP, DrawnSubsamples, StreamedSubsamples, entropy_of, seed_of


def drawn(num_observations, *, batch_size=None, sampling="independent", num_parts=2, entropy=0, **options):
    rows = read_data(np.arange(num_observations), device=torch.device("cpu"), dtype=torch.float32)
    return DrawnSubsamples(
        rows, batch_size=batch_size, sampling=sampling, num_parts=num_parts, entropy=entropy, **options
    )


def streamed(batches, *, num_parts=2, **options):
    stream = read_data(batches, device=torch.device("cpu"), dtype=torch.float32)
    return StreamedSubsamples(stream, num_parts=num_parts, **options)


def lists(batches):
    return None if batches is None else [batch.tolist() for batch in batches]


@pytest.mark.parametrize("sampling", ["independent", "partition"])
def test_a_row_depends_on_the_randomness_and_its_number_only(sampling):
    rows = [lists(drawn(200, batch_size=8, sampling=sampling).draw(index)) for index in range(12)]
    subsamples = drawn(200, batch_size=8, sampling=sampling)
    subsamples.draw_warmup(0)
    for index in (7, 0, 11, 7, 3):
        assert lists(subsamples.draw(index)) == rows[index]
    assert len({str(row) for row in rows}) == 12
    assert lists(drawn(200, batch_size=8, sampling=sampling, entropy=1).draw(0)) != rows[0]


@pytest.mark.parametrize("num_parts", [1, 2, 3])
def test_the_parts_of_a_row_are_disjoint_and_without_repeats(num_parts):
    subsamples = drawn(2 * 5 * num_parts, batch_size=5, num_parts=num_parts)
    for index in range(20):
        parts = lists(subsamples.draw(index))
        assert [len(part) for part in parts] == [5] * num_parts
        assert len(set(itertools.chain(*parts))) == 5 * num_parts


@pytest.mark.parametrize(("num_parts", "num_rows"), [(1, 14), (2, 7)])
def test_a_partition_uses_each_observation_once_and_ends(num_parts, num_rows):
    subsamples = drawn(103, batch_size=7, sampling="partition", num_parts=num_parts)
    seen = [value for index in range(num_rows) for part in subsamples.draw(index) for value in part.tolist()]
    assert len(seen) == len(set(seen)) == num_rows * num_parts * 7
    assert sorted(seen) != list(range(len(seen)))
    assert subsamples.draw(num_rows) is None
    assert subsamples.draw(num_rows + 100) is None
    assert len(subsamples.draw_warmup(0)) == 7


def test_the_rows_of_training_and_evaluation_are_drawn_apart():
    for sampling in ("independent", "partition"):
        train, other = (drawn(100, batch_size=9, sampling=sampling, purpose=purpose) for purpose in (ROW, EVALUATION))
        assert lists(train.draw(0)) != lists(other.draw(0))


@pytest.mark.parametrize(("num_rows", "size"), [(100, 5), (20, 5), (10, 10), (3, 32)])
def test_the_pieces_of_a_partition_are_small_enough_for_the_rows_asked_for_or_twenty(num_rows, size):
    assert drawn(200, sampling="partition", num_parts=2, num_rows=num_rows).batch_size == size


@pytest.mark.parametrize(
    ("num_observations", "sampling", "num_parts", "size"),
    [
        (2, "independent", 2, 1),
        (3, "independent", 2, 1),
        (63, "independent", 2, 31),
        (64, "independent", 2, 32),
        (10_000, "independent", 1, 32),
        (4, "partition", 2, 1),
        (127, "partition", 2, 31),
        (127, "partition", 1, 32),
    ],
)
def test_the_default_size_shrinks_where_there_are_few_observations(num_observations, sampling, num_parts, size):
    subsamples = drawn(num_observations, sampling=sampling, num_parts=num_parts)
    assert subsamples.batch_size == size
    assert lists(subsamples.draw(1)) is not None


@pytest.mark.parametrize(
    ("num_observations", "options", "text"),
    [
        (1, {}, "`X` must have at least 2 observations, got 1."),
        (3, {"sampling": "partition"}, "`X` must have at least 4 observations, got 3."),
        (1, {"name": "evaluation"}, "`evaluation` must have at least 2 observations, got 1."),
        (
            63,
            {"batch_size": 32},
            "`batch_size` must be at most 31, so that 63 observations give two disjoint subsamples, got 32.",
        ),
        (
            127,
            {"batch_size": 32, "sampling": "partition"},
            "`batch_size` must be at most 31, so that 127 observations give two rows of 2 disjoint subsamples, got 32.",
        ),
    ],
)
def test_too_few_observations_are_refused_with_the_number_that_would_do(num_observations, options, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        drawn(num_observations, **options)


def further(subsamples, index, num_steps):
    return [batch.tolist() for _, batch in zip(range(1, num_steps), subsamples.draw_further(index), strict=False)]


@pytest.mark.parametrize("num_parts", [1, 2])
@pytest.mark.parametrize("num_observations", [200, 23, 8])
def test_further_steps_go_through_shuffled_epochs_of_what_the_evaluation_does_not_have(num_observations, num_parts):
    subsamples = drawn(num_observations, batch_size=4, num_parts=num_parts)
    for index in range(5):
        first, *evaluation = lists(subsamples.draw(index))
        steps = [first, *further(subsamples, index, 60)]
        apart = set(itertools.chain(*evaluation))
        pool = set(range(num_observations)) - apart
        per_epoch = len(pool) // 4
        epochs = [list(itertools.chain(*steps[i : i + per_epoch])) for i in range(0, len(steps), per_epoch)]
        assert all(len(set(epoch)) == len(epoch) and set(epoch) <= pool for epoch in epochs)
        assert len(set(map(str, epochs))) > 1
        assert set(itertools.chain(*epochs)) == pool


def test_the_first_subsamples_of_a_row_do_not_depend_on_how_many_steps_follow():
    few, many = (drawn(40, batch_size=4, num_steps=num_steps) for num_steps in (2, 30))
    assert lists(few.draw(3)) == lists(many.draw(3)) == lists(drawn(40, batch_size=4).draw(3))
    assert further(few, 3, 2) == further(many, 3, 30)[:1]


@pytest.mark.parametrize(("num_parts", "num_rows"), [(1, 4), (2, 3)])
def test_all_subsamples_of_a_partition_are_disjoint_with_further_steps_too(num_parts, num_rows):
    subsamples = drawn(86, batch_size=5, sampling="partition", num_parts=num_parts, num_steps=4)
    seen = [
        value
        for index in range(num_rows)
        for part in (*lists(subsamples.draw(index)), *further(subsamples, index, 9))
        for value in part
    ]
    assert len(seen) == len(set(seen)) == num_rows * (num_parts + 3) * 5
    assert subsamples.draw(num_rows) is None


def test_a_row_of_a_stream_takes_the_batches_of_its_steps_and_then_that_of_its_losses():
    subsamples = streamed(numbered(9), num_steps=3)
    assert [lists(subsamples.draw(index)) for index in range(3)] == [[[0], [3]], [[4], [7]], None]
    assert further(subsamples, 0, 9) == [[1], [2]]
    assert further(subsamples, 1, 9) == further(subsamples, 1, 9) == [[5], [6]]


@pytest.mark.statistical
@pytest.mark.parametrize(("sampling", "num_entropies", "num_rows"), [("independent", 1, 3000), ("partition", 1500, 2)])
def test_each_observation_is_equally_likely_in_each_part(sampling, num_entropies, num_rows):
    counts = np.zeros((2, 20))
    for entropy in range(num_entropies):
        subsamples = drawn(20, batch_size=4, sampling=sampling, entropy=entropy)
        for index in range(num_rows):
            for part, batch in enumerate(subsamples.draw(index)):
                counts[part, batch.numpy()] += 1
    # draws without replacement vary less than a multinomial's, by the share that is left out
    expected = counts.sum(axis=1, keepdims=True) / 20
    statistic = ((counts - expected) ** 2 / expected).sum(axis=1) / (1.0 - 4 / 20) * (19 / 20)
    assert (stats.chi2.sf(statistic, df=19) > 1e-4).all()
    assert (stats.chi2.cdf(statistic, df=19) > 1e-4).all()


@pytest.mark.statistical
def test_rows_are_independent_of_each_other():
    subsamples = drawn(20, batch_size=5, num_parts=1)
    overlaps = np.zeros(6)
    for index in range(0, 4000, 2):
        one, other = (set(subsamples.draw(row)[0].tolist()) for row in (index, index + 1))
        overlaps[len(one & other)] += 1
    expected = 2000 * stats.hypergeom(20, 5, 5).pmf(np.arange(4))
    observed = np.append(overlaps[:3], overlaps[3:].sum())
    expected[3] = 2000 - expected[:3].sum()
    assert stats.chisquare(observed, expected).pvalue > 1e-4


def test_an_int_starts_again_a_generator_advances_and_none_is_fresh():
    generator = np.random.default_rng(5)
    one, other = entropy_of(generator), entropy_of(generator)
    assert one != other
    assert entropy_of(np.random.default_rng(5)) == one
    assert entropy_of(7) == 7
    assert type(entropy_of(np.int64(7))) is int
    assert entropy_of(None) != entropy_of(None)
    assert all(type(entropy) is int for entropy in (one, entropy_of(None)))


def test_every_purpose_and_row_has_a_seed_of_its_own():
    keys = [(entropy, purpose, row) for entropy in (0, 1, 2**80) for purpose in (ROW, WARMUP) for row in (0, 1, 2**20)]
    assert len({tuple(seed_of(*key).generate_state(4)) for key in keys}) == len(keys)


def numbered(count):
    return [torch.tensor([i]) for i in range(count)]


@pytest.mark.parametrize("form", [list, iter])
def test_each_batch_of_a_stream_is_in_one_row_and_can_be_drawn_again(form):
    subsamples = streamed(form(numbered(7)))
    rows = [lists(subsamples.draw(index)) for index in range(4)]
    assert rows == [[[0], [1]], [[2], [3]], [[4], [5]], None]
    assert [lists(subsamples.draw(index)) for index in (2, 0, 1, 3)] == [rows[2], rows[0], rows[1], None]
    assert subsamples.num_passes == 1


def test_a_row_that_is_drawn_again_is_the_same_whatever_the_user_does_with_the_batches():
    batches = numbered(4)
    subsamples = streamed(batches)
    subsamples.draw(0)
    batches[0].fill_(9)
    assert lists(subsamples.draw(0)) == [[0], [1]]


def test_a_batch_of_the_warm_up_is_in_no_row():
    subsamples = streamed(numbered(6))
    first = lists(subsamples.draw(0))
    warm = [subsamples.draw_warmup(index).tolist() for index in range(2)]
    assert (first, warm, lists(subsamples.draw(1))) == ([[0], [1]], [[2], [3]], [[4], [5]])
    assert subsamples.draw_warmup(2) is None
    assert lists(subsamples.draw(0)) == first


def test_a_stream_of_evaluation_data_starts_again_where_it_ends():
    subsamples = streamed(numbered(3), num_parts=1, cycle=True)
    assert [lists(subsamples.draw(index))[0] for index in range(7)] == [[0], [1], [2], [0], [1], [2], [0]]
    assert subsamples.num_passes == 3


@pytest.mark.parametrize("cycle", [False, True])
def test_a_stream_without_batches_has_no_rows(cycle):
    subsamples = streamed([], num_parts=1, cycle=cycle)
    assert subsamples.draw(0) is None
    assert subsamples.draw_warmup(0) is None


def test_a_stream_that_cannot_start_again_ends():
    subsamples = streamed(iter(numbered(2)), num_parts=1, cycle=True)
    assert [lists(subsamples.draw(index)) for index in range(3)] == [[[0]], [[1]], None]
    assert subsamples.num_passes == 1

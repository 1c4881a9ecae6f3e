"""Anything that a user has becomes batches, and nothing that the user has is changed."""

import collections
import copy
import dataclasses
import re
import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
)

from autolr.batches import map_tensors, to_device
from autolr.data import ArrayRows, BatchStream, DatasetRows, read_batch, read_data

CPU = torch.device("cpu")
VALUES = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [0.0, 1.0]]
TWO = np.array([2, 0])


class Pair(NamedTuple):
    x: object
    y: object


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    x: torch.Tensor
    name: str


def read(X, Y=None, **options):
    return read_data(X, Y, **{"device": CPU, "dtype": torch.float32, **options})


def memmap(tmp_path):
    np.save(tmp_path / "x.npy", np.array(VALUES))
    return np.load(tmp_path / "x.npy", mmap_mode="r")


def read_only(array):
    array.setflags(write=False)
    return array


def matrix(values):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return np.asmatrix(values)


ARRAYS = {
    "float32": np.array(VALUES, np.float32),
    "float64": np.array(VALUES),
    "float16": np.array(VALUES, np.float16),
    "long double": np.array(VALUES, np.longdouble),
    "big-endian": np.array(VALUES, ">f8"),
    "column-major": np.asfortranarray(VALUES),
    "every other row": np.repeat(np.array(VALUES), 2, axis=0)[::2],
    "negative strides": np.array(VALUES)[::-1, ::-1].copy()[::-1, ::-1],
    "read-only": read_only(np.array(VALUES)),
    "matrix": matrix(VALUES),
    "unmasked": np.ma.array(VALUES),
    "frame": pd.DataFrame(VALUES, columns=["a", "b"], index=[7, 7, 8, 9]),
    "mixed frame": pd.DataFrame({"a": [1, 3, 5, 0], "b": np.float32([2, 4, 6, 1])}),
    "nullable frame": pd.DataFrame(VALUES).astype("Float64"),
    "tensor": torch.tensor(VALUES),
}


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("form", [*ARRAYS, "memmap"])
def test_rows_of_floats_come_out_in_the_models_dtype(form, tmp_path):
    rows = read(memmap(tmp_path) if form == "memmap" else ARRAYS[form])
    batch = rows.batch(TWO)
    assert isinstance(rows, ArrayRows)
    assert len(rows) == 4
    assert batch.dtype == torch.float32
    assert batch.tolist() == [VALUES[2], VALUES[0]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_floats_take_whatever_dtype_the_model_has_and_tensors_keep_theirs(dtype):
    assert read(np.array(VALUES), dtype=dtype).batch(TWO).dtype == dtype
    assert read(torch.tensor(VALUES, dtype=torch.float16), dtype=dtype).batch(TWO).dtype == torch.float16


@pytest.mark.parametrize(
    "values",
    [
        np.array([3, 0, 1], np.uint8),
        np.array([3, 0, 1], ">i2"),
        pd.Series([3, 0, 1], dtype="int32"),
        pd.Series([3, 0, 1], dtype="Int64"),
        np.array([True, False, True]),
        pd.Series([True, False, True]),
        pd.Series([True, False, True], dtype="boolean"),
    ],
)
def test_integers_and_bools_become_int64(values):
    batch = read(np.zeros((3, 1)), values).batch(TWO)[1]
    assert batch.dtype == torch.int64
    assert batch.tolist() == [int(values[2]), int(values[0])]


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "boolean"])
def test_a_missing_value_of_a_nullable_column_is_nan(dtype):
    batch = read(pd.DataFrame({"a": pd.array([1, None, 0], dtype=dtype)})).batch(np.array([1, 0]))
    assert batch.dtype == torch.float32
    assert torch.isnan(batch[0]).all()
    assert batch[1].tolist() == [1.0]


@pytest.mark.parametrize("dtype", [np.complex64, ">c8", np.clongdouble])
def test_complex_numbers_stay_complex(dtype):
    batch = read(np.array([1 + 2j, 3.0], dtype)).batch(np.array([1, 0]))
    assert batch.is_complex()
    assert batch.tolist() == [3.0, 1 + 2j]


def test_tensors_in_a_graph_are_detached():
    X = torch.tensor(VALUES, requires_grad=True)
    for data in (read(X), read(TensorDataset(X)), read([X])):
        batch = next(iter(data)) if isinstance(data, BatchStream) else data.batch(TWO)
        tensors = []
        map_tensors(lambda tensor, tensors=tensors: tensors.append(tensor), batch)
        assert not any(tensor.requires_grad for tensor in tensors)
    assert X.grad is None


def test_rows_of_a_sparse_tensor_can_be_taken():
    assert read(torch.tensor(VALUES).to_sparse()).batch(TWO).to_dense().tolist() == [VALUES[2], VALUES[0]]


class Squares(Dataset):
    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {"x": torch.tensor([float(index)]), "y": index**2}


class Lists:
    """A dataset of another library: torch's protocol without its class."""

    def __len__(self):
        return 4

    def __getitems__(self, indices):
        return [{"x": torch.tensor([float(i)]), "y": i**2} for i in indices]


@pytest.mark.parametrize(
    "dataset",
    [Squares(4), Subset(Squares(9), range(4)), ConcatDataset([Squares(3), Subset(Squares(9), [3])]), Lists()],
    ids=["dataset", "subset", "concatenation", "protocol"],
)
def test_datasets_are_rows_put_together_by_collation(dataset):
    rows = read(dataset)
    batch = rows.batch(np.array([3, 1]))
    assert isinstance(rows, DatasetRows)
    assert len(rows) == 4
    assert batch["x"].tolist() == [[3.0], [1.0]]
    assert batch["y"].tolist() == [9, 1]


class Counting(IterableDataset):
    def __iter__(self):
        return (torch.tensor(float(i)) for i in range(70))


@pytest.mark.parametrize(("batch_size", "sizes"), [(None, [32, 32, 6]), (50, [50, 20])])
def test_an_iterable_dataset_is_put_into_batches(batch_size, sizes):
    assert [len(batch) for batch in read(Counting(), batch_size=batch_size)] == sizes


LOADERS = {
    "in order": ({"batch_size": 2}, [[0, 1], [2, 3], [4]]),
    "whole batches": ({"batch_size": 2, "drop_last": True}, [[0, 1], [2, 3]]),
    "one observation": ({"batch_size": None}, [0, 1, 2, 3, 4]),
    "batch sampler": ({"batch_sampler": BatchSampler([4, 2, 0], 2, drop_last=False)}, [[4, 2], [0]]),
}


@pytest.mark.parametrize("form", LOADERS)
def test_a_loader_is_read_as_it_yields(form):
    options, expected = LOADERS[form]
    assert [batch["x"].squeeze(-1).tolist() for batch in read(DataLoader(Squares(5), **options))] == expected


@pytest.mark.parametrize(
    ("collate", "kind"),
    [
        (lambda rows: {"x": torch.stack([row["x"] for row in rows]), "n": len(rows)}, dict),
        (lambda rows: Pair(torch.stack([row["x"] for row in rows]), None), Pair),
        (lambda rows: Record(torch.stack([row["x"] for row in rows]), "name"), Record),
        (lambda rows: collections.OrderedDict(x=torch.stack([row["x"] for row in rows])), collections.OrderedDict),
    ],
)
def test_batches_keep_the_type_that_the_collation_gave_them(collate, kind):
    batch = next(iter(read(DataLoader(Squares(5), batch_size=2, collate_fn=collate))))
    assert type(batch) is kind
    assert (batch["x"] if isinstance(batch, dict) else batch.x).tolist() == [[0.0], [1.0]]


@pytest.mark.parametrize("replacement", [False, True])
def test_a_running_epoch_of_the_users_goes_on_undisturbed(replacement):
    def epoch(disturb):
        generator = torch.Generator().manual_seed(3)
        sampler = RandomSampler(range(50), replacement=replacement, generator=generator)
        loader = DataLoader(torch.arange(50.0), batch_size=3, sampler=sampler, generator=generator)
        running = iter(loader)
        seen = [next(running).tolist()]
        state = generator.get_state()
        if disturb:
            assert len(list(read(loader))) == 17
            generator.set_state(state)  # what `tune` does with what data_generators finds
        return seen + [batch.tolist() for batch in running] + [batch.tolist() for batch in loader]

    assert epoch(True) == epoch(False)


def test_persistent_workers_in_the_middle_of_an_epoch_go_on_undisturbed():
    loader = DataLoader(torch.arange(12.0), batch_size=2, num_workers=1, persistent_workers=True)
    running = iter(loader)
    seen = next(running).tolist() + next(running).tolist()
    stream = iter(read(loader))
    assert next(stream).tolist() == [0.0, 1.0]
    seen += [value for batch in running for value in batch.tolist()]
    assert seen == list(range(12))
    assert loader._iterator is running
    assert iter(loader) is running


def test_any_iterable_of_batches_is_a_stream_and_its_numpy_and_pandas_numbers_become_tensors():
    batches = [(np.array(VALUES), pd.Series([1, 0, 1, 1])), {"x": np.float16([1.0]), "names": np.array(["a"])}]
    (x, y), named = read(batch for batch in batches)
    assert (x.dtype, y.dtype, named["x"].dtype) == (torch.float32, torch.int64, torch.float32)
    assert named["names"] is batches[1]["names"]
    frame = pd.DataFrame({"a": [1.5], "b": ["text"]})
    assert next(iter(read([frame]))) is frame


def test_a_buffer_that_is_filled_again_and_again_gives_different_batches():
    def batches():
        buffer = torch.zeros(2)
        for i in range(3):
            yield buffer.fill_(float(i))

    assert [batch.tolist() for batch in list(read(batches()))] == [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]


@pytest.mark.parametrize("form", ["tensor", "array", "dataset", "list", "loader"])
def test_a_model_that_writes_into_its_input_does_not_write_into_the_users_data(form):
    X = torch.tensor(VALUES)
    forms = {"tensor": X, "array": X.numpy(), "dataset": TensorDataset(X), "list": [X], "loader": DataLoader(X, None)}
    data = read(forms[form])
    batch = data.move(next(iter(data))) if isinstance(data, BatchStream) else data.batch(np.arange(4))
    map_tensors(lambda tensor: tensor.data.zero_(), batch)
    assert X.tolist() == VALUES


def test_packed_sequences_and_objects_that_can_move_are_moved():
    class Graph:
        def __init__(self):
            self.nodes, self.device = torch.ones(2), None

        def to(self, device):
            self.device = device  # in place, as graph libraries do
            return self

    graph, packed = Graph(), pack_sequence([torch.ones(3), torch.ones(2)])
    stream = read([(graph, packed)])
    moved, sequence = stream.move(next(iter(stream)))
    assert (graph.device, moved.device) == (None, CPU)
    assert isinstance(sequence, PackedSequence)
    assert sequence.batch_sizes.tolist() == [2, 2, 1]
    on_meta = to_device(packed, torch.device("meta"))
    assert (on_meta.data.device.type, on_meta.batch_sizes.device.type) == ("meta", "cpu")


FRAME = pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]})
REFUSED = [
    ((np.ones((3, 1)), np.ones(2)), ValueError, "`Y` must have as many rows as `X` (3), got 2."),
    ((np.ones((0, 2)),), ValueError, "`X` must have at least one row, got 'shape (0, 2)'."),
    ((torch.tensor(1.0),), ValueError, "`X` must have at least one row, got 'shape ()'."),
    ((np.ones(2), np.float64(1.0)), TypeError, "`Y` must be a tensor, a NumPy array or a pandas frame, got 1.0."),
    ((np.ones(2), [0, 1]), TypeError, "`Y` must be a tensor, a NumPy array or a pandas frame, got [0, 1]."),
    (([1.0], np.ones(1)), TypeError, "`X` must be a tensor, a NumPy array or a pandas frame where `Y` is given"),
    ((Squares(3), np.ones(3)), TypeError, "`Y` must be None where `X` is a Squares, got array([1., 1., 1.])."),
    ((DataLoader(Squares(3)), np.ones(3)), TypeError, "`Y` must be None where `X` is a DataLoader, got array("),
    ((np.array(["a"]),), TypeError, "`X` must hold numbers, got 'dtype <U1'."),
    ((np.array([None]),), TypeError, "`X` must hold numbers, got 'dtype object'."),
    ((np.array(["2020-01-01"], "M8[D]"),), TypeError, "`X` must hold numbers, got 'dtype datetime64[D]'."),
    ((np.ma.array([1.0, 2.0], mask=[0, 1]),), ValueError, "`X` must have no masked values, got '1 of them'."),
    ((FRAME,), TypeError, "`X` must hold real numbers in every column, got 'b of dtype "),
    ((FRAME.a, FRAME.b), TypeError, "`Y` must hold real numbers, got 'dtype "),
    ((FRAME.astype("category"),), TypeError, "in every column, got 'a of dtype category'."),
    ((FRAME[["a"]].astype("datetime64[ns]"),), TypeError, "in every column, got 'a of dtype datetime64[ns]'."),
    ((FRAME[["a"]].astype(complex),), TypeError, "in every column, got 'a of dtype complex128'."),
    ((Dataset(),), TypeError, "`X` must have a length (or be an IterableDataset), got <torch.utils.data"),
    ((Squares(0),), ValueError, "`X` must hold at least one observation, got 0."),
    ((None,), TypeError, "`X` must be a tensor, a NumPy array or a pandas frame, a Dataset, a DataLoader or an"),
    (("x.csv",), TypeError, "a DataLoader or an iterable of batches, got 'x.csv'."),
    (({"x": torch.ones(2)},), TypeError, "a DataLoader or an iterable of batches, got {'x': tensor([1., 1.])}."),
    (((torch.ones(2), FRAME),), TypeError, "got (Tensor, DataFrame): pass them as two arguments, X and Y."),
]


@pytest.mark.parametrize(("data", "error", "text"), REFUSED, ids=[row[-1] for row in REFUSED])
def test_what_is_no_data_is_refused_in_words(data, error, text):
    with pytest.raises(error, match=re.escape(text)):
        read(*data)


@pytest.mark.parametrize("batches", [[torch.ones(2)], DataLoader(Counting())])
def test_batches_have_the_size_that_they_have(batches):
    with pytest.raises(ValueError, match=r"`batch_size` must be left out where `X` brings its own batches, got 2\."):
        read(batches, batch_size=2)


def test_a_tuple_of_arrays_is_refused_under_the_name_that_the_user_knows():
    with pytest.raises(TypeError, match=r"`evaluation` must not .* got \(Tensor\): pass a pair \(x, y\)\."):
        read((torch.ones(2),), names=("evaluation", "evaluation[1]"))


@pytest.mark.filterwarnings(
    "ignore:Sparse CSR tensor support:UserWarning", "ignore:The PyTorch API of nested:UserWarning"
)
def test_tensors_whose_rows_cannot_be_taken_are_refused():
    for X in (torch.eye(3).to_sparse_csr(), torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])):
        with pytest.raises(TypeError, match="`X` must be dense or sparse COO, so that rows can be taken, got torch"):
            read(X)


def test_the_batch_that_is_mapped_is_not_changed():
    batch = [{"x": torch.ones(1)}, Record(torch.ones(1), "a"), Pair(torch.ones(1), (torch.ones(1), None)), Record]
    kept = copy.deepcopy(batch)
    mapped = map_tensors(lambda tensor: tensor + 1.0, batch)
    assert repr(batch) == repr(kept)
    assert repr(mapped) == repr(kept).replace("1.", "2.")


@pytest.mark.parametrize("iterable", [False, True], ids=["map-style", "iterable"])
def test_floats_of_python_and_numpy_in_a_dataset_get_the_dtype_of_the_model(iterable):
    items = [(np.ones(3), {"a": 0.5, "b": np.float64(1.5), "c": 2, "d": torch.ones(2)}) for _ in range(8)]

    class Items(IterableDataset if iterable else Dataset):
        def __len__(self):
            return len(items)

        def __getitem__(self, index):
            return items[index]

        def __iter__(self):
            return iter(items)

    data = read_data(Items(), device=torch.device("cpu"), dtype=torch.float16, batch_size=4)
    x, y = next(iter(data)) if iterable else data.batch(np.arange(4))
    assert (x.dtype, x.shape) == (torch.float16, (4, 3))
    assert [y[name].dtype for name in "abcd"] == [torch.float16, torch.float16, torch.int64, torch.float32]


def test_one_batch_is_read_as_those_of_a_loader_are():
    x, y = read_batch(pd.DataFrame(VALUES), np.array([1, 2, 3, 4]), device=CPU, dtype=torch.float16)
    assert x.dtype == torch.float16
    assert torch.equal(x.float(), torch.tensor(VALUES))
    assert torch.equal(y, torch.arange(1, 5))
    given = {"x": np.ones((2, 3)), "mask": torch.ones(2, dtype=torch.bool)}
    batch = read_batch(given, device=CPU, dtype=torch.float32)
    assert batch["x"].dtype == torch.float32
    assert batch["mask"] is not given["mask"]
    assert read_batch(given, [1, 2], device=CPU, dtype=torch.float32)[1] == [1, 2]


@pytest.mark.parametrize("data", [TensorDataset(torch.ones(3)), DataLoader([1.0]), "lr", None, iter([1.0])])
def test_data_of_many_batches_is_no_batch(data):
    with pytest.raises(TypeError, match="`X` must be a tensor, a NumPy array or a pandas frame, or one batch, got"):
        read_batch(data, device=CPU, dtype=torch.float32)

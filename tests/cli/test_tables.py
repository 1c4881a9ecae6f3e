"""Tables become numbers by a rule that is told, and what cannot be one is refused in words."""

import re
import sys

import numpy as np
import pandas as pd
import pytest

from autolr.cli._tables import encode, read_table

CSV = "size,kind,new,price\n1,a,True,1.5\n3,b,False,2.5\n1,a,True,3.5\n3,b,False,4.5\n"


def table(num_rows=8, **columns):
    standard = {"x": np.arange(num_rows) ** 2.0, "y": np.arange(num_rows) + 0.5}
    return pd.DataFrame({**standard, **columns})


def test_numbers_are_standardized_and_texts_become_columns_of_0_and_1(folder):
    (folder / "t.csv").write_text(CSV)
    encoded = encode(read_table("t.csv"), "price")
    expected = np.array([[-1, 1, 0, 0, 1], [1, 0, 1, 1, 0]] * 2)  # size; a, b; False, True
    np.testing.assert_allclose(encoded.X, expected)
    assert encoded.Y[:, 0] == pytest.approx(np.array([-1.5, -0.5, 0.5, 1.5]) / np.sqrt(1.25))
    assert encoded.notes == (
        "4 rows; inputs: 1 column of numbers, standardized, and 2 of text, as 4 of 0 and 1.",
        "Target 'price': a regression; losses are in units of its variance, 1.25.",
    )


def test_huge_and_tiny_numbers_are_standardized_too():
    encoded = encode(table(4, big=[1e300, -1e300, 1e300, -1e300], small=[1e-300, 0, 1e-300, 0]), "y")
    assert encoded.X[:, 1] == pytest.approx([1, -1, 1, -1])
    assert encoded.X[:, 2] == pytest.approx([1, -1, 1, -1])


def test_constant_columns_are_left_out_and_named():
    encoded = encode(table(one=0.1, text="a", flag=True), "y")
    assert encoded.X.shape == (8, 1)
    assert encoded.notes[-1] == "Left out, as they are constant: one, text, flag."


@pytest.mark.parametrize(
    ("values", "num_classes"),
    [
        (["a", "b"] * 10, 2),
        ([True, False] * 10, 2),
        (pd.Categorical([7, 9] * 10), 2),
        ([0, 1, 2, 3] * 5, 4),
        ([0.0, 1.0] * 10, 2),
        ([0.5, 1.5] * 10, None),  # no whole numbers
        (list(range(11)) + [0] * 9, None),  # 11 of them in 20 rows
        (list(range(10)) * 2, 10),
    ],
)
def test_the_task_is_inferred_by_the_rule_that_is_told(values, num_classes):
    encoded = encode(table(20, target=values), "target")
    assert encoded.num_classes == num_classes
    assert encoded.Y.dtype == (np.float64 if num_classes is None else np.int64)
    assert encoded.Y.shape == ((20, 1) if num_classes is None else (20,))


def test_more_than_20_whole_numbers_are_a_quantity_unless_it_is_said_otherwise():
    values = list(range(21)) * 3
    assert encode(table(63, target=values), "target").num_classes is None
    assert encode(table(63, target=values), "target", task="classification").num_classes == 21
    assert encode(table(20, target=[0, 1] * 10), "target", task="regression").num_classes is None


def test_classes_are_numbered_in_their_order():
    assert encode(table(4, target=["b", "a", "b", "a"]), "target").Y.tolist() == [1, 0, 1, 0]
    assert encode(table(4, target=[10, 9, 10, 9]), "target").Y.tolist() == [1, 0, 1, 0]


TEXTS = [f"P{number}" for number in range(8)]
LEVELS = [f"L{number}" for number in range(51)] * 2


@pytest.mark.parametrize(
    ("made", "options", "text"),
    [
        (table(), {"target": "z"}, "`--target` must be one of the columns 'x', 'y', got 'z'."),
        (table(), {"drop": ["z"]}, "`--drop` must be one of the columns 'x', 'y', got 'z'."),
        (table(), {"drop": ["y"]}, "`--drop` must be another column than the target, got 'y'."),
        (table(), {"drop": ["x"]}, "`TABLE` must have a column beside the target that is not constant, got ['x', 'y']"),
        (table(1), {}, "`TABLE` must have at least 2 rows, got 1."),
        (table(0), {}, "`TABLE` must have at least 2 rows, got 0."),
        (table(y=3.0), {}, "`--target` must not be constant, got 3.0 in every row of 'y'."),
        (table(y=TEXTS), {}, "`--target` must hold classes that repeat, got 8 different values in 8 rows of 'y'."),
        (table(y=["a", "b"] * 4), {"task": "regression"}, "`--target` must hold numbers for a regression, got texts"),
        (table(x=[1.0, None] * 4), {}, "column 'x' must have no empty cells, got 4, the first in row 2 (fill them, or"),
        (table(y=[1.0, None] * 4), {}, "column 'y' must have no empty cells, got 4, the first in row 2"),
        (table(x=[1.0, np.inf] * 4), {}, "column 'x' must be finite, got infinite cells (leave it out by --drop x)."),
        (table(id=TEXTS), {}, "column 'id' must hold texts that repeat, got 8 different ones in 8 rows, such as 'P0'"),
        (table(102, city=LEVELS), {}, "column 'city' must have at most 50 different texts, got 51 (leave it out by"),
        (table(**{"my id": TEXTS}), {}, "--drop 'my id'"),
        (table(day=["2024-01-03"] * 8), {}, "column 'day' must not hold dates, got '2024-01-03' (make numbers of them"),
        (table(day=["3.1.2024 10:00"] * 8), {}, "column 'day' must not hold dates, got '3.1.2024 10:00'"),
        (table(day=pd.Timestamp("2024-01-03")), {}, "column 'day' must hold numbers, texts or booleans, got Timestamp"),
        (table(z=[[1, 2]] * 8), {}, "column 'z' must hold numbers, texts or booleans, got list (leave it out by"),
        (table(z=1j), {}, "column 'z' must hold numbers, texts or booleans, got complex"),
    ],
)
def test_what_is_no_table_of_numbers_and_texts_is_refused_in_words(made, options, text):
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        encode(made, options.pop("target", "y"), **options)
    assert len(str(caught.value)) < 250


def test_parts_of_a_long_list_of_columns_are_named():
    wide = pd.DataFrame(np.zeros((4, 30)))
    with pytest.raises(ValueError, match=r"columns '0', '1', .*'9' and 20 more, got 'y'\.$"):
        encode(wide, "y")


def test_arrays_are_columns(folder):
    np.savez(folder / "t.npz", X=[[1.0, 2.0], [3.0, 4.0]], y=[0.5, 1.5], kind=["a", "b"])
    read = read_table("t.npz")
    assert read.columns.tolist() == ["X[0]", "X[1]", "y", "kind"]
    assert read.iloc[1].tolist() == [3.0, 4.0, 1.5, "b"]


def test_a_byte_order_mark_is_no_part_of_a_name(folder):
    (folder / "t.csv").write_bytes(b"\xef\xbb\xbfa,b\n1,2\n")
    assert read_table("t.csv").columns.tolist() == ["a", "b"]


@pytest.mark.integration
def test_parquet_is_read_with_its_categories(folder):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    made = table(4, kind=pd.Categorical(["a", "b", "a", "b"]))
    made.to_parquet(folder / "t.parquet")
    pd.testing.assert_frame_equal(read_table("t.parquet"), made)


def test_parquet_without_pyarrow_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (folder / "t.parquet").touch()
    with pytest.raises(ImportError, match=r"^'t\.parquet' needs pyarrow to be read: pip install pyarrow, or write it"):
        read_table("t.parquet")


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("t.xlsx", b"", "`TABLE` must end in .csv, .parquet or .npz, got 't.xlsx'."),
        ("t.csv", b"", "`TABLE` must be readable, got 't.csv': No columns to parse from file"),
        ("t.csv", b"a,b\n1,2,3,4\n5,6,7,8\n", "'t.csv': its rows have more cells than its header"),
        ("t.csv", b"a,b\n1,2\n1,2,3\n", "'t.csv': Error tokenizing data. C error: Expected 2 fields in line 3, saw 3"),
        ("t.csv", b"a;b\n1;2\n", "'t.csv': its cells must be separated by commas"),
        ("t.csv", b"a,b\n\xff,2\n", "'t.csv': 'utf-8' codec can't decode byte 0xff"),
        ("t.npz", b"no archive", "`TABLE` must be readable, got 't.npz': "),
        ("t.npz", b"", "`TABLE` must be readable, got 't.npz': No data left in file"),
    ],
)
def test_a_file_that_is_no_table_is_refused_in_words(folder, name, content, text):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(text)):
        read_table(name)


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"X": np.zeros((2, 2, 2))}, "its array 'X' has the shape (2, 2, 2), not (N,) or (N, D)"),
        ({"X": np.zeros((2, 2)), "y": np.zeros(3)}, "All arrays must be of the same length"),
        ({"X": np.array([{}, {}], dtype=object)}, "Object arrays cannot be loaded when allow_pickle=False"),
    ],
)
def test_arrays_that_are_no_columns_are_refused_in_words(folder, arrays, text):
    np.savez(folder / "t.npz", **arrays)
    with pytest.raises(ValueError, match=re.escape(text)):
        read_table("t.npz")


@pytest.mark.parametrize("name", ["none.csv", "https://example.org/t.csv"])
def test_a_table_that_is_not_there_is_named(name):
    with pytest.raises(FileNotFoundError, match=f"^`TABLE` must name a file that exists, got '{name}'"):
        read_table(name)

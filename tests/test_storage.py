"""A file holds a result exactly, or it is not written; what is no result is refused in words."""

import json
import os
import re
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autolr.differentials import LossDifferentials
from autolr.storage import load_json, save_json, to_json

NAN, INF = float("nan"), float("inf")
ARRAYS = ("learning_rates", "loss_pre", "loss_post", "horizons", "interpolated")


def make(loss=1.5):
    return LossDifferentials([0.1, 1.0], [2.0, 4.0], [[loss, 2.5], [3.0, INF]])


def assert_same(one, other):
    for name in ARRAYS:
        array, expected = getattr(one, name), getattr(other, name)
        assert (array.dtype, array.shape, array.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())


LOSSES = [1.0 / 3.0, 5e-324, 1.7976931348623157e308, -0.0, INF, NAN]
VALUES = {
    "unicode": "η, Ω, 学习率, \U0001f600, \ud800",
    "huge": 2**200,
    "float": 0.1 + 0.2,
    "nested": {"list": [1, 2.5, None, True, "NaN"]},
}


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path):
    mask = np.zeros((1, 2, 3), dtype=bool)
    mask[0, 1, 2] = True
    record = LossDifferentials([5e-324, 1.0], [-1e-310], np.reshape(LOSSES, (1, 2, 3)), [1, 2, 2**50], mask)
    save_json(tmp_path / "result.json", record, VALUES)
    loaded, values = load_json(str(tmp_path / "result.json"))
    assert_same(loaded, record)
    assert values == VALUES


@settings(derandomize=True, max_examples=50, deadline=None)
@given(
    losses=st.lists(st.one_of(st.floats(-1e308, 1e308), st.sampled_from(LOSSES)), min_size=1, max_size=6),
    pre=st.floats(allow_nan=False, allow_infinity=False),
)
def test_any_losses_come_back(tmp_path_factory, losses, pre):
    path = tmp_path_factory.mktemp("any") / "result.json"
    record = LossDifferentials(np.arange(1, len(losses) + 1), [pre], [losses])
    save_json(path, record, {})
    assert_same(load_json(path)[0], record)


def test_the_file_is_strict_json():
    def refuse(constant):
        raise AssertionError(constant)

    document = json.loads(to_json(make(loss=NAN), {"a": 1}), parse_constant=refuse)
    assert document == {
        "schema": "autolr.TuningResult",
        "version": 1,
        "settings": {"a": 1},
        "learning_rates": [0.1, 1.0],
        "loss_pre": [2.0, 4.0],
        "loss_post": [[[None], [2.5]], [[3.0], ["inf"]]],
        "horizons": [1],
        "interpolated": None,
    }


@pytest.mark.parametrize("value", [{1, 2}, NAN, (1, 2), {1: "a"}, np.int64(3), b"a", object()])
def test_a_setting_that_would_not_come_back_is_refused_before_anything_is_written(tmp_path, value):
    with pytest.raises(ValueError, match=r"^`settings` must hold JSON values only, got \{'a': "):
        save_json(tmp_path / "result.json", make(), {"a": value})
    assert list(tmp_path.iterdir()) == []


def test_settings_without_end_are_refused():
    endless = {}
    endless["a"] = endless
    with pytest.raises(ValueError, match="`settings` must hold JSON values only"):
        to_json(make(), endless)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace"), (json, "dumps")])
def test_a_failure_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, owner, name, error):
    path = tmp_path / "result.json"
    save_json(path, make(), {})

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(type(error)):
            save_json(path, make(loss=9.0), {})
    assert list(tmp_path.iterdir()) == [path]
    assert_same(load_json(path)[0], make())


def test_an_existing_file_is_replaced(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    save_json(path, make(), {})
    assert_same(load_json(path)[0], make())
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_follow_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        save_json(tmp_path / "result.json", make(), {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "result.json").stat().st_mode) == 0o666 & ~mask


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_a_link_stays_a_link_and_a_long_name_is_no_obstacle(tmp_path):
    target, link = tmp_path / f"{'x' * 250}.json", tmp_path / "link.json"
    link.symlink_to(target)
    save_json(link, make(), {})
    assert link.is_symlink()
    assert_same(load_json(target)[0], make())


@pytest.mark.parametrize("name", ["result.pkl", "result", "json", "result.json.gz", "result.JSON"])
def test_another_suffix_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"^`path` must end in \.json, got "):
        save_json(tmp_path / name, make(), {})


def test_a_missing_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of the folder itself may be too long for a message
    with pytest.raises(
        FileNotFoundError, match=r"^`path` must lie in a folder that exists, got 'none/result\.json'\.$"
    ):
        save_json("none/result.json", make(), {})


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_json(tmp_path / "none.json")


TEXT = to_json(make(), {"a": 1})


def changed(**changes):
    return json.dumps({**json.loads(TEXT), **changes})


def without(name):
    document = json.loads(TEXT)
    del document[name]
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "`path` must name a complete JSON file, got '"),
        (TEXT[:-20], "`path` must name a complete JSON file, got '"),
        (TEXT + "}", "`path` must name a complete JSON file, got '"),
        (b"\xff\xfe\x00", "`path` must name a complete JSON file, got '"),
        ("[" * 100_000, "`path` must name a complete JSON file, got '"),
        (TEXT.replace("2.5", "NaN"), "NaN is not JSON."),
        ("[1, 2]", "`path` must name a file with the schema 'autolr.TuningResult', got '"),
        ("3", "`path` must name a file with the schema 'autolr.TuningResult', got '"),
        ("null", "`path` must name a file with the schema 'autolr.TuningResult', got '"),
        ('{"a": 1}', "`path` must name a file with the schema 'autolr.TuningResult', got '"),
        (changed(schema="other"), "`path` must name a file with the schema 'autolr.TuningResult', got '"),
        (changed(version=2), "`path` must name a file of schema version 1 or older, got 'version 2'."),
        (changed(version=0), "`path` must name a file of schema version 1 or older, got 'version 0'."),
        (changed(version="1"), "`path` must name a file of schema version 1 or older, got 'version 1'."),
        (without("version"), "`path` must name a file of schema version 1 or older, got 'version None'."),
        (without("settings"), " without 'settings'."),
        (without("loss_post"), " without 'loss_post'."),
        (without("interpolated"), " without 'interpolated'."),
        (changed(settings=[1]), ": `settings` must be a mapping, got [1]."),
        (changed(loss_pre=["2.0", 4.0]), ": `loss_pre` must be an array of real numbers, got array(["),
        (changed(loss_pre=[None, 4.0]), ": `loss_pre` must be finite in every subsample (see subsample 0), got nan."),
        (changed(loss_pre={"0": 2.0}), ": `loss_pre` must be an array of real numbers, got array({"),
        (changed(loss_pre=[True, 4.0]), ": `loss_pre` must be an array of real numbers, got array(["),
        (changed(loss_pre=[10**400, 4.0]), ": `loss_pre` must be an array of real numbers, got array(["),
        (changed(loss_post=[[[1.0], [2.0]], [[1.0]]]), ": `loss_post` must be an array of real numbers, got array(["),
        (changed(loss_post=[[1.0]]), ": `loss_post` must have the shape (M, K, H) = (2, 2, 1), got (1, 1, 1)."),
        (changed(learning_rates=None), ": `learning_rates` must be one-dimensional and not empty, got array("),
        (changed(learning_rates=[1.0, 0.1]), ": `learning_rates` must be strictly increasing, got array(["),
        (changed(horizons=[0.5]), ": `horizons` must be increasing integers of at least 1"),
        (changed(interpolated=[["no"]]), ": `interpolated` must be an array of bools, got 'dtype <U2'."),
        (changed(interpolated=[[True], [True, False]]), "`path` must name an undamaged result, got '"),
    ],
    ids=lambda value: str(value)[-50:],
)
def test_a_file_that_is_no_result_is_refused_in_words(tmp_path, text, reason):
    path = tmp_path / "result.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        load_json(path)
    assert str(caught.value).endswith(".")
    assert "result.json" in str(caught.value) or "version" in str(caught.value)

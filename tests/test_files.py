"""Files: the old one or the new one whatever happens, and what is no file of ours is refused in words."""

import copy
import json
import os
import sys

import numpy as np
import pandas as pd
import pytest

from autolr import _files, storage
from autolr.differentials import LossDifferentials
from autolr.result import TuningResult
from autolr.schedules.comparison import HISTORY_COLUMNS, ScheduleComparison
from autolr.search_result import TRACE_COLUMNS, SearchResult

SCRIPT = "<script>alert(1)</script>"


def tuning(loss=1.5, **settings):
    record = LossDifferentials([0.1, 1.0], [2.0, 4.0], [[loss, 2.5], [3.0, 5.0]])
    return TuningResult(record, {"num_subsamples": 2, "seconds": 1.5, "batch_size": None, **settings})


def search(rate=0.1, **decision):
    known = {"learning_rate": rate, "low": 0.01, "high": 1.0, "confidence_level": 0.9, "num_steps": 20, "last_step": 20}
    known |= {"loss": 0.5, "max_stable_lr": 0.1, "smallest_diverged": 1.0, "at_grid_edge": None, "doubt": None}
    known |= {"caveats": ["It is short."], "measure": "log loss", "untrained_loss": 1.0, "judged_by": "scan"}
    settings = {"total_steps": 20, "schedule": "constant", "target": "validation", "scan_steps": 20, "num_rates": 1}
    settings |= {"num_evaluations": 3.0, "seconds": 1.0}
    trace = pd.DataFrame([(0, "scan", 0.1, 0, 1.0), (0, "scan", 0.1, 1, 0.5)], columns=TRACE_COLUMNS)
    return SearchResult(trace, {**known, **decision}, settings)


KINDS = {"TuningResult": (tuning, tuning(9.0)), "SearchResult": (search, search(0.2))}


def numbers(result):
    if isinstance(result, TuningResult):
        return result.differentials.loss_post.tolist(), dict(result.settings)
    return result.trace.to_numpy().tolist(), dict(result.decision), dict(result.settings)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lr.json"


class CrashError(Exception):
    """A stop in the middle of saving."""


def stopping_at(number, stop):
    """Return a trace function that calls ``stop`` at the n-th line that is run in the files that save."""
    lines = []

    def trace(frame, event, _):
        if frame.f_code.co_filename not in (storage.__file__, _files.__file__):
            return None
        if event == "line":
            lines.append(None)
            if len(lines) == number:
                stop()
        return trace

    return trace, lines


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file that is open meanwhile
@pytest.mark.parametrize("name", KINDS)
def test_an_exception_at_any_line_of_saving_leaves_the_old_file_or_the_new_one(path, name):
    def stop():
        raise CrashError

    make, new = KINDS[name]
    old, before = make(), sys.gettrace()
    for number in range(1, 1000):
        old.save(path)
        trace, lines = stopping_at(number, stop)
        sys.settrace(trace)
        try:
            new.save(path)
        except CrashError:
            pass
        finally:
            sys.settrace(before)
        if len(lines) < number:
            break
        assert numbers(type(old).load(path)) in (numbers(old), numbers(new))
        assert [found for found in path.parent.iterdir() if found.suffix == ".json"] == [path]
    assert number > 20
    assert numbers(type(old).load(path)) == numbers(new)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of threads, which the child does not use
@pytest.mark.parametrize("name", KINDS)
def test_a_process_that_is_killed_at_any_line_of_saving_leaves_the_old_file_or_the_new_one(path, name):
    make, new = KINDS[name]
    old, found = make(), []
    for number in range(1, 1000):
        old.save(path)
        child = os.fork()
        if not child:  # nothing is flushed, closed or cleaned up
            try:
                trace, _ = stopping_at(number, lambda: os._exit(1))
                sys.settrace(trace)
                new.save(path)
                os._exit(0)
            finally:
                os._exit(2)  # it never becomes a second run of the tests
        if os.waitpid(child, 0)[1] == 0:
            break
        found.append(numbers(type(old).load(path)))
    assert number > 20
    assert all(one in (numbers(old), numbers(new)) for one in found)
    assert numbers(old) in found
    assert numbers(type(old).load(path)) == numbers(new)


@pytest.mark.parametrize("name", KINDS)
def test_every_beginning_of_a_file_is_refused(path, name):
    result = KINDS[name][0]()
    result.save(path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"`path` must name a complete JSON file, got '.*lr\.json': "):
            type(result).load(path)


def places(document, path=()):
    """Yield where in a document something stands."""
    yield path
    keys = document if isinstance(document, dict) else range(len(document) if isinstance(document, list) else 0)
    for key in keys:
        yield from places(document[key], (*path, key))


def changed(document, path, value):
    """Return a document with another value at a place; ``...``: with nothing there."""
    if not path:
        return value
    document = copy.deepcopy(document)
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    if value is ...:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return document


@pytest.mark.parametrize("value", [None, "x", -1, [], {}, True, 1e308, [[]], ...], ids=repr)
@pytest.mark.parametrize("name", KINDS)
def test_whatever_stands_anywhere_in_a_file_it_is_read_or_refused_in_words(path, name, value):
    result = KINDS[name][0]()
    result.save(path)
    document, num_refused = json.loads(path.read_text()), 0
    for place in places(document):
        if place or value is not ...:
            path.write_text(json.dumps(changed(document, place, value)))
            try:
                str(type(result).load(path))
            except ValueError as error:
                num_refused += 1
                assert str(error).startswith("`path` must name ")  # noqa: PT017 (not every change is refused)
    assert num_refused >= 4


RACE = {"adaptive": True, "interpolate": True, "num_looks": 3, "stop": "ended", "regret_tolerance": 0.05}
RACE |= {"num_probes": 3, "num_probes_fixed": 8, "num_evaluations": 12.0, "confidence_level": 0.95}
RACE |= {"interrupted": True, "num_left_out": 1, "num_extensions": 0, "evaluation_passes": 1, "num_batches_lost": 0}
RACE["looks"] = [{"num_subsamples": 2, "num_rates": 2, "num_best": 2, "gain": 0.5, "regret_bound": 0.1}]
RACE["interpolation"] = {"error": 0.01, "num_unresolved": 0, "num_probes": 3, "num_probes_exact": 4}


@pytest.mark.parametrize("value", [None, "x", [], {"x": 1}, ...], ids=repr)
def test_whatever_stands_in_the_settings_of_a_race_it_is_told_or_refused_in_words(path, value):
    tuning(**RACE).save(path)
    document, refused = json.loads(path.read_text()), set()
    for place in places(document["settings"]):
        if place:
            path.write_text(json.dumps(changed(document, ("settings", *place), value)))
            try:
                result = TuningResult.load(path)
            except ValueError as error:
                refused.add(place)
                assert str(error).startswith("`path` must name an undamaged result")  # noqa: PT017 (not all are refused)
            else:
                assert "The tuning was interrupted after 2 of " in str(result) or "interrupted" in place
    assert {("looks",), ("looks", 0), ("interpolation",)} & refused or value in (None, ...)


def test_files_of_other_kinds_and_of_newer_versions_are_refused(path):
    tuning().save(path)
    with pytest.raises(ValueError, match=r"name a file with the schema 'autolr\.SearchResult', got '.*lr\.json'"):
        SearchResult.load(path)
    search().save(path)
    with pytest.raises(ValueError, match=r"name a file with the schema 'autolr\.TuningResult', got '.*lr\.json'"):
        TuningResult.load(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 2}))
    with pytest.raises(ValueError, match=r"of schema version 1 or older, got 'version 2'\."):
        SearchResult.load(path)


def test_html_shows_what_looks_like_code_as_text():
    losses = pd.DataFrame({SCRIPT: [1.0, 2.0], "other": [2.0, 3.0]})
    compared = ScheduleComparison(pd.DataFrame(columns=HISTORY_COLUMNS), losses, {"epsilon": 1e-7})
    for result in (search(caveats=[SCRIPT]), compared):
        assert SCRIPT in str(result)
        assert SCRIPT not in result._repr_html_()
        assert "&lt;script&gt;" in result._repr_html_()


def test_what_is_saved_is_the_same_when_it_is_loaded_and_saved_again(path, tmp_path):
    for make, _ in KINDS.values():
        make().save(path)
        type(make()).load(path).save(tmp_path / "again.json")
        assert path.read_bytes() == (tmp_path / "again.json").read_bytes()
    assert np.isfinite(TuningResult.load(_saved(tuning(), path)).differentials.loss_post).all()


def _saved(result, path):
    result.save(path)
    return path

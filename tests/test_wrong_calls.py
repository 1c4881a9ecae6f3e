"""Every ``raise`` of the package is reached by a wrong call, which says what is wrong, and changes nothing."""

import ast
import contextlib
import re
from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from harness import unchanged
from wrong_calls import MODEL, OPTIMIZER, OUT_OF_REACH, SCHEDULER, WRONG, X

import autolr

PACKAGE = Path(autolr.__file__).parent


def sites():
    """Return file and lines of every ``raise`` by its name, "file: function, number in it", but for bare ones."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        tree = ast.parse(path.read_text())
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        counted = Counter()
        raises = [node for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None]
        for node in sorted(raises, key=lambda node: node.lineno):
            inside = [f for f in functions if f.lineno <= node.lineno <= f.end_lineno]
            name = max(inside, key=lambda f: f.lineno).name if inside else "module"
            counted[name] += 1
            found[f"{file}: {name}, {counted[name]}"] = file, range(node.lineno, node.end_lineno + 1)
    return found


def reached_by(error):
    """Return file and line of the last frame in the package, of an error and of those that led to it."""
    lines = set()
    while error is not None:
        trace, last = error.__traceback__, None
        while trace is not None:
            path = Path(trace.tb_frame.f_code.co_filename)
            if path.is_relative_to(PACKAGE):
                last = path.relative_to(PACKAGE).as_posix(), trace.tb_lineno
            trace = trace.tb_next
        lines.add(last)
        error = error.__cause__ or error.__context__
    return lines


@cache
def caught(number):
    """Return what a wrong call raises, in an empty folder of its own: some leave files behind."""
    call, *_ = WRONG[number]
    unchanged_objects = unchanged(MODEL, OPTIMIZER, scheduler=SCHEDULER, extra=X)
    with TemporaryDirectory() as folder, contextlib.chdir(folder), unchanged_objects:
        try:
            call()
        except Exception as error:  # noqa: BLE001 (it is looked at)
            return error
    return None


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("number", range(len(WRONG)), ids=lambda number: f"{number}: {WRONG[number][2]}")
def test_a_wrong_call_is_refused_in_words_and_changes_nothing(number):
    _, kind, text = WRONG[number]
    error = caught(number)
    assert type(error) is kind
    assert text in str(error)
    assert len(str(error)) < 400


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_raise_is_reached_or_is_said_why_not():
    lines = set().union(*(reached_by(caught(number)) for number in range(len(WRONG))))
    reached = {site for site, (file, span) in sites().items() if any((file, line) in lines for line in span)}
    excused = {site: [words for words in OUT_OF_REACH if re.fullmatch(words, site)] for site in sites()}
    assert not [site for site in sites() if site not in reached and not excused[site]]
    assert not [site for site in reached if excused[site]], "reached after all"
    assert {words for given in excused.values() for words in given} == set(OUT_OF_REACH), "a place that is no more"
    assert len(reached) >= 180
    assert len(WRONG) >= len(reached)

"""The pages of the folder ``assets``: their code gives what they show, and their pictures are there."""

import doctest
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from autolr.schedules._options import SCHEDULES

FOLDER = Path(__file__).parent.parent / "assets"
PAGES = ["linear_regression.md", "mathematics.md", "scheduler_walkthrough.md", "verdicts.md"]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_gives_what_it_shows(page):
    found = doctest.testfile(str(FOLDER / page), module_relative=False, optionflags=FLAGS, encoding="utf-8")
    assert found.attempted > 10
    assert found.failed == 0


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_has_a_small_picture_on_white(name):
    picture = imread(FOLDER / "schedules" / f"{name}.png")
    height, width = picture.shape[:2]
    assert height < width < 400
    np.testing.assert_array_equal(picture[[0, 0, -1, -1], [0, -1, 0, -1], :3], 1.0)
    assert picture[..., :3].min() < 0.2  # and something is drawn


def table_of_walkthrough():
    """Return the rows of the table: the call, and the nine columns after it."""
    text = (FOLDER / "scheduler_walkthrough.md").read_text()
    lines = re.search(r"\n *after +lr.*?\n\n", text, flags=re.DOTALL).group().strip().splitlines()
    return [line.split() for line in lines[1:]]


def test_the_walkthrough_shows_that_constructing_a_scheduler_changes_the_rate():
    made, attached, *_ = table_of_walkthrough()
    assert made[:3] == ["Adam(lr=0.1)", "0.100", "-"]
    assert attached[:6] == ["LambdaLR(...)", "0.025", "0.1", "[0.1]", "[0.025]", "0"]


def test_the_walkthrough_shows_which_call_moves_what():
    rows = table_of_walkthrough()
    assert [row[0] for row in rows[2:]] == ["optimizer.step()", "scheduler.step()"] * 3
    for before, after in itertools.pairwise(rows[1:]):
        rates, moments = slice(1, 6), slice(6, 9)
        same = rates if after[0] == "optimizer.step()" else moments
        moved = moments if after[0] == "optimizer.step()" else rates
        assert after[same] == before[same]
        assert after[moved] != before[moved]
    assert [row[1] for row in rows[1::2]] == ["0.025", "0.050", "0.075", "0.100"]


def test_the_linear_regression_reaches_its_noise_and_its_weights_without_a_schedule():
    text = (FOLDER / "linear_regression.md").read_text()
    found = re.findall(r"mean squared error (\S+), weights \[(.*)\]", text)
    assert len(found) == 2  # rates
    for error, weights in found:
        assert float(error) == pytest.approx(0.04, abs=0.003)
        np.testing.assert_allclose([float(weight) for weight in weights.split()], [0, 2, 4, 6, 8], atol=0.02)

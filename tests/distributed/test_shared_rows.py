"""Rows shared out over ranks: the result of one process, on every rank."""

import numpy as np
import pytest
from launch import launch

pytestmark = pytest.mark.distributed
CASES = [
    "step",
    "line",
    "horizon",
    "warm-up",
    "adaptive",
    "interpolate",
    "partition",
    "few rows",
    "loader",
    "own generator",
]


@pytest.fixture(scope="module")
def ranks():
    return launch("shared_rows", 2)


@pytest.mark.parametrize("name", CASES)
def test_ranks_find_together_what_one_process_finds(ranks, name):
    alone = ranks[0][name]["alone"]
    for rank in ranks:
        together = rank[name]["together"]
        for part in ("pre", "post", "interpolated", "pick"):
            np.testing.assert_array_equal(together[part], alone[part])

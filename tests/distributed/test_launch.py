"""What is said here is what the other tests of this folder stand on."""

import math

import pytest
from launch import launch

pytestmark = pytest.mark.distributed


def test_each_rank_reports_what_it_found():
    reports = launch("echo", 2)
    assert [found["rank"] for found in reports] == [0, 1]
    assert [found["total"] for found in reports] == [1.0, 1.0]
    assert all(math.isnan(found["never"]) for found in reports)


def test_a_failing_worker_fails_the_test_with_its_own_words():
    with pytest.raises(AssertionError, match="as asked for"):
        launch("echo", 2, "fail")

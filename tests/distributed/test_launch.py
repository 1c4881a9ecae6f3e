"""A worker that fails is seen by the test that launched it."""

import pytest
from launch import launch

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def test_a_failing_worker_fails_the_test_with_its_own_words():
    with pytest.raises(AssertionError, match="as asked for"):
        launch("fails", 2)

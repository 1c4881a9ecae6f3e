"""Hooks in trainings of two processes: the same rate on both, that of one process with the batches of both."""

import numpy as np
import pytest
from launch import launch

pytestmark = [pytest.mark.distributed, pytest.mark.integration, pytest.mark.slow]
LIBRARIES = {"lightning": "lightning.pytorch", "transformers": "transformers", "accelerate": "accelerate"}


@pytest.fixture(scope="module", params=LIBRARIES)
def trained(request):
    """What both ranks have reported of a library's trainings."""
    pytest.importorskip(LIBRARIES[request.param])
    return launch(f"hooks_{request.param}", 2)


@pytest.fixture(scope="module")
def cases(trained):
    """The names of the trainings that have the same end as the one without a hook."""
    return [name for name in trained[0] if name.startswith("suggests") and "each" not in name]


def test_a_training_whose_rate_is_left_is_the_one_without_the_hook_bit_for_bit(trained, cases):
    for rank in trained:
        for name in cases:
            assert rank[name]["suggested"]
            assert rank[name]["end"] == rank["without"]["end"], name


def test_a_rate_that_is_far_off_is_set_on_both_ranks_and_the_scheduler_is_rebased(trained):
    for rank in trained:
        suggested = np.ravel(rank["applies"]["suggested"])[0]
        assert suggested > 1e-3
        np.testing.assert_allclose(rank["applies"]["base rates"], suggested)
    assert trained[0]["applies"]["suggested"] == trained[1]["applies"]["suggested"]


def test_a_rank_that_fails_ends_the_tuning_on_both_which_are_as_they_were(trained):
    assert trained[1]["fault"]["error"] == ["ZeroDivisionError", "of the user's own"]
    said = "Rank 1 has ended the call for all ranks: ZeroDivisionError: of the user's own"
    assert trained[0]["fault"]["error"] == ["RankFailedError", said]
    for rank in trained:
        assert rank["fault"]["end"] == rank["without"]["end"]


@pytest.mark.parametrize("trained", ["lightning", "transformers"], indirect=True)
def test_only_the_first_rank_logs(trained):
    assert [rank["applies"]["logged"] for rank in trained] == [1, 0]

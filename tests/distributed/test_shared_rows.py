"""Rows and streams shared out over ranks: the result of one process, on every rank."""

import numpy as np
import pytest
from launch import launch

pytestmark = pytest.mark.distributed
EXACT = ["step", "line", "horizon", "warm-up", "adaptive", "interpolate", "partition", "few rows", "loader"]
EXACT += ["own generator", "extend", "search", "search, one stream", "search, loader", "search, budget"]
NUMBERS = ("pre", "post", "interpolated", "pick")


@pytest.fixture(scope="module")
def ranks():
    return launch("shared_rows", 2)


@pytest.mark.parametrize("name", EXACT)
def test_ranks_find_together_what_one_process_finds_bit_for_bit(ranks, name):
    for number in NUMBERS:
        np.testing.assert_array_equal(ranks[0][name]["together"][number], ranks[0][name]["alone"][number])


@pytest.mark.parametrize("name", [*EXACT, "auto", "no rng", "generator"])
def test_frame_decision_words_and_settings_are_the_same_on_every_rank(ranks, name):
    assert ranks[0][name]["together"] == ranks[1][name]["together"]
    assert ranks[0][name]["together"]["settings"]["num_ranks"] == 2


def test_a_backward_that_was_still_to_come_is_reduced_over_the_ranks_and_that_of_no_probe(ranks):
    """All tunings of the model were between a forward and its backward."""
    assert ranks[0]["gradients"] == ranks[1]["gradients"]


def test_synchronized_batch_norms_wait_for_nobody_and_are_put_back(ranks):
    for rank in ranks:
        assert rank["synchronized"] == [[1], [1], None]


def test_ranks_talk_on_the_cpu_whatever_the_default_device(ranks):
    assert [rank["gathered"] for rank in ranks] == [[0, 1], [0, 1]]


def test_engines_that_the_clocks_choose_agree(ranks):
    for number in NUMBERS:
        np.testing.assert_allclose(*(ranks[0]["auto"][way][number] for way in ("together", "alone")), rtol=1e-6)


def test_a_result_says_what_all_ranks_have_spent(ranks):
    """Each rank verifies its engine, and computes a first loss, for itself."""
    together, alone = (ranks[0]["step"][way]["settings"]["num_gradients"] for way in ("together", "alone"))
    assert together == alone
    assert (
        ranks[0]["line"]["together"]["settings"]["num_evaluations"]
        > ranks[0]["line"]["alone"]["settings"]["num_evaluations"]
    )


@pytest.mark.parametrize("name", ["range test", "one batch"])
def test_tools_that_share_nothing_give_the_same_on_every_rank(ranks, name):
    np.testing.assert_array_equal(ranks[0][name], ranks[1][name])


def test_only_the_first_rank_shows_progress_and_writes(ranks):
    assert [rank["shows a bar"] for rank in ranks] == [True, False]
    for rank in ranks:
        assert rank["files"] == ["rank-0-tuning.html", "rank-0-tuning.json"]


def test_what_would_wait_for_other_ranks_in_a_probe_is_refused(ranks):
    scheduler, loss, optimizer = ranks[0]["refused"]
    assert "`model` must not be shared by several ranks, whose batches would set different rates" in scheduler
    assert "`compute_loss` must not hold a model in DistributedDataParallel" in loss
    assert "`optimizer` must hold its whole state on each rank" in optimizer

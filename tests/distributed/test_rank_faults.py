"""One rank fails: all of them end soon, in words, and as they were (which the workers compare)."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from launch import launch

from autolr import ranks

pytestmark = pytest.mark.distributed
HERE = Path(__file__).parent
SOON = 10.0  # seconds; the worker's patience is 4
OWN_ERRORS = {
    "raises": ("ValueError", "as a user's loss may"),
    "no memory": ("OutOfMemoryError", "out of memory"),
    "interrupt": ("KeyboardInterrupt", ""),
    "NaN": ("ValueError", "`loss_pre` must be finite in every subsample"),
}
DIFFERENT = {
    "other seed": "`rng` must be the same on every rank, got 0 on rank 0 and 1 on rank 1",
    "other rates": "`learning_rates` must be the same on every rank, got [0.0001, ",
    "other size": "`batch_size` must be the same on every rank, got 32 on rank 0 and 33 on rank 1",
    "other data": "`X` must be the same on every rank, got [300, ",
    "share of the data": "and not a share as a DistributedSampler makes it",
    "other weights": "`model` must be the same on every rank, got ",
}


@pytest.fixture(scope="module")
def outcomes():
    return launch("faults", 2)


@pytest.mark.parametrize("at", ["1", "25"])
@pytest.mark.parametrize("fault", OWN_ERRORS)
def test_a_rank_that_fails_raises_its_own_error_and_the_other_one_says_which(outcomes, fault, at):
    error, text = OWN_ERRORS[fault]
    (other, words, seconds), (own, own_words, _) = (rank[f"{fault}, {at}"] for rank in outcomes)
    assert (own, other) == (error, "RankFailedError")
    assert text in own_words
    assert words.startswith(f"Rank 1 has ended the call for all ranks: {error}: {text}".strip())
    assert seconds < SOON


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_between_the_ranks_is_named_on_all_of_them(outcomes, name):
    for rank in outcomes:
        error, words, seconds = rank[name]
        assert error == "ValueError"
        assert DIFFERENT[name] in words
        assert seconds < SOON


def test_an_argument_that_is_wrong_on_one_rank_ends_the_call_on_all(outcomes):
    assert outcomes[1]["a bad argument on one"][0] == "ValueError"
    assert outcomes[0]["a bad argument on one"][1].endswith("ValueError: `num_subsamples` must be at least 2, got 1.")


@pytest.mark.parametrize("name", ["a long row", "a long run"])
def test_no_rank_goes_on_to_the_end_of_a_row_or_of_a_run_of_15_seconds(outcomes, name):
    error, words, seconds = outcomes[0][name]
    assert error == "RankFailedError"
    assert "as a user's loss may" in words
    assert seconds < 0.5 * SOON


def test_a_search_and_a_sharded_model_end_too(outcomes):
    for name in ("search", "sharded"):
        assert [rank[name][0] for rank in outcomes] == ["RankFailedError", "ValueError"]
        assert "as a user's loss may" in outcomes[0][name][1]
        assert outcomes[0][name][2] < SOON


def test_a_rank_that_does_not_come_is_named_and_the_next_call_succeeds(outcomes):
    error, words, seconds = outcomes[0]["absent"]
    assert error == "RankFailedError"
    assert words.startswith("Every rank must make the same call, got none of rank 1 in 4 s")
    assert seconds < SOON
    assert [rank["afterwards"][0] for rank in outcomes] == ["nothing", "nothing"]
    assert [rank["timeout of the user's group"] for rank in outcomes] == [1800.0, 1800.0]


def test_where_time_is_over_it_is_said_that_a_loss_must_not_wait_for_other_ranks():
    silent = {"rank": 1, "error": "no sign of life for 30 s", "lost": True}
    waiting = {"rank": 0, "error": "RuntimeError: [gloo] Timed out waiting 45000ms", "lost": True}
    assert ranks._in_words(silent) == "A rank was lost, as seen with rank 1: no sign of life for 30 s"
    assert ranks._in_words(waiting).endswith("45000ms (a loss must not wait for other ranks, which have other rows)")


def test_all_ranks_have_ended_within_a_minute():
    assert max(ranks.PATIENCE, ranks.SILENCE + 3 * ranks.BEAT) + ranks._GRACE + ranks._LATER < 60.0


def test_a_rank_that_is_killed_ends_the_call_of_the_other_one_which_is_as_it_was():
    with tempfile.TemporaryDirectory() as folder:
        started = [
            (victim, rank, _start(victim, rank, port, folder))
            for victim, port in zip((0, 1), _free_ports(), strict=True)
            for rank in (0, 1)
        ]
        for victim, rank, process in started:
            _, errors = process.communicate(timeout=100)
            assert process.returncode == (-9 if rank == victim else 0), errors
        reports = [json.loads((Path(folder) / str(victim) / f"{1 - victim}.json").read_text()) for victim in (0, 1)]
    assert "was lost" in reports[0][0]  # with rank 0 goes the place where ranks meet
    assert reports[1][0] == "A rank was lost, as seen with rank 1: no sign of life for 2 s"
    assert max(seconds for _, seconds in reports) < SOON


def _free_ports():
    sockets = [socket.socket() for _ in range(2)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _start(victim, rank, port, folder):
    """Start a rank by hand: torchrun would end the others itself."""
    reports = Path(folder) / str(victim)
    reports.mkdir(exist_ok=True)
    ranked = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    path = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **ranked, "OMP_NUM_THREADS": "1", "AUTOLR_REPORTS": str(reports), "PYTHONPATH": path}
    worker = [sys.executable, str(HERE / "workers" / "killed.py"), str(victim)]
    return subprocess.Popen(worker, env=environment, stderr=subprocess.PIPE, text=True)

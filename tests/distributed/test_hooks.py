"""Hooks in trainings of two processes: the same rate on both, that of one process with the batches of both."""

from functools import partial
from importlib import import_module

import numpy as np
import pytest
from launch import launch

pytestmark = [pytest.mark.distributed, pytest.mark.integration, pytest.mark.slow]
LIBRARIES = {"lightning": "lightning.pytorch", "transformers": "transformers", "accelerate": "accelerate"}
as_one_process = partial(np.testing.assert_allclose, rtol=1e-6)


@pytest.fixture(scope="module", params=LIBRARIES)
def trained(request):
    """What both ranks have reported of a library's trainings."""
    pytest.importorskip(LIBRARIES[request.param])
    return launch(f"hooks_{request.param}", 2)


def only(library):
    return pytest.mark.parametrize("trained", [library], indirect=True)


def worker(library):
    """Return the module of a library's worker, to train in this process."""
    return import_module(f"workers.hooks_{library}")


def test_a_training_whose_rate_is_left_is_the_one_without_the_hook_bit_for_bit(trained):
    for rank in trained:
        for name in [name for name in rank if name.startswith("suggests") and name != "suggests, items of each"]:
            assert rank[name]["suggested"]
            assert rank[name]["end"] == rank["without"]["end"], name


def test_a_rate_that_is_far_off_is_set_on_both_ranks_and_the_scheduler_is_rebased(trained):
    for rank in trained:
        assert rank["applies"]["suggested"][0] > 1e-3
        np.testing.assert_allclose(rank["applies"]["base rates"], rank["applies"]["suggested"][0])
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


@only("lightning")
def test_lightning_tunes_as_one_process_that_accumulates_the_batches_of_both(trained):
    lightning = worker("lightning")
    callback = lightning.AutoLRCallback(apply=False, rng=0, **lightning.TUNE)
    expected = lightning.trained(callback, accumulated=2)["found"][0]
    for rank in trained:
        for name in ("suggests", "sharded"):
            as_one_process(rank[name]["found"][0], expected)


@pytest.fixture
def _states_of_its_own():
    """Accelerate keeps its states in classes, where those of other tests may be left."""
    from accelerate.state import AcceleratorState, GradientState

    def forget():
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    forget()
    yield
    forget()


@pytest.mark.usefixtures("_states_of_its_own")
@only("transformers")
@pytest.mark.parametrize("with_trainer", [True, False])
def test_a_trainer_tunes_as_one_process_that_accumulates_the_batches_of_both(trained, with_trainer):
    transformers = worker("transformers")
    options = {**transformers.TUNE, "apply": False}
    expected = transformers.trained(options, accumulated=2, with_trainer=with_trainer)["found"][0]
    # where each process counts the items of its own batches, so does a model that is not told their number
    names = ["suggests"] if with_trainer else ["suggests, trainer unknown", "suggests, items of each"]
    for rank in trained:
        for name in names:
            as_one_process(rank[name]["found"][0], expected)


ACCELERATED = {
    "whole": {},
    "accumulated": {"accumulated": 4},
    "split": {},
    "seeded": {"use_seedable_sampler": True},
    "stream": {"is_stream": True},
    "sharded": {},
}


@pytest.mark.usefixtures("_states_of_its_own")
@only("accelerate")
@pytest.mark.parametrize("name", ACCELERATED)
def test_accelerate_searches_as_one_process_that_accumulates_the_batches_of_both(trained, name):
    expected = worker("accelerate").suggested(**{"accumulated": 2, **ACCELERATED[name]})["found"]
    for rank in trained:
        as_one_process(rank[name]["found"], expected)


@only("accelerate")
def test_what_only_the_first_process_reads_and_what_is_not_begun_are_refused(trained):
    for rank in trained:
        assert rank["dispatched"].startswith("`data` must be prepared with dispatch_batches=False, so that every")
        assert rank["static graph"].startswith("`model` must have taken its first step where static_graph=True")

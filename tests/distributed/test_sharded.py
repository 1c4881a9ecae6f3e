"""Probes of sharded models (FSDP2) are those of one process, and every rank ends as it began."""

import math

import numpy as np
import pytest
from launch import launch
from sharded_calls import CALLS
from sharded_cases import CASES, OF_FOUR

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope="module")
def of_two():
    return launch("sharded", 2)


@pytest.fixture(scope="module")
def of_four():
    return launch("sharded", 4)


def assert_as_one_process(reports, name):
    for found in reports:
        for engine in ("step", "line"):
            assert found[name][engine]["difference"] <= 1e-12
            assert found[name][engine]["moved"] > 1e-3
            assert found[name][engine]["changed"] == ""
            assert found[name][engine]["losses"] == reports[0][name][engine]["losses"]
        assert found[name]["goes on the same"]


@pytest.mark.parametrize("name", CASES)
def test_both_engines_give_the_losses_of_one_process_and_each_rank_goes_on_as_if_nothing_had_been(of_two, name):
    assert_as_one_process(of_two, name)
    engine = "step" if CASES[name].num_steps > 1 else "line"
    assert {found[name]["line"]["engine"] for found in of_two} == {engine}


@pytest.mark.parametrize("name", OF_FOUR)
def test_so_it_is_where_some_ranks_have_nothing_of_some_parameters_or_the_same_as_others(of_four, name):
    assert_as_one_process(of_four, name)
    assert (of_four[-1][name]["empty shards"] > 0) == (OF_FOUR[name].mesh == ())


def test_groups_of_some_ranks_tune_by_themselves(of_four):
    assert [found["in pairs"]["ranks"] for found in of_four] == [[2, 0], [2, 0], [2, 2], [2, 2]]
    assert all(found["in pairs"]["losses"] == of_four[0]["in pairs"]["losses"] for found in of_four)


def test_where_weights_are_rounded_the_resolution_is_that_of_their_dtype(of_two):
    for found in of_two:
        half = found["half"]
        assert half["resolution"] == 2.0**-7
        assert "too coarse" in half["reason"]
        below = np.abs(half["delta"])[:, :2] <= half["resolution"] * np.array(half["loss"])[:, None]
        assert below.all()


def test_without_a_reshard_what_is_written_into_shards_is_ignored_and_probes_fail(of_two):
    for found in of_two:
        before, ignored, seen = found["without reshard"]["losses"]
        assert before == ignored != seen
        assert "Error" in found["without reshard"]["error"]


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_an_error_in_the_middle_of_a_pass_leaves_every_rank_as_it_was(of_two, where):
    for found in of_two:
        broken = found[f"broken off in a {where}"]
        assert broken["error"] == f"ZeroDivisionError('in a {where}')"
        assert broken["changed"] == ""
        assert broken["goes on the same"]


def test_a_loss_that_is_not_finite_on_one_rank_is_infinite_on_all(of_two):
    losses = [found["not finite on one"] for found in of_two]
    assert losses[0] == losses[1]
    assert math.inf in losses[0][0]
    assert math.isfinite(losses[0][0][0])


def test_a_model_that_has_never_run_is_sharded_as_before_and_saves_its_shards(of_two):
    for found in of_two:
        assert found["untouched"] == {"kinds": ["DTensor"], "goes on the same": True}


def test_gradients_that_are_not_reduced_are_refused(of_two):
    for found in of_two:
        assert "`model` must reduce its gradients (set_requires_gradient_sync)" in found["refused"]["error"]
        assert found["refused"]["changed"] == ""


@pytest.mark.parametrize("name", CALLS)
def test_what_users_call_finds_on_each_rank_what_one_process_finds(of_two, name):
    for found in of_two:
        sharded, whole = found["calls"][name]
        np.testing.assert_allclose(sharded["numbers"], whole["numbers"], rtol=1e-12, atol=1e-12)
        assert sharded == of_two[0]["calls"][name][0]


def test_engines_that_see_many_rates_at_once_step_aside_and_say_so(of_two):
    for name, engine in (("tune, auto", "line"), ("tune, three steps", "step")):
        sharded, _ = of_two[0]["calls"][name]
        assert sharded["engine"] == engine
        assert "batched stepped aside: the model is sharded" in sharded["reason"]


def test_derivatives_of_a_sharded_model_are_refused(of_two):
    for found in of_two:
        assert found["calls"]["derivatives"].startswith("`model` must not be sharded for derivatives, got ")


def test_a_grid_below_the_rounding_of_weights_has_no_best_rate(of_two):
    assert [found["calls"]["rounded"] for found in of_two] == ["resolution", "resolution"]


def test_when_the_time_of_one_rank_is_over_so_is_that_of_all(of_two):
    assert [found["calls"]["rows"] for found in of_two] == [2, 2]

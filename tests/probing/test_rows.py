"""Row after row, until the rows, the data or the time end."""

import time

import numpy as np
import pytest
import torch
from engine_cases import classes, cross_entropy, mlp

from autolr.param_groups import base_learning_rates
from autolr.probing import rows
from autolr.probing.objective import Objective
from autolr.probing.random_state import ForkedRandomness
from autolr.probing.rows import Passes, probe_rows
from autolr.probing.start import Start
from autolr.probing.state import preserved_state

RATES = np.array([1e-2, 1e-1])


@pytest.fixture
def start():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with preserved_state(model, optimizer) as snapshot:
        objective = Objective(model, None, cross_entropy, list(model.parameters()))
        yield Start(objective, optimizer, snapshot, ForkedRandomness([]), base_learning_rates(optimizer))


def draw_from(start, num_rows, drawn=None):
    batches = [classes(6, 5) for _ in range(num_rows)]

    def draw(row):
        start.randomness.fork(np.random.SeedSequence(row))
        if drawn is not None:
            drawn.append(row)
        return batches[row] if row < num_rows else None

    return draw


@pytest.mark.parametrize("engine", ["step", "line", "auto"])
@pytest.mark.parametrize(
    ("num_rows", "asked", "expected"), [(3, range(3), 3), (2, range(5), 2), (5, range(2, 5), 3), (0, range(3), 0)]
)
def test_the_rows_asked_for_are_probed_until_the_data_ends(start, engine, num_rows, asked, expected):
    probed = probe_rows(start, RATES, draw_from(start, num_rows), asked, engine=engine)
    assert probed.loss_pre.shape == (expected,)
    assert len(probed.loss_post) == expected
    assert not probed.out_of_time


def test_a_row_depends_on_its_number_only(start):
    draw = draw_from(start, 4)
    every = probe_rows(start, RATES, draw, range(4), engine="step")
    late = probe_rows(start, RATES, draw, range(2, 4), engine="step")
    np.testing.assert_array_equal(every.loss_post[2:], late.loss_post)


@pytest.mark.parametrize("engine", ["step", "line"])
def test_a_deadline_that_has_passed_leaves_two_rows(start, engine):
    probed = probe_rows(start, RATES, draw_from(start, 9), range(9), engine=engine, deadline=time.perf_counter())
    assert len(probed.loss_pre) == 2
    assert probed.out_of_time


def test_the_line_is_verified_on_the_first_and_the_last_row(start):
    drawn = []
    probed = probe_rows(start, RATES, draw_from(start, 3, drawn), range(3), engine="auto")
    assert drawn == [0, 0, 1, 2, 2]
    assert probed.engine_reason == "verified against real steps in the first and the last row"


def test_later_passes_verify_the_line_on_their_last_row_once(start):
    drawn, passes = [], Passes()
    draw = draw_from(start, 4, drawn)
    for rates, chosen, expected in (
        (RATES, range(3), [0, 0, 1, 2, 2]),
        (RATES, range(3), [0, 0, 1, 2]),
        (RATES, range(4), [0, 0, 1, 2, 3, 3]),
    ):
        probed = probe_rows(start, rates, draw, chosen, engine="auto", passes=passes)
        assert drawn == expected
        assert probed.engine in ("line", "batched")
        drawn.clear()
    exact = probe_rows(start, RATES, draw, range(4), engine="step")
    np.testing.assert_allclose(probed.loss_post, exact.loss_post, rtol=1e-6)


LOSSES = {
    "the same": ([0.3, 0.3], True),
    "the same to rounding": ([1e3, 1e3 + 9e-4], True),
    "another": ([0.3, 0.3 + 2e-6], False),
    "infinite at first": ([np.inf, 0.3], False),
    "NaN at last": ([0.3, np.nan], False),
    "never finite": ([np.inf, np.nan], True),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_computed_twice_to_see_whether_it_is_repeatable(start, name, caplog, monkeypatch):
    losses, repeatable = LOSSES[name]
    monkeypatch.setattr(rows, "probe_by_steps", lambda *_: (1.0, np.ones(2)))
    remaining = list(losses)
    monkeypatch.setattr(Objective, "loss", lambda *_, **__: remaining.pop(0))
    probed = probe_rows(start, RATES, draw_from(start, 2), range(2), engine="step")
    assert probed.repeatable is repeatable
    assert remaining == []
    assert ("The loss is not repeatable: from one state it is" in caplog.text) is not repeatable


def test_no_data_is_no_reason_to_use_the_line(start):
    probed = probe_rows(start, RATES, draw_from(start, 0), range(2), engine="line")
    assert probed.engine_reason == "the line engine stepped aside: there is no data"

"""Whatever fails in the middle of any call, everything is put back and the very error comes out; NaN is no error.

Some visits of each place, from the first to the last; ``benchmarks/restore.py --faults`` has each of them fail.
"""

import itertools

import numpy as np
import pytest
from fault_cases import KINDS, RAISING, VALUES, WITH_A_LOADER, WRITING, raised_at, times, written_at
from restore_cases import CALLS


def some_of(number, most):
    """Return some numbers up to ``number``, from the first to the last, denser at the beginning."""
    return sorted({1, number, *np.geomspace(1, number, most).round().astype(int).tolist()})


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_what_fails_at_any_time_comes_out_of_a_call_that_leaves_no_trace(call):
    kinds = itertools.cycle(KINDS)
    for site in RAISING:
        if site == "loader" and call not in WITH_A_LOADER:
            continue
        outcomes = [raised_at(call, site, next(kinds), number) for number in some_of(times(call, site), 4)]
        assert outcomes.count("raised") >= len(outcomes) / 2


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_what_is_not_finite_at_any_time_gives_a_result_or_is_refused_in_words(call):
    names = itertools.cycle(VALUES)
    for site in WRITING:
        outcomes = [written_at(call, site, next(names), number) for number in some_of(times(call, site), 4)]
        assert set(outcomes) <= {"result", "ValueError", "DivergedError", "NoCandidateError"}

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from autolr.errors import DivergedError, NoCandidateError
from autolr.statistics import criteria
from autolr.statistics.criteria import choose, max_stable_index

METHODS = ["mean", "median", "variance_penalized", "ucb", "one_se", "variance", "max"]


@pytest.fixture
def delta():
    """Small rates do little, the fourth is best, the fifth varies, and the last one rises."""
    rng = np.random.default_rng(0)
    return np.array([-0.01, -0.5, -0.9, -1.0, -0.9, 0.5]) + np.array([0.001, 0.1, 0.1, 0.2, 3.0, 3.0]) * rng.normal(
        size=(30, 6)
    )


def test_scores_are_those_of_the_definitions(delta):
    m, s, sem = delta.mean(axis=0), delta.std(axis=0, ddof=1), stats.sem(delta)
    bound = m + stats.t.ppf(0.9, 29) * sem
    np.testing.assert_allclose(criteria.mean(delta), m)
    np.testing.assert_allclose(criteria.median(delta), np.median(delta, axis=0))
    np.testing.assert_allclose(criteria.variance_penalized(delta, penalty=2.5), m + 2.5 * s)
    np.testing.assert_allclose(criteria.ucb(delta, confidence_level=0.9), bound)
    np.testing.assert_allclose(criteria.variance(delta, confidence_level=0.9), np.where(bound < 0, s, np.inf))


def test_picks_of_all_methods_on_one_matrix(delta):
    picks = {method: choose(delta, method).index for method in METHODS}
    assert picks["mean"] == delta.mean(axis=0).argmin()
    assert picks["variance_penalized"] == picks["ucb"] == 3
    assert picks["variance"] == 0
    assert picks["max"] == 3
    assert picks["one_se"] <= picks["mean"]


def test_one_se_takes_the_smallest_rate_within_a_standard_error_of_the_paired_difference(delta):
    best = int(delta.mean(axis=0).argmin())
    near = [
        j
        for j in range(6)
        if j == best or (delta[:, j] - delta[:, best]).mean() <= stats.sem(delta[:, j] - delta[:, best])
    ]
    assert choose(delta, "one_se").index == near[0]
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(criteria.one_se(delta))), near)


def test_of_equal_scores_the_smallest_rate_wins():
    for method in set(METHODS) - {"max"}:
        assert choose(np.full((4, 3), -1.0), method).index == 0
    assert choose(np.full((4, 3), -1.0), "max").index == 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("hole", [np.inf, np.nan])
def test_diverged_or_unprobed_rate_is_not_picked(delta, method, hole):
    pick = choose(delta, method).index
    changed = delta.copy()
    changed[4, pick] = hole
    if method == "median" and hole == np.inf:
        assert np.isfinite(choose(changed, method).scores[pick])  # once in thirty hardly moves the median
    else:
        choice = choose(changed, method)
        assert choice.index != pick
        assert choice.scores[pick] == np.inf


def test_median_is_infinite_where_half_of_the_subsamples_diverged():
    delta = np.full((4, 2), -1.0)
    delta[:2, 0] = np.inf
    np.testing.assert_array_equal(criteria.median(delta), [np.inf, -1.0])


@pytest.mark.parametrize("method", METHODS)
def test_all_diverged_raises(method):
    with pytest.raises(DivergedError, match=f"No learning rate qualifies for method='{method}': each one diverged in"):
        choose(np.full((3, 2), np.inf), method)


@pytest.mark.parametrize("method", METHODS)
def test_none_probed_in_every_row_raises(method):
    with pytest.raises(NoCandidateError, match=f"method='{method}': none was probed in every subsample"):
        choose([[np.nan, 1.0], [0.0, np.nan]], method)


def test_no_candidate_says_why():
    with pytest.raises(NoCandidateError, match="method='variance': at none is the upper confidence bound"):
        choose([[1.0, np.inf], [2.0, 0.0]], "variance")
    with pytest.raises(NoCandidateError, match="method='max': at each one the loss of at least one subsample rose"):
        choose([[1.0, np.inf], [-2.0, 0.0]], "max")
    with pytest.raises(NoCandidateError, match="method='variance_penalized': no score is finite"):
        choose([[-10.0], [10.0]], "variance_penalized", penalty=1e308)


def test_unknown_methods_and_options_are_refused(delta):
    with pytest.raises(ValueError, match=r"`method` must be one of 'mean', 'median', .* 'max', got 'best'\."):
        choose(delta, "best")
    with pytest.raises(TypeError, match=r"`penalty` must be left out of method='mean', which takes no options, got 2"):
        choose(delta, "mean", penalty=2.0)
    with pytest.raises(TypeError, match=r"`penalty` must be left out of method='ucb', which takes `confidence_level`"):
        choose(delta, "ucb", penalty=2.0)
    with pytest.raises(ValueError, match="`penalty` must be finite and at least 0, got -1"):
        choose(delta, "variance_penalized", penalty=-1)
    with pytest.raises(ValueError, match="`confidence_level` must be"):
        choose(delta, "variance", confidence_level=2.0)
    with pytest.raises(ValueError, match="`delta` must be free of -inf"):
        choose([[-np.inf], [0.0]])


@pytest.mark.parametrize(
    "wrong",
    [[["a"], ["b"]], [["1"], ["2"]], [[True], [False]], np.array([[1j], [2j]]), [[1.0], [None]], [[1.0], [1.0, 2.0]]],
    ids=["words", "digits", "bools", "complex", "None", "ragged"],
)
@pytest.mark.parametrize("function", [choose, *criteria.CRITERIA.values(), max_stable_index])
def test_what_is_no_matrix_of_real_numbers_is_refused(function, wrong):
    with pytest.raises(TypeError, match="`delta` must be an array of real numbers, got "):
        function(wrong)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), scale=st.floats(1e-6, 1e6), order=st.permutations(range(8)))
def test_picks_depend_neither_on_the_unit_of_the_loss_nor_on_the_order_of_rows(seed, scale, order):
    delta = np.random.default_rng(seed).normal(-1.0, [0.1, 0.5, 1.0, 2.0], size=(8, 4))
    for method in ["mean", "median", "variance_penalized", "ucb", "one_se"]:
        assert choose(scale * delta[order], method).index == choose(delta, method).index


def test_max_stable_index_goes_up_from_the_smallest_mean():
    rows = np.array([[0.5, -1.0, -3.0, -2.0, -0.1, 1.0, -9.0]] * 2)
    rows[0, 6] = np.inf
    assert max_stable_index(rows) == 4
    rows[1, 3] = np.inf
    assert max_stable_index(rows) == 2


def test_max_stable_index_judges_partly_probed_columns_by_their_own_rows():
    delta = np.array([[-3.0, -1.0, np.nan, np.nan, -1.0], [-3.0, np.nan, np.nan, 2.0, -1.0]])
    assert max_stable_index(delta) == 1
    assert max_stable_index(delta[:, :3]) == 1


def test_max_stable_index_is_none_where_nothing_is_stable():
    assert max_stable_index(np.full((2, 2), np.inf)) is None
    assert max_stable_index([[1.0, 2.0], [1.0, 2.0]]) is None

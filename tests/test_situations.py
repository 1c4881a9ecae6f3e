"""Every situation that assets/verdicts.md explains, on a really tuned model: the doubt, the words, and what is next."""

import pytest
import torch
from torch import nn

import autolr
from autolr import AutoLRTuner, DivergedError, log_grid

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

GRID = log_grid(1e-4, 10.0, 41)
WEIGHTS = torch.tensor([[1.0, -2.0, 3.0]])
_GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(1000, 3, generator=_GENERATOR)
NOISE = torch.randn(1000, 1, generator=_GENERATOR)
Y = X @ WEIGHTS.T + 0.5 * NOISE


def make_model(*, trained=False):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    if trained:
        model.load_state_dict({"weight": WEIGHTS, "bias": torch.zeros(1)})
    return model


def tuner_of(model=None, loss_fn=None):
    model = make_model() if model is None else model
    return AutoLRTuner(model, loss_fn or nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1), rng=0)


def tuned(x=X, y=Y, *, model=None, loss_fn=None, learning_rates=GRID, **options):
    return tuner_of(model, loss_fn).tune(x, y, learning_rates=learning_rates, **options)


def found(model=None, loss_fn=None, **options):
    model = make_model() if model is None else model
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    return autolr.find_lr(model, loss_fn or nn.MSELoss(), sgd, (X, Y), batch_size=32, rng=0, **options)


def range_tested(**options):
    model = make_model()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    return autolr.lr_range_test(model, nn.MSELoss(), sgd, (X, Y), rng=0, **options)


def check_form(words, *, caveats=0):
    """Check that a verdict has at most five lines, which begin as they should, then its caveats, none too long."""
    lines = words.splitlines()
    told = lines[: len(lines) - caveats]
    assert all(line.startswith("Caveat: ") for line in lines[len(told) :])
    assert 2 <= len(told) <= 5
    assert told[0].startswith(("Learning rate ", "I cannot tell: "))
    assert [line.startswith("Next: ") for line in told] == [False] * (len(told) - 1) + [True]
    assert any(line.startswith("Measured ") for line in told)
    assert max(map(len, lines)) <= 120
    assert all(line.endswith(".") for line in lines)
    return told


def test_a_clear_minimum_is_told_in_five_lines_without_a_caveat():
    suggestion = tuned().suggest()
    # of a bowl with the curvature 2, a step at 1/2 leads to the bottom, and one at 1 as high as before; noise takes off
    assert 0.3 < float(suggestion) < 0.6
    assert (suggestion.doubt, suggestion.caveats) == (None, ())
    told = check_form(str(suggestion))
    assert told[0].startswith("Learning rate 0.42: one step lowers the loss by ")
    assert told[2] == "The loss rises from 1 on."
    assert "from these 1000 observations only" in told[3]
    assert told[4].endswith("autolr.find_lr; one step does not tell it.")


def test_few_draws_of_many_observations_are_not_about_these_only():
    many = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0))
    told = check_form(str(tuned(many, many @ WEIGHTS.T, num_subsamples=20)))
    assert told[3].startswith("Measured on 20 subsamples of 32 observations: ")


def test_a_trained_model_is_flat():
    suggestion = tuned(model=make_model(trained=True)).suggest()
    assert suggestion.doubt == "flat"
    told = check_form(str(suggestion))
    assert told[0] == "I cannot tell: at no rate does a step lower the loss with 95% confidence."
    assert told[-1].startswith("Next: check that there is something left to learn")


def test_noise_that_may_hide_a_fall_is_no_flat_loss():
    options = {"num_subsamples": 20, "batch_size": 2}
    suggestion = tuned(X, Y + 5.0 * NOISE, **options).suggest()
    assert suggestion.doubt == "noise"
    assert check_form(str(suggestion))[0].startswith("I cannot tell: the noise is too high")
    assert tuned(X, Y + 5.0 * NOISE, num_subsamples=200, batch_size=64).suggest().doubt is None  # as it advises


def test_a_plateau_is_too_wide():
    model = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(model.weight)

    def wrong_sign(output, target):  # of weights that begin at 0, every large step ends with the same signs
        return torch.sigmoid(-output * target.sign()).mean()

    suggestion = tuned(model=model, loss_fn=wrong_sign, learning_rates=log_grid(1e-3, 1e6, 40)).suggest()
    assert suggestion.doubt == "wide"
    assert "may be the best (95%)." in check_form(str(suggestion))[0]


@pytest.mark.parametrize(
    ("ends", "side", "words", "wider"),
    [
        ((1e-5, 1e-2), "largest", "log_grid(1e-5, 10, 49)", (1e-5, 10.0, 49)),
        ((0.6, 1.0), "smallest", "log_grid(6e-4, 1, 27)", (6e-4, 1.0, 27)),
    ],
)
def test_the_grid_that_an_edge_asks_for_holds_the_best_rate(ends, side, words, wider):
    suggestion = tuned(learning_rates=log_grid(*ends, 12)).suggest()
    assert suggestion.doubt == "edge"
    told = check_form(str(suggestion))
    assert f"is the {side} rate of the grid" in told[0]
    assert told[-1] == f"Next: widen the grid, learning_rates=autolr.{words}."
    assert tuned(learning_rates=log_grid(*wider)).suggest().doubt is None


def test_a_loss_that_rises_at_every_rate_asks_for_smaller_ones():
    suggestion = tuned(learning_rates=log_grid(2.0, 10.0, 5)).suggest()
    assert suggestion.doubt == "edge"
    told = check_form(str(suggestion))
    assert told[0].startswith("I cannot tell: the loss rises at all rates of the grid")
    assert told[-1] == "Next: use smaller rates, learning_rates=autolr.log_grid(2e-3, 10, 31)."


def test_changes_that_are_rounding_only():
    suggestion = tuned(learning_rates=log_grid(1e-12, 1e-10, 5)).suggest()
    assert (suggestion.doubt, suggestion.caveats) == ("resolution", ())
    assert "rounding error" in check_form(str(suggestion))[0]


def test_every_rate_diverges():
    result = tuned(1e12 * X, 1e12 * Y, learning_rates=log_grid(1.0, 10.0, 5))
    with pytest.raises(DivergedError, match="each one diverged"):
        result.suggest()
    assert check_form(str(result))[0].startswith("I cannot tell: every rate of the grid diverged")


def test_some_rates_diverge_and_the_pick_is_below_them():
    suggestion = tuned(learning_rates=log_grid(1e-4, 1e25, 60)).suggest()
    assert (suggestion.doubt, suggestion.caveats) == (None, ())
    assert ", probes diverge from " in check_form(str(suggestion))[2]


def test_ties_of_a_coarse_loss():
    def coarse(output, target):
        return (output - target).square().mean().bfloat16()

    suggestion = tuned(loss_fn=coarse, learning_rates=log_grid(0.1, 1.0, 30)).suggest()
    assert suggestion.doubt is None
    assert "tied with the pick: losses differ by rounding only." in suggestion.caveats[0]
    check_form(str(suggestion), caveats=1)


def test_one_spoiled_label_is_a_heavy_tail_that_the_median_bears():
    spoiled = Y.clone()
    spoiled[7] = 300.0
    result = tuned(X, spoiled, learning_rates=log_grid(1e-3, 3.0, 25), batch_size=16, num_subsamples=60)
    assert "the mean is less sure than it looks. Try method='median'." in result.suggest().caveats[0]
    check_form(str(result), caveats=1)
    median = result.suggest("median")
    assert median.doubt is None  # though the variance of its pick is that of one subsample
    assert 0.3 < float(median) < 0.6


def test_a_method_that_likes_small_rates_is_told_so_and_not_to_widen_the_grid():
    with pytest.warns(autolr.GridEdgeWarning, match="its steps vary the least; use another method"):
        suggestion = tuned().suggest("variance_penalized", penalty=5.0)
    assert suggestion.doubt == "edge"
    told = check_form(str(suggestion), caveats=1)
    assert told[0] == (
        "I cannot tell: the method variance_penalized picks the smallest rate, 1e-4, as its steps vary the least."
    )
    assert "it may lose up to" in suggestion.caveats[0]


def test_five_subsamples_are_few():
    suggestion = tuned(num_subsamples=5).suggest()
    assert suggestion.caveats == ("With fewer than 20 subsamples intervals are rough; these are 5.",)
    check_form(str(suggestion), caveats=1)


def test_an_interrupted_tuning_says_how_far_it_came():
    calls = iter(range(10**6))

    def stopped(output, target):
        if next(calls) == 75:
            raise KeyboardInterrupt
        return (output - target).square().mean()

    tuner = tuner_of(loss_fn=stopped)
    with pytest.raises(KeyboardInterrupt):
        tuner.tune(X, Y, learning_rates=GRID, engine="line")
    num_rows = tuner.result.differentials.num_subsamples
    assert tuner.suggest().caveats[0] == f"The tuning was interrupted after {num_rows} of 100 subsamples."


def test_a_time_budget_says_how_far_it_came():
    caveats = tuned(time_budget=1e-3).suggest().caveats
    assert caveats[0] == "The time budget ended after 2 of 100 subsamples."


def test_a_race_that_is_not_decided_says_by_how_much():
    options = {"adaptive": True, "num_subsamples": 30, "regret_tolerance": 0.0}
    suggestion = tuned(learning_rates=log_grid(0.2, 0.8, 20), **options).suggest()
    assert "Measured on 30 of at most 30 subsamples" in check_form(str(suggestion), caveats=1)[3]
    assert suggestion.caveats[0].startswith("Not decided: the pick may lose up to ")


def test_disjoint_subsamples_are_about_new_data_too():
    words = str(tuned(sampling="partition"))
    assert "Measured on 20 disjoint subsamples of 25 observations, for new data too: " in words
    assert "only" not in words


def test_several_steps_are_counted_and_no_longer_called_one():
    told = check_form(str(tuned(learning_rates=log_grid(0.03, 3.0, 15), horizon=[1, 5], num_subsamples=20)))
    assert told[0].startswith("Learning rate 0.3: 5 steps lower the loss")
    assert "20 subsamples of 5 x 32 from these" in told[3]
    assert "one step" not in told[4]


def test_a_grid_of_one_rate():
    assert check_form(str(tuned(learning_rates=[0.1])))[1] == "There is no other rate to compare it with."


@pytest.mark.parametrize("options", [{"interpolate": True}, {"interpolate": True, "adaptive": True}])
def test_other_ways_to_measure_keep_the_form(options):
    told = check_form(str(tuned(learning_rates=log_grid(1e-6, 10.0, 64), **options)))
    # of a race, only the look that decides which rates race is made by interpolated values
    assert ("interpolated" in told[3]) == ("adaptive" not in options)


@pytest.mark.parametrize("method", ["median", "variance_penalized", "ucb", "one_se"])
def test_every_method_is_named_and_keeps_the_form(method):
    suggestion = tuned().suggest(method)
    told = check_form(str(suggestion), caveats=len(suggestion.caveats))
    assert f" (method {method}): " in told[0]
    assert told[1].startswith("By the mean, ")


@pytest.mark.parametrize(
    ("options", "doubt", "words"),
    [
        ({"total_steps": 2000}, None, "Between "),
        ({"total_steps": 2000, "model": make_model(trained=True)}, "flat", "at no rate does training lower the loss"),
        ({"total_steps": 2000, "max_evaluations": 100}, None, "Caveat: The budget ended the search early"),
        ({}, None, "Ten times as many need a rate 2.5 times smaller."),
        ({"total_steps": 30}, None, "% of the run.\nNext: train with it"),
    ],
)
def test_searches(options, doubt, words):
    suggestion = found(**options)
    assert suggestion.doubt == doubt
    check_form(str(suggestion), caveats=len(suggestion.caveats))
    assert words in str(suggestion)


def test_a_search_whose_best_rate_is_the_largest_that_is_tried():
    suggestion = found(loss_fn=lambda output, target: 1e-6 * (output - target).square().mean(), total_steps=2000)
    assert suggestion.doubt == "edge"
    told = check_form(str(suggestion), caveats=len(suggestion.caveats))
    assert told[0].endswith("comes from the largest rate that is tried.")
    assert told[-1] == "Next: check the scale of the loss and of the data."


@pytest.mark.parametrize("num_repeats", [1, 5])
def test_range_tests(num_repeats):
    result = range_tested(num_repeats=num_repeats)
    for rule in ("steepest", "valley", "slide", "minimum"):
        suggestion = result.suggest(rule)
        told = check_form(str(suggestion), caveats=len(suggestion.caveats))
        assert ("One run does not tell" in told[1]) == (num_repeats == 1)


def test_an_expansion_of_one_batch():
    model = make_model()
    told = check_form(
        str(autolr.taylor_expansion(model, nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1), X[:32], Y[:32]))
    )
    assert told[-1].endswith("one batch does not tell it.")

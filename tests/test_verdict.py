"""The verdict says what the numbers say, each situation on a really tuned model."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from autolr import AutoLRTuner, LossDifferentials, TuningResult, linear_grid, log_grid

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def tuned(*, noise=0.1, learning_rates=None, num_subsamples=40, scale=1.0, model=None, loss_fn=None, **options):
    generator = torch.Generator().manual_seed(0)
    X = scale * torch.randn(400, 3, generator=generator)
    Y = X @ torch.tensor([[1.0], [-2.0], [3.0]]) + noise * torch.randn(400, 1, generator=generator)
    torch.manual_seed(0)
    model = nn.Linear(3, 1) if model is None else model
    tuner = AutoLRTuner(model, loss_fn or nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1), rng=0)
    rates = log_grid(1e-4, 10.0, 41) if learning_rates is None else learning_rates
    return tuner.tune(X, Y, learning_rates=rates, num_subsamples=num_subsamples, **options)


def test_a_clear_minimum():
    lines = str(tuned()).splitlines()
    assert re.fullmatch(
        r"Learning rate 0\.\d+: one step lowers the loss by \d+\.\d+ on average, from \d+\.?\d*\.",
        lines[0],
    )
    assert re.fullmatch(
        r"(Rates from \S+ to \S+ are|No other rate of the grid is) as good; on a finer grid the best is between"
        r" 0\.\d+ and 0\.\d+ \(95%\)\.",
        lines[1],
    )
    assert re.fullmatch(r"The loss rises from \d?\.?\d+ on\.", lines[2])
    assert re.fullmatch(
        r"Measured on 40 subsamples of 32 from these 400 observations only: \d+ gradient evaluations in \d+\.\d s\.",
        lines[3],
    )
    assert lines[4:] == ["Next: search for the rate of a whole run with autolr.find_lr; one step does not tell it."]


def test_the_numbers_of_the_verdict_are_those_of_the_suggestion():
    suggestion = tuned().suggest("median", confidence_level=0.9)
    assert f"{suggestion.evidence.differentials.loss_pre.mean():.3g}" in str(suggestion)
    assert "(method median)" in str(suggestion)
    assert "in the median" in str(suggestion)
    assert "(90%)" in str(suggestion)
    assert str(suggestion).splitlines()[0].startswith(f"Learning rate {suggestion.learning_rate:.2g} ")


def test_the_grid_ends_before_the_minimum():
    verdict = str(tuned(learning_rates=log_grid(1e-5, 1e-2, 20)))
    assert verdict.startswith("I cannot tell: the pick, 0.01, is the largest rate of the grid; a larger one may be")
    assert verdict.endswith("\nNext: widen the grid, learning_rates=autolr.log_grid(1e-5, 10, 49).")
    assert "as good" not in verdict
    assert "rises" not in verdict


def test_the_grid_begins_after_the_minimum():
    verdict = str(tuned(learning_rates=log_grid(0.6, 1.0, 12)))
    assert verdict.startswith("I cannot tell: the pick, 0.6, is the smallest rate of the grid; a smaller one may be")
    assert "learning_rates=autolr.log_grid(6e-4, 1, 27)" in verdict


def test_no_rate_improves_the_loss():
    model = nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0, 3.0]]))
        model.bias.zero_()
    verdict = str(tuned(model=model, noise=1.0))
    assert verdict.startswith("I cannot tell: at no rate does a step lower the loss with 95% confidence.")
    assert re.search(r"\nAt \S+, the best by the mean, it may fall by up to \S+, from 1\.\d+ \(95%\)\.\n", verdict)
    assert "\nNext: check that there is something left to learn; if so, use more" in verdict
    assert "find_lr" not in verdict


def test_too_many_rates_are_as_good():
    model = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(model.weight)

    def wrong_sign(output, target):  # of weights that begin at 0, every large step ends with the same signs
        return torch.sigmoid(-output * target.sign()).mean()

    result = tuned(model=model, loss_fn=wrong_sign, learning_rates=log_grid(1e-3, 1e6, 40))
    best = result.suggest().best_set
    assert best[-1] > 100 * best[0]
    assert re.match(
        rf"I cannot tell: any of {len(best)} rates from \S+ to \S+ may be the best \(95%\)\.\n(.*\n)*Next: use more",
        str(result),
    )


def test_every_rate_diverges():
    verdict = str(tuned(scale=1e12, noise=0.0, learning_rates=log_grid(1.0, 10.0, 5)))
    assert verdict.startswith("I cannot tell: every rate of the grid diverged, also the smallest, 1.\n")
    assert verdict.endswith(
        "check the loss and the scale of the data, then try learning_rates=autolr.log_grid(1e-3, 1, 25)."
    )


def test_some_rates_diverge():
    result = tuned(loss_fn=lambda output, target: (output - target).pow(2).mean().clamp(max=200.0).log1p().exp() - 1.0)
    assert np.isfinite(result.differentials.delta).all()
    result = tuned(learning_rates=log_grid(1e-4, 1e25, 60))
    edge = result.differentials.learning_rates[np.isinf(result.differentials.delta).any(0)][0]
    assert f"probes diverge from {edge:.1e}".replace("e+", "e").replace(".0e", "e") in str(result)


def test_changes_below_the_resolution_of_the_loss():
    verdict = str(tuned(learning_rates=log_grid(1e-12, 1e-10, 5)))
    assert verdict.startswith("I cannot tell: at no rate does the loss change by more than its rounding error.\n")
    assert "Caveat" not in verdict


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampling": "partition", "batch_size": 5}, "Measured on 40 disjoint subsamples of 5 observations"),
        ({"sampling": "partition", "batch_size": 5}, "for new data too"),
        ({"evaluation": "subsample"}, "Caveat: Losses were measured on the subsample that gave the gradient"),
        ({"evaluation": (torch.ones(50, 3), torch.ones(50, 1))}, ", losses on your own data"),
        ({"adaptive": True}, "Measured on 40 of at most 40 subsamples"),
        ({"num_subsamples": 5}, "Caveat: With fewer than 20 subsamples intervals are rough; these are 5."),
        ({"horizon": 3}, "Measured on 40 subsamples of 3 x 32 from these 400 observations only"),
        (
            {"evaluation": [(torch.ones(50, 3), torch.ones(50, 1))]},
            "Caveat: The evaluation data was read 40 times: rows share its batches",
        ),
    ],
)
def test_what_it_was_measured_on(options, words):
    assert words in str(tuned(**options))


def test_a_loss_that_draws_from_where_nobody_looks(caplog):
    draws = iter(np.random.default_rng(0).random(1_000_000))  # no generator is to be seen
    result = tuned(loss_fn=lambda output, target: (output - target).square().mean() + 0.01 * next(draws))
    assert "Caveat: The loss is not repeatable: the same weights gave two losses on the same batch." in str(result)
    assert "The loss is not repeatable" in caplog.text


def test_the_largest_rate_without_a_rise_is_called_a_bound():
    result = tuned(evaluation="subsample", noise=0.0)
    assert "a bound, not a good rate" in str(result.suggest("max"))


def test_a_pick_outside_of_the_best_set_says_so():
    suggestion = tuned(num_subsamples=100).suggest("variance")
    assert suggestion.learning_rate not in suggestion.best_set
    assert any("the pick is not among the best rates: it may lose up to" in caveat for caveat in suggestion.caveats)


def test_the_least_variance_at_the_smallest_rate_is_no_reason_to_widen_the_grid():
    verdict = str(tuned().suggest("variance"))
    assert verdict.startswith("I cannot tell: the method variance picks the smallest rate, 1e-4, as its steps")
    assert "Next: use another method" in verdict


def test_where_even_the_best_rate_makes_it_worse():
    verdict = str(tuned(learning_rates=log_grid(2.0, 10.0, 5)))
    assert verdict.startswith("I cannot tell: the loss rises at all rates of the grid, least at the smallest, 2.\n")
    assert verdict.endswith("Next: use smaller rates, learning_rates=autolr.log_grid(2e-3, 10, 31).")


def logged(means, *, noise=0.01, rates=None):
    """Return a result of losses logged elsewhere: 30 subsamples around ``means``."""
    delta = np.asarray(means) + noise * np.random.default_rng(0).normal(size=(30, len(means)))
    rates = log_grid(0.1, 10.0 ** (len(means) - 2), len(means)) if rates is None else rates
    return TuningResult(LossDifferentials(rates, np.full(30, 3.0), 3.0 + delta), {"resolution": 1e-7})


INF = np.inf


@pytest.mark.parametrize(
    ("means", "words"),
    [
        ([0.5, -0.2, -0.3, -0.25], "No larger rate of the grid, up to 100, raises the loss."),
        ([-0.1, -0.3, 0.3, -0.2], "The loss first rises at 10."),
        ([-0.1, -0.3, INF, -0.2], "30 of 30 probes diverged at 10."),
        ([-0.1, -0.2, 0.3, 0.9], "The loss rises from 10 on."),
        ([-0.1, -0.2, 0.3, INF], "The loss rises from 10 on, probes diverge from 100 on."),
        ([-0.1, -0.2, INF, INF], "Probes diverge from 10 on."),
        ([INF, -0.2, -0.3, 0.1], "The loss rises from 100 on, some diverged at 0.1 too."),
    ],
)
def test_the_edge_is_sought_above_the_best_rate(means, words):
    assert f"\n{words}\n" in str(logged(means))


@pytest.mark.parametrize(
    ("means", "words"),
    [
        ([1e-9, 2e-9, 3e-9], "I cannot tell: at no rate does the loss change by more than its rounding error"),
        ([0.0, 0.0, 0.0], "I cannot tell: at no rate does the loss change by more than its rounding error"),
        ([1e-9, 0.1, 1.0], "I cannot tell: the loss rises at all rates of the grid, least at the smallest, 0.1."),
        ([0.0, 1e-3, 1e-3], "I cannot tell: at no rate does a step lower the loss with 95% confidence"),
    ],
)
def test_what_is_below_the_resolution_and_what_only_rises(means, words):
    assert str(logged(means, noise=0.0 if means[-1] == 0.0 else 1e-10)).startswith(words)


def test_a_grid_that_diverges_from_its_second_rate_on_asks_for_smaller_ones():
    words = str(logged([1e-3, INF, INF]))
    assert words.startswith("I cannot tell: the loss rises at all rates of the grid, least at the smallest, 0.1.")


def test_where_no_mean_falls_the_edge_is_where_the_loss_clearly_rises():
    words = str(logged([1e-4, 1e-4, 0.5, 0.9]))
    assert words.startswith("I cannot tell: at no rate does a step lower the loss with 95% confidence")
    assert "\nThe loss rises from 10 on.\n" in words
    assert "\nThe loss rises or probes diverge from 10 on.\n" in str(logged([1e-4, 1e-4, 0.5, INF]))
    assert "rises" not in str(logged([1e-4, 1e-4, 1e-4]))


def test_a_median_can_be_told_where_every_mean_is_infinite():
    result = logged([-0.1, -0.3, -0.2])
    post = result.differentials.loss_post[:, :, 0].copy()
    post[[0, 1, 2], [0, 1, 2]] = INF
    result = TuningResult(LossDifferentials(result.differentials.learning_rates, np.full(30, 3.0), post))
    assert str(result.suggest("median")).startswith("Learning rate 1 (method median): one step lowers the loss by 0.3")
    assert "rises" not in str(result.suggest("median"))


@pytest.mark.parametrize(("method", "options"), [("variance_penalized", {"penalty": 10.0}), ("variance", {})])
def test_a_pick_outside_of_the_best_set_is_not_called_as_good(method, options):
    words = str(tuned(num_subsamples=100).suggest(method, **options))
    assert re.search(r"\nBy the mean, the best rate is (one of \d+ from \S+ to )?\S+ \(95%\)\.\n", words)
    assert " as good" not in words


def test_the_confidence_level_is_not_rounded_up():
    assert "(99.9%)" in str(tuned().suggest(confidence_level=0.999))


def test_one_rate_has_nothing_to_be_compared_with():
    assert "\nThere is no other rate to compare it with.\n" in str(logged([-0.3], rates=[0.1]))


def test_losses_logged_elsewhere_get_a_verdict_too():
    post = np.random.default_rng(0).normal([[0.9, 0.5, 0.9]], 0.01, (30, 3))
    verdict = str(TuningResult(LossDifferentials(linear_grid(0.1, 0.3, 3), np.ones(30), post)))
    assert verdict.startswith("Learning rate 0.2: one step lowers the loss by 0.")
    assert "Measured on 30 subsamples.\n" in verdict


def test_rates_that_were_probed_in_no_common_row():
    verdict = str(TuningResult(LossDifferentials([0.1, 0.2], [1.0, 1.0], [[0.5, np.nan], [np.nan, 0.5]])))
    assert verdict.startswith("I cannot tell: no rate was probed in every subsample.")


def test_one_subsample_that_makes_up_the_variance():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(2000, 3, generator=generator)
    Y = X @ torch.tensor([[1.0], [-2.0], [3.0]])
    Y[7] = 300.0  # a label with its decimal point lost
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    tuner = AutoLRTuner(model, nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1), rng=0)
    result = tuner.tune(X, Y, batch_size=8, learning_rates=log_grid(1e-3, 0.3, 20), num_subsamples=100)
    assert re.search(
        r"Caveat: One subsample makes up \d\d% of the variance: the mean is less sure than it looks\.", str(result)
    )
    Y[7] = 0.0
    assert "less sure" not in str(tuner.tune(X, Y, batch_size=8, learning_rates=log_grid(1e-3, 0.3, 20)))


def test_rates_that_are_tied_within_the_resolution_of_the_loss():
    def coarse(output, target):  # losses as a half-precision model has them
        return (output - target).pow(2).mean().bfloat16()

    tied = tuned(loss_fn=coarse, learning_rates=log_grid(0.42, 0.4201, 5)).suggest()
    others = len(tied.best_set) - 1
    words = "rate is" if others == 1 else "rates are"
    assert others > 0
    assert f"{others} other {words} tied with the pick: losses differ by rounding only." in tied.caveats
    assert not any("tied" in caveat for caveat in tuned(learning_rates=log_grid(0.1, 1.0, 5)).suggest().caveats)


def test_a_rate_that_explodes_once_does_not_make_the_others_flat():
    rates = log_grid(1e-3, 10.0, 25)
    result = tuned(learning_rates=rates, num_subsamples=40, horizon=10)
    suggestion = result.suggest()
    assert suggestion.doubt is None
    assert max(suggestion.best_set) < suggestion.max_stable_lr * 1.5
    table = result.summary()
    assert (table["mean"][table["in_best_set"]] < 0.0).all()
    assert (table["band_high"] < 0.0).any()


def test_a_race_that_was_not_decided_says_by_how_much():
    verdict = str(tuned(adaptive=True, num_subsamples=30, regret_tolerance=0.0, learning_rates=log_grid(0.2, 0.8, 20)))
    assert re.search(
        r"Caveat: Not decided: the pick may lose up to \S+ to the best rate \(\d+% of its gain, 0% asked for\)", verdict
    )


def test_few_evaluation_observations_are_named():
    few = (torch.ones(20, 3), torch.ones(20, 1))
    assert "Caveat: Losses were measured on the same 20 observations again and again" in str(tuned(evaluation=few))

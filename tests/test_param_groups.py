"""One rate for all parameter groups, their ratios kept."""

import pytest
import torch

from autolr.param_groups import base_learning_rates, set_learning_rate


def sgd(*rates, **options):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups, **options)


def rates_of(optimizer, key="lr"):
    return [float(group[key]) for group in optimizer.param_groups]


@pytest.mark.parametrize(
    ("rates", "initial", "expected"),
    [
        ((0.1, 0.2), None, [0.1, 0.2]),
        ((0.1, 0.0), None, [0.1, 0.0]),  # a group that is held still
        ((0.0, 0.0), (0.1, 0.4), [0.1, 0.4]),  # a warm-up begins
        ((0.1, 0.0), (0.2, 0.0), [0.2, 0.0]),
        ((0.05, 0.1), (0.2, 0.8), [0.05, 0.1]),  # the schedule has changed the ratio since
        ((torch.tensor(0.5), 0.25), None, [0.5, 0.25]),
    ],
)
def test_the_base_rates_are_those_of_the_groups_or_their_initial_ones(rates, initial, expected):
    optimizer = sgd(*rates)
    for group, rate in zip(optimizer.param_groups, initial or (), strict=False):
        group["initial_lr"] = rate
    assert base_learning_rates(optimizer) == expected


def test_a_first_rate_of_zero_without_an_initial_one_is_refused():
    with pytest.raises(ValueError, match=r"`optimizer` must have a learning rate above 0 in its first .* got 0\.0\."):
        base_learning_rates(sgd(0.0, 0.1))


def test_a_group_without_a_rate_is_refused():
    optimizer = sgd(0.1)
    del optimizer.param_groups[0]["lr"]
    with pytest.raises(ValueError, match=r"`optimizer` must have an 'lr' in every parameter group, got 'SGD'\."):
        base_learning_rates(optimizer)


def test_setting_the_rate_keeps_the_ratios():
    optimizer = sgd(0.1, 0.2, 0.0)
    set_learning_rate(optimizer, 3.0, [0.1, 0.2, 0.0])
    assert rates_of(optimizer) == [3.0, 6.0, 0.0]
    assert all(type(group["lr"]) is float for group in optimizer.param_groups)


def test_the_first_rate_is_set_exactly():
    optimizer = sgd(0.1, 0.3)
    for rate in (1e-6, 0.1, 1 / 3, 10.0):
        set_learning_rate(optimizer, rate, base_learning_rates(optimizer))
        assert optimizer.param_groups[0]["lr"] == rate


def test_a_rate_that_is_a_tensor_is_filled_in_place():
    rate = torch.tensor(0.5)
    optimizer = sgd(rate, 0.25)
    set_learning_rate(optimizer, 2.0, [0.5, 0.25])
    assert optimizer.param_groups[0]["lr"] is rate
    assert rates_of(optimizer) == [2.0, 1.0]


def test_another_entry_is_set_where_it_exists():
    optimizer = sgd(0.1, 0.2)
    optimizer.param_groups[1]["initial_lr"] = 7.0
    set_learning_rate(optimizer, 1.0, [0.1, 0.2], key="initial_lr")
    assert "initial_lr" not in optimizer.param_groups[0]
    assert optimizer.param_groups[1]["initial_lr"] == 2.0
    assert rates_of(optimizer) == [0.1, 0.2]

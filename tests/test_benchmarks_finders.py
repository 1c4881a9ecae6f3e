"""benchmarks/finders.py sees what a finder leaves changed, by its kind, and asks all finders about one training."""

import contextlib
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))  # at the end: the names there are common ones

pytest.importorskip("sklearn")
finders = pytest.importorskip("finders")


@pytest.fixture(autouse=True)
def _global_generators():
    """The benchmark is a script of its own, which may seed them; the tests after this one may not see that."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002


CHANGES = {
    "weights": lambda training: training.model[0].weight.data.add_(1e-6),
    "BatchNorm's statistics": lambda training: training.model[1].running_mean.add_(1e-6),
    "gradients": lambda training: training.optimizer.zero_grad(),
    "modes": lambda training: training.model.train(),
    "optimizer's moments": lambda training: next(iter(training.optimizer.state.values()))["exp_avg"].mul_(2.0),
    "optimizer's options": lambda training: training.optimizer.param_groups[0].update(lr=0.1),
    "torch's generator": lambda _: torch.rand(()),
    "NumPy's generator": lambda _: np.random.normal(),  # noqa: NPY002
    "Python's generator": lambda _: random.random(),
    "order of the next epoch": lambda training: iter(training.loader),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_each_kind_of_change_is_seen_and_no_other_with_it(kind):
    def find(training, _):
        CHANGES[kind](training)
        return finders.Suggested(0.1, 1.0)

    assert finders.left_changed(finders.Finder("a finder", "autolr", find)) == ([kind], 0)


def test_all_kinds_are_tried_and_looking_changes_none():
    training = finders.training_of(0)
    facts = finders.facts(training)
    assert list(facts) == list(CHANGES)
    assert finders.facts(training) == facts


def test_seeds_have_the_same_weights_and_their_own_orders_and_masks():
    one, other = (finders.facts(finders.training_of(seed)) for seed in (0, 1))
    differ = {"torch's generator", "NumPy's generator", "Python's generator", "order of the next epoch"}
    assert {kind for kind in one if one[kind] != other[kind]} == differ


def test_a_loss_that_is_called_less_often_the_second_time_raises_all_the_same():
    def find(training, _):
        training.model.train()
        for _ in range(3):
            training.loss_fn(torch.zeros(1, 10), torch.zeros(1, dtype=torch.long))

    assert finders.left_changed(finders.Finder("a finder", "autolr", find), raise_at=9) == (["modes"], 2)


def test_a_finder_that_keeps_the_exception_of_a_loss_is_found_out():
    def find(training, _):
        with contextlib.suppress(finders.Halfway):
            training.loss_fn(torch.zeros(1, 10), torch.zeros(1, dtype=torch.long))
        return finders.Suggested(0.1, 1.0)

    with pytest.raises(RuntimeError, match="a finder kept an exception of the loss for itself"):
        finders.left_changed(finders.Finder("a finder", "autolr", find), raise_at=1)


def test_a_seed_without_a_rate_and_one_that_cannot_tell_count_as_none():
    def find(_, seed):
        if seed == 1:
            raise RuntimeError("the curve is too short")
        return finders.Suggested(None if seed == 2 else 0.1, 100.0, cannot_tell=seed == 3)

    sample = finders.sample(finders.Finder("a finder", "autolr", find), range(-1, 5))
    assert (len(sample.suggestions), sample.num_none) == (3, 3)


def test_the_check_finds_nothing_changed_by_autolr(capsys):
    assert finders.main(["--check"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| `")]
    ours = [finder.name for finder in finders.FINDERS if finder.package == "autolr" and finder.is_quick]
    assert [row[0].removeprefix("| ") for row in rows] == ours * 2
    assert all(row[1:] == ["0", "0 |"] for row in rows[len(ours) :])
